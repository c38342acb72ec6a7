package kms

import (
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// authorize decides on an operation on the key, whose policy is to be the one that is given.
func (c *call) authorize(k *key, policy *iam.Policy, operation string) error {
	return c.decide(operation, k.arn, c.conditions(k), iam.Resource{Account: c.account, Policy: policy, Grants: k.grantsInForce()})
}

// authorizeIdentity decides on an operation that concerns no key.
func (c *call) authorizeIdentity(operation string) error {
	return c.authorizeResource(operation, "*")
}

// authorizeResource decides on a resource that has no policy, such as an alias.
func (c *call) authorizeResource(operation, arn string) error {
	return c.decide(operation, arn, c.conditions(nil), iam.Resource{Account: c.account})
}

// decide asks IAM about a caller that it knows, and what another one is allowed.
func (c *call) decide(operation, arn string, conditions map[string]string, on iam.Resource) error {
	r := iam.Request{
		Principal: c.caller.ARN, RoleARN: c.role(), Account: c.caller.AccountID,
		Action: "kms:" + operation, Resource: arn, Context: conditions,
	}
	answer, known := c.iam.Decide(r, on)
	if !known {
		identity := iam.ImplicitDeny
		if c.caller.May(r.Action, arn) {
			identity = iam.Allow
		}
		answer = iam.Decide(r, on, identity, iam.Allow)
	}
	if answer.Allowed {
		return nil
	}
	return c.denied(operation, arn, answer.Reason)
}

func (c *call) denied(operation, resource, reason string) error {
	return wire.Errorf(400, "AccessDeniedException", "User: %s is not authorized to perform: kms:%s on resource: %s %s", c.caller.ARN, operation, resource, reason)
}

// role is the role behind an assumed-role session, or "".
func (c *call) role() string {
	if role := c.caller.RoleARN(); role != c.caller.ARN {
		return role
	}
	return ""
}

// conditions are the condition keys of this call on the key, nil for none.
func (c *call) conditions(k *key) map[string]string {
	m := map[string]string{
		"aws:CurrentTime":   c.now.UTC().Format(time.RFC3339),
		"kms:CallerAccount": c.caller.AccountID,
	}
	if k != nil {
		m["kms:KeyOrigin"], m["kms:KeySpec"], m["kms:KeyUsage"] = k.origin, k.spec, k.usage
		m["kms:MultiRegion"] = strconv.FormatBool(k.multiRegion)
		for name, value := range k.tags {
			m["aws:ResourceTag/"+name] = value
		}
	}
	if c.caller.SourceIP != "" && c.via == "" {
		m["aws:SourceIp"] = c.caller.SourceIP
	}
	if c.via != "" {
		m["kms:ViaService"] = c.via
	}
	for name, value := range c.data {
		m["kms:EncryptionContext:"+name] = value
	}
	maps.Copy(m, c.context)
	return m
}

// condition adds a condition key that only this operation has.
func (c *call) condition(name, value string) {
	if c.context == nil {
		c.context = map[string]string{}
	}
	c.context[name] = value
}

// defaultPolicy is the policy of a key that is created without one: the account decides.
func (s *Service) defaultPolicy() string {
	return s.fill(`{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : { "AWS" : "arn:aws:iam::ACCOUNT:root" },
    "Action" : "kms:*",
    "Resource" : "*"
  } ]
}`)
}

// managedPolicy is the policy of S3's AWS managed key: everybody in the account
// may use it, through S3 only, and nobody may change it.
func (s *Service) managedPolicy() string {
	return s.fill(`{
  "Version" : "2012-10-17",
  "Id" : "auto-s3-1",
  "Statement" : [ {
    "Sid" : "Use through S3",
    "Effect" : "Allow",
    "Principal" : { "AWS" : "*" },
    "Action" : [ "kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:CreateGrant", "kms:DescribeKey" ],
    "Resource" : "*",
    "Condition" : { "StringEquals" : { "kms:CallerAccount" : "ACCOUNT", "kms:ViaService" : "s3.REGION.amazonaws.com" } }
  }, {
    "Sid" : "Look at the key",
    "Effect" : "Allow",
    "Principal" : { "AWS" : "arn:aws:iam::ACCOUNT:root" },
    "Action" : [ "kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant" ],
    "Resource" : "*"
  } ]
}`)
}

// fill puts the account and the Region into a policy of KMS's own.
func (s *Service) fill(policy string) string {
	return strings.NewReplacer("ACCOUNT", s.account, "REGION", s.region).Replace(policy)
}

func (s *Service) rootARN() string { return "arn:aws:iam::" + s.account + ":root" }

const (
	maxPolicyLength = 128 << 10 // what the API's model accepts
	maxPolicySize   = 32 << 10  // KMS's quota for a key policy
)

// setPolicy gives the key a policy unless it is malformed, too large, or would
// keep the caller from changing it again and the check is not bypassed.
func (c *call) setPolicy(k *key, document string, bypass bool) error {
	if document == "" || len(document) > maxPolicyLength {
		return invalid("1 validation error detected: Value at 'policy' failed to satisfy constraint: Member must have length between 1 and %d", maxPolicyLength)
	}
	if len(document) > maxPolicySize {
		return wire.Errorf(400, "LimitExceededException", "The key policy is larger than %d bytes", maxPolicySize)
	}
	rules, err := iam.Parse([]byte(document))
	if err != nil {
		return malformedPolicy(err.Error())
	}
	if !bypass && c.authorize(k, rules, "PutKeyPolicy") != nil {
		return malformedPolicy("The new key policy will not allow you to update the key policy in the future.")
	}
	k.policy, k.rules = document, rules
	return nil
}

func malformedPolicy(message string) error {
	return &wire.Error{Code: "MalformedPolicyDocumentException", Message: message}
}

type putKeyPolicyInput struct {
	KeyID                          string  `json:"KeyId"`
	PolicyName                     *string `json:"PolicyName"`
	Policy                         string  `json:"Policy"`
	BypassPolicyLockoutSafetyCheck bool    `json:"BypassPolicyLockoutSafetyCheck"`
}

func putKeyPolicy(c *call, in *putKeyPolicyInput) error {
	c.condition("kms:BypassPolicyLockoutSafetyCheck", strconv.FormatBool(in.BypassPolicyLockoutSafetyCheck))
	k, err := c.use(in.KeyID, byKey)
	if err != nil {
		return err
	}
	if in.PolicyName, err = policyName(in.PolicyName); err != nil {
		return err
	}
	return c.setPolicy(k, in.Policy, in.BypassPolicyLockoutSafetyCheck)
}

// policyName fills in the one name that a key policy can have.
func policyName(name *string) (*string, error) {
	if name == nil {
		return new(defaultPolicyName), nil
	}
	if *name != defaultPolicyName {
		return name, notFound("No such policy exists")
	}
	return name, nil
}

type getKeyPolicyInput struct {
	KeyID      string  `json:"KeyId"`
	PolicyName *string `json:"PolicyName"`
}

type getKeyPolicyOutput struct {
	Policy     string `json:"Policy"`
	PolicyName string `json:"PolicyName"`
}

func getKeyPolicy(c *call, in *getKeyPolicyInput) (getKeyPolicyOutput, error) {
	var out getKeyPolicyOutput
	k, err := c.use(in.KeyID, byKey)
	if err != nil {
		return out, err
	}
	if in.PolicyName, err = policyName(in.PolicyName); err != nil {
		return out, err
	}
	return getKeyPolicyOutput{Policy: k.policy, PolicyName: defaultPolicyName}, nil
}

type listInput struct {
	KeyID string `json:"KeyId"`
	pageInput
}

type listKeyPoliciesOutput struct {
	PolicyNames []string `json:"PolicyNames"`
	pageOutput
}

func listKeyPolicies(c *call, in *listInput) (listKeyPoliciesOutput, error) {
	var out listKeyPoliciesOutput
	_, err := c.use(in.KeyID, byKey)
	if err != nil {
		return out, err
	}
	out.PolicyNames, out.pageOutput, err = paginate([]string{defaultPolicyName}, itself, in.pageInput, 100, 1000)
	return out, err
}
