package keylist

import (
	"encoding/csv"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
)

// Cell is text from outside for a cell of CSV: on one line, what is not visible escaped,
// and nothing that a spreadsheet takes for a formula (OWASP, "CSV Injection").
func Cell(text string) string {
	text = alert.Escape(text)
	if strings.ContainsAny(firstRune(strings.TrimLeft(text, " '\"")), "=+-@＝＋－＠") {
		return "'" + text
	}
	return text
}

func firstRune(s string) string {
	for _, r := range s {
		return string(r)
	}
	return ""
}

// WriteCSV writes rows, of which the first has the names, each cell as Cell.
func WriteCSV(w io.Writer, rows [][]string) error {
	c := csv.NewWriter(w)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, text := range row {
			cells[i] = Cell(text)
		}
		if err := c.Write(cells); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

// notKnown is what a cell says of a fact that was not read; why is its reason.
func notKnown(r Read) string {
	if r.NotKnown == NotAsked || r.NotKnown == AWSManages {
		return r.NotKnown
	}
	return "not known: " + r.NotKnown
}

// CSV returns the list as rows, of which the first has the names of the columns.
func (l List) CSV() [][]string {
	rows := [][]string{{
		"arn", "aliases", "description", "state", "manager", "spec", "usage", "origin", "multi_region", "created", "age_days",
		"rotation", "rotation_period_days", "last_rotation", "next_rotation", "policy_worst", "grants", "grants_outside", "last_use", "buckets", "tags",
		"worst", "dangers", "exemptions", "judged", "read_at",
		"unused_days", "bucket_keys_off",
	}}
	for _, k := range l.Keys {
		rows = append(rows, k.csv())
	}
	return rows
}

func (k Key) csv() []string {
	known := func(r Read, text string) string {
		if r.Known() {
			return text
		}
		return notKnown(r)
	}
	described := func(text string) string { return known(k.Described, text) }
	dangers := make([]string, 0, len(k.Dangers))
	for _, d := range k.Dangers {
		dangers = append(dangers, string(d.Severity)+" "+d.Name+": "+d.Text)
	}
	exemptions := make([]string, 0, len(k.Exemptions))
	for _, e := range k.Exemptions {
		exemptions = append(exemptions, e.Covers+" until "+e.Until+": "+e.Reason)
	}
	last := day(k.Rotation.Last)
	if k.Rotation.LastNotKnown != "" {
		last = "not known: " + k.Rotation.LastNotKnown
	}
	buckets := strings.Join(k.Buckets.Names, " ")
	if !k.Buckets.Known() {
		buckets = strings.TrimSpace(buckets + " (" + notKnown(k.Buckets.Read) + ")")
	}
	off := strings.Join(k.Buckets.BucketKeysOff, " ")
	if !k.Buckets.Known() {
		off = strings.TrimSpace(off + " (" + notKnown(k.Buckets.Read) + ")")
	}
	unused := ""
	if k.LastUse.UnusedDays != nil {
		unused = strconv.Itoa(*k.LastUse.UnusedDays)
	}
	return []string{
		k.ARN, strings.Join(k.Aliases, " "), k.Description, described(k.State), described(k.Manager), described(k.Spec), described(k.Usage), described(k.Origin),
		described(k.MultiRegion), described(k.Created.Format(time.DateOnly)), described(strconv.Itoa(k.AgeDays)),
		k.Rotation.Words(), days(k.Rotation.PeriodDays), last, day(k.Rotation.Next), known(k.Policy.Read, string(k.Policy.Worst)),
		known(k.Grants.Read, strconv.Itoa(k.Grants.Count)), known(k.Grants.Read, strconv.Itoa(len(k.Grants.Outside))), k.LastUse.Words(), buckets,
		known(k.Tags.Read, tagText(k.Tags.Values)),
		string(k.Worst), strings.Join(dangers, " | "), strings.Join(exemptions, " | "), strconv.FormatBool(k.Judged), k.Described.At.Format(time.RFC3339),
		unused, off,
	}
}

// Words says in a few words whether the key rotates, or why it cannot.
func (r Rotation) Words() string {
	switch {
	case r.Blocker != "":
		return "cannot: " + string(r.Blocker)
	case r.Enabled == nil:
		return notKnown(r.Read)
	case *r.Enabled:
		return "on"
	}
	return "off"
}

// Words says when the key was used; by the record, and as of when, where that was not read.
func (u LastUse) Words() string {
	if !u.Known() {
		words := notKnown(u.Read)
		if u.Record == nil {
			return words
		}
		recorded := useWords(*u.Record) + " (as of " + u.Record.At.UTC().Format(time.DateOnly) + ")"
		if u.NotKnown == NotAsked || u.NotKnown == AWSManages {
			return recorded
		}
		return words + "; recorded before: " + recorded
	}
	return useWords(u.record())
}

func useWords(u UseRecord) string {
	if u.Used.IsZero() {
		return "none since " + u.Since.UTC().Format(time.DateOnly)
	}
	return u.Operation + " at " + u.Used.UTC().Format(time.RFC3339)
}

// record is what is recorded of a last use that is known.
func (u LastUse) record() UseRecord {
	r := UseRecord{At: u.At, Operation: u.Operation, Since: u.Since}
	if u.Used != nil {
		r.Used = u.Used.UTC()
	}
	return r
}

func day(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}

func days(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// tagText lists tags in the order of their names.
func tagText(tags map[string]string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		all = append(all, name+"="+tags[name])
	}
	return strings.Join(all, "; ")
}
