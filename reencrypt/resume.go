package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/state"
)

const (
	// resendAfter is how long a job may make no progress before its unfinished work is
	// sent again: a message may have been lost.
	resendAfter = 10 * time.Minute
	// stallAfter is when an alert is raised about a job without progress.
	stallAfter = 30 * time.Minute
	// maxResent is how many slices of a job are sent again at a time. The fleet has
	// work for the next minutes then, and its queue is not filled with duplicates.
	maxResent = 1000
)

// Resume restarts the jobs that a lost message or a crash left without work: where
// nothing has moved since an earlier call, ten minutes ago or more, it sends the
// unfinished planning and slices again; after 30 minutes it notifies the observer,
// once for each time that a job stalls. It is called by each sweep, with the
// time. The error joins those of the single jobs.
func (e *Engine) Resume(ctx context.Context, now time.Time) error {
	if e.opt.Store == nil {
		return errors.New("resume re-encryption: no state store")
	}
	ids, err := e.openIDs(ctx)
	if err != nil {
		return fmt.Errorf("resume re-encryption: %w", err)
	}
	var errs []error
	for _, id := range ids {
		if err := e.resume(ctx, id, now); err != nil {
			errs = append(errs, fmt.Errorf("resume job %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

func (e *Engine) resume(ctx context.Context, id string, now time.Time) error {
	j, err := e.job(ctx, id)
	switch {
	case errors.Is(err, state.ErrNotFound): // the start broke off and will be repeated
		return nil
	case err != nil:
		return err
	case j.State == StateSuperseded: // a crash between its mark and this
		return e.opt.Store.Delete(ctx, openKey(id), "")
	case j.State != StateRunning && j.Batch.unfinished():
		return errors.Join(e.sendBatch(ctx, id, j.Pass, 0), e.notify(ctx, j))
	case j.State == StateCancelled && now.Sub(j.Finished) > supersedeGrace: // its writers have stopped
		return e.opt.Store.Delete(ctx, openKey(id), "")
	case j.State != StateRunning:
		return e.notify(ctx, j)
	}
	p, err := e.planOf(ctx, id, j.Pass)
	if err != nil {
		return err
	}
	done, missing, err := e.unfinished(ctx, j, p.Next)
	if err != nil {
		return err
	}
	var open openDoc
	etag, err := e.opt.Store.Get(ctx, openKey(id), &open)
	if err != nil {
		return err
	}
	within, err := e.recorded(ctx, j)
	if err != nil {
		return err
	}
	progress := fmt.Sprintf("pass %d: %d slices planned, %d done%s%s", j.Pass, p.Next, done, within, j.Batch)
	patience := stallAfter
	if j.Batch.unfinished() {
		patience = batchStallAfter
	}
	if open.Progress != progress {
		open.Progress, open.Since, open.Sent = progress, now, now
	}
	if now.Sub(open.Sent) >= resendAfter {
		if err := e.sendUnfinished(ctx, j, p, missing, now); err != nil {
			return err
		}
		open.Sent = now
	}
	stalled := fmt.Sprintf("%s since %s", progress, open.Since.UTC().Format(time.RFC3339))
	if now.Sub(open.Since) >= patience && now.After(j.NotBefore) && open.Notified != stalled {
		s := j.summary()
		s.Cause = "no progress: " + stalled
		if err := e.opt.Observer.Stalled(ctx, s); err != nil {
			return fmt.Errorf("report that it stalled: %w", err)
		}
		open.Notified = stalled
		e.opt.Meter.Job("stalled")
	}
	return e.putFirst(ctx, openKey(id), &open, etag) // another sweep sees the same
}

// recorded says how far a pass is in slices that take long, as those of large
// objects do; "" where there are none.
func (e *Engine) recorded(ctx context.Context, j jobDoc) (string, error) {
	keys, err := e.keys(ctx, progressPrefix(j.ID, j.Pass))
	if err != nil || len(keys) == 0 {
		return "", err
	}
	var counts Counts
	for _, key := range keys {
		var p progressDoc
		_, err := e.opt.Store.Get(ctx, key, &p)
		if err != nil && !errors.Is(err, state.ErrNotFound) { // done meanwhile
			return "", err
		}
		counts.add(p.Counts)
	}
	return fmt.Sprintf(", %d object versions of others", counts.Scanned), nil
}

// sendUnfinished sends what a job still has to do: the planning of its pass, and
// the slices that have no result. Where all results are in, it goes on from them.
func (e *Engine) sendUnfinished(ctx context.Context, j jobDoc, p planDoc, missing []int, now time.Time) error {
	e.opt.Logger.WarnContext(ctx, "no progress of a re-encryption job: sending its unfinished work again",
		"job", j.ID, "bucket", j.Bucket, "pass", j.Pass, "planned", p.Done, "slices", len(missing))
	if !p.Done {
		if err := e.sendPlan(ctx, j.ID, now); err != nil {
			return err
		}
	}
	for _, n := range missing {
		if err := e.send(ctx, message{Job: j.ID, Pass: j.Pass, Slice: n}, 0); err != nil {
			return err
		}
	}
	if !p.Done || len(missing) > 0 {
		return nil
	}
	for group := range (p.Next + groupSize - 1) / groupSize {
		if err := e.advance(ctx, j.ID, j.Pass, group); err != nil {
			return err
		}
	}
	return nil
}

// unfinished counts the slices of a pass, of those planned so far, that have a
// result, and names the first that have none, maxResent at most.
func (e *Engine) unfinished(ctx context.Context, j jobDoc, planned int) (done int, missing []int, err error) {
	totals, err := e.keys(ctx, totalsPrefix(j.ID, j.Pass))
	if err != nil {
		return 0, nil, err
	}
	full := map[string]bool{}
	for _, key := range totals {
		full[key] = true
	}
	for group := range (planned + groupSize - 1) / groupSize {
		first, end := group*groupSize, min((group+1)*groupSize, planned)
		if full[totalKey(j.ID, j.Pass, group)] {
			done += end - first
			continue
		}
		open, err := e.missing(ctx, j, group, planned)
		if err != nil {
			return 0, nil, err
		}
		done += end - first - len(open)
		missing = append(missing, open[:min(len(open), maxResent-len(missing))]...)
	}
	return done, missing, nil
}
