package keypolicy

import "slices"

// Rule explains a kind of finding to whoever has to act on it.
type Rule struct {
	ID string // Finding.ID
	// Worst is the highest severity that its findings have.
	Worst Severity
	// Title is a few words; Why says what comes of it and Fix what to do about it,
	// both in sentences.
	Title, Why, Fix string
}

// Rules returns the rule of every kind of finding, in the order in which people
// should read them.
func Rules() []Rule { return slices.Clone(rules) }

// RuleOf returns the rule of a kind of finding.
func RuleOf(id string) (rule Rule, ok bool) {
	i := slices.IndexFunc(rules, func(r Rule) bool { return r.ID == id })
	if i < 0 {
		return Rule{}, false
	}
	return rules[i], true
}

var rules = []Rule{
	{
		PublicPrincipal, Critical, "The key is open to every AWS account",
		"A key policy that allows everyone needs no IAM policy on the other side: whoever learns the key's ARN may do what the statement says. Severity high for using the key, critical for taking it over; a condition that a stranger cannot meet lowers it.",
		"Name the accounts or roles that need the key in Principal. Where everybody in an organisation is meant, add a condition on aws:PrincipalOrgID; where one account is meant, one on kms:CallerAccount.",
	},
	{
		AllowNotPrincipal, Critical, "Allow for all but a few principals",
		"Allow with NotPrincipal is an Allow for everyone else in the world, other accounts included.",
		"Write whom it is for, in Principal. To keep somebody out, use a Deny beside it.",
	},
	{
		ForeignAccount, Critical, "An account that is not trusted may use the key",
		"The other account's administrators decide who there uses the key; you see neither those roles nor when they change. Severity critical where it may take the key over, medium where it may only look at it.",
		"If the account is yours or a partner's, add it to the trusted accounts (--trusted-account, CMKEEPER_TRUSTED_ACCOUNTS). If not, remove it from the statement and look in CloudTrail for what it did with the key.",
	},
	{
		Lockout, Critical, "Nobody may change the policy any more",
		"No principal of the key's account may call kms:PutKeyPolicy. KMS has no other way in: only AWS Support can restore access, and everything under the key hangs on that.",
		"Keep a statement that lets the account's root, or at least one role of the account, call kms:PutKeyPolicy, and no Deny that closes it.",
	},
	{
		FullControl, High, "One principal may both use the key and give it away",
		"Whoever may decrypt and change the policy can read the data, let others read it, and destroy the key; nobody else has to agree.",
		"Give administration (kms:PutKeyPolicy, kms:ScheduleKeyDeletion, …) and use (kms:Decrypt, kms:GenerateDataKey, …) to different roles, and name the actions that each one needs.",
	},
	{
		NoRootDelegation, Medium, "The account's root cannot administer the key",
		"IAM policies do not count for this key, and once the users and roles that the policy names are deleted nobody can manage it.",
		"Add AWS's own first statement: Allow kms:* to arn:aws:iam::ACCOUNT:root. It gives nobody access by itself; it lets IAM policies do so.",
	},
	{
		LockoutCheckBypassed, Medium, "The policy was set without KMS's lock-out check",
		"With bypassPolicyLockoutSafetyCheck KMS does not make sure that the caller can still change the policy afterwards. There is hardly ever a reason for it but hiding a takeover.",
		"Ask whoever set it why. Deny kms:PutKeyPolicy and kms:CreateKey where kms:BypassPolicyLockoutSafetyCheck is true, for everybody.",
	},
	{
		ServiceWithoutSource, Medium, "A service may use the key on anybody's behalf",
		"An AWS service acts for all its customers. Without a condition on the source, a customer in another account can have it use your key (the confused deputy).",
		"Add a condition on aws:SourceAccount, or on aws:SourceArn with the resource that the service works for.",
	},
	{
		UnknownPrincipal, Medium, "A principal that belongs to no known account",
		"Ids like AIDA… and AROA… are users and roles that were deleted; other principals without an account cannot be judged from the policy.",
		"Remove the ids of what was deleted. For the others, name the role's or the user's ARN.",
	},
}
