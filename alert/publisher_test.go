package alert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	_ "github.com/cmkeeper/cmkeeper/internal/testgc" // accounts that live for one test are garbage soon
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

// world is an account with a topic, a queue that subscribes to it, and a state bucket.
type world struct {
	*Publisher
	cfg    aws.Config
	queues *sqs.Client
	topics *sns.Client
	bucket *s3.Client
	queue  string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	server := localaws.New(localaws.Options{})
	t.Cleanup(server.Close)
	cfg := inprocess.Config(server, "us-east-1", "test")
	w := &world{
		cfg:    cfg,
		queues: sqs.NewFromConfig(cfg), topics: sns.NewFromConfig(cfg),
		bucket: s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true }),
	}
	ctx := t.Context()
	topic, err := w.topics.CreateTopic(ctx, &sns.CreateTopicInput{Name: aws.String("alerts")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.bucket.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String("state")}); err != nil {
		t.Fatal(err)
	}
	w.Publisher = &Publisher{SNS: w.topics, Store: state.New(w.bucket, "state", "cmkeeper/", ""), Topics: []Topic{{ARN: *topic.TopicArn}}}
	w.queue = w.subscribe(t, "all", nil)
	return w
}

// subscribe makes a queue that gets the topic's messages raw, with their attributes.
func (w *world) subscribe(t *testing.T, name string, attributes map[string]string) (url string) {
	t.Helper()
	ctx := t.Context()
	policy := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"sns.amazonaws.com"},
		"Action":"sqs:SendMessage","Resource":"*","Condition":{"ArnEquals":{"aws:SourceArn":"%s"}}}]}`, w.Topics[0].ARN)
	queue, err := w.queues.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &name, Attributes: map[string]string{"Policy": policy}})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"RawMessageDelivery": "true"}
	for k, v := range attributes {
		all[k] = v
	}
	_, err = w.topics.Subscribe(ctx, &sns.SubscribeInput{
		TopicArn: &w.Topics[0].ARN, Protocol: aws.String("sqs"), Endpoint: aws.String("arn:aws:sqs:us-east-1:000000000000:" + name), Attributes: all,
	})
	if err != nil {
		t.Fatal(err)
	}
	return *queue.QueueUrl
}

// received returns what has arrived on the queue and removes it.
func (w *world) received(t *testing.T, queue string) []types.Message {
	t.Helper()
	var all []types.Message
	for {
		out, err := w.queues.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
			QueueUrl: &queue, MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"},
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(out.Messages) == 0 {
			return all
		}
		all = append(all, out.Messages...)
		for _, m := range out.Messages {
			if _, err := w.queues.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &queue, ReceiptHandle: m.ReceiptHandle}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (w *world) expect(t *testing.T, what string, want int) []types.Message {
	t.Helper()
	got := w.received(t, w.queue)
	if len(got) != want {
		t.Errorf("%s: %d messages, want %d", what, len(got), want)
	}
	return got
}

// snsFunc is an SNS between the publisher and the real client.
type snsFunc func(context.Context, *sns.PublishInput) (*sns.PublishOutput, error)

func (f snsFunc) Publish(ctx context.Context, in *sns.PublishInput, _ ...func(*sns.Options)) (*sns.PublishOutput, error) {
	return f(ctx, in)
}

func TestPublish(t *testing.T) {
	w := newWorld(t)
	urgent := w.subscribe(t, "urgent", map[string]string{"FilterPolicy": `{"severity": ["critical", "high"]}`})
	routine := w.subscribe(t, "routine", map[string]string{"FilterPolicy": `{"severity": [{"anything-but": ["critical", "high"]}]}`})
	var sent *sns.PublishInput
	w.SNS = snsFunc(func(ctx context.Context, in *sns.PublishInput) (*sns.PublishOutput, error) {
		sent = in
		return w.topics.Publish(ctx, in)
	})
	a := deletion()
	if err := w.Publish(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	m := w.expect(t, "an alert", 1)[0]
	if n := len(w.received(t, urgent)); n != 1 {
		t.Errorf("%d messages for the urgent", n)
	}
	if n := len(w.received(t, routine)); n != 0 {
		t.Errorf("%d messages for the routine", n)
	}
	attributes := map[string]string{}
	for name, v := range m.MessageAttributes {
		attributes[name] = *v.StringValue
	}
	want := map[string]string{
		"severity": "critical", "kind": "deletion", "event_name": "ScheduleKeyDeletion", "account": "111122223333", "region": "eu-central-1",
	}
	if diff := cmp.Diff(want, attributes); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	var got Alert
	if err := json.Unmarshal([]byte(*m.Body), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, got); diff != "" {
		t.Errorf("a queue gets (-want +got):\n%s", diff)
	}
	var renderings map[string]string
	if err := json.Unmarshal([]byte(*sent.Message), &renderings); err != nil {
		t.Fatal(err)
	}
	if renderings["email"] != a.Text() || renderings["sms"] != a.Subject() || *sent.Subject != a.Subject() || len(renderings) != 3 {
		t.Errorf("the renderings are %q", renderings)
	}
}

func TestPublishSparse(t *testing.T) {
	w := newWorld(t)
	if err := w.Publish(t.Context(), Alert{Title: "no more than this"}); err != nil {
		t.Fatal(err)
	}
	if m := w.expect(t, "an alert of a title", 1)[0]; len(m.MessageAttributes) != 0 {
		t.Errorf("attributes without values: %v", m.MessageAttributes)
	}
}

func TestPublishHostileText(t *testing.T) {
	w := newWorld(t)
	const bad = "\x00\x1b[2J\r\nBcc: x\u202e\uffff\ufffe\U0010ffff\xff\"\\"
	a := Alert{ID: bad, Kind: bad, Severity: bad, EventName: bad, Account: bad, Region: bad, Title: bad, Summary: bad, Next: []string{bad}}
	if err := w.Publish(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "a hostile alert", 1)
}

func TestPublishOnce(t *testing.T) {
	w := newWorld(t)
	a := deletion()
	for range 3 {
		if err := w.Publish(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	w.expect(t, "the same alert three times", 1)
	other := a
	other.ID += "2"
	if err := w.Publish(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "another alert", 1)
	for _, title := range []string{"one", "two", "one"} {
		if err := w.Publish(t.Context(), Alert{Title: title}); err != nil {
			t.Fatal(err)
		}
	}
	w.expect(t, "two alerts without an ID", 2)
}

func TestPublishRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.SNS = snsFunc(func(ctx context.Context, in *sns.PublishInput) (*sns.PublishOutput, error) {
			time.Sleep(time.Second) // so that the others see it being published
			return w.topics.Publish(ctx, in)
		})
		var done, waiting atomic.Int32
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				err := w.Publish(t.Context(), deletion())
				switch d := outcome.Of(err); {
				case err == nil:
					done.Add(1)
				case d.Action == outcome.Delay && d.After <= claimTime:
					waiting.Add(1)
				default:
					t.Errorf("lost: %v", err)
				}
			})
		}
		wg.Wait()
		if done.Load() != 1 || waiting.Load() != 19 {
			t.Errorf("%d told it, %d wait", done.Load(), waiting.Load())
		}
		w.expect(t, "twenty publishers", 1)
		if err := w.Publish(t.Context(), deletion()); err != nil {
			t.Errorf("after the wait: %v", err)
		}
		w.expect(t, "after the wait", 0)
	})
}

func TestPublishAgainAfterAFailure(t *testing.T) {
	w := newWorld(t)
	broken := errors.New("broken")
	w.SNS = snsFunc(func(context.Context, *sns.PublishInput) (*sns.PublishOutput, error) { return nil, broken })
	if err := w.Publish(t.Context(), deletion()); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	w.SNS = w.topics
	if err := w.Publish(t.Context(), deletion()); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "the second attempt", 1)
}

func TestPublishAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := deletion()
		name, err := a.name()
		if err != nil {
			t.Fatal(err)
		}
		// Whoever holds this claim is never heard of again.
		if _, err := w.Store.Claim(t.Context(), name+".json", claimTime); err != nil {
			t.Fatal(err)
		}
		err = w.Publish(t.Context(), a)
		wait := outcome.Of(err)
		if wait.Action != outcome.Delay {
			t.Fatalf("got %v", err)
		}
		time.Sleep(wait.After)
		if err := w.Publish(t.Context(), a); err != nil {
			t.Fatalf("after a wait of %s: %v", wait.After, err)
		}
		w.expect(t, "a crash", 1)
	})
}

func TestPublishStopsWithItsClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.SNS = snsFunc(func(ctx context.Context, _ *sns.PublishInput) (*sns.PublishOutput, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		start := time.Now()
		err := w.Publish(t.Context(), deletion())
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != claimTime {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

func TestPublishSettlesAfterCancel(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.SNS = snsFunc(func(ctx context.Context, in *sns.PublishInput) (*sns.PublishOutput, error) {
		defer cancel()
		return w.topics.Publish(ctx, in)
	})
	if err := w.Publish(ctx, deletion()); err != nil {
		t.Fatal(err)
	}
	if err := w.Publish(t.Context(), deletion()); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "cancelled when it was published", 1)
	if err := w.Publish(ctx, Alert{ID: "x"}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is done: %v", err)
	}
	w.expect(t, "with a context that is done", 0)
}

func TestPublishWithoutState(t *testing.T) {
	w := newWorld(t)
	w.Store = state.New(w.bucket, "no-such-bucket", "", "")
	if err := w.Publish(t.Context(), deletion()); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "no state bucket", 1)
	if err := w.Publish(t.Context(), huge()); err != nil {
		t.Fatal(err)
	}
	m := w.expect(t, "no state bucket, and a large alert", 1)[0]
	var got Alert
	if err := json.Unmarshal([]byte(*m.Body), &got); err != nil {
		t.Fatal(err)
	}
	if got.Cut == nil || got.Cut.Whole != "" {
		t.Errorf("cut is %+v", got.Cut)
	}
}

// huge is an alert that is too large.
func huge() Alert {
	a := deletion()
	a.ID, a.Cut = "huge", nil
	for range 400 {
		a.Findings = append(a.Findings, finding.Finding{ID: finding.PublicPrincipal, Severity: finding.High, Message: strings.Repeat("m", 500)})
	}
	a.Facts = append(a.Facts, Fact{Name: "Refused objects", Values: make([]string, 2000)})
	for i := range a.Facts[2].Values {
		a.Facts[2].Values[i] = fmt.Sprint("bucket/object-", i)
	}
	return a
}

func TestPublishLarge(t *testing.T) {
	w := newWorld(t)
	var sent *sns.PublishInput
	w.SNS = snsFunc(func(ctx context.Context, in *sns.PublishInput) (*sns.PublishOutput, error) {
		sent = in
		return w.topics.Publish(ctx, in)
	})
	a := huge()
	if err := w.Publish(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if n := size(sent); n > sizeLimit {
		t.Errorf("%d bytes were sent", n)
	}
	m := w.expect(t, "a large alert", 1)[0]
	in, err := jsonschema.UnmarshalJSON(strings.NewReader(*m.Body))
	if err != nil {
		t.Fatal(err)
	}
	if err := compile(t).Validate(in); err != nil {
		t.Error(err)
	}
	var got Alert
	if err := json.Unmarshal([]byte(*m.Body), &got); err != nil {
		t.Fatal(err)
	}
	name, err := a.name()
	if err != nil {
		t.Fatal(err)
	}
	want := Cut{Findings: 402, Facts: 3, Values: 2002, Whole: "s3://state/cmkeeper/" + name + ".whole.json"}
	if diff := cmp.Diff(&want, got.Cut); diff != "" {
		t.Errorf("cut (-want +got):\n%s", diff)
	}
	if len(got.Findings) == 0 || got.Findings[0] != finding.WorstFirst(slices.Clone(a.Findings))[0] {
		t.Errorf("the first finding is %+v", got.Findings[:1])
	}
	r, err := w.Store.GetBlob(t.Context(), name+".whole.json")
	if err != nil {
		t.Fatal(err)
	}
	whole, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var stored Alert
	if err := json.Unmarshal(whole, &stored); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, stored); diff != "" {
		t.Errorf("the whole alert was stored differently (-want +got):\n%s", diff)
	}
}

// TestCutAlwaysFits has texts in every place whose characters take the most
// bytes that any can in a rendering.
func TestCutAlwaysFits(t *testing.T) {
	w := newWorld(t)
	var sent *sns.PublishInput
	w.SNS = snsFunc(func(_ context.Context, in *sns.PublishInput) (*sns.PublishOutput, error) {
		sent = in
		return &sns.PublishOutput{}, nil
	})
	for _, c := range []string{"x", `"`, "\xff", "\U0010ffff"} {
		s := strings.Repeat(c, 1000)
		list := []string{s, s, s, s, s, s, s, s}
		a := Alert{
			ID: s, Kind: Kind(s), Severity: finding.Severity(s), EventName: s, EventID: s, Account: s, Region: s, Title: s, Summary: s, Risk: s,
			Key: &Key{s, list, s, true, s, nil}, Actor: &Actor{s, s, s, s, s, s, s, s, s, s, true}, Action: Action{s, Status(s), s}, Next: list,
		}
		a.Resolves, a.Thread = s, s
		a.Incident, a.Digest = s, &Digest{Group: s, Alerts: s}
		for range list {
			a.Digest.Calls = append(a.Digest.Calls, Call{s, Kind(s), finding.Severity(s), s, time.Time{}, s, s, true, s, s, s, s, s, Status(s)})
			a.Findings = append(a.Findings, finding.Finding{ID: finding.NoEffect, Severity: finding.Severity(s), Statement: s, Principal: s, Message: s})
			a.Facts = append(a.Facts, Fact{s, s, list})
		}
		if err := w.Publish(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if n := size(sent); n > sizeLimit || !strings.Contains(*sent.Message, "too large to be sent whole") {
			t.Errorf("%q everywhere: %d bytes", c, n)
		}
	}
}

func TestPrinter(t *testing.T) {
	var b strings.Builder
	p := &Printer{W: &b, Format: FormatText}
	if err := p.Publish(t.Context(), sparse()); err != nil || b.String() != sparse().Text()+"\n" {
		t.Errorf("printed %q, %v", b.String(), err)
	}
	b.Reset()
	p.Format = FormatJSON
	if err := p.Publish(t.Context(), deletion()); err != nil || strings.Count(b.String(), "\n") != 1 || !json.Valid([]byte(b.String())) {
		t.Errorf("printed %q, %v", b.String(), err)
	}
	p.W = brokenWriter{}
	if err := p.Publish(t.Context(), sparse()); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("on a writer that is closed: %v", err)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
