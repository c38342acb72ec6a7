package worker

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/cmkeeper/cmkeeper/internal/eventlog"
)

const (
	// longestLease is how long SQS lets a message stay invisible in all,
	// counted from the receive.
	longestLease = 12 * time.Hour
	// slowestTick and fastestTick bound the time between two checks of the leases.
	slowestTick, fastestTick = time.Minute, 10 * time.Millisecond
)

// state is how far a message in flight has come.
type state int

const (
	handling  state = iota // its handler runs, or is about to
	finishing              // its handler has returned, or was abandoned; a call finishes it
	deleting               // its last call, mostly a delete, is next; the lease it has must do
	lost                   // its lease was lost; nothing more is done with it
)

// delivery is one message in flight, from its receive until it is finished.
type delivery struct {
	Message
	raw      *types.Message // what a copy is made from
	received time.Time
	bytes    int64 // that it holds

	ctx    context.Context // the handler's
	cancel context.CancelCauseFunc

	// Guarded by inFlight's mutex.
	state    state
	until    time.Time     // when the lease runs out
	renewing chan struct{} // closed when the renewal that is under way has ended; nil without one
}

func newDelivery(ctx context.Context, raw *types.Message, self string, lease time.Duration) *delivery {
	now := time.Now()
	d := &delivery{Message: newMessage(raw, self), raw: raw, received: now, until: now.Add(lease)}
	d.ctx, d.cancel = context.WithCancelCause(eventlog.Begin(ctx))
	return d
}

// inFlight has the messages that were received and are not yet finished.
type inFlight struct {
	mu         sync.Mutex
	held       map[*delivery]struct{}
	empty      chan struct{} // closed when held becomes empty; nil while nobody waits
	unfinished int           // how many were removed without being finished
}

func newInFlight() *inFlight { return &inFlight{held: map[*delivery]struct{}{}} }

func (f *inFlight) add(ds []*delivery) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range ds {
		f.held[d] = struct{}{}
	}
}

// claim moves a message whose handler has returned, or never ran, on to finishing.
// It returns the state that the message was in: handling when the caller is to
// finish it, lost when its lease was lost, and any other when its handler was
// abandoned and another goroutine finishes it.
func (f *inFlight) claim(d *delivery) state {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := d.state
	if before == handling {
		d.state = finishing
	}
	return before
}

// startDelete moves a message on to deleting, after which its lease is no longer
// renewed. It reports false when the lease was lost meanwhile.
func (f *inFlight) startDelete(d *delivery) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d.state == lost {
		return false
	}
	d.state = deleting
	return true
}

// markLost marks a message's lease as lost and stops its handler. A message that
// waits for its delete is past that.
func (f *inFlight) markLost(d *delivery) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d.state != deleting {
		d.state = lost
		d.cancel(ErrLeaseLost)
	}
}

// remove removes a message; finished is false when it was neither deleted nor made
// visible. It reports whether the message was still in flight.
func (f *inFlight) remove(d *delivery, finished bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.drop(d, finished)
}

func (f *inFlight) drop(d *delivery, finished bool) bool {
	if _, ok := f.held[d]; !ok {
		return false
	}
	delete(f.held, d)
	if !finished {
		f.unfinished++
	}
	if len(f.held) == 0 && f.empty != nil {
		close(f.empty)
		f.empty = nil
	}
	return true
}

// emptied returns a channel that is closed once nothing is held. Nothing may be
// added after the call.
func (f *inFlight) emptied() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	empty := make(chan struct{})
	if len(f.held) == 0 {
		close(empty)
	} else {
		f.empty = empty
	}
	return empty
}

// abandon takes all messages from the handlers that have not returned, and
// returns those that the caller has to finish.
func (f *inFlight) abandon() []*delivery {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ours []*delivery
	for d := range f.held {
		switch d.state {
		case handling:
			d.state = finishing
			ours = append(ours, d)
		case lost:
			d.state = finishing
			f.drop(d, true)
		case finishing, deleting: // their calls are under way
		}
	}
	return ours
}

func (f *inFlight) leftUnfinished() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.unfinished
}

// stopRenewing stops further renewals of a message and waits for one that is under
// way, so that it cannot undo a visibility that is set afterwards. It reports
// false when the lease was lost.
func (f *inFlight) stopRenewing(d *delivery) bool {
	f.mu.Lock()
	renewing, held := d.renewing, d.state != lost
	if held {
		d.state = deleting
	}
	f.mu.Unlock()
	if renewing != nil {
		<-renewing
	}
	return held
}

// leaseEnd returns when d's lease runs out.
func (f *inFlight) leaseEnd(d *delivery) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return d.until
}

// due goes through the leases once a tick: it gives up those that end before the
// next tick, and returns those of which a third of the visibility timeout has
// passed, marked as being renewed until renewed is called.
func (f *inFlight) due(now time.Time, visibility, tick time.Duration) (due []*delivery) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for d := range f.held {
		if d.state != handling && d.state != finishing {
			continue
		}
		left := d.until.Sub(now)
		switch {
		case left <= tick:
			d.state = lost
			d.cancel(ErrLeaseLost)
		case d.renewing == nil && left <= visibility-visibility/3+tick && renewal(d, now, visibility) > left:
			d.renewing = make(chan struct{})
			due = append(due, d)
		}
	}
	return due
}

// renewal is how long a renewed lease lasts, counted from now: the visibility
// timeout, or what is left of the longest lease, in whole seconds.
func renewal(d *delivery, now time.Time, visibility time.Duration) time.Duration {
	// A minute less, since SQS counts from its own clock and an earlier moment.
	return min(visibility, d.received.Add(longestLease-time.Minute).Sub(now)).Truncate(time.Second)
}

// renewed ends a renewal. until is the new end of the lease, zero if it failed.
func (f *inFlight) renewed(d *delivery, until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(d.renewing)
	d.renewing = nil
	if !until.IsZero() {
		d.until = until
	}
}

// renewLeases renews the leases of all messages in flight until ctx is done. It
// waits for no slot and no handler.
func (p *Pool) renewLeases(ctx context.Context) {
	var calls sync.WaitGroup
	defer calls.Wait()
	for ctx.Err() == nil {
		visibility := p.queue.Load().visibility
		tick := min(max(visibility/12, fastestTick), slowestTick)
		due := p.inFlight.due(time.Now(), visibility, tick)
		for len(due) > 0 {
			n := min(len(due), batchSize)
			batch := due[:n]
			due = due[n:]
			calls.Go(func() { p.renew(ctx, batch, visibility) })
		}
		pause(ctx, tick)
	}
}

// renew extends the leases of up to ten messages. A lease whose receipt SQS no
// longer accepts is lost; after any other failure it is tried again at the next
// tick, until the lease has all but run out.
func (p *Pool) renew(ctx context.Context, batch []*delivery, visibility time.Duration) {
	now := time.Now()
	entries := make([]types.ChangeMessageVisibilityBatchRequestEntry, len(batch))
	until := make([]time.Time, len(batch))
	first := p.inFlight.leaseEnd(batch[0])
	for i, d := range batch {
		lasts := renewal(d, now, visibility)
		until[i] = now.Add(lasts)
		entries[i] = types.ChangeMessageVisibilityBatchRequestEntry{
			Id:                aws.String(strconv.Itoa(i)),
			ReceiptHandle:     d.raw.ReceiptHandle,
			VisibilityTimeout: int32(lasts / time.Second),
		}
		if end := p.inFlight.leaseEnd(d); end.Before(first) {
			first = end
		}
	}
	ctx, cancel := context.WithDeadline(ctx, first)
	defer cancel()
	out, err := p.client.ChangeMessageVisibilityBatch(ctx, &sqs.ChangeMessageVisibilityBatchInput{
		QueueUrl: aws.String(p.options.QueueURL), Entries: entries,
	})
	if err != nil {
		if p.renewing.failed(err) {
			p.log.Warn("cannot renew leases of messages", "error", err, "fix", advice(err))
		}
		clear(until)
	} else {
		if p.renewing.succeeded(now) {
			p.log.Info("leases of messages are renewed again")
		}
		for _, failed := range out.Failed {
			i, err := strconv.Atoi(aws.ToString(failed.Id))
			if err != nil || i < 0 || i >= len(batch) {
				continue
			}
			until[i] = time.Time{}
			if failed.SenderFault {
				p.inFlight.markLost(batch[i])
			}
		}
	}
	for i, d := range batch {
		p.inFlight.renewed(d, until[i])
	}
}
