package handlers

import (
	"context"

	"github.com/cmkeeper/cmkeeper/events"
)

// evidence returns what is known of a message's event: CloudTrail's record of it where
// that is known, else the event as a claim, unless the queue vouches for its sender.
func (r *Router) evidence(ctx context.Context, e events.Event, m Message) (events.Event, error) {
	if r.Senders != nil && r.Senders.Vouches(ctx, m.Sender, m.Sent) {
		return e, nil
	}
	claim := e.AsClaim(m.Body)
	record, err := r.Confirm(claim)
	if err != nil || record == nil {
		r.LearnSender(ctx, claim, m.Sender)
		return claim, err
	}
	shown, err := events.Parse(record)
	if err != nil {
		r.Logger.WarnContext(ctx, "CloudTrail's record of an event cannot be used, so its message stays a claim", "error", err)
		return claim, nil // trying again would not change it
	}
	if r.Senders != nil {
		r.Senders.Confirmed(ctx, m.Sender)
	}
	r.Logger.InfoContext(ctx, "event confirmed by CloudTrail", "event", shown.Name)
	return shown.SentAt(m.Sent), nil
}
