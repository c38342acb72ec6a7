package handlers

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/keypolicy"
)

// policyReason names a decision about a key's policy.
type policyReason string

const (
	policyUnremarkable policyReason = "unremarkable" // nothing found and nothing changed
	policyBaseline     policyReason = "baseline"     // first seen by a sweep: recorded, not told
	policyChanged      policyReason = "changed"      // no findings, but a difference
	policyFindings     policyReason = "findings"
)

type policyInput struct {
	findings []alert.Finding
	changes  int
	// known: there is an earlier policy to compare with.
	known bool
	// put: the event is somebody setting this policy, not a key being made or a sweep.
	put, sweep bool
}

// decidePolicy decides whether a policy is worth an alert, and of what severity.
func decidePolicy(in policyInput) (policyReason, alert.Severity) {
	worst := alert.Info
	for _, f := range in.findings {
		if f.Severity.AtLeast(worst) {
			worst = f.Severity
		}
	}
	switch {
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

// policySent returns the policy document that the event itself carries, and
// whether the lock-out check was bypassed.
func policySent(e events.Event) (document string, bypassed bool) {
	switch d := e.Detail.(type) {
	case events.PutKeyPolicy:
		return d.Policy, d.BypassPolicyLockoutSafetyCheck
	case events.CreateKey:
		return d.Policy, d.BypassPolicyLockoutSafetyCheck
	}
	return "", false
}

// policy judges a key's policy: the live one, and the one that the event set if
// that is not the live one any more.
func (r *Router) policy(ctx context.Context, e events.Event) error {
	if replica, ok := e.Detail.(events.ReplicateKey); ok {
		return r.replicaPolicy(ctx, e, replica)
	}
	at := now()
	key, err := r.facts.Key(ctx, e.KeyARN)
	if err != nil {
		return r.policyUnread(ctx, e, err)
	}
	document, err := r.facts.Policy(ctx, key.ARN)
	if err != nil {
		return r.policyUnread(ctx, e, err)
	}
	doc, err := r.updateKey(ctx, key.ARN, func(doc *keyDoc) { doc.see(key, at, r.config.Deletion) })
	if err != nil {
		return err
	}
	return r.judge(ctx, e, key, doc, document, at)
}

// judge tells what is to be told of a live policy and then records it as the
// baseline of later differences: in this order, so that a crash in between
// loses no difference.
func (r *Router) judge(ctx context.Context, e events.Event, key inventory.Key, doc keyDoc, document string, at time.Time) error {
	sent, bypassed := policySent(e)
	findings, changes := r.compare(doc.Policy, key.ARN, document, bypassed)
	a := r.newAlert(e, alert.KindPolicy, "")
	if isSweep(e) {
		a.ID = fmt.Sprintf("sweep/%s/policy/%x", keyID(key.ARN), sha256.Sum256([]byte(document)))
	}
	if sent != "" && !sameEffect(sent, document) {
		if err := settle(e, "policy of key "+key.ARN); err != nil {
			return err
		}
		// A bad policy that was live for a minute may have been enough.
		a.Facts = append(a.Facts, alert.Fact{Name: "note", Values: []string{"The policy was changed again since. Findings marked so are of the policy that this event set."}})
		earlier, _ := r.compare(nil, key.ARN, sent, bypassed)
		for _, f := range earlier {
			f.Message += " (in the policy that this event set, which is not the live one any more)"
			findings = append(findings, f)
		}
		findings = worstFirst(findings)
	}
	reason, severity := decidePolicy(policyInput{
		findings: findings, changes: len(changes), known: doc.Policy != nil,
		put: e.Name == "PutKeyPolicy", sweep: isSweep(e),
	})
	r.log.DebugContext(ctx, "policy decided", "key", key.ARN, "event_id", e.ID, "reason", reason)
	if reason == policyFindings || reason == policyChanged {
		a.Key, a.Severity, a.Findings = r.describe(ctx, key, doc), severity, findings
		r.tellPolicy(&a, e, doc.Policy != nil, changes)
		if err := r.publish(ctx, a); err != nil {
			return err
		}
	}
	_, err := r.updateKey(ctx, key.ARN, func(doc *keyDoc) {
		if doc.Policy == nil || !at.Before(doc.Policy.At) && doc.Policy.Document != document {
			doc.Policy = &seenPolicy{Document: document, At: at}
		}
	})
	return err
}

func (r *Router) tellPolicy(a *alert.Alert, e events.Event, known bool, changes []keypolicy.Change) {
	name := shortName(a.Key)
	switch {
	case len(a.Findings) > 0:
		a.Title = fmt.Sprintf("Key policy of %s: %s", name, a.Findings[0].Message)
		a.Risk = "Whoever the policy lets in can do with the key what it says there: read everything encrypted under it, or take the key over."
		a.Next = append(a.Next, "Check the findings below with the key's owner. If they are not meant, put the former policy back; CloudTrail has it in the PutKeyPolicy or CreateKey before this one:",
			r.trailCommand(a.Key.ARN), "The live policy:")
	default:
		a.Title = "Key policy of " + name + " was changed"
		a.Risk = "Nothing was found wrong with the new policy."
		a.Next = append(a.Next, r.trailCommand(a.Key.ARN))
	}
	switch {
	case isSweep(e):
		a.Summary = "The sweep found another key policy than the last one that was recorded; no event told of the change. CloudTrail shows who called PutKeyPolicy."
	default:
		a.Summary = fmt.Sprintf("%s called %s. The live policy was read and judged.", who(e), e.Name)
	}
	a.Next = append(a.Next, r.kmsCommand("get-key-policy", a.Key.ARN, "--policy-name default", "--output text"))
	a.Action = alert.Action{Mode: string(r.config.Policy), Status: alert.StatusNone, Description: "cmkeeper does not change key policies."}
	var lines []string
	for _, c := range changes {
		lines = append(lines, fmt.Sprintf("%s: %s", c.Kind, c.Text))
	}
	switch {
	case !known:
		lines = []string{"the last policy is not known, so there is nothing to compare with"}
	case len(lines) == 0:
		lines = []string{"none in effect"}
	}
	a.Facts = append(a.Facts, alert.Fact{Name: "difference from the last recorded policy", Values: lines})
}

// compare returns the findings of a document, worst first, and how it differs
// from the baseline (nil: not at all).
func (r *Router) compare(baseline *seenPolicy, keyARN, document string, bypassed bool) ([]alert.Finding, []keypolicy.Change) {
	now, err := keypolicy.Parse([]byte(document))
	if err != nil {
		return []alert.Finding{{ID: "not-understood", Severity: alert.High,
			Message: fmt.Sprintf("The policy cannot be judged, because it cannot be read: %v.", err)}}, nil
	}
	findings := alertFindings(now.Findings(keypolicy.Context{
		Account: r.config.Identity.Account, TrustedAccounts: r.config.TrustedAccounts, KeyARN: keyARN, BypassLockoutSafetyCheck: bypassed,
	}))
	if baseline == nil {
		return findings, nil
	}
	before, err := keypolicy.Parse([]byte(baseline.Document))
	if err != nil {
		before = nil // it was not understood when it was live, either
	}
	return findings, keypolicy.Diff(before, now)
}

func alertFindings(found []keypolicy.Finding) []alert.Finding {
	var out []alert.Finding
	for _, f := range found {
		out = append(out, alert.Finding{ID: f.ID, Severity: alert.Severity(f.Severity), Statement: f.Statement, Principal: f.Principal, Message: f.Message})
	}
	return worstFirst(out)
}

// worstFirst sorts findings by their severity and leaves those of one severity
// in their order.
func worstFirst(findings []alert.Finding) []alert.Finding {
	slices.SortStableFunc(findings, func(a, b alert.Finding) int {
		switch {
		case a.Severity == b.Severity:
			return 0
		case a.Severity.AtLeast(b.Severity):
			return -1
		}
		return 1
	})
	return findings
}

// sameEffect reports whether two documents say the same, whatever their layout.
func sameEffect(a, b string) bool {
	if a == b {
		return true
	}
	pa, errA := keypolicy.Parse([]byte(a))
	pb, errB := keypolicy.Parse([]byte(b))
	return errA == nil && errB == nil && len(keypolicy.Diff(pa, pb)) == 0
}

// policyUnread reacts to a key whose policy cannot be read.
func (r *Router) policyUnread(ctx context.Context, e events.Event, err error) error {
	switch {
	case errors.Is(err, inventory.ErrNotFound) && e.Name == "CreateKey":
		if wait := settle(e, "key "+e.KeyARN); wait != nil {
			return wait
		}
		return nil // made and gone: no policy is left to judge
	case errors.Is(err, inventory.ErrNotFound):
		return r.gone(ctx, e, alert.KindPolicy, e.Name == "PutKeyPolicy")
	case errors.Is(err, inventory.ErrAccessDenied):
		return r.shutOut(ctx, e, err)
	}
	return err
}

// shutOut tells that a key may not be read by us. That is the whole reaction:
// trying again would not change it, and the next PutKeyPolicy is an event of its own.
func (r *Router) shutOut(ctx context.Context, e events.Event, cause error) error {
	a := r.newAlert(e, alert.KindGuard, "/shut-out")
	a.Severity = alert.Critical
	a.Key = &alert.Key{ARN: e.KeyARN}
	doc, err := r.knownKey(ctx, e.KeyARN)
	if err == nil {
		a.Key.Aliases, a.Key.Description = doc.Aliases, doc.Description
	}
	if isSweep(e) {
		a.ID, a.Ongoing = fmt.Sprintf("sweep/%s/shut-out/%d", keyID(e.KeyARN), doc.ShutOut.Unix()), true // not on every sweep
	}
	a.Title = "cmkeeper may no longer read key " + shortName(a.Key)
	a.Summary = fmt.Sprintf("After %s by %s the key cannot be read: %v.", e.Name, who(e), cause)
	if isSweep(e) {
		a.Summary = fmt.Sprintf("The sweep cannot read the key: %v.", cause)
	}
	a.Risk = "The key is not guarded: its rotation, its policy and its deletion date cannot be seen. Somebody may have shut out the whole account."
	a.Action = alert.Action{Status: alert.StatusNone, Description: "There is nothing that cmkeeper can do without access."}
	a.Next = []string{
		r.kmsCommand("get-key-policy", e.KeyARN, "--policy-name default", "--output text"),
		fmt.Sprintf("Allow the %s %s kms:DescribeKey, kms:GetKeyPolicy and kms:GetKeyRotationStatus in the key policy and in its IAM policy.", r.config.Identity.word(), r.config.Identity.Name),
		"If nobody in the account can change the policy any more, open a case with AWS Support: only they can help.",
	}
	if sent, bypassed := policySent(e); sent != "" {
		a.Findings, _ = r.compare(nil, e.KeyARN, sent, bypassed)
		a.Facts = append(a.Facts, alert.Fact{Name: "note", Values: []string{"The findings are of the policy in the event, since the live one cannot be read."}})
	}
	return r.publish(ctx, a)
}

// replicaPolicy judges the policy that a replica was made with. The replica is
// in another Region, where this worker cannot read it.
func (r *Router) replicaPolicy(ctx context.Context, e events.Event, d events.ReplicateKey) error {
	a := r.newAlert(e, alert.KindPolicy, "/replica")
	if d.ReplicaPolicy != "" {
		a.Findings, _ = r.compare(nil, d.ReplicaKeyARN, d.ReplicaPolicy, d.BypassPolicyLockoutSafetyCheck)
	}
	_, a.Severity = decidePolicy(policyInput{findings: a.Findings})
	a.Key = &alert.Key{ARN: e.KeyARN}
	a.Title = fmt.Sprintf("Key %s was replicated to %s", keyID(e.KeyARN), orUnknown(d.ReplicaRegion))
	a.Summary = fmt.Sprintf("%s called ReplicateKey. The replica %s has a key policy of its own; the findings are of the policy in the event, because the replica cannot be read from this Region.", who(e), orUnknown(d.ReplicaKeyARN))
	a.Risk = "A replica decrypts everything that the primary does. It is guarded only where a cmkeeper runs in its Region."
	a.Action = alert.Action{Mode: string(r.config.Policy), Status: alert.StatusNone, Description: "cmkeeper does not change key policies."}
	a.Next = []string{"Make sure that cmkeeper runs in " + orUnknown(d.ReplicaRegion) + "."}
	return r.publish(ctx, a)
}
