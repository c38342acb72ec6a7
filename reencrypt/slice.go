package reencrypt

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/state"
)

// groupSize is how many results are summed up in one total. A look whether a
// pass is complete lists one group, and the totals where that group is full.
const groupSize = 1000

// resultDoc is what a slice came to in a pass, or the total of a group of them.
// It is stored once.
type resultDoc struct {
	Counts Counts    `json:"counts"`
	Sample []Refusal `json:"sample,omitempty"`
	// Rows are the blobs with the rows.
	Rows []string `json:"rows,omitempty"`
	// Noted: objects were moved by a method that has notes for the report.
	Noted bool `json:"copies,omitempty"`
	// Concurrency is how many objects of the bucket the worker worked on at once in
	// the end, over all its slices.
	Concurrency int `json:"concurrency,omitempty"`
}

// Schema names the document for package state.
func (*resultDoc) Schema() (string, int) { return "job-result", 1 }

func (r *resultDoc) add(o resultDoc) {
	r.Counts.add(o.Counts)
	r.Sample = append(r.Sample, o.Sample[:min(len(o.Sample), sampleSize-len(r.Sample))]...)
	r.Rows = append(r.Rows, o.Rows...)
	r.Noted = r.Noted || o.Noted
	r.Concurrency = cmp.Or(o.Concurrency, r.Concurrency)
}

func resultsPrefix(job string, pass, group int) string {
	return fmt.Sprintf("jobs/%s/results/%d/%06d/", job, pass, group)
}

func resultKey(job string, pass, n int) string {
	return fmt.Sprintf("%s%08d.json", resultsPrefix(job, pass, n/groupSize), n)
}

func totalsPrefix(job string, pass int) string { return fmt.Sprintf("jobs/%s/totals/%d/", job, pass) }

func totalKey(job string, pass, group int) string {
	return fmt.Sprintf("%s%06d.json", totalsPrefix(job, pass), group)
}

// slice works on one slice and stores its result, unless that was done before.
func (e *Engine) slice(ctx context.Context, j jobDoc, pass, n int) error {
	if pass != j.Pass { // late
		return e.begin(ctx, j)
	}
	var done resultDoc
	_, err := e.opt.Store.Get(ctx, resultKey(j.ID, pass, n), &done)
	if errors.Is(err, state.ErrNotFound) {
		err = e.work(ctx, j, pass, n)
	}
	if err != nil {
		return err
	}
	return e.advance(ctx, j.ID, pass, n/groupSize)
}

// work goes through a slice from where its record ends, and stores the result.
// Where the budget is over first, the rest goes back to the queue.
func (e *Engine) work(ctx context.Context, j jobDoc, pass, n int) error {
	m, err := e.newMover(ctx, j.spec, false, e.gate(j.ID))
	if err != nil {
		return err
	}
	// Of two workers on one slice only one has its rows in the report.
	write := rand.Text()
	r, err := e.resumeSlice(ctx, progressKey(j.ID, pass, n), m, func(ctx context.Context, number int, rows []Refusal) (string, error) {
		key := fmt.Sprintf("jobs/%s/rows/%d/%08d-%s-%d.jsonl", j.ID, pass, n, write, number)
		return key, e.storeSliceRows(ctx, key, rows)
	})
	if err != nil {
		return err
	}
	entries, err := e.sliceEntries(ctx, m, j, n, r.after)
	if err != nil {
		return err
	}
	entries, over := budget(entries, time.Now().Add(sliceBudget))
	if err := m.run(ctx, entries, r.tally); err != nil {
		return sliceTaken(errors.Join(err, r.leave(ctx)))
	}
	if over() {
		r.after = r.counted // it ended before a new key
		if err := r.save(ctx); err != nil {
			return sliceTaken(err)
		}
		return e.send(ctx, message{Job: j.ID, Pass: pass, Slice: n}, 0)
	}
	if err := r.tally.flush(ctx); err != nil {
		return errors.Join(err, r.leave(ctx))
	}
	result := r.result()
	_, err = e.opt.Store.Put(ctx, resultKey(j.ID, pass, n), &result, "")
	switch {
	case err == nil:
		e.opt.Meter.Slice("done")
	case errors.Is(err, state.ErrConflict): // another worker's counts
		err = e.dropRows(ctx, r.rows[r.named:])
	}
	if err != nil || r.etag == "" {
		return err
	}
	return e.opt.Store.Delete(ctx, r.key, "")
}

// storeSliceRows writes rows as JSON lines.
func (e *Engine) storeSliceRows(ctx context.Context, key string, rows []Refusal) error {
	var lines bytes.Buffer
	for _, row := range rows {
		line, err := json.Marshal(row)
		if err != nil {
			return fmt.Errorf("encode row: %w", err)
		}
		lines.Write(append(line, '\n'))
	}
	_, err := e.opt.Store.PutBlob(ctx, key, "application/x-ndjson", &lines)
	return err
}

// sliceEntries lists what a slice has after a key.
func (e *Engine) sliceEntries(ctx context.Context, m *mover, j jobDoc, n int, after string) (iter.Seq2[entry, error], error) {
	if j.RetryOf != "" {
		var s namedDoc
		if _, err := e.opt.Store.Get(ctx, namedKey(j.ID, n), &s); err != nil {
			return nil, err
		}
		return m.named(ctx, s.Rows, after), nil
	}
	var s sliceDoc
	if _, err := e.opt.Store.Get(ctx, sliceKey(j.ID, n), &s); err != nil {
		return nil, err
	}
	return m.entries(ctx, max(s.After, after), s.Through), nil
}

// dropRows removes the rows of work that does not count. It does so also where
// ctx is over.
func (e *Engine) dropRows(ctx context.Context, keys []string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var errs []error
	for _, key := range keys {
		errs = append(errs, e.opt.Store.Delete(ctx, key, ""))
	}
	return errors.Join(errs...)
}

// begin sends the planner message of a job's pass where no planner has begun: the
// worker that started the pass may have crashed in between.
func (e *Engine) begin(ctx context.Context, j jobDoc) error {
	p, err := e.planOf(ctx, j.ID, j.Pass)
	if err != nil || !p.Began.IsZero() {
		return err
	}
	return e.sendPlan(ctx, j.ID, time.Now())
}

// gate returns a function that ends with errNotRunning when a job has stopped
// running. It looks every gateInterval, and all callers wait while it looks.
func (e *Engine) gate(job string) func(context.Context) error {
	turn := make(chan struct{}, 1)
	looked := time.Now()
	return func(ctx context.Context) error {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			return ctx.Err()
		}
		if time.Since(looked) < gateInterval {
			return nil
		}
		began := time.Now() // the answer may be old when it comes
		j, err := e.job(ctx, job)
		if err != nil {
			return err
		}
		if j.State != StateRunning {
			return errNotRunning
		}
		looked = began
		return nil
	}
}

// advance looks whether a group, and with it the pass, is complete, and goes on
// with the job where it is. Every worker that stores a result or ends a plan calls it,
// so the last of them sees all results.
func (e *Engine) advance(ctx context.Context, job string, pass, group int) error {
	cut, err := e.planOf(ctx, job, 1)
	if err != nil {
		return err
	}
	full := groupSize
	if cut.Done {
		full = min(groupSize, cut.Next-group*groupSize)
	}
	keys, err := e.keys(ctx, resultsPrefix(job, pass, group))
	if err != nil || len(keys) < full {
		return err
	}
	total, err := e.sum(ctx, keys)
	if err != nil {
		return err
	}
	if err := e.putFirst(ctx, totalKey(job, pass, group), &total, ""); err != nil {
		return err
	}
	if !cut.Done {
		return nil
	}
	keys, err = e.keys(ctx, totalsPrefix(job, pass))
	if err != nil || len(keys) < (cut.Next+groupSize-1)/groupSize {
		return err
	}
	if total, err = e.sum(ctx, keys); err != nil {
		return err
	}
	return e.endPass(ctx, job, pass, total, keys)
}

// endPass starts the next pass, or ends the job. total is the sum of the documents
// that totals names.
func (e *Engine) endPass(ctx context.Context, id string, pass int, total resultDoc, totals []string) error {
	p, err := e.planOf(ctx, id, pass)
	if err != nil {
		return err
	}
	j, err := e.job(ctx, id)
	if err != nil {
		return err
	}
	if j.State != StateRunning || j.Pass != pass { // another worker saw the end of the pass too
		return nil
	}
	next, cause := afterPass(pass-j.Granted, total.Counts, p.Began.Before(j.NotBefore))
	if next == StateStopped {
		return e.stop(ctx, id, cause)
	}
	j.By = cmp.Or(e.opt.By, j.By)
	if next == StateComplete {
		if err := e.report(ctx, j, total, totals); err != nil {
			return fmt.Errorf("report of job %s: %w", id, err)
		}
	}
	ours := false
	err = state.Update(ctx, e.opt.Store, j.key(), func(now *jobDoc, exists bool) error {
		if ours = exists && now.State == StateRunning && now.Pass == pass; !ours {
			return state.ErrUnchanged
		}
		now.By = cmp.Or(e.opt.By, now.By)
		if next == StateComplete {
			now.State, now.Finished = StateComplete, time.Now()
		} else {
			now.Pass, now.Earlier = pass+1, carry(now.Earlier, total.Counts)
		}
		j = *now
		return nil
	})
	if err != nil || !ours {
		return err
	}
	// Should this worker end here, its message comes back and finds what is left to do.
	if next == StateComplete {
		e.opt.Meter.Job("complete")
		return e.notify(ctx, j)
	}
	return e.sendPlan(ctx, id, time.Now())
}

// putFirst stores a document as Store.Put does. That another worker was first is no error.
func (e *Engine) putFirst(ctx context.Context, key string, doc state.Document, etag string) error {
	_, err := e.opt.Store.Put(ctx, key, doc, etag)
	if errors.Is(err, state.ErrConflict) {
		return nil
	}
	return err
}

func (e *Engine) keys(ctx context.Context, prefix string) ([]string, error) {
	var keys []string
	for key, err := range e.opt.Store.Keys(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// sum adds up results, in the order of their keys.
func (e *Engine) sum(ctx context.Context, keys []string) (resultDoc, error) {
	results := make([]resultDoc, len(keys))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, key := range keys {
		g.Go(func() error {
			_, err := e.opt.Store.Get(ctx, key, &results[i])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return resultDoc{}, err
	}
	var total resultDoc
	for _, r := range results {
		total.add(r)
	}
	return total, nil
}
