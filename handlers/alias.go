package handlers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// aliasReason names what an alias event means beside the live alias.
type aliasReason string

const (
	aliasAgrees aliasReason = "agrees" // live shows what the event says
	aliasOlder  aliasReason = "older"  // something newer is known: history only
	aliasWait   aliasReason = "wait"   // live may not show it yet
)

// How long an alias event waits for ListAliases to show it (KMS Developer Guide,
// "eventual consistency": aliases may take minutes), and how often it looks.
const (
	aliasPatience = 15 * time.Minute
	aliasPause    = 30 * time.Second
)

type aliasInput struct {
	deleted bool   // DeleteAlias
	target  string // the event's key; for DeleteAlias the one it had
	at, now time.Time
	live    inventory.Alias
	exists  bool
	newest  ledger.Target
	known   bool
}

// decideAlias compares an alias event with the live alias and with what is
// known. Event times are whole seconds.
func decideAlias(in aliasInput) aliasReason {
	agrees := in.exists && !in.deleted && in.live.TargetKeyARN == in.target || !in.exists && in.deleted
	if agrees {
		return aliasAgrees
	}
	newerLive := in.exists && !in.live.Updated.IsZero() && !in.live.Updated.Before(in.at)
	differs := in.newest.Deleted != in.deleted || !in.deleted && in.newest.KeyARN != in.target
	newerKnown := in.known && differs && !in.newest.Since.Before(in.at)
	age := in.now.Sub(in.at)
	switch {
	case newerLive && in.live.Updated.Truncate(time.Second).Equal(in.at) && age < ledger.ConsistencyWindow:
		return aliasWait // two changes within one second: which was first does not show yet
	case newerLive, newerKnown, age >= aliasPatience:
		return aliasOlder
	}
	return aliasWait
}

// alias keeps the history of an alias and deals with its moves.
func alias(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	name := c.Event.Alias
	if name == "" || strings.HasPrefix(name, "alias/aws/") {
		return nil, nil // AWS's own aliases are moved by AWS alone
	}
	live, exists, doc, err := liveAlias(ctx, c)
	if err != nil {
		return nil, err
	}
	deleted := c.Event.Name == "DeleteAlias"
	newest, known := doc.Newest()
	reason := decideAlias(aliasInput{
		deleted: deleted, target: c.Event.KeyARN, at: c.Event.Time, now: c.At,
		live: live, exists: exists, newest: newest, known: known,
	})
	c.Debug(ctx, "alias decided", "alias", alert.Escape(name), "reason", reason)
	if reason == aliasWait {
		return nil, outcome.RetryAfter(aliasPause, fmt.Errorf("%s: waiting for KMS to show what the event says", name))
	}
	doubted := false
	switch {
	case c.Event.IsOutdated():
	case c.Event.Claimed:
		doubted = claimedAlias(c, doc, live, reason == aliasAgrees) && !c.Await(ctx, "that "+name+" had key "+c.Event.KeyARN)
	default:
		noteAlias(c, doc, live, reason == aliasAgrees)
	}
	d := &reaction.Decision{}
	switch {
	case exists:
		d, err = move(ctx, c, live)
	case deleted:
		d, err = aliasGone(ctx, c)
	}
	if doubted && err == nil {
		d = withDoubt(c, d, live)
	}
	return d, err
}

// withDoubt adds to a decision that a message claims another key of the alias, which
// CloudTrail does not show.
func withDoubt(c *reaction.Case, d *reaction.Decision, live inventory.Alias) *reaction.Decision {
	if d == nil {
		d = &reaction.Decision{}
	}
	tell, gather := d.Tell, d.Gather
	d.Gather = func(ctx context.Context) {
		if gather != nil {
			gather(ctx)
		}
		c.GatherNames(ctx)
	}
	d.Tell = func() (alerts []alert.Alert) {
		if tell != nil {
			alerts = tell()
		}
		a := c.NewAlert(alert.KindAlias, "/unconfirmed")
		a.Severity = finding.Medium
		a.Key = c.Named()
		a.Title = fmt.Sprintf("CloudTrail does not show that alias %s ever had key %s, as a message says", c.Event.Alias, reaction.ShortName(a.Key))
		a.Summary = fmt.Sprintf("A message says that %s called %s for this alias and key at %s. Neither KMS nor CloudTrail show that.", c.Who(), c.Event.Name, reaction.TimeText(c.Event.Time))
		a.Risk = "If the message is forged, somebody can send messages to the events queue, and wants data under that key re-encrypted. If it is genuine, data under that key was not."
		a.Action = alert.Action{Mode: string(c.Config.Reencrypt), Status: alert.StatusRefused, Description: "cmkeeper moves no data from a key because of a message that CloudTrail does not confirm."}
		a.Next = []string{"Find out who may send messages to the events queue: its policy has to deny it to everybody but the EventBridge rules and cmkeeper's role (docs/threat-model.md)."}
		if live.TargetKeyARN != "" {
			a.Next = append(a.Next, "If the alias did have the key, move the data by hand:")
			a.Next = append(a.Next, reaction.ReencryptCommands([]string{c.Event.KeyARN}, live.TargetKeyARN, nil, c.Config.StateBucket, c.Config.EnvelopeFlags)...)
		}
		return append(alerts, a)
	}
	return d
}

// liveAlias reads the event's alias, and what is known of it.
func liveAlias(ctx context.Context, c *reaction.Case) (live inventory.Alias, exists bool, doc *ledger.Alias, err error) {
	aliases, err := c.Aliases(ctx)
	if err != nil {
		return live, false, nil, err
	}
	if i := slices.IndexFunc(aliases, func(a inventory.Alias) bool { return a.Name == c.Event.Alias }); i >= 0 {
		live, exists = aliases[i], true
	}
	doc, err = c.AliasLedger(ctx)
	return live, exists, doc, err
}

// noteAlias notes what an event says of an alias; agrees: the live alias shows it.
func noteAlias(c *reaction.Case, doc *ledger.Alias, live inventory.Alias, agrees bool) {
	e := c.Event
	if doc.ARN == "" {
		doc.ARN = aliasARN(c)
	}
	t := ledger.Target{KeyARN: e.KeyARN, Since: e.Time, Deleted: e.Name == "DeleteAlias", Known: true}
	if agrees && !t.Deleted {
		if !live.Updated.IsZero() {
			t.Since = live.Updated
		}
		doc.Candidate = nil
	} else if t.Since.Equal(live.Updated) {
		t.Since = t.Since.Add(-1) // in the same second, and before what is live
	}
	doc.Learn(t)
	m := ledger.MoveOf(e, c.At)
	doc.RecordMove(m)
	if e.Name == "UpdateAlias" && agrees && doc.Pending == nil && !doc.KnownBefore(e.Time) {
		m.To, m.At = e.KeyARN, t.Since
		doc.Pending = &m
	}
}

// claimedAlias notes of an event that only a message claims what the live alias shows, and
// reports whether there is more in it: a key that the alias had, which data would be moved
// from. That is noted when CloudTrail shows the call.
func claimedAlias(c *reaction.Case, doc *ledger.Alias, live inventory.Alias, agrees bool) (more bool) {
	deleted := c.Event.Name == "DeleteAlias"
	newest, known := doc.Newest()
	switch {
	case agrees && !deleted:
		noteAlias(c, doc, live, true)
		return false
	case agrees && known && !newest.Deleted:
		// It is gone, so it was deleted after it was last set.
		doc.Learn(ledger.Target{KeyARN: newest.KeyARN, Since: newest.Since.Add(1), Deleted: true, Known: true})
	}
	return c.Event.KeyARN != "" && !slices.Contains(doc.Keys(), c.Event.KeyARN)
}

// sweptAlias reconciles an alias with what is known of it, and deals with a move that
// no event announced.
func sweptAlias(live inventory.Alias) func(context.Context, *reaction.Case) (*reaction.Decision, error) {
	return func(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
		doc, err := c.AliasLedger(ctx)
		if err != nil {
			return nil, err
		}
		start := c.Event.Time
		if doc.Reconcile(live.ARN, live.TargetKeyARN, live.Updated, start) == ledger.ReconciledAccepted {
			since := live.Updated
			if since.IsZero() {
				since = start
			}
			doc.RecordMove(ledger.Move{
				ID: fmt.Sprintf("sweep/%s/%d", live.Name, since.Unix()), EventName: reaction.SweepName, EventTime: start, At: start,
			})
		}
		return move(ctx, c, live)
	}
}

// aliasARN is the ARN of the event's alias, in the partition of its key.
func aliasARN(c *reaction.Case) string {
	name := arn.Parse(c.Event.KeyARN)
	if name.Service == "" {
		name = arn.ARN{Partition: "aws", Service: "kms", Region: c.Event.Region, Account: c.Event.Account}
	}
	name.Resource = c.Event.Alias
	return name.String()
}
