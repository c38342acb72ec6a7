package guard

import (
	"errors"
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/command"
)

// judgeTopics judges whether somebody gets the alerts of each topic.
func judgeTopics(f Facts) (problems []Problem, unread error) {
	for _, t := range f.Topics {
		name, topic, in := last(t.ARN, ":"), command.Topic(t.ARN), command.Region(f.Region)
		p := Problem{
			Name: "topic/" + t.ARN, Severity: finding.Critical,
			Risk: "Alerts that are published to this topic reach nobody.",
		}
		switch err := t.Confirmed.Err; {
		case missing(err):
			p.Title = fmt.Sprintf("The alert topic %s does not exist", name)
			p.Summary = fmt.Sprintf("SNS does not know the topic: %v.", err)
			p.Next = []string{"Create the topic and subscribe to it, or correct CMKEEPER_ALERT_TOPIC_ARN and CMKEEPER_ALERT_FORMATS."}
		case err != nil:
			unread = errors.Join(unread, fmt.Errorf("topic %s: %w", name, err))
			continue
		case t.Confirmed.Value > 0:
			continue
		default:
			p.Title = fmt.Sprintf("Nobody is subscribed to the alert topic %s", name)
			p.Summary = "The topic has no confirmed subscription."
			p.Next = []string{
				"Subscribe to the topic again, and confirm the subscription; an unconfirmed one gets nothing:",
				command.Line("aws sns list-subscriptions-by-topic --topic-arn %s --region %s", topic, in), "cmkeeper alerts test",
			}
		}
		problems = append(problems, p)
	}
	return problems, unread
}

// judgeDeadLetters judges the dead-letter queues, and with them the queues themselves.
func judgeDeadLetters(f Facts) (problems []Problem, unread error) {
	all := f.DeadLetters
	for _, q := range f.Queues {
		switch err := q.Read.Err; {
		case missing(err):
			problems = append(problems, Problem{
				Name: "dead-letters/no-queue/" + q.Name, Severity: finding.Critical,
				Title:   fmt.Sprintf("Queue %s, or its dead-letter queue, does not exist", q.Name),
				Summary: fmt.Sprintf("SQS does not know the queue: %v.", err),
				Risk:    "cmkeeper receives nothing from a queue that does not exist.",
				Next:    []string{"Create the queue again, with its policy and its dead-letter queue, as docs/operations.md has them."},
			})
		case err != nil:
			unread = errors.Join(unread, err)
		default:
			all = append(all, q.DeadLetters)
		}
	}
	seen := map[string]bool{}
	for _, d := range all {
		if seen[d.Name] {
			continue
		}
		seen[d.Name] = true
		switch err := d.Messages.Err; {
		case err != nil:
			unread = errors.Join(unread, fmt.Errorf("dead-letter queue %s: %w", d.Name, err))
		case d.Messages.Value > 0:
			problems = append(problems, Problem{
				Name: "dead-letters/" + d.Name, Severity: finding.High,
				Title:   fmt.Sprintf("Messages are in the dead-letter queue %s", d.Name),
				Summary: fmt.Sprintf("It holds about %d messages of %s that were not handled.", d.Messages.Value, d.For),
				Risk:    "Events in it had no reaction and no alert of their own; the sweeps find what can still be read. SQS deletes the messages at the end of the queue's retention.",
				Next: []string{
					"Read why: cmkeeper's messages say it in the attribute cmkeeper-reason, EventBridge's in ERROR_MESSAGE. Fix the cause.",
					"Redrive the messages (aws sqs start-message-move-task), or delete those that are no events.",
					command.Line("aws sqs receive-message --message-attribute-names All --queue-url %s --region %s", command.Queue(d.URL), command.Region(f.Region)),
				},
			})
		}
	}
	return problems, unread
}

// judgeOwn judges whether the guard depends on a key that it guards.
func judgeOwn(f Facts) ([]Problem, error) {
	if len(f.Own.Value) == 0 {
		return nil, f.Own.Err
	}
	return []Problem{{
		Name: "own-keys/customer-managed", Severity: finding.High, Findings: f.Own.Value,
		Title:   "cmkeeper depends on a key that it guards",
		Summary: "A queue, topic or bucket that cmkeeper needs is encrypted with a customer managed key.",
		Risk:    "An attacker who disables that key silences cmkeeper.",
		Next:    []string{"Encrypt them with SSE-SQS, SSE-S3 or the service's AWS managed key instead."},
	}}, f.Own.Err
}

// TickLimit is how many times its interval the schedule may be quiet.
const TickLimit = 2

// Overdue reports how long the schedule has been quiet, and whether that is too long. A
// worker that has not listened for so long does not know.
func (t Ticks) Overdue(now time.Time) (quiet time.Duration, overdue bool) {
	heard := t.Last
	if t.Since.After(heard) {
		heard = t.Since
	}
	quiet = now.Sub(heard)
	return quiet, quiet > TickLimit*t.Interval
}

// judgeTicks judges whether the schedule still asks for sweeps.
func judgeTicks(f Facts) ([]Problem, error) {
	t := f.Ticks.Value
	quiet, overdue := t.Overdue(f.At)
	if f.Ticks.Err != nil || !overdue {
		return nil, f.Ticks.Err
	}
	summary := fmt.Sprintf("For %s no scheduled event has asked for a sweep; CMKEEPER_SWEEP_INTERVAL says that one comes every %s.", quiet.Round(time.Minute), t.Interval)
	if !t.Last.IsZero() {
		summary += fmt.Sprintf(" The last one came at %s.", t.Last.UTC().Format(time.DateTime+" MST"))
	}
	return []Problem{{
		Name: "schedule/quiet", Severity: finding.High,
		Title:   "The schedule does not ask for sweeps any more",
		Summary: summary + fmt.Sprintf(" A worker sweeps by itself every %s until it does.", TickLimit*t.Interval),
		Risk:    "Changes whose events were lost are found later, and reminders of deletions may come late.",
		Next: []string{
			"Check the rule or the schedule whose target is the events queue (docs/operations.md, What it needs):",
			command.Line("aws events list-rule-names-by-target --target-arn %s --region %s", command.QueueARN(f.QueueARN), command.Region(f.Region)),
			"If it is slower on purpose, set CMKEEPER_SWEEP_INTERVAL to its interval.",
		},
	}}, nil
}

// judgeCanary judges whether the events of our own calls come back.
func judgeCanary(f Facts) (problems []Problem, _ error) {
	c := f.Canary.Value
	if f.Canary.Err != nil || c.Key == "" {
		return nil, f.Canary.Err
	}
	if c.Refused != "" {
		problems = append(problems, Problem{
			Name: "canary/refused", Severity: finding.Medium,
			Title:   "No canary is sent: the canary key cannot be used for it",
			Summary: fmt.Sprintf("cmkeeper did not change the description of key %s: %s.", c.Key, c.Refused),
			Risk:    "Whether events of calls arrive is not proven.",
			Next: []string{
				"CMKEEPER_CANARY_KEY names a key that is made for this and nothing else. It needs the tag cmkeeper:canary, an empty description or cmkeeper's, and kms:UpdateKeyDescription for cmkeeper's role:",
				command.Line("aws kms describe-key --key-id %s --region %s", command.Key(c.Key), command.Region(f.Region)),
			},
		})
	}
	if c.Lost > 0 {
		p := Problem{
			Name: "canary/lost", Severity: finding.High,
			Title:   "A canary did not come back: an event of KMS was lost or is late",
			Summary: fmt.Sprintf("cmkeeper changed the description of key %s, and the event of that call did not arrive within %s.", c.Key, c.Patience),
			Risk:    "Other events of calls on keys may be lost or late, too; the sweeps still find the changes.",
			Next: []string{
				"Check whether other alerts tell of a trail, rule or queue that was changed, and the AWS Health Dashboard for CloudTrail and EventBridge.",
				command.Line("aws cloudtrail lookup-events --lookup-attributes %s --region %s", command.Lookup("ResourceName", command.Key(c.Key)), command.Region(f.Region)),
			},
		}
		if c.Lost >= c.Grave {
			p.Severity = finding.Critical
			p.Title = "No canary comes back: events of KMS do not reach cmkeeper"
			p.Summary = fmt.Sprintf("The events of cmkeeper's last %d calls on key %s did not arrive, each within %s.", c.Lost, c.Key, c.Patience)
			p.Risk = "cmkeeper does not learn of changes to keys when they are made. Something on the way CloudTrail, EventBridge, SQS keeps the events back, whatever the settings say."
		}
		problems = append(problems, p)
	}
	return problems, nil
}
