package conformance

import (
	"context"
	"crypto/rand"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/go-cmp/cmp"
)

// SQSDeviations are the known ways in which the SQS of moto 5.2 is not like
// AWS's. LocalStack's was not measured.
type SQSDeviations struct {
	// SQSStaleHandles: a receipt handle of an earlier receive still deletes (moto).
	SQSStaleHandles bool
	// SQSNoDeadLetterSource: a dead letter does not say where it comes from (moto).
	SQSNoDeadLetterSource bool
	// SQSDeadLetterCode: a dead-letter queue that does not exist is refused as
	// if the queue itself did not (moto).
	SQSDeadLetterCode bool
	// SQSNoMoveTasks: StartMessageMoveTask is missing (moto).
	SQSNoMoveTasks bool
	// SQSCharactersUnchecked: a message may hold characters that XML cannot (moto).
	SQSCharactersUnchecked bool
}

// runSQS states what SQS does.
func runSQS(t *testing.T, target Target) {
	q := queueSuite{target: target, client: sqs.NewFromConfig(target.Config)}
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"Queues", q.queues},
		{"Messages", q.messages},
		{"LongPoll", q.longPoll},
		{"Visibility", q.visibility},
		{"StaleReceiptHandle", q.staleReceiptHandle},
		{"Redrive", q.redrive},
		{"Delay", q.delay},
		{"Batches", q.batches},
		{"Limits", q.limits},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel() // most of the time they wait
			part.run(t)
		})
	}
}

type queueSuite struct {
	target Target
	client *sqs.Client
}

// unique returns a name that nothing has yet.
func unique() string { return "conformance-" + rand.Text() }

// queue makes a queue, with attributes given as name, value, name, value….
func (q queueSuite) queue(t *testing.T, attributes ...string) (url, arn string) {
	t.Helper()
	name := unique()
	in := &sqs.CreateQueueInput{QueueName: &name, Attributes: map[string]string{}}
	for i := 0; i < len(attributes); i += 2 {
		in.Attributes[attributes[i]] = attributes[i+1]
	}
	out, err := q.client.CreateQueue(t.Context(), in)
	if err != nil {
		t.Fatalf("create queue: %v", err)
	}
	t.Cleanup(func() {
		if _, err := q.client.DeleteQueue(context.WithoutCancel(t.Context()), &sqs.DeleteQueueInput{QueueUrl: out.QueueUrl}); err != nil {
			t.Errorf("delete queue: %v", err)
		}
	})
	return *out.QueueUrl, "arn:aws:sqs:" + q.target.Config.Region + ":" + q.target.Account + ":" + name
}

func (q queueSuite) send(t *testing.T, url, body string) {
	t.Helper()
	if _, err := q.client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: &body}); err != nil {
		t.Fatalf("send: %v", err)
	}
}

// receive receives up to ten messages, waiting for the first.
func (q queueSuite) receive(t *testing.T, url string, wait int32) []types.Message {
	t.Helper()
	out, err := q.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
		QueueUrl: &url, MaxNumberOfMessages: 10, WaitTimeSeconds: wait,
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameAll},
		MessageAttributeNames:       []string{"All"},
	})
	if err != nil {
		t.Fatalf("receive: %v", err)
	}
	return out.Messages
}

// receiveOne receives the only message.
func (q queueSuite) receiveOne(t *testing.T, url string, wait int32) types.Message {
	t.Helper()
	messages := q.receive(t, url, wait)
	if len(messages) != 1 {
		t.Fatalf("received %d messages, want 1: %s", len(messages), bodies(messages))
	}
	return messages[0]
}

func (q queueSuite) attribute(t *testing.T, url string, name types.QueueAttributeName) string {
	t.Helper()
	out, err := q.client.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &url, AttributeNames: []types.QueueAttributeName{name}})
	if err != nil {
		t.Fatalf("get queue attributes: %v", err)
	}
	return out.Attributes[string(name)]
}

func (q queueSuite) changeVisibility(t *testing.T, url string, handle *string, seconds int32) error {
	t.Helper()
	_, err := q.client.ChangeMessageVisibility(t.Context(), &sqs.ChangeMessageVisibilityInput{QueueUrl: &url, ReceiptHandle: handle, VisibilityTimeout: seconds})
	return err
}

func (q queueSuite) queues(t *testing.T) {
	url, arn := q.queue(t, "VisibilityTimeout", "7")
	name := arn[strings.LastIndexByte(arn, ':')+1:]
	out, err := q.client.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: &name})
	if err != nil || aws.ToString(out.QueueUrl) != url {
		t.Errorf("url = %v, %v; want %s", out, err, url)
	}
	for attribute, want := range map[types.QueueAttributeName]string{
		"QueueArn": arn, "VisibilityTimeout": "7", "MessageRetentionPeriod": "345600", "DelaySeconds": "0", "ApproximateNumberOfMessages": "0",
	} {
		if got := q.attribute(t, url, attribute); got != want {
			t.Errorf("%s = %q, want %q", attribute, got, want)
		}
	}
	again, err := q.client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: map[string]string{"VisibilityTimeout": "7"}})
	if err != nil || *again.QueueUrl != url {
		t.Errorf("create again: %v, %v", again, err)
	}
	_, err = q.client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: map[string]string{"VisibilityTimeout": "8"}})
	wantCode(t, err, "QueueAlreadyExists")
	if _, err := q.client.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &url, Attributes: map[string]string{"VisibilityTimeout": "9"}}); err != nil {
		t.Error(err)
	}
	if got := q.attribute(t, url, "VisibilityTimeout"); got != "9" {
		t.Errorf("VisibilityTimeout = %s, want 9", got)
	}
	_, err = q.client.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String(unique())})
	wantCode(t, err, "AWS.SimpleQueueService.NonExistentQueue")
	_, err = q.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: aws.String(url + "x")})
	wantCode(t, err, "AWS.SimpleQueueService.NonExistentQueue")
	if !q.target.Deviations.SQSDeadLetterCode {
		_, err = q.client.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &url, Attributes: map[string]string{"RedrivePolicy": `{"deadLetterTargetArn":"` + arn + `x","maxReceiveCount":"3"}`}})
		wantCode(t, err, "InvalidParameterValue")
	}
}

func (q queueSuite) messages(t *testing.T) {
	url, _ := q.queue(t)
	body := "line\r\n\ttab ü 😀 <&\"'>"
	attributes := map[string]types.MessageAttributeValue{
		"text":   {DataType: aws.String("String"), StringValue: aws.String("ü")},
		"number": {DataType: aws.String("Number"), StringValue: aws.String("12.5")},
		"bytes":  {DataType: aws.String("Binary"), BinaryValue: []byte{0, 255}},
	}
	before := time.Now().Add(-time.Minute)
	sent, err := q.client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: &body, MessageAttributes: attributes})
	if err != nil {
		t.Fatal(err)
	}
	m := q.receiveOne(t, url, 5)
	if aws.ToString(m.Body) != body || aws.ToString(m.MessageId) != aws.ToString(sent.MessageId) || aws.ToString(m.MD5OfMessageAttributes) != aws.ToString(sent.MD5OfMessageAttributes) {
		t.Errorf("received %+v, want what was sent: %+v", m, sent)
	}
	for name, want := range attributes {
		got := m.MessageAttributes[name]
		if aws.ToString(got.DataType) != aws.ToString(want.DataType) || aws.ToString(got.StringValue) != aws.ToString(want.StringValue) || string(got.BinaryValue) != string(want.BinaryValue) {
			t.Errorf("attribute %s = %+v, want %+v", name, got, want)
		}
	}
	for _, name := range []string{"SentTimestamp", "ApproximateFirstReceiveTimestamp"} {
		ms, err := strconv.ParseInt(m.Attributes[name], 10, 64)
		if at := time.UnixMilli(ms); err != nil || at.Before(before) || at.After(before.Add(3*time.Minute)) {
			t.Errorf("%s = %q", name, m.Attributes[name])
		}
	}
	if m.Attributes["ApproximateReceiveCount"] != "1" || m.Attributes["SenderId"] == "" {
		t.Errorf("attributes = %v", m.Attributes)
	}
	if got := q.attribute(t, url, "ApproximateNumberOfMessagesNotVisible"); got != "1" {
		t.Errorf("in flight = %s, want 1", got)
	}
	if _, err := q.client.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: m.ReceiptHandle}); err != nil {
		t.Fatal(err)
	}
	if got := q.attribute(t, url, "ApproximateNumberOfMessagesNotVisible"); got != "0" {
		t.Errorf("in flight = %s, want 0", got)
	}
	// Deleting twice is not an error.
	if _, err := q.client.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: m.ReceiptHandle}); err != nil {
		t.Error(err)
	}
	_, err = q.client.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: aws.String("nonsense")})
	wantCode(t, err, "ReceiptHandleIsInvalid")
}

func (q queueSuite) longPoll(t *testing.T) {
	url, _ := q.queue(t)
	received := make(chan int)
	go func() {
		out, err := q.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, WaitTimeSeconds: 20})
		if err != nil {
			t.Errorf("receive: %v", err)
			received <- 0
			return
		}
		received <- len(out.Messages)
	}()
	q.send(t, url, "a")
	if n := <-received; n != 1 {
		t.Errorf("received %d messages, want 1", n)
	}
}

func (q queueSuite) visibility(t *testing.T) {
	url, _ := q.queue(t, "VisibilityTimeout", "2")
	q.send(t, url, "a")
	first := q.receiveOne(t, url, 5)
	second := q.receiveOne(t, url, 10) // when the visibility timeout is over
	if got := second.Attributes["ApproximateReceiveCount"]; got != "2" {
		t.Errorf("receive count = %s, want 2", got)
	}
	if got, want := second.Attributes["ApproximateFirstReceiveTimestamp"], first.Attributes["ApproximateFirstReceiveTimestamp"]; got != want {
		t.Errorf("first receive = %s, then %s", want, got)
	}
	if err := q.changeVisibility(t, url, second.ReceiptHandle, 60); err != nil {
		t.Fatal(err)
	}
	if got := q.receive(t, url, 3); len(got) != 0 {
		t.Errorf("received %d messages whose visibility was extended", len(got))
	}
	wantCode(t, q.changeVisibility(t, url, second.ReceiptHandle, 43200), "InvalidParameterValue")
	if err := q.changeVisibility(t, url, second.ReceiptHandle, 0); err != nil {
		t.Fatal(err)
	}
	q.receiveOne(t, url, 5)
}

func (q queueSuite) staleReceiptHandle(t *testing.T) {
	url, _ := q.queue(t, "VisibilityTimeout", "1")
	q.send(t, url, "a")
	first := q.receiveOne(t, url, 5)
	second := q.receiveOne(t, url, 10)
	if q.target.Deviations.SQSStaleHandles {
		return
	}
	if _, err := q.client.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: first.ReceiptHandle}); err != nil {
		t.Errorf("delete by a stale handle: %v", err)
	}
	third := q.receiveOne(t, url, 10)
	if aws.ToString(third.ReceiptHandle) == aws.ToString(second.ReceiptHandle) {
		t.Error("two receives gave the same receipt handle")
	}
}

func (q queueSuite) redrive(t *testing.T) {
	dlq, dlqARN := q.queue(t)
	url, arn := q.queue(t, "VisibilityTimeout", "1", "RedrivePolicy", `{"deadLetterTargetArn":"`+dlqARN+`","maxReceiveCount":"2"}`)
	q.send(t, url, "dead")
	q.receiveOne(t, url, 5)
	q.receiveOne(t, url, 10)
	if got := q.receive(t, url, 3); len(got) != 0 {
		t.Fatalf("received a third time")
	}
	dead := q.receiveOne(t, dlq, 5)
	if aws.ToString(dead.Body) != "dead" || dead.Attributes["DeadLetterQueueSourceArn"] != arn && !q.target.Deviations.SQSNoDeadLetterSource {
		t.Errorf("dead letter = %+v, want one from %s", dead, arn)
	}
	sources, err := q.client.ListDeadLetterSourceQueues(t.Context(), &sqs.ListDeadLetterSourceQueuesInput{QueueUrl: &dlq})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{url}, sources.QueueUrls); d != "" {
		t.Errorf("sources of the dead-letter queue: %s", d)
	}
	if q.target.Deviations.SQSNoMoveTasks {
		return
	}
	if err := q.changeVisibility(t, dlq, dead.ReceiptHandle, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := q.client.StartMessageMoveTask(t.Context(), &sqs.StartMessageMoveTaskInput{SourceArn: &dlqARN}); err != nil {
		t.Fatal(err)
	}
	if back := q.receiveOne(t, url, 20); aws.ToString(back.Body) != "dead" {
		t.Errorf("moved back %+v", back)
	}
	tasks, err := q.client.ListMessageMoveTasks(t.Context(), &sqs.ListMessageMoveTasksInput{SourceArn: &dlqARN})
	if err != nil || len(tasks.Results) != 1 {
		t.Errorf("tasks = %+v, %v; want one", tasks, err)
	}
}

func (q queueSuite) delay(t *testing.T) {
	url, _ := q.queue(t)
	start := time.Now()
	if _, err := q.client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String("a"), DelaySeconds: 2}); err != nil {
		t.Fatal(err)
	}
	q.receiveOne(t, url, 10)
	if took := time.Since(start); took < 1500*time.Millisecond {
		t.Errorf("received after %v, want 2s", took)
	}
}

func (q queueSuite) batches(t *testing.T) {
	url, _ := q.queue(t)
	entries := []types.SendMessageBatchRequestEntry{}
	for i := range 10 {
		entries = append(entries, types.SendMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String("m")})
	}
	sent, err := q.client.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: &url, Entries: entries})
	if err != nil || len(sent.Successful) != 10 {
		t.Fatalf("sent %+v, %v", sent, err)
	}
	var deletes []types.DeleteMessageBatchRequestEntry
	for len(deletes) < 10 {
		messages := q.receive(t, url, 5)
		if len(messages) == 0 {
			t.Fatalf("received %d messages, want 10", len(deletes))
		}
		for _, m := range messages {
			deletes = append(deletes, types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(len(deletes))), ReceiptHandle: m.ReceiptHandle})
		}
	}
	deletes[0].ReceiptHandle = aws.String("nonsense")
	deleted, err := q.client.DeleteMessageBatch(t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &url, Entries: deletes})
	if err != nil {
		t.Fatal(err)
	}
	if len(deleted.Successful) != 9 || len(deleted.Failed) != 1 || aws.ToString(deleted.Failed[0].Code) != "ReceiptHandleIsInvalid" || !deleted.Failed[0].SenderFault {
		t.Errorf("deleted %+v, want one failure", deleted)
	}
	_, err = q.client.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: &url, Entries: append(entries, types.SendMessageBatchRequestEntry{Id: aws.String("x"), MessageBody: aws.String("m")})})
	wantCode(t, err, "AWS.SimpleQueueService.TooManyEntriesInBatchRequest")
	_, err = q.client.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: &url, Entries: append(entries[:1:1], entries[0])})
	wantCode(t, err, "AWS.SimpleQueueService.BatchEntryIdsNotDistinct")
}

func (q queueSuite) limits(t *testing.T) {
	url, _ := q.queue(t)
	send := func(body string) error {
		_, err := q.client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: &body})
		return err
	}
	wantCode(t, send(strings.Repeat("x", 1<<20)), "")
	wantCode(t, send(strings.Repeat("x", 1<<20+1)), "InvalidParameterValue")
	if !q.target.Deviations.SQSCharactersUnchecked {
		wantCode(t, send("\x00"), "InvalidMessageContents")
	}
	_, err := q.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 11})
	wantCode(t, err, "InvalidParameterValue")
	_, err = q.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, WaitTimeSeconds: 21})
	wantCode(t, err, "InvalidParameterValue")
}

func bodies(messages []types.Message) (list []string) {
	for _, m := range messages {
		list = append(list, aws.ToString(m.Body))
	}
	return list
}
