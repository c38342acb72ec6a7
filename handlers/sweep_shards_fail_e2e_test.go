package handlers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

// shardBody is the message of a shard, as anybody can write it.
func shardBody(run, shard string) string {
	return fmt.Sprintf(`{"detail-type":"cmkeeper shard","source":"cmkeeper","id":"%s/%s","account":"%s","region":"%s","time":"%s"}`,
		run, shard, account, region, time.Now().UTC().Format(time.RFC3339))
}

// inShards is the configuration of tests whose sweeps are cut into shards of so many keys
// at least.
func inShards(keys int) reaction.Config {
	c := enforceAll()
	c.SweepShard = keys
	return c
}

// fleetSweeps is the document of the fleet's sweeps, a zero one before the first.
func (w *world) fleetSweeps() (s ledger.Sweeps) {
	w.t.Helper()
	if _, err := w.store().Get(w.ctx, ledger.SweepsName, &s); err != nil && !errors.Is(err, state.ErrNotFound) {
		w.t.Fatal(err)
	}
	return s
}

// waitFor waits until something is so, no longer than an hour.
func (s *storm) waitFor(what string, so func() bool) {
	s.t.Helper()
	for began := time.Now(); !so(); time.Sleep(100 * time.Millisecond) {
		if time.Since(began) > time.Hour {
			s.t.Fatalf("after an hour: not %s", what)
		}
	}
}

// toldOf are the alerts that arrived about keys, how often each.
func toldOf(all []told) map[string]int {
	n := map[string]int{}
	for _, a := range all {
		if a.Digest != nil {
			for _, c := range a.Digest.Calls {
				n[c.Key]++
			}
		} else if a.Key != nil {
			n[a.Key.ARN]++
		}
	}
	return n
}

// TestFloodOfForgedShards: each costs one read and does nothing, whatever it names: sweeps
// that never were, one that is over, shards that there are not.
func TestFloodOfForgedShards(t *testing.T) {
	inFlood(t, defaultSlots, func(s *storm, victim string) {
		over := s.sweepNow(0).Run
		s.arrived()
		var bodies []string
		for n := range soaking(10_000, 3_000) {
			run, shard := fmt.Sprintf("20260301T120000Z-%d", n), fmt.Sprint(n%64)
			switch n % 5 {
			case 1:
				run = over
			case 2:
				run, shard = over, "rolling"
			case 3:
				shard = "../../keys/x"
			case 4:
				run = ""
			}
			bodies = append(bodies, shardBody(run, shard))
		}
		f := s.flood(victim, bodies)
		if n := f.requests["kms.ListKeys"] + f.requests["sqs.SendMessage"]; n > 20 {
			t.Errorf("%d requests that forged shards have no reason for", n)
		}
		if n := f.requests["s3.GetObject"]; n > len(bodies)+200 {
			t.Errorf("%d reads for %d messages", n, len(bodies))
		}
		if n := f.requests["s3.PutObject"]; n > 50 {
			t.Errorf("%d writes", n)
		}
	})
}

// A worker dies in a sweep, and another tick asks meanwhile: there is one sweep, it is
// whole, and what it repairs is told once.
func TestKilledWorkerInShardedSweep(t *testing.T) {
	inStormOf(t, inShards(30), func(s *storm) {
		keys := s.manyKeys(240)
		for _, key := range keys[:8] {
			s.enableRotation(key, 180)
		}
		s.events()
		ctx, stop := context.WithCancel(s.ctx)
		kill := s.startWith(ctx, defaultSlots)
		s.sweepNow(0)
		time.Sleep(time.Hour)
		s.arrived()
		for _, key := range keys[:8] {
			s.disableRotation(key)
		}
		s.events() // are lost
		listed := s.aws.Requests("kms", "ListKeys")
		before := len(s.records())
		s.send(tick(1))
		s.waitFor("a shard that is taken", func() bool {
			p := s.fleetSweeps().Plan
			return p != nil && len(p.Taken) > 0 && p.Left() < 6
		})
		kill()
		s.send(tick(2))
		for range 2 {
			s.startWith(ctx, defaultSlots)
		}
		s.waitFor("a record", func() bool { return len(s.records()) > before })
		s.waitFor("an empty queue", func() bool { return s.left() == 0 })
		records := s.records()
		if r := records[before]; r.Totals.Keys != len(keys) || !r.Whole || r.Shards != 8 {
			t.Errorf("record: %+v", r)
		}
		for _, key := range keys[:8] {
			if days := s.rotation(key); days != 180 {
				t.Errorf("rotation period %d, want 180", days)
			}
		}
		time.Sleep(10 * time.Minute)
		told := toldOf(s.arrived())
		for _, key := range keys[:8] {
			if told[key] != 1 {
				t.Errorf("told %d times of %s", told[key], key)
			}
		}
		// The second tick came after the sweep had begun, so there is one for it as well; and
		// no more.
		if n := s.aws.Requests("kms", "ListKeys") - listed; n > 2 || len(records)-before != n {
			t.Errorf("%d sweeps began, and %d ended", n, len(records)-before)
		}
		stop()
		s.wg.Wait()
	})
}

// The messages of the shards are lost: whoever asks for the sweep does them, ten minutes
// after they were due.
func TestLostShardsAreDone(t *testing.T) {
	inStormOf(t, inShards(30), func(s *storm) {
		keys := s.manyKeys(70)
		router := s.newRouterWith(s.config, func(d *reaction.Deps) {
			d.Send = func(context.Context, string, time.Duration) error { return nil }
		})
		sent, began := time.Now().Add(-time.Minute), time.Now()
		for {
			d := s.ticked(router, sent)
			if d.Err == nil {
				break
			}
			if time.Since(began) > time.Hour {
				t.Fatalf("after an hour: %v", d.Err)
			}
			time.Sleep(d.After)
		}
		r := s.records()
		if took := time.Since(began); len(r) != 1 || r[0].Totals.Keys != len(keys) || !r[0].Whole || took < 10*time.Minute || took > 15*time.Minute {
			t.Errorf("after %s: %+v", took, r)
		}
	})
}

// A shard fails, and is tried again by itself.
func TestFailedShardIsTriedAlone(t *testing.T) {
	for _, mended := range []bool{true, false} {
		t.Run(fmt.Sprintf("mended %t", mended), func(t *testing.T) {
			inStormOf(t, inShards(30), func(s *storm) {
				keys := s.manyKeys(140)
				ctx, stop := context.WithCancel(s.ctx)
				s.startWith(ctx, defaultSlots)
				s.send(tick(0))
				s.waitFor("cut", func() bool { return s.fleetSweeps().Plan != nil })
				run := s.fleetSweeps().Run
				name := ledger.ShardName(run, 3)
				var work ledger.Shard
				if _, err := s.store().Get(s.ctx, name, &work); err != nil {
					t.Fatal(err)
				}
				if err := s.store().Delete(s.ctx, name, ""); err != nil {
					t.Fatal(err)
				}
				s.waitFor("failed", func() bool {
					p := s.fleetSweeps().Plan
					return p != nil && len(p.Taken) == 1 && p.Taken[0].Failures == 1 && p.Left() == 1
				})
				if mended {
					must(s.store().Put(s.ctx, name, &work, ""))
				}
				s.waitFor("ended", func() bool { return len(s.records()) > 0 })
				r := s.records()[0]
				if n := s.aws.Requests("kms", "GetKeyPolicy"); r.Whole != mended || mended && (n != len(keys) || r.Totals.Keys != len(keys)) {
					t.Errorf("%d policies were read of %d keys: %+v", n, len(keys), r)
				}
				if !mended {
					s.waitFor("made again", func() bool { return len(s.records()) > 1 })
					if r := s.records()[1]; !r.Whole || r.Totals.Keys != len(keys) {
						t.Errorf("the next one: %+v", r)
					}
				}
				stop()
				s.wg.Wait()
			})
		})
	}
}

// A worker of one slot leaves a shard, which would take half a minute, for an event, and
// goes on with it afterwards.
func TestShardsYieldToEvents(t *testing.T) {
	c := inShards(200)
	c.SweepShare = 0.02
	inStormOf(t, c, func(s *storm) {
		s.manyKeys(400)
		busy := s.newKey(kms.CreateKeyInput{})
		s.events()
		ctx, stop := context.WithCancel(s.ctx)
		s.startWith(ctx, 1)
		s.send(tick(0))
		s.waitFor("begun", func() bool { p := s.fleetSweeps().Plan; return p != nil && len(p.Taken) > 0 })
		sent := time.Now()
		must(s.as("intruder").CreateGrant(s.ctx, &kms.CreateGrantInput{
			KeyId: &busy, GranteePrincipal: aws.String("arn:aws:iam::" + stranger + ":role/visitor"), Operations: []types.GrantOperation{types.GrantOperationDecrypt, types.GrantOperationCreateGrant},
		}))
		var at time.Time
		s.waitFor("told", func() bool {
			for _, a := range s.arrived() {
				if a.EventName == "CreateGrant" {
					at = a.at
				}
			}
			return !at.IsZero()
		})
		if after := at.Sub(sent); after > 15*time.Second {
			t.Errorf("told after %s, by a worker of one slot", after)
		}
		s.waitFor("done", func() bool { return len(s.records()) > 0 })
		if r := s.records()[0]; !r.Whole || r.Totals.Keys != 401 {
			t.Errorf("record: %+v", r)
		}
		stop()
		s.wg.Wait()
	})
}

// Many workers ask for the same shards at once, and refuse each other the document: no slot
// is lost for that.
func TestContendedShardsKeepNoSlot(t *testing.T) {
	c := inShards(30)
	c.Concurrency = 8
	inStormOf(t, c, func(s *storm) {
		keys := s.manyKeys(250)
		var routers []*handlers.Router
		for range 8 {
			routers = append(routers, s.newRouterWith(c, func(d *reaction.Deps) { d.Send = func(context.Context, string, time.Duration) error { return nil } }))
		}
		s.ticked(routers[0], time.Now())
		run := s.fleetSweeps().Run
		var wg sync.WaitGroup
		for _, r := range routers {
			for shard := range 9 {
				wg.Go(func() {
					for range 500 {
						d := outcome.Of(r.Handle(s.ctx, handlers.Message{Body: []byte(shardBody(run, fmt.Sprint(shard)))}))
						if d.Action != outcome.Delay {
							return
						}
						time.Sleep(d.After)
					}
				})
			}
		}
		wg.Wait()
		if all := s.records(); len(all) != 1 || !all[0].Whole || all[0].Totals.Keys != len(keys) {
			t.Errorf("records: %+v", all)
		}
		for _, r := range routers {
			for n := range 2 {
				if _, err := r.EnterShard(); err != nil {
					t.Fatalf("when nothing is to be done any more, slot %d of a worker is taken: %v", n, err)
				}
			}
		}
	})
}

// A worker of the former build sweeps under the same claim, and drops what it does not
// know: the shards that are left come to nothing, and no message is lost.
func TestFormerBuildAmongShards(t *testing.T) {
	e, err := events.Parse([]byte(shardBody("run", "1")))
	if err != nil || e.Kind != events.Native || e.IsKMS() {
		t.Errorf("a former build takes the message of a shard for %+v, %v", e, err)
	}
	inStormOf(t, inShards(30), func(s *storm) {
		s.manyKeys(140)
		s.send(tick(0))
		router := s.newRouterWith(s.config, func(d *reaction.Deps) { d.Send = func(context.Context, string, time.Duration) error { return nil } })
		sent := time.Now()
		s.ticked(router, sent)
		f := s.fleetSweeps()
		former := map[string]any{"schema": "cmkeeper.sweeps.v1", "write": "FORMER", "run": "former", "until": time.Now().Add(2 * time.Minute).UTC()}
		body := must(json.Marshal(former))
		must(s.s3.PutObject(s.ctx, &s3.PutObjectInput{Bucket: aws.String(stateBucket), Key: aws.String("cmkeeper/" + ledger.SweepsName), Body: strings.NewReader(string(body))}))
		read := s.aws.Requests("kms", "DescribeKey")
		if err := router.Handle(s.ctx, handlers.Message{Body: []byte(shardBody(f.Run, "1"))}); err != nil {
			t.Errorf("a shard of the sweep that was replaced: %v", err)
		}
		if n := s.aws.Requests("kms", "DescribeKey") - read; n != 0 {
			t.Errorf("%d keys were read", n)
		}
		// Nobody says any more that the former build's sweep runs: the tick is still there.
		time.Sleep(3 * time.Minute)
		s.ticked(router, sent)
		if p := s.fleetSweeps().Plan; p == nil {
			t.Error("the sweep was not begun anew")
		}
		for _, a := range s.told.take() {
			if a.Kind == alert.KindGuard {
				t.Errorf("alert:\n%s", a.Text())
			}
		}
	})
}
