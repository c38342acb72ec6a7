package handlers_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// everyKill plays a scene again and again, each time in a new world: the worker
// dies at another one of its requests, which AWS still serves, until there are
// no more. work is what it was doing, and what another worker does again a
// minute later; check looks at the end.
func everyKill(t *testing.T, c reaction.Config, prepare func(*world) (work func(context.Context, *handlers.Router) error, check func())) {
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
	return func(ctx context.Context, r *handlers.Router) error {
		return r.Handle(ctx, handlers.Message{Body: []byte(body)})
	}
}

func TestCancelSurvivesEveryKill(t *testing.T) {
	c := countdown(reaction.Enforce)
	everyKill(t, c, func(w *world) (func(context.Context, *handlers.Router) error, func()) {
		key := w.knownKey("alias/orders")
		w.scheduleDeletion(key)
		return handling(w.event("ScheduleKeyDeletion")), func() {
			w.wantState(key, "Enabled")
			if a := w.one(); a.Kind != alert.KindDeletion || a.Severity != finding.Critical || a.Action.Status != alert.StatusDone {
				t.Errorf("alert:\n%s", a.Text())
			}
			if got := w.aws.Requests("kms", "CancelKeyDeletion"); got != 1 {
				t.Errorf("%d calls of CancelKeyDeletion", got)
			}
		}
	})
}

func TestReminderSurvivesEveryKill(t *testing.T) {
	c := countdown(reaction.Observe)
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

// A worker dies anywhere between judging a policy and the end: the policy is put back,
// and then there is nothing to contain, neither for the next worker.
func TestPutBackBeforeContainmentSurvivesEveryKill(t *testing.T) {
	everyKill(t, closing(t), func(w *world) (func(context.Context, *handlers.Router) error, func()) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		return handling(w.event("PutKeyPolicy")), func() {
			w.wantPolicy(key, rootOnly)
			w.wantState(key, "Enabled")
			if a := w.one(); a.Kind != alert.KindPolicy || a.Action.Status != alert.StatusDone {
				t.Errorf("alert:\n%s", a.Text())
			}
			if puts, disables := w.aws.Requests("kms", "PutKeyPolicy"), w.aws.Requests("kms", "DisableKey"); puts != 3 || disables != 0 {
				t.Errorf("%d calls of PutKeyPolicy and %d of DisableKey, want two of the test and one, and none", puts, disables)
			}
			w.sweep()
			w.none()
		}
	})
}

// A policy that is not put back, since its actor set it before, leaves the key open.
func TestContainmentAfterARefusedPutBackSurvivesEveryKill(t *testing.T) {
	everyKill(t, closing(t), func(w *world) (func(context.Context, *handlers.Router) error, func()) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		w.react()
		w.told.take()
		time.Sleep(time.Minute)
		w.putPolicy(key, takeover)
		return handling(w.event("PutKeyPolicy")), func() {
			w.wantPolicy(key, takeover)
			w.wantState(key, "Disabled")
			told := w.told.take()
			if len(told) != 2 || told[0].Kind == told[1].Kind {
				t.Fatalf("%d alerts:\n%s", len(told), texts(told))
			}
			for _, a := range told {
				want := map[alert.Kind]alert.Status{alert.KindPolicy: alert.StatusRefused, alert.KindContainment: alert.StatusDone}[a.Kind]
				if a.Action.Status != want {
					t.Errorf("status %s, want %s:\n%s", a.Action.Status, want, a.Text())
				}
			}
			if got := w.aws.Requests("kms", "DisableKey"); got != 1 {
				t.Errorf("%d calls of DisableKey", got)
			}
			w.sweep()
			w.none()
			w.wantState(key, "Disabled")
		}
	})
}

// The first worker may not put policies back, the next one may. What is still open is
// contained, and what was closed meanwhile is not.
func TestContainmentAfterAFailedPutBackSurvivesEveryKill(t *testing.T) {
	contained, closed := 0, 0
	everyKill(t, closing(t), func(w *world) (func(context.Context, *handlers.Router) error, func()) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		body := w.event("PutKeyPolicy")
		died := false
		work := func(ctx context.Context, r *handlers.Router) error {
			may := died
			w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return may || action != "kms:PutKeyPolicy" })
			died = true
			return r.Handle(ctx, handlers.Message{Body: []byte(body)})
		}
		return work, func() {
			w.wantPolicy(key, rootOnly)
			kinds := map[string]int{}
			for _, a := range w.told.take() {
				kinds[string(a.Kind)+" "+string(a.Action.Status)]++
			}
			disables := w.aws.Requests("kms", "DisableKey")
			want := "Enabled"
			if disables > 0 {
				want = "Disabled"
				contained++
			} else {
				closed++
			}
			w.wantState(key, want)
			if kinds["policy done"] != 1 || kinds["containment done"] != disables || disables > 1 || len(kinds) > 3 || kinds["policy failed"] > 1 {
				t.Errorf("%d calls of DisableKey, alerts %v", disables, kinds)
			}
			w.sweep()
			w.none()
			w.wantState(key, want)
		}
	})
	if contained == 0 || closed == 0 {
		t.Errorf("contained %d times, closed before %d times: one of them was not played", contained, closed)
	}
}

// Until a containment is really made, a key that somebody disables is not taken for one
// that cmkeeper disabled, wherever the worker that restored the policy died.
func TestDisablingARestoredKeyIsUndoneAfterEveryKill(t *testing.T) {
	everyKill(t, closing(t), func(w *world) (func(context.Context, *handlers.Router) error, func()) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		body := w.event("PutKeyPolicy")
		disabled := ""
		work := func(ctx context.Context, r *handlers.Router) error {
			err := r.Handle(ctx, handlers.Message{Body: []byte(body)})
			if disabled == "" { // the first worker is dead, or done
				w.disable(key)
				disabled = w.event("DisableKey")
			}
			return err
		}
		return work, func() {
			w.handled(disabled)
			w.react()
			w.wantPolicy(key, rootOnly)
			w.wantState(key, "Enabled")
			if got := w.aws.Requests("kms", "DisableKey"); got != 1 {
				t.Errorf("%d calls of DisableKey, want the test's own", got)
			}
			kinds := map[string]int{}
			for _, a := range w.told.take() {
				kinds[string(a.Kind)+" "+string(a.Action.Status)]++
			}
			if kinds["policy done"] != 1 || kinds["deletion done"] != 1 || len(kinds) != 2 {
				t.Errorf("alerts %v", kinds)
			}
			w.sweep()
			w.none()
		}
	})
}

// slowPolicies puts policies a while after it has said so.
type slowPolicies struct {
	reaction.KMS
	wg *sync.WaitGroup
}

func (s slowPolicies) PutKeyPolicy(ctx context.Context, in *kms.PutKeyPolicyInput, _ ...func(*kms.Options)) (*kms.PutKeyPolicyOutput, error) {
	s.wg.Go(func() {
		time.Sleep(20 * time.Second)
		_, _ = s.KMS.PutKeyPolicy(context.WithoutCancel(ctx), in)
	})
	return &kms.PutKeyPolicyOutput{}, nil
}

// A policy that was put back and is not read back leaves the key open, as far as anybody
// can see: it is contained at once.
func TestContainmentWhereThePutBackDoesNotShow(t *testing.T) {
	inWorld(t, closing(t), func(w *world) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		body := w.event("PutKeyPolicy")
		var wg sync.WaitGroup
		w.router = w.newRouterWith(closing(t), func(d *reaction.Deps) { d.KMS = slowPolicies{d.KMS, &wg} })
		if d := outcome.Of(w.router.Handle(w.ctx, handlers.Message{Body: []byte(body)})); d.Action != outcome.Delay {
			t.Fatalf("outcome %v (%v), want a wait", d.Action, d.Err)
		}
		w.wantState(key, "Disabled")
		w.handled(body)
		wg.Wait()
		w.react()
		w.wantPolicy(key, rootOnly)
		w.wantState(key, "Disabled")
		if told := w.told.take(); len(told) != 2 || told[0].Kind == told[1].Kind || told[0].Action.Status != alert.StatusDone || told[1].Action.Status != alert.StatusDone {
			t.Errorf("%d alerts:\n%s", len(told), texts(told))
		}
		w.sweep()
		w.none()
	})
}
