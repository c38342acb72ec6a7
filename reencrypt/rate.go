package reencrypt

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"golang.org/x/time/rate"
)

const (
	shareRefresh = 5 * time.Second
	// shareMemory is how long a reading counts: SQS's numbers are approximate and
	// lag by up to a minute.
	shareMemory = time.Minute
	// shareNotice is how long the other processes need to see a slice that begins:
	// two readings.
	shareNotice = 2*shareRefresh + time.Second
)

// throttle keeps this process's part of the fleet's rate: the rate, times the
// slices in flight here, over the slices in flight in the fleet. The fleet's are
// the messages of the jobs queue that are being worked on, planners among them.
//
// The parts add up to the rate or less: a slice enlarges its process's part only
// when the others have had the time to see it, or at once where it takes the place
// of one that has just ended here, or where there are no others; and one that ends
// counts on for as long as another process's would not count yet, so that nothing of
// the rate is lost between two of them. What can pass the bound is the part of a slice that SQS shows to the others later than shareNotice,
// until it shows it.
type throttle struct {
	rate    float64 // objects per second; 0 is unlimited
	fleet   func(context.Context) (int, error)
	limiter *rate.Limiter
	turn    chan struct{} // holds one value while a caller waits for the limiter

	mu       sync.Mutex
	running  map[int]time.Time // slices in flight here: when they begin to count
	begun    int
	ended    []time.Time // slices that ended here lately
	due      time.Time   // when the next reading is
	readings []reading
}

// reading is how many slices the fleet had in flight.
type reading struct {
	at     time.Time
	slices int
}

func newThrottle(perSecond float64, fleet func(context.Context) (int, error)) *throttle {
	return &throttle{
		rate: perSecond, fleet: fleet, running: map[int]time.Time{}, turn: make(chan struct{}, 1),
		limiter: rate.NewLimiter(0, max(1, int(perSecond/20))), // a twentieth of a second's worth at once: timers are not more exact
	}
}

// enter counts a slice that begins here; leave counts it out again. Where this
// process has no part of the rate yet, it waits for it.
func (t *throttle) enter(ctx context.Context) (leave func(), err error) {
	if t.rate == 0 {
		return func() {}, nil
	}
	leave = t.hold()
	if err := t.read(ctx); err != nil {
		leave()
		return nil, err
	}
	for wait := t.idle(); wait > 0; wait = t.idle() { // again, where the one that was waited for has ended meanwhile
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			t.share()
		case <-ctx.Done():
			timer.Stop()
			leave()
			return nil, ctx.Err()
		}
	}
	return leave, nil
}

// hold is enter for what moves nothing itself, as a planner, whose part of the rate
// is this process's.
func (t *throttle) hold() (leave func()) {
	slice := t.begin()
	return func() { t.end(slice) }
}

func (t *throttle) begin() (slice int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.ended = slices.DeleteFunc(t.ended, func(at time.Time) bool { return now.Sub(at) > shareMemory/2 })
	counts := now.Add(shareNotice)
	if n := len(t.ended); n > 0 {
		t.ended, counts = t.ended[:n-1], now
	}
	t.begun++
	t.running[t.begun] = counts
	return t.begun
}

func (t *throttle) end(slice int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	counts := t.running[slice]
	delete(t.running, slice)
	if now := time.Now(); !now.Before(counts) {
		t.ended = append(t.ended, now)
	}
	t.shareLocked()
}

// idle returns how long it is until the first slice counts; 0 where one does.
func (t *throttle) idle() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	wait := shareNotice
	for _, counts := range t.running {
		wait = min(wait, time.Until(counts))
	}
	return wait
}

// wait waits until one more object may be moved.
func (t *throttle) wait(ctx context.Context) error {
	if t.rate == 0 {
		return nil
	}
	t.mu.Lock()
	due := !time.Now().Before(t.due)
	if due { // one caller reads; the others go on with what is known
		t.due = time.Now().Add(shareRefresh)
	}
	t.mu.Unlock()
	if due {
		if err := t.read(ctx); err != nil {
			return err
		}
	}
	// One at a time: the limiter plans a wait by the rate of that moment, and many
	// waits ahead would go on by a rate that holds no more.
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return t.limiter.Wait(ctx)
}

// read takes a reading of the fleet.
func (t *throttle) read(ctx context.Context) error {
	n, err := t.fleet(ctx)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.due = now.Add(shareRefresh)
	t.readings = slices.DeleteFunc(t.readings, func(r reading) bool { return now.Sub(r.at) > shareMemory })
	t.readings = append(t.readings, reading{now, n})
	if n <= len(t.running) { // no other process has any
		for slice, counts := range t.running {
			if counts.After(now) {
				t.running[slice] = now
			}
		}
	}
	t.shareLocked()
	return nil
}

func (t *throttle) share() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shareLocked()
}

// shareLocked sets the limiter to this process's part. The caller holds mu.
func (t *throttle) shareLocked() {
	own, now := 0, time.Now()
	for _, counts := range t.running {
		if !now.Before(counts) {
			own++
		}
	}
	for _, at := range t.ended {
		if now.Sub(at) < shareNotice {
			own++
		}
	}
	if own > 0 {
		t.limiter.SetLimit(rate.Limit(share(t.rate, own, t.readings)))
	}
}

// share returns a process's part of the fleet's rate.
func share(perSecond float64, own int, readings []reading) float64 {
	return perSecond * float64(own) / float64(max(own, inFlight(readings)))
}

// inFlight is how many slices readings, the oldest first, say that there are: what
// half of them say at least, or at once what the last two agree on. A single one
// that shows more has seen messages that are done and about to be deleted.
func inFlight(readings []reading) int {
	n := len(readings)
	if n == 0 {
		return 0
	}
	counts := make([]int, n)
	for i, r := range readings {
		counts[i] = r.slices
	}
	slices.Sort(counts)
	return max(counts[n/2], min(readings[n-1].slices, readings[max(0, n-2)].slices))
}

// slicesInFlight returns how many messages of the jobs queue the fleet works on.
func (e *Engine) slicesInFlight(ctx context.Context) (int, error) {
	if e.opt.SQS == nil {
		return 0, nil
	}
	const name = types.QueueAttributeNameApproximateNumberOfMessagesNotVisible
	out, err := e.opt.SQS.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl: &e.opt.QueueURL, AttributeNames: []types.QueueAttributeName{name},
	})
	if err != nil {
		return 0, fmt.Errorf("count slices in flight: %w", err)
	}
	n, err := strconv.Atoi(out.Attributes[string(name)])
	if err != nil {
		return 0, fmt.Errorf("count slices in flight: %w", err)
	}
	return n, nil
}
