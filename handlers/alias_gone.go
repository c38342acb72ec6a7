package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
)

// aliasGoneReason names a decision about an alias that was deleted.
type aliasGoneReason string

const (
	aliasUnused  aliasGoneReason = "unused"  // nothing is known to name it
	aliasUnclear aliasGoneReason = "unclear" // not every bucket could be looked at
	aliasListed  aliasGoneReason = "listed"  // its moves move data here
	aliasNamed   aliasGoneReason = "named"   // buckets name it
)

type aliasGoneInput struct {
	listed  bool
	buckets []string // that name it
	// all says that every bucket was looked at.
	all bool
}

// decideAliasGone decides whether the deletion of an alias is alerted.
func decideAliasGone(in aliasGoneInput) (aliasGoneReason, finding.Severity) {
	switch {
	case len(in.buckets) > 0:
		return aliasNamed, finding.High
	case in.listed:
		return aliasListed, finding.Medium
	case !in.all:
		return aliasUnclear, ""
	}
	return aliasUnused, ""
}

// listedByName reports whether an alias is one whose moves may move data, and not only
// because all are.
func listedByName(c reaction.Config, alias string) bool {
	return slices.ContainsFunc(c.ReencryptAliases, func(p string) bool { return p != "*" && judgement.Matches(p, alias) })
}

// aliasGone alerts that an alias that somebody needs was deleted: buckets whose default
// encryption names it refuse new objects, and one whose moves move data may come back
// with another key.
func aliasGone(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	name := c.Event.Alias
	buckets, bucketsErr := c.Buckets(ctx)
	if bucketsErr != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	in := aliasGoneInput{listed: listedByName(c.Config, name), all: bucketsErr == nil}
	for _, b := range buckets {
		if b.DefaultAlias == name || slices.Contains(b.AliasTags, name) {
			in.buckets = append(in.buckets, b.Name)
		}
	}
	reason, severity := decideAliasGone(in)
	c.Debug(ctx, "deletion of an alias decided", "alias", alert.Escape(name), "reason", reason)
	if severity == "" || c.IsSweep() && reason == aliasNamed { // the sweep of the buckets tells
		return nil, nil
	}
	var key *inventory.Key
	target := ""
	if c.Event.KeyARN != "" {
		target = arn.KeyID(c.Event.KeyARN)
		live, _, err := c.Look(ctx)
		if err != nil && !errors.Is(err, inventory.ErrNotFound) {
			return nil, err
		}
		live.ARN = c.Event.KeyARN
		key = &live
	}
	id := ""
	told := func(doc *ledger.Alias) {
		if id != "" {
			doc.TellGone(id)
		}
	}
	return &reaction.Decision{Told: reaction.Told{Alias: told}, Tell: func() []alert.Alert {
		a := c.NewAlert(alert.KindAlias, "/gone")
		id = a.ID
		a.Severity = severity
		a.Title = "Alias " + name + " was deleted"
		a.Summary = fmt.Sprintf("%s called DeleteAlias. The key itself is unchanged.", c.Who())
		if c.IsSweep() {
			a.Summary = "The sweep found that the alias is not there any more; " + reaction.Unreported
		}
		a.Risk = "Everything that refers to the key by this alias now fails. If the alias is created again for another key, new data goes under that key."
		a.Action = alert.Action{Mode: string(c.Config.Reencrypt), Status: alert.StatusNone,
			Description: "cmkeeper does not create aliases. If this one is created again for another key, cmkeeper treats that as a move."}
		a.Next = []string{"If it is needed, create it again:",
			command.Line("aws kms create-alias --region %s --alias-name %s --target-key-id %s", c.InRegion(), command.Alias(name), command.KeyID(target).Or("KEY-ID"))}
		if key != nil {
			a.Key = c.Describe(*key)
		}
		a.Facts = append(a.Facts, reaction.LookedAt("buckets that use it", "S3 GetBucketEncryption and GetBucketTagging of this Region's buckets", c.BucketsReadAt(), in.buckets, bucketsErr))
		return []alert.Alert{a}
	}}, nil
}

// sweptGone decides about a listed alias that KMS does not list. Where its key is gone, too,
// nothing is told: KMS deletes the aliases of a key with it.
func sweptGone(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	doc, err := c.AliasLedger(ctx)
	if err != nil || !doc.Missing(c.Event.Time) {
		return nil, err
	}
	_, err = c.Key(ctx)
	if errors.Is(err, inventory.ErrNotFound) {
		doc.Candidate = nil
		return nil, nil
	}
	d, err := aliasGone(ctx, c)
	switch {
	case err != nil:
		return nil, err
	case d == nil:
		doc.Candidate = nil
		return nil, nil
	}
	deleted, _ := doc.Newest()
	tell := d.Tell
	d.Tell = func() []alert.Alert {
		alerts := tell()
		for i := range alerts {
			// The same until it is told, whichever sweep does.
			alerts[i].ID = fmt.Sprintf("sweep/%s/%d/alias/gone", c.Event.Alias, deleted.Since.Unix())
		}
		return alerts
	}
	return d, nil
}
