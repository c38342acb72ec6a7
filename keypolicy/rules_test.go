package keypolicy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestRules demands a rule for every kind of finding, and none for anything else.
func TestRules(t *testing.T) {
	ids := findingIDs(t)
	if len(ids) < 9 {
		t.Fatalf("%d kinds of findings found in the source, want at least nine", len(ids))
	}
	for _, id := range ids {
		r, ok := RuleOf(id)
		switch {
		case !ok:
			t.Errorf("finding %s has no rule", id)
		case r.Worst.rank() < 0 || r.Title == "" || r.Why == "" || r.Fix == "":
			t.Errorf("the rule of %s is incomplete: %+v", id, r)
		case strings.HasSuffix(r.Title, ".") || !strings.HasSuffix(r.Why, ".") || !strings.HasSuffix(r.Fix, "."):
			t.Errorf("the rule of %s: the title is no sentence, the others are", id)
		}
	}
	if got := len(Rules()); got != len(ids) {
		t.Errorf("%d rules for %d kinds of findings", got, len(ids))
	}
}

// findingIDs reads the kinds of findings from the const block that declares them.
func findingIDs(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "keypolicy.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, d := range file.Decls {
		block, ok := d.(*ast.GenDecl)
		if !ok || block.Tok != token.CONST {
			continue
		}
		for _, s := range block.Specs {
			v, ok := s.(*ast.ValueSpec)
			if !ok || v.Type != nil || len(v.Values) != 1 {
				continue // a Severity
			}
			if lit, ok := v.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				id, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, id)
			}
		}
	}
	return ids
}

func TestNewFindings(t *testing.T) {
	everyone := func(sid, action string) string {
		return `{"Sid":"` + sid + `","Effect":"Allow","Principal":"*","Action":` + action + `,"Resource":"*"}`
	}
	tests := []struct {
		name          string
		before, after string
		want, gone    []string
	}{
		{"nothing changed", document(root, everyone("a", `"kms:Decrypt"`)), document(root, everyone("a", `"kms:Decrypt"`)), nil, nil},
		{"written differently", document(root, everyone("a", `["kms:Decrypt","kms:Encrypt"]`)), document(everyone("b", `["KMS:Encrypt","kms:Decrypt"]`), root), nil, nil},
		{"something harmless beside it", document(root, everyone("a", `"kms:Decrypt"`)), document(root, everyone("a", `"kms:Decrypt"`), strings.Replace(root, "kms:*", "kms:DescribeKey", 1)), nil, nil},
		{"opened", document(root), document(root, everyone("a", `"kms:Decrypt"`)), []string{"critical public-principal *"}, nil},
		{"closed", document(root, everyone("a", `"kms:Decrypt"`)), document(root), nil, []string{"critical public-principal *"}},
		{"opened further", document(root, everyone("a", `"kms:Decrypt"`)), document(root, everyone("a", `["kms:Decrypt","kms:Encrypt"]`)), []string{"critical public-principal *"}, nil},
		{"opened to a takeover", document(root, everyone("a", `"kms:Decrypt"`)), document(root, everyone("a", `"kms:PutKeyPolicy"`)), []string{"critical public-principal *"}, []string{"critical public-principal *"}},
		{"locked out", document(root), document(strings.Replace(root, own, foreign, 1)), []string{"critical foreign-account " + foreign, "critical lockout "}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before, after := parsed(t, tt.before), parsed(t, tt.after)
			found, had := after.Findings(judged), before.Findings(judged)
			if got := ids(NewFindings(had, found, Diff(before, after))); !slices.Equal(got, tt.want) {
				t.Errorf("new: %q, want %q", got, tt.want)
			}
			if got := ids(NewFindings(found, had, Diff(after, before))); !slices.Equal(got, tt.gone) {
				t.Errorf("gone: %q, want %q", got, tt.gone)
			}
		})
	}
}
