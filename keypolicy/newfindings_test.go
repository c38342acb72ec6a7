package keypolicy

import (
	"slices"
	"strings"
	"testing"
)

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
