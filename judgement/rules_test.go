package judgement

import (
	"os"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // so that zones are there on every machine

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/finding"
)

func selectors(t *testing.T, list ...string) []Selector {
	t.Helper()
	var all []Selector
	for _, s := range list {
		one, err := ParseSelector(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
	return all
}

func hours(t *testing.T, s string) Hours {
	t.Helper()
	h, err := ParseHours(s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestJudge(t *testing.T) {
	rules := Rules{
		Sensitive: selectors(t, "tag class=restricted", "alias/prod-*"),
		Sandbox:   selectors(t, "tag env=sandbox"),
		Pipelines: []Principals{{"role/deploy-*"}},
		Hours:     hours(t, "Mon-Fri 08:00-18:00 Europe/Berlin"),
	}
	var (
		work      = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) // a Monday
		night     = work.Add(10 * time.Hour)
		person    = Actor{Principal: own + "user/alice"}
		pipeline  = Actor{Principal: own + "role/ci/deploy-keys"}
		root      = Actor{Principal: own + "root", Root: true}
		sensitive = Key{Tags: map[string]string{"class": "restricted"}}
		sandbox   = Key{Tags: map[string]string{"env": "sandbox"}}
		both      = Key{Aliases: []string{"alias/prod-1"}, Tags: sandbox.Tags}
	)
	tests := []struct {
		name string
		o    Occurrence
		want finding.Severity
		why  string // in the reasons; "" for none
	}{
		{"plain", Occurrence{Severity: finding.High, Actor: person, At: work}, finding.High, ""},
		{"nobody", Occurrence{Severity: finding.Medium, At: night}, finding.Medium, ""},
		{"sensitive", Occurrence{Severity: finding.High, Live: sensitive, Actor: person, At: work}, finding.Critical, "one up, because the key is sensitive (tag class=restricted)"},
		{"sensitive until a moment ago", Occurrence{Severity: finding.High, Live: Key{Tags: map[string]string{"class": "public"}}, Noted: sensitive, Actor: person, At: work}, finding.Critical, "the key is sensitive (tag class=restricted)"},
		{"sensitive, and critical already", Occurrence{Severity: finding.Critical, Live: sensitive, Actor: person, At: work}, finding.Critical, ""},
		{"info stays", Occurrence{Severity: finding.Info, Live: sensitive, Actor: root, At: night}, finding.Info, ""},
		{"a word of nobody's", Occurrence{Severity: "loud", Live: sensitive}, "loud", ""},
		{"root", Occurrence{Severity: finding.Medium, Actor: root, At: work}, finding.High, "the root user did it"},
		{"root without a second factor", Occurrence{Severity: finding.Medium, Actor: Actor{Principal: "r", Root: true, NoMFA: true}, At: work}, finding.Critical, "without a second factor"},
		{"stranger", Occurrence{Severity: finding.Medium, Actor: Actor{Principal: "x", Foreign: true}, At: work}, finding.High, "not trusted"},
		{"trusted account", Occurrence{Severity: finding.Medium, Actor: Actor{Principal: "x", Foreign: true, Trusted: true}, At: work}, finding.Medium, ""},
		{"pipeline", Occurrence{Severity: finding.High, Actor: pipeline, At: work}, finding.Medium, "a known pipeline did it (role/deploy-*)"},
		{"pipeline at night", Occurrence{Severity: finding.High, Actor: pipeline, At: night}, finding.Medium, "pipeline"},
		{"pipeline on a sensitive key", Occurrence{Severity: finding.High, Live: sensitive, Actor: pipeline, At: work}, finding.High, "one up, because the key is sensitive"},
		{"sandbox", Occurrence{Severity: finding.High, Live: sandbox, Lasting: sandbox, Actor: person, At: night}, finding.Medium, "the key is in the sandbox (tag env=sandbox)"},
		{"sandbox since a moment ago", Occurrence{Severity: finding.High, Live: sandbox, Actor: person, At: work}, finding.High, ""},
		{"sandbox, and sensitive", Occurrence{Severity: finding.High, Live: both, Lasting: both, Actor: person, At: work}, finding.Critical, "sensitive (alias/prod-1)"},
		{"pipeline in the sandbox", Occurrence{Severity: finding.Critical, Live: sandbox, Lasting: sandbox, Actor: pipeline, At: work}, finding.Medium, "one down"},
		{"low in the sandbox", Occurrence{Severity: finding.Low, Live: sandbox, Lasting: sandbox, Actor: pipeline, At: work}, finding.Info, "not below info"},
		{"never lowered", Occurrence{Severity: finding.Critical, Fixed: "the finding public-principal", Live: sandbox, Lasting: sandbox, Actor: pipeline, At: work}, finding.Critical,
			"not lowered although the key is in the sandbox (tag env=sandbox), because of the finding public-principal"},
		{"never lowered, and no reason to", Occurrence{Severity: finding.Critical, Fixed: "x", Live: sensitive, Actor: person, At: work}, finding.Critical, ""},
		{"at night", Occurrence{Severity: finding.Medium, Actor: person, At: night}, finding.High, "outside business hours (Mon,Tue,Wed,Thu,Fri 08:00-18:00 Europe/Berlin)"},
		{"high at night", Occurrence{Severity: finding.High, Actor: person, At: night}, finding.High, ""},
		{"low at night", Occurrence{Severity: finding.Low, Actor: person, At: night}, finding.Low, ""},
		{"an AWS service at night", Occurrence{Severity: finding.Medium, Actor: Actor{Principal: "ebs.amazonaws.com", Service: true}, At: night}, finding.Medium, ""},
		{"sensitive at night", Occurrence{Severity: finding.Low, Live: sensitive, Actor: person, At: night}, finding.High, "up to high"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := rules.Judge(tt.o)
			if got.Severity != tt.want {
				t.Errorf("severity %s, want %s: %q", got.Severity, tt.want, got.Reasons)
			}
			why := strings.Join(got.Reasons, "\n")
			if !strings.Contains(why, tt.why) || (tt.why == "") != (why == "") {
				t.Errorf("reasons %q, want %q", why, tt.why)
			}
			if changed := got.Severity != tt.o.Severity; changed && !strings.HasPrefix(why, string(tt.o.Severity)+" for what happened\n") {
				t.Errorf("reasons %q do not begin with what it was", why)
			}
		})
	}
	if got := (Rules{}).Judge(Occurrence{Severity: finding.Medium, Actor: person, At: night}); got.Severity != finding.Medium {
		t.Errorf("without rules it is %+v", got)
	}
}

func BenchmarkJudge(b *testing.B) {
	rules := Rules{
		Sensitive: []Selector{{tag: "class", value: "restricted"}, {alias: "alias/prod-*"}},
		Sandbox:   []Selector{{tag: "env", value: "sandbox"}},
		Pipelines: []Principals{{"role/deploy-*"}},
	}
	key := Key{Aliases: []string{"alias/app", "alias/prod-orders"}, Tags: map[string]string{"env": "prod", "team": "a"}}
	o := Occurrence{Severity: finding.High, Live: key, Lasting: key, Actor: Actor{Principal: own + "role/ci/deploy-keys"}}
	for b.Loop() {
		rules.Judge(o)
	}
}

func TestParseSelector(t *testing.T) {
	for _, good := range []string{"alias/x", "alias/prod-*", "tag env=prod", "tag cost centre=4=2"} {
		if s, err := ParseSelector(" " + good + " "); err != nil || s.String() != good {
			t.Errorf("ParseSelector(%q) = %v, %v", good, s, err)
		}
	}
	for _, bad := range []string{"", "alias/", "prod", "tag", "tag env", "tag =x", "tag env=", "tags env=x"} {
		if s, err := ParseSelector(bad); err == nil {
			t.Errorf("ParseSelector(%q) = %v, want an error", bad, s)
		}
	}
}

func TestHours(t *testing.T) {
	berlin := "Europe/Berlin"
	tests := []struct {
		hours, at string
		want      bool
	}{
		{"Mon-Fri 08:00-18:00 " + berlin, "2026-07-06T06:00:00Z", true}, // summer time
		{"Mon-Fri 08:00-18:00 " + berlin, "2026-07-06T05:59:00Z", false},
		{"Mon-Fri 08:00-18:00 " + berlin, "2026-01-05T06:59:59Z", false}, // winter time
		{"Mon-Fri 08:00-18:00 " + berlin, "2026-01-05T16:59:59Z", true},
		{"Mon-Fri 08:00-18:00 " + berlin, "2026-01-05T17:00:00Z", false},
		{"Mon-Fri 08:00-18:00 " + berlin, "2026-01-10T12:00:00Z", false}, // a Saturday
		{"Mon-Fri 08:00-18:00 Asia/Tokyo", "2026-01-04T23:30:00Z", true}, // Sunday in UTC, Monday there
		{"Sun-Thu,Sat 00:00-24:00 UTC", "2026-01-10T23:59:59Z", true},
		{"Sun-Thu,Sat 00:00-24:00 UTC", "2026-01-09T12:00:00Z", false}, // a Friday
	}
	for _, tt := range tests {
		at, err := time.Parse(time.RFC3339, tt.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := hours(t, tt.hours).Include(at); got != tt.want {
			t.Errorf("%s includes %s: %v", tt.hours, tt.at, got)
		}
	}
	if !(Hours{}).Include(time.Now()) {
		t.Error("no hours are not always")
	}
}

func TestParseHoursNamesWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "must be DAYS FROM-TO ZONE",
		"Mon-Fri 08:00-18:00":         "must be DAYS FROM-TO ZONE",
		"Mon-Fry 08:00-18:00 UTC":     `"Mon-Fry" is no day`,
		"Mon,, 08:00-18:00 UTC":       `"" is no day`,
		"Mon-Fri 8-18 UTC":            `"8-18" must be two times`,
		"Mon-Fri 18:00-08:00 UTC":     "the earlier one first",
		"Mon-Fri 08:00-25:00 UTC":     "must be two times",
		"Mon-Fri 08:00-18:00 Germany": `"Germany" is no time zone`,
		"Mon-Fri 08:00-18:00 Local":   `"Local" is no time zone`,
	} {
		if _, err := ParseHours(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseHours(%q): error %v does not say %q", text, err, want)
		}
	}
}

func FuzzParseHours(f *testing.F) {
	f.Add("Mon-Fri 08:00-18:00 Europe/Berlin")
	f.Add("Sun-Thu,Sat 00:00-24:00 UTC")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseHours(text)
		if err != nil {
			return
		}
		again, err := ParseHours(h.String())
		if err != nil {
			t.Fatalf("%q cannot be read again: %v", h, err)
		}
		if h.days != again.days || h.from != again.from || h.to != again.to || h.zone.String() != again.zone.String() {
			t.Errorf("%q is read as %q", h, again)
		}
	})
}

// TestJudgementDocument keeps the table of docs/judgement.md true. With
// UPDATE_DOCS=1 it writes the table.
func TestJudgementDocument(t *testing.T) {
	const path = "../docs/judgement.md"
	const begin, end = "<!-- Made from the table in judgement/rules.go: UPDATE_DOCS=1 go test ./judgement -->\n", "<!-- end -->"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no table of the rules", path)
	}
	var b strings.Builder
	b.WriteString("\n| rule | when | severity |\n|---|---|---|\n")
	for _, r := range table {
		effect := "one up"
		if r.step < 0 {
			effect = "one down"
		}
		b.WriteString("| " + r.name + " | " + r.about + " | " + effect + " |\n")
	}
	b.WriteString("| " + hoursName + " | " + hoursAbout + " | up to high |\n\n")
	if os.Getenv("UPDATE_DOCS") != "" {
		got = b.String()
		if err := os.WriteFile(path, []byte(before+begin+got+end+after), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(b.String(), got); diff != "" {
		t.Errorf("%s is not what the table says; UPDATE_DOCS=1 go test ./judgement writes it:\n%s", path, diff)
	}
}
