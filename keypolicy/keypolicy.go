// Package keypolicy analyses the resource policy of a KMS key: who may do what
// ([Parse]), what is wrong with that ([Policy.Findings]), and how two policies differ
// ([Diff]). It is pure and knows only the document: no IAM policies, no grants, and not
// which principals an account has.
//
// In doubt it reports: a condition that it does not understand never removes a
// finding, and a Deny counts only where it certainly applies.
package keypolicy

import (
	"slices"
	"strings"
	"time"
)

// Context is what a policy is judged against.
type Context struct {
	// Account is the key's account.
	Account string
	// TrustedAccounts may use the key as well.
	TrustedAccounts []string
	// TrustedOrgs are the organizations (o-…) whose accounts may use the key as well: as
	// a rule one's own. Which accounts belong to one is not known here, so they count
	// where a condition names the organization.
	TrustedOrgs []string
	// KeyARN, where known, leaves out the statements whose Resource is another
	// key; "" counts every statement.
	KeyARN string
	// BypassLockoutSafetyCheck is how the policy was set, where that is known.
	BypassLockoutSafetyCheck bool
	// Now is when the policy is judged; a statement whose time is over does not count.
	// The zero value counts all of them.
	Now time.Time
}

func (c Context) trusts(account string) bool {
	return account == c.Account || slices.Contains(c.TrustedAccounts, account)
}

// partitions returns the AWS partitions that the key may be in: one where it is known.
func (c Context) partitions() []string {
	if parts := strings.SplitN(c.KeyARN, ":", 3); len(parts) == 3 && slices.Contains(allPartitions, parts[1]) {
		return parts[1:2]
	}
	return allPartitions
}

var allPartitions = []string{"aws", "aws-cn", "aws-us-gov", "aws-iso", "aws-iso-b", "aws-iso-e", "aws-iso-f", "aws-eusc"}
