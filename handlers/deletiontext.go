package handlers

import (
	"cmp"
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// undoText says what is done with the key, in the words given.
func undoText(d deletionDecision, cancel, enable, leave string) string {
	switch {
	case d.cancel && d.enable:
		return cancel + " and " + enable + ", as it was Enabled before."
	case d.cancel && d.former == "":
		return cancel + " and " + leave + " Disabled, because what it was before is not known. Enable it if it was in use."
	case d.cancel:
		return cancel + " and " + leave + " Disabled, as it was " + d.former + " before."
	}
	return enable + ", as it was Enabled before."
}

// standText says why nothing is undone.
func standText(reason deletionReason) string {
	switch reason {
	case deletionFirstSeen:
		return "Nothing was undone: this was so when cmkeeper first saw the key, so it may be meant."
	case deletionAccepted:
		return "Nothing was undone: the key was seen in this state in mode observe, so it counts as meant."
	case deletionWasDisabled:
		return "Nothing was undone: the key was Disabled before, too."
	case deletionContained:
		return "Nothing was undone: cmkeeper itself disabled the key, because it was opened to somebody who is not trusted."
	case deletionUnknown:
		return "The key was left Disabled, because what it was before is not known."
	case deletionMaterial:
		return "cmkeeper cannot bring imported key material back."
	case deletionUndone, deletionApproved, deletionExempt, deletionSettling, deletionCancel, deletionEnable, deletionRestore, deletionFlapping:
	}
	return ""
}

// tellUndone is for an event whose effect is not there any more: we undid it in
// an earlier try, or somebody else did.
func tellUndone(a *alert.Alert, doc keyDoc, e events.Event, key inventory.Key) {
	since := doc.repairsSince(reactionDeletion, "", e.Time)
	if mine := doc.repairOf(reactionDeletion, e.ID); mine != nil {
		since = []repair{*mine}
	}
	if len(since) > 0 && since[len(since)-1].Done {
		a.Action.Status = alert.StatusDone
		a.Action.Description = fmt.Sprintf("cmkeeper undid it at %s; the key is %s now.", since[len(since)-1].At.UTC().Format(time.DateTime+" MST"), key.State)
		return
	}
	a.Severity = alert.Medium
	a.Action.Description = fmt.Sprintf("There is nothing to undo: the key is %s.", key.State)
}

func (r *Router) undoCommands(key inventory.Key, enable bool) []string {
	var next []string
	if key.PendingDeletion() {
		next = append(next, r.kmsCommand("cancel-key-deletion", key.ARN))
	}
	if enable && (key.PendingDeletion() || key.State == stateDisabled) {
		next = append(next, r.kmsCommand("enable-key", key.ARN))
	}
	return next
}

// deletionAlert is what all alerts about a key that may be lost have in common.
// The deletion date is the live one, never the record's text.
func (r *Router) deletionAlert(e events.Event, key inventory.Key, shown *alert.Key) alert.Alert {
	a := r.newAlert(e, alert.KindDeletion, "")
	a.Severity, a.Key = alert.Critical, shown
	name := shortName(shown)
	switch {
	case isMaterialLoss(e.Name):
		a.Title = "The imported key material of " + name + " is gone"
		a.Summary = who(e) + " called DeleteImportedKeyMaterial. The key cannot be used until the same material is imported again."
		if e.Name != "DeleteImportedKeyMaterial" {
			a.Summary = "The material reached its expiry date. The key cannot be used until the same material is imported again."
			// CloudTrail and KMS itself both tell of it, each under an id of its own.
			if m, ok := e.Detail.(events.KeyMaterial); ok {
				a.ID = fmt.Sprintf("expired/%s/%s/%s", keyID(e.KeyARN), m.ID, e.Time.UTC().Format("2006-01-02T15"))
			}
		}
		a.Next = r.importAgain(key.ARN)
	case isSweep(e):
		a.Title = fmt.Sprintf("Key %s is %s", name, key.State)
		a.Summary = "The sweep found the key in this state; no event told how it came about."
		a.Next = []string{r.trailCommand(key.ARN)}
	case e.Name == "DisableKey":
		a.Title = "Key " + name + " was disabled"
		a.Summary = who(e) + " called DisableKey. Nothing encrypted under the key can be read while it is disabled."
	case e.Name == "ScheduleKeyDeletion":
		a.Title = "Deletion of key " + name + " was scheduled"
		a.Summary = who(e) + " called ScheduleKeyDeletion." + dateText(key)
	default:
		a.Title = fmt.Sprintf("Key %s: %s", name, e.Name)
		a.Summary = fmt.Sprintf("An event says %s, but the key still exists and is %s.", e.Name, key.State)
	}
	if e.Name == "DisableKey" || e.Name == "ScheduleKeyDeletion" {
		a.Next = []string{fmt.Sprintf("If this was on purpose, agree on it with the key's owner; if not, find out why %s may call kms:%s.", who(e), e.Name)}
	}
	a.Risk = "Everything encrypted under this key is unreadable while the key cannot be used. Once the key is deleted it is lost for good; not even AWS can bring it back."
	return a
}

func dateText(key inventory.Key) string {
	switch {
	case key.DeletionDate != nil:
		return fmt.Sprintf(" When it was read, KMS was to delete the key on %s.", key.DeletionDate.UTC().Format(time.DateTime+" MST"))
	case key.State == statePendingReplica:
		return " KMS would delete the key a waiting period after its last replica is deleted."
	}
	return ""
}

// importAgain is what only the owner of imported material can do.
func (r *Router) importAgain(keyARN string) []string {
	return []string{
		"Import the same key material again from your own copy; AWS has none.",
		r.kmsCommand("get-parameters-for-import", keyARN, "--wrapping-algorithm RSAES_OAEP_SHA_256 --wrapping-key-spec RSA_4096"),
	}
}

// defaultWindow is the waiting period in days where the caller names none.
const defaultWindow = 30

// tellWindow adds the finding that a waiting period is shorter than it has to be.
// Only the event says what it was; no approval makes that a mere note.
func (r *Router) tellWindow(a *alert.Alert, e events.Event) {
	d, ok := e.Detail.(events.ScheduleKeyDeletion)
	days := cmp.Or(d.PendingWindowInDays, defaultWindow)
	if !ok || days >= r.config.DeletionMinWindowDays {
		return
	}
	a.Findings = append(a.Findings, alert.Finding{ID: finding.ShortWindow, Severity: alert.Critical,
		Message: fmt.Sprintf("The waiting period is %d days, and has to be %d at least: that leaves less time to notice who still needs the key.", days, r.config.DeletionMinWindowDays)})
	if !a.Severity.AtLeast(alert.High) {
		a.Severity = alert.High
	}
}
