package alert

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/state"
)

// group is an actor, or a sweep, whose alerts are published together.
type group struct {
	// id is one segment of a key in the state bucket.
	id string
	// name is the role's or user's ARN, or what a sweep found; short is a few words.
	name, short string
}

// groupOf returns the group of an alert, and whether it has one: the actor, or the kind
// for what sweeps and AWS itself did. Alerts of jobs, and those of many alerts, have none.
func groupOf(a Alert) (group, bool) {
	var g group
	switch {
	case a.Kind == "", a.Kind == KindReencryption, a.Kind == KindIncident, a.Digest != nil:
		return group{}, false
	case a.hasActor():
		g.name = actorARN(a.Actor.ARN)
		_, g.short, _ = strings.Cut(g.name, "::")
		if _, resource, ok := strings.Cut(g.short, ":"); ok {
			g.short = strings.TrimPrefix(resource, "assumed-")
		}
		if a.Actor.Unconfirmed { // forged messages are not grouped with alerts about the real actor
			g.name, g.short = g.name+" (unconfirmed)", g.short+" (unconfirmed)"
		}
	default:
		g.name = "no actor: " + string(a.Kind)
		g.short = "AWS or unknown"
		if a.EventName == sweepEvent {
			g.name, g.short = "sweep: "+string(a.Kind), "a sweep"
		}
		if a.Resolves != "" { // of whatever kind
			g.name, g.short = "what is over", "AWS or unknown"
		}
	}
	if a.isNote() {
		g.name, g.short = g.name+", notes", g.short+", notes"
	}
	sum := sha256.Sum256([]byte(g.name + "\n" + a.Account + "\n" + a.Region))
	g.id = hex.EncodeToString(sum[:16])
	return g, true
}

// isNote reports whether an alert says that nothing is wrong, or not any more. Those are
// grouped apart from alerts about problems, for every actor.
func (a Alert) isNote() bool { return a.Resolves != "" || strings.HasSuffix(a.ID, NoteSuffix) }

// NoteSuffix ends the IDs of alerts about calls that do no harm.
const NoteSuffix = "/note"

func (a Alert) hasActor() bool { return a.Actor != nil && a.Actor.ARN != "" }

// sweepEvent is the EventName of what sweeps find.
const sweepEvent = "Sweep"

// actorARN is the ARN of the role where arn is one of its sessions: a pipeline opens a
// new one for every run. For a role of IAM Identity Center it is that of the session,
// which is the person.
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
// quiet; in a period the first alert of each event is published at once, the others by window.
const (
	quiet         = 10 * time.Minute
	longestPeriod = time.Hour
)

// An incident is so many different dangerous events by an actor within a period, or so
// many keys that may be lost.
const (
	incidentEvents = 3
	incidentKeys   = 3
)

// schedule names a decision about when an alert is published.
type schedule string

const (
	scheduleFirst    schedule = "first"    // at once: an event that is new in the period, or more critical
	scheduleIncident schedule = "incident" // at once: it makes an incident of what the group did
	scheduleCollect  schedule = "collect"  // when its window closes
)

// marks record what happened in a period, each as the name of an object:
// "high/policy-PutKeyPolicy" and "critical/deletion-ScheduleKeyDeletion" (an alert of this
// severity, kind and event came, and the first was published at once), "danger/DisableKey" (a
// dangerous event), "key/…" (a key that may be lost), "incident".
type marks map[string]bool

const (
	markHigh     = "high/"
	markCritical = "critical/"
	markDanger   = "danger/"
	markKey      = "key/"
	// markSensitive numbers the sensitive keys of which an alert was published at once
	// because they are, markNamed names them.
	markSensitive = "sensitive/"
	markNamed     = "sensitive-key/"
	markIncident  = "incident"
)

// sensitiveAtOnce is how many sensitive keys of a period are told at once.
const sensitiveAtOnce = 5

type scheduleDecision struct {
	reason schedule
	// last: it is the one alert about a sensitive key beyond sensitiveAtOnce, and says that
	// further ones are in the table of the digest.
	last bool
	// claim is the mark that only the alert which is published can set; "" for none.
	claim string
	// notes are the marks to be set in any case.
	notes []string
}

// decideSchedule decides when an alert is published.
func decideSchedule(a Alert, m marks) scheduleDecision {
	// One event may have alerts of several kinds, and each is new.
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
	if m[markIncident] { // after an incident only critical alerts are published at once
		urgent = a.Severity.AtLeast(finding.Critical) && !m[own]
	}
	after := maps.Clone(m)
	for _, name := range notes {
		after[name] = true
	}
	incident := !m[markIncident] && isDangerous(a) && (after.count(markDanger) >= incidentEvents || after.count(markKey) >= incidentKeys)
	unnamed, atOnce := false, m.count(markSensitive)
	if atOnce <= sensitiveAtOnce && a.Key != nil && a.Key.Sensitive && a.Severity.AtLeast(finding.Critical) && a.Action.Status != StatusDone {
		named := markNamed + state.Segment(a.Key.ARN)
		if unnamed = !m[named]; unnamed {
			notes = append(notes, named)
		}
	}
	switch {
	case urgent && !incident:
		return scheduleDecision{reason: scheduleFirst, claim: own, notes: notes}
	case own != "" && !m[own]:
		notes = append(notes, own)
	}
	if incident {
		return scheduleDecision{reason: scheduleIncident, notes: notes}
	}
	if unnamed {
		return scheduleDecision{reason: scheduleFirst, last: atOnce == sensitiveAtOnce, claim: markSensitive + strconv.Itoa(atOnce+1), notes: notes}
	}
	return scheduleDecision{reason: scheduleCollect, notes: notes}
}

// isDangerous reports whether an alert counts towards an incident: a call of severity
// medium or above. Failed use of a key that another actor disabled does not count, nor
// does what only creates something.
func isDangerous(a Alert) bool {
	switch {
	case a.isNote(), !a.hasActor(), !a.Severity.AtLeast(finding.Medium), a.Kind == KindUse:
		return false
	case a.Kind == KindGrant, a.Kind == KindAlias:
		return true
	}
	return !strings.HasPrefix(a.EventName, "Create")
}

// losesKey reports whether an alert is about a key that became unusable or will be deleted.
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
