package handlers

import (
	"context"
	"errors"
	"fmt"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// primaryReason names a decision about the move of a multi-Region key's primary.
type primaryReason string

const (
	primaryArrived primaryReason = "arrived" // it is here now
	primaryLeft    primaryReason = "left"    // its rotation can only be guarded elsewhere
)

// decidePrimary judges the new primary Region of a key that is guarded here.
func decidePrimary(to, here string) (primaryReason, alert.Severity) {
	if to == here {
		return primaryArrived, alert.Info
	}
	return primaryLeft, alert.Medium
}

// primary tells that another Region has the primary of a key. The call is
// recorded in both Regions, and told by whoever guards each.
func (r *Router) primary(ctx context.Context, e events.Event) error {
	d, _ := e.Detail.(events.UpdatePrimaryRegion)
	key, doc, err := r.look(ctx, e)
	if errors.Is(err, inventory.ErrNotFound) {
		return r.gone(ctx, e, alert.KindRotation, false)
	}
	if err != nil {
		return err
	}
	reason, severity := decidePrimary(d.PrimaryRegion, r.config.Region)
	a := r.newAlert(e, alert.KindRotation, "/primary")
	a.Key, a.Severity = r.describe(ctx, key, doc), severity
	a.Title = fmt.Sprintf("The primary of key %s moves to %s", shortName(a.Key), orUnknown(d.PrimaryRegion))
	a.Summary = fmt.Sprintf("%s called UpdatePrimaryRegion. Rotation is a setting of the primary key.", who(e))
	a.Action = alert.Action{Mode: string(r.config.Rotation), Status: alert.StatusNone, Description: "cmkeeper does not move primaries."}
	a.Risk = "None by itself: the key and its replicas share their material."
	if reason == primaryLeft {
		a.Risk = "From here rotation of this key can be neither seen nor turned on. It is guarded only where a cmkeeper runs in the new primary Region."
		a.Next = []string{"Make sure that cmkeeper runs in " + orUnknown(d.PrimaryRegion) + ".",
			"aws kms update-primary-region --key-id " + shellQuote(keyID(e.KeyARN)) + " --primary-region " + shellQuote(r.config.Region) + " --region " + shellQuote(orUnknown(d.PrimaryRegion))}
	} else {
		a.Next = []string{r.kmsCommand("get-key-rotation-status", e.KeyARN)}
	}
	return r.publish(ctx, a)
}
