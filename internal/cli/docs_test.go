package cli

import (
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
