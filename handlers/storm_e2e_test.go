package handlers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/confirm"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/state"
	"github.com/cmkeeper/cmkeeper/worker"
)

// storm is a world whose alerts are grouped and go to a topic with an inbox, and three
// workers that handle what arrives.
type storm struct {
	*world
	config       reaction.Config
	topic, inbox string
	wg           sync.WaitGroup
	// open: anybody may send to the queue, so that workers believe no message.
	open bool
}

// inStorm runs a test in a storm's world, in enforce; AWS takes its time there.
func inStorm(t *testing.T, test func(*storm)) {
	t.Helper()
	inStormOf(t, enforceAll(), test)
}

func inStormOf(t *testing.T, c reaction.Config, test func(*storm)) {
	t.Helper()
	inWorld(t, c, func(w *world) {
		s := &storm{world: w, config: c}
		topics := sns.NewFromConfig(inprocess.Config(w.aws, region, "mallory"))
		s.topic = *must(topics.CreateTopic(w.ctx, &sns.CreateTopicInput{Name: aws.String("alerts")})).TopicArn
		s.inbox = *must(w.sqs.CreateQueue(w.ctx, &sqs.CreateQueueInput{QueueName: aws.String("inbox"), Attributes: map[string]string{
			"Policy": `{"Statement":[{"Effect":"Allow","Principal":{"Service":"sns.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"*"}]}`,
		}})).QueueUrl
		must(topics.Subscribe(w.ctx, &sns.SubscribeInput{
			TopicArn: &s.topic, Protocol: aws.String("sqs"), Endpoint: aws.String("arn:aws:sqs:" + region + ":" + account + ":inbox"),
			Attributes: map[string]string{"RawMessageDelivery": "true"},
		}))
		must(w.sqs.CreateQueue(w.ctx, &sqs.CreateQueueInput{QueueName: aws.String("events-dlq")}))
		must(w.sqs.SetQueueAttributes(w.ctx, &sqs.SetQueueAttributesInput{QueueUrl: &w.queue, Attributes: map[string]string{
			"RedrivePolicy":     `{"deadLetterTargetArn":"arn:aws:sqs:` + region + `:` + account + `:events-dlq","maxReceiveCount":"10"}`,
			"VisibilityTimeout": "30",
		}}))
		w.aws.SetFaults(latencies()...)
		test(s)
	})
}

// latencies are what requests of workers take on AWS within a Region, or more.
func latencies() (delays []localaws.Fault) {
	for service, latency := range map[string]localaws.Latency{
		"s3":  {Min: 10 * time.Millisecond, Mean: 20 * time.Millisecond},
		"kms": {Min: 5 * time.Millisecond, Mean: 10 * time.Millisecond},
		"sns": {Min: 15 * time.Millisecond, Mean: 25 * time.Millisecond},
		"sqs": {Min: 5 * time.Millisecond, Mean: 10 * time.Millisecond},

		"cloudtrail": {Min: 50 * time.Millisecond, Mean: 100 * time.Millisecond},
	} {
		delays = append(delays, localaws.Fault{Service: service, Caller: keeperKey, Effect: localaws.Delay, Latency: latency})
	}
	return delays
}

// mortalClient is an HTTP client whose process can be killed.
type mortalClient struct {
	next   aws.HTTPClient
	killed atomic.Bool
}

func (c *mortalClient) Do(r *http.Request) (*http.Response, error) {
	if c.killed.Load() {
		return nil, errors.New("killed")
	}
	answer, err := c.next.Do(r)
	if c.killed.Load() && err == nil { // it took effect, and nobody is there to hear of it
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		return nil, errors.New("killed")
	}
	return answer, err
}

// start starts a worker of 16 slots, and returns how to kill it.
func (s *storm) start(ctx context.Context) (kill func()) {
	s.t.Helper()
	return s.startWith(ctx, 16)
}

func (s *storm) startWith(ctx context.Context, concurrency int) (kill func()) {
	s.t.Helper()
	living, cancel := context.WithCancel(ctx)
	cfg := inprocess.Config(s.aws, region, keeperKey)
	client := &mortalClient{next: cfg.HTTPClient}
	cfg.HTTPClient = client
	queues := sqs.NewFromConfig(cfg)
	c := s.config
	c.Concurrency = concurrency
	router := s.newRouterWith(c, func(d *reaction.Deps) {
		buckets := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
		keys := kms.NewFromConfig(cfg)
		d.KMS, d.Facts, d.State = keys, inventory.New(keys, buckets, account, region), state.New(buckets, stateBucket, "cmkeeper/", account)
		p := &alert.Publisher{
			SNS: sns.NewFromConfig(cfg), Store: d.State, Topics: []alert.Topic{{ARN: s.topic}},
			Grouping: &alert.Grouping{SQS: queues, QueueURL: s.queue, Wait: 30 * time.Second, Interval: time.Minute},
		}
		d.Alerts, d.Digests = p, p
		d.Send = func(ctx context.Context, body string, after time.Duration) error {
			_, err := queues.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: &s.queue, MessageBody: &body, DelaySeconds: int32(after / time.Second)})
			return err
		}
		if s.open {
			records := confirm.New(awsclient.CloudTrail(cfg), d.State, confirm.Config{}, nil)
			s.wg.Go(func() { _ = records.Run(living) })
			d.Records, d.Senders = records, nil
		}
	})
	pool := must(worker.New(ctx, queues, worker.HandlerFunc(func(ctx context.Context, m worker.Message) error {
		return router.Handle(ctx, handlers.Message{Body: []byte(m.Body), Sent: m.Sent})
	}), worker.Options{QueueURL: s.queue, Concurrency: concurrency}))
	s.wg.Go(func() { _ = pool.Run(living) })
	return func() {
		client.killed.Store(true)
		cancel()
	}
}

// told is an alert that has arrived in the inbox.
type told struct {
	alert.Alert
	at time.Time
}

// arrived returns the alerts in the inbox, each whole, without notes.
func (s *storm) arrived() []told {
	s.t.Helper()
	var all []told
	for {
		out := must(s.sqs.ReceiveMessage(s.ctx, &sqs.ReceiveMessageInput{
			QueueUrl: &s.inbox, MaxNumberOfMessages: 10, MessageSystemAttributeNames: []sqstypes.MessageSystemAttributeName{sqstypes.MessageSystemAttributeNameSentTimestamp},
		}))
		if len(out.Messages) == 0 {
			return all
		}
		for _, m := range out.Messages {
			must(s.sqs.DeleteMessage(s.ctx, &sqs.DeleteMessageInput{QueueUrl: &s.inbox, ReceiptHandle: m.ReceiptHandle}))
			milliseconds := must(strconv.ParseInt(m.Attributes["SentTimestamp"], 10, 64))
			one := told{at: time.UnixMilli(milliseconds)}
			body := []byte(*m.Body)
			s.decode(body, &one.Alert)
			if one.Cut != nil {
				key := strings.TrimPrefix(one.Cut.Whole, "s3://"+stateBucket+"/")
				whole := must(s.s3.GetObject(s.ctx, &s3.GetObjectInput{Bucket: aws.String(stateBucket), Key: &key}))
				one.Alert = alert.Alert{}
				s.decode(must(io.ReadAll(whole.Body)), &one.Alert)
			}
			noteNext(one.Alert)
			if !isNote(one.Alert) {
				all = append(all, one)
			}
		}
	}
}

// isNote reports whether an alert tells of nothing but calls that do no harm, which made
// what the storm is about.
func isNote(a alert.Alert) bool {
	if a.Digest == nil {
		return strings.HasSuffix(a.ID, alert.NoteSuffix)
	}
	return !slices.ContainsFunc(a.Digest.Calls, func(c alert.Call) bool { return !strings.HasSuffix(c.ID, alert.NoteSuffix) })
}

func (s *storm) decode(body []byte, a *alert.Alert) {
	s.t.Helper()
	if err := json.Unmarshal(body, a); err != nil {
		s.t.Fatal(err)
	}
}

// rage changes the policy of so many keys within a minute, as one actor, and schedules
// the deletion of another key in the middle. It returns the keys and when that was.
func (s *storm) rage(n int, middle func()) (keys []string, victim string, scheduled time.Time) {
	s.t.Helper()
	victim = s.newKey(kms.CreateKeyInput{})
	for range n {
		keys = append(keys, s.newKey(kms.CreateKeyInput{}))
	}
	time.Sleep(time.Minute) // whatever the workers have to do about new keys
	for i, key := range keys {
		if i == n/2 {
			s.scheduleDeletion(victim)
			scheduled = time.Now()
			middle()
		}
		s.putPolicy(key, public)
		time.Sleep(50 * time.Second / time.Duration(n))
	}
	return keys, victim, scheduled
}

// named are the keys that alerts name.
func named(alerts []told) map[string]bool {
	keys := map[string]bool{}
	for _, a := range alerts {
		if a.Key != nil {
			keys[a.Key.ARN] = true
		}
		if a.Digest != nil {
			for _, c := range a.Digest.Calls {
				keys[c.Key] = true
			}
		}
	}
	return keys
}

func titlesOf(alerts []told) string {
	var all []string
	for _, a := range alerts {
		all = append(all, fmt.Sprintf("%s %s [%s]", a.at.UTC().Format(time.TimeOnly), a.Title, a.Severity))
	}
	return strings.Join(all, "\n")
}

// TestStorm has one actor change 200 key policies within a minute, 500 in "make soak", and
// schedule a deletion in the middle: three messages, and the deletion within two seconds.
func TestStorm(t *testing.T) {
	inStorm(t, func(s *storm) {
		ctx, stop := context.WithCancel(s.ctx)
		for range 3 {
			s.start(ctx)
		}
		keys, victim, scheduled := s.rage(soaking(500, 200), func() {})
		time.Sleep(3 * time.Minute)
		stop()
		s.wg.Wait()

		got := s.arrived()
		t.Logf("%d policies changed, and the messages:\n%s", len(keys), titlesOf(got))
		if len(got) > 3 {
			t.Errorf("%d messages, want at most 3", len(got))
		}
		names := named(got)
		for _, key := range append(keys, victim) {
			if !names[key] {
				t.Errorf("no message names key %s", key)
			}
		}
		for _, a := range got {
			if a.EventName == "ScheduleKeyDeletion" {
				took := a.at.Sub(scheduled)
				t.Logf("the deletion was told after %s", took)
				if took > 2*time.Second {
					t.Errorf("the deletion was told after %s, want 2s", took)
				}
			}
		}
		if s.state(victim) != "Enabled" {
			t.Errorf("the key that was to be deleted is %s", s.state(victim))
		}
	})
}

// TestSweepFindsMuch has rotation switched off for 40 keys while nobody listens.
func TestSweepFindsMuch(t *testing.T) {
	inStorm(t, func(s *storm) {
		var keys []string
		for range 40 {
			key := s.newKey(kms.CreateKeyInput{})
			s.enableRotation(key, 180)
			keys = append(keys, key)
		}
		s.sweep()
		for _, key := range keys {
			s.disableRotation(key)
		}
		s.events() // are lost
		ctx, stop := context.WithCancel(s.ctx)
		s.start(ctx)
		must(s.sqs.SendMessage(s.ctx, &sqs.SendMessageInput{QueueUrl: &s.queue, MessageBody: aws.String(
			`{"version":"0","id":"tick","detail-type":"Scheduled Event","source":"aws.events","account":"` + account + `","time":"` + time.Now().UTC().Format(time.RFC3339) + `","region":"` + region + `","resources":[],"detail":{}}`)}))
		time.Sleep(3 * time.Minute)
		stop()
		s.wg.Wait()

		got := s.arrived()
		t.Logf("the messages:\n%s", titlesOf(got))
		names := named(got)
		for _, key := range keys {
			if s.rotation(key) != 180 || !names[key] {
				t.Errorf("key %s: rotation %d, named %t", key, s.rotation(key), names[key])
			}
		}
		if len(got) != 2 {
			t.Errorf("%d messages, want the first and the rest", len(got))
		}
	})
}

// TestIncident has one actor take a key apart: the third kind of call is an incident.
func TestIncident(t *testing.T) {
	inStorm(t, func(s *storm) {
		ctx, stop := context.WithCancel(s.ctx)
		s.start(ctx)
		key := s.newKey(kms.CreateKeyInput{})
		s.enableRotation(key, 180)
		time.Sleep(time.Minute)
		for _, act := range []func(){
			func() { s.disableRotation(key) }, func() { s.putPolicy(key, public) }, func() { s.scheduleDeletion(key) },
			func() { s.disable(s.newKey(kms.CreateKeyInput{})) },
		} {
			act()
			time.Sleep(10 * time.Second)
		}
		time.Sleep(3 * time.Minute)
		stop()
		s.wg.Wait()

		got := s.arrived()
		t.Logf("the messages:\n%s", titlesOf(got))
		var incidents []told
		for _, a := range got {
			if a.Kind == alert.KindIncident {
				incidents = append(incidents, a)
			}
		}
		if len(incidents) != 1 || incidents[0].EventName != "ScheduleKeyDeletion" || len(incidents[0].Digest.Calls) != 3 {
			t.Fatalf("%d incidents", len(incidents))
		}
		for _, a := range got {
			if a.at.After(incidents[0].at) && a.Incident != incidents[0].ID {
				t.Errorf("%q does not belong to the incident", a.Title)
			}
		}
	})
}

// TestStormKilled kills a worker in the middle of a storm: nothing is lost.
func TestStormKilled(t *testing.T) {
	inStorm(t, func(s *storm) {
		ctx, stop := context.WithCancel(s.ctx)
		kill := s.start(ctx)
		s.start(ctx)
		s.start(ctx)
		keys, victim, _ := s.rage(200, kill)
		time.Sleep(5 * time.Minute)
		stop()
		s.wg.Wait()

		got := s.arrived()
		t.Logf("the messages:\n%s", titlesOf(got))
		names := named(got)
		for _, key := range append(keys, victim) {
			if !names[key] {
				t.Errorf("no message names key %s", key)
			}
		}
		if len(got) > 6 { // what waited for the dead worker's messages comes in slots of its own
			t.Errorf("%d messages", len(got))
		}
	})
}

// TestSensitiveInFlood has one user schedule the deletion of many keys that nobody needs,
// and then of a sensitive one. It is told by its name: at once where it is not undone, and
// else before all others.
func TestSensitiveInFlood(t *testing.T) {
	for mode, throwaway := range map[reaction.Mode]int{reaction.Observe: soaking(420, 150), reaction.Enforce: soaking(120, 60)} {
		t.Run(string(mode), func(t *testing.T) {
			c := enforceAll()
			c.Deletion = mode
			c.Rules.Sensitive = []judgement.Selector{must(judgement.ParseSelector("alias/prod-*"))}
			inStormOf(t, c, func(s *storm) {
				ctx, stop := context.WithCancel(s.ctx)
				for range 3 {
					s.start(ctx)
				}
				prod, victim := s.knownAlias("alias/prod-payments"), s.knownAlias("alias/orders")
				var keys []string
				for range throwaway {
					keys = append(keys, s.newKey(kms.CreateKeyInput{}))
				}
				time.Sleep(time.Minute)
				for _, key := range keys {
					s.scheduleDeletion(key)
					time.Sleep(100 * time.Millisecond)
				}
				s.scheduleDeletion(prod)
				s.intrude(victim)
				scheduled := time.Now()
				time.Sleep(3 * time.Minute)
				stop()
				s.wg.Wait()

				got := s.arrived()
				t.Logf("the messages:\n%s", titlesOf(got))
				i := slices.IndexFunc(got, func(a told) bool { return strings.Contains(a.Text(), "alias/prod-payments") })
				if i < 0 {
					t.Fatal("no message names the sensitive key")
				}
				first := got[i]
				got, other := apart(got, victim)
				if len(other) != 1 || other[0].at.Sub(scheduled) > 5*time.Second {
					t.Errorf("what somebody else did was told by %d messages: %s", len(other), titlesOf(other))
				} else {
					t.Logf("what somebody else did was told after %s", other[0].at.Sub(scheduled))
				}
				if mode == reaction.Observe && (first.at.Sub(scheduled) > 5*time.Second || first.Digest != nil || first.Key.ARN != prod) {
					t.Errorf("the sensitive key was told after %s, by %q", first.at.Sub(scheduled), first.Title)
				}
				if mode == reaction.Enforce && (first.Digest == nil || first.Digest.Calls[0].Key != prod || !first.Digest.Calls[0].Sensitive) {
					t.Errorf("the sensitive key is not the first of %q", first.Title)
				}
				if len(got) > 4 {
					t.Errorf("%d messages", len(got))
				}
				names := named(got)
				for _, key := range keys {
					if !names[key] {
						t.Errorf("no message names key %s", key)
					}
				}
			})
		})
	}
}

// knownAlias makes a key with an alias, while workers handle what that makes arrive.
func (s *storm) knownAlias(alias string) (key string) {
	s.t.Helper()
	key = s.newKey(kms.CreateKeyInput{})
	must(s.kms.CreateAlias(s.ctx, &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: &key}))
	return key
}
