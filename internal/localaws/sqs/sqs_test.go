package sqs_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	local "github.com/cmkeeper/cmkeeper/internal/localaws/sqs"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

type fixture struct {
	*testing.T
	server *localaws.Server
	client *sqs.Client
}

func setUp(t *testing.T) fixture {
	server := localaws.New(localaws.Options{})
	t.Cleanup(server.Close)
	return fixture{t, server, sqs.NewFromConfig(inprocess.Config(server, "us-east-1", "alice"))}
}

// queue makes a queue with attributes given as name, value, name, value…
func (f fixture) queue(name string, attributes ...string) (url string) {
	f.Helper()
	in := &sqs.CreateQueueInput{QueueName: &name, Attributes: map[string]string{}}
	for i := 0; i < len(attributes); i += 2 {
		in.Attributes[attributes[i]] = attributes[i+1]
	}
	out, err := f.client.CreateQueue(f.Context(), in)
	if err != nil {
		f.Fatal(err)
	}
	return *out.QueueUrl
}

func (f fixture) send(url string, bodies ...string) {
	f.Helper()
	for _, body := range bodies {
		if _, err := f.client.SendMessage(f.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: &body}); err != nil {
			f.Fatal(err)
		}
	}
}

func (f fixture) receive(url string, n, wait int32) []types.Message {
	f.Helper()
	out, err := f.client.ReceiveMessage(f.Context(), &sqs.ReceiveMessageInput{
		QueueUrl: &url, MaxNumberOfMessages: n, WaitTimeSeconds: wait,
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameAll},
		MessageAttributeNames:       []string{"All"},
	})
	if err != nil {
		f.Fatal(err)
	}
	return out.Messages
}

func (f fixture) attribute(url, name string) string {
	f.Helper()
	out, err := f.client.GetQueueAttributes(f.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &url, AttributeNames: []types.QueueAttributeName{types.QueueAttributeName(name)}})
	if err != nil {
		f.Fatal(err)
	}
	return out.Attributes[name]
}

func (f fixture) wantCode(err error, code string) {
	f.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != code {
		f.Errorf("error = %v, want code %s", err, code)
	}
}

func TestLongPollWakesOnArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		url := f.queue("q")
		start := time.Now()
		var polls sync.WaitGroup
		for range 3 {
			polls.Go(func() {
				if got := f.receive(url, 1, 20); len(got) != 1 || time.Since(start) != 5*time.Second {
					t.Errorf("received %d messages after %v, want 1 after 5s", len(got), time.Since(start))
				}
			})
		}
		time.Sleep(5 * time.Second)
		f.send(url, "a", "b", "c")
		polls.Wait()
		if got := f.receive(url, 1, 20); len(got) != 0 || time.Since(start) != 25*time.Second {
			t.Errorf("received %d messages after %v, want none after 25s", len(got), time.Since(start))
		}
	})
}

func TestCancelledPollTakesNoMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		url := f.queue("q")
		ctx, cancel := context.WithCancel(t.Context())
		var polls sync.WaitGroup
		polls.Go(func() {
			_, err := f.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &url, WaitTimeSeconds: 20})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error = %v, want cancelled", err)
			}
		})
		synctest.Wait()
		cancel()
		polls.Wait()
		synctest.Wait()
		f.send(url, "a")
		if got := f.receive(url, 1, 0); len(got) != 1 {
			t.Errorf("received %d messages, want 1", len(got))
		}
	})
}

func TestVisibility(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		url := f.queue("q", "VisibilityTimeout", "30")
		f.send(url, "a")
		first := f.receive(url, 10, 0)[0]
		start := time.Now()
		second := f.receive(url, 10, 20)
		if len(second) != 0 {
			t.Fatalf("received an invisible message")
		}
		second = f.receive(url, 10, 20)
		if len(second) != 1 || time.Since(start) != 30*time.Second {
			t.Fatalf("received %d messages after %v, want 1 after 30s", len(second), time.Since(start))
		}
		if got := second[0].Attributes["ApproximateReceiveCount"]; got != "2" {
			t.Errorf("receive count = %s, want 2", got)
		}
		if *second[0].ReceiptHandle == *first.ReceiptHandle {
			t.Error("both receives have the same receipt handle")
		}

		// The first handle is stale now: it deletes nothing and extends nothing.
		if _, err := f.client.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: first.ReceiptHandle}); err != nil {
			t.Error(err)
		}
		_, err := f.client.ChangeMessageVisibility(t.Context(), &sqs.ChangeMessageVisibilityInput{QueueUrl: &url, ReceiptHandle: first.ReceiptHandle, VisibilityTimeout: 60})
		f.wantCode(err, "AWS.SimpleQueueService.MessageNotInflight")

		change := func(seconds int32) error {
			_, err := f.client.ChangeMessageVisibility(t.Context(), &sqs.ChangeMessageVisibilityInput{QueueUrl: &url, ReceiptHandle: second[0].ReceiptHandle, VisibilityTimeout: seconds})
			return err
		}
		time.Sleep(20 * time.Second)
		if err := change(100); err != nil {
			t.Error(err)
		}
		time.Sleep(99 * time.Second)
		if got := f.attribute(url, "ApproximateNumberOfMessagesNotVisible"); got != "1" {
			t.Errorf("in flight = %s, want 1", got)
		}
		f.wantCode(change(43200), "InvalidParameterValue")
		if err := change(0); err != nil {
			t.Error(err)
		}
		third := f.receive(url, 10, 0)
		if len(third) != 1 {
			t.Fatal("visibility 0 did not make the message visible")
		}
		time.Sleep(31 * time.Second)
		if _, err := f.client.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: third[0].ReceiptHandle}); err != nil {
			t.Error(err)
		}
		if got := f.receive(url, 10, 20); len(got) != 0 {
			t.Error("the latest handle did not delete after its timeout")
		}
		_, err = f.client.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: aws.String("nonsense")})
		f.wantCode(err, "ReceiptHandleIsInvalid")
	})
}

func TestTwelveHoursInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		url := f.queue("q")
		f.send(url, "a")
		m := f.receive(url, 1, 0)[0]
		extend := func() error {
			_, err := f.client.ChangeMessageVisibility(t.Context(), &sqs.ChangeMessageVisibilityInput{QueueUrl: &url, ReceiptHandle: m.ReceiptHandle, VisibilityTimeout: 3600})
			return err
		}
		for range 12 {
			if err := extend(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour - time.Second)
		}
		f.wantCode(extend(), "InvalidParameterValue")
	})
}

func TestRedriveAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		dlq := f.queue("dlq")
		dlqARN := f.attribute(dlq, "QueueArn")
		url := f.queue("q", "VisibilityTimeout", "1", "RedrivePolicy", `{"deadLetterTargetArn":"`+dlqARN+`","maxReceiveCount":"2"}`)
		f.send(url, "a")
		for range 2 {
			if got := f.receive(url, 1, 5); len(got) != 1 {
				t.Fatal("message not received twice")
			}
		}
		if got := f.receive(url, 1, 5); len(got) != 0 {
			t.Fatal("message received a third time")
		}
		dead := f.receive(dlq, 1, 0)
		if len(dead) != 1 {
			t.Fatal("message not in the dead-letter queue")
		}
		want := map[string]string{
			"ApproximateReceiveCount":  "3", // over all queues
			"DeadLetterQueueSourceArn": f.attribute(url, "QueueArn"),
			"SenderId":                 "AIDAALICE",
		}
		for name, value := range want {
			if dead[0].Attributes[name] != value {
				t.Errorf("%s = %q, want %q", name, dead[0].Attributes[name], value)
			}
		}
		sources, err := f.client.ListDeadLetterSourceQueues(t.Context(), &sqs.ListDeadLetterSourceQueuesInput{QueueUrl: &dlq})
		if err != nil || cmp.Diff([]string{url}, sources.QueueUrls) != "" {
			t.Errorf("sources = %v, %v", sources.QueueUrls, err)
		}

		time.Sleep(31 * time.Second)
		if _, err := f.client.StartMessageMoveTask(t.Context(), &sqs.StartMessageMoveTaskInput{SourceArn: &dlqARN}); err != nil {
			t.Fatal(err)
		}
		back := f.receive(url, 1, 20)
		if len(back) != 1 || *back[0].Body != "a" || back[0].Attributes["ApproximateReceiveCount"] != "1" {
			t.Errorf("moved back: %v, want message a with receive count 1", back)
		}
		synctest.Wait()
		tasks, err := f.client.ListMessageMoveTasks(t.Context(), &sqs.ListMessageMoveTasksInput{SourceArn: &dlqARN})
		if err != nil || len(tasks.Results) != 1 || *tasks.Results[0].Status != "COMPLETED" || tasks.Results[0].ApproximateNumberOfMessagesMoved != 1 {
			t.Errorf("tasks = %+v, %v", tasks, err)
		}
		_, err = f.client.StartMessageMoveTask(t.Context(), &sqs.StartMessageMoveTaskInput{SourceArn: aws.String(f.attribute(url, "QueueArn"))})
		f.wantCode(err, "InvalidParameterValue")
	})
}

func TestMoveTaskRateAndCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		dlq := f.queue("dlq")
		dlqARN := f.attribute(dlq, "QueueArn")
		url := f.queue("q", "RedrivePolicy", `{"deadLetterTargetArn":"`+dlqARN+`"}`)
		f.send(dlq, "a", "b", "c")
		task, err := f.client.StartMessageMoveTask(t.Context(), &sqs.StartMessageMoveTaskInput{
			SourceArn: &dlqARN, DestinationArn: aws.String(f.attribute(url, "QueueArn")), MaxNumberOfMessagesPerSecond: aws.Int32(1),
		})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		out, err := f.client.CancelMessageMoveTask(t.Context(), &sqs.CancelMessageMoveTaskInput{TaskHandle: task.TaskHandle})
		if err != nil || out.ApproximateNumberOfMessagesMoved != 1 {
			t.Errorf("moved %v, %v; want 1", out, err)
		}
		time.Sleep(5 * time.Second)
		if got := f.attribute(dlq, "ApproximateNumberOfMessages"); got != "2" {
			t.Errorf("%s messages left, want 2", got)
		}
	})
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		url := f.queue("q", "DelaySeconds", "10")
		start := time.Now()
		f.send(url, "by queue")
		if _, err := f.client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String("by message"), DelaySeconds: 3}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []struct {
			body  string
			after time.Duration
		}{{"by message", 3 * time.Second}, {"by queue", 10 * time.Second}} {
			got := f.receive(url, 10, 20)
			if len(got) != 1 || *got[0].Body != want.body || time.Since(start) != want.after {
				t.Errorf("received %v after %v, want %v", got, time.Since(start), want)
			}
		}
	})
}

func TestRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		url := f.queue("q", "MessageRetentionPeriod", "60")
		f.send(url, "a")
		time.Sleep(61 * time.Second)
		if got := f.receive(url, 1, 0); len(got) != 0 {
			t.Error("received a message after its retention")
		}
	})
}

func TestBatches(t *testing.T) {
	f := setUp(t)
	url := f.queue("q")
	sent, err := f.client.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: &url, Entries: []types.SendMessageBatchRequestEntry{
		{Id: aws.String("good"), MessageBody: aws.String("a")},
		{Id: aws.String("bad"), MessageBody: aws.String("\x01")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(sent.Successful) != 1 || len(sent.Failed) != 1 || *sent.Failed[0].Id != "bad" || !sent.Failed[0].SenderFault {
		t.Errorf("sent = %+v", sent)
	}
	m := f.receive(url, 10, 0)[0]
	deleted, err := f.client.DeleteMessageBatch(t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &url, Entries: []types.DeleteMessageBatchRequestEntry{
		{Id: aws.String("a"), ReceiptHandle: m.ReceiptHandle},
		{Id: aws.String("b"), ReceiptHandle: aws.String("nonsense")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(deleted.Successful) != 1 || len(deleted.Failed) != 1 || *deleted.Failed[0].Code != "ReceiptHandleIsInvalid" {
		t.Errorf("deleted = %+v", deleted)
	}
	half := strings.Repeat("x", 600<<10)
	for _, c := range []struct {
		code    string
		entries []types.SendMessageBatchRequestEntry
	}{
		{"EmptyBatchRequest", []types.SendMessageBatchRequestEntry{}},
		{"BatchEntryIdsNotDistinct", []types.SendMessageBatchRequestEntry{{Id: aws.String("x"), MessageBody: &half}, {Id: aws.String("x"), MessageBody: aws.String("b")}}},
		{"InvalidBatchEntryId", []types.SendMessageBatchRequestEntry{{Id: aws.String("x y"), MessageBody: aws.String("b")}}},
		{"BatchRequestTooLong", []types.SendMessageBatchRequestEntry{{Id: aws.String("x"), MessageBody: &half}, {Id: aws.String("y"), MessageBody: &half}}},
		{"TooManyEntriesInBatchRequest", make11()},
	} {
		_, err := f.client.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: &url, Entries: c.entries})
		f.wantCode(err, "AWS.SimpleQueueService."+c.code)
	}
}

func make11() (entries []types.SendMessageBatchRequestEntry) {
	for i := range 11 {
		entries = append(entries, types.SendMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String("b")})
	}
	return entries
}

func TestMessageAttributes(t *testing.T) {
	f := setUp(t)
	url := f.queue("q")
	attributes := map[string]types.MessageAttributeValue{
		"severity": {DataType: aws.String("String"), StringValue: aws.String("high")},
		"count":    {DataType: aws.String("Number.int"), StringValue: aws.String("7")},
		"raw":      {DataType: aws.String("Binary"), BinaryValue: []byte{0, 1, 2}},
	}
	out, err := f.client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String("a"), MessageAttributes: attributes})
	if err != nil {
		t.Fatal(err)
	}
	m := f.receive(url, 1, 0)[0]
	if diff := cmp.Diff(attributes, m.MessageAttributes, cmp.Comparer(func(a, b types.MessageAttributeValue) bool {
		return aws.ToString(a.DataType) == aws.ToString(b.DataType) && aws.ToString(a.StringValue) == aws.ToString(b.StringValue) && string(a.BinaryValue) == string(b.BinaryValue)
	})); diff != "" {
		t.Error(diff)
	}
	// Computed with Python's hashlib from AWS's description of the digest.
	if want := "b7dbef777408b26ecaf632f109889cd5"; *out.MD5OfMessageAttributes != want || *m.MD5OfMessageAttributes != want {
		t.Errorf("MD5 = %s and %s, want %s", *out.MD5OfMessageAttributes, *m.MD5OfMessageAttributes, want)
	}
}

func TestSizeLimit(t *testing.T) {
	f := setUp(t)
	url := f.queue("q")
	f.send(url, strings.Repeat("x", 1<<20))
	send := func(body string, attributes map[string]types.MessageAttributeValue) error {
		_, err := f.client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: &body, MessageAttributes: attributes})
		return err
	}
	f.wantCode(send(strings.Repeat("x", 1<<20+1), nil), "InvalidParameterValue")
	f.wantCode(send(strings.Repeat("x", 1<<20), map[string]types.MessageAttributeValue{"a": {DataType: aws.String("String"), StringValue: aws.String("b")}}), "InvalidParameterValue")
	f.wantCode(send("\x00", nil), "InvalidMessageContents")
}

func TestQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		url := f.queue("a-1", "VisibilityTimeout", "5")
		f.queue("a-2")
		f.queue("b")
		if again := f.queue("a-1", "VisibilityTimeout", "5"); again != url {
			t.Errorf("url = %s, want %s", again, url)
		}
		create := func(name string, attributes map[string]string) error {
			_, err := f.client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: attributes})
			return err
		}
		f.wantCode(create("a-1", map[string]string{"VisibilityTimeout": "6"}), "QueueAlreadyExists")
		f.wantCode(create("c", map[string]string{"VisibilityTimeout": "43201"}), "InvalidAttributeValue")
		f.wantCode(create("c", map[string]string{"Nonsense": "1"}), "InvalidAttributeName")
		f.wantCode(create("c.fifo", map[string]string{"FifoQueue": "true"}), "AWS.SimpleQueueService.UnsupportedOperation")
		f.wantCode(create("c", map[string]string{"RedrivePolicy": `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:none","maxReceiveCount":3}`}), "InvalidParameterValue")

		var names []string
		pages := sqs.NewListQueuesPaginator(f.client, &sqs.ListQueuesInput{QueueNamePrefix: aws.String("a-"), MaxResults: aws.Int32(1)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, page.QueueUrls...)
		}
		if len(names) != 2 {
			t.Errorf("listed %v, want a-1 and a-2", names)
		}

		var polls sync.WaitGroup
		polls.Go(func() {
			_, err := f.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, WaitTimeSeconds: 20})
			f.wantCode(err, "AWS.SimpleQueueService.NonExistentQueue")
		})
		synctest.Wait()
		if _, err := f.client.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: &url}); err != nil {
			t.Fatal(err)
		}
		polls.Wait()
		_, err := f.client.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("a-1")})
		var gone *types.QueueDoesNotExist
		if !errors.As(err, &gone) {
			t.Errorf("error = %v, want QueueDoesNotExist", err)
		}
		f.wantCode(create("a-1", nil), "AWS.SimpleQueueService.QueueDeletedRecently")
		time.Sleep(time.Minute)
		if err := create("a-1", nil); err != nil {
			t.Error(err)
		}
	})
}

func TestDeliverHonoursQueuePolicy(t *testing.T) {
	f := setUp(t)
	url := f.queue("q")
	arn := f.attribute(url, "QueueArn")
	deliver := func(source string) error {
		return f.server.SQS().Deliver(local.Delivery{QueueARN: arn, Body: "m", Service: "events.amazonaws.com", SourceARN: source})
	}
	if err := deliver("arn:rule"); !wire.IsCode(err, "AccessDenied") {
		t.Errorf("without a policy: %v, want AccessDenied", err)
	}
	if _, err := f.client.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &url, Attributes: map[string]string{
		"Policy": `{"Statement":[{"Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"` + arn + `","Condition":{"ArnEquals":{"aws:SourceArn":"arn:aws:events:us-east-1:000000000000:rule/r"}}}]}`,
	}}); err != nil {
		t.Fatal(err)
	}
	if err := deliver("arn:aws:events:us-east-1:000000000000:rule/r"); err != nil {
		t.Errorf("allowed rule: %v", err)
	}
	if err := deliver("arn:aws:events:us-east-1:000000000000:rule/other"); !wire.IsCode(err, "AccessDenied") {
		t.Errorf("other rule: %v, want AccessDenied", err)
	}
	f.server.SetIdentityPolicy("alice", func(action, _ string) bool { return action != "sqs:ReceiveMessage" })
	_, err := f.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url})
	f.wantCode(err, "AccessDenied")
}
