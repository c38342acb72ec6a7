package handlers

import (
	"github.com/cmkeeper/cmkeeper/events"
)

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
	case reactionCanary:
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
