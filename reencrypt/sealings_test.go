package reencrypt

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/clientside"
	"github.com/cmkeeper/cmkeeper/envelope"
)

// Sealing is a way in which an application stores a data key with what it encrypts. It is
// read here without the product's code. That the programs whose formats these are can
// read it is shown in module interop.
type Sealing struct {
	Format clientside.Format
	// Write returns an object of the ciphertext, and its instruction file where there is one,
	// with a new data key under a key of KMS.
	Write func(k *Keys, under, text string) (metadata map[string]string, body, instruction string)
	// Find returns the wrapped data key of what Write wrote, and its encryption context.
	Find func(metadata map[string]string, body, instruction string) ([]byte, map[string]string)
}

// Keys makes data keys and reads them.
type Keys struct {
	T   testing.TB
	KMS *kms.Client
}

var (
	v2Context = map[string]string{"aws:x-amz-cek-alg": "AES/GCM/NoPadding", "tenant": "a"}
	v3Context = map[string]string{"aws:x-amz-cek-alg": "115"}
)

func (k *Keys) dataKey(under string, about map[string]string) []byte {
	k.T.Helper()
	out, err := k.KMS.GenerateDataKey(k.T.Context(), &kms.GenerateDataKeyInput{KeyId: &under, NumberOfBytes: aws.Int32(32), EncryptionContext: about})
	if err != nil {
		k.T.Fatal(err)
	}
	return out.CiphertextBlob
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func unb64(text string) []byte {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return b
}

func object2json(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func v2Metadata(k *Keys, under string) map[string]string {
	return map[string]string{
		"x-amz-key-v2": b64(k.dataKey(under, v2Context)), "x-amz-iv": "AAAAAAAAAAAAAAAA", "x-amz-wrap-alg": "kms+context", "x-amz-cek-alg": "AES/GCM/NoPadding",
		"x-amz-matdesc": object2json(v2Context), "x-amz-tag-len": "128", "x-amz-unencrypted-content-length": "18", "of-the-application": "stays",
	}
}

func v3Wrapped(k *Keys, under string) map[string]string {
	return map[string]string{"x-amz-3": b64(k.dataKey(under, v3Context)), "x-amz-w": "12", "x-amz-t": object2json(v3Context)}
}

func fromInstruction(name string, about map[string]string) func(map[string]string, string, string) ([]byte, map[string]string) {
	return func(_ map[string]string, _, instruction string) ([]byte, map[string]string) {
		var members map[string]string
		if err := json.Unmarshal([]byte(instruction), &members); err != nil {
			panic(err)
		}
		return unb64(members[name]), about
	}
}

// Sealings are those of which data keys move.
var Sealings = map[string]Sealing{
	"v2": {
		Format: clientside.S3ClientV2,
		Write: func(k *Keys, under, text string) (map[string]string, string, string) {
			return v2Metadata(k, under), text, ""
		},
		Find: func(metadata map[string]string, _, _ string) ([]byte, map[string]string) {
			return unb64(metadata["x-amz-key-v2"]), v2Context
		},
	},
	"v3": {
		Format: clientside.S3ClientV3,
		Write: func(k *Keys, under, text string) (map[string]string, string, string) {
			metadata := v3Wrapped(k, under)
			maps.Copy(metadata, map[string]string{"x-amz-c": "115", "x-amz-d": "commitment", "x-amz-i": "message id"})
			return metadata, text, ""
		},
		Find: func(metadata map[string]string, _, _ string) ([]byte, map[string]string) {
			return unb64(metadata["x-amz-3"]), v3Context
		},
	},
	"v2-instruction": {
		Format: clientside.S3ClientV2,
		Write: func(k *Keys, under, text string) (map[string]string, string, string) {
			return map[string]string{"of-the-application": "stays"}, text, object2json(v2Metadata(k, under))
		},
		Find: fromInstruction("x-amz-key-v2", v2Context),
	},
	"v3-instruction": {
		Format: clientside.S3ClientV3,
		Write: func(k *Keys, under, text string) (map[string]string, string, string) {
			return map[string]string{"x-amz-c": "115", "x-amz-d": "commitment", "x-amz-i": "message id"}, text, object2json(v3Wrapped(k, under))
		},
		Find: fromInstruction("x-amz-3", v3Context),
	},
	"raw": {
		Format: clientside.KMSCiphertext,
		Write: func(k *Keys, under, _ string) (map[string]string, string, string) {
			return nil, string(k.dataKey(under, nil)), ""
		},
		Find: func(_ map[string]string, body, _ string) ([]byte, map[string]string) { return []byte(body), nil },
	},
	"tink": {
		Format: clientside.Tink,
		Write: func(k *Keys, under, text string) (map[string]string, string, string) {
			blob := k.dataKey(under, nil)
			return nil, string(binary.BigEndian.AppendUint32(nil, uint32(len(blob)))) + string(blob) + text, ""
		},
		Find: func(_ map[string]string, body, _ string) ([]byte, map[string]string) {
			return []byte(body)[4 : 4+binary.BigEndian.Uint32([]byte(body))], nil
		},
	},
	"sops": {
		Format: clientside.SOPS,
		Write: func(k *Keys, under, text string) (map[string]string, string, string) {
			return nil, fmt.Sprintf("a: ENC[AES256_GCM,data:%s,iv:QQ==,tag:QQ==,type:str]\nsops:\n  kms:\n  - arn: %s\n    context:\n      tenant: a\n    enc: %s\n  lastmodified: x\n  version: 3.0.0\n",
				b64([]byte(text)), under, b64(k.dataKey(under, map[string]string{"tenant": "a"}))), ""
		},
		Find: func(_ map[string]string, body, _ string) ([]byte, map[string]string) {
			_, enc, _ := strings.Cut(body, "enc: ")
			enc, _, _ = strings.Cut(enc, "\n")
			return unb64(enc), map[string]string{"tenant": "a"}
		},
	},
	"own": {
		Format: clientside.Envelope,
		Write: func(k *Keys, under, text string) (map[string]string, string, string) {
			sealer, err := envelope.New(k.KMS, under, envelope.Options{})
			if err != nil {
				k.T.Fatal(err)
			}
			message, err := sealer.Seal(k.T.Context(), []byte(text), map[string]string{"tenant": "a"})
			if err != nil {
				k.T.Fatal(err)
			}
			return nil, string(message), ""
		},
		Find: func(_ map[string]string, body, _ string) ([]byte, map[string]string) {
			rest := []byte(body)[8:] // the magic number and the version; docs/envelope-format.md
			rest = rest[2+binary.BigEndian.Uint16(rest):]
			return rest[2 : 2+binary.BigEndian.Uint16(rest)], map[string]string{"tenant": "a"}
		},
	},
}

// Secret returns the data key, and the ARN of the KMS key that it is under.
func (k *Keys) Secret(wrapped []byte, about map[string]string) (secret, under string) {
	k.T.Helper()
	out, err := k.KMS.Decrypt(k.T.Context(), &kms.DecryptInput{CiphertextBlob: wrapped, EncryptionContext: about})
	if err != nil {
		k.T.Fatal(err)
	}
	return string(out.Plaintext), *out.KeyId
}

// Blank takes what a re-wrap may change out of a text: the wrapped data key and the ARN of
// the KMS key.
func Blank(text string, wrapped []byte, under string) string {
	return strings.NewReplacer(b64(wrapped), "…", string(wrapped), "…", under, "…").Replace(text)
}
