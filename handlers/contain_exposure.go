package handlers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/posture"
)

// exposure is a way to use a key for everyone, or for an account that is not
// trusted: a finding about its policy, or a grant.
type exposure struct {
	finding.Finding
	// grant is the grant's id, "" for a finding about the policy.
	grant string
}

// name tells exposures apart. Grants to one account are one: another one
// gives that account little more.
func (x exposure) name() string {
	if owner := arn.Account(x.Principal); owner != "" && x.grant != "" {
		return x.ID.String() + " " + owner
	}
	return x.ID.String() + " " + x.Principal
}

func names(open []exposure) []string {
	var all []string
	for _, x := range open {
		all = append(all, x.name())
	}
	return all
}

// exposures reads how the case's key is open now.
func exposures(ctx context.Context, c *reaction.Case) ([]exposure, error) {
	document, err := c.Policy(ctx)
	if err != nil {
		return nil, err
	}
	grants, err := c.Grants(ctx)
	if err != nil {
		return nil, err
	}
	open := policyExposures(c, document)
	for _, g := range grants {
		if x, ok := grantExposure(c, g); ok {
			open = append(open, x)
		}
	}
	return open, nil
}

// noteExposures notes how a key is open when it is swept, so that an event later is not
// taken for the one that opened it.
func noteExposures(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	open, err := exposures(ctx, c)
	if err != nil {
		return c.Unread(ctx, err)
	}
	doc, err := c.Ledger(ctx)
	if err != nil {
		return nil, err
	}
	doc.NoteExposures(names(open), c.At)
	return nil, nil
}

// policyExposures are those of a policy. For one that cannot be parsed there are none:
// the policy reaction alerts about it.
func policyExposures(c *reaction.Case, document string) []exposure {
	var open []exposure
	v := c.JudgePolicy(c.Event.KeyARN, document, false)
	if v.Parsed == nil {
		return nil
	}
	for _, f := range v.Found {
		if f.Exposes() {
			open = append(open, exposure{Finding: f})
		}
	}
	return open
}

// grantExposure is that of a grant to a principal of an account that is not trusted,
// for more than reading the key's settings.
func grantExposure(c *reaction.Case, g inventory.Grant) (exposure, bool) {
	found := c.Config.Posture.JudgeGrant(g, false)
	i := slices.IndexFunc(found, func(f finding.Finding) bool { return f.ID == finding.GrantToForeignAccount })
	uses := slices.ContainsFunc(g.Operations, func(o string) bool {
		return o != "DescribeKey" && o != "GetPublicKey" && o != "RetireGrant"
	})
	if i < 0 || !uses {
		return exposure{}, false
	}
	return exposure{grant: g.ID, Finding: found[i]}, true
}

// opened says what the event has opened: for EnableKey, what is open of a key that was
// contained.
func opened(c *reaction.Case, doc *ledger.Key, open []exposure) (opened []exposure, pending bool) {
	switch {
	case c.Event.Name != reaction.EnableKey:
		return openedBy(c, doc, open)
	case doc.EnablesContained(c.Event):
		return slices.Clone(open), false
	}
	return nil, false
}

// openedBy are the exposures that the event says it made, as far as they are none from
// before it and are still there. pending: it says it made some, and none of them can
// be seen.
func openedBy(c *reaction.Case, doc *ledger.Key, open []exposure) (opened []exposure, pending bool) {
	var made func(exposure) bool
	switch d := c.Event.Detail.(type) {
	case events.CreateGrant:
		_, pending = grantExposure(c, inventory.Grant{ID: d.GrantID, Grantee: d.GranteePrincipal, Operations: d.Operations})
		made = func(x exposure) bool { return x.grant != "" && x.grant == d.GrantID }
	case events.CreateKey, events.PutKeyPolicy:
		sent, _ := reaction.PolicySent(c.Event)
		said := policyExposures(c, sent)
		pending = len(said) > 0
		made = func(x exposure) bool {
			// A PutKeyPolicy without its policy was cut short by CloudTrail.
			return x.grant == "" && (sent == "" && c.Event.Name == reaction.PutKeyPolicy || slices.ContainsFunc(said, func(s exposure) bool { return s.name() == x.name() }))
		}
	default:
		return nil, false
	}
	since := c.Event.Time
	if earliest := c.Event.Sent.Add(-reaction.ClaimPatience); c.Event.Claimed && since.Before(earliest) {
		since = earliest // a claim reaches back no further than CloudTrail is late
	}
	for _, x := range open {
		if made(x) {
			pending = false
			if !doc.ExposedBefore(x.name(), since) {
				opened = append(opened, x)
			}
		}
	}
	return opened, pending
}

// keyUse is why a key counts as used, and what of that is not known.
type keyUse struct{ why, unknown []string }

// useOf finds out whether somebody would miss the key: its last use, and the grants
// that AWS services hold for what they keep under it.
func useOf(ctx context.Context, c *reaction.Case) (keyUse, error) {
	var use keyUse
	quiet := time.Duration(c.Config.ContainQuietDays) * 24 * time.Hour
	last, err := c.LastUsage(ctx)
	switch {
	case err != nil && !reaction.Unreadable(err):
		return use, err
	case err != nil:
		use.unknown = append(use.unknown, fmt.Sprintf("its last use: %v", err))
	case c.At.Sub(last.At) < quiet:
		use.why = append(use.why, fmt.Sprintf("it was last used by %s, less than %d days ago", last, c.Config.ContainQuietDays))
	case last.At.IsZero() && last.Created.Before(last.Since) && c.At.Sub(last.Since) < quiet:
		use.unknown = append(use.unknown, "its last use: "+last.String())
	}
	grants, err := c.Grants(ctx)
	if err != nil {
		return use, err
	}
	for _, g := range grants {
		holder := g.Grantee + g.GranteeService
		why := fmt.Sprintf("%s holds a grant for %s", holder, strings.Join(g.Operations, ", "))
		if (posture.IsService(holder) || strings.Contains(holder, ":role/aws-service-role/")) && !slices.Contains(use.why, why) {
			use.why = append(use.why, why)
		}
	}
	return use, nil
}
