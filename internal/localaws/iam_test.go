package localaws_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// TestKeysAskIAM: callers whom IAM knows may do with keys what their policies in IAM say,
// by key policy, grants and the conditions of the real request; others what they were given.
func TestKeysAskIAM(t *testing.T) {
	const account = "111122223333"
	server := localaws.New(localaws.Options{Account: account})
	defer server.Close()
	as := func(accessKey string) *kms.Client {
		return kms.NewFromConfig(inprocess.Config(server, "us-east-1", accessKey))
	}
	created, err := as("local").CreateKey(t.Context(), &kms.CreateKeyInput{Tags: []types.Tag{{TagKey: aws.String("team"), TagValue: aws.String("red")}}})
	if err != nil {
		t.Fatal(err)
	}
	key := created.KeyMetadata.Arn
	app := map[string]string{"app": "pay"}
	encrypt := func(ctx context.Context, accessKey string, encryptionContext map[string]string) error {
		_, err := as(accessKey).Encrypt(ctx, &kms.EncryptInput{KeyId: key, Plaintext: []byte("x"), EncryptionContext: encryptionContext})
		return err
	}

	deny := func(string, string) bool { return false }
	server.SetIdentityPolicy("ada", deny) // not asked once IAM knows her
	server.SetIdentityPolicy("stranger", deny)
	server.AddIdentity("session", wire.Caller{Type: "AssumedRole", ARN: "arn:aws:sts::" + account + ":assumed-role/worker/1", PrincipalID: "AROAWORKER:1"})
	policy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["kms:Encrypt","kms:CreateAlias"],"Resource":"arn:aws:kms:*:` + account + `:*","Condition":{
		"StringEqualsIfExists":{"kms:EncryptionContext:app":"pay","aws:ResourceTag/team":"${aws:PrincipalTag/team}"}}}]}`
	set := func(arn string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return arn
	}
	boundary := set(server.IAM().SetPolicy(iam.ManagedPolicy{Name: "boundary", Versions: []string{`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"}}`}}))
	set(server.IAM().SetUser(iam.User{Name: "ada", Inline: map[string]string{"p": policy}, Tags: map[string]string{"team": "red"}}))
	set(server.IAM().SetUser(iam.User{Name: "bea", Inline: map[string]string{"p": policy}, Tags: map[string]string{"team": "blue"}}))
	set(server.IAM().SetUser(iam.User{Name: "cem", Inline: map[string]string{"p": policy}, Tags: map[string]string{"team": "red"}, Boundary: boundary}))
	worker := set(server.IAM().SetRole(iam.Role{Name: "worker", Path: "/app/", Trust: `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"` + account + `"},"Action":"sts:AssumeRole"}}`}))

	expect := func(accessKey string, encryptionContext map[string]string, want string) {
		t.Helper()
		err := encrypt(t.Context(), accessKey, encryptionContext)
		e, denied := errors.AsType[smithy.APIError](err)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", accessKey, err)
		case want != "" && (!denied || e.ErrorCode() != "AccessDeniedException" || !strings.HasSuffix(e.ErrorMessage(), want)):
			t.Errorf("%s: %v, want %s", accessKey, err, want)
		}
	}
	const byIdentity, byBoundary = "because no identity-based policy allows the kms:Encrypt action", "because no permissions boundary allows the kms:Encrypt action"
	expect("ada", app, "")
	expect("ada", map[string]string{"app": "other"}, byIdentity)
	expect("bea", app, byIdentity)
	expect("cem", app, byBoundary)
	expect("session", app, byIdentity)
	expect("stranger", app, byIdentity)
	expect("local", app, "")

	// What is about no key's policy is IAM's too.
	for accessKey, want := range map[string]bool{"ada": true, "cem": false, "session": false} {
		_, err := as(accessKey).CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/" + accessKey), TargetKeyId: key})
		// The alias's own permission comes first; ada has the one on the key as well.
		if (err == nil) != want {
			t.Errorf("CreateAlias as %s: %v", accessKey, err)
		}
	}

	// A role is the grantee by its ARN, and its constraint holds for the session.
	if _, err := as("local").CreateGrant(t.Context(), &kms.CreateGrantInput{
		KeyId: key, GranteePrincipal: &worker, Operations: []types.GrantOperation{types.GrantOperationEncrypt, types.GrantOperationDescribeKey},
		Constraints: &types.GrantConstraints{EncryptionContextSubset: app},
	}); err != nil {
		t.Fatal(err)
	}
	expect("session", app, "")
	expect("session", nil, byIdentity)
	if _, err := as("session").DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key}); err != nil {
		t.Errorf("constraints are not about DescribeKey: %v", err)
	}
}
