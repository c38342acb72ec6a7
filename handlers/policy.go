package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/keypolicy"
)

// policyReason names a decision about a key's policy.
type policyReason string

const (
	policyUnremarkable policyReason = "unremarkable" // nothing found and nothing changed
	policyBaseline     policyReason = "baseline"     // first seen by a sweep: recorded, not told
	policyChanged      policyReason = "changed"      // no findings, but a difference
	policyFindings     policyReason = "findings"
	policyAccepted     policyReason = "accepted" // somebody accepted exactly this policy, and now it is live
)

// told reports whether people hear of it.
func (r policyReason) told() bool { return r != policyUnremarkable && r != policyBaseline }

type policyInput struct {
	findings []alert.Finding
	changes  int
	// known: there is an earlier policy to compare with.
	known bool
	// accepted: somebody accepted exactly this policy.
	accepted bool
	// put: the event is somebody setting this policy, not a key being made or a sweep.
	put, sweep bool
}

const reactionPolicy = "policy"

// decidePolicy decides whether a policy is worth an alert, and of what severity.
func decidePolicy(in policyInput) (policyReason, alert.Severity) {
	worst := alert.Info
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

// judge judges a live policy, puts the good one back where that is to be done,
// tells what is to be told and then records the policy as judged: in this order,
// so that a crash in between loses no difference.
func (r *Router) judge(ctx context.Context, e events.Event, key inventory.Key, doc keyDoc, document string, at time.Time) error {
	if doc.over(e) || isSweep(e) && doc.stale(document, at) {
		return nil
	}
	if p := doc.begun(e); p != nil {
		if isSweep(e) && p.Event != sweepEvent && at.Sub(p.At) < putBackPatience {
			return nil // whoever has the event is at it
		}
		if r.config.Policy == Enforce {
			return r.carryOut(ctx, key, *p, document)
		}
		// The mode was changed: what is not done by now is not done.
		after, err := r.updateKey(ctx, key.ARN, func(doc *keyDoc) { doc.drop(*p) })
		if err != nil {
			return err
		}
		doc = after
	}
	sent, bypassed := policySent(e)
	if sent != "" && !sameEffect(sent, document) {
		return r.superseded(ctx, e, key, doc, sent, bypassed)
	}
	base, err := ReadBaseline(ctx, r.state, key.ARN)
	if err != nil {
		return err
	}
	j := judged{event: e, key: key, document: document, bypassed: bypassed, at: at, base: base}
	j.verdict = r.compare(doc.Policy, key.ARN, document, bypassed)
	j.reason, j.severity = decidePolicy(policyInput{
		findings: j.found, changes: len(j.changes), known: doc.Policy != nil, accepted: base.accepts(document),
		put: e.Name == opPutPolicy, sweep: isSweep(e),
	})
	if j.reason.told() {
		if j.exemption, j.exempt, err = r.exempt(ctx, e, alert.KindPolicy, key.ARN); err != nil {
			return err
		}
	}
	decide := func(doc keyDoc) putBackReason { return decidePutBack(r.putBackInput(j, doc)) }
	d := decide(doc)
	r.log.DebugContext(ctx, "policy decided", "key", key.ARN, "event_id", e.ID, "reason", j.reason, "put_back", d)
	if d == putBackGood && r.config.Policy == Enforce && !j.exempt {
		doc, err := r.updateKey(ctx, key.ARN, func(doc *keyDoc) {
			if d = decide(*doc); d == putBackGood { // another event may have changed the document
				doc.begin(r.newPutBack(j, *doc))
			}
		})
		if err != nil {
			return err
		}
		if doc.over(e) {
			return nil // another worker was faster
		}
		if p := doc.begun(e); p != nil {
			return r.carryOut(ctx, key, *p, document)
		}
	}
	if err := r.tellJudged(ctx, j, doc, d); err != nil {
		return err
	}
	if err := r.recordSeen(ctx, j); err != nil {
		return err
	}
	return r.recordJudged(ctx, key.ARN, document, at)
}

// judged is a live policy, what is known of it, and what was decided.
type judged struct {
	event    events.Event
	key      inventory.Key
	document string
	bypassed bool // KMS's lock-out check was
	at       time.Time
	base     Baseline
	verdict
	reason    policyReason
	severity  alert.Severity
	exemption judgement.Exemption
	exempt    bool
}

// judgedAlert begins the alert about a policy. A sweep tells of the same one again
// only where another one was judged in between.
func (r *Router) judgedAlert(j judged, doc keyDoc) alert.Alert {
	a := r.newAlert(j.event, alert.KindPolicy, "")
	if isSweep(j.event) {
		var since int64
		if doc.Policy != nil {
			since = doc.Policy.At.UnixMilli()
		}
		a.ID = fmt.Sprintf("sweep/%s/policy/%s/%d", keyID(j.key.ARN), hashOf(j.document), since)
	}
	return a
}

// tellJudged tells of a policy that is left as it is.
func (r *Router) tellJudged(ctx context.Context, j judged, doc keyDoc, d putBackReason) error {
	if !j.reason.told() {
		return nil
	}
	a := r.judgedAlert(j, doc)
	a.Key, a.Severity, a.Findings = r.describe(ctx, j.key, doc), j.severity, j.found
	r.tellPolicy(&a, doc.Policy != nil, j.verdict)
	switch {
	case j.exempt:
		tellExempt(&a, j.exemption, r.config.Policy)
	case j.reason == policyAccepted:
		r.tellAccepted(&a, j.base, j.document)
	default:
		good, _ := j.base.Good()
		r.tellLeft(&a, d, good)
	}
	return r.publish(ctx, a)
}

// recordJudged notes a live policy as the last one that was judged, from which
// later differences are told.
func (r *Router) recordJudged(ctx context.Context, keyARN, document string, at time.Time) error {
	_, err := r.updateKey(ctx, keyARN, func(doc *keyDoc) {
		if doc.Policy == nil || !at.Before(doc.Policy.At) && doc.Policy.Document != document {
			doc.Policy = &seenPolicy{Document: document, At: at}
		}
	})
	return err
}

// superseded tells what was wrong with a policy that is not the live one any
// more: a bad one that was live for a minute may have been enough. The live one is
// judged by the event that set it, or by the sweep.
func (r *Router) superseded(ctx context.Context, e events.Event, key inventory.Key, doc keyDoc, sent string, bypassed bool) error {
	taken, undone := doc.fateOf(e, sent)
	if taken == nil && undone == nil {
		if err := settle(e, "policy of key "+key.ARN); err != nil {
			return err
		}
	}
	a := r.newAlert(e, alert.KindPolicy, "")
	a.Findings = r.compare(nil, key.ARN, sent, bypassed).found
	for i := range a.Findings {
		a.Findings[i].Message += " (in the policy that this event set, which is not the live one any more)"
	}
	_, a.Severity = decidePolicy(policyInput{findings: a.Findings})
	a.Key = r.describe(ctx, key, doc)
	r.tellPolicy(&a, doc.Policy != nil, verdict{})
	a.Facts = []alert.Fact{{Name: "note", Values: []string{"The policy was changed again since. The findings are of the policy that this event set; the live one is judged by itself."}}}
	switch {
	case taken != nil:
		a.Action.Status = alert.StatusDone
		a.Action.Description = fmt.Sprintf("cmkeeper put the good policy (version %d) back at %s.", taken.Good, timeText(taken.At))
	case len(a.Findings) > 0:
		a.Action.Description = "There is nothing to put back: the policy is not live any more."
	case undone != nil:
		a.Severity = alert.Medium
		a.Title = "Key policy of " + shortName(a.Key) + ": a harmless change was undone together with a later one"
		a.Action.Status = alert.StatusDone
		a.Action.Description = fmt.Sprintf("cmkeeper had not seen this policy when it put an older one (version %d) back at %s, because of a later change. Set it again if it is meant.", undone.Good, timeText(undone.At))
	default:
		return nil
	}
	return r.publish(ctx, a)
}

// verdict is what is known of a policy.
type verdict struct {
	policy  *keypolicy.Policy // nil where it was not understood
	found   []finding.Finding
	changes []keypolicy.Change
}

// good reports whether nothing of a severity, or worse, was found.
func (v verdict) good(limit alert.Severity) bool {
	return v.policy != nil && !slices.ContainsFunc(v.found, func(f finding.Finding) bool { return f.Severity.AtLeast(limit) })
}

// policyContext is what policies of a key are judged against.
func (r *Router) policyContext(keyARN string, bypassed bool) keypolicy.Context {
	return keypolicy.Context{
		Account: r.config.Identity.Account, TrustedAccounts: r.config.TrustedAccounts, KeyARN: keyARN, BypassLockoutSafetyCheck: bypassed,
	}
}

// compare judges a document, and says how it differs from an earlier one (nil:
// not at all).
func (r *Router) compare(earlier *seenPolicy, keyARN, document string, bypassed bool) verdict {
	now, err := keypolicy.Parse([]byte(document))
	if err != nil {
		return verdict{found: []finding.Finding{{ID: finding.NotUnderstood, Severity: finding.High,
			Message: fmt.Sprintf("The policy cannot be judged, because it cannot be read: %v.", err)}}}
	}
	v := verdict{policy: now, found: now.Findings(r.policyContext(keyARN, bypassed))}
	if earlier == nil {
		return v
	}
	before, err := keypolicy.Parse([]byte(earlier.Document))
	if err != nil {
		before = nil // it was not understood when it was live, either
	}
	v.changes = keypolicy.Diff(before, now)
	return v
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
		a.Findings = r.compare(nil, e.KeyARN, sent, bypassed).found
		a.Facts = append(a.Facts, alert.Fact{Name: "note", Values: []string{"The findings are of the policy in the event, since the live one cannot be read."}})
	}
	return r.publish(ctx, a)
}

// replicaPolicy judges the policy that a replica was made with. The replica is
// in another Region, where this worker cannot read it.
func (r *Router) replicaPolicy(ctx context.Context, e events.Event, d events.ReplicateKey) error {
	a := r.newAlert(e, alert.KindPolicy, "/replica")
	if d.ReplicaPolicy != "" {
		a.Findings = r.compare(nil, d.ReplicaKeyARN, d.ReplicaPolicy, d.BypassPolicyLockoutSafetyCheck).found
	}
	_, a.Severity = decidePolicy(policyInput{findings: a.Findings})
	a.Key = &alert.Key{ARN: e.KeyARN}
	a.Title = fmt.Sprintf("Key %s was replicated to %s", keyID(e.KeyARN), orUnknown(d.ReplicaRegion))
	a.Summary = fmt.Sprintf("%s called ReplicateKey. The replica %s has a key policy of its own; the findings are of the policy in the event, because the replica cannot be read from this Region.", who(e), orUnknown(d.ReplicaKeyARN))
	a.Risk = "A replica decrypts everything that the primary does. It is guarded only where a cmkeeper runs in its Region."
	a.Action = alert.Action{Mode: string(r.config.Policy), Status: alert.StatusNone, Description: "cmkeeper does not change policies in other Regions."}
	a.Next = []string{"Make sure that cmkeeper runs in " + orUnknown(d.ReplicaRegion) + "."}
	return r.publish(ctx, a)
}
