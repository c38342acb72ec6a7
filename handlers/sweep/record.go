package sweep

import (
	"context"
	"errors"
	"time"

	"github.com/cmkeeper/cmkeeper/handlers/ledger"
)

// record stores and logs what came of a sweep, and deletes records that are too old. Where
// that fails, the sweep does not.
func (s Sweep) record(ctx context.Context, failed error, totals ledger.SweepTotals, shards int) {
	now := ledger.Now()
	r := &ledger.SweepRecord{Run: s.run, Began: s.Start, Ended: now, Seconds: int(now.Sub(s.Start).Round(time.Second) / time.Second), Shards: shards, Whole: failed == nil, Totals: totals}
	if failed != nil {
		r.SetError(failed)
	}
	s.Logger.InfoContext(ctx, "sweep ended", "duration", now.Sub(s.Start), "ok", failed == nil, "run", s.run, "shards", shards,
		"keys", totals.Keys, "changed", totals.Changed, "aliases", totals.Aliases, "buckets", totals.Buckets, "unread", totals.Unread,
		"repairs", totals.Repairs, "alerts", sumOf(totals.Alerts), "errors", totals.Errors, "requests", sumOf(totals.Requests))
	s.Metrics.SweepEnded(now.Sub(s.Start), totals.Keys, totals.Errors, failed == nil)
	if ctx.Err() != nil {
		return // it is made again
	}
	_, err := s.State.Put(ctx, ledger.RecordName(s.run, s.Start), r, "")
	if err = errors.Join(err, s.deleteOldRecords(ctx, now)); err != nil {
		s.Logger.WarnContext(ctx, "the record of a sweep cannot be stored, or old ones deleted", "error", err)
	}
}

func sumOf(counts map[string]int) (sum int) {
	for _, n := range counts {
		sum += n
	}
	return sum
}

// deleteOldRecords deletes the records of a few days that are too old.
func (s Sweep) deleteOldRecords(ctx context.Context, now time.Time) error {
	var days []string
	for day, err := range s.State.Folders(ctx, ledger.SweepRecords) {
		if err != nil {
			return err
		}
		days = append(days, day)
	}
	all, thin := ledger.OldRecords(days, now)
	var errs []error
	for _, day := range all {
		errs = append(errs, s.deleteBelow(ctx, ledger.RecordsOf(day), 0))
	}
	for _, day := range thin {
		errs = append(errs, s.deleteBelow(ctx, ledger.RecordsOf(day), 1))
	}
	return errors.Join(errs...)
}

// mostDeleted bounds how many documents are deleted at a time; the next sweep goes on.
const mostDeleted = 1000

// deleteBelow deletes the documents of a folder but the last few.
func (s Sweep) deleteBelow(ctx context.Context, folder string, keep int) error {
	var names []string
	for name, err := range s.State.Keys(ctx, folder) {
		if err != nil {
			return err
		}
		if names = append(names, name); len(names) == mostDeleted {
			break
		}
	}
	var errs []error
	for _, name := range names[:max(0, len(names)-keep)] {
		errs = append(errs, s.State.Delete(ctx, name, ""))
	}
	return errors.Join(errs...)
}

// deleteRuns deletes the shards of this sweep, and what is left of earlier ones.
func (s Sweep) deleteRuns(ctx context.Context) error {
	var errs []error
	for run, err := range s.State.Folders(ctx, ledger.ShardRuns) {
		if err != nil {
			return err
		}
		if run <= s.run { // they are named by their time
			errs = append(errs, s.deleteBelow(ctx, ledger.ShardRun(run), 0))
		}
	}
	return errors.Join(errs...)
}
