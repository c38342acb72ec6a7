package alert

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/finding"
)

// call is an alert about a call of mallory's on a key.
func call(event string, severity finding.Severity, key string) Alert {
	a := Alert{
		ID: event + "/" + key, Kind: KindPolicy, Severity: severity, EventName: event, Account: "111122223333", Region: "us-east-1",
		Title: event + " on " + key,
		Actor: &Actor{Name: "Admin/mallory", ARN: "arn:aws:sts::111122223333:assumed-role/Admin/mallory", Account: "111122223333", Session: "mallory", SourceIP: "203.0.113.7"},
	}
	if key != "" {
		a.Key = &Key{ARN: "arn:aws:kms:us-east-1:111122223333:key/" + key}
		a.Next = []string{"aws kms describe-key --key-id " + key, "aws kms enable-key --key-id " + key}
	}
	return a
}

func TestGroupOf(t *testing.T) {
	with := func(change func(*Alert)) Alert {
		a := call("PutKeyPolicy", finding.High, "k")
		change(&a)
		return a
	}
	name := func(a Alert) string {
		g, ok := groupOf(a)
		if !ok {
			return ""
		}
		return g.name + " = " + g.short
	}
	for _, tt := range []struct {
		what string
		in   Alert
		want string
	}{
		{"a role, whatever its session", call("PutKeyPolicy", finding.High, "k"), "arn:aws:sts::111122223333:assumed-role/Admin = role/Admin"},
		{"a person in a role of Identity Center", with(func(a *Alert) {
			a.Actor.ARN = "arn:aws:sts::111122223333:assumed-role/AWSReservedSSO_Admin_0123/eve@example.com"
		}), "arn:aws:sts::111122223333:assumed-role/AWSReservedSSO_Admin_0123/eve@example.com = role/AWSReservedSSO_Admin_0123/eve@example.com"},
		{"a user", with(func(a *Alert) { a.Actor.ARN = "arn:aws:iam::111122223333:user/ops/bob" }), "arn:aws:iam::111122223333:user/ops/bob = user/ops/bob"},
		{"root", with(func(a *Alert) { a.Actor.ARN = "arn:aws:iam::111122223333:root" }), "arn:aws:iam::111122223333:root = root"},
		{"a sweep", with(func(a *Alert) { a.Actor, a.EventName = nil, "Sweep" }), "sweep: policy = a sweep"},
		{"AWS itself", with(func(a *Alert) { a.Actor = &Actor{InvokedBy: "AWS Internal"} }), "no actor: policy = AWS or unknown"},
		{"a job", with(func(a *Alert) { a.Kind = KindReencryption }), ""},
		{"an incident", with(func(a *Alert) { a.Kind = KindIncident }), ""},
		{"nothing known", Alert{Title: "x"}, ""},
	} {
		if got := name(tt.in); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.what, got, tt.want)
		}
	}
	one, _ := groupOf(call("PutKeyPolicy", finding.High, "k"))
	for what, change := range map[string]func(*Alert){
		"Region": func(a *Alert) { a.Region = "eu-west-1" }, "account": func(a *Alert) { a.Account = "444455556666" },
		"role": func(a *Alert) { a.Actor.ARN = "arn:aws:sts::111122223333:assumed-role/Ops/mallory" },
	} {
		if other, _ := groupOf(with(change)); other.id == one.id {
			t.Errorf("another %s is the same group", what)
		}
	}
	if other, _ := groupOf(with(func(a *Alert) { a.Actor.ARN += "-2" })); other.id != one.id {
		t.Error("another session of the role is another group")
	}
}

func TestDecidePlace(t *testing.T) {
	m := func(names ...string) marks {
		all := marks{}
		for _, n := range names {
			all[n] = true
		}
		return all
	}
	key := func(id string) string { return "key/arn.3Aaws.3Akms.3Aus-east-1.3A111122223333.3Akey.2F" + id }
	kind := func(a Alert, k Kind) Alert {
		a.Kind = k
		return a
	}
	sweep := call("Sweep", finding.High, "k")
	sweep.Actor = nil
	contained := call("PutKeyPolicy", finding.Critical, "k")
	contained.Kind = KindContainment
	for _, tt := range []struct {
		what  string
		in    Alert
		marks marks
		want  scheduleDecision
	}{
		{"low", call("RotateKey", finding.Info, "k"), m(), scheduleDecision{reason: scheduleCollect}},
		{"medium", call("UpdateAlias", finding.Medium, "k"), m(), scheduleDecision{reason: scheduleCollect, notes: []string{"danger/UpdateAlias"}}},
		{"the first of its event", call("PutKeyPolicy", finding.High, "k"), m(), scheduleDecision{reason: scheduleFirst, claim: "high/policy-PutKeyPolicy", notes: []string{"danger/PutKeyPolicy"}}},
		{"the second", call("PutKeyPolicy", finding.High, "k"), m("high/policy-PutKeyPolicy", "danger/PutKeyPolicy"), scheduleDecision{reason: scheduleCollect}},
		{"high where lower ones are collected", call("PutKeyPolicy", finding.High, "k"), m("danger/PutKeyPolicy"), scheduleDecision{reason: scheduleFirst, claim: "high/policy-PutKeyPolicy"}},
		{"critical after high", call("PutKeyPolicy", finding.Critical, "k"), m("high/policy-PutKeyPolicy", "danger/PutKeyPolicy"), scheduleDecision{reason: scheduleFirst, claim: "critical/policy-PutKeyPolicy"}},
		{"critical after critical", call("PutKeyPolicy", finding.Critical, "k"), m("critical/policy-PutKeyPolicy", "danger/PutKeyPolicy"), scheduleDecision{reason: scheduleCollect}},
		{"critical after another critical", call("PutKeyPolicy", finding.Critical, "k"), m("high/policy-PutKeyPolicy", "danger/PutKeyPolicy", "critical/policy-DisableKey"), scheduleDecision{reason: scheduleCollect, notes: []string{"critical/policy-PutKeyPolicy"}}},
		{"another event", call("ScheduleKeyDeletion", finding.Critical, "k"), m("high/policy-PutKeyPolicy", "danger/PutKeyPolicy"), scheduleDecision{reason: scheduleFirst, claim: "critical/policy-ScheduleKeyDeletion", notes: []string{"danger/ScheduleKeyDeletion", key("k")}}},
		{"another kind of alert about the event", kind(call("PutKeyPolicy", finding.High, "k"), KindGuard), m("high/policy-PutKeyPolicy", "danger/PutKeyPolicy"), scheduleDecision{reason: scheduleFirst, claim: "high/guard-PutKeyPolicy"}},
		{"a severity that is none", call("PutKeyPolicy", "hgih", "k"), m(), scheduleDecision{reason: scheduleFirst, claim: "critical/policy-PutKeyPolicy", notes: []string{"danger/PutKeyPolicy"}}},

		{"the third event", call("ScheduleKeyDeletion", finding.Critical, "k"), m("danger/PutKeyPolicy", "danger/UpdateAlias"), scheduleDecision{reason: scheduleIncident, notes: []string{"danger/ScheduleKeyDeletion", key("k"), "critical/policy-ScheduleKeyDeletion"}}},
		{"the third event, of severity medium", call("UpdateAlias", finding.Medium, "k"), m("danger/PutKeyPolicy", "danger/DisableKey"), scheduleDecision{reason: scheduleIncident, notes: []string{"danger/UpdateAlias"}}},
		{"the third event, but harmless", call("RotateKey", finding.Low, "k"), m("danger/PutKeyPolicy", "danger/UpdateAlias"), scheduleDecision{reason: scheduleCollect}},
		{"something new is no danger", call("CreateKey", finding.High, "k"), m("danger/PutKeyPolicy", "danger/UpdateAlias"), scheduleDecision{reason: scheduleFirst, claim: "high/policy-CreateKey"}},
		{"but a grant is", kind(call("CreateGrant", finding.High, "k"), KindGrant), m("danger/PutKeyPolicy", "danger/UpdateAlias"), scheduleDecision{reason: scheduleIncident, notes: []string{"danger/CreateGrant", "high/grant-CreateGrant"}}},
		{"a failed use of a key does not count towards an incident", kind(call("Decrypt", finding.High, "k"), KindUse), m("danger/PutKeyPolicy", "danger/UpdateAlias"), scheduleDecision{reason: scheduleFirst, claim: "high/use-Decrypt"}},
		{"the third key", call("DisableKey", finding.Critical, "c"), m("critical/policy-DisableKey", "danger/DisableKey", key("a"), key("b")), scheduleDecision{reason: scheduleIncident, notes: []string{key("c")}}},
		{"a key again", call("DisableKey", finding.Critical, "b"), m("critical/policy-DisableKey", "danger/DisableKey", key("a"), key("b")), scheduleDecision{reason: scheduleCollect}},
		{"a key that AWS refused to disable", kind(call("DisableKey", finding.High, "c"), KindAccess), m("high/access-DisableKey", "danger/DisableKey", key("a"), key("b")), scheduleDecision{reason: scheduleCollect}},
		{"a deletion that was approved", call("ScheduleKeyDeletion", finding.Medium, "c"), m("danger/ScheduleKeyDeletion", key("a"), key("b")), scheduleDecision{reason: scheduleCollect}},
		{"what sweeps find is no incident", sweep, m("danger/A", "danger/B", "danger/C"), scheduleDecision{reason: scheduleFirst, claim: "high/policy-Sweep"}},

		{"after an incident", call("RevokeGrant", finding.High, "k"), m("incident", "danger/A", "danger/B"), scheduleDecision{reason: scheduleCollect, notes: []string{"danger/RevokeGrant", "high/policy-RevokeGrant"}}},
		{"the worst after an incident", call("ScheduleKeyDeletion", finding.Critical, "k"), m("incident", "danger/ScheduleKeyDeletion", key("k")), scheduleDecision{reason: scheduleFirst, claim: "critical/policy-ScheduleKeyDeletion"}},
		{"and again", call("ScheduleKeyDeletion", finding.Critical, "k"), m("incident", "critical/policy-ScheduleKeyDeletion", "danger/ScheduleKeyDeletion", key("k")), scheduleDecision{reason: scheduleCollect}},
	} {
		if diff := cmp.Diff(tt.want, decideSchedule(tt.in, tt.marks), cmp.AllowUnexported(scheduleDecision{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.what, diff)
		}
	}
}

func TestFlushSlot(t *testing.T) {
	for body, want := range map[string]string{
		`{"schema":"cmkeeper.flush.v1","slot":"x"}`: "x",
		`{"schema":"cmkeeper.flush.v1"}`:            "",
		`{"schema":"cmkeeper.flush.v2","slot":"x"}`: "",
		`{"slot":"x"}`:      "",
		`cmkeeper.flush.v1`: "",
	} {
		if got, ok := FlushWindow([]byte(body)); got != want && ok || ok != (want != "") {
			t.Errorf("FlushWindow(%s) = %q, %t", body, got, ok)
		}
	}
}

func TestResponseSteps(t *testing.T) {
	steps := func(arn, session string) string {
		a := call("ScheduleKeyDeletion", finding.Critical, "k")
		a.Actor.ARN, a.Actor.Session, a.Time = arn, session, instant("2026-11-25T09:00:03Z")
		return strings.Join(responseSteps(a), "\n")
	}
	role := steps("arn:aws-cn:sts::111122223333:assumed-role/Admin/mal'lory", "mal'lory")
	for _, want := range []string{
		`There is no command for "aws cloudtrail lookup-events" here: "mal'lory" is not of the form of a session name that can be pasted safely.`,
		"aws iam put-role-policy --role-name Admin", `"DateLessThan":{"aws:TokenIssueTime":["2026-11-25T10:00:03Z"]}`, "before 2026-11-25 10:00:03 UTC",
		`"aws:PrincipalArn":["arn:aws-cn:iam::111122223333:role/Admin","arn:aws-cn:iam::111122223333:role/*/Admin"]`,
		"--target-id 111122223333",
	} {
		if !strings.Contains(role, want) {
			t.Errorf("no %s in\n%s", want, role)
		}
	}
	if person := steps("arn:aws:sts::111122223333:assumed-role/AWSReservedSSO_Admin_0/eve", "eve"); strings.Contains(person, "put-role-policy") || !strings.Contains(person, "Identity Center") {
		t.Errorf("a person of Identity Center:\n%s", person)
	}
	if user := steps("arn:aws:iam::111122223333:user/ops/bob", ""); !strings.Contains(user, "put-user-policy --user-name bob ") || !strings.Contains(user, "list-access-keys --user-name bob") {
		t.Errorf("a user:\n%s", user)
	}
	if root := steps("arn:aws:iam::111122223333:root", ""); !strings.Contains(root, "root user") || strings.Contains(root, "lookup-events") {
		t.Errorf("root:\n%s", root)
	}
}

func TestDigestWords(t *testing.T) {
	items := func(alerts ...Alert) *gathered {
		all := &gathered{}
		for _, a := range alerts {
			all.add(item{Alert: a, Name: a.ID})
		}
		return all
	}
	s := &window{ID: "s", Name: "arn", Short: "role/Admin", Period: "p"}
	one := call("PutKeyPolicy", finding.High, "a")
	if diff := cmp.Diff(one, digest(s, items(one), false, "")); diff != "" {
		t.Errorf("a single alert does not stay what it is:\n%s", diff)
	}
	two := call("PutKeyPolicy", finding.Critical, "b")
	two.Action.Status = StatusFailed
	d := digest(s, items(one, two), false, "")
	if d.Title != "PutKeyPolicy on 2 keys by role/Admin" || d.Severity != finding.Critical || d.Key.ARN != two.Key.ARN || d.Action.Status != StatusFailed {
		t.Errorf("%+v", d)
	}
	if want := []string{two.Next[0], two.Next[1], "To undo what was not intended, key by key:", one.Next[1]}; !slices.Equal(d.Next, want) {
		t.Errorf("next steps %q", d.Next)
	}
	found, more := call("Sweep", finding.High, "a"), call("Sweep", finding.High, "b")
	if d := digest(&window{Short: "a sweep"}, items(found, more), false, ""); d.Title != "policy findings on 2 keys by a sweep" {
		t.Errorf("title %q", d.Title)
	}
	three := call("DisableKey", finding.High, "b")
	if d := digest(s, items(one, two, three), true, ""); d.Title != "Incident, continued: 3 calls on 2 keys: PutKeyPolicy, DisableKey by role/Admin" || d.Incident != "incident/p" {
		t.Errorf("title %q, incident %q", d.Title, d.Incident)
	}
}
