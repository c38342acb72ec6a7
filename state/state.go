// Package state keeps JSON documents on S3 with conditional writes, and the
// streams (reports) beside them.
//
// A document is read with its ETag and written back under the condition that it
// still has it, so that of two writers one learns that it lost. Every document
// begins with its schema and version and with a token of the write that made it:
//
//	{"schema":"cmkeeper.alias.v1","write":"5QK2…", …}
//
// The token makes each write's ETag its own, even where two writers store the
// same content, and tells a write whose answer was lost, and which the SDK then
// repeated into its own "precondition failed", from one that really lost.
package state

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// S3 is what a Store calls; *s3.Client has it.
type S3 interface {
	GetObject(context.Context, *s3.GetObjectInput, ...func(*s3.Options)) (*s3.GetObjectOutput, error)
	PutObject(context.Context, *s3.PutObjectInput, ...func(*s3.Options)) (*s3.PutObjectOutput, error)
	DeleteObject(context.Context, *s3.DeleteObjectInput, ...func(*s3.Options)) (*s3.DeleteObjectOutput, error)
	ListObjectsV2(context.Context, *s3.ListObjectsV2Input, ...func(*s3.Options)) (*s3.ListObjectsV2Output, error)
	CreateMultipartUpload(context.Context, *s3.CreateMultipartUploadInput, ...func(*s3.Options)) (*s3.CreateMultipartUploadOutput, error)
	UploadPart(context.Context, *s3.UploadPartInput, ...func(*s3.Options)) (*s3.UploadPartOutput, error)
	CompleteMultipartUpload(context.Context, *s3.CompleteMultipartUploadInput, ...func(*s3.Options)) (*s3.CompleteMultipartUploadOutput, error)
	AbortMultipartUpload(context.Context, *s3.AbortMultipartUploadInput, ...func(*s3.Options)) (*s3.AbortMultipartUploadOutput, error)
}

// What a caller may decide on, with errors.Is.
var (
	// ErrNotFound: there is no such document.
	ErrNotFound = errors.New("document not found")
	// ErrConflict: the document is no longer the one that the condition names.
	ErrConflict = errors.New("document was changed by somebody else")
	// ErrNewerSchema: the document was written by a newer build, and this one must leave it alone.
	ErrNewerSchema = errors.New("document has a newer schema than this build knows")
)

// Document is a JSON object with a schema.
type Document interface {
	// Schema names the kind of document ("alias") and the version that this build
	// writes, from 1: stored as "cmkeeper.alias.v1". The version rises with every
	// change that an older build would lose by rewriting the document. Older
	// versions are decoded into today's type.
	Schema() (name string, version int)
}

// Store holds documents and blobs below a prefix of one bucket. It is safe for
// concurrent use. Keys are relative to the prefix; parts of a key that come
// from outside go through Segment.
type Store struct {
	client         S3
	bucket, prefix string
	owner          *string
	// skew is how far S3's clock is ahead of ours, as the last answer had it.
	skew atomic.Int64
}

// New returns a store in the bucket below prefix ("cmkeeper/"; "" is the whole
// bucket). Every call names owner, a 12-digit account id, as the bucket's
// expected owner; "" leaves that unchecked.
func New(client S3, bucket, prefix, owner string) *Store {
	s := &Store{client: client, bucket: bucket, prefix: prefix}
	if owner != "" {
		s.owner = &owner
	}
	return s
}

// Now is the time by S3's clock, to a second or so: that of the last document read
// or written, moved on by our own clock. It is what a fleet agrees on whose clocks
// differ.
func (s *Store) Now() time.Time { return time.Now().Add(time.Duration(s.skew.Load())) }

// heard takes S3's clock from an answer.
func (s *Store) heard(answer middleware.Metadata) {
	if skew, ok := awsmiddleware.GetAttemptSkew(answer); ok {
		s.skew.Store(int64(skew))
	}
}

// Get decodes the document at key into doc, which must be a pointer to a zero
// value, and returns its ETag. Errors: ErrNotFound, ErrNewerSchema; a document
// that is malformed or of another kind is an error that names it.
func (s *Store) Get(ctx context.Context, key string, doc Document) (etag string, err error) {
	r, err := s.read(ctx, key)
	if err != nil {
		return "", err
	}
	if err := decode(r.body, doc); err != nil {
		return "", fmt.Errorf("decode document %s: %w", s.Address(key), err)
	}
	return r.etag, nil
}

// Put stores doc and returns its new ETag. Where etag is "" the document is
// created, else the one that has this ETag is replaced. Where there is another
// one (or none any more) nothing is written and the error is ErrConflict.
//
// A write whose answer was lost counts as done if it can be seen to have
// happened. Only where yet another writer replaced it at once is it reported as
// ErrConflict, so what follows a conflict must be safe to do twice.
func (s *Store) Put(ctx context.Context, key string, doc Document, etag string) (newETag string, err error) {
	token := rand.Text()
	body, err := encode(doc, token)
	if err != nil {
		return "", fmt.Errorf("encode document %s: %w", s.Address(key), err)
	}
	in := &s3.PutObjectInput{
		Bucket: &s.bucket, Key: aws.String(s.prefix + key), ExpectedBucketOwner: s.owner,
		Body: bytes.NewReader(body), ContentType: aws.String("application/json"),
	}
	if etag == "" {
		in.IfNoneMatch = aws.String("*")
	} else {
		in.IfMatch = &etag
	}
	out, err := s.client.PutObject(ctx, in)
	switch {
	case err == nil:
		s.heard(out.ResultMetadata)
		return aws.ToString(out.ETag), nil
	case !isConflict(err) && !isNotFound(err):
		return "", fmt.Errorf("put document %s: %w", s.Address(key), err)
	}
	// Refused: by somebody else's write, or by our own, sent twice?
	r, readErr := s.read(ctx, key)
	switch {
	case errors.Is(readErr, ErrNotFound):
		return "", fmt.Errorf("put document %s: %w", s.Address(key), ErrConflict)
	case readErr != nil:
		return "", fmt.Errorf("put document %s: find out who wrote it: %w", s.Address(key), readErr)
	}
	if head, err := decodeHead(r.body); err == nil && head.Write == token {
		return r.etag, nil
	}
	return "", fmt.Errorf("put document %s: %w", s.Address(key), ErrConflict)
}

// Delete removes the document at key if it still has the ETag; "" removes it
// whatever it is. A document that is gone already is no error. Errors: ErrConflict.
func (s *Store) Delete(ctx context.Context, key, etag string) error {
	in := &s3.DeleteObjectInput{Bucket: &s.bucket, Key: aws.String(s.prefix + key), ExpectedBucketOwner: s.owner}
	if etag != "" {
		in.IfMatch = &etag
	}
	_, err := s.client.DeleteObject(ctx, in)
	switch {
	case err == nil || isNotFound(err):
		return nil
	case !isConflict(err):
		return fmt.Errorf("delete document %s: %w", s.Address(key), err)
	}
	// The same doubt as in Put: our own delete, sent twice, finds nothing.
	if _, err := s.read(ctx, key); errors.Is(err, ErrNotFound) {
		return nil
	}
	return fmt.Errorf("delete document %s: %w", s.Address(key), ErrConflict)
}

// Keys lists, in the byte order of their keys, what is stored below a prefix:
// documents and blobs. An error ends the sequence.
func (s *Store) Keys(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		in := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: aws.String(s.prefix + prefix), ExpectedBucketOwner: s.owner}
		pages := s3.NewListObjectsV2Paginator(s.client, in)
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield("", fmt.Errorf("list documents %s: %w", s.Address(prefix), err))
				return
			}
			for _, o := range page.Contents {
				if !yield(strings.TrimPrefix(aws.ToString(o.Key), s.prefix), nil) {
					return
				}
			}
		}
	}
}

// Folders lists, in byte order, the segments that follow a prefix, which ends with
// a slash, in the keys that have more behind them ("a" of prefix + "a/x"). It costs a
// request for a thousand folders, however much is in them. An error ends the sequence.
func (s *Store) Folders(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		in := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: aws.String(s.prefix + prefix), Delimiter: aws.String("/"), ExpectedBucketOwner: s.owner}
		pages := s3.NewListObjectsV2Paginator(s.client, in)
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield("", fmt.Errorf("list folders %s: %w", s.Address(prefix), err))
				return
			}
			for _, p := range page.CommonPrefixes {
				if !yield(strings.TrimSuffix(strings.TrimPrefix(aws.ToString(p.Prefix), s.prefix+prefix), "/"), nil) {
					return
				}
			}
		}
	}
}

// Segment turns any text (an alias name, a bucket) into one segment of a key:
// letters, digits, "-" and "_" stay, every other byte becomes "." and two hex
// digits. Different texts give different segments.
func Segment(text string) string {
	var b strings.Builder
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, ".%02X", c)
		}
	}
	return b.String()
}

// object is a stored object, with the times of S3's own clock.
type object struct {
	body          []byte
	etag          string
	modified, now time.Time
}

func (s *Store) read(ctx context.Context, key string) (object, error) {
	out, err := s.get(ctx, key)
	if err != nil {
		return object{}, err
	}
	defer func() { _ = out.Body.Close() }()
	body, err := io.ReadAll(out.Body)
	if err != nil {
		return object{}, fmt.Errorf("read document %s: %w", s.Address(key), err)
	}
	s.heard(out.ResultMetadata)
	now, ok := awsmiddleware.GetServerTime(out.ResultMetadata)
	if !ok {
		now = time.Now()
	}
	return object{body: body, etag: aws.ToString(out.ETag), modified: aws.ToTime(out.LastModified), now: now}, nil
}

func (s *Store) get(ctx context.Context, key string) (*s3.GetObjectOutput, error) {
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{
		Bucket: &s.bucket, Key: aws.String(s.prefix + key), ExpectedBucketOwner: s.owner,
	})
	switch {
	case isNotFound(err):
		return nil, fmt.Errorf("get %s: %w", s.Address(key), ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("get %s: %w", s.Address(key), err)
	}
	return out, nil
}

// Address is where a key is: "s3://bucket/prefix/key".
func (s *Store) Address(key string) string { return "s3://" + s.bucket + "/" + s.prefix + key }

// isNotFound tells a missing object from a missing bucket, which is a fault.
func isNotFound(err error) bool {
	e, ok := errors.AsType[smithy.APIError](err)
	return ok && e.ErrorCode() == "NoSuchKey"
}

func isConflict(err error) bool {
	e, ok := errors.AsType[*smithyhttp.ResponseError](err)
	return ok && (e.HTTPStatusCode() == http.StatusPreconditionFailed || e.HTTPStatusCode() == http.StatusConflict)
}

// head is what every document begins with.
type head struct {
	Schema string `json:"schema"`
	Write  string `json:"write"`
}

func encode(doc Document, token string) ([]byte, error) {
	name, version := doc.Schema()
	first, err := json.Marshal(head{Schema: schema(name, version), Write: token})
	if err != nil {
		return nil, err
	}
	rest, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	if rest[0] != '{' {
		return nil, errors.New("document is no JSON object")
	}
	if members := rest[1:]; len(members) > 1 { // more than the closing brace
		first = append(first[:len(first)-1], ',')
		return append(first, members...), nil
	}
	return first, nil
}

func decode(body []byte, doc Document) error {
	head, err := decodeHead(body)
	if err != nil {
		return err
	}
	name, version := doc.Schema()
	rest, ok := strings.CutPrefix(head.Schema, "cmkeeper."+name+".v")
	stored, err := strconv.Atoi(rest)
	switch {
	case !ok || err != nil || stored < 1:
		return fmt.Errorf("schema is %q, not %q", head.Schema, schema(name, version))
	case stored > version:
		return fmt.Errorf("schema is %q: %w", head.Schema, ErrNewerSchema)
	}
	return json.Unmarshal(body, doc)
}

func decodeHead(body []byte) (h head, err error) {
	err = json.Unmarshal(body, &h)
	return h, err
}

func schema(name string, version int) string {
	return "cmkeeper." + name + ".v" + strconv.Itoa(version)
}
