// Package s3clientv4 shows that version 4 of the S3 Encryption Client for Go reads what it
// wrote after a whole job has moved its data keys and the old KMS key is deleted.
package s3clientv4

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/aws/amazon-s3-encryption-client-go/v4/client"
	"github.com/aws/amazon-s3-encryption-client-go/v4/commitment"
	"github.com/aws/amazon-s3-encryption-client-go/v4/materials"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/cmkeeper/cmkeeper/clientside"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

const (
	account = "111122223333"
	region  = "eu-west-1"
	bucket  = "data"
)

// large is more than what is copied at once in this test, as an object above 5 GB is.
var large = strings.Repeat("0123456789abcdef", 6<<16)

type world struct {
	server   *localaws.Server
	kms      *kms.Client
	s3       *s3.Client
	old, new string
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	server := localaws.New(localaws.Options{Account: account, Region: region})
	t.Cleanup(server.Close)
	listener := httptest.NewServer(server)
	t.Cleanup(listener.Close)
	// The client reads instruction files by a client of its own, made of the environment.
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": listener.URL, "AWS_ACCESS_KEY_ID": "app", "AWS_SECRET_ACCESS_KEY": "localaws", "AWS_REGION": region,
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	cfg := aws.Config{Region: region, BaseEndpoint: &listener.URL, Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "app", SecretAccessKey: "localaws"}, nil
	})}
	w := &world{server: server, kms: kms.NewFromConfig(cfg), s3: s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })}
	for _, key := range []*string{&w.old, &w.new} {
		*key = *must[*kms.CreateKeyOutput](t)(w.kms.CreateKey(t.Context(), &kms.CreateKeyInput{})).KeyMetadata.Arn
	}
	for _, name := range []string{bucket, "state"} {
		must[*s3.CreateBucketOutput](t)(w.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name, CreateBucketConfiguration: &types.CreateBucketConfiguration{LocationConstraint: region}}))
	}
	return w
}

func (w *world) client(t *testing.T, keyring materials.Keyring, policy commitment.CommitmentPolicy) *client.S3EncryptionClientV4 {
	t.Helper()
	manager := must[*materials.DefaultCryptographicMaterialsManager](t)(materials.NewCryptographicMaterialsManager(keyring))
	return must[*client.S3EncryptionClientV4](t)(client.New(w.s3, manager, func(o *client.EncryptionClientOptions) { o.CommitmentPolicy = policy }))
}

// intoInstructionFile moves what the client wrote into the metadata into an instruction
// file, as clients of other languages write it: those for Go only read it.
func (w *world) intoInstructionFile(t *testing.T, key string, stays ...string) {
	t.Helper()
	metadata, file := must[*s3.HeadObjectOutput](t)(w.s3.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String(bucket), Key: &key})).Metadata, map[string]string{}
	for name, value := range metadata {
		file[name] = value
		delete(metadata, name)
	}
	for _, name := range stays {
		metadata[name] = file[name]
		delete(file, name)
	}
	must[*s3.CopyObjectOutput](t)(w.s3.CopyObject(t.Context(), &s3.CopyObjectInput{
		Bucket: aws.String(bucket), Key: &key, CopySource: aws.String(bucket + "/" + url.PathEscape(key)), Metadata: metadata, MetadataDirective: types.MetadataDirectiveReplace,
		ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &w.old,
	}))
	must[*s3.PutObjectOutput](t)(w.s3.PutObject(t.Context(), &s3.PutObjectInput{
		Bucket: aws.String(bucket), Key: aws.String(key + clientside.InstructionSuffix), Body: bytes.NewReader(must[[]byte](t)(json.Marshal(file))),
		Metadata: map[string]string{"x-amz-crypto-instr-file": ""}, ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &w.old,
	}))
}

func TestJobs(t *testing.T) {
	for _, method := range []reencrypt.Method{reencrypt.MethodUpdate, reencrypt.MethodCopy} {
		t.Run(string(method), func(t *testing.T) {
			w := newWorld(t)
			// Version 3 of the format commits to the data key, version 2 does not.
			policies := map[string]commitment.CommitmentPolicy{
				"v3/": commitment.REQUIRE_ENCRYPT_REQUIRE_DECRYPT, "v2/": commitment.FORBID_ENCRYPT_ALLOW_DECRYPT,
			}
			want := map[string]string{}
			for prefix, policy := range policies {
				writer := w.client(t, materials.NewKmsKeyring(w.kms, w.old), policy)
				for name, text := range map[string]string{"metadata": "some data", "file": "some data", "large": large, "empty": ""} {
					key := prefix + name
					in := &s3.PutObjectInput{Bucket: aws.String(bucket), Key: &key, Body: strings.NewReader(text), ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &w.old}
					must[*s3.PutObjectOutput](t)(writer.PutObject(t.Context(), in))
					want[key] = text
				}
			}
			w.intoInstructionFile(t, "v3/file", "x-amz-c", "x-amz-d", "x-amz-i")
			w.intoInstructionFile(t, "v2/file")

			cfg := inprocess.Config(w.server, region, "worker")
			buckets, keys := awsclient.S3(cfg, aws.Bool(true)), kms.NewFromConfig(cfg)
			engine := must[*reencrypt.Engine](t)(reencrypt.New(reencrypt.Options{
				S3: buckets, KMS: keys, Resolver: inventory.New(keys, buckets, account, region), Account: account, StateBucket: "state", StatePrefix: "cmkeeper/",
				MaxCopySize: 5 << 20, PartSize: 5 << 20,
			}))
			got := must[reencrypt.Summary](t)(engine.Run(t.Context(), reencrypt.RunOptions{Bucket: bucket, From: []string{w.old}, To: w.new, Method: method, Envelopes: reencrypt.EnvelopesMetadata}, nil))
			// The two objects with an instruction file move without it, and the files are objects, too.
			if n := int64(len(want)); got.State != reencrypt.StateComplete || got.Moved != n+2 || got.Refused+got.Failed+got.Skipped != 0 || got.Rewrapped[reencrypt.ReasonOnTarget] != n {
				t.Errorf("%+v", got)
			}
			if parts := w.server.Requests("s3", "UploadPartCopy"); parts != 4 {
				t.Errorf("%d parts were copied", parts)
			}

			must[*kms.ScheduleKeyDeletionOutput](t)(w.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &w.old, PendingWindowInDays: aws.Int32(7)}))
			w.server.KMS().EndWaiting(w.old)
			for prefix, policy := range policies {
				for name, keyring := range map[string]materials.Keyring{
					"new": materials.NewKmsKeyring(w.kms, w.new), "any": materials.NewKmsDecryptOnlyAnyKeyKeyring(w.kms), "old": materials.NewKmsKeyring(w.kms, w.old),
				} {
					reader := w.client(t, keyring, policy)
					for key, text := range want {
						if !strings.HasPrefix(key, prefix) {
							continue
						}
						out, err := reader.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(bucket), Key: &key})
						if name == "old" {
							if err == nil || !strings.Contains(err.Error(), "NotFoundException") {
								t.Errorf("%s with the old key: %v", key, err)
							}
							continue
						}
						if err != nil {
							t.Errorf("%s with %s: %v", key, name, err)
							continue
						}
						if body, err := io.ReadAll(out.Body); err != nil || string(body) != text {
							t.Errorf("%s with %s: %.20q, %v", key, name, body, err)
						}
					}
				}
			}
		})
	}
}
