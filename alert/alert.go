// Package alert has the model of an alert, its formats and the sinks that take it.
// Publisher publishes to SNS, each alert once; Printer writes to a terminal.
//
// An alert holds values from events as they came. The renderers escape them; callers
// that show a single value use Escape.
package alert

import (
	"context"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
)

// Schema names the JSON rendering. Members may be added to it; a change that
// breaks a reader gets a new version.
const Schema = "cmkeeper.alert.v1"

// Kind of an alert: what it is about.
type Kind string

// The kinds.
const (
	KindRotation     Kind = "rotation"
	KindPolicy       Kind = "policy"
	KindDeletion     Kind = "deletion"
	KindContainment  Kind = "containment" // a key that was opened to a principal that is not trusted, and disabled for that
	KindAlias        Kind = "alias"
	KindReencryption Kind = "reencryption"
	KindGuard        Kind = "guard"      // cmkeeper itself: shut out, its role used by others, dependent on a key that it guards, or about to be cut off from events
	KindAccess       Kind = "access"     // a dangerous call that AWS refused
	KindUse          Kind = "use"        // a call that needs a key which cannot be used
	KindGrant        Kind = "grant"      // grants, by which principals use a key beside its policy
	KindMaterial     Kind = "material"   // imported key material
	KindKeyStore     Kind = "key-store"  // custom key stores
	KindTag          Kind = "tag"        // a tag that steers cmkeeper
	KindIncident     Kind = "incident"   // several dangerous calls by one actor
	KindPosture      Kind = "posture"    // what was wrong before cmkeeper first looked
	KindEncryption   Kind = "encryption" // data that is not, or no longer, under the key that it should be under
)

// Kinds returns all kinds.
func Kinds() []Kind {
	return []Kind{
		KindRotation, KindPolicy, KindDeletion, KindContainment, KindAlias, KindReencryption, KindGuard, KindAccess, KindUse,
		KindGrant, KindMaterial, KindKeyStore, KindTag, KindIncident, KindPosture, KindEncryption,
	}
}

// Alert is one message. What is zero is left out of the renderings.
type Alert struct {
	// ID names the occurrence and the reaction to it: of all alerts with the same
	// ID one is published. Handlers make it of the event's id, the kind and, where one
	// event has several alerts of a kind, what distinguishes them. Where it is ""
	// the alert's whole content takes its place.
	ID       string           `json:"id"`
	Kind     Kind             `json:"kind"`
	Severity finding.Severity `json:"severity"`
	// EventName and EventID are those of the event that it began with; EventName is
	// the API operation, the service event or the native detail-type.
	EventName string `json:"event_name,omitempty"`
	EventID   string `json:"event_id,omitempty"`
	// Time is when it happened.
	Time time.Time `json:"time,omitzero"`
	// Account owns the key; Region is where it is.
	Account string `json:"account,omitempty"`
	Region  string `json:"region,omitempty"`
	// Title is one line: what happened. Summary says it in sentences.
	Title   string `json:"title"`
	Summary string `json:"summary,omitempty"`
	// Key is the key that it happened to, Actor who did it.
	Key   *Key   `json:"key,omitempty"`
	Actor *Actor `json:"actor,omitempty"`
	// Action is what cmkeeper did. The zero value is nothing.
	Action Action `json:"action"`
	// Risk is what is at risk, in sentences.
	Risk string `json:"risk,omitempty"`
	// Next is what to do next, in order: sentences, or commands. An entry that
	// begins with "aws " or "cmkeeper " is a command, made by package command: it is
	// shown on one line and as it is, to be pasted. One that is not safe to paste is left
	// out of every rendering.
	Next []string `json:"next,omitempty"`
	// Findings are what is wrong, the worst first.
	Findings []finding.Finding `json:"findings,omitempty"`
	// Facts are further information, in order.
	Facts []Fact `json:"facts,omitempty"`
	// Ongoing: sweeps still see the condition. It is published again after Publisher's Repeat.
	Ongoing bool `json:"ongoing,omitempty"`
	// Resolves is the ID of the alert whose condition is over, "" for other alerts; the
	// status of the action is StatusResolved then.
	Resolves string `json:"resolves,omitempty"`
	// Thread is the chat thread that it belongs to, where that is not its key's.
	Thread string `json:"thread,omitempty"`
	// Dangers name what it tells that is wrong with its key, bucket or account as that
	// stands; they are for the one that composes it, and in no rendering.
	Dangers []string `json:"-"`
	// Incident is the ID of the incident that the alert belongs to, set by Publisher.
	Incident string `json:"incident,omitempty"`
	// Digest is set by Publisher where it publishes several alerts as one.
	Digest *Digest `json:"digest,omitempty"`
	// Cut is set by Publisher when the alert was too large to be sent whole.
	Cut *Cut `json:"cut,omitempty"`
}

// Key is the key that an alert is about, as it was read live.
type Key struct {
	ARN         string   `json:"arn"`
	Aliases     []string `json:"aliases,omitempty"`
	Description string   `json:"description,omitempty"`
	// Sensitive: the operator's rules call it so.
	Sensitive bool `json:"sensitive,omitempty"`
	// State is KMS's KeyState ("PendingDeletion").
	State        string     `json:"state,omitempty"`
	DeletionDate *time.Time `json:"deletion_date,omitempty"`
}

// Actor is who did it, and from where.
type Actor struct {
	// Name is one readable line.
	Name string `json:"name,omitempty"`
	// Type is CloudTrail's userIdentity.type.
	Type    string `json:"type,omitempty"`
	ARN     string `json:"arn,omitempty"`
	Account string `json:"account,omitempty"`
	// Session is the role session's name; with IAM Identity Center, the person.
	Session string `json:"session,omitempty"`
	// Role is the ARN of the role behind a session.
	Role string `json:"role,omitempty"`
	// MFA is whether the session was opened with a second factor ("true", "false"),
	// as far as the record says. Sessions of roles do not show it.
	MFA string `json:"mfa,omitempty"`
	// InvokedBy is the AWS service that called on the actor's behalf.
	InvokedBy string `json:"invoked_by,omitempty"`
	SourceIP  string `json:"source_ip,omitempty"`
	UserAgent string `json:"user_agent,omitempty"`
	// Unconfirmed: nothing but a message on the queue says so; CloudTrail has not shown it.
	Unconfirmed bool `json:"unconfirmed,omitempty"`
}

// Status is how an action ended.
type Status string

// The statuses. The zero value counts as StatusNone.
const (
	StatusDone     Status = "done"     // done, and checked by reading it back
	StatusWouldDo  Status = "would-do" // observe mode: enforce would do it
	StatusNone     Status = "none"     // there is nothing for cmkeeper to do
	StatusFailed   Status = "failed"   // tried, and not done
	StatusRefused  Status = "refused"  // not tried, because it would not be safe
	StatusResolved Status = "resolved" // what Alert.Resolves told of is over
)

// Action is what cmkeeper did about it.
type Action struct {
	// Mode is the reaction's mode: "observe" or "enforce"; "" where there is none.
	Mode   string `json:"mode,omitempty"`
	Status Status `json:"status"`
	// Description says it in sentences that are true as they stand: "Rotation was
	// enabled again, every 180 days.", or "… would be enabled again, …".
	Description string `json:"description,omitempty"`
}

// Fact is a named list of values.
type Fact struct {
	Name string `json:"name"`
	// Source is where the values are from and when they were read, in words.
	Source string   `json:"source,omitempty"`
	Values []string `json:"values,omitempty"`
}

// Digest is several alerts of one group, published as one. The members of the alert around
// it are those of the worst of them.
type Digest struct {
	// Group is whose alerts they are: a role's or user's ARN, or what a sweep found.
	Group string `json:"group"`
	// From and Until are the times of the first and the last call.
	From  time.Time `json:"from,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Keys is how many different keys the calls are about.
	Keys int `json:"keys"`
	// Calls are what happened, the worst first: what is about sensitive keys, then about
	// keys with aliases, then what is not undone.
	Calls []Call `json:"calls"`
	// All is how many there are, where Calls has not all of them.
	All int `json:"all,omitempty"`
	// Alerts is where the alerts are stored, one object each.
	Alerts string `json:"alerts,omitempty"`
}

// Call is a row of a digest: an alert in short.
type Call struct {
	ID        string           `json:"id"`
	Kind      Kind             `json:"kind"`
	Severity  finding.Severity `json:"severity"`
	EventName string           `json:"event_name,omitempty"`
	Time      time.Time        `json:"time,omitzero"`
	// Key is the key's ARN, Alias its first alias.
	Key   string `json:"key,omitempty"`
	Alias string `json:"alias,omitempty"`
	// Sensitive is the key's.
	Sensitive bool `json:"sensitive,omitempty"`
	// Session and SourceIP are the actor's.
	Session  string `json:"session,omitempty"`
	SourceIP string `json:"source_ip,omitempty"`
	Title    string `json:"title"`
	// Do is the first thing to do about it, as in Alert.Next; "" in a digest, which has the
	// commands of all.
	Do string `json:"do,omitempty"`
	// Resolves is that of the alert.
	Resolves string `json:"resolves,omitempty"`
	// Status is how cmkeeper's action ended.
	Status Status `json:"status"`
}

// Cut says what was left out of an alert to make it small enough to be sent.
type Cut struct {
	// Findings and Facts are how many there are in the whole alert; Values is how
	// many values its facts have.
	Findings int `json:"findings"`
	Facts    int `json:"facts"`
	Values   int `json:"values"`
	// Calls is how many its digest has.
	Calls int `json:"calls,omitempty"`
	// Whole is the address of the whole alert ("s3://bucket/key"), as JSON; "" where
	// it could not be stored.
	Whole string `json:"whole,omitempty"`
}

// Sink takes alerts.
type Sink interface {
	// Publish publishes the alert. After an error the caller tries again (when, package
	// outcome says where that is known); the alert may have been published all the same.
	Publish(ctx context.Context, a Alert) error
}
