package cli

import (
	"bufio"
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/reencrypt"
)

type reencryptReportCommand struct {
	jobFlags
	csv, lines bool
}

func newReencryptReportCommand(p *process) *cobra.Command {
	var c reencryptReportCommand
	command := &cobra.Command{
		Use: "report JOB", Short: "Show what a job that has ended has come to, and every version that did not move",
		Long: `Shows what a job that has ended has come to. Of one that was cancelled, say, that is what it recorded until then, and what it did not go through is not known.

--csv prints every object version that did not move as a manifest for S3 Batch Operations: bucket, URL-encoded key and, where all of them have one, version. --jsonl prints them with their reasons, one JSON object per line.`,
		Args: cobra.ExactArgs(1),
		RunE: p.onJob(c.run),
	}
	c.add(command, "the summary")
	command.Flags().BoolVar(&c.csv, "csv", false, "print what did not move as a manifest for S3 Batch Operations")
	command.Flags().BoolVar(&c.lines, "jsonl", false, "print what did not move, and why, one JSON object per line")
	command.MarkFlagsMutuallyExclusive("json", "csv", "jsonl")
	return command
}

// run prints the report in the form that was asked for.
func (c *reencryptReportCommand) run(ctx context.Context, p *process, e *reencrypt.Engine, job string) error {
	if c.csv {
		return e.WriteManifest(ctx, job, p.stdout)
	}
	s, err := e.Report(ctx, job)
	switch {
	case err != nil:
		return err
	case c.json:
		return printJSON(p.stdout, s)
	case !c.lines:
		return errors.Join(printSummary(p.stdout, s, false), printNext(p.stdout, s.Next()))
	}
	out := bufio.NewWriter(p.stdout)
	lines := newEncoder(out)
	for row, err := range e.ReportRows(ctx, job) {
		if err == nil {
			err = lines.Encode(row)
		}
		if err != nil {
			return err
		}
	}
	return out.Flush()
}
