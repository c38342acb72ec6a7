package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

type localCommand struct {
	addr            string
	beyondLoopback  bool
	observe, noWork bool
}

func newLocalCommand(p *process) *cobra.Command {
	var c localCommand
	command := &cobra.Command{
		Use: "local", Short: "Run an AWS in this process with a worker beside it, to play with through the AWS CLI", Long: localAbout, Args: cobra.NoArgs,
		RunE: p.action(c.run),
	}
	flags := command.Flags()
	flags.StringVar(&c.addr, "addr", "127.0.0.1:4566", "`address` to listen on")
	flags.BoolVar(&c.beyondLoopback, "beyond-loopback", false, "let other machines connect, on port 4566 of all addresses unless --addr names one: for containers. Nobody is authenticated: publish the port on 127.0.0.1 only")
	flags.BoolVar(&c.observe, "observe", false, "let the worker observe instead of enforce")
	flags.BoolVar(&c.noWork, "no-worker", false, "run no worker beside the AWS, for workers in other processes")
	command.MarkFlagsMutuallyExclusive("observe", "no-worker")
	command.PreRun = func(command *cobra.Command, _ []string) {
		if c.beyondLoopback && !command.Flags().Changed("addr") {
			c.addr = ":4566"
		}
	}
	return command
}

const localAbout = `Runs an AWS in this process and a worker beside it, says what to try, and prints the alerts as text, on standard output. What the worker does is logged on standard error.

CMKEEPER_ variables change the worker's settings, but for those that name the queues, the topic and the state bucket:

  CMKEEPER_POLICY_MODE=observe CMKEEPER_CONTAIN_MODE=enforce cmkeeper local

With --no-worker it prints the environment for "cmkeeper worker" in another terminal.`

const localIntroduction = `KMS, SQS, SNS, EventBridge, CloudTrail, STS, S3 and a little of EC2 and RDS are at %[1]s.
%[2]s
In another terminal, for the AWS CLI and cmkeeper's commands:

%[3]s
  # rotation is switched off …
  aws kms disable-key-rotation --key-id %[5]s
  aws kms get-key-rotation-status --key-id %[5]s
  # … a key may be used by everybody …
  aws kms put-key-policy --key-id %[6]s --policy '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::%[8]s:root"},"Action":"kms:*","Resource":"*"},{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"}]}'
  # … a key is to be deleted …
  aws kms schedule-key-deletion --key-id %[5]s --pending-window-in-days 7
  # … and an alias moves, and with it the objects of a bucket.
  aws kms create-key --description "a key without findings" --query KeyMetadata.KeyId --output text
  aws kms update-alias --alias-name %[4]s --target-key-id KEY-ID-OF-THE-LINE-BEFORE
  aws s3api head-object --bucket %[7]s --key reports/00.txt --query SSEKMSKeyId

The alerts are printed here as text. They are in a queue, too, as JSON:

  aws sqs receive-message --queue-url %[9]s --max-number-of-messages 10 --query 'Messages[].Body'

Ctrl-C stops it; nothing is kept.%[10]s
`

// localResources are the variables that name what the sandbox has made.
var localResources = []string{"EVENTS_QUEUE_URL", "JOBS_QUEUE_URL", "ALERT_TOPIC_ARN", "STATE_BUCKET"}

// localEnvironment returns the variables of a worker beside the sandbox: its defaults, and
// over them those of the process. An error names each variable of the process that would
// lead the worker away from the sandbox.
func localEnvironment(defaults, process map[string]string) (map[string]string, error) {
	environment := maps.Clone(defaults)
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(process)) {
		value := process[name]
		short, ours := strings.CutPrefix(name, envPrefix)
		switch {
		case !ours || value == "":
		case slices.Contains(localResources, short) && value != defaults[name]:
			problems = append(problems, fmt.Errorf("%s=%q: cmkeeper local makes its own queues, topic and state bucket: unset the variable", name, value))
		default:
			environment[name] = value
		}
	}
	return environment, errors.Join(problems...)
}

// exports returns lines for a shell that export the variables.
func exports(environment map[string]string, names ...string) string {
	var b strings.Builder
	for _, name := range names {
		value := environment[name]
		if !only(value, word+"-.:/=@%+,") {
			value = "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
		}
		b.WriteString("  export " + name + "=" + value + "\n")
	}
	return b.String()
}

// awsExports exports where the sandbox is, for whoever has the access key.
func awsExports(endpoint, accessKey string) string {
	return fmt.Sprintf("  export AWS_ENDPOINT_URL=%s AWS_DEFAULT_REGION=%s AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=test\n", endpoint, sandbox.Region, accessKey)
}

// beside says what the worker beside the sandbox does, and how to change that.
func beside(c Config, environment, defaults map[string]string) string {
	var changed []string
	for _, name := range slices.Sorted(maps.Keys(environment)) {
		if environment[name] != defaults[name] {
			changed = append(changed, name)
		}
	}
	text := fmt.Sprintf("A worker runs beside them: rotation %s, policy %s, deletion %s, reencrypt %s, contain %s.\n",
		c.RotationMode, c.PolicyMode, c.DeletionMode, c.ReencryptMode, c.ContainMode)
	if len(changed) > 0 {
		return text + "Not the defaults: " + strings.Join(changed, ", ") + "."
	}
	return text + "Variables change its settings, such as CMKEEPER_POLICY_MODE=observe cmkeeper local."
}

// elsewhere says how to run a worker in another process.
func elsewhere(endpoint string, environment map[string]string) string {
	return "No worker runs beside them. In another terminal, for each worker:\n\n" + awsExports(endpoint, sandbox.WorkerKey) +
		exports(environment, slices.Sorted(maps.Keys(environment))...) + "  cmkeeper worker\n"
}

// screen is a message of the topic as it is printed: an alert as text, anything else as it
// is, with what a terminal acts on escaped.
func screen(body string) string {
	var a alert.Alert
	if err := json.Unmarshal([]byte(body), &a); err == nil && a.ID != "" {
		return a.Text()
	}
	var b strings.Builder
	for line := range strings.Lines(body) {
		b.WriteString(alert.Escape(strings.TrimSuffix(line, "\n")) + "\n")
	}
	return b.String()
}

// address returns an error unless the address is one that only this machine reaches, or
// others may.
func (c *localCommand) address() error {
	host, _, err := net.SplitHostPort(c.addr)
	if err != nil {
		return fmt.Errorf("address %q: %w", c.addr, err)
	}
	if ip := net.ParseIP(host); !c.beyondLoopback && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("address %q: nobody is authenticated here, so it must be a loopback address such as 127.0.0.1:4566; in a container, use --beyond-loopback", c.addr)
	}
	return nil
}

// run serves until the context is cancelled.
func (c *localCommand) run(ctx context.Context, p *process) error {
	if err := c.address(); err != nil {
		return usageError{err}
	}
	box, err := sandbox.Start(ctx, c.addr)
	if err != nil {
		return err
	}
	defer box.Close()
	playground, err := box.Populate(ctx)
	if err != nil {
		return err
	}
	// The story begins with the worker: it is told nothing of how the resources were made.
	for bodies := []string{""}; len(bodies) > 0; {
		if bodies, err = box.Receive(ctx, box.EventsQueue, 0); err != nil {
			return err
		}
	}
	alerts, err := box.Subscribe(ctx, "cmkeeper-alert-screen")
	if err != nil {
		return err
	}
	defaults := box.WorkerEnvironment("*")
	defaults[envPrefix+"LOG_FORMAT"] = "text"
	if !c.noWork {
		defaults[envPrefix+"DRAIN_TIMEOUT"] = "0s" // the queues end with this process: there is nothing to drain for
	}
	environment, err := localEnvironment(defaults, p.environment)
	if err != nil {
		return usageError{err}
	}
	if c.observe {
		observeOnly(environment)
	}
	config, err := LoadConfig(ctx, environment)
	if err != nil {
		return usageError{err}
	}
	tell := func() {
		worker, log := beside(config, environment, defaults), " What the worker does is logged on standard error.\n"
		if c.noWork {
			// Here the address is this process's.
			environment[envPrefix+"HTTP_ADDR"] = defaults[envPrefix+"HTTP_ADDR"]
			worker, log = elsewhere(box.Endpoint, environment), ""
		}
		var resources []string
		for _, name := range localResources {
			resources = append(resources, envPrefix+name)
		}
		fmt.Fprintf(p.stdout, localIntroduction, box.Endpoint, worker, awsExports(box.Endpoint, "test")+exports(environment, resources...),
			playground.Alias, playground.Key, playground.NextKey, playground.Bucket, sandbox.Account, box.Inbox, log)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if c.noWork {
			return c.serve(ctx, config.HTTPAddr, tell)
		}
		tell()
		return fleetMember{config: config, aws: box.Config(sandbox.WorkerKey), log: config.logger(p.stderr)}.run(ctx)
	})
	g.Go(func() error {
		for {
			bodies, err := box.Receive(ctx, alerts, 20*time.Second)
			switch {
			case ctx.Err() != nil: // it was told to stop
				return nil //nolint:nilerr // what it waited for is not wanted any more
			case err != nil:
				return err
			}
			for _, body := range bodies {
				fmt.Fprintf(p.stdout, "\n%s", screen(body))
			}
		}
	})
	return g.Wait()
}

// serve answers health checks until the context is cancelled.
func (c *localCommand) serve(ctx context.Context, addr string, ready func()) error {
	health := healthServer(addr, func() string { return "" }, nil)
	if err := serve(ctx, health); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return health.Close()
}
