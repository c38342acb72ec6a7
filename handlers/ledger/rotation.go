package ledger

import (
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
)

// Rotation is what is known of a key's automatic rotation.
type Rotation struct {
	// Seen: the key has been rotating, by our own read or by a successful DisableKeyRotation.
	Seen bool `json:"seen,omitempty"`
	// Period in days, from the last live read that showed rotation on; 0 unknown.
	Period int `json:"period_days,omitempty"`
	// On is the last live reading and At when it was first read.
	On bool      `json:"on,omitempty"`
	At time.Time `json:"at,omitzero"`
	// OffBy is the occurrence that turned rotation off or first showed it off, ""
	// while it is on. Alerts about this state carry it, so that the event and every
	// sweep after it make one alert.
	OffBy string `json:"off_by,omitempty"`
	// Off is who turned it off, as far as an event said; nil while it is on.
	Off *Party `json:"off,omitempty"`
	// Last is the last rotation that an event reported, and OnDemand are those that
	// somebody asked for.
	Last     time.Time          `json:"last,omitzero"`
	OnDemand []OnDemandRotation `json:"on_demand,omitempty"`
}

// OnDemandRotation is a rotation on demand that an event reported.
type OnDemandRotation struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// OnDemandLimit is how often KMS rotates a key's material on demand in the key's
// whole life (KMS Developer Guide, "On-demand rotation").
const OnDemandLimit = 25

// See notes a live reading of the rotation status: on or off, and the period in
// days (0: not shown). by is the occurrence that made us look.
func (r *Rotation) See(on bool, period int, at time.Time, by string) {
	if at.Before(r.At) {
		return
	}
	if on != r.On || r.At.IsZero() {
		r.On, r.At = on, at
	}
	if !on {
		if r.OffBy == "" {
			r.OffBy = by
		}
		return
	}
	r.Seen, r.OffBy, r.Off = true, "", nil
	if period > 0 {
		r.Period = period
	}
}

// Outdates reports whether rotation was seen on later than a reading at the given
// time that shows it off: two events are handled at once, and one of them has
// waited since it read.
func (r *Rotation) Outdates(on bool, at time.Time) bool { return !on && r.On && at.Before(r.At) }

// NoteOff notes that an event turned rotation off, which proves that it was on. on is
// the live reading: where that shows it on again, nobody is to blame for an "off".
func (r *Rotation) NoteOff(e events.Event, on bool) {
	r.Seen = true
	if !on {
		r.OffBy, r.Off = e.ID, r.Off.newer(PartyOf(e))
	}
}

// Cause is who turned rotation off: whom an earlier event named, or the actor of the
// event itself where it is the one that did it or set the period.
func (r *Rotation) Cause(e events.Event) *Party {
	if e.Name != "DisableKeyRotation" && (r.Off != nil || e.Name != "EnableKeyRotation") {
		return r.Off
	}
	return PartyOf(e)
}

// NoteRotated notes that a key got new material; onDemand: somebody asked for it.
func (r *Rotation) NoteRotated(e events.Event, onDemand bool) {
	if r.Last.Before(e.Time) {
		r.Last = e.Time
	}
	if onDemand && !slices.ContainsFunc(r.OnDemand, func(s OnDemandRotation) bool { return s.By == e.ID }) {
		r.OnDemand = last(append(r.OnDemand, OnDemandRotation{By: e.ID, At: e.Time}), OnDemandLimit)
	}
}
