package ledger

import (
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
)

// Standing is what is wrong with something as it stands, and what people were told about
// that. It is part of the document of a key, bucket or the fleet. The zero value was never
// looked at.
type Standing struct {
	// At is when it was last looked at; the first look at a thing that was bad before is
	// not told like a change.
	At time.Time `json:"at,omitzero"`
	// Open are the dangers, each once by its name.
	Open []Open `json:"open,omitempty"`
}

// Open is a danger that is there, or was when people were told.
type Open struct {
	// Name names it within its Standing.
	Name     string           `json:"name"`
	Severity finding.Severity `json:"severity"`
	// Since is the first read that showed it.
	Since time.Time `json:"since"`
	// Alert is the ID of the alert that told people, "" while none is published.
	Alert string `json:"alert,omitempty"`
	// Gone is the first read that did not show it any more, zero while it is there.
	Gone time.Time `json:"gone,omitzero"`
}

// Seen is what a look found to be new, to be worse than people were told, and to be over:
// not seen by two reads that are the consistency window apart. Repeated looks return it
// again until Told and Ended say that people know.
type Seen struct{ New, Worse, Over []Open }

// maxOpen bounds the dangers of one thing that are stored, the worst of them.
const maxOpen = 100

// See takes a look at the given time into the standing: live are the dangers that it
// found, by name and severity. looked reports whether the look could see a danger of that
// name; what it could not see stays as it was, and ends nothing. An older look than the
// last one changes nothing.
func (s *Standing) See(live []Open, looked func(name string) bool, at time.Time) Seen {
	var seen Seen
	if at.Before(s.At) {
		return seen
	}
	s.At = at
	named := func(name string) func(Open) bool { return func(o Open) bool { return o.Name == name } }
	for i := range s.Open {
		o := &s.Open[i]
		if slices.ContainsFunc(live, named(o.Name)) {
			o.Gone = time.Time{}
			continue
		}
		switch {
		case !looked(o.Name):
		case o.Gone.IsZero():
			o.Gone = at
		case at.Sub(o.Gone) >= ConsistencyWindow && o.Alert != "":
			seen.Over = append(seen.Over, *o)
		}
	}
	s.Open = slices.DeleteFunc(s.Open, func(o Open) bool { return o.Alert == "" && !o.Gone.IsZero() }) // nobody was told
	for _, l := range live {
		known := where(s.Open, named(l.Name))
		switch {
		case known == nil && len(s.Open) < maxOpen:
			l.Since, l.Alert, l.Gone = at, "", time.Time{}
			s.Open = append(s.Open, l)
			seen.New = append(seen.New, l)
		case known == nil:
		case known.Alert == "":
			known.Severity = l.Severity
			seen.New = append(seen.New, *known)
		case l.Severity.Rank() > known.Severity.Rank():
			worse := *known
			worse.Severity = l.Severity
			seen.Worse = append(seen.Worse, worse)
		}
	}
	return seen
}

// Told notes that an alert told people of dangers as they are in told.
func (s *Standing) Told(alert string, told ...Open) {
	for _, t := range told {
		if o := where(s.Open, func(o Open) bool { return o.Name == t.Name }); o != nil {
			o.Alert, o.Severity = alert, t.Severity
		}
	}
}

// Ended notes that people were told that dangers are over.
func (s *Standing) Ended(over ...Open) {
	s.Open = slices.DeleteFunc(s.Open, func(o Open) bool {
		return !o.Gone.IsZero() && slices.ContainsFunc(over, func(e Open) bool { return e.Name == o.Name })
	})
}

// Due is when the next look can end something: zero where nothing is about to end.
func (s *Standing) Due() time.Time {
	var due time.Time
	for _, o := range s.Open {
		if at := o.Gone.Add(ConsistencyWindow); !o.Gone.IsZero() && (due.IsZero() || at.Before(due)) {
			due = at
		}
	}
	return due
}
