package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

	"github.com/cmkeeper/cmkeeper/envelope"
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
		r.Moved < 2000 || r.Skipped == 0 || r.Refused != 2 || r.Failed != 0 {
		t.Errorf("summary: %s", out.String())
	}
	if e := summary.Envelopes; e.Objects != 25 || e.Rewrapped != 25 || e.Opened != 25 || len(e.Left) != 1 || !strings.HasPrefix(e.Left[0], `demo-orders/"sealed/00000.json" version `) {
		t.Errorf("envelopes: %+v", e)
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

// tampering is something that a worker could have done wrong.
type tampering struct {
	do   func(context.Context, *s3.Client, *sandbox.Sandbox) error // nil where it is the same as above
	want string                                                    // in the problem that comes of it
}

// findOut plays the demo, does what is wrong before the verifier looks, and expects problems
// about nothing else.
func findOut(t *testing.T, all []tampering) {
	t.Helper()
	t.Parallel()
	var wants []string
	for _, one := range all {
		wants = append(wants, one.want)
	}
	expectProblems(t, demo.Options{
		Worker: demoWorker(slog.New(slog.DiscardHandler)), Command: demoOperator, Objects: 8,
		BeforeVerify: func(ctx context.Context, box *sandbox.Sandbox) error {
			for _, one := range all {
				if one.do == nil {
					continue
				}
				if err := one.do(ctx, awsclient.S3(box.Config("operator"), nil), box); err != nil {
					return err
				}
			}
			return nil
		},
	}, wants...)
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
		t.Run(name, func(t *testing.T) { findOut(t, all) })
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

// sealed is an object that the application encrypted itself.
type sealed struct {
	body     []byte
	metadata map[string]string
	kms      *kms.Client
	old      string // the KMS key that the alias has left
}

// back wraps the data key under the old key again.
func (o *sealed) back(ctx context.Context, wrapped []byte, about map[string]string) ([]byte, error) {
	out, err := o.kms.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: wrapped, SourceEncryptionContext: about, DestinationKeyId: &o.old, DestinationEncryptionContext: about})
	if err != nil {
		return nil, err
	}
	return out.CiphertextBlob, nil
}

// TestVerifierOpensWhatWasSealed does the same with what the application encrypted itself.
func TestVerifierOpensWhatWasSealed(t *testing.T) {
	const versioned = "sealed/00000.json" // in demo-orders
	oldKey := func(ctx context.Context, c *s3.Client) (string, error) {
		head, err := c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: aws.String("demo-contracts"), Key: aws.String("contracts/signed.pdf")})
		if err != nil {
			return "", err
		}
		return *head.SSEKMSKeyId, nil
	}
	// rewrite writes anew an object of demo-vault that has no tags and no further headers.
	rewrite := func(key string, change func(context.Context, *sealed) error) func(context.Context, *s3.Client, *sandbox.Sandbox) error {
		return func(ctx context.Context, c *s3.Client, box *sandbox.Sandbox) error {
			old, err := oldKey(ctx, c)
			if err != nil {
				return err
			}
			out, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String("demo-vault"), Key: &key})
			if err != nil {
				return err
			}
			body, err := io.ReadAll(out.Body)
			if err != nil {
				return err
			}
			o := sealed{body, out.Metadata, kms.NewFromConfig(box.Config("operator")), old}
			if err := change(ctx, &o); err != nil {
				return err
			}
			_, err = c.PutObject(ctx, &s3.PutObjectInput{
				Bucket: aws.String("demo-vault"), Key: &key, Body: bytes.NewReader(o.body), Metadata: o.metadata, ContentType: out.ContentType, StorageClass: out.StorageClass,
			})
			return err
		}
	}
	oldInMetadata := func(ctx context.Context, o *sealed) error {
		var about map[string]string
		wrapped, err := base64.StdEncoding.DecodeString(o.metadata["x-amz-key-v2"])
		if err := errors.Join(err, json.Unmarshal([]byte(o.metadata["x-amz-matdesc"]), &about)); err != nil {
			return err
		}
		wrapped, err = o.back(ctx, wrapped, about)
		o.metadata["x-amz-key-v2"] = base64.StdEncoding.EncodeToString(wrapped)
		return err
	}
	oldInBody := func(ctx context.Context, o *sealed) error {
		h, err := envelope.ReadHeader(bytes.NewReader(o.body))
		if err != nil {
			return err
		}
		wrapped, err := o.back(ctx, h.WrappedKey, h.Context)
		if err != nil {
			return err
		}
		header, err := h.Rewrapped(o.old, wrapped)
		o.body = append(header, o.body[h.Size:]...)
		return err
	}
	flip := func(_ context.Context, o *sealed) error {
		o.body[len(o.body)-1] ^= 1
		return nil
	}
	lose := func(name string) func(context.Context, *sealed) error {
		return func(_ context.Context, o *sealed) error {
			if _, there := o.metadata[name]; !there {
				return fmt.Errorf("there is no %s", name)
			}
			delete(o.metadata, name)
			return nil
		}
	}
	otherTenant := func(_ context.Context, o *sealed) error {
		o.metadata["x-amz-t"] = strings.Replace(o.metadata["x-amz-t"], "team-b", "team-a", 1)
		return nil
	}
	anew := func(ctx context.Context, o *sealed) error {
		h, err := envelope.ReadHeader(bytes.NewReader(o.body))
		if err != nil {
			return err
		}
		sealer, err := envelope.New(o.kms, h.KeyARN, envelope.Options{})
		if err != nil {
			return err
		}
		defer sealer.Close()
		o.body, err = sealer.Seal(ctx, []byte("another"), h.Context)
		return err
	}
	untag := func(bucket, key string) func(context.Context, *s3.Client, *sandbox.Sandbox) error {
		return func(ctx context.Context, c *s3.Client, _ *sandbox.Sandbox) error {
			_, err := c.DeleteObjectTagging(ctx, &s3.DeleteObjectTaggingInput{Bucket: &bucket, Key: &key})
			return err
		}
	}
	add := func(ctx context.Context, c *s3.Client, _ *sandbox.Sandbox) error {
		_, err := c.CopyObject(ctx, &s3.CopyObjectInput{Bucket: aws.String("demo-vault"), Key: aws.String("client-v2/new"), CopySource: aws.String("demo-vault/client-v2/00000.json")})
		return err
	}
	rekey := func(ctx context.Context, c *s3.Client, _ *sandbox.Sandbox) error {
		old, err := oldKey(ctx, c)
		if err != nil {
			return err
		}
		_, err = c.UpdateObjectEncryption(ctx, &s3.UpdateObjectEncryptionInput{
			Bucket: aws.String("demo-orders"), Key: aws.String(versioned),
			ObjectEncryption: &s3types.ObjectEncryptionMemberSSEKMS{Value: s3types.SSEKMSEncryption{KMSKeyArn: &old}},
		})
		return err
	}
	remove := func(latest bool) func(context.Context, *s3.Client, *sandbox.Sandbox) error {
		return func(ctx context.Context, c *s3.Client, _ *sandbox.Sandbox) error {
			list, err := c.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{Bucket: aws.String("demo-orders"), Prefix: aws.String(versioned)})
			if err != nil {
				return err
			}
			for _, v := range list.Versions {
				if *v.IsLatest == latest {
					_, err = c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: aws.String("demo-orders"), Key: v.Key, VersionId: v.VersionId})
				}
			}
			return err
		}
	}
	unreport := func(ctx context.Context, c *s3.Client, _ *sandbox.Sandbox) error {
		list, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: aws.String(sandbox.StateBucket)})
		if err != nil {
			return err
		}
		for _, o := range list.Contents {
			if !strings.HasSuffix(*o.Key, "/report.jsonl") {
				continue
			}
			out, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(sandbox.StateBucket), Key: o.Key})
			if err != nil {
				return err
			}
			if body, err := io.ReadAll(out.Body); err != nil || !bytes.Contains(body, []byte(versioned)) {
				continue
			}
			_, err = c.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(sandbox.StateBucket), Key: o.Key})
			return err
		}
		return errors.New("no report names it")
	}
	for name, all := range map[string][]tampering{
		"data keys are left, data and metadata are damaged": {
			{rewrite("client-v2/größe-00002.csv", oldInMetadata), `demo-vault/"client-v2/größe-00002.csv" does not open under the new key: operation error KMS: Decrypt`},
			{rewrite("envelope/größe-00002.csv", oldInBody), `demo-vault/"envelope/größe-00002.csv" does not open under the new key: open: wrong KMS key`},
			{rewrite("client-v3/größe-00002.csv", flip), `demo-vault/"client-v3/größe-00002.csv" version null has other bytes`},
			{nil, `demo-vault/"client-v3/größe-00002.csv" does not open`},
			{rewrite("envelope/größe-00006.csv", anew), `demo-vault/"envelope/größe-00006.csv" version null has other bytes`},
			{nil, `demo-vault/"envelope/größe-00006.csv" opens and is "another"`},
			{untag("demo-vault", "client-v3/00000.json"), `demo-vault/"client-v3/00000.json" version null was but for its data key`},
			{add, `demo-vault/"client-v2/new" version null was not there before`},
		},
		"metadata of the client is lost, the report does not name the older version": {
			{rewrite("client-v2/größe-00006.csv", lose("x-amz-matdesc")), `demo-vault/"client-v2/größe-00006.csv" version null was but for its data key`},
			{nil, `demo-vault/"client-v2/größe-00006.csv" does not open`},
			{rewrite("client-v3/größe-00006.csv", lose("x-amz-d")), `demo-vault/"client-v3/größe-00006.csv" version null was but for its data key`},
			{nil, `demo-vault/"client-v3/größe-00006.csv" does not open under the new key: its commitment`},
			{rewrite("client-v2/report 00001+a&b=c.txt", lose("x-amz-tag-len")), `demo-vault/"client-v2/report 00001+a&b=c.txt" version null was but for its data key`},
			{nil, `demo-vault/"client-v2/report 00001+a&b=c.txt" does not open under the new key: its metadata has "" as x-amz-tag-len`},
			{rewrite("client-v3/report 00001+a&b=c.txt", otherTenant), `demo-vault/"client-v3/report 00001+a&b=c.txt" version null was but for its data key`},
			{nil, `demo-vault/"client-v3/report 00001+a&b=c.txt" does not open under the new key: its metadata has an IV or id of 28 bytes and the encryption context`},
			{unreport, "keeps what is under the old key, and no report names it"},
		},
		"the new version is not there":         {{remove(true), "that it is the current version is true"}, {nil, `demo-orders/"` + versioned + `" does not open under the new key`}},
		"the new version is under the old key": {{rekey, "is under arn:"}, {nil, `demo-orders/"` + versioned + `" does not open under the new key: operation error S3: GetObject`}},
		"the older version is gone, the new one has lost its tags": {
			{remove(false), "is gone"}, {nil, "cannot be read"}, {nil, "Decrypt of its data key under the new key gives"},
			{untag("demo-orders", versioned), "was but for its data key"},
		},
	} {
		t.Run(name, func(t *testing.T) { findOut(t, all) })
	}
	t.Run("the worker looks for no data keys", func(t *testing.T) {
		t.Parallel()
		worker := demoWorker(slog.New(slog.DiscardHandler))
		expectProblems(t, demo.Options{
			Worker: func(ctx context.Context, environment map[string]string, cfg aws.Config, ready func()) error {
				for _, name := range []string{"CMKEEPER_REENCRYPT_ENVELOPES", "CMKEEPER_REENCRYPT_REWRITE_FILES"} {
					if environment[name] == "" {
						return fmt.Errorf("the worker has no %s", name)
					}
					delete(environment, name)
				}
				return worker(ctx, environment, cfg, ready)
			},
			Command: demoOperator, Objects: 8,
		}, "does not open under the new key", "that it is the current version is true")
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
