// Package retire determines what in an account still depends on a KMS key, and
// schedules the key's deletion only if nothing does.
//
// A [Checker] reads aliases, default encryptions, object versions (with data keys of
// client-side encryption where it is asked to), unfinished
// uploads, replication rules, grants, related keys, the last use, and which other resources
// need the key (package dependents). What it could
// not determine proves nothing: it is reported as unknown and blocks the deletion
// until somebody accepts it by its ID. [Schedule] stores an [Approval] before it
// schedules the deletion, so that cmkeeper's workers do not undo it as an attack.
package retire

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/dependents"
	"github.com/cmkeeper/cmkeeper/internal/arn"
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
	// Envelopes is where data keys of client-side encryption were looked for. Where they were
	// not is no tie, since nothing is known of it, but in Notes.
	Envelopes reencrypt.Envelopes `json:"envelopes"`
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
	// Uses are who used it lately, and for what; nil if nobody asked, or if the last use is
	// longer ago than it has to be.
	Uses *Uses `json:"uses,omitempty"`
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

// LastUseWarning accompanies every last use.
const LastUseWarning = "AWS warns not to rely on the last use alone. Disable the key first, and watch CloudTrail for DisabledException: rare uses show only then. With bucket keys and EBS a key may be needed long after its last use."

// notes are part of every result.
func notes(f facts) []string {
	not := dependents.NotLookedAt()
	if f.resources == nil {
		not = "other Regions and accounts, and what S3 does not keep: EBS, databases, secrets, backups, logs, and data that applications encrypted themselves"
	}
	return []string{"Not looked at: " + not + ".", envelopesNote(f.envelopes), LastUseWarning}
}

// envelopesNote says where data keys of client-side encryption were not looked for.
func envelopesNote(e reencrypt.Envelopes) string {
	switch {
	case e.Covers(reencrypt.EnvelopesContent):
		return "Client-side encryption was looked for in object versions, in the formats that are known. Data keys in other formats, or stored outside of S3, are not seen."
	case e.On():
		return "Client-side encryption was looked for in metadata and instruction files alone. --envelopes content looks also into objects (SOPS, Tink, KMS ciphertexts and others)."
	default:
		return "Client-side encryption was not looked for: objects may hold data keys that are under the key. --envelopes content looks for them (--envelopes metadata: without reading objects)."
	}
}

// facts are what a check has read.
type facts struct {
	key     inventory.Key
	aliases []inventory.Alias
	grants  []inventory.Grant
	buckets []bucketFacts
	usage   *inventory.Usage // nil if it could not be read
	user    user             // who made that use, where it counts
	uses    *Uses            // who else used it lately; nil if nobody asked
	// resources are what needs the key beside S3; nil if nobody looked.
	resources *dependents.Result
	unread    []Tie
	// envelopes is where surveys looked for data keys.
	envelopes reencrypt.Envelopes
	// stateBucketSet: who asks has CMKEEPER_STATE_BUCKET set.
	stateBucketSet bool
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
	// moveTo names the key that new objects of the bucket are under, or the alias that the
	// bucket is tagged with, as far as that is another key; "" for none.
	moveTo  string
	uploads int
	// replicates: a replication rule encrypts replicas under the key.
	replicates bool
}

// judge turns the facts into a result. The last use is a tie if it is less than
// quiet ago. Accepted unknowns do not count.
func judge(f facts, quiet time.Duration, accepted []string, now time.Time) Result {
	r := Result{Schema: Schema, At: now, Key: f.key.ARN, State: f.key.State, Envelopes: cmp.Or(f.envelopes, reencrypt.EnvelopesOff), Ties: []Tie{}, Unknown: []Tie{}, Buckets: []Bucket{}, Notes: notes(f)}
	tie := func(id, what, fix string) { r.Ties = append(r.Ties, Tie{id, what, fix}) }
	unknown := slices.Clone(f.unread)
	maybe := func(id, what, fix string) { unknown = append(unknown, Tie{id, what, fix}) }

	if f.key.Manager == "AWS" {
		tie("key", "The key is managed by AWS, and only AWS can delete it.", "")
	}
	for _, replica := range f.key.Replicas {
		if f.key.MultiRegion == "PRIMARY" && replica != f.key.ARN {
			tie("replica:"+replica, "The key is the primary of the multi-Region replica "+replica+". KMS deletes it only after the replica.", "Check and retire the replica in its Region first.")
		}
	}
	for _, a := range f.aliases {
		tie("alias:"+a.Name, a.Name+" points to the key.", "Point the alias to another key.")
	}
	for _, g := range f.grants {
		tie("grant:"+g.ID, g.Grantee+g.GranteeService+" may use the key by a grant: "+strings.Join(g.Operations, ", ")+".", "Find out what the grant is for. An AWS service retires its grants when the data is deleted. If nothing needs the grant any more, revoke it: "+command.Line("aws kms revoke-grant --key-id %s --grant-id %s", command.KeyID(arn.KeyID(f.key.ARN)), command.GrantID(g.ID)))
	}
	for _, b := range f.buckets {
		judgeBucket(b, f, &r, tie, maybe)
	}
	if f.resources != nil {
		judgeResources(*f.resources, f.buckets, tie, maybe)
	}
	judgeUsage(f, quiet, now, &r, tie, maybe)
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

func judgeBucket(b bucketFacts, f facts, r *Result, tie, maybe func(id, what, fix string)) {
	key := f.key.ARN
	switch is, known := b.DefaultIs(key); {
	case is:
		tie("bucket-default:"+b.Name, "New objects of bucket "+b.Name+" are encrypted under the key by default.", "Set another key: aws s3api put-bucket-encryption.")
	case !known:
		maybe("bucket-default:"+b.Name, "The default encryption of bucket "+b.Name+" names "+b.DefaultKey+", and which key that is may not be looked up.", "Grant kms:DescribeKey on the key of that alias, also in its key policy.")
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
			tie("objects:"+b.Name, fmt.Sprintf("%d object versions in bucket %s are under the key (%d bytes).", under, b.Name, bytes), moveFix(b, f, reencrypt.EnvelopesOff))
		}
		if unreadable > 0 {
			maybe("unreadable:"+b.Name, fmt.Sprintf("S3 did not return the key of %d object versions in bucket %s, for example because they use customer-provided keys.", unreadable, b.Name), "Check again, or find out what these objects are.")
		}
		judgeDataKeys(b, f, tie, maybe)
	case b.unscanned != "":
		maybe("objects:"+b.Name, "Nothing is known about the objects in bucket "+b.Name+": "+b.unscanned+".", "Scan it.")
	}
	r.Buckets = append(r.Buckets, seen)
}

// judgeDataKeys adds the data keys of client-side encryption that are in objects, by format.
// S3's own encryption of these objects is another matter.
func judgeDataKeys(b bucketFacts, f facts, tie, maybe func(id, what, fix string)) {
	type sealed struct {
		versions, stuck, files int64
		reasons                map[reencrypt.Reason]int64
	}
	formats := map[string]*sealed{}
	var unsure sealed
	for _, g := range b.survey.Groups {
		if !g.Sealed {
			continue
		}
		s := &unsure
		if !g.Unsure {
			if s = formats[g.Envelope]; s == nil {
				s = &sealed{}
				formats[g.Envelope] = s
			}
		}
		s.versions += g.Versions
		switch g.Reason {
		case "":
		case reencrypt.ReasonEnvelopeFile:
			s.files += g.Versions
		default:
			if s.reasons == nil {
				s.reasons = map[reencrypt.Reason]int64{}
			}
			s.stuck, s.reasons[g.Reason] = s.stuck+g.Versions, s.reasons[g.Reason]+g.Versions
		}
	}
	byReason := func(s sealed) string {
		var all []string
		for _, r := range slices.Sorted(maps.Keys(s.reasons)) {
			all = append(all, fmt.Sprintf("%s: %d", r, s.reasons[r]))
		}
		return strings.Join(all, ", ")
	}
	for _, format := range slices.Sorted(maps.Keys(formats)) {
		s := *formats[format]
		what := fmt.Sprintf("%d object versions in bucket %s hold data keys of client-side encryption (%s) that are under the key.", s.versions, b.Name, format)
		var fix string
		if s.versions > s.stuck {
			in := reencrypt.EnvelopesMetadata
			if s.files > 0 {
				in = reencrypt.EnvelopesContent
			}
			fix = moveFix(b, f, in)
		}
		if s.stuck > 0 {
			what += fmt.Sprintf(" %d of them cannot be re-wrapped (%s).", s.stuck, byReason(s))
			again := "Decrypt what cannot be re-wrapped and encrypt it again under another key, or delete it."
			if fix != "" { // a command stands at the end
				again += " As for the rest: "
			}
			fix = again + fix
		}
		tie("envelopes:"+b.Name+":"+format, what, fix)
	}
	if unsure.versions > 0 {
		maybe("envelopes-unknown:"+b.Name, fmt.Sprintf("%d object versions in bucket %s may hold data keys of client-side encryption that are under the key: nobody can say (%s).", unsure.versions, b.Name, byReason(unsure)), "The reasons are in docs/reencryption.md. Make the objects readable, or grant kms:ReEncryptFrom and kms:ReEncryptTo on the key, and check again; or find out what these objects are.")
	}
}

// judgeResources adds the resources that need the key. What AWS Config has and what a grant
// names is known to; what a caller said when it used the key may no longer be there.
func judgeResources(r dependents.Result, buckets []bucketFacts, tie, maybe func(id, what, fix string)) {
	tied := map[string]bool{}
	id := func(d dependents.Dependent) string { return "dependent:" + d.Kind + ":" + d.ID }
	name := func(d dependents.Dependent) string {
		text := dependents.Title(d.Kind) + " " + d.ID
		if d.Name != "" {
			text += " (" + d.Name + ")"
		}
		return text
	}
	move := "Move it to another key, or delete it."
	for _, d := range r.Config.Found {
		tied[id(d)] = true
		tie(id(d), name(d)+" is encrypted with the key, as AWS Config recorded at "+d.At.UTC().Format(time.RFC3339)+".", move)
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Config.More)) {
		tie("dependents:"+kind, dependents.Count(r.Config.More[kind], kind)+" more are encrypted with the key, as AWS Config recorded.", move)
	}
	for _, d := range r.Grants.Found {
		if d.Kind == dependents.KindService || tied[id(d)] { // the grant is a tie already
			continue
		}
		tied[id(d)] = true
		tie(id(d), name(d)+" is named by the key's "+d.Detail+".", move)
	}
	for _, d := range r.Trail.Found {
		scanned := slices.ContainsFunc(buckets, func(b bucketFacts) bool { return d.ID == b.Name || strings.HasPrefix(d.ID, b.Name+"/") })
		if tied[id(d)] || scanned && (d.Kind == dependents.KindObject || d.Kind == dependents.KindBucket) {
			continue
		}
		maybe(id(d), name(d)+" was named as what the key was used for: "+d.Detail+". It may no longer need the key.", "Find out whether it is still encrypted with the key.")
	}
	for _, s := range r.Sources() {
		if s.ID == dependents.SourceGrants { // that they could not be listed is known already
			continue
		}
		for _, u := range s.Unknown {
			what := u.Why
			if u.Of != "" {
				what = u.Of + ": " + what
			}
			maybe(u.ID, "Not all resources that need the key can be found. "+what+".", cmp.Or(u.Fix, "Find out by other means whether any needs the key."))
		}
	}
}

// moveFix says how the objects of a bucket get to another key: with the alias that points
// to this one, or else to the key that the bucket names; or that somebody has to choose.
// Data keys move, too, where in says: which key is for them, no bucket names.
func moveFix(b bucketFacts, f facts, in reencrypt.Envelopes) string {
	flags := in.Flags(in == reencrypt.EnvelopesContent)
	if i := slices.IndexFunc(f.aliases, func(a inventory.Alias) bool { return !a.AWSManaged }); i >= 0 {
		return "Put a new key behind the alias, which moves them. See what that takes: " + command.Line("cmkeeper rotate %s --dry-run"+flags, command.Alias(f.aliases[i].Name))
	}
	format := command.Format("cmkeeper reencrypt plan --bucket %s --from %s --to %s")
	format += flags
	if in.On() {
		b.moveTo = ""
	}
	values := []command.Value{command.Bucket(b.Name), command.Key(f.key.ARN), command.BucketKey(b.moveTo).Or("KEY-ID")}
	if !f.stateBucketSet {
		format += " --state-bucket %s"
		values = append(values, command.Value{}.Or("STATE-BUCKET"))
	}
	plan := command.Line(format, values...)
	if b.moveTo == "" {
		return "Choose the key to move them to (cmkeeper keys lists all), and see what that takes: " + plan
	}
	return "Move them to the key that the bucket names. See what that takes: " + plan
}
