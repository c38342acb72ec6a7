package ledger

import "time"

// AliveName names the document of when workers of the fleet received.
const AliveName = "sweeps/alive.json"

const (
	// AliveEvery is how often the fleet notes that a worker receives.
	AliveEvery = 2 * time.Minute
	// aliveGap is how long nobody may have noted that until it counts as an outage. It is
	// more than twice AliveEvery, so that a note that fails is none.
	aliveGap = 5 * time.Minute
)

// Alive is sweeps/alive.json: when a worker last noted that it receives, and since when that
// has been so without a gap; zero where no gap is known. Its times are S3's.
type Alive struct {
	At    time.Time `json:"at,omitzero"`
	Since time.Time `json:"since,omitzero"`
}

// Schema implements state.Document.
func (*Alive) Schema() (string, int) { return "alive", 1 }

// See notes that a worker receives. It reports false where that was noted a short time ago.
func (a *Alive) See(now time.Time) bool {
	quiet := now.Sub(a.At)
	if quiet < AliveEvery {
		return false
	}
	if !a.At.IsZero() && quiet > aliveGap {
		a.Since = now
	}
	a.At = now
	return true
}

// Asked is when a worker that starts now asks for a sweep, for [Sweeps.Wait]: one that
// began at most that long ago, and not before an outage.
func (a *Alive) Asked(now time.Time, age time.Duration) time.Time {
	asked := now.Add(-age)
	// Both are S3's times, so that the difference of clocks does not come in.
	if since := a.Since.Add(-sweepClocks); since.After(asked) {
		return since
	}
	return asked
}
