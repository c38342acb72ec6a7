package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/guard"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/worker"
)

// dependencies are the resources that the configuration names.
type dependencies struct {
	config Config
	// region is the one whose keys this member guards.
	region string
	// caller asks AWS who this is; it is asked once.
	caller func() (*sts.GetCallerIdentityOutput, error)
	// account is the caller's where that is known by now, else the one that it most
	// likely is: what is asked of the bucket need not wait for the answer then.
	account string
	sqs     *sqs.Client
	sns     *sns.Client
	s3      *s3.Client
	log     *slog.Logger
}

// found is what there is of the dependencies.
type found struct {
	queues []*worker.Queue
	owners []ownership
	topic  guard.Topic // of checkTopic
	// risks are the resources that are encrypted under a customer managed key, but for
	// the state bucket: who disables that key silences the guard.
	risks []finding.Finding
}

// queue returns the queue with this URL.
func (f found) queue(url string) *worker.Queue {
	for _, q := range f.queues {
		if q.URL == url {
			return q
		}
	}
	return nil
}

// queueNames returns the names of the queues and of their dead-letter queues.
func (f found) queueNames() (names []string) {
	for _, q := range f.queues {
		names = append(names, q.Name, q.DeadLetter.Name)
	}
	return names
}

// encrypted notes the key that a resource is encrypted under.
func (f *found) encrypted(resource, key string) {
	if key == "" || strings.Contains(key, "alias/aws/") {
		return
	}
	f.risks = append(f.risks, finding.Finding{
		ID: finding.SelfDependency, Severity: finding.High, Statement: resource,
		Message: fmt.Sprintf("It is encrypted under the customer managed key %s: disabling that key silences cmkeeper. Use the service's own encryption instead.", key),
	})
}

// fleet is the fleet that this member is of, once the account is known.
func (d dependencies) fleet() string { return d.config.fleet(d.account, d.region) }

// start checks every resource before a member begins, finds out who it is, and claims
// the queues for its fleet.
func (d *dependencies) start(ctx context.Context) (found, *sts.GetCallerIdentityOutput, error) {
	f, problems := d.check(ctx)
	caller, err := d.caller()
	if err != nil {
		return f, nil, err // nothing else works then
	}
	d.account = aws.ToString(caller.Account)
	if problems == nil {
		problems = d.claim(ctx, f)
	}
	return f, caller, problems
}

// check reads every resource, all at once, since a worker does not receive before.
// Its error names all that are missing, each with the fix.
func (d dependencies) check(ctx context.Context) (found, error) {
	var checks []func() (found, error)
	queues := d.config.queues()
	for _, queue := range queues {
		checks = append(checks, func() (found, error) { return d.checkQueue(ctx, queue.variable, queue.url) })
	}
	// One after the other on one connection: they take no longer than a queue and its
	// dead-letter queue.
	checks = append(checks, func() (f found, _ error) {
		for _, queue := range queues {
			queue.owner, queue.unread = d.owner(ctx, queue.url)
			f.owners = append(f.owners, queue)
		}
		return f, nil
	})
	for i, t := range d.config.topics() {
		variable := "ALERT_TOPIC_ARN"
		if i > 0 {
			variable = "ALERT_FORMATS"
		}
		checks = append(checks, func() (found, error) { return d.checkTopic(ctx, variable, t.ARN) })
	}
	checks = append(checks, func() (found, error) { return found{}, d.checkBucket(ctx) })

	results, problems := make([]found, len(checks)), make([]error, len(checks))
	var running sync.WaitGroup
	for i, check := range checks {
		running.Go(awsclient.Roomy(func() { results[i], problems[i] = check() }))
	}
	running.Wait()
	var all found
	for _, f := range results {
		all.queues = append(all.queues, f.queues...)
		all.owners = append(all.owners, f.owners...)
		all.risks = append(all.risks, f.risks...)
	}
	return all, errors.Join(problems...)
}

func (d dependencies) checkQueue(ctx context.Context, variable, url string) (f found, err error) {
	q, err := worker.CheckQueue(ctx, d.sqs, url)
	if err != nil {
		return f, fmt.Errorf("%s%s: %w", envPrefix, variable, err)
	}
	// Events of another Region are ignored, one by one: a member that gets nothing else
	// looks healthy and guards nothing.
	if at := arn.Parse(q.ARN).Region; at != "" && at != d.region {
		return f, fmt.Errorf("%s%s: queue %s is in %s, and this member guards the keys of %s; set AWS_REGION to %s, or name a queue in %s",
			envPrefix, variable, q.Name, at, d.region, at, d.region)
	}
	f.queues = []*worker.Queue{q}
	for _, q := range []*worker.Queue{q, q.DeadLetter} {
		f.encrypted("queue "+q.ARN, q.Key)
	}
	return f, nil
}

// queues are those that the member uses.
func (q Queues) queues() []ownership {
	all := []ownership{{variable: "EVENTS_QUEUE_URL", url: q.EventsQueueURL}, {variable: "JOBS_QUEUE_URL", url: q.JobsQueueURL}}
	return slices.DeleteFunc(all, func(o ownership) bool { return o.url == "" })
}

// owner returns the fleet that a queue's tag names, "" where it has none.
func (d dependencies) owner(ctx context.Context, url string) (string, error) {
	out, err := d.sqs.ListQueueTags(ctx, &sqs.ListQueueTagsInput{QueueUrl: &url})
	if err != nil {
		return "", err
	}
	return out.Tags[fleetTag], nil
}

func (d dependencies) checkTopic(ctx context.Context, variable, name string) (f found, err error) {
	f.topic.ARN = name
	topic, err := d.sns.GetTopicAttributes(ctx, &sns.GetTopicAttributesInput{TopicArn: &name})
	if err != nil {
		return f, fmt.Errorf("%s%s: topic %s cannot be read: create it, or grant sns:GetTopicAttributes and sns:Publish: %w", envPrefix, variable, name, err)
	}
	f.topic.Confirmed.Value, f.topic.Confirmed.Err = strconv.Atoi(topic.Attributes["SubscriptionsConfirmed"])
	f.encrypted("topic "+name, topic.Attributes["KmsMasterKeyId"])
	return f, nil
}

// checkBucket checks that the state bucket can be used, and is the caller's own.
func (d dependencies) checkBucket(ctx context.Context) error {
	var err error
	var reading sync.WaitGroup
	reading.Go(awsclient.Roomy(func() { err = d.readBucket(ctx, d.account) }))
	caller, unknown := d.caller()
	reading.Wait()
	if unknown != nil {
		return unknown
	}
	if account := aws.ToString(caller.Account); account != d.account {
		return d.readBucket(ctx, account)
	}
	return err
}

// readBucket asks S3 whether the state bucket is there for us, and the account's.
func (d dependencies) readBucket(ctx context.Context, account string) error {
	bucket := &d.config.StateBucket
	if _, err := d.s3.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: bucket, ExpectedBucketOwner: &account}); err != nil {
		return fmt.Errorf("%sSTATE_BUCKET: bucket %s cannot be used: create it in account %s, or grant s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject: %w", envPrefix, *bucket, account, err)
	}
	return nil
}

// risks returns those of what check found, and the state bucket's. Nothing that a member
// does depends on them, so no start waits for the request. The error says that the bucket's
// encryption cannot be read; a member can still run.
func (d dependencies) risks(ctx context.Context, f found) ([]finding.Finding, error) {
	bucket := &d.config.StateBucket
	encryption, err := d.s3.GetBucketEncryption(ctx, &s3.GetBucketEncryptionInput{Bucket: bucket, ExpectedBucketOwner: &d.account})
	if err != nil {
		return f.risks, fmt.Errorf("read the encryption of bucket %s: %w", *bucket, err)
	}
	if c := encryption.ServerSideEncryptionConfiguration; c != nil {
		for _, rule := range c.Rules {
			if byDefault := rule.ApplyServerSideEncryptionByDefault; byDefault != nil {
				f.encrypted("bucket "+*bucket, aws.ToString(byDefault.KMSMasterKeyID))
			}
		}
	}
	return f.risks, nil
}
