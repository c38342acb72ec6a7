package keylist

import (
	"context"
	"sync"

	"golang.org/x/time/rate"

	"github.com/cmkeeper/cmkeeper/inventory"
)

// pace is an inventory.Pace that uses a part of each of KMS's quotas at most. Applications
// share these; those of their cryptographic operations are others.
type pace struct {
	share float64

	mu       sync.Mutex
	limiters map[string]*rate.Limiter // by operation
}

// Wait implements inventory.Pace.
func (p *pace) Wait(ctx context.Context, operation string) error {
	p.mu.Lock()
	l := p.limiters[operation]
	if l == nil {
		// A little less, since a limiter lets one request pass at once in the beginning.
		l = rate.NewLimiter(rate.Limit(inventory.Quotas[operation]*p.share*0.95), 1)
		p.limiters[operation] = l
	}
	p.mu.Unlock()
	return l.Wait(ctx)
}
