package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/worker"
)

// dependencies are the resources that the configuration names.
type dependencies struct {
	config  Config
	account string
	sqs     *sqs.Client
	sns     *sns.Client
	s3      *s3.Client
}

// found is what there is of the dependencies.
type found struct {
	// queues are the names of the queues, dead-letter queues included.
	queues []string
	// risks are the resources that are encrypted under a customer managed key: who
	// disables that key silences the guard.
	risks []alert.Finding
}

// encrypted notes the key that a resource is encrypted under.
func (f *found) encrypted(resource, key string) {
	if key == "" || strings.Contains(key, "alias/aws/") {
		return
	}
	f.risks = append(f.risks, alert.Finding{
		ID: "self-dependency", Severity: alert.High, Statement: resource,
		Message: fmt.Sprintf("It is encrypted under the customer managed key %s: disabling that key silences cmkeeper. Use the service's own encryption instead.", key),
	})
}

// check reads every resource. Its error names all that are missing, each with the fix.
func (d dependencies) check(ctx context.Context) (found, error) {
	var (
		f        found
		problems []error
	)
	for _, queue := range []struct{ variable, url string }{
		{"EVENTS_QUEUE_URL", d.config.EventsQueueURL}, {"JOBS_QUEUE_URL", d.config.JobsQueueURL},
	} {
		if queue.url == "" {
			continue // this member does not use it
		}
		q, err := worker.CheckQueue(ctx, d.sqs, queue.url)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s%s: %w", envPrefix, queue.variable, err))
			continue
		}
		for _, q := range []*worker.Queue{q, q.DeadLetter} {
			f.queues = append(f.queues, q.Name)
			f.encrypted("queue "+q.ARN, q.Key)
		}
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
			f.encrypted("topic "+t.ARN, topic.Attributes["KmsMasterKeyId"])
		}
	}
	if err := d.checkBucket(ctx, f.encrypted); err != nil {
		problems = append(problems, err)
	}
	return f, errors.Join(problems...)
}

func (d dependencies) checkBucket(ctx context.Context, encrypted func(resource, key string)) error {
	bucket := &d.config.StateBucket
	if _, err := d.s3.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: bucket, ExpectedBucketOwner: &d.account}); err != nil {
		return fmt.Errorf("%sSTATE_BUCKET: bucket %s cannot be used: create it in account %s, or grant s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject: %w", envPrefix, *bucket, d.account, err)
	}
	encryption, err := d.s3.GetBucketEncryption(ctx, &s3.GetBucketEncryptionInput{Bucket: bucket, ExpectedBucketOwner: &d.account})
	if err != nil || encryption.ServerSideEncryptionConfiguration == nil {
		// Every bucket has a default encryption; a member that may not read it can still run.
		return nil //nolint:nilerr // only the warning below is lost
	}
	for _, rule := range encryption.ServerSideEncryptionConfiguration.Rules {
		if byDefault := rule.ApplyServerSideEncryptionByDefault; byDefault != nil {
			encrypted("bucket "+*bucket, aws.ToString(byDefault.KMSMasterKeyID))
		}
	}
	return nil
}
