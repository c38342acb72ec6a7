package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"golang.org/x/sync/errgroup"
)

// copyParts copies an object that is too large for CopyObject onto itself, part
// by part, and checks the copy. CreateMultipartUpload copies nothing, so
// everything but the bytes is sent again. An upload that fails is aborted.
func (m *mover) copyParts(ctx context.Context, en entry, h *s3.HeadObjectOutput, to goal, g grants) (err error) {
	tags, err := m.tags(ctx, en.key, aws.ToString(h.VersionId))
	if err != nil {
		return err
	}
	in := &s3.CreateMultipartUploadInput{
		Bucket: &m.Bucket, Key: &en.key, ExpectedBucketOwner: &m.e.opt.Account,
		ServerSideEncryption: to.ServerSideEncryption, SSEKMSKeyId: optional(to.key), BucketKeyEnabled: to.BucketKeyEnabled,
		Metadata: to.Metadata, Tagging: tags,
		CacheControl: to.CacheControl, ContentDisposition: to.ContentDisposition, ContentEncoding: to.ContentEncoding,
		ContentLanguage: to.ContentLanguage, ContentType: to.ContentType,
		StorageClass: to.StorageClass, WebsiteRedirectLocation: to.WebsiteRedirectLocation, ChecksumAlgorithm: en.checksum,
		GrantFullControl: g.full, GrantRead: g.read, GrantReadACP: g.readACP, GrantWriteACP: g.writeACP,
	}
	if en.checksum != "" {
		in.ChecksumType = h.ChecksumType
	}
	created, err := m.e.opt.S3.CreateMultipartUpload(ctx, in, verbatimExpires(to.ExpiresString))
	if err != nil {
		return &operationError{"multipart copy", err}
	}
	defer func() {
		if err == nil || errors.Is(err, errDiffers) {
			return
		}
		// Also where ctx is over: parts left behind cost money for ever.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if _, abortErr := m.e.opt.S3.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
			Bucket: &m.Bucket, Key: &en.key, UploadId: created.UploadId, ExpectedBucketOwner: &m.e.opt.Account,
		}); abortErr != nil && classify(abortErr) != faultGone {
			err = errors.Join(err, fmt.Errorf("abort upload %s: %w", aws.ToString(created.UploadId), abortErr))
		}
	}()
	parts, err := m.copyRanges(ctx, en.key, h, created.UploadId)
	if err != nil {
		return err
	}
	if err := m.gate(ctx); err != nil { // the copying may have taken hours
		return err
	}
	done, err := m.e.opt.S3.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &m.Bucket, Key: &en.key, UploadId: created.UploadId, ExpectedBucketOwner: &m.e.opt.Account,
		IfMatch: h.ETag, ChecksumType: in.ChecksumType, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	if err != nil {
		return &operationError{"multipart copy", err}
	}
	_, err = m.checkCopy(ctx, en.key, to, aws.ToString(done.ETag), aws.ToString(done.VersionId))
	return err
}

// copyRanges copies the parts. All but one of those in flight take a free slot of the
// engine's: large objects go faster when there is room, within the bound on concurrency.
func (m *mover) copyRanges(ctx context.Context, key string, h *s3.HeadObjectOutput, upload *string) ([]types.CompletedPart, error) {
	size := aws.ToInt64(h.ContentLength)
	step := partSize(size, m.e.opt.PartSize)
	parts := make([]types.CompletedPart, (size+step-1)/step)
	source := copySource(m.Bucket, key, aws.ToString(h.VersionId))
	one := func(ctx context.Context, i int) error {
		if err := m.rate.wait(ctx); err != nil {
			return err
		}
		from := int64(i) * step
		number := aws.Int32(int32(i + 1))
		var out *s3.UploadPartCopyOutput
		err := m.patiently(ctx, func() (err error) {
			out, err = m.e.opt.S3.UploadPartCopy(ctx, &s3.UploadPartCopyInput{
				Bucket: &m.Bucket, Key: &key, UploadId: upload, PartNumber: number,
				CopySource: &source, CopySourceIfMatch: h.ETag, CopySourceRange: aws.String(fmt.Sprintf("bytes=%d-%d", from, min(from+step, size)-1)),
				ExpectedBucketOwner: &m.e.opt.Account, ExpectedSourceBucketOwner: &m.e.opt.Account,
			}, m.e.throttlesBack)
			return err
		})
		if err != nil {
			return &operationError{"multipart copy", err}
		}
		r := out.CopyPartResult
		if r == nil {
			return &operationError{"multipart copy", errors.New("answer has no result")}
		}
		parts[i] = types.CompletedPart{
			PartNumber: number, ETag: r.ETag, ChecksumCRC32: r.ChecksumCRC32, ChecksumCRC32C: r.ChecksumCRC32C,
			ChecksumCRC64NVME: r.ChecksumCRC64NVME, ChecksumSHA1: r.ChecksumSHA1, ChecksumSHA256: r.ChecksumSHA256,
		}
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	var err error
	for i := range parts {
		if gctx.Err() != nil || err != nil {
			break
		}
		if m.tryEnter() {
			g.Go(func() error {
				defer m.leave()
				return one(gctx, i)
			})
		} else {
			err = one(gctx, i)
		}
	}
	// Where one of the others failed, what this one says is only that it was cancelled.
	if first := g.Wait(); first != nil {
		err = first
	}
	if err == nil {
		err = ctx.Err()
	}
	return parts, err
}

// tags returns an object's tags as CreateMultipartUpload takes them. HEAD's count
// is not asked: it is only there for those who may read the tags.
func (m *mover) tags(ctx context.Context, key, version string) (*string, error) {
	out, err := m.e.opt.S3.GetObjectTagging(ctx, &s3.GetObjectTaggingInput{
		Bucket: &m.Bucket, Key: &key, VersionId: optional(version), ExpectedBucketOwner: &m.e.opt.Account,
	}, m.e.throttlesBack)
	if err != nil {
		return nil, &operationError{"GetObjectTagging", err}
	}
	values := url.Values{}
	for _, t := range out.TagSet {
		values.Set(aws.ToString(t.Key), aws.ToString(t.Value))
	}
	return optional(values.Encode()), nil
}

// annotated reports whether an object has annotations. A server that does not
// know them has none.
func (m *mover) annotated(ctx context.Context, key, version string) (bool, error) {
	out, err := m.e.opt.S3.ListObjectAnnotations(ctx, &s3.ListObjectAnnotationsInput{
		Bucket: &m.Bucket, Key: &key, VersionId: optional(version), ExpectedBucketOwner: &m.e.opt.Account, MaxAnnotationResults: aws.Int32(1),
	}, m.e.throttlesBack)
	switch {
	case err != nil && classify(err) == faultUnsupported:
		return false, nil
	case err != nil:
		return false, &operationError{"ListObjectAnnotations", err}
	}
	return len(out.Annotations) > 0, nil
}

// verbatimExpires sends an Expires header as it was: it need not be a date, and
// the SDK's member for it takes nothing else.
func verbatimExpires(value *string) func(*s3.Options) {
	return func(o *s3.Options) {
		if value != nil {
			o.APIOptions = append(slices.Clip(o.APIOptions), smithyhttp.SetHeaderValue("Expires", *value))
		}
	}
}

// resendable reports whether metadata reads back as it was written. S3 shows
// what is not printable ASCII in an encoding of its own (RFC 2047), and whether it
// takes that back in is not documented.
func resendable(metadata map[string]string) bool {
	for value := range maps.Values(metadata) {
		odd := strings.IndexFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) >= 0
		if odd || strings.HasPrefix(value, "=?") {
			return false
		}
	}
	return true
}

// partSize returns how large the parts of a copy are: as wished, or larger where
// 10,000 of them would not hold the object.
func partSize(size, wished int64) int64 {
	const most = 10_000
	return max(wished, (size+most-1)/most)
}
