package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
)

// printPolicies writes what was found in policies, for people.
func printPolicies(w io.Writer, all []judgedPolicy) error {
	var b strings.Builder
	for _, j := range all {
		if j.err != nil {
			continue // reported as an error
		}
		if b.Len() > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "%s: %s (account %s%s)\n", alert.Escape(j.name), headline(j.findings), j.account, j.accountHow)
		printPolicyFindings(&b, j.policySource, j.findings, true)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// headline is the worst severity and how many findings there are, the worst first.
func headline(findings []finding.Finding) string {
	switch len(findings) {
	case 0:
		return "no findings"
	case 1:
		return fmt.Sprintf("%s, 1 finding", findings[0].Severity)
	}
	return fmt.Sprintf("%s, %d findings", findings[0].Severity, len(findings))
}

// printPolicyFindings writes findings of a policy; with fixes, what to do about each
// kind is said once.
func printPolicyFindings(w io.Writer, s policySource, findings []finding.Finding, fixes bool) {
	const margin = "            "
	said := map[finding.ID]bool{}
	for _, f := range findings {
		where := "the whole policy"
		if f.Statement != "" {
			where = "statement " + alert.Escape(f.Statement)
			if s.file {
				where += fmt.Sprintf(", line %d", s.place(f.Statement).startLine)
			}
		}
		fmt.Fprintf(w, "\n  %-8s  %s, %s\n", f.Severity, f.ID, where)
		fmt.Fprint(w, wrap(alert.Escape(f.Message), margin, margin))
		if fixes && !said[f.ID] {
			fmt.Fprint(w, wrap("To do: "+f.ID.Rule().Fix, margin, margin))
		}
		said[f.ID] = true
	}
}

// printDiff writes how two policies differ, for people.
func printDiff(w io.Writer, d policyDiff) error {
	var b strings.Builder
	printChanges(&b, d)
	if len(d.added) > 0 {
		fmt.Fprintf(&b, "\nNew: %s\n", headline(d.added))
		printPolicyFindings(&b, d.new, d.added, true)
	}
	if len(d.gone) > 0 {
		fmt.Fprintf(&b, "\nGone: %s\n", headline(d.gone))
		printPolicyFindings(&b, d.old, d.gone, false)
	}
	if len(d.changes) > 0 && len(d.added)+len(d.gone) == 0 {
		b.WriteString("\nNo finding is new or gone.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printChanges writes who gains access and who loses it.
func printChanges(w io.Writer, d policyDiff) {
	fmt.Fprintf(w, "%s -> %s (account %s)\n", alert.Escape(d.old.name), alert.Escape(d.new.name), d.account)
	if len(d.changes) == 0 {
		fmt.Fprint(w, "\nNo difference in effect.\n")
	}
	for _, part := range []struct {
		title  string
		widens bool
	}{{"Who gains", true}, {"Who loses", false}} {
		title := "\n" + part.title + ":\n"
		for _, c := range d.changes {
			if c.Widens != part.widens {
				continue
			}
			fmt.Fprint(w, title, wrap("- "+alert.Escape(c.Text)+" (statement "+alert.Escape(c.Statement)+")", "  ", "    "))
			title = ""
		}
	}
}

// wrap breaks text into lines of at most 100 characters. The first one begins with
// first, the others with rest.
func wrap(text, first, rest string) string { return wrapTo(100, text, first, rest) }

// wrapTo is wrap for lines of another width.
func wrapTo(width int, text, first, rest string) string {
	var b strings.Builder
	b.WriteString(first)
	column, gap := len(first)-1, ""
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		if gap != "" && column+1+n > width {
			gap, column = "\n"+rest, len(rest)-1
		}
		b.WriteString(gap + word)
		column += len(" ") + n
		gap = " "
	}
	return b.String() + "\n"
}

// The schemas of the JSON output. Members may be added to them.
const (
	policyCheckSchema = "cmkeeper.policy-check.v1"
	policyDiffSchema  = "cmkeeper.policy-diff.v1"
)

// checkedJSON is the result of policy check.
type checkedJSON struct {
	Schema   string       `json:"schema"`
	Policies []policyJSON `json:"policies"`
}

type policyJSON struct {
	// Source is the policy as it was named on the command line.
	Source  string `json:"source"`
	Account string `json:"account,omitempty"`
	KeyARN  string `json:"key_arn,omitempty"`
	// Worst is the severity of the worst finding, "" for none.
	Worst    finding.Severity `json:"worst,omitempty"`
	Findings []findingJSON    `json:"findings"`
	// Error says why the policy could not be judged.
	Error string `json:"error,omitempty"`
}

type findingJSON struct {
	ID        finding.ID       `json:"id"`
	Severity  finding.Severity `json:"severity"`
	Statement string           `json:"statement,omitempty"`
	Principal string           `json:"principal,omitempty"`
	Message   string           `json:"message"`
	Fix       string           `json:"fix"`
	// Line and Column are where the statement begins in the document.
	Line   int `json:"line"`
	Column int `json:"column"`
}

func findingsJSON(s policySource, findings []finding.Finding) []findingJSON {
	list := []findingJSON{}
	for _, f := range findings {
		at := s.place(f.Statement)
		list = append(list, findingJSON{f.ID, f.Severity, f.Statement, f.Principal, f.Message, f.ID.Rule().Fix, at.startLine, at.startColumn})
	}
	return list
}

func printPolicyJSON(w io.Writer, all []judgedPolicy) error {
	out := checkedJSON{Schema: policyCheckSchema}
	for _, j := range all {
		one := policyJSON{Source: j.name, Account: j.account, KeyARN: j.keyARN, Findings: findingsJSON(j.policySource, j.findings)}
		if len(j.findings) > 0 {
			one.Worst = j.findings[0].Severity
		}
		if j.err != nil {
			one.Error = j.err.Error()
		}
		out.Policies = append(out.Policies, one)
	}
	return printJSON(w, out)
}

// diffJSON is the result of policy diff.
type diffJSON struct {
	Schema  string `json:"schema"`
	Old     string `json:"old"`
	New     string `json:"new"`
	Account string `json:"account"`
	KeyARN  string `json:"key_arn,omitempty"`
	// Changes are the differences in effect, what was added first.
	Changes []changeJSON `json:"changes"`
	// NewFindings are what only the new policy has, GoneFindings what only the old one had.
	NewFindings  []findingJSON `json:"new_findings"`
	GoneFindings []findingJSON `json:"gone_findings"`
}

type changeJSON struct {
	Kind      string `json:"kind"` // added or removed
	Statement string `json:"statement"`
	// Widens: somebody may do more.
	Widens bool   `json:"widens"`
	Text   string `json:"text"`
}

func printDiffJSON(w io.Writer, d policyDiff) error {
	out := diffJSON{
		Schema: policyDiffSchema, Old: d.old.name, New: d.new.name, Account: d.account, KeyARN: d.new.keyARN,
		Changes: []changeJSON{}, NewFindings: findingsJSON(d.new, d.added), GoneFindings: findingsJSON(d.old, d.gone),
	}
	for _, c := range d.changes {
		out.Changes = append(out.Changes, changeJSON(c))
	}
	return printJSON(w, out)
}
