// Package localaws is AWS in one process: a single http.Handler that speaks
// SQS, KMS, SNS, EventBridge, CloudTrail, STS, S3 (with its Batch Operations) and
// a little of AWS Config, EC2, IAM and RDS over their real wire protocols, to be driven by
// the AWS SDK and the AWS CLI.
//
// It behaves as AWS does where cmkeeper's safety depends on it, and calls that
// change something come back as CloudTrail events on the EventBridge bus. State is in
// memory. An operation that is not modelled answers with an error and never
// guesses. Signatures are not verified: the access key says who calls.
package localaws

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"

	"github.com/cmkeeper/cmkeeper/internal/localaws/cloudtrail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/config"
	"github.com/cmkeeper/cmkeeper/internal/localaws/ec2"
	"github.com/cmkeeper/cmkeeper/internal/localaws/eventbridge"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/kms"
	"github.com/cmkeeper/cmkeeper/internal/localaws/rds"
	"github.com/cmkeeper/cmkeeper/internal/localaws/s3"
	"github.com/cmkeeper/cmkeeper/internal/localaws/s3control"
	"github.com/cmkeeper/cmkeeper/internal/localaws/sns"
	"github.com/cmkeeper/cmkeeper/internal/localaws/sqs"
	"github.com/cmkeeper/cmkeeper/internal/localaws/sts"
	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
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
	// TrailRequired says that calls come back as events only while a trail logs
	// them, as on AWS, where a trail may also exclude the calls of KMS. Without it
	// they always do. KMS's own events need no trail.
	TrailRequired bool
	// Seed makes the probabilities and latencies of faults repeatable.
	Seed uint64
}

// Server is the account: an http.Handler for all services.
type Server struct {
	options     Options
	trail       *trail.Recorder
	kms         *kms.Service
	s3          *s3.Service
	s3control   *s3control.Service
	sqs         *sqs.Service
	sns         *sns.Service
	eventbridge *eventbridge.Service
	cloudtrail  *cloudtrail.Service
	config      *config.Service
	ec2         *ec2.Service
	iam         *iam.Account
	rds         *rds.Service

	mu         sync.RWMutex
	identities map[string]wire.Caller
	watch      watch
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
	var events *eventbridge.Service // which is told of calls, and whose own are recorded
	var trails *cloudtrail.Service
	recorder := trail.New(trail.Config{
		Account: o.Account, Region: o.Region,
		Logs:    func(source string, readOnly bool) bool { return !o.TrailRequired || trails.Logs(source, readOnly) },
		Reads:   func() bool { return events.WantsReads() },
		Publish: func(event json.RawMessage) { events.Publish(event) },
	})
	trails = cloudtrail.New(cloudtrail.Config{Account: o.Account, Region: o.Region, Trail: recorder})
	principals := iam.NewAccount(o.Account)
	keys := kms.New(kms.Config{Account: o.Account, Region: o.Region, IAM: principals, Trail: recorder})
	queues := sqs.New(sqs.Config{Account: o.Account, Region: o.Region, BaseURL: o.BaseURL, Keys: keys, Trail: recorder})
	events = eventbridge.New(eventbridge.Config{Account: o.Account, Region: o.Region, Queues: queues, Trail: recorder})
	s := &Server{
		options:     o,
		trail:       recorder,
		kms:         keys,
		s3:          s3.New(s3.Config{Account: o.Account, Region: o.Region, Keys: keys, Trail: recorder}),
		sqs:         queues,
		sns:         sns.New(sns.Config{Account: o.Account, Region: o.Region, Queues: queues, Keys: keys, Trail: recorder}),
		eventbridge: events,
		cloudtrail:  trails,
		config:      config.New(config.Config{Account: o.Account, Region: o.Region}),
		ec2:         ec2.New(ec2.Config{Account: o.Account, Region: o.Region, Keys: keys, Trail: recorder}),
		iam:         principals,
		rds:         rds.New(rds.Config{Account: o.Account, Region: o.Region, Keys: keys, Trail: recorder}),
		identities:  map[string]wire.Caller{},
		watch:       watch{seed: o.Seed},
	}
	s.s3control = s3control.New(s3control.Config{
		Account: o.Account, Region: o.Region, S3: s.s3, Role: func(arn string) wire.Caller { return s.session(arn, "s3-batch-operations") }, Trail: recorder,
	})
	return s
}

// Close ends what runs in the background and waits for it.
func (s *Server) Close() {
	s.s3control.Close()
	s.kms.Close()
	s.trail.Close()
	s.eventbridge.Close()
	s.sqs.Close()
}

// Record puts a CloudTrail record that somebody wrote on the default bus, through
// the rules, as EventBridge would for a call of any service: the envelope's
// source follows from eventSource, its detail type from eventType. PutEvents
// refuses such events, as on AWS. Over the wire, POST the record, or several as
// {"Records": […]}, to RecordsPath.
//
// What CloudTrail always has and the record lacks is filled in, so that
//
//	{"eventSource":"cloudtrail.amazonaws.com","eventName":"StopLogging","requestParameters":{"name":"main"}}
//
// is a call by the IAM user "local", now. A member that is null stays so.
func (s *Server) Record(record json.RawMessage) error { return s.trail.Given(record) }

// Trail returns CloudTrail's delivery, to be made late, doubtful or talkative.
func (s *Server) Trail() *trail.Recorder { return s.trail }

// KMS returns the keys, for what no API can do.
func (s *Server) KMS() *kms.Service { return s.kms }

// S3 returns the buckets, for what no API can do.
func (s *Server) S3() *s3.Service { return s.s3 }

// S3Control returns the Batch Operations, for what no API can do.
func (s *Server) S3Control() *s3control.Service { return s.s3control }

// SNS returns the topics, for what no API can do.
func (s *Server) SNS() *sns.Service { return s.sns }

// AWSConfig returns what AWS Config records, for tests to fill.
func (s *Server) AWSConfig() *config.Service { return s.config }

// EC2 is the EC2 of the account.
func (s *Server) EC2() *ec2.Service { return s.ec2 }

// IAM returns the users, groups, roles and policies, for tests to fill. What a caller that is
// among them may do with keys is theirs to say, and no longer the caller's Allowed.
func (s *Server) IAM() *iam.Account { return s.iam }

// SQS returns the queues, for what no API can do.
func (s *Server) SQS() *sqs.Service { return s.sqs }

// EventBridge returns the event bus, for events that AWS services publish.
func (s *Server) EventBridge() *eventbridge.Service { return s.eventbridge }

// ServeHTTP answers one request of any service.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	accessKey, scope := credential(r)
	caller := s.caller(accessKey, r)
	r = r.WithContext(wire.WithRequest(r.Context(), caller, wire.NewUUID()))
	handler, request := s.route(r, scope)
	request.Path, request.Caller = r.URL.Path, caller
	s.watch.serve(w, r, handler, request)
}

// route returns who answers a request, and its service and operation.
func (s *Server) route(r *http.Request, scope string) (http.Handler, Request) {
	if r.URL.Path == RecordsPath {
		return http.HandlerFunc(s.serveRecords), Request{Service: "localaws", Operation: "Record"}
	}
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		dot := strings.LastIndexByte(target, '.')
		service, operation := target[:max(dot, 0)], target[dot+1:]
		switch service {
		case "AmazonSQS":
			return s.sqs, Request{Service: "sqs", Operation: operation}
		case "AWSEvents":
			return s.eventbridge, Request{Service: "events", Operation: operation}
		case "CloudTrail_20131101", "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101":
			return s.cloudtrail, Request{Service: "cloudtrail", Operation: operation}
		case "StarlingDoveService":
			return s.config, Request{Service: "config", Operation: operation}
		case "TrentService":
			return s.kms, Request{Service: "kms", Operation: operation}
		default:
			return http.HandlerFunc(unknown), Request{Operation: operation}
		}
	}
	if s3control.Serves(r) {
		return s.s3control, Request{Service: "s3control", Operation: s3control.OperationName(r)}
	}
	// An S3 request may have any content type, also that of a form.
	if scope != "s3" && isForm(r) && r.ParseForm() == nil {
		operation := r.Form.Get("Action")
		switch r.Form.Get("Version") {
		case "2010-05-08":
			return s.iam, Request{Service: "iam", Operation: operation}
		case "2010-03-31":
			return s.sns, Request{Service: "sns", Operation: operation}
		case "2011-06-15":
			return sts.Service{IAM: s.iam, Session: s.assume}, Request{Service: "sts", Operation: operation}
		case "2012-11-05":
			return s.sqs, Request{Service: "sqs", Operation: operation}
		case "2014-10-31":
			return s.rds, Request{Service: "rds", Operation: operation}
		case "2016-11-15":
			return s.ec2, Request{Service: "ec2", Operation: operation}
		}
	}
	return s.s3, Request{Service: "s3", Operation: s3.OperationName(r)}
}

func isForm(r *http.Request) bool {
	mediaType, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return r.Method == http.MethodPost && mediaType == "application/x-www-form-urlencoded"
}

func unknown(w http.ResponseWriter, r *http.Request) {
	wire.WriteJSONError(w, r, wire.Errorf(http.StatusNotImplemented, "UnknownOperationException", "localaws does not model %s", r.Header.Get("X-Amz-Target")))
}
