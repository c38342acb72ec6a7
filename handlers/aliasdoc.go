package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/state"
)

// aliasDoc is aliases/<name>.json: which keys an alias pointed to and when,
// which no event tells, and the move that is not dealt with yet.
type aliasDoc struct {
	ARN string `json:"arn"`
	// History is in the order of Since.
	History []aliasTarget `json:"history"`
	// Candidate is a change that no event announced and only one sweep has seen.
	Candidate *aliasCandidate `json:"candidate,omitempty"`
	Pending   *pendingMove    `json:"pending,omitempty"`
	// Started is the time (pendingMove.At) of the last move that a
	// re-encryption was started for.
	Started time.Time `json:"started,omitzero"`
}

// Schema implements state.Document.
func (*aliasDoc) Schema() (string, int) { return "alias", 1 }

// aliasTarget is what an alias points to since a time: the alias's own
// LastUpdatedDate, or the event's time where the server omits it.
type aliasTarget struct {
	KeyARN string    `json:"key_arn"`
	Since  time.Time `json:"since"`
	// Deleted: the alias was deleted then; KeyARN is the key it had, "" if unknown.
	Deleted bool `json:"deleted,omitempty"`
	// Left: a move away from this key has been recorded.
	Left bool `json:"left,omitempty"`
}

type aliasCandidate struct {
	KeyARN string    `json:"key_arn"`
	SeenAt time.Time `json:"seen_at"`
}

// pendingMove is a move that has been noticed, until a re-encryption was
// started or people were told. It has what the alert needs, so that whoever
// finds it after a crash can finish it.
type pendingMove struct {
	// ID is the occurrence: the event's id, or one made up by the sweep.
	ID        string       `json:"id"`
	EventName string       `json:"event_name"`
	EventID   string       `json:"event_id"`
	EventTime time.Time    `json:"event_time"`
	Actor     *alert.Actor `json:"actor,omitempty"`
	// From are the keys that the alias pointed to before; none if that is unknown.
	From []string  `json:"from"`
	To   string    `json:"to"`
	At   time.Time `json:"at"`
}

// maxHistory is how many targets of an alias are kept.
const maxHistory = 64

// newest returns the alias's last known target.
func (d *aliasDoc) newest() (aliasTarget, bool) {
	if len(d.History) == 0 {
		return aliasTarget{}, false
	}
	return d.History[len(d.History)-1], true
}

// learn inserts a target where its time puts it. What is known already changes nothing.
func (d *aliasDoc) learn(t aliasTarget) {
	i := len(d.History)
	for i > 0 && d.History[i-1].Since.After(t.Since) {
		i--
	}
	same := func(o aliasTarget) bool {
		return o.Deleted == t.Deleted && (o.KeyARN == t.KeyARN || t.Deleted && t.KeyARN == "")
	}
	if i > 0 && same(d.History[i-1]) || i < len(d.History) && same(d.History[i]) {
		return
	}
	if t.Deleted && i > 0 && (t.KeyARN == "" || t.KeyARN == d.History[i-1].KeyARN) {
		t.KeyARN, t.Left = d.History[i-1].KeyARN, d.History[i-1].Left
	}
	d.History = tail(slices.Insert(d.History, i, t), maxHistory)
}

// move records a pending move to the newest target, away from every earlier one
// that none was recorded for yet. A move that is pending already becomes part
// of it. Where there is nothing to move from it does nothing. m.At is the time
// of noticing, which stands in where the move's own time is taken.
func (d *aliasDoc) move(m pendingMove) {
	newest, ok := d.newest()
	if !ok || newest.Deleted {
		return
	}
	var from []string
	fresh := false
	add := func(key string) {
		if key != "" && key != newest.KeyARN && !slices.Contains(from, key) {
			from = append(from, key)
		}
	}
	if d.Pending != nil {
		for _, key := range d.Pending.From {
			add(key)
		}
		add(d.Pending.To)
	}
	for i := range len(d.History) - 1 {
		t := &d.History[i]
		if !t.Left && t.KeyARN != "" && t.KeyARN != newest.KeyARN {
			add(t.KeyARN)
			t.Left, fresh = true, true
		}
	}
	if !fresh && (d.Pending == nil || d.Pending.To == newest.KeyARN) {
		return
	}
	if len(from) == 0 {
		d.Pending = nil // it has come back before anything was moved
		return
	}
	m.From, m.To = from, newest.KeyARN
	if newest.Since.After(d.Started) {
		m.At = newest.Since
	} // else a former key turned up after this move was started, which takes another job
	d.Pending = &m
}

func aliasDocName(name string) string { return "aliases/" + state.Segment(name) + ".json" }

// updateAlias changes an alias's document and returns it as it then is.
func (r *Router) updateAlias(ctx context.Context, name string, change func(*aliasDoc)) (aliasDoc, error) {
	var after aliasDoc
	err := state.Update(ctx, r.state, aliasDocName(name), func(doc *aliasDoc, _ bool) error {
		return unlessSame(doc, &after, change)
	})
	if err != nil {
		return aliasDoc{}, fmt.Errorf("update document of %s: %w", name, err)
	}
	return after, nil
}

// knownAlias returns what state knows of an alias; one that it does not know is
// a zero document.
func (r *Router) knownAlias(ctx context.Context, name string) (aliasDoc, error) {
	var doc aliasDoc
	if _, err := r.state.Get(ctx, aliasDocName(name), &doc); err != nil && !errors.Is(err, state.ErrNotFound) {
		return aliasDoc{}, fmt.Errorf("read document of %s: %w", name, err)
	}
	return doc, nil
}

// reconcileReason names what a reading of ListAliases means.
type reconcileReason string

const (
	reconcileFirstSeen reconcileReason = "first-seen"
	reconcileUnchanged reconcileReason = "unchanged"
	reconcileStale     reconcileReason = "stale"     // something newer is known
	reconcileCandidate reconcileReason = "candidate" // seen once
	reconcileWaiting   reconcileReason = "waiting"   // seen again, too soon
	reconcileAccepted  reconcileReason = "accepted"  // two agreeing reads
)

// reconcileAfter is how far two agreeing reads must be apart.
const reconcileAfter = 10 * time.Minute

// reconcile compares what is known with a live reading that no event announced.
func (d *aliasDoc) reconcile(live inventory.Alias, at time.Time) reconcileReason {
	newest, known := d.newest()
	if !known {
		d.ARN = live.ARN
		d.learn(aliasTarget{KeyARN: live.TargetKeyARN, Since: sinceOr(live, at)})
		return reconcileFirstSeen
	}
	if !newest.Deleted && newest.KeyARN == live.TargetKeyARN {
		d.Candidate = nil
		return reconcileUnchanged
	}
	if !live.Updated.IsZero() && live.Updated.Before(newest.Since) {
		return reconcileStale
	}
	switch c := d.Candidate; {
	case c == nil || c.KeyARN != live.TargetKeyARN:
		d.Candidate = &aliasCandidate{live.TargetKeyARN, at}
		return reconcileCandidate
	case at.Sub(c.SeenAt) < reconcileAfter:
		return reconcileWaiting
	}
	d.Candidate = nil
	d.learn(aliasTarget{KeyARN: live.TargetKeyARN, Since: sinceOr(live, at)})
	return reconcileAccepted
}

func sinceOr(live inventory.Alias, at time.Time) time.Time {
	if live.Updated.IsZero() {
		return at
	}
	return live.Updated
}
