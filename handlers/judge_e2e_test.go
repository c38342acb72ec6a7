package handlers_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/judgement"
)

// taggedKey is a rotating key with a tag that sweeps have seen for a day.
func (w *world) taggedKey(name, value string) string {
	w.t.Helper()
	key := w.newKey(kms.CreateKeyInput{Tags: []types.Tag{{TagKey: &name, TagValue: &value}}})
	w.enableRotation(key, 180)
	w.react()
	w.sweep()
	time.Sleep(25 * time.Hour)
	w.told.take()
	return key
}

// why is what an alert says about its severity.
func why(a alert.Alert) string {
	for _, f := range a.Facts {
		if f.Name == "why this severity" {
			return strings.Join(f.Values, "\n")
		}
	}
	return ""
}

func selector(t *testing.T, s string) []judgement.Selector {
	t.Helper()
	one, err := judgement.ParseSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return []judgement.Selector{one}
}

func TestSensitiveKeyIsLouder(t *testing.T) {
	c := enforceAll()
	c.Rules.Sensitive = selector(t, "tag class=restricted")
	inWorld(t, c, func(w *world) {
		key, other := w.taggedKey("class", "restricted"), w.taggedKey("class", "public")
		w.disableRotation(other)
		w.react()
		if a := w.one(); a.Severity != finding.High || why(a) != "" {
			t.Errorf("a key that is not sensitive:\n%s", a.Text())
		}
		// Changing the tag first does not help.
		must(w.kms.TagResource(w.ctx, &kms.TagResourceInput{KeyId: &key, Tags: []types.Tag{{TagKey: aws.String("class"), TagValue: aws.String("public")}}}))
		w.react()
		w.told.take()
		w.disableRotation(key)
		w.react()
		if a := w.one(); a.Severity != finding.Critical || !strings.Contains(why(a), "the key is sensitive (tag class=restricted)") {
			t.Errorf("a sensitive key:\n%s", a.Text())
		}
	})
}

func TestSandboxIsQuieter(t *testing.T) {
	c := enforceAll()
	c.Rules.Sandbox = selector(t, "tag env=sandbox")
	inWorld(t, c, func(w *world) {
		key := w.taggedKey("env", "sandbox")
		w.disableRotation(key)
		w.react()
		if a := w.one(); a.Severity != finding.Medium || a.Action.Status != alert.StatusDone || !strings.Contains(why(a), "one down") {
			t.Errorf("a key in the sandbox:\n%s", a.Text())
		}
		// A policy for one organization only is smaller in the sandbox, though it names everyone.
		must(w.kms.PutKeyPolicy(w.ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: aws.String(`{"Version":"2012-10-17","Statement":[` +
			`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"},` +
			`{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringEquals":{"aws:PrincipalOrgID":"o-exampleorg1"}}}]}`)}))
		w.react()
		if a := w.one(); findingIDs(a) != "public-principal" || a.Findings[0].Severity != finding.High || a.Severity != finding.Medium || !strings.Contains(why(a), "one down, because the key is in the sandbox") {
			t.Errorf("a key of an organization in the sandbox:\n%s", a.Text())
		}
		// A key that everybody may use is no smaller thing in the sandbox.
		must(w.kms.PutKeyPolicy(w.ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: aws.String(`{"Version":"2012-10-17","Statement":[` +
			`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"},` +
			`{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"}]}`)}))
		w.react()
		if a := w.one(); a.Severity != finding.Critical || !strings.Contains(why(a), "not lowered although the key is in the sandbox") {
			t.Errorf("a public key in the sandbox:\n%s", a.Text())
		}

		// A tag that was set just now is none.
		fresh := w.rotatingKey(180)
		must(w.kms.TagResource(w.ctx, &kms.TagResourceInput{KeyId: &fresh, Tags: []types.Tag{{TagKey: aws.String("env"), TagValue: aws.String("sandbox")}}}))
		w.react()
		w.told.take()
		w.disableRotation(fresh)
		w.react()
		if a := w.one(); a.Severity != finding.High {
			t.Errorf("a key that was tagged for the occasion:\n%s", a.Text())
		}

		// Nor is one that may not be read.
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "kms:ListResourceTags" })
		w.disableRotation(key)
		w.react()
		if a := w.one(); a.Severity != finding.High || a.Action.Status != alert.StatusDone {
			t.Errorf("without its tags:\n%s", a.Text())
		}
	})
}

func TestActorAndHours(t *testing.T) {
	c := enforceAll()
	c.Posture.RotationRequired = true
	hours, err := judgement.ParseHours("Sun 00:00-01:00 UTC") // the bubble begins on a Saturday
	if err != nil {
		t.Fatal(err)
	}
	c.Rules.Hours = hours
	inWorld(t, c, func(w *world) {
		w.newKey(kms.CreateKeyInput{})
		w.react()
		if a := w.one(); a.Severity != finding.High || !strings.Contains(why(a), "outside business hours") {
			t.Errorf("medium, off hours:\n%s", a.Text())
		}
		mallory, err := judgement.ParsePrincipals("user/mallory")
		if err != nil {
			t.Fatal(err)
		}
		c.Rules.Pipelines = []judgement.Principals{mallory}
		w.router = w.newRouter(c)
		w.newKey(kms.CreateKeyInput{})
		w.react()
		if a := w.one(); a.Severity != finding.Low || !strings.Contains(why(a), "a known pipeline did it (user/mallory)") {
			t.Errorf("a pipeline, off hours:\n%s", a.Text())
		}
	})
}

// TestExemptWhereNothingIsPutBack: what is told only becomes a note.
func TestExemptWhereNothingIsPutBack(t *testing.T) {
	inWorld(t, exempting(t, "policy of tag env=sandbox until 2000-06-30: demo data"), func(w *world) {
		key := w.taggedKey("env", "sandbox")
		must(w.kms.PutKeyPolicy(w.ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: aws.String(`{"Version":"2012-10-17","Statement":[` +
			`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"},` +
			`{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"}]}`)}))
		w.react()
		a := w.one()
		if a.Severity != finding.Info || !strings.Contains(a.Action.Description, "demo data") || len(a.Findings) == 0 {
			t.Errorf("alert:\n%s", a.Text())
		}
		if !slices.ContainsFunc(a.Facts, func(f alert.Fact) bool { return f.Name == "exemption" }) {
			t.Errorf("the alert does not name the exemption:\n%s", a.Text())
		}
	})
}
