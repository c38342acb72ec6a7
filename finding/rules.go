package finding

import (
	"slices"
	"strings"
)

// ID names a rule ("public-principal"). Only this package makes one, each with its
// [Rule], so a finding without a definition cannot be written; the zero value is "".
type ID struct{ name string }

// String returns the name.
func (id ID) String() string { return id.name }

// Equal is == for go-cmp, which does not look into the ID.
func (id ID) Equal(other ID) bool { return id == other }

// MarshalText returns the name.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.name), nil }

// UnmarshalText takes every name: a stored finding may come from another version of
// cmkeeper.
func (id *ID) UnmarshalText(text []byte) error {
	id.name = string(text)
	return nil
}

// Rule returns the definition of the findings with this ID. One of another version of
// cmkeeper counts as the worst: it exposes the key and is never lowered.
func (id ID) Rule() Rule {
	if i := slices.IndexFunc(rules, func(r Rule) bool { return r.ID == id }); i >= 0 {
		return rules[i]
	}
	return Rule{ID: id, Worst: Critical, Effect: Exposes | Fixed}
}

// Subject is what a rule is about.
type Subject int

// The subjects.
const (
	OfPolicy   Subject = iota // a key policy, live or in a file
	OfGrant                   // a grant
	OfReaction                // what the worker noticed when it reacted or checked itself
	OfAccess                  // who may use a key, by the account's IAM
)

// Effect is what a finding does to the severity of an alert. Flags; none is that a
// pipeline or a sandbox lowers it.
type Effect int

// The effects.
const (
	Fixed   Effect = 1 << iota // nothing lowers it
	Exposes                    // the key may be open to those who are not trusted; see Finding.Exposes

	lowered Effect = 0
)

// accessMark in Rule.Risk stands for what a finding's principal can do.
const accessMark = "{access}"

// Rule defines a kind of finding, and explains it to those who have to act on it.
type Rule struct {
	ID      ID
	Subject Subject
	// Worst is the highest severity that its findings have.
	Worst  Severity
	Effect Effect
	// Title is a few words. Why says in sentences what follows from it, Fix what to do
	// about it.
	Title, Why, Fix string
	// Risk is the sentence that an alert says about what is at risk. "{access}" stands for
	// what the findings' Access names.
	Risk string
}

// grants reports whether findings of the rule say what somebody may do.
func (r Rule) grants() bool { return strings.Contains(r.Risk, accessMark) }

// Rules returns the rules about a subject, in the order in which people should read
// them.
func Rules(of Subject) []Rule {
	return slices.DeleteFunc(slices.Clone(rules), func(r Rule) bool { return r.Subject != of })
}

var rules []Rule

// define adds a rule. Its literal names no fields, so that it does not build before
// all of them are said.
func define(r Rule) ID {
	rules = append(rules, r)
	return r.ID
}

// The findings about a key policy.
var (
	// PublicPrincipal: any AWS account may use the key.
	PublicPrincipal = define(Rule{
		ID{"public-principal"}, OfPolicy, Critical, Exposes, "The key is open to every AWS account",
		"A key policy that allows everyone needs no IAM policy in the key's account: anyone who learns the key's ARN may do what the statement says. Severity critical for reading data or taking the key over, high for other use; a condition that a stranger cannot meet lowers it.",
		"Name the accounts or roles that need the key in Principal. Where everybody in your organization is meant, add a condition on aws:PrincipalOrgID and name the organization in the trusted ones (--trusted-org, CMKEEPER_TRUSTED_ORGS); where one account is meant, one on kms:CallerAccount.",
		"Anyone with an AWS account can {access}.",
	})
	// PublicThroughService: any AWS account may use the key, though only through
	// the services that kms:ViaService names.
	PublicThroughService = define(Rule{
		ID{"public-through-service"}, OfPolicy, High, Exposes, "The key is open to every AWS account through a service",
		"kms:ViaService says through which service a call comes, not whose call it is: anybody's bucket, queue or volume can be under this key, and anyone who gets at the ciphertext in that service gets at the data. Severity high where the service can also make grants.",
		"Add a condition on kms:CallerAccount beside the one on kms:ViaService, as AWS does for its own keys.",
		"Through the services that the statement names, anyone with an AWS account can {access}.",
	})
	// AllowNotPrincipal: an Allow names whom it is not for, so it is for everybody else.
	AllowNotPrincipal = define(Rule{
		ID{"allow-not-principal"}, OfPolicy, Critical, Exposes, "Allow for all but a few principals",
		"Allow with NotPrincipal is an Allow for everyone else in the world, other accounts included.",
		"Write whom it is for, in Principal. To keep somebody out, use a Deny beside it.",
		"Everyone but the principals that the statement names can {access}, from any AWS account.",
	})
	// AllowNotAction: an Allow names what it is not about, so it is about all the
	// rest, with what KMS will add.
	AllowNotAction = define(Rule{
		ID{"allow-not-action"}, OfPolicy, Medium, lowered, "Allow for all but a few actions",
		"Allow with NotAction grants everything that is not named, kms:PutKeyPolicy and kms:ScheduleKeyDeletion if they are not, and every action that KMS will add. Severity low where only the account's root has it.",
		"Write what is needed, in Action. To keep an action from somebody, use a Deny beside it.",
		"The principals of a statement with NotAction can call every action that it does not name, and those that KMS will add.",
	})
	// ForeignAccount: a principal of an account that is neither the key's own nor trusted.
	ForeignAccount = define(Rule{
		ID{"foreign-account"}, OfPolicy, Critical, Exposes, "An account that is not trusted may use the key",
		"The other account's administrators decide who there uses the key; you see neither those roles nor when they change. Severity critical where it may take the key over, medium where it may only look at it, high otherwise; the same by a grant.",
		"If the account is yours or a partner's, add it to the trusted accounts (--trusted-account, CMKEEPER_TRUSTED_ACCOUNTS). If not, remove it from the statement and look in CloudTrail for what it did with the key.",
		"An account that is not trusted can {access}.",
	})
	// Lockout: nobody in the key's account may change the policy.
	Lockout = define(Rule{
		ID{"lockout"}, OfPolicy, Critical, Fixed, "Nobody may change the policy any more",
		"No principal of the key's account may call kms:PutKeyPolicy. KMS has no other way in: only AWS Support can restore access, and everything encrypted under the key depends on that.",
		"Keep a statement that lets the account's root, or at least one role of the account, call kms:PutKeyPolicy, and no Deny that closes it.",
		"Nobody in the account can change the policy, and only AWS Support can restore access.",
	})
	// FullControl: somebody besides the account's root may both use and give away the key.
	FullControl = define(Rule{
		ID{"full-control"}, OfPolicy, High, lowered, "One principal may both use the key and give it away",
		"A principal that may decrypt and change the policy can read the data, let others read it, and destroy the key; nobody else has to agree.",
		"Give administration (kms:PutKeyPolicy, kms:ScheduleKeyDeletion, …) and use (kms:Decrypt, kms:GenerateDataKey, …) to different roles, and name the actions that each one needs.",
		"One principal alone can {access}.",
	})
	// RewritableByUser: one that uses the key may change its policy, and so can
	// give itself every other right.
	RewritableByUser = define(Rule{
		ID{"rewritable-by-user"}, OfPolicy, Medium, lowered, "A user of the key may change its policy",
		"kms:PutKeyPolicy is every other right one step later. A role that an application runs as can so make the key public, or delete it.",
		"Take kms:PutKeyPolicy (and kms:Put*) from the role. Administrators that may change the policy should not be able to decrypt.",
		"A principal that uses the key can change its policy, and so give itself and others every right.",
	})
	// UnconstrainedGrants: one that may not change the policy may make grants of
	// anything to anybody.
	UnconstrainedGrants = define(Rule{
		ID{"unconstrained-grants"}, OfPolicy, Medium, lowered, "Grants of anything to anybody",
		"A grant gives another principal, of any account, the use of the key, without a change of the policy and without a trace in it. A role that may make grants without a condition can pass on all that grants can hold.",
		"Add a condition: Bool kms:GrantIsForAWSResource true where AWS services make the grants, as nearly always; else kms:GrantOperations, kms:GranteePrincipal or kms:GrantConstraintType.",
		"A principal can let any other account use the key by a grant, which no policy shows.",
	})
	// AdministrationAndUse: one principal both administers the key and uses it, in
	// statements that are meant for one of it each (no separation of duties).
	AdministrationAndUse = define(Rule{
		ID{"administration-and-use"}, OfPolicy, Low, lowered, "One principal both administers the key and uses it",
		"Nobody else has to agree when that principal makes a mistake, or its credentials are stolen: it can read the data and shut everybody else out.",
		"Give administration and use to different roles.",
		"One principal both uses the key and administers it, so a single mistake or stolen credential reaches both.",
	})
	// CriticalWithoutMFA: a user, who has access keys, may do without MFA what
	// cannot be undone or stops everything. Roles are not judged: those of
	// machines have no MFA, and for people it is asked for where they assume them.
	CriticalWithoutMFA = define(Rule{
		ID{"critical-without-mfa"}, OfPolicy, Low, lowered, "A user may destroy the key without MFA",
		"A user has access keys, which are found in repositories and on laptops. They alone suffice to do what cannot be undone, or stops everything that uses the key. Only users are judged: roles are assumed, and MFA is asked for there.",
		"Add Bool aws:MultiFactorAuthPresent true to the statement, or a Deny with BoolIfExists aws:MultiFactorAuthPresent false. A Deny with Bool alone does not hold for access keys. A long waiting period (kms:ScheduleKeyDeletionPendingWindowInDays) counts for deletion.",
		"A stolen access key of a user is enough to put the key out of use.",
	})
	// NoRootDelegation: the account's root cannot administer the key, so it is
	// lost with the principals that the policy names.
	NoRootDelegation = define(Rule{
		ID{"no-root-delegation"}, OfPolicy, Medium, lowered, "The account's root cannot administer the key",
		"IAM policies do not count for this key, and once the users and roles that the policy names are deleted nobody can manage it.",
		"Add AWS's own first statement: Allow kms:* to arn:aws:iam::ACCOUNT:root. It gives nobody access by itself; it lets IAM policies do so.",
		"Nobody can manage the key once the principals that the policy names are deleted.",
	})
	// LockoutCheckBypassed: the policy was set with KMS's own check switched off.
	LockoutCheckBypassed = define(Rule{
		ID{"lockout-check-bypassed"}, OfPolicy, Medium, Fixed, "The policy was set without KMS's lock-out check",
		"With bypassPolicyLockoutSafetyCheck KMS does not make sure that the caller can still change the policy afterwards. There is hardly ever a reason for it but hiding a takeover.",
		"Ask the caller why. Deny kms:PutKeyPolicy and kms:CreateKey where kms:BypassPolicyLockoutSafetyCheck is true, for everybody.",
		"KMS did not check that the caller can still change the policy.",
	})
	// NoEffect: KMS ignores the statement, because its Action or Resource is missing.
	NoEffect = define(Rule{
		ID{"no-effect"}, OfPolicy, Medium, lowered, "KMS ignores the statement",
		"KMS takes a statement without Resource or without Action, and ignores it; it also takes a condition on a key that its requests never have, such as a key of another service, and the statement never holds. A Deny so written (severity medium) denies nothing, and an Allow for the account's root leaves the key without an administrator.",
		"Add the missing element; Resource is \"*\" in a key policy. Replace a condition key that requests for the statement's actions do not have.",
		"A statement that KMS ignores neither allows nor denies what it says.",
	})
	// UnknownAction: the statement names an action that KMS does not have.
	UnknownAction = define(Rule{
		ID{"unknown-action"}, OfPolicy, Medium, lowered, "The statement names an action that KMS does not have",
		"KMS takes any name of an action. One with a typing error allows and denies nothing: a Deny so written (severity medium) protects from nothing.",
		"Correct the name. If KMS has added the action since this version of cmkeeper was made, update cmkeeper.",
		"A misspelt action is neither allowed nor denied.",
	})
	// ServiceWithoutSource: an AWS service may use the key on anybody's behalf
	// (the confused deputy).
	ServiceWithoutSource = define(Rule{
		ID{"service-without-source"}, OfPolicy, Medium, lowered, "A service may use the key on anybody's behalf",
		"An AWS service acts for all its customers. Without a condition on the source, or with one that lets in an organization that is not trusted, a customer in another account can have it use your key (the confused deputy).",
		"Add a condition on aws:SourceAccount, or on aws:SourceArn with the resource that the service works for. Where your organization is meant, name it in aws:SourceOrgID and in the trusted ones (--trusted-org, CMKEEPER_TRUSTED_ORGS).",
		"An AWS service can {access}, on behalf of any of its customers.",
	})
	// UnknownPrincipal: a principal of which nobody can say to which account it
	// belongs; ids like AIDA… stand for users and roles that were deleted.
	UnknownPrincipal = define(Rule{
		ID{"unknown-principal"}, OfPolicy, Medium, lowered, "A principal that belongs to no known account",
		"Ids like AIDA… and AROA… are users and roles that were deleted; other principals without an account cannot be judged from the policy.",
		"Remove the ids of deleted users and roles. For the others, name the role's or the user's ARN.",
		"A principal of an unknown account can {access}, unless it was deleted.",
	})
)

// The findings about a grant.
var (
	// GrantToForeignAccount: it is for a principal of an account that is not trusted.
	GrantToForeignAccount = define(Rule{
		ID{"grant-to-foreign-account"}, OfGrant, Critical, Exposes | Fixed, "A grant lets in an account that is not trusted",
		"A grant gives the use of the key whatever the key policy says. Severity as in a policy (foreign-account): critical where the grantee may make further grants, medium where it may only look at the key, high otherwise.",
		"If the account is yours or a partner's, add it to CMKEEPER_TRUSTED_ACCOUNTS. If not, revoke the grant and look in CloudTrail for what the grantee did with the key.",
		"An account that is not trusted can {access}, whatever the key policy says.",
	})
	// GrantToUnknown: it is for a principal whose account does not show.
	GrantToUnknown = define(Rule{
		ID{"grant-to-unknown"}, OfGrant, Medium, lowered, "A grant for a principal of an unknown account",
		"The grantee is a principal that was deleted, or one whose account its name does not show.",
		"Find the grantee in CloudTrail's record of CreateGrant. Revoke the grant if nobody needs it.",
		"A principal of an unknown account can {access}, unless it was deleted.",
	})
	// GrantCanBePassedOn: the grantee may make further grants.
	GrantCanBePassedOn = define(Rule{
		ID{"grant-can-be-passed-on"}, OfGrant, Critical, lowered, "The grantee may make further grants",
		"The grantee can give all that it holds by the grant to any other principal. Severity critical where it belongs to an account that is not trusted.",
		"Make a grant without the operation CreateGrant, and revoke this one.",
		"The grantee can let in anybody else.",
	})
	// GrantWithoutConstraint: it holds for every encryption context.
	GrantWithoutConstraint = define(Rule{
		ID{"grant-without-constraint"}, OfGrant, Low, lowered, "A grant for everything under the key",
		"Without a constraint on the encryption context a grant holds for everything that is encrypted under the key, not only for what the grantee works with.",
		"Make a grant with EncryptionContextSubset or EncryptionContextEquals, where the data has an encryption context, and revoke this one.",
		"The grant holds for everything that is encrypted under the key.",
	})
	// GrantRetiredByForeign: a principal of an account that is not trusted may end it.
	GrantRetiredByForeign = define(Rule{
		ID{"grant-retired-by-foreign"}, OfGrant, Medium, lowered, "An account that is not trusted may end the grant",
		"The retiring principal can end the grant at any time, and what uses the key by it then fails.",
		"Make the grant again with a retiring principal of your own, and revoke this one.",
		"An account that is not trusted can end the grant, and what uses the key by it then fails.",
	})
)

// The findings of the worker, about what it reacted to and about itself.
var (
	// NotUnderstood: the policy cannot be parsed.
	NotUnderstood = define(Rule{
		ID{"not-understood"}, OfReaction, High, lowered, "The policy cannot be judged",
		"The live key policy has elements that cmkeeper does not know, so it does not know who may use the key.",
		"Read the policy. Report the element as a bug of cmkeeper if KMS takes it.",
		"It is not known who can use the key.",
	})
	// Flapping: a setting was changed and changed back several times within an hour.
	Flapping = define(Rule{
		ID{"flapping"}, OfReaction, High, lowered, "A setting goes back and forth",
		"cmkeeper changed the setting back several times within an hour, and each time it was changed again: by another tool, or by somebody who keeps trying. After CMKEEPER_FLAP_LIMIT times cmkeeper stops.",
		"Find out who changes it, and stop that. If the change is intended, exempt the key (CMKEEPER_EXEMPTIONS).",
		"The setting is changed again soon after it is restored.",
	})
	// PeriodNotKept: KMS shows another rotation period than the one that was set.
	PeriodNotKept = define(Rule{
		ID{"period-not-kept"}, OfReaction, Medium, lowered, "KMS shows another rotation period than the one set",
		"cmkeeper turned rotation on and KMS reads back another period: another call changed it at the same time.",
		"Look in CloudTrail for calls of EnableKeyRotation, and set the period that is wanted.",
		"The key rotates at other times than configured.",
	})
	// PeriodTooLong: the rotation period is longer than the configured one.
	PeriodTooLong = define(Rule{
		ID{"period-too-long"}, OfReaction, Medium, lowered, "The rotation period is longer than configured",
		"Rotation is on, but less often than CMKEEPER_ROTATION_PERIOD_DAYS says.",
		"Call EnableKeyRotation with the configured period, or raise the configured one.",
		"More data than intended is encrypted under one generation of key material.",
	})
	// ShortWindow: the waiting period of a deletion is shorter than the configured minimum.
	ShortWindow = define(Rule{
		ID{"short-window"}, OfReaction, Critical, lowered, "The waiting period of a deletion is too short",
		"The waiting period is below CMKEEPER_DELETION_MIN_WINDOW_DAYS, which leaves less time to notice who still needs the key.",
		"Cancel the deletion and schedule it again with a longer period.",
		"There is little time to notice who still needs the key.",
	})
	// SelfDependency: a resource that cmkeeper needs is encrypted under a customer managed key.
	SelfDependency = define(Rule{
		ID{"self-dependency"}, OfReaction, High, lowered, "cmkeeper depends on a customer managed key",
		"A queue, topic or bucket that cmkeeper needs is encrypted under a customer managed key. Anyone who disables that key silences cmkeeper.",
		"Encrypt the resource with the service's own encryption (SSE-SQS, SSE-S3, the AWS managed key of SNS).",
		"Anyone who disables that key silences cmkeeper.",
	})
)

// The findings about who may use a key, by the account's IAM.
var (
	// AssumableFromOutside: somebody outside of the account may become a role that may use
	// the key.
	AssumableFromOutside = define(Rule{
		ID{"assumable-from-outside"}, OfAccess, Critical, lowered, "Somebody outside may assume a role that has the key",
		"The role's trust policy lets in everyone, an account that is not trusted, or every identity of a web identity provider. Neither the key policy nor its grants show that. Severity as for the account itself (foreign-account), one less where the trust policy or the role's right has a condition.",
		"Name in the trust policy the roles of your own that need it. If the account is yours or a partner's, add it to the trusted accounts (CMKEEPER_TRUSTED_ACCOUNTS). For a web identity provider, add a condition on its subject (token.actions.githubusercontent.com:sub).",
		"Somebody outside of the account can assume a role, and so {access}.",
	})
	// SelfGrant: one that may not read the data can give itself the right.
	SelfGrant = define(Rule{
		ID{"self-grant"}, OfAccess, High, lowered, "A principal can give itself the key",
		"The principal may not use the key, or only under conditions, and may change what keeps it from it: the key policy, a grant, an IAM policy, a role's trust policy, another user's credentials. Severity medium where that depends on conditions.",
		"Take the permission away, or bound it by a permissions boundary, a condition on iam:PermissionsBoundary or kms:GrantIsForAWSResource, or a Resource that leaves out the principal itself and the roles that have the key.",
		"A principal that is not meant to can give itself the use of the key.",
	})
	// TagGrant: one that may not use the key may change the tags that decide it.
	TagGrant = define(Rule{
		ID{"tag-grant"}, OfAccess, High, lowered, "A principal can tag its way to the key",
		"Policies let in whom a tag names (attribute-based access control), and the principal may change that tag, on the key or on itself. Severity medium where that depends on conditions.",
		"Let only administrators call kms:TagResource on the key and iam:TagRole, iam:TagUser and sts:TagSession with the tags that decide (aws:TagKeys), or do not let tags decide.",
		"A principal can give itself the use of the key by a tag.",
	})
	// AllKeys: an IAM policy is about every key.
	AllKeys = define(Rule{
		ID{"all-keys"}, OfAccess, Medium, lowered, "An IAM policy gives every key",
		"The policy's Resource is every key, so it gives each one whose key policy leaves that to IAM, and each one to come. Severity low where it depends on conditions.",
		"Name the keys that are needed in Resource, or add a condition on kms:ResourceAliases or aws:ResourceTag.",
		"The principals with the policy can use every key whose policy leaves that to IAM.",
	})
)
