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
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
)

// tagPrefix begins the tags that are cmkeeper's own.
const tagPrefix = "cmkeeper:"

// tagReason names a decision about tags that were set or removed.
type tagReason string

const (
	tagsIrrelevant tagReason = "irrelevant" // nothing here goes by them
	tagsKnown      tagReason = "known"      // the key had these values before
	tagsApproved   tagReason = "approved"   // a deletion may follow
	tagsSteering   tagReason = "steering"   // how the key is judged may change
)

type tagInput struct {
	set     map[string]string
	removed []string
	// steers reports whether something here goes by a tag.
	steers func(name string) bool
	// before are the tags that sweeps have found.
	before map[string]string
}

// decideTags decides whether a change of tags is told, and which of them matter.
func decideTags(in tagInput) (reason tagReason, severity alert.Severity, changes []string) {
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
		case name == approvalTag:
			reason, severity = tagsApproved, alert.High
			changes = append(changes, name+" = "+value)
			continue
		case known:
			changes = append(changes, name+" = "+value+" (before: "+had+")")
		default:
			changes = append(changes, name+" = "+value)
		}
		if reason != tagsApproved {
			reason, severity = tagsSteering, alert.Medium
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
			reason, severity = tagsSteering, alert.Medium
		}
	}
	return reason, severity, changes
}

// steers reports whether something here goes by a tag of keys: its own prefix,
// an exemption, a rule of judgement, or what the operator said.
func (r *Router) steers(name string) bool {
	if strings.HasPrefix(name, tagPrefix) || slices.Contains(r.config.WatchedTags, name) {
		return true
	}
	byTag := func(s judgement.Selector) bool { return s.Tag() == name }
	return slices.ContainsFunc(r.config.Rules.Sensitive, byTag) || slices.ContainsFunc(r.config.Rules.Sandbox, byTag) ||
		slices.ContainsFunc(r.config.Exemptions, func(x judgement.Exemption) bool { return x.Of != nil && byTag(*x.Of) })
}

// tags tells when tags change that decide how a key is judged: whoever may tag a
// key could else make what they do next look harmless.
func (r *Router) tags(ctx context.Context, e events.Event) error {
	in := tagInput{steers: r.steers}
	switch d := e.Detail.(type) {
	case events.TagResource:
		in.set = d.Tags
	case events.UntagResource:
		in.removed = d.TagKeys
	}
	if reason, _, _ := decideTags(in); reason == tagsIrrelevant {
		return nil // most tags are nobody's business here, and cost no read
	}
	key, doc, err := r.look(ctx, e)
	if errors.Is(err, inventory.ErrNotFound) {
		return r.gone(ctx, e, alert.KindTag, false)
	}
	if err != nil {
		return err
	}
	in.before = map[string]string{}
	for _, t := range doc.Tags {
		in.before[t.Name] = t.Value
	}
	reason, severity, changes := decideTags(in)
	r.log.DebugContext(ctx, "tags decided", "key", e.KeyARN, "event_id", e.ID, "reason", reason)
	if severity == "" {
		return nil
	}
	a := r.newAlert(e, alert.KindTag, "")
	a.Key, a.Severity = r.describe(ctx, key, doc), severity
	name := shortName(a.Key)
	a.Title = "A tag of key " + name + " that cmkeeper goes by was changed"
	a.Summary = fmt.Sprintf("%s called %s.", who(e), e.Name)
	a.Risk = "Such tags decide how loudly an alert about the key sounds, and what is left alone."
	if reason == tagsApproved {
		a.Title = "The deletion of key " + name + " was approved by a tag"
		a.Risk = "A deletion of the key that follows may not be an alarm and may not be undone. If this approval is not meant, nothing but this alert says so."
	}
	a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper does not change tags."}
	a.Next = []string{"If this is not meant, put the tags back:", r.kmsCommand("list-resource-tags", e.KeyARN)}
	for _, tag := range slices.Sorted(maps.Keys(in.set)) {
		if r.steers(tag) {
			a.Next = append(a.Next, r.kmsCommand("untag-resource", e.KeyARN, "--tag-keys", shellQuote(tag)))
		}
	}
	at := now()
	live, err := r.facts.Tags(ctx, e.KeyARN)
	var values []string
	for _, tag := range slices.Sorted(maps.Keys(live)) {
		if r.steers(tag) {
			values = append(values, tag+" = "+live[tag])
		}
	}
	a.Facts = append(a.Facts, alert.Fact{Name: "changed by the call", Values: changes}, lookedAt("such tags now", "KMS ListResourceTags", at, values, err))
	return r.publish(ctx, a)
}
