package ledger

import (
	"fmt"
	"slices"
	"time"
)

// SweepRecord is sweeps/records/<day>/<run>.json: what came of one sweep. Runs are named
// by when they began, so that the records of a day are in the order of time. All are kept
// for 7 days, and then the last one of each day for 400; the end of each sweep deletes the
// others.
type SweepRecord struct {
	Run   string    `json:"run"`
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	// Seconds is how long it took.
	Seconds int `json:"seconds"`
	// Shards is how many it was cut into; 1 where one worker did it.
	Shards int `json:"shards"`
	// Whole: everything that had to be done was done.
	Whole bool `json:"whole"`
	// Error says what was not, "" for nothing.
	Error  string      `json:"error,omitempty"`
	Totals SweepTotals `json:"totals"`
}

// SetError says what was not done.
func (r *SweepRecord) SetError(err error) { r.Error = brief(err.Error()) }

// Schema implements state.Document.
func (*SweepRecord) Schema() (string, int) { return "sweep-record", 1 }

// SweepRecords is the folder of the records, which has one folder for each day.
const SweepRecords = "sweeps/records/"

// RecordsOf is the folder of the records of a day (2026-03-01).
func RecordsOf(day string) string { return SweepRecords + day + "/" }

// RecordName names the record of a run that began then.
func RecordName(run string, began time.Time) string {
	return RecordsOf(began.UTC().Format(time.DateOnly)) + run + ".json"
}

// RunName names a run that begins then. token tells it from others that begin then.
func RunName(began time.Time, token string) string {
	return began.UTC().Format("20060102T150405Z") + "-" + token
}

const (
	// recordDays is for how many days all records are kept, and recordYear for how many the
	// last one of each day.
	recordDays = 7
	recordYear = 400
)

// OldRecords says of the days of which there are records, and of the time, which days'
// records are all to be deleted, and of which only the last one is to be kept. Those are at
// most a few: the day that has just become old enough, and another one in turn, in case no
// sweep was made when that had.
func OldRecords(days []string, now time.Time) (all, thin []string) {
	day := func(ago int) string { return now.UTC().AddDate(0, 0, -ago).Format(time.DateOnly) }
	oldest, due := day(recordYear), day(recordDays+1)
	var older []string
	for _, d := range days {
		_, err := time.Parse(time.DateOnly, d)
		switch {
		case err != nil:
		case d < oldest:
			all = append(all, d)
		case d == due:
			thin = append(thin, d)
		case d < due:
			older = append(older, d)
		}
	}
	if len(older) > 0 {
		thin = append(thin, older[int(now.Unix()/3600)%len(older)])
	}
	return all[:min(len(all), maxOldDays)], thin
}

// maxOldDays bounds how many days' records one sweep deletes.
const maxOldDays = 8

const (
	// maxUnread, maxErrors and maxUnreadable bound the texts of a record.
	maxUnread, maxErrors, maxUnreadable = 20, 20, 50
	// longestText is how many characters such a text may have.
	longestText = 500
)

// Unread is what a sweep could not read, and why.
type Unread struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// SweepTotals is what a sweep, or a part of it, came to.
type SweepTotals struct {
	// Keys are the customer managed keys that were looked at, Others those of AWS, and
	// Changed those of which something was not as the last sweep left it, or not over, and
	// that were judged again.
	Keys    int `json:"keys"`
	Others  int `json:"others"`
	Changed int `json:"changed"`
	Aliases int `json:"aliases"`
	Buckets int `json:"buckets"`
	// CanRotate are the keys whose rotation can be enabled and was read, Rotates those of
	// them that rotate.
	CanRotate int `json:"can_rotate"`
	Rotates   int `json:"rotates"`
	// Dangers count what is wrong with keys and not exempt, by severity. They are of DangersOf
	// of the keys: those of which the sweep, or one that nothing has changed since, judged it.
	// What could not be read of them is in Unread.
	// DangersMore are those that documents have no room for.
	Dangers     map[string]int `json:"dangers,omitempty"`
	DangersOf   int            `json:"dangers_of,omitempty"`
	DangersMore int            `json:"dangers_more,omitempty"`
	// Open is what former builds counted instead: the keys whose policy has findings, by the
	// worst finding's severity.
	Open map[string]int `json:"open,omitempty"`
	// Repairs are the calls that changed a key, Alerts those that were told, by severity;
	// told again as the same alert they count again.
	Repairs int            `json:"repairs"`
	Alerts  map[string]int `json:"alerts,omitempty"`
	// Unread is how much could not be read; UnreadOf are some of that.
	Unread   int      `json:"unread"`
	UnreadOf []Unread `json:"unread_of,omitempty"`
	// Unreadable are stored documents that this build cannot read.
	Unreadable []string `json:"unreadable,omitempty"`
	// Errors is how many things failed; ErrorsOf are some of them.
	Errors   int      `json:"errors"`
	ErrorsOf []string `json:"errors_of,omitempty"`
	// Requests are those to KMS, by operation.
	Requests map[string]int `json:"requests,omitempty"`
	// NotRolled is how many keys' grants and tags were never read when the sweep came to
	// them. OldestRolled is when those of the others had been at the earliest, zero where
	// there are none, and RolledAge how many seconds ago that was at most, then.
	NotRolled    int       `json:"not_rolled"`
	OldestRolled time.Time `json:"oldest_rolled,omitzero"`
	RolledAge    int       `json:"rolled_age_seconds,omitempty"`
}

// Add adds the totals of another part.
func (t *SweepTotals) Add(o SweepTotals) {
	for mine, theirs := range map[*int]int{
		&t.Keys: o.Keys, &t.Others: o.Others, &t.Changed: o.Changed, &t.Aliases: o.Aliases, &t.Buckets: o.Buckets, &t.CanRotate: o.CanRotate,
		&t.Rotates: o.Rotates, &t.Repairs: o.Repairs, &t.Unread: o.Unread, &t.Errors: o.Errors, &t.NotRolled: o.NotRolled, &t.DangersOf: o.DangersOf, &t.DangersMore: o.DangersMore,
	} {
		*mine += theirs
	}
	addCounts(&t.Open, o.Open)
	addCounts(&t.Dangers, o.Dangers)
	addCounts(&t.Alerts, o.Alerts)
	addCounts(&t.Requests, o.Requests)
	t.UnreadOf = first(append(t.UnreadOf, o.UnreadOf...), maxUnread)
	t.ErrorsOf = first(append(t.ErrorsOf, o.ErrorsOf...), maxErrors)
	t.Unreadable = first(append(t.Unreadable, o.Unreadable...), maxUnreadable)
	if !o.OldestRolled.IsZero() && (t.OldestRolled.IsZero() || o.OldestRolled.Before(t.OldestRolled)) {
		t.OldestRolled = o.OldestRolled
	}
	t.RolledAge = max(t.RolledAge, o.RolledAge)
}

// work is what of the totals was done, and is not done again where the rest is.
func (t SweepTotals) work() SweepTotals {
	return SweepTotals{Changed: t.Changed, Repairs: t.Repairs, Alerts: t.Alerts, Requests: t.Requests}
}

// NoteUnread notes something that could not be read.
func (t *SweepTotals) NoteUnread(what string, why error) {
	t.Unread++
	t.UnreadOf = first(append(t.UnreadOf, Unread{what, brief(why.Error())}), maxUnread)
}

// NoteError notes something that failed.
func (t *SweepTotals) NoteError(why error) {
	t.Errors++
	t.ErrorsOf = first(append(t.ErrorsOf, brief(why.Error())), maxErrors)
}

// NoteRolled notes when the grants and tags of a key were last read that is looked at now.
func (t *SweepTotals) NoteRolled(at, now time.Time) {
	if at.IsZero() {
		t.NotRolled++
		return
	}
	if t.OldestRolled.IsZero() || at.Before(t.OldestRolled) {
		t.OldestRolled = at
	}
	t.RolledAge = max(t.RolledAge, int(now.Sub(at)/time.Second))
}

// Count counts one under a name.
func Count(counts *map[string]int, name string) { addCounts(counts, map[string]int{name: 1}) }

func addCounts(to *map[string]int, more map[string]int) {
	if *to == nil && len(more) > 0 {
		*to = map[string]int{}
	}
	for name, n := range more {
		(*to)[name] += n
	}
}

func first[T any](all []T, n int) []T { return slices.Clip(all[:min(len(all), n)]) }

// brief is a text that is not too long for a record.
func brief(text string) string { return fmt.Sprintf("%.*s", longestText, text) }
