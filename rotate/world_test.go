package rotate_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	_ "github.com/cmkeeper/cmkeeper/internal/testgc" // accounts that live for one test are garbage soon
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/retire"
	"github.com/cmkeeper/cmkeeper/rotate"
	"github.com/cmkeeper/cmkeeper/state"
)

const (
	account     = "111122223333"
	region      = "us-east-1"
	stateBucket = "state"
	app, logs   = "alias/app", "alias/logs"
	// The buckets: one whose default encryption names the key's ARN, one versioned whose
	// default names the alias, and one without a default of KMS, whose writers name the alias.
	byARN, byAlias, byWriter = "by-arn", "by-alias", "by-writer"
	rotationDays             = 180
)

var buckets = []string{byARN, byAlias, byWriter}

// world is an AWS account in this process with a key that two aliases and three buckets
// use, and the clients of an observer to whom no fault happens. It lives in a bubble.
type world struct {
	t     testing.TB
	aws   *localaws.Server
	s3    *s3.Client
	kms   *kms.Client
	sqs   *sqs.Client
	queue string
	old   string // the key's ARN

	mu     sync.Mutex
	bodies map[[3]string]string // by bucket, key and version
	writes int                  // by write
	// done counts what machines have done, by operation.
	done map[string]int
	// hire, where not nil, changes each machine of a chain.
	hire func(*machine)
}

// newWorld makes the account, with n objects in each bucket.
func newWorld(t testing.TB, n int) *world {
	w := emptyWorld(t)
	ctx := t.Context()
	created, err := w.kms.CreateKey(ctx, &kms.CreateKeyInput{
		Description: aws.String("the application's"),
		Tags:        []kmstypes.Tag{{TagKey: aws.String("team"), TagValue: aws.String("a")}, {TagKey: aws.String("cmkeeper:deletion-approved"), TagValue: aws.String("no")}},
	})
	w.must(err)
	w.old = *created.KeyMetadata.Arn
	_, err = w.kms.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &w.old, Policy: aws.String(policyOf(w.old))})
	w.must(err)
	_, err = w.kms.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &w.old, RotationPeriodInDays: aws.Int32(rotationDays)})
	w.must(err)
	for _, name := range []string{app, logs} {
		_, err := w.kms.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &name, TargetKeyId: &w.old})
		w.must(err)
	}
	for bucket, key := range map[string]string{byARN: w.old, byAlias: app, byWriter: ""} {
		w.bucket(bucket, key)
	}
	_, err = w.s3.PutBucketVersioning(ctx, &s3.PutBucketVersioningInput{Bucket: aws.String(byAlias), VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled}})
	w.must(err)
	var g errgroup.Group
	g.SetLimit(16)
	for i := range n {
		for _, bucket := range buckets {
			g.Go(func() error {
				key := fmt.Sprintf("o/%05d", i)
				if bucket == byAlias && i%2 == 1 { // two versions of the one before
					key = fmt.Sprintf("o/%05d", i-1)
				}
				w.put(bucket, key)
				return nil
			})
		}
	}
	w.must(g.Wait())
	return w
}

func emptyWorld(t testing.TB) *world {
	w := &world{t: t, aws: localaws.New(localaws.Options{Account: account}), bodies: map[[3]string]string{}, done: map[string]int{}}
	t.Cleanup(w.aws.Close)
	cfg := inprocess.Config(w.aws, region, "observer")
	w.s3, w.kms, w.sqs = awsclient.S3(cfg, aws.Bool(true)), kms.NewFromConfig(cfg), sqs.NewFromConfig(cfg)
	_, err := w.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String(stateBucket)})
	w.must(err)
	q, err := w.sqs.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("jobs")})
	w.must(err)
	w.queue = *q.QueueUrl
	return w
}

// policyOf is a policy that names its key.
func policyOf(key string) string {
	return `{"Version":"2012-10-17","Statement":[
		{"Sid":"admin","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"` + key + `"},
		{"Sid":"use","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:role/app"},"Action":["kms:Decrypt"],"Resource":["*"]}]}`
}

// bucket makes a bucket with a default key; "" is none.
func (w *world) bucket(name, key string) {
	w.t.Helper()
	_, err := w.s3.CreateBucket(w.t.Context(), &s3.CreateBucketInput{Bucket: &name})
	w.must(err)
	if key == "" {
		return
	}
	_, err = w.s3.PutBucketEncryption(w.t.Context(), &s3.PutBucketEncryptionInput{Bucket: &name, ServerSideEncryptionConfiguration: &types.ServerSideEncryptionConfiguration{
		Rules: []types.ServerSideEncryptionRule{{
			ApplyServerSideEncryptionByDefault: &types.ServerSideEncryptionByDefault{SSEAlgorithm: types.ServerSideEncryptionAwsKms, KMSMasterKeyID: &key},
			BucketKeyEnabled:                   aws.Bool(true),
		}},
	}})
	w.must(err)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// put writes an object as the application does, under the bucket's default or the alias.
func (w *world) put(bucket, key string) {
	w.t.Helper()
	name := ""
	if bucket == byWriter {
		name = app
	}
	w.putUnder(bucket, key, name)
}

func (w *world) putUnder(bucket, key, kmsKey string) {
	w.t.Helper()
	w.mu.Lock()
	w.writes++
	body := fmt.Sprintf("write %d of %s/%s", w.writes, bucket, key)
	w.mu.Unlock()
	in := &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: strings.NewReader(body)}
	if kmsKey != "" {
		in.ServerSideEncryption, in.SSEKMSKeyId = types.ServerSideEncryptionAwsKms, &kmsKey
	}
	out, err := w.s3.PutObject(w.t.Context(), in)
	if err != nil {
		w.t.Errorf("write %s/%s: %v", bucket, key, err)
		return
	}
	version := aws.ToString(out.VersionId)
	if version == "" {
		version = "null"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bodies[[3]string{bucket, key, version}] = body
}

// live writes an object to each bucket, while a rotation is under way.
func (w *world) live(key string) {
	for _, bucket := range buckets {
		w.put(bucket, key)
	}
}

// readable reads every object version back, and returns how many there are under each key.
func (w *world) readable() map[string]int {
	w.t.Helper()
	under := map[string]int{}
	left := map[[3]string]string{}
	for at, body := range w.bodies {
		left[at] = body
	}
	var g errgroup.Group
	g.SetLimit(16)
	names, err := w.s3.ListBuckets(w.t.Context(), &s3.ListBucketsInput{})
	w.must(err)
	for _, b := range names.Buckets {
		if *b.Name == stateBucket {
			continue
		}
		pages := s3.NewListObjectVersionsPaginator(w.s3, &s3.ListObjectVersionsInput{Bucket: b.Name})
		for pages.HasMorePages() {
			page, err := pages.NextPage(w.t.Context())
			w.must(err)
			for _, v := range page.Versions {
				g.Go(func() error {
					out, err := w.s3.GetObject(w.t.Context(), &s3.GetObjectInput{Bucket: b.Name, Key: v.Key, VersionId: v.VersionId})
					if err != nil {
						return fmt.Errorf("read %s/%s: %w", *b.Name, *v.Key, err)
					}
					body, err := io.ReadAll(out.Body)
					w.mu.Lock()
					defer w.mu.Unlock()
					at := [3]string{*b.Name, *v.Key, *v.VersionId}
					if want, ok := left[at]; err != nil || !ok || want != string(body) {
						w.t.Errorf("%v has the body %q, %v, want %q", at, body, err, want)
					}
					delete(left, at)
					under[aws.ToString(out.SSEKMSKeyId)]++
					return nil
				})
			}
		}
	}
	w.must(g.Wait())
	for at := range left {
		w.t.Errorf("%v is gone", at)
	}
	return under
}

// allUnder requires that all data can be read and is under a key.
func (w *world) allUnder(key string) {
	w.t.Helper()
	if diff := cmp.Diff(map[string]int{key: len(w.bodies)}, w.readable()); diff != "" {
		w.t.Errorf("object versions by key (-want +got):\n%s", diff)
	}
}

// targets are the keys that the aliases and the buckets' default encryption name.
func (w *world) targets() map[string]string {
	w.t.Helper()
	found := map[string]string{}
	aliases, err := w.kms.ListAliases(w.t.Context(), &kms.ListAliasesInput{})
	w.must(err)
	for _, a := range aliases.Aliases {
		found[*a.AliasName] = "arn:aws:kms:" + region + ":" + account + ":key/" + *a.TargetKeyId
	}
	for _, name := range buckets {
		out, err := w.s3.GetBucketEncryption(w.t.Context(), &s3.GetBucketEncryptionInput{Bucket: &name})
		w.must(err)
		rule := out.ServerSideEncryptionConfiguration.Rules[0]
		found[name] = aws.ToString(rule.ApplyServerSideEncryptionByDefault.KMSMasterKeyID)
		if found[name] != "" && !aws.ToBool(rule.BucketKeyEnabled) {
			w.t.Errorf("bucket %s has lost its bucket key", name)
		}
	}
	return found
}

// pointsTo requires that everything that named the old key names this one.
func (w *world) pointsTo(key string) {
	w.t.Helper()
	if diff := cmp.Diff(map[string]string{app: key, logs: key, byARN: key, byAlias: app, byWriter: ""}, w.targets()); diff != "" {
		w.t.Errorf("aliases and defaults (-want +got):\n%s", diff)
	}
}

func (w *world) state(key string) kmstypes.KeyState {
	w.t.Helper()
	out, err := w.kms.DescribeKey(w.t.Context(), &kms.DescribeKeyInput{KeyId: &key})
	w.must(err)
	return out.KeyMetadata.KeyState
}

// isIn requires a key's state.
func (w *world) isIn(key string, want kmstypes.KeyState) {
	w.t.Helper()
	if got := w.state(key); got != want {
		w.t.Errorf("key %s is %s, want %s", key, got, want)
	}
}

func (w *world) tags(key string) map[string]string {
	w.t.Helper()
	out, err := w.kms.ListResourceTags(w.t.Context(), &kms.ListResourceTagsInput{KeyId: &key})
	w.must(err)
	tags := map[string]string{}
	for _, t := range out.Tags {
		tags[*t.TagKey] = *t.TagValue
	}
	return tags
}

// tagged are the keys that rotations have made.
func (w *world) tagged() (made []string) {
	w.t.Helper()
	out, err := w.kms.ListKeys(w.t.Context(), &kms.ListKeysInput{Limit: aws.Int32(1000)})
	w.must(err)
	for _, k := range out.Keys {
		if w.tags(*k.KeyArn)[rotate.Tag] != "" {
			made = append(made, *k.KeyArn)
		}
	}
	return made
}

// isLikeOld requires that the new key is made like the old one.
func (w *world) isLikeOld(rec rotate.Record) {
	w.t.Helper()
	ctx := w.t.Context()
	if diff := cmp.Diff([]string{rec.New}, w.tagged()); diff != "" {
		w.t.Errorf("the keys with the tag (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"team": "a", rotate.Tag: rec.ID}, w.tags(rec.New)); diff != "" {
		w.t.Errorf("tags of the new key (-want +got):\n%s", diff)
	}
	policy, err := w.kms.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &rec.New})
	w.must(err)
	var got, want any
	w.must(json.Unmarshal([]byte(*policy.Policy), &got))
	w.must(json.Unmarshal([]byte(policyOf(rec.New)), &want))
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("policy of the new key (-want +got):\n%s", diff)
	}
	rotation, err := w.kms.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &rec.New})
	w.must(err)
	if !rotation.KeyRotationEnabled || aws.ToInt32(rotation.RotationPeriodInDays) != rotationDays {
		w.t.Errorf("rotation of the new key: %t, %d days", rotation.KeyRotationEnabled, aws.ToInt32(rotation.RotationPeriodInDays))
	}
	key, err := w.kms.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &rec.New})
	w.must(err)
	if aws.ToString(key.KeyMetadata.Description) != "the application's" {
		w.t.Errorf("description of the new key: %q", aws.ToString(key.KeyMetadata.Description))
	}
}

// jobs counts the jobs of the state bucket by bucket and the key that they move to.
func (w *world) jobs() map[[2]string]int {
	w.t.Helper()
	found := map[[2]string]int{}
	pages := s3.NewListObjectsV2Paginator(w.s3, &s3.ListObjectsV2Input{Bucket: aws.String(stateBucket), Prefix: aws.String("cmkeeper/jobs/")})
	for pages.HasMorePages() {
		page, err := pages.NextPage(w.t.Context())
		w.must(err)
		for _, o := range page.Contents {
			if !strings.HasSuffix(*o.Key, "/job.json") {
				continue
			}
			var job struct{ Bucket, To string }
			w.must(json.Unmarshal(w.document(*o.Key), &job))
			found[[2]string{job.Bucket, job.To}]++
		}
	}
	return found
}

func (w *world) document(key string) []byte {
	w.t.Helper()
	out, err := w.s3.GetObject(w.t.Context(), &s3.GetObjectInput{Bucket: aws.String(stateBucket), Key: &key})
	w.must(err)
	body, err := io.ReadAll(out.Body)
	w.must(err)
	return body
}

// store is the state bucket.
func (w *world) store() *state.Store { return state.New(w.s3, stateBucket, "cmkeeper/", account) }

// fleet handles the messages of jobs until stop is called.
func (w *world) fleet() (stop func()) {
	cfg := inprocess.Config(w.aws, region, "worker")
	e := w.engine(cfg, 16)
	ctx, cancel := context.WithCancel(w.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			out, err := w.sqs.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &w.queue, MaxNumberOfMessages: 10, WaitTimeSeconds: 20, VisibilityTimeout: 600})
			if err != nil {
				continue
			}
			var g sync.WaitGroup
			for _, m := range out.Messages {
				g.Go(func() { w.handle(ctx, e, *m.Body, *m.ReceiptHandle) })
			}
			g.Wait()
		}
	})
	return func() { cancel(); running.Wait() }
}

// handle does with a message what package worker does.
func (w *world) handle(ctx context.Context, e *reencrypt.Engine, body, receipt string) {
	switch d := outcome.Of(e.Handle(ctx, []byte(body))); d.Action {
	case outcome.Delete:
	case outcome.Delay:
		_, err := w.sqs.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: &w.queue, MessageBody: &body, DelaySeconds: int32(d.After / time.Second)})
		if err != nil {
			return
		}
	default:
		return // it comes back
	}
	_, _ = w.sqs.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &w.queue, ReceiptHandle: &receipt}) // else it comes back
}

func (w *world) engine(cfg aws.Config, concurrency int) *reencrypt.Engine {
	buckets, keys := awsclient.S3(cfg, aws.Bool(true)), kms.NewFromConfig(cfg)
	e, err := reencrypt.New(reencrypt.Options{
		S3: buckets, KMS: keys, Resolver: inventory.New(keys, buckets, account, region), Account: account,
		Store: state.New(buckets, stateBucket, "cmkeeper/", account), StateBucket: stateBucket, StatePrefix: "cmkeeper/",
		SQS: sqs.NewFromConfig(cfg), QueueURL: w.queue, Observer: nobody{}, Concurrency: concurrency, Logger: slog.New(slog.DiscardHandler),
	})
	w.must(err)
	return e
}

// nobody is told of jobs.
type nobody struct{}

func (nobody) Warned(context.Context, reencrypt.Summary) error    { return nil }
func (nobody) Completed(context.Context, reencrypt.Summary) error { return nil }
func (nobody) Stalled(context.Context, reencrypt.Summary) error   { return nil }

// machine is one process of a person's, between its clients and AWS. It dies with one of
// its requests: from then on none goes out, and no answer comes in.
type machine struct {
	*world
	rotator *rotate.Rotator
	said    []string

	mu sync.Mutex
	// dies is with which request it does, 0 for never; after: that one is executed, and its
	// answer lost; counts says which requests count, nil for all.
	dies    int
	after   bool
	counts  func(*http.Request) bool
	n       int
	dead    bool
	refuses func(*http.Request) bool // nil for nothing
	// answers, where not nil, answers a request instead of AWS, or returns nil.
	answers func(*http.Request) *http.Response
	// ahead is how far its clock is.
	ahead time.Duration
	// pauses, where not nil, is called before each request goes out.
	pauses func(*http.Request)
}

var errKilled = errors.New("killed")

// machine returns a process that works on rotations. change may be nil.
func (w *world) machine(change func(*machine)) *machine {
	m := &machine{world: w}
	if change != nil {
		change(m)
	}
	cfg := inprocess.Config(w.aws, region, "person")
	cfg.HTTPClient = m
	objects, keys := awsclient.S3(cfg, aws.Bool(true)), kms.NewFromConfig(cfg)
	e := w.engine(cfg, 8)
	facts := inventory.New(keys, objects, account, region)
	m.rotator = &rotate.Rotator{
		KMS: keys, Facts: facts, Mover: e, Store: state.New(skewed{objects, m.ahead}, stateBucket, "cmkeeper/", account), StateBucket: stateBucket,
		Check: retire.Checker{S3: objects, Facts: facts, Account: account, Survey: e}, By: "arn:aws:iam::" + account + ":user/person",
		Confirm: func(retire.Result) error { return nil },
		Say:     func(line string) { m.said = append(m.said, line) },
	}
	return m
}

// Do lets a request through, or not.
func (m *machine) Do(r *http.Request) (*http.Response, error) {
	if m.pauses != nil {
		m.pauses(r)
	}
	m.mu.Lock()
	dead := m.dead
	doomed := false
	if !dead && (m.counts == nil || m.counts(r)) {
		m.n++
		doomed = m.n == m.dies
		m.dead = m.dead || doomed
	}
	m.mu.Unlock()
	if dead || doomed && !m.after {
		return nil, errKilled
	}
	if m.refuses != nil && m.refuses(r) {
		return nil, errKilled
	}
	if m.answers != nil {
		if answer := m.answers(r); answer != nil {
			return answer, nil
		}
	}
	answer, err := inprocess.Client{Handler: m.aws}.Do(r)
	if err == nil && answer.StatusCode < 300 {
		m.world.mu.Lock()
		m.done[operation(r)]++
		m.world.mu.Unlock()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return nil, errKilled
	}
	if err != nil {
		return nil, err
	}
	return m.answersLate(answer), nil
}

func (m *machine) died() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dead
}

// operation names what a request asks for: KMS's and SQS's operations by their names.
func operation(r *http.Request) string {
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		return target[strings.IndexByte(target, '.')+1:]
	}
	query := r.URL.Query()
	if r.Method == http.MethodPut && query.Has("encryption") && strings.Count(r.URL.Path, "/") < 3 && !query.Has("versionId") {
		return "PutBucketEncryption"
	}
	return r.Method
}

// isWrite reports whether a request changes something. Whoever dies between two of them
// leaves the same, wherever that is.
func isWrite(r *http.Request) bool {
	switch name := operation(r); name {
	case http.MethodGet, http.MethodHead, "ReEncrypt": // a dry run
		return false
	default:
		return !slices.ContainsFunc([]string{"Describe", "Get", "List"}, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
	}
}
