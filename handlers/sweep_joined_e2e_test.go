package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

// sweeps are how many sweeps there were.
func (w *world) sweeps() int {
	w.moves.mu.Lock()
	defer w.moves.mu.Unlock()
	return w.moves.resumed
}

// ticked handles a message of the schedule that was sent then, and says what becomes of it.
func (w *world) ticked(r *handlers.Router, sent time.Time) outcome.Decision {
	return outcome.Of(r.Handle(w.ctx, handlers.Message{Body: []byte(tick(0)), Sent: sent}))
}

// wantTicked handles one, and wants it to be done, or to wait, and so many sweeps in all.
func (w *world) wantTicked(r *handlers.Router, sent time.Time, action outcome.Action, sweeps int) time.Duration {
	w.t.Helper()
	d := w.ticked(r, sent)
	if d.Action != action {
		w.t.Errorf("the message of the schedule: %s (%v), want %s", d.Action, d.Err, action)
	}
	if got := w.sweeps(); got != sweeps {
		w.t.Errorf("%d sweeps, want %d", got, sweeps)
	}
	return d.After
}

// A message of the schedule is done when a sweep was whole that began after it was sent,
// and not before.
func TestTicksAreJoined(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		first, other := w.router, w.newRouter(enforceAll())
		began := time.Now()
		w.wantTicked(first, began.Add(-time.Minute), outcome.Delete, 1)
		w.wantTicked(other, began.Add(-time.Hour), outcome.Delete, 1)
		time.Sleep(time.Minute)
		sent := time.Now()
		wait := w.wantTicked(other, sent, outcome.Delay, 1)
		time.Sleep(wait)
		w.wantTicked(other, sent, outcome.Delete, 2)
		w.wantTicked(first, sent.Add(time.Second), outcome.Delete, 2)
		if err := first.StartupSweep(w.ctx); err != nil {
			t.Error(err)
		}
		w.wantTicked(first, sent, outcome.Delete, 2)
	})
}

// Somebody who can send messages makes the fleet sweep every few minutes, and no more
// often.
func TestTicksMakeFewSweeps(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		for range 360 {
			w.ticked(w.router, time.Now())
			time.Sleep(10 * time.Second)
		}
		if n := w.sweeps(); n < 10 || n > 13 {
			t.Errorf("%d sweeps in an hour", n)
		}
	})
}

// The clocks of workers do not matter, by which they would lose messages or sweep too
// often: one is ten minutes ahead, and one ten minutes behind.
func TestTicksOfWorkersWithWrongClocks(t *testing.T) {
	for name, ahead := range map[string][2]time.Duration{
		"behind, then ahead": {-10 * time.Minute, 10 * time.Minute},
		"ahead, then behind": {10 * time.Minute, -10 * time.Minute},
		"ahead, then right":  {10 * time.Minute, 0},
		"behind, then right": {-10 * time.Minute, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, enforceAll(), func(w *world) {
				var clocks [2]*clock
				var routers [2]*handlers.Router
				for i := range routers {
					clocks[i] = new(clock)
					clocks[i].set(ahead[i])
					routers[i] = w.newRouterWith(enforceAll(), func(d *reaction.Deps) {
						cfg := w.keeperConfig()
						cfg.HTTPClient = clockClient{cfg.HTTPClient, clocks[i]}
						buckets := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
						d.State = state.New(clockState{buckets, clocks[i]}, stateBucket, "cmkeeper/", account)
					})
				}
				early := time.Now()
				time.Sleep(time.Minute)
				w.wantTicked(routers[0], clocks[0].seen(early), outcome.Delete, 1)
				w.wantTicked(routers[1], clocks[1].seen(early), outcome.Delete, 1)
				time.Sleep(time.Second)
				late := time.Now()
				time.Sleep(time.Second)
				w.wantTicked(routers[1], clocks[1].seen(late), outcome.Delay, 1)
				time.Sleep(ledger.SweepPause)
				w.wantTicked(routers[1], clocks[1].seen(late), outcome.Delete, 2)
				w.wantTicked(routers[0], clocks[0].seen(late), outcome.Delete, 2)
			})
		})
	}
}

// A worker dies anywhere in a sweep that finds what no event reported: its message is
// done only when another worker has swept, and what was repaired is told.
func TestTickSurvivesEveryKill(t *testing.T) {
	for name, harm := range map[string]struct {
		do   func(w *world, key string)
		want string
	}{
		"rotation": {(*world).disableRotation, "180 Enabled"},
		"disabled": {(*world).disable, "180 Enabled"},
		"deletion": {(*world).scheduleDeletion, "180 Enabled"},
	} {
		t.Run(name, func(t *testing.T) {
			everyKill(t, enforceAll(), func(w *world) (func(context.Context, *handlers.Router) error, func()) {
				key := w.rotatingKey(180)
				w.sweep()
				w.told.take()
				time.Sleep(time.Minute)
				harm.do(w, key)
				w.events() // is lost
				sent := time.Now()
				work := func(ctx context.Context, r *handlers.Router) error {
					for {
						d := outcome.Of(r.Handle(ctx, handlers.Message{Body: []byte(tick(0)), Sent: sent}))
						if d.Action != outcome.Delay || ctx.Err() != nil {
							return d.Err
						}
						time.Sleep(d.After)
					}
				}
				return work, func() {
					if got := fmt.Sprint(w.rotation(key), " ", w.state(key)); got != harm.want {
						t.Errorf("the key is %s, want %s", got, harm.want)
					}
					w.one()
				}
			})
		})
	}
}

// A sweep that fails is made again, ever more rarely, by whoever asks; in the end its
// message is kept in the dead-letter queue with the reason. Nothing is dropped before a
// sweep was whole.
func TestFailingSweep(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		broken := true
		w.router = w.newRouterWith(enforceAll(), func(d *reaction.Deps) {
			d.Moves = resumer{w.moves, &broken}
		})
		sent := make([]time.Time, 50) // 50 messages that wait
		due := make([]time.Time, len(sent))
		for i := range sent {
			sent[i] = time.Now()
		}
		rejected, hours := 0, 0
		play := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
				for i := range sent {
					if sent[i].IsZero() || time.Now().Before(due[i]) {
						continue
					}
					switch d := w.ticked(w.router, sent[i]); d.Action {
					case outcome.Delay:
						due[i] = time.Now().Add(d.After)
					case outcome.Delete:
						if broken {
							t.Error("a message is dropped, and no sweep was whole")
						}
						sent[i] = time.Time{}
					case outcome.DeadLetter:
						rejected++
						sent[i] = time.Time{}
						if !strings.Contains(d.Err.Error(), "no answer") {
							t.Errorf("rejected: %v", d.Err)
						}
					default:
						t.Errorf("%s: %v", d.Action, d.Err)
					}
				}
			}
		}
		for range 3 {
			hours++
			play(time.Hour)
		}
		if n := w.sweeps(); n < 8 || n > 11 || rejected > 1 {
			t.Errorf("%d sweeps in %d hours, and %d messages rejected", n, hours, rejected)
		}
		play(2 * time.Hour)
		if n := w.sweeps(); n > 15 || rejected == 0 || rejected > 6 {
			t.Errorf("%d sweeps after two more hours, and %d messages rejected", n, rejected)
		}
		broken = false
		before := w.sweeps()
		play(31 * time.Minute)
		if n := w.sweeps() - before; n != 1 {
			t.Errorf("%d sweeps when nothing failed any more", n)
		}
		for i := range sent {
			if !sent[i].IsZero() {
				t.Fatal("a message still waits")
			}
		}
	})
}

// The document of the fleet's sweeps cannot be read: each worker sweeps for itself, not
// too often, and tells.
func TestUnreadableSweeps(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		must(w.s3.PutObject(w.ctx, &s3.PutObjectInput{Bucket: aws.String(stateBucket), Key: aws.String("cmkeeper/" + ledger.SweepsName), Body: strings.NewReader(`{"schema":"cmkeeper.sweeps.v9"}`)}))
		sent := time.Now()
		time.Sleep(time.Minute)
		w.wantTicked(w.router, sent, outcome.Delete, 1)
		w.wantTicked(w.router, sent, outcome.Delete, 1)
		w.wantTicked(w.router, time.Now(), outcome.Delay, 1)
		other := w.newRouter(enforceAll())
		w.wantTicked(other, sent, outcome.Delete, 2)
		if a := w.one(); a.Kind != alert.KindGuard || !strings.Contains(a.Text(), ledger.SweepsName) {
			t.Errorf("alert:\n%s", a.Text())
		}
		must(w.s3.DeleteObject(w.ctx, &s3.DeleteObjectInput{Bucket: aws.String(stateBucket), Key: aws.String("cmkeeper/" + ledger.SweepsName)}))
		time.Sleep(ledger.SweepPause)
		w.wantTicked(w.router, time.Now(), outcome.Delete, 3)
		w.none()
	})
}

// A sweep that takes longer than its claim lasts keeps it, and events are handled
// meanwhile, by one slot too.
func TestLongSweepKeepsItsClaim(t *testing.T) {
	inStorm(t, func(s *storm) {
		for range 30 {
			s.newKey(kms.CreateKeyInput{})
		}
		victim := s.rotatingKey(180)
		s.events()
		s.aws.SetFaults(localaws.Fault{Caller: keeperKey, Service: "kms", Operations: []string{"GetKeyPolicy"}, Effect: localaws.Delay, Latency: localaws.Latency{Min: 2 * time.Minute, Mean: 2 * time.Minute}})
		ctx, stop := context.WithCancel(s.ctx)
		for range 2 {
			s.startWith(ctx, 2)
		}
		before := s.aws.Requests("kms", "ListKeys")
		var ticks []string
		for n := range 30 {
			ticks = append(ticks, tick(n))
		}
		s.send(ticks...)
		time.Sleep(3 * time.Minute)
		s.disableRotation(victim)
		time.Sleep(5 * time.Second)
		if days := s.rotation(victim); days != 180 {
			t.Errorf("rotation period %d while a sweep is running, want 180", days)
		}
		time.Sleep(7 * time.Minute)
		if n := s.aws.Requests("kms", "ListKeys") - before; n != 1 {
			t.Errorf("%d sweeps", n)
		}
		stop()
		s.wg.Wait()
	})
}

// resumer is a mover that cannot resume while something is broken.
type resumer struct {
	*memoryMover
	broken *bool
}

func (r resumer) Resume(ctx context.Context, at time.Time) error {
	if err := r.memoryMover.Resume(ctx, at); err != nil || !*r.broken {
		return err
	}
	return errors.New("no answer")
}
