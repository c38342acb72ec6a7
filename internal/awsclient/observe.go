package awsclient

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
)

// Request is one attempt at a call, as the SDK names it.
type Request struct {
	Service, Operation string
	// Code is CodeOK, CodeCanceled, CodeUnreachable or that of AWS's error.
	Code string
	Took time.Duration
}

// The codes of requests that AWS has not refused.
const (
	CodeOK = "ok"
	// CodeCanceled: the caller gave up.
	CodeCanceled = "canceled"
	// CodeUnreachable: there was no answer, or none that could be read.
	CodeUnreachable = "unreachable"
)

// Observe returns cfg, of which every client calls observe after each request: also
// after those that are tried again.
func Observe(cfg aws.Config, observe func(context.Context, Request)) aws.Config {
	cfg = cfg.Copy()
	// Outside of what reads the answer, so that the error is AWS's, and inside of what tries again.
	attempt := middleware.DeserializeMiddlewareFunc("Observe", func(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
		began := time.Now()
		out, md, err := next.HandleDeserialize(ctx, in)
		observe(ctx, Request{
			Service: awsmiddleware.GetServiceID(ctx), Operation: awsmiddleware.GetOperationName(ctx), Code: codeOf(ctx, err), Took: time.Since(began),
		})
		return out, md, err
	})
	cfg.APIOptions = append(cfg.APIOptions[:len(cfg.APIOptions):len(cfg.APIOptions)], func(s *middleware.Stack) error {
		return s.Deserialize.Add(attempt, middleware.Before)
	})
	return cfg
}

func codeOf(ctx context.Context, err error) string {
	if err == nil {
		return CodeOK
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	if ctx.Err() != nil {
		return CodeCanceled
	}
	return CodeUnreachable
}
