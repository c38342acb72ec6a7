package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
	"github.com/cmkeeper/cmkeeper/worker"
)

// TestMessagesThatAreNoEvents sends what no handler can read, and between it
// what must not be lost for it.
func TestMessagesThatAreNoEvents(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	key := a.newRotatingKey()
	a.start()
	a.awaitQuiet()

	whole := event("kms.amazonaws.com", "DisableKeyRotation", key)
	const mebibyte = 1 << 20
	hopeless := map[string]string{ // body → what the reason says
		"this is no event":                   "decode message",
		whole[:len(whole)/2]:                 "decode message",
		`{"hello":"world"}`:                  "events: ",
		strings.Repeat("x", mebibyte-4<<10):  "decode message",
		strings.Repeat("x", mebibyte):        "", // leaves no room for one
		"\u202etxt.\u0085<script>\n{\"\": 1": "decode message",
	}
	for body := range hopeless {
		a.send(body)
	}
	for _, unknown := range []string{
		event("ec2.amazonaws.com", "TerminateInstances", key),
		event("kms.amazonaws.com", "SingASong", key),
		`{"version":"0","id":"1","detail-type":"Something New","source":"aws.kms","account":"000000000000","time":"2026-01-02T03:04:05Z","region":"us-east-1","resources":[],"detail":{}}`,
	} {
		a.send(unknown)
	}
	a.disableRotation(key)

	a.await("rotation repaired", tells(alert.KindRotation, key, alert.StatusDone))
	a.awaitQuiet()
	if got := a.rotation(key); got != 180 {
		t.Errorf("rotation every %d days, want 180", got)
	}
	for _, m := range a.deadLetters(a.box.EventsQueue) {
		want, sent := hopeless[*m.Body]
		delete(hopeless, *m.Body)
		reason := aws.ToString(m.MessageAttributes[worker.AttributeReason].StringValue)
		if !sent || !strings.Contains(reason, want) || want == "" && reason != "" {
			t.Errorf("dead letter %.80q, reason %q, want one with %q", *m.Body, reason, want)
		}
	}
	for body := range hopeless {
		t.Errorf("not in the dead-letter queue: %.80q", body)
	}
	if len(a.inbox) != 1 {
		t.Errorf("alerts about something else:\n%s", titles(a.inbox))
	}
}

func TestEventsOfAKeyThatIsGone(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.start()
	gone := "arn:aws:kms:" + sandbox.Region + ":" + sandbox.Account + ":key/00000000-aaaa-bbbb-cccc-000000000000"
	for _, name := range []string{"EnableKey", "CancelKeyDeletion", "DisableKeyRotation"} {
		a.send(event("kms.amazonaws.com", name, gone))
	}
	got := a.await("the key is gone", tells(alert.KindRotation, gone, alert.StatusNone))
	if !got.Severity.AtLeast(finding.High) || !strings.Contains(got.Summary, "does not know the key") {
		t.Errorf("alert: %s", got.Text())
	}
	a.awaitQuiet()
	a.expectNoDeadLetters()
	if len(a.inbox) != 1 {
		t.Errorf("alerts about what did no harm:\n%s", titles(a.inbox))
	}
}

func TestRepairWaitsForItsPermission(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		key := a.newRotatingKey()
		a.start()
		a.awaitQuiet()

		a.deny(sandbox.WorkerKey, "kms:EnableKeyRotation")
		a.disableRotation(key)
		failed := a.await("the repair failed", tells(alert.KindRotation, key, alert.StatusFailed))
		if !failed.Severity.AtLeast(finding.High) || !strings.Contains(failed.Action.Description, "EnableKeyRotation") {
			t.Errorf("the alert does not say what failed: %s", failed.Text())
		}
		if !slices.ContainsFunc(failed.Next, func(next string) bool { return strings.Contains(next, "Allow the role cmkeeper-worker") }) {
			t.Errorf("the alert does not say what to do: %q", failed.Next)
		}
		refused := a.box.AWS.Requests("kms", "EnableKeyRotation")
		a.eventually("it is tried again", func() bool { return a.box.AWS.Requests("kms", "EnableKeyRotation") > refused })
		if n, period := a.messages(a.box.EventsQueue), a.rotation(key); n == 0 || period != 0 {
			t.Errorf("%d messages left while the repair fails, rotation period %d", n, period)
		}

		a.allowAll(sandbox.WorkerKey)
		a.await("rotation repaired", tells(alert.KindRotation, key, alert.StatusDone))
		a.awaitQuiet()
		if got := a.rotation(key); got != 180 {
			t.Errorf("rotation every %d days, want 180", got)
		}
		told := map[string]int{} // a message that nobody believes yet is told apart from the record
		for _, one := range a.inbox {
			told[fmt.Sprint(one.Action.Status, " ", one.Action.Status == alert.StatusFailed && one.Actor.Unconfirmed)]++
		}
		if failures := told["failed true"] + told["failed false"]; told["done false"] != 1 || failures != len(a.inbox)-1 || told["failed true"] > 1 || told["failed false"] > 1 {
			t.Errorf("want the failure told once, and the repair:\n%s", titles(a.inbox))
		}
		a.expectNoDeadLetters()
	})
}

// TestAliasOfUnknownPast moves an alias that no worker has seen before: its
// creation was never announced.
func TestAliasOfUnknownPast(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	oldKey, newKey := a.moveUnseen(3)
	a.start()

	got := a.await("old key unknown", tells(alert.KindAlias, newKey, alert.StatusRefused))
	want := "cmkeeper reencrypt run --bucket app-data --from OLD-KEY-ARN --to " + newKey
	if !slices.ContainsFunc(got.Next, func(next string) bool { return strings.HasPrefix(next, want) }) {
		t.Errorf("no command begins with %q: %q", want, got.Next)
	}
	a.awaitQuiet()
	a.expectNoDeadLetters()
	a.expectUnder("app-data", oldKey, 3)
}

// moveUnseen fills app-data with n objects and moves its alias to another key,
// of which the events queue gets the last event alone.
func (a *account) moveUnseen(n int) (oldKey, newKey string) {
	a.t.Helper()
	bus := eventbridge.NewFromConfig(a.box.Config(operator))
	rule := aws.String("cmkeeper-kms")
	must(bus.DisableRule(a.t.Context(), &eventbridge.DisableRuleInput{Name: rule}))(a.t)
	oldKey, newKey = a.newKey(appAlias), a.newKey("")
	a.fill("app-data", appAlias, n)
	must(bus.EnableRule(a.t.Context(), &eventbridge.EnableRuleInput{Name: rule}))(a.t)
	a.moveAlias(appAlias, newKey)
	return oldKey, newKey
}

func TestQueueThatDisappears(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		key := a.newRotatingKey()
		m := a.start("EVENTS_CONCURRENCY", "1") // one poller
		a.awaitQuiet()
		endPoll := func() { a.send(event("ec2.amazonaws.com", "StopInstances", key)) }

		a.deny(sandbox.WorkerKey, "sqs:ReceiveMessage")
		endPoll() // one that began before goes on
		a.eventually("the outage is logged", func() bool { return len(m.log.lines("cannot receive messages")) > 0 })
		polls := a.box.AWS.Requests("sqs", "ReceiveMessage")
		a.eventually("the worker keeps trying", func() bool { return a.box.AWS.Requests("sqs", "ReceiveMessage") > polls })
		if lines := eventsQueueLines(m.log, "cannot receive messages"); len(lines) != 1 || !strings.Contains(lines[0], "sqs:GetQueueUrl, GetQueueAttributes, ReceiveMessage") {
			t.Errorf("want one line with the fix: %q", lines)
		}
		a.disableRotation(key)
		a.allowAll(sandbox.WorkerKey)
		a.await("rotation repaired", tells(alert.KindRotation, key, alert.StatusDone))
		if lines := eventsQueueLines(m.log, "messages are received again"); len(lines) != 1 {
			t.Errorf("the end of the outage is logged %d times", len(lines))
		}
		a.awaitQuiet()

		must(a.sqs.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: &a.box.EventsQueue}))(t)
		a.eventually("the deleted queue is logged with its fix", func() bool {
			return slices.ContainsFunc(eventsQueueLines(m.log, "cannot receive messages"), func(line string) bool { return strings.Contains(line, "create the queue, or correct its URL") })
		})
		polls = a.box.AWS.Requests("sqs", "ReceiveMessage")
		a.eventually("the worker keeps trying", func() bool { return a.box.AWS.Requests("sqs", "ReceiveMessage") > polls })
		if lines := eventsQueueLines(m.log, "cannot receive messages"); len(lines) != 2 {
			t.Errorf("want one line for each outage: %q", lines)
		}
		if err := m.stop(); err != nil {
			t.Errorf("without its queue the worker ends with %v", err)
		}
	})
}

// eventsQueueLines are the lines that contain the text and are about the events queue.
func eventsQueueLines(log *logBuffer, text string) []string {
	return slices.DeleteFunc(log.lines(text), func(line string) bool { return !strings.Contains(line, "queue=cmkeeper-events") })
}

// TestStopInTheMiddle stops a worker while it re-encrypts. Another one goes on.
func TestStopInTheMiddle(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		const objects, enough = 2100, 300 // in two slices
		a.newKey(appAlias)
		newKey := a.newKey("")
		a.fill("app-data", appAlias, objects)
		first := a.start("REENCRYPT_CONCURRENCY", "16")
		a.awaitQuiet()

		var writes atomic.Int64
		middle := make(chan struct{})
		stopWatching := a.box.AWS.Observe(func(r localaws.Request) {
			if r.Service == "s3" && r.Operation == "UpdateObjectEncryption" && writes.Add(1) == enough {
				close(middle)
			}
		})
		a.box.AWS.SetFaults(localaws.Fault{Service: "s3", Operations: []string{"UpdateObjectEncryption"}, Effect: localaws.Delay, Latency: localaws.Latency{Min: 8 * time.Millisecond}})
		a.moveAlias(appAlias, newKey)
		select {
		case <-middle:
		case <-t.Context().Done():
			t.Fatal("the re-encryption never began")
		}
		if err := first.stop(); err != nil {
			t.Errorf("the worker did not stop cleanly: %v", err)
		}
		stopWatching()
		a.box.AWS.SetFaults()
		if n := writes.Load(); n >= objects {
			t.Fatalf("not stopped in the middle: %d writes", n)
		}
		if n := a.messages(a.box.JobsQueue); n == 0 {
			t.Error("nobody has been told to go on")
		}

		a.start()
		done := a.await("the job is complete", tells(alert.KindReencryption, newKey, alert.StatusDone))
		for _, want := range []string{fmt.Sprintf("%d scanned", objects), "0 refused, 0 failed"} {
			if !strings.Contains(done.Summary, want) {
				t.Errorf("want %q in %q", want, done.Summary)
			}
		}
		a.awaitQuiet()
		a.expectUnder("app-data", newKey, objects)
		a.expectNoDeadLetters()
	})
}

// TestFaultyServices lets every service throttle, fail and hang up while events
// are handled and data moves.
func TestFaultyServices(t *testing.T) {
	t.Parallel()
	const objects = 200
	a := newAccount(t)
	var keys []string
	for range 5 {
		keys = append(keys, a.newRotatingKey())
	}
	a.newKey(appAlias)
	newKey := a.newKey("")
	a.fill("app-data", appAlias, objects)
	for _, url := range []string{a.box.EventsQueue, a.box.JobsQueue} {
		// A batch whose answer is lost comes again after this.
		must(a.sqs.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &url, Attributes: map[string]string{"VisibilityTimeout": "3"}}))(t)
	}
	a.start()
	a.awaitQuiet()

	faults := slices.Concat(localaws.S3Rates(), localaws.KMSQuotas())
	// Seldom enough that the SDK's three attempts suffice almost always: where
	// they do not, a slice waits for half a minute.
	for service, probability := range map[string]float64{"s3": 0.005, "kms": 0.02, "sns": 0.02, "sqs": 0.02} {
		for _, effect := range []localaws.Effect{localaws.FailBefore, localaws.FailAfter, localaws.DropBefore, localaws.DropAfter} {
			faults = append(faults, localaws.Fault{Service: service, Effect: effect, Probability: probability})
		}
		faults = append(faults, localaws.Fault{Service: service, Effect: localaws.Throttle, Rate: 1, Probability: probability})
	}
	a.box.AWS.SetFaults(faults...)
	for _, key := range keys {
		a.persist(func() error {
			_, err := a.kms.DisableKeyRotation(t.Context(), &kms.DisableKeyRotationInput{KeyId: &key})
			return err
		})
	}
	a.persist(func() error {
		_, err := a.kms.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: aws.String(appAlias), TargetKeyId: &newKey})
		return err
	})
	a.eventually("the re-encryption has met the faults", func() bool { return a.box.AWS.Requests("s3", "UpdateObjectEncryption") >= objects })
	a.box.AWS.SetFaults() // for what the test itself does below

	for _, key := range keys {
		a.await("rotation repaired", tells(alert.KindRotation, key, alert.StatusDone))
		if got := a.rotation(key); got != 180 {
			t.Errorf("rotation every %d days, want 180", got)
		}
	}
	a.await("the job is complete", tells(alert.KindReencryption, newKey, alert.StatusDone))
	a.awaitQuiet()
	a.expectUnder("app-data", newKey, objects)
	a.expectNoDeadLetters()
	if slices.ContainsFunc(a.inbox, func(m alert.Alert) bool { return m.Kind == alert.KindGuard }) {
		t.Errorf("a lost answer is no impostor:\n%s", titles(a.inbox))
	}
}

// persist repeats what faults may hit.
func (a *account) persist(do func() error) {
	a.t.Helper()
	a.eventually("a call succeeds", func() bool { return do() == nil })
}

func TestStartWithoutWhatItNeeds(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	lonely := must(a.sqs.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("lonely")}))(t)
	broken := []struct{ variable, value, problem, fix string }{
		{"EVENTS_QUEUE_URL", a.box.Endpoint + "/" + sandbox.Account + "/nowhere", "check queue nowhere: read its attributes", "fix: create the queue, or correct its URL"},
		{"JOBS_QUEUE_URL", *lonely.QueueUrl, "check queue lonely: it has no redrive policy", "fix: create a dead-letter queue and set the queue's RedrivePolicy"},
		{"ALERT_FORMATS", "arn:aws:sns:us-east-1:" + sandbox.Account + ":chat=chat", "CMKEEPER_ALERT_FORMATS: topic arn:aws:sns:us-east-1:" + sandbox.Account + ":chat cannot be read", "create it, or grant sns:GetTopicAttributes and sns:Publish"},
		{"ALERT_TOPIC_ARN", "arn:aws:sns:us-east-1:" + sandbox.Account + ":nobody", ":nobody cannot be read", "create it, or grant sns:GetTopicAttributes and sns:Publish"},
		{"STATE_BUCKET", "no-such-bucket", "no-such-bucket cannot be used", "create it in account " + sandbox.Account},
	}
	run := func(settings ...string) string {
		err := a.fleetMember(sandbox.WorkerKey, io.Discard, settings...).run(t.Context())
		if err == nil {
			t.Fatal("it started")
		}
		return err.Error()
	}
	var all []string
	for _, b := range broken {
		all = append(all, b.variable, b.value)
		got := run(b.variable, b.value)
		for _, other := range broken {
			if strings.Contains(got, envPrefix+other.variable) != (other == b) {
				t.Errorf("%s alone is wrong, and the error is: %s", b.variable, got)
			}
		}
	}
	got := run(all...)
	for _, b := range broken {
		for _, want := range []string{envPrefix + b.variable + ":", b.problem, b.fix} {
			if !strings.Contains(got, want) {
				t.Errorf("%q is not in: %s", want, got)
			}
		}
	}
}

// A worker in another Region than its queue would ignore every event, and look healthy.
func TestStartInAnotherRegionThanTheQueue(t *testing.T) {
	t.Parallel()
	f := newAccount(t).fleetMember(sandbox.WorkerKey, io.Discard)
	f.aws.Region = "eu-west-1"
	err := f.run(t.Context())
	want := "CMKEEPER_EVENTS_QUEUE_URL: queue cmkeeper-events is in us-east-1, and this member guards the keys of eu-west-1; set AWS_REGION to us-east-1"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v\nwant: %s", err, want)
	}
}

func TestResourcesUnderAGuardedKey(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	key := a.newKey("")
	must(a.sqs.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &a.box.JobsQueue, Attributes: map[string]string{"KmsMasterKeyId": key}}))(t)
	a.encryptByDefault(sandbox.StateBucket, key)
	m := a.start()
	lines := m.log.lines("cmkeeper itself depends on a key that it guards")
	if len(lines) != 2 || !strings.Contains(lines[0], "cmkeeper-jobs") || !strings.Contains(lines[1], "bucket "+sandbox.StateBucket) || !strings.Contains(lines[1], key) {
		t.Errorf("want a warning that names the queue and the key, and one with the bucket: %q", lines)
	}
	got := a.await("the guard depends on a key", func(told alert.Alert) bool { return told.Kind == alert.KindGuard && len(told.Findings) > 0 })
	if !got.Severity.AtLeast(finding.High) || len(got.Findings) != 2 || !strings.HasSuffix(got.Findings[0].Statement, ":cmkeeper-jobs") || got.Findings[1].Statement != "bucket "+sandbox.StateBucket {
		t.Errorf("alert: %s", got.Text())
	}
}

// TestOwnerOfTheStateBucket checks the state bucket of a member whose topic is in its own
// account, and in another one.
func TestOwnerOfTheStateBucket(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	f := a.fleetMember(sandbox.WorkerKey, io.Discard)
	const other = "444455556666"
	for name, tt := range map[string]struct{ caller, topic, want string }{
		"all in one account":                  {sandbox.Account, sandbox.Account, ""},
		"a topic of another account":          {sandbox.Account, other, ""},
		"a bucket of another account":         {other, other, "create it in account " + other},
		"topic and bucket of another account": {other, sandbox.Account, "create it in account " + other},
	} {
		d := dependencies{
			config: f.config, account: tt.topic, s3: f.config.s3(f.aws),
			caller: func() (*sts.GetCallerIdentityOutput, error) {
				return &sts.GetCallerIdentityOutput{Account: &tt.caller}, nil
			},
		}
		err := d.checkBucket(t.Context())
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// TestTwoWorkers has two workers on the same queues: everything is done, and
// told once.
func TestTwoWorkers(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		const objects = 100
		rotating := []string{a.newRotatingKey(), a.newRotatingKey(), a.newRotatingKey(), a.newRotatingKey()}
		doomed, open := a.newKey("alias/doomed"), a.newKey("alias/open")
		a.newKey(appAlias)
		newKey := a.newKey("")
		a.fill("app-data", appAlias, objects)
		a.start()
		a.start()
		a.awaitQuiet()

		for _, key := range rotating {
			a.disableRotation(key)
		}
		must(a.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &doomed, PendingWindowInDays: aws.Int32(7)}))(t)
		must(a.kms.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &open, Policy: aws.String(publicPolicy)}))(t)
		a.moveAlias(appAlias, newKey)

		for _, key := range rotating {
			a.await("rotation repaired", tells(alert.KindRotation, key, alert.StatusDone))
			if got := a.rotation(key); got != 180 {
				t.Errorf("rotation every %d days, want 180", got)
			}
		}
		a.await("deletion cancelled", tells(alert.KindDeletion, doomed, alert.StatusDone))
		a.await("policy put back", tells(alert.KindPolicy, open, alert.StatusDone))
		a.await("alias moved", tells(alert.KindAlias, newKey, alert.StatusDone))
		a.await("the job is complete", tells(alert.KindReencryption, newKey, alert.StatusDone))
		a.awaitQuiet()
		told := map[string]int{}
		for _, m := range a.inbox {
			told[m.ID]++
		}
		if len(told) != len(a.inbox) || len(told) != len(rotating)+4 {
			t.Errorf("want each of %d alerts once:\n%s", len(rotating)+4, titles(a.inbox))
		}
		a.expectUnder("app-data", newKey, objects)
		a.expectNoDeadLetters()
	})
}

// publicPolicy lets everybody decrypt.
const publicPolicy = `{"Version":"2012-10-17","Statement":[
	{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + sandbox.Account + `:root"},"Action":"kms:*","Resource":"*"},
	{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"}]}`

// TestTwoServices runs the pools as two services with a role each: the one that
// guards keys may not write data, and the one that writes data may do nothing
// to keys but look at those of its job and use them.
func TestTwoServices(t *testing.T) {
	t.Parallel()
	const (
		objects = 100
		mover   = "AKIAMOVER"
	)
	a := newAccount(t)
	rotating := a.newRotatingKey()
	a.newKey(appAlias)
	newKey := a.newKey("")
	a.fill("app-data", appAlias, objects)

	a.box.AWS.AddIdentity(mover, wire.Caller{
		Type: "AssumedRole", AccountID: sandbox.Account, PrincipalID: "AROAMOVER:local",
		ARN: "arn:aws:sts::" + sandbox.Account + ":assumed-role/cmkeeper-mover/local",
	})
	var refused refusals
	a.box.AWS.SetIdentityPolicy(sandbox.WorkerKey, func(action, resource string) bool {
		write := strings.HasPrefix(action, "s3:") && !strings.HasPrefix(action, "s3:Get") && !strings.HasPrefix(action, "s3:List")
		return refused.unless(!write || strings.HasPrefix(resource, "arn:aws:s3:::"+sandbox.StateBucket), action, resource)
	})
	beyond := []string{"kms:List", "kms:Enable", "kms:Disable", "kms:Cancel", "kms:Schedule", "kms:Put", "kms:Update", "kms:Create", "kms:Delete"}
	a.box.AWS.SetIdentityPolicy(mover, func(action, resource string) bool {
		return refused.unless(!slices.ContainsFunc(beyond, func(verb string) bool { return strings.HasPrefix(action, verb) }), action, resource)
	})
	a.startAs(mover, "POOLS", "jobs", "EVENTS_QUEUE_URL", "")
	a.start("POOLS", "events")
	a.awaitQuiet()

	a.disableRotation(rotating)
	a.moveAlias(appAlias, newKey)
	a.await("rotation repaired", tells(alert.KindRotation, rotating, alert.StatusDone))
	a.await("the job is complete", tells(alert.KindReencryption, newKey, alert.StatusDone))
	a.awaitQuiet()
	a.expectUnder("app-data", newKey, objects)
	if got := a.rotation(rotating); got != 180 {
		t.Errorf("rotation every %d days, want 180", got)
	}
	if calls := refused.calls(); len(calls) > 0 {
		t.Errorf("calls beyond the role of their service: %q", calls)
	}
}

// refusals are the calls that an identity policy refused.
type refusals struct {
	mu  sync.Mutex
	all map[string]bool
}

// unless notes the call as refused unless it is allowed, which it returns.
func (r *refusals) unless(allowed bool, action, resource string) bool {
	if allowed {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = map[string]bool{}
	}
	r.all[action+" "+resource] = true
	return false
}

func (r *refusals) calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.all))
}

// TestGuardOfTheGuard has somebody empty a dead-letter queue and turn a rule off:
// a worker knows both for its own.
func TestGuardOfTheGuard(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.start()
	dead := must(a.sqs.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("cmkeeper-events-dlq")}))(t).QueueUrl
	must(a.sqs.PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: dead}))(t)
	bus := eventbridge.NewFromConfig(a.box.Config(operator))
	must(bus.DisableRule(t.Context(), &eventbridge.DisableRuleInput{Name: aws.String("cmkeeper-kms")}))(t)
	for _, what := range []string{"PurgeQueue was called on queue cmkeeper-events-dlq", "DisableRule was called on rule cmkeeper-kms"} {
		got := a.await(what, func(told alert.Alert) bool { return told.Title == what })
		if got.Kind != alert.KindGuard || got.Severity != finding.Critical || got.Actor == nil {
			t.Errorf("alert: %s", got.Text())
		}
	}
}
