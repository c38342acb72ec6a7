package sandbox

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/cmkeeper/cmkeeper/internal/awsclient"
)

// Playground has resources for trying out cmkeeper.
type Playground struct {
	// Alias points to Key, which rotates every 180 days and encrypts the objects of Bucket.
	Alias, Key, Bucket string
	// NextKey is a second key, to which the alias can move.
	NextKey string
}

// Populate creates the resources of a Playground.
func (s *Sandbox) Populate(ctx context.Context) (Playground, error) {
	cfg := s.Config("operator")
	keys, buckets := kms.NewFromConfig(cfg), awsclient.S3(cfg, nil)
	p := Playground{Alias: "alias/app", Bucket: "app-data"}
	for description, id := range map[string]*string{"the application's key": &p.Key, "the application's next key": &p.NextKey} {
		out, err := keys.CreateKey(ctx, &kms.CreateKeyInput{Description: &description})
		if err != nil {
			return p, fmt.Errorf("create key: %w", err)
		}
		*id = aws.ToString(out.KeyMetadata.KeyId)
	}
	if _, err := keys.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &p.Key, RotationPeriodInDays: aws.Int32(180)}); err != nil {
		return p, fmt.Errorf("enable rotation: %w", err)
	}
	if _, err := keys.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &p.Alias, TargetKeyId: &p.Key}); err != nil {
		return p, fmt.Errorf("create alias: %w", err)
	}
	if _, err := buckets.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &p.Bucket}); err != nil {
		return p, fmt.Errorf("create bucket: %w", err)
	}
	if _, err := buckets.PutBucketEncryption(ctx, &s3.PutBucketEncryptionInput{
		Bucket: &p.Bucket,
		ServerSideEncryptionConfiguration: &s3types.ServerSideEncryptionConfiguration{Rules: []s3types.ServerSideEncryptionRule{{
			ApplyServerSideEncryptionByDefault: &s3types.ServerSideEncryptionByDefault{SSEAlgorithm: s3types.ServerSideEncryptionAwsKms, KMSMasterKeyID: &p.Alias},
		}}},
	}); err != nil {
		return p, fmt.Errorf("set the bucket's default encryption: %w", err)
	}
	for i := range 20 {
		if _, err := buckets.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &p.Bucket, Key: aws.String(fmt.Sprintf("reports/%02d.txt", i)), Body: strings.NewReader(fmt.Sprintf("report %d", i)),
			Metadata: map[string]string{"row": fmt.Sprint(i)},
		}); err != nil {
			return p, fmt.Errorf("put object: %w", err)
		}
	}
	return p, nil
}
