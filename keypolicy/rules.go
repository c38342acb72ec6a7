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
		"A key policy that allows everyone needs no IAM policy on the other side: whoever learns the key's ARN may do what the statement says. Severity critical for reading data or taking the key over, high for other use; a condition that a stranger cannot meet lowers it.",
		"Name the accounts or roles that need the key in Principal. Where everybody in an organisation is meant, add a condition on aws:PrincipalOrgID; where one account is meant, one on kms:CallerAccount.",
	},
	{
		PublicThroughService, High, "The key is open to every AWS account through a service",
		"kms:ViaService says through which service a call comes, not whose call it is: anybody's bucket, queue or volume can be under this key, and whoever gets at the ciphertext in that service gets at the data. Severity high where the service can also make grants.",
		"Add a condition on kms:CallerAccount beside the one on kms:ViaService, as AWS does for its own keys.",
	},
	{
		AllowNotPrincipal, Critical, "Allow for all but a few principals",
		"Allow with NotPrincipal is an Allow for everyone else in the world, other accounts included.",
		"Write whom it is for, in Principal. To keep somebody out, use a Deny beside it.",
	},
	{
		AllowNotAction, Medium, "Allow for all but a few actions",
		"Allow with NotAction grants everything that is not named, kms:PutKeyPolicy and kms:ScheduleKeyDeletion if they are not, and every action that KMS will add. Severity low where only the account's root has it.",
		"Write what is needed, in Action. To keep an action from somebody, use a Deny beside it.",
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
		RewritableByUser, Medium, "One that uses the key may change its policy",
		"kms:PutKeyPolicy is every other right one step later. A role that an application runs as can so make the key public, or delete it.",
		"Take kms:PutKeyPolicy (and kms:Put*) from the role. Who changes the policy should be an administrator that cannot decrypt.",
	},
	{
		UnconstrainedGrants, Medium, "Grants of anything to anybody",
		"A grant gives another principal, of any account, the use of the key, without a change of the policy and without a trace in it. A role that may make grants without a condition can pass on all that grants can hold.",
		"Add a condition: Bool kms:GrantIsForAWSResource true where AWS services make the grants, as nearly always; else kms:GrantOperations, kms:GranteePrincipal or kms:GrantConstraintType.",
	},
	{
		AdministrationAndUse, Low, "One principal both administers the key and uses it",
		"Nobody else has to agree when that principal makes a mistake, or its credentials are stolen: it can read the data and shut everybody else out.",
		"Give administration and use to different roles.",
	},
	{
		CriticalWithoutMFA, Low, "A user may destroy the key without MFA",
		"A user has access keys, which are found in repositories and on laptops. With them alone, what cannot be undone or stops everything that uses the key can be done. Only users are judged: roles are assumed, and MFA is asked for there.",
		"Add Bool aws:MultiFactorAuthPresent true to the statement, or a Deny with BoolIfExists aws:MultiFactorAuthPresent false. A Deny with Bool alone does not hold for access keys. A long waiting period (kms:ScheduleKeyDeletionPendingWindowInDays) counts for deletion.",
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
		NoEffect, Medium, "KMS ignores the statement",
		"KMS takes a statement without Resource or without Action, and ignores it. A Deny so written (severity medium) denies nothing, and an Allow for the account's root leaves the key without an administrator.",
		"Add the missing element; Resource is \"*\" in a key policy.",
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
