package awsclient

import (
	"context"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	smithyauth "github.com/aws/smithy-go/auth"
	smithyendpoints "github.com/aws/smithy-go/endpoints"
)

// maxEndpoints bounds the memory of a fleet that meets very many buckets.
const maxEndpoints = 1000

// rememberedEndpoints asks the next resolver once for each bucket: the SDK goes
// through all of its rules for every request, which is a sixth of the CPU time of
// one. What it answers depends on nothing but the parameters; and none of the SDK's
// rules looks at Key, Prefix or CopySource, which are left out here.
type rememberedEndpoints struct {
	next s3.EndpointResolverV2

	mu    sync.RWMutex
	known map[endpointParameters]smithyendpoints.Endpoint
}

// endpointParameters are s3.EndpointParameters by their values.
type endpointParameters struct {
	bucket, region, endpoint                                          string
	hasBucket, hasEndpoint                                            bool
	fips, dualStack, pathStyle, accelerate, global                    bool
	objectLambda, noAccessPoints, noMultiRegion, useARNRegion         bool
	expressControl, noExpressSession, saysARNRegion, saysAccessPoints bool
}

func parametersOf(p s3.EndpointParameters) endpointParameters {
	return endpointParameters{
		bucket: aws.ToString(p.Bucket), region: aws.ToString(p.Region), endpoint: aws.ToString(p.Endpoint),
		hasBucket: p.Bucket != nil, hasEndpoint: p.Endpoint != nil,
		fips: aws.ToBool(p.UseFIPS), dualStack: aws.ToBool(p.UseDualStack), pathStyle: aws.ToBool(p.ForcePathStyle),
		accelerate: aws.ToBool(p.Accelerate), global: aws.ToBool(p.UseGlobalEndpoint),
		objectLambda: aws.ToBool(p.UseObjectLambdaEndpoint), noAccessPoints: aws.ToBool(p.DisableAccessPoints),
		noMultiRegion: aws.ToBool(p.DisableMultiRegionAccessPoints), useARNRegion: aws.ToBool(p.UseArnRegion),
		expressControl: aws.ToBool(p.UseS3ExpressControlEndpoint), noExpressSession: aws.ToBool(p.DisableS3ExpressSessionAuth),
		saysARNRegion: p.UseArnRegion != nil, saysAccessPoints: p.DisableAccessPoints != nil,
	}
}

// ResolveEndpoint returns what the next resolver said of the same parameters, or
// asks it. An error is not remembered.
func (r *rememberedEndpoints) ResolveEndpoint(ctx context.Context, p s3.EndpointParameters) (smithyendpoints.Endpoint, error) {
	key := parametersOf(p)
	r.mu.RLock()
	e, ok := r.known[key]
	r.mu.RUnlock()
	if ok {
		return ownProperties(e), nil
	}
	e, err := r.next.ResolveEndpoint(ctx, p)
	if err != nil {
		return e, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) < maxEndpoints {
		r.known[key] = ownProperties(e)
	}
	return e, nil
}

// ownProperties returns an endpoint that shares nothing with e that the SDK writes
// to: for each request it completes the endpoint's options of authentication.
func ownProperties(e smithyendpoints.Endpoint) smithyendpoints.Endpoint {
	options, ok := smithyauth.GetAuthOptions(&e.Properties)
	if !ok {
		return e
	}
	own := make([]*smithyauth.Option, len(options))
	for i, o := range options {
		own[i] = &smithyauth.Option{SchemeID: o.SchemeID}
		own[i].IdentityProperties.SetAll(&o.IdentityProperties)
		own[i].SignerProperties.SetAll(&o.SignerProperties)
	}
	var properties smithy.Properties
	properties.SetAll(&e.Properties)
	smithyauth.SetAuthOptions(&properties, own)
	e.Properties = properties
	return e
}
