package reencrypt_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/state"
	"github.com/cmkeeper/cmkeeper/worker"
)

const (
	accountID   = "111122223333"
	aliasARN    = "arn:aws:kms:us-east-1:" + accountID + ":alias/data"
	dataBucket  = "data"
	stateBucket = "state"
	statePrefix = "cmkeeper/"
)

var scope = []reencrypt.Scope{{Bucket: dataBucket}}

// account is an AWS account: the data bucket, the state bucket, the jobs queue
// with its dead-letter queue, and the keys a, b, c and other. Its clients are the
// test's own, to which no fault happens.
type account struct {
	t           *testing.T
	server      *localaws.Server
	s3          *s3.Client
	sqs         *sqs.Client
	secrets     *reencrypt.Keys
	queue, dead string
	keys        map[string]string // ARNs by name
}

func newAccount(t *testing.T, s scenario) *account {
	a := &account{t: t, server: localaws.New(localaws.Options{Account: accountID, Seed: s.seed}), keys: map[string]string{}}
	cfg := inprocess.Config(a.server, "us-east-1", "operator")
	a.s3, a.sqs = s3.NewFromConfig(cfg, pathStyle), sqs.NewFromConfig(cfg)
	for _, name := range []string{dataBucket, stateBucket} {
		_, err := a.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name, ObjectLockEnabledForBucket: aws.Bool(s.versioned && name == dataBucket)})
		a.must(err)
	}
	a.queue, a.dead = a.makeQueue("jobs", "jobs-dead")
	keys := kms.NewFromConfig(cfg)
	a.secrets = &reencrypt.Keys{T: t, KMS: keys}
	for _, name := range []string{"a", "b", "c", "other"} {
		out, err := keys.CreateKey(t.Context(), &kms.CreateKeyInput{})
		a.must(err)
		a.keys[name] = *out.KeyMetadata.Arn
	}
	return a
}

func (a *account) makeQueue(name, deadName string) (url, dead string) {
	d, err := a.sqs.CreateQueue(a.t.Context(), &sqs.CreateQueueInput{QueueName: &deadName})
	a.must(err)
	attributes, err := a.sqs.GetQueueAttributes(a.t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: d.QueueUrl, AttributeNames: []sqstypes.QueueAttributeName{"QueueArn"}})
	a.must(err)
	q, err := a.sqs.CreateQueue(a.t.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: map[string]string{
		"VisibilityTimeout": fmt.Sprint(visibility.Seconds()),
		"RedrivePolicy":     `{"deadLetterTargetArn":"` + attributes.Attributes["QueueArn"] + `","maxReceiveCount":5}`,
	}})
	a.must(err)
	return *q.QueueUrl, *d.QueueUrl
}

func (a *account) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func pathStyle(o *s3.Options) { o.UsePathStyle = true }

// fleet is the workers and what they were seen to do.
type fleet struct {
	*account
	scenario
	survived *survived
	random   *dice
	kills    atomic.Int64 // how many more may die
	denying  atomic.Bool  // data keys may not be re-encrypted
	touched  chan<- string

	mu        sync.Mutex
	completed []reencrypt.Summary
	stalled   []reencrypt.Summary
	warned    []reencrypt.Summary
	writes    []time.Time // first tries of writes to objects
	busiest   int64       // most objects that a worker had in hand at a time

	still []period // while the first job was paused
}

// period is a part of time.
type period struct{ from, to time.Time }

// member is a place in the fleet: a worker, and the next one when it has died.
func (f *fleet) member(ctx context.Context) {
	for ctx.Err() == nil {
		p := f.process(ctx, 80)
		p.work()
		p.end(errors.New("it is over"))
		pause(ctx, time.Duration(1+f.random.n(20))*time.Second)
	}
}

// process is one worker process between its clients and the server. When it dies
// no request of it goes out any more and no answer comes in.
type process struct {
	*fleet
	ctx      context.Context
	end      context.CancelCauseFunc
	next     inprocess.Client
	skew     time.Duration
	dies     int64 // with which request; 0 is never
	freezes  int64 // with which request; 0 is never
	retires  time.Duration
	requests atomic.Int64
	inHand   atomic.Int64
	dead     atomic.Bool
	thaws    atomic.Int64 // until when it stands still, in Unix nanoseconds
	messages *dice
}

var errKilled = errors.New("killed")

// process starts one that may die with one of about as many requests as life says.
func (f *fleet) process(ctx context.Context, life int) *process {
	r := f.random.fork()
	p := &process{fleet: f, next: inprocess.Client{Handler: f.server}, messages: &dice{r: f.random.fork()}}
	p.ctx, p.end = context.WithCancelCause(ctx)
	switch doom := r.IntN(6); {
	case doom < 3 && f.kills.Add(-1) >= 0:
		p.dies = 1 + r.Int64N(int64(2*life))
	case doom == 3:
		p.freezes = 1 + r.Int64N(int64(2*life))
	case doom == 4 && f.scenario.kills > 0:
		p.retires = time.Duration(1+r.IntN(300)) * time.Second
	}
	if f.skew > 0 {
		p.skew = time.Duration(r.Int64N(int64(2*f.skew))) - f.skew
	}
	return p
}

// Do lets a request through to the server, or not.
func (p *process) Do(request *http.Request) (*http.Response, error) {
	n := p.requests.Add(1)
	if n == p.freezes {
		p.thaws.Store(time.Now().Add(freeze).UnixNano())
		p.survived.freezes.Add(1)
	}
	p.standStill()
	if p.dead.Load() {
		return nil, errKilled
	}
	if n == p.dies {
		p.dead.Store(true)
		p.survived.kills.Add(1)
		p.end(errKilled)
		if n%2 == 0 { // this one was on its way
			return nil, errKilled
		}
	}
	defer p.watch(request)()
	answer, err := p.denied(request), error(nil)
	if answer == nil {
		answer, err = p.next.Do(request)
	}
	p.standStill()
	switch {
	case p.dead.Load():
		return nil, errKilled
	case errors.Is(err, inprocess.ErrConnectionReset) || err == nil && answer.StatusCode >= 500:
		p.survived.faults.Add(1)
	}
	return answer, err
}

func (p *process) standStill() {
	time.Sleep(time.Until(time.Unix(0, p.thaws.Load())))
}

// watch notes the bounds of R5 as the server sees them, while a request is served.
func (p *process) watch(r *http.Request) (served func()) {
	if !strings.HasPrefix(r.URL.Path, "/"+dataBucket+"/") || len(r.URL.Path) == len(dataBucket)+2 {
		return func() {}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busiest = max(p.busiest, p.inHand.Add(1))
	write := r.Method == http.MethodPut
	if write && strings.Contains(r.Header.Get("Amz-Sdk-Request"), "attempt=1") {
		p.writes = append(p.writes, time.Now())
	}
	return func() {
		p.inHand.Add(-1)
		if r.Method == http.MethodPut {
			return
		}
		select {
		case p.touched <- strings.TrimPrefix(r.URL.Path, "/"+dataBucket+"/"):
		default: // nobody waits for it
		}
	}
}

// engine returns the process's engine.
func (p *process) engine() *reencrypt.Engine {
	cfg := inprocess.Config(p.server, "us-east-1", "worker")
	cfg.HTTPClient = p
	buckets, keys := s3.NewFromConfig(cfg, pathStyle), kms.NewFromConfig(cfg)
	e, err := reencrypt.New(reencrypt.Options{
		S3: buckets, KMS: keys, Resolver: inventory.New(keys, buckets, accountID, "us-east-1"), Account: accountID,
		Store: state.New(skewed{buckets, p.skew}, stateBucket, statePrefix, accountID), StateBucket: stateBucket, StatePrefix: statePrefix,
		SQS: lossy{sqs.NewFromConfig(cfg), p}, QueueURL: p.queue, Observer: p,
		Method: p.method, Envelopes: p.envelopes, RewriteFiles: p.rewrite, Concurrency: p.concurrency, Rate: p.rate, SliceSize: p.sliceSize,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	return e
}

// work handles messages until the process ends.
func (p *process) work() {
	cfg := inprocess.Config(p.server, "us-east-1", "worker")
	cfg.HTTPClient = p
	e, twin := p.engine(), p.engine()
	pool, err := worker.New(p.ctx, sqs.NewFromConfig(cfg), worker.HandlerFunc(func(ctx context.Context, m worker.Message) error {
		if p.twins {
			var second sync.WaitGroup
			second.Go(func() { _ = twin.Handle(ctx, []byte(m.Body)) })
			defer second.Wait()
		}
		return e.Handle(ctx, []byte(m.Body))
	}), worker.Options{QueueURL: p.queue, Concurrency: p.slots, DrainTimeout: 10 * time.Second})
	if err != nil {
		return // it is started again
	}
	ctx := p.ctx
	if p.retires > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.retires)
		defer cancel()
	}
	_ = pool.Run(ctx) // what it left behind comes again
	if p.ctx.Err() == nil {
		p.survived.restarts.Add(1)
	}
}

// Warned, Completed and Stalled are what alerts are made of. They reach nobody
// when the process is dead, and fail now and then.

func (p *process) Warned(_ context.Context, s reencrypt.Summary) error {
	return p.tell(&p.warned, s)
}

func (p *process) Completed(_ context.Context, s reencrypt.Summary) error {
	return p.tell(&p.completed, s)
}

func (p *process) Stalled(_ context.Context, s reencrypt.Summary) error {
	return p.tell(&p.stalled, s)
}

func (p *process) tell(list *[]reencrypt.Summary, s reencrypt.Summary) error {
	if p.dead.Load() || p.messages.n(5) == 0 {
		return errors.New("nobody is told")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	*list = append(*list, s)
	return nil
}

// told reports whether the job was told to be complete.
func (f *fleet) told(job string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.completed, func(s reencrypt.Summary) bool { return s.Job == job })
}

// diagnose says where the jobs are.
func (f *fleet) diagnose(t *testing.T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.stalled {
		t.Logf("stalled: job %s is %s: %s", s.Job, s.State, s.Cause)
	}
	for _, url := range []string{f.queue, f.dead} {
		out, err := f.sqs.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &url, AttributeNames: []sqstypes.QueueAttributeName{"All"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Log(url, out.Attributes)
	}
}

// lossy is SQS for messages of jobs that get lost, come twice and come late.
type lossy struct {
	*sqs.Client
	p *process
}

func (l lossy) SendMessage(ctx context.Context, in *sqs.SendMessageInput, change ...func(*sqs.Options)) (*sqs.SendMessageOutput, error) {
	if !l.p.lossy || l.p.dead.Load() {
		return l.Client.SendMessage(ctx, in, change...)
	}
	late := *in
	late.DelaySeconds += int32(l.p.messages.n(60))
	late.DelaySeconds = min(late.DelaySeconds, 900)
	switch l.p.messages.n(12) {
	case 0:
		l.p.survived.lost.Add(1)
		return &sqs.SendMessageOutput{}, nil
	case 1, 2:
		l.p.survived.duplicated.Add(1)
		if out, err := l.Client.SendMessage(ctx, in, change...); err != nil {
			return out, err
		}
		return l.Client.SendMessage(ctx, &late, change...)
	case 3, 4:
		l.p.survived.late.Add(1)
		return l.Client.SendMessage(ctx, &late, change...)
	}
	return l.Client.SendMessage(ctx, in, change...)
}

// skewed is S3 for the state of a worker whose clock is ahead of the others' by
// an offset: all times that it writes are, and those that it reads are as far
// behind. When an alias moved is no time of the worker's.
type skewed struct {
	*s3.Client
	ahead time.Duration
}

var clockTime = regexp.MustCompile(`"([a-z_]+)":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d))"`)

func shift(doc []byte, by time.Duration) []byte {
	return clockTime.ReplaceAllFunc(doc, func(member []byte) []byte {
		parts := clockTime.FindSubmatch(member)
		at, err := time.Parse(time.RFC3339Nano, string(parts[2]))
		if err != nil || at.IsZero() || string(parts[1]) == "moved_at" {
			return member
		}
		return fmt.Appendf(nil, `"%s":"%s"`, parts[1], at.Add(by).Format(time.RFC3339Nano))
	})
}

func (s skewed) PutObject(ctx context.Context, in *s3.PutObjectInput, change ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	if s.ahead == 0 || !strings.HasSuffix(*in.Key, ".json") {
		return s.Client.PutObject(ctx, in, change...)
	}
	doc, err := io.ReadAll(in.Body)
	if err != nil {
		return nil, err
	}
	late := *in
	late.Body = bytes.NewReader(shift(doc, s.ahead))
	return s.Client.PutObject(ctx, &late, change...)
}

func (s skewed) GetObject(ctx context.Context, in *s3.GetObjectInput, change ...func(*s3.Options)) (*s3.GetObjectOutput, error) {
	out, err := s.Client.GetObject(ctx, in, change...)
	if err != nil || s.ahead == 0 || !strings.HasSuffix(*in.Key, ".json") {
		return out, err
	}
	defer out.Body.Close()
	doc, err := io.ReadAll(out.Body)
	if err != nil {
		return nil, err
	}
	out.Body = io.NopCloser(bytes.NewReader(shift(doc, -s.ahead)))
	return out, nil
}

// document reads a document of the state bucket into v; false where there is none.
func (a *account) document(key string, v any) bool {
	a.t.Helper()
	body, ok := a.blob(statePrefix + key)
	if ok {
		a.must(json.Unmarshal(body, v))
	}
	return ok
}

func (a *account) blob(key string) ([]byte, bool) {
	a.t.Helper()
	out, err := a.s3.GetObject(a.t.Context(), &s3.GetObjectInput{Bucket: aws.String(stateBucket), Key: &key})
	if _, ok := errors.AsType[*types.NoSuchKey](err); ok {
		return nil, false
	}
	a.must(err)
	defer out.Body.Close()
	body, err := io.ReadAll(out.Body)
	a.must(err)
	return body, true
}

func (a *account) stateKeys(prefix string) []string {
	a.t.Helper()
	var keys []string
	pages := s3.NewListObjectsV2Paginator(a.s3, &s3.ListObjectsV2Input{Bucket: aws.String(stateBucket), Prefix: aws.String(statePrefix + prefix)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(a.t.Context())
		a.must(err)
		for _, o := range page.Contents {
			keys = append(keys, *o.Key)
		}
	}
	return keys
}
