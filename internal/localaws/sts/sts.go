// Package sts is the part of AWS STS that says who calls.
package sts

import (
	"context"
	"net/http"
	"net/url"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const namespace = "https://sts.amazonaws.com/doc/2011-06-15/"

// Service is an http.Handler that expects wire.WithRequest's values in the
// request's context. It has no state: the zero value is ready.
type Service struct{}

// ServeHTTP answers one request.
func (Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	wire.ServeQuery(w, r, namespace, map[string]wire.QueryOperation{"GetCallerIdentity": getCallerIdentity})
}

type identity struct {
	ARN     string `xml:"Arn"`
	UserID  string `xml:"UserId"`
	Account string
}

// getCallerIdentity needs no permission, as on AWS.
func getCallerIdentity(ctx context.Context, _ url.Values) (any, error) {
	c := wire.CallerFrom(ctx)
	return identity{ARN: c.ARN, UserID: c.PrincipalID, Account: c.AccountID}, nil
}
