package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/worker"
)

const (
	// fleetTag is the tag of a queue that names the fleet which it belongs to.
	fleetTag = "cmkeeper:fleet"
	// fleetAttribute is the attribute of a message that names the fleet which sent it to
	// itself. It is no part of the body: former builds reject a member that they do not know.
	fleetAttribute = "cmkeeper-fleet"
	// passOnFor is how old a message of another fleet may become on the way back to it.
	passOnFor = 6 * time.Hour
)

// fleet names those who keep their state together: their account and Region, and where
// the state is. Two fleets on one queue take each other's messages.
func (c Common) fleet(account, region string) string {
	place := account + "/" + region + "/" + c.StateBucket + "/"
	name := place + c.StatePrefix
	if len(name) > 256 || !only(name, word+" .:/=+-@") { // what a tag takes
		name = fmt.Sprintf("%ssha256-%x", place, sha256.Sum256([]byte(c.StatePrefix)))
	}
	return name
}

// ownMessages is an SQS client that sends a fleet's messages to itself: each names the fleet.
type ownMessages struct {
	*sqs.Client
	fleet string
}

// SendMessage sends a message with the fleet's name.
func (m ownMessages) SendMessage(ctx context.Context, in *sqs.SendMessageInput, o ...func(*sqs.Options)) (*sqs.SendMessageOutput, error) {
	named := *in
	named.MessageAttributes = maps.Clone(in.MessageAttributes)
	if named.MessageAttributes == nil {
		named.MessageAttributes = map[string]types.MessageAttributeValue{}
	}
	named.MessageAttributes[fleetAttribute] = types.MessageAttributeValue{DataType: aws.String("String"), StringValue: &m.fleet}
	return m.Client.SendMessage(ctx, &named, o...)
}

// neighbours are the other fleets that turn up on this fleet's queues.
type neighbours struct {
	fleet  string // ours
	alerts alert.Sink
	log    *slog.Logger
	told   atomic.Int64 // when they were told last, in Unix nanoseconds
}

// keepApart passes messages on to the handler but those that another fleet has sent to
// itself: they go back to the queue, where it may take them, and in the end to the
// dead-letter queue. A message without a fleet is anybody's: an event, or one of a
// former build.
func (n *neighbours) keepApart(queue *worker.Queue, next worker.HandlerFunc) worker.HandlerFunc {
	return func(ctx context.Context, m worker.Message) error {
		other := m.Attributes[fleetAttribute]
		if other == "" || other == n.fleet {
			return next(ctx, m)
		}
		n.tell(ctx, queue, other)
		err := fmt.Errorf("it belongs to the fleet %s, and this worker to the fleet %s: two fleets share the queue", brief(other), n.fleet)
		age := time.Since(m.Sent)
		if age > passOnFor { // also where it is not known
			return outcome.Reject(err)
		}
		return outcome.RetryAfter(min(max(age/4, 5*time.Second), outcome.MaxDelay), err)
	}
}

// look tells of the queues that another fleet has claimed.
func (n *neighbours) look(ctx context.Context, f found) {
	for _, o := range f.owners {
		if q := f.queue(o.url); q != nil && o.another(n.fleet) {
			n.tell(ctx, q, o.owner)
		}
	}
}

// tell logs and alerts, at most once an hour, that another fleet uses the queue. What
// names that fleet is a claim.
func (n *neighbours) tell(ctx context.Context, queue *worker.Queue, other string) {
	now, last := time.Now(), n.told.Load()
	if now.Sub(time.Unix(0, last)) < time.Hour || !n.told.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	n.log.Error("two fleets seem to share one queue: each takes messages that are for the other", "queue", queue.Name, "fleet", n.fleet, "other_fleet", brief(other),
		"fix", "give each fleet queues of its own")
	err := n.alerts.Publish(ctx, n.alert(now, queue, other))
	if err != nil && outcome.Of(err).Action != outcome.Delay { // else another member publishes it
		n.log.Error("the alert about two fleets on one queue cannot be published", "error", err)
	}
}

// alert is the alert about another fleet on a queue.
func (n *neighbours) alert(now time.Time, queue *worker.Queue, other string) alert.Alert {
	q := arn.Parse(queue.ARN)
	return alert.Alert{
		ID: fmt.Sprintf("shared-queue/%s/%s", queue.ARN, now.UTC().Format("2006-01-02T15")), Kind: alert.KindGuard, Severity: finding.High,
		Time: now.UTC(), Account: q.Account, Region: q.Region,
		Title:   fmt.Sprintf("Two fleets of cmkeeper seem to share the queue %s", queue.Name),
		Summary: fmt.Sprintf("This fleet works on the queue %s. A message in it, or its tag %s, names another fleet: %s. If there is one, each event reaches only one of the two.", queue.Name, fleetTag, alert.Escape(brief(other))),
		Risk:    "Events that the other fleet takes are not handled by this one: they are judged by the other one's configuration, and alerted to its topics, if at all.",
		Action:  alert.Action{Status: alert.StatusNone, Description: "cmkeeper put the other fleet's messages back into the queue. It did not act on them."},
		Next: []string{
			"Give each fleet queues of its own: CMKEEPER_EVENTS_QUEUE_URL and CMKEEPER_JOBS_QUEUE_URL.",
			"If there is no other fleet, find out who sends messages to the queue or tags it: anybody who may do that can claim to be one.",
			command.Line("aws sqs list-queue-tags --queue-url %s", command.Queue(queue.URL)),
		},
		Facts: []alert.Fact{{Name: "this fleet", Values: []string{n.fleet}}, {Name: "other fleet", Values: []string{brief(other)}}},
	}
}

// brief is the beginning of a fleet's name, which comes from outside.
func brief(fleet string) string {
	const longest = 256
	if len(fleet) <= longest {
		return fleet
	}
	return fleet[:longest] + "…"
}

// ownership is whose a queue is.
type ownership struct {
	// variable names the queue in the configuration, where it has this URL.
	variable, url string
	// owner is the fleet that the queue's tag names, "" where it has none.
	owner string
	// unread is why the tag could not be read, nil where it was.
	unread error
}

// another reports whether the queue is another fleet's than this one.
func (o ownership) another(fleet string) bool { return o.owner != "" && o.owner != fleet }

// claim returns an error that says which of the queues are another fleet's, and tags
// those that are nobody's. All queues were found.
func (d dependencies) claim(ctx context.Context, f found) error {
	fleet := d.fleet()
	var problems []error
	for _, o := range f.owners {
		if o.another(fleet) {
			problems = append(problems, fmt.Errorf("%s%s: queue %s belongs to the fleet %s, by its tag %s, and this member to the fleet %s: two fleets on one queue take each other's messages; "+
				"give each fleet queues of its own; where the state was moved on purpose, stop the other fleet and remove the tag (docs/operations.md, Moving the state)",
				envPrefix, o.variable, f.queue(o.url).Name, alert.Escape(brief(o.owner)), fleetTag, fleet))
		}
	}
	if problems != nil {
		return errors.Join(problems...)
	}
	for _, o := range f.owners {
		err := o.unread
		if err == nil && o.owner == "" {
			_, err = d.sqs.TagQueue(ctx, &sqs.TagQueueInput{QueueUrl: &o.url, Tags: map[string]string{fleetTag: fleet}})
		}
		if err != nil {
			d.log.Warn("another fleet on this queue by mistake would not be noticed at its start", "queue", f.queue(o.url).Name, "error", err, "fix", "grant sqs:ListQueueTags and sqs:TagQueue on the queue")
		}
	}
	return nil
}
