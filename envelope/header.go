package envelope

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"sync"
	"unicode/utf8"
)

// The format, see docs/envelope-format.md. All numbers are big-endian.
const (
	magic   = "\x8bCMKENV"
	version = 1

	maxKeyARNSize     = 2048 // KeyId of KMS's API reference
	maxWrappedKeySize = 6144 // CiphertextBlob of KMS's API reference
	// KMS's API reference bounds neither the attributes of a context nor all of them, so
	// this bound is ours.
	maxContextSize = 8192
	// The number of attributes, and a name and a value of a byte each after their lengths.
	minContextSize = 2 + 2 + 1 + 2 + 1

	algorithmAES256GCM = 1
	messageIDSize      = 32
	commitmentSize     = 32
	// What is bound begins with these and the message's id.
	boundPrefix = 2
	contextAt   = boundPrefix + messageIDSize + 2

	// A chunk has at most 1 MiB, which bounds what a reader allocates. Small ones serve
	// tests.
	minChunkBits, maxChunkBits = 4, 20
	defaultChunkBits           = 16
)

// MaxHeaderSize is the most bytes that a header has. A search for headers need not read
// more.
const MaxHeaderSize = len(magic) + 1 + 2 + maxKeyARNSize + 2 + maxWrappedKeySize + contextAt + maxContextSize + commitmentSize

// Header is what stands before the data of a message, and is read without any key. Nothing
// of it is authenticated before the message is opened.
type Header struct {
	// KeyARN is the KMS key that the data key is wrapped under, WrappedKey the data key as
	// KMS returned it. Both are replaced when the message moves to another KMS key.
	KeyARN     string
	WrappedKey []byte
	// Context is the encryption context of the wrapped key, and the message's.
	Context map[string]string
	// ChunkSize is how many bytes of data are sealed at a time.
	ChunkSize int
	// Size is how many bytes the header has. The data begin there.
	Size int

	// bound is all between the wrapped key and the commitment, as it was read: a header
	// that is rewrapped has the same bytes.
	bound      []byte
	commitment [commitmentSize]byte
}

// ReadHeader reads the header that r begins with, and no byte more. The error is
// ErrNotEnvelope, ErrVersion, ErrTampered for a header that no version of this package
// makes, or r's. Each field is judged before the next is read, so that the first one that
// is wrong decides, whatever follows it. It allocates no more than the header can have.
func ReadHeader(r io.Reader) (*Header, error) {
	in := fields{src: r}
	if start := in.take(len(magic)); errors.Is(in.err, errCut) || in.err == nil && string(start) != magic {
		return nil, ErrNotEnvelope
	}
	if v := in.take(1)[0]; v != version {
		in.fail(ErrVersion, fmt.Errorf("version %d, known is %d", v, version))
	}
	h := &Header{}
	h.KeyARN = string(in.takeSized(1, maxKeyARNSize))
	in.fail(ErrTampered, checkKeyARN(h.KeyARN))
	h.WrappedKey = in.takeSized(1, maxWrappedKeySize)
	if a := in.take(1)[0]; a != algorithmAES256GCM {
		in.fail(ErrVersion, fmt.Errorf("algorithm %d, known is %d", a, algorithmAES256GCM))
	}
	bits := in.take(1)[0]
	if bits < minChunkBits || bits > maxChunkBits {
		in.fail(ErrTampered, fmt.Errorf("chunks of 2^%d bytes, allowed are 2^%d to 2^%d", bits, minChunkBits, maxChunkBits))
	}
	id := in.take(messageIDSize)
	encoded := in.takeSized(minContextSize, maxContextSize)
	decoded, err := decodeContext(encoded)
	in.fail(ErrTampered, err)
	copy(h.commitment[:], in.take(commitmentSize))
	if in.err != nil {
		return nil, in.err
	}
	h.Context, h.ChunkSize, h.Size = decoded, 1<<bits, in.size
	h.bound = encodeBound(bits, [messageIDSize]byte(id), encoded)
	return h, nil
}

// Rewrapped returns the header of the same message with its data key under another KMS
// key: wrappedKey is what KMS ReEncrypt returned for WrappedKey, with Context as source
// and destination context, and keyARN the ARN of the key that it was wrapped under. The
// data follow it as they followed the old header. Only the form of both is checked.
func (h *Header) Rewrapped(keyARN string, wrappedKey []byte) ([]byte, error) {
	if err := checkWrapping(keyARN, wrappedKey); err != nil {
		return nil, fmt.Errorf("rewrap a header: %w", err)
	}
	to := *h
	to.KeyARN, to.WrappedKey = keyARN, wrappedKey
	return to.bytes(), nil
}

// bytes puts the header together.
func (h *Header) bytes() []byte {
	out := append([]byte(magic), version)
	out = appendSized(out, h.KeyARN)
	out = appendSized(out, string(h.WrappedKey))
	out = append(out, h.bound...)
	return append(out, h.commitment[:]...)
}

func (h *Header) messageID() []byte      { return h.bound[boundPrefix : boundPrefix+messageIDSize] }
func (h *Header) encodedContext() []byte { return h.bound[contextAt:] }

// encodeBound returns the part of a header that the data are bound to.
func encodeBound(chunkBits byte, id [messageIDSize]byte, encodedContext []byte) []byte {
	return appendSized(append([]byte{algorithmAES256GCM, chunkBits}, id[:]...), string(encodedContext))
}

// appendSized appends a string after its length, which the caller has bounded.
func appendSized(out []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(out, uint16(len(s))), s...)
}

// checkWrapping checks the form of what a re-wrap replaces.
func checkWrapping(keyARN string, wrappedKey []byte) error {
	if err := checkKeyARN(keyARN); err != nil {
		return err
	}
	if len(wrappedKey) == 0 || len(wrappedKey) > maxWrappedKeySize {
		return fmt.Errorf("the wrapped key has %d bytes: 1 to %d are possible", len(wrappedKey), maxWrappedKeySize)
	}
	return nil
}

// keyARN is of the letters that AWS writes into a key's ARN. It is compiled at first use.
var keyARN = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^arn:[a-z0-9-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[a-z0-9-]+$`)
})

// checkKeyARN checks that s has the form of a KMS key's ARN.
func checkKeyARN(s string) error {
	if len(s) > maxKeyARNSize || !keyARN().MatchString(s) {
		return fmt.Errorf("%q is not the ARN of a KMS key", s[:min(len(s), 200)])
	}
	return nil
}

// encodeContext returns the one encoding that a context has: the number of attributes,
// then, sorted by the bytes of their names, each name and each value after its length. The
// caller has checked the sizes.
func encodeContext(c map[string]string) []byte {
	out := binary.BigEndian.AppendUint16(nil, uint16(len(c)))
	for _, name := range slices.Sorted(maps.Keys(c)) {
		out = appendSized(appendSized(out, name), c[name])
	}
	return out
}

// decodeContext returns the context that encodeContext encoded, and an error for any
// other encoding.
func decodeContext(encoded []byte) (map[string]string, error) {
	wrong := errors.New("its encryption context is not encoded as it should be")
	in := fields{src: bytes.NewReader(encoded)}
	count := binary.BigEndian.Uint16(in.take(2))
	c := map[string]string{}
	for before := ""; count > 0; count-- {
		name, value := string(in.takeSized(1, maxContextSize)), string(in.takeSized(1, maxContextSize))
		if in.err != nil || name <= before || !utf8.ValidString(name) || !utf8.ValidString(value) {
			return nil, wrong
		}
		c[name], before = value, name
	}
	if in.err != nil || in.size != len(encoded) || len(c) == 0 {
		return nil, wrong
	}
	return c, nil
}

// errCut is of a header that is not there to its end.
var errCut = fmt.Errorf("%w: its header is cut off", ErrTampered)

// fields reads one field after the other. After an error, which stays, they are zeros.
type fields struct {
	src  io.Reader
	size int
	err  error
}

func (f *fields) take(n int) []byte {
	b := make([]byte, n)
	if f.err != nil {
		return b
	}
	read, err := fill(f.src, b)
	f.size += read
	switch {
	case errors.Is(err, io.EOF):
		f.err = errCut
	case err != nil:
		f.err = fmt.Errorf("read the header: %w", err)
	}
	return b
}

// takeSized reads a field after its length, which may not be below least nor above most.
func (f *fields) takeSized(least, most int) []byte {
	n := int(binary.BigEndian.Uint16(f.take(2)))
	if n < least || n > most {
		f.fail(ErrTampered, fmt.Errorf("a field of its header has %d bytes: %d to %d are possible", n, least, most))
	}
	if f.err != nil {
		return nil
	}
	return f.take(n)
}

// fail notes what is wrong with the field that was read last, if anything. What was wrong
// before stays.
func (f *fields) fail(class, wrong error) {
	if f.err == nil && wrong != nil {
		f.err = fmt.Errorf("%w: %w", class, wrong)
	}
}
