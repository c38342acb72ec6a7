package handlers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/posture"
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
	in.before = tagsBefore(doc)
	return tellTags(ctx, c, in, "")
}

// sweptTags alerts on such tags that no event has told of, and notes all of them. Those
// of the first sweep are what later ones are compared with.
func sweptTags(ctx context.Context, c *reaction.Case, doc *ledger.Key, created time.Time) (*reaction.Decision, error) {
	live, err := c.Tags(ctx)
	if err != nil {
		// Everything else is guarded all the same, and tags only ever make it quieter.
		c.Log().WarnContext(ctx, "tags of a key cannot be read", "error", err)
		return nil, nil
	}
	in := tagInput{set: maps.Clone(live), steers: steers(c.Config), before: tagsBefore(doc)}
	maps.DeleteFunc(in.set, func(name, value string) bool { return doc.TagTold(ledger.ToldTag{Name: name, Value: value}) })
	for _, t := range doc.Tags {
		if _, has := live[t.Name]; !has && !doc.TagTold(ledger.ToldTag{Name: t.Name, Gone: true}) {
			in.removed = append(in.removed, t.Name)
		}
	}
	note := func(doc *ledger.Key) { doc.NoteTags(live, created, c.At) }
	if doc.TagsSince.IsZero() {
		note(doc)
		return nil, nil
	}
	d, err := tellTags(ctx, c, in, "/swept")
	if d == nil && err == nil {
		note(doc)
		return nil, nil
	}
	if d != nil {
		d.Told.Key = note // once it is told, so that a crash in between loses no difference
	}
	return d, err
}

// tagsBefore are the tags that are known of a key.
func tagsBefore(doc *ledger.Key) map[string]string {
	before := map[string]string{}
	for _, t := range doc.Tags {
		before[t.Name] = t.Value
	}
	return before
}

// tellTags alerts on a change of tags that have an effect. What an event told is
// noted as far as the key shows it: a forged event silences no sweep.
func tellTags(ctx context.Context, c *reaction.Case, in tagInput, suffix string) (*reaction.Decision, error) {
	reason, severity, changes := decideTags(in)
	c.Debug(ctx, "tags decided", "reason", reason)
	if severity == "" {
		return nil, nil
	}
	var live map[string]string
	var now alert.Fact
	d, err := c.AboutKey(ctx, alert.KindTag, suffix, func(a *alert.Alert) {
		a.Severity = severity
		name := reaction.ShortName(a.Key)
		a.Title = "Tags of key " + name + " that control its alerts were changed"
		a.Summary = fmt.Sprintf("%s called %s.", c.Who(), c.Event.Name)
		a.Risk = "These tags control how severe alerts about the key are, and which changes cmkeeper leaves alone."
		changed := "changed by the call"
		if c.IsSweep() {
			changed = "changed since the last sweep"
			a.Summary = "The sweep found changed tags; " + reaction.Unreported
		}
		if reason == tagsApproved {
			a.Dangers = []string{posture.DangerApproval}
			a.Title = "Deletion of key " + name + " was approved by a tag"
			a.Risk = "If the key's deletion is scheduled later, cmkeeper may neither alert at full severity nor cancel it. This alert may be the only warning."
		}
		a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper does not change tags."}
		a.Next = append([]string{"If this is not intended, change the tags back:", c.KMSCommand("list-resource-tags")}, tagsBack(c, in)...)
		a.Facts = append(a.Facts, alert.Fact{Name: changed, Values: changes}, now)
	})
	if d != nil {
		d.Gather = func(ctx context.Context) { live, now = tagsNow(ctx, c, in.steers) }
		d.Told.Key = func(doc *ledger.Key) {
			for name, value := range in.set {
				if v, has := live[name]; has && v == value {
					doc.NoteToldTag(ledger.ToldTag{Name: name, Value: value})
				}
			}
			for _, name := range in.removed {
				if _, has := live[name]; live != nil && !has {
					doc.NoteToldTag(ledger.ToldTag{Name: name, Gone: true})
				}
			}
		}
	}
	return d, err
}

// tagsBack are the commands that give the tags that have an effect their former values, and
// take away only those that were not there before.
func tagsBack(c *reaction.Case, in tagInput) (commands []string) {
	former := func(tag, had string) string {
		return c.KMSCommand("tag-resource --tags %s", command.Document([]struct{ TagKey, TagValue string }{{tag, had}}, command.TagKey(tag), command.TagValue(had)))
	}
	for _, tag := range slices.Sorted(maps.Keys(in.set)) {
		switch had, known := in.before[tag]; {
		case !in.steers(tag), known && had == in.set[tag]:
		case known:
			commands = append(commands, former(tag, had))
		default:
			commands = append(commands, c.KMSCommand("untag-resource --tag-keys %s", command.TagKey(tag)))
		}
	}
	for _, tag := range in.removed {
		if had, known := in.before[tag]; known && in.steers(tag) {
			commands = append(commands, former(tag, had))
		}
	}
	return commands
}

// tagsNow reads the tags, nil if that fails, and says what those that have an effect are
// now.
func tagsNow(ctx context.Context, c *reaction.Case, steers func(string) bool) (live map[string]string, now alert.Fact) {
	at := ledger.Now()
	live, err := c.Tags(ctx)
	var values []string
	for _, tag := range slices.Sorted(maps.Keys(live)) {
		if steers(tag) {
			values = append(values, tag+" = "+live[tag])
		}
	}
	return live, reaction.LookedAt("such tags now", "KMS ListResourceTags", at, values, err)
}
