package state

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowly lets each request take 20 ms, and counts them.
func (b *bucket) slowly() (reads, writes *atomic.Int32) {
	reads, writes = new(atomic.Int32), new(atomic.Int32)
	b.after = func(_ http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPut:
			writes.Add(1)
		case http.MethodGet:
			reads.Add(1)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return reads, writes
}

// TestTurns has 600 change one document at once. In one process each reads it once and
// writes it once. Of several processes some have writes refused, and none is left waiting
// until it gives up.
func TestTurns(t *testing.T) {
	const writers = 600
	for processes, most := range map[int]int32{1: writers, 2: 3 * writers / 2, 3: 3 * writers / 2} {
		t.Run(fmt.Sprint(processes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBucket(t)
				reads, writes := b.slowly()
				stores := make([]*Store, processes)
				for i := range stores {
					stores[i] = b.store()
				}
				began := time.Now()
				var wg sync.WaitGroup
				for i := range writers {
					wg.Go(func() {
						err := Update(t.Context(), stores[i%processes], "doc", func(c *counter, _ bool) error {
							c.N++
							return nil
						})
						if err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				t.Logf("%d reads and %d writes in %s", reads.Load(), writes.Load(), time.Since(began))
				if writes.Load() > most || reads.Load() > 2*most || processes == 1 && reads.Load() > writers {
					t.Errorf("%d reads and %d writes", reads.Load(), writes.Load())
				}
				b.after = nil
				holds(t, stores[0], counter{N: writers})
			})
		})
	}
}

// A draft that is outdated is renewed when it is locked; one that is not stays as it is.
func TestLockRenews(t *testing.T) {
	s := newBucket(t).store()
	is(t, "first write", Update(t.Context(), s, "doc", func(c *counter, _ bool) error { c.N = 1; return nil }), nil)
	old, other := draft(t, s), draft(t, s)
	is(t, "second write", other.Update(t.Context(), func(c *counter) { c.N = 2 }), nil)
	old.Doc().N = 7
	renewed, unlock, err := old.Lock(t.Context())
	is(t, "lock", err, nil)
	if !renewed || old.Doc().N != 2 {
		t.Errorf("renewed %t, N = %d", renewed, old.Doc().N)
	}
	old.Doc().N = 3
	is(t, "save", old.Save(t.Context()), nil)
	unlock()
	renewed, unlock, err = old.Lock(t.Context())
	is(t, "lock again", err, nil)
	if renewed {
		t.Error("a draft is outdated by its own write")
	}
	unlock()
	holds(t, s, counter{N: 3})
}

// Who waits for a lock stops when their context is done, and takes it from nobody.
func TestLockStopsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(t).store()
		_, unlock, err := draft(t, s).Lock(t.Context())
		is(t, "lock", err, nil)
		cause := errors.New("no more time")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, cause)
		defer cancel()
		err = draft(t, s).Update(ctx, func(c *counter) { c.N++ })
		is(t, "update what is locked", err, cause)
		unlock()
		is(t, "update", draft(t, s).Update(t.Context(), func(c *counter) { c.N = 5 }), nil)
		holds(t, s, counter{N: 5})
	})
}

// What is remembered of documents is bounded, and what is in use is never forgotten.
func TestTurnsAreBounded(t *testing.T) {
	var all turns
	held := all.enter("held")
	all.note("held", "etag", []byte("{}"))
	for i := range 10 * maxTurns {
		key := fmt.Sprint(i)
		one := all.enter(key)
		all.note(key, "etag", []byte("{}"))
		all.leave(one)
		if len(all.of) > maxTurns {
			t.Fatalf("%d documents are remembered", len(all.of))
		}
	}
	if all.stored("held") == 0 || all.stored("0") != 0 || all.enter("held") != held {
		t.Error("the document in use is forgotten, or the first of the others is not")
	}
}
