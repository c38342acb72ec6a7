package handlers

import (
	"context"
	"slices"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
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
	// skip says why an event is none of the reaction's business, or "".
	skip   func(*reaction.Case) string
	decide decider
}

// row is one line of the event table: an event, a reaction to it, and in words
// what that comes to. docs/events.md is made of the rows.
type row struct {
	on       route
	reaction react
	// severity is the rule for the severity of the alert, "none" where there is none.
	severity string
	// refused is the severity of an alert about an attempt at the call that AWS
	// refused, "" where none is told.
	refused finding.Severity
	// observe is what is done in mode observe, and enforce what mode enforce does
	// instead; "" where it does nothing else.
	observe, enforce string
}

// The S3 event that says that a job of S3 Batch Operations has changed.
const batchStatusChanged = "JobStatusChanged"

// rows is the event table: what is not in it, nothing reacts to.
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
		keyStore      = react{"key-store", alert.KindKeyStore, nil, "", skipElsewhere, keyStore}
		tamper        = react{"tamper", alert.KindGuard, nil, "", skipOthersSetUp, tamper}
		bucketDefault = react{"defaults", alert.KindEncryption, nil, "", skipNoBucket, bucketSettings}
		bucketPolicy  = react{"defaults", alert.KindEncryption, nil, "", skipNoBucket, bucketPolicy}
		bucketTags    = react{"bucket-tags", alert.KindTag, nil, "", skipNoBucket, bucketSettings}
		newData       = react{"new-data", alert.KindEncryption, nil, "", skipElsewhere, newData}
		batch         = react{"batch", alert.KindReencryption, nil, "", skipNothing, batchChanged}
		sweep         = react{"sweep", "", nil, "", skipNothing, nil} // Router.Sweep: each part of it obeys its own mode
	)

	call := func(name string) route { return route{source: events.SourceKMS, kind: events.APICall, name: name} }
	service := func(name string) route { return route{source: events.SourceKMS, kind: events.ServiceEvent, name: name} }
	other := func(source, name string) route {
		return route{source: source, kind: events.APICall, name: name}
	}
	native := func(name string) route { return route{source: events.SourceNative, kind: events.Native, name: name} }

	const (
		lost        = "critical; medium where the key is neither pending nor disabled any more, or `cmkeeper retire schedule` approved the deletion; info where its tag does; at least high where the waiting period is too short"
		rotationOff = "high; medium where rotation was never seen on and is required"
		looks       = "looks whether rotation is on that was on before, or is required; tells if not"
		turnsOn     = "turns rotation on with the key's former period and reads it back"
		judges      = "judges the live policy, tells findings and what changed in effect"
		again       = "tells that the material has to be imported again"
		blinded     = "tells, while it can"
		records     = "logs it and notes it in the key's document"
		tagging     = "high where a deletion is approved, else medium; none where the value was known before"
		moved       = "medium; high where the new key must not be trusted"
		notes       = "notes the target, tells of a move and what would be re-encrypted"
		worst       = "that of the worst finding, else info"
		opened      = "critical where the event opened the key to everyone or to an account that is not trusted, and the actor may not do that; else none"
		// wouldContain and contains are about a key that was opened so.
		wouldContain = "tells what would be done, or that the key is in use"
		contains     = "disables the key, unless it is in use, and reads it back"
	)
	all := []row{
		{on: call("DisableKeyRotation"), reaction: rotation, refused: finding.Medium,
			severity: "high; critical where it was turned off too often (`CMKEEPER_FLAP_LIMIT`)", observe: "tells what would be done", enforce: turnsOn},
		{on: call("EnableKeyRotation"), reaction: rotation,
			severity: "medium where the period is longer than `CMKEEPER_ROTATION_PERIOD_DAYS`; else none", observe: "tells of a longer period",
			enforce: "sets the period to `CMKEEPER_ROTATION_PERIOD_DAYS` and reads it back"},
		{on: call("CreateKey"), reaction: policy, severity: worst, observe: judges},
		{on: call("CreateKey"), reaction: contain, severity: opened, observe: wouldContain, enforce: contains}, // replicas made in this Region, too
		{on: call("CreateKey"), reaction: rotation, severity: rotationOff, observe: looks, enforce: turnsOn},
		{on: call("CancelKeyDeletion"), reaction: rotation, severity: "none", observe: "notes the key's state; rotation is looked at when the key is enabled, since it is Disabled now"},
		{on: call("ImportKeyMaterial"), reaction: rotation, severity: "none", observe: "notes the key's state; such keys do not rotate by themselves"},
		{on: call("ImportKeyMaterial"), reaction: material, refused: finding.Medium,
			severity: "medium where the material expires, high within 30 days, else none", observe: "tells until when the material lasts"},
		{on: call("UpdatePrimaryRegion"), reaction: rotation, severity: rotationOff, observe: looks, enforce: turnsOn},
		{on: call("UpdatePrimaryRegion"), reaction: primary, refused: finding.Medium,
			severity: "medium; info where the primary comes to this Region", observe: "tells where rotation has to be guarded from now on"},
		{on: call("RotateKeyOnDemand"), reaction: rotated, severity: "none; medium from the third within 30 days on", observe: records},
		{on: service("RotateKey"), reaction: rotated, severity: "none", observe: records},
		{on: native(events.NativeRotation), reaction: rotated, severity: "none", observe: records},

		{on: call("PutKeyPolicy"), reaction: policy, refused: finding.High, severity: worst, observe: judges,
			enforce: "where it has a new finding of `CMKEEPER_POLICY_RESTORE_SEVERITY` or worse, puts the recorded good policy back and reads it back"},
		{on: call("PutKeyPolicy"), reaction: contain, severity: opened, observe: wouldContain, enforce: contains},
		{on: call("CreateGrant"), reaction: contain, severity: opened, observe: wouldContain, enforce: contains},
		{on: call("EnableKey"), reaction: contain, severity: "critical where the key was contained and is still open; else none",
			observe: "tells that it is still open", enforce: "disables it again where the one who opened it enabled it"},
		{on: call("EnableKey"), reaction: rotation, severity: rotationOff, observe: looks, enforce: turnsOn},
		{on: call("ReplicateKey"), reaction: policy, refused: finding.Medium, severity: worst, observe: "judges the policy that the replica was made with"},

		{on: call("ScheduleKeyDeletion"), reaction: deletion, refused: finding.High,
			severity: lost, observe: "tells the date, what hangs on the key, and what would be done", enforce: "cancels the deletion, and enables the key if it was Enabled before"},
		{on: call("DisableKey"), reaction: deletion, refused: finding.High,
			severity: lost, observe: "tells what hangs on the key, and what would be done", enforce: "enables the key if it was Enabled before"},
		{on: call("DeleteImportedKeyMaterial"), reaction: deletion, refused: finding.High, severity: "critical; medium where the material is there again", observe: again},
		{on: service("DeleteExpiredKeyMaterial"), reaction: deletion, severity: "critical; medium where the material is there again", observe: again},
		{on: native(events.NativeExpiry), reaction: deletion, severity: "critical; medium where the material is there again", observe: again},
		{on: service("DeleteKey"), reaction: deletion, severity: "critical; medium where the deletion was approved, or the key still exists", observe: "tells that the key is gone, once"},
		{on: native(events.NativeDeletion), reaction: deletion, severity: "critical; medium where the deletion was approved, or the key still exists", observe: "tells that the key is gone, once"},

		{on: call("CreateGrant"), reaction: grant, refused: finding.Medium,
			severity: "that of the worst finding: critical where an account that is not trusted may decrypt anything, low where only a constraint is missing; none without findings, and for what AWS services make for themselves",
			observe:  "judges the live grant"},
		{on: call("RevokeGrant"), reaction: grantEnd, refused: finding.Medium, severity: "low; none where an AWS service called", observe: "tells that what used the key by it fails now"},
		{on: call("RetireGrant"), reaction: grantEnd, severity: "none", observe: "logs it"},

		{on: call("TagResource"), reaction: tags, refused: finding.Medium, severity: tagging, observe: "tells of tags that cmkeeper goes by: `cmkeeper:…`, those of exemptions and of [judgement](judgement.md), and `CMKEEPER_WATCHED_TAGS`"},
		{on: call("UntagResource"), reaction: tags, refused: finding.Medium, severity: tagging, observe: "tells of tags that cmkeeper goes by: `cmkeeper:…`, those of exemptions and of [judgement](judgement.md), and `CMKEEPER_WATCHED_TAGS`"},

		{on: call("CreateCustomKeyStore"), reaction: keyStore, refused: finding.Medium, severity: "medium", observe: "tells"},
		{on: call("UpdateCustomKeyStore"), reaction: keyStore, refused: finding.High, severity: "high", observe: "tells, with the store's keys"},
		{on: call("ConnectCustomKeyStore"), reaction: keyStore, severity: "info", observe: "tells, with the store's keys"},
		{on: call("DisconnectCustomKeyStore"), reaction: keyStore, refused: finding.High,
			severity: "critical where the store has keys, high where that cannot be read, else medium", observe: "tells which keys cannot be used from now on"},
		{on: call("DeleteCustomKeyStore"), reaction: keyStore, refused: finding.High, severity: "high", observe: "tells"},

		{on: call("CreateAlias"), reaction: alias, refused: finding.Medium, severity: moved, observe: notes, enforce: "starts the re-encryption"},
		{on: call("UpdateAlias"), reaction: alias, refused: finding.Medium, severity: moved, observe: notes, enforce: "starts the re-encryption"},
		{on: call("DeleteAlias"), reaction: alias, refused: finding.Medium,
			severity: "high where buckets name it, medium where `CMKEEPER_REENCRYPT_ALIASES` lists it, else none", observe: "notes that the alias is gone, so that making it again elsewhere is a move; tells who needs it"},

		{on: route{source: events.SourceS3, kind: events.ServiceEvent, name: batchStatusChanged}, reaction: batch,
			severity: "none", observe: "looks at the batch jobs of our re-encryptions; they tell by themselves"},
		{on: route{kind: events.Scheduled}, reaction: sweep,
			severity: "as for the events that were missed", observe: "reconciles every key, alias and unfinished job; reminds of deletions and of expiring key material"},
	}
	guard := func(source, severity, observe string, names ...string) {
		for _, name := range names {
			all = append(all, row{on: other(source, name), reaction: tamper, refused: finding.High, severity: severity, observe: observe})
		}
	}
	guard(events.SourceCloudTrail, "critical", blinded, "StopLogging", "DeleteTrail")
	guard(events.SourceCloudTrail, "medium", "tells, since no more than the trail's name shows", "UpdateTrail")
	guard(events.SourceCloudTrail, "critical where no event selector takes down changes of KMS keys any more, high where only some of them, else none", "tells what the trail takes down now", "PutEventSelectors")
	guard(events.SourceEventBridge, "critical", blinded, "DisableRule", "DeleteRule", "RemoveTargets")
	guard(events.SourceEventBridge, "critical where the rule is disabled, else high", "tells state and pattern", "PutRule")
	guard(events.SourceEventBridge, "medium", "tells", "PutTargets")
	guard(events.SourceSQS, "critical", blinded, "DeleteQueue", "PurgeQueue")
	guard(events.SourceSQS, "high; none where it only tunes visibility, delay and polling", "tells what was set", "SetQueueAttributes")
	guard(events.SourceSNS, "critical", "tells, while it can", "DeleteTopic")
	guard(events.SourceSNS, "high; none for the topic's display name", "tells which attribute", "SetTopicAttributes")
	guard(events.SourceSNS, "high", "tells", "Unsubscribe", "SetSubscriptionAttributes")
	for _, name := range []string{"PutBucketEncryption", "DeleteBucketEncryption"} {
		all = append(all, row{on: other(events.SourceS3, name), reaction: bucketDefault, refused: finding.Medium,
			severity: "critical for a key of an account that is not trusted; high where it is not that of the alias in the tag `cmkeeper:alias`, or none where there was one; medium for another key than before; else none",
			observe:  "reads the bucket's default and compares it with the tag and with what it was"})
	}
	for _, name := range []string{"PutBucketPolicy", "DeleteBucketPolicy"} {
		all = append(all, row{on: other(events.SourceS3, name), reaction: bucketPolicy,
			severity: "medium, high for a bucket with the tag `cmkeeper:alias`; none where the policy still denies or never did",
			observe:  "reads whether the policy still denies uploads for their encryption, if it did before"})
	}
	for _, name := range []string{"PutBucketTagging", "DeleteBucketTagging"} {
		all = append(all, row{on: other(events.SourceS3, name), reaction: bucketTags,
			severity: "medium where the tag `cmkeeper:alias` names other aliases than before, else none", observe: "reads the bucket's tags and tells"})
	}
	plain := "medium where it is not encrypted, once an hour for an actor; high for a key of an account that is not trusted; else none"
	all = append(all,
		row{on: other(events.SourceEC2, "CreateVolume"), reaction: newData, severity: plain, observe: "tells what was made how"},
		row{on: other(events.SourceEC2, "DisableEbsEncryptionByDefault"), reaction: newData, refused: finding.Medium, severity: "high", observe: "tells"},
		row{on: other(events.SourceRDS, "CreateDBInstance"), reaction: newData, severity: plain, observe: "tells what was made how; an instance of a cluster is told with the cluster"},
		row{on: other(events.SourceRDS, "CreateDBCluster"), reaction: newData, severity: plain, observe: "tells what was made how"},
	)
	for _, name := range uses {
		all = append(all, row{on: route{source: events.SourceKMS, kind: events.APICall, name: name, unusable: true}, reaction: use,
			severity: "high where the key's deletion is pending, medium where it is disabled or unavailable; none where it works again",
			observe:  "tells key, caller and operation, once an hour for a key and a caller"})
	}
	return all
}

// watch is everything that is done about an event.
type watch struct {
	reactions []react
	// refused is the severity of a refused attempt, "" where none is told.
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

// Exemptible are the kinds of occurrences that can be exempt, as exemptions name
// them: those that the event table has an alert for. What is done to the guard
// itself, and what it does itself, is not among them.
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
