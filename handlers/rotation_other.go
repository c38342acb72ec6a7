package handlers

import (
	"context"
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
)

// Rotations on demand are limited in a key's whole life (ledger.OnDemandLimit): the
// one who uses them up takes the answer to a leak away.
const (
	onDemandWindow = 30 * 24 * time.Hour
	onDemandOften  = 3
)

// rotatedReason names a decision about a rotation on demand.
type rotatedReason string

const (
	rotatedRarely rotatedReason = "rarely" // nothing unusual
	rotatedOften  rotatedReason = "often"  // several within a month
)

// decideRotated judges a rotation on demand by those that events reported.
func decideRotated(seen []ledger.OnDemandRotation, at time.Time) rotatedReason {
	n := 0
	for _, s := range seen {
		if age := at.Sub(s.At); age >= 0 && age < onDemandWindow {
			n++
		}
	}
	if n >= onDemandOften {
		return rotatedOften
	}
	return rotatedRarely
}

// rotated notes that a key got new material. That is as it should be; only rotations
// on demand that come too often are alerted.
func rotated(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	c.Log().InfoContext(ctx, "key rotated")
	doc, err := c.Ledger(ctx)
	if err != nil {
		return nil, err
	}
	onDemand := c.Event.Kind == events.APICall
	doc.ARN = c.Event.KeyARN
	doc.Rotation.NoteRotated(c.Event, onDemand)
	if !onDemand || decideRotated(doc.Rotation.OnDemand, c.Event.Time) != rotatedOften {
		return nil, nil
	}
	return c.AboutKey(ctx, alert.KindRotation, "/on-demand", func(a *alert.Alert) {
		a.Severity = finding.Medium
		a.Title = fmt.Sprintf("Key %s was rotated on demand at least %d times within 30 days", reaction.ShortName(a.Key), onDemandOften)
		a.Summary = fmt.Sprintf("%s called RotateKeyOnDemand. cmkeeper has seen %d on-demand rotations of this key.", c.Who(), len(c.Known().Rotation.OnDemand))
		a.Risk = fmt.Sprintf("KMS allows %d on-demand rotations per key. Once they are used up, the key cannot be rotated immediately after a leak.", ledger.OnDemandLimit)
		a.Action = alert.Action{Mode: string(c.Config.Rotation), Status: alert.StatusNone, Description: "A rotation cannot be undone, and does no harm by itself."}
		a.Next = []string{"If this is a schedule, turn on automatic rotation instead; it has no limit. All rotations of the key:", c.KMSCommand("list-key-rotations")}
	})
}

// primaryReason names a decision about the move of a multi-Region key's primary.
type primaryReason string

const (
	primaryArrived primaryReason = "arrived" // it is here now
	primaryLeft    primaryReason = "left"    // its rotation can only be guarded elsewhere
)

// decidePrimary judges the new primary Region of a key that is guarded here.
func decidePrimary(to, here string) (primaryReason, finding.Severity) {
	if to == here {
		return primaryArrived, finding.Info
	}
	return primaryLeft, finding.Medium
}

// primary alerts that another Region has the primary of a key. The call is recorded in
// both Regions, and alerted by the fleet that guards each.
func primary(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	d, _ := c.Event.Detail.(events.UpdatePrimaryRegion)
	to := reaction.OrUnknown(d.PrimaryRegion)
	reason, severity := decidePrimary(d.PrimaryRegion, c.Config.Region)
	return c.AboutKey(ctx, alert.KindRotation, "/primary", func(a *alert.Alert) {
		a.Severity = severity
		a.Title = fmt.Sprintf("Primary of multi-Region key %s was moved to %s", reaction.ShortName(a.Key), to)
		a.Summary = fmt.Sprintf("%s called UpdatePrimaryRegion. Rotation is a setting of the primary key.", c.Who())
		a.Action = alert.Action{Mode: string(c.Config.Rotation), Status: alert.StatusNone, Description: "cmkeeper does not move primary keys."}
		a.Risk = "None by itself: the key and its replicas share their material."
		a.Next = []string{c.KMSCommand("get-key-rotation-status")}
		if reason == primaryLeft {
			a.Risk = "cmkeeper in this Region can no longer see or turn on rotation of this key. Only a cmkeeper in the new primary Region guards it."
			a.Next = []string{"Make sure that cmkeeper runs in " + to + ". If the move is not intended, move the primary back:",
				command.Line("aws kms update-primary-region --key-id %s --primary-region %s --region %s", command.KeyID(arn.KeyID(c.Event.KeyARN)), c.InRegion(), command.Region(d.PrimaryRegion))}
		}
	})
}
