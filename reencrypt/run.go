package reencrypt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/inventory"
)

// RunOptions says what Run moves.
type RunOptions struct {
	// Bucket and Prefix are the scope; "" is the whole bucket.
	Bucket, Prefix string
	// From are the keys to move from and To the key to move to: ids, ARNs or aliases.
	From []string
	To   string
	// Versions is which versions; "" is VersionsAll.
	Versions Versions
	// Method is how; "" is MethodAuto.
	Method Method
	// Envelopes is which data keys of client-side encryption are moved too; "" is none.
	// RewriteFiles says that an object may be written anew for that, up to
	// clientside.MaxBody bytes, where its body holds them: SOPS and Tink, messages of
	// package envelope, ciphertexts of KMS. It needs EnvelopesContent.
	Envelopes    Envelopes
	RewriteFiles bool
	// DryRun decides and counts and changes nothing in the bucket. (A
	// Method that is Probed still puts its scratch object in the state bucket.)
	DryRun bool
	// Row, where not nil, is given each object version that a pass refuses or fails
	// to move; never concurrently. The rows of the last pass are the outcome, and
	// those with ReasonDiffers of every pass.
	Row func(pass int, r Refusal)
}

// Progress is how far Run is.
type Progress struct {
	// Pass counts from 1. The last pass is the one that moves nothing.
	Pass int
	// Counts are those of this pass, without those by name.
	Counts
}

// Run moves one bucket in this process, without queues: it goes through the scope
// until a pass finds nothing left to move. progress, where not nil, is called
// after each object version and never concurrently.
//
// The summary says how far it came also where there is an error. Its State is
// StateComplete; StateStopped where the error is about the whole bucket (a missing
// permission, an unusable method) or where objects keep being written under an old
// key; and StateRunning where it can simply be run again (ctx is over, the service
// failed, or it was a dry run).
func (e *Engine) Run(ctx context.Context, o RunOptions, progress func(Progress)) (Summary, error) {
	sum := Summary{Bucket: o.Bucket, Prefix: o.Prefix, State: StateRunning, Started: time.Now()}
	s, err := e.resolveSpec(ctx, o)
	if err != nil {
		return sum, err
	}
	sum.From, sum.To, sum.EnvelopesIn, sum.RewriteFiles = s.From, s.To, s.Envelopes, s.RewriteFiles
	m, err := e.newMover(ctx, s, o.DryRun, func(context.Context) error { return nil })
	if err != nil {
		return stopped(sum, err), fmt.Errorf("re-encrypt bucket %s: %w", s.Bucket, err)
	}
	var before Counts
	for pass := 1; ; pass++ {
		t := &tally{spill: func(_ context.Context, rows []Refusal) error {
			if o.Row != nil {
				for _, r := range rows {
					o.Row(pass, r)
				}
			}
			return nil
		}}
		if progress != nil {
			t.changed = func(c Counts) { c.ByReason, c.Rewrapped, c.Envelopes = nil, nil, nil; progress(Progress{pass, c}) }
		}
		m.rules.now = time.Now()
		err := m.run(ctx, m.entries(ctx, "", ""), t)
		if err == nil {
			err = t.flush(ctx)
		}
		sum.Passes, sum.Counts, sum.Sample, sum.Finished = pass, withEarlier(t.counts, before), t.sample, time.Now()
		sum.Notes = spec{Method: m.rules.method.traits().name}.notes(sum.Counts)
		switch {
		case err != nil:
			return stopped(sum, err), fmt.Errorf("re-encrypt bucket %s: %w", s.Bucket, err)
		case o.DryRun:
			return sum, nil
		}
		switch next, cause := afterPass(pass, t.counts, false); next {
		case StateComplete:
			sum.State = StateComplete
			return sum, nil
		case StateStopped:
			sum.State, sum.Cause = StateStopped, cause
			return sum, fmt.Errorf("re-encrypt bucket %s: %s", s.Bucket, cause)
		default:
			before = carry(before, t.counts)
		}
	}
}

// resolveSpec checks Run's options and names its keys by their ARNs.
func (e *Engine) resolveSpec(ctx context.Context, o RunOptions) (spec, error) {
	if o.To == "" {
		return spec{}, errNeeds
	}
	to, err := e.resolveKey(ctx, o.To)
	if err != nil {
		return spec{}, fmt.Errorf("find key to move to: %w", err)
	}
	s, err := e.resolveSource(ctx, o)
	s.To = to
	if err == nil && slices.Contains(s.From, to) {
		err = fmt.Errorf("%s is a key to move from and the one to move to: %s", o.To, to)
	}
	return s, err
}

var errNeeds = errors.New("a bucket, a key to move from and a key to move to are needed")

// resolveSource is resolveSpec without the key to move to.
func (e *Engine) resolveSource(ctx context.Context, o RunOptions) (spec, error) {
	s := spec{Bucket: o.Bucket, Prefix: o.Prefix, Versions: cmp.Or(o.Versions, VersionsAll), Method: cmp.Or(o.Method, MethodAuto), Envelopes: o.Envelopes.orNone(), RewriteFiles: o.RewriteFiles}
	if s.Bucket == "" || len(o.From) == 0 {
		return s, errNeeds
	}
	if err := checkChoices(s); err != nil {
		return s, err
	}
	for _, from := range o.From {
		arn, err := e.resolveKey(ctx, from)
		if err != nil {
			return s, fmt.Errorf("find key to move from: %w", err)
		}
		s.From = append(s.From, arn)
	}
	slices.Sort(s.From)
	s.From = slices.Compact(s.From)
	return s, nil
}

// resolveKey returns the ARN of a key that somebody named.
func (e *Engine) resolveKey(ctx context.Context, name string) (string, error) {
	arn, err := e.opt.Resolver.Resolve(ctx, name)
	if err != nil && !errors.Is(err, inventory.ErrNotFound) {
		err = fmt.Errorf("%w; where KMS cannot be asked, name the key by its ARN, arn:aws:kms:REGION:ACCOUNT:key/ID", err)
	}
	return arn, err
}

// stopped puts into a summary that its run or job cannot go on, where err says so.
func stopped(s Summary, err error) Summary {
	if e, ok := errors.AsType[*stopError](err); ok {
		s.State, s.Cause = StateStopped, e.cause
	}
	s.Finished = time.Now()
	return s
}
