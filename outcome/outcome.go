// Package outcome defines what happens to a message after its handler has
// returned. The handler's error decides: nil means done, [Reject] means do not try
// again, [RetryAfter] is an expected wait, and any other error is a failure that
// the queue retries. Only [Of] interprets the error.
package outcome

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// MaxDelay is the longest wait that SQS offers for one message (DelaySeconds).
const MaxDelay = 15 * time.Minute

// Action is what the worker does with a message.
type Action int

// The actions. The zero value is Retry, so that a forgotten decision loses nothing.
const (
	// Retry leaves the message in the queue, invisible for a back-off.
	Retry Action = iota
	// Delete removes the message: its reaction is complete.
	Delete
	// Delay sends a copy with a delay and removes the original, so that
	// waiting does not increase the receive count.
	Delay
	// DeadLetter sends the message to the dead-letter queue with the reason,
	// then removes the original.
	DeadLetter
)

// String returns the action's name, for logs and metrics.
func (a Action) String() string {
	switch a {
	case Retry:
		return "retry"
	case Delete:
		return "delete"
	case Delay:
		return "delay"
	case DeadLetter:
		return "dead-letter"
	}
	return fmt.Sprintf("action(%d)", int(a))
}

// Decision is the interpretation of a handler's error.
type Decision struct {
	// Action is what to do with the message.
	Action Action
	// After is the delay of a Delay: at least a second, at most MaxDelay.
	After time.Duration
	// Err is the handler's error; nil for Delete.
	Err error
}

type rejected struct{ err error }

func (e *rejected) Error() string { return e.err.Error() }
func (e *rejected) Unwrap() error { return e.err }

type delayed struct {
	err   error
	after time.Duration
}

func (e *delayed) Error() string { return fmt.Sprintf("wait %s: %v", e.after, e.err) }
func (e *delayed) Unwrap() error { return e.err }

// Reject marks err as permanent: the message is malformed or can never succeed, and
// goes to the dead-letter queue with the error's text as the reason. A nil err
// stays nil.
func Reject(err error) error {
	if err == nil {
		return nil
	}
	return &rejected{err}
}

// RetryAfter marks err as an expected wait of d: the message returns after d, as if
// it had just arrived. SQS delays at most MaxDelay, so after a longer d the message
// returns early and the handler has to wait again. A nil err stays nil.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &delayed{err, d}
}

// Of interprets a handler's error. If marks are nested, the outermost counts: the
// last caller to handle the error knew most.
func Of(err error) Decision {
	if err == nil {
		return Decision{Action: Delete}
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		switch m := e.(type) { //nolint:errorlint // walks the chain itself, to find the outermost mark
		case *rejected:
			return Decision{Action: DeadLetter, Err: err}
		case *delayed:
			return Decision{Action: Delay, After: wait(m.after), Err: err}
		}
	}
	if after, ok := shortestWait(err); ok {
		return Decision{Action: Delay, After: wait(after), Err: err}
	}
	return Decision{Action: Retry, Err: err}
}

// wait is a wait as SQS can make it.
func wait(d time.Duration) time.Duration { return min(max(d, time.Second), MaxDelay) }

// shortestWait returns the outermost wait of an error. A joined error (errors.Join) has
// several branches: no branch waits for another, so the shortest wait counts. A
// rejection in one of them must not end what another could still do, so it counts
// nothing.
func shortestWait(err error) (shortest time.Duration, ok bool) {
	switch e := err.(type) { //nolint:errorlint // walks the tree itself
	case *rejected:
		return 0, false
	case *delayed:
		return e.after, true
	case interface{ Unwrap() []error }:
		for _, branch := range e.Unwrap() {
			if after, waits := shortestWait(branch); waits && (!ok || after < shortest) {
				shortest, ok = after, true
			}
		}
	case interface{ Unwrap() error }:
		return shortestWait(e.Unwrap())
	}
	return shortest, ok
}

// Backoff returns how long a failed message stays invisible after it was
// received for the n-th time (n counts from 1): 2 s, doubling up to 15 minutes, less
// up to a fifth at random, so that a burst of failures does not return as a burst.
func Backoff(n int) time.Duration {
	const first, longest = 2 * time.Second, 15 * time.Minute
	d := longest
	if n < 10 { // 2 s · 2⁹ is beyond the longest
		d = min(first<<max(n-1, 0), longest)
	}
	return d - rand.N(d/5+1)
}
