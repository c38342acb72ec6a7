package handlers_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
)

// everyKill plays a scene again and again, each time in a new world: the worker
// dies at another one of its requests, which AWS still serves, until there are
// no more. work is what it was doing, and what another worker does again a
// minute later; check looks at the end.
func everyKill(t *testing.T, c handlers.Config, prepare func(*world) (work func(context.Context, *handlers.Router) error, check func())) {
	t.Helper()
	reached := true
	for n := int32(1); reached; n++ {
		t.Run(fmt.Sprintf("at request %d", n), func(t *testing.T) {
			inWorld(t, c, func(w *world) {
				work, check := prepare(w)
				ctx, kill := context.WithCancelCause(w.ctx)
				defer kill(nil)
				var requests atomic.Int32
				stop := w.aws.Observe(func(r localaws.Request) {
					if strings.HasSuffix(r.Caller.ARN, "assumed-role/cmkeeper/worker-1") && requests.Add(1) == n {
						kill(errKilled)
					}
				})
				_ = work(ctx, w.router) // what a dead worker says is lost
				stop()
				reached = requests.Load() >= n
				time.Sleep(time.Minute)
				w.router = w.newRouter(c)
				if err := work(w.ctx, w.router); err != nil {
					t.Fatal(err)
				}
				w.react()
				check()
			})
		})
		if t.Failed() {
			return
		}
	}
}

// handling is the work of handling a message.
func handling(body string) func(context.Context, *handlers.Router) error {
	return func(ctx context.Context, r *handlers.Router) error { return r.Handle(ctx, []byte(body)) }
}

func TestCancelSurvivesEveryKill(t *testing.T) {
	c := countdown(handlers.Enforce)
	everyKill(t, c, func(w *world) (func(context.Context, *handlers.Router) error, func()) {
		key := w.knownKey("alias/orders")
		w.scheduleDeletion(key)
		return handling(w.event("ScheduleKeyDeletion")), func() {
			w.wantState(key, "Enabled")
			if a := w.one(); a.Kind != alert.KindDeletion || a.Severity != alert.Critical || a.Action.Status != alert.StatusDone {
				t.Errorf("alert:\n%s", a.Text())
			}
			if got := w.aws.Requests("kms", "CancelKeyDeletion"); got != 1 {
				t.Errorf("%d calls of CancelKeyDeletion", got)
			}
		}
	})
}

func TestReminderSurvivesEveryKill(t *testing.T) {
	c := countdown(handlers.Observe)
	everyKill(t, c, func(w *world) (func(context.Context, *handlers.Router) error, func()) {
		key := w.knownKey("alias/orders")
		w.scheduleDeletionIn(key, 7)
		w.react()
		w.one()
		time.Sleep(4*day + time.Hour)
		sweep := func(ctx context.Context, r *handlers.Router) error { return r.Sweep(ctx) }
		return sweep, func() {
			if a := w.one(); !strings.HasPrefix(a.Title, "Key alias/orders will be deleted in 2 days") {
				t.Errorf("alert:\n%s", a.Text())
			}
			w.sweep()
			w.none()
		}
	})
}

func TestContainmentSurvivesEveryKill(t *testing.T) {
	c := containing(t)
	everyKill(t, c, func(w *world) (func(context.Context, *handlers.Router) error, func()) {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, public)
		return handling(w.event("PutKeyPolicy")), func() {
			w.wantState(key, "Disabled")
			if a := w.one(); a.Kind != alert.KindContainment || a.Action.Status != alert.StatusDone || findingIDs(a) != "public-principal" {
				t.Errorf("alert:\n%s", a.Text())
			}
			if got := w.aws.Requests("kms", "DisableKey"); got != 1 {
				t.Errorf("%d calls of DisableKey", got)
			}
			w.sweep()
			w.none()
			w.wantState(key, "Disabled")
			// Whoever closes and enables the key is left alone.
			w.putPolicy(key, rootOnly)
			must(w.as("responder").EnableKey(w.ctx, &kms.EnableKeyInput{KeyId: &key}))
			w.react()
			w.none()
			w.wantState(key, "Enabled")
		}
	})
}
