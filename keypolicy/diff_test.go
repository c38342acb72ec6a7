package keypolicy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiff(t *testing.T) {
	const x = "arn:aws:iam::444455556666:role/x"
	allow := func(principal, action string, more ...string) string {
		return document(root, `{"Sid":"S","Effect":"Allow","Principal":`+principal+`,"Action":`+action+`,"Resource":"*"`+strings.Join(more, "")+`}`)
	}
	const roleX = `{"AWS":"` + x + `"}`
	for _, test := range []struct {
		name     string
		old, new string
		want     []Change
	}{
		{"same", document(root), document(root), nil},
		{"written differently",
			`{"Version":"2012-10-17","Statement":[` + root + `,
				{"Sid":"S","Effect":"Allow","Principal":{"AWS":["` + x + `","444455556666"]},"Action":["kms:Decrypt","kms:Encrypt"],"Resource":"*",
				 "Condition":{"StringEquals":{"kms:ViaService":["a","b"]},"Bool":{"kms:GrantIsForAWSResource":true}}}]}`,
			`{"Statement":[
				{"Condition":{"bool":{"KMS:GrantIsForAWSResource":"True"},"StringEquals":{"kms:viaservice":["b","a"]}},
				 "Action":["KMS:encrypt","kms:Decrypt"],"Principal":{"AWS":["arn:aws:iam::444455556666:root","` + x + `"]},"Effect":"Allow","Resource":["*"]},
				` + root + `],"Id":"other"}`,
			nil},
		{"everyone written differently", allow(`"*"`, `"kms:Decrypt"`), allow(`{"AWS":["*"]}`, `["kms:Decrypt"]`), nil},
		{"statement split",
			allow(roleX, `["kms:Decrypt","kms:Encrypt"]`),
			document(root, `{"Effect":"Allow","Principal":`+roleX+`,"Action":"kms:Encrypt"}`, `{"Effect":"Allow","Principal":`+roleX+`,"Action":"kms:Decrypt"}`),
			nil},
		{"grant that another one contains", allow(roleX, `"kms:*"`), allow(roleX, `["kms:Decrypt","kms:*"]`), nil},
		{"grant", document(root), allow(roleX, `["kms:Encrypt","kms:Decrypt"]`), []Change{
			{Added, "S", x + " may now kms:Decrypt, kms:Encrypt"},
		}},
		{"grant to everyone under conditions", document(root), allow(`"*"`, `"kms:Decrypt"`, `,"Condition":{"StringEquals":{"kms:ViaService":["b","a"]},"Bool":{"x":true}}`), []Change{
			{Added, "S", "everyone may now kms:Decrypt when Bool x true and StringEquals kms:ViaService a or b"},
		}},
		{"condition dropped", allow(roleX, `"kms:Decrypt"`, `,"Condition":{"Bool":{"x":true}}`), allow(roleX, `"kms:Decrypt"`), []Change{
			{Added, "S", x + " may now kms:Decrypt (before: kms:Decrypt when Bool x true)"},
		}},
		{"condition set", allow(roleX, `"kms:Decrypt"`), allow(roleX, `"kms:Decrypt"`, `,"Condition":{"Bool":{"x":true}}`), []Change{
			{Removed, "S", x + " may no longer kms:Decrypt (still: kms:Decrypt when Bool x true)"},
		}},
		{"encryption contexts that differ in case", allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringEquals":{"kms:EncryptionContext:app":"x"}}`), allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringEquals":{"kms:EncryptionContext:App":"x"}}`), []Change{
			{Added, "S", x + " may now kms:Decrypt when StringEquals kms:EncryptionContext:App x"},
			{Removed, "S", x + " may no longer kms:Decrypt when StringEquals kms:EncryptionContext:app x"},
		}},
		{"narrowed", allow(roleX, `"kms:*"`), allow(roleX, `"kms:Decrypt"`), []Change{
			{Removed, "S", x + " may no longer kms:* (still: kms:Decrypt)"},
		}},
		{"widened", allow(roleX, `"kms:Decrypt"`), allow(roleX, `"kms:*"`), []Change{
			{Added, "S", x + " may now kms:* (before: kms:Decrypt)"},
		}},
		{"account", document(root), allow(`{"AWS":"arn:aws:iam::222233334444:root"}`, `"kms:Decrypt"`), []Change{
			{Added, "S", "account 222233334444 may now kms:Decrypt"},
		}},
		{"root dropped", allow(roleX, `"kms:*"`), document(`{"Effect":"Allow","Principal":` + roleX + `,"Action":"kms:*"}`), []Change{
			{Removed, "Root", "account 444455556666 may no longer kms:*"},
		}},
		{"deny", document(root), document(root, `{"Effect":"Deny","Principal":"*","Action":"kms:Decrypt"}`), []Change{
			{Added, "#2", "everyone is now denied kms:Decrypt"},
		}},
		{"deny dropped", document(root, `{"Effect":"Deny","NotPrincipal":`+roleX+`,"NotAction":["kms:B*","kms:A*"]}`), document(root), []Change{
			{Removed, "#2", "everyone but " + x + " is no longer denied everything but kms:A*, kms:B*"},
		}},
		{"allow becomes deny", allow(roleX, `"kms:Decrypt"`), strings.ReplaceAll(allow(roleX, `"kms:Decrypt"`), `"S","Effect":"Allow"`, `"S","Effect":"Deny"`), []Change{
			{Added, "S", x + " is now denied kms:Decrypt"},
			{Removed, "S", x + " may no longer kms:Decrypt"},
		}},
		{"another resource", document(root), strings.Replace(allow(roleX, `"kms:Decrypt"`), `"kms:Decrypt","Resource":"*"`, `"kms:Decrypt","Resource":["r2","r1"]`, 1), []Change{
			{Added, "S", x + " may now kms:Decrypt on r1 or r2"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, Diff(parsed(t, test.old), parsed(t, test.new))); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDiffOfNothing(t *testing.T) {
	p := parsed(t, document(root))
	if got := Diff(nil, nil); got != nil {
		t.Errorf("Diff(nil, nil) = %v", got)
	}
	if diff := cmp.Diff([]Change{{Added, "Root", "account 444455556666 may now kms:*"}}, Diff(nil, p)); diff != "" {
		t.Errorf("a first policy (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Change{{Removed, "Root", "account 444455556666 may no longer kms:*"}}, Diff(p, nil)); diff != "" {
		t.Errorf("a last policy (-want +got):\n%s", diff)
	}
}

// TestHugePolicies runs what is slow if the work grows with the product of
// principals, actions and Denies: the test would take minutes.
func TestHugePolicies(t *testing.T) {
	list := func(n int, format string) string {
		items := make([]string, n)
		for i := range items {
			items[i] = fmt.Sprintf(format, i)
		}
		return `["` + strings.Join(items, `","`) + `"]`
	}
	policy := func(actions string) *Policy {
		return parsed(t, document(root,
			`{"Sid":"S","Effect":"Allow","Principal":{"AWS":`+list(700, "%012d")+`},"Action":`+list(1200, actions)+`,"Resource":"*"}`,
			`{"Sid":"D","Effect":"Deny","Principal":{"AWS":`+list(100, "%012d")+`},"Action":`+list(1200, "kms:b%d")+`,"Resource":"*"}`))
	}
	a, b := policy("kms:a%d"), policy("kms:A%d")
	if got := len(a.Findings(judged)); got != 700 {
		t.Errorf("%d findings", got)
	}
	if got := Diff(a, b); got != nil {
		t.Errorf("changes of a policy in another case: %v", got)
	}
	want := []Change{
		{Added, "S", "account 000000000000, account 000000000001, account 000000000002, account 000000000003 and 696 more may now kms:c0, kms:c1, kms:c10, kms:c100 and 1196 more"},
		{Removed, "S", "account 000000000000, account 000000000001, account 000000000002, account 000000000003 and 696 more may no longer kms:a0, kms:a1, kms:a10, kms:a100 and 1196 more"},
	}
	if diff := cmp.Diff(want, Diff(a, policy("kms:c%d"))); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

// FuzzParse checks that nothing panics, that a policy does not differ from
// itself, and that writing it differently changes neither its grants nor what
// is found.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		document(root),
		document(root, `{"Effect":"Allow","Principal":"*","Action":["kms:Decrypt","kms:Put*"],"Resource":"*","Condition":{"StringEquals":{"kms:CallerAccount":"444455556666"}}}`),
		document(root, `{"Sid":"x","Effect":"Deny","NotPrincipal":{"AWS":["222233334444","arn:aws:iam::444455556666:role/x"]},"NotAction":"kms:D?crypt*","NotResource":"x"}`),
		document(`{"Effect":"Allow","Principal":{"Service":"s3.amazonaws.com","Federated":"x","CanonicalUser":"y"},"Action":"*","Condition":{"Bool":{"a":true},"NumericLessThan":{"b":[1,2]}}}`),
		document(root, `{"Effect":"Deny","Principal":"*","Action":"kms:*","Condition":{"StringNotEquals":{"aws:PrincipalAccount":["444455556666"]}}}`),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data)
		if err != nil {
			return
		}
		if changes := Diff(p, p); changes != nil {
			t.Fatalf("a policy differs from itself: %v", changes)
		}
		other, err := Parse(rewrite(t, p))
		if err != nil {
			t.Fatalf("parse rewritten policy: %v\n%s", err, rewrite(t, p))
		}
		if changes := slices.Concat(Diff(p, other), Diff(other, p)); changes != nil {
			t.Fatalf("the rewritten policy differs: %v\n%s", changes, rewrite(t, p))
		}
		if diff := cmp.Diff(ids(p.Findings(judged)), ids(other.Findings(judged))); diff != "" {
			t.Fatalf("the rewritten policy is judged differently:\n%s\n%s", diff, rewrite(t, p))
		}
	})
}

func ids(findings []Finding) []string {
	var list []string
	for _, f := range findings {
		list = append(list, string(f.Severity)+" "+f.ID+" "+f.Principal)
	}
	slices.Sort(list)
	return list
}

// rewrite writes the policy with everything in another order and form.
func rewrite(t *testing.T, p *Policy) []byte {
	t.Helper()
	var statements []map[string]any
	for _, s := range slices.Backward(p.Statements) {
		not := map[bool]string{true: "Not"}
		effect := "Allow"
		if s.Deny {
			effect = "Deny"
		}
		principals := map[string][]string{}
		for _, who := range slices.Backward(s.Principals) {
			id := who.ID
			if who.Type == "AWS" && isAccountID(id) {
				id = "arn:aws:iam::" + id + ":root"
			}
			principals[who.Type] = append(principals[who.Type], id)
		}
		conditions := map[string]map[string][]string{}
		for _, c := range s.Conditions {
			if conditions[c.Operator] == nil {
				conditions[c.Operator] = map[string][]string{}
			}
			conditions[c.Operator][c.Key] = reversed(c.Values)
		}
		out := map[string]any{
			"Effect":                          effect,
			not[s.NotPrincipal] + "Principal": principals,
			not[s.NotAction] + "Action":       reversed(s.Actions),
			"Condition":                       conditions,
		}
		if len(s.Resources) > 0 {
			out[not[s.NotResource]+"Resource"] = reversed(s.Resources)
		}
		statements = append(statements, out)
	}
	data, err := json.Marshal(map[string]any{"Statement": statements})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func reversed(list []string) []string {
	list = slices.Clone(list)
	slices.Reverse(list)
	if list == nil {
		return []string{}
	}
	return list
}
