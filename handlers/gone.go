package handlers

import (
	"context"
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/retire"
)

// gone reacts to an event about a key that does not exist (any more), from what
// state knows. Deletions are told once per key, whichever of CloudTrail's and
// KMS's own events come; what else happened to the key before does not matter
// any more unless it was harm.
func (r *Router) gone(ctx context.Context, e events.Event, kind alert.Kind, harm bool) error {
	if !harm {
		r.log.DebugContext(ctx, "event ignored", "reason", "its key does not exist", "event_id", e.ID, "key", e.KeyARN)
		return nil
	}
	doc, err := r.knownKey(ctx, e.KeyARN)
	if err != nil {
		r.log.WarnContext(ctx, "what was known of a key that is gone cannot be read", "key", e.KeyARN, "error", err)
	}
	a := r.newAlert(e, kind, "/gone")
	a.Key = &alert.Key{ARN: e.KeyARN, Aliases: doc.Aliases, Description: doc.Description, State: "deleted"}
	name := shortName(a.Key)
	switch e.Name {
	case "DeleteKey", events.NativeDeletion:
		a.ID = "deleted/" + keyID(e.KeyARN)
		a.Severity = alert.Critical
		a.Title = "Key " + name + " was deleted"
		a.Summary = "AWS deleted the key when its waiting period was over. Who scheduled that is in the alert about ScheduleKeyDeletion and in CloudTrail."
		a.Risk = "Whatever was encrypted under this key and not re-encrypted before is lost for good."
		approval, approved, err := retire.ReadApproval(ctx, r.state, e.KeyARN)
		if err != nil {
			r.log.WarnContext(ctx, "whether a deletion was approved cannot be read", "key", e.KeyARN, "error", err)
		}
		noted := notedApproval(doc, r.config.DeletionApprovalDays)
		var last seenState
		if n := len(doc.States); n > 0 {
			last = doc.States[n-1]
		}
		switch {
		case approved && approval.Covers(&e.Time):
			a.Severity = alert.Medium
			a.Title += ", as approved"
			a.Summary = fmt.Sprintf("AWS deleted the key when its waiting period was over. %s approved that at %s.", approval.By, approval.At.UTC().Format(time.DateTime+" MST"))
		case noted.given():
			a.Severity = alert.Medium
			a.Title += ", as approved"
			a.Summary = fmt.Sprintf("AWS deleted the key when its waiting period was over. The key's tag %s=%s approved that.", approvalTag, noted.value)
		case isPending(last.State) && last.Exempt != "":
			a.Severity = alert.Info
			a.Title += ", exempt"
			a.Summary = "AWS deleted the key when its waiting period was over. The deletion had been left alone because it was exempt."
			a.Facts = append(a.Facts, alert.Fact{Name: "exemption", Values: []string{last.Exempt}})
		}
	default:
		a.Severity = alert.High
		a.Title = fmt.Sprintf("%s on key %s, which does not exist", e.Name, name)
		a.Summary = fmt.Sprintf("%s called %s, and KMS does not know the key now. Either it was deleted since, or the event is not genuine.", who(e), e.Name)
		a.Risk = "If the key was deleted, whatever was encrypted under it and not re-encrypted before is lost for good."
	}
	a.Action = alert.Action{Status: alert.StatusNone, Description: "There is nothing left to repair."}
	a.Next = []string{
		r.trailCommand(e.KeyARN),
		"Look for data that still names this key: buckets whose default encryption is this key refuse new objects.",
	}
	if n := len(doc.States); n > 0 {
		a.Facts = append(a.Facts, alert.Fact{Name: "last seen", Values: []string{doc.States[n-1].State + " since " + doc.States[n-1].At.UTC().Format(time.DateTime+" MST")}})
	}
	return r.publish(ctx, a)
}
