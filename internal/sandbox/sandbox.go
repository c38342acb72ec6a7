// Package sandbox is an AWS account in this process, ready for cmkeeper: a
// localaws server with the queues, topic, rules and state
// bucket of a deployment.
package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/config"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// The sandbox's account, Region, caller and bucket.
const (
	Account = "000000000000"
	Region  = "us-east-1"

	// WorkerKey is the access key of the worker, which is a session of the role cmkeeper-worker.
	WorkerKey = "AKIAWORKER"

	StateBucket = "cmkeeper-state"
	arnPrefix   = ":" + Region + ":" + Account + ":"
)

// Sandbox is a running sandbox; the caller must Close it.
type Sandbox struct {
	// Endpoint is the base URL of every service.
	Endpoint string
	// AWS is the server behind Endpoint.
	AWS *localaws.Server
	// EventsQueue, JobsQueue and Inbox are queue URLs; alerts arrive in Inbox.
	EventsQueue, JobsQueue, Inbox string
	// Topic is the ARN of the alert topic.
	Topic string

	server *http.Server
	served chan struct{}
}

// Start listens on addr and creates the resources of a deployment. Nobody is
// authenticated, so the address should be a loopback address such as "127.0.0.1:0".
func Start(ctx context.Context, addr string) (*Sandbox, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	bound := netip.MustParseAddrPort(listener.Addr().String())
	if bound.Addr().IsUnspecified() { // which is nothing to connect to
		bound = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), bound.Port())
	}
	s := &Sandbox{Endpoint: "http://" + bound.String(), served: make(chan struct{})}
	s.open(localaws.Options{BaseURL: s.Endpoint})
	s.server = &http.Server{Handler: s.AWS, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(s.served)
		_ = s.server.Serve(listener) // ends with Close
	}()
	if err := s.create(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// InProcess returns a sandbox without a socket, for tests whose time is not the real one.
// Calls come back as events only while a trail logs them, as on AWS.
func InProcess(ctx context.Context) (*Sandbox, error) {
	s := &Sandbox{Endpoint: inprocess.Endpoint}
	s.open(localaws.Options{TrailRequired: true})
	if err := s.create(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// open makes the account, with the worker's role.
func (s *Sandbox) open(o localaws.Options) {
	o.Account, o.Region = Account, Region
	s.AWS = localaws.New(o)
	s.AWS.EC2().EncryptByDefault(true) // nothing is wrong here before somebody does it
	s.AWS.AWSConfig().SetRecorder(&config.Recorder{Group: config.All()})
	s.AWS.AddIdentity(WorkerKey, wire.Caller{
		Type: "AssumedRole", AccountID: Account, PrincipalID: "AROACMKEEPERWORKER:local",
		ARN: "arn:aws:sts::" + Account + ":assumed-role/" + workerName + "/local",
	})
}

// Close stops the server and closes open connections.
func (s *Sandbox) Close() {
	s.AWS.Close()
	if s.server != nil {
		_ = s.server.Close()
		<-s.served
	}
}

// Config returns an SDK configuration for the caller with this access key: the
// worker's role for WorkerKey, an IAM user of that name for any other key.
func (s *Sandbox) Config(accessKeyID string) aws.Config {
	if s.server == nil && s.AWS != nil {
		return inprocess.Config(s.AWS, Region, accessKeyID)
	}
	return aws.Config{
		Region:       Region,
		BaseEndpoint: aws.String(s.Endpoint),
		// What config.LoadDefaultConfig sets.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenSupported,
		Credentials:                credentials.NewStaticCredentialsProvider(accessKeyID, "sandbox", ""),
		HTTPClient: awsclient.Shield(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.MaxIdleConnsPerHost = 256
			t.MaxIdleConns = 256
		})),
	}
}

// WorkerEnvironment returns the variables of a worker on the sandbox's resources.
// It enforces everything but containment, and re-encrypts data only for the aliases,
// a comma-separated list of patterns.
func (s *Sandbox) WorkerEnvironment(aliases string) map[string]string {
	return map[string]string{
		"CMKEEPER_EVENTS_QUEUE_URL":  s.EventsQueue,
		"CMKEEPER_JOBS_QUEUE_URL":    s.JobsQueue,
		"CMKEEPER_ALERT_TOPIC_ARN":   s.Topic,
		"CMKEEPER_STATE_BUCKET":      StateBucket,
		"CMKEEPER_ROTATION_MODE":     "enforce",
		"CMKEEPER_POLICY_MODE":       "enforce",
		"CMKEEPER_DELETION_MODE":     "enforce",
		"CMKEEPER_REENCRYPT_MODE":    "enforce",
		"CMKEEPER_REENCRYPT_ALIASES": aliases,
		"CMKEEPER_REENCRYPT_RATE":    "0",
		// Everyone may decrypt is critical, other use by everyone only high: restore both.
		"CMKEEPER_POLICY_RESTORE_SEVERITY": "high",

		// Publish each alert at once, ungrouped, for people who try things out and for tests.
		"CMKEEPER_ALERT_GROUP_INTERVAL": "0",
		"CMKEEPER_HTTP_ADDR":            "127.0.0.1:0",
		// A worker that stops waits at most this long for its open polls.
		"CMKEEPER_DRAIN_TIMEOUT": "1s",
	}
}

// EventPattern is the pattern of the rule that feeds the events queue. The
// deployment templates use the same.
const EventPattern = `{"source":["aws.kms"],"detail-type":["AWS API Call via CloudTrail","AWS Service Event via CloudTrail","KMS CMK Rotation","KMS CMK Deletion","KMS Imported Key Material Expiration"]}`

// GuardEventPattern is the pattern of the rule for calls that would stop cmkeeper
// from seeing events or would bypass the guarded keys, as in docs/events.md.
const GuardEventPattern = `{"source":["aws.cloudtrail","aws.ec2","aws.events","aws.rds","aws.s3","aws.sns","aws.sqs"],"detail-type":["AWS API Call via CloudTrail"],"detail":{"eventName":["CreateDBCluster","CreateDBInstance","CreateVolume","DeleteBucketEncryption","DeleteBucketPolicy","DeleteBucketTagging","DeleteQueue","DeleteRule","DeleteTopic","DeleteTrail","DisableEbsEncryptionByDefault","DisableRule","PurgeQueue","PutBucketEncryption","PutBucketPolicy","PutBucketTagging","PutEventSelectors","PutRule","PutTargets","RemoveTargets","SetQueueAttributes","SetSubscriptionAttributes","SetTopicAttributes","StopLogging","Unsubscribe","UpdateTrail"]}}`

// BatchEventPattern is the pattern of the rule for events of S3 Batch Operations.
const BatchEventPattern = `{"source":["aws.s3"],"detail-type":["AWS Service Event via CloudTrail"],"detail":{"eventSource":["s3.amazonaws.com"],"eventName":["JobStatusChanged"]}}`

func (s *Sandbox) create(ctx context.Context) error {
	cfg := s.Config("sandbox")
	queues, topics, rules := sqs.NewFromConfig(cfg), sns.NewFromConfig(cfg), awsclient.EventBridge(cfg)
	var err error
	queue := func(name, timeout, source, service string, deadLetters bool) (url string) {
		if err != nil {
			return ""
		}
		attributes := map[string]string{"VisibilityTimeout": timeout}
		if deadLetters {
			attributes["RedrivePolicy"] = mustJSON(map[string]string{"deadLetterTargetArn": "arn:aws:sqs" + arnPrefix + name + "-dlq", "maxReceiveCount": "10"})
		}
		if service != "" {
			attributes["Policy"] = sendPolicy(service, "arn:aws:sqs"+arnPrefix+name, source)
		}
		var out *sqs.CreateQueueOutput
		if out, err = queues.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &name, Attributes: attributes}); err != nil {
			err = fmt.Errorf("create queue %s: %w", name, err)
			return ""
		}
		return aws.ToString(out.QueueUrl)
	}
	queue("cmkeeper-events-dlq", "30", "", "", false)
	queue("cmkeeper-jobs-dlq", "30", "", "", false)
	s.EventsQueue = queue("cmkeeper-events", "60", "arn:aws:events"+arnPrefix+"rule/cmkeeper-*", "events.amazonaws.com", true)
	s.JobsQueue = queue("cmkeeper-jobs", "120", "", "", true)
	s.Inbox = queue("cmkeeper-alert-inbox", "30", "arn:aws:sns"+arnPrefix+"cmkeeper-alerts", "sns.amazonaws.com", false)
	if err != nil {
		return err
	}

	topic, err := topics.CreateTopic(ctx, &sns.CreateTopicInput{Name: aws.String("cmkeeper-alerts")})
	if err != nil {
		return fmt.Errorf("create topic: %w", err)
	}
	s.Topic = aws.ToString(topic.TopicArn)
	if _, err := topics.Subscribe(ctx, &sns.SubscribeInput{
		TopicArn: topic.TopicArn, Protocol: aws.String("sqs"), Endpoint: aws.String("arn:aws:sqs" + arnPrefix + "cmkeeper-alert-inbox"),
		Attributes: map[string]string{"RawMessageDelivery": "true"},
	}); err != nil {
		return fmt.Errorf("subscribe the inbox: %w", err)
	}

	for _, rule := range []map[string]string{
		{"Name": "cmkeeper-kms", "EventPattern": EventPattern},
		{"Name": "cmkeeper-batch", "EventPattern": BatchEventPattern},
		{"Name": "cmkeeper-sweep", "ScheduleExpression": "rate(15 minutes)"},
		// Enabled only after it has its target, so that its own creation is no event.
		{"Name": "cmkeeper-guard", "EventPattern": GuardEventPattern, "State": "DISABLED"},
	} {
		targets := map[string]any{"Rule": rule["Name"], "Targets": []map[string]string{{"Id": "cmkeeper-events", "Arn": "arn:aws:sqs" + arnPrefix + "cmkeeper-events"}}}
		var put struct {
			FailedEntries []struct{ ErrorMessage string }
		}
		if err := errors.Join(rules.Call(ctx, "PutRule", rule, nil), rules.Call(ctx, "PutTargets", targets, &put)); err != nil {
			return fmt.Errorf("create rule %s: %w", rule["Name"], err)
		}
		if len(put.FailedEntries) > 0 {
			return fmt.Errorf("create rule %s: its target: %s", rule["Name"], put.FailedEntries[0].ErrorMessage)
		}
	}
	if err := rules.Call(ctx, "EnableRule", map[string]string{"Name": "cmkeeper-guard"}, nil); err != nil {
		return fmt.Errorf("enable rule cmkeeper-guard: %w", err)
	}

	buckets := awsclient.S3(cfg, nil)
	if _, err := buckets.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(StateBucket)}); err != nil {
		return fmt.Errorf("create state bucket: %w", err)
	}
	trails, name := awsclient.CloudTrail(cfg), map[string]string{"Name": "management", "S3BucketName": "management-trail"}
	if err := errors.Join(trails.Call(ctx, "CreateTrail", name, nil), trails.Call(ctx, "StartLogging", name, nil)); err != nil {
		return fmt.Errorf("create trail: %w", err)
	}
	return nil
}

// Alerts receives what has arrived in the inbox, waiting up to wait for the
// first one, and removes it there. The bodies are cmkeeper.alert.v1 documents.
func (s *Sandbox) Alerts(ctx context.Context, wait time.Duration) ([]string, error) {
	client := sqs.NewFromConfig(s.Config("sandbox"))
	out, err := client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: &s.Inbox, MaxNumberOfMessages: 10, WaitTimeSeconds: int32(wait.Round(time.Second) / time.Second),
	})
	if err != nil {
		return nil, fmt.Errorf("receive alerts: %w", err)
	}
	var (
		bodies  []string
		entries []sqstypes.DeleteMessageBatchRequestEntry
	)
	for _, m := range out.Messages {
		bodies = append(bodies, aws.ToString(m.Body))
		entries = append(entries, sqstypes.DeleteMessageBatchRequestEntry{Id: m.MessageId, ReceiptHandle: m.ReceiptHandle})
	}
	if len(entries) > 0 {
		deleted, err := client.DeleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{QueueUrl: &s.Inbox, Entries: entries})
		if err == nil && len(deleted.Failed) > 0 {
			err = errors.New(aws.ToString(deleted.Failed[0].Message))
		}
		if err != nil {
			return nil, fmt.Errorf("remove received alerts: %w", err)
		}
	}
	return bodies, nil
}

// The role that the workers have.
const (
	workerName = "cmkeeper-worker"
	workerRole = "arn:aws:iam::" + Account + ":role/" + workerName
)

// sendPolicy returns a queue policy that lets one service send on behalf of one source, and
// nobody else but the workers.
func sendPolicy(service, queueARN, sourceARN string) string {
	type statement struct {
		Effect    string
		Principal map[string]string
		Action    string
		Resource  string
		Condition map[string]map[string]string
	}
	return mustJSON(struct {
		Version   string
		Statement []statement
	}{"2012-10-17", []statement{{
		Effect: "Allow", Principal: map[string]string{"Service": service}, Action: "sqs:SendMessage", Resource: queueARN,
		Condition: map[string]map[string]string{"ArnLike": {"aws:SourceArn": sourceARN}},
	}, {
		Effect: "Deny", Principal: map[string]string{"AWS": "*"}, Action: "sqs:SendMessage", Resource: queueARN,
		Condition: map[string]map[string]string{"ArnNotLike": {"aws:SourceArn": sourceARN, "aws:PrincipalArn": workerRole}},
	}}})
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // cannot happen: the values are literals above
	}
	return strings.TrimSpace(string(b))
}
