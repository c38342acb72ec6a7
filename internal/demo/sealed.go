package demo

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/cmkeeper/cmkeeper/envelope"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

const (
	// vault is the bucket of what the application encrypts itself, before S3 does.
	vault = "demo-vault"
	// overwritten is a bucket with versions, which has one such object.
	overwritten = "demo-orders"
	// unversioned is the id of an object's only version in a bucket without versions.
	unversioned = "null"
)

// secret is what the application encrypted, and whose it is.
type secret struct{ text, tenant string }

// tenantRules are the application's rules about encryption contexts.
var tenantRules = envelope.Rules{Required: []string{"tenant"}}

// seal stores objects that the application has encrypted itself, with data keys under the
// key of dataAlias: in the formats 2 and 3 of the S3 Encryption Client, and as messages of
// package envelope.
func (st *stage) seal(ctx context.Context, keys *kms.Client) error {
	sealer, err := envelope.New(keys, "arn:aws:kms:"+sandbox.Region+":"+sandbox.Account+":"+dataAlias, envelope.Options{Rules: tenantRules})
	if err != nil {
		return err
	}
	defer sealer.Close()
	message := func(ctx context.Context, _ *kms.Client, s secret) ([]byte, map[string]string, error) {
		body, err := sealer.Seal(ctx, []byte(s.text), map[string]string{"tenant": s.tenant})
		return body, nil, err
	}
	st.sealed = map[version]secret{}
	for _, of := range []struct {
		bucket, prefix string
		count          int
		seal           func(context.Context, *kms.Client, secret) ([]byte, map[string]string, error)
	}{
		{vault, "client-v2/", 8, clientV2.seal}, {vault, "client-v3/", 8, clientV3.seal}, {vault, "envelope/", 8, message},
		{overwritten, "sealed/", 1, clientV2.seal},
	} {
		b := bucket{name: of.bucket, classes: []s3types.StorageClass{s3types.StorageClassStandard, s3types.StorageClassStandardIa}}
		for i := range of.count {
			in := object(b, of.prefix, i)
			s := secret{"the secret of " + *in.Key, in.Metadata["owner"]}
			body, metadata, err := of.seal(ctx, keys, s)
			if err != nil {
				return fmt.Errorf("seal %q: %w", *in.Key, err)
			}
			in.Body = bytes.NewReader(body)
			maps.Copy(in.Metadata, metadata)
			if err := st.put(ctx, in); err != nil {
				return err
			}
			st.sealed[version{bucket: of.bucket, key: *in.Key}] = s
		}
	}
	return nil
}

// secretOf returns what the application encrypted itself, if it did, whatever the version.
func (st *stage) secretOf(at version) (s secret, sealed bool) {
	s, sealed = st.sealed[version{bucket: at.bucket, key: at.key}]
	return s, sealed
}

// clientFormat is a version of the S3 Encryption Client's format, by the public source of
// its module for Go (v4, internal/object_metadata.go and key_derivation.go).
type clientFormat struct {
	wrapped, context, unique string // names of metadata
	algorithm                string // in the encryption context
	size                     int    // of what is unique: an IV, or the message's id
	fixed                    map[string]string
	// commits: the content key is derived from the data key, and so is a commitment to it.
	commits bool
}

var (
	clientV2 = &clientFormat{
		wrapped: "x-amz-key-v2", context: "x-amz-matdesc", unique: "x-amz-iv", algorithm: "AES/GCM/NoPadding", size: 12,
		fixed: map[string]string{"x-amz-wrap-alg": "kms+context", "x-amz-cek-alg": "AES/GCM/NoPadding", "x-amz-tag-len": "128"},
	}
	clientV3 = &clientFormat{
		wrapped: "x-amz-3", context: "x-amz-t", unique: "x-amz-i", algorithm: "115", size: 28,
		fixed: map[string]string{"x-amz-w": "12", "x-amz-c": "115"}, commits: true,
	}
)

var clientFormats = []*clientFormat{clientV2, clientV3}

const (
	cekAlgorithm = "aws:x-amz-cek-alg" // in the encryption context
	commitmentV3 = "x-amz-d"
	suiteV3      = "\x00\x73" // 115
)

// contentCipher is what an object's content is encrypted with.
type contentCipher struct {
	aead         cipher.AEAD
	nonce, bound []byte
	commitment   string // "" where the format has none
}

func (f *clientFormat) cipher(dataKey, unique []byte) (c contentCipher, err error) {
	key := dataKey
	c.nonce = unique
	if f.commits {
		prk, err1 := hkdf.Extract(sha512.New, dataKey, unique)
		derived, err2 := hkdf.Expand(sha512.New, prk, suiteV3+"DERIVEKEY", 32)
		commitment, err3 := hkdf.Expand(sha512.New, prk, suiteV3+"COMMITKEY", 28)
		if err := errors.Join(err1, err2, err3); err != nil {
			return c, err
		}
		key, c.nonce, c.bound = derived, bytes.Repeat([]byte{1}, 12), []byte(suiteV3)
		c.commitment = base64.StdEncoding.EncodeToString(commitment)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return c, err
	}
	c.aead, err = cipher.NewGCM(block)
	return c, err
}

// seal returns the body and the metadata that the client writes.
func (f *clientFormat) seal(ctx context.Context, client *kms.Client, s secret) ([]byte, map[string]string, error) {
	about := map[string]string{cekAlgorithm: f.algorithm, "tenant": s.tenant}
	key, err := client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: aws.String(dataAlias), KeySpec: kmstypes.DataKeySpecAes256, EncryptionContext: about})
	if err != nil {
		return nil, nil, err
	}
	description, err := json.Marshal(about)
	if err != nil {
		return nil, nil, err
	}
	unique := make([]byte, f.size)
	rand.Read(unique) // which never fails
	c, err := f.cipher(key.Plaintext, unique)
	if err != nil {
		return nil, nil, err
	}
	metadata := maps.Clone(f.fixed)
	metadata[f.wrapped] = base64.StdEncoding.EncodeToString(key.CiphertextBlob)
	metadata[f.unique] = base64.StdEncoding.EncodeToString(unique)
	metadata[f.context] = string(description)
	if f.commits {
		metadata[commitmentV3] = c.commitment
	} else {
		metadata["x-amz-unencrypted-content-length"] = strconv.Itoa(len(s.text))
	}
	return c.aead.Seal(nil, c.nonce, []byte(s.text), c.bound), metadata, nil
}

// open returns the plaintext of an object that belongs to a tenant, with the KMS key that
// is named and no other.
func (f *clientFormat) open(ctx context.Context, client *kms.Client, key, tenant string, body []byte, metadata map[string]string) (string, error) {
	for name, value := range f.fixed {
		if metadata[name] != value {
			return "", fmt.Errorf("its metadata has %q as %s; want %q", metadata[name], name, value)
		}
	}
	var about map[string]string
	wrapped, err1 := base64.StdEncoding.DecodeString(metadata[f.wrapped])
	unique, err2 := base64.StdEncoding.DecodeString(metadata[f.unique])
	if err := errors.Join(err1, err2, json.Unmarshal([]byte(metadata[f.context]), &about)); err != nil {
		return "", fmt.Errorf("its metadata: %w", err)
	}
	if len(unique) != f.size || about["tenant"] != tenant || about[cekAlgorithm] != f.algorithm {
		return "", fmt.Errorf("its metadata has an IV or id of %d bytes and the encryption context %q", len(unique), about)
	}
	out, err := client.Decrypt(ctx, &kms.DecryptInput{KeyId: &key, CiphertextBlob: wrapped, EncryptionContext: about})
	if err != nil {
		return "", err
	}
	c, err := f.cipher(out.Plaintext, unique)
	if err != nil {
		return "", err
	}
	if c.commitment != metadata[commitmentV3] {
		return "", errors.New("its commitment is to another data key")
	}
	text, err := c.aead.Open(nil, c.nonce, body, c.bound)
	return string(text), err
}

// split takes the wrapped data key, and the name of its KMS key, out of what is stored.
func split(body []byte, metadata map[string]string) (wrapped string, rest []byte, others map[string]string) {
	others = maps.Clone(metadata)
	for _, f := range clientFormats {
		wrapped += others[f.wrapped]
		delete(others, f.wrapped)
	}
	// A message of package envelope, by docs/envelope-format.md: what it begins with, the
	// key's ARN and the wrapped key, each after its length, and all else.
	const start = "\x8bCMKENV\x01"
	after, ok := bytes.CutPrefix(body, []byte(start))
	for range 2 {
		if !ok || len(after) < 2 || len(after)-2 < int(binary.BigEndian.Uint16(after)) {
			return wrapped, body, others
		}
		size := 2 + int(binary.BigEndian.Uint16(after))
		wrapped, after = wrapped+string(after[:size]), after[size:]
	}
	return wrapped, after, others
}

// checkSealed opens what the application encrypted itself with the new key alone, and with
// other code than moved it. A version that was current before its data key moved keeps its
// own data key under the old one.
func (v *verifier) checkSealed(ctx context.Context) error {
	counts := &v.summary.Envelopes
	counts.Left = []string{}
	client := kms.NewFromConfig(v.stage.box.Config(operator))
	sealer, err := envelope.New(client, v.stage.newKey, envelope.Options{Rules: tenantRules, Trusted: []string{v.stage.newKey}})
	if err != nil {
		return err
	}
	defer sealer.Close()
	open := func(at version, tenant string) (text, wrapped string, err error) {
		out, body, err := v.stage.get(ctx, at)
		if err != nil {
			return "", "", err
		}
		wrapped, _, _ = split(body, out.Metadata)
		for _, f := range clientFormats {
			if out.Metadata[f.wrapped] != "" {
				text, err = f.open(ctx, client, v.stage.newKey, tenant, body, out.Metadata)
				return text, wrapped, err
			}
		}
		opened, err := sealer.Open(ctx, body, map[string]string{"tenant": tenant})
		return string(opened), wrapped, err
	}
	for at, was := range v.before {
		secret, sealed := v.stage.secretOf(at)
		if !sealed {
			continue
		}
		counts.Objects++
		text, wrapped, err := open(version{bucket: at.bucket, key: at.key}, secret.tenant)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			v.problem("%s/%q does not open under the new key: %v", at.bucket, at.key, err)
		case text != secret.text:
			v.problem("%s/%q opens and is %q, which the application did not write", at.bucket, at.key, text)
		default:
			counts.Opened++
		}
		if wrapped != was.wrapped {
			counts.Rewrapped++
		}
		if at.id == unversioned {
			continue
		}
		_, _, err = open(at, secret.tenant)
		if _, other := errors.AsType[*kmstypes.IncorrectKeyException](err); !other {
			v.problem("%s is older than the re-wrap, and Decrypt of its data key under the new key gives %v; want IncorrectKeyException", at, err)
			continue
		}
		counts.Left = append(counts.Left, at.String())
	}
	return nil
}
