package keyreport

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/keylist"
	"github.com/cmkeeper/cmkeeper/keypolicy"
	"github.com/cmkeeper/cmkeeper/posture"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

const account = "111122223333"

var made = time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)

var rules = posture.Rules{Account: account, RotationRequired: true, RotationPeriodDays: 365}

// key is a healthy key as keylist reads it, and then changed.
func key(i int, change func(*keylist.Key)) keylist.Key {
	on, read := true, keylist.Read{At: made.Add(-time.Minute)}
	k := keylist.Key{
		ARN: fmt.Sprintf("arn:aws:kms:eu-central-1:%s:key/00000000-0000-4000-8000-%012d", account, i), ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i),
		Described: read, State: "Enabled", Manager: "CUSTOMER", Origin: "AWS_KMS", Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT", Created: made.AddDate(-1, 0, 0),
		Aliases: []string{fmt.Sprintf("alias/app-%d", i)}, Rotation: keylist.Rotation{Read: read, Enabled: &on, PeriodDays: 365}, Policy: keylist.Policy{Read: read}, Grants: keylist.Grants{Read: read},
		Buckets: keylist.Buckets{Read: read}, Dangers: []keylist.Danger{}, Judged: true,
	}
	if change != nil {
		change(&k)
	}
	return k
}

// endanger notes a danger as keylist would.
func endanger(k *keylist.Key, d posture.Danger) {
	k.Dangers = append(k.Dangers, keylist.Danger{Danger: d})
	if k.Worst == "" || d.Severity.Rank() > k.Worst.Rank() {
		k.Worst = d.Severity
	}
}

func off(k *keylist.Key) {
	k.Rotation.Enabled = new(bool)
	endanger(k, posture.Danger{Name: posture.DangerRotation, Kind: alert.KindRotation, Severity: finding.Medium, Text: "Automatic rotation is off."})
}

func dying(k *keylist.Key) {
	date := made.AddDate(0, 0, 7)
	k.State, k.DeletionDate = "PendingDeletion", &date
	k.Rotation = keylist.Rotation{Blocker: inventory.BlockedPendingDeletion}
	endanger(k, posture.Danger{Name: posture.DangerDeletion, Kind: alert.KindDeletion, Severity: finding.Critical, Text: "The key will be deleted."})
}

func open(k *keylist.Key) {
	p := `{"Statement":[{"Effect":"Allow","Principal":{"AWS":"` + account + `"},"Action":"kms:*","Resource":"*"},{"Sid":"all","Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"}]}`
	_, k.Policy.Findings = rules.JudgePolicy(keypolicy.Context{KeyARN: k.ARN, Now: made}, p)
	k.Policy.Worst = k.Policy.Findings[0].Severity
	endanger(k, posture.Danger{Name: posture.DangerPolicy, Kind: alert.KindPolicy, Severity: k.Policy.Worst, Text: "The key is open to every AWS account.", Findings: k.Policy.Findings})
}

func granted(k *keylist.Key) {
	g := inventory.Grant{ID: "g", Grantee: "arn:aws:iam::999988887777:role/x", Operations: []string{"Decrypt"}}
	found := rules.JudgeGrant(g, true)
	k.Grants.Count, k.Grants.Outside = 1, []keylist.Grant{{ID: "g", Grantee: g.Grantee, Operations: g.Operations}}
	endanger(k, posture.Danger{Name: "grant/g", Kind: alert.KindGrant, Severity: found[0].Severity, Text: "A grant.", Findings: found})
}

func unreadPolicy(k *keylist.Key) {
	k.Policy.Read, k.Judged = keylist.Read{At: made, NotKnown: "access denied"}, false
}

func unread(k *keylist.Key) {
	no := keylist.Read{At: made, NotKnown: "access denied"}
	*k = keylist.Key{ARN: k.ARN, ID: k.ID, Described: no, Policy: keylist.Policy{Read: no}, Grants: keylist.Grants{Read: no}, Rotation: keylist.Rotation{Read: no}, Dangers: []keylist.Danger{}}
}

func listOf(keys ...keylist.Key) keylist.List {
	return keylist.List{Schema: keylist.Schema, Account: account, Region: "eu-central-1", Began: made.Add(-2 * time.Minute), Ended: made, Totals: keylist.Total(keys, rules), Keys: keys, Buckets: []keylist.Bucket{}}
}

func makeOf(l keylist.List, h History) Report {
	return Make(Input{Made: made, By: "arn:aws:iam::" + account + ":user/ada", Version: "v1", Keys: l, RotationPeriodDays: 365, History: h})
}

func TestChecks(t *testing.T) {
	for name, tt := range map[string]struct {
		keys []func(*keylist.Key)
		want map[CheckID]Status
	}{
		"no keys":                {nil, map[CheckID]Status{checkRotation: NotChecked, checkDeletion: NotChecked, checkPublic: NotChecked, checkOutside: NotChecked, checkBuckets: NotChecked}},
		"healthy":                {[]func(*keylist.Key){nil}, map[CheckID]Status{checkRotation: Pass, checkDeletion: Pass, checkPublic: Pass, checkOutside: Pass}},
		"one does not rotate":    {[]func(*keylist.Key){nil, off}, map[CheckID]Status{checkRotation: Fail, checkDeletion: Pass}},
		"one is dying":           {[]func(*keylist.Key){dying, nil}, map[CheckID]Status{checkDeletion: Fail, checkRotation: Pass}},
		"only one, dying":        {[]func(*keylist.Key){dying}, map[CheckID]Status{checkDeletion: Fail, checkRotation: NotChecked}},
		"one is open":            {[]func(*keylist.Key){nil, open}, map[CheckID]Status{checkPublic: Fail, checkOutside: Fail, checkRotation: Pass}},
		"one is granted":         {[]func(*keylist.Key){nil, granted}, map[CheckID]Status{checkPublic: Pass, checkOutside: Fail}},
		"a policy unread":        {[]func(*keylist.Key){nil, unreadPolicy}, map[CheckID]Status{checkPublic: NotChecked, checkOutside: NotChecked, checkRotation: Pass, checkDeletion: Pass}},
		"a key unread":           {[]func(*keylist.Key){nil, unread}, map[CheckID]Status{checkPublic: NotChecked, checkOutside: NotChecked, checkRotation: NotChecked, checkDeletion: NotChecked}},
		"unread and open":        {[]func(*keylist.Key){unread, open}, map[CheckID]Status{checkPublic: Fail}},
		"granted, policy unread": {[]func(*keylist.Key){func(k *keylist.Key) { granted(k); unreadPolicy(k) }}, map[CheckID]Status{checkPublic: NotChecked, checkOutside: Fail}},
		"AWS managed":            {[]func(*keylist.Key){func(k *keylist.Key) { k.Manager, k.State = "AWS", "PendingDeletion" }}, map[CheckID]Status{checkDeletion: NotChecked}},
	} {
		t.Run(name, func(t *testing.T) {
			var keys []keylist.Key
			for i, change := range tt.keys {
				keys = append(keys, key(i, change))
			}
			r := makeOf(listOf(keys...), NoHistory("no state"))
			for id, want := range tt.want {
				if c := r.Check(id); c.Status != want || c.Summary == "" {
					t.Errorf("%s: %s (%s), want %s", id, c.Status, c.Summary, want)
				}
			}
			for _, id := range []CheckID{checkIAMManaged, checkIAMInline, checkTrail, checkEBS, checkWatched, checkRepaired} {
				if c := r.Check(id); c.Status != NotChecked {
					t.Errorf("%s is %s", id, c.Status)
				}
			}
		})
	}
}

func TestEBSByDefault(t *testing.T) {
	for want, setting := range map[Status]Setting{
		Pass:       {Read: keylist.Read{At: made}, On: true},
		Fail:       {Read: keylist.Read{At: made}},
		NotChecked: {Read: keylist.Read{At: made, NotKnown: "access denied"}, On: true},
	} {
		c := Make(Input{Made: made, Keys: listOf(), EBS: setting, History: emptyHistory()}).Check(checkEBS)
		if c.Status != want || len(c.Evidence) != 1 || !c.Evidence[0].At.Equal(made) || c.Evidence[0].Status != want {
			t.Errorf("%+v: %+v", setting, c)
		}
	}
}

func TestTrailsEncrypted(t *testing.T) {
	trail := func(account, key string) Trail {
		return Trail{Name: "main", ARN: "arn:aws:cloudtrail:eu-west-1:" + account + ":trail/main", Key: key}
	}
	read := keylist.Read{At: made}
	for name, tt := range map[string]struct {
		trails Trails
		want   []Status // of the check, and then of its evidence
	}{
		"not read":                 {Trails{}, []Status{NotChecked, NotChecked}},
		"access denied":            {Trails{Read: keylist.Read{At: made, NotKnown: "access denied"}}, []Status{NotChecked, NotChecked}},
		"no trail":                 {Trails{Read: read}, []Status{NotChecked}},
		"encrypted":                {Trails{read, []Trail{trail(account, "k")}}, []Status{Pass, Pass}},
		"one is not":               {Trails{read, []Trail{trail(account, "k"), trail(account, "")}}, []Status{Fail, Fail, Pass}},
		"organization, key shown":  {Trails{read, []Trail{trail("999988887777", "k")}}, []Status{Pass, Pass}},
		"organization, none shown": {Trails{read, []Trail{trail(account, "k"), trail("999988887777", "")}}, []Status{NotChecked, NotChecked, Pass}},
	} {
		c := Make(Input{Made: made, Keys: listOf(), Trails: tt.trails, History: emptyHistory()}).Check(checkTrail)
		got := []Status{c.Status}
		for _, e := range c.Evidence {
			got = append(got, e.Status)
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestWatched(t *testing.T) {
	sweep := func(ago time.Duration, whole bool, unread int) Sweep {
		return Sweep{Began: made.Add(-ago - time.Minute), Ended: made.Add(-ago), Whole: whole, Keys: 5, Unread: unread}
	}
	for name, tt := range map[string]struct {
		sweeps []Sweep
		why    string
		want   Status
	}{
		"none":         {nil, "", NotChecked},
		"unread":       {[]Sweep{sweep(time.Hour, true, 0)}, "access denied", NotChecked},
		"lately":       {[]Sweep{sweep(30*time.Hour, false, 0), sweep(time.Hour, true, 0)}, "", Pass},
		"long ago":     {[]Sweep{sweep(4*time.Hour, true, 0)}, "", Fail},
		"a while ago":  {[]Sweep{sweep(170*time.Minute, true, 0)}, "", Pass},
		"not whole":    {[]Sweep{sweep(time.Hour, false, 0)}, "", Fail},
		"not all read": {[]Sweep{sweep(time.Hour, true, 3)}, "", NotChecked},
	} {
		h := emptyHistory()
		h.Sweeps, h.SweepsNotKnown = tt.sweeps, tt.why
		if c := makeOf(listOf(), h).Check(checkWatched); c.Status != tt.want {
			t.Errorf("%s: %s (%s), want %s", name, c.Status, c.Summary, tt.want)
		}
	}
}

func TestBucketsCheck(t *testing.T) {
	l := listOf()
	l.Buckets = []keylist.Bucket{{Name: "a", KMS: true, Key: "k", At: made}, {Name: "b", KMS: true, At: made}}
	if c := makeOf(l, emptyHistory()).Check(checkBuckets); c.Status != Pass || c.Passed != 2 {
		t.Errorf("%+v", c)
	}
	l.NotKnown = []string{"buckets: 2 buckets cannot be read"}
	if c := makeOf(l, emptyHistory()).Check(checkBuckets); c.Status != NotChecked {
		t.Errorf("some unread: %+v", c)
	}
	l.Buckets = append(l.Buckets, keylist.Bucket{Name: "c", At: made})
	if c := makeOf(l, emptyHistory()).Check(checkBuckets); c.Status != Fail || !strings.Contains(c.Summary, "cannot be read") {
		t.Errorf("one fails: %+v", c)
	}
}

// TestFrameworks: each control has a number, a title and a check that exists; each
// framework has sources with a day; and a control is no better than the worst of its checks.
func TestFrameworks(t *testing.T) {
	r := makeOf(listOf(key(1, nil), key(2, off)), NoHistory("no state"))
	asked := map[CheckID]bool{}
	for _, f := range r.Frameworks {
		if f.Name == "" || f.Version == "" || len(f.Sources) == 0 || len(f.Controls) == 0 {
			t.Errorf("framework %+v", f)
		}
		for _, s := range f.Sources {
			if _, err := time.Parse(time.DateOnly, s.Read); err != nil || !strings.HasPrefix(s.URL, "https://") || s.Title == "" {
				t.Errorf("%s: source %+v", f.Name, s)
			}
		}
		for _, c := range f.Controls {
			if c.ID == "" || c.Title == "" || len(c.Checks) == 0 {
				t.Errorf("%s: control %+v", f.Name, c)
			}
			worst := Pass
			for _, id := range c.Checks {
				asked[id] = true
				if s := r.Check(id).Status; s == Fail || s == NotChecked && worst == Pass {
					worst = s
				}
			}
			if got := r.Status(c); got != worst {
				t.Errorf("%s %s is %s, its checks %s", f.Name, c.ID, got, worst)
			}
		}
	}
	for _, d := range definitions {
		if !asked[d.id] {
			t.Errorf("no framework asks for %s", d.id)
		}
		if c := r.Check(d.id); c.Title == "" || c.How == "" || c.Fix == "" || c.Severity == "" {
			t.Errorf("check %+v", c)
		}
	}
	if s := r.Status(Control{}); s != NotChecked {
		t.Errorf("a control without checks is %s", s)
	}
	if s := r.Status(Control{Checks: []CheckID{"none"}}); s != NotChecked {
		t.Errorf("a control with an unknown check is %s", s)
	}
}

// history is one in which everything has happened.
func history() History {
	h := emptyHistory()
	for i := range 40 {
		began := made.Add(-time.Duration(40-i) * 12 * time.Hour)
		h.Sweeps = append(h.Sweeps, Sweep{
			Began: began, Ended: began.Add(3 * time.Minute), Whole: true, Keys: 100, CanRotate: 80, Rotates: 40 + i,
			Repairs: i % 2,
		})
		if s := &h.Sweeps[i]; i < 4 { // of a former build
			s.Open = map[string]int{"high": 2}
		} else {
			s.Dangers, s.DangersOf = map[string]int{"critical": i % 3, "high": 4, "medium": 40 - i}, 100
		}
	}
	var rotation Repairs
	rotation.add(&ledger.Party{At: made}, made.Add(3*time.Second))
	rotation.add(&ledger.Party{At: made, Unconfirmed: true}, made.Add(5*time.Second))
	rotation.add(nil, made)
	rotation.add(&ledger.Party{At: made}, made.Add(-time.Second))
	h.Repairs = rotation
	h.Repairs.By = map[string]Repairs{"rotation": rotation}
	h.Stopped = []Stopped{{Key: "arn:aws:kms:x", Reaction: "rotation", At: made}}
	h.Approved = []Approved{{Key: "arn:aws:kms:y", By: "ada", At: made, Days: 7, Unknown: []string{"last-use"}}}
	h.Accepted = []Accepted{{Key: "arn:aws:kms:z", Version: 2, By: "ada", At: made}}
	h.Jobs = []reencrypt.Summary{
		{Job: "job-1", Bucket: "data", Prefix: "p/", From: []string{"old"}, To: "new", State: reencrypt.StateComplete, Counts: reencrypt.Counts{Scanned: 10, Moved: 9, Refused: 1}, Report: "s3://state/report", Started: made, Finished: made},
		{Job: "job-2", Bucket: "data", State: reencrypt.StateStopped, Cause: "denied", Started: made},
	}
	h.Canary = Canary{Measured: 2, Mean: 3, Longest: 4, Lost: 1}
	return h
}

func TestRepairTimes(t *testing.T) {
	r := history().Repairs
	if r.Count != 4 || r.Measured != 2 || r.Unconfirmed != 1 || r.Mean != 4 || r.Longest != 5 || !strings.Contains(r.text(), "4s on average, at most 5s") {
		t.Errorf("%+v: %s", r, r.text())
	}
}

// whole is a report in which everything is there.
func whole(t testing.TB) Report {
	t.Helper()
	exemptions, err := judgement.ParseExemptions("rotation of alias/app-2 until 2999-01-01: later; deletion by role/x until 2020-01-01: a drill", []string{"rotation", "deletion"})
	if err != nil {
		t.Fatal(err)
	}
	l := listOf(key(1, open), key(2, func(k *keylist.Key) {
		off(k)
		k.Dangers[0].Exempt = exemptions[0].String()
		k.Exemptions = []keylist.Exemption{{Covers: exemptions[0].Covers(), By: "alias/app-2", Until: exemptions[0].Until(), Reason: exemptions[0].Reason}}
	}), key(3, granted), key(4, dying), key(5, unreadPolicy), key(6, nil), key(7, unread))
	l.Buckets = []keylist.Bucket{{Name: "data", KMS: true, Key: l.Keys[0].ARN, At: made}, {Name: "plain", At: made}}
	l.NotKnown = []string{"buckets: get encryption of bucket x: access denied"}
	r := Make(Input{Made: made, By: "arn:aws:iam::" + account + ":user/ada", Version: "v1", Keys: l, RotationPeriodDays: 365, Exemptions: exemptions, History: history()})
	if e := r.Exemptions; len(e) != 2 || e[0].Keys != 1 || e[0].Dangers != 1 || !e[0].Holds || e[1].Holds || e[1].Keys != 0 {
		t.Errorf("exemptions: %+v", e)
	}
	return r
}

// page is the page as a strict reader of XML sees it: the text, and the names that occur.
func page(t testing.TB, r Report) (html, seen string, names map[string]bool) {
	t.Helper()
	html, names = r.Page(), map[string]bool{}
	var all strings.Builder
	d := xml.NewDecoder(strings.NewReader(html))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return html, all.String(), names
		}
		if err != nil {
			t.Fatalf("the page is not well-formed: %v", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			names[token.Name.Local] = true
			for _, a := range token.Attr {
				names[token.Name.Local+" "+a.Name.Local] = true
				if a.Name.Local == "href" && !strings.HasPrefix(a.Value, "#") {
					t.Errorf("a link to elsewhere: %s", a.Value)
				}
			}
		case xml.CharData:
			all.Write(token)
			all.WriteByte('\n')
		}
	}
}

func TestPage(t *testing.T) {
	html, seen, names := page(t, whole(t))
	if _, seen, _ := page(t, makeOf(listOf(), NoHistory("no state"))); !strings.Contains(seen, "How long an event needs on its way to cmkeeper is not known: no state.") {
		t.Error("without a state, the page says how long events need")
	}
	for _, want := range []string{
		"Keys of account 111122223333 in eu-central-1", "alias/app-4", "The key will be deleted.", "✗ fail", "✓ pass", "? not checked",
		"rotation of alias/app-2 until 2999-01-01: later", "no, expired", "buckets: get encryption of bucket x: access denied",
		"a verifying pass found all but 1 object versions under the new key", "no proof: the job is stopped; denied", "4 settings were put back.",
		"An event needs 3s on average from the call to cmkeeper, at most 4s (2 measured). The last 1 did not come back.", "CIS AWS Foundations Benchmark, 5.0.0", "3.7.4", "164.312(a)(2)(iv)", "CC6.1", "Since 2026-11-11: earlier records do not have the dangers of all keys.", "2 high (keys, by their policies alone)", "SC-12(2)", "KMS GetKeyRotationStatus, 2026-11-29",
	} {
		if !strings.Contains(seen, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if !strings.HasPrefix(html, "<!DOCTYPE html>\n<html lang=\"en\">") || strings.Count(html, `http-equiv="Content-Security-Policy"`) != 1 {
		t.Error("no doctype, or not one content security policy")
	}
	for _, never := range []string{"script", "img", "link", "iframe", "object", "form", "input", "base"} {
		if names[never] {
			t.Errorf("the page has an element %s", never)
		}
	}
	for n := range names {
		if _, attribute, _ := strings.Cut(n, " "); attribute == "style" || attribute == "src" || strings.HasPrefix(attribute, "on") {
			t.Errorf("the page has an attribute %s", n)
		}
	}
	begin, end := strings.Index(html, "<style>")+len("<style>"), strings.Index(html, "</style>")
	if policy := "sha256-" + hash(html[begin:end]); !strings.Contains(html, policy) || !strings.Contains(html, "default-src &#39;none&#39;") {
		t.Errorf("the content security policy does not name the style sheet's hash %s", policy)
	}
	if strings.Count(html, `role="img"`) != 4 {
		t.Errorf("%d drawings", strings.Count(html, `role="img"`))
	}
}

// hostile is text that does something to a page, a spreadsheet or a terminal.
const hostile = "=cmd|' /C calc'!A0</style></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;]]>\x1b[31m\u202e\u009b2J\u0000\xff"

// poison puts hostile text into every string that can be reached, and counts them.
func poison(v reflect.Value) (n int) {
	switch v.Kind() {
	case reflect.String:
		if v.CanSet() && v.Type() == reflect.TypeFor[string]() {
			v.SetString(hostile)
			return 1
		}
	case reflect.Pointer:
		if !v.IsNil() {
			return poison(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			n += poison(v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			n += poison(v.Index(i))
		}
	case reflect.Map:
		if v.Type().Key().Kind() == reflect.String && v.Type().Elem().Kind() == reflect.String && !v.IsNil() {
			v.SetMapIndex(reflect.ValueOf(hostile).Convert(v.Type().Key()), reflect.ValueOf(hostile))
		}
	default: // numbers and times
	}
	return n
}

func TestHostileTexts(t *testing.T) {
	r := whole(t)
	_, _, healthy := page(t, r)
	r.Keys.Keys[0].Tags = keylist.Tags{Read: keylist.Read{At: made}, Values: map[string]string{}}
	poisoned := 0
	for _, part := range []any{&r.Keys, &r.Exemptions, &r.History, &r.Checks, &r.Trails, &r.By, &r.Version} {
		poisoned += poison(reflect.ValueOf(part))
	}
	if poisoned < 200 {
		t.Fatalf("only %d texts were changed", poisoned)
	}
	html, seen, names := page(t, r)
	for n := range names {
		if !healthy[n] {
			t.Errorf("a text has made %s", n)
		}
	}
	if !strings.Contains(seen, "<img src=x onerror=alert(1)>") || !strings.Contains(seen, `\x1b[31m\u202e\u009b2J\x00\xff`) {
		t.Error("the text is not shown")
	}
	var table, list, findings, document bytes.Buffer
	err := errors.Join(keylist.WriteCSV(&table, r.CSV()), keylist.WriteCSV(&list, r.Keys.CSV()), r.OCSF(&findings), json.NewEncoder(alert.JSONWriter{W: &document}).Encode(r))
	if err != nil {
		t.Fatal(err)
	}
	for name, out := range map[string]string{"page": html, "report.csv": table.String(), "keys.csv": list.String(), "OCSF": findings.String(), "JSON": document.String()} {
		if strings.ContainsAny(out, "\x1b\u202e\u009b\x00") || strings.Contains(out, "\xff") {
			t.Errorf("%s has characters that a terminal acts on", name)
		}
	}
	for name, out := range map[string]string{"report.csv": table.String(), "keys.csv": list.String()} {
		rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
		if err != nil || len(rows) < 2 {
			t.Fatalf("%s: %d rows, %v", name, len(rows), err)
		}
		for _, row := range rows {
			for _, c := range row {
				if c != "" && strings.ContainsAny(c[:1], "=+-@\t\r") {
					t.Errorf("%s has a formula: %q", name, c)
				}
			}
		}
	}
}

// FuzzText: any text is shown as alert.Escape shows it, in text and in attributes, and
// makes no element.
func FuzzText(f *testing.F) {
	f.Add(hostile)
	f.Add("]]>")
	f.Add("a&b;c<d>e\"f'g\\\n\t")
	f.Fuzz(func(t *testing.T, s string) {
		var b strings.Builder
		el("p", []attribute{attr("title", s)}, text(s))(&b)
		var got struct {
			Title string `xml:"title,attr"`
			Text  string `xml:",chardata"`
			Other []struct {
				XMLName xml.Name
			} `xml:",any"`
		}
		if err := xml.Unmarshal([]byte(b.String()), &got); err != nil {
			t.Fatalf("%q: %v", b.String(), err)
		}
		if want := alert.Escape(s); got.Title != want || got.Text != want || len(got.Other) > 0 {
			t.Errorf("%q is read as %+v", b.String(), got)
		}
	})
}

// TestThousandsOfKeys: the page's figures are those of the list.
func TestThousandsOfKeys(t *testing.T) {
	var keys []keylist.Key
	changes := []func(*keylist.Key){nil, off, dying, open, granted, unreadPolicy, nil, nil}
	for i := range 5000 {
		keys = append(keys, key(i, changes[i%len(changes)]))
	}
	r := makeOf(listOf(keys...), history())
	html, seen, _ := page(t, r)
	ids := map[string]bool{}
	for _, id := range regexp.MustCompile(`key/[0-9a-f-]{36}`).FindAllString(html, -1) {
		ids[id] = true
	}
	if len(ids) != len(keys) {
		t.Errorf("%d keys are on the page", len(ids))
	}
	c := r.Check(checkRotation)
	if c.Failed != r.Keys.Totals.Rotation.Off || c.Passed != r.Keys.Totals.Rotation.On || c.Failed != 625 {
		t.Errorf("rotation: %s, %+v", c.Summary, r.Keys.Totals.Rotation)
	}
	if c := r.Check(checkDeletion); c.Failed != r.Keys.Totals.ByState["PendingDeletion"] {
		t.Errorf("deletion: %s", c.Summary)
	}
	if !strings.Contains(seen, "625 of 4375 customer managed keys fail.") || !strings.Contains(seen, "5000\n") {
		t.Error("the page does not have the figures")
	}
}

// requiredByOCSF are the attributes that OCSF 1.8.0 requires of a Compliance Finding with
// the profile cloud: events/base_event.json, events/findings/finding.json and
// compliance_finding.json, objects/metadata.json, finding_info.json, remediation.json,
// cloud.json, product.json with _entity.json, and profiles/cloud.json, at the commit
// "v1.8.0 prep", 3dcb905d, of https://github.com/ocsf/ocsf-schema.
var requiredByOCSF = []string{
	"activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid", "finding_info", "compliance", "cloud",
	"metadata.product", "metadata.version", "metadata.product.name", "finding_info.uid", "remediation.desc", "cloud.provider",
}

func TestOCSF(t *testing.T) {
	var b bytes.Buffer
	if err := whole(t).OCSF(&b); err != nil {
		t.Fatal(err)
	}
	uids := map[string]bool{}
	statuses := map[float64]int{}
	for line := range strings.Lines(b.String()) {
		var f map[string]any
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatal(err)
		}
		at := func(path string) any {
			var v any = f
			for name := range strings.SplitSeq(path, ".") {
				m, _ := v.(map[string]any)
				v = m[name]
			}
			return v
		}
		for _, path := range requiredByOCSF {
			if v := at(path); v == nil || v == "" || v == 0.0 {
				t.Errorf("%s has no %s", at("finding_info.uid"), path)
			}
		}
		if f["class_uid"] != 2003.0 || f["category_uid"] != 2.0 || f["type_uid"] != f["class_uid"].(float64)*100+f["activity_id"].(float64) || at("metadata.version") != "1.8.0" {
			t.Errorf("not a compliance finding: %s", line)
		}
		uid := at("finding_info.uid").(string)
		if uids[uid] {
			t.Errorf("two findings %s", uid)
		}
		uids[uid] = true
		status := at("compliance.status_id").(float64)
		statuses[status]++
		if (status == 3) != (f["severity_id"].(float64) > 1) {
			t.Errorf("severity %v of a check that is %v", f["severity_id"], at("compliance.status"))
		}
	}
	if d := cmp.Diff([]bool{true, true, true}, []bool{statuses[1] > 0, statuses[2] > 0, statuses[3] > 0}); d != "" || len(statuses) != 3 {
		t.Errorf("statuses: %v", statuses)
	}
	if !strings.Contains(b.String(), `"status":"Suppressed"`) {
		t.Error("what is exempt is not suppressed")
	}
}

// The same resource is the same finding in every report, whatever it came to; only its
// times tell the reports apart.
func TestOCSFFindingsLast(t *testing.T) {
	type finding struct {
		Time int64 `json:"time"`
		Info struct {
			UID      string `json:"uid"`
			Modified int64  `json:"modified_time"`
		} `json:"finding_info"`
		Compliance struct {
			Status string `json:"status"`
		} `json:"compliance"`
	}
	findings := func(at time.Time, change func(*keylist.Key)) map[string]finding {
		k := key(1, change)
		for _, r := range []*keylist.Read{&k.Described, &k.Rotation.Read, &k.Policy.Read, &k.Grants.Read} {
			r.At = at.Add(-time.Minute)
		}
		var b bytes.Buffer
		if err := Make(Input{Made: at, Keys: listOf(k), History: NoHistory("no state")}).OCSF(&b); err != nil {
			t.Fatal(err)
		}
		all := map[string]finding{}
		for d := json.NewDecoder(&b); d.More(); {
			var f finding
			if err := d.Decode(&f); err != nil {
				t.Fatal(err)
			}
			if f.Info.Modified != at.UnixMilli() {
				t.Errorf("%s was modified at %d", f.Info.UID, f.Info.Modified)
			}
			all[f.Info.UID] = f
		}
		return all
	}
	later := made.AddDate(0, 0, 7)
	before, after := findings(made, nil), findings(later, off)
	if d := cmp.Diff(slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after))); d != "" {
		t.Errorf("the reports have other findings: %s", d)
	}
	uid := "cmkeeper/" + account + "/eu-central-1/KMS.4/" + key(1, nil).ARN
	if b, a := before[uid], after[uid]; b.Compliance.Status != "Pass" || a.Compliance.Status != "Fail" || a.Time != later.Add(-time.Minute).UnixMilli() || b.Time == a.Time {
		t.Errorf("%s: %+v, then %+v", uid, b, a)
	}
}

func TestCSV(t *testing.T) {
	r := whole(t)
	rows := r.CSV()
	for _, row := range rows {
		if len(row) != len(rows[0]) {
			t.Fatalf("%d cells: %q", len(row), row)
		}
	}
	if !slices.ContainsFunc(rows, func(row []string) bool {
		return row[0] == "PCI DSS" && row[2] == "3.7.4" && row[5] == "KMS.4" && row[9] == r.Keys.Keys[1].ARN && row[11] == "fail" && strings.Contains(row[15], "later")
	}) {
		t.Error("the evidence of a control is missing")
	}
}
