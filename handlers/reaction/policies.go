package reaction

import (
	"slices"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
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
	return e.Config.Posture.Context(keypolicy.Context{KeyARN: keyARN, BypassLockoutSafetyCheck: bypassed, Now: ledger.Now()})
}

// JudgePolicy judges a policy document of a key; bypassed: it was set without KMS's
// lock-out check.
func (e *Env) JudgePolicy(keyARN, document string, bypassed bool) Verdict {
	parsed, found := e.Config.Posture.JudgePolicy(e.PolicyContext(keyARN, bypassed), document)
	return Verdict{Parsed: parsed, Found: found}
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
