package usage

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
)

// busyKey makes an account whose event history has a call for the key every so often, n in
// all, the last one now. CloudTrail shows the calls from then on at once.
func busyKey(t *testing.T, n int, every time.Duration) (server *localaws.Server, cfg aws.Config) {
	t.Helper()
	server = localaws.New(localaws.Options{Account: "111122223333"})
	t.Cleanup(server.Close)
	record(t, server, 0, n, every)
	return server, inprocess.Config(server, "eu-central-1", "ada")
}

func record(t *testing.T, server *localaws.Server, first, n int, every time.Duration) {
	t.Helper()
	now := time.Now().UTC()
	for i := range n {
		c := call{
			id: fmt.Sprintf("%08x-0000-4000-8000-000000000000", first+i), operation: "Decrypt", key: keyARN, principal: "arn:aws:iam::111122223333:user/app",
			address: "203.0.113.7", bucket: "orders", at: now.Add(-time.Duration(n-1-i) * every),
		}
		if err := server.Record(c.record()); err != nil {
			t.Fatal(err)
		}
	}
}

// lookUp asks the event history about the last day.
func lookUp(t *testing.T, cfg aws.Config, requests int, seen func(Looked)) Table {
	t.Helper()
	to := time.Now().UTC().Add(time.Second)
	c := NewCollector(keyARN, to.AddDate(0, 0, -1), to, nil)
	if err := c.LookUp(t.Context(), awsclient.CloudTrail(cfg), requests, seen); err != nil {
		t.Fatal(err)
	}
	return c.Table()
}

// TestLookUp: all pages of the event history, at a request a second, so that the fleet has
// the other one of the account's two.
func TestLookUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, cfg := busyKey(t, 1000, time.Minute)
		stop := make(chan struct{})
		go func() { // the fleet confirms events
			defer close(stop)
			for range 20 {
				time.Sleep(time.Second)
				if err := awsclient.CloudTrail(inprocess.Config(server, "eu-central-1", "fleet")).Call(t.Context(), "LookupEvents", struct{}{}, nil); err != nil {
					t.Error(err)
				}
			}
		}()
		began, progress := time.Now(), 0
		got := lookUp(t, cfg, 0, func(l Looked) { progress = l.Requests })
		took := time.Since(began)
		<-stop
		if n := server.Requests("cloudtrail", "LookupEvents"); progress != 20 || n != 40 || took < 19*time.Second || took > 25*time.Second {
			t.Errorf("%d requests, %d of all callers, in %s; want 20 in 19 s and 20 of the fleet, none twice", progress, n, took)
		}
		if got.Calls != 1000 || len(got.Source.Unread) > 0 || got.Source.Records != 1000 {
			t.Errorf("%d calls, %+v", got.Calls, got.Source)
		}
		if want := began.UTC().Add(-15 * time.Minute).Truncate(time.Second); !got.Source.MayLackSince.Equal(want) {
			t.Errorf("may lack calls since %s, want %s", got.Source.MayLackSince, want)
		}
	})
}

// TestLookUpThrottled: where others use the account's requests, a look-up waits.
func TestLookUpThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, cfg := busyKey(t, 200, time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			cfg := inprocess.Config(server, "eu-central-1", "eve")
			cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
			for ctx.Err() == nil {
				_ = awsclient.CloudTrail(cfg).Call(ctx, "LookupEvents", struct{}{}, nil)
				time.Sleep(50 * time.Millisecond)
			}
		}()
		cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
		got := lookUp(t, cfg, 0, nil)
		<-stopped
		if got.Calls != 200 {
			t.Errorf("%d calls, %+v", got.Calls, got.Source)
		}
		server.SetFaults(localaws.Fault{Service: "cloudtrail", Effect: localaws.Throttle, Rate: 1e-6})
		c := NewCollector(keyARN, got.From, got.To, nil)
		err := c.LookUp(t.Context(), awsclient.CloudTrail(cfg), 0, nil)
		if err == nil || !strings.Contains(err.Error(), "ThrottlingException") {
			t.Errorf("throttled for good: %v", err)
		}
	})
}

// TestBusyKey: after so many requests the table is about the time that is known, to the
// second, and says how long the rest takes.
func TestBusyKey(t *testing.T) {
	for name, tt := range map[string]struct {
		n        int
		every    time.Duration
		requests int
		known    time.Duration // of the table
		unread   string
		before   string
	}{
		"an hour": {3000, 45 * time.Second, 2, 74*time.Minute + 15*time.Second,
			"the key is so busy that CloudTrail would have to be asked for 1m more; read the trail's log files instead, or raise the limit of 2 requests",
			"Nothing is known of the time before, so there is nothing to compare with."},
		"several calls in a second": {1000, 300 * time.Millisecond, 3, 45 * time.Second, "for 3h", "Nothing is known"},
		"one second":                {200, 0, 3, 0, "for 6 days", "Nothing is known"},
		"some of the time before": {3000, 45 * time.Second, 50, 24 * time.Hour, "",
			"Compared with the 7.2 hours before, with 579 calls: too short to compare days. Not compared with events before "},
		"all": {3000, 45 * time.Second, 61, 24 * time.Hour, "", "Compared with the 24 hours before, with 1080 calls."},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now().UTC()
				_, cfg := busyKey(t, tt.n, tt.every)
				got := lookUp(t, cfg, tt.requests, nil)
				if known := got.To.Sub(got.From); known != tt.known {
					t.Errorf("the table is about %s, want %s", known, tt.known)
				}
				var want, days int64
				for i := range tt.n {
					if at := now.Add(-time.Duration(i) * tt.every).Truncate(time.Second); !at.Before(got.From) {
						want++
					}
				}
				for _, d := range got.Days {
					days += d.Calls
				}
				if got.Calls != want || days != want {
					t.Errorf("%d calls, %d of them by day, want %d", got.Calls, days, want)
				}
				if unread := strings.Join(got.Source.Unread, "\n"); !strings.Contains(unread, tt.unread) || (unread == "") != (tt.unread == "") {
					t.Errorf("not read: %q, want %q", unread, tt.unread)
				}
				if !strings.HasPrefix(got.Before, tt.before) {
					t.Errorf("%q, want %q", got.Before, tt.before)
				}
			})
		})
	}
}

// TestHiddenCalls: CloudTrail shows a call some minutes later, so the newest may be missing.
func TestHiddenCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, cfg := busyKey(t, 3, time.Hour)
		server.Trail().Set(trail.Settings{LookupDelay: 5 * time.Minute})
		record(t, server, 3, 1, 0)
		for _, want := range []int64{3, 4} {
			if got := lookUp(t, cfg, 0, nil); got.Calls != want || time.Since(got.Source.MayLackSince).Round(time.Minute) != 15*time.Minute {
				t.Errorf("%d calls, want %d; %+v", got.Calls, want, got.Source)
			}
			time.Sleep(5 * time.Minute)
		}
	})
}

// TestNinetyDays: of what the event history no longer has, nobody says that there was none.
func TestNinetyDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, cfg := busyKey(t, 3, 24*time.Hour)
		for days, want := range map[int]struct{ unread, before string }{
			30:  {"", "In the 30 days before, no call for the key is known, so there is nothing to compare with."},
			60:  {"", "In the 30 days before, no call for the key is known, so there is nothing to compare with. Not compared with events before "},
			100: {"events before 1999-10-03T00:00:0", "Nothing is known of the time before"},
		} {
			to := time.Now().Add(time.Second)
			c := NewCollector(keyARN, to.AddDate(0, 0, -days), to, nil)
			if err := c.LookUp(t.Context(), awsclient.CloudTrail(cfg), 0, nil); err != nil {
				t.Fatal(err)
			}
			got := c.Table()
			unread := strings.Join(got.Source.Unread, "\n")
			if !strings.HasPrefix(unread, want.unread) || strings.Contains(unread+got.Before, "history has the last 90 days") != (days > 45) || (unread == "") != (want.unread == "") || !strings.HasPrefix(got.Before, want.before) {
				t.Errorf("%d days: %q, %q", days, unread, got.Before)
			}
			time.Sleep(time.Second)
		}
	})
}
