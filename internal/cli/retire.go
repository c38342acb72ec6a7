package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/retire"
)

// retireFlags are what both commands have in common.
type retireFlags struct {
	byReports   bool
	envelopes   reencrypt.Envelopes
	accepted    []string
	quietDays   int
	concurrency int
	json        bool
}

func (f *retireFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.BoolVar(&f.byReports, "by-reports", false, "take the report of a complete job that moved a whole bucket, all versions, off the key and left nothing for a scan of that bucket")
	envelopeFlags(c, &f.envelopes)
	flags.StringArrayVar(&f.accepted, "accept", nil, "accept that something is `unknown`, by the name that the check gives it (uploads:my-bucket, objects:my-bucket, last-use); repeat it for several")
	flags.IntVar(&f.quietDays, "quiet-days", 7, "days for which the key must not have been used")
	flags.IntVar(&f.concurrency, "concurrency", 64, "objects asked at once")
	flags.BoolVar(&f.json, "json", false, "print the result as one JSON object")
}

func newRetireCommand(p *process) *cobra.Command {
	command := &cobra.Command{Use: "retire", Short: "Check whether a KMS key can be deleted, and schedule its deletion"}
	command.AddCommand(newRetireCheckCommand(p), newRetireScheduleCommand(p))
	return command
}

const retireCheckAbout = `Looks for everything in this account and Region that still depends on a key: aliases, buckets' default encryption, object versions, unfinished uploads, replication, grants, related keys, and the key's last use.

It asks every object version of every bucket for its key, which takes a HEAD request each; --by-reports takes the reports of verified jobs instead where there are such. Applications may have encrypted what they store with a data key under the key, which S3 knows nothing of: --envelopes looks for such data keys. What cannot be checked counts as a dependency until it is accepted by name. Exit code 0 says that nothing is known to need the key.`

func newRetireCheckCommand(p *process) *cobra.Command {
	var f retireFlags
	command := &cobra.Command{
		Use: "check KEY", Short: "List what still depends on a key; exit code 0 only if nothing does", Long: retireCheckAbout, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.action(func(ctx context.Context, p *process) error {
				_, r, err := f.check(ctx, p, args[0])
				if err != nil {
					return err
				}
				if err := f.print(p.stdout, r); err != nil {
					return err
				}
				if !r.Free {
					return errSilent
				}
				return nil
			})(c, args)
		},
	}
	f.add(command)
	return command
}

type retireScheduleCommand struct {
	retireFlags
	days    int
	checked string
}

func newRetireScheduleCommand(p *process) *cobra.Command {
	var s retireScheduleCommand
	command := &cobra.Command{
		Use: "schedule KEY", Short: "Schedule the deletion of a key that passes the check",
		Long: `Checks the key as "retire check" does and refuses unless that passes. Then it asks for the key's id, records the approval in the state bucket, so that the fleet does not undo the deletion, and schedules it.

Run it as yourself, not as the fleet's role: the fleet alerts on a call of its role that it did not make.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.action(func(ctx context.Context, p *process) error { return s.run(ctx, p, args[0]) })(c, args)
		},
	}
	s.add(command)
	command.Flags().IntVar(&s.days, "days", 30, "waiting period in days, 7 to 30")
	command.Flags().StringVar(&s.checked, "yes-i-checked", "", "the key's `id`, instead of typing it when asked")
	return command
}

// check checks the key, named by id, ARN or alias.
func (f *retireFlags) check(ctx context.Context, p *process, key string) (byHand, retire.Result, error) {
	if f.concurrency < 1 || f.quietDays < 0 {
		return byHand{}, retire.Result{}, usageError{errors.New("--concurrency must be at least 1 and --quiet-days not negative")}
	}
	hand, err := loadByHand(ctx, p, f.concurrency)
	if err != nil {
		return hand, retire.Result{}, err
	}
	engine, err := hand.engine("", f.concurrency, askRate)
	if err != nil {
		return hand, retire.Result{}, err
	}
	show, finish := counting(p.stderr)
	checker := retire.Checker{
		S3: hand.s3, Facts: hand.facts, Account: hand.account, Survey: engine,
		Resources: hand.dependents(), Trail: hand.trails, StateBucketSet: p.environment[envPrefix+"STATE_BUCKET"] != "",
		Envelopes: f.envelopes, Quiet: time.Duration(f.quietDays) * 24 * time.Hour, Accepted: f.accepted, Seen: show,
	}
	if f.byReports || p.environment[envPrefix+"STATE_BUCKET"] != "" && p.environment[envPrefix+"JOBS_QUEUE_URL"] != "" {
		jobs, err := jobsEngine(ctx, p)
		if err != nil {
			return hand, retire.Result{}, err
		}
		checker.Jobs = jobs
		if f.byReports {
			checker.Reports = jobs
		}
	}
	r, err := checker.Check(ctx, key)
	finish()
	return hand, r, err
}

// run checks, asks, and schedules.
func (s *retireScheduleCommand) run(ctx context.Context, p *process, key string) error {
	bucket := p.environment[envPrefix+"STATE_BUCKET"]
	switch {
	case s.days < 7 || s.days > 30:
		return usageError{errors.New("--days must be 7 to 30")}
	case bucket == "":
		return usageError{fmt.Errorf("%sSTATE_BUCKET is not set: the approval is recorded there", envPrefix)}
	}
	hand, r, err := s.check(ctx, p, key)
	if err != nil {
		return err
	}
	if err := s.print(p.stdout, r); err != nil {
		return err
	}
	if !r.Free {
		return fmt.Errorf("the deletion of key %s was not scheduled: the check does not pass", r.Key)
	}
	id := arn.KeyID(r.Key)
	if s.checked == "" {
		if s.checked, err = ask(os.Stdin, p.stderr, fmt.Sprintf("To schedule its deletion in %d days, type the key's id (%s): ", s.days, id)); err != nil {
			return err
		}
	}
	if s.checked != id {
		return fmt.Errorf("the deletion of key %s was not scheduled: %q is not its id", r.Key, s.checked)
	}
	date, err := retire.Schedule(ctx, hand.kms, hand.store(bucket), r, hand.caller, s.days)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stderr, "The key will be deleted on %s. Until then: %s\n", date.UTC().Format(time.DateTime+" MST"), command.Line("aws kms cancel-key-deletion --key-id %s", command.KeyID(id)))
	return nil
}

// ask asks a question and returns the line that is answered.
func ask(in io.Reader, out io.Writer, question string) (string, error) {
	fmt.Fprint(out, question)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && (line == "" || !errors.Is(err, io.EOF)) {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	return strings.TrimSpace(line), nil
}

// print writes a result, for people or as JSON.
func (f *retireFlags) print(w io.Writer, r retire.Result) error {
	if f.json {
		return printJSON(w, r)
	}
	fmt.Fprintf(w, "%s (%s)\n", r.Key, r.State)
	ties := func(title string, ties []retire.Tie) {
		if len(ties) > 0 {
			fmt.Fprintf(w, "%s:\n", title)
		}
		for _, t := range ties {
			fmt.Fprintf(w, "  %s  %s\n", alert.Escape(t.ID), alert.Escape(t.What))
			if t.Fix != "" {
				fmt.Fprintf(w, "      %s\n", alert.Escape(t.Fix))
			}
		}
	}
	ties("Needs the key", r.Ties)
	ties("Not known, and counts against the key", r.Unknown)
	if len(r.Accepted) > 0 {
		fmt.Fprintf(w, "Not known, and accepted: %s\n", alert.Escape(strings.Join(r.Accepted, ", ")))
	}
	var versions int64
	var scanned, reported, not []string
	for _, b := range r.Buckets {
		versions += b.Scanned
		switch {
		case b.NotScanned != "":
			not = append(not, b.Name)
		case b.Job != "":
			reported = append(reported, fmt.Sprintf("%s (job %s, %s)", b.Name, b.Job, b.At.UTC().Format(time.RFC3339)))
		default:
			scanned = append(scanned, b.Name)
		}
	}
	fmt.Fprintf(w, "Scanned: %d object versions in %d buckets: %s\n", versions, len(scanned), strings.Join(scanned, ", "))
	if len(reported) > 0 {
		fmt.Fprintf(w, "By the report of a job: %s\n", strings.Join(reported, ", "))
	}
	if len(not) > 0 {
		fmt.Fprintf(w, "Not scanned: %s\n", strings.Join(not, ", "))
	}
	if r.LastUse != "" {
		fmt.Fprintf(w, "Last use: %s\n", r.LastUse)
	}
	for _, note := range r.Notes {
		fmt.Fprintln(w, note)
	}
	verdict := "The key is NOT free."
	if r.Free {
		verdict = "Nothing is known to need the key."
	}
	_, err := fmt.Fprintln(w, verdict)
	return err
}
