package dependents

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/awsconfig"
	"github.com/cmkeeper/cmkeeper/events"
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

// OfUses returns what the encryption contexts of the last events about a key name. That is
// what callers said when they used it, or tried to: the resource need not exist any more, and
// one that was not used lately is not among them.
func OfUses(keyARN string, uses Read[[]Event]) Source {
	s := Source{ID: SourceTrail, Name: fmt.Sprintf("encryption contexts, which callers choose, in the last %d events about the key in CloudTrail", UsesLimit), At: uses.At}
	if uses.Err != nil {
		s.unknown("", uses.Err, "cloudtrail:LookupEvents")
	}
	unread := 0
	for _, found := range uses.Value {
		e, err := events.Parse([]byte(found.CloudTrailEvent))
		if err != nil {
			unread++
			continue
		}
		at := time.Unix(int64(found.EventTime), 0).UTC()
		d := Dependent{At: at, Detail: found.EventName + " at " + at.Format(time.RFC3339)}
		if by := e.Actor.InvokedBy; by != "" {
			d.Detail += " by " + shorten(by)
		}
		if e.ErrorCode != "" {
			d.Detail += ", refused with " + shorten(e.ErrorCode)
		}
		for _, d.Resource = range Named(e, keyARN) {
			s.add(d)
		}
	}
	if unread > 0 {
		s.Unknown = append(s.Unknown, Unknown{ID: "dependents:" + s.ID, Why: fmt.Sprintf("%d records could not be read", unread)})
	}
	return s
}

// Named returns the resources that a call named as what it used the key for, each once; of a
// call without an encryption context none. See [Decode].
func Named(e events.Event, keyARN string) (named []Resource) {
	use, _ := e.Detail.(events.Use)
	for _, context := range use.With(keyARN) {
		if r, ok := Decode(context); ok && !slices.Contains(named, r) {
			named = append(named, r)
		}
	}
	return named
}
