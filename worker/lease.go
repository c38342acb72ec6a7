package worker

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

const (
	// longestLease is how long SQS lets a message stay invisible in all,
	// counted from the receive.
	longestLease = 12 * time.Hour
	// slowestTick and fastestTick bound the time between two looks at the leases.
	slowestTick, fastestTick = time.Minute, 10 * time.Millisecond
)

// state is how far a message in hand has come.
type state int

const (
	handling state = iota // its handler runs, or is about to
	settling              // its handler has returned, or was abandoned; a call settles it
	deleting              // its last call, mostly a delete, is next; the lease it has must do
	lost                  // its lease was lost; nothing more is done with it
)

// delivery is one message in hand, from its receive until it is settled.
type delivery struct {
	Message
	raw      *types.Message // what a copy is made from
	received time.Time

	ctx    context.Context // the handler's
	cancel context.CancelCauseFunc

	// Guarded by the hand's mutex.
	state    state
	until    time.Time     // when the lease runs out
	renewing chan struct{} // closed when the renewal that is under way has ended; nil without one
}

func newDelivery(ctx context.Context, raw *types.Message, lease time.Duration) *delivery {
	now := time.Now()
	d := &delivery{Message: newMessage(raw), raw: raw, received: now, until: now.Add(lease)}
	d.ctx, d.cancel = context.WithCancelCause(ctx)
	return d
}

// hand holds the messages that were received and are not yet settled.
type hand struct {
	mu     sync.Mutex
	held   map[*delivery]struct{}
	empty  chan struct{} // closed when held becomes empty; nil while nobody asked
	behind int           // how many were dropped without being settled
}

func newHand() *hand { return &hand{held: map[*delivery]struct{}{}} }

func (h *hand) add(ds []*delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range ds {
		h.held[d] = struct{}{}
	}
}

// begin moves a message whose handler has returned, or never ran, on to
// settling. It returns the state that the message was in: handling when the
// caller is to settle it, lost when its lease was lost, and any other when it
// was abandoned and somebody else settles it.
func (h *hand) begin(d *delivery) state {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := d.state
	if before == handling {
		d.state = settling
	}
	return before
}

// toDelete moves a message on to deleting, after which its lease is no longer
// renewed. It reports false when the lease was lost meanwhile.
func (h *hand) toDelete(d *delivery) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.state == lost {
		return false
	}
	d.state = deleting
	return true
}

// lose marks a message's lease as lost and stops its handler. A message that
// waits for its delete is past that.
func (h *hand) lose(d *delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.state != deleting {
		d.state = lost
		d.cancel(ErrLeaseLost)
	}
}

// remove ends a message's time in hand; settled is false when it was neither
// deleted nor made visible. It reports whether the message was still held.
func (h *hand) remove(d *delivery, settled bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.drop(d, settled)
}

func (h *hand) drop(d *delivery, settled bool) bool {
	if _, ok := h.held[d]; !ok {
		return false
	}
	delete(h.held, d)
	if !settled {
		h.behind++
	}
	if len(h.held) == 0 && h.empty != nil {
		close(h.empty)
		h.empty = nil
	}
	return true
}

// emptied returns a channel that is closed once nothing is held. Nothing may be
// added after the call.
func (h *hand) emptied() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	empty := make(chan struct{})
	if len(h.held) == 0 {
		close(empty)
	} else {
		h.empty = empty
	}
	return empty
}

// abandon takes all messages from the handlers that have not returned, and
// returns those that are still ours to settle.
func (h *hand) abandon() []*delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ours []*delivery
	for d := range h.held {
		switch d.state {
		case handling:
			d.state = settling
			ours = append(ours, d)
		case lost:
			d.state = settling
			h.drop(d, true)
		case settling, deleting: // their calls are under way
		}
	}
	return ours
}

func (h *hand) leftBehind() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.behind
}

// quiet stops further renewals of a message and waits for one that is under
// way, so that it cannot undo a visibility that is set afterwards. It reports
// false when the lease was lost.
func (h *hand) quiet(d *delivery) bool {
	h.mu.Lock()
	renewing, ours := d.renewing, d.state != lost
	if ours {
		d.state = deleting
	}
	h.mu.Unlock()
	if renewing != nil {
		<-renewing
	}
	return ours
}

// lease returns when d's lease runs out.
func (h *hand) lease(d *delivery) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return d.until
}

// look goes through the leases: it gives up those that would not live to see
// the next look, and returns those that a third of the visibility timeout has
// passed for, marked as being renewed until renewed is called.
func (h *hand) look(now time.Time, visibility, tick time.Duration) (due []*delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for d := range h.held {
		if d.state != handling && d.state != settling {
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
func (h *hand) renewed(d *delivery, until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(d.renewing)
	d.renewing = nil
	if !until.IsZero() {
		d.until = until
	}
}

// renewLeases renews the leases of all messages in hand until ctx is done. It
// depends on no slot and no handler.
func (p *Pool) renewLeases(ctx context.Context) {
	var calls sync.WaitGroup
	defer calls.Wait()
	for ctx.Err() == nil {
		visibility := p.queue.Load().visibility
		tick := min(max(visibility/12, fastestTick), slowestTick)
		due := p.hand.look(time.Now(), visibility, tick)
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
// look, until the lease all but runs out.
func (p *Pool) renew(ctx context.Context, batch []*delivery, visibility time.Duration) {
	now := time.Now()
	entries := make([]types.ChangeMessageVisibilityBatchRequestEntry, len(batch))
	until := make([]time.Time, len(batch))
	first := p.hand.lease(batch[0])
	for i, d := range batch {
		lasts := renewal(d, now, visibility)
		until[i] = now.Add(lasts)
		entries[i] = types.ChangeMessageVisibilityBatchRequestEntry{
			Id:                aws.String(strconv.Itoa(i)),
			ReceiptHandle:     d.raw.ReceiptHandle,
			VisibilityTimeout: int32(lasts / time.Second),
		}
		if end := p.hand.lease(d); end.Before(first) {
			first = end
		}
	}
	ctx, cancel := context.WithDeadline(ctx, first)
	defer cancel()
	out, err := p.client.ChangeMessageVisibilityBatch(ctx, &sqs.ChangeMessageVisibilityBatchInput{
		QueueUrl: aws.String(p.options.QueueURL), Entries: entries,
	})
	if err != nil {
		if p.renewing.fails(err) {
			p.log.Warn("cannot renew leases", "error", err, "fix", advice(err))
		}
		clear(until)
	} else {
		if p.renewing.works(now) {
			p.log.Info("renewing leases again")
		}
		for _, failed := range out.Failed {
			i, err := strconv.Atoi(aws.ToString(failed.Id))
			if err != nil || i < 0 || i >= len(batch) {
				continue
			}
			until[i] = time.Time{}
			if failed.SenderFault {
				p.hand.lose(batch[i])
			}
		}
	}
	for i, d := range batch {
		p.hand.renewed(d, until[i])
	}
}
