package handlers

import (
	"fmt"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/inventory"
)

const rotationRisk = "Without rotation all data stays under one generation of key material, and compliance checks (CIS, Security Hub KMS.4) fail."

func (r *rotationCase) enableCommand(period int) string {
	return r.KMSCommand("enable-key-rotation", fmt.Sprintf("--rotation-period-in-days %d", period))
}

// tell tells what was decided about a key's rotation, and what came of it.
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
	case rotationRepaired:
		r.tellDone(&a, r.earlier())
	default:
		return r.tellTurnedOn(a)
	}
	return []alert.Alert{a}
}

// tellTurnedOn tells that rotation was turned on, or that enforce would, or that it
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

// earlier is the repair that undid what the event did: the one made for it, else the
// last one made since.
func (r *rotationCase) earlier() ledger.Repair {
	doc := r.Known()
	if mine := doc.RepairOf(ledger.ReactionRotation, r.Event.ID); mine != nil {
		return *mine
	}
	since := doc.RepairsSince(ledger.ReactionRotation, r.Event.ID, r.Event.Time)
	rep := since[len(since)-1] // the decision says that there is one
	rep.Alert = r.Event.ID
	return rep
}

// common is what all alerts about a key's rotation have in common.
func (r *rotationCase) common() alert.Alert {
	doc, reason := r.Known(), r.decision.reason
	a := r.NewAlert(alert.KindRotation, "")
	a.Key = r.Describe(r.key)
	a.Severity = finding.High
	a.Risk = rotationRisk
	name := reaction.ShortName(a.Key)
	switch {
	case r.harm:
		a.Title = "Rotation of " + name + " was turned off"
		a.Summary = fmt.Sprintf("%s called DisableKeyRotation.", r.Who())
		a.Next = []string{"If this was on purpose, agree on it with the key's owner and exempt the key (CMKEEPER_EXEMPTIONS). If not, find out why " + r.Who() + " may call kms:DisableKeyRotation."}
	case r.lengthens && reason != rotationRestore && reason != rotationRequired:
		a.Severity = finding.Medium
		a.Title = fmt.Sprintf("Rotation period of %s was lengthened to %d days", name, r.set)
		a.Summary = fmt.Sprintf("%s called EnableKeyRotation with a period of %d days. %d is the longest that is allowed here.", r.Who(), r.set, r.Config.RotationPeriodDays)
		a.Next = []string{"If this was on purpose, agree on it with the key's owner and raise CMKEEPER_ROTATION_PERIOD_DAYS. If not, find out why " + r.Who() + " may call kms:EnableKeyRotation."}
	case reason == rotationRequired:
		a.Severity = finding.Medium
		a.Title = "Key " + name + " does not rotate"
		a.Summary = "Rotation is off, was never seen on, and is required here."
		a.Next = []string{"Turn rotation on where the key is made: in its template, or right after CreateKey."}
	default:
		a.Title = "Rotation of " + name + " is off"
		a.Summary = fmt.Sprintf("Rotation was on before and is off now. This was noticed on %s, not by an event of its own.", r.Event.Name)
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
		a.Action.Description = fmt.Sprintf("Rotation is on%s. cmkeeper had begun to set that and was interrupted; its call or somebody else's took effect.", every)
	}
	if period > r.Config.RotationPeriodDays {
		a.Findings = append(a.Findings, finding.Finding{ID: finding.PeriodTooLong, Severity: finding.Medium,
			Message: fmt.Sprintf("The period is %d days, longer than the configured %d.", period, r.Config.RotationPeriodDays)})
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
		a.Next = append(a.Next, "Rotation needs nothing now: it is turned on when the key is enabled again.")
	case inventory.BlockedPendingDeletion:
		a.Next = append(a.Next, "Rotation needs nothing now: it is checked again when the deletion is cancelled. AWS itself restores the setting then.")
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
