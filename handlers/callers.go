package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// Trail is asked who called for a key; *cloudtrail.Client has it.
type Trail interface {
	LookupEvents(context.Context, *cloudtrail.LookupEventsInput, ...func(*cloudtrail.Options)) (*cloudtrail.LookupEventsOutput, error)
}

// CloudTrail takes two lookups a second, per account and Region and shared with
// everybody, so an alarm makes one and does not wait for long.
const (
	callersTimeout   = 2 * time.Second
	lookupsPerSecond = 1
	lookupPage       = 50
	maxCallers       = 12
)

// callersOf says who called for the key of late. The events of KMS name the key's
// ARN as their resource, uses of it included.
func (r *Router) callersOf(ctx context.Context, key inventory.Key) alert.Fact {
	found := func(values []string, err error) alert.Fact {
		return lookedAt("recent callers", fmt.Sprintf("the last %d events about the key in CloudTrail, some minutes late", lookupPage), now(), values, err)
	}
	if r.trail == nil {
		return found(nil, errors.New("CloudTrail is not asked here"))
	}
	ctx, cancel := context.WithTimeout(ctx, callersTimeout)
	defer cancel()
	if err := r.lookups.Wait(ctx); err != nil {
		return found(nil, fmt.Errorf("wait for a lookup in CloudTrail: %w", err))
	}
	out, err := r.trail.LookupEvents(ctx, &cloudtrail.LookupEventsInput{
		LookupAttributes: []types.LookupAttribute{{AttributeKey: types.LookupAttributeKeyResourceName, AttributeValue: &key.ARN}},
		MaxResults:       aws.Int32(lookupPage),
	})
	if err != nil {
		return found(nil, fmt.Errorf("look up events: %w", err))
	}
	return found(callers(out.Events, r.config.Identity), nil)
}

// callers sums up events, the newest first, by who called what. Our own reads
// are only counted: they would bury the others.
func callers(found []types.Event, us Identity) []string {
	type call struct{ who, operation string }
	type sum struct {
		call
		n       int
		last    time.Time
		refused []string
	}
	var sums []*sum
	ours := 0
	for _, f := range found {
		c, refused := call{aws.ToString(f.Username), aws.ToString(f.EventName)}, ""
		if e, err := events.Parse([]byte(aws.ToString(f.CloudTrailEvent))); err == nil {
			if us.isOurs(e.Actor) {
				ours++
				continue
			}
			c, refused = call{e.Actor.String(), e.Name}, e.ErrorCode
		}
		i := slices.IndexFunc(sums, func(s *sum) bool { return s.call == c })
		if i < 0 {
			i = len(sums)
			sums = append(sums, &sum{call: c, last: aws.ToTime(f.EventTime)})
		}
		sums[i].n++
		if refused != "" && !slices.Contains(sums[i].refused, refused) {
			sums[i].refused = append(sums[i].refused, refused)
		}
	}
	var values []string
	for _, s := range sums[:min(len(sums), maxCallers)] {
		times := "once, at"
		if s.n > 1 {
			times = fmt.Sprintf("%d times, last at", s.n)
		}
		text := fmt.Sprintf("%s: %s %s %s", s.who, s.operation, times, timeText(s.last))
		if len(s.refused) > 0 {
			text += "; refused with " + strings.Join(s.refused, ", ")
		}
		values = append(values, text)
	}
	if more := len(sums) - maxCallers; more > 0 {
		values = append(values, fmt.Sprintf("and %d more", more))
	}
	if ours > 0 {
		values = append(values, fmt.Sprintf("%d of these events are cmkeeper's own", ours))
	}
	return values
}
