package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	localsqs "github.com/cmkeeper/cmkeeper/internal/localaws/sqs"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

const (
	// operator is the access key of somebody who is not the worker.
	operator = "operator"
	// appAlias is the alias whose moves the members may follow.
	appAlias = "alias/app"
	// patience bounds a test that fails; one that passes does not wait for it.
	patience = 90 * time.Second
)

// account is a sandbox, seen by the operator, and what has arrived in its inbox.
type account struct {
	t     *testing.T
	box   *sandbox.Sandbox
	kms   *kms.Client
	s3    *s3.Client
	sqs   *sqs.Client
	inbox []alert.Alert
	// bubble: the account is in a synctest bubble, and has no socket.
	bubble bool
	// aws is how commands call AWS in a bubble, once the test has entered the account.
	aws *aws.Config
}

// newAccount returns an account behind a socket, whose time is the real one.
func newAccount(t *testing.T) *account {
	t.Helper()
	box := must(sandbox.Start(t.Context(), "127.0.0.1:0"))(t)
	t.Cleanup(box.Close)
	return accountIn(t, box)
}

func accountIn(t *testing.T, box *sandbox.Sandbox) *account {
	cfg := box.Config(operator)
	return &account{t: t, box: box, kms: kms.NewFromConfig(cfg), s3: awsclient.S3(cfg, nil), sqs: sqs.NewFromConfig(cfg)}
}

// inAccount runs a test in a new account within a synctest bubble, where waits cost nothing,
// and beside others. It is not for faults at random: the clock of a bubble stands still while
// somebody waits for a mutex whose holder sleeps before it calls AWS again.
func inAccount(t *testing.T, test func(t *testing.T, a *account)) {
	t.Helper()
	t.Parallel()
	inAccountAlone(t, test)
}

// inAccountAlone is inAccount for a test that changes what the process has one of.
func inAccountAlone(t *testing.T, test func(t *testing.T, a *account)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		box := must(sandbox.InProcess(t.Context()))(t)
		t.Cleanup(box.Close)
		a := accountIn(t, box)
		a.bubble = true
		test(t, a)
	})
}

// run runs a command line in the account.
func (a *account) run(args, environ []string, stdout, stderr io.Writer) int {
	p := newProcess(environ, stdout, stderr)
	p.aws = a.aws
	return p.run(a.t.Context(), args)
}

// must returns v, or fails the test that it is called with.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// member is a member of the fleet at work.
type member struct {
	log *logBuffer
	// wired are its parts, in a bubble alone: there it has no HTTP server.
	wired *wired
	// stop ends it, waits, and returns how it ended.
	stop func() error
}

// fleetMember returns a member with the sandbox's settings but for the given
// ones, as CMKEEPER_ variables without the prefix ("POOLS", "events", …). It
// calls AWS as whoever the access key belongs to.
func (a *account) fleetMember(accessKey string, log io.Writer, settings ...string) fleetMember {
	a.t.Helper()
	environment := a.box.WorkerEnvironment(appAlias)
	environment["CMKEEPER_DRAIN_TIMEOUT"] = "200ms"
	environment["CMKEEPER_LOG_LEVEL"] = "debug"
	environment["CMKEEPER_LOG_FORMAT"] = "text"
	for pair := range slices.Chunk(settings, 2) {
		environment[envPrefix+pair[0]] = pair[1]
	}
	config := must(LoadConfig(a.t.Context(), environment))(a.t)
	return fleetMember{config: config, aws: a.box.Config(accessKey), log: config.logger(log)}
}

// start starts a member and returns when it has swept. The test ends it.
func (a *account) start(settings ...string) *member {
	a.t.Helper()
	return a.startAs(sandbox.WorkerKey, settings...)
}

func (a *account) startAs(accessKey string, settings ...string) *member {
	a.t.Helper()
	m := &member{log: &logBuffer{}}
	f := a.fleetMember(accessKey, m.log, settings...)
	swept := make(chan struct{})
	f.swept = func() { close(swept) }
	ctx, cancel := context.WithCancel(context.WithoutCancel(a.t.Context()))
	ended := make(chan error, 1)
	if a.bubble {
		m.wired = must(f.wire(ctx))(a.t)
		go func() { ended <- f.work(ctx, m.wired, func() {}) }()
	} else {
		go func() { ended <- f.run(ctx) }()
	}
	m.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	a.t.Cleanup(func() {
		if err := m.stop(); err != nil {
			a.t.Errorf("a member ended with an error: %v", err)
		}
		if a.t.Failed() {
			a.t.Logf("log of a member:\n%s", m.log)
		}
	})
	select {
	case <-swept:
	case err := <-ended:
		ended <- err
		a.t.Fatalf("a member did not start: %v", err)
	case <-time.After(patience):
		a.t.Fatalf("a member did not sweep within %s", patience)
	}
	return m
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// lines returns the lines that contain the text.
func (b *logBuffer) lines(text string) []string {
	var found []string
	for line := range strings.Lines(b.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// eventually waits until done reports true.
func (a *account) eventually(what string, done func() bool) {
	a.t.Helper()
	bound, pause := patience, 20*time.Millisecond
	if a.bubble { // in which it costs nothing to be patient
		bound, pause = time.Hour, 200*time.Millisecond
	}
	deadline := time.After(bound)
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			a.t.Fatalf("not within %s: %s\ninbox:\n%s", bound, what, titles(a.inbox))
		}
	}
}

// isNote reports whether an alert tells of nothing but calls that do no harm, with which
// tests set things up.
func isNote(a alert.Alert) bool {
	if a.Digest == nil {
		return strings.HasSuffix(a.ID, alert.NoteSuffix)
	}
	return !slices.ContainsFunc(a.Digest.Calls, func(c alert.Call) bool { return !strings.HasSuffix(c.ID, alert.NoteSuffix) })
}

// collect takes what has arrived in the inbox.
func (a *account) collect() {
	a.t.Helper()
	for {
		bodies := must(a.box.Alerts(a.t.Context(), 0))(a.t)
		if len(bodies) == 0 {
			return
		}
		for _, body := range bodies {
			var one alert.Alert
			if err := json.Unmarshal([]byte(body), &one); err != nil {
				a.t.Fatalf("%v in alert %s", err, body)
			}
			if !isNote(one) {
				a.inbox = append(a.inbox, one)
			}
		}
	}
}

// await returns the first alert that is what the test waits for.
func (a *account) await(what string, is func(alert.Alert) bool) alert.Alert {
	a.t.Helper()
	i := -1
	a.eventually("alert: "+what, func() bool {
		a.collect()
		i = slices.IndexFunc(a.inbox, is)
		return i >= 0
	})
	return a.inbox[i]
}

// tells returns whether an alert is of the kind and about the key, or about any
// where key is "", with the action's status.
func tells(kind alert.Kind, key string, status alert.Status) func(alert.Alert) bool {
	return func(a alert.Alert) bool {
		return a.Kind == kind && a.Action.Status == status && (key == "" || a.Key != nil && a.Key.ARN == key)
	}
}

// titles lists alerts for messages of tests.
func titles(alerts []alert.Alert) string {
	var all []string
	for _, a := range alerts {
		all = append(all, fmt.Sprintf("%-8s %-12s %-8s %s (%s)", a.Severity, a.Kind, a.Action.Status, a.Title, a.ID))
	}
	return strings.Join(all, "\n")
}

// messages counts the messages of a queue: visible, in flight and delayed.
func (a *account) messages(url string) int {
	a.t.Helper()
	names := []sqstypes.QueueAttributeName{"ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"}
	out := must(a.sqs.GetQueueAttributes(a.t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &url, AttributeNames: names}))(a.t)
	sum := 0
	for _, n := range out.Attributes {
		sum += must(strconv.Atoi(n))(a.t)
	}
	return sum
}

// awaitQuiet waits until nothing is left to be done, and takes the alerts.
func (a *account) awaitQuiet() {
	a.t.Helper()
	a.eventually("both queues are empty", func() bool {
		return a.messages(a.box.EventsQueue) == 0 && a.messages(a.box.JobsQueue) == 0
	})
	a.collect()
}

// deadLetters takes the messages out of a queue's dead-letter queue.
func (a *account) deadLetters(url string) []sqstypes.Message {
	a.t.Helper()
	url += "-dlq"
	var all []sqstypes.Message
	for {
		out := must(a.sqs.ReceiveMessage(a.t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"}}))(a.t)
		if len(out.Messages) == 0 {
			return all
		}
		all = append(all, out.Messages...)
	}
}

// expectNoDeadLetters fails the test for every message that was given up.
func (a *account) expectNoDeadLetters() {
	a.t.Helper()
	for _, url := range []string{a.box.EventsQueue, a.box.JobsQueue} {
		for _, m := range a.deadLetters(url) {
			a.t.Errorf("dead letter: %s %v", aws.ToString(m.Body), m.MessageAttributes)
		}
	}
}

// send puts a message into the events queue, as EventBridge does.
func (a *account) send(body string) {
	a.t.Helper()
	scope := ":" + sandbox.Region + ":" + sandbox.Account + ":"
	err := a.box.AWS.SQS().Deliver(localsqs.Delivery{
		QueueARN: "arn:aws:sqs" + scope + path.Base(a.box.EventsQueue), Body: body,
		Service: "events.amazonaws.com", SourceARN: "arn:aws:events" + scope + "rule/cmkeeper-kms",
	})
	if err != nil {
		a.t.Fatal(err)
	}
}

// deny takes actions away from whoever the access key belongs to.
func (a *account) deny(accessKey string, actions ...string) {
	a.box.AWS.SetIdentityPolicy(accessKey, func(action, _ string) bool { return !slices.Contains(actions, action) })
}

// allowAll gives them back.
func (a *account) allowAll(accessKey string) { a.box.AWS.SetIdentityPolicy(accessKey, nil) }

// newKey creates a key and, unless it is "", an alias for it.
func (a *account) newKey(alias string) (arn string) {
	a.t.Helper()
	out := must(a.kms.CreateKey(a.t.Context(), &kms.CreateKeyInput{}))(a.t)
	if alias != "" {
		must(a.kms.CreateAlias(a.t.Context(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: out.KeyMetadata.KeyId}))(a.t)
	}
	return *out.KeyMetadata.Arn
}

// newRotatingKey creates a key that rotates every 180 days.
func (a *account) newRotatingKey() (arn string) {
	a.t.Helper()
	key := a.newKey("")
	must(a.kms.EnableKeyRotation(a.t.Context(), &kms.EnableKeyRotationInput{KeyId: &key, RotationPeriodInDays: aws.Int32(180)}))(a.t)
	return key
}

func (a *account) disableRotation(key string) {
	a.t.Helper()
	must(a.kms.DisableKeyRotation(a.t.Context(), &kms.DisableKeyRotationInput{KeyId: &key}))(a.t)
}

// rotation is a key's live rotation period in days, 0 where rotation is off.
func (a *account) rotation(key string) int32 {
	a.t.Helper()
	out := must(a.kms.GetKeyRotationStatus(a.t.Context(), &kms.GetKeyRotationStatusInput{KeyId: &key}))(a.t)
	if !out.KeyRotationEnabled {
		return 0
	}
	return aws.ToInt32(out.RotationPeriodInDays)
}

func (a *account) moveAlias(alias, key string) {
	a.t.Helper()
	must(a.kms.UpdateAlias(a.t.Context(), &kms.UpdateAliasInput{AliasName: &alias, TargetKeyId: &key}))(a.t)
}

// fill creates a bucket that is encrypted under the key or alias by default,
// with n objects in it whose bodies are their keys.
func (a *account) fill(bucket, key string, n int) {
	a.t.Helper()
	must(a.s3.CreateBucket(a.t.Context(), &s3.CreateBucketInput{Bucket: &bucket}))(a.t)
	a.encryptByDefault(bucket, key)
	g, ctx := errgroup.WithContext(a.t.Context())
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error {
			name := fmt.Sprintf("object-%05d", i)
			_, err := a.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: &bucket, Key: &name, Body: strings.NewReader(name)})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		a.t.Fatal(err)
	}
}

// encryptByDefault sets a bucket's default encryption to the key or alias.
func (a *account) encryptByDefault(bucket, key string) {
	a.t.Helper()
	must(a.s3.PutBucketEncryption(a.t.Context(), &s3.PutBucketEncryptionInput{
		Bucket: &bucket,
		ServerSideEncryptionConfiguration: &s3types.ServerSideEncryptionConfiguration{Rules: []s3types.ServerSideEncryptionRule{{
			ApplyServerSideEncryptionByDefault: &s3types.ServerSideEncryptionByDefault{SSEAlgorithm: s3types.ServerSideEncryptionAwsKms, KMSMasterKeyID: &key},
		}}},
	}))(a.t)
}

// underKeys reads every object of a bucket that fill has filled, and counts
// them by the key that they are under. Other bytes fail the test.
func (a *account) underKeys(bucket string) map[string]int {
	a.t.Helper()
	var (
		mu     sync.Mutex
		counts = map[string]int{}
	)
	g, ctx := errgroup.WithContext(a.t.Context())
	g.SetLimit(16)
	pages := s3.NewListObjectsV2Paginator(a.s3, &s3.ListObjectsV2Input{Bucket: &bucket})
	for pages.HasMorePages() {
		for _, o := range must(pages.NextPage(ctx))(a.t).Contents {
			g.Go(func() error {
				out, err := a.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: o.Key})
				if err != nil {
					return err
				}
				body, err := io.ReadAll(out.Body)
				_ = out.Body.Close()
				if err == nil && string(body) != *o.Key {
					err = fmt.Errorf("object %s has other bytes: %q", *o.Key, body)
				}
				mu.Lock()
				defer mu.Unlock()
				counts[aws.ToString(out.SSEKMSKeyId)]++
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		a.t.Fatal(err)
	}
	return counts
}

// expectUnder fails the test unless all n objects of the bucket are under the key.
func (a *account) expectUnder(bucket, key string, n int) {
	a.t.Helper()
	if got, want := a.underKeys(bucket), map[string]int{key: n}; !maps.Equal(got, want) {
		a.t.Errorf("objects of %s by key: %v, want %v", bucket, got, want)
	}
}

// event is a CloudTrail record of an API call as EventBridge delivers it.
func event(source, name, keyARN string) string {
	at := time.Now().UTC().Format(time.RFC3339)
	service, _, _ := strings.Cut(source, ".")
	id := fmt.Sprintf("%s-%d", name, time.Now().UnixNano())
	return fmt.Sprintf(`{"version":"0","id":%[1]q,"detail-type":"AWS API Call via CloudTrail","source":"aws.%[2]s","account":%[3]q,"time":%[4]q,"region":%[5]q,"resources":[],"detail":{`+
		`"eventVersion":"1.11","eventTime":%[4]q,"eventID":%[1]q,"requestID":"r-%[1]s","eventSource":%[6]q,"eventName":%[7]q,"awsRegion":%[5]q,"recipientAccountId":%[3]q,"eventType":"AwsApiCall","managementEvent":true,`+
		`"userIdentity":{"type":"IAMUser","arn":"arn:aws:iam::%[3]s:user/mallory","accountId":%[3]q,"userName":"mallory"},`+
		`"requestParameters":{"keyId":%[8]q},"resources":[{"accountId":%[3]q,"type":"AWS::KMS::Key","ARN":%[8]q}]}}`,
		id, service, sandbox.Account, at, sandbox.Region, source, name, keyARN)
}
