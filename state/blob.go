package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// partSize is how much of a blob is held in memory and sent at a time. S3 accepts
// 10,000 parts of at least 5 MiB, so a blob may have 50 GB.
const partSize = 5 << 20

// PutBlob stores a stream of any length that is not a document (a report: CSV, JSON
// lines), replacing the one at key, and returns its address ("s3://bucket/key"). If
// body fails, nothing is changed.
func (s *Store) PutBlob(ctx context.Context, key, contentType string, body io.Reader) (address string, err error) {
	part, err := fill(nil, body)
	switch {
	case err != nil:
	case len(part) == partSize:
		err = s.putParts(ctx, key, contentType, part, body)
	default: // all of it
		_, err = s.client.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &s.bucket, Key: aws.String(s.prefix + key), ExpectedBucketOwner: s.owner,
			Body: bytes.NewReader(part), ContentType: &contentType,
		})
	}
	if err != nil {
		return "", fmt.Errorf("put blob %s: %w", s.Address(key), err)
	}
	return s.Address(key), nil
}

// putParts uploads part, which is full, and then the rest of body, reusing part.
func (s *Store) putParts(ctx context.Context, key, contentType string, part []byte, body io.Reader) (err error) {
	name := aws.String(s.prefix + key)
	upload, err := s.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: &s.bucket, Key: name, ExpectedBucketOwner: s.owner, ContentType: &contentType,
	})
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		// Parts that are left behind cost money until deleted: abort even if ctx is done.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_, abortErr := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
			Bucket: &s.bucket, Key: name, ExpectedBucketOwner: s.owner, UploadId: upload.UploadId,
		})
		if abortErr != nil {
			err = errors.Join(err, fmt.Errorf("abort upload: %w", abortErr))
		}
	}()
	var done []types.CompletedPart
	for len(part) > 0 {
		number := int32(len(done) + 1)
		out, err := s.client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: &s.bucket, Key: name, ExpectedBucketOwner: s.owner, UploadId: upload.UploadId,
			PartNumber: &number, Body: bytes.NewReader(part),
		})
		if err != nil {
			return fmt.Errorf("part %d: %w", number, err)
		}
		// S3 refuses the completion unless it repeats the checksum that the SDK chose.
		done = append(done, types.CompletedPart{
			PartNumber: &number, ETag: out.ETag,
			ChecksumCRC32: out.ChecksumCRC32, ChecksumCRC32C: out.ChecksumCRC32C, ChecksumCRC64NVME: out.ChecksumCRC64NVME,
		})
		if part, err = fill(part, body); err != nil {
			return err
		}
	}
	_, err = s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &s.bucket, Key: name, ExpectedBucketOwner: s.owner, UploadId: upload.UploadId,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
	})
	return err
}

// fill reads a part, partSize bytes or the rest of r, into p's memory, which grows
// as needed. Unlike io.ReadFull it does not mistake a reader's own
// io.ErrUnexpectedEOF, a broken stream, for the end.
func fill(p []byte, r io.Reader) ([]byte, error) {
	p = p[:0]
	for len(p) < partSize {
		if len(p) == cap(p) {
			p = slices.Grow(p, min(max(len(p), 32<<10), partSize-len(p)))
		}
		n, err := r.Read(p[len(p):min(cap(p), partSize)])
		p = p[:len(p)+n]
		if err == io.EOF {
			return p, nil
		}
		if err != nil {
			return p, err
		}
	}
	return p, nil
}

// GetBlob opens what PutBlob stored; the caller closes it. Errors: ErrNotFound.
func (s *Store) GetBlob(ctx context.Context, key string) (io.ReadCloser, error) {
	out, err := s.get(ctx, key)
	if err != nil {
		return nil, err
	}
	return out.Body, nil
}
