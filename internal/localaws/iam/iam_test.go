package iam

import (
	"strings"
	"testing"
)

const (
	account = "111122223333"
	root    = "arn:aws:iam::111122223333:root"
	alice   = "arn:aws:iam::111122223333:user/alice"
	deploy  = "arn:aws:iam::111122223333:role/deploy"
	session = "arn:aws:sts::111122223333:assumed-role/deploy/ci"
	keyARN  = "arn:aws:kms:us-east-1:111122223333:key/1234"
)

func user(arn string) Request {
	return Request{Principal: arn, Account: account, Action: "kms:PutKeyPolicy", Resource: keyARN}
}

func role() Request {
	r := user(session)
	r.RoleARN = deploy
	return r
}

func with(r Request, key, value string) Request {
	r.Context = map[string]string{key: value}
	return r
}

func TestEvaluate(t *testing.T) {
	service := Request{Service: "events.amazonaws.com", Action: "sqs:SendMessage", Resource: "arn:aws:sqs:us-east-1:111122223333:q"}
	for _, tc := range []struct {
		name      string
		statement string
		request   Request
		want      Decision
	}{
		{"account delegates", `{"Effect":"Allow","Principal":{"AWS":"` + root + `"},"Action":"kms:*","Resource":"*"}`, user(alice), AllowAccount},
		{"account id delegates", `{"Effect":"Allow","Principal":{"AWS":["111122223333"]},"Action":"kms:*","Resource":"*"}`, role(), AllowAccount},
		{"root is the account", `{"Effect":"Allow","Principal":{"AWS":"` + root + `"},"Action":"kms:*","Resource":"*"}`, user(root), Allow},
		{"other account", `{"Effect":"Allow","Principal":{"AWS":"444455556666"},"Action":"kms:*","Resource":"*"}`, user(alice), ImplicitDeny},
		{"user named", `{"Effect":"Allow","Principal":{"AWS":"` + alice + `"},"Action":"kms:*","Resource":"*"}`, user(alice), Allow},
		{"other user", `{"Effect":"Allow","Principal":{"AWS":"` + alice + `x"},"Action":"kms:*","Resource":"*"}`, user(alice), ImplicitDeny},
		{"role names its session", `{"Effect":"Allow","Principal":{"AWS":"` + deploy + `"},"Action":"kms:*","Resource":"*"}`, role(), Allow},
		{"role with a path", `{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:role/team/a/deploy"},"Action":"kms:*","Resource":"*"}`, role(), Allow},
		{"session named", `{"Effect":"Allow","Principal":{"AWS":"` + session + `"},"Action":"kms:*","Resource":"*"}`, role(), Allow},
		{"everyone", `{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}`, user(alice), Allow},
		{"everyone as AWS", `{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"*","Resource":"*"}`, Request{Action: "kms:Decrypt", Resource: keyARN}, Allow},
		{"action ignores case", `{"Effect":"Allow","Principal":"*","Action":"KMS:put*","Resource":"*"}`, user(alice), Allow},
		{"question mark", `{"Effect":"Allow","Principal":"*","Action":"kms:PutKeyPolic?","Resource":"*"}`, user(alice), Allow},
		{"other action", `{"Effect":"Allow","Principal":"*","Action":["kms:Get*","kms:Put"],"Resource":"*"}`, user(alice), ImplicitDeny},
		{"NotAction", `{"Effect":"Allow","Principal":"*","NotAction":"kms:Decrypt","Resource":"*"}`, user(alice), Allow},
		{"NotAction hit", `{"Effect":"Allow","Principal":"*","NotAction":"kms:Put*","Resource":"*"}`, user(alice), ImplicitDeny},
		{"resource respects case", `{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"ARN:*"}`, user(alice), ImplicitDeny},
		{"NotResource", `{"Effect":"Allow","Principal":"*","Action":"kms:*","NotResource":"*:key/9*"}`, user(alice), Allow},
		{"no Resource, no effect", `{"Effect":"Allow","Principal":"*","Action":"kms:*"}`, user(alice), ImplicitDeny},
		{"deny wins", `{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"},{"Effect":"Deny","Principal":{"AWS":"` + alice + `"},"Action":"kms:Put*","Resource":"*"}`, user(alice), ExplicitDeny},
		{"deny for the account", `{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"},{"Effect":"Deny","Principal":{"AWS":"` + root + `"},"Action":"*","Resource":"*"}`, user(alice), ExplicitDeny},
		{"NotPrincipal denies others", `{"Effect":"Deny","NotPrincipal":{"AWS":"` + deploy + `"},"Action":"*","Resource":"*"}`, user(alice), ExplicitDeny},
		{"NotPrincipal needs account and session", `{"Effect":"Deny","NotPrincipal":{"AWS":"` + deploy + `"},"Action":"*","Resource":"*"}`, role(), ExplicitDeny},
		{"NotPrincipal spares", `{"Effect":"Deny","NotPrincipal":{"AWS":["` + deploy + `","` + session + `","` + root + `"]},"Action":"*","Resource":"*"}`, role(), ImplicitDeny},
		{"service", `{"Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"*"}`, service, Allow},
		{"other service", `{"Effect":"Allow","Principal":{"Service":"sns.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"*"}`, service, ImplicitDeny},
		{"service is no account", `{"Effect":"Allow","Principal":{"AWS":"` + root + `"},"Action":"sqs:*","Resource":"*"}`, service, ImplicitDeny},
		{"source ARN", `{"Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"*","Condition":{"ArnEquals":{"aws:SourceArn":"arn:aws:events:us-east-1:111122223333:rule/kms-*"}}}`, with(service, "AWS:SourceARN", "arn:aws:events:us-east-1:111122223333:rule/kms-x"), Allow},
		{"wrong source ARN", `{"Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"*","Condition":{"ArnLike":{"aws:SourceArn":"arn:aws:events:*:444455556666:*"}}}`, with(service, "aws:SourceArn", "arn:aws:events:us-east-1:111122223333:rule/kms-x"), ImplicitDeny},
		{"principal ARN of a session is the role", `{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*","Condition":{"StringEquals":{"aws:PrincipalArn":"` + deploy + `"}}}`, role(), Allow},
		{"two conditions, one fails", `{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*","Condition":{"StringEquals":{"aws:PrincipalAccount":"111122223333","kms:ViaService":"s3"}}}`, user(alice), ImplicitDeny},
		{"one of two values", `{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*","Condition":{"StringEquals":{"aws:PrincipalAccount":["1","111122223333"]}}}`, user(alice), Allow},
		{"unknown operator allows nobody", `{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*","Condition":{"StringMatches":{"k":"v"}}}`, user(alice), ImplicitDeny},
		{"unknown operator denies", `{"Effect":"Deny","Principal":"*","Action":"*","Resource":"*","Condition":{"StringMatches":{"k":"v"}}}`, user(alice), ExplicitDeny},
		{"unknown but another fails", `{"Effect":"Deny","Principal":"*","Action":"*","Resource":"*","Condition":{"StringMatches":{"k":"v"},"Bool":{"aws:PrincipalIsAWSService":"true"}}}`, user(alice), ImplicitDeny},
		{"policy variable", `{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*","Condition":{"StringEquals":{"kms:CallerAccount":"${aws:PrincipalAccount}"}}}`, with(user(alice), "kms:CallerAccount", account), Allow},
		{"policy variable with a default", `{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*","Condition":{"StringEquals":{"aws:PrincipalAccount":"${aws:x, '111122223333'}"}}}`, user(alice), Allow},
		{"policy variable of nothing allows nobody", `{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*","Condition":{"StringEquals":{"aws:PrincipalAccount":"${aws:x}"}}}`, user(alice), ImplicitDeny},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := Parse([]byte(`{"Version":"2012-10-17","Id":"t","Statement":[` + tc.statement + `]}`))
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Evaluate(tc.request); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func TestConditions(t *testing.T) {
	for _, tc := range []struct {
		operator, values string
		have             string // "-" for a request without the key
		want             truth
	}{
		{"StringEquals", `"a"`, "a", yes},
		{"StringEquals", `"a"`, "A", no},
		{"StringEquals", `"a"`, "-", no},
		{"StringEqualsIfExists", `"a"`, "-", yes},
		{"StringEqualsIfExists", `"a"`, "b", no},
		{"StringNotEquals", `["a","b"]`, "b", no},
		{"StringNotEquals", `["a","b"]`, "c", yes},
		{"StringNotEquals", `"a"`, "-", yes},
		{"StringEqualsIgnoreCase", `"a"`, "A", yes},
		{"StringNotEqualsIgnoreCase", `"a"`, "A", no},
		{"StringLike", `"s3.*.amazonaws.com"`, "s3.eu-west-1.amazonaws.com", yes},
		{"StringNotLike", `"s3.*"`, "s3.x", no},
		{"ArnLike", `"arn:aws:iam::*:role/x"`, "arn:aws:iam::1:role/x", yes},
		{"ArnLike", `"arn:*:role/x"`, "arn:aws:iam::1:role/x", no},
		{"ArnNotEquals", `"arn:aws:iam::1:role/x"`, "arn:aws:iam::1:role/y", yes},
		{"Bool", `true`, "true", yes},
		{"Bool", `"true"`, "false", no},
		{"Null", `"true"`, "-", yes},
		{"Null", `"false"`, "-", no},
		{"Null", `false`, "x", yes},
		{"NumericLessThan", `7`, "6", yes},
		{"NumericLessThanEquals", `"7"`, "7", yes},
		{"NumericGreaterThan", `7`, "7", no},
		{"NumericGreaterThanEquals", `7`, "8", yes},
		{"NumericNotEquals", `7`, "8", yes},
		{"NumericEquals", `7`, "seven", no},
		{"DateLessThan", `"2026-01-02T00:00:00Z"`, "2026-01-01T00:00:00Z", yes},
		{"DateGreaterThan", `"1767225600"`, "2026-01-01T00:00:01Z", yes},
		{"IpAddress", `"10.0.0.0/8"`, "10.1.2.3", yes},
		{"IpAddress", `"10.0.0.1"`, "10.1.2.3", no},
		{"NotIpAddress", `"10.0.0.0/8"`, "11.1.2.3", yes},
		{"ForAnyValue:StringEquals", `"a"`, "-", no},
		{"ForAllValues:StringEquals", `"a"`, "-", yes},
		{"ForAllValues:StringEquals", `"a"`, "b", no},
		{"ForAnyValue:StringEquals", `"b"`, "a,b", yes},
		{"ForAnyValue:StringNotEquals", `"b"`, "a,b", yes},
		{"ForAnyValue:StringNotEquals", `["a","b"]`, "a,b", no},
		{"ForAllValues:StringEquals", `["a","b","c"]`, "a,b", yes},
		{"ForAllValues:StringEquals", `"b"`, "a,b", no},
		{"ForAllValues:StringNotEquals", `"b"`, "a,b", no},
		{"BinaryEquals", `"YQ=="`, "YQ==", yes},
		{"BinaryEquals", `"YQ=="`, "a", no},
		{"StringMatches", `"a"`, "a", unknown},
	} {
		t.Run(tc.operator+" "+tc.have, func(t *testing.T) {
			values, err := conditionValues([]byte(tc.values))
			if err != nil {
				t.Fatal(err)
			}
			r := Request{}
			if tc.have != "-" {
				r.Several = map[string][]string{"k": strings.Split(tc.have, ",")}
			}
			if got := (condition{operator: tc.operator, key: "K", values: values}).holds(r, true); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tc := range []struct{ name, document, want string }{
		{"empty", ``, "syntax"},
		{"no JSON", `policy`, "syntax"},
		{"a list", `[]`, "syntax"},
		{"trailing", `{"Statement":[{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}]} x`, "syntax"},
		{"no statement", `{"Version":"2012-10-17"}`, "Statement"},
		{"no statements", `{"Statement":[]}`, "Statement"},
		{"version", `{"Version":"2020-01-01","Statement":[]}`, "version"},
		{"unknown field", `{"Statement":[{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*","Who":1}]}`, "Who"},
		{"effect", `{"Statement":{"Effect":"allow","Principal":"*","Action":"*","Resource":"*"}}`, "effect"},
		{"no principal", `{"Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}`, "Principal"},
		{"both principals", `{"Statement":{"Effect":"Allow","Principal":"*","NotPrincipal":"*","Action":"*","Resource":"*"}}`, "exclude"},
		{"bad principal", `{"Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::1:user/x"},"Action":"*","Resource":"*"}}`, "invalid principals"},
		{"principal with a wildcard", `{"Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:user/*"},"Action":"*","Resource":"*"}}`, "invalid principals"},
		{"principal type", `{"Statement":{"Effect":"Allow","Principal":{"Aws":"*"},"Action":"*","Resource":"*"}}`, "invalid principals"},
		{"no action", `{"Statement":{"Effect":"Allow","Principal":"*","Resource":"*"}}`, "Action"},
		{"bare action", `{"Statement":{"Effect":"Allow","Principal":"*","Action":"Decrypt","Resource":"*"}}`, "vendor"},
		{"condition", `{"Statement":{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*","Condition":{"Bool":{"k":{}}}}}`, "condition"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse([]byte(tc.document))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

// A statement that allows everybody everything must not be lost or gained by
// how the document is written.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"Statement":{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}}`))
	f.Add([]byte(`{"Statement":[{"Effect":"Deny","NotPrincipal":{"AWS":["111122223333"]},"NotAction":["kms:*"],"NotResource":"a?*","Condition":{"ForAnyValue:StringLike":{"k":["a*",1,true]}}}]}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		p, err := Parse(document)
		if err != nil {
			if p != nil {
				t.Error("a policy beside an error")
			}
			return
		}
		first := p.Evaluate(role())
		if again := p.Evaluate(role()); again != first {
			t.Errorf("decided %d, then %d", first, again)
		}
	})
}

func TestGlob(t *testing.T) {
	for _, tc := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"a*b*c", "axxbyyc", true}, {"a*b*c", "axxbyy", false},
		{"*a", "bababa", true}, {"?", "", false}, {"a?c", "abc", true}, {"a**", "a", true}, {"*aab", "aaaab", true},
	} {
		if got := glob(tc.pattern, tc.s); got != tc.want {
			t.Errorf("glob(%q, %q) = %t", tc.pattern, tc.s, got)
		}
	}
}

func TestIdentityPolicies(t *testing.T) {
	p, err := ParseIdentity([]byte(`{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":["sqs:SendMessage","s3:Get*"],"Resource":["arn:aws:sqs:us-east-1:111122223333:q","arn:aws:s3:::b/*"]},
		{"Effect":"Deny","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/secret"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for ask, want := range map[[2]string]Decision{
		{"sqs:SendMessage", "arn:aws:sqs:us-east-1:111122223333:q"}:    Allow,
		{"sqs:SendMessage", "arn:aws:sqs:us-east-1:111122223333:else"}: ImplicitDeny,
		{"s3:GetObjectTagging", "arn:aws:s3:::b/x"}:                    Allow,
		{"s3:GetObject", "arn:aws:s3:::b/secret"}:                      ExplicitDeny,
		{"s3:PutObject", "arn:aws:s3:::b/x"}:                           ImplicitDeny,
	} {
		if got := p.Evaluate(Request{Action: ask[0], Resource: ask[1]}); got != want {
			t.Errorf("%s on %s: %v, want %v", ask[0], ask[1], got, want)
		}
	}
	for _, wrong := range []string{
		`{"Statement":{"Effect":"Allow","Action":"s3:*"}}`,
		`{"Statement":{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":"*"}}`,
	} {
		if _, err := ParseIdentity([]byte(wrong)); err == nil {
			t.Errorf("accepted: %s", wrong)
		}
	}
}
