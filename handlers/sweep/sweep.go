// Package sweep has a fleet look at a whole account: which worker does so and when, cut into
// which shards, how fast KMS is asked, which keys need no look because nothing of them has
// changed, and what is recorded of it. What is looked at and told is the caller's ([Looks]).
package sweep

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/state"
)

// Looks are what a sweep does with what it finds. What they cannot do is in their errors;
// those that wrap state.ErrUnreadable are about stored documents.
type Looks struct {
	// Key looks at the key of a case, Alias at an alias as KMS lists it.
	Key   func(context.Context, Sweep, *reaction.Case) error
	Alias func(context.Context, Sweep, *reaction.Case, inventory.Alias) error
	// Buckets looks at all buckets.
	Buckets func(context.Context, Sweep) error
	// Review reviews who may use the keys, where that is due. An outcome.RetryAfter says that
	// it was left before it was done.
	Review func(context.Context, Sweep) error
	// End does what is done once, when everything was looked at, and Unreadable tells of the
	// stored documents that cannot be read, none or more.
	End        func(context.Context, Sweep) error
	Unreadable func(ctx context.Context, s Sweep, found []string) error
}

// Fleet has the members of a fleet sweep together. It is safe for concurrent use.
type Fleet struct {
	*reaction.Env
	looks Looks
	// judgedBy stands for the build and the configuration.
	judgedBy string
	alone    alone
}

// New returns the fleet as one of its members sees it.
func New(e *reaction.Env, looks Looks) *Fleet {
	return &Fleet{Env: e, looks: looks, judgedBy: configMark(e.Config)}
}

// rolledAtOnce is of how many keys grants and tags are read with the rest. Those of more
// keys are read after the rest of all, which need not wait for them.
const rolledAtOnce = 100

// Alone sweeps, and does all of it here. What cannot be done is in the error, key by key; the
// rest is done all the same. A stored document that cannot be read is no error, since another
// sweep would find it again: it is left out and told.
func (f *Fleet) Alone(ctx context.Context) error {
	start := ledger.Now()
	s := f.newSweep(ledger.RunName(start, rand.Text()), start)
	ctx = s.paced(ctx, paceOfAll)
	keys, aliases, err := s.list(ctx)
	return s.alone(ctx, keys, aliases, err)
}

// Asked has the fleet sweep for somebody who asked at that time, unless it has.
func (f *Fleet) Asked(ctx context.Context, asked func(now time.Time) time.Time) error {
	_, err := f.once(ctx, asked)
	return err
}

// Sweep is one sweep, or a part of it. Its parts share what is read of the account.
type Sweep struct {
	*Fleet
	// Start is when the sweep began, also in a part of it, and Whole the case of the account.
	Start time.Time
	Whole *reaction.Case
	// Rolling: grants and tags are read with the rest of a key. Where there are many keys,
	// they are read at another pace.
	Rolling bool

	run        string
	unreadable *unreadable
	totals     *tally
	// resumes: the part may have been begun before, and left.
	resumes bool
	// leave reports that the part is to be left for others; nil: never.
	leave func() bool
}

// newSweep is a sweep that began then.
func (f *Fleet) newSweep(run string, start time.Time) Sweep {
	return Sweep{Fleet: f, run: run, Start: start, Whole: f.NewCase(f.SweepEvent("sweep", start)), unreadable: &unreadable{}, totals: &tally{}}
}

// alone looks at everything that was listed, and ends the sweep. failed is what could not
// be listed.
func (s Sweep) alone(ctx context.Context, keys []ledger.ShardKey, aliases []ledger.ShardAlias, failed error) error {
	ctx = s.paced(ctx, paceOfAll)
	shards := ledger.Shards(len(keys), s.Config.SweepShard)
	s.Rolling = len(keys) <= rolledAtOnce
	for n, shard := range cut(keys, aliases, shards) {
		failed = errors.Join(failed, s.shard(ctx, shard, n, shards))
	}
	failed = errors.Join(failed, s.looks.Buckets(ctx, s))
	if !s.Rolling {
		s.Rolling = true
		for n := range shards {
			failed = errors.Join(failed, s.Skip(s.rollShard(ctx, n, shards)))
		}
	}
	return s.end(ctx, failed, ledger.SweepTotals{}, 1)
}

// end does what is done once, when everything was looked at, and records the sweep. failed
// is what was not done until here, and before what others came to.
func (s Sweep) end(ctx context.Context, failed error, before ledger.SweepTotals, shards int) error {
	err := errors.Join(failed, s.Skip(s.looks.End(ctx, s)))
	if shards == 1 { // else a message calls for it
		err = errors.Join(err, s.Skip(s.looks.Review(ctx, s)))
	}
	s.unreadable.found = append(s.unreadable.found, before.Unreadable...)
	err = errors.Join(err, s.looks.Unreadable(ctx, s, s.unreadable.found))
	before.Add(s.sum())
	s.record(ctx, err, before, shards)
	if s.Swept != nil {
		s.Swept()
	}
	return err
}

// unreadable collects what the stored documents say that cannot be read.
type unreadable struct {
	mu    sync.Mutex
	found []string
}

// skip returns what the sweep is to return of an error: nil where a document cannot be
// read.
func (u *unreadable) skip(err error) error {
	if !errors.Is(err, state.ErrUnreadable) {
		return err
	}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		var errs []error
		for _, err := range joined.Unwrap() {
			errs = append(errs, u.skip(err))
		}
		return errors.Join(errs...)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.found = append(u.found, err.Error())
	return nil
}

// Skip returns what a sweep is to return of an error: nil where a stored document cannot be
// read, which is told at its end.
func (s Sweep) Skip(err error) error { return s.unreadable.skip(err) }

// Leave reports that the part is to be left for others, since events need the worker.
func (s Sweep) Leave() bool { return s.leave != nil && s.leave() }

// Note adds to what is recorded of the sweep.
func (s Sweep) Note(change func(*ledger.SweepTotals)) { s.totals.add(change) }

// Each is reaction.Each, without what cannot be read.
func Each[T any](ctx context.Context, s Sweep, items []T, do func(context.Context, T) error) error {
	return reaction.Each(ctx, items, func(ctx context.Context, item T) error { return s.Skip(do(ctx, item)) })
}

// GuardAlert is what the alerts of a sweep about cmkeeper itself have in common.
func (s Sweep) GuardAlert(id string, severity finding.Severity) alert.Alert {
	return alert.Alert{
		ID: id, Kind: alert.KindGuard, Severity: severity, EventName: reaction.SweepName, Time: s.Start,
		Account: s.Config.Identity.Account, Region: s.Config.Region, Action: alert.Action{Status: alert.StatusNone},
	}
}
