package handlers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
)

// tagPrefix begins the tags that are cmkeeper's own.
const tagPrefix = "cmkeeper:"

// tagReason names a decision about tags that were set or removed.
type tagReason string

const (
	tagsIrrelevant tagReason = "irrelevant" // they have no effect here
	tagsKnown      tagReason = "known"      // the key had these values before
	tagsApproved   tagReason = "approved"   // a deletion may follow
	tagsSteering   tagReason = "steering"   // how the key is judged may change
)

type tagInput struct {
	set     map[string]string
	removed []string
	// steers reports whether a tag has an effect here.
	steers func(name string) bool
	// before are the tags that sweeps have found.
	before map[string]string
}

// decideTags decides whether a change of tags is alerted, and which of them matter.
func decideTags(in tagInput) (reason tagReason, severity finding.Severity, changes []string) {
	reason = tagsIrrelevant
	for _, name := range slices.Sorted(maps.Keys(in.set)) {
		value := in.set[name]
		switch had, known := in.before[name]; {
		case !in.steers(name):
			continue
		case known && had == value:
			if reason == tagsIrrelevant {
				reason = tagsKnown
			}
			continue
		case name == reaction.ApprovalTag:
			reason, severity = tagsApproved, finding.High
			changes = append(changes, name+" = "+value)
			continue
		case known:
			changes = append(changes, name+" = "+value+" (before: "+had+")")
		default:
			changes = append(changes, name+" = "+value)
		}
		if reason != tagsApproved {
			reason, severity = tagsSteering, finding.Medium
		}
	}
	for _, name := range in.removed {
		if !in.steers(name) {
			continue
		}
		change := name + " removed"
		if had, known := in.before[name]; known {
			change += " (before: " + had + ")"
		}
		changes = append(changes, change)
		if reason != tagsApproved {
			reason, severity = tagsSteering, finding.Medium
		}
	}
	return reason, severity, changes
}

// steers reports whether a tag of a key has an effect here: its own prefix, an
// exemption, a rule of judgement, or what the operator said.
func steers(c reaction.Config) func(name string) bool {
	return func(name string) bool {
		byTag := func(s judgement.Selector) bool { return s.Tag() == name }
		return strings.HasPrefix(name, tagPrefix) || slices.Contains(c.WatchedTags, name) ||
			slices.ContainsFunc(c.Rules.Sensitive, byTag) || slices.ContainsFunc(c.Rules.Sandbox, byTag) ||
			slices.ContainsFunc(c.Exemptions, func(x judgement.Exemption) bool { return x.Of != nil && byTag(*x.Of) })
	}
}

// tags alerts when tags change that decide how a key is judged: an actor who may tag a
// key could else make what they do next look harmless.
func tags(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	in := tagInput{steers: steers(c.Config)}
	switch d := c.Event.Detail.(type) {
	case events.TagResource:
		in.set = d.Tags
	case events.UntagResource:
		in.removed = d.TagKeys
	}
	if reason, _, _ := decideTags(in); reason == tagsIrrelevant {
		return nil, nil // most tags have no effect here, and cost no read
	}
	_, doc, err := c.Look(ctx)
	switch {
	case errors.Is(err, inventory.ErrNotFound):
		return c.Gone(ctx, alert.KindTag, false)
	case err != nil:
		return nil, err
	}
	in.before = map[string]string{}
	for _, t := range doc.Tags {
		in.before[t.Name] = t.Value
	}
	reason, severity, changes := decideTags(in)
	c.Debug(ctx, "tags decided", "reason", reason)
	if severity == "" {
		return nil, nil
	}
	var now alert.Fact
	d, err := c.AboutKey(ctx, alert.KindTag, "", func(a *alert.Alert) {
		a.Severity = severity
		name := reaction.ShortName(a.Key)
		a.Title = "Tags of key " + name + " that control its alerts were changed"
		a.Summary = fmt.Sprintf("%s called %s.", c.Who(), c.Event.Name)
		a.Risk = "These tags control how severe alerts about the key are, and which changes cmkeeper leaves alone."
		if reason == tagsApproved {
			a.Title = "Deletion of key " + name + " was approved by a tag"
			a.Risk = "If the key's deletion is scheduled later, cmkeeper may neither alert at full severity nor cancel it. This alert may be the only warning."
		}
		a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper does not change tags."}
		a.Next = []string{"If this is not intended, change the tags back:", c.KMSCommand("list-resource-tags")}
		for _, tag := range slices.Sorted(maps.Keys(in.set)) {
			if in.steers(tag) {
				a.Next = append(a.Next, c.KMSCommand("untag-resource", "--tag-keys", reaction.Quote(tag)))
			}
		}
		a.Facts = append(a.Facts, alert.Fact{Name: "changed by the call", Values: changes}, now)
	})
	if d != nil {
		d.Gather = func(ctx context.Context) { now = tagsNow(ctx, c, in.steers) }
	}
	return d, err
}

// tagsNow are the live tags that have an effect.
func tagsNow(ctx context.Context, c *reaction.Case, steers func(string) bool) alert.Fact {
	at := ledger.Now()
	live, err := c.Tags(ctx)
	var values []string
	for _, tag := range slices.Sorted(maps.Keys(live)) {
		if steers(tag) {
			values = append(values, tag+" = "+live[tag])
		}
	}
	return reaction.LookedAt("such tags now", "KMS ListResourceTags", at, values, err)
}
