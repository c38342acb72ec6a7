// Package selfcheck has the fleet look at itself: whether events, sweeps and alerts still
// come through, whether a call of our own comes back as an event (the canary), and what the
// role cannot do although its modes need it. Package guard judges; here facts are gathered
// and people told.
package selfcheck

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/guard"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/handlers/sweep"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

// Checks are what a worker knows of whether the guard itself works. It is safe for
// concurrent use.
type Checks struct {
	*reaction.Env
	heard heard
	// powers is what the role cannot do.
	powers powers
}

// New begins to listen for the schedule.
func New(e *reaction.Env) *Checks {
	return &Checks{Env: e, heard: heard{since: ledger.Now()}, powers: powers{turn: make(chan struct{}, 1)}}
}

// look is a sweep that checks.
type look struct {
	*Checks
	sweep.Sweep
}

// Check judges at the end of a sweep whether the guard sees, and tells what keeps it from
// that: once while it lasts, and once when it is over. It tells by itself what it finds.
func (k *Checks) Check(ctx context.Context, s sweep.Sweep) error { return look{k, s}.check(ctx) }

// SendCanary makes the call of ours whose event has to come back, unless one is under way,
// and notes those that did not. It writes whatever the modes are.
func (k *Checks) SendCanary(ctx context.Context, s sweep.Sweep) error {
	return look{k, s}.sendCanary(ctx)
}

// check judges whether the guard sees, and tells what keeps it from that: once while it
// lasts, and once when it is over. What seems to be over is looked at again when a second
// look can tell, so that it is told by the same sweep.
func (s look) check(ctx context.Context) error {
	if s.Guard == nil {
		return nil
	}
	due, err := s.lookAtGuard(ctx)
	if err != nil || due.IsZero() {
		return err
	}
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	_, err = s.lookAtGuard(ctx)
	return err
}

// lookAtGuard makes all checks once, and tells. due is when another look can end something.
func (s look) lookAtGuard(ctx context.Context) (due time.Time, err error) {
	at := ledger.Now()
	facts := s.Guard(ctx)
	facts.At, facts.Ticks, facts.Canary = at, s.ticks(ctx), s.canaryFacts(ctx)
	facts.Role, facts.Lacks = s.Config.Identity.String(), s.roleFacts(ctx)
	results := guard.Judge(facts)
	problems, looked := s.judged(ctx, results)
	var live []ledger.Open
	for _, p := range problems {
		live = append(live, ledger.Open{Name: p.Name, Severity: p.Severity})
	}
	var seen ledger.Seen
	var known ledger.Guard
	err = state.Update(ctx, s.State, ledger.GuardName, func(doc *ledger.Guard, _ bool) error {
		seen = doc.Standing.See(ledger.Look{Live: live, Looked: looked, Judged: true, At: at})
		known, due = *doc, time.Time{}
		if wait := doc.Standing.Wait(looked, at); wait > 0 {
			due = at.Add(wait)
		}
		return nil
	})
	if err != nil {
		return due, fmt.Errorf("note what the guard needs: %w", err)
	}
	var errs []error
	for _, p := range problems {
		errs = append(errs, s.tellProblem(ctx, p, known, seen, at))
	}
	for _, o := range seen.Over {
		errs = append(errs, s.tellOver(ctx, o, known.TitleOf(o.Name)))
	}
	return due, errors.Join(errs...)
}

// judged returns the problems of all checks, with what was not looked at as one of them, and
// what says whether a problem of a name could be seen.
func (s look) judged(ctx context.Context, results []guard.Result) (problems []guard.Problem, looked func(name string) bool) {
	unread := map[string]bool{}
	var fine, found, not []string
	for _, r := range results {
		problems = append(problems, r.Problems...)
		for _, p := range r.Problems {
			found = append(found, p.Name)
		}
		switch {
		case r.Unread != nil:
			unread[r.Check.Name] = true
			not = append(not, r.Check.Name)
		case len(r.Problems) == 0:
			fine = append(fine, r.Check.Name)
		}
	}
	s.Logger.InfoContext(ctx, "guard checked", "fine", fine, "problems", found, "not_looked_at", not)
	if p, ok := guard.Unread(results); ok {
		problems = append(problems, p)
	}
	return problems, func(name string) bool {
		check, _, _ := strings.Cut(name, "/")
		return !unread[check]
	}
}

// tellProblem tells a problem that is new or worse, and repeats one that people know when
// that is due.
func (s look) tellProblem(ctx context.Context, p guard.Problem, known ledger.Guard, seen ledger.Seen, at time.Time) error {
	i := slices.IndexFunc(known.Standing.Open, func(o ledger.Open) bool { return o.Name == p.Name })
	if i < 0 {
		return nil // there are more problems than the document has room for
	}
	open := known.Standing.Open[i]
	is := func(o ledger.Open) bool { return o.Name == p.Name }
	told := slices.ContainsFunc(seen.New, is) || slices.ContainsFunc(seen.Worse, is)
	if !told && p.Choice {
		return nil
	}
	if p.Patient && open.Since.Equal(at) {
		return nil // it may be over by the next sweep
	}
	a := s.GuardAlert(open.Alert, p.Severity)
	if told {
		a.ID = fmt.Sprintf("guard/%x/%d/%s", sha256.Sum256([]byte(p.Name)), open.Since.Unix(), p.Severity)
	}
	a.Ongoing = !p.Choice
	a.Title, a.Summary, a.Risk, a.Next, a.Findings = p.Title, p.Summary, p.Risk, p.Next, p.Findings
	a.Action.Description = "cmkeeper does not change its own set-up."
	if len(p.Details) > 0 {
		a.Facts = []alert.Fact{{Name: "details", Source: "read by the sweep", Values: p.Details}}
	}
	if err := s.Publish(ctx, a); err != nil || !told {
		return err
	}
	return s.updateGuard(ctx, func(doc *ledger.Guard) {
		doc.Told(a.ID, p.Title, ledger.Open{Name: p.Name, Severity: p.Severity, Since: open.Since})
	})
}

// tellOver tells that a problem is over.
func (s look) tellOver(ctx context.Context, o ledger.Open, title string) error {
	a := s.GuardAlert(o.Alert+"/resolved", finding.Info)
	a.Resolves = o.Alert
	a.Title = "Resolved: " + title
	a.Summary = fmt.Sprintf("This was so since %s. Two reads, a minute apart, do not show it any more.", reaction.TimeText(o.Since))
	a.Action = alert.Action{Status: alert.StatusResolved, Description: "cmkeeper only looked: somebody else mended it."}
	if err := s.Publish(ctx, a); err != nil {
		return err
	}
	return s.updateGuard(ctx, func(doc *ledger.Guard) { doc.Ended(o) })
}

func (s look) updateGuard(ctx context.Context, change func(*ledger.Guard)) error {
	return state.Update(ctx, s.State, ledger.GuardName, func(doc *ledger.Guard, _ bool) error {
		change(doc)
		return nil
	})
}

// heard is what this worker knows of the schedule.
type heard struct {
	// since is since when it listens.
	since time.Time
	mu    sync.Mutex
	last  time.Time
}

// tickPrecision is how much later a tick has to be than the last one for it to be noted:
// what asks more often is no schedule.
const tickPrecision = time.Minute

// NoteTick notes that a message of the schedule arrived that SQS took then. A forged
// one causes a sweep, as the schedule does, and nothing else.
func (k *Checks) NoteTick(ctx context.Context, sent time.Time) {
	if sent.IsZero() {
		sent = ledger.Now()
	}
	k.heard.mu.Lock()
	fresh := sent.Sub(k.heard.last) >= tickPrecision
	if fresh {
		k.heard.last = sent
	}
	k.heard.mu.Unlock()
	if !fresh {
		return
	}
	err := state.Update(ctx, k.State, ledger.TicksName, func(t *ledger.Ticks, _ bool) error {
		if sent.Sub(t.Last) < tickPrecision {
			return state.ErrUnchanged
		}
		t.Last = sent.UTC().Round(0)
		return nil
	})
	if err != nil {
		k.Logger.WarnContext(ctx, "it cannot be stored that the schedule asked for a sweep", "error", err)
	}
}

// ticks is when the schedule asked for sweeps, whichever worker heard it.
func (k *Checks) ticks(ctx context.Context) guard.Known[guard.Ticks] {
	known := guard.Known[guard.Ticks]{Value: guard.Ticks{Interval: k.Config.SweepInterval, Since: k.heard.since}}
	var doc ledger.Ticks
	if _, err := k.State.Get(ctx, ledger.TicksName, &doc); err != nil && !errors.Is(err, state.ErrNotFound) {
		known.Err = fmt.Errorf("read when the schedule last asked for a sweep: %w", err)
	}
	known.Value.Last = doc.Last
	k.heard.mu.Lock()
	defer k.heard.mu.Unlock()
	if k.heard.last.After(doc.Last) {
		known.Value.Last = k.heard.last
	}
	return known
}

// Asked has the fleet sweep for somebody who asked at a time.
type Asked func(ctx context.Context, asked func(now time.Time) time.Time) error

// Watch sweeps when the schedule has not asked for that for twice its interval, until ctx is
// done. The fleet makes one sweep then, as for a tick: asked is sweep.Fleet.Asked.
func (k *Checks) Watch(ctx context.Context, asked Asked) {
	tick := time.NewTicker(k.Config.SweepInterval / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := k.sweepIfOverdue(ctx, asked); err != nil && ctx.Err() == nil && outcome.Of(err).Action != outcome.Delay {
			k.Logger.ErrorContext(ctx, "sweep without a schedule", "error", err)
		}
	}
}

func (k *Checks) sweepIfOverdue(ctx context.Context, sweep Asked) error {
	now := ledger.Now()
	k.heard.mu.Lock()
	mine := guard.Ticks{Interval: k.Config.SweepInterval, Last: k.heard.last, Since: k.heard.since}
	k.heard.mu.Unlock()
	if _, overdue := mine.Overdue(now); !overdue {
		return nil // no need to ask what others heard
	}
	t := k.ticks(ctx)
	if _, overdue := t.Value.Overdue(now); !overdue {
		return nil
	}
	k.Logger.WarnContext(ctx, "the schedule does not ask for sweeps: a worker does", "last", t.Value.Last, "interval", k.Config.SweepInterval)
	limit := guard.TickLimit * k.Config.SweepInterval
	return sweep(ctx, func(now time.Time) time.Time {
		asked := now.Add(-limit)
		for _, from := range []time.Time{t.Value.Last, k.heard.since} { // a sweep since it was overdue has told so
			if from.Add(limit).After(asked) {
				asked = from.Add(limit)
			}
		}
		return asked
	})
}
