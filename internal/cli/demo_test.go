package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sns"

	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/demo"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
	"github.com/cmkeeper/cmkeeper/rotate"
)

// TestDemo plays the demo as a newcomer does.
func TestDemo(t *testing.T) {
	var out, logs bytes.Buffer
	if code := run(t.Context(), []string{"demo", "--json"}, nil, &out, &logs); code != exitOK {
		t.Fatalf("exit code %d\n%s\n%s", code, out.String(), logs.String())
	}
	var summary demo.Summary
	if err := json.Unmarshal(out.Bytes(), &summary); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	r := summary.Reencryption
	if !summary.OK || len(summary.Problems) > 0 || !summary.Rotation.Reenabled || !summary.Policy.Restored || summary.Rotation.PeriodDays != 180 ||
		r.Moved < 2000 || r.Skipped == 0 || r.Refused != 1 || r.Failed != 0 {
		t.Errorf("summary: %s", out.String())
	}
	if !summary.Access.SelfGrant {
		t.Errorf("access: %s", out.String())
	}
	second, abort := summary.Replacement, summary.Abort
	if u := summary.Usage; u.OfMallory != 1 || u.Calls <= u.OfMallory {
		t.Errorf("usage: %+v", u)
	}
	if second.NewKeys != 1 || !second.OldEnabled || second.Moved < 150 || len(second.Left) != 2 || abort.Moved != second.Moved || abort.Restored != second.Moved || !strings.Contains(abort.Waits, "for a day") {
		t.Errorf("summary: %s", out.String())
	}
}

// TestVerifierFindsOut falsifies one thing in each run that a worker could have
// done wrong. The verifier has to see every one, and nothing but it.
func TestVerifierFindsOut(t *testing.T) {
	tag := func(ctx context.Context, c *s3.Client, _ *sandbox.Sandbox) error {
		_, err := c.DeleteObjectTagging(ctx, &s3.DeleteObjectTaggingInput{Bucket: aws.String("demo-archive"), Key: aws.String("cold/00000.json")})
		return err
	}
	rekey := func(bucket, key string, to func(context.Context, *s3.Client, *sandbox.Sandbox) (string, error)) func(context.Context, *s3.Client, *sandbox.Sandbox) error {
		return func(ctx context.Context, c *s3.Client, box *sandbox.Sandbox) error {
			arn, err := to(ctx, c, box)
			if err != nil {
				return err
			}
			_, err = c.UpdateObjectEncryption(ctx, &s3.UpdateObjectEncryptionInput{
				Bucket: &bucket, Key: &key,
				ObjectEncryption: &s3types.ObjectEncryptionMemberSSEKMS{Value: s3types.SSEKMSEncryption{KMSKeyArn: &arn}},
			})
			return err
		}
	}
	oldKey := func(ctx context.Context, c *s3.Client, _ *sandbox.Sandbox) (string, error) {
		head, err := c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: aws.String("demo-contracts"), Key: aws.String("contracts/signed.pdf")})
		if err != nil {
			return "", err
		}
		return *head.SSEKMSKeyId, nil
	}
	newKey := func(ctx context.Context, _ *s3.Client, box *sandbox.Sandbox) (string, error) {
		key, err := kms.NewFromConfig(box.Config("operator")).DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/demo-data")})
		if err != nil {
			return "", err
		}
		return *key.KeyMetadata.Arn, nil
	}
	put := func(ctx context.Context, c *s3.Client, _ *sandbox.Sandbox) error {
		_, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("demo-archive"), Key: aws.String("warm/00000.json"), Body: strings.NewReader("not what it was")})
		return err
	}
	disable := func(ctx context.Context, _ *s3.Client, box *sandbox.Sandbox) error {
		client := kms.NewFromConfig(box.Config("mallory"))
		key, err := client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/demo-payments")})
		if err != nil {
			return err
		}
		_, err = client.DisableKeyRotation(ctx, &kms.DisableKeyRotationInput{KeyId: key.KeyMetadata.Arn})
		return err
	}

	reopen := func(ctx context.Context, _ *s3.Client, box *sandbox.Sandbox) error {
		client := kms.NewFromConfig(box.Config("mallory"))
		key, err := client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/demo-reports")})
		if err != nil {
			return err
		}
		_, err = client.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: key.KeyMetadata.Arn, Policy: aws.String(publicPolicy)})
		return err
	}

	ledgerKeys := func(ctx context.Context, box *sandbox.Sandbox) (client *kms.Client, first, second string, err error) {
		client = kms.NewFromConfig(box.Config("operator"))
		// The first key is the one under which the locked object has stayed.
		head, err := awsclient.S3(box.Config("operator"), nil).HeadObject(ctx, &s3.HeadObjectInput{Bucket: aws.String("demo-ledger"), Key: aws.String("contracts/signed.pdf")})
		if err != nil {
			return nil, "", "", err
		}
		key, err := client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/demo-ledger")})
		if err != nil {
			return nil, "", "", err
		}
		return client, *head.SSEKMSKeyId, *key.KeyMetadata.Arn, nil
	}
	onKeys := func(f func(ctx context.Context, client *kms.Client, first, second string) error) func(context.Context, *s3.Client, *sandbox.Sandbox) error {
		return func(ctx context.Context, _ *s3.Client, box *sandbox.Sandbox) error {
			client, first, second, err := ledgerKeys(ctx, box)
			if err != nil {
				return err
			}
			return f(ctx, client, first, second)
		}
	}
	firstKey := func(ctx context.Context, _ *s3.Client, box *sandbox.Sandbox) (string, error) {
		_, first, _, err := ledgerKeys(ctx, box)
		return first, err
	}
	disableKey := onKeys(func(ctx context.Context, client *kms.Client, _, second string) error {
		list, err := client.ListKeys(ctx, &kms.ListKeysInput{})
		if err != nil {
			return err
		}
		for _, key := range list.Keys {
			tags, err := client.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: key.KeyArn})
			if err != nil {
				return err
			}
			if *key.KeyArn != second && slices.ContainsFunc(tags.Tags, func(t kmstypes.Tag) bool { return *t.TagKey == rotate.Tag }) {
				_, err = client.DisableKey(ctx, &kms.DisableKeyInput{KeyId: key.KeyArn})
				return err
			}
		}
		return errors.New("there is no such key")
	})
	tagKey := onKeys(func(ctx context.Context, client *kms.Client, first, second string) error {
		tags, err := client.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: &second})
		if err != nil {
			return err
		}
		_, err = client.TagResource(ctx, &kms.TagResourceInput{KeyId: &first, Tags: tags.Tags})
		return err
	})
	untag := onKeys(func(ctx context.Context, client *kms.Client, _, second string) error {
		_, err := client.UntagResource(ctx, &kms.UntagResourceInput{KeyId: &second, TagKeys: []string{"owner"}})
		return err
	})
	moveAlias := onKeys(func(ctx context.Context, client *kms.Client, first, _ string) error {
		_, err := client.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: aws.String("alias/demo-ledger"), TargetKeyId: &first})
		return err
	})
	grant := onKeys(func(ctx context.Context, client *kms.Client, first, _ string) error {
		_, err := client.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: &first, GranteePrincipal: aws.String("arn:aws:iam::" + sandbox.Account + ":role/other"), Operations: []kmstypes.GrantOperation{kmstypes.GrantOperationEncrypt}})
		return err
	})
	setDefault := func(ctx context.Context, c *s3.Client, box *sandbox.Sandbox) error {
		first, err := firstKey(ctx, c, box)
		if err != nil {
			return err
		}
		_, err = c.PutBucketEncryption(ctx, &s3.PutBucketEncryptionInput{
			Bucket: aws.String("demo-invoices"),
			ServerSideEncryptionConfiguration: &s3types.ServerSideEncryptionConfiguration{Rules: []s3types.ServerSideEncryptionRule{{
				ApplyServerSideEncryptionByDefault: &s3types.ServerSideEncryptionByDefault{SSEAlgorithm: s3types.ServerSideEncryptionAwsKms, KMSMasterKeyID: &first},
			}}},
		})
		return err
	}
	add := func(ctx context.Context, c *s3.Client, _ *sandbox.Sandbox) error {
		_, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("demo-invoices"), Key: aws.String("new"), Body: strings.NewReader("new")})
		return err
	}

	mayKeys := func(actions string) func(context.Context, *s3.Client, *sandbox.Sandbox) error {
		return func(_ context.Context, _ *s3.Client, box *sandbox.Sandbox) error {
			_, err := box.AWS.IAM().SetUser(iam.User{Name: "mallory", Inline: map[string]string{"keys": allowing(actions, "*", "")}})
			return err
		}
	}

	type tampering struct {
		do   func(context.Context, *s3.Client, *sandbox.Sandbox) error
		want string // in the problem that comes of it
	}
	// A demo takes seconds: those that do not touch the same things are found out in one.
	for name, all := range map[string][]tampering{
		"nothing": nil,
		"a tag is dropped, an object is overwritten, rotation is off again, the attacker may decrypt": {
			{tag, "tags="}, {put, "other bytes"}, {disable, "rotation of alias/demo-payments"},
			{mayKeys(`["kms:Decrypt","kms:PutKeyPolicy"]`), "mallory can decrypt"},
		},
		"an object is skipped, an unrelated one is moved, usage is not shown": {
			{rekey("demo-archive", "cold/00000.json", oldKey), "cold/00000.json"}, {rekey("demo-orders", "unrelated.txt", newKey), "unrelated.txt"},
			{func(_ context.Context, _ *s3.Client, box *sandbox.Sandbox) error {
				box.AWS.SetIdentityPolicy("operator", func(action, _ string) bool { return action != "cloudtrail:LookupEvents" })
				return nil
			}, "usage of alias/demo-reports: look up events, which takes cloudtrail:LookupEvents"},
		},
		"the key is open again":               {{reopen, "policy of alias/demo-reports"}},
		"the attacker cannot change policies": {{mayKeys(`"kms:DescribeKey"`), "mallory cannot give herself"}},

		"the key of the abort is disabled, a bucket default is not moved":  {{disableKey, "is Disabled; want Enabled"}, {setDefault, "default encryption of demo-invoices"}},
		"a second key has the rotation's tag, an object is on the old key": {{tagKey, "keys with the tag of rotation"}, {rekey("demo-invoices", "2025/00000.json", firstKey), "2025/00000.json"}},
		"the new key has another tag":                                      {{untag, "is not like the first"}},
		"the alias is at another key":                                      {{moveAlias, "alias/demo-ledger points to"}},
		"an object is new":                                                 {{add, "there are"}},
		"a grant is not named":                                             {{grant, "named as left"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var wants []string
			for _, one := range all {
				wants = append(wants, one.want)
			}
			expectProblems(t, demo.Options{
				Worker: demoWorker(slog.New(slog.DiscardHandler)), Command: demoOperator, Objects: 8,
				BeforeVerify: func(ctx context.Context, box *sandbox.Sandbox) error {
					for _, one := range all {
						if err := one.do(ctx, awsclient.S3(box.Config("operator"), nil), box); err != nil {
							return err
						}
					}
					return nil
				},
			}, wants...)
		})
	}
	t.Run("somebody else has the key, too", func(t *testing.T) {
		t.Parallel()
		expectProblems(t, demo.Options{
			Worker: demoWorker(slog.New(slog.DiscardHandler)), Command: demoOperator, Objects: 8,
			BeforeEvents: func(_ context.Context, box *sandbox.Sandbox) error {
				_, err := box.AWS.IAM().SetUser(iam.User{Name: "bea", Inline: map[string]string{"keys": allowing(`"kms:Decrypt"`, "*", "")}})
				return err
			},
		}, "may decrypt under alias/demo-reports")
	})
	t.Run("an alert is swallowed", func(t *testing.T) {
		t.Parallel()
		expectProblems(t, demo.Options{
			Worker: demoWorker(slog.New(slog.DiscardHandler)), Command: demoOperator, Objects: 8, Patience: 5 * time.Second,
			BeforeEvents: func(ctx context.Context, box *sandbox.Sandbox) error {
				topics := sns.NewFromConfig(box.Config("operator"))
				subscriptions, err := topics.ListSubscriptionsByTopic(ctx, &sns.ListSubscriptionsByTopicInput{TopicArn: &box.Topic})
				if err != nil {
					return err
				}
				_, err = topics.SetSubscriptionAttributes(ctx, &sns.SetSubscriptionAttributesInput{
					SubscriptionArn: subscriptions.Subscriptions[0].SubscriptionArn,
					AttributeName:   aws.String("FilterPolicy"), AttributeValue: aws.String(`{"kind":[{"anything-but":"policy"}]}`),
				})
				return err
			},
		}, "no alert about the public key policy")
	})
}

func expectProblems(t *testing.T, o demo.Options, wants ...string) {
	t.Helper()
	summary, err := demo.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if summary.OK != (len(wants) == 0) {
		t.Errorf("ok is %t, problems %q", summary.OK, summary.Problems)
	}
	for _, want := range wants {
		if !slices.ContainsFunc(summary.Problems, func(p string) bool { return strings.Contains(p, want) }) {
			t.Errorf("problems %q, want one about %q", summary.Problems, want)
		}
	}
	for _, p := range summary.Problems {
		if !slices.ContainsFunc(wants, func(want string) bool { return strings.Contains(p, want) }) {
			t.Errorf("problem %q, want only such about %q", p, wants)
		}
	}
}
