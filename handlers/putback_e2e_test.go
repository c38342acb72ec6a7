package handlers_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

const (
	takeover = `{"Version":"2012-10-17","Statement":[{"Sid":"root","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"},` +
		`{"Sid":"oops","Effect":"Allow","Principal":"*","Action":["kms:CreateGrant"],"Resource":"*"}]}`
	foreignReader = `{"Version":"2012-10-17","Statement":[{"Sid":"root","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"},` +
		`{"Sid":"stranger","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::999988887777:role/x"},"Action":["kms:Decrypt"],"Resource":"*"}]}`
	withReader = `{"Version":"2012-10-17","Statement":[{"Sid":"root","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"},` +
		`{"Sid":"reader","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:role/reader"},"Action":["kms:Decrypt"],"Resource":"*"}]}`
)

// enforcePolicies is enforceAll that puts policies back, too.
func enforcePolicies() reaction.Config {
	c := enforceAll()
	c.Policy = reaction.Enforce
	return c
}

// livePolicy is the policy that a key has.
func (w *world) livePolicy(key string) string {
	w.t.Helper()
	return *must(w.kms.GetKeyPolicy(w.ctx, &kms.GetKeyPolicyInput{KeyId: &key, PolicyName: aws.String("default")})).Policy
}

// guardedKey is a key whose good policy is rootOnly, and recorded.
func (w *world) guardedKey() string {
	w.t.Helper()
	key := w.knownKey("alias/orders")
	w.putPolicy(key, rootOnly)
	w.react()
	w.sweep()
	w.told.take()
	return key
}

// wantPolicy fails the test unless the key has exactly this policy.
func (w *world) wantPolicy(key, want string) {
	w.t.Helper()
	if got := w.livePolicy(key); got != want {
		w.t.Errorf("the policy is %s\nwant %s", got, want)
	}
}

// store is the state bucket, as people's commands use it.
func (w *world) store() *state.Store {
	return state.New(s3.NewFromConfig(inprocess.Config(w.aws, region, "alice"), func(o *s3.Options) { o.UsePathStyle = true }), stateBucket, "cmkeeper/", account)
}

// accept accepts a policy as alice.
func (w *world) accept(key, document string) {
	w.t.Helper()
	must(ledger.AcceptPolicy(w.ctx, w.store(), key, document, "arn:aws:iam::"+account+":user/alice"))
}

// putPolicyAs sets a policy as somebody else than mallory.
func (w *world) putPolicyAs(user, key, document string) {
	w.t.Helper()
	must(kms.NewFromConfig(inprocess.Config(w.aws, region, user)).PutKeyPolicy(w.ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: &document}))
}

// refused fails the test unless the alert says that the policy was left, and why.
func refused(t *testing.T, a alert.Alert, why string) {
	t.Helper()
	if a.Action.Status != alert.StatusRefused || !strings.Contains(a.Action.Description, why) || !strings.Contains(a.Text(), "cmkeeper policy baseline accept") {
		t.Errorf("alert does not say %q:\n%s", why, a.Text())
	}
}

func TestPolicyIsPutBack(t *testing.T) {
	inWorld(t, enforcePolicies(), func(w *world) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		w.react()
		w.wantPolicy(key, rootOnly)
		a := w.one()
		if a.Severity != finding.Critical || a.Action.Status != alert.StatusDone || !strings.Contains(findingIDs(a), "public-principal") || !strings.Contains(a.Summary, "mallory") {
			t.Errorf("alert:\n%s", a.Text())
		}
		if got := facts(a, "difference from the last recorded policy"); !strings.Contains(got, "added") || !strings.Contains(got, "kms:CreateGrant") {
			t.Errorf("difference %q", got)
		}
		id := key[len(key)-36:]
		for _, want := range []string{"cmkeeper policy diff baseline:" + id + "@", "cmkeeper policy baseline accept " + id + "@", "--state-bucket keeper-state"} {
			if !strings.Contains(strings.Join(a.Next, "\n"), want) {
				t.Errorf("next has no %q:\n%s", want, strings.Join(a.Next, "\n"))
			}
		}
		w.sweep()
		w.none()
		// What is put back is what is recorded, and what was taken away is kept.
		base := must(ledger.ReadBaseline(w.ctx, w.store(), key))
		good, _ := base.Good()
		last := base.Versions[len(base.Versions)-1]
		if good.Document != rootOnly || !last.Taken || last.Document != takeover || !strings.Contains(last.Actor, "mallory") {
			t.Errorf("baseline: %+v", base)
		}
	})
}

func TestPolicyIsPutBackFromASeverityOn(t *testing.T) {
	inWorld(t, enforcePolicies(), func(w *world) {
		key := w.guardedKey()
		w.putPolicy(key, foreignReader) // high
		w.react()
		w.wantPolicy(key, foreignReader)
		if a := w.one(); a.Action.Status != alert.StatusNone || !strings.Contains(a.Action.Description, "critical or above") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
	c := enforcePolicies()
	c.RestoreSeverity = finding.High
	inWorld(t, c, func(w *world) {
		key := w.guardedKey()
		w.putPolicy(key, foreignReader)
		w.react()
		w.wantPolicy(key, rootOnly)
	})
}

func TestPutBackObserved(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		w.react()
		w.wantPolicy(key, takeover)
		a := w.one()
		if a.Action.Status != alert.StatusWouldDo || !strings.Contains(a.Action.Description, "Would restore the policy of") || !strings.Contains(strings.Join(a.Next, "\n"), "put-key-policy") {
			t.Errorf("alert:\n%s", a.Text())
		}
		// What was left in mode observe is not undone later, nor is what comes on top of it.
		w.router = w.newRouter(enforcePolicies())
		w.sweep()
		w.none()
		w.putPolicy(key, strings.ReplaceAll(takeover, "kms:CreateGrant", "kms:ScheduleKeyDeletion"))
		w.react()
		refused(t, w.one(), "would undo more than this change")
	})
}

// A harmless change becomes the policy that is put back.
func TestGoodChangeIsTheNewBaseline(t *testing.T) {
	inWorld(t, enforcePolicies(), func(w *world) {
		key := w.guardedKey()
		w.putPolicy(key, withReader)
		w.react()
		w.putPolicy(key, takeover)
		w.react()
		w.wantPolicy(key, withReader)
	})
}

func TestPutBackNeedsAGoodPolicy(t *testing.T) {
	inWorld(t, enforcePolicies(), func(w *world) {
		key := w.newKey(kms.CreateKeyInput{Policy: aws.String(takeover)})
		w.react()
		w.told.take()
		w.putPolicy(key, strings.ReplaceAll(takeover, "kms:CreateGrant", "kms:ScheduleKeyDeletion"))
		w.react()
		refused(t, w.one(), "no good policy of this key is recorded")
	})
}

func TestPolicyOfTheSameActorIsPutBackOnce(t *testing.T) {
	inWorld(t, enforcePolicies(), func(w *world) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		w.react()
		w.told.take()
		w.putPolicyAs("bob", key, takeover)
		w.react()
		w.wantPolicy(key, rootOnly)
		if a := w.one(); a.Action.Status != alert.StatusDone || !strings.Contains(a.Summary, "bob") {
			t.Errorf("alert:\n%s", a.Text())
		}
		if v := must(ledger.ReadBaseline(w.ctx, w.store(), key)).Versions; len(v) != 4 || !strings.Contains(v[3].Actor, "bob") {
			t.Errorf("what was taken away twice is recorded as %+v", v)
		}

		w.putPolicy(key, takeover)
		w.react()
		w.wantPolicy(key, takeover)
		refused(t, w.one(), "by the same actor")
		w.sweep()
		w.none()

		// A human puts it back and says that this is how it should be.
		w.putPolicyAs("alice", key, rootOnly)
		w.react()
		w.told.take()
		w.accept(key, rootOnly)
		w.sweep()
		if a := w.one(); a.Severity != finding.Info || !strings.Contains(a.Title, "was accepted by arn:aws:iam::"+account+":user/alice") {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.putPolicy(key, takeover)
		w.react()
		w.wantPolicy(key, rootOnly)
	})
}

func TestPutBackStopsAtTheFlappingLimit(t *testing.T) {
	c := enforcePolicies()
	c.FlapLimit = 2
	inWorld(t, c, func(w *world) {
		key := w.guardedKey()
		for _, user := range []string{"ann", "bob"} {
			w.putPolicyAs(user, key, takeover)
			w.react()
			w.wantPolicy(key, rootOnly)
		}
		w.told.take()
		w.putPolicyAs("carol", key, takeover)
		w.react()
		w.wantPolicy(key, takeover)
		refused(t, w.one(), "so many actors")
	})
}

func TestAcceptedPolicyIsNotTakenAway(t *testing.T) {
	inWorld(t, enforcePolicies(), func(w *world) {
		key := w.guardedKey()
		w.accept(key, takeover)
		w.putPolicy(key, takeover)
		w.react()
		w.wantPolicy(key, takeover)
		if a := w.one(); a.Severity != finding.Medium || !strings.Contains(a.Title, "was accepted") || !strings.Contains(findingIDs(a), "public-principal") {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.sweep()
		w.none()
		// It is the good one now: what is worse is taken away, and it comes back.
		w.putPolicyAs("bob", key, strings.ReplaceAll(takeover, `"kms:CreateGrant"`, `"kms:CreateGrant","kms:ScheduleKeyDeletion"`))
		w.react()
		w.wantPolicy(key, takeover)
		w.told.take()
		// The acceptance is of that document, not of its likes.
		w.accept(key, strings.ReplaceAll(takeover, "oops", "meant"))
		w.putPolicyAs("dan", key, strings.ReplaceAll(takeover, `"kms:CreateGrant"`, `"kms:CreateGrant","kms:DisableKey"`))
		w.react()
		w.wantPolicy(key, takeover)
	})
}

// Our own call comes back as an event and is no alarm; with the same role, from
// somebody else, it is.
func TestPutBackIsAnEcho(t *testing.T) {
	inWorld(t, enforcePolicies(), func(w *world) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		w.aws.SetFaults(localaws.Fault{Service: "kms", Operations: []string{"PutKeyPolicy"}, Effect: localaws.DropAfter, Count: 1})
		w.react()
		w.wantPolicy(key, rootOnly)
		if a := w.one(); a.Kind != alert.KindPolicy || a.Action.Status != alert.StatusDone {
			t.Errorf("alert:\n%s", a.Text())
		}
		time.Sleep(10 * time.Minute)
		w.putPolicyAs(keeperKey, key, withReader)
		w.react()
		if got := w.told.take(); len(got) != 2 || got[0].Kind != alert.KindGuard {
			t.Errorf("alerts:\n%s", texts(got))
		}
	})
}

func TestPutBackBySweep(t *testing.T) {
	inWorld(t, enforcePolicies(), func(w *world) {
		key := w.guardedKey()
		time.Sleep(time.Hour)
		w.putPolicy(key, takeover)
		body := w.event("PutKeyPolicy")
		w.sweep()
		w.wantPolicy(key, rootOnly)
		if a := w.one(); a.Action.Status != alert.StatusDone || a.Actor != nil {
			t.Errorf("alert:\n%s", a.Text())
		}
		// The event comes late, and tells who it was.
		if err := w.handle(body); err != nil {
			t.Fatal(err)
		}
		w.react()
		if a := w.one(); a.Action.Status != alert.StatusDone || !strings.Contains(a.Summary, "mallory") || !strings.Contains(a.Findings[0].Message, "not the live one") {
			t.Errorf("alert:\n%s", a.Text())
		}
		// Nobody knows who sets it again, so it may be the same one.
		time.Sleep(time.Hour)
		w.putPolicy(key, takeover)
		w.events()
		w.sweep()
		w.wantPolicy(key, takeover)
		refused(t, w.one(), "or by an unknown one")
		w.sweep()
		w.none()
	})
}

// KMS refuses a policy under which the caller could not change it again.
func TestPutBackThatKMSRefuses(t *testing.T) {
	inWorld(t, enforcePolicies(), func(w *world) {
		key := w.guardedKey()
		onlyMallory := strings.ReplaceAll(rootOnly, `"Action":"kms:*"`, `"Action":["kms:DescribeKey","kms:Get*","kms:List*"]`)
		onlyMallory = strings.Replace(onlyMallory, `"Statement":[`, `"Statement":[{"Sid":"owner","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::`+account+`:user/mallory"},"Action":"kms:*","Resource":"*"},`, 1)
		w.putPolicy(key, onlyMallory)
		w.react()
		w.told.take()
		bad := strings.Replace(takeover, `"Principal":"*"`, `"Principal":{"AWS":"*"}`, 1)
		w.putPolicy(key, bad)
		w.react()
		w.wantPolicy(key, bad)
		a := w.one()
		if a.Action.Status != alert.StatusRefused || !strings.Contains(a.Action.Description, "KMS refuses") || !strings.Contains(strings.Join(a.Next, "\n"), "aws kms put-key-policy") {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.sweep()
		w.none()
	})
}

// Without the permission it is told as failed, and done once it is there.
func TestPutBackThatIsNotAllowed(t *testing.T) {
	inWorld(t, enforcePolicies(), func(w *world) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		body := w.event("PutKeyPolicy")
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "kms:PutKeyPolicy" })
		if err := w.handle(body); outcome.Of(err).Action != outcome.Retry {
			t.Fatalf("outcome of %v, want retry", err)
		}
		if a := w.one(); a.Action.Status != alert.StatusFailed || !strings.Contains(a.Text(), "kms:PutKeyPolicy") {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.aws.SetIdentityPolicy(keeperKey, nil)
		if err := w.handle(body); err != nil {
			t.Fatal(err)
		}
		w.wantPolicy(key, rootOnly)
		if a := w.one(); a.Action.Status != alert.StatusDone {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

// watched calls back after each write of a worker: with the key of the object, or
// the name of the operation.
type watched struct {
	state.S3
	reaction.KMS
	wrote func(what string)
}

func (w watched) PutObject(ctx context.Context, in *s3.PutObjectInput, o ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	out, err := w.S3.PutObject(ctx, in, o...)
	w.wrote(*in.Key)
	return out, err
}

func (w watched) PutKeyPolicy(ctx context.Context, in *kms.PutKeyPolicyInput, o ...func(*kms.Options)) (*kms.PutKeyPolicyOutput, error) {
	out, err := w.KMS.PutKeyPolicy(ctx, in, o...)
	w.wrote("PutKeyPolicy")
	return out, err
}

// watchedRouter is a worker whose writes are watched.
func (w *world) watchedRouter(wrote func(what string)) *handlers.Router {
	w.t.Helper()
	return w.newRouterWith(enforcePolicies(), func(d *reaction.Deps) {
		buckets := s3.NewFromConfig(inprocess.Config(w.aws, region, keeperKey), func(o *s3.Options) { o.UsePathStyle = true })
		watch := watched{S3: buckets, KMS: d.KMS, wrote: wrote}
		d.KMS, d.State = watch, state.New(watch, stateBucket, "cmkeeper/", account)
	})
}

// A policy that is changed while we are about to put another one back is not
// overwritten: the change is judged by itself.
func TestPutBackGivesWay(t *testing.T) {
	inWorld(t, enforcePolicies(), func(w *world) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		body := w.event("PutKeyPolicy")
		w.router = w.watchedRouter(func(what string) {
			// What is taken away is recorded just before the policy is read again.
			if strings.Contains(what, "/baselines/") && w.livePolicy(key) == takeover {
				w.putPolicyAs("alice", key, withReader)
			}
		})
		if err := w.handle(body); err != nil {
			t.Fatal(err)
		}
		w.router = w.newRouter(enforcePolicies())
		w.react()
		w.wantPolicy(key, withReader)
		if got := w.aws.Requests("kms", "PutKeyPolicy"); got != 3 {
			t.Errorf("%d calls of PutKeyPolicy, want those of the test", got)
		}
		got := w.told.take()
		if len(got) != 2 || got[0].Action.Status != alert.StatusNone || !strings.Contains(got[0].Findings[0].Message, "not the live one") || got[1].Severity != finding.Info {
			t.Errorf("alerts:\n%s", texts(got))
		}
	})
}

// Four workers get the same message at the same time: it is still once.
func TestPutBackByManyWorkers(t *testing.T) {
	inWorld(t, enforcePolicies(), func(w *world) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		body := w.event("PutKeyPolicy")
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if d := outcome.Of(w.newRouter(enforcePolicies()).Handle(w.ctx, handlers.Message{Body: []byte(body)})); d.Action != outcome.Delete && d.Action != outcome.Delay {
					t.Errorf("outcome %v: %v", d.Action, d.Err)
				}
			})
		}
		wg.Wait()
		w.react()
		w.wantPolicy(key, rootOnly)
		if a := w.one(); a.Action.Status != alert.StatusDone {
			t.Errorf("alert:\n%s", a.Text())
		}
		// The message comes once more, and the same actor tries again.
		if err := w.handle(body); err != nil {
			t.Fatal(err)
		}
		w.none()
		w.putPolicy(key, takeover)
		w.react()
		refused(t, w.one(), "by the same actor")
	})
}

// A harmless change that we only hear of when the one after it was undone is told:
// it went with it.
func TestHarmlessChangeThatWentToo(t *testing.T) {
	inWorld(t, enforcePolicies(), func(w *world) {
		key := w.guardedKey()
		time.Sleep(time.Minute)
		w.putPolicyAs("alice", key, withReader)
		first := w.event("PutKeyPolicy")
		w.putPolicy(key, strings.Replace(takeover, `"Statement":[`, `"Statement":[{"Sid":"reader","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::`+account+`:role/reader"},"Action":["kms:Decrypt"],"Resource":"*"},`, 1))
		w.react()
		w.wantPolicy(key, rootOnly)
		if a := w.one(); !strings.Contains(facts(a, "difference from the last recorded policy"), "role/reader") {
			t.Errorf("alert:\n%s", a.Text())
		}
		if err := w.handle(first); err != nil {
			t.Fatal(err)
		}
		if a := w.one(); a.Severity != finding.Medium || !strings.Contains(a.Title, "undone together") || !strings.Contains(a.Summary, "alice") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

// What was exempt is left alone, and does not become the good policy.
func TestExemptPolicyIsLeft(t *testing.T) {
	c := enforcePolicies()
	c.Exemptions = must(judgement.ParseExemptions("policy by user/mallory until 2000-06-01: a drill", handlers.Exemptible()))
	inWorld(t, c, func(w *world) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		w.react()
		w.wantPolicy(key, takeover)
		if a := w.one(); a.Severity != finding.Info || !strings.Contains(a.Title, "exempt") {
			t.Errorf("alert:\n%s", a.Text())
		}
		if good, _ := must(ledger.ReadBaseline(w.ctx, w.store(), key)).Good(); good.Document != rootOnly {
			t.Errorf("the good policy is %s", good.Document)
		}
	})
}

// A policy under which the fleet is renamed can be put back once it was read again.
func TestPutBackAfterTheRoleChanged(t *testing.T) {
	c := enforcePolicies()
	inWorld(t, c, func(w *world) {
		key := w.guardedKey()
		w.accept(key, takeover)
		w.putPolicy(key, takeover)
		w.react()
		w.told.take()
		c.Identity.Name = "cmkeeper-2"
		w.router = w.newRouter(c)
		worse := strings.ReplaceAll(takeover, `"kms:CreateGrant"`, `"kms:CreateGrant","kms:ScheduleKeyDeletion"`)
		w.putPolicyAs("bob", key, worse)
		w.react()
		w.wantPolicy(key, worse)
		refused(t, w.one(), "never read the key with this role")
		w.putPolicyAs("bob", key, takeover)
		w.react()
		w.told.take()
		w.putPolicyAs("bob", key, worse)
		body := w.event("PutKeyPolicy")
		if err := w.handle(body); err != nil {
			t.Fatal(err)
		}
		w.wantPolicy(key, takeover)
	})
}

// TestPutBackIsFinishedAfterAKill kills a worker after each of its writes, and has
// another one finish: the event that comes again, or the sweep alone. One call has
// the effect, and it is told once.
func TestPutBackIsFinishedAfterAKill(t *testing.T) {
	for _, tt := range []struct {
		begunBySweep, finishedBySweep bool
	}{{false, false}, {false, true}, {true, true}} {
		steps := 0
		for killed := true; killed; steps++ {
			inWorld(t, enforcePolicies(), func(w *world) {
				key := w.guardedKey()
				w.putPolicy(key, takeover)
				body := w.event("PutKeyPolicy")
				ctx, kill := context.WithCancelCause(w.ctx)
				defer kill(nil)
				left := steps
				doomed := w.watchedRouter(func(string) {
					if left--; left < 0 {
						kill(errKilled)
					}
				})
				if tt.begunBySweep {
					_ = doomed.Sweep(ctx)
				} else {
					_ = doomed.Handle(ctx, handlers.Message{Body: []byte(body)})
				}
				killed = ctx.Err() != nil
				time.Sleep(10 * time.Minute)
				if tt.finishedBySweep {
					w.sweep()
				} else if err := w.handle(body); err != nil {
					t.Fatal(err)
				}
				w.react()
				w.wantPolicy(key, rootOnly)
				a := w.one()
				if a.Kind != alert.KindPolicy || a.Action.Status != alert.StatusDone || !tt.finishedBySweep && !strings.Contains(a.Summary, "mallory") {
					t.Errorf("killed after write %d (%+v):\n%s", steps, tt, a.Text())
				}
				if n := w.aws.Requests("kms", "PutKeyPolicy"); n != 3 {
					t.Errorf("killed after write %d (%+v): %d calls of PutKeyPolicy, want two of the test and one", steps, tt, n)
				}
				w.sweep()
				w.none()
			})
		}
		if steps < 5 {
			t.Errorf("%+v: only %d steps", tt, steps)
		}
	}
}

// What was begun in mode enforce and not done is not done in mode observe, nor
// when enforce comes back.
func TestPutBackEndsWithTheMode(t *testing.T) {
	inWorld(t, enforcePolicies(), func(w *world) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		body := w.event("PutKeyPolicy")
		ctx, kill := context.WithCancelCause(w.ctx)
		defer kill(nil)
		doomed := w.watchedRouter(func(what string) {
			if strings.Contains(what, "/baselines/") {
				kill(errKilled)
			}
		})
		if err := doomed.Handle(ctx, handlers.Message{Body: []byte(body)}); err == nil {
			t.Fatal("the worker was not killed")
		}
		w.router = w.newRouter(enforceAll())
		if err := w.handle(body); err != nil {
			t.Fatal(err)
		}
		if a := w.one(); a.Action.Status != alert.StatusWouldDo {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.router = w.newRouter(enforcePolicies())
		time.Sleep(time.Hour)
		w.sweep()
		w.none()
		w.wantPolicy(key, takeover)
	})
}

var errKilled = errors.New("killed")
