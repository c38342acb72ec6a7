package keypolicy

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/finding"
	_ "github.com/cmkeeper/cmkeeper/internal/testgc" // accounts that live for one test are garbage soon
)

const (
	own     = "444455556666"
	partner = "777788889999" // trusted
	foreign = "222233334444"

	root = `{"Sid":"Root","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::444455556666:root"},"Action":"kms:*","Resource":"*"}`
)

var judged = Context{Account: own, TrustedAccounts: []string{partner}}

func document(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

func parsed(t testing.TB, document string) *Policy {
	t.Helper()
	p, err := Parse([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParse(t *testing.T) {
	p := parsed(t, `{
		"Version": "2012-10-17", "Id": "x",
		"Statement": {
			"Effect": "Allow",
			"Principal": {"Service": "s3.amazonaws.com", "AWS": ["444455556666", "arn:aws-cn:iam::444455556666:root", "arn:aws:iam::444455556666:role/a", "*"]},
			"NotAction": "kms:Put*",
			"Resource": "*",
			"Condition": {"Bool": {"kms:GrantIsForAWSResource": true}, "NumericLessThan": {"x": [1, 2.5]}, "ForAllValues:StringEquals": {"k": ["a", "b"]}}
		}
	}`)
	want := &Policy{Version: "2012-10-17", Statements: []Statement{{
		Label: "#1",
		Principals: []Principal{
			{"AWS", "*"}, {"AWS", own}, {"AWS", "arn:aws:iam::444455556666:role/a"}, {"Service", "s3.amazonaws.com"},
		},
		Actions:   []string{"kms:Put*"},
		NotAction: true,
		Resources: []string{"*"},
		Conditions: []Condition{
			{"Bool", "kms:GrantIsForAWSResource", []string{"true"}},
			{"ForAllValues:StringEquals", "k", []string{"a", "b"}},
			{"NumericLessThan", "x", []string{"1", "2.5"}},
		},
	}}}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	statement := func(elements string) string { return document(`{` + elements + `}`) }
	for _, test := range []struct{ name, document, want string }{
		{"empty", ``, "decode policy"},
		{"garbage", `hello`, "decode policy"},
		{"truncated", `{"Statement":[`, "decode policy"},
		{"more after the end", document(root) + `{}`, "after top-level value"},
		{"not an object", `[]`, "decode policy"},
		{"no statement", `{"Version":"2012-10-17"}`, "no statement"},
		{"null statement", `{"Statement":null}`, "null"},
		{"another version", `{"Version":"2020-01-01","Statement":[` + root + `]}`, "policy version"},
		{"unknown element", `{"Rules":[` + root + `]}`, `unknown element "Rules"`},
		{"unknown element of a statement", statement(`"Effect":"Allow","Principals":"*"`), `statement #1: unknown element "Principals"`},
		{"effect in small letters", statement(`"Effect":"allow","Principal":"*","Action":"kms:*"`), `effect "allow"`},
		{"no effect", statement(`"Principal":"*","Action":"kms:*"`), `effect ""`},
		{"no principal", statement(`"Effect":"Allow","Action":"kms:*"`), "neither Principal nor NotPrincipal"},
		{"both principals", statement(`"Effect":"Allow","Principal":"*","NotPrincipal":"*","Action":"kms:*"`), "both Principal and NotPrincipal"},
		{"empty principal", statement(`"Effect":"Allow","Principal":{},"Action":"kms:*"`), "neither Principal"},
		{"principal as a bare ARN", statement(`"Effect":"Allow","Principal":"arn:aws:iam::444455556666:root","Action":"kms:*"`), `want "*" or an object`},
		{"unknown type of principal", statement(`"Effect":"Allow","Principal":{"Group":"x"},"Action":"kms:*"`), "principal type"},
		{"both actions", statement(`"Effect":"Allow","Principal":"*","Action":"kms:*","NotAction":"kms:*"`), "both Action and NotAction"},
		{"action of another type", statement(`"Effect":"Allow","Principal":"*","Action":5`), "statement #1"},
		{"empty list of resources", statement(`"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":[]`), "Resource: an empty list"},
		{"condition value of another type", statement(`"Effect":"Allow","Principal":"*","Action":"kms:*","Condition":{"Bool":{"x":{}}}`), "condition value"},
		{"action twice", statement(`"Effect":"Allow","Principal":"*","Action":"kms:*","Action":"kms:Decrypt"`), `"action" twice`},
		{"action twice in two cases", statement(`"Effect":"Allow","Principal":"*","Action":"kms:*","action":"kms:Decrypt"`), `"action" twice`},
		{"condition twice", statement(`"Effect":"Allow","Principal":"*","Action":"kms:*","Condition":{"Bool":{"x":true},"bool":{"y":true}}`), `"bool" twice`},
		{"condition key twice in two cases", statement(`"Effect":"Allow","Principal":"*","Action":"kms:*","Condition":{"StringEquals":{"kms:CallerAccount":"1","KMS:callerAccount":"2"}}`), `"kms:calleraccount" twice`},
		{"statement of another type", `{"Statement":["x"]}`, "statement #1: want an object"},
		{"condition of another type", statement(`"Effect":"Allow","Principal":"*","Action":"kms:*","Condition":[]`), "Condition: want an object"},
		{"letters that fold to others", `{"ſtatement":[` + root + `]}`, "unknown element"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse([]byte(test.document))
			if err == nil || !strings.HasPrefix(err.Error(), "keypolicy: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v does not say %q", err, test.want)
			}
		})
	}
}

func TestMatches(t *testing.T) {
	for _, test := range []struct {
		pattern, s string
		want       bool
	}{
		{"kms:Decrypt", "KMS:decrypt", true},
		{"kms:*", "kms:Decrypt", true},
		{"*", "kms:Decrypt", true},
		{"kms:*Key*", "kms:PutKeyPolicy", true},
		{"kms:*Key", "kms:PutKeyPolicy", false},
		{"kms:De?rypt", "kms:Decrypt", true},
		{"kms:Decrypt?", "kms:Decrypt", false},
		{"kms:Decrypt*", "kms:Decrypt", true},
		{"", "", true},
		{"", "x", false},
		// A pattern within a pattern.
		{"kms:*", "kms:Put*", true},
		{"kms:Put*", "kms:*", false},
		{"kms:P?t*", "kms:P*t*", false},
		{"kms:P*", "kms:P?t*", true},
		{"kms:P?t", "kms:P?t", true},
		{"kms:Put", "kms:P?t", false},
	} {
		if got := matches(test.pattern, test.s); got != test.want {
			t.Errorf("matches(%q, %q) = %v", test.pattern, test.s, got)
		}
	}
}

// brief is a finding without its sentence.
type brief struct {
	ID                   finding.ID
	Statement, Principal string
	Severity             finding.Severity
}

func TestFindings(t *testing.T) {
	const (
		denyOthers   = `{"Sid":"Fence","Effect":"Deny","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringNotEquals":{"aws:PrincipalAccount":["444455556666","777788889999"]}}}`
		alice        = "arn:aws:iam::444455556666:user/alice"
		foreignRole  = "arn:aws:iam::222233334444:role/job"
		partnerRole  = "arn:aws:iam::777788889999:role/job"
		consoleAdmin = `{"Sid":"Admins","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::444455556666:role/KeyOperators"},"Action":["kms:Create*","kms:Describe*","kms:Enable*","kms:List*","kms:Put*","kms:Update*","kms:Revoke*","kms:Disable*","kms:Get*","kms:Delete*","kms:TagResource","kms:UntagResource","kms:ScheduleKeyDeletion","kms:CancelKeyDeletion","kms:RotateKeyOnDemand"],"Resource":"*"}`
	)
	allow := func(principal, action string, condition ...string) string {
		s := `{"Sid":"S","Effect":"Allow","Principal":` + principal + `,"Action":` + action + `,"Resource":"*"`
		if len(condition) > 0 {
			s += `,"Condition":` + condition[0]
		}
		return s + `}`
	}
	aws := func(id string) string { return `{"AWS":"` + id + `"}` }
	const use, admin, all = `["kms:Decrypt","kms:GenerateDataKey*"]`, `"kms:Put*"`, `"kms:*"`

	for _, test := range []struct {
		name       string
		statements []string
		want       []brief
	}{
		{"KMS's default", []string{root}, nil},
		{"the account's id instead of its root", []string{allow(aws(own), all)}, nil},
		{"China", []string{allow(aws("arn:aws-cn:iam::444455556666:root"), all)}, nil},
		{"the console's administrators", []string{root, consoleAdmin}, nil},
		{"own user with use", []string{root, allow(aws(alice), use)}, nil},

		// Everyone.
		{"public use", []string{root, allow(`"*"`, use)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"public use, other form", []string{root, allow(aws("*"), use)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"public use, in a list", []string{root, allow(`{"AWS":["`+alice+`","*"]}`, use)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"public administration", []string{root, allow(`"*"`, admin)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"public everything", []string{root, allow(`"*"`, all)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"public everything of every service", []string{root, allow(`"*"`, `"*"`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"public, an action of the future", []string{root, allow(`"*"`, `"kms:Teleport"`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.High}, {finding.UnknownAction, "S", "", finding.Low}}},
		{"public, all but some", []string{root, `{"Sid":"S","Effect":"Allow","Principal":"*","NotAction":"kms:Put*","Resource":"*"}`}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}, {finding.AllowNotAction, "S", "", finding.Medium}}},
		{"own account only", []string{root, allow(`"*"`, use, `{"StringEquals":{"kms:CallerAccount":"444455556666"}}`)}, nil},
		{"own account through a service, as AWS managed keys", []string{root, allow(`"*"`, use, `{"StringEquals":{"kms:CallerAccount":"444455556666","kms:ViaService":"ec2.eu-central-1.amazonaws.com"}}`)}, nil},
		{"own and trusted accounts only", []string{root, allow(`"*"`, use, `{"StringEquals":{"aws:PrincipalAccount":["444455556666","777788889999"]}}`)}, nil},
		{"own principals only", []string{root, allow(`"*"`, use, `{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::444455556666:role/app-*"}}`)}, nil},
		{"own resources only", []string{root, allow(`"*"`, use, `{"StringEquals":{"aws:SourceAccount":"444455556666"}}`)}, nil},
		{"own account, everything", []string{root, allow(`"*"`, all, `{"StringEquals":{"kms:CallerAccount":"444455556666"}}`)}, []brief{{finding.FullControl, "S", own, finding.Medium}}},
		{"own and trusted account, everything", []string{root, allow(`"*"`, all, `{"StringEquals":{"kms:CallerAccount":["444455556666","777788889999"]}}`)}, []brief{{finding.FullControl, "S", partner, finding.High}, {finding.FullControl, "S", own, finding.Medium}}},
		{"a foreign account among the conditions", []string{root, allow(`"*"`, use, `{"StringEquals":{"kms:CallerAccount":["444455556666","222233334444"]}}`)}, []brief{{finding.ForeignAccount, "S", foreign, finding.High}}},
		{"every account by a wildcard", []string{root, allow(`"*"`, use, `{"StringLike":{"kms:CallerAccount":"*"}}`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"accounts by a wildcard", []string{root, allow(`"*"`, use, `{"StringLike":{"kms:CallerAccount":"4444*"}}`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"the account if the key is there", []string{root, allow(`"*"`, use, `{"StringEqualsIfExists":{"kms:CallerAccount":"444455556666"}}`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"the account for all values, so also for none", []string{root, allow(`"*"`, use, `{"ForAllValues:StringEquals":{"aws:PrincipalAccount":"444455556666"}}`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"the caller's own account by a variable", []string{root, allow(`"*"`, use, `{"StringEquals":{"kms:CallerAccount":"${aws:PrincipalAccount}"}}`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"all accounts but one", []string{root, allow(`"*"`, use, `{"StringNotEquals":{"kms:CallerAccount":"444455556666"}}`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"an organization", []string{root, allow(`"*"`, all, `{"StringEquals":{"aws:PrincipalOrgID":"o-exampleorg"}}`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.High}}},
		{"an organization, use", []string{root, allow(`"*"`, use, `{"StringEquals":{"aws:PrincipalOrgID":"o-exampleorg"}}`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Medium}}},
		{"any organization", []string{root, allow(`"*"`, use, `{"StringLike":{"aws:PrincipalOrgID":"o-*"}}`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"a network", []string{root, allow(`"*"`, use, `{"StringEquals":{"aws:SourceVpce":"vpce-1"}}`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Medium}}},
		{"a network if the key is there", []string{root, allow(`"*"`, use, `{"StringEqualsIfExists":{"aws:SourceVpce":"vpce-1"}}`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"what a stranger can choose", []string{root, allow(`"*"`, use, `{"StringEquals":{"kms:EncryptionContext:app":"x","aws:PrincipalTag/team":"y","aws:username":"z"}}`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"own principals by a wildcard that reaches over the account", []string{root, allow(`"*"`, use, `{"StringLike":{"aws:PrincipalArn":"arn:aws:iam:*:444455556666:role/x"}}`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"a service alone", []string{root, allow(`"*"`, use, `{"StringEquals":{"kms:ViaService":"s3.eu-central-1.amazonaws.com"}}`)}, []brief{{finding.PublicThroughService, "S", "*", finding.Medium}}},
		{"the whole internet", []string{root, allow(`"*"`, use, `{"IpAddress":{"aws:SourceIp":"0.0.0.0/0"}}`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"TLS", []string{root, allow(`"*"`, use, `{"Bool":{"aws:SecureTransport":"true"}}`)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"not principal", []string{root, `{"Sid":"S","Effect":"Allow","NotPrincipal":{"AWS":"` + alice + `"},"Action":"kms:Decrypt","Resource":"*"}`}, []brief{{finding.AllowNotPrincipal, "S", "*", finding.Critical}}},
		{"not principal, everything", []string{root, `{"Sid":"S","Effect":"Allow","NotPrincipal":{"AWS":"` + alice + `"},"Action":"kms:*","Resource":"*"}`}, []brief{{finding.AllowNotPrincipal, "S", "*", finding.Critical}}},

		// Deny.
		{"public, closed to all other accounts", []string{root, allow(`"*"`, use), denyOthers}, nil},
		{"public, all of it denied", []string{root, allow(`"*"`, use), `{"Effect":"Deny","Principal":"*","Action":["kms:decrypt","kms:Gen*"],"Resource":"*"}`}, nil},
		{"public, some of it denied", []string{root, allow(`"*"`, use), `{"Effect":"Deny","Principal":"*","Action":"kms:Decrypt","Resource":"*"}`}, []brief{{finding.PublicPrincipal, "S", "*", finding.High}}},
		{"public, administration denied", []string{root, allow(`"*"`, `["kms:CreateGrant","kms:Decrypt"]`), `{"Effect":"Deny","Principal":"*","Action":"kms:CreateGrant","Resource":"*"}`}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"public, denied to one", []string{root, allow(`"*"`, use), `{"Effect":"Deny","Principal":{"AWS":"` + foreignRole + `"},"Action":"kms:*","Resource":"*"}`}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"public, denied under two conditions", []string{root, allow(`"*"`, use), `{"Effect":"Deny","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringNotEquals":{"aws:PrincipalAccount":"444455556666"},"Bool":{"aws:SecureTransport":"false"}}}`}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"public, denied for another key", []string{root, allow(`"*"`, use), `{"Effect":"Deny","Principal":"*","Action":"kms:*","Resource":"arn:aws:kms:eu-central-1:444455556666:key/other"}`}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"foreign, closed to all other accounts", []string{root, allow(aws(foreignRole), use), denyOthers}, nil},
		{"foreign, its account denied", []string{root, allow(aws(foreignRole), use), `{"Effect":"Deny","Principal":{"AWS":"222233334444"},"Action":"kms:*","Resource":"*"}`}, nil},

		// Accounts.
		{"foreign role with use", []string{root, allow(aws(foreignRole), use)}, []brief{{finding.ForeignAccount, "S", foreignRole, finding.High}}},
		{"foreign account by its id", []string{root, allow(aws(foreign), use)}, []brief{{finding.ForeignAccount, "S", foreign, finding.High}}},
		{"foreign account by its root", []string{root, allow(aws("arn:aws:iam::222233334444:root"), use)}, []brief{{finding.ForeignAccount, "S", foreign, finding.High}}},
		{"foreign administration", []string{root, allow(aws(foreign), admin)}, []brief{{finding.ForeignAccount, "S", foreign, finding.Critical}}},
		{"foreign grants for AWS services", []string{root, allow(aws(foreign), `"kms:CreateGrant"`, `{"Bool":{"kms:GrantIsForAWSResource":true}}`)}, []brief{{finding.ForeignAccount, "S", foreign, finding.High}}},
		{"foreign reading", []string{root, allow(aws(foreign), `["kms:DescribeKey","kms:List*"]`)}, []brief{{finding.ForeignAccount, "S", foreign, finding.Medium}}},
		{"foreign, yet callers of our account only", []string{root, allow(aws(foreign), use, `{"StringEquals":{"kms:CallerAccount":"444455556666"}}`)}, nil},
		{"foreign SAML provider", []string{root, allow(`{"Federated":"arn:aws:iam::222233334444:saml-provider/x"}`, use)}, []brief{{finding.ForeignAccount, "S", "arn:aws:iam::222233334444:saml-provider/x", finding.High}}},
		{"trusted account", []string{root, allow(aws(partner), use)}, nil},
		{"trusted account, everything", []string{root, allow(aws(partner), all)}, []brief{{finding.FullControl, "S", partner, finding.High}}},
		{"trusted role, everything", []string{root, allow(aws(partnerRole), `"*"`)}, []brief{{finding.FullControl, "S", partnerRole, finding.High}}},
		{"own user, everything", []string{root, allow(aws(alice), all)}, []brief{{finding.FullControl, "S", alice, finding.Medium}}},
		{"own user, everything by another wildcard", []string{root, allow(aws(alice), `["kms:*Key*","kms:*Grant","kms:D*"]`)}, []brief{{finding.FullControl, "S", alice, finding.Medium}}},
		{"own user, everything from one network", []string{root, allow(aws(alice), all, `{"StringEquals":{"aws:SourceVpc":"vpc-1"}}`)}, []brief{{finding.FullControl, "S", alice, finding.Low}}},
		{"another key's statement counts while the key is unknown", []string{root, strings.Replace(allow(`"*"`, use), `"Resource":"*"`, `"Resource":"arn:aws:kms:eu-central-1:444455556666:key/other"`, 1)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"deleted role", []string{root, allow(aws("AROA4EXAMPLE"), use)}, []brief{{finding.UnknownPrincipal, "S", "AROA4EXAMPLE", finding.Low}}},
		{"identity provider", []string{root, allow(`{"Federated":"accounts.example.com"}`, use)}, []brief{{finding.UnknownPrincipal, "S", "accounts.example.com", finding.Medium}}},

		// Services.
		{"service for anybody", []string{root, allow(`{"Service":"logs.eu-central-1.amazonaws.com"}`, use)}, []brief{{finding.ServiceWithoutSource, "S", "logs.eu-central-1.amazonaws.com", finding.Low}}},
		{"service for anybody, grants", []string{root, allow(`{"Service":"logs.eu-central-1.amazonaws.com"}`, `"kms:CreateGrant"`)}, []brief{{finding.ServiceWithoutSource, "S", "logs.eu-central-1.amazonaws.com", finding.Medium}}},
		{"service for our account", []string{root, allow(`{"Service":"sns.amazonaws.com"}`, use, `{"StringEquals":{"aws:SourceAccount":"444455556666"}}`)}, nil},
		{"service for our trail", []string{root, allow(`{"Service":"cloudtrail.amazonaws.com"}`, use, `{"StringLike":{"kms:EncryptionContext:aws:cloudtrail:arn":"arn:aws:cloudtrail:*:444455556666:trail/*"}}`)}, nil},
		{"service for a bucket, whose ARN has no account", []string{root, allow(`{"Service":"s3.amazonaws.com"}`, use, `{"ArnEquals":{"aws:SourceArn":"arn:aws:s3:::photos"}}`)}, nil},
		{"service for a foreign account", []string{root, allow(`{"Service":"sns.amazonaws.com"}`, use, `{"StringEquals":{"aws:SourceAccount":"222233334444"}}`)}, []brief{{finding.ForeignAccount, "S", "sns.amazonaws.com", finding.High}}},
		{"service for whatever is there", []string{root, allow(`{"Service":"sns.amazonaws.com"}`, use, `{"StringLike":{"aws:SourceAccount":"*"}}`)}, []brief{{finding.ServiceWithoutSource, "S", "sns.amazonaws.com", finding.Low}}},
		{"service for any bucket", []string{root, allow(`{"Service":"s3.amazonaws.com"}`, use, `{"ArnLike":{"aws:SourceArn":"arn:aws:s3:::*"}}`)}, []brief{{finding.ServiceWithoutSource, "S", "s3.amazonaws.com", finding.Low}}},
		{"service for our trails in any Region", []string{root, allow(`{"Service":"cloudtrail.amazonaws.com"}`, use, `{"StringLike":{"aws:SourceArn":"arn:aws:cloudtrail:*:444455556666:trail/*"}}`)}, nil},
		{"every service", []string{root, allow(`{"Service":"*"}`, use)}, []brief{{finding.PublicPrincipal, "S", "*", finding.Critical}}},
		{"service, everything", []string{root, allow(`{"Service":"sns.amazonaws.com"}`, all)}, []brief{{finding.FullControl, "S", "sns.amazonaws.com", finding.High}}},

		// Administration.
		{"nobody", []string{allow(aws(alice), use)}, []brief{{finding.Lockout, "", "", finding.Critical}}},
		{"a foreign administrator only", []string{allow(aws(foreign), all)}, []brief{{finding.ForeignAccount, "S", foreign, finding.Critical}, {finding.Lockout, "", "", finding.Critical}}},
		{"an own administrator only", []string{consoleAdmin}, []brief{{finding.NoRootDelegation, "", own, finding.Medium}}},
		{"root without administration", []string{allow(aws(own), use), consoleAdmin}, []brief{{finding.NoRootDelegation, "", own, finding.Medium}}},
		{"root, but administration is denied to everyone", []string{root, `{"Effect":"Deny","Principal":"*","Action":"kms:PutKeyPolicy","Resource":"*"}`}, []brief{{finding.Lockout, "", "", finding.Critical}}},
		{"root, but administration is denied to our account", []string{root, `{"Effect":"Deny","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringNotEquals":{"aws:PrincipalAccount":"222233334444"}}}`}, []brief{{finding.Lockout, "", "", finding.Critical}}},
		{"root, but administration is denied to all but a role", []string{root, `{"Effect":"Deny","NotPrincipal":{"AWS":"` + alice + `"},"Action":"kms:*","Resource":"*"}`}, []brief{{finding.Lockout, "", "", finding.Critical}}},
		{"root, with administration denied to a role", []string{root, `{"Effect":"Deny","Principal":{"AWS":"` + alice + `"},"Action":"kms:*","Resource":"*"}`}, nil},
		{"root, from one network", []string{allow(aws(own), all, `{"StringEquals":{"aws:SourceVpc":"vpc-1"}}`)}, nil},
		{"root, for callers of another account", []string{allow(aws(own), all, `{"StringEquals":{"kms:CallerAccount":"222233334444"}}`)}, []brief{{finding.Lockout, "", "", finding.Critical}}},
		{"the worst first", []string{root, allow(aws(alice), all), allow(`"*"`, `"kms:Encrypt"`), allow(`"*"`, all)}, []brief{
			{finding.PublicPrincipal, "S", "*", finding.Critical}, {finding.PublicPrincipal, "S", "*", finding.High}, {finding.FullControl, "S", alice, finding.Medium}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []brief
			for _, f := range parsed(t, document(test.statements...)).Findings(judged) {
				got = append(got, brief{f.ID, f.Statement, f.Principal, f.Severity})
				if f.Message == "" || strings.HasSuffix(f.Message, ".") {
					t.Errorf("message %q", f.Message)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAccess: every action has its access, and what only tells about the key is
// metadata alone.
func TestAccess(t *testing.T) {
	for i, name := range known {
		as := Actions(1) << i
		if got := as.access(); got == 0 || got&finding.Other != 0 || (got == finding.Metadata) != (as&mild != 0 && name != "kms:RetireGrant") {
			t.Errorf("%s gives access %q", name, got)
		}
	}
	for document, want := range map[string]finding.Access{
		`{"Effect":"Allow","Principal":"*","Action":"kms:Encrypt","Resource":"*"}`:                             finding.Encrypt,
		`{"Effect":"Allow","Principal":"*","Action":["kms:Describe*","kms:CreateGrant"],"Resource":"*"}`:       finding.Grant | finding.Metadata,
		`{"Effect":"Allow","Principal":"*","Action":"kms:Teleport","Resource":"*"}`:                            finding.Other,
		`{"Effect":"Allow","Principal":{"AWS":"222233334444"},"Action":"kms:Re*","Resource":"*"}`:              finding.Read | finding.Encrypt | finding.Administer | finding.Configure,
		`{"Effect":"Allow","Principal":{"Service":"sns.amazonaws.com"},"Action":"kms:Decrypt","Resource":"*"}`: finding.Read,
	} {
		found := parsed(t, `{"Statement":[`+root+`,`+document+`]}`).Findings(judged)
		if len(found) == 0 || found[0].Access != want {
			t.Errorf("%s: %+v, want access %q", document, found, want)
		}
	}
}

func TestAdministered(t *testing.T) {
	const reader = `{"Effect":"Allow","Principal":{"AWS":"444455556666"},"Action":"kms:Get*","Resource":"*"}`
	if !parsed(t, document(root)).Administered(judged) {
		t.Error("KMS's default is not administered")
	}
	if parsed(t, document(reader)).Administered(judged) {
		t.Error("a policy that lets nobody change it is administered")
	}
}

func TestFindingsOfTheContext(t *testing.T) {
	p := parsed(t, document(root, `{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"arn:aws:kms:*:444455556666:key/other"}`))
	c := judged
	c.KeyARN = "arn:aws:kms:eu-central-1:444455556666:key/this"
	c.BypassLockoutSafetyCheck = true
	want := []finding.Finding{{ID: finding.LockoutCheckBypassed, Severity: finding.Medium, Message: "the policy was set with bypassPolicyLockoutSafetyCheck, so KMS did not check that its author can still change it"}}
	if diff := cmp.Diff(want, p.Findings(c)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestMessages(t *testing.T) {
	p := parsed(t, document(
		`{"Effect":"Allow","Principal":"*","Action":["kms:Encrypt","kms:Decrypt"],"Resource":"*"}`,
		`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::222233334444:role/job"},"Action":["kms:A","kms:B","kms:C","kms:D","kms:E","kms:F"],"Resource":"*"}`,
		`{"Effect":"Allow","Principal":{"AWS":"222233334444"},"NotAction":"kms:Decrypt","Resource":"*"}`,
		`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::444455556666:role/app"},"Action":"kms:*","Resource":"*"}`,
	))
	want := []string{
		"everyone, in any AWS account, may kms:Encrypt, kms:Decrypt",
		"account 222233334444 may do everything but kms:Decrypt, and the account is not trusted",
		"arn:aws:iam::222233334444:role/job, of account 222233334444, may kms:A, kms:B, kms:C, kms:D and 2 more, and the account is not trusted",
		"the statement allows to do everything but kms:Decrypt, and so whatever KMS adds one day",
		"arn:aws:iam::444455556666:role/app may kms:*: use the key, give it to others and delete it",
		"the policy does not let IAM policies of account 444455556666 give the administration of the key, so it cannot be managed once the principals named here are gone",
		"no action of KMS that is known is called kms:A, kms:B, kms:C, kms:D and 2 more, so the name has no effect",
	}
	var got []string
	for _, f := range p.Findings(judged) {
		got = append(got, f.Message)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

// TestStrings mild strings as encoding/json does.
func TestStrings(t *testing.T) {
	for _, quoted := range []string{`""`, `"a b"`, `"\"\\\/"`, `"\b\f\n\r\t"`, `"\u00e9é\ud83d\ude00"`, `"\ud83dx"`, "\"\xff\xfe\"", `"\\"`} {
		var want string
		if err := json.Unmarshal([]byte(quoted), &want); err != nil {
			t.Fatal(err)
		}
		r, err := read([]byte(" " + quoted + " "))
		if err != nil {
			t.Fatal(err)
		}
		if got := r.string(); got != want {
			t.Errorf("%s: %q, want %q", quoted, got, want)
		}
	}
}

// TestCriticalMessage names only what is not guarded.
func TestCriticalMessage(t *testing.T) {
	p := parsed(t, document(root, `{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::444455556666:user/a"},"Action":["kms:ScheduleKeyDeletion","kms:DisableKey"],"Resource":"*"}`,
		`{"Effect":"Deny","Principal":"*","Action":"kms:ScheduleKeyDeletion","Resource":"*","Condition":{"NumericLessThan":{"kms:ScheduleKeyDeletionPendingWindowInDays":30}}}`))
	want := "arn:aws:iam::444455556666:user/a may kms:DisableKey without MFA, so a stolen access key is enough"
	if got := p.Findings(judged); len(got) != 1 || got[0].Message != want {
		t.Errorf("findings: %v", got)
	}
}
