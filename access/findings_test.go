package access_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/access"
	"github.com/cmkeeper/cmkeeper/finding"
)

// TestFindings: roles that somebody outside may assume, and principals that can give
// themselves the key; want is a part of the worst finding's message, "" for none.
func TestFindings(t *testing.T) {
	allow := func(action, resource, more string) string {
		return statement(`{"Effect":"Allow","Action":"` + action + `","Resource":"` + resource + `"` + more + `}`)
	}
	trusting := func(who, more string) access.Principal {
		p := role("app", decrypts)
		p.Trust = statement(`{"Effect":"Allow","Principal":` + who + `,"Action":["sts:AssumeRole","sts:AssumeRoleWithWebIdentity"]` + more + `}`)
		return p
	}
	bounded := func(p access.Principal) access.Principal { p.Boundary = iamARN + "policy/narrow"; return p }
	grouped := func(p access.Principal) access.Principal { p.Groups = []string{"devs"}; return p }
	attached := func(p access.Principal, policy string) access.Principal { p.Attached = []string{policy}; return p }
	onInstances := func(p access.Principal) access.Principal { p.Instances = true; return p }
	const all = "*"
	app := iamARN + "role/app"
	for _, tt := range []struct {
		name     string
		policy   string
		who      []access.Principal
		id       finding.ID
		severity finding.Severity
		want     string
	}{
		{"nobody", delegates, []access.Principal{role("app", decrypts), user("alice")}, finding.ID{}, "", ""},
		{"everyone may assume", delegates, []access.Principal{trusting(`"*"`, "")}, finding.AssumableFromOutside, finding.High, "Everyone with an AWS account may assume role/app"},
		{"everyone with an external id", delegates, []access.Principal{trusting(`"*"`, `,"Condition":{"StringEquals":{"sts:ExternalId":"x"}}`)}, finding.AssumableFromOutside, finding.High, "Everyone"},
		{"everyone of an organization", delegates, []access.Principal{trusting(`"*"`, `,"Condition":{"StringEquals":{"aws:PrincipalOrgID":"o-1"}}`)}, finding.AssumableFromOutside, finding.Medium, "under conditions (StringEquals aws:PrincipalOrgID o-1)"},
		{"everyone of the own organization", delegates, []access.Principal{trusting(`"*"`, `,"Condition":{"StringEquals":{"aws:PrincipalOrgID":"o-own"}}`)}, finding.ID{}, "", ""},
		{"everyone of the own organization and another", delegates, []access.Principal{trusting(`"*"`, `,"Condition":{"StringEquals":{"aws:PrincipalOrgID":["o-own","o-1"]}}`)}, finding.AssumableFromOutside, finding.Medium, "Everyone"},
		{"another account", delegates, []access.Principal{trusting(`{"AWS":"999988887777"}`, "")}, finding.AssumableFromOutside, finding.High, "Account 999988887777, which is not trusted, may assume"},
		{"a role of another account", delegates, []access.Principal{trusting(`{"AWS":"arn:aws:iam::999988887777:role/x"}`, "")}, finding.AssumableFromOutside, finding.High, "of an account that is not trusted"},
		{"a trusted account", delegates, []access.Principal{trusting(`{"AWS":"444455556666"}`, "")}, finding.ID{}, "", ""},
		{"the account itself", delegates, []access.Principal{trusting(`{"AWS":"111122223333"}`, "")}, finding.ID{}, "", ""},
		{"all of GitHub", delegates, []access.Principal{trusting(`{"Federated":"arn:aws:iam::111122223333:oidc-provider/token.actions.githubusercontent.com"}`, `,"Condition":{"StringEquals":{"token.actions.githubusercontent.com:aud":"sts.amazonaws.com"}}`)}, finding.AssumableFromOutside, finding.Medium, "Every identity of"},
		{"a repository of GitHub", delegates, []access.Principal{trusting(`{"Federated":"arn:aws:iam::111122223333:oidc-provider/token.actions.githubusercontent.com"}`, `,"Condition":{"StringLike":{"token.actions.githubusercontent.com:sub":"repo:me/app:*"}}`)}, finding.ID{}, "", ""},
		{"the company's SAML", delegates, []access.Principal{trusting(`{"Federated":"arn:aws:iam::111122223333:saml-provider/okta"}`, "")}, finding.ID{}, "", ""},

		{"may change the policy", delegates, []access.Principal{user("alice", allow("kms:PutKeyPolicy", all, ""))}, finding.SelfGrant, finding.High, "user/alice cannot use the key, but it can give itself the use: it may change the key policy (kms:PutKeyPolicy)"},
		{"may make grants", delegates, []access.Principal{user("alice", allow("kms:CreateGrant", all, ""))}, finding.SelfGrant, finding.High, "make a grant to itself"},
		{"may make grants for AWS services only", delegates, []access.Principal{user("alice", allow("kms:CreateGrant", all, `,"Condition":{"Bool":{"kms:GrantIsForAWSResource":"true"}}`))}, finding.ID{}, "", ""},
		{"may make some grants", delegates, []access.Principal{user("alice", allow("kms:CreateGrant", all, `,"Condition":{"ForAllValues:StringEquals":{"kms:GrantOperations":["Decrypt"]}}`))}, finding.SelfGrant, finding.Medium, "under conditions"},
		{"may give itself a policy", delegates, []access.Principal{user("alice", allow("iam:PutUserPolicy", iamARN+"user/${aws:username}", ""))}, finding.SelfGrant, finding.High, "give itself a policy (iam:PutUserPolicy)"},
		{"may give others a policy", delegates, []access.Principal{user("alice", allow("iam:PutUserPolicy", iamARN+"user/bob", ""))}, finding.ID{}, "", ""},
		{"where IAM does not count, a policy is of no use", statement(`{"Effect":"Allow","Principal":{"AWS":"` + app + `"},"Action":"kms:*","Resource":"*"}`), []access.Principal{role("app"), user("alice", allow("iam:PutUserPolicy", all, ""))}, finding.ID{}, "", ""},
		{"its boundary keeps it out", delegates, []access.Principal{bounded(user("alice", allow("iam:PutUserPolicy", all, "")))}, finding.ID{}, "", ""},
		{"a role may give itself a policy", delegates, []access.Principal{role("ci", allow("iam:*", all, ""))}, finding.SelfGrant, finding.High, "give itself a policy (iam:PutRolePolicy)"},
		{"its group", delegates, []access.Principal{grouped(user("alice", allow("iam:AttachGroupPolicy", all, "")))}, finding.SelfGrant, finding.High, "give its group devs a policy (iam:AttachGroupPolicy)"},
		{"its own managed policy", delegates, []access.Principal{attached(user("alice", allow("iam:CreatePolicyVersion", all, "")), iamARN+"policy/narrow")}, finding.SelfGrant, finding.High, "change the policy policy/narrow that it has"},
		{"AWS's policies cannot be changed", delegates, []access.Principal{attached(user("alice", allow("iam:CreatePolicyVersion", all, "")), "arn:aws:iam::aws:policy/ReadOnlyAccess")}, finding.ID{}, "", ""},
		{"another user's access key", delegates, []access.Principal{user("alice", allow("iam:CreateAccessKey", all, "")), user("bob", decrypts)}, finding.SelfGrant, finding.High, "get credentials of user/bob (iam:CreateAccessKey)"},
		{"with MFA only", delegates, []access.Principal{user("alice", allow("iam:CreateAccessKey", all, `,"Condition":{"Bool":{"aws:MultiFactorAuthPresent":"true"}}`)), user("bob", decrypts)}, finding.SelfGrant, finding.Medium, "get credentials of user/bob (iam:CreateAccessKey), under conditions"},
		{"a role's trust policy", delegates, []access.Principal{user("alice", allow("iam:UpdateAssumeRolePolicy", app, "")), role("app", decrypts)}, finding.SelfGrant, finding.High, "make role/app trust it"},
		{"a role to a function", delegates, []access.Principal{user("alice", allow("iam:PassRole", all, ""), allow("lambda:*", all, "")), trusting(`{"Service":"lambda.amazonaws.com"}`, "")}, finding.SelfGrant, finding.High, "have lambda.amazonaws.com run as role/app (iam:PassRole and lambda:CreateFunction)"},
		{"without a function", delegates, []access.Principal{user("alice", allow("iam:PassRole", all, "")), trusting(`{"Service":"lambda.amazonaws.com"}`, "")}, finding.ID{}, "", ""},
		{"a role to an instance", delegates, []access.Principal{user("alice", allow("iam:PassRole", all, ""), allow("ec2:RunInstances", all, "")), onInstances(role("app", decrypts))}, finding.SelfGrant, finding.High, "have ec2.amazonaws.com run as role/app"},
		{"no instance can have it", delegates, []access.Principal{user("alice", allow("iam:PassRole", all, ""), allow("ec2:RunInstances", all, "")), role("app", decrypts)}, finding.ID{}, "", ""},
		{"denied", delegates, []access.Principal{user("alice", statement(`{"Effect":"Allow","Action":"iam:*","Resource":"*"},{"Effect":"Deny","Action":"iam:*","Resource":"*"}`)), user("bob", decrypts)}, finding.ID{}, "", ""},

		{"by the key's tag", delegates, []access.Principal{user("alice", allow("kms:Decrypt", all, `,"Condition":{"StringEquals":{"aws:ResourceTag/team":"hr"}}`), allow("kms:TagResource", all, ""))}, finding.TagGrant, finding.High, "tag the key (kms:TagResource)"},
		{"by its own tag", delegates, []access.Principal{user("alice", allow("kms:Decrypt", all, `,"Condition":{"StringEquals":{"aws:PrincipalTag/team":"hr"}}`), allow("iam:TagUser", all, ""))}, finding.TagGrant, finding.High, "tag itself (iam:TagUser)"},
		{"it may not tag", delegates, []access.Principal{user("alice", allow("kms:Decrypt", all, `,"Condition":{"StringEquals":{"aws:PrincipalTag/team":"hr"}}`))}, finding.ID{}, "", ""},
		{"tags do not decide", delegates, []access.Principal{user("alice", allow("kms:TagResource", all, ""))}, finding.ID{}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := access.Account{
				ID: account, Groups: map[string]access.Group{"devs": {ARN: iamARN + "group/devs", Name: "devs"}},
				Policies: map[string]string{
					iamARN + "policy/narrow":                 `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":["s3:*","iam:Put*"],"Resource":"*"}}`,
					"arn:aws:iam::aws:policy/ReadOnlyAccess": `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:Describe*","Resource":"*"}}`,
				},
			}
			for _, p := range tt.who {
				if p.Role {
					a.Roles = append(a.Roles, p)
				} else {
					a.Users = append(a.Users, p)
				}
			}
			key := keyWith(tt.policy)
			r := access.New(a, access.Context{Now: now, TrustedAccounts: []string{"444455556666"}, TrustedOrgs: []string{"o-own"}})
			holders, err := r.Holders(key)
			if err != nil {
				t.Fatal(err)
			}
			found, err := r.Findings(key, holders)
			switch {
			case err != nil:
				t.Fatal(err)
			case tt.want == "" && len(found) > 0:
				t.Errorf("found %+v", found)
			case tt.want != "" && len(found) == 0:
				t.Error("nothing found")
			case tt.want != "" && (found[0].ID != tt.id || found[0].Severity != tt.severity || !strings.Contains(found[0].Message, tt.want)):
				t.Errorf("%s %s: %s", found[0].Severity, found[0].ID, found[0].Message)
			}
		})
	}
}

// TestUnreadTrust: a trust policy that cannot be read is named, and never taken for one that
// lets in nobody or takes no tags.
func TestUnreadTrust(t *testing.T) {
	app := role("app", statement(`{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*","Condition":{"StringEquals":{"aws:PrincipalTag/team":"hr"}}}`))
	app.Trust = `{"Statement":`
	report, err := access.New(access.Account{ID: account, Roles: []access.Principal{app}}, access.Context{Now: now}).Report(keyWith(delegates), []string{"grants"})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Unread) != 2 || !strings.HasPrefix(report.Unread[1], "trust policy of role/app: ") || report.Holders[0].May("kms:Decrypt") != access.Conditional {
		t.Errorf("%q, %+v", report.Unread, report.Holders)
	}
}

// TestManyKeys: what is remembered from one key to the next is bounded, and changes no answer.
func TestManyKeys(t *testing.T) {
	a := access.Account{ID: account, Users: []access.Principal{user("alice")}}
	r := access.New(a, access.Context{Now: now})
	for n := range 12_000 {
		policy := statement(fmt.Sprintf(`{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*","Condition":{"StringEquals":{"aws:SourceVpce":"vpce-%d"}}}`, n))
		h, _, err := r.Of(a.Users[0].ARN, keyWith(policy))
		if err != nil || h.May("kms:Decrypt") != access.Conditional || len(h.Rights) != 1 || !strings.HasSuffix(h.Rights[0].Ways[0].Conditions[0], fmt.Sprintf("vpce-%d", n)) {
			t.Fatalf("key %d: %+v, %v", n, h.Rights, err)
		}
		if got := r.Remembered(); got > access.MaxRemembered+100 {
			t.Fatalf("after %d keys %d conditions and verdicts are remembered", n, got)
		}
	}
}

// TestAllKeys finds IAM policies that are about every key, once for each policy.
func TestAllKeys(t *testing.T) {
	a := access.Account{
		ID: account,
		Users: []access.Principal{
			user("alice", decrypts),
			user("bob", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:Decrypt","Resource":"`+keyARN+`"}}`),
			user("carol", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"arn:aws:kms:eu-central-1:111122223333:*","Condition":{"Bool":{"aws:MultiFactorAuthPresent":"true"}}}}`),
			user("dave", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:List*","Resource":"*"}}`),
			user("erin", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:Decrypt","Resource":"arn:aws:kms:us-east-1:111122223333:key/*"}}`),
			user("frank", `{`),
		},
		Roles:    []access.Principal{role("x"), role("y"), role("z"), role("w")},
		Policies: map[string]string{"arn:aws:iam::aws:policy/AdministratorAccess": `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}`},
	}
	for i := range a.Roles {
		a.Roles[i].Attached = []string{"arn:aws:iam::aws:policy/AdministratorAccess"}
	}
	var got []string
	for _, f := range access.New(a, access.Context{Now: now}).AllKeys("eu-central-1") {
		got = append(got, string(f.Severity)+" "+f.Message)
	}
	want := []string{
		"medium Policy a of user/alice is about every key: user/alice can read everything encrypted under the key",
		"medium Policy arn:aws:iam::aws:policy/AdministratorAccess is about every key: role/w, role/x, role/y and 1 more can take the key over, read everything encrypted under the key and sign with the key",
		"low Policy a of user/carol is about every key: user/carol can take the key over, read everything encrypted under the key and sign with the key, under conditions",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
