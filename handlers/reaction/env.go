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
//   - Only then anything is published. What the alerts settle is stored last, so that
//     a crash in between repeats an alert, and never loses one.
//
// [Env.React] is this way. A reaction is a function that returns a [Decision].
package reaction

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"golang.org/x/time/rate"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/inventory"
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
)

// KMS is every mutating call that cmkeeper makes on keys; *kms.Client has it.
type KMS interface {
	EnableKeyRotation(context.Context, *kms.EnableKeyRotationInput, ...func(*kms.Options)) (*kms.EnableKeyRotationOutput, error)
	CancelKeyDeletion(context.Context, *kms.CancelKeyDeletionInput, ...func(*kms.Options)) (*kms.CancelKeyDeletionOutput, error)
	EnableKey(context.Context, *kms.EnableKeyInput, ...func(*kms.Options)) (*kms.EnableKeyOutput, error)
	PutKeyPolicy(context.Context, *kms.PutKeyPolicyInput, ...func(*kms.Options)) (*kms.PutKeyPolicyOutput, error)
	DisableKey(context.Context, *kms.DisableKeyInput, ...func(*kms.Options)) (*kms.DisableKeyOutput, error)
}

// Trail is asked who called for a key; *cloudtrail.Client has it.
type Trail interface {
	LookupEvents(context.Context, *cloudtrail.LookupEventsInput, ...func(*cloudtrail.Options)) (*cloudtrail.LookupEventsOutput, error)
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
	// Scans and Trail tell alarms about a key what depends on it; where one is nil,
	// they say that it is unknown.
	Scans Scans
	Trail Trail
	// SelfCheck, if set, is asked on each sweep which parts of cmkeeper's own set-up
	// depend on a key that it guards; findings become one alert.
	SelfCheck func(context.Context) ([]finding.Finding, error)
	// Logger; nil discards.
	Logger *slog.Logger
}

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
	told            hourly
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
	return &Env{
		Config: c, Deps: d,
		writes: rate.NewLimiter(writesPerSecond, writesPerSecond), lookups: rate.NewLimiter(lookupsPerSecond, 1),
	}, nil
}

// hourly remembers what was told within an hour. It spares work, and decides
// nothing: what it forgot is told once all the same, by its id.
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
