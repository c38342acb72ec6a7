package rotate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/state"
)

// work is somebody's work on a rotation, while it holds the lease.
type work struct {
	*Rotator
	Record
	id, holder string
}

// acquire takes the lease. One that somebody else holds is waited for once: who was
// killed does not renew it. ErrBusy: it was renewed.
func (w *work) acquire(ctx context.Context) error {
	for waited := false; ; waited = true {
		var busy lease
		err := state.Update(ctx, w.Store, recordKey(w.id), func(rec *Record, exists bool) error {
			now := w.Store.Now()
			if !exists {
				return fmt.Errorf("rotation %s: %w", w.id, ErrNone)
			}
			if busy = (lease{}); rec.Lease.Holder != "" && rec.Lease.Holder != w.holder && now.Before(rec.Lease.Until) {
				busy = rec.Lease
				return state.ErrUnchanged
			}
			rec.Lease = lease{w.holder, now.Add(leaseTime)}
			w.Record = *rec
			return nil
		})
		if err != nil || busy.Holder == "" {
			return err
		}
		if waited {
			return fmt.Errorf("rotation %s: %w", w.id, ErrBusy)
		}
		w.say("Somebody else works on this rotation, or was interrupted less than %s ago. Waiting until %s.", leaseTime, busy.Until.UTC().Format(time.TimeOnly+" MST"))
		if err := sleep(ctx, busy.Until.Sub(w.Store.Now())+time.Second); err != nil {
			return err
		}
	}
}

// keep renews the lease until ctx is done, and ends the work where it is lost, or where it
// cannot be renewed before somebody else may take it.
func (w *work) keep(ctx context.Context, stop context.CancelCauseFunc) {
	renewed := time.Now()
	for sleep(ctx, leaseTime/4) == nil {
		began := time.Now()
		try, cancel := context.WithTimeout(ctx, leaseTime/8)
		err := w.update(try, func(rec *Record) { rec.Lease.Until = w.Store.Now().Add(leaseTime) }, nil)
		cancel()
		switch {
		case err == nil:
			renewed = began
		case errors.Is(err, ErrBusy), time.Since(renewed) >= leaseTime*3/4:
			stop(fmt.Errorf("renew the lease of rotation %s: %w", w.id, err))
			return
		}
	}
}

// release gives the lease back.
func (w *work) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := w.update(ctx, func(rec *Record) { rec.Lease = lease{} }, &w.Record)
	if errors.Is(err, ErrBusy) { // which is no longer ours to give back
		return nil
	}
	return err
}

// save changes the record. ErrBusy: the lease was lost.
func (w *work) save(ctx context.Context, change func(*Record)) error {
	return w.update(ctx, change, &w.Record)
}

// update changes the record while the lease is held, and puts it into saved where that
// is not nil.
func (w *work) update(ctx context.Context, change func(*Record), saved *Record) error {
	err := state.Update(ctx, w.Store, recordKey(w.id), func(rec *Record, _ bool) error {
		if rec.Lease.Holder != w.holder {
			return fmt.Errorf("rotation %s: %w", w.id, ErrBusy)
		}
		change(rec)
		if saved != nil {
			*saved = *rec
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record how far the rotation is: %w", err)
	}
	return nil
}

// sleep waits; its error is the cause of ctx's end.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
