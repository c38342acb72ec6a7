package ledger

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
)

// Standing is what is wrong with something as it stands, and what people were told about
// that. It is part of the document of a key, a bucket or the account. The zero value is a
// thing of which nothing bad was ever seen.
type Standing struct {
	// At is the look that last changed something here.
	At time.Time `json:"at,omitzero"`
	// Open are the dangers, each once by its name.
	Open []Open `json:"open,omitempty"`
	// More is how many there are beside these, which there is no room for and which are not
	// told one by one; of MoreTold of them people know that they are there.
	More     int `json:"more,omitempty"`
	MoreTold int `json:"more_told,omitempty"`
}

// Open is a danger that is there, or was when people were told.
type Open struct {
	// Name names it within its Standing.
	Name     string           `json:"name"`
	Severity finding.Severity `json:"severity"`
	// Kind is that of the alert about it, Title what that said in one line.
	Kind  string `json:"kind,omitempty"`
	Title string `json:"title,omitempty"`
	// Count is how many things the danger is about, as far as people know; 0 where it is
	// about one.
	Count int `json:"count,omitempty"`
	// Who stands for whom or what it is about ([WhoOf]); "" where only Count counts.
	Who string `json:"who,omitempty"`
	// Since is the first read that showed it.
	Since time.Time `json:"since"`
	// Alert is the ID of the alert that told people, "" while none is published; Thread is
	// where that was, "" for the key's own.
	Alert  string `json:"alert,omitempty"`
	Thread string `json:"thread,omitempty"`
	// Exempt: an exemption covered it when that was last judged, so nobody is told of it.
	// Sensitive: the operator's rules call what it is about so.
	Exempt    bool `json:"exempt,omitempty"`
	Sensitive bool `json:"sensitive,omitempty"`
	// Gone is the first read that did not show it any more, zero while it is there.
	Gone time.Time `json:"gone,omitzero"`
	// By is who ended it, and Call how, where an event said so.
	By   *Actor `json:"by,omitempty"`
	Call string `json:"call,omitempty"`
}

// Seen is what a look found to be new, to be worse than people were told, and to be over:
// not seen by two reads that are the consistency window apart. Repeated looks return it
// again until Told and Ended say that people know. What is exempt is none of it. More are
// those that there is no room for, where people do not know of so many.
type Seen struct{ New, Worse, Over, More []Open }

// Look is one look at something.
type Look struct {
	// Live are the dangers that it found, the worst first.
	Live []Open
	// Looked reports whether it could see a danger of that name; what it could not see stays
	// as it was, and ends nothing.
	Looked func(name string) bool
	// Judged: severities are those in context, and Exempt is known.
	Judged bool
	// At is when it was.
	At time.Time
	// By and Call are who ended, and how, what it does not find any more; nil and "" where
	// nobody is known to have.
	By   *Actor
	Call string
}

// MostOpen bounds the dangers of one thing that are stored, the worst of them.
const MostOpen = 100

// maxOpenTitle bounds what is kept of a title, in bytes.
const maxOpenTitle = 300

// See takes a look into the standing. One that is older than what is known changes nothing.
func (s *Standing) See(l Look) Seen {
	var seen Seen
	if l.At.Before(s.At) {
		return seen
	}
	before, more := slices.Clone(s.Open), s.More
	for i := range s.Open {
		o := &s.Open[i]
		if looked := l.Looked(o.Name); looked && !o.Gone.IsZero() && l.By != nil && (o.By == nil || o.By.Unconfirmed && !l.By.Unconfirmed) {
			o.By, o.Call = l.By, l.Call // the event came after the look that found it gone
		}
		switch {
		case slices.ContainsFunc(l.Live, named(o.Name)):
			o.Gone, o.By, o.Call = time.Time{}, nil, ""
		case !l.Looked(o.Name):
		case o.Gone.IsZero():
			o.Gone, o.By, o.Call = l.At, l.By, l.Call
		case l.At.Sub(o.Gone) >= ConsistencyWindow && o.Alert != "":
			seen.Over = append(seen.Over, *o)
		}
	}
	s.drop(func(o Open) bool { return o.Alert == "" && !o.Gone.IsZero() }) // nobody was told
	for _, live := range l.Live {
		s.find(live, l, &seen)
	}
	seen.More = s.count(l)
	if len(s.Open) > 0 && (!slices.Equal(before, s.Open) || s.More != more) {
		s.At = l.At
	}
	return seen
}

// find takes one danger that a look found into the standing.
func (s *Standing) find(live Open, l Look, seen *Seen) {
	live.Title = cut(live.Title, maxOpenTitle)
	known := where(s.Open, named(live.Name))
	if known == nil {
		live.Since, live.Alert, live.Thread, live.Gone, live.By, live.Call = l.At, "", "", time.Time{}, nil, ""
		if known = s.add(live); known == nil {
			return
		}
	}
	switch {
	case known.Alert == "":
		if l.Judged {
			known.Severity, known.Kind, known.Title, known.Exempt, known.Sensitive, known.Count = live.Severity, live.Kind, live.Title, live.Exempt, live.Sensitive, live.Count
			known.Who = live.Who
		}
		if !known.Exempt {
			seen.New = append(seen.New, *known)
		}
	case !l.Judged:
	case live.Exempt:
		known.Exempt = true
	case known.Exempt, live.Severity.Rank() > known.Severity.Rank(), live.Count > known.Count, beyond(live.Who, known.Who):
		worse := *known
		worse.Severity, worse.Kind, worse.Title, worse.Count, worse.Who = live.Severity, live.Kind, live.Title, live.Count, live.Who
		seen.Worse = append(seen.Worse, worse)
	default:
		known.Count, known.Who = live.Count, live.Who
	}
}

// add adds a danger, in place of the least one where there is no room; nil: that is worse.
func (s *Standing) add(o Open) *Open {
	if len(s.Open) < MostOpen {
		s.Open = append(s.Open, o)
		return newest(s.Open)
	}
	least := slices.MinFunc(s.Open, func(a, b Open) int { return cmp.Compare(a.Severity.Rank(), b.Severity.Rank()) })
	if least.Severity.Rank() >= o.Severity.Rank() {
		return nil
	}
	known := where(s.Open, named(least.Name))
	*known = o
	return known
}

// count counts what a look found that there is no room for, and returns that where people
// know of less. A look that could not see all that is stored may not have seen all of it.
func (s *Standing) count(l Look) []Open {
	if !l.Judged {
		return nil
	}
	var more []Open
	for _, live := range l.Live {
		if !live.Exempt && !slices.ContainsFunc(s.Open, named(live.Name)) {
			more = append(more, live)
		}
	}
	if len(more) < s.More && slices.ContainsFunc(s.Open, func(o Open) bool { return !l.Looked(o.Name) }) {
		return nil
	}
	s.More, s.MoreTold = len(more), min(s.MoreTold, len(more))
	if s.More == s.MoreTold {
		return nil
	}
	return more
}

// TellMore notes that people know of so many that there is no room for.
func (s *Standing) TellMore(n int) { s.MoreTold = min(n, s.More) }

// Told notes that an alert told people of a danger as it is in told. One that a later look
// did not find, or that is not stored, is one that people wait to hear the end of.
func (s *Standing) Told(told Open) {
	told.Title = cut(told.Title, maxOpenTitle)
	o := where(s.Open, named(told.Name))
	if o == nil {
		told.Gone, told.By, told.Call = time.Time{}, nil, ""
		s.add(told)
		return
	}
	o.Alert, o.Thread, o.Severity, o.Kind, o.Title, o.Count, o.Who, o.Exempt = told.Alert, told.Thread, told.Severity, told.Kind, told.Title, told.Count, told.Who, false
}

// Repaired notes that people were told that a danger was there and is not any more.
func (s *Standing) Repaired(name string) { s.drop(named(name)) }

// Ended notes that people were told that a danger is over. One that is back since stays.
func (s *Standing) Ended(over Open) {
	s.drop(func(o Open) bool { return o.Name == over.Name && o.Alert == over.Alert && !o.Gone.IsZero() })
}

// Of is the danger of that name, nil for none.
func (s *Standing) Of(name string) *Open { return where(s.Open, named(name)) }

func (s *Standing) drop(which func(Open) bool) {
	if s.Open = slices.DeleteFunc(s.Open, which); len(s.Open) == 0 {
		*s = Standing{} // an older look that finds it again is put right by the next one
	}
}

func named(name string) func(Open) bool { return func(o Open) bool { return o.Name == name } }

// waits reports whether something is about to end, is not told yet, or is not told because
// it is exempt, which ends with time.
func (s *Standing) waits() bool {
	return s.More > s.MoreTold || slices.ContainsFunc(s.Open, func(o Open) bool { return !o.Gone.IsZero() || o.Alert == "" || o.Exempt })
}

// Wait is how long after a time a look can end one of these dangers, of which people were
// told: 0 where none of them is about to end.
func (s *Standing) Wait(of func(name string) bool, now time.Time) time.Duration {
	var wait time.Duration
	for _, o := range s.Open {
		if left := o.Gone.Add(ConsistencyWindow).Sub(now); !o.Gone.IsZero() && o.Alert != "" && of(o.Name) && left > 0 && (wait == 0 || left < wait) {
			wait = left
		}
	}
	return wait
}

// cut is a text without what is too much of it.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit-len("…")], "") + "…"
}

const (
	// whoMark is how long the mark of one of many is (96 bits: nobody can choose a name that
	// has the mark of another), and mostWho of how many they are kept.
	whoMark = 16
	mostWho = 500
)

// WhoOf is what [Open.Who] says of whom or what a danger is about; "" of more than there is
// room for, of which only the number counts.
func WhoOf(names []string) string {
	if len(names) > mostWho {
		return ""
	}
	var marks []string
	for _, name := range names {
		sum := sha256.Sum256([]byte(name))
		marks = append(marks, base64.RawURLEncoding.EncodeToString(sum[:])[:whoMark])
	}
	slices.Sort(marks)
	return strings.Join(slices.Compact(marks), "")
}

// Misses reports whether the danger is about a thing of that name, which people do not know
// of. Where more is known than there is room for, it is not said of any.
func (o Open) Misses(name string) bool { return beyond(WhoOf([]string{name}), o.Who) }

// beyond reports whether who names somebody that before does not, where both are known.
func beyond(who, before string) bool {
	if before == "" {
		return false
	}
	known := map[string]bool{}
	for ; len(before) >= whoMark; before = before[whoMark:] {
		known[before[:whoMark]] = true
	}
	for ; len(who) >= whoMark; who = who[whoMark:] {
		if !known[who[:whoMark]] {
			return true
		}
	}
	return false
}
