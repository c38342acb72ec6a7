package kms

import (
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// GenerateDataKey is what S3 calls to encrypt an object for the caller: a new
// 256-bit data key, in plaintext and encrypted under the key, which is named by
// id, ARN or alias. An error is a *wire.Error with KMS's own code.
func (s *Service) GenerateDataKey(c wire.Caller, keyID string, encryptionContext map[string]string) (plaintext, ciphertext []byte, keyARN string, err error) {
	in := &generateDataKeyInput{KeyID: keyID, KeySpec: "AES_256", EncryptionContext: encryptionContext}
	var out generateDataKeyOutput
	_, err = s.do(s.forS3(c, "GenerateDataKey", in), func(c *call) (any, error) {
		out, err = generateDataKey(c, in)
		return nil, err
	})
	return out.Plaintext, out.CiphertextBlob, out.KeyID, err
}

// Decrypt is what S3 calls to read an object for the caller. The key is the one
// that the ciphertext names; when it was deleted the error is a
// NotFoundException. An error is a *wire.Error with KMS's own code.
func (s *Service) Decrypt(c wire.Caller, ciphertext []byte, encryptionContext map[string]string) (plaintext []byte, keyARN string, err error) {
	in := &decryptInput{CiphertextBlob: ciphertext, KeyID: keyOf(ciphertext), EncryptionContext: encryptionContext}
	var out decryptOutput
	_, err = s.do(s.forS3(c, "Decrypt", in), func(c *call) (any, error) {
		out, err = decrypt(c, in)
		return nil, err
	})
	return out.Plaintext, out.KeyID, err
}

// ReEncrypt is what S3 calls to move an object's data key to another key
// without revealing it. An error is a *wire.Error with KMS's own code.
func (s *Service) ReEncrypt(c wire.Caller, ciphertext []byte, from map[string]string, keyID string, to map[string]string) (out []byte, keyARN string, err error) {
	in := &reEncryptInput{
		CiphertextBlob: ciphertext, SourceKeyID: keyOf(ciphertext), SourceEncryptionContext: from,
		DestinationKeyID: keyID, DestinationEncryptionContext: to,
	}
	var answer reEncryptOutput
	_, err = s.do(s.forS3(c, "ReEncrypt", in), func(c *call) (any, error) {
		answer, err = reEncrypt(c, in)
		return nil, err
	})
	return answer.CiphertextBlob, answer.KeyID, err
}

// ResolveKey returns the ARN of the key that an id, a key ARN, an alias name or
// an alias ARN names. The AWS managed key of "alias/aws/s3" is created when it
// is first asked for. The error is a *wire.Error, NotFoundException as a rule.
func (s *Service) ResolveKey(keyID string) (arn string, err error) {
	err = s.look(keyID, func(k *key) error {
		arn = k.arn
		return nil
	})
	return arn, err
}

// look calls f with the key, under the lock. It is no call of the API and leaves no record.
func (s *Service) look(keyID string, f func(k *key) error) error {
	s.mu.Lock()
	s.advance(time.Now())
	k, err := s.find(keyID, byAnyName)
	if err == nil {
		err = f(k)
	}
	s.mu.Unlock()
	s.trail.Flush()
	return err
}

// Usable returns why the key that an id, a key ARN, an alias name or an alias ARN
// names encrypts nothing at this moment: a *wire.Error with KMS's own code, or nil.
// The AWS managed keys of other services than S3 do not exist here, and work.
func (s *Service) Usable(keyID string) error {
	if strings.HasPrefix(keyID[strings.LastIndexByte(keyID, ':')+1:], "alias/aws/") {
		return nil
	}
	return s.look(keyID, (*key).ready)
}

func (s *Service) forS3(c wire.Caller, name string, params any) *call {
	return &call{
		name: name, readOnly: true, params: params, caller: c, requestID: wire.NewUUID(),
		via: "s3." + s.region + ".amazonaws.com",
	}
}
