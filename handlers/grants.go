package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/posture"
)

// grant judges a grant that was made: the live one, or where that is gone the one in
// the event.
func grant(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	made, ok := c.Event.Detail.(events.CreateGrant)
	if !ok {
		return nil, nil
	}
	grants, err := c.Grants(ctx)
	switch {
	case errors.Is(err, inventory.ErrNotFound):
		return c.Gone(ctx, alert.KindGrant, false)
	case err != nil && !errors.Is(err, inventory.ErrAccessDenied):
		return nil, err
	}
	g := inventory.Grant{
		ID: made.GrantID, Grantee: made.GranteePrincipal, GranteeService: made.GranteeServicePrincipal,
		Retiring: made.RetiringPrincipal, Operations: made.Operations, Constrained: made.Constrained,
	}
	i := slices.IndexFunc(grants, func(g inventory.Grant) bool { return g.ID == made.GrantID })
	if i >= 0 {
		g = grants[i]
	}
	findings, wait := judgeGrant(ctx, c, g)
	if wait {
		return nil, nil
	}
	c.Log().InfoContext(ctx, "grant made", "grant", g.ID, "findings", len(findings))
	if len(findings) == 0 {
		return nil, nil
	}
	return c.AboutKey(ctx, alert.KindGrant, "", func(a *alert.Alert) {
		a.Severity, a.Findings, a.Dangers = findings[0].Severity, findings, []string{posture.Grant(g.ID)}
		to := reaction.OrUnknown(g.Grantee + g.GranteeService)
		who := to
		if c.Config.Posture.IsForeign(to) {
			who = grantee(to)
		}
		a.Title = fmt.Sprintf("Grant on %s lets %s %s", reaction.ShortName(a.Key), who, findings[0].Access)
		a.Summary = fmt.Sprintf("%s called CreateGrant. The grant %s lets %s use the key, in addition to the key policy.", c.Who(), reaction.OrUnknown(g.ID), to)
		a.Risk = finding.Risk(findings) + " The key policy does not show grants."
		a.Action = alert.Action{Mode: string(c.Config.Policy), Status: alert.StatusNone, Description: "cmkeeper does not revoke grants, because workloads may depend on them."}
		a.Next = []string{
			"If the grant is not intended, revoke it. Everything that uses the key through this grant then fails:",
			c.KMSCommand("revoke-grant --grant-id %s", command.GrantID(g.ID)),
			c.KMSCommand("list-grants"),
		}
		operations := "operations"
		if i < 0 {
			operations = "operations, from the event (the grant was not found among the live ones, or those may not be listed)"
		}
		a.Facts = append(a.Facts, alert.Fact{Name: operations, Values: g.Operations})
	})
}

// judgeGrant judges a grant. wait: it has findings unless an AWS service made it, which
// only a message says so far.
func judgeGrant(ctx context.Context, c *reaction.Case, g inventory.Grant) (findings []finding.Finding, wait bool) {
	service := byService(c.Event)
	findings = c.Config.Posture.JudgeGrant(g, service)
	if service && c.Event.Claimed && len(findings) == 0 {
		findings = c.Config.Posture.JudgeGrant(g, false)
		wait = len(findings) > 0 && c.Await(ctx, "that an AWS service made the grant")
	}
	return findings, wait
}

// grantee names a principal of another account in a title.
func grantee(principal string) string {
	of := "account " + arn.Account(principal)
	if name := arn.Parse(principal).Resource; name != "" && name != "root" {
		return name + " of " + of
	}
	return of
}

// byService reports whether an AWS service called, by itself or on behalf of somebody.
// What passes on any call as it is (the console, CloudFormation) is not meant: that is
// the person's own call.
func byService(e events.Event) bool {
	switch e.Actor.InvokedBy {
	case "signin.amazonaws.com", "internal.amazonaws.com", "cloudformation.amazonaws.com":
		return false
	case "AWS Internal":
		return true
	}
	return e.Actor.Type == "AWSService" || posture.IsService(e.Actor.InvokedBy)
}

// grantEnded alerts that a person ended a grant, since a volume, a table or a backup may
// depend on it. What services end they are done with, and a grantee who retires a grant
// gives up what is theirs.
func grantEnded(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	removed, _ := c.Event.Detail.(events.GrantRemoval)
	c.Log().InfoContext(ctx, "grant ended", "grant", removed.GrantID)
	if c.Event.Name != "RevokeGrant" || byService(c.Event) && (!c.Event.Claimed || c.Await(ctx, "that an AWS service ended the grant")) {
		return nil, nil
	}
	return c.AboutKey(ctx, alert.KindGrant, "", func(a *alert.Alert) {
		a.Severity = finding.Low
		a.Title = "Grant on " + reaction.ShortName(a.Key) + " was revoked"
		a.Summary = fmt.Sprintf("%s called RevokeGrant for grant %s.", c.Who(), reaction.OrUnknown(removed.GrantID))
		a.Risk = "Everything that used the key through this grant now fails, for example an encrypted volume when it is attached next. CloudTrail's record of CreateGrant shows who held the grant."
		a.Action = alert.Action{Mode: string(c.Config.Policy), Status: alert.StatusNone, Description: "A revoked grant cannot be restored; it has to be created again."}
		a.Next = []string{"If something has failed since then, look up what the grant was for:", c.TrailCommand()}
	})
}
