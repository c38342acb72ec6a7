// Package reaction is the way that every reaction goes, from an occurrence to the
// alert about it:
//
//   - A [Case] is one occurrence and what is known about it. Facts are read when
//     somebody asks for them, and once. An event and a sweep make the same cases.
//   - All reactions decide on the same case. They change nothing but the case's
//     working copy of the stored documents, which is then stored in one conditional
//     write. Where another worker was faster, the documents are read again and all
//     reactions decide again on the same live facts.
//   - Then all act, closing and disabling first. What is about to be done is stored
//     before it is done, so that a crash in between is finished, not forgotten.
//   - What only the text of an alert needs is read after that, in bounded time.
//   - Alerts are published only then. That they are published is stored last, so that
//     a crash in between repeats an alert, and never loses one.
//
// [Env.React] is this way. A reaction is a function that returns a [Decision].
package reaction

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"golang.org/x/time/rate"

	"github.com/cmkeeper/cmkeeper/access"
	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/awsconfig"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/guard"
	"github.com/cmkeeper/cmkeeper/handlers/confirm"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/internal/crowd"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/posture"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/state"
)

// The mutating calls that cmkeeper makes on keys. All others made by its role are
// somebody else's.
const (
	EnableKeyRotation = "EnableKeyRotation"
	CancelKeyDeletion = "CancelKeyDeletion"
	EnableKey         = "EnableKey"
	PutKeyPolicy      = "PutKeyPolicy"
	DisableKey        = "DisableKey"
	// UpdateKeyDescription changes the description of the canary key.
	UpdateKeyDescription = "UpdateKeyDescription"
)

// KMS is every mutating call that cmkeeper makes on keys; *kms.Client has it.
type KMS interface {
	EnableKeyRotation(context.Context, *kms.EnableKeyRotationInput, ...func(*kms.Options)) (*kms.EnableKeyRotationOutput, error)
	CancelKeyDeletion(context.Context, *kms.CancelKeyDeletionInput, ...func(*kms.Options)) (*kms.CancelKeyDeletionOutput, error)
	EnableKey(context.Context, *kms.EnableKeyInput, ...func(*kms.Options)) (*kms.EnableKeyOutput, error)
	PutKeyPolicy(context.Context, *kms.PutKeyPolicyInput, ...func(*kms.Options)) (*kms.PutKeyPolicyOutput, error)
	DisableKey(context.Context, *kms.DisableKeyInput, ...func(*kms.Options)) (*kms.DisableKeyOutput, error)
	UpdateKeyDescription(context.Context, *kms.UpdateKeyDescriptionInput, ...func(*kms.Options)) (*kms.UpdateKeyDescriptionOutput, error)
}

// Trail is CloudTrail, which is asked who called for a key. Call calls an operation of
// its API: in is encoded as JSON, and the answer decoded into out.
type Trail interface {
	Call(ctx context.Context, operation string, in, out any) error
}

// EBS is what is asked of EC2; *awsclient.EC2 does.
type EBS interface {
	// EncryptedByDefault reports whether new volumes are encrypted where nobody asks for it.
	EncryptedByDefault(context.Context) (bool, error)
}

// Records asks CloudTrail for the records that messages claim to be; *confirm.Records
// does.
type Records interface {
	// Record returns the record, a JSON text, if CloudTrail was seen to have it. Else it
	// has CloudTrail asked, and returns at once.
	Record(confirm.Question) (record []byte, ok bool)
	// Busy reports whether questions wait for a look-up, to which others yield.
	Busy() bool
}

// Senders knows who may send messages to the events queue.
type Senders interface {
	// Vouches reports whether a message that was sent then by that sender (SQS's SenderId)
	// can be nothing but an event of EventBridge's. Of one message it says the same as
	// often as it is asked, as far as that can be.
	Vouches(ctx context.Context, sender string, sent time.Time) bool
	// Unknown reports whether a message that CloudTrail confirms would show whose
	// messages can be nothing else.
	Unknown() bool
	// Confirmed takes note that CloudTrail has the record that a message of that sender
	// claimed to be.
	Confirmed(ctx context.Context, sender string)
}

// Scans knows what re-encryptions have found in buckets; *reencrypt.Engine does.
type Scans interface {
	Jobs(ctx context.Context, ended bool) ([]reencrypt.Summary, error)
	Report(ctx context.Context, id string) (reencrypt.Summary, error)
}

// Mover re-encrypts what a moved alias leaves behind; *reencrypt.Engine does.
type Mover interface {
	// Start starts the jobs of a move and returns their ids. Starting a move
	// again is no second move.
	Start(ctx context.Context, m reencrypt.Move) (jobs []string, err error)
	// Resume sends unfinished work again and reports what stalled.
	Resume(ctx context.Context, now time.Time) error
	// BatchChanged looks soon at what S3 Batch Operations do for the jobs.
	BatchChanged(ctx context.Context) error
}

// Digests publishes alerts that were collected; *alert.Publisher does.
type Digests interface {
	// Flush publishes a slot that an alert.FlushSlot message reminds of.
	Flush(ctx context.Context, slot string) error
	// Resume publishes what was to be published before and was not.
	Resume(ctx context.Context) error
}

// Deps are what the reactions work with.
type Deps struct {
	KMS    KMS
	Facts  *inventory.Reader
	State  *state.Store
	Alerts alert.Sink
	// Digests publishes what Alerts collects; it may be nil where that collects nothing.
	Digests Digests
	// Moves starts re-encryptions; it may be nil unless Config.Reencrypt is Enforce.
	Moves Mover
	// Scans and Trail know what depends on a key, for the alerts about it; where one is
	// nil, the alerts say that it is unknown.
	Scans Scans
	Trail Trail
	// Resources is AWS Config, which knows what is encrypted with a key; nil: it is not
	// asked, and the alerts say so. It is also asked how storage is encrypted, if
	// Config.ConfigChecks.
	Resources awsconfig.API
	// IAM is the account's IAM, by a role that may read it; nil: it is not asked.
	IAM access.API
	// EBS knows whether new volumes are encrypted; nil: that is not looked at.
	EBS EBS
	// Records confirms what messages claim; nil: nothing is ever confirmed.
	Records Records
	// Senders says whose messages are CloudTrail's records; nil: nobody's are.
	Senders Senders
	// Send sends a message of the fleet's own to its events queue, to be received after a
	// while (15 minutes at most). nil: there is nobody to share a sweep with.
	Send func(ctx context.Context, body string, after time.Duration) error
	// Guard, if set, reads on each sweep what the guard needs to see and to tell. Its time
	// and the ticks are filled in.
	Guard func(context.Context) guard.Facts
	// Swept, if set, is called at the end of each sweep, and returns at once.
	Swept func()
	// Metrics counts what is done; nil: nothing is counted.
	Metrics Metrics
	// Logger; nil discards. A record about an occurrence gets its id from package eventlog.
	Logger *slog.Logger
}

// Metrics counts what is done about occurrences; *metrics.Metrics does.
type Metrics interface {
	// Reacted counts a reaction that has decided and acted. mode is "" where it has none;
	// result is quiet, waiting, error, or the status of its first alert's action.
	Reacted(reaction, mode, result string, sweep bool)
	// ReactionEnded observes how long after an event a reaction to it was complete. It is
	// not called for what only a message says the time of.
	ReactionEnded(reaction string, after time.Duration)
	// SweepEnded counts a sweep.
	SweepEnded(took time.Duration, keys, errors int, ok bool)
	// Canary counts a canary that was sent, is back, is late, is lost or was refused. One
	// that is back or late took that long.
	Canary(result string, took time.Duration)
}

// uncounted counts nothing.
type uncounted struct{}

func (uncounted) Reacted(string, string, string, bool)     {}
func (uncounted) ReactionEnded(string, time.Duration)      {}
func (uncounted) SweepEnded(time.Duration, int, int, bool) {}
func (uncounted) Canary(string, time.Duration)             {}

const (
	// writesPerSecond is how fast a process changes keys. KMS allows 5 a second for
	// CancelKeyDeletion and EnableKey and 15 for EnableKeyRotation, per account and
	// Region and shared with its applications.
	writesPerSecond = 3
	// CloudTrail takes two lookups a second, per account and Region and shared with
	// everybody, so an alarm makes one and does not wait for long.
	lookupsPerSecond = 1
)

// Env is what all cases of a worker have in common. It is safe for concurrent use.
type Env struct {
	Config Config
	Deps
	writes, lookups *rate.Limiter
	told, awaited   hourly
	senders         candidates
	crowds          *crowd.Crowds
}

// NewEnv checks the configuration and fills in its defaults. It reports all problems
// at once.
func NewEnv(d Deps, c Config) (*Env, error) {
	c, err := c.withDefaults(d)
	if err != nil {
		return nil, err
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.Metrics == nil {
		d.Metrics = uncounted{}
	}
	return &Env{
		Config: c, Deps: d,
		writes: rate.NewLimiter(writesPerSecond, writesPerSecond), lookups: rate.NewLimiter(lookupsPerSecond, 1),
		crowds: crowd.New(c.Concurrency),
	}, nil
}

// hourly remembers what was published within an hour. It saves work, and decides
// nothing: what it forgot is still published once, because of its id.
type hourly struct {
	mu   sync.Mutex
	hour string
	ids  map[string]struct{}
}

// maxHourly bounds the memory.
const maxHourly = 10_000

func (h *hourly) has(hour, id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, told := h.ids[id]
	return told && h.hour == hour
}

func (h *hourly) add(hour, id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hour != hour || h.ids == nil || len(h.ids) >= maxHourly {
		h.hour, h.ids = hour, map[string]struct{}{}
	}
	h.ids[id] = struct{}{}
}

// Mode says how far a reaction goes. The zero value is Off.
type Mode string

// The modes.
const (
	// Off: the reaction does not exist.
	Off Mode = ""
	// Observe: read, decide and alert exactly what Enforce would do.
	Observe Mode = "observe"
	// Enforce: do it, check that it took effect, and alert.
	Enforce Mode = "enforce"
)

// ParseMode reads off, observe and enforce.
func ParseMode(text string) (Mode, error) {
	switch text {
	case "off":
		return Off, nil
	case string(Observe), string(Enforce):
		return Mode(text), nil
	}
	return Off, fmt.Errorf("mode %q: allowed are off, observe and enforce", text)
}

// Identity is who cmkeeper itself is, as far as it shows in the events of its
// own calls.
type Identity struct {
	// Account is the 12-digit account whose keys are guarded.
	Account string
	// Name is the role's name without path, or the IAM user's.
	Name string
	// Role says that Name is a role.
	Role bool
}

// ParseIdentity takes the caller's ARN as STS GetCallerIdentity returns it: of a
// role session, an IAM user or the account's root.
func ParseIdentity(callerARN string) (Identity, error) {
	caller := arn.Parse(callerARN)
	kind, rest, _ := strings.Cut(caller.Resource, "/")
	switch account := caller.Account; {
	case account == "":
	case kind == "assumed-role":
		name, _, _ := strings.Cut(rest, "/")
		return Identity{Account: account, Name: name, Role: true}, nil
	case kind == "user":
		return Identity{Account: account, Name: caller.Name()}, nil
	case kind == "root":
		return Identity{Account: account, Name: "root"}, nil
	}
	return Identity{}, fmt.Errorf("caller ARN %q is of no role session, user or root", callerARN)
}

// Is reports whether the actor is the role or user that cmkeeper runs as.
func (i Identity) Is(a events.Actor) bool {
	if a.AccountID != i.Account {
		return false
	}
	if !i.Role {
		return a.RoleARN == "" && (a.Name == i.Name || a.Type == "Root" && i.Name == "root")
	}
	return a.RoleARN != "" && arn.Parse(a.RoleARN).Name() == i.Name
}

// String is "role NAME" or "user NAME".
func (i Identity) String() string { return i.Noun() + " " + i.Name }

// Noun is "role" or "user".
func (i Identity) Noun() string {
	if i.Role {
		return "role"
	}
	return "user"
}

// Config is what the operator decides. The modes' zero value is Off.
type Config struct {
	Identity Identity
	// Region is the one whose keys are guarded.
	Region string
	// Rotation, Policy, Deletion, Reencrypt and Contain are the modes of the reactions.
	Rotation, Policy, Deletion, Reencrypt, Contain Mode
	// ContainAllowed may open keys to everybody.
	ContainAllowed []judgement.Principals
	// ContainQuietDays is how long ago a key's last use has to be for it to be
	// disabled; with ContainInUse that does not matter, nor who holds grants.
	ContainQuietDays int
	ContainInUse     bool
	// Posture is what keys are judged by as they stand. Its RotationPeriodDays is also the
	// longest period that is ever set, 90 to 2560; 0 means 365. RotationRequired turns
	// rotation on for keys that were never seen rotating, too. Account is that of Identity.
	Posture posture.Rules
	// DeletionReminders are how long before a key's deletion, or the expiry of its
	// imported material, people are reminded of it.
	DeletionReminders []time.Duration
	// DeletionMinWindowDays is the shortest waiting period that is not a finding.
	DeletionMinWindowDays int
	// DeletionApprovalDays is how old the day in the tag cmkeeper:deletion-approved
	// may be when a deletion is scheduled; 0: no tag approves.
	DeletionApprovalDays int
	// RestoreSeverity is the least severity of a new finding that makes Policy restore
	// the good policy; policies with such a finding are never recorded as good by
	// themselves. "" means critical.
	RestoreSeverity finding.Severity
	// ReencryptAliases are patterns ("alias/app-*", "*") of the aliases whose
	// moves may move data. "*" in a pattern stands for any text, "/" included.
	ReencryptAliases []string
	// ReencryptScope adds data to the moves of an alias, by its name.
	ReencryptScope map[string][]reencrypt.Scope
	// FlapLimit is how often within an hour the same setting of a key is restored,
	// 1 to ledger.MaxFlapLimit; 0 means 5.
	FlapLimit int
	// Rules say how grave things are in their context.
	Rules judgement.Rules
	// Exemptions are left as they are, and alerted with severity info.
	Exemptions judgement.Exemptions
	// EventRules are patterns of the names of the EventBridge rules that feed the
	// events queue, Queues the names of all queues and dead-letter queues, and Topics the
	// ARNs of the topics that alerts go to: changes to them are alerted.
	EventRules, Queues, Topics []string
	// FixBucketDefault: re-encryption changes the default encryption of buckets.
	FixBucketDefault bool
	// EnvelopeFlags are of commands that re-encrypt by hand as the fleet does.
	EnvelopeFlags command.Format
	// WatchedTags are names of tags whose change is alerted, beside those that
	// cmkeeper itself evaluates.
	WatchedTags []string
	// ConfigChecks: AWS Config is asked once a day how storage is encrypted. MatchTags are
	// the tags that storage and its key should have in common.
	ConfigChecks bool
	MatchTags    []string
	// AccessReview: once a day IAM is asked who may use the keys, by the role AccessRole.
	AccessReview bool
	AccessRole   string
	// FailedUse alerts when somebody needs a key that cannot be used.
	FailedUse bool
	// StateBucket is never in scope.
	StateBucket string
	// SweepShare is the part of each of KMS's request quotas that the sweeps of the whole
	// fleet use, up to 1; 0 means a tenth. The account's applications have the rest.
	SweepShare float64
	// SweepShard is the least number of keys of a part of a sweep that another worker may
	// take; 0 means 1600.
	SweepShard int
	// Build tells this build from others, which may judge otherwise.
	Build string
	// CanaryKey is the ARN of a key made for that, whose description each sweep changes, to see
	// the event of that come back; "" for none.
	CanaryKey string
	// SweepInterval is how often the schedule asks for a sweep; 0 means an hour.
	SweepInterval time.Duration
	// Concurrency is how many events the worker handles at once. Those of one key or actor
	// are a part of them at most, and the others wait; 0: they may be all.
	Concurrency int
}

// problems returns everything that is wrong with c.
func (c Config) problems() []error {
	var errs []error
	add := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	add(c.Identity.Account == "" || c.Identity.Name == "", "identity: account and name are required")
	add(c.Region == "", "region is required")
	for _, m := range []Mode{c.Rotation, c.Policy, c.Deletion, c.Reencrypt, c.Contain} {
		add(m != Off && m != Observe && m != Enforce, "mode %q is none", m)
	}
	switch c.RestoreSeverity {
	case "", finding.Low, finding.Medium, finding.High, finding.Critical:
	default:
		errs = append(errs, fmt.Errorf("restore severity %q: allowed are low, medium, high and critical", c.RestoreSeverity))
	}
	outside := func(n, least, most int) bool { return n != 0 && (n < least || n > most) }
	add(outside(c.Posture.RotationPeriodDays, 90, 2560), "rotation period of %d days: allowed are 90 to 2560", c.Posture.RotationPeriodDays)
	add(c.Posture.ManualRotationDays < 0, "material of at most %d days: allowed are 0 and more", c.Posture.ManualRotationDays)
	add(len(c.MatchTags) > 0 && !c.ConfigChecks, "tags that storage and its key should have in common: AWS Config has to be asked (CMKEEPER_CONFIG_CHECKS=daily)")
	add(c.AccessReview && c.AccessRole == "", "access review: the ARN of the role that reads IAM is required (CMKEEPER_ACCESS_ROLE_ARN)")
	add(c.AccessRole != "" && arn.Account(c.AccessRole) != c.Identity.Account, "access role %s (CMKEEPER_ACCESS_ROLE_ARN): it has to be in account %s, whose keys are guarded: IAM tells of its own account alone", c.AccessRole, c.Identity.Account)
	add(outside(c.FlapLimit, 1, ledger.MaxFlapLimit), "flap limit of %d: allowed are 1 to %d", c.FlapLimit, ledger.MaxFlapLimit)
	add(outside(c.DeletionMinWindowDays, 7, 30), "shortest waiting period of %d days: allowed are 7 to 30", c.DeletionMinWindowDays)
	canary := arn.Parse(c.CanaryKey)
	add(c.CanaryKey != "" && (canary.Region != c.Region || canary.Account != c.Identity.Account), "canary key %s: it has to be in account %s and Region %s", c.CanaryKey, c.Identity.Account, c.Region)
	add(c.SweepInterval < 0, "sweeps every %s: it must be positive", c.SweepInterval)
	add(c.DeletionApprovalDays < 0, "approvals of %d days: allowed are 0 and more", c.DeletionApprovalDays)
	add(c.ContainQuietDays < 0, "containment after %d days without use: allowed are 0 and more", c.ContainQuietDays)
	add(c.SweepShare < 0 || c.SweepShare > 1, "sweeps with a share of %g of KMS's quotas: allowed are 0 to 1", c.SweepShare)
	for _, d := range c.DeletionReminders {
		add(d <= 0, "reminder %s before a deletion: it must be positive", d)
	}
	add(c.Reencrypt == Enforce && len(c.ReencryptAliases) == 0, "reencrypt mode enforce: name the aliases whose moves may move data")
	return errs
}

// Makes reports whether the active modes make a KMS call of this operation.
func (c Config) Makes(operation string) bool {
	switch operation {
	case EnableKeyRotation:
		return c.Rotation == Enforce
	case CancelKeyDeletion, EnableKey:
		return c.Deletion == Enforce
	case PutKeyPolicy:
		return c.Policy == Enforce
	case DisableKey:
		return c.Contain == Enforce
	case UpdateKeyDescription: // in mode observe as well
		return c.CanaryKey != ""
	}
	return false
}

// Lists reports whether the alias is one whose moves may move data.
func (c Config) Lists(alias string) bool {
	for _, pattern := range c.ReencryptAliases {
		if judgement.Matches(pattern, alias) {
			return true
		}
	}
	return false
}

// withDefaults checks the configuration and fills in what is zero.
func (c Config) withDefaults(d Deps) (Config, error) {
	errs := c.problems()
	if c.Reencrypt == Enforce && d.Moves == nil {
		errs = append(errs, errors.New("reencrypt mode enforce: nothing to start re-encryptions with"))
	}
	if err := errors.Join(errs...); err != nil {
		return c, fmt.Errorf("configure handlers: %w", err)
	}
	c.Posture.Account = c.Identity.Account
	if c.Posture.RotationPeriodDays == 0 {
		c.Posture.RotationPeriodDays = 365
	}
	if c.RestoreSeverity == "" {
		c.RestoreSeverity = finding.Critical
	}
	if c.FlapLimit == 0 {
		c.FlapLimit = 5
	}
	if c.SweepShare == 0 {
		c.SweepShare = 0.1
	}
	if c.SweepShard == 0 {
		c.SweepShard = ledger.ShardKeys
	}
	if c.SweepInterval == 0 {
		c.SweepInterval = time.Hour
	}
	return c, nil
}
