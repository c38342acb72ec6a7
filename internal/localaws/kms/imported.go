package kms

import (
	"cmp"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // KMS offers OAEP with SHA-1
	"crypto/sha256"
	"crypto/x509"
	"hash"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// importToken is the right to import one material, wrapped for one private key.
type importToken struct {
	private *rsa.PrivateKey
	hash    func() hash.Hash
	expires time.Time
}

const (
	importTokenLife = 24 * time.Hour
	importLongest   = 365 * day // until the material expires
)

// importable finds a key whose material the caller may bring along.
func (c *call) importable(ref string) (*key, error) {
	k, err := c.use(ref, byKey)
	if err != nil {
		return nil, err
	}
	if k.origin != originExternal {
		return nil, unsupported("%s origin is %s which is not valid for this operation.", k.arn, k.origin)
	}
	if !k.symmetric() {
		return nil, wire.Errorf(400, "UnknownOperationException", "localaws does not model imported asymmetric or HMAC material")
	}
	return k, nil
}

type getParametersForImportInput struct {
	KeyID             string `json:"KeyId"`
	WrappingAlgorithm string `json:"WrappingAlgorithm"`
	WrappingKeySpec   string `json:"WrappingKeySpec"`
}

type getParametersForImportOutput struct {
	KeyID             string    `json:"KeyId"`
	ImportToken       []byte    `json:"ImportToken"`
	PublicKey         []byte    `json:"PublicKey"`
	ParametersValidTo timestamp `json:"ParametersValidTo"`
}

func getParametersForImport(c *call, in *getParametersForImportInput) (getParametersForImportOutput, error) {
	var out getParametersForImportOutput
	k, err := c.importable(in.KeyID)
	if err != nil {
		return out, err
	}
	if err := k.notPendingDeletion(); err != nil {
		return out, err
	}
	token := importToken{expires: c.now.Add(importTokenLife)}
	switch in.WrappingAlgorithm {
	case "RSAES_OAEP_SHA_1":
		token.hash = sha1.New
	case "RSAES_OAEP_SHA_256":
		token.hash = sha256.New
	default:
		return out, unsupported("localaws does not model the wrapping algorithm %s", in.WrappingAlgorithm)
	}
	if token.private, err = c.wrappingKey(in.WrappingKeySpec); err != nil {
		return out, err
	}
	public, err := x509.MarshalPKIXPublicKey(&token.private.PublicKey)
	if err != nil {
		return out, err
	}
	id := randomBytes(64)
	k.tokens[string(id)] = token
	return getParametersForImportOutput{KeyID: k.arn, ImportToken: id, PublicKey: public, ParametersValidTo: timestamp(token.expires)}, nil
}

// wrappingKey returns the service's RSA key of the size. AWS makes one for each
// import; one for all is not told apart and keeps imports fast.
func (s *Service) wrappingKey(spec string) (*rsa.PrivateKey, error) {
	bits := map[string]int{"RSA_2048": 2048, "RSA_3072": 3072, "RSA_4096": 4096}[spec]
	if bits == 0 {
		return nil, unsupported("localaws does not model the wrapping key %s", spec)
	}
	if s.wrapping[spec] == nil {
		private, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			return nil, err
		}
		s.wrapping[spec] = private
	}
	return s.wrapping[spec], nil
}

type importKeyMaterialInput struct {
	KeyID                  string     `json:"KeyId"`
	ImportToken            []byte     `json:"ImportToken"`
	EncryptedKeyMaterial   []byte     `json:"EncryptedKeyMaterial"`
	ValidTo                *timestamp `json:"ValidTo"`
	ExpirationModel        string     `json:"ExpirationModel"`
	ImportType             string     `json:"ImportType"`
	KeyMaterialDescription *string    `json:"KeyMaterialDescription"`
	KeyMaterialID          *string    `json:"KeyMaterialId"`
}

type importKeyMaterialOutput struct {
	KeyID         string `json:"KeyId"`
	KeyMaterialID string `json:"KeyMaterialId"`
}

func importKeyMaterial(c *call, in *importKeyMaterialInput) (importKeyMaterialOutput, error) {
	var out importKeyMaterialOutput
	in.ExpirationModel = cmp.Or(in.ExpirationModel, materialExpires)
	k, err := c.importable(in.KeyID)
	if err != nil {
		return out, err
	}
	if err := k.notPendingDeletion(); err != nil {
		return out, err
	}
	if err := in.checkExpiry(c.now); err != nil {
		return out, err
	}
	pending := k.state() == statePendingImport
	m, err := k.unwrap(in, c.now)
	if err != nil {
		return out, err
	}
	m, err = k.place(m, in)
	if err != nil {
		return out, err
	}
	m.imported, m.model, m.validTo = true, in.ExpirationModel, in.ValidTo
	if in.KeyMaterialDescription != nil {
		m.description = in.KeyMaterialDescription
	}
	if pending && k.materialComplete() {
		k.enabled = true
	}
	c.reschedule()
	out = importKeyMaterialOutput{KeyID: k.arn, KeyMaterialID: m.id}
	c.response = out
	return out, nil
}

func (in *importKeyMaterialInput) checkExpiry(now time.Time) error {
	switch {
	case in.ExpirationModel == materialStays && in.ValidTo == nil:
	case in.ExpirationModel == materialStays:
		return invalid("ValidTo must not be set when the expiration model is %s", materialStays)
	case in.ExpirationModel != materialExpires:
		return invalid("1 validation error detected: Value '%s' at 'expirationModel' failed to satisfy constraint: Member must satisfy enum value set", in.ExpirationModel)
	case in.ValidTo == nil || !time.Time(*in.ValidTo).After(now):
		return invalid("ValidTo must be set to a time in the future when the expiration model is %s", materialExpires)
	case time.Time(*in.ValidTo).After(now.Add(importLongest)):
		return invalid("ValidTo must be at most 365 days ahead")
	}
	return nil
}

// unwrap decrypts the material that the request brings along.
func (k *key) unwrap(in *importKeyMaterialInput, now time.Time) (*material, error) {
	token, ok := k.tokens[string(in.ImportToken)]
	if !ok {
		return nil, wire.Errorf(400, "InvalidImportTokenException", "The import token is not one of this key")
	}
	if !now.Before(token.expires) {
		return nil, wire.Errorf(400, "ExpiredImportTokenException", "The import token has expired")
	}
	secret, err := rsa.DecryptOAEP(token.hash(), nil, token.private, in.EncryptedKeyMaterial, nil)
	if err != nil {
		return nil, invalidCiphertext()
	}
	if len(secret) != secretLen {
		return nil, wire.Errorf(400, "IncorrectKeyMaterialException", "The key material of a symmetric encryption key has %d bytes, not %d", secretLen, len(secret))
	}
	return newMaterial([secretLen]byte(secret), materialPending), nil
}

// place gives the key its material: the first one becomes current, known
// material comes back, and new material waits for a rotation on demand.
func (k *key) place(m *material, in *importKeyMaterialInput) (*material, error) {
	kind := cmp.Or(in.ImportType, importExisting)
	if in.ImportType == "" && len(k.materials) == 0 {
		kind = importNew
	}
	i := slices.IndexFunc(k.materials, func(known *material) bool { return known.id == m.id })
	switch {
	case kind != importNew && kind != importExisting:
		return nil, invalid("1 validation error detected: Value '%s' at 'importType' failed to satisfy constraint: Member must satisfy enum value set", kind)
	case in.KeyMaterialID != nil && kind == importNew:
		return nil, invalid("KeyMaterialId must not be set when the import type is %s", importNew)
	case in.KeyMaterialID != nil && *in.KeyMaterialID != m.id:
		return nil, wire.Errorf(400, "IncorrectKeyMaterialException", "The key material is not that with the id %s", *in.KeyMaterialID)
	case i >= 0 && kind == importNew:
		return nil, wire.Errorf(400, "IncorrectKeyMaterialException", "The key material is associated with the key already")
	case i >= 0:
		k.materials[i].aead = m.aead
		return k.materials[i], nil
	case kind == importExisting:
		return nil, wire.Errorf(400, "IncorrectKeyMaterialException", "The key material is not the one that was imported before")
	case len(k.materials) == 0:
		m.state = materialCurrent
	case k.multiRegion && k.primaryRegion != k.region():
		// AWS documents that new material goes to the primary key first, but not the error.
		return nil, unsupported("%s is a replica key; import new key material into its primary key first.", k.arn)
	case k.materialIn(materialPending) != nil:
		return nil, wire.Errorf(400, "KMSInvalidStateException", "%s has key material pending rotation already.", k.arn)
	}
	k.materials = append(k.materials, m)
	return m, nil
}

type deleteImportedKeyMaterialInput struct {
	KeyID         string  `json:"KeyId"`
	KeyMaterialID *string `json:"KeyMaterialId"`
}

func deleteImportedKeyMaterial(c *call, in *deleteImportedKeyMaterialInput) (importKeyMaterialOutput, error) {
	var out importKeyMaterialOutput
	k, err := c.importable(in.KeyID)
	if err != nil {
		return out, err
	}
	out.KeyID = k.arn
	m := k.current()
	if in.KeyMaterialID != nil {
		i := slices.IndexFunc(k.materials, func(m *material) bool { return m.id == *in.KeyMaterialID })
		if i < 0 {
			return out, notFound("Key material %s does not exist", *in.KeyMaterialID)
		}
		m = k.materials[i]
	}
	if m != nil {
		out.KeyMaterialID = m.id
		m.aead = nil
		if m.state == materialPending {
			k.materials = slices.DeleteFunc(k.materials, func(other *material) bool { return other == m })
		}
	}
	c.reschedule()
	c.response = out
	return out, nil
}

// expiration is the model of the key's material, and the earliest time at which any of it expires.
func (k *key) expiration() (model string, validTo *timestamp) {
	for _, m := range k.materials {
		if m.state == materialPending || m.aead == nil {
			continue
		}
		if model == "" {
			model = m.model
		}
		if m.model == materialExpires && (validTo == nil || time.Time(*m.validTo).Before(time.Time(*validTo))) {
			model, validTo = m.model, m.validTo
		}
	}
	return model, validTo
}
