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
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// rotationReason names a decision about a key's rotation.
type rotationReason string

const (
	// Nothing to do.
	rotationOn          rotationReason = "on"           // it is on
	rotationNotRequired rotationReason = "not-required" // never seen rotating, and the operator does not require it
	rotationSettling    rotationReason = "settling"     // the read may be older than the event
	// Nothing to do but to tell.
	rotationRepaired rotationReason = "repaired" // we turned it on again since the event
	rotationBlocked  rotationReason = "blocked"  // the key cannot rotate, or not now
	rotationExempt   rotationReason = "exempt"   // an exemption covers it
	rotationFlapping rotationReason = "flapping" // it was turned on too often
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
	facts      rotationFacts
	// harm: the event itself says that rotation was turned off.
	harm bool
	// lengthen: the event itself set a longer period than the operator's.
	lengthen bool
	// mine is our repair for this very occurrence, from an earlier try; since
	// are those for others made since the event; recent those within the
	// flapping window.
	mine          *repair
	since, recent []repair
	at, now       time.Time // of the event, and of the read
	period        int       // the configured one
	required      bool
	exempt        bool
	fight         fight // fightNone where nothing is put back in this mode
}

type rotationDecision struct {
	reason rotationReason
	period int           // to be set
	wait   time.Duration // with settling
	// flapping is how many repairs were made within the hour before this one.
	flapping int
	// fight is how it stands where it is left to one.
	fight fight
}

// turnOn reports whether rotation is to be turned on, or its period set, now.
func (d rotationDecision) turnOn() bool {
	return d.reason == rotationRestore || d.reason == rotationRequired || d.reason == rotationShorten
}

// verb is what is to be done, in the words before "a period of 365 days".
func (d rotationDecision) verb() string {
	if d.reason == rotationShorten {
		return "set"
	}
	return "turn rotation on with"
}

// decideRotation decides what is to be done about a key's rotation.
func decideRotation(in rotationInput) rotationDecision {
	d := rotationDecision{flapping: len(in.recent)}
	age := in.now.Sub(in.at)
	harm := in.harm || in.lengthen
	long := in.on && in.lengthen && in.livePeriod > in.period
	switch {
	case in.blocker != "":
		d.reason = rotationBlocked
	case long && in.exempt:
		d.reason = rotationExempt
	case long && in.fight != fightNone:
		d.reason, d.fight = rotationFlapping, in.fight
	case long:
		d.reason = rotationShorten
	case in.on && (in.mine != nil || harm && len(in.since) > 0):
		d.reason = rotationRepaired
	case in.on && harm && age >= 0 && age < settling:
		d.reason, d.wait = rotationSettling, settling-age
	case in.on:
		d.reason = rotationOn
	case !in.facts.Seen && !in.required:
		d.reason = rotationNotRequired
	case in.exempt:
		d.reason = rotationExempt
	case in.fight != fightNone:
		d.reason, d.fight = rotationFlapping, in.fight
	case in.facts.Seen:
		d.reason = rotationRestore
	default:
		d.reason = rotationRequired
	}
	// The former period comes back, but never a longer one than the operator's:
	// whoever turned rotation off may have set it to seven years before.
	d.period = in.period
	if in.facts.Period > 0 {
		d.period = min(d.period, in.facts.Period)
	}
	return d
}

const (
	reactionRotation  = "rotation"
	opDisableRotation = "DisableKeyRotation"
)

// rotation keeps automatic rotation on.
func (r *Router) rotation(ctx context.Context, e events.Event) error {
	harm := e.Name == opDisableRotation
	at := now()
	key, err := r.facts.Key(ctx, e.KeyARN)
	if err != nil {
		return r.rotationUnread(ctx, e, harm, err)
	}
	return r.keepRotating(ctx, e, key, at)
}

// kmsPeriodDays is the period of a key whose caller names none.
const kmsPeriodDays = 365

// lengthens reports whether the event itself says that a longer period was set
// than the operator's.
func (r *Router) lengthens(e events.Event) bool {
	set, ok := e.Detail.(events.EnableKeyRotation)
	return ok && cmp.Or(set.RotationPeriodInDays, kmsPeriodDays) > r.config.RotationPeriodDays
}

// keepRotating decides, turns rotation on where that is to be done, and tells.
func (r *Router) keepRotating(ctx context.Context, e events.Event, key inventory.Key, at time.Time) error {
	harm := e.Name == opDisableRotation
	blocker := key.RotationBlocker()
	var status inventory.Rotation
	if blocker == "" {
		var err error
		if status, err = r.facts.Rotation(ctx, key.ARN); err != nil {
			return r.rotationUnread(ctx, e, harm, err)
		}
	}
	var exemption judgement.Exemption
	var exempt bool
	if blocker == "" && (!status.Enabled || r.lengthens(e)) {
		var err error
		if exemption, exempt, err = r.exempt(ctx, e, alert.KindRotation, key.ARN); err != nil {
			return r.rotationUnread(ctx, e, harm, err)
		}
	}
	var d rotationDecision
	var rep repair
	var outdated bool
	doc, err := r.updateKey(ctx, key.ARN, func(doc *keyDoc) {
		if outdated = blocker == "" && doc.Rotation.outdates(status, at); outdated {
			return
		}
		doc.see(key, at, r.config.Deletion)
		if blocker == "" {
			doc.Rotation.see(status, at, e.ID)
		}
		if harm {
			// A successful DisableKeyRotation is proof that it was on.
			doc.Rotation.Seen = true
			if !status.Enabled {
				doc.Rotation.OffBy, doc.Rotation.Off = e.ID, doc.Rotation.Off.newer(partyOf(e))
			}
		}
		in := r.rotationInput(*doc, e, harm, blocker, status, at)
		in.exempt = exempt
		if r.config.Rotation == Enforce {
			in.fight = doc.fight(reactionRotation, e, r.config.FlapLimit, at)
		}
		d = decideRotation(in)
		rep = repair{Reaction: reactionRotation, By: e.ID, Alert: cmp.Or(doc.Rotation.OffBy, e.ID), At: at, Against: doc.culprit(alert.KindRotation, e)}
		switch {
		case d.reason == rotationFlapping:
			doc.standBack(reactionRotation, e, at)
		case r.config.Rotation == Enforce && d.turnOn():
			doc.intend(opEnableRotation, rep)
		}
	})
	switch {
	case err != nil:
		return r.rotationUnread(ctx, e, harm, err)
	case outdated && isSweep(e):
		return nil // whoever has seen it on has dealt with it
	case outdated:
		return outcome.RetryAfter(time.Second, errors.New("rotation was seen on after it was read: it is read again"))
	}
	r.log.DebugContext(ctx, "rotation decided", "key", key.ARN, "event_id", e.ID, "reason", d.reason, "blocker", blocker)

	switch a := r.rotationAlert(ctx, e, harm, key, doc, d); d.reason {
	case rotationSettling:
		return outcome.RetryAfter(d.wait, errors.New("rotation is not as the event left it: waiting for KMS to agree"))
	case rotationBlocked:
		if !harm {
			return nil
		}
		return r.publish(ctx, rotationBlockedAlert(a, key, blocker, r.config))
	case rotationRepaired:
		return r.publish(ctx, rotationDoneAlert(a, repairToTell(doc, e), status.Period, r.config))
	case rotationExempt:
		a.ID = rep.Alert + "/rotation"
		tellExempt(&a, exemption, r.config.Rotation)
		return r.publish(ctx, a)
	case rotationFlapping:
		a.ID = rep.Alert + "/rotation"
		a.Next = append([]string{r.enableCommand(key.ARN, d.period)}, a.Next...)
		return r.tellFight(ctx, a, e, r.config.Rotation, doc, reactionRotation, d.fight)
	case rotationRestore, rotationRequired, rotationShorten:
		return r.restoreRotation(ctx, a, key.ARN, d, rep)
	case rotationOn, rotationNotRequired:
	}
	return nil
}

// repairToTell is the repair that an event is told to have been undone by: the
// one made for it, else the last one made since.
func repairToTell(doc keyDoc, e events.Event) repair {
	if mine := doc.repairOf(reactionRotation, e.ID); mine != nil {
		return *mine
	}
	since := doc.repairsSince(reactionRotation, e.ID, e.Time)
	rep := since[len(since)-1] // the decision says that there is one
	rep.Alert = e.ID
	return rep
}

// restoreRotation turns rotation on, or tells that enforce would.
func (r *Router) restoreRotation(ctx context.Context, a alert.Alert, keyARN string, d rotationDecision, rep repair) error {
	a.ID = rep.Alert + "/rotation"
	command := r.enableCommand(keyARN, d.period)
	if r.config.Rotation != Enforce {
		a.ID += "/" + string(alert.StatusWouldDo)
		a.Action = alert.Action{Mode: string(r.config.Rotation), Status: alert.StatusWouldDo,
			Description: fmt.Sprintf("Would %s a period of %d days.", d.verb(), d.period)}
		a.Next = append([]string{command}, a.Next...)
		return r.publish(ctx, a)
	}
	period, err := r.turnOn(ctx, keyARN, d, rep)
	if err != nil {
		a.Next = append([]string{command}, a.Next...)
		return r.failed(ctx, a, r.config.Rotation, fmt.Sprintf("%s a period of %d days", d.verb(), d.period), err)
	}
	rep.Done = true
	if period != d.period {
		a.Findings = append(a.Findings, alert.Finding{ID: finding.PeriodNotKept, Severity: alert.Medium,
			Message: fmt.Sprintf("A period of %d days was asked for; KMS now shows %d.", d.period, period)})
	}
	return r.publish(ctx, rotationDoneAlert(a, rep, period, r.config))
}

func (r *Router) enableCommand(keyARN string, period int) string {
	return r.kmsCommand("enable-key-rotation", keyARN, fmt.Sprintf("--rotation-period-in-days %d", period))
}

func (r *Router) rotationInput(doc keyDoc, e events.Event, harm bool, blocker inventory.Blocker, status inventory.Rotation, at time.Time) rotationInput {
	return rotationInput{
		blocker: blocker, on: status.Enabled, livePeriod: status.Period, facts: doc.Rotation, harm: harm, lengthen: r.lengthens(e),
		mine:   doc.repairOf(reactionRotation, e.ID),
		since:  doc.repairsSince(reactionRotation, e.ID, e.Time),
		recent: doc.repairsSince(reactionRotation, e.ID, at.Add(-flappingWindow)),
		at:     e.Time, now: at,
		period: r.config.RotationPeriodDays, required: r.config.RotationRequired,
	}
}

// turnOn enables rotation, checks that it is on, notes it, and returns the
// period that KMS shows.
func (r *Router) turnOn(ctx context.Context, keyARN string, d rotationDecision, rep repair) (int, error) {
	err := r.perform(ctx, keyARN, opEnableRotation, rep, func(ctx context.Context) (middleware.Metadata, error) {
		out, err := r.kms.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{
			KeyId: aws.String(keyARN), RotationPeriodInDays: aws.Int32(int32(d.period)), //nolint:gosec // at most 2560
		})
		if err != nil {
			return middleware.Metadata{}, err
		}
		return out.ResultMetadata, nil
	})
	if err != nil {
		return 0, err
	}
	var status inventory.Rotation
	var at time.Time
	err = confirm(ctx, "rotation of key "+keyARN, func(ctx context.Context) (bool, error) {
		at = now()
		var err error
		status, err = r.facts.Rotation(ctx, keyARN)
		return status.Enabled && (d.reason != rotationShorten || status.Period <= d.period), err
	})
	if err != nil {
		return 0, err
	}
	_, err = r.updateKey(ctx, keyARN, func(doc *keyDoc) { doc.Rotation.see(status, at, rep.By) })
	return status.Period, err
}

// rotationUnread reacts to a key that cannot be read, or whose document cannot.
func (r *Router) rotationUnread(ctx context.Context, e events.Event, harm bool, err error) error {
	if errors.Is(err, inventory.ErrNotFound) {
		return r.gone(ctx, e, alert.KindRotation, harm)
	}
	if !harm && errors.Is(err, inventory.ErrAccessDenied) {
		return r.shutOut(ctx, e, err)
	}
	if !harm {
		return err
	}
	a := r.newAlert(e, alert.KindRotation, "")
	a.Title = "Rotation of key " + keyID(e.KeyARN) + " was turned off"
	a.Summary = fmt.Sprintf("%s called DisableKeyRotation. Whether rotation is off now could not be checked.", who(e))
	a.Risk = rotationRisk
	a.Key = &alert.Key{ARN: e.KeyARN}
	a.Next = []string{
		r.kmsCommand("get-key-rotation-status", e.KeyARN),
		r.enableCommand(e.KeyARN, r.config.RotationPeriodDays),
	}
	return r.failed(ctx, a, r.config.Rotation, "read the key", err)
}

const rotationRisk = "Without rotation all data stays under one generation of key material for ever, and compliance checks (CIS, Security Hub KMS.4) fail."

// rotationAlert is what all alerts about a key's rotation have in common.
func (r *Router) rotationAlert(ctx context.Context, e events.Event, harm bool, key inventory.Key, doc keyDoc, d rotationDecision) alert.Alert {
	a := r.newAlert(e, alert.KindRotation, "")
	switch d.reason {
	case rotationOn, rotationNotRequired, rotationSettling:
		return a // never told
	case rotationBlocked, rotationExempt, rotationRepaired, rotationRestore, rotationRequired, rotationShorten, rotationFlapping:
	}
	a.Key = r.describe(ctx, key, doc)
	a.Severity = alert.High
	a.Risk = rotationRisk
	switch {
	case harm:
		a.Title = "Rotation of " + shortName(a.Key) + " was turned off"
		a.Summary = fmt.Sprintf("%s called DisableKeyRotation.", who(e))
		a.Next = []string{"If this was on purpose, agree on it with the key's owner and exempt the key (CMKEEPER_EXEMPTIONS); if not, find out why " + who(e) + " may call kms:DisableKeyRotation."}
	case r.lengthens(e) && d.reason != rotationRestore && d.reason != rotationRequired:
		a.Severity = alert.Medium
		a.Title = "Rotation of " + shortName(a.Key) + " was made rarer"
		a.Summary = fmt.Sprintf("%s called EnableKeyRotation with a period of more than %d days, the longest that is allowed here.", who(e), r.config.RotationPeriodDays)
		a.Next = []string{"If this was on purpose, agree on it with the key's owner and raise CMKEEPER_ROTATION_PERIOD_DAYS; if not, find out why " + who(e) + " may call kms:EnableKeyRotation."}
	case d.reason == rotationRequired:
		a.Severity = alert.Medium
		a.Title = "Key " + shortName(a.Key) + " does not rotate"
		a.Summary = "Rotation is off, was never seen on, and is required here."
		a.Next = []string{"Turn rotation on where the key is made: in its template, or right after CreateKey."}
	default:
		a.Title = "Rotation of " + shortName(a.Key) + " is off"
		a.Summary = fmt.Sprintf("Rotation was on before and is off now; this was noticed on %s, not by an event of its own.", e.Name)
		a.Next = []string{r.trailCommand(key.ARN)}
	}
	if doc.Rotation.Period > 0 {
		a.Facts = append(a.Facts, alert.Fact{Name: "last known rotation period", Values: []string{fmt.Sprintf("%d days", doc.Rotation.Period)}})
	}
	if d.flapping >= flappingFinding {
		a.Findings = append(a.Findings, flapping(d.flapping, "rotation"))
	}
	return a
}

func rotationDoneAlert(a alert.Alert, rep repair, period int, c Config) alert.Alert {
	a.ID = rep.Alert + "/rotation"
	a.Action = alert.Action{Mode: string(Enforce), Status: alert.StatusDone,
		Description: fmt.Sprintf("Rotation is on%s. cmkeeper set that at %s and read it back.", everyDays(period), rep.At.UTC().Format(time.DateTime+" MST"))}
	if !rep.Done {
		a.Action.Description = fmt.Sprintf("Rotation is on%s. cmkeeper had begun to set that and was interrupted; its call or somebody else's took effect.", everyDays(period))
	}
	if period > c.RotationPeriodDays {
		a.Findings = append(a.Findings, alert.Finding{ID: finding.PeriodTooLong, Severity: alert.Medium,
			Message: fmt.Sprintf("The period is %d days, longer than the configured %d.", period, c.RotationPeriodDays)})
	}
	return a
}

func everyDays(period int) string {
	if period == 0 {
		return ""
	}
	return fmt.Sprintf(", every %d days", period)
}

// rotationBlockedAlert says why rotation stays off. The key's state comes back
// to us as an event of its own when it changes.
func rotationBlockedAlert(a alert.Alert, key inventory.Key, blocker inventory.Blocker, c Config) alert.Alert {
	a.ID += "/blocked"
	a.Action = alert.Action{Mode: string(c.Rotation), Status: alert.StatusNone,
		Description: fmt.Sprintf("Rotation was left as it is: %s.", blockerText(key, blocker))}
	switch blocker {
	case inventory.BlockedDisabled:
		a.Next = append(a.Next, "Rotation needs nothing now: it is turned on when the key is enabled again.")
	case inventory.BlockedPendingDeletion:
		a.Next = append(a.Next, "Rotation needs nothing now: it is looked at again when the deletion is cancelled; AWS itself restores the setting then.")
	case inventory.BlockedReplica:
		a.Next = append(a.Next, "Look at the primary key: "+key.PrimaryARN)
	default: // what the key is does not change
	}
	return a
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
