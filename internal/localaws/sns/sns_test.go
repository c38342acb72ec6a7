package sns_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

const queueARN = "arn:aws:sqs:us-east-1:000000000000:"

type fixture struct {
	*testing.T
	topics *sdk.Client
	queues *sqs.Client
	topic  string
}

func setUp(t *testing.T) fixture {
	server := localaws.New(localaws.Options{})
	t.Cleanup(server.Close)
	cfg := inprocess.Config(server, "us-east-1", "test")
	f := fixture{t, sdk.NewFromConfig(cfg), sqs.NewFromConfig(cfg), ""}
	out, err := f.topics.CreateTopic(t.Context(), &sdk.CreateTopicInput{Name: aws.String("topic")})
	if err != nil {
		t.Fatal(err)
	}
	f.topic = *out.TopicArn
	return f
}

// queue makes a queue that lets the topic send, and subscribes it.
func (f fixture) queue(name string, attributes map[string]string) (url string) {
	f.Helper()
	policy := `{"Statement":{"Effect":"Allow","Principal":{"Service":"sns.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"*","Condition":{"ArnEquals":{"aws:SourceArn":"` + f.topic + `"}}}}`
	out, err := f.queues.CreateQueue(f.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: map[string]string{"Policy": policy}})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := f.subscribe(name, attributes); err != nil {
		f.Fatal(err)
	}
	return *out.QueueUrl
}

func (f fixture) subscribe(queue string, attributes map[string]string) (string, error) {
	out, err := f.topics.Subscribe(f.Context(), &sdk.SubscribeInput{TopicArn: &f.topic, Protocol: aws.String("sqs"), Endpoint: aws.String(queueARN + queue), Attributes: attributes})
	if err != nil {
		return "", err
	}
	return *out.SubscriptionArn, nil
}

func (f fixture) publish(in *sdk.PublishInput) error {
	in.TopicArn = &f.topic
	_, err := f.topics.Publish(f.Context(), in)
	return err
}

func (f fixture) receive(url string) []sqstypes.Message {
	f.Helper()
	out, err := f.queues.ReceiveMessage(f.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"}})
	if err != nil {
		f.Fatal(err)
	}
	return out.Messages
}

func (f fixture) wantCode(err error, code string) {
	f.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != code {
		f.Errorf("error = %v, want %s", err, code)
	}
}

func text(value string) types.MessageAttributeValue {
	return types.MessageAttributeValue{DataType: aws.String("String"), StringValue: &value}
}

func TestDelivery(t *testing.T) {
	f := setUp(t)
	wrapped := f.queue("wrapped", nil)
	raw := f.queue("raw", map[string]string{"RawMessageDelivery": "true"})
	err := f.publish(&sdk.PublishInput{
		Subject: aws.String("subject"), Message: aws.String(`{"default":"for all","sqs":"for <queues>","email":"for people"}`), MessageStructure: aws.String("json"),
		MessageAttributes: map[string]types.MessageAttributeValue{"severity": text("high")},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := f.receive(wrapped)
	if len(got) != 1 {
		t.Fatalf("received %d, want 1", len(got))
	}
	type attribute struct{ Type, Value string }
	var envelope struct {
		Type, TopicArn, Subject, Message, Timestamp, SignatureVersion, MessageID string
		MessageAttributes                                                        map[string]attribute
	}
	if err := json.Unmarshal([]byte(*got[0].Body), &envelope); err != nil {
		t.Fatal(err)
	}
	if envelope.Type != "Notification" || envelope.TopicArn != f.topic || envelope.Subject != "subject" || envelope.Message != "for <queues>" ||
		envelope.SignatureVersion != "1" || envelope.MessageID == "" || envelope.MessageAttributes["severity"] != (attribute{"String", "high"}) {
		t.Errorf("envelope = %s", *got[0].Body)
	}
	got = f.receive(raw)
	if len(got) != 1 || *got[0].Body != "for <queues>" || *got[0].MessageAttributes["severity"].StringValue != "high" {
		t.Errorf("raw = %+v", got)
	}
}

func TestFilterPolicies(t *testing.T) {
	f := setUp(t)
	urls := map[string]string{
		"high":    f.queue("high", map[string]string{"FilterPolicy": `{"severity":["high",{"prefix":"crit"}]}`}),
		"numeric": f.queue("numeric", map[string]string{"FilterPolicy": `{"count":[{"numeric":[">",5]}]}`}),
		"array":   f.queue("array", map[string]string{"FilterPolicy": `{"tags":["b"]}`}),
		"missing": f.queue("missing", map[string]string{"FilterPolicy": `{"severity":[{"exists":false}]}`}),
		"body":    f.queue("body", map[string]string{"FilterPolicy": `{"key":{"id":["k1"]}}`, "FilterPolicyScope": "MessageBody"}),
	}
	for _, in := range []*sdk.PublishInput{
		{Message: aws.String("m1"), MessageAttributes: map[string]types.MessageAttributeValue{"severity": text("high")}},
		{Message: aws.String("m2"), MessageAttributes: map[string]types.MessageAttributeValue{"severity": text("critical"), "count": {DataType: aws.String("Number"), StringValue: aws.String("7")}}},
		{Message: aws.String("m3"), MessageAttributes: map[string]types.MessageAttributeValue{"severity": text("low"), "tags": {DataType: aws.String("String.Array"), StringValue: aws.String(`["a","b"]`)}}},
		{Message: aws.String(`{"key":{"id":"k1"}}`)},
	} {
		if err := f.publish(in); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string][]string{}
	for name, url := range urls {
		for _, m := range f.receive(url) {
			var envelope struct{ Message string }
			if err := json.Unmarshal([]byte(*m.Body), &envelope); err != nil {
				t.Fatal(err)
			}
			got[name] = append(got[name], envelope.Message)
		}
	}
	body := `{"key":{"id":"k1"}}`
	want := map[string][]string{"high": {"m1", "m2"}, "numeric": {"m2"}, "array": {"m3"}, "missing": {body}, "body": {body}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	_, err := f.subscribe("other", map[string]string{"FilterPolicy": `{"a":[{"cidr":"::/0"}]}`})
	f.wantCode(err, "InvalidParameter")
}

func TestQueuePolicyStopsDelivery(t *testing.T) {
	f := setUp(t)
	url := f.queue("q", nil)
	dlq := f.queue("dlq", map[string]string{"FilterPolicy": `{"none":["x"]}`})
	if _, err := f.queues.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &url, Attributes: map[string]string{"Policy": ""}}); err != nil {
		t.Fatal(err)
	}
	if err := f.publish(&sdk.PublishInput{Message: aws.String("lost")}); err != nil {
		t.Fatal(err)
	}
	subscriptions, err := f.topics.ListSubscriptionsByTopic(t.Context(), &sdk.ListSubscriptionsByTopicInput{TopicArn: &f.topic})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range subscriptions.Subscriptions {
		if *s.Endpoint != queueARN+"q" {
			continue
		}
		if _, err := f.topics.SetSubscriptionAttributes(t.Context(), &sdk.SetSubscriptionAttributesInput{
			SubscriptionArn: s.SubscriptionArn, AttributeName: aws.String("RedrivePolicy"), AttributeValue: aws.String(`{"deadLetterTargetArn":"` + queueARN + `dlq"}`),
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.publish(&sdk.PublishInput{Message: aws.String("kept")}); err != nil {
		t.Fatal(err)
	}
	if got := f.receive(url); len(got) != 0 {
		t.Errorf("delivered %d past the queue's policy", len(got))
	}
	if got := f.receive(dlq); len(got) != 1 || !strings.Contains(*got[0].Body, `"kept"`) {
		t.Errorf("dead letters = %+v", got)
	}
}

func TestPublishRefuses(t *testing.T) {
	f := setUp(t)
	long := strings.Repeat("x", 256<<10)
	for name, in := range map[string]*sdk.PublishInput{
		"empty":                  {Message: aws.String("")},
		"too long":               {Message: aws.String(long + "x")},
		"too long by attributes": {Message: &long, MessageAttributes: map[string]types.MessageAttributeValue{"a": text("b")}},
		"no default":             {Message: aws.String(`{"sqs":"x"}`), MessageStructure: aws.String("json")},
		"not JSON":               {Message: aws.String(`x`), MessageStructure: aws.String("json")},
		"long subject":           {Message: aws.String("m"), Subject: aws.String(strings.Repeat("x", 101))},
		"newline in subject":     {Message: aws.String("m"), Subject: aws.String("a\nb")},
		"ü in subject":           {Message: aws.String("m"), Subject: aws.String("ü")},
		"subject from space":     {Message: aws.String("m"), Subject: aws.String(" a")},
	} {
		t.Run(name, func(t *testing.T) {
			f := f
			f.T = t
			f.wantCode(f.publish(in), "InvalidParameter")
		})
	}
	if err := f.publish(&sdk.PublishInput{Message: &long}); err != nil {
		t.Errorf("256 KiB: %v", err)
	}
	if err := f.publish(&sdk.PublishInput{Message: aws.String("m"), Subject: aws.String(strings.Repeat("x", 100))}); err != nil {
		t.Errorf("subject of 100 characters: %v", err)
	}
	_, err := f.topics.Publish(t.Context(), &sdk.PublishInput{TopicArn: aws.String(f.topic + "x"), Message: aws.String("m")})
	f.wantCode(err, "NotFound")
}

func TestPublishBatch(t *testing.T) {
	f := setUp(t)
	url := f.queue("q", map[string]string{"RawMessageDelivery": "true"})
	out, err := f.topics.PublishBatch(t.Context(), &sdk.PublishBatchInput{TopicArn: &f.topic, PublishBatchRequestEntries: []types.PublishBatchRequestEntry{
		{Id: aws.String("1"), Message: aws.String("a")},
		{Id: aws.String("2"), Message: aws.String("b"), Subject: aws.String("\n")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Successful) != 1 || len(out.Failed) != 1 || *out.Failed[0].Id != "2" || len(f.receive(url)) != 1 {
		t.Errorf("out = %+v", out)
	}
}

func TestTopicsAndSubscriptions(t *testing.T) {
	f := setUp(t)
	f.queue("q", map[string]string{"RawMessageDelivery": "true"})
	arn, err := f.subscribe("q", map[string]string{"RawMessageDelivery": "true"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.subscribe("q", map[string]string{"RawMessageDelivery": "false"})
	f.wantCode(err, "InvalidParameter")
	attributes, err := f.topics.GetSubscriptionAttributes(t.Context(), &sdk.GetSubscriptionAttributesInput{SubscriptionArn: &arn})
	if err != nil || attributes.Attributes["RawMessageDelivery"] != "true" || attributes.Attributes["Endpoint"] != queueARN+"q" {
		t.Errorf("attributes = %+v, %v", attributes, err)
	}
	topic, err := f.topics.GetTopicAttributes(t.Context(), &sdk.GetTopicAttributesInput{TopicArn: &f.topic})
	if err != nil || topic.Attributes["SubscriptionsConfirmed"] != "1" || topic.Attributes["TopicArn"] != f.topic {
		t.Errorf("topic = %+v, %v", topic, err)
	}
	_, err = f.topics.SetTopicAttributes(t.Context(), &sdk.SetTopicAttributesInput{TopicArn: &f.topic, AttributeName: aws.String("KmsMasterKeyId"), AttributeValue: aws.String("alias/x")})
	if err != nil {
		t.Error(err)
	}
	topics, err := f.topics.ListTopics(t.Context(), &sdk.ListTopicsInput{})
	if err != nil || len(topics.Topics) != 1 {
		t.Errorf("topics = %+v, %v", topics, err)
	}
	if _, err := f.topics.Unsubscribe(t.Context(), &sdk.UnsubscribeInput{SubscriptionArn: &arn}); err != nil {
		t.Error(err)
	}
	if _, err := f.topics.DeleteTopic(t.Context(), &sdk.DeleteTopicInput{TopicArn: &f.topic}); err != nil {
		t.Error(err)
	}
	_, err = f.topics.GetTopicAttributes(t.Context(), &sdk.GetTopicAttributesInput{TopicArn: &f.topic})
	f.wantCode(err, "NotFound")
	_, err = f.topics.Subscribe(t.Context(), &sdk.SubscribeInput{TopicArn: &f.topic, Protocol: aws.String("email"), Endpoint: aws.String("a@b")})
	f.wantCode(err, "NotFound")
}
