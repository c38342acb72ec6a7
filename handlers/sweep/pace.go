package sweep

import (
	"context"
	"sync"

	"golang.org/x/time/rate"

	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// paceKind is whose part of the fleet's share of KMS's quotas a part of a sweep uses. The
// parts of all that run at a time add up to the share.
type paceKind int

const (
	// paceOfAll is for a sweep that is not cut, which runs alone: a small account's is to be
	// over at once.
	paceOfAll paceKind = iota
	// paceOfPlan is for listing what is to be cut into shards, before they begin.
	paceOfPlan
	// paceOfShard is for one of ledger.ShardPermits shards.
	paceOfShard
	// paceOfRolling is for what reads grants and tags beside them.
	paceOfRolling
)

// rollingPart is the part of an operation's share that reading grants and tags has: nearly
// all of what it is there for, and as much of the rest as it needs where those have changed.
func rollingPart(operation string) float64 {
	switch operation {
	case "ListGrants", "ListResourceTags":
		return 0.8
	case "ListAliases":
		return 0.2
	}
	return 0.1
}

// part is the part of an operation's share that is used.
func (k paceKind) part(operation string) float64 {
	switch k {
	case paceOfPlan:
		return 1 - rollingPart(operation)
	case paceOfShard:
		return (1 - rollingPart(operation)) / ledger.ShardPermits
	case paceOfRolling:
		return rollingPart(operation)
	case paceOfAll:
	}
	return 1
}

// paceMargin keeps a little of each part back: a limiter lets one request pass at once when
// a shard begins.
const paceMargin = 0.95

// rateOf is how many requests of an operation a part of a sweep may send in a second, and
// how many at once: together no more than its part of the quota.
func (s Sweep) rateOf(kind paceKind, operation string) (perSecond float64, atOnce int) {
	part := inventory.Quotas[operation] * s.Config.SweepShare * kind.part(operation)
	if kind == paceOfAll {
		return part / 2, max(1, int(part/2))
	}
	return part * paceMargin, 1
}

// pace lets requests pass at fixed rates, and counts them.
type pace struct {
	kind  paceKind
	sweep Sweep

	mu       sync.Mutex
	limiters map[string]*rate.Limiter
}

// paced returns a context whose requests to KMS use that part of the fleet's share, and are
// counted.
func (s Sweep) paced(ctx context.Context, kind paceKind) context.Context {
	return inventory.WithPace(ctx, &pace{kind: kind, sweep: s, limiters: map[string]*rate.Limiter{}})
}

// Wait implements inventory.Pace.
func (p *pace) Wait(ctx context.Context, operation string) error {
	p.mu.Lock()
	l := p.limiters[operation]
	if l == nil {
		perSecond, atOnce := p.sweep.rateOf(p.kind, operation)
		l = rate.NewLimiter(rate.Limit(perSecond), atOnce)
		p.limiters[operation] = l
	}
	p.mu.Unlock()
	if err := l.Wait(ctx); err != nil {
		return err
	}
	p.sweep.totals.add(func(t *ledger.SweepTotals) { ledger.Count(&t.Requests, operation) })
	return nil
}
