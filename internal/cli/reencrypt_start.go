package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

type reencryptStartCommand struct {
	jobFlags
	order reencrypt.Order
	plan  string
}

func newReencryptStartCommand(p *process) *cobra.Command {
	var c reencryptStartCommand
	command := &cobra.Command{
		Use: "start {--plan FILE | --bucket BUCKET --from KEY --to KEY}", Short: "Start jobs of the fleet that move buckets",
		Long: `Starts a job of the fleet for a bucket, or for each bucket of a plan, as an alias move does.

The same plan is the same jobs, however often it is started. Without a plan, a bucket that an open job moves in the same way is that job. Where an open job moves the bucket to another key, nothing is started.`,
		Args: cobra.NoArgs,
		RunE: p.action(c.run),
	}
	flags := command.Flags()
	flags.StringVar(&c.plan, "plan", "", "start what \"reencrypt plan --json\" has written to this `file`; - is standard input")
	flags.StringVar(&c.order.Bucket, "bucket", "", "`bucket` to move")
	flags.StringVar(&c.order.Prefix, "prefix", "", "move only the keys that begin with this")
	flags.StringArrayVar(&c.order.From, "from", nil, "`key` to move from; repeat it for several")
	flags.StringVar(&c.order.To, "to", "", "`key` to move to")
	howFlags(command, &c.order.Versions, &c.order.Method, &c.order.Envelopes, &c.order.RewriteFiles)
	c.add(command, "the jobs")
	command.MarkFlagsOneRequired("plan", "bucket")
	command.MarkFlagsMutuallyExclusive("plan", "bucket")
	command.MarkFlagsRequiredTogether("bucket", "from", "to")
	return command
}

// run starts the jobs and prints their ids.
func (c *reencryptStartCommand) run(ctx context.Context, p *process) error {
	orders, at := []reencrypt.Order{c.order}, time.Time{}
	if c.plan != "" {
		var err error
		if orders, at, err = readPlan(c.plan); err != nil {
			return usageError{fmt.Errorf("read plan: %w", err)}
		}
	}
	e, err := jobsEngine(ctx, p)
	if err != nil {
		return err
	}
	ids, err := e.StartOrders(ctx, orders, at)
	if err != nil {
		return err
	}
	if c.json {
		return printJSON(p.stdout, struct {
			Jobs []string `json:"jobs"`
		}{ids})
	}
	for i, id := range ids {
		fmt.Fprintf(p.stdout, "%s  s3://%s/%s\n", id, orders[i].Bucket, alert.Escape(orders[i].Prefix))
		printSentences(p.stdout, "  ", reencrypt.Summary{EnvelopesIn: orders[i].Envelopes}.ClientSide(false))
	}
	return nil
}

// readPlan reads what of a plan says what to start. A plan without the time when
// it was made could not be told from the next one.
func readPlan(path string) ([]reencrypt.Order, time.Time, error) {
	in := io.Reader(os.Stdin)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, time.Time{}, err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	var plan struct {
		Schema  string            `json:"schema"`
		Created time.Time         `json:"created"`
		Buckets []reencrypt.Order `json:"buckets"`
	}
	if err := json.NewDecoder(in).Decode(&plan); err != nil {
		return nil, time.Time{}, err
	}
	switch {
	case plan.Schema != reencrypt.PlanSchema:
		return nil, time.Time{}, fmt.Errorf("its schema is %q, not %q", plan.Schema, reencrypt.PlanSchema)
	case plan.Created.IsZero():
		return nil, time.Time{}, errors.New("it does not say when it was created")
	case len(plan.Buckets) == 0:
		return nil, time.Time{}, errors.New("it names no buckets")
	}
	return plan.Buckets, plan.Created, nil
}
