package sqs

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// entry is a message to send: SendMessage's request, and one of SendMessageBatch's.
type entry struct {
	ID                      string `json:"Id"`
	MessageBody             string
	DelaySeconds            *int
	MessageAttributes       map[string]MessageAttribute `query:"MessageAttribute"`
	MessageSystemAttributes map[string]MessageAttribute `query:"MessageSystemAttribute"`
	MessageDeduplicationID  string                      `json:"MessageDeduplicationId"`
	MessageGroupID          string                      `json:"MessageGroupId"`
}

type sendInput struct {
	QueueURL string `json:"QueueUrl"`
	entry
}

type sent struct {
	ID                           string `json:"Id,omitempty" xml:"Id,omitempty"`
	MessageID                    string `json:"MessageId" xml:"MessageId"`
	MD5OfMessageBody             string
	MD5OfMessageAttributes       string `json:",omitempty" xml:",omitempty"`
	MD5OfMessageSystemAttributes string `json:",omitempty" xml:",omitempty"`
}

func (s *Service) sendMessage(ctx context.Context, in sendInput) (sent, error) {
	q, err := s.byURLWithKey(ctx, in.QueueURL, "SendMessage")
	if err != nil {
		return sent{}, err
	}
	out, err := q.send(ctx, in.entry)
	return out, asError(err)
}

// send checks an entry and adds it to the queue.
func (q *queue) send(ctx context.Context, e entry) (sent, *wire.Error) {
	q.mu.Lock()
	set := q.settings
	q.mu.Unlock()
	if err := checkMessage(e.MessageBody, e.MessageAttributes, set.maxSize); err != nil {
		return sent{}, err
	}
	if e.MessageDeduplicationID != "" {
		return sent{}, invalidValue(e.MessageDeduplicationID, "MessageDeduplicationId", "The request includes a parameter that is not valid for this queue type.")
	}
	delay := set.delay
	if e.DelaySeconds != nil {
		if *e.DelaySeconds < 0 || *e.DelaySeconds > 900 {
			return sent{}, invalidValue(*e.DelaySeconds, "DelaySeconds", "DelaySeconds must be >= 0 and <= 900.")
		}
		delay = time.Duration(*e.DelaySeconds) * time.Second
	}
	for name := range e.MessageSystemAttributes {
		if name != "AWSTraceHeader" {
			return sent{}, invalidValue(name, "MessageSystemAttributes", "Only AWSTraceHeader is supported.")
		}
	}
	m := newMessage(e.MessageBody, e.MessageAttributes)
	m.senderID = wire.CallerFrom(ctx).PrincipalID
	m.groupID = e.MessageGroupID
	m.traceHeader = e.MessageSystemAttributes["AWSTraceHeader"].StringValue
	if !q.add(delay, m) {
		return sent{}, noQueue()
	}
	return sent{
		ID: e.ID, MessageID: m.id, MD5OfMessageBody: m.bodyMD5,
		MD5OfMessageAttributes:       attributesMD5(e.MessageAttributes),
		MD5OfMessageSystemAttributes: attributesMD5(e.MessageSystemAttributes),
	}, nil
}

// failure is an entry of a batch that failed.
type failure struct {
	ID          string `json:"Id" xml:"Id"`
	Code        string
	Message     string
	SenderFault bool
}

type sendBatchInput struct {
	QueueURL string  `json:"QueueUrl"`
	Entries  []entry `query:"SendMessageBatchRequestEntry"`
}

type sendBatchOutput struct {
	Successful []sent    `xml:"SendMessageBatchResultEntry"`
	Failed     []failure `json:",omitempty" xml:"BatchResultErrorEntry"`
}

func (s *Service) sendMessageBatch(ctx context.Context, in sendBatchInput) (out sendBatchOutput, _ error) {
	q, err := s.byURLWithKey(ctx, in.QueueURL, "SendMessage")
	if err != nil {
		return out, err
	}
	size := 0
	for _, e := range in.Entries {
		size += sizeOf(e.MessageBody, e.MessageAttributes)
	}
	if size > maxRequestSize {
		return out, errorf("BatchRequestTooLong", "Batch requests cannot be longer than %d bytes. You have sent %d bytes.", maxRequestSize, size)
	}
	out.Successful, out.Failed, err = batch(in.Entries, func(e entry) string { return e.ID }, func(e entry) (sent, *wire.Error) {
		return q.send(ctx, e)
	})
	return out, asError(err)
}

// batch does one thing to each entry of a batch request.
func batch[In, Out any](entries []In, id func(In) string, do func(In) (Out, *wire.Error)) (done []Out, failed []failure, err *wire.Error) {
	if len(entries) == 0 {
		return nil, nil, errorf("EmptyBatchRequest", "There should be at least one entry in the request.")
	}
	if len(entries) > 10 {
		return nil, nil, errorf("TooManyEntriesInBatchRequest", "Maximum number of entries per request are 10. You have sent %d.", len(entries))
	}
	var ids []string
	for _, e := range entries {
		switch name := id(e); {
		case name == "" || len(name) > 80 || strings.ContainsFunc(name, func(r rune) bool { return !isWordRune(r) }):
			return nil, nil, errorf("InvalidBatchEntryId", "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most 80 letters long.")
		case slices.Contains(ids, name):
			return nil, nil, errorf("BatchEntryIdsNotDistinct", "Id %s repeated.", name)
		default:
			ids = append(ids, name)
		}
	}
	done = []Out{}
	for _, e := range entries {
		out, err := do(e)
		if err != nil {
			failed = append(failed, failure{ID: id(e), Code: err.LegacyCode(), Message: err.Message, SenderFault: err.SenderFault()})
			continue
		}
		done = append(done, out)
	}
	return done, failed, nil
}

type receiveInput struct {
	QueueURL                    string   `json:"QueueUrl"`
	AttributeNames              []string `query:"AttributeName"` // the older name of the next one
	MessageSystemAttributeNames []string `query:"MessageSystemAttributeName"`
	MessageAttributeNames       []string `query:"MessageAttributeName"`
	MaxNumberOfMessages         *int
	VisibilityTimeout           *int
	WaitTimeSeconds             *int
}

type received struct {
	MessageID              string `json:"MessageId" xml:"MessageId"`
	ReceiptHandle          string
	MD5OfBody              string
	Body                   string
	Attributes             attributeMap        `json:",omitempty" xml:"Attribute"`
	MD5OfMessageAttributes string              `json:",omitempty" xml:",omitempty"`
	MessageAttributes      messageAttributeMap `json:",omitempty" xml:"MessageAttribute"`
}

type receiveOutput struct {
	Messages []received `json:",omitempty" xml:"Message"`
}

func (s *Service) receiveMessage(ctx context.Context, in receiveInput) (out receiveOutput, _ error) {
	q, err := s.byURLWithKey(ctx, in.QueueURL, "ReceiveMessage")
	if err != nil {
		return out, err
	}
	n := 1
	if in.MaxNumberOfMessages != nil {
		n = *in.MaxNumberOfMessages
	}
	if n < 1 || n > 10 {
		return out, invalidValue(n, "MaxNumberOfMessages", "Must be between 1 and 10, if provided.")
	}
	visibility, err := secondsIn(in.VisibilityTimeout, "VisibilityTimeout", 43200)
	if err != nil {
		return out, err
	}
	wait, err := secondsIn(in.WaitTimeSeconds, "WaitTimeSeconds", 20)
	if err != nil {
		return out, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	messages, err := q.receive(ctx, n, visibility, wait, s.byARN)
	if err != nil {
		return out, err
	}
	names := slices.Concat(in.MessageSystemAttributeNames, in.AttributeNames)
	for i := range messages {
		m := &messages[i]
		attributes := selected(m.attributes, in.MessageAttributeNames)
		out.Messages = append(out.Messages, received{
			MessageID: m.id, ReceiptHandle: q.receipt(m), MD5OfBody: m.bodyMD5, Body: m.body,
			Attributes:             m.systemAttributes(names),
			MD5OfMessageAttributes: attributesMD5(attributes),
			MessageAttributes:      attributes,
		})
	}
	return out, nil
}

// secondsIn checks a number of seconds that a request may leave out.
func secondsIn(n *int, parameter string, high int) (*time.Duration, *wire.Error) {
	if n == nil {
		return nil, nil
	}
	if *n < 0 || *n > high {
		return nil, invalidValue(*n, parameter, "Must be >= 0 and <= "+(time.Duration(high)*time.Second).String()+" in seconds, if provided.")
	}
	d := time.Duration(*n) * time.Second
	return &d, nil
}

type deleteInput struct {
	QueueURL      string `json:"QueueUrl"`
	ReceiptHandle string
}

func (s *Service) deleteMessage(ctx context.Context, in deleteInput) error {
	q, err := s.byURL(ctx, in.QueueURL, "DeleteMessage")
	if err != nil {
		return err
	}
	return asError(q.delete(in.ReceiptHandle))
}

type deleteEntry struct {
	ID            string `json:"Id"`
	ReceiptHandle string
}

type deleteBatchInput struct {
	QueueURL string        `json:"QueueUrl"`
	Entries  []deleteEntry `query:"DeleteMessageBatchRequestEntry"`
}

type doneEntry struct {
	ID string `json:"Id" xml:"Id"`
}

type deleteBatchOutput struct {
	Successful []doneEntry `xml:"DeleteMessageBatchResultEntry"`
	Failed     []failure   `json:",omitempty" xml:"BatchResultErrorEntry"`
}

func (s *Service) deleteMessageBatch(ctx context.Context, in deleteBatchInput) (out deleteBatchOutput, _ error) {
	q, err := s.byURL(ctx, in.QueueURL, "DeleteMessage")
	if err != nil {
		return out, err
	}
	out.Successful, out.Failed, err = batch(in.Entries, func(e deleteEntry) string { return e.ID }, func(e deleteEntry) (doneEntry, *wire.Error) {
		return doneEntry{e.ID}, q.delete(e.ReceiptHandle)
	})
	return out, asError(err)
}

// visibilityEntry is ChangeMessageVisibility's request, and one of the batch's.
type visibilityEntry struct {
	ID                string `json:"Id"`
	ReceiptHandle     string
	VisibilityTimeout *int
}

type visibilityInput struct {
	QueueURL string `json:"QueueUrl"`
	visibilityEntry
}

func (q *queue) change(e visibilityEntry) *wire.Error {
	if e.VisibilityTimeout == nil {
		return missing("VisibilityTimeout")
	}
	visibility, err := secondsIn(e.VisibilityTimeout, "VisibilityTimeout", 43200)
	if err != nil {
		return err
	}
	return q.changeVisibility(e.ReceiptHandle, *visibility)
}

func (s *Service) changeMessageVisibility(ctx context.Context, in visibilityInput) error {
	q, err := s.byURL(ctx, in.QueueURL, "ChangeMessageVisibility")
	if err != nil {
		return err
	}
	return asError(q.change(in.visibilityEntry))
}

type visibilityBatchInput struct {
	QueueURL string            `json:"QueueUrl"`
	Entries  []visibilityEntry `query:"ChangeMessageVisibilityBatchRequestEntry"`
}

type visibilityBatchOutput struct {
	Successful []doneEntry `xml:"ChangeMessageVisibilityBatchResultEntry"`
	Failed     []failure   `json:",omitempty" xml:"BatchResultErrorEntry"`
}

func (s *Service) changeMessageVisibilityBatch(ctx context.Context, in visibilityBatchInput) (out visibilityBatchOutput, _ error) {
	q, err := s.byURL(ctx, in.QueueURL, "ChangeMessageVisibility")
	if err != nil {
		return out, err
	}
	out.Successful, out.Failed, err = batch(in.Entries, func(e visibilityEntry) string { return e.ID }, func(e visibilityEntry) (doneEntry, *wire.Error) {
		return doneEntry{e.ID}, q.change(e)
	})
	return out, asError(err)
}
