package envelope

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/go-cmp/cmp"
)

const fakeKey = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

// fakeKMS is one key of KMS with a latency and errors to order. Its data keys are the
// hashes of their numbers.
type fakeKMS struct {
	latency time.Duration

	mu    sync.Mutex
	err   error
	keys  map[string]fakeDataKey // by what they are wrapped as
	given [][]byte               // the plaintext data keys that were handed out
	calls int
}

type fakeDataKey struct {
	secret  []byte
	context map[string]string
}

func (f *fakeKMS) wait(ctx context.Context) error {
	f.mu.Lock()
	f.calls++
	err := f.err
	f.mu.Unlock()
	if f.latency > 0 {
		select {
		case <-time.After(f.latency):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (f *fakeKMS) GenerateDataKey(ctx context.Context, in *kms.GenerateDataKeyInput, _ ...func(*kms.Options)) (*kms.GenerateDataKeyOutput, error) {
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys == nil {
		f.keys = map[string]fakeDataKey{}
	}
	wrapped := fmt.Sprintf("wrapped %d", len(f.keys))
	secret := sha256.Sum256([]byte(wrapped))
	f.keys[wrapped] = fakeDataKey{secret[:], maps.Clone(in.EncryptionContext)}
	return &kms.GenerateDataKeyOutput{KeyId: aws.String(fakeKey), CiphertextBlob: []byte(wrapped), Plaintext: f.give(secret[:])}, nil
}

func (f *fakeKMS) Decrypt(ctx context.Context, in *kms.DecryptInput, _ ...func(*kms.Options)) (*kms.DecryptOutput, error) {
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	k, ok := f.keys[string(in.CiphertextBlob)]
	if !ok || !maps.Equal(k.context, in.EncryptionContext) {
		return nil, &types.InvalidCiphertextException{}
	}
	return &kms.DecryptOutput{KeyId: in.KeyId, Plaintext: f.give(k.secret)}, nil
}

func (f *fakeKMS) give(secret []byte) []byte {
	secret = slices.Clone(secret)
	f.given = append(f.given, secret)
	return secret
}

func (f *fakeKMS) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

var generous = Cache{MaxAge: time.Minute, MaxMessages: 1000, MaxBytes: 1 << 30, MaxEntries: 10}

func tenant(name string) map[string]string { return map[string]string{"tenant": name} }

// Each case makes messages one after the other, and says how many requests they took.
func TestCacheIsBounded(t *testing.T) {
	times := func(n int, messages ...string) (all []string) {
		for range n {
			all = append(all, messages...)
		}
		return all
	}
	bounded := func(change func(*Cache)) Cache { c := generous; change(&c); return c }
	for name, tt := range map[string]struct {
		cache    Cache
		pause    time.Duration
		size     int
		messages []string // the tenants
		want     Stats
	}{
		"none":              {Cache{}, 0, 10, times(5, "a"), Stats{GenerateDataKeys: 5}},
		"one context":       {generous, 0, 10, times(5, "a"), Stats{GenerateDataKeys: 1, Hits: 4, Entries: 1}},
		"two contexts":      {generous, 0, 10, times(5, "a", "b"), Stats{GenerateDataKeys: 2, Hits: 8, Entries: 2}},
		"messages":          {bounded(func(c *Cache) { c.MaxMessages = 2 }), 0, 10, times(5, "a"), Stats{GenerateDataKeys: 3, Hits: 2, Entries: 1}},
		"messages, used up": {bounded(func(c *Cache) { c.MaxMessages = 2 }), 0, 10, times(4, "a"), Stats{GenerateDataKeys: 2, Hits: 2}},
		"bytes":             {bounded(func(c *Cache) { c.MaxBytes = 25 }), 0, 10, times(5, "a"), Stats{GenerateDataKeys: 3, Hits: 2, Entries: 1}},
		"bytes of one":      {bounded(func(c *Cache) { c.MaxBytes = 5 }), 0, 10, times(5, "a"), Stats{GenerateDataKeys: 5}},
		"age":               {bounded(func(c *Cache) { c.MaxAge = 3 * time.Second }), 2 * time.Second, 10, times(6, "a"), Stats{GenerateDataKeys: 3, Hits: 3}},
		"age of one":        {bounded(func(c *Cache) { c.MaxAge = 1 }), 0, 10, times(3, "a"), Stats{GenerateDataKeys: 1, Hits: 2, Entries: 1}},
		"entries":           {bounded(func(c *Cache) { c.MaxEntries = 1 }), 0, 10, times(3, "a", "b"), Stats{GenerateDataKeys: 6, Entries: 1}},
		"entries, last use": {bounded(func(c *Cache) { c.MaxEntries = 2 }), 0, 10, times(2, "a", "b", "a", "c", "a"), Stats{GenerateDataKeys: 5, Hits: 5, Entries: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := &fakeKMS{}
				s := newSealer(t, fake, fakeKey, Options{Cache: tt.cache})
				var sealed [][]byte
				for _, m := range tt.messages {
					sealed = append(sealed, seal(t, s, make([]byte, tt.size), tenant(m)))
					time.Sleep(tt.pause)
				}
				if got := s.Stats(); got != tt.want || uint64(fake.calls) != got.GenerateDataKeys {
					t.Errorf("sealing: %+v, want %+v, %d calls", got, tt.want, fake.calls)
				}
				// Each was sealed for its own tenant alone, under whichever data key.
				for i, m := range tt.messages {
					if _, err := s.Open(t.Context(), sealed[i], tenant(m)); err != nil {
						t.Error(err)
					}
					h, _ := ReadHeader(bytes.NewReader(sealed[i]))
					if k := fake.keys[string(h.WrappedKey)]; k.context["tenant"] != m {
						t.Errorf("sealed for %s under the data key of %s", m, k.context["tenant"])
					}
				}
			})
		})
	}
}

func TestCacheOfOpening(t *testing.T) {
	fake := &fakeKMS{}
	s := newSealer(t, fake, fakeKey, Options{Cache: Cache{MaxAge: time.Minute, MaxMessages: 3, MaxBytes: 1 << 20, MaxEntries: 10}})
	sealed := seal(t, s, []byte("text"), tenantA)
	for range 6 {
		if _, err := s.Open(t.Context(), sealed, tenantA); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := s.Stats(), (Stats{GenerateDataKeys: 1, Decrypts: 2, Hits: 4, Entries: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	// What is in the cache opens for its own context alone, whatever a header says of it.
	if _, err := s.Open(t.Context(), sealed, tenantA); err != nil {
		t.Fatal(err)
	}
	h, _ := ReadHeader(bytes.NewReader(sealed))
	forged := append((&Header{
		KeyARN: h.KeyARN, WrappedKey: h.WrappedKey, commitment: h.commitment,
		bound: encodeBound(16, [32]byte(h.messageID()), encodeContext(tenant("b"))),
	}).bytes(), sealed[h.Size:]...)
	calls := fake.calls
	if _, err := s.Open(t.Context(), forged, tenant("b")); !errors.Is(err, ErrTampered) || fake.calls != calls+1 {
		t.Errorf("opened for another context: %v, %d calls", err, fake.calls-calls)
	}
	// And for its own KMS key, which fakeKMS does not look at.
	header, err := h.Rewrapped(h.KeyARN+"0", h.WrappedKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(t.Context(), append(header, sealed[h.Size:]...), tenantA); err != nil || fake.calls != calls+2 {
		t.Errorf("under another KMS key: %v, %d calls", err, fake.calls-calls)
	}
}

// A data key that is not in the cache any more takes nothing with it that is.
func TestStreamOverTheEndOfItsDataKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSealer(t, &fakeKMS{}, fakeKey, Options{Cache: Cache{MaxAge: time.Minute, MaxMessages: 100, MaxBytes: 100, MaxEntries: 10}})
		s.chunkBits = 4
		w, err := s.NewWriter(t.Context(), io.Discard, tenantA)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		seal(t, s, nil, tenantA)
		if _, err := w.Write(make([]byte, 200)); err != nil {
			t.Fatal(err)
		}
		seal(t, s, nil, tenantA)
		if want := (Stats{GenerateDataKeys: 2, Hits: 1, Entries: 1}); s.Stats() != want {
			t.Errorf("%+v, want %+v", s.Stats(), want)
		}
		// A timer that is late does not make a data key last.
		for _, e := range s.keys.entries {
			e.expiry.Stop()
		}
		time.Sleep(time.Minute)
		seal(t, s, nil, tenantA)
		if got := s.Stats(); got.GenerateDataKeys != 3 {
			t.Errorf("%+v", got)
		}
	})
}

func TestStreamsCountAgainstTheCache(t *testing.T) {
	fake := &fakeKMS{}
	s := newSealer(t, fake, fakeKey, Options{Cache: Cache{MaxAge: time.Minute, MaxMessages: 100, MaxBytes: 100, MaxEntries: 10}})
	s.chunkBits = 4
	var streams [][]byte
	for range 4 { // the second uses the first data key up
		streams = append(streams, write(t, s, make([]byte, 60), tenantA, 7))
	}
	if got := s.Stats(); got.GenerateDataKeys != 2 || got.Entries != 0 {
		t.Errorf("%+v", got)
	}
	for _, sealed := range streams {
		if _, err := read(t.Context(), s, bytes.NewReader(sealed), tenantA, 7); err != nil {
			t.Error(err)
		}
	}
	if got := s.Stats(); got.Decrypts != 2 || got.Entries != 0 {
		t.Errorf("%+v", got)
	}
}

// What KMS's client returned is wiped at once.
func TestAnswersAreWiped(t *testing.T) {
	fake := &fakeKMS{}
	s := newSealer(t, fake, fakeKey, Options{})
	if _, err := s.Open(t.Context(), seal(t, s, nil, tenantA), tenantA); err != nil {
		t.Fatal(err)
	}
	for _, secret := range fake.given {
		if !bytes.Equal(secret, make([]byte, dataKeySize)) {
			t.Errorf("a data key was left: %x", secret)
		}
	}
	if len(fake.given) != 2 {
		t.Errorf("%d data keys were given", len(fake.given))
	}
}

// Keys are wiped by every way out of the cache.
func TestKeysAreWiped(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, s *Sealer){
		"age":     func(*testing.T, *Sealer) { time.Sleep(generous.MaxAge + time.Second) },
		"close":   func(_ *testing.T, s *Sealer) { s.Close() },
		"entries": func(t *testing.T, s *Sealer) { seal(t, s, nil, tenant("b")) },
		"bytes":   func(t *testing.T, s *Sealer) { seal(t, s, make([]byte, 100), tenantA) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSealer(t, &fakeKMS{}, fakeKey, Options{Cache: Cache{MaxAge: generous.MaxAge, MaxMessages: 10, MaxBytes: 100, MaxEntries: 1}})
				seal(t, s, []byte("text"), tenantA)
				var secret *[dataKeySize]byte
				empty := func() bool {
					s.keys.mu.Lock()
					defer s.keys.mu.Unlock()
					for _, e := range s.keys.entries {
						if secret == nil {
							secret = e.key.secret
						}
					}
					return *secret == [dataKeySize]byte{}
				}
				if empty() {
					t.Fatal("the data key in use is empty")
				}
				end(t, s)
				synctest.Wait()
				if !empty() {
					t.Error("the data key was not wiped")
				}
			})
		})
	}
}

func TestOneRequestForManyWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &fakeKMS{latency: time.Second}
		s := newSealer(t, fake, fakeKey, Options{Cache: generous})
		var sealed [100][]byte
		var wg sync.WaitGroup
		for i := range sealed {
			wg.Go(func() { sealed[i] = seal(t, s, []byte{byte(i)}, tenant(string(rune('a'+i%2)))) })
		}
		wg.Wait()
		for i := range sealed {
			wg.Go(func() {
				if got, err := s.Open(t.Context(), sealed[i], tenant(string(rune('a'+i%2)))); err != nil || got[0] != byte(i) {
					t.Errorf("message %d: %v, %v", i, got, err)
				}
			})
		}
		wg.Wait()
		want := Stats{GenerateDataKeys: 2, Decrypts: 2, Shared: 196, Entries: 4}
		if diff := cmp.Diff(want, s.Stats()); diff != "" || fake.calls != 4 {
			t.Errorf("%d calls (-want +got):\n%s", fake.calls, diff)
		}
	})
}

// Who gives up does not take the others along, neither as the one who asks nor as one who
// waits; an error of KMS's is everybody's, and is not kept.
func TestWaitersAndErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &fakeKMS{latency: time.Second}
		s := newSealer(t, fake, fakeKey, Options{Cache: generous})
		var wg sync.WaitGroup
		sealIn := func(ctx context.Context, want error) {
			wg.Go(func() {
				if _, err := s.Seal(ctx, nil, tenantA); !errors.Is(err, want) {
					t.Errorf("%v, want %v", err, want)
				}
			})
			synctest.Wait()
		}
		first, giveUp := context.WithCancel(t.Context())
		third, giveUpToo := context.WithCancel(t.Context())
		sealIn(first, context.Canceled)
		sealIn(t.Context(), nil)
		sealIn(third, context.Canceled)
		sealIn(t.Context(), nil)
		time.Sleep(time.Second / 2)
		giveUpToo()
		giveUp()
		wg.Wait()
		if want := (Stats{GenerateDataKeys: 2, Shared: 1, Entries: 1}); s.Stats() != want {
			t.Errorf("%+v, want %+v", s.Stats(), want)
		}

		time.Sleep(generous.MaxAge)
		fake.fail(&types.DisabledException{})
		for range 10 {
			sealIn(t.Context(), ErrKeyUnusable)
		}
		wg.Wait()
		if fake.calls != 3 {
			t.Errorf("%d calls, want one more for all", fake.calls)
		}
		fake.fail(nil)
		sealIn(t.Context(), nil)
		wg.Wait()

		// One that was under way when the sealer was closed comes to its end, and keeps nothing.
		time.Sleep(generous.MaxAge)
		sealIn(t.Context(), nil)
		s.Close()
		wg.Wait()
		if got := s.Stats().Entries; got != 0 {
			t.Errorf("%d data keys in a closed sealer", got)
		}
	})
}

// For the race detector.
func TestConcurrentUse(t *testing.T) {
	fake := &fakeKMS{}
	s := newSealer(t, fake, fakeKey, Options{Cache: Cache{MaxAge: time.Millisecond, MaxMessages: 7, MaxBytes: 100, MaxEntries: 3}})
	s.chunkBits = 4
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				c, plaintext := tenant(string(rune('a'+(i+j)%5))), make([]byte, j%40)
				plaintext = append(plaintext, byte(i), byte(j))
				var sealed bytes.Buffer
				w, err := s.NewWriter(t.Context(), &sealed, c)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = w.Write(plaintext)
				got, openErr := []byte(nil), errors.Join(err, w.Close())
				if openErr == nil {
					got, openErr = s.Open(t.Context(), sealed.Bytes(), c)
				}
				if openErr != nil || !bytes.Equal(got, plaintext) {
					t.Errorf("%d, %d: %v", i, j, openErr)
				}
				_ = s.Stats()
			}
		})
	}
	wg.Wait()
	got := s.Stats()
	if total := got.Hits + got.Shared + got.GenerateDataKeys + got.Decrypts; total != 2*8*200 || got.Entries > 3 || uint64(fake.calls) != got.GenerateDataKeys+got.Decrypts {
		t.Errorf("%+v for %d messages, %d calls", got, 2*8*200, fake.calls)
	}
}

// A client that panics leaves nobody waiting.
func TestPanickingClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSealer(t, panicking{}, fakeKey, Options{Cache: generous})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				defer func() {
					if recover() == nil {
						t.Error("the panic is gone")
					}
				}()
				_, _ = s.NewWriter(t.Context(), io.Discard, tenantA)
			})
		}
		wg.Wait()
	})
}

type panicking struct{ KMS }

func (panicking) GenerateDataKey(context.Context, *kms.GenerateDataKeyInput, ...func(*kms.Options)) (*kms.GenerateDataKeyOutput, error) {
	time.Sleep(time.Second)
	panic("a bug")
}
