package reaction

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/state"
)

// Reaction is something that is done about occurrences.
type Reaction struct {
	Name string
	// Decide reads what it needs through the case, and decides. It changes nothing but
	// the working copies of the case's documents, and may be called again, after
	// another worker has written one of them. nil: there is nothing to be done. An
	// error is one of package outcome's.
	Decide func(context.Context, *Case) (*Decision, error)
}

// Decision is what a reaction wants to have done. What is nil is not to be done. The
// functions share what they find out.
type Decision struct {
	// Act does it, and checks that it took effect. An error leaves the rest of the
	// decision but for Tell undone, and the message comes back.
	Act func(context.Context) error
	// Gather reads what only the text of the alert needs, in bounded time. What cannot
	// be read then is told as unknown.
	Gather func(context.Context)
	// Tell returns the alerts, and reads nothing.
	Tell func() []alert.Alert
	// Told is what the documents are to say once the alerts are published.
	Told Told
	// Once, if set, is the id of an alert that stands for an hour of occurrences: when
	// it is published, Case.ToldThisHour remembers it.
	Once string
}

// Told is what documents are to say once alerts are published. Each change has to be
// safe to apply twice; nil changes nothing.
type Told struct {
	Key      func(*ledger.Key)
	Baseline func(*ledger.Baseline)
	Alias    func(*ledger.Alias)
	Bucket   func(*ledger.Bucket)
}

// FactsTimeout bounds how long an alert waits for what only its text needs.
const FactsTimeout = 10 * time.Second

// taken is a decision, and how it went.
type taken struct {
	name string
	*Decision
	alerts []alert.Alert
	err    error
}

func (t *taken) fail(err error) {
	if err != nil {
		t.err = errors.Join(t.err, fmt.Errorf("%s: %w", t.name, err))
	}
}

// React has all reactions decide on a case and does what they decided, as the package
// says. They act in their order. What one of them fails at, or waits for, holds up
// none of the others. nil: everything that had to be done is done. The errors are
// marked per package outcome.
func (e *Env) React(ctx context.Context, c *Case, reactions ...Reaction) error {
	all := c.decide(ctx, reactions)
	for _, t := range all {
		if t.Act != nil {
			t.fail(t.Act(ctx))
		}
	}
	var err error
	if err = context.Cause(ctx); err == nil { // else the message comes back, and all of it is told then
		c.tell(ctx, all)
		err = c.settle(ctx, all)
	}
	errs := []error{err}
	for _, t := range all {
		errs = append(errs, t.err)
	}
	return errors.Join(errs...)
}

// decide has the reactions decide, and stores what they intend. Where it cannot be
// stored, nothing may be done: they decide again, knowing that.
func (c *Case) decide(ctx context.Context, reactions []Reaction) []*taken {
	var all []*taken
	once := func() {
		all = nil
		for _, r := range reactions {
			d, err := r.Decide(ctx, c)
			if d == nil {
				d = &Decision{}
			}
			t := &taken{name: r.Name, Decision: d}
			t.fail(err)
			all = append(all, t)
		}
	}
	err := state.Retry(ctx, func() error {
		once()
		return c.store(ctx)
	}, c)
	if err != nil {
		c.unstored = fmt.Errorf("store what is about to be done: %w", err)
		once()
	}
	return all
}

// Redecide has a reaction decide again while it acts, because what others did may
// have changed the facts, and stores what it intends.
func (c *Case) Redecide(ctx context.Context, decide func(context.Context) error) error {
	return state.Retry(ctx, func() error {
		if err := decide(ctx); err != nil {
			return err
		}
		return c.store(ctx)
	}, c)
}

// tell has the decisions made into alerts and publishes them.
func (c *Case) tell(ctx context.Context, all []*taken) {
	bounded, cancel := context.WithTimeout(ctx, FactsTimeout)
	defer cancel()
	for _, t := range all {
		if t.Tell != nil {
			c.gatherNames(bounded)
		}
		if t.Gather != nil {
			t.Gather(bounded)
		}
	}
	for _, t := range all {
		if t.Tell != nil {
			t.alerts = t.Tell()
		}
		for i, a := range t.alerts {
			t.alerts[i] = c.judge(ctx, a)
		}
	}
	for _, t := range all {
		for _, a := range t.alerts {
			t.fail(c.Publish(ctx, a))
		}
	}
}

// settle stores what the published alerts have settled, in one write to each document.
func (c *Case) settle(ctx context.Context, all []*taken) error {
	var key []func(*ledger.Key)
	var errs []error
	for _, t := range all {
		if t.err != nil {
			continue
		}
		if t.Once != "" && len(t.alerts) > 0 {
			c.told.add(c.hour(), t.Once)
		}
		if t.Told.Key != nil {
			key = append(key, t.Told.Key)
		}
		if t.Told.Baseline != nil {
			errs = append(errs, c.UpdateBaseline(ctx, t.Told.Baseline))
		}
		errs = append(errs, c.alias.update(ctx, t.Told.Alias), c.bucket.update(ctx, t.Told.Bucket))
	}
	if len(key) > 0 {
		errs = append(errs, c.Update(ctx, func(k *ledger.Key) {
			for _, change := range key {
				change(k)
			}
		}))
	}
	return errors.Join(errs...)
}
