package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

type localCommand struct {
	addr    string
	observe bool
}

func newLocalCommand(p *process) *cobra.Command {
	var c localCommand
	command := &cobra.Command{
		Use: "local", Short: "Run an AWS in this process with a worker beside it, to play with through the AWS CLI", Args: cobra.NoArgs,
		RunE: p.action(c.run),
	}
	command.Flags().StringVar(&c.addr, "addr", "127.0.0.1:4566", "loopback `address` to listen on")
	command.Flags().BoolVar(&c.observe, "observe", false, "let the worker observe instead of enforce")
	return command
}

const localIntroduction = `KMS, SQS, SNS, EventBridge, CloudTrail, STS, S3 and a little of EC2 and RDS are at %[1]s, and a worker that %[2]s everything runs beside them.
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

Ctrl-C stops it; nothing is kept. What the worker does is logged here:

`

// run serves until the context is cancelled.
func (c *localCommand) run(ctx context.Context, p *process) error {
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
	does := "enforces"
	if c.observe {
		does = "observes"
		observeOnly(environment)
	}
	config, err := LoadConfig(ctx, environment)
	if err != nil {
		return usageError{err}
	}
	fmt.Fprintf(p.stdout, localIntroduction, box.Endpoint, does, sandbox.Region, playground.Alias, playground.Key, playground.NextKey, playground.Bucket, sandbox.Account, box.Inbox)
	return fleetMember{config: config, aws: box.Config(sandbox.WorkerKey), log: config.logger(p.stderr)}.run(ctx)
}
