// Package keyreport makes the paper that a person shows to an auditor: how the keys of an
// account and Region stand, as package keylist reads them, how that went, as the fleet
// recorded it, and what both say to the controls of public frameworks.
//
// No control passes by default: one passes where everything that it is about was read and
// is as it should be. What is not known is said.
package keyreport

import (
	"cmp"
	"time"

	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/keylist"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// Schema is the schema of Report as JSON. Members may be added to it.
const Schema = "cmkeeper.report.v1"

// Report is the paper.
type Report struct {
	Schema string `json:"schema"`
	// Made is when it was made, By the ARN of who made it, and Version which cmkeeper.
	Made    time.Time `json:"made"`
	By      string    `json:"by"`
	Version string    `json:"version"`
	// Keys are the keys and their figures, the same as those of "cmkeeper keys".
	Keys keylist.List `json:"keys"`
	// RotationPeriodDays is the longest period that is allowed, 0 for any.
	RotationPeriodDays int `json:"rotation_period_days"`
	// SweepSeconds is how often the schedule asks for a sweep.
	SweepSeconds int `json:"sweep_interval_seconds"`
	// EBS is whether new EBS volumes are encrypted by default.
	EBS Setting `json:"ebs_encryption_by_default"`
	// Trails are the trails of CloudTrail that cover the Region.
	Trails     Trails     `json:"trails"`
	Exemptions []Forgiven `json:"exemptions"`
	History    History    `json:"history"`
	// Checks are what was checked, and Frameworks which controls ask for it.
	Checks     []Check     `json:"checks"`
	Frameworks []Framework `json:"frameworks"`
}

// Setting is a setting of the account in its Region that is on or off.
type Setting struct {
	keylist.Read
	On bool `json:"on"`
}

// Trails are trails of CloudTrail, if they could be read.
type Trails struct {
	keylist.Read
	All []Trail `json:"all"`
}

// Trail is a trail of CloudTrail.
type Trail struct {
	Name string `json:"name"`
	// ARN names the account and the Region that it is of.
	ARN string `json:"arn"`
	// Key is the KMS key that encrypts its log files, "" for none.
	Key string `json:"kms_key,omitempty"`
}

// Input is what a report is made of.
type Input struct {
	Made               time.Time
	By, Version        string
	Keys               keylist.List
	RotationPeriodDays int
	// SweepInterval is how often the schedule asks for a sweep; 0 is an hour.
	SweepInterval time.Duration
	EBS           Setting
	Trails        Trails
	Exemptions    judgement.Exemptions
	History       History
}

// Forgiven is an exemption.
type Forgiven struct {
	Covers string `json:"covers"`
	Reason string `json:"reason"`
	Until  string `json:"until"`
	Holds  bool   `json:"holds"`
	// Keys is how many keys it picks now; it is always 0 for an exemption of actors.
	Keys int `json:"keys"`
	// Dangers is how many dangers it covers now.
	Dangers int `json:"dangers"`
}

// Make makes the report.
func Make(in Input) Report {
	r := Report{
		Schema: Schema, Made: in.Made.UTC(), By: in.By, Version: in.Version, Keys: in.Keys, RotationPeriodDays: in.RotationPeriodDays,
		SweepSeconds: int(cmp.Or(in.SweepInterval, time.Hour) / time.Second),
		Exemptions:   []Forgiven{}, History: in.History, EBS: in.EBS, Trails: in.Trails,
	}
	for _, e := range in.Exemptions {
		f := Forgiven{Covers: e.Covers(), Reason: e.Reason, Until: e.Until(), Holds: e.Holds(in.Made)}
		for _, k := range in.Keys.Keys {
			for _, x := range k.Exemptions {
				if x.Covers == f.Covers && x.Until == f.Until && x.Reason == f.Reason {
					f.Keys++
				}
			}
			for _, d := range k.Dangers {
				if d.Exempt == e.String() {
					f.Dangers++
				}
			}
		}
		r.Exemptions = append(r.Exemptions, f)
	}
	r.History.Access = r.History.Access.of(in.Keys)
	r.Checks = runChecks(r)
	r.Frameworks = frameworks()
	return r
}

// History is what the fleet recorded in its state. Each part says why it is not known,
// where it is not.
type History struct {
	// Sweeps are the sweeps on record, the oldest first.
	Sweeps         []Sweep `json:"sweeps"`
	SweepsNotKnown string  `json:"sweeps_not_known,omitempty"`

	Repairs         Repairs    `json:"repairs"`
	Stopped         []Stopped  `json:"stopped"`
	Approved        []Approved `json:"approved"`
	Accepted        []Accepted `json:"accepted"`
	RecordsNotKnown string     `json:"records_not_known,omitempty"`

	Jobs         []reencrypt.Summary `json:"jobs"`
	JobsNotKnown string              `json:"jobs_not_known,omitempty"`

	Canary Canary `json:"canary"`

	Access Access `json:"access"`
}

// Sweep is the record of a sweep.
type Sweep struct {
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	// Whole: it did all that it had to. Error says what it did not.
	Whole bool   `json:"whole"`
	Error string `json:"error,omitempty"`
	// Keys is how many customer managed keys it looked at, Changed how many of them were
	// not as the sweep before had left them, and Unread how much could not be read.
	Keys    int `json:"keys"`
	Changed int `json:"changed"`
	Unread  int `json:"unread"`
	// CanRotate are the keys that can rotate, Rotates those of them that do.
	CanRotate int `json:"can_rotate"`
	Rotates   int `json:"rotates"`
	// Dangers count what was wrong with DangersOf of the keys and not exempt, by severity.
	// DangersMore are those beyond what the fleet keeps of one key.
	Dangers     map[string]int `json:"dangers,omitempty"`
	DangersOf   int            `json:"dangers_of,omitempty"`
	DangersMore int            `json:"dangers_more,omitempty"`
	// Open is what former builds recorded instead: the keys whose policy had findings, by
	// the worst finding's severity.
	Open    map[string]int `json:"open,omitempty"`
	Repairs int            `json:"repairs"`
	Alerts  map[string]int `json:"alerts,omitempty"`
}

// counted reports whether the record says of all keys what was wrong with them.
func (s Sweep) counted() bool { return s.DangersOf > 0 && s.DangersOf == s.Keys }

// Repairs are settings that the fleet put back, as far as its documents reach back.
type Repairs struct {
	Count int `json:"count"`
	// Measured of them have on record when the event happened that they undid; Mean and
	// Longest are the seconds from that to the call that put the setting back. When
	// Unconfirmed of these happened, only the event's message said by then: a repair does
	// not wait until CloudTrail shows the event.
	Measured    int                `json:"measured"`
	Unconfirmed int                `json:"unconfirmed"`
	Mean        float64            `json:"mean_seconds,omitempty"`
	Longest     float64            `json:"longest_seconds,omitempty"`
	By          map[string]Repairs `json:"by_reaction,omitempty"`
}

// add adds a repair of what somebody did, nil if that is not known.
func (r *Repairs) add(of *ledger.Party, at time.Time) {
	r.Count++
	if of == nil || of.At.IsZero() || at.Before(of.At) {
		return
	}
	took := at.Sub(of.At).Seconds()
	r.Mean = (r.Mean*float64(r.Measured) + took) / float64(r.Measured+1)
	r.Measured++
	r.Longest = max(r.Longest, took)
	if of.Unconfirmed {
		r.Unconfirmed++
	}
}

// Stopped is that the fleet stopped putting a setting of a key back, because somebody
// undid it again and again.
type Stopped struct {
	Key      string    `json:"key"`
	Reaction string    `json:"reaction"`
	At       time.Time `json:"at"`
}

// Approved is an approval of a key's deletion.
type Approved struct {
	Key string    `json:"key"`
	By  string    `json:"by"`
	At  time.Time `json:"at"`
	// Days is the waiting period, and Unknown what was accepted without being known.
	Days    int      `json:"days"`
	Unknown []string `json:"unknown,omitempty"`
}

// Accepted is a key policy that somebody accepted by hand.
type Accepted struct {
	Key     string    `json:"key"`
	Version int       `json:"version"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
}

// Canary is how long a call needed from KMS to the worker.
type Canary struct {
	// Measured is how many of the last calls came back, Mean how many seconds that took, and
	// Longest the most of them. Lost is how many have not come back since one did.
	Measured int     `json:"measured"`
	Mean     float64 `json:"mean_seconds,omitempty"`
	Longest  float64 `json:"longest_seconds,omitempty"`
	Lost     int     `json:"lost"`
	NotKnown string  `json:"not_known,omitempty"`
}
