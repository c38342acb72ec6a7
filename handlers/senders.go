package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/keypolicy"
	"github.com/cmkeeper/cmkeeper/state"
)

// AnySender vouches for every message: for events that a person hands over, and for tests.
type AnySender struct{}

// Vouches implements reaction.Senders.
func (AnySender) Vouches(context.Context, string, time.Time) bool { return true }

// Unknown implements reaction.Senders.
func (AnySender) Unknown() bool { return false }

// Confirmed implements reaction.Senders.
func (AnySender) Confirmed(context.Context, string) {}

// QueueSenders vouches for the messages of EventBridge where nobody else can send any: the
// queue's policy denies it to everybody but our rules and our role, and the message's
// sender is the one of messages that CloudTrail confirmed. It is safe for concurrent use.
type QueueSenders struct {
	// Policy reads the policy of the events queue, "" for none.
	Policy func(context.Context) (string, error)
	// QueueARN is the queue's, and Identity and Rules are as in reaction.Config.
	QueueARN string
	Identity reaction.Identity
	Rules    []string
	State    *state.Store
	Logger   *slog.Logger

	mu     sync.Mutex
	until  time.Time // the next reading
	closed bool      // the policy is such a one
	sender eventsSender
	told   bool // it was logged that the queue is open
}

// sendersRead is how often the policy and the sender are read, while messages arrive.
const sendersRead = time.Minute

// sendersTimeout bounds how long that keeps messages waiting.
const sendersTimeout = 5 * time.Second

// sendersName is the document with the sender that CloudTrail confirmed.
const sendersName = "senders/events.json"

// eventsSender is the stored document: who sends the events of EventBridge, and since when
// that is known. The zero value: it is not.
type eventsSender struct {
	Sender string    `json:"sender"`
	At     time.Time `json:"at"`
}

// Schema implements state.Document.
func (*eventsSender) Schema() (string, int) { return "events-sender", 1 }

// Vouches implements reaction.Senders. A message from before its sender was known stays
// what it was when it was first handled.
func (q *QueueSenders) Vouches(ctx context.Context, sender string, sent time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now := time.Now(); !now.Before(q.until) {
		q.until = now.Add(sendersRead)
		q.read(ctx)
	}
	return q.closed && sender != "" && sender == q.sender.Sender && sent.After(q.sender.At)
}

// Unknown implements reaction.Senders.
func (q *QueueSenders) Unknown() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed && q.sender.Sender == ""
}

// read reads the policy and the sender. While they cannot be read, the last reading holds;
// the first one holds for nobody.
func (q *QueueSenders) read(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sendersTimeout)
	defer cancel()
	var sender eventsSender
	policy, err := q.Policy(ctx)
	if err == nil {
		if _, err = q.State.Get(ctx, sendersName, &sender); errors.Is(err, state.ErrNotFound) {
			err = nil
		}
	}
	if err != nil {
		q.Logger.WarnContext(ctx, "it cannot be read who may send to the events queue", "error", err)
		return
	}
	why := openTo(policy, q.QueueARN, q.Rules, q.Identity)
	if why != "" && (q.closed || !q.told) {
		q.Logger.InfoContext(ctx, "events have to be confirmed by CloudTrail where they decide something", "reason", why)
	}
	q.closed, q.sender, q.told = why == "", sender, why != ""
}

// Confirmed implements reaction.Senders.
func (q *QueueSenders) Confirmed(ctx context.Context, sender string) {
	if sender == "" || !q.Unknown() {
		return
	}
	doc := eventsSender{Sender: sender, At: q.State.Now().UTC().Truncate(time.Second).Add(time.Second)}
	if _, err := q.State.Put(ctx, sendersName, &doc, ""); err != nil && !errors.Is(err, state.ErrConflict) {
		q.Logger.WarnContext(ctx, "it cannot be stored who sends the events", "error", err)
		return
	}
	q.Logger.InfoContext(ctx, "messages of this sender count as CloudTrail's records from now on", "sender", sender)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.until = time.Time{} // read it back
}

// openTo says who else may send to a queue than the rules and the role, or "" for nobody.
// Only one form is understood: a Deny of sqs:SendMessage to everybody whose source is none of
// the rules and who is not the role. An Allow says nothing, since the IAM policies of the
// account's principals let them send without one.
func openTo(policy, queueARN string, rules []string, us reaction.Identity) string {
	p, err := keypolicy.Parse([]byte(policy))
	if err != nil {
		return fmt.Sprintf("the queue's policy is not understood: %v", err)
	}
	for _, s := range p.Statements {
		if closes(s, queueARN, rules, us) {
			return ""
		}
	}
	return "the queue's policy does not deny sqs:SendMessage to everybody but our rules and our role"
}

// closes reports whether a statement is such a Deny.
func closes(s keypolicy.Statement, queueARN string, rules []string, us reaction.Identity) bool {
	everyone := slices.ContainsFunc(s.Principals, func(p keypolicy.Principal) bool { return p.Type == "AWS" && p.ID == "*" })
	if !s.Deny || !everyone || s.NotPrincipal || s.NotAction || s.NotResource || len(s.Conditions) == 0 {
		return false
	}
	sends := slices.ContainsFunc(s.Actions, func(a string) bool { return judgement.Matches(strings.ToLower(a), "sqs:sendmessage") })
	queue := slices.ContainsFunc(s.Resources, func(r string) bool { return r == "*" || r == queueARN })
	for _, c := range s.Conditions {
		if !spares(c, arn.Parse(queueARN), rules, us) {
			return false
		}
	}
	return sends && queue
}

// spares reports whether a condition takes no more out of a Deny than the rules and the
// role. Where its key is missing, such a condition holds.
func spares(c keypolicy.Condition, queue arn.ARN, rules []string, us reaction.Identity) bool {
	switch strings.TrimSuffix(strings.ToLower(c.Operator), "ifexists") {
	case "arnnotequals", "arnnotlike", "stringnotequals", "stringnotlike":
	default:
		return false
	}
	for _, v := range c.Values {
		a := arn.Parse(v)
		kind, name, _ := strings.Cut(a.Resource, "/")
		ours := false
		switch strings.ToLower(c.Key) {
		case "aws:sourcearn":
			ours = a.Service == "events" && a.Region == queue.Region && a.Account == queue.Account && kind == "rule" &&
				slices.ContainsFunc(rules, func(p string) bool { return judgement.Matches(p, name) })
		case "aws:principalarn":
			ours = a.Service == "iam" && a.Account == us.Account && kind == us.Noun() && a.Name() == us.Name && !strings.ContainsAny(v, "*?")
		}
		if !ours {
			return false
		}
	}
	return len(c.Values) > 0
}
