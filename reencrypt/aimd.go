package reencrypt

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

const (
	// startLimit is how many objects of a bucket are worked on at once in the
	// beginning.
	startLimit = 64
	// stepAfter is how many successes allow one more, once a limit is known: a
	// hundredth more in each round trip, and one where the limit is lower than that.
	stepAfter = 96
)

// aimd decides how many requests may run at once against something whose limit
// nobody publishes: more while all succeed, fewer when one is throttled.
//
// The limit doubles in each round trip until the first refusal. The right limit
// lies between half of what was refused and all of it, so half is taken at once,
// then doubling goes on to three quarters, and from there the limit grows in small
// steps. What is refused after such a step is only just too much: three quarters
// are taken at once, and seven eighths are doubled to. A refusal counts once in each
// round trip: what began under the old limit, or while more still ran than the new
// one allows, says nothing about the new one.
type aimd struct {
	bound    int
	limit    int // from 1 to bound
	slow     int // the limit at which doubling ends
	credit   int // successes since the last step
	running  int
	cuts     int
	draining bool // more runs than the limit allows since it was cut
}

func newAIMD(bound int) aimd {
	return aimd{bound: bound, limit: min(startLimit, bound), slow: bound}
}

// free reports whether one more may begin.
func (a *aimd) free() bool { return a.running < a.limit }

// enter counts one that begins, leave one that ends.
func (a *aimd) enter() { a.running++ }

func (a *aimd) leave() {
	a.running--
	if a.running <= a.limit {
		a.draining = false
	}
}

// stamp says under which limit a try begins; -1 is one that is no more.
func (a *aimd) stamp() int {
	if a.draining {
		return -1
	}
	return a.cuts
}

// succeeded takes note of a try that began at stamp and was not refused. The limit
// grows only while it is what bounds the work.
func (a *aimd) succeeded(stamp int) {
	if stamp != a.cuts || a.running < a.limit || a.limit == a.bound {
		return
	}
	if a.limit < a.slow {
		a.limit++
		return
	}
	if a.credit++; a.credit >= min(a.limit, stepAfter) {
		a.credit = 0
		a.limit++
	}
}

// refused takes note of a try that began at stamp and was throttled.
func (a *aimd) refused(stamp int) {
	if stamp != a.cuts {
		return
	}
	if a.limit > a.slow {
		a.limit, a.slow = max(1, a.limit*3/4), max(1, a.limit*7/8)
	} else {
		a.limit, a.slow = max(1, a.limit/2), max(1, a.limit*3/4)
	}
	a.credit = 0
	a.cuts++
	a.draining = a.running > a.limit
}

// limiter limits the work on one bucket in this process to what aimd allows. It is
// safe for concurrent use.
type limiter struct {
	mu      sync.Mutex
	aimd    aimd
	waiting []chan struct{} // each is closed when it may begin
}

// enter waits until one more object of the bucket may be worked on; leave counts
// it out again.
func (p *limiter) enter(ctx context.Context) error {
	p.mu.Lock()
	if len(p.waiting) == 0 && p.aimd.free() {
		p.aimd.enter()
		p.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	p.waiting = append(p.waiting, turn)
	p.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiting, turn); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	} else { // it was let in meanwhile
		p.leaveLocked()
	}
	return ctx.Err()
}

// tryEnter enters where that needs no waiting.
func (p *limiter) tryEnter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) > 0 || !p.aimd.free() {
		return false
	}
	p.aimd.enter()
	return true
}

func (p *limiter) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leaveLocked()
}

func (p *limiter) leaveLocked() {
	p.aimd.leave()
	for len(p.waiting) > 0 && p.aimd.free() {
		p.aimd.enter()
		close(p.waiting[0])
		p.waiting = p.waiting[1:]
	}
}

// try calls f, which makes requests to the bucket, and learns from what it
// returns.
func (p *limiter) try(f func() error) error {
	p.mu.Lock()
	stamp := p.aimd.stamp()
	p.mu.Unlock()
	err := f()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		p.aimd.succeeded(stamp)
	case classify(err) == faultThrottled:
		p.aimd.refused(stamp)
	}
	return err
}

// limit is how many objects of the bucket may be worked on at once now.
func (p *limiter) limit() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.aimd.limit
}

// limiters are those of the buckets. What a slice learned about a bucket is kept for
// the slices after it.
type limiters struct {
	bound int
	mu    sync.Mutex
	of    map[string]*limiter
}

func (p *limiters) bucket(name string) *limiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil {
		p.of = map[string]*limiter{}
	}
	if p.of[name] == nil {
		p.of[name] = &limiter{aimd: newAIMD(p.bound)}
	}
	return p.of[name]
}

// Concurrency is how many objects of a bucket this process works on at once at
// most, as it has found out by now; Options.Concurrency bounds it.
func (e *Engine) Concurrency(bucket string) int { return e.limiters.bucket(bucket).limit() }

// Load is how many objects this process works on, how many it would at most by what the
// buckets at work have turned out to take, and how many a second it may move: 0 where it
// moves none or where Options.Rate is 0.
func (e *Engine) Load() (objects, width int, perSecond float64) {
	e.limiters.mu.Lock()
	defer e.limiters.mu.Unlock()
	for _, l := range e.limiters.of {
		if running, limit := l.load(); running > 0 {
			objects, width = objects+running, width+limit
		}
	}
	if objects > 0 {
		perSecond = float64(e.rate.limiter.Limit())
	}
	return objects, min(width, e.opt.Concurrency), perSecond
}

func (p *limiter) load() (running, limit int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.aimd.running, p.aimd.limit
}

// errBusy means that something was throttled maxThrottled times.
var errBusy = errors.New("throttled again and again")

const (
	// throttledFirst is how long a throttled object waits before the next try at
	// most: about a round trip, in which the lower limit takes effect. Each further
	// wait is twice as long, up to throttledLongest.
	throttledFirst   = 100 * time.Millisecond
	throttledLongest = 5 * time.Second
	// maxThrottled is how often an object may be throttled, about a quarter of a
	// minute, before its slice goes back to the queue.
	maxThrottled = 8
)

// backoff is how long to wait after n refusals before this one; part, from 0 to
// 1, spreads those who wait over the second half of that time.
func backoff(n int, part float64) time.Duration {
	longest := min(throttledFirst<<n, throttledLongest)
	return longest/2 + time.Duration(part*float64(longest/2))
}

// rest waits after a refusal, n refusals before it.
func rest(ctx context.Context, n int) error {
	timer := time.NewTimer(backoff(n, rand.Float64()))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// throttlesBack returns the option of the calls that are made for each object or
// part: the SDK tries them again as usual, but hands a throttled one back at once.
// Two answers to a refusal, the SDK's waits and ours, would make each other
// useless; for the same reason these calls are never in the SDK's adaptive mode.
func throttlesBack() func(*s3.Options) {
	retryer := retry.NewStandard(func(o *retry.StandardOptions) {
		o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(func(err error) aws.Ternary {
			if classify(err) == faultThrottled {
				return aws.FalseTernary
			}
			return aws.UnknownTernary
		})}, o.Retryables...)
	})
	return func(o *s3.Options) { o.Retryer = retryer }
}
