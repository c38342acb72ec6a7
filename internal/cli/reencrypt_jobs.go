package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/state"
)

// jobsEngine returns an engine for the controls of the fleet's jobs: it handles no
// messages and moves nothing itself.
func jobsEngine(ctx context.Context, p *process) (*reencrypt.Engine, error) {
	_, _, e, err := fleetEngine(ctx, p, 16)
	return e, err
}

// fleetEngine is jobsEngine with so many calls at once, and what it works with.
func fleetEngine(ctx context.Context, p *process, concurrency int) (byHand, *state.Store, *reencrypt.Engine, error) {
	c, err := loadForDesk[struct {
		Common
		Queues
	}](ctx, p.environment, "STATE_BUCKET", "JOBS_QUEUE_URL")
	if err != nil {
		return byHand{}, nil, nil, err
	}
	hand, err := newByHand(ctx, p, c.Common, concurrency)
	if err != nil {
		return hand, nil, nil, err
	}
	store := hand.store(c.StateBucket)
	e, err := reencrypt.New(reencrypt.Options{
		S3: hand.s3, Resolver: hand.facts, KMS: hand.kms, Account: hand.account,
		Store:       store,
		StateBucket: c.StateBucket, StatePrefix: c.StatePrefix,
		SQS: ownMessages{hand.sqs, c.fleet(hand.account, hand.region)}, QueueURL: c.JobsQueueURL,
		Observer:    handlers.JobAlerts{}, // told by workers only
		Concurrency: concurrency, Rate: askRate,
		Logger: c.logger(p.stderr),
	})
	return hand, store, e, err
}

// onJob makes a command's action of what it does with a job, its one argument.
func (p *process) onJob(f func(ctx context.Context, p *process, e *reencrypt.Engine, job string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		return p.action(func(ctx context.Context, p *process) error {
			e, err := jobsEngine(ctx, p)
			if err != nil {
				return err
			}
			return f(ctx, p, e, args[0])
		})(c, args)
	}
}

// jobFlags are what the commands about jobs have in common.
type jobFlags struct{ json bool }

func (f *jobFlags) add(c *cobra.Command, what string) {
	c.Flags().BoolVar(&f.json, "json", false, "print "+what+" as JSON")
}

func newReencryptListCommand(p *process) *cobra.Command {
	var (
		f    jobFlags
		open bool
	)
	command := &cobra.Command{
		Use: "list", Short: "List the fleet's jobs, the newest first", Args: cobra.NoArgs,
		RunE: p.action(func(ctx context.Context, p *process) error {
			e, err := jobsEngine(ctx, p)
			if err != nil {
				return err
			}
			jobs, err := e.Jobs(ctx, !open)
			if err != nil && !errors.Is(err, state.ErrUnreadable) { // the others are listed all the same
				return err
			}
			if f.json {
				return errors.Join(err, printJSON(p.stdout, struct {
					Jobs []reencrypt.Summary `json:"jobs"`
				}{append([]reencrypt.Summary{}, jobs...)}))
			}
			w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "JOB\tSTATE\tPASS\tSTARTED\tPLACE\tALIAS\tENVELOPES\tTO")
			for _, s := range jobs {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", s.Job, s.State, s.Passes, when(s.Started), place(s), cmp.Or(aliasOf(s), "-"), cmp.Or(s.EnvelopesIn, reencrypt.EnvelopesOff), s.To)
			}
			return errors.Join(err, w.Flush())
		}),
	}
	f.add(command, "one object")
	command.Flags().BoolVar(&open, "open", false, "only jobs that have not ended")
	return command
}

func newReencryptStatusCommand(p *process) *cobra.Command {
	var f jobFlags
	command := &cobra.Command{
		Use: "status JOB", Short: "Show how far a job is", Args: cobra.ExactArgs(1),
		RunE: p.onJob(func(ctx context.Context, p *process, e *reencrypt.Engine, job string) error {
			return f.show(ctx, p.stdout, e, job)
		}),
	}
	f.add(command, "one object")
	return command
}

// show prints a job's status.
func (f *jobFlags) show(ctx context.Context, w io.Writer, e *reencrypt.Engine, job string) error {
	s, err := e.Status(ctx, job)
	if err != nil {
		return err
	}
	if f.json {
		return printJSON(w, s)
	}
	return printStatus(w, s)
}

// newReencryptControlCommand makes a command that changes a job's state.
func newReencryptControlCommand(p *process, name, short, long string, change func(*reencrypt.Engine, context.Context, string) error) *cobra.Command {
	var f jobFlags
	command := &cobra.Command{
		Use: name + " JOB", Short: short, Long: long, Args: cobra.ExactArgs(1),
		RunE: p.onJob(func(ctx context.Context, p *process, e *reencrypt.Engine, job string) error {
			if err := change(e, ctx, job); err != nil {
				return err
			}
			return f.show(ctx, p.stdout, e, job)
		}),
	}
	f.add(command, "the job's status")
	return command
}

func newReencryptRetryCommand(p *process) *cobra.Command {
	var f jobFlags
	command := &cobra.Command{
		Use: "retry JOB", Short: "Start a job over only what a complete job could not move",
		Long: "Starts a job over only what a complete job could not move: the object versions of its report. Repeated, it shows the same job.",
		Args: cobra.ExactArgs(1),
		RunE: p.onJob(func(ctx context.Context, p *process, e *reencrypt.Engine, job string) error {
			id, err := e.Retry(ctx, job)
			if err != nil {
				return err
			}
			return f.show(ctx, p.stdout, e, id)
		}),
	}
	f.add(command, "the new job's status")
	return command
}

// printStatus writes a job's status for people.
func printStatus(out io.Writer, s reencrypt.Status) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, value)
		}
	}
	row("job", s.Job)
	row("state", string(s.State))
	row("cause", alert.Escape(s.Cause))
	row("retry of", s.RetryOf)
	row("alias", aliasOf(s.Summary))
	row("place", place(s.Summary))
	row("from", strings.Join(s.From, ", "))
	row("to", s.To)
	row("method", fmt.Sprintf("%s, versions: %s", s.Method, s.Versions))
	row("started", when(s.Started))
	if !s.Finished.IsZero() {
		row("finished", when(s.Finished))
	}
	row("pass", passText(s))
	row("counts", countsText(s.Counts))
	for _, b := range s.Batch {
		row("S3 Batch job", alert.Escape(b.String()))
	}
	if s.State == reencrypt.StateRunning {
		row("rate", fmt.Sprintf("%.0f/s in this pass on average%s", s.Rate(), leftText(s, s.Rate())))
		row("in work", workText(s))
	}
	for _, reason := range slices.Sorted(maps.Keys(s.ByReason)) {
		row(string(reason), fmt.Sprint(s.ByReason[reason]))
	}
	for _, sentence := range s.ClientSide(false) {
		row("client-side", sentence)
	}
	row("report", s.Report)
	if err := w.Flush(); err != nil {
		return err
	}
	return printNext(out, s.Next)
}

// printNext writes what to do next, commands below their sentences.
func printNext(w io.Writer, next []string) error {
	var err error
	for _, line := range next {
		if command.Is(line) {
			line = "  " + line
		}
		_, err = fmt.Fprintln(w, line)
	}
	return err
}

// passText says how far a job is in its pass.
func passText(s reencrypt.Status) string {
	if share, known := s.Share(); known {
		return fmt.Sprintf("%d, %d of %d slices (%.0f %%)", s.Passes, s.Done, s.Slices, 100*share)
	}
	return fmt.Sprintf("%d, %d of the %d slices that are planned so far", s.Passes, s.Done, s.Slices)
}

func countsText(c reencrypt.Counts) string {
	return fmt.Sprintf("%d gone through, %d moved, %d skipped, %d refused, %d failed", c.Scanned, c.Moved, c.Skipped, c.Refused, c.Failed)
}

func leftText(s reencrypt.Status, rate float64) string {
	if left, known := s.Left(rate); known {
		return fmt.Sprintf(", %s left of it", left)
	}
	return ""
}

func workText(s reencrypt.Status) string {
	text := fmt.Sprintf("%d slices of all jobs", s.InWork)
	if s.Concurrency > 0 {
		text += fmt.Sprintf(", %d objects of this bucket at once in a worker", s.Concurrency)
	}
	return text
}

func place(s reencrypt.Summary) string { return "s3://" + s.Bucket + "/" + alert.Escape(s.Prefix) }

func when(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// aliasOf is the name of the alias whose move started a job; "" by hand.
func aliasOf(s reencrypt.Summary) string {
	return s.Alias[strings.Index(s.Alias, ":alias/")+1:]
}
