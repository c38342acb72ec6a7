package handlers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
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
		Key: func() *alert.Key { return c.DescribeKey() },
	}
	if note != nil {
		w.Note = func() alert.Alert { return note(c) }
	}
	return c.Watch(ctx, w)
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
	case name == posture.DangerRotation, name == posture.DangerAge:
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
	case posture.DangerAge:
		return k.Looked(name) && (k.LastRotation.Known() || !c.Config.Posture.AsksLastRotation(k.Key, c.At))
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
	all := c.Config.Posture.Dangers(k, c.At)
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

// dangerAlert is the alert of a sweep about something that is wrong with a key.
func dangerAlert(c *reaction.Case, k posture.Key, d posture.Danger) alert.Alert {
	a := c.NewAlert(d.Kind, "")
	a.Severity, a.Findings, a.Dangers = d.Severity, d.Findings, []string{d.Name}
	a.Key = c.Describe(k.Key)
	name := reaction.ShortName(a.Key)
	a.Summary = d.Text + " A sweep found this; no event has reported it."
	a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper found it as it stands, and leaves it."}
	a.Risk = "Nothing that is encrypted under the key can be read while it cannot be used."
	switch d.Name {
	case posture.DangerPolicy:
		a.Title = "Key policy of " + name + ": " + d.Text
		if len(d.Findings) > 0 {
			a.Title = "Key policy of " + name + ": " + d.Findings[0].Message
		}
		a.Risk = finding.Risk(d.Findings)
		a.Next = []string{"Check the findings with the key's owner. CloudTrail has the former policies in the PutKeyPolicy and CreateKey events:", c.TrailCommand(),
			"The live policy:", c.KMSCommand("get-key-policy --policy-name default --output text")}
	case posture.DangerDeletion:
		a.Title = "Key " + name + " is pending deletion"
		a.Risk = "Once the key is deleted, everything encrypted under it is lost for good; not even AWS can bring it back."
		a.Next = append([]string{"If anything still needs the key, cancel the deletion:"}, c.UndoCommands(k.State, false)...)
	case posture.DangerDisabled:
		a.Title = "Key " + name + " is disabled"
		a.Next = append([]string{"If anything still needs the key, enable it:"}, c.UndoCommands(k.State, true)...)
	case posture.DangerMaterial:
		a.Title = "Key " + name + " has no key material"
		a.Next = c.ImportAgain()
	case posture.DangerExpiry:
		a.Title = "Imported key material of " + name + " is about to expire"
		a.Risk = "From then on, nothing encrypted under the key can be read until the same material is imported again. AWS has no copy of it."
		a.Next = c.ImportAgain()
	case posture.DangerUnavailable:
		a.Title = "Key " + name + " cannot be used: its key store does not answer"
		a.Next = []string{"Look at the key store's connection:", command.Line("aws kms describe-custom-key-stores --region %s", c.InRegion())}
	case posture.DangerRotation:
		tellRotation(c, k, &a, name)
	case posture.DangerAge:
		a.Title = "Key " + name + " has old key material, and KMS cannot rotate it by itself"
		a.Risk = "All data stays under one generation of key material: whoever got hold of it can read all of that."
		a.Next = reaction.ReplaceKey(a.Key)
	case posture.DangerReopened:
		a.Title = "Key " + name + " was enabled again while it is open"
		a.Risk = finding.Risk(d.Findings)
		a.Next = []string{"Close the key: restore its former policy, or revoke the grant. The live ones:",
			c.KMSCommand("get-key-policy --policy-name default --output text"), c.KMSCommand("list-grants"), c.TrailCommand()}
	case posture.DangerApproval:
		a.Title = "Deletion of key " + name + " is approved by a tag"
		a.Risk = "If the key's deletion is scheduled later, cmkeeper may neither alert at full severity nor cancel it."
		a.Next = []string{"If nobody means to delete the key, remove the tag:", c.KMSCommand("untag-resource --tag-keys %s", command.TagKey(reaction.ApprovalTag))}
	default:
		tellGrant(c, &a, name, d)
	}
	return a
}

func tellGrant(c *reaction.Case, a *alert.Alert, name string, d posture.Danger) {
	a.Title = fmt.Sprintf("Grant on %s: %s", name, d.Findings[0].Message)
	a.Risk = finding.Risk(d.Findings) + " The key policy does not show grants."
	a.Next = []string{"If the grant is not intended, revoke it. Everything that uses the key through this grant then fails:",
		c.KMSCommand("revoke-grant --grant-id %s", command.GrantID(posture.GrantID(d.Name))), c.KMSCommand("list-grants")}
}

func tellRotation(c *reaction.Case, k posture.Key, a *alert.Alert, name string) {
	a.Title = "Rotation of " + name + " is off"
	if k.Rotation.Value.Enabled {
		a.Title = fmt.Sprintf("Rotation of %s is slow: every %d days", name, k.Rotation.Value.Period)
	}
	a.Risk = "Without regular rotation all data stays under one generation of key material, and compliance checks (CIS, Security Hub KMS.4) fail."
	period := c.Config.Posture.RotationPeriodDays
	if former := c.Known().Rotation.Period; former > 0 {
		period = min(period, former)
	}
	a.Next = []string{"Agree on it with the key's owner and exempt the key (CMKEEPER_EXEMPTIONS), or set it:",
		c.KMSCommand("enable-key-rotation --rotation-period-in-days %s", command.Number(period))}
}

// notes are told about calls by others that do no harm, so that all that an auditor looks
// for reaches the topic.
var notes = map[string]func(*reaction.Case) alert.Alert{
	"CreateKey": func(c *reaction.Case) alert.Alert {
		a := note(c, alert.KindPolicy)
		a.Title = "Key " + reaction.ShortName(a.Key) + " was created"
		a.Summary = c.Who() + " called CreateKey. cmkeeper guards the key from now on."
		return a
	},
	reaction.CancelKeyDeletion: func(c *reaction.Case) alert.Alert {
		a := note(c, alert.KindDeletion)
		a.Title = "Deletion of key " + reaction.ShortName(a.Key) + " was cancelled"
		a.Summary = fmt.Sprintf("%s called CancelKeyDeletion. The key is %s now.", c.Who(), cmp.Or(a.Key.State, "in a state that cmkeeper may not read"))
		if a.Key.State == "Disabled" {
			a.Next = append([]string{"KMS leaves the key disabled. If it is needed, enable it:"}, c.UndoCommands(a.Key.State, true)...)
		}
		return a
	},
	reaction.EnableKeyRotation: func(c *reaction.Case) alert.Alert {
		a := note(c, alert.KindRotation)
		a.Title = "Rotation of " + reaction.ShortName(a.Key) + " was turned on"
		a.Summary = c.Who() + " called EnableKeyRotation."
		return a
	},
}

func note(c *reaction.Case, kind alert.Kind) alert.Alert {
	a := c.NewAlert(kind, alert.NoteSuffix)
	a.Severity, a.Key = finding.Info, c.DescribeKey()
	a.Risk = "None known."
	a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper has nothing to do about it."}
	a.Next = []string{"Nothing, if this was intended. Who did what with the key:", c.TrailCommand()}
	return a
}
