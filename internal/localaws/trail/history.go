package trail

import (
	"encoding/json"
	"time"
)

// maxKept is how many records the history holds; older ones are forgotten.
const maxKept = 10_000

// Kept is a record of the history.
type Kept struct {
	// Number counts the records, from 1.
	Number int
	// Time is when it happened.
	Time time.Time
	// Record is the record without the members that any JSON may be in.
	Record Record
	// Body is all of it.
	Body json.RawMessage
}

// keep puts a record into the history: at once, while CloudTrail takes minutes.
func (r *Recorder) keep(record Record, body json.RawMessage) {
	at, err := time.Parse(time.RFC3339, record.EventTime)
	if err != nil {
		at = time.Now() // of a record that somebody wrote
	}
	record.RequestParameters, record.ResponseElements, record.AdditionalEventData, record.ServiceEventDetails = nil, nil, nil, nil
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept++
	k := Kept{Number: r.kept, Time: at, Record: record, Body: body}
	if len(r.history) < maxKept {
		r.history = append(r.history, k)
	} else {
		r.history[(r.kept-1)%maxKept] = k
	}
}

// History calls f with the records that are kept, the newest first, until it
// returns false. What is recorded meanwhile is not among them.
func (r *Recorder) History(f func(Kept) bool) {
	r.mu.Lock()
	newest := r.kept
	r.mu.Unlock()
	for n := newest; n > 0; n-- {
		r.mu.Lock()
		k := r.history[(n-1)%maxKept]
		r.mu.Unlock()
		if k.Number != n || !f(k) { // another number: overwritten since
			return
		}
	}
}
