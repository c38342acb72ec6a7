package handlers

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
)

// isDenied reports whether an error code of a record is a refusal by a policy.
// Each service has its own word for it.
func isDenied(code string) bool {
	return strings.Contains(code, "AccessDenied") || strings.HasSuffix(code, "UnauthorizedOperation") || code == "AuthorizationError" || code == "NotAuthorized"
}

// refusedReason names a decision about a call that AWS refused.
type refusedReason string

const (
	refusedHarmless refusedReason = "harmless" // nobody is told about attempts at this call
	refusedForeign  refusedReason = "foreign"  // it was about something that is not guarded here
	refusedOurs     refusedReason = "ours"     // our own call: the reaction that made it tells
	refusedImpostor refusedReason = "impostor" // our role, but not a call that we make
	refusedAttempt  refusedReason = "attempt"  // somebody tried
)

type refusedInput struct {
	severity  alert.Severity // of the row, "" for none
	concerned bool
	// ours: the actor is our role; made: the active modes make this call.
	ours, made bool
}

// decideRefused decides whether a refused call is told, and how badly.
func decideRefused(in refusedInput) (refusedReason, alert.Severity) {
	switch {
	case in.ours && in.made:
		return refusedOurs, ""
	case in.severity == "":
		return refusedHarmless, ""
	case !in.concerned:
		return refusedForeign, ""
	case in.ours:
		return refusedImpostor, alert.Critical
	}
	return refusedAttempt, in.severity
}

// refusedAttempt tells of a dangerous call that AWS refused: who tries the
// handles may find one that opens. It is told once an hour for an actor and an
// operation, so that a loop of attempts is one alert.
func (r *Router) refusedAttempt(ctx context.Context, e events.Event, w watch) error {
	reason, severity := decideRefused(refusedInput{
		severity: w.refused, concerned: r.concerned(e, w),
		ours: r.config.Identity.isOurs(e.Actor), made: r.config.makes(e.Name),
	})
	r.log.DebugContext(ctx, "refused call decided", "event", e.Name, "event_id", e.ID, "reason", reason)
	if severity == "" {
		return nil
	}
	a := r.newAlert(e, alert.KindAccess, "")
	a.ID = onceAnHour(e, "refused/"+e.Name)
	if r.told.has(hourOf(e.Time), a.ID) {
		return nil
	}
	a.Severity = severity
	a.Title = fmt.Sprintf("%s was refused to %s", e.Name, who(e))
	a.Summary = fmt.Sprintf("%s called %s, and AWS refused it (%s). Nothing was changed. Further attempts at it by the same within the hour are not told by themselves.", who(e), e.Name, e.ErrorCode)
	a.Risk = "A refused call is harmless by itself. Somebody who tries what they may not is looking for what they may, or holds credentials that are not theirs."
	a.Action = alert.Action{Status: alert.StatusNone, Description: "There is nothing to repair."}
	if reason == refusedImpostor {
		a.Kind = alert.KindGuard
		a.Title = fmt.Sprintf("%s was refused to cmkeeper's own role", e.Name)
		a.Risk = "cmkeeper never makes this call. Somebody else holds its credentials, or shares its role."
	}
	if e.KeyARN != "" {
		a.Key = &alert.Key{ARN: e.KeyARN}
	}
	a.Next = []string{
		"Ask " + who(e) + " what this was for. If nobody knows, take the credentials away and look for what else they did:",
		r.actorCommand(e),
	}
	if e.ErrorMessage != "" {
		a.Facts = append(a.Facts, alert.Fact{Name: "AWS's answer", Values: []string{e.ErrorMessage}})
	}
	return r.publishOnce(ctx, e, a)
}

// concerned reports whether a refused call is about something that is guarded.
// Refused records often name no key; then where it happened decides.
func (r *Router) concerned(e events.Event, w watch) bool {
	if e.IsKMS() && e.KeyARN == "" {
		return r.elsewhere(e) == ""
	}
	for _, re := range w.reactions {
		if re.concerns(r, e) == "" {
			return true
		}
	}
	return false
}

// actorCommand looks up what else somebody did.
func (r *Router) actorCommand(e events.Event) string {
	attribute, value := "Username", e.Actor.Name
	switch {
	case e.Actor.AccessKeyID != "":
		attribute, value = "AccessKeyId", e.Actor.AccessKeyID
	case e.Actor.Session != "":
		value = e.Actor.Session
	}
	return "aws cloudtrail lookup-events --region " + shellQuote(r.config.Region) +
		" --lookup-attributes AttributeKey=" + attribute + ",AttributeValue=" + shellQuote(value)
}

// onceAnHour is the id of an alert that is told once an hour for an actor.
func onceAnHour(e events.Event, what string) string {
	actor := e.Actor.RoleARN
	if actor == "" {
		actor = e.Actor.ARN
	}
	if actor == "" {
		actor = e.Actor.String()
	}
	return fmt.Sprintf("%s/%x/%s", what, sha256.Sum256([]byte(actor)), hourOf(e.Time))
}

func hourOf(t time.Time) string { return t.UTC().Format("2006-01-02T15") }

// publishOnce publishes an alert whose id stands for an hour of occurrences, and
// remembers it, so that most of them end without a call to anywhere.
func (r *Router) publishOnce(ctx context.Context, e events.Event, a alert.Alert) error {
	if err := r.publish(ctx, a); err != nil {
		return err
	}
	r.told.add(hourOf(e.Time), a.ID)
	return nil
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
