package reencrypt_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// survived is what the seeds of a run have gone through.
type survived struct {
	seeds, kills, restarts, freezes, faults, lost, duplicated, late, foreign, denied, rewraps, byS3 atomic.Int64
}

func (s *survived) String() string {
	return fmt.Sprintf("%d seeds survived: %d kills, %d restarts, %d freezes beyond the lease, %d failed requests, %d lost, %d duplicated and %d late messages, %d writes and deletes by others, %d re-wraps of data keys and %d denied; no data key was asked for, but %d by S3",
		s.seeds.Load(), s.kills.Load(), s.restarts.Load(), s.freezes.Load(), s.faults.Load(), s.lost.Load(), s.duplicated.Load(), s.late.Load(), s.foreign.Load(), s.rewraps.Load(), s.denied.Load(), s.byS3.Load())
}

// TestChaos re-encrypts a bucket with a fleet to which everything happens that can
// happen, and compares each object version with what it was. A seed decides what
// goes wrong; what happens at the same instant is the scheduler's choice.
//
// CMKEEPER_CHAOS_SEEDS is how many seeds are played (20), CMKEEPER_CHAOS_FROM the
// first one (1); "make soak" sets both. A single one, whatever its number, is
// played by
//
//	go test ./reencrypt -run 'TestChaos/seed=123$'
func TestChaos(t *testing.T) {
	first, count := setting(t, "CMKEEPER_CHAOS_FROM", 1), setting(t, "CMKEEPER_CHAOS_SEEDS", 20)
	if one := regexp.MustCompile(`seed=(\d+)`).FindStringSubmatch(flag.Lookup("test.run").Value.String()); one != nil {
		first, count = parse(t, one[1]), 1
	}
	var all survived
	t.Cleanup(func() { fmt.Println(&all) })
	for seed := first; seed < first+count; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { play(t, draw(seed), &all) })
		})
	}
}

func setting(t *testing.T, name string, otherwise uint64) uint64 {
	value := os.Getenv(name)
	if value == "" {
		return otherwise
	}
	return parse(t, value)
}

func parse(t *testing.T, text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// scenario is what a seed decides.
type scenario struct {
	seed uint64
	// The job.
	method    reencrypt.Method
	versioned bool
	objects   int
	sealed    int // how many besides have data keys
	envelopes reencrypt.Envelopes
	rewrite   bool // files
	sliceSize int
	rate      float64 // of the fleet; 0 is unlimited
	// again is the key that the alias moves to after the first move, "" where it
	// stays; after is when.
	again string
	after time.Duration
	// pauses is how often somebody pauses the first job for a while.
	pauses int
	// The fleet.
	workers, slots, concurrency int
	kills                       int // how many workers die before the others live on
	skew                        time.Duration
	lossy                       bool // messages are lost, doubled and late
	twins                       bool // two engines work on each message at once
	denials                     denials
	// The world around it.
	weather time.Duration // how long requests fail
	latency time.Duration // the mean of a request
	writes  int           // what others write and delete meanwhile
}

// denials is when the fleet may not re-encrypt data keys.
type denials int

const (
	never denials = iota
	nowAndThen
	always
)

// draw draws a scenario.
func draw(seed uint64) scenario {
	r := rand.New(rand.NewPCG(seed, 1))
	s := scenario{
		seed: seed, method: reencrypt.MethodAuto, versioned: r.IntN(2) == 0,
		objects: 40 + r.IntN(60), sliceSize: 5 + r.IntN(20),
		workers: 2 + r.IntN(3), slots: 1 + r.IntN(3), concurrency: 2 + r.IntN(7),
		kills: r.IntN(13), lossy: r.IntN(3) > 0,
		weather: time.Duration(60+r.IntN(900)) * time.Second, latency: time.Duration(20+r.IntN(1000)) * time.Millisecond,
	}
	if r.IntN(4) == 0 {
		s.method = reencrypt.MethodCopy
	}
	if r.IntN(4) == 0 {
		s.rate, s.concurrency = 0.5+2*r.Float64(), 2
	}
	if r.IntN(3) == 0 {
		s.skew = 10 * time.Second
	}
	if r.IntN(3) > 0 {
		s.writes = 5 + r.IntN(30)
	}
	switch r.IntN(5) {
	case 0, 1:
		s.again = "c"
	case 2:
		s.again = "a"
	}
	s.after = time.Duration(r.IntN(120)) * time.Second
	if r.IntN(3) == 0 {
		s.pauses = 1 + r.IntN(2)
	}
	s.sealed = len(sealingNames) + r.IntN(2*len(sealingNames))
	s.envelopes = []reencrypt.Envelopes{reencrypt.EnvelopesOff, reencrypt.EnvelopesMetadata, reencrypt.EnvelopesContent, reencrypt.EnvelopesContent, reencrypt.EnvelopesContent}[r.IntN(5)]
	s.rewrite = s.envelopes == reencrypt.EnvelopesContent && r.IntN(4) > 0
	s.twins, s.denials = s.rate == 0 && r.IntN(3) == 0, []denials{never, never, never, nowAndThen, nowAndThen, always}[r.IntN(6)]
	return s
}

const (
	visibility = 30 * time.Second
	// freeze is how long a worker stands still: longer than its lease, and shorter
	// than the time that a newer job gives the writers of an older one.
	freeze = 45 * time.Second
	sweep  = 5 * time.Minute
	// patience is how long a job may take, whatever happens.
	patience = 6 * time.Hour
)

// play plays a scenario and checks what has become of each object version.
func play(t *testing.T, s scenario, all *survived) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%+v\nreplay with: go test ./reencrypt -run 'TestChaos/seed=%d$'", s, s.seed)
		}
	})
	w := newAccount(t, s)
	defer w.server.Close()
	touched := make(chan string)
	truth := newTruth(w, s, touched)
	truth.populate()
	truth.populateSealed()
	f := &fleet{account: w, scenario: s, survived: all, touched: touched, random: &dice{r: rand.New(rand.NewPCG(s.seed, 2))}}
	f.kills.Store(int64(s.kills))
	f.denying.Store(s.denials == always)

	ctx, end := context.WithCancel(t.Context())
	defer end()
	calm, quiet := context.WithTimeout(ctx, s.weather)
	defer quiet()
	var background, others sync.WaitGroup
	background.Go(func() { f.storm(calm) })
	for range s.workers {
		background.Go(func() { f.member(ctx) })
	}
	background.Go(func() { f.sweeper(ctx) })
	others.Go(func() { truth.meddle(ctx) })

	begin := time.Now()
	last := f.start(ctx, reencrypt.Move{AliasARN: aliasARN, From: []string{w.keys["a"]}, To: w.keys["b"], At: begin, Scope: scope})
	others.Go(func() { f.operate(ctx, last) })
	if s.again != "" {
		time.Sleep(s.after)
		last = f.start(ctx, reencrypt.Move{AliasARN: aliasARN, From: []string{w.keys["b"]}, To: w.keys[s.again], At: begin.Add(time.Second), Scope: scope})
	}
	others.Wait()
	f.carryOn(ctx, last) // it was paused if the first job was
	for !f.told(last) {
		if time.Since(begin) > patience {
			f.diagnose(t)
			t.Fatalf("job %s is not complete after %s", last, patience)
		}
		time.Sleep(10 * time.Second)
	}
	// Who was frozen wakes up, and late messages arrive: they do no harm.
	quiet()
	time.Sleep(20 * time.Minute)
	end()
	background.Wait()
	w.server.SetFaults()
	check(t, f, truth)
	all.seeds.Add(1)
	all.foreign.Add(int64(truth.foreign))
}

// dice are shared by goroutines.
type dice struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (d *dice) n(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.IntN(n)
}

// fork returns dice of its own for a goroutine.
func (d *dice) fork() *rand.Rand {
	d.mu.Lock()
	defer d.mu.Unlock()
	return rand.New(rand.NewPCG(d.r.Uint64(), 3))
}

// storm lets requests of the fleet fail until ctx is over, in one way after the
// other.
func (f *fleet) storm(ctx context.Context) {
	r := f.random.fork()
	delay := localaws.Fault{Caller: "worker", Effect: localaws.Delay, Latency: localaws.Latency{Min: 5 * time.Millisecond, Mean: f.latency}}
	defer f.server.SetFaults(delay)
	defer f.denying.Store(f.denials == always)
	effects := []localaws.Effect{localaws.FailBefore, localaws.FailAfter, localaws.DropBefore, localaws.DropAfter}
	for ctx.Err() == nil {
		faults := []localaws.Fault{delay}
		effect := effects[r.IntN(len(effects))]
		service := []string{"", "s3", "s3", "sqs", "kms"}[r.IntN(5)]
		f.denying.Store(f.denials == always || f.denials == nowAndThen && r.IntN(3) == 0)
		switch r.IntN(5) {
		case 0: // a nice day
		case 1: // now and then
			faults = append(faults, localaws.Fault{Caller: "worker", Service: service, Effect: effect, Probability: 0.02 + 0.2*r.Float64()})
		case 2: // all of it
			for _, effect := range effects {
				faults = append(faults, localaws.Fault{Caller: "worker", Effect: effect, Probability: 0.04})
			}
		case 3: // too much
			faults = append(faults, localaws.Fault{Caller: "worker", Service: service, Effect: localaws.Throttle, Rate: 1 + 10*r.Float64(), PerPrefix: r.IntN(2) == 0})
		case 4: // one operation does not come through at all
			writes := []string{"UpdateObjectEncryption", "CopyObject", "PutObject", "HeadObject", "ListObjectsV2", "ListObjectVersions", "GetObject", "ReEncrypt", "SendMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"}
			faults = append(faults, localaws.Fault{Caller: "worker", Operations: []string{writes[r.IntN(len(writes))]}, Effect: effect, Probability: 0.5 + 0.5*r.Float64()})
		}
		f.server.SetFaults(faults...)
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

// start starts the jobs of a move as whoever saw it does, and returns the job.
func (f *fleet) start(ctx context.Context, m reencrypt.Move) (job string) {
	f.insist(ctx, func(ctx context.Context, e *reencrypt.Engine) error {
		jobs, err := e.Start(ctx, m)
		if err == nil {
			job = jobs[0]
		}
		return err
	})
	return job
}

// operate is somebody who pauses a job now and then.
func (f *fleet) operate(ctx context.Context, job string) {
	r := f.random.fork()
	for range f.pauses {
		pause(ctx, time.Duration(r.IntN(60))*time.Second)
		f.insist(ctx, func(ctx context.Context, e *reencrypt.Engine) error { return e.Pause(ctx, job) })
		still := period{from: time.Now().Add(2 * time.Minute)} // what is under way then comes to its end
		pause(ctx, time.Duration(r.IntN(600))*time.Second)
		still.to = time.Now()
		f.still = append(f.still, still)
		f.carryOn(ctx, job)
	}
}

func (f *fleet) carryOn(ctx context.Context, job string) {
	f.insist(ctx, func(ctx context.Context, e *reencrypt.Engine) error { return e.Continue(ctx, job) })
}

// insist does something again and again until it has worked, or is not possible any
// more, by workers that may die of it.
func (f *fleet) insist(ctx context.Context, do func(context.Context, *reencrypt.Engine) error) {
	for ctx.Err() == nil {
		p := f.process(ctx, 10)
		err := do(p.ctx, p.engine())
		p.end(errors.New("it is over"))
		if err == nil || errors.Is(err, reencrypt.ErrState) {
			return
		}
		pause(ctx, 2*time.Second)
	}
}

// sweeper does what each sweep does.
func (f *fleet) sweeper(ctx context.Context) {
	for ctx.Err() == nil {
		p := f.process(ctx, 60)
		_ = p.engine().Resume(p.ctx, time.Now()) // the next one sees to it
		p.end(errors.New("sweep is over"))
		pause(ctx, sweep)
	}
}
