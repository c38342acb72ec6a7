package ledger

import (
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
)

// Containment is that the fleet disabled a key, or is about to, because it was opened.
type Containment struct {
	By string    `json:"by"` // the event that it reacts to
	At time.Time `json:"at"`
	// Principal is who opened the key, "" if that is not known.
	Principal string `json:"principal,omitempty"`
	// Over is when the key was first seen Enabled again; zero until then.
	Over time.Time `json:"over,omitzero"`
}

// containmentGrace is how long a key that is about to be disabled may be seen
// Enabled. After that it was not disabled: the event comes again, or never will.
const containmentGrace = 5 * time.Minute

// IsContained reports whether the key is disabled because of us.
func (k *Key) IsContained() bool { return k.Contained != nil && k.Contained.Over.IsZero() }

// EnablesContained reports whether an event may have enabled the key while it was
// contained, and not before that or at another time since.
func (k *Key) EnablesContained(e events.Event) bool {
	c := k.Contained
	return c != nil && !e.Time.Before(c.At.Truncate(time.Second)) && (c.Over.IsZero() || !c.Over.Before(e.Time))
}

// WithdrawContainment forgets a containment for an occurrence that AWS refused.
func (k *Key) WithdrawContainment(by string) {
	if k.Contained != nil && k.Contained.By == by {
		k.Contained = nil
	}
}

// Exposure is a way in which the key is open, since a read that showed it first.
type Exposure struct {
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
}

// NoteExposures notes by which names the key was found open at the given time. An
// older read never replaces a newer one.
func (k *Key) NoteExposures(names []string, at time.Time) {
	if at.Before(k.ExposuresAt) {
		return
	}
	before := k.Exposures
	k.Exposures, k.ExposuresAt = nil, at
	for _, name := range names {
		named := func(x Exposure) bool { return x.Name == name }
		seen := Exposure{Name: name, Since: at}
		if b := where(before, named); b != nil {
			seen.Since = b.Since
		}
		if !slices.ContainsFunc(k.Exposures, named) {
			k.Exposures = append(k.Exposures, seen)
		}
	}
}

// ExposedBefore reports whether the key was found open by that name before a time.
func (k *Key) ExposedBefore(name string, t time.Time) bool {
	return slices.ContainsFunc(k.Exposures, func(x Exposure) bool { return x.Name == name && x.Since.Before(t) })
}
