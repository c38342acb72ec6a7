package reaction

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// Mode says how far a reaction goes. The zero value is Off.
type Mode string

// The modes.
const (
	// Off: the reaction does not exist.
	Off Mode = ""
	// Observe: read, decide and tell exactly what Enforce would do.
	Observe Mode = "observe"
	// Enforce: do it, check that it took effect, and tell.
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
	// RestoreSeverity is the least severity of a new finding that makes Policy restore
	// the good policy; policies with such a finding are never recorded as good by
	// themselves. "" means critical.
	RestoreSeverity finding.Severity
	// ReencryptAliases are patterns ("alias/app-*", "*") of the aliases whose
	// moves may move data. "*" in a pattern stands for any text, "/" included.
	ReencryptAliases []string
	// ReencryptScope adds data to the moves of an alias, by its name.
	ReencryptScope map[string][]reencrypt.Scope
	// FlapLimit is how often within an hour the same setting of a key is put back,
	// 1 to ledger.MaxFlapLimit; 0 means 5.
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
	add(outside(c.RotationPeriodDays, 90, 2560), "rotation period of %d days: allowed are 90 to 2560", c.RotationPeriodDays)
	add(outside(c.FlapLimit, 1, ledger.MaxFlapLimit), "flap limit of %d: allowed are 1 to %d", c.FlapLimit, ledger.MaxFlapLimit)
	add(outside(c.DeletionMinWindowDays, 7, 30), "shortest waiting period of %d days: allowed are 7 to 30", c.DeletionMinWindowDays)
	add(c.DeletionApprovalDays < 0, "approvals of %d days: allowed are 0 and more", c.DeletionApprovalDays)
	add(c.ContainQuietDays < 0, "containment after %d days without use: allowed are 0 and more", c.ContainQuietDays)
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
	if c.RotationPeriodDays == 0 {
		c.RotationPeriodDays = 365
	}
	if c.RestoreSeverity == "" {
		c.RestoreSeverity = finding.Critical
	}
	if c.FlapLimit == 0 {
		c.FlapLimit = 5
	}
	return c, nil
}
