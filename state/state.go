// Package state stores JSON documents on S3 with conditional writes, and streams
// (reports) as blobs.
//
// A document is read with its ETag and written on the condition that the ETag is
// unchanged, so that of two concurrent writers one gets ErrConflict. Every document
// begins with its schema and version and with a token of the write that made it:
//
//	{"schema":"cmkeeper.alias.v1","write":"5QK2…", …}
//
// The token makes the ETag of each write unique, even if two writers store the
// same content. It also identifies a write whose answer was lost: the SDK repeats
// it, and the repetition fails with "precondition failed" because of the first try.
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
	// ErrConflict: the document was changed, created or deleted since it was read.
	ErrConflict = errors.New("document was changed by somebody else")
	// ErrUnreadable: there is such a document, and this build cannot read it: it is
	// malformed, of another kind, or has a newer schema. The error names it.
	ErrUnreadable = errors.New("document cannot be read")
	// ErrNewerSchema: a newer build wrote the document, and this build must not change it.
	ErrNewerSchema = errors.New("document has a newer schema than this build knows")
)

// Document is a JSON object with a schema.
type Document interface {
	// Schema names the kind of document ("alias") and the version that this build
	// writes, from 1: stored as "cmkeeper.alias.v1". The version rises with every
	// change that an older build would lose by rewriting the document. Older
	// versions are decoded into today's type. It may depend on what the document holds,
	// so that older builds can go on with those that hold nothing new.
	Schema() (name string, version int)
}

// Store holds documents and blobs below a prefix of one bucket. It is safe for
// concurrent use. Keys are relative to the prefix; parts of a key that come
// from outside go through Segment.
type Store struct {
	client         S3
	bucket, prefix string
	owner          *string
	// skew is how far S3's clock is ahead of ours, according to the last answer.
	skew  atomic.Int64
	turns turns
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

// Now is the time by S3's clock, to a second or so, and not after it: the server time of
// the last document read or written, advanced by our own clock. Workers whose own clocks
// differ agree on it.
func (s *Store) Now() time.Time { return time.Now().Add(time.Duration(s.skew.Load())) }

// observeClock takes S3's clock from an answer.
func (s *Store) observeClock(answer middleware.Metadata) {
	if skew, ok := awsmiddleware.GetAttemptSkew(answer); ok {
		s.skew.Store(int64(skew))
	}
}

// observeClockOf takes S3's clock from an answer that is an error.
func (s *Store) observeClockOf(err error) {
	if e, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && e.Response != nil {
		if server, err := http.ParseTime(e.Response.Header.Get("Date")); err == nil {
			s.skew.Store(int64(time.Until(server)))
		}
	}
}

// Get decodes the document at key into doc, which must be a pointer to a zero
// value, and returns its ETag. Errors: ErrNotFound, ErrUnreadable and, with it,
// ErrNewerSchema. After an error doc is of no use.
func (s *Store) Get(ctx context.Context, key string, doc Document) (etag string, err error) {
	r, err := s.read(ctx, key)
	if err != nil {
		return "", err
	}
	if err := decode(r.body, doc); err != nil {
		return "", unreadable{fmt.Errorf("decode document %s: %w", s.Address(key), err)}
	}
	return r.etag, nil
}

// unreadable is ErrUnreadable.
type unreadable struct{ error }

func (u unreadable) Is(target error) bool { return target == ErrUnreadable }
func (u unreadable) Unwrap() error        { return u.error }

// Documents reads the documents below a prefix, in the byte order of their keys; one
// that is deleted meanwhile is left out. A document that is ErrUnreadable does not end
// the sequence, any other error does.
func Documents[T any, P interface {
	*T
	Document
}](ctx context.Context, s *Store, prefix string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for key, err := range s.Keys(ctx, prefix) {
			var doc, none T
			if err == nil {
				_, err = s.Get(ctx, key, P(&doc))
			}
			switch {
			case errors.Is(err, ErrNotFound):
			case err == nil && !yield(doc, nil), err != nil && (!yield(none, err) || !errors.Is(err, ErrUnreadable)):
				return
			}
		}
	}
}

// Put stores doc and returns its new ETag. If etag is "", it creates the document,
// otherwise it replaces the document that has this ETag. If there already is a
// document, or it has another ETag, or it no longer exists, nothing is written and
// the error is ErrConflict.
//
// If the answer to a write is lost, Put reads the document and succeeds if the
// write took effect. It returns ErrConflict for such a write only if another writer
// has replaced the document since, so the caller's reaction to a conflict must be
// safe to do twice.
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
		s.observeClock(out.ResultMetadata)
		return aws.ToString(out.ETag), nil
	case !isConflict(err) && !isNotFound(err):
		return "", fmt.Errorf("put document %s: %w", s.Address(key), err)
	}
	// Refused because of another writer, or because our own write was sent twice?
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
// unconditionally. A document that does not exist is no error. Errors: ErrConflict.
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
	// As in Put: our own delete, sent twice, finds nothing.
	if _, err := s.read(ctx, key); errors.Is(err, ErrNotFound) {
		return nil
	}
	return fmt.Errorf("delete document %s: %w", s.Address(key), ErrConflict)
}

// Listed is a document or blob as a listing shows it.
type Listed struct {
	Key string
	// ETag is the one that Get and Put return for the same content.
	ETag string
}

// Keys lists the keys of all documents and blobs below a prefix, in byte order. An
// error ends the sequence.
func (s *Store) Keys(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for o, err := range s.List(ctx, prefix) {
			if !yield(o.Key, err) {
				return
			}
		}
	}
}

// List lists all documents and blobs below a prefix, in the byte order of their keys. It
// costs one request for a thousand of them. An error ends the sequence.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[Listed, error] {
	return func(yield func(Listed, error) bool) {
		in := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: aws.String(s.prefix + prefix), ExpectedBucketOwner: s.owner}
		pages := s3.NewListObjectsV2Paginator(s.client, in)
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(Listed{}, fmt.Errorf("list documents %s: %w", s.Address(prefix), err))
				return
			}
			for _, o := range page.Contents {
				if !yield(Listed{Key: strings.TrimPrefix(aws.ToString(o.Key), s.prefix), ETag: aws.ToString(o.ETag)}, nil) {
					return
				}
			}
		}
	}
}

// Folders lists the folders directly below a prefix, which ends with a slash, in
// byte order ("a" for a key prefix + "a/x"). It costs one request for a thousand
// folders, whatever they contain. An error ends the sequence.
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

// Segment encodes any text (an alias name, a bucket) as one segment of a key:
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
	s.observeClock(out.ResultMetadata)
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
		s.observeClockOf(err)
		return nil, fmt.Errorf("get %s: %w", s.Address(key), ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("get %s: %w", s.Address(key), err)
	}
	return out, nil
}

// Address is where a key is: "s3://bucket/prefix/key".
func (s *Store) Address(key string) string { return "s3://" + s.bucket + "/" + s.prefix + key }

// isNotFound reports a missing object. A missing bucket is a fault, not one of these.
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
		return nil, errors.New("document is not a JSON object")
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
	if !ok || err != nil || stored < 1 {
		return fmt.Errorf("schema is %q, not %q", head.Schema, schema(name, version))
	}
	malformed := json.Unmarshal(body, doc)
	if _, version = doc.Schema(); stored > version {
		return fmt.Errorf("schema is %q: %w", head.Schema, ErrNewerSchema)
	}
	return malformed
}

func decodeHead(body []byte) (h head, err error) {
	err = json.Unmarshal(body, &h)
	return h, err
}

func schema(name string, version int) string {
	return "cmkeeper." + name + ".v" + strconv.Itoa(version)
}
