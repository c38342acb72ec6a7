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
	"github.com/cmkeeper/cmkeeper/internal/arn"
)

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

// decideOrigin tells our own calls from everybody else's. calls are those of
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

// impostor tells that somebody else acts with our role.
func impostor(_ context.Context, c *reaction.Case) (*reaction.Decision, error) {
	return &reaction.Decision{Tell: func() []alert.Alert {
		us, request := c.Config.Identity, reaction.OrUnknown(c.Event.RequestID)
		a := c.NewAlert(alert.KindGuard, "/impostor")
		a.Severity = finding.Critical
		a.Title = fmt.Sprintf("%s was called with cmkeeper's own %s, but not by cmkeeper", c.Event.Name, us.Noun())
		a.Summary = fmt.Sprintf("CloudTrail shows a successful %s by %s. cmkeeper runs as this %s and has no record of making this call (request id %s).",
			c.Event.Name, c.Event.Actor, us.Noun(), request)
		a.Risk = "Somebody else holds cmkeeper's credentials, or shares its role. They may do what the role may do: switch rotation, cancel deletions, and where it re-encrypts, read and rewrite data."
		a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper did not touch its own role. The call itself is still checked like any other."}
		a.Next = []string{
			"Find out who used the role: compare the source address, user agent and session above with cmkeeper's tasks.",
		}
		if us.Role {
			a.Next = append(a.Next,
				"If nobody knows the caller, end all sessions of the role: IAM console, the role, Revoke sessions. cmkeeper's tasks get fresh credentials by themselves.",
				"aws iam get-role --role-name "+reaction.Quote(us.Name)+" --query Role.AssumeRolePolicyDocument")
		}
		a.Next = append(a.Next, "If a person or another tool uses the role on purpose, give it a role of its own.")
		if c.Event.KeyARN != "" {
			a.Key = &alert.Key{ARN: c.Event.KeyARN}
		}
		a.Facts = append(a.Facts, alert.Fact{Name: "request id", Values: []string{request}})
		return []alert.Alert{a}
	}}, nil
}
