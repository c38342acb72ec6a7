package cli

import (
	"bytes"
	"cmp"
	"log/slog"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// TestEveryVariableArrives: a variable with another valid value changes what one of its
// consumers gets, and each field of a consumer is changed by one, or is named in unset.
// So neither a variable nor a field can be forgotten where the parts are wired.
func TestEveryVariableArrives(t *testing.T) {
	before := consumers(t, "", "")
	arrived := map[string]bool{}
	for _, v := range variables() {
		var changed []string
		for field, value := range consumers(t, v.Name, otherValue(t, v)) {
			if !reflect.DeepEqual(value, before[field]) {
				changed = append(changed, field)
				arrived[field] = true
			}
		}
		if len(changed) == 0 {
			t.Errorf("%s%s reaches nobody", envPrefix, v.Name)
		}
		if slices.ContainsFunc(changed, func(field string) bool { return unset[field] != "" }) {
			t.Errorf("%s%s reaches %q, and unset says that no variable does", envPrefix, v.Name, changed)
		}
	}
	for field := range before {
		if !arrived[field] && unset[field] == "" {
			t.Errorf("no variable reaches %s: wire it, or say in unset where it comes from", field)
		}
	}
	for field := range unset {
		if _, ok := before[field]; !ok {
			t.Errorf("unset names %s, which is no field", field)
		}
	}
}

// unset are the consumers' fields that no variable sets, and where they come from.
var unset = map[string]string{
	"reaction.Config.Identity": "STS", "reaction.Config.Region": "the SDK", "reaction.Config.Queues": "the check at the start",
	"reaction.Config.Build": "the build", "reaction.Config.SweepShard": "its default",
	"alert.Publisher.SNS": "a client", "alert.Publisher.Store": "the state", "alert.Publisher.Logger": "slog", "alert.Publisher.Count": "the metrics",
	"alert.Grouping.SQS":   "a client",
	"reencrypt.Options.S3": "a client", "reencrypt.Options.Resolver": "the inventory", "reencrypt.Options.KMS": "a client", "reencrypt.Options.SQS": "a client",
	"reencrypt.Options.Batch": "a client", "reencrypt.Options.Account": "STS", "reencrypt.Options.By": "STS", "reencrypt.Options.Store": "the state", "reencrypt.Options.Observer": "the alerts",
	"reencrypt.Options.Ties": "package retire", "reencrypt.Options.Logger": "slog", "reencrypt.Options.Meter": "the metrics", "reencrypt.Options.Versions": "all versions, in jobs",
	"reencrypt.Options.SliceSize": "its default", "reencrypt.Options.MaxCopySize": "S3's limit", "reencrypt.Options.PartSize": "its default",
	"events pool.WaitTime": "its default", "events pool.Logger": "slog", "events pool.InFlight": "ECS", "events pool.Handled": "the metrics", "events pool.Queue": "the check at the start", "events pool.Sender": "STS",
	"jobs pool.WaitTime": "its default", "jobs pool.Logger": "slog", "jobs pool.InFlight": "ECS", "jobs pool.Handled": "the metrics", "jobs pool.Queue": "the check at the start", "jobs pool.Sender": "STS", "jobs pool.Late": "slices of a job wait as long as they have to",
}

// consumers returns what everything gets that is made from the configuration, by its
// name: a struct field by field. The variable has the value; the others have theirs of
// a fleet in which every part runs.
func consumers(t *testing.T, variable, value string) map[string]any {
	t.Helper()
	env := environment("REENCRYPT_ALIASES", "alias/app-*", "REENCRYPT_ENVELOPES", "content", "BATCH_ROLE_ARN", "arn:aws:iam::111122223333:role/batch", "ACCESS_ROLE_ARN", "arn:aws:iam::111122223333:role/access")
	if variable != "" {
		env[envPrefix+variable] = value
	}
	c, err := LoadConfig(t.Context(), env)
	if err != nil {
		t.Fatalf("%s%s=%q: %v", envPrefix, variable, value, err)
	}
	reactions, err := c.reactions(reaction.Identity{}, "", c.topics(), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]any{
		"queues that are worked on": [2]bool{c.runsEvents(), c.runsJobs()},
		"connections":               c.connections(),
		"weekly report":             c.reportsWeekly(),
		"address":                   healthServer(c.HTTPAddr, nil, nil).Addr,
		"state":                     c.store(nil, "", ""),
		"path style":                c.s3(aws.Config{}).Options().UsePathStyle,
		"logged":                    logged(t, c),
	}
	fields := func(name string, consumer any) {
		v := reflect.ValueOf(consumer)
		for _, f := range reflect.VisibleFields(v.Type()) {
			got[name+"."+f.Name] = v.FieldByIndex(f.Index).Interface()
		}
	}
	fields("reaction.Config", reactions)
	alerts := c.publisher(nil, nil, nil, nil)
	fields("alert.Publisher", *alerts)
	fields("alert.Grouping", *cmp.Or(alerts.Grouping, &alert.Grouping{}))
	fields("reencrypt.Options", c.engine(reencrypt.Options{}))
	fields("confirm.Config", c.confirmations())
	fields("events pool", c.eventsPool())
	fields("jobs pool", c.jobsPool())
	return got
}

// logged is what the logger makes of two records.
func logged(t *testing.T, c Config) string {
	var b bytes.Buffer
	h := c.logger(&b).Handler()
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelWarn} {
		if h.Enabled(t.Context(), level) {
			_ = h.Handle(t.Context(), slog.NewRecord(time.Time{}, level, "text", 0))
		}
	}
	return b.String()
}

// otherValue returns a value that is valid for a variable and none that it has in
// consumers. A variable of a new form needs a candidate.
func otherValue(t *testing.T, v variable) string {
	t.Helper()
	for _, value := range []string{
		"true", "enforce", "events", "low", "update", "weekly", "daily", "batch", "debug", "metadata", "text", // a choice
		"15", "100", "0.5", "1m30s", "2d", // a number or a time
		"123456789012", "o-a1b2c3d4e5", "alias/other-*", "role/other-*", "arn:aws:iam::111122223333:role/other", "arn:aws:kms:eu-west-1:111122223333:key/other", "https://sqs.eu-west-1.amazonaws.com/111122223333/other",
		"arn:aws:sns:eu-west-1:111122223333:other", "arn:aws:sns:eu-west-1:111122223333:other=chat", "other-state", "other/", ":9090", "alias/x=bucket/prefix",
		"Mon-Fri 08:00-18:00 Europe/Berlin", "rotation of alias/x until 2099-01-31: a test",
	} {
		if checks[v.Name](value) == nil && value != v.Default {
			return value
		}
	}
	t.Fatalf("%s%s: no candidate is a valid value: add one", envPrefix, v.Name)
	return ""
}
