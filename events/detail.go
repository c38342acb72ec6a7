package events

// Detail is implemented by the types that carry an event's own parameters. All
// fields are as the caller sent them, so they are claims and not facts: a
// refused call carries them too. A field that CloudTrail omitted is zero.
type Detail interface{ detail() }

// CreateKey is the detail of CreateKey.
type CreateKey struct {
	Description string
	// Origin, KeySpec and KeyUsage are KMS's words, from the new key where the
	// record has it, else from the request.
	Origin, KeySpec, KeyUsage string
	MultiRegion               bool
	CustomKeyStoreID          string
	// Policy is the document, as sent; "" means KMS's default policy, or that
	// CloudTrail left it out.
	Policy                         string
	BypassPolicyLockoutSafetyCheck bool
}

// ReplicateKey is the detail of ReplicateKey. The new key lives in another
// Region than the event; CloudTrail records a CreateKey for it there.
type ReplicateKey struct {
	ReplicaRegion string
	// ReplicaKeyARN is the new key, "" when the call failed.
	ReplicaKeyARN string
	// ReplicaPolicy is the new key's policy document.
	ReplicaPolicy                  string
	BypassPolicyLockoutSafetyCheck bool
}

// UpdatePrimaryRegion is the detail of UpdatePrimaryRegion, which is recorded
// in the old and in the new primary Region.
type UpdatePrimaryRegion struct {
	PrimaryRegion string // the new one
}

// PutKeyPolicy is the detail of PutKeyPolicy. The record never carries the old policy.
type PutKeyPolicy struct {
	PolicyName                     string
	Policy                         string // the document, as sent; "" where CloudTrail left it out
	BypassPolicyLockoutSafetyCheck bool
}

// ScheduleKeyDeletion is the detail of ScheduleKeyDeletion. The record's
// deletion date has no fixed form, so it is not here: read it from KMS.
type ScheduleKeyDeletion struct {
	PendingWindowInDays int // 0 when the caller named none, which means 30
}

// EnableKeyRotation is the detail of EnableKeyRotation.
type EnableKeyRotation struct {
	RotationPeriodInDays int // 0 when the caller named none, which means 365
}

// AliasTarget is the detail of CreateAlias and UpdateAlias. The key that the
// alias had before is in no record.
type AliasTarget struct {
	TargetKeyID string // key id or key ARN, as sent; Event.KeyARN has it as an ARN
}

// CreateGrant is the detail of CreateGrant. Exactly one grantee is set.
type CreateGrant struct {
	GrantID                 string // "" when the call failed
	GranteePrincipal        string
	GranteeServicePrincipal string
	RetiringPrincipal       string
	Operations              []string
}

// GrantRemoval is the detail of RetireGrant and RevokeGrant.
type GrantRemoval struct {
	GrantID string // "" when the grant was named by its token
}

// ImportKeyMaterial is the detail of ImportKeyMaterial. The record's expiry
// date has no fixed form, so it is not here: read it from KMS.
type ImportKeyMaterial struct {
	Expires       bool
	KeyMaterialID string
}

// KeyMaterial is the detail of what removes imported key material:
// DeleteImportedKeyMaterial, DeleteExpiredKeyMaterial and [NativeExpiry].
type KeyMaterial struct {
	ID string // "" in records from before KMS named key material
}

// Rotation is the detail of a rotation that happened: the service event
// RotateKey and [NativeRotation].
type Rotation struct {
	Type                                        string // AUTOMATIC or ON_DEMAND; "" in old records
	KeyOrigin                                   string
	PreviousKeyMaterialID, CurrentKeyMaterialID string
}

// TagResource is the detail of TagResource.
type TagResource struct {
	Tags map[string]string
}

// UntagResource is the detail of UntagResource.
type UntagResource struct {
	TagKeys []string
}

// Schedule is the detail of a scheduled event.
type Schedule struct {
	ARN  string // of the EventBridge rule or of the Scheduler's schedule
	Name string // its name, without the schedule's group
}

func (CreateKey) detail()           {}
func (ReplicateKey) detail()        {}
func (UpdatePrimaryRegion) detail() {}
func (PutKeyPolicy) detail()        {}
func (ScheduleKeyDeletion) detail() {}
func (EnableKeyRotation) detail()   {}
func (AliasTarget) detail()         {}
func (CreateGrant) detail()         {}
func (GrantRemoval) detail()        {}
func (ImportKeyMaterial) detail()   {}
func (KeyMaterial) detail()         {}
func (Rotation) detail()            {}
func (TagResource) detail()         {}
func (UntagResource) detail()       {}
func (Schedule) detail()            {}
