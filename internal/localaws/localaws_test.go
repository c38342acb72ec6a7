package localaws_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	ebtypes "github.com/aws/aws-sdk-go-v2/service/eventbridge/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	snstypes "github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

func newServer(t *testing.T, o localaws.Options) *localaws.Server {
	server := localaws.New(o)
	t.Cleanup(server.Close)
	return server
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != code {
		t.Errorf("error = %v, want %s", err, code)
	}
}

// once makes an SDK configuration that does not retry.
func once(server *localaws.Server, accessKey string) aws.Config {
	cfg := inprocess.Config(server, "us-east-1", accessKey)
	cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	return cfg
}

func TestKeyChangeComesBackAsCloudTrailEvent(t *testing.T) {
	server := newServer(t, localaws.Options{Account: "111122223333"})
	server.AddIdentity("deployer", wire.Caller{Type: "AssumedRole", ARN: "arn:aws:sts::111122223333:assumed-role/Deploy/alice", PrincipalID: "AROADEPLOY:alice"})
	ctx := t.Context()
	cfg := once(server, "deployer")
	queues, events, keys := sqs.NewFromConfig(cfg), eventbridge.NewFromConfig(cfg), kms.NewFromConfig(cfg)

	arn := "arn:aws:sqs:us-east-1:111122223333:events"
	queue, err := queues.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: aws.String("events"), Attributes: map[string]string{
		"Policy": `{"Statement":{"Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"` + arn + `"}}`,
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.PutRule(ctx, &eventbridge.PutRuleInput{Name: aws.String("r"), EventPattern: aws.String(`{"source":["aws.kms"],"detail":{"eventName":["DisableKeyRotation"]}}`)}); err != nil {
		t.Fatal(err)
	}
	if _, err := events.PutTargets(ctx, &eventbridge.PutTargetsInput{Rule: aws.String("r"), Targets: []ebtypes.Target{{Id: aws.String("q"), Arn: &arn}}}); err != nil {
		t.Fatal(err)
	}
	key, err := keys.CreateKey(ctx, &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: key.KeyMetadata.KeyId}); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.DisableKeyRotation(ctx, &kms.DisableKeyRotationInput{KeyId: key.KeyMetadata.KeyId}); err != nil {
		t.Fatal(err)
	}
	out, err := queues.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: queue.QueueUrl, MaxNumberOfMessages: 10, WaitTimeSeconds: 5})
	if err != nil || len(out.Messages) != 1 {
		t.Fatalf("received %+v, %v; want one event", out, err)
	}
	var event struct {
		Detail struct {
			EventName    string
			UserIdentity struct{ Type, Arn string }
		}
	}
	if err := json.Unmarshal([]byte(*out.Messages[0].Body), &event); err != nil {
		t.Fatal(err)
	}
	if event.Detail.EventName != "DisableKeyRotation" || event.Detail.UserIdentity.Type != "AssumedRole" || event.Detail.UserIdentity.Arn != "arn:aws:sts::111122223333:assumed-role/Deploy/alice" {
		t.Errorf("event = %s", *out.Messages[0].Body)
	}
}

// Records that somebody wrote reach the rules' targets, from Go and over the wire,
// with what they lack filled in.
func TestRecordsOfAnySource(t *testing.T) {
	server := newServer(t, localaws.Options{Account: "111122223333", Region: "eu-west-1"})
	queue := listen(t, server, `{"source":["aws.cloudtrail","aws.ec2"],"detail":{"eventName":[{"exists":true}]}}`)
	if err := server.Record([]byte(`{"eventSource":"cloudtrail.amazonaws.com","eventName":"StopLogging","requestParameters":{"name":"main"},"errorCode":null,"future":[1]}`)); err != nil {
		t.Fatal(err)
	}
	post := func(body string) int {
		w := httptest.NewRecorder()
		server.ServeHTTP(w, httptest.NewRequest(http.MethodPost, localaws.RecordsPath, strings.NewReader(body)))
		return w.Code
	}
	if got := post(`{"Records":[{"eventSource":"ec2.amazonaws.com","eventName":"CreateVolume","userIdentity":{"type":"Root"}},{"eventSource":"rds.amazonaws.com","eventName":"CreateDBCluster"},
		{"eventSource":"cloudtrail.amazonaws.com","eventName":"x","eventType":"AwsServiceEvent"}]}`); got != http.StatusNoContent {
		t.Errorf("posted: %d", got)
	}
	for _, bad := range []string{"", "[]", `{"eventName":"x"}`, `{"eventSource":"x","eventName":5}`} {
		if got := post(bad); got != http.StatusBadRequest {
			t.Errorf("%s: %d", bad, got)
		}
	}
	events := queue()
	if len(events) != 3 {
		t.Fatalf("%d events, want 3: %s", len(events), events)
	}
	var event struct {
		Source, Account, Region string
		DetailType              string `json:"detail-type"`
		Detail                  map[string]json.RawMessage
	}
	if err := json.Unmarshal([]byte(events[0]), &event); err != nil {
		t.Fatal(err)
	}
	if event.Source != "aws.cloudtrail" || event.Account != "111122223333" || event.Region != "eu-west-1" || event.DetailType != "AWS API Call via CloudTrail" {
		t.Errorf("event %+v", event)
	}
	for name, want := range map[string]string{
		"eventName": `"StopLogging"`, "requestParameters": `{"name":"main"}`, "errorCode": "null", "future": "[1]", "readOnly": "false",
		"awsRegion": `"eu-west-1"`, "recipientAccountId": `"111122223333"`, "eventType": `"AwsApiCall"`, "managementEvent": "true",
	} {
		if got := string(event.Detail[name]); got != want {
			t.Errorf("%s = %s, want %s", name, got, want)
		}
	}
	if !strings.Contains(events[1], `"userIdentity":{"type":"Root"}`) || !strings.Contains(events[2], `"detail-type":"AWS Service Event via CloudTrail"`) {
		t.Errorf("events %s", events[1:])
	}
}

// Use of a key that does not work is a read: a rule gets it, also when S3 tries,
// only in the state that includes reads.
func TestUseOfADyingKey(t *testing.T) {
	for state, want := range map[ebtypes.RuleState][]string{
		ebtypes.RuleStateEnabled:                                  nil,
		ebtypes.RuleStateEnabledWithAllCloudtrailManagementEvents: {"Decrypt DisabledException", "GenerateDataKey DisabledException", "Encrypt KMSInvalidStateException"},
	} {
		server := newServer(t, localaws.Options{})
		keys := kms.NewFromConfig(once(server, "test"))
		objects := s3.NewFromConfig(once(server, "test"), func(o *s3.Options) { o.UsePathStyle = true })
		key, err := keys.CreateKey(t.Context(), &kms.CreateKeyInput{})
		if err != nil {
			t.Fatal(err)
		}
		id := key.KeyMetadata.KeyId
		sealed, err := keys.Encrypt(t.Context(), &kms.EncryptInput{KeyId: id, Plaintext: []byte("x")})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := objects.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("bucket")}); err != nil {
			t.Fatal(err)
		}
		if _, err := keys.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: id}); err != nil {
			t.Fatal(err)
		}
		received := listen(t, server, `{"source":["aws.kms"],"detail":{"readOnly":[true],"errorCode":[{"exists":true}]}}`, state)
		_, err = keys.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob})
		wantCode(t, err, "DisabledException")
		_, err = objects.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("bucket"), Key: aws.String("key"), ServerSideEncryption: "aws:kms", SSEKMSKeyId: id})
		wantCode(t, err, "KMS.DisabledException")
		if _, err := keys.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: id}); err != nil {
			t.Fatal(err)
		}
		_, err = keys.Encrypt(t.Context(), &kms.EncryptInput{KeyId: id, Plaintext: []byte("x")})
		wantCode(t, err, "KMSInvalidStateException")
		var got []string
		for _, body := range received() {
			var event struct {
				Detail struct {
					EventName, ErrorCode string
					Resources            []struct{ ARN string }
				}
			}
			if err := json.Unmarshal([]byte(body), &event); err != nil {
				t.Fatal(err)
			}
			if r := event.Detail.Resources; len(r) != 1 || r[0].ARN != *key.KeyMetadata.Arn {
				t.Errorf("resources of %s", body)
			}
			got = append(got, event.Detail.EventName+" "+event.Detail.ErrorCode)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", state, diff)
		}
	}
}

// Who disables the key of a queue or a topic silences it: nothing goes in or out,
// and what EventBridge brings goes to the target's dead-letter queue.
func TestQueuesAndTopicsNeedTheirKeys(t *testing.T) {
	server := newServer(t, localaws.Options{})
	ctx, cfg := t.Context(), once(server, "test")
	keys, queues, topics, rules := kms.NewFromConfig(cfg), sqs.NewFromConfig(cfg), sns.NewFromConfig(cfg), eventbridge.NewFromConfig(cfg)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	received := listen(t, server, `{"source":["aws.kms"],"detail":{"eventName":["DisableKey","EnableKey"]}}`)
	_, err := queues.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: aws.String("dead"), Attributes: map[string]string{
		"Policy": `{"Statement":{"Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"*"}}`,
	}})
	check(err)
	_, err = rules.PutTargets(ctx, &eventbridge.PutTargetsInput{Rule: aws.String("listen"), Targets: []ebtypes.Target{{
		Id: aws.String("q"), Arn: aws.String("arn:aws:sqs:us-east-1:000000000000:listen"),
		DeadLetterConfig: &ebtypes.DeadLetterConfig{Arn: aws.String("arn:aws:sqs:us-east-1:000000000000:dead")},
	}}})
	check(err)
	key, err := keys.CreateKey(ctx, &kms.CreateKeyInput{})
	check(err)
	id := key.KeyMetadata.KeyId
	url := aws.String("http://localaws.internal/000000000000/listen")
	_, err = queues.SetQueueAttributes(ctx, &sqs.SetQueueAttributesInput{QueueUrl: url, Attributes: map[string]string{"KmsMasterKeyId": *id}})
	check(err)
	topic, err := topics.CreateTopic(ctx, &sns.CreateTopicInput{Name: aws.String("t"), Attributes: map[string]string{"KmsMasterKeyId": *id}})
	check(err)
	publish := func() error {
		_, err := topics.Publish(ctx, &sns.PublishInput{TopicArn: topic.TopicArn, Message: aws.String("m")})
		return err
	}
	check(publish())
	_, err = keys.DisableKey(ctx, &kms.DisableKeyInput{KeyId: id})
	check(err)
	var disabled *snstypes.KMSDisabledException
	if err := publish(); !errors.As(err, &disabled) {
		t.Errorf("publishing: %v", err)
	}
	var kmsDisabled *sqstypes.KmsDisabled
	if _, err := queues.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: url}); !errors.As(err, &kmsDisabled) {
		t.Errorf("receiving: %v", err)
	}
	if _, err := queues.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: url, MessageBody: aws.String("m")}); !errors.As(err, &kmsDisabled) {
		t.Errorf("sending: %v", err)
	}
	lost, err := queues.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: aws.String("/000000000000/dead"), MessageAttributeNames: []string{"All"}})
	check(err)
	if len(lost.Messages) != 1 || !strings.Contains(*lost.Messages[0].Body, `"eventName":"DisableKey"`) || aws.ToString(lost.Messages[0].MessageAttributes["ERROR_CODE"].StringValue) != "SDK_CLIENT_ERROR" {
		t.Errorf("in the dead-letter queue: %+v", lost.Messages)
	}
	_, err = keys.EnableKey(ctx, &kms.EnableKeyInput{KeyId: id})
	check(err)
	check(publish())
	if events := received(); len(events) != 1 || !strings.Contains(events[0], `"eventName":"EnableKey"`) {
		t.Errorf("received %s", events)
	}
	_, err = queues.SetQueueAttributes(ctx, &sqs.SetQueueAttributesInput{QueueUrl: url, Attributes: map[string]string{"KmsMasterKeyId": "alias/aws/sqs"}})
	check(err)
	_, err = queues.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: url, MessageBody: aws.String("m")})
	check(err)
}

// listen makes a rule with the pattern and returns what reads the events that it let through.
func listen(t *testing.T, server *localaws.Server, pattern string, state ...ebtypes.RuleState) (received func() []string) {
	t.Helper()
	queues, rules := sqs.NewFromConfig(once(server, "test")), eventbridge.NewFromConfig(once(server, "test"))
	queue, err := queues.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("listen"), Attributes: map[string]string{
		"Policy": `{"Statement":{"Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"*"}}`,
	}})
	if err != nil {
		t.Fatal(err)
	}
	attributes, err := queues.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: queue.QueueUrl, AttributeNames: []sqstypes.QueueAttributeName{"QueueArn"}})
	if err != nil {
		t.Fatal(err)
	}
	in := &eventbridge.PutRuleInput{Name: aws.String("listen"), EventPattern: &pattern}
	if len(state) > 0 {
		in.State = state[0]
	}
	if _, err := rules.PutRule(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if _, err := rules.PutTargets(t.Context(), &eventbridge.PutTargetsInput{Rule: in.Name, Targets: []ebtypes.Target{{Id: aws.String("q"), Arn: aws.String(attributes.Attributes["QueueArn"])}}}); err != nil {
		t.Fatal(err)
	}
	return func() (bodies []string) {
		t.Helper()
		for {
			out, err := queues.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: queue.QueueUrl, MaxNumberOfMessages: 10})
			if err != nil {
				t.Fatal(err)
			}
			if len(out.Messages) == 0 {
				return bodies
			}
			for _, m := range out.Messages {
				bodies = append(bodies, *m.Body)
			}
		}
	}
}

func TestIdentities(t *testing.T) {
	server := newServer(t, localaws.Options{})
	server.AddIdentity("role", wire.Caller{Type: "AssumedRole", ARN: "arn:aws:sts::000000000000:assumed-role/R/s", PrincipalID: "AROAR:s"})
	for accessKey, want := range map[string][3]string{
		"test":  {"arn:aws:iam::000000000000:user/local", "AIDALOCAL", "000000000000"},
		"alice": {"arn:aws:iam::000000000000:user/alice", "AIDAALICE", "000000000000"},
		"role":  {"arn:aws:sts::000000000000:assumed-role/R/s", "AROAR:s", "000000000000"},
	} {
		out, err := sts.NewFromConfig(once(server, accessKey)).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, [3]string{*out.Arn, *out.UserId, *out.Account}); diff != "" {
			t.Error(diff)
		}
	}
	server.SetIdentityPolicy("alice", func(action, _ string) bool { return !strings.HasPrefix(action, "sns:") })
	_, err := sns.NewFromConfig(once(server, "alice")).CreateTopic(t.Context(), &sns.CreateTopicInput{Name: aws.String("t")})
	wantCode(t, err, "AuthorizationError")
}

func TestObjectsMayHaveAFormsContentType(t *testing.T) {
	server := newServer(t, localaws.Options{})
	client := s3.NewFromConfig(once(server, "test"), func(o *s3.Options) { o.UsePathStyle = true })
	if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("bucket")}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{
		Bucket: aws.String("bucket"), Key: aws.String("key"), ContentType: aws.String("application/x-www-form-urlencoded"),
	}); err != nil {
		t.Error(err)
	}
}

func TestUnknownOperations(t *testing.T) {
	server := newServer(t, localaws.Options{})
	for _, c := range []struct {
		target, form, code string
	}{
		{target: "AmazonSQS.Nonsense", code: "UnknownOperationException"},
		{target: "DynamoDB_20120810.PutItem", code: "UnknownOperationException"},
		{form: "Action=Nonsense&Version=2010-03-31", code: "InvalidAction"},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(c.form))
		if c.target != "" {
			r.Header.Set("X-Amz-Target", c.target)
		} else {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		w := httptest.NewRecorder()
		server.ServeHTTP(w, r)
		if w.Code < 400 || !strings.Contains(w.Body.String(), c.code) {
			t.Errorf("%s%s: %d %s", c.target, c.form, w.Code, w.Body)
		}
	}
}

// TestQueueQueryProtocol speaks SQS as older clients do.
func TestQueueQueryProtocol(t *testing.T) {
	server := newServer(t, localaws.Options{})
	call := func(path string, status int, pairs ...string) string {
		t.Helper()
		form := url.Values{"Version": {"2012-11-05"}}
		for i := 0; i < len(pairs); i += 2 {
			form.Set(pairs[i], pairs[i+1])
		}
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		w := httptest.NewRecorder()
		server.ServeHTTP(w, r)
		if w.Code != status {
			t.Fatalf("%v: %d %s", pairs, w.Code, w.Body)
		}
		return w.Body.String()
	}
	contains := func(answer string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(answer, part) {
				t.Errorf("%s\nlacks %s", answer, part)
			}
		}
	}
	contains(call("/", 200, "Action", "CreateQueue", "QueueName", "q", "Attribute.1.Name", "VisibilityTimeout", "Attribute.1.Value", "7", "Tag.1.Key", "team", "Tag.1.Value", "keys"),
		"<CreateQueueResponse", "<QueueUrl>http://localaws.internal/000000000000/q</QueueUrl>")
	contains(call("/", 200, "Action", "GetQueueAttributes", "QueueUrl", "http://localaws.internal/000000000000/q", "AttributeName.1", "VisibilityTimeout"),
		"<Attribute><Name>VisibilityTimeout</Name><Value>7</Value></Attribute>")
	contains(call("/", 200, "Action", "ListQueueTags", "QueueUrl", "/000000000000/q"), "<Tag><Key>team</Key><Value>keys</Value></Tag>")
	contains(call("/000000000000/q", 200, "Action", "SendMessageBatch",
		"SendMessageBatchRequestEntry.1.Id", "a", "SendMessageBatchRequestEntry.1.MessageBody", "one & two",
		"SendMessageBatchRequestEntry.1.MessageAttribute.1.Name", "n", "SendMessageBatchRequestEntry.1.MessageAttribute.1.Value.DataType", "Number", "SendMessageBatchRequestEntry.1.MessageAttribute.1.Value.StringValue", "1",
		"SendMessageBatchRequestEntry.2.Id", "b", "SendMessageBatchRequestEntry.2.MessageBody", ""),
		"<SendMessageBatchResultEntry><Id>a</Id>", "<BatchResultErrorEntry><Id>b</Id><Code>MissingParameter</Code>")
	answer := call("/000000000000/q", 200, "Action", "ReceiveMessage", "AttributeName.1", "All", "MessageAttributeName.1", "All", "MaxNumberOfMessages", "10")
	contains(answer, "<Body>one &amp; two</Body>", "<Attribute><Name>ApproximateReceiveCount</Name><Value>1</Value></Attribute>",
		"<MessageAttribute><Name>n</Name><Value><DataType>Number</DataType><StringValue>1</StringValue></Value></MessageAttribute>")
	_, rest, _ := strings.Cut(answer, "<ReceiptHandle>")
	handle, _, _ := strings.Cut(rest, "</ReceiptHandle>")
	call("/000000000000/q", 200, "Action", "ChangeMessageVisibility", "ReceiptHandle", handle, "VisibilityTimeout", "30")
	call("/000000000000/q", 200, "Action", "DeleteMessage", "ReceiptHandle", handle)
	contains(call("/000000000000/none", 400, "Action", "DeleteQueue"), "<Code>AWS.SimpleQueueService.NonExistentQueue</Code>")
	contains(call("/000000000000/q", 400, "Action", "ReceiveMessage", "MaxNumberOfMessages", "x"), "<Code>InvalidParameterValue</Code>")
}

func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newServer(t, localaws.Options{Seed: 1})
		client := sqs.NewFromConfig(once(server, "test"))
		create := func(name string) error {
			_, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name})
			return err
		}
		exists := func(name string) bool {
			_, err := client.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: &name})
			return err == nil
		}
		for _, c := range []struct {
			effect localaws.Effect
			done   bool
			check  func(err error)
		}{
			{localaws.FailBefore, false, func(err error) { wantCode(t, err, "InternalFailure") }},
			{localaws.FailAfter, true, func(err error) { wantCode(t, err, "InternalFailure") }},
			{localaws.DropBefore, false, func(err error) {
				if !errors.Is(err, inprocess.ErrConnectionReset) {
					t.Errorf("error = %v, want a broken connection", err)
				}
			}},
			{localaws.DropAfter, true, func(err error) {
				if !errors.Is(err, inprocess.ErrConnectionReset) {
					t.Errorf("error = %v, want a broken connection", err)
				}
			}},
		} {
			server.SetFaults(localaws.Fault{Service: "sqs", Operations: []string{"CreateQueue"}, Effect: c.effect, Count: 1})
			name := "q" + string(rune('0'+c.effect))
			c.check(create(name))
			if exists(name) != c.done {
				t.Errorf("effect %d: the queue exists = %v, want %v", c.effect, !c.done, c.done)
			}
			if err := create(name); err != nil {
				t.Errorf("effect %d happened twice: %v", c.effect, err)
			}
		}

		server.SetFaults(localaws.Fault{Service: "sqs", Effect: localaws.Delay, Latency: localaws.Latency{Min: time.Second, Mean: time.Second}})
		start := time.Now()
		if err := create("slow"); err != nil || time.Since(start) != time.Second {
			t.Errorf("error %v after %v, want none after 1s", err, time.Since(start))
		}

		server.SetFaults(localaws.Fault{Service: "sqs", Operations: []string{"GetQueueUrl"}, Effect: localaws.FailBefore, Probability: 0.25})
		failed := 0
		for range 1000 {
			if !exists("slow") {
				failed++
			}
		}
		if failed < 200 || failed > 300 {
			t.Errorf("%d of 1000 requests failed, want about 250", failed)
		}
		server.SetFaults(localaws.Fault{Service: "sqs", Caller: "somebody else", Effect: localaws.FailBefore})
		if !exists("slow") {
			t.Error("somebody else's fault happens to us")
		}
		server.SetFaults()
		if !exists("slow") {
			t.Error("a fault happens after all were taken back")
		}
	})
}

func TestThrottling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newServer(t, localaws.Options{})
		keys := kms.NewFromConfig(once(server, "test"))
		server.SetFaults(append(localaws.KMSQuotas(), localaws.S3Rates()...)...)
		for range 5 {
			if _, err := keys.CreateKey(t.Context(), &kms.CreateKeyInput{}); err != nil {
				t.Fatal(err)
			}
		}
		_, err := keys.CreateKey(t.Context(), &kms.CreateKeyInput{})
		wantCode(t, err, "ThrottlingException")
		time.Sleep(200 * time.Millisecond)
		if _, err := keys.CreateKey(t.Context(), &kms.CreateKeyInput{}); err != nil {
			t.Errorf("after a fifth of a second: %v", err)
		}

		objects := s3.NewFromConfig(once(server, "test"), func(o *s3.Options) { o.UsePathStyle = true })
		head := func(key string) error {
			_, err := objects.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String("b"), Key: &key})
			return err
		}
		server.SetFaults(localaws.Fault{Service: "s3", Effect: localaws.Throttle, Rate: 2, PerPrefix: true})
		for _, key := range []string{"a/1", "a/2", "b/1"} {
			wantCode(t, head(key), "NotFound")
		}
		var answer interface{ HTTPStatusCode() int }
		if err := head("a/3"); !errors.As(err, &answer) || answer.HTTPStatusCode() != http.StatusServiceUnavailable {
			t.Errorf("error = %v, want 503", err)
		}
	})
}

func TestRequestsAreCountedAndShown(t *testing.T) {
	server := newServer(t, localaws.Options{})
	var seen []string
	stop := server.Observe(func(r localaws.Request) {
		seen = append(seen, r.Service+"."+r.Operation+" "+r.Path+" by "+r.Caller.UserName)
	})
	keys := kms.NewFromConfig(once(server, "alice"))
	for range 3 {
		if _, err := keys.ListKeys(t.Context(), &kms.ListKeysInput{}); err != nil {
			t.Fatal(err)
		}
		stop()
	}
	if n := server.Requests("kms", "ListKeys"); n != 3 {
		t.Errorf("counted %d requests, want 3", n)
	}
	if diff := cmp.Diff([]string{"kms.ListKeys / by alice"}, seen); diff != "" {
		t.Error(diff)
	}
}

// FuzzRequest checks that no request, in either protocol, makes the server panic.
func FuzzRequest(f *testing.F) {
	f.Add("AmazonSQS.CreateQueue", `{"QueueName":"q","Attributes":{"RedrivePolicy":"{}","Policy":"{}"}}`)
	f.Add("AmazonSQS.ReceiveMessage", `{"QueueUrl":"/000000000000/q","WaitTimeSeconds":20}`)
	f.Add("AmazonSQS.DeleteMessage", `{"QueueUrl":"/000000000000/q","ReceiptHandle":"aGFuZGxl"}`)
	f.Add("AWSEvents.PutTargets", `{"Rule":"r","Targets":[{"Id":"1","Arn":"arn:aws:sqs:us-east-1:0:q","InputPath":"$.."}]}`)
	f.Add("AWSEvents.PutRule", `{"Name":"r","ScheduleExpression":"rate(1 minute)"}`)
	f.Add("CloudTrail_20131101.PutEventSelectors", `{"TrailName":"t","AdvancedEventSelectors":[{"FieldSelectors":[{"Field":"eventCategory"}]}]}`)
	f.Add("CloudTrail_20131101.LookupEvents", `{"LookupAttributes":[{"AttributeKey":"EventName","AttributeValue":"x"}],"NextToken":"-1","StartTime":1e300}`)
	f.Add("TrentService.CreateCustomKeyStore", `{"CustomKeyStoreName":"s","CloudHsmClusterId":"c","KeyStorePassword":"p","TrustAnchorCertificate":"t"}`)
	f.Add("", "Version=2016-11-15&Action=CreateVolume&AvailabilityZone=a&Size=1&KmsKeyId=x&Encrypted=true")
	f.Add("", "Version=2014-10-31&Action=CreateDBInstance&DBInstanceIdentifier=a&DBInstanceClass=b&Engine=c&KmsKeyId=x")
	f.Add("", "Version=2012-11-05&Action=SendMessageBatch&SendMessageBatchRequestEntry.1.Id=a&SendMessageBatchRequestEntry.1.MessageAttribute.1.Name=x")
	f.Add("", "Version=2010-03-31&Action=Subscribe&TopicArn=arn:aws:sns:us-east-1:000000000000:t&Protocol=sqs&Attributes.entry.1.key=FilterPolicy&Attributes.entry.1.value={}")
	f.Add("", "Version=2010-03-31&Action=Publish&TopicArn=arn:aws:sns:us-east-1:000000000000:t&Message={}&MessageStructure=json")
	f.Fuzz(func(t *testing.T, target, body string) {
		server := newServer(t, localaws.Options{})
		gone, cancel := context.WithCancel(t.Context())
		cancel() // so that nothing waits
		for _, setUp := range []string{"Version=2012-11-05&Action=CreateQueue&QueueName=q", "Version=2010-03-31&Action=CreateTopic&Name=t", body} {
			r := httptest.NewRequestWithContext(gone, http.MethodPost, "/", strings.NewReader(setUp))
			if setUp == body && target != "" {
				r.Header.Set("X-Amz-Target", target)
			} else {
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
			server.ServeHTTP(httptest.NewRecorder(), r)
		}
	})
}

// BenchmarkQueue sends, receives and deletes in batches of ten.
func BenchmarkQueue(b *testing.B) {
	server := localaws.New(localaws.Options{})
	defer server.Close()
	post := func(operation, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("X-Amz-Target", "AmazonSQS."+operation)
		w := httptest.NewRecorder()
		server.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatal(w.Body)
		}
		return w
	}
	const queue = `"QueueUrl":"http://localaws.internal/000000000000/q"`
	post("CreateQueue", `{"QueueName":"q"}`)
	var entries []string
	for i := range 10 {
		entries = append(entries, `{"Id":"`+string(rune('a'+i))+`","MessageBody":"`+strings.Repeat("x", 1000)+`"}`)
	}
	send := "{" + queue + `,"Entries":[` + strings.Join(entries, ",") + "]}"
	for b.Loop() {
		post("SendMessageBatch", send)
		var out struct {
			Messages []struct{ ReceiptHandle string }
		}
		if err := json.Unmarshal(post("ReceiveMessage", "{"+queue+`,"MaxNumberOfMessages":10}`).Body.Bytes(), &out); err != nil {
			b.Fatal(err)
		}
		var deletes []string
		for i, m := range out.Messages {
			deletes = append(deletes, `{"Id":"`+string(rune('a'+i))+`","ReceiptHandle":"`+m.ReceiptHandle+`"}`)
		}
		post("DeleteMessageBatch", "{"+queue+`,"Entries":[`+strings.Join(deletes, ",")+"]}")
	}
	b.ReportMetric(float64(b.N)*10/b.Elapsed().Seconds(), "messages/s")
}

// TestAssumeRole: whom the role's trust policy lets in, and whose policies allow it, gets an
// access key that belongs to a session of the role.
func TestAssumeRole(t *testing.T) {
	server := newServer(t, localaws.Options{})
	const account = "000000000000"
	role, err := server.IAM().SetRole(iam.Role{Name: "reader", Path: "/team/", Trust: `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:user/alice"},"Action":"sts:AssumeRole"}}`})
	if err != nil {
		t.Fatal(err)
	}
	assume := func(accessKey, role, session string) (*sts.AssumeRoleOutput, error) {
		return sts.NewFromConfig(once(server, accessKey)).AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: &role, RoleSessionName: &session})
	}
	out, err := assume("alice", role, "s-1")
	if err != nil {
		t.Fatal(err)
	}
	who, err := sts.NewFromConfig(once(server, *out.Credentials.AccessKeyId)).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	if err != nil {
		t.Fatal(err)
	}
	if want := "arn:aws:sts::" + account + ":assumed-role/reader/s-1"; *who.Arn != want || *out.AssumedRoleUser.Arn != want || time.Until(*out.Credentials.Expiration) < 50*time.Minute {
		t.Errorf("the session is %s of %+v", *who.Arn, out)
	}
	_, err = assume("bob", role, "s-1")
	wantCode(t, err, "AccessDenied")
	_, err = assume("alice", role+"x", "s-1")
	wantCode(t, err, "AccessDenied")
	_, err = assume("alice", role, "no name")
	wantCode(t, err, "ValidationError")
	server.SetIdentityPolicy("alice", func(action, _ string) bool { return action != "sts:AssumeRole" })
	_, err = assume("alice", role, "s-1")
	wantCode(t, err, "AccessDenied")
}
