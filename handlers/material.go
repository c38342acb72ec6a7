package handlers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// materialSoon is how near an expiry date has to be to be told as urgent.
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
func decideMaterial(expires *time.Time, said bool, now time.Time) (materialReason, alert.Severity) {
	switch {
	case expires == nil && said:
		return materialDoubt, alert.Medium
	case expires == nil:
		return materialStays, ""
	case expires.Sub(now) < materialSoon:
		return materialSoonest, alert.High
	}
	return materialExpires, alert.Medium
}

// material tells that imported key material expires: at that time KMS deletes it, and nothing under the key can be read until its
// owner imports it again.
func (r *Router) material(ctx context.Context, e events.Event) error {
	key, doc, err := r.look(ctx, e)
	if errors.Is(err, inventory.ErrNotFound) {
		return r.gone(ctx, e, alert.KindMaterial, false)
	}
	if err != nil {
		return err
	}
	imported, _ := e.Detail.(events.ImportKeyMaterial)
	reason, severity := decideMaterial(key.MaterialExpires, imported.Expires, now())
	r.log.DebugContext(ctx, "material decided", "key", e.KeyARN, "event_id", e.ID, "reason", reason)
	if severity == "" {
		return nil
	}
	a := r.newAlert(e, alert.KindMaterial, "")
	a.Key, a.Severity = r.describe(ctx, key, doc), severity
	name := shortName(a.Key)
	a.Title = "Key material was imported into " + name + ", and expires"
	a.Risk = "AWS keeps no copy of imported material that outlives its deletion: the owner's own copy is the only one."
	a.Action = alert.Action{Mode: string(r.config.Deletion), Status: alert.StatusNone, Description: "cmkeeper does not touch key material."}
	a.Next = []string{"Make sure that this material is the one that was agreed on, and that there is a copy of it outside of AWS."}
	switch reason {
	case materialStays:
	case materialExpires, materialSoonest:
		until := key.MaterialExpires.UTC().Format(time.DateTime + " MST")
		a.Summary = fmt.Sprintf("%s called ImportKeyMaterial. KMS deletes the material on %s; from then on nothing under the key can be read until the same material is imported again.", who(e), until)
		a.Next = append(a.Next, "If the key is to stay, import it again before "+until+", without an expiry date:")
		a.Next = append(a.Next, r.importAgain(key.ARN)...)
	case materialDoubt:
		a.Summary = fmt.Sprintf("%s called ImportKeyMaterial with an expiry date. KMS does not show the date now: it was imported again since, or the key may not be read.", who(e))
		a.Next = append(a.Next, r.kmsCommand("describe-key", e.KeyARN))
	}
	return r.publish(ctx, a)
}
