package kms

import (
	"encoding/json"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// record tells CloudTrail of a finished call.
func (s *Service) record(c *call, err error) {
	t := trail.Call{
		Service: "kms", Operation: c.name, ReadOnly: c.readOnly, Caller: c.caller, RequestID: c.requestID, EventID: c.eventID,
		Time: c.now, Parameters: c.params, Response: c.response, AdditionalData: c.additional, Err: err,
	}
	if c.via != "" {
		t.Via = trail.AWSInternal
	}
	resources := c.resources
	if c.key != nil {
		if len(resources) == 0 {
			resources = []string{c.key.arn}
		}
		if t.Response == nil && !c.readOnly {
			t.Response = keyIDInput{KeyID: c.key.arn}
		}
	}
	for _, arn := range resources {
		t.Resources = append(t.Resources, s.trailResource(arn))
	}
	s.trail.Call(t)
}

// trailResource names a key or an alias; CloudTrail gives both the same type.
func (s *Service) trailResource(arn string) trail.Resource {
	return trail.Resource{AccountID: s.account, Type: "AWS::KMS::Key", ARN: arn}
}

// ownRecord begins the record of what KMS did to a key by itself.
func (s *Service) ownRecord(k *key, at time.Time) trail.Record {
	return trail.Record{
		EventVersion: "1.11", EventTime: trail.Time(at), EventSource: "kms.amazonaws.com", AWSRegion: s.region,
		EventID: wire.NewUUID(), ManagementEvent: true, EventCategory: "Management", RecipientAccountID: s.account,
		UserIdentity:    trail.Identity{AccountID: s.account, InvokedBy: trail.AWSInternal},
		SourceIPAddress: trail.AWSInternal, UserAgent: trail.AWSInternal,
		Resources: []trail.Resource{s.trailResource(k.arn)},
	}
}

// serviceEventDetails is what the service events of KMS tell.
type serviceEventDetails struct {
	KeyID                 string `json:"keyId"`
	KeyMaterialID         string `json:"keyMaterialId,omitempty"`
	RotationType          string `json:"rotationType,omitempty"`
	KeyOrigin             string `json:"keyOrigin,omitempty"`
	PreviousKeyMaterialID string `json:"previousKeyMaterialId,omitempty"`
	CurrentKeyMaterialID  string `json:"currentKeyMaterialId,omitempty"`
}

// nativeDetail is the detail of KMS's own events.
type nativeDetail struct {
	KeyID                 string `json:"key-id"`
	KeyMaterialID         string `json:"key-material-id,omitempty"`
	RotationType          string `json:"rotation-type,omitempty"`
	KeyOrigin             string `json:"key-origin,omitempty"`
	PreviousKeyMaterialID string `json:"previous-key-material-id,omitempty"`
	CurrentKeyMaterialID  string `json:"current-key-material-id,omitempty"`
}

// announce publishes what KMS did to a key by itself: the service event in
// CloudTrail, and the native event of the detail type.
func (s *Service) announce(k *key, at time.Time, eventName, detailType string, d serviceEventDetails) {
	d.KeyID = k.id
	details, _ := json.Marshal(d) // strings always encode
	r := s.ownRecord(k, at)
	r.EventName, r.EventType, r.ServiceEventDetails = eventName, trail.ServiceEvent, details
	s.trail.Record(r)
	s.trail.Native("kms", detailType, at, []string{k.arn}, nativeDetail(d))
}
