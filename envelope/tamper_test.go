package envelope

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// refused checks that a message does not open, neither as a value nor as a stream, and
// that the stream gave nothing that is not the beginning of what was sealed.
func refused(t *testing.T, s *Sealer, what string, at int, changed, plaintext []byte) (err error) {
	t.Helper()
	got, err := s.Open(t.Context(), changed, tenantA)
	if err == nil || got != nil {
		t.Errorf("%s %d: opened as %q, %v", what, at, got, err)
	}
	got, streamed := read(t.Context(), s, bytes.NewReader(changed), tenantA, 0)
	if streamed == nil || !bytes.HasPrefix(plaintext, got) {
		t.Errorf("%s %d: read as %q, %v", what, at, got, streamed)
	}
	return err
}

// Every change of a message is found that the format's document promises to be found: each
// bit, each cut, each extension, each exchange of chunks or fields.
func TestEveryChangeIsAnError(t *testing.T) {
	c := newCloud(t)
	s := newSealer(t, c, alias, Options{})
	s.chunkBits = 4
	const chunk = 16 + tagSize
	// Both of three chunks, of which the last one of the first is full.
	plaintext, other := bytes.Repeat([]byte("0123456789abcdef"), 3), []byte("other data, which take three chunks too")
	sealed, second := seal(t, s, plaintext, tenantA), seal(t, s, other, tenantA)
	h, err := ReadHeader(bytes.NewReader(sealed))
	if err != nil {
		t.Fatal(err)
	}
	h2, err := ReadHeader(bytes.NewReader(second))
	if err != nil || h2.Size != h.Size {
		t.Fatal(err, h2.Size, h.Size)
	}

	wrapping := 8 + 2 + len(h.KeyARN) + 2 + len(h.WrappedKey) // where the part that is bound begins
	for i := range sealed {
		for bit := range 8 {
			changed := slices.Clone(sealed)
			changed[i] ^= 1 << bit
			err := refused(t, s, "bit of byte", i, changed, plaintext)
			switch {
			case i < len(magic) && !errors.Is(err, ErrNotEnvelope),
				i == len(magic) && !errors.Is(err, ErrVersion),
				// A changed context is the wrong one already.
				i >= wrapping && !errors.Is(err, ErrTampered) && !errors.Is(err, ErrContext) && !errors.Is(err, ErrVersion),
				i >= h.Size && !errors.Is(err, ErrTampered):
				t.Errorf("bit %d of byte %d: %v", bit, i, err)
			}
		}
	}
	for cut := range sealed {
		if err := refused(t, s, "cut at", cut, sealed[:cut], plaintext); cut < len(magic) != errors.Is(err, ErrNotEnvelope) || cut >= len(magic) && !errors.Is(err, ErrTampered) {
			t.Errorf("cut at %d: %v", cut, err)
		}
		removed := slices.Delete(slices.Clone(sealed), cut, cut+1)
		doubled := slices.Insert(slices.Clone(sealed), cut, sealed[cut])
		refused(t, s, "without byte", cut, removed, plaintext)
		refused(t, s, "twice byte", cut, doubled, plaintext)
	}

	header, body := sealed[:h.Size], sealed[h.Size:]
	chunks := [][]byte{body[:chunk], body[chunk : 2*chunk], body[2*chunk:]}
	foreign := [][]byte{second[h.Size : h.Size+chunk], second[h.Size+chunk : h.Size+2*chunk], second[h.Size+2*chunk:]}
	all := append(slices.Clone(chunks), foreign...)
	tried := 0
	var try func(order []int)
	try = func(order []int) { // every sequence of up to four chunks of either message
		if !slices.Equal(order, []int{0, 1, 2}) {
			changed := slices.Clone(header)
			for _, i := range order {
				changed = append(changed, all[i]...)
			}
			if err := refused(t, s, "order", tried, changed, plaintext); !errors.Is(err, ErrTampered) {
				t.Errorf("chunks %v: %v", order, err)
			}
			tried++
		}
		if len(order) < 4 {
			for i := range all {
				try(append(slices.Clone(order), i))
			}
		}
	}
	try(nil)
	if tried != 1+6+36+216+1296-1 {
		t.Errorf("%d orders", tried)
	}

	// Every mixture of the fields of two headers, but those that a re-wrap may replace only
	// together; the data of the first or of the second message.
	for mixture := range 1 << 5 {
		pick := func(bit int) *Header {
			if mixture>>bit&1 == 1 {
				return h2
			}
			return h
		}
		mixed := &Header{KeyARN: pick(0).KeyARN, WrappedKey: pick(0).WrappedKey, commitment: pick(3).commitment}
		mixed.bound = slices.Concat(pick(1).bound[:boundPrefix], pick(2).messageID(), pick(1).bound[boundPrefix+messageIDSize:])
		data := body
		if mixture>>4 == 1 {
			data = second[h.Size:]
		}
		changed := append(mixed.bytes(), data...)
		if bytes.Equal(changed, sealed) || bytes.Equal(changed, second) {
			continue
		}
		if err := refused(t, s, "mixture", mixture, changed, nil); !errors.Is(err, ErrTampered) {
			t.Errorf("mixture %05b: %v", mixture, err)
		}
	}

	// The chunk size and the context are bound even where the body would not tell.
	short := seal(t, s, []byte("short"), tenantA)
	for bits := byte(minChunkBits + 1); bits <= maxChunkBits; bits++ {
		changed := slices.Clone(short)
		changed[wrapping+1] = bits
		if err := refused(t, s, "chunk bits", int(bits), changed, nil); !errors.Is(err, ErrTampered) {
			t.Errorf("chunks of 2^%d: %v", bits, err)
		}
	}
	// An end without data, which no writer makes, even by one who has the key.
	m, _, err := s.begin(t.Context(), tenantA, 0)
	if err != nil {
		t.Fatal(err)
	}
	full, _ := m.seal(nil, plaintext[:16], false)
	end, _ := m.seal(nil, nil, true)
	m.next = 0
	if _, err := m.open(nil, full, false); err != nil {
		t.Error(err)
	}
	if _, err := m.open(nil, end, true); !errors.Is(err, ErrTampered) {
		t.Errorf("an empty chunk at the end: %v", err)
	}
}

// The commitment is what finds a header whose data key is another one, before any data are
// opened.
func TestCommitment(t *testing.T) {
	c := newCloud(t)
	s := newSealer(t, c, alias, Options{})
	sealed, other := seal(t, s, []byte("text"), tenantA), seal(t, s, []byte("other"), tenantA)
	h, _ := ReadHeader(bytes.NewReader(sealed))
	h2, _ := ReadHeader(bytes.NewReader(other))
	swapped, err := h.Rewrapped(h2.KeyARN, h2.WrappedKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, tail := range [][]byte{sealed[h.Size:], {}} {
		if _, err := s.NewReader(t.Context(), bytes.NewReader(append(slices.Clone(swapped), tail...)), tenantA); !errors.Is(err, ErrTampered) {
			t.Errorf("%v", err)
		}
	}
}
