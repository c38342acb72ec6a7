package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sns"

	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/demo"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
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

	for name, tt := range map[string]struct {
		tamper func(context.Context, *s3.Client, *sandbox.Sandbox) error
		want   string // in the one problem
	}{
		"nothing":                      {nil, ""},
		"a tag is dropped":             {tag, "tags="},
		"an object is skipped":         {rekey("demo-archive", "cold/00000.json", oldKey), "cold/00000.json"},
		"an unrelated object is moved": {rekey("demo-orders", "unrelated.txt", newKey), "unrelated.txt"},
		"an object is overwritten":     {put, "other bytes"},
		"rotation is off again":        {disable, "rotation of alias/demo-payments"},
		"the key is open again":        {reopen, "policy of alias/demo-reports"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := demo.Options{Worker: demoWorker(slog.New(slog.DiscardHandler)), Objects: 8}
			if tt.tamper != nil {
				o.BeforeVerify = func(ctx context.Context, box *sandbox.Sandbox) error {
					return tt.tamper(ctx, awsclient.S3(box.Config("operator"), nil), box)
				}
			}
			expectProblem(t, o, tt.want)
		})
	}
	t.Run("an alert is swallowed", func(t *testing.T) {
		t.Parallel()
		expectProblem(t, demo.Options{
			Worker: demoWorker(slog.New(slog.DiscardHandler)), Objects: 8, Patience: 5 * time.Second,
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

func expectProblem(t *testing.T, o demo.Options, want string) {
	t.Helper()
	summary, err := demo.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if summary.OK != (want == "") {
		t.Errorf("ok is %t, problems %q", summary.OK, summary.Problems)
	}
	for _, p := range summary.Problems {
		if !strings.Contains(p, want) {
			t.Errorf("problem %q, want one about %q", p, want)
		}
	}
}
