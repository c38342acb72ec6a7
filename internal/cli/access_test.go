package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/cmkeeper/cmkeeper/access"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
	"github.com/cmkeeper/cmkeeper/inventory"
)

const (
	// iamARN begins the ARNs of the account's users and roles; outsider is another account.
	iamARN   = "arn:aws:iam::" + sandbox.Account + ":"
	outsider = "999988887777"
)

// longRole has a name as long as IAM takes.
const longRole = "orders-nightly-export-to-the-data-lake-of-the-finance-department"

// allowing is an IAM policy with one statement; more are further members of it.
func allowing(action, resource, more string) string {
	return `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":` + action + `,"Resource":"` + resource + `"` + more + `}}`
}

// staff fills the account's IAM, and gives the key of appAlias, which it makes, a policy and
// grants.
func (a *account) staff() (key string) {
	a.t.Helper()
	key = a.newKey(appAlias)
	principals := a.box.AWS.IAM()
	trusting := func(who string) string {
		return `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":` + who + `,"Action":"sts:AssumeRole"}}`
	}
	narrow := must(principals.SetPolicy(iam.ManagedPolicy{Name: "narrow", Versions: []string{allowing(`"kms:Describe*"`, "*", "")}}))(a.t)
	admin := must(principals.SetPolicy(iam.ManagedPolicy{Name: "AdministratorAccess", AWS: true, Versions: []string{allowing(`"*"`, "*", "")}}))(a.t)
	must(principals.SetGroup(iam.Group{Name: "analysts", Inline: map[string]string{"read": allowing(`"kms:Decrypt"`, key, "")}}))(a.t)
	for _, u := range []iam.User{
		{Name: "ada", Groups: []string{"analysts"}},
		{Name: "bea", Attached: []string{admin}},
		{Name: "cem", Groups: []string{"analysts"}, Boundary: narrow},
		{Name: "dora", Inline: map[string]string{"self": allowing(`"iam:PutUserPolicy"`, iamARN+"user/${aws:username}", "")}},
		{Name: "emil"},
	} {
		must(principals.SetUser(u))(a.t)
	}
	lambda := trusting(`{"Service":"lambda.amazonaws.com"}`)
	for _, r := range []iam.Role{
		{Name: "app", Path: "/service/", Trust: lambda, LastUsed: time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC), LastUsedRegion: sandbox.Region, Inline: map[string]string{
			"use": allowing(`["kms:Decrypt","kms:GenerateDataKey*"]`, key, `,"Condition":{"StringEquals":{"kms:ViaService":"s3.us-east-1.amazonaws.com"}}`)}},
		{Name: "vendor", Trust: trusting(`{"AWS":"` + outsider + `"}`), Inline: map[string]string{"use": allowing(`"kms:Decrypt"`, "*", "")}},
		{Name: longRole, Trust: lambda},
	} {
		must(principals.SetRole(r))(a.t)
	}
	policy := `{"Version":"2012-10-17","Statement":[
		{"Sid":"IAM","Effect":"Allow","Principal":{"AWS":"` + iamARN + `root"},"Action":"kms:*","Resource":"*"},
		{"Sid":"Logs","Effect":"Allow","Principal":{"Service":"logs.us-east-1.amazonaws.com"},"Action":["kms:Encrypt","kms:Decrypt","kms:GenerateDataKey"],"Resource":"*"},
		{"Sid":"Partner","Effect":"Allow","Principal":{"AWS":"` + outsider + `"},"Action":"kms:Decrypt","Resource":"*"},
		{"Sid":"Organization","Effect":"Allow","Principal":"*","Action":"kms:DescribeKey","Resource":"*","Condition":{"StringEquals":{"aws:PrincipalOrgID":"o-example"}}}]}`
	must(a.kms.PutKeyPolicy(a.t.Context(), &kms.PutKeyPolicyInput{KeyId: &key, Policy: &policy}))(a.t)
	must(a.kms.CreateGrant(a.t.Context(), &kms.CreateGrantInput{
		KeyId: &key, GranteePrincipal: aws.String(iamARN + "role/" + longRole), Operations: []kmstypes.GrantOperation{kmstypes.GrantOperationDecrypt},
		Constraints: &kmstypes.GrantConstraints{EncryptionContextSubset: map[string]string{"tenant": "7"}},
	}))(a.t)
	return key
}

// accessReport is what package access says of a key, with credentials of the administrator.
func (a *account) accessReport(key string) access.Report {
	a.t.Helper()
	cfg := a.box.Config(administrator)
	everybody := must(access.Read(a.t.Context(), awsclient.NewIAM(cfg), sandbox.Account))(a.t)
	k, unread, err := access.ReadKey(a.t.Context(), inventory.New(kms.NewFromConfig(cfg), nil, sandbox.Account, sandbox.Region), key)
	if err != nil {
		a.t.Fatal(err)
	}
	return must(access.New(everybody, access.Context{}).Report(k, unread))(a.t)
}

// TestAccess: who may use a key, and which keys somebody may use, as the account of staff has it.
func TestAccess(t *testing.T) {
	a := newAccount(t)
	a.enter()
	key := a.staff()
	other := a.newKey("alias/other") // IAM decides about it alone

	code, out, errs := a.command("access", appAlias, "--json")
	if code != exitOK {
		t.Fatalf("exit code %d: %s%s", code, out, errs)
	}
	got := decodeJSON[access.Report](t, out)
	expectValid(t, "access.v1.schema.json", out)
	want := a.accessReport(key)
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(access.Report{}, "At"), cmpopts.IgnoreFields(finding.Finding{}, "Access"), cmp.Comparer(func(x, y finding.ID) bool { return x == y })); diff != "" {
		t.Errorf("another report than that of package access:\n%s", diff)
	}
	may := map[string]access.Verdict{}
	for _, h := range got.Holders {
		if v := h.May("kms:Decrypt"); v != access.No {
			may[strings.TrimPrefix(h.Principal, iamARN)] = v
		}
	}
	if diff := cmp.Diff(map[string]access.Verdict{
		"user/ada": access.Yes, "user/bea": access.Yes, "role/vendor": access.Yes, "root": access.Yes, "logs.us-east-1.amazonaws.com": access.Yes,
		"role/service/app": access.Conditional, "role/" + longRole: access.Conditional, outsider: access.Conditional,
	}, may); diff != "" {
		t.Errorf("who may decrypt:\n%s", diff)
	}
	out = a.accessOK("--principal", iamARN+"user/bea", "--json")
	expectValid(t, "access-of.v1.schema.json", out)
	of := decodeJSON[access.PrincipalReport](t, out)
	if names := fmt.Sprint(of.Keys[0].Aliases, of.Keys[1].Aliases); len(of.Keys) != 2 || names != "[alias/app] [alias/other]" && names != "[alias/other] [alias/app]" {
		t.Errorf("%+v", of.Keys)
	}
	i := slices.IndexFunc(got.Holders, func(h access.Holder) bool { return h.Principal == iamARN+"user/bea" })
	j := slices.IndexFunc(of.Keys, func(k access.KeyRights) bool { return k.Key == key })
	if diff := cmp.Diff(got.Holders[i].Rights, of.Keys[j].Rights); diff != "" {
		t.Errorf("the other way round:\n%s", diff)
	}

	for _, tt := range []struct {
		args string
		code int
		want []string // in the output, or on standard error
		not  string
	}{
		{appAlias, exitOK, []string{
			key, "5 users and 3\n", "assumable-from-outside\n", "user/dora cannot use the key", "To do: ",
			"\nREAD  WRITE ADMIN GRANT DELETE OTHER LAST SEEN  WHO\nif    -     -     -     -      -                account " + outsider + "\nyes   yes   yes   yes   yes    yes              user/bea\n",
			"\nif    if    -     -     -      -     2026-03-01 role/service/app\n", "\n    role/" + longRole + "\n",
			"\nOnly seeing the key's settings: everyone, user/cem, user/dora, user/emil\n", `"if" is under conditions`, "Service control policies",
		}, "Incomplete"},
		{appAlias + " --can kms:decrypt", exitOK, []string{
			"Who may call kms:Decrypt:\n", "\nyes              user/ada\n        by the IAM policy read of group analysts, statement #1\n        which counts by the key policy, statement IAM\n",
			"\nif    2026-03-01 role/service/app\n", "if StringEquals kms:ViaService\n", "encryption context has tenant=7\n", "it can be assumed by account " + outsider + " (if)",
		}, "user/cem"},
		{appAlias + " --can kms:PutKeyPolicy", exitOK, []string{"user/bea", "root"}, "user/ada"},
		{appAlias + " --why", exitOK, []string{"      kms:PutKeyPolicy, kms:ReplicateKey, ", " and\n        38 more; --json has all\n", "      kms:Decrypt, under conditions\n", "by the key policy, statement Partner, if IAM in account " + outsider}, ""},
		{"--principal " + iamARN + "user/ada", exitOK, []string{"\nREAD  KEY\nyes   alias/app\n"}, "alias/other"},
		{"--principal " + iamARN + "role/service/app --why", exitOK, []string{"READ  WRITE KEY\nif    if    alias/app\n", "kms:ViaService"}, "alias/other"},
		{"--principal " + iamARN + "user/emil", exitOK, []string{"It only sees the settings of 1 key: alias/app\n"}, "READ"},
		{"--principal " + iamARN + "user/emil --can kms:Decrypt", exitOK, []string{"It may call kms:Decrypt with no key, as far as can be seen.\n"}, "alias/app"},
		{"--principal " + iamARN + "root alias/other", exitOK, []string{"alias/other\n"}, "alias/app"},
		{other + " --can kms:Decrypt", exitOK, []string{"user/bea"}, "user/ada"},

		{"", exitUsage, []string{"name a key, or a user or role with --principal"}, ""},
		{appAlias + " alias/other", exitUsage, []string{"at most 1 arg"}, ""},
		{appAlias + " --can s3:GetObject", exitUsage, []string{"--can s3:GetObject is not an action on a key"}, ""},
		{appAlias + " --can kms:*", exitUsage, []string{"--can kms:*"}, ""},
		{appAlias + " --days 91", exitUsage, []string{"--days"}, ""},
		{appAlias + " --days -1", exitUsage, []string{"--days"}, ""},
		{appAlias + " --days 1 --requests -1", exitUsage, []string{"--requests"}, ""},
		{"--principal " + iamARN + "user/ada --days 3", exitUsage, []string{"principal", "days"}, ""},
		{"--principal " + iamARN + "user/nobody", exitUsage, []string{"user/nobody is no user or role of account"}, ""},
		{"--principal ada", exitUsage, []string{"did you mean " + iamARN + "user/ada?"}, ""},
		{"--principal " + iamARN + "role/app", exitUsage, []string{"did you mean " + iamARN + "role/service/app?"}, ""},
		{"--principal arn:aws:iam::" + outsider + ":role/app", exitUsage, []string{"is of account " + outsider}, ""},
		{"--principal arn:aws:sts::" + sandbox.Account + ":assumed-role/app/i-1", exitUsage, []string{"is a session: give the ARN of its role"}, ""},
		{"arn:aws:kms:us-east-1:" + outsider + ":key/1b2c3d4e-0000-4000-8000-0000000000aa", exitUsage, []string{"is of account " + outsider}, ""},
		{"alias/none", exitError, []string{"alias/none", "not found"}, ""},
		{"--principal " + iamARN + "user/ada alias/none", exitError, []string{"alias/none", "not found"}, ""},
	} {
		code, out, errs := a.command(append([]string{"access"}, strings.Fields(tt.args)...)...)
		if code != tt.code {
			t.Errorf("access %s: exit code %d: %s%s", tt.args, code, out, errs)
		}
		for _, want := range tt.want {
			if !strings.Contains(out+errs, want) {
				t.Errorf("access %s: no %q in\n%s%s", tt.args, want, out, errs)
			}
		}
		if tt.not != "" && strings.Contains(out, tt.not) {
			t.Errorf("access %s: %q in\n%s", tt.args, tt.not, out)
		}
		expectNarrow(t, out)
	}

	// An AWS managed key, whose policy lets in everyone who comes by a service.
	if out := a.accessOK("alias/aws/s3", "--can", "kms:Decrypt"); !strings.Contains(out, "everyone") || !strings.Contains(out, "kms:ViaService") {
		t.Errorf("the key of S3: %s", out)
	}
	if out := a.accessOK("--principal", iamARN+"user/bea"); !strings.Contains(out, appAlias) || strings.Contains(out, "alias/aws/s3") {
		t.Errorf("the keys that AWS manages: %s", out)
	}
	if out := a.accessOK("--principal", iamARN+"user/bea", "alias/aws/s3"); !strings.Contains(out, "alias/aws/s3") {
		t.Errorf("the key of S3: %s", out)
	}
	// A replica knows that it is one.
	replica := *must(a.kms.CreateKey(t.Context(), &kms.CreateKeyInput{MultiRegion: aws.Bool(true)}))(t).KeyMetadata.Arn
	must(a.kms.ReplicateKey(t.Context(), &kms.ReplicateKeyInput{KeyId: &replica, ReplicaRegion: aws.String("eu-west-1")}))(t)
	must(a.kms.UpdatePrimaryRegion(t.Context(), &kms.UpdatePrimaryRegionInput{KeyId: &replica, PrimaryRegion: aws.String("eu-west-1")}))(t)
	must(a.box.AWS.IAM().SetUser(iam.User{Name: "emil", Inline: map[string]string{"use": allowing(`"kms:Decrypt"`, "*", `,"Condition":{"StringEquals":{"kms:MultiRegionKeyType":"REPLICA"}}`)}}))(t)
	if out := a.accessOK("--principal", iamARN+"user/emil", "--can", "kms:Decrypt"); !strings.Contains(out, "\nMAY   KEY\nyes   "+arn.KeyID(replica)+"\n") || strings.Contains(out, appAlias) {
		t.Errorf("the replica: %s", out)
	}
}

// accessOK runs access, which has to succeed, and returns its output.
func (a *account) accessOK(args ...string) string {
	a.t.Helper()
	code, out, errs := a.command(append([]string{"access"}, args...)...)
	if code != exitOK {
		a.t.Fatalf("access %q: exit code %d: %s%s", args, code, out, errs)
	}
	return out
}

// TestAccessUsed: when holders last used the key, by CloudTrail.
func TestAccessUsed(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		a.enter()
		key := a.staff()
		secret := must(a.kms.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte("x")}))(t).CiphertextBlob
		must(kms.NewFromConfig(a.box.Config("ada")).Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: secret}))(t)
		a.accessOK(appAlias, "--days", "90")
		today := time.Now().UTC().Format(time.DateOnly)
		a.eventually("the event history has the use", func() bool {
			return strings.Contains(a.accessOK(appAlias, "--days", "3"), "yes   -     -     -     -      -     "+today+" user/ada\n")
		})
		out := a.accessOK(appAlias, "--days", "3")
		for _, want := range []string{"USED KEY", "yes   yes   yes   yes   yes    yes   -          user/bea\n", "in the last 3 days"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in %s", want, out)
			}
		}
		report := decodeJSON[access.Report](t, a.accessOK(appAlias, "--days", "3", "--json"))
		for _, h := range report.Holders {
			if used := h.Principal == iamARN+"user/ada"; used == h.Used.IsZero() {
				t.Errorf("%s used the key at %s", h.Principal, h.Used)
			}
		}
	})
}

// TestUsedSince: of 90 days the first minute is not asked for, which CloudTrail has no more
// when the key and IAM are read.
func TestUsedSince(t *testing.T) {
	at := time.Date(2026, 6, 30, 12, 0, 0, 0, time.UTC)
	for days, want := range map[int]time.Time{1: at.AddDate(0, 0, -1), 89: at.AddDate(0, 0, -89), 90: at.AddDate(0, 0, -90).Add(time.Minute + 20*time.Second)} {
		if got := usedSince(at, at.Add(20*time.Second), days); !got.Equal(want) {
			t.Errorf("%d days: %s, want %s", days, got, want)
		}
	}
}

// TestAccessUnread: each permission that is missing is named, what is known is printed, and
// what could not be read never stands for nobody.
func TestAccessUnread(t *testing.T) {
	a := newAccount(t)
	a.enter()
	a.staff()
	of := []string{"--principal", iamARN + "user/emil", "--can", "kms:Decrypt"}
	for _, tt := range []struct {
		permission string
		args       []string
		want       string // in the output; "" for none
	}{
		{access.Permission, []string{appAlias}, "account " + sandbox.Account + "\n"},
		{access.Permission, of, ""},
		{"kms:DescribeKey", []string{appAlias}, ""},
		{"kms:DescribeKey", of, "No key is known that it may call kms:Decrypt with"},
		{"kms:GetKeyPolicy", []string{appAlias}, ""},
		{"kms:GetKeyPolicy", of, "No key is known that it may call kms:Decrypt with"},
		{"kms:ListGrants", []string{appAlias}, "by the key policy, and the IAM of account"},
		{"kms:ListGrants", []string{appAlias, "--can", "kms:RetireGrant"}, "user/bea"},
		{"kms:ListGrants", of, "No key is known"},
		{"kms:ListResourceTags", []string{appAlias}, "user/ada"},
		{"kms:ListAliases", []string{appAlias}, "user/ada"},
		{"kms:ListKeys", of, ""},
		{"cloudtrail:LookupEvents", []string{appAlias, "--days", "3"}, "yes   yes   yes   yes   yes    yes   ?          user/bea"},
	} {
		a.deny(administrator, tt.permission)
		code, out, errs := a.command(append([]string{"access"}, tt.args...)...)
		named := tt.permission
		if strings.HasPrefix(named, "kms:") {
			named = "this takes " + named // in our words, and not only in those of KMS
		}
		if code != exitError || !strings.Contains(errs, named) {
			t.Errorf("without %s, access %q: exit code %d: %s", tt.permission, tt.args, code, errs)
		}
		switch {
		case (tt.want == "") != (out == ""), !strings.Contains(out, tt.want), strings.Contains(out, "Nobody"), strings.Contains(out, "as far as can be seen"), strings.Contains(out, "0 grants"), strings.Contains(out, "0 users"),
			out != "" && !strings.Contains(out, "\nIncomplete: there may be more than is shown here.\n  Not read:"):
			t.Errorf("without %s, access %q: no %q in %s", tt.permission, tt.args, tt.want, out)
		}
		expectNarrow(t, out)
		code, out, _ = a.command(append([]string{"access", "--json"}, tt.args...)...)
		if code != exitError || (out == "") != (tt.want == "") || out != "" && len(decodeJSON[access.Report](t, out).Unread) == 0 {
			t.Errorf("without %s, access --json %q: exit code %d: %s", tt.permission, tt.args, code, out)
		}
		if schema := map[bool]string{true: "access-of.v1.schema.json", false: "access.v1.schema.json"}[tt.args[0] == "--principal"]; out != "" {
			expectValid(t, schema, out)
		}
	}
}

// TestAccessOfNobody: an account without users and roles, as cmkeeper local has it.
func TestAccessOfNobody(t *testing.T) {
	a := newAccount(t)
	a.enter()
	key := a.newKey(appAlias)
	out := a.accessOK(appAlias)
	for _, want := range []string{"0 grants", "0 users and 0\n", "\nREAD  WRITE ADMIN GRANT DELETE OTHER WHO\nyes   yes   yes   yes   yes    yes   root\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	policy := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"` + iamARN + `root"},"Action":["kms:PutKeyPolicy","kms:GetKeyPolicy","kms:ListGrants","kms:ListResourceTags","kms:DescribeKey"],"Resource":"*"}}`
	must(a.kms.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &key, Policy: &policy}))(t)
	if out := a.accessOK(appAlias, "--can", "kms:Decrypt"); !strings.Contains(out, "\nNobody may call kms:Decrypt, as far as can be seen.\n") {
		t.Error(out)
	}
	expectValid(t, "access.v1.schema.json", a.accessOK(appAlias, "--can", "kms:Decrypt", "--json"))
	expectValid(t, "access-of.v1.schema.json", a.accessOK("--principal", iamARN+"root", "--can", "kms:Decrypt", "--json"))
}

// TestAccessOutput: names are somebody else's text, and lists are as long as a screen.
func TestAccessOutput(t *testing.T) {
	const evil = "a\nb\u202ec\x1b[2J"
	way := access.Way{Kind: access.Boundary, Policy: evil, Group: evil, Statement: evil, Conditions: []string{evil}}
	right := access.Right{
		Actions: []string{"kms:Decrypt", "kms:Encrypt"}, Verdict: access.Conditional,
		Ways: slices.Repeat([]access.Way{way}, 9), Account: []access.Way{way}, Boundary: []access.Way{way}, Unless: []access.Way{way},
	}
	holder := access.Holder{Principal: evil, Type: "unknown", Outside: true, Rights: []access.Right{right}, MoreAssumers: 1, Assumers: slices.Repeat([]access.Assumer{{Principal: evil, Through: []string{iamARN + "role/" + evil}}}, 9)}
	sees := holder
	sees.Rights = []access.Right{{Actions: []string{"kms:DescribeKey"}, Verdict: access.Yes}}
	report := access.Report{
		Key: evil, Aliases: []string{evil}, NotSeen: access.NotSeen(), Unread: slices.Repeat([]string{evil}, 9),
		Holders:  append(slices.Repeat([]access.Holder{holder}, maxAccessRows+3), slices.Repeat([]access.Holder{sees}, 9)...),
		Findings: slices.Repeat([]finding.Finding{{ID: finding.SelfGrant, Severity: finding.High, Message: evil}}, maxAccessFindings+1),
	}
	var key, principal bytes.Buffer
	c := accessCommand{why: true}
	if err := c.print(&key, report, access.Key{}, access.Account{}); err != nil {
		t.Fatal(err)
	}
	of := access.PrincipalReport{Principal: evil, Keys: slices.Repeat([]access.KeyRights{{Key: evil, Aliases: []string{evil}, Rights: holder.Rights}}, maxAccessRows+3)}
	if err := c.printPrincipal(&principal, of, nil); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{key.String(), principal.String()} {
		if strings.ContainsAny(out, "\u202e\x1b") || strings.Contains(out, "a\nb") || !strings.Contains(out, `a\nb\u202ec\x1b[2J`) {
			t.Errorf("not escaped: %.500q", out)
		}
		expectNarrow(t, out)
		if !strings.Contains(out, "\nand 3 more; --json has all\n") || !strings.Contains(out, "        by any of 4 more; --json has all\n") {
			t.Errorf("the lists have no end: %.500s", out)
		}
	}
	for _, want := range []string{"  and 1 more; --json has all\n", "  and 4 more; --json has all\n", "5 more;\n"} {
		if !strings.Contains(key.String(), want) {
			t.Errorf("no %q in %.500s", want, key.String())
		}
	}
	if n := strings.Count(key.String(), "To do: "); n != 1 {
		t.Errorf("what to do is said %d times", n)
	}
}

// TestWorse: who is not of the account comes first, then who may do graver things, and what
// nobody can do with a key is not shown.
func TestWorse(t *testing.T) {
	row := func(name string, verdict access.Verdict, actions ...string) accessRow {
		return accessRow{name: name, holder: access.Holder{Rights: []access.Right{{Actions: actions, Verdict: verdict}}}}
	}
	outside := row("another account", access.Conditional, "kms:Encrypt")
	outside.holder.Outside = true
	service := row("a service", access.Yes, "kms:Encrypt")
	service.holder.Outside, service.holder.Type = true, "service"
	want := []accessRow{outside, row("admin", access.Yes, "kms:PutKeyPolicy"), row("admin, if", access.Conditional, "kms:PutKeyPolicy"), row("reader", access.Yes, "kms:Decrypt"), row("writer", access.Yes, "kms:GenerateDataKey"), service, row("tags", access.Yes, "kms:TagResource")}
	got := slices.Clone(want)
	slices.Reverse(got)
	got[1], got[2] = got[2], got[1] // equals keep their order
	slices.SortStableFunc(got, worse)
	for i := range want {
		if got[i].name != want[i].name {
			t.Errorf("at %d comes %s, want %s", i, got[i].name, want[i].name)
		}
	}
	signer := row("signer", access.Yes, "kms:Decrypt", "kms:Encrypt", "kms:Sign")
	for usage, want := range map[string]string{"ENCRYPT_DECRYPT": "yes yes -", "SIGN_VERIFY": "- - yes", "GENERATE_VERIFY_MAC": "- - yes", "KEY_AGREEMENT": "yes - -", "NEW": "yes yes yes"} {
		signer.usage = usage
		if got := strings.Join(signer.cells()[:3], " "); got != want {
			t.Errorf("%s: %s, want %s", usage, got, want)
		}
	}
}

// TestAccessSchemas wants every member that a report can have in the schemas, and the verdicts,
// kinds and types.
func TestAccessSchemas(t *testing.T) {
	for file, v := range map[string]any{"access.v1.schema.json": &access.Report{}, "access-of.v1.schema.json": &access.PrincipalReport{}} {
		fillValue(reflect.ValueOf(v).Elem())
		var document map[string]any
		if err := json.Unmarshal(must(json.Marshal(v))(t), &document); err != nil {
			t.Fatal(err)
		}
		expectMembers(t, file, document, schemaOf(t, file))
	}
	for _, kind := range []access.Kind{access.KeyPolicy, access.Delegation, access.IdentityPolicy, access.Boundary, access.Grant} {
		for _, verdict := range []access.Verdict{access.Yes, access.Conditional} {
			rights := []access.Right{{Actions: []string{"kms:Decrypt"}, Verdict: verdict, Ways: []access.Way{{Kind: kind}}}}
			r := access.Report{
				Schema: access.ReportSchema, Key: "arn:x", NotSeen: access.NotSeen(), Findings: []finding.Finding{},
				Holders: []access.Holder{{Principal: "*", Type: "everyone", Rights: rights, Assumers: []access.Assumer{{Principal: "*", Type: "everyone", Verdict: verdict}}}},
			}
			expectValid(t, "access.v1.schema.json", string(must(json.Marshal(r))(t)))
			of := access.PrincipalReport{Schema: access.PrincipalSchema, Principal: "arn:x", NotSeen: access.NotSeen(), Keys: []access.KeyRights{{Key: "arn:x", Rights: rights}}}
			expectValid(t, "access-of.v1.schema.json", string(must(json.Marshal(of))(t)))
		}
	}
	for file, document := range map[string]string{
		"access.v1.schema.json":    `{"schema":"cmkeeper.access.v1","key":"arn:x","at":"2026-03-01T10:00:00Z","findings":[],"not_seen":[]}`,
		"access-of.v1.schema.json": `{"schema":"cmkeeper.access-of.v1","principal":"arn:x","at":"2026-03-01T10:00:00Z","keys":null,"not_seen":[]}`,
	} {
		if schemaOf(t, file).Validate(must(jsonschema.UnmarshalJSON(strings.NewReader(document)))(t)) == nil {
			t.Errorf("%s takes %s", file, document)
		}
	}
}

// TestAccessDocument keeps the transcripts of cmkeeper access in docs/keys-and-report.md true,
// which somebody with the page's policy makes. With UPDATE_DOCS=1 it writes them.
func TestAccessDocument(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "keys-and-report.md")
	a := newAccount(t)
	a.enter()
	a.staff()
	page := string(must(os.ReadFile(path))(t))
	var mu sync.Mutex
	refused := map[string]bool{}
	policy := must(iam.ParseIdentity([]byte(shownPolicy.FindStringSubmatch(page)[1])))(t)
	a.box.AWS.SetIdentityPolicy(administrator, func(action, resource string) bool {
		allowed := policy.Evaluate(iam.Request{Action: action, Resource: resource}) == iam.Allow
		if !allowed {
			mu.Lock()
			defer mu.Unlock()
			refused[action+" on "+resource] = true
		}
		return allowed
	})
	n := 0
	want := shownAccess.ReplaceAllStringFunc(page, func(block string) string {
		n++
		line := shownAccess.FindStringSubmatch(block)[1]
		text := a.accessOK(strings.Fields(line)[1:]...)
		expectNarrow(t, text)
		text = shownKey.ReplaceAllString(text, "0a1b2c3d-0000-4000-8000-000000000001")
		text = shownLong.ReplaceAllString(text, fmt.Sprintf("0a1b2c3d%056d", 2))
		text = strings.ReplaceAll(text, time.Now().UTC().Format(time.DateOnly), "2026-03-02")
		return "```console\n$ cmkeeper " + line + "\n" + text + "```"
	})
	for _, what := range slices.Sorted(maps.Keys(refused)) {
		t.Errorf("the page's policy does not allow %s", what)
	}
	if n < 3 {
		t.Errorf("the page has %d transcripts", n)
	}
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		page = want
	}
	if diff := cmp.Diff(want, page); diff != "" {
		t.Errorf("%s shows other transcripts; UPDATE_DOCS=1 go test ./internal/cli -run AccessDocument writes them:\n%s", path, diff)
	}
}

var shownAccess = regexp.MustCompile("(?s)```console\n\\$ cmkeeper (access [^\n]*)\n.*?```")
