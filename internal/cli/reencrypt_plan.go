package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

type reencryptPlanCommand struct {
	buckets       []string
	prefix, alias string
	moveFlags
	options reencrypt.RunOptions
	sample  int
	json    bool
}

func newReencryptPlanCommand(p *process) *cobra.Command {
	var c reencryptPlanCommand
	command := &cobra.Command{
		Use: "plan (--alias ALIAS | --bucket BUCKET …) [--from KEY] [--to KEY]", Short: "Say what a move would do, and what it would cost, without moving anything",
		Long: `Says per bucket what is in scope, how it would be moved, in how many requests, at what estimated cost and in what time, and what would fail or surprise. Keys are ids, ARNs or aliases.

With --alias the places are those that a move of that alias would have, without regard to other aliases that move at the same time. Name the new key with --to before the alias moves; after it moved, name the old one with --from.

Every object version is asked for its key, or with --sample that many of each bucket, at random. Exit code 1 says that something would stop the move.`,
		Args: cobra.NoArgs,
		RunE: p.action(c.run),
	}
	flags := command.Flags()
	flags.StringVar(&c.alias, "alias", "", "plan what a move of this `alias` would move")
	flags.StringArrayVar(&c.buckets, "bucket", nil, "`bucket` to move; repeat it for several")
	flags.StringVar(&c.prefix, "prefix", "", "move only the keys that begin with this")
	flags.StringArrayVar(&c.options.From, "from", nil, "`key` to move from; repeat it for several; by default the one that --alias points to")
	flags.StringVar(&c.options.To, "to", "", "`key` to move to; by default the one that --alias points to")
	howFlags(command, &c.options.Versions, &c.options.Method, &c.options.Envelopes, &c.options.RewriteFiles)
	flags.IntVar(&c.sample, "sample", 0, "ask only this many versions of each bucket for their key, at random, and scale up; 0 asks all")
	c.add(command, p, askRate)
	flags.BoolVar(&c.json, "json", false, "print the plan as one JSON object, which reencrypt start --plan takes")
	command.MarkFlagsMutuallyExclusive("alias", "bucket")
	command.MarkFlagsOneRequired("alias", "bucket")
	return command
}

func (c *reencryptPlanCommand) check() error {
	switch {
	case c.sample < 0:
		return errors.New("--sample must not be negative")
	case c.alias == "" && (len(c.options.From) == 0 || c.options.To == ""):
		return errors.New("--bucket needs --from and --to")
	case c.alias != "" && len(c.options.From) == 0 && c.options.To == "":
		return errors.New("--alias needs --to before the alias moves, or --from after it moved")
	case c.alias != "" && c.prefix != "":
		return errors.New("--prefix goes with --bucket: the places of an alias have their own")
	}
	return c.moveFlags.check(c.options.Method)
}

// run plans and prints.
func (c *reencryptPlanCommand) run(ctx context.Context, p *process) error {
	if err := c.check(); err != nil {
		return usageError{err}
	}
	hand, engine, err := c.engine(ctx, p)
	if err != nil {
		return err
	}
	plan := reencrypt.Plan{Schema: reencrypt.PlanSchema, Created: time.Now().UTC(), Buckets: []reencrypt.BucketPlan{}}
	scopes := make([]reencrypt.Scope, 0, len(c.buckets))
	for _, bucket := range c.buckets {
		scopes = append(scopes, reencrypt.Scope{Bucket: bucket, Prefix: c.prefix})
	}
	if c.alias != "" {
		if scopes, err = c.resolve(ctx, hand, &plan); err != nil {
			return err
		}
	}
	if plan.To, err = hand.facts.Resolve(ctx, c.options.To); err != nil {
		return fmt.Errorf("find key to move to: %w", err)
	}
	stops := false
	for _, scope := range scopes {
		o := c.options
		o.Bucket, o.Prefix = scope.Bucket, scope.Prefix
		show, finish := counting(p.stderr)
		b, err := engine.Plan(ctx, o, c.sample, func(n int64) { show(scope.Bucket, n) })
		finish()
		if err != nil {
			return err
		}
		stops = stops || reencrypt.Stops(b.Preflight) != ""
		plan.Buckets = append(plan.Buckets, b)
	}
	if c.json {
		err = printJSON(p.stdout, plan)
	} else {
		printPlan(p.stdout, plan, c.rate)
	}
	if err == nil && stops {
		return errSilent
	}
	return err
}

// resolve finds the places that a move of the alias would have, and the keys that
// were not named.
func (c *reencryptPlanCommand) resolve(ctx context.Context, hand byHand, plan *reencrypt.Plan) ([]reencrypt.Scope, error) {
	aliases, err := hand.facts.Aliases(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(aliases, func(a inventory.Alias) bool { return a.Name == c.alias || a.ARN == c.alias })
	if i < 0 {
		return nil, fmt.Errorf("there is no alias %q in this account and Region", c.alias)
	}
	alias := aliases[i]
	plan.Alias = alias.ARN
	if c.options.To == "" {
		c.options.To = alias.TargetKeyARN
	}
	if len(c.options.From) == 0 {
		c.options.From = []string{alias.TargetKeyARN}
	}
	var from []string
	for _, name := range c.options.From {
		arn, err := hand.facts.Resolve(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("find key to move from: %w", err)
		}
		from = append(from, arn)
	}
	c.options.From = from // names, the alias itself among them, may point elsewhere later
	buckets, err := hand.facts.Buckets(ctx)
	if err != nil { // some of them, or all
		if len(buckets) == 0 {
			return nil, err
		}
		plan.NotInScope = append(plan.NotInScope, fmt.Sprintf("buckets that could not be read: %v", err))
	}
	operator, err := parseScope(hand.settings.ReencryptScope)
	if err != nil {
		return nil, usageError{err}
	}
	scopes, refused := reencrypt.ResolveScope(reencrypt.NewMovingAlias(alias, from, aliases), nil, buckets, operator, c.stateBucket)
	for _, r := range refused {
		plan.NotInScope = append(plan.NotInScope, fmt.Sprintf("s3://%s/%s: %s", r.Scope.Bucket, r.Scope.Prefix, r.Reason))
	}
	return scopes, nil
}

// printPlan writes a plan for people.
func printPlan(w io.Writer, plan reencrypt.Plan, rate float64) {
	fmt.Fprintf(w, "to %s\n", plan.To)
	cost, seconds := 0.0, 0.0
	for _, b := range plan.Buckets {
		fmt.Fprintf(w, "\ns3://%s/%s by %s\n", b.Bucket, alert.Escape(b.Prefix), b.Method)
		fmt.Fprintf(w, "  %d versions", b.Listed)
		if b.Read < b.Listed {
			fmt.Fprintf(w, " (estimated from a random sample of %d)", b.Read)
		}
		fmt.Fprintf(w, ", %d under an old key: %d to move (%s), %d refused (%s)\n",
			b.InScope.Versions, b.Move.Versions, bytesText(b.Move.Bytes), b.Refuse.Versions, bytesText(b.Refuse.Bytes))
		printGroups(w, b)
		printSentences(w, "  ", b.ClientSide())
		fmt.Fprintf(w, "  estimate: %d LIST, %d HEAD, %d GET and %d write requests, up to %d of KMS: $%.2f", b.Requests.List, b.Requests.Head, b.Requests.Get, b.Requests.Write, b.Requests.KMS, b.CostUSD)
		if b.BatchUSD > 0 {
			fmt.Fprintf(w, " ($%.2f more if S3 Batch Operations move it)", b.BatchUSD)
		}
		if rate > 0 {
			fmt.Fprintf(w, ", at least %s at %g objects per second", time.Duration(b.Seconds*float64(time.Second)).Round(time.Second), rate)
		}
		fmt.Fprintln(w)
		printFindings(w, "  ", b.Preflight)
		cost, seconds = cost+b.CostUSD, seconds+b.Seconds
	}
	for _, reason := range plan.NotInScope {
		fmt.Fprintf(w, "\nnot in scope: %s\n", alert.Escape(reason))
	}
	fmt.Fprintf(w, "\nplaces: %d, estimated $%.2f", len(plan.Buckets), cost)
	if rate > 0 {
		fmt.Fprintf(w, ", at least %s", time.Duration(seconds*float64(time.Second)).Round(time.Second))
	}
	fmt.Fprintf(w, " (%s)\n", reencrypt.Prices)
}

// printGroups writes what is under the old keys, and what is not by its reason.
func printGroups(w io.Writer, b reencrypt.BucketPlan) {
	others := map[reencrypt.Reason]int64{}
	for _, g := range b.Groups {
		if !slices.Contains(b.From, g.Key) && !g.Sealed {
			others[g.Reason] += g.Versions
			continue
		}
		what := []string{g.Action}
		if g.Reason != "" {
			what = append(what, string(g.Reason))
		}
		if g.Lock != "" {
			what = append(what, "under "+g.Lock)
		}
		if g.Envelope != "" {
			what = append(what, g.Envelope)
		}
		fmt.Fprintf(w, "  %10d  %9s  %-12s %-10s %s  %s\n", g.Versions, bytesText(g.Bytes), g.StorageClass, g.Size, strings.Join(what, ", "), g.Key)
	}
	for _, reason := range slices.Sorted(maps.Keys(others)) {
		fmt.Fprintf(w, "  %10d  not under an old key: %s\n", others[reason], reason)
	}
}

// bytesText writes a number of bytes for people.
func bytesText(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}
