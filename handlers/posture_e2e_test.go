package handlers_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
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
	"github.com/cmkeeper/cmkeeper/judgement"
)

// observing is a deployment on its first day, where rotation is required.
func observing() reaction.Config {
	c := enforceAll()
	c.Rotation, c.Deletion, c.Policy, c.Reencrypt = reaction.Observe, reaction.Observe, reaction.Observe, reaction.Observe
	c.Posture.RotationRequired = true
	return c
}

// dirty is an account that was bad before cmkeeper first started.
type dirty struct {
	healthy, public, granted, disabled, dying, still, aliased string
	grant                                                     string
}

func (w *world) dirty() (d dirty) {
	w.t.Helper()
	key := func(alias string) string {
		k := w.newKey(kms.CreateKeyInput{})
		w.enableRotation(k, 365)
		w.createAlias(alias, k)
		return k
	}
	d = dirty{healthy: key("alias/healthy"), public: key("alias/public"), granted: key("alias/granted"), disabled: key("alias/disabled"), dying: key("alias/dying"), aliased: key("alias/gone")}
	d.still = w.newKey(kms.CreateKeyInput{})
	w.putPolicy(d.public, public)
	d.grant = w.grant(d.granted, "arn:aws:iam::"+stranger+":role/visitor")
	w.disable(d.disabled)
	w.scheduleDeletion(d.dying)
	w.bucket("orders-data", "alias/gone")
	w.deleteAlias("alias/gone")
	w.events() // nobody was there
	return d
}

// TestDirtyAccount: what was wrong before the first start is told by the first sweep in one
// message, and what is healthy is not named; the second sweep is silent, and each repair
// by hand is told once.
func TestDirtyAccount(t *testing.T) {
	inWorld(t, observing(), func(w *world) {
		w.unmet()
		d := w.dirty()
		w.sweep()
		a := w.one()
		if a.Kind != alert.KindPosture || a.Severity != finding.Critical || a.Digest == nil || len(a.Digest.Calls) != 6 {
			t.Fatalf("alert:\n%s", a.Text())
		}
		rows := map[string]alert.Call{}
		for _, c := range a.Digest.Calls {
			rows[c.Key] = c
			if c.Do == "" || c.Title == "" {
				t.Errorf("a row does not say what is wrong and what to do: %+v", c)
			}
		}
		for key, what := range map[string]string{d.public: "everyone", d.granted: "visitor", d.disabled: "disabled", d.dying: "pending deletion", d.still: "Rotation", "": "alias/gone"} {
			if c, ok := rows[key]; !ok || !strings.Contains(c.Title, what) {
				t.Errorf("%s: %q does not say %q", key, c.Title, what)
			}
		}
		if strings.Contains(a.Text(), d.healthy) || strings.Contains(a.Text(), "alias/healthy") {
			t.Errorf("the healthy key is named:\n%s", a.Text())
		}
		time.Sleep(15 * time.Minute)
		w.sweep()
		w.none()
		for _, repair := range []struct {
			title string
			do    func()
			lost  bool // the event is
		}{
			{"everyone", func() { w.putPolicy(d.public, rootOnly) }, false},
			{"visitor", func() { must(w.kms.RevokeGrant(w.ctx, &kms.RevokeGrantInput{KeyId: &d.granted, GrantId: &d.grant})) }, false},
			{"is disabled", func() { w.enable(d.disabled) }, true},
			{"pending deletion", func() {
				must(w.kms.CancelKeyDeletion(w.ctx, &kms.CancelKeyDeletionInput{KeyId: &d.dying}))
				w.enable(d.dying)
			}, false},
			{"Rotation of", func() { w.enableRotation(d.still, 365) }, true},
			{"alias/gone", func() { w.createAlias("alias/gone", d.aliased) }, true},
		} {
			repair.do()
			if repair.lost {
				w.events()
				w.sweep()
				w.none() // the second read is a minute later
				time.Sleep(time.Minute)
				w.sweep()
			} else {
				w.react()
			}
			var over []alert.Alert
			for _, o := range w.told.take() {
				if o.Resolves != "" {
					over = append(over, o)
				}
			}
			if len(over) != 1 || over[0].Resolves != a.ID || over[0].Action.Status != alert.StatusResolved || over[0].Thread != a.Thread || over[0].Severity != finding.Info ||
				!strings.HasPrefix(over[0].Title, "Resolved: ") || !strings.Contains(over[0].Title, repair.title) || (over[0].Actor != nil) == repair.lost {
				t.Errorf("%s:\n%s", repair.title, texts(over))
			}
			time.Sleep(15 * time.Minute)
		}
		w.sweep()
		if got := w.told.take(); len(got) != 0 {
			t.Errorf("told again:\n%s", texts(got))
		}
	})
}

// ebs calls an operation about EBS encryption by default, as mallory.
func (w *world) ebs(operation string) {
	w.t.Helper()
	r := httptest.NewRequest(http.MethodPost, "https://ec2."+region+".amazonaws.com/", strings.NewReader("Action="+operation+"&Version=2016-11-15"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=mallory/20000101/"+region+"/ec2/aws4_request, SignedHeaders=host, Signature=0")
	answer := httptest.NewRecorder()
	if w.aws.ServeHTTP(answer, r); answer.Code != http.StatusOK {
		w.t.Fatalf("%s: %s", operation, answer.Body)
	}
}

// TestPlannedMoveIsNoDanger: a bucket whose default encryption goes under another key with
// its alias, or is set to the alias's new key, is as it is meant to be: nobody is told to
// put the old key back.
func TestPlannedMoveIsNoDanger(t *testing.T) {
	for name, by := range map[string]string{"alias": listed, "key": ""} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, observing(), func(w *world) {
				old := w.knownKey(listed)
				w.enableRotation(old, 365)
				w.bucket("orders-data", cmp.Or(by, old))
				w.sweep()
				w.react()
				w.told.take()
				key := w.newKey(kms.CreateKeyInput{})
				w.enableRotation(key, 365)
				w.updateAlias(listed, key)
				if by == "" {
					w.setDefault(key)
				}
				w.react()
				if got := w.told.take(); len(got) != 1 || got[0].Kind != alert.KindAlias {
					t.Errorf("told:\n%s", texts(got))
				}
				for range 3 {
					w.sweep()
					time.Sleep(15 * time.Minute)
				}
				w.none()
			})
		})
	}
}

// TestTagsAreChangedBack: the way back from a changed tag is its former value.
func TestTagsAreChangedBack(t *testing.T) {
	c := observing()
	c.WatchedTags = []string{"class", "team", "new"}
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		w.tagKey(key, "class", "secret")
		w.tagKey(key, "team", "a b")
		w.events()
		w.sweep()
		w.told.take()
		w.tagKey(key, "class", "public")
		w.tagKey(key, "new", "x")
		must(w.kms.UntagResource(w.ctx, &kms.UntagResourceInput{KeyId: &key, TagKeys: []string{"team"}}))
		w.events() // lost
		time.Sleep(15 * time.Minute)
		w.sweep()
		next := strings.Join(w.one().Next, "\n")
		for _, want := range []string{`tag-resource --key-id ` + key[len(key)-36:] + ` --region eu-central-1 --tags '[{"TagKey":"class","TagValue":"secret"}]'`, `"TagKey":"team","TagValue":"a b"`, "untag-resource --key-id " + key[len(key)-36:] + " --region eu-central-1 --tag-keys new"} {
			if !strings.Contains(next, want) {
				t.Errorf("the way back lacks %s:\n%s", want, next)
			}
		}
		if strings.Contains(next, "--tag-keys class") {
			t.Errorf("it takes the class away:\n%s", next)
		}
	})
}

// TestFormerBuildSawItAll: an account that a former build has swept is met for the first
// time, and told once what that build had noted and never told; what an event told is not.
func TestFormerBuildSawItAll(t *testing.T) {
	inWorld(t, observing(), func(w *world) {
		d := w.dirty()
		told := w.knownKey("alias/told")
		w.enableRotation(told, 365)
		w.react()
		w.putPolicy(told, public)
		w.react()
		w.sweep()
		w.told.take()
		w.forgetStanding() // as the former build left it
		w.unmet()
		time.Sleep(15 * time.Minute)
		w.sweep()
		a := w.one()
		rows := map[string]bool{}
		for _, c := range a.Digest.Calls {
			rows[c.Key] = true
		}
		for _, key := range []string{d.public, d.granted, d.disabled, d.dying, d.still, told} {
			if !rows[key] {
				t.Errorf("%s is not named:\n%s", key, a.Text())
			}
		}
		if rows[d.healthy] || a.Kind != alert.KindPosture {
			t.Errorf("alert:\n%s", a.Text())
		}
		time.Sleep(15 * time.Minute)
		w.sweep()
		w.none()
	})
}

// forgetStanding takes what former builds did not have out of all documents.
func (w *world) forgetStanding() {
	w.t.Helper()
	for _, d := range w.documents() {
		var doc map[string]json.RawMessage
		if err := json.Unmarshal(d.body, &doc); err != nil {
			w.t.Fatal(err)
		}
		if _, has := doc["standing"]; !has {
			continue
		}
		delete(doc, "standing")
		delete(doc, "default")
		must(w.s3.PutObject(w.ctx, &s3.PutObjectInput{Bucket: aws.String(stateBucket), Key: &d.name, Body: bytes.NewReader(must(json.Marshal(doc)))}))
	}
}

// TestMeetingIsFinished: whatever dies during the first sweep, the next one tells all that
// was not told, and nothing twice.
func TestMeetingIsFinished(t *testing.T) {
	for at := 1; ; at += 7 {
		reached := false
		inWorld(t, observing(), func(w *world) {
			w.unmet()
			d := w.dirty()
			requests := 0
			ctx, kill := context.WithCancel(w.ctx)
			w.tap = func(request, bool) {
				if requests++; requests == at {
					reached = true
					kill()
				}
			}
			w.router = w.newRouter(observing())
			_ = w.router.Sweep(ctx)
			kill()
			w.tap = nil
			w.router = w.newRouter(observing())
			w.sweep()
			time.Sleep(15 * time.Minute)
			w.sweep()
			got := w.told.take()
			rows := map[string]int{}
			for _, a := range got {
				if a.Kind != alert.KindPosture {
					t.Fatalf("killed at request %d, told:\n%s", at, texts(got))
				}
				for _, c := range a.Digest.Calls {
					rows[c.Key]++
				}
			}
			for _, key := range []string{d.public, d.granted, d.disabled, d.dying, d.still, ""} {
				if rows[key] == 0 {
					t.Errorf("killed at request %d: %s is not told", at, key)
				}
			}
		})
		if !reached {
			return
		}
	}
}

// TestPostureIsJudged: exemptions and sandboxes hold for what a sweep finds as it stands.
// What is exempt is counted, and told when it is not exempt any more.
func TestPostureIsJudged(t *testing.T) {
	config := func(t *testing.T, until string) reaction.Config {
		c := observing()
		c.Posture.RotationRequired = false
		c.Exemptions = must(judgement.ParseExemptions("policy of alias/legacy-* until "+until+": the vendor", handlers.Exemptible()))
		c.Rules.Sandbox = selector(t, "alias/dev-*")
		c.Rules.Sensitive = selector(t, "alias/prod-*")
		return c
	}
	c := config(t, "2000-01-03")
	inWorld(t, c, func(w *world) {
		taken := func() []alert.Alert { // without those about the exemption itself
			return slices.DeleteFunc(w.told.take(), func(a alert.Alert) bool { return a.Kind == alert.KindGuard })
		}
		w.unmet()
		keys := map[string]string{}
		for _, alias := range []string{"alias/legacy-x", "alias/dev-x", "alias/prod-x", "alias/x"} {
			keys[alias] = w.newKey(kms.CreateKeyInput{})
			w.createAlias(alias, keys[alias])
			if alias == "alias/dev-x" { // no sandbox makes less of a policy that lets others in
				w.disable(keys[alias])
				continue
			}
			w.putPolicy(keys[alias], strings.ReplaceAll(public, `"Principal":"*"`, `"Principal":{"AWS":"arn:aws:iam::`+stranger+`:root"}`))
		}
		w.events()
		time.Sleep(25 * time.Hour) // marks count when they have lasted
		w.sweep()
		told := taken()
		if len(told) != 1 {
			t.Fatalf("told:\n%s", texts(told))
		}
		a := told[0]
		var got []string
		for _, row := range a.Digest.Calls {
			got = append(got, string(row.Severity)+" "+row.Alias)
		}
		if len(got) != 3 || got[0] != "critical alias/prod-x" && got[0] != "high alias/prod-x" || got[2] != "low alias/dev-x" && got[2] != "medium alias/dev-x" || !strings.Contains(a.Summary, "Exempt, and not named: 1") || !a.Digest.Calls[0].Sensitive {
			t.Errorf("%q:\n%s", got, a.Text())
		}
		time.Sleep(time.Hour)
		w.sweep()
		w.none()
		time.Sleep(48 * time.Hour) // the exemption ends
		w.sweep()
		if told = taken(); len(told) != 1 || told[0].Key.ARN != keys["alias/legacy-x"] || !told[0].Severity.AtLeast(finding.High) {
			t.Errorf("told:\n%s", texts(told))
		}
		w.sweep()
		w.none()
	})
}

// TestMoreDangersThanAreKept: a key with more dangers than its document has room for is told
// to have more, by the first sweep and by later ones, once; they are told when there is room.
func TestMoreDangersThanAreKept(t *testing.T) {
	inWorld(t, observing(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.enableRotation(key, 365)
		var grants []string
		grant := func(n int) {
			for range n {
				grants = append(grants, w.grant(key, "arn:aws:iam::"+stranger+":role/visitor"))
			}
			w.events() // lost
		}
		grant(ledger.MostOpen + 2)
		w.unmet()
		w.sweep()
		if a := w.one(); !strings.Contains(a.Title, "100 dangers") || !strings.Contains(a.Summary, "Not named, because one thing has more than 100 dangers: 2.") {
			t.Errorf("the first meeting:\n%s", a.Text())
		}
		time.Sleep(time.Hour)
		w.sweep()
		w.none()
		grant(1)
		time.Sleep(time.Hour)
		w.sweep()
		if a := w.one(); !strings.HasPrefix(a.Title, "3 dangers more than are told one by one, such as: ") || a.Severity != finding.High || a.Kind != alert.KindGrant || a.Key == nil || a.Key.ARN != key {
			t.Errorf("a later sweep:\n%s", a.Text())
		}
		records := w.records()
		if got := records[len(records)-1].Totals; got.Dangers["high"] != ledger.MostOpen || got.DangersMore != 3 {
			t.Errorf("recorded: %+v", got)
		}
		// Those that are listed first are told one by one, and localaws lists them by their ids.
		for _, id := range slices.Sorted(slices.Values(grants[:ledger.MostOpen+2]))[:2] {
			must(w.kms.RevokeGrant(w.ctx, &kms.RevokeGrantInput{KeyId: &key, GrantId: &id}))
		}
		w.events() // lost
		var over, told, more int
		for range 3 {
			time.Sleep(time.Hour)
			w.sweep()
			for _, a := range w.told.take() {
				switch {
				case a.Resolves != "":
					over++
				case strings.Contains(a.Title, "more than are told"):
					more++
				default:
					told++
				}
			}
		}
		if over != 2 || told != 2 || more != 0 {
			t.Errorf("%d are told to be over, %d are told, and %d times that there is more; want 2, 2 and 0", over, told, more)
		}
	})
}
