package keypolicy

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
)

const thisKey = "arn:aws:kms:us-east-1:" + own + ":key/this"

// calls are the calls that somebody of an account can make, as far as the
// conditions of randomCondition ask for it: with and without each key that the
// caller may choose.
func calls(account, principal, action string) (list []iam.Request) {
	for _, via := range []string{"", "s3.us-east-1.amazonaws.com"} {
		if via != "" && action == "kms:PutKeyPolicy" {
			continue // no service makes that call
		}
		for _, mfa := range []string{"", "true", "false"} {
			for _, organization := range []string{"", "o-else"} {
				context := map[string]string{"kms:CallerAccount": account}
				for key, value := range map[string]string{"kms:ViaService": via, "aws:MultiFactorAuthPresent": mfa, "aws:PrincipalOrgID": organization} {
					if value != "" {
						context[key] = value
					}
				}
				list = append(list, iam.Request{Principal: principal, Account: account, Action: action, Resource: thisKey, Context: context})
			}
		}
	}
	return list
}

// may reports whether one of the calls is allowed, and whether one that comes
// through no service is.
func may(p *iam.Policy, calls []iam.Request) (anyhow, directly bool) {
	for _, call := range calls {
		switch p.Evaluate(call) {
		case iam.Allow, iam.AllowAccount:
			anyhow = true
			directly = directly || call.Context["kms:ViaService"] == ""
		case iam.ImplicitDeny, iam.ExplicitDeny:
		}
	}
	return anyhow, directly
}

// identities are condition keys, with values, whose meaning for a caller is known
// from who it is; choices are those that a caller can choose.
var (
	identities = map[string][]string{
		"kms:CallerAccount":         {own, partner, foreign, "4444*", "*", "44445555666?"},
		"aws:PrincipalAccount":      {own, partner, foreign, "*"},
		"aws:PrincipalArn":          {"arn:aws:iam::444455556666:*", "arn:aws:iam::222233334444:*"},
		"aws:SourceAccount":         {own, foreign},
		"aws:PrincipalIsAWSService": {"true", "false"},
		"kms:ViaService":            {"s3.us-east-1.amazonaws.com", "s3.*", "*"},
	}
	choices = map[string][]string{
		"aws:PrincipalArn":           {"arn:aws:iam::444455556666:role/x", "arn:aws:iam::222233334444:role/x", "arn:aws:iam::*:role/x", "arn:aws:iam::444455556666:*"},
		"aws:PrincipalOrgID":         {"o-ours", "o-*", "o-theirs"},
		"aws:MultiFactorAuthPresent": {"true", "false"},
	}
)

// randomCondition makes a condition with one of the keys.
func randomCondition(r *rand.Rand, values map[string][]string) Condition {
	keys := slices.Sorted(maps.Keys(values))
	c := Condition{Key: keys[r.IntN(len(keys))]}
	operators := []string{"StringEquals", "StringLike", "StringNotEquals", "StringNotLike"}
	switch c.Key {
	case "aws:PrincipalArn":
		operators = append(operators, "ArnEquals", "ArnLike", "ArnNotLike")
	case "aws:MultiFactorAuthPresent", "aws:PrincipalIsAWSService":
		operators = []string{"Bool"}
	}
	c.Operator = operators[r.IntN(len(operators))]
	switch r.IntN(5) { // what ForAnyValue means with IfExists is not documented
	case 0:
		c.Operator = "ForAnyValue:" + c.Operator
	case 1:
		c.Operator = "ForAllValues:" + c.Operator
	case 2:
		c.Operator += "IfExists"
	}
	for range 1 + r.IntN(2) {
		c.Values = append(c.Values, values[c.Key][r.IntN(len(values[c.Key]))])
	}
	if r.IntN(6) == 0 {
		c.Operator, c.Values = "Null", []string{[]string{"true", "false"}[r.IntN(2)]}
	}
	return c
}

// randomCase makes a policy, judges it, and reads it with the evaluator of localaws, which shares no code with the judgement and
// answers for one call at a time.
func randomCase(t *testing.T, r *rand.Rand, values map[string][]string) (document []byte, findings []finding.Finding, evaluated *iam.Policy) {
	t.Helper()
	p := randomPolicyOf(r, values)
	document, evaluated = evaluate(t, p)
	return document, p.Findings(judged), evaluated
}

// randomPolicyOf makes a policy whose conditions have such keys.
func randomPolicyOf(r *rand.Rand, values map[string][]string) *Policy {
	p := randomPolicy(r)
	for i := range p.Statements {
		s := &p.Statements[i]
		s.Conditions = nil
		for range r.IntN(3) {
			s.addCondition(randomCondition(r, values))
		}
		if r.IntN(20) == 0 {
			s.Resources = nil
		}
	}
	return p
}

func (s *Statement) addCondition(c Condition) {
	if !slices.ContainsFunc(s.Conditions, func(o Condition) bool { return o.Operator == c.Operator && o.Key == c.Key }) {
		s.Conditions = append(s.Conditions, c)
	}
}

func evaluate(t *testing.T, p *Policy) (document []byte, evaluated *iam.Policy) {
	t.Helper()
	document = rewrite(t, p)
	evaluated, err := iam.Parse(document)
	if err != nil {
		t.Fatalf("%v\n%s", err, document)
	}
	return document, evaluated
}

func has(findings []finding.Finding, least finding.Severity, ids ...finding.ID) bool {
	return slices.ContainsFunc(findings, func(f finding.Finding) bool {
		return slices.Contains(ids, f.ID) && f.Severity.AtLeast(least)
	})
}

// TestAdministrationAgainstEvaluator: where the evaluator lets nobody of the
// account change the policy, that is a lock-out.
func TestAdministrationAgainstEvaluator(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	locked, found := 0, 0
	for range 400 {
		document, findings, evaluated := randomCase(t, r, identities)
		ours := false
		for _, name := range []string{"role/x", "role/other", "root"} {
			all, _ := may(evaluated, calls(own, "arn:aws:iam::"+own+":"+name, "kms:PutKeyPolicy"))
			ours = ours || all
		}
		if !ours && !has(findings, finding.Critical, finding.Lockout) {
			t.Fatalf("nobody may change the policy:\n%s\n%v", document, findings)
		}
		if !ours {
			locked++
		}
		if has(findings, finding.Critical, finding.Lockout) {
			found++
		}
	}
	t.Logf("%d locked (%d found so)", locked, found)
	if locked < 40 {
		t.Error("the policies are too harmless to show anything")
	}
}

// TestDifferencesAgainstEvaluator: policies without a difference are the same to
// the evaluator, whoever calls.
func TestDifferencesAgainstEvaluator(t *testing.T) {
	keys := maps.Clone(choices)
	for key, values := range identities {
		keys[key] = append(keys[key], values...)
	}
	r := rand.New(rand.NewPCG(7, 10))
	same, different := 0, 0
	for range 200 {
		a := randomPolicyOf(r, keys)
		b := rewritten(r, a)
		changed(r, b, keys)
		before, evaluatedBefore := evaluate(t, a)
		after, evaluatedAfter := evaluate(t, b)
		if Diff(a, b) != nil {
			different++
			continue
		}
		same++
		for _, account := range []string{own, foreign, partner, "888877776666"} {
			for _, name := range []string{"role/x", "role/other", "root"} {
				for _, action := range []string{"kms:Decrypt", "kms:CreateGrant", "kms:PutKeyPolicy", "kms:Encrypt", "kms:GetKeyPolicy", "kms:TagResource"} {
					for _, call := range calls(account, "arn:aws:iam::"+account+":"+name, action) {
						if was, is := evaluatedBefore.Evaluate(call), evaluatedAfter.Evaluate(call); was != is {
							t.Fatalf("a difference is hidden: %v was %v, is %v\n%s\n%s", call, was, is, before, after)
						}
					}
				}
			}
		}
	}
	t.Logf("%d pairs without difference, %d with", same, different)
	if min(same, different) < 40 {
		t.Error("the pairs are too alike, or too different, to show anything")
	}
}

// changed makes a small change, which may turn out to be none.
func changed(r *rand.Rand, p *Policy, keys map[string][]string) {
	s := &p.Statements[r.IntN(len(p.Statements))]
	switch r.IntN(8) {
	case 0:
		s.addCondition(randomCondition(r, keys))
	case 1:
		if len(s.Conditions) > 0 {
			s.Conditions = s.Conditions[1:]
		}
	case 2:
		if len(s.Conditions) > 0 {
			c := &s.Conditions[0]
			c.Values = append(slices.Clone(c.Values), keys[c.Key][r.IntN(len(keys[c.Key]))])
		}
	case 3:
		if len(s.Conditions) > 0 {
			s.Conditions[0].Operator = randomCondition(r, map[string][]string{s.Conditions[0].Key: keys[s.Conditions[0].Key]}).Operator
		}
	case 4:
		s.Actions = append(slices.Clone(s.Actions), []string{"kms:Decrypt", "kms:TagResource", "kms:Get*"}[r.IntN(3)])
	case 5:
		if len(s.Principals) > 1 {
			s.Principals = s.Principals[1:]
		}
	case 6:
		p.Statements = append(p.Statements, p.Statements[0])
	case 7:
		if len(p.Statements) > 1 {
			p.Statements = p.Statements[1:]
		}
	}
}

// TestCorpusAgainstEvaluator plays the labelled policies the same way.
func TestCorpusAgainstEvaluator(t *testing.T) {
	const strangersRole = "arn:aws:iam::888877776666:role/r"
	for group, cases := range labelledCorpus(t) {
		for _, l := range cases {
			evaluated, err := iam.Parse(l.Policy)
			if err != nil {
				continue // what AWS refuses, and is judged all the same
			}
			labelled := slices.ContainsFunc(l.Findings, func(f brief) bool { return slices.Contains(classes["public"], f.ID) })
			for _, action := range []string{"kms:Decrypt", "kms:CreateGrant", "kms:PutKeyPolicy"} {
				requests := calls("888877776666", strangersRole, action)
				for i := range requests {
					if !l.Now.IsZero() {
						requests[i].Context["aws:CurrentTime"] = l.Now.Format(time.RFC3339)
					}
					if l.Key != "" {
						requests[i].Resource = l.Key
					} else {
						requests[i].Resource = strings.Replace(thisKey, own, l.Account, 1)
					}
				}
				if all, _ := may(evaluated, requests); all && !labelled {
					t.Errorf("%s/%s: a stranger may %s", group, l.Name, action)
				}
			}
		}
	}
}
