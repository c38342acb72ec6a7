package handlers_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// knownKey is a key with an alias that a sweep has seen.
func (w *world) knownKey(alias string) string {
	w.t.Helper()
	key := w.newKey(kms.CreateKeyInput{Description: aws.String("orders")})
	must(w.kms.CreateAlias(w.ctx, &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: &key}))
	w.react()
	w.sweep()
	w.told.take()
	time.Sleep(2 * time.Second)
	return key
}

func (w *world) scheduleDeletion(key string) {
	w.t.Helper()
	must(w.kms.ScheduleKeyDeletion(w.ctx, &kms.ScheduleKeyDeletionInput{KeyId: &key, PendingWindowInDays: aws.Int32(7)}))
}

func (w *world) disable(key string) {
	w.t.Helper()
	must(w.kms.DisableKey(w.ctx, &kms.DisableKeyInput{KeyId: &key}))
}

func facts(a alert.Alert, name string) string {
	for _, f := range a.Facts {
		if f.Name == name {
			return strings.Join(f.Values, "\n")
		}
	}
	return ""
}

func TestDeletionIsCancelledAndTheStateRestored(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.bucket("orders-data", key)
		w.bucket("other-data", "")
		must(w.kms.CreateGrant(w.ctx, &kms.CreateGrantInput{
			KeyId: &key, GranteePrincipal: aws.String("arn:aws:iam::" + account + ":role/reader"), Operations: []types.GrantOperation{types.GrantOperationDecrypt},
		}))
		w.react()
		w.told.take() // what the grants came to
		w.scheduleDeletion(key)
		w.react()
		if got := w.state(key); got != "Enabled" {
			t.Errorf("state %s, want Enabled as before", got)
		}
		a := w.one()
		if a.Kind != alert.KindDeletion || a.Severity != finding.Critical || a.Action.Status != alert.StatusDone {
			t.Errorf("alert:\n%s", a.Text())
		}
		if got := facts(a, "buckets encrypted with it by default"); got != "orders-data" {
			t.Errorf("buckets %q", got)
		}
		if got := facts(a, "multi-Region keys of the same material"); got != "none" {
			t.Errorf("related keys %q", got)
		}
		if got := facts(a, "grants"); !strings.Contains(got, "role/reader may Decrypt") {
			t.Errorf("grants %q", got)
		}
		if !strings.Contains(a.Title, "alias/orders") || !strings.Contains(a.Summary, "mallory") || !strings.Contains(a.Summary, "2000-01-08") {
			t.Errorf("alert does not say which key, who or when:\n%s", a.Text())
		}
	})
}

func TestDeletionObserved(t *testing.T) {
	c := enforceAll()
	c.Deletion = reaction.Observe
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		w.scheduleDeletion(key)
		w.react()
		if got := w.state(key); got != "PendingDeletion" {
			t.Errorf("state %s, want PendingDeletion", got)
		}
		a := w.one()
		if a.Action.Status != alert.StatusWouldDo || !strings.Contains(a.Action.Description, "enable the key") || a.Key.DeletionDate == nil {
			t.Errorf("alert:\n%s", a.Text())
		}
		if next := strings.Join(a.Next, "\n"); !strings.Contains(next, "aws kms cancel-key-deletion --key-id") || !strings.Contains(next, "aws kms enable-key --key-id") {
			t.Errorf("next:\n%s", next)
		}
		w.sweep()
		w.none()
		// What was seen and left in mode observe counts as meant.
		w.router = w.newRouter(enforceAll())
		w.sweep()
		w.none()
		if got := w.state(key); got != "PendingDeletion" {
			t.Errorf("state %s: a deletion that was accepted was cancelled", got)
		}
	})
}

func TestDeletionOfADisabledKeyLeavesItDisabled(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.newKey(kms.CreateKeyInput{})
		w.disable(key)
		w.events() // nobody saw it enabled
		w.sweep()
		if a := w.one(); a.Severity != finding.Medium || a.Action.Status != alert.StatusNone {
			t.Errorf("alert:\n%s", a.Text())
		}
		time.Sleep(time.Minute)
		w.scheduleDeletion(key)
		w.react()
		if got := w.state(key); got != "Disabled" {
			t.Errorf("state %s, want Disabled", got)
		}
		if a := w.one(); !strings.Contains(a.Action.Description, "as it was Disabled before") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

func TestDeletionOfAnUnknownKeyLeavesItDisabled(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.newKey(kms.CreateKeyInput{})
		w.events()
		w.scheduleDeletion(key)
		w.react()
		if got := w.state(key); got != "Disabled" {
			t.Errorf("state %s, want Disabled", got)
		}
		if a := w.one(); !strings.Contains(a.Action.Description, "is not known") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

// Disable and schedule at once, with the events in the wrong order and another
// reaction looking in between: the state before all that is what comes back.
func TestDisableAndScheduleOutOfOrder(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.enableRotation(key, 180)
		w.react()
		time.Sleep(2 * time.Second)
		w.disableRotation(key)
		rotation := w.event("DisableKeyRotation")
		w.disable(key)
		disabled := w.event("DisableKey")
		if err := w.handle(rotation); err != nil { // notes that the key is Disabled
			t.Fatal(err)
		}
		w.scheduleDeletion(key)
		scheduled := w.event("ScheduleKeyDeletion")
		for _, body := range []string{scheduled, disabled, scheduled} {
			if err := w.handle(body); err != nil {
				t.Fatal(err)
			}
		}
		w.react()
		if got := w.state(key); got != "Enabled" {
			t.Errorf("state %s, want Enabled", got)
		}
		w.sweep()
		if got := w.rotation(key); got != 180 {
			t.Errorf("rotation period %d, want 180", got)
		}
	})
}

func TestDisabledKeyIsEnabledAgain(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.disable(key)
		w.react()
		if got := w.state(key); got != "Enabled" {
			t.Errorf("state %s, want Enabled", got)
		}
		if a := w.one(); a.Severity != finding.Critical || a.Action.Status != alert.StatusDone {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

func TestRestoreIsFinishedAfterACrash(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.scheduleDeletion(key)
		body := w.event("ScheduleKeyDeletion")
		// The deletion is cancelled, and then enabling the key fails.
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "kms:EnableKey" })
		if err := w.handle(body); outcome.Of(err).Action != outcome.Retry {
			t.Fatalf("outcome of %v, want retry", err)
		}
		if got := w.state(key); got != "Disabled" {
			t.Fatalf("state %s, want Disabled", got)
		}
		if a := w.one(); a.Action.Status != alert.StatusFailed {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.aws.SetIdentityPolicy(keeperKey, nil)
		// The message is lost for good; the sweep knows what was begun.
		w.sweep()
		if got := w.state(key); got != "Enabled" {
			t.Errorf("state %s after the sweep, want Enabled", got)
		}
	})
}

func TestDeletionNoticedBySweep(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.scheduleDeletion(key)
		late := w.event("ScheduleKeyDeletion")
		w.sweep()
		if got := w.state(key); got != "Enabled" {
			t.Errorf("state %s, want Enabled", got)
		}
		if a := w.one(); a.Severity != finding.Critical || a.Action.Status != alert.StatusDone || !strings.Contains(strings.Join(a.Next, "\n"), "aws cloudtrail lookup-events") {
			t.Errorf("alert:\n%s", a.Text())
		}
		if err := w.handle(late); err != nil {
			t.Fatal(err)
		}
		if a := w.one(); a.Actor == nil || a.Action.Status != alert.StatusDone {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

func TestPendingBeforeFirstSeenIsToldOnceAndLeft(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.newKey(kms.CreateKeyInput{})
		w.scheduleDeletion(key)
		w.events()
		w.sweep()
		w.sweep()
		if got := w.state(key); got != "PendingDeletion" {
			t.Errorf("state %s, want PendingDeletion", got)
		}
		if a := w.one(); a.Action.Status != alert.StatusNone || !strings.Contains(strings.Join(a.Next, "\n"), "cancel-key-deletion") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

func TestDeletionDoneIsToldFromWhatIsKnown(t *testing.T) {
	c := enforceAll()
	c.Deletion = reaction.Observe
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		w.disableRotation(key)
		old := w.event("DisableKeyRotation")
		w.scheduleDeletion(key)
		w.react()
		w.told.take()
		time.Sleep(8 * 24 * time.Hour)
		w.react()
		a := w.one() // CloudTrail's event and KMS's own are one deletion
		if a.Severity != finding.Critical || !strings.Contains(a.Title, "alias/orders was deleted") {
			t.Errorf("alert:\n%s", a.Text())
		}
		// An event for a key that is gone is told, and is no failure.
		if err := w.handle(old); err != nil {
			t.Fatal(err)
		}
		if a := w.one(); a.Kind != alert.KindRotation || !strings.Contains(a.Title, "does not exist") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

func TestDeletionIsToldWithoutTheStateBucket(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.scheduleDeletion(key)
		body := w.event("ScheduleKeyDeletion")
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return !strings.HasPrefix(action, "s3:") })
		if err := w.handle(body); outcome.Of(err).Action != outcome.Retry {
			t.Fatalf("outcome of %v, want retry", err)
		}
		if a := w.one(); a.Severity != finding.Critical || a.Action.Status != alert.StatusFailed {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}
