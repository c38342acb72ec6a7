package usage

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/time/rate"
)

// Trail is CloudTrail: Call calls an operation of its API. *awsclient.JSON is one.
type Trail interface {
	Call(ctx context.Context, operation string, in, out any) error
}

// perSecond is how often the event history is asked: CloudTrail takes two requests a second
// from everybody in the account and Region together, and the fleet needs its part to
// confirm events.
const perSecond = 1

// Looked is how far a look-up is. CloudTrail shows the newest events first.
type Looked struct {
	Requests int
	// Back is the time back to which all events are known.
	Back time.Time
	// Left is how long the rest takes, as far as can be told; 0 before it can.
	Left time.Duration
}

// LookUp adds what CloudTrail's event history has of the key: management events of the last
// 90 days, among them all uses of keys. It ends after so many requests, 0 for no limit; the
// table is then about the time that is known, and says so. progress, where not nil, is called
// after each request.
func (c *Collector) LookUp(ctx context.Context, trail Trail, requests int, progress func(Looked)) error {
	type attribute struct{ AttributeKey, AttributeValue string }
	in := struct {
		LookupAttributes   []attribute
		StartTime, EndTime int64 // seconds since 1970
		MaxResults         int
		NextToken          string `json:",omitempty"`
	}{[]attribute{{"ResourceName", c.key}}, c.before.Unix(), c.to.Unix(), 50, ""}
	pace := rate.NewLimiter(perSecond, 1)
	began, looked := time.Now(), Looked{Back: c.to}
	for {
		if err := pace.Wait(ctx); err != nil {
			return fmt.Errorf("look up events: %w", context.Cause(ctx))
		}
		var page struct {
			Events []struct {
				CloudTrailEvent string
				EventTime       float64 // seconds since 1970
			}
			NextToken string
		}
		if err := trail.Call(ctx, "LookupEvents", in, &page); err != nil {
			return fmt.Errorf("look up events, which takes cloudtrail:LookupEvents: %w", err)
		}
		looked.Requests++
		for _, e := range page.Events {
			c.Add([]byte(e.CloudTrailEvent))
			looked.Back = time.Unix(int64(e.EventTime), 0).UTC()
		}
		in.NextToken = page.NextToken
		if page.NextToken == "" {
			looked.Back = c.before
		}
		if known := c.to.Sub(looked.Back); known > 0 {
			looked.Left = time.Duration(float64(time.Since(began)) * float64(looked.Back.Sub(c.before)) / float64(known))
		}
		if progress != nil {
			progress(looked)
		}
		if page.NextToken == "" {
			return nil
		}
		if looked.Requests == requests {
			c.limit(looked)
			return nil
		}
	}
}

// limit restricts the collector to the time that is known.
func (c *Collector) limit(l Looked) {
	c.mu.Lock()
	defer c.mu.Unlock()
	back := l.Back.Add(time.Second) // of the same second there may be more
	c.unread(fmt.Sprintf("events before %s: the key is so busy that CloudTrail would have to be asked for %s more; read the trail's log files instead, or raise the limit of %d requests",
		back.Format(time.RFC3339), l.Left.Round(time.Minute), l.Requests))
	c.before = back
	if c.from.Before(back) {
		c.from = back
	}
}
