package handlers_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/judgement"
)

// aging allows the material of keys that KMS cannot rotate to be 90 days old.
func aging() reaction.Config {
	c := enforceAll()
	c.Posture.ManualRotationDays, c.Deletion = 90, reaction.Observe
	return c
}

// TestSweepRemindsOfOldMaterial: a key that KMS cannot rotate is told once when its material
// becomes too old, although nothing else of it has changed, and that this is over once it
// is not in use any more.
func TestSweepRemindsOfOldMaterial(t *testing.T) {
	const day = 24 * time.Hour
	inWorld(t, aging(), func(w *world) {
		signing := w.newKey(kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify})
		w.createAlias("alias/signing", signing)
		nameless := w.newKey(kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
		w.knownKey("alias/rotates")
		w.react()
		w.told.take()
		w.sweepAll(4) // from the third one on, nothing of the keys has changed
		w.none()

		time.Sleep(91 * day)
		w.sweep()
		alerts := w.told.take()
		if len(alerts) != 2 {
			t.Fatalf("%d alerts about two old keys:\n%s", len(alerts), texts(alerts))
		}
		for _, a := range alerts {
			if a.Kind != alert.KindRotation || a.Severity != finding.Medium || a.Action.Status != alert.StatusNone || !strings.Contains(a.Title, "old key material") {
				t.Errorf("alert:\n%s", a.Text())
			}
			advice := strings.Join(a.Next, "\n")
			if named := a.Key.ARN == signing; named != strings.Contains(advice, "cmkeeper rotate alias/signing --dry-run") {
				t.Errorf("the advice about %s is:\n%s", a.Key.ARN, advice)
			}
		}
		w.sweepAll(3)
		w.none() // told once

		w.disable(signing)
		w.events() // are lost
		w.sweep()
		w.told.take() // that it is disabled
		time.Sleep(time.Minute)
		w.sweep()
		for _, a := range w.over("alias/signing has old key material") {
			t.Errorf("more is told:\n%s", a.Text())
		}
		w.scheduleDeletion(nameless)
		w.events()
		w.sweep()
		w.told.take()
		time.Sleep(time.Minute)
		w.sweep()
		w.over("old key material")
	})
}

// TestImportedMaterialIsJudgedByItsRotation: of imported material counts when it was replaced
// on demand. It becomes old again with time alone.
func TestImportedMaterialIsJudgedByItsRotation(t *testing.T) {
	const day = 24 * time.Hour
	inWorld(t, aging(), func(w *world) {
		key := w.importedKey(nil)
		w.createAlias("alias/imported", key)
		w.react()
		w.told.take()
		w.sweepAll(3)
		rotate := func(material byte) {
			w.importNewMaterial(key, bytes.Repeat([]byte{material}, 32))
			must(w.kms.RotateKeyOnDemand(w.ctx, &kms.RotateKeyOnDemandInput{KeyId: &key}))
			time.Sleep(10 * time.Minute)
			w.react()
			w.told.take()
		}
		time.Sleep(60 * day)
		rotate(1)
		time.Sleep(60 * day) // the key is 120 days old, its material 60
		w.sweepAll(4)
		w.none()

		time.Sleep(31 * day)
		w.sweep()
		if a := w.one(); !strings.Contains(a.Summary, "imported") || !strings.Contains(a.Title, "alias/imported has old key material") {
			t.Fatalf("alert:\n%s", a.Text())
		}
		w.sweepAll(2)
		w.none()
		rotate(2)
		w.sweepAll(2)
		if more := w.over("alias/imported has old key material"); len(more) > 0 {
			t.Errorf("more is told:\n%s", texts(more))
		}
	})
}

// TestLastRotationMayNotBeRead: then imported material is not known to be old or new: what was
// told stands, nothing is told, and the record of the sweep says so.
func TestLastRotationMayNotBeRead(t *testing.T) {
	inWorld(t, aging(), func(w *world) {
		told := w.importedKey(nil)
		w.createAlias("alias/told", told)
		w.react()
		time.Sleep(91 * 24 * time.Hour)
		w.told.take()
		w.sweep()
		w.one()
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "kms:ListKeyRotations" })
		w.importedKey(nil)
		w.react()
		time.Sleep(91 * 24 * time.Hour)
		w.told.take()
		w.sweepAll(3)
		w.none()
		records := w.records()
		if got := records[len(records)-1].Totals; got.Unread != 2 || !strings.Contains(got.UnreadOf[0].What, "last rotation of key") || got.Dangers["medium"] != 1 {
			t.Errorf("totals: %+v", got)
		}
	})
}

// TestOldMaterialIsExempt: an exemption of rotation covers it.
func TestOldMaterialIsExempt(t *testing.T) {
	c := aging()
	c.Exemptions = must(judgement.ParseExemptions("rotation of alias/signing-* until 2001-01-01: the certificate ends then", []string{"rotation"}))
	inWorld(t, c, func(w *world) {
		key := w.newKey(kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeSignVerify})
		w.createAlias("alias/signing-web", key)
		w.react()
		w.told.take()
		w.sweepAll(1)
		time.Sleep(100 * 24 * time.Hour)
		w.sweepAll(3)
		w.none()
		if doc := w.keyDoc(key); doc.Standing.Of("material-age") == nil || !doc.Standing.Of("material-age").Exempt {
			t.Errorf("the document has %+v", doc.Standing)
		}
	})
}

// importNewMaterial imports material that waits for a rotation on demand.
func (w *world) importNewMaterial(key string, material []byte) {
	w.t.Helper()
	in := w.wrap(key, material)
	in.ImportType = types.ImportTypeNewKeyMaterial
	in.KeyMaterialDescription = aws.String("next")
	must(w.kms.ImportKeyMaterial(w.ctx, in))
}
