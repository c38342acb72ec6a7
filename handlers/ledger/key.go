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
	// ShutOut is since when we may not read the key; zero while we may.
	ShutOut time.Time `json:"shut_out,omitzero"`
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
	k.ARN, k.Description, k.ShutOut = arn, description, time.Time{}
	if k.IsContained() && keyState == StateEnabled && at.Sub(k.Contained.At) > containmentGrace {
		k.Contained.Over = at
	}
	if s := k.LastState(); s != nil && (s.State == keyState || at.Before(s.At)) {
		return // no change, or an older read than the newest fact
	}
	k.States = last(append(k.States, State{State: keyState, At: at, Accepted: accepted}), maxStates)
	if keyState == StateEnabled {
		k.Restore = nil // however it came back
		if k.IsContained() {
			k.Contained.Over = at
		}
	}
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
	k.Tags = nil
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		t := Tag{Name: name, Value: tags[name], Since: since}
		if b := where(before, func(b Tag) bool { return b.Name == t.Name && b.Value == t.Value }); b != nil {
			t.Since = b.Since
		}
		k.Tags = append(k.Tags, t)
	}
}

// NoteShutOut notes that the key, or its policy, may not be read.
func (k *Key) NoteShutOut(at time.Time) {
	if k.ShutOut.IsZero() {
		k.ShutOut = at
	}
}

// NoteCause notes who brought about the state that was read, where an event did:
// the state is the one that the event makes, and it is not from before the former one.
func (k *Key) NoteCause(e events.Event) {
	n := len(k.States)
	if n == 0 || n > 1 && k.States[n-2].At.After(e.Time) {
		return
	}
	s := &k.States[n-1]
	if e.Name == "ScheduleKeyDeletion" && IsPending(s.State) || e.Name == "DisableKey" && s.State == StateDisabled {
		s.Of = s.Of.newer(PartyOf(e))
	}
}

// StateCause is who brought about the state that an event or a sweep shows: the
// event's actor, or for a sweep the one that an earlier event named.
func (k *Key) StateCause(e events.Event) *Party {
	if !IsSweep(e) {
		return PartyOf(e)
	}
	if s := k.LastState(); s != nil {
		return s.Of
	}
	return nil
}

// NotePolicy notes a live policy as the last one that was judged, from which later
// differences are told. An older read never replaces a newer one.
func (k *Key) NotePolicy(document string, at time.Time) {
	if k.Policy == nil || !at.Before(k.Policy.At) && k.Policy.Document != document {
		k.Policy = &Policy{Document: document, At: at}
	}
}
