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

	"github.com/cmkeeper/cmkeeper/finding"
)

// labelled is a policy with what should be found in it, and why. The labels were
// written before the analysis was run on them: one that it does not meet is a
// fault of the analysis, or is argued anew.
type labelled struct {
	Name, Why string
	// Account is the key's (111122223333), Trusted the trusted ones (444455556666).
	Account  string
	Trusted  []string
	Orgs     []string // trusted organizations
	Key      string
	Bypass   bool
	Now      time.Time
	Policy   json.RawMessage
	Findings []brief
}

func (l labelled) context() Context {
	return Context{
		Account: l.Account, TrustedAccounts: l.Trusted, TrustedOrgs: l.Orgs,
		KeyARN: l.Key, BypassLockoutSafetyCheck: l.Bypass, Now: l.Now,
	}
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
			group := strings.TrimSuffix(filepath.Base(file), ".json")
			corpus[group] = append(corpus[group], l)
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
var classes = map[string][]finding.ID{
	"public":            {finding.PublicPrincipal, finding.PublicThroughService, finding.AllowNotPrincipal},
	"untrusted account": {finding.ForeignAccount},
	"lock-out":          {finding.Lockout},
}

func TestLabelledCorpus(t *testing.T) {
	tallies := map[string]*tally{"all": {}}
	for class := range classes {
		tallies[class] = &tally{}
	}
	count := func(id finding.ID, add func(*tally)) {
		add(tallies["all"])
		for class, ids := range classes {
			if slices.Contains(ids, id) {
				add(tallies[class])
			}
		}
	}
	policies := 0
	unseen := map[finding.ID]finding.Rule{}
	for _, r := range finding.Rules(finding.OfPolicy) {
		unseen[r.ID] = r
	}
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
			for _, f := range findings {
				delete(unseen, f.ID)
				if r := f.ID.Rule(); r.Title == "" || !r.Worst.AtLeast(f.Severity) || f.Access == 0 && strings.Contains(r.Risk, "{access}") {
					t.Errorf("%s/%s: %s has severity %s and access %q, but its rule %q has at worst %s and the risk %q", group, l.Name, f.ID, f.Severity, f.Access, r.Title, r.Worst, r.Risk)
				}
			}
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
				t.Errorf("%s/%s (%s): findings (-want +got):\n%s", group, l.Name, l.Why, diff)
			}
		}
	}
	// A rule that no policy breaks is one that nothing finds.
	for id := range unseen {
		t.Errorf("no labelled policy has the finding %s", id)
	}
	if policies < 500 {
		t.Errorf("%d policies", policies)
	}
	for class, c := range tallies {
		t.Logf("%s: recall %.3f, precision %.3f (%d right, %d missed, %d wrong)", class, c.recall(), c.precision(), c.right, c.missed, c.wrong)
		if class != "all" && c.recall() < 1 || c.precision() < 0.98 {
			t.Errorf("%s: recall %.3f, precision %.3f", class, c.recall(), c.precision())
		}
	}
	t.Logf("%d policies in %v", policies, spent)
}

func briefs(findings []finding.Finding) []brief {
	var list []brief
	for _, f := range findings {
		list = append(list, brief{f.ID, f.Statement, f.Principal, f.Severity})
	}
	return list
}

func sortedBriefs(list []brief) []brief {
	list = append([]brief{}, list...)
	slices.SortFunc(list, func(a, b brief) int {
		return strings.Compare(a.ID.String()+a.Statement+a.Principal+string(a.Severity), b.ID.String()+b.Statement+b.Principal+string(b.Severity))
	})
	return list
}

// samplesVariable names a directory of sample policies, one a file, most of them
// published by AWS: {"expected": ok | cross-account | lockout-risk, "policy": …}.
const samplesVariable = "CMKEEPER_POLICY_CORPUS"

// sampleAccounts are the keys' accounts where they are not 111122223333.
var sampleAccounts = map[string]string{
	"042-docs-conditions-kms-10.json":          "712816755609",
	"078-docs-policy-evaluation-74.json":       "444455556666",
	"124-docs-default-kms-key-policy-180.json": "${this.account-id}",
	"125-docs-default-kms-key-policy-181.json": "account-id",
	"149-from-event-107.json":                  "123456789012",
}

// disagreements are the samples of which something else is found than their
// label says, and what. docs/decisions/sample-policies.md argues each.
var disagreements = map[string][]finding.ID{
	"058-docs-infrastructure-security-51.json": {finding.Lockout},
	"060-docs-key-policy-default-53.json":      {finding.ForeignAccount, finding.Lockout},
	"068-docs-key-policy-overview-63.json":     {finding.Lockout},
	"071-docs-key-policy-services-66.json":     {finding.Lockout},
	"073-docs-kms-vpc-endpoint-69.json":        {finding.Lockout},
	"080-docs-services-wm-76.json":             {finding.Lockout},
	"124-docs-default-kms-key-policy-180.json": {finding.NoRootDelegation},
	"125-docs-default-kms-key-policy-181.json": {finding.NoRootDelegation},
	"149-from-event-107.json":                  {finding.ForeignAccount},
}

// TestSamples judges the samples as their labels say: "ok" has nothing of
// severity high, "cross-account" has a foreign account, "lockout-risk" may lose
// its administrators. Of a fragment nobody can say who administers the key.
func TestSamples(t *testing.T) {
	dir := os.Getenv(samplesVariable)
	if dir == "" {
		t.Skipf("%s is not set: the samples are kept outside of the repository", samplesVariable)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("no samples in %s", dir)
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var sample struct {
				Expected string
				Source   struct{ Note string }
				Policy   json.RawMessage
			}
			if err := json.Unmarshal(data, &sample); err != nil {
				t.Fatal(err)
			}
			c := Context{Account: "111122223333"}
			if account, ok := sampleAccounts[name]; ok {
				c.Account = account
			}
			var got []finding.ID
			for _, f := range parsed(t, string(sample.Policy)).Findings(c) {
				completeness := f.ID == finding.Lockout || f.ID == finding.NoRootDelegation
				if completeness && strings.Contains(sample.Source.Note, "FRAGMENT") || !completeness && !f.Severity.AtLeast(finding.High) {
					continue
				}
				if !slices.Contains(got, f.ID) {
					got = append(got, f.ID)
				}
			}
			want := map[string][]finding.ID{"cross-account": {finding.ForeignAccount}, "lockout-risk": {finding.NoRootDelegation}}[sample.Expected]
			want = append(want, disagreements[name]...)
			byName := func(a, b finding.ID) int { return strings.Compare(a.String(), b.String()) }
			slices.SortFunc(got, byName)
			slices.SortFunc(want, byName)
			if !slices.Equal(got, want) {
				t.Errorf("%s: found %q, want %q", sample.Expected, got, want)
			}
		})
	}
}

// faultsVariable names a directory of inputs that were once judged wrongly: policies of
// keys of account 111122223333, and the records of one event.
const faultsVariable = "CMKEEPER_FAULT_CORPUS"

// faults is what is right of each policy. The families of each are in testdata/corpus.
var faults = map[string][]brief{
	"01-arnlike-any-partition.json":               nil, // roles of the account, in whichever partition it is
	"03-resourceaccount-is-principalaccount.json": nil,
	"09-root-only-by-principaltype.json":          {{finding.NoRootDelegation, "", "111122223333", finding.Medium}},
	"14-sourceowner-own.json":                     nil,
	"24-encrypt-only-risk-text.json":              {{finding.PublicPrincipal, "Writers", "*", finding.High}},
	"26-fence-with-a-hole-full-control.json": {
		{finding.ForeignAccount, "Everybody", "999988887777", finding.Critical}, {finding.PublicPrincipal, "Everybody", "*", finding.High}},
}

func TestFaults(t *testing.T) {
	dir := os.Getenv(faultsVariable)
	if dir == "" {
		t.Skipf("%s is not set: the faults are kept outside of the repository", faultsVariable)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no faults in %s: %v", dir, err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		if strings.Contains(name, "-event-") {
			continue // package events has them
		}
		want, ok := faults[name]
		if !ok {
			t.Errorf("nobody says what is right of %s", name)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := parsed(t, string(data)).Findings(Context{Account: "111122223333"})
		if diff := cmp.Diff(want, briefs(found)); diff != "" {
			t.Errorf("%s: findings (-want +got):\n%s", name, diff)
		}
		if risk := finding.Risk(found); strings.HasPrefix(name, "24-") && strings.Contains(risk, "can read") {
			t.Errorf("%s: the risk of a key that strangers can encrypt with reads %q", name, risk)
		}
	}
}

func BenchmarkFindings(b *testing.B) {
	b.Run("corpus", func(b *testing.B) {
		var corpus []labelled
		for _, cases := range labelledCorpus(b) {
			corpus = append(corpus, cases...)
		}
		b.ReportAllocs()
		for b.Loop() {
			for _, l := range corpus {
				judge(b, l.Policy, l.context())
			}
		}
		b.ReportMetric(float64(b.N*len(corpus))/b.Elapsed().Seconds(), "policies/s")
	})
	b.Run("four", func(b *testing.B) {
		data := []byte(document(root,
			`{"Sid":"Use","Effect":"Allow","Principal":{"AWS":["arn:aws:iam::444455556666:role/a","arn:aws:iam::777788889999:root"]},"Action":["kms:Encrypt","kms:Decrypt","kms:ReEncrypt*","kms:GenerateDataKey*","kms:DescribeKey"],"Resource":"*"}`,
			`{"Sid":"Public","Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringEquals":{"aws:PrincipalOrgID":"o-x"}}}`,
			`{"Sid":"Fence","Effect":"Deny","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringNotEquals":{"aws:PrincipalAccount":"444455556666"}}}`))
		b.ReportAllocs()
		for b.Loop() {
			judge(b, data, judged)
		}
	})
}

func judge(b *testing.B, document []byte, c Context) {
	p, err := Parse(document)
	if err != nil {
		b.Fatal(err)
	}
	p.Findings(c)
}
