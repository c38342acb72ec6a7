package s3control

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// The statuses. A job pauses in favour of one of higher priority only where the
// service is short of capacity, so Pausing and Paused do not occur here.
const (
	statusNew        = "New"
	statusPreparing  = "Preparing"
	statusSuspended  = "Suspended"
	statusReady      = "Ready"
	statusActive     = "Active"
	statusComplete   = "Complete"
	statusCancelling = "Cancelling"
	statusCancelled  = "Cancelled"
	statusFailing    = "Failing"
	statusFailed     = "Failed"
)

func final(status string) bool {
	return status == statusComplete || status == statusCancelled || status == statusFailed
}

const (
	// failingTasks is how many tasks must have run before a job fails because more
	// than half of them failed.
	failingTasks = 1000
	// concurrency is how many tasks of a job run at once.
	concurrency = 8
)

// job is a job. Its request never changes; mu guards the rest.
type job struct {
	id      string
	digest  [sha256.Size]byte
	request createJobRequest
	created time.Time
	// confirmed is closed when a suspended job may go on.
	confirmed chan struct{}
	confirm   sync.Once

	mu                       sync.Mutex
	priority                 int32
	status, reason           string
	suspended, ended         time.Time
	total, succeeded, failed int64
	active                   time.Time
	failures                 []failure
	manifest                 *locationBody
	cancel                   context.CancelFunc
}

// failure is why a job failed.
type failure struct {
	Code   string `xml:"FailureCode"`
	Reason string `xml:"FailureReason"`
}

func (f failure) Error() string { return f.Code + ": " + f.Reason }

// enter puts the job into a status, unless it is being cancelled or failing and
// the status is not where that ends, and publishes it.
func (j *job) enter(s *Service, status string) bool {
	j.mu.Lock()
	switch {
	case final(j.status),
		j.status == statusCancelling && status != statusCancelled,
		j.status == statusFailing && status != statusFailed:
		j.mu.Unlock()
		return false
	}
	j.status = status
	now := time.Now()
	switch {
	case status == statusSuspended:
		j.suspended = now
	case status == statusActive:
		j.active = now
	case final(status):
		j.ended = now
	}
	reason, codes := j.reason, []string{}
	for _, f := range j.failures {
		codes = append(codes, f.Code)
	}
	j.mu.Unlock()
	s.publish(j.id, "JobStatusChanged", status, codes, reason)
	return true
}

// move does what UpdateJobStatus asks for.
func (j *job) move(s *Service, to, reason string) (string, error) {
	j.mu.Lock()
	from := j.status
	switch {
	case to == statusReady && from == statusSuspended:
		j.reason = reason
		j.mu.Unlock()
		j.enter(s, statusReady)
		j.confirm.Do(func() { close(j.confirmed) })
		return statusReady, nil
	case to == statusCancelled && !final(from) && from != statusCancelling && from != statusFailing:
		j.reason = reason
		cancel := j.cancel
		j.mu.Unlock()
		j.enter(s, statusCancelling)
		if cancel != nil {
			cancel()
		}
		return statusCancelling, nil
	}
	j.mu.Unlock()
	if to != statusReady && to != statusCancelled {
		return "", invalidRequest("requestedJobStatus must be Ready or Cancelled")
	}
	return "", wire.Errorf(400, "JobStatusException", "A job that is %s cannot become %s.", from, to)
}

// run takes a job through its statuses until it is final.
func (s *Service) run(j *job) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	j.mu.Lock()
	j.cancel = cancel
	if j.status == statusCancelling { // cancelled before it ran
		cancel()
	}
	j.mu.Unlock()
	s.publish(j.id, "JobCreated", statusNew, []string{}, "")
	role := s.cfg.Role(j.request.RoleArn)
	err := s.work(ctx, j, role)
	if s.ctx.Err() != nil {
		return // closed
	}
	if f, ok := err.(failure); ok { //nolint:errorlint // nothing wraps it
		j.mu.Lock()
		j.failures = append(j.failures, f)
		j.mu.Unlock()
		j.enter(s, statusFailing)
		j.enter(s, statusFailed)
		return
	}
	if j.enter(s, statusComplete) {
		return
	}
	j.enter(s, statusCancelled)
}

// work does the work of a job: nil when it is done, a failure when it failed, and
// the context's error when it was cancelled. The report is written before the
// status is final; that AWS has written it by then is not documented.
func (s *Service) work(ctx context.Context, j *job, role wire.Caller) error {
	if err := s.pass(ctx); err != nil || !j.enter(s, statusPreparing) {
		return context.Canceled
	}
	tasks, err := s.prepare(ctx, j, role)
	if err != nil {
		return err
	}
	j.mu.Lock()
	j.total = int64(len(tasks))
	j.mu.Unlock()
	if err := s.pass(ctx); err != nil {
		return err
	}
	if j.request.ConfirmationRequired {
		if !j.enter(s, statusSuspended) {
			return context.Canceled
		}
		select {
		case <-j.confirmed:
		case <-ctx.Done():
			return ctx.Err()
		}
	} else if !j.enter(s, statusReady) {
		return context.Canceled
	}
	if err := s.pass(ctx); err != nil || !j.enter(s, statusActive) {
		return context.Canceled
	}
	done, err := s.perform(ctx, j, role, tasks)
	if reportErr := s.report(context.WithoutCancel(ctx), j, role, done); reportErr != nil && err == nil {
		err = failure{"ReportWriteFailed", "The completion report could not be written: " + reportErr.Error()}
	}
	return err
}

// pass waits for as long as a step takes.
func (s *Service) pass(ctx context.Context) error {
	d := time.Duration(s.pace.Load())
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// perform runs the tasks, a few at a time, and returns what became of those that ran.
func (s *Service) perform(ctx context.Context, j *job, role wire.Caller, tasks []task) ([]task, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var (
		mu   sync.Mutex
		done []task
		wg   sync.WaitGroup
		next = make(chan task)
	)
	for range concurrency {
		wg.Go(func() {
			for t := range next {
				if s.pass(ctx) != nil {
					continue
				}
				s.do(context.WithoutCancel(ctx), j, role, &t)
				mu.Lock()
				done = append(done, t)
				mu.Unlock()
				if j.count(t.code == "") {
					stop(failure{"JobFailureThresholdExceeded", "More than 50% of the tasks failed"})
				}
			}
		})
	}
	for _, t := range tasks {
		select {
		case next <- t:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	wg.Wait()
	slices.SortFunc(done, func(a, b task) int { return strings.Compare(a.key+"\x00"+a.version, b.key+"\x00"+b.version) })
	return done, context.Cause(ctx)
}

// count counts a task, and reports whether so many failed that the job does.
func (j *job) count(ok bool) (failing bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if ok {
		j.succeeded++
	} else {
		j.failed++
	}
	run := j.succeeded + j.failed
	return run >= failingTasks && 2*j.failed > run
}

// jobBody is a job as DescribeJob tells it.
type jobBody struct {
	JobID                string `xml:"JobId"`
	JobArn               string
	ConfirmationRequired bool
	Description          string `xml:",omitempty"`
	Priority             int32
	RoleArn              string
	Status               string
	StatusUpdateReason   string `xml:",omitempty"`
	SuspendedCause       string `xml:",omitempty"`
	CreationTime         string
	SuspendedDate        string `xml:",omitempty"`
	TerminationDate      string `xml:",omitempty"`
	ProgressSummary      progressBody
	FailureReasons       []failure     `xml:"FailureReasons>member,omitempty"`
	Operation            describedBody `xml:"Operation>S3UpdateObjectEncryption>ObjectEncryption>SSE-KMS"`
	Report               *describedReport
	Generated            *generatedBody `xml:"GeneratedManifestDescriptor"`
}

type describedBody struct {
	KMSKeyArn        string
	BucketKeyEnabled bool
}

type describedReport struct {
	Enabled     bool
	Bucket      string `xml:",omitempty"`
	Format      string `xml:",omitempty"`
	Prefix      string `xml:",omitempty"`
	ReportScope string `xml:",omitempty"`
}

type generatedBody struct {
	Format   string
	Location locationBody
}

type locationBody struct {
	ETag      string
	ObjectArn string
}

type progressBody struct {
	TotalNumberOfTasks, NumberOfTasksSucceeded, NumberOfTasksFailed int64
	ElapsedTimeInActiveSeconds                                      int64 `xml:"Timers>ElapsedTimeInActiveSeconds"`
}

// listedJobBody is a job as ListJobs tells it.
type listedJobBody struct {
	JobID           string `xml:"JobId"`
	Description     string `xml:",omitempty"`
	Operation       string
	Priority        int32
	Status          string
	CreationTime    string
	TerminationDate string `xml:",omitempty"`
	ProgressSummary progressBody
}

func isoTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

func (j *job) describe(s *Service) jobBody {
	j.mu.Lock()
	defer j.mu.Unlock()
	d := jobBody{
		JobID: j.id, JobArn: s.arn(j.id), ConfirmationRequired: j.request.ConfirmationRequired, Description: j.request.Description,
		Priority: j.priority, RoleArn: j.request.RoleArn, Status: j.status, StatusUpdateReason: j.reason,
		CreationTime: isoTime(j.created), SuspendedDate: isoTime(j.suspended), TerminationDate: isoTime(j.ended),
		ProgressSummary: progressBody{TotalNumberOfTasks: j.total, NumberOfTasksSucceeded: j.succeeded, NumberOfTasksFailed: j.failed},
		FailureReasons:  j.failures,
		Operation:       describedBody{j.request.Operation.Update.KeyARN, j.request.Operation.Update.BucketKey},
	}
	if r := j.request.Report; r != nil {
		d.Report = &describedReport{r.Enabled, r.Bucket, r.Format, r.Prefix, r.ReportScope}
	}
	if j.status == statusSuspended {
		d.SuspendedCause = "AwaitingConfirmation"
	}
	if !j.active.IsZero() {
		until := j.ended
		if until.IsZero() {
			until = time.Now()
		}
		d.ProgressSummary.ElapsedTimeInActiveSeconds = int64(until.Sub(j.active).Seconds())
	}
	if j.manifest != nil {
		d.Generated = &generatedBody{Format: manifestFormat, Location: *j.manifest}
	}
	return d
}

func noSuchBucket(name string) failure {
	return failure{"BucketNotFound", fmt.Sprintf("The bucket %s does not exist", name)}
}
