package s3

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/md5" //nolint:gosec // how SSE-C names a key
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// The kinds of server-side encryption, as x-amz-server-side-encryption names
// them. DSSE-KMS is a kind of its own but sealed once, not twice. A customer's
// key (SSE-C) has no name there.
const (
	sseS3       = "AES256"
	sseKMS      = "aws:kms"
	sseDSSE     = "aws:kms:dsse"
	sseCustomer = "SSE-C"
)

// encryption is how an object's data key is kept. It never holds a key in the clear.
type encryption struct {
	kind string
	// keyARN and bucketKey are of KMS.
	keyARN    string
	bucketKey bool
	// context is the encryption context beside aws:s3:arn, from
	// x-amz-server-side-encryption-context.
	context map[string]string
	// outer is the key that sealed the data key, as KMS wrapped it; nil for
	// SSE-S3 and SSE-C.
	outer []byte
	// sealed is the data key under the outer key.
	sealed []byte
	// customerMD5 names the customer's key, in base64.
	customerMD5 string
}

func (e *encryption) usesKMS() bool { return e.kind == sseKMS || e.kind == sseDSSE }

// wanted is the encryption that a request, or a bucket's default, asks for.
type wanted struct {
	kind        string
	keyID       string // id, ARN or alias; "" is aws/s3
	bucketKey   bool
	context     map[string]string
	customerKey []byte
}

// wantedEncryption reads the encryption that a write asks for, and takes the
// bucket's default where the request asks for none.
func (c *call) wantedEncryption() (wanted, error) {
	rule := c.bucket.defaultEncryption()
	key, err := c.customerKey("X-Amz-Server-Side-Encryption-Customer-")
	if err != nil {
		return wanted{}, err
	}
	w := wanted{kind: c.header("X-Amz-Server-Side-Encryption"), keyID: c.header("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id")}
	if key != nil {
		if w.kind != "" {
			return w, invalidArgument("x-amz-server-side-encryption", w.kind, "Server Side Encryption with Customer provided key is incompatible with the encryption method specified")
		}
		if rule.blockCustomer {
			// The message is ours: the documentation has the code and the status only.
			return w, wire.Errorf(403, "AccessDenied", "The bucket blocks server-side encryption with customer-provided keys (SSE-C)")
		}
		return wanted{kind: sseCustomer, customerKey: key}, nil
	}
	if w.context, err = decodeContext(c.header("X-Amz-Server-Side-Encryption-Context")); err != nil {
		return w, err
	}
	bucketKey := c.header("X-Amz-Server-Side-Encryption-Bucket-Key-Enabled")
	switch w.kind {
	case "":
		if w.keyID != "" {
			return w, invalidArgument("x-amz-server-side-encryption", "", "The server side encryption with AWS KMS managed keys requires the x-amz-server-side-encryption header to be aws:kms or aws:kms:dsse")
		}
		w.kind, w.keyID = rule.kind, rule.keyID
	case sseS3:
		if w.keyID != "" {
			return w, invalidArgument("x-amz-server-side-encryption", w.kind, "x-amz-server-side-encryption-aws-kms-key-id requires x-amz-server-side-encryption to be aws:kms or aws:kms:dsse")
		}
	case sseKMS, sseDSSE:
	default:
		return w, invalidArgument("x-amz-server-side-encryption", w.kind, "The encryption method specified is not supported")
	}
	switch w.kind {
	case sseKMS:
		if w.bucketKey = rule.bucketKey; bucketKey != "" {
			w.bucketKey = flag(bucketKey)
		}
	case sseDSSE:
		if flag(bucketKey) {
			return w, invalidArgument("x-amz-server-side-encryption-bucket-key-enabled", bucketKey, "DSSE-KMS does not support S3 Bucket Keys")
		}
	}
	return w, nil
}

// decodeContext reads an encryption context: base64 of a JSON object of strings.
func decodeContext(header string) (map[string]string, error) {
	if header == "" {
		return nil, nil
	}
	var m map[string]string
	raw, err := base64.StdEncoding.DecodeString(header)
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err != nil {
		return nil, invalidArgument("x-amz-server-side-encryption-context", header, "The header 'x-amz-server-side-encryption-context' shall be Base64-encoded UTF-8 string holding JSON which represents a string-string map")
	}
	return m, nil
}

// customerKey returns the customer's key from the three headers with the
// prefix, nil where there are none.
func (c *call) customerKey(prefix string) ([]byte, error) {
	algorithm, key, sum := c.header(prefix+"Algorithm"), c.header(prefix+"Key"), c.header(prefix+"Key-Md5")
	if algorithm == "" && key == "" && sum == "" {
		return nil, nil
	}
	if algorithm != "AES256" {
		return nil, &wire.Error{Code: "InvalidEncryptionAlgorithmError", Message: "The Encryption request you specified is not valid. Supported value: AES256.", Status: 400}
	}
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(raw) != 32 {
		return nil, invalidArgument("x-amz-server-side-encryption-customer-key", "null", "The secret key was invalid for the specified algorithm.")
	}
	if customerMD5(raw) != sum {
		return nil, invalidArgument("x-amz-server-side-encryption-customer-key-MD5", sum, "The calculated MD5 hash of the key did not match the hash that was provided.")
	}
	return raw, nil
}

func customerMD5(key []byte) string {
	sum := md5.Sum(key) //nolint:gosec // how SSE-C names a key
	return base64.StdEncoding.EncodeToString(sum[:])
}

// kmsContext is the encryption context of an object's outer key: the object's
// ARN, or the bucket's under a bucket key, and what the request added.
func kmsContext(bucket, key string, bucketKey bool, extra map[string]string) map[string]string {
	m := make(map[string]string, 1+len(extra))
	for k, v := range extra {
		m[k] = v
	}
	if bucketKey {
		m["aws:s3:arn"] = bucketARN(bucket)
	} else {
		m["aws:s3:arn"] = objectARN(bucket, key)
	}
	return m
}

// wrap seals a data key as wanted.
func (s *Service) wrap(c wire.Caller, bucket, key string, w wanted, dataKey []byte) (*encryption, error) {
	e := &encryption{kind: w.kind}
	outer := s.rootKey
	switch w.kind {
	case sseCustomer:
		outer, e.customerMD5 = w.customerKey, customerMD5(w.customerKey)
	case sseKMS, sseDSSE:
		if w.keyID == "" {
			w.keyID = "alias/aws/s3"
		}
		e.bucketKey, e.context = w.bucketKey, w.context
		var err error
		if outer, e.outer, e.keyARN, err = s.cfg.Keys.GenerateDataKey(c, w.keyID, kmsContext(bucket, key, e.bucketKey, e.context)); err != nil {
			return nil, kmsError(err)
		}
	}
	var err error
	e.sealed, err = sealKey(outer, dataKey)
	return e, err
}

// dataKey unwraps the data key of an object; customerKey is what the request
// brought, nil for none.
func (s *Service) dataKey(c wire.Caller, bucket, key string, e *encryption, customerKey []byte) ([]byte, error) {
	if err := e.checkCustomerKey(customerKey); err != nil {
		return nil, err
	}
	outer := s.rootKey
	switch e.kind {
	case sseCustomer:
		outer = customerKey
	case sseKMS, sseDSSE:
		var err error
		if outer, _, err = s.cfg.Keys.Decrypt(c, e.outer, kmsContext(bucket, key, e.bucketKey, e.context)); err != nil {
			return nil, kmsError(err)
		}
	}
	return openKey(outer, e.sealed)
}

// checkCustomerKey says whether the request brought the customer's key exactly
// when the object needs it.
func (e *encryption) checkCustomerKey(key []byte) error {
	switch {
	case e.kind != sseCustomer && key != nil:
		return wire.Errorf(400, "InvalidRequest", "The encryption parameters are not applicable to this object.")
	case e.kind == sseCustomer && key == nil:
		return wire.Errorf(400, "InvalidRequest", "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object.")
	case e.kind == sseCustomer && customerMD5(key) != e.customerMD5:
		return errAccessDenied()
	}
	return nil
}

// kmsError makes S3's error of one of KMS: the code gets the prefix KMS., and a
// refused caller is S3's AccessDenied.
func kmsError(err error) error {
	e := wire.AsError(err)
	switch {
	case e.Code == "AccessDeniedException":
		return wire.Errorf(403, "AccessDenied", "%s", e.Message)
	case e.HTTPStatus() >= 500:
		return err
	}
	return &wire.Error{Code: "KMS." + e.Code, Message: e.Message, Status: http.StatusBadRequest}
}

// describe sets the headers that tell the encryption. Every write and read
// answers with them.
func (e *encryption) describe(c *call) {
	if e.kind == sseCustomer {
		c.set("X-Amz-Server-Side-Encryption-Customer-Algorithm", "AES256")
		c.set("X-Amz-Server-Side-Encryption-Customer-Key-Md5", e.customerMD5)
		return
	}
	c.set("X-Amz-Server-Side-Encryption", e.kind)
	c.set("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", e.keyARN)
	if e.bucketKey {
		c.set("X-Amz-Server-Side-Encryption-Bucket-Key-Enabled", "true")
	}
}

// describeContext sets the header that answers a write with its encryption
// context; a read never tells it.
func (e *encryption) describeContext(c *call) {
	if len(e.context) == 0 {
		return
	}
	raw, _ := json.Marshal(e.context) // a map of strings can always be encoded
	c.set("X-Amz-Server-Side-Encryption-Context", base64.StdEncoding.EncodeToString(raw))
}

// gcm returns AES-256-GCM under the key.
func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// sealKey seals a data key under an outer key. The nonce is random: under
// SSE-S3 one outer key seals many.
func sealKey(outer, dataKey []byte) ([]byte, error) {
	aead, err := gcm(outer)
	if err != nil {
		return nil, fmt.Errorf("seal data key: %w", err)
	}
	n := randomBytes(aead.NonceSize())
	return aead.Seal(n, n, dataKey, nil), nil
}

func openKey(outer, sealed []byte) ([]byte, error) {
	aead, err := gcm(outer)
	if err != nil {
		return nil, fmt.Errorf("open data key: %w", err)
	}
	key, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], nil)
	if err != nil {
		return nil, fmt.Errorf("open data key: %w", err)
	}
	return key, nil
}

// segment is a sealed piece of an object: all of it, or one part of a multipart
// upload. A data key seals a segment number at most once: a part that is
// uploaded again gets a new number.
type segment struct {
	number   uint64 // the nonce
	sealed   []byte
	part     int32 // the part's number; zero outside of multipart
	checksum checksum
}

// tagSize is how much longer a sealed segment is than its plaintext.
const tagSize = 16

func (s segment) size() int64 { return int64(len(s.sealed) - tagSize) }

func segmentNonce(number uint64) []byte {
	b := make([]byte, 12)
	binary.BigEndian.PutUint64(b[4:], number)
	return b
}

// sealSegment seals data as the segment with the number.
func sealSegment(dataKey []byte, number uint64, data []byte) (segment, error) {
	aead, err := gcm(dataKey)
	if err != nil {
		return segment{}, fmt.Errorf("seal object: %w", err)
	}
	sealed := aead.Seal(make([]byte, 0, len(data)+tagSize), segmentNonce(number), data, nil)
	return segment{number: number, sealed: sealed}, nil
}

// openSegments returns the plaintext of consecutive segments.
func openSegments(dataKey []byte, segments []segment) ([]byte, error) {
	aead, err := gcm(dataKey)
	if err != nil {
		return nil, fmt.Errorf("open object: %w", err)
	}
	var size int64
	for _, s := range segments {
		size += s.size()
	}
	data := make([]byte, 0, size+tagSize)
	for _, s := range segments {
		if data, err = aead.Open(data, segmentNonce(s.number), s.sealed, nil); err != nil {
			return nil, fmt.Errorf("open object: %w", err)
		}
	}
	return data, nil
}

// isKeyARN reports whether s has the form of a KMS key's ARN, and returns the
// account that it names.
func isKeyARN(s string) (account string, ok bool) {
	f := strings.SplitN(s, ":", 6)
	if len(f) != 6 || f[0] != "arn" || !strings.HasPrefix(f[1], "aws") || f[2] != "kms" || f[3] == "" || len(f[4]) != 12 {
		return "", false
	}
	id, isKey := strings.CutPrefix(f[5], "key/")
	return f[4], isKey && id != ""
}
