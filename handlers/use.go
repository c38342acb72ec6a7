package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/dependents"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// isUnusable reports whether a call failed because its key cannot be used.
func isUnusable(e events.Event) bool {
	return slices.Contains(unusableCodes, e.ErrorCode)
}

// unusableCodes are the error codes of such calls.
var unusableCodes = []string{"DisabledException", "KMSInvalidStateException"}

// useReason names a decision about a failed use of a key.
type useReason string

const (
	useWorks    useReason = "works"    // the key can be used again, or it was not the key's state
	usePending  useReason = "pending"  // the key will be deleted
	useDisabled useReason = "disabled" // somebody disabled it
	useOther    useReason = "other"    // its material or its key store is missing
	useUnread   useReason = "unread"   // its state cannot be read
)

// decideUse decides whether a failed use is alerted, from the key's live state; ""
// where that may not be read.
func decideUse(state string) (useReason, finding.Severity) {
	switch {
	case state == ledger.StateEnabled:
		return useWorks, ""
	case ledger.IsPending(state):
		return usePending, finding.High
	case state == ledger.StateDisabled:
		return useDisabled, finding.Medium
	case state == "":
		return useUnread, finding.Medium
	}
	return useOther, finding.Medium
}

// use alerts that somebody needs a key that cannot be used: an unknown user of the key
// shows now, while the key can still be saved.
func use(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	id := c.OnceAnHour("use/" + arn.KeyID(c.Event.KeyARN))
	if c.ToldThisHour(id) {
		return nil, nil // before the key is read: an application in a loop is many a second
	}
	key, _, err := c.Look(ctx)
	if err != nil && !errors.Is(err, inventory.ErrNotFound) {
		return nil, err
	}
	reason, severity := decideUse(key.State)
	c.Debug(ctx, "use decided", "reason", reason)
	if severity == "" {
		return nil, nil
	}
	needed := named(c.Event)
	var others alert.Fact
	d, err := c.AboutKey(ctx, alert.KindUse, "", func(a *alert.Alert) {
		a.ID, a.Severity = id, severity
		a.Title = fmt.Sprintf("%s failed because key %s cannot be used", c.Event.Name, reaction.ShortName(a.Key))
		a.Summary = fmt.Sprintf("%s called %s, which failed with %s. Further failures of the same caller on this key within the hour are not alerted.", c.Who(), c.Event.Name, c.Event.ErrorCode)
		if len(needed) > 0 {
			a.Summary += " It was called for " + strings.Join(needed, " and ") + ", by the encryption context, which the caller chooses."
		}
		a.Risk = "An application or a service still depends on the key. Its calls fail until the key can be used again."
		if reason == usePending {
			a.Risk += " Once the key is deleted, everything encrypted under it is lost for good."
		}
		a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper reports failed uses and changes nothing because of them."}
		a.Next = []string{"Find out what " + c.Who() + " needs the key for. To make it work again:"}
		a.Next = append(a.Next, c.UndoCommands(key.State, true)...)
		switch reason {
		case useOther:
			a.Next = append(a.Next, "Import the key's material again, or connect its key store, depending on the key's state.")
			fallthrough
		case useUnread:
			a.Next = append(a.Next, c.KMSCommand("describe-key"))
		case useWorks, usePending, useDisabled:
		}
		a.Facts = append(a.Facts, alert.Fact{Name: "operation", Values: []string{c.Event.Name}})
		if c.Event.ErrorMessage != "" {
			a.Facts = append(a.Facts, alert.Fact{Name: "AWS's answer", Values: []string{c.Event.ErrorMessage}})
		}
		if len(needed) > 0 {
			a.Facts = append(a.Facts, alert.Fact{Name: "needed resource", Source: "the call's encryption context", Values: needed})
		}
		a.Facts = append(a.Facts, others)
	})
	if d != nil {
		d.Once, d.Gather = id, func(ctx context.Context) { others = c.UsedFor(ctx) }
	}
	return d, err
}

// named are the resources that a call names as what it uses the key for, in words.
func named(e events.Event) (all []string) {
	for _, r := range dependents.Named(e, e.KeyARN) {
		all = append(all, dependents.Title(r.Kind)+" "+r.ID)
	}
	return all
}
