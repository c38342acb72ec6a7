package handlers_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/retire"
	"github.com/cmkeeper/cmkeeper/rotate"
	"github.com/cmkeeper/cmkeeper/state"
)

// beginRotation begins one of an alias, and records its new key, as cmkeeper rotate does.
func (w *world) beginRotation(alias, newKey string) (id string) {
	w.t.Helper()
	store := state.New(w.s3, stateBucket, "cmkeeper/", account)
	r := &rotate.Rotator{KMS: w.kms, Facts: inventory.New(w.kms, w.s3, account, region), Store: store, By: "arn:aws:iam::" + account + ":user/olga"}
	rec, _, err := r.Start(w.ctx, alias, nil, rotate.Choices{})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := state.Update(w.ctx, store, "rotations/id/"+rec.ID+".json", func(rec *rotate.Record, _ bool) error {
		rec.New = newKey
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return rec.ID
}

// TestAliasMoveByARotation: the move is left to the rotation as long as it is the
// rotation's, and is the fleet's where the alias goes to another key.
func TestAliasMoveByARotation(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		w.knownKey("alias/app-orders")
		b, c := w.newKey(kms.CreateKeyInput{}), w.newKey(kms.CreateKeyInput{})
		w.bucket("orders-data", "alias/app-orders")
		w.react()
		w.told.take()
		id := w.beginRotation("alias/app-orders", b)
		w.updateAlias("alias/app-orders", b)
		w.react()
		w.wantStarted()
		got := w.one()
		if got.Kind != alert.KindAlias || got.Severity != finding.Low || got.Action.Status != alert.StatusNone || facts(got, "rotation") != id ||
			!strings.Contains(strings.Join(got.Next, "\n"), "cmkeeper rotate status "+id) {
			t.Errorf("alert:\n%s", got.Text())
		}
		w.sweep()
		w.wantStarted()
		w.none()

		w.updateAlias("alias/app-orders", c)
		w.react()
		w.wantStarted("app-orders " + short(b) + " -> " + short(c) + " in [{orders-data }]")
		if got := w.one(); got.Action.Status != alert.StatusDone || facts(got, "rotation") != "" {
			t.Errorf("alert:\n%s", got.Text())
		}
	})
}

// TestKeyThatAnAbortDisabled stays disabled: that was approved. When somebody else
// disables it later, it is enabled again.
func TestKeyThatAnAbortDisabled(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		store := state.New(w.s3, stateBucket, "cmkeeper/", account)
		if err := retire.Disable(w.ctx, w.kms, store, key, "arn:aws:iam::"+account+":user/olga"); err != nil {
			t.Fatal(err)
		}
		w.react()
		if got := w.state(key); got != "Disabled" {
			t.Errorf("state %s, want Disabled", got)
		}
		a := w.one()
		if a.Severity != finding.Low || a.Action.Status != alert.StatusNone || !strings.Contains(a.Title, "as approved") || !strings.Contains(a.Summary, "user/olga approved it") {
			t.Errorf("alert:\n%s", a.Text())
		}
		for range 3 {
			time.Sleep(24 * time.Hour)
			w.sweep()
			w.none()
		}
		if got := w.state(key); got != "Disabled" {
			t.Errorf("after the sweeps the state is %s", got)
		}

		must(w.kms.EnableKey(w.ctx, &kms.EnableKeyInput{KeyId: &key}))
		w.react()
		w.told.take()
		time.Sleep(time.Hour)
		w.disable(key)
		w.react()
		if got := w.state(key); got != "Enabled" {
			t.Errorf("disabled by mallory days later, it is %s", got)
		}
		if a := w.one(); a.Action.Status != alert.StatusDone || strings.Contains(a.Title, "as approved") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}
