package cli

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

func environment(pairs ...string) map[string]string {
	m := map[string]string{
		"CMKEEPER_EVENTS_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/111122223333/events",
		"CMKEEPER_JOBS_QUEUE_URL":   "https://sqs.eu-west-1.amazonaws.com/111122223333/jobs",
		"CMKEEPER_ALERT_TOPIC_ARN":  "arn:aws:sns:eu-west-1:111122223333:alerts",
		"CMKEEPER_STATE_BUCKET":     "cmkeeper-state",
		"PATH":                      "/bin",
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "<unset>" {
			delete(m, envPrefix+pairs[i])
			continue
		}
		m[envPrefix+pairs[i]] = pairs[i+1]
	}
	return m
}

func TestDefaultsAreSafe(t *testing.T) {
	c, err := LoadConfig(t.Context(), environment())
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]string{"rotation": c.RotationMode, "policy": c.PolicyMode, "deletion": c.DeletionMode, "reencrypt": c.ReencryptMode} {
		if mode != "observe" {
			t.Errorf("%s mode is %q by default", name, mode)
		}
	}
	if c.ContainMode != "off" || c.ContainInUse {
		t.Errorf("containment is %q by default", c.ContainMode)
	}
	if c.RotationRequired || c.RotationPeriodDays != 365 || c.ReencryptRate != 500 || c.ReencryptConcurrency != 64 ||
		c.DrainTimeout != 25*time.Second || c.StatePrefix != "cmkeeper/" || c.S3PathStyle != nil {
		t.Errorf("defaults: %+v", c)
	}
}

func TestEmptyIsUnset(t *testing.T) {
	c, err := LoadConfig(t.Context(), environment("ROTATION_MODE", "", "DRAIN_TIMEOUT", "", "S3_PATH_STYLE", ""))
	if err != nil {
		t.Fatal(err)
	}
	if c.RotationMode != "observe" || c.DrainTimeout != 25*time.Second || c.S3PathStyle != nil {
		t.Errorf("%+v", c)
	}
}

func TestEveryProblemIsNamed(t *testing.T) {
	tests := map[string]struct {
		env  []string
		want []string // in the error, all of them
	}{
		"missing":               {[]string{"EVENTS_QUEUE_URL", "<unset>", "STATE_BUCKET", "<unset>"}, []string{"CMKEEPER_EVENTS_QUEUE_URL is not set", "CMKEEPER_STATE_BUCKET is not set"}},
		"modes":                 {[]string{"ROTATION_MODE", "on", "POLICY_MODE", "restore"}, []string{`CMKEEPER_ROTATION_MODE="on": must be off, observe, enforce`, `CMKEEPER_POLICY_MODE="restore": must be off, observe, enforce`}},
		"numbers":               {[]string{"ROTATION_PERIOD_DAYS", "30", "REENCRYPT_CONCURRENCY", "many", "REENCRYPT_RATE", "-1"}, []string{"from 90 to 2560", `"many"`, "from 0 to"}},
		"look-ups":              {[]string{"CONFIRM_LOOKUPS_PER_SECOND", "2.1"}, []string{"above 0, up to 2"}},
		"no look-ups":           {[]string{"CONFIRM_LOOKUPS_PER_SECOND", "0"}, []string{"above 0, up to 2"}},
		"no number at all":      {[]string{"CONFIRM_LOOKUPS_PER_SECOND", "NaN"}, []string{"above 0, up to 2"}},
		"drain too long":        {[]string{"DRAIN_TIMEOUT", "5m"}, []string{"1m50s"}},
		"accounts":              {[]string{"TRUSTED_ACCOUNTS", "111122223333,abc"}, []string{"twelve digits"}},
		"organizations":         {[]string{"TRUSTED_ORGS", "o-a1b2c3d4e5,ours"}, []string{"organization ids"}},
		"batch needs a role":    {[]string{"REENCRYPT_ENGINE", "auto"}, []string{"CMKEEPER_BATCH_ROLE_ARN is not set"}},
		"files are looked into": {[]string{"REENCRYPT_REWRITE_FILES", "true"}, []string{"needs CMKEEPER_REENCRYPT_ENVELOPES=content"}},
		"batch never copies":    {[]string{"REENCRYPT_ENGINE", "batch", "REENCRYPT_METHOD", "copy", "BATCH_ROLE_ARN", "arn:aws:iam::111122223333:role/b"}, []string{"contradict each other"}},
		"review has no role":    {[]string{"ACCESS_REVIEW", "daily"}, []string{"CMKEEPER_ACCESS_ROLE_ARN is not set: ACCESS_REVIEW=daily needs the role that reads IAM"}},
		"access review":         {[]string{"ACCESS_REVIEW", "weekly", "ACCESS_ROLE_ARN", "cmkeeper-access"}, []string{"must be off, daily", "must be an IAM role's ARN"}},
		"enforce needs list":    {[]string{"REENCRYPT_MODE", "enforce"}, []string{"CMKEEPER_REENCRYPT_ALIASES is not set"}},
		"alias patterns":        {[]string{"REENCRYPT_ALIASES", "app-*"}, []string{"alias/app-*"}},
		"scope":                 {[]string{"REENCRYPT_SCOPE", "alias/x"}, []string{"ALIAS=BUCKET"}},
		"reminders":             {[]string{"DELETION_REMINDERS", "7d,soon"}, []string{`"soon" must be a time from 1m to 30d`}},
		"waiting periods":       {[]string{"DELETION_MIN_WINDOW_DAYS", "3", "DELETION_APPROVAL_DAYS", "-1"}, []string{"from 7 to 30", "from 0 to 365"}},
		"containment":           {[]string{"CONTAIN_MODE", "on", "CONTAIN_ALLOWED_ROLES", "key-admins", "CONTAIN_QUIET_DAYS", "0"}, []string{"must be off, observe, enforce", `"key-admins" is no pattern of roles or users`, "from 1 to 365"}},
		"formats":               {[]string{"ALERT_FORMATS", "arn:aws:sns:eu-west-1:111122223333:alerts=slack"}, []string{"topic arn:aws:sns:eu-west-1:111122223333:alerts", "auto, text, json, chat"}},
		"formats of what":       {[]string{"ALERT_FORMATS", "alerts=chat"}, []string{`"alerts=chat" must be an SNS topic's ARN`}},
		"topics twice":          {[]string{"ALERT_FORMATS", "arn:aws:sns:eu-west-1:111122223333:a=chat,arn:aws:sns:eu-west-1:111122223333:a=text"}, []string{"named twice"}},
		"unknown":               {[]string{"ROTATON_MODE", "enforce"}, []string{"CMKEEPER_ROTATON_MODE is not a variable of cmkeeper"}},
		"keys":                  {[]string{"SENSITIVE_KEYS", "alias/a,env=prod", "SANDBOX_KEYS", "tag env"}, []string{`"env=prod" is neither aliases nor a tag`, `"tag env" is neither aliases nor a tag`}},
		"every key":             {[]string{"SENSITIVE_KEYS", "*", "CONTAIN_ALLOWED_ROLES", "*"}, []string{`"*" would be every key`, `alias/* for all that have an alias`, `"*" would be everybody`}},
		"roles":                 {[]string{"PIPELINE_ROLES", "role/a, deploy"}, []string{"CMKEEPER_PIPELINE_ROLES", "role/deploy-*"}},
		"hours":                 {[]string{"BUSINESS_HOURS", "9 to 5"}, []string{`CMKEEPER_BUSINESS_HOURS="9 to 5"`, "such as Mon-Fri"}},
		"flap limit":            {[]string{"FLAP_LIMIT", "0"}, []string{"from 1 to 20"}},
		"exemptions":            {[]string{"EXEMPTIONS", "rotation of alias/x; guard of alias/y until 2027-01-01: z"}, []string{`exemption "rotation of alias/x": must read`, `"guard" cannot be exempted: write rotation,`}},
		"bucket":                {[]string{"STATE_BUCKET", "s3://x"}, []string{"without s3://"}},
		"several at once":       {[]string{"LOG_LEVEL", "loud", "HTTP_ADDR", "8080", "STATE_PREFIX", "/x"}, []string{"LOG_LEVEL", "HTTP_ADDR", "STATE_PREFIX"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := LoadConfig(t.Context(), environment(tt.env...))
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error does not say %q:\n%v", want, err)
				}
			}
		})
	}
}

// TestDeskConfiguration: a command that a person runs asks for what it needs, takes
// nothing else amiss, and knows every variable of the fleet.
func TestDeskConfiguration(t *testing.T) {
	for name, tt := range map[string]struct {
		env    []string
		needed []string
		want   []string // in the error, all of them; none where it loads
	}{
		"nothing is needed":        {},
		"a variable of workers":    {env: []string{"EVENTS_CONCURRENCY", "many"}},
		"what is needed":           {needed: []string{"STATE_BUCKET", "JOBS_QUEUE_URL"}, want: []string{"CMKEEPER_STATE_BUCKET is not set: give the fleet's", "CMKEEPER_JOBS_QUEUE_URL is not set"}},
		"a variable of its own":    {env: []string{"FLAP_LIMIT", "0"}, want: []string{`CMKEEPER_FLAP_LIMIT="0": must be`}},
		"a variable of nobody":     {env: []string{"STATE_BUKET", "x"}, want: []string{"CMKEEPER_STATE_BUKET is not a variable of cmkeeper"}},
		"everything that is wrong": {env: []string{"STATE_BUCKET", "s3://x", "JOBS_QUEUE_URL", "jobs"}, want: []string{"without s3://", "a queue's URL"}},
	} {
		t.Run(name, func(t *testing.T) {
			env := map[string]string{}
			for i := 0; i < len(tt.env); i += 2 {
				env[envPrefix+tt.env[i]] = tt.env[i+1]
			}
			c, err := loadForDesk[replaySettings](t.Context(), env, tt.needed...)
			if len(tt.want) == 0 {
				if err != nil || c.LogLevel != "warn" || c.EventsQueueURL != "" || c.AlertTopicARN != "" {
					t.Errorf("%+v, %v", c, err)
				}
				return
			}
			if !errors.As(err, new(usageError)) {
				t.Fatalf("error %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error does not say %q:\n%v", want, err)
				}
			}
		})
	}
}

func TestPoolsNeedTheirQueues(t *testing.T) {
	if _, err := LoadConfig(t.Context(), environment("POOLS", "jobs", "EVENTS_QUEUE_URL", "<unset>")); err != nil {
		t.Errorf("a worker of jobs needs no events queue: %v", err)
	}
	if _, err := LoadConfig(t.Context(), environment("POOLS", "events", "JOBS_QUEUE_URL", "<unset>")); err == nil {
		t.Error("a worker of events sends to the jobs queue and needs it")
	}
}

func TestTopics(t *testing.T) {
	const first, chat = "arn:aws:sns:eu-west-1:111122223333:alerts", "arn:aws:sns:eu-west-1:111122223333:chat"
	for formats, want := range map[string][]alert.Topic{
		"":                                 {{ARN: first}},
		chat + "=chat":                     {{ARN: first}, {ARN: chat, Format: alert.FormatChat}},
		chat + "=chat, " + first + "=text": {{ARN: first, Format: alert.FormatText}, {ARN: chat, Format: alert.FormatChat}},
	} {
		c, err := LoadConfig(t.Context(), environment("ALERT_FORMATS", formats))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, c.topics()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", formats, diff)
		}
	}
}

func TestTagNames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ü", 128)
	for name, allowed := range map[string]bool{
		"data-classification": true, "a": true, "Kosten Stelle 7": true, "_.:/=+-@": true, "cmkeeper:x": true, "数据": true, long: true,
		"": false, long + "x": false, "a#b": false, "a\tb": false, "a\xffb": false, "it's": false,
	} {
		if err := tagName(name); (err == nil) != allowed {
			t.Errorf("the tag name %q: %v", name, err)
		}
	}
	if _, err := LoadConfig(t.Context(), environment("WATCHED_TAGS", "team, cost#centre")); err == nil || !strings.Contains(err.Error(), "must be names of tags") {
		t.Errorf("a list with a wrong name: %v", err)
	}
}

func TestParseReminders(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string][]time.Duration{
		"7d,3d,1d,6h": {7 * day, 3 * day, day, 6 * time.Hour},
		"30d , 90m":   {30 * day, 90 * time.Minute},
		"off":         nil,
	} {
		got, err := parseReminders(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
	for _, text := range []string{"31d", "0d", "-1d", "1.5d", "d", "30s", "7d,,1d", "never", "99999999999999999999d"} {
		if got, err := parseReminders(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestParseScope(t *testing.T) {
	got, err := parseScope(" alias/x=bucket-a/prefix/a, bucket-b ;alias/y=bucket-c;")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]reencrypt.Scope{
		"alias/x": {{Bucket: "bucket-a", Prefix: "prefix/a"}, {Bucket: "bucket-b"}},
		"alias/y": {{Bucket: "bucket-c"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestReactions(t *testing.T) {
	c, err := LoadConfig(t.Context(), environment(
		"SENSITIVE_KEYS", "tag class=restricted, alias/prod-*", "SANDBOX_KEYS", "alias/test-*", "PIPELINE_ROLES", "role/deploy-*",
		"BUSINESS_HOURS", "Mon-Fri 08:00-18:00 Europe/Berlin", "FLAP_LIMIT", "3", "EXEMPTIONS", "rotation of alias/x until 2027-01-31: y;",
		"ALERT_FORMATS", "arn:aws:sns:eu-west-1:111122223333:chat=chat",
	))
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.reactions(reaction.Identity{}, "eu-west-1", c.topics(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"arn:aws:sns:eu-west-1:111122223333:alerts", "arn:aws:sns:eu-west-1:111122223333:chat"}; !slices.Equal(got.Topics, want) {
		t.Errorf("topics %q are guarded, want %q", got.Topics, want)
	}
	r := got.Rules
	if fmt.Sprint(r.Sensitive, r.Sandbox, r.Pipelines, r.Hours, got.FlapLimit, got.Exemptions) !=
		"[tag class=restricted alias/prod-*] [alias/test-*] [role/deploy-*] Mon,Tue,Wed,Thu,Fri 08:00-18:00 Europe/Berlin 3 [rotation of alias/x until 2027-01-31: y]" {
		t.Errorf("%+v", got)
	}
}

func TestConfigLogs(t *testing.T) {
	c, err := LoadConfig(t.Context(), environment("REENCRYPT_ALIASES", "alias/a,alias/b"))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "config", c)
	for _, want := range []string{"config.STATE_BUCKET=cmkeeper-state", "config.ROTATION_MODE=observe", "alias/b"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("log does not have %s: %s", want, b.String())
		}
	}
}

// TestConfigurationDocument keeps docs/configuration.md true. With UPDATE_DOCS=1 it writes the page.
func TestConfigurationDocument(t *testing.T) {
	const path = "../../docs/configuration.md"
	want := configurationDocument()
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is not what Config says; UPDATE_DOCS=1 go test ./internal/cli writes it:\n%s", path, diff)
	}
	unknown := maps.Clone(checks)
	for _, v := range variables() {
		if delete(unknown, v.Name); checks[v.Name] == nil || v.About == "" {
			t.Errorf("%s has no check, or no text", v.Name)
		}
		_ = checks[v.Name]("x") // panics where a pattern does not compile
		if v.Default != "" {
			if err := checks[v.Name](v.Default); err != nil {
				t.Errorf("the default of %s does not pass its check: %v", v.Name, err)
			}
		}
	}
	for name := range unknown {
		t.Errorf("a check is of %s, which is no variable", name)
	}
}

// lists puts names that other packages define into the documentation of variables.
var lists = strings.NewReplacer("{methods}", joined(", ", reencrypt.Methods()), "{executors}", joined(", ", reencrypt.Executors()), "{envelopes}", joined(", ", reencrypt.AllEnvelopes()))

func configurationDocument() string {
	var b strings.Builder
	b.WriteString("# Configuration\n\n" +
		"<!-- Made from the tags of Config in internal/cli/config.go: UPDATE_DOCS=1 go test ./internal/cli -->\n\n" +
		"All variables begin with `CMKEEPER_`. A variable that is empty counts as not set; one that does not exist is an error. " +
		"Region, credentials and endpoints are the AWS SDK's own variables: `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_MAX_ATTEMPTS` and so on.\n\n" +
		"| variable | default | |\n|---|---|---|\n")
	for _, v := range variables() {
		value := ""
		if v.Default != "" {
			value = "`" + v.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", v.Name, value, lists.Replace(v.About))
	}
	return b.String()
}

// TestForms has values at the borders of what is checked by hand.
func TestForms(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 64)
	for variable, values := range map[string]map[string]bool{
		"STATE_BUCKET": {
			"abc": true, "a.b-c": true, "0bucket9": true, long[:63]: true,
			"ab": false, long: false, "-abc": false, "abc.": false, "Abc": false, "a_c": false, "a/c": false, "s3://abc": false, "büc": false,
		},
		"EVENT_RULES": {
			"cmkeeper-*": true, "a.B_9": true, "a, b": true, long: true,
			long + "x": false, "": false, "a,": false, "a b": false, "a/b": false, "é": false,
		},
		"ALERT_TOPIC_ARN": {
			"arn:aws:sns:eu-west-1:111122223333:alerts": true, "arn:aws-us-gov:sns:us-gov-west-1:111122223333:a_B-9": true, "arn:aws:sns:eu-west-1:111122223333:alerts.fifo": true,
			"alerts": false, "arn:aws:sqs:eu-west-1:111122223333:alerts": false, "arn:other:sns:eu-west-1:111122223333:alerts": false, "arn:aws:sns::111122223333:alerts": false,
			"arn:aws:sns:eu west:111122223333:alerts": false, "arn:aws:sns:eu-west-1:11112222333:alerts": false, "arn:aws:sns:eu-west-1:111122223333:": false, "arn:aws:sns:eu-west-1:111122223333:.fifo": false,
			"arn:aws:sns:eu-west-1:111122223333:alerts:1": false, "arn:aws:sns:eu-west-1:111122223333:alerts\n": false, "arn:aws:sns:eu-west-1:111122223333:a.b": false, "arn:aws9:sns:eu-west-1:111122223333:a": false,
		},
	} {
		for value, valid := range values {
			if err := checks[variable](value); (err == nil) != valid {
				t.Errorf("%s=%q: %v, want valid %t", variable, value, err, valid)
			}
		}
	}
}
