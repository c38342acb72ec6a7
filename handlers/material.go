package handlers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/posture"
)

// materialSoon is how near an expiry date has to be to be alerted as urgent.
const materialSoon = 30 * 24 * time.Hour

// materialReason names a decision about imported key material.
type materialReason string

const (
	materialStays   materialReason = "stays"   // it does not expire
	materialExpires materialReason = "expires" // on a date that is far away
	materialSoonest materialReason = "soon"    // on one that is near
	materialDoubt   materialReason = "doubt"   // the event says that it expires; when does not show
)

// decideMaterial judges imported material by its live expiry date (nil: none)
// and what the event says.
func decideMaterial(expires *time.Time, said bool, now time.Time) (materialReason, finding.Severity) {
	switch {
	case expires == nil && said:
		return materialDoubt, finding.Medium
	case expires == nil:
		return materialStays, ""
	case expires.Sub(now) < materialSoon:
		return materialSoonest, finding.High
	}
	return materialExpires, finding.Medium
}

// material alerts that imported key material expires: at that time KMS deletes it, and
// nothing under the key can be read until its owner imports it again.
func material(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	key, _, err := c.Look(ctx)
	if err != nil && !errors.Is(err, inventory.ErrNotFound) {
		return nil, err
	}
	imported, _ := c.Event.Detail.(events.ImportKeyMaterial)
	reason, severity := decideMaterial(key.MaterialExpires, imported.Expires, ledger.Now())
	c.Debug(ctx, "material decided", "reason", reason)
	if severity == "" {
		return nil, nil
	}
	return c.AboutKey(ctx, alert.KindMaterial, "", func(a *alert.Alert) {
		a.Severity, a.Dangers = severity, []string{posture.DangerExpiry}
		a.Title = "Key material imported into " + reaction.ShortName(a.Key) + " will expire"
		a.Risk = "AWS keeps no copy of imported material after its deletion; only the owner's own copy remains."
		a.Action = alert.Action{Mode: string(c.Config.Deletion), Status: alert.StatusNone, Description: "cmkeeper does not touch key material."}
		a.Next = []string{"Make sure that this is the intended material, and that there is a copy of it outside AWS."}
		switch reason {
		case materialStays:
		case materialExpires, materialSoonest:
			until := reaction.TimeText(*key.MaterialExpires)
			a.Summary = fmt.Sprintf("%s called ImportKeyMaterial. KMS deletes the material on %s. From then on, nothing encrypted under the key can be read until the same material is imported again.", c.Who(), until)
			a.Next = append(a.Next, "If the key is to stay, import it again before "+until+", without an expiry date:")
			a.Next = append(a.Next, c.ImportAgain()...)
		case materialDoubt:
			a.Summary = fmt.Sprintf("%s called ImportKeyMaterial with an expiry date. KMS does not show the date now: material was imported again since, or cmkeeper may not read the key.", c.Who())
			a.Next = append(a.Next, c.KMSCommand("describe-key"))
		}
	})
}
