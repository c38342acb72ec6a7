package handlers_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/state"
)

const reviewDay = 24 * time.Hour

// reviewing reviews once a day who may use the keys.
func reviewing() reaction.Config {
	c := enforceAll()
	c.AccessReview, c.AccessRole = true, accessRole
	return c
}

func statements(list ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(list, ",") + `]}`
}

func trusts(principal string) string {
	return statements(`{"Effect":"Allow","Principal":{"AWS":"` + principal + `"},"Action":"sts:AssumeRole"}`)
}

func allows(action string) map[string]string {
	return map[string]string{"p": statements(`{"Effect":"Allow","Action":"` + action + `","Resource":"*"}`)}
}

// role makes or changes a role in IAM.
func (w *world) setRole(name, trusted string, inline map[string]string) {
	w.t.Helper()
	must(w.aws.IAM().SetRole(iam.Role{Name: name, Trust: trusts(trusted), Inline: inline}))
}

// hasIAM has IAM know the workers' role and the one that reads IAM, and nobody else.
func (w *world) hasIAM() {
	w.t.Helper()
	w.setRole("cmkeeper", account, allows("*"))
	w.setRole("cmkeeper-access", "arn:aws:iam::"+account+":role/cmkeeper", allows("iam:GetAccountAuthorizationDetails"))
}

// reads is how often IAM was asked.
func (w *world) reads() int { return w.aws.Requests("iam", "GetAccountAuthorizationDetails") }

func (w *world) nextReview() {
	w.t.Helper()
	time.Sleep(reviewDay)
	w.sweep()
}

// guarded is a key that nothing is wrong with, and that was told of.
func (w *world) guarded() string {
	w.t.Helper()
	key := w.newKey(kms.CreateKeyInput{})
	w.enableRotation(key, 365)
	w.react()
	w.told.take()
	return key
}

// oneLine is the text of an alert without its line breaks.
func oneLine(a alert.Alert) string { return strings.Join(strings.Fields(a.Text()), " ") }

// TestAccessIsReviewed: once a day it is reviewed who may use the keys. A role that somebody
// outside may assume is told once, again when somebody else may, and that it is over when two
// reviews show that.
func TestAccessIsReviewed(t *testing.T) {
	inWorld(t, reviewing(), func(w *world) {
		key := w.guarded()
		w.hasIAM()
		w.sweep()
		w.none()
		if w.reads() != 1 {
			t.Fatalf("IAM was asked %d times, want once", w.reads())
		}
		for name, err := range w.store().Keys(w.ctx, ledger.AccessDocuments) {
			t.Errorf("a key that nobody can come to has a document: %s %v", name, err)
		}
		w.setRole("backdoor", "999999999999", allows("kms:Decrypt"))
		w.sweepAll(10)
		w.none() // within a day nobody asks
		if w.reads() != 1 {
			t.Errorf("IAM was asked %d times within a day", w.reads())
		}

		w.nextReview()
		a := w.one()
		if a.Severity != finding.High || a.Kind != alert.KindPolicy || !strings.HasPrefix(a.Title, "Somebody outside the account may assume role/backdoor, which has key ") {
			t.Fatalf("alert:\n%s", a.Text())
		}
		if text := oneLine(a); !strings.Contains(text, "cmkeeper access "+key) || !strings.Contains(text, "Account 999999999999, which is not trusted, may assume role/backdoor") {
			t.Errorf("alert:\n%s", text)
		}
		for range 2 {
			w.nextReview()
			w.none()
		}

		w.setRole("backdoor", "888888888888", allows("kms:Decrypt")) // as many, but others
		w.nextReview()
		other := w.one()
		if text := oneLine(other); other.ID == a.ID || !strings.Contains(text, "888888888888") || !strings.Contains(text, "new since the review before") {
			t.Errorf("alert:\n%s", text)
		}
		w.setRole("backdoor", "777777777777", allows("kms:Decrypt"))
		w.nextReview()
		if a := w.one(); a.ID == other.ID || !strings.Contains(a.Text(), "777777777777") {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.nextReview()
		w.none()

		w.setRole("backdoor", account, allows("s3:GetObject"))
		w.nextReview()
		w.none() // the second read is a day later
		w.nextReview()
		if more := w.over("Somebody outside the account may assume role/backdoor"); len(more) > 0 {
			t.Errorf("more is told:\n%s", texts(more))
		}
		w.nextReview()
		w.none()
	})
}

// TestAccessAlertIsBounded: many principals are one alert for each kind, which names ten of
// them and says how many more there are.
func TestAccessAlertIsBounded(t *testing.T) {
	inWorld(t, reviewing(), func(w *world) {
		w.guarded()
		w.hasIAM()
		w.sweep()
		w.none()
		for n := range 25 {
			must(w.aws.IAM().SetUser(iam.User{Name: fmt.Sprintf("eve-%d", n), Inline: allows("kms:PutKeyPolicy")}))
		}
		w.setRole("backdoor", "*", allows("kms:Decrypt"))
		w.nextReview()
		told := w.told.take()
		if len(told) != 2 {
			t.Fatalf("told:\n%s", texts(told))
		}
		for _, a := range told {
			if strings.HasPrefix(a.Title, "25 principals can give themselves the use of key ") {
				if len(a.Findings) != 10 || a.Severity != finding.High || !strings.Contains(a.Text(), "15 more, which the command above shows") {
					t.Errorf("alert:\n%s", a.Text())
				}
				return
			}
		}
		t.Errorf("told:\n%s", texts(told))
	})
}

// TestFirstAccessReview: what the first review finds is told in one alert, of all keys, and
// what the second one finds beside it by itself.
func TestFirstAccessReview(t *testing.T) {
	inWorld(t, reviewing(), func(w *world) {
		first, second := w.guarded(), w.guarded()
		w.hasIAM()
		w.setRole("backdoor", "999999999999", allows("kms:Decrypt"))
		must(w.aws.IAM().SetUser(iam.User{Name: "eve", Inline: allows("kms:CreateGrant")}))
		w.sweep()
		a := w.one()
		if a.Kind != alert.KindPosture || !strings.HasPrefix(a.Title, "Access review of account "+account) || !strings.Contains(a.Title, "4 dangers, keys affected: 2") {
			t.Fatalf("alert:\n%s", a.Text())
		}
		for _, want := range []string{"cmkeeper access " + first, "cmkeeper access " + second, "user/eve can give itself the use of key"} {
			if !strings.Contains(oneLine(a), want) {
				t.Errorf("the alert lacks %q:\n%s", want, a.Text())
			}
		}
		w.nextReview()
		w.none()
		must(w.aws.IAM().SetUser(iam.User{Name: "eve", Inline: allows("s3:GetObject")}))
		w.nextReview()
		w.nextReview()
		if over := w.told.take(); len(over) != 2 || over[0].Resolves != a.ID || over[1].Resolves != a.ID {
			t.Errorf("told:\n%s", texts(over))
		}
	})
}

// TestIAMCannotBeRead: without the permission, or without the role, that is told once, ends
// nothing that people were told of, and is tried again by each sweep.
func TestIAMCannotBeRead(t *testing.T) {
	inWorld(t, reviewing(), func(w *world) {
		w.guarded()
		w.hasIAM()
		w.sweep()
		w.setRole("backdoor", "999999999999", allows("kms:Decrypt"))
		w.nextReview()
		w.one()

		w.setRole("cmkeeper-access", "arn:aws:iam::"+account+":role/cmkeeper", nil)
		w.setRole("backdoor", account, allows("kms:Decrypt"))
		w.nextReview()
		a := w.one()
		if a.Severity != finding.Low || a.Title != "cmkeeper cannot see who may use the keys" || !strings.Contains(a.Facts[0].Values[0], "iam:GetAccountAuthorizationDetails: AccessDenied") {
			t.Fatalf("alert:\n%s", a.Text())
		}
		all := w.records()
		if got := all[len(all)-1].Totals; got.Unread == 0 || got.UnreadOf[0].What != "who may use keys" {
			t.Errorf("the record of the sweep: %+v", got)
		}
		before := w.reads()
		time.Sleep(time.Hour)
		w.sweep()
		w.none()
		if w.reads() != before+1 {
			t.Errorf("IAM was asked %d times, want once more", w.reads()-before)
		}

		w.setRole("cmkeeper-access", account[:11]+"9", allows("iam:GetAccountAuthorizationDetails"))
		time.Sleep(time.Hour)
		w.sweep()
		w.none()
		w.hasIAM()
		w.nextReview()
		w.none()
		w.nextReview()
		if over := w.told.take(); len(over) != 2 || over[0].Resolves == "" || over[1].Resolves == "" {
			t.Errorf("told:\n%s", texts(over))
		}
	})
}

// TestAccessRoleCannotBeAssumed: that is told with what is missing.
func TestAccessRoleCannotBeAssumed(t *testing.T) {
	inWorld(t, reviewing(), func(w *world) {
		w.hasIAM()
		w.setRole("cmkeeper-access", "arn:aws:iam::"+account+":role/other", allows("iam:GetAccountAuthorizationDetails"))
		w.sweep()
		a := w.one()
		if a.Severity != finding.Low || !strings.Contains(oneLine(a), "not authorized to perform: sts:AssumeRole on resource: "+accessRole) || !strings.Contains(a.Text(), "aws iam get-role --role-name cmkeeper-access") {
			t.Errorf("alert:\n%s", a.Text())
		}
		if w.reads() > 0 {
			t.Error("IAM was asked without the role")
		}
	})
}

// TestAccessIsNotReviewed: without CMKEEPER_ACCESS_REVIEW nobody asks IAM or assumes a role,
// and with it the role has to be one of the account.
func TestAccessIsNotReviewed(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		w.guarded()
		w.hasIAM()
		w.setRole("backdoor", "999999999999", allows("kms:Decrypt"))
		w.sweepAll(2)
		w.nextReview()
		w.none()
		if n := w.reads() + w.aws.Requests("sts", "AssumeRole"); n > 0 {
			t.Errorf("%d requests to IAM and STS", n)
		}
	})
	for role, want := range map[string]string{"": "CMKEEPER_ACCESS_ROLE_ARN", "arn:aws:iam::999999999999:role/reader": "it has to be in account " + account} {
		c := reviewing()
		c.AccessRole = role
		if _, err := handlers.New(reaction.Deps{}, c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("role %q: the error is %v", role, err)
		}
	}
}

// TestUnreadKeyIsNotReviewed: a key whose grants cannot be read is named as not reviewed, and
// what people were told of it is not over.
func TestUnreadKeyIsNotReviewed(t *testing.T) {
	inWorld(t, reviewing(), func(w *world) {
		key := w.guarded()
		w.hasIAM()
		w.sweep()
		w.setRole("backdoor", "999999999999", allows("kms:Decrypt"))
		w.nextReview()
		w.one()
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "kms:ListGrants" })
		w.setRole("cmkeeper", account, map[string]string{"p": statements(`{"Effect":"Allow","NotAction":"kms:ListGrants","Resource":"*"}`)})
		w.setRole("backdoor", account, allows("kms:Decrypt"))
		for range 3 {
			w.nextReview()
		}
		for _, a := range w.told.take() {
			if a.Resolves != "" {
				t.Errorf("told:\n%s", a.Text())
			}
		}
		var doc ledger.AccessReview
		must(w.store().Get(w.ctx, ledger.AccessReviewName, &doc))
		if doc.Keys != 0 || len(doc.Unreviewed) != 1 || !strings.HasSuffix(key, doc.Unreviewed[0]) {
			t.Errorf("the review: %+v", doc)
		}
	})
}

// TestFleetReviewsAccess: where a sweep is cut into shards, one worker reviews all keys
// after it, within the sweeps' share of KMS's quotas, and IAM is read once.
func TestFleetReviewsAccess(t *testing.T) { fleetReviews(t, 3, defaultSlots, true) }

// TestSmallWorkerReviewsAccess: a worker that has few slots leaves the review every few
// seconds, goes on with it, and needs IAM once all the same.
func TestSmallWorkerReviewsAccess(t *testing.T) { fleetReviews(t, 1, 2, false) }

// fleetReviews has so many workers review the keys of an account. within: their sweeps keep
// to their share, too.
func fleetReviews(t *testing.T, workers, slots int, within bool) {
	t.Helper()
	const n, share = 230, 0.1
	c := reviewing()
	c.SweepShard, c.SweepShare = 100, share
	inStormOf(t, c, func(s *storm) {
		keys := s.manyKeys(n)
		s.hasIAM()
		s.setRole("backdoor", "999999999999", allows("kms:Decrypt"))
		s.aws.SetFaults(append(latencies(), sharedQuotas(share)...)...)
		ctx, stop := context.WithCancel(s.ctx)
		m, unmeasure := s.measure()
		defer unmeasure()
		for range workers {
			s.startWith(ctx, slots)
		}
		s.sweepNow(0)
		time.Sleep(time.Hour)
		s.sweepNow(1)
		time.Sleep(time.Hour)
		if within {
			m.wantWithin(t, share)
		}
		var doc ledger.AccessReview
		must(s.store().Get(s.ctx, ledger.AccessReviewName, &doc))
		if doc.Keys != n || len(doc.Unreviewed) > 0 || !doc.Begun.IsZero() || doc.By != "" {
			t.Errorf("the review: %+v", doc)
		}
		if s.reads() != 1 {
			t.Errorf("IAM was read %d times, want once", s.reads())
		}
		told := s.arrived()
		if len(told) != 1 || !strings.Contains(told[0].Title, fmt.Sprintf("%d dangers, keys affected: %d", n, n)) {
			t.Errorf("told: %d alerts", len(told))
			for _, a := range told[:min(len(told), 3)] {
				t.Log(a.Text())
			}
		}
		var one ledger.Access
		must(s.store().Get(s.ctx, ledger.AccessName(keys[n-1]), &one))
		if len(one.Standing.Open) != 1 || one.Standing.Open[0].Alert == "" {
			t.Errorf("the last key: %+v", one)
		}
		stop()
		s.wg.Wait()
	})
}

// TestLeftReviewGoesOn: a review that was left is gone on with by the next sweep, and the keys
// that it has done are not reviewed again.
func TestLeftReviewGoesOn(t *testing.T) {
	inWorld(t, reviewing(), func(w *world) {
		keys := []string{w.guarded(), w.guarded(), w.guarded()}
		slices.Sort(keys)
		w.hasIAM()
		w.sweep()
		w.setRole("backdoor", "999999999999", allows("kms:Decrypt"))
		time.Sleep(reviewDay)
		begun := ledger.Now().Add(-time.Hour)
		err := state.Update(w.ctx, w.store(), ledger.AccessReviewName, func(doc *ledger.AccessReview, _ bool) error {
			doc.Begun, doc.Next, doc.Found = begun, keys[1], ledger.AccessReviewed{Keys: 5}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		w.sweep()
		if a := w.one(); a.Key == nil || a.Key.ARN != keys[2] {
			t.Errorf("alert:\n%s", a.Text())
		}
		var doc ledger.AccessReview
		must(w.store().Get(w.ctx, ledger.AccessReviewName, &doc))
		if doc.Keys != 6 || !doc.At.Equal(begun) || !doc.Begun.IsZero() {
			t.Errorf("the review: %+v", doc)
		}
	})
}

// TestOneWorkerReviews: while a worker is at a review, no other one begins it.
func TestOneWorkerReviews(t *testing.T) {
	inWorld(t, reviewing(), func(w *world) {
		w.hasIAM()
		err := state.Update(w.ctx, w.store(), ledger.AccessReviewName, func(doc *ledger.AccessReview, _ bool) error {
			doc.Take("another", ledger.Now())
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		w.sweep()
		if w.reads() > 0 {
			t.Error("two workers review at once")
		}
		time.Sleep(time.Hour)
		w.sweep()
		if w.reads() != 1 {
			t.Error("a review whose worker is gone is not taken over")
		}
	})
}
