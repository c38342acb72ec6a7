package reencrypt

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/cmkeeper/cmkeeper/inventory"
)

// probe remembers, for the life of the process, whether the server has
// UpdateObjectEncryption. A server that does not know it takes the call for a
// PutObject and makes the request's XML the object's body, with a status of 200.
type probe struct {
	turn  chan struct{} // holds one value during a probe
	known bool
	// unsafe is why it must not be used; "" where it may.
	unsafe string
}

// probeUpdate returns why UpdateObjectEncryption must not be used, "" where it
// may. What it found out is remembered; an error is not.
func (e *Engine) probeUpdate(ctx context.Context, to string) (unsafe string, err error) {
	if e.opt.StateBucket == "" {
		return "", &stopError{"a state bucket is needed to find out whether UpdateObjectEncryption is safe here: name one, or choose method copy"}
	}
	p := &e.probe
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if p.known {
		return p.unsafe, nil
	}
	unsafe, err = e.tryUpdate(ctx, to)
	if err != nil {
		return "", err
	}
	if unsafe != "" {
		e.opt.Logger.WarnContext(ctx, "UpdateObjectEncryption is not used", "reason", unsafe)
	}
	p.known, p.unsafe = true, unsafe
	return unsafe, nil
}

// tryUpdate tries the operation on a scratch object in the state bucket, byte
// for byte, and removes the object.
func (e *Engine) tryUpdate(ctx context.Context, to string) (unsafe string, err error) {
	bucket, key := e.opt.StateBucket, e.opt.StatePrefix+probePrefix+rand.Text()
	owner := &e.opt.Account
	fail := func(err error) (string, error) {
		switch classify(err) {
		case faultDenied, faultNoBucket:
			return "", bucketError("probe", bucket, err)
		case faultKey:
			return "", &stopError{fmt.Sprintf("key %s cannot be used: %s", to, words(err))}
		default:
			return "", fmt.Errorf("probe UpdateObjectEncryption: %w", err)
		}
	}

	body := []byte("cmkeeper finds out whether this server can change an object's key: " + rand.Text())
	metadata := map[string]string{"cmkeeper-probe": rand.Text()}
	put, err := e.opt.S3.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &bucket, Key: &key, ExpectedBucketOwner: owner, Body: bytes.NewReader(body),
		Metadata: metadata, Tagging: aws.String("cmkeeper=probe"), CacheControl: aws.String("no-store"), ContentType: aws.String("text/plain"),
		ServerSideEncryption: types.ServerSideEncryptionAes256,
	})
	if err != nil {
		return fail(err)
	}
	remove := map[string]bool{aws.ToString(put.VersionId): true}
	defer func() { err = errors.Join(err, e.removeScratch(ctx, key, slices.Collect(maps.Keys(remove))...)) }()
	before, err := e.opt.S3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &bucket, Key: &key, ExpectedBucketOwner: owner})
	if err != nil {
		return fail(err)
	}
	_, err = e.opt.S3.UpdateObjectEncryption(ctx, &s3.UpdateObjectEncryptionInput{
		Bucket: &bucket, Key: &key, VersionId: put.VersionId, ExpectedBucketOwner: owner, ObjectEncryption: encryptionUnder(to, true),
	})
	switch {
	case err != nil && classify(err) == faultUnsupported:
		return "the server does not have it (" + words(err) + ")", nil
	case err != nil:
		return fail(err)
	}
	after, err := e.opt.S3.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key, ExpectedBucketOwner: owner})
	if err != nil {
		return fail(err)
	}
	defer func() { _ = after.Body.Close() }()
	remove[aws.ToString(after.VersionId)] = true
	got, err := io.ReadAll(io.LimitReader(after.Body, int64(len(body))+1))
	if err != nil {
		return fail(err)
	}
	tags, err := e.opt.S3.GetObjectTagging(ctx, &s3.GetObjectTaggingInput{Bucket: &bucket, Key: &key, ExpectedBucketOwner: owner})
	if err != nil {
		return fail(err)
	}
	keyARN := ""
	if shown := aws.ToString(after.SSEKMSKeyId); shown != "" {
		// A key that is nowhere is the server's answer; one that cannot be looked up is none.
		if keyARN, err = e.opt.Resolver.Resolve(ctx, shown); err != nil && !errors.Is(err, inventory.ErrNotFound) {
			return fail(err)
		}
	}
	tagged := len(tags.TagSet) == 1 && aws.ToString(tags.TagSet[0].Key) == "cmkeeper" && aws.ToString(tags.TagSet[0].Value) == "probe"
	switch {
	case !bytes.Equal(got, body):
		return "the server overwrites the object", nil
	case !maps.Equal(after.Metadata, metadata) || aws.ToString(after.CacheControl) != "no-store" || aws.ToString(after.ContentType) != "text/plain" || !tagged:
		return "the server loses metadata or tags", nil
	case aws.ToString(after.ETag) != aws.ToString(before.ETag) || aws.ToString(after.VersionId) != aws.ToString(before.VersionId) ||
		!aws.ToTime(after.LastModified).Equal(aws.ToTime(before.LastModified)):
		return "the server makes a new object of it", nil
	case after.ServerSideEncryption != types.ServerSideEncryptionAwsKms || keyARN != to || !aws.ToBool(after.BucketKeyEnabled):
		return "the server does not change the key", nil
	}
	return "", nil
}

// removeScratch removes versions of an object in the state bucket, also where ctx is over.
func (e *Engine) removeScratch(ctx context.Context, key string, versions ...string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var errs []error
	for _, version := range versions {
		_, err := e.opt.S3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &e.opt.StateBucket, Key: &key, VersionId: optional(version), ExpectedBucketOwner: &e.opt.Account})
		if err != nil {
			errs = append(errs, fmt.Errorf("remove scratch object s3://%s/%s: %w", e.opt.StateBucket, key, err))
		}
	}
	return errors.Join(errs...)
}

// probePrefix is where the scratch objects are, below the store's prefix.
const probePrefix = "probe/"

// scratchAge is how old a scratch object is at least that nobody uses any more.
const scratchAge = time.Minute

// RemoveScratch removes the scratch objects that processes have left in the state bucket
// which were killed while they tried a method or a key: they are under keys that nothing
// else may need.
func (e *Engine) RemoveScratch(ctx context.Context) error {
	pages := s3.NewListObjectVersionsPaginator(e.opt.S3, &s3.ListObjectVersionsInput{
		Bucket: &e.opt.StateBucket, Prefix: aws.String(e.opt.StatePrefix + probePrefix), ExpectedBucketOwner: &e.opt.Account,
	})
	var errs []error
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("remove scratch objects of s3://%s/%s%s: %w", e.opt.StateBucket, e.opt.StatePrefix, probePrefix, err)
		}
		for _, v := range page.Versions {
			if e.opt.Store.Now().Sub(aws.ToTime(v.LastModified)) > scratchAge {
				errs = append(errs, e.removeScratch(ctx, aws.ToString(v.Key), aws.ToString(v.VersionId)))
			}
		}
	}
	return errors.Join(errs...)
}

// scratch writes an object under a key into the state bucket, reads it and
// removes it.
func (e *Engine) scratch(ctx context.Context, keyARN string) (err error) {
	bucket, key := e.opt.StateBucket, e.opt.StatePrefix+probePrefix+rand.Text()
	owner := &e.opt.Account
	put, err := e.opt.S3.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &bucket, Key: &key, ExpectedBucketOwner: owner, Body: bytes.NewReader([]byte(key)),
		ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &keyARN,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.removeScratch(ctx, key, aws.ToString(put.VersionId))) }()
	got, err := e.opt.S3.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key, VersionId: put.VersionId, ExpectedBucketOwner: owner})
	if err != nil {
		return err
	}
	return got.Body.Close()
}
