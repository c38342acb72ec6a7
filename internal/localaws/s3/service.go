// Package s3 is the S3 of localaws: general purpose buckets in memory, over
// S3's own REST/XML protocol, path style and virtual-host style.
//
// Objects are really encrypted. The bytes of each object are sealed with
// AES-256-GCM under a data key of their own; that key is sealed under a second
// one, which is wrapped by KMS (SSE-KMS, DSSE-KMS), by a key of the service
// (SSE-S3) or is the customer's own (SSE-C). No key is kept unwrapped beyond
// the call that needed it, so an object whose KMS key is disabled or deleted
// can not be read, and UpdateObjectEncryption changes the key without touching
// a byte of the data.
//
// Whatever is not modelled (an operation, a subresource, an x-amz- header)
// answers NotImplemented: no request is ever taken for another one.
package s3

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// Keys is what S3 asks of KMS. Its errors are *wire.Error with KMS's own codes.
type Keys interface {
	GenerateDataKey(c wire.Caller, keyID string, encryptionContext map[string]string) (plaintext, ciphertext []byte, keyARN string, err error)
	Decrypt(c wire.Caller, ciphertext []byte, encryptionContext map[string]string) (plaintext []byte, keyARN string, err error)
	ReEncrypt(c wire.Caller, ciphertext []byte, from map[string]string, keyID string, to map[string]string) (out []byte, keyARN string, err error)
	ResolveKey(keyID string) (arn string, err error)
}

// Config says where a Service is and what its limits are. The zero value of a
// limit is AWS's own.
type Config struct {
	// Account owns the buckets that a caller without an account creates.
	Account string
	// Region is where all buckets are.
	Region string
	// Keys is the KMS of the same account and Region.
	Keys Keys
	// Trail records what changes buckets. Nil discards it.
	Trail *trail.Recorder
	// MaxCopySize is the largest source, in bytes, that CopyObject takes, and
	// the largest range of UploadPartCopy (5 GiB).
	MaxCopySize int64
	// MinPartSize is the smallest size, in bytes, of a part that is not the
	// last one (5 MiB).
	MinPartSize int64
	// RestoreDelay is how long RestoreObject takes to bring back an archived
	// object; zero brings it back at once.
	RestoreDelay time.Duration
}

// Service is one S3: an http.Handler. It starts no goroutines.
type Service struct {
	cfg     Config
	rootKey []byte // wraps the data keys of SSE-S3

	mu      sync.RWMutex
	buckets map[string]*bucket
}

// New returns a Service without buckets.
func New(c Config) *Service {
	if c.MaxCopySize == 0 {
		c.MaxCopySize = 5 << 30
	}
	if c.MinPartSize == 0 {
		c.MinPartSize = 5 << 20
	}
	if c.Trail == nil {
		c.Trail = trail.New(trail.Config{})
	}
	return &Service{cfg: c, rootKey: randomBytes(32), buckets: map[string]*bucket{}}
}

// call is one request on its way through the service.
type call struct {
	w         http.ResponseWriter
	r         *http.Request
	operation string
	query     url.Values
	caller    wire.Caller
	name      string           // of the bucket
	key       string           // of the object; "" for an operation on a bucket
	bucket    *bucket          // nil only for CreateBucket and ListBuckets
	params    changeParameters // of an operation that is recorded
}

// ServeHTTP answers one request. The caller and the request's id are taken from
// the request's context (wire.WithRequest).
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{w: w, r: r, operation: OperationName(r), query: r.URL.Query(), caller: wire.CallerFrom(r.Context())}
	if c.caller.AccountID == "" {
		c.caller.AccountID = s.cfg.Account
	}
	w.Header().Set("Server", "AmazonS3")
	w.Header().Set("X-Amz-Request-Id", wire.RequestIDFrom(r.Context()))
	err := s.serve(c)
	if operations()[c.operation].recorded {
		s.record(c, err)
	}
	if err != nil {
		c.fail(err)
	}
}

func (s *Service) serve(c *call) error {
	op, ok := operations()[c.operation]
	if !ok {
		return wire.Errorf(http.StatusNotImplemented, "NotImplemented", "localaws does not model %s %s", c.r.Method, c.r.URL.RequestURI())
	}
	for name := range c.r.Header {
		if !knownHeader(name) {
			return wire.Errorf(http.StatusNotImplemented, "NotImplemented", "A header you provided implies functionality that is not implemented: %s", name)
		}
	}
	c.name, c.key = address(c.r)
	if len(c.key) > 1024 {
		return wire.Errorf(400, "KeyTooLongError", "Your key is too long")
	}
	for _, action := range op.needs(c.query.Has("versionId")) {
		if err := c.authorize(action, c.name, c.key); err != nil {
			return err
		}
	}
	if !op.global {
		var err error
		if c.bucket, err = s.find(c.name, c.r.Header.Get("X-Amz-Expected-Bucket-Owner")); err != nil {
			return err
		}
	}
	return op.serve(s, c)
}

// find returns the bucket, which must belong to the expected owner where one is named.
func (s *Service) find(name, expectedOwner string) (*bucket, error) {
	s.mu.RLock()
	b := s.buckets[name]
	s.mu.RUnlock()
	if b == nil {
		return nil, &wire.Error{Code: "NoSuchBucket", Message: "The specified bucket does not exist", Status: 404, Fields: map[string]string{"BucketName": name}}
	}
	if expectedOwner != "" && expectedOwner != b.owner {
		return nil, errAccessDenied()
	}
	return b, nil
}

// authorize asks the caller's identity policy. Bucket policies are stored, not evaluated.
func (c *call) authorize(action, bucket, key string) error {
	resource := "*"
	switch {
	case key != "":
		resource = objectARN(bucket, key)
	case bucket != "":
		resource = bucketARN(bucket)
	}
	if !c.caller.May(action, resource) {
		return wire.Errorf(403, "AccessDenied", "User: %s is not authorized to perform: %s on resource: %q because no identity-based policy allows the %s action", c.caller.ARN, action, resource, action)
	}
	return nil
}

func (c *call) header(name string) string { return c.r.Header.Get(name) }

// fail answers with err.
func (c *call) fail(err error) {
	e := wire.AsError(err)
	c.w.Header().Del("Content-Length")
	if c.r.Method == http.MethodHead || e.HTTPStatus() == http.StatusNotModified {
		c.w.WriteHeader(e.HTTPStatus())
		return
	}
	var d document
	d.begin("Error")
	d.element("Code", e.Code)
	d.element("Message", e.Message)
	for name, value := range e.Fields {
		d.element(name, value)
	}
	d.element("RequestId", wire.RequestIDFrom(c.r.Context()))
	d.element("HostId", "localaws")
	d.end("Error")
	c.send(e.HTTPStatus(), &d)
}

// xml answers 200 with a document.
func (c *call) xml(d *document) error {
	c.send(http.StatusOK, d)
	return nil
}

func (c *call) send(status int, d *document) {
	h := c.w.Header()
	h.Set("Content-Type", "application/xml")
	h.Set("Content-Length", strconv.Itoa(d.Len()))
	c.w.WriteHeader(status)
	_, _ = c.w.Write(d.Bytes()) // an error means that the client is gone
}

// empty answers without a body.
func (c *call) empty(status int) error {
	c.w.WriteHeader(status)
	return nil
}

// set sets a header of the answer unless the value is empty. The name is in
// canonical form.
func (c *call) set(name, value string) {
	if value != "" {
		c.w.Header()[name] = []string{value}
	}
}

func errAccessDenied() error { return wire.Errorf(403, "AccessDenied", "Access Denied") }

func invalidArgument(name, value, message string) error {
	return &wire.Error{Code: "InvalidArgument", Message: message, Status: 400, Fields: map[string]string{"ArgumentName": name, "ArgumentValue": value}}
}

func bucketARN(bucket string) string { return "arn:aws:s3:::" + bucket }

func objectARN(bucket, key string) string { return bucketARN(bucket) + "/" + key }

// canonicalUser returns the canonical user id of an account: 64 hexadecimal
// digits, as S3 names owners in listings and ACLs.
func canonicalUser(account string) string {
	sum := sha256.Sum256([]byte("canonical user of " + account))
	return hex.EncodeToString(sum[:])
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

const (
	isoTime  = "2006-01-02T15:04:05.000Z"
	httpTime = http.TimeFormat
)

// flag reports whether a header that takes true or false says true.
func flag(value string) bool { return strings.EqualFold(value, "true") }
