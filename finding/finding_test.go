package finding

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/bits"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSeverities(t *testing.T) {
	order := Severities()
	for i, s := range order {
		for j, u := range order {
			if got := s.AtLeast(u); got != (i >= j) {
				t.Errorf("%s at least %s: %t", s, u, got)
			}
		}
	}
	if !Severity("hihg").AtLeast(Critical) {
		t.Error("an unknown severity must not be less than critical")
	}
	for s, want := range map[Severity]Severity{Critical: High, High: Medium, Medium: Low, Low: Low, Info: Low, "hihg": High} {
		if got := s.Lower(); got != want {
			t.Errorf("%s is lowered to %s, want %s", s, got, want)
		}
	}
}

// TestRules wants every rule to be complete: the compiler only sees that no field
// was left out.
func TestRules(t *testing.T) {
	seen := map[ID]bool{}
	for _, r := range rules {
		switch {
		case r.ID.String() == "" || seen[r.ID]:
			t.Errorf("%q is no id, or defined twice", r.ID)
		case !slices.Contains(Severities(), r.Worst) || r.Effect&^(Fixed|Exposes) != 0:
			t.Errorf("%s: severity %q, effect %b", r.ID, r.Worst, r.Effect)
		case r.Title == "" || strings.HasSuffix(r.Title, "."):
			t.Errorf("%s: the title %q is empty or a sentence", r.ID, r.Title)
		case !strings.HasSuffix(r.Why, ".") || !strings.HasSuffix(r.Fix, ".") || !strings.HasSuffix(r.Risk, "."):
			t.Errorf("%s: Why, Fix and Risk are sentences: %+v", r.ID, r)
		case r.Effect&Exposes != 0 && !r.grants():
			t.Errorf("%s exposes the key, so its risk has to say what is granted: %q", r.ID, r.Risk)
		}
		seen[r.ID] = true
	}
	if got := len(Rules(OfPolicy)) + len(Rules(OfGrant)) + len(Rules(OfReaction)) + len(Rules(OfAccess)); got != len(rules) {
		t.Errorf("%d rules have a subject, of %d", got, len(rules))
	}
}

func TestImplications(t *testing.T) {
	for _, tt := range []struct {
		name           string
		f              Finding
		exposes, fixed bool
	}{
		{"public", Finding{ID: PublicPrincipal, Severity: High}, true, true},
		{"public, what for is known", Finding{ID: PublicPrincipal, Severity: High, Access: Encrypt}, true, true},
		{"an organization", Finding{ID: PublicPrincipal, Severity: High, Bound: true}, false, false},
		{"reads only", Finding{ID: PublicPrincipal, Severity: Medium}, false, false},
		{"grants through a service", Finding{ID: PublicThroughService, Severity: High}, true, true},
		{"through a service", Finding{ID: PublicThroughService, Severity: Medium}, false, false},
		{"all but some", Finding{ID: AllowNotPrincipal, Severity: High}, true, true},
		{"another account", Finding{ID: ForeignAccount, Severity: Critical}, true, true},
		{"another account, reads only", Finding{ID: ForeignAccount, Severity: Medium}, false, false},
		{"of the account", Finding{ID: FullControl, Severity: High}, false, false},
		{"lock-out", Finding{ID: Lockout, Severity: Critical}, false, true},
		{"check bypassed", Finding{ID: LockoutCheckBypassed, Severity: Medium}, false, true},
		{"grant", Finding{ID: GrantToForeignAccount, Severity: High, Access: Read}, true, true},
		{"grant to look", Finding{ID: GrantToForeignAccount, Severity: High, Access: Metadata}, false, true},
		{"grant within the account", Finding{ID: GrantWithoutConstraint, Severity: Low}, false, false},
		{"short window", Finding{ID: ShortWindow, Severity: Critical}, false, false},
		{"of another version", Finding{ID: ID{"quantum"}, Severity: High}, true, true},
	} {
		if exposes, fixed := tt.f.Exposes(), tt.f.Fixed(); exposes != tt.exposes || fixed != tt.fixed {
			t.Errorf("%s: exposes %t, fixed %t", tt.name, exposes, fixed)
		}
	}
}

func TestRisk(t *testing.T) {
	for _, tt := range []struct {
		name     string
		findings []Finding
		want     string
	}{
		{"nothing", nil, ""},
		{"encrypt only", []Finding{{ID: PublicPrincipal, Access: Encrypt}},
			"Anyone with an AWS account can encrypt under the key. This does not let them read what is encrypted under the key."},
		{"decrypt", []Finding{{ID: PublicPrincipal, Access: Read | Encrypt | Metadata}},
			"Anyone with an AWS account can read everything encrypted under the key."},
		{"everything", []Finding{{ID: ForeignAccount, Access: everything}},
			"An account that is not trusted can take the key over, read everything encrypted under the key and sign with the key."},
		{"not known", []Finding{{ID: PublicPrincipal}},
			"Anyone with an AWS account can take the key over, read everything encrypted under the key and sign with the key."},
		{"grants lead to reading", []Finding{{ID: PublicPrincipal, Access: Grant | Destroy}},
			"Anyone with an AWS account can give others access to the key by grants and disable or delete the key."},
		{"an action of the future", []Finding{{ID: PublicPrincipal, Access: Other}},
			"Anyone with an AWS account can call operations that cmkeeper does not know."},
		{"look", []Finding{{ID: ForeignAccount, Access: Metadata}},
			"An account that is not trusted can see the key's settings. This does not let them read what is encrypted under the key."},
		{"statements of one kind count together", []Finding{{ID: PublicPrincipal, Access: Encrypt}, {ID: PublicPrincipal, Access: Sign}, {ID: PublicPrincipal, Access: Read}},
			"Anyone with an AWS account can read everything encrypted under the key and sign with the key."},
		{"conditions", []Finding{{ID: PublicPrincipal, Bound: true, Access: Read}, {ID: PublicPrincipal, Access: Encrypt}},
			"Anyone with an AWS account can read everything encrypted under the key if they meet the statement's conditions. Anyone with an AWS account can encrypt under the key."},
		{"of different kinds", []Finding{{ID: Lockout}, {ID: PublicPrincipal, Access: Encrypt}, {ID: RewritableByUser, Access: Administer | Encrypt}},
			"Nobody in the account can change the policy, and only AWS Support can restore access. Anyone with an AWS account can encrypt under the key. " +
				"A principal that uses the key can change its policy, and so give itself and others every right."},
		{"of no principal", []Finding{{ID: GrantWithoutConstraint, Access: Encrypt}}, "The grant holds for everything that is encrypted under the key."},
		{"nothing granted", []Finding{{ID: ShortWindow}}, "There is little time to notice who still needs the key."},
	} {
		if diff := cmp.Diff(tt.want, Risk(tt.findings)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestAccess(t *testing.T) {
	for kind := Access(1); kind < everything; kind <<= 1 {
		if kind.String() == "" {
			t.Errorf("access %b has no words", kind)
		}
		if kind != Other && !slices.Contains(slices.Collect(maps.Values(operations)), kind) {
			t.Errorf("no operation gives %q", kind)
		}
	}
	if got := bits.OnesCount16(uint16(everything)); got != len(accessText) {
		t.Errorf("%d kinds of access, %d with words", got, len(accessText))
	}
	if got := AccessOf("kms:Decrypt", "Encrypt", "kms:Teleport"); got != Read|Encrypt|Other {
		t.Errorf("access %q", got)
	}
	if AccessOf() != 0 {
		t.Error("no operation gives access")
	}
}

func TestJSON(t *testing.T) {
	f := Finding{ID: PublicPrincipal, Severity: High, Statement: "S", Principal: "*", Message: "m", Bound: true, Access: Read}
	raw, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"id":"public-principal","severity":"high","statement":"S","principal":"*","message":"m"}`; string(raw) != want {
		t.Errorf("JSON %s, want %s", raw, want)
	}
	var back Finding
	if err := json.Unmarshal([]byte(`{"id":"quantum","severity":"high","message":"m"}`), &back); err != nil || back.ID.String() != "quantum" {
		t.Errorf("a finding of another version: %+v, %v", back, err)
	}
}

// TestDocument keeps the list of findings in docs/alerts.md true. With UPDATE_DOCS=1 it
// writes it. Those about policies are in docs/policy.md.
func TestDocument(t *testing.T) {
	const path, from, until = "../docs/alerts.md", "go test ./finding -->\n", "\n<!-- end of findings -->"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), from)
	_, after, ok2 := strings.Cut(rest, until)
	if !ok || !ok2 {
		t.Fatal("the marks of the findings are missing")
	}
	var b strings.Builder
	b.WriteString("\n| finding | at worst | what it means | what to do |\n|---|---|---|---|\n")
	for _, r := range slices.Concat(Rules(OfGrant), Rules(OfAccess), Rules(OfReaction)) {
		fmt.Fprintf(&b, "| `%s` | %s | %s. %s | %s |\n", r.ID, r.Worst, r.Title, r.Why, r.Fix)
	}
	want := before + from + b.String() + until + after
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(page)); diff != "" {
		t.Errorf("%s is not true any more; UPDATE_DOCS=1 go test ./finding writes it:\n%s", path, diff)
	}
}
