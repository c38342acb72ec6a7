// Package inventory reads facts about keys, aliases, grants and buckets as typed
// values. It reads every list to its end, and caches nothing, because handlers must
// act on the live state.
package inventory

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// KMS is what Reader calls; *kms.Client has it.
type KMS interface {
	DescribeCustomKeyStores(context.Context, *kms.DescribeCustomKeyStoresInput, ...func(*kms.Options)) (*kms.DescribeCustomKeyStoresOutput, error)
	DescribeKey(context.Context, *kms.DescribeKeyInput, ...func(*kms.Options)) (*kms.DescribeKeyOutput, error)
	GetKeyLastUsage(context.Context, *kms.GetKeyLastUsageInput, ...func(*kms.Options)) (*kms.GetKeyLastUsageOutput, error)
	GetKeyPolicy(context.Context, *kms.GetKeyPolicyInput, ...func(*kms.Options)) (*kms.GetKeyPolicyOutput, error)
	GetKeyRotationStatus(context.Context, *kms.GetKeyRotationStatusInput, ...func(*kms.Options)) (*kms.GetKeyRotationStatusOutput, error)
	ListAliases(context.Context, *kms.ListAliasesInput, ...func(*kms.Options)) (*kms.ListAliasesOutput, error)
	ListGrants(context.Context, *kms.ListGrantsInput, ...func(*kms.Options)) (*kms.ListGrantsOutput, error)
	ListKeyRotations(context.Context, *kms.ListKeyRotationsInput, ...func(*kms.Options)) (*kms.ListKeyRotationsOutput, error)
	ListKeys(context.Context, *kms.ListKeysInput, ...func(*kms.Options)) (*kms.ListKeysOutput, error)
	ListResourceTags(context.Context, *kms.ListResourceTagsInput, ...func(*kms.Options)) (*kms.ListResourceTagsOutput, error)
}

// S3 is what Reader calls; *s3.Client has it.
type S3 interface {
	GetBucketEncryption(context.Context, *s3.GetBucketEncryptionInput, ...func(*s3.Options)) (*s3.GetBucketEncryptionOutput, error)
	GetBucketPolicy(context.Context, *s3.GetBucketPolicyInput, ...func(*s3.Options)) (*s3.GetBucketPolicyOutput, error)
	GetBucketTagging(context.Context, *s3.GetBucketTaggingInput, ...func(*s3.Options)) (*s3.GetBucketTaggingOutput, error)
	HeadBucket(context.Context, *s3.HeadBucketInput, ...func(*s3.Options)) (*s3.HeadBucketOutput, error)
	ListBuckets(context.Context, *s3.ListBucketsInput, ...func(*s3.Options)) (*s3.ListBucketsOutput, error)
}

// Errors for a caller's decisions, with errors.Is. AWS's own error is wrapped too.
var (
	// ErrNotFound: the key, alias or bucket does not exist.
	ErrNotFound = errors.New("not found")
	// ErrAccessDenied: a policy denies us the read. For a key this can be the key's
	// own policy.
	ErrAccessDenied = errors.New("access denied")
)

// Reader reads from one account and Region. It is safe for concurrent use.
type Reader struct {
	kms             KMS
	s3              S3
	account, region string
}

// New returns a reader for the account (12 digits, the expected owner of every
// bucket) and the Region of the clients.
func New(keys KMS, buckets S3, account, region string) *Reader {
	return &Reader{kms: keys, s3: buckets, account: account, region: region}
}

// failed wraps an error of AWS, together with the sentinel for its code, if any.
func failed(what string, err error) error {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		switch e.ErrorCode() {
		case "NotFoundException", "NoSuchBucket", "NotFound":
			return fmt.Errorf("%s: %w: %w", what, ErrNotFound, err)
		case "AccessDeniedException", "AccessDenied", "Forbidden":
			return fmt.Errorf("%s: %w: %w", what, ErrAccessDenied, err)
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Resolve returns the full ARN of the key with this key id, key ARN, alias name,
// alias ARN or LocalStack's form of it ("arn:…:key/alias/NAME"), so that keys can be
// compared. It returns a key ARN unchanged, whether the key exists or not, and looks
// up everything else in KMS. Errors: ErrNotFound, ErrAccessDenied.
func (r *Reader) Resolve(ctx context.Context, name string) (keyARN string, err error) {
	name, isKeyARN := normalise(name)
	if isKeyARN {
		return name, nil
	}
	k, err := r.Key(ctx, name)
	if err != nil {
		return "", err
	}
	return k.ARN, nil
}

// normalise returns the name in a form that KMS accepts, and whether it is the full
// ARN of a key.
func normalise(name string) (normal string, isKeyARN bool) {
	a := arn.Parse(name)
	id, ok := strings.CutPrefix(a.Resource, "key/")
	switch {
	case !ok:
		return name, false
	case strings.HasPrefix(id, "alias/"):
		a.Resource = id
		return a.String(), false
	}
	return name, true
}

// aliasName returns the alias name in any form of a key's name, or "".
func aliasName(name string) string {
	name, _ = normalise(name)
	if a := arn.Parse(name); a != (arn.ARN{}) {
		name = a.Resource
	}
	if !strings.HasPrefix(name, "alias/") {
		return ""
	}
	return name
}
