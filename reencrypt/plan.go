package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

const (
	// planBudget is how long a planner message works before it sends itself again:
	// SQS lets no consumer hold a message for more than twelve hours.
	planBudget = 10 * time.Minute
	// planStep is how many slices of a later pass are sent between two records of
	// the progress.
	planStep = 100
)

// planDoc is how far the planner of a pass is.
type planDoc struct {
	Began time.Time `json:"began"`
	// Next is the number of the next slice; when Done, how many there are.
	Next int `json:"next"`
	// After is the last key of the slice before it.
	After string `json:"after"`
	Done  bool   `json:"done"`
	// Checked: the preflight let the job begin, with these findings.
	Checked   bool      `json:"checked,omitempty"`
	Preflight []Finding `json:"preflight,omitempty"`
}

// Schema names the document for package state.
func (*planDoc) Schema() (string, int) { return "job-plan", 1 }

func planKey(job string, pass int) string { return fmt.Sprintf("jobs/%s/plans/%d.json", job, pass) }

// planOf reads the plan of a pass; the zero planDoc where none is stored.
func (e *Engine) planOf(ctx context.Context, job string, pass int) (planDoc, error) {
	var p planDoc
	_, err := e.opt.Store.Get(ctx, planKey(job, pass), &p)
	if errors.Is(err, state.ErrNotFound) {
		err = nil
	}
	return p, err
}

// sliceDoc is a range of keys, all versions of them: those after one key up to
// and including another. "" is no bound, so that the first and the last slice
// hold what is written while the job runs.
type sliceDoc struct {
	After   string `json:"after"`
	Through string `json:"through"`
}

// Schema names the document for package state.
func (*sliceDoc) Schema() (string, int) { return "job-slice", 1 }

func sliceKey(job string, n int) string { return fmt.Sprintf("jobs/%s/slices/%08d.json", job, n) }

// plan plans a pass. The first pass is cut into slices, which are recorded and
// sent while the listing goes on. The later ones use the same slices. Two
// planners at a time do the same twice: the one that stores a slice or the progress
// second uses what the first has stored.
func (e *Engine) plan(ctx context.Context, j jobDoc, pass int) error {
	if pass != j.Pass {
		return nil // late
	}
	if wait := time.Until(j.NotBefore); pass > 1 && wait > 0 {
		return outcome.RetryAfter(wait, fmt.Errorf("pass %d of job %s waits for the writers of superseded jobs", pass, j.ID))
	}
	if pass == 1 {
		if err := e.endBatches(ctx, j); err != nil {
			return err
		}
	}
	defer e.rate.hold()()
	deadline := time.Now().Add(planBudget)
	for {
		var p planDoc
		etag, err := e.opt.Store.Get(ctx, planKey(j.ID, pass), &p)
		switch {
		case errors.Is(err, state.ErrNotFound):
			p.Began = time.Now()
			if etag, err = e.opt.Store.Put(ctx, planKey(j.ID, pass), &p, ""); errors.Is(err, state.ErrConflict) {
				continue
			}
			if err == nil && pass == 1 {
				e.opt.Meter.Job("started")
			}
		case err == nil && p.Done:
			return e.advance(ctx, j.ID, pass, (p.Next-1)/groupSize)
		}
		if err == nil && pass == 1 && !p.Checked {
			etag, err = e.check(ctx, j, &p, etag)
			if errors.Is(err, state.ErrConflict) {
				continue
			}
		}
		if err != nil {
			return err
		}
		if pass == 1 {
			if wait, err := e.handOver(ctx, &j, p); wait || err != nil {
				return err
			}
		}
		step := e.cut
		if pass > 1 {
			step = e.resend
		}
		if err := step(ctx, j, pass, p, etag, deadline); err != nil && !errors.Is(err, state.ErrConflict) {
			return err
		}
		if time.Now().After(deadline) {
			return e.send(ctx, message{Job: j.ID, Plan: true, Pass: pass}, 0)
		}
	}
}

// cut lists the bucket and cuts it into slices until the end or the deadline.
// state.ErrConflict means that another planner is ahead.
func (e *Engine) cut(ctx context.Context, j jobDoc, pass int, p planDoc, etag string, deadline time.Time) error {
	if j.Bucket == e.opt.StateBucket {
		return &stopError{"bucket " + j.Bucket + " is cmkeeper's own state bucket"}
	}
	versioned, err := e.versioned(ctx, j.Bucket)
	if err != nil {
		return err
	}
	gate := e.gate(j.ID)
	count, last := 0, ""
	for en, err := range e.entries(ctx, j.spec, versioned && j.Versions == VersionsAll, p.After, "") {
		if err != nil {
			return err
		}
		if count >= e.opt.SliceSize && en.key != last {
			if err := gate(ctx); err != nil {
				return err
			}
			if p, etag, err = e.emit(ctx, j, pass, p, etag, last); err != nil {
				return err
			}
			if p.Done || p.After != last || time.Now().After(deadline) || e.handsOver(j, p) {
				return nil // another planner cut here differently, or it is time to stop
			}
			count = 0
		}
		count, last = count+1, en.key
	}
	_, _, err = e.emit(ctx, j, pass, p, etag, "")
	return err
}

// emit records the next slice and sends it, and then records the progress.
func (e *Engine) emit(ctx context.Context, j jobDoc, pass int, p planDoc, etag, through string) (planDoc, string, error) {
	s := sliceDoc{After: p.After, Through: through}
	_, err := e.opt.Store.Put(ctx, sliceKey(j.ID, p.Next), &s, "")
	if errors.Is(err, state.ErrConflict) { // recorded before a crash, or by another planner: that one holds
		s = sliceDoc{}
		_, err = e.opt.Store.Get(ctx, sliceKey(j.ID, p.Next), &s)
	}
	if err != nil {
		return p, etag, err
	}
	if err := e.send(ctx, message{Job: j.ID, Pass: pass, Slice: p.Next}, 0); err != nil {
		return p, etag, err
	}
	p.Next, p.After, p.Done = p.Next+1, s.Through, s.Through == ""
	if etag, err = e.opt.Store.Put(ctx, planKey(j.ID, pass), &p, etag); err == nil {
		e.opt.Meter.Slice("planned")
	}
	return p, etag, err
}

// resend sends the slices of the first pass again, for a later one.
func (e *Engine) resend(ctx context.Context, j jobDoc, pass int, p planDoc, etag string, deadline time.Time) error {
	cut, err := e.planOf(ctx, j.ID, 1)
	if err != nil {
		return err
	}
	gate := e.gate(j.ID)
	for !p.Done && time.Now().Before(deadline) {
		if err := gate(ctx); err != nil {
			return err
		}
		before := p.Next
		for range min(planStep, cut.Next-p.Next) {
			if err := e.send(ctx, message{Job: j.ID, Pass: pass, Slice: p.Next}, 0); err != nil {
				return err
			}
			p.Next++
		}
		p.Done = p.Next >= cut.Next
		if etag, err = e.opt.Store.Put(ctx, planKey(j.ID, pass), &p, etag); err != nil {
			return err
		}
		for range p.Next - before {
			e.opt.Meter.Slice("planned")
		}
	}
	return nil
}
