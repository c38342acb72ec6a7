package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/sweep"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
	"github.com/cmkeeper/cmkeeper/worker"
)

// sight watches whether a member sees the events queue, and tells when it does not: on the
// topic directly, since nothing else of the member may work.
type sight struct {
	pool   *worker.Pool
	after  time.Duration
	alerts *alert.Publisher
	store  *state.Store
	log    *slog.Logger
	// look is how often a member that sees looks whether others were blind, and ended.
	look time.Duration

	worker, account, region string

	why atomic.Pointer[string] // nil while it sees
	// The rest is run's alone.
	told     time.Time // when this member last published without a claim
	alone    string    // the ID of that alert, "" for none
	renewed  time.Time
	nextLook time.Time
	nextNote time.Time
}

// sightStep is how often the member looks at itself.
const sightStep = 5 * time.Second

// blindTimeout bounds what is asked of the state bucket.
const blindTimeout = 10 * time.Second

// blindness is why the member is blind, "" while it sees.
func (s *sight) blindness() string {
	if why := s.why.Load(); why != nil {
		return "blind: " + *why
	}
	return ""
}

// run watches until ctx is done.
func (s *sight) run(ctx context.Context) {
	s.nextLook = time.Now().Add(s.after)
	for {
		now := time.Now()
		cause, why, due := s.pool.Sight().Blind(now, s.after)
		if ctx.Err() != nil {
			return // it stops receiving because it is to stop
		}
		s.note(ctx, cause, why)
		wait := sightStep
		if cause == worker.Sees {
			s.seeing(ctx, now)
			s.alive(ctx, now)
			wait = max(time.Millisecond, min(wait, due.Sub(now)))
		} else if now.Sub(s.renewed) >= ledger.BlindRenewal {
			s.renewed = now
			s.tell(ctx, cause, why, now)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// note has /readyz say it, and logs the change.
func (s *sight) note(ctx context.Context, cause worker.Cause, why string) {
	was := s.why.Load() != nil
	switch {
	case cause != worker.Sees:
		s.why.Store(&why)
		if !was {
			s.log.ErrorContext(ctx, "the worker is blind", "cause", cause, "reason", why)
			s.renewed = time.Time{}
		}
	case was:
		s.why.Store(nil)
		s.log.InfoContext(ctx, "the worker sees again")
		s.nextLook = time.Time{}
	}
}

// tell publishes that the member is blind: once for all that are, and where the state bucket
// does not answer, once an hour for each.
func (s *sight) tell(ctx context.Context, cause worker.Cause, why string, now time.Time) {
	a := s.alert(cause, why, now)
	var doc ledger.Blind
	err := s.update(ctx, func(b *ledger.Blind) bool {
		b.See(a.ID, a.Title, s.store.Now().UTC().Round(0))
		doc = *b
		return true
	})
	if err == nil {
		a.ID = doc.Alert
	} else if now.Sub(s.told) < time.Hour {
		return
	}
	published := s.alerts.Direct(ctx, a)
	if published != nil && outcome.Of(published).Action == outcome.Delay {
		return // another member publishes it
	}
	if err != nil && published == nil {
		s.told, s.alone = now, a.ID
	}
	if published != nil || err != nil {
		s.log.WarnContext(ctx, "the alert that this worker is blind", "published", published == nil, "error", errors.Join(err, published))
	}
}

// seeing tells, once for the fleet, that nobody is blind any more.
func (s *sight) seeing(ctx context.Context, now time.Time) {
	if now.Before(s.nextLook) {
		return
	}
	s.nextLook = now.Add(s.look)
	if s.alone != "" {
		if err := s.alerts.Direct(ctx, s.over(s.alone, "cmkeeper is blind", now)); err != nil {
			s.nextLook = now.Add(ledger.BlindRenewal)
		} else {
			s.alone, s.told = "", time.Time{}
		}
	}
	var doc ledger.Blind
	var over bool
	var wait time.Duration
	err := s.update(ctx, func(b *ledger.Blind) bool {
		doc = *b
		over, wait = b.Over(s.store.Now())
		return false
	})
	switch {
	case err != nil || doc.Alert == "":
		return
	case !over:
		s.nextLook = now.Add(wait + time.Second)
		return
	}
	if err = s.alerts.Direct(ctx, s.over(doc.Alert, doc.Title, now)); err == nil {
		err = s.update(ctx, func(b *ledger.Blind) bool {
			ended := b.Alert == doc.Alert && b.Seen.Equal(doc.Seen)
			if ended {
				*b = ledger.Blind{}
			}
			return ended
		})
	}
	if err != nil {
		s.nextLook = now.Add(ledger.BlindRenewal)
		s.log.WarnContext(ctx, "it cannot be told that no worker is blind any more", "error", err)
	}
}

// alive notes for the fleet that this member receives, so that one that starts later knows
// whether there was an outage. Where that fails, it sweeps once too often.
func (s *sight) alive(ctx context.Context, now time.Time) {
	received := s.pool.Sight().Received
	if now.Before(s.nextNote) || received.IsZero() || now.Sub(received) > ledger.AliveEvery {
		return
	}
	s.nextNote = now.Add(ledger.AliveEvery)
	ctx, cancel := context.WithTimeout(ctx, blindTimeout)
	defer cancel()
	if _, err := sweep.SeeAlive(ctx, s.store); err != nil && ctx.Err() == nil {
		s.log.WarnContext(ctx, "note for the next start", "error", err)
	}
}

// update changes the fleet's document in bounded time, unless change returns false.
func (s *sight) update(ctx context.Context, change func(*ledger.Blind) bool) error {
	ctx, cancel := context.WithTimeout(ctx, blindTimeout)
	defer cancel()
	return state.Update(ctx, s.store, ledger.BlindName, func(b *ledger.Blind, _ bool) error {
		if !change(b) {
			return state.ErrUnchanged
		}
		return nil
	})
}

// alert is the alert that this member is blind.
func (s *sight) alert(cause worker.Cause, why string, now time.Time) alert.Alert {
	a := alert.Alert{
		ID: fmt.Sprintf("blind/%s/%s/%s/%d", s.account, s.region, s.worker, now.UnixMilli()), Kind: alert.KindGuard, Severity: finding.Critical,
		Time: now.UTC(), Account: s.account, Region: s.region, Ongoing: true,
		Title:   "cmkeeper is blind: it cannot receive events",
		Summary: fmt.Sprintf("A worker cannot receive from the events queue: %s.", why),
		Risk:    "No change to a key is noticed, alerted or undone while this lasts. If somebody disabled the key of the queue, it may be the beginning of an attack.",
		Action:  alert.Action{Status: alert.StatusNone, Description: "The worker keeps trying. /readyz fails until it sees again."},
		Next:    []string{"Follow the fix in the summary. If the queue is encrypted under a customer managed key, enable that key, and use SSE-SQS instead."},
		Facts:   []alert.Fact{{Name: "worker", Values: []string{s.worker}}},
	}
	switch cause {
	case worker.NoSlot:
		a.Title = "cmkeeper is blind: no slot is free for events"
		a.Summary = fmt.Sprintf("A worker receives no events: %s.", why)
		a.Risk = "Events wait in the queue while this lasts; no change to a key is noticed, alerted or undone meanwhile."
		a.Next = []string{"Look in the worker's log for what the messages wait for: throttled calls, a service that does not answer. Start more workers, or set CMKEEPER_EVENTS_CONCURRENCY higher."}
	case worker.Behind:
		a.Title = "cmkeeper is behind: events wait for too long"
		a.Summary = fmt.Sprintf("A worker receives events late: %s.", why)
		a.Risk = "Changes to keys are noticed, alerted and undone late."
		a.Next = []string{"Find out what fills the events queue. Start more workers, or set CMKEEPER_EVENTS_CONCURRENCY higher."}
	case worker.CannotReceive, worker.Sees:
	}
	return a
}

// over is the alert that ends the one with the ID.
func (s *sight) over(id, title string, now time.Time) alert.Alert {
	return alert.Alert{
		ID: id + "/resolved", Kind: alert.KindGuard, Severity: finding.Info, Time: now.UTC(), Account: s.account, Region: s.region, Resolves: id,
		Title: "Resolved: " + title, Summary: "A worker receives events, and none has said for two minutes that it is blind.",
		Action: alert.Action{Status: alert.StatusResolved, Description: "What happened meanwhile is in the queue, and the next sweep finds the rest."},
	}
}
