package eventbridge_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/eventbridge"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge/types"
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
	server *localaws.Server
	events *sdk.Client
	queues *sqs.Client
}

func setUp(t *testing.T) fixture {
	server := localaws.New(localaws.Options{})
	t.Cleanup(server.Close)
	cfg := inprocess.Config(server, "us-east-1", "test")
	return fixture{t, server, sdk.NewFromConfig(cfg), sqs.NewFromConfig(cfg)}
}

// queue makes a queue, open to EventBridge if wanted.
func (f fixture) queue(name string, open bool) (url string) {
	f.Helper()
	in := &sqs.CreateQueueInput{QueueName: &name}
	if open {
		in.Attributes = map[string]string{"Policy": `{"Statement":{"Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"` + queueARN + name + `"}}`}
	}
	out, err := f.queues.CreateQueue(f.Context(), in)
	if err != nil {
		f.Fatal(err)
	}
	return *out.QueueUrl
}

func (f fixture) rule(in *sdk.PutRuleInput, targets ...types.Target) {
	f.Helper()
	in.Name = aws.String("r")
	if _, err := f.events.PutRule(f.Context(), in); err != nil {
		f.Fatal(err)
	}
	if _, err := f.events.PutTargets(f.Context(), &sdk.PutTargetsInput{Rule: in.Name, Targets: targets}); err != nil {
		f.Fatal(err)
	}
}

func (f fixture) put(source, detail string) {
	f.Helper()
	out, err := f.events.PutEvents(f.Context(), &sdk.PutEventsInput{Entries: []types.PutEventsRequestEntry{{Source: &source, DetailType: aws.String("test"), Detail: &detail}}})
	if err != nil || out.FailedEntryCount != 0 {
		f.Fatalf("put: %+v, %v", out, err)
	}
}

// receive receives and deletes what is there.
func (f fixture) receive(url string) []sqstypes.Message {
	f.Helper()
	out, err := f.queues.ReceiveMessage(f.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"}})
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range out.Messages {
		if _, err := f.queues.DeleteMessage(f.Context(), &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: m.ReceiptHandle}); err != nil {
			f.Fatal(err)
		}
	}
	return out.Messages
}

func TestEventReachesMatchingTargets(t *testing.T) {
	f := setUp(t)
	whole, part, constant := f.queue("whole", true), f.queue("part", true), f.queue("constant", true)
	f.rule(&sdk.PutRuleInput{EventPattern: aws.String(`{"source":["app"],"detail":{"n":[1]}}`)},
		types.Target{Id: aws.String("1"), Arn: aws.String(queueARN + "whole")},
		types.Target{Id: aws.String("2"), Arn: aws.String(queueARN + "part"), InputPath: aws.String("$.detail")},
		types.Target{Id: aws.String("3"), Arn: aws.String(queueARN + "constant"), Input: aws.String(`{"x":1}`)},
	)
	f.put("app", `{"n":2}`)
	f.put("app", `{"n":1,"text":"<ü>"}`)

	got := f.receive(whole)
	if len(got) != 1 {
		t.Fatalf("received %d events, want 1", len(got))
	}
	var envelope map[string]json.RawMessage
	if err := json.Unmarshal([]byte(*got[0].Body), &envelope); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"version": `"0"`, "source": `"app"`, "detail-type": `"test"`, "account": `"000000000000"`, "region": `"us-east-1"`, "resources": `[]`} {
		if string(envelope[name]) != want {
			t.Errorf("%s = %s, want %s", name, envelope[name], want)
		}
	}
	if got := f.receive(part); len(got) != 1 || *got[0].Body != string(envelope["detail"]) {
		t.Errorf("by path: %v, want %s", got, envelope["detail"])
	}
	if got := f.receive(constant); len(got) != 1 || *got[0].Body != `{"x":1}` {
		t.Errorf("constant input: %v", got)
	}
}

func TestRefusedEventGoesToTheDeadLetterQueue(t *testing.T) {
	f := setUp(t)
	closed, dlq := f.queue("closed", false), f.queue("dlq", true)
	f.rule(&sdk.PutRuleInput{EventPattern: aws.String(`{"source":["app"]}`)},
		types.Target{Id: aws.String("1"), Arn: aws.String(queueARN + "closed"), DeadLetterConfig: &types.DeadLetterConfig{Arn: aws.String(queueARN + "dlq")}},
		types.Target{Id: aws.String("2"), Arn: aws.String(queueARN + "none"), DeadLetterConfig: &types.DeadLetterConfig{Arn: aws.String(queueARN + "dlq")}},
		types.Target{Id: aws.String("3"), Arn: aws.String(queueARN + "closed")},
	)
	f.put("app", `{}`)
	if got := f.receive(closed); len(got) != 0 {
		t.Errorf("delivered %d events past the queue's policy", len(got))
	}
	codes := map[string]string{}
	for _, m := range f.receive(dlq) {
		codes[*m.MessageAttributes["TARGET_ARN"].StringValue] = *m.MessageAttributes["ERROR_CODE"].StringValue
	}
	if diff := cmp.Diff(map[string]string{queueARN + "closed": "NO_PERMISSIONS", queueARN + "none": "NO_RESOURCE"}, codes); diff != "" {
		t.Error(diff)
	}
}

func TestReadOnlyCallsNeedTheirOwnState(t *testing.T) {
	f := setUp(t)
	url := f.queue("q", true)
	target := types.Target{Id: aws.String("1"), Arn: aws.String(queueARN + "q")}
	publish := func(readOnly string) {
		f.server.EventBridge().Publish([]byte(`{"source":"aws.kms","detail-type":"AWS API Call via CloudTrail","detail":{"managementEvent":true,"readOnly":` + readOnly + `}}`))
	}
	for _, c := range []struct {
		state types.RuleState
		want  int
	}{
		{types.RuleStateEnabled, 1},
		{types.RuleStateEnabledWithAllCloudtrailManagementEvents, 2},
		{types.RuleStateDisabled, 0},
	} {
		f.rule(&sdk.PutRuleInput{EventPattern: aws.String(`{"source":["aws.kms"]}`), State: c.state}, target)
		publish("true")
		publish("false")
		if got := f.receive(url); len(got) != c.want {
			t.Errorf("%s: received %d events, want %d", c.state, len(got), c.want)
		}
	}
}

func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		url := f.queue("q", true)
		f.rule(&sdk.PutRuleInput{ScheduleExpression: aws.String("rate(5 minutes)")}, types.Target{Id: aws.String("1"), Arn: aws.String(queueARN + "q")})
		time.Sleep(11 * time.Minute)
		got := f.receive(url)
		if len(got) != 2 {
			t.Fatalf("received %d events in 11 minutes, want 2", len(got))
		}
		if !strings.Contains(*got[0].Body, `"detail-type":"Scheduled Event"`) || !strings.Contains(*got[0].Body, `"resources":["arn:aws:events:us-east-1:000000000000:rule/r"]`) {
			t.Errorf("event = %s", *got[0].Body)
		}
		if _, err := f.events.DisableRule(t.Context(), &sdk.DisableRuleInput{Name: aws.String("r")}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if got := f.receive(url); len(got) != 0 {
			t.Errorf("a disabled rule sent %d events", len(got))
		}
		if _, err := f.events.EnableRule(t.Context(), &sdk.EnableRuleInput{Name: aws.String("r")}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Minute)
		if got := f.receive(url); len(got) != 1 {
			t.Errorf("an enabled rule sent %d events in 6 minutes, want 1", len(got))
		}
	})
}

func TestPutEventsFailsPerEntry(t *testing.T) {
	f := setUp(t)
	entry := func(source, detail string) types.PutEventsRequestEntry {
		return types.PutEventsRequestEntry{Source: &source, DetailType: aws.String("t"), Detail: &detail}
	}
	out, err := f.events.PutEvents(t.Context(), &sdk.PutEventsInput{Entries: []types.PutEventsRequestEntry{
		entry("app", "{}"), entry("aws.kms", "{}"), entry("app", "{"), entry("app", "[]"), entry("", "{}"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, e := range out.Entries {
		codes = append(codes, aws.ToString(e.ErrorCode))
	}
	want := []string{"", "NotAuthorizedForSourceException", "MalformedDetail", "MalformedDetail", "InvalidArgument"}
	if diff := cmp.Diff(want, codes); diff != "" || out.FailedEntryCount != 4 {
		t.Errorf("%d failed\n%s", out.FailedEntryCount, diff)
	}
}

func TestRules(t *testing.T) {
	f := setUp(t)
	f.rule(&sdk.PutRuleInput{EventPattern: aws.String(`{"source":["app"]}`), Description: aws.String("d")}, types.Target{Id: aws.String("1"), Arn: aws.String(queueARN + "q")})
	wantCode := func(err error, code string) {
		t.Helper()
		var api smithy.APIError
		if !errors.As(err, &api) || api.ErrorCode() != code {
			t.Errorf("error = %v, want %s", err, code)
		}
	}
	rule := &sdk.DeleteRuleInput{Name: aws.String("r")}
	_, err := f.events.DeleteRule(t.Context(), rule)
	wantCode(err, "ValidationException")
	_, err = f.events.PutRule(t.Context(), &sdk.PutRuleInput{Name: aws.String("x"), EventPattern: aws.String(`{"source":[{"cidr":"::/0"}]}`)})
	wantCode(err, "InvalidEventPatternException")
	for _, schedule := range []string{"rate(1 minutes)", "rate(2 minute)", "rate(0 minutes)", "cron(0 12 * * ? *)", "rate(1 fortnight)"} {
		_, err = f.events.PutRule(t.Context(), &sdk.PutRuleInput{Name: aws.String("x"), ScheduleExpression: &schedule})
		wantCode(err, "ValidationException")
	}
	_, err = f.events.PutTargets(t.Context(), &sdk.PutTargetsInput{Rule: aws.String("x"), Targets: []types.Target{{Id: aws.String("1"), Arn: aws.String(queueARN + "q")}}})
	wantCode(err, "ResourceNotFoundException")

	described, err := f.events.DescribeRule(t.Context(), &sdk.DescribeRuleInput{Name: aws.String("r")})
	if err != nil || described.State != types.RuleStateEnabled || *described.Description != "d" {
		t.Errorf("described %+v, %v", described, err)
	}
	byTarget, err := f.events.ListRuleNamesByTarget(t.Context(), &sdk.ListRuleNamesByTargetInput{TargetArn: aws.String(queueARN + "q")})
	if err != nil || cmp.Diff([]string{"r"}, byTarget.RuleNames) != "" {
		t.Errorf("rules of the queue: %+v, %v", byTarget, err)
	}
	removed, err := f.events.RemoveTargets(t.Context(), &sdk.RemoveTargetsInput{Rule: aws.String("r"), Ids: []string{"1", "2"}})
	if err != nil || removed.FailedEntryCount != 1 {
		t.Errorf("removed %+v, %v", removed, err)
	}
	if _, err := f.events.DeleteRule(t.Context(), rule); err != nil {
		t.Error(err)
	}
	rules, err := f.events.ListRules(t.Context(), &sdk.ListRulesInput{})
	if err != nil || len(rules.Rules) != 0 {
		t.Errorf("rules = %+v, %v", rules, err)
	}
	tested, err := f.events.TestEventPattern(t.Context(), &sdk.TestEventPatternInput{
		EventPattern: aws.String(`{"source":["app"]}`),
		Event:        aws.String(`{"id":"1","account":"1","source":"app","time":"2026-01-01T00:00:00Z","region":"r","resources":[],"detail-type":"t","detail":{}}`),
	})
	if err != nil || !tested.Result {
		t.Errorf("tested %+v, %v", tested, err)
	}
}
