package alert

import (
	"cmp"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
)

// responseSteps are what a responder does first about an actor.
func responseSteps(a Alert) []string {
	account := a.Actor.Account
	role, user := roleName(a.Actor.ARN), userName(a.Actor.ARN)
	var steps []string
	if a.Actor.Unconfirmed {
		steps = append(steps, "Check in CloudTrail that the actor made the calls before you do anything about the actor: so far only messages say so.")
	}
	steps = append(steps, "Find out whether it was intended: ask the owner of the session, the address and the program. Their other calls:")
	if name := cmp.Or(a.Actor.Session, user); name != "" {
		steps = append(steps, command.Line("aws cloudtrail lookup-events --region %s --lookup-attributes %s", command.Region(a.Region), command.Lookup("Username", command.Session(name))))
	}
	principals := []string{a.Actor.ARN}
	if role != "" { // CloudTrail leaves out its path
		principals = []string{iamARN(a.Actor.ARN, "role/"+role), iamARN(a.Actor.ARN, "role/*/"+role)}
	}
	switch until := a.Time.Add(time.Hour).UTC(); {
	case strings.HasPrefix(role, ssoRole):
		steps = append(steps, "If it was not intended, disable the person's access in IAM Identity Center and end their sessions there: Users, Active sessions. The role belongs to Identity Center and cannot be changed in IAM.")
	case role != "":
		steps = append(steps, "If it was not intended, end the role's sessions, in account "+account+". This denies everything to sessions that began before "+until.Format(time.DateTime+" MST")+". Anyone who may assume the role can open new ones after that, so check its trust policy, too:",
			command.Line("aws iam put-role-policy --role-name %s --policy-name cmkeeper-revoke-sessions --policy-document %s", command.Role(role),
				denyPolicy([]string{"*"}, map[string]map[string][]string{"DateLessThan": {"aws:TokenIssueTime": {until.Format(time.RFC3339)}}})),
			command.Line("aws iam get-role --role-name %s --query Role.AssumeRolePolicyDocument", command.Role(role)))
	case user != "":
		steps = append(steps, "If it was not intended, deny everything to the user, in account "+account+", and check the access keys:",
			command.Line("aws iam put-user-policy --user-name %s --policy-name cmkeeper-freeze --policy-document %s", command.User(user), denyPolicy([]string{"*"}, nil)),
			command.Line("aws iam list-access-keys --user-name %s", command.User(user)))
	default:
		steps = append(steps, "If it was not intended and it was the account's root user, sign in as root: change the password, delete its access keys, check its MFA devices.")
	}
	return append(steps, "To deny it dangerous calls on keys in the whole account, also in new sessions, from the organization's management account (to which such a policy does not apply):",
		command.Line("aws organizations create-policy --type SERVICE_CONTROL_POLICY --name cmkeeper-freeze --description 'Made by a responder to an incident of cmkeeper' --content %s",
			denyPolicy(frozenActions, map[string]map[string][]string{"ArnLike": {"aws:PrincipalArn": principals}}, command.Principal(principals[0]))),
		command.Line("aws organizations attach-policy --policy-id ID-OF-THE-POLICY-JUST-CREATED --target-id %s", command.Account(account).Or("ACCOUNT-ID")))
}

// frozenActions are the dangerous calls on keys.
var frozenActions = []string{
	"kms:CreateGrant", "kms:DeleteAlias", "kms:DeleteImportedKeyMaterial", "kms:DisableKey", "kms:DisableKeyRotation",
	"kms:PutKeyPolicy", "kms:ScheduleKeyDeletion", "kms:UpdateAlias",
}

type denyStatement struct {
	Effect    string
	Action    []string
	Resource  string
	Condition map[string]map[string][]string `json:",omitempty"`
}

// denyPolicy is an IAM policy that denies actions on everything. Parts are what comes
// from outside in its condition.
func denyPolicy(actions []string, condition map[string]map[string][]string, parts ...command.Value) command.Value {
	return command.Document(struct {
		Version   string
		Statement []denyStatement
	}{"2012-10-17", []denyStatement{{"Deny", actions, "*", condition}}}, parts...)
}

// roleName is the name of the role that a session's ARN has, "" for other ARNs.
func roleName(session string) string {
	rest, ok := strings.CutPrefix(arn.Parse(session).Resource, "assumed-role/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// userName is the name of an IAM user, "" for other ARNs.
func userName(user string) string {
	a := arn.Parse(user)
	if !strings.HasPrefix(a.Resource, "user/") {
		return ""
	}
	return a.Name()
}

// iamARN is the ARN of something of IAM in the account and partition of another ARN.
func iamARN(of, resource string) string {
	a := arn.Parse(of)
	return arn.ARN{Partition: a.Partition, Service: "iam", Account: a.Account, Resource: resource}.String()
}
