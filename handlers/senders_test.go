package handlers

import (
	"strings"
	"testing"

	"github.com/cmkeeper/cmkeeper/handlers/reaction"
)

func TestOpenTo(t *testing.T) {
	t.Parallel()
	const (
		queue = "arn:aws:sqs:eu-central-1:444455556666:events"
		rule  = "arn:aws:events:eu-central-1:444455556666:rule/cmkeeper-kms"
		role  = "arn:aws:iam::444455556666:role/keepers/cmkeeper"
	)
	us := reaction.Identity{Account: "444455556666", Name: "cmkeeper", Role: true}
	deny := func(change ...string) string {
		const statement = `{"Effect":"Deny","Principal":"*","Action":"sqs:SendMessage","Resource":"` + queue + `","Condition":{"ArnNotLike":{"aws:SourceArn":["` + rule + `"],"aws:PrincipalArn":["` + role + `"]}}}`
		s := strings.NewReplacer(change...).Replace(statement)
		if len(change) > 0 && s == statement {
			t.Fatalf("nothing to change: %q", change)
		}
		return s
	}
	const allow = `{"Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"` + queue + `","Condition":{"ArnEquals":{"aws:SourceArn":"` + rule + `"}}}`
	for name, test := range map[string]struct {
		statements []string
		closed     bool
	}{
		"denied to everybody else":          {[]string{allow, deny()}, true},
		"in another order":                  {[]string{deny(), allow}, true},
		"in other words":                    {[]string{allow, deny(`"Principal":"*"`, `"Principal":{"AWS":"*"}`, "ArnNotLike", "StringNotEqualsIfExists", `"sqs:SendMessage"`, `["sqs:*","sqs:PurgeQueue"]`)}, true},
		"names of rules as configured":      {[]string{allow, deny("rule/cmkeeper-kms", "rule/cmkeeper-*")}, true},
		"the rules alone":                   {[]string{allow, deny(`,"aws:PrincipalArn":["`+role+`"]`, "")}, true},
		"nothing but an Allow":              {[]string{allow}, false},
		"no policy":                         {nil, false},
		"an Allow of the same":              {[]string{deny("Deny", "Allow")}, false},
		"denied to one principal":           {[]string{deny(`"Principal":"*"`, `"Principal":{"AWS":"arn:aws:iam::444455556666:role/x"}`)}, false},
		"denied to all but one":             {[]string{deny(`"Principal"`, `"NotPrincipal"`)}, false},
		"another action":                    {[]string{deny("sqs:SendMessage", "sqs:PurgeQueue")}, false},
		"another queue":                     {[]string{deny(":events\"", ":other\"")}, false},
		"all actions but":                   {[]string{deny(`"Action"`, `"NotAction"`)}, false},
		"any rule":                          {[]string{deny("rule/cmkeeper-kms", "rule/*")}, false},
		"a rule of another account":         {[]string{deny(rule, strings.Replace(rule, "444455556666", "111122223333", 1))}, false},
		"a rule of another Region":          {[]string{deny(rule, strings.Replace(rule, "eu-central-1", "us-east-1", 1))}, false},
		"another service's source":          {[]string{deny(rule, "arn:aws:sns:eu-central-1:444455556666:cmkeeper-kms")}, false},
		"another role":                      {[]string{deny("role/keepers/cmkeeper", "role/keepers/cmkeeper2")}, false},
		"any role of the name's beginning":  {[]string{deny("role/keepers/cmkeeper", "role/*cmkeeper")}, false},
		"a user of the role's name":         {[]string{deny("role/keepers/cmkeeper", "user/cmkeeper")}, false},
		"the account":                       {[]string{deny(role, "arn:aws:iam::444455556666:root")}, false},
		"a further way out":                 {[]string{deny(`"aws:PrincipalArn"`, `"aws:SourceVpce":["vpce-1"],"aws:PrincipalArn"`)}, false},
		"the other way round":               {[]string{deny("ArnNotLike", "ArnLike")}, false},
		"one condition the other way round": {[]string{deny(`}}}`, `},"Bool":{"aws:SecureTransport":"false"}}}`)}, false},
		"without a condition":               {[]string{deny(`,"Condition":{"ArnNotLike":{"aws:SourceArn":["`+rule+`"],"aws:PrincipalArn":["`+role+`"]}}`, "")}, false},
	} {
		policy := `{"Version":"2012-10-17","Statement":[` + strings.Join(test.statements, ",") + `]}`
		if why := openTo(policy, queue, []string{"cmkeeper-*"}, us); (why == "") != test.closed {
			t.Errorf("%s: open because %q, want closed %v", name, why, test.closed)
		}
	}
	if why := openTo("", queue, nil, us); why == "" {
		t.Error("a queue without a policy is closed")
	}
}
