package handlers

import (
	"context"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
)

// route is what a reaction is registered under. Name and source are "" for
// scheduled events: their detail-type is the operator's choice.
type route struct {
	source string
	kind   events.Kind
	name   string
	// unusable: the call failed because its key cannot be used now.
	unusable bool
}

// reaction is something that is done about events.
type reaction struct {
	name string
	// alert is the kind of the alerts that it makes, "" where it makes none.
	alert alert.Kind
	// mode is how far it goes, and variable what sets that; nil: always Enforce,
	// since it changes nothing itself.
	mode     func(Config) Mode
	variable string
	// concerns says why an event is none of the reaction's business, or "".
	concerns func(*Router, events.Event) string
	handle   func(*Router, context.Context, events.Event) error
}

// row is one line of the event table: an event, a reaction to it, and in words
// what that comes to. docs/events.md is made of the rows.
type row struct {
	on       route
	reaction reaction
	// severity is the rule for the severity of the alert, "none" where there is none.
	severity string
	// refused is the severity of an alert about an attempt at the call that AWS
	// refused, "" where none is told.
	refused alert.Severity
	// observe is what is done in mode observe, and enforce what mode enforce does
	// instead; "" where it does nothing else.
	observe, enforce string
}

// The S3 event that says that a job of S3 Batch Operations has changed.
const batchStatusChanged = "JobStatusChanged"

// rows is the event table: what is not in it, nothing reacts to.
func rows() []row {
	always := func(*Router, events.Event) string { return "" }
	rotation := reaction{
		name: reactionRotation, alert: alert.KindRotation, concerns: (*Router).foreign, handle: (*Router).rotation,
		mode: func(c Config) Mode { return c.Rotation }, variable: "ROTATION_MODE",
	}
	policy := reaction{
		name: reactionPolicy, alert: alert.KindPolicy, concerns: (*Router).foreign, handle: (*Router).policy,
		mode: func(c Config) Mode { return c.Policy }, variable: "POLICY_MODE",
	}
	deletion := reaction{
		name: reactionDeletion, alert: alert.KindDeletion, concerns: (*Router).foreign, handle: (*Router).deletion,
		mode: func(c Config) Mode { return c.Deletion }, variable: "DELETION_MODE",
	}
	alias := reaction{
		name: "alias", alert: alert.KindAlias, concerns: always, handle: (*Router).alias, // old records of DeleteAlias name no key
		mode: func(c Config) Mode { return c.Reencrypt }, variable: "REENCRYPT_MODE",
	}
	use := reaction{
		name: "use", alert: alert.KindUse, concerns: (*Router).foreign, handle: (*Router).use,
		mode: func(c Config) Mode {
			if c.FailedUse {
				return Observe
			}
			return Off
		}, variable: "FAILED_USE",
	}
	batch := reaction{name: "batch", alert: alert.KindReencryption, concerns: always, handle: (*Router).batchChanged}
	sweep := reaction{name: "sweep", concerns: always, handle: (*Router).sweepNow} // each part of it obeys its own mode

	call := func(name string) route { return route{source: events.SourceKMS, kind: events.APICall, name: name} }
	service := func(name string) route { return route{source: events.SourceKMS, kind: events.ServiceEvent, name: name} }
	native := func(name string) route { return route{source: events.SourceNative, kind: events.Native, name: name} }

	const (
		lost        = "critical; medium where the key is neither pending nor disabled any more, or `cmkeeper retire schedule` approved the deletion; info where its tag does; at least high where the waiting period is too short"
		rotationOff = "high; medium where rotation was never seen on and is required"
		looks       = "looks whether rotation is on that was on before, or is required; tells if not"
		turnsOn     = "turns rotation on with the key's former period and reads it back"
		judges      = "judges the live policy, tells findings and what changed in effect"
		again       = "tells that the material has to be imported again"
		moved       = "medium; high where the new key must not be trusted"
		notes       = "notes the target, tells of a move and what would be re-encrypted"
		worst       = "that of the worst finding, else info"
	)
	all := []row{
		{on: call("DisableKeyRotation"), reaction: rotation, refused: alert.Medium,
			severity: "high; critical where it was turned off too often (`CMKEEPER_FLAP_LIMIT`)", observe: "tells what would be done", enforce: turnsOn},
		{on: call("EnableKeyRotation"), reaction: rotation,
			severity: "medium where the period is longer than `CMKEEPER_ROTATION_PERIOD_DAYS`; else none", observe: "tells of a longer period",
			enforce: "sets the period to `CMKEEPER_ROTATION_PERIOD_DAYS` and reads it back"},
		{on: call("CreateKey"), reaction: rotation, severity: rotationOff, observe: looks, enforce: turnsOn},
		{on: call("CreateKey"), reaction: policy, severity: worst, observe: judges},
		{on: call("EnableKey"), reaction: rotation, severity: rotationOff, observe: looks, enforce: turnsOn},
		{on: call("CancelKeyDeletion"), reaction: rotation, severity: rotationOff, observe: looks, enforce: turnsOn},
		{on: call("ImportKeyMaterial"), reaction: rotation, severity: rotationOff, observe: looks, enforce: turnsOn},
		{on: call("UpdatePrimaryRegion"), reaction: rotation, severity: rotationOff, observe: looks, enforce: turnsOn},

		{on: call("PutKeyPolicy"), reaction: policy, refused: alert.High, severity: worst, observe: judges,
			enforce: "where it has a new finding of `CMKEEPER_POLICY_RESTORE_SEVERITY` or worse, puts the recorded good policy back and reads it back"},
		{on: call("ReplicateKey"), reaction: policy, refused: alert.Medium, severity: worst, observe: "judges the policy that the replica was made with"},

		{on: call("ScheduleKeyDeletion"), reaction: deletion, refused: alert.High,
			severity: lost, observe: "tells the date, what hangs on the key, and what would be done", enforce: "cancels the deletion, and enables the key if it was Enabled before"},
		{on: call("DisableKey"), reaction: deletion, refused: alert.High,
			severity: lost, observe: "tells what hangs on the key, and what would be done", enforce: "enables the key if it was Enabled before"},
		{on: call("DeleteImportedKeyMaterial"), reaction: deletion, refused: alert.High, severity: lost, observe: again},
		{on: service("DeleteExpiredKeyMaterial"), reaction: deletion, severity: lost, observe: again},
		{on: native(events.NativeExpiry), reaction: deletion, severity: lost, observe: again},
		{on: service("DeleteKey"), reaction: deletion, severity: lost, observe: "tells that the key is gone, once"},
		{on: native(events.NativeDeletion), reaction: deletion, severity: lost, observe: "tells that the key is gone, once"},

		{on: call("CreateAlias"), reaction: alias, refused: alert.Medium, severity: moved, observe: notes, enforce: "starts the re-encryption"},
		{on: call("UpdateAlias"), reaction: alias, refused: alert.Medium, severity: moved, observe: notes, enforce: "starts the re-encryption"},
		{on: call("DeleteAlias"), reaction: alias, refused: alert.Medium, severity: "none", observe: "notes that the alias is gone, so that making it again elsewhere is a move"},

		{on: route{source: events.SourceS3, kind: events.ServiceEvent, name: batchStatusChanged}, reaction: batch,
			severity: "none", observe: "looks at the batch jobs of our re-encryptions; they tell by themselves"},
		{on: route{kind: events.Scheduled}, reaction: sweep,
			severity: "as for the events that were missed", observe: "reconciles every key, alias and unfinished job; reminds of deletions and of expiring key material"},
	}
	for _, name := range uses {
		all = append(all, row{on: route{source: events.SourceKMS, kind: events.APICall, name: name, unusable: true}, reaction: use,
			severity: "high where the key's deletion is pending, medium where it is disabled or unavailable; none where it works again",
			observe:  "tells key, caller and operation, once an hour for a key and a caller"})
	}
	return all
}

// watch is everything that is done about an event.
type watch struct {
	reactions []reaction
	// refused is the severity of a refused attempt, "" where none is told.
	refused alert.Severity
}

// table is the rows by what they react to.
func table() map[route]watch {
	byRoute := map[route]watch{}
	for _, line := range rows() {
		w := byRoute[line.on]
		w.reactions = append(w.reactions, line.reaction)
		if line.refused != "" {
			w.refused = line.refused
		}
		byRoute[line.on] = w
	}
	return byRoute
}

// batchChanged has our batch jobs looked at. Whose job the event is about does
// not matter: S3 is asked about ours.
func (r *Router) batchChanged(ctx context.Context, _ events.Event) error {
	if r.moves == nil {
		return nil // nothing is moved here
	}
	return r.moves.BatchChanged(ctx)
}
