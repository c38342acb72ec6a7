package handlers

import (
	"fmt"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// tell tells of a policy that is left as it is.
func (p *policyCase) tell() []alert.Alert {
	a := p.common(p.judgedAlert())
	switch {
	case p.exempt:
		reaction.TellExempt(&a, p.exemption, p.Config.Policy)
	case p.reason == policyAccepted:
		p.tellAccepted(&a)
	default:
		p.tellLeft(&a)
	}
	return []alert.Alert{a}
}

// judgedAlert begins the alert about a policy. A sweep makes one for the same policy
// again only where another one was judged in between.
func (p *policyCase) judgedAlert() alert.Alert {
	a := p.NewAlert(alert.KindPolicy, "")
	if p.IsSweep() {
		var since int64
		if p.earlier != nil {
			since = p.earlier.At.UnixMilli()
		}
		a.ID = fmt.Sprintf("sweep/%s/policy/%s/%d", arn.KeyID(p.key.ARN), ledger.Hash(p.document), since)
	}
	return a
}

// common fills in what is told of every policy.
func (p *policyCase) common(a alert.Alert) alert.Alert {
	a.Key, a.Findings = p.Describe(p.key), p.Found
	_, a.Severity = decidePolicy(policyInput{findings: a.Findings})
	name := reaction.ShortName(a.Key)
	switch {
	case len(a.Findings) > 0:
		a.Title = fmt.Sprintf("Key policy of %s: %s", name, a.Findings[0].Message)
		a.Risk = finding.Risk(a.Findings)
		a.Next = append(a.Next, "Check the findings with the key's owner. CloudTrail has the former policies in the PutKeyPolicy and CreateKey events:",
			p.TrailCommand(), "The live policy:")
	default:
		a.Title = "Key policy of " + name + " was changed"
		a.Risk = "Nothing was found wrong with the new policy."
		a.Next = append(a.Next, p.TrailCommand())
	}
	a.Next = append(a.Next, p.KMSCommand("get-key-policy", "--policy-name default", "--output text"))
	switch {
	case a.EventName == reaction.SweepName:
		a.Summary = "The sweep found another key policy than the last one that was recorded; no event reported the change. CloudTrail shows who called PutKeyPolicy."
	case a.Actor == nil:
		a.Summary = fmt.Sprintf("Somebody (the event does not say who) called %s. The policy was read and judged.", a.EventName)
	default:
		a.Summary = fmt.Sprintf("%s called %s. The policy was read and judged.", a.Actor.Name, a.EventName)
	}
	a.Action = alert.Action{Mode: string(p.Config.Policy), Status: alert.StatusNone}
	var lines []string
	for _, c := range p.Changes {
		lines = append(lines, fmt.Sprintf("%s: %s", c.Kind, c.Text))
	}
	switch {
	case p.Parsed == nil:
		lines = []string{"not known, because the policy cannot be read"}
	case p.earlier == nil:
		lines = []string{"the last policy is not known, so there is nothing to compare with"}
	case len(lines) == 0:
		lines = []string{"none in effect"}
	}
	a.Facts = append(a.Facts, alert.Fact{Name: "difference from the last recorded policy", Values: lines})
	return a
}

// tellLeft says that the policy was left as it is, or what enforce would do.
func (p *policyCase) tellLeft(a *alert.Alert) {
	if p.restore == restoreNothing || p.restore == restoreFirst {
		a.Action.Description = leftText(p.restore, p.Config.RestoreSeverity)
		return
	}
	id := reaction.Quote(arn.KeyID(a.Key.ARN))
	good, _ := p.base.Good()
	accept := []string{"If the new policy is intended, accept it. It is then the one that is restored:", p.PolicyCommand("baseline accept %s", id)}
	if good.Number > 0 {
		accept = append([]string{"What the live policy changes from the recorded good one, and how to restore that by hand:",
			p.PolicyCommand("diff baseline:%s@%d %s", id, good.Number, id)},
			append(p.byHandCommands(good.Number), accept...)...)
	}
	a.Next = append(accept, a.Next...)
	a.Action.Description = leftText(p.restore, p.Config.RestoreSeverity)
	switch {
	case p.restore == restoreGood: // in mode observe
		a.Action.Status = alert.StatusWouldDo
		a.Action.Description = fmt.Sprintf("Would restore the policy of %s (version %d) and read it back.", reaction.TimeText(good.At), good.Number)
	case p.Config.Policy == reaction.Enforce:
		a.Action.Status = alert.StatusRefused
	default:
		a.Action.Description += " Mode enforce would leave it, too."
	}
}

// byHandCommands restore a recorded policy.
func (p *policyCase) byHandCommands(version int) []string {
	return []string{
		p.PolicyCommand("baseline show %s@%d", reaction.Quote(arn.KeyID(p.key.ARN)), version) + " > good.json",
		p.KMSCommand("put-key-policy", "--policy-name default", "--policy file://good.json"),
	}
}

// tellAccepted is for a policy that somebody accepted: no alarm, but still told.
func (p *policyCase) tellAccepted(a *alert.Alert) {
	v, _ := p.base.Acceptance(p.document)
	a.ID = fmt.Sprintf("accepted/%s/%d/%s", arn.KeyID(a.Key.ARN), v.Number, v.SHA256)
	if a.Severity.AtLeast(finding.High) {
		a.Severity = finding.Medium
	} else {
		a.Severity = finding.Info
	}
	a.Title = fmt.Sprintf("Key policy of %s was accepted by %s", reaction.ShortName(a.Key), v.AcceptedBy)
	a.Summary = fmt.Sprintf("%s accepted exactly this policy at %s (version %d), and it is live.", v.AcceptedBy, reaction.TimeText(v.At), v.Number)
	a.Action.Description = "The policy is left as it is. From now on it is the one that is restored."
}

// leftText says why the good policy is not restored.
func leftText(reason restoreReason, threshold finding.Severity) string {
	switch reason {
	case restoreFirst:
		return "The policy is left as it is: the key was made with it."
	case restoreNothing:
		return fmt.Sprintf("The policy is left as it is: nothing of severity %s or above is new in it.", threshold)
	case restoreUnknown:
		return "The policy is left as it is: no good policy of this key is recorded that could be restored."
	case restoreDrifted:
		return "The policy is left as it is: the one before it was not the recorded good one either, so restoring that would undo more than this change."
	case restoreLockout:
		return "The policy is left as it is: under the recorded good one nobody in the account could change it any more."
	case restoreUnread:
		return "The policy is left as it is: cmkeeper has never read the key as this role under the recorded good one, and might be shut out by it."
	case restoreAgain:
		return "The policy is left as it is: a policy of the same actor, or of one that is not known, was taken away before, and nobody has accepted one since. Manual action required."
	case restoreOften:
		return "The policy is left as it is: policies of so many actors were taken away that cmkeeper stops until somebody accepts one. Manual action required."
	case restoreAccepted, restoreGood:
	}
	return ""
}
