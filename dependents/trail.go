package dependents

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/awsconfig"
	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// Event is an event as CloudTrail's LookupEvents answers with it.
type Event struct {
	EventName, Username string
	// CloudTrailEvent is the record.
	CloudTrailEvent string
	EventTime       float64 // seconds since 1970
}

// UsesLimit is how many events are looked up: one page, the most that CloudTrail gives.
const UsesLimit = 50

// LookUp returns the last events about a key, the newest first, at most UsesLimit. The
// events of KMS name the key's ARN as their resource, uses of it included. It is one request;
// CloudTrail takes two a second from everybody in the account together.
func LookUp(ctx context.Context, trail awsconfig.API, keyARN string) ([]Event, error) {
	type attribute struct{ AttributeKey, AttributeValue string }
	in := struct {
		LookupAttributes []attribute
		MaxResults       int
	}{[]attribute{{"ResourceName", keyARN}}, UsesLimit}
	var out struct{ Events []Event }
	if err := trail.Call(ctx, "LookupEvents", in, &out); err != nil {
		return nil, fmt.Errorf("look up events: %w", err)
	}
	return out.Events, nil
}

// use is the part of a CloudTrail record that shows how a key was used. ReEncrypt has two
// keys and two contexts.
type use struct {
	ErrorCode         string `json:"errorCode"`
	RequestParameters struct {
		EncryptionContext            map[string]string `json:"encryptionContext"`
		SourceEncryptionContext      map[string]string `json:"sourceEncryptionContext"`
		DestinationEncryptionContext map[string]string `json:"destinationEncryptionContext"`
		SourceKeyID                  string            `json:"sourceKeyId"`
		DestinationKeyID             string            `json:"destinationKeyId"`
	} `json:"requestParameters"`
	UserIdentity struct {
		InvokedBy string `json:"invokedBy"`
	} `json:"userIdentity"`
}

// OfUses returns what the encryption contexts of the last events about a key name. That is
// what callers said when they used it, or tried to: the resource need not exist any more, and
// one that was not used lately is not among them.
func OfUses(keyARN string, events Read[[]Event]) Source {
	s := Source{ID: SourceTrail, Name: fmt.Sprintf("encryption contexts, which callers choose, in the last %d events about the key in CloudTrail", UsesLimit), At: events.At}
	if events.Err != nil {
		s.unknown("", events.Err, "cloudtrail:LookupEvents")
	}
	unread := 0
	for _, e := range events.Value {
		var u use
		if err := json.Unmarshal([]byte(e.CloudTrailEvent), &u); err != nil {
			unread++
			continue
		}
		at := time.Unix(int64(e.EventTime), 0).UTC()
		d := Dependent{At: at, Detail: e.EventName + " at " + at.Format(time.RFC3339)}
		if by := u.UserIdentity.InvokedBy; by != "" {
			d.Detail += " by " + shorten(by)
		}
		if u.ErrorCode != "" {
			d.Detail += ", refused with " + shorten(u.ErrorCode)
		}
		for _, context := range u.contexts(keyARN) {
			var ok bool
			if d.Resource, ok = Decode(context); ok {
				s.add(d)
			}
		}
	}
	if unread > 0 {
		s.Unknown = append(s.Unknown, Unknown{ID: "dependents:" + s.ID, Why: fmt.Sprintf("%d records could not be read", unread)})
	}
	return s
}

// contexts are those that the key was used with.
func (u use) contexts(keyARN string) []map[string]string {
	p := u.RequestParameters
	of := func(keyID string) bool { return keyID == "" || strings.Contains(keyID, arn.KeyID(keyARN)) }
	contexts := []map[string]string{p.EncryptionContext}
	if p.SourceEncryptionContext != nil && of(p.SourceKeyID) {
		contexts = append(contexts, p.SourceEncryptionContext)
	}
	if p.DestinationEncryptionContext != nil && of(p.DestinationKeyID) {
		contexts = append(contexts, p.DestinationEncryptionContext)
	}
	return contexts
}
