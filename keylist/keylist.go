// Package keylist reads every key of an account and Region with what is known of it, and
// judges it: for "cmkeeper keys" and for the report, whose figures so are the same. It
// changes nothing.
package keylist

import (
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/posture"
)

// Schema is the schema of List as JSON. Members may be added to it.
const Schema = "cmkeeper.keys.v1"

// List is what there is in an account and Region.
type List struct {
	Schema  string `json:"schema"`
	Account string `json:"account"`
	Region  string `json:"region"`
	// Began and Ended are when the reading began and ended.
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	// Totals are the figures of Keys.
	Totals Totals `json:"totals"`
	// Keys are those that the options ask for, the most dangerous first.
	Keys []Key `json:"keys"`
	// Buckets are those of this Region that could be read.
	Buckets []Bucket `json:"buckets"`
	// BucketKeys says what it costs that some of them have bucket keys off.
	BucketKeys BucketKeys `json:"bucket_keys"`
	// NotKnown are facts of the account that could not be read, with the reason.
	NotKnown []string `json:"not_known,omitempty"`
}

// Bucket is the default encryption of a bucket.
type Bucket struct {
	Name string `json:"name"`
	// KMS: under a KMS key. Key is its ARN, or else its name as configured; "" for the AWS
	// managed key, and without KMS.
	KMS bool      `json:"kms"`
	Key string    `json:"key,omitempty"`
	At  time.Time `json:"read_at"`
	// BucketKeyOff: S3 asks KMS for each new object and for each read of it, and could ask
	// for a bucket key instead. Never with DSSE-KMS, which has no bucket keys.
	BucketKeyOff bool `json:"bucket_key_off,omitempty"`
}

// BucketKeys is what is known of the costs of buckets that encrypt under KMS keys, of this
// account or AWS's, without bucket keys.
type BucketKeys struct {
	// Off is how many buckets do.
	Off int `json:"off"`
	// USDPerMillion is the price of a million requests to KMS, in most Regions.
	USDPerMillion float64 `json:"usd_per_million_requests"`
	// NotKnown says why it is not known how many requests there are, and so what is paid.
	NotKnown string `json:"requests_not_known"`
}

// The price of requests for symmetric keys: $0.03 per 10,000 (AWS KMS pricing; the first
// 20,000 of an account and month are free).
const usdPerMillion = 0.03 * 100

const requestsUnread = "neither S3 nor KMS tells how many requests a bucket causes: CloudTrail records them, and nobody counts them here"

// Text says in a sentence or two what bucket keys that are off cost; "" if none are.
func (b BucketKeys) Text() string {
	if b.Off == 0 {
		return ""
	}
	return fmt.Sprintf("Bucket keys (BK) are off in %d buckets: S3 makes a request to KMS for each object that it writes or reads there, at $%.2f per million in most Regions. With bucket keys it makes up to 99%% fewer, for objects that are written afterwards. What that would save is not known: %s.",
		b.Off, b.USDPerMillion, b.NotKnown)
}

// Read is when something was read. Where it is not known, NotKnown says why.
type Read struct {
	At       time.Time `json:"read_at,omitzero"`
	NotKnown string    `json:"not_known,omitempty"`
}

// Known reports whether it was read.
func (r Read) Known() bool { return r.NotKnown == "" && !r.At.IsZero() }

// Why something was not asked for.
const (
	NotAsked   = "not asked for"
	AWSManages = "not asked for: AWS manages the key"
)

// Key is what is known of a key. Values are KMS's own.
type Key struct {
	ARN string `json:"arn"`
	ID  string `json:"id"`
	// Described: KMS DescribeKey. Where it is not known, all down to Replicas is empty.
	Described        Read       `json:"described"`
	Description      string     `json:"description,omitempty"`
	State            string     `json:"state,omitempty"`
	Manager          string     `json:"manager,omitempty"`
	Origin           string     `json:"origin,omitempty"`
	Spec             string     `json:"spec,omitempty"`
	Usage            string     `json:"usage,omitempty"`
	KeyStore         string     `json:"key_store,omitempty"`
	MultiRegion      string     `json:"multi_region,omitempty"`
	Primary          string     `json:"primary,omitempty"`
	Replicas         []string   `json:"replicas,omitempty"`
	Created          time.Time  `json:"created,omitzero"`
	AgeDays          int        `json:"age_days"`
	DeletionDate     *time.Time `json:"deletion_date,omitempty"`
	DeletionApproved bool       `json:"deletion_approved,omitempty"`
	ApprovalNotKnown string     `json:"approval_not_known,omitempty"`
	MaterialExpires  *time.Time `json:"material_expires,omitempty"`

	Aliases  []string `json:"aliases"`
	Rotation Rotation `json:"rotation"`
	Policy   Policy   `json:"policy"`
	Grants   Grants   `json:"grants"`
	LastUse  LastUse  `json:"last_use"`
	Buckets  Buckets  `json:"buckets"`
	// Dependents are the resources beside S3's that AWS Config knows under the key; nil where
	// it was not asked.
	Dependents *Dependents `json:"dependents,omitempty"`
	Tags       Tags        `json:"tags"`
	Exemptions []Exemption `json:"exemptions,omitempty"`
	// Dangers are what is wrong with the key, the worst first, and Worst is the severity
	// of the worst; "" for none. What is not known makes no danger.
	Dangers []Danger         `json:"dangers"`
	Worst   finding.Severity `json:"worst,omitempty"`
	// Judged: everything was read that dangers are found in. Always true for keys that
	// AWS manages.
	Judged bool `json:"judged"`
}

// Customer reports whether the account's owner manages the key.
func (k Key) Customer() bool { return k.Manager == "CUSTOMER" }

// Bad reports whether the key has a danger above info, or could not be judged wholly.
func (k Key) Bad() bool { return !k.Judged || k.Worst != "" && k.Worst.AtLeast(finding.Low) }

// Rotation is KMS's automatic rotation of a key.
type Rotation struct {
	Read
	// Blocker is why KMS cannot rotate the key now; "" if it can.
	Blocker inventory.Blocker `json:"blocker,omitempty"`
	// Enabled is nil where it is not known, and where KMS never rotates such a key.
	Enabled    *bool      `json:"enabled,omitempty"`
	PeriodDays int        `json:"period_days,omitempty"`
	Next       *time.Time `json:"next,omitempty"`
	// Last is the last rotation, automatic or on demand; nil for none, or if LastNotKnown
	// says why it is not known.
	Last         *time.Time `json:"last,omitempty"`
	LastNotKnown string     `json:"last_not_known,omitempty"`
}

// Policy is what is found in a key's policy.
type Policy struct {
	Read
	// Worst is the severity of the worst finding, "" for none.
	Worst finding.Severity `json:"worst,omitempty"`
	// Findings are sorted, the worst first. Those below medium are no danger of the key.
	Findings []finding.Finding `json:"findings,omitempty"`
}

// Grants are the grants of a key.
type Grants struct {
	Read
	Count int `json:"count"`
	// Outside are those to accounts that are not trusted, or that such an account may retire.
	Outside []Grant `json:"outside,omitempty"`
}

// Grant is a grant that reaches outside.
type Grant struct {
	ID         string   `json:"id"`
	Grantee    string   `json:"grantee,omitempty"`
	Retiring   string   `json:"retiring,omitempty"`
	Operations []string `json:"operations"`
}

// LastUse is the last cryptographic use of a key, up to an hour late.
type LastUse struct {
	Read
	// Used is nil where there was none since Since.
	Used      *time.Time `json:"used,omitempty"`
	Operation string     `json:"operation,omitempty"`
	// Since is when KMS began to record uses, or when the key was created if that was later.
	Since time.Time `json:"since,omitzero"`
	// UnusedDays is for how many whole days the key had not been used when that was read; for
	// at least so many if Used is nil. It is nil where the last use is not known.
	UnusedDays *int `json:"unused_days,omitempty"`
	// Record is what was read before, where nothing is known now; nil for nothing. It is
	// shown with its date, and decides nothing.
	Record *UseRecord `json:"last_record,omitempty"`
}

// UnusedFor reports whether the key is known not to have been used for d before t.
func (u LastUse) UnusedFor(d time.Duration, t time.Time) bool {
	if !u.Known() {
		return false
	}
	last := u.Since
	if u.Used != nil {
		last = *u.Used
	}
	return !last.IsZero() && t.Sub(last) >= d
}

// Buckets are the buckets of this Region whose default encryption is the key.
type Buckets struct {
	Read
	// Names are the known ones, also where NotKnown says that there may be more.
	Names []string `json:"names,omitempty"`
	// BucketKeysOff are those of them that could use bucket keys, and do not.
	BucketKeysOff []string `json:"bucket_keys_off,omitempty"`
}

// Dependents are how many resources are under a key, by AWS Config.
type Dependents struct {
	Read
	// ByKind are the known ones ("ebs-volume"), also where NotKnown says that there may be more.
	ByKind map[string]int `json:"by_kind,omitempty"`
}

// Tags are a key's tags.
type Tags struct {
	Read
	Values map[string]string `json:"values,omitempty"`
}

// Exemption is one that picks the key now.
type Exemption struct {
	// Covers says what it exempts, By by what it picks the key: an alias or a tag.
	Covers string `json:"covers"`
	By     string `json:"by"`
	Until  string `json:"until"`
	Reason string `json:"reason"`
	// From is when the alias begins to count; zero if it does already. When a tag does is
	// known to the fleet alone.
	From time.Time `json:"from,omitzero"`
}

// Danger is what is wrong with a key.
type Danger struct {
	posture.Danger
	// Exempt is the exemption that it is covered by, "" for none.
	Exempt string `json:"exempt,omitempty"`
}

// Totals are the figures of a list. Each key counts once in each group.
type Totals struct {
	Keys int `json:"keys"`
	// Customer and AWS are who manages them; the manager of NotDescribed is not known.
	Customer     int `json:"customer"`
	AWS          int `json:"aws"`
	NotDescribed int `json:"not_described"`
	// The others are about Customer and NotDescribed.

	// ByState counts their states, "" where it is not known.
	ByState map[string]int `json:"by_state"`
	// ByWorst counts their worst danger; Clean have none and were judged wholly, NotJudged
	// have none in what could be read.
	ByWorst   map[finding.Severity]int `json:"by_worst"`
	Clean     int                      `json:"clean"`
	NotJudged int                      `json:"not_judged"`
	// Open counts dangers by severity, those that an exemption covers not among them;
	// Exempt counts those.
	Open   map[finding.Severity]int `json:"open"`
	Exempt int                      `json:"exempt"`

	Rotation RotationTotals `json:"rotation"`
}

// RotationTotals count keys by their rotation.
type RotationTotals struct {
	// On of the keys rotate, Slow of these less often than allowed; Off could, and do not.
	On   int `json:"on"`
	Slow int `json:"slow"`
	Off  int `json:"off"`
	// Cannot is how many KMS cannot rotate now, by the reason.
	Cannot   map[inventory.Blocker]int `json:"cannot"`
	NotKnown int                       `json:"not_known"`
}

// Share is how many of the keys that can rotate do so often enough, from 0 to 1, and
// false if there is no such key or one of them is not known.
func (t RotationTotals) Share() (float64, bool) {
	if t.On+t.Off == 0 || t.NotKnown > 0 {
		return 0, false
	}
	return float64(t.On-t.Slow) / float64(t.On+t.Off), true
}

// Total counts keys.
func Total(keys []Key, rules posture.Rules) Totals {
	t := Totals{
		Keys: len(keys), ByState: map[string]int{}, ByWorst: map[finding.Severity]int{}, Open: map[finding.Severity]int{},
		Rotation: RotationTotals{Cannot: map[inventory.Blocker]int{}},
	}
	for _, k := range keys {
		switch {
		case !k.Described.Known():
			t.NotDescribed++
		case !k.Customer():
			t.AWS++
			continue
		default:
			t.Customer++
		}
		t.ByState[k.State]++
		switch {
		case k.Worst != "":
			t.ByWorst[k.Worst]++
		case k.Judged:
			t.Clean++
		default:
			t.NotJudged++
		}
		for _, d := range k.Dangers {
			if d.Exempt != "" {
				t.Exempt++
			} else {
				t.Open[d.Severity]++
			}
		}
		t.Rotation.add(k.Rotation, rules)
	}
	return t
}

func (t *RotationTotals) add(r Rotation, rules posture.Rules) {
	switch {
	case r.Blocker != "":
		t.Cannot[r.Blocker]++
	case r.Enabled == nil:
		t.NotKnown++
	case !*r.Enabled:
		t.Off++
	default:
		t.On++
		if rules.RotationPeriodDays > 0 && r.PeriodDays > rules.RotationPeriodDays {
			t.Slow++
		}
	}
}
