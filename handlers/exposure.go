package handlers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/keypolicy"
)

// exposure is a way to use a key for everyone, or for an account that is not
// trusted: a finding about its policy, or a grant.
type exposure struct {
	finding.Finding
	// grant is the grant's id, "" for a finding about the policy.
	grant string
}

// name tells exposures apart. Grants to one account are one: who has one gains
// little by another.
func (x exposure) name() string {
	if owner, ok := principalAccount(x.Principal); ok && x.grant != "" {
		return x.ID.String() + " " + owner
	}
	return x.ID.String() + " " + x.Principal
}

// seenExposure is an exposure since a read that showed it first.
type seenExposure struct {
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
}

// noteExposures notes what was read at the given time. An older read never
// replaces a newer one.
func (d *keyDoc) noteExposures(open []exposure, at time.Time) {
	if at.Before(d.ExposuresAt) {
		return
	}
	before := d.Exposures
	d.Exposures, d.ExposuresAt = nil, at
	for _, x := range open {
		seen := seenExposure{Name: x.name(), Since: at}
		if i := slices.IndexFunc(before, func(b seenExposure) bool { return b.Name == seen.Name }); i >= 0 {
			seen.Since = before[i].Since
		}
		if !slices.ContainsFunc(d.Exposures, func(o seenExposure) bool { return o.Name == seen.Name }) {
			d.Exposures = append(d.Exposures, seen)
		}
	}
}

// exposedBefore reports whether an exposure was there before a time.
func (d *keyDoc) exposedBefore(x exposure, t time.Time) bool {
	return slices.ContainsFunc(d.Exposures, func(s seenExposure) bool { return s.Name == x.name() && s.Since.Before(t) })
}

// exposures reads how a key is open now, and its policy.
func (r *Router) exposures(ctx context.Context, keyARN string) (open []exposure, document string, err error) {
	document, err = r.facts.Policy(ctx, keyARN)
	if err != nil {
		return nil, "", err
	}
	grants, err := r.facts.Grants(ctx, keyARN)
	if err != nil {
		return nil, "", err
	}
	open = r.exposuresOf(keyARN, document)
	for _, g := range grants {
		if x, ok := r.grantExposure(g); ok {
			open = append(open, x)
		}
	}
	return open, document, nil
}

// noteOpen notes how a key is open when it is swept, so that an event later is not
// taken for the one that opened it.
func (r *Router) noteOpen(ctx context.Context, e events.Event, at time.Time) error {
	open, _, err := r.exposures(ctx, e.KeyARN)
	if err != nil {
		return r.sweepUnread(ctx, e, err)
	}
	_, err = r.updateKey(ctx, e.KeyARN, func(doc *keyDoc) { doc.noteExposures(open, at) })
	return err
}

// exposuresOf are those of a policy. One that cannot be read is judged by
// nobody, and told by the policy reaction.
func (r *Router) exposuresOf(keyARN, document string) []exposure {
	policy, err := keypolicy.Parse([]byte(document))
	if err != nil {
		return nil
	}
	var open []exposure
	for _, f := range policy.Findings(keypolicy.Context{Account: r.config.Identity.Account, TrustedAccounts: r.config.TrustedAccounts, KeyARN: keyARN}) {
		if f.Exposes() {
			open = append(open, exposure{Finding: f})
		}
	}
	return open
}

// grantExposure is that of a grant to a principal of an account that is not
// trusted, for more than reading the key's settings.
func (r *Router) grantExposure(g inventory.Grant) (exposure, bool) {
	_, found := decideGrant(grantInput{grant: g, account: r.config.Identity.Account, trusted: r.config.TrustedAccounts})
	i := slices.IndexFunc(found, finding.Finding.Exposes)
	if i < 0 {
		return exposure{}, false
	}
	return exposure{grant: g.ID, Finding: found[i]}, true
}

// openedBy are the exposures that an event says it made, as far as they are none
// from before it and are still there. pending: it says it made some, and none of
// them can be seen.
func (r *Router) openedBy(e events.Event, doc keyDoc, open []exposure) (opened []exposure, pending bool) {
	var made func(exposure) bool
	switch d := e.Detail.(type) {
	case events.CreateGrant:
		_, pending = r.grantExposure(inventory.Grant{ID: d.GrantID, Grantee: d.GranteePrincipal, Operations: d.Operations})
		made = func(x exposure) bool { return x.grant != "" && x.grant == d.GrantID }
	case events.CreateKey, events.PutKeyPolicy:
		sent, _ := policySent(e)
		said := r.exposuresOf(e.KeyARN, sent)
		pending = len(said) > 0
		made = func(x exposure) bool {
			// A PutKeyPolicy without its policy was cut short by CloudTrail.
			return x.grant == "" && (sent == "" && e.Name == "PutKeyPolicy" || slices.ContainsFunc(said, func(s exposure) bool { return s.name() == x.name() }))
		}
	default:
		return nil, false
	}
	for _, x := range open {
		if made(x) {
			pending = false
			if !doc.exposedBefore(x, e.Time) {
				opened = append(opened, x)
			}
		}
	}
	return opened, pending
}

// keyUse is why a key counts as used, and what of that is not known.
type keyUse struct{ why, unknown []string }

// useOf finds out whether somebody would miss the key: its last use, and the
// grants that AWS services hold for what they keep under it.
func (r *Router) useOf(ctx context.Context, key inventory.Key, at time.Time) (keyUse, error) {
	var use keyUse
	quiet := time.Duration(r.config.ContainQuietDays) * 24 * time.Hour
	last, err := r.facts.LastUsage(ctx, key.ARN)
	switch {
	case err != nil && !unreadable(err):
		return use, err
	case err != nil:
		use.unknown = append(use.unknown, fmt.Sprintf("its last use: %v", err))
	case at.Sub(last.At) < quiet:
		use.why = append(use.why, fmt.Sprintf("it was last used by %s, less than %d days ago", last, r.config.ContainQuietDays))
	case last.At.IsZero() && last.Created.Before(last.Since) && at.Sub(last.Since) < quiet:
		use.unknown = append(use.unknown, "its last use: "+last.String())
	}
	grants, err := r.facts.Grants(ctx, key.ARN)
	switch {
	case err != nil && !unreadable(err):
		return use, err
	case err != nil:
		use.unknown = append(use.unknown, fmt.Sprintf("its grants: %v", err))
	}
	for _, g := range grants {
		holder := g.Grantee + g.GranteeService
		why := fmt.Sprintf("%s holds a grant for %s", holder, strings.Join(g.Operations, ", "))
		if (isService(holder) || strings.Contains(holder, ":role/aws-service-role/")) && !slices.Contains(use.why, why) {
			use.why = append(use.why, why)
		}
	}
	return use, nil
}
