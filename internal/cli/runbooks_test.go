package cli

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const runbooks = "../../docs/runbooks"

// runbook is a page: its title, and what it is for.
type runbook struct {
	file, title   string
	kinds, alarms []string
}

var (
	runbookKind  = regexp.MustCompile("(?m)^Alert kind: `(.+)`$")
	runbookAlarm = regexp.MustCompile("(?m)^Alarm: `STACK-(.+)`$")
	alarmName    = regexp.MustCompile(`AlarmName: !Sub '?\$\{AWS::StackName\}-([a-z-]+)`)
)

// TestRunbooks wants a page for each kind of alert and each alarm of the template, no page
// for anything else, and on each of them, on a screen, what somebody who was woken needs.
func TestRunbooks(t *testing.T) {
	pages := readRunbooks(t)
	var kinds, alarms []string
	for _, p := range pages {
		if len(p.kinds)+len(p.alarms) == 0 {
			t.Errorf("%s is for no alert and no alarm", p.file)
		}
		kinds, alarms = append(kinds, p.kinds...), append(alarms, p.alarms...)
	}
	if diff := cmp.Diff(declaredKinds(t), slices.Sorted(slices.Values(kinds))); diff != "" {
		t.Errorf("kinds of alerts that the source declares, and those of the pages:\n%s", diff)
	}
	index := indexOfRunbooks(pages)
	path := filepath.Join(runbooks, "README.md")
	page := string(must(os.ReadFile(path))(t))
	before, rest, _ := strings.Cut(page, "-run Runbooks -->\n")
	_, after, found := strings.Cut(rest, "<!-- end of pages -->")
	if !found {
		t.Fatalf("%s has no place for the index", path)
	}
	want := before + "-run Runbooks -->\n" + index + "<!-- end of pages -->" + after
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		page = want
	}
	if diff := cmp.Diff(want, page); diff != "" {
		t.Errorf("%s is out of date; UPDATE_DOCS=1 go test ./internal/cli -run Runbooks writes it:\n%s", path, diff)
	}
	t.Run("alarms", func(t *testing.T) {
		var defined []string
		for _, m := range alarmName.FindAllSubmatch(must(os.ReadFile("../../deploy/cloudformation/cmkeeper.yaml"))(t), -1) {
			defined = append(defined, string(m[1]))
		}
		if diff := cmp.Diff(slices.Sorted(slices.Values(defined)), slices.Sorted(slices.Values(alarms))); diff != "" {
			t.Errorf("alarms of the templates, and those of the pages:\n%s", diff)
		}
	})
}

func readRunbooks(t *testing.T) []runbook {
	t.Helper()
	var pages []runbook
	for _, file := range must(filepath.Glob(filepath.Join(runbooks, "*.md")))(t) {
		if filepath.Base(file) == "README.md" {
			continue
		}
		text := string(must(os.ReadFile(file))(t))
		p := runbook{file: filepath.Base(file)}
		p.title, _, _ = strings.Cut(strings.TrimPrefix(text, "# "), "\n")
		for _, m := range runbookKind.FindAllStringSubmatch(text, -1) {
			p.kinds = append(p.kinds, m[1])
		}
		for _, m := range runbookAlarm.FindAllStringSubmatch(text, -1) {
			p.alarms = append(p.alarms, m[1])
		}
		if n := strings.Count(text, "\n"); n > 45 {
			t.Errorf("%s has %d lines, which is more than a screen", p.file, n)
		}
		at := 0
		for _, heading := range []string{"\n## What it means\n", "\n## How to look\n", "\n## How to mend\n", "\n## When to wake somebody\n"} {
			i := strings.Index(text[at:], heading)
			if i < 0 {
				t.Errorf("%s has no heading %q in its place", p.file, strings.TrimSpace(heading))
				continue
			}
			at += i + len(heading)
		}
		pages = append(pages, p)
	}
	return pages
}

// indexOfRunbooks returns the tables of the pages, alerts first.
func indexOfRunbooks(pages []runbook) string {
	kinds, alarms := map[string]runbook{}, map[string]runbook{}
	for _, p := range pages {
		for _, k := range p.kinds {
			kinds[k] = p
		}
		for _, a := range p.alarms {
			alarms[a] = p
		}
	}
	var b strings.Builder
	table := func(what, prefix string, of map[string]runbook) {
		fmt.Fprintf(&b, "\n| %s | page |\n|---|---|\n", what)
		for _, name := range slices.Sorted(maps.Keys(of)) {
			fmt.Fprintf(&b, "| `%s%s` | [%s](%s) |\n", prefix, name, of[name].title, of[name].file)
		}
	}
	table("kind of alert", "", kinds)
	table("alarm", "STACK-", alarms)
	return b.String() + "\n"
}

// declaredKinds returns the kinds of alerts, from the constants of package alert.
func declaredKinds(t *testing.T) []string {
	t.Helper()
	file := must(parser.ParseFile(token.NewFileSet(), "../../alert/alert.go", nil, 0))(t)
	var kinds []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if of, ok := spec.Type.(*ast.Ident); ok && of.Name == "Kind" {
			literal, _ := spec.Values[0].(*ast.BasicLit)
			kinds = append(kinds, must(strconv.Unquote(literal.Value))(t))
		}
		return true
	})
	if len(kinds) == 0 {
		t.Fatal("no kinds are declared")
	}
	slices.Sort(kinds)
	return kinds
}
