package interop

import (
	"testing"

	"github.com/tink-crypto/tink-go-awskms/v3/integration/awskms"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/core/registry"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/cmkeeper/cmkeeper/clientside"
)

// tinkClient returns Tink's client of KMS, and registers it for the keysets of primitives.
func tinkClient(t *testing.T, w *world) registry.KMSClient {
	t.Helper()
	client, err := awskms.NewClientWithOptions(t.Context(), "aws-kms://", awskms.WithKMS(w.kms))
	if err != nil {
		t.Fatal(err)
	}
	registry.RegisterKMSClient(client)
	t.Cleanup(registry.ClearKMSClients)
	return client
}

// primitives returns Tink's KMS envelope in all its forms, under the KMS key of that name.
func primitives(t *testing.T, client registry.KMSClient, name string) map[string]tink.AEAD {
	t.Helper()
	uri := "aws-kms://" + name
	remote, err := client.GetAEAD(uri)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]tink.AEAD{}
	for name, dek := range map[string]*tink_go_proto.KeyTemplate{
		"AES256-GCM": aead.AES256GCMKeyTemplate(), "AES128-CTR-HMAC": aead.AES128CTRHMACSHA256KeyTemplate(), "XChaCha20": aead.XChaCha20Poly1305KeyTemplate(),
	} {
		template, err := aead.CreateKMSEnvelopeAEADKeyTemplate(uri, dek)
		if err != nil {
			t.Fatal(err)
		}
		all["envelope of "+name] = aead.NewKMSEnvelopeAEAD2(dek, remote)
		for kind, prefix := range map[string]tink_go_proto.OutputPrefixType{"raw": tink_go_proto.OutputPrefixType_RAW, "prefixed": tink_go_proto.OutputPrefixType_TINK} {
			template.OutputPrefixType = prefix
			handle, err := keyset.NewHandle(template)
			if err != nil {
				t.Fatal(err)
			}
			if all[kind+" keyset of "+name], err = aead.New(handle); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}

// Readers of Tink name a KMS key too: they have to name the alias, or the new key.
func TestTink(t *testing.T) {
	w := newWorld(t)
	type sealedBy struct {
		primitive tink.AEAD
		sealed    []byte
	}
	var moved []sealedBy
	for name, primitive := range primitives(t, tinkClient(t, w), w.alias) {
		t.Run(name, func(t *testing.T) {
			sealed, err := primitive.Encrypt([]byte("some data"), []byte("about"))
			if err != nil {
				t.Fatal(err)
			}
			f := clientside.ByContent(sealed, int64(len(sealed)))
			if f.Format != clientside.Tink || f.Sure {
				t.Fatalf("found %+v", f)
			}
			out := w.rewrap(t, f, 1)
			if got, err := primitive.Decrypt(sealed, []byte("about")); err != nil || string(got) != "some data" {
				t.Fatalf("before: %q, %v", got, err)
			}
			if _, err := primitive.Decrypt(out.Body, []byte("about")); err == nil {
				t.Error("is not under the new key")
			}
			moved = append(moved, sealedBy{primitive, out.Body})
		})
	}
	w.retire(t)
	for _, m := range moved {
		if got, err := m.primitive.Decrypt(m.sealed, []byte("about")); err != nil || string(got) != "some data" {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := m.primitive.Decrypt(m.sealed, []byte("other")); err == nil {
			t.Error("opens with other associated data")
		}
	}
	if len(moved) != 9 {
		t.Errorf("%d were read", len(moved))
	}
}
