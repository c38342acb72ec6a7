package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

const (
	// saveInterval and saveVersions are how often a worker records how far it is in a
	// slice: what a kill repeats, or leaves uncounted as moved.
	saveInterval = 5 * time.Second
	saveVersions = 500
	// sliceBudget is how long a message works on a slice before the rest goes back
	// to the queue: no message is held for hours, and a stopping worker's share of
	// a slow slice is small.
	sliceBudget = 5 * time.Minute
	// sliceTakenWait is how long a worker leaves a slice to another one that works on
	// it.
	sliceTakenWait = 30 * time.Second
	// maxAhead is how many object versions of a slice may be done, or in work,
	// behind one that is not: it bounds memory where one object takes hours.
	maxAhead = 10_000
)

// progressDoc is how far a pass is in a slice: the low watermark. It holds what
// all keys up to and including After came to, and nothing of those behind it, of
// which some may be done too: doing them again finds them done.
type progressDoc struct {
	resultDoc
	After string `json:"after"`
}

// Schema names the document for package state.
func (*progressDoc) Schema() (string, int) { return "job-progress", 1 }

func progressPrefix(job string, pass int) string {
	return fmt.Sprintf("jobs/%s/progress/%d/", job, pass)
}

func progressKey(job string, pass, n int) string {
	return fmt.Sprintf("%s%08d.json", progressPrefix(job, pass), n)
}

// turn is an entry's place in the order of the listing.
type turn struct {
	en   entry
	v    verdict
	done bool
}

// order releases verdicts, which arrive as the work is done, in the order in which
// the entries were listed.
type order struct {
	room chan struct{} // one value for each entry that waits
	// release takes each verdict in its turn; never concurrently. last says that it is
	// known to be the last of its key. done returns its error.
	release func(ctx context.Context, en entry, v verdict, last bool) error

	mu      sync.Mutex
	waiting []*turn
	// releasing says that a goroutine releases verdicts, or that one failed to and no
	// more are released.
	releasing bool
}

// next gives the next entry of the listing its turn. It waits while too many do.
func (o *order) next(ctx context.Context, en entry) (*turn, error) {
	select {
	case o.room <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	t := &turn{en: en}
	o.waiting = append(o.waiting, t)
	return t, nil
}

// done releases a verdict when its turn has come, and those that waited for it. No
// goroutine waits while another one releases, which may record the progress. After an
// error nothing more is released: later verdicts would be counted without the missing one.
func (o *order) done(ctx context.Context, t *turn, v verdict) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	t.v, t.done = v, true
	if o.releasing {
		return nil
	}
	o.releasing = true
	for len(o.waiting) > 0 && o.waiting[0].done {
		first := o.waiting[0]
		o.waiting = o.waiting[1:]
		<-o.room
		last := len(o.waiting) > 0 && o.waiting[0].en.key != first.en.key
		o.mu.Unlock()
		err := o.release(ctx, first.en, first.v, last)
		o.mu.Lock()
		if err != nil {
			return err
		}
	}
	o.releasing = false
	return nil
}

// record is one worker's record of a slice. It counts in the order of the
// listing, so that what it has counted is all of the keys up to one of them.
type record struct {
	e     *Engine
	key   string
	etag  string
	tally *tally
	order *order
	// rows are the blobs with the rows so far, of which the first named ones are
	// named by a stored document, or may be.
	rows   []string
	named  int
	bucket string
	noted  bool
	saved  time.Time
	since  int // object versions counted since then
	// after is the last key known to have all versions counted, and counted the key
	// of the last one. whole says that they are the same, and fresh that it is not stored.
	after, counted string
	whole, fresh   bool
	counting       error // of the tally: what it has counted is not to be stored
}

// resumeSlice returns the record of a slice, going on from the one that is stored.
// spill writes rows and returns the blob's key.
func (e *Engine) resumeSlice(ctx context.Context, key string, m *mover, spill func(ctx context.Context, number int, rows []Refusal) (string, error)) (*record, error) {
	var p progressDoc
	etag, err := e.opt.Store.Get(ctx, key, &p)
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return nil, err
	}
	r := &record{
		e: e, key: key, etag: etag, after: p.After, rows: p.Rows, named: len(p.Rows),
		bucket: m.Bucket, noted: len(m.rules.method.traits().notes) > 0 || p.Noted, whole: true, saved: time.Now(),
	}
	r.tally = &tally{counts: p.Counts, sample: p.Sample, spill: func(ctx context.Context, rows []Refusal) error {
		blob, err := spill(ctx, len(r.rows), rows)
		r.rows = append(r.rows, blob) // also where it failed: it may be there
		return err
	}}
	r.order = &order{room: make(chan struct{}, maxAhead), release: r.count}
	r.tally.order = r.order
	return r, nil
}

// count counts an entry whose turn it is, and records the progress now and then.
func (r *record) count(ctx context.Context, en entry, v verdict, last bool) error {
	if r.counting = r.tally.add(ctx, en, v); r.counting != nil {
		return r.counting
	}
	r.since++
	r.counted, r.whole = en.key, last
	if !last {
		return nil
	}
	r.after, r.fresh = en.key, true
	if r.since < saveVersions && time.Since(r.saved) < saveInterval {
		return nil
	}
	return r.save(ctx)
}

// save records the progress. state.ErrConflict: another worker is in the slice, or
// has finished it.
func (r *record) save(ctx context.Context) error {
	if r.counting = r.tally.flush(ctx); r.counting != nil {
		return r.counting
	}
	r.named = len(r.rows)
	p := progressDoc{resultDoc: r.result(), After: r.after}
	etag, err := r.e.opt.Store.Put(ctx, r.key, &p, r.etag)
	if err != nil {
		return err
	}
	r.etag, r.saved, r.since, r.fresh = etag, time.Now(), 0, false
	return nil
}

// leave records what there is to record when the work breaks off, also where ctx
// is over, and removes the rows that nothing names.
func (r *record) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var err error
	if r.whole && r.fresh && r.counting == nil {
		if err = r.save(ctx); errors.Is(err, state.ErrConflict) {
			err = nil // the other worker's record holds
		}
	}
	return errors.Join(err, r.e.dropRows(ctx, r.rows[r.named:]))
}

// result is what has been counted so far.
func (r *record) result() resultDoc {
	return resultDoc{Counts: r.tally.counts, Sample: r.tally.sample, Rows: r.rows, Noted: r.noted, Concurrency: r.e.Concurrency(r.bucket)}
}

// sliceTaken turns a conflict with another worker on a slice into a wait. The worker
// that records first goes on; should it die, this one's message comes back.
func sliceTaken(err error) error {
	if errors.Is(err, state.ErrConflict) {
		return outcome.RetryAfter(sliceTakenWait, fmt.Errorf("another worker is working on the slice: %w", err))
	}
	return err
}

// budget ends a listing at the first new key after the deadline. over tells
// whether it did.
func budget(entries iter.Seq2[entry, error], deadline time.Time) (within iter.Seq2[entry, error], over func() bool) {
	ended := false
	within = func(yield func(entry, error) bool) {
		var last *entry
		for en, err := range entries {
			if err == nil && last != nil && en.key != last.key && time.Now().After(deadline) {
				ended = true
				return
			}
			if !yield(en, err) {
				return
			}
			last = &en
		}
	}
	return within, func() bool { return ended }
}
