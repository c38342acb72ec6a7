package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/cmkeeper/cmkeeper/finding"
)

// dependencies are the resources that the configuration names.
type dependencies struct {
	config  Config
	account string
	// queue is told the name of every queue that is found, dead-letter queues too;
	// nil: nobody wants to know.
	queue func(name string)
	sqs   *sqs.Client
	sns   *sns.Client
	s3    *s3.Client
}

// check reads every resource. Its error names all that are missing, each with
// the fix. Its findings name those that are encrypted under a customer managed
// key: whoever disables that key silences the guard.
func (d dependencies) check(ctx context.Context) ([]finding.Finding, error) {
	var (
		findings []finding.Finding
		problems []error
	)
	encrypted := func(resource, key string) {
		if key == "" || strings.Contains(key, "alias/aws/") {
			return
		}
		findings = append(findings, finding.Finding{
			ID: finding.SelfDependency, Severity: finding.High, Statement: resource,
			Message: fmt.Sprintf("It is encrypted under the customer managed key %s: whoever disables that key silences cmkeeper. Use the service's own encryption instead.", key),
		})
	}
	if err := d.checkQueue(ctx, "EVENTS_QUEUE_URL", d.config.EventsQueueURL, encrypted); err != nil {
		problems = append(problems, err)
	}
	if err := d.checkQueue(ctx, "JOBS_QUEUE_URL", d.config.JobsQueueURL, encrypted); err != nil {
		problems = append(problems, err)
	}
	for i, t := range d.config.topics() {
		variable := "ALERT_TOPIC_ARN"
		if i > 0 {
			variable = "ALERT_FORMATS"
		}
		topic, err := d.sns.GetTopicAttributes(ctx, &sns.GetTopicAttributesInput{TopicArn: &t.ARN})
		if err != nil {
			problems = append(problems, fmt.Errorf("%s%s: topic %s cannot be read: create it, or grant sns:GetTopicAttributes and sns:Publish: %w", envPrefix, variable, t.ARN, err))
		} else {
			encrypted("topic "+t.ARN, topic.Attributes["KmsMasterKeyId"])
		}
	}
	if err := d.checkBucket(ctx, encrypted); err != nil {
		problems = append(problems, err)
	}
	return findings, errors.Join(problems...)
}

// checkQueue checks a queue and its dead-letter queue. An empty url is a queue
// that this member does not use.
func (d dependencies) checkQueue(ctx context.Context, variable, url string, encrypted func(resource, key string)) error {
	if url == "" {
		return nil
	}
	attributes := func(url string) (map[string]string, error) {
		out, err := d.sqs.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
			QueueUrl: &url, AttributeNames: []sqstypes.QueueAttributeName{"QueueArn", "RedrivePolicy", "KmsMasterKeyId"},
		})
		if err != nil {
			return nil, err
		}
		encrypted("queue "+out.Attributes["QueueArn"], out.Attributes["KmsMasterKeyId"])
		if d.queue != nil {
			d.queue(path.Base(url))
		}
		return out.Attributes, nil
	}
	queue, err := attributes(url)
	if err != nil {
		return fmt.Errorf("%s%s: queue %s cannot be read: create it, or grant sqs:GetQueueAttributes: %w", envPrefix, variable, url, err)
	}
	var redrive struct {
		DeadLetterTargetARN string `json:"deadLetterTargetArn"`
	}
	if json.Unmarshal([]byte(queue["RedrivePolicy"]), &redrive) != nil || redrive.DeadLetterTargetARN == "" {
		return fmt.Errorf("%s%s: queue %s has no dead-letter queue: set its RedrivePolicy, so that a message that cannot be handled is kept", envPrefix, variable, url)
	}
	name := redrive.DeadLetterTargetARN[strings.LastIndexByte(redrive.DeadLetterTargetARN, ':')+1:]
	dead, err := d.sqs.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &name})
	if err == nil {
		_, err = attributes(aws.ToString(dead.QueueUrl))
	}
	if err != nil {
		return fmt.Errorf("%s%s: the dead-letter queue %s of queue %s cannot be read: create it, or grant sqs:GetQueueUrl and sqs:GetQueueAttributes: %w", envPrefix, variable, redrive.DeadLetterTargetARN, url, err)
	}
	return nil
}

func (d dependencies) checkBucket(ctx context.Context, encrypted func(resource, key string)) error {
	bucket := &d.config.StateBucket
	if _, err := d.s3.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: bucket, ExpectedBucketOwner: &d.account}); err != nil {
		return fmt.Errorf("%sSTATE_BUCKET: bucket %s cannot be used: create it in account %s, or grant s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject: %w", envPrefix, *bucket, d.account, err)
	}
	encryption, err := d.s3.GetBucketEncryption(ctx, &s3.GetBucketEncryptionInput{Bucket: bucket, ExpectedBucketOwner: &d.account})
	if err != nil || encryption.ServerSideEncryptionConfiguration == nil {
		// Every bucket has a default encryption; whoever may not read it still may run.
		return nil //nolint:nilerr // only the warning below is lost
	}
	for _, rule := range encryption.ServerSideEncryptionConfiguration.Rules {
		if byDefault := rule.ApplyServerSideEncryptionByDefault; byDefault != nil {
			encrypted("bucket "+*bucket, aws.ToString(byDefault.KMSMasterKeyID))
		}
	}
	return nil
}
