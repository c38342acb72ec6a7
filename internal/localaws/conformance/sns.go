package conformance

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

// SNSDeviations are the known ways in which the SNS of moto 5.2 and
// LocalStack 4.14 is not like AWS's.
type SNSDeviations struct {
	// SNSQueuePolicyIgnored: messages reach queues whose policy does not let
	// the topic send (moto, LocalStack).
	SNSQueuePolicyIgnored bool
	// SNSStructureUnchecked: a message by protocol need not have a default (moto, LocalStack).
	SNSStructureUnchecked bool
	// SNSSubjectUnchecked: any subject of up to 100 characters is taken (moto, LocalStack).
	SNSSubjectUnchecked bool
	// SNSSizeUnchecked: attributes do not count in a message's size (moto, LocalStack).
	SNSSizeUnchecked bool
}

// runSNS states what SNS does.
func runSNS(t *testing.T, target Target) {
	s := topicSuite{queueSuite{target: target, client: sqs.NewFromConfig(target.Config)}, sns.NewFromConfig(target.Config)}
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"Topics", s.topics},
		{"Delivery", s.delivery},
		{"Filters", s.filters},
		{"QueuePolicy", s.queuePolicy},
		{"Refusals", s.refusals},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel() // most of the time they wait
			part.run(t)
		})
	}
}

type topicSuite struct {
	queueSuite
	client *sns.Client
}

func (s topicSuite) topic(t *testing.T) (arn string) {
	t.Helper()
	out, err := s.client.CreateTopic(t.Context(), &sns.CreateTopicInput{Name: aws.String(unique())})
	if err != nil {
		t.Fatalf("create topic: %v", err)
	}
	t.Cleanup(func() {
		if _, err := s.client.DeleteTopic(context.WithoutCancel(t.Context()), &sns.DeleteTopicInput{TopicArn: out.TopicArn}); err != nil {
			t.Errorf("delete topic: %v", err)
		}
	})
	return *out.TopicArn
}

// open lets the service send to the queue, for one rule or topic.
func (q queueSuite) open(t *testing.T, url, arn, service, source string) {
	t.Helper()
	policy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"` + service + `"},"Action":"sqs:SendMessage","Resource":"` + arn + `","Condition":{"ArnEquals":{"aws:SourceArn":"` + source + `"}}}]}`
	if _, err := q.client.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &url, Attributes: map[string]string{"Policy": policy}}); err != nil {
		t.Fatalf("set queue policy: %v", err)
	}
}

// subscribe subscribes a new queue, open to the topic, and returns its URL.
func (s topicSuite) subscribe(t *testing.T, topic string, attributes map[string]string) (url string) {
	t.Helper()
	url, arn := s.queue(t)
	s.open(t, url, arn, "sns.amazonaws.com", topic)
	out, err := s.client.Subscribe(t.Context(), &sns.SubscribeInput{TopicArn: &topic, Protocol: aws.String("sqs"), Endpoint: &arn, Attributes: attributes, ReturnSubscriptionArn: true})
	if err != nil {
		t.Fatalf("subscribe: %v", err)
	}
	if !strings.HasPrefix(aws.ToString(out.SubscriptionArn), topic+":") {
		t.Errorf("subscription = %s", aws.ToString(out.SubscriptionArn))
	}
	return url
}

func (s topicSuite) publish(t *testing.T, topic string, in sns.PublishInput) error {
	t.Helper()
	in.TopicArn = &topic
	_, err := s.client.Publish(t.Context(), &in)
	return err
}

func stringAttribute(value string) types.MessageAttributeValue {
	return types.MessageAttributeValue{DataType: aws.String("String"), StringValue: &value}
}

func (s topicSuite) topics(t *testing.T) {
	topic := s.topic(t)
	name := topic[strings.LastIndexByte(topic, ':')+1:]
	again, err := s.client.CreateTopic(t.Context(), &sns.CreateTopicInput{Name: &name})
	if err != nil || aws.ToString(again.TopicArn) != topic {
		t.Errorf("create again: %v, %v", again, err)
	}
	s.subscribe(t, topic, nil)
	out, err := s.client.ListSubscriptionsByTopic(t.Context(), &sns.ListSubscriptionsByTopicInput{TopicArn: &topic})
	if err != nil || len(out.Subscriptions) != 1 || aws.ToString(out.Subscriptions[0].Protocol) != "sqs" {
		t.Errorf("subscriptions = %+v, %v", out, err)
	}
	attributes, err := s.client.GetTopicAttributes(t.Context(), &sns.GetTopicAttributesInput{TopicArn: &topic})
	if err != nil || attributes.Attributes["TopicArn"] != topic || attributes.Attributes["Policy"] == "" {
		t.Errorf("attributes = %+v, %v", attributes, err)
	}
	_, err = s.client.GetTopicAttributes(t.Context(), &sns.GetTopicAttributesInput{TopicArn: aws.String(topic + "x")})
	wantCode(t, err, "NotFound")
	wantCode(t, s.publish(t, topic+"x", sns.PublishInput{Message: aws.String("m")}), "NotFound")
}

func (s topicSuite) delivery(t *testing.T) {
	topic := s.topic(t)
	wrapped := s.subscribe(t, topic, nil)
	raw := s.subscribe(t, topic, map[string]string{"RawMessageDelivery": "true"})
	attributes := map[string]types.MessageAttributeValue{"severity": stringAttribute("high")}
	if err := s.publish(t, topic, sns.PublishInput{Subject: aws.String("subject"), Message: aws.String("ü <&>"), MessageAttributes: attributes}); err != nil {
		t.Fatal(err)
	}
	var envelope struct {
		Type, TopicArn, Subject, Message string
		MessageAttributes                map[string]struct{ Type, Value string }
	}
	body := aws.ToString(s.receiveOne(t, wrapped, 10).Body)
	if err := json.Unmarshal([]byte(body), &envelope); err != nil {
		t.Fatal(err)
	}
	if envelope.Type != "Notification" || envelope.TopicArn != topic || envelope.Subject != "subject" || envelope.Message != "ü <&>" || envelope.MessageAttributes["severity"].Value != "high" {
		t.Errorf("envelope = %s", body)
	}
	m := s.receiveOne(t, raw, 10)
	if aws.ToString(m.Body) != "ü <&>" || aws.ToString(m.MessageAttributes["severity"].StringValue) != "high" {
		t.Errorf("raw message = %+v", m)
	}
	if err := s.publish(t, topic, sns.PublishInput{Message: aws.String(`{"default":"all","sqs":"queues","email":"people"}`), MessageStructure: aws.String("json")}); err != nil {
		t.Fatal(err)
	}
	if m := s.receiveOne(t, raw, 10); aws.ToString(m.Body) != "queues" {
		t.Errorf("message for queues = %q", aws.ToString(m.Body))
	}
}

func (s topicSuite) filters(t *testing.T) {
	topic := s.topic(t)
	byAttribute := s.subscribe(t, topic, map[string]string{"RawMessageDelivery": "true", "FilterPolicy": `{"severity":["high",{"prefix":"crit"}]}`})
	byBody := s.subscribe(t, topic, map[string]string{"RawMessageDelivery": "true", "FilterPolicy": `{"key":{"id":["k1"]}}`, "FilterPolicyScope": "MessageBody"})
	for _, severity := range []string{"low", "critical"} {
		message := `{"key":{"id":"` + map[string]string{"low": "k1", "critical": "k2"}[severity] + `"}}`
		if err := s.publish(t, topic, sns.PublishInput{Message: &message, MessageAttributes: map[string]types.MessageAttributeValue{"severity": stringAttribute(severity)}}); err != nil {
			t.Fatal(err)
		}
	}
	if m := s.receiveOne(t, byAttribute, 10); aws.ToString(m.Body) != `{"key":{"id":"k2"}}` {
		t.Errorf("by attribute: %s", aws.ToString(m.Body))
	}
	if m := s.receiveOne(t, byBody, 10); aws.ToString(m.Body) != `{"key":{"id":"k1"}}` {
		t.Errorf("by body: %s", aws.ToString(m.Body))
	}
}

func (s topicSuite) queuePolicy(t *testing.T) {
	if s.target.Deviations.SNSQueuePolicyIgnored {
		return
	}
	topic := s.topic(t)
	open := s.subscribe(t, topic, nil)
	closed, arn := s.queue(t)
	if _, err := s.client.Subscribe(t.Context(), &sns.SubscribeInput{TopicArn: &topic, Protocol: aws.String("sqs"), Endpoint: &arn}); err != nil {
		t.Fatal(err)
	}
	if err := s.publish(t, topic, sns.PublishInput{Message: aws.String("m")}); err != nil {
		t.Fatal(err)
	}
	s.receiveOne(t, open, 10)
	if got := s.receive(t, closed, 2); len(got) != 0 {
		t.Error("delivered to a queue whose policy does not allow it")
	}
}

func (s topicSuite) refusals(t *testing.T) {
	topic := s.topic(t)
	long := strings.Repeat("x", 256<<10)
	if !s.target.Deviations.SNSStructureUnchecked {
		wantCode(t, s.publish(t, topic, sns.PublishInput{Message: aws.String(`{"sqs":"x"}`), MessageStructure: aws.String("json")}), "InvalidParameter")
	}
	wantCode(t, s.publish(t, topic, sns.PublishInput{Message: aws.String("m"), Subject: aws.String(strings.Repeat("x", 101))}), "InvalidParameter")
	wantCode(t, s.publish(t, topic, sns.PublishInput{Message: aws.String(long + "x")}), "InvalidParameter")
	if !s.target.Deviations.SNSSizeUnchecked {
		wantCode(t, s.publish(t, topic, sns.PublishInput{Message: &long, MessageAttributes: map[string]types.MessageAttributeValue{"a": stringAttribute("b")}}), "InvalidParameter")
	}
	if !s.target.Deviations.SNSSubjectUnchecked {
		wantCode(t, s.publish(t, topic, sns.PublishInput{Message: aws.String("m"), Subject: aws.String("a\nb")}), "InvalidParameter")
		wantCode(t, s.publish(t, topic, sns.PublishInput{Message: aws.String("m"), Subject: aws.String("ü")}), "InvalidParameter")
	}
}
