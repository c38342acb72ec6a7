package inventory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// AliasTag is the bucket tag that names the aliases whose moves concern the
// bucket, separated by spaces or commas.
const AliasTag = "cmkeeper:alias"

// bucketConcurrency is how many buckets are read at a time.
const bucketConcurrency = 16

// Bucket describes a bucket's encryption.
type Bucket struct {
	Name, Region string
	// DefaultKey is the key of the default encryption as configured: key ARN, id,
	// alias name or alias ARN. It is "" for SSE-S3, and for SSE-KMS without a key,
	// which uses the AWS managed alias/aws/s3.
	DefaultKey string
	// DefaultAlias is the alias name in DefaultKey ("alias/app"); "" if DefaultKey
	// names the key itself.
	DefaultAlias string
	// DefaultKeyARN is the ARN of DefaultKey; "" if that key does not exist or we may
	// not look it up.
	DefaultKeyARN string
	// DefaultKeyGone: KMS knows no key or alias of the name DefaultKey.
	DefaultKeyGone bool
	// KMS: new objects are encrypted under a KMS key (SSE-KMS or DSSE-KMS), which for a
	// bucket without DefaultKey is the AWS managed one.
	KMS bool
	// BucketKey: new objects are encrypted with an S3 bucket key.
	BucketKey bool
	// DSSE: new objects are encrypted twice (DSSE-KMS), which S3 does without bucket keys.
	DSSE bool
	// AliasTags are the aliases that the tag AliasTag names.
	AliasTags []string
}

// DefaultIs reports whether the default encryption names a key of the bucket's account and
// Region, and whether that is known: it is not for an alias that may not be looked up.
func (b Bucket) DefaultIs(keyARN string) (is, known bool) {
	switch {
	case b.DefaultKey == "", b.DefaultKeyGone: // a name without a key names no key that exists
		return false, true
	case b.DefaultKeyARN != "":
		return b.DefaultKeyARN == keyARN, true
	case b.DefaultAlias != "":
		// An alias and its key are always in one account and Region.
		alias, key := arn.Parse(b.DefaultKey), arn.Parse(keyARN)
		return false, alias != (arn.ARN{}) && (alias.Account != key.Account || alias.Region != key.Region)
	}
	return b.DefaultKey == arn.KeyID(keyARN), true // an id that may not be looked up is an id all the same
}

// Buckets reads all buckets of the account and Region, sorted by name. If some
// cannot be read, it returns the others together with an error that joins one error
// for each of them.
func (r *Reader) Buckets(ctx context.Context) ([]Bucket, error) {
	listed, err := r.listBuckets(ctx)
	if err != nil {
		return nil, err
	}
	var (
		mu      sync.Mutex
		buckets []Bucket
		errs    []error
		group   errgroup.Group
		keys    = &resolver{r: r}
	)
	group.SetLimit(bucketConcurrency)
	for _, b := range listed {
		group.Go(func() error {
			b, err := r.bucket(ctx, b.Name, b.Region, keys)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, errOtherRegion), errors.Is(err, ErrNotFound): // out of scope, or deleted since it was listed
			case err != nil:
				errs = append(errs, err)
			default:
				buckets = append(buckets, b)
			}
			return nil
		})
	}
	_ = group.Wait() // no bucket's error stops the others
	slices.SortFunc(buckets, func(a, b Bucket) int { return cmp.Compare(a.Name, b.Name) })
	return buckets, errors.Join(errs...)
}

// Bucket reads one bucket of the account and Region. Errors: ErrNotFound,
// ErrAccessDenied, and an error for a bucket of another Region.
func (r *Reader) Bucket(ctx context.Context, name string) (Bucket, error) {
	return r.bucket(ctx, name, "", &resolver{r: r})
}

// BucketPolicy reads a bucket's policy document; "" if it has none. Errors:
// ErrNotFound, ErrAccessDenied.
func (r *Reader) BucketPolicy(ctx context.Context, name string) (string, error) {
	out, err := r.s3.GetBucketPolicy(ctx, &s3.GetBucketPolicyInput{Bucket: &name, ExpectedBucketOwner: &r.account})
	switch {
	case hasCode(err, "NoSuchBucketPolicy"):
		return "", nil
	case err != nil:
		return "", failed("get policy of bucket "+name, err)
	}
	return aws.ToString(out.Policy), nil
}

var errOtherRegion = errors.New("bucket is in another Region")

// listBuckets returns names and Regions; the Region is "" if the server leaves it
// out of the list.
func (r *Reader) listBuckets(ctx context.Context) ([]Bucket, error) {
	var buckets []Bucket
	pages := s3.NewListBucketsPaginator(r.s3, &s3.ListBucketsInput{BucketRegion: &r.region, MaxBuckets: aws.Int32(1000)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, failed("list buckets", err)
		}
		for _, b := range page.Buckets {
			buckets = append(buckets, Bucket{Name: aws.ToString(b.Name), Region: aws.ToString(b.BucketRegion)})
		}
	}
	return buckets, nil
}

// bucket reads a bucket; region is "" if it is not known yet.
func (r *Reader) bucket(ctx context.Context, name, region string, keys *resolver) (Bucket, error) {
	if region == "" {
		head, err := r.s3.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &name, ExpectedBucketOwner: &r.account})
		if err != nil {
			return Bucket{}, failed("read bucket "+name, err)
		}
		region = cmp.Or(aws.ToString(head.BucketRegion), r.region)
	}
	if region != r.region {
		return Bucket{}, fmt.Errorf("read bucket %s: %w: %s", name, errOtherRegion, region)
	}
	b := Bucket{Name: name, Region: region}
	encryption, err := r.s3.GetBucketEncryption(ctx, &s3.GetBucketEncryptionInput{Bucket: &name, ExpectedBucketOwner: &r.account})
	switch {
	case hasCode(err, "ServerSideEncryptionConfigurationNotFoundError"): // older servers; on AWS every bucket has one
	case err != nil:
		return Bucket{}, failed("get encryption of bucket "+name, err)
	default:
		b.setEncryption(encryption.ServerSideEncryptionConfiguration)
	}
	tagging, err := r.s3.GetBucketTagging(ctx, &s3.GetBucketTaggingInput{Bucket: &name, ExpectedBucketOwner: &r.account})
	switch {
	case hasCode(err, "NoSuchTagSet"):
	case err != nil:
		return Bucket{}, failed("get tags of bucket "+name, err)
	default:
		b.AliasTags = aliasTags(tagging.TagSet)
	}
	if b.DefaultKey == "" {
		return b, nil
	}
	b.DefaultAlias = aliasName(b.DefaultKey)
	b.DefaultKeyARN, err = keys.resolve(ctx, b.DefaultKey)
	b.DefaultKeyGone = errors.Is(err, ErrNotFound)
	if err != nil && !b.DefaultKeyGone && !errors.Is(err, ErrAccessDenied) {
		return Bucket{}, fmt.Errorf("resolve default key of bucket %s: %w", name, err)
	}
	return b, nil
}

// setEncryption sets what the default encryption says.
func (b *Bucket) setEncryption(c *types.ServerSideEncryptionConfiguration) {
	if c == nil || len(c.Rules) == 0 { // S3 allows one rule
		return
	}
	rule := c.Rules[0]
	b.BucketKey = aws.ToBool(rule.BucketKeyEnabled)
	if d := rule.ApplyServerSideEncryptionByDefault; d != nil {
		b.DefaultKey = aws.ToString(d.KMSMasterKeyID)
		b.DSSE = d.SSEAlgorithm == types.ServerSideEncryptionAwsKmsDsse
		b.KMS = b.DSSE || d.SSEAlgorithm == types.ServerSideEncryptionAwsKms
	}
}

func aliasTags(tags []types.Tag) []string {
	for _, t := range tags {
		if aws.ToString(t.Key) == AliasTag {
			return strings.FieldsFunc(aws.ToString(t.Value), func(r rune) bool { return r == ' ' || r == ',' })
		}
	}
	return nil
}

func hasCode(err error, code string) bool {
	e, ok := errors.AsType[smithy.APIError](err)
	return ok && e.ErrorCode() == code
}

// resolver looks up each key name once, because most buckets share a few keys.
type resolver struct {
	r     *Reader
	known sync.Map // name → func() (string, error)
}

func (r *resolver) resolve(ctx context.Context, name string) (string, error) {
	once, _ := r.known.LoadOrStore(name, sync.OnceValues(func() (string, error) { return r.r.Resolve(ctx, name) }))
	return once.(func() (string, error))()
}
