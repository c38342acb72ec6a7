package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// S3 is what an Engine calls; *s3.Client has it.
type S3 interface {
	HeadObject(context.Context, *s3.HeadObjectInput, ...func(*s3.Options)) (*s3.HeadObjectOutput, error)
	ListObjectsV2(context.Context, *s3.ListObjectsV2Input, ...func(*s3.Options)) (*s3.ListObjectsV2Output, error)
	ListObjectVersions(context.Context, *s3.ListObjectVersionsInput, ...func(*s3.Options)) (*s3.ListObjectVersionsOutput, error)
	GetBucketVersioning(context.Context, *s3.GetBucketVersioningInput, ...func(*s3.Options)) (*s3.GetBucketVersioningOutput, error)

	UpdateObjectEncryption(context.Context, *s3.UpdateObjectEncryptionInput, ...func(*s3.Options)) (*s3.UpdateObjectEncryptionOutput, error)

	CopyObject(context.Context, *s3.CopyObjectInput, ...func(*s3.Options)) (*s3.CopyObjectOutput, error)
	CreateMultipartUpload(context.Context, *s3.CreateMultipartUploadInput, ...func(*s3.Options)) (*s3.CreateMultipartUploadOutput, error)
	UploadPartCopy(context.Context, *s3.UploadPartCopyInput, ...func(*s3.Options)) (*s3.UploadPartCopyOutput, error)
	CompleteMultipartUpload(context.Context, *s3.CompleteMultipartUploadInput, ...func(*s3.Options)) (*s3.CompleteMultipartUploadOutput, error)
	AbortMultipartUpload(context.Context, *s3.AbortMultipartUploadInput, ...func(*s3.Options)) (*s3.AbortMultipartUploadOutput, error)
	GetObjectAcl(context.Context, *s3.GetObjectAclInput, ...func(*s3.Options)) (*s3.GetObjectAclOutput, error)
	GetObjectTagging(context.Context, *s3.GetObjectTaggingInput, ...func(*s3.Options)) (*s3.GetObjectTaggingOutput, error)
	ListObjectAnnotations(context.Context, *s3.ListObjectAnnotationsInput, ...func(*s3.Options)) (*s3.ListObjectAnnotationsOutput, error)
	GetBucketOwnershipControls(context.Context, *s3.GetBucketOwnershipControlsInput, ...func(*s3.Options)) (*s3.GetBucketOwnershipControlsOutput, error)
	GetObjectLockConfiguration(context.Context, *s3.GetObjectLockConfigurationInput, ...func(*s3.Options)) (*s3.GetObjectLockConfigurationOutput, error)
	GetBucketAcl(context.Context, *s3.GetBucketAclInput, ...func(*s3.Options)) (*s3.GetBucketAclOutput, error)

	settingsS3

	// For the probe's scratch object, and for files that hold data keys.
	PutObject(context.Context, *s3.PutObjectInput, ...func(*s3.Options)) (*s3.PutObjectOutput, error)
	GetObject(context.Context, *s3.GetObjectInput, ...func(*s3.Options)) (*s3.GetObjectOutput, error)
	// For the probe's scratch object only.
	DeleteObject(context.Context, *s3.DeleteObjectInput, ...func(*s3.Options)) (*s3.DeleteObjectOutput, error)
}

// fault is what an error of S3 means for the object it was about.
type fault int

const (
	faultTransient   fault = iota // may go away by itself
	faultThrottled                // too many requests
	faultDenied                   // a permission is missing
	faultNoBucket                 // there is no such bucket
	faultGone                     // there is no such object version
	faultChanged                  // a precondition failed: it was written meanwhile
	faultKey                      // KMS does not let a key be used
	faultArchived                 // it has to be restored first
	faultUnsupported              // the server does not have the operation
	faultRejected                 // anything else that will not go away
)

var faultCodes = map[string]fault{
	"SlowDown": faultThrottled, "ServiceUnavailable": faultThrottled, "Throttling": faultThrottled,
	"ThrottlingException": faultThrottled, "KMS.ThrottlingException": faultThrottled,
	"RequestLimitExceeded": faultThrottled, "TooManyRequests": faultThrottled,
	// Credentials and clocks, which the SDK and the host set right.
	"ExpiredToken": faultTransient, "InvalidToken": faultTransient, "RequestTimeTooSkewed": faultTransient, "RequestTimeout": faultTransient,
	"NoSuchBucket": faultNoBucket, "InvalidObjectState": faultArchived,
	"NoSuchUpload": faultChanged, "NotImplemented": faultUnsupported,
	"KMS.DisabledException": faultKey, "KMS.KMSInvalidStateException": faultKey, "KMS.NotFoundException": faultKey,
	"KMS.InvalidKeyUsageException": faultKey, "KMS.KeyUnavailableException": faultTransient, "KMS.DependencyTimeoutException": faultTransient,
}

// classify says what an error of S3 means. HEAD answers have no body, so there
// the status is all there is.
func classify(err error) fault {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		if f, ok := faultCodes[e.ErrorCode()]; ok {
			return f
		}
	}
	if errors.Is(err, errChanged) {
		return faultChanged
	}
	e, ok := errors.AsType[*smithyhttp.ResponseError](err)
	if !ok || e.HTTPStatusCode() == 0 {
		return faultTransient // no answer
	}
	switch status := e.HTTPStatusCode(); {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return faultDenied
	case status == http.StatusNotFound:
		return faultGone
	case status == http.StatusConflict, status == http.StatusPreconditionFailed:
		return faultChanged
	case status == http.StatusMethodNotAllowed, status == http.StatusNotImplemented:
		return faultUnsupported
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return faultThrottled
	case status >= 500:
		return faultTransient
	}
	return faultRejected
}

// words returns what S3 said, without the SDK's request details.
func words(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return strings.TrimSuffix(e.ErrorCode()+": "+e.ErrorMessage(), ": ")
	}
	return err.Error()
}

// hasCode reports whether err is an API error with the code.
func hasCode(err error, code string) bool {
	e, ok := errors.AsType[smithy.APIError](err)
	return ok && e.ErrorCode() == code
}

// stopError stops a whole bucket: what is missing concerns every object in it.
type stopError struct{ cause string }

func (e *stopError) Error() string { return e.cause }

// needs names the permissions that an operation needs.
var needs = map[string]string{
	"ListObjectsV2":              "s3:ListBucket",
	"ListObjectVersions":         "s3:ListBucketVersions",
	"GetBucketVersioning":        "s3:GetBucketVersioning",
	"HeadObject":                 "s3:GetObject, s3:GetObjectVersion",
	"UpdateObjectEncryption":     "s3:PutObject and s3:UpdateObjectEncryption, and kms:Encrypt, kms:Decrypt, kms:GenerateDataKey and kms:ReEncrypt* on both keys (an object lock that s3:GetObjectRetention and s3:GetObjectLegalHold do not let us see is denied in the same words)",
	"CopyObject":                 "s3:GetObject, s3:GetObjectTagging, s3:GetObjectAnnotation, s3:PutObject, s3:PutObjectTagging, s3:PutObjectAcl and s3:PutObjectAnnotation, kms:Decrypt on the old key and kms:GenerateDataKey on the new one",
	"multipart copy":             "s3:GetObject, s3:PutObject, s3:PutObjectTagging, s3:PutObjectAcl and s3:AbortMultipartUpload, kms:Decrypt on both keys and kms:GenerateDataKey on the new one",
	"GetObjectAcl":               "s3:GetObjectAcl, s3:GetObjectVersionAcl",
	"GetObjectTagging":           "s3:GetObjectTagging, s3:GetObjectVersionTagging",
	"ListObjectAnnotations":      "s3:ListObjectAnnotations",
	"GetBucketOwnershipControls": "s3:GetBucketOwnershipControls",
	"GetObjectLockConfiguration": "s3:GetBucketObjectLockConfiguration",
	"GetBucketAcl":               "s3:GetBucketAcl",
	"ReEncrypt":                  "kms:ReEncryptFrom on the old key and kms:ReEncryptTo on the new one, with the data key's encryption context",
	"PutObject":                  "s3:GetObject, s3:PutObject, s3:PutObjectTagging and s3:PutObjectAcl, and kms:Decrypt and kms:GenerateDataKey on the object's key",
	"probe":                      "s3:PutObject, s3:GetObject, s3:GetObjectTagging, s3:PutObjectTagging, s3:DeleteObject and s3:UpdateObjectEncryption on the state bucket, and kms:Encrypt, kms:Decrypt, kms:GenerateDataKey and kms:ReEncrypt* on the new key",
}

// bucketError turns an error that concerns a whole bucket into a stopError where
// waiting does not help.
func bucketError(operation, bucket string, err error) error {
	switch classify(err) {
	case faultDenied:
		return &stopError{fmt.Sprintf("access to bucket %s is denied (%s); needed: %s", bucket, words(err), needs[operation])}
	case faultNoBucket:
		return &stopError{fmt.Sprintf("there is no bucket %s", bucket)}
	default:
		return fmt.Errorf("%s in bucket %s: %w", operation, bucket, err)
	}
}

// facts are what a slice needs to know about its bucket.
type facts struct {
	// versioned is whether the bucket has versions, now or from earlier.
	versioned bool
	// For copies only:
	acls        bool   // objects may have ACLs
	owner       string // canonical id of the bucket's owner
	defaultLock bool
}

// bucketFacts reads what a method needs to know about a bucket.
func (e *Engine) bucketFacts(ctx context.Context, s spec, m method) (f facts, err error) {
	if f.versioned, err = e.versioned(ctx, s.Bucket); err != nil {
		return f, err
	}
	if s.Envelopes != "" { // whatever the method is, they are moved by copies
		m = copyMethod{}
	}
	return f, m.readBucket(ctx, e, s.Bucket, &f)
}

// versioned reports whether a bucket has versions, now or from earlier.
func (e *Engine) versioned(ctx context.Context, bucket string) (bool, error) {
	v, err := e.opt.S3.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: &bucket, ExpectedBucketOwner: &e.opt.Account})
	if err != nil {
		return false, bucketError("GetBucketVersioning", bucket, err)
	}
	return v.Status != "", nil
}

// escapeKey escapes every byte of a key that could mean something in a URL; slashes stay.
func escapeKey(key string) string {
	return strings.ReplaceAll(strings.ReplaceAll(url.QueryEscape(key), "+", "%20"), "%2F", "/")
}

// copySource returns x-amz-copy-source for an object version.
func copySource(bucket, key, version string) string {
	source := bucket + "/" + escapeKey(key)
	if version != "" {
		source += "?versionId=" + url.QueryEscape(version)
	}
	return source
}

// optional returns nil for "": the SDK then leaves the member out.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
