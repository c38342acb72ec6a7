package cli

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/cmkeeper/cmkeeper/alert"
)

// No output in JSON has a character that a terminal acts on, and each keeps its value.
func TestJSONIsVisible(t *testing.T) {
	const evil = "x\u202e\u009b2J\u200b\x7f\U000e0001é"
	file := writeFile(t, `{"Statement":[{"Sid":"`+evil+`","Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}]}`)
	outputs := map[string]string{}
	for _, format := range []string{"--json", "--sarif"} {
		_, outputs[format], _ = policyCommand(t, "check", format, "--account", "111122223333", file)
	}
	_, outputs["diff"], _ = policyCommand(t, "diff", "--json", "--account", "111122223333", policies+"best.json", file)
	var log, lines bytes.Buffer
	Common{LogLevel: "INFO"}.logger(&log).Info(evil, evil, evil)
	r := map[string]string{evil: evil}
	if err := printJSON(&lines, r); err != nil {
		t.Fatal(err)
	}
	outputs["log"], outputs["lines"] = log.String(), lines.String()
	raw, err := alert.Alert{Title: evil, Next: []string{evil}}.JSON()
	if err != nil {
		t.Fatal(err)
	}
	outputs["alert"] = string(raw)
	for name, out := range outputs {
		if i := strings.IndexFunc(out, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%s shows %+q", name, out[i:min(len(out), i+10)])
		}
		if name == "--sarif" && strings.Contains(out, `\\u202e`) { // names are escaped for readers there
			continue
		}
		if !strings.Contains(out, `\u202e\u009b2J\u200b\u007f\udb40\udc01é`) {
			t.Errorf("%s has lost the value: %s", name, out)
		}
	}
}

// JSON that is printed has one way out.
func TestOneEncoder(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	found := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && (s.Sel.Name == "NewEncoder" || s.Sel.Name == "NewJSONHandler") {
				found++
			}
			return true
		})
	}
	if found != 2 {
		t.Errorf("%d encoders of JSON, want newEncoder's and the logger's: use printJSON", found)
	}
}
