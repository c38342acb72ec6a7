package kms

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// Key states.
const (
	stateEnabled                = "Enabled"
	stateDisabled               = "Disabled"
	statePendingDeletion        = "PendingDeletion"
	statePendingReplicaDeletion = "PendingReplicaDeletion"
	statePendingImport          = "PendingImport"
	stateUnavailable            = "Unavailable"
)

// Values of the API that the code decides by.
const (
	symmetricDefault    = "SYMMETRIC_DEFAULT"
	encryptDecrypt      = "ENCRYPT_DECRYPT"
	originKMS           = "AWS_KMS"
	originExternal      = "EXTERNAL"
	managerCustomer     = "CUSTOMER"
	managerAWS          = "AWS"
	replicaKey          = "REPLICA"
	primaryKey          = "PRIMARY"
	materialExpires     = "KEY_MATERIAL_EXPIRES"
	materialStays       = "KEY_MATERIAL_DOES_NOT_EXPIRE"
	materialCurrent     = "CURRENT"
	materialOld         = "NON_CURRENT"
	materialPending     = "PENDING_ROTATION"
	materialElsewhere   = "PENDING_MULTI_REGION_IMPORT_AND_ROTATION"
	importNew           = "NEW_KEY_MATERIAL"
	importExisting      = "EXISTING_KEY_MATERIAL"
	defaultPolicyName   = "default"
	defaultRotationDays = 365
)

// key is one KMS key.
type key struct {
	id, arn     string
	created     time.Time
	description string
	spec, usage string
	origin      string
	manager     string
	store       *keyStore // the custom key store that it is in, or nil
	xksKeyID    string    // of the key in an external key store
	enabled     bool      // what the key is, or is again once nothing else decides its state
	policy      string
	rules       *iam.Policy
	tags        map[string]string
	grants      map[string]*grant

	deletion time.Time // when the key will be deleted; zero while it is not scheduled
	window   int       // the days of the deletion's window; zero while it is not scheduled

	rotationPeriod int       // in days; zero while automatic rotation is off
	nextRotation   time.Time // set while automatic rotation is on
	onDemand       int       // rotations on demand so far

	materials []*material // oldest first
	tokens    map[string]importToken

	multiRegion   bool
	primaryRegion string
	regions       []string // all Regions of a multi-Region key, sorted

	lastUsage keyLastUsage
}

// state is the key's state at this moment; advance has removed what is due.
func (k *key) state() string {
	switch {
	case k.window > 0 && k.deletion.IsZero():
		return statePendingReplicaDeletion
	case k.window > 0:
		return statePendingDeletion
	case k.origin == originExternal && !k.materialComplete():
		return statePendingImport
	case k.store != nil && k.store.connection != storeConnected:
		return stateUnavailable
	case k.enabled:
		return stateEnabled
	}
	return stateDisabled
}

func (k *key) region() string { return strings.Split(k.arn, ":")[3] }

func (k *key) symmetric() bool { return k.spec == symmetricDefault }

func (k *key) pendingDeletion() bool { return k.window > 0 }

func invalidState(k *key, what string) *wire.Error {
	return wire.Errorf(400, "KMSInvalidStateException", "%s is %s.", k.arn, what)
}

// notPendingDeletion is the condition of most management operations.
func (k *key) notPendingDeletion() error {
	switch k.state() {
	case statePendingDeletion:
		return invalidState(k, "pending deletion")
	case statePendingReplicaDeletion:
		return invalidState(k, "pending replica deletion")
	}
	return nil
}

// ready is the condition of operations that use the key. For a key pending
// deletion the guide allows DisabledException or KMSInvalidStateException; this
// is the one that names the state.
func (k *key) ready() error {
	if err := k.notPendingDeletion(); err != nil {
		return err
	}
	switch k.state() {
	case statePendingImport:
		return invalidState(k, "pending import")
	case stateUnavailable:
		return invalidState(k, "unavailable")
	case stateDisabled:
		return wire.Errorf(400, "DisabledException", "%s is disabled.", k.arn)
	}
	return nil
}

func unsupported(format string, args ...any) *wire.Error {
	return wire.Errorf(400, "UnsupportedOperationException", format, args...)
}

func invalid(format string, args ...any) *wire.Error {
	return wire.Errorf(400, "ValidationException", format, args...)
}

func notFound(format string, args ...any) *wire.Error {
	return wire.Errorf(400, "NotFoundException", format, args...)
}

// naming says which names of a key an operation accepts.
type naming bool

const (
	byKey     naming = false // key id or key ARN
	byAnyName naming = true  // also alias name or alias ARN
)

// find returns the key that ref names. The key of a predefined AWS alias is
// made when it is first asked for, as AWS documents for DescribeKey.
func (s *Service) find(ref string, names naming) (*key, error) {
	id := ref
	if strings.HasPrefix(ref, "arn:") {
		part := strings.SplitN(ref, ":", 6)
		if len(part) != 6 || part[2] != "kms" {
			return nil, wire.Errorf(400, "InvalidArnException", "Invalid ARN %q", ref)
		}
		if part[3] != s.region {
			return nil, notFound("Invalid arn %s", part[3])
		}
		if part[4] != s.account {
			// Nothing of another account exists here, so nothing of it allows access.
			return nil, wire.Errorf(400, "AccessDeniedException", "The resource %s does not exist in this Region, or no resource-based policy allows access to it", ref)
		}
		id = strings.TrimPrefix(part[5], "key/")
		if id == part[5] && (!strings.HasPrefix(id, "alias/") || names == byKey) {
			return nil, wire.Errorf(400, "InvalidArnException", "%s is not the ARN of a key", ref)
		}
	}
	if strings.HasPrefix(id, "alias/") {
		if names == byKey {
			return nil, notFound("Invalid keyId '%s'", ref)
		}
		if id == managedAlias && s.aliases[id] == nil {
			if err := s.createManagedKey(); err != nil {
				return nil, err
			}
		}
		if a := s.aliases[id]; a != nil {
			return a.key, nil
		}
		return nil, notFound("Alias %s is not found.", s.aliasARN(id))
	}
	if k := s.keys[id]; k != nil {
		return k, nil
	}
	if id == "" {
		return nil, invalid("1 validation error detected: Value '' at 'keyId' failed to satisfy constraint: Member must have length greater than or equal to 1")
	}
	return nil, notFound("Key '%s' does not exist", s.keyARN(id))
}

// use finds the key that the call is about and checks that the caller may do
// the call's own operation on it.
func (c *call) use(ref string, names naming) (*key, error) {
	return c.useFor(ref, names, c.name)
}

// useFor is use for the operations whose permission has another name.
func (c *call) useFor(ref string, names naming, permission string) (*key, error) {
	k, err := c.find(ref, names)
	if err != nil {
		return nil, err
	}
	if c.key == nil {
		c.key = k
	}
	return k, c.authorize(k, k.rules, permission)
}

func (s *Service) keyARN(id string) string {
	return "arn:aws:kms:" + s.region + ":" + s.account + ":key/" + id
}

// keySpec is what a kind of key can do.
type keySpec struct {
	usages     []string
	algorithms map[string][]string
}

var keySpecs = sync.OnceValue(func() map[string]keySpec {
	specs := map[string]keySpec{
		symmetricDefault: {[]string{encryptDecrypt}, map[string][]string{encryptDecrypt: {symmetricDefault}}},
	}
	for _, bits := range []string{"224", "256", "384", "512"} {
		specs["HMAC_"+bits] = keySpec{[]string{"GENERATE_VERIFY_MAC"}, map[string][]string{"GENERATE_VERIFY_MAC": {"HMAC_SHA_" + bits}}}
	}
	for _, bits := range []string{"2048", "3072", "4096"} {
		specs["RSA_"+bits] = keySpec{[]string{encryptDecrypt, "SIGN_VERIFY"}, map[string][]string{
			encryptDecrypt: {"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"},
			"SIGN_VERIFY": {
				"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512",
				"RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512",
			},
		}}
	}
	for spec, algorithm := range map[string]string{"ECC_NIST_P256": "ECDSA_SHA_256", "ECC_NIST_P384": "ECDSA_SHA_384", "ECC_NIST_P521": "ECDSA_SHA_512"} {
		specs[spec] = keySpec{[]string{"SIGN_VERIFY", "KEY_AGREEMENT"}, map[string][]string{"SIGN_VERIFY": {algorithm}, "KEY_AGREEMENT": {"ECDH"}}}
	}
	specs["ECC_SECG_P256K1"] = keySpec{[]string{"SIGN_VERIFY"}, map[string][]string{"SIGN_VERIFY": {"ECDSA_SHA_256"}}}
	specs["ECC_NIST_EDWARDS25519"] = keySpec{[]string{"SIGN_VERIFY"}, map[string][]string{"SIGN_VERIFY": {"ED25519_SHA_512", "ED25519_PH_SHA_512"}}}
	for _, size := range []string{"44", "65", "87"} {
		specs["ML_DSA_"+size] = keySpec{[]string{"SIGN_VERIFY"}, map[string][]string{"SIGN_VERIFY": {"ML_DSA_SHAKE_256"}}}
	}
	for _, size := range []string{"512", "768", "1024"} {
		specs["ML_KEM_"+size] = keySpec{[]string{"ENCAPSULATE_DECAPSULATE"}, map[string][]string{"ENCAPSULATE_DECAPSULATE": {"ML_KEM"}}}
	}
	return specs
})

type createKeyInput struct {
	BypassPolicyLockoutSafetyCheck bool    `json:"BypassPolicyLockoutSafetyCheck"`
	CustomKeyStoreID               *string `json:"CustomKeyStoreId"`
	CustomerMasterKeySpec          string  `json:"CustomerMasterKeySpec"`
	Description                    *string `json:"Description"`
	KeySpec                        string  `json:"KeySpec"`
	KeyUsage                       string  `json:"KeyUsage"`
	MultiRegion                    *bool   `json:"MultiRegion"`
	Origin                         string  `json:"Origin"`
	Policy                         *string `json:"Policy"`
	Tags                           []tag   `json:"Tags"`
	XksKeyID                       string  `json:"XksKeyId"`
}

type createKeyOutput struct {
	KeyMetadata keyMetadata `json:"KeyMetadata"`
}

func createKey(c *call, in *createKeyInput) (createKeyOutput, error) {
	var out createKeyOutput
	in.KeySpec = cmp.Or(in.KeySpec, in.CustomerMasterKeySpec, symmetricDefault)
	in.CustomerMasterKeySpec = in.KeySpec
	if in.Description == nil {
		in.Description = new("")
	}
	if err := c.authorizeIdentity("CreateKey"); err != nil {
		return out, err
	}
	if err := in.complete(); err != nil {
		return out, err
	}
	k := c.newKey(*in.Description, managerCustomer)
	k.spec, k.usage, k.origin = in.KeySpec, in.KeyUsage, in.Origin
	if in.CustomKeyStoreID != nil {
		var err error
		if k.store, err = c.storeOf(*in.CustomKeyStoreID, in.Origin); err != nil {
			return out, err
		}
		if k.xksKeyID = in.XksKeyID; k.xksKeyID != "" && c.hasExternalKey(k.store, k.xksKeyID) {
			return out, wire.Errorf(400, "XksKeyAlreadyInUseException", "The external key %s belongs to another key of the custom key store %s.", k.xksKeyID, k.store.id)
		}
	}
	if in.MultiRegion != nil && *in.MultiRegion {
		if k.store != nil {
			return out, unsupported("A key in a custom key store cannot be a multi-Region key")
		}
		k.id = "mrk-" + strings.ReplaceAll(k.id, "-", "")
		k.arn = c.keyARN(k.id)
		k.multiRegion, k.primaryRegion, k.regions = true, c.region, []string{c.region}
	}
	if err := c.tagNew(k, in.Tags); err != nil {
		return out, err
	}
	policy := c.defaultPolicy()
	if in.Policy != nil {
		policy = *in.Policy
	}
	if err := c.setPolicy(k, policy, in.BypassPolicyLockoutSafetyCheck); err != nil {
		return out, err
	}
	if k.origin != originExternal {
		k.materials = []*material{newMaterial(newSecret(), materialCurrent)}
	}
	c.keys[k.id] = k
	c.key = k
	out.KeyMetadata = c.metadata(k)
	c.response = out
	return out, nil
}

// complete checks the kind of key and fills in what follows from it.
func (in *createKeyInput) complete() error {
	spec, ok := keySpecs()[in.KeySpec]
	if !ok {
		return invalid("1 validation error detected: Value '%s' at 'keySpec' failed to satisfy constraint: Member must satisfy enum value set", in.KeySpec)
	}
	if in.KeyUsage == "" {
		if in.KeySpec != symmetricDefault {
			return invalid("You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.")
		}
		in.KeyUsage = encryptDecrypt
	}
	if !slices.Contains(spec.usages, in.KeyUsage) {
		return invalid("KeyUsage %s is not compatible with KeySpec %s", in.KeyUsage, in.KeySpec)
	}
	in.Origin = cmp.Or(in.Origin, originKMS)
	switch in.Origin {
	case originKMS, originExternal:
		if in.CustomKeyStoreID != nil {
			return invalid("CustomKeyStoreId is only valid with the origins AWS_CLOUDHSM and EXTERNAL_KEY_STORE")
		}
	case storeCloudHSM, storeExternal:
		if (in.XksKeyID != "") != (in.Origin == storeExternal) {
			return invalid("XksKeyId is required for the origin %s and valid with no other", storeExternal)
		}
		if in.CustomKeyStoreID == nil {
			return invalid("The origin %s requires a CustomKeyStoreId", in.Origin)
		}
		if in.KeySpec != symmetricDefault {
			return unsupported("A custom key store holds symmetric encryption keys only")
		}
	default:
		return invalid("1 validation error detected: Value '%s' at 'origin' failed to satisfy constraint: Member must satisfy enum value set", in.Origin)
	}
	return nil
}

func (c *call) newKey(description, manager string) *key {
	id := wire.NewUUID()
	return &key{
		id: id, arn: c.keyARN(id), created: c.now, description: description, manager: manager, enabled: true,
		spec: symmetricDefault, usage: encryptDecrypt, origin: originKMS,
		tags: map[string]string{}, grants: map[string]*grant{}, tokens: map[string]importToken{},
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // crypto/rand.Read never fails
	return b
}

func randomHex(bytes int) string { return hex.EncodeToString(randomBytes(bytes)) }

// keyMetadata is the API's KeyMetadata.
type keyMetadata struct {
	AWSAccountID                string             `json:"AWSAccountId"`
	KeyID                       string             `json:"KeyId"`
	Arn                         string             `json:"Arn"`
	CreationDate                timestamp          `json:"CreationDate"`
	Enabled                     bool               `json:"Enabled"`
	Description                 string             `json:"Description"`
	KeyUsage                    string             `json:"KeyUsage"`
	KeyState                    string             `json:"KeyState"`
	DeletionDate                *timestamp         `json:"DeletionDate,omitempty"`
	PendingDeletionWindowInDays *int               `json:"PendingDeletionWindowInDays,omitempty"`
	ValidTo                     *timestamp         `json:"ValidTo,omitempty"`
	Origin                      string             `json:"Origin"`
	CustomKeyStoreID            *string            `json:"CustomKeyStoreId,omitempty"`
	CloudHsmClusterID           string             `json:"CloudHsmClusterId,omitempty"`
	XksKeyConfiguration         *xksKey            `json:"XksKeyConfiguration,omitempty"`
	ExpirationModel             *string            `json:"ExpirationModel,omitempty"`
	KeyManager                  string             `json:"KeyManager"`
	CustomerMasterKeySpec       string             `json:"CustomerMasterKeySpec"`
	KeySpec                     string             `json:"KeySpec"`
	EncryptionAlgorithms        []string           `json:"EncryptionAlgorithms,omitempty"`
	SigningAlgorithms           []string           `json:"SigningAlgorithms,omitempty"`
	KeyAgreementAlgorithms      []string           `json:"KeyAgreementAlgorithms,omitempty"`
	MacAlgorithms               []string           `json:"MacAlgorithms,omitempty"`
	EncapsulationAlgorithms     []string           `json:"EncapsulationAlgorithms,omitempty"`
	MultiRegion                 bool               `json:"MultiRegion"`
	MultiRegionConfiguration    *multiRegionConfig `json:"MultiRegionConfiguration,omitempty"`
	CurrentKeyMaterialID        *string            `json:"CurrentKeyMaterialId,omitempty"`
}

type xksKey struct {
	ID string `json:"Id"`
}

func (s *Service) metadata(k *key) keyMetadata {
	m := keyMetadata{
		AWSAccountID: s.account, KeyID: k.id, Arn: k.arn, CreationDate: timestamp(k.created),
		Enabled: k.state() == stateEnabled, Description: k.description, KeyUsage: k.usage, KeyState: k.state(),
		Origin: k.origin, KeyManager: k.manager, CustomerMasterKeySpec: k.spec, KeySpec: k.spec,
		MultiRegion: k.multiRegion,
	}
	algorithms := keySpecs()[k.spec].algorithms[k.usage]
	switch k.usage {
	case encryptDecrypt:
		m.EncryptionAlgorithms = algorithms
	case "SIGN_VERIFY":
		m.SigningAlgorithms = algorithms
	case "KEY_AGREEMENT":
		m.KeyAgreementAlgorithms = algorithms
	case "GENERATE_VERIFY_MAC":
		m.MacAlgorithms = algorithms
	case "ENCAPSULATE_DECAPSULATE":
		m.EncapsulationAlgorithms = algorithms
	}
	switch k.state() {
	case statePendingDeletion:
		m.DeletionDate = new(timestamp(k.deletion))
	case statePendingReplicaDeletion:
		m.PendingDeletionWindowInDays = new(k.window)
	}
	if k.store != nil {
		m.CustomKeyStoreID, m.CloudHsmClusterID = new(k.store.id), k.store.CloudHsmClusterID
	}
	if k.xksKeyID != "" {
		m.XksKeyConfiguration = &xksKey{ID: k.xksKeyID}
	}
	if current := k.current(); current != nil && k.symmetric() && k.store == nil {
		m.CurrentKeyMaterialID = new(current.id)
	}
	if k.origin == originExternal {
		if model, validTo := k.expiration(); model != "" {
			m.ExpirationModel, m.ValidTo = new(model), validTo
		}
	}
	if k.multiRegion {
		m.MultiRegionConfiguration = k.multiRegionConfig()
	}
	return m
}

type keyIDInput struct {
	KeyID string `json:"KeyId"`
}

type describeKeyOutput struct {
	KeyMetadata keyMetadata `json:"KeyMetadata"`
}

func describeKey(c *call, in *keyIDInput) (describeKeyOutput, error) {
	k, err := c.use(in.KeyID, byAnyName)
	if err != nil {
		return describeKeyOutput{}, err
	}
	return describeKeyOutput{KeyMetadata: c.metadata(k)}, nil
}

func enableKey(c *call, in *keyIDInput) error { return c.setEnabled(in.KeyID, true) }

func disableKey(c *call, in *keyIDInput) error { return c.setEnabled(in.KeyID, false) }

func (c *call) setEnabled(ref string, enabled bool) error {
	k, err := c.use(ref, byKey)
	if err != nil {
		return err
	}
	if err := k.notPendingDeletion(); err != nil {
		return err
	}
	if k.state() == statePendingImport {
		return invalidState(k, "pending import")
	}
	k.enabled = enabled
	c.reschedule() // a disabled key does not rotate
	return nil
}

type updateKeyDescriptionInput struct {
	KeyID       string `json:"KeyId"`
	Description string `json:"Description"`
}

func updateKeyDescription(c *call, in *updateKeyDescriptionInput) error {
	k, err := c.use(in.KeyID, byKey)
	if err != nil {
		return err
	}
	if err := k.notPendingDeletion(); err != nil {
		return err
	}
	if len(in.Description) > 8192 {
		return invalid("The description must have length less than or equal to 8192")
	}
	k.description = in.Description
	return nil
}

type pageInput struct {
	Limit  *int    `json:"Limit"`
	Marker *string `json:"Marker"`
}

type pageOutput struct {
	NextMarker *string `json:"NextMarker,omitempty"`
	Truncated  bool    `json:"Truncated"`
}

type listKeysOutput struct {
	Keys []keyListEntry `json:"Keys"`
	pageOutput
}

type keyListEntry struct {
	KeyID  string `json:"KeyId"`
	KeyArn string `json:"KeyArn"`
}

func listKeys(c *call, in *pageInput) (listKeysOutput, error) {
	var out listKeysOutput
	if err := c.authorizeIdentity("ListKeys"); err != nil {
		return out, err
	}
	ids, next, err := paginate(slices.Sorted(maps.Keys(c.keys)), itself, *in, 100, 1000)
	if err != nil {
		return out, err
	}
	out.pageOutput = next
	out.Keys = make([]keyListEntry, len(ids))
	for i, id := range ids {
		out.Keys[i] = keyListEntry{KeyID: id, KeyArn: c.keyARN(id)}
	}
	return out, nil
}

// paginate returns the page of items that the request asks for. Items are
// sorted by their id; a marker is the id of the last item of the page before,
// so a page does not shift when items come and go.
func paginate[T any](items []T, id func(T) string, in pageInput, standard, most int) ([]T, pageOutput, error) {
	var out pageOutput
	limit := standard
	if in.Limit != nil {
		if limit = *in.Limit; limit < 1 || limit > most {
			return nil, out, invalid("1 validation error detected: Value '%d' at 'limit' failed to satisfy constraint: Member must have value between 1 and %d", limit, most)
		}
	}
	if in.Marker != nil {
		last, err := hex.DecodeString(*in.Marker)
		if err != nil {
			return nil, out, wire.Errorf(400, "InvalidMarkerException", "Invalid marker provided")
		}
		items = slices.DeleteFunc(slices.Clone(items), func(item T) bool { return id(item) <= string(last) })
	}
	if len(items) > limit {
		items = items[:limit]
		out.Truncated = true
		out.NextMarker = new(hex.EncodeToString([]byte(id(items[limit-1]))))
	}
	return items, out, nil
}

func itself(s string) string { return s }

// timestamp is a time on the wire.
type timestamp = wire.Timestamp
