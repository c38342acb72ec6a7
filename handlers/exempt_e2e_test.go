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
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/judgement"
)

// exempting is enforceAll with exemptions. In a test's bubble it is the year 2000.
func exempting(t *testing.T, text string) reaction.Config {
	t.Helper()
	c := enforceAll()
	var err error
	if c.Exemptions, err = judgement.ParseExemptions(text, handlers.Exemptible()); err != nil {
		t.Fatal(err)
	}
	return c
}

// leftAlone takes the only alert and fails unless it is the note of an exemption.
func (w *world) leftAlone(reason string) {
	w.t.Helper()
	a := w.one()
	if a.Severity != finding.Info || a.Action.Status != alert.StatusNone || !strings.Contains(a.Action.Description, reason) {
		w.t.Errorf("not left alone because of %q:\n%s", reason, a.Text())
	}
}

func TestExemptByTag(t *testing.T) {
	c := exempting(t, "rotation, deletion of tag env=sandbox until 2000-01-20: nobody depends on it")
	inWorld(t, c, func(w *world) {
		key := w.newKey(kms.CreateKeyInput{Tags: []types.Tag{{TagKey: aws.String("env"), TagValue: aws.String("sandbox")}}})
		w.enableRotation(key, 180)
		w.react()
		w.sweep()
		w.told.take()
		time.Sleep(25 * time.Hour)

		w.disableRotation(key)
		w.react()
		w.leftAlone("nobody depends on it")
		w.scheduleDeletion(key)
		w.react()
		w.leftAlone("nobody depends on it")
		w.sweep()
		w.none()
		if w.rotation(key) != 0 || w.state(key) != "PendingDeletion" {
			t.Errorf("period %d, state %s: not left alone", w.rotation(key), w.state(key))
		}

		// It expires before the key is gone.
		must(w.kms.CancelKeyDeletion(w.ctx, &kms.CancelKeyDeletionInput{KeyId: &key}))
		must(w.kms.EnableKey(w.ctx, &kms.EnableKeyInput{KeyId: &key}))
		w.react()
		w.told.take()
		time.Sleep(20 * 24 * time.Hour)
		w.scheduleDeletion(key)
		w.react()
		if a := w.one(); a.Action.Status != alert.StatusDone || w.state(key) != "Enabled" {
			t.Errorf("an exemption that expired holds: key %s\n%s", w.state(key), a.Text())
		}
	})
}

// TestExemptToTheEnd: a key whose deletion was exempt is gone without an alarm.
func TestExemptToTheEnd(t *testing.T) {
	inWorld(t, exempting(t, "deletion of tag env=sandbox until 2000-06-30: nobody depends on it"), func(w *world) {
		key := w.taggedKey("env", "sandbox")
		w.scheduleDeletion(key)
		w.react()
		w.leftAlone("nobody depends on it")
		time.Sleep(8 * 24 * time.Hour)
		w.react()
		if a := w.one(); a.EventName != "DeleteKey" && a.EventName != "KMS CMK Deletion" || a.Severity != finding.Info {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

// TestTagSetForTheOccasion: whoever tags a key just before exempts nothing.
func TestTagSetForTheOccasion(t *testing.T) {
	c := exempting(t, "anything of tag env=sandbox until 2000-06-30: x; anything of alias/sandbox-* until 2000-06-30: y")
	inWorld(t, c, func(w *world) {
		key := w.rotatingKey(180)
		w.sweep()
		time.Sleep(48 * time.Hour)
		must(w.kms.TagResource(w.ctx, &kms.TagResourceInput{KeyId: &key, Tags: []types.Tag{{TagKey: aws.String("env"), TagValue: aws.String("sandbox")}}}))
		must(w.kms.CreateAlias(w.ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/sandbox-1"), TargetKeyId: &key}))
		w.react()
		w.told.take()
		for range 2 {
			w.sweep() // even when a sweep has seen it
			w.told.take()
			w.disableRotation(key)
			w.react()
			if got := w.rotation(key); got != 180 {
				t.Fatalf("rotation period %d, want 180", got)
			}
			w.told.take()
			time.Sleep(20 * time.Hour)
		}
		time.Sleep(24 * time.Hour)
		w.disableRotation(key)
		w.react()
		w.leftAlone("x")
	})
}

func TestExemptByAlias(t *testing.T) {
	inWorld(t, exempting(t, "rotation of alias/legacy-* until 2000-06-30: the vendor cannot rotate"), func(w *world) {
		key := w.rotatingKey(180)
		must(w.kms.CreateAlias(w.ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/legacy-erp"), TargetKeyId: &key}))
		time.Sleep(25 * time.Hour)
		w.disableRotation(key)
		w.react()
		w.leftAlone("the vendor cannot rotate")
		w.scheduleDeletion(key)
		w.react()
		if a := w.one(); a.Action.Status != alert.StatusDone || w.state(key) != "Enabled" {
			t.Errorf("exempt from rotation is not exempt from deletion: key %s\n%s", w.state(key), a.Text())
		}
	})
}

// TestExemptByActor: what an exempt actor did stays so when a sweep sees it,
// until the exemption expires.
func TestExemptByActor(t *testing.T) {
	inWorld(t, exempting(t, "rotation, deletion by user/mallory until 2000-01-20: a drill"), func(w *world) {
		key := w.rotatingKey(180)
		other := w.rotatingKey(180)
		w.disableRotation(key)
		w.react()
		w.leftAlone("a drill")
		must(w.kms.DisableKey(w.ctx, &kms.DisableKeyInput{KeyId: &other}))
		w.react()
		w.leftAlone("a drill")
		time.Sleep(time.Hour)
		w.sweep()
		if w.rotation(key) != 0 || w.state(other) != "Disabled" {
			t.Errorf("period %d, state %s: a sweep undoes what is exempt", w.rotation(key), w.state(other))
		}
		w.none()
		time.Sleep(20 * 24 * time.Hour)
		w.sweep()
		if w.rotation(key) != 180 || w.state(other) != "Enabled" {
			t.Errorf("period %d, state %s: an exemption that expired holds", w.rotation(key), w.state(other))
		}
		if got := w.told.take(); len(got) != 3 {
			t.Errorf("%d alerts, want one for each key, and one that it expired:\n%s", len(got), texts(got))
		}
	})
}

// TestExemptionThatCannotBeChecked does not hold, and keeps nobody waiting.
func TestExemptionThatCannotBeChecked(t *testing.T) {
	inWorld(t, exempting(t, "anything of tag env=sandbox until 2000-06-30: x"), func(w *world) {
		key := w.newKey(kms.CreateKeyInput{Tags: []types.Tag{{TagKey: aws.String("env"), TagValue: aws.String("sandbox")}}})
		w.enableRotation(key, 180)
		w.react()
		w.sweep()
		w.told.take()
		time.Sleep(25 * time.Hour)
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "kms:ListResourceTags" })
		w.disableRotation(key)
		w.react()
		if a := w.one(); a.Action.Status != alert.StatusDone || w.rotation(key) != 180 {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.sweep()
		w.none()
	})
}

func TestExpiryIsToldOnce(t *testing.T) {
	inWorld(t, exempting(t, "rotation of alias/a until 2000-01-20: x; policy of alias/b until 2000-06-30: y"), func(w *world) {
		w.sweep()
		w.none()
		time.Sleep(6 * 24 * time.Hour)
		w.sweep()
		a := w.one()
		if a.Title != "An exemption expires on 2000-01-20: rotation of alias/a" || a.Severity != finding.Medium {
			t.Errorf("alert:\n%s", a.Text())
		}
		time.Sleep(24 * time.Hour)
		w.sweep()
		w.none()
		time.Sleep(14 * 24 * time.Hour)
		w.sweep()
		if a := w.one(); a.Title != "An exemption expired on 2000-01-20: rotation of alias/a" {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.sweep()
		w.none()
	})
}
