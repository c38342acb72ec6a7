package reencrypt

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/cmkeeper/cmkeeper/state"
)

// ReasonBatchTask says that S3 Batch Operations could not move it; the detail has
// their message. It is only in the rows of a BatchJob: the fleet looks at the
// object again, and the report of the job has what it found.
const ReasonBatchTask Reason = "batch-task"

// batchReports is where a job's completion reports are, below the state prefix.
func batchReports(job string) string { return "jobs/" + job + "/batch" }

// batchManifest is the top level of a completion report.
type batchManifest struct {
	Format  string
	Results []struct {
		TaskExecutionStatus string
		Bucket, Key         string
	}
}

// batchRows imports the completion reports of the batch jobs with failed tasks.
func (e *Engine) batchRows(ctx context.Context, j *jobDoc) error {
	for _, b := range j.Batch.Jobs {
		if b.Failed == 0 || b.Rows != "" {
			continue
		}
		address, err := e.importRows(ctx, j.ID, b)
		if errors.Is(err, state.ErrNotFound) {
			// S3 writes none where no task could be invoked, and does not say by when
			// it has written one. The fleet's passes look at every object anyway.
			e.opt.Logger.WarnContext(ctx, "S3 Batch Operations left no report of their failed tasks", "job", j.ID, "batch_job", b.ID, "failed", b.Failed)
			continue
		}
		if err != nil {
			return fmt.Errorf("import report of batch job %s: %w", b.ID, err)
		}
		err = e.changeJob(ctx, j, func(now *jobDoc) error {
			for i := range now.Batch.jobs() {
				if now.Batch.Jobs[i].Token == b.Token {
					now.Batch.Jobs[i].Rows = address
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// importRows makes rows of ours, one for each failed task, of a completion report.
func (e *Engine) importRows(ctx context.Context, job string, b BatchJob) (address string, err error) {
	manifest, err := e.readManifest(ctx, job, b.ID)
	if err != nil {
		return "", err
	}
	return e.storeLines(ctx, batchReports(job)+"/"+b.ID+".jsonl", func(w io.Writer) error {
		for _, part := range manifest.Results {
			if part.TaskExecutionStatus != "failed" {
				continue
			}
			key, ok := strings.CutPrefix(part.Key, e.opt.StatePrefix+batchReports(job)+"/")
			if !ok || part.Bucket != e.opt.StateBucket {
				return fmt.Errorf("its part %q in %q is not where reports are", part.Key, part.Bucket)
			}
			if err := e.importPart(ctx, w, batchReports(job)+"/"+key); err != nil {
				return err
			}
		}
		return nil
	})
}

// readManifest reads the top level of a completion report. The User Guide and the
// SDK do not agree on its name.
func (e *Engine) readManifest(ctx context.Context, job, batchJob string) (batchManifest, error) {
	var m batchManifest
	var body io.ReadCloser
	err := state.ErrNotFound
	for _, name := range []string{"manifest.json", "report.json"} {
		if errors.Is(err, state.ErrNotFound) {
			body, err = e.opt.Store.GetBlob(ctx, batchReports(job)+"/job-"+batchJob+"/"+name)
		}
	}
	if err != nil {
		return m, err
	}
	defer func() { _ = body.Close() }()
	if err := json.NewDecoder(body).Decode(&m); err != nil {
		return m, fmt.Errorf("decode manifest: %w", err)
	}
	if m.Format != "Report_CSV_20180820" {
		return m, fmt.Errorf("its format is %q", m.Format)
	}
	return m, nil
}

func (e *Engine) importPart(ctx context.Context, w io.Writer, key string) error {
	body, err := e.opt.Store.GetBlob(ctx, key)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	lines, rows := csv.NewReader(body), json.NewEncoder(w)
	lines.FieldsPerRecord, lines.ReuseRecord = 7, true
	for {
		line, err := lines.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		if err := rows.Encode(batchRow(line)); err != nil {
			return err
		}
	}
}

// batchRow makes a row of a line: bucket, key, version, status, code, HTTP status
// and message. Manifests have their keys URL-encoded; that reports do, too, is not
// documented, so what cannot be decoded stays as it is.
func batchRow(line []string) Refusal {
	key, err := url.QueryUnescape(line[1])
	if err != nil {
		key = line[1]
	}
	return Refusal{Key: key, Version: line[2], Reason: ReasonBatchTask, Detail: fmt.Sprintf("%s (%s): %s", line[4], line[5], line[6])}
}
