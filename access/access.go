// Package access says who may use a KMS key and by what: the key's policy, its grants, and
// the IAM policies of its account's users, groups and roles with their permissions
// boundaries.
//
// It decides as AWS documents it (IAM User Guide, "Policy evaluation logic"; KMS Developer
// Guide, "Troubleshooting key access"), for a request of which only the caller and the key
// are known. What depends on anything else, such as an address or an encryption context, is
// conditional: for some requests it is so, and for others not. In doubt it is conditional,
// and never nobody. Service control policies, resource control policies and session
// policies are not seen; they can only take away.
package access

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/keypolicy"
)

// Key is what is known of a key.
type Key struct {
	inventory.Key
	// Policy is the key policy's document.
	Policy string
	Grants []inventory.Grant
	// Tags may be nil where they could not be read: then what depends on them is
	// conditional.
	Tags map[string]string
	// Aliases are the names of the key's aliases ("alias/app"); nil where they could not
	// be read.
	Aliases []string
}

// Verdict says whether a principal may do something.
type Verdict string

// The verdicts.
const (
	// No: never.
	No Verdict = "no"
	// Conditional: it depends on what is not known of the request.
	Conditional Verdict = "conditional"
	// Yes: always.
	Yes Verdict = "yes"
)

// Kind is what kind of policy gives or takes a right.
type Kind string

// The kinds.
const (
	KeyPolicy      Kind = "key policy"
	Delegation     Kind = "key policy, for the account" // so that IAM policies count
	IdentityPolicy Kind = "IAM policy"
	Boundary       Kind = "permissions boundary"
	Grant          Kind = "grant"
)

// Way is a statement or grant that gives a right or takes it.
type Way struct {
	Kind Kind `json:"kind"`
	// Policy is the ARN of a managed policy, the name of an inline one, or a grant's id; ""
	// for the key policy. Group is the group that has the policy, "" where the principal
	// has it itself.
	Policy string `json:"policy,omitempty"`
	Group  string `json:"group,omitempty"`
	// Statement is its Sid, or "#n" (from 1) where it has none.
	Statement string `json:"statement,omitempty"`
	// Conditions must all hold, as far as they are not known to.
	Conditions []string `json:"conditions,omitempty"`
}

// Right is what a principal may do by the same ways.
type Right struct {
	// Actions are KMS's, such as "kms:Decrypt".
	Actions []string `json:"actions"`
	Verdict Verdict  `json:"verdict"`
	// Ways give the right, any one of them. Those of kind IdentityPolicy count only by one
	// of the ways in Account, and, where the principal has a boundary, by one of Boundary.
	Ways     []Way `json:"ways"`
	Account  []Way `json:"account,omitempty"`
	Boundary []Way `json:"boundary,omitempty"`
	// Unless take the right, any one of them, where their conditions hold.
	Unless []Way `json:"unless,omitempty"`
}

// Holder is a principal that may do something with a key.
type Holder struct {
	// Principal is its ARN, an account's id, a service, an identity provider or "*".
	Principal string `json:"principal"`
	// Type is user, role, root, account, service, federated, session, unknown or everyone.
	Type string `json:"type"`
	// Outside: the account's IAM does not have it, so its own policies are not seen.
	Outside bool `json:"outside,omitempty"`
	// LastUsed is when a role last called anything, as IAM says it; zero where it does not.
	// Used is when it last called for the key, where CloudTrail was asked; zero for not in
	// the time that it was asked for.
	LastUsed time.Time `json:"last_used,omitzero"`
	Used     time.Time `json:"used,omitzero"`
	Rights   []Right   `json:"rights"`
	// Assumers can become the role, if it is one; MoreAssumers is how many more there are.
	Assumers     []Assumer `json:"assumers,omitempty"`
	MoreAssumers int       `json:"more_assumers,omitempty"`
}

// May returns the verdict on an action ("kms:Decrypt").
func (h Holder) May(action string) Verdict {
	for _, r := range h.Rights {
		if slices.Contains(r.Actions, action) {
			return r.Verdict
		}
	}
	return No
}

// Can returns what the holder may do always, and what it may do always or under conditions.
func (h Holder) Can() (always, ever finding.Access) {
	for _, r := range h.Rights {
		access := finding.AccessOf(r.Actions...)
		ever |= access
		if r.Verdict == Yes {
			always |= access
		}
	}
	return always, ever
}

// Review answers for an account. It is made once, and then for any number of keys. It is not
// safe for concurrent use.
type Review struct {
	account Account
	context Context
	// documents are the parsed policies, by their text.
	documents map[string]document
	// atoms are the conditions that are not known, verdicts those on formulas of them.
	atoms    map[string]*atom
	verdicts map[string]Verdict
	// trusts are the trust policies, by the role's ARN, and principals those
	// of the account.
	trusts     map[string]trusted
	principals map[string]*Principal
	// rules are those of policies on actions of IAM by their text, steppers those of
	// principals.
	rules    map[string][]stepRule
	steppers map[*Principal]*stepper
	// assuming are those who may assume a role, by its ARN, and all is subjects' answer.
	assuming map[string][]assuming
	all      []subject
}

// Context is what an account is judged against.
type Context struct {
	// TrustedAccounts may assume roles, and so may TrustedOrgs (o-…), as far as a trust policy
	// names them in a condition.
	TrustedAccounts, TrustedOrgs []string
	// Now is when; a policy's time that is over does not count.
	Now time.Time
}

// New returns a review of an account.
func New(a Account, c Context) *Review {
	r := &Review{
		account: a, context: c, documents: map[string]document{}, atoms: map[string]*atom{}, verdicts: map[string]Verdict{},
		trusts: map[string]trusted{}, principals: map[string]*Principal{},
		rules: map[string][]stepRule{}, steppers: map[*Principal]*stepper{}, assuming: map[string][]assuming{},
	}
	for _, list := range [][]Principal{a.Users, a.Roles} {
		for i := range list {
			r.principals[list[i].ARN] = &list[i]
		}
	}
	return r
}

// Holders returns everybody who may do something with a key of the account, those of the
// account's IAM first, each kind in the order of their names. Who can become one of the roles
// is not among it: see [Review.Report].
func (r *Review) Holders(k Key) ([]Holder, error) {
	q, err := r.about(k)
	if err != nil {
		return nil, err
	}
	var all []Holder
	for _, s := range r.subjects() {
		if rights := q.rights(s); len(rights) > 0 {
			all = append(all, holderOf(s, rights))
		}
	}
	for _, s := range q.outsiders() {
		if rights := q.rights(s); len(rights) > 0 {
			all = append(all, Holder{Principal: s.arn, Type: s.kind, Outside: true, Rights: rights})
		}
	}
	return all, nil
}

// Of returns what one user or role of the account may do with a key, by its ARN. ok is false
// where the account's IAM has none of the name.
func (r *Review) Of(principal string, k Key) (h Holder, ok bool, err error) {
	s, ok := r.subject(principal)
	if !ok {
		return h, false, nil
	}
	q, err := r.about(k)
	if err != nil {
		return h, true, err
	}
	h = holderOf(s, q.rights(s))
	r.addAssumers(&h)
	return h, true, nil
}

// holderOf is a principal of the account with its rights.
func holderOf(s subject, rights []Right) Holder {
	return Holder{Principal: s.arn, Type: s.kind, LastUsed: s.lastUsed, Rights: rights}
}

// addAssumers adds who can become a role that holds the key.
func (r *Review) addAssumers(h *Holder) {
	if p := r.principals[h.Principal]; p != nil && p.Role && len(h.Rights) > 0 {
		h.Assumers, h.MoreAssumers = r.assumers(p)
	}
}

// Decide decides on a request of a user or role of the account, of which all condition keys
// are given that it has beside those of the caller and the key. The encryption context's
// are named "kms:EncryptionContext:NAME".
func (r *Review) Decide(principal, action string, k Key, request map[string][]string) (Verdict, error) {
	s, ok := r.subject(principal)
	if !ok {
		return No, nil
	}
	q, err := r.about(k)
	if err != nil {
		return No, err
	}
	q.request, q.complete = map[string][]string{}, true
	for name, values := range request {
		q.request[keypolicy.ConditionKey(name)] = values
	}
	return q.decide(s, q.rules(s), keypolicy.ActionsOf(action)).verdict, nil
}

// subject is a possible caller.
type subject struct {
	arn, kind, account string
	lastUsed           time.Time
	// principal is what IAM has of it; nil for one that IAM does not have.
	principal *Principal
	// anyTags: its tags may be any.
	anyTags bool
}

// subjects are those of the account's IAM, and its root.
func (r *Review) subjects() []subject {
	if r.all == nil {
		for _, p := range r.principals {
			r.all = append(r.all, subjectOf(p, r.account.ID))
		}
		slices.SortFunc(r.all, func(a, b subject) int { return cmp.Or(-strings.Compare(a.kind, b.kind), strings.Compare(a.arn, b.arn)) })
		r.all = append(r.all, subject{arn: r.account.Root(), kind: "root", account: r.account.ID})
	}
	return r.all
}

func subjectOf(p *Principal, account string) subject {
	kind := "user"
	if p.Role {
		kind = "role"
	}
	return subject{arn: p.ARN, kind: kind, account: account, lastUsed: p.LastUsed, principal: p}
}

func (r *Review) subject(principal string) (subject, bool) {
	if p, ok := r.principals[principal]; ok {
		return subjectOf(p, r.account.ID), true
	}
	return subject{arn: principal, kind: "root", account: r.account.ID}, principal == r.account.Root()
}

// outsiders are those that the key's policy or a grant names and the account's IAM does not
// have.
func (q *question) outsiders() (all []subject) {
	add := func(s subject) {
		known := slices.ContainsFunc(all, func(o subject) bool { return o.arn == s.arn && o.kind == s.kind })
		if _, inside := q.review.subject(s.arn); !inside && !known {
			all = append(all, s)
		}
	}
	for _, st := range q.policy.Statements {
		if st.Deny {
			continue
		}
		if st.NotPrincipal {
			add(subject{arn: "*", kind: "everyone"})
			continue
		}
		for _, who := range st.Principals {
			if who.Type != "AWS" || who.ID != q.review.account.ID || q.review.account.Unread {
				add(outsider(who))
			}
		}
	}
	for _, g := range q.key.Grants {
		if g.GranteeService != "" {
			add(outsider(keypolicy.Principal{Type: "Service", ID: g.GranteeService}))
		} else {
			add(outsider(keypolicy.Principal{Type: "AWS", ID: g.Grantee}))
		}
	}
	slices.SortStableFunc(all, func(a, b subject) int { return cmp.Or(strings.Compare(a.kind, b.kind), strings.Compare(a.arn, b.arn)) })
	return all
}

// outsider is a principal that a key policy names.
func outsider(who keypolicy.Principal) subject {
	s := subject{arn: who.ID, account: arn.Account(who.ID), kind: "unknown"}
	switch resource := arn.Parse(who.ID).Resource; {
	case who.Type == "Service":
		s.kind, s.account = "service", ""
	case who.Type == "Federated":
		s.kind = "federated"
	case who.Type == "CanonicalUser":
	case who.ID == "*":
		s.kind = "everyone"
	case len(who.ID) == len("123456789012") && !strings.Contains(who.ID, ":"):
		s.kind, s.account = "account", who.ID
	case strings.HasPrefix(resource, "user/"):
		s.kind = "user"
	case strings.HasPrefix(resource, "role/"):
		s.kind = "role"
	case strings.HasPrefix(resource, "assumed-role/"), strings.HasPrefix(resource, "federated-user/"):
		s.kind = "session"
	}
	return s
}
