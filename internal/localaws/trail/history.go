package trail

import (
	"encoding/json"
	"time"
)

// maxKept is how many records the history holds of calls that change something,
// and how many of those that only read; older ones are forgotten.
const maxKept = 10_000

// Kept is something of the history.
type Kept struct {
	// Number counts what is kept, from 1.
	Number int
	// Time is when it happened, and Visible from when on it can be looked up.
	Time, Visible time.Time

	recorder *Recorder
	call     *Call // nil for a record that was made already
	record   *Record
	body     json.RawMessage
}

// Record returns the record, without the members that any JSON may be in.
func (k *Kept) Record() Record {
	if k.call != nil {
		return k.recorder.header(k.call)
	}
	return *k.record
}

// Body returns all of the record.
func (k *Kept) Body() json.RawMessage {
	if k.call != nil {
		return k.recorder.record(k.call).body()
	}
	return k.body
}

// ring is the newest maxKept of what was put into it.
type ring struct {
	kept []Kept
	next int // where the oldest is, once the ring is full
}

func (r *ring) put(k Kept) {
	if len(r.kept) < maxKept {
		r.kept = append(r.kept, k)
		return
	}
	r.kept[r.next] = k
	r.next = (r.next + 1) % maxKept
}

// newest returns the newest of the ring but for the first n, or nil.
func (r *ring) newest(n int) *Kept {
	if n >= len(r.kept) {
		return nil
	}
	return &r.kept[(r.next+len(r.kept)-1-n)%len(r.kept)]
}

// keep puts a record into the history.
func (r *Recorder) keep(record Record, body json.RawMessage) {
	at, err := time.Parse(time.RFC3339, record.EventTime)
	if err != nil {
		at = time.Now() // of a record that somebody wrote
	}
	record.RequestParameters, record.ResponseElements, record.AdditionalEventData, record.ServiceEventDetails = nil, nil, nil, nil
	r.put(record.ReadOnly, Kept{Time: at, record: &record, body: body})
}

// keepCall puts a call into the history, whose record is made when somebody asks.
func (r *Recorder) keepCall(c *Call) {
	r.put(c.ReadOnly, Kept{Time: c.Time.Truncate(time.Second), recorder: r, call: c})
}

func (r *Recorder) put(readOnly bool, k Kept) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept++
	k.Number, k.Visible = r.kept, time.Now().Add(r.settings.LookupDelay)
	if readOnly {
		r.reading.put(k)
	} else {
		r.changes.put(k)
	}
}

// History returns what is kept, the newest first.
func (r *Recorder) History() []Kept {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Kept, 0, len(r.changes.kept)+len(r.reading.kept))
	for i, j := 0, 0; ; {
		change, read := r.changes.newest(i), r.reading.newest(j)
		switch {
		case change == nil && read == nil:
			return list
		case read == nil || change != nil && change.Number > read.Number:
			list = append(list, *change)
			i++
		default:
			list = append(list, *read)
			j++
		}
	}
}
