package handlers

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/state"
)

// keyDoc is keys/<key-id>.json: what we know of a key from our own reads, what
// we are about to do to it, and what we did. All times are ours, taken before
// the read that they stand for: an older read never replaces a newer one.
type keyDoc struct {
	ARN         string        `json:"arn"`
	Description string        `json:"description,omitempty"`
	Aliases     []string      `json:"aliases,omitempty"`
	Rotation    rotationFacts `json:"rotation"`
	States      []seenState   `json:"states,omitempty"`
	Policy      *seenPolicy   `json:"policy,omitempty"`
	PutBacks    []putBack     `json:"put_backs,omitempty"`
	Restore     *restore      `json:"restore,omitempty"`
	Contained   *containment  `json:"contained,omitempty"`
	Calls       []ownCall     `json:"calls,omitempty"`
	Repairs     []repair      `json:"repairs,omitempty"`
	Circuits    []circuit     `json:"circuits,omitempty"` // one for each reaction that had one
	// Tags are those of the last sweep that could read them; TagsSince is when that
	// was first so, and zero while it never was.
	Tags      []seenTag `json:"tags,omitempty"`
	TagsSince time.Time `json:"tags_since,omitzero"`
	// Reminded is the ID of the last reminder of the key's end that was told.
	Reminded string `json:"reminded,omitempty"`
	// Exposures are how the key was open when that was last read, at ExposuresAt.
	Exposures   []seenExposure `json:"exposures,omitempty"`
	ExposuresAt time.Time      `json:"exposures_at,omitzero"`
	// ShutOut is since when we may not read the key; zero while we may.
	ShutOut time.Time `json:"shut_out,omitzero"`
}

// Schema implements state.Document.
func (*keyDoc) Schema() (string, int) { return "key", 1 }

// rotationFacts is what is known of a key's automatic rotation.
type rotationFacts struct {
	// Seen: the key has been rotating, by our own read or by a successful DisableKeyRotation.
	Seen bool `json:"seen,omitempty"`
	// Period in days, from the last live read that showed rotation on; 0 unknown.
	Period int `json:"period_days,omitempty"`
	// On is the last live reading and At when it was first read.
	On bool      `json:"on,omitempty"`
	At time.Time `json:"at,omitzero"`
	// OffBy is the occurrence that turned rotation off or first showed it off,
	// "" while it is on. Alerts about this state carry it, so that the event and
	// every sweep after it tell it once.
	OffBy string `json:"off_by,omitempty"`
	// Off is who turned it off, as far as an event said; nil while it is on.
	Off *party `json:"off,omitempty"`
	// Last is the last rotation that an event told of, and OnDemand are those that
	// somebody asked for.
	Last     time.Time      `json:"last,omitzero"`
	OnDemand []seenRotation `json:"on_demand,omitempty"`
}

// seenState is a change of the key's state, at the first read that showed it.
type seenState struct {
	State string    `json:"state"`
	At    time.Time `json:"at"`
	// By is the event that was told about this state, "" while nobody was.
	By string `json:"by,omitempty"`
	// Accepted: first seen in mode observe, so that Enforce leaves it alone later.
	Accepted bool `json:"accepted,omitempty"`
	// Of is who brought it about, as far as an event said.
	Of *party `json:"of,omitempty"`
	// Exempt is the exemption that it was left alone for, "" if it was not.
	Exempt string `json:"exempt,omitempty"`
}

// seenTag is a tag of the key that sweeps have found since a time. A value that
// changed is another tag.
type seenTag struct {
	Name  string    `json:"name"`
	Value string    `json:"value"`
	Since time.Time `json:"since"`
}

// party is who did something, as the event said.
type party struct {
	// Name is one readable line.
	Name string `json:"name"`
	// Principal is the ARN of the role or the user, Account its account.
	Principal string `json:"principal,omitempty"`
	Account   string `json:"account,omitempty"`
	// At is the event's time.
	At time.Time `json:"at"`
}

// partyOf is who an event says did it, nil where it does not say.
func partyOf(e events.Event) *party {
	if e.Actor == (events.Actor{}) {
		return nil
	}
	return &party{Name: e.Actor.String(), Principal: cmp.Or(e.Actor.RoleARN, e.Actor.ARN), Account: e.Actor.AccountID, At: e.Time}
}

// newer is the later one of what is known and what an event says, so that an old
// event that comes again changes nothing.
func (p *party) newer(o *party) *party {
	if p == nil || o != nil && !o.At.Before(p.At) {
		return o
	}
	return p
}

// seenPolicy is the last key policy that was judged, good or bad: differences are
// told from it. Which one is put back is in the key's Baseline.
type seenPolicy struct {
	Document string    `json:"document"`
	At       time.Time `json:"at"`
}

// restore is the intent to bring a key back to Enabled.
type restore struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// ownCall is a mutating call of ours: the intent, then its request ids.
type ownCall struct {
	Operation string    `json:"operation"`
	By        string    `json:"by"` // the occurrence that it reacts to
	At        time.Time `json:"at"`
	// RequestIDs are those of its attempts, as far as they were answered.
	RequestIDs []string `json:"request_ids,omitempty"`
	// Known: every attempt was answered, so the ids are all there are.
	Known bool `json:"known,omitempty"`
}

// repair is a setting that we put back.
type repair struct {
	Reaction string    `json:"reaction"`
	By       string    `json:"by"` // the event or sweep that it reacts to
	Alert    string    `json:"alert"`
	At       time.Time `json:"at"`
	// Against is whose doing it undid, as far as it is known.
	Against *party `json:"against,omitempty"`
	// Done: AWS confirmed the call.
	Done bool `json:"done,omitempty"`
}

// sameAs reports whether two repairs are those of one reaction to one occurrence.
func (r repair) sameAs(o repair) bool { return r.Reaction == o.Reaction && r.By == o.By }

// How much of a key's past is kept. Repairs must reach back over an hour of
// flapping, of all reactions.
const (
	maxStates  = 16
	maxCalls   = 16
	maxRepairs = 4 * MaxFlapLimit
)

// tail returns the last n elements.
func tail[E any](s []E, n int) []E { return s[max(0, len(s)-n):] }

// see notes a key as it was read at the given time, in a mode of the deletion
// reaction.
func (d *keyDoc) see(k inventory.Key, at time.Time, mode Mode) {
	d.ARN, d.Description, d.ShutOut = k.ARN, k.Description, time.Time{}
	if d.isContained() && k.State == stateEnabled && at.Sub(d.Contained.At) > containPatience {
		d.Contained.Over = at
	}
	if n := len(d.States); n > 0 && (d.States[n-1].State == k.State || at.Before(d.States[n-1].At)) {
		return // no change, or an older read than the newest fact
	}
	d.States = tail(append(d.States, seenState{State: k.State, At: at, Accepted: mode != Enforce}), maxStates)
	if k.State == stateEnabled {
		d.Restore = nil // however it came back
		if d.isContained() {
			d.Contained.Over = at
		}
	}
}

// noteTags notes the tags that a sweep read. Those of the first sweep count from
// the key's creation: nobody had a reason to set them for us.
func (d *keyDoc) noteTags(tags map[string]string, created, at time.Time) {
	since := at
	if d.TagsSince.IsZero() {
		d.TagsSince = at
		if !created.IsZero() {
			since = created.UTC().Round(0)
		}
	}
	before := d.Tags
	d.Tags = nil
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		t := seenTag{Name: name, Value: tags[name], Since: since}
		if i := slices.IndexFunc(before, func(b seenTag) bool { return b.Name == t.Name && b.Value == t.Value }); i >= 0 {
			t.Since = before[i].Since
		}
		d.Tags = append(d.Tags, t)
	}
}

// blame notes who brought about the state that was read, where it is an event's
// doing: the state is the one that it makes, and it is not from before the former one.
func (d *keyDoc) blame(e events.Event) {
	n := len(d.States)
	if n == 0 || n > 1 && d.States[n-2].At.After(e.Time) {
		return
	}
	last := &d.States[n-1]
	if e.Name == "ScheduleKeyDeletion" && isPending(last.State) || e.Name == "DisableKey" && last.State == stateDisabled {
		last.Of = last.Of.newer(partyOf(e))
	}
}

// culprit is who brought about what an event or a sweep shows of a kind: the
// event's actor where it is the event that did it, else who is known to have.
func (d *keyDoc) culprit(kind alert.Kind, e events.Event) *party {
	switch {
	case kind == alert.KindRotation && e.Name != opDisableRotation && (d.Rotation.Off != nil || e.Name != opEnableRotation):
		return d.Rotation.Off
	case kind == alert.KindDeletion && isSweep(e):
		if n := len(d.States); n > 0 {
			return d.States[n-1].Of
		}
		return nil
	}
	return partyOf(e)
}

// see notes a live reading of the rotation status; by is the occurrence that
// made us look.
func (f *rotationFacts) see(s inventory.Rotation, at time.Time, by string) {
	if at.Before(f.At) {
		return
	}
	if s.Enabled != f.On || f.At.IsZero() {
		f.On, f.At = s.Enabled, at
	}
	if !s.Enabled {
		if f.OffBy == "" {
			f.OffBy = by
		}
		return
	}
	f.Seen, f.OffBy, f.Off = true, "", nil
	if s.Period > 0 {
		f.Period = s.Period
	}
}

// outdates reports whether rotation was seen on later than a reading that shows it
// off: two events are handled at a time, and one of them has waited since it read.
func (f *rotationFacts) outdates(s inventory.Rotation, at time.Time) bool {
	return !s.Enabled && f.On && at.Before(f.At)
}

// intend notes a call that is about to be made and, for the first call of a
// reaction to an occurrence, the repair that it belongs to.
func (d *keyDoc) intend(operation string, rep repair) {
	same := func(c ownCall) bool { return c.Operation == operation && c.By == rep.By && !c.Known }
	if !slices.ContainsFunc(d.Calls, same) {
		d.Calls = tail(append(d.Calls, ownCall{Operation: operation, By: rep.By, At: rep.At}), maxCalls)
	}
	switch earlier := d.repairOf(rep.Reaction, rep.By); {
	case earlier == nil:
		d.Repairs = tail(append(d.Repairs, rep), maxRepairs)
	case earlier.Done && earlier.At.Before(rep.At):
		*earlier = rep // the event came twice, and the setting was changed again in between
	}
}

// answered notes what became of a call: its request ids, or that it was refused
// and so never happened.
func (d *keyDoc) answered(operation string, rep repair, ids []string, known, refused bool) {
	open := slices.IndexFunc(d.Calls, func(c ownCall) bool { return c.Operation == operation && c.By == rep.By && !c.Known })
	switch {
	case refused && open >= 0:
		d.Calls = slices.Delete(d.Calls, open, open+1)
	case refused:
	case open >= 0:
		d.Calls[open].RequestIDs, d.Calls[open].Known = ids, known
	default:
		// Two workers had the same event: the other one's answer took the intent.
		d.Calls = tail(append(d.Calls, ownCall{Operation: operation, By: rep.By, At: rep.At, RequestIDs: ids, Known: known}), maxCalls)
	}
	i := slices.IndexFunc(d.Repairs, rep.sameAs)
	switch {
	case i < 0:
	case !refused:
		d.Repairs[i].Done = true
	case !d.Repairs[i].Done:
		d.Repairs = slices.Delete(d.Repairs, i, i+1)
	}
}

// repairOf returns the repair that a reaction made for an occurrence, or nil.
func (d *keyDoc) repairOf(reaction, by string) *repair {
	i := slices.IndexFunc(d.Repairs, repair{Reaction: reaction, By: by}.sameAs)
	if i < 0 {
		return nil
	}
	return &d.Repairs[i]
}

// repairsSince returns the repairs of a reaction since t that were made for
// other occurrences than by.
func (d *keyDoc) repairsSince(reaction, by string, t time.Time) []repair {
	var found []repair
	for _, r := range d.Repairs {
		if r.Reaction == reaction && r.By != by && !r.At.Before(t) {
			found = append(found, r)
		}
	}
	return found
}

// keyID returns the id in a key ARN.
func keyID(arn string) string {
	_, id, _ := strings.Cut(arn, ":key/")
	return id
}

func keyDocName(arn string) string { return "keys/" + state.Segment(keyID(arn)) + ".json" }

// updateKey changes a key's document and returns it as it then is. change must
// be safe to apply twice.
func (r *Router) updateKey(ctx context.Context, arn string, change func(*keyDoc)) (keyDoc, error) {
	var after keyDoc
	err := state.Update(ctx, r.state, keyDocName(arn), func(doc *keyDoc, _ bool) error {
		return unlessSame(doc, &after, change)
	})
	if err != nil {
		return keyDoc{}, fmt.Errorf("update document of key %s: %w", arn, err)
	}
	return after, nil
}

// unlessSame applies change to doc, copies the result to after, and returns
// state.ErrUnchanged where change left the document as it was.
func unlessSame[T any](doc, after *T, change func(*T)) error {
	before, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	change(doc)
	*after = *doc
	now, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	if bytes.Equal(before, now) {
		return state.ErrUnchanged
	}
	return nil
}

// knownKey returns what state knows of a key; a key that it does not know is a
// zero document.
func (r *Router) knownKey(ctx context.Context, arn string) (keyDoc, error) {
	var doc keyDoc
	if _, err := r.state.Get(ctx, keyDocName(arn), &doc); err != nil && !errors.Is(err, state.ErrNotFound) {
		return keyDoc{}, fmt.Errorf("read document of key %s: %w", arn, err)
	}
	return doc, nil
}
