package crowd

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cmkeeper/cmkeeper/outcome"
)

// enter enters so often as the crowds allow, and at most n times.
func enter(t *testing.T, c *Crowds, n int, shares ...Share) (leaves []func()) {
	t.Helper()
	for range n {
		leave, err := c.Enter(shares...)
		if d := outcome.Of(err); err != nil && (d.Action != outcome.Delay || d.After < time.Second) {
			t.Fatalf("%s: %v", d.Action, err)
		}
		if err == nil {
			leaves = append(leaves, leave)
		}
	}
	return leaves
}

// Each crowd has its share, and an event that finds no room in one of its crowds takes none
// in the others.
func TestShares(t *testing.T) {
	c := New(40)
	first := enter(t, c, 100, Share{"a", 5}, Share{"all", 40})
	if len(first) != 5 || c.InHand("a") != 5 || c.InHand("all") != 5 || c.InHand("b") != 0 {
		t.Errorf("%d entered; in hand are %d of a, %d of all, %d of b", len(first), c.InHand("a"), c.InHand("all"), c.InHand("b"))
	}
	second := enter(t, c, 100, Share{"b", 50}, Share{"all", 40})
	if len(second) != 35 || c.InHand("b") != 35 {
		t.Errorf("%d entered, %d are in hand", len(second), c.InHand("b"))
	}
	first[0]()
	if got := enter(t, c, 100, Share{"a", 4}, Share{"all", 40}); len(got) != 0 {
		t.Errorf("%d entered a smaller share", len(got))
	}
	if got := enter(t, c, 100, Share{"c", 4}, Share{"all", 40}); len(got) != 1 {
		t.Errorf("%d entered, one had left", len(got))
	}
	if got := enter(t, New(0), 100, Share{"a", 5}); len(got) != 100 {
		t.Errorf("%d entered without a bound", len(got))
	}
	for slots, want := range map[int]int{0: 1, 1: 1, 3: 1, 40: 10} {
		if got := New(slots).Part(4); got != want {
			t.Errorf("a quarter of %d is %d", slots, got)
		}
	}
}

// Who waits comes back at a time of its own, at the distance at which events leave, and
// within what SQS can wait.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, share := New(40), Share{"a", 5}
		for range 100 { // takes 400 ms each, five at a time
			leaves := enter(t, c, 1, share)
			time.Sleep(400 * time.Millisecond)
			leaves[0]()
		}
		leaves := enter(t, c, 5, share)
		last := time.Duration(0)
		for n := 1; n <= 10_000; n++ {
			_, err := c.Enter(share)
			after := outcome.Of(err).After
			want := min(time.Second+time.Duration(n)*100*time.Millisecond, outcome.MaxDelay)
			if after < last || after < want*9/10 || after > want*11/10 {
				t.Fatalf("event %d waits %s, want about %s and no less than %s", n, after, want, last)
			}
			last = after
		}
		// When its crowd is gone, the next one does not wait for those that come back.
		for _, leave := range leaves {
			leave()
		}
		enter(t, c, 1, share)[0]()
	})
}

// Where those in hand are stuck, the others do not come back again and again meanwhile.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, share := New(8), Share{"a", 1}
		leave := enter(t, c, 1, share)[0]
		began, copies := time.Now(), 0
		time.AfterFunc(5*time.Minute, leave)
		for len(enter(t, c, 1, share)) == 0 {
			_, err := c.Enter(share)
			time.Sleep(outcome.Of(err).After)
			copies++
		}
		if took := time.Since(began); copies > 10 || took > 15*time.Minute {
			t.Errorf("%d copies in %s", copies, took)
		}
	})
}

// What is remembered does not grow with the events that there were, and has a bound.
func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(40)
		for i := range 100_000 {
			leaves := enter(t, c, 1, Share{fmt.Sprint("key", i), 10}, Share{fmt.Sprint("actor", i), 10})
			time.Sleep(time.Millisecond)
			leaves[0]()
		}
		if len(c.of) > 200 {
			t.Errorf("%d crowds are remembered", len(c.of))
		}
		for i := range 2 * maxCrowds {
			enter(t, c, 2, Share{fmt.Sprint(i), 1})
		}
		if len(c.of) > maxCrowds {
			t.Errorf("%d crowds are remembered", len(c.of))
		}
		_, err := c.Enter(Share{"new", 1})
		if d := outcome.Of(err); d.Action != outcome.Delay || d.After < time.Second || d.After > time.Minute {
			t.Errorf("where no more can be remembered: %s after %s", d.Action, d.After)
		}
	})
}
