package handlers

import (
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/retire"
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

// tellApproved is for a deletion that somebody approved: no alarm, but still told.
func tellApproved(a *alert.Alert, approval retire.Approval) {
	a.Severity = alert.Medium
	a.Title += ", as approved"
	a.Summary += fmt.Sprintf(" %s approved it at %s with a waiting period of %d days.", approval.By, approval.At.UTC().Format(time.DateTime+" MST"), approval.Days)
	if len(approval.Accepted) > 0 {
		a.Facts = append(a.Facts, alert.Fact{Name: "not known, and accepted by the approval", Values: approval.Accepted})
	}
	a.Next = append([]string{"Watch CloudTrail for KMSInvalidStateException on this key until then: a use that nobody knew of shows as that. To keep the key:"}, a.Next...)
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
	case deletionUnknown:
		return "The key was left Disabled, because what it was before is not known."
	case deletionApproved:
		return "Nothing was undone: cmkeeper retire schedule found the key free and recorded this deletion before it was scheduled."
	case deletionMaterial:
		return "cmkeeper cannot bring imported key material back."
	case deletionUndone, deletionExempt, deletionSettling, deletionCancel, deletionEnable, deletionRestore, deletionFlapping:
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
		a.Next = []string{
			"Import the same key material again from your own copy; AWS has none.",
			r.kmsCommand("get-parameters-for-import", key.ARN, "--wrapping-algorithm RSAES_OAEP_SHA_256 --wrapping-key-spec RSA_4096"),
		}
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
