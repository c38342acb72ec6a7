package deploy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/deploy"
	"github.com/cmkeeper/cmkeeper/guard"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws/pattern"
)

func template(t *testing.T) *deploy.Template {
	t.Helper()
	parsed, err := deploy.Parse(deploy.Source)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func stack(t *testing.T, parameters ...string) *deploy.Stack {
	t.Helper()
	s, err := template(t).Deploy(place(parameters...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStacks(t *testing.T) {
	for name, parameters := range map[string][]string{
		"defaults":     nil,
		"off":          {"RotationMode", "off", "PolicyMode", "off", "DeletionMode", "off", "ReencryptMode", "off"},
		"everything":   everything,
		"longest wait": {"DrainSeconds", "110"},
	} {
		for _, problem := range problems(stack(t, parameters...)) {
			t.Errorf("%s: %s", name, problem)
		}
	}
	if n, all := len(stack(t, everything...).Resources), len(template(t).Resources); n != all {
		t.Errorf("everything has %d of %d resources", n, all)
	}
}

// TestFaults seeds faults: each is a problem that the template does not have.
func TestFaults(t *testing.T) {
	for name, fault := range map[string]struct{ old, new, want string }{
		"target without dead-letter queue":  {"DeadLetterConfig: {Arn: !GetAtt RulesDeadLetters.Arn}, ", "", "its target has no dead-letter queue"},
		"customer managed key on the queue": {"      SqsManagedSseEnabled: true\n", "      KmsMasterKeyId: !Ref CanaryKey\n", "is encrypted under a key of KMS"},
		"topic without CloudWatch":          {"Principal: {Service: cloudwatch.amazonaws.com}", "Principal: {Service: budgets.amazonaws.com}", "does not admit CloudWatch"},
		"alarm to nobody":                   {"AlarmActions: [!Ref AlertTopic], ", "", "has no AlarmActions"},
		"rule without queue policy":         {"rule/${AWS::StackName}-*", "rule/other-*", "does not admit it"},
		"queue for any rule":                {"rule/${AWS::StackName}-*", "rule/*", "admits any rule"},
		"without TLS":                       {"aws:SecureTransport: 'false'", "aws:SecureTransport: 'true'", "without TLS"},
		"stopped too early":                 {"StopTimeout: 120", "StopTimeout: 29", "ECS stops it after 29s"},
		"misspelt variable":                 {"CMKEEPER_ROTATION_MODE", "CMKEEPER_ROTATE_MODE", "is not a variable of cmkeeper"},
		"missing variable":                  {"            - {Name: CMKEEPER_STATE_BUCKET, Value: !Ref StateBucket}\n", "", "STATE_BUCKET is not set"},
		"root":                              {"User: '65532:65532'", "User: '0'", "runs as user"},
		"lossy log":                         {", mode: non-blocking", "", "its log has no mode"},
	} {
		t.Run(name, func(t *testing.T) {
			if !bytes.Contains(deploy.Source, []byte(fault.old)) {
				t.Fatalf("the template has no %q any more", fault.old)
			}
			parsed, err := deploy.Parse(bytes.ReplaceAll(deploy.Source, []byte(fault.old), []byte(fault.new)))
			if err != nil {
				t.Fatal(err)
			}
			s, err := parsed.Deploy(place(everything...))
			if err != nil {
				t.Fatal(err)
			}
			if found := problems(s); !slices.ContainsFunc(found, func(p string) bool { return strings.Contains(p, fault.want) }) {
				t.Errorf("not found among %q", found)
			}
		})
	}
}

// fenced returns the JSON documents of a page after a text in it.
func fenced(t *testing.T, page, after string) (all []any) {
	t.Helper()
	text, err := os.ReadFile("../docs/" + page)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), after)
	if !ok {
		t.Fatalf("%s has no %q", page, after)
	}
	for _, found := range regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(rest, -1) {
		var document any
		if err := json.Unmarshal([]byte(found[1]), &document); err != nil {
			t.Fatal(err)
		}
		all = append(all, document)
	}
	return all
}

// TestPatterns: the patterns are those of the documentation.
func TestPatterns(t *testing.T) {
	s := stack(t, everything...)
	documented := fenced(t, "events.md", "## The rules")
	batch := fenced(t, "reencryption.md", "makes their events arrive")
	if len(documented) != 3 || len(batch) == 0 {
		t.Fatalf("%d and %d patterns are documented", len(documented), len(batch))
	}
	want := map[string]any{"KeyRule": documented[0], "GuardRule": documented[1], "FailedUseRule": documented[2], "BatchRule": batch[0]}
	for _, id := range s.OfType("AWS::Events::Rule") {
		p := s.Resources[id].Properties
		if p["ScheduleExpression"] != nil {
			continue
		}
		if diff := cmp.Diff(want[id], p["EventPattern"]); diff != "" {
			t.Errorf("%s (-documented +template):\n%s", id, diff)
		}
		delete(want, id)
	}
	if len(want) > 0 {
		t.Errorf("not in the template: %v", want)
	}
}

// rules are the stack's rules as cmkeeper's own check reads them.
func rules(s *deploy.Stack) (all []guard.Rule) {
	for _, id := range s.OfType("AWS::Events::Rule") {
		p := s.Resources[id].Properties
		r := guard.Rule{Name: p["Name"].(string), State: "ENABLED", Target: &guard.Target{}}
		if state, ok := p["State"].(string); ok {
			r.State = state
		}
		if schedule, ok := p["ScheduleExpression"].(string); ok {
			r.Schedule = schedule
		} else {
			text, _ := json.Marshal(p["EventPattern"])
			r.Pattern = string(text)
		}
		target := p["Targets"].([]any)[0].(map[string]any)
		if dead, ok := target["DeadLetterConfig"].(map[string]any); ok {
			r.Target.DeadLetters = dead["Arn"].(string)
		}
		all = append(all, r)
	}
	return all
}

// TestGuardSees: cmkeeper's own checks find nothing wrong with the rules and the queue's policy.
func TestGuardSees(t *testing.T) {
	s := stack(t, everything...)
	_, queue := s.Identity("EventsQueue")
	policy, err := json.Marshal(s.Resources["EventsQueuePolicy"].Properties["PolicyDocument"])
	if err != nil {
		t.Fatal(err)
	}
	facts := guard.Facts{
		Account: account, Region: region, QueueARN: queue, Streams: handlers.Streams(reaction.Config{FailedUse: true}), RuleNames: []string{"cmkeeper-*"},
		Rules: guard.Known[[]guard.Rule]{Value: rules(s)}, Policy: guard.Known[string]{Value: string(policy)},
	}
	checked := 0
	for _, result := range guard.Judge(facts) {
		if name := result.Check.Name; name == "rules" || name == "queue-policy" {
			checked++
			if len(result.Problems) > 0 || result.Unread != nil {
				t.Errorf("%s: %+v %v", name, result.Problems, result.Unread)
			}
		}
	}
	if checked != 2 {
		t.Errorf("%d checks were made", checked)
	}
}

// TestCorpusPasses: of the documented events, the rules pass those that docs/events.md has a
// row for, but for uses of keys that did not fail.
func TestCorpusPasses(t *testing.T) {
	dir := os.Getenv("CMKEEPER_EVENT_CORPUS")
	if dir == "" {
		t.Skip("CMKEEPER_EVENT_CORPUS names no directory of documented events")
	}
	var patterns []*pattern.Pattern
	for _, r := range rules(stack(t, everything...)) {
		if r.Pattern != "" {
			p, err := pattern.Parse(r.Pattern)
			if err != nil {
				t.Fatal(err)
			}
			patterns = append(patterns, p)
		}
	}
	page, err := os.ReadFile("../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	passed, kept := 0, 0
	files, _ := filepath.Glob(filepath.Join(dir, "*.json"))
	for _, file := range files {
		event, name := envelope(t, file)
		decoded, err := pattern.Decode(event)
		if err != nil {
			t.Fatal(err)
		}
		passes := slices.ContainsFunc(patterns, func(p *pattern.Pattern) bool { return p.Match(decoded) })
		if passes {
			passed++
		} else {
			kept++
		}
		if documented := regexp.MustCompile("(?m)^\\|[^|]*`" + regexp.QuoteMeta(name) + "`").Match(page); documented && !passes {
			t.Errorf("%s: no rule passes %s", filepath.Base(file), name)
		}
	}
	if len(files) == 0 || passed == 0 {
		t.Errorf("%d files in %s, %d passed", len(files), dir, passed)
	}
	t.Logf("%d of %d documented events pass", passed, passed+kept)
}

// envelope reads a file of the corpus: an event as EventBridge delivers it, and its name.
func envelope(t *testing.T, file string) (event []byte, name string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Wrapped bool
		Event   map[string]any
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	e := doc.Event
	if !doc.Wrapped {
		kind := "AWS API Call via CloudTrail"
		if e["eventType"] == "AwsServiceEvent" {
			kind = "AWS Service Event via CloudTrail"
		}
		source, _, _ := strings.Cut(fmt.Sprint(e["eventSource"]), ".")
		e = map[string]any{"source": "aws." + source, "detail-type": kind, "detail": e}
	}
	name = fmt.Sprint(e["detail-type"])
	if detail, ok := e["detail"].(map[string]any); ok && detail["eventName"] != nil {
		name = fmt.Sprint(detail["eventName"])
	}
	event, err = json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return event, name
}

// TestDeploymentDocument: what docs/deployment.md counts, and multiplies with prices, is what
// the template has.
func TestDeploymentDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/deployment.md")
	if err != nil {
		t.Fatal(err)
	}
	s := stack(t, everything...)
	interfaces := 0
	for _, id := range s.OfType("AWS::EC2::VPCEndpoint") {
		if s.Resources[id].Properties["VpcEndpointType"] == "Interface" {
			interfaces++
		}
	}
	alarms, rules := len(s.OfType("AWS::CloudWatch::Alarm")), len(s.OfType("AWS::Events::Rule"))
	for _, want := range []string{
		fmt.Sprintf("%d alarms, a dashboard", alarms), fmt.Sprintf("| %d × 0.10,", alarms), fmt.Sprintf("| %d × 0.30 |", len(s.OfType("AWS::Logs::MetricFilter"))),
		fmt.Sprintf("are %d × 2 × 730 h", interfaces), fmt.Sprintf("| %d × 730 h ×", 2*len(s.OfType("AWS::ECS::Service"))),
		map[int]string{5: "five EventBridge rules"}[rules],
	} {
		if want == "" || !strings.Contains(string(text), want) {
			t.Errorf("docs/deployment.md does not say %q (%d rules)", want, rules)
		}
	}
}

// native are the metrics of AWS that alarms, scaling and dashboard may use, and their dimensions.
var native = map[string]string{
	"AWS/SQS ApproximateNumberOfMessagesVisible": "QueueName", "AWS/SQS ApproximateAgeOfOldestMessage": "QueueName", "AWS/SQS NumberOfMessagesReceived": "QueueName",
	"AWS/SNS NumberOfMessagesPublished": "TopicName", "AWS/SNS NumberOfNotificationsFailed": "TopicName",
	"AWS/Events FailedInvocations": "RuleName", "AWS/ECS CPUUtilization": "ClusterName ServiceName", "AWS/ECS MemoryUtilization": "ClusterName ServiceName",
	"ECS/ContainerInsights RunningTaskCount": "ClusterName ServiceName",
}

// TestMetricsExist: what alarms, scaling and the dashboard look at is a metric of AWS with
// its dimensions, or one that a metric filter makes; and each of these is looked at.
func TestMetricsExist(t *testing.T) {
	s := stack(t, everything...)
	made, used := map[string]bool{}, map[string]bool{}
	for _, id := range s.OfType("AWS::Logs::MetricFilter") {
		for _, m := range s.Resources[id].Properties["MetricTransformations"].([]any) {
			m := m.(map[string]any)
			made[m["MetricNamespace"].(string)+" "+m["MetricName"].(string)] = true
		}
	}
	values := map[string]bool{"cmkeeper": true} // the cluster
	for id, r := range s.Resources {
		for _, name := range []string{"QueueName", "TopicName", "ServiceName", "Name"} {
			if v, ok := r.Properties[name].(string); ok && id != "" {
				values[v] = true
			}
		}
	}
	look := func(who, namespace, name string, dimensions, of []string) {
		metric := namespace + " " + name
		used[metric] = true
		slices.Sort(dimensions)
		if want, ok := native[metric]; !made[metric] && (!ok || want != strings.Join(dimensions, " ")) || made[metric] && len(dimensions) > 0 {
			t.Errorf("%s: there is no metric %s by %q", who, metric, dimensions)
		}
		for _, v := range of {
			if !values[v] {
				t.Errorf("%s: there is no %s", who, v)
			}
		}
	}
	inProperties := func(who string, m map[string]any) {
		var dimensions, of []string
		list, _ := m["Dimensions"].([]any)
		for _, d := range list {
			d := d.(map[string]any)
			dimensions, of = append(dimensions, d["Name"].(string)), append(of, d["Value"].(string))
		}
		look(who, m["Namespace"].(string), m["MetricName"].(string), dimensions, of)
	}
	for _, id := range s.OfType("AWS::CloudWatch::Alarm") {
		inProperties(id, s.Resources[id].Properties)
	}
	for metric := range made {
		if !used[metric] {
			t.Errorf("no alarm looks at %s", metric)
		}
	}
	for _, id := range s.OfType("AWS::ApplicationAutoScaling::ScalingPolicy") {
		tracking := s.Resources[id].Properties["TargetTrackingScalingPolicyConfiguration"].(map[string]any)
		for _, m := range tracking["CustomizedMetricSpecification"].(map[string]any)["Metrics"].([]any) {
			if stat, ok := m.(map[string]any)["MetricStat"].(map[string]any); ok {
				inProperties(id, stat["Metric"].(map[string]any))
			}
		}
	}
	var dashboard struct {
		Widgets []struct {
			Properties struct{ Metrics [][]string }
		}
	}
	if err := json.Unmarshal([]byte(s.Resources["Dashboard"].Properties["DashboardBody"].(string)), &dashboard); err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, w := range dashboard.Widgets {
		for _, m := range w.Properties.Metrics {
			shown++
			var dimensions, of []string
			for pair := range slices.Chunk(m[2:], 2) {
				dimensions, of = append(dimensions, pair[0]), append(of, pair[1])
			}
			look("dashboard", m[0], m[1], dimensions, of)
		}
	}
	if len(made) == 0 || shown == 0 {
		t.Errorf("%d metrics are made, %d are shown", len(made), shown)
	}
}

// TestFilterMessagesExist: each message that a metric filter looks for is one that the
// program has. TestMetricFilters of package cli has a worker log most of them.
func TestFilterMessagesExist(t *testing.T) {
	var source strings.Builder
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		source.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s := stack(t, everything...)
	for _, id := range s.OfType("AWS::Logs::MetricFilter") {
		pattern := s.Resources[id].Properties["FilterPattern"].(string)
		messages := regexp.MustCompile(`\$\.msg = ("[^"]*")`).FindAllStringSubmatch(pattern, -1)
		if len(messages) == 0 {
			t.Errorf("%s looks for no message", id)
		}
		for _, m := range messages {
			if !strings.Contains(source.String(), m[1]) {
				t.Errorf("%s: the program logs no %s", id, m[1])
			}
		}
	}
}

func TestFilterMatches(t *testing.T) {
	const line = `{"msg":"alert published","status":"failed"}`
	for pattern, want := range map[string]bool{
		`{ $.msg = "alert published" }`: true,
		`{ $.msg = "alert" }`:           false,
		`{ ($.msg = "x" || $.msg = "alert published") && $.status = "failed" }`: true,
		`{ ($.msg = "x" || $.msg = "alert published") && $.status = "done" }`:   false,
	} {
		if got, err := deploy.FilterMatches(pattern, line); err != nil || got != want {
			t.Errorf("%s: %v %v", pattern, got, err)
		}
	}
	for _, wrong := range []string{`"alert"`, `{ $.msg = 3 }`, `{ $.a = "x" && $.b = "y" || $.c = "z" }`, `{ ($.a = "x" }`, `{ $.a = "x }`} {
		if _, err := deploy.FilterMatches(wrong, line); err == nil {
			t.Errorf("%s is understood", wrong)
		}
	}
}
