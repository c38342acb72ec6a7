package reaction

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
)

// Exempt returns the exemption that covers what the case shows of its key, if there
// is one, for an occurrence of a kind that somebody brought about (nil: not known; a
// sweep has no actor, and an exemption of an actor outlives the event). A reaction asks
// it before it decides whether to restore something, takes the answer into its
// decision as a reason of its own, and says what it left alone with TellExempt.
//
// An exemption of an actor that only a message names is Held: the reaction leaves things
// as they are until CloudTrail shows who it was, and exempts nothing by then without that.
//
// An error means that the answer is not known now; the reaction fails and is tried
// again. A tag that may not be read exempts nothing.
func (c *Case) Exempt(ctx context.Context, kind alert.Kind, cause func(*ledger.Key) *ledger.Party) (Exemption, error) {
	if !c.Config.Exemptions.Any(string(kind)) {
		return Exemption{}, nil
	}
	doc, err := c.Ledger(ctx)
	if err != nil {
		return Exemption{}, err
	}
	m, err := c.marks(ctx, doc)
	if err != nil {
		return Exemption{}, fmt.Errorf("read what exempts key %s: %w", c.Event.KeyARN, err)
	}
	by, now := c.ActorOf(cause(doc)), ledger.Now()
	if x, ok := c.Config.Exemptions.Find(string(kind), m.lasted, by, now); ok {
		return Exemption{Exemption: x, Holds: true}, nil
	}
	if x, ok := c.Config.Exemptions.Find(string(kind), m.lasted, by.Confirmed(), now); ok && c.Await(ctx, "exemption "+x.String()) {
		return Exemption{Exemption: x, Holds: true, Held: true}, nil
	}
	return Exemption{}, nil
}

// Exemption is what Exempt found: the zero value is none.
type Exemption struct {
	judgement.Exemption
	// Holds: the exemption covers the case. Held: so far only if a message is right.
	Holds, Held bool
}

// Mark is the exemption as documents keep it, "" for none that is certain.
func (x Exemption) Mark() string {
	if !x.Holds || x.Held {
		return ""
	}
	return x.String()
}

// marks are what a key is picked by: as it is, as it was noted, and what of it is
// there and has lasted.
type marks struct{ live, noted, lasted judgement.Key }

// marks reads a key's aliases and tags. What was set later than the event does not
// count as lasting.
func (c *Case) marks(ctx context.Context, doc *ledger.Key) (marks, error) {
	at := c.Event.Time
	if now := ledger.Now(); at.IsZero() || at.After(now) {
		at = now
	}
	m := marks{noted: judgement.Key{Aliases: doc.Aliases, Tags: map[string]string{}}}
	m.lasted.Tags = map[string]string{}
	aliases, aliasErr := c.KeyAliases(ctx)
	tags, tagErr := c.Tags(ctx)
	for _, err := range []error{aliasErr, tagErr} {
		switch {
		case errors.Is(err, inventory.ErrAccessDenied):
			c.Log().WarnContext(ctx, "aliases or tags of a key may not be read, so they exempt nothing", "error", err)
		case err != nil && !Unreadable(err):
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

// ActorOf is a party as rules look at it; nil is nobody.
func (e *Env) ActorOf(p *ledger.Party) judgement.Actor {
	if p == nil {
		return judgement.Actor{}
	}
	by := e.actor(p.Principal, p.Account)
	by.Unconfirmed = p.Unconfirmed
	return by
}

func (e *Env) actor(principal, account string) judgement.Actor {
	foreign := account != "" && account != e.Config.Identity.Account
	return judgement.Actor{Principal: principal, Foreign: foreign, Trusted: foreign && slices.Contains(e.Config.Posture.TrustedAccounts, account)}
}

// TellExempt makes an alert the note of what was left alone because of x. Where only a
// message says that x covers it, the alert keeps its severity.
func TellExempt(a *alert.Alert, x Exemption, mode Mode) {
	if x.Held {
		a.ID += "/held"
		a.Action = alert.Action{Mode: string(mode), Status: alert.StatusRefused,
			Description: fmt.Sprintf("cmkeeper left it as it is for now: it is exempt until %s if CloudTrail shows that the actor above did it. Reason: %s. If CloudTrail does not show that within 15 minutes, nothing is exempt.", x.Until(), x.Reason)}
		a.Facts = append(a.Facts, alert.Fact{Name: "exemption", Values: []string{x.String()}})
		return
	}
	a.ID += "/exempt"
	a.Severity = finding.Info
	a.Title += ", exempt"
	a.Action = alert.Action{Mode: string(mode), Status: alert.StatusNone,
		Description: fmt.Sprintf("cmkeeper left it as it is: exempt until %s. Reason: %s.", x.Until(), x.Reason)}
	a.Facts = append(a.Facts, alert.Fact{Name: "exemption", Values: []string{x.String()}})
}

// marksTimeout bounds how long an alert waits for what it is judged by.
const marksTimeout = 2 * time.Second

// judge returns an alert with the severity that it has in its context, and with the
// reasons as a fact. An occurrence that is exempt, and about which nothing was done,
// becomes a note. What cannot be read makes nothing quieter and keeps no alert waiting.
func (c *Case) judge(ctx context.Context, a alert.Alert) alert.Alert {
	a, _ = c.judged(ctx, a)
	return a
}

// judged is judge, and says whether it is exempt.
func (c *Case) judged(ctx context.Context, a alert.Alert) (judged alert.Alert, exempt bool) {
	if a.Kind == alert.KindGuard || a.Severity == finding.Info {
		return a, false
	}
	m, by := c.marksOf(ctx, a), c.alertActor(a.Actor)
	if cmp.Or(a.Action.Status, alert.StatusNone) == alert.StatusNone {
		if x, ok := c.Config.Exemptions.Find(string(a.Kind), m.lasted, by, ledger.Now()); ok {
			TellExempt(&a, Exemption{Exemption: x, Holds: true}, Mode(a.Action.Mode))
			return a, true
		}
		if _, ok := c.Config.Exemptions.Find(string(a.Kind), m.lasted, by.Confirmed(), ledger.Now()); ok {
			c.Await(ctx, "exemption")
		}
	}
	o := judgement.Occurrence{
		Severity: a.Severity, Fixed: fixed(a),
		Live: m.live, Noted: m.noted, Lasting: m.lasted, Actor: by, At: a.Time,
	}
	v := c.Config.Rules.Judge(o)
	a.Severity = v.Severity
	if o.Actor = by.Confirmed(); c.Config.Rules.Judge(o).Severity != v.Severity {
		c.Await(ctx, "severity")
	}
	if a.Key != nil && c.Config.Rules.IsSensitive(o) {
		key := *a.Key
		key.Sensitive, a.Key = true, &key
	}
	if len(v.Reasons) > 0 {
		a.Facts = append(slices.Clone(a.Facts), alert.Fact{Name: "why this severity", Values: v.Reasons})
	}
	return a, false
}

// marksOf reads what an alert's key is picked by, if any rule asks for that.
func (c *Case) marksOf(ctx context.Context, a alert.Alert) marks {
	var m marks
	if a.Key == nil || !c.Config.Rules.ByKey() && !c.Config.Exemptions.Any(string(a.Kind)) {
		return m
	}
	ctx, cancel := context.WithTimeout(ctx, marksTimeout)
	defer cancel()
	about := c.For(a.Key.ARN)
	doc, err := about.open(ctx)
	if err == nil {
		m, err = about.marks(ctx, doc)
	}
	if err != nil {
		c.Log().WarnContext(ctx, "alert is judged without the aliases and tags of its key", "error", err)
		m = marks{}
	}
	m.live.Aliases = append(m.live.Aliases, a.Key.Aliases...)
	return m
}

// alertActor is an alert's actor as rules look at it.
func (c *Case) alertActor(a *alert.Actor) judgement.Actor {
	if a == nil {
		return judgement.Actor{}
	}
	by := c.actor(cmp.Or(a.Role, a.ARN), a.Account)
	by.Root = a.Type == "Root"
	by.Service = a.Type == "AWSService" || a.Type == ""
	by.NoMFA, by.Unconfirmed = a.MFA == "false", a.Unconfirmed
	return by
}

// fixed says why nothing lowers an alert's severity, or "".
func fixed(a alert.Alert) string {
	switch a.Action.Status {
	case alert.StatusFailed:
		return "an action that failed"
	case alert.StatusRefused:
		return "what was left undone"
	case alert.StatusDone, alert.StatusNone, alert.StatusWouldDo, alert.StatusResolved:
	}
	for _, f := range a.Findings {
		if f.Fixed() {
			return "the finding " + f.ID.String()
		}
	}
	return ""
}
