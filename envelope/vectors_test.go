package envelope

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	gocmp "github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write testdata/vectors.json")

const vectorsFile = "testdata/vectors.json"

// vectors is what testdata/vectors.json has. docs/envelope-format.md describes it.
type vectors struct {
	Format  string         `json:"format"`
	Opened  []vector       `json:"opened"`
	Refused []refusedInput `json:"refused"`
}

// vector is a message that opens, with all that is derived on the way.
type vector struct {
	Name       string            `json:"name"`
	DataKey    hexBytes          `json:"data_key"`
	KeyARN     string            `json:"key_arn"`
	WrappedKey hexBytes          `json:"wrapped_key"`
	Context    map[string]string `json:"context"`
	ChunkBits  byte              `json:"chunk_bits"`
	MessageID  hexBytes          `json:"message_id"`
	Hash       hexBytes          `json:"bound_hash"`
	PRK        hexBytes          `json:"prk"`
	MessageKey hexBytes          `json:"message_key"`
	Commitment hexBytes          `json:"commitment"`
	HeaderSize int               `json:"header_size"`
	Plaintext  hexBytes          `json:"plaintext"`
	Sealed     hexBytes          `json:"sealed"`
}

// refusedInput is a message that must not open with that data key and context.
type refusedInput struct {
	Name    string            `json:"name"`
	DataKey hexBytes          `json:"data_key"`
	Context map[string]string `json:"context"`
	Error   string            `json:"error"`
	Sealed  hexBytes          `json:"sealed"`
}

type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// fixedKMS has one data key.
type fixedKMS struct{ key, wrapped []byte }

func (f fixedKMS) GenerateDataKey(context.Context, *kms.GenerateDataKeyInput, ...func(*kms.Options)) (*kms.GenerateDataKeyOutput, error) {
	return &kms.GenerateDataKeyOutput{KeyId: aws.String(fakeKey), CiphertextBlob: f.wrapped, Plaintext: bytes.Clone(f.key)}, nil
}

func (f fixedKMS) Decrypt(_ context.Context, in *kms.DecryptInput, _ ...func(*kms.Options)) (*kms.DecryptOutput, error) {
	return &kms.DecryptOutput{KeyId: in.KeyId, Plaintext: bytes.Clone(f.key)}, nil
}

// fixed makes n bytes that look random from a name.
func fixed(n int, name string) (out []byte) {
	for i := byte(0); len(out) < n; i++ {
		sum := sha256.Sum256(append([]byte(name), i))
		out = append(out, sum[:]...)
	}
	return out[:n]
}

func makeVectors(t *testing.T) vectors {
	v := vectors{Format: "CMKENV 1"}
	sealer := func(name string, bits byte) *Sealer {
		s := newSealer(t, fixedKMS{fixed(32, "data key of "+name), fixed(184, "wrapped key of "+name)}, alias, Options{})
		s.chunkBits = bits
		s.random = func(b []byte) { copy(b, fixed(len(b), "message id of "+name)) }
		return s
	}
	add := func(name string, key []byte, sealed, plaintext []byte) {
		h, err := ReadHeader(bytes.NewReader(sealed))
		if err != nil {
			t.Fatal(err)
		}
		// As the document has it, and not by derive.
		hash := sha256.Sum256(slices.Concat([]byte("\x8bCMKENV\x01"), h.bound))
		prk, _ := hkdf.Extract(sha256.New, key, h.messageID())
		messageKey, _ := hkdf.Expand(sha256.New, prk, "CMKENV 1 body"+string(hash[:]), 32)
		v.Opened = append(v.Opened, vector{
			Name: name, DataKey: key, KeyARN: h.KeyARN, WrappedKey: h.WrappedKey, Context: h.Context,
			ChunkBits: h.bound[1], MessageID: h.messageID(), Hash: hash[:], PRK: prk, MessageKey: messageKey,
			Commitment: h.commitment[:], HeaderSize: h.Size, Plaintext: plaintext, Sealed: sealed,
		})
	}
	text := []byte("The quick brown fox jumps over the lazy dog. 0123456789!?")
	for _, m := range []struct {
		name      string
		bits      byte
		context   map[string]string
		plaintext []byte
	}{
		{"empty", 16, tenant("a"), []byte{}},
		{"one byte", 16, tenant("a"), []byte("x")},
		{"one chunk that is not full", 4, tenant("a"), text[:15]},
		{"one full chunk", 4, tenant("a"), text[:16]},
		{"a chunk and a byte", 4, tenant("a"), text[:17]},
		{"three full chunks", 4, tenant("a"), text[:48]},
		{"four chunks", 4, tenant("a"), text},
		{"chunks of 32 bytes", 5, tenantA, text},
		{"largest chunk size", 20, tenantA, text},
		// Sorted by bytes of UTF-8: neither by letters nor by code units of UTF-16.
		{"order of a context", 16, map[string]string{"b": "1", "B": "2", "ab": "3", "a": "4", "é": "5", "\ufffd": "6", "\U0001f511": "7", "a b": "8\n\"", "<&>": "é"}, text},
	} {
		s := sealer(m.name, m.bits)
		add(m.name, s.client.(fixedKMS).key, seal(t, s, m.plaintext, m.context), m.plaintext)
	}

	// The same message under another KMS key, of another partition.
	const first = "four chunks"
	s := sealer(first, 4)
	key, sealed := s.client.(fixedKMS).key, seal(t, s, text, tenant("a"))
	h, _ := ReadHeader(bytes.NewReader(sealed))
	rewrapped, err := h.Rewrapped("arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab", fixed(200, "another wrapped key"))
	if err != nil {
		t.Fatal(err)
	}
	add("four chunks, rewrapped", key, append(rewrapped, sealed[h.Size:]...), text)

	refuse := func(name, class string, sealed []byte) {
		v.Refused = append(v.Refused, refusedInput{name, key, tenant("a"), class, sealed})
	}
	header, body := sealed[:h.Size], sealed[h.Size:]
	chunk := func(i int) []byte { return body[i*32 : min(len(body), (i+1)*32)] }
	set := func(at int, b byte) []byte { c := slices.Clone(sealed); c[at] = b; return c }
	boundAt := h.Size - commitmentSize - len(h.bound)
	refuse("nothing", "not-envelope", nil)
	refuse("a part of the magic", "not-envelope", sealed[:6])
	refuse("another magic", "not-envelope", set(0, 'x'))
	refuse("version 0", "version", set(7, 0))
	refuse("version 2", "version", set(7, 2))
	refuse("algorithm 2", "version", set(boundAt, 2))
	refuse("chunks of 2^3 bytes", "tampered", set(boundAt+1, 3))
	refuse("chunks of 2^21 bytes", "tampered", set(boundAt+1, 21))
	refuse("another chunk size", "tampered", set(boundAt+1, 5))
	refuse("cut in the wrapped key", "tampered", sealed[:boundAt-1])
	refuse("cut before the commitment", "tampered", sealed[:h.Size-commitmentSize])
	refuse("no body", "tampered", header)
	refuse("another message id", "tampered", set(boundAt+2, sealed[boundAt+2]^1))
	refuse("another commitment", "tampered", set(h.Size-1, sealed[h.Size-1]^1))
	refuse("cut in the last chunk", "tampered", sealed[:len(sealed)-1])
	refuse("cut after a chunk", "tampered", slices.Concat(header, chunk(0), chunk(1), chunk(2)))
	refuse("cut in a tag", "tampered", slices.Concat(header, chunk(0), chunk(1)[:9]))
	refuse("a byte follows", "tampered", append(slices.Clone(sealed), 0))
	refuse("the last chunk twice", "tampered", append(slices.Clone(sealed), chunk(3)...))
	refuse("first and second chunk exchanged", "tampered", slices.Concat(header, chunk(1), chunk(0), chunk(2), chunk(3)))
	refuse("without the first chunk", "tampered", slices.Concat(header, chunk(1), chunk(2), chunk(3)))
	refuse("a chunk twice", "tampered", slices.Concat(header, chunk(0), chunk(0), chunk(1), chunk(2), chunk(3)))
	refuse("another bit in the data", "tampered", set(h.Size, sealed[h.Size]^0x80))
	refuse("the key is an alias", "tampered", append((&Header{KeyARN: alias, WrappedKey: h.WrappedKey, bound: h.bound, commitment: h.commitment}).bytes(), body...))
	// What follows needs the data key to be made: a decoder has to refuse it all the same.
	forge := func(encodedContext []byte, chunks func(m *message) []byte) []byte {
		forged := *h
		forged.bound = encodeBound(4, [32]byte(h.messageID()), encodedContext)
		aead, commitment, err := derive((*[32]byte)(key), forged.messageID(), forged.bound)
		if err != nil {
			t.Fatal(err)
		}
		copy(forged.commitment[:], commitment)
		return append(forged.bytes(), chunks(&message{aead: aead, chunkSize: 16})...)
	}
	whole := func(m *message) (out []byte) {
		for i := 0; i < len(text); i += 16 {
			out, _ = m.seal(out, text[i:min(len(text), i+16)], i+16 >= len(text))
		}
		return out
	}
	good := encodeContext(tenant("a"))
	if !bytes.Equal(forge(good, whole), sealed) {
		t.Fatal("what is forged from what is right is not the message")
	}
	pairs := func(n uint16, s ...string) []byte {
		out := binary.BigEndian.AppendUint16(nil, n)
		for _, part := range s {
			out = appendSized(out, part)
		}
		return out
	}
	refuse("an empty chunk at the end", "tampered", forge(good, func(m *message) []byte {
		out, _ := m.seal(nil, text[:16], false)
		out, _ = m.seal(out, nil, true)
		return out
	}))
	refuse("a last chunk that is not marked", "tampered", forge(good, func(m *message) []byte { out, _ := m.seal(nil, text[:5], false); return out }))
	refuse("a short chunk within", "tampered", forge(good, func(m *message) []byte {
		out, _ := m.seal(nil, text[:15], false)
		out, _ = m.seal(out, text[15:31], true)
		return out
	}))
	refuse("no context", "tampered", forge(pairs(0), whole))
	refuse("an attribute twice", "tampered", forge(pairs(2, "tenant", "a", "tenant", "a"), whole))
	refuse("attributes that are not sorted", "tampered", forge(pairs(2, "tenant", "a", "purpose", "x"), whole))
	refuse("an attribute without a name", "tampered", forge(pairs(1, "", "a"), whole))
	refuse("an attribute without a value", "tampered", forge(pairs(1, "tenant", ""), whole))
	refuse("fewer attributes than counted", "tampered", forge(pairs(2, "tenant", "a"), whole))
	refuse("more attributes than counted", "tampered", forge(pairs(1, "tenant", "a", "x", "y"), whole))
	refuse("a value that is not UTF-8", "tampered", forge(pairs(1, "tenant", "\xff"), whole))
	refuse("another context", "context", forge(pairs(1, "tenant", "b"), whole))
	refuse("the context with more", "context", forge(pairs(2, "more", "x", "tenant", "a"), whole))
	v.Refused = append(v.Refused, refusedInput{"another data key", fixed(32, "another data key"), tenant("a"), "tampered", sealed})
	return v
}

// The vectors are what the code makes, open as they say, and are refused as they say.
func TestVectors(t *testing.T) {
	made, err := json.MarshalIndent(makeVectors(t), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	made = append(made, '\n')
	if *update {
		if err := os.WriteFile(vectorsFile, made, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(strings.Split(string(file), "\n"), strings.Split(string(made), "\n")); diff != "" {
		t.Errorf("the format has changed, and what was sealed before does not open any more. Where that is meant: go test ./envelope -run Vectors -update\n%s", diff)
	}
	var v vectors
	if err := json.Unmarshal(file, &v); err != nil {
		t.Fatal(err)
	}
	for _, m := range v.Opened {
		s := newSealer(t, fixedKMS{key: m.DataKey}, alias, Options{})
		got, err := s.Open(t.Context(), m.Sealed, m.Context)
		if err != nil || !bytes.Equal(got, m.Plaintext) {
			t.Errorf("%s: %q, %v", m.Name, got, err)
		}
	}
	classes := map[string]error{"not-envelope": ErrNotEnvelope, "version": ErrVersion, "tampered": ErrTampered, "context": ErrContext}
	for _, m := range v.Refused {
		s := newSealer(t, fixedKMS{key: m.DataKey}, alias, Options{})
		if got, err := s.Open(t.Context(), m.Sealed, m.Context); !errors.Is(err, cmp.Or(classes[m.Error], fmt.Errorf("no class"))) || got != nil {
			t.Errorf("%s: %q, %v, want %s", m.Name, got, err, m.Error)
		}
	}
}
