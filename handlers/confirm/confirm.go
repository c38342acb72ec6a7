// Package confirm asks CloudTrail whether the record that a message claims to be exists.
//
// A message is a claim of its sender. The record that CloudTrail itself shows
// is knowledge, but it comes minutes after the call, and everybody in the account and
// Region together may ask for two a second. So questions are noted and answered later:
// the handler of a message asks [Records.Record] each time that the message comes back, and
// one goroutine, [Records.Run], makes the look-ups.
//
// A sender of messages can ask as much as it likes, about any key, in any name. So the
// look-ups are shared out (questions.go), and most of them answer many questions at
// once (lookup.go). The workers of a fleet take turns (turn.go), so that they do not ask
// more often together than one of them may.
package confirm

import (
	"cmp"
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/state"
)

// Trail is CloudTrail. Call calls an operation of its API: in is encoded as JSON, and the
// answer decoded into out. An error of the service has a method ErrorCode. Call must not
// repeat a call that failed: each repetition would be a look-up more than
// Config.PerSecond says.
type Trail interface {
	Call(ctx context.Context, operation string, in, out any) error
}

// Question is about one claimed record. Every member is what a message says, so none of
// them is trusted: a wrong one makes the look-up find nothing, or takes a share from
// others that name the same, and no more.
type Question struct {
	// EventID is CloudTrail's eventID, a UUID; anything else is never looked up. (It is
	// not the sharedEventID, by which CloudTrail finds nothing.)
	EventID string
	// Name is the event's name (UpdateAlias), for look-ups that answer questions about
	// many keys at once; "" does without. It should be one of the few that the caller
	// acts upon: the more names are asked about, the longer each of them waits.
	Name string
	// Resource is the key's ARN, or "" if the message names none.
	Resource string
	// Actor is who called. It only shares out the look-ups.
	Actor string
	// Time is the eventTime. It says where to look for many records at once, and how
	// long to go on: a record that is not there half an hour after the call will hardly
	// come.
	Time time.Time
}

// Config is how Records asks.
type Config struct {
	// PerSecond is how many look-ups the whole fleet makes in a second, of the two that
	// CloudTrail takes from everybody in the account and Region; 0 means 1.
	PerSecond float64
}

// Records are the records that CloudTrail was seen to have, and the questions about
// others. It is safe for concurrent use. Its memory is bounded, whatever is asked: 4,096
// questions of less than 1 KiB, and records of 8 MiB.
type Records struct {
	id      string // this worker's in the row
	trail   Trail
	store   *state.Store
	log     *slog.Logger
	spacing time.Duration // between the starts of two look-ups
	wake    chan struct{} // has a value when a question came

	// Of Run alone: when the last look-up began, and what was logged to go wrong.
	last    time.Time
	trouble string

	mu        sync.Mutex
	questions *questions
	found     records
}

// New returns Records without questions, which nobody looks up until Run is called. The
// workers that share the store share PerSecond, too. A nil logger discards.
func New(trail Trail, store *state.Store, c Config, logger *slog.Logger) *Records {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	perSecond := max(cmp.Or(c.PerSecond, 1), 1/time.Hour.Seconds()) // less would overflow
	return &Records{
		id: rand.Text(), trail: trail, store: store, log: logger,
		spacing:   time.Duration(float64(time.Second) / perSecond),
		wake:      make(chan struct{}, 1),
		questions: newQuestions(), found: records{byID: map[string][]byte{}},
	}
}

// Record returns the record with the question's EventID, as JSON, if CloudTrail was seen
// to have it; the caller must not change it. Otherwise it notes the question, for Run to
// look up, and returns false. It never waits for the network.
//
// The record has that eventID, and nothing else of it was compared: what account, Region,
// key and caller it names is for the caller to judge, who uses the record and nothing
// of the message.
//
// A question that nobody has asked for ten minutes is forgotten, as is one of many when
// there is no room: ask again whenever the message comes back.
func (r *Records) Record(q Question) (record []byte, ok bool) {
	if !isUUID(q.EventID) {
		return nil, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if record, ok := r.found.byID[q.EventID]; ok {
		return record, true
	}
	if r.questions.ask(q, time.Now(), r.store.Now()) {
		select {
		case r.wake <- struct{}{}:
		default: // there is one already
		}
	}
	return nil, false
}

// Busy reports whether a question waits for a look-up that could be made now. A
// look-up that only informs people yields to it.
func (r *Records) Busy() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	wait, any := r.questions.wait(time.Now())
	return any && wait <= 0
}

// Run looks up until ctx ends, and returns nil then. It makes no request while no
// question waits. What goes wrong is logged once and tried again until it works; the
// questions stay unanswered meanwhile. Call it once.
func (r *Records) Run(ctx context.Context) error {
	for r.untilDue(ctx) {
		r.takeTurn(ctx)
	}
	return nil
}

// untilDue waits for a question to look up; false says that ctx has ended.
func (r *Records) untilDue(ctx context.Context) bool {
	for ctx.Err() == nil {
		r.mu.Lock()
		wait, any := r.questions.wait(time.Now())
		r.mu.Unlock()
		var timer <-chan time.Time // never, without questions
		switch {
		case any && wait <= 0:
			return true
		case any:
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-r.wake:
		case <-timer:
		}
	}
	return false
}

// maxBytes and maxRecords bound the records that are kept.
const (
	maxBytes   = 8 << 20
	maxRecords = 4096
)

// records are those that were found, the newest that there is room for.
type records struct {
	byID  map[string][]byte
	order []string // of their finding
	bytes int
}

func (r *records) put(id, record string) {
	if _, ok := r.byID[id]; ok || len(record) > maxBytes {
		return
	}
	r.byID[id], r.order, r.bytes = []byte(record), append(r.order, id), r.bytes+len(record)
	for r.bytes > maxBytes || len(r.order) > maxRecords {
		r.bytes -= len(r.byID[r.order[0]])
		delete(r.byID, r.order[0])
		r.order = r.order[1:]
	}
}

// isUUID reports whether the text is a UUID, in hexadecimal digits and hyphens.
func isUUID(text string) bool {
	if len(text) != 36 {
		return false
	}
	for i := range len(text) {
		switch c := text[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F'):
			return false
		}
	}
	return true
}
