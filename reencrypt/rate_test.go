package reencrypt

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
)

func TestFleetKeepsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, objects = 40, 480
		w := newWorld(t)
		defer w.aws.Close()
		for i := range objects {
			w.put(fmt.Sprintf("%04d", i), w.a)
		}
		set := func(o *Options) { o.Rate, o.SliceSize = rate, 24 }
		f := &fleet{world: w, engines: []*Engine{w.engine(set), w.engine(set), w.engine(set), w.engine(set)}}
		var mu sync.Mutex
		var moves []time.Time
		defer w.aws.Observe(func(r localaws.Request) {
			if r.Operation == "UpdateObjectEncryption" {
				mu.Lock()
				defer mu.Unlock()
				moves = append(moves, time.Now())
			}
		})()
		_, err := f.engines[0].Start(t.Context(), w.move(time.Now(), w.b, w.a))
		w.must(err)
		f.work()
		moves = moves[len(f.engines):] // the probes
		// Each of the four may begin with two at once, and the window has two ends.
		const window, burst = 5 * time.Second, 4 * (2 + 1)
		for i, from := 0, 0; i < len(moves); i++ {
			for moves[i].Sub(moves[from]) > window {
				from++
			}
			if n := i - from + 1; n > rate*5+burst {
				t.Fatalf("%d objects in %s at %d per second", n, window, rate)
			}
		}
		if len(w.told.completed) != 1 || w.told.completed[0].Moved != objects {
			t.Errorf("told %+v", w.told.completed)
		}
	})
}

// A slice that waits for the part of another one, which ends before it counts, gets
// a part of its own.
func TestRateAfterAShortSlice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newThrottle(8, func(context.Context) (int, error) { return 4, nil })
		short := r.hold()
		time.Sleep(time.Second)
		time.AfterFunc(time.Second, short)
		leave, err := r.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
		start := time.Now()
		for range 21 {
			if err := r.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("20 objects at a quarter of 8 per second took %s", took)
		}
	})
}

func TestRateOfOneProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		for i := range 200 {
			w.put(fmt.Sprintf("%04d", i), w.a)
		}
		e := w.engine(func(o *Options) { o.Rate, o.SQS, o.Store = 50, nil, nil })
		start := time.Now()
		s, err := e.Run(t.Context(), RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b}, nil)
		w.must(err)
		if took := time.Since(start); s.Moved != 200 || took < 3900*time.Millisecond || took > 4100*time.Millisecond {
			t.Errorf("%d objects at 50 per second took %s", s.Moved, took)
		}
	})
}

// busy counts the HEAD and update calls that are under way at a time.
type busy struct {
	*s3.Client
	mu        sync.Mutex
	now, most int
}

func (b *busy) enter() func() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now++
	b.most = max(b.most, b.now)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.now--
	}
}

func (b *busy) HeadObject(ctx context.Context, in *s3.HeadObjectInput, o ...func(*s3.Options)) (*s3.HeadObjectOutput, error) {
	defer b.enter()()
	return b.Client.HeadObject(ctx, in, o...)
}

func (b *busy) UpdateObjectEncryption(ctx context.Context, in *s3.UpdateObjectEncryptionInput, o ...func(*s3.Options)) (*s3.UpdateObjectEncryptionOutput, error) {
	defer b.enter()()
	return b.Client.UpdateObjectEncryption(ctx, in, o...)
}

func TestConcurrencyIsBoundedOverAllSlices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		for i := range 200 {
			w.put(fmt.Sprintf("%04d", i), w.a)
		}
		w.aws.SetFaults(localaws.Fault{Service: "s3", Effect: localaws.Delay, Latency: localaws.Latency{Min: time.Millisecond, Mean: 20 * time.Millisecond}})
		b := &busy{Client: w.s3}
		f := &fleet{world: w, engines: []*Engine{w.engine(func(o *Options) { o.S3, o.Concurrency, o.SliceSize = b, 7, 20 })}}
		_, err := f.engines[0].Start(t.Context(), w.move(time.Now(), w.b, w.a))
		w.must(err)
		f.work()
		if b.most != 7 {
			t.Errorf("%d objects at a time, the bound is 7", b.most)
		}
		if len(w.told.completed) != 1 {
			t.Error("the job is not complete")
		}
	})
}

func TestTallyHoldsFewRows(t *testing.T) {
	spilled, most := 0, 0
	tl := &tally{spill: func(_ context.Context, rows []Refusal) error {
		spilled, most = spilled+len(rows), max(most, len(rows))
		return nil
	}}
	for i := range 3*maxRows + 7 {
		if err := tl.add(t.Context(), entry{key: fmt.Sprint(i)}, verdict{action: refuse, reason: ReasonObjectLock}); err != nil {
			t.Fatal(err)
		}
	}
	if err := tl.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if spilled != 3*maxRows+7 || most > maxRows || len(tl.sample) != sampleSize {
		t.Errorf("%d rows spilled, %d at most, sample of %d", spilled, most, len(tl.sample))
	}
}
