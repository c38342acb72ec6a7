package handlers

import (
	"cmp"
	"fmt"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/posture"
)

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
	period := c.Config.RotationPeriodDays
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
	a.Severity, a.Key = finding.Info, c.Describe(described(c))
	a.Risk = "None known."
	a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper has nothing to do about it."}
	a.Next = []string{"Nothing, if this was intended. Who did what with the key:", c.TrailCommand()}
	return a
}
