// Package handlers reacts to KMS events: it turns rotation on again, judges key
// policies, alarms on deletions and undoes them, notices aliases that moved,
// and sweeps over all keys for what no event told.
//
// [Router.Handle] takes a message, and every reaction follows the same rules:
//
//   - An event is a hint. The reaction reads the key before it decides, so that
//     duplicates, disorder, delay and forgery do no harm.
//   - A decision is a pure function with a named reason; acting on it is
//     something else. In mode observe the same decision is told, not done.
//   - What is about to be done is stored before it is done, in the key's or the
//     alias's document, so that a crash in between is finished, not forgotten.
//   - A reaction is over when its alert is published. The error that it returns
//     says what becomes of the message, per package outcome.
package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/state"
)

// Mode says how far a reaction goes. The zero value is Observe.
type Mode string

// The modes.
const (
	// Off: the reaction does not exist.
	Off Mode = "off"
	// Observe: read, decide and tell exactly what Enforce would do.
	Observe Mode = "observe"
	// Enforce: do it, check that it took effect, and tell.
	Enforce Mode = "enforce"
)

// UnmarshalText accepts off, observe and enforce.
func (m *Mode) UnmarshalText(text []byte) error {
	switch got := Mode(text); got {
	case Off, Observe, Enforce:
		*m = got
		return nil
	}
	return fmt.Errorf("mode %q: allowed are off, observe and enforce", text)
}

// MaxFlapLimit bounds Config.FlapLimit.
const MaxFlapLimit = 20

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
	p := strings.SplitN(callerARN, ":", 6)
	if len(p) == 6 && p[0] == "arn" && p[4] != "" {
		kind, rest, _ := strings.Cut(p[5], "/")
		switch kind {
		case "assumed-role":
			name, _, _ := strings.Cut(rest, "/")
			return Identity{Account: p[4], Name: name, Role: true}, nil
		case "user":
			return Identity{Account: p[4], Name: path.Base(rest)}, nil
		case "root":
			return Identity{Account: p[4], Name: "root"}, nil
		}
	}
	return Identity{}, fmt.Errorf("caller ARN %q is of no role session, user or root", callerARN)
}

// Config is what the operator decides.
type Config struct {
	Identity Identity
	// Region is the one whose keys are guarded.
	Region string
	// Rotation, Policy, Deletion and Reencrypt are the modes of the reactions.
	Rotation, Policy, Deletion, Reencrypt Mode
	// Contain is the mode of containment; its zero value is Off.
	Contain Mode
	// ContainAllowed may open keys to whomever they like.
	ContainAllowed []judgement.Principals
	// ContainQuietDays is how long ago a key's last use has to be for it to be
	// disabled; with ContainInUse that does not matter, nor who holds grants.
	ContainQuietDays int
	ContainInUse     bool
	// RotationPeriodDays is the longest period that is ever set, 90 to 2560; 0 means 365.
	RotationPeriodDays int
	// RotationRequired turns rotation on for keys that were never seen rotating, too.
	RotationRequired bool
	// DeletionReminders are how long before a key's deletion, or the expiry of its
	// imported material, people are reminded of it.
	DeletionReminders []time.Duration
	// DeletionMinWindowDays is the shortest waiting period that is not a finding.
	DeletionMinWindowDays int
	// DeletionApprovalDays is how old the day in the tag cmkeeper:deletion-approved
	// may be when a deletion is scheduled; 0: no tag approves.
	DeletionApprovalDays int
	// TrustedAccounts may appear in key policies.
	TrustedAccounts []string
	// RestoreSeverity is the least severity of a new finding that makes Policy put
	// the good policy back; policies with such a finding are never recorded as good
	// by themselves. "" means critical.
	RestoreSeverity alert.Severity
	// ReencryptAliases are patterns ("alias/app-*", "*") of the aliases whose
	// moves may move data. "*" in a pattern stands for any text, "/" included.
	ReencryptAliases []string
	// ReencryptScope adds data to the moves of an alias, by its name.
	ReencryptScope map[string][]reencrypt.Scope
	// FlapLimit is how often within an hour the same setting of a key is put back,
	// 1 to MaxFlapLimit; 0 means 5.
	FlapLimit int
	// Rules say how grave things are in their context.
	Rules judgement.Rules
	// Exemptions are left as they are, and told as notes.
	Exemptions judgement.Exemptions
	// EventRules are patterns of the names of the EventBridge rules that feed the
	// events queue, Queues the names of all queues and dead-letter queues, and Topics the
	// ARNs of the topics that alerts go to: changes to them are told.
	EventRules, Queues, Topics []string
	// FixBucketDefault: re-encryption changes the default encryption of buckets.
	FixBucketDefault bool
	// WatchedTags are names of tags whose change is told, beside those that
	// cmkeeper itself goes by.
	WatchedTags []string
	// FailedUse tells when somebody needs a key that cannot be used.
	FailedUse bool
	// StateBucket is never in scope.
	StateBucket string
}

// problems returns everything that is wrong with c.
func (c Config) problems() []error {
	var errs []error
	if c.Identity.Account == "" || c.Identity.Name == "" {
		errs = append(errs, errors.New("identity: account and name are required"))
	}
	if c.Region == "" {
		errs = append(errs, errors.New("region is required"))
	}
	switch c.RestoreSeverity {
	case "", alert.Low, alert.Medium, alert.High, alert.Critical:
	default:
		errs = append(errs, fmt.Errorf("restore severity %q: allowed are low, medium, high and critical", c.RestoreSeverity))
	}
	if d := c.RotationPeriodDays; d != 0 && (d < 90 || d > 2560) {
		errs = append(errs, fmt.Errorf("rotation period of %d days: allowed are 90 to 2560", d))
	}
	if n := c.FlapLimit; n < 0 || n > MaxFlapLimit {
		errs = append(errs, fmt.Errorf("flap limit of %d: allowed are 1 to %d", n, MaxFlapLimit))
	}
	if d := c.DeletionMinWindowDays; d != 0 && (d < 7 || d > 30) {
		errs = append(errs, fmt.Errorf("shortest waiting period of %d days: allowed are 7 to 30", d))
	}
	if c.DeletionApprovalDays < 0 {
		errs = append(errs, fmt.Errorf("approvals of %d days: allowed are 0 and more", c.DeletionApprovalDays))
	}
	if c.ContainQuietDays < 0 {
		errs = append(errs, fmt.Errorf("containment after %d days without use: allowed are 0 and more", c.ContainQuietDays))
	}
	for _, d := range c.DeletionReminders {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("reminder %s before a deletion: allowed is more than nothing", d))
		}
	}
	if c.Reencrypt == Enforce && len(c.ReencryptAliases) == 0 {
		errs = append(errs, errors.New("reencrypt mode enforce: name the aliases whose moves may move data"))
	}
	return errs
}

// Deps are what the reactions work with.
type Deps struct {
	KMS    KMS
	Facts  *inventory.Reader
	State  *state.Store
	Alerts alert.Sink
	// Digests tells what Alerts collects; it may be nil where that collects nothing.
	Digests Digests
	// Moves starts re-encryptions; it may be nil unless Config.Reencrypt is Enforce.
	Moves Mover
	// Scans and Trail tell alarms about a key what hangs on it; where one is nil,
	// they say that it is unknown.
	Scans Scans
	Trail Trail
	// SelfCheck, if set, is asked on each sweep what of cmkeeper's own set-up
	// hangs on a key that it guards; findings become one alert.
	SelfCheck func(context.Context) ([]alert.Finding, error)
	// Logger; nil discards.
	Logger *slog.Logger
}

// writesPerSecond is how fast a process changes keys. KMS allows 5 a second for
// CancelKeyDeletion and EnableKey and 15 for EnableKeyRotation, per account and
// Region and shared with its applications.
const writesPerSecond = 3

// New returns a router. It reports all problems of the configuration at once.
func New(d Deps, c Config) (*Router, error) {
	errs := c.problems()
	if c.Reencrypt == Enforce && d.Moves == nil {
		errs = append(errs, errors.New("reencrypt mode enforce: nothing to start re-encryptions with"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("configure handlers: %w", err)
	}
	for _, m := range []*Mode{&c.Rotation, &c.Policy, &c.Deletion, &c.Reencrypt} {
		if *m == "" {
			*m = Observe
		}
	}
	if c.RotationPeriodDays == 0 {
		c.RotationPeriodDays = 365
	}
	if c.RestoreSeverity == "" {
		c.RestoreSeverity = alert.Critical
	}
	if c.FlapLimit == 0 {
		c.FlapLimit = 5
	}
	if c.Contain == "" {
		c.Contain = Off
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	return &Router{
		config: c, kms: d.KMS, facts: d.Facts, state: d.State, alerts: d.Alerts, moves: d.Moves,
		scans: d.Scans, trail: d.Trail, selfCheck: d.SelfCheck, digests: d.Digests, log: d.Logger,
		writes: rate.NewLimiter(writesPerSecond, writesPerSecond), lookups: rate.NewLimiter(lookupsPerSecond, 1), table: table(),
	}, nil
}
