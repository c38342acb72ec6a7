package reencrypt

import "context"

// Executor moves the objects of a job first. In any case the fleet's own passes
// prove the job.
type Executor string

// The executors.
const (
	// ExecutorFleet: the workers move them.
	ExecutorFleet Executor = "fleet"
	// ExecutorBatch: S3 Batch Operations move them first. A job where they cannot be
	// used stops.
	ExecutorBatch Executor = "batch"
	// ExecutorAuto: S3 Batch Operations, once the planner has counted more object
	// versions than Options.BatchThreshold and where they can be used.
	ExecutorAuto Executor = "auto"
)

// executors are all of them, with the one that options make.
var executors = []struct {
	name Executor
	make func(Options) executor
}{
	{ExecutorFleet, func(Options) executor { return fleetExecutor{} }},
	{ExecutorBatch, func(Options) executor { return batchExecutor{required: true} }},
	{ExecutorAuto, func(o Options) executor { return batchExecutor{after: o.BatchThreshold} }},
}

// executor moves the objects of a job, or a part of them, before the fleet does.
type executor interface {
	// needsRole: it works under Options.BatchRole.
	needsRole() bool
	// refuses says why it can never move objects by a method, "" where it may.
	refuses(m Method) string
	// due reports whether a job is handed over whose planner has counted so many
	// object versions.
	due(versions int64) bool
	// begin hands a job over, or notes in it that this is not possible, and reports
	// whether the planner has to wait.
	begin(ctx context.Context, e *Engine, j *jobDoc) (wait bool, err error)
}

// Executors returns what an Executor may be.
func Executors() []Executor {
	var all []Executor
	for _, x := range executors {
		all = append(all, x.name)
	}
	return all
}

// NeedsRole reports whether x works under Options.BatchRole.
func (x Executor) NeedsRole() bool { return x.with(Options{}).needsRole() }

// Refuses says why x can never move objects by a method, "" where it may.
func (x Executor) Refuses(m Method) string { return x.with(Options{}).refuses(m) }

// with returns the executor of that name; the fleet where there is no such name.
func (x Executor) with(o Options) executor {
	for _, known := range executors {
		if known.name == x {
			return known.make(o)
		}
	}
	return fleetExecutor{}
}

// handsOver reports whether it is time to hand over a job whose planner is at p.
func (e *Engine) handsOver(j jobDoc, p planDoc) bool {
	if j.RetryOf != "" || j.Batch != nil && (j.Batch.Done || j.Batch.started()) {
		return false
	}
	return e.opt.Executor.with(e.opt).due(int64(p.Next) * int64(e.opt.SliceSize))
}

// handOver hands a job over where it is time, and reports whether its planner has to
// wait: also for a job that was handed over under another configuration.
func (e *Engine) handOver(ctx context.Context, j *jobDoc, p planDoc) (wait bool, err error) {
	switch {
	case j.Batch.started() && !j.Batch.Done:
		return e.awaitBatch(ctx, j)
	case e.handsOver(*j, p):
		return e.opt.Executor.with(e.opt).begin(ctx, e, j)
	}
	return false, nil
}

// fleetExecutor leaves all to the fleet.
type fleetExecutor struct{}

func (fleetExecutor) needsRole() bool                                       { return false }
func (fleetExecutor) refuses(Method) string                                 { return "" }
func (fleetExecutor) due(int64) bool                                        { return false }
func (fleetExecutor) begin(context.Context, *Engine, *jobDoc) (bool, error) { return false, nil }
