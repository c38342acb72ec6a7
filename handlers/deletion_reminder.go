package handlers

import (
	"context"
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/posture"
)

// reminder counts down to what a sweep sees coming: the deletion of a key, and the
// expiry of its imported material. There are no timers: each reminder is published by
// the first sweep after its time, once per fleet, since its ID says of which end it is
// and how long before.
func reminder(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	key, err := c.Key(ctx)
	switch {
	case err != nil:
		return nil, nil //nolint:nilerr // the deletion reaction alerts about it
	case key.PendingDeletion() && key.DeletionDate != nil: // a primary waits for its replicas, and has no date until then
		return remindOfDeletion(ctx, c, key)
	case !key.PendingDeletion() && key.MaterialExpires != nil:
		return remindOfExpiry(ctx, c, key)
	}
	return nil, nil
}

// remindOfDeletion reminds of a deletion that nobody approved by a check.
func remindOfDeletion(ctx context.Context, c *reaction.Case, key inventory.Key) (*reaction.Decision, error) {
	doc, err := c.Ledger(ctx)
	if err != nil {
		return nil, err
	}
	s := doc.LastState()
	if s == nil || s.State != key.State { // it was brought back since it was read
		return nil, nil
	}
	pending := *s
	before, due := dueReminder(c.Config.DeletionReminders, *key.DeletionDate, pending.At, c.At)
	id := reminderID(key, "deletion", *key.DeletionDate, before)
	if !due || doc.Reminded == id {
		return nil, nil
	}
	approved, err := readApproval(ctx, c, key)
	if err != nil {
		return nil, err
	}
	if approved = approved.judge(doc, c.Config.DeletionApprovalDays); approved.record != nil {
		return nil, nil
	}
	exemption, err := c.Exempt(ctx, alert.KindDeletion, func(k *ledger.Key) *ledger.Party { return k.StateCause(c.Event) })
	if err != nil {
		return nil, err
	}
	return reminding(c, key, id, func(dependents []alert.Fact) []alert.Alert {
		if c.Known().LastState().State != key.State {
			return nil // it was brought back
		}
		d := &deletionCase{Case: c, key: key}
		a := d.common()
		a.ID, a.Severity, a.Dangers = id, reminderSeverity(before), nil // the alert about the deletion told of it
		a.Title = fmt.Sprintf("Key %s will be deleted in %s", reaction.ShortName(a.Key), span(key.DeletionDate.Sub(c.At)))
		a.Summary = fmt.Sprintf("This is a reminder. KMS will delete the key on %s. It was first seen %s at %s.",
			reaction.TimeText(*key.DeletionDate), key.State, reaction.TimeText(pending.At))
		if pending.Of != nil {
			a.Summary += fmt.Sprintf(" It was scheduled by %s.", pending.Of.Name)
		}
		a.Action = alert.Action{Mode: string(c.Config.Deletion), Status: alert.StatusNone, Description: "The deletion is still pending. The alert about the deletion says what cmkeeper did."}
		a.Next = append(append([]string{"If the key is still needed:"}, c.UndoCommands(key.State, true)...), a.Next...)
		a.Facts = append(a.Facts, dependents...)
		if exemption.Holds {
			reaction.TellExempt(&a, exemption, c.Config.Deletion)
		}
		approved.tell(&a, c.Config.DeletionApprovalDays)
		return []alert.Alert{a}
	}), nil
}

// remindOfExpiry reminds of imported material that is about to expire.
func remindOfExpiry(ctx context.Context, c *reaction.Case, key inventory.Key) (*reaction.Decision, error) {
	before, due := dueReminder(c.Config.DeletionReminders, *key.MaterialExpires, time.Time{}, c.At)
	if !due {
		return nil, nil
	}
	id := reminderID(key, "expiry", *key.MaterialExpires, before)
	doc, err := c.Ledger(ctx)
	if err != nil || doc.Reminded == id {
		return nil, err
	}
	d := reminding(c, key, id, func(dependents []alert.Fact) []alert.Alert {
		a := c.NewAlert(alert.KindDeletion, "")
		a.ID, a.Severity = id, reminderSeverity(before)
		a.Key, a.Dangers = c.Describe(key), []string{posture.DangerExpiry}
		a.Title = fmt.Sprintf("Imported key material of %s expires in %s", reaction.ShortName(a.Key), span(key.MaterialExpires.Sub(c.At)))
		a.Summary = fmt.Sprintf("This is a reminder. KMS deletes the key's imported material on %s.", reaction.TimeText(*key.MaterialExpires))
		a.Risk = "From then on, nothing encrypted under the key can be read until the same material is imported again. AWS has no copy of it."
		a.Action = alert.Action{Mode: string(c.Config.Deletion), Status: alert.StatusNone, Description: "cmkeeper has no key material to import."}
		a.Next = c.ImportAgain()
		a.Facts = append(a.Facts, dependents...)
		return []alert.Alert{a}
	})
	d.Tells = reaction.Reminds
	return d, nil
}

// reminding publishes a reminder and notes that, so that the next sweeps need not look
// again what depends on the key.
func reminding(c *reaction.Case, key inventory.Key, id string, tell func(dependents []alert.Fact) []alert.Alert) *reaction.Decision {
	var dependents []alert.Fact
	published := false
	return &reaction.Decision{
		Gather: func(ctx context.Context) { dependents = c.Dependents(ctx, key) },
		Tell: func() []alert.Alert {
			alerts := tell(dependents)
			published = len(alerts) > 0
			return alerts
		},
		Told: reaction.Told{Key: func(k *ledger.Key) {
			if published {
				k.Reminded = id
			}
		}},
	}
}

// reminderID is the same for all sweeps that remind of an end as long before it.
func reminderID(key inventory.Key, what string, end time.Time, before time.Duration) string {
	return fmt.Sprintf("sweep/%s/%s/%d/%s", arn.KeyID(key.ARN), what, end.Unix(), before)
}

// dueReminder returns the most urgent reminder that is due: how long before the end it
// was to be published. What was due already at since is not: the alarm of that time
// stands for it. A sweep that is late thus makes one reminder, not all that it missed.
func dueReminder(before []time.Duration, end, since, now time.Time) (due time.Duration, ok bool) {
	for _, b := range before {
		at := end.Add(-b)
		if at.After(since) && !at.After(now) && (!ok || b < due) {
			due, ok = b, true
		}
	}
	return due, ok
}

// reminderSeverity rises on the last day.
func reminderSeverity(before time.Duration) finding.Severity {
	if before <= 24*time.Hour {
		return finding.Critical
	}
	return finding.High
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
