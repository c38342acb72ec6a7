package alert

import (
	"encoding/json"
	"html"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/command"
)

// shell returns the words that a shell sees in a command.
func shell(t *testing.T, line string) []string {
	t.Helper()
	line, _ = strings.CutSuffix(line, " > good.json")
	out, err := exec.Command("sh", "-c", "set -f; printf '%s\\0' "+line).Output()
	if err != nil {
		t.Fatalf("the shell does not take %q: %v", line, err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

// commands are the commands in each rendering of an alert, as a reader copies them.
func commands(t *testing.T, a Alert) map[string][]string {
	t.Helper()
	pick := func(lines []string) []string {
		return slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !command.Is(l) })
	}
	var text []string
	for line := range strings.SplitSeq(a.Text(), "\n") {
		if number, step, ok := strings.Cut(line, ". "); ok && strings.Trim(number, " 0123456789") == "" {
			text = append(text, step)
		}
	}
	raw, err := a.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var machine struct {
		Next []string `json:"next"`
	}
	if err := json.Unmarshal(raw, &machine); err != nil {
		t.Fatal(err)
	}
	var chat []string
	for _, step := range chatOf(t, a).Content.NextSteps {
		if code, ok := strings.CutPrefix(step, "`"); ok {
			chat = append(chat, html.UnescapeString(strings.TrimSuffix(code, "`")))
		}
	}
	return map[string][]string{"text": pick(text), "json": pick(machine.Next), "chat": pick(chat)}
}

// FuzzPaste has an actor with any name, and commands as other builds may have stored
// them. Whatever is pasted from a rendering is the words that were meant.
func FuzzPaste(f *testing.F) {
	if _, err := exec.LookPath("sh"); err != nil {
		f.Skip("there is no shell on this machine")
	}
	for _, s := range []string{"alice", "bob,x", `x'; touch pwned; '`, "x\\'; touch pwned; \\'", "x`touch pwned`", "$(touch pwned)", "a\nb", "\u202e", "a\u009bb", "-x", "a>b", "x && y", `"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		t.Chdir(t.TempDir())
		quoted := "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
		a := call("ScheduleKeyDeletion", finding.Critical, "k")
		for _, arn := range []string{"arn:aws:sts::111122223333:assumed-role/Admin/" + s, "arn:aws:sts::111122223333:assumed-role/" + s + "/bob", "arn:aws:iam::111122223333:user/" + s, "arn:" + s + ":iam::" + s + ":user/" + s} {
			a.Actor.ARN, a.Actor.Session, a.Actor.Account = arn, s, s
			a.Next = append(responseSteps(a), "aws kms untag-resource --tag-keys "+quoted, "aws "+s, "cmkeeper policy baseline show x > good.json")
			var meant [][]string
			for _, n := range a.Next {
				if command.Is(n) && command.Safe(n) {
					meant = append(meant, shell(t, n))
				}
			}
			for rendering, lines := range commands(t, a) {
				if len(lines) != len(meant) {
					t.Fatalf("%s has %d commands and not %d:\n%s", rendering, len(lines), len(meant), strings.Join(lines, "\n"))
				}
				for i, line := range lines {
					if got := shell(t, line); !slices.Equal(got, meant[i]) {
						t.Errorf("pasted from %s, %q is %q and not %q", rendering, line, got, meant[i])
					}
				}
			}
		}
		if files := mustRun(t, "ls"); files != "" {
			t.Errorf("pasting %q made files: %s", s, files)
		}
	})
}

func mustRun(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command(name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// A command that is cut is another command.
func TestCutCommand(t *testing.T) {
	a := Alert{Next: []string{"aws kms disable-key --key-id " + strings.Repeat("x", 300), "aws kms enable-key --key-id x"}}
	got := a.cut(limits{rows: 3, chars: 60}, "").Next
	if len(got) != 2 || command.Is(got[0]) || got[1] != a.Next[1] {
		t.Errorf("next steps: %q", got)
	}
}
