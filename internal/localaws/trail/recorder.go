// Package trail is the CloudTrail behind the services of localaws: it makes
// records of their calls and brings them to EventBridge's default bus, as late,
// as often and in the order that it is told to.
package trail

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// Config is what New needs.
type Config struct {
	// Account and Region are where everything happens.
	Account, Region string
	// Publish receives every event as a complete EventBridge envelope, in the
	// order in which the changes happened unless Settings say otherwise, and never
	// two at a time. It may call the services. Nil discards events.
	Publish func(event json.RawMessage)
	// Logs reports whether a trail logs the calls of the service ("kms.amazonaws.com")
	// that only read, or the others; EventBridge hears of those alone. Nil logs all.
	Logs func(source string, readOnly bool) bool
	// Reads reports whether anybody listens to calls that only read; nil means nobody.
	Reads func() bool
	// Settings say how events arrive; the zero value delivers each of them once,
	// in order, before the call that caused it returns (unless another call is
	// publishing just then, which goes on to deliver it).
	Settings Settings
}

// Settings is how faithfully, and how late, CloudTrail and EventBridge deliver.
type Settings struct {
	// Delay holds every event back; Jitter adds a random time below it, which
	// also puts events out of order.
	Delay, Jitter time.Duration
	// Duplicates is the share of events, from 0 to 1, that are delivered twice.
	Duplicates float64
	// ReadOnly publishes calls that only read, cryptographic ones too, while no rule
	// listens to them as well. In the history they are always.
	ReadOnly bool
	// LookupDelay is how long a record cannot be looked up. CloudTrail takes minutes,
	// five on average; zero is at once.
	LookupDelay time.Duration
	// Seed makes the random choices repeatable.
	Seed uint64
}

// Recorder records API calls and events, and publishes them. Its methods may be called concurrently.
type Recorder struct {
	account, region string
	publish         func(json.RawMessage)
	logs            func(source string, readOnly bool) bool
	reads           func() bool
	readOnly        atomic.Bool // of the settings

	mu         sync.Mutex
	settings   Settings
	random     *rand.Rand
	outbox     []json.RawMessage
	publishing bool // somebody empties the outbox
	held       map[*time.Timer]struct{}
	changes    ring // of the history: calls that change something, and events
	reading    ring // and those that only read
	kept       int  // so far
	closed     bool
	callbacks  sync.WaitGroup
}

// New returns a Recorder without records. Close it when done.
func New(c Config) *Recorder {
	r := &Recorder{account: c.Account, region: c.Region, publish: c.Publish, logs: c.Logs, reads: c.Reads, held: map[*time.Timer]struct{}{}}
	r.Set(c.Settings)
	return r
}

// Set changes how events are delivered from now on.
func (r *Recorder) Set(s Settings) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settings = s
	r.readOnly.Store(s.ReadOnly)
	r.random = rand.New(rand.NewPCG(s.Seed, s.Seed)) // repeatable on purpose
}

// Close drops the events that are still held back and waits for those that are
// on their way.
func (r *Recorder) Close() {
	r.mu.Lock()
	r.closed = true
	for t := range r.held {
		t.Stop()
	}
	clear(r.held)
	r.mu.Unlock()
	r.callbacks.Wait()
}

// Recorded returns an operation that changes something with its calls recorded, as
// they were asked for and answered.
func Recorded[In, Out any](r *Recorder, service, operation string, f func(ctx context.Context, in In) (Out, error)) func(context.Context, In) (Out, error) {
	return func(ctx context.Context, in In) (Out, error) {
		out, err := f(ctx, in)
		r.Call(Call{
			Service: service, Operation: operation, Caller: wire.CallerFrom(ctx), RequestID: wire.RequestIDFrom(ctx),
			Parameters: in, Response: out, Err: err,
		})
		r.Flush()
		return out, err
	}
}

// Call records a call. If the caller is from another account, a denial is recorded
// only there, and any other call in both accounts. Flush publishes it.
func (r *Recorder) Call(c Call) {
	if c.Caller.AccountID != r.account {
		if isDenial(c.Err) {
			return
		}
		c.sharedEventID = wire.NewUUID()
	}
	if isDenial(c.Err) {
		// The records of denials that people show name what was asked for in their
		// message alone, which is the least that a reader can hope for.
		c.Parameters, c.Resources = nil, nil
	}
	if c.Time.IsZero() {
		c.Time = time.Now()
	}
	if c.EventID == "" {
		c.EventID = wire.NewUUID()
	}
	if c.ReadOnly && !r.publishesReads() {
		r.keepCall(&c)
		return
	}
	r.Record(r.record(&c))
}

// header is a call's record but for the members that any JSON may be in.
func (r *Recorder) header(c *Call) Record {
	record := Record{
		EventVersion: "1.11", EventTime: Time(c.Time), EventSource: c.Service + ".amazonaws.com", EventName: c.Operation,
		AWSRegion: r.region, EventID: c.EventID, RequestID: c.RequestID, ReadOnly: c.ReadOnly, EventType: APICall,
		ManagementEvent: true, EventCategory: "Management", RecipientAccountID: r.account,
		UserIdentity: identity(c.Caller, c.Time), SourceIPAddress: c.Caller.SourceIP, UserAgent: c.Caller.UserAgent,
		Resources: c.Resources, SharedEventID: c.sharedEventID,
	}
	if c.sharedEventID != "" {
		record.UserIdentity = Identity{Type: "AWSAccount", PrincipalID: c.Caller.PrincipalID, AccountID: c.Caller.AccountID}
	}
	record.UserIdentity.InvokedBy = c.Via
	if c.Via == AWSInternal {
		record.SourceIPAddress, record.UserAgent = AWSInternal, AWSInternal
	}
	if c.Err != nil {
		e := wire.AsError(c.Err)
		record.ErrorCode, record.ErrorMessage = errorCode(e), e.Message
	}
	return record
}

// record is a call's record.
func (r *Recorder) record(c *Call) Record {
	record := r.header(c)
	record.RequestParameters, record.AdditionalEventData = JSON(c.Parameters), JSON(c.AdditionalData)
	if c.Err == nil && !c.ReadOnly {
		if elements := JSON(c.Response); string(elements) != "{}" {
			record.ResponseElements = elements
		}
	}
	if c.Via == "" {
		record.TLSDetails = &TLSDetails{
			TLSVersion: "TLSv1.3", CipherSuite: "TLS_AES_256_GCM_SHA384", ClientProvidedHostHeader: c.Service + "." + r.region + ".amazonaws.com",
		}
	}
	return record
}

func isDenial(err error) bool {
	return wire.IsCode(err, "AccessDeniedException") || wire.IsCode(err, "AccessDenied") || wire.IsCode(err, "AuthorizationError")
}

// publishesReads reports whether calls that only read become events.
func (r *Recorder) publishesReads() bool {
	return r.readOnly.Load() || r.reads != nil && r.reads()
}

// Record records a complete record. Flush publishes it.
func (r *Recorder) Record(record Record) {
	r.recorded(record, record.body())
}

// Native records an event that a service sends by itself, without CloudTrail.
// Flush publishes it.
func (r *Recorder) Native(service, detailType string, at time.Time, resources []string, detail any) {
	body, _ := json.Marshal(detail) // details are structs of strings
	r.take(detailType, service, Time(at), resources, body)
}

// Given records a record that the caller wrote, and publishes it. It adds the members
// that every CloudTrail record has, for a call by an IAM user, if they are missing; a
// member that is null stays null. eventSource and eventName are required.
func (r *Recorder) Given(record json.RawMessage) error {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(record, &given); err != nil {
		return fmt.Errorf("decode CloudTrail record: %w", err)
	}
	for _, name := range []string{"eventSource", "eventName"} {
		if len(given[name]) < len(`"x"`) {
			return fmt.Errorf("the CloudTrail record has no %s", name)
		}
	}
	defaults, _ := json.Marshal(Record{ // strings and booleans always encode
		EventVersion: "1.11", EventTime: Time(time.Now()), AWSRegion: r.region, SourceIPAddress: "192.0.2.1", UserAgent: "localaws",
		RequestID: wire.NewUUID(), EventID: wire.NewUUID(), EventType: APICall, ManagementEvent: true, EventCategory: "Management",
		RecipientAccountID: r.account,
		UserIdentity: Identity{
			Type: "IAMUser", PrincipalID: "AIDALOCAL", ARN: "arn:aws:iam::" + r.account + ":user/local", AccountID: r.account, UserName: "local",
		},
	})
	complete := map[string]json.RawMessage{}
	_ = json.Unmarshal(defaults, &complete) // what was encoded above
	maps.Copy(complete, given)
	body, err := json.Marshal(complete)
	if err != nil {
		return fmt.Errorf("complete CloudTrail record: %w", err)
	}
	var read Record
	_ = json.Unmarshal(body, &read) // a member of another type than CloudTrail's is not known to the history
	r.recorded(read, body)
	r.Flush()
	return nil
}

// recorded keeps a record and takes its event down.
func (r *Recorder) recorded(record Record, body json.RawMessage) {
	r.keep(record, body)
	if r.logs == nil || r.logs(record.EventSource, record.ReadOnly) {
		r.take(detailType(record.EventType), record.EventSource, record.EventTime, []string{}, body)
	}
}

// take puts an event into the outbox, for Flush to publish.
func (r *Recorder) take(detailType, source, at string, resources []string, detail json.RawMessage) {
	if r.publish == nil {
		return
	}
	service, _, _ := strings.Cut(source, ".")
	event, _ := json.Marshal(envelope{ // strings and finished JSON always encode
		Version: "0", ID: wire.NewUUID(), DetailType: detailType, Source: "aws." + service, Account: r.account,
		Time: at, Region: r.region, Resources: resources, Detail: detail,
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	copies := 1
	if r.settings.Duplicates > 0 && r.random.Float64() < r.settings.Duplicates {
		copies = 2
	}
	for range copies {
		delay := r.settings.Delay
		if r.settings.Jitter > 0 {
			delay += time.Duration(r.random.Int64N(int64(r.settings.Jitter)))
		}
		if delay <= 0 {
			r.outbox = append(r.outbox, event)
			continue
		}
		r.later(delay, event)
	}
}

// later publishes the event after the delay, unless the recorder is closed first.
// The caller holds the lock.
func (r *Recorder) later(delay time.Duration, event json.RawMessage) {
	if r.closed {
		return
	}
	var t *time.Timer
	t = time.AfterFunc(delay, func() {
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			return
		}
		r.callbacks.Add(1)
		defer r.callbacks.Done()
		delete(r.held, t)
		r.outbox = append(r.outbox, event)
		r.mu.Unlock()
		r.Flush()
	})
	r.held[t] = struct{}{}
}

// Flush publishes what was recorded, in order. A service must not hold a lock when it
// calls Flush. One caller at a time publishes for all, so the receiver of an event
// may call a service.
func (r *Recorder) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.publishing {
		return
	}
	r.publishing = true
	defer func() { r.publishing = false }()
	for len(r.outbox) > 0 {
		events := r.outbox
		r.outbox = nil
		r.mu.Unlock()
		for _, e := range events {
			r.publish(e)
		}
		r.mu.Lock()
	}
}
