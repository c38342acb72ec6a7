// Package reencrypt moves the objects of S3 buckets from one KMS key to another
// and changes nothing else about them.
//
// A move (an alias that points to a new key) becomes one job for each bucket and
// prefix in its scope. A planner message cuts a job into slices, fixed ranges of
// keys; a slice message makes one worker list its range, ask each object version
// for its key (HEAD), decide (a pure function with a named reason) and act. When
// all slices are in, the same slices run again as a verifying pass, and only a
// pass that found nothing left to move completes the job.
//
// Messages carry ids only. The truth is in the state bucket, below jobs/:
//
//	jobs/open/<job>.json                       job that still has something to do
//	jobs/<job>/job.json                        what is moved, and how far it is
//	jobs/<job>/plans/<pass>.json               how far the planner is
//	jobs/<job>/slices/<n>.json                 one range of keys
//	jobs/<job>/named/<n>.json              object versions, in place of a range, of a retry
//	jobs/<job>/progress/<pass>/<n>.json    how far a slice is that takes long
//	jobs/<job>/results/<pass>/<group>/<n>.json what one slice came to, counted once
//	jobs/<job>/totals/<pass>/<group>.json      the sum of a thousand results
//	jobs/<job>/rows/<pass>/<n>-<write>.jsonl   what a slice did not move, and why
//	jobs/<job>/batch/                          the reports of its S3 Batch jobs
//	jobs/<job>/report.json, report.jsonl       the outcome
//
// SQS visibility is the only lease. Each document is written under a condition,
// so a message that comes twice, or late, or to two workers, does no harm.
package reencrypt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/cmkeeper/cmkeeper/state"
)

// Move is an alias that points to a new key: the reason for a re-encryption.
type Move struct {
	// AliasARN is the alias that moved.
	AliasARN string
	// From are the ARNs of the keys that it pointed to before.
	From []string
	// To is the ARN of the key that it points to now.
	To string
	// At is when it moved. Moves of an alias are ordered by it.
	At time.Time
	// Scope is where the data is: see ResolveScope.
	Scope []Scope
}

// Scope is a bucket, or the part of it below a prefix ("" is the whole bucket).
type Scope struct {
	Bucket string `json:"bucket"`
	Prefix string `json:"prefix"`
}

// Versions is which object versions are in scope.
type Versions string

// The choices of versions.
const (
	VersionsAll     Versions = "all"
	VersionsCurrent Versions = "current"
)

// State is how far a job is.
type State string

// The states. A job that is not running does no work, whatever messages arrive.
const (
	// StateRunning: slices are being planned or worked on.
	StateRunning State = "running"
	// StateComplete: a verifying pass found every version in scope on the to-key or
	// in the report with a reason.
	StateComplete State = "complete"
	// StateStopped: a person has to fix something (Summary.Cause).
	StateStopped State = "stopped"
	// StatePaused: a person paused it; nothing is lost.
	StatePaused State = "paused"
	// StateCancelled: a person ended it. What was moved stays moved.
	StateCancelled State = "cancelled"
	// StateSuperseded: the alias moved again; a newer job has taken over.
	StateSuperseded State = "superseded"
)

// Refusal is an object version that did not move, and why.
type Refusal struct {
	Key     string `json:"key"`
	Version string `json:"version,omitempty"`
	// Reason is a short name, documented in docs/reencryption.md.
	Reason Reason `json:"reason"`
	// Detail is text: what the service answered, what to do.
	Detail string `json:"detail,omitempty"`
}

// Summary is what a job has come to.
type Summary struct {
	// Job is the job's id; "" for Run.
	Job string `json:"job,omitempty"`
	// Alias is the ARN of the alias that moved; "" for Run.
	Alias  string   `json:"alias,omitempty"`
	Bucket string   `json:"bucket"`
	Prefix string   `json:"prefix"`
	From   []string `json:"from"`
	To     string   `json:"to"`
	// EnvelopesIn is where data keys of client-side encryption were looked for; "" is nowhere.
	// RewriteFiles: also where that took another body.
	EnvelopesIn  Envelopes `json:"envelopes_in,omitempty"`
	RewriteFiles bool      `json:"rewrite_files,omitempty"`
	State        State     `json:"state"`
	// Cause is why a job stopped or made no progress; "" otherwise.
	Cause string `json:"cause,omitempty"`
	// Passes is how many times the scope was gone through, the verifying pass included.
	Passes int `json:"passes"`
	// Counts are the object versions of the last pass, each in one of Moved,
	// Skipped, Refused and Failed. What an earlier pass moved is counted as Moved,
	// also where it was deleted or overwritten since.
	Counts
	// Sample are the first rows of what was refused or failed.
	Sample []Refusal `json:"sample,omitempty"`
	// Notes say what the method could not keep, and what besides objects still needs
	// the old keys.
	Notes []string `json:"notes,omitempty"`
	// By are the roles or users that worked on a job, role/NAME or user/NAME, as far as a
	// pass of it has ended; nil in the jobs of builds before.
	By []string `json:"by,omitempty"`
	// Batch are the jobs that S3 Batch Operations did for it.
	Batch []BatchJob `json:"batch,omitempty"`
	// Preflight is what was found before the first write.
	Preflight []Finding `json:"preflight,omitempty"`
	// Report is the address of all rows (JSON lines); "" where there are none.
	Report   string    `json:"report,omitempty"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
}

// Counts counts object versions.
type Counts struct {
	Scanned int64 `json:"scanned"`
	Moved   int64 `json:"moved"`
	Skipped int64 `json:"skipped"`
	Refused int64 `json:"refused"`
	Failed  int64 `json:"failed"`
	// Bytes is the size of what was moved.
	Bytes int64 `json:"bytes"`
	// ByReason counts what did not move by its reason.
	ByReason map[Reason]int64 `json:"by_reason,omitempty"`
	// Partly are those of Moved whose data keys could not be moved too: a later pass
	// counts them in Refused. ByReason has why.
	Partly int64 `json:"partly,omitempty"`
	// Rewrapped counts those of Moved whose data keys were moved, by what S3's own
	// encryption of them is afterwards: ReasonOnTarget, ReasonOtherKey or ReasonSSES3.
	Rewrapped map[Reason]int64 `json:"rewrapped,omitempty"`
	// Envelopes counts the object versions in which client-side encryption was found, by
	// its format, as far as it was looked for.
	Envelopes map[string]int64 `json:"envelopes,omitempty"`
}

func (c *Counts) add(o Counts) {
	c.Scanned += o.Scanned
	c.Moved += o.Moved
	c.Skipped += o.Skipped
	c.Refused += o.Refused
	c.Failed += o.Failed
	c.Bytes += o.Bytes
	c.Partly += o.Partly
	for reason, n := range o.ByReason {
		count(&c.ByReason, reason, n)
	}
	for reason, n := range o.Rewrapped {
		count(&c.Rewrapped, reason, n)
	}
	for format, n := range o.Envelopes {
		count(&c.Envelopes, format, n)
	}
}

// count adds n to what is counted under a name, "" for nothing.
func count[K ~string](m *map[K]int64, name K, n int64) {
	if name == "" || n == 0 {
		return
	}
	if *m == nil {
		*m = map[K]int64{}
	}
	if (*m)[name] += n; (*m)[name] <= 0 {
		delete(*m, name)
	}
}

// Observer is notified about jobs, at least once of each thing: where it returns an
// error, it is notified again.
type Observer interface {
	// Warned is called before the first write with the warnings of a job's preflight.
	Warned(ctx context.Context, s Summary) error
	// Completed is called for a job that is complete.
	Completed(ctx context.Context, s Summary) error
	// Stalled is called for a job that made no progress for 30 minutes, or that
	// stopped; for the latter by each Resume.
	Stalled(ctx context.Context, s Summary) error
}

// SQS is what an Engine calls to send its own messages and to see how many
// slices the fleet works on; *sqs.Client has it.
type SQS interface {
	SendMessage(context.Context, *sqs.SendMessageInput, ...func(*sqs.Options)) (*sqs.SendMessageOutput, error)
	GetQueueAttributes(context.Context, *sqs.GetQueueAttributesInput, ...func(*sqs.Options)) (*sqs.GetQueueAttributesOutput, error)
}

// Resolver turns a key id, ARN, alias name or alias ARN into the key's full ARN;
// *inventory.Reader has it.
type Resolver interface {
	Resolve(ctx context.Context, key string) (string, error)
}

// Options says what an Engine works with. S3, Resolver and Account are needed
// always; KMS for Preflight and jobs; Store, StateBucket, SQS, QueueURL and
// Observer for jobs.
type Options struct {
	S3       S3
	Resolver Resolver
	KMS      KMS
	// Account is the 12-digit account that every bucket must belong to.
	Account string
	// By is who works on jobs, role/NAME or user/NAME; "" where that is not known.
	By string
	// Store is where jobs are kept.
	Store *state.Store
	// StateBucket and StatePrefix say where the store is: the probe's scratch object
	// is put there, and the bucket itself is never re-encrypted. Without it a
	// Method that is Probed is an error.
	StateBucket, StatePrefix string
	SQS                      SQS
	QueueURL                 string
	Observer                 Observer
	// Method is how the jobs of Start move objects; "" is MethodAuto.
	Method Method
	// Versions is what they move; "" is VersionsAll.
	Versions Versions
	// Envelopes is which data keys of client-side encryption they move too, "" for none,
	// and RewriteFiles whether also where that takes another body; see RunOptions.
	Envelopes    Envelopes
	RewriteFiles bool
	// Executor is who moves the objects of jobs first; "" is ExecutorFleet. Batch is
	// needed for S3 Batch Operations, also to end those that others have begun;
	// BatchRole is the ARN of the role that they take, and BatchThreshold how many
	// object versions ExecutorAuto leaves to the fleet.
	Executor       Executor
	Batch          Batch
	BatchRole      string
	BatchThreshold int64
	// Concurrency is how many objects are worked on at a time at most, over all
	// slices in this process; 0 is 64. Engine.Concurrency is what a bucket turned out to take.
	Concurrency int
	// Rate is how many objects per second the whole fleet moves; 0 is unlimited.
	Rate float64
	// SliceSize is about how many object versions a slice has; 0 is 10,000: a slice takes
	// a dozen requests of its own, half a second, in each pass.
	SliceSize int
	// MaxCopySize is the size in bytes above which objects are copied in parts of
	// PartSize bytes. 0 is what S3 allows, 5 GiB, and parts of 512 MiB.
	MaxCopySize, PartSize int64
	// FixBucketDefault moves a bucket's default encryption, where it names an old
	// key, to the new one before the objects; else that is only warned of.
	FixBucketDefault bool
	// Ties, where not nil, lists what besides objects still needs an old key, for
	// the report of a job that is complete.
	Ties func(ctx context.Context, keyARN string) []string
	// Meter counts what is done; nil: nothing is counted.
	Meter Meter
	// Logger is slog.Default where nil.
	Logger *slog.Logger
}

// Meter counts what re-encryption does; *metrics.Metrics has it.
type Meter interface {
	// Object counts an object version: moved, skipped, refused or failed.
	Object(result string, bytes int64)
	// Throttled counts an attempt on an object that was throttled.
	Throttled()
	// Slice counts a slice that is planned, or done.
	Slice(state string)
	// Job counts a job that is started, complete, stopped or stalled.
	Job(state string)
}

// unmetered counts nothing.
type unmetered struct{}

func (unmetered) Object(string, int64) {}
func (unmetered) Throttled()           {}
func (unmetered) Slice(string)         {}
func (unmetered) Job(string)           {}

// Engine re-encrypts: it starts jobs, handles their messages and runs single
// buckets. It is safe for concurrent use.
type Engine struct {
	opt      Options
	slots    chan struct{} // one for each object that is worked on
	limiters limiters      // within slots, what each bucket takes
	rate     *throttle
	probe    probe
	audit    copyAudit
	bodies   chan struct{} // one for each whole object in memory
	// throttlesBack is the option of all calls on objects.
	throttlesBack func(*s3.Options)
}

// New returns an engine, or an error that names everything missing in o.
func New(o Options) (*Engine, error) {
	var errs []error
	missing := func(is bool, what string) {
		if is {
			errs = append(errs, errors.New(what+" is missing"))
		}
	}
	missing(o.S3 == nil, "S3 client")
	missing(o.Resolver == nil, "key resolver")
	missing(o.Account == "", "account")
	if o.Store != nil {
		missing(o.KMS == nil, "KMS client")
		missing(o.StateBucket == "", "state bucket")
		missing(o.SQS == nil || o.QueueURL == "", "jobs queue")
		missing(o.Observer == nil, "observer")
	}
	o.Method = cmp.Or(o.Method, MethodAuto)
	o.Versions = cmp.Or(o.Versions, VersionsAll)
	errs = append(errs, checkChoices(spec{Method: o.Method, Versions: o.Versions, Envelopes: o.Envelopes, RewriteFiles: o.RewriteFiles}))
	o.Executor = cmp.Or(o.Executor, ExecutorFleet)
	errs = append(errs, checkOneOf("executor", o.Executor, Executors()...))
	if o.Executor.NeedsRole() {
		missing(o.Batch == nil, "S3 Batch Operations client")
		missing(o.BatchRole == "", "role for S3 Batch Operations")
	}
	if o.Concurrency < 0 || o.Rate < 0 || o.SliceSize < 0 || o.BatchThreshold < 0 || o.MaxCopySize < 0 || o.PartSize < 0 {
		errs = append(errs, errors.New("concurrency, rate and sizes must not be negative"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("set up re-encryption: %w", err)
	}
	o.Concurrency = cmp.Or(o.Concurrency, 64)
	o.SliceSize = cmp.Or(o.SliceSize, 10_000)
	o.MaxCopySize = cmp.Or(o.MaxCopySize, 5<<30)
	o.PartSize = cmp.Or(o.PartSize, 512<<20)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	if o.Meter == nil {
		o.Meter = unmetered{}
	}
	o.Envelopes = o.Envelopes.orNone()
	e := &Engine{opt: o, slots: make(chan struct{}, o.Concurrency), bodies: make(chan struct{}, maxBodies), limiters: limiters{bound: o.Concurrency}, throttlesBack: throttlesBack()}
	e.rate = newThrottle(o.Rate, e.slicesInFlight)
	e.probe.turn = make(chan struct{}, 1)
	return e, nil
}

func checkChoices(s spec) error {
	var files error
	if s.RewriteFiles && s.Envelopes != EnvelopesContent {
		files = fmt.Errorf("files are rewritten only where envelopes is %s", EnvelopesContent)
	}
	return errors.Join(checkOneOf("method", s.Method, Methods()...), checkOneOf("versions", s.Versions, VersionsAll, VersionsCurrent),
		checkOneOf("envelopes", cmp.Or(s.Envelopes, EnvelopesOff), AllEnvelopes()...), files)
}
