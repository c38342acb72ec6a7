package deploy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/deploy"
	"github.com/cmkeeper/cmkeeper/internal/cli"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
)

const (
	account = "111122223333"
	region  = "eu-central-1"
)

// place has values for the parameters that have no default, and the given ones.
func place(parameters ...string) deploy.Place {
	p := deploy.Place{Account: account, Region: region, Stack: "cmkeeper", QueueURL: "https://sqs.eu-central-1.amazonaws.com", Parameters: map[string]string{
		"Image": "example/cmkeeper:1", "VpcId": "vpc-0123456789abcdef0", "Subnets": "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
	}}
	for pair := range slices.Chunk(parameters, 2) {
		p.Parameters[pair[0]] = pair[1]
	}
	return p
}

// everything is a stack with every resource.
var everything = []string{
	"RotationMode", "enforce", "PolicyMode", "enforce", "DeletionMode", "enforce", "ContainMode", "enforce",
	"ReencryptMode", "enforce", "ReencryptAliases", "alias/app-*", "ReencryptEngine", "auto", "FixBucketDefault", "true", "ReencryptEnvelopes", "content", "ReencryptRewriteFiles", "true",
	"FailedUse", "true", "ReportSchedule", "weekly", "AccessReview", "daily", "AlertEmail", "keys@example.com", "VpcEndpoints", "true", "RouteTables", "rtb-0123456789abcdef0",
	"TrustedAccounts", "222233334444", "SettingsFile", "arn:aws:s3:::settings/cmkeeper.env",
}

// problems are what is wrong with a stack, in the sense of docs/operations.md. Each check
// is about all resources of a type, so that one that is added is checked as well.
func problems(s *deploy.Stack) (all []string) {
	say := func(format string, a ...any) { all = append(all, fmt.Sprintf(format, a...)) }
	checkRules(s, say)
	checkAlarms(s, say)
	checkEncryption(s, say)
	checkTLS(s, say)
	checkTasks(s, say)
	return all
}

type report func(format string, a ...any)

// policies returns the policies that resources of the type give to the target, which is a
// queue's URL or a topic's ARN.
func policies(s *deploy.Stack, kind, list, target string) (all []*iam.Policy) {
	for _, id := range s.OfType(kind) {
		p := s.Resources[id].Properties
		if targets, _ := p[list].([]any); p[list] != target && !slices.Contains(targets, any(target)) {
			continue
		}
		document, _ := json.Marshal(p["PolicyDocument"])
		policy, err := iam.Parse(document)
		if err != nil {
			panic(err) // of the template, in a test
		}
		all = append(all, policy)
	}
	return all
}

func admits(all []*iam.Policy, r iam.Request) bool {
	return len(all) == 1 && all[0].Evaluate(r) == iam.Allow
}

// queueURL is the URL of the stack's queue with this ARN, "" for another one.
func queueURL(s *deploy.Stack, arn string) string {
	for _, id := range s.OfType("AWS::SQS::Queue") {
		if url, is := s.Identity(id); is == arn {
			return url
		}
	}
	return ""
}

// checkRules: every target of a rule is a queue whose policy admits that rule, and no
// other one, and has a dead-letter queue that admits it, and a retry policy.
func checkRules(s *deploy.Stack, say report) {
	for _, id := range s.OfType("AWS::Events::Rule") {
		p := s.Resources[id].Properties
		_, rule := s.Identity(id)
		if !strings.HasPrefix(fmt.Sprint(p["Name"]), "cmkeeper-") {
			say("rule %s has a name that CMKEEPER_EVENT_RULES does not match", id)
		}
		for _, t := range p["Targets"].([]any) {
			target := t.(map[string]any)
			queues := []string{fmt.Sprint(target["Arn"])}
			if dead, ok := target["DeadLetterConfig"].(map[string]any); ok {
				queues = append(queues, fmt.Sprint(dead["Arn"]))
			} else {
				say("rule %s: its target has no dead-letter queue", id)
			}
			if target["RetryPolicy"] == nil {
				say("rule %s: its target has no retry policy", id)
			}
			for _, queue := range queues {
				request := iam.Request{Service: "events.amazonaws.com", Action: "sqs:SendMessage", Resource: queue, Context: map[string]string{
					"aws:SourceArn": rule, "aws:SourceAccount": account, "aws:SecureTransport": "true",
				}}
				url := queueURL(s, queue)
				policies := policies(s, "AWS::SQS::QueuePolicy", "Queues", url)
				if url == "" || !admits(policies, request) {
					say("rule %s: %s does not admit it", id, queue)
				}
				request.Context["aws:SourceArn"] = "arn:aws:events:" + region + ":" + account + ":rule/other"
				if admits(policies, request) {
					say("rule %s: %s admits any rule", id, queue)
				}
			}
		}
	}
	for _, id := range s.OfType("AWS::SQS::Queue") {
		dead, _ := s.Resources[id].Properties["RedrivePolicy"].(map[string]any)
		if source := strings.HasSuffix(id, "Queue"); source && queueURL(s, fmt.Sprint(dead["deadLetterTargetArn"])) == "" {
			say("queue %s has no dead-letter queue", id)
		}
	}
}

// checkAlarms: every alarm notifies a topic, when it starts and when it ends, and the
// topic's policy lets CloudWatch publish.
func checkAlarms(s *deploy.Stack, say report) {
	for _, id := range s.OfType("AWS::CloudWatch::Alarm") {
		p := s.Resources[id].Properties
		for _, actions := range []string{"AlarmActions", "OKActions"} {
			list, _ := p[actions].([]any)
			if len(list) == 0 {
				say("alarm %s has no %s", id, actions)
			}
			for _, topic := range list {
				if !admits(policies(s, "AWS::SNS::TopicPolicy", "Topics", topic.(string)), iam.Request{
					Service: "cloudwatch.amazonaws.com", Action: "sns:Publish", Resource: topic.(string), Context: map[string]string{
						"aws:SourceArn": "arn:aws:cloudwatch:" + region + ":" + account + ":alarm:" + p["AlarmName"].(string), "aws:SourceAccount": account, "aws:SecureTransport": "true",
					},
				}) {
					say("alarm %s: %s does not admit CloudWatch", id, topic)
				}
			}
		}
	}
}

// checkEncryption: nothing that the guard needs is under a customer managed key, and queues
// and buckets are encrypted.
func checkEncryption(s *deploy.Stack, say report) {
	for id, r := range s.Resources {
		text, _ := json.Marshal(r.Properties)
		for _, property := range []string{"KmsMasterKeyId", "KMSMasterKeyID", "KmsKeyId", "KmsKey", "aws:kms"} {
			if r.Type != "AWS::KMS::Key" && strings.Contains(string(text), `"`+property+`"`) {
				say("%s is encrypted under a key of KMS (%s)", id, property)
			}
		}
		switch {
		case r.Type == "AWS::SQS::Queue" && r.Properties["SqsManagedSseEnabled"] != true:
			say("queue %s is not encrypted", id)
		case r.Type == "AWS::S3::Bucket" && !strings.Contains(string(text), `"AES256"`):
			say("bucket %s is not encrypted", id)
		}
	}
}

// checkTLS: queues, topics and buckets refuse what comes without TLS.
func checkTLS(s *deploy.Stack, say report) {
	for kind, policy := range map[string]struct{ kind, list, action string }{
		"AWS::SQS::Queue": {"AWS::SQS::QueuePolicy", "Queues", "sqs:ReceiveMessage"},
		"AWS::SNS::Topic": {"AWS::SNS::TopicPolicy", "Topics", "sns:Publish"},
		"AWS::S3::Bucket": {"AWS::S3::BucketPolicy", "Bucket", "s3:GetObject"},
	} {
		for _, id := range s.OfType(kind) {
			ref, arn := s.Identity(id)
			request := iam.Request{
				Principal: "arn:aws:iam::" + account + ":role/admin", Account: account, Action: policy.action, Resource: arn,
				Context: map[string]string{"aws:SecureTransport": "false"},
			}
			if kind == "AWS::S3::Bucket" {
				request.Resource += "/object"
			}
			all := policies(s, policy.kind, policy.list, ref)
			if len(all) != 1 || all[0].Evaluate(request) != iam.ExplicitDeny {
				say("%s can be used without TLS", id)
			}
			request.Context["aws:SecureTransport"] = "true"
			if len(all) == 1 && all[0].Evaluate(request) == iam.ExplicitDeny {
				say("%s cannot be used with TLS", id)
			}
		}
	}
}

// checkTasks: the variables of a task definition are cmkeeper's, and all that a worker
// needs; ECS waits for longer than the worker drains; the container can do little.
func checkTasks(s *deploy.Stack, say report) {
	for _, id := range s.OfType("AWS::ECS::TaskDefinition") {
		environment := s.Environment(id)
		config, err := cli.LoadConfig(context.Background(), environment)
		if err != nil {
			say("task %s: %v", id, err)
		}
		c := s.Container(id)
		if stop := time.Duration(number(c["StopTimeout"])) * time.Second; stop < config.DrainTimeout+5*time.Second || stop > 120*time.Second {
			say("task %s: ECS stops it after %s, and it drains for %s", id, stop, config.DrainTimeout)
		}
		user, _, _ := strings.Cut(fmt.Sprint(c["User"]), ":")
		if uid, err := strconv.Atoi(user); err != nil || uid == 0 {
			say("task %s runs as user %q", id, user)
		}
		if c["ReadonlyRootFilesystem"] != true || c["HealthCheck"] == nil || !strings.Contains(fmt.Sprint(c["LinuxParameters"]), "Drop:[ALL]") {
			say("task %s can do more than it needs to, or is not looked after", id)
		}
		options, _ := c["LogConfiguration"].(map[string]any)["Options"].(map[string]any)
		if options["mode"] == nil {
			say("task %s: its log has no mode", id)
		}
		if r := s.Resources[id].Properties; r["TaskRoleArn"] == r["ExecutionRoleArn"] {
			say("task %s: its role is ECS's", id)
		}
	}
	for _, id := range s.OfType("AWS::ECS::Service") {
		p := s.Resources[id].Properties
		if fmt.Sprint(p["DesiredCount"]) != "2" || p["AvailabilityZoneRebalancing"] != "ENABLED" || !strings.Contains(fmt.Sprint(p["DeploymentConfiguration"]), "DeploymentCircuitBreaker:map[Enable:true Rollback:true]") {
			say("service %s is not what a guard needs", id)
		}
	}
	for _, id := range s.OfType("AWS::Logs::LogGroup") {
		if number(s.Resources[id].Properties["RetentionInDays"]) == 0 {
			say("log group %s keeps logs for ever", id)
		}
	}
}

func number(v any) int {
	n, _ := strconv.Atoi(fmt.Sprint(v))
	return n
}
