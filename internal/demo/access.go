package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"

	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

// principalARN begins the ARNs of the account's users and roles.
const principalARN = "arn:aws:iam::" + sandbox.Account + ":"

// employ gives the account people: the operator, somebody who looks after keys and reads
// nothing, and an application that reads the reports.
func (st *stage) employ() error {
	allow := func(actions string) map[string]string {
		return map[string]string{"keys": `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":` + actions + `,"Resource":"*"}}`}
	}
	people := st.box.AWS.IAM()
	for _, u := range []iam.User{
		{Name: operator, Inline: allow(`"*"`)},
		{Name: mallory, Inline: allow(`["kms:DescribeKey","kms:DisableKeyRotation","kms:PutKeyPolicy","kms:ScheduleKeyDeletion"]`)},
	} {
		if _, err := people.SetUser(u); err != nil {
			return err
		}
	}
	_, err := people.SetRole(iam.Role{
		Name: "reports", Inline: allow(`"kms:Decrypt"`),
		Trust: `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"Service":"lambda.amazonaws.com"},"Action":"sts:AssumeRole"}}`,
	})
	return err
}

// review is the part of a cmkeeper.access.v1 document that the demo reads.
type review struct {
	Schema  string `json:"schema"`
	Holders []struct {
		Principal string `json:"principal"`
	} `json:"holders"`
	Findings []struct {
		ID        string `json:"id"`
		Severity  string `json:"severity"`
		Principal string `json:"principal"`
		Message   string `json:"message"`
	} `json:"findings"`
}

// reviewAccess asks who can decrypt under the key whose policy was opened.
func (st *stage) reviewAccess(ctx context.Context, o Options, say func(string, ...any)) (r review, err error) {
	out, err := st.command(ctx, o, io.Discard, "access", policyAlias, "--can", "kms:Decrypt", "--json")
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return r, err
	}
	say("  %s    access               %s: %d principals may decrypt", operator, policyAlias, len(r.Holders))
	for _, f := range r.Findings {
		if f.Severity != "high" {
			continue // policies about every key: the demo's are short
		}
		say("  finding     %-8s %s", f.Severity, f.Message)
	}
	return r, nil
}

// checkAccess compares what the review said with what KMS does: the application and the
// operator may decrypt, and the one who breaks things may not until she gives it to herself.
func (v *verifier) checkAccess(ctx context.Context) error {
	r := v.review
	var holders []string
	for _, h := range r.Holders {
		holders = append(holders, strings.TrimPrefix(h.Principal, principalARN))
	}
	slices.Sort(holders)
	if want := []string{"role/reports", "root", "user/" + operator}; r.Schema != "cmkeeper.access.v1" || !slices.Equal(holders, want) {
		v.problem("access says that %q may decrypt under %s; want %q", holders, policyAlias, want)
	}
	var grave []string
	for _, f := range r.Findings {
		if f.Severity != "medium" {
			grave = append(grave, f.Severity+" "+f.ID+" "+strings.TrimPrefix(f.Principal, principalARN))
		}
	}
	if want := []string{"high self-grant user/" + mallory}; !slices.Equal(grave, want) {
		v.problem("access finds %q about %s; want %q: %s can give herself the key", grave, policyAlias, want, mallory)
	}
	if !v.summary.Policy.Restored {
		return nil // of another policy access has said nothing
	}
	key := v.stage.policyKey
	secret, err := kms.NewFromConfig(v.stage.box.Config(operator)).Encrypt(ctx, &kms.EncryptInput{KeyId: &key, Plaintext: []byte("report")})
	if err != nil {
		return err
	}
	client := kms.NewFromConfig(v.stage.box.Config(mallory))
	decrypts := func() (bool, error) {
		_, err := client.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: secret.CiphertextBlob})
		return allowed(err)
	}
	before, err := decrypts()
	if err != nil {
		return err
	}
	if before {
		v.problem("%s can decrypt under %s, and access does not say so", mallory, policyAlias)
		return nil
	}
	policy := strings.Replace(v.stage.policy, `"Statement":[`, fmt.Sprintf(`"Statement":[{"Effect":"Allow","Principal":{"AWS":"%suser/%s"},"Action":"kms:Decrypt","Resource":"*"},`, principalARN, mallory), 1)
	_, err = client.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: &policy, PolicyName: aws.String("default")})
	given, err := allowed(err)
	if err != nil {
		return err
	}
	if given {
		if given, err = decrypts(); err != nil {
			return err
		}
	}
	if v.summary.Access.SelfGrant = given; !given {
		v.problem("%s cannot give herself the key of %s, and access says that she can", mallory, policyAlias)
	}
	return nil
}

// allowed reports whether a call was allowed, by its error; another error is one.
func allowed(err error) (bool, error) {
	api, ok := errors.AsType[smithy.APIError](err)
	switch {
	case err == nil:
		return true, nil
	case ok && api.ErrorCode() == "AccessDeniedException":
		return false, nil
	}
	return false, err
}
