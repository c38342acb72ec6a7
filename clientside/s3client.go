package clientside

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"strings"
)

// The names of the S3 Encryption Client's metadata, as in content-metadata.md of its
// specification. S3 adds x-amz-meta- to them in headers, and SDKs take it away again.
const (
	keyV1      = "x-amz-key"
	keyV2      = "x-amz-key-v2"
	iv         = "x-amz-iv"
	matDesc    = "x-amz-matdesc"
	wrapAlgV2  = "x-amz-wrap-alg"
	keyV3      = "x-amz-3"
	wrapAlgV3  = "x-amz-w"
	contextV3  = "x-amz-t"
	cipherV3   = "x-amz-c"
	commitment = "x-amz-d"
	messageID  = "x-amz-i"
)

// ByMetadata recognises what the S3 Encryption Client wrote by the object's user metadata,
// as HeadObject of the AWS SDK returns it: names in lower case, without x-amz-meta-. The
// error says what of the client's metadata contradicts itself or cannot be read.
func ByMetadata(metadata map[string]string) (Found, error) {
	has := func(name string) bool { _, ok := metadata[name]; return ok }
	if !has(keyV1) && !has(keyV2) && !has(keyV3) {
		if has(cipherV3) && has(commitment) && has(messageID) {
			return Found{Format: S3ClientV3, Sure: true, Place: InInstructionFile, Partial: true}, nil
		}
		return Found{}, nil
	}
	f, err := s3Client(metadata)
	if err != nil {
		return Found{}, err
	}
	if f.Format == S3ClientV3 && (!has(commitment) || !has(messageID)) {
		return Found{}, fmt.Errorf("metadata of the S3 Encryption Client: %s is there without %s or %s", keyV3, commitment, messageID)
	}
	f.Place, f.metadata = InMetadata, maps.Clone(metadata)
	return f, nil
}

// ByInstructionFile recognises an instruction file of the S3 Encryption Client by its
// content. The error says why it is none, or what of it contradicts itself. What comes back
// keeps body, which may not be changed.
func ByInstructionFile(body []byte) (Found, error) {
	const most = 64 << 10 // ours: S3 allows 2 KB of the same in metadata
	if len(body) > most {
		return Found{}, fmt.Errorf("instruction file: it has %d bytes, and %d is the most that is read", len(body), most)
	}
	fields, err := scanJSON(body, "")
	if err != nil {
		return Found{}, fmt.Errorf("instruction file: %w", err)
	}
	metadata, spans := map[string]string{}, map[string]span{}
	for _, f := range fields {
		if len(f.path) == 1 && f.bad == "" {
			metadata[f.path[0]], spans[f.path[0]] = f.text, f.span
		}
	}
	f, err := s3Client(metadata)
	if err != nil {
		return Found{}, fmt.Errorf("instruction file: %w", err)
	}
	for _, name := range []string{cipherV3, commitment, messageID} {
		if _, ok := metadata[name]; ok && f.Format == S3ClientV3 {
			return Found{}, fmt.Errorf("instruction file: it has %s, which belongs into the object's metadata", name)
		}
	}
	f.Place, f.body, f.again = InInstructionFile, body, ByInstructionFile
	at := spans[f.name]
	f.slots = []slot{func(k Key) ([]edit, error) { return []edit{at.replace(encode(k.Wrapped))}, nil }}
	return f, nil
}

// s3Client recognises the client's version, and reads the wrapped key.
func s3Client(metadata map[string]string) (Found, error) {
	var names []string
	for _, name := range []string{keyV1, keyV2, keyV3} {
		if _, ok := metadata[name]; ok {
			names = append(names, name)
		}
	}
	switch _, hasIV := metadata[iv]; {
	case len(names) == 0:
		return Found{}, errors.New("nothing of the S3 Encryption Client's: no " + keyV1 + ", " + keyV2 + " or " + keyV3)
	case len(names) > 1:
		return Found{}, fmt.Errorf("metadata of the S3 Encryption Client: %s exclude each other", strings.Join(names, " and "))
	case names[0] != keyV3 && !hasIV:
		return Found{}, fmt.Errorf("metadata of the S3 Encryption Client: %s is there without %s", names[0], iv)
	}
	f := Found{Format: S3ClientV2, Sure: true, name: names[0]}
	algorithm, description := metadata[wrapAlgV2], metadata[matDesc]
	switch names[0] {
	case keyV1:
		// Clients that use KMS write x-amz-key-v2, as older ones did.
		return Found{Format: S3ClientV1, Sure: true, NotKMS: true, Refusal: "its data key is wrapped by a key of the application's own, not by KMS"}, nil
	case keyV3:
		f.Format, description = S3ClientV3, metadata[contextV3]
		algorithm = metadata[wrapAlgV3]
		if full, ok := map[string]string{"02": "AES/GCM", "12": "kms+context", "22": "RSA-OAEP-SHA1"}[algorithm]; ok {
			algorithm = full
		}
	}
	switch algorithm {
	case "kms+context", "kms":
	case "AES/GCM", "AESWrap", "RSA-OAEP-SHA1", "RSA/ECB/OAEPWithSHA-256AndMGF1Padding":
		f.NotKMS, f.Refusal = true, "its data key is wrapped by a key of the application's own ("+algorithm+"), not by KMS"
		return f, nil
	default:
		f.Refusal = fmt.Sprintf("its data key is wrapped by an algorithm that is not known (%.40q)", algorithm)
		return f, nil
	}
	if strings.Contains(description, "=?") { // RFC 2047
		f.Refusal = "its encryption context has other characters than ASCII, which S3 does not show as they were stored"
		return f, nil
	}
	k := Key{Context: map[string]string{}}
	var err error
	if k.Wrapped, err = decode(metadata[f.name]); err != nil {
		return Found{}, fmt.Errorf("metadata of the S3 Encryption Client: %s: %w", f.name, err)
	}
	if description != "" {
		if k.Context, err = stringMap([]byte(description)); err != nil {
			return Found{}, fmt.Errorf("metadata of the S3 Encryption Client: the encryption context: %w", err)
		}
	}
	if algorithm == "kms" {
		k.Label, k.LabelInContext = k.Context["kms_cmk_id"], k.Context["kms_cmk_id"] != ""
	}
	f.Keys = []Key{k}
	return f, nil
}

// stringMap reads a JSON object of strings.
func stringMap(text []byte) (map[string]string, error) {
	fields, err := scanJSON(text, "")
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, f := range fields {
		if len(f.path) != 1 || f.bad != "" {
			return nil, fmt.Errorf("%.60q is no string", strings.Join(f.path, "."))
		}
		out[f.path[0]] = f.text
	}
	return out, nil
}

func encode(wrapped []byte) string { return base64.StdEncoding.EncodeToString(wrapped) }

// decode reads a wrapped key in base64.
func decode(text string) ([]byte, error) {
	if len(text) > base64.StdEncoding.EncodedLen(maxBlob) {
		return nil, fmt.Errorf("the wrapped key has %d characters, more than any of KMS", len(text))
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("the wrapped key is not base64: %w", err)
	}
	if len(b) == 0 {
		return nil, errors.New("the wrapped key is empty")
	}
	return b, nil
}
