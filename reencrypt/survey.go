package reencrypt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

// Survey says what is in a bucket, by key.
type Survey struct {
	// Listed is how many object versions there are, without delete markers, and Read
	// how many of them were asked for their key. Where Read is less, it was a random
	// sample and the groups are scaled up from it.
	Listed int64 `json:"listed"`
	Read   int64 `json:"read"`
	// Groups are sorted, the largest first.
	Groups []Group `json:"groups"`
}

// Group are the object versions of a survey that have everything here in common.
type Group struct {
	// Key is the ARN of their KMS key, "" where they have none or none that is known.
	Key string `json:"key,omitempty"`
	// Encryption is S3's name of it: "", AES256, aws:kms or aws:kms:dsse.
	Encryption   string `json:"encryption,omitempty"`
	StorageClass string `json:"storage_class"`
	// Lock is "", "retention" (that is not over) or "hold".
	Lock string `json:"lock,omitempty"`
	// Size is a class of sizes: see sizeClass.
	Size string `json:"size"`
	// Action is what a move does with them: skip, refuse, or the method's way to move
	// them (update, copy, copy-parts).
	Action string `json:"action"`
	// Reason is why they are skipped or refused; of those that move, why their data keys do not.
	Reason Reason `json:"reason,omitempty"`
	// Envelope is the format of client-side encryption that was found in them; "" is none,
	// or that it was not looked for. Sealed: a data key in them is under a key to move from
	// (of Engine.Survey: the key that it is about), or nobody can say.
	Envelope string `json:"envelope,omitempty"`
	Sealed   bool   `json:"sealed,omitempty"`
	// Unsure, of what is Sealed: nobody can say. Reason has why.
	Unsure bool `json:"unsure,omitempty"`

	Versions int64 `json:"versions"`
	Bytes    int64 `json:"bytes"`
}

// Survey reads which keys a bucket's object versions are under, all of them, and
// writes nothing. In a Group that is under keyARN the reason is ReasonOnTarget. envelopes
// is where data keys under keyARN are looked for, of which Sealed tells. seen, where not
// nil, is called now and then with how many were read.
func (e *Engine) Survey(ctx context.Context, scope Scope, keyARN string, envelopes Envelopes, seen func(int64)) (Survey, error) {
	if envelopes.On() && e.opt.KMS == nil {
		return Survey{}, errNoKMS
	}
	versioned, err := e.versioned(ctx, scope.Bucket)
	if err != nil {
		return Survey{}, err
	}
	m := &mover{
		spec: spec{Bucket: scope.Bucket, Prefix: scope.Prefix, From: []string{keyARN}, Versions: VersionsAll, Envelopes: envelopes.orNone()},
		e:    e, facts: facts{versioned: versioned}, limiter: e.limiters.bucket(scope.Bucket), rules: rules{to: keyARN, method: updateMethod{}, maxCopy: e.opt.MaxCopySize, now: time.Now()},
	}
	return m.survey(ctx, 0, seen)
}

// survey reads the scope, or a random sample of it where sample is not 0, at the
// rate that the bucket takes. What it asks KMS is bounded by the engine's rate, of which it
// takes nothing from the fleet.
func (m *mover) survey(ctx context.Context, sample int, seen func(int64)) (Survey, error) {
	var s Survey
	m.rate = newThrottle(m.e.opt.Rate, func(context.Context) (int, error) { return 0, nil })
	leave, err := m.rate.enter(ctx)
	if err != nil {
		return s, err
	}
	defer leave()
	count := &census{groups: map[Group]*Group{}, seen: seen}
	g, gctx := errgroup.WithContext(ctx)
	err = m.visit(gctx, g, sample, &s.Listed, count)
	if first := g.Wait(); first != nil { // then all that visit says is that it was cancelled
		err = first
	}
	switch {
	case ctx.Err() != nil:
		return s, context.Cause(ctx)
	case err != nil:
		return s, err
	}
	s.Read, s.Groups = count.read, count.scaled(s.Listed)
	return s, nil
}

// visit counts what is listed, and has all of it or a sample read.
func (m *mover) visit(ctx context.Context, g *errgroup.Group, sample int, listed *int64, count *census) error {
	read := func(en entry) error {
		if err := m.enter(ctx); err != nil {
			return err
		}
		g.Go(func() error {
			defer m.leave()
			group, size, err := m.classify(ctx, en)
			if err != nil {
				return err
			}
			return count.add(group, size)
		})
		return nil
	}
	var chosen []entry
	for en, err := range m.entries(ctx, "", "") {
		switch {
		case err != nil:
			return err
		case en.deleteMarker:
			continue
		case sample == 0:
			if err := read(en); err != nil {
				return err
			}
		case len(chosen) < sample:
			chosen = append(chosen, en)
		default: // each of those listed so far stays with the same chance
			if i := rand.Int64N(*listed + 1); i < int64(sample) {
				chosen[i] = en
			}
		}
		*listed++
	}
	for _, en := range chosen {
		if err := read(en); err != nil {
			return err
		}
	}
	return nil
}

// classify reads an object version and says in which group it is. One that was
// deleted meanwhile is skipped as gone, and one that could not be read is refused
// as an error.
func (m *mover) classify(ctx context.Context, en entry) (Group, int64, error) {
	group := Group{StorageClass: string(types.StorageClassStandard), Size: sizeClass(0), Action: string(skip)}
	var h *s3.HeadObjectOutput
	var o object
	var d decision
	s := sealed{free: func() {}}
	look := func() (err error) {
		if h, err = m.head(ctx, en.key, en.version, false); err != nil {
			return err
		}
		if o, err = m.describe(ctx, en, h); err != nil {
			return err
		}
		d = decide(o, m.rules)
		s, err = m.sealed(ctx, en, h, o, d)
		s.free()
		return err
	}
	err := m.patiently(ctx, look)
	for n := 1; err != nil && classify(err) == faultChanged && n < maxTries; n++ { // what is there now may be under the key
		err = m.patiently(ctx, look)
	}
	if err != nil {
		failed, ok := errors.AsType[*operationError](err)
		if !ok || failed.operation == "resolve key" { // nothing that S3 says of this object
			return group, 0, err
		}
		switch classify(err) {
		case faultGone:
			group.Reason = ReasonGone
			return group, 0, nil
		case faultUnsupported:
			group.Reason = ReasonDeleteMarker
			return group, 0, nil
		case faultRejected:
			group.Action, group.Reason = string(refuse), ReasonUnreadableHead
			return group, 0, nil
		case faultTransient, faultChanged:
			group.Action, group.Reason = string(refuse), ReasonError
			return group, 0, ctx.Err() // which reads as one, too
		default:
			return group, 0, bucketError(failed.operation, m.Bucket, err)
		}
	}
	v := verdict{action: d.action, reason: d.reason}
	v.add(s, o, d)
	group.Key, group.Encryption, group.Action, group.Reason = o.keyARN, o.encryption, string(v.action), v.reason
	group.Envelope, group.Sealed, group.Unsure = v.format, s.holds, s.holds && !s.proved
	group.StorageClass, group.Size = cmp.Or(o.storageClass, group.StorageClass), sizeClass(o.size)
	switch {
	case o.held:
		group.Lock = "hold"
	case o.retention && o.retainUntil.After(m.rules.now):
		group.Lock = "retention"
	}
	return group, o.size, nil
}

// sizeClass names the class of a size: what S3 bills a minimum for, what one copy
// can move, and what only an update or a copy in parts can.
func sizeClass(size int64) string {
	switch {
	case size < 128<<10:
		return "< 128 KiB"
	case size < 64<<20:
		return "< 64 MiB"
	case size <= 5<<30:
		return "<= 5 GiB"
	}
	return "> 5 GiB"
}

// census counts groups. It is safe for concurrent use.
type census struct {
	mu     sync.Mutex
	read   int64
	groups map[Group]*Group // by themselves, without numbers
	seen   func(int64)
}

// add counts an object version. Its error says that the service is failing: too
// many could not be read.
func (c *census) add(g Group, size int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := c.groups[g]
	if sum == nil {
		sum = new(g)
		c.groups[g] = sum
	}
	sum.Versions++
	sum.Bytes += size
	if c.read++; c.seen != nil && c.read%100 == 0 {
		c.seen(c.read)
	}
	if g.Reason == ReasonError && sum.Versions > maxTransient {
		return fmt.Errorf("%d object versions could not be read, because the service failed", sum.Versions)
	}
	return nil
}

// scaled returns the groups as parts of all that was listed.
func (c *census) scaled(listed int64) []Group {
	groups := make([]Group, 0, len(c.groups))
	for _, g := range c.groups {
		scaled := *g
		if c.read < listed {
			factor := float64(listed) / float64(c.read)
			scaled.Versions, scaled.Bytes = int64(float64(g.Versions)*factor+0.5), int64(float64(g.Bytes)*factor+0.5)
		}
		groups = append(groups, scaled)
	}
	slices.SortFunc(groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(b.Versions, a.Versions), cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Key, b.Key), cmp.Compare(a.StorageClass, b.StorageClass), cmp.Compare(a.Size, b.Size), cmp.Compare(a.Lock, b.Lock), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Envelope, b.Envelope))
	})
	return groups
}
