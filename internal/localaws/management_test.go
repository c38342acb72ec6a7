package localaws_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	ebtypes "github.com/aws/aws-sdk-go-v2/service/eventbridge/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
)

// recorded is what the tests look at of a record.
type recorded struct {
	EventSource, EventName, ErrorCode   string
	RequestParameters, ResponseElements json.RawMessage
	Resources                           []struct{ Type, ARN string }
	UserIdentity                        struct{ UserName string }
	ReadOnly, ManagementEvent           bool
}

func readRecord(t *testing.T, event string) recorded {
	t.Helper()
	var envelope struct{ Detail recorded }
	if err := json.Unmarshal([]byte(event), &envelope); err != nil {
		t.Fatal(err)
	}
	return envelope.Detail
}

// What would blind the guard comes back as an event: changes of rules, queues,
// topics and buckets.
func TestChangesOfServicesAreRecorded(t *testing.T) {
	server := newServer(t, localaws.Options{})
	received := listen(t, server, `{"source":["aws.events","aws.sqs","aws.sns","aws.s3"]}`)
	received() // of listening
	cfg := once(server, "mallory")
	rules, queues, topics := eventbridge.NewFromConfig(cfg), sqs.NewFromConfig(cfg), sns.NewFromConfig(cfg)
	buckets := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
	const (
		queueURL = "http://localaws.internal/000000000000/q"
		queueARN = "arn:aws:sqs:us-east-1:000000000000:q"
		topicARN = "arn:aws:sns:us-east-1:000000000000:t"
		topic    = `{"topicArn":"` + topicARN + `"`
		host     = `{"bucketName":"bucket","Host":"bucket.s3.us-east-1.amazonaws.com"`
	)
	ctx := t.Context()
	var subscription string
	for _, c := range []struct {
		name, params, response string
		call                   func() error
	}{
		{"sqs CreateQueue", `{"queueName":"q","attributes":{"DelaySeconds":"1"}}`, `{"queueUrl":"` + queueURL + `"}`, func() error {
			_, err := queues.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: aws.String("q"), Attributes: map[string]string{"DelaySeconds": "1"}})
			return err
		}},
		{"sqs SetQueueAttributes", `{"queueUrl":"` + queueURL + `","attributes":{"Policy":""}}`, "null", func() error {
			_, err := queues.SetQueueAttributes(ctx, &sqs.SetQueueAttributesInput{QueueUrl: aws.String(queueURL), Attributes: map[string]string{"Policy": ""}})
			return err
		}},
		{"sqs PurgeQueue", `{"queueUrl":"` + queueURL + `"}`, "null", func() error {
			_, err := queues.PurgeQueue(ctx, &sqs.PurgeQueueInput{QueueUrl: aws.String(queueURL)})
			return err
		}},
		{"events PutRule", `{"name":"r","eventPattern":"{\"source\":[\"x\"]}"}`, `{"ruleArn":"arn:aws:events:us-east-1:000000000000:rule/r"}`, func() error {
			_, err := rules.PutRule(ctx, &eventbridge.PutRuleInput{Name: aws.String("r"), EventPattern: aws.String(`{"source":["x"]}`)})
			return err
		}},
		{"events PutTargets", `{"rule":"r","targets":[{"id":"1","arn":"` + queueARN + `"}]}`, `{"failedEntryCount":0,"failedEntries":[]}`, func() error {
			_, err := rules.PutTargets(ctx, &eventbridge.PutTargetsInput{Rule: aws.String("r"), Targets: []ebtypes.Target{{Id: aws.String("1"), Arn: aws.String(queueARN)}}})
			return err
		}},
		{"events DisableRule", `{"name":"r"}`, "null", func() error {
			_, err := rules.DisableRule(ctx, &eventbridge.DisableRuleInput{Name: aws.String("r")})
			return err
		}},
		{"events EnableRule", `{"name":"r"}`, "null", func() error {
			_, err := rules.EnableRule(ctx, &eventbridge.EnableRuleInput{Name: aws.String("r")})
			return err
		}},
		{"events RemoveTargets", `{"rule":"r","ids":["1"]}`, `{"failedEntryCount":0,"failedEntries":[]}`, func() error {
			_, err := rules.RemoveTargets(ctx, &eventbridge.RemoveTargetsInput{Rule: aws.String("r"), Ids: []string{"1"}})
			return err
		}},
		{"events DeleteRule", `{"name":"r"}`, "null", func() error {
			_, err := rules.DeleteRule(ctx, &eventbridge.DeleteRuleInput{Name: aws.String("r")})
			return err
		}},
		{"sns CreateTopic", `{"name":"t"}`, topic + "}", func() error {
			_, err := topics.CreateTopic(ctx, &sns.CreateTopicInput{Name: aws.String("t")})
			return err
		}},
		{"sns Subscribe", topic + `,"protocol":"sqs","endpoint":"` + queueARN + `"}`, `{"subscriptionArn":"SUBSCRIPTION"}`, func() error {
			out, err := topics.Subscribe(ctx, &sns.SubscribeInput{TopicArn: aws.String(topicARN), Protocol: aws.String("sqs"), Endpoint: aws.String(queueARN)})
			if err == nil {
				subscription = *out.SubscriptionArn
			}
			return err
		}},
		{"sns Unsubscribe", `{"subscriptionArn":"SUBSCRIPTION"}`, "null", func() error {
			_, err := topics.Unsubscribe(ctx, &sns.UnsubscribeInput{SubscriptionArn: &subscription})
			return err
		}},
		{"sns SetTopicAttributes", topic + `,"attributeName":"KmsMasterKeyId","attributeValue":"alias/x"}`, "null", func() error {
			_, err := topics.SetTopicAttributes(ctx, &sns.SetTopicAttributesInput{TopicArn: aws.String(topicARN), AttributeName: aws.String("KmsMasterKeyId"), AttributeValue: aws.String("alias/x")})
			return err
		}},
		{"sns DeleteTopic", topic + "}", "null", func() error {
			_, err := topics.DeleteTopic(ctx, &sns.DeleteTopicInput{TopicArn: aws.String(topicARN)})
			return err
		}},
		{"sqs DeleteQueue", `{"queueUrl":"` + queueURL + `"}`, "null", func() error {
			_, err := queues.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: aws.String(queueURL)})
			return err
		}},
		{"s3 CreateBucket", host + "}", "null", func() error {
			_, err := buckets.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String("bucket")})
			return err
		}},
		{"s3 PutBucketEncryption", host + `,"encryption":"","ServerSideEncryptionConfiguration":{"xmlns":"http://s3.amazonaws.com/doc/2006-03-01/","Rule":{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"aws:kms","KMSMasterKeyID":"alias/x"},"BucketKeyEnabled":true}}}`, "null", func() error {
			_, err := buckets.PutBucketEncryption(ctx, &s3.PutBucketEncryptionInput{Bucket: aws.String("bucket"), ServerSideEncryptionConfiguration: &s3types.ServerSideEncryptionConfiguration{
				Rules: []s3types.ServerSideEncryptionRule{{
					ApplyServerSideEncryptionByDefault: &s3types.ServerSideEncryptionByDefault{SSEAlgorithm: s3types.ServerSideEncryptionAwsKms, KMSMasterKeyID: aws.String("alias/x")},
					BucketKeyEnabled:                   aws.Bool(true),
				}},
			}})
			return err
		}},
		{"s3 DeleteBucketEncryption", host + `,"encryption":""}`, "null", func() error {
			_, err := buckets.DeleteBucketEncryption(ctx, &s3.DeleteBucketEncryptionInput{Bucket: aws.String("bucket")})
			return err
		}},
		{"s3 PutBucketPolicy", host + `,"policy":"","bucketPolicy":{"Statement":[]}}`, "null", func() error {
			_, err := buckets.PutBucketPolicy(ctx, &s3.PutBucketPolicyInput{Bucket: aws.String("bucket"), Policy: aws.String(`{"Statement": []}`)})
			return err
		}},
		{"s3 DeleteBucketPolicy", host + `,"policy":""}`, "null", func() error {
			_, err := buckets.DeleteBucketPolicy(ctx, &s3.DeleteBucketPolicyInput{Bucket: aws.String("bucket")})
			return err
		}},
		{"s3 DeleteBucket", host + "}", "null", func() error {
			_, err := buckets.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: aws.String("bucket")})
			return err
		}},
	} {
		if err := c.call(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		events := received()
		if len(events) != 1 {
			t.Fatalf("%s: %d events", c.name, len(events))
		}
		r := readRecord(t, events[0])
		if got := strings.TrimSuffix(r.EventSource, ".amazonaws.com") + " " + r.EventName; got != c.name || r.UserIdentity.UserName != "mallory" || r.ReadOnly || !r.ManagementEvent {
			t.Errorf("%s: %s", c.name, events[0])
		}
		stand := func(j json.RawMessage) string {
			if subscription == "" {
				return string(j)
			}
			return strings.ReplaceAll(string(j), subscription, "SUBSCRIPTION")
		}
		if diff := cmp.Diff([]string{c.params, c.response}, []string{stand(r.RequestParameters), stand(r.ResponseElements)}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if bucket := strings.HasPrefix(c.name, "s3"); bucket != (len(r.Resources) == 1 && r.Resources[0].ARN == "arn:aws:s3:::bucket") {
			t.Errorf("%s: resources %v", c.name, r.Resources)
		}
	}

	server.SetIdentityPolicy("mallory", func(string, string) bool { return false })
	_, err := rules.DisableRule(ctx, &eventbridge.DisableRuleInput{Name: aws.String("listen")})
	wantCode(t, err, "AccessDeniedException")
	_, err = buckets.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String("bucket")})
	wantCode(t, err, "AccessDenied")
	denied := received()
	if len(denied) != 2 {
		t.Errorf("%d events of denials, want 2", len(denied))
	}
	for _, event := range denied {
		if r := readRecord(t, event); r.ErrorCode != "AccessDenied" || string(r.RequestParameters) != "null" {
			t.Errorf("denied: %s", event)
		}
	}
}
