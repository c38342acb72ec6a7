package reencrypt

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/state"
)

// What a caller of the jobs' controls may decide on, with errors.Is.
var (
	// ErrNoJob: there is no such job.
	ErrNoJob = errors.New("there is no such job")
	// ErrState: the job's state does not allow it.
	ErrState = errors.New("not possible in the job's state")
	// ErrRival: an open job moves objects of the same bucket to another key.
	ErrRival = errors.New("another job conflicts with it")
)

// Order is a re-encryption that a person starts: one bucket of a plan.
type Order struct {
	Bucket string `json:"bucket"`
	// Prefix is the part of the bucket; "" is all of it.
	Prefix string `json:"prefix"`
	// From are the keys to move from and To the key to move to: ids, ARNs or aliases.
	From []string `json:"from"`
	To   string   `json:"to"`
	// Versions is which versions; "" is VersionsAll.
	Versions Versions `json:"versions"`
	// Method is how; "" is MethodAuto.
	Method Method `json:"method"`
	// Envelopes and RewriteFiles are as in RunOptions.
	Envelopes    Envelopes `json:"envelopes,omitempty"`
	RewriteFiles bool      `json:"rewrite_files,omitempty"`
}

// StartOrders starts a job for each order, as Start does for an alias, and returns
// their ids. at is when the orders were given: the same orders of the same time are
// the same jobs. The zero time is now, but an order whose job is open is that job.
//
// Nothing is started where one of the orders cannot be: one whose keys cannot be
// found, or that conflicts with an open job or with another order (ErrRival).
func (e *Engine) StartOrders(ctx context.Context, orders []Order, at time.Time) ([]string, error) {
	open, err := e.openJobs(ctx)
	if err != nil {
		return nil, fmt.Errorf("start re-encryption: %w", err)
	}
	var jobs []jobDoc
	for _, o := range orders {
		s, err := e.resolveSpec(ctx, RunOptions{Bucket: o.Bucket, Prefix: o.Prefix, From: o.From, To: o.To, Versions: o.Versions, Method: o.Method, Envelopes: o.Envelopes, RewriteFiles: o.RewriteFiles})
		if err == nil && s.Bucket == e.opt.StateBucket {
			err = errors.New("it is cmkeeper's own state bucket")
		}
		if err != nil {
			return nil, fmt.Errorf("start re-encryption of bucket %s: %w", o.Bucket, err)
		}
		j, err := jobOf(s, at, slices.Concat(open, jobs), time.Now())
		if err != nil {
			return nil, fmt.Errorf("start re-encryption of bucket %s: %w", o.Bucket, err)
		}
		jobs = append(jobs, j)
	}
	var ids []string
	for _, j := range jobs {
		if err := e.create(ctx, j); err != nil {
			return ids, fmt.Errorf("start job %s: %w", j.ID, err)
		}
		if err := e.sendPlan(ctx, j.ID, time.Now()); err != nil {
			return ids, fmt.Errorf("start job %s: %w", j.ID, err)
		}
		ids = append(ids, j.ID)
	}
	return ids, nil
}

// jobOf returns the job of an order: one of those open, or a new one.
func jobOf(s spec, at time.Time, open []jobDoc, now time.Time) (jobDoc, error) {
	j := jobDoc{spec: s, MovedAt: at, State: StateRunning, Pass: 1, Started: now}
	if at.IsZero() {
		j.MovedAt = now
		if i := slices.IndexFunc(open, func(o jobDoc) bool { return !o.ended() && same(o.spec, s) }); i >= 0 {
			return open[i], nil
		}
	}
	parts := []string{"order", s.Bucket, s.Prefix, strings.Join(s.From, " "), s.To, string(s.Versions), string(s.Method), j.MovedAt.UTC().Format(time.RFC3339Nano)}
	if s.Envelopes != "" { // builds before knew none, and the id of an order stays what it is
		parts = append(parts, string(s.Envelopes), fmt.Sprint(s.RewriteFiles))
	}
	j.ID = idOf(parts...)
	return j, j.giveWay(open)
}

// ended reports whether a job does no more work unless a person resumes it.
func (j *jobDoc) ended() bool { return j.State != StateRunning && j.State != StatePaused }

// giveWay makes a new job wait for the last writers of conflicting jobs that have
// ended. ErrRival: one of the open jobs conflicts with it.
func (j *jobDoc) giveWay(open []jobDoc) error {
	for _, o := range open {
		switch {
		case o.ID == j.ID || !rivals(o.spec, j.spec):
		case !o.ended():
			return fmt.Errorf("%w: job %s (%s) moves it to %s; wait for it or cancel it", ErrRival, o.ID, o.State, o.To)
		default:
			j.NotBefore = later(j.NotBefore, o.Finished.Add(supersedeGrace))
		}
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// idOf is a job id: the same for the same parts.
func idOf(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))[:24]
}

func same(a, b spec) bool {
	return a.Bucket == b.Bucket && a.Prefix == b.Prefix && a.To == b.To && a.Versions == b.Versions && a.Method == b.Method &&
		a.Envelopes == b.Envelopes && a.RewriteFiles == b.RewriteFiles && slices.Equal(a.From, b.From)
}

// rivals reports whether two jobs conflict: an object of both
// that one of them moves is one that the other moves to another key.
func rivals(a, b spec) bool {
	if !(Scope{a.Bucket, a.Prefix}).overlaps(Scope{b.Bucket, b.Prefix}) {
		return false
	}
	shared := slices.ContainsFunc(a.From, func(key string) bool { return slices.Contains(b.From, key) })
	return shared && a.To != b.To || slices.Contains(b.From, a.To) || slices.Contains(a.From, b.To)
}

// Pause makes a running job do no work until Continue. The workers notice within
// seconds; what they have done by then counts. A paused job is left as it is.
func (e *Engine) Pause(ctx context.Context, id string) error {
	_, err := e.change(ctx, id, StatePaused, StateRunning)
	return err
}

// Cancel ends a job that is not complete. What was moved stays moved. It is among
// the open ones until its last writers have stopped, so that the next job of the
// bucket knows of them.
func (e *Engine) Cancel(ctx context.Context, id string) error {
	_, err := e.change(ctx, id, StateCancelled, StateRunning, StatePaused, StateStopped)
	return err
}

// Continue lets a paused or stopped job run on from where it was, and sends the work
// of a running one again; all of it may be repeated.
func (e *Engine) Continue(ctx context.Context, id string) error {
	j, err := e.change(ctx, id, StateRunning, StatePaused, StateStopped)
	if err != nil {
		return err
	}
	now := time.Now()
	err = state.Update(ctx, e.opt.Store, openKey(id), func(open *openDoc, _ bool) error {
		open.Alias, open.Since, open.Sent, open.Notified = j.Alias, now, now, ""
		return nil
	})
	if err != nil {
		return err
	}
	if err := e.sendPlan(ctx, id, now); err != nil {
		return err
	}
	return e.send(ctx, message{Job: id, Pass: j.Pass, Again: true}, 0)
}

// change moves a job into a state from one of others. A job that is in it already
// is left as it is. ErrNoJob, ErrState.
func (e *Engine) change(ctx context.Context, id string, to State, from ...State) (jobDoc, error) {
	var changed jobDoc
	if err := checkID(id); err != nil {
		return changed, err
	}
	err := state.Update(ctx, e.opt.Store, "jobs/"+id+"/job.json", func(j *jobDoc, exists bool) error {
		changed = *j
		switch {
		case !exists:
			return fmt.Errorf("job %s: %w", id, ErrNoJob)
		case j.State == to:
			return state.ErrUnchanged
		case !slices.Contains(from, j.State):
			return fmt.Errorf("job %s is %s: %w", id, j.State, ErrState)
		}
		if to == StateRunning && j.State == StateStopped {
			j.Granted = j.Pass // a person has fixed the cause
		}
		j.State, j.Cause, j.Finished = to, "", time.Time{}
		if to == StateCancelled {
			j.Finished = time.Now()
		}
		changed = *j
		return nil
	})
	if err == nil && to != StateRunning && changed.Batch.unfinished() {
		err = e.sendBatch(ctx, id, changed.Pass, 0) // which cancels them
	}
	return changed, err
}

// checkID says whether a job's id, which comes from outside, can be one.
func checkID(id string) error {
	if b, err := hex.DecodeString(id); err != nil || len(b) != 12 {
		return fmt.Errorf("job %q: %w", id, ErrNoJob)
	}
	return nil
}

// again sends the slices of a pass that have no result, from the first one of a
// group on: messages were dropped while the job was paused.
func (e *Engine) again(ctx context.Context, j jobDoc, pass, first int) error {
	if pass != j.Pass {
		return nil // late
	}
	p, err := e.planOf(ctx, j.ID, pass)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(planBudget)
	for group := first / groupSize; group*groupSize < p.Next; group++ {
		if time.Now().After(deadline) {
			return e.send(ctx, message{Job: j.ID, Pass: pass, Again: true, Slice: group * groupSize}, 0)
		}
		missing, err := e.missing(ctx, j, group, p.Next)
		if err != nil {
			return err
		}
		for _, n := range missing {
			if err := e.send(ctx, message{Job: j.ID, Pass: pass, Slice: n}, 0); err != nil {
				return err
			}
		}
		if len(missing) == 0 {
			if err := e.advance(ctx, j.ID, pass, group); err != nil {
				return err
			}
		}
	}
	return nil
}

// missing names the slices of a group, of those planned so far, that have no result.
func (e *Engine) missing(ctx context.Context, j jobDoc, group, planned int) ([]int, error) {
	results, err := e.keys(ctx, resultsPrefix(j.ID, j.Pass, group))
	if err != nil {
		return nil, err
	}
	has := map[string]bool{}
	for _, key := range results {
		has[key] = true
	}
	var missing []int
	for n := group * groupSize; n < min((group+1)*groupSize, planned); n++ {
		if !has[resultKey(j.ID, j.Pass, n)] {
			missing = append(missing, n)
		}
	}
	return missing, nil
}

// namedDoc is a slice of a job that goes over named object versions: the rows of
// another job's report.
type namedDoc struct {
	Rows []namedRow `json:"rows"`
}

// namedRow is an object version; Version is "" for all of the key's.
type namedRow struct {
	Key     string `json:"key"`
	Version string `json:"version,omitempty"`
}

// Schema names the document for package state.
func (*namedDoc) Schema() (string, int) { return "job-named", 1 }

func namedKey(job string, n int) string { return fmt.Sprintf("jobs/%s/named/%08d.json", job, n) }

// Retry starts a job over only what a complete job could not move: the rows of its
// report. It returns the new job's id, which is the same when it is repeated.
// ErrNoJob; ErrState where the job is not complete, where its report is empty, and
// where its alias points to another key by now.
func (e *Engine) Retry(ctx context.Context, id string) (string, error) {
	old, err := e.Report(ctx, id)
	if err != nil {
		return "", err
	}
	if old.State != StateComplete {
		return "", fmt.Errorf("job %s is %s, and only what a complete job left can be retried: %w", id, old.State, ErrState)
	}
	if old.Refused+old.Failed == 0 {
		return "", fmt.Errorf("job %s moved all that was in its scope: %w", id, ErrState)
	}
	from, err := e.job(ctx, id)
	if err != nil {
		return "", err
	}
	if from.Alias != "" {
		to, err := e.opt.Resolver.Resolve(ctx, from.Alias)
		gone := errors.Is(err, inventory.ErrNotFound)
		if err != nil && !gone {
			return "", fmt.Errorf("retry job %s: %w", id, err)
		}
		if !gone && to != from.To {
			return "", fmt.Errorf("job %s moved to %s, and %s points to %s now%s: %w", id, from.To, from.Alias, to, elsewhere(from.summary(), to), ErrState)
		}
	}
	now := time.Now()
	j := jobDoc{ID: idOf("retry", id), Alias: from.Alias, spec: from.spec, RetryOf: id, MovedAt: from.MovedAt, State: StateRunning, Pass: 1, Started: now}
	open, err := e.openJobs(ctx)
	if err != nil {
		return "", err
	}
	if err := j.giveWay(open); err != nil {
		return "", fmt.Errorf("retry job %s in bucket %s: %w", id, j.Bucket, err)
	}
	if err := e.name(ctx, j, now); err != nil {
		return "", fmt.Errorf("retry job %s: %w", id, err)
	}
	if err := e.create(ctx, j); err != nil {
		return "", fmt.Errorf("start job %s: %w", j.ID, err)
	}
	return j.ID, e.send(ctx, message{Job: j.ID, Pass: 1, Again: true}, 0)
}

// elsewhere says how what a job left gets to another key than the job's; "" where it is
// under that already.
func elsewhere(s Summary, to string) string {
	from := slices.DeleteFunc(slices.Clone(s.From), func(key string) bool { return key == to })
	if len(from) == 0 {
		return ""
	}
	return "; to move the rest there: " + startLine(s, from, to)
}

// name cuts a report's rows into slices and stores them with their plan, unless
// that was done before. The job itself is stored last: its plan needs no planner.
func (e *Engine) name(ctx context.Context, j jobDoc, now time.Time) error {
	n := 0
	var rows []namedRow
	emit := func() error {
		if len(rows) == 0 {
			return nil
		}
		if err := e.putFirst(ctx, namedKey(j.ID, n), &namedDoc{Rows: rows}, ""); err != nil {
			return err
		}
		rows = nil
		n++
		return nil
	}
	for row, err := range e.ReportRows(ctx, j.RetryOf) {
		if err != nil {
			return err
		}
		if len(rows) >= e.opt.SliceSize && row.Key != rows[len(rows)-1].Key {
			if err := emit(); err != nil {
				return err
			}
		}
		rows = append(rows, namedRow{row.Key, row.Version})
	}
	if err := emit(); err != nil {
		return err
	}
	return e.putFirst(ctx, planKey(j.ID, 1), &planDoc{Began: now, Next: n, Done: true}, "")
}

// named lists the named object versions whose keys lie after one: a request for
// each key, which S3 lists first of all that begin with it.
func (m *mover) named(ctx context.Context, rows []namedRow, after string) iter.Seq2[entry, error] {
	rows = slices.Clone(rows)
	slices.SortFunc(rows, func(a, b namedRow) int {
		return cmp.Or(strings.Compare(a.Key, b.Key), strings.Compare(a.Version, b.Version))
	})
	return func(yield func(entry, error) bool) {
		for i := 0; i < len(rows); {
			key, all := rows[i].Key, false
			versions := map[string]bool{}
			for ; i < len(rows) && rows[i].Key == key; i++ {
				versions[rows[i].Version] = true
				all = all || rows[i].Version == ""
			}
			if key <= after {
				continue
			}
			one := m.spec
			one.Prefix = key
			for en, err := range m.e.entries(ctx, one, m.facts.versioned && m.Versions == VersionsAll, "", key) {
				// A listing without versions shows what the row's version was current for.
				if err == nil && !all && en.version != "" && !versions[en.version] {
					continue
				}
				if !yield(en, err) {
					return
				}
			}
		}
	}
}

// Report returns what a job has come to that has ended. Of one that is not complete that
// is what its slices have recorded until then, with a note on what is missing. ErrNoJob;
// ErrState where the job has not ended.
func (e *Engine) Report(ctx context.Context, id string) (Summary, error) {
	if err := checkID(id); err != nil {
		return Summary{}, err
	}
	j, err := e.job(ctx, id)
	switch {
	case errors.Is(err, state.ErrNotFound):
		return Summary{}, fmt.Errorf("job %s: %w", id, ErrNoJob)
	case err != nil:
		return Summary{}, err
	case j.State == StateRunning || j.State == StatePaused:
		return Summary{}, fmt.Errorf("job %s is %s, and only a job that has ended has a report: %w", id, j.State, ErrState)
	case j.State != StateComplete:
		return e.soFar(ctx, id)
	}
	var report reportDoc
	_, err = e.opt.Store.Get(ctx, reportKey(id), &report)
	return report.Summary, err
}

// ReportRows reads the rows of a job that has ended: every object version that it could not
// move, as far as it has come. An error ends the sequence.
func (e *Engine) ReportRows(ctx context.Context, id string) iter.Seq2[Refusal, error] {
	return func(yield func(Refusal, error) bool) {
		var all []source
		j, err := e.job(ctx, id)
		if err == nil {
			all, err = e.sources(ctx, j)
		}
		if err != nil {
			yield(Refusal{}, fmt.Errorf("read report of job %s: %w", id, err))
			return
		}
		for _, from := range all {
			for row, err := range e.rowsOf(ctx, from) {
				if err != nil {
					err = fmt.Errorf("read report of job %s: %w", id, err)
				}
				if !yield(row, err) || err != nil {
					return
				}
			}
		}
	}
}

// rowsOf reads the rows of a document; none where it is not there. An error ends the
// sequence.
func (e *Engine) rowsOf(ctx context.Context, from source) iter.Seq2[Refusal, error] {
	return func(yield func(Refusal, error) bool) {
		r, err := e.opt.Store.GetBlob(ctx, from.key)
		if errors.Is(err, state.ErrNotFound) { // all moved
			return
		}
		if err != nil {
			yield(Refusal{}, err)
			return
		}
		defer func() { _ = r.Close() }()
		for rows := json.NewDecoder(bufio.NewReader(r)); ; {
			var row Refusal
			err := rows.Decode(&row)
			if errors.Is(err, io.EOF) {
				return
			}
			if err == nil && from.only != "" && row.Reason != from.only {
				continue
			}
			if !yield(row, err) || err != nil {
				return
			}
		}
	}
}

// WriteManifest writes the rows of a complete job's report as CSV that S3 Batch
// Operations takes as a manifest: bucket, key (URL-encoded) and, where every row has
// one, version. S3 wants versions for all objects or for none; without them it works
// on the current ones.
func (e *Engine) WriteManifest(ctx context.Context, id string, w io.Writer) error {
	s, err := e.Report(ctx, id)
	if err != nil {
		return err
	}
	versions := true
	for row, err := range e.ReportRows(ctx, id) {
		if err != nil {
			return err
		}
		if versions = row.Version != ""; !versions {
			break
		}
	}
	out := csv.NewWriter(w)
	for row, err := range e.ReportRows(ctx, id) {
		if err != nil {
			return err
		}
		record := []string{s.Bucket, escapeKey(row.Key), row.Version}
		if !versions {
			record = record[:2]
		}
		if err := out.Write(record); err != nil {
			return fmt.Errorf("write manifest: %w", err)
		}
	}
	out.Flush()
	if err := out.Error(); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return nil
}

// Jobs returns the jobs, the newest first, with what their own document says of
// them: open ones, or those that have ended too. Their counts are those of the
// passes that are over: see Status. An error that is state.ErrUnreadable names jobs that
// are left out.
func (e *Engine) Jobs(ctx context.Context, ended bool) ([]Summary, error) {
	ids, err := e.jobIDs(ctx, ended)
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	found, unread := make([]*Summary, len(ids)), make([]error, len(ids))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, id := range ids {
		g.Go(func() error {
			j, err := e.job(ctx, id)
			switch {
			case errors.Is(err, state.ErrNotFound): // its start broke off
				return nil
			case errors.Is(err, state.ErrUnreadable):
				unread[i] = err
				return nil
			case err != nil:
				return err
			}
			if s := j.summary(); ended || s.State != StateCancelled {
				found[i] = &s
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	var jobs []Summary
	for _, s := range found {
		if s != nil {
			jobs = append(jobs, *s)
		}
	}
	slices.SortFunc(jobs, func(a, b Summary) int { return cmp.Or(b.Started.Compare(a.Started), cmp.Compare(a.Job, b.Job)) })
	return jobs, errors.Join(unread...)
}

func (e *Engine) jobIDs(ctx context.Context, ended bool) ([]string, error) {
	var ids []string
	if !ended {
		return e.openIDs(ctx)
	}
	for id, err := range e.opt.Store.Folders(ctx, "jobs/") {
		if err != nil {
			return nil, err
		}
		if checkID(id) == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
