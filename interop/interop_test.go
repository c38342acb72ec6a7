// Package interop shows that what others wrote can be read by them after package
// clientside has re-wrapped it, and after a job of package reencrypt has moved the bucket:
// their own code writes over the in-process AWS, the data key is moved, the old KMS key
// goes, their own code reads.
package interop

import (
	"context"
	"net/http/httptest"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/cmkeeper/cmkeeper/clientside"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
)

const (
	account = "111122223333"
	region  = "eu-west-1"
	bucket  = "data"
)

// world is an account with an alias that points to a KMS key, and another key to move to.
type world struct {
	server   *localaws.Server
	kms      *kms.Client
	s3       *s3.Client
	alias    string // ARNs
	old, new string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	server := localaws.New(localaws.Options{Account: account, Region: region})
	t.Cleanup(server.Close)
	listener := httptest.NewServer(server)
	t.Cleanup(listener.Close)
	// Libraries that make clients of their own take these from the environment.
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": listener.URL, "AWS_ACCESS_KEY_ID": "app", "AWS_SECRET_ACCESS_KEY": "localaws", "AWS_REGION": region,
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CA_BUNDLE": "",
	} {
		t.Setenv(name, value)
	}
	cfg := aws.Config{
		Region: region, BaseEndpoint: &listener.URL,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "app", SecretAccessKey: "localaws"}, nil
		}),
	}
	w := &world{
		server: server, kms: kms.NewFromConfig(cfg), s3: s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true }),
		alias: "arn:aws:kms:" + region + ":" + account + ":alias/app",
	}
	w.old, w.new = w.createKey(t), w.createKey(t)
	if _, err := w.kms.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/app"), TargetKeyId: &w.old}); err != nil {
		t.Fatal(err)
	}
	w.createBucket(t, bucket)
	return w
}

func (w *world) createBucket(t *testing.T, name string) {
	t.Helper()
	if _, err := w.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name, CreateBucketConfiguration: &types.CreateBucketConfiguration{LocationConstraint: region}}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) createKey(t *testing.T) string {
	t.Helper()
	out, err := w.kms.CreateKey(t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	return *out.KeyMetadata.Arn
}

// rewrap moves what was found as re-encryption does: with nothing of KMS but ReEncrypt.
func (w *world) rewrap(t *testing.T, f clientside.Found, want int) clientside.Rewrapped {
	t.Helper()
	before := w.server.Requests("kms", "Decrypt") + w.server.Requests("kms", "GenerateDataKey")
	out, err := f.Rewrap(t.Context(), reEncryptOnly{w.kms}, clientside.Move{From: []string{w.old}, To: w.new, Aliases: []string{w.alias}})
	if err != nil || out.Moved != want {
		t.Fatalf("moved %d of %d, %v", out.Moved, want, err)
	}
	if after := w.server.Requests("kms", "Decrypt") + w.server.Requests("kms", "GenerateDataKey"); after != before {
		t.Fatalf("%d other calls of KMS", after-before)
	}
	return out
}

type reEncryptOnly struct{ clientside.KMS }

// moveAlias moves the alias to the new key.
func (w *world) moveAlias(t *testing.T) {
	t.Helper()
	if _, err := w.kms.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: aws.String("alias/app"), TargetKeyId: &w.new}); err != nil {
		t.Fatal(err)
	}
}

// retire moves the alias to the new key and schedules the deletion of the old one, under
// which KMS decrypts nothing from then on.
func (w *world) retire(t *testing.T) {
	t.Helper()
	w.moveAlias(t)
	if _, err := w.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &w.old, PendingWindowInDays: aws.Int32(7)}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.kms.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &w.old, NumberOfBytes: aws.Int32(32)}); err == nil {
		t.Fatal("the old key still works")
	}
}
