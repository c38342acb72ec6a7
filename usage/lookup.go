package usage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/smithy-go"
	"golang.org/x/time/rate"
)

// Trail is CloudTrail: Call calls an operation of its API. *awsclient.JSON is one.
type Trail interface {
	Call(ctx context.Context, operation string, in, out any) error
}

const (
	// perSecond is how often the event history is asked: CloudTrail takes two requests a
	// second from everybody in the account and Region together, and the fleet needs its part
	// to confirm events.
	perSecond = 1
	// maxThrottled is how often in a row CloudTrail may throttle, each time after the client's
	// own retries: others use all of its requests then.
	maxThrottled = 5
	// history is how far CloudTrail's event history goes back.
	history = 90 * day
)

// Looked is how far a look-up is. CloudTrail shows the newest events first.
type Looked struct {
	Requests int
	// Back is the time back to which all events are known.
	Back time.Time
	// Left is how long the rest takes, as far as can be told; 0 before it can.
	Left time.Duration
}

// event is an event as LookupEvents answers with it.
type event struct {
	CloudTrailEvent string
	EventTime       float64 // seconds since 1970
}

func (e event) at() time.Time { return time.Unix(int64(e.EventTime), 0).UTC() }

// LookUp adds what CloudTrail's event history has of the key: management events of the last
// 90 days, among them all uses of keys. It ends after so many requests, 0 for no limit; the
// table is then about the time that is known, and says so. progress, where not nil, is called
// after each request.
func (c *Collector) LookUp(ctx context.Context, trail Trail, requests int, progress func(Looked)) error {
	c.begin()
	if oldest := time.Now().UTC().Add(-history).Truncate(time.Second); c.before.Before(oldest) {
		c.restrict(oldest, "CloudTrail's event history has the last 90 days; read a trail's log files instead")
	}
	type attribute struct{ AttributeKey, AttributeValue string }
	in := struct {
		LookupAttributes   []attribute
		StartTime, EndTime int64 // seconds since 1970
		MaxResults         int
		NextToken          string `json:",omitempty"`
	}{[]attribute{{"ResourceName", c.key}}, c.before.Unix(), c.to.Unix(), 50, ""}
	pace := rate.NewLimiter(perSecond, 1)
	began, looked, throttled := time.Now(), Looked{Back: c.to}, 0
	var last []event // of the oldest second that is known, of which there may be more
	add := func() {
		for _, e := range last {
			c.Add([]byte(e.CloudTrailEvent))
		}
		last = last[:0]
	}
	for {
		if err := pace.Wait(ctx); err != nil {
			return fmt.Errorf("look up events: %w", context.Cause(ctx))
		}
		var page struct {
			Events    []event
			NextToken string
		}
		err := trail.Call(ctx, "LookupEvents", in, &page)
		looked.Requests++
		switch api, ok := errors.AsType[smithy.APIError](err); {
		case err == nil:
			throttled = 0
			for _, e := range page.Events {
				if at := e.at(); !at.Equal(looked.Back) {
					add()
					looked.Back = at
				}
				last = append(last, e)
			}
			in.NextToken = page.NextToken
		case ok && api.ErrorCode() == "ThrottlingException" && throttled < maxThrottled:
			throttled++
		default:
			return fmt.Errorf("look up events, which takes cloudtrail:LookupEvents: %w", err)
		}
		done := err == nil && page.NextToken == ""
		if done {
			add()
			looked.Back = c.before
		}
		if known := c.to.Sub(looked.Back); known > 0 {
			so := max(time.Since(began), time.Duration(looked.Requests)*time.Second/perSecond)
			looked.Left = time.Duration(float64(so) * float64(looked.Back.Sub(c.before)) / float64(known))
		}
		if progress != nil {
			progress(looked)
		}
		if done {
			return nil
		}
		if looked.Requests == requests {
			c.limit(looked)
			return nil
		}
	}
}

// limit restricts the collector to the time that is known of a busy key.
func (c *Collector) limit(l Looked) {
	left := "for minutes"
	switch {
	case l.Left >= 2*day:
		left = fmt.Sprintf("for %d days", l.Left.Round(day)/day)
	case l.Left >= time.Minute:
		left = "for " + strings.TrimSuffix(l.Left.Round(time.Minute).String(), "0s")
	}
	c.restrict(l.Back.Add(time.Second), // in the second before it there may be more
		fmt.Sprintf("the key is so busy that CloudTrail would have to be asked %s more; read the trail's log files instead, or raise the limit of %d requests", left, l.Requests))
}

// restrict restricts the collector to what was after a time. The table is not complete where
// that is not all of its own time.
func (c *Collector) restrict(back time.Time, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if back.After(c.to) {
		back = c.to
	}
	why = fmt.Sprintf("events before %s: %s", back.Format(time.RFC3339), why)
	if c.before = back; c.from.Before(back) {
		c.from = back
		c.unread(why)
		return
	}
	c.short = "Not compared with " + why + "."
}
