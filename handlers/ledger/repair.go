package ledger

import (
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
)

// Call is a mutating call of ours: the intent, then its request ids.
type Call struct {
	Operation string    `json:"operation"`
	By        string    `json:"by"` // the occurrence that it reacts to
	At        time.Time `json:"at"`
	// RequestIDs are those of its attempts, as far as they were answered.
	RequestIDs []string `json:"request_ids,omitempty"`
	// Known: every attempt was answered, so the ids are all there are.
	Known bool `json:"known,omitempty"`
}

// Repair is a setting that the fleet put back.
type Repair struct {
	Reaction string    `json:"reaction"`
	By       string    `json:"by"` // the event or sweep that it reacts to
	Alert    string    `json:"alert"`
	At       time.Time `json:"at"`
	// Against is whose change it undid, as far as that is known.
	Against *Party `json:"against,omitempty"`
	// Done: AWS confirmed the call.
	Done bool `json:"done,omitempty"`
}

// sameAs reports whether two repairs are those of one reaction to one occurrence.
func (r Repair) sameAs(o Repair) bool { return r.Reaction == o.Reaction && r.By == o.By }

// How much of a key's past is kept. Repairs must reach back over the window of the
// circuit breaker, of all reactions.
const (
	maxCalls   = 16
	maxRepairs = 4 * MaxFlapLimit
)

// Intend notes a call that is about to be made and, for the first call of a
// reaction to an occurrence, the repair that it belongs to.
func (k *Key) Intend(operation string, r Repair) {
	if k.openCall(operation, r.By) < 0 {
		k.Calls = last(append(k.Calls, Call{Operation: operation, By: r.By, At: r.At}), maxCalls)
	}
	switch earlier := k.RepairOf(r.Reaction, r.By); {
	case earlier == nil:
		k.Repairs = last(append(k.Repairs, r), maxRepairs)
	case earlier.Done && earlier.At.Before(r.At):
		*earlier = r // the event came twice, and the setting was changed again in between
	}
}

// Untold is a repair that a sweep has begun, and the alert about it. An event comes back
// when its worker dies before it has told, and then tells; a sweep does not.
type Untold struct {
	Reaction string    `json:"reaction"`
	By       string    `json:"by"`
	At       time.Time `json:"at"`
	Alert    string    `json:"alert"` // its id
}

// NoteUntold notes a repair that a sweep is about to make.
func (k *Key) NoteUntold(u Untold) {
	k.MarkTold(u.Reaction, u.By)
	k.Untold = last(append(k.Untold, u), maxRepairs)
}

// MarkTold notes that there is nothing to tell about a repair any more.
func (k *Key) MarkTold(reaction, by string) {
	k.Untold = slices.DeleteFunc(k.Untold, func(u Untold) bool { return u.Reaction == reaction && u.By == by })
}

// openCall is where the intent of a call is that was not answered yet, -1 for none.
func (k *Key) openCall(operation, by string) int {
	return slices.IndexFunc(k.Calls, func(c Call) bool {
		return c.Operation == operation && c.By == by && !c.Known && len(c.RequestIDs) == 0
	})
}

// Confirm notes the request ids of a call that AWS confirmed; known: every attempt
// of it was answered.
func (k *Key) Confirm(operation string, r Repair, ids []string, known bool) {
	k.forgetDenied(operation)
	if i := k.openCall(operation, r.By); i >= 0 {
		k.Calls[i].RequestIDs, k.Calls[i].Known = ids, known
	} else if !slices.ContainsFunc(k.Calls, func(c Call) bool { return c.Operation == operation && slices.Equal(c.RequestIDs, ids) }) {
		// Two workers had the same event: the other one's answer took the intent.
		k.Calls = last(append(k.Calls, Call{Operation: operation, By: r.By, At: r.At, RequestIDs: ids, Known: known}), maxCalls)
	}
	if mine := k.RepairOf(r.Reaction, r.By); mine != nil {
		mine.Done = true
	}
}

// Refuse notes that AWS refused a call, so that it never happened.
func (k *Key) Refuse(operation string, r Repair) {
	if i := k.openCall(operation, r.By); i >= 0 {
		k.Calls = slices.Delete(k.Calls, i, i+1)
	}
	if i := slices.IndexFunc(k.Repairs, r.sameAs); i >= 0 && !k.Repairs[i].Done {
		k.Repairs = slices.Delete(k.Repairs, i, i+1)
		k.MarkTold(r.Reaction, r.By)
	}
}

// Denied is a call of ours that AWS denied.
type Denied struct {
	Operation string    `json:"operation"`
	Why       string    `json:"why"` // AWS's words
	At        time.Time `json:"at"`
}

// deniedFor is how long a denial stands for how things are: while it matters, sweeps try
// again.
const deniedFor = 24 * time.Hour

// NoteDenied notes that AWS denied a call.
func (k *Key) NoteDenied(operation, why string, at time.Time) {
	const longest = 500
	k.forgetDenied(operation)
	k.Denied = last(append(k.Denied, Denied{operation, why[:min(len(why), longest)], at}), maxCalls)
}

func (k *Key) forgetDenied(operation string) {
	k.Denied = slices.DeleteFunc(k.Denied, func(d Denied) bool { return d.Operation == operation })
}

// DeniedNow returns the denials that still stand.
func (k *Key) DeniedNow(now time.Time) []Denied {
	var standing []Denied
	for _, d := range k.Denied {
		if now.Sub(d.At) < deniedFor {
			standing = append(standing, d)
		}
	}
	return standing
}

// RepairOf returns the repair that a reaction made for an occurrence, or nil.
func (k *Key) RepairOf(reaction, by string) *Repair {
	return where(k.Repairs, Repair{Reaction: reaction, By: by}.sameAs)
}

// RepairsSince returns the repairs of a reaction since t that were made for other
// occurrences than by.
func (k *Key) RepairsSince(reaction, by string, t time.Time) []Repair {
	var found []Repair
	for _, r := range k.Repairs {
		if r.Reaction == reaction && r.By != by && !r.At.Before(t) {
			found = append(found, r)
		}
	}
	return found
}

// Circuit is the circuit breaker of one reaction on one key: where two parties put
// the same setting back and forth, it opens, and for CircuitTime nothing is put
// back, by events or by sweeps. Then the next of them does it again, so that nobody
// wins by trying often.
type Circuit struct {
	Reaction string    `json:"reaction"`
	By       string    `json:"by"` // the occurrence whose repair would have been one too many
	At       time.Time `json:"at"`
	// Told: the alert was published.
	Told bool `json:"told,omitempty"`
}

const (
	// MaxFlapLimit bounds how often a setting may be put back within FlapWindow.
	MaxFlapLimit = 20
	// FlapWindow is how far back the circuit breaker counts repairs.
	FlapWindow = time.Hour
	// CircuitTime is how long a circuit stays open.
	CircuitTime = time.Hour
)

// Closes is when things are put back again.
func (c Circuit) Closes() time.Time { return c.At.Add(CircuitTime) }

// Breaker is what the circuit breaker says of a repair that is about to be made.
type Breaker string

// What the circuit breaker says.
const (
	BreakerClosed  Breaker = ""        // make the repair
	BreakerOpening Breaker = "opening" // one too many: leave it, and escalate
	BreakerOpen    Breaker = "open"    // it was left before, and still is
)

// breakerInput is what decideBreaker looks at.
type breakerInput struct {
	// recent is how many repairs of the setting were made for other occurrences
	// within the window.
	recent int
	// last is the setting's last circuit, nil if there was none.
	last *Circuit
	by   string
	// begun: a repair for this very occurrence was begun before.
	begun bool
	// sweep: by is a sweep, which comes back under another name.
	sweep bool
	limit int
	now   time.Time
}

// decideBreaker decides whether a setting is put back. The time of an open circuit
// is not made longer by what happens meanwhile.
func decideBreaker(in breakerInput) Breaker {
	switch {
	case in.last != nil && in.now.Before(in.last.Closes()):
		if in.last.By == in.by || in.sweep && !in.last.Told {
			return BreakerOpening // again: the alert may not be published
		}
		return BreakerOpen
	case in.recent >= in.limit && !in.begun:
		return BreakerOpening
	}
	return BreakerClosed
}

// Breaker says whether a reaction may make a repair for an occurrence. A decision to
// make it takes the answer as a reason not to, and then opens the circuit.
func (k *Key) Breaker(reaction string, e events.Event, limit int, at time.Time) Breaker {
	return decideBreaker(breakerInput{
		recent: k.Flapping(reaction, e.ID, at), last: k.CircuitOf(reaction),
		by: e.ID, begun: k.RepairOf(reaction, e.ID) != nil, sweep: IsSweep(e), limit: limit, now: at,
	})
}

// Flapping is how often a setting was put back for other occurrences within
// FlapWindow before the given time.
func (k *Key) Flapping(reaction, by string, at time.Time) int {
	return len(k.RepairsSince(reaction, by, at.Add(-FlapWindow)))
}

// CircuitOf returns a reaction's last circuit, or nil.
func (k *Key) CircuitOf(reaction string) *Circuit {
	return where(k.Circuits, func(c Circuit) bool { return c.Reaction == reaction })
}

// OpenCircuit opens the circuit of a reaction for an occurrence, unless it is open.
func (k *Key) OpenCircuit(reaction, by string, at time.Time) {
	switch c := k.CircuitOf(reaction); {
	case c == nil:
		k.Circuits = append(k.Circuits, Circuit{Reaction: reaction, By: by, At: at})
	case !at.Before(c.Closes()):
		*c = Circuit{Reaction: reaction, By: by, At: at}
	}
}

// MarkCircuit notes that the alert about a circuit was published.
func (k *Key) MarkCircuit(told Circuit) {
	if c := k.CircuitOf(told.Reaction); c != nil && c.At.Equal(told.At) {
		c.Told = true
	}
}

// RepairsBefore are the repairs before a circuit that AWS confirmed.
func (k *Key) RepairsBefore(c Circuit) []Repair {
	recent := k.RepairsSince(c.Reaction, c.By, c.At.Add(-FlapWindow))
	return slices.DeleteFunc(recent, func(r Repair) bool { return !r.Done || r.At.After(c.At) })
}

// Waits reports whether something about the key is not over, or may be judged otherwise
// only because time passes: the next sweep has to look again, whatever has changed.
func (k *Key) Waits(now time.Time) bool {
	recent := func(at time.Time) bool { return now.Sub(at) < 2*FlapWindow }
	state := k.LastState()
	switch {
	case state == nil, state.State != StateEnabled, k.Restore != nil, k.IsContained(), !k.ShutOut.IsZero(), len(k.Untold) > 0:
		return true
	}
	return k.Standing.waits() || where(k.Restorations, func(r Restoration) bool { return !r.Told || recent(r.At) }) != nil ||
		where(k.Repairs, func(r Repair) bool { return recent(r.At) }) != nil ||
		where(k.Circuits, func(c Circuit) bool { return recent(c.At) }) != nil
}
