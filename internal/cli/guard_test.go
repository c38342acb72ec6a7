package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	cloudtrailtypes "github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	eventbridgetypes "github.com/aws/aws-sdk-go-v2/service/eventbridge/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

// watched is a sandbox in a synctest bubble, with a fleet of one member whose sweeps the
// test asks for.
type watched struct {
	*testing.T
	box    *sandbox.Sandbox
	member fleetMember
	wired  *wired
	log    *logBuffer
	bus    *eventbridge.Client
	trails *cloudtrail.Client
	sqs    *sqs.Client
	sns    *sns.Client
	kms    *kms.Client
	stops  []func()
}

// inWatched runs a test in a new sandbox, whose member has these settings.
func inWatched(t *testing.T, test func(w *watched), settings ...string) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &watched{T: t, log: &logBuffer{}}
		w.box = must(sandbox.InProcess(t.Context()))(t)
		defer w.box.Close()
		defer func() {
			for _, stop := range w.stops { // also where the test has failed
				stop()
			}
		}()
		cfg := w.box.Config(operator)
		w.bus, w.trails, w.sqs, w.sns, w.kms = eventbridge.NewFromConfig(cfg), cloudtrail.NewFromConfig(cfg), sqs.NewFromConfig(cfg), sns.NewFromConfig(cfg), kms.NewFromConfig(cfg)
		environment := w.box.WorkerEnvironment(appAlias)
		environment["CMKEEPER_LOG_FORMAT"], environment["CMKEEPER_S3_PATH_STYLE"] = "text", "true"
		for i := 0; i < len(settings); i += 2 {
			environment[envPrefix+settings[i]] = settings[i+1]
		}
		config := must(LoadConfig(t.Context(), environment))(t)
		w.member = fleetMember{config: config, aws: w.box.Config(sandbox.WorkerKey), log: config.logger(w.log)}
		w.wired = must(w.member.wire(t.Context()))(t)
		time.Sleep(time.Minute)
		test(w)
	})
}

// sweep sweeps and returns the alerts of kind guard.
func (w *watched) sweep() []alert.Alert {
	w.Helper()
	if err := w.wired.router.Sweep(w.Context()); err != nil {
		w.Fatalf("sweep: %v", err)
	}
	return w.alerts()
}

// alerts takes the alerts of kind guard that were published.
func (w *watched) alerts() (all []alert.Alert) {
	w.Helper()
	for {
		bodies := must(w.box.Alerts(w.Context(), 0))(w.T)
		if len(bodies) == 0 {
			return all
		}
		for _, body := range bodies {
			var a alert.Alert
			if err := json.Unmarshal([]byte(body), &a); err != nil {
				w.Fatal(err)
			}
			if a.Kind == alert.KindGuard {
				all = append(all, a)
			}
		}
	}
}

// one returns the only alert.
func (w *watched) one(alerts []alert.Alert) alert.Alert {
	w.Helper()
	if len(alerts) != 1 {
		w.Fatalf("%d alerts, want one:\n%s", len(alerts), titles(alerts))
	}
	return alerts[0]
}

func (w *watched) none(alerts []alert.Alert) {
	w.Helper()
	if len(alerts) != 0 {
		w.Fatalf("%d alerts, want none:\n%s", len(alerts), titles(alerts))
	}
}

// TestBlindGuard breaks each thing that the guard needs: the next sweep tells, the one
// after it is silent, and when it is mended one sweep tells so.
func TestBlindGuard(t *testing.T) {
	rule := aws.String("cmkeeper-kms")
	queueARN := "arn:aws:sqs:" + sandbox.Region + ":" + sandbox.Account + ":cmkeeper-events"
	trail := aws.String("management")
	basic := func(excluded ...string) []cloudtrailtypes.EventSelector {
		return []cloudtrailtypes.EventSelector{{ReadWriteType: cloudtrailtypes.ReadWriteTypeAll, IncludeManagementEvents: aws.Bool(true), ExcludeManagementEventSources: excluded}}
	}
	putRule := func(w *watched, pattern string) error {
		_, err := w.bus.PutRule(w.Context(), &eventbridge.PutRuleInput{Name: rule, EventPattern: &pattern})
		return err
	}
	setPolicy := func(w *watched, policy string) error {
		_, err := w.sqs.SetQueueAttributes(w.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &w.box.EventsQueue, Attributes: map[string]string{"Policy": policy}})
		return err
	}
	for name, tt := range map[string]struct {
		breakIt, mend func(w *watched) error
		title         string
		severity      finding.Severity
	}{
		"rule disabled": {
			func(w *watched) error {
				_, err := w.bus.DisableRule(w.Context(), &eventbridge.DisableRuleInput{Name: rule})
				return err
			},
			func(w *watched) error {
				_, err := w.bus.EnableRule(w.Context(), &eventbridge.EnableRuleInput{Name: rule})
				return err
			},
			"EventBridge rule cmkeeper-kms is disabled", finding.Critical,
		},
		"target removed": {
			func(w *watched) error {
				_, err := w.bus.RemoveTargets(w.Context(), &eventbridge.RemoveTargetsInput{Rule: rule, Ids: []string{"cmkeeper-events"}})
				return err
			},
			func(w *watched) error {
				_, err := w.bus.PutTargets(w.Context(), &eventbridge.PutTargetsInput{Rule: rule, Targets: []eventbridgetypes.Target{{Id: aws.String("cmkeeper-events"), Arn: &queueARN}}})
				return err
			},
			"EventBridge rule cmkeeper-kms does not send to the events queue", finding.Critical,
		},
		"pattern changed": {
			func(w *watched) error {
				return putRule(w, `{"source":["aws.kms"],"detail":{"eventName":["CreateKey"]}}`)
			},
			func(w *watched) error { return putRule(w, `{"source":["aws.kms"]}`) }, // wider
			"The EventBridge rules do not pass all events about keys to the events queue", finding.High,
		},
		"queue policy removed": {
			func(w *watched) error { return setPolicy(w, "") },
			func(w *watched) error {
				return setPolicy(w, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"`+queueARN+`"}]}`)
			},
			"The policy of the events queue keeps EventBridge out", finding.Critical,
		},
		"trail stopped": {
			func(w *watched) error {
				_, err := w.trails.StopLogging(w.Context(), &cloudtrail.StopLoggingInput{Name: trail})
				return err
			},
			func(w *watched) error {
				_, err := w.trails.StartLogging(w.Context(), &cloudtrail.StartLoggingInput{Name: trail})
				return err
			},
			"CloudTrail trail management is not logging", finding.Critical,
		},
		"KMS excluded": {
			func(w *watched) error {
				_, err := w.trails.PutEventSelectors(w.Context(), &cloudtrail.PutEventSelectorsInput{TrailName: trail, EventSelectors: basic("kms.amazonaws.com")})
				return err
			},
			func(w *watched) error {
				_, err := w.trails.PutEventSelectors(w.Context(), &cloudtrail.PutEventSelectorsInput{TrailName: trail, EventSelectors: basic()})
				return err
			},
			"No CloudTrail trail logs calls of KMS", finding.Critical,
		},
		"schedule disabled": {
			func(w *watched) error {
				_, err := w.bus.DisableRule(w.Context(), &eventbridge.DisableRuleInput{Name: aws.String("cmkeeper-sweep")})
				return err
			},
			func(w *watched) error {
				_, err := w.bus.EnableRule(w.Context(), &eventbridge.EnableRuleInput{Name: aws.String("cmkeeper-sweep")})
				return err
			},
			"EventBridge rule cmkeeper-sweep is disabled", finding.High,
		},
		"dead letters": {
			func(w *watched) error {
				_, err := w.sqs.SendMessage(w.Context(), &sqs.SendMessageInput{QueueUrl: aws.String(w.box.EventsQueue + "-dlq"), MessageBody: aws.String("x")})
				return err
			},
			func(w *watched) error {
				_, err := w.sqs.PurgeQueue(w.Context(), &sqs.PurgeQueueInput{QueueUrl: aws.String(w.box.EventsQueue + "-dlq")})
				return err
			},
			"Messages are in the dead-letter queue cmkeeper-events-dlq", finding.High,
		},
		"a key of its own": {
			func(w *watched) error {
				key := must(w.kms.CreateKey(w.Context(), &kms.CreateKeyInput{}))(w.T).KeyMetadata.Arn
				_, err := w.sqs.SetQueueAttributes(w.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &w.box.JobsQueue, Attributes: map[string]string{"KmsMasterKeyId": *key}})
				return err
			},
			func(w *watched) error {
				_, err := w.sqs.SetQueueAttributes(w.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &w.box.JobsQueue, Attributes: map[string]string{"KmsMasterKeyId": ""}})
				return err
			},
			"cmkeeper depends on a key that it guards", finding.High,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWatched(t, func(w *watched) {
				w.none(w.sweep())
				if err := tt.breakIt(w); err != nil {
					t.Fatal(err)
				}
				told := w.one(w.sweep())
				if told.Title != tt.title || told.Severity != tt.severity || !told.Ongoing {
					t.Errorf("told %s %q, want %s %q", told.Severity, told.Title, tt.severity, tt.title)
				}
				time.Sleep(time.Hour)
				w.none(w.sweep())
				time.Sleep(24 * time.Hour)
				if again := w.one(w.sweep()); again.ID != told.ID {
					t.Errorf("a day later told of %s, not of %s again", again.ID, told.ID)
				}
				if err := tt.mend(w); err != nil {
					t.Fatal(err)
				}
				before := time.Now()
				over := w.one(w.sweep())
				if over.Resolves != told.ID || over.Action.Status != alert.StatusResolved || !strings.HasSuffix(over.Title, tt.title) {
					t.Errorf("mended, and told:\n%s", over.Text())
				}
				if took := time.Since(before); took < time.Minute || took > 2*time.Minute {
					t.Errorf("the end was told after %s: two reads are a minute apart", took)
				}
				time.Sleep(time.Hour)
				w.none(w.sweep())
			}, "SWEEP_INTERVAL", "168h") // nobody takes the ticks
		})
	}
}

// The topic is the one that tells, so who listens to another one hears of it.
func TestSubscriptionGone(t *testing.T) {
	inWatched(t, func(w *watched) {
		// The sandbox's own topic keeps its subscription: what it says can be read.
		other := must(w.sns.CreateTopic(w.Context(), &sns.CreateTopicInput{Name: aws.String("pager")}))(t).TopicArn
		w.member.config.AlertFormats = *other + "=json"
		w.wired = must(w.member.wire(w.Context()))(t)
		told := w.one(w.sweep())
		if told.Title != "Nobody is subscribed to the alert topic pager" || told.Severity != finding.Critical {
			t.Errorf("told:\n%s", told.Text())
		}
		must(w.sns.Subscribe(w.Context(), &sns.SubscribeInput{TopicArn: other, Protocol: aws.String("sqs"), Endpoint: aws.String("arn:aws:sqs:" + sandbox.Region + ":" + sandbox.Account + ":cmkeeper-alert-inbox")}))(t)
		if over := w.one(w.sweep()); over.Resolves != told.ID {
			t.Errorf("told:\n%s", over.Text())
		}
	})
}

// What the role may not read is not fine: it is said, once, with what to grant, and what was
// told before does not end by it.
func TestGuardMayNotLook(t *testing.T) {
	inWatched(t, func(w *watched) {
		w.box.AWS.SetIdentityPolicy(sandbox.WorkerKey, func(action, _ string) bool {
			return !strings.HasPrefix(action, "events:") && action != "cloudtrail:DescribeTrails"
		})
		told := w.one(w.sweep())
		if told.Title != "cmkeeper cannot check 3 of the 9 things that it needs to see" || told.Severity != finding.Low || told.Ongoing {
			t.Errorf("told:\n%s", told.Text())
		}
		for _, want := range []string{"cloudtrail:DescribeTrails", "events:ListRules", "not looked at", "AccessDenied"} {
			if !strings.Contains(told.Text(), want) {
				t.Errorf("%q is not in\n%s", want, told.Text())
			}
		}
		time.Sleep(48 * time.Hour)
		w.none(w.sweep())
		w.box.AWS.SetIdentityPolicy(sandbox.WorkerKey, func(string, string) bool { return true })
		if over := w.one(w.sweep()); over.Resolves != told.ID {
			t.Errorf("told:\n%s", over.Text())
		}
		_ = must(w.bus.DisableRule(w.Context(), &eventbridge.DisableRuleInput{Name: aws.String("cmkeeper-kms")}))(t)
		w.one(w.sweep())
		w.box.AWS.SetIdentityPolicy(sandbox.WorkerKey, func(action, _ string) bool { return action != "events:ListRules" })
		for range 3 {
			for _, a := range w.sweep() {
				if a.Action.Status == alert.StatusResolved {
					t.Errorf("what cannot be read is over:\n%s", a.Text())
				}
			}
			time.Sleep(time.Hour)
		}
	}, "SWEEP_INTERVAL", "168h")
}

// The schedule stops: a worker notices by itself, sweeps and tells; when it asks again, that
// is told.
func TestScheduleStops(t *testing.T) {
	inWatched(t, func(w *watched) {
		w.run()
		time.Sleep(3 * time.Hour)
		w.none(w.alerts())
		// As if somebody else's schedule asked, which no rule here shows.
		must(w.bus.RemoveTargets(w.Context(), &eventbridge.RemoveTargetsInput{Rule: aws.String("cmkeeper-sweep"), Ids: []string{"cmkeeper-events"}}))(t)
		must(w.bus.DeleteRule(w.Context(), &eventbridge.DeleteRuleInput{Name: aws.String("cmkeeper-sweep")}))(t)
		time.Sleep(2*time.Hour - time.Minute)
		w.alerts() // of the calls on the rule
		time.Sleep(31 * time.Minute)
		told := w.one(w.alerts())
		if told.Title != "The schedule does not ask for sweeps any more" {
			t.Errorf("told:\n%s", told.Text())
		}
		sweeps := strings.Count(w.log.String(), "sweep ended")
		time.Sleep(10 * time.Hour)
		if n := strings.Count(w.log.String(), "sweep ended") - sweeps; n < 4 || n > 5 {
			t.Errorf("%d sweeps in ten hours without a schedule, want one every two", n)
		}
		w.none(w.alerts())
		tick := fmt.Sprintf(`{"version":"0","id":"1","detail-type":"Scheduled Event","source":"aws.scheduler","account":%q,"time":"2026-01-02T03:04:05Z","region":%q,"resources":[],"detail":{}}`, sandbox.Account, sandbox.Region)
		scheduler := sqs.NewFromConfig(w.box.Config(sandbox.WorkerKey)) // whom the queue's policy lets send
		must(scheduler.SendMessage(w.Context(), &sqs.SendMessageInput{QueueUrl: &w.box.EventsQueue, MessageBody: &tick}))(t)
		time.Sleep(10 * time.Minute)
		if over := w.one(w.alerts()); over.Resolves != told.ID {
			t.Errorf("told:\n%s", over.Text())
		}
	})
}

// run runs the member until the test ends, and returns when it is ready.
func (w *watched) run() (stop func()) {
	w.Helper()
	ctx, cancel := context.WithCancel(w.Context())
	ended := make(chan error, 1)
	ready := make(chan struct{})
	go func() { ended <- w.member.work(ctx, w.wired, func() { close(ready) }) }()
	<-ready
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.Error(err)
		}
	})
	w.stops = append(w.stops, stop)
	return stop
}

// until waits until something is so, and returns how long that took.
func (w *watched) until(what string, so func() bool) time.Duration {
	w.Helper()
	began := time.Now()
	for !so() {
		if time.Sleep(time.Second); time.Since(began) > time.Hour {
			w.Fatalf("never so: %s", what)
		}
	}
	return time.Since(began)
}

// A queue under a disabled key: the worker says so within BLIND_AFTER, on the topic and at
// /readyz, and when it receives again.
func TestQueueUnderDisabledKey(t *testing.T) {
	for name, bucketGone := range map[string]bool{"with the state bucket": false, "without": true} {
		t.Run(name, func(t *testing.T) {
			inWatched(t, func(w *watched) {
				key := must(w.kms.CreateKey(w.Context(), &kms.CreateKeyInput{}))(t).KeyMetadata.Arn
				must(w.sqs.SetQueueAttributes(w.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &w.box.EventsQueue, Attributes: map[string]string{"KmsMasterKeyId": *key}}))(t)
				w.run()
				time.Sleep(10 * time.Minute) // an idle queue is not blind
				if why := w.wired.sight.blindness(); why != "" {
					t.Errorf("idle, and %s", why)
				}
				w.alerts() // that it depends on the key
				if bucketGone {
					w.box.AWS.SetIdentityPolicy(sandbox.WorkerKey, func(action, _ string) bool { return !strings.HasPrefix(action, "s3:") })
				}
				must(w.kms.DisableKey(w.Context(), &kms.DisableKeyInput{KeyId: key}))(t)
				blind := w.until("blind", func() bool { return w.wired.sight.blindness() != "" })
				if blind > 3*time.Minute+time.Second { // it is looked at once a second
					t.Errorf("blind after %s", blind)
				}
				if why := w.wired.sight.blindness(); !strings.Contains(why, "KMS.DisabledException") || !strings.Contains(why, "fix") {
					t.Errorf("/readyz says %q", why)
				}
				time.Sleep(time.Second)
				told := w.one(w.alerts())
				if told.Severity != finding.Critical || told.Title != "cmkeeper is blind: it cannot receive events" || !strings.Contains(told.Summary, "KMS.DisabledException") {
					t.Errorf("told:\n%s", told.Text())
				}
				time.Sleep(50 * time.Minute)
				w.none(w.alerts())
				must(w.kms.EnableKey(w.Context(), &kms.EnableKeyInput{KeyId: key}))(t)
				w.until("seeing", func() bool { return w.wired.sight.blindness() == "" })
				time.Sleep(5 * time.Minute)
				var over []alert.Alert
				for _, a := range w.alerts() {
					if a.Resolves != "" {
						over = append(over, a)
					}
				}
				if a := w.one(over); a.Resolves != told.ID || a.Action.Status != alert.StatusResolved {
					t.Errorf("told:\n%s", a.Text())
				}
			}, "DELETION_MODE", "off")
		})
	}
}

// Of several blind workers one tells, and one that starts later tells the end when those
// are gone.
func TestBlindFleet(t *testing.T) {
	inWatched(t, func(w *watched) {
		refuse := func(action, _ string) bool { return action != "sqs:ReceiveMessage" }
		w.box.AWS.SetIdentityPolicy(sandbox.WorkerKey, refuse)
		var stops []func()
		for range 3 {
			w.wired = must(w.member.wire(w.Context()))(t)
			stops = append(stops, w.run())
			time.Sleep(10 * time.Second)
		}
		time.Sleep(10 * time.Minute)
		told := w.one(w.alerts())
		for _, stop := range stops {
			stop()
		}
		w.box.AWS.SetIdentityPolicy(sandbox.WorkerKey, func(string, string) bool { return true })
		w.wired = must(w.member.wire(w.Context()))(t)
		w.run()
		time.Sleep(10 * time.Minute)
		if over := w.one(w.alerts()); over.Resolves != told.ID {
			t.Errorf("told:\n%s", over.Text())
		}
	})
}

// canaryKey creates a key for the canary, and has the member know it.
func (w *watched) canaryKey(description string, tags ...string) string {
	w.Helper()
	in := &kms.CreateKeyInput{Description: &description}
	for _, tag := range tags {
		in.Tags = append(in.Tags, kmstypes.Tag{TagKey: aws.String(tag), TagValue: aws.String("true")})
	}
	key := *must(w.kms.CreateKey(w.Context(), in))(w.T).KeyMetadata.Arn
	w.member.config.CanaryKey = key
	w.wired = must(w.member.wire(w.Context()))(w.T)
	return key
}

func (w *watched) description(key string) string {
	w.Helper()
	return aws.ToString(must(w.kms.DescribeKey(w.Context(), &kms.DescribeKeyInput{KeyId: &key}))(w.T).KeyMetadata.Description)
}

// The event of each sweep's call comes back, in mode observe as well, and nobody is told.
func TestCanary(t *testing.T) {
	inWatched(t, func(w *watched) {
		key := w.canaryKey("", "cmkeeper:canary")
		w.box.AWS.Trail().Set(trail.Settings{Delay: 2 * time.Minute})
		w.run()
		time.Sleep(3 * time.Hour)
		if back := strings.Count(w.log.String(), "the canary is back"); back < 12 || back > 13 {
			w.Errorf("%d canaries came back in three hours with a sweep every 15 minutes:\n%s", back, w.log)
		}
		if d := w.description(key); !strings.HasPrefix(d, "cmkeeper canary, sent 2000-01-01") {
			w.Errorf("the description is %q", d)
		}
		var doc ledger.Canary
		must(w.wired.router.State.Get(w.Context(), ledger.CanaryName, &doc))(w.T)
		if n := len(doc.Flown); n < 12 || doc.Flown[0].TookMS < 120_000 || doc.Flown[0].TookMS > 150_000 || doc.Lost != 0 {
			w.Errorf("noted %+v", doc)
		}
		w.none(w.alerts())
	}, "ROTATION_MODE", "observe", "POLICY_MODE", "observe", "DELETION_MODE", "observe", "REENCRYPT_MODE", "observe")
}

// Canaries that do not come back are told, and three in a row are critical; one is under way
// at a time. One that comes late, and a forged event, change nothing; the next one that comes
// in time ends it.
func TestCanaryLost(t *testing.T) {
	inWatched(t, func(w *watched) {
		key := w.canaryKey("", "cmkeeper:canary")
		w.box.AWS.Trail().Set(trail.Settings{Delay: 3 * time.Hour})
		w.run()
		time.Sleep(19 * time.Minute)
		if n := w.box.AWS.Requests("kms", "UpdateKeyDescription"); n != 1 {
			w.Errorf("%d canaries in 19 minutes", n)
		}
		w.none(w.alerts())
		time.Sleep(12 * time.Minute)
		lost := w.one(w.alerts())
		if lost.Severity != finding.High || !strings.HasPrefix(lost.Title, "A canary did not come back") {
			w.Errorf("told:\n%s", lost.Text())
		}
		// By our own role, as far as it says; only the request id is not that of our call.
		forged := strings.ReplaceAll(event("kms.amazonaws.com", "UpdateKeyDescription", key),
			`"type":"IAMUser","arn":"arn:aws:iam::000000000000:user/mallory","accountId":"000000000000","userName":"mallory"`,
			`"type":"AssumedRole","arn":"arn:aws:sts::000000000000:assumed-role/cmkeeper-worker/local","accountId":"000000000000","sessionContext":{"sessionIssuer":{"type":"Role","arn":"arn:aws:iam::000000000000:role/cmkeeper-worker","accountId":"000000000000","userName":"cmkeeper-worker"}}`)
		must(sqs.NewFromConfig(w.box.Config(sandbox.WorkerKey)).SendMessage(w.Context(), &sqs.SendMessageInput{QueueUrl: &w.box.EventsQueue, MessageBody: &forged}))(w.T)
		time.Sleep(time.Hour)
		var grave []alert.Alert
		impostor := false
		for _, a := range w.alerts() {
			impostor = impostor || strings.Contains(a.Title, "was called with cmkeeper's own role")
			if strings.HasPrefix(a.Title, "No canary comes back") {
				grave = append(grave, a)
			}
			if a.Resolves == lost.ID {
				w.Errorf("a forged event ended it:\n%s", a.Text())
			}
		}
		if !impostor {
			w.Error("the forged event was not told")
		}
		if a := w.one(grave); a.Severity != finding.Critical {
			w.Errorf("told:\n%s", a.Text())
		}
		time.Sleep(2 * time.Hour)
		if !strings.Contains(w.log.String(), "late=true") {
			w.Error("those that came late were not noticed")
		}
		w.none(w.alerts())
		w.box.AWS.Trail().Set(trail.Settings{})
		time.Sleep(45 * time.Minute)
		if over := w.one(w.alerts()); over.Resolves != grave[0].ID {
			w.Errorf("told:\n%s", over.Text())
		}
	})
}

// A key that is not made for it is not written to, and that is told.
func TestCanaryRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		description string
		tags        []string
		deny        string
		says        string
		mend        func(w *watched, key string)
	}{
		"no tag": {says: "the key has no tag cmkeeper:canary", mend: func(w *watched, key string) {
			must(w.kms.TagResource(w.Context(), &kms.TagResourceInput{KeyId: &key, Tags: []kmstypes.Tag{{TagKey: aws.String("cmkeeper:canary"), TagValue: aws.String("1")}}}))(w.T)
		}},
		"somebody's description": {description: "payments", tags: []string{"cmkeeper:canary"}, says: "a description that is not cmkeeper's", mend: func(w *watched, key string) {
			must(w.kms.UpdateKeyDescription(w.Context(), &kms.UpdateKeyDescriptionInput{KeyId: &key, Description: aws.String("")}))(w.T)
		}},
		"denied": {tags: []string{"cmkeeper:canary"}, deny: "kms:UpdateKeyDescription", says: "not authorized to perform: kms:UpdateKeyDescription", mend: func(w *watched, _ string) {
			w.box.AWS.SetIdentityPolicy(sandbox.WorkerKey, func(string, string) bool { return true })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inWatched(t, func(w *watched) {
				key := w.canaryKey(tt.description, tt.tags...)
				w.box.AWS.SetIdentityPolicy(sandbox.WorkerKey, func(action, _ string) bool { return action != tt.deny })
				told := w.one(w.sweep())
				if !strings.HasPrefix(told.Title, "No canary is sent") || !strings.Contains(told.Summary, tt.says) || told.Severity != finding.Medium {
					w.Errorf("told:\n%s", told.Text())
				}
				if d := w.description(key); d != tt.description {
					w.Errorf("the description is %q", d)
				}
				time.Sleep(time.Hour)
				w.none(w.sweep())
				tt.mend(w, key)
				if over := w.one(w.sweep()); over.Resolves != told.ID {
					w.Errorf("told:\n%s", over.Text())
				}
				if d := w.description(key); !strings.HasPrefix(d, "cmkeeper canary") {
					w.Errorf("mended, and the description is %q", d)
				}
			}, "SWEEP_INTERVAL", "168h")
		})
	}
}

// A key policy that does not let the role do what its mode needs, and a call that AWS
// denied, are told by the next sweep.
func TestRoleCannot(t *testing.T) {
	const narrow = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:root"},"Action":["kms:Describe*","kms:Get*","kms:List*","kms:PutKeyPolicy"],"Resource":"*"}]}`
	t.Run("by the key policy", func(t *testing.T) {
		inWatched(t, func(w *watched) {
			key := must(w.kms.CreateKey(w.Context(), &kms.CreateKeyInput{Policy: aws.String(narrow)}))(w.T).KeyMetadata.Arn
			told := w.one(w.sweep())
			if told.Title != "cmkeeper may not call kms:EnableKeyRotation on 1 keys, and its modes need that" || told.Severity != finding.High || !strings.Contains(told.Text(), *key) {
				w.Errorf("told:\n%s", told.Text())
			}
			must(w.kms.PutKeyPolicy(w.Context(), &kms.PutKeyPolicyInput{KeyId: key, Policy: aws.String(strings.Replace(narrow, `"kms:Describe*"`, `"kms:*"`, 1))}))(w.T)
			if over := w.one(w.sweep()); over.Resolves != told.ID {
				w.Errorf("told:\n%s", over.Text())
			}
		}, "SWEEP_INTERVAL", "168h", "DELETION_MODE", "observe", "POLICY_MODE", "observe")
	})
	t.Run("by a refusal", func(t *testing.T) {
		inWatched(t, func(w *watched) {
			key := must(w.kms.CreateKey(w.Context(), &kms.CreateKeyInput{}))(w.T).KeyMetadata.Arn
			must(w.kms.EnableKeyRotation(w.Context(), &kms.EnableKeyRotationInput{KeyId: key}))(w.T)
			w.none(w.sweep())
			w.box.AWS.SetIdentityPolicy(sandbox.WorkerKey, func(action, _ string) bool { return action != "kms:EnableKeyRotation" })
			must(w.kms.DisableKeyRotation(w.Context(), &kms.DisableKeyRotationInput{KeyId: key}))(w.T)
			_ = w.wired.router.Sweep(w.Context()) // the repair fails
			_ = w.wired.router.Sweep(w.Context())
			told := w.one(w.alerts())
			if !strings.Contains(told.Title, "kms:EnableKeyRotation on 1 keys") || !strings.Contains(told.Text(), "AWS refused it at") {
				w.Errorf("told:\n%s", told.Text())
			}
			w.box.AWS.SetIdentityPolicy(sandbox.WorkerKey, func(string, string) bool { return true })
			w.sweep() // repairs
			if over := w.one(w.sweep()); over.Resolves != told.ID {
				w.Errorf("told:\n%s", over.Text())
			}
		}, "SWEEP_INTERVAL", "168h")
	})
}

// A service that does not answer takes up all slots: the worker says so, and when they are
// free again.
func TestNoSlotIsFree(t *testing.T) {
	inWatched(t, func(w *watched) {
		w.run()
		key := must(w.kms.CreateKey(w.Context(), &kms.CreateKeyInput{}))(w.T).KeyMetadata.Arn
		time.Sleep(10 * time.Minute)
		w.alerts()
		w.box.AWS.SetFaults(localaws.Fault{Service: "kms", Operations: []string{"DescribeKey"}, Effect: localaws.Delay, Latency: localaws.Latency{Min: 20 * time.Minute}})
		must(w.kms.EnableKeyRotation(w.Context(), &kms.EnableKeyRotationInput{KeyId: key}))(w.T)
		w.until("blind", func() bool { return strings.Contains(w.wired.sight.blindness(), "all 1 slots have been taken") })
		time.Sleep(time.Second)
		told := w.one(w.alerts())
		if told.Severity != finding.Critical || told.Title != "cmkeeper is blind: no slot is free for events" {
			w.Errorf("told:\n%s", told.Text())
		}
		w.box.AWS.SetFaults()
		w.until("seeing", func() bool { return w.wired.sight.blindness() == "" })
		time.Sleep(5 * time.Minute)
		over := w.alerts()
		if i := slices.IndexFunc(over, func(a alert.Alert) bool { return a.Resolves == told.ID }); i < 0 {
			w.Errorf("told:\n%s", titles(over))
		}
	}, "EVENTS_CONCURRENCY", "1", "SWEEP_INTERVAL", "168h")
}
