// Package s3control is S3 Batch Operations in memory, over the REST/XML protocol
// of S3's control endpoint: jobs with the operation S3UpdateObjectEncryption,
// their generated or given manifests, their completion reports and their events.
//
// A job performs its tasks through the S3 of localaws, as its role. Whatever is
// not modelled (an operation, a filter, a member of a request) answers
// NotImplemented: nothing that was asked for is ever left out in silence.
package s3control

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/xml"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/s3"
	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// S3 is where the objects are; *s3.Service is one.
type S3 interface {
	http.Handler
	Inventory(bucket string) ([]s3.Listed, bool)
}

// Config says where a Service is and what it works with.
type Config struct {
	Account, Region string
	S3              S3
	// Role returns who a job is that runs as the role.
	Role func(arn string) wire.Caller
	// Trail records what happens to jobs.
	Trail *trail.Recorder
}

// Service is S3 Batch Operations of one account in one Region: an http.Handler
// that expects wire.WithRequest's values in the request's context.
type Service struct {
	cfg     Config
	objects inprocess.Client
	pace    atomic.Int64
	ctx     context.Context // ends with Close
	end     context.CancelFunc
	running sync.WaitGroup

	mu   sync.Mutex
	jobs []*job
}

// New returns a Service without jobs. Close it when done.
func New(c Config) *Service {
	s := &Service{cfg: c, objects: inprocess.Client{Handler: c.S3}}
	s.ctx, s.end = context.WithCancel(context.Background())
	return s
}

// Close ends the jobs where they are and waits for them.
func (s *Service) Close() {
	s.end()
	s.running.Wait()
}

// SetPace says how long a job takes in each of its states before it is active,
// and for each of its tasks. At first that is no time at all.
func (s *Service) SetPace(d time.Duration) { s.pace.Store(int64(d)) }

const jobsPath = "/v20180820/jobs"

// Serves reports whether a request is one of S3's control endpoint: those name
// the account in a header, which no request of S3 itself does.
func Serves(r *http.Request) bool {
	return r.Header.Get("X-Amz-Account-Id") != "" && strings.HasPrefix(r.URL.Path, "/v20180820/")
}

// OperationName returns the operation that the request asks for, and "" for one
// that is not modelled.
func OperationName(r *http.Request) string {
	name, _ := route(r)
	return name
}

// route returns the operation and the job that it is about.
func route(r *http.Request) (operation, job string) {
	rest, ok := strings.CutPrefix(r.URL.Path, jobsPath)
	if !ok || rest != "" && rest[0] != '/' {
		return "", ""
	}
	job, sub, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
	switch {
	case r.Method == http.MethodPost && job == "":
		return "CreateJob", ""
	case r.Method == http.MethodGet && job == "":
		return "ListJobs", ""
	case r.Method == http.MethodGet && sub == "":
		return "DescribeJob", job
	case r.Method == http.MethodPost && job != "" && sub == "status":
		return "UpdateJobStatus", job
	case r.Method == http.MethodPost && job != "" && sub == "priority":
		return "UpdateJobPriority", job
	}
	return "", ""
}

// ServeHTTP answers one request.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, err := s.serve(r)
	if err != nil {
		WriteError(w, r, wire.AsError(err))
		return
	}
	body, err := xml.Marshal(answer)
	if err != nil {
		WriteError(w, r, wire.AsError(err))
		return
	}
	wire.WriteXML(w, r, http.StatusOK, body)
}

// WriteError answers with an error as S3's control endpoint does.
func WriteError(w http.ResponseWriter, r *http.Request, e *wire.Error) {
	type answer struct {
		XMLName   xml.Name `xml:"ErrorResponse"`
		Code      string   `xml:"Error>Code"`
		Message   string   `xml:"Error>Message"`
		RequestID string   `xml:"RequestId"`
	}
	body, _ := xml.Marshal(answer{Code: e.Code, Message: e.Message, RequestID: wire.RequestIDFrom(r.Context())}) // strings always encode
	wire.WriteXML(w, r, e.HTTPStatus(), body)
}

func (s *Service) serve(r *http.Request) (any, error) {
	operation, id := route(r)
	if operation == "" {
		return nil, notModelled(r.Method + " " + r.URL.RequestURI())
	}
	if r.Header.Get("X-Amz-Account-Id") != s.cfg.Account {
		return nil, accessDenied("the account of the request is not that of the caller")
	}
	caller := wire.CallerFrom(r.Context())
	resource := "*"
	if id != "" {
		resource = s.arn(id)
	}
	if err := s.authorize(caller, "s3:"+operation, resource); err != nil {
		return nil, err
	}
	query := r.URL.Query()
	switch operation {
	case "CreateJob":
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		return s.createJob(caller, body)
	case "ListJobs":
		return s.listJobs(query["jobStatuses"], query.Get("maxResults"), query.Get("nextToken"))
	}
	j := s.find(id)
	if j == nil {
		return nil, wire.Errorf(http.StatusNotFound, "NoSuchJobException", "The specified job does not exist.")
	}
	switch operation {
	case "DescribeJob":
		return s.describeJob(j), nil
	case "UpdateJobStatus":
		return s.updateStatus(j, query.Get("requestedJobStatus"), query.Get("statusUpdateReason"))
	default:
		return s.updatePriority(j, query.Get("priority"))
	}
}

func (s *Service) authorize(c wire.Caller, action, resource string) error {
	if c.May(action, resource) {
		return nil
	}
	return accessDenied("User: " + c.ARN + " is not authorized to perform: " + action + " on resource: " + resource)
}

func (s *Service) arn(id string) string {
	return "arn:aws:s3:" + s.cfg.Region + ":" + s.cfg.Account + ":job/" + id
}

func (s *Service) find(id string) *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.jobs {
		if j.id == id {
			return j
		}
	}
	return nil
}

// createJob makes a job, or finds the one that the same request made before.
func (s *Service) createJob(c wire.Caller, body []byte) (any, error) {
	var in createJobRequest
	if err := xml.NewDecoder(bytes.NewReader(body)).Decode(&in); err != nil {
		return nil, wire.Errorf(400, "MalformedXML", "The XML you provided was not well-formed or did not validate against our published schema")
	}
	if err := in.check(); err != nil {
		return nil, err
	}
	if err := s.authorize(c, "iam:PassRole", in.RoleArn); err != nil {
		return nil, err
	}
	type answer struct {
		XMLName xml.Name `xml:"CreateJobResult"`
		JobID   string   `xml:"JobId"`
	}
	j := &job{
		id: wire.NewUUID(), request: in, digest: sha256.Sum256(body), priority: in.Priority,
		status: statusNew, created: time.Now(), confirmed: make(chan struct{}),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, old := range s.jobs {
		if old.request.ClientRequestToken != in.ClientRequestToken {
			continue
		}
		if old.digest != j.digest {
			return nil, wire.Errorf(400, "IdempotencyException", "The ClientRequestToken was used before, with other parameters.")
		}
		return answer{JobID: old.id}, nil
	}
	s.jobs = append(s.jobs, j)
	s.running.Go(func() { s.run(j) })
	return answer{JobID: j.id}, nil
}

func (s *Service) listJobs(statuses []string, limit, token string) (any, error) {
	const most = 1000
	n, from := most, 0
	var err error
	if limit != "" {
		if n, err = strconv.Atoi(limit); err != nil || n < 1 || n > most {
			return nil, invalidRequest("maxResults must be from 1 to 1000")
		}
	}
	if token != "" {
		if from, err = strconv.Atoi(token); err != nil || from < 0 {
			return nil, wire.Errorf(400, "InvalidNextTokenException", "The token is not one of ListJobs.")
		}
	}
	var out struct {
		XMLName   xml.Name        `xml:"ListJobsResult"`
		NextToken string          `xml:",omitempty"`
		Jobs      []listedJobBody `xml:"Jobs>member"`
	}
	s.mu.Lock()
	all := slices.Clone(s.jobs)
	s.mu.Unlock()
	for i := from; i < len(all); i++ {
		d := all[i].describe(s)
		if len(statuses) > 0 && !slices.Contains(statuses, d.Status) {
			continue
		}
		if len(out.Jobs) == n {
			out.NextToken = strconv.Itoa(i)
			break
		}
		out.Jobs = append(out.Jobs, listedJobBody{
			JobID: d.JobID, Description: d.Description, Operation: "S3UpdateObjectEncryption", Priority: d.Priority,
			Status: d.Status, CreationTime: d.CreationTime, TerminationDate: d.TerminationDate, ProgressSummary: d.ProgressSummary,
		})
	}
	return out, nil
}

func (s *Service) describeJob(j *job) any {
	return struct {
		XMLName xml.Name `xml:"DescribeJobResult"`
		Job     jobBody
	}{Job: j.describe(s)}
}

func (s *Service) updateStatus(j *job, to, reason string) (any, error) {
	status, err := j.move(s, to, reason)
	if err != nil {
		return nil, err
	}
	return struct {
		XMLName            xml.Name `xml:"UpdateJobStatusResult"`
		JobID              string   `xml:"JobId"`
		Status             string
		StatusUpdateReason string `xml:",omitempty"`
	}{JobID: j.id, Status: status, StatusUpdateReason: reason}, nil
}

func (s *Service) updatePriority(j *job, priority string) (any, error) {
	n, err := strconv.ParseInt(priority, 10, 32)
	if err != nil || n < 0 {
		return nil, invalidRequest("priority must be a number that is not negative")
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if final(j.status) {
		return nil, wire.Errorf(400, "JobStatusException", "The priority of a job that is %s cannot change.", j.status)
	}
	j.priority = int32(n)
	return struct {
		XMLName  xml.Name `xml:"UpdateJobPriorityResult"`
		JobID    string   `xml:"JobId"`
		Priority int32
	}{JobID: j.id, Priority: j.priority}, nil
}

func accessDenied(message string) error {
	return wire.Errorf(http.StatusForbidden, "AccessDenied", "%s", message)
}

func invalidRequest(message string) error {
	return wire.Errorf(http.StatusBadRequest, "InvalidRequest", "%s", message)
}

func notModelled(what string) error {
	return wire.Errorf(http.StatusNotImplemented, "NotImplemented", "localaws does not model %s", what)
}
