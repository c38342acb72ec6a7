package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
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

// decideAliasGone decides whether the end of an alias is told.
func decideAliasGone(in aliasGoneInput) (aliasGoneReason, alert.Severity) {
	switch {
	case len(in.buckets) > 0:
		return aliasNamed, alert.High
	case in.listed:
		return aliasListed, alert.Medium
	case !in.all:
		return aliasUnclear, ""
	}
	return aliasUnused, ""
}

// aliasGone tells that an alias is no more that somebody needs: buckets whose
// default encryption names it refuse new objects, and one whose moves move data
// may come back with another key.
func (r *Router) aliasGone(ctx context.Context, e events.Event) error {
	buckets, err := r.facts.Buckets(ctx)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	in := aliasGoneInput{
		listed: slices.ContainsFunc(r.config.ReencryptAliases, func(p string) bool { return p != "*" && judgement.Matches(p, e.Alias) }),
		all:    err == nil,
	}
	for _, b := range buckets {
		if b.DefaultAlias == e.Alias || slices.Contains(b.AliasTags, e.Alias) {
			in.buckets = append(in.buckets, b.Name)
		}
	}
	reason, severity := decideAliasGone(in)
	r.log.DebugContext(ctx, "end of an alias decided", "alias", alert.Escape(e.Alias), "event_id", e.ID, "reason", reason)
	if severity == "" {
		return nil
	}
	a := r.newAlert(e, alert.KindAlias, "/gone")
	a.Severity = severity
	a.Title = "Alias " + e.Alias + " was deleted"
	a.Summary = fmt.Sprintf("%s called DeleteAlias. The key itself is as it was.", who(e))
	a.Risk = "Whatever names the key by this alias fails from now on, and an alias of the same name that points elsewhere would put new data under another key."
	a.Action = alert.Action{Mode: string(r.config.Reencrypt), Status: alert.StatusNone,
		Description: "cmkeeper does not make aliases. It has noted the end of this one: if it comes back with another key, that counts as a move."}
	a.Next = []string{"If it is needed, make it again:"}
	target := "KEY-ID"
	if e.KeyARN != "" {
		target = keyID(e.KeyARN)
		key, doc, err := r.look(ctx, e)
		if err != nil && !errors.Is(err, inventory.ErrNotFound) {
			return err
		}
		key.ARN = e.KeyARN
		a.Key = r.describe(ctx, key, doc)
	}
	a.Next = append(a.Next, "aws kms create-alias --region "+shellQuote(r.config.Region)+" --alias-name "+shellQuote(e.Alias)+" --target-key-id "+shellQuote(target))
	a.Facts = append(a.Facts, lookedAt("buckets that name it", "S3 GetBucketEncryption and GetBucketTagging of this Region's buckets", now(), in.buckets, err))
	return r.publish(ctx, a)
}
