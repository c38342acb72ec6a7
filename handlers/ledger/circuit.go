package ledger

import (
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
)

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
