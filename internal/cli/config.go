package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sethvargo/go-envconfig"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// envPrefix starts the name of every variable that is cmkeeper's own.
const envPrefix = "CMKEEPER_"

// Config is the configuration of a fleet member, read once from the environment. The
// commands that people run read the parts of it that they need. What AWS itself reads
// (AWS_REGION, AWS_ENDPOINT_URL, …) is left to the SDK.
//
// The tags are the documentation too: docs/configuration.md is generated from
// them and a test keeps it true.
type Config struct {
	Queues
	Alerts
	Common

	Pools string `env:"POOLS, default=both" about:"Which queues this process works on: events, jobs or both."`

	ReencryptConcurrency int    `env:"REENCRYPT_CONCURRENCY, default=64" about:"Objects that this process works on at once; 1 to 1024."`
	ReencryptRate        int    `env:"REENCRYPT_RATE, default=500" about:"Objects per second over the whole fleet; 0 is unlimited."`
	ReencryptMethod      string `env:"REENCRYPT_METHOD, default=auto" about:"{methods}."`

	ReencryptEnvelopes    string `env:"REENCRYPT_ENVELOPES, default=off" about:"{envelopes}: where jobs look for data keys of client-side encryption under the old key, and move them too. content reads the beginning of each object. See [re-encryption](reencryption.md#client-side-encryption)."`
	ReencryptRewriteFiles bool   `env:"REENCRYPT_REWRITE_FILES, default=false" about:"Whether an object whose body holds its data key, such as a SOPS file, is written anew for that, up to 16 MiB. Needs REENCRYPT_ENVELOPES=content."`

	AlertGroupWait     time.Duration `env:"ALERT_GROUP_WAIT, default=30s" about:"How long the first alert below high of an actor waits for others, to be sent with them in one digest."`
	AlertGroupInterval time.Duration `env:"ALERT_GROUP_INTERVAL, default=60s" about:"How long all further alerts of an actor are collected, to be sent in one digest; at most 10m. 0 sends each alert at once, and then there are no incidents."`

	ConfirmLookupsPerSecond float64 `env:"CONFIRM_LOOKUPS_PER_SECOND, default=1" about:"How many times a second the whole fleet asks CloudTrail whether an event is true: above 0, up to the 2 that CloudTrail allows for everybody in the account and Region. See [operations](operations.md#confirmed-events)."`

	SweepQuotaShare float64 `env:"SWEEP_QUOTA_SHARE, default=0.1" about:"The part of each of KMS's request quotas that the sweeps of the whole fleet use at most; above 0, up to 1. The account's applications share the quotas. A sweep of 100,000 keys takes 23 minutes with a tenth. See [performance](performance.md#sweeps)."`

	ReencryptEngine string `env:"REENCRYPT_ENGINE, default=fleet" about:"{executors}: who moves the objects, the workers or S3 Batch Operations; the workers prove it in any case. auto leaves to S3 what is larger than BATCH_THRESHOLD."`
	BatchRoleARN    string `env:"BATCH_ROLE_ARN" about:"IAM role that S3 Batch Operations take. Required by REENCRYPT_ENGINE=batch and auto."`
	BatchThreshold  int    `env:"BATCH_THRESHOLD, default=10000000" about:"Object versions of a bucket that REENCRYPT_ENGINE=auto leaves to the workers."`

	EventsConcurrency int           `env:"EVENTS_CONCURRENCY, default=40" about:"Events handled at once; 1 to 1000. One poll of the queue runs for each ten. See [performance](performance.md#events-and-messages)."`
	JobsConcurrency   int           `env:"JOBS_CONCURRENCY, default=2" about:"Slices of re-encryption worked on at once; 1 to 100."`
	DrainTimeout      time.Duration `env:"DRAIN_TIMEOUT, default=25s" about:"How long running work may go on after SIGTERM; at most 110s, below the container's stop timeout."`

	BlindAfter time.Duration `env:"BLIND_AFTER, default=3m" about:"A worker that has received nothing for this long although it tries, has no free slot, or receives only messages that have waited longer, is blind: it sends a critical alert, and /readyz fails. See [operations](operations.md#does-the-guard-see)."`

	ReportSchedule string `env:"REPORT_SCHEDULE, default=off" about:"off or weekly: write the report about the keys to the state bucket once a week, and send its summary and address. See [keys and report](keys-and-report.md#the-weekly-report)."`

	HTTPAddr string `env:"HTTP_ADDR, default=:8080" about:"Address of /healthz, /readyz and /metrics."`
}

// Queues are the fleet's queues.
type Queues struct {
	EventsQueueURL string `env:"EVENTS_QUEUE_URL" about:"SQS queue that EventBridge fills with KMS events. Needs a dead-letter queue."`
	JobsQueueURL   string `env:"JOBS_QUEUE_URL" about:"SQS queue of re-encryption work. Needs a dead-letter queue."`
}

// Alerts is where alerts go.
type Alerts struct {
	AlertTopicARN       string        `env:"ALERT_TOPIC_ARN" about:"SNS topic that alerts are published to."`
	AlertFormats        string        `env:"ALERT_FORMATS" about:"Formats of topics: TOPIC-ARN=format,… with one of the formats in alerts.md. Every topic named here gets every alert, as ALERT_TOPIC_ARN does."`
	AlertRepeatInterval time.Duration `env:"ALERT_REPEAT_INTERVAL, default=24h" about:"An alert about what sweeps still see (cmkeeper shut out of a key, cmkeeper depending on a key that it guards, a stopped job) is sent again after this; 0 is never."`
}

// Common is what workers and all commands that people run read: where the state is, how
// the reactions judge and react, and how to log.
type Common struct {
	StateBucket string `env:"STATE_BUCKET" about:"S3 bucket for alias history, jobs, reports and claims."`
	StatePrefix string `env:"STATE_PREFIX, default=cmkeeper/" about:"Prefix of everything that is kept in the state bucket."`

	RotationMode  string `env:"ROTATION_MODE, default=observe" about:"off, observe or enforce: switch rotation on again."`
	PolicyMode    string `env:"POLICY_MODE, default=observe" about:"off, observe or enforce: judge key policies, and put the good one back."`
	DeletionMode  string `env:"DELETION_MODE, default=observe" about:"off, observe or enforce: cancel deletions and enable disabled keys again."`
	ReencryptMode string `env:"REENCRYPT_MODE, default=observe" about:"off, observe or enforce: move S3 objects when an alias moves."`

	DeletionReminders     string `env:"DELETION_REMINDERS, default=7d,3d,1d,6h" about:"How long before a key's deletion, or the expiry of its imported material, the sweep reminds of it: 7d,36h,90m; off for never."`
	DeletionMinWindowDays int    `env:"DELETION_MIN_WINDOW_DAYS, default=7" about:"Waiting period of a deletion below which it is a finding; 7 to 30, where 7 is never."`
	DeletionApprovalDays  int    `env:"DELETION_APPROVAL_DAYS, default=14" about:"How old the day in a key's tag cmkeeper:deletion-approved may be when its deletion is scheduled; 0: no tag approves. See [deletions](deletions.md#approval)."`

	ContainMode         string   `env:"CONTAIN_MODE, default=off" about:"off, observe or enforce: disable a key at once that is opened to everyone or to an account that is not trusted. See [deletions](deletions.md#containment)."`
	ContainAllowedRoles []string `env:"CONTAIN_ALLOWED_ROLES" about:"Roles and users that may open keys: role/NAME, user/NAME or an ARN, comma-separated, * for any text."`
	ContainQuietDays    int      `env:"CONTAIN_QUIET_DAYS, default=7" about:"A key that was used within so many days is not disabled; 1 to 365."`
	ContainInUse        bool     `env:"CONTAIN_IN_USE, default=false" about:"Disable an opened key even if it is in use, or if its use is unknown."`

	RotationPeriodDays    int    `env:"ROTATION_PERIOD_DAYS, default=365" about:"Rotation period where a key had none, and the longest that is restored; 90 to 2560."`
	RotationRequired      bool   `env:"ROTATION_REQUIRED, default=false" about:"Switch rotation on for keys that were never seen rotating, too."`
	ManualRotationDays    int    `env:"MANUAL_ROTATION_DAYS, default=0" about:"How many days old the material may become of a key that KMS cannot rotate by itself (imported, asymmetric, HMAC, in a custom key store) before the sweep reminds of it; 0: any age."`
	PolicyRestoreSeverity string `env:"POLICY_RESTORE_SEVERITY, default=critical" about:"low, medium, high or critical: from which severity of a new finding POLICY_MODE=enforce puts the good policy back. A policy with such a finding is recorded as good only if somebody accepts it by hand."`

	TrustedAccounts []string `env:"TRUSTED_ACCOUNTS" about:"Account ids, comma-separated, that key policies may name."`
	TrustedOrgs     []string `env:"TRUSTED_ORGS" about:"Organization ids (o-…), comma-separated, whose accounts key policies may let in by a condition such as aws:PrincipalOrgID: as a rule your own."`

	SensitiveKeys []string `env:"SENSITIVE_KEYS" about:"Keys whose alerts are one severity up: tag data-classification=restricted, alias/prod-*. See [judgement](judgement.md)."`
	SandboxKeys   []string `env:"SANDBOX_KEYS" about:"Keys whose alerts are one severity down, unless they are sensitive, too: tag env=sandbox, alias/test-*."`
	PipelineRoles []string `env:"PIPELINE_ROLES" about:"Roles whose work is to change keys; their alerts are one severity down: role/deploy-*, or whole ARNs."`
	BusinessHours string   `env:"BUSINESS_HOURS" about:"Business hours: Mon-Fri 08:00-18:00 Europe/Berlin. Outside of them medium alerts are high."`

	FlapLimit  int    `env:"FLAP_LIMIT, default=5" about:"How often within an hour the same setting of a key is restored. Once that is used up, cmkeeper leaves the setting alone for an hour. 1 to 20."`
	Exemptions string `env:"EXEMPTIONS" about:"What is reported as info and not repaired, for a time and with a reason: rotation of alias/legacy-* until 2027-03-31: the vendor cannot rotate; anything of tag env=sandbox until 2026-12-31: nobody depends on it; deletion by role/break-glass until 2026-12-01: a drill. See [judgement](judgement.md#exemptions)."`

	CanaryKey     string        `env:"CANARY_KEY" about:"ARN of a key made for this, with the tag cmkeeper:canary: each sweep changes its description, whatever the modes are, and the event of that call has to come back. See [why](decisions/canary.md)."`
	SweepInterval time.Duration `env:"SWEEP_INTERVAL, default=1h" about:"How often the schedule asks for a sweep. When it has not for twice as long, the workers say so, and sweep by themselves. See [operations](operations.md#does-the-guard-see)."`

	EventRules   []string `env:"EVENT_RULES, default=cmkeeper-*" about:"Patterns of the names of the EventBridge rules that fill the events queue, comma-separated: changes to them make an alert."`
	WatchedTags  []string `env:"WATCHED_TAGS" about:"Names of key tags, comma-separated, whose change makes an alert, such as data-classification. Tags that begin with cmkeeper:, and those that EXEMPTIONS, SENSITIVE_KEYS and SANDBOX_KEYS name, always do."`
	ConfigChecks string   `env:"CONFIG_CHECKS, default=off" about:"off or daily: the sweep asks AWS Config once a day for storage that is not encrypted, or under a key that cannot be used or belongs to an account that is not trusted. Off by default, since it needs a recorder of AWS Config, and says so where there is none. See [operations](operations.md#how-storage-is-encrypted)."`
	MatchTags    []string `env:"MATCH_TAGS" about:"Names of tags, comma-separated, such as classification,owner. With CONFIG_CHECKS=daily an alert lists storage whose tag has another value than the same tag of its key."`
	AccessReview string   `env:"ACCESS_REVIEW, default=off" about:"off or daily: once a day a sweep reads the account's IAM and alerts on new roles that somebody outside may assume and that have a key, and new principals that can give themselves one. Needs ACCESS_ROLE_ARN. See [operations](operations.md#who-may-use-the-keys)."`
	AccessRole   string   `env:"ACCESS_ROLE_ARN" about:"IAM role of the same account that the workers assume for ACCESS_REVIEW=daily. It needs iam:GetAccountAuthorizationDetails, and nothing else."`
	FailedUse    bool     `env:"FAILED_USE, default=false" about:"Alert when somebody needs a key that is disabled or about to be deleted. Needs a rule in state ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS, see docs/events.md."`

	ReencryptAliases          []string `env:"REENCRYPT_ALIASES" about:"Patterns of the aliases whose moves may move data: alias/app-*,alias/x or *. Required by REENCRYPT_MODE=enforce."`
	ReencryptScope            string   `env:"REENCRYPT_SCOPE" about:"Further places to move: alias/x=bucket-a/prefix,bucket-b;alias/y=bucket-c."`
	ReencryptFixBucketDefault bool     `env:"REENCRYPT_FIX_BUCKET_DEFAULT, default=false" about:"Move a bucket's default encryption, where it names the old key, to the new key before its objects. If false, the job only warns."`

	LogLevel    string `env:"LOG_LEVEL, default=info" about:"debug, info, warn or error."`
	LogFormat   string `env:"LOG_FORMAT, default=json" about:"json or text."`
	S3PathStyle *bool  `env:"S3_PATH_STYLE, noinit" about:"true or false: path-style S3 addresses. Automatic on a custom endpoint."`
}

// maxDrain leaves Fargate's longest stop timeout (120 s) room to return messages.
const maxDrain = 110 * time.Second

// checks says for each variable what it may be. A value that fails is reported
// and replaced by the variable's default, so that one bad value does not hide
// the next one.
var checks = map[string]func(string) error{
	"EVENTS_QUEUE_URL":             absoluteURL,
	"JOBS_QUEUE_URL":               absoluteURL,
	"ALERT_TOPIC_ARN":              topicARN,
	"ALERT_FORMATS":                func(s string) error { _, err := parseTopics("", s); return err },
	"ALERT_GROUP_WAIT":             duration(time.Second, 10*time.Minute),
	"ALERT_GROUP_INTERVAL":         duration(0, 10*time.Minute),
	"ALERT_REPEAT_INTERVAL":        duration(0, 30*24*time.Hour),
	"STATE_BUCKET":                 bucketName,
	"STATE_PREFIX":                 statePrefix,
	"POOLS":                        oneOf("events", "jobs", "both"),
	"ROTATION_MODE":                oneOf("off", "observe", "enforce"),
	"POLICY_MODE":                  oneOf("off", "observe", "enforce"),
	"POLICY_RESTORE_SEVERITY":      oneOf("low", "medium", "high", "critical"),
	"DELETION_MODE":                oneOf("off", "observe", "enforce"),
	"REENCRYPT_MODE":               oneOf("off", "observe", "enforce"),
	"DELETION_REMINDERS":           func(s string) error { _, err := parseReminders(s); return err },
	"DELETION_MIN_WINDOW_DAYS":     between(7, 30),
	"DELETION_APPROVAL_DAYS":       between(0, 365),
	"CONTAIN_MODE":                 oneOf("off", "observe", "enforce"),
	"CONTAIN_ALLOWED_ROLES":        eachParsed(judgement.ParsePrincipals),
	"CONTAIN_QUIET_DAYS":           between(1, 365),
	"CONTAIN_IN_USE":               boolean,
	"ROTATION_PERIOD_DAYS":         between(90, 2560),
	"ROTATION_REQUIRED":            boolean,
	"MANUAL_ROTATION_DAYS":         between(0, 36_500),
	"TRUSTED_ORGS":                 each(matching(organizationForm, "organization ids (o-… with 10 to 32 letters and digits), comma-separated")),
	"TRUSTED_ACCOUNTS":             each(matching(`^\d{12}$`, "account ids of twelve digits, comma-separated")),
	"SENSITIVE_KEYS":               eachParsed(judgement.ParseSelector),
	"SANDBOX_KEYS":                 eachParsed(judgement.ParseSelector),
	"PIPELINE_ROLES":               eachParsed(judgement.ParsePrincipals),
	"BUSINESS_HOURS":               func(s string) error { _, err := judgement.ParseHours(s); return err },
	"FLAP_LIMIT":                   between(1, ledger.MaxFlapLimit),
	"EXEMPTIONS":                   func(s string) error { _, err := parseExemptions(s); return err },
	"CANARY_KEY":                   matching(`^arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[0-9a-z-]+$`, "a key's ARN, arn:aws:kms:REGION:ACCOUNT:key/ID"),
	"SWEEP_INTERVAL":               duration(time.Minute, 7*24*time.Hour),
	"EVENT_RULES":                  each(ruleName),
	"WATCHED_TAGS":                 each(tagName),
	"FAILED_USE":                   boolean,
	"CONFIG_CHECKS":                oneOf("off", "daily"),
	"MATCH_TAGS":                   each(tagName),
	"ACCESS_REVIEW":                oneOf("off", "daily"),
	"ACCESS_ROLE_ARN":              roleARN,
	"REENCRYPT_ALIASES":            aliasPatterns,
	"REENCRYPT_SCOPE":              func(s string) error { _, err := parseScope(s); return err },
	"CONFIRM_LOOKUPS_PER_SECOND":   lookupsPerSecond,
	"SWEEP_QUOTA_SHARE":            quotaShare,
	"REENCRYPT_CONCURRENCY":        between(1, 1024),
	"REENCRYPT_RATE":               between(0, 1_000_000),
	"REENCRYPT_METHOD":             oneOf(reencrypt.Methods()...),
	"REENCRYPT_ENVELOPES":          oneOf(reencrypt.AllEnvelopes()...),
	"REENCRYPT_REWRITE_FILES":      boolean,
	"REENCRYPT_FIX_BUCKET_DEFAULT": boolean,
	"REENCRYPT_ENGINE":             oneOf(reencrypt.Executors()...),
	"BATCH_ROLE_ARN":               roleARN,
	"BATCH_THRESHOLD":              between(0, 1_000_000_000_000),
	"EVENTS_CONCURRENCY":           between(1, 1000),
	"JOBS_CONCURRENCY":             between(1, 100),
	"DRAIN_TIMEOUT":                duration(0, maxDrain),
	"BLIND_AFTER":                  duration(time.Minute, 24*time.Hour),
	"REPORT_SCHEDULE":              oneOf("off", "weekly"),
	"HTTP_ADDR":                    listenAddress,
	"LOG_LEVEL":                    oneOf("debug", "info", "warn", "error"),
	"LOG_FORMAT":                   oneOf("json", "text"),
	"S3_PATH_STYLE":                boolean,
}

// LoadConfig reads the configuration of a fleet member from an environment. Its error
// joins every problem found, each with the variable, its value and what is allowed. A
// CMKEEPER_ variable that does not exist is a problem too: a misspelt mode must
// not leave a key unguarded.
func LoadConfig(ctx context.Context, environment map[string]string) (Config, error) {
	var c Config
	err := loadInto(ctx, environment, &c)
	return c, errors.Join(err, c.missing())
}

// loadForDesk reads what a command that a person runs needs: T is Common, or has it and
// other parts of Config. needed are variables that must be set. Such a command logs
// warnings as text by default.
func loadForDesk[T any](ctx context.Context, environment map[string]string, needed ...string) (T, error) {
	settings := map[string]string{envPrefix + "LOG_LEVEL": "warn", envPrefix + "LOG_FORMAT": "text"}
	maps.Copy(settings, environment)
	var c T
	problems := []error{loadInto(ctx, settings, &c)}
	for _, name := range needed {
		problems = append(problems, need(settings[envPrefix+name], name, "give the fleet's"))
	}
	if err := errors.Join(problems...); err != nil {
		return c, usageError{err}
	}
	return c, nil
}

// loadInto reads the variables of target's fields.
func loadInto(ctx context.Context, environment map[string]string, target any) error {
	var problems []error
	defaults := map[string]string{}
	for _, v := range variables() {
		defaults[v.Name] = v.Default
	}
	for _, key := range slices.Sorted(maps.Keys(environment)) {
		if name, ours := strings.CutPrefix(key, envPrefix); ours && checks[name] == nil {
			problems = append(problems, fmt.Errorf("%s is not a variable of cmkeeper: see docs/configuration.md", key))
		}
	}
	check := envconfig.MutatorFunc(func(_ context.Context, _, key, _, value string) (string, bool, error) {
		name := strings.TrimPrefix(key, envPrefix)
		if value == "" {
			return defaults[name], false, nil // set but empty is as good as unset
		}
		if err := checks[name](value); err != nil {
			problems = append(problems, fmt.Errorf("%s=%q: %w", key, value, err))
			return defaults[name], false, nil
		}
		return value, false, nil
	})
	err := envconfig.ProcessWith(ctx, &envconfig.Config{
		Target:   target,
		Lookuper: envconfig.PrefixLookuper(envPrefix, envconfig.MapLookuper(environment)),
		Mutators: []envconfig.Mutator{check},
	})
	return errors.Join(append(problems, err)...)
}

// need returns a problem where the value of a variable is empty.
func need(value, name, fix string) error {
	if value != "" {
		return nil
	}
	return fmt.Errorf("%s%s is not set: %s", envPrefix, name, fix)
}

// missing returns what the chosen pools and modes need and the configuration lacks.
func (c Config) missing() error {
	problems := []error{
		need(c.JobsQueueURL, "JOBS_QUEUE_URL", "give the URL of the queue for re-encryption work"),
		need(c.AlertTopicARN, "ALERT_TOPIC_ARN", "give the ARN of the SNS topic for alerts"),
		need(c.StateBucket, "STATE_BUCKET", "give the name of the bucket for cmkeeper's state"),
	}
	if c.runsEvents() {
		problems = append(problems, need(c.EventsQueueURL, "EVENTS_QUEUE_URL", "give the URL of the queue that EventBridge fills"))
	}
	if c.ReencryptMode == "enforce" && len(c.ReencryptAliases) == 0 {
		problems = append(problems, fmt.Errorf("%sREENCRYPT_ALIASES is not set, and %sREENCRYPT_MODE=enforce needs it: list the aliases whose moves may move data, such as alias/app-*, or * for all", envPrefix, envPrefix))
	}
	if reencrypt.Executor(c.ReencryptEngine).NeedsRole() {
		problems = append(problems, need(c.BatchRoleARN, "BATCH_ROLE_ARN", "REENCRYPT_ENGINE="+c.ReencryptEngine+" needs the role that S3 Batch Operations take, see docs/reencryption.md"))
	}
	if c.AccessReview == "daily" {
		problems = append(problems, need(c.AccessRole, "ACCESS_ROLE_ARN", "ACCESS_REVIEW=daily needs the role that reads IAM, see docs/operations.md"))
	}
	if why := reencrypt.Executor(c.ReencryptEngine).Refuses(reencrypt.Method(c.ReencryptMethod)); why != "" {
		problems = append(problems, fmt.Errorf("%sREENCRYPT_ENGINE=%s and %sREENCRYPT_METHOD=%s contradict each other: %s", envPrefix, c.ReencryptEngine, envPrefix, c.ReencryptMethod, why))
	}
	if c.ReencryptRewriteFiles && c.ReencryptEnvelopes != string(reencrypt.EnvelopesContent) {
		problems = append(problems, fmt.Errorf("%sREENCRYPT_REWRITE_FILES=true needs %sREENCRYPT_ENVELOPES=%s: else no file is looked into", envPrefix, envPrefix, reencrypt.EnvelopesContent))
	}
	return errors.Join(problems...)
}

// reactions is what the reactions work by. queues are the names of the fleet's queues.
func (c Common) reactions(identity reaction.Identity, region string, topics []alert.Topic, queues []string) (reaction.Config, error) {
	scope, err := parseScope(c.ReencryptScope)
	if err != nil {
		return reaction.Config{}, err
	}
	mayOpen, err := parseEach(c.ContainAllowedRoles, judgement.ParsePrincipals)
	if err != nil {
		return reaction.Config{}, err
	}
	reminders, err := parseReminders(c.DeletionReminders)
	if err != nil {
		return reaction.Config{}, err
	}
	exemptions, err := parseExemptions(c.Exemptions)
	if err != nil {
		return reaction.Config{}, err
	}
	rules, err := c.rules()
	if err != nil {
		return reaction.Config{}, err
	}
	arns := make([]string, 0, len(topics))
	for _, t := range topics {
		arns = append(arns, t.ARN)
	}
	return reaction.Config{
		Identity: identity, Region: region, Topics: arns, Queues: queues,
		Rotation: mode(c.RotationMode), Policy: mode(c.PolicyMode),
		Deletion: mode(c.DeletionMode), Reencrypt: mode(c.ReencryptMode),
		Posture: c.posture(identity.Account),
		Contain: mode(c.ContainMode), ContainAllowed: mayOpen, ContainQuietDays: c.ContainQuietDays, ContainInUse: c.ContainInUse,
		DeletionReminders: reminders, DeletionMinWindowDays: c.DeletionMinWindowDays, DeletionApprovalDays: c.DeletionApprovalDays,
		RestoreSeverity:  finding.Severity(c.PolicyRestoreSeverity),
		ReencryptAliases: c.ReencryptAliases, ReencryptScope: scope,
		Rules: rules, FlapLimit: c.FlapLimit, SweepInterval: c.SweepInterval, CanaryKey: c.CanaryKey, Exemptions: exemptions, WatchedTags: c.WatchedTags, EventRules: c.EventRules,
		FixBucketDefault: c.ReencryptFixBucketDefault, FailedUse: c.FailedUse, ConfigChecks: c.ConfigChecks == "daily", MatchTags: c.MatchTags,
		AccessReview: c.AccessReview == "daily", AccessRole: c.AccessRole, StateBucket: c.StateBucket,
	}, nil
}

// rules is what severities are judged by.
func (c Common) rules() (judgement.Rules, error) {
	var r judgement.Rules
	var errs [4]error
	r.Sensitive, errs[0] = parseEach(c.SensitiveKeys, judgement.ParseSelector)
	r.Sandbox, errs[1] = parseEach(c.SandboxKeys, judgement.ParseSelector)
	r.Pipelines, errs[2] = parseEach(c.PipelineRoles, judgement.ParsePrincipals)
	if c.BusinessHours != "" {
		r.Hours, errs[3] = judgement.ParseHours(c.BusinessHours)
	}
	return r, errors.Join(errs[:]...)
}

func (c Config) runsEvents() bool { return c.Pools != "jobs" }
func (c Config) runsJobs() bool   { return c.Pools != "events" }

// LogValue logs the configuration; it holds no secrets.
func (c Config) LogValue() slog.Value {
	var attrs []slog.Attr
	for _, v := range variables() {
		field := reflect.ValueOf(c).FieldByIndex(v.field)
		if !field.IsZero() {
			attrs = append(attrs, slog.Any(v.Name, reflect.Indirect(field).Interface()))
		}
	}
	return slog.GroupValue(attrs...)
}

// variable is one row of the configuration table.
type variable struct {
	Name, Default, About string
	field                []int
}

// variables returns the rows of the configuration table in the order of Config's fields.
var variables = sync.OnceValue(func() (list []variable) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		if f.Anonymous {
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("env"), ",")
		_, value, _ := strings.Cut(options, "default=")
		list = append(list, variable{Name: name, Default: value, About: f.Tag.Get("about"), field: f.Index})
	}
	return list
})

func oneOf[T ~string](allowed ...T) func(string) error {
	return func(s string) error {
		if !slices.Contains(allowed, T(s)) {
			return fmt.Errorf("must be %s", joined(", ", allowed))
		}
		return nil
	}
}

// joined joins names.
func joined[T ~string](separator string, names []T) string {
	var all []string
	for _, name := range names {
		all = append(all, string(name))
	}
	return strings.Join(all, separator)
}

func between(low, high int) func(string) error {
	return func(s string) error {
		if n, err := strconv.Atoi(s); err != nil || n < low || n > high {
			return fmt.Errorf("must be a whole number from %d to %d", low, high)
		}
		return nil
	}
}

// quotaShare checks a part of KMS's quotas. NaN is none.
func quotaShare(s string) error {
	if share, err := strconv.ParseFloat(s, 64); err != nil || !(share > 0 && share <= 1) {
		return errors.New("allowed is a number above 0, up to 1")
	}
	return nil
}

// lookupsPerSecond checks a share of CloudTrail's look-ups. NaN is neither.
func lookupsPerSecond(s string) error {
	if f, err := strconv.ParseFloat(s, 64); err != nil || !(f > 0 && f <= 2) {
		return errors.New("must be a number above 0, up to 2")
	}
	return nil
}

func boolean(s string) error {
	if _, err := strconv.ParseBool(s); err != nil {
		return errors.New("must be true or false")
	}
	return nil
}

func duration(low, high time.Duration) func(string) error {
	return func(s string) error {
		if d, err := time.ParseDuration(s); err != nil || d < low || d > high {
			return fmt.Errorf("must be a duration such as 25s, from %s to %s", low, high)
		}
		return nil
	}
}

func matching(pattern, what string) func(string) error {
	return func(s string) error {
		// Compiled only here: most variables are not set.
		if !regexp.MustCompile(pattern).MatchString(s) {
			return fmt.Errorf("must be %s", what)
		}
		return nil
	}
}

var roleARN = matching(`^arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+$`, "an IAM role's ARN, arn:aws:iam::ACCOUNT:role/NAME")

// each checks every item of a list.
func each(check func(string) error) func(string) error {
	return func(s string) error {
		for item := range strings.SplitSeq(s, ",") {
			if err := check(strings.TrimSpace(item)); err != nil {
				return err
			}
		}
		return nil
	}
}

// eachParsed checks every item of a list by parsing it.
func eachParsed[T any](parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		_, err := parseEach(strings.Split(s, ","), parse)
		return err
	}
}

func parseEach[T any](items []string, parse func(string) (T, error)) ([]T, error) {
	var all []T
	for _, item := range items {
		one, err := parse(item)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// What follows is checked by hand and not by a regular expression: every start would
// compile it.
const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	digits = "0123456789"
	word   = lower + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + digits + "_"
)

// only reports whether s is made of these characters, and not empty.
func only(s, characters string) bool { return s != "" && strings.Trim(s, characters) == "" }

func topicARN(s string) error {
	topic := arn.Parse(s)
	if !only(topic.Partition, lower+"-") || !strings.HasPrefix(topic.Partition, "aws") || topic.Service != "sns" ||
		!only(topic.Region, lower+digits+"-") || arn.Account(s) == "" || !only(strings.TrimSuffix(topic.Resource, ".fifo"), word+"-") {
		return errors.New("must be an SNS topic's ARN, arn:aws:sns:REGION:ACCOUNT:NAME")
	}
	return nil
}

func bucketName(s string) error {
	if len(s) < 3 || len(s) > 63 || !only(s, lower+digits+".-") || !only(s[:1]+s[len(s)-1:], lower+digits) {
		return errors.New("must be a bucket's name, without s3://")
	}
	return nil
}

func ruleName(s string) error {
	if len(s) > 64 || !only(s, word+".*-") {
		return errors.New("must be patterns of rule names, comma-separated, such as cmkeeper-*")
	}
	return nil
}

// tagName checks the name of a tag: up to 128 letters, digits, spaces and _.:/=+-@.
// A regular expression that counts to 128 over Unicode's classes takes 4 MB.
func tagName(s string) error {
	forbidden := func(r rune) bool {
		return !unicode.In(r, unicode.L, unicode.Z, unicode.N) && !strings.ContainsRune("_.:/=+-@", r)
	}
	if s == "" || utf8.RuneCountInString(s) > 128 || strings.ContainsFunc(s, forbidden) {
		return errors.New("must be names of tags, comma-separated")
	}
	return nil
}

func absoluteURL(s string) error {
	if u, err := url.Parse(s); err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return errors.New("must be a queue's URL, https://…")
	}
	return nil
}

func statePrefix(s string) error {
	if strings.HasPrefix(s, "/") || !strings.HasSuffix(s, "/") {
		return errors.New("must end with a slash and not begin with one, such as cmkeeper/")
	}
	return nil
}

func listenAddress(s string) error {
	if _, port, err := net.SplitHostPort(s); err != nil || port == "" {
		return errors.New("must be host:port or :port, such as :8080")
	}
	return nil
}

func aliasPatterns(s string) error {
	for p := range strings.SplitSeq(s, ",") {
		p = strings.TrimSpace(p)
		if _, err := path.Match(p, ""); err != nil || (p != "*" && !strings.HasPrefix(p, "alias/")) {
			return errors.New("must be patterns of alias names, comma-separated, such as alias/app-*,alias/x, or *")
		}
	}
	return nil
}

// parseExemptions reads EXEMPTIONS.
func parseExemptions(s string) (judgement.Exemptions, error) {
	return judgement.ParseExemptions(s, handlers.Exemptible())
}

// parseReminders reads DELETION_REMINDERS: durations, in which d is 24 hours.
func parseReminders(s string) ([]time.Duration, error) {
	if s == "off" {
		return nil, nil
	}
	var reminders []time.Duration
	for item := range strings.SplitSeq(s, ",") {
		item = strings.TrimSpace(item)
		d, err := time.ParseDuration(item)
		if days, ok := strings.CutSuffix(item, "d"); ok {
			var n int
			n, err = strconv.Atoi(days)
			d = time.Duration(min(n, 31)) * 24 * time.Hour
		}
		if err != nil || d < time.Minute || d > 30*24*time.Hour {
			return nil, fmt.Errorf("%q must be a time from 1m to 30d, such as 7d or 6h", item)
		}
		reminders = append(reminders, d)
	}
	return reminders, nil
}

// parseScope reads REENCRYPT_SCOPE: alias/x=bucket-a/prefix,bucket-b;alias/y=bucket-c.
func parseScope(s string) (map[string][]reencrypt.Scope, error) {
	scopes := map[string][]reencrypt.Scope{}
	for rule := range strings.SplitSeq(s, ";") {
		if rule = strings.TrimSpace(rule); rule == "" {
			continue
		}
		alias, places, ok := strings.Cut(rule, "=")
		if alias = strings.TrimSpace(alias); !ok || !strings.HasPrefix(alias, "alias/") {
			return nil, fmt.Errorf("%q must be ALIAS=BUCKET[/PREFIX][,BUCKET…], such as alias/x=bucket-a/prefix,bucket-b", rule)
		}
		for place := range strings.SplitSeq(places, ",") {
			bucket, prefix, _ := strings.Cut(strings.TrimSpace(place), "/")
			if bucket == "" {
				return nil, fmt.Errorf("%q names no bucket: write %s=BUCKET[/PREFIX]", rule, alias)
			}
			scopes[alias] = append(scopes[alias], reencrypt.Scope{Bucket: bucket, Prefix: prefix})
		}
	}
	return scopes, nil
}

// mode is a reaction's mode, which was checked when it was read.
func mode(text string) reaction.Mode {
	m, _ := reaction.ParseMode(text)
	return m
}
