package access_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/access"
	_ "github.com/cmkeeper/cmkeeper/internal/testgc" // accounts that live for one test are garbage soon
	"github.com/cmkeeper/cmkeeper/inventory"
)

const (
	account = "111122223333"
	keyARN  = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	iamARN  = "arn:aws:iam::111122223333:"

	delegates = `{"Version":"2012-10-17","Statement":{"Sid":"Root","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}}`
	decrypts  = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"}}`
)

var now = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// keyWith is a key with a policy.
func keyWith(policy string, grants ...inventory.Grant) access.Key {
	return access.Key{
		Key:    inventory.Key{ARN: keyARN, Account: account, Region: "eu-central-1", Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT", Origin: "AWS_KMS"},
		Policy: policy, Grants: grants, Tags: map[string]string{"team": "orders"}, Aliases: []string{"alias/orders"},
	}
}

func user(name string, inline ...string) access.Principal {
	p := access.Principal{ARN: iamARN + "user/" + name, Name: name, ID: "AIDA" + name, Inline: map[string]string{}, Tags: map[string]string{"team": "orders"}}
	for i, text := range inline {
		p.Inline[string(rune('a'+i))] = text
	}
	return p
}

func role(name string, inline ...string) access.Principal {
	p := user(name, inline...)
	p.ARN, p.ID, p.Role = iamARN+"role/"+name, "AROA"+name, true
	p.Trust = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}}`
	return p
}

func statement(rest string) string {
	return `{"Version":"2012-10-17","Statement":[` + rest + `]}`
}

// TestMay: who may decrypt, in the cases that AWS's documents name.
func TestMay(t *testing.T) {
	direct := func(arn, more string) string {
		return statement(`{"Effect":"Allow","Principal":{"AWS":"` + arn + `"},"Action":"kms:Decrypt","Resource":"*"` + more + `}`)
	}
	allow := func(more string) string {
		return statement(`{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"` + more + `}`)
	}
	deny := func(more string) string {
		return statement(`{"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"Deny","Action":"kms:*","Resource":"*"` + more + `}`)
	}
	const nothing = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}`
	bounded := func(p access.Principal) access.Principal { p.Boundary = iamARN + "policy/narrow"; return p }
	for _, tt := range []struct {
		name, policy string
		who          access.Principal
		want         access.Verdict
	}{
		{"the key policy leaves it to IAM, and IAM allows", delegates, user("a", decrypts), access.Yes},
		{"and IAM does not", delegates, user("a", nothing), access.No},
		{"the key policy says nothing of the account", direct(iamARN+"user/b", ""), user("a", decrypts), access.No},
		{"it names the user", direct(iamARN+"user/a", ""), user("a"), access.Yes},
		{"it names the role", direct(iamARN+"role/a", ""), role("a"), access.Yes},
		{"it names a session of the role", direct("arn:aws:sts::111122223333:assumed-role/a/me", ""), role("a"), access.Conditional},
		{"it names the user, whose boundary does not count", direct(iamARN+"user/a", ""), bounded(user("a")), access.Yes},
		{"it names the role, whose boundary counts", direct(iamARN+"role/a", ""), bounded(role("a")), access.No},
		{"it names a session, which no boundary limits", direct("arn:aws:sts::111122223333:assumed-role/a/me", ""), bounded(role("a")), access.Conditional},
		{"it names the role and a session", statement(`{"Effect":"Allow","Principal":{"AWS":["` + iamARN + `role/a","arn:aws:sts::111122223333:assumed-role/a/me"]},"Action":"kms:Decrypt","Resource":"*"}`), bounded(role("a")), access.Conditional},
		{"it names everybody, whose boundaries do not count", statement(`{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"}`), bounded(role("a")), access.Yes},
		{"IAM allows and the boundary does not", delegates, bounded(user("a", decrypts)), access.No},
		{"IAM denies", delegates, user("a", deny("")), access.No},
		{"IAM denies some", delegates, user("a", deny(`,"Condition":{"Bool":{"aws:MultiFactorAuthPresent":"false"}}`)), access.Conditional},
		{"what denies in IAM denies what the key policy allows", direct(iamARN+"user/a", ""), user("a", deny("")), access.No},
		{"another key is allowed", delegates, user("a", statement(`{"Effect":"Allow","Action":"kms:Decrypt","Resource":"arn:aws:kms:eu-central-1:111122223333:key/other"}`)), access.No},
		{"by address", delegates, user("a", allow(`,"Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}`)), access.Conditional},
		{"by its own tag", delegates, user("a", allow(`,"Condition":{"StringEquals":{"aws:PrincipalTag/Team":"orders"}}`)), access.Yes},
		{"by a tag that it does not have", delegates, user("a", allow(`,"Condition":{"StringEquals":{"aws:PrincipalTag/team":"hr"}}`)), access.No},
		{"by the same tag as the key's", delegates, role("a", allow(`,"Condition":{"StringEquals":{"aws:ResourceTag/team":"${aws:PrincipalTag/team}"}}`)), access.Yes},
		{"by its name in a variable", delegates, user("orders", allow(`,"Condition":{"ForAnyValue:StringEquals":{"kms:ResourceAliases":"alias/${aws:username}"}}`)), access.Yes},
		{"by a key that this action's requests never have", delegates, user("a", allow(`,"Condition":{"StringEquals":{"kms:GranteePrincipal":"x"}}`)), access.No},
		{"until a time that is over", delegates, user("a", allow(`,"Condition":{"DateLessThan":{"aws:CurrentTime":"2026-01-01T00:00:00Z"}}`)), access.No},
		{"until a time to come", delegates, user("a", allow(`,"Condition":{"DateLessThan":{"aws:CurrentTime":"2027-01-01T00:00:00Z"}}`)), access.Conditional},
		{"after a time that is over", delegates, user("a", allow(`,"Condition":{"DateGreaterThan":{"aws:CurrentTime":"2026-01-01T00:00:00Z"}}`)), access.Yes},
		{"two conditions that exclude each other", delegates, user("a", allow(`,"Condition":{"StringEquals":{"kms:ViaService":"s3.eu-central-1.amazonaws.com","aws:SourceVpce":"a"},"StringNotEquals":{"kms:ViaService":"s3.eu-central-1.amazonaws.com"}}`)), access.No},
		{"two that complete each other", delegates, user("a", allow(`,"Condition":{"Null":{"kms:ViaService":"true"}}`), allow(`,"Condition":{"Null":{"kms:ViaService":"false"}}`)), access.Yes},
		{"a policy that cannot be read", delegates, user("a", `{"Statement":`), access.Conditional},
		{"a user that NotPrincipal exempts", statement(`{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"},{"Effect":"Deny","NotPrincipal":{"AWS":["111122223333","` + iamARN + `user/a"]},"Action":"kms:*","Resource":"*"}`), user("a"), access.Yes},
		{"NotPrincipal exempts nobody who has a boundary", statement(`{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"},{"Effect":"Deny","NotPrincipal":{"AWS":["111122223333","` + iamARN + `user/a"]},"Action":"kms:*","Resource":"*"}`), bounded(user("a")), access.No},
		{"NotPrincipal without the account exempts nobody", statement(`{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"},{"Effect":"Deny","NotPrincipal":{"AWS":"` + iamARN + `user/a"},"Action":"kms:*","Resource":"*"}`), user("a"), access.No},
		{"a Deny for the account is one for all in it", statement(`{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"},{"Effect":"Deny","Principal":{"AWS":"111122223333"},"Action":"kms:*","Resource":"*"}`), user("a", decrypts), access.No},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := access.Account{ID: account, Policies: map[string]string{iamARN + "policy/narrow": nothing}}
			if tt.who.Role {
				a.Roles = []access.Principal{tt.who}
			} else {
				a.Users = []access.Principal{tt.who}
			}
			holder, ok, err := access.New(a, access.Context{Now: now}).Of(tt.who.ARN, keyWith(tt.policy))
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			if got := holder.May("kms:Decrypt"); got != tt.want {
				t.Errorf("%s: %+v", got, holder.Rights)
			}
		})
	}
}

// TestHolders: everybody who may do something is there, with all ways to it.
func TestHolders(t *testing.T) {
	a := access.Account{
		ID:    account,
		Users: []access.Principal{user("alice"), user("bob")},
		Roles: []access.Principal{role("app"), role("backup", `{"Statement":{"Sid":"Some","Effect":"Allow","Action":["kms:Decrypt","kms:DescribeKey"],"Resource":"*","Condition":{"StringEquals":{"kms:ViaService":"backup.eu-central-1.amazonaws.com"}}}}`)},
		Groups: map[string]access.Group{
			"admins": {ARN: iamARN + "group/admins", Name: "admins", Attached: []string{"arn:aws:iam::aws:policy/PowerUserAccess"}},
		},
		Policies: map[string]string{"arn:aws:iam::aws:policy/PowerUserAccess": `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:Dec*","Resource":"*"}}`},
	}
	a.Users[0].Groups = []string{"admins"}
	key := keyWith(statement(`{"Sid":"Root","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":["kms:Decrypt","kms:DescribeKey"],"Resource":"*"},
		{"Sid":"Logs","Effect":"Allow","Principal":{"Service":"logs.amazonaws.com"},"Action":"kms:Encrypt","Resource":"*"},
		{"Sid":"Gone","Effect":"Allow","Principal":{"AWS":"AROAEXAMPLE"},"Action":"kms:Decrypt","Resource":"*"},
		{"Sid":"Partner","Effect":"Allow","Principal":{"AWS":"444455556666"},"Action":"kms:Decrypt","Resource":"*"}`),
		inventory.Grant{ID: "g1", Grantee: iamARN + "role/app", Operations: []string{"Decrypt", "RetireGrant"}, Context: map[string]string{"tenant": "7"}})
	report, err := access.New(a, access.Context{Now: now}).Report(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := report.Holders
	root := access.Way{Kind: access.Delegation, Statement: "Root"}
	instances := []access.Assumer{{Principal: "ec2.amazonaws.com", Type: "service", Outside: true, Verdict: access.Yes}}
	want := []access.Holder{
		{Principal: iamARN + "user/alice", Type: "user", Rights: []access.Right{{
			Actions: []string{"kms:Decrypt"}, Verdict: access.Yes, Account: []access.Way{root},
			Ways: []access.Way{{Kind: access.IdentityPolicy, Policy: "arn:aws:iam::aws:policy/PowerUserAccess", Group: "admins", Statement: "#1"}},
		}}},
		{Principal: iamARN + "role/app", Type: "role", Rights: []access.Right{
			{Actions: []string{"kms:Decrypt"}, Verdict: access.Conditional, Ways: []access.Way{{Kind: access.Grant, Policy: "g1", Conditions: []string{"the encryption context has tenant=7"}}}},
			{Actions: []string{"kms:RetireGrant"}, Verdict: access.Yes, Ways: []access.Way{{Kind: access.Grant, Policy: "g1"}}},
		}, Assumers: instances},
		{Principal: iamARN + "role/backup", Type: "role", Rights: []access.Right{{
			Actions: []string{"kms:Decrypt", "kms:DescribeKey"}, Verdict: access.Conditional, Account: []access.Way{root},
			Ways: []access.Way{{Kind: access.IdentityPolicy, Policy: "a", Statement: "Some", Conditions: []string{"StringEquals kms:ViaService backup.eu-central-1.amazonaws.com"}}},
		}}, Assumers: instances},
		{Principal: iamARN + "root", Type: "root", Rights: []access.Right{{
			Actions: []string{"kms:Decrypt", "kms:DescribeKey"}, Verdict: access.Yes, Ways: []access.Way{{Kind: access.KeyPolicy, Statement: "Root"}},
		}}},
		{Principal: "444455556666", Type: "account", Outside: true, Rights: []access.Right{{
			Actions: []string{"kms:Decrypt"}, Verdict: access.Conditional,
			Ways: []access.Way{{Kind: access.KeyPolicy, Statement: "Partner", Conditions: []string{"IAM in account 444455556666, which is not seen here, allows it"}}},
		}}},
		{Principal: "logs.amazonaws.com", Type: "service", Outside: true, Rights: []access.Right{{
			Actions: []string{"kms:Encrypt"}, Verdict: access.Yes, Ways: []access.Way{{Kind: access.KeyPolicy, Statement: "Logs"}},
		}}},
		{Principal: "AROAEXAMPLE", Type: "unknown", Outside: true, Rights: []access.Right{{
			Actions: []string{"kms:Decrypt"}, Verdict: access.Conditional,
			Ways: []access.Way{{Kind: access.KeyPolicy, Statement: "Gone", Conditions: []string{"it exists: such ids stand for users and roles that were deleted"}}},
		}}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestAssumers: who can become a role that holds the key, also by another role.
func TestAssumers(t *testing.T) {
	assumes := func(more string) string {
		return statement(`{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"` + iamARN + `role/*"}` + more)
	}
	trusting := func(p access.Principal, who, more string) access.Principal {
		p.Trust = statement(`{"Effect":"Allow","Principal":` + who + `,"Action":"sts:AssumeRole"` + more + `}`)
		return p
	}
	const root = `{"AWS":"arn:aws:iam::111122223333:root"}`
	yes := func(kind, name string, through ...string) access.Assumer {
		a := access.Assumer{Principal: iamARN + kind + "/" + name, Type: kind, Verdict: access.Yes}
		for _, role := range through {
			a.Through = append(a.Through, iamARN+"role/"+role)
		}
		return a
	}
	maybe := func(a access.Assumer) access.Assumer { a.Verdict = access.Conditional; return a }
	narrow := func(p access.Principal) access.Principal { p.Boundary = iamARN + "policy/narrow"; return p }
	for _, tt := range []struct {
		name string
		app  access.Principal
		who  []access.Principal
		want []access.Assumer
	}{
		{"who is named needs no policy", trusting(role("app", decrypts), `{"AWS":"`+iamARN+`user/alice"}`, ""), []access.Principal{user("alice"), user("bob", assumes(""))}, []access.Assumer{yes("user", "alice")}},
		{"by the account, who has a policy", trusting(role("app", decrypts), root, ""), []access.Principal{user("alice"), user("bob", assumes(""))}, []access.Assumer{yes("user", "bob")}},
		{"what denies", trusting(role("app", decrypts), `{"AWS":"`+iamARN+`user/alice"}`, ""), []access.Principal{user("alice", assumes(`,{"Effect":"Deny","Action":"sts:*","Resource":"*"}`))}, nil},
		{"with MFA", trusting(role("app", decrypts), `{"AWS":"`+iamARN+`user/alice"}`, `,"Condition":{"Bool":{"aws:MultiFactorAuthPresent":"true"}}`), []access.Principal{user("alice")}, []access.Assumer{maybe(yes("user", "alice"))}},
		{"over another role", trusting(role("app", decrypts), `{"AWS":"`+iamARN+`role/ci"}`, ""), []access.Principal{trusting(role("ci"), `{"AWS":"`+iamARN+`user/alice"}`, ""), user("alice")}, []access.Assumer{yes("role", "ci"), yes("user", "alice", "ci")}},
		{"a role that is named, but for its boundary", trusting(role("app", decrypts), `{"AWS":"`+iamARN+`role/ci"}`, ""), []access.Principal{narrow(role("ci"))}, nil},
		{"a session of it, which no boundary limits", trusting(role("app", decrypts), `{"AWS":["`+iamARN+`role/ci","arn:aws:sts::111122223333:assumed-role/ci/me"]}`, ""), []access.Principal{narrow(role("ci"))}, []access.Assumer{maybe(yes("role", "ci")), {Principal: "arn:aws:sts::111122223333:assumed-role/ci/me", Type: "session", Outside: true, Verdict: access.Conditional},
			{Principal: "ec2.amazonaws.com", Type: "service", Outside: true, Through: []string{iamARN + "role/ci"}, Verdict: access.Conditional}}},
		{"in a circle", trusting(role("app", decrypts), `{"AWS":"`+iamARN+`role/ci"}`, ""), []access.Principal{trusting(role("ci"), `{"AWS":"`+iamARN+`role/app"}`, "")}, []access.Assumer{yes("role", "ci")}},
		{"another account", trusting(role("app", decrypts), `{"AWS":"444455556666"}`, ""), nil, []access.Assumer{{Principal: "444455556666", Type: "account", Outside: true, Verdict: access.Conditional}}},
		{"everyone", trusting(role("app", decrypts), `"*"`, ""), []access.Principal{user("alice")}, []access.Assumer{{Principal: "*", Type: "everyone", Outside: true, Verdict: access.Yes}, yes("user", "alice")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := access.Account{ID: account, Roles: []access.Principal{tt.app}, Policies: map[string]string{iamARN + "policy/narrow": decrypts}}
			for _, p := range tt.who {
				if p.Role {
					a.Roles = append(a.Roles, p)
				} else {
					a.Users = append(a.Users, p)
				}
			}
			h, _, err := access.New(a, access.Context{Now: now}).Of(iamARN+"role/app", keyWith(delegates))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, h.Assumers); d != "" {
				t.Error(d)
			}
		})
	}
}
