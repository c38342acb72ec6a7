package keypolicy

import (
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
)

// Who calls in the differential test, with what.

const (
	stranger   = "888877776666" // whom no policy names
	ourOrg     = "o-ours123456"
	theirOrg   = "o-theirs12345"
	otherOrg   = "o-other12345"
	strangeOrg = "o-strange12345" // which no policy names
	snsService = "sns.amazonaws.com"
	s3Service  = "s3.amazonaws.com"
	endpoints  = "909090909090" // whose network endpoints others use
	// otherService is one that no policy names.
	otherService = "ec2.amazonaws.com"
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

var modifiers = []string{"", "IfExists", "ForAnyValue:", "ForAnyValue:IfExists", "ForAllValues:", "ForAllValues:IfExists"}

// played is how a condition key is played.
type played struct {
	form
	values  []string // what policies ask for
	several bool     // a call may have more than one
	// who decides which of the values a caller can have.
	who func(c caller, value string, policy string) bool
	// given: the key follows from who calls; always: no call that can have it can do
	// without; sent: nor can any call of a principal, whatever it is for.
	given, always, sent bool
	// free: callers choose every character of it.
	free bool
	// identity: it is about who calls or when, so that two of them can exclude each other.
	identity bool
}

// anybody can have every value.
func anybody(caller, string, string) bool { return true }

// owner has what a policy names exactly, or a unit of it; others have something else.
// Services call of themselves from nobody's network.
func owner(c caller, value, policy string) bool {
	id, _, _ := strings.Cut(value, "/")
	of, _, _ := strings.Cut(policy, "/")
	return c.request.Service == "" && (c.insider || id != of)
}

// endpoint is like owner, of what shows its account.
func endpoint(c caller, value, policy string) bool {
	return c.request.Service == "" && (c.insider || ofAccount(c, value, policy))
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
	accounts = []string{own, partner, foreign, "222233334445", "2222*", "*", "22223333444?"}
	roleARNs = []string{
		"arn:aws:iam::" + own + ":role/x", "arn:aws:iam::" + foreign + ":role/x", "arn:aws:iam::*:role/x", "arn:aws:iam::" + foreign + ":*",
		"arn:*:iam::" + own + ":role/x", "arn:aws:iam::" + foreign + ":user/*", "arn:aws:iam::" + foreign + ":root", "arn:aws:iam::*:root", "arn:aws:sts::" + foreign + ":assumed-role/x/s",
		"arn:aws:iam::" + own + ":Role/x", "arn:aws:iam::*:Role/x", "arn:aws:iam::" + foreign + ":role/X", "arn:aws-cn:iam::" + foreign + ":role/x", "arn:aws:iam:us-east-1:" + foreign + ":role/x", "arn:aws:sts::*:federated-user/*", "arn:aws:iam::22*:role/x", "arn:aws:iam::${aws:PrincipalAccount}:role/x",
	}
	sourceARNs = []string{
		"arn:aws:sns:us-east-1:" + own + ":t", "arn:aws:sns:us-east-1:" + foreign + ":t", "arn:aws:sns:*:*:t", "arn:aws:sns:*:" + foreign + ":*",
		"arn:aws:s3:::photos", "arn:aws-cn:sns:us-east-1:" + foreign + ":t",
	}
	organizations = []string{ourOrg, theirOrg, "o-*", otherOrg}
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
	add(played{form: account, values: accounts, given: true, identity: true, sent: true}, "kms:CallerAccount", "aws:PrincipalAccount")
	add(played{form: arnForm, values: roleARNs, given: true, identity: true, sent: true}, "aws:PrincipalArn")
	add(played{values: []string{"Account", "User", "AssumedRole", "FederatedUser", "user", "*User"}, given: true, identity: true}, "aws:PrincipalType")
	add(played{values: []string{own, foreign, "AROAX:*", "AROAX:s", "*:s"}, given: true, identity: true}, "aws:userid")
	add(played{form: account, values: accounts, who: served, identity: true}, "aws:SourceAccount", "aws:SourceOwner")
	add(played{form: arnForm, values: sourceARNs, who: served, identity: true}, "aws:SourceArn")
	add(played{form: arnForm, values: sourceARNs[:4], who: session, identity: true}, "lambda:SourceFunctionArn", "ec2:SourceInstanceArn", "ssm:SourceInstanceArn",
		"codebuild:BuildArn", "codebuild:ProjectArn", "aws:ChatbotSourceArn")
	add(played{values: words, who: anybody, free: true}, "kms:EncryptionContext:app", "aws:PrincipalTag/team", "aws:ResourceTag/team", "aws:username", "aws:FederatedProvider",
		"aws:SourceIdentity", "aws:Referer", "aws:UserAgent", "aws:RequestedRegion", "kms:CustomerMasterKeySpec",
		"kms:CustomerMasterKeyUsage", "kms:KeyOrigin", "kms:KeySpec", "kms:KeyUsage", "kms:MultiRegionKeyType", "kms:RequestAlias", "aws:RequestTag/team",
		"kms:EncryptionAlgorithm", "kms:DataKeyPairSpec", "kms:KeyAgreementAlgorithm", "kms:SigningAlgorithm", "kms:MessageType", "kms:MacAlgorithm",
		"kms:RecipientAttestation:PCR0", "kms:RetiringServicePrincipal", "kms:ExpirationModel", "kms:WrappingAlgorithm", "kms:WrappingKeySpec",
		"kms:PrimaryRegion", "kms:ReplicaRegion", "kms:GrantConstraintType", "kms:GranteeServicePrincipal", "kms:ViaService", "aws:CalledViaFirst", "aws:CalledViaLast", "aws:CalledViaAWSMCP",
		"glue:RoleAssumedBy", "glue:CredentialIssuingService")
	add(played{values: words, who: anybody, several: true, free: true}, "kms:EncryptionContextKeys", "aws:TagKeys", "kms:ResourceAliases", "aws:CalledVia")
	add(played{values: words, who: anybody, several: true, always: true, free: true}, "kms:GrantOperations")
	add(played{form: arnForm, values: roleARNs[:4], who: anybody, free: true}, "aws:SignInSessionArn", "kms:GranteePrincipal", "kms:RetiringPrincipal", "kms:GrantConstraintSourceArn")
	add(played{form: truthForm, values: truths, who: anybody}, "aws:ViaAWSService", "aws:ViaAWSMCPService", "aws:AssumedRoot", "aws:IsMcpServiceAction", "aws:MultiFactorAuthPresent",
		"kms:MultiRegion", "kms:BypassPolicyLockoutSafetyCheck", "kms:ReEncryptOnSameKey")
	add(played{form: truthForm, values: truths, who: anybody, always: true, sent: true}, "kms:GrantIsForAWSResource")
	add(played{form: number, values: numbers, who: anybody}, "aws:MultiFactorAuthAge", "kms:RotationPeriodInDays", "ec2:RoleDelivery")
	add(played{form: number, values: numbers, who: anybody, always: true}, "kms:ScheduleKeyDeletionPendingWindowInDays", "kms:TrailingDaysWithoutKeyUsage")
	add(played{form: dateForm, values: []string{"2025-01-01T00:00:00Z", "2027-01-01"}, who: anybody}, "aws:TokenIssueTime", "kms:ValidTo")
	add(played{form: dateForm, values: []string{"2025-01-01T00:00:00Z", "2025-06-01", "2027-01-01T00:00:00Z"}, given: true, identity: true}, "aws:CurrentTime")
	add(played{form: number, values: []string{"1735689600", "1798761600"}, given: true, identity: true}, "aws:EpochTime")
	add(played{form: addressForm, values: []string{"10.0.0.0/8", "192.0.2.1"}, who: anybody}, "aws:VpcSourceIp", "aws:Ec2InstanceSourcePrivateIPv4")
	add(played{form: addressForm, identity: true, values: []string{"203.0.113.0/24", "0.0.0.0/0", "198.51.100.7", "0.0.0.0/1"}, who: func(c caller, value, policy string) bool {
		return c.insider && c.request.Service == "" || policy == "0.0.0.0/0" || policy == "0.0.0.0/1" || !inRange(value, policy)
	}}, "aws:SourceIp")
	add(played{values: vpcs, who: owner, identity: true}, "aws:SourceVpc", "aws:SourceVpce", "aws:Ec2InstanceSourceVpc", "identitystore:UserId")
	add(played{form: account, values: accounts, identity: true, who: endpoint}, "aws:VpceAccount")
	add(played{form: arnForm, values: []string{"arn:aws:ec2:us-east-1:" + own + ":vpc/vpc-1", "arn:aws:ec2:us-east-1:" + foreign + ":vpc/*", "arn:aws:ec2:*:*:vpc/vpc-1"}, identity: true, who: endpoint}, "aws:SourceVpcArn")
	add(played{values: organizations, who: owner, identity: true}, "aws:VpceOrgID")
	add(played{values: organizations, given: true, identity: true}, "aws:PrincipalOrgID", "aws:SourceOrgID")
	add(played{values: orgPaths, given: true, identity: true, several: true}, "aws:PrincipalOrgPaths", "aws:SourceOrgPaths")
	add(played{values: orgPaths[1:], who: owner, identity: true, several: true}, "aws:VpceOrgPaths")
	add(played{form: account, values: []string{own, foreign, "4444*", "${aws:PrincipalAccount}"}, given: true}, "aws:ResourceAccount")
	add(played{values: append([]string{"${aws:PrincipalOrgID}"}, organizations...), given: true}, "aws:ResourceOrgID")
	add(played{values: orgPaths, given: true, several: true}, "aws:ResourceOrgPaths")
	add(played{form: truthForm, values: truths, given: true, identity: true}, "aws:PrincipalIsAWSService")
	add(played{values: []string{snsService, s3Service}, given: true, identity: true}, "aws:PrincipalServiceName")
	add(played{values: []string{snsService, s3Service}, given: true, identity: true, several: true}, "aws:PrincipalServiceNamesList")
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
}

// TestKeysAgainstReference compares what the table says of requests that have a key with
// what localaws took from AWS's reference.
func TestKeysAgainstReference(t *testing.T) {
	names := slices.Clone(playedNames)
	for name := range conditionKeys() {
		names = append(names, name+map[bool]string{true: "x"}[strings.HasSuffix(name, ":") || strings.HasSuffix(name, "/")])
	}
	for _, name := range names {
		facts := factsOf(ConditionKey(name))
		for _, action := range known {
			switch carries, modelled := iam.Carries(action, name); {
			case !modelled && action == "kms:Decrypt":
				t.Errorf("localaws does not know %s", name)
			case modelled && facts.carried.Has(ActionsOf(action)) != carries:
				t.Errorf("%s in requests for %s: %t, in AWS's reference: %t", name, action, !carries, carries)
			}
		}
	}
}

// caller is somebody who calls.
type caller struct {
	request iam.Request
	account string // or that for which a service acts
	insider bool   // has what only its owner has
	org     string
	at      time.Time // when it calls; the zero value is now
}

func (c caller) trusted() bool { return differential.trusts(c.account) || c.org == ourOrg }

// given returns the keys that follow from who calls.
func (c caller) given() map[string][]string {
	at := c.at
	if at.IsZero() {
		at = differential.Now
	}
	m := map[string][]string{
		"aws:securetransport": {"true"}, "aws:currenttime": {at.Format(time.RFC3339)}, "aws:epochtime": {strconv.FormatInt(at.Unix(), 10)},
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
		m["aws:principaltype"] = []string{"AssumedRole"}
	case strings.HasSuffix(name, ":root"):
		m["aws:principaltype"] = []string{"Account"}
	case strings.Contains(name, ":user/"):
		m["aws:principaltype"] = []string{"User"}
	default:
		m["aws:principaltype"] = []string{"FederatedUser"}
	}
	m["aws:userid"] = c.ids()[0]
	return m
}

// ids are the caller's unique ids. A role has sessions of any name.
func (c caller) ids() [][]string {
	switch name := c.request.Principal; {
	case c.request.Service != "":
		return [][]string{nil}
	case c.request.RoleARN != "" && c.insider:
		return [][]string{{"AROA" + c.account + ":s"}, {"AROA" + c.account + ":t"}, {"AROAX:s"}, {"AROAX:t"}}
	case c.request.RoleARN != "":
		return [][]string{{"AROA" + c.account + ":s"}, {"AROA" + c.account + ":t"}}
	case strings.HasSuffix(name, ":root"):
		return [][]string{{c.account}}
	case strings.Contains(name, ":user/"):
		return [][]string{{"AIDA" + c.account}}
	}
	return [][]string{{c.account + ":f"}}
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
// principals and services of the usual accounts and of those that it names, in no
// organization, in one of the policy's, or in another, and the ARNs that it names.
func callers(p *Policy) (list []caller) {
	for _, arn := range namedARNs(p) {
		if isPrincipal(arn) {
			list = append(list, principal(arn))
		}
	}
	add := func(account, org string, insider bool) {
		for _, arn := range forms(account) {
			c := principal(arn)
			c.org, c.insider = org, insider
			list = append(list, c)
		}
		for _, service := range []string{snsService, s3Service, otherService} {
			list = append(list, caller{request: iam.Request{Service: service}, account: account, org: org, insider: insider})
		}
	}
	for _, account := range append(namedAccounts(p), stranger, foreign) {
		add(account, "", false)
		add(account, strangeOrg, false)
		// Who has what the policy names may be in the organizations that it names.
		add(account, theirOrg, true)
		add(account, otherOrg, true)
	}
	add("123412341234", ourOrg, false)
	for _, org := range []string{"", ourOrg, theirOrg, otherOrg} {
		add(own, org, true) // the account itself may be in any, or in none
	}
	today := slices.Clone(list)
	for _, at := range moments(p) {
		for _, c := range today {
			c.at = at
			list = append(list, c)
		}
	}
	return list
}

// namedAccounts are other accounts than the usual ones that the conditions name, or that
// their patterns stand for.
func namedAccounts(p *Policy) (list []string) {
	for _, s := range p.Statements {
		for _, c := range s.Conditions {
			if playedKeys[ConditionKey(c.Key)].form != account {
				continue
			}
			for _, v := range c.Values {
				if v = concreteAccount(v); isAccountID(v) && !slices.Contains([]string{own, partner, foreign}, v) && !slices.Contains(list, v) {
					list = append(list, v)
				}
			}
		}
	}
	return list
}

// namedARNs are what ARNs in the conditions stand for.
func namedARNs(p *Policy) (arns []string) {
	for _, s := range p.Statements {
		for _, c := range s.Conditions {
			if ConditionKey(c.Key) != "aws:principalarn" {
				continue
			}
			for _, v := range c.Values {
				for _, account := range []string{stranger, foreign, own} {
					// As a text, a star reaches into a path. A role that is named has its
					// name for itself.
					if !isRoleNamed(p, account) {
						arns = append(arns, concreteARN(v, account), strings.ReplaceAll(strings.Replace(v, "::*:", "::"+account+":role/p:", 1), "*", "v"))
					}
				}
			}
		}
	}
	slices.Sort(arns)
	return slices.Compact(arns)
}

// isRoleNamed reports whether a statement is for a role of the account.
func isRoleNamed(p *Policy, account string) bool {
	return slices.ContainsFunc(p.Statements, func(s Statement) bool {
		return slices.ContainsFunc(s.Principals, func(who Principal) bool {
			return who.account() == account && strings.Contains(who.ID, ":role/")
		})
	})
}

// moments are the times to come that a policy names, each with one after it.
func moments(p *Policy) (list []time.Time) {
	for _, s := range p.Statements {
		for _, c := range s.Conditions {
			if key := ConditionKey(c.Key); key != "aws:currenttime" && key != "aws:epochtime" {
				continue
			}
			for _, v := range c.Values {
				if at, err := time.Parse(time.RFC3339, v); err == nil && at.After(differential.Now) {
					list = append(list, at, at.AddDate(0, 0, 1))
				} else if seconds, err := strconv.ParseInt(v, 10, 64); err == nil && seconds > differential.Now.Unix() {
					list = append(list, time.Unix(seconds, 0), time.Unix(seconds+1, 0))
				}
			}
		}
	}
	return list
}

// forms are the kinds of principals of an account.
func forms(account string) []string {
	return []string{"arn:aws:iam::" + account + ":role/x", "arn:aws:iam::" + account + ":user/u", "arn:aws:iam::" + account + ":root", "arn:aws:sts::" + account + ":federated-user/f"}
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

// concreteARN is an ARN that a pattern stands for, of the account where it leaves a choice.
func concreteARN(pattern, account string) string {
	if strings.HasPrefix(pattern, "arn:*:") { // as a text it reaches into a path
		return strings.Replace(pattern, "*", "aws:iam::"+account+":role/p", 1)
	}
	parts := strings.SplitN(strings.ReplaceAll(pattern, "${aws:PrincipalAccount}", account), ":", 6)
	if len(parts) == 6 {
		parts[4] = concreteAccount(parts[4])
	}
	return strings.ReplaceAll(strings.Join(parts, ":"), "*", "v")
}

// options returns what of a key a caller's call may have; nil is nothing.
func options(c caller, key, action string, conditions []Condition) (list [][]string) {
	k := playedKeys[key]
	if key == "aws:userid" {
		return c.ids()
	}
	if k.given {
		return [][]string{c.given()[key]}
	}
	if carries, _ := iam.Carries(action, key); !carries {
		return [][]string{nil}
	}
	if key == "kms:viaservice" && action == "kms:PutKeyPolicy" && c.account == own {
		return [][]string{nil} // the account cannot rely on a service that would set policies for it
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
	for _, v := range asked {
		for _, value := range k.candidates(c, v) {
			if !slices.ContainsFunc(asked, func(v string) bool { return !k.who(c, value, v) }) {
				list = append(list, []string{value})
			}
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

// candidates are values that a policy's value stands for, and others.
func (k played) candidates(c caller, v string) (list []string) {
	switch k.form {
	case account:
		return []string{concreteAccount(v), c.account, endpoints}
	case arnForm:
		concrete := concreteARN(v, stranger)
		list = []string{concrete}
		if parts := strings.SplitN(concrete, ":", 6); len(parts) == 6 && parts[4] != "" {
			parts[4] = c.account
			mine := strings.Join(parts, ":")
			list = append(list, mine, mine+"-else")
		} else {
			list = append(list, v+"-else")
		}
		list = append(list, "arn:aws:else:us-east-1:"+c.account+":else", "arn:aws:else:us-east-1:"+endpoints+":else")
	case truthForm:
		return truths
	case addressForm:
		return []string{"203.0.113.9", "198.51.100.7", "192.0.2.1", "10.1.2.3", "130.1.2.3", "2001:db8::7"}
	case number:
		list = []string{"7"}
		if n, err := strconv.Atoi(v); err == nil {
			list = append(list, v, strconv.Itoa(n-1), strconv.Itoa(n+1))
		}
	case dateForm:
		return []string{"2024-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2028-01-01T00:00:00Z"}
	default:
		list = []string{strings.NewReplacer("*", "v", "?", "e").Replace(v), theirOther(v)}
	}
	if k.free {
		list = append(list, v)
	}
	return list
}

// theirOther is a value that is none of the policy's.
func theirOther(value string) string {
	if strings.HasPrefix(value, "o-") {
		return strangeOrg + value[min(len(value), len(ourOrg)):]
	}
	return "else-" + strings.Trim(value, "*?")
}

// call is what somebody asks for.
type call struct {
	caller
	request iam.Request
}

// named returns the actions that the policy names, and not by a pattern; where it names
// what it is not about, some others, too.
func named(p *Policy) (list []string) {
	for _, s := range p.Statements {
		actions := s.Actions
		if s.NotAction {
			actions = append([]string{"kms:Decrypt", "kms:Sign", "kms:CreateGrant", "kms:PutKeyPolicy"}, actions...)
		}
		for _, a := range actions {
			if strings.HasPrefix(a, "kms:") && !strings.Contains(a, "*") && !slices.Contains(list, a) {
				list = append(list, a)
			}
		}
	}
	if list == nil {
		return []string{"kms:PutKeyPolicy"}
	}
	return list
}

// players are those who call because of a policy.
type players struct {
	callers    []caller
	actions    []string
	keys       []string // those that the policy asks for
	conditions map[string][]Condition
}

func playersOf(p *Policy, callers []caller, actions []string) *players {
	x := &players{callers: callers, actions: actions, conditions: map[string][]Condition{}}
	for _, s := range p.Statements {
		for _, c := range s.Conditions {
			key := ConditionKey(c.Key)
			x.conditions[key] = append(x.conditions[key], c)
		}
	}
	x.keys = slices.Sorted(maps.Keys(x.conditions))
	return x
}

// choices returns what the keys can be in a caller's calls, and how many calls that makes.
func (x *players) choices(c caller, action string) (values [][][]string, total int) {
	total = 1
	for _, key := range x.keys {
		list := options(c, key, action, x.conditions[key])
		values = append(values, list)
		total = min(total*len(list), 1<<20)
	}
	return values, total
}

// call returns the nth call.
func (x *players) call(c caller, action string, values [][][]string, n int) call {
	request := c.request
	request.Action, request.Resource, request.Several = action, thisKey, c.given()
	for i, key := range x.keys {
		delete(request.Several, key)
		if v := values[i][n%len(values[i])]; v != nil {
			request.Several[key] = v
		}
		n /= len(values[i])
	}
	return call{c, request}
}

// some returns calls at random.
func (x *players) some(r *rand.Rand, count int) (list []call) {
	for range count {
		c, action := x.callers[r.IntN(len(x.callers))], x.actions[r.IntN(len(x.actions))]
		values, total := x.choices(c, action)
		list = append(list, x.call(c, action, values, r.IntN(total)))
	}
	return list
}

// all are all calls, or so many of one caller for one action.
func (x *players) all(r *rand.Rand, most int) iter.Seq[call] {
	return func(yield func(call) bool) {
		for _, c := range x.callers {
			for _, action := range x.actions {
				values, total := x.choices(c, action)
				for n := range min(total, most) {
					if total > most {
						n = r.IntN(total)
					}
					if !yield(x.call(c, action, values, n)) {
						return
					}
				}
			}
		}
	}
}
