package handlers

import (
	"context"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
)

// The mutating calls that cmkeeper makes. All others made by its role are
// somebody else's.
const (
	opEnableRotation = "EnableKeyRotation"
	opCancelDeletion = "CancelKeyDeletion"
	opEnableKey      = "EnableKey"
	opPutPolicy      = "PutKeyPolicy"
	opDisableKey     = "DisableKey"
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

// isOurs reports whether the actor is the role or user that cmkeeper runs as.
func (i Identity) isOurs(a events.Actor) bool {
	if a.AccountID != i.Account {
		return false
	}
	if !i.Role {
		return a.RoleARN == "" && (a.Name == i.Name || a.Type == "Root" && i.Name == "root")
	}
	return a.RoleARN != "" && path.Base(a.RoleARN) == i.Name
}

// makes reports whether the active modes make a call of this operation.
func (c Config) makes(operation string) bool {
	switch operation {
	case opEnableRotation:
		return c.Rotation == Enforce
	case opCancelDeletion, opEnableKey:
		return c.Deletion == Enforce
	case opPutPolicy:
		return c.Policy == Enforce
	case opDisableKey:
		return c.Contain == Enforce
	}
	return false
}

// decideOrigin tells our own calls from everybody else's. calls are those of
// the key's document.
func decideOrigin(e events.Event, c Config, calls []ownCall) origin {
	if !c.Identity.isOurs(e.Actor) {
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
		case sameCall && c.makes(e.Name) && (!call.Known || e.RequestID == "") && e.Time.Sub(call.At).Abs() <= callWindow:
			return byEcho
		}
	}
	return byImpostor
}

// origin reads what decideOrigin needs and decides.
func (r *Router) origin(ctx context.Context, e events.Event) (origin, error) {
	if e.Kind != events.APICall || e.ReadOnly || !r.config.Identity.isOurs(e.Actor) {
		return byOthers, nil
	}
	var doc keyDoc
	if e.KeyARN != "" {
		var err error
		if doc, err = r.knownKey(ctx, e.KeyARN); err != nil {
			return "", err
		}
	}
	return decideOrigin(e, r.config, doc.Calls), nil
}

// impostor tells that somebody else acts with our role.
func (r *Router) impostor(ctx context.Context, e events.Event) error {
	a := r.newAlert(e, alert.KindGuard, "/impostor")
	a.Severity = alert.Critical
	a.Title = fmt.Sprintf("%s was called with cmkeeper's own role, but not by cmkeeper", e.Name)
	a.Summary = fmt.Sprintf("CloudTrail shows a successful %s by %s. cmkeeper runs as this %s and has no record of making this call (request id %s).",
		e.Name, e.Actor, r.config.Identity.word(), orUnknown(e.RequestID))
	a.Risk = "Somebody else holds cmkeeper's credentials, or shares its role. Whatever the role may do, they may do: switch rotation, cancel deletions, and where it re-encrypts, read and rewrite data."
	a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper did not touch its own role. The call itself is still checked like anybody's."}
	a.Next = []string{
		"Find out who used the role: compare the source address, user agent and session above with cmkeeper's tasks.",
	}
	if r.config.Identity.Role {
		a.Next = append(a.Next,
			"If it was nobody you know, end all sessions of the role: IAM console, the role, Revoke sessions. cmkeeper's tasks get fresh credentials by themselves.",
			"aws iam get-role --role-name "+shellQuote(r.config.Identity.Name)+" --query Role.AssumeRolePolicyDocument")
	}
	a.Next = append(a.Next, "If a person or another tool uses the role on purpose, give it a role of its own.")
	if e.KeyARN != "" {
		a.Key = &alert.Key{ARN: e.KeyARN}
	}
	a.Facts = append(a.Facts, alert.Fact{Name: "request id", Values: []string{orUnknown(e.RequestID)}})
	return r.publish(ctx, a)
}

func (i Identity) word() string {
	if i.Role {
		return "role"
	}
	return "user"
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// shellQuote is short for what nearly every command needs.
var shellQuote = alert.ShellQuote
