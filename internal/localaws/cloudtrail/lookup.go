package cloudtrail

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const (
	maxResults = 50
	lookBack   = 90 * 24 * time.Hour
	// perSecond is how many look-ups CloudTrail takes, from everybody in the account
	// together. Whether it saves up more than a second's worth is not documented.
	perSecond = 2
)

// quota is what is left of the look-ups.
type quota struct {
	mu   sync.Mutex
	left float64
	at   time.Time
}

// take reports whether one more look-up is within the quota.
func (q *quota) take(now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.left = min(perSecond, q.left+perSecond*now.Sub(q.at).Seconds())
	q.at = now
	if q.left < 1 {
		return false
	}
	q.left--
	return true
}

type lookupInput struct {
	LookupAttributes []struct{ AttributeKey, AttributeValue string }
	StartTime        *wire.Timestamp
	EndTime          *wire.Timestamp
	EventCategory    string
	MaxResults       *int
	NextToken        string
}

type lookupOutput struct {
	Events    []event
	NextToken string `json:",omitempty"`
}

type event struct {
	EventID         string `json:"EventId"`
	EventName       string
	EventSource     string
	EventTime       wire.Timestamp
	ReadOnly        string
	AccessKeyID     string `json:"AccessKeyId,omitempty"`
	Username        string `json:",omitempty"`
	Resources       []resource
	CloudTrailEvent string
}

type resource struct{ ResourceType, ResourceName string }

// lookupEvents finds the management events of the last 90 days, the newest first,
// as far as the history reaches. A look-up beyond the quota is refused, and one that
// is refused for another reason counts, which AWS does not say.
func (s *Service) lookupEvents(ctx context.Context, in lookupInput) (lookupOutput, error) {
	out := lookupOutput{Events: []event{}}
	if !s.quota.take(time.Now()) {
		return out, wire.Errorf(400, "ThrottlingException", "Rate exceeded")
	}
	if err := s.authorize(ctx, "LookupEvents", "*"); err != nil {
		return out, err
	}
	wanted, err := in.filter()
	if err != nil {
		return out, err
	}
	limit := maxResults
	if in.MaxResults != nil {
		if limit = *in.MaxResults; limit < 1 || limit > maxResults {
			return out, wire.Errorf(400, "InvalidMaxResultsException", "MaxResults must be between 1 and %d.", maxResults)
		}
	}
	found := s.config.Trail.History()
	if in.NextToken != "" {
		last, err := position(in.NextToken)
		if err != nil {
			return out, wire.Errorf(400, "InvalidNextTokenException", "The token is not one of LookupEvents.")
		}
		found = slices.DeleteFunc(found, func(k trail.Kept) bool { return newestFirst(k, last) <= 0 })
	}
	found = slices.DeleteFunc(found, func(k trail.Kept) bool { return !wanted(&k) })
	slices.SortFunc(found, newestFirst)
	for i, k := range found {
		if i == limit {
			out.NextToken = token(found[i-1])
			break
		}
		e := eventOf(&k)
		e.CloudTrailEvent = string(k.Body())
		out.Events = append(out.Events, e)
	}
	return out, nil
}

// newestFirst is the order of a look-up: by time, and within a second the last first.
func newestFirst(a, b trail.Kept) int {
	return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(b.Number, a.Number))
}

// token says after which record a page begins.
func token(k trail.Kept) string { return fmt.Sprintf("%d.%d", k.Time.UnixNano(), k.Number) }

func position(token string) (trail.Kept, error) {
	var at int64
	var k trail.Kept
	_, err := fmt.Sscanf(token, "%d.%d", &at, &k.Number)
	k.Time = time.Unix(0, at)
	return k, err
}

// filter returns what the request asks for.
func (in *lookupInput) filter() (func(*trail.Kept) bool, error) {
	now := time.Now()
	from, to := now.Add(-lookBack), now.Add(time.Minute)
	if in.StartTime != nil && time.Time(*in.StartTime).After(from) {
		from = time.Time(*in.StartTime)
	}
	if in.EndTime != nil {
		to = time.Time(*in.EndTime)
	}
	if in.StartTime != nil && in.EndTime != nil && time.Time(*in.StartTime).After(to) {
		return nil, wire.Errorf(400, "InvalidTimeRangeException", "The start time is after the end time.")
	}
	if in.EventCategory != "" { // insights, of which there are none
		if in.EventCategory != "insight" {
			return nil, wire.Errorf(400, "InvalidEventCategoryException", "%s is not an event category.", in.EventCategory)
		}
		return func(*trail.Kept) bool { return false }, nil
	}
	if len(in.LookupAttributes) > 1 {
		return nil, wire.Errorf(400, "InvalidLookupAttributesException", "You can only use one lookup attribute.")
	}
	has := func(event) bool { return true }
	for _, a := range in.LookupAttributes {
		member := lookupAttributes[a.AttributeKey]
		if member == nil || a.AttributeValue == "" {
			return nil, wire.Errorf(400, "InvalidLookupAttributesException", "The lookup attribute %s with the value %q is not valid.", a.AttributeKey, a.AttributeValue)
		}
		has = func(e event) bool { return member(e, a.AttributeValue) }
	}
	return func(k *trail.Kept) bool {
		return !k.Visible.After(now) && !k.Time.Before(from) && !k.Time.After(to) && has(eventOf(k))
	}, nil
}

// lookupAttributes are what events can be found by: whether one has the value.
var lookupAttributes = map[string]func(e event, value string) bool{
	"AccessKeyId": func(e event, value string) bool { return e.AccessKeyID == value },
	"EventId":     func(e event, value string) bool { return e.EventID == value },
	"EventName":   func(e event, value string) bool { return e.EventName == value },
	"EventSource": func(e event, value string) bool { return e.EventSource == value },
	"ReadOnly":    func(e event, value string) bool { return e.ReadOnly == value },
	"Username":    func(e event, value string) bool { return e.Username == value },
	"ResourceName": func(e event, value string) bool {
		return e.hasResource(func(r resource) bool { return r.ResourceName == value })
	},
	"ResourceType": func(e event, value string) bool {
		return e.hasResource(func(r resource) bool { return r.ResourceType == value })
	},
}

func (e event) hasResource(test func(resource) bool) bool {
	for _, r := range e.Resources {
		if test(r) {
			return true
		}
	}
	return false
}

// eventOf is a record as LookupEvents answers with it, but for the record itself.
func eventOf(k *trail.Kept) event {
	r := k.Record()
	e := event{
		EventID: r.EventID, EventName: r.EventName, EventSource: r.EventSource, EventTime: wire.Timestamp(k.Time),
		ReadOnly: strconv.FormatBool(r.ReadOnly), AccessKeyID: r.UserIdentity.AccessKeyID, Username: username(r.UserIdentity),
		Resources: []resource{},
	}
	for _, of := range r.Resources {
		// Buckets are listed by name; keys and everything else by the ARN in the record.
		e.Resources = append(e.Resources, resource{of.Type, strings.TrimPrefix(of.ARN, "arn:aws:s3:::")})
	}
	return e
}

// username is who LookupEvents says it was: a role's session goes by its own name.
func username(u trail.Identity) string {
	if _, session, ok := strings.Cut(u.PrincipalID, ":"); ok {
		return session
	}
	if u.Type == "Root" {
		return "root"
	}
	return u.UserName
}
