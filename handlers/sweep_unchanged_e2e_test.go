package handlers_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/state"
)

// sweepAll sweeps so often, an hour apart.
func (w *world) sweepAll(n int) {
	w.t.Helper()
	for range n {
		w.sweep()
		time.Sleep(time.Hour)
	}
}

// keyDoc is what is stored of a key.
func (w *world) keyDoc(key string) (k ledger.Key) {
	w.t.Helper()
	must(w.store().Get(w.ctx, ledger.KeyName(key), &k))
	return k
}

// settledConfig has every reaction look at a key.
func settledConfig() reaction.Config {
	c := enforceAll()
	c.Contain = reaction.Observe
	return c
}

// A key and an alias of which nothing has changed cost the reads of KMS and no document,
// and whatever changes about them is found by the next sweep, although no event tells.
func TestUnchangedKeysAreSkipped(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(w *world, key string)
		found  func(w *world, key string) bool
	}{
		"rotation turned off": {(*world).disableRotation, func(w *world, key string) bool { return w.rotation(key) == 180 && len(w.told.take()) == 1 }},
		"key disabled":        {(*world).disable, func(w *world, key string) bool { return w.state(key) == "Enabled" && len(w.told.take()) == 1 }},
		"deletion scheduled":  {(*world).scheduleDeletion, func(w *world, key string) bool { return w.state(key) == "Enabled" && len(w.told.take()) == 1 }},
		"policy opened":       {func(w *world, key string) { w.putPolicy(key, takeover) }, func(w *world, _ string) bool { return len(w.told.take()) == 1 }},
		"steering tag set": {func(w *world, key string) {
			must(w.kms.TagResource(w.ctx, &kms.TagResourceInput{KeyId: &key, Tags: []types.Tag{{TagKey: aws.String("cmkeeper:x"), TagValue: aws.String("1")}}}))
		}, func(w *world, _ string) bool { return len(w.told.take()) == 1 }},
		"grant made": {func(w *world, key string) {
			must(w.kms.CreateGrant(w.ctx, &kms.CreateGrantInput{KeyId: &key, GranteePrincipal: aws.String("arn:aws:iam::" + stranger + ":role/x"), Operations: []types.GrantOperation{types.GrantOperationDecrypt}}))
		}, func(w *world, key string) bool { return len(w.keyDoc(key).Exposures) == 1 }},
		"alias added": {func(w *world, key string) {
			must(w.kms.CreateAlias(w.ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/second"), TargetKeyId: &key}))
		}, func(w *world, key string) bool { return len(w.keyDoc(key).Aliases) == 2 }},
		"its document changed": {func(w *world, key string) {
			err := state.Update(w.ctx, w.store(), ledger.KeyName(key), func(k *ledger.Key, _ bool) error { k.Description = "another worker's"; return nil })
			if err != nil {
				w.t.Fatal(err)
			}
		}, func(w *world, key string) bool { return w.keyDoc(key).Description == "" }},
		"alias moved": {func(w *world, _ string) {
			other := w.newKey(kms.CreateKeyInput{})
			must(w.kms.UpdateAlias(w.ctx, &kms.UpdateAliasInput{AliasName: aws.String("alias/app-first"), TargetKeyId: &other}))
		}, func(w *world, _ string) bool {
			var a ledger.Alias
			must(w.store().Get(w.ctx, ledger.AliasName("alias/app-first"), &a))
			return a.Candidate != nil
		}},
		"configuration changed": {func(w *world, _ string) {
			c := settledConfig()
			c.Posture.TrustedAccounts = []string{"999988887777"}
			w.router = w.newRouter(c)
		}, func(w *world, _ string) bool {
			all := w.records()
			return all[len(all)-1].Totals.Changed == 1
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, settledConfig(), func(w *world) {
				count := new(counter)
				w.counted(count, settledConfig(), func(*reaction.Deps) {})
				key := w.rotatingKey(180)
				must(w.kms.CreateAlias(w.ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/app-first"), TargetKeyId: &key}))
				w.react()
				time.Sleep(time.Hour)
				w.sweepAll(3)
				w.told.take()
				count.take()
				w.sweep()
				reads := map[string]int{}
				for _, r := range count.take() {
					reads[r.name()]++
					if strings.Contains(r.target, "/keys/") || strings.Contains(r.target, "/baselines/") || strings.Contains(r.target, "/aliases/") {
						t.Errorf("nothing has changed: %s %s", r.operation, r.target)
					}
				}
				if reads["KMS DescribeKey"] != 1 || reads["KMS GetKeyPolicy"] != 1 || reads["KMS GetKeyRotationStatus"] != 1 || reads["KMS ListGrants"] != 1 || reads["KMS ListResourceTags"] != 1 {
					t.Errorf("reads: %v", reads)
				}
				w.none()
				time.Sleep(time.Hour)
				tt.change(w, key)
				w.events() // are lost
				w.sweep()
				if !tt.found(w, key) {
					t.Errorf("not found: %+v\n%s", w.keyDoc(key), texts(w.told.take()))
				}
			})
		})
	}
}

// Where reading grants and tags takes long, what is urgent does not wait for it, and both are
// done in the same sweep.
func TestGrantsAndTagsAreReadLast(t *testing.T) {
	inWorld(t, settledConfig(), func(w *world) {
		var keys []string
		for range 150 {
			keys = append(keys, w.newKey(kms.CreateKeyInput{}))
		}
		victim := w.rotatingKey(180)
		w.sweepAll(2)
		w.told.take()
		w.disableRotation(victim)
		w.events()
		for _, key := range keys {
			must(w.kms.CreateGrant(w.ctx, &kms.CreateGrantInput{KeyId: &key, GranteePrincipal: aws.String("arn:aws:iam::" + stranger + ":role/x"), Operations: []types.GrantOperation{types.GrantOperationDecrypt}}))
		}
		w.events()
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- w.router.Sweep(w.ctx) }()
		time.Sleep(10 * time.Second)
		if days := w.rotation(victim); days != 180 {
			t.Errorf("ten seconds after the sweep began the rotation period is %d, want 180", days)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 20*time.Second {
			t.Errorf("the sweep took %s: the test shows nothing", took)
		}
		for _, key := range keys {
			if n := len(w.keyDoc(key).Exposures); n != 1 {
				t.Fatalf("%d exposures of a key are known, it has 1", n)
			}
		}
	})
}

// What an exemption covered is judged anew when that has ended, although nothing has changed.
func TestExemptionEndsForUnchangedKeys(t *testing.T) {
	const day = 24 * time.Hour
	c := enforceAll()
	inWorld(t, c, func(w *world) {
		end := time.Now().UTC().Add(4 * day).Truncate(day)
		c.Exemptions = must(judgement.ParseExemptions("rotation of alias/app-* until "+end.Add(-day).Format(time.DateOnly)+": it is tried out", handlers.Exemptible()))
		w.router = w.newRouter(c)
		key := w.rotatingKey(180)
		must(w.kms.CreateAlias(w.ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/app-first"), TargetKeyId: &key}))
		w.react()
		w.sweepAll(50) // the alias has to last for a day
		w.disableRotation(key)
		w.events() // are lost
		w.sweepAll(3)
		if w.rotation(key) == 180 {
			t.Fatal("the exemption does not hold: the test shows nothing")
		}
		w.told.take()
		time.Sleep(time.Until(end.Add(time.Hour)))
		w.sweep()
		if days := w.rotation(key); days != 180 || len(w.told.take()) == 0 {
			t.Errorf("the rotation period is %d after the exemption, want 180, and an alert", days)
		}
	})
}
