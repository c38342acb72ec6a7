package events

import "github.com/cmkeeper/cmkeeper/internal/arn"

// Detail is implemented by the types that carry an event's own parameters. All
// fields are as the caller sent them, so they are claims and not facts: a
// refused call carries them too. A field that CloudTrail omitted is zero.
type Detail interface{ detail() }

// CreateKey is the detail of CreateKey.
type CreateKey struct {
	Description string
	// Origin, KeySpec and KeyUsage are as KMS spells them, from the new key where the
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
	// Constrained: the grant holds only for some encryption context or source ARN.
	Constrained bool
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

// Use is the detail of the calls that use a key with an encryption context: Encrypt, Decrypt,
// ReEncrypt and GenerateDataKey with its variants. Callers choose the contexts.
type Use struct {
	// Key is what the call named the key by, if it did: an id, an ARN or an alias; of
	// ReEncrypt the source key. Context is the context with it.
	Key     string
	Context map[string]string
	// DestinationKey and DestinationContext are ReEncrypt's.
	DestinationKey     string
	DestinationContext map[string]string
}

// With returns the contexts that a key was used with, by its ARN: those with another key, as
// far as the call named that by its id, are left out.
func (u Use) With(keyARN string) (contexts []map[string]string) {
	for _, c := range []struct {
		key     string
		context map[string]string
	}{{u.Key, u.Context}, {u.DestinationKey, u.DestinationContext}} {
		id := firstOf(arn.KeyID(c.key), c.key)
		if c.context != nil && (id == arn.KeyID(keyARN) || !isKeyID(id)) {
			contexts = append(contexts, c.context)
		}
	}
	return contexts
}

// KeyStore is the detail of the calls on custom key stores: Create, Update,
// Connect, Disconnect and DeleteCustomKeyStore.
type KeyStore struct {
	ID   string // "" when the store was not created
	Name string
}

// TagResource is the detail of TagResource.
type TagResource struct {
	Tags map[string]string
}

// UntagResource is the detail of UntagResource.
type UntagResource struct {
	TagKeys []string
}

// Trail is the detail of CloudTrail's StopLogging, UpdateTrail and DeleteTrail.
type Trail struct {
	Name string // name or ARN, as sent
}

// EventSelectors is the detail of CloudTrail's PutEventSelectors: what a trail
// takes down from then on, as sent.
type EventSelectors struct {
	Trail    string // name or ARN
	Basic    []EventSelector
	Advanced []AdvancedSelector
}

// EventSelector is one of CloudTrail's basic event selectors. A member that was
// not sent has CloudTrail's default.
type EventSelector struct {
	ReadWriteType   string // All, ReadOnly or WriteOnly
	Management      bool
	ExcludedSources []string
}

// AdvancedSelector is one of CloudTrail's advanced event selectors: an event
// matches that meets all fields.
type AdvancedSelector []FieldSelector

// FieldSelector is a condition on a field of events ("eventCategory").
type FieldSelector struct {
	Field string
	// Operator is equals, notEquals, startsWith, notStartsWith, endsWith or
	// notEndsWith.
	Operator string
	Values   []string
}

// Rule is the detail of EventBridge's PutRule, DisableRule, DeleteRule,
// PutTargets and RemoveTargets.
type Rule struct {
	Name string
	Bus  string // "" means the default bus
	// State and Pattern are PutRule's; "" where the caller named none.
	State, Pattern string
}

// Queue is the detail of SQS's DeleteQueue, PurgeQueue and SetQueueAttributes.
type Queue struct {
	URL        string
	Attributes map[string]string // SetQueueAttributes'
}

// Topic is the detail of SNS's DeleteTopic, SetTopicAttributes, Unsubscribe and
// SetSubscriptionAttributes.
type Topic struct {
	ARN          string // of the topic, which a subscription's ARN begins with
	Subscription string // ARN
	Attribute    string // that was set
}

// BucketEncryption is the detail of S3's PutBucketEncryption and
// DeleteBucketEncryption.
type BucketEncryption struct {
	Bucket string
	// Algorithm and Key are the new default's, as sent; "" for a deleted one.
	Algorithm, Key string
}

// BucketPolicy is the detail of S3's PutBucketPolicy and DeleteBucketPolicy.
type BucketPolicy struct {
	Bucket string
}

// BucketTags is the detail of S3's PutBucketTagging and DeleteBucketTagging.
type BucketTags struct {
	Bucket string
}

// Volume is the detail of EC2's CreateVolume.
type Volume struct {
	ID        string // "" when the call failed
	Encrypted bool
	Key       string // ARN, id or alias; "" where the account's default was taken
}

// DisableEbsEncryptionByDefault is the detail of EC2's DisableEbsEncryptionByDefault,
// which has no parameters.
type DisableEbsEncryptionByDefault struct{}

// Database is the detail of RDS's CreateDBInstance and CreateDBCluster.
type Database struct {
	Name string
	// Cluster is the cluster that an instance belongs to, which encrypts it.
	Cluster   string
	Encrypted bool
	Key       string // ARN, id or alias; "" where the account's default was taken
}

// Schedule is the detail of a scheduled event.
type Schedule struct {
	ARN  string // of the EventBridge rule or of the Scheduler's schedule
	Name string // its name, without the schedule's group
}

func (CreateKey) detail()                     {}
func (ReplicateKey) detail()                  {}
func (UpdatePrimaryRegion) detail()           {}
func (PutKeyPolicy) detail()                  {}
func (ScheduleKeyDeletion) detail()           {}
func (EnableKeyRotation) detail()             {}
func (AliasTarget) detail()                   {}
func (CreateGrant) detail()                   {}
func (GrantRemoval) detail()                  {}
func (ImportKeyMaterial) detail()             {}
func (KeyMaterial) detail()                   {}
func (Rotation) detail()                      {}
func (TagResource) detail()                   {}
func (UntagResource) detail()                 {}
func (Use) detail()                           {}
func (KeyStore) detail()                      {}
func (Trail) detail()                         {}
func (EventSelectors) detail()                {}
func (Rule) detail()                          {}
func (Queue) detail()                         {}
func (Topic) detail()                         {}
func (BucketEncryption) detail()              {}
func (BucketTags) detail()                    {}
func (BucketPolicy) detail()                  {}
func (Volume) detail()                        {}
func (DisableEbsEncryptionByDefault) detail() {}
func (Database) detail()                      {}
func (Schedule) detail()                      {}
