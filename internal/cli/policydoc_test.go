package cli

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/finding"
)

// TestPolicyDocument keeps docs/policy.md true: its list of findings is the rules
// of keypolicy, and its transcripts are what the commands print. With
// UPDATE_DOCS=1 it writes them.
func TestPolicyDocument(t *testing.T) {
	const path = "../../docs/policy.md"
	page := string(must(os.ReadFile(path))(t))
	t.Chdir(policies)
	want := withTranscripts(t, withFindings(t, page))
	t.Chdir("../..")
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, page); diff != "" {
		t.Errorf("%s is not true any more; UPDATE_DOCS=1 go test ./internal/cli writes it:\n%s", path, diff)
	}
}

// withFindings puts the rules of all findings between their two marks.
func withFindings(t *testing.T, page string) string {
	t.Helper()
	before, rest, ok := strings.Cut(page, "go test ./internal/cli -run PolicyDocument -->\n")
	_, after, ok2 := strings.Cut(rest, "<!-- end of findings -->")
	if !ok || !ok2 {
		t.Fatal("the marks of the findings are missing")
	}
	var b strings.Builder
	for _, r := range finding.Rules(finding.OfPolicy) {
		fmt.Fprintf(&b, "\n### %s\n\n**%s** (at worst %s). %s\n\nWhat to do: %s\n", r.ID, r.Title, r.Worst, r.Why, r.Fix)
	}
	return before + "go test ./internal/cli -run PolicyDocument -->\n" + b.String() + "\n<!-- end of findings -->" + after
}

var transcript = regexp.MustCompile("(?s)```console\n\\$ cmkeeper (policy [^\n]*)\n.*?```")

// withTranscripts runs the commands of all transcripts and puts their output below them.
func withTranscripts(t *testing.T, page string) string {
	t.Helper()
	return transcript.ReplaceAllStringFunc(page, func(block string) string {
		command := transcript.FindStringSubmatch(block)[1]
		var out bytes.Buffer
		code := run(t.Context(), strings.Fields(command), nil, &out, &out)
		return fmt.Sprintf("```console\n$ cmkeeper %s\n%s$ echo $?\n%d\n```", command, &out, code)
	})
}
