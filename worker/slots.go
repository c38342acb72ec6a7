package worker

import (
	"context"
	"sync"
	"time"
)

// slots bound the messages in flight by their number. A poller takes one for each message
// that it asks for before it receives. What did not come goes back at once, and the others
// when the message's handler is done.
type slots struct {
	all int
	// turn has one token, for the poller whose turn it is to take slots: two that
	// take turns slot by slot would both end up with half a batch.
	turn chan struct{}
	// returned has a token when something has come back since take last looked.
	returned chan struct{}

	mu   sync.Mutex
	free int
}

func newSlots(number int) *slots {
	s := &slots{all: number, free: number, turn: make(chan struct{}, 1), returned: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	return s
}

// take waits until a slot is free and takes it and those that become free soon, at most n.
// It returns 0 once ctx is done.
func (s *slots) take(ctx context.Context, n int) (taken int) {
	select {
	case <-s.turn:
		defer func() { s.turn <- struct{}{} }()
	case <-ctx.Done():
		return 0
	}
	n = min(n, s.all)
	var soon <-chan time.Time
	for {
		taken += s.takeFree(n - taken)
		switch {
		case ctx.Err() != nil:
			s.put(taken)
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

// takeFree takes what is free of n slots.
func (s *slots) takeFree(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, s.free)
	s.free -= n
	return n
}

// put returns slots.
func (s *slots) put(number int) {
	s.mu.Lock()
	s.free += number
	s.mu.Unlock()
	select {
	case s.returned <- struct{}{}:
	default:
	}
}
