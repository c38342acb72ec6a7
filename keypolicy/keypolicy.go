// Package keypolicy analyses the resource policy of a KMS key: who may do what
// ([Parse]), what is wrong with that ([Policy.Findings]), and how two policies differ
// ([Diff]). It is pure and knows only the document: no IAM policies, no grants, and not
// which principals an account has.
//
// In doubt it reports: a condition that it does not understand never removes a
// finding, and a Deny counts only where it certainly applies.
package keypolicy

import "slices"

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
