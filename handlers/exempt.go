package handlers

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
)

// Exemptible are the kinds of occurrences that can be exempt, as exemptions name
// them: those that the event table has an alert for. What is done to the guard
// itself, and what it does itself, is not among them.
func Exemptible() []string {
	var kinds []string
	for _, w := range rows() {
		switch kind := w.reaction.alert; kind {
		case "", alert.KindGuard, alert.KindReencryption:
		default:
			if !slices.Contains(kinds, string(kind)) {
				kinds = append(kinds, string(kind))
			}
		}
	}
	return kinds
}

// exempt returns the exemption that covers what an event or a sweep shows of a
// key, if there is one. A reaction asks it before it decides whether to put
// something back, takes the answer into its decision as a reason of its own, and
// tells what it left alone by tellExempt.
//
// A sweep has no actor: who brought a setting about is then read from the key's
// document (keyDoc.culprit), so that an exemption of an actor outlives the event.
// An error means that the answer is not known now; the reaction fails and is
// tried again. A tag that may not be read exempts nothing.
func (r *Router) exempt(ctx context.Context, e events.Event, kind alert.Kind, keyARN string) (judgement.Exemption, bool, error) {
	if !r.config.Exemptions.Any(string(kind)) {
		return judgement.Exemption{}, false, nil
	}
	doc, err := r.knownKey(ctx, keyARN)
	if err != nil {
		return judgement.Exemption{}, false, err
	}
	m, err := r.marks(ctx, keyARN, doc, e.Time)
	if err != nil {
		return judgement.Exemption{}, false, fmt.Errorf("read what exempts key %s: %w", keyARN, err)
	}
	var by judgement.Actor
	if p := doc.culprit(kind, e); p != nil {
		by = r.actor(p.Principal, p.Account)
	}
	x, ok := r.config.Exemptions.Find(string(kind), m.lasted, by, now())
	return x, ok, nil
}

// marks are what a key is picked by: as it is, as it was noted, and what of it is
// there and has lasted.
type marks struct{ live, noted, lasted judgement.Key }

// marks reads a key's aliases and tags, for something that happened at a time:
// what was set later does not count as lasting.
func (r *Router) marks(ctx context.Context, keyARN string, doc keyDoc, at time.Time) (marks, error) {
	if now := now(); at.IsZero() || at.After(now) {
		at = now
	}
	m := marks{noted: judgement.Key{Aliases: doc.Aliases, Tags: map[string]string{}}}
	m.lasted.Tags = map[string]string{}
	aliases, aliasErr := r.facts.AliasesOf(ctx, keyARN)
	tags, tagErr := r.facts.Tags(ctx, keyARN)
	for _, err := range []error{aliasErr, tagErr} {
		switch {
		case errors.Is(err, inventory.ErrAccessDenied):
			r.log.WarnContext(ctx, "what a key is picked by may not be read, so it exempts nothing", "key", keyARN, "error", err)
		case err != nil && !unreadable(err):
			return m, err
		}
	}
	for _, a := range aliases {
		m.live.Aliases = append(m.live.Aliases, a.Name)
		// Where the server does not say since when, it may be since now.
		if !a.Updated.IsZero() && at.Sub(a.Updated) >= judgement.Lasts {
			m.lasted.Aliases = append(m.lasted.Aliases, a.Name)
		}
	}
	m.live.Tags = tags
	for _, t := range doc.Tags {
		m.noted.Tags[t.Name] = t.Value
		if tags[t.Name] == t.Value && at.Sub(t.Since) >= judgement.Lasts {
			m.lasted.Tags[t.Name] = t.Value
		}
	}
	return m, nil
}

// unreadable reports whether trying again would not help to read a key.
func unreadable(err error) bool {
	return errors.Is(err, inventory.ErrNotFound) || errors.Is(err, inventory.ErrAccessDenied)
}

// actor is who rules look at.
func (r *Router) actor(principal, account string) judgement.Actor {
	foreign := account != "" && account != r.config.Identity.Account
	return judgement.Actor{
		Principal: principal, Foreign: foreign, Trusted: foreign && slices.Contains(r.config.TrustedAccounts, account),
	}
}

// tellExempt makes an alert the note of what was left alone because of x.
func tellExempt(a *alert.Alert, x judgement.Exemption, mode Mode) {
	a.ID += "/exempt"
	a.Severity = alert.Info
	a.Title += ", exempt"
	a.Action = alert.Action{Mode: string(mode), Status: alert.StatusNone,
		Description: fmt.Sprintf("It was left as it is: exempt until %s, because: %s.", x.Until(), x.Reason)}
	a.Facts = append(a.Facts, alert.Fact{Name: "exemption", Values: []string{x.String()}})
}

// expiryNotice is how many days before its end people are told of an exemption.
const expiryNotice = 14

// tellExpiring tells, once each, of the exemptions that are about to expire and
// of those that have.
func (r *Router) tellExpiring(ctx context.Context, at time.Time) error {
	var errs []error
	for _, x := range r.config.Exemptions {
		left := x.DaysLeft(at)
		if left > expiryNotice {
			continue
		}
		a := alert.Alert{
			Kind: alert.KindGuard, Severity: alert.Medium, EventName: sweepEvent, Time: at,
			Account: r.config.Identity.Account, Region: r.config.Region,
			Title:   fmt.Sprintf("An exemption expires on %s: %s", x.Until(), x.Covers()),
			Summary: fmt.Sprintf("It was given because: %s. %s is the last day on which it holds.", x.Reason, x.Until()),
			Risk:    "From the next day on what it covers is told as if it had never been exempt, and put back in the modes that put things back.",
			Action:  alert.Action{Status: alert.StatusNone, Description: "Only the deployment changes CMKEEPER_EXEMPTIONS."},
			Next:    []string{"Decide whether it is still needed. If so, give it a later day in CMKEEPER_EXEMPTIONS; if not, put right what it covers, and remove it.", "cmkeeper exemptions list"},
			Facts:   []alert.Fact{{Name: "exemption", Values: []string{x.String()}}},
		}
		state := "expires"
		if left < 0 {
			state = "expired"
			a.Title = fmt.Sprintf("An exemption expired on %s: %s", x.Until(), x.Covers())
			a.Summary = fmt.Sprintf("It was given because: %s. It does not hold any more.", x.Reason)
			a.Risk = "What it covered is told as if it had never been exempt, and put back in the modes that put things back."
		}
		a.ID = fmt.Sprintf("exemption/%x/%s", sha256.Sum256([]byte(x.String())), state)
		errs = append(errs, r.publish(ctx, a))
	}
	return errors.Join(errs...)
}
