package reaction

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// NewAlert begins an alert about the case: everything that does not depend on the
// reaction. suffix distinguishes the alerts of one event and kind.
func (c *Case) NewAlert(kind alert.Kind, suffix string) alert.Alert {
	return alert.Alert{
		ID: c.Event.ID + "/" + string(kind) + suffix, Kind: kind,
		EventName: c.Event.Name, EventID: events.Occurrence(c.Event.ID), Time: c.Event.Time, Actor: AlertActor(ledger.ActorOf(c.Event)),
		Account: c.Config.Identity.Account, Region: c.Config.Region,
	}
}

// AlertActor is an actor as alerts have it, nil for nobody.
func AlertActor(a *ledger.Actor) *alert.Actor {
	if a == nil {
		return nil
	}
	shown := alert.Actor(*a)
	return &shown
}

// Publish publishes an alert.
func (e *Env) Publish(ctx context.Context, a alert.Alert) error {
	if err := e.Alerts.Publish(ctx, a); err != nil {
		return fmt.Errorf("publish alert: %w", err)
	}
	return nil
}

// gatherNames reads the aliases that alerts name a key by. KMS lists them also to whom the
// key's own policy shuts out.
func (c *Case) gatherNames(ctx context.Context) {
	if c.key.known && (c.key.err == nil || errors.Is(c.key.err, inventory.ErrAccessDenied)) {
		c.GatherNames(ctx)
	}
}

// GatherNames is the Gather of a decision whose alerts name the event's key without having
// read it. A failure is no error: Describe takes the aliases that are known.
func (c *Case) GatherNames(ctx context.Context) {
	if c.Event.KeyARN != "" {
		_, _ = c.KeyAliases(ctx)
	}
}

// Named is the event's key as alerts show it, where nothing but its names is known.
func (c *Case) Named() *alert.Key {
	return c.Describe(inventory.Key{ARN: c.Event.KeyARN, Description: c.Known().Description})
}

// DescribeKey describes the key of the event as it was read; one that may not be read has its
// ARN only.
func (c *Case) DescribeKey() *alert.Key {
	key := c.KeyRead()
	key.ARN = c.Event.KeyARN
	return c.Describe(key)
}

// AccountAlert is a [Case.NewAlert] about a setting of the account, which cmkeeper leaves alone.
func (c *Case) AccountAlert(kind alert.Kind, severity finding.Severity) alert.Alert {
	a := c.NewAlert(kind, "")
	a.Severity = severity
	a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper does not change such settings."}
	return a
}

// Describe is the key as alerts show it. Aliases are the live ones, and where those
// could not be read they are the ones that we know of.
func (c *Case) Describe(k inventory.Key) *alert.Key {
	d := &alert.Key{ARN: k.ARN, Description: k.Description, State: k.State, DeletionDate: k.DeletionDate, Aliases: c.Known().Aliases}
	if c.aliases.known && len(c.aliases.value) > 0 {
		d.Aliases = AliasNames(c.aliases.value)
	}
	return d
}

// AliasNames are the names of aliases, sorted.
func AliasNames(aliases []inventory.Alias) []string {
	var names []string
	for _, a := range aliases {
		names = append(names, a.Name)
	}
	slices.Sort(names)
	return names
}

// Failed is the alert that something the reaction needs cannot be done; what it is
// follows "cmkeeper could not". The message is kept and tried again; the alert is
// published once per occurrence. An expected wait is no failure.
func (c *Case) Failed(a alert.Alert, mode Mode, what string, cause error) []alert.Alert {
	if outcome.Of(cause).Action == outcome.Delay {
		return nil
	}
	a.ID += "/failed"
	if !a.Severity.AtLeast(finding.High) || a.Severity == "" {
		a.Severity = finding.High
	}
	a.Action = alert.Action{Mode: string(mode), Status: alert.StatusFailed,
		Description: fmt.Sprintf("cmkeeper could not %s: %v. It keeps trying; if no attempt succeeds, the message goes to the dead-letter queue.", what, cause)}
	if errors.Is(cause, inventory.ErrAccessDenied) || isAccessDenied(cause) {
		a.Next = append([]string{
			fmt.Sprintf("Allow the %s the action that the error names, in its IAM policy and in the key policy. The next attempt then succeeds.", c.Config.Identity),
		}, a.Next...)
	}
	return []alert.Alert{a}
}

// OnceAnHour is the id of an alert that is published once an hour for an actor. What a
// message claims has ids of its own.
func (c *Case) OnceAnHour(what string) string {
	if c.Event.Claimed {
		what = "unconfirmed/" + what
	}
	actor := c.Event.Actor.RoleARN
	if actor == "" {
		actor = c.Event.Actor.ARN
	}
	if actor == "" {
		actor = c.Event.Actor.String()
	}
	return fmt.Sprintf("%s/%x/%s", what, sha256.Sum256([]byte(actor)), c.hour())
}

func (c *Case) hour() string { return c.Event.Time.UTC().Format("2006-01-02T15") }

// ToldThisHour reports whether an alert of OnceAnHour was published by this process.
func (c *Case) ToldThisHour(id string) bool { return c.told.has(c.hour(), id) }

// Gone decides about an event on a key that does not exist (any more). What happened to
// the key before does not matter any more, unless it was harm.
func (c *Case) Gone(ctx context.Context, kind alert.Kind, harm bool) (*Decision, error) {
	if !harm {
		c.Debug(ctx, "event ignored", "reason", "its key does not exist")
		return nil, nil
	}
	if _, err := c.Ledger(ctx); err != nil {
		c.Log().WarnContext(ctx, "document of a deleted key cannot be read", "error", err)
	}
	return &Decision{Tell: func() []alert.Alert {
		a := c.GoneAlert(kind)
		a.Severity = finding.High
		a.Title = fmt.Sprintf("%s on key %s, which does not exist", c.Event.Name, ShortName(a.Key))
		a.Summary = fmt.Sprintf("%s called %s, and KMS does not know the key now. Either the key was deleted since, or the event is not genuine.", c.Who(), c.Event.Name)
		a.Risk = "If the key was deleted, everything encrypted under it and not re-encrypted before is lost for good."
		return []alert.Alert{a}
	}}, nil
}

// GoneAlert is what the alerts about a key that does not exist have in common.
func (c *Case) GoneAlert(kind alert.Kind) alert.Alert {
	doc := c.Known()
	a := c.NewAlert(kind, "/gone")
	a.Key = &alert.Key{ARN: c.Event.KeyARN, Aliases: doc.Aliases, Description: doc.Description, State: "deleted"}
	a.Action = alert.Action{Status: alert.StatusNone, Description: "There is nothing left to repair."}
	a.Next = []string{
		c.TrailCommand(),
		"Look for resources that still refer to this key: buckets whose default encryption uses it reject new objects.",
	}
	if s := doc.LastState(); s != nil {
		a.Facts = append(a.Facts, alert.Fact{Name: "last seen", Values: []string{s.State + " since " + TimeText(s.At)}})
	}
	return a
}

// Unread decides about a key that cannot be read: where cmkeeper is shut out, that is
// the whole reaction, because trying again would not change it, and the next
// PutKeyPolicy is an event of its own. A sweep notes it, and does not fail for it, which
// it would do for ever.
func (c *Case) Unread(ctx context.Context, cause error) (*Decision, error) {
	switch {
	case c.IsSweep() && errors.Is(cause, inventory.ErrNotFound):
		return nil, nil // deleted since it was listed
	case !errors.Is(cause, inventory.ErrAccessDenied):
		return nil, cause
	}
	doc, err := c.Ledger(ctx)
	switch {
	case !c.IsSweep():
	case err != nil:
		return nil, err
	default:
		c.shutOut, c.unread = cmp.Or(c.shutOut, c.Event.Time), true
		doc.NoteShutOut(c.shutOut)
	}
	return &Decision{Tell: func() []alert.Alert {
		doc := c.Known()
		a := c.NewAlert(alert.KindGuard, "/shut-out")
		a.Severity = finding.Critical
		a.Key = c.Named()
		a.Title = "cmkeeper can no longer read key " + ShortName(a.Key)
		a.Summary = fmt.Sprintf("After %s by %s, cmkeeper cannot read the key: %v.", c.Event.Name, c.Who(), cause)
		if c.IsSweep() {
			a.ID, a.Ongoing = fmt.Sprintf("sweep/%s/shut-out/%d", arn.KeyID(c.Event.KeyARN), doc.ShutOut.Unix()), true // not on every sweep
			a.Summary = fmt.Sprintf("The sweep cannot read the key: %v.", cause)
		}
		a.Risk = "The key is not guarded: cmkeeper cannot see its rotation, its policy and its deletion date. The whole account may be locked out."
		a.Action = alert.Action{Status: alert.StatusNone, Description: "Without access cmkeeper can do nothing. Manual action required."}
		a.Next = []string{
			c.KMSCommand("get-key-policy --policy-name default --output text"),
			fmt.Sprintf("Allow the %s kms:DescribeKey, kms:GetKeyPolicy and kms:GetKeyRotationStatus in the key policy and in its IAM policy.", c.Config.Identity),
			"If nobody in the account can change the policy any more, open a case with AWS Support: only AWS can help then.",
		}
		if policy, bypassed := PolicySent(c.Event); policy != "" {
			a.Findings = c.JudgePolicy(c.Event.KeyARN, policy, bypassed).Found
			a.Facts = append(a.Facts, alert.Fact{Name: "note", Values: []string{"The findings are about the policy in the event, because the live one cannot be read."}})
		}
		return []alert.Alert{a}
	}}, nil
}

// TellFlapping makes an alert the one about a repair that the circuit breaker keeps
// from being made. The opening is alerted as critical; after it each event is alerted
// with its own severity, and sweeps say nothing.
func (c *Case) TellFlapping(a alert.Alert, mode Mode, reaction string, b ledger.Breaker) []alert.Alert {
	if b == ledger.BreakerOpen && c.IsSweep() {
		return nil
	}
	circuit := *c.Known().CircuitOf(reaction)
	before := c.Known().RepairsBefore(circuit)
	a.ID += "/flapping"
	a.Action = alert.Action{Mode: string(mode), Status: alert.StatusRefused,
		Description: fmt.Sprintf("The circuit breaker is open: cmkeeper restored this setting %d times within the hour before %s, and does not restore it before %s. The first sweep after that does, if necessary.",
			len(before), TimeText(circuit.At), TimeText(circuit.Closes()))}
	a.Facts = append(a.Facts, alert.Fact{Name: "changed by", Values: opponents(before)})
	if b == ledger.BreakerOpen {
		return []alert.Alert{a}
	}
	a.ID = c.FlappingID(reaction)
	a.Severity = finding.Critical
	a.Title += ": circuit breaker open for an hour"
	a.Next = append([]string{"Manual action required: stop the pipeline, tool or attacker that keeps changing the setting (see \"changed by\" below). If the setting cannot wait, restore it by hand:"}, a.Next...)
	return []alert.Alert{a}
}

// FlappingID is the id of the alert that a reaction's circuit opened.
func (c *Case) FlappingID(reaction string) string {
	return fmt.Sprintf("flapping/%s/%s/%d", arn.KeyID(c.Event.KeyARN), reaction, c.Known().CircuitOf(reaction).At.UnixMilli())
}

// opponents names the actors whose changes were undone, and how often.
func opponents(repairs []ledger.Repair) []string {
	var names []string
	times := map[string]int{}
	for _, r := range repairs {
		name := "unknown: a sweep noticed it"
		if r.Against != nil {
			name = r.Against.Name
		}
		if times[name]++; times[name] == 1 {
			names = append(names, name)
		}
	}
	for i, name := range names {
		if n := times[name]; n > 1 {
			names[i] = fmt.Sprintf("%s, %d times", name, n)
		}
	}
	return names
}

// flappingFinding is how many repairs within the hour are a finding.
const flappingFinding = 2

// Flapping is the finding that a setting was restored n times within the hour; none
// where that is not often.
func Flapping(n int, what string) []finding.Finding {
	if n < flappingFinding {
		return nil
	}
	return []finding.Finding{{ID: finding.Flapping, Severity: finding.High,
		Message: fmt.Sprintf("cmkeeper restored the key's %s %d times within the hour before this. Another tool, or somebody who keeps trying, changes it again each time.", what, n)}}
}

// SweepEvent is an occurrence that a sweep makes up.
func (e *Env) SweepEvent(id string, start time.Time) events.Event {
	return events.Event{
		ID: id, Kind: events.Scheduled, Name: SweepName, Time: start,
		Account: e.Config.Identity.Account, Region: e.Config.Region,
	}
}

// SweepName is the name of the occurrences that a sweep makes up.
const SweepName = "Sweep"

// CircuitTold notes that the alert about the opening of a reaction's circuit was
// published.
func (c *Case) CircuitTold(reaction string, b ledger.Breaker) Told {
	if b != ledger.BreakerOpening {
		return Told{}
	}
	circuit := *c.Known().CircuitOf(reaction)
	return Told{Key: func(k *ledger.Key) { k.MarkCircuit(circuit) }}
}

// NoteUntold notes in a key's document that a sweep is about to make a repair, of which
// the alert with that id tells. The next sweep tells where this one does not come to it.
func (c *Case) NoteUntold(doc *ledger.Key, r ledger.Repair, alertID string) {
	if c.IsSweep() {
		doc.NoteUntold(ledger.Untold{Reaction: r.Reaction, By: r.By, At: r.At, Alert: alertID})
	}
}

// SweepTold notes that the alert about a repair was published.
func (c *Case) SweepTold(r ledger.Repair) Told {
	if !c.IsSweep() {
		return Told{}
	}
	return Told{Key: func(k *ledger.Key) { k.MarkTold(r.Reaction, r.By) }}
}

// AboutKey decides to alert about the event's key, if that exists: fill completes
// an alert that has the key.
func (c *Case) AboutKey(ctx context.Context, kind alert.Kind, suffix string, fill func(*alert.Alert)) (*Decision, error) {
	key, _, err := c.Look(ctx)
	switch {
	case errors.Is(err, inventory.ErrNotFound):
		return c.Gone(ctx, kind, false)
	case err != nil:
		return nil, err
	}
	return &Decision{Tell: func() []alert.Alert {
		a := c.NewAlert(kind, suffix)
		a.Key = c.Describe(key)
		fill(&a)
		return []alert.Alert{a}
	}}, nil
}
