package guard

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/smithy-go"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/keypolicy"
)

const (
	testQueue  = "arn:aws:sqs:eu-central-1:111122223333:events"
	testPolicy = `{"Version":"2012-10-17","Statement":[` + testAllow + `,` + testDeny + `]}`
	testAllow  = `{"Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"` + testQueue + `","Condition":{"ArnLike":{"aws:SourceArn":"arn:aws:events:eu-central-1:111122223333:rule/cmkeeper-*"}}}`
	testDeny   = `{"Effect":"Deny","Principal":{"AWS":"*"},"Action":"sqs:SendMessage","Resource":"` + testQueue + `","Condition":{"ArnNotLike":{"aws:SourceArn":"arn:aws:events:eu-central-1:111122223333:rule/cmkeeper-*","aws:PrincipalArn":"arn:aws:iam::111122223333:role/keeper"}}}`
	kmsText    = `{"source":["aws.kms"],"detail-type":["AWS API Call via CloudTrail","KMS CMK Deletion"]}`
)

// sound are facts with which nothing is wrong.
func sound() Facts {
	now := time.Date(2026, 5, 6, 7, 0, 0, 0, time.UTC)
	call := func(name string) Event {
		return Event{Source: "aws.kms", DetailType: CallDetailType, EventSource: events.SourceKMS, Name: name}
	}
	return Facts{
		At: now, Account: "111122223333", Region: "eu-central-1", QueueARN: testQueue, RuleNames: []string{"cmkeeper-*"},
		Streams: []Stream{{
			Name: "keys", About: "about keys", Lost: finding.Critical, Narrowed: finding.High, Risk: "Nobody notices.",
			Events: []Event{call("DisableKey"), call("PutKeyPolicy"), {Source: "aws.kms", DetailType: "KMS CMK Deletion"}},
		}},
		Rules: Known[[]Rule]{Value: []Rule{
			{Name: "cmkeeper-kms", State: "ENABLED", Pattern: kmsText, Target: &Target{}},
			{Name: "cmkeeper-sweep", State: "ENABLED", Schedule: "rate(1 hour)", Target: &Target{Changed: true}},
		}},
		Policy: Known[string]{Value: testPolicy},
		Trails: Known[[]Trail]{Value: []Trail{{Name: "main", ARN: "arn:aws:cloudtrail:eu-central-1:111122223333:trail/main", Logging: true,
			Selectors: events.EventSelectors{Basic: []events.EventSelector{{ReadWriteType: "All", Management: true}}}}}},
		Topics: []Topic{{ARN: "arn:aws:sns:eu-central-1:111122223333:alerts", Confirmed: Known[int]{Value: 1}}},
		Queues: []Queue{{Name: "events", DeadLetters: DeadLetters{Name: "events-dlq", For: "queue events"}}},
		Ticks:  Known[Ticks]{Value: Ticks{Interval: time.Hour, Last: now.Add(-time.Hour), Since: now.Add(-24 * time.Hour)}},
	}
}

// denied is how AWS refuses a read.
type apiError struct{ code string }

func (e apiError) Error() string                 { return e.code }
func (e apiError) ErrorCode() string             { return e.code }
func (e apiError) ErrorMessage() string          { return e.code }
func (e apiError) ErrorFault() smithy.ErrorFault { return smithy.FaultClient }

func TestJudge(t *testing.T) {
	rule := func(change func(r *Rule)) func(*Facts) { return func(f *Facts) { change(&f.Rules.Value[0]) } }
	pattern := func(text string) func(*Facts) { return rule(func(r *Rule) { r.Pattern = text }) }
	selectors := func(s events.EventSelectors) func(*Facts) {
		return func(f *Facts) { f.Trails.Value[0].Selectors = s }
	}
	policy := func(text string) func(*Facts) { return func(f *Facts) { f.Policy.Value = text } }
	management := events.FieldSelector{Field: "eventCategory", Operator: "equals", Values: []string{"Management"}}
	for _, tt := range []struct {
		name   string
		change func(*Facts)
		// want is the condition's name, "" for none; says is in its details or texts.
		want     string
		severity finding.Severity
		says     string
	}{
		{"sound", func(*Facts) {}, "", "", ""},
		{"rule disabled", rule(func(r *Rule) { r.State = "DISABLED" }), "rules/disabled/cmkeeper-kms", finding.Critical, "aws events enable-rule --name cmkeeper-kms --region eu-central-1"},
		{"target removed", rule(func(r *Rule) { r.Target = nil }), "rules/target/cmkeeper-kms", finding.Critical, "DisableKey, PutKeyPolicy, KMS CMK Deletion"},
		{"input changed", rule(func(r *Rule) { r.Target.Changed = true }), "rules/input/cmkeeper-kms", finding.Critical, ""},
		{"no rule", func(f *Facts) { f.Rules.Value = nil }, "rules/pattern/keys", finding.Critical, "put-rule"},
		{"other rule feeds the queue", func(f *Facts) {
			f.Rules.Value[0].State = "DISABLED"
			f.Rules.Value = append(f.Rules.Value, Rule{Name: "cmkeeper-other", State: "ENABLED", Pattern: `{"source":[{"prefix":"aws."}]}`, Target: &Target{}})
		}, "", "", ""},
		{"wider pattern", pattern(`{"source":["aws.kms","aws.s3"]}`), "", "", ""},
		{"other account", pattern(`{"source":["aws.kms"],"account":["999988887777"]}`), "rules/pattern/keys", finding.Critical, ""},
		{"own account", pattern(`{"source":["aws.kms"],"account":["111122223333"],"region":["eu-central-1"]}`), "", "", ""},
		{"names left out", pattern(`{"source":["aws.kms"],"detail":{"eventName":[{"anything-but":["PutKeyPolicy"]}]}}`), "rules/pattern/keys", finding.High, "missing: PutKeyPolicy, KMS CMK Deletion"},
		{"by actor", pattern(`{"source":["aws.kms"],"detail":{"userIdentity":{"type":["IAMUser"]}}}`), "rules/pattern/keys", finding.High, "rule cmkeeper-kms passes only some of them, by detail.userIdentity.type"},
		{"refused ones left out", pattern(`{"source":["aws.kms"],"detail":{"errorCode":[{"exists":false}]}}`), "rules/pattern/keys", finding.High, "by detail.errorCode"},
		{"alternatives", pattern(`{"$or":[{"source":["aws.s3"]},{"source":[{"wildcard":"aws.k*"}]}]}`), "", "", ""},
		{"two rules share the events", func(f *Facts) {
			f.Rules.Value[0].Pattern = `{"source":["aws.kms"],"detail-type":["AWS API Call via CloudTrail"]}`
			f.Rules.Value = append(f.Rules.Value, Rule{Name: "x", State: "ENABLED", Pattern: `{"detail-type":[{"suffix":"Deletion"}]}`, Target: &Target{Role: "arn:aws:iam::111122223333:role/bus"}})
		}, "", "", ""},
		{"schedule disabled", func(f *Facts) { f.Rules.Value[1].State = "DISABLED" }, "rules/disabled/cmkeeper-sweep", finding.High, "of the schedule"},

		{"no policy", policy(""), "queue-policy/kept-out", finding.Critical, "cmkeeper-kms"},
		{"denied", policy(`{"Version":"2012-10-17","Statement":[` + testAllow + `,{"Effect":"Deny","Principal":"*","Action":"sqs:*","Resource":"*"}]}`), "queue-policy/kept-out", finding.Critical, ""},
		{"other rule's ARN", policy(strings.ReplaceAll(testPolicy, "rule/cmkeeper-", "rule/other-")), "queue-policy/kept-out", finding.Critical, ""},
		{"allow alone", policy(`{"Version":"2012-10-17","Statement":[` + testAllow + `]}`), "", "", ""},
		{"by account", policy(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":["events.amazonaws.com"]},"Action":"SQS:SendMessage","Resource":"` + testQueue + `","Condition":{"StringEquals":{"aws:SourceAccount":"111122223333"}}}]}`), "", "", ""},

		{"no trail", func(f *Facts) { f.Trails.Value = nil }, "trail/none", finding.Critical, ""},
		{"trail stopped", func(f *Facts) { f.Trails.Value[0].Logging = false }, "trail/stopped", finding.Critical, "aws cloudtrail start-logging --name arn:aws:cloudtrail"},
		{"KMS excluded", selectors(events.EventSelectors{Basic: []events.EventSelector{{ReadWriteType: "All", Management: true, ExcludedSources: []string{events.SourceKMS}}}}), "trail/none", finding.Critical, "do not exclude AWS KMS events"},
		{"some names", selectors(events.EventSelectors{Advanced: []events.AdvancedSelector{{management, {Field: "eventName", Operator: "notEquals", Values: []string{"DisableKey"}}}}}), "trail/some", finding.High, ""},
		{"one of two trails", func(f *Facts) { f.Trails.Value = append(f.Trails.Value, Trail{Name: "broken"}) }, "", "", ""},

		{"no subscription", func(f *Facts) { f.Topics[0].Confirmed.Value = 0 }, "topic/arn:aws:sns:eu-central-1:111122223333:alerts", finding.Critical, "no confirmed subscription"},
		{"topic gone", func(f *Facts) { f.Topics[0].Confirmed.Err = apiError{"NotFound"} }, "topic/arn:aws:sns:eu-central-1:111122223333:alerts", finding.Critical, "does not exist"},

		{"dead letters", func(f *Facts) { f.Queues[0].DeadLetters.Messages.Value = 3 }, "dead-letters/events-dlq", finding.High, "about 3 messages of queue events"},
		{"queue gone", func(f *Facts) { f.Queues[0].Read.Err = apiError{"AWS.SimpleQueueService.NonExistentQueue"} }, "dead-letters/no-queue/events", finding.Critical, ""},
		{"the rule's dead letters", func(f *Facts) {
			f.DeadLetters = []DeadLetters{{Name: "bus-dlq", For: "rule cmkeeper-kms", Messages: Known[int]{Value: 1}}}
		}, "dead-letters/bus-dlq", finding.High, ""},

		{"own key", func(f *Facts) { f.Own.Value = []finding.Finding{{ID: finding.SelfDependency}} }, "own-keys/customer-managed", finding.High, ""},
		{"quiet schedule", func(f *Facts) { f.Ticks.Value.Last = f.At.Add(-2*time.Hour - time.Minute) }, "schedule/quiet", finding.High, "For 2h1m0s no scheduled event"},
		{"a new worker does not know", func(f *Facts) { f.Ticks.Value.Last, f.Ticks.Value.Since = time.Time{}, f.At.Add(-time.Hour) }, "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := sound()
			tt.change(&f)
			var problems []Problem
			for _, r := range Judge(f) {
				if r.Unread != nil {
					t.Errorf("%s was not looked at: %v", r.Check.Name, r.Unread)
				}
				for _, p := range r.Problems {
					if !strings.HasPrefix(p.Name, r.Check.Name+"/") {
						t.Errorf("check %s has a problem %s", r.Check.Name, p.Name)
					}
				}
				problems = append(problems, r.Problems...)
			}
			if tt.want == "" && len(problems) == 0 {
				return
			}
			if len(problems) != 1 || problems[0].Name != tt.want || problems[0].Severity != tt.severity {
				t.Fatalf("%+v, want %q %s", problems, tt.want, tt.severity)
			}
			p := problems[0]
			if text := strings.Join(slices.Concat([]string{p.Title, p.Summary}, p.Next, p.Details), "\n"); !strings.Contains(text, tt.says) {
				t.Errorf("%q is not in\n%s", tt.says, text)
			}
			if p.Title == "" || p.Summary == "" || p.Risk == "" || len(p.Next) == 0 {
				t.Errorf("a text is missing: %+v", p)
			}
		})
	}
}

// What cannot be read is no problem, and it is not fine.
func TestUnread(t *testing.T) {
	refused := apiError{"AccessDeniedException"}
	for check, change := range map[string]func(*Facts){
		"trail":        func(f *Facts) { f.Trails.Err = refused },
		"rules":        func(f *Facts) { f.Rules.Err = refused },
		"queue-policy": func(f *Facts) { f.Policy.Err = refused },
		"schedule":     func(f *Facts) { f.Ticks.Err = refused },
		"dead-letters": func(f *Facts) { f.Queues[0].DeadLetters.Messages.Err = refused },
		"own-keys":     func(f *Facts) { f.Own.Err = refused },
		"topic":        func(f *Facts) { f.Topics[0].Confirmed.Err = refused },
	} {
		f := sound()
		change(&f)
		var unread []string
		for _, r := range Judge(f) {
			if errors.Is(r.Unread, refused) {
				unread = append(unread, r.Check.Name)
			}
			if len(r.Problems) > 0 {
				t.Errorf("%s denied is a problem: %+v", check, r.Problems)
			}
		}
		if !slices.Contains(unread, check) || check != "rules" && len(unread) != 1 { // the policy is judged rule by rule
			t.Errorf("%s denied: %q were not looked at", check, unread)
		}
	}
	f := sound()
	f.Policy.Value = `{"Version":"2012-10-17","Statement":[` + strings.Replace(testAllow, "aws:SourceArn", "aws:SourceVpc", 1) + `]}`
	if problems, err := judgePolicy(f); err == nil || problems != nil {
		t.Errorf("a condition that is not known: %v %v", problems, err)
	}
}

func TestDenied(t *testing.T) {
	us := Principal{Account: "111122223333", Noun: "role", Name: "keeper"}
	allow := func(principal, action string) string {
		return `{"Effect":"Allow","Principal":{"AWS":"` + principal + `"},"Action":"` + action + `","Resource":"*"}`
	}
	const root, role = "arn:aws:iam::111122223333:root", "arn:aws:iam::111122223333:role/guards/keeper"
	for name, tt := range map[string]struct {
		statements string
		want       bool
	}{
		"by IAM policies":        {allow(root, "kms:*"), false},
		"itself":                 {allow(role, "kms:EnableKey*"), false},
		"everyone":               {allow("*", "*"), false},
		"another role":           {allow("arn:aws:iam::111122223333:role/keeper2", "kms:*"), true},
		"other actions":          {allow(root, "kms:Describe*"), true},
		"denied to the role":     {allow(root, "kms:*") + `,` + strings.Replace(allow(role, "kms:EnableKeyRotation"), "Allow", "Deny", 1), true},
		"denied to everyone":     {allow(root, "kms:*") + `,{"Effect":"Deny","Principal":"*","Action":"kms:EnableKeyRotation","Resource":"*"}`, true},
		"denied under condition": {allow(root, "kms:*") + `,{"Effect":"Deny","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"ArnNotLike":{"aws:PrincipalArn":"x"}}}`, false},
		"all but others":         {`{"Effect":"Allow","Principal":{"AWS":"` + root + `"},"NotAction":"kms:ScheduleKeyDeletion","Resource":"*"}`, false},
		"denied to all others":   {allow(root, "kms:*") + `,{"Effect":"Deny","NotPrincipal":{"AWS":"` + role + `"},"Action":"kms:*","Resource":"*"}`, false},
	} {
		p, err := keypolicy.Parse([]byte(`{"Version":"2012-10-17","Statement":[` + tt.statements + `]}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := len(Denied(p, us, []string{"kms:EnableKeyRotation"})) > 0; got != tt.want {
			t.Errorf("%s: denied %t, want %t", name, got, tt.want)
		}
	}
}
