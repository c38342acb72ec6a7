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
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/posture"
)

// containReason names a decision about a key that was opened.
type containReason string

const (
	// Nothing to do.
	containNothing  containReason = "nothing"  // the event did not open the key, or it is closed again
	containSettling containReason = "settling" // the read may be older than the event
	containUnusable containReason = "unusable" // nobody can use the key as it is
	containAllowed  containReason = "allowed"  // the actor may open keys
	containDone     containReason = "done"     // the key was disabled for this event
	// To be alerted.
	containUndone   containReason = "undone"   // it was, and somebody has enabled it again since
	containEnabled  containReason = "enabled"  // the actor who enabled the key, as it is, did not open it
	containExempt   containReason = "exempt"   // an exemption covers it
	containFlapping containReason = "flapping" // it was disabled too often
	containHeld     containReason = "held"     // nothing but a message says who opened it, or that it was not open before
	containInUse    containReason = "in-use"   // disabling it would harm who uses it
	containUnknown  containReason = "unknown"  // whether it would is not known
	// To be done.
	containNow   containReason = "contain"
	containLater containReason = "later" // unless the policy reaction closes the key first
)

type containInput struct {
	by    string // the event
	state string // live
	// opened: the event opened the key, or enabled one that was contained, and it
	// is open now. pending: it says so, and that cannot be seen.
	opened, pending bool
	contained       *ledger.Containment // the last one of the key
	mine            *ledger.Repair      // for this event
	allowed, exempt bool
	// held: whether it may be disabled shows when CloudTrail has the event.
	held bool
	// enabled: the event enabled the key; same: its actor also opened it.
	enabled, same bool
	// breaker is BreakerClosed where nothing is disabled in this mode.
	breaker ledger.Breaker
	// restoring: the former policy is restored first.
	restoring bool
	// use is empty where it does not matter.
	use     keyUse
	at, now time.Time
}

// decideContain decides whether a key is disabled. It does not override the
// actor who enables the key again, unless the same actor opened it.
func decideContain(in containInput) containReason {
	age := in.now.Sub(in.at)
	enabled := in.state == ledger.StateEnabled
	switch {
	case !enabled && in.contained != nil && in.contained.By == in.by:
		return containDone
	case enabled && in.mine != nil && in.mine.Done && in.now.Sub(in.mine.At) > ledger.ConsistencyWindow:
		return containUndone
	case !in.opened && in.pending && age >= 0 && age < ledger.ConsistencyWindow:
		return containSettling
	case !in.opened:
		return containNothing
	case !enabled:
		return containUnusable
	case in.allowed && !in.held:
		return containAllowed
	case in.restoring:
		return containLater
	case in.exempt:
		return containExempt
	case in.held:
		return containHeld
	case in.enabled && !in.same:
		return containEnabled
	case in.breaker != ledger.BreakerClosed:
		return containFlapping
	case len(in.use.why) > 0:
		return containInUse
	case len(in.use.unknown) > 0:
		return containUnknown
	}
	return containNow
}

// alerts reports whether the decision is alerted.
func (r containReason) alerts() bool {
	switch r {
	case containNothing, containSettling, containUnusable, containAllowed, containLater:
		return false
	default:
		return true
	}
}

// containCase is what is known of a key that may have been opened, and what is to be
// done about it.
type containCase struct {
	*reaction.Case
	key        inventory.Key
	document   string     // the policy, and
	open       []exposure // how the key is open, as they were read
	opened     []exposure // by the event
	allowed    bool
	repair     ledger.Repair
	exemption  reaction.Exemption
	use        keyUse
	reason     containReason
	last       bool // the policy reaction has acted
	dependents []alert.Fact
	failure    error
}

// contain disables a key that was just opened to everyone, or to an account that is
// not trusted, by somebody who may not do that.
//
// Only what the event itself says it opened counts, and only while the live policy and
// grants show it: where the policy reaction restores the former policy, there is
// nothing to contain, unless that fails. Not a sweep's work: nobody can say then who
// it was.
func contain(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	by := ledger.PartyOf(c.Event)
	k := &containCase{Case: c, repair: ledger.Repair{Reaction: ledger.ReactionContain, By: c.Event.ID, Alert: c.Event.ID, At: c.At, Against: by}}
	if by != nil {
		actor := c.ActorOf(by).Confirmed()
		k.allowed = slices.ContainsFunc(c.Config.ContainAllowed, func(p judgement.Principals) bool { return p.Include(actor) })
	}
	if c.Event.Name == reaction.EnableKey { // most keys were never contained
		if doc, err := c.Ledger(ctx); err != nil || doc.Contained == nil {
			return nil, err
		}
	}
	switch err := k.read(ctx); {
	case errors.Is(err, inventory.ErrNotFound):
		return nil, reaction.WaitForConsistency(c.Event, "key "+c.Event.KeyARN) // a new key may not be seen yet
	case errors.Is(err, inventory.ErrAccessDenied):
		return c.Unread(ctx, err)
	case err != nil:
		return nil, err
	}
	switch err := k.decide(ctx); {
	case errors.Is(err, reaction.ErrOutdated):
		return nil, c.ReadAgain()
	case err != nil:
		if k.opened, _ = openedBy(c, new(ledger.Key), k.open); len(k.opened) == 0 || k.allowed {
			return nil, err
		}
		k.failure = err // the alarm does not wait for the state bucket
		return &reaction.Decision{Act: func(context.Context) error { return err }, Tell: k.tell}, nil
	}
	c.Debug(ctx, "containment decided", "reason", k.reason)
	d := &reaction.Decision{Gather: k.gather, Tell: k.tell}
	switch {
	case k.reason == containSettling:
		return nil, k.wait()
	case k.reason == containLater:
		d.Act = k.afterRestoration
	case !k.reason.alerts():
		return nil, nil
	case k.reason == containNow && c.Config.Contain == reaction.Enforce:
		d.Act = k.disable
	}
	return d, nil
}

// wait is the wait until live reads show what the event says.
func (k *containCase) wait() error {
	return reaction.WaitForConsistency(k.Event, "how key "+k.Event.KeyARN+" is open")
}

// read reads the key and how it is open.
func (k *containCase) read(ctx context.Context) (err error) {
	if k.key, err = k.Key(ctx); err == nil {
		k.document, err = k.Policy(ctx)
	}
	if err == nil {
		k.open, err = exposures(ctx, k.Case)
	}
	return err
}

// accepted reports whether somebody said that the live policy is good.
func (k *containCase) accepted(ctx context.Context) (bool, error) {
	if len(k.open) == 0 {
		return false, nil // it does not matter
	}
	base, err := k.Baseline(ctx)
	if err != nil {
		return false, err
	}
	good, _ := base.Good()
	return base.Accepts(k.document) || good.AcceptedBy != "" && good.SHA256 == ledger.Hash(k.document), nil
}

// decide notes the key and how it is open as they were read, decides, and notes what
// is about to be done.
func (k *containCase) decide(ctx context.Context) (err error) {
	in := containInput{by: k.Event.ID, state: k.key.State, allowed: k.allowed, enabled: k.Event.Name == reaction.EnableKey, at: k.Event.Time, now: k.At}
	cause := func(*ledger.Key) *ledger.Party { return k.repair.Against }
	if k.exemption, err = k.Exempt(ctx, alert.KindContainment, cause); err != nil {
		return err
	}
	in.exempt = k.exemption.Holds
	doc, err := k.Ledger(ctx)
	if err != nil {
		return err
	}
	accepted, err := k.accepted(ctx)
	if err != nil {
		return err
	}
	// The policy may be restored by now, or is about to be: by the policy reaction to this
	// event, here or at another worker, after it was read here.
	repaired := len(doc.RepairsSince(ledger.ReactionPolicy, "", k.Event.Time)) > 0
	in.restoring = !k.last && (repaired || doc.InProgress(k.Event) != nil)
	if len(k.open) > 0 && k.key.Enabled() && (!k.allowed || k.Event.Claimed) && !k.Config.ContainInUse && !in.restoring {
		if k.use, err = useOf(ctx, k.Case); err != nil {
			return err
		}
	}
	if doc.Outdates(k.key.State, k.At) {
		return reaction.ErrOutdated
	}
	k.See(doc, k.key)
	k.opened, in.pending = opened(k.Case, doc, k.open)
	if accepted {
		k.opened = slices.DeleteFunc(k.opened, func(x exposure) bool { return x.grant == "" })
	}
	in.pending = in.pending && !repaired
	known := doc.ExposuresReadBefore(k.Event.Sent)
	doc.NoteExposures(names(k.open), k.At)
	by, enforce := "", k.Config.Contain == reaction.Enforce
	if enforce {
		in.breaker = doc.Breaker(ledger.ReactionContain, k.Event, k.Config.FlapLimit, k.At)
	}
	if k.repair.Against != nil {
		by = k.repair.Against.Principal
	}
	in.opened, in.use = len(k.opened) > 0, k.use
	in.contained, in.mine = doc.Contained, doc.RepairOf(ledger.ReactionContain, k.Event.ID)
	in.same = doc.Contained != nil && by != "" && doc.Contained.Principal == by
	if k.Event.Claimed {
		k.weigh(ctx, &in, known)
		by = "" // what a message claims decides nothing later
	}
	k.reason = decideContain(in)
	switch {
	case k.reason == containFlapping:
		doc.OpenCircuit(ledger.ReactionContain, k.Event.ID, k.At)
	case k.reason == containNow && enforce:
		doc.Intend(reaction.DisableKey, k.repair)
		doc.Contained = &ledger.Containment{By: k.Event.ID, At: k.At, Principal: by}
	}
	return nil
}

// weigh takes what only a message claims out of a decision: an actor who may open keys
// holds it up until CloudTrail shows them, and one who may not adds nothing to what earlier
// reads of the key show (known: there are some).
func (k *containCase) weigh(ctx context.Context, in *containInput, known bool) {
	switch {
	case !in.opened:
	case in.allowed:
		in.held = k.Await(ctx, "who opened the key")
		in.allowed = in.held
	case in.enabled && in.same:
		in.held = k.Await(ctx, "who enabled the key")
		in.same = in.held
	case !in.enabled && !known:
		k.Await(ctx, "that the event opened the key")
		in.held = true
	}
}

// afterRestoration decides again once the policy reaction has acted: only what is
// still open is contained.
func (k *containCase) afterRestoration(ctx context.Context) error {
	k.last = true
	document, err := k.Policy(ctx)
	if err == nil && document == k.document { // else the restoration was read back just now
		_, err = k.PolicyAgain(ctx)
	}
	if err != nil {
		return err
	}
	err = k.Redecide(ctx, func(ctx context.Context) error {
		if err := k.read(ctx); err != nil {
			return err
		}
		return k.decide(ctx)
	})
	switch {
	case errors.Is(err, reaction.ErrOutdated):
		return k.ReadAgain()
	case err != nil:
		return err
	}
	k.Debug(ctx, "containment decided", "reason", k.reason)
	switch {
	case k.reason == containSettling:
		return k.wait()
	case k.reason == containNow && k.Config.Contain == reaction.Enforce:
		return k.disable(ctx)
	}
	return nil
}

// disable disables the key and checks it by reading it back.
func (k *containCase) disable(ctx context.Context) error {
	err := k.Perform(ctx, reaction.DisableKey, k.repair, func(ctx context.Context) (middleware.Metadata, error) {
		out, err := k.KMS.DisableKey(ctx, &kms.DisableKeyInput{KeyId: aws.String(k.key.ID)})
		if err != nil {
			return middleware.Metadata{}, err
		}
		return out.ResultMetadata, nil
	})
	switch {
	case err == nil:
		if err = k.ReadBackKey(ctx, func(key inventory.Key) bool { return !key.Enabled() }); err == nil {
			err = k.NoteKey(ctx)
		}
	case reaction.IsRefusal(err): // it was not disabled by us, then
		err = errors.Join(err, k.Update(ctx, func(doc *ledger.Key) { doc.WithdrawContainment(k.repair.By) }))
	}
	k.failure = err
	return err
}

// gather reads what depends on the key, where there is an alert at all.
func (k *containCase) gather(ctx context.Context) {
	if k.reason.alerts() {
		k.dependents = k.Dependents(ctx, k.key)
	}
}

// tell composes the alert about a key that was opened: what was decided, and the result.
func (k *containCase) tell() []alert.Alert {
	mode := k.Config.Contain
	if k.reason == "" { // it could not be decided
		return k.Failed(k.common(), mode, "read what is known of the key", k.failure)
	}
	if !k.reason.alerts() {
		return nil
	}
	a := k.common()
	a.Facts = append(a.Facts, k.dependents...)
	a.Action = alert.Action{Mode: string(mode), Status: alert.StatusRefused, Description: k.text()}
	switch k.reason {
	case containNow:
		switch {
		case k.failure != nil:
			return k.Failed(a, mode, "disable the key", k.failure)
		case mode == reaction.Enforce:
			a.Key.State = k.KeyRead().State
			a.Action.Status = alert.StatusDone
			a.Action.Description = "cmkeeper disabled the key, and read back that it is " + a.Key.State + "."
		default:
			a.ID += "/" + string(alert.StatusWouldDo)
			a.Action.Status = alert.StatusWouldDo
			a.Action.Description = "Would disable the key."
		}
	case containDone, containUndone:
		a.Action.Status = alert.StatusDone
	case containExempt:
		reaction.TellExempt(&a, k.exemption, mode)
	case containHeld:
		if a.ID += "/held"; !k.Awaits() {
			a.ID += "/unconfirmed"
		}
	case containFlapping:
		a.ID = k.FlappingID(ledger.ReactionContain)
	default:
	}
	return []alert.Alert{a}
}

// common is what all alerts about a key that was opened have in common.
func (k *containCase) common() alert.Alert {
	a := k.NewAlert(alert.KindContainment, "")
	a.Severity, a.Key = finding.Critical, k.Describe(k.key)
	open := k.opened
	if len(open) == 0 { // it was contained before, and closed since
		open = k.open
	}
	for _, x := range open {
		a.Findings = append(a.Findings, x.Finding)
		if a.Dangers = append(a.Dangers, posture.DangerPolicy); x.grant != "" {
			a.Dangers[len(a.Dangers)-1] = posture.Grant(x.grant)
		}
	}
	a.Findings = finding.WorstFirst(a.Findings)
	name := reaction.ShortName(a.Key)
	a.Title = "Key " + name + " was opened to everyone or to an untrusted account"
	if len(a.Findings) > 0 {
		a.Title = "Key " + name + " was opened: " + strings.TrimSuffix(a.Findings[0].Message, ".")
	}
	a.Summary = fmt.Sprintf("%s called %s and is not one of the roles that may open keys (CMKEEPER_CONTAIN_ALLOWED_ROLES). The findings show how the key is open.", k.Who(), k.Event.Name)
	if k.reason == containHeld {
		a.Summary = fmt.Sprintf("A message says that %s called %s. The findings show how the key is open.", k.Who(), k.Event.Name)
	}
	if k.Event.Name == reaction.EnableKey {
		a.Dangers = append(a.Dangers, posture.DangerReopened)
		a.Title = "Key " + name + " was enabled again while it is still open"
		a.Summary = fmt.Sprintf("cmkeeper had disabled the key because it was opened. %s enabled it, but it is still open: see the findings.", k.Who())
	}
	a.Risk = "While the key is Enabled, everyone it was opened to can use it. While it is Disabled, nobody can, and nothing encrypted under it can be read."
	for _, x := range open {
		if x.grant != "" {
			a.Next = append(a.Next, k.KMSCommand("revoke-grant --grant-id %s", command.GrantID(x.grant)))
		}
	}
	if slices.ContainsFunc(open, func(x exposure) bool { return x.grant == "" }) {
		a.Next = append(a.Next, "Close the key first: restore its former policy. The live one is:", k.KMSCommand("get-key-policy --policy-name default --output text"), k.TrailCommand())
	}
	switch {
	case k.reason == containNow && k.Config.Contain == reaction.Enforce, k.reason == containDone:
		a.Next = append(a.Next, "Then enable the key again:", k.KMSCommand("enable-key"))
	default:
		a.Next = append(a.Next, "If nobody needs the key now, disable it until it is closed:", k.KMSCommand("disable-key"))
	}
	return a
}

// text says what was decided where nothing is done now.
func (k *containCase) text() string {
	doc := k.Known()
	mine := doc.RepairOf(ledger.ReactionContain, k.Event.ID)
	const left = "The key was left Enabled"
	switch k.reason {
	case containDone:
		when, state := reaction.TimeText(doc.Contained.At), doc.LastState().State
		if mine == nil || !mine.Done {
			return fmt.Sprintf("cmkeeper was interrupted while it disabled the key at %s. It is %s now.", when, state)
		}
		return fmt.Sprintf("cmkeeper disabled the key at %s. It is %s now.", when, state)
	case containUndone:
		return "cmkeeper disabled the key at " + reaction.TimeText(mine.At) + ". Somebody has enabled it since then, and cmkeeper left it Enabled."
	case containEnabled:
		return left + ": the actor who enabled it is not the one who opened it, and cmkeeper does not override that."
	case containFlapping:
		return fmt.Sprintf(left+": the circuit breaker is open, because cmkeeper disabled the key too often within the hour. It does not disable it again before %s.", reaction.TimeText(doc.CircuitOf(ledger.ReactionContain).Closes()))
	case containHeld:
		if k.Awaits() {
			return left + " until CloudTrail shows the call: only that says who opened the key, or whether it was open before."
		}
		return left + ": CloudTrail did not show the call within 15 minutes, and cmkeeper had not read the key before, so it may have been open all the time."
	case containInUse:
		return left + ", because it is in use: " + strings.Join(append(k.use.why, k.use.unknown...), "; ") + ". CMKEEPER_CONTAIN_IN_USE=true would disable it anyway."
	case containUnknown:
		return left + ", because it is not known whether it is in use: " + strings.Join(k.use.unknown, "; ") + ". CMKEEPER_CONTAIN_IN_USE=true would disable it anyway."
	default:
		return ""
	}
}
