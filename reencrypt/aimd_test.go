package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/smithy-go"
)

var errSlowDown = &smithy.GenericAPIError{Code: "SlowDown", Message: "Please reduce your request rate."}

// TestAIMD plays round trips, each a letter: "+" is one in which all succeeds that
// may run, "-" one in which all of it is throttled, "1" one in which only the first
// is, and "." one in which only one runs and succeeds.
func TestAIMD(t *testing.T) {
	for _, c := range []struct {
		name, trips string
		bound       int
		want        string // the limit after each round trip
	}{
		{"starts low and doubles", "+++", 512, "128 256 512"},
		{"never beyond the bound", "++", 100, "100 100"},
		{"a bound below the start", "+-+", 4, "4 2 3"},
		{"halves once for many refusals", "+-", 512, "128 64"},
		{"halves for a single refusal", "+1", 512, "128 64"},
		{"then doubles to three quarters and grows by steps", "+-+++", 128, "128 64 96 97 98"},
		{"steps grow with the limit", "+++-+++", 1024, "128 256 512 256 385 389 393"},
		{"keeps seven eighths of what a step made too much", "+-++-++", 512, "128 64 96 97 72 84 85"},
		{"halves again where half was too much", "+--", 512, "128 64 32"},
		{"never below one", "-----+", 16, "8 4 2 1 1 2"},
		{"does not grow unused", "...+", 512, "64 64 64 128"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAIMD(c.bound)
			var got []string
			for _, trip := range c.trips {
				most := c.bound
				if trip == '.' {
					most = 1
				}
				var stamps []int
				for len(stamps) < most && a.free() {
					a.enter()
					stamps = append(stamps, a.stamp())
				}
				began := len(stamps)
				for i, stamp := range stamps {
					if trip == '-' || trip == '1' && i == 0 {
						a.refused(stamp)
					} else {
						a.succeeded(stamp)
					}
					a.leave()
					for trip != '.' && a.free() { // the next round trip begins
						a.enter()
						began++
					}
				}
				got = append(got, fmt.Sprint(a.limit))
				for range began - len(stamps) {
					a.leave()
				}
				if a.running != 0 {
					t.Fatalf("%d run on", a.running)
				}
			}
			if got := strings.Join(got, " "); got != c.want {
				t.Errorf("limits %s, want %s", got, c.want)
			}
		})
	}
}

// TestAIMDHalvesOncePerRoundTrip: what began before a halving says nothing about
// the limit after it, nor does what begins while too many still run.
func TestAIMDHalvesOncePerRoundTrip(t *testing.T) {
	a := newAIMD(16)
	for range 16 {
		a.enter()
	}
	early := a.stamp()
	a.refused(early)
	late := a.stamp() // 16 run, 8 may
	a.refused(early)
	a.refused(late)
	for range 8 {
		a.leave()
	}
	if a.limit != 8 || a.free() {
		t.Fatalf("the limit is %v, want 8, all of it used", a.limit)
	}
	a.refused(late)
	a.refused(a.stamp())
	if a.limit != 4 {
		t.Errorf("the limit is %v, want 4", a.limit)
	}
}

func TestLimiterAdmitsAsManyAsItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&limiters{bound: 4}).bucket("b")
		for range 4 {
			if err := p.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if p.tryEnter() {
			t.Error("a fifth was let in")
		}
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 2)
		go func() { left <- p.enter(ctx) }()
		synctest.Wait()
		go func() { left <- p.enter(t.Context()) }()
		synctest.Wait()
		if p.tryEnter() {
			t.Error("one was let in before those that wait")
		}
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("the one that gave up got %v", err)
		}
		p.leave()
		if err := <-left; err != nil {
			t.Error(err)
		}
		if err := p.try(func() error { return errSlowDown }); !errors.Is(err, errSlowDown) || p.limit() != 2 {
			t.Errorf("%v, and a limit of %d after a refusal", err, p.limit())
		}
		for range 2 { // still one too many
			p.leave()
			if p.tryEnter() {
				t.Error("one was let in beyond the new limit")
			}
		}
		p.leave()
		if !p.tryEnter() {
			t.Error("nobody was let in below the new limit")
		}
	})
}

func TestThrottledTriesWaitLongerEachTime(t *testing.T) {
	last := time.Duration(0)
	for n := range maxThrottled {
		least, most := backoff(n, 0), backoff(n, 1)
		if least < throttledFirst/2 || most > throttledLongest || least*2 != most || most < last {
			t.Errorf("the wait after %d is from %s to %s", n, least, most)
		}
		last = most
	}
}
