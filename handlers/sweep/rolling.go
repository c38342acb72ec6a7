package sweep

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// roll reads the grants and tags of one shard, and has its message come back for the next
// one. run is the sweep that has called for it.
func (f *Fleet) roll(ctx context.Context, run string) error {
	by := rand.Text()
	var shard, of int
	var mine bool
	var wait time.Duration
	var busy error
	var leave func()
	err := f.update(ctx, func(s *ledger.Sweeps, now time.Time) bool {
		if shard, mine, wait = s.TakeRolling(run, by, now); !mine {
			return false
		}
		if leave == nil {
			if leave, busy = f.EnterShard(); busy != nil {
				return false
			}
		}
		of = s.Rolling.Of
		return true
	})
	if leave != nil {
		defer leave()
	}
	if err = cmp.Or(err, busy); err != nil || !mine {
		if wait > 0 {
			return outcome.RetryAfter(wait, errors.New("another worker reads grants and tags"))
		}
		return err
	}
	working, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := f.renew(working, ledger.RollingRenewal, func(s *ledger.Sweeps, now time.Time) bool {
		still := s.RenewRolling(by, now)
		if !still {
			cancel(errLost)
		}
		return still
	})
	s := f.newSweep(run, ledger.Now())
	s.Rolling, s.leave = true, f.leaver()
	err = s.Skip(s.rollShard(s.paced(working, paceOfRolling), shard, of))
	stop()
	return f.rolledShard(ctx, s, by, shard, err)
}

// rolledShard notes that a shard's grants and tags were read. Keys whose reading failed are
// read again in the next round.
func (f *Fleet) rolledShard(ctx context.Context, s Sweep, by string, shard int, err error) error {
	left := errors.Is(err, errLeft) || ctx.Err() != nil
	var after time.Duration
	var again bool
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	unrecorded := f.update(bounded, func(f *ledger.Sweeps, now time.Time) bool {
		after, again = f.RolledShard(by, !left, now)
		return true
	})
	sum := s.sum()
	f.Logger.DebugContext(ctx, "grants and tags were read", "shard", shard, "requests", sumOf(sum.Requests), "left", left)
	if err != nil && !left {
		f.Logger.WarnContext(ctx, "grants or tags of some keys were not looked at", "shard", shard, "error", err)
	}
	switch {
	case unrecorded != nil:
		return fmt.Errorf("record the reading of grants and tags: %w", unrecorded)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case again:
		return outcome.RetryAfter(after, errors.New("the grants and tags of the next shard are read then"))
	}
	return nil
}

// rollShard reads grants and tags of the keys of a shard, those that were read longest ago
// first. A key of which they have changed goes the way of all cases.
func (s Sweep) rollShard(ctx context.Context, n, of int) error {
	draft, err := s.readFacts(ctx, n, of)
	if err != nil {
		return err
	}
	p := &part{Sweep: s, known: &ledger.SweepFacts{}, found: &ledger.SweepFacts{Keys: map[string]ledger.KeyFacts{}}}
	*p.known = *draft.Doc()
	due := p.known.Due(s.Start)
	err = Each(ctx, s, due, func(ctx context.Context, key string) error {
		if p.Leave() {
			return errLeft
		}
		return p.rollKey(ctx, key)
	})
	if len(p.found.Keys) > 0 {
		p.save(ctx, draft, func(*ledger.SweepFacts) {})
	}
	return err
}

// rollKey reads a key's grants and tags.
func (p *part) rollKey(ctx context.Context, key string) error {
	before := p.known.Keys[key]
	c := p.caseOf(key)
	at := ledger.Now()
	tags, err := c.Tags(ctx)
	grants, grantsErr := c.Grants(ctx)
	if err = errors.Join(err, grantsErr); err != nil {
		if reaction.Unreadable(err) {
			return nil // what each sweep reads tells of it
		}
		return err
	}
	now := before
	now.Rolled, now.Tags, now.Grants = at, mark(tags), markOfGrants(grants)
	if before.Rolled.IsZero() || now.Tags != before.Tags || now.Grants != before.Grants {
		err = p.looks.Key(ctx, p.Sweep, c)
		p.Count(c)
		now.FactsMark = p.lookedWhile(ctx, c, before, err)
		countDangers(&now, c.Opened())
		if err != nil {
			now.Rolled = before.Rolled
		}
	}
	p.keep(key, now)
	return p.failed(err)
}

// lookedWhile is the mark of a key that was looked at while its grants and tags were: as
// good a look as another one, where it opened all documents.
func (p *part) lookedWhile(ctx context.Context, c *reaction.Case, before ledger.KeyFacts, err error) ledger.FactsMark {
	const unopened = "?"
	document, baseline := c.KeyETags(unopened, unopened)
	if err != nil || document == unopened || baseline == unopened {
		return ledger.FactsMark{} // each sweep looks at it
	}
	return before.Looked(p.factsOf(ctx, c), markOfETags(document, baseline), quietly(c, err))
}
