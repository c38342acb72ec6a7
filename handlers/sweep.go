package handlers

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/state"
)

// managerCustomer is the KeyManager of the keys that are guarded.
const managerCustomer = "CUSTOMER"

// sweepConcurrency is how many keys or aliases a sweep works on at a time. Each
// costs a handful of reads, of which KMS allows a thousand a second; changes
// are limited by writesPerSecond.
const sweepConcurrency = 8

// How the start-up sweep is made one per fleet: workers that start within the
// same quarter of an hour share a claim.
const (
	startupBucket = 15 * time.Minute
	startupClaim  = 10 * time.Minute
)

// Snapshot reads all aliases and notes those that are new to us, so that a later
// move of them has an old key. It never replaces a newer fact: an alias that
// points elsewhere than what is known is left to its event or to the sweep. It
// reads one document per alias, and is needed once before the first event.
func (r *Router) Snapshot(ctx context.Context) error {
	if r.config.Reencrypt == Off {
		return nil
	}
	aliases, err := r.facts.Aliases(ctx)
	if err != nil {
		return fmt.Errorf("list aliases: %w", err)
	}
	at := now()
	return each(ctx, aliases, func(ctx context.Context, live inventory.Alias) error {
		if live.AWSManaged || live.TargetKeyARN == "" {
			return nil
		}
		_, err := r.updateAlias(ctx, live.Name, func(doc *aliasDoc) { doc.reconcile(live, at) })
		return err
	})
}

// StartupSweep is Sweep, once for all workers that start at about the same time.
func (r *Router) StartupSweep(ctx context.Context) error {
	name := "sweeps/startup-" + now().Truncate(startupBucket).Format("20060102T1504Z") + ".json"
	claim, err := r.state.Claim(ctx, name, startupClaim)
	if _, held := errors.AsType[*state.HeldError](err); held || errors.Is(err, state.ErrDone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("claim start-up sweep: %w", err)
	}
	if err := r.Sweep(ctx); err != nil {
		return errors.Join(err, claim.Release(context.WithoutCancel(ctx)))
	}
	if err := claim.Done(ctx); err != nil && !errors.Is(err, state.ErrConflict) {
		return fmt.Errorf("end claim of start-up sweep: %w", err)
	}
	return nil
}

func (r *Router) sweepNow(ctx context.Context, _ events.Event) error { return r.Sweep(ctx) }

// Sweep reconciles everything that events may have missed: rotation, state and
// policy of every key, every alias, what buckets encrypt with, and unfinished work. What cannot be done is
// in the error, key by key; the rest is done all the same.
func (r *Router) Sweep(ctx context.Context) error {
	start := now()
	r.log.InfoContext(ctx, "sweep began")
	err := errors.Join(
		r.sweepAliases(ctx, start),
		r.sweepKeys(ctx, start),
		r.sweepBuckets(ctx, start),
		r.resumeMoves(ctx, start),
		r.checkOurselves(ctx, start),
		r.tellExpiring(ctx, start),
		r.resumeAlerts(ctx),
	)
	r.log.InfoContext(ctx, "sweep ended", "duration", time.Since(start), "ok", err == nil)
	return err
}

func (r *Router) sweepAliases(ctx context.Context, start time.Time) error {
	if r.config.Reencrypt == Off {
		return nil
	}
	aliases, err := r.facts.Aliases(ctx)
	if err != nil {
		return fmt.Errorf("list aliases: %w", err)
	}
	return each(ctx, aliases, func(ctx context.Context, live inventory.Alias) error {
		if live.AWSManaged || live.TargetKeyARN == "" {
			return nil
		}
		doc, err := r.updateAlias(ctx, live.Name, func(doc *aliasDoc) {
			if doc.reconcile(live, start) == reconcileAccepted {
				doc.move(pendingMove{
					ID:        fmt.Sprintf("sweep/%s/%d", live.Name, sinceOr(live, start).Unix()),
					EventName: sweepEvent, EventTime: start, At: start,
				})
			}
		})
		if err != nil {
			return err
		}
		return r.settleMove(ctx, live, doc, aliases)
	})
}

func (r *Router) sweepKeys(ctx context.Context, start time.Time) error {
	keys, err := r.facts.Keys(ctx)
	if err != nil {
		return fmt.Errorf("list keys: %w", err)
	}
	aliases, err := r.facts.Aliases(ctx)
	if err != nil {
		return fmt.Errorf("list aliases: %w", err)
	}
	byKey := map[string][]inventory.Alias{}
	for _, a := range aliases {
		byKey[a.TargetKeyARN] = append(byKey[a.TargetKeyARN], a)
	}
	return each(ctx, keys, func(ctx context.Context, arn string) error {
		return r.sweepKey(ctx, arn, aliasNames(byKey[arn]), start)
	})
}

func (r *Router) sweepKey(ctx context.Context, arn string, aliases []string, start time.Time) error {
	e := events.Event{
		ID:   fmt.Sprintf("sweep-%d/%s", start.Unix(), keyID(arn)),
		Kind: events.Scheduled, Name: sweepEvent, Time: start,
		Account: r.config.Identity.Account, Region: r.config.Region, KeyARN: arn,
	}
	at := now()
	key, err := r.facts.Key(ctx, arn)
	if err != nil {
		return r.sweepUnread(ctx, e, err)
	}
	if key.Manager != managerCustomer {
		return nil
	}
	tags, tagsErr := r.facts.Tags(ctx, arn)
	if tagsErr != nil {
		// Everything else is guarded all the same, and tags only ever make it quieter.
		r.log.WarnContext(ctx, "a key's tags cannot be noted", "key", arn, "error", tagsErr)
	}
	doc, err := r.updateKey(ctx, arn, func(doc *keyDoc) {
		doc.see(key, at, r.config.Deletion)
		doc.Aliases = aliases
		if tagsErr == nil {
			doc.noteTags(tags, key.Created, at)
		}
	})
	if err != nil {
		return err
	}
	var errs []error
	if r.config.Deletion != Off {
		errs = append(errs, r.rescue(ctx, e, key, at), r.remind(ctx, e, key, at))
	}
	if r.config.Rotation != Off {
		errs = append(errs, r.keepRotating(ctx, e, key, at))
	}
	if r.config.Contain != Off {
		errs = append(errs, r.noteOpen(ctx, e, at))
	}
	if r.config.Policy != Off {
		document, err := r.facts.Policy(ctx, arn)
		if err != nil {
			err = r.sweepUnread(ctx, e, err)
		} else {
			err = r.judge(ctx, e, key, doc, document, at)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sweepUnread reacts to a key that a sweep cannot read. Being shut out is told
// once and is no failure of the sweep, which would fail for ever.
func (r *Router) sweepUnread(ctx context.Context, e events.Event, err error) error {
	switch {
	case errors.Is(err, inventory.ErrNotFound):
		return nil // deleted since it was listed
	case errors.Is(err, inventory.ErrAccessDenied):
		_, noteErr := r.updateKey(ctx, e.KeyARN, func(doc *keyDoc) {
			if doc.ShutOut.IsZero() {
				doc.ShutOut = e.Time
			}
		})
		if noteErr != nil {
			return noteErr
		}
		return r.shutOut(ctx, e, err)
	}
	return err
}

func (r *Router) resumeMoves(ctx context.Context, at time.Time) error {
	if r.config.Reencrypt != Enforce {
		return nil
	}
	if err := r.moves.Resume(ctx, at); err != nil {
		return fmt.Errorf("resume re-encryptions: %w", err)
	}
	return nil
}

func (r *Router) resumeAlerts(ctx context.Context) error {
	if r.digests == nil {
		return nil
	}
	if err := r.digests.Resume(ctx); err != nil {
		return fmt.Errorf("resume alerts: %w", err)
	}
	return nil
}

// checkOurselves tells when what guards hangs on what it guards. The same
// findings are told once.
func (r *Router) checkOurselves(ctx context.Context, at time.Time) error {
	if r.selfCheck == nil {
		return nil
	}
	findings, err := r.selfCheck(ctx)
	if err != nil {
		return fmt.Errorf("check own set-up: %w", err)
	}
	if len(findings) == 0 {
		return nil
	}
	return r.publish(ctx, alert.Alert{
		ID:   fmt.Sprintf("self-check/%x", sha256.Sum256(fmt.Append(nil, findings))),
		Kind: alert.KindGuard, Severity: alert.High, EventName: sweepEvent, Time: at, Ongoing: true,
		Account: r.config.Identity.Account, Region: r.config.Region,
		Title:    "cmkeeper depends on a key that it guards",
		Summary:  "A queue, topic or bucket that cmkeeper needs is encrypted with a customer managed key.",
		Risk:     "Whoever disables that key silences the alarm about it.",
		Action:   alert.Action{Status: alert.StatusNone, Description: "cmkeeper does not change its own set-up."},
		Next:     []string{"Encrypt them with SSE-SQS, SSE-S3 or the service's AWS managed key instead."},
		Findings: findings,
	})
}

// each calls do for all items, some at a time, and joins their errors: one that
// fails stops none of the others. A context that is done stops them all.
func each[T any](ctx context.Context, items []T, do func(context.Context, T) error) error {
	var mu sync.Mutex
	var errs []error
	var g errgroup.Group
	g.SetLimit(sweepConcurrency)
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
