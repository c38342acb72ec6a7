package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

type reencryptRunCommand struct {
	moveFlags
	options reencrypt.RunOptions
	report  string
	json    bool
}

func newReencryptCommand(p *process) *cobra.Command {
	command := &cobra.Command{Use: "reencrypt", Short: "Move S3 objects from one KMS key to another"}
	command.AddCommand(newReencryptRunCommand(p), newReencryptPlanCommand(p))
	command.AddCommand(newReencryptStartCommand(p), newReencryptListCommand(p), newReencryptStatusCommand(p), newReencryptWatchCommand(p),
		newReencryptControlCommand(p, "pause", "Stop work on a job until it is resumed",
			"Stops the fleet's work on a job until it is resumed. Workers notice within seconds, and what they have done by then counts.", (*reencrypt.Engine).Pause),
		newReencryptControlCommand(p, "resume", "Continue a paused or stopped job",
			"Continues a paused job, or one that stopped and whose cause is fixed. The work of a running job is sent again, which does no harm.", (*reencrypt.Engine).Continue),
		newReencryptControlCommand(p, "cancel", "End a job; what was moved stays moved",
			"Ends a job for good. What was moved stays moved, and the rest stays under the old keys. It says how to go on: move the rest, or move back what was moved; \"reencrypt report\" has what it came to.", (*reencrypt.Engine).Cancel),
		newReencryptReportCommand(p), newReencryptRetryCommand(p))
	return command
}

func newReencryptRunCommand(p *process) *cobra.Command {
	var c reencryptRunCommand
	command := &cobra.Command{
		Use: "run --bucket BUCKET --from KEY --to KEY", Short: "Move one bucket, in this process",
		Long: `Moves one bucket, in this process. Keys are ids, ARNs or aliases.

A server that has S3 but neither STS nor KMS takes --account and the ARNs of the keys.

It goes through the bucket until a whole pass finds nothing left to move, so it can be interrupted and run again at any time. Exit code 0 says that every version under the old keys is under the new one; 1 that some are not: the summary and --report say which and why.`,
		Args: cobra.NoArgs,
		RunE: p.action(c.run),
	}
	flags := command.Flags()
	flags.StringVar(&c.options.Bucket, "bucket", "", "`bucket` to move")
	flags.StringVar(&c.options.Prefix, "prefix", "", "move only the keys that begin with this")
	flags.StringArrayVar(&c.options.From, "from", nil, "`key` to move from; repeat it for several")
	flags.StringVar(&c.options.To, "to", "", "`key` to move to")
	howFlags(command, &c.options.Versions, &c.options.Method, &c.options.Envelopes, &c.options.RewriteFiles)
	c.add(command, p, 0)
	flags.StringVar(&c.report, "report", "", "write each version that did not move, and why, to this `file`, one JSON object per line")
	flags.BoolVar(&c.options.DryRun, "dry-run", false, "decide and count, and change nothing")
	flags.BoolVar(&c.json, "json", false, "print the summary as one JSON object")
	for _, name := range []string{"bucket", "from", "to"} {
		_ = command.MarkFlagRequired(name) // the flag exists
	}
	return command
}

// howFlags adds the flags that say which versions are moved, and how.
func howFlags(command *cobra.Command, versions *reencrypt.Versions, method *reencrypt.Method, envelopes *reencrypt.Envelopes, rewriteFiles *bool) {
	*versions, *method = reencrypt.VersionsAll, reencrypt.MethodAuto
	flags := command.Flags()
	flags.Var(choice[reencrypt.Versions]{versions, []reencrypt.Versions{reencrypt.VersionsAll, reencrypt.VersionsCurrent}}, "versions", "versions to move")
	flags.Var(choice[reencrypt.Method]{method, reencrypt.Methods()}, "method", "how to move them: "+reencrypt.MethodHelp())
	rewriteFlags(command, envelopes, rewriteFiles)
}

// rewriteFlags adds the flags that say which data keys are moved.
func rewriteFlags(command *cobra.Command, envelopes *reencrypt.Envelopes, rewriteFiles *bool) {
	envelopeFlags(command, envelopes)
	command.Flags().BoolVar(rewriteFiles, "rewrite-files", false, "with --envelopes content: write objects of up to 16 MiB anew whose body holds their data key (SOPS, Tink, cmkeeper envelopes, KMS ciphertexts)")
}

// envelopeFlags adds the flag that says where data keys are looked for.
func envelopeFlags(command *cobra.Command, envelopes *reencrypt.Envelopes) {
	*envelopes = reencrypt.EnvelopesOff
	command.Flags().Var(choice[reencrypt.Envelopes]{envelopes, reencrypt.AllEnvelopes()}, "envelopes", "where to look for data keys of client-side encryption: the objects' metadata, or also what each object begins with, which reads it")
}

// choice is a flag whose value is one of a few. It is a pflag.Value.
type choice[T ~string] struct {
	value   *T
	allowed []T
}

func (c choice[T]) String() string { return string(*c.value) }

func (c choice[T]) Type() string { return joined("|", c.allowed) }

func (c choice[T]) Set(s string) error {
	if err := oneOf(c.allowed...)(s); err != nil {
		return err
	}
	*c.value = T(s)
	return nil
}

// run moves the bucket and prints what it came to.
func (c *reencryptRunCommand) run(ctx context.Context, p *process) (err error) {
	if err := c.check(c.options.Method); err != nil {
		return usageError{err}
	}
	_, engine, err := c.engine(ctx, p)
	if err != nil {
		return err
	}
	begin := engine.Begin
	if c.options.DryRun {
		begin = engine.Preflight
	}
	findings, err := begin(ctx, c.options)
	if err != nil {
		return err
	}
	printFindings(p.stderr, "", findings)
	if cause := reencrypt.Stops(findings); cause != "" && !c.options.DryRun {
		return errors.New("nothing was moved: " + cause)
	}
	report, err := newReport(c.report)
	if err != nil {
		return usageError{err}
	}
	show, finish := progress(p.stderr)
	c.options.Row = report.row
	summary, err := engine.Run(ctx, c.options, show)
	finish()
	summary.Preflight = findings
	if err := errors.Join(err, report.close(summary.Passes)); err != nil {
		if summary.Scanned > 0 {
			err = errors.Join(err, c.print(p.stdout, summary))
		}
		return err
	}
	if err := c.print(p.stdout, summary); err != nil {
		return err
	}
	if !c.options.DryRun && summary.Refused+summary.Failed > 0 {
		return errSilent
	}
	return nil
}

// print writes the summary, for people or as JSON.
func (c *reencryptRunCommand) print(w io.Writer, s reencrypt.Summary) error {
	if c.json {
		return printJSON(w, s)
	}
	return printSummary(w, s, c.options.DryRun)
}

// printSummary writes a summary for people; dry: of what would be moved.
func printSummary(w io.Writer, s reencrypt.Summary, dry bool) error {
	moved := "moved"
	if dry {
		moved = "would move"
	}
	_, err := fmt.Fprintf(w, "%s: %d versions scanned, %d %s, %d skipped, %d refused, %d failed (%s, %d passes)\n",
		s.Bucket+"/"+alert.Escape(s.Prefix), s.Scanned, s.Moved, moved, s.Skipped, s.Refused, s.Failed, s.Finished.Sub(s.Started).Round(time.Millisecond), s.Passes)
	for _, reason := range slices.Sorted(maps.Keys(s.ByReason)) {
		fmt.Fprintf(w, "  %8d  %s\n", s.ByReason[reason], reason)
	}
	printSentences(w, "  ", s.ClientSide(dry))
	for _, row := range s.Sample {
		fmt.Fprintf(w, "  %s  %s %s: %s\n", row.Reason, alert.Escape(row.Key), alert.Escape(row.Version), alert.Escape(row.Detail))
	}
	for _, note := range s.Notes {
		fmt.Fprintf(w, "  note: %s\n", note)
	}
	return err
}

// printSentences writes each on lines of its own.
func printSentences(w io.Writer, indent string, sentences []string) {
	for _, s := range sentences {
		fmt.Fprint(w, wrapTo(columns, s, indent, indent+"  "))
	}
}

// progress returns a function that shows progress where w is a terminal, and
// one that ends the show.
func progress(w io.Writer) (show func(reencrypt.Progress), finish func()) {
	l := newLine(w)
	if l.terminal == nil {
		return nil, func() {}
	}
	began, shown := time.Now(), time.Time{}
	return func(p reencrypt.Progress) {
			if time.Since(shown) < 100*time.Millisecond {
				return
			}
			shown = time.Now()
			// A line that cannot be shown is no reason to stop.
			_ = l.show(fmt.Sprintf("pass %d: %d scanned, %d moved, %d not; %s", p.Pass, p.Scanned, p.Moved, p.Refused+p.Failed, shown.Sub(began).Round(time.Second)))
		}, func() {
			_ = l.show("")
		}
}

// report is the file of what did not move: the rows of the last pass, and what a
// copy has changed, whichever pass it was.
type report struct {
	file    *os.File // nil: none is wanted
	out     *bufio.Writer
	pass    int
	differs []reencrypt.Refusal
	err     error
}

func newReport(path string) (*report, error) {
	if path == "" {
		return &report{}, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &report{file: f, out: bufio.NewWriter(f)}, nil
}

// row takes a row of a pass.
func (r *report) row(pass int, row reencrypt.Refusal) {
	if r.file == nil {
		return
	}
	r.begin(pass)
	if row.Reason == reencrypt.ReasonDiffers {
		r.differs = append(r.differs, row)
	}
	r.write(row)
}

// begin forgets the rows of earlier passes.
func (r *report) begin(pass int) {
	if pass == r.pass {
		return
	}
	r.pass = pass
	r.out.Reset(r.file)
	_, err := r.file.Seek(0, io.SeekStart)
	r.err = errors.Join(r.err, err, r.file.Truncate(0))
	for _, row := range r.differs {
		r.write(row)
	}
}

func (r *report) write(row reencrypt.Refusal) {
	line, err := json.Marshal(row)
	if err == nil {
		_, err = r.out.Write(append(alert.EscapeJSON(line), '\n'))
	}
	if r.err == nil {
		r.err = err
	}
}

// close ends the file after as many passes.
func (r *report) close(passes int) error {
	if r.file == nil {
		return nil
	}
	r.begin(passes)
	if err := errors.Join(r.err, r.out.Flush(), r.file.Close()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}
