package handlers

import (
	"context"
	"fmt"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
)

// isDenied reports whether an error code of a record is a refusal by a policy.
// Each service has its own word for it.
func isDenied(code string) bool {
	return strings.Contains(code, "AccessDenied") || strings.HasSuffix(code, "UnauthorizedOperation") || code == "AuthorizationError" || code == "NotAuthorized"
}

// refusedReason names a decision about a call that AWS refused.
type refusedReason string

const (
	refusedHarmless refusedReason = "harmless" // attempts at this call are not alerted
	refusedForeign  refusedReason = "foreign"  // it was about something that is not guarded here
	refusedOurs     refusedReason = "ours"     // our own call: the reaction that made it alerts
	refusedImpostor refusedReason = "impostor" // our role, but not a call that we make
	refusedAttempt  refusedReason = "attempt"  // somebody tried
)

type refusedInput struct {
	severity  finding.Severity // of the row, "" for none
	concerned bool
	// ours: the actor is our role; made: the active modes make this call.
	ours, made bool
}

// decideRefused decides whether a refused call is alerted, and with what severity.
func decideRefused(in refusedInput) (refusedReason, finding.Severity) {
	switch {
	case in.ours && in.made:
		return refusedOurs, ""
	case in.severity == "":
		return refusedHarmless, ""
	case !in.concerned:
		return refusedForeign, ""
	case in.ours:
		return refusedImpostor, finding.Critical
	}
	return refusedAttempt, in.severity
}

// refused alerts about a dangerous call that AWS refused: an actor who tries the doors may
// find one that opens. It is published once an hour for an actor and an operation, so
// that a loop of attempts is one alert. severity is that of the event's row, "" for none.
func refused(severity finding.Severity, concerned bool) func(context.Context, *reaction.Case) (*reaction.Decision, error) {
	return func(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
		reason, severity := decideRefused(refusedInput{
			severity: severity, concerned: concerned, ours: c.Config.Identity.Is(c.Event.Actor), made: c.Config.Makes(c.Event.Name),
		})
		c.Debug(ctx, "refused call decided", "reason", reason)
		id := c.OnceAnHour("refused/" + c.Event.Name)
		if severity == "" {
			return nil, nil
		}
		c.Await(ctx, "who was denied the call") // a claim does not stand for the real one
		if c.ToldThisHour(id) {
			return nil, nil
		}
		return &reaction.Decision{Once: id, Tell: func() []alert.Alert {
			who := c.Who()
			a := c.NewAlert(alert.KindAccess, "")
			a.ID, a.Severity = id, severity
			a.Title = fmt.Sprintf("%s was denied %s", who, c.Event.Name)
			a.Summary = fmt.Sprintf("%s called %s, and AWS denied it (%s). Nothing was changed. Further attempts by the same actor within the hour are not alerted.", who, c.Event.Name, c.Event.ErrorCode)
			a.Risk = "A denied call does no harm by itself. The actor may be probing for what they can do, or may use stolen credentials."
			a.Action = alert.Action{Status: alert.StatusNone, Description: "There is nothing to repair."}
			if reason == refusedImpostor {
				a.Kind = alert.KindGuard
				a.Title = fmt.Sprintf("cmkeeper's own %s was denied %s", c.Config.Identity.Noun(), c.Event.Name)
				a.Risk = "cmkeeper never makes this call. Somebody else holds its credentials, or shares its role."
			}
			if c.Event.KeyARN != "" {
				a.Key = c.Named()
			}
			a.Next = []string{
				"Ask " + who + " what this was for. If nobody knows, revoke the credentials and check what else they did:",
				c.ActorCommand(),
			}
			if c.Event.ErrorMessage != "" {
				a.Facts = append(a.Facts, alert.Fact{Name: "AWS's answer", Values: []string{c.Event.ErrorMessage}})
			}
			return []alert.Alert{a}
		}}, nil
	}
}
