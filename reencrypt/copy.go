package reencrypt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// copyMethod copies objects onto themselves, in parts where they are large.
type copyMethod struct{}

// Its actions.
const (
	copyWhole action = "copy"
	copyParts action = "copy-parts"
)

func (copyMethod) traits() traits {
	return traits{
		name: MethodCopy, does: "copies", operation: "CopyObject",
		probed: no, checksums: yes, tags: yes, conditions: yes,
		notes: []string{
			"LastModified, and so what lifecycle rules count from, is the time of the copy.",
			"In buckets with versions each copy is a new version; the version before it stays under the old key and is in the report as noncurrent.",
			"The ETag, and the checksum of objects uploaded in parts, may differ.",
			"An encryption context of the object's own, which S3 does not show, is lost.",
			"Copies raise event notifications and are replicated.",
		},
	}
}

func (copyMethod) usable(context.Context, *Engine, string) (string, error) { return "", nil }

func (copyMethod) readBucket(ctx context.Context, e *Engine, bucket string, f *facts) error {
	var err error
	if f.defaultLock, err = e.defaultLock(ctx, bucket); err != nil {
		return bucketError("GetObjectLockConfiguration", bucket, err)
	}
	controls, err := e.opt.S3.GetBucketOwnershipControls(ctx, &s3.GetBucketOwnershipControlsInput{Bucket: &bucket, ExpectedBucketOwner: &e.opt.Account})
	unknown := err != nil && classify(err) == faultUnsupported
	switch {
	case err == nil && controls.OwnershipControls != nil && slices.ContainsFunc(controls.OwnershipControls.Rules, func(r types.OwnershipControlsRule) bool {
		return r.ObjectOwnership == types.ObjectOwnershipBucketOwnerEnforced
	}):
		return nil
	case err != nil && !unknown && !hasCode(err, "OwnershipControlsNotFoundError"):
		return bucketError("GetBucketOwnershipControls", bucket, err)
	}
	acl, err := e.opt.S3.GetBucketAcl(ctx, &s3.GetBucketAclInput{Bucket: &bucket, ExpectedBucketOwner: &e.opt.Account})
	switch {
	case err == nil && acl.Owner != nil:
		f.owner = aws.ToString(acl.Owner.ID)
	case err != nil && (!unknown || classify(err) != faultUnsupported):
		return bucketError("GetBucketAcl", bucket, err)
	}
	f.acls = f.owner != "" || !unknown // a server that knows no ownership and names no owner has no ACLs
	return nil
}

// maxObjectSize is what 10,000 parts of 5 GiB hold.
const maxObjectSize = 10_000 * (5 << 30)

// copyClasses are the storage classes that a copy can be put into and read from
// at once. An object of no class at all is STANDARD: S3 omits that one.
var copyClasses = []string{"", "STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"}

func (copyMethod) decide(o object, r rules) decision {
	archive := o.storageClass == "GLACIER" || o.storageClass == "DEEP_ARCHIVE"
	switch {
	case !o.latest:
		return decision{refuse, ReasonNoncurrent}
	case o.retention || r.defaultLock: // a retention that is over would be lost, and a default one gained
		return decision{refuse, ReasonObjectLock}
	case archive && strings.Contains(o.restore, `ongoing-request="false"`):
		return decision{refuse, ReasonRestored}
	case archive || o.archived:
		return decision{refuse, ReasonArchived}
	case !slices.Contains(copyClasses, o.storageClass):
		return decision{refuse, ReasonStorageClass}
	case o.acl == aclForeign:
		return decision{refuse, ReasonForeignOwner}
	case o.acl != aclPlain:
		return decision{refuse, ReasonACL}
	case o.size > maxObjectSize:
		return decision{refuse, ReasonTooLarge}
	case o.size <= r.maxCopy:
		return decision{action: copyWhole}
	case o.hiddenMetadata:
		return decision{refuse, ReasonMetadata}
	case o.annotated:
		return decision{refuse, ReasonAnnotations}
	}
	return decision{action: copyParts}
}

// examine reads the ACL, which no copy keeps by itself, and looks for annotations,
// which copies in parts lose.
func (c copyMethod) examine(ctx context.Context, m *mover, en entry, h *s3.HeadObjectOutput, o *object) (err error) {
	if m.facts.acls {
		if o.grants, o.acl, err = m.readACL(ctx, en.key, aws.ToString(h.VersionId)); err != nil {
			return err
		}
	}
	if c.decide(*o, m.rules).action == copyParts {
		o.annotated, err = m.annotated(ctx, en.key, aws.ToString(h.VersionId))
	}
	return err
}

func (copyMethod) move(ctx context.Context, m *mover, en entry, h *s3.HeadObjectOutput, o object, a action) error {
	to := goal{HeadObjectOutput: h, key: m.To}
	if a == copyParts {
		return m.copyParts(ctx, en, h, to, o.grants)
	}
	return wrap("CopyObject", m.copyWhole(ctx, en, h, to, o.grants))
}

// cost: a copy in parts has a beginning and an end besides its parts.
func (copyMethod) cost(g Group, class classPrice, part int64) (writes int64, usd float64) {
	writes = g.Versions
	if action(g.Action) == copyParts || action(g.Action) == rewrap && g.Bytes > g.Versions*(5<<30) {
		writes = 2*g.Versions + g.Bytes/part + g.Versions
	}
	return writes, float64(writes)*class.put + float64(g.Bytes)/(1<<30)*class.retrieval
}

func (copyMethod) judge(f settings) []Finding {
	all := judgeReplication(f, "Each copy is replicated as a new version, and what is there already keeps its key.")
	if f.defaultLock {
		all = append(all, Finding{findingObjectLock, SeverityWarn, "The bucket puts a retention on each new object, so every copy is refused.", "Use method update, or take the default retention away meanwhile."})
	}
	if hears := listeners(f); len(hears) > 0 {
		all = append(all, Finding{findingNotification, SeverityWarn, "Each copy raises an event, which goes to " + strings.Join(hears, ", ") + ".", "Tell their owners, or switch the notification off meanwhile."})
	}
	var resets []string
	for i, rule := range f.lifecycle {
		name := cmp.Or(aws.ToString(rule.ID), fmt.Sprintf("#%d", i+1))
		switch x := rule.Expiration; {
		case x != nil && x.Days != nil, slices.ContainsFunc(rule.Transitions, func(t types.Transition) bool { return t.Days != nil }):
			resets = append(resets, name+" (counts days from LastModified, which begin anew)")
		case rule.NoncurrentVersionExpiration != nil || len(rule.NoncurrentVersionTransitions) > 0:
			resets = append(resets, name+" (the original becomes a noncurrent version)")
		}
	}
	if len(resets) > 0 {
		all = append(all, Finding{findingLifecycle, SeverityWarn, "A copy has a new LastModified. Lifecycle rules that it concerns: " + strings.Join(resets, ", ") + ".", "Use method update, or adjust the rules."})
	}
	return all
}

// listeners returns the ARNs of those that are notified of a copy.
func listeners(f settings) []string {
	n := f.notification
	if n == nil {
		return nil
	}
	var all []string
	add := func(arn *string, events []types.Event) {
		if slices.ContainsFunc(events, func(e types.Event) bool {
			return strings.HasPrefix(string(e), "s3:ObjectCreated:") && e != "s3:ObjectCreated:Put" && e != "s3:ObjectCreated:Post"
		}) {
			all = append(all, aws.ToString(arn))
		}
	}
	for _, c := range n.QueueConfigurations {
		add(c.QueueArn, c.Events)
	}
	for _, c := range n.TopicConfigurations {
		add(c.TopicArn, c.Events)
	}
	for _, c := range n.LambdaFunctionConfigurations {
		add(c.LambdaFunctionArn, c.Events)
	}
	if n.EventBridgeConfiguration != nil {
		all = append(all, "EventBridge")
	}
	return all
}

// errDiffers means that a copy differs from its original, or may differ. It is not undone: the original is what it was only in buckets with versions.
var errDiffers = errors.New("copy is not known to be like its original")

// grants are the headers of an ACL.
type grants struct{ full, read, readACP, writeACP *string }

// goal is what HEAD is to show of a copy, and the ARN of the key that it is to be under, ""
// for one of S3's own.
type goal struct {
	*s3.HeadObjectOutput
	key string
	// resent: its metadata are sent, and not copied from the original.
	resent bool
}

// copyWhole copies an object onto itself, and checks the copy until copies of its kind are
// proven.
func (m *mover) copyWhole(ctx context.Context, en entry, h *s3.HeadObjectOutput, to goal, g grants) error {
	in := &s3.CopyObjectInput{
		Bucket: &m.Bucket, Key: &en.key, CopySource: aws.String(copySource(m.Bucket, en.key, aws.ToString(h.VersionId))),
		ExpectedBucketOwner: &m.e.opt.Account, ExpectedSourceBucketOwner: &m.e.opt.Account,
		CopySourceIfMatch: h.ETag, IfMatch: h.ETag,
		ServerSideEncryption: to.ServerSideEncryption, SSEKMSKeyId: optional(to.key), BucketKeyEnabled: to.BucketKeyEnabled,
		MetadataDirective: types.MetadataDirectiveCopy, TaggingDirective: types.TaggingDirectiveCopy,
		StorageClass: to.StorageClass, WebsiteRedirectLocation: to.WebsiteRedirectLocation, ChecksumAlgorithm: en.checksum,
		GrantFullControl: g.full, GrantRead: g.read, GrantReadACP: g.readACP, GrantWriteACP: g.writeACP,
	}
	options := []func(*s3.Options){m.e.throttlesBack}
	if to.resent {
		in.MetadataDirective, in.Metadata = types.MetadataDirectiveReplace, to.Metadata
		in.CacheControl, in.ContentDisposition, in.ContentEncoding = to.CacheControl, to.ContentDisposition, to.ContentEncoding
		in.ContentLanguage, in.ContentType = to.ContentLanguage, to.ContentType
		options = append(options, verbatimExpires(to.ExpiresString))
		if h.ServerSideEncryption != types.ServerSideEncryptionAwsKms {
			// The ETag is the MD5 of the body then (S3 API Reference, Object), and does not show
			// that others have given it other metadata. S3 ignores this condition beside
			// CopySourceIfMatch; IfMatch stands for that.
			in.CopySource = aws.String(copySource(m.Bucket, en.key, ""))
			in.CopySourceIfMatch, in.CopySourceIfUnmodifiedSince = nil, h.LastModified
		}
	}
	out, err := m.e.opt.S3.CopyObject(ctx, in, options...)
	if err != nil {
		return err
	}
	k := kindOf(m.Bucket, en, to, g)
	asWished := true // as far as the answer says: some servers name no key, and the verifying pass asks for it
	if out.SSEKMSKeyId != nil {
		keyARN, err := m.resolve(ctx, *out.SSEKMSKeyId)
		asWished = err == nil && keyARN == to.key && aws.ToBool(out.BucketKeyEnabled) == aws.ToBool(to.BucketKeyEnabled)
	}
	if asWished && !m.e.audit.due(k) {
		return nil
	}
	etag := ""
	if out.CopyObjectResult != nil {
		etag = aws.ToString(out.CopyObjectResult.ETag)
	}
	compared, err := m.checkCopy(ctx, en.key, to, etag, aws.ToString(out.VersionId))
	switch {
	case errors.Is(err, errDiffers):
		m.e.audit.differs()
	case compared:
		m.e.audit.same(k)
	}
	return err
}

// checkCopy compares a copy with what it is to be. Where another writer has
// replaced or deleted it since, there is nothing to compare.
func (m *mover) checkCopy(ctx context.Context, key string, to goal, etag, version string) (compared bool, err error) {
	var after *s3.HeadObjectOutput
	err = m.patiently(ctx, func() (err error) {
		after, err = m.head(ctx, key, version, true)
		return err
	})
	switch {
	case err != nil && classify(err) == faultGone, err == nil && etag != "" && aws.ToString(after.ETag) != etag:
		return false, nil
	case err != nil && ctx.Err() == nil && (classify(err) == faultThrottled || classify(err) == faultTransient):
		// Another try would find it under the to-key and not compare it.
		return false, fmt.Errorf("%w: it could not be looked at: %s", errDiffers, words(err))
	case err != nil:
		return false, fmt.Errorf("check copy: %w", err)
	}
	different := differences(to.HeadObjectOutput, after)
	keyARN := ""
	if after.SSEKMSKeyId != nil {
		if keyARN, err = m.resolve(ctx, *after.SSEKMSKeyId); err != nil {
			return false, fmt.Errorf("check copy: %w", err)
		}
	}
	if keyARN != to.key {
		different = append(different, "key")
	}
	if len(different) > 0 {
		return false, fmt.Errorf("%w: it differs in %s", errDiffers, strings.Join(different, ", "))
	}
	return true, nil
}

// checksumOf returns the algorithm of the checksum that HEAD shows; "" where it shows none.
func checksumOf(h *s3.HeadObjectOutput) types.ChecksumAlgorithm {
	i := slices.IndexFunc(checksumsOf(h), func(c *string) bool { return c != nil })
	if i < 0 {
		return ""
	}
	return []types.ChecksumAlgorithm{
		types.ChecksumAlgorithmCrc32, types.ChecksumAlgorithmCrc32c, types.ChecksumAlgorithmCrc64nvme, types.ChecksumAlgorithmSha1, types.ChecksumAlgorithmSha256,
	}[i]
}

// checksumsOf returns the checksums that HEAD shows, nil for those that it does not.
func checksumsOf(h *s3.HeadObjectOutput) []*string {
	return []*string{h.ChecksumCRC32, h.ChecksumCRC32C, h.ChecksumCRC64NVME, h.ChecksumSHA1, h.ChecksumSHA256}
}

// differences names what two HEAD answers, before and after a copy, should have
// in common and do not.
func differences(a, b *s3.HeadObjectOutput) []string {
	var names []string
	check := func(same bool, name string) {
		if !same {
			names = append(names, name)
		}
	}
	same := func(x, y *string, name string) { check(aws.ToString(x) == aws.ToString(y), name) }
	check(aws.ToInt64(a.ContentLength) == aws.ToInt64(b.ContentLength), "size")
	check(maps.Equal(a.Metadata, b.Metadata), "metadata")
	check(aws.ToInt32(a.MissingMeta) == aws.ToInt32(b.MissingMeta), "hidden metadata")
	check(aws.ToInt32(a.TagCount) == aws.ToInt32(b.TagCount), "tags")
	check(classOf(a) == classOf(b), "storage class")
	check(aws.ToBool(a.BucketKeyEnabled) == aws.ToBool(b.BucketKeyEnabled), "bucket key")
	check(a.ServerSideEncryption == b.ServerSideEncryption, "kind of encryption")
	check(a.ObjectLockMode == b.ObjectLockMode && a.ObjectLockLegalHoldStatus == b.ObjectLockLegalHoldStatus, "lock")
	same(a.CacheControl, b.CacheControl, "Cache-Control")
	same(a.ContentDisposition, b.ContentDisposition, "Content-Disposition")
	same(a.ContentEncoding, b.ContentEncoding, "Content-Encoding")
	same(a.ContentLanguage, b.ContentLanguage, "Content-Language")
	same(a.ContentType, b.ContentType, "Content-Type")
	same(a.ExpiresString, b.ExpiresString, "Expires")
	same(a.WebsiteRedirectLocation, b.WebsiteRedirectLocation, "website redirect")
	if a.ChecksumType == types.ChecksumTypeFullObject && b.ChecksumType == types.ChecksumTypeFullObject {
		now := checksumsOf(b)
		for i, was := range checksumsOf(a) {
			if was != nil && now[i] != nil {
				same(was, now[i], "checksum")
			}
		}
	}
	return names
}

// classOf returns an object's storage class; S3 omits STANDARD.
func classOf(h *s3.HeadObjectOutput) types.StorageClass {
	return cmp.Or(h.StorageClass, types.StorageClassStandard)
}

// readACL reads an object's ACL as the headers that give it to a copy.
func (m *mover) readACL(ctx context.Context, key, version string) (grants, aclState, error) {
	out, err := m.e.opt.S3.GetObjectAcl(ctx, &s3.GetObjectAclInput{
		Bucket: &m.Bucket, Key: &key, VersionId: optional(version), ExpectedBucketOwner: &m.e.opt.Account,
	}, m.e.throttlesBack)
	switch {
	case err != nil && classify(err) == faultUnsupported:
		return grants{}, aclOdd, nil
	case err != nil:
		return grants{}, aclOdd, &operationError{"GetObjectAcl", err}
	}
	g, state := grantHeaders(out, m.facts.owner)
	return g, state, nil
}

// grantHeaders turns an ACL into headers. An ACL with a grant for the owner only
// needs none, because that is what a copy gets.
func grantHeaders(acl *s3.GetObjectAclOutput, account string) (grants, aclState) {
	owner := ""
	if acl.Owner != nil {
		owner = aws.ToString(acl.Owner.ID)
	}
	if owner == "" || owner != account {
		return grants{}, aclForeign
	}
	private := len(acl.Grants) == 1 && acl.Grants[0].Permission == types.PermissionFullControl &&
		acl.Grants[0].Grantee != nil && aws.ToString(acl.Grants[0].Grantee.ID) == owner
	if private {
		return grants{}, aclPlain
	}
	by := map[types.Permission][]string{}
	for _, g := range acl.Grants {
		grantee, ok := granteeHeader(g.Grantee)
		if !ok {
			return grants{}, aclOdd
		}
		by[g.Permission] = append(by[g.Permission], grantee)
	}
	header := func(p types.Permission) *string {
		list := by[p]
		delete(by, p)
		slices.Sort(list)
		return optional(strings.Join(list, ", "))
	}
	g := grants{
		full: header(types.PermissionFullControl), read: header(types.PermissionRead),
		readACP: header(types.PermissionReadAcp), writeACP: header(types.PermissionWriteAcp),
	}
	if len(by) > 0 || g == (grants{}) {
		// A permission that objects do not have, or an ACL that gives nothing to anybody,
		// which no header says.
		return grants{}, aclOdd
	}
	return g, aclPlain
}

func granteeHeader(g *types.Grantee) (string, bool) {
	if g == nil {
		return "", false
	}
	name, value := "", ""
	switch g.Type {
	case types.TypeCanonicalUser:
		name, value = "id", aws.ToString(g.ID)
	case types.TypeGroup:
		name, value = "uri", aws.ToString(g.URI)
	case types.TypeAmazonCustomerByEmail:
		name, value = "emailAddress", aws.ToString(g.EmailAddress)
	}
	ok := value != "" && !strings.ContainsAny(value, "\"\\\r\n")
	return name + `="` + value + `"`, ok
}
