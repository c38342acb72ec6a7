package reaction

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/keypolicy"
)

// PolicySent returns the policy document that an event itself carries, "" for none,
// and whether KMS's lock-out check was bypassed.
func PolicySent(e events.Event) (document string, bypassed bool) {
	switch d := e.Detail.(type) {
	case events.PutKeyPolicy:
		return d.Policy, d.BypassPolicyLockoutSafetyCheck
	case events.CreateKey:
		return d.Policy, d.BypassPolicyLockoutSafetyCheck
	}
	return "", false
}

// Verdict is what is known of a policy.
type Verdict struct {
	Parsed  *keypolicy.Policy  // nil where it was not understood
	Found   []finding.Finding  // the worst first
	Changes []keypolicy.Change // from an earlier one
}

// Good reports whether nothing of a severity, or worse, was found.
func (v Verdict) Good(limit finding.Severity) bool {
	return v.Parsed != nil && !slices.ContainsFunc(v.Found, func(f finding.Finding) bool { return f.Severity.AtLeast(limit) })
}

// PolicyContext is what policies of a key are judged against.
func (e *Env) PolicyContext(keyARN string, bypassed bool) keypolicy.Context {
	return keypolicy.Context{
		Account: e.Config.Identity.Account, TrustedAccounts: e.Config.TrustedAccounts, TrustedOrgs: e.Config.TrustedOrgs,
		KeyARN: keyARN, BypassLockoutSafetyCheck: bypassed, Now: ledger.Now(),
	}
}

// JudgePolicy judges a policy document of a key; bypassed: it was set without KMS's
// lock-out check.
func (e *Env) JudgePolicy(keyARN, document string, bypassed bool) Verdict {
	policy, err := keypolicy.Parse([]byte(document))
	if err != nil {
		return Verdict{Found: []finding.Finding{{ID: finding.NotUnderstood, Severity: finding.High,
			Message: fmt.Sprintf("The policy cannot be judged, because it cannot be parsed: %v.", err)}}}
	}
	return Verdict{Parsed: policy, Found: policy.Findings(e.PolicyContext(keyARN, bypassed))}
}

// From adds how the policy differs from an earlier document. One that was not
// understood when it was live counts as none.
func (v Verdict) From(earlier string) Verdict {
	if v.Parsed != nil {
		before, err := keypolicy.Parse([]byte(earlier))
		if err != nil {
			before = nil
		}
		v.Changes = keypolicy.Diff(before, v.Parsed)
	}
	return v
}

// SameEffect reports whether two documents say the same, whatever their layout.
func SameEffect(a, b string) bool {
	if a == b {
		return true
	}
	pa, errA := keypolicy.Parse([]byte(a))
	pb, errB := keypolicy.Parse([]byte(b))
	return errA == nil && errB == nil && len(keypolicy.Diff(pa, pb)) == 0
}

// JudgeGrant returns what is wrong with a grant, the worst first. What an AWS service
// makes for itself or for a principal of the account (byService) is how encrypted
// volumes, tables and backups work.
func (e *Env) JudgeGrant(g inventory.Grant, byService bool) []finding.Finding {
	// With RetireGrant the grantee ends nothing but this grant.
	access := finding.Metadata | finding.AccessOf(slices.DeleteFunc(slices.Clone(g.Operations), func(o string) bool { return o == "RetireGrant" })...)
	var found []finding.Finding
	add := func(id finding.ID, severity finding.Severity, principal, format string, args ...any) {
		found = append(found, finding.Finding{ID: id, Severity: severity, Principal: principal, Message: fmt.Sprintf(format, args...), Access: access})
	}
	toService := g.GranteeService != "" || IsService(g.Grantee)
	owner := arn.Account(g.Grantee)
	foreign := e.IsForeign(g.Grantee)
	passOn := slices.Contains(g.Operations, "CreateGrant")
	switch {
	case toService:
	case foreign:
		// As for a policy that gives no more, with a condition on the encryption context or without.
		add(finding.GrantToForeignAccount, finding.Outsider(g.Operations...), g.Grantee, "account %s, which is not trusted, may %s by a grant to %s", owner, strings.Join(g.Operations, ", "), g.Grantee)
	case owner == "":
		add(finding.GrantToUnknown, finding.Medium, g.Grantee, "The account of the grantee %q is unknown: it is a deleted principal, or one of another account.", g.Grantee)
	}
	if passOn && !toService {
		severity := finding.Medium
		if foreign {
			severity = finding.Critical
		}
		add(finding.GrantCanBePassedOn, severity, g.Grantee, "The grantee may make further grants, and so give access to anybody.")
	}
	if !g.Constrained && !toService && !foreign {
		add(finding.GrantWithoutConstraint, finding.Low, g.Grantee, "The grant has no constraint on the encryption context, so it covers everything encrypted under the key.")
	}
	if e.IsForeign(g.Retiring) {
		add(finding.GrantRetiredByForeign, finding.Medium, g.Retiring, "%s of account %s, which is not trusted, may retire the grant.", g.Retiring, arn.Account(g.Retiring))
	}
	dangerous := slices.ContainsFunc(found, func(f finding.Finding) bool {
		return f.ID == finding.GrantToForeignAccount || f.ID == finding.GrantRetiredByForeign
	})
	if byService && !dangerous {
		return nil
	}
	return finding.WorstFirst(found)
}

// IsService reports whether a principal is an AWS service.
func IsService(principal string) bool { return strings.HasSuffix(principal, ".amazonaws.com") }

// IsForeign reports whether an ARN, of a key or a principal, shows an account that is
// neither the guarded one nor trusted.
func (e *Env) IsForeign(name string) bool {
	owner := arn.Account(name)
	return owner != "" && owner != e.Config.Identity.Account && !slices.Contains(e.Config.TrustedAccounts, owner)
}
