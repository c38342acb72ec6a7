package envelope

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func TestReadHeader(t *testing.T) {
	good := Header{KeyARN: fakeKey, WrappedKey: []byte("wrapped"), bound: encodeBound(16, [32]byte{}, encodeContext(tenantA)), commitment: [32]byte{1}}
	for name, tt := range map[string]struct {
		change func(h *Header)
		want   error
	}{
		"as it should be":  {func(*Header) {}, nil},
		"a multi-Region":   {func(h *Header) { h.KeyARN = "arn:aws-cn:kms:cn-north-1:111122223333:key/mrk-0123" }, nil},
		"small chunks":     {func(h *Header) { h.bound[1] = 4 }, nil},
		"large chunks":     {func(h *Header) { h.bound[1] = 20 }, nil},
		"too small chunks": {func(h *Header) { h.bound[1] = 3 }, ErrTampered},
		"too large chunks": {func(h *Header) { h.bound[1] = 21 }, ErrTampered},
		"no ARN":           {func(h *Header) { h.KeyARN = "" }, ErrTampered},
		"a key id":         {func(h *Header) { h.KeyARN = "1234abcd-12ab-34cd-56ef-1234567890ab" }, ErrTampered},
		"an alias":         {func(h *Header) { h.KeyARN = alias }, ErrTampered},
		"capitals":         {func(h *Header) { h.KeyARN = strings.Replace(fakeKey, "abcd", "aBcd", 1) }, ErrTampered},
		"a line feed":      {func(h *Header) { h.KeyARN += "\nx" }, ErrTampered},
		"a longer path":    {func(h *Header) { h.KeyARN += "/x" }, ErrTampered},
		"no account":       {func(h *Header) { h.KeyARN = "arn:aws:kms:eu-west-1::key/1234" }, ErrTampered},
		"a long ARN":       {func(h *Header) { h.KeyARN += strings.Repeat("a", maxKeyARNSize) }, ErrTampered},
		"no wrapped key":   {func(h *Header) { h.WrappedKey = nil }, ErrTampered},
		"a long one":       {func(h *Header) { h.WrappedKey = make([]byte, maxWrappedKeySize+1) }, ErrTampered},
		"an algorithm":     {func(h *Header) { h.bound[0] = 0 }, ErrVersion},
		"no context":       {func(h *Header) { h.bound = encodeBound(16, [32]byte{}, nil) }, ErrTampered},
		"a long context":   {func(h *Header) { h.bound = encodeBound(16, [32]byte{}, make([]byte, maxContextSize+1)) }, ErrTampered},
	} {
		h := good
		h.bound = bytes.Clone(good.bound)
		tt.change(&h)
		encoded := h.bytes()
		got, err := ReadHeader(iotest.DataErrReader(bytes.NewReader(encoded)))
		if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		if err == nil && (!bytes.Equal(got.bytes(), encoded) || got.Size != len(encoded) || got.ChunkSize != 1<<h.bound[1] || got.KeyARN != h.KeyARN || cmp.Diff(tenantA, got.Context) != "") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestLargestHeader(t *testing.T) {
	long := strings.Repeat("x", maxContextSize-2-4-1)
	c := map[string]string{"k": long}
	if err := (Rules{}).Check(c); err != nil {
		t.Fatal(err)
	}
	h := Header{
		KeyARN:     "arn:aws:kms:eu-west-1:" + account + ":key/" + strings.Repeat("a", maxKeyARNSize-len("arn:aws:kms:eu-west-1:111122223333:key/")),
		WrappedKey: make([]byte, maxWrappedKeySize), bound: encodeBound(16, [32]byte{}, encodeContext(c)),
	}
	got, err := ReadHeader(bytes.NewReader(h.bytes()))
	if err != nil || got.Size != MaxHeaderSize || len(h.bytes()) != MaxHeaderSize || cmp.Diff(got.Context, c) != "" {
		t.Errorf("the largest header: %v, %d bytes, the bound is %d", err, len(h.bytes()), MaxHeaderSize)
	}
	c["l"] = "m"
	if err := (Rules{}).Check(c); !errors.Is(err, ErrContext) {
		t.Errorf("a context of more than %d bytes: %v", maxContextSize, err)
	}
	// A length above its bound ends the reading before anything is allocated for it.
	claimed := h.bytes()[:8+2+len(h.KeyARN)+2+len(h.WrappedKey)+boundPrefix+messageIDSize]
	for _, before := range [][]byte{claimed[:8], claimed[:8+2+len(h.KeyARN)], claimed} {
		in := bytes.NewReader(slices.Concat(before, []byte{0xff, 0xff}, make([]byte, 1<<16)))
		if _, err := ReadHeader(in); !errors.Is(err, ErrTampered) || in.Len() != 1<<16 {
			t.Errorf("a field of 65535 bytes after %d: %v, %d bytes of it were read", len(before), err, 1<<16-in.Len())
		}
	}
	for name, change := range map[string]func(*Header) error{
		"no ARN":                func(h *Header) error { _, err := h.Rewrapped("alias/app", []byte("w")); return err },
		"an alias":              func(h *Header) error { _, err := h.Rewrapped(alias, []byte("w")); return err },
		"no wrapped key":        func(h *Header) error { _, err := h.Rewrapped(h.KeyARN, nil); return err },
		"too large a one":       func(h *Header) error { _, err := h.Rewrapped(h.KeyARN, make([]byte, maxWrappedKeySize+1)); return err },
		"an ARN that is longer": func(h *Header) error { _, err := h.Rewrapped(h.KeyARN+"a", []byte("w")); return err },
	} {
		if err := change(got); err == nil {
			t.Errorf("%s: a header is made of it", name)
		}
	}
}
