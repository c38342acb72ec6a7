package handlers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/judgement"
)

// tamperReason names a decision about a call on what cmkeeper itself needs.
type tamperReason string

const (
	tamperHarmless tamperReason = "harmless" // everything arrives as before
	tamperBlinded  tamperReason = "blinded"  // events of KMS do not arrive any more
	tamperNarrowed tamperReason = "narrowed" // some of them may not
	tamperMuted    tamperReason = "muted"    // alerts do not arrive any more, or not everywhere
	tamperChanged  tamperReason = "changed"  // whether everything arrives has to be looked at
)

// decideTamper judges a call on a trail, or on a rule, queue or topic of ours,
// by what the event says of it.
func decideTamper(e events.Event) (tamperReason, alert.Severity) {
	switch d := e.Detail.(type) {
	case events.EventSelectors:
		return decideSelectors(d)
	case events.Trail:
		if e.Name == "UpdateTrail" {
			return tamperChanged, alert.Medium
		}
		return tamperBlinded, alert.Critical
	case events.Rule:
		switch {
		case e.Name == "PutTargets":
			return tamperChanged, alert.Medium
		case e.Name == "PutRule" && d.State != "DISABLED":
			return tamperNarrowed, alert.High
		}
		return tamperBlinded, alert.Critical
	case events.Queue:
		return decideQueue(e.Name, d)
	case events.Topic:
		switch {
		case e.Name == "DeleteTopic":
			return tamperMuted, alert.Critical
		case e.Name == "SetTopicAttributes" && d.Attribute == "DisplayName":
			return tamperHarmless, ""
		}
		return tamperMuted, alert.High
	}
	return tamperHarmless, "" // nothing of ours
}

// tuning are the queue attributes that lose nothing, whatever they are.
var tuning = []string{"VisibilityTimeout", "ReceiveMessageWaitTimeSeconds", "DelaySeconds"}

func decideQueue(name string, q events.Queue) (tamperReason, alert.Severity) {
	if name != "SetQueueAttributes" {
		return tamperBlinded, alert.Critical
	}
	for attribute := range q.Attributes {
		if !slices.Contains(tuning, attribute) {
			return tamperNarrowed, alert.High
		}
	}
	if len(q.Attributes) == 0 {
		return tamperNarrowed, alert.High // left out of the record
	}
	return tamperHarmless, ""
}

// decideSelectors judges what a trail takes down: events that change keys reach
// EventBridge only if a trail does (CloudTrail User Guide, "Logging management
// events").
func decideSelectors(s events.EventSelectors) (tamperReason, alert.Severity) {
	reason, severity := tamperBlinded, alert.Critical
	if len(s.Basic)+len(s.Advanced) == 0 {
		return tamperChanged, alert.High // left out of the record
	}
	for _, b := range s.Basic {
		if b.Management && b.ReadWriteType != "ReadOnly" && !slices.Contains(b.ExcludedSources, events.SourceKMS) {
			return tamperHarmless, ""
		}
	}
	for _, a := range s.Advanced {
		switch takes, all := takesKeyEvents(a); {
		case takes && all:
			return tamperHarmless, ""
		case takes:
			reason, severity = tamperNarrowed, alert.High
		}
	}
	return reason, severity
}

// takesKeyEvents reports whether an advanced selector takes down calls that
// change keys, and all of them.
func takesKeyEvents(a events.AdvancedSelector) (takes, all bool) {
	category, all := false, true
	for _, f := range a {
		value, known := map[string]string{"eventCategory": "Management", "eventSource": events.SourceKMS, "readOnly": "false"}[f.Field]
		switch {
		case !known:
			all = false // by name, by actor, …
		case !selects(f, value):
			return false, false
		case f.Field == "eventCategory":
			category = true
		}
	}
	return category, category && all
}

// selects reports whether a field selector lets a value pass.
func selects(f events.FieldSelector, value string) bool {
	operator, negated := strings.CutPrefix(f.Operator, "not")
	compare := map[string]func(string, string) bool{
		"equals": func(a, b string) bool { return a == b }, "startswith": strings.HasPrefix, "endswith": strings.HasSuffix,
	}[strings.ToLower(operator)]
	return compare != nil && slices.ContainsFunc(f.Values, func(v string) bool { return compare(value, v) }) != negated
}

// notOurs says why a call on a rule, a queue or a topic is none on ours, or "".
// Every trail is ours: which of them EventBridge hears from does not show.
func (r *Router) notOurs(e events.Event) string {
	if why := r.elsewhere(e); why != "" {
		return why
	}
	ours := true
	switch d := e.Detail.(type) {
	case events.Rule:
		bus := d.Bus[strings.LastIndexByte(d.Bus, '/')+1:]
		ours = (bus == "" || bus == "default") && slices.ContainsFunc(r.config.EventRules, func(p string) bool { return judgement.Matches(p, d.Name) })
	case events.Queue:
		ours = slices.Contains(r.config.Queues, d.URL[strings.LastIndexByte(d.URL, '/')+1:])
	case events.Topic:
		ours = slices.Contains(r.config.Topics, d.ARN)
	}
	if !ours {
		return "it is not what cmkeeper listens to or tells by"
	}
	return ""
}

// tamper tells that somebody changed what cmkeeper sees and speaks by, while it
// still can.
func (r *Router) tamper(ctx context.Context, e events.Event) error {
	reason, severity := decideTamper(e)
	r.log.DebugContext(ctx, "tampering decided", "event", e.Name, "event_id", e.ID, "reason", reason)
	if severity == "" {
		return nil
	}
	what, check, settings := r.tampered(e)
	a := r.newAlert(e, alert.KindGuard, "/tamper")
	a.Severity = severity
	a.Title = fmt.Sprintf("%s on %s", e.Name, what)
	a.Summary = fmt.Sprintf("%s called %s on %s. This is what the event says; how it is now was not read.", who(e), e.Name, what)
	a.Risk = map[tamperReason]string{
		tamperBlinded:  "cmkeeper does not hear of changes to keys any more, except from its sweeps. Whoever wants to do harm does this first.",
		tamperNarrowed: "Some changes to keys may not reach cmkeeper any more, except by its sweeps.",
		tamperMuted:    "Alerts may not reach people any more.",
		tamperChanged:  "Whether everything still arrives has to be looked at.",
	}[reason]
	a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper does not change its own set-up."}
	a.Next = append([]string{"See how it is now, and put it back if this is not meant:"}, check...)
	a.Next = append(a.Next, "docs/events.md has the patterns of the rules, docs/operations.md the rest of the set-up.", "Look for what else the same party did:", r.actorCommand(e))
	if len(settings) > 0 {
		a.Facts = append(a.Facts, alert.Fact{Name: "what was set", Values: settings})
	}
	return r.publish(ctx, a)
}

// tampered names what a call was on, the commands that show it, and what was set.
func (r *Router) tampered(e events.Event) (what string, check, settings []string) {
	in := " --region " + shellQuote(r.config.Region)
	switch d := e.Detail.(type) {
	case events.Trail:
		what = "trail " + orUnknown(d.Name)
		check = []string{"aws cloudtrail get-trail-status --name " + shellQuote(orUnknown(d.Name)) + in}
		if e.Name == "StopLogging" {
			check = append(check, "aws cloudtrail start-logging --name "+shellQuote(orUnknown(d.Name))+in)
		}
	case events.EventSelectors:
		what = "trail " + orUnknown(d.Trail)
		check = []string{"aws cloudtrail get-event-selectors --trail-name " + shellQuote(orUnknown(d.Trail)) + in}
		for _, b := range d.Basic {
			settings = append(settings, fmt.Sprintf("management events %t, %s, without %s", b.Management, b.ReadWriteType, orNothing(b.ExcludedSources)))
		}
		for _, s := range d.Advanced {
			var fields []string
			for _, f := range s {
				fields = append(fields, f.Field+" "+f.Operator+" "+strings.Join(f.Values, " or "))
			}
			settings = append(settings, strings.Join(fields, ", "))
		}
	case events.Rule:
		what = "rule " + d.Name
		check = []string{"aws events describe-rule --name " + shellQuote(d.Name) + in, "aws events list-targets-by-rule --rule " + shellQuote(d.Name) + in}
		if e.Name == "DisableRule" {
			check = append(check, "aws events enable-rule --name "+shellQuote(d.Name)+in)
		}
		if d.State != "" {
			settings = append(settings, "state "+d.State)
		}
		if d.Pattern != "" {
			settings = append(settings, "pattern "+d.Pattern)
		}
	case events.Queue:
		what = "queue " + d.URL[strings.LastIndexByte(d.URL, '/')+1:]
		check = []string{"aws sqs get-queue-attributes --attribute-names All --queue-url " + shellQuote(d.URL) + in}
		for _, name := range slices.Sorted(maps.Keys(d.Attributes)) {
			settings = append(settings, name+" = "+d.Attributes[name])
		}
	case events.Topic:
		what = "topic " + d.ARN[strings.LastIndexByte(d.ARN, ':')+1:]
		check = []string{"aws sns get-topic-attributes --topic-arn " + shellQuote(d.ARN) + in, "aws sns list-subscriptions-by-topic --topic-arn " + shellQuote(d.ARN) + in}
		if d.Subscription != "" {
			settings = append(settings, "subscription "+d.Subscription)
		}
		if d.Attribute != "" {
			settings = append(settings, "attribute "+d.Attribute)
		}
	}
	return what, check, settings
}

func orNothing(list []string) string {
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}
