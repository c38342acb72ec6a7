package iam

import (
	"cmp"
	"slices"
	"strings"
)

// Resource is what a request is about, from the side of the resource.
type Resource struct {
	// Account is the owner, twelve digits.
	Account string
	// Policy is the resource's own policy, without which nobody may do anything, as that of a
	// KMS key. Nil is a resource that has none, and is left to identity policies.
	Policy *Policy
	// Grants are those of a KMS key.
	Grants []Grant
}

// Grant lets a principal do operations of KMS on a key.
type Grant struct {
	// Grantee is the ARN of a user, a role or a session.
	Grantee string
	// Operations are named without "kms:".
	Operations []string
	// ContextEquals and ContextSubset are constraints on the encryption context, nil for none.
	ContextEquals, ContextSubset map[string]string
}

// Answer is whether a request is allowed, and if not, why not in the words that end AWS's
// messages ("because no identity-based policy allows the kms:Decrypt action").
type Answer struct {
	Allowed bool
	Reason  string
}

// Decide is AWS's answer to the request of a caller whose identity policies and permissions
// boundary say identity and boundary (Allow where there is none): ImplicitDeny, Allow or
// ExplicitDeny. The sources are the IAM User Guide, "Policy evaluation logic" and
// "Permissions boundaries", and the KMS Developer Guide, "Troubleshooting key access".
func Decide(r Request, on Resource, identity, boundary Decision) Answer {
	resource := ImplicitDeny
	if on.Policy != nil {
		resource = on.Policy.evaluate(r)
	}
	for _, said := range []struct {
		decision Decision
		by       string
	}{{resource, "a resource-based policy"}, {identity, "an identity-based policy"}, {boundary, "a permissions boundary"}} {
		if said.decision == ExplicitDeny {
			return Answer{Reason: "with an explicit deny in " + said.by}
		}
	}
	// Nobody documents that a boundary limits grants, nor that those of another account's
	// principals need an identity policy; here they do not.
	if slices.ContainsFunc(on.Grants, func(g Grant) bool { return g.allows(r) }) {
		return Answer{Allowed: true}
	}
	foreign := r.Account != on.Account && r.Service == ""
	var silent string
	switch {
	case on.Policy != nil && resource == ImplicitDeny:
		silent = "resource-based policy"
	case (on.Policy == nil || resource == AllowAccount || foreign) && identity != Allow:
		silent = "identity-based policy"
	// The boundary limits what the policy gives to the account and to a role's ARN, not what
	// it gives to a user's or a session's ARN or, as AWS says for a wildcard, to everybody.
	case (on.Policy == nil || resource < Allow || foreign) && boundary != Allow:
		silent = "permissions boundary"
	default:
		return Answer{Allowed: true}
	}
	return Answer{Reason: "because no " + silent + " allows the " + r.Action + " action"}
}

// encryptionContext begins the condition keys of an encryption context, in lower case.
const encryptionContext = "kms:encryptioncontext:"

// allows reports whether the grant allows the request. Constraints are about cryptographic
// operations with an encryption context only, and names in them ignore case (KMS API
// Reference, GrantConstraints).
func (g Grant) allows(r Request) bool {
	operation, ofKMS := strings.CutPrefix(r.Action, "kms:")
	if !ofKMS || g.Grantee == "" || g.Grantee != r.Principal && (r.RoleARN == "" || !sameRole(g.Grantee, r.RoleARN)) ||
		!slices.Contains(g.Operations, operation) {
		return false
	}
	if carries, _ := Carries(r.Action, encryptionContext); !carries || operation == "CreateGrant" || operation == "RetireGrant" {
		return true
	}
	given := map[string]string{}
	for name, value := range r.Context {
		if name, ok := strings.CutPrefix(strings.ToLower(name), encryptionContext); ok {
			given[name] = value
		}
	}
	has := func(terms map[string]string) bool {
		for name, value := range terms {
			if have, ok := given[strings.ToLower(name)]; !ok || have != value {
				return false
			}
		}
		return true
	}
	return (g.ContextEquals == nil || len(g.ContextEquals) == len(given) && has(g.ContextEquals)) && has(g.ContextSubset)
}

// Decide is AWS's answer to a request of the account's root user, one of its users or a
// session of one of its roles; a role's ARN as the Principal stands for a session of it.
// The request need not have the RoleARN, the Account and those condition keys that follow
// from the caller and the resource: aws:username, aws:userid, aws:PrincipalType,
// aws:PrincipalTag, aws:ResourceAccount, and the tags and the boundary of a role or user of
// the account that is the resource. What it has of them counts.
//
// Known is false, and there is no answer, for a caller that the account does not have.
func (a *Account) Decide(r Request, on Resource) (answer Answer, known bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.decide(r, on)
}

func (a *Account) decide(r Request, on Resource) (answer Answer, known bool) {
	caller := a.principal(r.Principal)
	root := r.Principal == "arn:aws:iam::"+a.id+":root"
	if caller == nil && !root {
		return Answer{}, false
	}
	r = a.complete(r, caller, root, on.Account)
	if root {
		return Decide(r, on, Allow, Allow), true
	}
	identity, boundary := ImplicitDeny, Allow
	for _, p := range a.policiesOf(caller) {
		identity = max(identity, p.Evaluate(r))
	}
	if r.bounded {
		boundary = a.policies[caller.Boundary].policy.Evaluate(r)
	}
	return Decide(r, on, identity, boundary), true
}

// policiesOf are the identity policies of a user or role, a user's groups' included.
func (a *Account) policiesOf(e *entity) []*Policy {
	list := slices.Clone(e.policies)
	for _, arn := range e.Attached {
		list = append(list, a.policies[arn].policy)
	}
	for _, g := range e.groups {
		list = append(list, a.policiesOf(a.groups[g])...)
	}
	return list
}

// complete adds to a request what follows from the resource and from a caller of the account.
func (a *Account) complete(r Request, caller *entity, root bool, owner string) Request {
	facts := map[string]string{"aws:resourceaccount": owner}
	tags := func(e *entity, prefixes ...string) {
		for name, value := range e.Tags {
			for _, prefix := range prefixes {
				facts[prefix+strings.ToLower(name)] = value
			}
		}
	}
	if about := a.principal(r.Resource); about != nil && owner == a.id {
		tags(about, "aws:resourcetag/", "iam:resourcetag/")
		if about.Boundary != "" {
			facts["iam:permissionsboundary"] = about.Boundary
		}
	}
	switch {
	case root:
		r.Account, facts["aws:principaltype"], facts["aws:userid"] = a.id, "Account", a.id
	case caller != nil && caller.trust == nil:
		r.Account, facts["aws:principaltype"], facts["aws:userid"], facts["aws:username"] = a.id, "User", caller.id, caller.Name
	case caller != nil:
		if r.Principal == caller.arn {
			r.Principal = "arn:aws:sts::" + a.id + ":assumed-role/" + caller.Name + "/session"
		}
		r.Account, r.RoleARN, facts["aws:principaltype"] = a.id, caller.arn, "AssumedRole"
		facts["aws:userid"] = caller.id + ":" + r.Principal[strings.LastIndexByte(r.Principal, '/')+1:]
	}
	if caller != nil {
		tags(caller, "aws:principaltag/")
		r.bounded = caller.Boundary != ""
	}
	for name, value := range r.Context {
		if folded := strings.ToLower(name); !strings.HasPrefix(folded, encryptionContext) { // whose names may differ in case alone
			name = folded
		}
		facts[name] = value
	}
	r.Context = facts
	return r
}

// Assume is AWS's answer to whether the caller of a request may assume the role of the ARN
// (sts:AssumeRole): one whom the role's trust policy names, or whose account it names and
// whose identity policies allow it. The identity policies of another account's principal are
// not seen and taken to allow it. The request's Action, sts:AssumeRole if empty, may be
// another one of the trust policy; its Resource is the role.
//
// Known is false for a role that the account does not have, and for a caller that it should
// have and does not.
func (a *Account) Assume(r Request, role string) (answer Answer, known bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	e := a.principal(role)
	if e == nil || e.trust == nil {
		return Answer{}, false
	}
	r.Action, r.Resource = cmp.Or(r.Action, "sts:AssumeRole"), e.arn
	on := Resource{Account: a.id, Policy: e.trust}
	if strings.HasSuffix(r.Principal, ":root") {
		return Answer{Reason: "because roles may not be assumed by root accounts"}, true
	}
	if answer, known = a.decide(r, on); known || r.Account == a.id {
		return answer, known
	}
	return Decide(a.complete(r, nil, false, a.id), on, Allow, Allow), true
}

// Trusts reports whether the trust policy of the role of the ARN lets the caller of a request
// in, whatever the caller's own policies say.
func (a *Account) Trusts(r Request, role string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	e := a.principal(role)
	if e == nil || e.trust == nil {
		return false
	}
	r.Action, r.Resource = cmp.Or(r.Action, "sts:AssumeRole"), e.arn
	return Decide(a.complete(r, nil, false, a.id), Resource{Account: a.id, Policy: e.trust}, Allow, Allow).Allowed
}
