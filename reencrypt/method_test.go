package reencrypt

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// declared returns the names and values of the constants of a type that the package declares.
func declared(t *testing.T, typ string) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	found := map[string]string{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			if of, ok := spec.Type.(*ast.Ident); ok && of.Name == typ {
				found[spec.Names[0].Name] = strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`)
			}
			return true
		})
	}
	return found
}

// TestEveryMethodIsWhole: a declared method is one of methods, answers every question
// about it, and is documented; so is an executor.
func TestEveryMethodIsWhole(t *testing.T) {
	constants := declared(t, "Method")
	for name, value := range constants {
		if !slices.Contains(Methods(), Method(value)) {
			t.Errorf("%s is declared, and not among methods", name)
		}
	}
	for name, value := range declared(t, "Executor") {
		if !slices.Contains(Executors(), Executor(value)) {
			t.Errorf("%s is declared, and not among executors", name)
		}
	}
	page, err := os.ReadFile("../docs/reencryption.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Methods\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var header []string
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		switch {
		case !strings.HasPrefix(line, "|"):
		case header == nil:
			header = cells[1:]
		case len(cells) != len(header)+1 || slices.ContainsFunc(cells, func(c string) bool { return strings.TrimSpace(c) == "" }):
			t.Errorf("the table of methods in docs/reencryption.md leaves something open: %s", line)
		}
	}
	if len(header) != len(methods) {
		t.Fatalf("the table of methods in docs/reencryption.md has the columns %q for %d methods", header, len(methods))
	}
	for i, m := range methods {
		traits := reflect.ValueOf(m.traits())
		for field, value := range traits.Fields() {
			if value.IsZero() && field.Name != "notes" {
				t.Errorf("method %s has no trait %s", m.traits().name, field.Name)
			}
		}
		if strings.TrimSpace(header[i]) != "`"+string(m.traits().name)+"`" {
			t.Errorf("column %d of the table of methods in docs/reencryption.md is %s, want %s", i+1, header[i], m.traits().name)
		}
		if !slices.Contains(slices.Collect(maps.Values(constants)), string(m.traits().name)) {
			t.Errorf("no constant is declared for method %s", m.traits().name)
		}
		if needs[m.traits().operation] == "" {
			t.Errorf("nothing says which permissions %s needs", m.traits().operation)
		}
		if slices.Contains([]Method{MethodAuto, ""}, m.traits().name) || len(m.traits().name.candidates()) != 1 || m.traits().name.candidates()[0] != m {
			t.Errorf("the name %q does not stand for method %d alone", m.traits().name, i+1)
		}
	}
}

// TestEveryMethodMoves: each method moves what it does not refuse, changes nothing
// else of it but what its notes say, and its plan says so before.
func TestEveryMethodMoves(t *testing.T) {
	for _, m := range methods {
		t.Run(string(m.traits().name), func(t *testing.T) {
			w := newWorld(t)
			w.populate(64, false)
			before := w.snapshot()
			rows := map[[2]string]Reason{}
			o := RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b, Method: m.traits().name, Row: func(_ int, r Refusal) { rows[[2]string{r.Key}] = r.Reason }}
			e := w.engine()
			plan, err := e.Plan(t.Context(), o, 0, nil)
			w.must(err)
			s, err := e.Run(t.Context(), o, nil)
			w.must(err)
			w.check(before, rows, []string{w.a}, w.b, len(m.traits().notes) > 0, false)
			if plan.Method != m.traits().name || plan.Move.Versions != s.Moved || plan.Refuse.Versions != s.Refused || plan.Requests.Write < s.Moved || s.State != StateComplete || s.Failed > 0 {
				t.Errorf("planned %+v, %+v and %+v, and came to %+v", plan.Move, plan.Refuse, plan.Requests, s)
			}
		})
	}
}
