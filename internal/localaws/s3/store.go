package s3

import (
	"encoding/base32"
	"encoding/binary"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// version is one version of an object, or a delete marker. It never changes
// once it is stored: a change of its tags, lock or encryption replaces it by a
// changed copy, so a reader needs the bucket's lock only to find it.
type version struct {
	id       string // "null" where the bucket was not versioned
	sequence uint64 // orders the versions of a bucket
	modified int64  // Unix seconds, as exact as S3's
	marker   bool   // a delete marker, which has only the fields above

	etag         string // without quotes
	size         int64
	segments     []segment
	encryption   *encryption
	checksum     checksum
	metadata     *metadata
	tags         []tag
	storageClass string
	acl          *acl // nil is private
	lock         lock
	restored     restored
}

func (v *version) modifiedTime() time.Time { return time.Unix(v.modified, 0).UTC() }

// nullID is the id of the version that a bucket without versioning keeps.
const nullID = "null"

// versionIDs encodes ids in S3's alphabet, 32 characters without padding.
var versionIDs = base32.HexEncoding.WithPadding(base32.NoPadding)

// newVersionID returns an id that tells its sequence, so that a listing can go
// on behind a version that was deleted meanwhile.
func newVersionID(sequence uint64) string {
	b := binary.BigEndian.AppendUint64(nil, sequence)
	return versionIDs.EncodeToString(append(b, randomBytes(12)...))
}

func sequenceOf(versionID string) (uint64, bool) {
	b, err := versionIDs.DecodeString(versionID)
	if err != nil || len(b) != 20 {
		return 0, false
	}
	return binary.BigEndian.Uint64(b), true
}

// The states of a bucket's versioning. A bucket that never was versioned has none.
const (
	versioningEnabled   = "Enabled"
	versioningSuspended = "Suspended"
)

// bucket is one bucket. Its lock is never held over a call of KMS.
type bucket struct {
	name, owner string
	created     time.Time
	sequence    atomic.Uint64

	mu         sync.RWMutex
	objects    index
	uploads    map[string]*upload
	versioning string
	rule       encryptionRule
	ownership  string
	policy     []byte
	tags       []tag
	lock       lockRule
	kept       map[string][]byte // configurations that are only kept, by root element; replaced, never changed
}

func errNoSuchKey() error {
	return wire.Errorf(404, "NoSuchKey", "The specified key does not exist.")
}

// current returns the newest version of a key, nil where there is none or a
// delete marker. The caller holds the lock.
func (b *bucket) current(key string) *version {
	if e := b.objects.get(key); e != nil && !e.latest().marker {
		return e.latest()
	}
	return nil
}

// lookup returns a version of a key; the empty id is the newest one's. A delete
// marker is an error, with the marker returned beside it.
func (b *bucket) lookup(key, id string) (*version, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	e := b.objects.get(key)
	if e == nil {
		if id != "" {
			return nil, errNoSuchVersion(key, id)
		}
		return nil, noSuchKey(key)
	}
	at := e.at(id)
	if at < 0 {
		return nil, errNoSuchVersion(key, id)
	}
	v := e.versions[at]
	switch {
	case v.marker && id == "":
		return v, noSuchKey(key)
	case v.marker:
		return v, wire.Errorf(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
	}
	return v, nil
}

func noSuchKey(key string) error {
	return &wire.Error{Code: "NoSuchKey", Message: "The specified key does not exist.", Status: 404, Fields: map[string]string{"Key": key}}
}

func errNoSuchVersion(key, id string) error {
	if _, ok := sequenceOf(id); !ok && id != nullID {
		return invalidArgument("versionId", id, "Invalid version id specified")
	}
	return &wire.Error{Code: "NoSuchVersion", Message: "The specified version does not exist.", Status: 404, Fields: map[string]string{"Key": key, "VersionId": id}}
}

// put makes v the newest version of key if the condition holds, and gives it
// its id. It returns the id to tell the client, "" where the bucket never was
// versioned.
func (b *bucket) put(key string, v *version, cond writeCondition) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := cond.check(b.current(key)); err != nil {
		return "", err
	}
	return b.insert(key, v), nil
}

// insert is put's second half, without a condition. The caller holds the lock.
func (b *bucket) insert(key string, v *version) string {
	v.sequence = b.sequence.Add(1)
	if v.modified == 0 {
		v.modified = time.Now().Unix()
	}
	e := b.objects.add(key)
	if b.versioning == versioningEnabled {
		v.id = newVersionID(v.sequence)
	} else { // replaces the null version, wherever it stands
		v.id = nullID
		if at := e.at(nullID); at >= 0 {
			e.versions = append(e.versions[:at:at], e.versions[at+1:]...)
		}
	}
	e.versions = append(e.versions, v)
	if b.versioning == "" {
		return ""
	}
	return v.id
}

// replace puts changed in the place of v, unless v was replaced or removed
// meanwhile, which it reports as false.
func (b *bucket) replace(key string, v, changed *version) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.objects.get(key)
	if e == nil {
		return false
	}
	for i, old := range e.versions {
		if old == v {
			e.versions[i] = changed
			return true
		}
	}
	return false
}

// change applies f to a copy of a version and stores it. Where the version was
// changed meanwhile, it begins again with the new one; f holds no lock and may
// call KMS.
func (b *bucket) change(key, id string, f func(v *version) error) (*version, error) {
	for {
		v, err := b.lookup(key, id)
		if err != nil {
			return v, err
		}
		changed := *v
		if err := f(&changed); err != nil {
			return v, err
		}
		if b.replace(key, v, &changed) {
			return &changed, nil
		}
	}
}

// remove removes one version for good, if allowed says that it may go, and
// returns it; nil where there is none.
func (b *bucket) remove(key, id string, allowed func(v *version) error) (*version, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.objects.get(key)
	if e == nil {
		return nil, nil
	}
	at := e.at(id)
	if at < 0 {
		return nil, nil
	}
	v := e.versions[at]
	if err := allowed(v); err != nil {
		return nil, err
	}
	e.versions = append(e.versions[:at:at], e.versions[at+1:]...)
	if len(e.versions) == 0 {
		b.objects.remove(key)
	}
	return v, nil
}

// metadata is what a client says about an object and gets back as it said it.
type metadata struct {
	contentType, cacheControl, contentDisposition, contentEncoding, contentLanguage, expires string
	redirect                                                                                 string
	user                                                                                     map[string]string // by lower-case name
}

// tag is a tag of a bucket or of an object.
type tag struct {
	Key   string `xml:"Key"`
	Value string `xml:"Value"`
}

const metaPrefix = "X-Amz-Meta-"

// quote puts an entity tag into the quotes of its header.
func quote(etag string) string { return `"` + strings.Trim(etag, `"`) + `"` }
