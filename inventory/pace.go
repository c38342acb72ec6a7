package inventory

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go/middleware"
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

// Pace decides when requests to KMS are sent.
type Pace interface {
	// Wait waits until a request of the operation may be sent. An error is the request's.
	Wait(ctx context.Context, operation string) error
}

type paceKey struct{}

// WithPace returns a context with which all requests that a Reader sends to KMS wait for
// the pace: each page of a list, and each attempt of a request that is tried again.
func WithPace(ctx context.Context, p Pace) context.Context {
	return context.WithValue(ctx, paceKey{}, p)
}

// paced are the options of a request that waits for the pace of its context.
func paced(ctx context.Context) []func(*kms.Options) {
	p, ok := ctx.Value(paceKey{}).(Pace)
	if !ok {
		return nil
	}
	wait := middleware.FinalizeMiddlewareFunc("Pace", func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
		if err := p.Wait(ctx, middleware.GetOperationName(ctx)); err != nil {
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
