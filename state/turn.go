package state

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// courtesy is up to how long those who take turns pause between two writes: about as long
// as a read and a write take. Without it the writers of one process would be one after
// another so quickly that another process never finds the document as it has just read it.
const courtesy = 40 * time.Millisecond

// contended is how many turns in a process stay slow after it saw another process's write.
const contended = 16

// maxTurns bounds of how many documents a Store remembers what it stored last, unless more
// are being changed at once.
const maxTurns = 64

// turns has those in this process who want to change one document do it one after another,
// each from what the one before has stored. Left to their conditions, all but one of them
// would have their writes refused, read the document again and refuse each other anew.
// Between processes only the conditions decide.
type turns struct {
	mu   sync.Mutex
	of   map[string]*turn
	last int // writes that were noted, of all documents
}

// turn is that of one document.
type turn struct {
	token chan struct{} // who takes it out may write
	users int           // those that have it or wait for it
	// slow is how many of the next turns pause for longer and read before they write, as
	// another process has to: a process that writes from memory would always win.
	slow atomic.Int32
	// stored numbers the last write that was noted; etag and body are what it stored.
	stored int
	etag   string
	body   []byte
}

// enter returns the document's turn, to be left again.
func (t *turns) enter(key string) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.of[key]
	if one == nil {
		if t.of == nil {
			t.of = map[string]*turn{}
		}
		t.evict()
		one = &turn{token: make(chan struct{}, 1)}
		one.token <- struct{}{}
		t.of[key] = one
	}
	one.users++
	return one
}

// take takes the token, and reports false when ctx is done before. A turn that is contended
// needs a read first.
func (t *turn) take(ctx context.Context) (taken, contended bool) {
	select {
	case <-t.token:
		return true, false
	default:
	}
	select {
	case <-t.token:
	case <-ctx.Done():
		return false, false
	}
	d := rand.N(courtesy)
	if n := t.slow.Load(); n > 0 {
		t.slow.Store(n - 1)
		d, contended = d+2*courtesy, true
	}
	_ = pause(ctx, d) // the holder of the token sees for itself that ctx is done
	return true, contended
}

// evict forgets the document that nobody uses and that was written longest ago, where
// there are too many.
func (t *turns) evict() {
	if len(t.of) < maxTurns {
		return
	}
	oldest, at := "", math.MaxInt
	for key, one := range t.of {
		if one.users == 0 && one.stored < at {
			oldest, at = key, one.stored
		}
	}
	delete(t.of, oldest)
}

func (t *turns) leave(one *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one.users--
}

// stored is the number of the document's last write that was noted, 0 for none.
func (t *turns) stored(key string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one := t.of[key]; one != nil {
		return one.stored
	}
	return 0
}

// note notes what a document is now, and returns the number of that.
func (t *turns) note(key, etag string, body []byte) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.of[key]
	if one == nil {
		return 0
	}
	t.last++
	one.stored, one.etag, one.body = t.last, etag, body
	return t.last
}

// contend notes that another process has written a document.
func (t *turns) contend(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one := t.of[key]; one != nil {
		one.slow.Store(contended)
	}
}

// newer returns what was noted of a document since that number.
func (t *turns) newer(key string, than int) (stored int, etag string, body []byte, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.of[key]
	if one == nil || one.stored <= than {
		return 0, "", nil, false
	}
	return one.stored, one.etag, one.body, true
}

// Changed reports whether the working copy differs from the document as it is stored.
func (d *Draft[T, P]) Changed() bool {
	body, err := json.Marshal(d.Doc())
	return err != nil || string(body) != string(d.body)
}

// Lock waits until nobody else in this process has a draft of the document locked. Where
// somebody has stored it since it was read here, or other processes write it as well, the
// working copy is replaced by what is stored, and renewed is true: decide again. unlock is to be called in any case. When ctx
// is done, Lock waits no longer. Who locks several drafts at once does so in an order that
// everybody keeps.
func (d *Draft[T, P]) Lock(ctx context.Context) (renewed bool, unlock func(), err error) {
	one := d.store.turns.enter(d.key)
	taken, contended := one.take(ctx)
	if !taken {
		d.store.turns.leave(one)
		return false, func() {}, context.Cause(ctx)
	}
	unlock = func() {
		one.token <- struct{}{}
		d.store.turns.leave(one)
	}
	stored, etag, body, ok := d.store.turns.newer(d.key, d.seen)
	switch {
	case contended:
		if !ok {
			etag = d.etag
		}
		if err := d.Reload(ctx); err != nil {
			unlock()
			return false, func() {}, err
		}
		if d.etag != etag {
			d.store.turns.contend(d.key)
		}
		return true, unlock, nil
	case !ok:
		return false, unlock, nil
	}
	doc := new(T)
	if err := json.Unmarshal(body, doc); err != nil {
		unlock()
		return false, func() {}, fmt.Errorf("decode document %s: %w", d.store.Address(d.key), err)
	}
	d.doc, d.etag, d.body, d.seen = *doc, etag, body, stored
	return true, unlock, nil
}
