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
//     something else. In mode observe the same decision is told, not done.
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

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// Router takes events to the reactions. It is safe for concurrent use.
type Router struct {
	*reaction.Env
	table map[route]watch
}

// New returns a router. It reports all problems of the configuration at once.
func New(d reaction.Deps, c reaction.Config) (*Router, error) {
	env, err := reaction.NewEnv(d, c)
	if err != nil {
		return nil, err
	}
	return &Router{Env: env, table: table()}, nil
}

// Handle reacts to one message body. nil: everything that had to be done is
// done, or there is nothing to do. Errors are marked per package outcome: a
// body that is no event is rejected, an expected wait comes back later, and
// everything else that failed is to be tried again. Trying again repeats nothing that
// was done: repairs look at the key first, and alerts are published once.
func (r *Router) Handle(ctx context.Context, body []byte) error {
	if slot, ok := alert.FlushWindow(body); ok {
		return r.flushAlerts(ctx, slot)
	}
	e, err := events.Parse(body)
	if err != nil {
		return outcome.Reject(err)
	}
	w := r.table[routeOf(e)]
	if len(w.reactions) == 0 && !e.IsKMS() {
		r.Logger.DebugContext(ctx, "event ignored", "event", e.Name, "event_id", e.ID, "reason", "nothing reacts to it", "source", e.Source)
		return nil
	}
	c := r.NewCase(e)
	log := c.Log().With("event", e.Name)
	switch {
	case isDenied(e.ErrorCode):
		return r.React(ctx, c, reaction.Reaction{Name: "refused", Decide: refused(w.refused, concerned(c, w))})
	case e.Failed() && !isUnusable(e):
		// A call that failed changed nothing, so there is nothing to repair.
		log.DebugContext(ctx, "event ignored", "reason", "the call failed", "code", e.ErrorCode)
		return nil
	case e.Kind == events.Scheduled:
		return r.Sweep(ctx)
	}
	whose, err := originOf(ctx, c)
	if err != nil {
		return err
	}
	var reactions []reaction.Reaction
	switch whose {
	case byEcho:
		log.DebugContext(ctx, "event ignored", "reason", "it is the echo of our own call")
		return nil
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
	if len(w.reactions) == 0 {
		log.DebugContext(ctx, "event ignored", "reason", "nothing reacts to it")
	}
	for _, re := range w.reactions {
		if re.mode != nil && re.mode(r.Config) == reaction.Off {
			log.DebugContext(ctx, "event ignored", "reason", "mode off", "reaction", re.name)
			continue
		}
		if why := re.skip(c); why != "" {
			log.InfoContext(ctx, "event ignored", "reason", why, "reaction", re.name)
			continue
		}
		reactions = append(reactions, reaction.Reaction{Name: re.name, Decide: re.decide})
	}
	return r.React(ctx, c, reactions...)
}

// flushAlerts publishes what was collected. The message is our own and no event.
func (r *Router) flushAlerts(ctx context.Context, slot string) error {
	if r.Digests == nil {
		return outcome.Reject(fmt.Errorf("message reminds of slot %s of alerts, and nothing here publishes those", slot))
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
