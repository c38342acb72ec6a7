package worker

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"golang.org/x/sync/semaphore"
)

const (
	// maxBytesInFlight bounds the bodies of all messages in flight, and the answers to polls
	// that are being read: a batch of ten of SQS's largest messages, and half as much.
	maxBytesInFlight = 16 << 20
	// maxBytesAtOnce bounds the answer that a poll asks for, as far as the messages are as
	// large as those before.
	maxBytesAtOnce = 4 << 20
	// maxBytesSent bounds the bodies of the copies that are being sent: each is in memory
	// several times then.
	maxBytesSent = 2 << 20
	// leastExpected is what a message is expected to have at least.
	leastExpected = 16 << 10
	// expectation is how long messages are expected to be as large as one was.
	expectation = 10 * time.Minute
	// smallBody and smallAnswer are so small that they are not counted, and wait for nothing.
	smallBody, smallAnswer = 64 << 10, 256 << 10
)

// bodies bound what messages take up in memory. How many a poll brings and how large they
// are is known only when it is answered. So reading a large answer waits until there are as
// many bytes as it has; until then it stays in the buffers of the connection. And no poll
// begins while there is no room for messages as large as those before.
type bodies struct {
	inFlight, sent *semaphore.Weighted
	// reading has one token: a large answer takes up several times its size while it is read.
	reading chan struct{}

	mu sync.Mutex
	// size is what a message is expected to have: as much as the largest one since at.
	size int64
	at   time.Time
}

func newBodies() *bodies {
	b := &bodies{inFlight: semaphore.NewWeighted(maxBytesInFlight), sent: semaphore.NewWeighted(maxBytesSent), reading: make(chan struct{}, 1)}
	b.reading <- struct{}{}
	return b
}

// expected is what a message is expected to have.
func (b *bodies) expected() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(b.size, leastExpected)
}

// batch is how many messages a poll asks for.
func (b *bodies) batch() int { return int(max(1, min(batchSize, maxBytesAtOnce/b.expected()))) }

// arrived notes how large the messages of a poll were.
func (b *bodies) arrived(ds []*delivery) {
	most := int64(0)
	for _, d := range ds {
		most = max(most, int64(len(d.Body)))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := time.Now(); most >= b.size || now.Sub(b.at) > expectation {
		b.size, b.at = most, now
	}
}

// room waits until there is room for n messages.
func (b *bodies) room(ctx context.Context, n int) error {
	bytes := min(int64(n)*b.expected(), maxBytesInFlight)
	if err := b.inFlight.Acquire(ctx, bytes); err != nil {
		return err
	}
	b.inFlight.Release(bytes)
	return nil
}

// poll is what one poll has taken of the bytes.
type poll struct {
	*bodies
	held int64
	next aws.HTTPClient
}

// hold makes the poll hold at least so many bytes. Those that it held are given back
// meanwhile: polls that wait for each other's would wait for ever.
func (p *poll) hold(ctx context.Context, bytes int64) error {
	if bytes = min(bytes, maxBytesInFlight); bytes <= p.held {
		return nil
	}
	p.inFlight.Release(p.held)
	p.held = 0
	if err := p.inFlight.Acquire(ctx, bytes); err != nil {
		return err
	}
	p.held = bytes
	return nil
}

// end ends a poll that brought messages: they hold the bytes that they have, until release.
func (p *poll) end(ctx context.Context, ds []*delivery) {
	p.arrived(ds)
	n := int64(bodyBytes(ds))
	if n > smallAnswer && n <= maxBytesInFlight && p.hold(ctx, n) == nil { // else it stops, and receives nothing more
		for _, d := range ds {
			d.bytes = int64(len(d.Body))
			p.held -= d.bytes
		}
	}
	p.inFlight.Release(p.held)
}

// release gives back the bytes of a message that is no longer in flight.
func (b *bodies) release(d *delivery) { b.inFlight.Release(d.bytes) }

// send takes bytes for a copy of a message, until done is called. Small ones are not
// counted.
func (b *bodies) send(ctx context.Context, d *delivery) (done func(), err error) {
	n := min(int64(len(d.Body)), maxBytesSent)
	if n <= smallBody {
		return func() {}, nil
	}
	if err := b.sent.Acquire(ctx, n); err != nil {
		return nil, err
	}
	return func() { b.sent.Release(n) }, nil
}

// watch has the answer of a poll's call wait for the bytes that it has.
func (p *poll) watch(o *sqs.Options) { p.next, o.HTTPClient = o.HTTPClient, p }

// Do implements aws.HTTPClient.
func (p *poll) Do(r *http.Request) (*http.Response, error) {
	answer, err := p.next.Do(r)
	if err != nil || answer.ContentLength >= 0 && answer.ContentLength <= smallAnswer {
		return answer, err
	}
	size := answer.ContentLength
	if size < 0 { // unknown
		size = maxBytesInFlight
	}
	if err := p.hold(r.Context(), size); err != nil {
		_ = answer.Body.Close()
		return nil, err
	}
	select {
	case <-p.reading:
	case <-r.Context().Done():
		_ = answer.Body.Close()
		return nil, context.Cause(r.Context())
	}
	answer.Body = &largeAnswer{answer.Body, sync.OnceFunc(func() { p.reading <- struct{}{} })}
	return answer, nil
}

// largeAnswer is the body of one.
type largeAnswer struct {
	io.ReadCloser
	done func()
}

// Close implements io.Closer.
func (a *largeAnswer) Close() error {
	a.done()
	return a.ReadCloser.Close()
}
