package conformance

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

// EventBridgeDeviations are the known ways in which the EventBridge of moto 5.2
// and LocalStack 4.14 is not like AWS's.
type EventBridgeDeviations struct {
	// EventsQueuePolicyIgnored: events reach queues whose policy does not let
	// the rule send (moto, LocalStack).
	EventsQueuePolicyIgnored bool
	// EventsAWSSources: PutEvents takes the sources of AWS services (moto, LocalStack).
	EventsAWSSources bool
	// EventsPatternUnchecked: a rule takes patterns that match nothing (moto, LocalStack).
	EventsPatternUnchecked bool
	// EventsDetailUnchecked: an event's detail may be any JSON value (moto).
	EventsDetailUnchecked bool
	// EventsNoPatternTest: TestEventPattern is missing (moto).
	EventsNoPatternTest bool
	// EventsNoAccount: events do not say which account they are of (moto).
	EventsNoAccount bool
}

// runEventBridge states what EventBridge does.
func runEventBridge(t *testing.T, target Target) {
	s := eventSuite{queueSuite{target: target, client: sqs.NewFromConfig(target.Config)}, eventbridge.NewFromConfig(target.Config)}
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"Delivery", s.delivery},
		{"Patterns", s.patterns},
		{"QueuePolicy", s.queuePolicy},
		{"Entries", s.entries},
		{"Rules", s.rules},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel() // most of the time they wait
			part.run(t)
		})
	}
}

type eventSuite struct {
	queueSuite
	client *eventbridge.Client
}

// rule makes a rule with the queue as its target and returns its ARN.
func (s eventSuite) rule(t *testing.T, pattern, queueARN string) (name, arn string) {
	t.Helper()
	name = unique()
	out, err := s.client.PutRule(t.Context(), &eventbridge.PutRuleInput{Name: &name, EventPattern: &pattern})
	if err != nil {
		t.Fatalf("put rule: %v", err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if _, err := s.client.RemoveTargets(ctx, &eventbridge.RemoveTargetsInput{Rule: &name, Ids: []string{"queue"}}); err != nil {
			t.Errorf("remove targets: %v", err)
		}
		if _, err := s.client.DeleteRule(ctx, &eventbridge.DeleteRuleInput{Name: &name}); err != nil {
			t.Errorf("delete rule: %v", err)
		}
	})
	put, err := s.client.PutTargets(t.Context(), &eventbridge.PutTargetsInput{Rule: &name, Targets: []types.Target{{Id: aws.String("queue"), Arn: &queueARN}}})
	if err != nil || put.FailedEntryCount != 0 {
		t.Fatalf("put targets: %+v, %v", put, err)
	}
	return name, aws.ToString(out.RuleArn)
}

func entry(source, detail string) types.PutEventsRequestEntry {
	return types.PutEventsRequestEntry{Source: &source, DetailType: aws.String("conformance"), Detail: &detail}
}

func (s eventSuite) put(t *testing.T, entries ...types.PutEventsRequestEntry) *eventbridge.PutEventsOutput {
	t.Helper()
	out, err := s.client.PutEvents(t.Context(), &eventbridge.PutEventsInput{Entries: entries})
	if err != nil {
		t.Fatalf("put events: %v", err)
	}
	return out
}

func (s eventSuite) delivery(t *testing.T) {
	url, arn := s.queue(t)
	source := unique()
	_, rule := s.rule(t, `{"source":["`+source+`"],"detail":{"n":[1]}}`, arn)
	s.open(t, url, arn, "events.amazonaws.com", rule)
	out := s.put(t, entry(source, `{"n":2}`), entry(source, `{"n":1,"text":"ü <&>"}`), entry(source+"x", `{"n":1}`))
	if out.FailedEntryCount != 0 || len(out.Entries) != 3 {
		t.Fatalf("put = %+v", out)
	}
	body := aws.ToString(s.receiveOne(t, url, 10).Body)
	var event struct {
		Version, ID, Source, Account, Region, Time string
		DetailType                                 string `json:"detail-type"`
		Detail                                     struct {
			N    int
			Text string
		}
	}
	if err := json.Unmarshal([]byte(body), &event); err != nil {
		t.Fatal(err)
	}
	if event.Version != "0" || event.ID != aws.ToString(out.Entries[1].EventId) || event.Source != source || event.Account != s.target.Account && !s.target.Deviations.EventsNoAccount ||
		event.Region != s.target.Config.Region || event.DetailType != "conformance" || event.Detail.N != 1 || event.Detail.Text != "ü <&>" || event.Time == "" {
		t.Errorf("event = %s", body)
	}
}

func (s eventSuite) patterns(t *testing.T) {
	if s.target.Deviations.EventsNoPatternTest {
		return
	}
	event := `{"id":"1","account":"123456789012","source":"aws.kms","time":"2026-01-01T00:00:00Z","region":"us-east-1","resources":["arn:x"],"detail-type":"AWS API Call via CloudTrail","detail":{"eventName":"DisableKey","errorCode":null,"n":5}}`
	for pattern, want := range map[string]bool{
		`{"source":["aws.kms"]}`: true,
		`{"source":["aws.s3"]}`:  false,
		`{"source":["aws.s3","aws.kms"],"detail":{"eventName":[{"prefix":"Disable"}]}}`: true,
		`{"detail":{"eventName":[{"suffix":"Key"}]}}`:                                   true,
		`{"detail":{"eventName":[{"anything-but":["DisableKey"]}]}}`:                    false,
		`{"detail":{"eventName":[{"anything-but":{"prefix":"Enable"}}]}}`:               true,
		`{"detail":{"eventName":[{"equals-ignore-case":"DISABLEKEY"}]}}`:                true,
		`{"detail":{"absent":[{"exists":false}]}}`:                                      true,
		`{"detail":{"eventName":[{"exists":false}]}}`:                                   false,
		`{"detail":{"errorCode":[null]}}`:                                               true,
		`{"detail":{"n":[{"numeric":[">=",5]}]}}`:                                       true,
		`{"resources":[{"prefix":"arn:"}]}`:                                             true,
		`{"$or":[{"source":["x"]},{"account":["123456789012"]}]}`:                       true,
	} {
		out, err := s.client.TestEventPattern(t.Context(), &eventbridge.TestEventPatternInput{EventPattern: &pattern, Event: &event})
		if err != nil {
			t.Errorf("%s: %v", pattern, err)
			continue
		}
		if out.Result != want {
			t.Errorf("%s: match = %v, want %v", pattern, out.Result, want)
		}
	}
}

func (s eventSuite) queuePolicy(t *testing.T) {
	if s.target.Deviations.EventsQueuePolicyIgnored {
		return
	}
	source := unique()
	pattern := `{"source":["` + source + `"]}`
	openURL, openARN := s.queue(t)
	closedURL, closedARN := s.queue(t)
	_, rule := s.rule(t, pattern, openARN)
	s.open(t, openURL, openARN, "events.amazonaws.com", rule)
	s.rule(t, pattern, closedARN)
	s.open(t, closedURL, closedARN, "events.amazonaws.com", rule) // another rule than its own
	s.put(t, entry(source, "{}"))
	s.receiveOne(t, openURL, 10)
	if got := s.receive(t, closedURL, 2); len(got) != 0 {
		t.Error("delivered to a queue whose policy does not allow it")
	}
}

func (s eventSuite) entries(t *testing.T) {
	out := s.put(t, entry("conformance", "{}"), entry("aws.kms", "{}"), entry("conformance", "{"), entry("conformance", "[]"), entry("", "{}"))
	if len(out.Entries) != 5 {
		t.Fatalf("answered %d entries, want 5", len(out.Entries))
	}
	for i, want := range []string{"", "NotAuthorizedForSourceException", "MalformedDetail", "MalformedDetail", "InvalidArgument"} {
		if i == 1 && s.target.Deviations.EventsAWSSources || i == 3 && s.target.Deviations.EventsDetailUnchecked {
			continue
		}
		if got := aws.ToString(out.Entries[i].ErrorCode); got != want {
			t.Errorf("entry %d: %q, want %q", i, got, want)
		}
	}
}

func (s eventSuite) rules(t *testing.T) {
	_, queueARN := s.queue(t)
	pattern := `{"source":["` + unique() + `"]}`
	name, arn := s.rule(t, pattern, queueARN)
	rule, err := s.client.DescribeRule(t.Context(), &eventbridge.DescribeRuleInput{Name: &name})
	if err != nil || aws.ToString(rule.Arn) != arn || aws.ToString(rule.EventPattern) != pattern || rule.State != types.RuleStateEnabled {
		t.Errorf("rule = %+v, %v", rule, err)
	}
	targets, err := s.client.ListTargetsByRule(t.Context(), &eventbridge.ListTargetsByRuleInput{Rule: &name})
	if err != nil || len(targets.Targets) != 1 || aws.ToString(targets.Targets[0].Arn) != queueARN {
		t.Errorf("targets = %+v, %v", targets, err)
	}
	names, err := s.client.ListRuleNamesByTarget(t.Context(), &eventbridge.ListRuleNamesByTargetInput{TargetArn: &queueARN})
	if err != nil || len(names.RuleNames) != 1 || names.RuleNames[0] != name {
		t.Errorf("rules by target = %+v, %v", names, err)
	}
	_, err = s.client.DeleteRule(t.Context(), &eventbridge.DeleteRuleInput{Name: &name})
	wantCode(t, err, "ValidationException")
	if !s.target.Deviations.EventsPatternUnchecked {
		for _, bad := range []string{`{"source":"x"}`, `{"source":[]}`, `{"source":[{"nonsense":1}]}`, `{`} {
			_, err = s.client.PutRule(t.Context(), &eventbridge.PutRuleInput{Name: aws.String(unique()), EventPattern: &bad})
			wantCode(t, err, "InvalidEventPatternException")
		}
	}
	_, err = s.client.DescribeRule(t.Context(), &eventbridge.DescribeRuleInput{Name: aws.String(unique())})
	wantCode(t, err, "ResourceNotFoundException")
}
