package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// grantReason names a decision about a grant.
type grantReason string

const (
	grantByService grantReason = "by-service" // an AWS service made it for what it encrypts
	grantPlain     grantReason = "plain"      // nothing is remarkable about it
	grantFindings  grantReason = "findings"
)

type grantInput struct {
	grant inventory.Grant
	// byService: an AWS service made it on behalf of the actor.
	byService bool
	account   string
	trusted   []string
}

// decideGrant judges a grant. What an AWS service makes for itself or for a
// principal of the account is how encrypted volumes, tables and backups work.
func decideGrant(in grantInput) (grantReason, []alert.Finding) {
	g := in.grant
	// With RetireGrant the grantee ends nothing but this grant.
	access := finding.Metadata | finding.AccessOf(slices.DeleteFunc(slices.Clone(g.Operations), func(o string) bool { return o == "RetireGrant" })...)
	var found []alert.Finding
	add := func(id finding.ID, severity alert.Severity, principal, format string, args ...any) {
		found = append(found, alert.Finding{ID: id, Severity: severity, Principal: principal, Message: fmt.Sprintf(format, args...), Access: access})
	}
	grantee := g.Grantee
	toService := g.GranteeService != "" || isService(grantee)
	owner, known := principalAccount(grantee)
	foreign := known && owner != in.account && !slices.Contains(in.trusted, owner)
	passOn := slices.Contains(g.Operations, "CreateGrant")
	switch {
	case toService:
	case foreign:
		severity := alert.High
		if !g.Constrained && (passOn || access&finding.Read != 0) {
			severity = alert.Critical
		}
		add(finding.GrantToForeignAccount, severity, grantee, "%s of account %s, which is not trusted, may %s under this key, whatever the key policy says.", grantee, owner, strings.Join(g.Operations, ", "))
	case !known:
		add(finding.GrantToUnknown, alert.Medium, grantee, "The grantee %q shows no account: a principal that was deleted, or one of another account.", grantee)
	}
	if passOn && !toService {
		severity := alert.Medium
		if foreign {
			severity = alert.Critical
		}
		add(finding.GrantCanBePassedOn, severity, grantee, "The grantee may make further grants and so let in whomever it likes.")
	}
	if !g.Constrained && !toService && !foreign {
		add(finding.GrantWithoutConstraint, alert.Low, grantee, "The grant holds for every encryption context, so for everything that is encrypted under the key.")
	}
	if owner, known := principalAccount(g.Retiring); known && owner != in.account && !slices.Contains(in.trusted, owner) {
		add(finding.GrantRetiredByForeign, alert.Medium, g.Retiring, "%s of account %s, which is not trusted, may end the grant.", g.Retiring, owner)
	}
	dangerous := slices.ContainsFunc(found, func(f alert.Finding) bool {
		return f.ID == finding.GrantToForeignAccount || f.ID == finding.GrantRetiredByForeign
	})
	switch {
	case in.byService && !dangerous:
		return grantByService, nil
	case len(found) == 0:
		return grantPlain, nil
	}
	return grantFindings, finding.WorstFirst(found)
}

func isService(principal string) bool { return strings.HasSuffix(principal, ".amazonaws.com") }

// principalAccount returns the account in a principal's ARN.
func principalAccount(principal string) (string, bool) {
	p := strings.SplitN(principal, ":", 6)
	if len(p) < 6 || p[0] != "arn" || len(p[4]) != 12 {
		return "", false
	}
	return p[4], true
}

// grant judges a grant that was made: the live one, or where that is gone the
// one that the event tells of.
func (r *Router) grant(ctx context.Context, e events.Event) error {
	made, ok := e.Detail.(events.CreateGrant)
	if !ok {
		return nil
	}
	grants, err := r.facts.Grants(ctx, e.KeyARN)
	switch {
	case errors.Is(err, inventory.ErrNotFound):
		return r.gone(ctx, e, alert.KindGrant, false)
	case err != nil && !errors.Is(err, inventory.ErrAccessDenied):
		return err
	}
	i := slices.IndexFunc(grants, func(g inventory.Grant) bool { return g.ID == made.GrantID })
	live := i >= 0
	g := inventory.Grant{
		ID: made.GrantID, Grantee: made.GranteePrincipal, GranteeService: made.GranteeServicePrincipal,
		Retiring: made.RetiringPrincipal, Operations: made.Operations, Constrained: made.Constrained,
	}
	if live {
		g = grants[i]
	}
	reason, findings := decideGrant(grantInput{
		grant: g, byService: byService(e), account: r.config.Identity.Account, trusted: r.config.TrustedAccounts,
	})
	r.log.InfoContext(ctx, "grant made", "key", e.KeyARN, "event_id", e.ID, "grant", g.ID, "reason", reason)
	if reason != grantFindings {
		return nil
	}
	key, doc, err := r.look(ctx, e)
	if errors.Is(err, inventory.ErrNotFound) {
		return r.gone(ctx, e, alert.KindGrant, false)
	}
	if err != nil {
		return err
	}
	a := r.newAlert(e, alert.KindGrant, "")
	a.Key, a.Severity, a.Findings = r.describe(ctx, key, doc), findings[0].Severity, findings
	a.Title = "A grant on key " + shortName(a.Key) + " is to be looked at"
	a.Summary = fmt.Sprintf("%s called CreateGrant. The grant %s lets %s use the key beside its policy.", who(e), orUnknown(g.ID), orUnknown(g.Grantee+g.GranteeService))
	a.Risk = finding.Risk(findings) + " No key policy shows a grant."
	a.Action = alert.Action{Mode: string(r.config.Policy), Status: alert.StatusNone, Description: "cmkeeper does not end grants: what they are for may depend on them."}
	a.Next = []string{
		"If the grant is not meant, end it; whatever uses the key by it fails then:",
		r.kmsCommand("revoke-grant", e.KeyARN, "--grant-id", shellQuote(g.ID)),
		r.kmsCommand("list-grants", e.KeyARN),
	}
	operations := "operations"
	if !live {
		operations = "operations, from the event: the grant is not among the live ones (any more, yet, or they may not be listed)"
	}
	a.Facts = append(a.Facts, alert.Fact{Name: operations, Values: g.Operations})
	return r.publish(ctx, a)
}

// byService reports whether an AWS service called, by itself or on behalf of
// somebody. What passes on any call as it is (the console, CloudFormation) is not
// meant: that is the person's own call.
func byService(e events.Event) bool {
	switch e.Actor.InvokedBy {
	case "signin.amazonaws.com", "internal.amazonaws.com", "cloudformation.amazonaws.com":
		return false
	case "AWS Internal":
		return true
	}
	return e.Actor.Type == "AWSService" || isService(e.Actor.InvokedBy)
}

// grantEnded tells that a person ended a grant, since a volume, a table or a
// backup may depend on it. What services end they are done with, and a grantee
// who retires a grant gives up what is theirs.
func (r *Router) grantEnded(ctx context.Context, e events.Event) error {
	removed, _ := e.Detail.(events.GrantRemoval)
	r.log.InfoContext(ctx, "grant ended", "key", e.KeyARN, "event", e.Name, "event_id", e.ID, "grant", removed.GrantID)
	if e.Name != "RevokeGrant" || byService(e) {
		return nil
	}
	key, doc, err := r.look(ctx, e)
	if errors.Is(err, inventory.ErrNotFound) {
		return r.gone(ctx, e, alert.KindGrant, false)
	}
	if err != nil {
		return err
	}
	a := r.newAlert(e, alert.KindGrant, "")
	a.Key, a.Severity = r.describe(ctx, key, doc), alert.Low
	a.Title = "A grant on key " + shortName(a.Key) + " was revoked"
	a.Summary = fmt.Sprintf("%s called RevokeGrant for grant %s.", who(e), orUnknown(removed.GrantID))
	a.Risk = "What used the key by this grant fails now, such as an encrypted volume the next time it is attached. Who held it is in CloudTrail's record of its CreateGrant."
	a.Action = alert.Action{Mode: string(r.config.Policy), Status: alert.StatusNone, Description: "A grant cannot be brought back; the one who needs it makes another."}
	a.Next = []string{"If something fails since, look up what the grant was for:", r.trailCommand(e.KeyARN)}
	return r.publish(ctx, a)
}

// look reads the key that an event is about, and what is known of it. A key that
// may not be read has its ARN only. ErrNotFound.
func (r *Router) look(ctx context.Context, e events.Event) (inventory.Key, keyDoc, error) {
	key, err := r.facts.Key(ctx, e.KeyARN)
	if errors.Is(err, inventory.ErrAccessDenied) {
		key, err = inventory.Key{ARN: e.KeyARN}, nil
	}
	if err != nil {
		return key, keyDoc{}, err
	}
	doc, err := r.knownKey(ctx, e.KeyARN)
	return key, doc, err
}
