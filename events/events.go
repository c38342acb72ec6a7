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

import "time"

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

// SentAt returns the event with a Time that its message can have: one more than a minute
// after sent, when SQS took the message, becomes sent, in whole seconds. Times in records are claims, and
// one from the future would be newer than whatever happens next. The zero time, unknown,
// changes nothing.
func (e Event) SentAt(sent time.Time) Event {
	if !sent.IsZero() && e.Time.After(sent.Add(sendingDelay)) {
		e.Time = sent.UTC().Truncate(time.Second)
	}
	return e
}

// Failed reports whether the call was refused and so changed nothing.
func (e Event) Failed() bool { return e.ErrorCode != "" }

// IsKMS reports whether the event is about KMS.
func (e Event) IsKMS() bool { return e.Source == SourceKMS || e.Source == SourceNative }
