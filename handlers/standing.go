package handlers

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/posture"
)

// standsSwept is standing for a key that a sweep reads; grants: it reads those as well.
func standsSwept(grants bool) decider {
	return func(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
		if err := readStanding(ctx, c, grants); err != nil {
			return nil, err
		}
		return standing(ctx, c)
	}
}

// standing watches what is wrong with a key as it stands, by what was read. It decides after
// all others.
func standing(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	note := notes[c.Event.Name]
	if note != nil {
		if _, _, err := c.Look(ctx); errors.Is(err, inventory.ErrNotFound) {
			return nil, nil // it is gone by now
		} else if err != nil {
			return nil, err
		}
	}
	doc := c.Opened()
	if doc == nil {
		return nil, nil
	}
	if err := readRevoked(ctx, c, doc); err != nil {
		return nil, err
	}
	w := reaction.Watch{
		Thing: arn.KeyID(c.Event.KeyARN),
		Live:  func() []reaction.Danger { return dangers(c) },
		Looked: func(name string) bool {
			return watches(c.Config, name) && looked(c, name)
		},
		Ends:     func(name string) bool { return ends(c.Event, name) },
		Standing: func() *ledger.Standing { return &c.Known().Standing },
		Update: func(change func(*ledger.Standing)) reaction.Told {
			return reaction.Told{Key: func(k *ledger.Key) { change(&k.Standing) }}
		},
		Key: func() *alert.Key { return c.Describe(described(c)) },
	}
	if note != nil {
		w.Note = func() alert.Alert { return note(c) }
	}
	return c.Watch(ctx, w)
}

// described is the key as it was read; one that may not be read has its ARN only.
func described(c *reaction.Case) inventory.Key {
	key := c.KeyRead()
	key.ARN = c.Event.KeyARN
	return key
}

// readStanding reads what a sweep looks at. What may not be read is not known; the other
// reactions tell of that.
func readStanding(ctx context.Context, c *reaction.Case, grants bool) error {
	key, err := c.Key(ctx)
	if err != nil {
		return err
	}
	var errs []error
	if c.Config.Policy != reaction.Off {
		_, policyErr := c.Policy(ctx)
		errs = append(errs, policyErr)
		if grants {
			_, grantsErr := c.Grants(ctx)
			errs = append(errs, grantsErr)
		}
	}
	if c.Config.Rotation != reaction.Off && key.RotationBlocker() == "" {
		_, rotationErr := c.Rotation(ctx)
		errs = append(errs, rotationErr)
	}
	return errors.Join(slices.DeleteFunc(errs, reaction.Unreadable)...)
}

// readRevoked reads the grants where somebody revoked one that people were told of: only
// that shows that it is over.
func readRevoked(ctx context.Context, c *reaction.Case, doc *ledger.Key) error {
	removed, ok := c.Event.Detail.(events.GrantRemoval)
	if !ok {
		return nil
	}
	if o := doc.Standing.Of(posture.Grant(removed.GrantID)); o == nil || o.Alert == "" {
		return nil
	}
	if _, err := c.Grants(ctx); err != nil && !reaction.Unreadable(err) {
		return err
	}
	return nil
}

// watches reports whether the reaction that dangers of that name belong to is on.
func watches(c reaction.Config, name string) bool {
	switch {
	case name == posture.DangerPolicy, posture.GrantID(name) != "":
		return c.Policy != reaction.Off
	case name == posture.DangerRotation:
		return c.Rotation != reaction.Off
	case name == posture.DangerReopened:
		return c.Contain != reaction.Off
	}
	return c.Deletion != reaction.Off
}

// looked reports whether what was read shows a danger of that name, or that there is none.
func looked(c *reaction.Case, name string) bool {
	k := c.AsRead()
	switch name {
	case posture.DangerReopened:
		return k.Policy.Known() && k.Grants.Known() && k.State != ""
	case posture.DangerApproval:
		return k.Tags.Known()
	}
	return k.Looked(name)
}

// ends reports whether an event ends a danger of that name.
func ends(e events.Event, name string) bool {
	switch e.Name {
	case reaction.CancelKeyDeletion:
		return name == posture.DangerDeletion
	case reaction.EnableKey:
		return name == posture.DangerDisabled
	case reaction.EnableKeyRotation:
		return name == posture.DangerRotation
	case reaction.PutKeyPolicy:
		return name == posture.DangerPolicy || name == posture.DangerReopened
	case reaction.DisableKey:
		return name == posture.DangerReopened
	case "ImportKeyMaterial":
		return name == posture.DangerMaterial || name == posture.DangerExpiry
	case "RevokeGrant", "RetireGrant":
		removed, _ := e.Detail.(events.GrantRemoval)
		return name == posture.Grant(removed.GrantID)
	}
	return false
}

// dangers are what is wrong with the case's key by what was read of it, the worst first.
func dangers(c *reaction.Case) []reaction.Danger {
	k, doc := c.AsRead(), c.Known()
	all := c.Posture.Dangers(k, c.At)
	if k.Guarded() {
		all = append(all, remembered(k, doc, all)...)
	}
	slices.SortStableFunc(all, func(a, b posture.Danger) int { return b.Severity.Rank() - a.Severity.Rank() })
	var found []reaction.Danger
	for _, d := range all {
		// Whom cmkeeper disabled a key for was told of that.
		if watches(c.Config, d.Name) && (d.Name != posture.DangerDisabled || !doc.IsContained()) {
			found = append(found, reaction.Danger{Name: d.Name, Alert: dangerAlert(c, k, d)})
		}
	}
	return found
}

// remembered are the dangers that only the key's document shows.
func remembered(k posture.Key, doc *ledger.Key, known []posture.Danger) (all []posture.Danger) {
	if doc.Contained != nil && k.Enabled() {
		var open []finding.Finding
		for _, d := range known {
			for _, f := range d.Findings {
				if f.Exposes() || f.ID == finding.GrantToForeignAccount && f.Severity.AtLeast(finding.High) {
					open = append(open, f)
				}
			}
		}
		if len(open) > 0 {
			all = append(all, posture.Danger{Name: posture.DangerReopened, Kind: alert.KindContainment, Severity: finding.Critical, Findings: finding.WorstFirst(open),
				Text: "cmkeeper disabled the key because it was open. It was enabled again, and is still open."})
		}
	}
	if day, ok := k.Tags.Value[reaction.ApprovalTag]; ok && k.Tags.Known() {
		all = append(all, posture.Danger{Name: posture.DangerApproval, Kind: alert.KindTag, Severity: finding.High,
			Text: "The tag " + reaction.ApprovalTag + "=" + strings.TrimSpace(day) + " approves the deletion of the key, should somebody schedule it."})
	}
	return all
}
