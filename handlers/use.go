package handlers

import (
	"context"
	"errors"
	"fmt"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// uses are the calls that use a key. CloudTrail has them as read-only.
var uses = []string{
	"Decrypt", "Encrypt", "ReEncrypt",
	"GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext",
	"Sign", "Verify", "GenerateMac", "VerifyMac", "DeriveSharedSecret",
}

// isUnusable reports whether a call failed because its key cannot be used.
func isUnusable(e events.Event) bool {
	return e.ErrorCode == "DisabledException" || e.ErrorCode == "KMSInvalidStateException"
}

// useReason names a decision about a failed use of a key.
type useReason string

const (
	useWorks    useReason = "works"    // the key can be used again, or it was not the key's state
	usePending  useReason = "pending"  // the key will be deleted
	useDisabled useReason = "disabled" // somebody disabled it
	useOther    useReason = "other"    // its material or its key store is missing
	useUnread   useReason = "unread"   // its state cannot be read
)

// decideUse decides whether a failed use is told, from the key's live state; ""
// where that may not be read.
func decideUse(state string) (useReason, alert.Severity) {
	switch {
	case state == stateEnabled:
		return useWorks, ""
	case isPending(state):
		return usePending, alert.High
	case state == stateDisabled:
		return useDisabled, alert.Medium
	case state == "":
		return useUnread, alert.Medium
	}
	return useOther, alert.Medium
}

// use tells that somebody needs a key that cannot be used: what nobody knew of
// shows now, while the key can still be saved.
func (r *Router) use(ctx context.Context, e events.Event) error {
	a := r.newAlert(e, alert.KindUse, "")
	a.ID = onceAnHour(e, "use/"+keyID(e.KeyARN))
	if r.told.has(hourOf(e.Time), a.ID) {
		return nil // before the key is read: an application in a loop is many a second
	}
	key, doc, err := r.look(ctx, e)
	if errors.Is(err, inventory.ErrNotFound) {
		return r.gone(ctx, e, alert.KindUse, false)
	}
	if err != nil {
		return err
	}
	reason, severity := decideUse(key.State)
	r.log.DebugContext(ctx, "use decided", "key", e.KeyARN, "event_id", e.ID, "reason", reason)
	if severity == "" {
		return nil
	}
	a.Severity, a.Key = severity, r.describe(ctx, key, doc)
	name := shortName(a.Key)
	a.Title = fmt.Sprintf("Key %s is needed and cannot be used: %s failed", name, e.Name)
	a.Summary = fmt.Sprintf("%s called %s and was turned away (%s). Further failures of the same caller on this key within the hour are not told by themselves.", who(e), e.Name, e.ErrorCode)
	a.Risk = "An application or a service still depends on the key. Whatever it does with it fails until the key can be used again."
	if reason == usePending {
		a.Risk += " When the key is deleted that is for good, and what is encrypted under it is lost."
	}
	a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper tells of failed uses and changes nothing because of them."}
	a.Next = []string{"Find out what " + who(e) + " needs the key for. To make it work again:"}
	a.Next = append(a.Next, r.undoCommands(key, true)...)
	switch reason {
	case useOther:
		a.Next = append(a.Next, "Import the key's material again, or connect its key store; its state says which.")
		fallthrough
	case useUnread:
		a.Next = append(a.Next, r.kmsCommand("describe-key", e.KeyARN))
	case useWorks, usePending, useDisabled:
	}
	a.Facts = append(a.Facts, alert.Fact{Name: "operation", Values: []string{e.Name}})
	if e.ErrorMessage != "" {
		a.Facts = append(a.Facts, alert.Fact{Name: "AWS's answer", Values: []string{e.ErrorMessage}})
	}
	return r.publishOnce(ctx, e, a)
}
