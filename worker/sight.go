package worker

import (
	"fmt"
	"sync"
	"time"
)

// Cause is why a Pool is blind.
type Cause string

// The causes. The zero value: it is not.
const (
	Sees Cause = ""
	// CannotReceive: SQS refuses every receive, or does not answer.
	CannotReceive Cause = "cannot-receive"
	// NoSlot: all slots are taken by messages that are not finished.
	NoSlot Cause = "no-slot"
	// Behind: messages wait for too long before they are received.
	Behind Cause = "behind"
)

// Sight is how a Pool receives.
type Sight struct {
	// Began is when it began, Received when a receive last succeeded, with messages or
	// without; the zero time for never.
	Began, Received time.Time
	// Err is why a receive failed, at that time, nil where one that began later did not.
	Err    error
	Failed time.Time
	// InFlight is how many messages are not finished, of Slots.
	InFlight, Slots int
	// Oldest is when the oldest of them was sent; the zero time where there is none.
	Oldest time.Time
	// Late is when a message was last received for the first time that had waited for
	// longer than is allowed, and Waited for how long.
	Late   time.Time
	Waited time.Duration
}

// lateFor is how long after the last message that was late the next one that is not ends
// it: messages of a standard queue come in no order.
const lateFor = time.Minute

// Blind says why the Pool does not see, for longer than after: by a cause, and in words. An
// idle queue is seen: its polls succeed. due is when it is blind if nothing changes.
func (s Sight) Blind(now time.Time, after time.Duration) (cause Cause, why string, due time.Time) {
	if s.Began.IsZero() {
		return Sees, "", now.Add(after)
	}
	since := s.Received
	if since.IsZero() {
		since = s.Began
	}
	quiet := now.Sub(since)
	switch {
	case quiet < after:
	case s.InFlight >= s.Slots:
		return NoSlot, fmt.Sprintf("all %d slots have been taken for %s by messages that are not finished", s.Slots, quiet.Round(time.Second)), now
	case s.Err != nil:
		return CannotReceive, fmt.Sprintf("no receive has succeeded for %s: %v (fix: %s)", quiet.Round(time.Second), s.Err, advice(s.Err)), now
	default:
		return NoSlot, fmt.Sprintf("nothing was received for %s, since %d messages that are not finished take up the memory", quiet.Round(time.Second), s.InFlight), now
	}
	// A worker that has just begun catches up first.
	if now.Sub(s.Began) >= after && now.Sub(s.Late) < lateFor {
		return Behind, fmt.Sprintf("messages wait in the queue for %s before they are received", s.Waited.Round(time.Second)), now
	}
	return Sees, "", since.Add(after)
}

// watch is the part of a Sight that the pollers note.
type watch struct {
	mu sync.Mutex
	Sight
}

// begins notes that receiving begins.
func (w *watch) begins() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Began = time.Now()
}

// failed notes a receive that failed.
func (w *watch) failed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Err, w.Failed = err, time.Now()
}

// received notes a receive that succeeded: an empty long poll proves no more than that SQS
// took it when it began. What the process itself has sent may have waited
// on purpose, and what was received before has waited for its handler.
func (w *watch) received(began time.Time, messages []*delivery, self string, late time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if len(messages) > 0 {
		began = now
	}
	if began.After(w.Received) {
		w.Received = began
	}
	if began.After(w.Failed) {
		w.Err = nil
	}
	if late == 0 {
		return
	}
	longest := time.Duration(0)
	for _, d := range messages {
		_, ours := d.raw.MessageAttributes[AttributeFirstSent]
		if ours || d.ReceiveCount > 1 || d.Sent.IsZero() || self != "" && uniqueID(d.Sender) == uniqueID(self) {
			continue
		}
		longest = max(longest, now.Sub(d.Sent))
	}
	if longest > late {
		w.Late, w.Waited = now, longest
	}
}

// Sight returns how the Pool receives now.
func (p *Pool) Sight() Sight {
	p.inFlight.mu.Lock()
	held := len(p.inFlight.held)
	var oldest time.Time
	for d := range p.inFlight.held {
		if !d.Sent.IsZero() && (oldest.IsZero() || d.Sent.Before(oldest)) {
			oldest = d.Sent
		}
	}
	p.inFlight.mu.Unlock()
	p.watch.mu.Lock()
	defer p.watch.mu.Unlock()
	s := p.watch.Sight
	s.InFlight, s.Slots, s.Oldest = held, p.options.Concurrency, oldest
	return s
}
