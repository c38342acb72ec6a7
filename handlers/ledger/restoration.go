package ledger

import (
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
)

// Restoration is a good policy that was put back in place of a bad one, or is about
// to be, with all that is needed to finish it and to tell it.
type Restoration struct {
	By string `json:"by"` // the occurrence that it reacts to
	// The alert's id, and what it says of the occurrence.
	Alert string    `json:"alert"`
	Event string    `json:"event"`
	Time  time.Time `json:"time"`
	Actor *Actor    `json:"actor,omitempty"`
	// Principal is whose policy was taken away, "" if that is not known.
	Principal string    `json:"principal,omitempty"`
	At        time.Time `json:"at"`
	// Taken is the hash of the policy that was taken away; Good is the version of the
	// one that was restored, and GoodAt when that was recorded.
	Taken  string    `json:"taken"`
	Good   int       `json:"good"`
	GoodAt time.Time `json:"good_at"`
	// Bypassed: the bad one was set without KMS's lock-out check.
	Bypassed bool `json:"bypassed,omitempty"`
	// Acceptances is how many there were of the key's policies.
	Acceptances int `json:"acceptances,omitempty"`
	// Told: it is finished, and its alert was published.
	Told bool `json:"told,omitempty"`
}

// opPutPolicy is the call that a restoration makes.
const opPutPolicy = "PutKeyPolicy"

// maxRestorations bounds what is kept of them. No more than the limit of the circuit
// breaker are made without a human, and those before an acceptance do not count.
const maxRestorations = MaxFlapLimit

// Repair is the repair that the restoration is.
func (r Restoration) Repair() Repair {
	rep := Repair{Reaction: ReactionPolicy, By: r.By, Alert: r.Alert, At: r.At}
	if r.Actor != nil {
		rep.Against = &Party{Name: r.Actor.Name, Principal: r.Principal, Account: r.Actor.Account, At: r.Time}
	}
	return rep
}

// BeginRestoration notes that a good policy is about to be restored.
func (k *Key) BeginRestoration(r Restoration) {
	k.Intend(opPutPolicy, r.Repair())
	if k.restoration(r.By) == nil {
		k.Restorations = last(append(k.Restorations, r), maxRestorations)
	}
}

// DropRestoration forgets one that is not made after all, unless another worker has
// made it.
func (k *Key) DropRestoration(r Restoration) {
	k.Refuse(opPutPolicy, r.Repair())
	if k.RepairOf(ReactionPolicy, r.By) == nil {
		k.Restorations = slices.DeleteFunc(k.Restorations, func(o Restoration) bool { return o.By == r.By })
	}
}

// MarkRestoration notes that the alert about a restoration was published.
func (k *Key) MarkRestoration(by string) {
	if r := k.restoration(by); r != nil {
		r.Told = true
	}
}

func (k *Key) restoration(by string) *Restoration {
	return where(k.Restorations, func(r Restoration) bool { return r.By == by })
}

// InProgress returns the restoration that was begun for an event and is not
// finished; for a sweep, any. nil: there is none.
func (k *Key) InProgress(e events.Event) *Restoration {
	return where(k.Restorations, func(r Restoration) bool { return !r.Told && (r.By == e.ID || IsSweep(e)) })
}

// Finished reports whether an event is about a policy that was taken away for it,
// with everything done.
func (k *Key) Finished(e events.Event) bool {
	r := k.restoration(e.ID)
	return r != nil && r.Told
}

// RecentlyReplaced reports whether a policy that was read may be one that was taken
// away just before: KMS is eventually consistent.
func (k *Key) RecentlyReplaced(document string, at time.Time) bool {
	return slices.ContainsFunc(k.Restorations, func(r Restoration) bool {
		return r.Taken == Hash(document) && r.Told && at.Sub(r.At) < ConsistencyWindow
	})
}

// OutcomeOf returns what became of a policy that an event set and that is not live:
// it was taken away, or an older one was restored after it because of another.
func (k *Key) OutcomeOf(e events.Event, sent string) (taken, undone *Restoration) {
	for i, r := range k.Restorations {
		switch {
		case r.At.Before(e.Time):
		case r.Taken == Hash(sent):
			return &k.Restorations[i], nil
		case r.GoodAt.Before(e.Time):
			undone = &k.Restorations[i]
		}
	}
	return nil, undone
}

// EarlierRestorations returns those for other occurrences since the last acceptance.
func (k *Key) EarlierRestorations(by string, acceptances int) []Restoration {
	var found []Restoration
	for _, r := range k.Restorations {
		if r.By != by && r.Acceptances == acceptances {
			found = append(found, r)
		}
	}
	return found
}
