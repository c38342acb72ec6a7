package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"

	"github.com/cmkeeper/cmkeeper/outcome"
)

// The message attributes that a Pool sets on copies. FirstSent and Sender are its own
// bookkeeping on copies that go back to the queue; the others say why a message is
// in the dead-letter queue.
const (
	AttributeFirstSent    = "cmkeeper-first-sent"    // Number: Unix milliseconds
	AttributeSender       = "cmkeeper-sender"        // String: the SenderId of the original
	AttributeReason       = "cmkeeper-reason"        // String: the error, at most 1 KiB of printable text
	AttributeQueue        = "cmkeeper-queue"         // String: the name of the queue it came from
	AttributeReceiveCount = "cmkeeper-receive-count" // Number
	// AttributeOriginal has the attributes that the message came with, as JSON by their
	// names, where SQS's ten would leave no room for the above: String.
	AttributeOriginal = "cmkeeper-attributes"
)

const (
	// SQS's limits for a message: attributes, and bytes of body and attributes.
	maxAttributes = 10
	maxBytes      = 1 << 20
	maxReason     = 1 << 10

	// deleteDelay is how long a delete waits for others to share its call. It is no
	// part of the logged duration, and the message takes up no slot meanwhile.
	deleteDelay = 50 * time.Millisecond
	// deleteCalls is how many calls for deletes run at once.
	deleteCalls = 4

	// unnoticed is how long what goes back to the queue is kept from polls that were
	// aborted. Nobody says how long SQS takes to notice that; see docs/decisions/open-polls.md.
	unnoticed = 2 * time.Second
)

// panicError is a handler's panic as an error.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("handler panicked: %v", e.value) }

// process runs the handler and finishes the message.
func (p *Pool) process(ctx context.Context, d *delivery) {
	start := time.Now()
	err := p.call(d)
	p.finish(ctx, d, err, time.Since(start))
	d.cancel(nil)
	p.slots.put(1)
}

// call runs the handler; a panic becomes an error.
func (p *Pool) call(d *delivery) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{v, debug.Stack()}
		}
	}()
	return p.handler.Handle(d.ctx, d.Message)
}

// finish does what the handler's error asks for. When it returns, the message is
// finished or waits for its delete.
func (p *Pool) finish(ctx context.Context, d *delivery, err error, took time.Duration) {
	switch p.inFlight.claim(d) {
	case handling:
	case lost:
		p.logOutcome(d, slog.LevelWarn, "lease lost", took, ErrLeaseLost)
		p.release(d, true)
		return
	default: // its handler was abandoned
		return
	}
	decision := p.decide(d, err)
	switch decision.Action {
	case outcome.Delete:
		p.logOutcome(d, slog.LevelDebug, "delete", took, nil)
		p.delete(ctx, d)
	case outcome.Delay:
		p.logOutcome(d, slog.LevelInfo, "delay", took, err)
		attributes, _ := requeued(d) // decide has seen that there is room
		p.replace(ctx, d, p.options.QueueURL, p.hidden(decision.After), attributes)
	case outcome.DeadLetter:
		p.logOutcome(d, slog.LevelError, "dead-letter", took, decision.Err)
		p.replace(ctx, d, p.queue.Load().DeadLetter.URL, 0, rejectedAttributes(d.raw, p.rejection(d, decision.Err)))
	case outcome.Retry:
		var panicked *panicError
		if errors.Is(context.Cause(d.ctx), ErrDraining) && !errors.As(err, &panicked) {
			p.handBack(ctx, d)
			return
		}
		p.logOutcome(d, slog.LevelWarn, "retry", took, err)
		p.makeVisible(ctx, d, outcome.Backoff(d.ReceiveCount))
	}
}

// decide interprets the handler's error for this message. A wait ends in the
// dead-letter queue when it has gone on for longer than the queue keeps messages, or
// when a copy has no room for the time of its first sending: each copy is kept anew, so
// it would otherwise never end.
func (p *Pool) decide(d *delivery, err error) outcome.Decision {
	decision := outcome.Of(err)
	if decision.Action != outcome.Delay {
		return decision
	}
	deadLetter := func(err error) outcome.Decision {
		return outcome.Decision{Action: outcome.DeadLetter, Err: err}
	}
	retention := p.queue.Load().retention
	if retention > 0 && !d.Sent.IsZero() && time.Since(d.Sent) > retention {
		return deadLetter(fmt.Errorf("waited longer than the queue's retention of %s: %w", retention, err))
	}
	if _, all := copyAttributes(d.raw, firstSent(d)); !all {
		return deadLetter(fmt.Errorf("cannot wait: a copy has no room for the attribute %s beside the message's body and its %d attributes: %w",
			AttributeFirstSent, len(d.raw.MessageAttributes), err))
	}
	return decision
}

// logOutcome logs and counts what becomes of a message.
func (p *Pool) logOutcome(d *delivery, level slog.Level, result string, took time.Duration, err error) {
	p.options.Handled(d.ctx, strings.ReplaceAll(result, " ", "-"))
	if !p.log.Enabled(d.ctx, level) {
		return
	}
	attributes := make([]slog.Attr, 0, 6)
	attributes = append(attributes, slog.String("message_id", d.ID), slog.String("outcome", result),
		slog.Duration("duration", took), slog.Int("receive_count", d.ReceiveCount))
	if err != nil {
		attributes = append(attributes, slog.String("error", err.Error()))
	}
	var panicked *panicError
	if errors.As(err, &panicked) {
		level = slog.LevelError
		attributes = append(attributes, slog.String("stack", string(panicked.stack)))
	}
	p.log.LogAttrs(d.ctx, level, "message handled", attributes...)
}

// release ends a message's time in flight; finished is false when it could be
// neither deleted nor made visible.
func (p *Pool) release(d *delivery, finished bool) {
	if p.inFlight.remove(d, finished) {
		p.bodies.release(d)
		p.options.InFlight(-1)
	}
}

// replace sends a copy and deletes the original, or retries the message when
// the copy is not accepted.
func (p *Pool) replace(ctx context.Context, d *delivery, url string, delay time.Duration, attributes map[string]types.MessageAttributeValue) {
	if err := p.send(ctx, d, url, delay, attributes); err != nil {
		p.log.ErrorContext(d.ctx, "cannot send a copy; the message is retried", "message_id", d.ID, "error", err, "fix", advice(err))
		p.makeVisible(ctx, d, outcome.Backoff(d.ReceiveCount))
		return
	}
	p.delete(ctx, d)
}

// handBack returns a message in state finishing to the queue for other workers,
// without spending a receive where a copy can be sent that says when it was sent first.
func (p *Pool) handBack(ctx context.Context, d *delivery) {
	d.cancel(ErrDraining)
	p.options.Handled(d.ctx, "handed-back")
	attributes, all := requeued(d)
	err := errors.New("no room for the attribute " + AttributeFirstSent)
	if all {
		err = p.send(ctx, d, p.options.QueueURL, p.hidden(0), attributes)
	}
	if err != nil {
		p.log.WarnContext(d.ctx, "cannot send a copy; the message is handed back as it is, with one receive spent", "message_id", d.ID, "error", err)
		p.makeVisible(ctx, d, 0)
		return
	}
	p.log.InfoContext(d.ctx, "message handed back", "message_id", d.ID)
	p.delete(ctx, d)
}

// hidden returns how long a message that goes back to the queue is invisible there: as
// long as it should be, and long enough that no aborted poll of this pool takes it.
func (p *Pool) hidden(d time.Duration) time.Duration {
	if p.pollsAborted.Load() {
		return max(d, unnoticed)
	}
	return d
}

// makeVisible makes a message visible after the given time and releases it.
// If that fails it becomes visible when its lease runs out.
func (p *Pool) makeVisible(ctx context.Context, d *delivery, after time.Duration) {
	if !p.inFlight.stopRenewing(d) {
		p.release(d, true)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, err := p.client.ChangeMessageVisibilityBatch(ctx, &sqs.ChangeMessageVisibilityBatchInput{
		QueueUrl: aws.String(p.options.QueueURL),
		Entries: []types.ChangeMessageVisibilityBatchRequestEntry{{
			Id: aws.String("0"), ReceiptHandle: d.raw.ReceiptHandle, VisibilityTimeout: int32(p.hidden(after).Round(time.Second) / time.Second),
		}},
	})
	if err == nil && len(out.Failed) > 0 {
		err = errors.New(aws.ToString(out.Failed[0].Code))
	}
	if err != nil {
		p.log.WarnContext(d.ctx, "cannot set when the message is visible again; it will be when its lease runs out", "message_id", d.ID, "error", err)
	}
	p.release(d, err == nil)
}

// attribute is a message attribute of our own.
type attribute struct{ name, dataType, value string }

// firstSent is the bookkeeping on a copy that goes back to the queue.
func firstSent(d *delivery) []attribute {
	if d.Sent.IsZero() {
		return nil
	}
	return []attribute{{AttributeFirstSent, "Number", strconv.FormatInt(d.Sent.UnixMilli(), 10)}}
}

// requeued returns the attributes of a copy that goes back to the queue: with those of
// firstSent, else ok is false, and with the sender of the original where there is room.
func requeued(d *delivery) (attributes map[string]types.MessageAttributeValue, ok bool) {
	own := firstSent(d)
	if d.Sender != "" {
		if attributes, ok := copyAttributes(d.raw, append(own, attribute{AttributeSender, "String", d.Sender})); ok {
			return attributes, true
		}
	}
	return copyAttributes(d.raw, own)
}

// rejection is what a message carries into the dead-letter queue.
func (p *Pool) rejection(d *delivery, err error) []attribute {
	return []attribute{
		{AttributeReason, "String", printable(err.Error(), maxReason)},
		{AttributeQueue, "String", p.queue.Load().Name},
		{AttributeReceiveCount, "Number", strconv.Itoa(d.ReceiveCount)},
	}
}

// send sends a copy of a message with the attributes.
func (p *Pool) send(ctx context.Context, d *delivery, url string, delay time.Duration, attributes map[string]types.MessageAttributeValue) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	sent, err := p.bodies.send(ctx, d)
	if err != nil {
		return fmt.Errorf("wait to send a copy to %s: %w", queueName(url), err)
	}
	defer sent()
	in := &sqs.SendMessageInput{
		QueueUrl:          aws.String(url),
		MessageBody:       d.raw.Body,
		MessageAttributes: attributes,
		DelaySeconds:      int32(delay.Round(time.Second) / time.Second),
	}
	if group, ok := d.raw.Attributes[string(types.MessageSystemAttributeNameMessageGroupId)]; ok {
		in.MessageGroupId = aws.String(group)
	}
	if _, err := p.client.SendMessage(ctx, in); err != nil {
		return fmt.Errorf("send a copy to %s: %w", queueName(url), err)
	}
	return nil
}

// copyAttributes returns the attributes of a message's copy: the original's, and as
// many of our own as there is room for; all says that this was every one.
func copyAttributes(m *types.Message, own []attribute) (attributes map[string]types.MessageAttributeValue, all bool) {
	attributes = make(map[string]types.MessageAttributeValue, len(m.MessageAttributes)+len(own))
	maps.Copy(attributes, m.MessageAttributes)
	for _, name := range []string{AttributeFirstSent, AttributeSender, AttributeReason, AttributeQueue, AttributeReceiveCount} {
		delete(attributes, name) // of an earlier copy
	}
	size := len(aws.ToString(m.Body))
	for name, v := range attributes {
		size += len(name) + len(aws.ToString(v.DataType)) + len(aws.ToString(v.StringValue)) + len(v.BinaryValue)
	}
	for _, a := range own {
		size += len(a.name) + len(a.dataType) + len(a.value)
		if len(attributes) == maxAttributes || size > maxBytes {
			return attributes, false
		}
		attributes[a.name] = types.MessageAttributeValue{DataType: aws.String(a.dataType), StringValue: aws.String(a.value)}
	}
	return attributes, true
}

// rejectedAttributes are those of a message's copy in the dead-letter queue. Where the
// original's leave no room for the reason, they go into one.
func rejectedAttributes(m *types.Message, own []attribute) map[string]types.MessageAttributeValue {
	attributes, all := copyAttributes(m, own)
	if all || len(attributes) < maxAttributes {
		return attributes
	}
	type value struct {
		Type   string `json:"type"`
		Text   string `json:"text,omitempty"`
		Binary []byte `json:"binary,omitempty"`
	}
	originals := map[string]value{}
	without, _ := copyAttributes(m, nil)
	for name, v := range without {
		originals[name] = value{aws.ToString(v.DataType), aws.ToString(v.StringValue), v.BinaryValue}
	}
	text, err := json.Marshal(originals)
	if err != nil {
		return attributes
	}
	packed, all := copyAttributes(&types.Message{Body: m.Body}, append([]attribute{{AttributeOriginal, "String", string(text)}}, own...))
	if !all {
		return attributes
	}
	return packed
}

// printable returns s as at most limit bytes of printable text, which SQS
// accepts in an attribute: everything else is escaped as in Go source.
func printable(s string, limit int) string {
	const ellipsis = "…"
	var b strings.Builder
	cut := 0 // how much is kept when there is more than fits
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		part := s[:n]
		switch {
		case r == utf8.RuneError && n == 1:
			part = fmt.Sprintf(`\x%02x`, s[0])
		case !unicode.IsPrint(r):
			part = strings.Trim(strconv.QuoteRune(r), "'")
		}
		if b.Len()+len(part) > limit {
			return b.String()[:cut] + ellipsis
		}
		b.WriteString(part)
		if b.Len() <= limit-len(ellipsis) {
			cut = b.Len()
		}
		s = s[n:]
	}
	if b.Len() == 0 {
		return "no reason given" // an attribute cannot be empty
	}
	return b.String()
}

// delete passes a message on to deleteFinished.
func (p *Pool) delete(ctx context.Context, d *delivery) {
	if !p.inFlight.startDelete(d) {
		p.log.WarnContext(d.ctx, "lease lost; the message is not deleted and will be received again", "message_id", d.ID)
		p.release(d, true)
		return
	}
	select {
	case p.deletes <- d:
	case <-ctx.Done():
		p.release(d, false)
	}
}

// deleteFinished batches deletes into calls for ten until ctx is done. While calls
// fail it accepts no more, so that handlers, and then receiving, wait.
func (p *Pool) deleteFinished(ctx context.Context) {
	var calls sync.WaitGroup
	defer calls.Wait()
	full := make(chan []*delivery)
	defer close(full)
	for range deleteCalls {
		calls.Go(func() {
			for batch := range full {
				p.deleteBatch(ctx, batch)
			}
		})
	}
	var batch []*delivery
	flush := time.NewTimer(deleteDelay)
	defer flush.Stop()
	for {
		select {
		case d := <-p.deletes:
			batch = append(batch, d)
			if len(batch) == 1 {
				flush.Reset(deleteDelay)
			}
			if len(batch) < batchSize {
				continue
			}
		case <-flush.C:
			if len(batch) == 0 {
				continue
			}
		case <-ctx.Done():
			for _, d := range batch {
				p.release(d, false)
			}
			return
		}
		full <- batch
		batch = nil
	}
}

// deleteBatch deletes up to ten messages and tries again, while their leases
// hold, for those that failed. A message that it gives up is received again.
func (p *Pool) deleteBatch(ctx context.Context, batch []*delivery) {
	for attempt := 0; ; attempt++ {
		began := time.Now()
		again, err := p.deleteOnce(ctx, batch)
		if err == nil && p.deleting.succeeded(began) {
			p.log.Info("messages are deleted again")
		}
		if err != nil && p.deleting.failed(err) {
			p.log.Error("cannot delete messages", "error", err, "fix", advice(err))
		}
		batch = batch[:0]
		for _, d := range again {
			if ctx.Err() != nil || time.Now().After(p.inFlight.leaseEnd(d)) {
				p.giveUp(d)
				continue
			}
			batch = append(batch, d)
		}
		if len(batch) == 0 {
			return
		}
		pause(ctx, min(100*time.Millisecond<<attempt, 5*time.Second))
	}
}

// giveUp releases a message that could not be deleted.
func (p *Pool) giveUp(d *delivery) {
	p.log.ErrorContext(d.ctx, "the message was handled but could not be deleted; it will be received again", "message_id", d.ID)
	p.release(d, false)
}

// deleteOnce deletes what it can and returns what is worth another try, with an
// error where something went wrong.
func (p *Pool) deleteOnce(ctx context.Context, batch []*delivery) (again []*delivery, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	entries := make([]types.DeleteMessageBatchRequestEntry, len(batch))
	for i, d := range batch {
		entries[i] = types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: d.raw.ReceiptHandle}
	}
	out, err := p.client.DeleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{
		QueueUrl: aws.String(p.options.QueueURL), Entries: entries,
	})
	if err != nil {
		return batch, fmt.Errorf("delete a batch of %d: %w", len(batch), err)
	}
	failed := make([]*types.BatchResultErrorEntry, len(batch))
	for _, f := range out.Failed {
		i, convErr := strconv.Atoi(aws.ToString(f.Id))
		if convErr != nil || i < 0 || i >= len(batch) {
			continue
		}
		failed[i] = &f
		err = &smithy.GenericAPIError{Code: aws.ToString(f.Code), Message: aws.ToString(f.Message)}
	}
	for i, d := range batch {
		switch f := failed[i]; {
		case f == nil:
			p.release(d, true)
		case f.SenderFault: // the receipt is not valid: it never will be again
			p.giveUp(d)
		default:
			again = append(again, d)
		}
	}
	return again, err
}
