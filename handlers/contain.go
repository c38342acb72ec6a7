package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go/middleware"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
)

const reactionContain = "containment"

// containment is that we disabled a key, or are about to, because it was opened.
type containment struct {
	By string    `json:"by"` // the event that it reacts to
	At time.Time `json:"at"`
	// Principal is who opened the key, "" if that is not known.
	Principal string `json:"principal,omitempty"`
	// Over is when the key was first seen Enabled again; zero until then.
	Over time.Time `json:"over,omitzero"`
}

// containPatience is how long a key that is about to be disabled may be seen
// Enabled. After that it was not disabled: the event comes again, or never will.
const containPatience = 5 * time.Minute

// containReason names a decision about a key that was opened.
type containReason string

const (
	// Nothing to do.
	containNothing  containReason = "nothing"  // the event did not open the key, or it is closed again
	containSettling containReason = "settling" // the read may be older than the event
	containUnusable containReason = "unusable" // nobody can use the key as it is
	containAllowed  containReason = "allowed"  // the actor may open keys
	containDone     containReason = "done"     // the key was disabled for this event
	// To be told.
	containUndone   containReason = "undone"   // it was, and somebody has enabled it again since
	containEnabled  containReason = "enabled"  // somebody else than who opened the key enabled it as it is
	containExempt   containReason = "exempt"   // an exemption covers it
	containFlapping containReason = "flapping" // it was disabled too often
	containInUse    containReason = "in-use"   // disabling it would harm who uses it
	containUnknown  containReason = "unknown"  // whether it would is not known
	// To be done.
	containNow containReason = "contain"
)

type containInput struct {
	by    string // the event
	state string // live
	// opened: the event opened the key, or enabled one that was contained, and it
	// is open now. pending: it says so, and that cannot be seen.
	opened, pending bool
	contained       *containment // the last one of the key
	mine            *repair      // for this event
	allowed, exempt bool
	// enabled: the event enabled the key; same: its actor is the one who opened it.
	enabled, same bool
	// fight is fightNone where nothing is disabled in this mode.
	fight fight
	// use is empty where it does not matter.
	use     keyUse
	at, now time.Time
}

// decideContain decides whether a key is disabled. It undoes nobody twice: who
// enables the key again has the last word, unless it is the one who opened it.
func decideContain(in containInput) containReason {
	age := in.now.Sub(in.at)
	switch {
	case in.state != stateEnabled && in.contained != nil && in.contained.By == in.by:
		return containDone
	case in.state == stateEnabled && in.mine != nil && in.mine.Done && in.now.Sub(in.mine.At) > settling:
		return containUndone
	case !in.opened && in.pending && age >= 0 && age < settling:
		return containSettling
	case !in.opened:
		return containNothing
	case in.state != stateEnabled:
		return containUnusable
	case in.allowed:
		return containAllowed
	case in.exempt:
		return containExempt
	case in.enabled && !in.same:
		return containEnabled
	case in.fight != fightNone:
		return containFlapping
	case len(in.use.why) > 0:
		return containInUse
	case len(in.use.unknown) > 0:
		return containUnknown
	}
	return containNow
}

// isContained reports whether the key is disabled because of us.
func (d *keyDoc) isContained() bool { return d.Contained != nil && d.Contained.Over.IsZero() }

// opened says what an event has opened: for EnableKey, what is open of a key that
// was contained.
func (r *Router) opened(e events.Event, doc keyDoc, open []exposure) (opened []exposure, pending bool) {
	if e.Name != opEnableKey {
		return r.openedBy(e, doc, open)
	}
	c := doc.Contained
	if c == nil || e.Time.Before(c.At.Truncate(time.Second)) || !c.Over.IsZero() && c.Over.Before(e.Time) {
		return nil, false // it was enabled before that, or at another time since
	}
	return slices.Clone(open), false
}

// contain disables a key that was just opened to everyone, or to an account that
// is not trusted, by somebody who may not do that.
//
// Only what the event itself says it opened counts, and only while the live
// policy and grants show it: where the policy reaction has put the former policy
// back before, there is nothing to contain, and where this one was faster the
// policy of a disabled key can still be put back. Not a sweep's work: nobody can
// say then who it was.
func (r *Router) contain(ctx context.Context, e events.Event) error {
	at := now()
	if e.Name == opEnableKey { // most keys were never contained
		if doc, err := r.knownKey(ctx, e.KeyARN); err != nil || doc.Contained == nil {
			return err
		}
	}
	key, err := r.facts.Key(ctx, e.KeyARN)
	plan := containPlan{rep: repair{Reaction: reactionContain, By: e.ID, Alert: e.ID, At: at, Against: partyOf(e)}}
	if err == nil {
		plan.open, plan.document, err = r.exposures(ctx, key.ARN)
	}
	switch {
	case errors.Is(err, inventory.ErrNotFound):
		return settle(e, "key "+e.KeyARN) // a new key may not be seen yet
	case errors.Is(err, inventory.ErrAccessDenied):
		return r.shutOut(ctx, e, err)
	case err != nil:
		return err
	}
	if by := plan.rep.Against; by != nil {
		actor := r.actor(by.Principal, by.Account)
		plan.allowed = slices.ContainsFunc(r.config.ContainAllowed, func(p judgement.Principals) bool { return p.Include(actor) })
	}
	if err := r.planContain(ctx, e, key, &plan); err != nil {
		if plan.opened, _ = r.openedBy(e, keyDoc{}, plan.open); len(plan.opened) == 0 || plan.allowed {
			return err
		}
		// The alarm does not wait for the state bucket.
		return r.failed(ctx, r.containAlert(ctx, e, key, plan), r.config.Contain, "read what is known of the key", err)
	}
	r.log.DebugContext(ctx, "containment decided", "key", key.ARN, "event_id", e.ID, "reason", plan.reason)
	return r.carryOutContainment(ctx, e, key, plan)
}

// containPlan is what is known of a key that may have been opened, and what is
// to be done about it.
type containPlan struct {
	open     []exposure
	document string // the live policy
	allowed  bool
	rep      repair
	// What planContain finds.
	exemption judgement.Exemption
	use       keyUse
	doc       keyDoc
	opened    []exposure
	reason    containReason
}

// planContain notes the key and how it is open as they were read, decides, and
// stores what is about to be done.
func (r *Router) planContain(ctx context.Context, e events.Event, key inventory.Key, plan *containPlan) error {
	exemption, exempt, err := r.exempt(ctx, e, alert.KindContainment, key.ARN)
	if err != nil {
		return err
	}
	plan.exemption = exemption
	base, err := ReadBaseline(ctx, r.state, key.ARN)
	if err != nil {
		return err
	}
	good, _ := base.Good()
	accepted := base.accepts(plan.document) || good.AcceptedBy != "" && good.SHA256 == hashOf(plan.document)
	at := plan.rep.At
	if len(plan.open) > 0 && key.Enabled() && !plan.allowed && !r.config.ContainInUse {
		if plan.use, err = r.useOf(ctx, key, at); err != nil {
			return err
		}
	}
	var by string
	if plan.rep.Against != nil {
		by = plan.rep.Against.Principal
	}
	plan.doc, err = r.updateKey(ctx, key.ARN, func(doc *keyDoc) {
		doc.see(key, at, r.config.Deletion)
		var pending bool
		plan.opened, pending = r.opened(e, *doc, plan.open)
		if accepted { // somebody said that this policy is good
			plan.opened = slices.DeleteFunc(plan.opened, func(x exposure) bool { return x.grant == "" })
		}
		pending = pending && len(doc.repairsSince(reactionPolicy, "", e.Time)) == 0 // else the policy was put back
		doc.noteExposures(plan.open, at)
		stand := fightNone
		if r.config.Contain == Enforce {
			stand = doc.fight(reactionContain, e, r.config.FlapLimit, at)
		}
		plan.reason = decideContain(containInput{
			by: e.ID, state: key.State, opened: len(plan.opened) > 0, pending: pending,
			contained: doc.Contained, mine: doc.repairOf(reactionContain, e.ID), allowed: plan.allowed, exempt: exempt,
			enabled: e.Name == opEnableKey, same: doc.Contained != nil && by != "" && doc.Contained.Principal == by,
			fight: stand, use: plan.use, at: e.Time, now: at,
		})
		switch {
		case plan.reason == containFlapping:
			doc.standBack(reactionContain, e, at)
		case plan.reason == containNow && r.config.Contain == Enforce:
			doc.intend(opDisableKey, plan.rep)
			doc.Contained = &containment{By: e.ID, At: at, Principal: by}
		}
	})
	return err
}

// carryOutContainment does what was decided, and tells it.
func (r *Router) carryOutContainment(ctx context.Context, e events.Event, key inventory.Key, plan containPlan) error {
	switch plan.reason {
	case containSettling:
		return settle(e, "how key "+key.ARN+" is open")
	case containNothing, containUnusable, containAllowed:
		return nil
	case containDone, containUndone, containEnabled, containExempt, containFlapping, containInUse, containUnknown, containNow:
	}
	var after inventory.Key
	var failure error
	acts := plan.reason == containNow && r.config.Contain == Enforce
	if acts { // at once: what hangs on the key is read afterwards
		after, failure = r.disable(ctx, key, plan.rep)
	}
	a := r.containAlert(ctx, e, key, plan)
	r.addBlast(ctx, &a, key, plan.rep.At)
	a.Action = alert.Action{Mode: string(r.config.Contain), Status: alert.StatusRefused, Description: containText(plan)}
	switch {
	case failure != nil:
		return r.failed(ctx, a, r.config.Contain, "disable the key", failure)
	case acts:
		a.Action.Status = alert.StatusDone
		a.Action.Description = "cmkeeper disabled the key. It is " + after.State + " now, as read back."
		a.Key.State = after.State
	case plan.reason == containNow:
		a.ID += "/" + string(alert.StatusWouldDo)
		a.Action.Status = alert.StatusWouldDo
		a.Action.Description = "Would disable the key."
	case plan.reason == containDone, plan.reason == containUndone:
		a.Action.Status = alert.StatusDone
	case plan.reason == containExempt:
		tellExempt(&a, plan.exemption, r.config.Contain)
	case plan.reason == containFlapping:
		a.ID = fmt.Sprintf("flapping/%s/%s/%d", keyID(key.ARN), reactionContain, plan.doc.circuitOf(reactionContain).At.UnixMilli())
	}
	return r.publish(ctx, a)
}

// disable disables the key and checks it by reading it back.
func (r *Router) disable(ctx context.Context, key inventory.Key, rep repair) (inventory.Key, error) {
	err := r.perform(ctx, key.ARN, opDisableKey, rep, func(ctx context.Context) (middleware.Metadata, error) {
		out, err := r.kms.DisableKey(ctx, &kms.DisableKeyInput{KeyId: aws.String(key.ID)})
		if err != nil {
			return middleware.Metadata{}, err
		}
		return out.ResultMetadata, nil
	})
	if err != nil && isRefusal(err) { // it was not disabled by us, then
		_, noteErr := r.updateKey(ctx, key.ARN, func(doc *keyDoc) {
			if doc.Contained != nil && doc.Contained.By == rep.By {
				doc.Contained = nil
			}
		})
		err = errors.Join(err, noteErr)
	}
	var seen inventory.Key
	var at time.Time
	if err == nil {
		err = confirm(ctx, "state of key "+key.ARN, func(ctx context.Context) (bool, error) {
			at = now()
			var err error
			seen, err = r.facts.Key(ctx, key.ARN)
			return err == nil && !seen.Enabled(), err
		})
	}
	if err == nil {
		_, err = r.updateKey(ctx, key.ARN, func(doc *keyDoc) { doc.see(seen, at, r.config.Deletion) })
	}
	return seen, err
}

// containAlert is what all alerts about a key that was opened have in common.
func (r *Router) containAlert(ctx context.Context, e events.Event, key inventory.Key, plan containPlan) alert.Alert {
	a := r.newAlert(e, alert.KindContainment, "")
	a.Severity, a.Key = alert.Critical, r.describe(ctx, key, plan.doc)
	open := plan.opened
	if len(open) == 0 { // it was contained before, and closed since
		open = plan.open
	}
	for _, x := range open {
		a.Findings = append(a.Findings, x.Finding)
	}
	a.Findings = finding.WorstFirst(a.Findings)
	name := shortName(a.Key)
	a.Title = "Key " + name + " was opened to everyone, or to an account that is not trusted"
	if len(a.Findings) > 0 {
		a.Title = "Key " + name + " was opened: " + strings.TrimSuffix(a.Findings[0].Message, ".")
	}
	a.Summary = fmt.Sprintf("%s called %s and is none of the roles that may open keys (CMKEEPER_CONTAIN_ALLOWED_ROLES). How it is open is in the findings.", who(e), e.Name)
	if e.Name == opEnableKey {
		a.Title = "Key " + name + " was enabled again while it is still open"
		a.Summary = fmt.Sprintf("cmkeeper had disabled the key because it was opened. %s enabled it, and it is still open as the findings say.", who(e))
	}
	a.Risk = "While the key is Enabled, whoever it was opened to can use it. While it is Disabled nobody can, and nothing encrypted under it can be read."
	for _, x := range open {
		if x.grant != "" {
			a.Next = append(a.Next, r.kmsCommand("revoke-grant", key.ARN, "--grant-id "+shellQuote(x.grant)))
		}
	}
	if slices.ContainsFunc(open, func(x exposure) bool { return x.grant == "" }) {
		a.Next = append(a.Next, "Close the key first: put its former policy back. The live one is:", r.kmsCommand("get-key-policy", key.ARN, "--policy-name default", "--output text"), r.trailCommand(key.ARN))
	}
	switch {
	case plan.reason == containNow && r.config.Contain == Enforce, plan.reason == containDone:
		a.Next = append(a.Next, "Then undo this: enable the key.", r.kmsCommand("enable-key", key.ARN))
	default:
		a.Next = append(a.Next, "If nobody needs the key now, disable it until it is closed:", r.kmsCommand("disable-key", key.ARN))
	}
	return a
}

// containText says what was decided where nothing is done now.
func containText(plan containPlan) string {
	mine := plan.doc.repairOf(reactionContain, plan.rep.By)
	switch plan.reason {
	case containDone:
		when, state := timeText(plan.doc.Contained.At), plan.doc.States[len(plan.doc.States)-1].State
		if mine == nil || !mine.Done {
			return fmt.Sprintf("cmkeeper began to disable the key at %s and was interrupted. It is %s now.", when, state)
		}
		return fmt.Sprintf("cmkeeper disabled the key at %s. It is %s now.", when, state)
	case containUndone:
		return "cmkeeper disabled the key at " + timeText(mine.At) + ". Somebody has enabled it again since, and it was left so."
	case containEnabled:
		return "The key was left Enabled: whoever enabled it is not the one who opened it, and has the last word."
	case containFlapping:
		return fmt.Sprintf("The key was left Enabled: it was disabled too often within the hour. cmkeeper stays out of it until %s.", timeText(plan.doc.circuitOf(reactionContain).closes()))
	case containInUse:
		return "The key was left Enabled, because it is in use: " + strings.Join(append(plan.use.why, plan.use.unknown...), "; ") + ". With CMKEEPER_CONTAIN_IN_USE it would be disabled all the same."
	case containUnknown:
		return "The key was left Enabled, because whether it is in use is not known: " + strings.Join(plan.use.unknown, "; ") + ". With CMKEEPER_CONTAIN_IN_USE it would be disabled all the same."
	case containNothing, containSettling, containUnusable, containAllowed, containExempt, containNow:
	}
	return ""
}
