package cli

import (
	"context"
	"fmt"
	"net"

	"github.com/spf13/cobra"

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
		Use: "local", Short: "Run an AWS in this process with a worker beside it, to play with through the AWS CLI", Args: cobra.NoArgs,
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

const localIntroduction = `KMS, SQS, SNS, EventBridge, CloudTrail, STS, S3 and a little of EC2 and RDS are at %[1]s, and %[2]s.
In another terminal:

  export AWS_ENDPOINT_URL=%[1]s AWS_DEFAULT_REGION=%[3]s AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test

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

  # the alerts
  aws sqs receive-message --endpoint-url %[1]s --queue-url %[9]s --max-number-of-messages 10 --query 'Messages[].Body'

Ctrl-C stops it; nothing is kept.%[10]s
`

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
	environment := box.WorkerEnvironment("*")
	environment["CMKEEPER_LOG_FORMAT"] = "text"
	environment["CMKEEPER_DRAIN_TIMEOUT"] = "0s" // the queues end with this process: there is nothing to drain for
	if addr := p.environment[envPrefix+"HTTP_ADDR"]; addr != "" {
		environment["CMKEEPER_HTTP_ADDR"] = addr // where the image's health check asks
	}
	beside, log := "a worker that enforces everything runs beside them", " What the worker does is logged here:\n"
	switch {
	case c.observe:
		beside = "a worker that observes everything runs beside them"
		observeOnly(environment)
	case c.noWork:
		beside, log = "no worker runs beside them", ""
	}
	config, err := LoadConfig(ctx, environment)
	if err != nil {
		return usageError{err}
	}
	tell := func() {
		fmt.Fprintf(p.stdout, localIntroduction, box.Endpoint, beside, sandbox.Region, playground.Alias, playground.Key, playground.NextKey, playground.Bucket, sandbox.Account, box.Inbox, log)
	}
	if c.noWork {
		return c.serve(ctx, config.HTTPAddr, tell)
	}
	tell()
	return fleetMember{config: config, aws: box.Config(sandbox.WorkerKey), log: config.logger(p.stderr)}.run(ctx)
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
