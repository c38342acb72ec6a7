package handlers_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
)

const (
	rootOnly = `{"Version":"2012-10-17","Statement":[{"Sid":"root","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"}]}`
	public   = `{"Version":"2012-10-17","Statement":[{"Sid":"root","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"},` +
		`{"Sid":"oops","Effect":"Allow","Principal":"*","Action":["kms:Decrypt"],"Resource":"*"}]}`
	partner = `{"Version":"2012-10-17","Statement":[{"Sid":"root","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"},` +
		`{"Sid":"partner","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::777788889999:root"},"Action":["kms:Decrypt"],"Resource":"*"}]}`
	appRole = `{"Version":"2012-10-17","Statement":[{"Sid":"root","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"},` +
		`{"Sid":"app","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:role/app"},"Action":["kms:Decrypt"],"Resource":"*"}]}`
	shutOut = `{"Version":"2012-10-17","Statement":[{"Sid":"mallory","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:user/mallory"},"Action":"kms:*","Resource":"*"}]}`
)

func (w *world) putPolicy(key, document string) {
	w.t.Helper()
	must(w.kms.PutKeyPolicy(w.ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: &document, BypassPolicyLockoutSafetyCheck: strings.Contains(document, "mallory")}))
}

func findingIDs(a alert.Alert) string {
	var ids []string
	for _, f := range a.Findings {
		ids = append(ids, f.ID.String())
	}
	return strings.Join(ids, " ")
}

// TestRiskFollowsWhatIsGranted: those who may only encrypt cannot read.
func TestRiskFollowsWhatIsGranted(t *testing.T) {
	c := enforceAll()
	c.Policy = reaction.Observe
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		for action, want := range map[string]string{
			"kms:Encrypt": "Anyone with an AWS account can encrypt under the key. This does not let them read what is encrypted under the key.",
			"kms:Decrypt": "Anyone with an AWS account can read everything encrypted under the key.",
		} {
			w.putPolicy(key, `{"Version":"2012-10-17","Statement":[`+
				`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::`+account+`:root"},"Action":"kms:*","Resource":"*"},`+
				`{"Effect":"Allow","Principal":"*","Action":"`+action+`","Resource":"*"}]}`)
			w.react()
			if a := w.one(); a.Kind != alert.KindPolicy || a.Risk != want {
				t.Errorf("%s for everyone: at risk is %q, want %q", action, a.Risk, want)
			}
		}
	})
}

func TestPolicyFindingsAndDifference(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, public)
		w.react()
		a := w.one()
		if a.Kind != alert.KindPolicy || !a.Severity.AtLeast(finding.High) || !strings.Contains(findingIDs(a), "public-principal") {
			t.Errorf("alert:\n%s", a.Text())
		}
		if got := facts(a, "difference from the last recorded policy"); !strings.Contains(got, "added") || !strings.Contains(strings.ToLower(got), "kms:decrypt") {
			t.Errorf("difference %q", got)
		}
		w.putPolicy(key, rootOnly)
		w.react()
		a = w.over("everyone")[0]
		if a.Severity != finding.Info || len(a.Findings) != 0 || !strings.Contains(facts(a, "difference from the last recorded policy"), "removed") {
			t.Errorf("alert:\n%s", a.Text())
		}
		// The same policy, written differently, is nothing to tell.
		w.putPolicy(key, strings.ReplaceAll(rootOnly, `"kms:*"`, `["KMS:*"]`))
		w.react()
		w.none()
	})
}

// TestPolicyThatIsWidened: conditions that are taken out are said to let somebody do
// more, and who that is, where no finding is about it.
func TestPolicyThatIsWidened(t *testing.T) {
	for _, condition := range []string{
		`{"StringEquals":{"kms:EncryptionContext:app":"orders"}}`,
		`{"StringEquals":{"kms:ViaService":"s3.eu-central-1.amazonaws.com"}}`,
		`{"Bool":{"aws:MultiFactorAuthPresent":"true"}}`,
	} {
		inWorld(t, enforceAll(), func(w *world) {
			key := w.knownKey("alias/orders")
			w.putPolicy(key, strings.Replace(appRole, `"Resource":"*"}]}`, `"Resource":"*","Condition":`+condition+`}]}`, 1))
			w.react()
			w.told.take()
			w.putPolicy(key, appRole)
			w.react()
			a := w.one()
			if len(a.Findings) != 0 || strings.Contains(a.Risk, "has no findings.") || !strings.HasSuffix(a.Title, "was widened") ||
				!strings.Contains(a.Risk, ":role/app may now kms:Decrypt") {
				t.Errorf("without %s:\n%s", condition, a.Text())
			}
		})
	}
}

// TestPolicyTrustsOrganizations: a condition on a trusted organization is no finding.
func TestPolicyTrustsOrganizations(t *testing.T) {
	c := enforceAll()
	c.Posture.TrustedOrgs = []string{"o-a1b2c3d4e5"}
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		members := strings.Replace(public, `"Resource":"*"}]}`, `"Resource":"*","Condition":{"StringEquals":{"aws:PrincipalOrgID":"o-a1b2c3d4e5"}}}]}`, 1)
		w.putPolicy(key, members)
		w.react()
		if a := w.one(); len(a.Findings) != 0 {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.router = w.newRouter(enforceAll())
		w.putPolicy(key, members)
		w.react()
		if a := w.one(); !strings.Contains(findingIDs(a), "public-principal") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

func TestPolicyTrustsTheAccountsThatItIsTold(t *testing.T) {
	c := enforceAll()
	c.Posture.TrustedAccounts = []string{"777788889999"}
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, partner)
		w.react()
		if a := w.one(); a.Severity.AtLeast(finding.Medium) || strings.Contains(findingIDs(a), "foreign-account") {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.router = w.newRouter(enforceAll())
		w.putPolicy(key, partner)
		w.react()
		if a := w.one(); !strings.Contains(findingIDs(a), "foreign-account") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

func TestPolicyOfANewKey(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		w.newKey(kms.CreateKeyInput{Policy: aws.String(rootOnly)})
		w.react()
		w.none()
		w.newKey(kms.CreateKeyInput{Policy: aws.String(public)})
		w.react()
		if a := w.one(); a.EventName != "CreateKey" || !strings.Contains(findingIDs(a), "public-principal") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

// A bad policy that was live for a moment is told even when it is gone.
func TestPolicyThatWasPutBack(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, public)
		w.putPolicy(key, rootOnly)
		for _, body := range w.events() {
			if err := w.handle(body); err != nil {
				t.Fatal(err)
			}
		}
		a := w.told.take()[0]
		if !strings.Contains(findingIDs(a), "public-principal") || !strings.Contains(a.Findings[0].Message, "not the live one") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

func TestPolicyThatShutsUsOut(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, shutOut)
		w.react()
		a := w.one()
		if a.Kind != alert.KindGuard || a.Severity != finding.Critical || !strings.Contains(a.Title, "alias/orders") {
			t.Errorf("alert:\n%s", a.Text())
		}
		if !strings.Contains(findingIDs(a), "lockout") {
			t.Errorf("findings %s, want those of the policy in the event", findingIDs(a))
		}
		// Each sweep meets the same door; it is told once.
		w.sweep()
		w.one()
		w.sweep()
		w.none()
	})
}

// TestLockOutNamesAnAlias: KMS lists the aliases of a key that shuts the worker out, also
// of one that it never read.
func TestLockOutNamesAnAlias(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.newKey(kms.CreateKeyInput{})
		w.createAlias("alias/orders", key)
		w.events()
		w.putPolicy(key, shutOut)
		w.react()
		if a := w.one(); a.Kind != alert.KindGuard || !strings.HasSuffix(a.Title, "alias/orders") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

// TestReplicaNamesAnAlias: so does the alert about a replica.
func TestReplicaNamesAnAlias(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.newKey(kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
		w.createAlias("alias/orders", key)
		w.events()
		must(w.kms.ReplicateKey(w.ctx, &kms.ReplicateKeyInput{KeyId: &key, ReplicaRegion: aws.String("us-west-2"), Policy: aws.String(public)}))
		w.react()
		titles := ""
		for _, a := range w.told.take() {
			titles += a.Title + "\n"
		}
		if !strings.Contains(titles, "Key alias/orders was replicated to ") {
			t.Errorf("titles: %s", titles)
		}
	})
}

func TestPolicyChangeThatNoEventTold(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, public)
		w.events()
		w.sweep()
		if a := w.one(); !strings.Contains(findingIDs(a), "public-principal") || a.Actor != nil {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.sweep()
		w.none()
	})
}
