package handlers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go/middleware"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/posture"
)

// rotationReason names a decision about a key's rotation.
type rotationReason string

const (
	// Nothing to do.
	rotationOn          rotationReason = "on"           // it is on
	rotationNotRequired rotationReason = "not-required" // never seen rotating, and the operator does not require it
	rotationSettling    rotationReason = "settling"     // the read may be older than the event
	// Nothing to do but to alert.
	rotationRepaired rotationReason = "repaired" // we turned it on again since the event
	rotationBlocked  rotationReason = "blocked"  // the key cannot rotate, or not now
	rotationLonger   rotationReason = "longer"   // its period is longer than it was, and what the operator allows or no event set
	rotationExempt   rotationReason = "exempt"   // an exemption covers it
	rotationFlapping rotationReason = "flapping" // it was turned on too often
	rotationHeld     rotationReason = "held"     // nothing but a message says that it was on, or had a shorter period
	// To be turned on.
	rotationRestore  rotationReason = "restore"  // it has been rotating before
	rotationRequired rotationReason = "required" // the operator requires it
	rotationShorten  rotationReason = "shorten"  // it is on, and the event made its period longer than the operator's
)

type rotationInput struct {
	// blocker is why the key cannot rotate, "" when it can.
	blocker inventory.Blocker
	on      bool // the live status; meaningless with a blocker
	// livePeriod is the live period, 0 where KMS does not say.
	livePeriod int
	facts      ledger.Rotation
	// harm: the event itself says that rotation was turned off.
	harm bool
	// lengthen: the event itself set a longer period than the operator's.
	lengthen bool
	// longer: the reading showed a longer period than the one before.
	longer bool
	// claimed: nothing but a message says harm and lengthen.
	claimed bool
	// mine: we made a repair for this very occurrence, in an earlier try; since: for
	// others since the event; around: for others since repairSlack before it.
	mine, since, around bool
	at, now             time.Time // of the event, and of the read
	period              int       // the configured one
	required            bool
	exempt              bool
	breaker             ledger.Breaker // BreakerClosed where nothing is restored in this mode
}

type rotationDecision struct {
	reason rotationReason
	period int           // to be set
	wait   time.Duration // with settling
}

// turnsOn reports whether the decision turns rotation on, or sets its period.
func (d rotationDecision) turnsOn() bool {
	return d.reason == rotationRestore || d.reason == rotationRequired || d.reason == rotationShorten
}

// verb says what the decision does, in the words before "a period of 365 days".
func (d rotationDecision) verb() string {
	if d.reason == rotationShorten {
		return "set"
	}
	return "turn rotation on with"
}

// repairSlack is how much earlier than an event a repair may be noted that undid it: a
// worker notes when it began, by its own clock, and reads and repairs after that.
const repairSlack = 15 * time.Minute

// decideRotation decides what to do about a key's rotation.
func decideRotation(in rotationInput) rotationDecision {
	var d rotationDecision
	age := in.now.Sub(in.at)
	harm := in.harm || in.lengthen
	long := in.on && in.lengthen && in.livePeriod > in.period && (!in.claimed || in.facts.Former > 0)
	fine := in.on && !long
	doubt := in.claimed && (in.harm && !in.on && !in.facts.Seen && !in.required || in.on && in.lengthen && in.livePeriod > in.period && !long)
	switch {
	case in.blocker != "":
		d.reason = rotationBlocked
	case doubt:
		d.reason = rotationHeld
	case fine && (in.mine || harm && in.since):
		d.reason = rotationRepaired
	case fine && harm && age >= 0 && age < ledger.ConsistencyWindow:
		d.reason, d.wait = rotationSettling, ledger.ConsistencyWindow-age
	case fine && harm && in.around:
		d.reason = rotationRepaired
	case fine && in.longer:
		d.reason = rotationLonger
	case fine:
		d.reason = rotationOn
	case !in.on && !in.facts.Seen && !in.required:
		d.reason = rotationNotRequired
	case in.exempt:
		d.reason = rotationExempt
	case in.breaker != ledger.BreakerClosed:
		d.reason = rotationFlapping
	case long:
		d.reason = rotationShorten
	case in.facts.Seen:
		d.reason = rotationRestore
	default:
		d.reason = rotationRequired
	}
	// The former period comes back, but never a longer one than the operator's: the
	// one who turned rotation off may have set it to seven years before.
	d.period = in.period
	if in.facts.Period > 0 {
		d.period = min(d.period, in.facts.Period)
	}
	return d
}

// rotationCase is what is known of a key's rotation, and what is done about it.
type rotationCase struct {
	*reaction.Case
	// harm and lengthens: the event itself says that rotation was turned off, or that a
	// longer period (set, in days) was set than the operator's.
	harm, lengthens bool
	set             int
	key             inventory.Key
	blocker         inventory.Blocker
	status          inventory.Rotation // live, and as it was read back
	decision        rotationDecision
	breaker         ledger.Breaker
	exemption       reaction.Exemption
	repair          ledger.Repair
	failure         error
}

// opDisableRotation is the call that turns rotation off.
const opDisableRotation = "DisableKeyRotation"

// kmsPeriodDays is the period of a key whose caller names none.
const kmsPeriodDays = 365

// rotation keeps automatic rotation on.
func rotation(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	r := &rotationCase{Case: c, harm: c.Event.Name == opDisableRotation}
	if d, ok := c.Event.Detail.(events.EnableKeyRotation); ok {
		r.set = cmp.Or(d.RotationPeriodInDays, kmsPeriodDays)
		r.lengthens = r.set > c.Config.Posture.RotationPeriodDays
	}
	if err := r.decide(ctx); err != nil {
		return r.unread(ctx, err)
	}
	c.Debug(ctx, "rotation decided", "reason", r.decision.reason, "blocker", r.blocker)
	d := &reaction.Decision{Tell: r.tell}
	if r.decision.reason == rotationRequired {
		d.Tells = reaction.Stands
	}
	switch r.decision.reason {
	case rotationSettling:
		return nil, outcome.RetryAfter(r.decision.wait, errors.New("rotation is not as the event left it yet: waiting for KMS to become consistent"))
	case rotationOn, rotationNotRequired:
		return nil, nil
	case rotationBlocked:
		if !r.harm {
			return nil, nil
		}
	case rotationRestore, rotationRequired, rotationShorten:
		if c.Config.Rotation == reaction.Enforce {
			d.Act, d.Told = r.turnOn, c.SweepTold(r.repair)
		}
	case rotationFlapping:
		d.Told = c.CircuitTold(ledger.ReactionRotation, r.breaker)
	case rotationHeld:
		c.Await(ctx, "that the key was rotating")
	case rotationRepaired, rotationExempt, rotationLonger:
	}
	return d, nil
}

// decide reads the key and its document, decides, and notes what is about to be done.
func (r *rotationCase) decide(ctx context.Context) (err error) {
	if r.key, err = r.Key(ctx); err != nil {
		return err
	}
	if r.blocker = r.key.RotationBlocker(); r.blocker == "" {
		if r.status, err = r.Rotation(ctx); err != nil {
			return err
		}
	}
	if r.blocker == "" && (!r.status.Enabled || r.lengthens) {
		cause := func(k *ledger.Key) *ledger.Party { return k.Rotation.Cause(r.Event) }
		if r.exemption, err = r.Exempt(ctx, alert.KindRotation, cause); err != nil {
			return err
		}
	}
	doc, err := r.Ledger(ctx)
	if err != nil {
		return err
	}
	if r.blocker == "" && doc.Rotation.Outdates(r.status.Enabled, r.At) {
		return reaction.ErrOutdated
	}
	r.See(doc, r.key)
	if r.blocker == "" {
		doc.Rotation.See(r.status.Enabled, r.status.Period, r.At, r.Event.ID)
	}
	if r.harm {
		doc.Rotation.NoteOff(r.Event, r.status.Enabled)
	}
	enforce := r.Config.Rotation == reaction.Enforce
	if enforce {
		r.breaker = doc.Breaker(ledger.ReactionRotation, r.Event, r.Config.FlapLimit, r.At)
	}
	r.decision = decideRotation(rotationInput{
		blocker: r.blocker, on: r.status.Enabled, livePeriod: r.status.Period, facts: doc.Rotation, harm: r.harm, lengthen: r.lengthens,
		longer: doc.Rotation.LongerBy == r.Event.ID,
		mine:   doc.RepairOf(ledger.ReactionRotation, r.Event.ID) != nil,
		since:  len(doc.RepairsSince(ledger.ReactionRotation, r.Event.ID, r.Event.Time)) > 0,
		around: len(r.repairsAround(doc)) > 0,
		at:     r.Event.Time, now: r.At, period: r.Config.Posture.RotationPeriodDays, required: r.Config.Posture.RotationRequired,
		claimed: r.Event.Claimed, exempt: r.exemption.Holds, breaker: r.breaker,
	})
	r.repair = ledger.Repair{
		Reaction: ledger.ReactionRotation, By: r.Event.ID, Alert: cmp.Or(doc.Rotation.OffBy, r.Event.ID), At: r.At, Against: doc.Rotation.Cause(r.Event),
	}
	if r.harm { // also where another call turned it off before: who else calls is told, too
		r.repair.Alert = r.Event.ID
	}
	switch {
	case r.decision.reason == rotationFlapping:
		doc.OpenCircuit(ledger.ReactionRotation, r.Event.ID, r.At)
	case enforce && r.decision.turnsOn():
		doc.Intend(reaction.EnableKeyRotation, r.repair)
		r.NoteUntold(doc, r.repair, r.repair.Alert+"/rotation")
	}
	return nil
}

// turnOn enables rotation, checks that it is on, and notes it.
func (r *rotationCase) turnOn(ctx context.Context) error {
	period := r.decision.period
	r.failure = r.Perform(ctx, reaction.EnableKeyRotation, r.repair, func(ctx context.Context) (middleware.Metadata, error) {
		out, err := r.KMS.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{
			KeyId: aws.String(r.key.ARN), RotationPeriodInDays: aws.Int32(int32(period)), //nolint:gosec // at most 2560
		})
		if err != nil {
			return middleware.Metadata{}, err
		}
		return out.ResultMetadata, nil
	})
	var at time.Time
	if r.failure == nil {
		r.failure = reaction.ReadBack(ctx, "rotation of key "+r.key.ARN, func(ctx context.Context) (bool, error) {
			at = ledger.Now()
			var err error
			r.status, err = r.RotationAgain(ctx)
			return r.status.Enabled && (r.decision.reason != rotationShorten || r.status.Period <= period), err
		})
	}
	if r.failure == nil {
		r.failure = r.Update(ctx, func(k *ledger.Key) { k.Rotation.See(true, r.status.Period, at, r.repair.By) })
	}
	return r.failure
}

// unread reacts to a key that cannot be read, or whose document cannot.
func (r *rotationCase) unread(ctx context.Context, err error) (*reaction.Decision, error) {
	switch {
	case errors.Is(err, reaction.ErrOutdated):
		return nil, r.ReadAgain()
	case errors.Is(err, inventory.ErrNotFound) && !r.IsSweep():
		return r.Gone(ctx, alert.KindRotation, r.harm)
	case !r.harm:
		return r.Unread(ctx, err)
	}
	return &reaction.Decision{
		Act:    func(context.Context) error { return err },
		Gather: r.GatherNames,
		Tell: func() []alert.Alert {
			a := r.NewAlert(alert.KindRotation, "")
			a.Key = r.Named()
			a.Title = "Rotation of " + reaction.ShortName(a.Key) + " was turned off"
			a.Summary = fmt.Sprintf("%s called DisableKeyRotation. Whether rotation is off now could not be checked.", r.Who())
			a.Risk = rotationRisk
			a.Next = []string{r.KMSCommand("get-key-rotation-status"), r.enableCommand(r.Config.Posture.RotationPeriodDays)}
			return r.Failed(a, r.Config.Rotation, "read the key", err)
		},
	}, nil
}

const rotationRisk = "Without rotation all data stays under one generation of key material, and compliance checks (CIS, Security Hub KMS.4) fail."

func (r *rotationCase) enableCommand(period int) string {
	return r.KMSCommand("enable-key-rotation --rotation-period-in-days %s", command.Number(period))
}

// tell composes the alert about a key's rotation: what was decided, and the result.
func (r *rotationCase) tell() []alert.Alert {
	a, d := r.common(), r.decision
	a.Action.Mode = string(r.Config.Rotation)
	if d.reason != rotationBlocked {
		a.ID = r.repair.Alert + "/rotation"
	}
	switch d.reason {
	case rotationBlocked:
		r.tellBlocked(&a)
	case rotationExempt:
		reaction.TellExempt(&a, r.exemption, r.Config.Rotation)
	case rotationFlapping:
		a.Next = append([]string{r.enableCommand(d.period)}, a.Next...)
		return r.TellFlapping(a, r.Config.Rotation, ledger.ReactionRotation, r.breaker)
	case rotationHeld:
		r.tellHeld(&a)
	case rotationRepaired:
		r.tellDone(&a, r.earlier())
	case rotationLonger:
		a.Action.Status = alert.StatusNone
		a.Action.Description = "cmkeeper leaves the period as it is."
	default:
		return r.tellTurnedOn(a)
	}
	return []alert.Alert{a}
}

// tellHeld says that nothing is changed because of what only a message says.
func (r *rotationCase) tellHeld(a *alert.Alert) {
	a.ID += "/held"
	a.Action.Status = alert.StatusRefused
	a.Action.Description = "cmkeeper has never read that rotation was otherwise, so it changes nothing before CloudTrail shows the call."
	if !r.Awaits() {
		a.ID += "/unconfirmed"
		a.Action.Description = "cmkeeper left rotation as it is: it has never read that it was otherwise, and CloudTrail did not show the call within 15 minutes."
	}
	a.Next = append([]string{"To set it by hand:", r.enableCommand(r.Config.Posture.RotationPeriodDays)}, a.Next...)
}

// tellTurnedOn says that rotation was turned on, or that enforce would, or that it
// failed.
func (r *rotationCase) tellTurnedOn(a alert.Alert) []alert.Alert {
	d, done := r.decision, r.repair
	switch {
	case r.Config.Rotation != reaction.Enforce:
		a.ID += "/" + string(alert.StatusWouldDo)
		a.Action.Status = alert.StatusWouldDo
		a.Action.Description = fmt.Sprintf("Would %s a period of %d days.", d.verb(), d.period)
		a.Next = append([]string{r.enableCommand(d.period)}, a.Next...)
		return []alert.Alert{a}
	case r.failure != nil:
		a.Next = append([]string{r.enableCommand(d.period)}, a.Next...)
		return r.Failed(a, r.Config.Rotation, fmt.Sprintf("%s a period of %d days", d.verb(), d.period), r.failure)
	case r.status.Period != d.period:
		a.Findings = append(a.Findings, finding.Finding{ID: finding.PeriodNotKept, Severity: finding.Medium,
			Message: fmt.Sprintf("A period of %d days was asked for; KMS now shows %d.", d.period, r.status.Period)})
	}
	done.Done = true
	r.tellDone(&a, done)
	return []alert.Alert{a}
}

// repairsAround are the repairs for other occurrences that may have undone what the event
// did.
func (r *rotationCase) repairsAround(doc *ledger.Key) []ledger.Repair {
	return doc.RepairsSince(ledger.ReactionRotation, r.Event.ID, r.Event.Time.Add(-repairSlack))
}

// earlier is the repair that undid what the event did: the one made for it, else the
// last one made around it.
func (r *rotationCase) earlier() ledger.Repair {
	doc := r.Known()
	if mine := doc.RepairOf(ledger.ReactionRotation, r.Event.ID); mine != nil {
		return *mine
	}
	around := r.repairsAround(doc)
	rep := around[len(around)-1] // the decision says that there is one
	rep.Alert = r.Event.ID
	return rep
}

// common is what all alerts about a key's rotation have in common.
func (r *rotationCase) common() alert.Alert {
	doc, reason := r.Known(), r.decision.reason
	a := r.NewAlert(alert.KindRotation, "")
	a.Key, a.Dangers = r.Describe(r.key), []string{posture.DangerRotation}
	a.Severity = finding.High
	a.Risk = rotationRisk
	name := reaction.ShortName(a.Key)
	switch {
	case r.harm:
		a.Title = "Rotation of " + name + " was turned off"
		a.Summary = fmt.Sprintf("%s called DisableKeyRotation.", r.Who())
		a.Next = []string{"If this was intended, agree on it with the key's owner and exempt the key (CMKEEPER_EXEMPTIONS). If not, find out why " + r.Who() + " may call kms:DisableKeyRotation."}
	case r.lengthens && reason != rotationRestore && reason != rotationRequired:
		a.Severity = finding.Medium
		a.Title = fmt.Sprintf("Rotation period of %s was lengthened to %d days", name, r.set)
		a.Summary = fmt.Sprintf("%s called EnableKeyRotation with a period of %d days. The longest allowed period is %d days (CMKEEPER_ROTATION_PERIOD_DAYS).", r.Who(), r.set, r.Config.Posture.RotationPeriodDays)
		a.Next = []string{"If this was intended, agree on it with the key's owner and raise CMKEEPER_ROTATION_PERIOD_DAYS. If not, find out why " + r.Who() + " may call kms:EnableKeyRotation."}
	case reason == rotationLonger:
		// A weaker setting, but one that the operator allows: nobody has to wake up for it.
		a.Severity = finding.Low
		if doc.Rotation.Period > r.Config.Posture.RotationPeriodDays {
			a.Severity = finding.Medium
		}
		a.Title = fmt.Sprintf("Rotation period of %s was lengthened from %d to %d days", name, doc.Rotation.Former, doc.Rotation.Period)
		a.Summary = fmt.Sprintf("cmkeeper noticed this on %s. The longest allowed period is %d days (CMKEEPER_ROTATION_PERIOD_DAYS).", r.Event.Name, r.Config.Posture.RotationPeriodDays)
		a.Next = []string{"If this was not intended, set the former period again:", r.enableCommand(doc.Rotation.Former)}
	case reason == rotationRequired:
		a.Severity = finding.Medium
		a.Title = "Key " + name + " does not rotate"
		a.Summary = "Rotation is off and cmkeeper never saw it on, but it is required (CMKEEPER_ROTATION_REQUIRED)."
		a.Next = []string{"Turn rotation on where the key is created: in its template, or right after CreateKey."}
	default:
		a.Title = "Rotation of " + name + " is off"
		a.Summary = fmt.Sprintf("Rotation was on before and is off now. cmkeeper noticed this when it handled %s; %s", r.Event.Name, reaction.Unreported)
		a.Next = []string{r.TrailCommand()}
	}
	if doc.Rotation.Period > 0 {
		a.Facts = append(a.Facts, alert.Fact{Name: "last known rotation period", Values: []string{fmt.Sprintf("%d days", doc.Rotation.Period)}})
	}
	a.Findings = reaction.Flapping(doc.Flapping(ledger.ReactionRotation, r.Event.ID, r.At), "rotation")
	return a
}

func (r *rotationCase) tellDone(a *alert.Alert, done ledger.Repair) {
	period := r.status.Period
	every := ""
	if period > 0 {
		every = fmt.Sprintf(", every %d days", period)
	}
	a.ID = done.Alert + "/rotation"
	a.Action = alert.Action{Mode: string(reaction.Enforce), Status: alert.StatusDone,
		Description: fmt.Sprintf("Rotation is on%s. cmkeeper set that at %s and read it back.", every, reaction.TimeText(done.At))}
	if !done.Done {
		a.Action.Description = fmt.Sprintf("Rotation is on%s. cmkeeper was interrupted while it set that; either its call or somebody else's took effect.", every)
	}
	if period > r.Config.Posture.RotationPeriodDays {
		a.Findings = append(a.Findings, finding.Finding{ID: finding.PeriodTooLong, Severity: finding.Medium,
			Message: fmt.Sprintf("The period is %d days, longer than the configured %d.", period, r.Config.Posture.RotationPeriodDays)})
	}
}

// tellBlocked says why rotation stays off. The key's state comes back to us as an
// event of its own when it changes.
func (r *rotationCase) tellBlocked(a *alert.Alert) {
	a.ID += "/blocked"
	a.Action.Status = alert.StatusNone
	a.Action.Description = fmt.Sprintf("Rotation was left as it is: %s.", blockerText(r.key, r.blocker))
	switch r.blocker {
	case inventory.BlockedDisabled:
		a.Next = append(a.Next, "Rotation is checked again when the key is enabled.")
	case inventory.BlockedPendingDeletion:
		a.Next = append(a.Next, "AWS restores the rotation setting when the deletion is cancelled. Rotation is checked again when the key is enabled.")
	case inventory.BlockedReplica:
		a.Next = append(a.Next, "Look at the primary key: "+r.key.PrimaryARN)
	default: // the kind of a key does not change
	}
}

func blockerText(key inventory.Key, blocker inventory.Blocker) string {
	switch blocker {
	case inventory.BlockedAWSManaged:
		return "the key belongs to AWS, which rotates it"
	case inventory.BlockedHMAC:
		return "HMAC keys cannot rotate automatically"
	case inventory.BlockedAsymmetric:
		return "asymmetric keys cannot rotate automatically"
	case inventory.BlockedCustomKeyStore:
		return "keys in a custom key store cannot rotate automatically"
	case inventory.BlockedImported:
		return "keys with imported material cannot rotate automatically"
	case inventory.BlockedReplica:
		return "the key is a replica; rotation is a setting of its primary key " + key.PrimaryARN
	case inventory.BlockedDisabled:
		return "the key is disabled"
	case inventory.BlockedPendingDeletion:
		return "the key is pending deletion, where KMS shows rotation as off whatever it was"
	case inventory.BlockedPendingImport:
		return "the key waits for its material to be imported"
	case inventory.BlockedUnavailable:
		return "the key is in state " + key.State
	}
	return string(blocker)
}
