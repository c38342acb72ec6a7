package s3

import (
	"encoding/json"
	"encoding/xml"
	"maps"
	"net/http"
	"regexp"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// The ways of S3 Object Ownership. The first is a new bucket's.
const (
	ownerEnforced  = "BucketOwnerEnforced"
	ownerPreferred = "BucketOwnerPreferred"
	objectWriter   = "ObjectWriter"
)

// bucketName matches a bucket's name but for its greatest length: an expression that
// counts is as large as what it counts to.
var bucketName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-z0-9][a-z0-9.-]+[a-z0-9]$`)
})

const maxBucketName = 63

func (s *Service) createBucket(c *call) error {
	if !bucketName().MatchString(c.name) || len(c.name) > maxBucketName || strings.Contains(c.name, "..") {
		return &wire.Error{Code: "InvalidBucketName", Message: "The specified bucket is not valid.", Status: 400, Fields: map[string]string{"BucketName": c.name}}
	}
	var in struct {
		LocationConstraint string
		Location, Bucket   *struct{} // of directory buckets
		Tags               []tag     `xml:"Tags>Tag"`
	}
	if err := c.decode(&in); err != nil {
		return err
	}
	if in.Location != nil || in.Bucket != nil {
		return wire.Errorf(http.StatusNotImplemented, "NotImplemented", "localaws does not model directory buckets")
	}
	want := s.cfg.Region
	if want == "us-east-1" {
		want = ""
	}
	if in.LocationConstraint != want {
		return wire.Errorf(400, "IllegalLocationConstraintException", "The %s location constraint is incompatible for the region specific endpoint this request was sent to.", in.LocationConstraint)
	}
	if err := checkTags(in.Tags, 50); err != nil {
		return err
	}
	b := &bucket{
		name: c.name, owner: c.caller.AccountID, created: time.Now().UTC().Truncate(time.Second),
		uploads: map[string]*upload{}, rule: newBucketRule, ownership: ownerEnforced, tags: in.Tags,
	}
	if v := c.header("X-Amz-Object-Ownership"); v != "" {
		if err := checkOwnership(v); err != nil {
			return err
		}
		b.ownership = v
	}
	if acl := c.header("X-Amz-Acl"); acl != "" && acl != "private" {
		return wire.Errorf(http.StatusNotImplemented, "NotImplemented", "localaws models no bucket ACL but private")
	}
	if flag(c.header("X-Amz-Bucket-Object-Lock-Enabled")) {
		b.versioning, b.lock.enabled = versioningEnabled, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch old := s.buckets[c.name]; {
	case old == nil:
		s.buckets[c.name] = b
	case old.owner != b.owner:
		return wire.Errorf(409, "BucketAlreadyExists", "The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please select a different name and try again.")
	case s.cfg.Region != "us-east-1": // which answers 200, as it always did
		return wire.Errorf(409, "BucketAlreadyOwnedByYou", "Your previous request to create the named bucket succeeded and you already own it.")
	}
	c.set("Location", "/"+c.name)
	return c.empty(http.StatusOK)
}

func (s *Service) headBucket(c *call) error {
	c.set("X-Amz-Bucket-Region", s.cfg.Region)
	c.set("X-Amz-Bucket-Arn", bucketARN(c.name))
	return c.empty(http.StatusOK)
}

func (s *Service) deleteBucket(c *call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.bucket.mu.RLock()
	defer c.bucket.mu.RUnlock()
	if len(c.bucket.objects.blocks) > 0 {
		return &wire.Error{Code: "BucketNotEmpty", Message: "The bucket you tried to delete is not empty. You must delete all versions in the bucket.", Status: 409, Fields: map[string]string{"BucketName": c.name}}
	}
	delete(s.buckets, c.name)
	return c.empty(http.StatusNoContent)
}

// listBuckets lists the caller's own buckets, a page of max-buckets at a time.
func (s *Service) listBuckets(c *call) error {
	limit := 10000
	if v := c.query.Get("max-buckets"); v != "" {
		var err error
		if limit, err = limitOf("max-buckets", v); err != nil || limit == 0 {
			return invalidArgument("max-buckets", v, "Argument max-buckets must be an integer between 1 and 10000")
		}
	}
	if region := c.query.Get("bucket-region"); region != "" && region != s.cfg.Region {
		limit = 0
	}
	prefix, token := c.query.Get("prefix"), c.query.Get("continuation-token")
	s.mu.RLock()
	var list []*bucket
	for _, b := range s.buckets {
		if b.owner == c.caller.AccountID && strings.HasPrefix(b.name, prefix) && b.name > token {
			list = append(list, b)
		}
	}
	s.mu.RUnlock()
	sort.Slice(list, func(i, j int) bool { return list[i].name < list[j].name })
	d := newDocument("ListAllMyBucketsResult")
	owner(d, "Owner", c.caller.AccountID)
	d.begin("Buckets")
	for i, b := range list {
		if i == limit {
			break
		}
		d.begin("Bucket")
		d.element("Name", b.name)
		d.element("CreationDate", b.created.Format(isoTime))
		d.element("BucketRegion", s.cfg.Region)
		d.element("BucketArn", bucketARN(b.name))
		d.end("Bucket")
	}
	d.end("Buckets")
	if limit > 0 && len(list) > limit {
		d.element("ContinuationToken", list[limit-1].name)
	}
	d.optional("Prefix", prefix)
	d.end("ListAllMyBucketsResult")
	return c.xml(d)
}

func owner(d *document, element, account string) {
	d.begin(element)
	d.element("ID", canonicalUser(account))
	d.end(element)
}

func (s *Service) getBucketLocation(c *call) error {
	d := &document{}
	region := s.cfg.Region
	if region == "us-east-1" {
		region = "" // null, for the oldest Region
	}
	d.WriteString(`<?xml version="1.0" encoding="UTF-8"?><LocationConstraint xmlns="` + namespace + `">`)
	d.text(region)
	d.end("LocationConstraint")
	return c.xml(d)
}

func (s *Service) getBucketVersioning(c *call) error {
	c.bucket.mu.RLock()
	status := c.bucket.versioning
	c.bucket.mu.RUnlock()
	d := newDocument("VersioningConfiguration")
	d.optional("Status", status)
	d.end("VersioningConfiguration")
	return c.xml(d)
}

func (s *Service) putBucketVersioning(c *call) error {
	var in struct{ Status, MfaDelete string }
	if err := c.decode(&in); err != nil {
		return err
	}
	if in.MfaDelete == "Enabled" {
		return wire.Errorf(http.StatusNotImplemented, "NotImplemented", "localaws does not model MFA delete")
	}
	if in.Status != versioningEnabled && in.Status != versioningSuspended {
		return wire.Errorf(400, "IllegalVersioningConfigurationException", "The Versioning element must be specified")
	}
	c.bucket.mu.Lock()
	defer c.bucket.mu.Unlock()
	if c.bucket.lock.enabled && in.Status != versioningEnabled {
		return wire.Errorf(409, "InvalidBucketState", "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.")
	}
	c.bucket.versioning = in.Status
	return c.empty(http.StatusOK)
}

func checkOwnership(v string) error {
	switch v {
	case ownerEnforced, ownerPreferred, objectWriter:
		return nil
	}
	return invalidArgument("x-amz-object-ownership", v, "Invalid x-amz-object-ownership header: "+v)
}

func (s *Service) getBucketOwnershipControls(c *call) error {
	c.bucket.mu.RLock()
	ownership := c.bucket.ownership
	c.bucket.mu.RUnlock()
	d := newDocument("OwnershipControls")
	d.begin("Rule")
	d.element("ObjectOwnership", ownership)
	d.end("Rule")
	d.end("OwnershipControls")
	return c.xml(d)
}

func (s *Service) putBucketOwnershipControls(c *call) error {
	var in struct {
		Rules []struct{ ObjectOwnership string } `xml:"Rule"`
	}
	if err := c.decode(&in); err != nil {
		return err
	}
	if len(in.Rules) != 1 || checkOwnership(in.Rules[0].ObjectOwnership) != nil {
		return malformedXML()
	}
	c.bucket.mu.Lock()
	c.bucket.ownership = in.Rules[0].ObjectOwnership
	c.bucket.mu.Unlock()
	return c.empty(http.StatusOK)
}

func (s *Service) getBucketPolicy(c *call) error {
	c.bucket.mu.RLock()
	policy := c.bucket.policy
	c.bucket.mu.RUnlock()
	if policy == nil {
		return &wire.Error{Code: "NoSuchBucketPolicy", Message: "The bucket policy does not exist", Status: 404, Fields: map[string]string{"BucketName": c.name}}
	}
	c.set("Content-Type", "application/json")
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(policy) // an error means that the client is gone
	return nil
}

// putBucketPolicy stores a policy. It is not evaluated.
func (s *Service) putBucketPolicy(c *call) error {
	policy, _, err := c.payload(20 << 10)
	if err != nil {
		return err
	}
	if !json.Valid(policy) {
		return wire.Errorf(400, "MalformedPolicy", "Policies must be valid JSON and the first byte must be '{'")
	}
	c.params.BucketPolicy = policy
	c.bucket.mu.Lock()
	c.bucket.policy = policy
	c.bucket.mu.Unlock()
	return c.empty(http.StatusNoContent)
}

func (s *Service) deleteBucketPolicy(c *call) error {
	c.bucket.mu.Lock()
	c.bucket.policy = nil
	c.bucket.mu.Unlock()
	return c.empty(http.StatusNoContent)
}

// Notifications, replication and lifecycle rules are kept and given back as they
// were set, and nothing comes of them: no notification is sent, nothing is
// replicated and nothing expires.

// The configurations of a bucket that are only kept, by the root elements of
// their documents.
const (
	notification = "NotificationConfiguration"
	replication  = "ReplicationConfiguration"
	lifecycle    = "LifecycleConfiguration"
)

// putKept returns what serves the operation that sets a configuration.
func putKept(root string) func(*Service, *call) error {
	return func(_ *Service, c *call) error {
		body, _, err := c.payload(maxDocument)
		if err != nil {
			return err
		}
		var in struct{ XMLName xml.Name }
		if xml.Unmarshal(body, &in) != nil || in.XMLName.Local != root {
			return malformedXML()
		}
		c.bucket.mu.Lock()
		defer c.bucket.mu.Unlock()
		if root == replication && c.bucket.versioning != versioningEnabled {
			return wire.Errorf(400, "InvalidRequest", "Versioning must be 'Enabled' on the bucket to apply a replication configuration")
		}
		kept := maps.Clone(c.bucket.kept) // readers may hold the old one
		if kept == nil {
			kept = map[string][]byte{}
		}
		kept[root] = body
		c.bucket.kept = kept
		return c.empty(http.StatusOK)
	}
}

// getKept returns what serves the operation that reads a configuration. absent
// is the answer where none was set.
func getKept(root string, absent *wire.Error) func(*Service, *call) error {
	return func(_ *Service, c *call) error {
		c.bucket.mu.RLock()
		body := c.bucket.kept[root]
		c.bucket.mu.RUnlock()
		d := &document{}
		switch {
		case body != nil:
			d.Write(body)
		case absent != nil:
			return absent
		default:
			d = newDocument(root)
			d.end(root)
		}
		return c.xml(d)
	}
}

// encryptionRule is a bucket's default encryption.
type encryptionRule struct {
	kind          string
	keyID         string // as it was given: an id, an ARN or an alias
	bucketKey     bool
	blockCustomer bool // SSE-C is refused
}

// newBucketRule is the rule of a new bucket: SSE-S3, and since April 2026 no
// SSE-C (User Guide, "Blocking or unblocking SSE-C for a general purpose bucket").
var newBucketRule = encryptionRule{kind: sseS3, blockCustomer: true}

func (b *bucket) defaultEncryption() encryptionRule {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.rule
}

func (s *Service) getBucketEncryption(c *call) error {
	rule := c.bucket.defaultEncryption()
	d := newDocument("ServerSideEncryptionConfiguration")
	d.begin("Rule")
	d.begin("ApplyServerSideEncryptionByDefault")
	d.element("SSEAlgorithm", rule.kind)
	d.optional("KMSMasterKeyID", rule.keyID)
	d.end("ApplyServerSideEncryptionByDefault")
	d.boolean("BucketKeyEnabled", rule.bucketKey)
	if rule.blockCustomer {
		d.begin("BlockedEncryptionTypes")
		d.element("EncryptionType", "SSE-C")
		d.end("BlockedEncryptionTypes")
	}
	d.end("Rule")
	d.end("ServerSideEncryptionConfiguration")
	return c.xml(d)
}

// putBucketEncryption sets the default encryption. S3 does not look whether the
// key exists: a write that needs it will fail.
func (s *Service) putBucketEncryption(c *call) error {
	var in struct {
		Rules []struct {
			Default *struct {
				Algorithm string `xml:"SSEAlgorithm"`
				KeyID     string `xml:"KMSMasterKeyID"`
			} `xml:"ApplyServerSideEncryptionByDefault"`
			BucketKeyEnabled bool
			Blocked          *struct {
				Types []string `xml:"EncryptionType"`
			} `xml:"BlockedEncryptionTypes"`
		} `xml:"Rule"`
	}
	if err := c.decode(&in); err != nil {
		return err
	}
	if len(in.Rules) != 1 {
		return malformedXML()
	}
	given := in.Rules[0]
	c.params.Configuration = &encryptionParameters{Namespace: namespace, Rule: ruleParameters{BucketKeyEnabled: given.BucketKeyEnabled}}
	c.bucket.mu.Lock()
	defer c.bucket.mu.Unlock()
	// What happens to a blocked type that the request does not mention is not
	// documented; it stays blocked.
	rule := encryptionRule{kind: sseS3, bucketKey: given.BucketKeyEnabled, blockCustomer: c.bucket.rule.blockCustomer}
	if given.Default != nil {
		rule.kind, rule.keyID = given.Default.Algorithm, given.Default.KeyID
		c.params.Configuration.Rule.Default = &defaultParameters{rule.kind, rule.keyID}
	}
	switch rule.kind {
	case sseS3:
		if rule.keyID != "" {
			return invalidArgument("ApplyServerSideEncryptionByDefault", rule.keyID, "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms or aws:kms:dsse")
		}
	case sseKMS, sseDSSE:
	default:
		return malformedXML()
	}
	if given.Blocked != nil {
		rule.blockCustomer = false
		for _, t := range given.Blocked.Types {
			switch t {
			case "NONE":
			case "SSE-C":
				rule.blockCustomer = true
			default:
				return malformedXML()
			}
		}
	}
	c.bucket.rule = rule
	return c.empty(http.StatusOK)
}

// deleteBucketEncryption restores SSE-S3; what is blocked stays blocked.
func (s *Service) deleteBucketEncryption(c *call) error {
	c.bucket.mu.Lock()
	c.bucket.rule = encryptionRule{kind: sseS3, blockCustomer: c.bucket.rule.blockCustomer}
	c.bucket.mu.Unlock()
	return c.empty(http.StatusNoContent)
}
