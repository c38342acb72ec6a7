package conformance

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"
)

func (s s3Suite) update(t *testing.T, bucket, key string, change ...func(*s3.UpdateObjectEncryptionInput)) error {
	t.Helper()
	in := &s3.UpdateObjectEncryptionInput{Bucket: &bucket, Key: &key}
	for _, f := range change {
		f(in)
	}
	_, err := s.s3.UpdateObjectEncryption(t.Context(), in)
	return err
}

func toKey(arn string) func(*s3.UpdateObjectEncryptionInput) {
	return func(in *s3.UpdateObjectEncryptionInput) {
		in.ObjectEncryption = &types.ObjectEncryptionMemberSSEKMS{Value: types.SSEKMSEncryption{KMSKeyArn: &arn}}
	}
}

// updateObjectEncryption states that the key changes and nothing else does, and
// that the object really is under the new key.
func (s s3Suite) updateObjectEncryption(t *testing.T) {
	if s.target.Deviations.S3NoUpdateObjectEncryption {
		return // the request overwrites the object with its own XML, or answers 501
	}
	ctx := t.Context()
	b := s.bucket(t)
	s.setVersioning(t, b, types.BucketVersioningStatusEnabled)
	from, to := s.keys.create(t), s.keys.create(t)
	old := s.put(t, b, "versions", "old", underKey(from))
	for name, change := range map[string]func(*s3.PutObjectInput){
		"kms":        underKey(from),
		"s3":         func(*s3.PutObjectInput) {},
		"bucket key": func(in *s3.PutObjectInput) { underKey(from)(in); in.BucketKeyEnabled = aws.Bool(true) },
		"archived":   func(in *s3.PutObjectInput) { underKey(from)(in); in.StorageClass = types.StorageClassGlacier },
		"versions":   underKey(from),
	} {
		s.put(t, b, name, "secret "+name, everyHeader, change)
		before := describe(s.head(t, b, name, withChecksum))
		if err := s.update(t, b, name, toKey(to)); err != nil {
			t.Errorf("update %q: %v", name, err)
			continue
		}
		if d := cmp.Diff(before, describe(s.head(t, b, name, withChecksum))); d != "" {
			t.Errorf("update changed %q (-before +after):\n%s", name, d)
		}
		// The bucket key is off unless the request says otherwise.
		s.wantEncryption(t, b, name, encryptedUnder{types.ServerSideEncryptionAwsKms, to, false})
		if name != "archived" {
			s.wantBody(t, b, name, "", "secret "+name)
		}
	}
	withBucketKey := func(in *s3.UpdateObjectEncryptionInput) {
		in.ObjectEncryption = &types.ObjectEncryptionMemberSSEKMS{Value: types.SSEKMSEncryption{KMSKeyArn: &to, BucketKeyEnabled: aws.Bool(true)}}
	}
	for range 2 { // again with the same key is no error
		if err := s.update(t, b, "kms", withBucketKey); err != nil {
			t.Errorf("update with a bucket key: %v", err)
		}
		s.wantEncryption(t, b, "kms", encryptedUnder{types.ServerSideEncryptionAwsKms, to, true})
	}

	// One version is updated; the others stay as they are.
	oldHead := func() encryptedUnder {
		return under(s.head(t, b, "versions", func(in *s3.HeadObjectInput) { in.VersionId = old.VersionId }))
	}
	if got := oldHead().Key; got != from {
		t.Errorf("noncurrent version is under %s", got)
	}
	if err := s.update(t, b, "versions", toKey(to), func(in *s3.UpdateObjectEncryptionInput) { in.VersionId = old.VersionId }); err != nil {
		t.Errorf("update a version: %v", err)
	}
	if got := oldHead().Key; got != to {
		t.Errorf("updated version is under %s", got)
	}
	if n := len(s.versionsOf(t, b, "versions")); n != 2 {
		t.Errorf("%d versions", n)
	}

	s.keys.disable(t, from) // what is still under it can not be read any more
	for _, name := range []string{"kms", "s3", "bucket key", "versions"} {
		s.wantBody(t, b, name, "", "secret "+name)
	}
	s.wantBody(t, b, "versions", aws.ToString(old.VersionId), "old")
	s.keys.disable(t, to)
	for _, name := range []string{"kms", "s3", "bucket key", "versions"} {
		_, err := s.read(t, b, name, "")
		wantCode(t, err, "KMS.DisabledException")
	}
	if _, err := s.keys.client.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &from}); err != nil {
		t.Fatalf("enable key: %v", err)
	}
	// The old key must be usable too.
	wantCode(t, s.update(t, b, "kms", toKey(from)), "KMS.DisabledException")
}

func (s s3Suite) updateRefusals(t *testing.T) {
	if s.target.Deviations.S3NoUpdateObjectEncryption {
		return
	}
	ctx := t.Context()
	b := s.bucket(t, locking)
	key := s.keys.create(t)
	alias := s.keys.alias(t, key)
	put := s.put(t, b, "k", "x")
	for _, tc := range []struct{ name, key, code, says string }{
		{"no key", "", "InvalidRequest", "require an AWS KMS key Amazon Resource Name"},
		{"an id", id(key), "InvalidRequest", "require a valid AWS KMS key Amazon Resource Name"},
		{"an alias", alias, "InvalidRequest", "require a valid AWS KMS key Amazon Resource Name"},
		{"an alias ARN", strings.Replace(key, ":key/"+id(key), ":"+alias, 1), "InvalidRequest", "require a valid AWS KMS key Amazon Resource Name"},
		{"a key of another account", strings.Replace(key, strings.Split(key, ":")[4], "999999999999", 1), "AccessDenied", "must be owned by the same account as the bucket"},
	} {
		err := s.update(t, b, "k", toKey(tc.key))
		if code(err) != tc.code || !strings.Contains(message(err), tc.says) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	err := s.update(t, b, "k", toKey(strings.Replace(key, id(key), "00000000-0000-4000-8000-000000000000", 1)))
	wantCode(t, err, "KMS.NotFoundException")
	wantCode(t, s.update(t, b, "none", toKey(key)), "NoSuchKey")
	wantCode(t, s.update(t, b+"-none", "k", toKey(key)), "NoSuchBucket")

	s.put(t, b, "dsse", "x", func(in *s3.PutObjectInput) { in.ServerSideEncryption = types.ServerSideEncryptionAwsKmsDsse })
	wantCode(t, s.update(t, b, "dsse", toKey(key)), "InvalidRequest")
	s.allowCustomerKeys(t, b)
	customer, sum := customerKey()
	s.put(t, b, "customer", "x", withCustomerKey(customer, sum))
	wantCode(t, s.update(t, b, "customer", toKey(key)), "InvalidRequest")

	for name, change := range map[string]func(*s3.PutObjectInput){
		"legal hold": func(in *s3.PutObjectInput) { in.ObjectLockLegalHoldStatus = types.ObjectLockLegalHoldStatusOn },
		"governance": func(in *s3.PutObjectInput) {
			in.ObjectLockMode, in.ObjectLockRetainUntilDate = types.ObjectLockModeGovernance, aws.Time(time.Now().Add(time.Hour))
		},
	} {
		locked := s.put(t, b, name, "x", change)
		err := s.update(t, b, name, toKey(key))
		if code(err) != "AccessDenied" || !strings.Contains(message(err), "protected by S3 Object Lock") {
			t.Errorf("%s: %v", name, err)
		}
		if name == "legal hold" {
			if _, err := s.s3.PutObjectLegalHold(ctx, &s3.PutObjectLegalHoldInput{Bucket: &b, Key: &name, VersionId: locked.VersionId, LegalHold: &types.ObjectLockLegalHold{Status: types.ObjectLockLegalHoldStatusOff}}); err != nil {
				t.Fatalf("put legal hold: %v", err)
			}
			if err := s.update(t, b, name, toKey(key)); err != nil {
				t.Errorf("after the hold: %v", err)
			}
		}
	}

	deleted, err := s.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b, Key: aws.String("k")})
	if err != nil {
		t.Fatalf("delete: %v", err)
	}
	// Not documented; what localaws answers.
	wantCode(t, s.update(t, b, "k", toKey(key)), "NoSuchKey")
	wantCode(t, s.update(t, b, "k", toKey(key), func(in *s3.UpdateObjectEncryptionInput) { in.VersionId = deleted.VersionId }), "MethodNotAllowed")
	if err := s.update(t, b, "k", toKey(key), func(in *s3.UpdateObjectEncryptionInput) { in.VersionId = put.VersionId }); err != nil {
		t.Errorf("version behind a delete marker: %v", err)
	}
}

func (s s3Suite) copyTo(t *testing.T, bucket, key string, source *string, change ...func(*s3.CopyObjectInput)) (*s3.CopyObjectOutput, error) {
	t.Helper()
	in := &s3.CopyObjectInput{Bucket: &bucket, Key: &key, CopySource: source}
	for _, f := range change {
		f(in)
	}
	return s.s3.CopyObject(t.Context(), in)
}

func (s s3Suite) copy(t *testing.T) {
	ctx := t.Context()
	b := s.bucket(t, withACLs)
	s.put(t, b, "source", "body", everyHeader, func(in *s3.PutObjectInput) {
		in.StorageClass = types.StorageClassStandardIa
		in.WebsiteRedirectLocation = aws.String("/there")
		in.ACL = types.ObjectCannedACLPublicRead
	})
	source := describe(s.head(t, b, "source", withChecksum))

	if _, err := s.copyTo(t, b, "copied", sourceOf(b, "source")); err != nil {
		t.Fatalf("copy: %v", err)
	}
	copied := describe(s.head(t, b, "copied", withChecksum))
	if d := cmp.Diff(source, copied, ofObject, s.checked()); d != "" {
		t.Errorf("copy (-source +copy):\n%s", d)
	}
	s.wantBody(t, b, "copied", "", "body")
	if copied.StorageClass != "" {
		t.Errorf("the copy kept the storage class %s", copied.StorageClass)
	}
	if copied.Redirect != "" && !s.target.Deviations.S3CopyKeepsRedirect {
		t.Errorf("the copy kept the redirect %s", copied.Redirect)
	}
	acl, err := s.s3.GetObjectAcl(ctx, &s3.GetObjectAclInput{Bucket: &b, Key: aws.String("copied")})
	if err != nil || len(acl.Grants) != 1 {
		t.Errorf("ACL of the copy: %+v, %v", acl, err)
	}

	if _, err := s.copyTo(t, b, "replaced", sourceOf(b, "source"), func(in *s3.CopyObjectInput) {
		in.MetadataDirective, in.TaggingDirective = types.MetadataDirectiveReplace, types.TaggingDirectiveReplace
		in.ContentType, in.Metadata, in.Tagging = aws.String("text/html"), map[string]string{"new": "1"}, aws.String("only=one")
		in.StorageClass, in.WebsiteRedirectLocation = types.StorageClassOnezoneIa, aws.String("/elsewhere")
	}); err != nil {
		t.Fatalf("copy: %v", err)
	}
	replaced := describe(s.head(t, b, "replaced"))
	want := described{ContentType: "text/html", Metadata: map[string]string{"new": "1"}, StorageClass: types.StorageClassOnezoneIa, Redirect: "/elsewhere", Length: 4, Tags: 1, Checksum: "|||"}
	want.ETag, want.Modified = replaced.ETag, replaced.Modified
	if d := cmp.Diff(want, replaced); d != "" {
		t.Errorf("replaced (-want +got):\n%s", d)
	}
	_, err = s.copyTo(t, b, "none", sourceOf(b, "no such source"))
	wantCode(t, err, "NoSuchKey")
	_, err = s.copyTo(t, b, "none", sourceOf(b+"-none", "source"))
	wantCode(t, err, "NoSuchBucket")
	if !s.target.Deviations.S3LaxLimits {
		_, err = s.copyTo(t, b, "none", aws.String("nonsense"))
		wantCode(t, err, "InvalidArgument")
		_, err = s.copyTo(t, b, "none", sourceOf(b, "source"), func(in *s3.CopyObjectInput) { in.MetadataDirective = "MERGE" })
		wantCode(t, err, "InvalidArgument")
	}
}

func (s s3Suite) copyConditions(t *testing.T) {
	if s.target.Deviations.S3UnconditionalCopy {
		return
	}
	b := s.bucket(t)
	put := s.put(t, b, "source", "x")
	there := s.put(t, b, "there", "y")
	modified := aws.ToTime(s.head(t, b, "source").LastModified)
	before, after := modified.Add(-time.Hour), modified.Add(time.Second)
	other := aws.String(`"00000000000000000000000000000000"`)
	for _, tc := range []struct {
		name   string
		target string
		change func(*s3.CopyObjectInput)
		code   string
	}{
		{"source If-Match holds", "new", func(in *s3.CopyObjectInput) { in.CopySourceIfMatch = put.ETag }, ""},
		{"source If-Match fails", "new", func(in *s3.CopyObjectInput) { in.CopySourceIfMatch = other }, "PreconditionFailed"},
		{"source If-None-Match holds", "new", func(in *s3.CopyObjectInput) { in.CopySourceIfNoneMatch = other }, ""},
		{"source If-None-Match fails", "new", func(in *s3.CopyObjectInput) { in.CopySourceIfNoneMatch = put.ETag }, "PreconditionFailed"},
		{"source If-Modified-Since holds", "new", func(in *s3.CopyObjectInput) { in.CopySourceIfModifiedSince = &before }, ""},
		{"source If-Modified-Since fails", "new", func(in *s3.CopyObjectInput) { in.CopySourceIfModifiedSince = &modified }, "PreconditionFailed"},
		{"source If-Unmodified-Since holds", "new", func(in *s3.CopyObjectInput) { in.CopySourceIfUnmodifiedSince = &after }, ""},
		{"source If-Unmodified-Since fails", "new", func(in *s3.CopyObjectInput) { in.CopySourceIfUnmodifiedSince = &before }, "PreconditionFailed"},
		{"source If-Match voids If-Unmodified-Since", "new", func(in *s3.CopyObjectInput) {
			in.CopySourceIfMatch, in.CopySourceIfUnmodifiedSince = put.ETag, &before
		}, ""},
		{"source If-None-Match voids If-Modified-Since", "new", func(in *s3.CopyObjectInput) {
			in.CopySourceIfNoneMatch, in.CopySourceIfModifiedSince = put.ETag, &before
		}, "PreconditionFailed"},
		{"target If-None-Match holds", "fresh", func(in *s3.CopyObjectInput) { in.IfNoneMatch = aws.String("*") }, ""},
		{"target If-None-Match fails", "there", func(in *s3.CopyObjectInput) { in.IfNoneMatch = aws.String("*") }, "PreconditionFailed"},
		{"target If-Match fails", "there", func(in *s3.CopyObjectInput) { in.IfMatch = other }, "PreconditionFailed"},
		{"target If-Match on nothing", "nothing", func(in *s3.CopyObjectInput) { in.IfMatch = other }, "NoSuchKey"},
		{"target If-Match holds", "there", func(in *s3.CopyObjectInput) { in.IfMatch = there.ETag }, ""},
	} {
		_, err := s.copyTo(t, b, tc.target, sourceOf(b, "source"), tc.change)
		if code(err) != tc.code {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.code)
		}
	}
}

func (s s3Suite) copyOntoItself(t *testing.T) {
	b := s.bucket(t)
	key := s.keys.create(t)
	s.put(t, b, "k", "x", everyHeader)
	before := describe(s.head(t, b, "k"))
	_, err := s.copyTo(t, b, "k", sourceOf(b, "k"))
	wantCode(t, err, "InvalidRequest")
	if !strings.Contains(message(err), "without changing the object's metadata, storage class, website redirect location or encryption attributes") {
		t.Errorf("message: %q", message(err))
	}
	for name, change := range map[string]func(*s3.CopyObjectInput){
		"metadata": func(in *s3.CopyObjectInput) {
			in.MetadataDirective, in.Metadata = types.MetadataDirectiveReplace, map[string]string{"a": "b"}
		},
		"storage class": func(in *s3.CopyObjectInput) { in.StorageClass = types.StorageClassStandardIa },
		"redirect":      func(in *s3.CopyObjectInput) { in.WebsiteRedirectLocation = aws.String("/x") },
	} {
		if _, err := s.copyTo(t, b, "k", sourceOf(b, "k"), change); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.put(t, b, "k", "x", everyHeader)
	if _, err := s.copyTo(t, b, "k", sourceOf(b, "k"), encryptTo(key)); err != nil {
		t.Fatalf("encryption: %v", err)
	}
	if d := cmp.Diff(before, describe(s.head(t, b, "k")), ofObject); d != "" {
		t.Errorf("in place (-before +after):\n%s", d)
	}
	s.wantEncryption(t, b, "k", encryptedUnder{types.ServerSideEncryptionAwsKms, key, false})
	s.wantBody(t, b, "k", "", "x")
}

func encryptTo(key string) func(*s3.CopyObjectInput) {
	return func(in *s3.CopyObjectInput) {
		in.ServerSideEncryption, in.SSEKMSKeyId = types.ServerSideEncryptionAwsKms, &key
	}
}

func (s s3Suite) copyVersions(t *testing.T) {
	b := s.bucket(t)
	s.setVersioning(t, b, types.BucketVersioningStatusEnabled)
	old := s.put(t, b, "k", "old")
	s.put(t, b, "k", "new")
	// A copy of an old version becomes the current one: it restores it.
	out, err := s.copyTo(t, b, "k", aws.String(*sourceOf(b, "k")+"?versionId="+aws.ToString(old.VersionId)))
	if err != nil {
		t.Fatalf("copy: %v", err)
	}
	if aws.ToString(out.CopySourceVersionId) != aws.ToString(old.VersionId) || aws.ToString(out.VersionId) == "" {
		t.Errorf("copied version %s to %s", aws.ToString(out.CopySourceVersionId), aws.ToString(out.VersionId))
	}
	s.wantBody(t, b, "k", "", "old")
	if got := s.versionsOf(t, b, "k"); len(got) != 3 || got[0] != aws.ToString(out.VersionId) {
		t.Errorf("versions: %v", got)
	}
	deleted, err := s.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b, Key: aws.String("k")})
	if err != nil {
		t.Fatalf("delete: %v", err)
	}
	_, err = s.copyTo(t, b, "x", sourceOf(b, "k"))
	wantCode(t, err, "NoSuchKey")
	if !s.target.Deviations.S3LaxVersioning {
		_, err = s.copyTo(t, b, "x", aws.String(*sourceOf(b, "k")+"?versionId="+aws.ToString(deleted.VersionId)))
		wantStatus(t, err, 400)
	}
}

func (s s3Suite) copyEncryption(t *testing.T) {
	b := s.bucket(t)
	from, to := s.keys.create(t), s.keys.create(t)
	s.put(t, b, "source", "secret", underKey(from), func(in *s3.PutObjectInput) { in.BucketKeyEnabled = aws.Bool(true) })
	if _, err := s.copyTo(t, b, "default", sourceOf(b, "source")); err != nil {
		t.Fatalf("copy: %v", err)
	}
	if !s.target.Deviations.S3NoDefaultEncryption {
		s.wantEncryption(t, b, "default", encryptedUnder{Kind: types.ServerSideEncryptionAes256})
	}
	if _, err := s.copyTo(t, b, "moved", sourceOf(b, "source"), encryptTo(to)); err != nil {
		t.Fatalf("copy: %v", err)
	}
	s.wantEncryption(t, b, "moved", encryptedUnder{types.ServerSideEncryptionAwsKms, to, false})
	if s.target.Deviations.S3KeysUnchecked {
		return
	}
	s.keys.disable(t, from)
	s.wantBody(t, b, "moved", "", "secret")
	s.wantBody(t, b, "default", "", "secret")
	_, err := s.copyTo(t, b, "late", sourceOf(b, "source"), encryptTo(to))
	wantCode(t, err, "KMS.DisabledException")
}

// partSize is the smallest size of a part that is not the last one.
const partSize = 5 << 20

func (s s3Suite) upload(t *testing.T, bucket, key string, parts []string, change ...func(*s3.CreateMultipartUploadInput)) *s3.CompleteMultipartUploadOutput {
	t.Helper()
	ctx := t.Context()
	in := &s3.CreateMultipartUploadInput{Bucket: &bucket, Key: &key}
	for _, f := range change {
		f(in)
	}
	upload, err := s.s3.CreateMultipartUpload(ctx, in)
	if err != nil {
		t.Fatalf("create upload: %v", err)
	}
	var done []types.CompletedPart
	for i, body := range parts {
		n := aws.Int32(int32(i + 1))
		p, err := s.s3.UploadPart(ctx, &s3.UploadPartInput{Bucket: &bucket, Key: &key, UploadId: upload.UploadId, PartNumber: n, Body: strings.NewReader(body), ChecksumAlgorithm: in.ChecksumAlgorithm})
		if err != nil {
			t.Fatalf("upload part: %v", err)
		}
		done = append(done, types.CompletedPart{PartNumber: n, ETag: p.ETag, ChecksumCRC32: p.ChecksumCRC32, ChecksumSHA256: p.ChecksumSHA256, ChecksumCRC64NVME: p.ChecksumCRC64NVME})
	}
	out, err := s.s3.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: &bucket, Key: &key, UploadId: upload.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: done}})
	if err != nil {
		t.Fatalf("complete upload: %v", err)
	}
	return out
}

func (s s3Suite) multipart(t *testing.T) {
	ctx := t.Context()
	b := s.bucket(t)
	key := s.keys.create(t)
	first, last := strings.Repeat("p", partSize), "the end"
	out := s.upload(t, b, "big", []string{first, last}, func(in *s3.CreateMultipartUploadInput) {
		in.ContentType, in.CacheControl, in.ContentDisposition = aws.String("text/css"), aws.String("no-store"), aws.String("inline")
		in.ContentEncoding, in.ContentLanguage = aws.String("gzip"), aws.String("fr")
		in.Expires = aws.Time(time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC))
		in.Metadata, in.Tagging = map[string]string{"m": "v"}, aws.String("a=1&b=2")
		in.StorageClass, in.WebsiteRedirectLocation = types.StorageClassStandardIa, aws.String("/w")
		in.ServerSideEncryption, in.SSEKMSKeyId, in.BucketKeyEnabled = types.ServerSideEncryptionAwsKms, &key, aws.Bool(true)
	})
	if !strings.HasSuffix(aws.ToString(out.ETag), `-2"`) {
		t.Errorf("ETag %s", aws.ToString(out.ETag))
	}
	head := s.head(t, b, "big", withChecksum)
	got := describe(head)
	want := described{
		ContentType: "text/css", CacheControl: "no-store", ContentDisposition: "inline", ContentEncoding: "gzip", ContentLanguage: "fr",
		Expires: "Mon, 03 Feb 2031 04:05:06 GMT", Redirect: "/w", Metadata: map[string]string{"m": "v"}, StorageClass: types.StorageClassStandardIa,
		Length: partSize + int64(len(last)), Tags: 2, ETag: aws.ToString(out.ETag), Modified: got.Modified, Checksum: got.Checksum,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("head (-want +got):\n%s", d)
	}
	s.wantEncryption(t, b, "big", encryptedUnder{types.ServerSideEncryptionAwsKms, key, !s.target.Deviations.S3MultipartNoBucketKey})
	s.wantBody(t, b, "big", "", first+last)
	if !s.target.Deviations.S3NoParts {
		part, err := s.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b, Key: aws.String("big"), PartNumber: aws.Int32(2)})
		if err != nil || aws.ToInt64(part.ContentLength) != int64(len(last)) || aws.ToInt32(part.PartsCount) != 2 {
			t.Errorf("second part: %+v, %v", part, err)
		}
		attributes, err := s.s3.GetObjectAttributes(ctx, &s3.GetObjectAttributesInput{Bucket: &b, Key: aws.String("big"), ObjectAttributes: []types.ObjectAttributes{
			types.ObjectAttributesEtag, types.ObjectAttributesObjectParts, types.ObjectAttributesObjectSize, types.ObjectAttributesStorageClass, types.ObjectAttributesChecksum,
		}})
		if err != nil {
			t.Fatalf("attributes: %v", err)
		}
		if aws.ToInt32(attributes.ObjectParts.TotalPartsCount) != 2 || aws.ToInt64(attributes.ObjectSize) != want.Length ||
			attributes.StorageClass != types.StorageClassStandardIa || `"`+aws.ToString(attributes.ETag)+`"` != want.ETag {
			t.Errorf("attributes: %+v", attributes)
		}
	}
	// A copy is one piece.
	if _, err := s.copyTo(t, b, "copy", sourceOf(b, "big")); err != nil {
		t.Fatalf("copy: %v", err)
	}
	if etag := aws.ToString(s.head(t, b, "copy").ETag); strings.Contains(etag, "-") {
		t.Errorf("ETag of the copy %s", etag)
	}
}

func (s s3Suite) multipartRefusals(t *testing.T) {
	ctx := t.Context()
	b := s.bucket(t)
	name := aws.String("k")
	upload, err := s.s3.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &b, Key: name})
	if err != nil {
		t.Fatalf("create upload: %v", err)
	}
	var parts []types.CompletedPart
	for n := range int32(2) {
		p, err := s.s3.UploadPart(ctx, &s3.UploadPartInput{Bucket: &b, Key: name, UploadId: upload.UploadId, PartNumber: aws.Int32(n + 1), Body: strings.NewReader("small")})
		if err != nil {
			t.Fatalf("upload part: %v", err)
		}
		parts = append(parts, types.CompletedPart{PartNumber: aws.Int32(n + 1), ETag: p.ETag, ChecksumCRC32: p.ChecksumCRC32})
	}
	complete := func(change func(*s3.CompleteMultipartUploadInput), parts ...types.CompletedPart) error {
		in := &s3.CompleteMultipartUploadInput{Bucket: &b, Key: name, UploadId: upload.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}}
		if change != nil {
			change(in)
		}
		_, err := s.s3.CompleteMultipartUpload(ctx, in)
		return err
	}
	wantCode(t, complete(nil, parts[0], parts[1]), "EntityTooSmall")
	if !s.target.Deviations.S3LaxLimits {
		wantCode(t, complete(nil, parts[1], parts[0]), "InvalidPartOrder")
	}
	wantCode(t, complete(nil, types.CompletedPart{PartNumber: aws.Int32(3), ETag: parts[0].ETag}), "InvalidPart")
	wantCode(t, complete(nil, types.CompletedPart{PartNumber: aws.Int32(1), ETag: aws.String(`"00000000000000000000000000000000"`)}), "InvalidPart")
	s.put(t, b, "k", "there")
	if !s.target.Deviations.S3UnconditionalCopy {
		wantCode(t, complete(func(in *s3.CompleteMultipartUploadInput) { in.IfNoneMatch = aws.String("*") }, parts[0]), "PreconditionFailed")
		wantCode(t, complete(func(in *s3.CompleteMultipartUploadInput) {
			in.IfMatch = aws.String(`"00000000000000000000000000000000"`)
		}, parts[0]), "PreconditionFailed")
	}
	s.wantBody(t, b, "k", "", "there")
	if err := complete(nil, parts[1]); err != nil { // any of the parts will do
		t.Errorf("complete: %v", err)
	}
	s.wantBody(t, b, "k", "", "small")
	if !s.target.Deviations.S3LaxLimits {
		_, err = s.s3.UploadPart(ctx, &s3.UploadPartInput{Bucket: &b, Key: name, UploadId: upload.UploadId, PartNumber: aws.Int32(1), Body: strings.NewReader("x")})
		wantCode(t, err, "NoSuchUpload")
	}
	_, err = s.s3.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b, Key: name, UploadId: aws.String(strings.Repeat("0", 32))})
	wantCode(t, err, "NoSuchUpload")
}

func (s s3Suite) uploadPartCopy(t *testing.T) {
	ctx := t.Context()
	b := s.bucket(t)
	from, to := s.keys.create(t), s.keys.create(t)
	body := strings.Repeat("a", partSize) + strings.Repeat("b", 100)
	put := s.put(t, b, "source+ü", body, underKey(from))
	upload, err := s.s3.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &b, Key: aws.String("copy"), ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &to})
	if err != nil {
		t.Fatalf("create upload: %v", err)
	}
	part := func(n int32, span, etag string) (*s3.UploadPartCopyOutput, error) {
		return s.s3.UploadPartCopy(ctx, &s3.UploadPartCopyInput{Bucket: &b, Key: aws.String("copy"), UploadId: upload.UploadId, PartNumber: &n,
			CopySource: sourceOf(b, "source+ü"), CopySourceRange: &span, CopySourceIfMatch: &etag})
	}
	if !s.target.Deviations.S3UnconditionalCopy {
		_, err = part(1, "bytes=0-5242879", `"00000000000000000000000000000000"`)
		wantCode(t, err, "PreconditionFailed")
		_, err = part(1, "bytes=0-99999999", aws.ToString(put.ETag))
		wantCode(t, err, "InvalidArgument")
		_, err = part(1, "bytes=5-", aws.ToString(put.ETag))
		wantCode(t, err, "InvalidArgument")
	}
	var parts []types.CompletedPart
	for i, span := range []string{"bytes=0-5242879", "bytes=5242880-5242979"} {
		p, err := part(int32(i+1), span, aws.ToString(put.ETag))
		if err != nil {
			t.Fatalf("copy part: %v", err)
		}
		parts = append(parts, types.CompletedPart{PartNumber: aws.Int32(int32(i + 1)), ETag: p.CopyPartResult.ETag, ChecksumCRC32: p.CopyPartResult.ChecksumCRC32})
	}
	if _, err := s.s3.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: &b, Key: aws.String("copy"), UploadId: upload.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}}); err != nil {
		t.Fatalf("complete: %v", err)
	}
	s.wantBody(t, b, "copy", "", body)
	s.wantEncryption(t, b, "copy", encryptedUnder{types.ServerSideEncryptionAwsKms, to, false})
}

func (s s3Suite) multipartListings(t *testing.T) {
	ctx := t.Context()
	b := s.bucket(t)
	var ids []string
	for _, key := range []string{"a", "a", "d/1", "d/2", "e"} {
		upload, err := s.s3.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &b, Key: &key})
		if err != nil {
			t.Fatalf("create upload: %v", err)
		}
		ids = append(ids, aws.ToString(upload.UploadId))
		t.Cleanup(func() {
			_, _ = s.s3.AbortMultipartUpload(context.WithoutCancel(t.Context()), &s3.AbortMultipartUploadInput{Bucket: &b, Key: &key, UploadId: upload.UploadId}) // may be aborted already
		})
	}
	for _, size := range []int32{1, 2, 1000} {
		var got []string
		in := &s3.ListMultipartUploadsInput{Bucket: &b, MaxUploads: &size}
		for range 10 {
			page, err := s.s3.ListMultipartUploads(ctx, in)
			if err != nil {
				t.Fatalf("list uploads: %v", err)
			}
			for _, u := range page.Uploads {
				got = append(got, aws.ToString(u.UploadId))
			}
			if !aws.ToBool(page.IsTruncated) {
				break
			}
			in.KeyMarker, in.UploadIdMarker = page.NextKeyMarker, page.NextUploadIdMarker
		}
		// Uploads of one key come by age, to the second.
		slices.Sort(got)
		if want := slices.Sorted(slices.Values(ids)); !cmp.Equal(got, want) {
			t.Errorf("uploads in pages of %d: %s", size, cmp.Diff(want, got))
		}
	}
	for n := range int32(3) {
		if _, err := s.s3.UploadPart(ctx, &s3.UploadPartInput{Bucket: &b, Key: aws.String("e"), UploadId: &ids[4], PartNumber: aws.Int32(2*n + 1), Body: strings.NewReader("x")}); err != nil {
			t.Fatalf("upload part: %v", err)
		}
	}
	var got []int32
	pages := s3.NewListPartsPaginator(s.s3, &s3.ListPartsInput{Bucket: &b, Key: aws.String("e"), UploadId: &ids[4], MaxParts: aws.Int32(2)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			t.Fatalf("list parts: %v", err)
		}
		for _, p := range page.Parts {
			got = append(got, aws.ToInt32(p.PartNumber))
		}
	}
	if want := []int32{1, 3, 5}; !cmp.Equal(got, want) && !s.target.Deviations.S3PartPaging {
		t.Errorf("parts %v, want %v", got, want)
	}
}

func (s s3Suite) objectLock(t *testing.T) {
	ctx := t.Context()
	b, plain := s.bucket(t, locking), s.bucket(t)
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	in := &s3.PutObjectInput{Bucket: &plain, Key: aws.String("k"), ChecksumAlgorithm: types.ChecksumAlgorithmCrc32, ObjectLockMode: types.ObjectLockModeGovernance, ObjectLockRetainUntilDate: &until}
	if !s.target.Deviations.S3LaxLimits {
		_, err := s.s3.PutObject(ctx, in)
		wantCode(t, err, "InvalidRequest")
	}
	in.Bucket = &b
	locked, err := s.s3.PutObject(ctx, in)
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	h := s.head(t, b, "k")
	if h.ObjectLockMode != types.ObjectLockModeGovernance || !aws.ToTime(h.ObjectLockRetainUntilDate).Equal(until) {
		t.Errorf("head: %+v", describe(h))
	}
	remove := func(bypass *bool) error {
		_, err := s.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b, Key: aws.String("k"), VersionId: locked.VersionId, BypassGovernanceRetention: bypass})
		return err
	}
	retain := func(until *time.Time) error {
		_, err := s.s3.PutObjectRetention(ctx, &s3.PutObjectRetentionInput{Bucket: &b, Key: aws.String("k"), VersionId: locked.VersionId,
			Retention: &types.ObjectLockRetention{Mode: types.ObjectLockRetentionModeGovernance, RetainUntilDate: until}})
		return err
	}
	hold := func(status types.ObjectLockLegalHoldStatus) {
		t.Helper()
		if _, err := s.s3.PutObjectLegalHold(ctx, &s3.PutObjectLegalHoldInput{Bucket: &b, Key: aws.String("k"), VersionId: locked.VersionId, LegalHold: &types.ObjectLockLegalHold{Status: status}}); err != nil {
			t.Fatalf("put legal hold: %v", err)
		}
	}
	wantCode(t, remove(nil), "AccessDenied")
	if !s.target.Deviations.S3LaxLimits {
		wantCode(t, retain(aws.Time(until.Add(-time.Minute))), "AccessDenied")
	}
	if err := retain(aws.Time(until.Add(time.Minute))); err != nil {
		t.Errorf("longer: %v", err)
	}
	got, err := s.s3.GetObjectRetention(ctx, &s3.GetObjectRetentionInput{Bucket: &b, Key: aws.String("k"), VersionId: locked.VersionId})
	if err != nil {
		t.Fatalf("get retention: %v", err)
	}
	if !s.target.Deviations.S3RetentionNotTold && (got.Retention == nil || !aws.ToTime(got.Retention.RetainUntilDate).Equal(until.Add(time.Minute))) {
		t.Errorf("retention: %+v", got.Retention)
	}
	hold(types.ObjectLockLegalHoldStatusOn)
	if h := s.head(t, b, "k"); h.ObjectLockLegalHoldStatus != types.ObjectLockLegalHoldStatusOn {
		t.Errorf("hold: %q", h.ObjectLockLegalHoldStatus)
	}
	wantCode(t, remove(aws.Bool(true)), "AccessDenied") // a hold can not be bypassed

	// A lock protects the version: a new one may be put in front of it, and a
	// copy does not take the lock along.
	s.put(t, b, "k", "newer")
	if _, err := s.copyTo(t, b, "copy", aws.String(*sourceOf(b, "k")+"?versionId="+aws.ToString(locked.VersionId))); err != nil {
		t.Errorf("copy: %v", err)
	}
	if h := s.head(t, b, "copy"); h.ObjectLockMode != "" || h.ObjectLockLegalHoldStatus != "" {
		t.Errorf("the copy kept the lock: %+v", describe(h))
	}
	hold(types.ObjectLockLegalHoldStatusOff)
	wantCode(t, remove(nil), "AccessDenied")
	if err := remove(aws.Bool(true)); err != nil {
		t.Errorf("bypass: %v", err)
	}

	if s.target.Deviations.S3NoDefaultRetention {
		return
	}
	if _, err := s.s3.PutObjectLockConfiguration(ctx, &s3.PutObjectLockConfigurationInput{Bucket: &b, ObjectLockConfiguration: &types.ObjectLockConfiguration{
		ObjectLockEnabled: types.ObjectLockEnabledEnabled,
		Rule:              &types.ObjectLockRule{DefaultRetention: &types.DefaultRetention{Mode: types.ObjectLockRetentionModeGovernance, Days: aws.Int32(1)}},
	}}); err != nil {
		t.Fatalf("put lock configuration: %v", err)
	}
	config, err := s.s3.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &b})
	if err != nil || config.ObjectLockConfiguration.Rule == nil || aws.ToInt32(config.ObjectLockConfiguration.Rule.DefaultRetention.Days) != 1 {
		t.Errorf("lock configuration: %+v, %v", config, err)
	}
	s.put(t, b, "default", "x")
	if h := s.head(t, b, "default"); h.ObjectLockMode != types.ObjectLockModeGovernance || time.Until(aws.ToTime(h.ObjectLockRetainUntilDate)) < 23*time.Hour {
		t.Errorf("default retention: %+v", describe(h))
	}
	_, err = s.s3.PutBucketVersioning(ctx, &s3.PutBucketVersioningInput{Bucket: &b, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusSuspended}})
	if !s.target.Deviations.S3LaxLimits {
		wantCode(t, err, "InvalidBucketState")
	}
}

func (s s3Suite) archives(t *testing.T) {
	ctx := t.Context()
	b := s.bucket(t)
	s.put(t, b, "warm", "x", func(in *s3.PutObjectInput) { in.StorageClass = types.StorageClassGlacierIr })
	s.wantBody(t, b, "warm", "", "x")
	for _, class := range []types.StorageClass{types.StorageClassGlacier, types.StorageClassDeepArchive} {
		key := string(class)
		s.put(t, b, key, "x", func(in *s3.PutObjectInput) { in.StorageClass = class })
		if h := s.head(t, b, key); h.StorageClass != class || aws.ToString(h.Restore) != "" {
			t.Errorf("head: %+v", describe(h))
		}
		_, err := s.read(t, b, key, "")
		wantCode(t, err, "InvalidObjectState")
		wantStatus(t, err, 403)
		_, err = s.copyTo(t, b, "copy", sourceOf(b, key))
		wantStatus(t, err, 403)
		if !s.target.Deviations.S3ArchiveCopyCode {
			wantCode(t, err, "InvalidObjectState")
		}
		if _, err := s.s3.RestoreObject(ctx, &s3.RestoreObjectInput{Bucket: &b, Key: &key, RestoreRequest: &types.RestoreRequest{Days: aws.Int32(1), GlacierJobParameters: &types.GlacierJobParameters{Tier: types.TierBulk}}}); err != nil {
			t.Errorf("restore: %v", err)
		}
		// How long it takes is the server's affair.
		if h := s.head(t, b, key); !strings.HasPrefix(aws.ToString(h.Restore), `ongoing-request="`) || h.StorageClass != class {
			t.Errorf("after restore: %+v", describe(h))
		}
	}
	if s.target.Deviations.S3LaxLimits {
		return
	}
	_, err := s.s3.RestoreObject(ctx, &s3.RestoreObjectInput{Bucket: &b, Key: aws.String("warm"), RestoreRequest: &types.RestoreRequest{Days: aws.Int32(1)}})
	wantCode(t, err, "InvalidObjectState")
	_, err = s.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: &b, Key: aws.String("k"), StorageClass: "LUKEWARM"})
	wantCode(t, err, "InvalidStorageClass")
}

func (s s3Suite) acls(t *testing.T) {
	ctx := t.Context()
	enforced, open := s.bucket(t), s.bucket(t, withACLs)
	if !s.target.Deviations.S3NoDefaultOwnership {
		_, err := s.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: &enforced, Key: aws.String("k"), ACL: types.ObjectCannedACLPublicRead})
		wantCode(t, err, "AccessControlListNotSupported")
		s.put(t, enforced, "k", "x", func(in *s3.PutObjectInput) { in.ACL = types.ObjectCannedACLBucketOwnerFullControl })
		_, err = s.s3.PutObjectAcl(ctx, &s3.PutObjectAclInput{Bucket: &enforced, Key: aws.String("k"), ACL: types.ObjectCannedACLPublicRead})
		wantCode(t, err, "AccessControlListNotSupported")
	}
	grants := func(key string) []string {
		t.Helper()
		out, err := s.s3.GetObjectAcl(ctx, &s3.GetObjectAclInput{Bucket: &open, Key: &key})
		if err != nil {
			t.Fatalf("get ACL: %v", err)
		}
		var list []string
		for _, g := range out.Grants {
			list = append(list, string(g.Permission)+" "+string(g.Grantee.Type)+" "+aws.ToString(g.Grantee.URI))
		}
		slices.Sort(list)
		return list
	}
	const owner, everybody = "FULL_CONTROL CanonicalUser ", "READ Group http://acs.amazonaws.com/groups/global/AllUsers"
	s.put(t, open, "k", "x")
	if d := cmp.Diff([]string{owner}, grants("k")); d != "" {
		t.Errorf("private (-want +got):\n%s", d)
	}
	s.put(t, open, "k", "x", func(in *s3.PutObjectInput) { in.ACL = types.ObjectCannedACLPublicRead })
	if d := cmp.Diff([]string{owner, everybody}, grants("k")); d != "" {
		t.Errorf("canned (-want +got):\n%s", d)
	}
	before, err := s.s3.GetObjectAcl(ctx, &s3.GetObjectAclInput{Bucket: &open, Key: aws.String("k")})
	if err != nil {
		t.Fatalf("get ACL: %v", err)
	}
	s.put(t, open, "k2", "x")
	if _, err := s.s3.PutObjectAcl(ctx, &s3.PutObjectAclInput{Bucket: &open, Key: aws.String("k2"), AccessControlPolicy: &types.AccessControlPolicy{Owner: before.Owner, Grants: before.Grants}}); err != nil {
		t.Errorf("put ACL: %v", err)
	}
	if d := cmp.Diff([]string{owner, everybody}, grants("k2")); d != "" && !s.target.Deviations.S3ACLDocumentIgnored {
		t.Errorf("grants (-want +got):\n%s", d)
	}
}

func (s s3Suite) tags(t *testing.T) {
	ctx := t.Context()
	b := s.bucket(t)
	want := []types.Tag{{Key: aws.String("a b"), Value: aws.String("+=@/ x")}, {Key: aws.String("empty"), Value: aws.String("")}}
	put := func(tags []types.Tag) error {
		_, err := s.s3.PutObjectTagging(ctx, &s3.PutObjectTaggingInput{Bucket: &b, Key: aws.String("k"), Tagging: &types.Tagging{TagSet: tags}})
		return err
	}
	get := func() []types.Tag {
		t.Helper()
		out, err := s.s3.GetObjectTagging(ctx, &s3.GetObjectTaggingInput{Bucket: &b, Key: aws.String("k")})
		if err != nil {
			t.Fatalf("get tags: %v", err)
		}
		slices.SortFunc(out.TagSet, func(x, y types.Tag) int { return strings.Compare(*x.Key, *y.Key) })
		return out.TagSet
	}
	plain := cmp.AllowUnexported(types.Tag{})
	s.put(t, b, "k", "x", func(in *s3.PutObjectInput) { in.Tagging = aws.String("a+b=%2B%3D%40%2F+x&empty=") })
	before := describe(s.head(t, b, "k"))
	if d := cmp.Diff(want, get(), plain); d != "" {
		t.Errorf("tags of the put (-want +got):\n%s", d)
	}
	if _, err := s.s3.DeleteObjectTagging(ctx, &s3.DeleteObjectTaggingInput{Bucket: &b, Key: aws.String("k")}); err != nil {
		t.Errorf("delete tags: %v", err)
	}
	if got := get(); len(got) != 0 {
		t.Errorf("tags: %v", got)
	}
	if err := put(want); err != nil {
		t.Errorf("put tags: %v", err)
	}
	if d := cmp.Diff(want, get(), plain); d != "" {
		t.Errorf("tags (-want +got):\n%s", d)
	}
	if d := cmp.Diff(before, describe(s.head(t, b, "k"))); d != "" {
		t.Errorf("tagging changed the object:\n%s", d)
	}
	if !s.target.Deviations.S3LaxLimits {
		wantCode(t, put([]types.Tag{want[0], want[0]}), "InvalidTag")
		wantCode(t, put([]types.Tag{{Key: aws.String("k"), Value: aws.String("a&b")}}), "InvalidTag")
		wantCode(t, put([]types.Tag{{Key: aws.String("aws:x"), Value: aws.String("")}}), "InvalidTag")
		var many []types.Tag
		for range 11 {
			many = append(many, types.Tag{Key: aws.String(rand.Text()), Value: aws.String("")})
		}
		wantCode(t, put(many), "BadRequest")
	}
	if _, err := s.s3.PutBucketTagging(ctx, &s3.PutBucketTaggingInput{Bucket: &b, Tagging: &types.Tagging{TagSet: want}}); err != nil {
		t.Fatalf("tag bucket: %v", err)
	}
	out, err := s.s3.GetBucketTagging(ctx, &s3.GetBucketTaggingInput{Bucket: &b})
	if err != nil || len(out.TagSet) != 2 {
		t.Errorf("tags of the bucket: %v, %v", out, err)
	}
}

func (s s3Suite) checksums(t *testing.T) {
	ctx := t.Context()
	b := s.bucket(t)
	get := func(key string) described { t.Helper(); return describe(s.head(t, b, key, withChecksum)) }
	for algorithm, want := range map[types.ChecksumAlgorithm]string{
		types.ChecksumAlgorithmCrc32:     "NhCmhg==|||FULL_OBJECT",
		types.ChecksumAlgorithmCrc64nvme: "|M3eFcAZSQlc=||FULL_OBJECT",
		types.ChecksumAlgorithmSha256:    "||LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=|FULL_OBJECT",
	} {
		s.put(t, b, string(algorithm), "hello", func(in *s3.PutObjectInput) { in.ChecksumAlgorithm = algorithm })
		if got := get(string(algorithm)).Checksum; got != want && !s.target.Deviations.S3ChecksumsUnchecked {
			t.Errorf("%s: %s, want %s", algorithm, got, want)
		}
	}
	if s.target.Deviations.S3ChecksumsUnchecked {
		return
	}
	in := &s3.PutObjectInput{Bucket: &b, Key: aws.String("wrong"), Body: strings.NewReader("hello"), ChecksumCRC32: aws.String("AAAAAA==")}
	_, err := s.s3.PutObject(ctx, in)
	wantCode(t, err, "BadDigest")
	in = &s3.PutObjectInput{Bucket: &b, Key: aws.String("wrong"), Body: strings.NewReader("hello"), ContentMD5: aws.String("AAAAAAAAAAAAAAAAAAAAAA==")}
	_, err = s.s3.PutObject(ctx, in)
	wantCode(t, err, "BadDigest")

	// Two parts have a checksum of checksums, or one of everything.
	parts := []string{strings.Repeat("p", partSize), "end"}
	s.upload(t, b, "composite", parts, func(in *s3.CreateMultipartUploadInput) { in.ChecksumAlgorithm = types.ChecksumAlgorithmSha256 })
	if got := get("composite").Checksum; !strings.HasSuffix(got, "-2|COMPOSITE") {
		t.Errorf("composite: %s", got)
	}
	s.upload(t, b, "full", parts, func(in *s3.CreateMultipartUploadInput) {
		in.ChecksumAlgorithm, in.ChecksumType = types.ChecksumAlgorithmCrc32, types.ChecksumTypeFullObject
	})
	s.put(t, b, "whole", strings.Join(parts, ""))
	if full, whole := get("full").Checksum, get("whole").Checksum; full != whole {
		t.Errorf("full: %s, want %s", full, whole)
	}
	// A copy keeps the algorithm; of a composite checksum it makes a full one.
	if _, err := s.copyTo(t, b, "copied", sourceOf(b, "full")); err != nil {
		t.Fatalf("copy: %v", err)
	}
	if copied, whole := get("copied").Checksum, get("whole").Checksum; copied != whole {
		t.Errorf("copied: %s, want %s", copied, whole)
	}
}

func (s s3Suite) expectedBucketOwner(t *testing.T) {
	if s.target.Deviations.S3OwnerUnchecked {
		return
	}
	b := s.bucket(t)
	s.put(t, b, "k", "x")
	stranger := aws.String("999999999999")
	for name, err := range map[string]error{
		"own":    second(s.s3.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b, Key: aws.String("k"), ExpectedBucketOwner: &s.target.Account})),
		"source": second(s.copyTo(t, b, "c", sourceOf(b, "k"), func(in *s3.CopyObjectInput) { in.ExpectedSourceBucketOwner = &s.target.Account })),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := s.s3.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b, Key: aws.String("k"), ExpectedBucketOwner: stranger})
	wantCode(t, err, "AccessDenied")
	_, err = s.copyTo(t, b, "c", sourceOf(b, "k"), func(in *s3.CopyObjectInput) { in.ExpectedSourceBucketOwner = stranger })
	wantCode(t, err, "AccessDenied")
	_, err = s.s3.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b, Key: aws.String("k"), ExpectedBucketOwner: stranger})
	wantStatus(t, err, 403)
}

func second[T any](_ T, err error) error { return err }
