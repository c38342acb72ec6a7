package s3_test

import (
	"crypto/rand"
	"encoding/json"
	"maps"
	"strings"
	"sync"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// keyring is a KMS of the tests: what it wraps is bound to its key and its
// encryption context, and a key can be broken.
type keyring struct {
	mu      sync.Mutex
	aliases map[string]string // alias name → key ARN
	errors  map[string]error  // by key ARN
	wrapped map[string]wrapped
	calls   []string
}

type wrapped struct {
	keyARN    string
	context   map[string]string
	plaintext []byte
}

const (
	keyA = "arn:aws:kms:us-east-1:000000000000:key/aaaaaaaa-0000-4000-8000-000000000001"
	keyB = "arn:aws:kms:us-east-1:000000000000:key/bbbbbbbb-0000-4000-8000-000000000002"
	keyS = "arn:aws:kms:us-east-1:000000000000:key/55555555-0000-4000-8000-000000000003"
)

func newKeyring() *keyring {
	return &keyring{
		aliases: map[string]string{"alias/app": keyA, "alias/aws/s3": keyS},
		errors:  map[string]error{}, wrapped: map[string]wrapped{},
	}
}

func (k *keyring) breakKey(arn, code string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.errors[arn] = wire.Errorf(400, code, "%s", arn)
}

func (k *keyring) usable(arn string) error { return k.errors[arn] }

func (k *keyring) ResolveKey(id string) (string, error) {
	name := id
	if i := strings.Index(id, ":alias/"); i >= 0 {
		name = id[i+1:]
	}
	if arn, ok := k.aliases[name]; ok {
		return arn, nil
	}
	for _, arn := range []string{keyA, keyB, keyS} {
		if id == arn || strings.HasSuffix(arn, "/"+id) {
			return arn, nil
		}
	}
	return "", wire.Errorf(400, "NotFoundException", "Key %q does not exist", id)
}

func (k *keyring) wrap(arn string, plaintext []byte, context map[string]string) []byte {
	blob := make([]byte, 32)
	_, _ = rand.Read(blob)
	k.wrapped[string(blob)] = wrapped{arn, context, plaintext}
	return blob
}

func (k *keyring) unwrap(blob []byte, context map[string]string) (wrapped, error) {
	w, ok := k.wrapped[string(blob)]
	if !ok || !maps.Equal(w.context, context) {
		return w, wire.Errorf(400, "InvalidCiphertextException", "")
	}
	return w, k.usable(w.keyARN)
}

func (k *keyring) GenerateDataKey(_ wire.Caller, id string, context map[string]string) ([]byte, []byte, string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.note("GenerateDataKey", context)
	arn, err := k.ResolveKey(id)
	if err == nil {
		err = k.usable(arn)
	}
	if err != nil {
		return nil, nil, "", err
	}
	plaintext := make([]byte, 32)
	_, _ = rand.Read(plaintext)
	return plaintext, k.wrap(arn, plaintext, context), arn, nil
}

func (k *keyring) Decrypt(_ wire.Caller, blob []byte, context map[string]string) ([]byte, string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.note("Decrypt", context)
	w, err := k.unwrap(blob, context)
	return w.plaintext, w.keyARN, err
}

func (k *keyring) ReEncrypt(_ wire.Caller, blob []byte, from map[string]string, id string, to map[string]string) ([]byte, string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.note("ReEncrypt", to)
	w, err := k.unwrap(blob, from)
	if err != nil {
		return nil, "", err
	}
	arn, err := k.ResolveKey(id)
	if err == nil {
		err = k.usable(arn)
	}
	if err != nil {
		return nil, "", err
	}
	return k.wrap(arn, w.plaintext, to), arn, nil
}

func (k *keyring) note(call string, context map[string]string) {
	raw, _ := json.Marshal(context)
	k.calls = append(k.calls, call+" "+string(raw))
}
