package handlers

import (
	"context"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/guard"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/handlers/selfcheck"
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

// decider is how a reaction decides, as package reaction has it.
type decider func(context.Context, *reaction.Case) (*reaction.Decision, error)

// react is something that is done about events.
type react struct {
	name string
	// alert is the kind of the alerts that it makes, "" where it makes none.
	alert alert.Kind
	// mode is how far it goes, and variable what sets that; nil: always Enforce,
	// since it changes nothing itself.
	mode     func(reaction.Config) reaction.Mode
	variable string
	// skip says why an event does not concern the reaction, or "".
	skip   func(*reaction.Case) string
	decide decider
}

// The names of messages that are no record of a call.
const (
	ownSchedule = "schedule"
	ownShard    = "sweep-shard"
	ownFlush    = "alert-digest"
)

// row is one line of the event table: an event, a reaction to it, and in words
// what that comes to. docs/events.md is made of the rows.
type row struct {
	on       route
	reaction react
	// severity is the rule for the severity of the alert, "none" where there is none.
	severity string
	// refused is the severity of an alert about an attempt at the call that AWS
	// refused, "" where there is none.
	refused finding.Severity
	// observe is what is done in mode observe, and enforce what mode enforce does
	// instead; "" where it does nothing else.
	observe, enforce string
}

// The S3 event that says that a job of S3 Batch Operations has changed.
const batchStatusChanged = "JobStatusChanged"

// rows is the event table: nothing reacts to an event that is not in it.
func rows() []row {
	type config = reaction.Config
	rotationMode := func(c config) reaction.Mode { return c.Rotation }
	policyMode := func(c config) reaction.Mode { return c.Policy }
	deletionMode := func(c config) reaction.Mode { return c.Deletion }
	containMode := func(c config) reaction.Mode { return c.Contain }
	aliasMode := func(c config) reaction.Mode { return c.Reencrypt }
	useMode := func(c config) reaction.Mode {
		if c.FailedUse {
			return reaction.Observe
		}
		return reaction.Off
	}
	var (
		rotation      = react{ledger.ReactionRotation, alert.KindRotation, rotationMode, "ROTATION_MODE", skipForeign, rotation}
		rotated       = react{"rotated", alert.KindRotation, rotationMode, "ROTATION_MODE", skipForeign, rotated}
		primary       = react{"primary", alert.KindRotation, rotationMode, "ROTATION_MODE", skipForeign, primary}
		policy        = react{ledger.ReactionPolicy, alert.KindPolicy, policyMode, "POLICY_MODE", skipForeign, policy}
		grant         = react{"grant", alert.KindGrant, policyMode, "POLICY_MODE", skipForeign, grant}
		grantEnd      = react{"grant", alert.KindGrant, policyMode, "POLICY_MODE", skipForeign, grantEnded}
		deletion      = react{ledger.ReactionDeletion, alert.KindDeletion, deletionMode, "DELETION_MODE", skipForeign, deletion}
		material      = react{"material", alert.KindMaterial, deletionMode, "DELETION_MODE", skipForeign, material}
		contain       = react{ledger.ReactionContain, alert.KindContainment, containMode, "CONTAIN_MODE", skipForeign, contain}
		use           = react{"use", alert.KindUse, useMode, "FAILED_USE", skipForeign, use}
		alias         = react{"alias", alert.KindAlias, aliasMode, "REENCRYPT_MODE", skipForeignAlias, alias}
		tags          = react{"tags", alert.KindTag, nil, "", skipForeign, tags}
		canary        = react{selfcheck.CanaryName, alert.KindGuard, nil, "", skipNoCanary, selfcheck.Canary}
		keyStore      = react{"key-store", alert.KindKeyStore, nil, "", skipElsewhere, keyStore}
		tamper        = react{"tamper", alert.KindGuard, nil, "", skipOthersSetUp, tamper}
		bucketDefault = react{"defaults", alert.KindEncryption, nil, "", skipNoBucket, bucketSettings}
		bucketPolicy  = react{"defaults", alert.KindEncryption, nil, "", skipNoBucket, bucketPolicy}
		bucketTags    = react{"bucket-tags", alert.KindTag, nil, "", skipNoBucket, bucketSettings}
		newData       = react{"new-data", alert.KindEncryption, nil, "", skipElsewhere, newData}
		batch         = react{"batch", alert.KindReencryption, nil, "", skipNothing, batchChanged}
		sweep         = react{"sweep", "", nil, "", skipNothing, nil} // Router.Sweep: each part of it obeys its own mode
		// What stands is watched on every event about a key, by whatever reacts to it.
		note = func(kind alert.Kind) react { return react{"note", kind, nil, "", skipForeign, nil} }
	)

	call := func(name string) route { return route{source: events.SourceKMS, kind: events.APICall, name: name} }
	service := func(name string) route { return route{source: events.SourceKMS, kind: events.ServiceEvent, name: name} }
	other := func(source, name string) route {
		return route{source: source, kind: events.APICall, name: name}
	}
	native := func(name string) route { return route{source: events.SourceNative, kind: events.Native, name: name} }

	const (
		lost        = "critical; medium where the key is no longer pending deletion or disabled, or `cmkeeper retire schedule` approved the deletion; info where its tag approves it; at least high where the waiting period is too short"
		rotationOff = "high; medium where rotation was never seen on and is required"
		checks      = "checks rotation; alerts if it is off and was on before, or is required"
		turnsOn     = "turns rotation on with the key's former period and verifies it"
		judges      = "judges the live policy; alerts with its findings and with what changed in effect"
		again       = "alerts that the material has to be imported again"
		blinded     = "alerts while it still can"
		records     = "logs it and records it in the key's document"
		tagging     = "high where a deletion is approved, else medium; none where the key already had the value"
		moved       = "medium; high where the new key must not be trusted"
		notes       = "records the target; alerts about a move, with what would be re-encrypted"
		worst       = "that of the worst finding, else info"
		opened      = "critical where the event opened the key to everyone or to an untrusted account, and the actor may not do that; else none"
		// wouldContain and contains are about a key that was opened so.
		wouldContain = "alerts with what would be done, or that the key is in use"
		contains     = "disables the key, unless it is in use, and verifies that"
	)
	all := []row{
		{on: call("DisableKeyRotation"), reaction: rotation, refused: finding.Medium,
			severity: "high; critical where the circuit breaker opens (`CMKEEPER_FLAP_LIMIT`)", observe: "alerts with what would be done", enforce: turnsOn},
		{on: call("EnableKeyRotation"), reaction: rotation,
			severity: "medium where the period is longer than `CMKEEPER_ROTATION_PERIOD_DAYS`, low where it is longer than it was; else none", observe: "alerts about a longer period",
			enforce: "sets the period to `CMKEEPER_ROTATION_PERIOD_DAYS` and verifies it"},
		{on: call("CreateKey"), reaction: policy, severity: worst, observe: judges},
		{on: call("CreateKey"), reaction: contain, severity: opened, observe: wouldContain, enforce: contains}, // replicas made in this Region, too
		{on: call("CreateKey"), reaction: rotation, severity: rotationOff, observe: checks, enforce: turnsOn},
		{on: call("CancelKeyDeletion"), reaction: rotation, severity: "none", observe: "records the key's state; rotation is checked when the key is enabled, because it is Disabled now"},
		{on: call("ImportKeyMaterial"), reaction: rotation, severity: "none", observe: "records the key's state; such keys do not rotate automatically"},
		{on: call("ImportKeyMaterial"), reaction: material, refused: finding.Medium,
			severity: "medium where the material expires, high within 30 days, else none", observe: "alerts with the expiry date"},
		{on: call("UpdatePrimaryRegion"), reaction: rotation, severity: rotationOff, observe: checks, enforce: turnsOn},
		{on: call("UpdatePrimaryRegion"), reaction: primary, refused: finding.Medium,
			severity: "medium; info where the primary moves to this Region", observe: "alerts where rotation has to be guarded from now on"},
		{on: call("RotateKeyOnDemand"), reaction: rotated, severity: "none; medium from the third time within 30 days", observe: records},
		{on: service("RotateKey"), reaction: rotated, severity: "none", observe: records},
		{on: native(events.NativeRotation), reaction: rotated, severity: "none", observe: records},

		{on: call("PutKeyPolicy"), reaction: policy, refused: finding.High, severity: worst, observe: judges,
			enforce: "where it has a new finding of `CMKEEPER_POLICY_RESTORE_SEVERITY` or worse, restores the recorded good policy and verifies it"},
		{on: call("PutKeyPolicy"), reaction: contain, severity: opened, observe: wouldContain, enforce: contains},
		{on: call("CreateGrant"), reaction: contain, severity: opened, observe: wouldContain, enforce: contains},
		{on: call("EnableKey"), reaction: contain, severity: "critical where the key was contained and is still open; else none",
			observe: "alerts that it is still open", enforce: "disables it again where the actor who opened it enabled it"},
		{on: call("EnableKey"), reaction: rotation, severity: rotationOff, observe: checks, enforce: turnsOn},
		{on: call("ReplicateKey"), reaction: policy, refused: finding.Medium, severity: worst, observe: "judges the policy that the replica was created with"},

		{on: call("ScheduleKeyDeletion"), reaction: deletion, refused: finding.High,
			severity: lost, observe: "alerts with the date, what depends on the key, and what would be done", enforce: "cancels the deletion, and enables the key if it was Enabled before"},
		{on: call("DisableKey"), reaction: deletion, refused: finding.High,
			severity: lost, observe: "alerts with what depends on the key, and what would be done", enforce: "enables the key if it was Enabled before"},
		{on: call("DeleteImportedKeyMaterial"), reaction: deletion, refused: finding.High, severity: "critical; medium where the material was imported again", observe: again},
		{on: service("DeleteExpiredKeyMaterial"), reaction: deletion, severity: "critical; medium where the material was imported again", observe: again},
		{on: native(events.NativeExpiry), reaction: deletion, severity: "critical; medium where the material was imported again", observe: again},
		{on: service("DeleteKey"), reaction: deletion, severity: "critical; medium where the deletion was approved, or the key still exists", observe: "alerts once that the key is deleted"},
		{on: native(events.NativeDeletion), reaction: deletion, severity: "critical; medium where the deletion was approved, or the key still exists", observe: "alerts once that the key is deleted"},

		{on: call("CreateGrant"), reaction: grant, refused: finding.Medium,
			severity: "that of the worst finding: critical where an untrusted account may make further grants, high where it may use the key, low where only a constraint is missing; none without findings, and for grants that AWS services make for themselves",
			observe:  "judges the live grant"},
		{on: call("RevokeGrant"), reaction: grantEnd, refused: finding.Medium, severity: "low; none where an AWS service called", observe: "alerts that uses of the key through the grant now fail"},
		{on: call("RetireGrant"), reaction: grantEnd, severity: "none", observe: "logs it"},

		{on: call("TagResource"), reaction: tags, refused: finding.Medium, severity: tagging, observe: "alerts about tags that have an effect: `cmkeeper:…`, those of exemptions and of [judgement](judgement.md), and `CMKEEPER_WATCHED_TAGS`"},
		{on: call("UntagResource"), reaction: tags, refused: finding.Medium, severity: tagging, observe: "alerts about tags that have an effect: `cmkeeper:…`, those of exemptions and of [judgement](judgement.md), and `CMKEEPER_WATCHED_TAGS`"},

		{on: call("UpdateKeyDescription"), reaction: canary, severity: "medium where somebody gave the key in `CMKEEPER_CANARY_KEY` a description that is not cmkeeper's; else none",
			observe: "for that key, [proves that events arrive](decisions/canary.md) where the call was cmkeeper's own; else alerts that no canary is sent any more"},

		{on: call("CreateCustomKeyStore"), reaction: keyStore, refused: finding.Medium, severity: "medium", observe: "alerts"},
		{on: call("UpdateCustomKeyStore"), reaction: keyStore, refused: finding.High, severity: "high", observe: "alerts, with the store's keys"},
		{on: call("ConnectCustomKeyStore"), reaction: keyStore, severity: "info", observe: "alerts, with the store's keys"},
		{on: call("DisconnectCustomKeyStore"), reaction: keyStore, refused: finding.High,
			severity: "critical where the store has keys, high where that cannot be read, else medium", observe: "alerts with the keys that can no longer be used"},
		{on: call("DeleteCustomKeyStore"), reaction: keyStore, refused: finding.High, severity: "high", observe: "alerts"},

		{on: call("CreateAlias"), reaction: alias, refused: finding.Medium, severity: moved, observe: notes, enforce: "starts the re-encryption"},
		{on: call("UpdateAlias"), reaction: alias, refused: finding.Medium, severity: moved, observe: notes, enforce: "starts the re-encryption"},
		{on: call("DeleteAlias"), reaction: alias, refused: finding.Medium,
			severity: "high where buckets use it, medium where `CMKEEPER_REENCRYPT_ALIASES` lists it, else none", observe: "records the deletion, so that creating the alias again for another key is a move; alerts with the buckets that use it"},

		{on: route{source: events.SourceS3, kind: events.ServiceEvent, name: batchStatusChanged}, reaction: batch,
			severity: "none", observe: "checks the S3 Batch Operations jobs of our re-encryptions, which publish their own alerts"},
		{on: route{kind: events.Scheduled}, reaction: sweep,
			severity: "as for the events that were missed", observe: "reconciles every key, alias, bucket and unfinished job; sends reminders of deletions, of expiring key material, and of old key material that KMS cannot rotate (`CMKEEPER_MANUAL_ROTATION_DAYS`); asks AWS Config once a day how storage is encrypted (`CMKEEPER_CONFIG_CHECKS`)"},
	}
	guard := func(source, severity, observe string, names ...string) {
		for _, name := range names {
			all = append(all, row{on: other(source, name), reaction: tamper, refused: finding.High, severity: severity, observe: observe})
		}
	}
	guard(events.SourceCloudTrail, "critical", blinded, "StopLogging", "DeleteTrail")
	guard(events.SourceCloudTrail, "medium", "alerts; the event shows no more than the trail's name", "UpdateTrail")
	guard(events.SourceCloudTrail, "critical where no event selector logs changes of KMS keys any more, high where only some are logged, else none", "alerts with what the trail logs now", "PutEventSelectors")
	guard(events.SourceEventBridge, "critical", blinded, "DisableRule", "DeleteRule", "RemoveTargets")
	guard(events.SourceEventBridge, "critical where the rule is disabled, else high", "alerts with state and pattern", "PutRule")
	guard(events.SourceEventBridge, "medium", "alerts", "PutTargets")
	guard(events.SourceSQS, "critical", blinded, "DeleteQueue", "PurgeQueue")
	guard(events.SourceSQS, "high; none where it only tunes visibility, delay and polling", "alerts with what was set", "SetQueueAttributes")
	guard(events.SourceSNS, "critical", blinded, "DeleteTopic")
	guard(events.SourceSNS, "high; none for the topic's display name", "alerts with the attribute", "SetTopicAttributes")
	guard(events.SourceSNS, "high", "alerts", "Unsubscribe", "SetSubscriptionAttributes")
	for _, name := range []string{"PutBucketEncryption", "DeleteBucketEncryption"} {
		all = append(all, row{on: other(events.SourceS3, name), reaction: bucketDefault, refused: finding.Medium,
			severity: "critical for a key of an untrusted account; high where the key is not that of the alias in the tag `cmkeeper:alias`, or where the bucket had a key and has none now; medium for another key than before; else none",
			observe:  "compares the bucket's default encryption with the tag and with what it was before"})
	}
	for _, name := range []string{"PutBucketPolicy", "DeleteBucketPolicy"} {
		all = append(all, row{on: other(events.SourceS3, name), reaction: bucketPolicy,
			severity: "medium, high for a bucket with the tag `cmkeeper:alias`; none where the policy still denies such uploads or never did",
			observe:  "checks whether the policy still denies uploads by their encryption, if it did before"})
	}
	for _, name := range []string{"PutBucketTagging", "DeleteBucketTagging"} {
		all = append(all, row{on: other(events.SourceS3, name), reaction: bucketTags,
			severity: "medium where the tag `cmkeeper:alias` names other aliases than before, else none", observe: "compares the bucket's tag with what it was before"})
	}
	plain := "medium where it is not encrypted, once an hour for each actor; high for a key of an untrusted account; else none"
	all = append(all,
		row{on: other(events.SourceEC2, "CreateVolume"), reaction: newData, severity: plain, observe: "alerts with what was created"},
		row{on: other(events.SourceEC2, "DisableEbsEncryptionByDefault"), reaction: newData, refused: finding.Medium, severity: "high", observe: "alerts"},
		row{on: other(events.SourceRDS, "CreateDBInstance"), reaction: newData, severity: plain, observe: "alerts with what was created; for an instance of a cluster, the cluster's alert"},
		row{on: other(events.SourceRDS, "CreateDBCluster"), reaction: newData, severity: plain, observe: "alerts with what was created"},
	)
	const noted = "info; none where another alert tells of the call"
	all = append(all,
		row{on: call("CreateKey"), reaction: note(alert.KindPolicy), severity: noted, observe: "alerts that there is a new key"},
		row{on: call("CancelKeyDeletion"), reaction: note(alert.KindDeletion), severity: noted, observe: "alerts with the key's state"},
		row{on: call("EnableKeyRotation"), reaction: note(alert.KindRotation), severity: noted, observe: "alerts"},
	)
	for _, name := range events.Uses() {
		all = append(all, row{on: route{source: events.SourceKMS, kind: events.APICall, name: name, unusable: true}, reaction: use,
			severity: "high where the key's deletion is pending, medium where it is disabled or unavailable; none where the key works again",
			observe:  "alerts with key, caller, operation and the resource that the call names, once an hour for each key and caller"})
	}
	return all
}

// skipNoCanary says why an event is not about the canary key, or "".
func skipNoCanary(c *reaction.Case) string {
	if c.Config.CanaryKey == "" || c.Event.KeyARN != c.Config.CanaryKey {
		return "its key is not CMKEEPER_CANARY_KEY"
	}
	return skipForeign(c)
}

// watch is everything that is done about an event.
type watch struct {
	reactions []react
	// refused is the severity of the alert about a refused attempt, "" where there is none.
	refused finding.Severity
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

// routeOf is where an event goes.
func routeOf(e events.Event) route {
	if e.Kind == events.Scheduled {
		return route{kind: e.Kind}
	}
	return route{source: e.Source, kind: e.Kind, name: e.Name, unusable: isUnusable(e)}
}

// EventNames returns the names of all events that have a row in the event table, and of
// the fleet's own messages. Any other name is the sender's choice, and is no label of a
// metric.
func EventNames() []string {
	names := []string{ownSchedule, ownShard, ownFlush}
	for _, line := range rows() {
		if line.on.kind != events.Scheduled {
			names = append(names, line.on.name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// ReactionNames returns the first words of the names of all reactions, to events and in
// sweeps.
func ReactionNames() []string {
	names := []string{
		"refused", "impostor", "standing", "account", // beside the rows
		"access", "alias", "bucket", "notes", "unread", "reminder", "untold", "role", ledger.ReactionContain, // of sweeps
	}
	for _, line := range rows() {
		if line.reaction.decide != nil {
			names = append(names, line.reaction.name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Exemptible are the kinds of occurrences that can be exempt, as exemptions name
// them: those that the event table has an alert for. Alerts about cmkeeper
// itself and about its own re-encryptions are not among them.
func Exemptible() []string {
	var kinds []string
	for _, w := range rows() {
		switch kind := w.reaction.alert; kind {
		case "", alert.KindGuard, alert.KindReencryption:
		default:
			if !slices.Contains(kinds, string(kind)) {
				kinds = append(kinds, string(kind))
			}
		}
	}
	return kinds
}

// Streams are the events that have to reach the queue for the rows to be of use: those that
// the rules of docs/events.md pass.
func Streams(c reaction.Config) []guard.Stream {
	keys := guard.Stream{
		Name: "keys", About: "about keys", Lost: finding.Critical, Narrowed: finding.High,
		Risk: "cmkeeper does not learn of these changes when they are made, and not who makes them; only its sweeps find what can still be read. Attackers often do this first.",
	}
	blinding := guard.Stream{
		Name: "guard", About: "about what cmkeeper itself needs", Lost: finding.High, Narrowed: finding.Medium, Choice: true,
		Risk: "Calls that cut cmkeeper off are noticed by the next sweep, without the name of who made them.",
	}
	data := guard.Stream{
		Name: "data", About: "about data outside of the guarded keys", Lost: finding.Medium, Narrowed: finding.Low, Choice: true,
		Risk: "Data that is stored without the expected key is noticed late or not at all.",
	}
	use := guard.Stream{
		Name: "uses", About: "about failed uses of keys", Lost: finding.Medium, Narrowed: finding.Medium,
		Risk: "CMKEEPER_FAILED_USE is on, and nobody learns who needs a key that cannot be used.",
	}
	for _, w := range rows() {
		e := guard.Event{Source: eventBridgeSource(w.on.source), DetailType: guard.CallDetailType, EventSource: w.on.source, Name: w.on.name}
		switch {
		case w.on.kind == events.Native:
			keys.Events = append(keys.Events, guard.Event{Source: events.SourceNative, DetailType: w.on.name})
		case w.on.unusable:
			for _, e.ErrorCode = range unusableCodes {
				e.Reads = true
				use.Events = append(use.Events, e)
			}
		case w.on.source == events.SourceKMS:
			if w.on.kind == events.ServiceEvent {
				e.DetailType = guard.ServiceDetailType
			}
			keys.Events = append(keys.Events, e)
		case w.on.kind != events.APICall: // the schedule, and S3's own events about batch jobs
		case slices.Contains([]string{events.SourceS3, events.SourceEC2, events.SourceRDS}, w.on.source):
			data.Events = append(data.Events, e)
		default:
			blinding.Events = append(blinding.Events, e)
		}
	}
	all := []guard.Stream{keys, blinding, data}
	if c.FailedUse {
		all = append(all, use)
	}
	for i := range all { // several reactions to one event are one event
		all[i].Events = distinct(all[i].Events)
	}
	return all
}

func distinct(events []guard.Event) (once []guard.Event) {
	for _, e := range events {
		if !slices.Contains(once, e) {
			once = append(once, e)
		}
	}
	return once
}

// eventBridgeSource is what EventBridge makes of a record's eventSource.
func eventBridgeSource(source string) string {
	service, _, _ := strings.Cut(source, ".")
	return "aws." + service
}

// lost says why no sweep tells what an event of a row was about when it is lost, "" where
// one does.
func lost(w row) string {
	const (
		left      = "the call leaves nothing that can be read later"
		elsewhere = "its effect is in another Region, where the cmkeeper of that Region finds it"
		ours      = "told not as this change, but by the checks of [what the guard needs](operations.md#does-the-guard-see) that each sweep makes, where it keeps events or alerts from arriving"
		data      = "volumes, databases and their snapshots are not read"
	)
	if w.on.unusable {
		return left
	}
	switch w.reaction.name {
	case "note":
		return "the call does no harm; what it ended is told as over by sweeps"
	case "tamper":
		return ours
	case selfcheck.CanaryName:
		return "the next sweep sends no canary, and says so"
	case "primary":
		return "the key is guarded where its primary is; here it is judged as a replica"
	case "rotated":
		return "how often a key was rotated on demand is counted by events only"
	}
	switch w.on.name {
	case "ReplicateKey":
		return elsewhere
	case "RevokeGrant":
		return "grants that are gone are not listed, and those that reach nobody outside are not noted"
	case "DeleteKey", events.NativeDeletion:
		return "KMS does not list keys that are deleted; the pending deletion is told, and reminded of"
	case "CreateVolume", "CreateDBInstance", "CreateDBCluster":
		return data
	}
	return ""
}
