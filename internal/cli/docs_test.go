package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// shownCommand matches a command of ours that a document shows on a line of its own: as
// a next step of an alert, or after a prompt.
var shownCommand = regexp.MustCompile(`(?m)^ *(?:\d+\. |\$ )cmkeeper ([^#>|\n]*)`)

// TestShownCommands runs every command that the documents show, as the fleet is set up
// but without an answer of AWS: its command line is right.
func TestShownCommands(t *testing.T) {
	files := append([]string{"../../README.md"}, must(filepath.Glob("../../docs/*.md"))(t)...)
	files = append(files, must(filepath.Glob("../../docs/runbooks/*.md"))(t)...)
	var text []byte
	for _, file := range files {
		text = append(text, must(os.ReadFile(file))(t)...)
	}
	commands := shownCommand.FindAllSubmatch(text, -1)
	if len(commands) == 0 {
		t.Error("no commands are shown")
	}
	t.Chdir("testdata/policies")
	t.Setenv("AWS_REGION", "us-east-1")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
	var environ []string
	for name, value := range environment() {
		environ = append(environ, name+"="+value)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, command := range commands {
		line := strings.TrimSpace(string(command[1]))
		t.Run(line, func(t *testing.T) {
			if code, errs := runShown(ctx, line, environ); code == exitUsage {
				t.Errorf("exit code %d: %s", code, errs)
			}
		})
	}
	if code, _ := runShown(ctx, "reencrypt plan --alias alias/payments", environ); code != exitUsage {
		t.Errorf("a command without what it needs has exit code %d", code)
	}
}

// runShown runs a command. It is not its command line that is wrong where it only could
// not ask AWS.
func runShown(ctx context.Context, line string, environ []string) (code int, errs string) {
	var out, stderr bytes.Buffer
	code = run(ctx, strings.Fields(strings.ReplaceAll(line, "'", "")), environ, &out, &stderr)
	if strings.Contains(stderr.String(), context.Canceled.Error()) {
		code = exitError
	}
	return code, stderr.String()
}
