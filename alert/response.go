package alert

import (
	"cmp"
	"encoding/json"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// responseSteps are what a responder does first about an actor.
func responseSteps(a Alert) []string {
	region, account := a.Region, a.Actor.Account
	steps := []string{"Find out whether it was intended: ask the owner of the session, the address and the program. Their other calls:"}
	if user := cmp.Or(a.Actor.Session, userName(a.Actor.ARN)); user != "" {
		steps = append(steps, "aws cloudtrail lookup-events --region "+ShellQuote(region)+" --lookup-attributes "+ShellQuote("AttributeKey=Username,AttributeValue="+user))
	}
	principals := []string{a.Actor.ARN}
	role := roleName(a.Actor.ARN)
	if role != "" { // CloudTrail leaves out its path
		principals = []string{iamARN(a.Actor.ARN, "role/"+role), iamARN(a.Actor.ARN, "role/*/"+role)}
	}
	switch until := a.Time.Add(time.Hour).UTC(); {
	case strings.HasPrefix(role, ssoRole):
		steps = append(steps, "If it was not intended, disable the person's access in IAM Identity Center and end their sessions there: Users, Active sessions. The role belongs to Identity Center and cannot be changed in IAM.")
	case role != "":
		steps = append(steps, "If it was not intended, end the role's sessions, in account "+account+". This denies everything to sessions that began before "+until.Format(time.DateTime+" MST")+". Anyone who may assume the role can open new ones after that, so check its trust policy, too:",
			"aws iam put-role-policy --role-name "+ShellQuote(role)+" --policy-name cmkeeper-revoke-sessions --policy-document "+ShellQuote(denyPolicy([]string{"*"}, map[string]map[string][]string{"DateLessThan": {"aws:TokenIssueTime": {until.Format(time.RFC3339)}}})),
			"aws iam get-role --role-name "+ShellQuote(role)+" --query Role.AssumeRolePolicyDocument")
	case userName(a.Actor.ARN) != "":
		user := ShellQuote(userName(a.Actor.ARN))
		steps = append(steps, "If it was not intended, deny everything to the user, in account "+account+", and check the access keys:",
			"aws iam put-user-policy --user-name "+user+" --policy-name cmkeeper-freeze --policy-document "+ShellQuote(denyPolicy([]string{"*"}, nil)),
			"aws iam list-access-keys --user-name "+user)
	default:
		steps = append(steps, "If it was not intended and it was the account's root user, sign in as root: change the password, delete its access keys, check its MFA devices.")
	}
	return append(steps, "To deny it dangerous calls on keys in the whole account, also in new sessions, from the organization's management account (to which such a policy does not apply):",
		"aws organizations create-policy --type SERVICE_CONTROL_POLICY --name cmkeeper-freeze --description "+ShellQuote("Made by a responder to incident "+a.Time.UTC().Format(time.DateTime))+
			" --content "+ShellQuote(denyPolicy(frozenActions, map[string]map[string][]string{"ArnLike": {"aws:PrincipalArn": principals}})),
		"aws organizations attach-policy --policy-id ID-OF-THE-POLICY-JUST-CREATED --target-id "+ShellQuote(cmp.Or(account, "ACCOUNT-ID")))
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

// denyPolicy is an IAM policy that denies actions on everything.
func denyPolicy(actions []string, condition map[string]map[string][]string) string {
	b, _ := json.Marshal(struct { // strings
		Version   string
		Statement []denyStatement
	}{"2012-10-17", []denyStatement{{"Deny", actions, "*", condition}}})
	return string(b)
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

// ShellQuote makes s one word for a POSIX shell.
func ShellQuote(s string) string {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_./:=@%+,", c)
	}
	if s != "" && strings.IndexFunc(s, func(c rune) bool { return !plain(c) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
