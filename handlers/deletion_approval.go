package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/retire"
)

// approvalTag is reaction.ApprovalTag, in short.
const approvalTag = reaction.ApprovalTag

// approvalReason names a decision about the tag.
type approvalReason string

const (
	approvalNone      approvalReason = ""          // the key has no such tag, or tags do not count
	approvalHolds     approvalReason = "holds"     // it approves the deletion
	approvalUnread    approvalReason = "unread"    // the key's tags may not be read
	approvalMalformed approvalReason = "malformed" // its value is no day
	approvalFuture    approvalReason = "future"    // the day is still to come
	approvalExpired   approvalReason = "expired"   // the day is too long ago
	approvalFresh     approvalReason = "fresh"     // nobody had the time to notice who set it
)

// approval is what speaks for a pending deletion.
type approval struct {
	// record is that of cmkeeper retire schedule, where it covers the deletion's date.
	record *retire.Approval
	// tag is whether the tag holds, value what it says, and since when sweeps have
	// found it; zero: none has.
	tag   approvalReason
	value string
	since time.Time
}

func (a approval) given() bool { return a.record != nil || a.tag == approvalHolds }

// farthestEast is how far a day begins earlier somewhere than in UTC.
const farthestEast = 14 * time.Hour

// decideApproval decides whether the tag approves a deletion that was first seen
// pending at the given time. The tag must not be older than so many days then, 0 for
// never, and it must have been there for as long as any mark that makes things
// quieter: a tag that is set right before the deletion is scheduled does not approve
// it. It is always asked as of the same time, so an approval does not run out while
// the deletion waits; KMS changes no tags in that state.
func decideApproval(value string, since, pending time.Time, days int) approvalReason {
	day, err := time.Parse(time.DateOnly, value)
	switch {
	case days == 0:
		return approvalNone
	case err != nil:
		return approvalMalformed
	case pending.Before(day.Add(-farthestEast)):
		return approvalFuture
	case !pending.Before(day.AddDate(0, 0, days+1)):
		return approvalExpired
	case since.IsZero() || pending.Sub(since) < judgement.Lasts:
		return approvalFresh
	}
	return approvalHolds
}

// readApproval reads what may speak for a pending deletion, or for a key that is disabled;
// whether that holds is decided with the key's document, by judge.
func readApproval(ctx context.Context, c *reaction.Case, key inventory.Key) (approval, error) {
	if !key.PendingDeletion() && key.State != ledger.StateDisabled {
		return approval{}, nil
	}
	record, err := c.Approval(ctx)
	switch {
	case err != nil:
		return approval{}, err
	case key.State == ledger.StateDisabled:
		return approval{record: record}, nil // whether it holds depends on when the key was disabled
	case record != nil && record.Covers(key.DeletionDate):
		return approval{record: record}, nil
	case c.Config.DeletionApprovalDays == 0:
		return approval{}, nil
	}
	tags, err := c.Tags(ctx)
	switch {
	case errors.Is(err, inventory.ErrAccessDenied):
		return approval{tag: approvalUnread}, nil
	case err != nil:
		return approval{}, err
	}
	if value, ok := tags[approvalTag]; ok {
		return approval{tag: approvalMalformed, value: value}, nil
	}
	return approval{}, nil
}

// judge returns the approval with whether its tag holds for the state that the key was
// last seen in.
func (a approval) judge(doc *ledger.Key, days int) approval {
	if s := doc.LastState(); a.record != nil && s.State == ledger.StateDisabled && !a.record.CoversDisabling(s.At) {
		a.record = nil
	}
	if a.tag == approvalNone || a.tag == approvalUnread {
		return a
	}
	if i := slices.IndexFunc(doc.Tags, func(t ledger.Tag) bool { return t.Name == approvalTag && t.Value == a.value }); i >= 0 {
		a.since = doc.Tags[i].Since
		if a.since.Before(doc.TagsSince) { // before the first sweep nobody looked
			a.since = doc.TagsSince
		}
	}
	a.tag = decideApproval(a.value, a.since, doc.LastState().At, days)
	return a
}

// notedApproval is the approval by the tag that sweeps found on a key that is gone.
func notedApproval(doc *ledger.Key, days int) approval {
	i := slices.IndexFunc(doc.Tags, func(t ledger.Tag) bool { return t.Name == approvalTag })
	if s := doc.LastState(); i < 0 || s == nil || !ledger.IsPending(s.State) {
		return approval{}
	}
	return approval{tag: approvalMalformed, value: doc.Tags[i].Value}.judge(doc, days)
}

// tell makes the alert about an approved deletion a note, and says of a tag that does
// not hold why not.
func (a approval) tell(to *alert.Alert, days int) {
	switch {
	case a.record != nil && a.record.Days == 0:
		to.Severity = finding.Low
		to.Summary += fmt.Sprintf(" %s approved it at %s.", a.record.By, reaction.TimeText(a.record.At))
		to.Action.Description = "cmkeeper did not undo this: cmkeeper rotate abort found nothing that needs the key, and recorded that before it disabled the key."
		to.Title += ", as approved"
		to.Next = append([]string{"Watch CloudTrail for DisabledException on this key: it shows a use that nobody knew about. To enable the key:"}, to.Next...)
		return
	case a.record != nil:
		to.Severity = finding.Medium
		to.Summary += fmt.Sprintf(" %s approved it at %s with a waiting period of %d days.", a.record.By, reaction.TimeText(a.record.At), a.record.Days)
		to.Action.Description = "cmkeeper did not undo this: cmkeeper retire schedule checked the key and recorded this deletion before scheduling it."
		if len(a.record.Accepted) > 0 {
			to.Facts = append(to.Facts, alert.Fact{Name: "unknown, and accepted by the approval", Values: a.record.Accepted})
		}
	case a.tag == approvalHolds:
		to.Severity = finding.Info
		to.Summary += fmt.Sprintf(" The key's tag %s=%s approves it; sweeps have found it since %s.", approvalTag, a.value, reaction.TimeText(a.since))
		to.Action.Description = "cmkeeper did not undo this: the key's tag approves the deletion. cmkeeper did not check that nothing needs the key; what depends on it is listed below."
	case a.tag != approvalNone:
		to.Facts = append(to.Facts, alert.Fact{Name: "approval by tag", Values: []string{a.tag.text(a.value, days)}})
		return
	default:
		return
	}
	to.Title += ", as approved"
	to.Next = append([]string{"Watch CloudTrail for KMSInvalidStateException on this key until then: it shows a use that nobody knew about. To keep the key:"}, to.Next...)
}

// text says why a tag does not hold.
func (a approvalReason) text(value string, days int) string {
	set := fmt.Sprintf("%s=%s does not approve the deletion: ", approvalTag, value)
	switch a {
	case approvalUnread:
		return "unknown: the key's tags may not be read (kms:ListResourceTags), so no tag approves its deletion"
	case approvalMalformed:
		return set + "its value is not a date; write it as 2026-03-01"
	case approvalFuture:
		return set + "the date is in the future"
	case approvalExpired:
		return set + fmt.Sprintf("the date was more than %d days before the deletion was scheduled", days)
	case approvalFresh:
		return set + fmt.Sprintf("a sweep must have found it %d hours before the deletion is scheduled, so that people can notice who set it", int(judgement.Lasts.Hours()))
	default:
		return ""
	}
}
