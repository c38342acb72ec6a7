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
	// shareMemory is how long a reading counts. SQS's numbers are approximate and
	// lag by up to a minute, so the most that was seen in it is believed.
	shareMemory = time.Minute
)

// throttle keeps this process's part of the fleet's rate: the rate, times the
// slices in flight here, over the slices in flight in the fleet. The fleet's are
// the messages of the jobs queue that are being worked on (planners among them,
// which makes the parts smaller, never larger).
//
// The parts add up to the rate, except while SQS does not show to one process a
// slice that has begun in another. A process that was idle expects that and
// counts its first slice on top of what SQS says until the next reading; what
// remains is at most the newcomer's part, for as long as SQS lags.
type throttle struct {
	rate    float64 // objects per second; 0 is unlimited
	fleet   func(context.Context) (int, error)
	limiter *rate.Limiter

	mu       sync.Mutex
	own      int // slices in flight here
	due      time.Time
	readings []reading
}

// reading is how many slices the fleet had in flight, believed until then.
type reading struct {
	slices int
	until  time.Time
}

func newThrottle(perSecond float64, fleet func(context.Context) (int, error)) *throttle {
	// A twentieth of a second's worth at once: timers are not more exact.
	return &throttle{rate: perSecond, fleet: fleet, limiter: rate.NewLimiter(0, max(1, int(perSecond/20)))}
}

// enter counts a slice that begins here; leave counts it out again.
func (t *throttle) enter(ctx context.Context) (leave func(), err error) {
	leave = func() { t.begin(-1) }
	t.begin(1)
	if err := t.refresh(ctx); err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

func (t *throttle) begin(slices int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.own += slices
	t.share()
}

// wait waits until one more object may be moved.
func (t *throttle) wait(ctx context.Context) error {
	if t.rate == 0 {
		return nil
	}
	if err := t.refresh(ctx); err != nil {
		return err
	}
	return t.limiter.Wait(ctx)
}

// refresh reads the fleet's slices again where the last reading is old. One
// caller at a time does; the others go on with what is known.
func (t *throttle) refresh(ctx context.Context) error {
	if t.rate == 0 {
		return nil
	}
	t.mu.Lock()
	now := time.Now()
	idle := len(t.readings) == 0 || now.After(t.readings[len(t.readings)-1].until)
	if !idle && now.Before(t.due) {
		t.mu.Unlock()
		return nil
	}
	t.due = now.Add(shareRefresh)
	t.mu.Unlock()

	n, err := t.fleet(ctx)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now = time.Now()
	t.readings = slices.DeleteFunc(t.readings, func(r reading) bool { return now.After(r.until) })
	if idle {
		t.readings = append(t.readings, reading{n + t.own, t.due})
	}
	t.readings = append(t.readings, reading{n, now.Add(shareMemory)})
	t.share()
	return nil
}

// share sets the limiter to this process's part. The caller holds mu.
func (t *throttle) share() {
	if t.own > 0 {
		t.limiter.SetLimit(rate.Limit(share(t.rate, t.own, t.readings)))
	}
}

// share returns a process's part of the fleet's rate.
func share(perSecond float64, own int, readings []reading) float64 {
	fleet := own
	for _, r := range readings {
		fleet = max(fleet, r.slices)
	}
	return perSecond * float64(own) / float64(fleet)
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
