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
	// GoneTold is the ID of the alert that the alias was deleted, where that is the last thing
	// that is known of it.
	GoneTold string `json:"gone_told,omitempty"`
	// Candidate is a change that no event announced and only one sweep has seen.
	Candidate *Candidate `json:"candidate,omitempty"`
	Pending   *Move      `json:"pending,omitempty"`
	// Started is the time (Move.At) of the last move that a re-encryption was
	// started for.
	Started time.Time `json:"started,omitzero"`
	// Starts are when the last re-encryptions were started.
	Starts []time.Time `json:"starts,omitempty"`
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
	// Known: it was read live, or CloudTrail's record shows it. Data is moved from no
	// other key: what an earlier build noted may be what a message claimed.
	Known bool `json:"verified,omitempty"`
}

// sameAs reports whether two targets are one, at whatever times.
func (t Target) sameAs(o Target) bool { return t.KeyARN == o.KeyARN && t.Deleted == o.Deleted }

// Candidate is a target that one sweep has seen, at SeenAt. No key: the alias was not there,
// and that is not told.
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
	return Move{ID: e.ID, EventName: e.Name, EventID: events.Occurrence(e.ID), EventTime: e.Time, Actor: ActorOf(e), At: at}
}

// maxHistory is how many targets of an alias are kept.
const maxHistory = 64

// Newest returns the alias's last target: of those that are Known, else of all.
func (a *Alias) Newest() (Target, bool) {
	i := a.newest()
	if i < 0 {
		return Target{}, false
	}
	return a.History[i], true
}

// newest is where Newest is, -1 for nowhere.
func (a *Alias) newest() int {
	for i, t := range slices.Backward(a.History) {
		if t.Known {
			return i
		}
	}
	return len(a.History) - 1
}

// KnownBefore reports whether anything is, or was, known of the alias's targets before a
// time.
func (a *Alias) KnownBefore(t time.Time) bool {
	return len(a.History) == maxHistory || slices.ContainsFunc(a.History, func(h Target) bool { return h.Known && h.Since.Before(t) })
}

// Keys returns the keys that the alias is known to have had.
func (a *Alias) Keys() []string {
	var keys []string
	for _, t := range a.History {
		if t.Known {
			keys = append(keys, t.KeyARN)
		}
	}
	return keys
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
	for n := max(i-1, 0); n < min(i+1, len(a.History)); n++ {
		next := &a.History[n]
		if next.sameAs(t) && next.Since.Equal(t.Since) {
			next.Known = next.Known || t.Known
			return
		}
		t.Left = t.Left || next.Left && next.KeyARN == t.KeyARN
	}
	h := slices.Insert(a.History, i, t)
	for m := max(i-1, 1); m < min(i+2, len(h)-1); m++ {
		if h[m].sameAs(h[m-1]) && h[m].sameAs(h[m+1]) {
			h[m-1].Known = h[m-1].Known || h[m].Known
			h = slices.Delete(h, m, m+1)
			break
		}
	}
	a.History = last(h, maxHistory)
}

// RecordMove records a pending move to the newest target, away from every earlier
// one that none was recorded for yet. A move that is pending already becomes part
// of it. Where there is nothing to move from it does nothing; where that is not Known,
// the move has no old keys. m.At is the time of noticing, which stands in where the
// move's own time is taken.
func (a *Alias) RecordMove(m Move) {
	end := a.newest()
	if end < 0 || a.History[end].Deleted {
		return
	}
	to := a.History[end]
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
	for i := range end {
		t := &a.History[i]
		if t.Left || t.KeyARN == "" || t.KeyARN == to.KeyARN {
			continue
		}
		if t.Known {
			add(t.KeyARN)
		}
		t.Left, fresh = true, true
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

// Finish ends a pending move whose alert was published; started is when its
// re-encryption was started, the zero time for not at all. A move that has become part of
// a newer one is left.
func (a *Alias) Finish(m Move, started time.Time) {
	if a.Pending == nil || a.Pending.ID != m.ID || a.Pending.To != m.To {
		return
	}
	a.Pending = nil
	if !started.IsZero() {
		a.Started = m.At
		a.Starts = last(append(a.Starts, started), maxStarts)
	}
}

// How many re-encryptions an alias starts within a time. What moves more often than that
// is joined to one: each job looks at all the data.
const (
	maxStarts   = 3
	startWindow = 10 * time.Minute
)

// Resting is how long the next re-encryption has to wait at a time, because so many were
// started; 0 for not at all.
func (a *Alias) Resting(at time.Time) time.Duration {
	if len(a.Starts) < maxStarts {
		return 0
	}
	return max(0, startWindow-at.Sub(a.Starts[len(a.Starts)-maxStarts]))
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

// farFuture is later than any clock of ours is slow.
const farFuture = 24 * time.Hour

// Reconcile compares what is known with a live reading at a time that no event
// announced: the alias's ARN, its target, and when the server says that it was
// last pointed there (zero: it does not say).
func (a *Alias) Reconcile(arn, keyARN string, updated, at time.Time) Reconciled {
	since := updated
	if since.IsZero() {
		since = at
	}
	// An earlier build believed messages from the future.
	a.History = slices.DeleteFunc(a.History, func(t Target) bool { return t.Since.Sub(at) > farFuture })
	if t := newest(a.History); t != nil && !t.Deleted && t.KeyARN == keyARN {
		t.Known, a.Candidate = true, nil
		return ReconciledUnchanged
	}
	to, known := a.Newest()
	if !known {
		a.ARN = arn
		a.Learn(Target{KeyARN: keyARN, Since: since, Known: true})
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
	a.Learn(Target{KeyARN: keyARN, Since: since, Known: true})
	return ReconciledAccepted
}

// Missing compares what is known with a reading of ListAliases at a time, which does not have
// the alias, and which no event announced. It reports whether two such readings agree, and
// nobody was told.
func (a *Alias) Missing(at time.Time) bool {
	to, known := a.Newest()
	c := a.Candidate
	missed := c != nil && c.KeyARN == ""
	switch {
	case !known:
		return false
	case to.Deleted:
		return missed && a.GoneTold == ""
	case !missed:
		a.Candidate = &Candidate{SeenAt: at}
		return false
	case at.Sub(c.SeenAt) < reconcileAfter:
		return false
	}
	a.GoneTold = "" // it may be of an earlier deletion
	a.Learn(Target{KeyARN: to.KeyARN, Since: at, Deleted: true, Known: true})
	return true
}

// TellGone notes that the alert with the ID has told that the alias was deleted.
func (a *Alias) TellGone(id string) {
	a.GoneTold = id
	if a.Candidate != nil && a.Candidate.KeyARN == "" {
		a.Candidate = nil
	}
}

// Waits reports whether a move of the alias is not dealt with, or not certain.
func (a *Alias) Waits() bool { return a.Pending != nil || a.Candidate != nil }
