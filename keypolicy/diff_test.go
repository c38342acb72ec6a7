package keypolicy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/finding"
)

func TestDiff(t *testing.T) {
	const x, y = "arn:aws:iam::444455556666:role/x", "arn:aws:iam::444455556666:role/y"
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
			document(root, `{"Effect":"Allow","Principal":`+roleX+`,"Action":"kms:Encrypt","Resource":"*"}`, `{"Effect":"Allow","Principal":`+roleX+`,"Action":"kms:Decrypt","Resource":"*"}`),
			nil},
		{"grant that another one contains", allow(roleX, `"kms:*"`), allow(roleX, `["kms:Decrypt","kms:*"]`), nil},
		{"grant", document(root), allow(roleX, `["kms:Encrypt","kms:Decrypt"]`), []Change{
			{Added, "S", true, x + " may now kms:Decrypt, kms:Encrypt"},
		}},
		{"grant to everyone under conditions", document(root), allow(`"*"`, `"kms:Decrypt"`, `,"Condition":{"StringEquals":{"kms:ViaService":["b","a"]},"Bool":{"x":true}}`), []Change{
			{Added, "S", true, "everyone may now kms:Decrypt when Bool x true and StringEquals kms:ViaService a or b"},
		}},
		{"condition dropped", allow(roleX, `"kms:Decrypt"`, `,"Condition":{"Bool":{"x":true}}`), allow(roleX, `"kms:Decrypt"`), []Change{
			{Added, "S", true, x + " may now kms:Decrypt (before: kms:Decrypt when Bool x true)"},
		}},
		{"condition set", allow(roleX, `"kms:Decrypt"`), allow(roleX, `"kms:Decrypt"`, `,"Condition":{"Bool":{"x":true}}`), []Change{
			{Removed, "S", false, x + " may no longer kms:Decrypt (still: kms:Decrypt when Bool x true)"},
		}},
		{"encryption contexts that differ in case", allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringEquals":{"kms:EncryptionContext:app":"x"}}`), allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringEquals":{"kms:EncryptionContext:App":"x"}}`), []Change{
			{Added, "S", true, x + " may now kms:Decrypt when StringEquals kms:EncryptionContext:App x"},
			{Removed, "S", false, x + " may no longer kms:Decrypt when StringEquals kms:EncryptionContext:app x"},
		}},
		{"narrowed", allow(roleX, `"kms:*"`), allow(roleX, `"kms:Decrypt"`), []Change{
			{Removed, "S", false, x + " may no longer kms:* (still: kms:Decrypt)"},
		}},
		{"widened", allow(roleX, `"kms:Decrypt"`), allow(roleX, `"kms:*"`), []Change{
			{Added, "S", true, x + " may now kms:* (before: kms:Decrypt)"},
		}},
		{"account", document(root), allow(`{"AWS":"arn:aws:iam::222233334444:root"}`, `"kms:Decrypt"`), []Change{
			{Added, "S", true, "account 222233334444 may now kms:Decrypt"},
		}},
		{"root dropped", allow(roleX, `"kms:*"`), document(`{"Effect":"Allow","Principal":` + roleX + `,"Action":"kms:*","Resource":"*"}`), []Change{
			{Removed, "Root", false, "account 444455556666 may no longer kms:*"},
		}},
		{"deny", document(root), document(root, `{"Effect":"Deny","Principal":"*","Action":"kms:Decrypt","Resource":"*"}`), []Change{
			{Added, "#2", false, "everyone is now denied kms:Decrypt"},
		}},
		{"deny dropped", document(root, `{"Effect":"Deny","NotPrincipal":`+roleX+`,"NotAction":["kms:B*","kms:A*"],"Resource":"*"}`), document(root), []Change{
			{Removed, "#2", true, "everyone but " + x + " is no longer denied everything but kms:A*, kms:B*"},
		}},
		{"allow becomes deny", allow(roleX, `"kms:Decrypt"`), strings.ReplaceAll(allow(roleX, `"kms:Decrypt"`), `"S","Effect":"Allow"`, `"S","Effect":"Deny"`), []Change{
			{Added, "S", false, x + " is now denied kms:Decrypt"},
			{Removed, "S", false, x + " may no longer kms:Decrypt"},
		}},
		{"two principals", document(root), allow(`{"AWS":["`+x+`","`+y+`"]}`, `["kms:Encrypt","kms:Decrypt"]`), []Change{
			{Added, "S", true, x + ", " + y + " may now kms:Decrypt, kms:Encrypt"},
		}},
		{"one action more behind a wildcard", allow(roleX, `["kms:CreateGrant","kms:CancelKeyDeletion"]`), allow(roleX, `"kms:C*"`), []Change{
			{Added, "S", true, x + " may now kms:CreateAlias"},
		}},
		{"a wildcard for all that it stands for today", allow(roleX, `"kms:Generate*"`), allow(roleX, `["kms:GenerateDataKey","kms:GenerateDataKeyPair*","kms:GenerateDataKeyWithoutPlaintext","kms:GenerateMac"]`), nil},
		{"everything but, in other words", allow(roleX, `["kms:Decrypt","kms:Encrypt"]`), strings.Replace(allow(roleX, `["kms:C*","kms:D?l*","kms:D?s*","kms:Der*","kms:Deca*","kms:Ena*","kms:Enca*","kms:G*","kms:I*","kms:L*","kms:P*","kms:R*","kms:S*","kms:T*","kms:U*","kms:V*"]`), `"Action":["kms:C`, `"NotAction":["kms:C`, 1), nil},
		{"everything but, without one", allow(roleX, `"kms:*"`), strings.Replace(allow(roleX, `["kms:PutKeyPolicy"]`), `"Action":["kms:P`, `"NotAction":["kms:P`, 1), []Change{
			{Removed, "S", false, x + " may no longer kms:PutKeyPolicy"},
		}},
		{"an action of another service", document(root), allow(roleX, `"s3:GetObject"`), nil},
		{"an action of the future", allow(roleX, `["kms:Teleport","kms:Beam"]`), allow(roleX, `"kms:beam"`), []Change{
			{Removed, "S", false, x + " may no longer kms:Teleport"},
		}},
		{"a statement that KMS ignores", document(root), document(root, `{"Effect":"Allow","Principal":"*","Action":"kms:*"}`, `{"Effect":"Deny","Principal":"*","Resource":"*"}`), nil},
		{"values split over statements",
			allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringEquals":{"kms:ViaService":["a","b"],"kms:EncryptionContext:k":["1","2"]}}`),
			document(root,
				`{"Effect":"Allow","Principal":`+roleX+`,"Action":"kms:Decrypt","Resource":"*","Condition":{"StringEquals":{"kms:ViaService":"a","kms:EncryptionContext:k":["1","2"]}}}`,
				`{"Effect":"Allow","Principal":`+roleX+`,"Action":"kms:Decrypt","Resource":"*","Condition":{"StringEquals":{"kms:ViaService":"b","kms:EncryptionContext:k":"2"}}}`,
				`{"Effect":"Allow","Principal":`+roleX+`,"Action":"kms:Decrypt","Resource":"*","Condition":{"StringEquals":{"kms:ViaService":"b","kms:EncryptionContext:k":"1"}}}`),
			nil},
		{"one value more", allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringEquals":{"kms:ViaService":"a"}}`), allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringEquals":{"kms:ViaService":["b","a"]}}`), []Change{
			{Added, "S", true, x + " may now kms:Decrypt when StringEquals kms:ViaService a or b (before: kms:Decrypt when StringEquals kms:ViaService a)"},
		}},
		{"one exception more", allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringNotEquals":{"kms:ViaService":"a"}}`), allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringNotEquals":{"kms:ViaService":["b","a"]}}`), []Change{
			{Removed, "S", false, x + " may no longer kms:Decrypt when StringNotEquals kms:ViaService a (still: kms:Decrypt when StringNotEquals kms:ViaService a or b)"},
		}},
		{"equals becomes like", allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringEquals":{"k":"a"}}`), allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringLike":{"k":"a*"}}`), []Change{
			{Added, "S", true, x + " may now kms:Decrypt when StringLike k a* (before: kms:Decrypt when StringEquals k a)"},
		}},
		{"like without wildcards", allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringLike":{"k":"a"},"ArnLike":{"l":"arn:aws:s3:::x"}}`), allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringEquals":{"k":"a"},"ArnEquals":{"l":"arn:aws:s3:::x"}}`), nil},
		{"if it exists", allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringEquals":{"k":"a"}}`), allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringEqualsIfExists":{"k":"a"}}`), []Change{
			{Added, "S", true, x + " may now kms:Decrypt when StringEqualsIfExists k a (before: kms:Decrypt when StringEquals k a)"},
		}},
		{"if it exists, where that says nothing", allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringNotEquals":{"k":"a"}}`), allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringNotEqualsIfExists":{"k":"a"}}`), nil},
		{"a longer wait", allow(roleX, `"kms:ScheduleKeyDeletion"`, `,"Condition":{"NumericGreaterThanEquals":{"kms:ScheduleKeyDeletionPendingWindowInDays":7}}`), allow(roleX, `"kms:ScheduleKeyDeletion"`, `,"Condition":{"NumericGreaterThanEquals":{"kms:ScheduleKeyDeletionPendingWindowInDays":"30"}}`), []Change{
			{Removed, "S", false, x + " may no longer kms:ScheduleKeyDeletion when NumericGreaterThanEquals kms:ScheduleKeyDeletionPendingWindowInDays 7 (still: kms:ScheduleKeyDeletion when NumericGreaterThanEquals kms:ScheduleKeyDeletionPendingWindowInDays 30)"},
		}},
		{"fewer days, or no number", allow(roleX, `"kms:DisableKey"`, `,"Condition":{"NumericLessThan":{"a":3600,"b":"x","c":[1,2],"d":"y"}}`), allow(roleX, `"kms:DisableKey"`, `,"Condition":{"NumericLessThan":{"a":7200,"b":"x","c":["2","1"],"d":"y"}}`), []Change{
			{Added, "S", true, x + " may now kms:DisableKey when NumericLessThan a 7200 and NumericLessThan b x and NumericLessThan c 1 or 2 and NumericLessThan d y (before: kms:DisableKey when NumericLessThan a 3600 and NumericLessThan b x and NumericLessThan c 1 or 2 and NumericLessThan d y)"},
		}},
		{"an ARN that a pattern stands for", allow(roleX, `"kms:Decrypt"`, `,"Condition":{"ArnEquals":{"k":"arn:aws:s3:::a-b"}}`), allow(roleX, `"kms:Decrypt"`, `,"Condition":{"ArnLike":{"k":["arn:aws:s3:::a-*","arn:aws:sqs:*:1:a"]}}`), []Change{
			{Added, "S", true, x + " may now kms:Decrypt when ArnLike k arn:aws:s3:::a-* or arn:aws:sqs:*:1:a (before: kms:Decrypt when ArnEquals k arn:aws:s3:::a-b)"},
		}},
		{"variables that are none any more", allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringEquals":{"k":"${aws:username}"}}`), strings.Replace(allow(roleX, `"kms:Decrypt"`, `,"Condition":{"StringEquals":{"k":"${aws:username}"}}`), "2012-10-17", "2008-10-17", 1), []Change{
			{Added, "S", true, x + " may now kms:Decrypt when StringEquals k ${aws:username} (taken literally in this policy's version)"},
			{Removed, "S", false, x + " may no longer kms:Decrypt when StringEquals k ${aws:username}"},
		}},
		{"another version", document(root), strings.Replace(document(root), "2012-10-17", "2008-10-17", 1), nil},
		{"deny with an exception", document(root, `{"Sid":"D","Effect":"Deny","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringNotEquals":{"aws:PrincipalAccount":"444455556666"}}}`), document(root, `{"Sid":"D","Effect":"Deny","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringNotEquals":{"aws:PrincipalAccount":["444455556666","222233334444"]}}}`), []Change{
			{Removed, "D", true, "everyone is no longer denied kms:* when StringNotEquals aws:PrincipalAccount 444455556666 (still: kms:* when StringNotEquals aws:PrincipalAccount 222233334444 or 444455556666)"},
		}},
		{"exception of a deny dropped", document(root, `{"Sid":"D","Effect":"Deny","NotPrincipal":{"AWS":["444455556666","`+x+`"]},"Action":"kms:*","Resource":"*"}`), document(root, `{"Sid":"D","Effect":"Deny","NotPrincipal":{"AWS":"444455556666"},"Action":"kms:*","Resource":"*"}`), []Change{
			{Added, "D", false, "everyone but account 444455556666 is now denied kms:*"},
		}},
		{"everyone but one contains another", document(root, `{"Sid":"A","Effect":"Allow","NotPrincipal":`+roleX+`,"Action":"kms:Decrypt","Resource":"*"}`), document(root, `{"Sid":"A","Effect":"Allow","NotPrincipal":`+roleX+`,"Action":"kms:Decrypt","Resource":"*"}`, `{"Sid":"B","Effect":"Allow","Principal":{"AWS":"222233334444"},"Action":"kms:Decrypt","Resource":"*"}`), nil},
		{"everyone but one does not contain that one", document(root, `{"Sid":"A","Effect":"Allow","NotPrincipal":`+roleX+`,"Action":"kms:Decrypt","Resource":"*"}`), document(root, `{"Sid":"A","Effect":"Allow","NotPrincipal":`+roleX+`,"Action":"kms:Decrypt","Resource":"*"}`, `{"Sid":"B","Effect":"Allow","Principal":`+roleX+`,"Action":"kms:Decrypt","Resource":"*"}`), []Change{
			{Added, "B", true, x + " may now kms:Decrypt"},
		}},
		{"another resource", document(root), strings.Replace(allow(roleX, `"kms:Decrypt"`), `"kms:Decrypt","Resource":"*"`, `"kms:Decrypt","Resource":["r2","r1"]`, 1), []Change{
			{Added, "S", true, x + " may now kms:Decrypt on r1 or r2"},
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
	if diff := cmp.Diff([]Change{{Added, "Root", true, "account 444455556666 may now kms:*"}}, Diff(nil, p)); diff != "" {
		t.Errorf("a first policy (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Change{{Removed, "Root", false, "account 444455556666 may no longer kms:*"}}, Diff(p, nil)); diff != "" {
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
	if got := len(a.Findings(judged)); got != 702 { // one for each principal, and the unknown actions of each statement
		t.Errorf("%d findings", got)
	}
	if got := Diff(a, b); got != nil {
		t.Errorf("changes of a policy in another case: %v", got)
	}
	got := Diff(a, policy("kms:c%d"))
	if len(got) != 2 || !got[0].Widens || got[1].Widens {
		t.Fatalf("changes: %v", got)
	}
	for i, want := range []string{" and 684 more may now kms:c0, kms:c1, kms:c10, ", " and 684 more may no longer kms:a0, kms:a1, kms:a10, "} {
		if text := got[i].Text; !strings.HasPrefix(text, "account 000000000000, account 000000000001, ") || !strings.Contains(text, want) || !strings.HasSuffix(text, " and 1184 more") {
			t.Errorf("change %q does not say %q", text, want)
		}
	}
}

// TestManyAccounts names some of the accounts that conditions let in, not all of
// them for each of many statements.
func TestManyAccounts(t *testing.T) {
	accounts := make([]string, 1400)
	for i := range accounts {
		accounts[i] = fmt.Sprintf("%012d", i)
	}
	statements := []string{root, `{"Effect":"Deny","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringNotEquals":{"aws:PrincipalAccount":["444455556666","` + strings.Join(accounts, `","`) + `"]}}}`}
	for range 90 {
		statements = append(statements, `{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"}`)
	}
	findings := parsed(t, document(statements...)).Findings(judged)
	if want := 90 * (mostAccounts + 1); len(findings) != want {
		t.Fatalf("%d findings, want %d", len(findings), want)
	}
	f := findings[mostAccounts]
	if want := "still more accounts are let in by the conditions, account 000000000016 may kms:Decrypt, and the account is not trusted"; f.Principal != "*" || f.Message != want || !f.Exposes() {
		t.Errorf("the last finding of a statement: %+v", f)
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

func ids(findings []finding.Finding) []string {
	var list []string
	for _, f := range findings {
		list = append(list, string(f.Severity)+" "+f.ID.String()+" "+f.Principal)
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
			"Condition":                       conditions,
		}
		if len(s.Actions) > 0 {
			out[not[s.NotAction]+"Action"] = reversed(s.Actions)
		}
		if len(s.Resources) > 0 {
			out[not[s.NotResource]+"Resource"] = reversed(s.Resources)
		}
		statements = append(statements, out)
	}
	out := map[string]any{"Statement": statements}
	if p.Version != "" {
		out["Version"] = p.Version
	}
	data, err := json.Marshal(out)
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

// FuzzDiff checks that the difference of two policies is the same both ways.
func FuzzDiff(f *testing.F) {
	f.Add([]byte(document(root)), []byte(document(root, `{"Effect":"Allow","Principal":"*","NotAction":["kms:Decrypt","kms:X"],"Resource":"*","Condition":{"StringLike":{"a":["1*","2"]},"NumericLessThan":{"b":3}}}`)))
	f.Add([]byte(document(`{"Effect":"Deny","NotPrincipal":{"AWS":"444455556666"},"Action":["kms:*","kms:Y*"],"Resource":"r","Condition":{"ArnNotLike":{"aws:PrincipalArn":["arn:aws:iam::1:*","${x}"]}}}`)),
		[]byte(`{"Statement":{"Effect":"Deny","Principal":{"Service":"a","AWS":["*","b"]},"Action":"kms:y1","Resource":["r","*"],"Condition":{"Null":{"k":true}}}}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		p, err := Parse(a)
		if err != nil {
			return
		}
		q, err := Parse(b)
		if err != nil {
			return
		}
		count := func(list []Change) (counts [2][2]int) {
			for _, c := range list {
				kind, wide := 0, 0
				if c.Kind == Removed {
					kind = 1
				}
				if c.Widens {
					wide = 1
				}
				counts[kind][wide]++
			}
			return counts
		}
		forth, back := count(Diff(p, q)), count(Diff(q, p))
		if forth[0][0] != back[1][1] || forth[0][1] != back[1][0] || forth[1][0] != back[0][1] || forth[1][1] != back[0][0] {
			t.Fatalf("forth %v, back %v\n%s\n%s", Diff(p, q), Diff(q, p), a, b)
		}
	})
}
