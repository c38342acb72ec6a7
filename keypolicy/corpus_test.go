package keypolicy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// labelled is a policy with what should be found in it, and why. The labels were
// written before the analysis was run on them: one that it does not meet is a
// fault of the analysis, or is argued anew.
type labelled struct {
	Name, Why string
	// Account is the key's (111122223333), Trusted the trusted ones (444455556666).
	Account  string
	Trusted  []string
	Key      string
	Bypass   bool
	Policy   json.RawMessage
	Findings []brief
}

func (l labelled) context() Context {
	return Context{Account: l.Account, TrustedAccounts: l.Trusted, KeyARN: l.Key, BypassLockoutSafetyCheck: l.Bypass}
}

// labelledCorpus reads testdata/corpus.
func labelledCorpus(t testing.TB) map[string][]labelled {
	t.Helper()
	files, err := filepath.Glob("testdata/corpus/*.json")
	if err != nil {
		t.Fatal(err)
	}
	corpus := map[string][]labelled{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var cases []json.RawMessage
		if err := json.Unmarshal(data, &cases); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, raw := range cases {
			l := labelled{Account: "111122223333", Trusted: []string{"444455556666"}}
			if err := strict(raw, &l); err != nil {
				t.Fatalf("%s: %s: %v", file, l.Name, err)
			}
			corpus[strings.TrimSuffix(filepath.Base(file), ".json")] = append(corpus[strings.TrimSuffix(filepath.Base(file), ".json")], l)
		}
	}
	return corpus
}

func strict(data []byte, into any) error {
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// tally counts findings that were labelled and found.
type tally struct{ right, missed, wrong int }

func (c tally) recall() float64    { return ratio(c.right, c.right+c.missed) }
func (c tally) precision() float64 { return ratio(c.right, c.right+c.wrong) }

func ratio(part, whole int) float64 {
	if whole == 0 {
		return 1
	}
	return float64(part) / float64(whole)
}

// classes are the findings that must not be missed.
var classes = map[string][]string{
	"public":            {PublicPrincipal, PublicThroughService, AllowNotPrincipal},
	"untrusted account": {ForeignAccount},
	"lock-out":          {Lockout},
}

func TestLabelledCorpus(t *testing.T) {
	tallies := map[string]*tally{"all": {}}
	for class := range classes {
		tallies[class] = &tally{}
	}
	count := func(id string, add func(*tally)) {
		add(tallies["all"])
		for class, ids := range classes {
			if slices.Contains(ids, id) {
				add(tallies[class])
			}
		}
	}
	policies := 0
	var spent time.Duration
	for group, cases := range labelledCorpus(t) {
		for _, l := range cases {
			policies++
			start := time.Now()
			p, err := Parse(l.Policy)
			if err != nil {
				t.Errorf("%s/%s: %v", group, l.Name, err)
				continue
			}
			findings := p.Findings(l.context())
			spent += time.Since(start)
			got := briefs(findings)
			left := slices.Clone(l.Findings)
			for _, f := range got {
				if i := slices.Index(left, f); i >= 0 {
					left = slices.Delete(left, i, i+1)
					count(f.ID, func(c *tally) { c.right++ })
				} else {
					count(f.ID, func(c *tally) { c.wrong++ })
				}
			}
			for _, f := range left {
				count(f.ID, func(c *tally) { c.missed++ })
			}
			if diff := cmp.Diff(sortedBriefs(l.Findings), sortedBriefs(got)); diff != "" {
				t.Logf("%s/%s (%s): findings (-want +got):\n%s", group, l.Name, l.Why, diff)
			}
		}
	}
	if policies < 150 {
		t.Errorf("%d policies", policies)
	}
	for class, c := range tallies {
		t.Logf("%s: recall %.3f, precision %.3f (%d right, %d missed, %d wrong)", class, c.recall(), c.precision(), c.right, c.missed, c.wrong)
		if class != "all" && c.missed > 0 {
			t.Errorf("%s: recall %.3f", class, c.recall())
		}
	}
	if all := tallies["all"]; all.precision() < 0.98 || all.recall() < 0.98 {
		t.Errorf("precision %.3f, recall %.3f", all.precision(), all.recall())
	}
	t.Logf("%d policies in %v", policies, spent)
}

func briefs(findings []Finding) []brief {
	var list []brief
	for _, f := range findings {
		list = append(list, brief{f.ID, f.Statement, f.Principal, f.Severity})
	}
	return list
}

func sortedBriefs(list []brief) []brief {
	list = append([]brief{}, list...)
	slices.SortFunc(list, func(a, b brief) int {
		return strings.Compare(a.ID+a.Statement+a.Principal+string(a.Severity), b.ID+b.Statement+b.Principal+string(b.Severity))
	})
	return list
}
