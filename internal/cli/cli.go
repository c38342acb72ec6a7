// Package cli is cmkeeper's command line: the commands, the configuration and
// the wiring. It is the only package that knows all the others.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	_ "time/tzdata" // CMKEEPER_BUSINESS_HOURS names a zone, and an image may have none

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/alert"
)

// Exit codes of every command.
const (
	exitOK    = 0 // it worked
	exitError = 1 // it ran, and failed or found what it was asked to look for
	exitUsage = 2 // the command line or the configuration is wrong; nothing was done
)

const about = `cmkeeper keeps customer managed KMS keys compliant: it reacts to KMS events, repairs what it may repair, alerts people and moves S3 data onto the new key when an alias moves.

Try it without an AWS account: cmkeeper demo

Output goes to standard output, logs to standard error. Exit codes: 0 success, 1 failure, 2 wrong command line or configuration.`

// process is what a command sees of the process that it runs in.
type process struct {
	environment    map[string]string
	stdout, stderr io.Writer
	// aws is how commands call AWS; nil: as the environment says.
	aws *aws.Config
	// ran: the command line was right, and a command has begun.
	ran bool
}

// action makes a command's action of f.
func (p *process) action(f func(context.Context, *process) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, _ []string) error {
		p.ran = true
		return f(c.Context(), p)
	}
}

// usageError marks an error of the command line or the configuration.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// errSilent ends a command with exit code 1 when everything was said already.
var errSilent = errors.New("failed")

// Main runs the command line args in an environment of NAME=value strings and
// returns the exit code. SIGINT and SIGTERM cancel the command's context; a
// second one ends the process at once.
func Main(args, environ []string, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() { // registering for signals starts a thread, which nothing has to wait for
		signalled, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
		<-signalled.Done()
		stop()
		cancel(context.Cause(signalled))
	}()
	return run(ctx, args, environ, stdout, stderr)
}

func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	return newProcess(environ, stdout, stderr).run(ctx, args)
}

// newProcess returns the process with an environment of NAME=value strings.
func newProcess(environ []string, stdout, stderr io.Writer) *process {
	p := &process{environment: map[string]string{}, stdout: stdout, stderr: stderr}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok {
			p.environment[name] = value
		}
	}
	return p
}

// run runs a command line and returns the exit code.
func (p *process) run(ctx context.Context, args []string) int {
	stderr := p.stderr
	var err error
	if slices.Equal(args, []string{"worker"}) { // which starts without the tree of commands
		p.ran = true
		err = runWorker(ctx, p)
	} else {
		err = newRootCommand(p, args).ExecuteContext(ctx)
	}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errSilent):
		return exitError
	case !p.ran:
		fmt.Fprintf(stderr, "cmkeeper: %v\nRun \"cmkeeper --help\" for usage.\n", err)
		return exitUsage
	case errors.As(err, new(usageError)):
		fmt.Fprintf(stderr, "cmkeeper: %v\n", err)
		return exitUsage
	default:
		fmt.Fprintf(stderr, "cmkeeper: %v\n", err)
		return exitError
	}
}

// newRootCommand returns the command that all others are below, for the arguments.
func newRootCommand(p *process, args []string) *cobra.Command {
	root := &cobra.Command{
		Use: "cmkeeper", Short: "Keep KMS keys compliant", Long: about,
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              cobra.NoArgs,
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetArgs(args)
	root.AddCommand(newWorkerCommand(p), newDemoCommand(p), newLocalCommand(p), newReencryptCommand(p), newRetireCommand(p), newRotateCommand(p), newExemptionsCommand(p), newKeysCommand(p), newUsageCommand(p), newAccessCommand(p), newPolicyCommand(p), newEnvelopeCommand(p), newReportCommand(p), newAlertsCommand(p), newReplayCommand(p), newHealthCommand(p), newVersionCommand(p))
	return root
}

// newEncoder returns the only encoder of JSON that is printed: what a terminal acts on is
// escaped.
func newEncoder(w io.Writer) *json.Encoder { return json.NewEncoder(alert.JSONWriter{W: w}) }

// printJSON prints v as one line of JSON.
func printJSON(w io.Writer, v any) error { return newEncoder(w).Encode(v) }
