// Package cli is cmkeeper's command line: the commands, the configuration and
// the wiring. It is the only package that knows all the others.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// Exit codes of every command.
const (
	exitOK    = 0 // it worked
	exitError = 1 // it ran, and failed or found what it was asked to look for
	exitUsage = 2 // the command line or the configuration is wrong; nothing was done
)

const about = `cmkeeper keeps customer managed KMS keys compliant: it reacts to KMS events, repairs what it may repair, tells people what happened and moves S3 data onto the new key when an alias moves.

Try it without an AWS account: cmkeeper demo

Output goes to standard output, logs to standard error. Exit codes: 0 success, 1 failure, 2 wrong command line or configuration.`

// grammar is the command line; each command is a struct with a Run method.
type grammar struct {
	Worker    workerCommand    `cmd:"" help:"Work on the queues until SIGTERM: a member of the fleet. Configured by CMKEEPER_ variables."`
	Demo      demoCommand      `cmd:"" help:"Show every reaction on an AWS in this process, and check the result against live state."`
	Local     localCommand     `cmd:"" help:"Run an AWS in this process with a worker beside it, to play with through the AWS CLI."`
	Reencrypt reencryptCommand `cmd:"" help:"Move S3 objects from one KMS key to another."`
	Replay    replayCommand    `cmd:"" help:"Show what would be done about events, changing nothing."`
	Health    healthCommand    `cmd:"" help:"Ask the worker of this container whether it is well; for health checks."`
	Version   versionCommand   `cmd:"" help:"Print the version."`
}

// process is what a command sees of the process that it runs in.
type process struct {
	environment    map[string]string
	stdout, stderr io.Writer
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
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return run(ctx, args, environ, stdout, stderr)
}

func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) (code int) {
	p := &process{environment: map[string]string{}, stdout: stdout, stderr: stderr}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok {
			p.environment[name] = value
		}
	}
	code = -1 // kong exits itself after --help
	parser, err := kong.New(&grammar{},
		kong.Name("cmkeeper"),
		kong.Description(about),
		kong.Writers(stdout, stderr),
		kong.Exit(func(c int) { code = c }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(p),
	)
	if err != nil {
		fmt.Fprintf(stderr, "cmkeeper: %v\n", err)
		return exitUsage
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	if code >= 0 {
		return code
	}
	if err != nil {
		fmt.Fprintf(stderr, "cmkeeper: %v\nRun \"cmkeeper --help\" for usage.\n", err)
		return exitUsage
	}
	switch err := command.Run(); {
	case err == nil:
		return exitOK
	case errors.Is(err, errSilent):
		return exitError
	case errors.As(err, new(usageError)):
		fmt.Fprintf(stderr, "cmkeeper: %v\n", err)
		return exitUsage
	default:
		fmt.Fprintf(stderr, "cmkeeper: %v\n", err)
		return exitError
	}
}
