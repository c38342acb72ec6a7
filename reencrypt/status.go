package reencrypt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/state"
)

// Status is how far a job is.
type Status struct {
	// Summary has the counts so far: the object versions that this pass has gone
	// through, and what the passes before it have moved.
	Summary
	Method   Method   `json:"method"`
	Versions Versions `json:"versions"`
	// RetryOf is the job whose report this one works through; "" for any other.
	RetryOf string `json:"retry_of,omitempty"`
	// At is when this was seen, and Began when the pass began.
	At    time.Time `json:"at"`
	Began time.Time `json:"began,omitzero"`
	// Slices is how many slices are planned; all of them are where Planned.
	Slices  int  `json:"slices"`
	Planned bool `json:"planned"`
	// Done is how many of them have a result in this pass, and InPass how many object
	// versions this pass has gone through, those of unfinished slices included.
	Done   int   `json:"slices_done"`
	InPass int64 `json:"in_pass"`
	// InWork is how many slices, and planners, the fleet works on: of all jobs, as
	// SQS sees it, by up to a minute late.
	InWork int `json:"in_work"`
	// Concurrency is how many objects of the bucket a worker works on at once, as the
	// last of them has said; 0 while none has.
	Concurrency int `json:"concurrency"`
	// Next is what a person may do about the job; see Summary.Next.
	Next []string `json:"next,omitempty"`
}

// Share is how much of the pass is done, from 0 to 1, and false while that is not
// known.
func (s Status) Share() (float64, bool) {
	if s.State == StateComplete {
		return 1, true
	}
	if !s.Planned || s.Slices == 0 {
		return 0, false
	}
	return float64(s.Done) / float64(s.Slices), true
}

// Rate is how many object versions a second the pass has gone through since it
// began; 0 where it has not.
func (s Status) Rate() float64 {
	if took := s.At.Sub(s.Began).Seconds(); !s.Began.IsZero() && took > 0 {
		return float64(s.InPass) / took
	}
	return 0
}

// Left estimates how long the pass still takes at a rate, from how many object
// versions the slices had that are done; false while that is not known.
func (s Status) Left(rate float64) (time.Duration, bool) {
	share, known := s.Share()
	if !known || share == 0 || rate <= 0 || s.State != StateRunning {
		return 0, false
	}
	left := max(float64(s.InPass)/share-float64(s.InPass), 0)
	return time.Duration(left / rate * float64(time.Second)).Round(time.Second), true
}

// Status looks how far a job is. ErrNoJob.
func (e *Engine) Status(ctx context.Context, id string) (Status, error) {
	return e.Watch(id).Look(ctx)
}

// Watch follows a job. It remembers what does not change any more, so that each
// look reads only what is new. It is not safe for concurrent use.
type Watch struct {
	e      *Engine
	job    string
	pass   int
	groups map[int]*seenGroup
	// concurrency is the last that was seen.
	concurrency int
}

// seenGroup is what is known of a group of slices.
type seenGroup struct {
	total   bool // the sum of all of the group
	results map[string]bool
	counts  Counts
}

// Watch returns a Watch of a job.
func (e *Engine) Watch(id string) *Watch { return &Watch{e: e, job: id} }

// Look looks how far the job is. ErrNoJob.
func (w *Watch) Look(ctx context.Context) (Status, error) {
	s, err := w.look(ctx)
	s.Next = s.Summary.Next()
	return s, err
}

func (w *Watch) look(ctx context.Context) (Status, error) {
	if err := checkID(w.job); err != nil {
		return Status{}, err
	}
	j, err := w.e.job(ctx, w.job)
	if errors.Is(err, state.ErrNotFound) {
		err = fmt.Errorf("job %s: %w", w.job, ErrNoJob)
	}
	if err != nil {
		return Status{}, err
	}
	s := Status{Summary: j.summary(), Method: j.Method, Versions: j.Versions, RetryOf: j.RetryOf, At: time.Now()}
	plan, err := w.e.planOf(ctx, j.ID, j.Pass)
	if err != nil {
		return s, err
	}
	s.Began, s.Slices, s.Planned = plan.Began, plan.Next, plan.Done
	if j.Pass > 1 { // the slices of the first
		cut, err := w.e.planOf(ctx, j.ID, 1)
		if err != nil {
			return s, err
		}
		s.Slices, s.Planned = cut.Next, cut.Done
	}
	if j.State == StateComplete {
		report, err := w.e.Report(ctx, j.ID)
		s.Summary, s.Done, s.InPass = report, s.Slices, report.Scanned
		return s, err
	}
	if w.pass != j.Pass {
		w.pass, w.groups = j.Pass, map[int]*seenGroup{}
	}
	counts, err := w.sum(ctx, j, &s)
	if err != nil {
		return s, err
	}
	s.Concurrency = w.concurrency
	s.InPass, s.Counts = counts.Scanned, withEarlier(counts, j.Earlier)
	if j.State == StateRunning {
		s.InWork, err = w.e.slicesInFlight(ctx)
	}
	return s, err
}

// sum adds up the pass so far.
func (w *Watch) sum(ctx context.Context, j jobDoc, s *Status) (Counts, error) {
	totals, err := w.e.keys(ctx, totalsPrefix(j.ID, j.Pass))
	if err != nil {
		return Counts{}, err
	}
	for _, key := range totals {
		if err := w.total(ctx, key); err != nil {
			return Counts{}, err
		}
	}
	for folder, err := range w.e.opt.Store.Folders(ctx, fmt.Sprintf("jobs/%s/results/%d/", j.ID, j.Pass)) {
		if err != nil {
			return Counts{}, err
		}
		group, err := strconv.Atoi(folder)
		if err != nil {
			return Counts{}, fmt.Errorf("job %s has a group of results %q", j.ID, folder)
		}
		if err := w.results(ctx, j, group); err != nil {
			return Counts{}, err
		}
	}
	var sum Counts
	for group, g := range w.groups {
		sum.add(g.counts)
		if g.total {
			s.Done += min(groupSize, s.Slices-group*groupSize)
		} else {
			s.Done += len(g.results)
		}
	}
	return sum, w.unfinished(ctx, j, &sum)
}

func (w *Watch) total(ctx context.Context, key string) error {
	group, err := strconv.Atoi(strings.TrimSuffix(path.Base(key), ".json"))
	if err != nil {
		return fmt.Errorf("job %s has a total %q", w.job, key)
	}
	if g := w.groups[group]; g != nil && g.total {
		return nil
	}
	var total resultDoc
	if _, err := w.e.opt.Store.Get(ctx, key, &total); err != nil {
		return err
	}
	w.groups[group] = &seenGroup{total: true, counts: total.Counts}
	w.concurrency = cmp.Or(w.concurrency, total.Concurrency)
	return nil
}

// results adds the results of a group that have come in since the last look.
func (w *Watch) results(ctx context.Context, j jobDoc, group int) error {
	g := w.groups[group]
	if g == nil {
		g = &seenGroup{results: map[string]bool{}}
		w.groups[group] = g
	}
	if g.total {
		return nil
	}
	keys, err := w.e.keys(ctx, resultsPrefix(j.ID, j.Pass, group))
	if err != nil {
		return err
	}
	var fresh []string
	for _, key := range keys {
		if !g.results[key] {
			fresh = append(fresh, key)
		}
	}
	sum, err := w.e.sum(ctx, fresh)
	if err != nil {
		return err
	}
	g.counts.add(sum.Counts)
	w.concurrency = cmp.Or(sum.Concurrency, w.concurrency)
	for _, key := range fresh {
		g.results[key] = true
	}
	return nil
}

// unfinished adds the records of the slices that have no result.
func (w *Watch) unfinished(ctx context.Context, j jobDoc, sum *Counts) error {
	keys, err := w.e.keys(ctx, progressPrefix(j.ID, j.Pass))
	if err != nil {
		return err
	}
	for _, key := range keys {
		n, err := strconv.Atoi(strings.TrimSuffix(path.Base(key), ".json"))
		if err != nil {
			return fmt.Errorf("job %s has a record %q", w.job, key)
		}
		if g := w.groups[n/groupSize]; g != nil && (g.total || g.results[resultKey(j.ID, j.Pass, n)]) {
			continue
		}
		var p progressDoc
		_, err = w.e.opt.Store.Get(ctx, key, &p)
		if errors.Is(err, state.ErrNotFound) { // done meanwhile; the next look sees its result
			continue
		}
		if err != nil {
			return err
		}
		sum.add(p.Counts)
		w.concurrency = cmp.Or(p.Concurrency, w.concurrency)
	}
	return nil
}
