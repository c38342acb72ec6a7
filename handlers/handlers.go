// Package handlers reacts to KMS events: it turns rotation on again, judges key
// policies and restores them, alarms on deletions and undoes them, contains keys that
// were opened, notices aliases that moved, and sweeps over all keys for what no event
// reported.
//
// [Router.Handle] takes a message, and every reaction follows the same rules:
//
//   - An event is a hint. The reaction reads the key before it decides, so that
//     duplicates, disorder, delay and forgery do no harm.
//   - A decision is a pure function with a named reason; acting on it is
//     something else. In mode observe the same decision is published, not carried out.
//   - What is about to be done is stored before it is done, in the key's or the
//     alias's document, so that a crash in between is finished, not forgotten.
//   - A reaction is over when its alert is published. The error that it returns
//     says what becomes of the message, per package outcome.
//
// Package reaction is the way that all of them go, and package ledger what they
// remember. Here every reaction has files of its own, and none names another.
package handlers

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/handlers/review"
	"github.com/cmkeeper/cmkeeper/handlers/selfcheck"
	"github.com/cmkeeper/cmkeeper/handlers/sweep"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/internal/eventlog"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// Router takes events to the reactions. It is safe for concurrent use.
type Router struct {
	*reaction.Env
	table  map[route]watch
	sweeps *sweep.Fleet
	checks *selfcheck.Checks
	left   review.Left
}

// New returns a router. It reports all problems of the configuration at once.
func New(d reaction.Deps, c reaction.Config) (*Router, error) {
	env, err := reaction.NewEnv(d, c)
	if err != nil {
		return nil, err
	}
	r := &Router{Env: env, table: table(), checks: selfcheck.New(env)}
	r.sweeps = sweep.New(env, r.looks())
	return r, nil
}

// Message is a message of the events queue.
type Message struct {
	Body []byte
	// Sent is when SQS took it, the zero time where that is unknown: no event is from
	// later than its message.
	Sent time.Time
	// Sender is SQS's SenderId: who sent it, "" where that is unknown.
	Sender string
}

// Handle reacts to a message. nil: everything that had to be done is
// done, or there is nothing to do. Errors are marked per package outcome: a
// body that is no event is rejected, an expected wait comes back later, and
// everything else that failed is tried again. Trying again repeats nothing that
// was done: repairs look at the key first, and alerts are published once.
func (r *Router) Handle(ctx context.Context, m Message) error {
	if slot, ok := alert.FlushWindow(m.Body); ok {
		eventlog.Note(ctx, eventlog.Event{Name: ownFlush})
		return r.flushAlerts(ctx, slot)
	}
	if handled, err := r.sweeps.Shard(ctx, m.Body); handled {
		eventlog.Note(ctx, eventlog.Event{Name: ownShard})
		return err
	}
	e, err := events.Parse(m.Body)
	if err != nil {
		return outcome.Reject(err)
	}
	name := e.Name
	if e.Kind == events.Scheduled {
		name = ownSchedule // its own is the operator's choice
	}
	eventlog.Note(ctx, eventlog.Event{ID: e.ID, Name: name})
	r.Logger.DebugContext(ctx, "event received", "event", e.Name, "source", e.Source)
	if e.Kind == events.Scheduled {
		r.checks.NoteTick(ctx, m.Sent)
		return r.sweeps.For(ctx, m.Sent)
	}
	if e, err = r.evidence(ctx, e.SentAt(m.Sent), m); err != nil {
		return err
	}
	if err := r.react(ctx, e); err != nil || e.OtherKeyARN == "" {
		return err
	}
	e.KeyARN = e.OtherKeyARN // what the event means for one key, it may mean for both
	return r.react(ctx, e)
}

// react reacts to an event, as far as it is about its KeyARN.
func (r *Router) react(ctx context.Context, e events.Event) error {
	w := r.table[routeOf(e)]
	if len(w.reactions) == 0 && !e.IsKMS() {
		r.Logger.DebugContext(ctx, "event ignored", "event", e.Name, "reason", "nothing reacts to it", "source", e.Source)
		return nil
	}
	c := r.NewCase(e)
	switch {
	case isDenied(e.ErrorCode):
		return r.React(ctx, c, reaction.Reaction{Name: "refused", Decide: refused(w.refused, concerned(c, w))})
	case e.Failed() && (!isUnusable(e) || len(w.reactions) == 0):
		// A call that failed changed nothing, so there is nothing to repair. One that
		// failed because its key cannot be used shows who needs the key.
		c.Debug(ctx, "event ignored", "reason", "the call failed", "code", e.ErrorCode)
		return nil
	}
	by, err := originOf(ctx, c)
	if err != nil {
		return err
	}
	var reactions []reaction.Reaction
	switch by {
	case byEcho:
		c.Debug(ctx, "event ignored", "reason", "it is the record of our own call")
		return r.checks.CanaryBack(ctx, c)
	case byImpostor:
		if r.Config.Makes(e.Name) {
			// Our own call may not be noted yet: another worker may be at it now.
			if wait := reaction.WaitForConsistency(e, "call of our own role"); wait != nil {
				return wait
			}
		}
		reactions = append(reactions, reaction.Reaction{Name: "impostor", Decide: impostor})
	case byOthers:
	}
	reactions = append(reactions, w.reactTo(ctx, c)...)
	if e.IsKMS() && skipForeign(c) == "" { // last, since it looks at what all others read and tell
		reactions = append(reactions, reaction.Reaction{Name: "standing", Decide: standing})
	}
	if aboutAccount(e) && skipElsewhere(c) == "" {
		reactions = append(reactions, reaction.Reaction{Name: "account", Decide: account})
	}
	return r.React(ctx, c, reactions...)
}

// reactTo returns the reactions that the case concerns, in the configured modes.
func (w watch) reactTo(ctx context.Context, c *reaction.Case) (reactions []reaction.Reaction) {
	if len(w.reactions) == 0 {
		c.Debug(ctx, "event ignored", "reason", "nothing reacts to it")
	}
	for _, re := range w.reactions {
		if re.mode != nil && re.mode(c.Config) == reaction.Off {
			c.Debug(ctx, "event ignored", "reason", "mode off", "reaction", re.name)
		} else if why := re.skip(c); why != "" {
			c.Log().InfoContext(ctx, "event ignored", "reason", why, "reaction", re.name)
		} else if re.decide != nil {
			reactions = append(reactions, reaction.Reaction{Name: re.name, Mode: re.modeIn(c.Config), Decide: re.decide})
		}
	}
	return reactions
}

// modeIn is how far it goes, "" where it has no mode.
func (re react) modeIn(c reaction.Config) reaction.Mode {
	if re.mode == nil {
		return ""
	}
	return re.mode(c)
}

// flushAlerts publishes what was collected. The message is our own and no event.
func (r *Router) flushAlerts(ctx context.Context, slot string) error {
	if r.Digests == nil {
		return outcome.Reject(fmt.Errorf("message is about window %s of collected alerts, but this worker does not collect alerts", slot))
	}
	if err := r.Digests.Flush(ctx, slot); err != nil {
		return fmt.Errorf("publish collected alerts: %w", err)
	}
	return nil
}

// batchChanged has our batch jobs looked at. The event may be about any job: S3 is
// asked about ours.
func batchChanged(_ context.Context, c *reaction.Case) (*reaction.Decision, error) {
	if c.Moves == nil {
		return nil, nil // nothing is moved here
	}
	return &reaction.Decision{Act: c.Moves.BatchChanged}, nil
}

// callWindow is how far a record's time may be from an intent whose request ids
// are not all known (a crash, or an attempt whose answer was lost).
const callWindow = 5 * time.Minute

// origin says whose call a record shows.
type origin string

const (
	byOthers   origin = "others"
	byEcho     origin = "echo"     // our own call, come back
	byImpostor origin = "impostor" // our role, but not a call that we made
)

// decideOrigin distinguishes our own calls from everybody else's. calls are those of
// the key's document.
func decideOrigin(e events.Event, c reaction.Config, calls []ledger.Call) origin {
	if !c.Identity.Is(e.Actor) {
		return byOthers
	}
	if c.FixBucketDefault && e.Source == events.SourceS3 && e.Name == "PutBucketEncryption" {
		return byEcho // re-encryption does this, and has its own record of it
	}
	for _, call := range calls {
		sameCall := call.Operation == e.Name
		switch {
		case sameCall && e.RequestID != "" && slices.Contains(call.RequestIDs, e.RequestID):
			return byEcho // whatever the mode is by now: AWS gives each request its own id
		case sameCall && c.Makes(e.Name) && (!call.Known || e.RequestID == "") && e.Time.Sub(call.At).Abs() <= callWindow:
			return byEcho
		}
	}
	return byImpostor
}

// originOf reads what decideOrigin needs and decides.
func originOf(ctx context.Context, c *reaction.Case) (origin, error) {
	e := c.Event
	if e.Kind != events.APICall || e.ReadOnly || !c.Config.Identity.Is(e.Actor) {
		return byOthers, nil
	}
	var calls []ledger.Call
	if e.KeyARN != "" {
		doc, err := c.Ledger(ctx)
		if err != nil {
			return "", err
		}
		calls = doc.Calls
	}
	return decideOrigin(e, c.Config, calls), nil
}

// skipForeign says why an event's key is none that this worker guards, or "".
func skipForeign(c *reaction.Case) string {
	if c.Event.KeyARN == "" {
		return "it names no key" // UpdatePrimaryRegion is recorded twice, once without the key
	}
	switch key := arn.Parse(c.Event.KeyARN); {
	case key == arn.ARN{}:
		return "its key ARN is malformed"
	case key.Region != c.Config.Region:
		return "its key is in another Region than " + c.Config.Region
	case key.Account != c.Config.Identity.Account:
		// A caller's account gets a copy of its calls on other accounts' keys.
		return "its key belongs to another account"
	}
	return ""
}

// skipElsewhere says why an event that is about no key happened where this worker does
// not guard, or "".
func skipElsewhere(c *reaction.Case) string {
	switch {
	case c.Event.Region != c.Config.Region:
		return "it happened in another Region than " + c.Config.Region
	case c.Event.Account != c.Config.Identity.Account:
		return "it happened in another account"
	}
	return ""
}

// skipForeignAlias says why an event's alias is none that this worker guards, or "".
// Old records of DeleteAlias name no key.
func skipForeignAlias(c *reaction.Case) string {
	if c.Event.KeyARN != "" {
		if why := skipForeign(c); why != "" {
			return why
		}
	}
	return skipElsewhere(c)
}

// skipNothing is for events that are always reacted to.
func skipNothing(*reaction.Case) string { return "" }

// concerned reports whether a refused call is about something that is guarded.
// Refused records often name no key; then where it happened decides.
func concerned(c *reaction.Case, w watch) bool {
	if c.Event.IsKMS() && c.Event.KeyARN == "" {
		return skipElsewhere(c) == ""
	}
	return slices.ContainsFunc(w.reactions, func(re react) bool { return re.skip(c) == "" })
}

// impostor alerts that somebody else acts with our role.
func impostor(_ context.Context, c *reaction.Case) (*reaction.Decision, error) {
	return &reaction.Decision{Tell: func() []alert.Alert {
		us, request := c.Config.Identity, reaction.OrUnknown(c.Event.RequestID)
		a := c.NewAlert(alert.KindGuard, "/impostor")
		a.Severity = finding.Critical
		a.Title = fmt.Sprintf("%s was called with cmkeeper's own %s, but not by cmkeeper", c.Event.Name, us.Noun())
		a.Summary = fmt.Sprintf("CloudTrail shows a successful %s by %s. cmkeeper runs as this %s and has no record of making this call (request id %s).",
			c.Event.Name, c.Event.Actor, us.Noun(), request)
		a.Risk = "Somebody else holds cmkeeper's credentials, or shares its role. They can do everything that the role can: for example turn on rotation, cancel deletions, and where it re-encrypts, read and rewrite data."
		a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper did not touch its own role. The call itself is still checked like any other."}
		a.Next = []string{
			"Find out who used the role: compare the source address, user agent and session above with cmkeeper's tasks.",
		}
		if us.Role {
			a.Next = append(a.Next,
				"If nobody knows the caller, end all sessions of the role: IAM console, the role, Revoke sessions. cmkeeper's tasks get fresh credentials by themselves.",
				command.Line("aws iam get-role --role-name %s --query Role.AssumeRolePolicyDocument", command.Role(us.Name)))
		}
		a.Next = append(a.Next, "If a person or another tool uses the role on purpose, give it a role of its own.")
		if c.Event.KeyARN != "" {
			a.Key = c.Named()
		}
		a.Facts = append(a.Facts, alert.Fact{Name: "request id", Values: []string{request}})
		return []alert.Alert{a}
	}}, nil
}
