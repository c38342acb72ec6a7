package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// sweepEvent is the name of the occurrences that a sweep makes up.
const sweepEvent = "Sweep"

func isSweep(e events.Event) bool { return e.Kind == events.Scheduled }

// Digests tells alerts that were collected; *alert.Publisher does.
type Digests interface {
	// Flush tells a slot that an alert.FlushSlot message reminds of.
	Flush(ctx context.Context, slot string) error
	// Resume tells what was to be told before and was not.
	Resume(ctx context.Context) error
}

// flushAlerts tells what was collected. The message is our own and no event.
func (r *Router) flushAlerts(ctx context.Context, slot string) error {
	if r.digests == nil {
		return outcome.Reject(fmt.Errorf("message reminds of slot %s of alerts, and nothing here tells those", slot))
	}
	if err := r.digests.Flush(ctx, slot); err != nil {
		return fmt.Errorf("tell alerts: %w", err)
	}
	return nil
}

// newAlert begins an alert about an event: everything that does not depend on
// the reaction. suffix tells the alerts of one event and kind apart.
func (r *Router) newAlert(e events.Event, kind alert.Kind, suffix string) alert.Alert {
	return alert.Alert{
		ID: e.ID + "/" + string(kind) + suffix, Kind: kind,
		EventName: e.Name, EventID: e.ID, Time: e.Time, Actor: alertActor(e),
		Account: r.config.Identity.Account, Region: r.config.Region,
	}
}

// alertActor is who did it, nil where no event says.
func alertActor(e events.Event) *alert.Actor {
	if e.Actor == (events.Actor{}) {
		return nil
	}
	return &alert.Actor{
		Name: e.Actor.String(), Type: e.Actor.Type, ARN: e.Actor.ARN, Account: e.Actor.AccountID,
		Session: e.Actor.Session, Role: e.Actor.RoleARN, MFA: mfaShown(e.Actor), InvokedBy: e.Actor.InvokedBy, SourceIP: e.SourceIP, UserAgent: e.UserAgent,
	}
}

// mfaShown is whether an actor used a second factor, where that can be seen:
// what records say of a role's session is not about the person.
func mfaShown(a events.Actor) string {
	if (a.Type == "IAMUser" || a.Type == "Root") && a.RoleARN == "" && (a.MFA == "true" || a.MFA == "false") {
		return a.MFA
	}
	return ""
}

// publish tells an alert, with the severity that it has in its context.
func (r *Router) publish(ctx context.Context, a alert.Alert) error {
	if err := r.alerts.Publish(ctx, r.judged(ctx, a)); err != nil {
		return fmt.Errorf("publish alert: %w", err)
	}
	return nil
}

// who names the actor in a sentence.
func who(e events.Event) string {
	if name := e.Actor.String(); name != "" {
		return name
	}
	return "somebody (the event does not say who)"
}

// describe is the key as alerts show it. Aliases are read live, and where that
// fails they are those we know of.
func (r *Router) describe(ctx context.Context, k inventory.Key, doc keyDoc) *alert.Key {
	d := &alert.Key{ARN: k.ARN, Description: k.Description, State: k.State, DeletionDate: k.DeletionDate, Aliases: doc.Aliases}
	if live, err := r.facts.AliasesOf(ctx, k.ARN); err == nil && len(live) > 0 {
		d.Aliases = aliasNames(live)
	}
	return d
}

func aliasNames(aliases []inventory.Alias) []string {
	var names []string
	for _, a := range aliases {
		names = append(names, a.Name)
	}
	slices.Sort(names)
	return names
}

// shortName is how a title names a key: by alias where it has one.
func shortName(k *alert.Key) string {
	if len(k.Aliases) > 0 {
		return k.Aliases[0]
	}
	return keyID(k.ARN)
}

// kmsCommand is a command that can be pasted.
func (r *Router) kmsCommand(operation, keyARN string, more ...string) string {
	words := append([]string{"aws kms", operation, "--key-id", shellQuote(keyID(keyARN)), "--region", shellQuote(r.config.Region)}, more...)
	return strings.Join(words, " ")
}

// trailCommand looks up who did what to a key when no event told.
func (r *Router) trailCommand(keyARN string) string {
	return "aws cloudtrail lookup-events --region " + shellQuote(r.config.Region) +
		" --lookup-attributes AttributeKey=ResourceName,AttributeValue=" + shellQuote(keyARN)
}

// failed tells that something the reaction needs cannot be done, and returns
// cause: the message is kept and tried again. It is told once per occurrence.
func (r *Router) failed(ctx context.Context, a alert.Alert, mode Mode, what string, cause error) error {
	if ctx.Err() != nil {
		return cause // we are being stopped: nothing has failed yet
	}
	if d := outcome.Of(cause); d.Action == outcome.Delay {
		return cause // an expected wait
	}
	a.ID += "/failed"
	if !a.Severity.AtLeast(alert.High) || a.Severity == "" {
		a.Severity = alert.High
	}
	a.Action = alert.Action{Mode: string(mode), Status: alert.StatusFailed,
		Description: fmt.Sprintf("cmkeeper could not %s: %v. It keeps trying; after that the message is in the dead-letter queue.", what, cause)}
	if errors.Is(cause, inventory.ErrAccessDenied) || isAccessDenied(cause) {
		a.Next = append([]string{
			fmt.Sprintf("Allow the %s %s what the error names, in its IAM policy and in the key policy; the next try then succeeds.", r.config.Identity.word(), r.config.Identity.Name),
		}, a.Next...)
	}
	return errors.Join(cause, r.publish(ctx, a))
}
