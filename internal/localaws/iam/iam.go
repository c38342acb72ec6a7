// Package iam is IAM of one account, and evaluates policies as AWS does: the key policies
// of localaws' KMS, the queue policies of its SQS, and the identity policies that tests
// give its callers.
//
// Tests fill an [Account] with users, groups, roles and policies; what may be done then is
// [Account.Decide]'s and [Account.Assume]'s answer. Over the wire it has
// GetAccountAuthorizationDetails and nothing else. Not modelled are service-control,
// resource-control and session policies, federated users, and OIDC and SAML providers.
//
// It shares no code with the product's package keypolicy on purpose: what
// judges a policy and what enforces it in the tests must not be wrong in the
// same way.
package iam

import (
	"slices"
	"strings"
)

// Policy is a parsed policy. The zero value has no statement and
// allows nobody.
type Policy struct {
	statements []statement
}

// Request is one call, as a resource policy sees it.
type Request struct {
	// Principal is the caller's ARN, with the session name for an assumed role,
	// or "" for an AWS service and for an anonymous caller.
	Principal string
	// RoleARN is the role behind an assumed-role session, or "".
	RoleARN string
	// Account is the caller's twelve-digit account, or "".
	Account string
	// Service is the calling AWS service ("events.amazonaws.com"), or "".
	Service string
	// Action ("kms:PutKeyPolicy") and Resource (an ARN) are what is asked for.
	Action, Resource string
	// Context holds condition keys, such as "aws:SourceArn", with their value;
	// names are compared without regard to case. aws:PrincipalArn,
	// aws:PrincipalAccount and aws:PrincipalIsAWSService need not be given.
	Context map[string]string
	// Several holds those condition keys that have several values.
	Several map[string][]string

	bounded bool // the caller has a permissions boundary
}

// Decision is a resource policy's answer to a request.
type Decision int

// The answers, in the order in which a stronger one replaces a weaker one.
const (
	// ImplicitDeny: no statement speaks of the request.
	ImplicitDeny Decision = iota
	// AllowAccount: the policy allows the caller's account as a whole, so the
	// caller's identity policy decides.
	AllowAccount
	// allowRole: the policy allows the role of the calling session, which the role's
	// permissions boundary limits. To others than Decide that is Allow.
	allowRole
	// Allow: the policy allows the caller itself.
	Allow
	// ExplicitDeny: a statement denies the request; nothing overrules it.
	ExplicitDeny
)

// Unmodelled returns the operators and condition keys in a key policy that this package
// does not model.
func (p *Policy) Unmodelled() (names []string) {
	for _, s := range p.statements {
		for _, c := range s.conditions {
			if c.holds(Request{Several: map[string][]string{c.key: {""}}}, false) == unknown {
				names = append(names, c.operator)
			}
			if _, known := Carries("kms:Decrypt", c.key); !known {
				names = append(names, c.key)
			}
		}
	}
	return names
}

// Evaluate returns the policy's answer. A condition whose operator this package does
// not model ([Policy.Unmodelled]) can neither be known to hold nor to fail: such a
// statement never allows and always denies.
func (p *Policy) Evaluate(r Request) Decision {
	if d := p.evaluate(r); d != allowRole {
		return d
	}
	return Allow
}

func (p *Policy) evaluate(r Request) Decision {
	result := ImplicitDeny
	for _, s := range p.statements {
		result = max(result, s.evaluate(r))
	}
	return result
}

// truth is the outcome of a condition that may not be modelled.
type truth int

const (
	no truth = iota
	unknown
	yes
)

// strength says how closely a statement names the caller.
type strength int

const (
	unnamed strength = iota
	byAccount
	byRole
	itself
)

type statement struct {
	deny       bool
	principal  principals
	action     patterns
	resource   patterns
	conditions []condition
	// variables: the policy's version has them.
	variables bool
}

// patterns is an element or its Not form: Action or NotAction, Resource or NotResource.
type patterns struct {
	not  bool
	list []string
}

// match reports whether the element speaks of the value; substitute puts the request's
// values in place of the policy variables of a pattern.
func (p patterns) match(value string, substitute func(pattern string) (string, bool)) bool {
	found := slices.ContainsFunc(p.list, func(pattern string) bool {
		pattern, ok := substitute(pattern)
		return ok && glob(pattern, value)
	})
	return found != p.not
}

func (s statement) evaluate(r Request) Decision {
	named := s.principal.match(r, s.deny)
	literally := func(pattern string) (string, bool) { return pattern, true } // Action has no variables
	filled := func(pattern string) (string, bool) {
		if !s.variables {
			return pattern, true
		}
		return substitute(pattern, r, true)
	}
	if named == unnamed || !s.action.match(strings.ToLower(r.Action), literally) || !s.resource.match(r.Resource, filled) {
		return ImplicitDeny
	}
	holds := yes
	for _, c := range s.conditions {
		holds = min(holds, c.holds(r, s.variables))
	}
	switch {
	case holds == no:
		return ImplicitDeny
	case s.deny:
		return ExplicitDeny
	case holds == unknown:
		return ImplicitDeny
	case named == byAccount:
		return AllowAccount
	case named == byRole:
		return allowRole
	}
	return Allow
}

// principals is a Principal or NotPrincipal element.
type principals struct {
	not      bool
	everyone bool
	aws      []string
	services []string
}

func (p principals) match(r Request, deny bool) strength {
	if !p.not {
		return p.names(r)
	}
	exempt := p.names(r) != unnamed
	if deny && r.bounded {
		return itself // AWS exempts nobody who has a permissions boundary
	}
	if deny && exempt && r.Service == "" && !p.everyone {
		// AWS exempts a caller from a Deny only when the account, the role and
		// the session are all listed.
		exempt = slices.ContainsFunc(p.aws, func(a string) bool { return accountOf(a) == r.Account }) &&
			slices.Contains(p.aws, r.Principal) &&
			(r.RoleARN == "" || r.RoleARN == r.Principal || slices.ContainsFunc(p.aws, func(a string) bool { return sameRole(a, r.RoleARN) }))
	}
	if exempt {
		return unnamed
	}
	return itself
}

func (p principals) names(r Request) strength {
	if p.everyone {
		return itself
	}
	if r.Service != "" {
		if slices.Contains(p.services, r.Service) {
			return itself
		}
		return unnamed
	}
	result := unnamed
	for _, a := range p.aws {
		switch {
		case r.Principal != "" && a == r.Principal:
			return itself
		case r.RoleARN != "" && sameRole(a, r.RoleARN):
			result = byRole
		case r.Account != "" && accountOf(a) == r.Account:
			if strings.HasSuffix(r.Principal, ":root") {
				return itself
			}
			result = max(result, byAccount)
		}
	}
	return result
}

// accountOf returns the account that a principal names as a whole, else "".
func accountOf(principal string) string {
	if isAccount(principal) {
		return principal
	}
	if arn := strings.Split(principal, ":"); len(arn) == 6 && arn[2] == "iam" && arn[5] == "root" {
		return arn[4]
	}
	return ""
}

// sameRole compares role ARNs without their paths, which a session's ARN does
// not show; a role's name is unique in its account.
func sameRole(a, b string) bool {
	return pathless(a) == pathless(b)
}

func pathless(arn string) string {
	head, rest, ok := strings.Cut(arn, ":role/")
	if !ok {
		return arn
	}
	return head + ":role/" + rest[strings.LastIndexByte(rest, '/')+1:]
}

// Characters of a pattern that stand for themselves: what ${*} and ${?} leave.
const (
	literalStar     = '\x01'
	literalQuestion = '\x02'
)

var literal = strings.NewReplacer("*", string(literalStar), "?", string(literalQuestion))

// glob matches a pattern in which * stands for any run of characters and ? for one.
func glob(pattern, s string) bool {
	star, retry := -1, 0
	i, j := 0, 0
	for j < len(s) {
		switch {
		case i < len(pattern) && pattern[i] == '*':
			star, retry = i, j
			i++
		case i < len(pattern) && (pattern[i] == '?' || pattern[i] == s[j] ||
			pattern[i] == literalStar && s[j] == '*' || pattern[i] == literalQuestion && s[j] == '?'):
			i++
			j++
		case star >= 0:
			retry++
			i, j = star+1, retry
		default:
			return false
		}
	}
	return strings.Trim(pattern[i:], "*") == ""
}
