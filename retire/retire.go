// Package retire finds out what still ties an account to a KMS key, and has the
// key's deletion scheduled only when nothing does.
//
// A [Checker] reads: aliases, default encryptions, object versions, unfinished
// uploads, replication rules, grants, related keys and the last use. What it could
// not find out is no proof of anything: it is named as unknown and counts against
// the key until somebody accepts it by its name. An [Approval] is stored before
// the deletion is scheduled, so that whoever guards keys can tell it from an
// attack.
package retire

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// Schema is the schema of a Result as JSON.
const Schema = "cmkeeper.retire.v1"

// Result is what a check came to.
type Result struct {
	Schema string    `json:"schema"`
	At     time.Time `json:"at"`
	// Key is the key's ARN and State what KMS says of it.
	Key   string `json:"key"`
	State string `json:"state"`
	// Free: nothing is known to tie us to the key, and what could not be found out
	// was accepted.
	Free bool `json:"free"`
	// Ties are what is known to need the key.
	Ties []Tie `json:"ties"`
	// Unknown is what could not be found out, and Accepted what of it somebody took
	// upon themselves, by its ID.
	Unknown  []Tie    `json:"unknown"`
	Accepted []string `json:"accepted,omitempty"`
	// Buckets say how each bucket of the account and Region was looked at.
	Buckets []Bucket `json:"buckets"`
	// LastUse is when the key was last used, in words; "" where that is not known.
	LastUse string `json:"last_use,omitempty"`
	// Notes say what no check of this kind can see.
	Notes []string `json:"notes"`
}

// Tie is something that needs the key, or may.
type Tie struct {
	// ID names it: its kind and where it is ("alias:alias/app", "objects:my-bucket").
	ID   string `json:"id"`
	What string `json:"what"`
	// Fix is what to do about it.
	Fix string `json:"fix,omitempty"`
}

// Bucket says how a bucket was looked at.
type Bucket struct {
	Name string `json:"name"`
	// Scanned is how many object versions were asked for their key: all there are.
	Scanned int64 `json:"scanned"`
	// Job is the verified job whose report stands for a scan, and At when it ended.
	Job string    `json:"job,omitempty"`
	At  time.Time `json:"at,omitzero"`
	// NotScanned is why nothing is known of its objects; "" where something is.
	NotScanned string `json:"not_scanned,omitempty"`
}

// What nobody can find out here, for all who tell what hangs on a key.
const (
	// NotLookedAt is what no check sees.
	NotLookedAt = "Other Regions and accounts, and what S3 does not keep: EBS, databases, secrets, backups, logs, and data that applications encrypted themselves."
	// LastUseWarning goes with every last use.
	LastUseWarning = "AWS warns not to rely on the last use alone: disable the key first, and watch CloudTrail for DisabledException, since rare uses show only then. With bucket keys and EBS a key may be needed long after its last use."
)

// notes go with every result.
var notes = []string{"Not looked at: " + NotLookedAt, LastUseWarning}

// facts are what a check has read.
type facts struct {
	key     inventory.Key
	aliases []inventory.Alias
	grants  []inventory.Grant
	buckets []bucketFacts
	usage   *inventory.Usage // nil where it could not be read
	unread  []Tie
}

// bucketFacts are what was read of a bucket.
type bucketFacts struct {
	inventory.Bucket
	survey *reencrypt.Survey
	// job and verified are those of a report that stands for a survey.
	job      string
	verified time.Time
	// unscanned is why there is neither; "" where a survey was not wanted.
	unscanned string
	uploads   int
	// replicates: a rule writes replicas under the key.
	replicates bool
}

// judge says what the facts come to. The last use is a tie while it is less than
// quiet ago; what is accepted counts no more.
func judge(f facts, quiet time.Duration, accepted []string, now time.Time) Result {
	r := Result{Schema: Schema, At: now, Key: f.key.ARN, State: f.key.State, Ties: []Tie{}, Unknown: []Tie{}, Buckets: []Bucket{}, Notes: notes}
	tie := func(id, what, fix string) { r.Ties = append(r.Ties, Tie{id, what, fix}) }
	unknown := slices.Clone(f.unread)
	maybe := func(id, what, fix string) { unknown = append(unknown, Tie{id, what, fix}) }

	if f.key.Manager == "AWS" {
		tie("key", "The key is managed by AWS, which alone can delete it.", "")
	}
	for _, arn := range f.key.Replicas {
		if f.key.MultiRegion == "PRIMARY" && arn != f.key.ARN {
			tie("replica:"+arn, "It is the primary of the multi-Region replica "+arn+", and is deleted only after it.", "Check and retire the replica in its Region first.")
		}
	}
	for _, a := range f.aliases {
		tie("alias:"+a.Name, a.Name+" points to the key.", "Point the alias to another key.")
	}
	for _, g := range f.grants {
		tie("grant:"+g.ID, g.Grantee+g.GranteeService+" may use the key by a grant: "+strings.Join(g.Operations, ", ")+".", "Find out what it is for. A service retires its grants when what it encrypted is gone; else revoke it: aws kms revoke-grant.")
	}
	for _, b := range f.buckets {
		judgeBucket(b, f.key.ARN, &r, tie, maybe)
	}
	judgeUsage(f.usage, quiet, now, &r, tie)
	for _, u := range unknown {
		if slices.Contains(accepted, u.ID) {
			r.Accepted = append(r.Accepted, u.ID)
			continue
		}
		r.Unknown = append(r.Unknown, u)
	}
	r.Free = len(r.Ties)+len(r.Unknown) == 0
	return r
}

func judgeBucket(b bucketFacts, key string, r *Result, tie, maybe func(id, what, fix string)) {
	if b.DefaultKeyARN == key {
		tie("bucket-default:"+b.Name, "New objects of bucket "+b.Name+" are encrypted under the key by default.", "Put another key there: aws s3api put-bucket-encryption.")
	}
	if b.DefaultKey != "" && b.DefaultKeyARN == "" {
		maybe("bucket-default:"+b.Name, "The default encryption of bucket "+b.Name+" names a key that cannot be looked up.", "Find out which key it is.")
	}
	if b.replicates {
		tie("replication:"+b.Name, "Replicas of bucket "+b.Name+" are written under the key.", "Change the replica key of its rules, and move what they have written.")
	}
	if b.uploads > 0 {
		maybe("uploads:"+b.Name, fmt.Sprintf("Bucket %s has %d or more unfinished multipart uploads, and S3 does not show the keys of uploads.", b.Name, b.uploads), "Complete or abort those that were begun under the key.")
	}
	seen := Bucket{Name: b.Name, Job: b.job, At: b.verified, NotScanned: b.unscanned}
	switch {
	case b.survey != nil:
		seen.Scanned = b.survey.Listed
		var under, bytes, unreadable int64
		for _, g := range b.survey.Groups {
			switch {
			case g.Key == key:
				under, bytes = under+g.Versions, bytes+g.Bytes
			case g.Reason == reencrypt.ReasonUnreadableHead, g.Reason == reencrypt.ReasonUnknownKey, g.Reason == reencrypt.ReasonError:
				unreadable += g.Versions
			}
		}
		if under > 0 {
			tie("objects:"+b.Name, fmt.Sprintf("%d object versions in bucket %s are under the key (%d bytes).", under, b.Name, bytes), "Move them: cmkeeper reencrypt plan --bucket "+b.Name)
		}
		if unreadable > 0 {
			maybe("unreadable:"+b.Name, fmt.Sprintf("S3 did not say which key %d object versions in bucket %s are under, as for customer-provided keys.", unreadable, b.Name), "Check again, or find out what they are.")
		}
	case b.unscanned != "":
		maybe("objects:"+b.Name, "Nothing is known of the objects in bucket "+b.Name+": "+b.unscanned+".", "Scan it.")
	}
	r.Buckets = append(r.Buckets, seen)
}

func judgeUsage(u *inventory.Usage, quiet time.Duration, now time.Time, r *Result, tie func(id, what, fix string)) {
	if u == nil { // among what could not be read
		return
	}
	r.LastUse = u.String()
	if now.Sub(u.At) < quiet {
		tie("last-use", fmt.Sprintf("The key was last used by %s, less than %d days ago.", r.LastUse, int(quiet/(24*time.Hour))), "Find out by whom (CloudTrail), and wait.")
	}
}
