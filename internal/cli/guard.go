package cli

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/cmkeeper/cmkeeper/guard"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/worker"
)

// guardReader reads what a member needs to see and to tell.
type guardReader struct {
	dependencies
	reader guard.Reader
	// policy reads the policy of the events queue.
	policy func(context.Context) (string, error)
	// queue is the events queue, as it was at the start.
	queue     *worker.Queue
	reactions reaction.Config
	others    *neighbours
}

// guard returns the reader of a member that handles events.
func (d dependencies) guard(cfg aws.Config, queue *worker.Queue, reactions reaction.Config, others *neighbours) guardReader {
	return guardReader{
		dependencies: d, queue: queue, reactions: reactions, others: others, policy: worker.Policy(d.sqs, queue.URL),
		reader: guard.Reader{Events: awsclient.EventBridge(cfg), Trails: awsclient.CloudTrail(cfg)},
	}
}

// read reads the facts, those of each service beside those of the others.
func (r guardReader) read(ctx context.Context) guard.Facts {
	f := guard.Facts{
		Account: r.account, Region: r.region, QueueARN: r.queue.ARN, RuleNames: r.reactions.EventRules, Streams: handlers.Streams(r.reactions),
	}
	var reading sync.WaitGroup
	reading.Go(awsclient.Roomy(func() { f.Trails = r.reader.ReadTrails(ctx) }))
	reading.Go(awsclient.Roomy(func() {
		f.Rules = r.reader.Rules(ctx, r.queue.ARN, f.RuleNames)
		f.DeadLetters = r.ruleDeadLetters(ctx, f.Rules.Value)
	}))
	reading.Go(awsclient.Roomy(func() { f.Policy.Value, f.Policy.Err = r.policy(ctx) }))
	r.readOwn(ctx, &f)
	reading.Wait()
	return f
}

// readOwn reads the queues, topics and the bucket that the configuration names.
func (r guardReader) readOwn(ctx context.Context, f *guard.Facts) {
	var all found
	var unread []error
	for _, q := range r.config.queues() {
		got, err := r.checkQueue(ctx, q.variable, q.url)
		queue := guard.Queue{Name: path.Base(q.url), Read: guard.Known[struct{}]{Err: err}}
		if err == nil {
			queue.DeadLetters = deadLetters(got.queues[0].DeadLetter, "queue "+queue.Name)
		}
		f.Queues = append(f.Queues, queue)
		q.owner, q.unread = r.owner(ctx, q.url)
		all.queues, all.owners, all.risks = append(all.queues, got.queues...), append(all.owners, q), append(all.risks, got.risks...)
		unread = append(unread, err)
	}
	r.others.look(ctx, all)
	for _, t := range r.config.topics() {
		got, err := r.checkTopic(ctx, "ALERT_TOPIC_ARN", t.ARN)
		if err != nil {
			got.topic.Confirmed.Err = err
		}
		f.Topics, all.risks = append(f.Topics, got.topic), append(all.risks, got.risks...)
		unread = append(unread, err)
	}
	var err error
	f.Own.Value, err = r.risks(ctx, all)
	f.Own.Err = errors.Join(append(unread, err)...)
}

// ruleDeadLetters reads the dead-letter queues of the rules' targets.
func (r guardReader) ruleDeadLetters(ctx context.Context, rules []guard.Rule) (all []guard.DeadLetters) {
	for _, rule := range rules {
		if rule.Target == nil || rule.Target.DeadLetters == "" {
			continue
		}
		target, what := arn.Parse(rule.Target.DeadLetters), "rule "+rule.Name
		q, err := worker.ReadDeadLetters(ctx, r.sqs, r.queue.URL, target)
		if err != nil {
			all = append(all, guard.DeadLetters{Name: target.Resource, For: what, Messages: guard.Known[int]{Err: fmt.Errorf("of %s: %w", what, err)}})
			continue
		}
		all = append(all, deadLetters(q, what))
	}
	return all
}

func deadLetters(q *worker.Queue, whose string) guard.DeadLetters {
	return guard.DeadLetters{Name: q.Name, URL: q.URL, For: whose, Messages: guard.Known[int]{Value: q.Messages}}
}
