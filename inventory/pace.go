package inventory

import (
	"context"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/time/rate"
)

// Quotas are KMS's default request quotas of the operations that a Reader calls, in
// requests per second for the whole account and Region, which its applications use as
// well (KMS Developer Guide, "Request quotas"). An account's may be higher, and no lower
// unless somebody asked for that.
var Quotas = map[string]float64{
	"DescribeCustomKeyStores": 5,
	"DescribeKey":             2000,
	"GetKeyLastUsage":         5,
	"GetKeyPolicy":            1000,
	"GetKeyRotationStatus":    1000,
	"ListAliases":             500,
	"ListGrants":              100,
	"ListKeyRotations":        100,
	"ListKeys":                500,
	"ListResourceTags":        100,
}

// Pace is how fast requests to KMS are sent. Its functions are safe for concurrent use.
type Pace struct {
	// Rate is how many requests of an operation may be sent in a second, and how many at once.
	// It is asked once for each operation.
	Rate func(operation string) (perSecond float64, atOnce int)
	// Passed, if not nil, is called before each request that is sent.
	Passed func(operation string)
}

// Share is the rate that uses a part of a quota. It stays a little below, since one request
// may pass at once in the beginning.
func Share(quota, part float64) (perSecond float64, atOnce int) { return quota * part * 0.95, 1 }

// ShareOf is a Pace that uses a part, above 0 up to 1, of each of KMS's quotas.
func ShareOf(part float64) Pace {
	return Pace{Rate: func(operation string) (float64, int) { return Share(Quotas[operation], part) }}
}

// pace is a Pace with what it needs.
type pace struct {
	Pace
	mu       sync.Mutex
	limiters map[string]*rate.Limiter // by operation
}

// wait waits until a request of the operation may be sent.
func (p *pace) wait(ctx context.Context, operation string) error {
	p.mu.Lock()
	l := p.limiters[operation]
	if l == nil {
		perSecond, atOnce := p.Rate(operation)
		l = rate.NewLimiter(rate.Limit(perSecond), atOnce)
		p.limiters[operation] = l
	}
	p.mu.Unlock()
	if err := l.Wait(ctx); err != nil {
		return err
	}
	if p.Passed != nil {
		p.Passed(operation)
	}
	return nil
}

type paceKey struct{}

// WithPace returns a context with which all requests that a Reader sends to KMS wait for
// the pace: each page of a list, and each attempt of a request that is tried again. A
// request that cannot wait for so long as its context lasts is not sent.
func WithPace(ctx context.Context, p Pace) context.Context {
	return context.WithValue(ctx, paceKey{}, &pace{Pace: p, limiters: map[string]*rate.Limiter{}})
}

// paced are the options of a request that waits for the pace of its context.
func paced(ctx context.Context) []func(*kms.Options) {
	p, ok := ctx.Value(paceKey{}).(*pace)
	if !ok {
		return nil
	}
	wait := middleware.FinalizeMiddlewareFunc("Pace", func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
		if err := p.wait(ctx, middleware.GetOperationName(ctx)); err != nil {
			return middleware.FinalizeOutput{}, middleware.Metadata{}, err
		}
		return next.HandleFinalize(ctx, in)
	})
	return []func(*kms.Options){func(o *kms.Options) {
		o.APIOptions = append(slices.Clip(o.APIOptions), func(stack *middleware.Stack) error {
			return stack.Finalize.Insert(wait, "Retry", middleware.After) // within it: once for each attempt
		})
	}}
}
