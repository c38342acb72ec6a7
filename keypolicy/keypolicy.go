// Package keypolicy reads the resource policy of a KMS key: who may do what
// ([Parse]), what is wrong with that ([Policy.Findings]), and what two policies
// have between them ([Diff]). It is pure: it knows the document and nothing else,
// neither IAM policies nor grants nor what an account's principals really are.
//
// Where the analysis cannot tell, it takes the side of the alarm: a condition
// that it does not understand never removes a finding, and a Deny counts only
// where it plainly closes an Allow.
package keypolicy

import "slices"

// Severity of a finding, in the words of package alert.
type Severity string

// The severities that findings have, in rising order.
const (
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

func (s Severity) rank() int { return slices.Index(severities, s) }

// lower returns the next severity down, and Low for Low.
func (s Severity) lower() Severity { return severities[max(0, s.rank()-1)] }

var severities = []Severity{Low, Medium, High, Critical}

// The kinds of findings, as Finding.ID names them.
const (
	// PublicPrincipal: any AWS account may use the key.
	PublicPrincipal = "public-principal"
	// PublicThroughService: any AWS account may use the key, though only through
	// the services that kms:ViaService names.
	PublicThroughService = "public-through-service"
	// AllowNotPrincipal: an Allow names whom it is not for, so it is for everybody else.
	AllowNotPrincipal = "allow-not-principal"
	// AllowNotAction: an Allow names what it is not about, so it is about all the
	// rest, with what KMS will add.
	AllowNotAction = "allow-not-action"
	// ForeignAccount: a principal of an account that is neither the key's own nor trusted.
	ForeignAccount = "foreign-account"
	// FullControl: somebody besides the account's root may both use and give away the key.
	FullControl = "full-control"
	// AdministrationAndUse: one principal both administers the key and uses it, in
	// statements that are meant for one of it each (no separation of duties).
	AdministrationAndUse = "administration-and-use"
	// RewritableByUser: one that uses the key may change its policy, and so can
	// give itself every other right.
	RewritableByUser = "rewritable-by-user"
	// UnconstrainedGrants: one that may not change the policy may make grants of
	// anything to anybody.
	UnconstrainedGrants = "unconstrained-grants"
	// CriticalWithoutMFA: a user, who has access keys, may do without MFA what
	// cannot be undone or stops everything. Roles are not judged: those of
	// machines have no MFA, and for people it is asked for where they assume them.
	CriticalWithoutMFA = "critical-without-mfa"
	// Lockout: nobody in the key's account may change the policy.
	Lockout = "lockout"
	// NoRootDelegation: the account's root cannot administer the key, so it is
	// lost with the principals that the policy names.
	NoRootDelegation = "no-root-delegation"
	// LockoutCheckBypassed: the policy was set with KMS's own check switched off.
	LockoutCheckBypassed = "lockout-check-bypassed"
	// ServiceWithoutSource: an AWS service may use the key on anybody's behalf
	// (the confused deputy).
	ServiceWithoutSource = "service-without-source"
	// UnknownPrincipal: a principal of which nobody can say to which account it
	// belongs; ids like AIDA… stand for users and roles that were deleted.
	UnknownPrincipal = "unknown-principal"
	// NoEffect: KMS ignores the statement, because its Action or Resource is missing.
	NoEffect = "no-effect"
)

// Finding is one thing that is wrong with a policy. Its texts hold parts of the
// policy as they are: escape them before they are shown.
type Finding struct {
	ID       string // one of the kinds above
	Severity Severity
	// Statement is the statement's Sid, or "#n" (from 1) where it has none; ""
	// for a finding about the whole policy.
	Statement string
	// Principal is whom it is about: an ARN, an account id, a service, "*" or "".
	Principal string
	// Message is one sentence for people.
	Message string
	// Bound: it is about everyone, though a condition keeps out whoever is not in
	// some organization or network, or is no AWS service.
	Bound bool
}

// Exposes reports whether the finding says that the key is open to everyone, or
// to an account that is not trusted, for more than reading its settings. What is
// Bound, and use through services alone, do not count.
func (f Finding) Exposes() bool {
	switch f.ID {
	case PublicPrincipal, PublicThroughService, AllowNotPrincipal, ForeignAccount:
		return !f.Bound && f.Severity.rank() >= High.rank()
	}
	return false
}

// Context is what a policy is judged against.
type Context struct {
	// Account is the key's account.
	Account string
	// TrustedAccounts may use the key as well.
	TrustedAccounts []string
	// KeyARN, where known, leaves out the statements whose Resource is another
	// key; "" counts every statement.
	KeyARN string
	// BypassLockoutSafetyCheck is how the policy was set, where that is known.
	BypassLockoutSafetyCheck bool
}

func (c Context) trusts(account string) bool {
	return account == c.Account || slices.Contains(c.TrustedAccounts, account)
}
