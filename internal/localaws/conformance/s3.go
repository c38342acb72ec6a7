package conformance

import (
	"context"
	"crypto/md5" //nolint:gosec // S3's ETags and the names of SSE-C keys are MD5
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// S3Deviations are known differences of a server from S3.
type S3Deviations struct {
	// S3ACLDocumentIgnored: PutObjectAcl loses the grants of its document.
	S3ACLDocumentIgnored bool
	// S3ArchiveCopyCode: copying an archived object fails with ObjectNotInActiveTierError.
	S3ArchiveCopyCode bool
	// S3ChecksumsUnchecked: a wrong checksum is taken, and HEAD tells no type or not every checksum.
	S3ChecksumsUnchecked bool
	// S3ConditionPrecedence: a condition that another one makes void is evaluated all the same.
	S3ConditionPrecedence bool
	// S3CopyKeepsRedirect: a copy has its source's website redirect.
	S3CopyKeepsRedirect bool
	// S3CustomerKeysAllowed: a new bucket takes objects under SSE-C.
	S3CustomerKeysAllowed bool
	// S3KeyAsGiven: the KMS key is told as it was given, or as a made-up ARN.
	S3KeyAsGiven bool
	// S3KeysUnchecked: objects are not encrypted, so keys need neither exist nor be usable.
	S3KeysUnchecked bool
	// S3LaxLimits: limits and malformed arguments are not, or not like this, refused.
	S3LaxLimits bool
	// S3LaxVersioning: what a delete did to which marker is not told, and a
	// write while versioning is suspended removes all older versions.
	S3LaxVersioning bool
	// S3ListPaging: ListObjects repeats common prefixes in small pages.
	S3ListPaging bool
	// S3MD5OfKMS: the ETag of an object under SSE-KMS is its MD5.
	S3MD5OfKMS bool
	// S3MultipartNoBucketKey: a multipart upload loses BucketKeyEnabled.
	S3MultipartNoBucketKey bool
	// S3NoConditionalDelete: DeleteObject with If-Match answers 501.
	S3NoConditionalDelete bool
	// S3NoContext: a PUT does not answer with its encryption context.
	S3NoContext bool
	// S3NoCustomerKeys: SSE-C is not modelled.
	S3NoCustomerKeys bool
	// S3NoDefaultEncryption: a new bucket has no default encryption.
	S3NoDefaultEncryption bool
	// S3NoDefaultOwnership: a new bucket does not enforce its owner and takes ACLs.
	S3NoDefaultOwnership bool
	// S3NoDefaultRetention: a bucket made with Object Lock takes no default retention.
	S3NoDefaultRetention bool
	// S3NoManagedKey: SSE-KMS without a key does not use aws/s3.
	S3NoManagedKey bool
	// S3NoParts: the attributes of an object can not be read.
	S3NoParts bool
	// S3NoUpdateObjectEncryption: the operation is unknown. moto overwrites the
	// object with the request's XML, LocalStack answers 501.
	S3NoUpdateObjectEncryption bool
	// S3OddKeys: keys with control characters can not be stored.
	S3OddKeys bool
	// S3OwnerUnchecked: ExpectedBucketOwner is ignored.
	S3OwnerUnchecked bool
	// S3PartPaging: ListParts in small pages loses parts.
	S3PartPaging bool
	// S3RawMetadata: metadata that is not US-ASCII comes back as it was sent.
	S3RawMetadata bool
	// S3RetentionNotTold: GetObjectRetention answers nothing.
	S3RetentionNotTold bool
	// S3UnconditionalCopy: conditions of copies and of multipart uploads, and
	// the end of a copied range, are ignored.
	S3UnconditionalCopy bool
	// S3VersionMarkerGone: a listing does not go on behind a version that was
	// deleted between two pages.
	S3VersionMarkerGone bool
	// S3VersionPaging: ListObjectVersions in small pages repeats or loses versions.
	S3VersionPaging bool
}

// runS3 states what S3 does. Every subtest works in buckets of its own and
// removes them.
func runS3(t *testing.T, target Target) {
	s := s3Suite{
		target: target,
		s3: s3.NewFromConfig(target.Config, func(o *s3.Options) {
			o.UsePathStyle = target.PathStyle
			// What config.LoadDefaultConfig sets.
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenSupported
			o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenSupported
		}),
		keys: kmsSuite{target: target, client: kms.NewFromConfig(target.Config)},
	}
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"Buckets", s.buckets},
		{"Objects", s.objects},
		{"Ranges", s.ranges},
		{"OddKeys", s.oddKeys},
		{"ConditionalWrites", s.conditionalWrites},
		{"ConditionalReads", s.conditionalReads},
		{"ConditionalDeletes", s.conditionalDeletes},
		{"Versioning", s.versioning},
		{"Listing", s.listing},
		{"ListingVersions", s.listingVersions},
		{"DeleteObjects", s.deleteObjects},
		{"Encryption", s.encryption},
		{"DefaultEncryption", s.defaultEncryption},
		{"UnusableKeys", s.unusableKeys},
		{"CustomerKeys", s.customerKeys},
		{"UpdateObjectEncryption", s.updateObjectEncryption},
		{"UpdateObjectEncryptionRefusals", s.updateRefusals},
		{"Copy", s.copy},
		{"CopyConditions", s.copyConditions},
		{"CopyOntoItself", s.copyOntoItself},
		{"CopyVersions", s.copyVersions},
		{"CopyEncryption", s.copyEncryption},
		{"Multipart", s.multipart},
		{"MultipartRefusals", s.multipartRefusals},
		{"UploadPartCopy", s.uploadPartCopy},
		{"MultipartListings", s.multipartListings},
		{"ObjectLock", s.objectLock},
		{"Archives", s.archives},
		{"ACLs", s.acls},
		{"Tags", s.tags},
		{"Checksums", s.checksums},
		{"ExpectedBucketOwner", s.expectedBucketOwner},
	} {
		t.Run(part.name, part.run)
	}
}

type s3Suite struct {
	target Target
	s3     *s3.Client
	keys   kmsSuite
}

// bucket makes a bucket and removes it, with everything in it, at the end.
func (s s3Suite) bucket(t *testing.T, change ...func(*s3.CreateBucketInput)) string {
	t.Helper()
	in := &s3.CreateBucketInput{Bucket: aws.String("conformance-" + strings.ToLower(rand.Text()))}
	if region := s.target.Config.Region; region != "us-east-1" {
		in.CreateBucketConfiguration = &types.CreateBucketConfiguration{LocationConstraint: types.BucketLocationConstraint(region)}
	}
	for _, f := range change {
		f(in)
	}
	if _, err := s.s3.CreateBucket(t.Context(), in); err != nil {
		t.Fatalf("create bucket: %v", err)
	}
	// Only where there is a lock, since LocalStack refuses to bypass what is not there.
	t.Cleanup(func() { s.empty(t, *in.Bucket, in.ObjectLockEnabledForBucket) })
	return *in.Bucket
}

func locking(in *s3.CreateBucketInput) { in.ObjectLockEnabledForBucket = aws.Bool(true) }

func withACLs(in *s3.CreateBucketInput) { in.ObjectOwnership = types.ObjectOwnershipObjectWriter }

// empty removes a bucket and its contents as far as it may, those under governance where
// bypass says so. It works after the test's own context is done.
func (s s3Suite) empty(t *testing.T, bucket string, bypass *bool) {
	ctx := context.WithoutCancel(t.Context())
	remove := func(key, id *string) {
		plain, err := url.QueryUnescape(aws.ToString(key))
		if err == nil {
			_, err = s.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &bucket, Key: &plain, VersionId: id, BypassGovernanceRetention: bypass})
		}
		if err != nil {
			t.Logf("left behind in %s: %q: %v", bucket, plain, err)
		}
	}
	for range 10 { // pages; a server whose listing is wrong must not keep us
		page, err := s.s3.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{Bucket: &bucket, EncodingType: types.EncodingTypeUrl})
		if err != nil {
			t.Logf("left behind: bucket %s: %v", bucket, err)
			return
		}
		if len(page.Versions)+len(page.DeleteMarkers) == 0 {
			break
		}
		for _, v := range page.Versions {
			remove(v.Key, v.VersionId)
		}
		for _, m := range page.DeleteMarkers {
			remove(m.Key, m.VersionId)
		}
	}
	if _, err := s.s3.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &bucket}); err != nil {
		t.Logf("left behind: bucket %s: %v", bucket, err)
	}
}

func (s s3Suite) setVersioning(t *testing.T, bucket string, status types.BucketVersioningStatus) {
	t.Helper()
	_, err := s.s3.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{Bucket: &bucket, VersioningConfiguration: &types.VersioningConfiguration{Status: status}})
	if err != nil {
		t.Fatalf("put versioning: %v", err)
	}
}

func (s s3Suite) put(t *testing.T, bucket, key, body string, change ...func(*s3.PutObjectInput)) *s3.PutObjectOutput {
	t.Helper()
	in := &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: strings.NewReader(body)}
	for _, f := range change {
		f(in)
	}
	out, err := s.s3.PutObject(t.Context(), in)
	if err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
	return out
}

func underKey(key string) func(*s3.PutObjectInput) {
	return func(in *s3.PutObjectInput) {
		in.ServerSideEncryption, in.SSEKMSKeyId = types.ServerSideEncryptionAwsKms, &key
	}
}

func (s s3Suite) head(t *testing.T, bucket, key string, change ...func(*s3.HeadObjectInput)) *s3.HeadObjectOutput {
	t.Helper()
	in := &s3.HeadObjectInput{Bucket: &bucket, Key: &key}
	for _, f := range change {
		f(in)
	}
	out, err := s.s3.HeadObject(t.Context(), in)
	if err != nil {
		t.Fatalf("head %q: %v", key, err)
	}
	return out
}

// read returns an object's bytes, of the current version if none is named.
func (s s3Suite) read(t *testing.T, bucket, key, version string) (string, error) {
	t.Helper()
	in := &s3.GetObjectInput{Bucket: &bucket, Key: &key}
	if version != "" {
		in.VersionId = &version
	}
	out, err := s.s3.GetObject(t.Context(), in)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(out.Body)
	return string(data), errors.Join(err, out.Body.Close())
}

func (s s3Suite) wantBody(t *testing.T, bucket, key, version, want string) {
	t.Helper()
	got, err := s.read(t, bucket, key, version)
	if err != nil || got != want {
		t.Errorf("read %q: %.40q, %v; want %.40q", key, got, err, want)
	}
}

// sourceOf is the CopySource of an object.
func sourceOf(bucket, key string) *string {
	return aws.String(bucket + "/" + strings.ReplaceAll(url.QueryEscape(key), "+", "%20"))
}

// status is the HTTP status of an error, 0 for success.
func status(err error) int {
	var response *smithyhttp.ResponseError
	if errors.As(err, &response) {
		return response.HTTPStatusCode()
	}
	return 0
}

func wantStatus(t *testing.T, err error, want int) {
	t.Helper()
	if got := status(err); got != want {
		t.Errorf("status %d (%v), want %d", got, err, want)
	}
}

func message(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorMessage()
	}
	return ""
}

func (s s3Suite) buckets(t *testing.T) {
	ctx := t.Context()
	b := s.bucket(t)
	if _, err := s.s3.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &b}); err != nil {
		t.Errorf("head: %v", err)
	}
	_, err := s.s3.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: aws.String(b + "-none")})
	wantStatus(t, err, 404)
	_, err = s.s3.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: aws.String(b + "-none")})
	wantCode(t, err, "NoSuchBucket")
	if !s.target.Deviations.S3LaxLimits {
		_, err = s.s3.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String("UPPER_" + b)})
		wantCode(t, err, "InvalidBucketName")
	}

	var names []string
	pages := s3.NewListBucketsPaginator(s.s3, &s3.ListBucketsInput{Prefix: &b})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			t.Fatalf("list: %v", err)
		}
		for _, found := range page.Buckets {
			names = append(names, aws.ToString(found.Name))
		}
	}
	if !slices.Contains(names, b) {
		t.Errorf("buckets with the prefix: %v", names)
	}

	location, err := s.s3.GetBucketLocation(ctx, &s3.GetBucketLocationInput{Bucket: &b})
	want := types.BucketLocationConstraint(s.target.Config.Region)
	if want == "us-east-1" {
		want = ""
	}
	if err != nil || location.LocationConstraint != want {
		t.Errorf("location: %v, %v", location, err)
	}
	versioning, err := s.s3.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: &b})
	if err != nil || versioning.Status != "" {
		t.Errorf("versioning: %v, %v", versioning, err)
	}
	ownership, err := s.s3.GetBucketOwnershipControls(ctx, &s3.GetBucketOwnershipControlsInput{Bucket: &b})
	if !s.target.Deviations.S3NoDefaultOwnership {
		if err != nil || ownership.OwnershipControls.Rules[0].ObjectOwnership != types.ObjectOwnershipBucketOwnerEnforced {
			t.Errorf("ownership: %v, %v", ownership, err)
		}
	}
	notification, err := s.s3.GetBucketNotificationConfiguration(ctx, &s3.GetBucketNotificationConfigurationInput{Bucket: &b})
	if err != nil || notification.QueueConfigurations != nil || notification.EventBridgeConfiguration != nil {
		t.Errorf("notification: %v, %v", notification, err)
	}
	_, err = s.s3.GetBucketReplication(ctx, &s3.GetBucketReplicationInput{Bucket: &b})
	wantCode(t, err, "ReplicationConfigurationNotFoundError")
	_, err = s.s3.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: &b})
	wantCode(t, err, "NoSuchLifecycleConfiguration")
	_, err = s.s3.GetBucketPolicy(ctx, &s3.GetBucketPolicyInput{Bucket: &b})
	wantCode(t, err, "NoSuchBucketPolicy")
	_, err = s.s3.GetBucketTagging(ctx, &s3.GetBucketTaggingInput{Bucket: &b})
	wantCode(t, err, "NoSuchTagSet")
	_, err = s.s3.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &b})
	wantCode(t, err, "ObjectLockConfigurationNotFoundError")

	policy := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::%s:root"},"Action":"s3:GetObject","Resource":"arn:aws:s3:::%s/*"}]}`, s.target.Account, b)
	if _, err := s.s3.PutBucketPolicy(ctx, &s3.PutBucketPolicyInput{Bucket: &b, Policy: &policy}); err != nil {
		t.Errorf("put policy: %v", err)
	}
	stored, err := s.s3.GetBucketPolicy(ctx, &s3.GetBucketPolicyInput{Bucket: &b})
	if err != nil || aws.ToString(stored.Policy) == "" {
		t.Errorf("get policy: %v, %v", stored, err)
	}
	if _, err := s.s3.DeleteBucketPolicy(ctx, &s3.DeleteBucketPolicyInput{Bucket: &b}); err != nil {
		t.Errorf("delete policy: %v", err)
	}
	if !s.target.Deviations.S3LaxLimits {
		_, err = s.s3.PutBucketPolicy(ctx, &s3.PutBucketPolicyInput{Bucket: &b, Policy: aws.String("{")})
		wantCode(t, err, "MalformedPolicy")
	}

	s.put(t, b, "k", "x")
	_, err = s.s3.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &b})
	wantCode(t, err, "BucketNotEmpty")
}

// everyHeader is a PUT with all that a client can say about an object.
func everyHeader(in *s3.PutObjectInput) {
	in.ContentType = aws.String("text/plain; charset=utf-8")
	in.CacheControl = aws.String("max-age=60, private")
	in.ContentDisposition = aws.String(`attachment; filename="a b.txt"`)
	in.ContentEncoding = aws.String("gzip")
	in.ContentLanguage = aws.String("de-CH")
	in.Expires = aws.Time(time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC))
	in.Metadata = map[string]string{"owner": "team a", "empty": "", "mixed-Case": "Value; with = signs, commas"}
	in.Tagging = aws.String("cost%20centre=42&k=v%2Bw")
}

// described is what HEAD says about an object and a move must not change.
type described struct {
	ContentType, CacheControl, ContentDisposition, ContentEncoding, ContentLanguage, Expires, Redirect string
	Metadata                                                                                           map[string]string
	ETag, Version, Restore                                                                             string
	StorageClass                                                                                       types.StorageClass
	Length                                                                                             int64
	Modified                                                                                           time.Time
	Mode                                                                                               types.ObjectLockMode
	Hold                                                                                               types.ObjectLockLegalHoldStatus
	Until                                                                                              time.Time
	Checksum                                                                                           string
	Tags                                                                                               int32
}

// ofObject are the fields of described that a copy keeps.
var ofObject = cmpopts.IgnoreFields(described{}, "ETag", "Version", "Modified", "StorageClass", "Redirect", "Mode", "Hold", "Until")

func describe(h *s3.HeadObjectOutput) described {
	return described{
		ContentType: aws.ToString(h.ContentType), CacheControl: aws.ToString(h.CacheControl), ContentDisposition: aws.ToString(h.ContentDisposition),
		ContentEncoding: aws.ToString(h.ContentEncoding), ContentLanguage: aws.ToString(h.ContentLanguage), Expires: aws.ToString(h.ExpiresString),
		Redirect: aws.ToString(h.WebsiteRedirectLocation), Metadata: h.Metadata, ETag: aws.ToString(h.ETag), Version: aws.ToString(h.VersionId),
		Restore: aws.ToString(h.Restore), StorageClass: h.StorageClass, Length: aws.ToInt64(h.ContentLength), Modified: aws.ToTime(h.LastModified),
		Mode: h.ObjectLockMode, Hold: h.ObjectLockLegalHoldStatus, Until: aws.ToTime(h.ObjectLockRetainUntilDate),
		Checksum: aws.ToString(h.ChecksumCRC32) + "|" + aws.ToString(h.ChecksumCRC64NVME) + "|" + aws.ToString(h.ChecksumSHA256) + "|" + string(h.ChecksumType),
		Tags:     aws.ToInt32(h.TagCount),
	}
}

// checked leaves checksums out of a comparison where the server does not tell them.
func (s s3Suite) checked() cmp.Option {
	if s.target.Deviations.S3ChecksumsUnchecked {
		return cmpopts.IgnoreFields(described{}, "Checksum")
	}
	return cmp.Options{}
}

func withChecksum(in *s3.HeadObjectInput) { in.ChecksumMode = types.ChecksumModeEnabled }

func (s s3Suite) objects(t *testing.T) {
	ctx := t.Context()
	b := s.bucket(t)
	put := s.put(t, b, "a/object", "hello", everyHeader, func(in *s3.PutObjectInput) { in.WebsiteRedirectLocation = aws.String("/elsewhere") })
	sum := md5.Sum([]byte("hello")) //nolint:gosec // S3's ETags are MD5
	if etag := `"` + hex.EncodeToString(sum[:]) + `"`; aws.ToString(put.ETag) != etag {
		t.Errorf("ETag %s, want the MD5 %s", aws.ToString(put.ETag), etag)
	}
	got := describe(s.head(t, b, "a/object", withChecksum))
	want := described{
		ContentType: "text/plain; charset=utf-8", CacheControl: "max-age=60, private", ContentDisposition: `attachment; filename="a b.txt"`,
		ContentEncoding: "gzip", ContentLanguage: "de-CH", Expires: "Mon, 03 Feb 2031 04:05:06 GMT", Redirect: "/elsewhere",
		Metadata: map[string]string{"owner": "team a", "empty": "", "mixed-case": "Value; with = signs, commas"},
		ETag:     aws.ToString(put.ETag), Length: 5, Checksum: "NhCmhg==|||FULL_OBJECT", Tags: 2,
	}
	if d := cmp.Diff(want, got, cmpopts.IgnoreFields(described{}, "Modified"), s.checked()); d != "" {
		t.Errorf("head (-want +got):\n%s", d)
	}
	if age := time.Since(got.Modified); age < -time.Minute || age > 10*time.Minute {
		t.Errorf("last modified %v", got.Modified)
	}
	s.wantBody(t, b, "a/object", "", "hello")

	// A bare object has a type all the same.
	s.put(t, b, "bare", "")
	bare := s.head(t, b, "bare")
	if aws.ToInt64(bare.ContentLength) != 0 || bare.StorageClass != "" || aws.ToString(bare.VersionId) != "" || len(bare.Metadata) > 0 {
		t.Errorf("bare object: %+v", describe(bare))
	}

	// Values that are not US-ASCII come back in the encoding of RFC 2047, and
	// are the same when they are sent so.
	s.put(t, b, "words", "x", func(in *s3.PutObjectInput) { in.Metadata = map[string]string{"name": "Zürich"} })
	encoded := s.head(t, b, "words").Metadata["name"]
	if !s.target.Deviations.S3RawMetadata {
		if !strings.EqualFold(encoded, "=?UTF-8?b?WsO8cmljaA==?=") && !strings.EqualFold(encoded, "=?UTF-8?q?Z=C3=BCrich?=") {
			t.Errorf("name = %q", encoded)
		}
	}
	s.put(t, b, "words", "x", func(in *s3.PutObjectInput) { in.Metadata = map[string]string{"name": encoded} })
	if again := s.head(t, b, "words").Metadata["name"]; again != encoded {
		t.Errorf("name = %q after it was sent as %q", again, encoded)
	}
	if !s.target.Deviations.S3LaxLimits {
		_, err := s.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: &b, Key: aws.String("meta"), Metadata: map[string]string{"m": strings.Repeat("x", 2048)}})
		wantCode(t, err, "MetadataTooLarge")
		_, err = s.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: &b, Key: aws.String(strings.Repeat("k", 1025))})
		wantCode(t, err, "KeyTooLongError")
	}

	_, err := s.read(t, b, "none", "")
	wantCode(t, err, "NoSuchKey")
	_, err = s.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b, Key: aws.String("none")})
	wantStatus(t, err, 404)
	for range 2 { // what is not there is deleted already
		if _, err := s.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b, Key: aws.String("bare")}); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	_, err = s.read(t, b, "bare", "")
	wantCode(t, err, "NoSuchKey")

	// An object name that another name is a prefix of, or that begins like a path, is just a name.
	for _, key := range []string{"a", "a/", "a//b", "/a", "./a", "a/../b"} {
		s.put(t, b, key, key)
	}
	for _, key := range []string{"a", "a/", "a//b", "/a", "./a", "a/../b"} {
		s.wantBody(t, b, key, "", key)
	}
}

func (s s3Suite) ranges(t *testing.T) {
	b := s.bucket(t)
	s.put(t, b, "digits", "0123456789")
	for _, tc := range []struct{ header, body, contentRange, code string }{
		{"bytes=0-0", "0", "bytes 0-0/10", ""},
		{"bytes=2-4", "234", "bytes 2-4/10", ""},
		{"bytes=7-", "789", "bytes 7-9/10", ""},
		{"bytes=7-99", "789", "bytes 7-9/10", ""},
		{"bytes=-3", "789", "bytes 7-9/10", ""},
		{"bytes=-99", "0123456789", "bytes 0-9/10", ""},
		{"bytes=10-", "", "", "InvalidRange"},
		{"bytes=20-30", "", "", "InvalidRange"},
	} {
		out, err := s.s3.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &b, Key: aws.String("digits"), Range: &tc.header})
		wantCode(t, err, tc.code)
		if err != nil {
			continue
		}
		body, err := io.ReadAll(out.Body)
		if err != nil || string(body) != tc.body || aws.ToString(out.ContentRange) != tc.contentRange {
			t.Errorf("%s: %q, %q, %v", tc.header, body, aws.ToString(out.ContentRange), err)
		}
	}
}

// oddKeyNames are keys that break who forgets to encode.
var oddKeyNames = []string{
	"plain", "with space", "plus+plus", "a&b=c", "per%20cent", "100%", "quote\"'quote", "<xml>", "ü/ä/日本", "emoji-🪣",
	"question?mark#hash", "semi;colon:at@", "line\nbreak", "tab\tstop", "back\\slash", "star*tilde~", "trailing ", "cr\rlf",
	strings.Repeat("k", 1024), strings.Repeat("ü", 512),
}

func (s s3Suite) oddKeys(t *testing.T) {
	ctx := t.Context()
	b := s.bucket(t)
	var want []string
	for _, key := range oddKeyNames {
		if s.target.Deviations.S3OddKeys && strings.ContainsAny(key, "\r\n\t") {
			continue
		}
		want = append(want, key)
		s.put(t, b, key, key)
	}
	for _, key := range want {
		s.wantBody(t, b, key, "", key)
		if _, err := s.s3.CopyObject(ctx, &s3.CopyObjectInput{Bucket: &b, Key: aws.String(key), CopySource: sourceOf(b, key), MetadataDirective: types.MetadataDirectiveReplace}); err != nil {
			t.Errorf("copy %.40q: %v", key, err)
		}
		s.wantBody(t, b, key, "", key)
	}
	slices.Sort(want)
	for _, size := range []int32{3, 1000} {
		var got []string
		pages := s3.NewListObjectsV2Paginator(s.s3, &s3.ListObjectsV2Input{Bucket: &b, EncodingType: types.EncodingTypeUrl, MaxKeys: &size})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				t.Fatalf("list: %v", err)
			}
			for _, o := range page.Contents {
				got = append(got, unescape(t, o.Key))
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("keys in pages of %d (-want +got):\n%s", size, d)
		}
	}
	for _, key := range want {
		if _, err := s.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b, Key: &key}); err != nil {
			t.Errorf("delete %.40q: %v", key, err)
		}
	}
	left, err := s.s3.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b})
	if err != nil || len(left.Contents) != 0 {
		t.Errorf("left: %v, %v", left.Contents, err)
	}
}

func (s s3Suite) conditionalWrites(t *testing.T) {
	ctx := t.Context()
	b := s.bucket(t)
	put := func(match, noneMatch string) (*s3.PutObjectOutput, error) {
		in := &s3.PutObjectInput{Bucket: &b, Key: aws.String("k"), Body: strings.NewReader(match + noneMatch)}
		if match != "" {
			in.IfMatch = &match
		}
		if noneMatch != "" {
			in.IfNoneMatch = &noneMatch
		}
		return s.s3.PutObject(ctx, in)
	}
	const stranger = `"00000000000000000000000000000000"`
	_, err := put(stranger, "")
	wantCode(t, err, "NoSuchKey")
	first, err := put("", "*")
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	_, err = put("", "*")
	wantCode(t, err, "PreconditionFailed")
	wantStatus(t, err, 412)
	_, err = put(stranger, "")
	wantCode(t, err, "PreconditionFailed")
	second, err := put(aws.ToString(first.ETag), "")
	if err != nil {
		t.Errorf("replace: %v", err)
	}
	_, err = put(aws.ToString(first.ETag), "")
	wantCode(t, err, "PreconditionFailed")
	if _, err = put(strings.Trim(aws.ToString(second.ETag), `"`), ""); err != nil {
		t.Errorf("replace, ETag without quotes: %v", err)
	}

	// Behind a delete marker there is nothing.
	s.setVersioning(t, b, types.BucketVersioningStatusEnabled)
	if _, err := s.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b, Key: aws.String("k")}); err != nil {
		t.Fatalf("delete: %v", err)
	}
	if _, err = put("", "*"); err != nil {
		t.Errorf("create behind a delete marker: %v", err)
	}

	// Of several that create at once, one wins.
	results := make(chan error)
	for range 8 {
		go func() {
			_, err := s.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: &b, Key: aws.String("race"), IfNoneMatch: aws.String("*")})
			results <- err
		}()
	}
	won := 0
	for range 8 {
		switch err := <-results; code(err) {
		case "":
			won++
		case "PreconditionFailed", "ConditionalRequestConflict":
		default:
			t.Errorf("race: %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d writers created the object", won)
	}
}

func (s s3Suite) conditionalReads(t *testing.T) {
	b := s.bucket(t)
	put := s.put(t, b, "k", "x")
	modified := aws.ToTime(s.head(t, b, "k").LastModified)
	before, after := modified.Add(-time.Hour), modified.Add(time.Second)
	other := aws.String(`"00000000000000000000000000000000"`)
	for _, tc := range []struct {
		name   string
		in     s3.HeadObjectInput
		status int
	}{
		{"If-Match holds", s3.HeadObjectInput{IfMatch: put.ETag}, 0},
		{"If-Match fails", s3.HeadObjectInput{IfMatch: other}, 412},
		{"If-None-Match holds", s3.HeadObjectInput{IfNoneMatch: other}, 0},
		{"If-None-Match fails", s3.HeadObjectInput{IfNoneMatch: put.ETag}, 304},
		{"If-Modified-Since holds", s3.HeadObjectInput{IfModifiedSince: &before}, 0},
		{"If-Modified-Since fails", s3.HeadObjectInput{IfModifiedSince: &modified}, 304},
		{"If-Unmodified-Since holds", s3.HeadObjectInput{IfUnmodifiedSince: &after}, 0},
		{"If-Unmodified-Since fails", s3.HeadObjectInput{IfUnmodifiedSince: &before}, 412},
		{"If-Match voids If-Unmodified-Since", s3.HeadObjectInput{IfMatch: put.ETag, IfUnmodifiedSince: &before}, 0},
		{"If-None-Match voids If-Modified-Since", s3.HeadObjectInput{IfNoneMatch: put.ETag, IfModifiedSince: &before}, 304},
	} {
		tc.in.Bucket, tc.in.Key = &b, aws.String("k")
		_, err := s.s3.HeadObject(t.Context(), &tc.in)
		_, get := s.s3.GetObject(t.Context(), &s3.GetObjectInput{
			Bucket: tc.in.Bucket, Key: tc.in.Key, IfMatch: tc.in.IfMatch, IfNoneMatch: tc.in.IfNoneMatch,
			IfModifiedSince: tc.in.IfModifiedSince, IfUnmodifiedSince: tc.in.IfUnmodifiedSince,
		})
		if s.target.Deviations.S3ConditionPrecedence && strings.Contains(tc.name, "voids") {
			continue
		}
		if status(err) != tc.status || status(get) != tc.status {
			t.Errorf("%s: HEAD %v, GET %v, want %d", tc.name, err, get, tc.status)
		}
	}
}

func (s s3Suite) conditionalDeletes(t *testing.T) {
	if s.target.Deviations.S3NoConditionalDelete {
		return
	}
	b := s.bucket(t)
	put := s.put(t, b, "k", "x")
	_, err := s.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b, Key: aws.String("k"), IfMatch: aws.String(`"00000000000000000000000000000000"`)})
	wantCode(t, err, "PreconditionFailed")
	s.wantBody(t, b, "k", "", "x")
	if _, err := s.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b, Key: aws.String("k"), IfMatch: put.ETag}); err != nil {
		t.Errorf("delete: %v", err)
	}
	_, err = s.read(t, b, "k", "")
	wantCode(t, err, "NoSuchKey")
}

func (s s3Suite) versioning(t *testing.T) {
	ctx := t.Context()
	b := s.bucket(t)
	s.put(t, b, "k", "null 1")
	s.setVersioning(t, b, types.BucketVersioningStatusEnabled)
	if v := aws.ToString(s.head(t, b, "k").VersionId); v != "null" && v != "" {
		t.Errorf("version of before: %q", v)
	}
	first := aws.ToString(s.put(t, b, "k", "v1").VersionId)
	second := aws.ToString(s.put(t, b, "k", "v2").VersionId)
	if first == "" || first == second || first == "null" {
		t.Fatalf("versions %q and %q", first, second)
	}
	s.wantBody(t, b, "k", "", "v2")
	s.wantBody(t, b, "k", first, "v1")
	s.wantBody(t, b, "k", "null", "null 1")

	deleted, err := s.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b, Key: aws.String("k")})
	if err != nil || !aws.ToBool(deleted.DeleteMarker) {
		t.Fatalf("delete: %v, %v", deleted, err)
	}
	_, err = s.read(t, b, "k", "")
	wantCode(t, err, "NoSuchKey")
	s.wantBody(t, b, "k", second, "v2")
	undone, err := s.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b, Key: aws.String("k"), VersionId: deleted.VersionId})
	if err != nil {
		t.Errorf("delete the marker: %v", err)
	}
	s.wantBody(t, b, "k", "", "v2")
	if s.target.Deviations.S3LaxVersioning {
		return
	}
	if !aws.ToBool(undone.DeleteMarker) || aws.ToString(undone.VersionId) != aws.ToString(deleted.VersionId) {
		t.Errorf("deleted the marker: %+v", undone)
	}

	// Suspended: a write replaces the null version and nothing else.
	s.setVersioning(t, b, types.BucketVersioningStatusSuspended)
	if v := aws.ToString(s.put(t, b, "k", "null 2").VersionId); v != "null" && v != "" {
		t.Errorf("version while suspended: %q", v)
	}
	s.wantBody(t, b, "k", "", "null 2")
	s.wantBody(t, b, "k", "null", "null 2")
	s.wantBody(t, b, "k", second, "v2")
	if got := s.versionsOf(t, b, "k"); !cmp.Equal(got, []string{"null", second, first}) {
		t.Errorf("versions: %v, want null, %s, %s", got, second, first)
	}
	marker, err := s.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b, Key: aws.String("k")})
	if err != nil || !aws.ToBool(marker.DeleteMarker) || aws.ToString(marker.VersionId) != "null" {
		t.Errorf("delete while suspended: %+v, %v", marker, err)
	}
	_, err = s.read(t, b, "k", "null")
	wantCode(t, err, "MethodNotAllowed")
	_, err = s.read(t, b, "k", "no-such-version")
	wantStatus(t, err, 400)
	if _, err := s.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b, Key: aws.String("k"), VersionId: &first}); err != nil {
		t.Errorf("delete a version: %v", err)
	}
	_, err = s.read(t, b, "k", first)
	wantCode(t, err, "NoSuchVersion")
}

// versionsOf lists the ids of a key's versions and markers, in the order of the
// listing for each of the two.
func (s s3Suite) versionsOf(t *testing.T, bucket, key string) []string {
	t.Helper()
	out, err := s.s3.ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &bucket, Prefix: &key})
	if err != nil {
		t.Fatalf("list versions: %v", err)
	}
	var ids []string
	for _, v := range out.Versions {
		ids = append(ids, aws.ToString(v.VersionId))
	}
	for _, m := range out.DeleteMarkers {
		ids = append(ids, aws.ToString(m.VersionId))
	}
	return ids
}

func (s s3Suite) listing(t *testing.T) {
	ctx := t.Context()
	b := s.bucket(t)
	all := []string{"a", "a-b", "a/1", "a/2", "a/b/3", "b/1", "b/2", "c"}
	for _, key := range all {
		s.put(t, b, key, key)
	}
	for _, tc := range []struct {
		name, prefix, delimiter, after string
		want                           []string // common prefixes end in a slash
	}{
		{"everything", "", "", "", all},
		{"prefix", "a/", "", "", []string{"a/1", "a/2", "a/b/3"}},
		{"delimiter", "", "/", "", []string{"a", "a-b", "a/", "b/", "c"}},
		{"prefix and delimiter", "a/", "/", "", []string{"a/1", "a/2", "a/b/"}},
		{"after", "", "", "a/2", []string{"a/b/3", "b/1", "b/2", "c"}},
		{"after what is not there", "", "", "a/15", []string{"a/2", "a/b/3", "b/1", "b/2", "c"}},
		{"after, before the prefix", "b", "", "a", []string{"b/1", "b/2"}},
		{"after, behind the prefix", "a", "", "b", nil},
		{"no such prefix", "x", "/", "", nil},
	} {
		for _, size := range []int32{1, 2, 1000} {
			in := &s3.ListObjectsV2Input{Bucket: &b, MaxKeys: &size}
			setString(&in.Prefix, tc.prefix)
			setString(&in.Delimiter, tc.delimiter)
			setString(&in.StartAfter, tc.after)
			var got []string
			pages := s3.NewListObjectsV2Paginator(s.s3, in)
			for pages.HasMorePages() {
				page, err := pages.NextPage(ctx)
				if err != nil {
					t.Fatalf("list: %v", err)
				}
				if n := len(page.Contents) + len(page.CommonPrefixes); int32(n) > size || int32(n) != aws.ToInt32(page.KeyCount) {
					t.Errorf("%s: a page of %d, KeyCount %d, wanted at most %d", tc.name, n, aws.ToInt32(page.KeyCount), size)
				}
				for _, o := range page.Contents {
					got = append(got, aws.ToString(o.Key))
				}
				for _, p := range page.CommonPrefixes {
					got = append(got, aws.ToString(p.Prefix))
				}
			}
			slices.Sort(got)
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("%s in pages of %d (-want +got):\n%s", tc.name, size, d)
			}
		}
	}
	// The first version of the operation goes on with a marker.
	var got []string
	in := &s3.ListObjectsInput{Bucket: &b, Delimiter: aws.String("/"), MaxKeys: aws.Int32(2)}
	for range len(all) {
		page, err := s.s3.ListObjects(ctx, in)
		if err != nil {
			t.Fatalf("list: %v", err)
		}
		for _, o := range page.Contents {
			got = append(got, aws.ToString(o.Key))
		}
		for _, p := range page.CommonPrefixes {
			got = append(got, aws.ToString(p.Prefix))
		}
		if !aws.ToBool(page.IsTruncated) {
			break
		}
		in.Marker = page.NextMarker
	}
	if d := cmp.Diff([]string{"a", "a-b", "a/", "b/", "c"}, got); d != "" && !s.target.Deviations.S3ListPaging {
		t.Errorf("first version (-want +got):\n%s", d)
	}
	out, err := s.s3.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b, Prefix: aws.String("c"), FetchOwner: aws.Bool(true)})
	if err != nil || len(out.Contents) != 1 {
		t.Fatalf("list: %v, %v", out, err)
	}
	o := out.Contents[0]
	if aws.ToInt64(o.Size) != 1 || o.StorageClass != types.ObjectStorageClassStandard || o.Owner == nil || aws.ToString(o.ETag) == "" {
		t.Errorf("object in the listing: %+v", o)
	}
}

// unescape undoes encoding-type=url.
func unescape(t *testing.T, s *string) string {
	t.Helper()
	plain, err := url.QueryUnescape(aws.ToString(s))
	if err != nil {
		t.Errorf("%q: %v", aws.ToString(s), err)
	}
	return plain
}

func setString(p **string, v string) {
	if v != "" {
		*p = &v
	}
}

func (s s3Suite) listingVersions(t *testing.T) {
	ctx := t.Context()
	b := s.bucket(t)
	s.put(t, b, "a", "null")
	s.put(t, b, "d/1", "null")
	s.setVersioning(t, b, types.BucketVersioningStatusEnabled)
	type line struct {
		key, id        string
		latest, marker bool
	}
	var want []line
	ids := map[string][]string{"a": {"null"}, "d/1": {"null"}}
	odd := "b\n"
	if s.target.Deviations.S3OddKeys {
		odd = "b b"
	}
	for _, key := range []string{"a", odd, "d/1", "d/2"} {
		for i := range 3 {
			ids[key] = append(ids[key], aws.ToString(s.put(t, b, key, fmt.Sprint(i)).VersionId))
		}
	}
	gone, err := s.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b, Key: aws.String("a")})
	if err != nil {
		t.Fatalf("delete: %v", err)
	}
	ids["a"] = append(ids["a"], aws.ToString(gone.VersionId))
	for _, key := range []string{"a", odd, "d/1", "d/2"} {
		slices.Reverse(ids[key])
		for i, id := range ids[key] {
			want = append(want, line{key, id, i == 0, key == "a" && i == 0})
		}
	}
	order := cmpopts.SortSlices(func(x, y line) bool {
		if x.key != y.key {
			return x.key < y.key
		}
		return slices.Index(ids[x.key], x.id) < slices.Index(ids[y.key], y.id)
	})
	for _, size := range []int32{1, 2, 3, 5, 1000} {
		if s.target.Deviations.S3VersionPaging && size < 1000 {
			continue
		}
		var got []line
		in := &s3.ListObjectVersionsInput{Bucket: &b, MaxKeys: &size, EncodingType: types.EncodingTypeUrl}
		for n := 0; n < 100; n++ {
			page, err := s.s3.ListObjectVersions(ctx, in)
			if err != nil {
				t.Fatalf("list: %v", err)
			}
			for _, v := range page.Versions {
				got = append(got, line{unescape(t, v.Key), aws.ToString(v.VersionId), aws.ToBool(v.IsLatest), false})
			}
			for _, m := range page.DeleteMarkers {
				got = append(got, line{unescape(t, m.Key), aws.ToString(m.VersionId), aws.ToBool(m.IsLatest), true})
			}
			if !aws.ToBool(page.IsTruncated) {
				break
			}
			// The marker is encoded like the keys, which the SDK's paginator
			// does not undo.
			in.KeyMarker, in.VersionIdMarker = aws.String(unescape(t, page.NextKeyMarker)), page.NextVersionIdMarker
		}
		if d := cmp.Diff(want, got, order, cmp.AllowUnexported(line{})); d != "" {
			t.Errorf("pages of %d (-want +got):\n%s", size, d)
		}
	}
	grouped, err := s.s3.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{Bucket: &b, Delimiter: aws.String("/"), Prefix: aws.String("d")})
	if err != nil || len(grouped.CommonPrefixes) != 1 || aws.ToString(grouped.CommonPrefixes[0].Prefix) != "d/" || len(grouped.Versions) != 0 {
		t.Errorf("grouped: %+v, %v", grouped, err)
	}
	if !s.target.Deviations.S3VersionPaging && !s.target.Deviations.S3VersionMarkerGone {
		// A version that goes away between two pages takes nothing along.
		page, err := s.s3.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{Bucket: &b, Prefix: aws.String("d/2"), MaxKeys: aws.Int32(1)})
		if err != nil {
			t.Fatalf("list: %v", err)
		}
		if _, err := s.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b, Key: aws.String("d/2"), VersionId: page.NextVersionIdMarker}); err != nil {
			t.Fatalf("delete: %v", err)
		}
		rest, err := s.s3.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{Bucket: &b, Prefix: aws.String("d/2"), KeyMarker: page.NextKeyMarker, VersionIdMarker: page.NextVersionIdMarker})
		if err != nil || len(rest.Versions) != 2 {
			t.Errorf("rest: %+v, %v", rest, err)
		}
	}
	if !s.target.Deviations.S3LaxLimits {
		_, err = s.s3.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{Bucket: &b, VersionIdMarker: &ids["a"][0]})
		wantCode(t, err, "InvalidArgument")
	}
}

func (s s3Suite) deleteObjects(t *testing.T) {
	b := s.bucket(t)
	s.setVersioning(t, b, types.BucketVersioningStatusEnabled)
	first := s.put(t, b, "a", "1")
	s.put(t, b, "b & c", "1")
	out, err := s.s3.DeleteObjects(t.Context(), &s3.DeleteObjectsInput{Bucket: &b, Delete: &types.Delete{Objects: []types.ObjectIdentifier{
		{Key: aws.String("a"), VersionId: first.VersionId}, {Key: aws.String("b & c")}, {Key: aws.String("never was")},
	}}})
	if err != nil || len(out.Deleted) != 3 || len(out.Errors) != 0 {
		t.Fatalf("delete: %+v, %v", out, err)
	}
	_, err = s.read(t, b, "a", aws.ToString(first.VersionId))
	wantStatus(t, err, 404)
	_, err = s.read(t, b, "b & c", "")
	wantCode(t, err, "NoSuchKey")
	quiet, err := s.s3.DeleteObjects(t.Context(), &s3.DeleteObjectsInput{Bucket: &b, Delete: &types.Delete{Quiet: aws.Bool(true), Objects: []types.ObjectIdentifier{{Key: aws.String("x")}}}})
	if err != nil || len(quiet.Deleted) != 0 && !s.target.Deviations.S3LaxLimits {
		t.Errorf("quiet: %+v, %v", quiet, err)
	}
}

// encryptedUnder is what HEAD tells of an object's encryption.
type encryptedUnder struct {
	Kind      types.ServerSideEncryption
	Key       string
	BucketKey bool
}

func under(h *s3.HeadObjectOutput) encryptedUnder {
	return encryptedUnder{h.ServerSideEncryption, aws.ToString(h.SSEKMSKeyId), aws.ToBool(h.BucketKeyEnabled)}
}

func (s s3Suite) wantEncryption(t *testing.T, bucket, key string, want encryptedUnder) {
	t.Helper()
	got := under(s.head(t, bucket, key))
	if s.target.Deviations.S3KeyAsGiven {
		got.Key, want.Key = "", ""
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("encryption of %q (-want +got):\n%s", key, d)
	}
}

func (s s3Suite) encryption(t *testing.T) {
	ctx := t.Context()
	b := s.bucket(t)
	key := s.keys.create(t)
	alias := s.keys.alias(t, key)
	s.put(t, b, "plain", "secret")
	if !s.target.Deviations.S3NoDefaultEncryption {
		s.wantEncryption(t, b, "plain", encryptedUnder{Kind: types.ServerSideEncryptionAes256})
	}
	region, account := s.target.Config.Region, strings.Split(key, ":")[4]
	for name, given := range map[string]string{
		"id": id(key), "arn": key, "alias": alias, "alias arn": "arn:aws:kms:" + region + ":" + account + ":" + alias,
	} {
		put := s.put(t, b, name, "secret", underKey(given))
		if got := aws.ToString(put.SSEKMSKeyId); got != key && !s.target.Deviations.S3KeyAsGiven {
			t.Errorf("put under the %s answers %q, want the ARN", name, got)
		}
		s.wantEncryption(t, b, name, encryptedUnder{types.ServerSideEncryptionAwsKms, key, false})
		s.wantBody(t, b, name, "", "secret")
		sum := md5.Sum([]byte("secret")) //nolint:gosec // S3's ETags are MD5
		if aws.ToString(put.ETag) == `"`+hex.EncodeToString(sum[:])+`"` && !s.target.Deviations.S3MD5OfKMS {
			t.Errorf("the ETag of an object under SSE-KMS is its MD5")
		}
	}
	s.put(t, b, "bucket key", "secret", underKey(key), func(in *s3.PutObjectInput) { in.BucketKeyEnabled = aws.Bool(true) })
	s.wantEncryption(t, b, "bucket key", encryptedUnder{types.ServerSideEncryptionAwsKms, key, true})
	s.wantBody(t, b, "bucket key", "", "secret")
	s.put(t, b, "dsse", "secret", func(in *s3.PutObjectInput) {
		in.ServerSideEncryption, in.SSEKMSKeyId = types.ServerSideEncryptionAwsKmsDsse, &key
	})
	s.wantEncryption(t, b, "dsse", encryptedUnder{types.ServerSideEncryptionAwsKmsDsse, key, false})
	s.wantBody(t, b, "dsse", "", "secret")

	managed := s.put(t, b, "managed", "secret", func(in *s3.PutObjectInput) { in.ServerSideEncryption = types.ServerSideEncryptionAwsKms })
	if arn := aws.ToString(managed.SSEKMSKeyId); !s.target.Deviations.S3NoManagedKey {
		if !strings.Contains(arn, ":key/") {
			t.Errorf("aws/s3 answers %q", arn)
		} else if got := string(s.keys.describe(t, arn).KeyManager); got != "AWS" {
			t.Errorf("manager of aws/s3: %s", got)
		}
	}
	withContext := s.put(t, b, "context", "secret", underKey(key), func(in *s3.PutObjectInput) {
		in.SSEKMSEncryptionContext = aws.String(base64.StdEncoding.EncodeToString([]byte(`{"team":"a"}`)))
	})
	if !s.target.Deviations.S3NoContext && aws.ToString(withContext.SSEKMSEncryptionContext) == "" {
		t.Errorf("put does not answer with the encryption context")
	}
	s.wantBody(t, b, "context", "", "secret")

	if s.target.Deviations.S3KeysUnchecked {
		return
	}
	for name, in := range map[string]*s3.PutObjectInput{
		"unknown method": {ServerSideEncryption: "aws:rot13"},
		"key of SSE-S3":  {ServerSideEncryption: types.ServerSideEncryptionAes256, SSEKMSKeyId: &key},
	} {
		in.Bucket, in.Key = &b, aws.String("refused")
		if _, err := s.s3.PutObject(ctx, in); code(err) != "InvalidArgument" {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := s.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: &b, Key: aws.String("refused"), ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: aws.String("alias/conformance-no-such")})
	wantCode(t, err, "KMS.NotFoundException")
}

func (s s3Suite) setDefault(t *testing.T, bucket, key string, bucketKey bool) {
	t.Helper()
	_, err := s.s3.PutBucketEncryption(t.Context(), &s3.PutBucketEncryptionInput{Bucket: &bucket, ServerSideEncryptionConfiguration: &types.ServerSideEncryptionConfiguration{
		Rules: []types.ServerSideEncryptionRule{{
			ApplyServerSideEncryptionByDefault: &types.ServerSideEncryptionByDefault{SSEAlgorithm: types.ServerSideEncryptionAwsKms, KMSMasterKeyID: &key},
			BucketKeyEnabled:                   &bucketKey,
		}},
	}})
	if err != nil {
		t.Fatalf("put encryption: %v", err)
	}
}

func (s s3Suite) rule(t *testing.T, bucket string) types.ServerSideEncryptionRule {
	t.Helper()
	out, err := s.s3.GetBucketEncryption(t.Context(), &s3.GetBucketEncryptionInput{Bucket: &bucket})
	if err != nil || len(out.ServerSideEncryptionConfiguration.Rules) != 1 {
		t.Fatalf("get encryption: %v, %v", out, err)
	}
	return out.ServerSideEncryptionConfiguration.Rules[0]
}

func (s s3Suite) defaultEncryption(t *testing.T) {
	ctx := t.Context()
	b, source := s.bucket(t), s.bucket(t)
	key, other := s.keys.create(t), s.keys.create(t)
	alias := s.keys.alias(t, key)
	if !s.target.Deviations.S3NoDefaultEncryption {
		if rule := s.rule(t, b).ApplyServerSideEncryptionByDefault; rule.SSEAlgorithm != types.ServerSideEncryptionAes256 || rule.KMSMasterKeyID != nil {
			t.Errorf("new bucket: %+v", rule)
		}
	}
	s.setDefault(t, b, alias, true)
	if rule := s.rule(t, b); aws.ToString(rule.ApplyServerSideEncryptionByDefault.KMSMasterKeyID) != alias || !aws.ToBool(rule.BucketKeyEnabled) {
		t.Errorf("rule: %+v", rule)
	}
	want := encryptedUnder{types.ServerSideEncryptionAwsKms, key, true}
	s.put(t, b, "put", "x")
	s.wantEncryption(t, b, "put", want)
	s.put(t, source, "source", "x", underKey(other))
	if _, err := s.s3.CopyObject(ctx, &s3.CopyObjectInput{Bucket: &b, Key: aws.String("copy"), CopySource: sourceOf(source, "source")}); err != nil {
		t.Fatalf("copy: %v", err)
	}
	s.wantEncryption(t, b, "copy", want)
	s.upload(t, b, "multipart", []string{"x"})
	s.wantEncryption(t, b, "multipart", want)
	// What a request says wins; the bucket key is the rule's unless it says that too.
	s.put(t, b, "other", "x", underKey(other))
	s.wantEncryption(t, b, "other", encryptedUnder{types.ServerSideEncryptionAwsKms, other, true})
	s.put(t, b, "no bucket key", "x", underKey(other), func(in *s3.PutObjectInput) { in.BucketKeyEnabled = aws.Bool(false) })
	s.wantEncryption(t, b, "no bucket key", encryptedUnder{types.ServerSideEncryptionAwsKms, other, false})
	s.put(t, b, "s3", "x", func(in *s3.PutObjectInput) { in.ServerSideEncryption = types.ServerSideEncryptionAes256 })
	s.wantEncryption(t, b, "s3", encryptedUnder{Kind: types.ServerSideEncryptionAes256})

	// The alias is resolved by each write.
	if _, err := s.keys.client.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: &alias, TargetKeyId: &other}); err != nil {
		t.Fatalf("update alias: %v", err)
	}
	s.put(t, b, "moved", "x")
	s.wantEncryption(t, b, "moved", encryptedUnder{types.ServerSideEncryptionAwsKms, other, true})
	s.wantEncryption(t, b, "put", want)
	if _, err := s.s3.DeleteBucketEncryption(ctx, &s3.DeleteBucketEncryptionInput{Bucket: &b}); err != nil {
		t.Fatalf("delete encryption: %v", err)
	}
	if s.target.Deviations.S3NoDefaultEncryption {
		return
	}
	s.put(t, b, "after", "x")
	s.wantEncryption(t, b, "after", encryptedUnder{Kind: types.ServerSideEncryptionAes256})
}

// unusableKeys proves that objects are under their keys: without the key there
// is no object.
func (s s3Suite) unusableKeys(t *testing.T) {
	if s.target.Deviations.S3KeysUnchecked {
		return
	}
	ctx := t.Context()
	b := s.bucket(t)
	disabled, pending := s.keys.create(t), s.keys.create(t)
	s.put(t, b, "disabled", "x", underKey(disabled))
	s.put(t, b, "pending", "x", underKey(pending))
	s.keys.disable(t, disabled)
	s.keys.scheduleDeletion(t, pending)
	for name, want := range map[string]string{"disabled": "KMS.DisabledException", "pending": "KMS.KMSInvalidStateException"} {
		key := map[string]string{"disabled": disabled, "pending": pending}[name]
		_, err := s.read(t, b, name, "")
		wantCode(t, err, want)
		wantStatus(t, err, 400)
		_, err = s.s3.CopyObject(ctx, &s3.CopyObjectInput{Bucket: &b, Key: aws.String("copy"), CopySource: sourceOf(b, name)})
		wantCode(t, err, want)
		_, err = s.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: &b, Key: aws.String("new"), ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &key})
		wantCode(t, err, want)
		if h := s.head(t, b, name); aws.ToString(h.SSEKMSKeyId) != key { // metadata is not under the key
			t.Errorf("head: %+v", under(h))
		}
		_, err = s.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b, Key: &name, ChecksumMode: types.ChecksumModeEnabled})
		wantStatus(t, err, 400) // but checksums are
	}
	if _, err := s.keys.client.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &disabled}); err != nil {
		t.Fatalf("enable key: %v", err)
	}
	s.wantBody(t, b, "disabled", "", "x")
}

func (s s3Suite) allowCustomerKeys(t *testing.T, bucket string) {
	t.Helper()
	_, err := s.s3.PutBucketEncryption(t.Context(), &s3.PutBucketEncryptionInput{Bucket: &bucket, ServerSideEncryptionConfiguration: &types.ServerSideEncryptionConfiguration{
		Rules: []types.ServerSideEncryptionRule{{
			ApplyServerSideEncryptionByDefault: &types.ServerSideEncryptionByDefault{SSEAlgorithm: types.ServerSideEncryptionAes256},
			BlockedEncryptionTypes:             &types.BlockedEncryptionTypes{EncryptionType: []types.EncryptionType{types.EncryptionTypeNone}},
		}},
	}})
	if err != nil {
		t.Fatalf("put encryption: %v", err)
	}
}

// customerKey makes a key for SSE-C: the key and its MD5, in base64.
func customerKey() (key, sum string) {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)  // never fails
	digest := md5.Sum(raw) //nolint:gosec // how SSE-C names a key
	return base64.StdEncoding.EncodeToString(raw), base64.StdEncoding.EncodeToString(digest[:])
}

func withCustomerKey(key, sum string) func(*s3.PutObjectInput) {
	return func(in *s3.PutObjectInput) {
		in.SSECustomerAlgorithm, in.SSECustomerKey, in.SSECustomerKeyMD5 = aws.String("AES256"), &key, &sum
	}
}

func (s s3Suite) customerKeys(t *testing.T) {
	if s.target.Deviations.S3NoCustomerKeys {
		return
	}
	ctx := t.Context()
	b := s.bucket(t)
	key, sum := customerKey()
	if !s.target.Deviations.S3CustomerKeysAllowed {
		in := &s3.PutObjectInput{Bucket: &b, Key: aws.String("k"), Body: strings.NewReader("x")}
		withCustomerKey(key, sum)(in)
		_, err := s.s3.PutObject(ctx, in)
		wantCode(t, err, "AccessDenied")
		s.allowCustomerKeys(t, b)
	}
	put := s.put(t, b, "k", "secret", withCustomerKey(key, sum))
	if put.ServerSideEncryption != "" || aws.ToString(put.SSECustomerKeyMD5) != sum {
		t.Errorf("put: %+v", put)
	}
	_, err := s.read(t, b, "k", "")
	wantStatus(t, err, 400)
	_, err = s.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b, Key: aws.String("k")})
	wantStatus(t, err, 400)
	out, err := s.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &b, Key: aws.String("k"), SSECustomerAlgorithm: aws.String("AES256"), SSECustomerKey: &key, SSECustomerKeyMD5: &sum})
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	if body, err := io.ReadAll(out.Body); err != nil || string(body) != "secret" {
		t.Errorf("get: %q, %v", body, err)
	}
	wrong, wrongSum := customerKey()
	_, err = s.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &b, Key: aws.String("k"), SSECustomerAlgorithm: aws.String("AES256"), SSECustomerKey: &wrong, SSECustomerKeyMD5: &wrongSum})
	wantStatus(t, err, 403)
	_, err = s.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &b, Key: aws.String("k"), SSECustomerAlgorithm: aws.String("AES256"), SSECustomerKey: &key, SSECustomerKeyMD5: &wrongSum})
	wantCode(t, err, "InvalidArgument")
	if _, err := s.s3.CopyObject(ctx, &s3.CopyObjectInput{Bucket: &b, Key: aws.String("out"), CopySource: sourceOf(b, "k"),
		CopySourceSSECustomerAlgorithm: aws.String("AES256"), CopySourceSSECustomerKey: &key, CopySourceSSECustomerKeyMD5: &sum}); err != nil {
		t.Errorf("copy: %v", err)
	}
	s.wantBody(t, b, "out", "", "secret")
}
