package interop

import (
	"bytes"
	"io"
	"testing"

	"github.com/tink-crypto/tink-go-awskms/v3/integration/awskms"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/core/registry"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"github.com/tink-crypto/tink-go/v2/tink"
	"google.golang.org/protobuf/proto"

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

// keysetForms are how Tink writes keysets.
var keysetForms = map[string]struct {
	writer func(io.Writer) keyset.Writer
	reader func(io.Reader) keyset.Reader
	sure   bool
}{
	"JSON":   {func(w io.Writer) keyset.Writer { return keyset.NewJSONWriter(w) }, func(r io.Reader) keyset.Reader { return keyset.NewJSONReader(r) }, true},
	"binary": {func(w io.Writer) keyset.Writer { return keyset.NewBinaryWriter(w) }, func(r io.Reader) keyset.Reader { return keyset.NewBinaryReader(r) }, false},
	// Writers of other languages than Go leave the information there.
	"binary with info": {func(w io.Writer) keyset.Writer { return withInfo{keyset.NewBinaryWriter(w), w} }, func(r io.Reader) keyset.Reader { return keyset.NewBinaryReader(r) }, false},
}

type withInfo struct {
	keyset.Writer
	to io.Writer
}

func (w withInfo) WriteEncrypted(k *tink_go_proto.EncryptedKeyset) error {
	b, err := proto.Marshal(k)
	if err == nil {
		_, err = w.to.Write(b)
	}
	return err
}

// writeKeyset returns a new keyset that the KMS key encrypted, and what was encrypted with it.
func writeKeyset(t *testing.T, form string, by tink.AEAD, about []byte) (body, sealed []byte) {
	t.Helper()
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		t.Fatal(err)
	}
	primitive, err := aead.New(handle)
	if err != nil {
		t.Fatal(err)
	}
	if sealed, err = primitive.Encrypt([]byte(plaintext), nil); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := handle.WriteWithAssociatedData(keysetForms[form].writer(&out), by, about); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), sealed
}

// readKeyset decrypts what was encrypted with a keyset.
func readKeyset(form string, body []byte, by tink.AEAD, about, sealed []byte) (string, error) {
	handle, err := keyset.ReadWithAssociatedData(keysetForms[form].reader(bytes.NewReader(body)), by, about)
	if err != nil {
		return "", err
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return "", err
	}
	got, err := primitive.Decrypt(sealed, nil)
	return string(got), err
}

func TestKeysetsOfTink(t *testing.T) {
	w := newWorld(t)
	client := tinkClient(t, w)
	remote, err := client.GetAEAD("aws-kms://" + w.alias)
	if err != nil {
		t.Fatal(err)
	}
	older, err := awskms.NewClientWithOptions(t.Context(), "aws-kms://", awskms.WithKMS(w.kms), awskms.WithEncryptionContextName(awskms.LegacyAdditionalData))
	if err != nil {
		t.Fatal(err)
	}
	legacy, err := older.GetAEAD("aws-kms://" + w.alias)
	if err != nil {
		t.Fatal(err)
	}
	type written struct {
		form         string
		by           tink.AEAD
		body, sealed []byte
		about        []byte
	}
	var moved []written
	for name, tc := range map[string]struct {
		by      tink.AEAD
		about   string
		context map[string]string // nil: it is known
	}{
		"no associated data":    {remote, "", map[string]string{}},
		"associated data":       {remote, "tenant a", map[string]string{"associatedData": "74656e616e742061"}},
		"older associated data": {legacy, "tenant a", map[string]string{"additionalData": "74656e616e742061"}},
		"by Tink's envelope":    {aead.NewKMSEnvelopeAEAD2(aead.AES256GCMKeyTemplate(), remote), "tenant a", nil},
	} {
		for form, how := range keysetForms {
			t.Run(name+", "+form, func(t *testing.T) {
				about := []byte(tc.about)
				body, sealed := writeKeyset(t, form, tc.by, about)
				f := clientside.ByContent(body, int64(len(body)))
				if f.Format != clientside.TinkKeyset || f.Sure != how.sure || f.Refusal != "" || len(f.Keys) != 1 || f.Keys[0].ContextUnknown != (tc.context != nil) {
					t.Fatalf("found %+v", f)
				}
				if len(tc.context) > 0 {
					if _, err := f.Rewrap(t.Context(), w.kms, clientside.Move{From: []string{w.old}, To: w.new}); err == nil {
						t.Error("moves without the associated data")
					}
				}
				out, err := f.Rewrap(t.Context(), w.kms, clientside.Move{From: []string{w.old}, To: w.new, Context: tc.context})
				if err != nil || out.Moved != 1 {
					t.Fatalf("moved %d, %v", out.Moved, err)
				}
				if _, err := readKeyset(form, out.Body, tc.by, about, sealed); err == nil {
					t.Error("is not under the new key")
				}
				moved = append(moved, written{form, tc.by, out.Body, sealed, about})
			})
		}
	}
	w.retire(t)
	for _, m := range moved {
		if got, err := readKeyset(m.form, m.body, m.by, m.about, m.sealed); err != nil || got != plaintext {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := readKeyset(m.form, m.body, m.by, []byte("other"), m.sealed); err == nil {
			t.Error("opens with other associated data")
		}
	}
	if len(moved) != 12 {
		t.Errorf("%d were read", len(moved))
	}
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
