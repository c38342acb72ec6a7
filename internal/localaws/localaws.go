// Package localaws is AWS in one process: a single http.Handler that speaks
// SQS, KMS, SNS, EventBridge, STS and S3 over their real wire protocols, to be
// driven by the AWS SDK and the AWS CLI.
//
// It behaves as AWS does where cmkeeper's safety depends on it, and its own KMS
// calls come back as CloudTrail events on the EventBridge bus. State is in
// memory. An operation that is not modelled answers with an error and never
// guesses. Signatures are not verified: the access key says who calls.
package localaws

import (
	"net/http"
	"strings"
	"sync"

	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/sqs"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// Options configures a Server. The zero value is account 000000000000 in
// us-east-1, reached in process, without faults.
type Options struct {
	// Account is the twelve-digit account, "000000000000" if empty.
	Account string
	// Region is the only Region there is, "us-east-1" if empty.
	Region string
	// BaseURL is how queue URLs start, inprocess.Endpoint if empty. A server
	// that listens sets the URL that it is reached at.
	BaseURL string
}

// Server is the account: an http.Handler for all services.
type Server struct {
	options Options
	sqs     *sqs.Service

	mu         sync.RWMutex
	identities map[string]wire.Caller
}

// New returns a Server with nothing in it. Close it when done.
func New(o Options) *Server {
	if o.Account == "" {
		o.Account = "000000000000"
	}
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	if o.BaseURL == "" {
		o.BaseURL = inprocess.Endpoint
	}
	return &Server{
		options:    o,
		sqs:        sqs.New(sqs.Config{Account: o.Account, Region: o.Region, BaseURL: o.BaseURL}),
		identities: map[string]wire.Caller{},
	}
}

// Close ends what runs in the background and waits for it.
func (s *Server) Close() {
	s.sqs.Close()
}

// SQS returns the queue service, for what no API can do.
func (s *Server) SQS() *sqs.Service { return s.sqs }

// ServeHTTP answers one request of any service.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	accessKey, scope := credential(r)
	ctx := wire.WithRequest(r.Context(), s.caller(accessKey, r), wire.NewUUID())
	s.route(r, scope).ServeHTTP(w, r.WithContext(ctx))
}

// route returns the service that a request is for.
func (s *Server) route(r *http.Request, scope string) http.Handler {
	target, _, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	if target == "AmazonSQS" {
		return s.sqs
	}
	if isForm(r) && scope != "s3" && r.ParseForm() == nil {
		switch r.Form.Get("Version") {
		case "2012-11-05":
			return s.sqs
		}
	}
	return http.HandlerFunc(unknown)
}

func isForm(r *http.Request) bool {
	mediaType, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return r.Method == http.MethodPost && mediaType == "application/x-www-form-urlencoded"
}

func unknown(w http.ResponseWriter, r *http.Request) {
	wire.WriteJSONError(w, r, wire.Errorf(http.StatusNotImplemented, "UnknownOperationException", "localaws does not model %s %s", r.Method, r.URL.Path))
}
