package reencrypt

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

// Batch is the API of S3 Batch Operations for the account. Call sends a request to a
// path, which may have a query: it encodes in as XML, unless that is nil, and decodes
// the answer into out, unless that is nil. An error of S3 is a [smithy.APIError].
type Batch interface {
	Call(ctx context.Context, method, path string, in, out any) error
}

const batchPath = "/v20180820/jobs"

// The statuses of S3's that count here.
const (
	batchNew        = "New"
	batchComplete   = "Complete"
	batchFailed     = "Failed"
	batchCancelling = "Cancelling"
	batchCancelled  = "Cancelled"
)

// BatchJob is a job of S3 Batch Operations that does a part of a job: the objects
// under one from-key, with a bucket key or without. UpdateObjectEncryption sets
// the bucket key anew, so that objects of both kinds in one job would change.
type BatchJob struct {
	From      string `json:"from"`
	BucketKey bool   `json:"bucket_key"`
	// Token makes a repeated CreateJob find the same job.
	Token string `json:"token"`
	// ID is S3's id of it, "" before it is known.
	ID string `json:"id,omitempty"`
	// Status is what S3 said last, or refused where S3 refused to create it.
	Status    string `json:"status,omitempty"`
	Tasks     int64  `json:"tasks"`
	Succeeded int64  `json:"succeeded"`
	Failed    int64  `json:"failed"`
	// Causes are S3's reasons of a failure of the whole.
	Causes []string `json:"causes,omitempty"`
	// Ours: we cancelled it.
	Ours bool `json:"ours,omitempty"`
	// Rows is the address of its failed tasks (JSON lines), "" where there is no
	// report of them.
	Rows string `json:"rows,omitempty"`
}

// String says how far it is. It may hold what S3 says, as it is: escape it before it is shown.
func (b BatchJob) String() string {
	switch {
	case b.Status == "", b.Status == batchRefused:
		return "one that S3 has not created"
	case b.empty():
		kind := "without"
		if b.BucketKey {
			kind = "with"
		}
		return fmt.Sprintf("%s: nothing to do: S3 found no objects %s a bucket key under %s, which it calls %s; the workers' passes verify that", b.ID, kind, b.From, b.Status)
	}
	text := fmt.Sprintf("%s: %s, %d of %d tasks succeeded and %d failed", b.ID, b.Status, b.Succeeded, b.Tasks, b.Failed)
	if len(b.Causes) > 0 {
		text += " (" + strings.Join(b.Causes, "; ") + ")"
	}
	return text
}

// batchRefused is the Status of a BatchJob that S3 refused to create.
const batchRefused = "refused"

func (b BatchJob) ended() bool {
	switch b.Status {
	case batchRefused, batchComplete, batchFailed, batchCancelled:
		return true
	}
	return false
}

// empty reports whether it failed because there was nothing to do, which S3 calls
// a failure ("Troubleshooting replication" in its User Guide has the text).
func (b BatchJob) empty() bool {
	return b.Status == batchFailed && b.Tasks == 0 &&
		slices.ContainsFunc(b.Causes, func(c string) bool { return strings.Contains(strings.ToLower(c), "no keys matching") })
}

// batchWork is the part of a job that S3 Batch Operations do.
type batchWork struct {
	// Jobs are stored before they are created.
	Jobs []BatchJob `json:"jobs,omitempty"`
	// Past are those of the attempts that were given up, as many as Attempt says:
	// the job was paused, or something was missing. The next ones are made anew.
	Past    []BatchJob `json:"past,omitempty"`
	Attempt int        `json:"attempt,omitempty"`
	// Role is the ARN of the role that they take. It is a part of the request that
	// has to be the same each time.
	Role string `json:"role,omitempty"`
	// Polled is when the message that goes on asking asked last.
	Polled time.Time `json:"polled,omitzero"`
	// Done: nothing is left to do for S3 Batch Operations.
	Done bool `json:"done,omitempty"`
	// Not is why they were not used.
	Not string `json:"not,omitempty"`
}

func (w *batchWork) jobs() []BatchJob {
	if w == nil {
		return nil
	}
	return w.Jobs
}

func (w *batchWork) started() bool { return len(w.jobs()) > 0 }

// all returns the batch jobs of all attempts.
func (w *batchWork) all() []BatchJob {
	if w == nil {
		return nil
	}
	return slices.Concat(w.Past, w.Jobs)
}

// moved is how many objects S3 says that the jobs of this attempt have moved.
func (w *batchWork) moved() (n int64) {
	for _, b := range w.jobs() {
		n += b.Succeeded
	}
	return n
}

// unfinished reports whether jobs of it may run.
func (w *batchWork) unfinished() bool {
	return w.started() && !w.Done && slices.ContainsFunc(w.Jobs, func(b BatchJob) bool { return !b.ended() })
}

// String describes the progress. The text stays the same while there is none.
func (w *batchWork) String() string {
	if !w.started() || w.Done {
		return ""
	}
	var parts []string
	for _, b := range w.Jobs {
		if b.empty() {
			parts = append(parts, fmt.Sprintf(", S3 Batch job %s had nothing to do", b.ID))
			continue
		}
		parts = append(parts, fmt.Sprintf(", S3 Batch job %s %s with %d of %d tasks done", b.ID, b.Status, b.Succeeded+b.Failed, b.Tasks))
	}
	return strings.Join(parts, "")
}

const (
	// batchPoll is how often S3 is asked how far a batch job is, where no event
	// says that it has changed.
	batchPoll = 5 * time.Minute
	// batchEnding is how often it is asked while a superseded job's batch jobs end.
	batchEnding = 30 * time.Second
	// batchStallAfter is stallAfter for them: they may wait for others, and generate
	// the manifest of a large bucket for hours.
	batchStallAfter = 12 * time.Hour
)

// batchNote says what S3 Batch Operations cannot promise, for the report. The
// operation has no precondition; whether a generated manifest names versions, so
// that a new one is left alone, is not documented.
const batchNote = "S3 Batch Operations move what is there when a task runs. An object that a writer replaced after the manifest was generated may have been moved to the new key whatever key its writer had chosen; its bytes are as they were written."

// batchMethod is what the operation of batch jobs does: UpdateObjectEncryption.
const batchMethod = MethodUpdate

// batchExecutor has S3 Batch Operations move what is left of a job.
type batchExecutor struct {
	// after is how many object versions are left to the fleet.
	after int64
	// required: a job where they cannot be used stops.
	required bool
}

func (batchExecutor) needsRole() bool { return true }

func (x batchExecutor) refuses(m Method) string {
	if x.required {
		return batchRefuses(m)
	}
	return ""
}

// batchRefuses says why batch jobs cannot move objects by a method, or "".
func batchRefuses(m Method) string {
	if m == MethodAuto || m == batchMethod {
		return ""
	}
	return fmt.Sprintf("the method is %s, and they only change objects in place", m)
}

func (x batchExecutor) due(versions int64) bool { return versions >= x.after }

func (x batchExecutor) begin(ctx context.Context, e *Engine, j *jobDoc) (wait bool, err error) {
	if err := e.batchIntend(ctx, j, x.required); err != nil || j.Batch.Done {
		return false, err
	}
	return e.awaitBatch(ctx, j)
}

// awaitBatch creates the batch jobs of a job that are not created yet. The message
// that asks how far they are sends the planner on.
func (e *Engine) awaitBatch(ctx context.Context, j *jobDoc) (wait bool, err error) {
	delay := batchPoll
	if !j.Batch.unfinished() {
		delay = 0
	}
	if err := e.sendBatch(ctx, j.ID, j.Pass, delay); err != nil {
		return false, err
	}
	return true, e.batchCreate(ctx, j)
}

// batchIntend stores which batch jobs a job will have, or why it has none.
func (e *Engine) batchIntend(ctx context.Context, j *jobDoc, required bool) error {
	if j.Bucket == e.opt.StateBucket {
		return &stopError{"bucket " + j.Bucket + " is cmkeeper's own state bucket"}
	}
	why, err := e.batchNot(ctx, j.spec)
	switch {
	case err != nil:
		return err
	case why != "" && required:
		return &stopError{"S3 Batch Operations cannot be used: " + why}
	case why != "":
		e.opt.Logger.WarnContext(ctx, "S3 Batch Operations are not used", "job", j.ID, "bucket", j.Bucket, "reason", why)
	}
	return e.changeRunning(ctx, j, func(now *jobDoc) {
		if now.Batch.started() || now.Batch != nil && now.Batch.Done { // another planner was here
			return
		}
		if now.Batch == nil {
			now.Batch = &batchWork{}
		}
		now.Batch.Done, now.Batch.Not = why != "", why
		if why == "" {
			now.Batch.Jobs, now.Batch.Role = batchJobs(now.ID, now.spec, now.Batch.Attempt), e.opt.BatchRole
		}
	})
}

// batchNot says why the objects of s cannot be moved by S3 Batch Operations, or "".
func (e *Engine) batchNot(ctx context.Context, s spec) (string, error) {
	if why := batchRefuses(s.Method); why != "" {
		return why, nil
	}
	m, err := e.methodOf(ctx, s)
	if err != nil {
		return "", err
	}
	if m.traits().name != batchMethod {
		return "UpdateObjectEncryption is not proved on this server", nil
	}
	if s.Versions == VersionsAll {
		return "", nil
	}
	versioned, err := e.versioned(ctx, s.Bucket)
	if err == nil && versioned { // what a generated manifest holds is not documented
		return "only current versions are in scope, and a manifest that S3 generates may hold noncurrent ones", nil
	}
	return "", err
}

// batchJobs returns the batch jobs of a job.
func batchJobs(id string, s spec, attempt int) []BatchJob {
	var jobs []BatchJob
	for _, from := range s.From {
		for _, bucketKey := range []bool{true, false} {
			h := sha256.Sum256(fmt.Appendf(nil, "%s %t %d", from, bucketKey, attempt))
			jobs = append(jobs, BatchJob{From: from, BucketKey: bucketKey, Token: id + "-" + hex.EncodeToString(h[:16])})
		}
	}
	return jobs
}

// createJob is the request for a batch job.
type createJob struct {
	XMLName              struct{} `xml:"http://awss3control.amazonaws.com/doc/2018-08-20/ CreateJobRequest"`
	ClientRequestToken   string
	ConfirmationRequired bool
	Description          string
	Manifest             struct {
		EnableManifestOutput bool
		ExpectedBucketOwner  string
		Prefix               *string `xml:"Filter>KeyNameConstraint>MatchAnyPrefix>member"`
		BucketKeyEnabled     bool    `xml:"Filter>MatchAnyObjectEncryption>ObjectEncryption>SSE-KMS>BucketKeyEnabled"`
		KMSKeyARN            string  `xml:"Filter>MatchAnyObjectEncryption>ObjectEncryption>SSE-KMS>KmsKeyArn"`
		SourceBucket         string
	} `xml:"ManifestGenerator>S3JobManifestGenerator"`
	BucketKeyEnabled bool   `xml:"Operation>S3UpdateObjectEncryption>ObjectEncryption>SSE-KMS>BucketKeyEnabled"`
	KMSKeyARN        string `xml:"Operation>S3UpdateObjectEncryption>ObjectEncryption>SSE-KMS>KMSKeyArn"`
	Priority         int
	Report           struct {
		Bucket              string
		Enabled             bool
		ExpectedBucketOwner string
		Format              string
		Prefix              string
		ReportScope         string
	}
	RoleARN string `xml:"RoleArn"`
}

// batchInput is the request for a batch job. It is the same each time, as its
// token demands.
func (e *Engine) batchInput(j *jobDoc, b BatchJob) createJob {
	bucketARN := func(bucket string) string {
		return arn.ARN{Partition: arn.Parse(j.To).Partition, Service: "s3", Resource: bucket}.String()
	}
	in := createJob{
		ClientRequestToken: b.Token, Description: "cmkeeper job " + j.ID, Priority: 10, RoleARN: j.Batch.Role,
		KMSKeyARN: j.To, BucketKeyEnabled: b.BucketKey,
	}
	in.Manifest.SourceBucket, in.Manifest.ExpectedBucketOwner = bucketARN(j.Bucket), e.opt.Account
	in.Manifest.KMSKeyARN, in.Manifest.BucketKeyEnabled = b.From, b.BucketKey
	if j.Prefix != "" {
		in.Manifest.Prefix = &j.Prefix
	}
	in.Report.Enabled, in.Report.Format, in.Report.ReportScope = true, "Report_CSV_20180820", "FailedTasksOnly"
	in.Report.Bucket, in.Report.ExpectedBucketOwner, in.Report.Prefix = bucketARN(e.opt.StateBucket), e.opt.Account, e.opt.StatePrefix+batchReports(j.ID)
	return in
}

// batchCreate creates the batch jobs whose ids are not known. What a crash has
// left between S3's answer and our note of it is found again by its token.
func (e *Engine) batchCreate(ctx context.Context, j *jobDoc) error {
	for _, b := range j.Batch.Jobs {
		if b.ID != "" || b.ended() {
			continue
		}
		var out struct {
			ID string `xml:"JobId"`
		}
		err := e.opt.Batch.Call(ctx, http.MethodPost, batchPath, e.batchInput(j, b), &out)
		stop := batchError("CreateJob", "s3:CreateJob, and iam:PassRole on "+j.Batch.Role, err)
		_, refused := errors.AsType[*stopError](stop)
		if stop != nil && !refused {
			return stop
		}
		if refused {
			return errors.Join(stop, e.changeJob(ctx, j, func(now *jobDoc) error {
				for i := range now.Batch.jobs() { // the later ones were not asked for
					if now.Batch.Jobs[i].ID == "" {
						now.Batch.Jobs[i].Status = batchRefused
					}
				}
				return nil
			}))
		}
		err = e.changeBatch(ctx, j, b.Token, func(now *BatchJob) {
			now.ID, now.Status = out.ID, batchNew
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// batchError says what an error of S3's control endpoint means: a stopError where
// waiting does not help.
func batchError(operation, needed string, err error) error {
	switch {
	case err == nil:
		return nil
	case hasCode(err, "TooManyRequestsException"), hasCode(err, "InternalServiceException"):
		return fmt.Errorf("%s: %w", operation, err)
	}
	switch classify(err) {
	case faultTransient, faultThrottled:
		return fmt.Errorf("%s: %w", operation, err)
	case faultDenied:
		return &stopError{fmt.Sprintf("S3 Batch Operations: %s is denied (%s); needed: %s", operation, words(err), needed)}
	default:
		return &stopError{fmt.Sprintf("S3 Batch Operations: %s failed (%s)", operation, words(err))}
	}
}

// batch asks how far a job's batch jobs are, and sends the job on when all of them
// have ended. Those of a job that does not run any more are cancelled.
func (e *Engine) batch(ctx context.Context, j jobDoc) error {
	if j.Batch == nil {
		return nil
	}
	if j.Batch.Done { // the planner message may have been lost
		return e.sendPlan(ctx, j.ID, time.Now())
	}
	if err := e.batchLook(ctx, &j); err != nil {
		return err
	}
	if j.Batch.unfinished() {
		if time.Since(j.Batch.Polled) < batchPoll-time.Minute {
			return nil // another message goes on asking
		}
		if err := e.changeJob(ctx, &j, func(now *jobDoc) error { now.Batch.Polled = time.Now(); return nil }); err != nil {
			return err
		}
		return outcome.RetryAfter(batchPoll, fmt.Errorf("job %s waits for S3 Batch Operations%s", j.ID, j.Batch))
	}
	if j.State != StateRunning || !j.Batch.started() {
		return nil
	}
	if err := e.batchRows(ctx, &j); err != nil {
		return err
	}
	cause := batchCause(j.Batch.Jobs)
	if err := e.batchEnd(ctx, &j, cause != ""); err != nil {
		return err
	}
	if cause != "" {
		return &stopError{cause}
	}
	return e.sendPlan(ctx, j.ID, time.Now())
}

// batchLook brings what is known of the batch jobs up to date.
func (e *Engine) batchLook(ctx context.Context, j *jobDoc) error {
	if !j.Batch.unfinished() {
		return nil
	}
	if e.opt.Batch == nil {
		return fmt.Errorf("job %s has batch jobs, and this process has no client for them", j.ID)
	}
	if err := e.batchCreate(ctx, j); err != nil {
		return err
	}
	for _, b := range j.Batch.Jobs {
		if b.ended() {
			continue
		}
		var out struct{ Job *jobDescriptor }
		err := e.opt.Batch.Call(ctx, http.MethodGet, batchPath+"/"+b.ID, nil, &out)
		if b.Status == batchNew && (hasCode(err, "NoSuchJobException") || hasCode(err, "NotFoundException")) {
			continue // S3 does not show a new job everywhere at once
		}
		if err == nil && out.Job == nil {
			err = errors.New("the answer is empty")
		}
		if err := batchError("DescribeJob", "s3:DescribeJob", err); err != nil {
			return err
		}
		now := described(b, out.Job)
		if j.State != StateRunning && !now.ended() && now.Status != batchCancelling {
			query := url.Values{"requestedJobStatus": {batchCancelled}, "statusUpdateReason": {"cmkeeper job " + j.ID + " is " + string(j.State)}}
			err := e.opt.Batch.Call(ctx, http.MethodPost, batchPath+"/"+b.ID+"/status?"+query.Encode(), nil, nil)
			if hasCode(err, "JobStatusException") { // it has ended, or another worker has cancelled it, since it was described
				err = nil
			}
			if err := batchError("UpdateJobStatus", "s3:UpdateJobStatus", err); err != nil {
				return err
			}
			now.Ours = true
		}
		if err := e.changeBatch(ctx, j, b.Token, func(stored *BatchJob) { *stored = now }); err != nil {
			return err
		}
	}
	return nil
}

// jobDescriptor is what S3 says of a batch job.
type jobDescriptor struct {
	Status   string
	Progress *struct {
		Total     int64 `xml:"TotalNumberOfTasks"`
		Succeeded int64 `xml:"NumberOfTasksSucceeded"`
		Failed    int64 `xml:"NumberOfTasksFailed"`
	} `xml:"ProgressSummary"`
	Failures []struct {
		Code   string `xml:"FailureCode"`
		Reason string `xml:"FailureReason"`
	} `xml:"FailureReasons>member"`
}

// described is a batch job as S3 describes it.
func described(b BatchJob, d *jobDescriptor) BatchJob {
	b.Status, b.Causes = d.Status, nil
	if p := d.Progress; p != nil {
		b.Tasks, b.Succeeded, b.Failed = p.Total, p.Succeeded, p.Failed
	}
	for _, f := range d.Failures {
		b.Causes = append(b.Causes, strings.TrimPrefix(f.Code+": "+f.Reason, ": "))
	}
	return b
}

// batchCause says why a job cannot go on from what its batch jobs have come to, or
// "". Failed tasks of one that is complete are no cause: the fleet looks at each of
// their objects. But where the whole job failed or a person cancelled it, the fleet
// would have to move more than it was meant to.
func batchCause(jobs []BatchJob) string {
	for _, b := range jobs {
		switch b.Status {
		case batchFailed:
			if b.empty() {
				continue
			}
		case batchCancelled:
			if b.Ours {
				continue
			}
		default:
			continue
		}
		cause := fmt.Sprintf("S3 Batch Operations job %s is %s, with %d of %d tasks failed", b.ID, strings.ToLower(b.Status), b.Failed, b.Tasks)
		if len(b.Causes) > 0 {
			cause += " (" + strings.Join(b.Causes, "; ") + ")"
		}
		if b.Rows != "" {
			cause += "; the failed tasks are in " + b.Rows
		}
		return cause + "; see docs/reencryption.md for what its role needs, or let the fleet move the rest with CMKEEPER_REENCRYPT_ENGINE=fleet"
	}
	return ""
}

// batchEnd notes that S3 Batch Operations have finished a job, or that this
// attempt was given up, and what they moved. That is S3's word; what is under the
// new key the passes of the fleet have to find.
func (e *Engine) batchEnd(ctx context.Context, j *jobDoc, giveUp bool) error {
	return e.changeRunning(ctx, j, func(now *jobDoc) {
		if !now.Batch.started() || now.Batch.Done { // another message was first
			return
		}
		now.Earlier.Moved += now.Batch.moved()
		giveUp = giveUp || slices.ContainsFunc(now.Batch.Jobs, func(b BatchJob) bool { return b.Ours || b.Status == batchRefused })
		if giveUp {
			now.Batch = &batchWork{Past: now.Batch.all(), Attempt: now.Batch.Attempt + 1}
			return
		}
		now.Batch.Done = true
	})
}

// BatchChanged asks soon how far the batch jobs of all jobs are. It is called when
// an event says that one has changed: which one does not matter, since S3 is asked
// about ours.
func (e *Engine) BatchChanged(ctx context.Context) error {
	if e.opt.Store == nil {
		return nil
	}
	open, err := e.openJobs(ctx)
	if err != nil && !errors.Is(err, state.ErrUnreadable) {
		return fmt.Errorf("look for the job of a batch job: %w", err)
	}
	for _, j := range open {
		if !j.Batch.unfinished() {
			continue
		}
		if err := e.sendBatch(ctx, j.ID, j.Pass, 0); err != nil {
			return err
		}
	}
	return nil
}

// endBatches waits until the batch jobs of the jobs that j supersedes have ended:
// they move objects to a key that is not the alias's any more.
func (e *Engine) endBatches(ctx context.Context, j jobDoc) error {
	for _, id := range j.Supersedes {
		old, err := e.job(ctx, id)
		if errors.Is(err, state.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if !old.Batch.unfinished() && old.State != StateRunning {
			continue
		}
		if old.State != StateRunning { // else its start broke off before it was marked, and will be repeated
			if err := e.batchLook(ctx, &old); err != nil {
				return err
			}
			if !old.Batch.unfinished() {
				continue
			}
		}
		return outcome.RetryAfter(batchEnding, fmt.Errorf("job %s waits until the batch jobs of job %s, which it supersedes, have ended", j.ID, id))
	}
	return nil
}

func (e *Engine) sendBatch(ctx context.Context, job string, pass int, delay time.Duration) error {
	return e.send(ctx, message{Job: job, Pass: pass, Batch: true}, delay)
}

// changeJob changes a job as it is stored now, and makes j that.
func (e *Engine) changeJob(ctx context.Context, j *jobDoc, f func(now *jobDoc) error) error {
	return state.Update(ctx, e.opt.Store, j.key(), func(now *jobDoc, exists bool) error {
		if !exists {
			return errNotRunning
		}
		if err := f(now); err != nil {
			return err
		}
		*j = *now
		return nil
	})
}

// changeRunning is changeJob for a job that runs; else errNotRunning.
func (e *Engine) changeRunning(ctx context.Context, j *jobDoc, f func(now *jobDoc)) error {
	return e.changeJob(ctx, j, func(now *jobDoc) error {
		if now.State != StateRunning {
			return errNotRunning
		}
		f(now)
		return nil
	})
}

// changeBatch changes the batch job with a token.
func (e *Engine) changeBatch(ctx context.Context, j *jobDoc, token string, f func(now *BatchJob)) error {
	return e.changeJob(ctx, j, func(now *jobDoc) error {
		i := slices.IndexFunc(now.Batch.jobs(), func(b BatchJob) bool { return b.Token == token })
		if i < 0 || now.Batch.Jobs[i].ended() {
			return state.ErrUnchanged
		}
		f(&now.Batch.Jobs[i])
		return nil
	})
}
