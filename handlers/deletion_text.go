package handlers

import (
	"cmp"
	"context"
	"fmt"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/posture"
)

// tell composes the alert about a key that may be lost: what was decided, and the result.
func (d *deletionCase) tell() []alert.Alert {
	a := d.common()
	if d.IsSweep() {
		a.ID = d.sweptID()
	}
	a.Findings = append(a.Findings, reaction.Flapping(d.Known().Flapping(ledger.ReactionDeletion, d.Event.ID, d.At), "state")...)
	a.Action = alert.Action{Mode: string(d.Config.Deletion), Status: alert.StatusNone}
	a.Facts = append(a.Facts, d.dependents...)
	reason, next := d.decision.reason, a.Next
	a.Next = append(d.undoSteps(), next...)
	switch {
	case reason == deletionFlapping:
		return d.TellFlapping(a, d.Config.Deletion, ledger.ReactionDeletion, d.breaker)
	case reason == deletionUndone:
		a.Next = next
		d.tellUndone(&a)
	case reason == deletionExempt:
		reaction.TellExempt(&a, d.exemption, d.Config.Deletion)
		return []alert.Alert{a}
	case !d.decision.acts():
		a.Action.Description = standText(reason)
		if reason == deletionHeld {
			d.tellHeld(&a)
		}
	case !d.enforce:
		a.ID += "/" + string(alert.StatusWouldDo)
		a.Action.Status = alert.StatusWouldDo
		a.Action.Description = "Would " + undoText(d.decision, "cancel the deletion", "enable the key", "leave it")
	case d.failure != nil:
		return d.Failed(a, d.Config.Deletion, "restore the key", d.failure)
	default:
		restored := d.KeyRead()
		a.Next = next
		a.Action.Status = alert.StatusDone
		a.Action.Description = "cmkeeper " + undoText(d.decision, "cancelled the deletion", "enabled the key", "left it") + " The key is " + restored.State + " now, as read back."
		a.Key.State, a.Key.DeletionDate = restored.State, nil
	}
	d.approval.tell(&a, d.Config.DeletionApprovalDays)
	d.tellWindow(&a)
	return []alert.Alert{a}
}

// undoSteps are how to bring the key back by hand. Where somebody may have meant it, they say
// so, and a key that cmkeeper closed is not to be opened again.
func (d *deletionCase) undoSteps() []string {
	steps := d.UndoCommands(d.key.State, d.decision.enable || d.decision.former != ledger.StateDisabled)
	switch {
	case len(steps) == 0:
		return nil
	case d.decision.reason == deletionContained:
		return []string{"Close the key before anybody enables it: the alert about its containment says how it is open."}
	case d.decision.acts() || d.approval.given(): // that says so itself
		return steps
	}
	return append([]string{"If the key is still needed:"}, steps...)
}

// tellHeld is for a deletion that nothing but a message says was scheduled after cmkeeper
// first saw the key.
func (d *deletionCase) tellHeld(a *alert.Alert) {
	a.ID += "/held"
	a.Action.Status = alert.StatusRefused
	if !d.Awaits() {
		a.ID += "/unconfirmed"
		a.Action.Description += " CloudTrail did not show it within 15 minutes, so the deletion was not cancelled."
	}
}

// sweptID is the id of a sweep's alert about the key's state.
func (d *deletionCase) sweptID() string {
	return fmt.Sprintf("sweep/%s/state/%s/%d", arn.KeyID(d.key.ARN), d.state.State, d.state.At.UnixMilli())
}

// undoText says what is done with the key, in the words given.
func undoText(d deletionDecision, cancel, enable, leave string) string {
	switch {
	case d.cancel && d.enable:
		return cancel + " and " + enable + ", as it was Enabled before."
	case d.cancel && d.former == "":
		return cancel + " and " + leave + " Disabled, because its state before is not known. Enable it if it was in use."
	case d.cancel:
		return cancel + " and " + leave + " Disabled, as it was " + d.former + " before."
	}
	return enable + ", as it was Enabled before."
}

// standText says why nothing is undone.
func standText(reason deletionReason) string {
	switch reason {
	case deletionFirstSeen:
		return "cmkeeper did not undo this: the key was in this state when cmkeeper first saw it, so it may be intended."
	case deletionAccepted:
		return "cmkeeper did not undo this: the key was seen in this state in mode observe, so it counts as intended."
	case deletionWasDisabled:
		return "cmkeeper did not undo this: the key was already Disabled before."
	case deletionContained:
		return "cmkeeper did not undo this: cmkeeper itself disabled the key, because it was opened to everyone or to an untrusted account."
	case deletionHeld:
		return "cmkeeper had not seen the key in another state before, so it cancels the deletion only when CloudTrail shows the call."
	case deletionUnknown:
		return "The key was left Disabled, because its state before is not known."
	case deletionMaterial:
		return "cmkeeper cannot restore imported key material."
	default:
		return ""
	}
}

// tellUndone is for an event whose effect is not there any more: we undid it in an
// earlier try, or somebody else did.
func (d *deletionCase) tellUndone(a *alert.Alert) {
	doc := d.Known()
	since := doc.RepairsSince(ledger.ReactionDeletion, "", d.Event.Time)
	if mine := doc.RepairOf(ledger.ReactionDeletion, d.Event.ID); mine != nil {
		since = []ledger.Repair{*mine}
	}
	if n := len(since); n > 0 && since[n-1].Done {
		a.Action.Status = alert.StatusDone
		a.Action.Description = fmt.Sprintf("cmkeeper undid this at %s. The key is %s now.", reaction.TimeText(since[n-1].At), d.key.State)
		return
	}
	a.Severity = finding.Medium
	a.Action.Description = fmt.Sprintf("There is nothing to undo: the key is %s.", d.key.State)
}

// blocked is what is done about a key that cannot be read, or whose document cannot:
// people are alarmed, and the message comes back.
func (d *deletionCase) blocked(what string, cause error, next ...string) *reaction.Decision {
	return &reaction.Decision{
		Act: func(context.Context) error { return cause },
		Tell: func() []alert.Alert {
			a := d.common()
			a.Next = next
			return d.Failed(a, d.Config.Deletion, what, cause)
		},
	}
}

// common is what all alerts about a key that may be lost have in common. The deletion
// date is the live one, never the record's text.
func (d *deletionCase) common() alert.Alert {
	e := d.Event
	a := d.NewAlert(alert.KindDeletion, "")
	a.Severity, a.Key = finding.Critical, d.Describe(d.key)
	a.Dangers = []string{posture.DangerDeletion, posture.DangerDisabled, posture.DangerMaterial}
	name := reaction.ShortName(a.Key)
	switch {
	case isMaterialLoss(e.Name):
		a.Title = "Imported key material of " + name + " was deleted"
		a.Summary = d.Who() + " called DeleteImportedKeyMaterial. The key cannot be used until the same material is imported again."
		if e.Name != "DeleteImportedKeyMaterial" {
			a.Title = "Imported key material of " + name + " expired"
			a.Summary = "The material reached its expiry date. The key cannot be used until the same material is imported again."
			// CloudTrail and KMS itself both report it, each under an id of its own.
			if m, ok := e.Detail.(events.KeyMaterial); ok {
				a.ID = fmt.Sprintf("expired/%s/%s/%s", arn.KeyID(e.KeyARN), m.ID, e.Time.UTC().Format("2006-01-02T15"))
			}
		}
		a.Next = d.ImportAgain()
	case d.IsSweep():
		a.Title = fmt.Sprintf("Key %s is %s", name, d.key.State)
		a.Summary = "The sweep found the key in this state; " + reaction.Unreported
		a.Next = []string{d.TrailCommand()}
	case e.Name == "DisableKey":
		a.Title = "Key " + name + " was disabled"
		a.Summary = d.Who() + " called DisableKey. Nothing encrypted under the key can be read while it is disabled."
	case e.Name == "ScheduleKeyDeletion":
		a.Title = "Deletion of key " + name + " was scheduled"
		a.Summary = d.Who() + " called ScheduleKeyDeletion." + d.dateText()
	default:
		a.Title = fmt.Sprintf("Key %s still exists, despite the event %s", name, e.Name)
		a.Summary = fmt.Sprintf("An event says %s, but the key still exists and is %s.", e.Name, d.key.State)
	}
	if e.Name == "DisableKey" || e.Name == "ScheduleKeyDeletion" {
		a.Next = []string{fmt.Sprintf("If this was intended, agree on it with the key's owner. If not, find out why %s may call kms:%s.", d.Who(), e.Name)}
	}
	a.Risk = "Everything encrypted under this key is unreadable while the key cannot be used. Once the key is deleted it is lost for good; not even AWS can bring it back."
	return a
}

func (d *deletionCase) dateText() string {
	switch {
	case d.key.DeletionDate != nil:
		return fmt.Sprintf(" The deletion date was %s when the key was read.", reaction.TimeText(*d.key.DeletionDate))
	case d.key.State == ledger.StatePendingReplicaDeletion:
		return " KMS deletes a primary key only after a waiting period that begins after its last replica is deleted."
	}
	return ""
}

// defaultWindow is the waiting period in days where the caller names none.
const defaultWindow = 30

// tellWindow adds the finding that a waiting period is shorter than it has to be. Only
// the event says what it was; no approval makes that a mere note.
func (d *deletionCase) tellWindow(a *alert.Alert) {
	scheduled, ok := d.Event.Detail.(events.ScheduleKeyDeletion)
	days, least := cmp.Or(scheduled.PendingWindowInDays, defaultWindow), d.Config.DeletionMinWindowDays
	if !ok || days >= least {
		return
	}
	a.Findings = append(a.Findings, finding.Finding{ID: finding.ShortWindow, Severity: finding.Critical,
		Message: fmt.Sprintf("The waiting period is %d days, shorter than the required %d (CMKEEPER_DELETION_MIN_WINDOW_DAYS). That leaves less time to notice who still needs the key.", days, least)})
	if !a.Severity.AtLeast(finding.High) {
		a.Severity = finding.High
	}
}

// gone reacts to an event about a key that does not exist. Deletions are alerted once per
// key, whichever of CloudTrail's and KMS's own events come.
func (d *deletionCase) gone(ctx context.Context) (*reaction.Decision, error) {
	switch {
	case d.IsSweep():
		return nil, nil // deleted since it was listed
	case d.Event.Name != "DeleteKey" && d.Event.Name != events.NativeDeletion:
		return d.Gone(ctx, alert.KindDeletion, true)
	}
	if _, err := d.Ledger(ctx); err != nil {
		d.Log().WarnContext(ctx, "document of a deleted key cannot be read", "error", err)
	}
	record, err := d.Approval(ctx)
	if err != nil {
		d.Log().WarnContext(ctx, "approval of a deletion cannot be read", "error", err)
	}
	return &reaction.Decision{Tell: func() []alert.Alert {
		doc := d.Known()
		a := d.GoneAlert(alert.KindDeletion)
		a.ID = "deleted/" + arn.KeyID(d.Event.KeyARN)
		a.Severity = finding.Critical
		a.Title = "Key " + reaction.ShortName(a.Key) + " was deleted"
		a.Summary = "AWS deleted the key when its waiting period was over. The alert about ScheduleKeyDeletion and CloudTrail show who scheduled it."
		a.Risk = "Everything that was encrypted under this key and not re-encrypted before is lost for good."
		noted, last := notedApproval(doc, d.Config.DeletionApprovalDays), doc.LastState()
		switch {
		case record != nil && record.Covers(&d.Event.Time):
			a.Severity = finding.Medium
			a.Title += ", as approved"
			a.Summary = fmt.Sprintf("AWS deleted the key when its waiting period was over. %s approved that at %s.", record.By, reaction.TimeText(record.At))
		case noted.given():
			a.Severity = finding.Medium
			a.Title += ", as approved"
			a.Summary = fmt.Sprintf("AWS deleted the key when its waiting period was over. The key's tag %s=%s approved that.", approvalTag, noted.value)
		case last != nil && ledger.IsPending(last.State) && last.Exempt != "":
			a.Severity = finding.Info
			a.Title += ", exempt"
			a.Summary = "AWS deleted the key when its waiting period was over. cmkeeper had not cancelled the deletion, because it was exempt."
			a.Facts = append(a.Facts, alert.Fact{Name: "exemption", Values: []string{last.Exempt}})
		}
		return []alert.Alert{a}
	}}, nil
}
