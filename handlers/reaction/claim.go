package reaction

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/handlers/confirm"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// ClaimPatience is how long an event that only a message claims waits for CloudTrail to
// show it, and claimPause how often it looks. CloudTrail shows most events within 5 minutes, and all within 15 (User
// Guide, "How CloudTrail works").
const (
	ClaimPatience = 15 * time.Minute
	claimPause    = 30 * time.Second
)

// errUnconfirmed says that CloudTrail has not shown an event yet.
var errUnconfirmed = errors.New("waiting for CloudTrail to show the event")

// Await has CloudTrail asked whether the event happened, because its message alone does
// not justify something, and reports whether that is still to be waited for: the event is
// then handled again, with CloudTrail's record in place of the message once there is one.
// false: it is known already (a record, or a sweep), or there is nothing to wait for any
// more, and the event is handled as one that is not confirmed.
func (c *Case) Await(ctx context.Context, what string) bool {
	if !c.Event.Claimed || c.Records == nil || c.Event.RecordID == "" || !c.isRecent() {
		return false
	}
	c.Debug(ctx, "event has to be confirmed", "for", alert.Escape(what))
	c.Records.Record(question(c.Event))
	c.awaited.add(claimsHour, c.Event.ID)
	c.awaits = true
	return true
}

// Awaits reports whether the event will be handled again when CloudTrail shows it.
func (c *Case) Awaits() bool { return c.awaits }

// isRecent reports whether CloudTrail may still come to show the event.
func (c *Case) isRecent() bool { return isRecent(c.Event) }

func isRecent(e events.Event) bool {
	since := e.Sent
	if since.IsZero() {
		since = e.Time
	}
	return time.Since(since) < ClaimPatience
}

// claimsHour is the one hour of Env.awaited: what waits is not forgotten with the hour.
const claimsHour = "claims"

func question(e events.Event) confirm.Question {
	return confirm.Question{EventID: e.RecordID, Name: e.Name, Resource: e.KeyARN, Actor: e.Actor.ARN, Time: e.Time}
}

// Confirm returns CloudTrail's record of an event that a message claims and that a
// reaction awaits; nil for none. An error is an expected wait for it.
func (e *Env) Confirm(claim events.Event) (record []byte, err error) {
	if e.Records == nil || !e.awaited.has(claimsHour, claim.ID) {
		return nil, nil
	}
	record, ok := e.Records.Record(question(claim))
	if ok || !isRecent(claim) {
		return record, nil
	}
	return nil, unconfirmed()
}

// candidates are messages that may show who sends the events.
type candidates struct {
	mu  sync.Mutex
	all []candidate
}

type candidate struct {
	question confirm.Question
	sender   string
}

// maxCandidates bounds the look-ups for it.
const maxCandidates = 4

// LearnSender has CloudTrail asked about a claim where that would show who sends the
// events, and takes note of what it has shown about earlier ones.
func (e *Env) LearnSender(ctx context.Context, claim events.Event, sender string) {
	if e.Records == nil || e.Senders == nil || sender == "" || claim.RecordID == "" || !e.Senders.Unknown() {
		return
	}
	e.senders.mu.Lock()
	defer e.senders.mu.Unlock()
	e.senders.all = append(e.senders.all, candidate{question(claim), sender})
	e.senders.all = e.senders.all[max(0, len(e.senders.all)-maxCandidates):]
	for _, c := range e.senders.all {
		if _, ok := e.Records.Record(c.question); ok {
			e.Senders.Confirmed(ctx, c.sender)
			e.senders.all = nil
			return
		}
	}
}

func unconfirmed() error { return outcome.RetryAfter(claimPause, errUnconfirmed) }

// TellClaim makes an alert one about an event that only a message claims: how to check
// that it happened, and what waits for that.
func (c *Case) tellClaim(a *alert.Alert) {
	if !c.Event.Claimed || c.Event.Actor == (events.Actor{}) {
		return
	}
	note := "Nothing but a message on the events queue says who called " + c.Event.Name + ", or that anybody did. What this alert says of the present state was read."
	if c.awaits {
		note += fmt.Sprintf(" cmkeeper waits up to %d minutes for CloudTrail to show the call, and handles it again then.", int(ClaimPatience.Minutes()))
	}
	a.Facts = append(a.Facts, alert.Fact{Name: "unconfirmed", Values: []string{note}})
	a.Next = append(a.Next, "Check that CloudTrail has the call; it shows calls after up to 15 minutes:", c.LookupCommand("EventId", command.EventID(c.Event.RecordID)))
}
