// Package ledger holds what the fleet remembers about keys, aliases and buckets:
// the stored documents, and the transitions from one state of them to the next.
//
// Every transition is pure and safe to apply twice: a document that another worker
// changed meanwhile is read again, and the transition applied to it once more.
// Times are those of our own reads, taken before the read that they stand for, so
// that a fact is never replaced by a read that is older than it. A fact has the time of
// the first read that showed it: a later one that shows the same costs no write. What
// an event claims about when something happened is stored only beside its claim
// ([Actor], [Target]).
//
// The stored JSON is a contract with earlier and later builds of the fleet, which
// run side by side during a rolling update.
package ledger

import (
	"cmp"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/state"
)

// The reactions that change keys, as repairs and circuits name them.
const (
	ReactionRotation = "rotation"
	ReactionDeletion = "deletion"
	ReactionPolicy   = "policy"
	ReactionContain  = "containment"
)

// The key states of KMS (KeyState) that decide something here.
const (
	StateEnabled                = "Enabled"
	StateDisabled               = "Disabled"
	StatePendingDeletion        = "PendingDeletion"
	StatePendingReplicaDeletion = "PendingReplicaDeletion"
	StatePendingImport          = "PendingImport"
)

// IsPending reports whether KMS will delete a key in that state.
func IsPending(keyState string) bool {
	return keyState == StatePendingDeletion || keyState == StatePendingReplicaDeletion
}

// ConsistencyWindow is how long a live read that contradicts an event, or a call of
// ours, may be one that came too early: KMS is eventually consistent.
const ConsistencyWindow = time.Minute

// Now is the time as documents keep it: what is stored compares equal to what is
// read back.
func Now() time.Time { return time.Now().UTC().Round(0) }

// IsSweep reports whether an occurrence is a sweep's own, and no event.
func IsSweep(e events.Event) bool { return e.Kind == events.Scheduled }

// The names of the documents in package state.

// KeyName names the document of a key, by its ARN.
func KeyName(keyARN string) string { return "keys/" + state.Segment(arn.KeyID(keyARN)) + ".json" }

// AliasName names the document of an alias ("alias/x").
func AliasName(name string) string { return "aliases/" + state.Segment(name) + ".json" }

// BucketName names the document of a bucket.
func BucketName(name string) string { return "buckets/" + state.Segment(name) + ".json" }

// Party is who did something, as an event said.
type Party struct {
	// Name is one readable line.
	Name string `json:"name"`
	// Principal is the ARN of the role or the user, Account its account.
	Principal string `json:"principal,omitempty"`
	Account   string `json:"account,omitempty"`
	// At is the event's time.
	At time.Time `json:"at"`
	// Unconfirmed: nothing but a message says so.
	Unconfirmed bool `json:"unconfirmed,omitempty"`
}

// PartyOf is who an event says did it, nil where it does not say.
func PartyOf(e events.Event) *Party {
	if e.Actor == (events.Actor{}) {
		return nil
	}
	return &Party{
		Name: ActorName(e), Principal: cmp.Or(e.Actor.RoleARN, e.Actor.ARN), Account: e.Actor.AccountID,
		At: e.Time, Unconfirmed: e.Claimed,
	}
}

// ActorName is an event's actor in one readable line, and whether nothing but a message
// says so; "" for nobody.
func ActorName(e events.Event) string {
	name := e.Actor.String()
	if e.Claimed && name != "" {
		name += " (unconfirmed)"
	}
	return name
}

// newer is the later one of what is known and what an event says, so that an old
// event that comes again changes nothing.
func (p *Party) newer(o *Party) *Party {
	if p == nil || o != nil && !o.At.Before(p.At) {
		return o
	}
	return p
}

// Actor is the actor of an alert as documents keep it, so that the alert can be
// told after a crash. Its members are those of alert.Actor.
type Actor struct {
	Name      string `json:"name,omitempty"`
	Type      string `json:"type,omitempty"`
	ARN       string `json:"arn,omitempty"`
	Account   string `json:"account,omitempty"`
	Session   string `json:"session,omitempty"`
	Role      string `json:"role,omitempty"`
	MFA       string `json:"mfa,omitempty"`
	InvokedBy string `json:"invoked_by,omitempty"`
	SourceIP  string `json:"source_ip,omitempty"`
	UserAgent string `json:"user_agent,omitempty"`
	// Unconfirmed: nothing but a message says so.
	Unconfirmed bool `json:"unconfirmed,omitempty"`
}

// ActorOf is the actor of an event, nil where it names none.
func ActorOf(e events.Event) *Actor {
	if e.Actor == (events.Actor{}) {
		return nil
	}
	return &Actor{
		Name: ActorName(e), Type: e.Actor.Type, ARN: e.Actor.ARN, Account: e.Actor.AccountID,
		Session: e.Actor.Session, Role: e.Actor.RoleARN, MFA: mfaShown(e.Actor), InvokedBy: e.Actor.InvokedBy,
		SourceIP: e.SourceIP, UserAgent: e.UserAgent, Unconfirmed: e.Claimed,
	}
}

// mfaShown is whether an actor used a second factor, where that can be seen:
// what records say of a role's session is not about the person.
func mfaShown(a events.Actor) string {
	if (a.Type == "IAMUser" || a.Type == "Root") && a.RoleARN == "" && (a.MFA == "true" || a.MFA == "false") {
		return a.MFA
	}
	return ""
}

// last returns the last n elements.
func last[E any](s []E, n int) []E { return s[max(0, len(s)-n):] }

// newest returns a pointer to the last element, nil for none.
func newest[E any](s []E) *E {
	if len(s) == 0 {
		return nil
	}
	return &s[len(s)-1]
}

// where returns a pointer to the first element that is as wanted, nil for none.
func where[E any](s []E, wanted func(E) bool) *E {
	i := slices.IndexFunc(s, wanted)
	if i < 0 {
		return nil
	}
	return &s[i]
}
