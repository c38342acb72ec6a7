package alert

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

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
// different events of severity medium or above, or so many keys that were
// disabled or whose deletion was scheduled, of severity high or above.
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
// "critical/ScheduleKeyDeletion" (an event of this severity came), "key/…" (a key that
// may be lost), "incident".
type marks map[string]bool

const (
	markIncident = "incident"
	markKey      = "key/"
	// markContainment ends an event's mark for what is told of its containment. No
	// name of an event has it: a dot in one is escaped.
	markContainment = ".containment"
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
	event := state.Segment(a.EventName)
	if a.Kind == KindContainment { // people have to know at once that a key was disabled, whatever they know of the event
		event += markContainment
	}
	own := ""
	if a.Severity.AtLeast(Medium) {
		own = string(a.Severity.class()) + "/" + event
	}
	var notes []string
	if own != "" && !m[own] {
		notes = append(notes, own)
	}
	if losesKey(a) {
		if key := markKey + state.Segment(a.Key.ARN); !m[key] && m.keys() < incidentKeys {
			notes = append(notes, key)
		}
	}
	after := marks{}
	for name := range m {
		after[name] = true
	}
	for _, name := range notes {
		after[name] = true
	}
	told := m[string(High)+"/"+event] || m[string(Critical)+"/"+event]
	urgent := a.Severity.AtLeast(High) && !told || a.Severity.AtLeast(Critical) && !m.critical()
	switch {
	case !m[markIncident] && a.hasActor() && a.Severity.AtLeast(Medium) && (len(after.events()) >= incidentEvents || after.keys() >= incidentKeys):
		return placeDecision{reason: placeIncident, notes: notes}
	case m[markIncident]: // people know: only what is worst is worth another message at once
		urgent = a.Severity.AtLeast(Critical) && !m[own]
	}
	if !urgent {
		return placeDecision{reason: placeCollect, notes: notes}
	}
	d := placeDecision{reason: placeFirst, claim: own}
	for _, name := range notes {
		if name != own {
			d.notes = append(d.notes, name)
		}
	}
	return d
}

// class is the severity as the marks have it: a word that is none of the severities is critical.
func (s Severity) class() Severity {
	for _, known := range []Severity{Critical, High, Medium, Low} {
		if s.AtLeast(known) {
			return known
		}
	}
	return Info
}

// losesKey reports whether an alert is about a key that cannot be used, or will not exist.
func losesKey(a Alert) bool {
	switch a.EventName {
	case "ScheduleKeyDeletion", "DisableKey", "DeleteImportedKeyMaterial":
		return a.Key != nil && a.Key.ARN != "" && a.Severity.AtLeast(High)
	}
	return false
}

// events are the different events of severity medium and above.
func (m marks) events() map[string]bool {
	events := map[string]bool{}
	for name := range m {
		if class, event, ok := strings.Cut(name, "/"); ok && class+"/" != markKey {
			events[strings.TrimSuffix(event, markContainment)] = true
		}
	}
	return events
}

func (m marks) keys() int      { return m.count(markKey) }
func (m marks) critical() bool { return m.count(string(Critical)+"/") > 0 }

func (m marks) count(prefix string) int {
	n := 0
	for name := range m {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}
