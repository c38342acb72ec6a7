package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/eventlog"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/worker"
)

// fixture is a queue of localaws with a dead-letter queue, in a bubble.
type fixture struct {
	*testing.T
	client      *sqs.Client
	queue, dead string
	log         *records
}

// bubble runs the test in a synctest bubble: hours cost nothing there. The
// queue's attributes are given as name, value, name, value…
func bubble(t *testing.T, test func(t *testing.T, f fixture), attributes ...string) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := localaws.New(localaws.Options{})
		t.Cleanup(server.Close)
		client := sqs.NewFromConfig(inprocess.Config(server, "us-east-1", "test"))
		given := map[string]string{}
		for i := 0; i < len(attributes); i += 2 {
			given[attributes[i]] = attributes[i+1]
		}
		queue := makeQueue(t, client, "events", given)
		test(t, fixture{t, client, queue, queue + "-dead", &records{}})
	})
}

// makeQueue makes a queue and its dead-letter queue, name + "-dead".
func makeQueue(t testing.TB, client *sqs.Client, name string, attributes map[string]string) string {
	t.Helper()
	dead, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String(name + "-dead")})
	if err != nil {
		t.Fatal(err)
	}
	arn, err := client.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: dead.QueueUrl, AttributeNames: []types.QueueAttributeName{"QueueArn"}})
	if err != nil {
		t.Fatal(err)
	}
	redrive, err := json.Marshal(map[string]any{"deadLetterTargetArn": arn.Attributes["QueueArn"], "maxReceiveCount": 5})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"RedrivePolicy": string(redrive), "VisibilityTimeout": "30"}
	maps.Copy(all, attributes)
	out, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: all})
	if err != nil {
		t.Fatal(err)
	}
	return *out.QueueUrl
}

// start runs a pool and returns what stops it and returns Run's error. Options
// that are zero get values for tests.
func (f fixture) start(client worker.SQS, h worker.HandlerFunc, o worker.Options) (stop func() error) {
	f.Helper()
	o.QueueURL = f.queue
	o.Concurrency = max(o.Concurrency, 1)
	o.Logger = slog.New(f.log)
	pool, err := worker.New(f.Context(), client, h, o)
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.Context())
	ran := make(chan error, 1)
	go func() { ran <- pool.Run(ctx) }()
	<-pool.Ready()
	stop = sync.OnceValue(func() error { cancel(); return <-ran })
	f.Cleanup(func() { _ = stop() })
	return stop
}

func (f fixture) send(bodies ...string) {
	f.Helper()
	for _, body := range bodies {
		if _, err := f.client.SendMessage(f.Context(), &sqs.SendMessageInput{QueueUrl: &f.queue, MessageBody: &body}); err != nil {
			f.Fatal(err)
		}
	}
}

// receive returns what a queue has to give at this moment.
func (f fixture) receive(queue string) []types.Message {
	f.Helper()
	var all []types.Message
	for {
		out, err := f.client.ReceiveMessage(f.Context(), &sqs.ReceiveMessageInput{
			QueueUrl: &queue, MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"},
			MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameAll},
		})
		if err != nil {
			f.Fatal(err)
		}
		if len(out.Messages) == 0 {
			return all
		}
		all = append(all, out.Messages...)
	}
}

// counts returns how many messages of a queue are visible, in flight and delayed.
func (f fixture) counts(queue string) [3]int {
	f.Helper()
	names := []types.QueueAttributeName{
		types.QueueAttributeNameApproximateNumberOfMessages,
		types.QueueAttributeNameApproximateNumberOfMessagesNotVisible,
		types.QueueAttributeNameApproximateNumberOfMessagesDelayed,
	}
	out, err := f.client.GetQueueAttributes(f.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &queue, AttributeNames: names})
	if err != nil {
		f.Fatal(err)
	}
	var counts [3]int
	for i, name := range names {
		if counts[i], err = strconv.Atoi(out.Attributes[string(name)]); err != nil {
			f.Fatal(err)
		}
	}
	return counts
}

func (f fixture) wantCounts(queue string, visible, inFlight, delayed int) {
	f.Helper()
	if got, want := f.counts(queue), [3]int{visible, inFlight, delayed}; got != want {
		f.Errorf("%s has %v messages visible, in flight and delayed, want %v", queue, got, want)
	}
}

// records is a slog.Handler that keeps what was logged, one line each.
type records struct {
	mu    sync.Mutex
	lines []string
}

func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) WithGroup(string) slog.Handler            { return r }

func (r *records) Handle(_ context.Context, record slog.Record) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", record.Level, record.Message)
	record.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, b.String())
	return nil
}

// with returns the lines that contain all texts.
func (r *records) with(texts ...string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.lines), func(line string) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) })
	})
}

// meddler is the SDK's client with a hand in some calls; nil hands are off.
type meddler struct {
	*sqs.Client
	deletes func(in *sqs.DeleteMessageBatchInput, out *sqs.DeleteMessageBatchOutput) error
	changes func(in *sqs.ChangeMessageVisibilityBatchInput) error
	sends   func(in *sqs.SendMessageInput) error
	receive func() error
}

func (m meddler) DeleteMessageBatch(ctx context.Context, in *sqs.DeleteMessageBatchInput, o ...func(*sqs.Options)) (*sqs.DeleteMessageBatchOutput, error) {
	if m.deletes != nil {
		failed := &sqs.DeleteMessageBatchOutput{}
		if err := m.deletes(in, failed); err != nil {
			return nil, err
		}
		if len(in.Entries) == 0 {
			return failed, nil
		}
		out, err := m.Client.DeleteMessageBatch(ctx, in, o...)
		if out != nil {
			out.Failed = append(out.Failed, failed.Failed...)
		}
		return out, err
	}
	return m.Client.DeleteMessageBatch(ctx, in, o...)
}

func (m meddler) ChangeMessageVisibilityBatch(ctx context.Context, in *sqs.ChangeMessageVisibilityBatchInput, o ...func(*sqs.Options)) (*sqs.ChangeMessageVisibilityBatchOutput, error) {
	if m.changes != nil {
		if err := m.changes(in); err != nil {
			return nil, err
		}
	}
	return m.Client.ChangeMessageVisibilityBatch(ctx, in, o...)
}

func (m meddler) SendMessage(ctx context.Context, in *sqs.SendMessageInput, o ...func(*sqs.Options)) (*sqs.SendMessageOutput, error) {
	if m.sends != nil {
		if err := m.sends(in); err != nil {
			return nil, err
		}
	}
	return m.Client.SendMessage(ctx, in, o...)
}

func (m meddler) ReceiveMessage(ctx context.Context, in *sqs.ReceiveMessageInput, o ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error) {
	if m.receive != nil {
		if err := m.receive(); err != nil {
			return nil, err
		}
	}
	return m.Client.ReceiveMessage(ctx, in, o...)
}

// wait lets a handler take its time, as a well-behaved one does.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func TestDone(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		var calls, entries atomic.Int64
		client := meddler{Client: f.client, deletes: func(in *sqs.DeleteMessageBatchInput, _ *sqs.DeleteMessageBatchOutput) error {
			calls.Add(1)
			entries.Add(int64(len(in.Entries)))
			return nil
		}}
		var held, handled atomic.Int64
		stop := f.start(client, func(context.Context, worker.Message) error {
			handled.Add(1)
			return nil
		}, worker.Options{Concurrency: 20, InFlight: func(delta int) { held.Add(int64(delta)) }})
		for i := range 100 {
			f.send(strconv.Itoa(i))
		}
		time.Sleep(time.Second)
		f.wantCounts(f.queue, 0, 0, 0)
		if handled.Load() != 100 || entries.Load() != 100 {
			t.Errorf("%d messages handled and %d deleted, want 100", handled.Load(), entries.Load())
		}
		if calls.Load() > 60 {
			t.Errorf("%d calls to delete 100 messages", calls.Load())
		}
		if held.Load() != 0 {
			t.Errorf("InFlight says %d in the end", held.Load())
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestLeaseIsRenewedForHours(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		var handled atomic.Int64
		f.start(f.client, func(ctx context.Context, _ worker.Message) error {
			handled.Add(1)
			return wait(ctx, 5*time.Hour)
		}, worker.Options{Concurrency: 25})
		for i := range 25 { // more than a batch
			f.send(strconv.Itoa(i))
		}
		time.Sleep(4 * time.Hour)
		f.wantCounts(f.queue, 0, 25, 0)
		time.Sleep(2 * time.Hour)
		f.wantCounts(f.queue, 0, 0, 0)
		if handled.Load() != 25 {
			t.Errorf("25 messages were handled %d times", handled.Load())
		}
	}, "VisibilityTimeout", "120")
}

// TestLeaseFollowsTheQueue changes the visibility timeout under a running pool.
func TestLeaseFollowsTheQueue(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		var shortest atomic.Int32
		client := meddler{Client: f.client, changes: func(in *sqs.ChangeMessageVisibilityBatchInput) error {
			shortest.Store(in.Entries[0].VisibilityTimeout)
			return nil
		}}
		var handled atomic.Int64
		f.start(client, func(ctx context.Context, _ worker.Message) error {
			handled.Add(1)
			return wait(ctx, time.Hour)
		}, worker.Options{})
		_, err := f.client.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &f.queue, Attributes: map[string]string{"VisibilityTimeout": "6"}})
		if err != nil {
			t.Fatal(err)
		}
		f.send("x")
		time.Sleep(30 * time.Minute)
		f.wantCounts(f.queue, 0, 1, 0)
		if handled.Load() != 1 {
			t.Errorf("handled %d times", handled.Load())
		}
		if shortest.Load() != 6 {
			t.Errorf("leases are renewed for %d s, the queue says 6", shortest.Load())
		}
	}, "VisibilityTimeout", "300")
}

func TestLeaseLost(t *testing.T) {
	outage := errors.New("no route to host")
	for name, test := range map[string]struct {
		// lose makes the lease end under the handler.
		changes func(*sqs.ChangeMessageVisibilityBatchInput) error
		purge   bool
		within  time.Duration
	}{
		"the message is gone":   {purge: true, within: 12 * time.Second},
		"renewing fails":        {changes: func(*sqs.ChangeMessageVisibilityBatchInput) error { return outage }, within: 30 * time.Second},
		"the twelve hours pass": {within: 12 * time.Hour},
		"the receipt is refused": {changes: func(in *sqs.ChangeMessageVisibilityBatchInput) error {
			in.Entries[0].ReceiptHandle = aws.String("?")
			return nil
		}, within: 12 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f fixture) {
				client := meddler{Client: f.client, changes: test.changes, deletes: func(*sqs.DeleteMessageBatchInput, *sqs.DeleteMessageBatchOutput) error {
					t.Error("something was deleted")
					return nil
				}}
				var began time.Time
				lost := make(chan error, 10)
				stop := f.start(client, func(ctx context.Context, _ worker.Message) error {
					began = time.Now()
					<-ctx.Done()
					lost <- context.Cause(ctx)
					return nil // as if it had been done: it must not count
				}, worker.Options{})
				f.send("x")
				synctest.Wait()
				if test.purge {
					out, err := f.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &f.queue})
					if err != nil || len(out.Messages) > 0 {
						t.Fatal("the handler does not hold the message", err)
					}
					if _, err := f.client.PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: &f.queue}); err != nil {
						t.Fatal(err)
					}
				}
				cause := <-lost
				if !errors.Is(cause, worker.ErrLeaseLost) {
					t.Errorf("cause is %v", cause)
				}
				if took := time.Since(began); took > test.within {
					t.Errorf("the handler was stopped after %s, want within %s", took, test.within)
				}
				synctest.Wait()
				if got := f.log.with("WARN", "outcome=lease lost"); len(got) != 1 {
					t.Errorf("logged %q", f.log.lines)
				}
				go func() { // the handler's further goes
					for range lost {
					}
				}()
				if err := stop(); err != nil {
					t.Error(err)
				}
				close(lost)
			})
		})
	}
}

func TestRetry(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		var times []time.Time
		var counts []int
		f.start(f.client, func(_ context.Context, m worker.Message) error {
			times = append(times, time.Now())
			counts = append(counts, m.ReceiveCount)
			return errors.New("not today")
		}, worker.Options{})
		f.send("x")
		time.Sleep(time.Hour)
		synctest.Wait()
		if diff := cmp.Diff([]int{1, 2, 3, 4, 5}, counts); diff != "" {
			t.Errorf("receive counts (-want +got):\n%s", diff)
		}
		for i := range len(times) - 1 {
			longest := 2 * time.Second << i
			if got := times[i+1].Sub(times[i]); got < longest*4/5-time.Second || got > longest+time.Second {
				t.Errorf("try %d came %s after the one before, want about %s", i+2, got, longest)
			}
		}
		f.wantCounts(f.queue, 0, 0, 0)
		f.wantCounts(f.dead, 1, 0, 0) // the redrive policy ended it
	})
}

func TestDelay(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		sent := time.Now()
		var got []worker.Message
		var times []time.Duration
		f.start(f.client, func(_ context.Context, m worker.Message) error {
			got = append(got, m)
			times = append(times, time.Since(sent).Round(time.Second))
			if len(got) < 10 { // more often than the redrive policy allows receives
				return outcome.RetryAfter(time.Hour, errors.New("not yet")) // 15 minutes at most
			}
			return nil
		}, worker.Options{})
		_, err := f.client.SendMessage(t.Context(), &sqs.SendMessageInput{
			QueueUrl: &f.queue, MessageBody: aws.String("x"),
			MessageAttributes: map[string]types.MessageAttributeValue{
				"text":   {DataType: aws.String("String"), StringValue: aws.String("ü")},
				"number": {DataType: aws.String("Number.int"), StringValue: aws.String("42")},
				"bytes":  {DataType: aws.String("Binary"), BinaryValue: []byte{0, 255}},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if len(got) != 10 {
			t.Fatalf("handled %d times, want 10", len(got))
		}
		for i, m := range got {
			m.ID = ""
			want := worker.Message{Body: "x", Attributes: map[string]string{"text": "ü", "number": "42"}, ReceiveCount: 1, Sent: got[0].Sent, Sender: "AIDALOCAL"}
			if diff := cmp.Diff(want, m); diff != "" {
				t.Errorf("message %d (-want +got):\n%s", i, diff)
			}
			if want := time.Duration(i) * 15 * time.Minute; times[i] < want || times[i] > want+time.Minute {
				t.Errorf("message %d came after %s, want %s", i, times[i], want)
			}
		}
		if !got[0].Sent.Equal(sent.Truncate(time.Millisecond)) {
			t.Errorf("sent at %s, want %s", got[0].Sent, sent)
		}
		f.wantCounts(f.queue, 0, 0, 0)
		f.wantCounts(f.dead, 0, 0, 0)
	})
}

// TestDelayEnds has a handler that waits for ever: each copy starts the queue's
// retention anew, so the worker has to end it.
func TestDelayEnds(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		f.start(f.client, func(context.Context, worker.Message) error {
			return outcome.RetryAfter(10*time.Minute, errors.New("alias not seen yet"))
		}, worker.Options{})
		f.send("x")
		time.Sleep(59 * time.Minute)
		f.wantCounts(f.dead, 0, 0, 0)
		time.Sleep(15 * time.Minute)
		dead := f.receive(f.dead)
		if len(dead) != 1 {
			t.Fatalf("%d messages in the dead-letter queue, want 1", len(dead))
		}
		want := "waited longer than the queue's retention of 1h0m0s: wait 10m0s: alias not seen yet"
		if got := aws.ToString(dead[0].MessageAttributes[worker.AttributeReason].StringValue); got != want {
			t.Errorf("reason %q, want %q", got, want)
		}
	}, "MessageRetentionPeriod", "3600")
}

// TestDelayWithoutRoom has messages that could wait for ever, since no copy of them can
// say when the first one was sent.
func TestDelayWithoutRoom(t *testing.T) {
	for name, in := range map[string]sqs.SendMessageInput{
		"ten attributes": {MessageBody: aws.String("x"), MessageAttributes: attributes(10)},
		"a full body":    {MessageBody: aws.String(strings.Repeat("x", 1<<20))},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f fixture) {
				calls := 0
				f.start(f.client, func(context.Context, worker.Message) error {
					calls++
					return outcome.RetryAfter(30*time.Second, errors.New("alias not seen yet"))
				}, worker.Options{})
				in.QueueUrl = &f.queue
				if _, err := f.client.SendMessage(t.Context(), &in); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				f.wantCounts(f.queue, 0, 0, 0)
				f.wantCounts(f.dead, 1, 0, 0)
				want := "cannot wait: a copy has no room for the attribute cmkeeper-first-sent beside the message's body and its 10 attributes: wait 30s: alias not seen yet"
				if got := aws.ToString(f.receive(f.dead)[0].MessageAttributes[worker.AttributeReason].StringValue); in.MessageAttributes != nil && got != want {
					t.Errorf("reason %q, want %q", got, want)
				}
				if got := f.log.with("ERROR", "outcome=dead-letter", "a copy has no room for the attribute cmkeeper-first-sent"); calls != 1 || len(got) != 1 {
					t.Errorf("%d calls, logged %q", calls, f.log.lines)
				}
			})
		})
	}
}

func TestReject(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		f.start(f.client, func(_ context.Context, m worker.Message) error {
			return outcome.Reject(fmt.Errorf("parse %q: no\x00event\n<&ü>", m.Body[:1]))
		}, worker.Options{})
		big := strings.Repeat("x", 1<<20)
		full := attributes(9)
		full["0"] = types.MessageAttributeValue{DataType: aws.String("Binary.png"), BinaryValue: []byte{0, 255}}
		full["1"] = types.MessageAttributeValue{DataType: aws.String("Number"), StringValue: aws.String("12")}
		for _, in := range []*sqs.SendMessageInput{
			{MessageBody: aws.String("small")}, {MessageBody: &big}, {MessageBody: aws.String("full"), MessageAttributes: full},
		} {
			in.QueueUrl = &f.queue
			if _, err := f.client.SendMessage(t.Context(), in); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		f.wantCounts(f.queue, 0, 0, 0)
		got := map[string][]string{}
		for _, m := range f.receive(f.dead) {
			var attributes []string
			for name, v := range m.MessageAttributes {
				if strings.HasPrefix(name, "cmkeeper") {
					attributes = append(attributes, name+"="+*v.StringValue)
				}
			}
			slices.Sort(attributes)
			got[fmt.Sprintf("%.5s %d", *m.Body, len(*m.Body))] = attributes
		}
		want := map[string][]string{
			"small 5":       {"cmkeeper-queue=events", `cmkeeper-reason=parse "s": no\x00event\n<&ü>`, "cmkeeper-receive-count=1"},
			"xxxxx 1048576": nil,
			"full 4": {
				`cmkeeper-attributes={"0":{"type":"Binary.png","binary":"AP8="},"1":{"type":"Number","text":"12"},"2":{"type":"String","text":"v"},"3":{"type":"String","text":"v"},"4":{"type":"String","text":"v"},` +
					`"5":{"type":"String","text":"v"},"6":{"type":"String","text":"v"},"7":{"type":"String","text":"v"},"8":{"type":"String","text":"v"}}`,
				"cmkeeper-queue=events", `cmkeeper-reason=parse "f": no\x00event\n<&ü>`, "cmkeeper-receive-count=1",
			},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("dead letters (-want +got):\n%s", diff)
		}
		if got := f.log.with("ERROR", "outcome=dead-letter", "receive_count=1", "duration="); len(got) != 3 {
			t.Errorf("logged %q", f.log.lines)
		}
	})
}

func TestCopyIsRefused(t *testing.T) {
	for name, result := range map[string]error{
		"rejected": outcome.Reject(errors.New("no event")),
		"delayed":  outcome.RetryAfter(time.Second, errors.New("not yet")),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f fixture) {
				client := meddler{Client: f.client, sends: func(*sqs.SendMessageInput) error { return errors.New("refused") }}
				f.start(client, func(context.Context, worker.Message) error { return result }, worker.Options{})
				f.send("x")
				time.Sleep(time.Hour)
				f.wantCounts(f.queue, 0, 0, 0)
				dead := f.receive(f.dead)
				if len(dead) != 1 { // by the redrive policy
					t.Fatalf("%d messages in the dead-letter queue, want 1", len(dead))
				}
				if got := dead[0].Attributes["ApproximateReceiveCount"]; got < "5" {
					t.Errorf("it was received %s times, want all that the policy allows", got)
				}
			})
		})
	}
}

func TestPanic(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		var handled []string
		f.start(f.client, func(_ context.Context, m worker.Message) error {
			handled = append(handled, m.Body)
			if m.Body == "bad" && m.ReceiveCount == 1 {
				panic("at the disco")
			}
			return nil
		}, worker.Options{})
		f.send("bad", "good")
		time.Sleep(time.Minute)
		synctest.Wait()
		if diff := cmp.Diff([]string{"bad", "good", "bad"}, handled); diff != "" {
			t.Errorf("handled (-want +got):\n%s", diff)
		}
		f.wantCounts(f.queue, 0, 0, 0)
		if got := f.log.with("ERROR", "outcome=retry", "at the disco", "worker_test.go"); len(got) != 1 {
			t.Errorf("the panic was logged as %q", f.log.lines)
		}
	})
}

// TestSlots holds all slots and looks at the queue: no further message may have
// been received, and none may be without a lease.
func TestSlots(t *testing.T) {
	for _, concurrency := range []int{1, 2, 7, 16, 40} {
		t.Run(strconv.Itoa(concurrency), func(t *testing.T) {
			bubble(t, func(t *testing.T, f fixture) {
				var now, most atomic.Int64
				f.start(f.client, func(ctx context.Context, m worker.Message) error {
					if n := now.Add(1); n > most.Load() {
						most.Store(n)
					}
					defer now.Add(-1)
					if m.ReceiveCount > 1 {
						t.Errorf("%s was received %d times", m.Body, m.ReceiveCount)
					}
					return wait(ctx, 2*time.Minute)
				}, worker.Options{Concurrency: concurrency})
				const total = 60
				for i := range total {
					f.send(strconv.Itoa(i))
				}
				for done := 0; done < total; done += concurrency {
					time.Sleep(time.Minute)
					want := min(concurrency, total-done)
					f.wantCounts(f.queue, total-done-want, want, 0)
					time.Sleep(time.Minute + 500*time.Millisecond)
				}
				time.Sleep(5 * time.Minute)
				f.wantCounts(f.queue, 0, 0, 0)
				if most.Load() != int64(concurrency) {
					t.Errorf("%d handlers ran at once, want %d", most.Load(), concurrency)
				}
			})
		})
	}
}

// TestBytesInFlight lets handlers hold what they have: bodies of 16 MiB at most are in
// flight, however many slots are free, and small ones take up no more than they have. The
// first message shows how large they are.
func TestBytesInFlight(t *testing.T) {
	for name, test := range map[string]struct {
		size, sent, least, most int // in flight
	}{
		"largest": {1 << 20, 18, 12, 16},
		"large":   {300 << 10, 100, 45, 54},
		"small":   {100, 100, 100, 100},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f fixture) {
				body := strings.Repeat("x", test.size)
				var working, first atomic.Int64
				f.start(f.client, func(ctx context.Context, _ worker.Message) error {
					if first.Add(1) == 1 {
						return nil
					}
					defer working.Add(-1)
					working.Add(1)
					return wait(ctx, time.Minute)
				}, worker.Options{Concurrency: 200})
				f.send(body)
				time.Sleep(time.Minute)
				for range test.sent {
					f.send(body)
				}
				time.Sleep(30 * time.Second)
				if n := int(working.Load()); n < test.least || n > test.most {
					t.Errorf("%d messages are in flight, want %d to %d", n, test.least, test.most)
				}
				time.Sleep(5 * time.Minute)
				f.wantCounts(f.queue, 0, 0, 0)
			})
		})
	}
}

// TestLargeMessagesUnexpected has more large messages arrive at once than may be in flight:
// each is handled, once, when there is room for it.
func TestLargeMessagesUnexpected(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		for range 50 {
			f.send(strings.Repeat("x", 1<<20))
		}
		var now, most, handled atomic.Int64
		f.start(f.client, func(ctx context.Context, m worker.Message) error {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer now.Add(-1)
			handled.Add(1)
			if m.ReceiveCount > 1 {
				t.Errorf("a message was received %d times", m.ReceiveCount)
			}
			return wait(ctx, 100*time.Millisecond)
		}, worker.Options{Concurrency: 200})
		time.Sleep(time.Minute)
		f.wantCounts(f.queue, 0, 0, 0)
		if handled.Load() != 50 || most.Load() > 16 {
			t.Errorf("%d messages were handled, at most %d at once", handled.Load(), most.Load())
		}
	})
}

func TestDeleteFailsInPart(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		calls := 0
		client := meddler{Client: f.client, deletes: func(in *sqs.DeleteMessageBatchInput, out *sqs.DeleteMessageBatchOutput) error {
			calls++
			if calls == 1 {
				return errors.New("connection reset")
			}
			if calls < 4 { // every other one fails
				var rest []types.DeleteMessageBatchRequestEntry
				for i, e := range in.Entries {
					if i%2 == 0 {
						out.Failed = append(out.Failed, types.BatchResultErrorEntry{Id: e.Id, Code: aws.String("InternalError")})
					} else {
						rest = append(rest, e)
					}
				}
				in.Entries = rest
			}
			return nil
		}}
		var handled atomic.Int64
		f.start(client, func(context.Context, worker.Message) error { handled.Add(1); return nil }, worker.Options{Concurrency: 10})
		f.send("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
		time.Sleep(10 * time.Minute)
		f.wantCounts(f.queue, 0, 0, 0)
		if handled.Load() != 10 {
			t.Errorf("10 messages were handled %d times", handled.Load())
		}
		if got := f.log.with("ERROR", "cannot delete messages"); len(got) != 2 { // two causes
			t.Errorf("logged %q", f.log.lines)
		}
		if got := f.log.with("messages are deleted again"); len(got) != 1 {
			t.Errorf("logged %q", f.log.lines)
		}
	})
}

// TestDeleteIsRefused has SQS refuse a receipt: it is not tried again.
func TestDeleteIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		calls := 0
		client := meddler{Client: f.client, deletes: func(in *sqs.DeleteMessageBatchInput, out *sqs.DeleteMessageBatchOutput) error {
			calls++
			if calls == 1 {
				out.Failed = []types.BatchResultErrorEntry{{Id: in.Entries[0].Id, Code: aws.String("ReceiptHandleIsInvalid"), SenderFault: true}}
				in.Entries = nil
			}
			return nil
		}}
		stop := f.start(client, func(context.Context, worker.Message) error { return nil }, worker.Options{})
		f.send("x")
		time.Sleep(10 * time.Second)
		f.wantCounts(f.queue, 0, 1, 0)
		time.Sleep(time.Minute)
		f.wantCounts(f.queue, 0, 0, 0)
		if err := stop(); err != nil { // what came again is not left behind
			t.Error(err)
		}
		if calls != 2 {
			t.Errorf("%d calls to delete, want 2", calls)
		}
	})
}

// TestDeleteFailsForLong has deletes fail until the lease has run out: the
// message comes again, and the pool goes on.
func TestDeleteFailsForLong(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		var mended atomic.Bool
		client := meddler{Client: f.client, deletes: func(*sqs.DeleteMessageBatchInput, *sqs.DeleteMessageBatchOutput) error {
			if mended.Load() {
				return nil
			}
			return errors.New("connection reset")
		}}
		var handled atomic.Int64
		f.start(client, func(context.Context, worker.Message) error { handled.Add(1); return nil }, worker.Options{})
		f.send("x")
		time.Sleep(40 * time.Second)
		if got := f.log.with("ERROR", "could not be deleted; it will be received again"); len(got) != 1 {
			t.Errorf("logged %q", f.log.lines)
		}
		mended.Store(true)
		time.Sleep(time.Minute)
		f.wantCounts(f.queue, 0, 0, 0)
		if handled.Load() != 2 {
			t.Errorf("handled %d times, want 2", handled.Load())
		}
	})
}

func TestDrainInTime(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		stop := f.start(f.client, func(ctx context.Context, _ worker.Message) error { return wait(ctx, 20*time.Second) },
			worker.Options{Concurrency: 3, DrainTimeout: 25 * time.Second})
		f.send("0", "1", "2")
		time.Sleep(time.Second)
		start := time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 21*time.Second {
			t.Errorf("draining took %s", took)
		}
		f.wantCounts(f.queue, 0, 0, 0)
	})
}

func TestDrainIdle(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		stop := f.start(f.client, func(context.Context, worker.Message) error { return nil },
			worker.Options{Concurrency: 40, DrainTimeout: 25 * time.Second})
		time.Sleep(304*time.Second + time.Millisecond) // a poll has just begun
		start := time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 9*time.Second { // Docker kills after ten
			t.Errorf("draining took %s", took)
		}
	})
}

// TestDrainHandsBack stops a pool whose handlers do not finish: their messages
// are there for others at once, unspent and with their age.
func TestDrainHandsBack(t *testing.T) {
	for name, test := range map[string]struct {
		stubborn bool // the handler ignores its context
		sends    func(*sqs.SendMessageInput) error
		count    string
	}{
		"by a copy":             {count: "1"},
		"from stubborn hands":   {stubborn: true, count: "1"},
		"by visibility instead": {sends: func(*sqs.SendMessageInput) error { return errors.New("refused") }, count: "3"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f fixture) {
				release := make(chan struct{})
				stop := f.start(meddler{Client: f.client, sends: test.sends}, func(ctx context.Context, m worker.Message) error {
					if m.ReceiveCount == 1 {
						return errors.New("once more")
					}
					if test.stubborn {
						<-release
						return nil // too late
					}
					<-ctx.Done()
					if cause := context.Cause(ctx); !errors.Is(cause, worker.ErrDraining) {
						t.Errorf("cause is %v", cause)
					}
					return ctx.Err()
				}, worker.Options{Concurrency: 12, DrainTimeout: 25 * time.Second})
				sent := time.Now()
				for i := range 12 {
					f.send(strconv.Itoa(i))
				}
				time.Sleep(time.Minute)
				start := time.Now()
				if err := stop(); err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took > 30*time.Second {
					t.Errorf("draining took %s", took)
				}
				messages := f.receive(f.queue)
				if len(messages) != 12 {
					t.Fatalf("%d messages are there at once, want 12", len(messages))
				}
				for _, m := range messages {
					if got := m.Attributes["ApproximateReceiveCount"]; got != test.count {
						t.Errorf("message %s is received for the %s. time, want %s", *m.Body, got, test.count)
					}
					first := strconv.FormatInt(sent.UnixMilli(), 10)
					if got := aws.ToString(m.MessageAttributes[worker.AttributeFirstSent].StringValue); test.sends == nil && got != first {
						t.Errorf("first sent at %q, want %s", got, first)
					}
				}
				close(release)
			})
		})
	}
}

// TestDrainArrival sends a message to a poll that is still open while draining.
func TestDrainArrival(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		stop := f.start(f.client, func(context.Context, worker.Message) error {
			t.Error("handled while draining")
			return nil
		}, worker.Options{DrainTimeout: 25 * time.Second})
		time.Sleep(time.Second)
		go func() {
			time.Sleep(5 * time.Second)
			f.send("late")
		}()
		if err := stop(); err != nil {
			t.Error(err)
		}
		messages := f.receive(f.queue)
		if len(messages) != 1 || messages[0].Attributes["ApproximateReceiveCount"] != "1" {
			t.Errorf("got %v, want the message unspent", messages)
		}
	})
}

// TestDrainBesideOpenPolls stops a pool whose handler does not finish, while a poll of it
// is open. SQS notices late that a poll was aborted, and gives it what arrives meanwhile.
func TestDrainBesideOpenPolls(t *testing.T) {
	for name, test := range map[string]struct {
		drain time.Duration
		late  time.Duration // how late SQS notices
		full  bool          // with ten attributes, so that no copy is made
	}{
		"shorter than a poll":            {drain: 10 * time.Second, late: time.Hour},
		"longer than a poll":             {drain: 25 * time.Second, late: time.Hour},
		"none at all":                    {drain: 0, late: time.Second},
		"shorter than any poll":          {drain: 200 * time.Millisecond, late: time.Second},
		"by visibility, and none at all": {drain: 0, late: time.Second, full: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f fixture) {
				client := lateServer{f.client, test.late}
				stop := f.start(client, func(ctx context.Context, _ worker.Message) error {
					<-ctx.Done()
					return ctx.Err()
				}, worker.Options{Concurrency: 12, DrainTimeout: test.drain})
				in := &sqs.SendMessageInput{QueueUrl: &f.queue, MessageBody: aws.String("x")}
				if test.full {
					in.MessageAttributes = attributes(10)
				}
				if _, err := f.client.SendMessage(t.Context(), in); err != nil {
					t.Fatal(err)
				}
				time.Sleep(3 * time.Second)
				if err := stop(); err != nil {
					t.Error(err)
				}
				time.Sleep(3 * time.Second)
				if got := f.receive(f.queue); len(got) != 1 {
					t.Errorf("three seconds after the end another worker receives %d messages, want 1; the queue has %v", len(got), f.counts(f.queue))
				}
			})
		})
	}
}

// lateServer is SQS, which notices so late that a poll was aborted.
type lateServer struct {
	*sqs.Client
	late time.Duration
}

func (s lateServer) ReceiveMessage(ctx context.Context, in *sqs.ReceiveMessageInput, o ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error) {
	type answer struct {
		out *sqs.ReceiveMessageOutput
		err error
	}
	noticed, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(s.late, cancel) })
	answered := make(chan answer, 1)
	go func() {
		out, err := s.Client.ReceiveMessage(noticed, in, o...)
		stop()
		answered <- answer{out, err}
	}()
	select {
	case a := <-answered:
		return a.out, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestHandBackWithoutRoom stops a pool that has a message of which no copy can say when
// it was sent first.
func TestHandBackWithoutRoom(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		stop := f.start(f.client, func(ctx context.Context, _ worker.Message) error {
			<-ctx.Done()
			return ctx.Err()
		}, worker.Options{DrainTimeout: 25 * time.Second})
		sent := time.Now()
		if _, err := f.client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &f.queue, MessageBody: aws.String("x"), MessageAttributes: attributes(10)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Error(err)
		}
		got := f.receive(f.queue)
		if len(got) != 1 || got[0].Attributes["SentTimestamp"] != strconv.FormatInt(sent.UnixMilli(), 10) || len(got[0].MessageAttributes) != 10 {
			t.Errorf("got %+v, want the message as it was sent at %d", got, sent.UnixMilli())
		}
	})
}

// attributes returns so many message attributes, "0" to "9".
func attributes(n int) map[string]types.MessageAttributeValue {
	all := map[string]types.MessageAttributeValue{}
	for i := range n {
		all[strconv.Itoa(i)] = types.MessageAttributeValue{DataType: aws.String("String"), StringValue: aws.String("v")}
	}
	return all
}

// TestDrainCutOff stops a pool while SQS answers nothing any more.
func TestDrainCutOff(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		var cut atomic.Bool
		down := errors.New("no route to host")
		client := meddler{
			Client:  f.client,
			deletes: func(*sqs.DeleteMessageBatchInput, *sqs.DeleteMessageBatchOutput) error { return down },
			sends:   func(*sqs.SendMessageInput) error { return down },
			changes: func(*sqs.ChangeMessageVisibilityBatchInput) error {
				if cut.Load() {
					return down
				}
				return nil
			},
		}
		stop := f.start(client, func(ctx context.Context, m worker.Message) error {
			if m.Body == "done" {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}, worker.Options{Concurrency: 2, DrainTimeout: 10 * time.Second})
		f.send("done", "running")
		time.Sleep(time.Second)
		cut.Store(true)
		start := time.Now()
		err := stop()
		if err == nil || !strings.Contains(err.Error(), "2 messages could neither be deleted nor handed back") {
			t.Errorf("Run returned %v", err)
		}
		if took := time.Since(start); took > 15*time.Second {
			t.Errorf("draining took %s", took)
		}
	})
}

func TestQueueDisappears(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		var handled atomic.Int64
		f.start(f.client, func(context.Context, worker.Message) error { handled.Add(1); return nil }, worker.Options{Concurrency: 16})
		f.send("before")
		time.Sleep(time.Minute)
		if _, err := f.client.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: &f.queue}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if got := f.log.with("ERROR", "cannot receive messages", "events", "create the queue"); len(got) != 1 {
			t.Errorf("an hour without the queue logged %q", f.log.lines)
		}
		makeQueue(t, f.client, "events", nil)
		f.send("after")
		time.Sleep(time.Minute)
		if handled.Load() != 2 {
			t.Errorf("handled %d messages, want 2", handled.Load())
		}
		if got := f.log.with("messages are received again"); len(got) != 1 {
			t.Errorf("logged %q", f.log.lines)
		}
	})
}

// TestNothingIsLost sends a thousand messages through handlers that do anything
// they may, over a queue whose calls fail now and then, with restarts that leave
// no time to drain. Each message must in the end be done or in the dead-letter
// queue.
func TestNothingIsLost(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			bubble(t, func(t *testing.T, f fixture) {
				const total = 1000
				var mu sync.Mutex
				random := rand.New(rand.NewPCG(seed, 42))
				roll := func(n int) int {
					mu.Lock()
					defer mu.Unlock()
					return random.IntN(n)
				}
				glitch := func() error {
					if roll(20) == 0 {
						return errors.New("connection reset")
					}
					return nil
				}
				client := meddler{
					Client:  f.client,
					deletes: func(*sqs.DeleteMessageBatchInput, *sqs.DeleteMessageBatchOutput) error { return glitch() },
					changes: func(*sqs.ChangeMessageVisibilityBatchInput) error { return glitch() },
					sends:   func(*sqs.SendMessageInput) error { return glitch() },
					receive: glitch,
				}
				done := map[string]bool{}
				handle := func(ctx context.Context, m worker.Message) error {
					if err := wait(ctx, time.Duration(roll(60_000))*time.Millisecond); err != nil {
						return err
					}
					switch roll(10) {
					case 0:
						return errors.New("failed")
					case 1:
						panic("failed badly")
					case 2:
						return outcome.RetryAfter(time.Duration(roll(1200))*time.Second, errors.New("not yet"))
					case 3:
						return outcome.Reject(errors.New("no event"))
					}
					mu.Lock()
					defer mu.Unlock()
					done[m.Body] = true
					return nil
				}
				for i := range total {
					f.send(strconv.Itoa(i))
				}
				for f.counts(f.queue) != [3]int{} {
					drain := time.Duration(roll(40)) * time.Second
					stop := f.start(client, handle, worker.Options{Concurrency: 30, DrainTimeout: drain, WaitTime: 5 * time.Second})
					time.Sleep(time.Duration(roll(600)) * time.Second)
					if err := stop(); err != nil {
						t.Log(err)
					}
				}
				found := maps.Clone(done)
				for _, m := range f.receive(f.dead) {
					found[*m.Body] = true
				}
				if len(found) != total {
					t.Errorf("%d of %d messages are done or in the dead-letter queue", len(found), total)
				}
			})
		})
	}
}

func TestNewRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		create := func(name string, attributes map[string]string) string {
			out, err := f.client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: attributes})
			if err != nil {
				t.Fatal(err)
			}
			return *out.QueueUrl
		}
		gone := makeQueue(t, f.client, "orphan", nil)
		if _, err := f.client.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: aws.String(gone + "-dead")}); err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			name    string
			options worker.Options
			want    []string
		}{
			{"no options", worker.Options{}, []string{"no queue URL", "concurrency 0 is below 1"}},
			{"bad times", worker.Options{QueueURL: f.queue, Concurrency: 1, DrainTimeout: -1, WaitTime: time.Minute}, []string{"drain timeout -1ns is negative", "wait time 1m0s is not in whole seconds up to 20s"}},
			{"no queue", worker.Options{QueueURL: f.queue + "x", Concurrency: 1}, []string{"check queue eventsx", "fix: create the queue"}},
			{"no redrive policy", worker.Options{QueueURL: create("bare", nil), Concurrency: 1}, []string{"check queue bare", "no redrive policy", "fix: create a dead-letter queue"}},
			{"no dead-letter queue", worker.Options{QueueURL: gone, Concurrency: 1}, []string{"check queue orphan", "dead-letter queue orphan-dead", "fix: create the queue"}},
			{"no visibility timeout", worker.Options{QueueURL: makeQueue(t, f.client, "bad", map[string]string{"VisibilityTimeout": "0"}), Concurrency: 1}, []string{"check queue bad", "visibility timeout is 0", "fix: set VisibilityTimeout"}},
			{"FIFO", worker.Options{QueueURL: f.queue + ".fifo", Concurrency: 1}, []string{"check queue events.fifo", "FIFO", "fix: use a standard queue"}},
		} {
			_, err := worker.New(t.Context(), f.client, worker.HandlerFunc(nil), test.options)
			if err == nil {
				t.Errorf("%s: New succeeded", test.name)
				continue
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %q does not say %q", test.name, err, want)
				}
			}
		}
	})
}

// lookUps counts the look-ups of queues' URLs, and says of the likely URL what it is told to.
type lookUps struct {
	*sqs.Client
	n      int
	likely func(url string, out *sqs.GetQueueAttributesOutput) error
}

func (l *lookUps) GetQueueUrl(ctx context.Context, in *sqs.GetQueueUrlInput, o ...func(*sqs.Options)) (*sqs.GetQueueUrlOutput, error) {
	l.n++
	out, err := l.Client.GetQueueUrl(ctx, in, o...)
	if err == nil {
		*out.QueueUrl += "?" // the one that SQS gave
	}
	return out, err
}

func (l *lookUps) GetQueueAttributes(ctx context.Context, in *sqs.GetQueueAttributesInput, o ...func(*sqs.Options)) (*sqs.GetQueueAttributesOutput, error) {
	url, given := strings.CutSuffix(*in.QueueUrl, "?")
	out, err := l.Client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &url, AttributeNames: in.AttributeNames}, o...)
	if err == nil && !given && l.likely != nil {
		err = l.likely(url, out)
	}
	return out, err
}

// TestCheckQueueFindsTheDeadLetterQueue has the dead-letter queue where it is likely to
// be, and elsewhere.
func TestCheckQueueFindsTheDeadLetterQueue(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		dead := func(url string) bool { return strings.HasSuffix(url, "-dead") }
		for _, test := range []struct {
			name    string
			likely  func(url string, out *sqs.GetQueueAttributesOutput) error
			lookUps int
			url     string
		}{
			{"beside the queue", nil, 0, f.dead},
			{"not beside it", func(url string, _ *sqs.GetQueueAttributesOutput) error {
				if dead(url) {
					return errors.New("no such queue")
				}
				return nil
			}, 1, f.dead + "?"},
			{"another queue beside it", func(url string, out *sqs.GetQueueAttributesOutput) error {
				if dead(url) {
					out.Attributes["QueueArn"] = "arn:aws:sqs:eu-west-1:000000000000:events-dead"
				}
				return nil
			}, 1, f.dead + "?"},
		} {
			client := &lookUps{Client: f.client, likely: test.likely}
			q, err := worker.CheckQueue(t.Context(), client, f.queue)
			if err != nil {
				t.Errorf("%s: %v", test.name, err)
				continue
			}
			if client.n != test.lookUps || q.DeadLetter.URL != test.url || !strings.HasSuffix(q.DeadLetter.ARN, ":000000000000:events-dead") {
				t.Errorf("%s: %d look-ups, want %d; found %+v, want %s", test.name, client.n, test.lookUps, q.DeadLetter, test.url)
			}
		}
	})
}

func TestRunTwice(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		pool, err := worker.New(t.Context(), f.client, worker.HandlerFunc(nil), worker.Options{QueueURL: f.queue, Concurrency: 1})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := pool.Run(ctx); err != nil {
			t.Error(err)
		}
		if err := pool.Run(ctx); err == nil {
			t.Error("a second Run succeeded")
		}
		if f.log.lines != nil {
			t.Errorf("logged %q", f.log.lines)
		}
	})
}

// TestHandled has every outcome counted once, with the event that the handler has noted.
func TestHandled(t *testing.T) {
	bubble(t, func(t *testing.T, f fixture) {
		var mu sync.Mutex
		counted := map[string]int{}
		started := make(chan struct{})
		stop := f.start(f.client, func(ctx context.Context, m worker.Message) error {
			eventlog.Note(ctx, eventlog.Event{Name: m.Body})
			switch m.Body {
			case "delay":
				return outcome.RetryAfter(time.Hour, errors.New("not yet"))
			case "reject":
				return outcome.Reject(errors.New("never"))
			case "retry":
				return errors.New("failed")
			case "panic":
				panic("at the disco")
			case "hang":
				close(started)
				<-ctx.Done()
				return context.Cause(ctx)
			}
			return nil
		}, worker.Options{Concurrency: 6, Handled: func(ctx context.Context, result string) {
			mu.Lock()
			defer mu.Unlock()
			counted[eventlog.Noted(ctx).Name+": "+result]++
		}})
		f.send("done", "delay", "reject", "retry", "panic", "hang")
		<-started
		time.Sleep(500 * time.Millisecond)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		want := map[string]int{"done: delete": 1, "delay: delay": 1, "reject: dead-letter": 1, "retry: retry": 1, "panic: retry": 1, "hang: handed-back": 1}
		if diff := cmp.Diff(want, counted); diff != "" {
			t.Errorf("what was counted: %s", diff)
		}
	})
}
