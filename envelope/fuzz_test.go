package envelope

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// Whatever comes, nothing panics, a header that is read is written again as it was, Open
// and the reader agree, and what opens is what was sealed.
func FuzzOpen(f *testing.F) {
	s := newSealer(f, &fakeKMS{}, alias, Options{})
	s.chunkBits = 4
	var messages, plaintexts [][]byte
	for _, size := range []int{0, 1, 16, 40} {
		// The fuzzer's processes have to make the same messages.
		s.random = func(b []byte) { binary.BigEndian.PutUint64(b, uint64(size)) }
		plaintext := bytes.Repeat([]byte{'p'}, size)
		m := seal(f, s, plaintext, tenantA)
		messages, plaintexts = append(messages, m), append(plaintexts, plaintext)
		f.Add(m)
		f.Add(m[:len(m)/2])
	}
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		h, err := ReadHeader(bytes.NewReader(sealed))
		if err == nil && !bytes.Equal(h.bytes(), sealed[:h.Size]) {
			t.Errorf("the header is written as %x", h.bytes())
		}
		if err == nil && (h.Size > MaxHeaderSize || !bytes.Equal(encodeContext(h.Context), h.encodedContext())) {
			t.Errorf("%d bytes, context %q", h.Size, h.Context)
		}
		got, err := s.Open(t.Context(), sealed, tenantA)
		streamed, streamErr := read(t.Context(), s, bytes.NewReader(sealed), tenantA, 7)
		if (err == nil) != (streamErr == nil) || err == nil && !bytes.Equal(got, streamed) {
			t.Errorf("Open says %q, %v, the reader %q, %v", got, err, streamed, streamErr)
		}
		if err != nil {
			return
		}
		for i, m := range messages { // but for the key's ARN, which fakeKMS does not look at
			if bytes.HasSuffix(m, sealed[h.Size:]) && bytes.Equal(got, plaintexts[i]) {
				return
			}
		}
		t.Errorf("opened what was not sealed: %q", got)
	})
}

// What is sealed opens to the same, for its context alone, and a Writer makes the bytes
// that Seal makes, however they are cut.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("some data"), byte(4), uint16(3), "a", uint16(5), byte(1))
	f.Add([]byte{}, byte(16), uint16(0), "é\U0001f511", uint16(300), byte(0x80))
	f.Add(bytes.Repeat([]byte("0123456789abcdef"), 5), byte(4), uint16(16), "", uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, plaintext []byte, bits byte, piece uint16, name string, at uint16, flip byte) {
		s := newSealer(t, &fakeKMS{}, alias, Options{Cache: generous})
		s.chunkBits = minChunkBits + bits%(maxChunkBits-minChunkBits+1)
		s.random = func(b []byte) { binary.BigEndian.PutUint64(b, 1) }
		c := tenant(name)
		sealed, err := s.Seal(t.Context(), plaintext, c)
		if err != nil {
			if !errors.Is(err, ErrContext) || (Rules{}).Check(c) == nil {
				t.Error(err)
			}
			return
		}
		if written := write(t, s, plaintext, c, int(piece)); !bytes.Equal(written, sealed) {
			t.Errorf("written as\n%x\nsealed as\n%x", written, sealed)
		}
		got, err := s.Open(t.Context(), sealed, c)
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("opened as %q, %v", got, err)
		}
		if _, err := s.Open(t.Context(), sealed, tenant(name+"x")); !errors.Is(err, ErrContext) {
			t.Errorf("opened with another context: %v", err)
		}
		h, err := ReadHeader(bytes.NewReader(sealed))
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Clone(sealed)
		changed[int(at)%len(changed)] ^= flip
		// fakeKMS does not look at the key's ARN, which nothing else authenticates.
		i := int(at) % len(changed)
		if inARN := i >= 10 && i < 10+len(h.KeyARN); flip != 0 && !inARN {
			if _, err := s.Open(t.Context(), changed, c); err == nil {
				t.Errorf("byte %d was changed by %x, and it opens", i, flip)
			}
		}
	})
}
