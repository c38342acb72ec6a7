package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// KMS rotates a key's material on demand at most 25 times in the key's life
// (KMS Developer Guide, "On-demand rotation"): whoever uses that up takes the
// answer to a leak away.
const (
	onDemandLimit  = 25
	onDemandWindow = 30 * 24 * time.Hour
	onDemandOften  = 3
)

// seenRotation is a rotation on demand that an event told of.
type seenRotation struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// rotatedReason names a decision about a rotation on demand.
type rotatedReason string

const (
	rotatedRarely rotatedReason = "rarely" // nothing unusual
	rotatedOften  rotatedReason = "often"  // several within a month
)

// decideRotated judges a rotation on demand by those that events told of.
func decideRotated(seen []seenRotation, at time.Time) rotatedReason {
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

// rotated notes that a key got new material. That is as it should be; only
// rotations on demand that come too often are told.
func (r *Router) rotated(ctx context.Context, e events.Event) error {
	r.log.InfoContext(ctx, "key rotated", "key", e.KeyARN, "event", e.Name, "event_id", e.ID)
	var reason rotatedReason
	doc, err := r.updateKey(ctx, e.KeyARN, func(doc *keyDoc) {
		doc.ARN = e.KeyARN
		if doc.Rotation.Last.Before(e.Time) {
			doc.Rotation.Last = e.Time
		}
		if e.Kind != events.APICall {
			return
		}
		if !slices.ContainsFunc(doc.Rotation.OnDemand, func(s seenRotation) bool { return s.By == e.ID }) {
			doc.Rotation.OnDemand = tail(append(doc.Rotation.OnDemand, seenRotation{By: e.ID, At: e.Time}), onDemandLimit)
		}
		reason = decideRotated(doc.Rotation.OnDemand, e.Time)
	})
	if err != nil || reason != rotatedOften {
		return err
	}
	key, _, err := r.look(ctx, e)
	if errors.Is(err, inventory.ErrNotFound) {
		return r.gone(ctx, e, alert.KindRotation, false)
	}
	if err != nil {
		return err
	}
	a := r.newAlert(e, alert.KindRotation, "/on-demand")
	a.Key, a.Severity = r.describe(ctx, key, doc), alert.Medium
	a.Title = "Key " + shortName(a.Key) + " is rotated on demand again and again"
	a.Summary = fmt.Sprintf("%s called RotateKeyOnDemand. Events told of %d rotations on demand of this key so far.", who(e), len(doc.Rotation.OnDemand))
	a.Risk = fmt.Sprintf("KMS allows %d rotations on demand in a key's whole life. When they are used up the key cannot be rotated at once after a leak.", onDemandLimit)
	a.Action = alert.Action{Mode: string(r.config.Rotation), Status: alert.StatusNone, Description: "A rotation cannot be undone, and does no harm by itself."}
	a.Next = []string{"If this is a schedule, turn on automatic rotation instead; it has no limit. These were all:", r.kmsCommand("list-key-rotations", e.KeyARN)}
	return r.publish(ctx, a)
}
