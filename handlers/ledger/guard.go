package ledger

import (
	"slices"
	"time"
)

// The documents about the guard itself.
const (
	GuardName = "guard/standing.json"
	TicksName = "guard/ticks.json"
	BlindName = "guard/blind.json"
	RoleName  = "guard/role.json"
)

// Guard is guard/standing.json: what keeps the guard from seeing or telling, and what people
// were told of it. The zero value was never looked at.
type Guard struct {
	Standing Standing `json:"standing,omitzero"`
	// Titles are those of the alerts that told of what is open.
	Titles []Titled `json:"titles,omitempty"`
}

// Titled is the title under which people know a condition.
type Titled struct {
	Name  string `json:"name"`
	Title string `json:"title"`
}

// Schema implements state.Document.
func (*Guard) Schema() (string, int) { return "guard", 1 }

// Told is Standing.Told for one condition, with the alert's title.
func (g *Guard) Told(alert, title string, told Open) {
	told.Alert, told.Title = alert, title
	g.Standing.Told(told)
	g.forget(told.Name)
	g.Titles = append(g.Titles, Titled{told.Name, title})
}

// Ended is Standing.Ended for one condition.
func (g *Guard) Ended(over Open) {
	g.Standing.Ended(over)
	g.forget(over.Name)
}

func (g *Guard) forget(name string) {
	g.Titles = slices.DeleteFunc(g.Titles, func(t Titled) bool { return t.Name == name })
}

// TitleOf is the title under which people know a condition; its name where they do not.
func (g *Guard) TitleOf(name string) string {
	if t := where(g.Titles, func(t Titled) bool { return t.Name == name }); t != nil {
		return t.Title
	}
	return name
}

// Ticks is guard/ticks.json: when the schedule last asked for a sweep.
type Ticks struct {
	// Last is when SQS took the last message of the schedule.
	Last time.Time `json:"last,omitzero"`
}

// Schema implements state.Document.
func (*Ticks) Schema() (string, int) { return "ticks", 1 }

// Blind is guard/blind.json: that workers of the fleet are blind, and the alert about it.
// The zero value: none is.
type Blind struct {
	// Alert is the ID of the alert, Title its title.
	Alert string `json:"alert,omitempty"`
	Title string `json:"title,omitempty"`
	// Since is when the first worker said so, Seen when one last did.
	Since time.Time `json:"since,omitzero"`
	Seen  time.Time `json:"seen,omitzero"`
}

// Schema implements state.Document.
func (*Blind) Schema() (string, int) { return "blind", 1 }

const (
	// BlindRenewal is how often a worker says that it is still blind.
	BlindRenewal = time.Minute
	// blindLease is how long it counts as blind after it last said so.
	blindLease = 2 * BlindRenewal
)

// See notes that a worker is blind now. alert and title are of the alert about it, unless
// others are blind already: then that one's stand.
func (b *Blind) See(alert, title string, now time.Time) {
	if b.Alert == "" {
		b.Alert, b.Title, b.Since = alert, title, now
	}
	b.Seen = now
}

// Over reports whether people were told that workers are blind, and none is any more; wait
// is how long that takes to know at least.
func (b *Blind) Over(now time.Time) (over bool, wait time.Duration) {
	if b.Alert == "" {
		return false, 0
	}
	wait = max(0, b.Seen.Add(blindLease).Sub(now))
	return wait == 0, wait
}

// Role is guard/role.json: what the role cannot do although the modes need it, as it was when
// a key was last looked at.
type Role struct {
	Lacks []Lack `json:"lacks,omitempty"`
}

// Lack is something that the role cannot do on a key.
type Lack struct {
	Key    string `json:"key"`
	Action string `json:"action"`
	Why    string `json:"why"`
	// At is when AWS denied it, zero where a policy says so. It stands for a day.
	At time.Time `json:"at,omitzero"`
}

// Stands reports whether it says how things are now.
func (l Lack) Stands(now time.Time) bool { return l.At.IsZero() || now.Sub(l.At) < deniedFor }

// Schema implements state.Document.
func (*Role) Schema() (string, int) { return "role", 1 }

// maxLacks bounds what is stored.
const maxLacks = 500

// Set notes what the role cannot do on a key, nothing for all that is needed. It reports
// false where that was known.
func (r *Role) Set(key string, lacks []Lack) bool {
	if slices.Equal(r.Of(key), lacks) {
		return false
	}
	r.Lacks = slices.DeleteFunc(r.Lacks, func(l Lack) bool { return l.Key == key })
	r.Lacks = append(r.Lacks, lacks[:min(len(lacks), max(0, maxLacks-len(r.Lacks)))]...)
	return true
}

// Of returns what the role cannot do on a key.
func (r *Role) Of(key string) (lacks []Lack) {
	for _, l := range r.Lacks {
		if l.Key == key {
			lacks = append(lacks, l)
		}
	}
	return lacks
}
