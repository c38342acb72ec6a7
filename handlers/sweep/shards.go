package sweep

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// message is a message of the fleet's to itself: a shard of a sweep is due. It holds
// nothing but their ids. It has the form of an event, so that a former build, which knows
// no shards, ignores it.
type message struct {
	DetailType string `json:"detail-type"`
	Source     string `json:"source"`
	ID         string `json:"id"` // run/shard
	Account    string `json:"account"`
	Region     string `json:"region"`
	Time       string `json:"time"`
}

const (
	shardDetailType = "cmkeeper shard"
	// shardRolling is the shard that reads grants and tags.
	shardRolling = "rolling"
	// shardReview is the one that reviews who may use the keys. A former build ignores it.
	shardReview = "review"
	// longestSendDelay is the longest that SQS offers.
	longestSendDelay = outcome.MaxDelay
)

// messageOf recognises such a message.
func messageOf(body []byte) (m message, ok bool) {
	if !bytes.Contains(body, []byte(`"`+shardDetailType+`"`)) || json.Unmarshal(body, &m) != nil {
		return message{}, false
	}
	return m, m.DetailType == shardDetailType
}

// sendShard sends the message of a shard.
func (s Sweep) sendShard(ctx context.Context, shard string, after time.Duration) error {
	c := s.Config
	body, err := json.Marshal(message{DetailType: shardDetailType, Source: "cmkeeper", ID: s.run + "/" + shard, Account: c.Identity.Account, Region: c.Region, Time: s.Start.Format(time.RFC3339)})
	if err != nil {
		return err
	}
	if err := s.Send(ctx, string(body), min(after, longestSendDelay)); err != nil {
		return fmt.Errorf("send shard %s of a sweep: %w", shard, err)
	}
	return nil
}

// begin lists the account, and does the sweep where it is small, or where there is nobody
// to share it with. Else it cuts it into shards: shared. unread is what cannot be read
// already; nil for nothing.
func (s Sweep) begin(ctx context.Context, unread error) (shared bool, err error) {
	s.Logger.InfoContext(ctx, "sweep began", "run", s.run)
	keys, aliases, err := s.list(s.paced(ctx, paceOfPlan))
	shards := ledger.Shards(len(keys), s.Config.SweepShard)
	if err != nil || unread != nil || shards == 1 || s.Send == nil {
		return false, s.alone(ctx, keys, aliases, errors.Join(s.Skip(unread), err))
	}
	s.Whole = nil // it holds all aliases once more
	perSecond, _ := s.rateOf(paceOfShard, "GetKeyPolicy")
	step := time.Duration(float64(len(keys)) / float64(shards) / perSecond * float64(time.Second))
	plan := ledger.NewSweepPlan(s.Start, shards, step)
	plan.Totals = s.sum() // the requests until here
	type numbered struct {
		n    int
		work ledger.Shard
	}
	var all []numbered
	for n, work := range cut(keys, aliases, shards) {
		all = append(all, numbered{n, work})
	}
	err = reaction.Each(ctx, all, func(ctx context.Context, one numbered) error {
		_, err := s.State.Put(ctx, ledger.ShardName(s.run, one.n), &one.work, "")
		return err
	})
	if err == nil {
		err = s.update(ctx, func(f *ledger.Sweeps, now time.Time) bool { return f.Cut(s.run, plan, now) })
	}
	if err != nil {
		return false, fmt.Errorf("cut the sweep into shards: %w", err)
	}
	for n := range shards + 1 {
		if err := s.sendShard(ctx, strconv.Itoa(n), plan.Due(n)); err != nil {
			s.Logger.WarnContext(ctx, "a shard is done later", "error", err) // by whoever asks for the next sweep
		}
	}
	return true, nil
}

// taking is what a worker has taken of a sweep.
type taking struct {
	by string
	// mine: it has a shard; ends: it has what is done once, at the end.
	mine, ends bool
	run        string
	shard      int
	permit     int
	plan       ledger.SweepPlan
	wait       time.Duration
	busy       error // the worker has no slot for a shard
	leave      func()
}

// release leaves the slot.
func (t *taking) release() {
	if t.leave != nil {
		t.leave()
	}
	t.leave = nil
}

// take takes a shard of a run for this worker, if it has a slot for it, or the end of the
// run. It reports whether the document was changed.
func (f *Fleet) take(s *ledger.Sweeps, t *taking, run string, shard int, now time.Time) bool {
	t.mine, t.ends, t.wait = false, false, 0
	if s.TakeEnd(run, t.by, now) {
		t.ends, t.run, t.plan = true, run, *s.Plan
		return true
	}
	taken := s.TakeShard(run, shard, t.by, now)
	if t.wait = taken.Wait; !taken.Mine {
		return false
	}
	if t.leave == nil {
		if t.leave, t.busy = f.EnterShard(); t.busy != nil {
			return false
		}
	}
	t.mine, t.run, t.shard, t.permit, t.plan = true, run, shard, taken.Permit, *s.Plan
	return true
}

// help takes what of the sweep that runs is overdue.
func (f *Fleet) help(s *ledger.Sweeps, t *taking, now time.Time) bool {
	shard, stale := s.StaleShard(now)
	if !stale {
		shard = -1 // the end, if that is left
	}
	return f.take(s, t, s.Run, shard, now)
}

// Shard does what the message of a shard asks for; handled is false for any other message.
// The error says what becomes of the message, per package outcome. A shard that is unknown,
// done, or of another sweep than the one that runs costs one read.
func (f *Fleet) Shard(ctx context.Context, body []byte) (handled bool, err error) {
	m, ok := messageOf(body)
	if !ok {
		return false, nil
	}
	return true, f.shardOf(ctx, m)
}

func (f *Fleet) shardOf(ctx context.Context, m message) error {
	run, name, _ := strings.Cut(m.ID, "/")
	switch name {
	case shardRolling:
		return f.roll(ctx, run)
	case shardReview:
		return f.review(ctx, run)
	}
	shard, err := strconv.Atoi(name)
	if err != nil {
		return nil //nolint:nilerr // no shard has that name
	}
	t := &taking{by: rand.Text()}
	err = f.update(ctx, func(s *ledger.Sweeps, now time.Time) bool { return f.take(s, t, run, shard, now) })
	if err != nil || !t.mine {
		t.release()
	}
	switch {
	case err != nil:
		return fmt.Errorf("take shard: %w", err)
	case t.mine || t.ends:
		_, err = f.work(ctx, t)
		return err
	case t.busy != nil:
		return t.busy
	case t.wait > 0:
		return outcome.RetryAfter(t.wait, errors.New("the shard is not free, or as many are worked on as may be"))
	}
	return nil
}

// work does what was taken. failures is how many sweeps in a row have failed, where this
// one has.
func (f *Fleet) work(ctx context.Context, t *taking) (failures int, err error) {
	if t.mine {
		defer t.release()
		if err := f.workShard(ctx, t); err != nil {
			return 0, err
		}
	}
	if t.ends {
		return f.endShards(ctx, t)
	}
	return 0, nil
}

// errLost says that another worker has a shard by now.
var errLost = errors.New("another worker has the shard by now")

// workShard looks at the shard, and notes what came of it. Where it was the last one, the
// end is taken with it.
func (f *Fleet) workShard(ctx context.Context, t *taking) error {
	working, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := f.renew(working, ledger.SweepRenewal, func(s *ledger.Sweeps, now time.Time) bool {
		still := s.RenewShard(t.run, t.shard, t.by, now)
		if !still {
			cancel(errLost)
		}
		return still
	})
	s := f.newSweep(t.run, t.plan.Began)
	s.resumes, s.leave = true, f.leaver()
	err := s.Skip(s.lookAt(s.paced(working, paceOfShard), t.shard, t.plan.Shards))
	stop()
	return f.shardEnded(ctx, working, t, s, err)
}

// lookAt looks at a shard of keys, or at the buckets.
func (s Sweep) lookAt(ctx context.Context, shard, of int) error {
	if shard == of {
		return s.looks.Buckets(ctx, s)
	}
	var work ledger.Shard
	if _, err := s.State.Get(ctx, ledger.ShardName(s.run, shard), &work); err != nil {
		return fmt.Errorf("read shard %d: %w", shard, err)
	}
	return s.shard(ctx, work, shard, of)
}

// fewSlots is how many slots a worker has whose quarter would be less than one, and
// shortTurn how long it works on a shard at a time.
const (
	fewSlots  = 4
	shortTurn = 5 * time.Second
)

// leaver says when a shard is to be left: when events need the worker, and where it has so
// few slots that a shard takes up more than its part, every few seconds.
func (f *Fleet) leaver() func() bool {
	began := time.Now()
	return func() bool {
		return f.EventsWait() || f.Config.Concurrency > 0 && f.Config.Concurrency < fewSlots && time.Since(began) > shortTurn
	}
}

// shardEnded notes what came of a shard. The error says what becomes of its message.
func (f *Fleet) shardEnded(ctx, working context.Context, t *taking, s Sweep, err error) error {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	totals, left := s.sum(), errors.Is(err, errLeft) || context.Cause(working) != nil
	var wait time.Duration
	unrecorded := f.update(bounded, func(f *ledger.Sweeps, now time.Time) bool {
		switch wait = 0; {
		case left:
			wait = time.Second
			f.YieldShard(t.run, t.shard, t.by, totals, wait, now)
		case err != nil:
			wait = f.FailShard(t.run, t.shard, t.by, totals, now)
		default:
			f.DoneShard(t.run, t.shard, totals, now)
		}
		if t.ends = wait == 0 && f.TakeEnd(t.run, t.by, now); t.ends {
			t.plan = *f.Plan
		}
		return true
	})
	switch {
	case unrecorded != nil:
		return fmt.Errorf("record the end of a shard: %w", unrecorded)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case left:
		return outcome.RetryAfter(wait, fmt.Errorf("shard %d of a sweep is left: %w", t.shard, err))
	case wait > 0:
		f.Logger.WarnContext(ctx, "a shard of a sweep failed", "run", t.run, "shard", t.shard, "error", err, "again_in", wait)
		return outcome.RetryAfter(wait, fmt.Errorf("shard %d of a sweep: %w", t.shard, err))
	case err != nil:
		f.Logger.ErrorContext(ctx, "a shard of a sweep failed and is given up", "run", t.run, "shard", t.shard, "error", err)
	}
	return nil
}

// endShards does what is done once, after all shards, and records the sweep.
func (f *Fleet) endShards(ctx context.Context, t *taking) (failures int, err error) {
	stop := f.renew(ctx, ledger.SweepRenewal, func(s *ledger.Sweeps, now time.Time) bool { return s.TakeEnd(t.run, t.by, now) })
	s := f.newSweep(t.run, t.plan.Began)
	if !t.plan.Whole() {
		err = fmt.Errorf("some shards failed: %s", strings.Join(t.plan.Totals.ErrorsOf, "; "))
	}
	err = s.end(s.paced(ctx, paceOfShard), err, t.plan.Totals, t.plan.Shards)
	stop()
	rolls := false
	failures, err = f.finished(ctx, t.run, t.plan.Began, err, func(f *ledger.Sweeps, now time.Time) {
		rolls = f.CallRolling(t.run, t.plan.Shards, now)
	})
	if rolls {
		if err := s.sendShard(ctx, shardRolling, 0); err != nil {
			s.Logger.WarnContext(ctx, "grants and tags are read again after the next sweep", "error", err)
		}
	}
	if s.Config.AccessReview {
		if err := s.sendShard(ctx, shardReview, 0); err != nil {
			s.Logger.WarnContext(ctx, "who may use the keys is reviewed after the next sweep", "error", err)
		}
	}
	if err := s.deleteRuns(ctx); err != nil {
		s.Logger.WarnContext(ctx, "the shards of former sweeps cannot be deleted; the next one tries again", "error", err)
	}
	return failures, err
}

// review reviews who may use the keys, if that is due, beside the shards of any sweep. run is
// the sweep that has called for it.
func (f *Fleet) review(ctx context.Context, run string) error {
	leave, err := f.EnterShard()
	if err != nil {
		return err
	}
	defer leave()
	s := f.newSweep(run, ledger.Now())
	s.leave = f.leaver()
	err = s.Skip(s.looks.Review(s.paced(ctx, paceOfReview), s))
	return errors.Join(err, s.looks.Unreadable(ctx, s, s.unreadable.found))
}
