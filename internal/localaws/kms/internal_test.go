package kms

import (
	"bytes"
	"testing"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// Whatever is handed in as a ciphertext, only what was sealed opens.
func FuzzOpen(f *testing.F) {
	k := &key{id: wire.NewUUID(), materials: []*material{newMaterial(newSecret(), materialCurrent)}}
	context := map[string]string{"a": "b"}
	sealed := k.seal([]byte("data"), context)
	f.Add(sealed)
	f.Add(sealed[:len(sealed)-1])
	f.Add([]byte(blobStart))
	f.Fuzz(func(t *testing.T, ciphertext []byte) {
		p, ok := parseBlob(ciphertext)
		if !ok {
			return
		}
		if plaintext, _, err := k.open(p, context); err == nil && !bytes.Equal(ciphertext, sealed) {
			t.Errorf("%x opens as %q", ciphertext, plaintext)
		}
	})
}

func TestEncryptionContextIsUnambiguous(t *testing.T) {
	for _, other := range []map[string]string{nil, {"ab": ""}, {"a": "b", "": ""}, {"a": "bc"}} {
		if bytes.Equal(authenticated(nil, map[string]string{"a": "b"}), authenticated(nil, other)) {
			t.Errorf("%v authenticates as another context", other)
		}
	}
}

func BenchmarkForS3(b *testing.B) {
	s := New(Config{Account: "111122223333", Region: "us-east-1"})
	defer s.Close()
	c := wire.Caller{AccountID: "111122223333", ARN: "arn:aws:iam::111122223333:user/ada"}
	arn, err := s.ResolveKey(managedAlias)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		_, sealed, _, err := s.GenerateDataKey(c, arn, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := s.Decrypt(c, sealed, nil); err != nil {
			b.Fatal(err)
		}
	}
}
