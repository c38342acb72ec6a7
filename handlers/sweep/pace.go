package sweep

import (
	"context"

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
	// paceOfReview is for an access review, which reads the same and shares with it.
	paceOfReview
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
	case paceOfRolling, paceOfReview:
		return rollingPart(operation)
	case paceOfAll:
	}
	return 1
}

// rateOf is how many requests of an operation a part of a sweep may send in a second, and
// how many at once: together no more than its part of the quota.
func (s Sweep) rateOf(kind paceKind, operation string) (perSecond float64, atOnce int) {
	quota, part := inventory.Quotas[operation], s.Config.SweepShare*kind.part(operation)
	if s.Config.AccessReview && (kind == paceOfRolling || kind == paceOfReview) {
		part /= 2
	}
	if kind == paceOfAll {
		half := quota * part / 2
		return half, max(1, int(half))
	}
	return inventory.Share(quota, part)
}

// paced returns a context whose requests to KMS use that part of the fleet's share, and are
// counted.
func (s Sweep) paced(ctx context.Context, kind paceKind) context.Context {
	return inventory.WithPace(ctx, inventory.Pace{
		Rate: func(operation string) (float64, int) { return s.rateOf(kind, operation) },
		Passed: func(operation string) {
			s.totals.add(func(t *ledger.SweepTotals) { ledger.Count(&t.Requests, operation) })
		},
	})
}
