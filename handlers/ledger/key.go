package ledger

import (
	"maps"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
)

// Key is keys/<key-id>.json: what is known of a key from our own reads, what the
// fleet is about to do to it, and what it did. The zero value is a key that
// nothing is known of.
type Key struct {
	ARN          string        `json:"arn"`
	Description  string        `json:"description,omitempty"`
	Aliases      []string      `json:"aliases,omitempty"`
	Rotation     Rotation      `json:"rotation"`
	States       []State       `json:"states,omitempty"`
	Policy       *Policy       `json:"policy,omitempty"`
	Restorations []Restoration `json:"put_backs,omitempty"`
	Restore      *Restore      `json:"restore,omitempty"`
	Contained    *Containment  `json:"contained,omitempty"`
	Calls        []Call        `json:"calls,omitempty"`
	Repairs      []Repair      `json:"repairs,omitempty"`
	Circuits     []Circuit     `json:"circuits,omitempty"` // one for each reaction that had one
	// Tags are those of the last sweep that could read them; TagsSince is when that
	// was first so, and zero while it never was.
	Tags      []Tag     `json:"tags,omitempty"`
	TagsSince time.Time `json:"tags_since,omitzero"`
	// Reminded is the ID of the last reminder of the key's end that was published.
	Reminded string `json:"reminded,omitempty"`
	// Exposures are how the key was open when that was last read, at ExposuresAt.
	Exposures   []Exposure `json:"exposures,omitempty"`
	ExposuresAt time.Time  `json:"exposures_at,omitzero"`
	// ExposuresSince is when that was first read; zero while it never was.
	ExposuresSince time.Time `json:"exposures_since,omitzero"`
	// ShutOut is since when we may not read the key; zero while we may.
	ShutOut time.Time `json:"shut_out,omitzero"`
	// TagsTold are the changes of Tags that events told of since the last sweep.
	TagsTold []ToldTag `json:"tags_told,omitempty"`
	// Untold are the repairs of sweeps whose alerts may not be published.
	Untold []Untold `json:"untold,omitempty"`
	// Standing is what is wrong with the key, and what people were told of that.
	Standing Standing `json:"standing,omitzero"`
	// Denied are the calls that AWS last denied us, each operation once.
	Denied []Denied `json:"denied,omitempty"`
}

// Schema implements state.Document.
func (*Key) Schema() (string, int) { return "key", 1 }

// State is a change of the key's state, at the first read that showed it.
type State struct {
	State string    `json:"state"`
	At    time.Time `json:"at"`
	// By is the event whose alert was about this state, "" while there was none.
	By string `json:"by,omitempty"`
	// Accepted: first seen in mode observe, so that mode enforce leaves it alone later.
	Accepted bool `json:"accepted,omitempty"`
	// Of is who brought it about, as far as an event said.
	Of *Party `json:"of,omitempty"`
	// Exempt is the exemption that it was left alone for, "" if it was not.
	Exempt string `json:"exempt,omitempty"`
}

// Tag is a tag of the key that sweeps have found since a time. A value that
// changed is another tag.
type Tag struct {
	Name  string    `json:"name"`
	Value string    `json:"value"`
	Since time.Time `json:"since"`
}

// ToldTag is a change of a tag that was told: the value that it was set to, or that it
// was removed.
type ToldTag struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Gone  bool   `json:"gone,omitempty"`
}

// Policy is the last key policy that was judged, good or bad: later differences
// are those from it. Which policy is restored is in the key's [Baseline].
type Policy struct {
	Document string    `json:"document"`
	At       time.Time `json:"at"`
}

// Restore is the intent to bring a key back to Enabled.
type Restore struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// maxStates is how many states of a key are kept.
const maxStates = 16

// See notes a key as it was read at the given time. accepted: a state that is
// first seen now is left alone by mode enforce later (it was seen in another mode).
func (k *Key) See(arn, description, keyState string, at time.Time, accepted bool) {
	k.ARN, k.Description = arn, description
	if !at.Before(k.ShutOut) {
		k.ShutOut = time.Time{}
	}
	if k.IsContained() && keyState == StateEnabled && at.Sub(k.Contained.At) > containmentGrace {
		k.Contained.Over = at
	}
	s := k.LastState()
	if s != nil && at.Before(s.At) {
		return // an older read than the newest fact
	}
	if keyState == StateEnabled && (k.Restore == nil || at.After(k.Restore.At)) {
		k.Restore = nil // however it came back
	}
	if s != nil && s.State == keyState {
		return
	}
	k.States = last(append(k.States, State{State: keyState, At: at, Accepted: accepted}), maxStates)
	if keyState == StateEnabled {
		k.Restore = nil
		if k.IsContained() {
			k.Contained.Over = at
		}
	}
}

// Outdates reports whether the key was seen in another state later than at the given
// time: two messages are handled at once, and one of them has waited since it read.
func (k *Key) Outdates(keyState string, at time.Time) bool {
	s := k.LastState()
	return s != nil && s.State != keyState && at.Before(s.At)
}

// LastState is the state that the key was last seen in, nil if it was never seen.
func (k *Key) LastState() *State { return newest(k.States) }

// MarkState notes that the alert about a state was published for an occurrence, and
// under which exemption it was left alone ("" for none).
func (k *Key) MarkState(told State, by, exempt string) {
	for i, s := range k.States {
		if s.State != told.State || !s.At.Equal(told.At) {
			continue
		}
		if k.States[i].By = by; exempt != "" {
			k.States[i].Exempt = exempt
		}
	}
}

// NoteTags notes the tags that a sweep read. Those of the first sweep count from
// the key's creation: nobody had a reason to set them for us.
func (k *Key) NoteTags(tags map[string]string, created, at time.Time) {
	since := at
	if k.TagsSince.IsZero() {
		k.TagsSince = at
		if !created.IsZero() {
			since = created.UTC().Round(0)
		}
	}
	before := k.Tags
	k.Tags, k.TagsTold = nil, nil
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		t := Tag{Name: name, Value: tags[name], Since: since}
		if b := where(before, func(b Tag) bool { return b.Name == t.Name && b.Value == t.Value }); b != nil {
			t.Since = b.Since
		}
		k.Tags = append(k.Tags, t)
	}
}

// NoteToldTag notes what an event told of a tag, so that the next sweep does not tell
// it again. The tags of the last sweep stay what the key is judged by until then. It
// keeps the last 50, as many as a key can have.
func (k *Key) NoteToldTag(t ToldTag) {
	k.TagsTold = slices.DeleteFunc(k.TagsTold, func(o ToldTag) bool { return o.Name == t.Name })
	k.TagsTold = last(append(k.TagsTold, t), 50)
}

// TagTold reports whether the tag's last change that was told is this one.
func (k *Key) TagTold(t ToldTag) bool { return slices.Contains(k.TagsTold, t) }

// NoteShutOut notes that the key, or its policy, may not be read.
func (k *Key) NoteShutOut(at time.Time) {
	if k.ShutOut.IsZero() {
		k.ShutOut = at
	}
}

// NoteCause notes who brought about the state that was read, where an event did:
// the state is the one that the event makes, and it is not from before the former one.
// What only a message claims is not noted.
func (k *Key) NoteCause(e events.Event) {
	n := len(k.States)
	if n == 0 || e.Claimed || n > 1 && k.States[n-2].At.After(e.Time) {
		return
	}
	s := &k.States[n-1]
	if e.Name == "ScheduleKeyDeletion" && IsPending(s.State) || e.Name == "DisableKey" && s.State == StateDisabled {
		s.Of = s.Of.newer(PartyOf(e))
	}
}

// StateCause is who brought about the state that an event or a sweep shows: the
// event's actor, or for a sweep the one that an earlier event named, which also outweighs
// what a message claims.
func (k *Key) StateCause(e events.Event) *Party {
	if s := k.LastState(); s != nil && (IsSweep(e) || e.Claimed && s.Of != nil) {
		return s.Of
	}
	if IsSweep(e) {
		return nil
	}
	return PartyOf(e)
}

// NotePolicy notes a live policy as the last one that was judged, from which later
// differences are told. An older read never replaces a newer one.
func (k *Key) NotePolicy(document string, at time.Time) {
	if k.Policy == nil || !at.Before(k.Policy.At) && k.Policy.Document != document {
		k.Policy = &Policy{Document: document, At: at}
	}
}

// Rotation is what is known of a key's automatic rotation.
type Rotation struct {
	// Seen: the key has been rotating, by our own read or by a successful DisableKeyRotation.
	Seen bool `json:"seen,omitempty"`
	// Period in days, from the last live read that showed rotation on; 0 unknown.
	Period int `json:"period_days,omitempty"`
	// Former is the period before the last reading that showed a longer one, and
	// LongerBy the occurrence on which that was read; both are zero for none.
	Former   int    `json:"former_period_days,omitempty"`
	LongerBy string `json:"longer_by,omitempty"`
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
	switch {
	case period <= 0 || period == r.Period:
		return
	case r.Period > 0 && period > r.Period:
		r.Former, r.LongerBy = r.Period, by
	default:
		r.Former, r.LongerBy = 0, ""
	}
	r.Period = period
}

// Outdates reports whether rotation was seen on later than a reading at the given
// time that shows it off: two events are handled at once, and one of them has
// waited since it read.
func (r *Rotation) Outdates(on bool, at time.Time) bool { return !on && r.On && at.Before(r.At) }

// NoteOff notes that an event turned rotation off, which proves that it was on, unless
// only a message claims it. on is the live reading: where that shows it on again, nobody
// is to blame for an "off".
func (r *Rotation) NoteOff(e events.Event, on bool) {
	if e.Claimed {
		return
	}
	r.Seen = true
	if !on {
		r.OffBy, r.Off = e.ID, r.Off.newer(PartyOf(e))
	}
}

// Cause is who turned rotation off: whom an earlier event named, or the actor of the
// event itself where it is the one that did it or set the period.
func (r *Rotation) Cause(e events.Event) *Party {
	named := e.Name == "DisableKeyRotation" || e.Name == "EnableKeyRotation" && r.Off == nil
	if !named || e.Claimed && r.Off != nil {
		return r.Off
	}
	return PartyOf(e)
}

// NoteRotated notes that a key got new material; onDemand: somebody asked for it. What
// only a message claims is not noted.
func (r *Rotation) NoteRotated(e events.Event, onDemand bool) {
	if e.Claimed || e.IsOutdated() {
		return
	}
	if r.Last.Before(e.Time) {
		r.Last = e.Time
	}
	if onDemand && !slices.ContainsFunc(r.OnDemand, func(s OnDemandRotation) bool { return s.By == e.ID }) {
		r.OnDemand = last(append(r.OnDemand, OnDemandRotation{By: e.ID, At: e.Time}), OnDemandLimit)
	}
}

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
	if k.ExposuresSince.IsZero() {
		k.ExposuresSince = at
		if !k.ExposuresAt.IsZero() { // by an earlier build, which did not note it
			k.ExposuresSince = k.ExposuresAt
		}
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

// ExposuresReadBefore reports whether it was read how the key is open well before a time.
func (k *Key) ExposuresReadBefore(t time.Time) bool {
	since := k.ExposuresSince
	if since.IsZero() {
		since = k.ExposuresAt
	}
	return !since.IsZero() && t.Sub(since) > ConsistencyWindow
}

// ExposedBefore reports whether the key was found open by that name before a time.
func (k *Key) ExposedBefore(name string, t time.Time) bool {
	return slices.ContainsFunc(k.Exposures, func(x Exposure) bool { return x.Name == name && x.Since.Before(t) })
}
