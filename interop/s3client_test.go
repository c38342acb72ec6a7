package interop

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/url"
	"strings"
	"testing"

	"github.com/aws/amazon-s3-encryption-client-go/v3/client"
	"github.com/aws/amazon-s3-encryption-client-go/v3/materials"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/clientside"
)

const plaintext = "some data"

// head returns the user metadata of an object.
func (w *world) head(t *testing.T, key string) map[string]string {
	t.Helper()
	out, err := w.s3.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String(bucket), Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	return out.Metadata
}

func (w *world) body(t *testing.T, key string) []byte {
	t.Helper()
	out, err := w.s3.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(bucket), Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(out.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func (w *world) put(t *testing.T, key string, body []byte, metadata map[string]string) {
	t.Helper()
	if _, err := w.s3.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(bucket), Key: &key, Body: bytes.NewReader(body), Metadata: metadata}); err != nil {
		t.Fatal(err)
	}
}

// replace gives an object other metadata.
func (w *world) replace(t *testing.T, key string, metadata map[string]string) {
	t.Helper()
	if _, err := w.s3.CopyObject(t.Context(), &s3.CopyObjectInput{
		Bucket: aws.String(bucket), Key: &key, CopySource: aws.String(bucket + "/" + url.PathEscape(key)), Metadata: metadata, MetadataDirective: types.MetadataDirectiveReplace,
	}); err != nil {
		t.Fatal(err)
	}
}

// intoInstructionFile moves what the S3 Encryption Client wrote into the metadata into an
// instruction file, as clients of other languages write it: those for Go only read it.
func (w *world) intoInstructionFile(t *testing.T, key string, stays ...string) {
	t.Helper()
	metadata, file := w.head(t, key), map[string]string{}
	for name, value := range metadata {
		if strings.HasPrefix(name, "x-amz-") {
			file[name] = value
		}
	}
	for name := range file {
		delete(metadata, name)
	}
	for _, name := range stays {
		metadata[name] = file[name]
		delete(file, name)
	}
	text, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	w.replace(t, key, metadata)
	w.put(t, key+clientside.InstructionSuffix, text, map[string]string{"x-amz-crypto-instr-file": ""})
}

// move re-wraps an object, wherever its wrapped key is.
func (w *world) move(t *testing.T, key string, format clientside.Format, place clientside.Place) {
	t.Helper()
	before := w.head(t, key)
	f, err := clientside.ByMetadata(before)
	if err == nil && (f.Format == clientside.None || f.Partial) {
		f, err = clientside.ByInstructionFile(w.body(t, key+clientside.InstructionSuffix))
	}
	if err != nil || f.Format != format || f.Place != place || !f.Sure {
		t.Fatalf("found %+v, %v", f, err)
	}
	out := w.rewrap(t, f, 1)
	if place == clientside.InInstructionFile {
		w.put(t, key+clientside.InstructionSuffix, out.Body, w.head(t, key+clientside.InstructionSuffix))
		return
	}
	w.replace(t, key, out.Metadata)
	changed := maps.Clone(before)
	for _, name := range []string{"x-amz-key-v2", "x-amz-3"} {
		if changed[name] != "" {
			changed[name] = out.Metadata[name]
		}
	}
	if diff := cmp.Diff(changed, w.head(t, key)); diff != "" {
		t.Error(diff)
	}
}

// reader returns a reader of the S3 Encryption Client.
func (w *world) reader(t *testing.T, keyring materials.Keyring) func(key string) (string, error) {
	t.Helper()
	manager, err := materials.NewCryptographicMaterialsManager(keyring)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(w.s3, manager, func(o *client.EncryptionClientOptions) { o.EnableLegacyUnauthenticatedModes = true })
	if err != nil {
		t.Fatal(err)
	}
	return func(key string) (string, error) {
		out, err := c.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(bucket), Key: &key})
		if err != nil {
			return "", err
		}
		body, err := io.ReadAll(out.Body)
		return string(body), err
	}
}

// writeV2 has the S3 Encryption Client store an object.
func (w *world) writeV2(t *testing.T, key, text string, about map[string]string) {
	t.Helper()
	manager, err := materials.NewCryptographicMaterialsManager(materials.NewKmsKeyring(w.kms, w.alias))
	if err != nil {
		t.Fatal(err)
	}
	writer, err := client.New(w.s3, manager)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if about != nil {
		ctx = context.WithValue(ctx, client.EncryptionContext, about) //nolint:staticcheck // the key is the client's
	}
	if _, err := writer.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(bucket), Key: &key, Body: strings.NewReader(text), Metadata: map[string]string{"mine": "too"}}); err != nil {
		t.Fatal(err)
	}
}

// Version 3 of the client for Go writes and reads version 2 of the format.
func TestS3ClientV2(t *testing.T) {
	w := newWorld(t)
	about := map[string]string{"tenant": "a \"<&>\"", "number": "1"}
	for _, key := range []string{"metadata", "instruction file", "left"} {
		w.writeV2(t, key, plaintext, nil)
	}
	w.writeV2(t, "with context", plaintext, about)
	w.legacy(t, "legacy")
	w.intoInstructionFile(t, "instruction file")
	w.move(t, "metadata", clientside.S3ClientV2, clientside.InMetadata)
	w.move(t, "with context", clientside.S3ClientV2, clientside.InMetadata)
	w.move(t, "legacy", clientside.S3ClientV2, clientside.InMetadata)
	w.move(t, "instruction file", clientside.S3ClientV2, clientside.InInstructionFile)
	w.retire(t)
	// In this version, a reader of the legacy algorithm reads nothing else.
	for name, keyring := range map[string]func(...func(*materials.KeyringOptions)) materials.Keyring{
		"alias": func(o ...func(*materials.KeyringOptions)) materials.Keyring {
			return materials.NewKmsKeyring(w.kms, w.alias, o...)
		},
		"any key": func(o ...func(*materials.KeyringOptions)) materials.Keyring {
			return materials.NewKmsDecryptOnlyAnyKeyKeyring(w.kms, o...)
		},
		"old key": func(o ...func(*materials.KeyringOptions)) materials.Keyring {
			return materials.NewKmsKeyring(w.kms, w.old, o...)
		},
	} {
		for _, key := range []string{"metadata", "with context", "legacy", "instruction file", "left"} {
			read := w.reader(t, keyring())
			if key == "legacy" {
				read = w.reader(t, keyring(func(o *materials.KeyringOptions) { o.EnableLegacyWrappingAlgorithms = true }))
			}
			got, err := read(key)
			if name == "old key" || key == "left" {
				if err == nil {
					t.Errorf("%s opens %s", name, key)
				}
			} else if err != nil || got != plaintext {
				t.Errorf("%s, %s: %q, %v", name, key, got, err)
			}
		}
	}
}

// legacy writes what older clients wrote: the wrap algorithm is kms, and the encryption
// context has the id of the KMS key.
func (w *world) legacy(t *testing.T, key string) {
	t.Helper()
	about := map[string]string{"kms_cmk_id": w.old}
	out, err := w.kms.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &w.old, NumberOfBytes: aws.Int32(32), EncryptionContext: about})
	if err != nil {
		t.Fatal(err)
	}
	description, err := json.Marshal(about)
	if err != nil {
		t.Fatal(err)
	}
	iv := random(12)
	body := aesGCM(t, out.Plaintext).Seal(nil, iv, []byte(plaintext), nil)
	w.put(t, key, body, map[string]string{
		"x-amz-key-v2": base64.StdEncoding.EncodeToString(out.CiphertextBlob), "x-amz-iv": base64.StdEncoding.EncodeToString(iv),
		"x-amz-matdesc": string(description), "x-amz-wrap-alg": "kms", "x-amz-cek-alg": "AES/GCM/NoPadding", "x-amz-tag-len": "128", "x-amz-unencrypted-content-length": "9",
	})
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // which never fails
	return b
}

func aesGCM(t *testing.T, key []byte) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return aead
}

// Version 4 of the client for Go, which writes version 3 of the format, is no module that
// everybody can get, so that module s3clientv4 has it. Writer and reader are ours here, after
// its source at v4.0.0 (internal/key_derivation.go, aes_gcm_committing_content_cipher.go,
// object_metadata.go).
func TestS3ClientV3(t *testing.T) {
	w := newWorld(t)
	for _, key := range []string{"metadata", "instruction file", "left"} {
		w.writeV3(t, key)
		if got, err := w.readV3(t, w.alias, key); err != nil || got != plaintext {
			t.Fatal(got, err)
		}
	}
	w.intoInstructionFile(t, "instruction file", "x-amz-c", "x-amz-d", "x-amz-i")
	w.move(t, "metadata", clientside.S3ClientV3, clientside.InMetadata)
	w.move(t, "instruction file", clientside.S3ClientV3, clientside.InInstructionFile)
	w.retire(t)
	for _, key := range []string{"metadata", "instruction file", "left"} {
		if got, err := w.readV3(t, w.alias, key); (err != nil || got != plaintext) != (key == "left") {
			t.Errorf("%s: %q, %v", key, got, err)
		}
	}
}

const suite = "\x00\x73"

// deriveV3 returns the keys of an object.
func deriveV3(t *testing.T, dataKey, messageID []byte) (key, commitment []byte) {
	t.Helper()
	prk, err := hkdf.Extract(sha512.New, dataKey, messageID)
	if err != nil {
		t.Fatal(err)
	}
	key, err1 := hkdf.Expand(sha512.New, prk, suite+"DERIVEKEY", 32)
	commitment, err2 := hkdf.Expand(sha512.New, prk, suite+"COMMITKEY", 28)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return key, commitment
}

var nonceV3 = bytes.Repeat([]byte{1}, 12)

func (w *world) writeV3(t *testing.T, key string) {
	t.Helper()
	about := map[string]string{"aws:x-amz-cek-alg": "115", "tenant": "a"}
	out, err := w.kms.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &w.alias, NumberOfBytes: aws.Int32(32), EncryptionContext: about})
	if err != nil {
		t.Fatal(err)
	}
	description, err := json.Marshal(about)
	if err != nil {
		t.Fatal(err)
	}
	id := random(28)
	secret, commitment := deriveV3(t, out.Plaintext, id)
	w.put(t, key, aesGCM(t, secret).Seal(nil, nonceV3, []byte(plaintext), []byte(suite)), map[string]string{
		"x-amz-c": "115", "x-amz-3": base64.StdEncoding.EncodeToString(out.CiphertextBlob), "x-amz-m": "", "x-amz-t": string(description), "x-amz-w": "12",
		"x-amz-d": base64.StdEncoding.EncodeToString(commitment), "x-amz-i": base64.StdEncoding.EncodeToString(id), "mine": "too",
	})
}

func (w *world) readV3(t *testing.T, keyID, key string) (string, error) {
	t.Helper()
	metadata := w.head(t, key)
	if metadata["x-amz-3"] == "" {
		file := map[string]string{}
		if err := json.Unmarshal(w.body(t, key+clientside.InstructionSuffix), &file); err != nil {
			t.Fatal(err)
		}
		maps.Copy(metadata, file)
	}
	value := func(name string) []byte {
		b, err := base64.StdEncoding.DecodeString(metadata[name])
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var about map[string]string
	if err := json.Unmarshal([]byte(metadata["x-amz-t"]), &about); err != nil {
		t.Fatal(err)
	}
	out, err := w.kms.Decrypt(t.Context(), &kms.DecryptInput{KeyId: &keyID, CiphertextBlob: value("x-amz-3"), EncryptionContext: about})
	if err != nil {
		return "", err
	}
	secret, commitment := deriveV3(t, out.Plaintext, value("x-amz-i"))
	if !bytes.Equal(commitment, value("x-amz-d")) {
		t.Errorf("%s: the commitment is another", key)
	}
	got, err := aesGCM(t, secret).Open(nil, nonceV3, w.body(t, key), []byte(suite))
	return string(got), err
}
