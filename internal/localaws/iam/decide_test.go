package iam_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
)

const (
	own     = "111122223333"
	other   = "444455556666"
	rootARN = "arn:aws:iam::111122223333:root"
	ada     = "arn:aws:iam::111122223333:user/ada"
	app     = "arn:aws:iam::111122223333:role/team/app"
	session = "arn:aws:sts::111122223333:assumed-role/app/ci"
	keyARN  = "arn:aws:kms:us-east-1:111122223333:key/1234"
	theirs  = "arn:aws:kms:us-east-1:444455556666:key/5678"
)

func document(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

func keyPolicy(t *testing.T, statements ...string) *iam.Policy {
	t.Helper()
	p, err := iam.Parse([]byte(document(statements...)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// allow is a statement of an identity policy with further elements.
func allow(actions, more string) string {
	return `{"Effect":"Allow","Action":` + actions + `,"Resource":"*"` + more + `}`
}

// to is a statement of a key policy.
func to(principal, more string) string {
	return `{"Effect":"Allow","Principal":` + principal + `,"Action":"kms:*","Resource":"*"` + more + `}`
}

const (
	decrypt       = `{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"}`
	onlyS3        = `{"Effect":"Allow","Action":"s3:*","Resource":"*"}`
	denyDecrypt   = `{"Effect":"Deny","Action":"kms:Decrypt","Resource":"*"}`
	toTheAccount  = `{"AWS":"arn:aws:iam::111122223333:root"}`
	toAda         = `{"AWS":"arn:aws:iam::111122223333:user/ada"}`
	toApp         = `{"AWS":"arn:aws:iam::111122223333:role/team/app"}`
	toTheSession  = `{"AWS":"arn:aws:sts::111122223333:assumed-role/app/ci"}`
	noIdentity    = "because no identity-based policy allows the kms:Decrypt action"
	noResource    = "because no resource-based policy allows the kms:Decrypt action"
	noBoundary    = "because no permissions boundary allows the kms:Decrypt action"
	deniedByKey   = "with an explicit deny in a resource-based policy"
	deniedByOwn   = "with an explicit deny in an identity-based policy"
	deniedByBound = "with an explicit deny in a permissions boundary"
)

// world is an account of one user, ada, and one role, app.
type world struct {
	identity []string // statements of both
	boundary []string // nil for none
	grouped  bool     // the user has its statements from a group
	managed  bool     // both have them from a managed policy
	tags     map[string]string
}

func (w world) account(t *testing.T) *iam.Account {
	t.Helper()
	a := iam.NewAccount(own)
	user := iam.User{Name: "ada", Tags: w.tags}
	role := iam.Role{Name: "app", Path: "/team/", Tags: w.tags, Trust: document(`{"Effect":"Allow","Principal":{"AWS":"111122223333"},"Action":"sts:AssumeRole"}`)}
	set := func(arn string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return arn
	}
	if w.identity != nil {
		inline := map[string]string{"p": document(w.identity...)}
		switch {
		case w.managed:
			// Only the version in force counts.
			versions := []string{document(allow(`"*"`, "")), document(w.identity...), document(allow(`"*"`, ""))}
			user.Attached = []string{set(a.SetPolicy(iam.ManagedPolicy{Name: "p", Versions: versions, Default: 2}))}
			role.Attached = user.Attached
		case w.grouped:
			set(a.SetGroup(iam.Group{Name: "g", Inline: inline}))
			user.Groups = []string{"g"}
		default:
			user.Inline, role.Inline = inline, inline
		}
	}
	if w.boundary != nil {
		user.Boundary = set(a.SetPolicy(iam.ManagedPolicy{Name: "boundary", Versions: []string{document(w.boundary...)}}))
		role.Boundary = user.Boundary
	}
	set(a.SetUser(user))
	set(a.SetRole(role))
	return a
}

// TestDecide: the IAM User Guide's "Policy evaluation logic" and "Permissions boundaries",
// and the KMS Developer Guide's "Troubleshooting key access". An empty want is allowed.
func TestDecide(t *testing.T) {
	grant := []iam.Grant{{Grantee: ada, Operations: []string{"Decrypt", "DescribeKey"}}}
	for _, c := range []struct {
		name   string
		world  world
		caller string
		key    []string
		grants []iam.Grant
		want   string
	}{
		{"default key policy, no identity policy: Alice of the KMS guide", world{}, ada, []string{to(toTheAccount, "")}, nil, noIdentity},
		{"default key policy and an inline policy", world{identity: []string{decrypt}}, ada, []string{to(toTheAccount, "")}, nil, ""},
		{"default key policy and a group's policy", world{identity: []string{decrypt}, grouped: true}, ada, []string{to(toTheAccount, "")}, nil, ""},
		{"default key policy and a managed policy", world{identity: []string{decrypt}, managed: true}, ada, []string{to(toTheAccount, "")}, nil, ""},
		{"the version in force allows nothing", world{identity: []string{onlyS3}, managed: true}, ada, []string{to(toTheAccount, "")}, nil, noIdentity},
		{"a role's inline policy", world{identity: []string{decrypt}}, session, []string{to(toTheAccount, "")}, nil, ""},
		{"a role's ARN is a session of it", world{identity: []string{decrypt}}, app, []string{to(toTheAccount, "")}, nil, ""},
		{"an identity policy is nothing where the key policy is silent", world{identity: []string{decrypt}}, ada, []string{to(toApp, "")}, nil, noResource},
		{"root by the key policy", world{}, rootARN, []string{to(toTheAccount, "")}, nil, ""},
		{"root is out where the key policy is silent", world{}, rootARN, []string{to(toAda, "")}, nil, noResource},

		{"deny in the key policy", world{identity: []string{decrypt}}, ada, []string{to(toTheAccount, ""), `{"Effect":"Deny","Principal":"*","Action":"kms:Decrypt","Resource":"*"}`}, grant, deniedByKey},
		{"deny in an identity policy", world{identity: []string{decrypt, denyDecrypt}}, ada, []string{to(toAda, "")}, grant, deniedByOwn},
		{"deny in a group", world{identity: []string{denyDecrypt}, grouped: true}, ada, []string{to(toAda, "")}, grant, deniedByOwn},
		{"deny in the boundary", world{identity: []string{decrypt}, boundary: []string{decrypt, denyDecrypt}}, ada, []string{to(toAda, "")}, grant, deniedByBound},
		{"deny in the boundary and a session's ARN", world{boundary: []string{denyDecrypt}}, session, []string{to(toTheSession, "")}, nil, deniedByBound},

		{"identity and boundary", world{identity: []string{decrypt}, boundary: []string{decrypt}}, ada, []string{to(toTheAccount, "")}, nil, ""},
		{"the boundary allows less", world{identity: []string{decrypt}, boundary: []string{onlyS3}}, ada, []string{to(toTheAccount, "")}, nil, noBoundary},
		{"a boundary gives nothing", world{boundary: []string{decrypt}}, ada, []string{to(toTheAccount, "")}, nil, noIdentity},

		{"a user's ARN", world{}, ada, []string{to(toAda, "")}, nil, ""},
		{"a user's ARN is not limited by the boundary", world{boundary: []string{onlyS3}}, ada, []string{to(toAda, "")}, nil, ""},
		{"a role's ARN", world{}, session, []string{to(toApp, "")}, nil, ""},
		{"a role's ARN is limited by the boundary", world{boundary: []string{onlyS3}}, session, []string{to(toApp, "")}, nil, noBoundary},
		{"a role's ARN in the boundary", world{boundary: []string{decrypt}}, session, []string{to(toApp, "")}, nil, ""},
		{"a session's ARN is not limited by the boundary", world{boundary: []string{onlyS3}}, session, []string{to(toTheSession, "")}, nil, ""},
		{"a role and its account: the boundary limits both", world{identity: []string{decrypt}, boundary: []string{onlyS3}}, session, []string{to(toApp, ""), to(toTheAccount, "")}, nil, noBoundary},
		{"a role and its account in one statement", world{}, session, []string{to(`{"AWS":["`+app+`","`+own+`"]}`, "")}, nil, ""},
		{"a role and its session", world{boundary: []string{onlyS3}}, session, []string{to(toApp, ""), to(toTheSession, "")}, nil, ""},
		{"everybody", world{}, ada, []string{to(`"*"`, "")}, nil, ""},
		{"everybody is not limited by the boundary", world{boundary: []string{onlyS3}}, session, []string{to(`{"AWS":"*"}`, `,"Condition":{"ArnEquals":{"aws:PrincipalArn":"`+app+`"}}`)}, nil, ""},
		{"the account with the role's ARN as a condition is limited", world{identity: []string{decrypt}, boundary: []string{onlyS3}}, session, []string{to(toTheAccount, `,"Condition":{"ArnEquals":{"aws:PrincipalArn":"`+app+`"}}`)}, nil, noBoundary},
		{"everybody but: not one with a boundary", world{identity: []string{decrypt}, boundary: []string{decrypt}}, ada, []string{to(toTheAccount, ""), `{"Effect":"Deny","NotPrincipal":{"AWS":["` + ada + `","` + rootARN + `"]},"Action":"*","Resource":"*"}`}, nil, deniedByKey},
		{"everybody but", world{identity: []string{decrypt}}, ada, []string{to(toTheAccount, ""), `{"Effect":"Deny","NotPrincipal":{"AWS":["` + ada + `","` + rootARN + `"]},"Action":"*","Resource":"*"}`}, nil, ""},

		{"a grant", world{}, ada, []string{to(toApp, "")}, grant, ""},
		{"another's grant", world{}, session, []string{to(toAda, "")}, grant, noResource},
		{"a grant to a role", world{}, session, []string{to(toAda, "")}, []iam.Grant{{Grantee: app, Operations: []string{"Decrypt"}}}, ""},
		{"a grant to a session", world{}, session, []string{to(toAda, "")}, []iam.Grant{{Grantee: session, Operations: []string{"Decrypt"}}}, ""},
		{"a grant of another operation", world{}, ada, []string{to(toApp, "")}, []iam.Grant{{Grantee: ada, Operations: []string{"Encrypt"}}}, noResource},

		{"a user's name", world{identity: []string{decrypt}}, ada, []string{to(toTheAccount, `,"Condition":{"StringEquals":{"aws:username":"ada"}}`)}, nil, ""},
		{"a session has no user name", world{identity: []string{decrypt}}, session, []string{to(toTheAccount, `,"Condition":{"Null":{"aws:username":"true"}}`)}, nil, ""},
		{"types of principals", world{identity: []string{allow(`"kms:*"`, `,"Condition":{"StringEquals":{"aws:PrincipalType":"AssumedRole"}}`)}}, session, []string{to(toTheAccount, "")}, nil, ""},
		{"type User is another", world{identity: []string{allow(`"kms:*"`, `,"Condition":{"StringEquals":{"aws:PrincipalType":"AssumedRole"}}`)}}, ada, []string{to(toTheAccount, "")}, nil, noIdentity},
		{"a session's user id", world{identity: []string{allow(`"kms:*"`, `,"Condition":{"StringLike":{"aws:userid":"AROA*:ci"}}`)}}, session, []string{to(toTheAccount, "")}, nil, ""},
		{"root's type and id", world{}, rootARN, []string{to(toTheAccount, `,"Condition":{"StringEquals":{"aws:PrincipalType":"Account","aws:userid":"`+own+`"}}`)}, nil, ""},
		{"accounts", world{identity: []string{allow(`"kms:*"`, `,"Condition":{"StringEquals":{"aws:PrincipalAccount":"`+own+`","aws:ResourceAccount":"${aws:PrincipalAccount}"}}`)}}, ada, []string{to(toTheAccount, "")}, nil, ""},
		{"tags of both that are the same", world{tags: map[string]string{"Team": "red"}, identity: []string{allow(`"kms:*"`, `,"Condition":{"StringEquals":{"aws:ResourceTag/team":"${aws:PrincipalTag/team}"}}`)}}, session, []string{to(toTheAccount, "")}, nil, ""},
		{"tags of both that differ", world{tags: map[string]string{"team": "blue"}, identity: []string{allow(`"kms:*"`, `,"Condition":{"StringEquals":{"aws:ResourceTag/team":"${aws:PrincipalTag/team}"}}`)}}, session, []string{to(toTheAccount, "")}, nil, noIdentity},
		{"the boundary sees the conditions too", world{tags: map[string]string{"team": "blue"}, identity: []string{decrypt}, boundary: []string{allow(`"kms:*"`, `,"Condition":{"StringEquals":{"aws:PrincipalTag/team":"red"}}`)}}, ada, []string{to(toTheAccount, "")}, nil, noBoundary},
		{"NotAction and NotResource", world{identity: []string{`{"Effect":"Allow","NotAction":"kms:Put*","NotResource":"arn:aws:kms:*:*:key/9*"}`}}, ada, []string{to(toTheAccount, "")}, nil, ""},
		{"NotResource that is the key", world{identity: []string{`{"Effect":"Allow","NotAction":"kms:Put*","NotResource":"arn:aws:kms:*:*:key/1*"}`}}, ada, []string{to(toTheAccount, "")}, nil, noIdentity},
		{"a variable in the resource", world{tags: map[string]string{"key": "1234"}, identity: []string{`{"Effect":"Allow","Action":"kms:*","Resource":"arn:aws:kms:*:*:key/${aws:PrincipalTag/key}"}`}}, ada, []string{to(toTheAccount, "")}, nil, ""},
		{"a variable that is not there", world{identity: []string{`{"Effect":"Allow","Action":"kms:*","Resource":"arn:aws:kms:*:*:key/${aws:PrincipalTag/key}"}`}}, ada, []string{to(toTheAccount, "")}, nil, noIdentity},
		{"a star that is a star", world{identity: []string{`{"Effect":"Allow","Action":"kms:*","Resource":"arn:aws:kms:us-east-1:111122223333:key/${*}"}`}}, ada, []string{to(toTheAccount, "")}, nil, noIdentity},
		{"a star that is there", world{identity: []string{allow(`"kms:*"`, `,"Condition":{"StringLike":{"kms:EncryptionContext:glob":"?${*}${?}"}}`)}}, ada, []string{to(toTheAccount, "")}, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := iam.Request{Principal: c.caller, Action: "kms:Decrypt", Resource: keyARN, Context: map[string]string{"aws:ResourceTag/team": "red", "kms:EncryptionContext:glob": "a*?"}}
			got, known := c.world.account(t).Decide(r, iam.Resource{Account: own, Policy: keyPolicy(t, c.key...), Grants: c.grants})
			if !known || got.Reason != c.want || got.Allowed != (c.want == "") {
				t.Errorf("%+v, known %t, want %q", got, known, c.want)
			}
		})
	}
}

// TestVariablesAreOfANewVersion: in the version of 2008 a variable is text.
func TestVariablesAreOfANewVersion(t *testing.T) {
	for version, want := range map[string]bool{"2012-10-17": true, "2008-10-17": false} {
		a := iam.NewAccount(own)
		policy := `{"Version":"` + version + `","Statement":{"Effect":"Allow","Action":"iam:*","Resource":"arn:aws:iam::*:user/${aws:username}"}}`
		if _, err := a.SetUser(iam.User{Name: "ada", Inline: map[string]string{"p": policy}}); err != nil {
			t.Fatal(err)
		}
		if got, _ := a.Decide(iam.Request{Principal: ada, Action: "iam:CreateAccessKey", Resource: ada}, iam.Resource{Account: own}); got.Allowed != want {
			t.Errorf("%s: %+v", version, got)
		}
	}
}

// TestGrantConstraints: the KMS API Reference's GrantConstraints. Names ignore case, and
// operations without an encryption context ignore the constraints.
func TestGrantConstraints(t *testing.T) {
	two := map[string]string{"a": "1", "b": "2"}
	for _, c := range []struct {
		name, operation string
		equals, subset  map[string]string
		given           map[string]string
		want            bool
	}{
		{"equal", "Decrypt", two, nil, map[string]string{"A": "1", "b": "2"}, true},
		{"more than equal", "Decrypt", two, nil, map[string]string{"a": "1", "b": "2", "c": "3"}, false},
		{"less than equal", "Decrypt", two, nil, map[string]string{"a": "1"}, false},
		{"another value", "Decrypt", two, nil, map[string]string{"a": "1", "b": "3"}, false},
		{"none, and none wanted", "Decrypt", map[string]string{}, nil, nil, true},
		{"one, and none wanted", "Decrypt", map[string]string{}, nil, map[string]string{"a": "1"}, false},
		{"subset", "Decrypt", nil, two, map[string]string{"a": "1", "b": "2", "c": "3"}, true},
		{"less than the subset", "Decrypt", nil, two, map[string]string{"a": "1"}, false},
		{"name in another case", "Decrypt", nil, map[string]string{"A": "x"}, map[string]string{"a": "x"}, true},
		{"value in another case", "Decrypt", nil, map[string]string{"a": "x"}, map[string]string{"a": "X"}, false},
		{"operation without a context", "DescribeKey", two, nil, nil, true},
		{"the grants of a grantee", "CreateGrant", two, nil, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := iam.Request{Principal: ada, Action: "kms:" + c.operation, Resource: keyARN, Context: map[string]string{}}
			for name, value := range c.given {
				r.Context["kms:EncryptionContext:"+name] = value
			}
			grant := iam.Grant{Grantee: ada, Operations: []string{c.operation}, ContextEquals: c.equals, ContextSubset: c.subset}
			got, _ := world{}.account(t).Decide(r, iam.Resource{Account: own, Policy: keyPolicy(t, to(toApp, "")), Grants: []iam.Grant{grant}})
			if got.Allowed != c.want {
				t.Errorf("%+v, want %t", got, c.want)
			}
		})
	}
}

// TestAnotherAccountsKey: both sides must allow, and the caller's boundary, whomever the key
// policy names: Bob of the KMS guide, "Example 2".
func TestAnotherAccountsKey(t *testing.T) {
	for _, c := range []struct {
		name  string
		world world
		key   string
		want  string
	}{
		{"both", world{identity: []string{decrypt}}, to(toTheAccount, ""), ""},
		{"the key policy alone", world{}, to(toTheAccount, ""), noIdentity},
		{"the key policy alone, by the user's ARN", world{}, to(toAda, ""), noIdentity},
		{"the key policy alone, to everybody", world{}, to(`"*"`, ""), noIdentity},
		{"the identity policy alone", world{identity: []string{decrypt}}, to(`{"AWS":"444455556666"}`, ""), noResource},
		{"not the boundary", world{identity: []string{decrypt}, boundary: []string{onlyS3}}, to(toAda, ""), noBoundary},
		{"a condition on the resource's account", world{identity: []string{allow(`"kms:*"`, `,"Condition":{"StringEquals":{"aws:ResourceAccount":"`+other+`"}}`)}}, to(toAda, ""), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := iam.Request{Principal: ada, Action: "kms:Decrypt", Resource: theirs}
			if got, known := c.world.account(t).Decide(r, iam.Resource{Account: other, Policy: keyPolicy(t, c.key)}); !known || got.Reason != c.want {
				t.Errorf("%+v, known %t, want %q", got, known, c.want)
			}
		})
	}
	// Root of another account needs no identity policy.
	r := iam.Request{Principal: rootARN, Action: "kms:Decrypt", Resource: theirs}
	if got, _ := iam.NewAccount(own).Decide(r, iam.Resource{Account: other, Policy: keyPolicy(t, to(toTheAccount, ""))}); !got.Allowed {
		t.Errorf("root: %+v", got)
	}
}

// TestWithoutAResourcePolicy: identity policies alone decide, with what is known of the role
// or user that they are about.
func TestWithoutAResourcePolicy(t *testing.T) {
	const put = `"iam:PutRolePolicy"`
	for _, c := range []struct {
		name   string
		world  world
		caller string
		want   bool
	}{
		{"allowed", world{identity: []string{allow(put, "")}}, ada, true},
		{"nothing", world{}, ada, false},
		{"root", world{}, rootARN, true},
		{"the boundary allows less", world{identity: []string{allow(put, "")}, boundary: []string{onlyS3}}, ada, false},
		{"another role", world{identity: []string{`{"Effect":"Allow","Action":"iam:*","Resource":"arn:aws:iam::*:role/other/*"}`}}, ada, false},
		{"the role's path", world{identity: []string{`{"Effect":"Allow","Action":"iam:*","Resource":"arn:aws:iam::*:role/team/*"}`}}, ada, true},
		{"the role's tags", world{tags: map[string]string{"team": "red"}, identity: []string{allow(put, `,"Condition":{"StringEquals":{"iam:ResourceTag/Team":"red","aws:ResourceTag/team":"${aws:PrincipalTag/team}"}}`)}}, session, true},
		{"the role's boundary", world{boundary: []string{allow(`"*"`, "")}, identity: []string{allow(put, `,"Condition":{"StringEquals":{"iam:PermissionsBoundary":"arn:aws:iam::111122223333:policy/boundary"}}`)}}, ada, true},
		{"no boundary", world{identity: []string{allow(put, `,"Condition":{"StringEquals":{"iam:PermissionsBoundary":"arn:aws:iam::111122223333:policy/boundary"}}`)}}, ada, false},
		{"a condition of the request", world{identity: []string{allow(put, `,"Condition":{"Bool":{"aws:MultiFactorAuthPresent":"true"}}`)}}, ada, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			context := map[string]string{"aws:MultiFactorAuthPresent": "true"}
			r := iam.Request{Principal: c.caller, Action: "iam:PutRolePolicy", Resource: app, Context: context}
			if got, known := c.world.account(t).Decide(r, iam.Resource{Account: own}); !known || got.Allowed != c.want {
				t.Errorf("%+v, known %t, want %t", got, known, c.want)
			}
			if !maps.Equal(context, map[string]string{"aws:MultiFactorAuthPresent": "true"}) {
				t.Errorf("the request's context has become %v", context)
			}
		})
	}
}

func TestStrangers(t *testing.T) {
	a := world{}.account(t)
	for _, principal := range []string{"", "arn:aws:iam::111122223333:user/eve", "arn:aws:iam::111122223333:user/path/ada", "arn:aws:iam::444455556666:user/ada", "arn:aws:sts::444455556666:assumed-role/app/ci", "arn:aws:iam::444455556666:root"} {
		if answer, known := a.Decide(iam.Request{Principal: principal, Action: "kms:Decrypt", Resource: keyARN}, iam.Resource{Account: own, Policy: keyPolicy(t, to(`"*"`, ""))}); known || answer.Allowed {
			t.Errorf("%s: %+v", principal, answer)
		}
	}
}

// TestAssume: the IAM User Guide, "Granting a user permissions to switch roles" and "Policy
// evaluation logic", of which trust policies are an exception as key policies are.
func TestAssume(t *testing.T) {
	const (
		assume  = `{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"arn:aws:iam::111122223333:role/target"}`
		mallory = "arn:aws:iam::444455556666:user/mallory"
	)
	trust := func(principal, more string) string {
		return `{"Effect":"Allow","Principal":` + principal + `,"Action":"sts:AssumeRole"` + more + `}`
	}
	for _, c := range []struct {
		name   string
		world  world
		caller iam.Request
		trust  string
		want   string
	}{
		{"the account and an identity policy", world{identity: []string{assume}}, iam.Request{Principal: ada}, trust(toTheAccount, ""), ""},
		{"the account alone", world{}, iam.Request{Principal: ada}, trust(toTheAccount, ""), "no identity-based policy"},
		{"the user's ARN alone", world{}, iam.Request{Principal: ada}, trust(toAda, ""), ""},
		{"an identity policy alone", world{identity: []string{assume}}, iam.Request{Principal: ada}, trust(toApp, ""), "no resource-based policy"},
		{"a denial", world{identity: []string{`{"Effect":"Deny","Action":"sts:*","Resource":"*"}`}}, iam.Request{Principal: ada}, trust(toAda, ""), "explicit deny"},
		{"a role after another", world{}, iam.Request{Principal: session}, trust(toApp, ""), ""},
		{"a role after another, but for its boundary", world{boundary: []string{onlyS3}}, iam.Request{Principal: session}, trust(toApp, ""), "no permissions boundary"},
		{"everybody", world{}, iam.Request{Principal: ada}, trust(`"*"`, ""), ""},
		{"root", world{}, iam.Request{Principal: rootARN}, trust(toTheAccount, ""), "root"},
		{"another account", world{}, iam.Request{Principal: mallory, Account: other}, trust(`{"AWS":"444455556666"}`, ""), ""},
		{"another account's user", world{}, iam.Request{Principal: mallory, Account: other}, trust(`{"AWS":"`+mallory+`"}`, ""), ""},
		{"not that account", world{}, iam.Request{Principal: mallory, Account: other}, trust(toTheAccount, ""), "no resource-based policy"},
		{"an external id", world{}, iam.Request{Principal: mallory, Account: other, Context: map[string]string{"sts:ExternalId": "x"}}, trust(`{"AWS":"444455556666"}`, `,"Condition":{"StringEquals":{"sts:ExternalId":"x"}}`), ""},
		{"no external id", world{}, iam.Request{Principal: mallory, Account: other}, trust(`{"AWS":"444455556666"}`, `,"Condition":{"StringEquals":{"sts:ExternalId":"x"}}`), "no resource-based policy"},
		{"the role's tags", world{}, iam.Request{Principal: mallory, Account: other}, trust(`"*"`, `,"Condition":{"StringEquals":{"aws:ResourceTag/open":"yes"}}`), ""},
		{"a service", world{}, iam.Request{Service: "ec2.amazonaws.com"}, trust(`{"Service":"ec2.amazonaws.com"}`, ""), ""},
		{"another service", world{}, iam.Request{Service: "lambda.amazonaws.com"}, trust(`{"Service":"ec2.amazonaws.com"}`, ""), "no resource-based policy"},
		{"a provider's users", world{}, iam.Request{Principal: ada}, trust(`{"Federated":"accounts.google.com"}`, ""), "no resource-based policy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := c.world.account(t)
			role, err := a.SetRole(iam.Role{Name: "target", Trust: document(c.trust), Tags: map[string]string{"open": "yes"}})
			if err != nil {
				t.Fatal(err)
			}
			got, known := a.Assume(c.caller, role)
			if !known || got.Allowed != (c.want == "") || !strings.Contains(got.Reason, c.want) {
				t.Errorf("%+v, known %t, want %q", got, known, c.want)
			}
		})
	}
	a := world{}.account(t)
	for _, c := range [][2]string{{ada, "arn:aws:iam::111122223333:role/none"}, {ada, ada}, {"arn:aws:iam::111122223333:user/eve", app}} {
		if got, known := a.Assume(iam.Request{Principal: c[0], Account: own}, c[1]); known || got.Allowed {
			t.Errorf("%s as %s: %+v", c[0], c[1], got)
		}
	}
}
