package reaction

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/internal/crowd"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// entered enters so often as it may, at most n times.
func entered(n int, enter func(i int) (func(), error)) (in int) {
	for i := range n {
		if _, err := enter(i); err == nil {
			in++
		}
	}
	return in
}

// Each actor and key may have so many events in hand, whatever the others send.
func TestCrowdsOfEvents(t *testing.T) {
	type flood struct {
		n          int
		key, actor string // an asterisk is the number of the event
		want       int    // how many are in hand
	}
	for name, floods := range map[string][]flood{
		"a key, and another actor's event about it": {{100, "k", "a", 5}, {1, "k", "b", 1}, {1, "l", "a", 1}},
		"a key by many actors, and another key":     {{100, "k", "a*", 10}, {1, "k", "b", 0}, {1, "l", "b", 1}},
		"an actor on many keys, and another actor":  {{100, "k*", "a", 20}, {1, "l", "b", 1}},
		"two actors on many keys":                   {{100, "k*", "a", 20}, {100, "l*", "b", 10}, {1, "m", "c", 1}},
		"no actor, on many keys":                    {{100, "k*", "", 40}},
		"neither actor nor key":                     {{100, "", "", 40}},
		"all different":                             {{100, "k*", "a*", 40}},
	} {
		t.Run(name, func(t *testing.T) {
			e := &Env{Config: Config{Concurrency: 40}, crowds: crowd.New(40)}
			for _, f := range floods {
				got := entered(f.n, func(i int) (func(), error) {
					key, actor := strings.ReplaceAll(f.key, "*", fmt.Sprint(i)), strings.ReplaceAll(f.actor, "*", fmt.Sprint(i))
					return e.NewCase(events.Event{Kind: events.APICall, KeyARN: key, Actor: events.Actor{ARN: actor}}).enter()
				})
				if got != f.want {
					t.Errorf("%d of %+v are in hand", got, f)
				}
			}
			sweep := e.NewCase(events.Event{Kind: events.Scheduled, KeyARN: "k"})
			if got := entered(100, func(int) (func(), error) { return sweep.enter() }); got != 100 {
				t.Errorf("a sweep waits: %d of 100 are in hand", got)
			}
		})
	}
}

// What is told and what changes keys has a part of the slots each, but for what cannot
// wait.
func TestCrowdsOfTellingAndWriting(t *testing.T) {
	c := (&Env{Config: Config{Concurrency: 40}, crowds: crowd.New(40)}).NewCase(events.Event{Kind: events.APICall})
	for _, tt := range []struct {
		what  string
		enter func() (func(), error)
		want  int
	}{
		{"alerts", func() (func(), error) { return c.enterTelling(true, false) }, 10},
		{"critical alerts", func() (func(), error) { return c.enterTelling(true, true) }, 100},
		{"no alerts", func() (func(), error) { return c.enterTelling(false, false) }, 100},
		{"rotations", func() (func(), error) { return c.enterWriting(EnableKeyRotation) }, 5},
		{"deletions", func() (func(), error) { return c.enterWriting(CancelKeyDeletion) }, 0},
		{"policies", func() (func(), error) { return c.enterWriting(PutKeyPolicy) }, 100},
		{"containments", func() (func(), error) { return c.enterWriting(DisableKey) }, 100},
	} {
		if got := entered(100, func(int) (func(), error) { return tt.enter() }); got != tt.want {
			t.Errorf("%d of 100 %s are in hand, want %d", got, tt.what, tt.want)
		}
	}
}

// Parts of sweeps have a quarter of the slots, and none while events have all the others:
// then those that are at work are to be left, too.
func TestShardsYield(t *testing.T) {
	for slots, want := range map[int]int{0: 100, 1: 1, 3: 1, 8: 2, 40: 10} {
		e := &Env{Config: Config{Concurrency: slots}, crowds: crowd.New(slots)}
		shard := func(int) (func(), error) { return e.EnterShard() }
		if got := entered(100, shard); got != want {
			t.Errorf("%d shards in hand of %d slots, want %d", got, slots, want)
		}
	}
	e := &Env{Config: Config{Concurrency: 8}, crowds: crowd.New(8)}
	leave, err := e.EnterShard()
	if err != nil || e.EventsWait() {
		t.Fatalf("with nothing else to do: %v", err)
	}
	n := 0
	event := func(int) (func(), error) {
		n++
		return e.NewCase(events.Event{Kind: events.APICall, KeyARN: fmt.Sprint("k", n), Actor: events.Actor{ARN: fmt.Sprint("a", n)}}).enter()
	}
	if entered(6, event); e.EventsWait() {
		t.Error("a slot is free, and the shard is to be left")
	}
	if entered(1, event); !e.EventsWait() {
		t.Error("no slot is free, and the shard is not to be left")
	}
	if _, err := e.EnterShard(); outcome.Of(err).Action != outcome.Delay {
		t.Errorf("no slot is free, and a shard began: %v", err)
	}
	leave()
}
