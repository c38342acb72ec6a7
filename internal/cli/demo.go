package cli

import (
	"context"
	"io"
	"log/slog"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/internal/demo"
	"github.com/cmkeeper/cmkeeper/internal/eventlog"
)

type demoCommand struct{ json, verbose bool }

func newDemoCommand(p *process) *cobra.Command {
	var c demoCommand
	command := &cobra.Command{
		Use: "demo", Short: "Show every reaction on an AWS in this process, and check the result against live state", Args: cobra.NoArgs,
		RunE: p.action(c.run),
	}
	command.Flags().BoolVar(&c.json, "json", false, "print one JSON object with the result instead of the story")
	command.Flags().BoolVarP(&c.verbose, "verbose", "v", false, "log what the worker does, on standard error")
	return command
}

// run plays the demo; a demo that does not end as it should fails the command.
func (c *demoCommand) run(ctx context.Context, p *process) error {
	o := demo.Options{Out: p.stdout, Worker: demoWorker(slog.New(slog.DiscardHandler)), Command: demoOperator}
	if c.verbose {
		o.Worker = demoWorker(slog.New(eventlog.Handler(slog.NewTextHandler(p.stderr, nil))))
	}
	if c.json {
		o.Out = io.Discard
	}
	summary, err := demo.Run(ctx, o)
	if err != nil {
		return err
	}
	if c.json {
		if err := printJSON(p.stdout, summary); err != nil {
			return err
		}
	}
	if !summary.OK {
		return errSilent
	}
	return nil
}

// demoWorker runs the worker as "cmkeeper worker" would, on the environment that it is given.
func demoWorker(log *slog.Logger) func(context.Context, map[string]string, aws.Config, func()) error {
	return func(ctx context.Context, environment map[string]string, cfg aws.Config, ready func()) error {
		c, err := LoadConfig(ctx, environment)
		if err != nil {
			return err
		}
		return fleetMember{config: c, aws: cfg, log: log, swept: ready}.run(ctx)
	}
}

// demoOperator runs a command line as "cmkeeper" would for a person, on the environment
// that it is given.
func demoOperator(ctx context.Context, environment map[string]string, cfg aws.Config, stdout, stderr io.Writer, args ...string) error {
	return newRootCommand(&process{environment: environment, stdout: stdout, stderr: stderr, aws: &cfg}, args).ExecuteContext(ctx)
}
