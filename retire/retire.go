// Package retire determines what in an account still depends on a KMS key, and
// schedules the key's deletion only if nothing does.
//
// A [Checker] reads aliases, default encryptions, object versions, unfinished
// uploads, replication rules, grants, related keys and the last use. What it could
// not determine proves nothing: it is reported as unknown and blocks the deletion
// until somebody accepts it by its ID. [Schedule] stores an [Approval] before it
// schedules the deletion, so that cmkeeper's workers do not undo it as an attack.
package retire

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// Schema is the schema of a Result as JSON.
const Schema = "cmkeeper.retire.v1"

// Result is the result of a check.
type Result struct {
	Schema string    `json:"schema"`
	At     time.Time `json:"at"`
	// Key is the key's ARN, State its state in KMS.
	Key   string `json:"key"`
	State string `json:"state"`
	// Free: nothing is known to depend on the key, and everything unknown was
	// accepted.
	Free bool `json:"free"`
	// Ties are what is known to depend on the key.
	Ties []Tie `json:"ties"`
	// Unknown is what could not be determined and was not accepted, Accepted the IDs
	// of what could not be determined and was accepted.
	Unknown  []Tie    `json:"unknown"`
	Accepted []string `json:"accepted,omitempty"`
	// Buckets say how each bucket of the account and Region was checked.
	Buckets []Bucket `json:"buckets"`
	// LastUse is when the key was last used, in words; "" if that is not known.
	LastUse string `json:"last_use,omitempty"`
	// Notes are the limits of any such check.
	Notes []string `json:"notes"`
}

// Tie is something that depends on the key, or may.
type Tie struct {
	// ID is its kind and place ("alias:alias/app", "objects:my-bucket").
	ID   string `json:"id"`
	What string `json:"what"`
	// Fix is how to resolve it.
	Fix string `json:"fix,omitempty"`
}

// Bucket says how a bucket was checked.
type Bucket struct {
	Name string `json:"name"`
	// Scanned is the number of object versions whose key was read: all there are.
	Scanned int64 `json:"scanned"`
	// Job is the verified job whose report replaces a scan, and At when it ended.
	Job string    `json:"job,omitempty"`
	At  time.Time `json:"at,omitzero"`
	// NotScanned is why nothing is known about its objects; "" if they are known.
	NotScanned string `json:"not_scanned,omitempty"`
}

// Texts for everything that lists the dependents of a key.
const (
	// NotLookedAt is what no check can see.
	NotLookedAt = "Other Regions and accounts, and what S3 does not keep: EBS, databases, secrets, backups, logs, and data that applications encrypted themselves."
	// LastUseWarning accompanies every last use.
	LastUseWarning = "AWS warns not to rely on the last use alone. Disable the key first, and watch CloudTrail for DisabledException: rare uses show only then. With bucket keys and EBS a key may be needed long after its last use."
)

// notes are part of every result.
var notes = []string{"Not looked at: " + NotLookedAt, LastUseWarning}

// facts are what a check has read.
type facts struct {
	key     inventory.Key
	aliases []inventory.Alias
	grants  []inventory.Grant
	buckets []bucketFacts
	usage   *inventory.Usage // nil if it could not be read
	unread  []Tie
}

// bucketFacts are what was read about a bucket.
type bucketFacts struct {
	inventory.Bucket
	survey *reencrypt.Survey
	// job and verified are those of a report that replaces a survey.
	job      string
	verified time.Time
	// unscanned is why there is neither; "" if no survey was requested.
	unscanned string
	uploads   int
	// replicates: a replication rule encrypts replicas under the key.
	replicates bool
}

// judge turns the facts into a result. The last use is a tie if it is less than
// quiet ago. Accepted unknowns do not count.
func judge(f facts, quiet time.Duration, accepted []string, now time.Time) Result {
	r := Result{Schema: Schema, At: now, Key: f.key.ARN, State: f.key.State, Ties: []Tie{}, Unknown: []Tie{}, Buckets: []Bucket{}, Notes: notes}
	tie := func(id, what, fix string) { r.Ties = append(r.Ties, Tie{id, what, fix}) }
	unknown := slices.Clone(f.unread)
	maybe := func(id, what, fix string) { unknown = append(unknown, Tie{id, what, fix}) }

	if f.key.Manager == "AWS" {
		tie("key", "The key is managed by AWS, and only AWS can delete it.", "")
	}
	for _, arn := range f.key.Replicas {
		if f.key.MultiRegion == "PRIMARY" && arn != f.key.ARN {
			tie("replica:"+arn, "The key is the primary of the multi-Region replica "+arn+". KMS deletes it only after the replica.", "Check and retire the replica in its Region first.")
		}
	}
	for _, a := range f.aliases {
		tie("alias:"+a.Name, a.Name+" points to the key.", "Point the alias to another key.")
	}
	for _, g := range f.grants {
		tie("grant:"+g.ID, g.Grantee+g.GranteeService+" may use the key by a grant: "+strings.Join(g.Operations, ", ")+".", "Find out what the grant is for. An AWS service retires its grants when the data is deleted. If nothing needs the grant any more, revoke it: aws kms revoke-grant.")
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
		tie("bucket-default:"+b.Name, "New objects of bucket "+b.Name+" are encrypted under the key by default.", "Set another key: aws s3api put-bucket-encryption.")
	}
	if b.DefaultKey != "" && b.DefaultKeyARN == "" {
		maybe("bucket-default:"+b.Name, "The default encryption of bucket "+b.Name+" names a key that cannot be looked up.", "Find out which key it is.")
	}
	if b.replicates {
		tie("replication:"+b.Name, "Replicas of bucket "+b.Name+" are written under the key.", "Change the replica key in the bucket's rules, and re-encrypt the existing replicas.")
	}
	if b.uploads > 0 {
		maybe("uploads:"+b.Name, fmt.Sprintf("Bucket %s has at least %d unfinished multipart uploads, and S3 does not show the keys of uploads.", b.Name, b.uploads), "Complete or abort the uploads that were started under the key.")
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
			tie("objects:"+b.Name, fmt.Sprintf("%d object versions in bucket %s are under the key (%d bytes).", under, b.Name, bytes), "Move them: "+command.Line("cmkeeper reencrypt plan --bucket %s", command.Bucket(b.Name)))
		}
		if unreadable > 0 {
			maybe("unreadable:"+b.Name, fmt.Sprintf("S3 did not return the key of %d object versions in bucket %s, for example because they use customer-provided keys.", unreadable, b.Name), "Check again, or find out what these objects are.")
		}
	case b.unscanned != "":
		maybe("objects:"+b.Name, "Nothing is known about the objects in bucket "+b.Name+": "+b.unscanned+".", "Scan it.")
	}
	r.Buckets = append(r.Buckets, seen)
}

func judgeUsage(u *inventory.Usage, quiet time.Duration, now time.Time, r *Result, tie func(id, what, fix string)) {
	if u == nil { // it is among the unknowns
		return
	}
	r.LastUse = u.String()
	if quiet > 0 && now.Sub(u.At) < quiet { // also by a clock that is behind KMS's
		tie("last-use", fmt.Sprintf("The key was last used by %s, less than %d days ago.", r.LastUse, int(quiet/(24*time.Hour))), "Find the caller in CloudTrail, and wait.")
	}
}
