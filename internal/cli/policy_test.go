package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
	"github.com/cmkeeper/cmkeeper/keypolicy"
)

const policies = "testdata/policies/"

// policyCommand runs a policy command in an environment without AWS.
func policyCommand(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), append([]string{"policy"}, args...), nil, &o, &e)
	return code, o.String(), e.String()
}

func TestPolicyExitCodes(t *testing.T) {
	const worst, best, proposed = policies + "worst.json", policies + "best.json", policies + "proposed.json"
	roots := writeFile(t, `{"Statement":[{"Effect":"Allow","Principal":{"AWS":["111122223333","999988887777"]},"Action":"kms:*","Resource":"*"}]}`)
	role := writeFile(t, `{"Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:role/a"},"Action":"kms:*","Resource":"*"}}`)
	members := writeFile(t, `{"Statement":[{"Effect":"Allow","Principal":{"AWS":"111122223333"},"Action":"kms:*","Resource":"*"},
		{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*","Condition":{"StringEquals":{"aws:PrincipalOrgID":"o-a1b2c3d4e5"}}}]}`)
	answer := writeFile(t, `{"Policy":"{}","PolicyName":"default"}`)
	large := writeFile(t, strings.Repeat(" ", maxPolicyFile+1))
	tests := map[string]struct {
		args []string
		code int
		want string // in what is printed
	}{
		"good":                        {[]string{"check", best}, exitOK, "best.json: no findings (account 111122223333, taken"},
		"bad":                         {[]string{"check", worst}, exitError, "statement LetEverybodyIn, line 12"},
		"bad among good":              {[]string{"check", best, worst, best}, exitError, "public-principal"},
		"bad, but never fail":         {[]string{"check", "--fail-on", "none", worst}, exitOK, "public-principal"},
		"fail on less":                {[]string{"check", "--fail-on", "medium", roots, "--account", "111122223333", "--trusted-account", "999988887777"}, exitError, "full-control"},
		"fail on more":                {[]string{"check", "--fail-on", "critical", role, "--account", "111122223333"}, exitOK, "full-control"},
		"account by the key":          {[]string{"check", role, "--key-arn", "arn:aws:kms:us-east-1:111122223333:key/k"}, exitOK, "(account 111122223333)"},
		"trusted root is not own":     {[]string{"check", roots, "--trusted-account", "999988887777", "--fail-on", "none"}, exitOK, "(account 111122223333, taken"},
		"no file":                     {[]string{"check", "nothing.json"}, exitUsage, "no such file"},
		"a directory":                 {[]string{"check", t.TempDir()}, exitUsage, "is a directory"},
		"unreadable beside a bad one": {[]string{"check", "nothing.json", worst}, exitUsage, "public-principal"},
		"no policy":                   {[]string{"check", "policy_test.go"}, exitUsage, "policy_test.go: keypolicy: "},
		"answer of the AWS CLI":       {[]string{"check", answer}, exitUsage, "--query Policy --output text"},
		"too large":                   {[]string{"check", large}, exitUsage, "larger than 1024 KiB"},
		"two roots":                   {[]string{"check", roots}, exitUsage, "roots of several accounts (111122223333, 999988887777): give --account"},
		"no root":                     {[]string{"check", role}, exitUsage, "give --account"},
		"a wrong account":             {[]string{"check", best, "--account", "1234"}, exitUsage, `"1234"`},
		"a wrong organization":        {[]string{"check", best, "--trusted-org", "ours"}, exitUsage, `"ours"`},
		"an organization":             {[]string{"check", members, "--fail-on", "low"}, exitError, "public-principal"},
		"a trusted organization":      {[]string{"check", members, "--fail-on", "low", "--trusted-org", "o-a1b2c3d4e5"}, exitOK, "no findings"},
		"a wrong key":                 {[]string{"check", best, "--key-arn", "alias/x"}, exitUsage, "--key-arn"},
		"a wrong severity":            {[]string{"check", best, "--fail-on", "bad"}, exitUsage, "--fail-on"},
		"two formats":                 {[]string{"check", best, "--json", "--sarif"}, exitUsage, "json sarif"},
		"nothing":                     {[]string{"check"}, exitUsage, "at least 1 arg"},
		"same":                        {[]string{"diff", best, best}, exitOK, "No difference in effect."},
		"worse":                       {[]string{"diff", best, proposed}, exitError, "New: high, 2 findings"},
		"worse, but not so much":      {[]string{"diff", best, proposed, "--fail-on", "critical"}, exitOK, "New: high"},
		"better":                      {[]string{"diff", proposed, best, "--account", "111122223333"}, exitOK, "Gone: high, 2 findings"},
		"bad before and after":        {[]string{"diff", worst, worst}, exitOK, "No difference"},
		"one of them":                 {[]string{"diff", best, "nothing.json"}, exitUsage, "nothing.json"},
		"account of neither":          {[]string{"diff", role, roots}, exitUsage, "give --account"},
		"account of the other":        {[]string{"diff", role, best}, exitOK, "(account 111122223333)"},
		"one policy":                  {[]string{"diff", best}, exitUsage, "2 arg"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			code, out, errs := policyCommand(t, tt.args...)
			if code != tt.code || !strings.Contains(out+errs, tt.want) {
				t.Errorf("exit code %d, want %d and %q:\n%s%s", code, tt.code, tt.want, out, errs)
			}
		})
	}
}

func TestPolicyTrustsTheConfiguredAccounts(t *testing.T) {
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"policy", "diff", policies + "best.json", policies + "proposed.json"}, []string{"CMKEEPER_TRUSTED_ACCOUNTS=999988887777"}, &out, &errs)
	if code != exitOK || strings.Contains(out.String(), "foreign-account") {
		t.Errorf("exit code %d, %s%s", code, &out, &errs)
	}
}

// TestPolicyTextIsEscaped: a policy of an attacker's must not write on the terminal.
func TestPolicyTextIsEscaped(t *testing.T) {
	file := writeFile(t, `{"Statement":[{"Sid":"a\u001b[2J[x](http://e)","Effect":"Allow","Principal":"*","Action":"kms:\u202eDecrypt","Resource":"*"},
		{"Effect":"Allow","Principal":{"AWS":"111122223333"},"Action":"kms:*","Resource":"*"}]}`)
	for _, format := range []string{"", "--sarif"} {
		_, out, _ := policyCommand(t, slices.DeleteFunc([]string{"check", file, "--fail-on=none", format}, func(s string) bool { return s == "" })...)
		if strings.ContainsAny(out, "\x1b\u202e") || !strings.Contains(out, `u202eDecrypt`) {
			t.Errorf("%q: %s", format, out)
		}
	}
}

func TestPolicyJSON(t *testing.T) {
	_, out, _ := policyCommand(t, "check", "--json", policies+"worst.json", "nothing.json")
	var checked checkedJSON
	if err := json.Unmarshal([]byte(out), &checked); err != nil || checked.Schema != policyCheckSchema || len(checked.Policies) != 2 {
		t.Fatalf("%v: %s", err, out)
	}
	worst := checked.Policies[0]
	if worst.Worst != finding.Critical || worst.Account != "111122223333" || worst.Findings[0].Line != 12 || worst.Findings[0].Column != 5 || worst.Findings[0].Fix == "" {
		t.Errorf("policy: %+v", worst)
	}
	if missing := checked.Policies[1]; missing.Error == "" || missing.Findings == nil {
		t.Errorf("policy that cannot be read: %+v", missing)
	}
	_, out, _ = policyCommand(t, "diff", "--json", policies+"best.json", policies+"proposed.json")
	var diff diffJSON
	if err := json.Unmarshal([]byte(out), &diff); err != nil || diff.Schema != policyDiffSchema || len(diff.Changes) == 0 || len(diff.NewFindings) != 2 || diff.GoneFindings == nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestPolicyOfKeys checks live policies, and one against a file.
func TestPolicyOfKeys(t *testing.T) {
	a := newAccount(t)
	a.enter()
	good, bad := a.newKey("alias/good"), a.newKey("alias/bad")
	document := fmt.Sprintf(`{"Statement":[{"Sid":"Root","Effect":"Allow","Principal":{"AWS":%q},"Action":"kms:*","Resource":"*"},{"Sid":"Oops","Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"}]}`, sandbox.Account)
	must(a.kms.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &bad, Policy: &document}))(t)
	id := good[strings.LastIndexByte(good, '/')+1:]
	for _, name := range []string{"alias/good", good, id, strings.Replace(good, "key/"+id, "alias/good", 1)} {
		if code, out, errs := a.command("policy", "check", name); code != exitOK || !strings.Contains(out, "no findings (account "+sandbox.Account+")") {
			t.Errorf("%s: exit code %d, %s%s", name, code, out, errs)
		}
	}
	if code, out, errs := a.command("policy", "check", "alias/bad"); code != exitError || !strings.Contains(out, "statement Oops\n") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	if code, out, errs := a.command("policy", "diff", "alias/bad", writeFile(t, document)); code != exitOK || !strings.Contains(out, "No difference in effect.") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	if code, _, errs := a.command("policy", "check", "alias/none"); code != exitUsage || !strings.Contains(errs, "alias/none") {
		t.Errorf("exit code %d, %s", code, errs)
	}
}

func TestStatementSpans(t *testing.T) {
	tests := map[string]struct {
		document string
		want     []span
	}{
		"one line":              {`{"Statement":[{"a":1},{"b":[{}]}]}`, []span{{1, 15, 1, 22}, {1, 23, 1, 33}}},
		"one statement alone":   {"{\n  \"Statement\": {\n  }\n}", []span{{2, 16, 3, 4}}},
		"many lines":            {"{\"Version\":\"x\",\n\"Statement\": [\n  {\"a\": \"]}\"},\n\n\t{\n}]\n}", []span{{3, 3, 3, 14}, {5, 2, 6, 2}}},
		"Windows":               {"{\r\n\"Statement\":[\r\n{}]}", []span{{3, 1, 3, 3}}},
		"characters, not bytes": {`{"Id":"größer ☃","Statement":[{}]}`, []span{{1, 31, 1, 33}}},
		"another case":          {`{"statement":[{}]}`, []span{{1, 15, 1, 17}}},
		"a statement within":    {`{"Id":{"Statement":[1,2]},"Statement":[{}]}`, []span{{1, 40, 1, 42}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := statementSpans([]byte(tt.document))
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(span{})); err != nil || diff != "" {
				t.Errorf("%v, spans (-want +got):\n%s", err, diff)
			}
		})
	}
}

// FuzzStatementSpans: every statement of a policy is found where it stands.
func FuzzStatementSpans(f *testing.F) {
	for _, name := range []string{"worst.json", "best.json"} {
		document, err := os.ReadFile(policies + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(document)
	}
	f.Add([]byte(`{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		p, err := keypolicy.Parse(document)
		if err != nil {
			return
		}
		spans, err := statementSpans(document)
		if err != nil || len(spans) != len(p.Statements) {
			t.Fatalf("%d spans of %d statements: %v", len(spans), len(p.Statements), err)
		}
		lines := strings.Split(string(document), "\n")
		for _, s := range spans {
			first := []rune(lines[s.startLine-1])
			last := []rune(lines[s.endLine-1])
			if first[s.startColumn-1] != '{' || last[s.endColumn-2] != '}' {
				t.Fatalf("span %+v is no statement", s)
			}
		}
	})
}

// TestSARIF checks what the schema of SARIF 2.1.0 demands of the parts that are
// written, and what GitHub demands of uploads.
func TestSARIF(t *testing.T) {
	code, out, _ := policyCommand(t, "check", "--sarif", policies+"worst.json", policies+"best.json", "nothing [here].json")
	if code != exitUsage {
		t.Errorf("exit code %d", code)
	}
	log := sarifOf(t, out)
	results := log.Runs[0].Results
	if len(results) < 6 || results[0].RuleID != finding.PublicPrincipal.String() || results[0].Level != "error" {
		t.Fatalf("results: %+v", results)
	}
	physical := results[0].Locations[0].Physical
	if physical == nil || physical.Artifact.URI != "testdata/policies/worst.json" || physical.Region != (sarifRegion{12, 5, 18, 6}) {
		t.Errorf("location: %+v", physical)
	}
	if i := log.Runs[0].Invocations[0]; i.ExecutionSuccessful || len(i.Notifications) != 1 || !strings.Contains(i.Notifications[0].Message.Text, `nothing \[here\].json`) {
		t.Errorf("invocation: %+v", i)
	}

	_, out, _ = policyCommand(t, "check", "--sarif", policies+"best.json")
	if log := sarifOf(t, out); len(log.Runs[0].Results) != 0 || !log.Runs[0].Invocations[0].ExecutionSuccessful {
		t.Errorf("of a good policy: %s", out)
	}
	_, out, _ = policyCommand(t, "diff", "--sarif", policies+"best.json", policies+"proposed.json")
	if log := sarifOf(t, out); len(log.Runs[0].Results) != 2 || log.Runs[0].Results[0].Locations[0].Physical.Artifact.URI != "testdata/policies/proposed.json" {
		t.Errorf("of a difference: %s", out)
	}
}

// sarifOf decodes a log, strictly, and checks it.
func sarifOf(t *testing.T, text string) sarifLog {
	t.Helper()
	var log sarifLog
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&log); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if log.Version != "2.1.0" || !strings.HasPrefix(log.Schema, "https://") || len(log.Runs) != 1 {
		t.Fatalf("no log of one run: %s", text)
	}
	run := log.Runs[0]
	if strings.Contains(text, `"results": null`) || run.ColumnKind != "utf16CodeUnits" && run.ColumnKind != "unicodeCodePoints" {
		t.Errorf("results are null, or columns of an unknown kind")
	}
	driver := run.Tool.Driver
	if driver.Name == "" || !strings.HasPrefix(driver.InformationURI, "https://") || len(run.Invocations) != 1 {
		t.Errorf("the driver has no name or address: %+v", driver)
	}
	levels := []string{"none", "note", "warning", "error"}
	for _, r := range driver.Rules {
		if r.ID == "" || r.ShortDescription.Text == "" || r.FullDescription.Text == "" || r.Help.Text == "" || !slices.Contains(levels, r.Configuration.Level) {
			t.Errorf("rule %+v is incomplete", r)
		}
		if !regexp.MustCompile(`^([0-9]|10)\.[0-9]$`).MatchString(r.Properties.SecuritySeverity) {
			t.Errorf("rule %s: security severity %q", r.ID, r.Properties.SecuritySeverity)
		}
	}
	for _, n := range run.Invocations[0].Notifications {
		if n.Message.Text == "" || !slices.Contains(levels, n.Level) {
			t.Errorf("notification %+v", n)
		}
	}
	for _, r := range run.Results {
		if r.RuleIndex < 0 || driver.Rules[r.RuleIndex].ID != r.RuleID || r.Message.Text == "" || !slices.Contains(levels, r.Level) || len(r.Locations) != 1 {
			t.Errorf("result %+v", r)
		}
		for _, l := range r.Locations {
			for _, name := range l.Logical {
				if name.Name == "" {
					t.Errorf("result %+v: a logical location without a name", r)
				}
			}
			if l.Physical == nil {
				continue
			}
			g := l.Physical.Region
			if l.Physical.Artifact.URI == "" || g.StartLine < 1 || g.StartColumn < 1 || g.EndLine < g.StartLine || g.EndLine == g.StartLine && g.EndColumn < g.StartColumn {
				t.Errorf("location %+v", l.Physical)
			}
		}
	}
	return log
}

// A live policy has no lines, so nothing says it has.
func TestSARIFOfAKey(t *testing.T) {
	a := newAccount(t)
	a.enter()
	key := a.newKey("")
	must(a.kms.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &key, BypassPolicyLockoutSafetyCheck: true,
		Policy: aws.String(`{"Statement":{"Effect":"Allow","Principal":"*","Action":["kms:GetKeyPolicy","kms:DescribeKey"],"Resource":"*"}}`)}))(t)
	_, out, _ := a.command("policy", "check", "--sarif", key)
	for _, r := range sarifOf(t, out).Runs[0].Results {
		if l := r.Locations[0]; l.Physical != nil || !strings.HasPrefix(l.Logical[0].Name, key) {
			t.Errorf("location %+v", l)
		}
	}
}

func TestFileURI(t *testing.T) {
	for name, want := range map[string]string{
		"a.json": "a.json", "./infra/a b.json": "infra/a%20b.json", "x:y.json": "./x:y.json", "/tmp/a.json": "file:///tmp/a.json",
	} {
		if got := fileURI(filepath.FromSlash(name)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestPolicyBaseline has a fleet put a policy back, looks at what it recorded, and
// accepts the policy that was taken away.
func TestPolicyBaseline(t *testing.T) {
	a := newAccount(t)
	a.enter()
	key := a.newKey("alias/orders")
	id := key[strings.LastIndexByte(key, '/')+1:]
	a.start("POLICY_MODE", "enforce", "POLICY_RESTORE_SEVERITY", "high")
	a.awaitQuiet()
	put := func(document string) {
		t.Helper()
		must(a.kms.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &key, Policy: &document}))(t)
	}
	live := func() string {
		t.Helper()
		return *must(a.kms.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: &key, PolicyName: aws.String("default")}))(t).Policy
	}
	baseline := func(args ...string) string {
		t.Helper()
		code, out, errs := a.command(append([]string{"policy", "baseline"}, args...)...)
		if code != exitOK {
			t.Fatalf("%q: exit code %d, %s", args, code, errs)
		}
		return out
	}
	good := live()
	bad := strings.Replace(good, `"Statement" : [`, `"Statement" : [ {"Sid":"Oops","Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"},`, 1)
	put(bad)
	a.await("the policy was put back", tells(alert.KindPolicy, key, alert.StatusDone))
	if live() != good {
		t.Errorf("the policy is %s", live())
	}

	if out := baseline("list"); !regexp.MustCompile(`(?m)^alias/orders  1 +\d{4}-\d\d-\d\d `).MatchString(out) {
		t.Errorf("list: %s", out)
	} else {
		for line := range strings.Lines(out) {
			if len(line) > 81 {
				t.Errorf("a line of %d characters: %s", len(line)-1, line)
			}
		}
	}
	if out := baseline("list", "alias/orders"); !regexp.MustCompile(`(?m)^1 .* good, is restored `).MatchString(out) || !regexp.MustCompile(`(?m)^2 .* taken away `).MatchString(out) {
		t.Errorf("list: %s", out)
	}
	var recorded struct {
		ledger.Baseline
		Aliases []string
	}
	for _, args := range [][]string{{"list", id, "--json"}, {"list", "--json"}} {
		recorded.Versions, recorded.Aliases = nil, nil
		if err := json.Unmarshal([]byte(baseline(args...)), &recorded); err != nil || len(recorded.Versions) != 2 || recorded.Key != key || !slices.Equal(recorded.Aliases, []string{"alias/orders"}) {
			t.Errorf("%q: %v, %+v", args, err, recorded)
		}
	}
	if out := baseline("show", id); out != good {
		t.Errorf("show: %s", out)
	}
	if out := baseline("show", key+"@2"); out != bad {
		t.Errorf("show: %s", out)
	}
	if code, out, errs := policyCommand(t, "diff", "baseline:"+id, "baseline:"+id+"@2", "--state-bucket", sandbox.StateBucket); code != exitError || !strings.Contains(out, "New: critical, 1 finding") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}

	for want, args := range map[string][]string{
		"version 7 is not recorded": {"show", id + "@7"},
		"a number from 1":           {"show", id + "@x"},
		"read the answer":           {"accept", id},
	} {
		if code, _, errs := a.command(append([]string{"policy", "baseline"}, args...)...); code == exitOK || !strings.Contains(errs, want) {
			t.Errorf("%q: exit code %d, %s", args, code, errs)
		}
	}
	if code, _, errs := policyCommand(t, "baseline", "list"); code != exitUsage || !strings.Contains(errs, "--state-bucket") {
		t.Errorf("without a bucket: exit code %d, %s", code, errs)
	}

	if out := baseline("accept", id+"@2", "--yes"); !strings.Contains(out, "public-principal") || !strings.Contains(out, "everyone") {
		t.Errorf("accept: %s", out)
	}
	if out := baseline("list", id); !regexp.MustCompile(`(?m)^3 .* accepted, not found live yet +\d{4}-\d\d-\d\d  user/\S+ `).MatchString(out) {
		t.Errorf("list: %s", out)
	}
	if out := baseline("list", id, "--json"); !strings.Contains(out, `"accepted_at":"2`) || !strings.Contains(out, `"accepted_by":"arn:aws:`) {
		t.Errorf("list: %s", out)
	}
	put(bad)
	told := a.await("the accepted policy is told", func(m alert.Alert) bool { return strings.Contains(m.Title, "was accepted by") })
	if told.Severity != finding.Medium || live() != bad {
		t.Errorf("severity %s, the policy is %s", told.Severity, live())
	}
	a.awaitQuiet()
	if out := baseline("show", id); out != bad {
		t.Errorf("show: %s", out)
	}
}
