// Package worker runs handlers over the messages of one SQS queue.
//
// A [Pool] takes free slots before it receives, so that no message ever waits
// without its lease being renewed; it renews the lease (the visibility timeout) of
// all messages in flight; and it finishes each message as the error says that its
// handler returned, which package outcome defines:
//
//   - nil: the message is deleted, in batches.
//   - [outcome.RetryAfter]: a copy is sent with that delay, then the original
//     is deleted, so that an expected wait never spends the receive count. A
//     copy also renews the queue's retention; a message that has waited longer
//     than the retention in all is treated as rejected, never silently dropped.
//   - [outcome.Reject]: the message is sent to the dead-letter queue that the
//     queue's redrive policy names, with the reason as attributes, then deleted.
//   - Any other error, and a panic: the message becomes visible again after
//     [outcome.Backoff] of its receive count; the redrive policy ends it.
//
// A message is deleted only after its handler returned nil or after a copy of
// it was accepted elsewhere. Where a copy cannot be sent, the message is
// retried. SQS delivers at least once, and a crash between a copy and the
// delete leaves both, so handlers must be idempotent.
//
// # Losing a lease
//
// When a lease cannot be renewed (the receipt is no longer valid, or renewals
// failed until it had all but run out) the handler's context is cancelled with the
// cause [ErrLeaseLost], and nothing more is done with the message: another worker
// may have it. SQS ends every lease twelve hours after the receive; a
// handler that is still running shortly before is cancelled in the same way,
// so a hung message spends its receive count and ends in the dead-letter queue.
//
// # Stopping
//
// When the context of [Pool.Run] is done, receiving stops and running handlers
// get the drain timeout. Then their contexts are cancelled with the cause
// [ErrDraining], and what does not finish on its own within a second is handed
// back: a copy is sent and the original deleted, so that another worker has it
// at once and no receive is spent; if that fails, the message is made visible.
//
// A long poll that is open at that moment is left to end by itself, within the
// same drain timeout: SQS does not notice an aborted poll at once and may hand
// a message to it, which then stays invisible for a whole visibility timeout.
// A message that arrives meanwhile is handed back. A pool with nothing to do
// therefore takes up to Options.WaitTime to stop. Where the drain timeout leaves no time
// for that, what goes back to the queue stays invisible for two seconds, so that an
// aborted poll of the same pool does not get it.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// The causes with which a handler's context is cancelled; read them with
// context.Cause.
var (
	// ErrLeaseLost: the message may be with another worker already. Stop at
	// once; whatever the handler returns is ignored.
	ErrLeaseLost = errors.New("the lease on the message was lost")
	// ErrDraining: the process is stopping. Return soon; an error hands the
	// message back unspent, every other outcome counts as usual.
	ErrDraining = errors.New("the worker is stopping")
)

const (
	batchSize   = 10               // SQS takes and gives at most ten messages a call
	longestPoll = 20 * time.Second // the longest WaitTimeSeconds that SQS takes
	// pollTime is how long a poll waits as a rule. An idle pool takes as long to stop, and
	// Docker kills after ten seconds; see docs/decisions/open-polls.md.
	pollTime = 8 * time.Second
	// linger is how long a poller that has a slot waits for further ones, so
	// that quick handlers do not turn batches of ten into calls for one.
	linger = 5 * time.Millisecond
	// pollMargin is how much longer than its wait time a poll may take before
	// its connection counts as dead.
	pollMargin = 15 * time.Second
	// callTimeout bounds the calls that finish a message, retries included.
	callTimeout = 30 * time.Second
	// unwindTime is what cancelled handlers get to return by themselves.
	unwindTime = time.Second
	// finishTime bounds handing back and deleting at the very end: the default drain
	// timeout and all that follows fit into the 30 seconds that ECS gives a task.
	finishTime = 4 * time.Second
)

// Message is what a handler works on.
type Message struct {
	// ID is the message id that SQS gave; a copy has a new one.
	ID string
	// Body is the message's text, as sent. It is data from outside.
	Body string
	// Attributes are the message attributes with string values (data types
	// String and Number); nil where there are none.
	Attributes map[string]string
	// ReceiveCount says how often the message was received, this time included.
	ReceiveCount int
	// Sent is when the message was first sent: the time of the original where
	// this is a copy that waited or was handed back. Zero when unknown.
	Sent time.Time
	// Sender is SQS's SenderId of who sent the message, or the original of a copy that a
	// Pool made; "" when unknown.
	Sender string
}

// Handler reacts to messages.
type Handler interface {
	// Handle reacts to one message. Its error says what happens to the message
	// next; see package outcome. It is called from several goroutines at once,
	// and must return soon after ctx is cancelled, whose cause is then
	// ErrLeaseLost or ErrDraining.
	Handle(ctx context.Context, m Message) error
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(ctx context.Context, m Message) error

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, m Message) error { return f(ctx, m) }

// SQS is what a Pool needs of the SDK's SQS client.
type SQS interface {
	GetQueueUrl(context.Context, *sqs.GetQueueUrlInput, ...func(*sqs.Options)) (*sqs.GetQueueUrlOutput, error)
	GetQueueAttributes(context.Context, *sqs.GetQueueAttributesInput, ...func(*sqs.Options)) (*sqs.GetQueueAttributesOutput, error)
	ReceiveMessage(context.Context, *sqs.ReceiveMessageInput, ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error)
	ChangeMessageVisibilityBatch(context.Context, *sqs.ChangeMessageVisibilityBatchInput, ...func(*sqs.Options)) (*sqs.ChangeMessageVisibilityBatchOutput, error)
	SendMessage(context.Context, *sqs.SendMessageInput, ...func(*sqs.Options)) (*sqs.SendMessageOutput, error)
	DeleteMessageBatch(context.Context, *sqs.DeleteMessageBatchInput, ...func(*sqs.Options)) (*sqs.DeleteMessageBatchOutput, error)
}

// Options configure a Pool. Concurrency and one of QueueURL and Queue are required.
type Options struct {
	// QueueURL is the queue to work on: a standard queue with a redrive policy.
	QueueURL string
	// Queue is what CheckQueue found, where the caller has called it already: it
	// takes the place of QueueURL. With nil, New calls CheckQueue.
	Queue *Queue
	// Concurrency is how many messages are handled at once at most, those on
	// their way to a handler included; at least 1. One poll runs for each ten. The
	// bodies of all messages in flight have 16 MiB at most, so that fewer are
	// received where they are large.
	Concurrency int
	// DrainTimeout is what running handlers and open polls get to finish after
	// Run's context is done; zero cancels them at once. Run returns at most five
	// seconds later.
	DrainTimeout time.Duration
	// Sender is the unique id of the role or user that the process runs as (the UserId of
	// STS GetCallerIdentity, a session's name included or not): only a copy that it sent is
	// believed when the original was sent, and by whom. "": everybody's is.
	Sender string
	// Late is how long a message may wait before it is first received, for Pool.Sight; 0:
	// however long.
	Late time.Duration
	// WaitTime is how long a poll waits for messages, in whole seconds, at most
	// 20 s; zero means 8 s. It is less where a DrainTimeout of two seconds
	// or more would be over before the poll.
	WaitTime time.Duration
	// Logger gets one record per message, with its handler's context (see package
	// eventlog), and one per change of the queue's health; nil discards them.
	Logger *slog.Logger
	// Handled, if set, is called once for each message whose handling has ended, with the
	// context of its handler: outcome is delete, delay, retry, dead-letter, lease-lost or
	// handed-back. It is called from several goroutines.
	Handled func(ctx context.Context, outcome string)
	// InFlight, if set, is called with each change of the number of messages in
	// flight, from several goroutines; see Protection.
	InFlight func(delta int)
}

// Pool works on one queue. It is made by New and runs once.
type Pool struct {
	client  SQS
	handler Handler
	options Options
	log     *slog.Logger

	queue    atomic.Pointer[Queue]
	slots    *slots
	bodies   *bodies
	inFlight *inFlight
	deletes  chan *delivery

	receiving, renewing, deleting condition
	watch                         watch

	// pollsAborted: polls were aborted that SQS may still take for open.
	pollsAborted atomic.Bool

	running   atomic.Bool
	ready     chan struct{}
	readyOnce sync.Once
}

// New checks the queue and returns a Pool for it; nothing is received yet.
//
// It fails when an option is missing or out of range, and as [CheckQueue] does.
func New(ctx context.Context, client SQS, h Handler, o Options) (*Pool, error) {
	if o.Queue != nil {
		o.QueueURL = o.Queue.URL
	}
	var problems []error
	if o.QueueURL == "" {
		problems = append(problems, errors.New("no queue URL"))
	}
	if o.Concurrency < 1 {
		problems = append(problems, fmt.Errorf("concurrency %d is below 1", o.Concurrency))
	}
	if o.DrainTimeout < 0 {
		problems = append(problems, fmt.Errorf("drain timeout %s is negative", o.DrainTimeout))
	}
	if o.WaitTime < 0 || o.WaitTime > longestPoll || o.WaitTime%time.Second != 0 {
		problems = append(problems, fmt.Errorf("wait time %s is not in whole seconds up to %s", o.WaitTime, longestPoll))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("configure worker: %w", err)
	}
	if o.WaitTime == 0 {
		o.WaitTime = pollTime
	}
	if o.DrainTimeout >= 2*time.Second { // so that an open poll is over before
		o.WaitTime = min(o.WaitTime, (o.DrainTimeout - 1).Truncate(time.Second))
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.InFlight == nil {
		o.InFlight = func(int) {}
	}
	if o.Handled == nil {
		o.Handled = func(context.Context, string) {}
	}
	q := o.Queue
	if q == nil {
		var err error
		if q, err = CheckQueue(ctx, client, o.QueueURL); err != nil {
			return nil, err
		}
	}
	p := &Pool{
		client:   client,
		handler:  h,
		options:  o,
		log:      o.Logger.With("queue", q.Name),
		slots:    newSlots(o.Concurrency),
		bodies:   newBodies(),
		inFlight: newInFlight(),
		deletes:  make(chan *delivery),
		ready:    make(chan struct{}),
	}
	p.queue.Store(q)
	return p, nil
}

// Ready returns a channel that is closed when receiving has begun.
func (p *Pool) Ready() <-chan struct{} { return p.ready }

// Run receives and handles messages until ctx is done, then drains as the
// package describes, and returns when every message in flight is finished. Values
// of ctx reach the handlers; its cancellation does not.
//
// It returns nil after a complete drain, and an error that says how many
// messages could neither be deleted nor handed back: those are received again when
// their visibility timeout has run out. A second call fails.
//
// An outage of the queue is logged once, with the fix where it is known, and calls
// are repeated until it is over.
func (p *Pool) Run(ctx context.Context) error {
	if p.running.Swap(true) {
		return errors.New("run worker: this pool has run already")
	}
	// Three contexts outlive receiving: of polls, until they end or are aborted, of
	// handlers, until they are cancelled, and of the calls that finish messages.
	background := context.WithoutCancel(ctx)
	pollContext, abortPolls := context.WithCancel(background)
	defer abortPolls()
	handling, cancelHandlers := context.WithCancelCause(background)
	defer cancelHandlers(nil)
	finishing, abortFinishing := context.WithCancel(background)

	p.watch.begins()
	// The pollers first: everything else can wait for what they receive.
	received := make(chan *delivery, p.options.Concurrency)
	var pollers sync.WaitGroup
	for range (p.options.Concurrency + batchSize - 1) / batchSize {
		pollers.Go(func() { p.poll(ctx, pollContext, work{received, handling, finishing}) })
	}
	// One goroutine for each slot, kept for the pool's life: a new one for each
	// message would grow its stack anew under each handler.
	for range p.options.Concurrency {
		go func() {
			for d := range received {
				p.process(finishing, d)
			}
		}()
	}
	var services sync.WaitGroup
	services.Go(func() { p.renewLeases(finishing) })
	services.Go(func() { p.deleteFinished(finishing) })
	services.Go(func() { p.rereadQueue(finishing) })
	polled, drained := make(chan struct{}), make(chan struct{})
	go func() {
		pollers.Wait()
		close(polled)
		close(received)
		<-p.inFlight.emptied()
		close(drained)
	}()

	<-ctx.Done()
	before := p.inFlight.leftUnfinished() // not of this drain
	if !within(p.options.DrainTimeout, drained) {
		select {
		case <-polled:
		default:
			p.pollsAborted.Store(true)
		}
		abortPolls()
		cancelHandlers(ErrDraining)
		if !within(unwindTime, drained) {
			for _, d := range p.inFlight.abandon() {
				go p.handBack(finishing, d)
			}
			within(finishTime, drained)
		}
	}
	abortFinishing()
	<-drained
	services.Wait()
	if n := p.inFlight.leftUnfinished() - before; n > 0 {
		return fmt.Errorf("drain queue %s: %d messages could neither be deleted nor handed back; they are received again when their visibility timeout has run out", p.queue.Load().Name, n)
	}
	return nil
}

// within reports whether done was closed before d had passed.
func within(d time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// work is what a poller works with: where the messages that it receives go, and
// the contexts of their handlers and of the calls that finish them.
type work struct {
	received            chan<- *delivery
	handling, finishing context.Context
}

// poll receives until ctx is done.
func (p *Pool) poll(ctx, pollContext context.Context, w work) {
	failures := 0
	for {
		n := p.slots.take(ctx, p.bodies.batch())
		if n == 0 {
			return
		}
		if p.bodies.room(ctx, n) != nil { // it is stopping
			return
		}
		bytes := &poll{bodies: p.bodies}
		began := time.Now()
		messages, err := p.receive(pollContext, w.handling, n, bytes)
		p.slots.put(n - len(messages))
		bytes.end(pollContext, messages)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			p.watch.failed(err)
			if p.receiving.failed(err) {
				p.log.Error("cannot receive messages", "error", err, "fix", advice(err))
			}
			failures++
			pause(ctx, pollBackoff(failures))
			continue
		}
		failures = 0
		p.watch.received(began, messages, p.options.Sender, p.options.Late)
		if p.receiving.succeeded(began) {
			p.log.Info("messages are received again")
		}
		for _, d := range messages {
			if ctx.Err() != nil { // it arrived while draining
				p.inFlight.claim(d)
				go p.handBack(w.finishing, d)
				continue
			}
			w.received <- d // never blocks: its slot was taken
		}
	}
}

// receive asks for up to n messages and puts those that come in flight, with
// contexts for their handlers made from handling.
func (p *Pool) receive(ctx, handling context.Context, n int, bytes *poll) ([]*delivery, error) {
	q := p.queue.Load()
	ctx, cancel := context.WithTimeout(ctx, p.options.WaitTime+pollMargin)
	defer cancel()
	p.readyOnce.Do(func() { close(p.ready) })
	out, err := p.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl:            aws.String(p.options.QueueURL),
		MaxNumberOfMessages: int32(n),
		WaitTimeSeconds:     int32(p.options.WaitTime / time.Second),
		// Named, so that the lease is as long as we believe even if somebody has
		// changed the queue's own timeout since it was read.
		VisibilityTimeout:           int32(q.visibility / time.Second),
		MessageAttributeNames:       allAttributes,
		MessageSystemAttributeNames: systemAttributes,
	}, bytes.watch)
	if err != nil {
		return nil, fmt.Errorf("receive from %s: %w", q.Name, err)
	}
	deliveries := make([]*delivery, len(out.Messages))
	for i := range out.Messages {
		deliveries[i] = newDelivery(handling, &out.Messages[i], p.options.Sender, q.visibility)
	}
	p.inFlight.add(deliveries)
	p.options.InFlight(len(deliveries))
	return deliveries, nil
}

// bodyBytes is how many bytes the messages' bodies have.
func bodyBytes(ds []*delivery) (n int) {
	for _, d := range ds {
		n += len(d.Body)
	}
	return n
}

// newMessage is what a handler sees of a message.
func newMessage(raw *types.Message, self string) Message {
	m := Message{ID: aws.ToString(raw.MessageId), Body: aws.ToString(raw.Body), ReceiveCount: 1}
	if n, err := strconv.Atoi(raw.Attributes[string(types.MessageSystemAttributeNameApproximateReceiveCount)]); err == nil {
		m.ReceiveCount = n
	}
	if ms, err := strconv.ParseInt(raw.Attributes[string(types.MessageSystemAttributeNameSentTimestamp)], 10, 64); err == nil {
		m.Sent = time.UnixMilli(ms)
	}
	m.Sender = raw.Attributes[string(types.MessageSystemAttributeNameSenderId)]
	isCopy := self == "" || uniqueID(m.Sender) == uniqueID(self)
	for name, v := range raw.MessageAttributes {
		if v.StringValue == nil {
			continue
		}
		switch {
		case name == AttributeSender:
			if isCopy {
				m.Sender = *v.StringValue
			}
			continue
		case name == AttributeFirstSent && !isCopy:
			continue
		case name == AttributeFirstSent: // only ever earlier than the copy itself
			if ms, err := strconv.ParseInt(*v.StringValue, 10, 64); err == nil && time.UnixMilli(ms).Before(m.Sent) {
				m.Sent = time.UnixMilli(ms)
			}
			continue
		}
		if m.Attributes == nil {
			m.Attributes = make(map[string]string, len(raw.MessageAttributes))
		}
		m.Attributes[name] = *v.StringValue
	}
	return m
}

// uniqueID is a SenderId without the name of a role's session.
func uniqueID(sender string) string {
	id, _, _ := strings.Cut(sender, ":")
	return id
}

var (
	allAttributes    = []string{"All"}
	systemAttributes = []types.MessageSystemAttributeName{
		types.MessageSystemAttributeNameApproximateReceiveCount,
		types.MessageSystemAttributeNameSentTimestamp,
		types.MessageSystemAttributeNameMessageGroupId,
		types.MessageSystemAttributeNameSenderId,
	}
)

// pollBackoff is how long a poller waits after its n-th failure in a row: up to
// 30 s, spread over the whole range above a quarter, so that a fleet does not
// come back as one.
func pollBackoff(n int) time.Duration {
	longest := 30 * time.Second
	if n < 6 {
		longest = time.Second << (n - 1)
	}
	return longest/4 + rand.N(longest*3/4)
}

// pause waits for d or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// condition is whether something works, so that a lasting failure is logged once.
// The zero value works.
type condition struct {
	mu   sync.Mutex
	code string    // of the failure that was logged last; "" while it works
	at   time.Time // of the last failure
}

// failed notes a failure and reports whether it is a new one.
func (c *condition) failed(err error) bool {
	code := errorCode(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := c.code != code
	c.code, c.at = code, time.Now()
	return changed
}

// succeeded notes the success of an attempt and reports whether the one before it
// failed. A long poll that began before the last failure proves nothing.
func (c *condition) succeeded(began time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.code != "" && !began.After(c.at) {
		return false
	}
	changed := c.code != ""
	c.code = ""
	return changed
}
