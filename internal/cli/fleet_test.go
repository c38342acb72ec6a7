package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/worker"
)

func TestFleetName(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for prefix, want := range map[string]string{
		"cmkeeper/":                    "111122223333/eu-west-1/state/cmkeeper/",
		"a b_c.d:e/f=g+h-i@j/":         "111122223333/eu-west-1/state/a b_c.d:e/f=g+h-i@j/",
		"prod!/":                       "111122223333/eu-west-1/state/sha256-",
		"prod*/":                       "111122223333/eu-west-1/state/sha256-",
		"prodé/":                       "111122223333/eu-west-1/state/sha256-",
		strings.Repeat("x", 300) + "/": "111122223333/eu-west-1/state/sha256-",
	} {
		got := Common{StateBucket: "state", StatePrefix: prefix}.fleet("111122223333", "eu-west-1")
		if whole := !strings.HasSuffix(want, "-"); whole && got != want || !strings.HasPrefix(got, want) || len(got) > 256 || seen[got] {
			t.Errorf("prefix %q: %q, want %q", prefix, got, want)
		}
		seen[got] = true
	}
}

// tags returns the tags of both queues.
func (a *account) tags() (events, jobs string) {
	a.t.Helper()
	owner := func(url string) string {
		return must(a.sqs.ListQueueTags(a.t.Context(), &sqs.ListQueueTagsInput{QueueUrl: &url}))(a.t).Tags[fleetTag]
	}
	return owner(a.box.EventsQueue), owner(a.box.JobsQueue)
}

// TestSecondFleetIsRefused has a fleet start on the queues of another one.
func TestSecondFleetIsRefused(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	must(a.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("other-state")}))(t)
	wrong := a.fleetMember(sandbox.WorkerKey, io.Discard, "STATE_BUCKET", "no-such-bucket")
	if err := wrong.run(t.Context()); err == nil {
		t.Fatal("it started without a state bucket")
	}
	if events, jobs := a.tags(); events != "" || jobs != "" {
		t.Errorf("a member that did not start has claimed %q and %q", events, jobs)
	}
	first := a.start()
	a.start() // another member of the fleet
	ours := sandbox.Account + "/" + sandbox.Region + "/" + sandbox.StateBucket + "/cmkeeper/"
	if events, jobs := a.tags(); events != ours || jobs != ours {
		t.Errorf("the queues belong to %q and %q, want %q", events, jobs, ours)
	}
	for name, settings := range map[string][]string{
		"another bucket": {"STATE_BUCKET", "other-state"},
		"another prefix": {"STATE_PREFIX", "other/"},
	} {
		err := a.fleetMember(sandbox.WorkerKey, io.Discard, settings...).run(t.Context())
		for _, want := range []string{
			"CMKEEPER_EVENTS_QUEUE_URL: queue cmkeeper-events belongs to the fleet " + ours, "CMKEEPER_JOBS_QUEUE_URL: queue cmkeeper-jobs belongs to the fleet " + ours,
			"give each fleet queues of its own", "remove the tag",
		} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v\nwant %s", name, err, want)
			}
		}
	}

	// Moving the state on purpose.
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{a.box.EventsQueue, a.box.JobsQueue} {
		must(a.sqs.UntagQueue(t.Context(), &sqs.UntagQueueInput{QueueUrl: &url, TagKeys: []string{fleetTag}}))(t)
	}
	a.start("STATE_BUCKET", "other-state")
	if events, jobs := a.tags(); events == ours || events != jobs || !strings.Contains(events, "/other-state/") {
		t.Errorf("the queues belong to %q and %q", events, jobs)
	}
}

// TestFleetThatMayNotTag has the role of a former build.
func TestFleetThatMayNotTag(t *testing.T) {
	t.Parallel()
	for _, denied := range [][]string{{"sqs:ListQueueTags"}, {"sqs:TagQueue"}, {"sqs:ListQueueTags", "sqs:TagQueue"}} {
		a := newAccount(t)
		a.deny(sandbox.WorkerKey, denied...)
		m := a.start()
		if lines := m.log.lines("another fleet on this queue by mistake would not be noticed"); len(lines) != 2 || !strings.Contains(lines[0], "grant sqs:ListQueueTags and sqs:TagQueue") {
			t.Errorf("without %s: want a warning for each queue: %q", denied, lines)
		}
	}
}

// TestQueueIsTakenOver has another fleet claim the queue of one that runs.
func TestQueueIsTakenOver(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.start()
	must(a.sqs.TagQueue(t.Context(), &sqs.TagQueueInput{QueueUrl: &a.box.JobsQueue, Tags: map[string]string{fleetTag: "another one"}}))(t)
	// As if the start-up sweep were long ago: after a sweep there is none for minutes.
	must(a.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String(sandbox.StateBucket), Key: aws.String("cmkeeper/" + ledger.SweepsName)}))(t)
	a.send(`{"version":"0","id":"tick","detail-type":"Scheduled Event","source":"aws.events","account":"` + sandbox.Account + `","time":"2026-01-02T03:04:05Z","region":"us-east-1","resources":[],"detail":{}}`)
	got := a.await("two fleets share a queue", func(told alert.Alert) bool {
		return strings.Contains(told.Title, "seem to share the queue cmkeeper-jobs")
	})
	if !strings.Contains(got.Summary, "another one") {
		t.Errorf("alert: %s", got.Text())
	}
	a.awaitQuiet()
	a.expectNoDeadLetters()
}

// TestKeepApart plays what becomes of messages with and without a fleet.
func TestKeepApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		handled := errors.New("handled")
		var told sink
		n := &neighbours{fleet: "ours", alerts: &told, log: slog.New(slog.DiscardHandler)}
		queue := &worker.Queue{URL: "https://sqs.eu-west-1.amazonaws.com/111122223333/events", Name: "events", ARN: "arn:aws:sqs:eu-west-1:111122223333:events"}
		handle := n.keepApart(queue, func(context.Context, worker.Message) error { return handled })
		named := func(fleet string) map[string]string { return map[string]string{fleetAttribute: fleet} }
		for _, tt := range []struct {
			name       string
			attributes map[string]string
			age        time.Duration
			want       outcome.Action
			after      time.Duration
		}{
			{"an event", nil, 0, outcome.Retry, 0},
			{"an event with an attribute", map[string]string{"x": "y"}, 0, outcome.Retry, 0},
			{"no name", named(""), 0, outcome.Retry, 0},
			{"ours", named("ours"), 24 * time.Hour, outcome.Retry, 0},
			{"another fleet's", named("theirs"), 0, outcome.Delay, 5 * time.Second},
			{"a minute old", named("theirs"), time.Minute, outcome.Delay, 15 * time.Second},
			{"three hours old", named("theirs"), 3 * time.Hour, outcome.Delay, outcome.MaxDelay},
			{"too old", named("theirs"), passOnFor + time.Second, outcome.DeadLetter, 0},
		} {
			err := handle(t.Context(), worker.Message{Attributes: tt.attributes, Sent: time.Now().Add(-tt.age)})
			d := outcome.Of(err)
			if d.Action != tt.want || d.After != tt.after || errors.Is(err, handled) != (tt.want == outcome.Retry) {
				t.Errorf("%s: %s after %s: %v", tt.name, d.Action, d.After, err)
			}
		}
		if d := outcome.Of(handle(t.Context(), worker.Message{Attributes: named("theirs")})); d.Action != outcome.DeadLetter {
			t.Errorf("of unknown age: %s, which may never end", d.Action)
		}
		if len(told) != 1 || !strings.Contains(told[0].Title, "queue events") || !strings.Contains(told[0].Summary, "theirs") ||
			!slices.Contains(told[0].Next, "aws sqs list-queue-tags --queue-url "+queue.URL) {
			t.Errorf("told %s", titles(told))
		}
		time.Sleep(time.Hour)
		evil := strings.Repeat("\x1b]0;x\u202e", 1<<16)
		if err := handle(t.Context(), worker.Message{Attributes: named(evil), Sent: time.Now()}); len(err.Error()) > 1000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		if len(told) != 2 || told[0].ID == told[1].ID {
			t.Fatalf("an hour later told %s", titles(told))
		}
		if text := told[1].Text(); len(text) > 10_000 || strings.ContainsAny(text, "\x1b\u202e") {
			t.Errorf("alert of %d bytes: %.500q", len(text), text)
		}
	})
}

// sink keeps alerts.
type sink []alert.Alert

func (s *sink) Publish(_ context.Context, a alert.Alert) error { *s = append(*s, a); return nil }

// twoFleets are two fleets on one queue, in a bubble.
type twoFleets struct {
	*testing.T
	server              *localaws.Server
	sqs                 *sqs.Client
	kms                 *kms.Client
	s3                  *s3.Client
	events, jobs, inbox string
	topic               string
}

func newTwoFleets(t *testing.T) *twoFleets {
	t.Helper()
	f := &twoFleets{T: t, server: localaws.New(localaws.Options{Account: sandbox.Account, Region: sandbox.Region, BaseURL: inprocess.Endpoint})}
	t.Cleanup(f.server.Close)
	f.server.AddIdentity(sandbox.WorkerKey, wire.Caller{
		Type: "AssumedRole", AccountID: sandbox.Account, PrincipalID: "AROACMKEEPERWORKER:local",
		ARN: "arn:aws:sts::" + sandbox.Account + ":assumed-role/cmkeeper-worker/local",
	})
	cfg := inprocess.Config(f.server, sandbox.Region, operator)
	f.sqs, f.kms, f.s3 = sqs.NewFromConfig(cfg), kms.NewFromConfig(cfg), awsclient.S3(cfg, nil)
	arn := func(name string) string { return "arn:aws:sqs:" + sandbox.Region + ":" + sandbox.Account + ":" + name }
	queue := func(name string, attributes map[string]string) string {
		return *must(f.sqs.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: attributes}))(t).QueueUrl
	}
	withDeadLetters := func(name string) string {
		queue(name+"-dlq", nil)
		return queue(name, map[string]string{"VisibilityTimeout": "60", "RedrivePolicy": fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":5}`, arn(name+"-dlq"))})
	}
	f.events, f.jobs = withDeadLetters("events"), withDeadLetters("jobs")
	f.inbox = queue("inbox", map[string]string{
		"Policy": `{"Statement":[{"Effect":"Allow","Principal":{"Service":"sns.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"*"}]}`,
	})
	topics := sns.NewFromConfig(cfg)
	f.topic = *must(topics.CreateTopic(t.Context(), &sns.CreateTopicInput{Name: aws.String("alerts")}))(t).TopicArn
	must(topics.Subscribe(t.Context(), &sns.SubscribeInput{
		TopicArn: &f.topic, Protocol: aws.String("sqs"), Endpoint: aws.String(arn("inbox")), Attributes: map[string]string{"RawMessageDelivery": "true"},
	}))(t)
	return f
}

// member returns a member of the fleet that keeps its state in the bucket.
func (f *twoFleets) member(bucket string) fleetMember {
	f.Helper()
	config := must(LoadConfig(f.Context(), map[string]string{
		"CMKEEPER_EVENTS_QUEUE_URL": f.events, "CMKEEPER_JOBS_QUEUE_URL": f.jobs, "CMKEEPER_ALERT_TOPIC_ARN": f.topic,
		"CMKEEPER_STATE_BUCKET": bucket, "CMKEEPER_DRAIN_TIMEOUT": "25s",
	}))(f.T)
	return fleetMember{config: config, aws: inprocess.Config(f.server, sandbox.Region, sandbox.WorkerKey), log: slog.New(slog.DiscardHandler)}
}

// start makes the bucket and starts a member, which the test ends.
func (f *twoFleets) start(bucket string) {
	f.Helper()
	must(f.s3.CreateBucket(f.Context(), &s3.CreateBucketInput{Bucket: &bucket}))(f.T)
	m := f.member(bucket)
	w := must(m.wire(f.Context()))(f.T)
	ctx, cancel := context.WithCancel(f.Context())
	var working sync.WaitGroup
	working.Go(func() {
		if err := m.work(ctx, w, func() {}); err != nil {
			f.Errorf("fleet %s: %v", bucket, err)
		}
	})
	f.Cleanup(func() { cancel(); working.Wait() })
}

// take takes all messages of a queue.
func (f *twoFleets) take(url string) (messages []types.Message) {
	f.Helper()
	for {
		out := must(f.sqs.ReceiveMessage(f.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"}}))(f.T)
		if len(out.Messages) == 0 {
			return messages
		}
		messages = append(messages, out.Messages...)
	}
}

// TestTwoFleetsOnOneQueue has two fleets on one queue although each claims it: one may
// not read its tags. Their alerts are collected, and one re-encrypts. Nothing is lost,
// and people are told.
func TestTwoFleetsOnOneQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newTwoFleets(t)
		f.start("state-a")
		f.server.SetIdentityPolicy(sandbox.WorkerKey, func(action, _ string) bool { return action != "sqs:ListQueueTags" })
		f.start("state-b")
		time.Sleep(time.Minute)

		// By each of several users two calls: the second one is collected.
		untold := map[string]string{}
		for i := range 8 {
			for range 2 {
				key := *must(f.kms.CreateKey(t.Context(), &kms.CreateKeyInput{}))(t).KeyMetadata.Arn
				body := strings.ReplaceAll(event("kms.amazonaws.com", "DisableKey", key), "mallory", fmt.Sprintf("mallory-%d", i))
				must(f.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key}))(t)
				must(f.sqs.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &f.events, MessageBody: &body}))(t)
				untold[key] = body
				time.Sleep(time.Second)
			}
		}
		f.reencrypt("state-a", 30)
		time.Sleep(20 * time.Minute)

		var complete, shared int
		for _, m := range f.take(f.inbox) {
			maps.DeleteFunc(untold, func(key, _ string) bool { return strings.Contains(*m.Body, key) })
			if strings.Contains(*m.Body, `"kind":"reencryption"`) && strings.Contains(*m.Body, `"status":"done"`) {
				complete++
			}
			if strings.Contains(*m.Body, "Two fleets of cmkeeper seem to share the queue") {
				shared++
			}
		}
		if len(untold) > 0 {
			t.Errorf("%d keys are in no alert: %q", len(untold), slices.Collect(maps.Keys(untold)))
		}
		if complete != 1 || shared == 0 {
			t.Errorf("%d times told that the job is complete, %d times that two fleets share a queue", complete, shared)
		}
		for _, url := range []string{f.events, f.jobs, f.events + "-dlq", f.jobs + "-dlq"} {
			for _, m := range f.take(url) {
				t.Errorf("left in %s: %s %v", url, *m.Body, m.MessageAttributes)
			}
		}
	})
}

// reencrypt has a fleet move n objects, as "cmkeeper reencrypt start" does.
func (f *twoFleets) reencrypt(stateBucket string, n int) {
	f.Helper()
	var keys []string
	for range 2 {
		keys = append(keys, *must(f.kms.CreateKey(f.Context(), &kms.CreateKeyInput{}))(f.T).KeyMetadata.Arn)
	}
	bucket := aws.String("data")
	must(f.s3.CreateBucket(f.Context(), &s3.CreateBucketInput{Bucket: bucket}))(f.T)
	for i := range n {
		must(f.s3.PutObject(f.Context(), &s3.PutObjectInput{
			Bucket: bucket, Key: aws.String(fmt.Sprint(i)), Body: bytes.NewReader([]byte("x")), ServerSideEncryption: "aws:kms", SSEKMSKeyId: &keys[0],
		}))(f.T)
	}
	c := f.member(stateBucket).config
	cfg := inprocess.Config(f.server, sandbox.Region, operator)
	store := c.store(f.s3, c.StateBucket, sandbox.Account)
	engine := must(reencrypt.New(reencrypt.Options{
		S3: f.s3, KMS: f.kms, Account: sandbox.Account, Resolver: inventory.New(f.kms, f.s3, sandbox.Account, sandbox.Region),
		Store: store, StateBucket: c.StateBucket, StatePrefix: c.StatePrefix, Observer: handlers.JobAlerts{},
		SQS: ownMessages{sqs.NewFromConfig(cfg), c.fleet(sandbox.Account, sandbox.Region)}, QueueURL: f.jobs,
	}))(f.T)
	must(engine.Start(f.Context(), reencrypt.Move{
		AliasARN: "arn:aws:kms:" + sandbox.Region + ":" + sandbox.Account + ":alias/app", From: keys[:1], To: keys[1], At: time.Now(), Scope: []reencrypt.Scope{{Bucket: *bucket}},
	}))(f.T)
}

// TestProtectionLastsUntilTheEndOfTheDrain stops a member while it handles an event: ECS
// protects the task until the event is handled.
func TestProtectionLastsUntilTheEndOfTheDrain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newTwoFleets(t)
		var protected atomic.Bool
		agent := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body := must(io.ReadAll(r.Body))(t)
			protected.Store(bytes.Contains(body, []byte("true")))
			fmt.Fprintf(w, `{"protection":{"ProtectionEnabled":%t}}`, protected.Load())
		})
		must(f.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("state")}))(t)
		m := f.member("state")
		m.protection = worker.NewProtection("http://agent", inprocess.Client{Handler: agent}, m.log)
		w := must(m.wire(t.Context()))(t)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		ended := make(chan error, 1)
		go func() { ended <- m.work(ctx, w, func() {}) }()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if protected.Load() {
			t.Fatal("an idle task is protected")
		}

		key := *must(f.kms.CreateKey(t.Context(), &kms.CreateKeyInput{}))(t).KeyMetadata.Arn
		f.server.SetFaults(localaws.Fault{Service: "kms", Caller: sandbox.WorkerKey, Effect: localaws.Delay, Count: 1, Latency: localaws.Latency{Min: 15 * time.Second}})
		must(f.sqs.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &f.events, MessageBody: aws.String(event("kms.amazonaws.com", "DisableKeyRotation", key))}))(t)
		time.Sleep(time.Second)
		stop()
		time.Sleep(10 * time.Second) // the idle polls are over
		synctest.Wait()
		if !protected.Load() {
			t.Error("protection ended at SIGTERM, with an event in hand")
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if protected.Load() {
			t.Error("the task is still protected after the drain")
		}
	})
}
