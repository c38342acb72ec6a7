// Package sts is the part of AWS STS that says who calls, and that lets roles of the account
// be assumed.
package sts

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const namespace = "https://sts.amazonaws.com/doc/2011-06-15/"

// Service is an http.Handler that expects wire.WithRequest's values in the
// request's context.
type Service struct {
	// IAM says who may assume which role.
	IAM *iam.Account
	// Session makes an access key belong to a session of the role of the ARN, and returns it
	// with the session.
	Session func(roleARN, name string) (accessKeyID string, session wire.Caller)
}

// ServeHTTP answers one request.
func (s Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	wire.ServeQuery(w, r, namespace, map[string]wire.QueryOperation{"GetCallerIdentity": getCallerIdentity, "AssumeRole": s.assumeRole})
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

// assumed is the answer to AssumeRole. The secret is any: signatures are not verified.
type assumed struct {
	Credentials struct {
		AccessKeyID     string `xml:"AccessKeyId"`
		SecretAccessKey string
		SessionToken    string
		Expiration      string
	}
	AssumedRoleUser struct {
		ID  string `xml:"AssumedRoleId"`
		ARN string `xml:"Arn"`
	}
}

var sessionName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[\w+=,.@-]{2,64}$`) })

// assumeRole lets callers assume roles that IAM has: those that it knows by their policies
// there, and others by what they are allowed besides. Session policies, session
// tags and role chaining's limit of an hour are not modelled, nor is CloudTrail's record.
func (s Service) assumeRole(ctx context.Context, form url.Values) (any, error) {
	for name := range form {
		switch name {
		case "Action", "Version", "RoleArn", "RoleSessionName", "DurationSeconds":
		default:
			return nil, wire.Errorf(http.StatusNotImplemented, "NotImplemented", "AssumeRole: %s is not modelled", name)
		}
	}
	c, role, name, seconds := wire.CallerFrom(ctx), form.Get("RoleArn"), form.Get("RoleSessionName"), 3600
	if text := form.Get("DurationSeconds"); text != "" {
		var err error
		if seconds, err = strconv.Atoi(text); err != nil || seconds < 900 || seconds > 43200 {
			return nil, wire.Errorf(http.StatusBadRequest, "ValidationError", "1 validation error detected: Value '%s' at 'durationSeconds' failed to satisfy constraint", text)
		}
	}
	if !sessionName().MatchString(name) {
		return nil, wire.Errorf(http.StatusBadRequest, "ValidationError", "1 validation error detected: Value '%s' at 'roleSessionName' failed to satisfy constraint", name)
	}
	request := iam.Request{Principal: c.ARN, RoleARN: c.RoleARN(), Account: c.AccountID}
	answer, known := s.IAM.Assume(request, role)
	if !known {
		answer.Allowed = s.IAM.Trusts(request, role)
	}
	if !answer.Allowed || !c.May("sts:AssumeRole", role) {
		return nil, wire.Errorf(http.StatusForbidden, "AccessDenied", "User: %s is not authorized to perform: sts:AssumeRole on resource: %s", c.ARN, role)
	}
	key, session := s.Session(role, name)
	var out assumed
	out.Credentials.AccessKeyID, out.Credentials.SecretAccessKey, out.Credentials.SessionToken = key, "secret", "token"
	out.Credentials.Expiration = time.Now().UTC().Add(time.Duration(seconds) * time.Second).Format(time.RFC3339)
	out.AssumedRoleUser.ID, out.AssumedRoleUser.ARN = session.PrincipalID, session.ARN
	return out, nil
}
