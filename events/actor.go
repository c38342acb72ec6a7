package events

import (
	"strings"
	"unicode"

	"github.com/cmkeeper/cmkeeper/internal/arn"
)

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
	// Name is the name of the user, role or service, without path. For an
	// Identity Center user it is the user's id.
	Name string
	// Session is the role session's name; for a role that IAM Identity Center
	// made it is the person.
	Session string
	// RoleARN is the IAM role behind a session (arn:aws:iam::…:role/…, with its
	// path where the record has it), else "".
	RoleARN string
	// InvokedBy is the AWS service that called on behalf of the actor
	// ("ebs.amazonaws.com"), or that is the actor; "AWS Internal"; or "".
	InvokedBy string
	// AccessKeyID is the key that signed the call, or "".
	AccessKeyID string
	// MFA is whether the session was opened with a second factor: "true", "false",
	// or "" where the record does not say. Sessions of roles are mostly "false",
	// also of people who used one.
	MFA string
}

// String returns one readable line, such as
//
//	alice (IAM user in 111122223333)
//	Admin/bob (role session in 111122223333) via ebs.amazonaws.com
//	carol@example.com (IAM Identity Center, ReadOnly in 111122223333)
//	root of 111122223333
//	dynamodb.amazonaws.com (AWS service)
//
// It is "" for the zero Actor. Characters that do not print (line breaks,
// direction marks) are replaced; everything else is as in the record.
func (a Actor) String() string {
	s := a.who()
	if a.InvokedBy != "" && a.InvokedBy != s && a.Type != "AWSService" {
		s += " via " + a.InvokedBy
	}
	return printable(s)
}

func (a Actor) who() string {
	in := ""
	if a.AccountID != "" {
		in = " in " + a.AccountID
	}
	name := firstOf(a.Name, a.ARN, a.PrincipalID, "unknown")
	switch {
	case a.Session != "":
		if set, ok := permissionSet(a.Name); ok {
			return a.Session + " (IAM Identity Center, " + set + in + ")"
		}
		return name + "/" + a.Session + " (role session" + in + ")"
	case a.Type == "AWSService":
		return name + " (AWS service)"
	case a.Type == "Root":
		return "root of " + firstOf(a.AccountID, "unknown account")
	case a.Type == "AWSAccount":
		return firstOf(a.PrincipalID, name) + " (principal of account " + firstOf(a.AccountID, "unknown") + ")"
	case a.Type == "":
		// AWS itself has neither type nor name.
		return firstOf(a.Name, a.ARN, a.InvokedBy)
	}
	label, ok := actorLabels[a.Type]
	if !ok {
		label = a.Type
	}
	return name + " (" + label + in + ")"
}

// actorLabels says CloudTrail's identity types in plain words.
var actorLabels = map[string]string{
	"IAMUser":            "IAM user",
	"AssumedRole":        "role session",
	"Role":               "role",
	"FederatedUser":      "federated user",
	"SAMLUser":           "SAML user",
	"WebIdentityUser":    "web identity user",
	"IdentityCenterUser": "IAM Identity Center user",
}

// permissionSet returns the permission set of a role that IAM Identity Center
// made: AWSReservedSSO_<permission set>_<16 hexadecimal digits>.
func permissionSet(role string) (string, bool) {
	set, ok := strings.CutPrefix(role, "AWSReservedSSO_")
	if !ok {
		return "", false
	}
	if i := strings.LastIndexByte(set, '_'); i > 0 {
		set = set[:i]
	}
	return set, true
}

func (u *identity) actor() Actor {
	a := Actor{
		Type:        u.Type,
		ARN:         u.ARN,
		AccountID:   u.AccountID,
		PrincipalID: u.PrincipalID,
		Name:        u.UserName,
		InvokedBy:   u.InvokedBy,
		AccessKeyID: u.AccessKeyID,
		MFA:         u.Session.MFA,
	}
	name := arn.Parse(u.ARN)
	kind, rest, _ := strings.Cut(name.Resource, "/")
	a.AccountID = firstOf(a.AccountID, name.Account)
	switch {
	case kind == "assumed-role":
		// The ARN decides, not the type: some records call a session an IAMUser.
		a.Name, a.Session, _ = strings.Cut(rest, "/")
		if issuer := u.Session.Issuer; issuer.Type == "Role" && issuer.ARN != "" {
			a.RoleARN = issuer.ARN
		} else {
			a.RoleARN = arn.ARN{Partition: name.Partition, Service: "iam", Account: name.Account, Resource: "role/" + a.Name}.String()
		}
	case u.Type == "AWSService":
		a.Name = u.InvokedBy
	case u.Type == "IdentityCenterUser":
		a.Name = firstOf(u.OnBehalfOf, u.UserName)
	case a.Name == "":
		a.Name = rest[strings.LastIndexByte(rest, '/')+1:] // "" of the root, which has no slash
	}
	return a
}

// printable replaces what does not print, so that the text stays on its line
// and in its direction.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
