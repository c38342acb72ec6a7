package reencrypt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
)

const (
	// maxTries is how often an object that others write meanwhile is read and
	// decided again before it is left to the next pass.
	maxTries = 5
	// maxTransient is how many objects of a slice may fail for reasons that go away.
	// More of them mean that the service is failing, and the slice waits.
	maxTransient = 10
	// throttledWait is how long a slice waits that S3 or KMS throttles all the same.
	throttledWait = 30 * time.Second
	sampleSize    = 20
	// maxRows is how many rows are held before they are written.
	maxRows = 5000
)

// spec is what is moved, in a job as in Run.
type spec struct {
	Bucket   string   `json:"bucket"`
	Prefix   string   `json:"prefix"`
	From     []string `json:"from"`
	To       string   `json:"to"`
	Versions Versions `json:"versions"`
	Method   Method   `json:"method"`
	// Envelopes is never EnvelopesOff: that is "".
	Envelopes    Envelopes `json:"envelopes,omitempty"`
	RewriteFiles bool      `json:"rewrite_files,omitempty"`
}

// mover moves the objects of one slice.
type mover struct {
	spec
	e       *Engine
	rules   rules
	facts   facts
	limiter *limiter  // of the bucket
	rate    *throttle // of moves, and of what is asked of KMS
	dry     bool
	// gate is asked now and then whether to go on; its error ends the slice.
	gate func(context.Context) error
	keys sync.Map // what S3 calls a key → its ARN, "" where there is none
	// labels counts the aliases named by labels that were looked up.
	labels atomic.Int64
}

// verdict is what became of an object version.
type verdict struct {
	action  action
	reason  Reason // "" where it moved; where it moved in part, why not the rest
	failed  bool   // another try may succeed
	version string
	detail  string
	bytes   int64
	// format is that of the envelope that was found, "" for none.
	format string
	// rewrapped, where the envelope moved, is what later passes find S3's own encryption to be.
	rewrapped Reason
}

// result is what it counts as: moved, skipped, refused or failed.
func (v verdict) result() string {
	switch {
	case v.failed:
		return "failed"
	case v.action == skip:
		return "skipped"
	case v.action == refuse:
		return "refused"
	}
	return "moved"
}

// operationError says which operation an error is from, so that what is missing
// can be named.
type operationError struct {
	operation string
	err       error
}

func (e *operationError) Error() string { return e.operation + ": " + e.err.Error() }
func (e *operationError) Unwrap() error { return e.err }

func (e *Engine) newMover(ctx context.Context, s spec, dry bool, gate func(context.Context) error) (*mover, error) {
	if s.Bucket == e.opt.StateBucket {
		return nil, &stopError{"bucket " + s.Bucket + " is cmkeeper's own state bucket"}
	}
	method, err := e.methodOf(ctx, s)
	if err != nil {
		return nil, err
	}
	m, err := e.moverBy(ctx, s, method)
	if err != nil {
		return nil, err
	}
	m.dry, m.gate = dry, gate
	return m, nil
}

// moverBy returns a mover that decides, for a method.
func (e *Engine) moverBy(ctx context.Context, s spec, method method) (*mover, error) {
	if s.Envelopes != "" && e.opt.KMS == nil {
		return nil, errNoKMS
	}
	f, err := e.bucketFacts(ctx, s, method)
	if err != nil {
		return nil, err
	}
	return &mover{
		spec: s, e: e, facts: f, limiter: e.limiters.bucket(s.Bucket), rate: e.rate,
		rules: rules{from: s.From, to: s.To, method: method, defaultLock: f.defaultLock, maxCopy: e.opt.MaxCopySize, rewriteFiles: s.RewriteFiles, now: time.Now()},
	}, nil
}

// entries lists what is in scope after one key up to and including another.
func (m *mover) entries(ctx context.Context, after, through string) iter.Seq2[entry, error] {
	return m.e.entries(ctx, m.spec, m.facts.versioned && m.Versions == VersionsAll, after, through)
}

// run moves the entries, which are in scope, and counts them. Repeating it does no
// harm. It returns the cause of ctx when that ends.
func (m *mover) run(ctx context.Context, entries iter.Seq2[entry, error], t *tally) error {
	leave, err := m.rate.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	g, gctx := errgroup.WithContext(ctx)
	c := pool{g: g, work: make(chan func() error)}
	err = m.feed(gctx, c, entries, t)
	close(c.work)
	// Where an object failed, all that feed says is that it was cancelled.
	if first := g.Wait(); first != nil {
		err = first
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// pool is goroutines that are kept from one object to the next: the stack that a
// call of the SDK needs is grown once for each of them, and not for each object.
type pool struct {
	g    *errgroup.Group
	work chan func() error
}

// do gives the task to a free goroutine, or to a new one.
func (c pool) do(task func() error) {
	select {
	case c.work <- task:
	default:
		c.g.Go(func() error {
			for ok := true; ok; task, ok = <-c.work {
				if err := task(); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// feed gives the entries to the pool, each when the bucket's limiter admits one more
// and there is a slot. The limiter comes first: a bucket with a low limit must not
// hold slots while it waits.
func (m *mover) feed(ctx context.Context, c pool, entries iter.Seq2[entry, error], t *tally) error {
	for en, err := range entries {
		if err == nil {
			err = m.gate(ctx)
		}
		if err != nil {
			return err
		}
		count, err := t.expect(ctx, en)
		if err != nil {
			return err
		}
		if en.deleteMarker { // nothing is asked of anybody
			v := verdict{action: skip, reason: ReasonDeleteMarker}
			m.e.opt.Meter.Object(v.result(), 0)
			if err := count(ctx, v); err != nil {
				return err
			}
			continue
		}
		if err := m.enter(ctx); err != nil {
			return err
		}
		c.do(func() error {
			defer m.leave()
			v, err := m.object(ctx, en)
			if err != nil {
				return fmt.Errorf("re-encrypt %q in %s: %w", en.key, m.Bucket, err)
			}
			m.e.opt.Meter.Object(v.result(), v.bytes)
			return count(ctx, v)
		})
	}
	return ctx.Err()
}

// enter waits until one more object may be worked on; leave counts it out again.
func (m *mover) enter(ctx context.Context) error {
	if err := m.limiter.enter(ctx); err != nil {
		return err
	}
	select {
	case m.e.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		m.limiter.leave()
		return ctx.Err()
	}
}

// tryEnter enters where that needs no waiting.
func (m *mover) tryEnter() bool {
	if !m.limiter.tryEnter() {
		return false
	}
	select {
	case m.e.slots <- struct{}{}:
		return true
	default:
		m.limiter.leave()
		return false
	}
}

func (m *mover) leave() {
	<-m.e.slots
	m.limiter.leave()
}

// patiently calls f until it is not throttled, with waits between; what it returns
// in the end says so with errBusy. The place among those at work is kept: a bucket
// that throttles gets nothing new to do instead.
func (m *mover) patiently(ctx context.Context, f func() error) error {
	for n := 0; ; n++ {
		err := m.limiter.try(f)
		switch {
		case err == nil, classify(err) != faultThrottled, errors.Is(err, errBusy):
			return err
		}
		m.e.opt.Meter.Throttled()
		if n == maxThrottled {
			return fmt.Errorf("%w: %w", errBusy, err)
		}
		if err := rest(ctx, n); err != nil {
			return err
		}
	}
}

// object decides what to do with an object version and does it. Its errors end
// the slice.
func (m *mover) object(ctx context.Context, en entry) (verdict, error) {
	for range maxTries {
		var v verdict
		err := m.patiently(ctx, func() (err error) {
			v, err = m.try(ctx, en) // from the start: what HEAD said before a wait is old
			return err
		})
		switch {
		case err == nil && v.reason != "" && ctx.Err() != nil: // a call that was broken off may read as a refusal
			return v, ctx.Err()
		case err == nil || ctx.Err() != nil:
			return v, err
		case errors.Is(err, errDiffers):
			return verdict{reason: ReasonDiffers, failed: true, version: en.version, detail: err.Error()}, nil
		}
		e, ok := errors.AsType[*operationError](err)
		if !ok { // nothing that S3 says of this object
			return v, err
		}
		operation := e.operation
		switch classify(err) {
		case faultChanged:
			continue
		case faultGone:
			return verdict{action: skip, reason: ReasonGone}, nil
		case faultThrottled:
			return v, outcome.RetryAfter(throttledWait, err)
		case faultDenied, faultNoBucket:
			return v, bucketError(operation, m.Bucket, err)
		case faultKey:
			return verdict{action: refuse, reason: ReasonKeyUnusable, version: en.version, detail: words(err)}, nil
		case faultArchived:
			return verdict{action: refuse, reason: ReasonArchived, version: en.version, detail: words(err)}, nil
		case faultTransient:
			return verdict{reason: ReasonError, failed: true, version: en.version, detail: operation + ": " + words(err)}, nil
		default:
			return verdict{action: refuse, reason: ReasonRejected, version: en.version, detail: operation + ": " + words(err)}, nil
		}
	}
	return verdict{reason: ReasonChanging, failed: true, version: en.version, detail: fmt.Sprintf("changed %d times between reading and writing", maxTries)}, nil
}

// try is one reading, decision and action. Errors that are about the object are,
// or wrap, an operationError or errDiffers.
func (m *mover) try(ctx context.Context, en entry) (verdict, error) {
	h, err := m.head(ctx, en.key, en.version, m.rules.method.traits().checksums == yes)
	switch {
	case err != nil && classify(err) == faultRejected:
		return verdict{action: refuse, reason: ReasonUnreadableHead, version: en.version, detail: "HEAD answers " + words(err) + ", as it does for SSE-C"}, nil
	case err != nil && classify(err) == faultUnsupported: // 405: a delete marker
		return verdict{action: skip, reason: ReasonDeleteMarker}, nil
	case err != nil:
		return verdict{}, err
	}
	if m.facts.versioned { // pin what HEAD saw
		en.version = cmp.Or(aws.ToString(h.VersionId), en.version)
	}
	en.sees(h)
	o, err := m.describe(ctx, en, h)
	if err != nil {
		return verdict{}, err
	}
	d := decide(o, m.rules)
	if d.action.moves() {
		if err := m.rules.method.examine(ctx, m, en, h, &o); err != nil {
			return verdict{}, err
		}
		d = decide(o, m.rules)
	}
	v := verdict{action: d.action, reason: d.reason, version: en.version, bytes: o.size}
	s, err := m.sealed(ctx, en, h, o, d)
	if err != nil {
		return verdict{}, err
	}
	defer s.free()
	if s.action.moves() {
		if h, err = m.examineSealed(ctx, &en, h, &o, &s); err != nil {
			return verdict{}, err
		}
	}
	v.add(s, o, d)
	if m.dry || !v.action.moves() {
		return v, nil
	}
	if !s.asked {
		if err := m.rate.wait(ctx); err != nil {
			return v, err
		}
	}
	if err := m.gate(ctx); err != nil { // the wait may have been long
		return v, err
	}
	if s.action.moves() {
		err := m.reseal(ctx, en, h, o, d, s)
		if err != nil && !d.action.moves() && classify(err) == faultDenied {
			// Its own key need not be one that we may use: that stops nothing else.
			s.refuse(ReasonRejected, "its data key stays under the old key: %s", words(err))
			v = verdict{action: skip, version: en.version}
			v.add(s, o, d)
			err = nil
		}
		return v, err
	}
	return v, m.rules.method.move(ctx, m, en, h, o, d.action)
}

func wrap(operation string, err error) error {
	if err == nil {
		return nil
	}
	return &operationError{operation, err}
}

// sees takes the algorithm of the checksum from HEAD: the object may have been written
// again since it was listed.
func (en *entry) sees(h *s3.HeadObjectOutput) {
	if shown := checksumOf(h); shown != "" {
		en.checksum = shown
	}
}

// head reads an object version's facts, with its checksum where one is to be compared; that
// needs the object's key to be usable, so a refusal is asked again without.
func (m *mover) head(ctx context.Context, key, version string, checksum bool) (*s3.HeadObjectOutput, error) {
	in := &s3.HeadObjectInput{Bucket: &m.Bucket, Key: &key, VersionId: optional(version), ExpectedBucketOwner: &m.e.opt.Account}
	if checksum {
		in.ChecksumMode = types.ChecksumModeEnabled
	}
	h, err := m.e.opt.S3.HeadObject(ctx, in, m.e.throttlesBack)
	if err != nil && in.ChecksumMode != "" && (classify(err) == faultDenied || classify(err) == faultRejected) {
		in.ChecksumMode = ""
		h, err = m.e.opt.S3.HeadObject(ctx, in, m.e.throttlesBack)
	}
	if err != nil {
		return nil, &operationError{"HeadObject", err}
	}
	return h, nil
}

// describe turns a listing's entry and HEAD's answer into what decide looks at.
func (m *mover) describe(ctx context.Context, en entry, h *s3.HeadObjectOutput) (object, error) {
	keyARN := ""
	if h.SSEKMSKeyId != nil {
		var err error
		if keyARN, err = m.resolve(ctx, *h.SSEKMSKeyId); err != nil {
			return object{}, err
		}
	}
	return object{
		latest: en.latest, size: aws.ToInt64(h.ContentLength),
		encryption: string(h.ServerSideEncryption), keyARN: keyARN,
		storageClass: string(h.StorageClass), archived: h.ArchiveStatus != "", restore: aws.ToString(h.Restore),
		retention: h.ObjectLockMode != "", retainUntil: aws.ToTime(h.ObjectLockRetainUntilDate),
		held:           h.ObjectLockLegalHoldStatus == types.ObjectLockLegalHoldStatusOn || h.ObjectLockEventHold == types.ObjectLockEventHoldOn,
		hiddenMetadata: aws.ToInt32(h.MissingMeta) > 0 || !resendable(h.Metadata),
	}, nil
}

// resolve returns the ARN of the key that S3 names, "" where KMS knows no such
// key. S3 itself always names the ARN; some servers repeat whatever they were
// given.
func (m *mover) resolve(ctx context.Context, name string) (string, error) {
	if arn, ok := m.keys.Load(name); ok {
		return arn.(string), nil
	}
	arn, err := m.e.opt.Resolver.Resolve(ctx, name)
	if errors.Is(err, inventory.ErrNotFound) {
		arn, err = "", nil
	}
	if err != nil {
		return "", &operationError{"resolve key", err}
	}
	m.keys.Store(name, arn)
	return arn, nil
}

// tally counts what a slice does. It is safe for concurrent use.
type tally struct {
	mu     sync.Mutex
	counts Counts
	sample []Refusal
	rows   []Refusal
	// transient counts the failures that may go away.
	transient int
	// spill takes rows away when there are many; it is never called concurrently.
	spill func(ctx context.Context, rows []Refusal) error
	// changed, where not nil, is called with the counts; never concurrently.
	changed func(Counts)
	// order, where not nil, has entries counted in the order in which they are expected.
	order *order
}

// expect announces the next entry of the listing and returns how it is counted.
func (t *tally) expect(ctx context.Context, en entry) (count func(context.Context, verdict) error, err error) {
	if t.order == nil {
		return func(ctx context.Context, v verdict) error { return t.add(ctx, en, v) }, nil
	}
	turn, err := t.order.next(ctx, en)
	return func(ctx context.Context, v verdict) error { return t.order.done(ctx, turn, v) }, err
}

func (t *tally) add(ctx context.Context, en entry, v verdict) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := Counts{Scanned: 1}
	switch {
	case v.failed:
		c.Failed = 1
		if v.reason != ReasonDiffers {
			t.transient++
		}
	case v.action == skip:
		c.Skipped = 1
	case v.action == refuse:
		c.Refused = 1
	default:
		c.Moved, c.Bytes = 1, v.bytes
		if v.reason != "" {
			c.Partly = 1
		}
	}
	t.counts.add(c)
	count(&t.counts.ByReason, v.reason, 1)
	count(&t.counts.Envelopes, v.format, 1)
	count(&t.counts.Rewrapped, v.rewrapped, 1)
	if t.changed != nil {
		t.changed(t.counts)
	}
	if c.Failed+c.Refused+c.Partly > 0 {
		row := Refusal{Key: en.key, Version: v.version, Reason: v.reason, Detail: v.detail}
		t.rows = append(t.rows, row)
		if len(t.sample) < sampleSize {
			t.sample = append(t.sample, row)
		}
	}
	if t.transient > maxTransient {
		return fmt.Errorf("%d objects failed, the last one with: %s", t.transient, v.detail)
	}
	if len(t.rows) >= maxRows {
		return t.flush(ctx)
	}
	return nil
}

// flush spills the rows that are held. The caller holds mu, or is alone.
func (t *tally) flush(ctx context.Context) error {
	if len(t.rows) == 0 {
		return nil
	}
	rows := t.rows
	t.rows = nil
	return t.spill(ctx, rows)
}
