package sqs

import (
	"container/heap"
	"context"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const (
	// maxInFlight is how many messages of a standard queue may be in flight.
	maxInFlight = 120_000
	// maxVisibility is how long a message may stay invisible after one receive,
	// extensions included.
	maxVisibility = 12 * time.Hour
)

// queue is one queue. Its lock may be held while the service's is taken for
// reading, never the other way round.
type queue struct {
	name, arn, url string
	tag            string // opens receipt handles, so that they are this queue's only
	created        time.Time

	mu         sync.Mutex
	modified   time.Time
	attributes map[string]string // as set
	settings   settings          // what they mean
	tags       map[string]string
	purged     time.Time
	deleted    bool

	ready    fifo
	delayed  byDue
	inFlight byDue
	received map[string]*message // by id: every message that has a receipt handle
	waiting  []chan struct{}     // long polls, longest first
}

// fifo is the list of visible messages. Deleting from its middle marks the
// message as gone, which pop passes over.
type fifo struct {
	list []*message
	head int
	live int // without those gone
}

func (f *fifo) push(m *message) {
	m.place = ready
	f.list = append(f.list, m)
	f.live++
}

func (f *fifo) pop() *message {
	for f.head < len(f.list) {
		m := f.list[f.head]
		f.list[f.head] = nil
		f.head++
		if f.head > 64 && f.head > len(f.list)/2 {
			f.list = append(f.list[:0:0], f.list[f.head:]...)
			f.head = 0
		}
		if m.place != gone {
			f.live--
			return m
		}
	}
	f.list, f.head = nil, 0
	return nil
}

func (f *fifo) remove(m *message) {
	m.place = gone
	f.live--
}

// byDue is a heap of messages, the next due first.
type byDue []*message

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h byDue) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *byDue) Push(x any) {
	m := x.(*message)
	m.index = len(*h)
	*h = append(*h, m)
}
func (h *byDue) Pop() any {
	last := len(*h) - 1
	m := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return m
}

// add puts messages into the queue, each visible after its delay. It reports
// false when the queue was deleted.
func (q *queue) add(delay time.Duration, messages ...*message) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.deleted {
		return false
	}
	for _, m := range messages {
		if delay == 0 {
			q.ready.push(m)
			continue
		}
		m.place, m.due = delayed, time.Now().Add(delay)
		heap.Push(&q.delayed, m)
	}
	q.wakeOne()
	return true
}

// wakeOne wakes the poll that waits longest. A poll that was woken wakes the
// next one when it leaves, so one is enough for any number of messages.
func (q *queue) wakeOne() {
	if len(q.waiting) > 0 {
		close(q.waiting[0])
		q.waiting = slices.Delete(q.waiting, 0, 1)
	}
}

// settle makes messages visible whose delay or visibility timeout is over.
func (q *queue) settle(now time.Time) {
	for _, h := range []*byDue{&q.delayed, &q.inFlight} {
		for len(*h) > 0 && !(*h)[0].due.After(now) {
			q.ready.push(heap.Pop(h).(*message))
		}
	}
}

// nextDue returns when the next message becomes visible by time alone, or at
// the latest the limit.
func (q *queue) nextDue(limit time.Time) time.Time {
	for _, h := range []byDue{q.delayed, q.inFlight} {
		if len(h) > 0 && h[0].due.Before(limit) {
			limit = h[0].due
		}
	}
	return limit
}

// receive takes up to n messages, waiting for the first one until the wait is
// over. The messages are copies. Messages that were received too often go to the
// dead-letter queue instead, which deadLetters finds by its ARN; while there is
// none they stay.
func (q *queue) receive(ctx context.Context, n int, visibility, wait *time.Duration, deadLetters func(arn string) *queue) ([]message, *wire.Error) {
	var until time.Time
	for first := true; ; first = false {
		q.mu.Lock()
		now := time.Now()
		if first {
			until = now.Add(or(wait, q.settings.wait))
		}
		if q.deleted {
			q.mu.Unlock()
			return nil, noQueue()
		}
		select {
		case <-ctx.Done(): // nobody is there to take messages
			q.wakeOne()
			q.mu.Unlock()
			return nil, nil
		default:
		}
		q.settle(now)
		if len(q.inFlight) >= maxInFlight {
			q.mu.Unlock()
			return nil, errorf("OverLimit", "Too many messages in flight: the limit is %d.", maxInFlight)
		}
		var dlq *queue
		if q.settings.redrive != nil {
			dlq = deadLetters(q.settings.redrive.TargetARN)
		}
		taken, dead := q.take(now, n, or(visibility, q.settings.visibility), dlq != nil)
		if len(taken) > 0 || !until.After(now) {
			q.wakeOne()
			q.mu.Unlock()
			q.bury(dead, dlq)
			return taken, nil
		}
		wake := make(chan struct{})
		q.waiting = append(q.waiting, wake)
		due := q.nextDue(until)
		q.mu.Unlock()
		q.bury(dead, dlq)

		timer := time.NewTimer(due.Sub(now))
		select {
		case <-wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		q.mu.Lock()
		q.waiting = slices.DeleteFunc(q.waiting, func(w chan struct{}) bool { return w == wake })
		q.mu.Unlock()
	}
}

// take moves up to n visible messages to the in-flight heap and returns copies
// of them, and the messages that were received too often where redrive is set.
func (q *queue) take(now time.Time, n int, visibility time.Duration, redrive bool) (taken []message, dead []*message) {
	var again []*message
	for len(taken) < n && len(q.inFlight) < maxInFlight {
		m := q.ready.pop()
		if m == nil {
			break
		}
		if now.Sub(m.sent) > q.settings.retention {
			delete(q.received, m.id)
			continue
		}
		if redrive && m.receives >= q.settings.redrive.MaxReceiveCount {
			delete(q.received, m.id)
			dead = append(dead, m)
			continue
		}
		m.receives++
		m.received = now
		if m.firstReceived.IsZero() {
			m.firstReceived = now
		}
		q.received[m.id] = m
		taken = append(taken, *m)
		if visibility == 0 {
			again = append(again, m)
			continue
		}
		m.place, m.due = inFlight, now.Add(visibility)
		heap.Push(&q.inFlight, m)
	}
	for _, m := range again { // not before: one answer holds a message once
		q.ready.push(m)
	}
	return taken, dead
}

// bury moves messages to the dead-letter queue; they keep their id, sending
// time and receive count, as on a standard queue of AWS. If it was deleted a
// moment ago they come back and stay until their retention ends.
func (q *queue) bury(dead []*message, dlq *queue) {
	if len(dead) == 0 {
		return
	}
	for _, m := range dead {
		m.deadLetterSource = q.arn
	}
	if !dlq.add(0, dead...) {
		q.add(0, dead...)
	}
}

// receipt returns the receipt handle of a message as received just now.
func (q *queue) receipt(m *message) string {
	return base64.StdEncoding.EncodeToString([]byte(q.tag + m.id + strconv.Itoa(m.receives)))
}

// find returns the message of a receipt handle, and whether the handle is the
// latest one. A message that is no longer there is nil.
func (q *queue) find(handle string) (m *message, latest bool, err *wire.Error) {
	plain, decodeErr := base64.StdEncoding.DecodeString(handle)
	rest, ours := strings.CutPrefix(string(plain), q.tag)
	if decodeErr != nil || !ours || len(rest) <= uuidLength {
		return nil, false, errorf("ReceiptHandleIsInvalid", "The input receipt handle \"%s\" is not a valid receipt handle.", handle)
	}
	m = q.received[rest[:uuidLength]]
	return m, m != nil && strconv.Itoa(m.receives) == rest[uuidLength:], nil
}

const uuidLength = 36

// delete deletes the message of a receipt handle. A handle from an earlier
// receive succeeds and deletes nothing, as AWS documents for DeleteMessage; so
// does one whose message is already gone. The latest handle works even when
// its visibility timeout is over.
func (q *queue) delete(handle string) *wire.Error {
	q.mu.Lock()
	defer q.mu.Unlock()
	m, latest, err := q.find(handle)
	if err != nil || !latest {
		return err
	}
	delete(q.received, m.id)
	if m.place == ready {
		q.ready.remove(m)
	} else {
		heap.Remove(&q.inFlight, m.index)
	}
	return nil
}

// changeVisibility sets a new visibility timeout, counted from now.
func (q *queue) changeVisibility(handle string, visibility time.Duration) *wire.Error {
	q.mu.Lock()
	defer q.mu.Unlock()
	m, latest, err := q.find(handle)
	if err != nil {
		return err
	}
	if m == nil {
		return invalidValue(handle, "ReceiptHandle", "Message does not exist or is not available for visibility timeout change.")
	}
	now := time.Now()
	q.settle(now)
	if !latest || m.place != inFlight {
		return errorf("MessageNotInflight", "The specified message isn't in flight.")
	}
	// The limit is counted from the receive that the handle belongs to: AWS
	// says "from the time the message is received" without saying which of
	// several, and counting from the very first would leave no time at all to
	// who receives it twelve hours later.
	if now.Add(visibility).Sub(m.received) > maxVisibility {
		return invalidValue(int(visibility.Seconds()), "VisibilityTimeout", "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]")
	}
	if visibility == 0 {
		heap.Remove(&q.inFlight, m.index)
		q.ready.push(m)
	} else {
		m.due = now.Add(visibility)
		heap.Fix(&q.inFlight, m.index)
	}
	q.wakeOne()
	return nil
}

// purge forgets all messages.
func (q *queue) purge() *wire.Error {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if now.Sub(q.purged) < time.Minute {
		return errorf("PurgeQueueInProgress", "Only one PurgeQueue operation on %s is allowed every 60 seconds.", q.name)
	}
	q.purged = now
	q.clear()
	return nil
}

func (q *queue) clear() {
	q.ready, q.delayed, q.inFlight = fifo{}, nil, nil
	q.received = map[string]*message{}
}

func or(d *time.Duration, otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	return *d
}
