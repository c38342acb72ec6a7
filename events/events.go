// Package events turns what arrives on the queue into typed events.
//
// [Parse] accepts a CloudTrail record in an EventBridge envelope ("AWS API Call
// via CloudTrail", "AWS Service Event via CloudTrail"), an event that a service
// sends itself (aws.kms), a scheduled event, and a CloudTrail record without an
// envelope; each of them directly or inside an SNS notification.
//
// An event is a hint: it says where to look, never what is true now. Every text
// in it came from outside and must be escaped before it is shown.
package events

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

// Kind is the family that an event belongs to.
type Kind string

// The kinds.
const (
	// APICall is a call that somebody made, as CloudTrail recorded it.
	APICall Kind = "api-call"
	// ServiceEvent is something that AWS did by itself, as CloudTrail recorded
	// it (eventType AwsServiceEvent): RotateKey, DeleteKey, DeleteExpiredKeyMaterial.
	ServiceEvent Kind = "service-event"
	// Native is an event that a service sends to EventBridge without CloudTrail.
	Native Kind = "native"
	// Scheduled comes from EventBridge Scheduler or from a rule with a schedule.
	Scheduled Kind = "scheduled"
)

// The events that KMS sends to EventBridge itself (source [SourceNative]), by
// their detail-type.
const (
	NativeRotation = "KMS CMK Rotation"
	NativeExpiry   = "KMS Imported Key Material Expiration"
	NativeDeletion = "KMS CMK Deletion"
)

// The sources of KMS events. Whatever has another source is not about KMS.
const (
	// SourceKMS is the eventSource of a CloudTrail record of KMS.
	SourceKMS = "kms.amazonaws.com"
	// SourceNative is the source of KMS's native events.
	SourceNative = "aws.kms"
)

// The eventSources of CloudTrail records of other services whose details are
// read: those that could blind what watches KMS, or go around its keys.
const (
	SourceCloudTrail  = "cloudtrail.amazonaws.com"
	SourceEventBridge = "events.amazonaws.com"
	SourceSQS         = "sqs.amazonaws.com"
	SourceSNS         = "sns.amazonaws.com"
	SourceS3          = "s3.amazonaws.com"
	SourceEC2         = "ec2.amazonaws.com"
	SourceRDS         = "rds.amazonaws.com"
)

// Event is one occurrence.
type Event struct {
	// ID is the identity of the occurrence: sharedEventID, else the eventID of the
	// record that this one adds to (addendum), else its own, else the envelope's id.
	// Never empty.
	ID string
	// RecordID is the eventID of the CloudTrail record, by which CloudTrail finds it; ""
	// where there is none.
	RecordID string
	// Sent is when SQS took the message that the event came in, the zero time where that
	// is unknown. See [Event.SentAt].
	Sent time.Time
	// Claimed: nothing but a message says what the event says. See [Event.AsClaim].
	Claimed bool
	// RequestID is the id that AWS gave the API call; "" elsewhere.
	RequestID string
	// Kind is the family, which decides what Name and Source mean.
	Kind Kind
	// Name is the API operation ("PutKeyPolicy"), the service event
	// ("RotateKey"), or the envelope's detail-type ([NativeDeletion],
	// "Scheduled Event").
	Name string
	// Source is the service: [SourceKMS] for CloudTrail records of KMS,
	// [SourceNative] for its native events, "aws.events" or "aws.scheduler" for
	// scheduled ones. Other sources parse too, so that a router can ignore them
	// knowingly.
	Source string
	// Time is when it happened, in UTC.
	Time time.Time
	// Account is the account that received the event (recipientAccountId). It
	// owns the key, except in the caller's copy of a cross-account call, where
	// KeyARN names the owner.
	Account string
	// Region is where it happened (awsRegion).
	Region string
	// KeyARN is the key that the event is about, "" where there is none or
	// where only an alias was named. For CreateAlias, UpdateAlias and DeleteAlias
	// it is the alias's target: the new one, or the one it had when deleted.
	// For ReplicateKey it is the key that was replicated, in the event's own
	// Region; the new key is in the [ReplicateKey] detail.
	KeyARN string
	// OtherKeyARN is the second key of a call that uses two (ReEncrypt), "" elsewhere.
	OtherKeyARN string
	// Alias is the alias name ("alias/x") that the call named, or "".
	Alias string
	// Actor is who did it.
	Actor Actor
	// SourceIP and UserAgent are where the call came from; for a call by an AWS
	// service both are the service's name.
	SourceIP, UserAgent string
	// ErrorCode and ErrorMessage are set when the call was refused.
	ErrorCode, ErrorMessage string
	// ReadOnly says, as CloudTrail does, that the call could not change anything.
	ReadOnly bool
	// Detail is what only this kind of event carries: one of the types that
	// implement [Detail], as a value, or nil.
	Detail Detail
}

// sendingDelay is how much later than its event a message may say the event happened:
// the clocks of two AWS services need not agree.
const sendingDelay = time.Minute

// longestDelay is how much earlier than its message an event may be: SQS keeps messages
// for 14 days at most, and CloudTrail takes less than one.
const longestDelay = 15 * 24 * time.Hour

// SentAt returns the event with Sent, when SQS took its message, and a Time that such a
// message can have: one more than a minute later becomes sent, in whole seconds. Times in
// records are claims, and one from the future would be newer than whatever happens next.
// The zero time, unknown, changes nothing.
func (e Event) SentAt(sent time.Time) Event {
	if e.Sent = sent; !sent.IsZero() && e.Time.After(sent.Add(sendingDelay)) {
		e.Time = sent.UTC().Truncate(time.Second)
	}
	return e
}

// IsOutdated reports whether the event is older than any queue can hold, which no genuine
// one is: its Time orders nothing.
func (e Event) IsOutdated() bool { return !e.Sent.IsZero() && e.Sent.Sub(e.Time) > longestDelay }

// AsClaim returns the event of a message that anybody may have sent. Its ID is one that
// no other message's event has, so that it never stands for the occurrence that it claims
// to be.
func (e Event) AsClaim(body []byte) Event {
	sum := sha256.Sum256(body)
	e.Claimed, e.ID = true, e.ID+claimMark+hex.EncodeToString(sum[:6])
	return e
}

// claimMark begins what the ID of a claim has more than that of what it claims to be.
const claimMark = "~"

// Occurrence returns the ID of what an event is, or claims to be, by the event's ID.
func Occurrence(id string) string {
	id, _, _ = strings.Cut(id, claimMark)
	return id
}

// Failed reports whether the call was refused and so changed nothing.
func (e Event) Failed() bool { return e.ErrorCode != "" }

// IsKMS reports whether the event is about KMS.
func (e Event) IsKMS() bool { return e.Source == SourceKMS || e.Source == SourceNative }

// Uses returns the names of KMS's calls that use a key. CloudTrail has them as read-only.
func Uses() []string {
	return []string{
		"Decrypt", "Encrypt", "ReEncrypt",
		"GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext",
		"Sign", "Verify", "GenerateMac", "VerifyMac", "DeriveSharedSecret",
	}
}

// IsUse reports whether the event is a call that uses a key, or tried to.
func (e Event) IsUse() bool { return e.Source == SourceKMS && slices.Contains(Uses(), e.Name) }
