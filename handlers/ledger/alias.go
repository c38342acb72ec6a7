package ledger

import (
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
)

// Alias is aliases/<name>.json: which keys an alias pointed to and when, which no
// event tells, and the move that is not dealt with yet. The zero value is an alias
// that nothing is known of.
type Alias struct {
	ARN string `json:"arn"`
	// History is in the order of Since.
	History []Target `json:"history"`
	// Candidate is a change that no event announced and only one sweep has seen.
	Candidate *Candidate `json:"candidate,omitempty"`
	Pending   *Move      `json:"pending,omitempty"`
	// Started is the time (Move.At) of the last move that a re-encryption was
	// started for.
	Started time.Time `json:"started,omitzero"`
}

// Schema implements state.Document.
func (*Alias) Schema() (string, int) { return "alias", 1 }

// Target is what an alias points to since a time: the alias's own LastUpdatedDate,
// or the event's time where the server omits it.
type Target struct {
	KeyARN string    `json:"key_arn"`
	Since  time.Time `json:"since"`
	// Deleted: the alias was deleted then; KeyARN is the key it had, "" if unknown.
	Deleted bool `json:"deleted,omitempty"`
	// Left: a move away from this key has been recorded.
	Left bool `json:"left,omitempty"`
}

// sameAs reports whether two targets are one, at whatever times.
func (t Target) sameAs(o Target) bool { return t.KeyARN == o.KeyARN && t.Deleted == o.Deleted }

// Candidate is a target that one sweep has seen, at SeenAt.
type Candidate struct {
	KeyARN string    `json:"key_arn"`
	SeenAt time.Time `json:"seen_at"`
}

// Move is a move that has been noticed, until a re-encryption was started or its
// alert published. It has what the alert needs, so that any worker can finish it
// after a crash.
type Move struct {
	// ID is the occurrence: the event's id, or one made up by the sweep.
	ID        string    `json:"id"`
	EventName string    `json:"event_name"`
	EventID   string    `json:"event_id"`
	EventTime time.Time `json:"event_time"`
	Actor     *Actor    `json:"actor,omitempty"`
	// From are the keys that the alias pointed to before; none if that is unknown.
	From []string  `json:"from"`
	To   string    `json:"to"`
	At   time.Time `json:"at"`
}

// MoveOf is a move that an event reported, noticed at the given time.
func MoveOf(e events.Event, at time.Time) Move {
	return Move{ID: e.ID, EventName: e.Name, EventID: e.ID, EventTime: e.Time, Actor: ActorOf(e), At: at}
}

// maxHistory is how many targets of an alias are kept.
const maxHistory = 64

// Newest returns the alias's last known target.
func (a *Alias) Newest() (Target, bool) {
	if t := newest(a.History); t != nil {
		return *t, true
	}
	return Target{}, false
}

// KnownBefore reports whether anything is known of the alias's targets before a time.
func (a *Alias) KnownBefore(t time.Time) bool {
	return slices.ContainsFunc(a.History, func(h Target) bool { return h.Since.Before(t) })
}

// Left returns the keys that moves away from were recorded for.
func (a *Alias) Left() []string {
	var keys []string
	for _, t := range a.History {
		if t.Left {
			keys = append(keys, t.KeyARN)
		}
	}
	return keys
}

// Learn inserts a target where its time puts it. Which keys are moved from does not
// depend on the order in which targets are learned: of one target several times in a
// row the first and the last time stay, since another one may turn up between them.
func (a *Alias) Learn(t Target) {
	i := len(a.History)
	for i > 0 && a.History[i-1].Since.After(t.Since) {
		i--
	}
	for _, next := range a.History[max(i-1, 0):min(i+1, len(a.History))] {
		if next.sameAs(t) && next.Since.Equal(t.Since) {
			return
		}
		t.Left = t.Left || next.Left && next.KeyARN == t.KeyARN
	}
	h := slices.Insert(a.History, i, t)
	for m := max(i-1, 1); m < min(i+2, len(h)-1); m++ {
		if h[m].sameAs(h[m-1]) && h[m].sameAs(h[m+1]) {
			h = slices.Delete(h, m, m+1)
			break
		}
	}
	a.History = last(h, maxHistory)
}

// RecordMove records a pending move to the newest target, away from every earlier
// one that none was recorded for yet. A move that is pending already becomes part
// of it. Where there is nothing to move from it does nothing. m.At is the time of
// noticing, which stands in where the move's own time is taken.
func (a *Alias) RecordMove(m Move) {
	to, ok := a.Newest()
	if !ok || to.Deleted {
		return
	}
	var from []string
	fresh := false
	add := func(key string) {
		if key != "" && key != to.KeyARN && !slices.Contains(from, key) {
			from = append(from, key)
		}
	}
	if a.Pending != nil {
		for _, key := range a.Pending.From {
			add(key)
		}
		add(a.Pending.To)
	}
	for i := range len(a.History) - 1 {
		t := &a.History[i]
		if !t.Left && t.KeyARN != "" && t.KeyARN != to.KeyARN {
			add(t.KeyARN)
			t.Left, fresh = true, true
		}
	}
	if !fresh && (a.Pending == nil || a.Pending.To == to.KeyARN) {
		return
	}
	m.From, m.To = from, to.KeyARN
	if to.Since.After(a.Started) {
		m.At = to.Since
	} // else a former key turned up after this move was started, which takes another job
	a.Pending = &m
}

// Finish ends a pending move whose alert was published; started: its re-encryption
// was started. A move that has become part of a newer one is left.
func (a *Alias) Finish(m Move, started bool) {
	if a.Pending == nil || a.Pending.ID != m.ID || a.Pending.To != m.To {
		return
	}
	a.Pending = nil
	if started {
		a.Started = m.At
	}
}

// Reconciled names what a reading of ListAliases means.
type Reconciled string

// What a reading of ListAliases means.
const (
	ReconciledFirstSeen Reconciled = "first-seen"
	ReconciledUnchanged Reconciled = "unchanged"
	ReconciledStale     Reconciled = "stale"     // something newer is known
	ReconciledCandidate Reconciled = "candidate" // seen once
	ReconciledWaiting   Reconciled = "waiting"   // seen again, too soon
	ReconciledAccepted  Reconciled = "accepted"  // two agreeing reads
)

// reconcileAfter is how far two agreeing reads must be apart.
const reconcileAfter = 10 * time.Minute

// Reconcile compares what is known with a live reading at a time that no event
// announced: the alias's ARN, its target, and when the server says that it was
// last pointed there (zero: it does not say).
func (a *Alias) Reconcile(arn, keyARN string, updated, at time.Time) Reconciled {
	since := updated
	if since.IsZero() {
		since = at
	}
	to, known := a.Newest()
	if !known {
		a.ARN = arn
		a.Learn(Target{KeyARN: keyARN, Since: since})
		return ReconciledFirstSeen
	}
	if !to.Deleted && to.KeyARN == keyARN {
		a.Candidate = nil
		return ReconciledUnchanged
	}
	if !updated.IsZero() && updated.Before(to.Since) {
		return ReconciledStale
	}
	switch c := a.Candidate; {
	case c == nil || c.KeyARN != keyARN:
		a.Candidate = &Candidate{keyARN, at}
		return ReconciledCandidate
	case at.Sub(c.SeenAt) < reconcileAfter:
		return ReconciledWaiting
	}
	a.Candidate = nil
	a.Learn(Target{KeyARN: keyARN, Since: since})
	return ReconciledAccepted
}
