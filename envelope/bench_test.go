package envelope

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"
)

// zeros is as much data as asked, at no cost.
type zeros struct{ left int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), z.left))
	z.left -= int64(n)
	return n, nil
}

// A stream takes the memory of a chunk or two, however long it is.
func TestMemoryIsFlat(t *testing.T) {
	s := newSealer(t, &fakeKMS{}, alias, Options{Cache: generous})
	stream := func(size int64) (allocated uint64) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		in, out := io.Pipe()
		go func() {
			w, err := s.NewWriter(context.Background(), out, tenantA)
			if err == nil {
				if _, err = io.Copy(w, &zeros{size}); err == nil {
					err = w.Close()
				}
			}
			out.CloseWithError(err)
		}()
		r, err := s.NewReader(t.Context(), in, tenantA)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); n != size || err != nil {
			t.Fatalf("%d of %d bytes, %v", n, size, err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	stream(1)
	if short, long := stream(1<<20), stream(128<<20); long > short+1<<19 {
		t.Errorf("1 MiB allocates %d bytes, 128 MiB %d", short, long)
	}
}

// Throughput beside a plain loop of AES-GCM over the same data, in chunks of the same size,
// with one buffer and a counter as nonce. The two take turns, so that both meet the same
// machine; "ratio" is the plain loop's time through ours. GOMAXPROCS=1 is one core.
func BenchmarkThroughput(b *testing.B) {
	const size, chunk = 16 << 20, 1 << defaultChunkBits
	s := newSealer(b, &fakeKMS{}, alias, Options{Cache: Cache{MaxAge: time.Hour, MaxMessages: 1 << 40, MaxBytes: 1 << 60, MaxEntries: 10}})
	data := make([]byte, size)
	sealed := seal(b, s, data, tenantA)
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		b.Fatal(err)
	}
	nonce, buffer, plainSealed := make([]byte, 12), make([]byte, 0, chunk+tagSize), make([]byte, 0, len(sealed))
	each := func(f func(i int)) {
		for i := range size / chunk {
			binary.BigEndian.PutUint64(nonce[4:], uint64(i))
			f(i)
		}
	}
	each(func(i int) { plainSealed = aead.Seal(plainSealed, nonce, data[i*chunk:(i+1)*chunk], nil) })
	plainSeal := func() error {
		each(func(i int) { aead.Seal(buffer, nonce, data[i*chunk:(i+1)*chunk], nil) })
		return nil
	}
	plainOpen := func() (err error) {
		each(func(i int) {
			if _, openErr := aead.Open(buffer, nonce, plainSealed[i*(chunk+tagSize):(i+1)*(chunk+tagSize)], nil); openErr != nil {
				err = openErr
			}
		})
		return err
	}
	// A value comes as one new slice, from the plain loop as well.
	plainSealValue := func() error {
		out := make([]byte, 0, len(sealed))
		each(func(i int) { out = aead.Seal(out, nonce, data[i*chunk:(i+1)*chunk], nil) })
		return nil
	}
	plainOpenValue := func() (err error) {
		out := make([]byte, 0, len(sealed))
		each(func(i int) {
			opened, openErr := aead.Open(out, nonce, plainSealed[i*(chunk+tagSize):(i+1)*(chunk+tagSize)], nil)
			out, err = opened, errors.Join(err, openErr)
		})
		return err
	}
	written := func(f func(io.Writer) error) error {
		w, err := s.NewWriter(b.Context(), io.Discard, tenantA)
		if err == nil {
			err = f(w)
		}
		return errors.Join(err, w.Close())
	}
	for _, bench := range []struct {
		name        string
		plain, ours func() error
	}{
		{"Writer", plainSeal, func() error { return written(func(w io.Writer) error { _, err := w.Write(data); return err }) }},
		{"Writer,io.Copy", plainSeal, func() error {
			return written(func(w io.Writer) error { _, err := io.Copy(w, struct{ io.Reader }{bytes.NewReader(data)}); return err })
		}},
		{"Writer,4KiB", plainSeal, func() error {
			return written(func(w io.Writer) (err error) {
				for rest := data; len(rest) > 0 && err == nil; rest = rest[4<<10:] {
					_, err = w.Write(rest[:4<<10])
				}
				return err
			})
		}},
		{"Seal", plainSealValue, func() error { _, err := s.Seal(b.Context(), data, tenantA); return err }},
		{"Reader,io.Copy", plainOpen, func() error {
			r, err := s.NewReader(b.Context(), bytes.NewReader(sealed), tenantA)
			if err == nil {
				_, err = io.Copy(io.Discard, r)
			}
			return err
		}},
		{"Open", plainOpenValue, func() error { _, err := s.Open(b.Context(), sealed, tenantA); return err }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.SetBytes(2 * size)
			var plain, ours time.Duration
			for b.Loop() {
				start := time.Now()
				if err := bench.plain(); err != nil {
					b.Fatal(err)
				}
				between := time.Now()
				if err := bench.ours(); err != nil {
					b.Fatal(err)
				}
				plain, ours = plain+between.Sub(start), ours+time.Since(between)
			}
			b.ReportMetric(plain.Seconds()/ours.Seconds(), "ratio")
		})
	}
}

// What a message of 1 KiB costs with the cache, sealed and opened, and how many requests a
// million of them.
func BenchmarkCache(b *testing.B) {
	for _, contexts := range []int{1, 100} {
		b.Run(fmt.Sprintf("contexts=%d", contexts), func(b *testing.B) {
			s := newSealer(b, &fakeKMS{}, alias, Options{Cache: Cache{MaxAge: 5 * time.Minute, MaxMessages: 10_000, MaxBytes: 1 << 30, MaxEntries: 1000}})
			data, n := make([]byte, 1<<10), 0
			for b.Loop() {
				c := tenant(fmt.Sprint(n % contexts))
				if _, err := s.Open(b.Context(), seal(b, s, data, c), c); err != nil {
					b.Fatal(err)
				}
				n++
			}
			million := float64(n) / 1e6
			b.ReportMetric(float64(s.Stats().GenerateDataKeys)/million, "GenerateDataKey/million")
			b.ReportMetric(float64(s.Stats().Decrypts)/million, "Decrypt/million")
		})
	}
}
