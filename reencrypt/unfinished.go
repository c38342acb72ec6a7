package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/state"
)

// soFar reports a job that ended before it was complete, from what its slices have
// recorded.
func (e *Engine) soFar(ctx context.Context, id string) (Summary, error) {
	s, err := e.Status(ctx, id)
	if err != nil {
		return Summary{}, err
	}
	for row, err := range e.ReportRows(ctx, id) {
		if err != nil {
			return Summary{}, err
		}
		if s.Sample = append(s.Sample, row); len(s.Sample) == sampleSize {
			break
		}
	}
	s.Notes = append(s.Notes, s.left())
	if len(s.Batch) > 0 {
		s.Notes = append(s.Notes, batchNote)
	}
	return s.Summary, nil
}

// left says what a job has not gone through that ended before it was complete.
func (s Status) left() string {
	done := fmt.Sprintf("The job is %s in pass %d, with %d of %d slices done", s.State, s.Passes, s.Done, s.Slices)
	switch {
	case s.Passes > 1:
		return done + ". The first pass went through everything; whether what it moved is all of it was not verified to the end."
	case !s.Planned:
		done += " of those that were planned, which are not all"
	}
	return done + ". What it did not go through is not counted, and is under the keys that it was under. A worker may still record what it did in the two minutes after the end."
}

// source is a document of rows, of which those with the reason only count, or all for "".
type source struct {
	key  string
	only Reason
}

// sources names the documents with a job's rows.
func (e *Engine) sources(ctx context.Context, j jobDoc) ([]source, error) {
	if j.State == StateComplete {
		return []source{{"jobs/" + j.ID + "/report.jsonl", ""}}, nil
	}
	var all []source
	add := func(documents []string, only Reason) error {
		sum, err := e.sum(ctx, documents)
		for _, rows := range sum.Rows {
			all = append(all, source{rows, only})
		}
		return err
	}
	for pass := 1; pass < j.Pass && j.Earlier.ByReason[ReasonDiffers] > 0; pass++ {
		totals, err := e.keys(ctx, totalsPrefix(j.ID, pass))
		if err = errors.Join(err, add(totals, ReasonDiffers)); err != nil {
			return nil, err
		}
	}
	documents, err := e.keys(ctx, totalsPrefix(j.ID, j.Pass))
	if err != nil {
		return nil, err
	}
	summed := map[string]bool{}
	for _, total := range documents {
		summed[numberOf(total)] = true
	}
	for folder, err := range e.opt.Store.Folders(ctx, fmt.Sprintf("jobs/%s/results/%d/", j.ID, j.Pass)) {
		if err != nil {
			return nil, err
		}
		group, err := strconv.Atoi(folder)
		if err != nil || summed[fmt.Sprint(group)] {
			continue
		}
		results, err := e.keys(ctx, resultsPrefix(j.ID, j.Pass, group))
		if err != nil {
			return nil, err
		}
		documents = append(documents, results...)
	}
	if err := add(documents, ""); err != nil {
		return nil, err
	}
	started, err := e.keys(ctx, progressPrefix(j.ID, j.Pass))
	if err != nil {
		return nil, err
	}
	for _, key := range started {
		n, err := strconv.Atoi(numberOf(key))
		if err != nil || summed[fmt.Sprint(n/groupSize)] || slices.Contains(documents, resultKey(j.ID, j.Pass, n)) {
			continue
		}
		var p progressDoc
		if _, err := e.opt.Store.Get(ctx, key, &p); err != nil && !errors.Is(err, state.ErrNotFound) {
			return nil, err
		}
		for _, rows := range p.Rows {
			all = append(all, source{rows, ""})
		}
	}
	return all, nil
}

// numberOf is the number that a document is named by, without leading zeros.
func numberOf(key string) string {
	name := strings.TrimLeft(strings.TrimSuffix(path.Base(key), ".json"), "0")
	if name == "" {
		return "0"
	}
	return name
}

// Next is what a person may do about a job, in sentences and commands.
func (s Summary) Next() []string {
	job := command.Job(s.Job)
	switch s.State {
	case StatePaused:
		return []string{"Continue it:", command.Line("cmkeeper reencrypt resume %s", job)}
	case StateStopped:
		return []string{"Fix the cause, and continue it:", command.Line("cmkeeper reencrypt resume %s", job)}
	case StateSuperseded:
		return []string{"Newer jobs of the alias move the rest:", command.Line("cmkeeper reencrypt list --open")}
	case StateCancelled:
		next := []string{
			"What was moved, and what was not:", command.Line("cmkeeper reencrypt report %s", job),
			"Move the rest:", startLine(s, s.From, s.To),
		}
		if len(s.From) == 1 {
			next = append(next, "Or move back what was moved, with everything else in this place that is under the new key:", startLine(s, []string{s.To}, s.From[0]))
		}
		return append(next, retireLines(s)...)
	case StateComplete:
		if s.Refused+s.Failed > 0 {
			return []string{"See what did not move, and why:", command.Line("cmkeeper reencrypt report %s --jsonl", job), "Fix that, and move it:", command.Line("cmkeeper reencrypt retry %s", job)}
		}
		return retireLines(s)
	case StateRunning:
	}
	return nil
}

// startLine is the command that starts a job like this one between other keys.
func startLine(s Summary, from []string, to string) string {
	format := command.Format("cmkeeper reencrypt start --bucket %s --from %s --to %s")
	values := []command.Value{command.Bucket(s.Bucket), command.Key(from[0]), command.Key(to)}
	if s.Prefix != "" {
		format += " --prefix %s"
		values = append(values, command.Prefix(s.Prefix))
	}
	for _, key := range from[1:] {
		format += " --from %s"
		values = append(values, command.Key(key))
	}
	format += s.EnvelopeFlags()
	return command.Line(format, values...)
}

func retireLines(s Summary) []string {
	next := []string{"Before an old key goes, look for what else needs it:"}
	for _, key := range s.From {
		next = append(next, command.Line("cmkeeper retire check %s", command.Key(key)))
	}
	return next
}
