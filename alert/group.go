package alert

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/state"
)

// group is whose alerts are told together.
type group struct {
	// id is one segment of a key in the state bucket.
	id string
	// name is the role's or user's ARN, or what a sweep found; short is a few words.
	name, short string
}

// groupOf returns the group of an alert, and whether it has one: the actor, else, for
// what sweeps and AWS itself did, the kind. What a job tells stands alone.
func groupOf(a Alert) (group, bool) {
	var g group
	switch {
	case a.Kind == "", a.Kind == KindReencryption, a.Kind == KindIncident:
		return group{}, false
	case a.hasActor():
		g.name = actorARN(a.Actor.ARN)
		_, g.short, _ = strings.Cut(g.name, "::")
		if _, resource, ok := strings.Cut(g.short, ":"); ok {
			g.short = strings.TrimPrefix(resource, "assumed-")
		}
	default:
		g.name = "no actor: " + string(a.Kind)
		g.short = "AWS or unknown"
		if a.EventName == sweepEvent {
			g.name, g.short = "sweep: "+string(a.Kind), "a sweep"
		}
	}
	sum := sha256.Sum256([]byte(g.name + "\n" + a.Account + "\n" + a.Region))
	g.id = hex.EncodeToString(sum[:16])
	return g, true
}

func (a Alert) hasActor() bool { return a.Actor != nil && a.Actor.ARN != "" }

// sweepEvent is the EventName of what sweeps find.
const sweepEvent = "Sweep"

// actorARN is the ARN of the role where arn is one of its sessions: a pipeline opens a
// new one for every run. In a role of IAM Identity Center the session is the person,
// and stays.
func actorARN(arn string) string {
	const role = ":assumed-role/"
	if i := strings.Index(arn, role); i >= 0 && !strings.HasPrefix(arn[i+len(role):], ssoRole) {
		if j := strings.LastIndexByte(arn, '/'); j > i+len(role) {
			return arn[:j]
		}
	}
	return arn
}

// ssoRole begins the names of the roles of IAM Identity Center.
const ssoRole = "AWSReservedSSO_"

// How a group's time is divided. Its alerts come in periods, which end when it has been
// quiet; in a period the first alert of each event is told at once, and the others in slots.
const (
	quiet         = 10 * time.Minute
	longestPeriod = time.Hour
)

// What makes an incident of the calls that an actor made within a period: so many
// different dangerous events, or so many keys that may be lost.
const (
	incidentEvents = 3
	incidentKeys   = 3
)

// placement names a decision about when an alert is told.
type placement string

const (
	placeFirst    placement = "first"    // at once: an event that the group has not told, or not as critical
	placeIncident placement = "incident" // at once: it makes an incident of what the group did
	placeCollect  placement = "collect"  // when its slot closes
)

// marks are what is noted of a period, each as the name of an object:
// "high/policy-PutKeyPolicy" and "critical/deletion-ScheduleKeyDeletion" (an alert of this
// severity, kind and event came, and the first was told at once), "danger/DisableKey" (a
// dangerous event), "key/…" (a key that may be lost), "incident".
type marks map[string]bool

const (
	markHigh     = "high/"
	markCritical = "critical/"
	markDanger   = "danger/"
	markKey      = "key/"
	markIncident = "incident"
)

type placeDecision struct {
	reason placement
	// claim is the mark that only one alert can set, the one which is told; "" where none is.
	claim string
	// notes are the marks to be set in any case.
	notes []string
}

// decidePlace decides when an alert is told.
func decidePlace(a Alert, m marks) placeDecision {
	// One event may have alerts of several kinds, and each is news.
	high, critical := markHigh+state.Segment(string(a.Kind)+"-"+a.EventName), markCritical+state.Segment(string(a.Kind)+"-"+a.EventName)
	own := ""
	switch {
	case a.Severity.AtLeast(finding.Critical):
		own = critical
	case a.Severity.AtLeast(finding.High):
		own = high
	}
	var notes []string
	if danger := markDanger + state.Segment(a.EventName); isDangerous(a) && !m[danger] {
		notes = append(notes, danger)
	}
	if losesKey(a) {
		if key := markKey + state.Segment(a.Key.ARN); !m[key] && m.count(markKey) < incidentKeys {
			notes = append(notes, key)
		}
	}
	urgent := own != "" && !m[high] && !m[critical] || a.Severity.AtLeast(finding.Critical) && m.count(markCritical) == 0
	if m[markIncident] { // people know: only what is worst is worth another message at once
		urgent = a.Severity.AtLeast(finding.Critical) && !m[own]
	}
	after := maps.Clone(m)
	for _, name := range notes {
		after[name] = true
	}
	incident := !m[markIncident] && isDangerous(a) && (after.count(markDanger) >= incidentEvents || after.count(markKey) >= incidentKeys)
	switch {
	case urgent && !incident:
		return placeDecision{reason: placeFirst, claim: own, notes: notes}
	case own != "" && !m[own]:
		notes = append(notes, own)
	}
	if incident {
		return placeDecision{reason: placeIncident, notes: notes}
	}
	return placeDecision{reason: placeCollect, notes: notes}
}

// isDangerous reports whether an alert counts towards an incident: an actor did something
// that is of severity medium or above. Who needs a key that somebody else disabled did
// nothing, and what is new can be wrong but takes nothing away.
func isDangerous(a Alert) bool {
	switch {
	case !a.hasActor(), !a.Severity.AtLeast(finding.Medium), a.Kind == KindUse:
		return false
	case a.Kind == KindGrant, a.Kind == KindAlias:
		return true
	}
	return !strings.HasPrefix(a.EventName, "Create")
}

// losesKey reports whether an alert is about a key that cannot be used, or will not exist.
func losesKey(a Alert) bool {
	switch a.EventName {
	case "ScheduleKeyDeletion", "DisableKey", "DeleteImportedKeyMaterial":
		return a.Key != nil && a.Key.ARN != "" && a.Kind != KindAccess && a.Severity.AtLeast(finding.High)
	}
	return false
}

func (m marks) count(prefix string) int {
	n := 0
	for name := range m {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}
