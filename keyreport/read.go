package keyreport

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/retire"
	"github.com/cmkeeper/cmkeeper/state"
)

// Jobs reads re-encryption jobs; *reencrypt.Engine does.
type Jobs interface {
	Jobs(ctx context.Context, ended bool) ([]reencrypt.Summary, error)
	Report(ctx context.Context, id string) (reencrypt.Summary, error)
}

// NoHistory is the history where there is no state to read it from, for that reason.
func NoHistory(why string) History {
	h := emptyHistory()
	h.SweepsNotKnown, h.RecordsNotKnown, h.JobsNotKnown, h.Canary.NotKnown, h.Access.NotKnown = why, why, why, why, why
	return h
}

func emptyHistory() History {
	return History{Sweeps: []Sweep{}, Stopped: []Stopped{}, Approved: []Approved{}, Accepted: []Accepted{}, Jobs: []reencrypt.Summary{}, Access: emptyAccess()}
}

// ReadHistory reads what the fleet recorded. jobs is nil where jobs are not read. What
// cannot be read is said in the history.
func ReadHistory(ctx context.Context, store *state.Store, jobs Jobs) History {
	h := emptyHistory()
	var reading sync.WaitGroup
	reading.Go(func() { h.readSweeps(ctx, store) })
	reading.Go(func() { h.readRecords(ctx, store) })
	reading.Go(func() { h.readJobs(ctx, jobs) })
	reading.Go(func() { h.readCanary(ctx, store) })
	reading.Go(func() { h.Access = readAccess(ctx, store) })
	reading.Wait()
	return h
}

func (h *History) readCanary(ctx context.Context, store *state.Store) {
	var doc ledger.Canary
	switch _, err := store.Get(ctx, ledger.CanaryName, &doc); {
	case errors.Is(err, state.ErrNotFound) || err == nil && len(doc.Flown) == 0:
		h.Canary.NotKnown = "not measured: no canary has come back"
	case err != nil:
		h.Canary.NotKnown = err.Error()
	}
	for _, f := range doc.Flown {
		took := float64(f.TookMS) / 1000
		h.Canary.Mean += took / float64(len(doc.Flown))
		h.Canary.Longest = max(h.Canary.Longest, took)
	}
	h.Canary.Measured, h.Canary.Lost = len(doc.Flown), doc.Lost
}

func (h *History) readSweeps(ctx context.Context, store *state.Store) {
	err := documents(ctx, store, ledger.SweepRecords, func(r *ledger.SweepRecord) {
		t := r.Totals
		h.Sweeps = append(h.Sweeps, Sweep{
			Began: r.Began, Ended: r.Ended, Whole: r.Whole, Error: r.Error, Keys: t.Keys, Changed: t.Changed, Unread: t.Unread,
			CanRotate: t.CanRotate, Rotates: t.Rotates, Dangers: t.Dangers, DangersOf: t.DangersOf, DangersMore: t.DangersMore, Open: t.Open, Repairs: t.Repairs, Alerts: t.Alerts,
		})
	})
	if err != nil {
		h.SweepsNotKnown = err.Error()
	}
	slices.SortFunc(h.Sweeps, func(a, b Sweep) int { return a.Began.Compare(b.Began) })
}

func (h *History) readRecords(ctx context.Context, store *state.Store) {
	h.Repairs.By = map[string]Repairs{}
	errs := []error{
		documents(ctx, store, "keys/", h.addKey),
		documents(ctx, store, "retirements/", func(a *retire.Approval) {
			h.Approved = append(h.Approved, Approved{a.Key, a.By, a.At, a.Days, a.Accepted})
		}),
	}
	for b, err := range ledger.Baselines(ctx, store) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, v := range b.Versions {
			if v.AcceptedBy != "" {
				h.Accepted = append(h.Accepted, Accepted{b.Key, v.Number, v.AcceptedBy, v.At})
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		h.RecordsNotKnown = err.Error()
	}
	slices.SortFunc(h.Stopped, func(a, b Stopped) int { return a.At.Compare(b.At) })
	slices.SortFunc(h.Approved, func(a, b Approved) int { return a.At.Compare(b.At) })
	slices.SortFunc(h.Accepted, func(a, b Accepted) int { return a.At.Compare(b.At) })
}

// addKey adds what was done about a key. A repair that AWS did not confirm is none.
func (h *History) addKey(k *ledger.Key) {
	for _, r := range k.Repairs {
		if !r.Done {
			continue
		}
		of := h.Repairs.By[r.Reaction]
		of.add(r.Against, r.At)
		h.Repairs.add(r.Against, r.At)
		h.Repairs.By[r.Reaction] = of
	}
	for _, c := range k.Circuits {
		h.Stopped = append(h.Stopped, Stopped{k.ARN, c.Reaction, c.At})
	}
}

func (h *History) readJobs(ctx context.Context, jobs Jobs) {
	if jobs == nil {
		h.JobsNotKnown = "not asked for"
		return
	}
	all, err := jobs.Jobs(ctx, true)
	var errs []error
	if err != nil {
		errs = append(errs, err)
	}
	for i, j := range all {
		if j.State == reencrypt.StateRunning || j.State == reencrypt.StatePaused {
			continue
		}
		report, err := jobs.Report(ctx, j.Job)
		if err != nil {
			errs = append(errs, fmt.Errorf("job %s: %w", j.Job, err))
			continue
		}
		all[i] = report
	}
	h.Jobs = append(h.Jobs, all...)
	if err := errors.Join(errs...); err != nil {
		h.JobsNotKnown = err.Error()
	}
}

// documents calls add with every document below a prefix, one at a time. The error joins
// those of documents that cannot be read.
func documents[T any, P interface {
	*T
	state.Document
}](ctx context.Context, store *state.Store, prefix string, add func(P)) error {
	var (
		mu   sync.Mutex
		errs []error
		g    errgroup.Group
	)
	g.SetLimit(32)
	for key, err := range store.Keys(ctx, prefix) {
		if err != nil {
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
			break
		}
		g.Go(func() error {
			doc := P(new(T))
			_, err := store.Get(ctx, key, doc)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, state.ErrNotFound):
			case err != nil:
				errs = append(errs, err)
			default:
				add(doc)
			}
			return nil
		})
	}
	_ = g.Wait() // the functions return nil
	if len(errs) > 1 {
		return fmt.Errorf("%d documents cannot be read, the first of them: %w", len(errs), errs[0])
	}
	return errors.Join(errs...)
}
