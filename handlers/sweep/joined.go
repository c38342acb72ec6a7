package sweep

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

const (
	// startupAge is how long ago the fleet's last sweep may have begun for a worker that
	// starts to need none, unless nobody received meanwhile. What happened since is in the
	// queue, or was handled.
	startupAge = 15 * time.Minute
	// attempts is how many sweeps in a row fail before the message of the schedule
	// that asked for the last one goes to the dead-letter queue: three hours.
	attempts = 10
)

// Startup is Sweep, unless the fleet's last one began a short time ago, and after any time
// for which no worker received. The error is an outcome.RetryAfter where another worker
// sweeps now, or where the sweep failed.
func (f *Fleet) Startup(ctx context.Context) error {
	alive, err := SeeAlive(ctx, f.State)
	if err != nil {
		f.Logger.WarnContext(ctx, "whether the fleet was out is not known, so this worker sweeps", "error", err)
		alive.Since = f.State.Now()
	}
	_, err = f.once(ctx, func(now time.Time) time.Time { return alive.Asked(now, startupAge) })
	return err
}

// SeeAlive notes that a worker of the fleet receives, and returns what is noted of that.
func SeeAlive(ctx context.Context, store *state.Store) (alive ledger.Alive, err error) {
	err = state.Update(ctx, store, ledger.AliveName, func(a *ledger.Alive, _ bool) error {
		changed := a.See(store.Now().UTC().Round(0))
		if alive = *a; !changed {
			return state.ErrUnchanged
		}
		return nil
	})
	if err != nil {
		return alive, fmt.Errorf("note that a worker receives: %w", err)
	}
	return alive, nil
}

// For handles a message of the schedule that SQS took at the time sent: the message is
// done when any worker has completed a sweep that began later. Until then the message
// waits, and takes up no slot. It is rejected when too many sweeps have failed: the
// later ones of the schedule go on.
func (f *Fleet) For(ctx context.Context, sent time.Time) error {
	failures, err := f.once(ctx, func(now time.Time) time.Time {
		if sent.IsZero() {
			return now
		}
		return sent
	})
	if failures >= attempts {
		return outcome.Reject(err)
	}
	return err
}

// once sweeps, once for all who ask before it begins. asked is when the caller did, by
// SQS's or S3's clock, of which it gets the time; nobody's own clock decides. failures is
// how many sweeps in a row have failed, where this one did.
func (f *Fleet) once(ctx context.Context, asked func(now time.Time) time.Time) (failures int, err error) {
	for {
		t := &taking{by: rand.Text()}
		var began time.Time
		var run string
		var wait time.Duration
		var swept bool
		err = f.update(ctx, func(s *ledger.Sweeps, now time.Time) bool {
			if strings.HasSuffix(s.Run, t.by) { // the answer was lost
				return false
			}
			if wait, swept = s.Wait(asked(now), now); swept {
				return false
			}
			if s.Planned(now) {
				wait = max(wait, ledger.SweepRenewal)
				return f.help(s, t, now)
			}
			if wait = max(wait, s.Early(asked(now), now)); wait > 0 {
				return false
			}
			run, began = ledger.RunName(now, t.by), now
			s.Begin(run, now)
			return true
		})
		if err != nil || !t.mine {
			t.release()
		}
		switch {
		case err != nil:
			return 0, fmt.Errorf("claim sweep: %w", err)
		case swept:
			return 0, nil
		case t.mine || t.ends:
			if failures, err = f.work(ctx, t); err != nil {
				return failures, err
			}
		case wait > 0:
			return 0, outcome.RetryAfter(wait, errors.New("another sweep is running, or ended a short time ago"))
		default:
			return f.claimed(ctx, run, began)
		}
	}
}

// claimed sweeps under a claim, and records what came of it; or cuts the sweep into
// shards for the fleet, and has the caller ask again.
func (f *Fleet) claimed(ctx context.Context, run string, began time.Time) (failures int, err error) {
	stop := f.renewClaim(ctx, run)
	shared, err := f.newSweep(run, began).begin(ctx, f.alone.unreadable())
	stop()
	if shared {
		return 0, outcome.RetryAfter(ledger.SweepRenewal, errors.New("the fleet sweeps"))
	}
	return f.finished(ctx, run, began, err, func(*ledger.Sweeps, time.Time) {})
}

// finished records what came of a sweep. and changes the document of the fleet's sweeps as
// well.
func (f *Fleet) finished(ctx context.Context, run string, began time.Time, err error, and func(*ledger.Sweeps, time.Time)) (failures int, _ error) {
	var next time.Duration
	// Also where ctx is done: nobody else could sweep before the claim runs out.
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	unrecorded := f.update(bounded, func(s *ledger.Sweeps, now time.Time) bool {
		switch {
		case err == nil:
			s.Done(run, began, now)
		case ctx.Err() != nil:
			s.Stop(run)
		default:
			s.Fail(run, now)
		}
		and(s, now)
		failures, next = s.Failures, s.Next.Sub(now)
		return true
	})
	switch {
	case unrecorded != nil:
		f.Logger.WarnContext(ctx, "the end of a sweep cannot be recorded; the next one begins later, or once more", "error", unrecorded)
		return 0, err
	case err == nil || ctx.Err() != nil:
		return 0, err
	}
	f.Logger.ErrorContext(ctx, "sweep failed", "error", err, "in_a_row", failures, "again_in", next)
	return failures, outcome.RetryAfter(next, fmt.Errorf("sweep failed, %d times in a row: %w", failures, err))
}

// renewClaim renews the claim of a sweep until stop is called.
func (f *Fleet) renewClaim(ctx context.Context, run string) (stop func()) {
	return f.renew(ctx, ledger.SweepRenewal, func(s *ledger.Sweeps, now time.Time) bool { return s.Renew(run, now) })
}

// renew renews a claim in the document of the fleet's sweeps until stop is called.
func (f *Fleet) renew(ctx context.Context, every time.Duration, still func(*ledger.Sweeps, time.Time) bool) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			err := f.update(ctx, still)
			if err != nil && ctx.Err() == nil {
				f.Logger.WarnContext(ctx, "the claim of a sweep cannot be renewed; another worker may sweep, too", "error", err)
			}
		}
	})
	return func() {
		cancel()
		renewing.Wait()
	}
}

// update changes the document of the fleet's sweeps, unless change returns false. It
// gets S3's time. Where the document cannot be read, each worker has one of its own.
func (f *Fleet) update(ctx context.Context, change func(s *ledger.Sweeps, now time.Time) bool) error {
	err := state.Update(ctx, f.State, ledger.SweepsName, func(s *ledger.Sweeps, _ bool) error {
		if !change(s, f.State.Now().UTC().Round(0)) {
			return state.ErrUnchanged
		}
		return nil
	})
	f.alone.mu.Lock()
	defer f.alone.mu.Unlock()
	if f.alone.unread = nil; errors.Is(err, state.ErrUnreadable) {
		change(&f.alone.sweeps, f.State.Now())
		f.alone.unread, err = err, nil
	}
	return err
}

// alone is what a worker goes by that cannot read the document of the fleet's sweeps.
type alone struct {
	mu     sync.Mutex
	sweeps ledger.Sweeps
	unread error
}

// unreadable is why the worker is alone, nil where it is not.
func (a *alone) unreadable() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.unread
}
