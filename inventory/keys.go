package inventory

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// Key is what DescribeKey returns. The values are KMS's own.
type Key struct {
	ARN, ID, Account, Region string
	Description              string
	// State is the KeyState: Enabled, Disabled, PendingDeletion,
	// PendingReplicaDeletion, PendingImport, Creating, Updating or Unavailable.
	State string
	// Manager is CUSTOMER or AWS.
	Manager string
	// Origin is AWS_KMS, EXTERNAL, AWS_CLOUDHSM or EXTERNAL_KEY_STORE.
	Origin string
	// Spec is the KeySpec (SYMMETRIC_DEFAULT, RSA_2048, …), Usage the KeyUsage (ENCRYPT_DECRYPT, …).
	Spec, Usage string
	// CustomKeyStoreID is "" for a key in KMS itself.
	CustomKeyStoreID string
	// MultiRegion is PRIMARY or REPLICA, and "" for a key of one Region. PrimaryARN
	// and Replicas are the ARNs of the related keys.
	MultiRegion string
	PrimaryARN  string
	Replicas    []string
	// DeletionDate is set while the key's deletion is pending and its date is known.
	DeletionDate *time.Time
	// MaterialExpires is when KMS deletes the key's imported material; nil if the
	// material does not expire or the key has none.
	MaterialExpires *time.Time
	Created         time.Time
}

// Enabled reports whether the key can be used.
func (k Key) Enabled() bool { return k.State == string(types.KeyStateEnabled) }

// Guarded reports whether the account's owner manages the key: AWS guards its own.
func (k Key) Guarded() bool { return k.Manager == string(types.KeyManagerTypeCustomer) }

// PendingDeletion reports whether the key will be deleted, with or without a date yet.
func (k Key) PendingDeletion() bool {
	return k.State == string(types.KeyStatePendingDeletion) || k.State == string(types.KeyStatePendingReplicaDeletion)
}

// Blocker says why KMS cannot rotate a key automatically; "" means that it can.
type Blocker string

// The blockers. The first five are permanent properties of the key, a replica
// rotates with its primary (Key.PrimaryARN), and the others depend on the key's state.
const (
	BlockedAWSManaged      Blocker = "aws-managed"
	BlockedHMAC            Blocker = "hmac"
	BlockedAsymmetric      Blocker = "asymmetric"
	BlockedCustomKeyStore  Blocker = "custom-key-store"
	BlockedImported        Blocker = "imported"
	BlockedReplica         Blocker = "replica"
	BlockedPendingDeletion Blocker = "pending-deletion"
	BlockedDisabled        Blocker = "disabled"
	BlockedPendingImport   Blocker = "pending-import"
	BlockedUnavailable     Blocker = "unavailable" // being created, its key store disconnected, or a state that this build does not know
)

// RotationBlocker returns why automatic rotation of the key cannot be enabled
// now, permanent reasons first (KMS Developer Guide, "Rotate AWS KMS keys" and
// "Key states").
func (k Key) RotationBlocker() Blocker {
	switch {
	case k.Manager == string(types.KeyManagerTypeAws):
		return BlockedAWSManaged
	case strings.HasPrefix(k.Spec, "HMAC_"):
		return BlockedHMAC
	case k.Spec != "" && k.Spec != string(types.KeySpecSymmetricDefault):
		return BlockedAsymmetric
	case k.CustomKeyStoreID != "",
		k.Origin == string(types.OriginTypeAwsCloudhsm), k.Origin == string(types.OriginTypeExternalKeyStore):
		return BlockedCustomKeyStore
	case k.Origin == string(types.OriginTypeExternal):
		return BlockedImported
	case k.MultiRegion == string(types.MultiRegionKeyTypeReplica):
		return BlockedReplica
	}
	switch types.KeyState(k.State) {
	case types.KeyStatePendingDeletion, types.KeyStatePendingReplicaDeletion:
		return BlockedPendingDeletion
	case types.KeyStateDisabled:
		return BlockedDisabled
	case types.KeyStatePendingImport:
		return BlockedPendingImport
	case types.KeyStateEnabled, types.KeyStateUpdating: // KMS allows it while a primary Region changes
		return ""
	case types.KeyStateCreating, types.KeyStateUnavailable:
		return BlockedUnavailable
	}
	return BlockedUnavailable // a state that this build does not know
}

// Key describes a key, named by id, key ARN, alias name or alias ARN.
// ErrNotFound, ErrAccessDenied.
func (r *Reader) Key(ctx context.Context, name string) (Key, error) {
	name, _ = normalise(name)
	out, err := r.kms.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &name}, paced(ctx)...)
	if err != nil {
		return Key{}, failed("describe key "+name, err)
	}
	m := out.KeyMetadata
	k := Key{
		ARN:              aws.ToString(m.Arn),
		ID:               aws.ToString(m.KeyId),
		Region:           arn.Parse(aws.ToString(m.Arn)).Region,
		Account:          aws.ToString(m.AWSAccountId),
		Description:      aws.ToString(m.Description),
		State:            string(m.KeyState),
		Manager:          string(m.KeyManager),
		Origin:           string(m.Origin),
		Spec:             string(m.KeySpec),
		Usage:            string(m.KeyUsage),
		CustomKeyStoreID: aws.ToString(m.CustomKeyStoreId),
		DeletionDate:     m.DeletionDate,
		MaterialExpires:  m.ValidTo,
		Created:          aws.ToTime(m.CreationDate),
	}
	if c := m.MultiRegionConfiguration; c != nil {
		k.MultiRegion = string(c.MultiRegionKeyType)
		if c.PrimaryKey != nil {
			k.PrimaryARN = aws.ToString(c.PrimaryKey.Arn)
		}
		for _, replica := range c.ReplicaKeys {
			k.Replicas = append(k.Replicas, aws.ToString(replica.Arn))
		}
	}
	return k, nil
}

// Rotation is a key's automatic rotation.
type Rotation struct {
	Enabled bool
	// Period is in days; 0 if KMS did not return it, as it may while rotation is off.
	Period int
	// Next is when KMS will rotate the key; nil if KMS did not return it.
	Next *time.Time
}

// Rotation reads a key's rotation status. KMS answers "off" for a key whose
// deletion is pending, whatever it was before. Errors: ErrNotFound,
// ErrAccessDenied.
func (r *Reader) Rotation(ctx context.Context, keyARN string) (Rotation, error) {
	out, err := r.kms.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &keyARN}, paced(ctx)...)
	if err != nil {
		return Rotation{}, failed("get rotation status of key "+keyARN, err)
	}
	return Rotation{
		Enabled: out.KeyRotationEnabled,
		Period:  int(aws.ToInt32(out.RotationPeriodInDays)),
		Next:    out.NextRotationDate,
	}, nil
}

// LastRotation reads when a key got new material for the last time, automatically or on
// demand; zero if it never did. KMS allows 100 such requests a second, and refuses them
// for keys that have no rotations (asymmetric ones, those in a custom key store).
// Errors: ErrNotFound, ErrAccessDenied.
func (r *Reader) LastRotation(ctx context.Context, keyARN string) (time.Time, error) {
	var newest time.Time
	pages := kms.NewListKeyRotationsPaginator(r.kms, &kms.ListKeyRotationsInput{KeyId: &keyARN, Limit: aws.Int32(1000)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx, paced(ctx)...)
		if err != nil {
			return time.Time{}, failed("list rotations of key "+keyARN, err)
		}
		for _, rotation := range page.Rotations {
			if at := aws.ToTime(rotation.RotationDate); at.After(newest) {
				newest = at
			}
		}
	}
	return newest, nil
}

// PendingMaterial returns the id of the imported key material that waits for
// RotateKeyOnDemand to become the current one; "" if none does. Errors: ErrNotFound,
// ErrAccessDenied.
func (r *Reader) PendingMaterial(ctx context.Context, keyARN string) (string, error) {
	pages := kms.NewListKeyRotationsPaginator(r.kms, &kms.ListKeyRotationsInput{
		KeyId: &keyARN, IncludeKeyMaterial: types.IncludeKeyMaterialAllKeyMaterial, Limit: aws.Int32(1000),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx, paced(ctx)...)
		if err != nil {
			return "", failed("list key material of key "+keyARN, err)
		}
		for _, m := range page.Rotations {
			if m.KeyMaterialState == types.KeyMaterialStatePendingRotation {
				return aws.ToString(m.KeyMaterialId), nil
			}
		}
	}
	return "", nil
}

// Policy reads a key's policy document. Errors: ErrNotFound, ErrAccessDenied.
func (r *Reader) Policy(ctx context.Context, keyARN string) (string, error) {
	// For KMS "default" is the only name and may be left out; LocalStack and moto need it.
	out, err := r.kms.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &keyARN, PolicyName: aws.String("default")}, paced(ctx)...)
	if err != nil {
		return "", failed("get policy of key "+keyARN, err)
	}
	return aws.ToString(out.Policy), nil
}

// Tags reads a key's tags. Errors: ErrNotFound, ErrAccessDenied.
func (r *Reader) Tags(ctx context.Context, keyARN string) (map[string]string, error) {
	tags := map[string]string{}
	pages := kms.NewListResourceTagsPaginator(r.kms, &kms.ListResourceTagsInput{KeyId: &keyARN, Limit: aws.Int32(50)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx, paced(ctx)...)
		if err != nil {
			return nil, failed("list tags of key "+keyARN, err)
		}
		for _, t := range page.Tags {
			tags[aws.ToString(t.TagKey)] = aws.ToString(t.TagValue)
		}
	}
	return tags, nil
}

// Usage is when a key was last used for a cryptographic operation. KMS shows a use
// up to an hour late, and AWS warns not to rely on it alone: with EBS and with S3 bucket keys a
// key may be needed long after its last use.
type Usage struct {
	// Operation and At are those of the last use; At is zero if there was none since
	// Since.
	Operation string
	At        time.Time
	// EventID is the eventID of CloudTrail's record of it, "" where KMS names none.
	EventID string
	// Since is when KMS began to record uses, Created when the key was created.
	Since, Created time.Time
}

// String describes the last use in words: "Decrypt at …" or "never since …".
func (u Usage) String() string {
	switch {
	case !u.At.IsZero():
		return u.Operation + " at " + u.At.UTC().Format(time.RFC3339)
	case u.Created.Before(u.Since):
		return "never since KMS began to record it, " + u.Since.UTC().Format(time.DateOnly)
	}
	return "never since it was created"
}

// LastUsage reads when a key was last used. KMS allows 5 such requests a second.
// Errors: ErrNotFound, ErrAccessDenied.
func (r *Reader) LastUsage(ctx context.Context, keyARN string) (Usage, error) {
	out, err := r.kms.GetKeyLastUsage(ctx, &kms.GetKeyLastUsageInput{KeyId: &keyARN}, paced(ctx)...)
	if err != nil {
		return Usage{}, failed("get last usage of key "+keyARN, err)
	}
	u := Usage{Since: aws.ToTime(out.TrackingStartDate), Created: aws.ToTime(out.KeyCreationDate)}
	if last := out.KeyLastUsage; last != nil { // an empty object if there was no use
		u.Operation, u.At, u.EventID = string(last.Operation), aws.ToTime(last.Timestamp), aws.ToString(last.CloudTrailEventId)
	}
	return u, nil
}

// Keys lists the ARNs of all keys of the account and Region, AWS managed ones too.
func (r *Reader) Keys(ctx context.Context) ([]string, error) {
	var arns []string
	pages := kms.NewListKeysPaginator(r.kms, &kms.ListKeysInput{Limit: aws.Int32(1000)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx, paced(ctx)...)
		if err != nil {
			return nil, failed("list keys", err)
		}
		for _, k := range page.Keys {
			arns = append(arns, aws.ToString(k.KeyArn))
		}
	}
	return arns, nil
}

// Alias is a name for a key.
type Alias struct {
	// Name begins with "alias/".
	Name, ARN string
	// TargetKeyID and TargetKeyARN are "" for an AWS managed alias without a key.
	TargetKeyID, TargetKeyARN string
	// AWSManaged: the name is one of AWS's own ("alias/aws/s3").
	AWSManaged bool
	// Updated is when the alias was last pointed to a key; zero if the server omits it.
	Updated time.Time
}

// Aliases lists all aliases of the account and Region, sorted by name.
func (r *Reader) Aliases(ctx context.Context) ([]Alias, error) {
	return r.listAliases(ctx, "list aliases", &kms.ListAliasesInput{Limit: aws.Int32(100)})
}

// AliasesOf lists the aliases of one key, sorted by name. Errors: ErrNotFound,
// ErrAccessDenied.
func (r *Reader) AliasesOf(ctx context.Context, keyARN string) ([]Alias, error) {
	return r.listAliases(ctx, "list aliases of key "+keyARN, &kms.ListAliasesInput{KeyId: &keyARN, Limit: aws.Int32(100)})
}

func (r *Reader) listAliases(ctx context.Context, what string, in *kms.ListAliasesInput) ([]Alias, error) {
	var aliases []Alias
	pages := kms.NewListAliasesPaginator(r.kms, in)
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx, paced(ctx)...)
		if err != nil {
			return nil, failed(what, err)
		}
		for _, a := range page.Aliases {
			aliases = append(aliases, aliasOf(a))
		}
	}
	slices.SortFunc(aliases, func(a, b Alias) int { return cmp.Compare(a.Name, b.Name) })
	return aliases, nil
}

func aliasOf(a types.AliasListEntry) Alias {
	alias := Alias{
		Name:        aws.ToString(a.AliasName),
		ARN:         aws.ToString(a.AliasArn),
		TargetKeyID: aws.ToString(a.TargetKeyId),
		Updated:     aws.ToTime(a.LastUpdatedDate),
	}
	alias.AWSManaged = strings.HasPrefix(alias.Name, "alias/aws/")
	// An alias and its key are always in one account and Region.
	if key := arn.Parse(alias.ARN); key != (arn.ARN{}) && alias.TargetKeyID != "" {
		key.Resource = "key/" + alias.TargetKeyID
		alias.TargetKeyARN = key.String()
	}
	return alias
}

// Grant lets a principal use a key.
type Grant struct {
	ID, Name string
	// Grantee and Retiring are principals' ARNs; GranteeService and RetiringService
	// are set instead for a grant to an AWS service.
	Grantee, GranteeService   string
	Retiring, RetiringService string
	// Operations are what the grantee may do ("Decrypt").
	Operations []string
	// Constrained: the grant applies only to some encryption context or source ARN.
	Constrained bool
	// Context is the encryption context that requests must have, with Exact and nothing
	// beside it, and SourceARN the resource that a service must act for; empty without such
	// a constraint.
	Context   map[string]string
	Exact     bool
	SourceARN string
}

// Grants lists a key's grants. Errors: ErrNotFound, ErrAccessDenied.
func (r *Reader) Grants(ctx context.Context, keyARN string) ([]Grant, error) {
	var grants []Grant
	pages := kms.NewListGrantsPaginator(r.kms, &kms.ListGrantsInput{KeyId: &keyARN, Limit: aws.Int32(100)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx, paced(ctx)...)
		if err != nil {
			return nil, failed("list grants of key "+keyARN, err)
		}
		for _, g := range page.Grants {
			grants = append(grants, grantOf(g))
		}
	}
	return grants, nil
}

func grantOf(g types.GrantListEntry) Grant {
	grant := Grant{
		ID:              aws.ToString(g.GrantId),
		Name:            aws.ToString(g.Name),
		Grantee:         aws.ToString(g.GranteePrincipal),
		GranteeService:  aws.ToString(g.GranteeServicePrincipal),
		Retiring:        aws.ToString(g.RetiringPrincipal),
		RetiringService: aws.ToString(g.RetiringServicePrincipal),
	}
	for _, o := range g.Operations {
		grant.Operations = append(grant.Operations, string(o))
	}
	if c := g.Constraints; c != nil {
		grant.Context, grant.Exact = c.EncryptionContextEquals, true
		if len(grant.Context) == 0 { // KMS takes only one of them
			grant.Context, grant.Exact = c.EncryptionContextSubset, false
		}
		grant.SourceARN = aws.ToString(c.SourceArn)
		grant.Constrained = len(grant.Context) > 0 || c.SourceArn != nil
	}
	return grant
}
