package handlers_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// rotatingKey is a key that the fleet has seen rotating.
func (w *world) rotatingKey(days int32) string {
	w.t.Helper()
	key := w.newKey(kms.CreateKeyInput{})
	w.enableRotation(key, days)
	w.react()
	w.told.take()
	return key
}

func TestRotationComesBackWithItsPeriod(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		w.react()
		if got := w.rotation(key); got != 180 {
			t.Fatalf("rotation period %d, want 180", got)
		}
		a := w.one()
		if a.Kind != alert.KindRotation || a.Severity != finding.High || a.Action.Status != alert.StatusDone || a.Key.ARN != key {
			t.Errorf("alert:\n%s", a.Text())
		}
		if a.Actor == nil || !strings.Contains(a.Actor.Name, "mallory") || !strings.Contains(a.Action.Description, "180 days") {
			t.Errorf("alert does not say who or what:\n%s", a.Text())
		}
	})
}

func TestRotationObserved(t *testing.T) {
	c := enforceAll()
	c.Rotation = reaction.Observe
	inWorld(t, c, func(w *world) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		w.react()
		if got := w.rotation(key); got != 0 {
			t.Fatalf("rotation period %d, want off", got)
		}
		a := w.one()
		if a.Action.Status != alert.StatusWouldDo || !strings.Contains(a.Action.Description, "180 days") {
			t.Errorf("alert:\n%s", a.Text())
		}
		// A sweep sees the same and does not tell it again.
		w.sweep()
		w.none()
	})
}

func TestRotationOff(t *testing.T) {
	c := enforceAll()
	c.Rotation = reaction.Off
	inWorld(t, c, func(w *world) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		w.react()
		w.none()
	})
}

func TestLongerPeriodIsSetBack(t *testing.T) {
	for _, mode := range []reaction.Mode{reaction.Observe, reaction.Enforce} {
		c := enforceAll()
		c.Rotation = mode
		inWorld(t, c, func(w *world) {
			key := w.rotatingKey(180)
			w.enableRotation(key, 2560)
			body := w.event("EnableKeyRotation")
			if err := w.handle(body); err != nil {
				t.Fatal(err)
			}
			a := w.one()
			period, status := int32(2560), alert.StatusWouldDo
			if mode == reaction.Enforce {
				period, status = 365, alert.StatusDone
			}
			if got := w.rotation(key); got != period {
				t.Errorf("%s: rotation period %d, want %d", mode, got, period)
			}
			if a.Kind != alert.KindRotation || a.Severity != finding.Medium || a.Action.Status != status || !strings.Contains(a.Title, "lengthened to 2560 days") || !strings.Contains(a.Action.Description, "365 days") {
				t.Errorf("%s: alert:\n%s", mode, a.Text())
			}
			// The same event again, and what our own call makes arrive.
			if err := w.handle(body); err != nil {
				t.Fatal(err)
			}
			w.react()
			w.none()
		})
	}
}

// TestLongerPeriodThatIsAllowedIsTold: once, by the event or by the sweep that shows it
// first, and nothing is changed.
func TestLongerPeriodThatIsAllowedIsTold(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		told := func(from, to string) {
			t.Helper()
			if a := w.one(); a.Severity != finding.Low || a.Action.Status != alert.StatusNone || !strings.Contains(a.Title, "lengthened from "+from+" to "+to+" days") {
				t.Errorf("alert:\n%s", a.Text())
			}
		}
		w.enableRotation(key, 200)
		body := w.event("EnableKeyRotation")
		for range 2 { // the same event again, too
			if err := w.handle(body); err != nil {
				t.Fatal(err)
			}
		}
		told("180", "200")
		w.sweep()
		w.none()
		w.enableRotation(key, 300)
		late := w.event("EnableKeyRotation")
		w.sweep()
		told("200", "300")
		if err := w.handle(late); err != nil {
			t.Fatal(err)
		}
		w.none()
		w.enableRotation(key, 180) // shorter is no news
		w.react()
		w.none()
		if got := w.rotation(key); got != 180 {
			t.Errorf("rotation period %d, want 180", got)
		}
	})
}

// TestLongerPeriodsAreToldForEachKey: the alerts of two keys are two.
func TestLongerPeriodsAreToldForEachKey(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		for _, key := range []string{w.rotatingKey(180), w.rotatingKey(180)} {
			w.enableRotation(key, 2560)
			w.react()
			if a := w.one(); a.Key.ARN != key {
				t.Errorf("alert:\n%s", a.Text())
			}
		}
	})
}

func TestPoisonedPeriodDoesNotComeBack(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		w.enableRotation(key, 2560)
		w.react()
		w.disableRotation(key)
		w.react()
		if got := w.rotation(key); got != 365 {
			t.Fatalf("rotation period %d, want the configured 365", got)
		}
	})
}

func TestDuplicatesAndDisorderDoNoHarm(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		first := w.event("DisableKeyRotation")
		w.enableRotation(key, 200)
		second := w.event("EnableKeyRotation")
		w.disableRotation(key)
		third := w.event("DisableKeyRotation")
		for _, body := range []string{third, second, first, first, third, second} {
			if err := w.handle(body); err != nil {
				t.Fatal(err)
			}
		}
		w.react()
		// Only what was read live counts: 200 was gone before anybody looked.
		if got := w.rotation(key); got != 180 {
			t.Fatalf("rotation period %d, want 180", got)
		}
		if got := w.told.take(); len(got) != 2 {
			t.Errorf("%d alerts, want one for each DisableKeyRotation:\n%s", len(got), texts(got))
		}
	})
}

func TestForgedEventDoesNothing(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		forged := w.event("DisableKeyRotation")
		w.enableRotation(key, 180)
		if d := outcome.Of(w.router.Handle(w.ctx, handlers.Message{Body: []byte(forged)})); d.Action != outcome.Delay {
			t.Errorf("a fresh contradiction is %v, want a wait for KMS to settle", d.Action)
		}
		if err := w.handle(forged); err != nil {
			t.Fatal(err)
		}
		w.none()
	})
}

func TestRotationIsRequiredOnlyWhereAsked(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.newKey(kms.CreateKeyInput{})
		w.react()
		w.sweep()
		if got := w.rotation(key); got != 0 {
			t.Errorf("a key that never rotated was switched on (%d days)", got)
		}
		w.none()
	})
	c := enforceAll()
	c.Posture.RotationRequired, c.Posture.RotationPeriodDays = true, 120
	inWorld(t, c, func(w *world) {
		key := w.newKey(kms.CreateKeyInput{})
		w.react()
		if got := w.rotation(key); got != 120 {
			t.Errorf("rotation period %d, want 120", got)
		}
		if a := w.one(); a.Severity != finding.Medium || a.Action.Status != alert.StatusDone {
			t.Errorf("alert:\n%s", a.Text())
		}
		hmac := w.newKey(kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
		rsa := w.newKey(kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeSignVerify})
		imported := w.newKey(kms.CreateKeyInput{Origin: types.OriginTypeExternal})
		w.react()
		w.sweep()
		w.none()
		_, _, _ = hmac, rsa, imported
	})
}

func TestRotationOfADisabledKeyWaits(t *testing.T) {
	c := enforceAll()
	c.Deletion = reaction.Off
	inWorld(t, c, func(w *world) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		must(w.kms.DisableKey(w.ctx, &kms.DisableKeyInput{KeyId: &key}))
		w.react()
		a := w.one()
		if a.Action.Status != alert.StatusNone || !strings.Contains(a.Action.Description, "disabled") {
			t.Errorf("alert:\n%s", a.Text())
		}
		must(w.kms.EnableKey(w.ctx, &kms.EnableKeyInput{KeyId: &key}))
		w.react()
		if got := w.rotation(key); got != 180 {
			t.Errorf("rotation period %d after the key was enabled, want 180", got)
		}
	})
}

func TestRepairThatIsDenied(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "kms:EnableKeyRotation" })
		w.disableRotation(key)
		body := w.event("DisableKeyRotation")
		for range 3 {
			d := outcome.Of(w.router.Handle(w.ctx, handlers.Message{Body: []byte(body)}))
			if d.Action != outcome.Retry {
				t.Fatalf("outcome %v (%v), want retry", d.Action, d.Err)
			}
		}
		a := w.one()
		if a.Action.Status != alert.StatusFailed || !strings.Contains(a.Text(), "kms:EnableKeyRotation") || !strings.Contains(strings.Join(a.Next, "\n"), "Allow the role cmkeeper") {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.aws.SetIdentityPolicy(keeperKey, nil)
		if err := w.handle(body); err != nil {
			t.Fatal(err)
		}
		if a := w.one(); a.Action.Status != alert.StatusDone || w.rotation(key) != 180 {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

func TestAlertSurvivesABrokenTopic(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		body := w.event("DisableKeyRotation")
		w.told.broken = true
		if err := w.handle(body); err == nil {
			t.Fatal("handled although nobody was told")
		}
		w.told.broken = false
		if err := w.handle(body); err != nil {
			t.Fatal(err)
		}
		if a := w.one(); a.Action.Status != alert.StatusDone || !strings.Contains(a.Action.Description, "set that at") {
			t.Errorf("the retry does not tell what the first try did:\n%s", a.Text())
		}
	})
}

func TestSweepRepairsAMissedEvent(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		late := w.event("DisableKeyRotation")
		w.sweep()
		if got := w.rotation(key); got != 180 {
			t.Fatalf("rotation period %d, want 180", got)
		}
		if a := w.one(); a.Actor != nil || a.Action.Status != alert.StatusDone || !strings.Contains(a.Summary, "Its event should have come") {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.sweep()
		w.none()
		// The event arrives after all, and names who it was.
		if err := w.handle(late); err != nil {
			t.Fatal(err)
		}
		if a := w.one(); a.Actor == nil || a.Action.Status != alert.StatusDone {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

// A key is made and its rotation turned on; the worker that handles the first has
// read "off" when the one that handles the second notes "on".
func TestRotationSeenOnAfterItWasRead(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := *must(w.kms.CreateKey(w.ctx, &kms.CreateKeyInput{})).KeyMetadata.Arn
		created, other := w.event("CreateKey"), w.newRouter(enforceAll())
		var read, between atomic.Bool
		stop := w.aws.Observe(func(r localaws.Request) {
			switch {
			case r.Operation == "GetKeyRotationStatus":
				read.Store(true)
			case r.Service == "s3" && read.Load() && between.CompareAndSwap(false, true):
				time.Sleep(time.Second)
				w.enableRotation(key, 180)
				if err := other.Handle(w.ctx, handlers.Message{Body: []byte(w.event("EnableKeyRotation"))}); err != nil {
					t.Error(err)
				}
			}
		})
		if err := w.router.Handle(w.ctx, handlers.Message{Body: []byte(created)}); outcome.Of(err).Action != outcome.Delay {
			t.Errorf("outcome of %v, want an expected wait", err)
		}
		stop()
		if err := w.handle(created); err != nil || !between.Load() {
			t.Error(err)
		}
		w.none()
		if got := w.rotation(key); got != 180 {
			t.Errorf("rotation period %d, want 180", got)
		}
	})
}
