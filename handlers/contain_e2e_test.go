package handlers_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// containing is enforceAll with containment, and nothing else about policies.
func containing(t *testing.T) reaction.Config {
	t.Helper()
	admins, err := judgement.ParsePrincipals("role/key-admin*")
	if err != nil {
		t.Fatal(err)
	}
	c := enforceAll()
	c.Policy, c.Contain, c.ContainQuietDays = reaction.Off, reaction.Enforce, 7
	c.ContainAllowed = []judgement.Principals{admins}
	return c
}

// as returns a client of a role of the account.
func (w *world) as(role string) *kms.Client {
	w.t.Helper()
	w.aws.AddIdentity("AKIA"+role, wire.Caller{
		Type: "AssumedRole", PrincipalID: "AROA" + role + ":s-1", ARN: "arn:aws:sts::" + account + ":assumed-role/" + role + "/s-1",
	})
	return kms.NewFromConfig(inprocess.Config(w.aws, region, "AKIA"+role))
}

func (w *world) enable(key string) {
	w.t.Helper()
	must(w.kms.EnableKey(w.ctx, &kms.EnableKeyInput{KeyId: &key}))
}

// grantTo grants Decrypt to a principal.
func (w *world) grantTo(key, grantee string) {
	w.t.Helper()
	must(w.kms.CreateGrant(w.ctx, &kms.CreateGrantInput{KeyId: &key, GranteePrincipal: &grantee, Operations: []types.GrantOperation{types.GrantOperationDecrypt}}))
}

func (w *world) wantState(key, want string) {
	w.t.Helper()
	if got := w.state(key); got != want {
		w.t.Errorf("state %s, want %s", got, want)
	}
}

func TestContainment(t *testing.T) {
	for name, tt := range map[string]struct {
		open    func(*world, string)
		finding string
		next    string
	}{
		"public":                   {func(w *world, key string) { w.putPolicy(key, public) }, "public-principal", "aws kms get-key-policy"},
		"untrusted account":        {func(w *world, key string) { w.putPolicy(key, partner) }, "foreign-account", "aws kms get-key-policy"},
		"grant to such an account": {func(w *world, key string) { w.grantTo(key, "arn:aws:iam::777788889999:role/reader") }, "grant-to-foreign-account", "aws kms revoke-grant"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, containing(t), func(w *world) {
				key := w.knownKey("alias/orders")
				tt.open(w, key)
				w.react()
				w.wantState(key, "Disabled")
				a := w.one() // no alarm about our own DisableKey
				if a.Kind != alert.KindContainment || a.Severity != finding.Critical || a.Action.Status != alert.StatusDone || findingIDs(a) != tt.finding {
					t.Errorf("alert:\n%s", a.Text())
				}
				next := strings.Join(a.Next, "\n")
				if !strings.Contains(a.Summary, "mallory") || !strings.Contains(next, "aws kms enable-key --key-id") || !strings.Contains(next, tt.next) || facts(a, "grants") == "" {
					t.Errorf("alert does not say who, how to undo it or what hangs on the key:\n%s", a.Text())
				}
				for range 2 { // neither the sweeps nor the deletion reaction undo it
					w.sweep()
					w.none()
					time.Sleep(time.Hour)
				}
				w.wantState(key, "Disabled")
				w.scheduleDeletion(key)
				w.react()
				w.wantState(key, "Disabled")
				if a := w.one(); a.Kind != alert.KindDeletion || a.Action.Status != alert.StatusDone {
					t.Errorf("alert:\n%s", a.Text())
				}
			})
		})
	}
}

func TestNothingToContain(t *testing.T) {
	for name, open := range map[string]func(*world, string){
		"by a role that may": func(w *world, key string) {
			must(w.as("key-admins").PutKeyPolicy(w.ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: aws.String(public)}))
		},
		"an own principal":   func(w *world, key string) { w.grantTo(key, "arn:aws:iam::"+account+":role/reader") },
		"closed again":       func(w *world, key string) { w.putPolicy(key, public); w.putPolicy(key, rootOnly) },
		"nothing was opened": func(w *world, key string) { w.putPolicy(key, strings.ReplaceAll(rootOnly, `"root"`, `"owner"`)) },
		"disabled by others": func(w *world, key string) { w.disable(key); w.putPolicy(key, public) },
	} {
		t.Run(name, func(t *testing.T) {
			c := containing(t)
			c.Deletion = reaction.Observe
			inWorld(t, c, func(w *world) {
				key := w.knownKey("alias/orders")
				open(w, key)
				w.react()
				if got := w.aws.Requests("kms", "DisableKey"); name != "disabled by others" && got != 0 {
					t.Errorf("%d calls of DisableKey", got)
				}
				for _, a := range w.told.take() {
					if a.Kind != alert.KindDeletion {
						t.Errorf("alert:\n%s", a.Text())
					}
				}
			})
		})
	}
}

// TestContainmentBlamesWhoOpened: a key that was open before is not contained
// because somebody else touches its policy.
func TestContainmentBlamesWhoOpened(t *testing.T) {
	inWorld(t, containing(t), func(w *world) {
		key := w.newKey(kms.CreateKeyInput{})
		must(w.as("key-admins").PutKeyPolicy(w.ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: aws.String(public)}))
		w.react()
		time.Sleep(2 * time.Second)
		w.putPolicy(key, strings.ReplaceAll(public, `"root"`, `"owner"`))
		w.react()
		w.none()
		w.wantState(key, "Enabled")
		w.putPolicy(key, strings.ReplaceAll(partner, `"root"`, `"owner"`))
		w.react()
		w.wantState(key, "Disabled")
		w.one()
	})
}

func TestContainmentObserved(t *testing.T) {
	c := containing(t)
	c.Contain = reaction.Observe
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, public)
		w.react()
		w.wantState(key, "Enabled")
		if a := w.one(); a.Action.Status != alert.StatusWouldDo || a.Severity != finding.Critical || !strings.Contains(strings.Join(a.Next, "\n"), "aws kms disable-key") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

func TestContainmentIsOffByDefault(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, public)
		w.react()
		w.wantState(key, "Enabled")
	})
}

// TestContainmentLeavesWhatIsInUse: disabling a key that is needed would do what
// an attacker wants.
func TestContainmentLeavesWhatIsInUse(t *testing.T) {
	for name, tt := range map[string]struct {
		use  func(*world, string)
		want string
	}{
		"used of late": {func(w *world, key string) {
			must(w.kms.Encrypt(w.ctx, &kms.EncryptInput{KeyId: &key, Plaintext: []byte("secret")}))
			time.Sleep(6 * day)
		}, "it was last used by Encrypt at 2000-01-01T00:"},
		"grants of services": {func(w *world, key string) {
			w.grantTo(key, "arn:aws:iam::"+account+":role/aws-service-role/rds.amazonaws.com/AWSServiceRoleForRDS")
		}, "AWSServiceRoleForRDS holds a grant for Decrypt"},
		"not known": {func(w *world, _ string) {
			w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "kms:GetKeyLastUsage" })
		}, "it is not known whether it is in use: its last use"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, containing(t), func(w *world) {
				key := w.knownKey("alias/orders")
				tt.use(w, key)
				w.putPolicy(key, public)
				w.react()
				w.wantState(key, "Enabled")
				a := w.one()
				if a.Severity != finding.Critical || a.Action.Status != alert.StatusRefused || !strings.Contains(a.Action.Description, tt.want) || !strings.Contains(strings.Join(a.Next, "\n"), "aws kms disable-key") {
					t.Errorf("alert:\n%s", a.Text())
				}
			})
			c := containing(t)
			c.ContainInUse = true
			inWorld(t, c, func(w *world) {
				key := w.knownKey("alias/orders")
				tt.use(w, key)
				w.putPolicy(key, public)
				w.react()
				w.wantState(key, "Disabled")
			})
		})
	}
}

func TestContainmentOfANewKey(t *testing.T) {
	inWorld(t, containing(t), func(w *world) {
		key := w.newKey(kms.CreateKeyInput{Policy: aws.String(public)})
		w.react()
		w.wantState(key, "Disabled")
		if a := w.one(); a.EventName != "CreateKey" {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

// TestContainmentIsUndoneByPeople: whoever enables the key has the last word,
// unless it is the one who opened it.
func TestContainmentIsUndoneByPeople(t *testing.T) {
	c := containing(t)
	c.FlapLimit = 3
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, public)
		body := w.event("PutKeyPolicy")
		if err := w.handle(body); err != nil {
			t.Fatal(err)
		}
		w.react()
		w.one()
		time.Sleep(2 * time.Minute)

		w.enable(key) // mallory, who opened it
		w.react()
		w.wantState(key, "Disabled")
		if a := w.one(); a.EventName != "EnableKey" || a.Action.Status != alert.StatusDone || !strings.Contains(a.Title, "enabled again while it is still open") {
			t.Errorf("alert:\n%s", a.Text())
		}
		time.Sleep(2 * time.Minute)

		must(w.as("responder").EnableKey(w.ctx, &kms.EnableKeyInput{KeyId: &key}))
		w.react()
		w.wantState(key, "Enabled")
		if a := w.one(); a.Severity != finding.Critical || a.Action.Status != alert.StatusRefused || !strings.Contains(a.Action.Description, "cmkeeper does not override that") {
			t.Errorf("alert:\n%s", a.Text())
		}
		if err := w.handle(body); err != nil { // the first event again
			t.Fatal(err)
		}
		w.sweep()
		w.none()
		w.wantState(key, "Enabled")

		// Somebody else disables it now: that is no containment.
		time.Sleep(time.Minute)
		w.disable(key)
		w.react()
		w.wantState(key, "Enabled")
	})
}

func TestContainmentThatIsFought(t *testing.T) {
	c := containing(t)
	c.FlapLimit = 2
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, public)
		w.react()
		for range 3 {
			time.Sleep(2 * time.Minute)
			w.enable(key)
			w.react()
		}
		w.wantState(key, "Enabled")
		told := w.told.take()
		if last := told[len(told)-1]; len(told) != 3 || last.Action.Status != alert.StatusRefused || !strings.Contains(last.Action.Description, "too often") {
			t.Errorf("%d alerts:\n%s", len(told), texts(told))
		}
	})
}

// TestContainmentAfterThePolicyWasPutBack: what is closed again needs no
// containment, and is not waited for.
func TestContainmentAfterThePolicyWasPutBack(t *testing.T) {
	c := containing(t)
	c.Policy = reaction.Enforce
	inWorld(t, c, func(w *world) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		w.react()
		w.wantPolicy(key, rootOnly)
		w.wantState(key, "Enabled")
		if a := w.one(); a.Action.Status != alert.StatusDone || a.Severity != finding.Critical {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

// TestContainmentBeforeThePolicyIsPutBack: a worker that only contains was faster.
func TestContainmentBeforeThePolicyIsPutBack(t *testing.T) {
	c := containing(t)
	c.Policy = reaction.Enforce
	inWorld(t, c, func(w *world) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		body := w.event("PutKeyPolicy")
		w.router = w.newRouter(containing(t))
		if err := w.handle(body); err != nil {
			t.Fatal(err)
		}
		w.wantState(key, "Disabled")
		w.router = w.newRouter(c)
		if err := w.handle(body); err != nil {
			t.Fatal(err)
		}
		w.react()
		w.sweep()
		w.wantPolicy(key, rootOnly)
		w.wantState(key, "Disabled")
		if told := w.told.take(); len(told) != 2 || told[0].Action.Status != alert.StatusDone || told[1].Action.Status != alert.StatusDone {
			t.Errorf("%d alerts:\n%s", len(told), texts(told))
		}
	})
}

func TestAcceptedPolicyIsNotContained(t *testing.T) {
	c := containing(t)
	c.Policy = reaction.Enforce
	inWorld(t, c, func(w *world) {
		key := w.guardedKey()
		w.accept(key, partner)
		w.putPolicy(key, partner)
		w.react()
		w.wantPolicy(key, partner)
		w.wantState(key, "Enabled")
		w.one()
		w.grantTo(key, "arn:aws:iam::777788889999:role/reader") // another way in, which nobody accepted
		w.react()
		w.wantState(key, "Disabled")
	})
}

func TestContainmentFails(t *testing.T) {
	inWorld(t, containing(t), func(w *world) {
		key := w.knownKey("alias/orders")
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "kms:DisableKey" })
		w.putPolicy(key, public)
		body := w.event("PutKeyPolicy")
		if err := w.handle(body); outcome.Of(err).Action != outcome.Retry {
			t.Errorf("outcome of %v, want retry", err)
		}
		if a := w.one(); a.Action.Status != alert.StatusFailed || !strings.Contains(a.Action.Description, "could not disable the key") {
			t.Errorf("alert:\n%s", a.Text())
		}
		// It was not disabled by us then, so whoever disables it now is undone.
		time.Sleep(2 * time.Second)
		w.disable(key)
		w.react()
		w.wantState(key, "Enabled")
	})
}

func TestContainmentIsToldWithoutTheStateBucket(t *testing.T) {
	inWorld(t, containing(t), func(w *world) {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, public)
		body := w.event("PutKeyPolicy")
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return !strings.HasPrefix(action, "s3:") })
		if err := w.handle(body); outcome.Of(err).Action != outcome.Retry {
			t.Fatalf("outcome of %v, want retry", err)
		}
		if a := w.one(); a.Severity != finding.Critical || a.Action.Status != alert.StatusFailed {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

// TestContainmentWithALostAnswer: both of the SDK's calls are ours, and the key is
// disabled once.
func TestContainmentWithALostAnswer(t *testing.T) {
	inWorld(t, containing(t), func(w *world) {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, public)
		w.aws.SetFaults(localaws.Fault{Service: "kms", Operations: []string{"DisableKey"}, Effect: localaws.DropAfter, Count: 1})
		w.react()
		if got := w.aws.Requests("kms", "DisableKey"); got < 2 {
			t.Fatalf("%d calls of DisableKey: none was repeated", got)
		}
		w.wantState(key, "Disabled")
		w.one()
	})
}

func TestTwoWorkersContainOnce(t *testing.T) {
	inWorld(t, containing(t), func(w *world) {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, public)
		body := w.event("PutKeyPolicy")
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if d := outcome.Of(w.newRouter(containing(t)).Handle(w.ctx, handlers.Message{Body: []byte(body)})); d.Action != outcome.Delete && d.Action != outcome.Delay {
					t.Errorf("outcome %v: %v", d.Action, d.Err)
				}
			})
		}
		wg.Wait()
		w.react()
		w.wantState(key, "Disabled")
		w.one()
		w.sweep()
		w.none()
		w.wantState(key, "Disabled")
	})
}
