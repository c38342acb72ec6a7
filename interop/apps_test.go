package interop

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // the client's RSA-OAEP-SHA1
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/amazon-s3-encryption-client-go/v3/materials"
	mpl "github.com/aws/aws-cryptographic-material-providers-library/releases/go/mpl/awscryptographymaterialproviderssmithygenerated"
	mpltypes "github.com/aws/aws-cryptographic-material-providers-library/releases/go/mpl/awscryptographymaterialproviderssmithygeneratedtypes"
	esdk "github.com/aws/aws-encryption-sdk/releases/go/encryption-sdk/awscryptographyencryptionsdksmithygenerated"
	esdktypes "github.com/aws/aws-encryption-sdk/releases/go/encryption-sdk/awscryptographyencryptionsdksmithygeneratedtypes"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	"github.com/getsops/sops/v3/cmd/sops/common"
	"github.com/getsops/sops/v3/keyservice"
	sopskms "github.com/getsops/sops/v3/kms"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/cmkeeper/cmkeeper/envelope"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// stored is what an application keeps in an object, written under the old key.
type stored struct {
	want string
	// asks is how many calls of KMS ReEncrypt it takes to look at its data keys once.
	asks int
	// stays is why its data key is not moved; "" where it is, or where KMS wraps none.
	stays reencrypt.Reason
	// alias: what is stored names the alias.
	alias bool
	// readers are the names that a reader may give KMS: of an alias, of a key, or "" for none.
	readers []string
	// read has the application read the object, with such a name.
	read func(key, name string) (string, error)
}

const written = "written/" // what the keys of objects begin with that applications have just written

// apps has all applications write, and returns what by its key without written.
func apps(t *testing.T, w *world, foreign string) map[string]stored {
	t.Helper()
	all := map[string]stored{}
	w.appsOfS3Client(t, all)
	w.appsOfTink(t, all)
	w.appsOfSOPS(t, foreign, all)
	w.appsOfEncryptionSDK(t, all)

	sealer, err := envelope.New(w.kms, w.alias, envelope.Options{})
	if err != nil {
		t.Fatal(err)
	}
	about := map[string]string{"tenant": "a"}
	sealed, err := sealer.Seal(t.Context(), []byte(plaintext), about)
	if err != nil {
		t.Fatal(err)
	}
	w.put(t, written+"envelope", sealed, nil)
	all["envelope"] = stored{want: plaintext, asks: 1, readers: []string{""}, read: func(key, _ string) (string, error) {
		got, err := sealer.Open(t.Context(), w.body(t, key), about)
		return string(got), err
	}}

	// Of a ciphertext alone, nothing says what its encryption context is.
	for key, about := range map[string]map[string]string{"ciphertext": nil, "ciphertext with context": about} {
		out, err := w.kms.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &w.alias, Plaintext: []byte(plaintext), EncryptionContext: about})
		if err != nil {
			t.Fatal(err)
		}
		w.put(t, written+key, out.CiphertextBlob, nil)
		s := stored{want: plaintext, asks: 1, readers: []string{"", w.alias, w.new, w.old}, read: func(key, name string) (string, error) {
			in := &kms.DecryptInput{CiphertextBlob: w.body(t, key), EncryptionContext: about}
			if name != "" {
				in.KeyId = &name
			}
			out, err := w.kms.Decrypt(t.Context(), in)
			if err != nil {
				return "", err
			}
			return string(out.Plaintext), nil
		}}
		if about != nil { // it is asked whether it is under the new key already, too
			s.asks, s.stays, s.readers = 2, reencrypt.ReasonEnvelopeKMS, []string{""}
		}
		all[key] = s
	}
	return all
}

// large is more than what is copied at once in the tests.
var large = strings.Repeat("0123456789abcdef", 6<<16)

func (w *world) appsOfS3Client(t *testing.T, all map[string]stored) {
	t.Helper()
	readers := []string{w.alias, w.new, w.old, ""}
	read := func(o ...func(*materials.KeyringOptions)) func(key, name string) (string, error) {
		return func(key, name string) (string, error) {
			if name == "" {
				return w.reader(t, materials.NewKmsDecryptOnlyAnyKeyKeyring(w.kms, o...))(key)
			}
			return w.reader(t, materials.NewKmsKeyring(w.kms, name, o...))(key)
		}
	}
	instruction := stored{asks: 1} // is read by the one whose it is
	w.writeV2(t, written+"v2", plaintext, nil)
	all["v2"] = stored{want: plaintext, asks: 1, readers: readers, read: read()}
	w.writeV2(t, written+"v2, context", plaintext, map[string]string{"tenant": "a \"<&>\"", "number": "1"})
	all["v2, context"] = stored{want: plaintext, asks: 1, readers: readers, read: read()}
	w.writeV2(t, written+"v2, large", large, nil)
	all["v2, large"] = stored{want: large, asks: 1, readers: []string{w.alias}, read: read()}
	w.writeV2(t, written+"v2, file", plaintext, nil)
	w.intoInstructionFile(t, written+"v2, file")
	all["v2, file"] = stored{want: plaintext, readers: readers, read: read()}
	all["v2, file.instruction"] = instruction
	w.legacy(t, written+"v2, legacy")
	all["v2, legacy"] = stored{want: plaintext, asks: 1, readers: readers, read: read(func(o *materials.KeyringOptions) { o.EnableLegacyWrappingAlgorithms = true })}

	readers = readers[:3]
	readV3 := func(key, name string) (string, error) { return w.readV3(t, name, key) }
	w.writeV3(t, written+"v3")
	all["v3"] = stored{want: plaintext, asks: 1, readers: readers, read: readV3}
	w.writeV3(t, written+"v3, file")
	w.intoInstructionFile(t, written+"v3, file", "x-amz-c", "x-amz-d", "x-amz-i")
	all["v3, file"] = stored{want: plaintext, readers: readers, read: readV3}
	all["v3, file.instruction"] = instruction

	// The client for Go has no keyring for RSA: this is what the one for Java writes.
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	dataKey, iv := random(32), random(12)
	wrapped, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, &private.PublicKey, append(append([]byte{32}, dataKey...), "AES/GCM/NoPadding"...), nil) //nolint:gosec // see above
	if err != nil {
		t.Fatal(err)
	}
	w.put(t, written+"v2, RSA", aesGCM(t, dataKey).Seal(nil, iv, []byte(plaintext), nil), map[string]string{
		"x-amz-key-v2": base64.StdEncoding.EncodeToString(wrapped), "x-amz-iv": base64.StdEncoding.EncodeToString(iv), "x-amz-matdesc": "{}",
		"x-amz-wrap-alg": "RSA-OAEP-SHA1", "x-amz-cek-alg": "AES/GCM/NoPadding", "x-amz-tag-len": "128",
	})
	all["v2, RSA"] = stored{want: plaintext, readers: []string{""}, read: func(key, _ string) (string, error) {
		wrapped, err := base64.StdEncoding.DecodeString(w.head(t, key)["x-amz-key-v2"])
		if err != nil {
			return "", err
		}
		dataKey, err := rsa.DecryptOAEP(sha1.New(), nil, private, wrapped, nil) //nolint:gosec // see above
		if err != nil {
			return "", err
		}
		got, err := aesGCM(t, dataKey[1:33]).Open(nil, iv, w.body(t, key), nil)
		return string(got), err
	}}
}

func (w *world) appsOfTink(t *testing.T, all map[string]stored) {
	t.Helper()
	client := tinkClient(t, w)
	byAlias := primitives(t, client, w.alias)
	for name, primitive := range byAlias {
		text, about := plaintext, []byte("about")
		if name == "envelope of AES256-GCM" { // all of it is written anew
			text = large
		}
		sealed, err := primitive.Encrypt([]byte(text), about)
		if err != nil {
			t.Fatal(err)
		}
		key := "tink, " + name
		w.put(t, written+key, sealed, nil)
		s := stored{want: text, asks: 1, readers: []string{w.alias}, read: func(key, kmsKey string) (string, error) {
			reader := primitive
			if kmsKey != w.alias {
				reader = primitives(t, client, kmsKey)[name]
			}
			got, err := reader.Decrypt(w.body(t, key), about)
			return string(got), err
		}}
		if strings.HasPrefix(name, "envelope") && text != large { // a keyset has the KMS key's name in it
			s.readers = append(s.readers, w.new, w.old)
		}
		all[key] = s
	}
	for form := range keysetForms {
		for _, about := range []string{"", "tenant a"} {
			remote := func(kmsKey string) tink.AEAD {
				by, err := client.GetAEAD("aws-kms://" + kmsKey)
				if err != nil {
					t.Fatal(err)
				}
				return by
			}
			body, sealed := writeKeyset(t, form, remote(w.alias), []byte(about))
			key := fmt.Sprintf("tink, keyset in %s, about %q", form, about)
			w.put(t, written+key, body, nil)
			s := stored{want: plaintext, asks: 1, readers: []string{w.alias, w.new, w.old}, read: func(key, kmsKey string) (string, error) {
				return readKeyset(form, w.body(t, key), remote(kmsKey), []byte(about), sealed)
			}}
			if about != "" { // it is asked whether it is under the new key already, too
				s.asks, s.stays, s.readers = 2, reencrypt.ReasonEnvelopeKMS, []string{w.old}
			}
			all[key] = s
		}
	}
}

func (w *world) appsOfSOPS(t *testing.T, foreign string, all map[string]stored) {
	t.Helper()
	about := map[string]*string{"tenant": new("a")}
	ageKey := newAge(t)
	service := keyservice.NewLocalClient()
	for _, storeName := range []string{"YAML", "JSON", "dotenv", "INI", "binary"} {
		s := stores[storeName]
		for groupName, group := range map[string]sops.KeyGroup{
			"one key":  {sopskms.NewMasterKey(w.old, "", nil)},
			"an alias": {sopskms.NewMasterKey(w.alias, "", about)},
			"with age": {ageKey, sopskms.NewMasterKey(w.old, "", about)},
			"more":     {sopskms.NewMasterKey(w.old, "", nil), sopskms.NewMasterKey(foreign, "", about), sopskms.NewMasterKey(w.alias, "", about)},
		} {
			key := "sops, " + storeName + ", " + groupName
			read := func(key, _ string) (string, error) {
				return readSOPS(s.store, w.body(t, key), service, foreign)
			}
			w.put(t, written+key, encrypt(t, s.store, s.plain, []sops.KeyGroup{group}, service), nil)
			want, err := read(written+key, "")
			if err != nil {
				t.Fatal(err)
			}
			entry := stored{want: want, asks: len(group), alias: groupName == "an alias" || groupName == "more", readers: []string{""}, read: read}
			if groupName == "with age" {
				entry.asks--
			}
			all[key] = entry
		}
	}
	// KMS has nothing to do with this one, and nobody has the key.
	body := encrypt(t, stores["YAML"].store, stores["YAML"].plain, []sops.KeyGroup{{ageKey}}, service)
	w.put(t, written+"sops, age alone", body, nil)
	all["sops, age alone"] = stored{want: string(body), readers: []string{""}, read: func(key, _ string) (string, error) { return string(w.body(t, key)), nil }}
}

// readSOPS reads a file once with each of its entries of KMS but one, and nothing else.
func readSOPS(store common.Store, body []byte, service keyservice.KeyServiceClient, foreign string) (string, error) {
	text := ""
	for i, read := 0, false; ; i++ {
		tree, err := store.LoadEncryptedFile(body)
		if err != nil {
			return "", err
		}
		group := tree.Metadata.KeyGroups[0]
		if i == len(group) {
			if !read {
				err = errors.New("the file has no key of KMS")
			}
			return text, err
		}
		if k, ok := group[i].(*sopskms.MasterKey); !ok || k.Arn == foreign {
			continue
		}
		tree.Metadata.KeyGroups = []sops.KeyGroup{group[i : i+1]}
		if _, err := common.DecryptTree(common.DecryptTreeOpts{
			Tree: &tree, KeyServices: []keyservice.KeyServiceClient{service}, DecryptionOrder: sops.DefaultDecryptionOrder, Cipher: aes.NewCipher(),
		}); err != nil {
			return "", err
		}
		plain, err := store.EmitPlainFile(tree.Branches)
		if err != nil {
			return "", err
		}
		if read && string(plain) != text {
			return "", fmt.Errorf("entry %d of the file reads as another text", i)
		}
		text, read = string(plain), true
	}
}

func (w *world) appsOfEncryptionSDK(t *testing.T, all map[string]stored) {
	t.Helper()
	providers, err := mpl.NewClient(mpltypes.MaterialProvidersConfig{})
	if err != nil {
		t.Fatal(err)
	}
	keyring, err := providers.CreateAwsKmsKeyring(t.Context(), mpltypes.CreateAwsKmsKeyringInput{KmsClient: w.kms, KmsKeyId: w.old})
	if err != nil {
		t.Fatal(err)
	}
	about := map[string]string{"tenant": "a"}
	for key, policy := range map[string]mpltypes.ESDKCommitmentPolicy{
		"encryption SDK, version 1": mpltypes.ESDKCommitmentPolicyForbidEncryptAllowDecrypt,
		"encryption SDK, version 2": mpltypes.ESDKCommitmentPolicyRequireEncryptRequireDecrypt,
	} {
		client, err := esdk.NewClient(esdktypes.AwsEncryptionSdkConfig{CommitmentPolicy: &policy})
		if err != nil {
			t.Fatal(err)
		}
		out, err := client.Encrypt(t.Context(), esdktypes.EncryptInput{Plaintext: []byte(plaintext), EncryptionContext: about, Keyring: keyring})
		if err != nil {
			t.Fatal(err)
		}
		w.put(t, written+key, out.Ciphertext, nil)
		all[key] = stored{want: plaintext, asks: 1, stays: reencrypt.ReasonEnvelopeFormat, readers: []string{""}, read: func(key, _ string) (string, error) {
			body := w.body(t, key)
			if !bytes.Equal(body, out.Ciphertext) {
				t.Errorf("%s has other bytes", key)
			}
			got, err := client.Decrypt(t.Context(), esdktypes.DecryptInput{EncryptionContext: about, Keyring: keyring, Ciphertext: body})
			if err != nil {
				return "", err
			}
			return string(got.Plaintext), nil
		}}
	}
}
