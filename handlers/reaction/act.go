package reaction

import (
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

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// Perform makes a call whose intent is stored already, and stores its request ids, by
// which the event of the call is recognised when it comes back.
func (c *Case) Perform(ctx context.Context, operation string, r ledger.Repair, call func(context.Context) (middleware.Metadata, error)) error {
	if err := c.writes.Wait(ctx); err != nil {
		return fmt.Errorf("wait to call %s: %w", operation, err)
	}
	meta, err := call(ctx)
	if err != nil {
		err = fmt.Errorf("call %s on key %s: %w", operation, c.Event.KeyARN, err)
		if !IsRefusal(err) {
			return err // it may have happened: the intent stays
		}
		return errors.Join(err, c.Update(ctx, func(k *ledger.Key) { k.Refuse(operation, r) }))
	}
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
		return outcome.RetryAfter(left, fmt.Errorf("%s: waiting until the event and what is known agree", what))
	}
	return nil
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
