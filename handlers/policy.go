package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/keypolicy"
	"github.com/cmkeeper/cmkeeper/posture"
)

// policyReason names a decision about a key's policy.
type policyReason string

const (
	policyUnremarkable policyReason = "unremarkable" // nothing found and nothing changed
	policyBaseline     policyReason = "baseline"     // first seen by a sweep: recorded, no alert
	policyChanged      policyReason = "changed"      // no findings, but a difference
	policyFindings     policyReason = "findings"
	policyAccepted     policyReason = "accepted" // somebody accepted exactly this policy, and now it is live
)

// alerts reports whether an alert is published.
func (r policyReason) alerts() bool { return r != policyUnremarkable && r != policyBaseline }

type policyInput struct {
	findings []finding.Finding
	changes  int
	// known: there is an earlier policy to compare with.
	known bool
	// accepted: somebody accepted exactly this policy.
	accepted bool
	// put: the event is somebody setting this policy, not a key being made or a sweep.
	put, sweep bool
}

// decidePolicy decides whether a policy is worth an alert, and of what severity.
func decidePolicy(in policyInput) (policyReason, finding.Severity) {
	worst := finding.Info
	for _, f := range in.findings {
		if f.Severity.AtLeast(worst) {
			worst = f.Severity
		}
	}
	switch {
	case in.accepted:
		return policyAccepted, worst
	case in.sweep && !in.known:
		return policyBaseline, worst
	case in.sweep && in.changes == 0:
		return policyUnremarkable, worst
	case len(in.findings) > 0:
		return policyFindings, worst
	case in.put && (in.changes > 0 || !in.known), in.sweep:
		return policyChanged, worst
	}
	return policyUnremarkable, worst
}

// policyCase is a live policy, what is known of it, and what was decided.
type policyCase struct {
	*reaction.Case
	key      inventory.Key
	document string
	sent     string // the policy that the event itself set, "" where it does not say
	bypassed bool   // KMS's lock-out check was
	base     *ledger.Baseline
	earlier  *ledger.Policy // the last one that was judged, nil for none
	reaction.Verdict
	reason    policyReason
	restore   restoreReason
	exemption reaction.Exemption
}

// policy judges a key's policy: the live one, and the one that the event set if that
// is not the live one any more. It restores the good one where decideRestore says so.
func policy(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	if replica, ok := c.Event.Detail.(events.ReplicateKey); ok {
		return replicaPolicy(c, replica), nil
	}
	p := &policyCase{Case: c}
	var err error
	if p.key, err = c.Key(ctx); err == nil {
		p.document, err = c.Policy(ctx)
	}
	if err != nil {
		return p.unread(ctx, err)
	}
	doc, err := c.Ledger(ctx)
	if err != nil {
		return nil, err
	}
	c.See(doc, p.key)
	if doc.Finished(c.Event) || c.IsSweep() && doc.RecentlyReplaced(p.document, c.At) {
		return nil, nil
	}
	if r := doc.InProgress(c.Event); r != nil {
		switch {
		case c.IsSweep() && r.Event != reaction.SweepName && c.At.Sub(r.At) < restorePatience:
			return nil, nil // the worker that has the event is at it
		case c.Config.Policy == reaction.Enforce:
			return p.restoring(*r), nil
		}
		doc.DropRestoration(*r) // the mode was changed: what is not done by now is not done
	}
	p.sent, p.bypassed = reaction.PolicySent(c.Event)
	if p.sent != "" && !reaction.SameEffect(p.sent, p.document) {
		return p.superseded(doc)
	}
	if p.base, err = c.Baseline(ctx); err != nil {
		return nil, err
	}
	return p.judge(ctx, doc)
}

// judge judges the live policy and decides whether it is alerted, and whether the good
// one is restored. It is recorded as judged when its alert is published, so that a
// crash in between loses no difference.
func (p *policyCase) judge(ctx context.Context, doc *ledger.Key) (*reaction.Decision, error) {
	p.earlier = doc.Policy
	p.Verdict = p.JudgePolicy(p.key.ARN, p.document, p.bypassed)
	if p.earlier != nil {
		p.Verdict = p.From(p.earlier.Document)
	}
	p.reason, _ = decidePolicy(policyInput{
		findings: p.Found, changes: len(p.Changes), known: p.earlier != nil, accepted: p.base.Accepts(p.document),
		put: p.Event.Name == reaction.PutKeyPolicy || p.differs(), sweep: p.IsSweep(),
	})
	if p.reason.alerts() {
		var err error
		cause := func(*ledger.Key) *ledger.Party { return ledger.PartyOf(p.Event) }
		if p.exemption, err = p.Exempt(ctx, alert.KindPolicy, cause); err != nil {
			return nil, err
		}
	}
	p.decideRestore(ctx, doc)
	p.Debug(ctx, "policy decided", "reason", p.reason, "put_back", p.restore)
	if p.restore == restoreGood && p.Config.Policy == reaction.Enforce && !p.exemption.Holds {
		r := p.restoration()
		doc.BeginRestoration(r)
		return p.restoring(r), nil
	}
	live := ledger.PolicyVersion{Document: p.document, At: p.At, By: p.Event.ID, Actor: p.Event.Actor.String(), ReadAs: p.Config.Identity.Name}
	good := p.Good(p.Config.RestoreSeverity)
	d := &reaction.Decision{Told: reaction.Told{
		Baseline: func(b *ledger.Baseline) { b.See(live, good) },
		Key:      func(k *ledger.Key) { k.NotePolicy(p.document, p.At) },
	}}
	if p.reason.alerts() {
		d.Tell = p.tell
	}
	if p.Awaits() {
		d.Told = reaction.Told{} // the policy is judged again, with this one still to be undone
	}
	return d, nil
}

// differs reports whether the live policy differs from the last one that was judged,
// where nothing but a message says what happened to it.
func (p *policyCase) differs() bool {
	return p.Event.Claimed && p.earlier != nil && len(p.Changes) > 0
}

// superseded decides about a policy that is not the live one any more: a bad one that
// was live for a minute may have been enough. The live one is judged by the event
// that set it, or by the sweep.
func (p *policyCase) superseded(doc *ledger.Key) (*reaction.Decision, error) {
	taken, undone := doc.OutcomeOf(p.Event, p.sent)
	if taken == nil && undone == nil {
		if err := reaction.WaitForConsistency(p.Event, "policy of key "+p.Event.KeyARN); err != nil {
			return nil, err
		}
	}
	p.earlier = doc.Policy
	p.Found = p.JudgePolicy(p.key.ARN, p.sent, p.bypassed).Found
	for i := range p.Found {
		p.Found[i].Message += " (in the policy of this event, which is not the live one any more)"
	}
	if taken == nil && undone == nil && len(p.Found) == 0 {
		return nil, nil
	}
	return &reaction.Decision{Tell: func() []alert.Alert {
		a := p.common(p.NewAlert(alert.KindPolicy, ""))
		a.Dangers = nil // the live policy is another one
		a.Facts = []alert.Fact{{Name: "note", Values: []string{"The policy has been changed again since. The findings are about the policy that this event set; the live one is judged separately."}}}
		switch {
		case taken != nil:
			a.Action.Status = alert.StatusDone
			a.Action.Description = fmt.Sprintf("cmkeeper restored the good policy (version %d) at %s.", taken.Good, reaction.TimeText(taken.At))
		case len(a.Findings) > 0:
			a.Action.Description = "There is nothing to restore: the policy is not live any more."
		default:
			a.Severity = finding.Medium
			a.Title = "Key policy of " + reaction.ShortName(a.Key) + ": a harmless change was undone together with a later one"
			a.Action.Status = alert.StatusDone
			a.Action.Description = fmt.Sprintf("cmkeeper restored an older policy (version %d) at %s because of a later change, and had not seen this one. Set it again if it is intended.", undone.Good, reaction.TimeText(undone.At))
		}
		return []alert.Alert{a}
	}}, nil
}

// unread reacts to a key whose policy cannot be read.
func (p *policyCase) unread(ctx context.Context, err error) (*reaction.Decision, error) {
	switch {
	case p.IsSweep() || !errors.Is(err, inventory.ErrNotFound):
		return p.Unread(ctx, err)
	case p.Event.Name == "CreateKey": // made and gone: no policy is left to judge
		return nil, reaction.WaitForConsistency(p.Event, "key "+p.Event.KeyARN)
	}
	return p.Gone(ctx, alert.KindPolicy, p.Event.Name == reaction.PutKeyPolicy)
}

// replicaPolicy judges the policy that a replica was made with. The replica is in
// another Region, where this worker cannot read it.
func replicaPolicy(c *reaction.Case, d events.ReplicateKey) *reaction.Decision {
	return &reaction.Decision{Gather: c.GatherNames, Tell: func() []alert.Alert {
		a := c.NewAlert(alert.KindPolicy, "/replica")
		if d.ReplicaPolicy != "" {
			a.Findings = c.JudgePolicy(d.ReplicaKeyARN, d.ReplicaPolicy, d.BypassPolicyLockoutSafetyCheck).Found
		}
		_, a.Severity = decidePolicy(policyInput{findings: a.Findings})
		a.Key = c.Named()
		where := reaction.OrUnknown(d.ReplicaRegion)
		a.Title = fmt.Sprintf("Key %s was replicated to %s", reaction.ShortName(a.Key), where)
		a.Summary = fmt.Sprintf("%s called ReplicateKey. The replica %s has a key policy of its own. The findings are about the policy in the event, because the replica cannot be read from this Region.", c.Who(), reaction.OrUnknown(d.ReplicaKeyARN))
		a.Risk = "A replica decrypts everything that the primary does. Only a cmkeeper in its Region guards it."
		a.Action = alert.Action{Mode: string(c.Config.Policy), Status: alert.StatusNone, Description: "cmkeeper does not change policies in other Regions."}
		a.Next = []string{"Make sure that cmkeeper runs in " + where + "."}
		return []alert.Alert{a}
	}}
}

// tell composes the alert about a policy that is left as it is.
func (p *policyCase) tell() []alert.Alert {
	a := p.common(p.judgedAlert())
	switch {
	case p.exemption.Holds:
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

// common fills in what the alerts about all policies have in common.
func (p *policyCase) common(a alert.Alert) alert.Alert {
	a.Key, a.Findings, a.Dangers = p.Describe(p.key), p.Found, []string{posture.DangerPolicy}
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
		a.Risk = "None known: the new policy has no findings."
		if i := slices.IndexFunc(p.Changes, func(c keypolicy.Change) bool { return c.Widens }); i >= 0 {
			a.Title = "Key policy of " + name + " was widened"
			a.Risk = "The new policy has no findings, but it allows more than the last recorded one: " + p.Changes[i].Text + ". All differences are listed below."
		}
		a.Next = append(a.Next, p.TrailCommand())
	}
	a.Next = append(a.Next, p.KMSCommand("get-key-policy --policy-name default --output text"))
	switch {
	case a.EventName == reaction.SweepName:
		a.Summary = "The sweep found that the key policy differs from the last recorded one; " + reaction.Unreported + " CloudTrail shows who called PutKeyPolicy."
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
	id := command.KeyID(arn.KeyID(a.Key.ARN))
	good, _ := p.base.Good()
	accept := []string{"If the new policy is intended, accept it. It is then the one that is restored:", p.PolicyCommand("baseline accept %s", id)}
	if good.Number > 0 {
		accept = append([]string{"What the live policy changes from the recorded good one, and how to restore that by hand:",
			p.PolicyCommand("diff %s %s", command.DiffSource(id, good.Number), id)},
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
		p.PolicyCommand("baseline show %s > good.json", command.BaselineOf(command.KeyID(arn.KeyID(p.key.ARN)), version)),
		p.KMSCommand("put-key-policy --policy-name default --policy file://good.json"),
	}
}

// tellAccepted is for a policy that somebody accepted: no alarm, but still an alert.
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
		return "The policy is left as it is: cmkeeper has never read the key with this role under the recorded good one, which might deny it access."
	case restoreAgain:
		return "The policy is left as it is: cmkeeper already undid a policy change by the same actor, or by an unknown one, and nobody has accepted a policy since. Manual action required."
	case restoreOften:
		return "The policy is left as it is: cmkeeper already undid policy changes by so many actors that it stops until somebody accepts a policy. Manual action required."
	case restoreAccepted, restoreGood:
	}
	return ""
}
