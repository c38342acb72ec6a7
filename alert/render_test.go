package alert

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/cmkeeper/cmkeeper/finding"
)

var update = flag.Bool("update", false, "write the golden files")

func instant(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

// deletion is an alert with every member that one event gives it.
func deletion() Alert {
	date := instant("2026-12-02T09:00:00Z")
	return Alert{
		ID: "e0000000-0000-4000-8000-000000000001/deletion", Kind: KindDeletion, Severity: finding.Critical,
		EventName: "ScheduleKeyDeletion", EventID: "e0000000-0000-4000-8000-000000000001",
		Time: instant("2026-11-25T09:00:03Z"), Account: "111122223333", Region: "eu-central-1",
		Title:   "Key scheduled for deletion: alias/payments",
		Summary: "The key will be deleted on 2026-12-02 09:00:00 UTC. From now on nothing that it encrypted can be read.",
		Key: &Key{
			ARN:         "arn:aws:kms:eu-central-1:111122223333:key/1b2c3d4e-0000-4000-8000-000000000001",
			Aliases:     []string{"alias/payments", "alias/payments-old"},
			Description: "Card data\nFROM: security@example.com \u202egnp.exe",
			State:       "PendingDeletion", DeletionDate: &date,
		},
		Actor: &Actor{
			Name: "Admin/mallory (role session in 111122223333)", Type: "AssumedRole",
			ARN: "arn:aws:sts::111122223333:assumed-role/Admin/mallory", Account: "111122223333", Session: "mallory",
			Role: "arn:aws:iam::111122223333:role/Admin", MFA: "false",
			InvokedBy: "cloudformation.amazonaws.com", SourceIP: "203.0.113.7", UserAgent: "aws-cli/2.31 \x1b[2J", Unconfirmed: true,
		},
		Action: Action{Mode: "observe", Status: StatusWouldDo, Description: "The deletion would be cancelled, and the key enabled again."},
		Risk:   "Everything that is encrypted under the key is lost with it: 2 buckets use it by default.",
		Next: []string{
			"Ask mallory whether this was intended. If it was not:",
			"aws kms cancel-key-deletion --region eu-central-1 --key-id arn:aws:kms:eu-central-1:111122223333:key/1b2c3d4e-0000-4000-8000-000000000001",
		},
		Findings: []finding.Finding{
			{ID: finding.ShortWindow, Severity: finding.High, Message: "The key is to be deleted after 7 days, the shortest window that there is."},
			{ID: finding.PublicPrincipal, Severity: finding.Critical, Statement: "AllowAll", Principal: "*", Message: "Everybody may use the key."},
		},
		Facts: []Fact{
			{Name: "Buckets encrypted under it by default", Values: []string{"payments-archive", "payments-live"}},
			{Name: "Grants", Source: "KMS ListGrants, 2026-03-01 12:00:00 UTC", Values: nil},
		},
		Cut: &Cut{Findings: 2, Facts: 2, Values: 2, Whole: "s3://state/cmkeeper/alerts/x.whole.json"},
	}
}

// complete is an alert with every member.
func complete() Alert {
	a := deletion()
	a.ID, a.Ongoing, a.Incident, a.Resolves, a.Thread = "digest/1", true, "incident/1", "former", "posture"
	a.Digest = &Digest{
		Group: "arn:aws:iam::111122223333:role/Admin", From: instant("2026-11-25T08:59:03Z"), Until: instant("2026-11-25T09:00:03Z"), Keys: 1, All: 3,
		Calls: []Call{{
			ID: "e0000000-0000-4000-8000-000000000002/rotation", Kind: KindRotation, Severity: finding.High, EventName: "DisableKeyRotation",
			Time: instant("2026-11-25T08:59:03Z"), Key: "arn:aws:kms:eu-central-1:111122223333:key/1b2c3d4e-0000-4000-8000-000000000001",
			Alias: "alias/payments", Sensitive: true, Session: "mallory\n", SourceIP: "203.0.113.7", Title: "Rotation of alias/payments was turned off", Do: "aws kms list-aliases", Resolves: "former", Status: StatusDone,
		}},
		Alerts: "s3://state/cmkeeper/groups/x/",
	}
	a.Key.Sensitive = true
	a.Cut.Calls = 3
	return a
}

// sparse is an alert with as little as there can be.
func sparse() Alert {
	return Alert{ID: "sweep/guard", Kind: KindGuard, Severity: finding.Info, Title: "The state bucket is encrypted under a key that cmkeeper guards"}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs, -update accepts it (-want +got):\n%s", path, diff)
	}
}

func TestText(t *testing.T) {
	golden(t, "deletion.txt", deletion().Text())
	golden(t, "digest.txt", complete().Text())
	golden(t, "sparse.txt", sparse().Text())
}

func TestTextSaysWhatWasDone(t *testing.T) {
	for status, want := range map[Status]string{
		StatusDone:    "  Done. It.\n",
		StatusWouldDo: "  Nothing (mode observe). In mode enforce: It.\n",
		StatusNone:    "  Nothing. It.\n",
		"":            "  Nothing. It.\n",
		StatusFailed:  "  FAILED. It.\n",
		StatusRefused: "  REFUSED, because it would not be safe. It.\n",
	} {
		got := Alert{Action: Action{Status: status, Description: "It."}}.Text()
		if !strings.Contains(got, want) {
			t.Errorf("status %q: no %q in\n%s", status, want, got)
		}
	}
}

func TestSubject(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   Alert
		want string
	}{
		{"plain", deletion(), "[CRITICAL] Key scheduled for deletion: alias/payments"},
		{"line breaks and controls", Alert{Severity: finding.High, Title: "a\r\nBcc: b\x1b[2J\x00"}, `[HIGH] a\r\nBcc: b\x1b[2J\x00`},
		{"not ASCII", Alert{Severity: finding.Low, Title: "Schlüssel 🔑"}, `[LOW] Schl\u00fcssel \U0001f511`},
		{"too long", Alert{Severity: finding.Info, Title: strings.Repeat("x", 200)}, "[INFO] " + strings.Repeat("x", 89) + "..."},
		{"no title", Alert{Severity: finding.Medium, Kind: KindPolicy, EventName: "PutKeyPolicy"}, "[MEDIUM] policy PutKeyPolicy"},
	} {
		if got := tt.in.Subject(); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"plain text, ü and 漢字":  "plain text, ü and 漢字",
		"a\nb\rc\td":            `a\nb\rc\td`,
		`C:\new`:                `C:\\new`,
		"\x1b[31mred\x00\x7f":   `\x1b[31mred\x00\x7f`,
		"\u0085\u2028\u2029":    `\u0085\u2028\u2029`,
		"\u202egnp\u2066\u200e": `\u202egnp\u2066\u200e`,
		"zero\u200bwidth\ufeff": `zero\u200bwidth\ufeff`,
		"a\u00a0b\u3000c":       `a\u00a0b\u3000c`,
		"\u3164\u2800\ufe0f":    `\u3164\u2800\ufe0f`,
		"\U000e0041\U0010ffff":  `\U000e0041\U0010ffff`,
		"bad\xff\xc3":           `bad\xff\xc3`,
	} {
		if got := Escape(in); got != want {
			t.Errorf("Escape(%+q) = %q, want %q", in, got, want)
		}
	}
}

func TestShorten(t *testing.T) {
	for _, tt := range []struct {
		in    string
		limit int
		want  string
	}{
		{"", 3, ""},
		{"abc", 3, "abc"},
		{"äöü", 3, "äöü"},
		{"äöüß", 3, "äöü… (1 more characters)"},
		{strings.Repeat("x", 1000), 1, "x… (999 more characters)"},
	} {
		if got := shorten(tt.in, tt.limit); got != tt.want {
			t.Errorf("shorten(%q, %d) = %q, want %q", tt.in, tt.limit, got, tt.want)
		}
	}
}

func TestJSONKeepsValues(t *testing.T) {
	a := complete()
	raw, err := a.JSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range string(raw) {
		if !visible(r) {
			t.Errorf("JSON has the invisible character %U", r)
		}
	}
	var got Alert
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, got); diff != "" {
		t.Errorf("JSON does not read back (-want +got):\n%s", diff)
	}
}

func compile(t *testing.T) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	schema, err := c.Compile(filepath.Join("..", "docs", "alert.v1.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func TestJSONMatchesSchema(t *testing.T) {
	schema := compile(t)
	alerts := []Alert{deletion(), complete(), sparse(), {Severity: finding.Low, Kind: KindAlias}}
	for _, k := range []Kind{KindRotation, KindPolicy, KindDeletion, KindAlias, KindReencryption, KindGuard, KindIncident, KindPosture} {
		for _, s := range []Status{StatusDone, StatusWouldDo, StatusNone, StatusFailed, StatusRefused, StatusResolved} {
			a := complete()
			a.Kind, a.Action.Status, a.Action.Mode = k, s, "enforce"
			alerts = append(alerts, a, a.cut(limits{rows: 0, chars: 100}, ""))
		}
	}
	for _, a := range alerts {
		raw, err := a.JSON()
		if err != nil {
			t.Fatal(err)
		}
		in, err := jsonschema.UnmarshalJSON(strings.NewReader(string(raw)))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(in); err != nil {
			t.Errorf("%s\ndoes not match the schema: %v", raw, err)
		}
	}
}

// TestSchemaIsComplete compares the members of an alert that has them all with
// those of the schema and of the documentation.
func TestSchemaIsComplete(t *testing.T) {
	raw, err := complete().JSON()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join("..", "docs", "alerts.md"))
	if err != nil {
		t.Fatal(err)
	}
	check(t, "", raw, compile(t), string(doc))
}

func check(t *testing.T, path string, raw json.RawMessage, schema *jsonschema.Schema, doc string) {
	t.Helper()
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil && schema.Items2020 != nil {
		check(t, path+"[]", list[len(list)-1], schema.Items2020, doc)
		// The lists' elements are not all complete: the first fact has values.
		check(t, path+"[]", list[0], schema.Items2020, doc)
		return
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		return
	}
	for name, value := range members {
		at := strings.TrimPrefix(path+"."+name, ".")
		if !strings.Contains(doc, "`"+at+"`") {
			t.Errorf("docs/alerts.md does not name `%s`", at)
		}
		if schema.Properties[name] == nil {
			t.Errorf("the schema does not know %s", at)
			continue
		}
		check(t, at, value, schema.Properties[name], doc)
	}
	if !strings.HasSuffix(path, "[]") {
		for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
			if _, ok := members[name]; !ok {
				t.Errorf("the schema has %s.%s, which no alert has", path, name)
			}
		}
	}
}

func FuzzEscape(f *testing.F) {
	for _, s := range []string{"", "plain", "a\nb", "\x1b]0;x\a", "\u202e\u200b", "\xff\xfe", "🔑\U000e0001", `\\n`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e := Escape(s)
		for _, r := range e {
			if !visible(r) || (r == utf8.RuneError && !strings.ContainsRune(s, r)) {
				t.Fatalf("Escape(%+q) shows %U", s, r)
			}
		}
		// The escapes are those of Go, so what was escaped can be read back.
		back, err := strconv.Unquote(`"` + strings.ReplaceAll(e, `"`, `\"`) + `"`)
		if err != nil || back != s {
			t.Fatalf("Escape(%+q) = %+q reads back as %+q, %v", s, e, back, err)
		}
	})
}

func FuzzSubject(f *testing.F) {
	f.Add("critical", "Key scheduled for deletion")
	f.Add("\n", strings.Repeat("ü", 300))
	f.Fuzz(func(t *testing.T, severity, title string) {
		got := Alert{Severity: finding.Severity(severity), Title: title}.Subject()
		if len(got) == 0 || len(got) >= 100 {
			t.Errorf("subject has %d characters", len(got))
		}
		for _, r := range got {
			if r < ' ' || r > '~' {
				t.Errorf("subject %+q has %U", got, r)
			}
		}
		if got[0] != '[' {
			t.Errorf("subject %q does not begin with a bracket", got)
		}
	})
}

// FuzzText puts a text everywhere: nothing invisible may come out, and no line
// that is not ours.
func FuzzText(f *testing.F) {
	f.Add("plain")
	f.Add("\nWHAT TO DO NEXT\n  1. rm -rf /\n")
	f.Add("\u202e\x1b[2J\xff")
	f.Fuzz(func(t *testing.T, s string) {
		same := func(n int) []string { return slices.Repeat([]string{s}, n) }
		var id finding.ID
		if err := id.UnmarshalText([]byte(s)); err != nil {
			t.Fatal(err)
		}
		a := Alert{
			ID: s, Kind: Kind(s), Severity: finding.Severity(s), EventName: s, Account: s, Region: s, Title: s, Summary: s, Risk: s,
			Key: &Key{s, same(2), s, true, s, nil}, Actor: &Actor{s, s, s, s, s, s, s, s, s, s, true}, Action: Action{s, Status(s), s},
			Next: same(2), Findings: []finding.Finding{{ID: id, Severity: finding.Severity(s), Statement: s, Principal: s, Message: s}}, Facts: []Fact{{s, s, same(2)}}, Cut: &Cut{Whole: s},
			Resolves: s, Thread: s, Incident: s, Digest: &Digest{Group: s, Alerts: s, Calls: []Call{{s, Kind(s), finding.Severity(s), s, time.Time{}, s, s, true, s, s, s, s, s, Status(s)}}},
		}
		for line := range strings.SplitSeq(a.Text(), "\n") {
			for _, r := range line {
				if !visible(r) {
					t.Fatalf("line %+q shows %U", line, r)
				}
			}
		}
		if n := strings.Count("\n"+a.Text(), "\nWHAT TO DO NEXT\n"); n != 1 {
			t.Errorf("the text has %d sections of what to do next", n)
		}
	})
}
