package handlers_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/confirm"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
	"github.com/cmkeeper/cmkeeper/worker"
)

// late is how long CloudTrail takes to show a call in these tests.
const late = 5 * time.Minute

// inOpenWorld runs a test in a world whose events queue anybody may send to: prepare sets
// it up with workers that believe every message, and the test's believe none.
func inOpenWorld(t *testing.T, c reaction.Config, prepare, test func(*world)) {
	t.Helper()
	inWorld(t, c, func(w *world) {
		prepare(w)
		w.react()
		w.told.take()
		w.moves.moves = nil
		w.aws.Trail().Set(trail.Settings{LookupDelay: late})
		time.Sleep(time.Minute)
		w.distrust(c)
		test(w)
		w.quit()
	})
}

// distrust makes the router one that takes no message for CloudTrail's record.
func (w *world) distrust(c reaction.Config, change ...func(*reaction.Deps)) {
	w.router = w.newRouterWith(c, func(d *reaction.Deps) {
		records := confirm.New(d.Trail, d.State, confirm.Config{}, nil)
		ctx, stop := context.WithCancel(w.ctx)
		ended := make(chan struct{})
		go func() { defer close(ended); _ = records.Run(ctx) }()
		w.quit = func() { stop(); <-ended }
		d.Records, d.Senders = records, nil
		for _, f := range change {
			f(d)
		}
	})
}

// forgetVerified makes the history of an alias one that an earlier build has kept.
func (w *world) forgetVerified(alias string) {
	w.t.Helper()
	must(0, state.Update(w.ctx, w.store(), ledger.AliasName(alias), func(doc *ledger.Alias, _ bool) error {
		for i := range doc.History {
			doc.History[i].Known = false
		}
		return nil
	}))
}

// message is a message on its way: it comes back as often as it has to wait.
type message struct {
	*world
	body   string
	sent   time.Time
	sender string
}

func (w *world) message(body string) *message {
	return &message{world: w, body: body, sent: time.Now()}
}

// once handles the message once, and reports whether it waits.
func (m *message) once() (waits bool) {
	m.t.Helper()
	switch d := outcome.Of(m.router.Handle(m.ctx, handlers.Message{Body: []byte(m.body), Sent: m.sent, Sender: m.sender})); d.Action {
	case outcome.Delete:
		return false
	case outcome.Delay:
		return true
	default:
		m.t.Fatalf("the message fails: %v", d.Err)
		return false
	}
}

// over handles the message until it is done, and returns how long that took.
func (m *message) over() time.Duration {
	m.t.Helper()
	start := time.Now()
	for m.once() {
		time.Sleep(20 * time.Second)
		if time.Since(start) > time.Hour {
			m.t.Fatal("the message waits for ever")
		}
	}
	return time.Since(start)
}

// forged is the body of a message that nobody but its sender vouches for.
type forged struct {
	name, key, alias, principal string
	at                          time.Time
	id                          string
	request                     map[string]any
	errorCode                   string
}

var forgeries int

func (f forged) body() string {
	if f.id == "" {
		forgeries++
		f.id = fmt.Sprintf("f0f0f0f0-0000-4000-8000-%012d", forgeries)
	}
	if f.at.IsZero() {
		f.at = time.Now()
	}
	if f.principal == "" {
		f.principal = "user/mallory"
	}
	identity := map[string]any{"type": "IAMUser", "arn": "arn:aws:iam::" + account + ":" + f.principal, "accountId": account, "userName": strings.TrimPrefix(f.principal, "user/")}
	if role, ok := strings.CutPrefix(f.principal, "role/"); ok {
		identity = map[string]any{"type": "AssumedRole", "arn": "arn:aws:sts::" + account + ":assumed-role/" + role + "/s", "accountId": account,
			"sessionContext": map[string]any{"sessionIssuer": map[string]any{"type": "Role", "arn": "arn:aws:iam::" + account + ":role/" + role}}}
	}
	request := f.request
	if request == nil {
		request = map[string]any{}
	}
	if f.key != "" {
		request["keyId"] = f.key
	}
	if f.alias != "" {
		request["aliasName"] = f.alias
		request["targetKeyId"] = f.key
	}
	at := f.at.UTC().Format(time.RFC3339)
	detail := map[string]any{
		"eventVersion": "1.11", "eventType": "AwsApiCall", "eventSource": "kms.amazonaws.com", "eventName": f.name, "eventTime": at,
		"awsRegion": region, "recipientAccountId": account, "eventID": f.id, "requestID": "forged", "userIdentity": identity,
		"requestParameters": request, "resources": []map[string]any{{"ARN": f.key, "type": "AWS::KMS::Key", "accountId": account}},
	}
	if f.errorCode != "" {
		detail["errorCode"] = f.errorCode
	}
	return string(must(json.Marshal(map[string]any{
		"version": "0", "id": f.id, "detail-type": "AWS API Call via CloudTrail", "source": "aws.kms", "account": account, "region": region, "time": at, "detail": detail,
	})))
}

// showing returns the alerts of which a text is part.
func showing(alerts []alert.Alert, part string) []alert.Alert {
	return slices.DeleteFunc(slices.Clone(alerts), func(a alert.Alert) bool { return !strings.Contains(a.Text(), part) })
}

// One message said "UpdateAlias alias/app-orders → K3, an hour ago", and the objects
// under K3 were re-encrypted to the alias's key.
func TestForgedAliasMove(t *testing.T) {
	var a, k3 string
	inOpenWorld(t, enforceAll(), func(w *world) {
		a, k3 = w.knownKey(listed), w.newKey(kms.CreateKeyInput{})
		w.bucket("orders-data", listed)
		w.sweep()
	}, func(w *world) {
		m := w.message(forged{name: "UpdateAlias", key: k3, alias: listed, at: time.Now().Add(-time.Hour)}.body())
		if !m.once() {
			t.Error("it does not wait for CloudTrail")
		}
		w.none()
		if took := m.over(); took < 14*time.Minute || took > 17*time.Minute {
			t.Errorf("it waited for %s", took)
		}
		w.wantStarted()
		if got := w.one(); got.Action.Status != alert.StatusRefused || !strings.Contains(got.Title, "CloudTrail does not show") || !strings.Contains(got.Text(), "EventId") {
			t.Errorf("alert:\n%s", got.Text())
		}
		// And a real move moves what it is about, at once.
		b := w.newKey(kms.CreateKeyInput{})
		w.updateAlias(listed, b)
		for _, body := range w.events() {
			w.message(body).once()
		}
		w.wantStarted(fmt.Sprintf("app-orders %s -> %s in [{orders-data }]", short(a), short(b)))
	})
}

// A forged DeleteAlias names a key that the alias never had.
func TestForgedDeleteAlias(t *testing.T) {
	var a, k3 string
	inOpenWorld(t, enforceAll(), func(w *world) {
		a, k3 = w.knownKey(listed), w.newKey(kms.CreateKeyInput{})
		w.bucket("orders-data", a)
		w.tag("orders-data", listed)
		w.sweep()
	}, func(w *world) {
		w.deleteAlias(listed)
		real := w.event("DeleteAlias")
		w.message(forged{name: "DeleteAlias", key: k3, alias: listed, at: time.Now().Add(59 * time.Second)}.body()).over()
		w.message(real).over()
		b := w.newKey(kms.CreateKeyInput{})
		w.createAlias(listed, b)
		for _, body := range w.events() {
			w.message(body).once()
		}
		w.wantStarted(fmt.Sprintf("app-orders %s -> %s in [{orders-data }]", short(a), short(b)))
	})
}

// A→B→C within a second: A moves at once; B, which nobody has read, follows when
// CloudTrail shows it.
func TestAliasThatMovesTwiceAtOnce(t *testing.T) {
	var a, b, c string
	inOpenWorld(t, enforceAll(), func(w *world) {
		a, b, c = w.knownKey(listed), w.newKey(kms.CreateKeyInput{}), w.newKey(kms.CreateKeyInput{})
		w.bucket("orders-data", listed)
		w.sweep()
	}, func(w *world) {
		w.updateAlias(listed, b)
		must(w.kms.UpdateAlias(w.ctx, &kms.UpdateAliasInput{AliasName: aws.String(listed), TargetKeyId: &c}))
		bodies := w.events()
		start := time.Now()
		var messages []*message
		for _, body := range bodies {
			messages = append(messages, w.message(body))
		}
		var waiting []*message
		for len(messages) > 0 {
			m := messages[0]
			if messages = messages[1:]; m.once() {
				waiting = append(waiting, m)
			}
		}
		for range 10 { // of two changes within a second it does not show at once which was first
			if len(w.moves.moves) > 0 {
				break
			}
			time.Sleep(20 * time.Second)
			for _, m := range waiting {
				m.once()
			}
		}
		w.wantStarted(fmt.Sprintf("app-orders %s -> %s in [{orders-data }]", short(a), short(c)))
		if took := time.Since(start); took > 2*time.Minute {
			t.Errorf("A moved after %s", took)
		}
		for _, m := range waiting {
			m.over()
		}
		w.wantStarted(fmt.Sprintf("app-orders %s -> %s in [{orders-data }]", short(b), short(c)))
		if took := time.Since(start); took < late || took > 2*late {
			t.Errorf("B followed after %s", took)
		}
	})
}

// A move away from a key that was read asks CloudTrail nothing and starts at once, also
// where an earlier build has kept the history.
func TestAliasMoveFromKnownKey(t *testing.T) {
	for name, upgraded := range map[string]bool{"own state": false, "upgraded state": true} {
		t.Run(name, func(t *testing.T) {
			var a string
			inOpenWorld(t, enforceAll(), func(w *world) {
				a = w.knownKey(listed)
				w.bucket("orders-data", listed)
				w.sweep()
			}, func(w *world) {
				if upgraded {
					w.forgetVerified(listed)
					if err := w.router.Snapshot(w.ctx); err != nil {
						t.Fatal(err)
					}
				}
				before := w.aws.Requests("cloudtrail", "LookupEvents")
				b := w.newKey(kms.CreateKeyInput{})
				w.updateAlias(listed, b)
				for _, body := range w.events() {
					if m := w.message(body); m.once() {
						t.Errorf("a message waits: %.200s", body)
					}
				}
				w.wantStarted(fmt.Sprintf("app-orders %s -> %s in [{orders-data }]", short(a), short(b)))
				time.Sleep(time.Minute)
				if n := w.aws.Requests("cloudtrail", "LookupEvents") - before; n != 0 {
					t.Errorf("%d look-ups", n)
				}
			})
		})
	}
}

// A forged DisableKeyRotation made rotation start on a key that never rotated.
func TestForgedDisableKeyRotation(t *testing.T) {
	t.Run("never read", func(t *testing.T) {
		inOpenWorld(t, enforceAll(), func(*world) {}, func(w *world) {
			key := w.newKey(kms.CreateKeyInput{})
			w.events() // its CreateKey is lost
			m := w.message(forged{name: "DisableKeyRotation", key: key}.body())
			m.once()
			if got := w.one(); got.Severity != finding.High || got.Action.Status != alert.StatusRefused || !got.Actor.Unconfirmed {
				t.Errorf("alert:\n%s", got.Text())
			}
			m.over()
			if w.rotation(key) != 0 {
				t.Error("rotation was turned on")
			}
			if got := w.one(); !strings.Contains(got.Action.Description, "did not show") || !strings.Contains(got.Text(), "enable-key-rotation") {
				t.Errorf("alert:\n%s", got.Text())
			}
		})
	})
	t.Run("never on", func(t *testing.T) {
		inOpenWorld(t, enforceAll(), func(*world) {}, func(w *world) {
			key := w.newKey(kms.CreateKeyInput{})
			w.message(w.event("CreateKey")).over()
			w.message(forged{name: "DisableKeyRotation", key: key}.body()).over()
			if w.rotation(key) != 0 {
				t.Error("rotation was turned on")
			}
		})
	})
	t.Run("a longer period than allowed", func(t *testing.T) {
		inOpenWorld(t, enforceAll(), func(*world) {}, func(w *world) {
			key := w.newKey(kms.CreateKeyInput{})
			w.enableRotation(key, 700)
			w.events()
			w.message(forged{name: "EnableKeyRotation", key: key, request: map[string]any{"rotationPeriodInDays": 700}}.body()).over()
			if w.rotation(key) != 700 {
				t.Errorf("the period is %d days", w.rotation(key))
			}
		})
	})
	t.Run("read while it was on", func(t *testing.T) {
		inOpenWorld(t, enforceAll(), func(*world) {}, func(w *world) {
			key := w.newKey(kms.CreateKeyInput{})
			w.enableRotation(key, 180)
			for _, body := range w.events() {
				w.message(body).over()
			}
			w.told.take()
			w.disableRotation(key)
			if w.message(w.event("DisableKeyRotation")).once() {
				t.Error("it waits")
			}
			if w.rotation(key) != 180 {
				t.Error("rotation was not turned on at once")
			}
			if got := w.one(); got.Action.Status != alert.StatusDone || !strings.Contains(got.Summary, "(unconfirmed)") {
				t.Errorf("alert:\n%s", got.Text())
			}
		})
	})
}

// A key that was never read waits with its write, and is repaired when CloudTrail shows
// the call.
func TestDisableKeyRotationConfirmed(t *testing.T) {
	inOpenWorld(t, enforceAll(), func(*world) {}, func(w *world) {
		key := w.newKey(kms.CreateKeyInput{})
		w.enableRotation(key, 180)
		w.events() // lost
		w.disableRotation(key)
		m := w.message(w.event("DisableKeyRotation"))
		m.once()
		if got := w.one(); got.Action.Status != alert.StatusRefused {
			t.Errorf("alert:\n%s", got.Text())
		}
		if took := m.over(); took > late+2*time.Minute {
			t.Errorf("repaired after %s", took)
		}
		if w.rotation(key) == 0 {
			t.Error("rotation is still off")
		}
		if got := w.one(); got.Action.Status != alert.StatusDone || got.Actor.Unconfirmed || strings.Contains(got.ID, "~") {
			t.Errorf("alert:\n%s", got.Text())
		}
	})
}

// A forged PutKeyPolicy by an exempt role came just before the real one, whose policy then
// counted as drifted and stayed open.
func TestForgedPutKeyPolicy(t *testing.T) {
	var key string
	c := exempting(t, "policy by role/deploy until 2000-01-20: the pipeline")
	c.Policy = reaction.Enforce
	for name, f := range map[string]forged{
		"by an exempt role":  {name: "PutKeyPolicy", principal: "role/deploy", request: map[string]any{"policy": takeover, "policyName": "default"}},
		"without its policy": {name: "PutKeyPolicy", principal: "role/deploy"},
		"as CreateKey":       {name: "CreateKey"},
	} {
		t.Run(name, func(t *testing.T) {
			inOpenWorld(t, c, func(w *world) { key = w.guardedKey() }, func(w *world) {
				w.putPolicy(key, takeover)
				real := w.event("PutKeyPolicy")
				f.key = key
				first := w.message(f.body())
				first.once()
				if f.principal != "" {
					w.wantPolicy(key, takeover) // an actor who may do it holds the write up
					if got := showing(w.told.take(), "exempt"); len(got) != 1 || got[0].Severity != finding.Critical || !got[0].Actor.Unconfirmed {
						t.Errorf("alerts:\n%s", texts(got))
					}
				}
				w.message(real).once()
				w.wantPolicy(key, rootOnly)
				first.over()
				w.wantPolicy(key, rootOnly)
			})
		})
	}
}

// A change by an actor who may make it is left alone until CloudTrail shows the actor:
// then it is resolved.
func TestExemptActorConfirmed(t *testing.T) {
	var key string
	c := exempting(t, "deletion, policy by role/deploy until 2000-01-20: the pipeline")
	c.Policy = reaction.Enforce
	inOpenWorld(t, c, func(w *world) { key = w.guardedKey() }, func(w *world) {
		time.Sleep(2 * time.Second)
		must(w.as("deploy").PutKeyPolicy(w.ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: aws.String(takeover)}))
		m := w.message(w.event("PutKeyPolicy"))
		if !m.once() {
			t.Error("it does not wait")
		}
		if got := w.one(); got.Severity != finding.Critical || got.Action.Status != alert.StatusRefused {
			t.Errorf("alert:\n%s", got.Text())
		}
		m.over()
		w.wantPolicy(key, takeover)
		w.leftAlone("the pipeline")
	})
}

// Whoever claims to be such an actor gains nothing but a quarter of an hour, and no quiet.
func TestExemptActorForged(t *testing.T) {
	var key string
	c := exempting(t, "deletion by role/break-glass until 2000-01-20: the drill")
	inOpenWorld(t, c, func(w *world) { key = w.knownKey("alias/orders"); w.sweep() }, func(w *world) {
		w.scheduleDeletion(key)
		w.events() // the real one is late
		m := w.message(forged{name: "ScheduleKeyDeletion", key: key, principal: "role/break-glass"}.body())
		m.once()
		if got := w.one(); got.Severity != finding.Critical || got.Action.Status != alert.StatusRefused || w.state(key) != "PendingDeletion" {
			t.Errorf("state %s, alert:\n%s", w.state(key), got.Text())
		}
		m.over()
		if w.state(key) != "Enabled" {
			t.Errorf("the key is %s", w.state(key))
		}
		if got := w.one(); got.Severity != finding.Critical || got.Action.Status != alert.StatusDone {
			t.Errorf("alert:\n%s", got.Text())
		}
	})
}

// The deletion of a key that was never read is cancelled when CloudTrail shows the call.
func TestDeletionOfUnknownKey(t *testing.T) {
	for name, real := range map[string]bool{"real": true, "forged": false} {
		t.Run(name, func(t *testing.T) {
			var key string
			inOpenWorld(t, enforceAll(), func(*world) {}, func(w *world) {
				key = w.newKey(kms.CreateKeyInput{})
				w.events()
				w.scheduleDeletion(key)
				body := w.event("ScheduleKeyDeletion")
				if !real {
					body = forged{name: "ScheduleKeyDeletion", key: key}.body()
				}
				m := w.message(body)
				m.once()
				if got := w.one(); got.Severity != finding.Critical || got.Action.Status != alert.StatusRefused || w.state(key) != "PendingDeletion" {
					t.Errorf("state %s, alert:\n%s", w.state(key), got.Text())
				}
				m.over()
				want, status := "PendingDeletion", alert.StatusRefused
				if real {
					want, status = "Disabled", alert.StatusDone
				}
				if got := w.one(); got.Action.Status != status || w.state(key) != want {
					t.Errorf("state %s, alert:\n%s", w.state(key), got.Text())
				}
			})
		})
	}
}

// A forged event with a known event id swallowed the real one's alert.
func TestForgedEventID(t *testing.T) {
	var key string
	inOpenWorld(t, enforceAll(), func(w *world) { key = w.knownKey("alias/orders"); w.sweep() }, func(w *world) {
		w.scheduleDeletion(key)
		real := w.event("ScheduleKeyDeletion")
		var id struct{ Detail struct{ EventID string } }
		must(0, json.Unmarshal([]byte(real), &id))
		w.message(forged{name: "ScheduleKeyDeletion", key: key, id: id.Detail.EventID, principal: "user/bob"}.body()).over()
		if got := w.one(); got.Action.Status != alert.StatusDone || !strings.Contains(got.Summary, "bob (IAM user in "+account+") (unconfirmed)") {
			t.Errorf("alert:\n%s", got.Text())
		}
		w.message(real).over()
		if got := w.one(); !strings.Contains(got.Summary, "mallory") {
			t.Errorf("alert:\n%s", got.Text())
		}
	})
}

// Forged refused calls silenced the real ones of that actor.
func TestForgedRefusedCalls(t *testing.T) {
	var key string
	inOpenWorld(t, enforceAll(), func(w *world) { key = w.knownKey("alias/orders") }, func(w *world) {
		var messages []*message
		for range 5 {
			m := w.message(forged{name: "ScheduleKeyDeletion", key: key, principal: "user/alice", errorCode: "AccessDenied"}.body())
			m.once()
			messages = append(messages, m)
		}
		if got := w.one(); !got.Actor.Unconfirmed {
			t.Errorf("alert:\n%s", got.Text())
		}
		w.record("kms", "ScheduleKeyDeletion", `"errorCode":"AccessDenied","resources":[{"ARN":"`+key+`"}],"userIdentity":{"type":"IAMUser","arn":"arn:aws:iam::`+account+`:user/alice","accountId":"`+account+`","userName":"alice"}`)
		m := w.message(w.event("ScheduleKeyDeletion"))
		m.over()
		if got := w.one(); got.Actor.Unconfirmed || !strings.Contains(got.Title, "alice") {
			t.Errorf("alert:\n%s", got.Text())
		}
		for _, m := range messages {
			m.over()
		}
		w.none()
	})
}

// A pipeline that only a message names lowers nothing until CloudTrail shows it.
func TestClaimedPipeline(t *testing.T) {
	var key string
	c := enforceAll()
	c.Policy = reaction.Observe
	c.Rules.Pipelines = []judgement.Principals{must(judgement.ParsePrincipals("role/deploy"))}
	inOpenWorld(t, c, func(w *world) { key = w.guardedKey() }, func(w *world) {
		time.Sleep(2 * time.Second)
		widened := strings.Replace(rootOnly, `"Statement":[`, `"Statement":[{"Sid":"x","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::`+account+`:role/app"},"Action":"kms:Decrypt","Resource":"*"},`, 1)
		must(w.as("deploy").PutKeyPolicy(w.ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: &widened}))
		m := w.message(w.event("PutKeyPolicy"))
		m.over()
		got := w.told.take()
		for _, a := range got {
			if a.Actor.Unconfirmed && len(showing([]alert.Alert{a}, "a known pipeline did it")) > 0 {
				t.Errorf("lowered:\n%s", a.Text())
			}
		}
		if len(got) == 0 {
			t.Error("nothing was told")
		}
		must(w.as("deploy").ScheduleKeyDeletion(w.ctx, &kms.ScheduleKeyDeletionInput{KeyId: &key, PendingWindowInDays: aws.Int32(7)}))
		m = w.message(w.event("ScheduleKeyDeletion"))
		m.once()
		first := w.one()
		m.over()
		second := w.one()
		if first.Severity != finding.Critical || !first.Actor.Unconfirmed || second.Severity.AtLeast(first.Severity) || second.Actor.Unconfirmed {
			t.Errorf("alerts:\n%s\n%s", first.Text(), second.Text())
		}
	})
}

// Containment: an allowed actor holds it up, and what was not read before waits.
func TestClaimedOpening(t *testing.T) {
	t.Run("allowed", func(t *testing.T) {
		var key string
		c := containing(t)
		c.ContainInUse = true
		inOpenWorld(t, c, func(w *world) { key = w.knownKey("alias/orders"); w.sweep() }, func(w *world) {
			w.putPolicy(key, public)
			w.events() // late
			m := w.message(forged{name: "PutKeyPolicy", key: key, principal: "role/key-admin", request: map[string]any{"policy": public, "policyName": "default"}}.body())
			m.once()
			if got := w.one(); got.Action.Status != alert.StatusRefused || got.Severity != finding.Critical {
				t.Errorf("alert:\n%s", got.Text())
			}
			w.wantState(key, "Enabled")
			m.over()
			w.wantState(key, "Disabled")
		})
	})
	t.Run("never read", func(t *testing.T) {
		c := containing(t)
		c.ContainInUse = true
		inOpenWorld(t, c, func(*world) {}, func(w *world) {
			key := w.newKey(kms.CreateKeyInput{Policy: aws.String(public)})
			w.events()
			m := w.message(forged{name: "PutKeyPolicy", key: key, request: map[string]any{"policy": public, "policyName": "default"}}.body())
			m.over()
			w.wantState(key, "Enabled")
			if got := w.told.take(); len(showing(got, "did not show the call")) != 1 {
				t.Errorf("alerts:\n%s", texts(got))
			}
		})
	})
	t.Run("read and closed before", func(t *testing.T) {
		var key string
		c := containing(t)
		c.ContainInUse = true
		inOpenWorld(t, c, func(w *world) { key = w.knownKey("alias/orders"); w.sweep() }, func(w *world) {
			w.putPolicy(key, public)
			w.message(w.event("PutKeyPolicy")).once()
			w.wantState(key, "Disabled")
		})
	})
}

// Where the queue's policy lets nobody else send, a message of the sender that CloudTrail
// has confirmed is a record at once.
func TestSenderThatIsConfirmed(t *testing.T) {
	c := enforceAll()
	c.EventRules = []string{"kms", "guard", "batch"}
	inOpenWorld(t, c, func(w *world) { w.knownKey("alias/orders"); w.sweep() }, func(w *world) {
		arn := "arn:aws:sqs:" + region + ":" + account + ":events"
		policy := func(deny string) {
			t.Helper()
			must(w.sqs.SetQueueAttributes(w.ctx, &sqs.SetQueueAttributesInput{QueueUrl: &w.queue, Attributes: map[string]string{
				"Policy": `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"` + arn + `"}` + deny + `]}`,
			}}))
			w.events()
		}
		const scope = ":" + region + ":" + account + ":"
		closed := `,{"Effect":"Deny","Principal":"*","Action":"sqs:SendMessage","Resource":"` + arn + `","Condition":{"ArnNotLike":{"aws:SourceArn":["arn:aws:events` + scope + `rule/kms","arn:aws:events` + scope + `rule/guard","arn:aws:events` + scope + `rule/batch"],"aws:PrincipalArn":"arn:aws:iam::` + account + `:role/cmkeeper"}}}`
		policy(closed)
		senders := func(d *reaction.Deps) {
			d.Senders = &handlers.QueueSenders{
				Policy: worker.Policy(sqs.NewFromConfig(w.keeperConfig()), w.queue), QueueARN: arn,
				Identity: c.Identity, Rules: c.EventRules, State: d.State, Logger: slog.New(slog.DiscardHandler),
			}
		}
		w.quit()
		w.distrust(c, senders)
		impostor := ""
		// isRecord has rotation turned off, and reports whether that is repaired at once.
		isRecord := func() bool {
			t.Helper()
			w.told.take()
			key := w.newKey(kms.CreateKeyInput{})
			w.enableRotation(key, 180)
			w.events() // lost: nothing was read of the key
			w.disableRotation(key)
			m := w.message(w.event("DisableKeyRotation"))
			m.sender = cmp.Or(impostor, w.sender)
			m.once()
			return w.rotation(key) != 0 && !strings.Contains(w.one().Summary, "unconfirmed")
		}
		if isRecord() {
			t.Error("a message counts as a record before CloudTrail has confirmed one of its sender")
		}
		time.Sleep(late + time.Minute)
		isRecord() // finds that the former one is confirmed
		time.Sleep(2 * time.Second)
		if !isRecord() {
			t.Error("a message does not count as a record of the sender that is known")
		}
		w.quit()
		w.distrust(c, senders)
		if !isRecord() {
			t.Error("another worker does not know the sender")
		}
		impostor = "AIDASOMEBODY"
		if isRecord() {
			t.Error("a message of another sender counts as a record")
		}
		impostor = ""
		policy("")
		time.Sleep(2 * time.Minute)
		if isRecord() {
			t.Error("a message counts as a record although anybody may send")
		}
	})
}

// The forgeries together, as whoever can send to the queue sends them, at a worker in mode
// enforce: nothing is written and nothing moves, each that says something is told as
// unconfirmed, none waits for ever, and a real deletion among them is undone at once.
func TestForgedMessagesAtAWorker(t *testing.T) {
	c := exempting(t, "deletion by role/break-glass until 2000-01-20: the drill")
	c.Policy, c.Contain, c.ContainInUse = reaction.Enforce, reaction.Enforce, true
	var orders, k3, unread string
	inOpenWorld(t, c, func(w *world) {
		orders, k3 = w.knownKey(listed), w.newKey(kms.CreateKeyInput{})
		w.bucket("orders-data", listed)
		w.react()
		w.sweep()
	}, func(w *world) {
		unread = w.newKey(kms.CreateKeyInput{Policy: aws.String(public)})
		w.events() // its CreateKey is lost
		const dlq = "events-dlq"
		must(w.sqs.CreateQueue(w.ctx, &sqs.CreateQueueInput{QueueName: aws.String(dlq)}))
		must(w.sqs.SetQueueAttributes(w.ctx, &sqs.SetQueueAttributesInput{QueueUrl: &w.queue, Attributes: map[string]string{
			"RedrivePolicy":     `{"deadLetterTargetArn":"arn:aws:sqs:` + region + `:` + account + `:` + dlq + `","maxReceiveCount":"10"}`,
			"VisibilityTimeout": "30",
		}}))
		w.events()
		ctx, stop := context.WithCancel(w.ctx)
		pool := must(worker.New(ctx, sqs.NewFromConfig(w.keeperConfig()), worker.HandlerFunc(func(ctx context.Context, m worker.Message) error {
			return w.router.Handle(ctx, handlers.Message{Body: []byte(m.Body), Sent: m.Sent, Sender: m.Sender})
		}), worker.Options{QueueURL: w.queue, Concurrency: 8, Sender: "AROAKEEPER:worker-1"}))
		ended := make(chan struct{})
		go func() { defer close(ended); _ = pool.Run(ctx) }()
		defer func() { stop(); <-ended }()

		var wrote []string
		defer w.aws.Observe(func(q localaws.Request) {
			if q.Service == "kms" && slices.Contains(changes, q.Operation) && q.Caller.AccessKeyID == keeperKey {
				wrote = append(wrote, q.Operation)
			}
		})()
		ten := map[string]sqstypes.MessageAttributeValue{}
		for i := range 9 {
			ten[fmt.Sprint("a", i)] = sqstypes.MessageAttributeValue{DataType: aws.String("String"), StringValue: aws.String("x")}
		}
		ten["cmkeeper-first-sent"] = sqstypes.MessageAttributeValue{DataType: aws.String("Number"), StringValue: aws.String("1")}
		opened := map[string]any{"policy": public, "policyName": "default"}
		for _, f := range []forged{
			{name: "UpdateAlias", key: k3, alias: listed, at: time.Now().Add(-time.Hour)},
			{name: "UpdateAlias", key: k3, alias: listed, at: time.Now().AddDate(99, 0, 0)},
			{name: "DeleteAlias", key: k3, alias: "alias/app-later", at: time.Now().AddDate(99, 0, 0)},
			{name: "DisableKeyRotation", key: unread},
			{name: "EnableKeyRotation", key: k3, request: map[string]any{"rotationPeriodInDays": 2000}},
			{name: "PutKeyPolicy", key: unread, request: opened},
			{name: "PutKeyPolicy", key: orders, request: opened},
			{name: "ScheduleKeyDeletion", key: orders, principal: "role/break-glass"},
			{name: "DisableKey", key: k3, at: time.Now().Add(-time.Hour)},
			{name: "ScheduleKeyDeletion", key: k3, errorCode: "AccessDenied"},
			{name: "ScheduleKeyDeletion", key: k3, errorCode: "AccessDenied"},
		} {
			body := f.body()
			must(w.sqs.SendMessage(w.ctx, &sqs.SendMessageInput{QueueUrl: &w.queue, MessageBody: &body}))
			must(w.sqs.SendMessage(w.ctx, &sqs.SendMessageInput{QueueUrl: &w.queue, MessageBody: &body, MessageAttributes: ten}))
		}
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if len(wrote) > 0 {
			t.Errorf("cmkeeper called %q", wrote)
		}
		w.wantStarted()
		for _, a := range w.told.take() {
			if a.Kind != alert.KindTag && (a.Actor == nil || !a.Actor.Unconfirmed) {
				t.Errorf("an alert that is not marked as unconfirmed:\n%s", a.Text())
			}
		}

		w.scheduleDeletion(orders)
		time.Sleep(2 * time.Second)
		if w.state(orders) != "Enabled" {
			t.Errorf("after a real deletion the key is %s", w.state(orders))
		}
		if got := showing(w.told.take(), "Deletion of key"); len(got) != 1 || got[0].Action.Status != alert.StatusDone {
			t.Errorf("alerts:\n%s", texts(got))
		}
	})
}
