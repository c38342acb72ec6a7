package confirm

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/state"
)

// The workers of a fleet look up one after the other, each for some seconds. Those that
// have a question stand in a row, which is a document in the state bucket. While nobody
// has one, nobody reads it.
const (
	rowKey     = "confirm/turn.json"
	turnLength = 5 * time.Second
	// spare is how much longer a turn may last before it is taken away: as long as the
	// clocks of workers that know S3's differ, and some.
	spare = 3 * time.Second
	// poll is how often a worker in the row looks whether it is its turn, and pickUp how
	// long it has for that.
	poll, pickUp = time.Second, 3 * time.Second
	longestRow   = 100 // beyond which nobody gets in
	// longestCall is how long an answer of CloudTrail is waited for.
	longestCall = 10 * time.Second
	// How long to wait after a failure: when others use up CloudTrail's quota, when the
	// permission is missing, and otherwise.
	afterThrottle, afterDenial, afterFailure = 2 * time.Second, time.Minute, 5 * time.Second
)

// row is who waits for a turn.
type row struct {
	// Workers are their ids; it is the turn of the first.
	Workers []string `json:"workers"`
	// Until is when its turn is taken away, by S3's clock: it was killed.
	Until time.Time `json:"until"`
}

// Schema names the document.
func (*row) Schema() (string, int) { return "turn", 1 }

// stand puts a worker at the end of the row, unless it is in it, and reports whether it is
// its turn, which then is for as long as lasts says.
func (w *row) stand(id string, now time.Time, lasts time.Duration) (mine bool) {
	if len(w.Workers) > 0 && now.After(w.Until) {
		w.Workers, w.Until = w.Workers[1:], now.Add(pickUp)
	}
	if len(w.Workers) < longestRow && !slices.Contains(w.Workers, id) {
		w.Workers = append(w.Workers, id)
	}
	if w.Workers[0] != id {
		return false
	}
	w.Until = now.Add(lasts)
	return true
}

// leave takes a worker out of the row.
func (w *row) leave(id string, now time.Time) {
	if slices.Index(w.Workers, id) == 0 {
		w.Until = now.Add(pickUp)
	}
	w.Workers = slices.DeleteFunc(w.Workers, func(other string) bool { return other == id })
}

// takeTurn stands in the row, makes look-ups if it is our turn, and leaves. It returns
// after every try, so that whether a question still waits is looked at again.
func (r *Records) takeTurn(ctx context.Context) {
	began, mine := time.Now(), false
	draft, err := r.openRow(ctx)
	if err == nil {
		err = draft.Update(ctx, func(w *row) { mine = w.stand(r.id, r.store.Now(), turnLength+r.spacing+spare) })
	}
	switch {
	case err != nil:
		if ctx.Err() == nil && r.begins("state") {
			r.log.Warn("cannot take turns in looking up records in CloudTrail", "error", err)
		}
		sleep(ctx, afterFailure)
		return
	case !mine:
		sleep(ctx, poll)
		return
	}
	pause := r.lookUps(ctx, began.Add(turnLength))
	if sleep(ctx, time.Until(r.last.Add(r.spacing))) { // before which nobody else may begin
		// A turn that is not given up is taken away: a worker that is stopped in it, or
		// that cannot reach the bucket, costs the others seconds.
		_ = draft.Update(ctx, func(w *row) { w.leave(r.id, r.store.Now()) })
	}
	sleep(ctx, pause)
}

// openRow reads the row. One that cannot be read, and that no newer build has written, is
// begun anew.
func (r *Records) openRow(ctx context.Context) (*state.Draft[row, *row], error) {
	draft, err := state.Open[row](ctx, r.store, rowKey)
	if !errors.Is(err, state.ErrUnreadable) || errors.Is(err, state.ErrNewerSchema) {
		return draft, err
	}
	if err := r.store.Delete(ctx, rowKey, ""); err != nil {
		return nil, err
	}
	return state.Open[row](ctx, r.store, rowKey)
}

// lookUps makes look-ups while questions are due and it is our turn, and returns how long
// to wait before the next turn.
func (r *Records) lookUps(ctx context.Context, end time.Time) (pause time.Duration) {
	for sleep(ctx, time.Until(r.last.Add(r.spacing))) && time.Now().Before(end) {
		r.mu.Lock()
		l, ok := r.questions.next(time.Now())
		r.mu.Unlock()
		if !ok {
			break
		}
		r.last = time.Now()
		if pause := r.lookUp(ctx, l); pause > 0 {
			return pause
		}
	}
	return 0
}

// lookUp makes one look-up and returns how long to leave CloudTrail alone after it: 0 if
// the next may follow.
func (r *Records) lookUp(ctx context.Context, l lookup) (pause time.Duration) {
	call, cancel := context.WithTimeout(ctx, longestCall)
	defer cancel()
	var p page
	err := r.trail.Call(call, "LookupEvents", l.request(r.store.Now()), &p)
	code := errorCode(err)
	switch {
	case err == nil:
		r.settle(l, p, time.Now(), r.store.Now())
		if r.trouble != "" {
			r.trouble = ""
			r.log.Info("CloudTrail answers look-ups again")
		}
		return 0
	case ctx.Err() != nil:
		return 0
	case code == "ThrottlingException" || code == "Throttling":
		return afterThrottle // others look up, too; the question is still due
	case code == "AccessDeniedException" || code == "AccessDenied":
		if r.begins("denied") {
			r.log.Error("CloudTrail refuses look-ups: what messages claim stays unconfirmed", "fix", "grant cloudtrail:LookupEvents to the role of cmkeeper", "error", err)
		}
		return afterDenial
	case code != "InvalidLookupAttributesException" && code != "InvalidTimeRangeException":
		pause = afterFailure // else it is this one that CloudTrail does not take
	}
	if r.begins("failed") {
		r.log.Warn("cannot look up a record in CloudTrail", "by", l.attribute, "value", l.value, "error", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l.first.notFound(time.Now(), r.store.Now()) // one that always fails must keep nobody waiting
	return pause
}

// begins notes what goes wrong and reports whether that is new.
func (r *Records) begins(trouble string) bool {
	known := r.trouble == trouble
	r.trouble = trouble
	return !known
}

// errorCode is the code of an error of a service, or "".
func errorCode(err error) string {
	if e, ok := errors.AsType[interface {
		error
		ErrorCode() string
	}](err); ok {
		return e.ErrorCode()
	}
	return ""
}

// sleep waits and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}
