package envelope

import (
	"bytes"
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
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

// refusedInput is a message that must not open with what KMS answers and that context.
type refusedInput struct {
	Name    string            `json:"name"`
	DataKey hexBytes          `json:"data_key"`
	KMSKey  string            `json:"kms_key_id,omitempty"`
	KMSCode string            `json:"kms_error,omitempty"`
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

// fixedKMS has one data key. It may answer Decrypt with another KMS key than it was asked
// for, or with an error.
type fixedKMS struct {
	key, wrapped []byte
	keyID, code  string
	decrypts     int
}

func (f *fixedKMS) GenerateDataKey(context.Context, *kms.GenerateDataKeyInput, ...func(*kms.Options)) (*kms.GenerateDataKeyOutput, error) {
	return &kms.GenerateDataKeyOutput{KeyId: aws.String(fakeKey), CiphertextBlob: f.wrapped, Plaintext: bytes.Clone(f.key)}, nil
}

func (f *fixedKMS) Decrypt(_ context.Context, in *kms.DecryptInput, _ ...func(*kms.Options)) (*kms.DecryptOutput, error) {
	f.decrypts++
	if f.code != "" {
		return nil, &smithy.GenericAPIError{Code: f.code}
	}
	return &kms.DecryptOutput{KeyId: aws.String(cmp.Or(f.keyID, *in.KeyId)), Plaintext: bytes.Clone(f.key)}, nil
}

// fixed makes n bytes that look random from a name.
func fixed(n int, name string) (out []byte) {
	for i := byte(0); len(out) < n; i++ {
		sum := sha256.Sum256(append([]byte(name), i))
		out = append(out, sum[:]...)
	}
	return out[:n]
}

// parts is what a message is made of, whether its fields are right or not.
type parts struct {
	version, algorithm, bits byte
	keyARN                   string
	wrapped, id, context     []byte // the context is encoded
	dataKey                  []byte
	chunks                   []part
}

// part is a chunk, and whether it is sealed as the last one.
type part struct {
	data string
	last bool
}

// keys derives what docs/envelope-format.md derives, as it says and not by derive.
func (p parts) keys() (hash, prk, messageKey, commitment []byte) {
	sum := sha256.Sum256(slices.Concat([]byte(magic), []byte{p.version, p.algorithm, p.bits}, p.id, appendSized(nil, string(p.context))))
	prk, _ = hkdf.Extract(sha256.New, p.dataKey, p.id)
	messageKey, _ = hkdf.Expand(sha256.New, prk, "CMKENV 1 body"+string(sum[:]), 32)
	commitment, _ = hkdf.Expand(sha256.New, prk, "CMKENV 1 commitment"+string(sum[:]), 32)
	return sum[:], prk, messageKey, commitment
}

// with returns the message after a change, made with the data key: nothing but what was
// changed speaks against it.
func (p parts) with(change func(*parts)) []byte {
	change(&p)
	_, _, key, commitment := p.keys()
	out := append([]byte(magic), p.version)
	out = appendSized(appendSized(out, p.keyARN), string(p.wrapped))
	out = slices.Concat(out, []byte{p.algorithm, p.bits}, p.id, appendSized(nil, string(p.context)), commitment)
	block, _ := aes.NewCipher(key)
	aead, _ := cipher.NewGCM(block)
	for i, c := range p.chunks {
		nonce := binary.BigEndian.AppendUint64(make([]byte, 3, 12), uint64(i))
		if c.last {
			nonce = append(nonce, 1)
		} else {
			nonce = append(nonce, 0)
		}
		out = aead.Seal(out, nonce, []byte(c.data), nil)
	}
	return out
}

func makeVectors(t *testing.T) vectors {
	v := vectors{Format: "CMKENV 1"}
	sealer := func(name string, bits byte) (s *Sealer, key []byte) {
		key = fixed(32, "data key of "+name)
		s = newSealer(t, &fixedKMS{key: key, wrapped: fixed(8, "wrapped key of "+name)}, alias, Options{})
		s.chunkBits = bits
		s.random = func(b []byte) { copy(b, fixed(len(b), "message id of "+name)) }
		return s, key
	}
	add := func(name string, key, sealed, plaintext []byte) {
		h, err := ReadHeader(bytes.NewReader(sealed))
		if err != nil {
			t.Fatal(err)
		}
		hash, prk, messageKey, _ := parts{
			version: 1, algorithm: 1, bits: h.bound[1], id: h.messageID(), context: h.encodedContext(), dataKey: key,
		}.keys()
		v.Opened = append(v.Opened, vector{
			Name: name, DataKey: key, KeyARN: h.KeyARN, WrappedKey: h.WrappedKey, Context: h.Context,
			ChunkBits: h.bound[1], MessageID: h.messageID(), Hash: hash, PRK: prk, MessageKey: messageKey,
			Commitment: h.commitment[:], HeaderSize: h.Size, Plaintext: plaintext, Sealed: sealed,
		})
	}
	const text = "The quick brown fox jumps over the lazy dog. 0123456789!?"
	for _, m := range []struct {
		name      string
		bits      byte
		context   map[string]string
		plaintext string
	}{
		{"empty", 16, tenant("a"), ""},
		{"one byte", 16, tenant("a"), "x"},
		{"one chunk that is not full", 4, tenant("a"), text[:15]},
		{"one full chunk", 4, tenant("a"), text[:16]},
		{"a chunk and a byte", 4, tenant("a"), text[:17]},
		{"three full chunks", 4, tenant("a"), text[:48]},
		{"four chunks", 4, tenant("a"), text},
		{"chunks of 32 bytes", 5, tenantA, text},
		{"largest chunk size", 20, tenantA, text},
		// Sorted by bytes of UTF-8: neither by letters nor by code units of UTF-16.
		{"order of a context", 16, map[string]string{"b": "1", "B": "2", "ab": "3", "a": "4", "é": "5", "\ufffd": "6", "\U0001f511": "7", "a b": "8\n\"", "<&>": "é"}, text},
		{"any characters in a context", 16, map[string]string{"\x00": "\x00\x7f", "\ufeff": "\uffff\ud7ff\ue000\U0010ffff"}, "x"},
		{"smallest context", 16, map[string]string{"k": "v"}, "x"},
	} {
		s, key := sealer(m.name, m.bits)
		add(m.name, key, seal(t, s, []byte(m.plaintext), m.context), []byte(m.plaintext))
	}

	// The same message under another KMS key, of another partition. KMS's wrapped keys are
	// about that long.
	s, key := sealer("four chunks", 4)
	sealed := seal(t, s, []byte(text), tenant("a"))
	h, _ := ReadHeader(bytes.NewReader(sealed))
	rewrapped, err := h.Rewrapped("arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab", fixed(184, "another wrapped key"))
	if err != nil {
		t.Fatal(err)
	}
	add("four chunks, rewrapped", key, append(rewrapped, sealed[h.Size:]...), []byte(text))

	four := parts{
		version: 1, algorithm: 1, bits: 4, keyARN: h.KeyARN, wrapped: h.WrappedKey, id: h.messageID(), context: h.encodedContext(), dataKey: key,
		chunks: []part{{text[:16], false}, {text[16:32], false}, {text[32:48], false}, {text[48:], true}},
	}
	if !bytes.Equal(four.with(func(*parts) {}), sealed) {
		t.Fatal("what is made from the parts of a message is not the message")
	}
	short := four
	short.keyARN, short.chunks = "arn:aws:kms:eu-west-1:111122223333:key/1234", []part{{"x", true}}
	arnOf := func(size int) string { return fakeKey + strings.Repeat("a", size-len(fakeKey)) }
	contextOf := func(size int) map[string]string { return map[string]string{"k": strings.Repeat("v", size-7)} }
	add("a key ARN of 2048 bytes and a context of 8192", key, short.with(func(p *parts) {
		p.keyARN, p.context = arnOf(2048), encodeContext(contextOf(8192))
	}), []byte("x"))

	refuseAs := func(class, name string, in refusedInput) {
		in.Name, in.Error = name, class
		if in.DataKey == nil {
			in.DataKey = key
		}
		if in.Context == nil {
			in.Context = tenant("a")
		}
		v.Refused = append(v.Refused, in)
	}
	refuse := func(name, class string, sealed []byte) { refuseAs(class, name, refusedInput{Sealed: sealed}) }
	header, body := sealed[:h.Size], sealed[h.Size:]
	chunk := func(i int) []byte { return body[i*32 : min(len(body), (i+1)*32)] }
	one := short.with(func(*parts) {})
	bodyAt := len(one) - 1 - tagSize
	commitmentAt := bodyAt - commitmentSize
	boundAt := commitmentAt - len(h.bound)
	set := func(at int, b byte) []byte { c := slices.Clone(one); c[at] = b; return c }
	refuse("nothing", "not-envelope", nil)
	refuse("a part of the magic", "not-envelope", one[:6])
	refuse("another magic", "not-envelope", set(0, 'x'))
	refuse("the magic alone", "tampered", one[:7])
	refuse("magic and version alone", "tampered", one[:8])
	refuse("another chunk size", "tampered", set(boundAt+1, 5))
	refuse("cut in the wrapped key", "tampered", one[:boundAt-1])
	refuse("cut before the commitment", "tampered", one[:commitmentAt])
	refuse("cut in the commitment", "tampered", one[:bodyAt-1])
	refuse("no body", "tampered", one[:bodyAt])
	refuse("another message id", "tampered", set(boundAt+2, one[boundAt+2]^1))
	refuse("another commitment", "tampered", set(bodyAt-1, one[bodyAt-1]^1))
	refuse("cut in the last chunk", "tampered", one[:len(one)-1])
	refuse("cut after a chunk", "tampered", slices.Concat(header, chunk(0), chunk(1), chunk(2)))
	refuse("cut in a tag", "tampered", slices.Concat(header, chunk(0), chunk(1)[:9]))
	refuse("a byte follows", "tampered", append(slices.Clone(one), 0))
	refuse("the last chunk twice", "tampered", append(slices.Clone(sealed), chunk(3)...))
	refuse("first and second chunk exchanged", "tampered", slices.Concat(header, chunk(1), chunk(0), chunk(2), chunk(3)))
	refuse("without the first chunk", "tampered", slices.Concat(header, chunk(1), chunk(2), chunk(3)))
	refuse("a chunk twice", "tampered", slices.Concat(header, chunk(0), chunk(0), chunk(1), chunk(2), chunk(3)))
	refuse("another bit in the data", "tampered", set(bodyAt, one[bodyAt]^0x80))
	refuseAs("tampered", "another data key", refusedInput{Sealed: one, DataKey: fixed(32, "another data key")})

	// What follows needs the data key to be made, and a decoder has to refuse it all the same.
	for _, version := range []byte{0, 2} {
		refuse(fmt.Sprintf("version %d", version), "version", short.with(func(p *parts) { p.version = version }))
	}
	for _, algorithm := range []byte{0, 2} {
		refuse(fmt.Sprintf("algorithm %d", algorithm), "version", short.with(func(p *parts) { p.algorithm = algorithm }))
	}
	for _, bits := range []byte{3, 21} {
		refuse(fmt.Sprintf("chunks of 2^%d bytes", bits), "tampered", short.with(func(p *parts) { p.bits = bits }))
	}
	for _, m := range []struct{ name, arn string }{
		{"an empty key ARN", ""},
		{"the key is an alias", alias},
		{"the key is a key id", "1234abcd-12ab-34cd-56ef-1234567890ab"},
		{"the key is of another service", "arn:aws:s3:eu-west-1:111122223333:key/1234"},
		{"an ARN with another prefix", "urn:aws:kms:eu-west-1:111122223333:key/1234"},
		{"an ARN with something before it", " " + fakeKey},
		{"an ARN with a line feed after it", fakeKey + "\n"},
		{"an ARN without a partition", "arn::kms:eu-west-1:111122223333:key/1234"},
		{"an ARN with a slash in the partition", "arn:a/b:kms:eu-west-1:111122223333:key/1234"},
		{"an ARN without a Region", "arn:aws:kms::111122223333:key/1234"},
		{"an ARN with a slash in the Region", "arn:aws:kms:eu/west:111122223333:key/1234"},
		{"an ARN with a part more", "arn:aws:kms:eu:west:111122223333:key/1234"},
		{"an ARN without an account", "arn:aws:kms:eu-west-1::key/1234"},
		{"an account of eleven digits", "arn:aws:kms:eu-west-1:11112222333:key/1234"},
		{"an account of thirteen digits", "arn:aws:kms:eu-west-1:1111222233334:key/1234"},
		{"an account with a letter", "arn:aws:kms:eu-west-1:11112222333a:key/1234"},
		{"an account with a digit that is not ASCII", "arn:aws:kms:eu-west-1:11112222333٣:key/1234"},
		{"an ARN without an id", "arn:aws:kms:eu-west-1:111122223333:key/"},
		{"an id with a slash", "arn:aws:kms:eu-west-1:111122223333:key/1234/5"},
		{"an id with a colon", "arn:aws:kms:eu-west-1:111122223333:key/1234:5"},
		{"an id with a capital", "arn:aws:kms:eu-west-1:111122223333:key/1234A"},
		{"an id with an underscore", "arn:aws:kms:eu-west-1:111122223333:key/12_34"},
		{"a Region with a capital", "arn:aws:kms:EU-west-1:111122223333:key/1234"},
		{"a partition with a capital", "arn:AWS:kms:eu-west-1:111122223333:key/1234"},
		{"a key ARN of 2049 bytes", arnOf(2049)},
	} {
		refuse(m.name, "tampered", short.with(func(p *parts) { p.keyARN = m.arn }))
	}
	refuse("no wrapped key", "tampered", short.with(func(p *parts) { p.wrapped = nil }))
	refuse("a wrapped key of 6145 bytes", "tampered", short.with(func(p *parts) { p.wrapped = fixed(6145, "largest wrapped key") }))
	// Which is allowed, so that the context tells. It would take twice the place if it opened.
	refuse("a wrapped key of 6144 bytes and another context", "context", short.with(func(p *parts) {
		p.wrapped, p.context = fixed(6144, "largest wrapped key"), encodeContext(tenant("b"))
	}))

	refuse("an empty chunk at the end", "tampered", four.with(func(p *parts) { p.chunks = []part{{text[:16], false}, {"", true}} }))
	refuse("a last chunk that is not marked", "tampered", four.with(func(p *parts) { p.chunks = []part{{text[:5], false}} }))
	refuse("a short chunk within", "tampered", four.with(func(p *parts) { p.chunks = []part{{text[:15], false}, {text[15:31], true}} }))
	for _, size := range []int{31, 33} {
		k := fixed(size, "data key of another size")
		refuseAs("tampered", fmt.Sprintf("a data key of %d bytes", size), refusedInput{Sealed: short.with(func(p *parts) { p.dataKey = k }), DataKey: k})
	}

	pairs := func(n uint16, s ...string) []byte {
		out := binary.BigEndian.AppendUint16(nil, n)
		for _, part := range s {
			out = appendSized(out, part)
		}
		return out
	}
	// What the caller expects is what a reader without the rule would make of the header's.
	for _, m := range []struct {
		name     string
		encoded  []byte
		expected map[string]string
	}{
		{"an empty context field", nil, map[string]string{}},
		{"a context of no attributes", pairs(0), map[string]string{}},
		{"an attribute twice", pairs(2, "tenant", "a", "tenant", "a"), nil},
		{"attributes that are not sorted", pairs(2, "tenant", "a", "purpose", "x"), map[string]string{"tenant": "a", "purpose": "x"}},
		{"attributes sorted without case", pairs(2, "a", "x", "B", "y"), map[string]string{"a": "x", "B": "y"}},
		{"attributes sorted by UTF-16", pairs(2, "\U0001f511", "x", "\ufffd", "y"), map[string]string{"\U0001f511": "x", "\ufffd": "y"}},
		{"an attribute without a name", pairs(1, "", "a"), map[string]string{"": "a"}},
		{"an attribute without a value", pairs(1, "tenant", ""), map[string]string{"tenant": ""}},
		{"fewer attributes than counted", pairs(2, "tenant", "a"), nil},
		{"more attributes than counted", pairs(1, "tenant", "a", "x", "y"), nil},
		{"a byte after the attributes", append(pairs(1, "tenant", "a"), 0), nil},
		{"a value that ends after the context", append(pairs(1, "tenant"), 0, 2, 'a'), nil},
		{"a value that is not UTF-8", pairs(1, "tenant", "\xff"), tenant("\ufffd")},
		{"a name that is not UTF-8", pairs(1, "\xff", "a"), map[string]string{"\ufffd": "a"}},
		{"a value with half a surrogate pair", pairs(1, "tenant", "\xed\xa0\x80"), tenant("\ufffd\ufffd\ufffd")},
		{"a value with a surrogate pair", pairs(1, "tenant", "\xed\xa0\xbd\xed\xb4\x91"), tenant("\U0001f511")},
		{"a value in an overlong form", pairs(1, "tenant", "\xc1\xa1"), tenant("a")},
		{"a value above U+10FFFF", pairs(1, "tenant", "\xf4\x90\x80\x80"), tenant("\ufffd\ufffd\ufffd\ufffd")},
		{"a context of 8193 bytes", encodeContext(contextOf(8193)), contextOf(8193)},
	} {
		refuseAs("tampered", m.name, refusedInput{Sealed: short.with(func(p *parts) { p.context = m.encoded }), Context: m.expected})
	}
	for _, m := range []struct {
		name             string
		header, expected map[string]string
	}{
		{"another value", tenant("b"), tenant("a")},
		{"another name", map[string]string{"tenant": "a"}, map[string]string{"Tenant": "a"}},
		{"more attributes than expected", map[string]string{"tenant": "a", "more": "x"}, tenant("a")},
		{"fewer attributes than expected", tenant("a"), map[string]string{"tenant": "a", "more": "x"}},
		{"no context is expected", tenant("a"), map[string]string{}},
		{"a value that is the same only when normalized", tenant("e\u0301"), tenant("é")},
		{"a value with a space more", tenant("a "), tenant("a")},
	} {
		refuseAs("context", m.name, refusedInput{Sealed: short.with(func(p *parts) { p.context = encodeContext(m.header) }), Context: m.expected})
	}

	const strangers, another = "arn:aws:kms:eu-west-1:444455556666:key/1234", "arn:aws:kms:eu-west-1:111122223333:key/5678"
	refuse("a KMS key of another account", "key", short.with(func(p *parts) { p.keyARN = strangers }))
	refuseAs("key", "KMS says another KMS key", refusedInput{Sealed: one, KMSCode: "IncorrectKeyException"})
	refuseAs("key", "KMS decrypts under another KMS key", refusedInput{Sealed: one, KMSKey: another})
	refuseAs("tampered", "KMS refuses the wrapped key", refusedInput{Sealed: one, KMSCode: "InvalidCiphertextException"})

	// Two things are wrong: which one is told is defined.
	refuse("version 2 and nothing after it", "version", []byte(magic+"\x02"))
	refuse("algorithm 2 and nothing after it", "version", set(boundAt, 2)[:boundAt+1])
	refuse("an alias and algorithm 2", "tampered", short.with(func(p *parts) { p.keyARN, p.algorithm = alias, 2 }))
	headerOfB := short.with(func(p *parts) { p.context, p.chunks = encodeContext(tenant("b")), nil })
	refuse("another context and no whole commitment", "tampered", headerOfB[:len(headerOfB)-1])
	refuse("another context and a KMS key of another account", "context", short.with(func(p *parts) { p.keyARN, p.context = strangers, encodeContext(tenant("b")) }))
	refuse("a KMS key of another account and no body", "key", short.with(func(p *parts) { p.keyARN, p.chunks = strangers, nil }))
	refuseAs("key", "another KMS key and a data key of 31 bytes", refusedInput{Sealed: one, DataKey: fixed(31, "short"), KMSKey: another})
	return v
}

// The vectors are what the code makes, open as they say, and are refused as they say.
func TestVectors(t *testing.T) {
	made, err := json.MarshalIndent(makeVectors(t), "", "")
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
		s := newSealer(t, &fixedKMS{key: m.DataKey}, alias, Options{})
		got, err := s.Open(t.Context(), m.Sealed, m.Context)
		if err != nil || !bytes.Equal(got, m.Plaintext) {
			t.Errorf("%s: %q, %v", m.Name, got, err)
		}
	}
	classes := map[string]error{"not-envelope": ErrNotEnvelope, "version": ErrVersion, "tampered": ErrTampered, "context": ErrContext, "key": ErrKey}
	for _, m := range v.Refused {
		fixed := &fixedKMS{key: m.DataKey, keyID: m.KMSKey, code: m.KMSCode}
		s := newSealer(t, fixed, alias, Options{})
		if got, err := s.Open(t.Context(), m.Sealed, m.Context); !errors.Is(err, cmp.Or(classes[m.Error], fmt.Errorf("no class"))) || got != nil {
			t.Errorf("%s: %q, %v, want %s", m.Name, got, err, m.Error)
		}
		if needed := m.KMSKey != "" || m.KMSCode != ""; m.Error != "tampered" && fixed.decrypts > 0 && !needed {
			t.Errorf("%s: KMS was asked before the message was refused as %s", m.Name, m.Error)
		}
	}
}

// A decoder that was written from docs/envelope-format.md alone agrees about each vector. It
// reads a copy of them in which one was changed, too, so that it is known to look.
func TestVectorsInPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 on this machine; .ci/run needs it")
	}
	play := func(file string) (string, error) {
		out, err := exec.CommandContext(t.Context(), python, "-I", "testdata/decoder.py", file).CombinedOutput()
		return string(out), err
	}
	v := makeVectors(t)
	if out, err := play(vectorsFile); err != nil || !strings.HasPrefix(out, fmt.Sprintf("%d opened, %d refused,", len(v.Opened), len(v.Refused))) {
		t.Errorf("%v\n%s", err, out)
	}
	v.Opened[0].Sealed[len(v.Opened[0].Sealed)-1] ^= 1
	v.Refused[0].Sealed = v.Opened[1].Sealed
	changed, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "vectors.json")
	if err := os.WriteFile(file, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := play(file); err == nil || strings.Count(out, "\n") != 2 {
		t.Errorf("of two wrong vectors it says %v\n%s", err, out)
	}
}
