package kms

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// A ciphertext looks like those of AWS, as far as people have found out: a header that
// begins with blobStart, then the length of what follows in four bytes, then a PKCS #7
// structure of the type encryptedData. What AWS writes into the header is not known; here
// it is the id of the key material, then that of the key after a byte that says which kind
// it is. Header and encryption context are authenticated.
const (
	blobStart   = "\x01\x02\x02\x00\x78"
	materialLen = 32
	headerLen   = len(blobStart) + materialLen + 1 + 16
	nonceLen    = 12
	tagLen      = 16

	singleRegion, manyRegions = 1, 2
)

// The parts of contentInfo (RFC 2315) that are always the same: the object identifiers of
// encryptedData and data, and aes256-GCM with its nonce and the length of its tag (RFC 5084).
const (
	encryptedDataID = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x06"
	dataID          = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"
	aes256GCM       = "\x30\x1e\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x2e\x30\x11\x04\x0c"
	gcmTagLen       = "\x02\x01\x10"
	versionZero     = "\x02\x01\x00"
)

// der returns a value of ASN.1 with that tag.
func der(tag byte, content ...string) string {
	n := 0
	for _, c := range content {
		n += len(c)
	}
	length := []byte{tag, byte(n)}
	switch {
	case n > 0xff:
		length = []byte{tag, 0x82, byte(n >> 8), byte(n)}
	case n > 0x7f:
		length = []byte{tag, 0x81, byte(n)}
	}
	return string(length) + strings.Join(content, "")
}

type blob struct {
	keyID      string
	materialID string
	header     []byte // what is authenticated of the blob
	nonce      []byte
	sealed     []byte
}

// seal encrypts under the key's current material.
func (k *key) seal(plaintext []byte, context map[string]string) []byte {
	m := k.current()
	kind := byte(singleRegion)
	id, multiRegion := strings.CutPrefix(k.id, "mrk-")
	if multiRegion {
		kind = manyRegions
	}
	header := append([]byte(blobStart), unhex(m.id)...)
	header = append(append(header, kind), unhex(strings.ReplaceAll(id, "-", ""))...)
	nonce := randomBytes(nonceLen)
	return blob{header: header, nonce: nonce, sealed: m.aead.Seal(nil, nonce, plaintext, authenticated(header, context))}.bytes()
}

// unhex reads an id that was made here.
func unhex(id string) []byte {
	b, _ := hex.DecodeString(id)
	return b
}

func (p blob) bytes() []byte {
	info := der(0x30, dataID, aes256GCM, string(p.nonce), gcmTagLen, der(0x80, string(p.sealed)))
	all := der(0x30, encryptedDataID, der(0xa0, der(0x30, versionZero, info)))
	return append(binary.BigEndian.AppendUint32(slices.Clone(p.header), uint32(len(all))), all...)
}

// parseBlob takes a ciphertext apart; ok is false where it is none of ours.
func parseBlob(b []byte) (p blob, ok bool) {
	if len(b) < headerLen+4 || string(b[:len(blobStart)]) != blobStart {
		return p, false
	}
	p = blob{materialID: hex.EncodeToString(b[len(blobStart):][:materialLen]), header: b[:headerLen]}
	switch id := hex.EncodeToString(b[headerLen-16 : headerLen]); b[headerLen-17] {
	case singleRegion:
		p.keyID = id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:]
	case manyRegions:
		p.keyID = "mrk-" + id
	default:
		return p, false
	}
	at := headerLen + 4
	skip := func(n int) { at += n }
	open := func() { // the tag and the length of a value
		if skip(2); at <= len(b) && b[at-1] > 0x80 {
			skip(int(b[at-1] - 0x80))
		}
	}
	open()
	skip(len(encryptedDataID))
	open()
	open()
	skip(len(versionZero))
	open()
	skip(len(dataID) + len(aes256GCM))
	nonce := at
	skip(nonceLen + len(gcmTagLen))
	open()
	if at+tagLen > len(b) {
		return p, false
	}
	p.nonce, p.sealed = b[nonce:nonce+nonceLen], b[at:]
	return p, bytes.Equal(p.bytes(), b) // there is one way to write it
}

// keyOf returns the id of the key that a ciphertext was made with, or "".
func keyOf(ciphertext []byte) string {
	p, _ := parseBlob(ciphertext)
	return p.keyID
}

// authenticated is the additional data of the encryption: the blob's header and
// the encryption context in an order of its own.
func authenticated(header []byte, context map[string]string) []byte {
	out := slices.Clone(header)
	for _, name := range slices.Sorted(maps.Keys(context)) {
		for _, s := range []string{name, context[name]} {
			out = binary.BigEndian.AppendUint32(out, uint32(len(s)))
			out = append(out, s...)
		}
	}
	return out
}

func invalidCiphertext() error {
	return &wire.Error{Code: "InvalidCiphertextException"} // AWS sends no message
}

// open decrypts with the material that the blob names.
func (k *key) open(p blob, context map[string]string) ([]byte, *material, error) {
	i := slices.IndexFunc(k.materials, func(m *material) bool { return m.id == p.materialID && m.aead != nil })
	if i < 0 {
		return nil, nil, invalidCiphertext()
	}
	plaintext, err := k.materials[i].aead.Open(nil, p.nonce, p.sealed, authenticated(p.header, context))
	if err != nil {
		return nil, nil, invalidCiphertext()
	}
	return plaintext, k.materials[i], nil
}

// cipherKey finds a key for symmetric encryption by the caller.
func (c *call) cipherKey(ref, permission string, context map[string]string) (*key, error) {
	c.data = context
	k, err := c.useFor(ref, byAnyName, permission)
	if err != nil {
		return nil, err
	}
	if err := k.ready(); err != nil {
		return nil, err
	}
	if k.usage != encryptDecrypt {
		return nil, wire.Errorf(400, "InvalidKeyUsageException", "%s key usage is %s which is not valid for %s.", k.arn, k.usage, c.name)
	}
	if !k.symmetric() {
		return nil, wire.Errorf(400, "UnknownOperationException", "localaws does not model asymmetric encryption")
	}
	return k, nil
}

// sourceKey finds the key that decrypts the ciphertext for the caller.
func (c *call) sourceKey(ciphertext []byte, ref, permission string, context map[string]string) (*key, blob, error) {
	p, ok := parseBlob(ciphertext)
	if !ok {
		return nil, p, invalidCiphertext()
	}
	if ref == "" {
		if ref = p.keyID; c.keys[ref] == nil {
			return nil, p, wire.Errorf(400, "AccessDeniedException", "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.")
		}
	}
	k, err := c.cipherKey(ref, permission, context)
	if err == nil && k.id != p.keyID {
		err = wire.Errorf(400, "IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
	}
	return k, p, err
}

// used notes a successful cryptographic operation for GetKeyLastUsage.
func (c *call) used(k *key) {
	k.lastUsage = keyLastUsage{Operation: c.name, Timestamp: new(timestamp(c.now)), CloudTrailEventID: c.eventID, KmsRequestID: c.requestID}
}

// algorithm is of calls whose record always names it, as given or not. No other is modelled.
type algorithm struct {
	EncryptionAlgorithm string `json:"EncryptionAlgorithm"`
}

func (a *algorithm) check() error {
	a.EncryptionAlgorithm = cmp.Or(a.EncryptionAlgorithm, symmetricDefault)
	if a.EncryptionAlgorithm != symmetricDefault {
		return wire.Errorf(400, "UnknownOperationException", "localaws does not model the algorithm %s", a.EncryptionAlgorithm)
	}
	return nil
}

type encryptInput struct {
	KeyID             string            `json:"KeyId"`
	Plaintext         []byte            `json:"Plaintext"`
	EncryptionContext map[string]string `json:"EncryptionContext"`
	DryRun            *bool             `json:"DryRun"`
	algorithm
}

type encryptOutput struct {
	CiphertextBlob      []byte `json:"CiphertextBlob"`
	KeyID               string `json:"KeyId"`
	EncryptionAlgorithm string `json:"EncryptionAlgorithm"`
}

func encrypt(c *call, in *encryptInput) (encryptOutput, error) {
	var out encryptOutput
	if err := in.check(); err != nil {
		return out, err
	}
	if len(in.Plaintext) == 0 || len(in.Plaintext) > 4096 {
		return out, invalid("1 validation error detected: Value at 'plaintext' failed to satisfy constraint: Member must have length between 1 and 4096")
	}
	k, err := c.cipherKey(in.KeyID, c.name, in.EncryptionContext)
	if err != nil {
		return out, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return out, err
	}
	c.used(k)
	return encryptOutput{CiphertextBlob: k.seal(in.Plaintext, in.EncryptionContext), KeyID: k.arn, EncryptionAlgorithm: symmetricDefault}, nil
}

type decryptInput struct {
	CiphertextBlob    []byte            `json:"CiphertextBlob"`
	KeyID             string            `json:"KeyId"`
	EncryptionContext map[string]string `json:"EncryptionContext"`
	DryRun            *bool             `json:"DryRun"`
	algorithm
}

type decryptOutput struct {
	KeyID               string `json:"KeyId"`
	Plaintext           []byte `json:"Plaintext"`
	EncryptionAlgorithm string `json:"EncryptionAlgorithm"`
	KeyMaterialID       string `json:"KeyMaterialId"`
}

func decrypt(c *call, in *decryptInput) (decryptOutput, error) {
	var out decryptOutput
	if err := in.check(); err != nil {
		return out, err
	}
	k, p, err := c.sourceKey(in.CiphertextBlob, in.KeyID, c.name, in.EncryptionContext)
	if err != nil {
		return out, err
	}
	plaintext, m, err := k.open(p, in.EncryptionContext)
	if err != nil {
		return out, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return out, err
	}
	c.used(k)
	return decryptOutput{KeyID: k.arn, Plaintext: plaintext, EncryptionAlgorithm: symmetricDefault, KeyMaterialID: m.id}, nil
}

type reEncryptInput struct {
	CiphertextBlob               []byte            `json:"CiphertextBlob"`
	SourceKeyID                  string            `json:"SourceKeyId"`
	SourceEncryptionContext      map[string]string `json:"SourceEncryptionContext"`
	DestinationKeyID             string            `json:"DestinationKeyId"`
	DestinationEncryptionContext map[string]string `json:"DestinationEncryptionContext"`
	DryRun                       *bool             `json:"DryRun"`
	DryRunModifiers              []string          `json:"DryRunModifiers"`
}

type reEncryptOutput struct {
	CiphertextBlob                 []byte `json:"CiphertextBlob"`
	SourceKeyID                    string `json:"SourceKeyId"`
	KeyID                          string `json:"KeyId"`
	SourceEncryptionAlgorithm      string `json:"SourceEncryptionAlgorithm"`
	DestinationEncryptionAlgorithm string `json:"DestinationEncryptionAlgorithm"`
	SourceKeyMaterialID            string `json:"SourceKeyMaterialId"`
	DestinationKeyMaterialID       string `json:"DestinationKeyMaterialId"`
}

func reEncrypt(c *call, in *reEncryptInput) (reEncryptOutput, error) {
	var out reEncryptOutput
	if slices.Contains(in.DryRunModifiers, "IGNORE_CIPHERTEXT") {
		return out, c.tryReEncrypt(in)
	}
	from, p, err := c.sourceKey(in.CiphertextBlob, in.SourceKeyID, "ReEncryptFrom", in.SourceEncryptionContext)
	if err != nil {
		return out, err
	}
	to, err := c.cipherKey(in.DestinationKeyID, "ReEncryptTo", in.DestinationEncryptionContext)
	if err != nil {
		return out, err
	}
	c.resources = []string{from.arn, to.arn}
	plaintext, m, err := from.open(p, in.SourceEncryptionContext)
	if err != nil {
		return out, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return out, err
	}
	c.used(from)
	c.used(to)
	return reEncryptOutput{
		CiphertextBlob: to.seal(plaintext, in.DestinationEncryptionContext), SourceKeyID: from.arn, KeyID: to.arn,
		SourceEncryptionAlgorithm: symmetricDefault, DestinationEncryptionAlgorithm: symmetricDefault,
		SourceKeyMaterialID: m.id, DestinationKeyMaterialID: to.current().id,
	}, nil
}

// tryReEncrypt checks the permissions on both keys without a ciphertext.
func (c *call) tryReEncrypt(in *reEncryptInput) error {
	if in.DryRun == nil || !*in.DryRun || in.SourceKeyID == "" {
		return invalid("IGNORE_CIPHERTEXT needs DryRun and SourceKeyId")
	}
	if _, err := c.cipherKey(in.SourceKeyID, "ReEncryptFrom", in.SourceEncryptionContext); err != nil {
		return err
	}
	if _, err := c.cipherKey(in.DestinationKeyID, "ReEncryptTo", in.DestinationEncryptionContext); err != nil {
		return err
	}
	return dryRun(in.DryRun)
}

type generateDataKeyInput struct {
	KeyID             string            `json:"KeyId"`
	KeySpec           string            `json:"KeySpec"`
	NumberOfBytes     *int              `json:"NumberOfBytes"`
	EncryptionContext map[string]string `json:"EncryptionContext"`
	DryRun            *bool             `json:"DryRun"`
}

type generateDataKeyOutput struct {
	CiphertextBlob []byte `json:"CiphertextBlob"`
	Plaintext      []byte `json:"Plaintext,omitempty"`
	KeyID          string `json:"KeyId"`
	KeyMaterialID  string `json:"KeyMaterialId"`
}

func generateDataKey(c *call, in *generateDataKeyInput) (generateDataKeyOutput, error) {
	var out generateDataKeyOutput
	var length int
	switch {
	case in.KeySpec == "AES_256" && in.NumberOfBytes == nil:
		length = 32
	case in.KeySpec == "AES_128" && in.NumberOfBytes == nil:
		length = 16
	case in.KeySpec == "" && in.NumberOfBytes != nil && *in.NumberOfBytes >= 1 && *in.NumberOfBytes <= 1024:
		length = *in.NumberOfBytes
	default:
		return out, invalid("Please specify either number of bytes or key spec.")
	}
	k, err := c.cipherKey(in.KeyID, c.name, in.EncryptionContext)
	if err != nil {
		return out, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return out, err
	}
	c.used(k)
	plaintext := randomBytes(length)
	return generateDataKeyOutput{
		CiphertextBlob: k.seal(plaintext, in.EncryptionContext), Plaintext: plaintext, KeyID: k.arn, KeyMaterialID: k.current().id,
	}, nil
}

func generateDataKeyWithoutPlaintext(c *call, in *generateDataKeyInput) (generateDataKeyOutput, error) {
	if in.KeySpec == "" && in.NumberOfBytes == nil {
		in.KeySpec = "AES_256" // AWS asks for none here; S3's size is the usual one
	}
	out, err := generateDataKey(c, in)
	out.Plaintext = nil
	return out, err
}

type generateRandomInput struct {
	NumberOfBytes int `json:"NumberOfBytes"`
}

type generateRandomOutput struct {
	Plaintext []byte `json:"Plaintext"`
}

func generateRandom(c *call, in *generateRandomInput) (generateRandomOutput, error) {
	if err := c.authorizeIdentity(c.name); err != nil {
		return generateRandomOutput{}, err
	}
	if in.NumberOfBytes < 1 || in.NumberOfBytes > 1024 {
		return generateRandomOutput{}, invalid("1 validation error detected: Value '%d' at 'numberOfBytes' failed to satisfy constraint: Member must have value between 1 and 1024", in.NumberOfBytes)
	}
	return generateRandomOutput{Plaintext: randomBytes(in.NumberOfBytes)}, nil
}

// keyLastUsage is an empty object on the wire while the key has not been used.
type keyLastUsage struct {
	Operation         string     `json:"Operation,omitempty"`
	Timestamp         *timestamp `json:"Timestamp,omitempty"`
	CloudTrailEventID string     `json:"CloudTrailEventId,omitempty"`
	KmsRequestID      string     `json:"KmsRequestId,omitempty"`
}

type getKeyLastUsageOutput struct {
	KeyID             string       `json:"KeyId"`
	KeyCreationDate   timestamp    `json:"KeyCreationDate"`
	TrackingStartDate timestamp    `json:"TrackingStartDate"`
	KeyLastUsage      keyLastUsage `json:"KeyLastUsage"`
}

// trackingStart is when AWS began to record the usage of keys.
var trackingStart = time.Date(2026, time.April, 23, 0, 0, 0, 0, time.UTC)

// getKeyLastUsage knows of a use at once; AWS takes up to an hour. The clock of a
// test may be one of before AWS began to record: then it does so from the start.
func getKeyLastUsage(c *call, in *keyIDInput) (getKeyLastUsageOutput, error) {
	k, err := c.use(in.KeyID, byKey)
	if err != nil {
		return getKeyLastUsageOutput{}, err
	}
	tracked := k.created
	if tracked.Before(trackingStart) && !c.now.Before(trackingStart) {
		tracked = trackingStart
	}
	return getKeyLastUsageOutput{
		KeyID: k.arn, KeyCreationDate: timestamp(k.created), TrackingStartDate: timestamp(tracked), KeyLastUsage: k.lastUsage,
	}, nil
}
