package handlers_test

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	// maxLines bounds a function.
	maxLines = 60
)

var (
	// layers are the packages that react to events, with how many arrows there may be
	// between their files. The first design had 302 in one package.
	layers = map[string]int{".": 60, "ledger": 29, "reaction": 35, "sweep": 26, "selfcheck": 4, "review": 4}
	// tables are functions that are one literal, as long as it has to be.
	tables = []string{"rows"}
	// top are the files that know the reactions. Every other file is of one reaction, and
	// does not know the others.
	top = []string{"handlers.go", "table.go", "table_lost.go", "sweep.go"}
)

// layer is a package of this module, with its types.
type layer struct {
	fset  *token.FileSet
	files []*ast.File
	info  types.Info
}

// arrow says that a file uses something that another one of its package declares.
type arrow struct{ from, to string }

// TestArrowsBetweenFiles keeps files apart that need not know each other: an arrow goes
// from a file to each other one of its package that declares a name, a method or a field
// that it uses.
func TestArrowsBetweenFiles(t *testing.T) {
	for dir, most := range layers {
		l := load(t, dir)
		arrows := l.arrows()
		t.Logf("%s: %d arrows between %d files", dir, len(arrows), len(l.files))
		for from, names := range grouped(arrows) {
			t.Logf("  %s -> %s", from, strings.Join(names, " "))
		}
		for a, uses := range arrows {
			if from, to := leafOf(a.from), leafOf(a.to); dir == "." && from != "" && to != "" && from != to {
				t.Errorf("%s, which is of %s, uses of %s: %s", a.from, from, a.to, strings.Join(uses, ", "))
			}
		}
		if len(arrows) > most {
			t.Errorf("%s: %d arrows between files, want at most %d: -v lists them", dir, len(arrows), most)
		}
	}
}

// TestFunctionsAreShort: what does not fit on a screen is two things.
func TestFunctionsAreShort(t *testing.T) {
	for dir := range layers {
		l := load(t, dir)
		for _, f := range l.files {
			for _, d := range f.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || slices.Contains(tables, fn.Name.Name) {
					continue
				}
				if lines := l.fset.Position(fn.End()).Line - l.fset.Position(fn.Pos()).Line + 1; lines > maxLines {
					t.Errorf("%s has %d lines, want at most %d", l.fset.Position(fn.Name.Pos()).String()+" "+fn.Name.Name, lines, maxLines)
				}
			}
		}
	}
}

// load reads and checks the package in a directory.
func load(t *testing.T, dir string) layer {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	l := layer{fset: token.NewFileSet(), info: types.Info{Uses: map[*ast.Ident]types.Object{}}}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(l.fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		l.files = append(l.files, f)
	}
	config := types.Config{Importer: importer.ForCompiler(l.fset, "gc", exports(t, dir))}
	if _, err := config.Check(dir, l.fset, l.files, &l.info); err != nil {
		t.Fatal(err)
	}
	return l
}

// exports finds what the packages export that the one in a directory imports, as the
// compiler left it in the build cache.
func exports(t *testing.T, dir string) importer.Lookup {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}", ".")
	list.Dir = dir
	var errs bytes.Buffer
	list.Stderr = &errs
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, &errs)
	}
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		files[path] = file
	}
	return func(path string) (io.ReadCloser, error) { return os.Open(cmp.Or(files[path], path)) }
}

// arrows returns the arrows of the package with what is used.
func (l layer) arrows() map[arrow][]string {
	found := map[arrow][]string{}
	for id, object := range l.info.Uses {
		if !object.Pos().IsValid() {
			continue
		}
		a := arrow{l.file(id.Pos()), l.file(object.Pos())}
		if a.from == a.to || a.to == "" {
			continue
		}
		if uses := found[a]; !slices.Contains(uses, object.Name()) {
			found[a] = append(uses, object.Name())
		}
	}
	for _, uses := range found {
		slices.Sort(uses)
	}
	return found
}

// file is the file of the package that a position is in, "" if it is in none.
func (l layer) file(p token.Pos) string {
	i := slices.IndexFunc(l.files, func(f *ast.File) bool { return f.FileStart <= p && p <= f.FileEnd })
	if i < 0 {
		return ""
	}
	return filepath.Base(l.fset.File(p).Name())
}

// grouped lists arrows by the file that they come from, in order.
func grouped(arrows map[arrow][]string) func(func(string, []string) bool) {
	to := map[string][]string{}
	for a, uses := range arrows {
		to[a.from] = append(to[a.from], fmt.Sprintf("%s(%d)", a.to, len(uses)))
	}
	var from []string
	for name, names := range to {
		from = append(from, name)
		slices.Sort(names)
	}
	slices.Sort(from)
	return func(yield func(string, []string) bool) {
		for _, name := range from {
			if !yield(name, to[name]) {
				return
			}
		}
	}
}

// leafOf is the reaction that a file is of, "" if it is of none.
func leafOf(file string) string {
	if slices.Contains(top, file) {
		return ""
	}
	name, _, _ := strings.Cut(strings.TrimSuffix(file, ".go"), "_")
	return name
}
