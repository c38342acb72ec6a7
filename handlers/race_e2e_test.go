package handlers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// race is one event, or two of one key, that two workers handle at the same time.
type race struct {
	config func(*testing.T) reaction.Config
	// prepare makes the events, and returns what is wrong with the key in the end.
	prepare func(*world) (first, second string, wrong func() string)
	// calls are how often KMS is called in the end, what prepare calls included.
	calls map[string]int
	// told are the alerts, by how their ids end.
	told []string
}

// run plays the race again and again, each time in a new world: the second worker
// handles its message from beginning to end before another one of the first worker's
// requests, until there are no more. So every write of the first one conflicts once with
// one of the second, and everything that it has read is outdated once. Requests take a
// millisecond. check is given whether the first worker had stored something by then.
func (x race) run(t *testing.T, check func(w *world, stored bool)) {
	t.Helper()
	reached := true
	for n := 1; reached; n++ {
		t.Run(fmt.Sprintf("at request %d", n), func(t *testing.T) {
			c := x.config(t)
			inWorld(t, c, func(w *world) {
				first, second, wrong := x.prepare(w)
				w.told.take()
				w.tap = func(_ request, answered bool) {
					if !answered {
						time.Sleep(time.Millisecond)
					}
				}
				rival := w.newRouter(c)
				requests, stored := 0, false
				w.tap = func(r request, answered bool) {
					if answered {
						return
					}
					time.Sleep(time.Millisecond)
					if requests++; requests == n {
						w.handleBy(rival, second)
					}
					stored = stored || requests < n && r.operation == "PutObject"
				}
				w.handleBy(w.newRouter(c), first)
				reached = requests >= n
				w.tap = nil
				w.router = w.newRouter(c)
				w.handled(second) // in the last round nobody has
				w.react()
				if what := wrong(); what != "" {
					t.Error(what)
				}
				check(w, stored)
				w.sweep()
				w.none()
			})
		})
		if t.Failed() {
			return
		}
	}
}

// handleBy has a worker handle a message as often as it says that it has to come again.
func (w *world) handleBy(r *handlers.Router, body string) {
	w.t.Helper()
	for range 100 {
		switch d := outcome.Of(r.Handle(w.ctx, handlers.Message{Body: []byte(body)})); d.Action {
		case outcome.Delay:
			time.Sleep(d.After)
		case outcome.Retry:
			time.Sleep(time.Second)
		default:
			if d.Err != nil {
				w.t.Fatal(d.Err)
			}
			return
		}
	}
	w.t.Fatal("the message comes again for ever")
}

// check fails the test unless what the race is to come to was told once, and nothing
// else, no call was made more often than it has to be and so many times, and no
// document says that something is left to do.
func (x race) check(w *world, more int) {
	w.t.Helper()
	told := w.told.take()
	var ids []string
	for _, a := range told {
		_, end, _ := strings.Cut(a.ID, "/")
		ids = append(ids, "/"+end)
	}
	slices.Sort(ids)
	if want := slices.Sorted(slices.Values(x.told)); !slices.Equal(ids, want) {
		w.t.Errorf("told %v, want %v:\n%s", ids, want, texts(told))
	}
	for operation, want := range x.calls {
		if got := w.aws.Requests("kms", operation); got < want || got > want+more {
			w.t.Errorf("%d calls of %s, want %d", got, operation, want)
		}
	}
	(&replay{world: w}).checkDone()
}

// both are two checks of a key.
func both(a, b func(*world, string) string) func(*world, string) string {
	return func(w *world, key string) string { return strings.TrimSpace(a(w, key) + " " + b(w, key)) }
}

// oneEvent is a race of two workers with the same message.
func oneEvent(config func(*testing.T) reaction.Config, event string, do func(*world) string, live func(*world, string) string, calls map[string]int, told ...string) race {
	return race{config: config, calls: calls, told: told, prepare: func(w *world) (string, string, func() string) {
		key := do(w)
		body := w.event(event)
		return body, body, func() string { return live(w, key) }
	}}
}

// twoEvents is a race over a key that is guarded and rotates, whose policy was replaced
// and to which then something else was done. swapped: the first worker has the other event.
func twoEvents(swapped bool, config func(*testing.T) reaction.Config, other string, do func(*world, string), live func(*world, string) string, calls map[string]int, told ...string) race {
	return race{config: config, calls: calls, told: told, prepare: func(w *world) (string, string, func() string) {
		key := w.guardedKey()
		w.enableRotation(key, 180)
		w.react()
		w.putPolicy(key, takeover)
		a := w.event("PutKeyPolicy")
		do(w, key)
		b := w.event(other)
		if swapped {
			a, b = b, a
		}
		return a, b, func() string { return live(w, key) }
	}}
}

// races are those whose outcome does not depend on who is faster.
func races() map[string]race {
	all := map[string]race{
		"put-back": oneEvent(closing, "PutKeyPolicy", func(w *world) string {
			key := w.guardedKey()
			w.putPolicy(key, takeover)
			return key
		}, both(hasPolicy(rootOnly), isState("Enabled")), map[string]int{"PutKeyPolicy": 3, "DisableKey": 0}, "/policy"),
		"containment": oneEvent(containing, "PutKeyPolicy", func(w *world) string {
			key := w.knownKey("alias/orders")
			w.putPolicy(key, public)
			return key
		}, isState("Disabled"), map[string]int{"DisableKey": 1}, "/containment"),
		"rotation": oneEvent(configured(enforceAll), "DisableKeyRotation", func(w *world) string {
			key := w.rotatingKey(180)
			w.disableRotation(key)
			return key
		}, rotatesEvery(180), map[string]int{"EnableKeyRotation": 2}, "/rotation"),
	}
	for _, swapped := range []bool{false, true} {
		name := map[bool]string{false: "", true: ", swapped"}[swapped]
		all["policy and rotation"+name] = twoEvents(swapped, closing, "DisableKeyRotation", (*world).disableRotation,
			both(both(hasPolicy(rootOnly), isState("Enabled")), rotatesEvery(180)),
			map[string]int{"PutKeyPolicy": 3, "EnableKeyRotation": 2, "DisableKey": 0}, "/policy", "/rotation")
		all["policy and state"+name] = twoEvents(swapped, configured(enforcePolicies), "DisableKey", (*world).disable,
			both(hasPolicy(rootOnly), isState("Enabled")),
			map[string]int{"PutKeyPolicy": 3, "EnableKey": 1}, "/policy", "/deletion")
		all["policy and grant"+name] = twoEvents(swapped, closing, "CreateGrant", func(w *world, key string) { w.grantTo(key, "arn:aws:iam::"+stranger+":role/reader") },
			both(hasPolicy(rootOnly), isState("Disabled")),
			map[string]int{"PutKeyPolicy": 3, "DisableKey": 1}, "/policy", "/grant", "/containment")
	}
	return all
}
