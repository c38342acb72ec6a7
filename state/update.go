package state

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// ErrUnchanged is returned by the change function of Update to leave the document
// unchanged; Update then returns nil.
var ErrUnchanged = errors.New("document unchanged")

// updateAttempts bounds Update: so many conflicts in a row, with back-off, mean that
// too many writers share the document.
const updateAttempts = 16

// Update reads the document at key, lets change alter it and stores it, as
// [Draft.Update] does. Where there is no document, change gets a zero one and
// exists=false. An error of change ends it and is returned as it is, but for
// ErrUnchanged.
//
// change may be called several times and, as Put explains, very rarely on a
// document that has its effect already: it must depend only on the document that it
// is given, and be safe to apply twice.
func Update[T any, P interface {
	*T
	Document
}](ctx context.Context, s *Store, key string, change func(doc P, exists bool) error) error {
	d, err := Open[T, P](ctx, s, key)
	if err != nil {
		return err
	}
	err = d.update(ctx, func() error { return change(d.Doc(), d.etag != "") })
	if errors.Is(err, ErrUnchanged) {
		return nil
	}
	return err
}

// Retry calls attempt until it ends without ErrConflict: somebody else has written
// one of the drafts. They are then read again, after a growing random wait. It gives
// up with ErrConflict after many attempts.
func Retry(ctx context.Context, attempt func() error, drafts ...interface{ Reload(context.Context) error }) error {
	for n := 1; ; n++ {
		err := attempt()
		switch {
		case !errors.Is(err, ErrConflict):
			return err
		case n == updateAttempts:
			return fmt.Errorf("gave up after %d attempts: %w", n, err)
		}
		if err := wait(ctx, n-1); err != nil {
			return err
		}
		for _, d := range drafts {
			if err := d.Reload(ctx); err != nil {
				return err
			}
		}
	}
}

// wait pauses after the n-th conflict (from 0): a random part of 10 ms, doubling up
// to 2 s.
func wait(ctx context.Context, n int) error {
	const first, longest = 10 * time.Millisecond, 2 * time.Second
	return pause(ctx, rand.N(min(first<<n, longest))+time.Millisecond)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
