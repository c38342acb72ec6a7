package reaction

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/internal/eventlog"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// Reaction is something that is done about occurrences.
type Reaction struct {
	Name string
	// Mode is how far it goes, "" where that does not matter.
	Mode Mode
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
	// be read then is shown as unknown.
	Gather func(context.Context)
	// Tell returns the alerts, and reads nothing.
	Tell func() []alert.Alert
	// Told is what the documents are to say once the alerts are published.
	Told Told
	// Once, if set, is the id of an alert that stands for an hour of occurrences: when
	// it is published, Case.ToldThisHour remembers it.
	Once string
	// Tells says whether what it tells has just happened.
	Tells Telling
	// Watch, if set, tells what else is wrong, and what is over.
	Watch *Watch
}

// Telling says of what kind it is what a decision tells, unless it did something about it.
type Telling int

// The kinds.
const (
	// Happened: it has just happened, and is told as such.
	Happened Telling = iota
	// Stands: it may have been so for long. At the first meeting of an account that is told
	// together with everything else, and it is told once while it lasts.
	Stands
	// Reminds: it may have been so for long, and is told again and again.
	Reminds
)

// Told is what documents are to say once alerts are published. Each change has to be
// safe to apply twice; nil changes nothing.
type Told struct {
	Key      func(*ledger.Key)
	Baseline func(*ledger.Baseline)
	Alias    func(*ledger.Alias)
	Bucket   func(*ledger.Bucket)
	Account  func(*ledger.Account)
	Access   func(*ledger.Access)
	Review   func(*ledger.AccessReview)
}

// and is what two have documents say.
func (t Told) and(o Told) Told {
	return Told{both(t.Key, o.Key), both(t.Baseline, o.Baseline), both(t.Alias, o.Alias), both(t.Bucket, o.Bucket), both(t.Account, o.Account), both(t.Access, o.Access), both(t.Review, o.Review)}
}

// both are two changes, one after the other; nil changes nothing.
func both[D any](a, b func(D)) func(D) {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return func(doc D) {
		a(doc)
		b(doc)
	}
}

// FactsTimeout bounds how long an alert waits for what only its text needs.
const FactsTimeout = 10 * time.Second

// taken is a decision, and how it went.
type taken struct {
	name string
	mode Mode
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
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	ctx = eventlog.With(ctx, noted(c.Event))
	all := c.decide(ctx, reactions)
	c.logDecisions(ctx, all)
	for _, t := range all {
		if t.Act != nil {
			c.did.Acted = true
			t.fail(t.Act(ctx))
		}
	}
	if err = context.Cause(ctx); err == nil { // else the message comes back, and all alerts are published then
		c.compose(ctx, all)
		err = c.tell(ctx, all)
	}
	errs := []error{err}
	for _, t := range all {
		errs = append(errs, t.err)
		c.count(t, err)
	}
	if c.awaits {
		errs = append(errs, unconfirmed())
	}
	return errors.Join(append(errs, watching(all))...)
}

// decide has the reactions decide, and stores what they intend. Where it cannot be
// stored, nothing may be done: they decide again, knowing that.
func (c *Case) decide(ctx context.Context, reactions []Reaction) []*taken {
	var all []*taken
	once := func() error {
		all, c.awaits = nil, false
		for _, r := range reactions {
			d, err := r.Decide(ctx, c)
			if d == nil {
				d = &Decision{}
			}
			t := &taken{name: r.Name, mode: r.Mode, Decision: d}
			t.fail(err)
			all = append(all, t)
		}
		return nil
	}
	if err := c.settle(ctx, once); err != nil {
		c.unstored = fmt.Errorf("store what is about to be done: %w", err)
		_ = once()
	}
	return all
}

// noted is how log records tell an event: a claim and CloudTrail's record of it alike.
func noted(e events.Event) eventlog.Event {
	return eventlog.Event{ID: events.Occurrence(e.ID), Name: e.Name}
}

// logDecisions logs what was decided; of a sweep only what is more than nothing.
func (c *Case) logDecisions(ctx context.Context, all []*taken) {
	for _, t := range all {
		if t.Act != nil || t.Tell != nil || t.err != nil || !c.IsSweep() {
			c.Debug(ctx, "decided", "reaction", t.name, "acts", t.Act != nil, "tells", t.Tell != nil, "error", t.err)
		}
	}
}

// count counts what came of a decision. failed is what keeps all of them from being complete.
func (c *Case) count(t *taken, failed error) {
	mode, result := string(t.mode), "quiet"
	switch {
	case t.err != nil || failed != nil:
		result = "error"
	case len(t.alerts) > 0:
		did := t.alerts[0].Action
		mode, result = cmp.Or(did.Mode, mode), string(cmp.Or(did.Status, alert.StatusNone))
	case c.awaits:
		result = "waiting"
	}
	c.Metrics.Reacted(t.name, mode, result, c.IsSweep())
	if after, ok := c.latency(result, time.Now()); ok {
		c.Metrics.ReactionEnded(t.name, after)
	}
}

// latency is how long after its event a reaction is complete. There is none before it is,
// for a sweep, and for an event that only a message says the time of: whoever may send
// messages could make the figure what they like.
func (c *Case) latency(result string, now time.Time) (after time.Duration, ok bool) {
	if result == "error" || result == "waiting" || c.IsSweep() || c.Event.Claimed {
		return 0, false
	}
	return now.Sub(c.Event.Time), true
}

// Redecide has a reaction decide again while it acts, because what others did may
// have changed the facts, and stores what it intends.
func (c *Case) Redecide(ctx context.Context, decide func(context.Context) error) error {
	return c.settle(ctx, func() error { return decide(ctx) })
}

// compose has the decisions made into alerts.
func (c *Case) compose(ctx context.Context, all []*taken) {
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
		if t.Watch != nil {
			t.Watch.compose(bounded, c, t, all)
		}
	}
}

// tell publishes the alerts, and stores that they are published.
func (c *Case) tell(ctx context.Context, all []*taken) error {
	alerts, critical := false, false
	for _, t := range all {
		for _, a := range t.alerts {
			alerts, critical = true, critical || a.Severity.AtLeast(finding.Critical)
		}
	}
	leave, err := c.enterTelling(alerts, critical)
	if err != nil {
		return err
	}
	defer leave()
	for _, t := range all {
		for _, a := range t.alerts {
			c.tellClaim(&a)
			c.did.Alerts = append(c.did.Alerts, a.Severity)
			t.fail(c.Publish(ctx, a))
		}
	}
	return c.recordPublished(ctx, all)
}

// recordPublished stores that the alerts are published, in one write to each document.
func (c *Case) recordPublished(ctx context.Context, all []*taken) error {
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
		errs = append(errs, c.alias.update(ctx, t.Told.Alias), c.bucket.update(ctx, t.Told.Bucket), c.own.update(ctx, t.Told.Account), c.access.update(ctx, t.Told.Access), c.review.update(ctx, t.Told.Review))
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

// Perform makes a call whose intent is stored already, and stores its request ids, by
// which the event of the call is recognised when it comes back.
func (c *Case) Perform(ctx context.Context, operation string, r ledger.Repair, call func(context.Context) (middleware.Metadata, error)) error {
	leave, err := c.enterWriting(operation)
	if err == nil {
		err = c.writes.Wait(ctx)
		leave()
	}
	if err != nil {
		return fmt.Errorf("wait to call %s: %w", operation, err)
	}
	meta, err := call(ctx)
	if err != nil {
		err = fmt.Errorf("call %s on key %s: %w", operation, c.Event.KeyARN, err)
		if !IsRefusal(err) {
			return err // it may have happened: the intent stays
		}
		at := ledger.Now()
		return errors.Join(err, c.Update(ctx, func(k *ledger.Key) {
			if k.Refuse(operation, r); isAccessDenied(err) {
				k.NoteDenied(operation, err.Error(), at)
			}
		}))
	}
	c.did.Repairs++
	c.Log().InfoContext(ctx, "key changed", "operation", operation)
	ids, known := requestIDs(meta)
	return c.Update(ctx, func(k *ledger.Key) { k.Confirm(operation, r, ids, known) })
}

// requestIDs returns the request ids of all attempts of a call that succeeded, and
// whether every attempt has one. An attempt whose answer was lost has none, yet may
// be the one that CloudTrail shows.
func requestIDs(meta middleware.Metadata) (ids []string, known bool) {
	attempts, ok := retry.GetAttemptResults(meta)
	if !ok {
		id, ok := awsmiddleware.GetRequestIDMetadata(meta)
		return []string{id}, ok && id != ""
	}
	known = true
	for _, a := range attempts.Results {
		if id, ok := awsmiddleware.GetRequestIDMetadata(a.ResponseMetadata); ok && id != "" {
			ids = append(ids, id)
		} else {
			known = false
		}
	}
	return ids, known && len(ids) > 0
}

// IsRefusal reports whether AWS answered that it did not do what was asked.
func IsRefusal(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && api.ErrorFault() == smithy.FaultClient || isAccessDenied(err)
}

// isAccessDenied recognises the refusal that no KMS operation models.
func isAccessDenied(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && (api.ErrorCode() == "AccessDeniedException" || api.ErrorCode() == "AccessDenied")
}

// How a repair is checked: the read-back is polled this often, with doubling pauses
// (about 6 seconds in all), and then again when the message comes back.
const (
	readBacks     = 6
	readBackPause = 100 * time.Millisecond
	// ReadBackAgain is how long a message waits whose repair KMS does not show yet.
	ReadBackAgain = 15 * time.Second
)

// ReadBack polls until seen is true. Where it never is, the result is an expected
// wait: KMS says it did it, and may take longer to show it.
func ReadBack(ctx context.Context, what string, seen func(context.Context) (bool, error)) error {
	pause := readBackPause
	for range readBacks {
		ok, err := seen(ctx)
		if err != nil {
			return fmt.Errorf("read back %s: %w", what, err)
		}
		if ok {
			return nil
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-t.C:
		}
		pause *= 2
	}
	return outcome.RetryAfter(ReadBackAgain, fmt.Errorf("read back %s: KMS does not show it yet", what))
}

// WaitForConsistency returns an expected wait while an event is too fresh for a live
// read that contradicts it to be believed, else nil.
func WaitForConsistency(e events.Event, what string) error {
	if left := ledger.ConsistencyWindow - time.Since(e.Time); left > 0 && left <= ledger.ConsistencyWindow {
		return outcome.RetryAfter(left, fmt.Errorf("%s: waiting for KMS to show what the event says", what))
	}
	return nil
}

// ErrOutdated says that another worker has read the key later than the case did, and
// found it in another state.
var ErrOutdated = errors.New("another worker has read the key since, in another state")

// ReadAgain is what becomes of a case that is outdated: an event is handled again with
// new facts, and a sweep leaves the key to the worker that has read it later.
func (c *Case) ReadAgain() error {
	if c.IsSweep() {
		return nil
	}
	return outcome.RetryAfter(time.Second, ErrOutdated)
}

// concurrency is how many keys or aliases are worked on at a time. Each costs a handful
// of reads, of which KMS allows a thousand a second; changes are limited by
// writesPerSecond.
const concurrency = 8

// Each calls do for all items, some at a time, and joins their errors: one that fails
// stops none of the others. A context that is done stops them all.
func Each[T any](ctx context.Context, items []T, do func(context.Context, T) error) error {
	var mu sync.Mutex
	var errs []error
	var g errgroup.Group
	g.SetLimit(concurrency)
	for _, item := range items {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			if err := do(ctx, item); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
			return nil
		})
	}
	_ = g.Wait() // the functions return nil
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return errors.Join(errs...)
}

// ReadBackKey polls until the key is as wanted. NoteKey then notes it.
func (c *Case) ReadBackKey(ctx context.Context, wanted func(inventory.Key) bool) error {
	return ReadBack(ctx, "state of key "+c.Event.KeyARN, func(ctx context.Context) (bool, error) {
		key, err := c.KeyAgain(ctx)
		return err == nil && wanted(key), err
	})
}

// NoteKey notes in its document the key as it was last read.
func (c *Case) NoteKey(ctx context.Context) error {
	return c.Update(ctx, func(k *ledger.Key) { c.see(k, c.key.value, c.key.at) })
}
