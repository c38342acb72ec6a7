package handlers_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/state"
)

// TestFightOverRotation plays an opponent who turns rotation off again each time.
func TestFightOverRotation(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		for range 5 {
			w.disableRotation(key)
			w.react()
			if a := w.one(); a.Severity != finding.High || a.Action.Status != alert.StatusDone {
				t.Errorf("put back:\n%s", a.Text())
			}
			time.Sleep(time.Minute)
		}
		w.disableRotation(key)
		sixth := w.event("DisableKeyRotation")
		for range 2 { // it comes twice
			if err := w.handle(sixth); err != nil {
				t.Fatal(err)
			}
		}
		a := w.one()
		if a.Severity != finding.Critical || a.Action.Status != alert.StatusRefused || w.rotation(key) != 0 {
			t.Errorf("sixth within the hour, period %d:\n%s", w.rotation(key), a.Text())
		}
		if text := a.Text(); !strings.Contains(text, "mallory (IAM user in "+account+"), 5 times") || !strings.Contains(text, "aws kms enable-key-rotation") {
			t.Errorf("the alert does not say who the other party is and what to do:\n%s", text)
		}

		// While the circuit is open events are told, and nobody touches the setting.
		time.Sleep(20 * time.Minute)
		w.sweep()
		w.none()
		w.disableRotation(key)
		w.react()
		if a := w.one(); a.Severity != finding.High || a.Action.Status != alert.StatusRefused || w.rotation(key) != 0 {
			t.Errorf("while the circuit is open, period %d:\n%s", w.rotation(key), a.Text())
		}

		// It closes, whatever the other party did meanwhile.
		time.Sleep(40 * time.Minute)
		w.sweep()
		if a := w.one(); a.Action.Status != alert.StatusDone || w.rotation(key) != 180 {
			t.Errorf("after an hour, period %d:\n%s", w.rotation(key), a.Text())
		}
		w.disableRotation(key)
		w.react()
		if a := w.one(); a.Action.Status != alert.StatusDone || w.rotation(key) != 180 {
			t.Errorf("the fight begins anew, period %d:\n%s", w.rotation(key), a.Text())
		}
	})
}

func TestFightOverDeletion(t *testing.T) {
	c := enforceAll()
	c.FlapLimit = 2
	inWorld(t, c, func(w *world) {
		key := w.rotatingKey(180)
		for range 2 {
			w.scheduleDeletion(key)
			w.react()
			w.told.take()
			time.Sleep(time.Minute)
		}
		w.scheduleDeletion(key)
		w.told.broken = true
		third := w.event("ScheduleKeyDeletion")
		if err := w.handle(third); err == nil {
			t.Fatal("handled although nobody was told")
		}
		w.told.broken = false
		if err := w.handle(third); err != nil {
			t.Fatal(err)
		}
		if a := w.one(); a.Severity != finding.Critical || a.Action.Status != alert.StatusRefused || w.state(key) != "PendingDeletion" {
			t.Errorf("third within the hour, key %s:\n%s", w.state(key), a.Text())
		}
		w.sweep()
		w.none()
		time.Sleep(time.Hour)
		w.sweep()
		if a := w.one(); a.Action.Status != alert.StatusDone || w.state(key) != "Enabled" {
			t.Errorf("after an hour, key %s:\n%s", w.state(key), a.Text())
		}
	})
}

// TestFightThatSweepsSee is one of which no event tells.
func TestFightThatSweepsSee(t *testing.T) {
	c := enforceAll()
	c.FlapLimit = 1
	inWorld(t, c, func(w *world) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		w.events()
		w.sweep()
		w.told.take()
		time.Sleep(time.Minute)
		w.disableRotation(key)
		w.events()
		w.told.broken = true
		if err := w.router.Sweep(w.ctx); err == nil {
			t.Fatal("swept although nobody was told")
		}
		w.told.broken = false
		time.Sleep(time.Minute)
		w.sweep() // nobody was told yet
		if a := w.one(); a.Severity != finding.Critical || a.Action.Status != alert.StatusRefused || w.rotation(key) != 0 {
			t.Errorf("period %d:\n%s", w.rotation(key), a.Text())
		}
		w.sweep()
		w.none()
	})
}

func TestNoCircuitInObserve(t *testing.T) {
	c := enforceAll()
	c.FlapLimit = 1
	inWorld(t, c, func(w *world) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		w.react()
		w.told.take()
		c.Rotation = reaction.Observe
		w.router = w.newRouter(c)
		for range 3 {
			w.disableRotation(key)
			w.react()
			if a := w.one(); a.Action.Status != alert.StatusWouldDo {
				t.Errorf("alert:\n%s", a.Text())
			}
			w.enableRotation(key, 180)
			w.react()
			if got := w.over("was turned off"); len(got) > 0 {
				t.Errorf("alerts:\n%s", texts(got))
			}
		}
	})
}

// TestCircuitOpensOnceOverAKill kills a worker after each of its writes while it
// opens a circuit, by an event or a sweep, and has another one see to it.
func TestCircuitOpensOnceOverAKill(t *testing.T) {
	c := enforceAll()
	c.FlapLimit = 1
	for _, bySweep := range []bool{false, true} {
		steps := 0
		for killed := true; killed; steps++ {
			inWorld(t, c, func(w *world) {
				key := w.rotatingKey(180)
				w.disableRotation(key)
				w.react()
				w.told.take()
				time.Sleep(time.Minute)
				w.disableRotation(key)
				body := w.event("DisableKeyRotation")
				ctx, kill := context.WithCancelCause(w.ctx)
				defer kill(nil)
				left := steps
				doomed := w.newRouterWith(c, func(d *reaction.Deps) {
					buckets := s3.NewFromConfig(inprocess.Config(w.aws, region, keeperKey), func(o *s3.Options) { o.UsePathStyle = true })
					watch := watched{S3: buckets, KMS: d.KMS, wrote: func(string) {
						if left--; left < 0 {
							kill(errKilled)
						}
					}}
					d.KMS, d.State = watch, state.New(watch, stateBucket, "cmkeeper/", account)
				})
				if bySweep {
					_ = doomed.Sweep(ctx)
				} else {
					_ = doomed.Handle(ctx, handlers.Message{Body: []byte(body)})
				}
				killed = ctx.Err() != nil
				time.Sleep(10 * time.Minute)
				if bySweep {
					w.sweep()
				} else if err := w.handle(body); err != nil {
					t.Fatal(err)
				}
				if a := w.one(); a.Severity != finding.Critical || a.Action.Status != alert.StatusRefused || w.rotation(key) != 0 {
					t.Errorf("killed after write %d, period %d:\n%s", steps, w.rotation(key), a.Text())
				}
				w.sweep()
				w.none()
				time.Sleep(time.Hour)
				w.sweep()
				if a := w.one(); a.Action.Status != alert.StatusDone || w.rotation(key) != 180 {
					t.Errorf("killed after write %d, after the hour, period %d:\n%s", steps, w.rotation(key), a.Text())
				}
			})
		}
		if steps < 3 {
			t.Errorf("by a sweep %v: only %d steps", bySweep, steps)
		}
	}
}
