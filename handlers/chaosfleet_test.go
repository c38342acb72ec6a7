package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"golang.org/x/sync/semaphore"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/confirm"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
	"github.com/cmkeeper/cmkeeper/worker"
)

// dice are shared by goroutines.
type dice struct {
	mu sync.Mutex
	r  *rand.Rand
}

// fork returns dice of its own for a goroutine.
func (d *dice) fork() *rand.Rand {
	d.mu.Lock()
	defer d.mu.Unlock()
	return rand.New(rand.NewPCG(d.r.Uint64(), 3))
}

func (d *dice) n(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.IntN(n)
}

// fleet is three places for workers to which everything happens that can happen.
type fleet struct {
	*storm
	scenario
	survived *survived
	random   *dice
	calm     context.Context // is done when nothing goes wrong any more
	kills    atomic.Int64    // how many more may die

	mu      sync.Mutex
	history []string // what was handled
}

// member is a place in the fleet: a worker, and the next one when it has ended.
func (f *fleet) member(ctx context.Context) {
	for ctx.Err() == nil {
		f.process(ctx).work()
		pause(ctx, time.Duration(1+f.random.n(20))*time.Second)
	}
}

// process is a worker process between its clients and AWS. When it dies no request of it
// goes out any more and no answer comes in.
type process struct {
	*fleet
	ctx      context.Context
	end      context.CancelCauseFunc
	next     aws.HTTPClient
	clock    clock
	idle     *semaphore.Weighted // held in part by what is under way
	dies     int64               // with which request; 0 is never
	freezes  int64               // with which request; 0 is never
	retires  time.Duration
	requests atomic.Int64
	dead     atomic.Bool
	thaws    atomic.Int64 // until when it stands still, in Unix nanoseconds
}

func (f *fleet) process(ctx context.Context) *process {
	r := f.random.fork()
	p := &process{fleet: f, idle: semaphore.NewWeighted(everything)}
	p.next = clockClient{inprocess.Client{Handler: f.aws}, &p.clock}
	p.ctx, p.end = context.WithCancelCause(ctx)
	if f.calm.Err() == nil {
		switch doom := r.IntN(6); {
		case doom < 3 && f.kills.Add(-1) >= 0:
			p.dies = 1 + r.Int64N(400)
		case doom == 3:
			p.freezes = 1 + r.Int64N(400)
		case doom == 4:
			p.retires = time.Duration(1+r.IntN(200)) * time.Second
		}
		if f.skew > 0 {
			p.clock.set(time.Duration(r.Int64N(int64(2*f.skew))) - f.skew)
			go p.jump(r)
		}
	}
	return p
}

// everything is what a jump of the clock waits for: all that is under way.
const everything = 1 << 20

// jump sets the clock now and then, and right when nothing goes wrong any more. It waits
// until nothing is under way: the times of S3 that a handler holds would jump, too, which
// those of a real one do not.
func (p *process) jump(r *rand.Rand) {
	for p.ctx.Err() == nil {
		ahead := time.Duration(0)
		wait := time.NewTimer(time.Duration(10+r.IntN(200)) * time.Second)
		select {
		case <-wait.C:
			ahead = time.Duration(r.Int64N(int64(2*p.skew))) - p.skew
		case <-p.calm.Done():
		case <-p.ctx.Done():
		}
		wait.Stop()
		if p.idle.Acquire(p.ctx, everything) != nil {
			return
		}
		if p.calm.Err() != nil {
			ahead = 0
		}
		p.clock.set(ahead)
		p.survived.jumps.Add(1)
		p.idle.Release(everything)
		if p.calm.Err() != nil {
			return
		}
	}
}

// during does something during which the clock does not jump.
func (p *process) during(ctx context.Context, do func() error) error {
	if err := p.idle.Acquire(ctx, 1); err != nil {
		return err
	}
	defer p.idle.Release(1)
	return do()
}

// Do lets a request through to AWS, or not.
func (p *process) Do(r *http.Request) (*http.Response, error) {
	n := p.requests.Add(1)
	if n == p.freezes && p.calm.Err() == nil {
		p.thaws.Store(time.Now().Add(freeze).UnixNano())
		p.survived.freezes.Add(1)
	}
	p.standStill()
	if p.dead.Load() {
		return nil, errKilled
	}
	if n == p.dies && p.calm.Err() == nil {
		p.dead.Store(true)
		p.survived.kills.Add(1)
		p.end(errKilled)
		if n%2 == 0 { // this one was on its way
			return nil, errKilled
		}
	}
	answer, err := p.next.Do(r)
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

// work does what a worker process does, from its start until it ends.
func (p *process) work() {
	defer p.end(errors.New("it is over"))
	cfg := inprocess.Config(p.aws, region, keeperKey)
	cfg.HTTPClient = p
	queues := sqs.NewFromConfig(cfg)
	var running sync.WaitGroup
	defer running.Wait()
	ctx, stop := context.WithCancel(p.ctx)
	defer stop()
	if p.retires > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.retires)
		defer cancel()
	}
	router, records := p.router(cfg, queues)
	if err := p.during(ctx, func() error { return router.Snapshot(ctx) }); err != nil {
		return // it is started again
	}
	if records != nil {
		running.Go(func() { _ = records.Run(ctx) })
	}
	running.Go(func() {
		sweep := func() error { return router.StartupSweep(ctx) }
		for wait := time.Second; p.during(ctx, sweep) != nil && ctx.Err() == nil; wait = min(2*wait, 30*time.Minute) {
			pause(ctx, wait)
		}
	})
	pool, err := worker.New(ctx, queues, worker.HandlerFunc(func(ctx context.Context, m worker.Message) error {
		began := time.Now()
		err := p.during(ctx, func() error {
			return router.Handle(ctx, handlers.Message{Body: []byte(shift(m.Body, -p.clock.ahead())), Sent: p.clock.seen(m.Sent), Sender: m.Sender})
		})
		p.note(m, began, err)
		return p.late(err)
	}), worker.Options{QueueURL: p.queue, Concurrency: p.slots, DrainTimeout: 10 * time.Second})
	if err != nil {
		return
	}
	_ = pool.Run(ctx) // what it left behind comes again
	if p.ctx.Err() == nil {
		p.survived.stops.Add(1)
	}
}

// note notes how a message was handled, for those who look into a failure.
func (p *process) note(m worker.Message, began time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.history = append(p.history, fmt.Sprintf("%s to %s, clock %s, received %d times: %v: %s", began.Format(time.TimeOnly), time.Now().Format(time.TimeOnly), p.clock.ahead(), m.ReceiveCount, err, m.Body))
}

// late is what becomes of a message, and fails the test where that is a rejection: nothing
// here is no event.
func (p *process) late(err error) error {
	if d := outcome.Of(err); d.Action == outcome.DeadLetter {
		p.t.Errorf("a message is rejected: %v", d.Err)
	}
	return err
}

// router returns the process's router, and what asks CloudTrail where messages alone are
// not believed.
func (p *process) router(cfg aws.Config, queues *sqs.Client) (*handlers.Router, *confirm.Records) {
	c := p.config
	c.Concurrency = p.slots
	var records *confirm.Records
	buckets := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
	keys := kms.NewFromConfig(cfg)
	store := state.New(clockState{buckets, &p.clock}, stateBucket, "cmkeeper/", account)
	publisher := &alert.Publisher{
		SNS: sns.NewFromConfig(cfg), Store: store, Topics: []alert.Topic{{ARN: p.topic}},
		Grouping: &alert.Grouping{SQS: queues, QueueURL: p.queue, Wait: 30 * time.Second, Interval: time.Minute},
	}
	deps := reaction.Deps{
		KMS: keys, Facts: inventory.New(keys, buckets, account, region), State: store,
		Alerts: publisher, Digests: publisher, Moves: p.moves, Trail: awsclient.CloudTrail(cfg), Senders: handlers.AnySender{},
	}
	if p.open {
		records = confirm.New(deps.Trail, store, confirm.Config{}, nil)
		deps.Records, deps.Senders = records, nil
	}
	r, err := handlers.New(deps, c)
	if err != nil {
		panic(err)
	}
	return r, records
}

// gusts lets requests of the fleet fail until ctx is over, in one way after the other.
func (f *fleet) gusts(ctx context.Context) {
	r := f.random.fork()
	defer f.aws.SetFaults(latencies()...)
	effects := []localaws.Effect{localaws.FailBefore, localaws.FailAfter, localaws.DropBefore, localaws.DropAfter}
	operations := []string{
		"PutObject", "GetObject", "ListObjectsV2", "DeleteObject", "Publish", "SendMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch",
		"DescribeKey", "GetKeyPolicy", "GetKeyRotationStatus", "ListGrants", "ListAliases", "EnableKeyRotation", "PutKeyPolicy", "CancelKeyDeletion", "EnableKey", "LookupEvents",
	}
	for ctx.Err() == nil {
		faults := latencies()
		effect := effects[r.IntN(len(effects))]
		service := []string{"", "s3", "s3", "sqs", "kms", "sns"}[r.IntN(6)]
		switch r.IntN(5) {
		case 0: // a nice day
		case 1: // now and then
			faults = append(faults, localaws.Fault{Caller: keeperKey, Service: service, Effect: effect, Probability: 0.02 + 0.2*r.Float64()})
		case 2: // all of it
			for _, effect := range effects {
				faults = append(faults, localaws.Fault{Caller: keeperKey, Effect: effect, Probability: 0.04})
			}
		case 3: // too much
			faults = append(faults, localaws.Fault{Caller: keeperKey, Service: service, Effect: localaws.Throttle, Rate: 1 + 10*r.Float64()})
		case 4: // one operation does not come through at all
			faults = append(faults, localaws.Fault{Caller: keeperKey, Operations: []string{operations[r.IntN(len(operations))]}, Effect: effect, Probability: 0.5 + 0.5*r.Float64()})
		}
		f.aws.SetFaults(faults...)
		pause(ctx, time.Duration(5+r.IntN(60))*time.Second)
	}
}

// pause waits, unless ctx is over before.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
