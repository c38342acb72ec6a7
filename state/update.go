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

// Update reads the document at key, lets change modify it and writes it if nobody
// else has changed it since. On a conflict it starts again after a growing random
// wait, and finally returns ErrConflict. If there is no document, change gets a zero
// one and exists=false. An error of change ends Update and is returned unchanged.
// Errors: ErrConflict, ErrNewerSchema.
//
// change may be called several times and, as Put explains, very rarely on a
// document that has its effect already: it must depend only on the document that it
// is given, and be safe to apply twice.
func Update[T any, P interface {
	*T
	Document
}](ctx context.Context, s *Store, key string, change func(doc P, exists bool) error) error {
	for attempt := range updateAttempts {
		doc := P(new(T))
		etag, err := s.Get(ctx, key, doc)
		exists := err == nil
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		switch err := change(doc, exists); {
		case errors.Is(err, ErrUnchanged):
			return nil
		case err != nil:
			return err
		}
		if _, err := s.Put(ctx, key, doc, etag); !errors.Is(err, ErrConflict) {
			return err
		}
		if err := wait(ctx, attempt); err != nil {
			return fmt.Errorf("update document %s: %w", s.Address(key), err)
		}
	}
	return fmt.Errorf("update document %s: gave up after %d attempts: %w", s.Address(key), updateAttempts, ErrConflict)
}

// wait pauses after the n-th conflict (from 0): a random part of 10 ms, doubling up
// to 2 s.
func wait(ctx context.Context, n int) error {
	const first, longest = 10 * time.Millisecond, 2 * time.Second
	t := time.NewTimer(rand.N(min(first<<n, longest)) + time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
