package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/alert"
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

// TestReadmeShowsAnAlert holds that the README shows an alert as the program renders it.
func TestReadmeShowsAnAlert(t *testing.T) {
	const path, begin, end = "../../README.md", "-run ReadmeShowsAnAlert -->\n", "<!-- end of alert -->"
	var recorded []alert.Alert
	if err := json.Unmarshal(must(os.ReadFile("examples.json"))(t), &recorded); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(recorded, func(a alert.Alert) bool { return a.Kind == alert.KindRotation })
	if i < 0 {
		t.Fatal("there is no example")
	}
	page := string(must(os.ReadFile(path))(t))
	before, rest, found := strings.Cut(page, begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatal("the README has no place for an alert")
	}
	want := before + begin + "\n```text\n" + recorded[i].Text() + "```\n\n" + end + after
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		page = want
	}
	if diff := cmp.Diff(want, page); diff != "" {
		t.Errorf("the README shows another alert; UPDATE_DOCS=1 go test ./internal/cli -run ReadmeShowsAnAlert writes it:\n%s", diff)
	}
}

// link matches a link of a document to a file of the repository.
var link = regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]+))?\)`)

// TestLinks wants the file of every link, and the heading where it names one.
func TestLinks(t *testing.T) {
	files := must(filepath.Glob("../../*.md"))(t)
	for _, pattern := range []string{"../../docs/*.md", "../../docs/*/*.md"} {
		files = append(files, must(filepath.Glob(pattern))(t)...)
	}
	n := 0
	for _, file := range files {
		for _, m := range link.FindAllStringSubmatch(string(must(os.ReadFile(file))(t)), -1) {
			n++
			target := file
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(file), m[1])
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which does not exist", file, m[1])
				continue
			}
			if m[2] != "" && !slices.Contains(anchors(string(must(os.ReadFile(target))(t))), m[2]) {
				t.Errorf("%s links to %s#%s, and there is no such heading", file, m[1], m[2])
			}
		}
	}
	if n == 0 {
		t.Error("there are no links")
	}
}

// anchors returns what the headings of a document are called in links.
func anchors(text string) (all []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N}_ -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, strings.ReplaceAll(name, " ", "-"))
	}
	return all
}
