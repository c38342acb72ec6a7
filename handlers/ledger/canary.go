package ledger

import (
	"slices"
	"time"
)

// CanaryName names the document of the canary.
const CanaryName = "guard/canary.json"

const (
	// CanaryPatience is how long the event of a canary may take.
	CanaryPatience = 20 * time.Minute
	// CanaryMissed is how many lost in a row mean that no event arrives any more.
	CanaryMissed = 3
	// maxFlown bounds what is stored of those that came back, and maxMissing of those that
	// did not: a later event is still recognised.
	maxFlown, maxMissing = 400, 24
)

// Canary is guard/canary.json: the calls of ours whose events have to come back. Its times
// are S3's. The zero value: none was ever sent.
type Canary struct {
	// Key is the ARN of the key that they are made on.
	Key string `json:"key,omitempty"`
	// Flight is the one under way, nil for none.
	Flight *Flight `json:"flight,omitempty"`
	// Missing are those that were lost, the last ones.
	Missing []Flight `json:"missing,omitempty"`
	// Lost is how many were lost since one came back.
	Lost int `json:"lost,omitempty"`
	// Flown are those that came back, the last ones.
	Flown []Flown `json:"flown,omitempty"`
	// Refused is why the last one could not be sent, "" where it was.
	Refused string `json:"refused,omitempty"`
}

// Flight is a call whose event has to come back.
type Flight struct {
	// By is the occurrence that it was made for, as in Call.
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// Flown is a call whose event came back, after so many milliseconds.
type Flown struct {
	At     time.Time `json:"at"`
	TookMS int       `json:"took_ms"`
}

// Schema implements state.Document.
func (*Canary) Schema() (string, int) { return "canary", 1 }

// Send notes one that is about to be sent on a key. It reports false while another one is
// under way.
func (c *Canary) Send(key string, f Flight) bool {
	if c.Flight != nil {
		return false
	}
	if c.Key != key { // what was lost of another key says nothing of this one
		c.Key, c.Missing, c.Lost = key, nil, 0
	}
	c.Flight, c.Refused = &f, ""
	return true
}

// Late returns the one that has been under way for too long, nil for none.
func (c *Canary) Late(now time.Time) *Flight {
	if c.Flight == nil || now.Sub(c.Flight.At) < CanaryPatience {
		return nil
	}
	return c.Flight
}

// Lose notes that the one under way is lost.
func (c *Canary) Lose(by string) {
	if c.Flight == nil || c.Flight.By != by {
		return
	}
	c.Missing = last(append(c.Missing, *c.Flight), maxMissing)
	c.Flight = nil
	c.Lost++
}

// Drop notes that the one under way was never made, or that nobody can know its event. why
// is why the call was refused, "" where it was not.
func (c *Canary) Drop(by, why string) {
	if c.Flight != nil && c.Flight.By == by {
		c.Flight = nil
	}
	c.Refused = why
}

// Back notes that the event of the call made for by has arrived, and returns how long that
// took. known is false where it was waited for no more: it came before.
func (c *Canary) Back(by string, now time.Time) (took time.Duration, known bool) {
	var f Flight
	i := slices.IndexFunc(c.Missing, func(m Flight) bool { return m.By == by })
	switch {
	case c.Flight != nil && c.Flight.By == by:
		f, c.Flight = *c.Flight, nil
		c.Lost = 0
	case i >= 0:
		f = c.Missing[i]
		if i == len(c.Missing)-1 { // the way is open again, if later ones are not lost as well
			c.Lost = 0
		}
		c.Missing = slices.Delete(c.Missing, i, i+1)
	default:
		return 0, false
	}
	took = max(0, now.Sub(f.At))
	c.Flown = last(append(c.Flown, Flown{f.At, int(took.Milliseconds())}), maxFlown)
	return took, true
}
