package handlers_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	eventbridgetypes "github.com/aws/aws-sdk-go-v2/service/eventbridge/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/state"
)

const (
	account     = "444455556666"
	region      = "eu-central-1"
	stateBucket = "keeper-state"
	keeperKey   = "AKIAKEEPER"
)

// world is an account in this process, with its KMS events in a queue, and a
// router that is the fleet. Tests run in a synctest bubble: waits cost nothing.
type world struct {
	t      *testing.T
	ctx    context.Context
	aws    *localaws.Server
	kms    *kms.Client // of mallory, who is everybody else
	s3     *s3.Client
	sqs    *sqs.Client
	queue  string
	told   *memorySink
	moves  *memoryMover
	router *handlers.Router
	// role is what the worker may do, in worlds under the template of the deployment.
	role atomic.Pointer[iam.Policy]
	// sender is the SenderId of the last of them.
	sender string
	// quit stops what asks CloudTrail, in worlds that have it.
	quit func()
	// seen are the messages that were taken, in order of arrival.
	seen []string
	// untraced: workers have no CloudTrail to ask, so that nothing waits for its rate.
	untraced bool
	// tap, if set, is called before each request of a worker is sent, and after it was
	// answered; for one worker never at the same time.
	tap func(r request, answered bool)
}

// request is a request of a worker, as its SDK sends it.
type request struct {
	// service and operation are those of the API: "KMS", "DescribeKey".
	service, operation string
	// target is what tells it from others of the operation: path, query and body.
	target string
	// id is its request id, and ok says that it succeeded; after it was answered.
	id string
	ok bool
}

// tapClient is an HTTP client that shows its requests, one after another. A mutex would
// stop the time of the test's bubble, so turn is a channel.
type tapClient struct {
	next aws.HTTPClient
	turn chan struct{}
	tap  func(r request, answered bool)
}

func (c tapClient) show(r request, answered bool) {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.tap(r, answered)
}

func (c tapClient) Do(in *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(cmp.Or[io.Reader](in.Body, http.NoBody))
	if err != nil {
		return nil, err
	}
	in.Body = io.NopCloser(bytes.NewReader(body))
	r := request{
		service: awsmiddleware.GetServiceID(in.Context()), operation: awsmiddleware.GetOperationName(in.Context()),
		target: in.URL.RequestURI() + " " + string(body),
	}
	c.show(r, false)
	if err := context.Cause(in.Context()); err != nil {
		return nil, err
	}
	out, err := c.next.Do(in)
	if err == nil {
		r.id, r.ok = out.Header.Get("X-Amzn-Requestid"), out.StatusCode < 300
	}
	c.show(r, true)
	return out, err
}

// keeperConfig is the SDK's configuration of a worker.
func (w *world) keeperConfig() aws.Config {
	c := inprocess.Config(w.aws, region, keeperKey)
	if w.tap != nil {
		c.HTTPClient = tapClient{c.HTTPClient, make(chan struct{}, 1), w.tap}
	}
	return c
}

// accessRole is the role that reads IAM.
const accessRole = "arn:aws:iam::" + account + ":role/cmkeeper-access"

// enforceAll is the configuration that most tests vary.
func enforceAll() reaction.Config {
	return reaction.Config{
		Identity: reaction.Identity{Account: account, Name: "cmkeeper", Role: true},
		Region:   region,
		Rotation: reaction.Enforce, Policy: reaction.Observe, Deletion: reaction.Enforce, Reencrypt: reaction.Enforce,
		ReencryptAliases: []string{"alias/app-*"},
		StateBucket:      stateBucket,
	}
}

// inWorld runs a test in a new world.
func inWorld(t *testing.T, c reaction.Config, test func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, ctx: t.Context(), told: &memorySink{}, moves: &memoryMover{}}
		w.aws = localaws.New(localaws.Options{Account: account, Region: region})
		defer w.aws.Close()
		w.aws.AddIdentity(keeperKey, wire.Caller{
			Type: "AssumedRole", PrincipalID: "AROAKEEPER:worker-1",
			ARN: "arn:aws:sts::" + account + ":assumed-role/cmkeeper/worker-1",
		})
		cfg := inprocess.Config(w.aws, region, "mallory")
		w.kms, w.sqs = kms.NewFromConfig(cfg), sqs.NewFromConfig(cfg)
		w.s3 = s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
		w.listen(eventbridge.NewFromConfig(cfg), c.FailedUse)
		w.bucket(stateBucket, "")
		w.ebs("EnableEbsEncryptionByDefault")
		w.met()
		w.router = w.newRouter(c)
		time.Sleep(10 * time.Second) // fake: what follows is in another second than the set-up
		test(w)
	})
}

// accountDocument is where the state bucket has what the fleet knows of the account.
const (
	accountDocument = "cmkeeper/" + ledger.AccountName
	metDocument     = `{"schema":"cmkeeper.account.v1","met":"1999-12-31T00:00:00Z","stores_at":"1999-12-31T00:00:00Z"}`
)

// met makes the account one that was swept before, when nothing was wrong in it.
func (w *world) met() {
	w.t.Helper()
	must(w.s3.PutObject(w.ctx, &s3.PutObjectInput{Bucket: aws.String(stateBucket), Key: aws.String(accountDocument), Body: strings.NewReader(metDocument)}))
}

// unmet makes it one that the fleet meets for the first time.
func (w *world) unmet() {
	w.t.Helper()
	must(w.s3.DeleteObject(w.ctx, &s3.DeleteObjectInput{Bucket: aws.String(stateBucket), Key: aws.String(accountDocument)}))
}

// newRouter returns another worker of the fleet.
func (w *world) newRouter(c reaction.Config) *handlers.Router {
	w.t.Helper()
	return w.newRouterWith(c, func(*reaction.Deps) {})
}

// newRouterWith returns a worker that has something else to work with.
func (w *world) newRouterWith(c reaction.Config, change func(*reaction.Deps)) *handlers.Router {
	w.t.Helper()
	keeper := w.keeperConfig()
	keys := kms.NewFromConfig(keeper)
	buckets := s3.NewFromConfig(keeper, func(o *s3.Options) { o.UsePathStyle = true })
	deps := reaction.Deps{
		KMS: keys, Facts: inventory.New(keys, buckets, account, region),
		State:  state.New(buckets, stateBucket, "cmkeeper/", account),
		Alerts: w.told, Moves: w.moves, Trail: awsclient.CloudTrail(keeper), Resources: awsclient.AWSConfig(keeper), Senders: handlers.AnySender{}, EBS: awsclient.NewEC2(keeper),
		IAM:     awsclient.NewIAM(awsclient.As(keeper, accessRole, "cmkeeper-access-review")),
		Metrics: declared{t: w.t},
	}
	if w.untraced {
		deps.Trail = nil
	}
	change(&deps)
	r, err := handlers.New(deps, c)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// declared fails the test for reactions that no metric could count.
type declared struct {
	reaction.Metrics
	t *testing.T
}

var reactionNames = handlers.ReactionNames()

func (d declared) Reacted(name, _, _ string, _ bool) {
	if first, _, _ := strings.Cut(name, " "); !slices.Contains(reactionNames, first) {
		d.t.Errorf("ReactionNames does not have %q", name)
	}
}
func (declared) ReactionEnded(string, time.Duration)      {}
func (declared) SweepEnded(time.Duration, int, int, bool) {}
func (declared) Canary(string, time.Duration)             {}

// listen makes the account's KMS events arrive in a queue; those of reads, too,
// if they are wanted.
func (w *world) listen(bus *eventbridge.Client, reads bool) {
	w.t.Helper()
	state := eventbridgetypes.RuleStateEnabled
	if reads {
		state = eventbridgetypes.RuleStateEnabledWithAllCloudtrailManagementEvents
	}
	q := must(w.sqs.CreateQueue(w.ctx, &sqs.CreateQueueInput{QueueName: aws.String("events")}))
	w.queue = *q.QueueUrl
	arn := "arn:aws:sqs:" + region + ":" + account + ":events"
	must(w.sqs.SetQueueAttributes(w.ctx, &sqs.SetQueueAttributesInput{QueueUrl: q.QueueUrl, Attributes: map[string]string{
		"Policy": `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"` + arn + `"}]}`,
	}}))
	for name, pattern := range map[string]string{"kms": handlers.KMSPattern, "batch": sandbox.BatchEventPattern, "guard": handlers.GuardPattern()} {
		must(bus.PutRule(w.ctx, &eventbridge.PutRuleInput{Name: &name, EventPattern: &pattern, State: state}))
		must(bus.PutTargets(w.ctx, &eventbridge.PutTargetsInput{Rule: &name, Targets: []eventbridgetypes.Target{{Id: aws.String("1"), Arn: aws.String(arn)}}}))
	}
	w.events() // of making the rules, in no order
	w.seen = nil
}

// events takes all messages that have arrived, in order of arrival.
func (w *world) events() []string {
	w.t.Helper()
	synctest.Wait()
	var bodies []string
	for {
		out := must(w.sqs.ReceiveMessage(w.ctx, &sqs.ReceiveMessageInput{
			QueueUrl: &w.queue, MaxNumberOfMessages: 10, MessageSystemAttributeNames: []sqstypes.MessageSystemAttributeName{sqstypes.MessageSystemAttributeNameSentTimestamp, sqstypes.MessageSystemAttributeNameSenderId},
		}))
		if len(out.Messages) == 0 {
			return bodies
		}
		for _, m := range out.Messages {
			w.sender = m.Attributes["SenderId"]
			bodies, w.seen = append(bodies, *m.Body), append(w.seen, *m.Body)
			must(w.sqs.DeleteMessage(w.ctx, &sqs.DeleteMessageInput{QueueUrl: &w.queue, ReceiptHandle: m.ReceiptHandle}))
		}
	}
}

// event takes all messages that have arrived and returns the one of that name.
func (w *world) event(name string) string {
	w.t.Helper()
	for _, body := range w.events() {
		if strings.Contains(body, `"eventName":"`+name+`"`) {
			return body
		}
	}
	w.t.Fatalf("no event %s", name)
	return ""
}

// handle does with a body what a worker does: it comes back after an expected
// wait. Any other error is returned.
func (w *world) handle(body string) error {
	w.t.Helper()
	for range 100 {
		d := outcome.Of(w.router.Handle(w.ctx, handlers.Message{Body: []byte(body)}))
		if d.Action != outcome.Delay {
			return d.Err
		}
		time.Sleep(d.After)
	}
	w.t.Fatal("the message waits for ever")
	return nil
}

// react handles everything that has arrived, and what that makes arrive, until
// it is quiet.
func (w *world) react() {
	w.t.Helper()
	for range 20 {
		bodies := w.events()
		if len(bodies) == 0 {
			return
		}
		for _, body := range bodies {
			if err := w.handle(body); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	w.t.Fatal("the reactions never end: we react to ourselves")
}

// sweep sweeps and fails the test on an error.
func (w *world) sweep() {
	w.t.Helper()
	if err := w.router.Sweep(w.ctx); err != nil {
		w.t.Fatal(err)
	}
}

// newKey creates a key and lets the fleet see it.
func (w *world) newKey(in kms.CreateKeyInput) string {
	w.t.Helper()
	out := must(w.kms.CreateKey(w.ctx, &in))
	return *out.KeyMetadata.Arn
}

func (w *world) enableRotation(key string, days int32) {
	w.t.Helper()
	must(w.kms.EnableKeyRotation(w.ctx, &kms.EnableKeyRotationInput{KeyId: &key, RotationPeriodInDays: &days}))
}

func (w *world) disableRotation(key string) {
	w.t.Helper()
	must(w.kms.DisableKeyRotation(w.ctx, &kms.DisableKeyRotationInput{KeyId: &key}))
}

// rotation is the live period, 0 for off.
func (w *world) rotation(key string) int32 {
	w.t.Helper()
	out := must(w.kms.GetKeyRotationStatus(w.ctx, &kms.GetKeyRotationStatusInput{KeyId: &key}))
	if !out.KeyRotationEnabled {
		return 0
	}
	return *out.RotationPeriodInDays
}

// state is the live key state.
func (w *world) state(key string) string {
	w.t.Helper()
	return string(must(w.kms.DescribeKey(w.ctx, &kms.DescribeKeyInput{KeyId: &key})).KeyMetadata.KeyState)
}

// bucket creates a bucket that is encrypted with the key by default, if one is given.
func (w *world) bucket(name, key string) {
	w.t.Helper()
	must(w.s3.CreateBucket(w.ctx, &s3.CreateBucketInput{
		Bucket: &name, CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: region},
	}))
	if key == "" {
		return
	}
	must(w.s3.PutBucketEncryption(w.ctx, defaultKey(name, key)))
}

// defaultKey sets a bucket's default encryption.
func defaultKey(bucket, key string) *s3.PutBucketEncryptionInput {
	return &s3.PutBucketEncryptionInput{Bucket: &bucket, ServerSideEncryptionConfiguration: &s3types.ServerSideEncryptionConfiguration{
		Rules: []s3types.ServerSideEncryptionRule{{ApplyServerSideEncryptionByDefault: &s3types.ServerSideEncryptionByDefault{SSEAlgorithm: s3types.ServerSideEncryptionAwsKms, KMSMasterKeyID: &key}}},
	}}
}

// tag sets the bucket's tag that names its aliases.
func (w *world) tag(bucket, aliases string) {
	w.t.Helper()
	must(w.s3.PutBucketTagging(w.ctx, &s3.PutBucketTaggingInput{Bucket: &bucket, Tagging: &s3types.Tagging{
		TagSet: []s3types.Tag{{Key: aws.String(inventory.AliasTag), Value: &aliases}},
	}}))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// memorySink tells each id once, as alert.Publisher does.
type memorySink struct {
	mu     sync.Mutex
	alerts []alert.Alert
	broken bool
	// notes: it also keeps what is told about calls that do no harm, which most tests make
	// to set something up.
	notes bool
}

func (s *memorySink) Publish(_ context.Context, a alert.Alert) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken {
		return errors.New("the topic is gone")
	}
	if strings.HasSuffix(a.ID, alert.NoteSuffix) && !s.notes {
		return nil
	}
	if !slices.ContainsFunc(s.alerts, func(o alert.Alert) bool { return o.ID == a.ID }) {
		s.alerts = append(s.alerts, a)
		noteNext(a)
	}
	return nil
}

// take returns the alerts since it was last called.
func (s *memorySink) take() []alert.Alert {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := slices.Clone(s.alerts[s.seen():])
	for i := range s.alerts {
		s.alerts[i].Cut = &alert.Cut{} // marks what was taken
	}
	return taken
}

func (s *memorySink) seen() int {
	i := slices.IndexFunc(s.alerts, func(a alert.Alert) bool { return a.Cut == nil })
	if i < 0 {
		return len(s.alerts)
	}
	return i
}

// one takes the alerts and returns the only one.
func (w *world) one() alert.Alert {
	w.t.Helper()
	got := w.told.take()
	if len(got) != 1 {
		w.t.Fatalf("%d alerts, want one:\n%s", len(got), texts(got))
	}
	return got[0]
}

// over takes the alerts, of which there has to be one that something is over, and returns
// the others.
func (w *world) over(title string) []alert.Alert {
	w.t.Helper()
	got := w.told.take()
	i := slices.IndexFunc(got, func(a alert.Alert) bool { return a.Resolves != "" })
	if i < 0 || got[i].Action.Status != alert.StatusResolved || !strings.HasPrefix(got[i].Title, "Resolved: ") || !strings.Contains(got[i].Title, title) {
		w.t.Fatalf("nothing is told to be over:\n%s", texts(got))
	}
	got = slices.Delete(got, i, i+1)
	if i = slices.IndexFunc(got, func(a alert.Alert) bool { return a.Resolves != "" }); i >= 0 {
		w.t.Fatalf("more is told to be over:\n%s", got[i].Text())
	}
	return got
}

// none fails the test if there was an alert.
func (w *world) none() {
	w.t.Helper()
	if got := w.told.take(); len(got) != 0 {
		w.t.Fatalf("%d alerts, want none:\n%s", len(got), texts(got))
	}
}

func texts(alerts []alert.Alert) string {
	var all []string
	for _, a := range alerts {
		all = append(all, a.Text())
	}
	return strings.Join(all, "\n-----\n")
}

// memoryMover keeps the moves that were started.
type memoryMover struct {
	mu      sync.Mutex
	moves   []reencrypt.Move
	resumed int
	changed int
	broken  bool
	rival   bool // a job of somebody else is in the way
}

func (m *memoryMover) Start(_ context.Context, move reencrypt.Move) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return nil, errors.New("the jobs queue is gone")
	}
	if m.rival {
		return nil, outcome.RetryAfter(time.Minute, fmt.Errorf("%w: job 7", reencrypt.ErrRival))
	}
	m.moves = append(m.moves, move)
	return []string{"job-1"}, nil
}

func (m *memoryMover) Resume(context.Context, time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.resumed++
	return nil
}

func (m *memoryMover) BatchChanged(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changed++
	return nil
}
