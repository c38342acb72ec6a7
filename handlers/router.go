package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

// Router takes events to the reactions. It is safe for concurrent use.
type Router struct {
	config    Config
	kms       KMS
	facts     *inventory.Reader
	state     *state.Store
	alerts    alert.Sink
	moves     Mover
	scans     Scans
	trail     Trail
	selfCheck func(context.Context) ([]alert.Finding, error)
	digests   Digests
	log       *slog.Logger
	writes    *rate.Limiter
	lookups   *rate.Limiter
	table     map[route]watch
	// told are the alerts of this hour that are told once an hour.
	told hourly
}

// Handle reacts to one message body. nil: everything that had to be done is
// done, or there is nothing to do. Errors are marked per package outcome: a
// body that is no event is rejected, an expected wait comes back later, and
// whatever else failed is to be tried again. Trying again repeats nothing that
// was done: repairs look at the key first, and alerts are told once.
func (r *Router) Handle(ctx context.Context, body []byte) error {
	if slot, ok := alert.FlushWindow(body); ok {
		return r.flushAlerts(ctx, slot)
	}
	e, err := events.Parse(body)
	if err != nil {
		return outcome.Reject(err)
	}
	log := r.log.With("event", e.Name, "event_id", e.ID, "key", e.KeyARN)
	w := r.table[routeOf(e)]
	if len(w.reactions) == 0 && !e.IsKMS() {
		log.DebugContext(ctx, "event ignored", "reason", "nothing reacts to it", "source", e.Source)
		return nil
	}
	switch {
	case isDenied(e.ErrorCode):
		return r.refusedAttempt(ctx, e, w)
	case e.Failed() && !isUnusable(e):
		// A call that failed changed nothing, so there is nothing to repair.
		log.DebugContext(ctx, "event ignored", "reason", "the call failed", "code", e.ErrorCode)
		return nil
	}
	whose, err := r.origin(ctx, e)
	if err != nil {
		return err
	}
	var errs []error
	switch whose {
	case byEcho:
		log.DebugContext(ctx, "event ignored", "reason", "it is the echo of our own call")
		return nil
	case byImpostor:
		if r.config.makes(e.Name) {
			// Our own call may not be noted yet: another worker may be at it now.
			if wait := settle(e, "call of our own role"); wait != nil {
				return wait
			}
		}
		errs = append(errs, r.impostor(ctx, e))
	case byOthers:
	}

	if len(w.reactions) == 0 {
		log.DebugContext(ctx, "event ignored", "reason", "nothing reacts to it")
	}
	for _, re := range w.reactions {
		if re.mode != nil && re.mode(r.config) == Off {
			log.DebugContext(ctx, "event ignored", "reason", "mode off", "reaction", re.name)
			continue
		}
		if why := re.concerns(r, e); why != "" {
			log.InfoContext(ctx, "event ignored", "reason", why, "reaction", re.name)
			continue
		}
		if err := re.handle(r, ctx, e); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", re.name, err))
		}
	}
	return errors.Join(errs...)
}

// routeOf is where an event goes.
func routeOf(e events.Event) route {
	if e.Kind == events.Scheduled {
		return route{kind: e.Kind}
	}
	return route{source: e.Source, kind: e.Kind, name: e.Name, unusable: isUnusable(e)}
}

// foreign says why an event's key is none that this worker guards, or "".
func (r *Router) foreign(e events.Event) string {
	if e.KeyARN == "" {
		return "it names no key" // UpdatePrimaryRegion is recorded twice, once without the key
	}
	p := strings.SplitN(e.KeyARN, ":", 6)
	switch {
	case len(p) < 6:
		return "its key ARN is malformed"
	case p[3] != r.config.Region:
		return "its key is in another Region than " + r.config.Region
	case p[4] != r.config.Identity.Account:
		// A caller's account gets a copy of its calls on other accounts' keys.
		return "its key belongs to another account"
	}
	return ""
}

// elsewhere says why an event that is about no key happened where this worker
// does not guard, or "".
func (r *Router) elsewhere(e events.Event) string {
	switch {
	case e.Region != r.config.Region:
		return "it happened in another Region than " + r.config.Region
	case e.Account != r.config.Identity.Account:
		return "it happened in another account"
	}
	return ""
}

// settling is how long a live read that contradicts an event is taken for one
// that came too early: KMS is eventually consistent.
const settling = time.Minute

// settle returns an expected wait while e is too fresh for a contradicting read
// to be believed, else nil.
func settle(e events.Event, what string) error {
	if left := settling - time.Since(e.Time); left > 0 && left <= settling {
		return outcome.RetryAfter(left, fmt.Errorf("%s: waiting until the event and what is known agree", what))
	}
	return nil
}
