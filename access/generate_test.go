package access_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cmkeeper/cmkeeper/access"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// request is what is said of a request beside its caller, action and key: condition keys with
// their values, and the name of a role's session.
type request struct {
	session string
	values  map[string][]string
}

// trial is an account with a key, as localaws has it and as the review is given the key, with
// the requests that are tried for each user, role and the root.
type trial struct {
	iam        *iam.Account
	principals []string // ARNs, of roles not of their sessions
	key        access.Key
	requests   []request
}

// actions are tried in each trial.
var actions = []string{"kms:Decrypt", "kms:Encrypt", "kms:DescribeKey", "kms:CreateGrant", "kms:PutKeyPolicy", "kms:TagResource"}

// generator makes an account of random parts.
type generator struct {
	*rand.Rand
	users, roles []string // names
}

func arnOf(kind, name string) string {
	if name == "role-1" {
		name = "team/" + name
	}
	return iamARN + kind + "/" + name
}

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

// someone is the ARN of a user, a role or a session.
func (g *generator) someone() string {
	switch g.IntN(3) {
	case 0:
		return arnOf("user", pick(g, g.users...))
	case 1:
		return arnOf("role", pick(g, g.roles...))
	}
	return "arn:aws:sts::" + account + ":assumed-role/" + pick(g, g.roles...) + "/ci"
}

type object = map[string]any

// condition puts a condition into a statement's.
func (g *generator) condition(into map[string]object) {
	put := func(operator, key string, values ...string) {
		for given := range into[operator] {
			if strings.EqualFold(given, key) { // once only, in any case
				return
			}
		}
		if into[operator] == nil {
			into[operator] = object{}
		}
		into[operator][key] = values
	}
	ifExists := pick(g, "", "", "IfExists")
	not := pick(g, "", "", "Not")
	switch g.IntN(15) {
	case 0:
		put(pick(g, "IpAddress", "NotIpAddress")+ifExists, "aws:SourceIp", pick(g, "10.0.0.0/8", "203.0.113.9", "203.0.113.0/24"))
	case 1:
		put("String"+not+"Equals"+ifExists, "kms:ViaService", "s3.eu-central-1.amazonaws.com")
	case 2:
		put("String"+not+"Like"+ifExists, "kms:ViaService", pick(g, "s3.*", "rds.*", "*.eu-central-?.amazonaws.com"))
	case 3:
		put("String"+not+"Equals"+ifExists, "kms:EncryptionContext:app", pick(g, "pay", "shop", "${aws:PrincipalTag/team}"), pick(g, "pay", "none"))
	case 4:
		put("Bool"+ifExists, "aws:MultiFactorAuthPresent", pick(g, "true", "false"))
	case 5:
		put("String"+not+"Equals"+ifExists, pick(g, "aws:PrincipalTag/team", "AWS:principaltag/Team"), pick(g, "red", "blue"))
	case 6:
		put("String"+not+"Equals"+ifExists, "aws:ResourceTag/team", pick(g, "red", "blue", "${aws:PrincipalTag/team}", "${aws:PrincipalTag/team, 'red'}"))
	case 7:
		put(pick(g, "ArnEquals", "ArnLike", "ArnNotLike", "StringLike"), "aws:PrincipalArn", pick(g, arnOf("user", pick(g, g.users...)), arnOf("role", pick(g, g.roles...)), "arn:aws:iam::*:role/*", "arn:aws:iam::*:user/user-?"))
	case 8:
		put(pick(g, "DateLessThan", "DateGreaterThan", "DateGreaterThanEquals")+ifExists, "aws:CurrentTime", pick(g, "2026-01-01T00:00:00Z", "2027-06-01T00:00:00Z"))
	case 9:
		put("Bool"+ifExists, "kms:GrantIsForAWSResource", pick(g, "true", "false"))
	case 10:
		put(pick(g, "ForAnyValue:StringLike", "ForAllValues:StringLike", "ForAnyValue:StringEquals"), "aws:TagKeys", pick(g, "team", "t*", "cost"))
	case 11:
		put("Null", pick(g, "aws:SourceIp", "kms:ViaService", "aws:MultiFactorAuthPresent", "kms:EncryptionContext:app", "aws:PrincipalTag/team", "aws:username"), pick(g, "true", "false"))
	case 12:
		put("String"+not+"Like", "aws:username", pick(g, "user-1", "user-*", "${aws:PrincipalTag/team}"))
	case 13:
		put("StringEquals", pick(g, "kms:CallerAccount", "aws:PrincipalAccount", "aws:ResourceAccount"), pick(g, account, "444455556666"))
	case 14:
		put("String"+not+"Equals", pick(g, "aws:PrincipalType", "aws:PrincipalType", "aws:userid"), pick(g, "User", "AssumedRole", "Account", account))
	}
}

// statement is one with what identity policies and key policies both have.
func (g *generator) statement(denies int) object {
	s := object{"Effect": "Allow"}
	if g.chance(denies) {
		s["Effect"] = "Deny"
	}
	action := pick(g, "kms:*", "*", "kms:Decrypt", "kms:?ecrypt", "kms:De*", "kms:*crypt", "kms:Encrypt", "kms:CreateGrant", "kms:Put*", "kms:TagResource", "s3:*", "sts:*")
	if g.chance(15) {
		s["NotAction"] = []string{action, "s3:*"}
	} else {
		s["Action"] = []string{action, pick(g, "kms:Decrypt", "kms:DescribeKey", "sts:AssumeRole")}
	}
	s["Resource"] = "*"
	if g.chance(30) {
		conditions := map[string]object{}
		for range 1 + g.IntN(2) {
			g.condition(conditions)
		}
		s["Condition"] = conditions
	}
	return s
}

func document(version string, statements []object) string {
	text, err := json.Marshal(object{"Version": version, "Statement": statements})
	if err != nil {
		panic(err) // maps of texts
	}
	return string(text)
}

func (g *generator) version() string {
	if g.chance(5) {
		return "2008-10-17"
	}
	return "2012-10-17"
}

// identity is an identity policy.
func (g *generator) identity() string {
	var statements []object
	for range 1 + g.IntN(3) {
		s := g.statement(20)
		resource := pick(g, "*", "*", keyARN, "arn:aws:kms:*:"+account+":key/*", "arn:aws:kms:*:*:key/1234*", "arn:aws:kms:*:*:key/9*",
			"arn:aws:kms:*:*:key/${aws:PrincipalTag/key}*", iamARN+"role/*", arnOf("role", pick(g, g.roles...)))
		if delete(s, "Resource"); g.chance(15) {
			s["NotResource"] = resource
		} else {
			s["Resource"] = []string{resource}
		}
		statements = append(statements, s)
	}
	return document(g.version(), statements)
}

// keyPolicy is the policy of the key.
func (g *generator) keyPolicy() string {
	var statements []object
	if g.chance(75) {
		statements = append(statements, object{"Effect": "Allow", "Principal": object{"AWS": iamARN + "root"}, "Action": "kms:*", "Resource": "*"})
	}
	for range g.IntN(4) + 1 {
		s := g.statement(20)
		switch n := g.IntN(10); {
		case n < 5:
			s["Principal"] = object{"AWS": []string{g.someone(), g.someone()}}
		case n < 7:
			s["Principal"] = object{"AWS": account}
		case n < 8:
			s["Principal"] = "*"
		case n < 9:
			s["Principal"] = object{"AWS": "444455556666", "Service": "s3.amazonaws.com"}
		default:
			s["Effect"], s["NotPrincipal"] = "Deny", object{"AWS": []string{iamARN + "root", g.someone(), g.someone()}}
		}
		statements = append(statements, s)
	}
	return document(g.version(), statements)
}

// trust is the trust policy of a role.
func (g *generator) trust() string {
	var statements []object
	for range 1 + g.IntN(2) {
		s := g.statement(20)
		s["Action"] = "sts:AssumeRole"
		delete(s, "NotAction")
		delete(s, "Resource")
		s["Principal"] = pick[any](g, "*", object{"AWS": account}, object{"AWS": account}, object{"AWS": g.someone()}, object{"AWS": []string{g.someone(), g.someone()}}, object{"Service": "ec2.amazonaws.com"})
		statements = append(statements, s)
	}
	return document("2012-10-17", statements)
}

// grants are some on the key.
func (g *generator) grants() (list []inventory.Grant) {
	for i := range g.IntN(3) {
		grant := inventory.Grant{ID: fmt.Sprint("grant-", i), Grantee: g.someone(), Operations: []string{pick(g, "Encrypt", "CreateGrant"), pick(g, "Decrypt", "DescribeKey")}}
		if g.chance(50) {
			grant.Constrained, grant.Context, grant.Exact = true, map[string]string{"app": pick(g, "pay", "shop")}, g.chance(50)
		}
		list = append(list, grant)
	}
	return list
}

// fill fills IAM and returns the ARNs of its principals.
func (g *generator) fill(t *testing.T, in *iam.Account) []string {
	t.Helper()
	set := func(arn string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return arn
	}
	var managed, groups []string
	for i := range 3 {
		versions := []string{g.identity(), g.identity()}
		managed = append(managed, set(in.SetPolicy(iam.ManagedPolicy{Name: fmt.Sprint("policy-", i), AWS: i == 0, Versions: versions, Default: 1 + g.IntN(2)})))
	}
	boundary := func() string {
		if !g.chance(35) {
			return ""
		}
		if g.chance(50) {
			return pick(g, managed...)
		}
		text := document("2012-10-17", []object{{"Effect": "Allow", "Action": pick(g, "kms:*", "*", "kms:*crypt", "s3:*"), "Resource": "*"}, g.statement(50)})
		return set(in.SetPolicy(iam.ManagedPolicy{Name: fmt.Sprint("boundary-", g.Uint32()), Versions: []string{text}}))
	}
	inline := func(percent int) map[string]string {
		if !g.chance(percent) {
			return nil
		}
		return map[string]string{"own": g.identity(), "more": g.identity()}
	}
	attached := func() []string {
		if !g.chance(40) {
			return nil
		}
		return []string{pick(g, managed...)}
	}
	tags := func() map[string]string {
		m := map[string]string{}
		if g.chance(70) {
			m["team"] = pick(g, "red", "blue", "pay")
		}
		if g.chance(30) {
			m["key"] = pick(g, "1234", "9")
		}
		return m
	}
	for i := range g.IntN(4) {
		name := fmt.Sprint("group-", i)
		set(in.SetGroup(iam.Group{Name: name, Inline: inline(60), Attached: attached()}))
		groups = append(groups, name)
	}
	var arns []string
	for _, name := range g.users {
		u := iam.User{Name: name, Inline: inline(60), Attached: attached(), Boundary: boundary(), Tags: tags()}
		if len(groups) > 0 && g.chance(50) {
			u.Groups = []string{pick(g, groups...)}
		}
		arns = append(arns, set(in.SetUser(u)))
	}
	for _, name := range g.roles {
		path := strings.TrimPrefix(strings.TrimSuffix(arnOf("role", name), name), iamARN+"role")
		arns = append(arns, set(in.SetRole(iam.Role{
			Name: name, Path: path, Inline: inline(60), Attached: attached(), Boundary: boundary(), Tags: tags(),
			Trust: g.trust(),
		})))
	}
	return append(arns, iamARN+"root")
}

// requests are all combinations of the values that the conditions are about, or others.
func requests() (all []request) {
	all = []request{{"ci", map[string][]string{}}}
	vary := func(key string, values ...[]string) {
		var more []request
		for _, r := range all {
			for _, v := range values {
				one := maps.Clone(r.values)
				if v != nil {
					one[key] = v
				}
				more = append(more, request{r.session, one})
			}
		}
		all = more
	}
	vary("aws:SourceIp", nil, []string{"10.1.2.3"}, []string{"203.0.113.9"})
	vary("kms:ViaService", nil, []string{"s3.eu-central-1.amazonaws.com"})
	vary("kms:EncryptionContext:app", nil, []string{"pay"}, []string{"shop"})
	vary("aws:MultiFactorAuthPresent", nil, []string{"true"}, []string{"false"})
	vary("aws:CurrentTime", []string{now.Format(time.RFC3339)}, []string{now.AddDate(2, 0, 0).Format(time.RFC3339)})
	vary("aws:TagKeys", []string{"team"}, []string{"cost", "x"})
	vary("kms:GrantIsForAWSResource", []string{"true"}, []string{"false"})
	for _, r := range slices.Clone(all) {
		all = append(all, request{"other", r.values})
	}
	return all
}

// generate makes the trial of a seed, with some of all requests.
func generate(t *testing.T, server *localaws.Server, seed uint64, all []request, some int) trial {
	t.Helper()
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0))}
	for i := range 3 + g.IntN(6) {
		g.users = append(g.users, fmt.Sprint("user-", i))
	}
	for i := range 3 + g.IntN(6) {
		g.roles = append(g.roles, fmt.Sprint("role-", i))
	}
	principals := g.fill(t, server.IAM())
	key := keyWith(g.keyPolicy(), g.grants()...)
	key.Tags = map[string]string{"team": pick(g, "red", "blue")}
	tried := trial{iam: server.IAM(), principals: principals, key: key}
	for _, i := range g.Perm(len(all))[:min(some, len(all))] {
		tried.requests = append(tried.requests, all[i])
	}
	return tried
}
