package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// settingsS3 is what a preflight reads of a bucket, and the one setting that it
// may change.
type settingsS3 interface {
	GetBucketEncryption(context.Context, *s3.GetBucketEncryptionInput, ...func(*s3.Options)) (*s3.GetBucketEncryptionOutput, error)
	PutBucketEncryption(context.Context, *s3.PutBucketEncryptionInput, ...func(*s3.Options)) (*s3.PutBucketEncryptionOutput, error)
	GetBucketPolicy(context.Context, *s3.GetBucketPolicyInput, ...func(*s3.Options)) (*s3.GetBucketPolicyOutput, error)
	GetBucketReplication(context.Context, *s3.GetBucketReplicationInput, ...func(*s3.Options)) (*s3.GetBucketReplicationOutput, error)
	GetBucketNotificationConfiguration(context.Context, *s3.GetBucketNotificationConfigurationInput, ...func(*s3.Options)) (*s3.GetBucketNotificationConfigurationOutput, error)
	GetBucketLifecycleConfiguration(context.Context, *s3.GetBucketLifecycleConfigurationInput, ...func(*s3.Options)) (*s3.GetBucketLifecycleConfigurationOutput, error)
	ListMultipartUploads(context.Context, *s3.ListMultipartUploadsInput, ...func(*s3.Options)) (*s3.ListMultipartUploadsOutput, error)
}

// KMS is what a preflight asks about the keys of a move; *kms.Client has it.
type KMS interface {
	DescribeKey(context.Context, *kms.DescribeKeyInput, ...func(*kms.Options)) (*kms.DescribeKeyOutput, error)
	GetKeyPolicy(context.Context, *kms.GetKeyPolicyInput, ...func(*kms.Options)) (*kms.GetKeyPolicyOutput, error)
	// ReEncrypt is called as a dry run only.
	ReEncrypt(context.Context, *kms.ReEncryptInput, ...func(*kms.Options)) (*kms.ReEncryptOutput, error)
}

// settings is what a preflight judges: a bucket, the keys of a move and what was
// tried. What could not be read is in unread and nowhere else.
type settings struct {
	spec
	account string
	method  method // by which objects are moved
	scratch bool   // scratch objects may be written

	to   keyFacts
	from []keyFacts

	// tried: a scratch object was written and read under the target key; triedError
	// is what came of it.
	tried      bool
	triedError string

	encryption    *types.ServerSideEncryptionRule
	defaultKeyARN string // the key of encryption, resolved; "" for none
	policy        string
	keyPolicy     string // of the target key
	defaultLock   bool
	replication   []types.ReplicationRule
	replicaKeys   []string // of replication, resolved
	notification  *s3.GetBucketNotificationConfigurationOutput
	lifecycle     []types.LifecycleRule
	uploads       int
	moreUploads   bool

	unread []unread
}

// keyFacts is what is known of a key of a move.
type keyFacts struct {
	arn string
	// state, spec and manager are KMS's own words; "" where it was not readable.
	state, spec, manager string
	gone                 bool
	// dryRun is what KMS answers to a dry run of moving from this key to the target:
	// "" that it may be done.
	dryRun string
}

// unread is something that a preflight wanted to know and could not read.
type unread struct {
	what, words, permission string
	// stops: the job needs it.
	stops bool
}

// readSettings reads what a preflight judges. Its error is one that may go away;
// what is denied or not known to the server is in unread.
func (e *Engine) readSettings(ctx context.Context, s spec, scratch bool) (settings, error) {
	f := settings{spec: s, account: e.opt.Account, scratch: scratch && e.opt.StateBucket != ""}
	if s.Bucket == e.opt.StateBucket {
		return f, &stopError{"bucket " + s.Bucket + " is cmkeeper's own state bucket"}
	}
	for _, read := range []func(context.Context, *settings) error{
		e.readBucket, e.readDefault, e.readKeys, e.tryTarget, e.readMethod, e.readObjects,
	} {
		if err := read(ctx, &f); err != nil {
			return f, fmt.Errorf("preflight of bucket %s: %w", s.Bucket, err)
		}
	}
	return f, nil
}

// note puts what cannot be read into unread, and returns an error that may go away.
func (f *settings) note(err error, u unread) error {
	if err == nil {
		return nil
	}
	switch classify(err) {
	case faultTransient, faultThrottled:
		return err
	case faultNoBucket:
		return &stopError{"there is no bucket " + f.Bucket}
	default: // it stays unread
	}
	u.words = words(err)
	f.unread = append(f.unread, u)
	return nil
}

// answered returns an answer about the bucket, and nil where it has none, which is the
// error absent, or where it cannot be read, which is noted.
func answered[T any](f *settings, out *T, err error, absent, what, permission string) (*T, error) {
	if err == nil {
		return out, nil
	}
	if absent != "" && hasCode(err, absent) {
		return nil, nil
	}
	return nil, f.note(err, unread{what: what, permission: permission})
}

// readBucket reads the settings of the bucket.
func (e *Engine) readBucket(ctx context.Context, f *settings) error {
	bucket, owner := &f.Bucket, &e.opt.Account
	policy, err := e.opt.S3.GetBucketPolicy(ctx, &s3.GetBucketPolicyInput{Bucket: bucket, ExpectedBucketOwner: owner})
	if policy, err = answered(f, policy, err, "NoSuchBucketPolicy", "the bucket policy", "s3:GetBucketPolicy"); err != nil {
		return err
	} else if policy != nil {
		f.policy = aws.ToString(policy.Policy)
	}
	replication, err := e.opt.S3.GetBucketReplication(ctx, &s3.GetBucketReplicationInput{Bucket: bucket, ExpectedBucketOwner: owner})
	if replication, err = answered(f, replication, err, "ReplicationConfigurationNotFoundError", "the replication rules", "s3:GetReplicationConfiguration"); err != nil {
		return err
	} else if replication != nil && replication.ReplicationConfiguration != nil {
		f.replication = slices.DeleteFunc(replication.ReplicationConfiguration.Rules, func(r types.ReplicationRule) bool { return r.Status != types.ReplicationRuleStatusEnabled })
	}
	f.notification, err = e.opt.S3.GetBucketNotificationConfiguration(ctx, &s3.GetBucketNotificationConfigurationInput{Bucket: bucket, ExpectedBucketOwner: owner})
	if f.notification, err = answered(f, f.notification, err, "", "the event notifications", "s3:GetBucketNotification"); err != nil {
		return err
	}
	lifecycle, err := e.opt.S3.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: bucket, ExpectedBucketOwner: owner})
	if lifecycle, err = answered(f, lifecycle, err, "NoSuchLifecycleConfiguration", "the lifecycle rules", "s3:GetLifecycleConfiguration"); err != nil {
		return err
	} else if lifecycle != nil {
		f.lifecycle = slices.DeleteFunc(lifecycle.Rules, func(r types.LifecycleRule) bool { return r.Status != types.ExpirationStatusEnabled })
	}
	if f.defaultLock, err = e.defaultLock(ctx, f.Bucket); err != nil {
		if err := f.note(err, unread{what: "the Object Lock default", permission: needs["GetObjectLockConfiguration"]}); err != nil {
			return err
		}
	}
	uploads, err := e.opt.S3.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: bucket, Prefix: optional(f.Prefix), EncodingType: types.EncodingTypeUrl, ExpectedBucketOwner: owner})
	if uploads, err = answered(f, uploads, err, "", "the unfinished multipart uploads", "s3:ListBucketMultipartUploads"); uploads != nil {
		f.uploads, f.moreUploads = len(uploads.Uploads), aws.ToBool(uploads.IsTruncated)
	}
	return err
}

// defaultLock reports whether a bucket puts a retention on new objects.
func (e *Engine) defaultLock(ctx context.Context, bucket string) (bool, error) {
	lock, err := e.opt.S3.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &bucket, ExpectedBucketOwner: &e.opt.Account})
	if hasCode(err, "ObjectLockConfigurationNotFoundError") {
		return false, nil
	}
	return err == nil && lock.ObjectLockConfiguration != nil && lock.ObjectLockConfiguration.Rule != nil && lock.ObjectLockConfiguration.Rule.DefaultRetention != nil, err
}

// readDefault reads the bucket's default encryption and resolves the keys that
// the bucket's settings name.
func (e *Engine) readDefault(ctx context.Context, f *settings) error {
	for _, rule := range f.replication {
		if d := rule.Destination; d != nil && d.EncryptionConfiguration != nil {
			arn, err := e.resolveOrNone(ctx, f, "the key of replicas", aws.ToString(d.EncryptionConfiguration.ReplicaKmsKeyID))
			if err != nil {
				return err
			}
			f.replicaKeys = append(f.replicaKeys, arn)
		}
	}
	out, err := e.opt.S3.GetBucketEncryption(ctx, &s3.GetBucketEncryptionInput{Bucket: &f.Bucket, ExpectedBucketOwner: &e.opt.Account})
	switch {
	case hasCode(err, "ServerSideEncryptionConfigurationNotFoundError"): // older servers
		return nil
	case err != nil:
		return f.note(err, unread{what: "the default encryption", permission: "s3:GetEncryptionConfiguration"})
	case out.ServerSideEncryptionConfiguration == nil || len(out.ServerSideEncryptionConfiguration.Rules) == 0:
		return nil
	}
	f.encryption = &out.ServerSideEncryptionConfiguration.Rules[0] // S3 allows one rule
	if d := f.encryption.ApplyServerSideEncryptionByDefault; d != nil {
		f.defaultKeyARN, err = e.resolveOrNone(ctx, f, "the key of the default encryption", aws.ToString(d.KMSMasterKeyID))
	}
	return err
}

// resolveOrNone resolves a key's name; "" is none, a name without a key, or one that
// cannot be looked up, which is noted.
func (e *Engine) resolveOrNone(ctx context.Context, f *settings, what, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	arn, err := e.opt.Resolver.Resolve(ctx, name)
	if errors.Is(err, inventory.ErrNotFound) {
		return "", nil
	}
	return arn, f.note(err, unread{what: what + ", " + name + ",", permission: "kms:DescribeKey"})
}

// readKeys reads the keys of the move, and tries in a dry run whether KMS would
// let us move from one to the other.
func (e *Engine) readKeys(ctx context.Context, f *settings) error {
	var err error
	if f.to, err = e.readKey(ctx, f, f.To); err != nil {
		return err
	}
	policy, err := e.opt.KMS.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &f.To, PolicyName: aws.String("default")})
	if err == nil {
		f.keyPolicy = aws.ToString(policy.Policy)
	} else if err := f.note(err, unread{what: "the policy of the new key", permission: "kms:GetKeyPolicy"}); err != nil {
		return err
	}
	// The context is the one that S3 uses, so that a policy may insist on it.
	object := arn.ARN{Partition: arn.Parse(f.To).Partition, Service: "s3", Resource: f.Bucket}
	if f.encryption == nil || !aws.ToBool(f.encryption.BucketKeyEnabled) {
		object.Resource += "/" + f.Prefix + "cmkeeper-preflight"
	}
	encryptionContext := map[string]string{"aws:s3:arn": object.String()}
	for _, name := range f.From {
		key, err := e.readKey(ctx, f, name)
		if err != nil {
			return err
		}
		_, err = e.opt.KMS.ReEncrypt(ctx, &kms.ReEncryptInput{
			SourceKeyId: &name, DestinationKeyId: &f.To, SourceEncryptionContext: encryptionContext, DestinationEncryptionContext: encryptionContext,
			DryRun: aws.Bool(true), DryRunModifiers: []kmstypes.DryRunModifierType{kmstypes.DryRunModifierTypeIgnoreCiphertext},
		})
		if err != nil && !hasCode(err, "DryRunOperationException") { // which is how a dry run succeeds
			if _, known := errors.AsType[smithy.APIError](err); !known && classify(err) == faultTransient || hasCode(err, "ThrottlingException") {
				return err
			}
			key.dryRun = words(err)
		}
		f.from = append(f.from, key)
	}
	return nil
}

func (e *Engine) readKey(ctx context.Context, f *settings, arn string) (keyFacts, error) {
	key := keyFacts{arn: arn}
	out, err := e.opt.KMS.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &arn})
	if err != nil {
		if hasCode(err, "NotFoundException") {
			key.gone = true
			return key, nil
		}
		return key, f.note(err, unread{what: "key " + arn, permission: "kms:DescribeKey"})
	}
	m := out.KeyMetadata
	key.state, key.spec, key.manager = string(m.KeyState), string(m.KeySpec), string(m.KeyManager)
	return key, nil
}

// tryTarget writes and reads a scratch object under the target key: what a policy
// allows through S3 only, and what it denies there, shows in no other way.
func (e *Engine) tryTarget(ctx context.Context, f *settings) error {
	if !f.scratch || f.to.gone || f.to.state != "" && f.to.state != string(kmstypes.KeyStateEnabled) {
		return nil
	}
	err := e.scratch(ctx, f.To)
	switch {
	case err == nil:
	case classify(err) == faultTransient, classify(err) == faultThrottled:
		return err
	default:
		f.triedError = words(err)
	}
	f.tried = true
	return nil
}

// readMethod finds out how objects are moved.
func (e *Engine) readMethod(ctx context.Context, f *settings) error {
	if f.triedError != "" || f.scratch && !f.tried { // the probe would fail in the same words
		f.method = f.Method.candidates()[0]
		return nil
	}
	var err error
	f.method, err = e.methodOf(ctx, f.spec)
	return err
}

// readObjects tries what each object of the bucket needs, on the first one.
func (e *Engine) readObjects(ctx context.Context, f *settings) error {
	owner := &e.opt.Account
	versioning, err := e.opt.S3.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: &f.Bucket, ExpectedBucketOwner: owner})
	if err != nil {
		return f.note(err, unread{what: "the state of versioning", permission: needs["GetBucketVersioning"], stops: true})
	}
	first := e.currentPage(f.spec, 1, "", nil)
	what := unread{what: "the list of objects", permission: needs["ListObjectsV2"], stops: true}
	if versioning.Status != "" && f.Versions == VersionsAll {
		first = e.versionsPage(f.spec, 1, "", "")
		what = unread{what: "the list of object versions", permission: needs["ListObjectVersions"], stops: true}
	}
	p := first(ctx)
	if stop, ok := errors.AsType[*stopError](p.err); ok {
		what.words = stop.cause
		f.unread = append(f.unread, what)
		return nil
	}
	if p.err != nil || len(p.entries) == 0 {
		return p.err
	}
	o := p.entries[0]
	if o.deleteMarker {
		return nil
	}
	select {
	case e.slots <- struct{}{}: // slices of other jobs may be at work
		defer func() { <-e.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	_, err = e.opt.S3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &f.Bucket, Key: &o.key, VersionId: optional(o.version), ExpectedBucketOwner: owner})
	if err != nil && classify(err) == faultDenied { // anything else is about that object, and its row will say it
		return f.note(err, unread{what: "the encryption of objects (HEAD)", permission: needs["HeadObject"], stops: true})
	}
	if f.method.traits().tags != yes {
		return nil
	}
	_, err = e.opt.S3.GetObjectTagging(ctx, &s3.GetObjectTaggingInput{Bucket: &f.Bucket, Key: &o.key, VersionId: optional(o.version), ExpectedBucketOwner: owner})
	if err != nil && classify(err) == faultDenied {
		return f.note(err, unread{what: "the tags of objects", permission: needs["GetObjectTagging"], stops: true})
	}
	return nil
}

// movesDefault reports whether the bucket's default encryption is ours to move:
// where it names an alias, moving that alias is what its owner has to do, and
// where only a part of the bucket moves, the rest keeps its key.
func (f *settings) movesDefault() bool {
	return f.Prefix == "" && slices.Contains(f.From, f.defaultKeyARN) && !strings.Contains(f.defaultName(), "alias/")
}

// defaultName is the key of the default encryption as it is configured.
func (f *settings) defaultName() string {
	if f.encryption == nil || f.encryption.ApplyServerSideEncryptionByDefault == nil {
		return ""
	}
	return aws.ToString(f.encryption.ApplyServerSideEncryptionByDefault.KMSMasterKeyID)
}

// MoveDefault makes a bucket's default encryption name the key to instead of from, both
// ARNs, and keeps everything else of it. It does nothing, and returns false, where the
// default names another key, none, or an alias, which its owner moves.
func (e *Engine) MoveDefault(ctx context.Context, bucket, from, to string) (moved bool, err error) {
	f := settings{spec: spec{Bucket: bucket, From: []string{from}, To: to}}
	if err := e.readDefault(ctx, &f); err != nil {
		return false, fmt.Errorf("read the default encryption of bucket %s: %w", bucket, err)
	}
	if len(f.unread) > 0 {
		u := f.unread[0]
		return false, fmt.Errorf("read %s of bucket %s, which takes %s: %s", u.what, bucket, u.permission, u.words)
	}
	if !f.movesDefault() {
		return false, nil
	}
	if err := e.moveDefault(ctx, &f); err != nil {
		return false, fmt.Errorf("change the default encryption of bucket %s: %w", bucket, err)
	}
	return true, nil
}

// moveDefault puts the target key into the bucket's default encryption, keeps
// everything else of it, and reads it back.
func (e *Engine) moveDefault(ctx context.Context, f *settings) error {
	rule := *f.encryption
	byDefault := *rule.ApplyServerSideEncryptionByDefault
	byDefault.KMSMasterKeyID = &f.To
	rule.ApplyServerSideEncryptionByDefault = &byDefault
	_, err := e.opt.S3.PutBucketEncryption(ctx, &s3.PutBucketEncryptionInput{
		Bucket: &f.Bucket, ExpectedBucketOwner: &e.opt.Account,
		ServerSideEncryptionConfiguration: &types.ServerSideEncryptionConfiguration{Rules: []types.ServerSideEncryptionRule{rule}},
	})
	if err != nil {
		return fmt.Errorf("put default encryption: %w", err)
	}
	var now settings
	now.spec = f.spec
	if err := e.readDefault(ctx, &now); err != nil {
		return fmt.Errorf("read default encryption back: %w", err)
	}
	switch {
	case now.encryption == nil || now.defaultKeyARN != f.To:
		return errors.New("the default encryption does not show the new key when it is read back")
	case aws.ToBool(now.encryption.BucketKeyEnabled) != aws.ToBool(f.encryption.BucketKeyEnabled) || blocked(now.encryption) != blocked(f.encryption):
		return errors.New("the default encryption has the new key, but another setting of it changed: compare bucket key and blocked types")
	}
	return nil
}

// blocked lists the encryption types that a rule blocks.
func blocked(r *types.ServerSideEncryptionRule) string {
	if r.BlockedEncryptionTypes == nil {
		return ""
	}
	var list []string
	for _, t := range r.BlockedEncryptionTypes.EncryptionType {
		if t != types.EncryptionTypeNone {
			list = append(list, string(t))
		}
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}
