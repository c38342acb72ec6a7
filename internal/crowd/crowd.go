// Package crowd keeps events that have something in common from taking up all slots of a
// worker: some of them are handled at once, and the others go back to the queue until
// their turn is due, as far as that can be told. So who sends thousands of events makes
// them wait, and nobody else's.
package crowd

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/outcome"
)

const (
	// usualTime is what an event is taken to need before one of its crowd was handled.
	usualTime = 300 * time.Millisecond
	// maxCrowds bounds the memory.
	maxCrowds = 10_000
)

// Crowds are those of one worker. They are safe for concurrent use.
type Crowds struct {
	slots int

	mu   sync.Mutex
	of   map[string]*crowd
	kept int       // how many were left when those that are over were last forgotten
	at   time.Time // when that was
}

// crowd is the events that have something in common.
type crowd struct {
	inHand int
	// turn is when the next event that finds no room is to come back: each gets one of its
	// own, at the distance at which events leave.
	turn time.Time
	took time.Duration // what they need, on average
	// moved is when the last event entered or left.
	moved time.Time
}

// New returns those of a worker that handles so many events at once; 0 is no bound.
func New(slots int) *Crowds { return &Crowds{slots: slots, of: map[string]*crowd{}} }

// Part is a part of the slots, a quarter for 4: at least one.
func (c *Crowds) Part(of int) int { return max(1, c.slots/of) }

// Share is how many events of a crowd may be in hand at once.
type Share struct {
	Crowd string
	Most  int
}

// InHand is how many events of a crowd are in hand.
func (c *Crowds) InHand(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if one := c.of[name]; one != nil {
		return one.inHand
	}
	return 0
}

// Enter takes a place in each crowd for an event, until leave is called; or says, by an
// outcome.RetryAfter, that one of them has none.
func (c *Crowds) Enter(shares ...Share) (leave func(), err error) {
	if c.slots == 0 {
		return func() {}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.forget(now)
	for _, s := range shares {
		if one := c.of[s.Crowd]; one != nil && one.inHand >= s.Most {
			return nil, outcome.RetryAfter(one.wait(now, s.Most), fmt.Errorf("too many events are handled at once: %s", s.Crowd))
		}
	}
	if len(c.of) >= maxCrowds {
		return nil, outcome.RetryAfter(time.Second+rand.N(30*time.Second), errors.New("too many different events are handled at once"))
	}
	in := make([]*crowd, len(shares))
	for i, s := range shares {
		if in[i] = c.of[s.Crowd]; in[i] == nil {
			in[i] = &crowd{took: usualTime}
			c.of[s.Crowd] = in[i]
		}
		in[i].inHand++
		in[i].moved = now
	}
	return func() { c.leave(in, time.Since(now)) }, nil
}

// wait takes the next turn, and returns how long it is until then. It is a little later
// than events leave, so that most find room when they come back; and where those in hand are
// stuck, as much later as they have been.
func (o *crowd) wait(now time.Time, most int) time.Duration {
	if o.turn.Before(now) {
		o.turn = now
	}
	if o.turn.Before(now.Add(outcome.MaxDelay)) {
		o.turn = o.turn.Add(o.took * 5 / 4 / time.Duration(most))
	}
	return time.Second + o.turn.Sub(now) + max(0, now.Sub(o.moved)-o.took)
}

func (c *Crowds) leave(in []*crowd, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range in {
		one.inHand--
		one.moved = time.Now()
		one.took += (took - one.took) / 8
	}
}

// forget forgets the crowds that are over, whenever there are many more than were left the
// last time, and where there are as many as there may be, once a second.
func (c *Crowds) forget(now time.Time) {
	if len(c.of) < min(2*c.kept+64, maxCrowds) || len(c.of) >= maxCrowds && now.Sub(c.at) < time.Second {
		return
	}
	for name, one := range c.of {
		if one.inHand == 0 && one.turn.Before(now) {
			delete(c.of, name)
		}
	}
	c.kept, c.at = len(c.of), now
}
