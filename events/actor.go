package events

// Actor is who did it, from the record's userIdentity. The zero value is
// nobody: native and scheduled events name no actor.
type Actor struct {
	// Type is CloudTrail's userIdentity.type: IAMUser, AssumedRole, Role, Root,
	// FederatedUser, SAMLUser, WebIdentityUser, IdentityCenterUser, AWSAccount,
	// AWSService, …; "" for AWS itself.
	Type string
	// ARN is the caller's own ARN: of the session, where there is one.
	ARN string
	// AccountID is the actor's account, which may be another than the event's.
	AccountID string
	// PrincipalID is IAM's unique id, with the session name after a colon.
	PrincipalID string
	// Name is the user's, role's or service's name, without path.
	Name string
	// Session is the role session's name; for a role that IAM Identity Center
	// made it is the person.
	Session string
	// RoleARN is the IAM role behind a session (arn:aws:iam::…:role/…, with its
	// path where the record has it), else "".
	RoleARN string
	// InvokedBy is the AWS service that called on behalf of the actor
	// ("ebs.amazonaws.com"), "AWS Internal", or "".
	InvokedBy string
	// AccessKeyID is the key that signed the call, or "".
	AccessKeyID string
	// MFA is whether the session was opened with a second factor.
	MFA bool
}

// String returns one readable line.
func (a Actor) String() string { return a.ARN }
