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
		name: "policy", alert: alert.KindPolicy, concerns: (*Router).foreign, handle: (*Router).policy,
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
	batch := reaction{name: "batch", alert: alert.KindReencryption, concerns: always, handle: (*Router).batchChanged}
	sweep := reaction{name: "sweep", concerns: always, handle: (*Router).sweepNow} // each part of it obeys its own mode

	call := func(name string) route { return route{events.SourceKMS, events.APICall, name} }
	service := func(name string) route { return route{events.SourceKMS, events.ServiceEvent, name} }
	native := func(name string) route { return route{events.SourceNative, events.Native, name} }

	const (
		lost        = "critical; medium where the key is neither pending nor disabled any more, or the deletion was approved"
		rotationOff = "high; medium where rotation was never seen on and is required"
		looks       = "looks whether rotation is on that was on before, or is required; tells if not"
		turnsOn     = "turns rotation on with the key's former period and reads it back"
		judges      = "judges the live policy, tells findings and what changed in effect"
		worst       = "that of the worst finding, else info"
	)
	return []row{
		{call("DisableKeyRotation"), rotation, "high; critical where it was turned off too often (`CMKEEPER_FLAP_LIMIT`)", "tells what would be done", turnsOn},
		{call("EnableKeyRotation"), rotation, "medium where the period is longer than `CMKEEPER_ROTATION_PERIOD_DAYS`; else none", "tells of a longer period", "sets the period to `CMKEEPER_ROTATION_PERIOD_DAYS` and reads it back"},
		{call("CreateKey"), rotation, rotationOff, looks, turnsOn},
		{call("CreateKey"), policy, worst, judges, ""},
		{call("EnableKey"), rotation, rotationOff, looks, turnsOn},
		{call("CancelKeyDeletion"), rotation, rotationOff, looks, turnsOn},
		{call("ImportKeyMaterial"), rotation, rotationOff, looks, turnsOn},
		{call("UpdatePrimaryRegion"), rotation, rotationOff, looks, turnsOn},

		{call("PutKeyPolicy"), policy, worst, judges, ""},
		{call("ReplicateKey"), policy, worst, "judges the policy that the replica was made with", ""},

		{call("ScheduleKeyDeletion"), deletion, lost, "tells the date, what uses the key, and what would be done", "cancels the deletion, and enables the key if it was Enabled before"},
		{call("DisableKey"), deletion, lost, "tells what uses the key, and what would be done", "enables the key if it was Enabled before"},
		{call("DeleteImportedKeyMaterial"), deletion, lost, "tells that the material has to be imported again", ""},
		{service("DeleteExpiredKeyMaterial"), deletion, lost, "tells that the material has to be imported again", ""},
		{native(events.NativeExpiry), deletion, lost, "tells that the material has to be imported again", ""},
		{service("DeleteKey"), deletion, lost, "tells that the key is gone, once", ""},
		{native(events.NativeDeletion), deletion, lost, "tells that the key is gone, once", ""},

		{call("CreateAlias"), alias, "medium; high where the new key must not be trusted", "notes the target, tells of a move and what would be re-encrypted", "starts the re-encryption"},
		{call("UpdateAlias"), alias, "medium; high where the new key must not be trusted", "notes the target, tells of a move and what would be re-encrypted", "starts the re-encryption"},
		{call("DeleteAlias"), alias, "none", "notes that the alias is gone, so that making it again elsewhere is a move", ""},

		{route{events.SourceS3, events.ServiceEvent, batchStatusChanged}, batch, "none", "looks at the batch jobs of our re-encryptions; they tell by themselves", ""},
		{route{"", events.Scheduled, ""}, sweep, "as for the events that were missed", "reconciles every key, alias and unfinished job", ""},
	}
}

// table is the rows by what they react to.
func table() map[route][]reaction {
	byRoute := map[route][]reaction{}
	for _, w := range rows() {
		byRoute[w.on] = append(byRoute[w.on], w.reaction)
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
