package handlers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/guard"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/judgement"
)

// tamperReason names a decision about a call on what cmkeeper itself needs.
type tamperReason string

const (
	tamperHarmless tamperReason = "harmless" // everything arrives as before
	tamperBlinded  tamperReason = "blinded"  // events of KMS do not arrive any more
	tamperNarrowed tamperReason = "narrowed" // some of them may not
	tamperMuted    tamperReason = "muted"    // alerts do not arrive any more, or not everywhere
	tamperChanged  tamperReason = "changed"  // whether everything arrives has to be checked
)

// decideTamper judges a call on a trail, or on a rule, queue or topic of ours,
// by what the event says of it.
func decideTamper(e events.Event) (tamperReason, finding.Severity) {
	switch d := e.Detail.(type) {
	case events.EventSelectors:
		return decideSelectors(d)
	case events.Trail:
		if e.Name == "UpdateTrail" {
			return tamperChanged, finding.Medium
		}
		return tamperBlinded, finding.Critical
	case events.Rule:
		switch {
		case e.Name == "PutTargets":
			return tamperChanged, finding.Medium
		case e.Name == "PutRule" && d.State != "DISABLED":
			return tamperNarrowed, finding.High
		}
		return tamperBlinded, finding.Critical
	case events.Queue:
		return decideQueue(e.Name, d)
	case events.Topic:
		switch {
		case e.Name == "DeleteTopic":
			return tamperMuted, finding.Critical
		case e.Name == "SetTopicAttributes" && d.Attribute == "DisplayName":
			return tamperHarmless, ""
		}
		return tamperMuted, finding.High
	}
	return tamperHarmless, "" // nothing of ours
}

// tuning are the queue attributes that lose nothing, whatever they are.
var tuning = []string{"VisibilityTimeout", "ReceiveMessageWaitTimeSeconds", "DelaySeconds"}

func decideQueue(name string, q events.Queue) (tamperReason, finding.Severity) {
	if name != "SetQueueAttributes" {
		return tamperBlinded, finding.Critical
	}
	for attribute := range q.Attributes {
		if !slices.Contains(tuning, attribute) {
			return tamperNarrowed, finding.High
		}
	}
	if len(q.Attributes) == 0 {
		return tamperNarrowed, finding.High // left out of the record
	}
	return tamperHarmless, ""
}

// decideSelectors judges what a trail takes down.
func decideSelectors(s events.EventSelectors) (tamperReason, finding.Severity) {
	if len(s.Basic)+len(s.Advanced) == 0 {
		return tamperChanged, finding.High // left out of the record
	}
	switch guard.Covers(s) {
	case guard.CoversAll:
		return tamperHarmless, ""
	case guard.CoversSome:
		return tamperNarrowed, finding.High
	case guard.CoversNone:
	}
	return tamperBlinded, finding.Critical
}

// skipOthersSetUp says why a call on a rule, a queue or a topic is none on ours, or "".
// Every trail is ours: which of them EventBridge hears from does not show.
func skipOthersSetUp(c *reaction.Case) string {
	if why := skipElsewhere(c); why != "" {
		return why
	}
	ours := true
	switch d := c.Event.Detail.(type) {
	case events.Rule:
		bus := afterLast(d.Bus, "/")
		ours = (bus == "" || bus == "default") && slices.ContainsFunc(c.Config.EventRules, func(p string) bool { return judgement.Matches(p, d.Name) })
	case events.Queue:
		ours = slices.Contains(c.Config.Queues, afterLast(d.URL, "/"))
	case events.Topic:
		ours = slices.Contains(c.Config.Topics, d.ARN)
	}
	if !ours {
		return "cmkeeper neither receives events nor publishes alerts through it"
	}
	return ""
}

// afterLast is what follows the last separator, the whole text where there is none.
func afterLast(text, separator string) string { return text[strings.LastIndex(text, separator)+1:] }

// tamper alerts, while it still can, that somebody changed what cmkeeper receives events
// or publishes alerts through.
func tamper(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	reason, severity := decideTamper(c.Event)
	c.Debug(ctx, "tampering decided", "reason", reason)
	if severity == "" {
		return nil, nil
	}
	return &reaction.Decision{Tell: func() []alert.Alert {
		what, check, settings := tampered(c)
		a := c.NewAlert(alert.KindGuard, "/tamper")
		a.Severity = severity
		a.Title = fmt.Sprintf("%s was called on %s", c.Event.Name, what)
		a.Summary = fmt.Sprintf("%s called %s on %s. This is from the event; the current setting was not read.", c.Who(), c.Event.Name, what)
		a.Risk = map[tamperReason]string{
			tamperBlinded:  "cmkeeper no longer receives events about keys; only its sweeps still find changes. Attackers often do this first.",
			tamperNarrowed: "Some changes to keys may no longer reach cmkeeper, except through its sweeps.",
			tamperMuted:    "Alerts may no longer reach people.",
			tamperChanged:  "Some events may no longer reach cmkeeper.",
		}[reason]
		a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper does not change its own set-up."}
		a.Next = append([]string{"Check the current setting, and change it back if this is not intended:"}, check...)
		a.Next = append(a.Next, "docs/events.md has the patterns of the rules, docs/operations.md the rest of the set-up.", "Check what else the same actor did:", c.ActorCommand())
		if len(settings) > 0 {
			a.Facts = append(a.Facts, alert.Fact{Name: "what was set", Values: settings})
		}
		return []alert.Alert{a}
	}}, nil
}

// tampered names what a call was on, the commands that show it, and what was set.
func tampered(c *reaction.Case) (what string, check, settings []string) {
	e, in := c.Event, c.InRegion()
	switch d := e.Detail.(type) {
	case events.Trail:
		what = "trail " + reaction.OrUnknown(d.Name)
		check = []string{command.Line("aws cloudtrail get-trail-status --name %s --region %s", command.Trail(d.Name), in)}
		if e.Name == "StopLogging" {
			check = append(check, command.Line("aws cloudtrail start-logging --name %s --region %s", command.Trail(d.Name), in))
		}
	case events.EventSelectors:
		what = "trail " + reaction.OrUnknown(d.Trail)
		check = []string{command.Line("aws cloudtrail get-event-selectors --trail-name %s --region %s", command.Trail(d.Trail), in)}
		for _, b := range d.Basic {
			settings = append(settings, fmt.Sprintf("management events %t, %s, without %s", b.Management, b.ReadWriteType, reaction.OrNothing(b.ExcludedSources)))
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
		check = []string{command.Line("aws events describe-rule --name %s --region %s", command.Rule(d.Name), in), command.Line("aws events list-targets-by-rule --rule %s --region %s", command.Rule(d.Name), in)}
		if e.Name == "DisableRule" {
			check = append(check, command.Line("aws events enable-rule --name %s --region %s", command.Rule(d.Name), in))
		}
		if d.State != "" {
			settings = append(settings, "state "+d.State)
		}
		if d.Pattern != "" {
			settings = append(settings, "pattern "+d.Pattern)
		}
	case events.Queue:
		what = "queue " + afterLast(d.URL, "/")
		check = []string{command.Line("aws sqs get-queue-attributes --attribute-names All --queue-url %s --region %s", command.Queue(d.URL), in)}
		for _, name := range slices.Sorted(maps.Keys(d.Attributes)) {
			settings = append(settings, name+" = "+d.Attributes[name])
		}
	case events.Topic:
		what = "topic " + afterLast(d.ARN, ":")
		check = []string{command.Line("aws sns get-topic-attributes --topic-arn %s --region %s", command.Topic(d.ARN), in), command.Line("aws sns list-subscriptions-by-topic --topic-arn %s --region %s", command.Topic(d.ARN), in)}
		if d.Subscription != "" {
			settings = append(settings, "subscription "+d.Subscription)
		}
		if d.Attribute != "" {
			settings = append(settings, "attribute "+d.Attribute)
		}
	}
	return what, check, settings
}
