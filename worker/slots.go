package worker

import (
	"context"
	"sync"
	"time"
)

// slots bound the messages in flight by their number and their bodies by the bytes
// that they hold. A poller takes both before it receives: a slot for each message
// that it asks for, with as many bytes as one may have. What did not come goes back
// at once, the slot when the message's handler is done, and the bytes of a body when
// the message is no longer in flight.
type slots struct {
	all, allBytes int
	// turn has one token, for the poller whose turn it is to take slots: two that
	// take turns slot by slot would both end up with half a batch.
	turn chan struct{}
	// returned has a token when something has come back since take last looked.
	returned chan struct{}

	mu              sync.Mutex
	free, freeBytes int // below zero where more came than was asked for
}

func newSlots(number, bytes int) *slots {
	s := &slots{all: number, allBytes: bytes, free: number, freeBytes: bytes, turn: make(chan struct{}, 1), returned: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	return s
}

// take waits until a slot with size bytes, at most all, is free and takes it and those
// that become free soon, at most n. It returns 0 once ctx is done.
func (s *slots) take(ctx context.Context, n, size int) (taken int) {
	select {
	case <-s.turn:
		defer func() { s.turn <- struct{}{} }()
	case <-ctx.Done():
		return 0
	}
	n = min(n, s.all, s.allBytes/size)
	var soon <-chan time.Time
	for {
		taken += s.takeFree(n-taken, size)
		switch {
		case ctx.Err() != nil:
			s.put(taken, taken*size)
			return 0
		case taken == n:
			return taken
		case taken > 0 && soon == nil:
			timer := time.NewTimer(linger)
			defer timer.Stop()
			soon = timer.C
		}
		select {
		case <-s.returned:
		case <-soon:
			return taken
		case <-ctx.Done():
		}
	}
}

// takeFree takes what is free of n slots with size bytes each.
func (s *slots) takeFree(n, size int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = max(min(n, s.free, s.freeBytes/size), 0)
	s.free -= n
	s.freeBytes -= n * size
	return n
}

// put returns slots and bytes.
func (s *slots) put(number, bytes int) {
	s.mu.Lock()
	s.free += number
	s.freeBytes += bytes
	s.mu.Unlock()
	select {
	case s.returned <- struct{}{}:
	default:
	}
}
