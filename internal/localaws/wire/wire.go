// Package wire holds what every localaws service needs to speak AWS's wire
// protocols: the caller of a request, errors with their AWS code and HTTP
// status, and the JSON, query and XML encodings around them.
//
// It knows no service. A service decodes a request with it, does its work on
// plain Go values and encodes the answer with it.
package wire

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Caller is who signed a request, as CloudTrail's userIdentity would name them.
// localaws does not verify signatures: the access key of the credential scope
// says who calls, which is enough to tell two callers apart.
type Caller struct {
	// AccessKeyID is the access key of the request's credential scope.
	AccessKeyID string
	// AccountID is the caller's twelve-digit account.
	AccountID string
	// Type is CloudTrail's userIdentity.type: "Root", "IAMUser" or "AssumedRole".
	Type string
	// ARN is the caller's ARN, with the session name for an assumed role.
	ARN string
	// PrincipalID is the caller's unique id ("AIDA…", or "AROA…:session").
	PrincipalID string
	// UserName is set for an IAM user.
	UserName string
	// SourceIP and UserAgent come from the request.
	SourceIP, UserAgent string
	// Allowed is the caller's identity policy: it says whether the caller may do
	// the action ("kms:EnableKeyRotation") on the resource (an ARN, or "*" where
	// the operation has none). Nil allows everything.
	Allowed func(action, resource string) bool
}

// May reports whether the caller's identity policy allows the action on the resource.
func (c Caller) May(action, resource string) bool {
	return c.Allowed == nil || c.Allowed(action, resource)
}

// RoleARN returns the IAM role behind an assumed-role session
// ("arn:aws:iam::ACCOUNT:role/NAME"), and the caller's own ARN for anybody else.
func (c Caller) RoleARN() string {
	_, rest, ok := strings.Cut(c.ARN, ":assumed-role/")
	if !ok {
		return c.ARN
	}
	role, _, _ := strings.Cut(rest, "/")
	return "arn:aws:iam::" + c.AccountID + ":role/" + role
}

type contextKey int

const (
	callerKey contextKey = iota
	requestIDKey
)

// WithRequest returns a context that carries the caller and the request's id.
func WithRequest(ctx context.Context, c Caller, requestID string) context.Context {
	return context.WithValue(context.WithValue(ctx, callerKey, c), requestIDKey, requestID)
}

// CallerFrom returns the caller that WithRequest stored; the zero Caller where none was.
func CallerFrom(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey).(Caller)
	return c
}

// RequestIDFrom returns the request id that WithRequest stored, or "".
func RequestIDFrom(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey).(string)
	return id
}

// Error is an AWS API error: its code, the message and the HTTP status it is sent with.
type Error struct {
	// Code is the error's code as AWS documents it ("NotFoundException", "NoSuchKey").
	Code string
	// Message is the text beside the code.
	Message string
	// Status is the HTTP status; zero means 400.
	Status int
	// QueryCode is the error's code in the query protocol, for a service that
	// speaks both and names it differently there (SQS); empty means Code. The
	// JSON protocol sends it in the x-amzn-query-error header.
	QueryCode string
	// Fields are further members of the error's body, for the S3 errors that have them.
	Fields map[string]string
}

// Errorf returns an Error with the given status, code and formatted message.
func Errorf(status int, code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Status: status}
}

// LegacyCode returns QueryCode, or Code where it is empty.
func (e *Error) LegacyCode() string {
	if e.QueryCode == "" {
		return e.Code
	}
	return e.QueryCode
}

// SenderFault reports whether the error is the caller's and not the server's.
func (e *Error) SenderFault() bool { return e.HTTPStatus() < http.StatusInternalServerError }

// Error returns "code: message".
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// HTTPStatus returns the status to send: Status, or 400 where it is zero.
func (e *Error) HTTPStatus() int {
	if e.Status == 0 {
		return http.StatusBadRequest
	}
	return e.Status
}

// AsError returns err as an *Error. An error that is none becomes an
// InternalFailure with status 500, so that a fault of localaws is never
// mistaken for an answer of AWS.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: "InternalFailure", Message: err.Error(), Status: http.StatusInternalServerError}
}

// IsCode reports whether err is an Error with the code.
func IsCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// NewUUID returns a random UUID (version 4).
func NewUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
