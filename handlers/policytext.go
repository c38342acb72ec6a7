package handlers

import (
	"fmt"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
)

// tellPolicy fills in what is told of every policy: a has its key, its findings
// and where it began.
func (r *Router) tellPolicy(a *alert.Alert, known bool, v verdict) {
	name := shortName(a.Key)
	switch {
	case len(a.Findings) > 0:
		a.Title = fmt.Sprintf("Key policy of %s: %s", name, a.Findings[0].Message)
		a.Risk = finding.Risk(a.Findings)
		a.Next = append(a.Next, "Check the findings with the key's owner. CloudTrail has the former policies in the PutKeyPolicy and CreateKey events:",
			r.trailCommand(a.Key.ARN), "The live policy:")
	default:
		a.Title = "Key policy of " + name + " was changed"
		a.Risk = "Nothing was found wrong with the new policy."
		a.Next = append(a.Next, r.trailCommand(a.Key.ARN))
	}
	a.Next = append(a.Next, r.kmsCommand("get-key-policy", a.Key.ARN, "--policy-name default", "--output text"))
	switch {
	case a.EventName == sweepEvent:
		a.Summary = "The sweep found another key policy than the last one that was recorded; no event told of the change. CloudTrail shows who called PutKeyPolicy."
	case a.Actor == nil:
		a.Summary = fmt.Sprintf("Somebody (the event does not say who) called %s. The policy was read and judged.", a.EventName)
	default:
		a.Summary = fmt.Sprintf("%s called %s. The policy was read and judged.", a.Actor.Name, a.EventName)
	}
	a.Action = alert.Action{Mode: string(r.config.Policy), Status: alert.StatusNone}
	var lines []string
	for _, c := range v.changes {
		lines = append(lines, fmt.Sprintf("%s: %s", c.Kind, c.Text))
	}
	switch {
	case v.policy == nil:
		lines = []string{"not known, because the policy cannot be read"}
	case !known:
		lines = []string{"the last policy is not known, so there is nothing to compare with"}
	case len(lines) == 0:
		lines = []string{"none in effect"}
	}
	a.Facts = append(a.Facts, alert.Fact{Name: "difference from the last recorded policy", Values: lines})
}

// tellLeft says that the policy was left as it is, or what enforce would do.
func (r *Router) tellLeft(a *alert.Alert, d putBackReason, good PolicyVersion) {
	if d == putBackNothing || d == putBackFirst {
		a.Action.Description = leftText(d, r.config.RestoreSeverity)
		return
	}
	id := shellQuote(keyID(a.Key.ARN))
	accept := []string{"If the new policy is meant, say so; it is then the one that is put back:", r.policyCommand("baseline accept " + id)}
	if good.Number > 0 {
		accept = append([]string{"What the live policy changes from the recorded good one, and how to put that back by hand:",
			r.policyCommand(fmt.Sprintf("diff baseline:%s@%d %s", id, good.Number, id))},
			append(r.byHandCommands(a.Key.ARN, good.Number), accept...)...)
	}
	a.Next = append(accept, a.Next...)
	switch {
	case d == putBackGood: // in mode observe
		a.Action.Status = alert.StatusWouldDo
		a.Action.Description = fmt.Sprintf("Would put the policy of %s (version %d) back and read it back.", timeText(good.At), good.Number)
	case r.config.Policy == Enforce:
		a.Action.Status = alert.StatusRefused
		a.Action.Description = leftText(d, r.config.RestoreSeverity)
	default:
		a.Action.Description = leftText(d, r.config.RestoreSeverity) + " Mode enforce would leave it, too."
	}
}

// tellAccepted is for a policy that somebody accepted: no alarm, but still told.
func (r *Router) tellAccepted(a *alert.Alert, base Baseline, document string) {
	v, _ := base.acceptance(document)
	a.ID = fmt.Sprintf("accepted/%s/%d/%s", keyID(a.Key.ARN), v.Number, v.SHA256)
	if a.Severity.AtLeast(alert.High) {
		a.Severity = alert.Medium
	} else {
		a.Severity = alert.Info
	}
	a.Title = fmt.Sprintf("Key policy of %s was accepted by %s", shortName(a.Key), v.AcceptedBy)
	a.Summary = fmt.Sprintf("%s accepted exactly this policy at %s (version %d), and it is live.", v.AcceptedBy, timeText(v.At), v.Number)
	a.Action.Description = "The policy is left as it is. From now on it is the one that is put back."
}
