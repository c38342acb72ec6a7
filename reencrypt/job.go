package reencrypt

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

const (
	// gateInterval is how often a slice looks whether its job still runs.
	gateInterval = 5 * time.Second
	// supersedeGrace is how long the writers of a superseded job may go on after it was
	// marked: a gateInterval, and one request with the SDK's tries of it.
	supersedeGrace = 2 * time.Minute
	// maxPasses: where so many passes still move objects, a writer keeps using an
	// old key.
	maxPasses = 10
	// failedPasses is how often what failed is tried again before it is reported.
	failedPasses = 3
	// rivalWait is how long a move waits before it checks again whether the
	// conflicting job has ended.
	rivalWait = 5 * time.Minute
)

// errNotRunning ends the work of a job that was stopped or superseded.
var errNotRunning = errors.New("job is no longer running")

// jobDoc is what a job moves, and how far it is.
type jobDoc struct {
	ID    string `json:"id"`
	Alias string `json:"alias"`
	spec
	// MovedAt is when the alias moved: it orders the jobs of an alias.
	MovedAt time.Time `json:"moved_at"`
	State   State     `json:"state"`
	Cause   string    `json:"cause,omitempty"`
	// Pass counts from 1. Earlier is what the passes before it have moved.
	Pass    int    `json:"pass"`
	Earlier Counts `json:"earlier"`
	// Batch is what S3 Batch Operations do of it, nil where they do nothing.
	Batch *batchWork `json:"batch,omitempty"`
	// NotBefore is when a verifying pass may begin: when the writers of superseded
	// jobs have stopped.
	NotBefore  time.Time `json:"not_before"`
	Supersedes []string  `json:"supersedes,omitempty"`
	// RetryOf is the job whose report this one works through, and nothing else.
	RetryOf string `json:"retry_of,omitempty"`
	// Granted are the passes that no longer count: a person resumed the job after it
	// had stopped in the last of them.
	Granted int `json:"granted,omitempty"`
	// By is who ended its last pass, role/NAME or user/NAME.
	By           string    `json:"by,omitempty"`
	SupersededBy []string  `json:"superseded_by,omitempty"`
	Started      time.Time `json:"started"`
	Finished     time.Time `json:"finished"`
}

// Schema names the document for package state. Builds of version 1 move no data keys, and
// must not say that a job is complete that does.
func (j *jobDoc) Schema() (string, int) {
	if j.Envelopes != "" {
		return "job", 2
	}
	return "job", 1
}

func (j *jobDoc) key() string { return "jobs/" + j.ID + "/job.json" }

func (j *jobDoc) summary() Summary {
	return Summary{
		Job: j.ID, Alias: j.Alias, Bucket: j.Bucket, Prefix: j.Prefix, From: j.From, To: j.To, EnvelopesIn: j.Envelopes, RewriteFiles: j.RewriteFiles,
		State: j.State, Cause: j.Cause, Passes: j.Pass, Counts: withEarlier(Counts{}, j.Earlier), By: j.by(), Batch: j.Batch.all(), Started: j.Started, Finished: j.Finished,
	}
}

// by are those that worked on the job, S3 Batch Operations under their role included.
func (j *jobDoc) by() (all []string) {
	if j.By != "" {
		all = append(all, j.By)
	}
	if j.Batch != nil && j.Batch.Role != "" {
		all = append(all, "role/"+arn.Parse(j.Batch.Role).Name())
	}
	return all
}

// openDoc marks a job that still has work to do, or whose end still has to be
// reported. It is stored before anything is done and deleted at the end.
type openDoc struct {
	Alias string `json:"alias"`
	// Progress is what the last look of Resume found, since when, and when it last
	// sent messages again.
	Progress string    `json:"progress,omitempty"`
	Since    time.Time `json:"since"`
	Sent     time.Time `json:"sent"`
	// Notified is what the observer was notified of last: a State, or a Progress that stalled.
	Notified string `json:"told,omitempty"`
}

// Schema names the document for package state.
func (*openDoc) Schema() (string, int) { return "job-open", 1 }

const openPrefix = "jobs/open/"

func openKey(job string) string { return openPrefix + job + ".json" }

// jobID is the same for a repeated start of the same move.
func jobID(m Move, s Scope) string {
	return idOf(m.AliasARN, m.To, m.At.UTC().Format(time.RFC3339Nano), s.Bucket, s.Prefix)
}

// Start starts the jobs of a move, one for each part of its scope, and returns
// their ids. It may be repeated: a move has one set of jobs, and what a crash left
// undone is done then. A running job of the same alias is superseded: the new jobs
// take over its scope, its from-keys, and its to-key as a from-key. Where another job
// conflicts with the move, nothing is started, and the error is ErrRival and an
// outcome.RetryAfter.
func (e *Engine) Start(ctx context.Context, m Move) ([]string, error) {
	if e.opt.Store == nil {
		return nil, errors.New("start re-encryption: no state store")
	}
	if len(m.From) == 0 || m.To == "" || slices.Contains(m.From, m.To) {
		return nil, fmt.Errorf("start re-encryption of %s: needs keys to move from and another one to move to", m.AliasARN)
	}
	open, err := e.openJobs(ctx)
	if err != nil {
		return nil, fmt.Errorf("start re-encryption of %s: %w", m.AliasARN, err)
	}
	var own, others []jobDoc
	for _, j := range open {
		if j.Alias == m.AliasARN {
			own = append(own, j)
		} else {
			others = append(others, j)
		}
	}
	jobs, superseded := jobsOf(m, own, e.opt, time.Now())
	for i := range jobs {
		if err := jobs[i].giveWay(others); err != nil {
			return nil, outcome.RetryAfter(rivalWait, fmt.Errorf("start re-encryption of %s: %w", m.AliasARN, err))
		}
	}
	var ids []string
	for _, j := range jobs {
		ids = append(ids, j.ID)
		if err := e.create(ctx, j); err != nil {
			return nil, fmt.Errorf("start re-encryption of %s: %w", m.AliasARN, err)
		}
	}
	for _, old := range superseded {
		if err := e.supersede(ctx, old, ids); err != nil {
			return nil, fmt.Errorf("supersede job %s: %w", old, err)
		}
	}
	for _, id := range ids {
		if err := e.sendPlan(ctx, id, time.Now()); err != nil {
			return nil, fmt.Errorf("start job %s: %w", id, err)
		}
	}
	return ids, nil
}

// jobsOf returns the jobs of a move and the open jobs that they supersede.
//
// A move that is known late, after a newer one of its alias, moves its data to
// where the alias points now.
func jobsOf(m Move, open []jobDoc, o Options, now time.Time) (jobs []jobDoc, superseded []string) {
	to, newest := m.To, m.At
	from := slices.Clone(m.From)
	scope := slices.Clone(m.Scope)
	first := StateRunning
	var notBefore time.Time
	for _, j := range open {
		switch {
		case j.State == StateCancelled: // its last writers are waited for
			notBefore = later(notBefore, j.Finished.Add(supersedeGrace))
		case j.MovedAt.After(newest):
			to, newest = j.To, j.MovedAt
			from = append(from, m.To)
		case j.MovedAt.Before(m.At):
			superseded = append(superseded, j.ID)
			from = append(append(from, j.From...), j.To)
			scope = append(scope, Scope{j.Bucket, j.Prefix})
			notBefore = now.Add(supersedeGrace)
			if j.State == StatePaused { // for a reason that a move does not take away
				first = StatePaused
			}
		}
	}
	slices.Sort(from)
	from = slices.DeleteFunc(slices.Compact(from), func(key string) bool { return key == to })
	for _, s := range outermost(scope) {
		jobs = append(jobs, jobDoc{
			ID: jobID(m, s), Alias: m.AliasARN, MovedAt: m.At, State: first, Pass: 1,
			spec:      spec{Bucket: s.Bucket, Prefix: s.Prefix, From: from, To: to, Versions: o.Versions, Method: o.Method, Envelopes: o.Envelopes, RewriteFiles: o.RewriteFiles},
			NotBefore: notBefore, Supersedes: superseded, Started: now,
		})
	}
	return jobs, superseded
}

// create stores a job that is not stored yet.
func (e *Engine) create(ctx context.Context, j jobDoc) error {
	marker := &openDoc{Alias: j.Alias, Since: j.Started, Sent: j.Started}
	if err := e.putFirst(ctx, openKey(j.ID), marker, ""); err != nil {
		return err
	}
	return e.putFirst(ctx, j.key(), &j, "")
}

// supersede marks a job that newer ones have taken over from. A job that was
// quicker and is complete stays so, and open until its end is reported.
func (e *Engine) supersede(ctx context.Context, old string, by []string) error {
	var was State
	err := state.Update(ctx, e.opt.Store, "jobs/"+old+"/job.json", func(j *jobDoc, exists bool) error {
		if was = j.State; !exists || was != StateRunning && was != StatePaused && was != StateStopped {
			return state.ErrUnchanged
		}
		j.State, j.SupersededBy, j.Finished = StateSuperseded, by, time.Now()
		return nil
	})
	if err != nil || was == StateComplete {
		return err
	}
	return e.opt.Store.Delete(ctx, openKey(old), "")
}

// sendPlan sends the planner message of a job's pass, unless the planner is done.
// A pass that must not begin yet is delayed.
func (e *Engine) sendPlan(ctx context.Context, id string, now time.Time) error {
	j, err := e.job(ctx, id)
	if err != nil || j.State != StateRunning {
		return err
	}
	p, err := e.planOf(ctx, id, j.Pass)
	if err != nil || p.Done {
		return err
	}
	wait := time.Duration(0)
	if j.Pass > 1 {
		wait = min(max(j.NotBefore.Sub(now), 0), outcome.MaxDelay)
	}
	return e.send(ctx, message{Job: id, Plan: true, Pass: j.Pass}, wait)
}

// job reads a job.
func (e *Engine) job(ctx context.Context, id string) (jobDoc, error) {
	j := jobDoc{ID: id}
	_, err := e.opt.Store.Get(ctx, j.key(), &j)
	return j, err
}

// openIDs lists the ids of the open jobs.
func (e *Engine) openIDs(ctx context.Context) ([]string, error) {
	keys, err := e.keys(ctx, openPrefix)
	for i, key := range keys {
		keys[i] = strings.TrimSuffix(path.Base(key), ".json")
	}
	return keys, err
}

// openJobs reads the open jobs, in the order of their moves. With an error that is
// state.ErrUnreadable come the others: no job may start then, since it may conflict.
func (e *Engine) openJobs(ctx context.Context) ([]jobDoc, error) {
	ids, err := e.openIDs(ctx)
	if err != nil {
		return nil, err
	}
	var jobs []jobDoc
	var unread []error
	for _, id := range ids {
		j, err := e.job(ctx, id)
		switch {
		case errors.Is(err, state.ErrNotFound): // a crash between marker and job: the start will be repeated
			continue
		case errors.Is(err, state.ErrUnreadable):
			unread = append(unread, err)
			continue
		case err != nil:
			return nil, err
		}
		jobs = append(jobs, j)
	}
	slices.SortFunc(jobs, func(a, b jobDoc) int { return cmp.Or(a.MovedAt.Compare(b.MovedAt), cmp.Compare(a.ID, b.ID)) })
	return jobs, errors.Join(unread...)
}

// message is what the jobs queue carries: ids. Plan asks for the planning of a
// pass, Again for the slices from one on that have no result to be sent again,
// Batch for a look at the job's batch jobs; else it is about one slice of it.
type message struct {
	V     int    `json:"v"`
	Job   string `json:"job"`
	Pass  int    `json:"pass"`
	Plan  bool   `json:"plan,omitempty"`
	Again bool   `json:"again,omitempty"`
	Batch bool   `json:"batch,omitempty"`
	Slice int    `json:"slice"`
}

func parseMessage(body []byte) (message, error) {
	var m message
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("decode job message: %w", err)
	}
	id, err := hex.DecodeString(m.Job)
	if d.More() || m.V != 1 || err != nil || len(id) == 0 || m.Pass < 1 || m.Slice < 0 {
		return m, errors.New("decode job message: not one of this build's")
	}
	return m, nil
}

func (e *Engine) send(ctx context.Context, m message, delay time.Duration) error {
	m.V = 1
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode job message: %w", err)
	}
	text := string(body)
	_, err = e.opt.SQS.SendMessage(ctx, &sqs.SendMessageInput{
		QueueUrl: &e.opt.QueueURL, MessageBody: &text, DelaySeconds: int32((delay + time.Second - 1) / time.Second),
	})
	if err != nil {
		return fmt.Errorf("send job message: %w", err)
	}
	return nil
}

// Handle does the work of a message of the jobs queue. Its error is one of package
// outcome's contract: a message that is not one of ours, or whose job is not in
// the state bucket, is rejected. When ctx ends it stops at once and returns the
// cause; all of the work may be repeated.
func (e *Engine) Handle(ctx context.Context, body []byte) error {
	m, err := parseMessage(body)
	if err != nil {
		return outcome.Reject(err)
	}
	j, err := e.job(ctx, m.Job)
	switch {
	case errors.Is(err, state.ErrNotFound):
		return outcome.Reject(fmt.Errorf("job of the message: %w", err))
	case err != nil:
		return err
	case m.Batch:
		err = e.batch(ctx, j)
	case j.State != StateRunning:
		return e.notify(ctx, j)
	case m.Plan:
		err = e.plan(ctx, j, m.Pass)
	case m.Again:
		err = e.again(ctx, j, m.Pass, m.Slice)
	default:
		err = e.slice(ctx, j, m.Pass, m.Slice)
	}
	stop, isStop := errors.AsType[*stopError](err)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, errNotRunning):
		return nil
	case isStop:
		return e.stop(ctx, j.ID, stop.cause)
	}
	return err
}

// stop stops a job that cannot go on without a person, and notifies the observer.
func (e *Engine) stop(ctx context.Context, id, cause string) error {
	var stopped jobDoc
	err := state.Update(ctx, e.opt.Store, "jobs/"+id+"/job.json", func(j *jobDoc, exists bool) error {
		stopped = *j
		if !exists || j.State != StateRunning {
			return state.ErrUnchanged
		}
		j.State, j.Cause, j.Finished = StateStopped, cause, time.Now()
		stopped = *j
		return nil
	})
	if err != nil {
		return fmt.Errorf("stop job %s: %w", id, err)
	}
	return e.notify(ctx, stopped)
}

// notify notifies the observer once of a job that is complete, and with each sweep of
// one that is stopped.
func (e *Engine) notify(ctx context.Context, j jobDoc) error {
	if j.State != StateComplete && j.State != StateStopped {
		return nil
	}
	var open openDoc
	etag, err := e.opt.Store.Get(ctx, openKey(j.ID), &open)
	switch {
	case errors.Is(err, state.ErrNotFound), err == nil && j.State == StateComplete && open.Notified == string(j.State):
		return nil
	case err != nil:
		return err
	}
	if j.State == StateStopped {
		if err := e.opt.Observer.Stalled(ctx, j.summary()); err != nil {
			return fmt.Errorf("report that job %s stopped: %w", j.ID, err)
		}
		if open.Notified == string(j.State) {
			return nil
		}
		e.opt.Meter.Job("stopped")
		// It stays open: a newer move of its alias takes over from it.
		open.Notified = string(j.State)
		return e.putFirst(ctx, openKey(j.ID), &open, etag)
	}
	var report reportDoc
	if _, err := e.opt.Store.Get(ctx, reportKey(j.ID), &report); err != nil {
		return err
	}
	if err := e.opt.Observer.Completed(ctx, report.Summary); err != nil {
		return fmt.Errorf("report that job %s is complete: %w", j.ID, err)
	}
	return e.opt.Store.Delete(ctx, openKey(j.ID), "")
}

// afterPass says how a run goes on after a pass: StateRunning is another pass. A
// pass that began too early proves nothing.
func afterPass(pass int, c Counts, early bool) (next State, cause string) {
	again := c.Failed - c.ByReason[ReasonDiffers]
	switch {
	case c.Moved > 0 && pass >= maxPasses:
		return StateStopped, fmt.Sprintf("%d passes have not been enough: objects keep being written under an old key (the bucket's default encryption, or a writer that names the key)", pass)
	case c.Moved > 0, early, again > 0 && pass < failedPasses:
		return StateRunning, ""
	}
	return StateComplete, ""
}

// carry adds what a pass has done to what the passes before it have: what it
// moved, and the copies that came out different, which no later pass sees again.
func carry(earlier, c Counts) Counts {
	done := Counts{Moved: c.Moved - c.Partly, Bytes: c.Bytes, Rewrapped: c.Rewrapped}
	if n := c.ByReason[ReasonDiffers]; n > 0 {
		done.Failed, done.ByReason = n, map[Reason]int64{ReasonDiffers: n}
	}
	var sum Counts
	sum.add(earlier)
	sum.add(done)
	return sum
}

// withEarlier returns the counts of a whole run: those of its last pass, where
// what was moved before counts as moved and not as on-target. What was moved
// before and has been deleted or overwritten since was
// scanned too, so that the counts add up. Where the last pass could not look at
// something it may be what is missing: it counts as failed, or as refused where it is
// data keys that were not to be looked at, and not as moved too.
//
// What was moved is on-target in the last pass, but for data keys in objects whose own
// encryption is another.
func withEarlier(last, earlier Counts) Counts {
	var sum Counts
	sum.add(last)
	sum.add(earlier)
	done, again := earlier.Moved+earlier.Failed, int64(0)
	onTarget := done
	for reason, n := range earlier.Rewrapped {
		if reason != ReasonOnTarget {
			onTarget -= n
			again += sum.repeated(reason, n)
		}
	}
	again += sum.repeated(ReasonOnTarget, onTarget)
	unseen := last.Failed - last.ByReason[ReasonDiffers]
	for _, reason := range []Reason{ReasonKeyUnusable, ReasonEnvelopeKMS, ReasonEnvelopeUnread, ReasonEnvelopeInstruction} {
		unseen += last.ByReason[reason]
	}
	unproven := min(earlier.Moved, done-again, unseen)
	sum.Moved -= unproven
	sum.Scanned += done - again - unproven
	sum.Skipped -= again
	return sum
}

// repeated takes those out of ByReason that are counted as moved, n at most, and returns
// how many they are.
func (c *Counts) repeated(r Reason, n int64) int64 {
	n = min(n, c.ByReason[r])
	count(&c.ByReason, r, -n)
	return n
}
