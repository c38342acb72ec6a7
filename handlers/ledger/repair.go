package ledger

import (
	"slices"
	"time"
)

// Call is a mutating call of ours: the intent, then its request ids.
type Call struct {
	Operation string    `json:"operation"`
	By        string    `json:"by"` // the occurrence that it reacts to
	At        time.Time `json:"at"`
	// RequestIDs are those of its attempts, as far as they were answered.
	RequestIDs []string `json:"request_ids,omitempty"`
	// Known: every attempt was answered, so the ids are all there are.
	Known bool `json:"known,omitempty"`
}

// Repair is a setting that the fleet put back.
type Repair struct {
	Reaction string    `json:"reaction"`
	By       string    `json:"by"` // the event or sweep that it reacts to
	Alert    string    `json:"alert"`
	At       time.Time `json:"at"`
	// Against is whose change it undid, as far as that is known.
	Against *Party `json:"against,omitempty"`
	// Done: AWS confirmed the call.
	Done bool `json:"done,omitempty"`
}

// sameAs reports whether two repairs are those of one reaction to one occurrence.
func (r Repair) sameAs(o Repair) bool { return r.Reaction == o.Reaction && r.By == o.By }

// How much of a key's past is kept. Repairs must reach back over the window of the
// circuit breaker, of all reactions.
const (
	maxCalls   = 16
	maxRepairs = 4 * MaxFlapLimit
)

// Intend notes a call that is about to be made and, for the first call of a
// reaction to an occurrence, the repair that it belongs to.
func (k *Key) Intend(operation string, r Repair) {
	if k.openCall(operation, r.By) == nil {
		k.Calls = last(append(k.Calls, Call{Operation: operation, By: r.By, At: r.At}), maxCalls)
	}
	switch earlier := k.RepairOf(r.Reaction, r.By); {
	case earlier == nil:
		k.Repairs = last(append(k.Repairs, r), maxRepairs)
	case earlier.Done && earlier.At.Before(r.At):
		*earlier = r // the event came twice, and the setting was changed again in between
	}
}

// openCall is the intent of a call that was not answered yet, nil for none.
func (k *Key) openCall(operation, by string) *Call {
	return where(k.Calls, func(c Call) bool { return c.Operation == operation && c.By == by && !c.Known })
}

// Confirm notes the request ids of a call that AWS confirmed; known: every attempt
// of it was answered.
func (k *Key) Confirm(operation string, r Repair, ids []string, known bool) {
	if c := k.openCall(operation, r.By); c != nil {
		c.RequestIDs, c.Known = ids, known
	} else { // two workers had the same event: the other one's answer took the intent
		k.Calls = last(append(k.Calls, Call{Operation: operation, By: r.By, At: r.At, RequestIDs: ids, Known: known}), maxCalls)
	}
	if mine := k.RepairOf(r.Reaction, r.By); mine != nil {
		mine.Done = true
	}
}

// Refuse notes that AWS refused a call, so that it never happened.
func (k *Key) Refuse(operation string, r Repair) {
	if i := slices.IndexFunc(k.Calls, func(c Call) bool { return c.Operation == operation && c.By == r.By && !c.Known }); i >= 0 {
		k.Calls = slices.Delete(k.Calls, i, i+1)
	}
	if i := slices.IndexFunc(k.Repairs, r.sameAs); i >= 0 && !k.Repairs[i].Done {
		k.Repairs = slices.Delete(k.Repairs, i, i+1)
	}
}

// RepairOf returns the repair that a reaction made for an occurrence, or nil.
func (k *Key) RepairOf(reaction, by string) *Repair {
	return where(k.Repairs, Repair{Reaction: reaction, By: by}.sameAs)
}

// RepairsSince returns the repairs of a reaction since t that were made for other
// occurrences than by.
func (k *Key) RepairsSince(reaction, by string, t time.Time) []Repair {
	var found []Repair
	for _, r := range k.Repairs {
		if r.Reaction == reaction && r.By != by && !r.At.Before(t) {
			found = append(found, r)
		}
	}
	return found
}
