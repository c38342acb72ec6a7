package keypolicy

import (
	"slices"

	"github.com/cmkeeper/cmkeeper/finding"
)

// NewFindings returns the findings of a policy, after, that an earlier one, before,
// did not have; changes is the difference of the two (Diff). A finding is
// not new where the earlier policy had one of the same kind about the same
// principal, no less severe, and the change adds nothing to its statement. So
// what was accepted before stays so, however it is written, until it grows.
//
// With the policies swapped it returns what is gone.
func NewFindings(before, after []finding.Finding, changes []Change) []finding.Finding {
	var found []finding.Finding
	for _, f := range after {
		had := slices.ContainsFunc(before, func(o finding.Finding) bool {
			return o.ID == f.ID && o.Principal == f.Principal && o.Severity.AtLeast(f.Severity)
		})
		grew := f.Statement != "" && slices.ContainsFunc(changes, func(c Change) bool {
			return c.Kind == Added && c.Widens && c.Statement == f.Statement
		})
		if !had || grew {
			found = append(found, f)
		}
	}
	return found
}
