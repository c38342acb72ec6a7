package handlers

import (
	"context"
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// dueReminder returns the most urgent reminder that is due: how long before the
// end it was to be told. What was due already at since is not: the alarm of that
// time stands for it. A sweep that is late thus tells one reminder, not all that
// it missed.
func dueReminder(before []time.Duration, end, since, now time.Time) (due time.Duration, ok bool) {
	for _, b := range before {
		at := end.Add(-b)
		if at.After(since) && !at.After(now) && (!ok || b < due) {
			due, ok = b, true
		}
	}
	return due, ok
}

// remind counts down to what a sweep sees coming: the deletion of a key, and the
// expiry of its imported material. There are no timers: each reminder is told
// by the first sweep after its time, once per fleet, since its ID says of which
// end it is and how long before.
func (r *Router) remind(ctx context.Context, e events.Event, key inventory.Key, at time.Time) error {
	switch {
	case key.PendingDeletion():
		return r.remindOfDeletion(ctx, e, key, at)
	case key.MaterialExpires != nil:
		return r.remindOfExpiry(ctx, e, key, at)
	}
	return nil
}

// remindOfDeletion reminds of a deletion that nobody approved by a check.
func (r *Router) remindOfDeletion(ctx context.Context, e events.Event, key inventory.Key, at time.Time) error {
	if key.DeletionDate == nil { // a primary waits for its replicas, and has no date until then
		return nil
	}
	doc, err := r.knownKey(ctx, key.ARN)
	if err != nil {
		return err
	}
	n := len(doc.States)
	if n == 0 || doc.States[n-1].State != key.State { // it was brought back since it was read
		return nil
	}
	pending := doc.States[n-1]
	before, due := dueReminder(r.config.DeletionReminders, *key.DeletionDate, pending.At, at)
	id := reminderID(key, "deletion", *key.DeletionDate, before)
	if !due || doc.Reminded == id {
		return nil
	}
	approval, err := r.readApproval(ctx, key)
	if err != nil {
		return err
	}
	if approval = approval.judge(doc, r.config.DeletionApprovalDays); approval.record != nil {
		return nil
	}
	exemption, exempt, err := r.exempt(ctx, e, alert.KindDeletion, key.ARN)
	if err != nil {
		return err
	}
	a := r.deletionAlert(e, key, r.describe(ctx, key, doc))
	a.ID, a.Severity = id, reminderSeverity(before)
	a.Title = fmt.Sprintf("Key %s will be deleted in %s", shortName(a.Key), span(key.DeletionDate.Sub(at)))
	a.Summary = fmt.Sprintf("This is a reminder. KMS will delete the key on %s. It was first seen %s at %s.",
		timeText(*key.DeletionDate), key.State, timeText(pending.At))
	if pending.Of != nil {
		a.Summary += fmt.Sprintf(" %s scheduled that.", pending.Of.Name)
	}
	a.Action = alert.Action{Mode: string(r.config.Deletion), Status: alert.StatusNone, Description: "What cmkeeper does about the deletion itself is in the alert about it; it is still pending."}
	a.Next = append(r.undoCommands(key, true), a.Next...)
	r.addBlast(ctx, &a, key, at)
	if exempt {
		tellExempt(&a, exemption, r.config.Deletion)
	}
	approval.tell(&a, r.config.DeletionApprovalDays)
	return r.reminded(ctx, a, id)
}

// remindOfExpiry reminds of imported material that is about to expire.
func (r *Router) remindOfExpiry(ctx context.Context, e events.Event, key inventory.Key, at time.Time) error {
	before, due := dueReminder(r.config.DeletionReminders, *key.MaterialExpires, time.Time{}, at)
	if !due {
		return nil
	}
	id := reminderID(key, "expiry", *key.MaterialExpires, before)
	doc, err := r.knownKey(ctx, key.ARN)
	if err != nil || doc.Reminded == id {
		return err
	}
	a := r.newAlert(e, alert.KindDeletion, "")
	a.ID, a.Severity = id, reminderSeverity(before)
	a.Key = r.describe(ctx, key, doc)
	a.Title = fmt.Sprintf("Imported key material of %s expires in %s", shortName(a.Key), span(key.MaterialExpires.Sub(at)))
	a.Summary = fmt.Sprintf("This is a reminder. KMS deletes the key's imported material on %s.", timeText(*key.MaterialExpires))
	a.Risk = "From then on nothing encrypted under the key can be read, until the same material is imported again. AWS has no copy of it."
	a.Action = alert.Action{Mode: string(r.config.Deletion), Status: alert.StatusNone, Description: "cmkeeper has no key material to import."}
	a.Next = r.importAgain(key.ARN)
	r.addBlast(ctx, &a, key, at)
	return r.reminded(ctx, a, id)
}

// reminded tells a reminder and notes that, so that the next sweeps need not look
// again what hangs on the key.
func (r *Router) reminded(ctx context.Context, a alert.Alert, id string) error {
	if err := r.publish(ctx, a); err != nil {
		return err
	}
	_, err := r.updateKey(ctx, a.Key.ARN, func(doc *keyDoc) { doc.Reminded = id })
	return err
}

// reminderID is the same for all sweeps that tell of an end as long before it.
func reminderID(key inventory.Key, what string, end time.Time, before time.Duration) string {
	return fmt.Sprintf("sweep/%s/%s/%d/%s", keyID(key.ARN), what, end.Unix(), before)
}

// reminderSeverity rises on the last day.
func reminderSeverity(before time.Duration) alert.Severity {
	if before <= 24*time.Hour {
		return alert.Critical
	}
	return alert.High
}

// span says how long something still takes, in days and hours.
func span(d time.Duration) string {
	hours := int(d / time.Hour)
	switch {
	case d <= 0:
		return "no time"
	case hours == 0:
		return "less than an hour"
	case hours < 48:
		return fmt.Sprintf("%d hours", hours)
	}
	return fmt.Sprintf("%d days and %d hours", hours/24, hours%24)
}
