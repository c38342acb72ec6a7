package keypolicy

import "slices"

// NewFindings returns the findings of a policy, after, that are news to an
// earlier one, before; changes is the difference of the two (Diff). A finding is
// not new where the earlier policy had one of the same kind about the same
// principal, no less severe, and the change adds nothing to its statement. So
// what was put up with stays so, however it is written, until it grows.
//
// With the policies swapped it returns what is gone.
func NewFindings(before, after []Finding, changes []Change) []Finding {
	var found []Finding
	for _, f := range after {
		had := slices.ContainsFunc(before, func(o Finding) bool {
			return o.ID == f.ID && o.Principal == f.Principal && o.Severity.rank() >= f.Severity.rank()
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
