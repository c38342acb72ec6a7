package keypolicy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
)

// The differential test judges random policies, and plays calls against the evaluator
// of localaws, which shares no code with the judgement: whoever gets in is in the
// findings, and a policy that is called public lets a stranger in.

const (
	stranger   = "888877776666" // whom no policy names
	ourOrg     = "o-ours123456"
	theirOrg   = "o-theirs12345"
	snsService = "sns.amazonaws.com"
)

var differential = Context{
	Account: own, TrustedAccounts: []string{partner}, TrustedOrgs: []string{ourOrg}, KeyARN: thisKey,
	Now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
}

// form is what the values of a key are, which decides the operators that suit it.
type form int

const (
	text form = iota
	account
	arnForm
	truthForm
	addressForm
	number
	dateForm
)

var suiting = map[form][]string{
	text:        {"StringEquals", "StringNotEquals", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase", "StringLike", "StringNotLike"},
	account:     {"StringEquals", "StringNotEquals", "StringEqualsIgnoreCase", "StringLike", "StringNotLike", "NumericEquals", "NumericNotEquals"},
	arnForm:     {"ArnEquals", "ArnNotEquals", "ArnLike", "ArnNotLike", "StringEquals", "StringNotEquals", "StringLike", "StringNotLike"},
	truthForm:   {"Bool", "StringEquals", "StringNotEquals"},
	addressForm: {"IpAddress", "NotIpAddress"},
	number:      {"NumericEquals", "NumericNotEquals", "NumericLessThan", "NumericLessThanEquals", "NumericGreaterThan", "NumericGreaterThanEquals"},
	dateForm:    {"DateLessThan", "DateLessThanEquals", "DateGreaterThan", "DateGreaterThanEquals"},
}

var everyOperator = func() []string {
	all := []string{"Null", "BinaryEquals", "DateEquals", "DateNotEquals"}
	for _, names := range suiting {
		for _, name := range names {
			if !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	slices.Sort(all)
	return all
}()

var modifiers = []string{"", "IfExists", "ForAnyValue:", "ForAllValues:", "ForAllValues:IfExists"}

// played is how a condition key is played.
type played struct {
	form
	values  []string // what policies ask for
	several bool     // a call may have more than one
	// who decides which of the values a caller can have.
	who func(c caller, value string, policy string) bool
	// given: the key follows from who calls; always: no call can do without it.
	given, always bool
	// identity: it is about who calls, so that two of them can exclude each other.
	identity bool
}

// anybody can have every value.
func anybody(caller, string, string) bool { return true }

// owner has what a policy names exactly, or a unit of it; others have something else.
func owner(c caller, value, policy string) bool {
	id, _, _ := strings.Cut(value, "/")
	of, _, _ := strings.Cut(policy, "/")
	return c.insider || id != of
}

// ofAccount can have what belongs to the caller's account.
func ofAccount(c caller, value, _ string) bool {
	return arnAccount(value) == c.account || value == c.account
}

// session has credentials of a resource of the caller's account.
func session(c caller, value, policy string) bool {
	return c.request.Service == "" && ofAccount(c, value, policy)
}

// served is what a service says of those for whom it acts.
func served(c caller, value, policy string) bool {
	if c.request.Service == "" {
		return false
	}
	if strings.HasPrefix(value, "arn:aws:s3:::") {
		return c.account == own || c.insider || value != policy
	}
	return ofAccount(c, value, policy) && !strings.HasPrefix(value, "arn:aws-cn:")
}

var (
	accounts = []string{own, partner, foreign, "2222*", "*", "22223333444?"}
	roleARNs = []string{
		"arn:aws:iam::" + own + ":role/x", "arn:aws:iam::" + foreign + ":role/x", "arn:aws:iam::*:role/x", "arn:aws:iam::" + foreign + ":*",
		"arn:*:iam::" + own + ":role/x", "arn:aws:iam::" + foreign + ":user/*", "arn:aws:iam::" + foreign + ":root", "arn:aws:iam::*:root", "arn:aws:sts::" + foreign + ":assumed-role/x/s",
		"arn:aws:iam::" + own + ":Role/x", "arn:aws:iam::*:Role/x", "arn:aws-cn:iam::" + foreign + ":role/x", "arn:aws:iam:us-east-1:" + foreign + ":role/x", "arn:aws:sts::*:federated-user/*", "arn:aws:iam::22*:role/x", "arn:aws:iam::${aws:PrincipalAccount}:role/x",
	}
	sourceARNs = []string{
		"arn:aws:sns:us-east-1:" + own + ":t", "arn:aws:sns:us-east-1:" + foreign + ":t", "arn:aws:sns:*:*:t", "arn:aws:sns:*:" + foreign + ":*",
		"arn:aws:s3:::photos", "arn:aws-cn:sns:us-east-1:" + foreign + ":t",
	}
	organizations = []string{ourOrg, theirOrg, "o-*", "o-other12345"}
	orgPaths      = []string{ourOrg + "/r-1/ou-1/", theirOrg + "/r-1/ou-1/", ourOrg + "/*", theirOrg + "/*", "o-*"}
	words         = []string{"red", "green", "re*", "*", "gr?en"}
	truths        = []string{"true", "false"}
	numbers       = []string{"7", "30", "90"}
	vpcs          = []string{"vpc-1", "vpc-2", "vpc-*"}
)

// playedKeys has every key of the table.
var playedKeys = func() map[string]played {
	m := map[string]played{}
	add := func(p played, names ...string) {
		for _, name := range names {
			m[strings.ToLower(name)] = p
		}
	}
	add(played{form: account, values: accounts, given: true, identity: true}, "kms:CallerAccount", "aws:PrincipalAccount")
	add(played{form: arnForm, values: roleARNs, given: true, identity: true}, "aws:PrincipalArn")
	add(played{values: []string{"Account", "User", "AssumedRole", "FederatedUser", "user", "*User"}, given: true, identity: true}, "aws:PrincipalType")
	add(played{values: []string{own, foreign, "AROAX:*", "AROAX:s", "*:s"}, given: true, identity: true}, "aws:userid")
	add(played{form: account, values: accounts, who: served, identity: true}, "aws:SourceAccount", "aws:SourceOwner")
	add(played{form: arnForm, values: sourceARNs, who: served, identity: true}, "aws:SourceArn")
	add(played{form: arnForm, values: sourceARNs[:4], who: session, identity: true}, "lambda:SourceFunctionArn", "ec2:SourceInstanceArn", "ssm:SourceInstanceArn",
		"codebuild:BuildArn", "codebuild:ProjectArn", "aws:ChatbotSourceArn")
	add(played{values: words, who: anybody}, "kms:EncryptionContext:app", "aws:PrincipalTag/team", "aws:ResourceTag/team", "aws:username", "aws:FederatedProvider",
		"aws:SourceIdentity", "aws:Referer", "aws:UserAgent", "aws:RequestedRegion", "kms:CustomerMasterKeySpec",
		"kms:CustomerMasterKeyUsage", "kms:KeyOrigin", "kms:KeySpec", "kms:KeyUsage", "kms:MultiRegionKeyType", "kms:RequestAlias", "aws:RequestTag/team",
		"kms:EncryptionAlgorithm", "kms:DataKeyPairSpec", "kms:KeyAgreementAlgorithm", "kms:SigningAlgorithm", "kms:MessageType", "kms:MacAlgorithm",
		"kms:RecipientAttestation:PCR0", "kms:RetiringServicePrincipal", "kms:ExpirationModel", "kms:WrappingAlgorithm", "kms:WrappingKeySpec",
		"kms:PrimaryRegion", "kms:ReplicaRegion", "kms:GrantConstraintType", "kms:GranteeServicePrincipal", "kms:ViaService", "aws:CalledViaFirst", "aws:CalledViaLast",
		"glue:RoleAssumedBy", "glue:CredentialIssuingService")
	add(played{values: words, who: anybody, several: true}, "kms:EncryptionContextKeys", "aws:TagKeys", "kms:ResourceAliases", "aws:CalledVia")
	add(played{values: words, who: anybody, several: true, always: true}, "kms:GrantOperations")
	add(played{form: arnForm, values: roleARNs[:4], who: anybody}, "kms:GranteePrincipal", "kms:RetiringPrincipal", "kms:GrantConstraintSourceArn")
	add(played{form: truthForm, values: truths, who: anybody}, "aws:ViaAWSService", "aws:AssumedRoot", "aws:IsMcpServiceAction", "aws:MultiFactorAuthPresent",
		"kms:MultiRegion", "kms:BypassPolicyLockoutSafetyCheck", "kms:ReEncryptOnSameKey")
	add(played{form: truthForm, values: truths, who: anybody, always: true}, "kms:GrantIsForAWSResource")
	add(played{form: number, values: numbers, who: anybody}, "aws:MultiFactorAuthAge", "kms:RotationPeriodInDays", "ec2:RoleDelivery")
	add(played{form: number, values: numbers, who: anybody, always: true}, "kms:ScheduleKeyDeletionPendingWindowInDays", "kms:TrailingDaysWithoutKeyUsage")
	add(played{form: dateForm, values: []string{"2025-01-01T00:00:00Z", "2027-01-01"}, who: anybody}, "aws:TokenIssueTime", "kms:ValidTo")
	add(played{form: dateForm, values: []string{"2025-01-01T00:00:00Z", "2025-06-01"}, given: true}, "aws:CurrentTime")
	add(played{form: number, values: []string{"1735689600"}, given: true}, "aws:EpochTime")
	add(played{form: addressForm, values: []string{"10.0.0.0/8", "192.0.2.1"}, who: anybody}, "aws:VpcSourceIp", "aws:Ec2InstanceSourcePrivateIPv4")
	add(played{form: addressForm, values: []string{"203.0.113.0/24", "0.0.0.0/0", "198.51.100.7", "0.0.0.0/1"}, who: func(c caller, value, policy string) bool {
		return c.insider || policy == "0.0.0.0/0" || policy == "0.0.0.0/1" || !inRange(value, policy)
	}}, "aws:SourceIp")
	add(played{values: vpcs, who: owner}, "aws:SourceVpc", "aws:SourceVpce")
	add(played{values: vpcs, who: owner, identity: true}, "aws:Ec2InstanceSourceVpc", "identitystore:UserId")
	add(played{form: account, values: accounts, identity: true, who: func(c caller, value, policy string) bool { return c.insider || ofAccount(c, value, policy) }}, "aws:VpceAccount")
	add(played{form: arnForm, values: []string{"arn:aws:ec2:us-east-1:" + own + ":vpc/vpc-1", "arn:aws:ec2:us-east-1:" + foreign + ":vpc/*", "arn:aws:ec2:*:*:vpc/vpc-1"}, identity: true, who: func(c caller, value, policy string) bool {
		return c.insider || ofAccount(c, value, policy)
	}}, "aws:SourceVpcArn")
	add(played{values: organizations, who: owner}, "aws:VpceOrgID")
	add(played{values: organizations, given: true, identity: true}, "aws:PrincipalOrgID", "aws:SourceOrgID")
	add(played{values: orgPaths, given: true, identity: true, several: true}, "aws:PrincipalOrgPaths", "aws:SourceOrgPaths")
	add(played{values: orgPaths[1:], who: owner, several: true}, "aws:VpceOrgPaths")
	add(played{form: account, values: []string{own, foreign, "4444*", "${aws:PrincipalAccount}"}, given: true}, "aws:ResourceAccount")
	add(played{values: append([]string{"${aws:PrincipalOrgID}"}, organizations...), given: true}, "aws:ResourceOrgID")
	add(played{values: orgPaths, given: true, several: true}, "aws:ResourceOrgPaths")
	add(played{form: truthForm, values: truths, given: true, identity: true}, "aws:PrincipalIsAWSService")
	add(played{values: []string{snsService, "s3.amazonaws.com"}, given: true, identity: true}, "aws:PrincipalServiceName")
	add(played{values: []string{snsService, "s3.amazonaws.com"}, given: true, identity: true, several: true}, "aws:PrincipalServiceNamesList")
	add(played{form: truthForm, values: truths, given: true}, "aws:SecureTransport")
	add(played{values: words, given: true}, "s3:prefix", "sts:ExternalId") // no call has them
	return m
}()

func inRange(value, network string) bool {
	head, length, _ := strings.Cut(network, "/")
	bits, err := strconv.Atoi(length)
	if err != nil {
		return value == network
	}
	return !strings.Contains(value, ":") && (bits == 0 || value[:bits/8] == head[:bits/8])
}

var playedNames = slices.Sorted(maps.Keys(playedKeys))

// TestEveryKeyIsPlayed: the differential test has every key of the table.
func TestEveryKeyIsPlayed(t *testing.T) {
	for name, facts := range conditionKeys() {
		has := func(p string) bool {
			return p == name || (strings.HasSuffix(name, ":") || strings.HasSuffix(name, "/")) && strings.HasPrefix(p, name)
		}
		if facts.kind != unseen && !slices.ContainsFunc(playedNames, has) {
			t.Errorf("nothing plays %s", name)
		}
	}
	for _, name := range playedNames {
		if f := factsOf(conditionKey(name)); f.kind == chosen && f.carried == everyAction && conditionKeys()[name] == (keyFacts{}) && !strings.ContainsAny(name, "/") {
			t.Errorf("%s is in no table", name)
		}
	}
}

// caller is somebody who calls.
type caller struct {
	request iam.Request
	account string // or that for which a service acts
	insider bool   // has what only its owner has
	org     string
}

func (c caller) trusted() bool { return differential.trusts(c.account) || c.org == ourOrg }

// given returns the keys that follow from who calls.
func (c caller) given() map[string][]string {
	m := map[string][]string{
		"aws:securetransport": {"true"}, "aws:currenttime": {differential.Now.Format(time.RFC3339)}, "aws:epochtime": {strconv.FormatInt(differential.Now.Unix(), 10)},
		"aws:resourceaccount": {own}, "aws:resourceorgid": {ourOrg}, "aws:resourceorgpaths": {ourOrg + "/r-1/ou-1/"},
		"aws:principalisawsservice": {strconv.FormatBool(c.request.Service != "")},
	}
	if c.request.Service != "" {
		m["aws:principalservicename"] = []string{c.request.Service}
		m["aws:principalservicenameslist"] = []string{c.request.Service, "us-east-1." + c.request.Service}
		if c.org != "" {
			m["aws:sourceorgid"], m["aws:sourceorgpaths"] = []string{c.org}, []string{c.org + "/r-1/ou-1/"}
		}
		return m
	}
	m["kms:calleraccount"], m["aws:principalaccount"] = []string{c.account}, []string{c.account}
	m["aws:principalarn"] = []string{c.request.Principal}
	if c.org != "" {
		m["aws:principalorgid"], m["aws:principalorgpaths"] = []string{c.org}, []string{c.org + "/r-1/ou-1/"}
	}
	switch name := c.request.Principal; {
	case c.request.RoleARN != "":
		m["aws:principalarn"] = []string{c.request.RoleARN}
		m["aws:principaltype"], m["aws:userid"] = []string{"AssumedRole"}, []string{"AROA" + c.account + ":s"}
		if c.insider {
			m["aws:userid"] = []string{"AROAX:s"}
		}
	case strings.HasSuffix(name, ":root"):
		m["aws:principaltype"], m["aws:userid"] = []string{"Account"}, []string{c.account}
	case strings.Contains(name, ":user/"):
		m["aws:principaltype"], m["aws:userid"] = []string{"User"}, []string{"AIDA" + c.account}
	default:
		m["aws:principaltype"], m["aws:userid"] = []string{"FederatedUser"}, []string{c.account + ":f"}
	}
	return m
}

// principal makes a caller of an ARN; a role's is a session of it.
func principal(arn string) caller {
	c := caller{account: arnAccount(arn)}
	c.request = iam.Request{Principal: arn, Account: c.account}
	if before, name, ok := strings.Cut(arn, ":role/"); ok {
		c.request.RoleARN = arn
		c.request.Principal = strings.Replace(before, ":iam:", ":sts:", 1) + ":assumed-role/" + name[strings.LastIndexByte(name, '/')+1:] + "/s"
	}
	c.org = map[string]string{own: ourOrg, foreign: ""}[c.account]
	return c
}

// callers are those who may be let in or kept out by the policy: the kinds of
// principals, those that it names, and their neighbours.
func callers(p *Policy) (list []caller) {
	arns := []string{}
	for _, account := range []string{stranger, foreign, own} {
		arns = append(arns, "arn:aws:iam::"+account+":role/x", "arn:aws:iam::"+account+":user/u", "arn:aws:iam::"+account+":root", "arn:aws:sts::"+account+":federated-user/f")
	}
	for _, s := range p.Statements {
		for _, c := range s.Conditions {
			if conditionKey(c.Key) == "aws:principalarn" {
				for _, v := range c.Values {
					// As a text, a star reaches into a path.
					arns = append(arns, concreteARN(v), strings.ReplaceAll(strings.Replace(v, "::*:", "::"+stranger+":role/p:", 1), "*", "v"))
				}
			}
			if playedKeys[conditionKey(c.Key)].form == account {
				for _, v := range c.Values {
					if v := concreteAccount(v); isAccountID(v) && v != own && v != partner && v != foreign {
						arns = append(arns, "arn:aws:iam::"+v+":role/x")
						list = append(list, caller{request: iam.Request{Service: snsService}, account: v})
					}
				}
			}
		}
	}
	slices.Sort(arns)
	for _, arn := range slices.Compact(arns) {
		if isPrincipal(arn) {
			list = append(list, principal(arn))
		}
	}
	list = append(list, caller{request: iam.Request{Service: "s3.amazonaws.com"}, account: stranger})
	for _, account := range []string{stranger, foreign, own} {
		list = append(list, caller{request: iam.Request{Service: snsService}, account: account, org: map[string]string{own: ourOrg}[account]})
	}
	elsewhere := principal("arn:aws:iam::" + stranger + ":role/x")
	elsewhere.org = "o-strange12345"
	list = append(list, caller{request: iam.Request{Service: snsService}, account: stranger, org: elsewhere.org})
	for _, org := range []string{theirOrg, "o-other12345"} {
		for _, name := range []string{"iam::" + stranger + ":role/x", "iam::" + stranger + ":user/u", "iam::" + stranger + ":root", "sts::" + stranger + ":federated-user/f"} {
			insider := principal("arn:aws:" + name)
			insider.insider, insider.org = true, org
			list = append(list, insider)
		}
		for _, service := range []string{snsService, "s3.amazonaws.com"} {
			list = append(list, caller{request: iam.Request{Service: service}, account: stranger, insider: true, org: org})
		}
	}
	member := principal("arn:aws:iam::123412341234:role/x")
	member.org = ourOrg
	return append(list, elsewhere, member)
}

// isPrincipal reports whether an ARN can be that of somebody who calls.
func isPrincipal(arn string) bool {
	parts := strings.SplitN(arn, ":", 6)
	return len(parts) == 6 && parts[0] == "arn" && parts[1] == "aws" && parts[3] == "" && isAccountID(parts[4]) &&
		(parts[2] == "iam" && (strings.HasPrefix(parts[5], "role/") || strings.HasPrefix(parts[5], "user/") || parts[5] == "root") ||
			parts[2] == "sts" && strings.HasPrefix(parts[5], "federated-user/"))
}

// concreteAccount is an account that a pattern stands for.
func concreteAccount(pattern string) string {
	switch {
	case pattern == "*":
		return stranger
	case strings.HasSuffix(pattern, "*"):
		return (strings.TrimSuffix(pattern, "*") + "000000000000")[:12]
	}
	return strings.ReplaceAll(pattern, "?", "9")
}

// concreteARN is an ARN that a pattern stands for.
func concreteARN(pattern string) string {
	if strings.HasPrefix(pattern, "arn:*:") { // as a text it reaches into a path
		return strings.Replace(pattern, "*", "aws:iam::"+stranger+":role/p", 1)
	}
	parts := strings.SplitN(strings.ReplaceAll(pattern, "${aws:PrincipalAccount}", stranger), ":", 6)
	if len(parts) == 6 {
		parts[4] = concreteAccount(parts[4])
	}
	return strings.ReplaceAll(strings.Join(parts, ":"), "*", "v")
}

// options returns what of a key a caller's call may have; nil is nothing.
func options(c caller, key, action string, conditions []Condition) (list [][]string) {
	k := playedKeys[key]
	if k.given {
		return [][]string{c.given()[key]}
	}
	if !factsOf(conditionKey(key)).carried.has(set(action)) {
		return [][]string{nil}
	}
	if !k.always {
		list = append(list, nil)
	}
	var asked []string
	for _, condition := range conditions {
		if strings.EqualFold(condition.Operator, "Null") {
			condition.Values = k.values
		}
		asked = append(asked, condition.Values...)
	}
	add := func(value string) {
		if !slices.ContainsFunc(asked, func(v string) bool { return !k.who(c, value, v) }) {
			list = append(list, []string{value})
		}
	}
	for _, v := range asked {
		switch k.form {
		case account:
			add(concreteAccount(v))
			add(c.account)
		case arnForm:
			add(concreteARN(v))
			if parts := strings.SplitN(concreteARN(v), ":", 6); len(parts) == 6 && parts[4] != "" {
				parts[4] = c.account
				add(strings.Join(parts, ":"))
				add(strings.Join(parts, ":") + "-else")
			}
		case truthForm:
			add("true")
			add("false")
		case addressForm:
			for _, ip := range []string{"203.0.113.9", "198.51.100.7", "192.0.2.1", "10.1.2.3", "130.1.2.3", "2001:db8::7"} {
				add(ip)
			}
		case number:
			add("7")
			if n, err := strconv.Atoi(v); err == nil {
				for _, n := range []int{n, n - 1, n + 1} {
					add(strconv.Itoa(n))
				}
			}
		case dateForm:
			add("2024-01-01T00:00:00Z")
			add("2026-01-01T00:00:00Z")
			add("2028-01-01T00:00:00Z")
		default:
			add(strings.NewReplacer("*", "v", "?", "e").Replace(v))
			add(theirOther(v))
		}
	}
	if k.several && len(list) > 2 {
		list = append(list, slices.Concat(list[len(list)-2], list[len(list)-1]))
	}
	if len(list) == 0 {
		list = [][]string{{"else"}}
	}
	return list
}

// theirOther is a value that is none of the policy's.
func theirOther(value string) string {
	if strings.HasPrefix(value, "o-") {
		return "o-strange12345" + value[min(len(value), len(ourOrg)):]
	}
	return "else-" + strings.Trim(value, "*?")
}

// plays returns calls of the callers, at most so many.
func plays(r *rand.Rand, p *Policy, callers []caller, limit int) (list []iam.Request, by []caller) {
	conditions := map[string][]Condition{}
	var wanted []string
	for _, s := range p.Statements {
		for _, c := range s.Conditions {
			key := conditionKey(c.Key)
			conditions[key] = append(conditions[key], c)
		}
		for _, a := range s.Actions {
			if strings.HasPrefix(a, "kms:") && !strings.Contains(a, "*") && !slices.Contains(wanted, a) {
				wanted = append(wanted, a)
			}
		}
	}
	keys := slices.Sorted(maps.Keys(conditions))
	product := func(c caller, action string, each func([][]string)) {
		choices := make([][][]string, len(keys))
		total := 1
		for i, key := range keys {
			choices[i] = options(c, key, action, conditions[key])
			total = min(total*len(choices[i]), 1<<20)
		}
		for n := range min(total, limit) {
			if total > limit {
				n = r.IntN(total)
			}
			values := make([][]string, len(keys))
			for i := range keys {
				values[i] = choices[i][n%len(choices[i])]
				n /= len(choices[i])
			}
			each(values)
		}
	}
	for _, c := range callers {
		for _, action := range wanted {
			product(c, action, func(values [][]string) {
				request := c.request
				request.Action, request.Resource, request.Several = action, thisKey, c.given()
				for i, v := range values {
					delete(request.Several, keys[i])
					if v != nil {
						request.Several[keys[i]] = v
					}
				}
				list, by = append(list, request), append(by, c)
			})
		}
	}
	if len(list) > limit {
		order := r.Perm(len(list))[:limit]
		some, someBy := make([]iam.Request, limit), make([]caller, limit)
		for i, n := range order {
			some[i], someBy[i] = list[n], by[n]
		}
		return some, someBy
	}
	return list, by
}

// callsForEach is how many calls are played against a policy.
const callsForEach = 60

// disagreement plays calls against a policy, and says what the judgement missed, or
// called public without a reason. "" is nothing.
func disagreement(t *testing.T, r *rand.Rand, p *Policy, seen *sights) string {
	t.Helper()
	evaluated, err := iam.Parse(rewrite(t, p))
	if err != nil {
		return "localaws: " + err.Error()
	}
	if names := evaluated.Unmodelled(); names != nil {
		return fmt.Sprintf("localaws does not model %q", names)
	}
	findings := p.Findings(differential)
	entered, outside, byOwn := false, false, false
	play := func(callers []caller, limit int) string {
		requests, by := plays(r, p, callers, limit)
		for i, request := range requests {
			if d := evaluated.Evaluate(request); d != iam.Allow && d != iam.AllowAccount {
				continue
			}
			c := by[i]
			switch {
			case c.account == own:
				byOwn = byOwn || request.Action == "kms:PutKeyPolicy" && request.Service == ""
				continue
			case c.trusted():
				continue
			}
			outside = true
			seen.see(&seen.calls)
			if c.account == foreign {
				seen.see(&seen.foreign)
			}
			entered = entered || c.account != foreign && !c.insider
			if !isFound(findings, c, request) {
				return fmt.Sprintf("%+v gets in as %v, and is in none of %v", c, request.Several, findings)
			}
		}
		return ""
	}
	everybody := callers(p)
	if missed := play(everybody, callsForEach); missed != "" {
		return missed
	}
	if byOwn && has(findings, finding.Critical, finding.Lockout) {
		return fmt.Sprintf("somebody of the account may change the policy: %v", findings)
	}
	if !isPlain(p) {
		return ""
	}
	seen.see(&seen.plain)
	free, bound := false, false
	for _, f := range findings {
		if slices.Contains(classes["public"], f.ID) {
			free, bound = free || !f.Bound, bound || f.Bound
		}
	}
	// Before a policy is said to be called public wrongly, everything is tried.
	others := slices.DeleteFunc(slices.Clone(everybody), func(c caller) bool { return c.trusted() || c.account == foreign })
	if free {
		seen.see(&seen.public)
	}
	if bound {
		seen.see(&seen.bound)
	}
	if free && !entered || bound && !outside {
		if missed := play(others, 1<<13); missed != "" {
			return missed
		}
	}
	if free && !entered || bound && !outside {
		return fmt.Sprintf("nobody gets in, and it is called public: %v", findings)
	}
	return ""
}

// sights are what the played policies had in them, so that a test that plays nothing of
// interest fails: calls that got in from outside, those of the named account, policies
// in which nothing may be said too much, and what was said of these.
type sights struct{ calls, foreign, plain, public, bound int }

func (s *sights) see(what *int) { *what++ }

// isFound reports whether the findings say that the caller gets in.
func isFound(findings []finding.Finding, c caller, request iam.Request) bool {
	return slices.ContainsFunc(findings, func(f finding.Finding) bool {
		switch {
		case slices.Contains(classes["public"], f.ID):
			return !f.Bound || c.insider || request.Service != ""
		case f.ID == finding.ForeignAccount:
			return f.Principal == "*" || f.Principal == request.Service || strings.Contains(f.Principal, c.account)
		case f.ID == finding.ServiceWithoutSource, f.ID == finding.FullControl:
			return f.Principal == request.Service && request.Service != ""
		}
		return false
	}) || request.Service != "" && (c.insider || reads.has(set(request.Action))) // no findings, by intent
}

// isPlain reports whether a policy is one of which the judgement must not say too much:
// its operators suit their keys, and no two conditions can exclude each other.
func isPlain(p *Policy) bool {
	keys, identities := map[string]bool{}, 0
	for _, s := range p.Statements {
		if s.NotPrincipal {
			return false
		}
		for _, c := range s.Conditions {
			key := conditionKey(c.Key)
			k := playedKeys[key]
			name := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(c.Operator, "ForAnyValue:"), "ForAllValues:"), "IfExists")
			if keys[key] || name != "Null" && !slices.Contains(suiting[k.form], name) || k.several && !strings.HasPrefix(c.Operator, "For") && name != "Null" {
				return false
			}
			// A caller's key that may be missing, by the author's own word, and what is
			// always the same for a key and not known from the policy.
			if k.identity && (strings.HasPrefix(c.Operator, "For") || strings.HasSuffix(c.Operator, "IfExists")) || factsOf(key).kind == resourceOrganization {
				return false
			}
			if slices.ContainsFunc(c.Values, func(v string) bool { return strings.ContainsAny(v, "*?") }) && !strings.HasPrefix(name, "Arn") && !strings.HasSuffix(name, "Like") {
				return false // a wildcard that is none
			}
			if k.form == truthForm && slices.Contains(c.Values, "true") && slices.Contains(c.Values, "false") {
				return false // what is one or the other is not asked
			}
			keys[key] = true
			if k.identity {
				identities++
			}
		}
	}
	return identities < 2
}

// triple is a condition to be tried.
type triple struct{ key, operator string }

var triples = func() (list []triple) {
	for _, key := range playedNames {
		for _, operator := range everyOperator {
			for _, m := range modifiers {
				switch before, after, _ := strings.Cut(m, ":"); {
				case operator == "Null" && m != "":
				case strings.HasPrefix(m, "For"):
					list = append(list, triple{key, before + ":" + operator + after})
				default:
					list = append(list, triple{key, operator + m})
				}
			}
		}
	}
	return list
}()

// suitable are the triples of which the judgement must not say too much.
var suitable = slices.DeleteFunc(slices.Clone(triples), func(t triple) bool {
	k := playedKeys[t.key]
	p := &Policy{Statements: []Statement{{Conditions: []Condition{{Operator: t.operator, Key: t.key, Values: k.values[:1]}}}}}
	return !isPlain(p)
})

// differentialPolicy makes the nth policy. One half has every triple in turn, the other
// every one that suits.
func differentialPolicy(n int) (*Policy, *rand.Rand) {
	r := rand.New(rand.NewPCG(uint64(n), 7)) //nolint:gosec // no secret
	order := 7919                            // a prime, so that neighbours differ
	p := &Policy{Version: "2012-10-17"}
	if r.IntN(20) == 0 {
		p.Version = ""
	}
	var actions []string
	condition := func(t triple) Condition {
		k := playedKeys[t.key]
		c := Condition{Operator: t.operator, Key: t.key}
		for range 1 + r.IntN(2) {
			c.Values = append(c.Values, k.values[r.IntN(len(k.values))])
		}
		if t.operator == "Null" {
			c.Values = []string{truths[r.IntN(2)]}
		}
		var carried []string
		for _, name := range []string{"kms:Decrypt", "kms:CreateGrant", "kms:PutKeyPolicy", "kms:ScheduleKeyDeletion", "kms:Sign", "kms:GenerateMac", "kms:TagResource", "kms:ImportKeyMaterial",
			"kms:GetParametersForImport", "kms:ReplicateKey", "kms:UpdatePrimaryRegion", "kms:EnableKeyRotation", "kms:GenerateDataKeyPair", "kms:DeriveSharedSecret", "kms:ReEncryptFrom"} {
			if factsOf(conditionKey(t.key)).carried.has(set(name)) {
				carried = append(carried, name)
			}
		}
		if len(carried) == 0 || r.IntN(5) == 0 {
			carried = []string{"kms:Encrypt"}
		}
		actions = append(actions, carried[r.IntN(len(carried))])
		return c
	}
	random := func() triple {
		if n%2 == 1 {
			return suitable[r.IntN(len(suitable))]
		}
		key := playedNames[r.IntN(len(playedNames))]
		k := playedKeys[key]
		operators := suiting[k.form]
		t := triple{key, operators[r.IntN(len(operators))]}
		switch r.IntN(6) {
		case 0:
			t.operator += "IfExists"
		case 1:
			t.operator = "ForAnyValue:" + t.operator
		case 2:
			t.operator = "ForAllValues:" + t.operator
		default:
			if k.several {
				t.operator = "ForAnyValue:" + t.operator
			}
		}
		return t
	}
	allow := Statement{Label: "A", Resources: []string{"*"}, Principals: []Principal{everyone}}
	switch r.IntN(10) + 10*(n%2) {
	case 0:
		allow.Principals = []Principal{{"AWS", foreign}}
	case 1:
		allow.Principals = []Principal{{"AWS", "arn:aws:iam::" + foreign + ":role/x"}}
	case 2:
		allow.Principals = []Principal{{"Service", snsService}}
	case 3:
		allow.Principals, allow.NotPrincipal = []Principal{{"AWS", own}}, true
	}
	deny := Statement{Label: "D", Deny: true, Resources: []string{"*"}, Actions: []string{"kms:*"}, Principals: []Principal{everyone}}
	tried := triples
	if n%2 == 1 {
		tried = suitable
	}
	first := condition(tried[n/2*order%len(tried)])
	if r.IntN(3) > 0 {
		allow.addCondition(first)
	} else {
		deny.addCondition(first)
	}
	for range r.IntN(3) {
		if c := condition(random()); r.IntN(2) == 0 {
			allow.addCondition(c)
		} else {
			deny.addCondition(c)
		}
	}
	allow.Actions = sorted(actions)
	p.Statements = append(p.Statements, allow)
	if len(deny.Conditions) > 0 {
		p.Statements = append(p.Statements, deny)
	}
	if r.IntN(3) > 0 {
		p.Statements = append(p.Statements, Statement{Label: "R", Resources: []string{"*"}, Principals: []Principal{{"AWS", own}}, Actions: []string{"kms:*", "kms:PutKeyPolicy"}})
	}
	return p, r
}

// shrunk removes what a policy does not need to be judged wrongly.
func shrunk(p *Policy, fails func(*Policy) bool) *Policy {
	for {
		smaller := func() *Policy {
			for i := range p.Statements {
				if q := clone(p); len(q.Statements) > 1 {
					if q.Statements = slices.Delete(q.Statements, i, i+1); fails(q) {
						return q
					}
				}
				s := &p.Statements[i]
				for j := range s.Actions {
					if q := clone(p); len(s.Actions) > 1 {
						q.Statements[i].Actions = slices.Delete(q.Statements[i].Actions, j, j+1)
						if fails(q) {
							return q
						}
					}
				}
				for j := range s.Conditions {
					q := clone(p)
					t := &q.Statements[i]
					if t.Conditions = slices.Delete(t.Conditions, j, j+1); fails(q) {
						return q
					}
					for k := range s.Conditions[j].Values {
						if q := clone(p); len(s.Conditions[j].Values) > 1 {
							c := &q.Statements[i].Conditions[j]
							if c.Values = slices.Delete(c.Values, k, k+1); fails(q) {
								return q
							}
						}
					}
				}
			}
			return nil
		}()
		if smaller == nil {
			return p
		}
		p = smaller
	}
}

func clone(p *Policy) *Policy {
	q := &Policy{Version: p.Version, Statements: slices.Clone(p.Statements)}
	for i := range q.Statements {
		s := &q.Statements[i]
		s.Actions, s.Conditions = slices.Clone(s.Actions), slices.Clone(s.Conditions)
		for j := range s.Conditions {
			s.Conditions[j].Values = slices.Clone(s.Conditions[j].Values)
		}
	}
	return q
}

// policiesVariable is how many policies the differential test plays.
const policiesVariable = "CMKEEPER_DIFFERENTIAL_POLICIES"

func TestJudgementAgainstEvaluator(t *testing.T) {
	policies := 600
	if v := os.Getenv(policiesVariable); v != "" {
		var err error
		if policies, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	wrong := 0
	var seen, unseen sights
	for n := range policies {
		p, r := differentialPolicy(n)
		if why := disagreement(t, r, p, &seen); why != "" {
			again := func(q *Policy) bool { return disagreement(t, rand.New(rand.NewPCG(1, 2)), q, &unseen) != "" }
			if again(p) {
				p = shrunk(p, again)
				why = disagreement(t, rand.New(rand.NewPCG(1, 2)), p, &unseen)
			}
			t.Errorf("policy %d: %s\n%s", n, why, rewrite(t, p))
			if wrong++; wrong == 10 {
				t.Fatal("too many")
			}
		}
	}
	t.Logf("%d policies: %+v", policies, seen)
	if min(seen.calls/10, seen.foreign, seen.plain, seen.public*2, seen.bound*20) < policies/10 {
		t.Error("the policies are too harmless to show anything")
	}
}

// TestDocumentedConditions plays what AWS's documentation says of conditions, each with
// its page, against the evaluator, and judges a policy with the condition for everyone.
func TestDocumentedConditions(t *testing.T) {
	data, err := os.ReadFile("testdata/documented.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Page, Says, Action, Version string
		Condition                   json.RawMessage
		Context                     map[string][]string
		Holds                       bool
		// Insider: the context has what only its owner has.
		Insider bool
		// Judged is what the policy is: public, bound (for a stranger, to what only
		// others have), public through a service, for a foreign account, closed, or dead.
		Judged string
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) < 50 {
		t.Errorf("%d cases", len(cases))
	}
	const theirs = "888877776666"
	for _, c := range cases {
		t.Run(c.Says, func(t *testing.T) {
			action := cmp.Or(c.Action, "kms:Decrypt")
			document := `{"Version":"` + cmp.Or(c.Version, "2012-10-17") + `","Statement":[` + root + `,` +
				`{"Sid":"S","Effect":"Allow","Principal":"*","Action":"` + action + `","Resource":"*","Condition":` + string(c.Condition) + `}]}`
			evaluated, err := iam.Parse([]byte(document))
			if err != nil || evaluated.Unmodelled() != nil {
				t.Fatal(err, evaluated.Unmodelled())
			}
			request := principal("arn:aws:iam::" + theirs + ":role/r").request
			request.Action, request.Resource, request.Several = action, thisKey, c.Context
			if got := evaluated.Evaluate(request) == iam.Allow; got != c.Holds {
				t.Errorf("%s: it holds: %v, want %v", c.Page, got, c.Holds)
			}
			var got string
			for _, f := range parsed(t, document).Findings(Context{Account: "111122223333"}) {
				switch {
				case f.Statement != "S":
				case f.ID == finding.PublicPrincipal && f.Bound:
					got = "bound"
				case f.ID == finding.PublicPrincipal:
					got = "public"
				case f.ID == finding.PublicThroughService:
					got = "service"
				case f.ID == finding.ForeignAccount:
					got = "foreign"
				case f.ID == finding.NoEffect:
					got = "dead"
				}
			}
			if got = cmp.Or(got, "closed"); got != c.Judged {
				t.Errorf("%s: judged as %s, want %s", c.Page, got, c.Judged)
			}
		})
	}
}
