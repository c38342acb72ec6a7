package reencrypt

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cmkeeper/cmkeeper/state"
)

// reportDoc is the outcome of a job.
type reportDoc struct {
	Summary
}

// Schema names the document for package state.
func (*reportDoc) Schema() (string, int) { return "job-report", 1 }

func reportKey(job string) string { return "jobs/" + job + "/report.json" }

// report stores what a job has come to: a summary, and beside it all rows of what
// did not move. last is the sum of the last pass, whose totals are named.
func (e *Engine) report(ctx context.Context, j jobDoc, last resultDoc, totals []string) error {
	var old reportDoc
	etag, err := e.opt.Store.Get(ctx, reportKey(j.ID), &old)
	switch {
	case err == nil && old.Passes == j.Pass: // by another worker, or before a crash: the same pass came to the same
		return nil
	case err != nil && !errors.Is(err, state.ErrNotFound):
		return err
	}
	s := j.summary()
	s.State, s.Counts, s.Sample, s.Finished = StateComplete, withEarlier(last.Counts, j.Earlier), last.Sample, time.Now()
	if last.Noted || len(s.Rewrapped) > 0 {
		s.Notes = j.notes(s.Counts)
	}
	if len(s.Batch) > 0 {
		s.Notes = append(s.Notes, batchNote)
	}
	began, err := e.planOf(ctx, j.ID, 1)
	if err != nil {
		return err
	}
	s.Preflight = began.Preflight
	if e.opt.Ties != nil {
		for _, key := range j.From {
			s.Notes = append(s.Notes, e.opt.Ties(ctx, key)...)
		}
	}
	if s.Refused+s.Failed > 0 {
		if s.Report, err = e.storeRows(ctx, j, totals); err != nil {
			return err
		}
	}
	return e.putFirst(ctx, reportKey(j.ID), &reportDoc{s}, etag) // another worker saw the same end of the pass
}

// storeRows joins the rows of the slices into one file, as a stream: those of the
// last pass, and from the passes before it the copies that came out different,
// which no later pass sees again.
func (e *Engine) storeRows(ctx context.Context, j jobDoc, last []string) (address string, err error) {
	return e.storeLines(ctx, "jobs/"+j.ID+"/report.jsonl", func(w io.Writer) error {
		lines := bufio.NewWriter(w)
		err := e.joinRows(ctx, lines, last, "")
		for pass := 1; pass < j.Pass && err == nil && j.Earlier.ByReason[ReasonDiffers] > 0; pass++ {
			var totals []string
			if totals, err = e.keys(ctx, totalsPrefix(j.ID, pass)); err == nil {
				err = e.joinRows(ctx, lines, totals, ReasonDiffers)
			}
		}
		if err == nil {
			err = lines.Flush()
		}
		return err
	})
}

// storeLines stores JSON lines as they are written.
func (e *Engine) storeLines(ctx context.Context, key string, write func(io.Writer) error) (address string, err error) {
	r, w := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		_ = w.CloseWithError(write(w)) // never fails
	}()
	address, err = e.opt.Store.PutBlob(ctx, key, "application/x-ndjson", r)
	_ = r.CloseWithError(err) // ends the writer where the store has failed
	<-written
	return address, err
}

// joinRows writes the rows that totals refer to: all, or those with one reason.
func (e *Engine) joinRows(ctx context.Context, w io.Writer, totals []string, only Reason) error {
	for _, key := range totals {
		var total resultDoc
		if _, err := e.opt.Store.Get(ctx, key, &total); err != nil {
			return err
		}
		if only != "" && total.Counts.ByReason[only] == 0 {
			continue
		}
		for _, rows := range total.Rows {
			if err := e.copyRows(ctx, w, rows, only); err != nil {
				return fmt.Errorf("copy rows %s: %w", rows, err)
			}
		}
	}
	return nil
}

func (e *Engine) copyRows(ctx context.Context, w io.Writer, key string, only Reason) error {
	rows, err := e.opt.Store.GetBlob(ctx, key)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	if only == "" {
		_, err = io.Copy(w, rows)
		return err
	}
	out := json.NewEncoder(w)
	for in := json.NewDecoder(rows); in.More(); {
		var row Refusal
		if err := in.Decode(&row); err != nil {
			return err
		}
		if row.Reason != only {
			continue
		}
		if err := out.Encode(row); err != nil {
			return err
		}
	}
	return nil
}
