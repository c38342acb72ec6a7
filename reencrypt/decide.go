package reencrypt

import (
	"slices"
	"strings"
	"time"
)

// Reason names why an object version is moved, or is not. The names are part of
// the reports and do not change.
type Reason string

// Why an object version is skipped: it is not in scope, or done.
const (
	ReasonOnTarget     Reason = "on-target"     // it is under the to-key
	ReasonOtherKey     Reason = "other-key"     // it is under a key that is not being moved from
	ReasonNotEncrypted Reason = "not-encrypted" // it is not encrypted by S3
	ReasonSSES3        Reason = "sse-s3"        // it is under a key of S3's own
	ReasonDeleteMarker Reason = "delete-marker" // it has no data
	ReasonGone         Reason = "gone"          // it was deleted since it was listed
)

// Why an object version in scope is refused: it cannot be moved without loss, or
// the service does not let us.
const (
	ReasonObjectLock     Reason = "object-lock"     // a retention or hold protects it, or would protect the copy
	ReasonDSSE           Reason = "dsse"            // double encryption: neither method can keep it
	ReasonNoncurrent     Reason = "noncurrent"      // a copy would become the current version
	ReasonArchived       Reason = "archived"        // it cannot be read until it is restored
	ReasonRestored       Reason = "restored"        // a copy would end the restored copy of an archived object
	ReasonStorageClass   Reason = "storage-class"   // a copy cannot be put into its storage class
	ReasonTooLarge       Reason = "too-large"       // it has more than 10,000 parts of 5 GiB
	ReasonMetadata       Reason = "metadata"        // HEAD does not show all of its metadata, which a copy in parts has to resend
	ReasonAnnotations    Reason = "annotations"     // a copy in parts would lose its annotations
	ReasonACL            Reason = "acl"             // its ACL has a grant that cannot be resent
	ReasonForeignOwner   Reason = "foreign-owner"   // another account owns it; a copy would be ours
	ReasonUnreadableHead Reason = "unreadable-head" // S3 does not show its encryption, as for SSE-C
	ReasonUnknownKey     Reason = "unknown-key"     // the key that S3 names cannot be found
	ReasonKeyUnusable    Reason = "key-unusable"    // KMS does not let its key be used: disabled, or to be deleted
	ReasonRejected       Reason = "rejected"        // S3 refuses it; the detail has its message
)

// Why the data keys of client-side encryption in an object version are refused. The reasons
// above are theirs, too: the detail says whether they are.
const (
	ReasonEnvelopeFormat      Reason = "envelope-format"      // its format cannot be re-wrapped soundly
	ReasonEnvelopeMalformed   Reason = "envelope-malformed"   // what the client stored contradicts itself, or is not complete
	ReasonEnvelopeUnread      Reason = "envelope-unread"      // its content cannot be read to look for data keys
	ReasonEnvelopeInstruction Reason = "envelope-instruction" // the instruction file is missing that should have its data key
	ReasonEnvelopeFile        Reason = "envelope-file"        // its body would have to be written anew, which is not allowed
	ReasonEnvelopeLarge       Reason = "envelope-too-large"   // its body would have to be written anew, and is too large
	ReasonEnvelopeKMS         Reason = "envelope-kms"         // KMS does not let its data key be moved; the detail has its message
)

// Why an object version failed: another try may succeed.
const (
	ReasonChanging Reason = "changing" // it was written again and again meanwhile
	ReasonError    Reason = "error"    // the service failed; the detail has its message
	ReasonDiffers  Reason = "differs"  // the copy is not what the original was: look at it
)

// Skips reports whether a reason says that an object version needs nothing: it is
// not in scope, or done.
func (r Reason) Skips() bool {
	switch r {
	case ReasonOnTarget, ReasonOtherKey, ReasonNotEncrypted, ReasonSSES3, ReasonDeleteMarker, ReasonGone:
		return true
	default:
		return false
	}
}

// aboutEnvelope reports whether a reason is about data keys alone.
func (r Reason) aboutEnvelope() bool { return strings.HasPrefix(string(r), "envelope-") }

// action is what is done with an object version: nothing, or what a method calls
// its way to move it. Plans name it.
type action string

const (
	skip   action = "skip"
	refuse action = "refuse"
)

func (a action) moves() bool { return a != skip && a != refuse }

// decision is an action and, where nothing is moved, its reason.
type decision struct {
	action action
	reason Reason
}

// aclState is what is known of an object's ACL.
type aclState int

const (
	aclPlain   aclState = iota // not read yet, or all of it can be resent
	aclOdd                     // has a grant that no header can express, or cannot be read
	aclForeign                 // the object belongs to another account
)

// object is what decide looks at.
type object struct {
	// latest is whether it is what a GET without a version returns.
	latest       bool
	deleteMarker bool
	size         int64
	// encryption is S3's name of it: "", AES256, aws:kms or aws:kms:dsse.
	encryption string
	// keyARN is the key that it is under, resolved.
	keyARN       string
	storageClass string
	// archived: an Intelligent-Tiering object in an archive tier.
	archived bool
	// restore is HEAD's x-amz-restore.
	restore        string
	retention      bool
	retainUntil    time.Time
	held           bool // legal hold or event hold
	hiddenMetadata bool
	annotated      bool
	acl            aclState
	grants         grants // of acl, for a copy
}

// rules are what decide goes by, the same for all objects of a slice.
type rules struct {
	from   []string
	to     string
	method method
	// defaultLock: the bucket would put a retention on each copy.
	defaultLock bool
	maxCopy     int64
	// rewriteFiles: a body may be written anew for its data keys.
	rewriteFiles bool
	now          time.Time
}

// decide says what to do with an object version.
func decide(o object, r rules) decision {
	switch {
	case o.deleteMarker:
		return decision{skip, ReasonDeleteMarker}
	case o.encryption == "":
		return decision{skip, ReasonNotEncrypted}
	case o.encryption == "AES256":
		return decision{skip, ReasonSSES3}
	case o.keyARN == "":
		return decision{refuse, ReasonUnknownKey}
	case o.keyARN == r.to:
		return decision{skip, ReasonOnTarget}
	case !slices.Contains(r.from, o.keyARN):
		return decision{skip, ReasonOtherKey}
	case o.encryption != "aws:kms": // DSSE, or what is yet to be invented
		return decision{refuse, ReasonDSSE}
	case o.locked(r.now):
		return decision{refuse, ReasonObjectLock}
	}
	return r.method.decide(o, r)
}

func (o object) locked(now time.Time) bool {
	return o.held || o.retention && o.retainUntil.After(now)
}
