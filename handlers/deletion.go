package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go/middleware"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// deletionReason names a decision about a key that may be lost.
type deletionReason string

const (
	// Nothing to undo.
	deletionUndone      deletionReason = "undone"       // the key is neither pending nor disabled
	deletionMaterial    deletionReason = "material"     // its material is gone, which only its owner can import again
	deletionSettling    deletionReason = "settling"     // the read may be older than the event
	deletionFirstSeen   deletionReason = "first-seen"   // it was so before cmkeeper first saw the key
	deletionAccepted    deletionReason = "accepted"     // it was so in mode observe
	deletionWasDisabled deletionReason = "was-disabled" // Disabled is what it was before
	deletionUnknown     deletionReason = "unknown"      // Disabled, and what it was before is unknown
	deletionApproved    deletionReason = "approved"     // cmkeeper retire schedule or rotate abort recorded it before, or a tag of the key holds
	deletionContained   deletionReason = "contained"    // cmkeeper itself disabled it, because it was opened
	deletionExempt      deletionReason = "exempt"       // an exemption covers it
	deletionFlapping    deletionReason = "flapping"     // it was undone too often
	deletionHeld        deletionReason = "held"         // nothing but a message says that it was otherwise before
	// To be undone.
	deletionCancel  deletionReason = "cancel"  // cancel the deletion, and then as enable says
	deletionEnable  deletionReason = "enable"  // enable the key
	deletionRestore deletionReason = "restore" // finish what was begun: enable the key
)

// stood reports whether the key may have been in its state for long, as far as a sweep knows.
func (r deletionReason) stood() bool {
	switch r {
	case deletionFirstSeen, deletionAccepted, deletionApproved, deletionExempt:
		return true
	default:
		return false
	}
}

type deletionInput struct {
	event   string
	sweep   bool
	claimed bool   // nothing but a message says that the event happened
	state   string // live
	history []ledger.State
	restore *ledger.Restore // begun before, and not finished
	// approved: the state is one that was approved.
	approved bool
	exempt   bool
	// contained: we disabled the key.
	contained bool
	// repaired: we undid it since the event.
	repaired bool
	// breaker is BreakerClosed where nothing is undone in this mode.
	breaker ledger.Breaker
	// enforce is the mode: what was seen in mode observe is left alone by it.
	enforce bool
	// at is the time of the event, which CloudTrail gives in whole seconds.
	at, now time.Time
}

type deletionDecision struct {
	reason deletionReason
	// cancel the deletion; enable the key (afterwards).
	cancel, enable bool
	// former is the state before, "" if unknown.
	former string
	wait   time.Duration
}

// acts reports whether the decision undoes something.
func (d deletionDecision) acts() bool { return d.cancel || d.enable }

// decideDeletion decides how the state that a key had before comes back. A key
// that was disabled before its deletion was scheduled stays disabled; so does
// one of which that is unknown.
func decideDeletion(in deletionInput) deletionDecision {
	d := deletionDecision{former: formerState(in)}
	accepted := in.enforce && len(in.history) > 0 && in.history[len(in.history)-1].Accepted
	if in.contained && d.former == ledger.StateEnabled {
		d.former = ledger.StateDisabled // by us, before anything else
	}
	age := in.now.Sub(in.at)
	pending, disabled := ledger.IsPending(in.state), in.state == ledger.StateDisabled
	switch {
	case disabled && in.contained:
		d.reason = deletionContained
	case (pending || disabled) && in.approved:
		d.reason = deletionApproved
	case pending && in.sweep && d.former == "":
		d.reason = deletionFirstSeen
	case pending && in.claimed && d.former == "" && in.restore == nil:
		d.reason = deletionHeld
	case (pending || disabled) && accepted && in.restore == nil:
		d.reason = deletionAccepted
	case pending:
		d.reason, d.cancel = deletionCancel, true
		d.enable = !in.contained && (d.former == ledger.StateEnabled || in.restore != nil)
	case disabled && in.restore != nil:
		d.reason, d.enable = deletionRestore, true
	case disabled && (in.event == "DisableKey" || in.sweep):
		switch d.former {
		case ledger.StateEnabled:
			d.reason, d.enable = deletionEnable, true
		case "":
			d.reason = deletionUnknown
		default:
			d.reason = deletionWasDisabled
		}
	case isMaterialLoss(in.event) && in.state == ledger.StatePendingImport:
		d.reason = deletionMaterial
	case age >= 0 && age < ledger.ConsistencyWindow && !in.sweep && !in.repaired:
		d.reason, d.wait = deletionSettling, ledger.ConsistencyWindow-age
	default:
		d.reason = deletionUndone
	}
	switch {
	case !d.acts():
	case in.exempt && in.restore == nil:
		return deletionDecision{reason: deletionExempt, former: d.former}
	case in.breaker != ledger.BreakerClosed:
		return deletionDecision{reason: deletionFlapping, former: d.former}
	}
	return d
}

func isMaterialLoss(event string) bool {
	switch event {
	case "DeleteImportedKeyMaterial", "DeleteExpiredKeyMaterial", events.NativeExpiry:
		return true
	}
	return false
}

// formerState returns the state that the key was last seen in before what
// happened to it, "" if it was not seen before. Pending deletion is no state to
// come back to.
func formerState(in deletionInput) string {
	for i, s := range slices.Backward(in.history) {
		switch {
		case ledger.IsPending(s.State):
		case in.sweep || in.claimed:
			// No event surely says when it happened: before the present state began.
			if i < len(in.history)-1 {
				return s.State
			}
		case s.At.Before(in.at):
			return s.State
		case s.At.Before(in.at.Add(time.Second)) && s.State == ledger.StateEnabled:
			// Within the second of the event: Disabled may already be its effect,
			// but Enabled can only be from before.
			return s.State
		}
	}
	return ""
}

// worthSweeping reports whether a sweep has to act on a key or to alert about it: every
// time while enforce has something to do, else once per state.
func worthSweeping(d deletionDecision, b ledger.Breaker, enforce, alerted bool) bool {
	switch d.reason {
	case deletionCancel, deletionEnable, deletionRestore:
		return enforce || !alerted
	case deletionFlapping:
		return b == ledger.BreakerOpening
	case deletionFirstSeen, deletionAccepted, deletionApproved, deletionExempt:
		return !alerted
	default:
		return false
	}
}

// deletionCase is what is known of a key that may be lost, and what is done about it.
type deletionCase struct {
	*reaction.Case
	enforce    bool
	key        inventory.Key
	state      ledger.State // the key's, as its document has it
	decision   deletionDecision
	breaker    ledger.Breaker
	approval   approval
	exemption  reaction.Exemption
	repair     ledger.Repair
	dependents []alert.Fact
	failure    error
}

// deletion alarms on keys that are about to be lost, and brings them back.
//
// In mode enforce a disabled key is enabled again, and the deletion of a key
// cancelled, unless the key was seen in that state in mode observe, or the deletion
// is one that was approved (cmkeeper retire schedule, or the key's tag).
func deletion(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	d := &deletionCase{Case: c, enforce: c.Config.Deletion == reaction.Enforce}
	key, err := c.Key(ctx)
	switch {
	case errors.Is(err, inventory.ErrNotFound):
		return d.gone(ctx)
	case err != nil:
		d.key = inventory.Key{ARN: c.Event.KeyARN}
		return d.blocked("read the key", err, c.KMSCommand("describe-key"), c.KMSCommand("cancel-key-deletion")), nil
	}
	d.key = key
	switch err := d.decide(ctx); {
	case errors.Is(err, reaction.ErrOutdated):
		return nil, c.ReadAgain()
	case err != nil:
		// The alarm does not wait for the state bucket.
		return d.blocked("read what is known of the key", err, c.UndoCommands(key.State, true)...), nil
	}
	reason := d.decision.reason
	c.Debug(ctx, "deletion decided", "reason", reason, "former", d.decision.former)
	switch {
	case reason == deletionSettling:
		return nil, outcome.RetryAfter(d.decision.wait, fmt.Errorf("key is %s: waiting for KMS to show what the event says", key.State))
	case c.IsSweep() && !worthSweeping(d.decision, d.breaker, d.enforce, d.state.By != ""):
		return nil, nil
	}
	if reason == deletionHeld {
		c.Await(ctx, "that the key was in use before")
	}
	todo := &reaction.Decision{Gather: d.gather, Tell: d.tell, Told: reaction.Told{Key: d.told}}
	if reason.stood() {
		todo.Tells = reaction.Stands
	}
	switch {
	case reason == deletionFlapping:
		todo.Told = c.CircuitTold(ledger.ReactionDeletion, d.breaker)
	case d.enforce && d.decision.acts():
		todo.Act = d.undo
	}
	return todo, nil
}

// decide reads what the decision needs, notes the key as it was read, decides whether
// its deletion is approved and what comes of it, and notes what is about to be done.
func (d *deletionCase) decide(ctx context.Context) (err error) {
	if d.approval, err = readApproval(ctx, d.Case, d.key); err != nil {
		return err
	}
	cause := func(k *ledger.Key) *ledger.Party { return k.StateCause(d.Event) }
	if ledger.IsPending(d.key.State) || d.key.State == ledger.StateDisabled {
		if d.exemption, err = d.Exempt(ctx, alert.KindDeletion, cause); err != nil {
			return err
		}
	}
	doc, err := d.Ledger(ctx)
	if err != nil {
		return err
	}
	if doc.Outdates(d.key.State, d.At) {
		return reaction.ErrOutdated
	}
	d.See(doc, d.key)
	doc.NoteCause(d.Event)
	if d.enforce {
		d.breaker = doc.Breaker(ledger.ReactionDeletion, d.Event, d.Config.FlapLimit, d.At)
	}
	d.state = *doc.LastState()
	d.approval = d.approval.judge(doc, d.Config.DeletionApprovalDays)
	d.Approved = d.approval.given()
	d.decision = decideDeletion(deletionInput{
		event: d.Event.Name, sweep: d.IsSweep(), claimed: d.Event.Claimed, state: d.key.State, history: doc.States, restore: doc.Restore,
		approved: d.approval.given(), exempt: d.exemption.Holds, contained: doc.IsContained(),
		repaired: doc.RepairOf(ledger.ReactionDeletion, d.Event.ID) != nil || len(doc.RepairsSince(ledger.ReactionDeletion, d.Event.ID, d.Event.Time)) > 0,
		breaker:  d.breaker, enforce: d.enforce, at: d.Event.Time, now: d.At,
	})
	d.repair = ledger.Repair{Reaction: ledger.ReactionDeletion, By: d.Event.ID, Alert: d.Event.ID, At: d.At, Against: cause(doc)}
	if d.decision.reason == deletionFlapping {
		doc.OpenCircuit(ledger.ReactionDeletion, d.Event.ID, d.At)
	}
	if !d.enforce {
		return nil
	}
	if d.decision.acts() {
		d.NoteUntold(doc, d.repair, d.sweptID())
	}
	if d.decision.cancel {
		doc.Intend(reaction.CancelKeyDeletion, d.repair)
	}
	if d.decision.enable {
		doc.Intend(reaction.EnableKey, d.repair)
		if doc.Restore == nil {
			doc.Restore = &ledger.Restore{By: d.Event.ID, At: d.At}
		}
	}
	return nil
}

// undo cancels and enables as decided, and checks each by reading it back.
func (d *deletionCase) undo(ctx context.Context) error {
	if d.decision.cancel {
		d.failure = d.call(ctx, reaction.CancelKeyDeletion, func(k inventory.Key) bool { return !k.PendingDeletion() },
			func(ctx context.Context) (middleware.Metadata, error) {
				out, err := d.KMS.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: aws.String(d.key.ID)})
				if err != nil {
					return middleware.Metadata{}, err
				}
				return out.ResultMetadata, nil
			})
	}
	if d.decision.enable && d.failure == nil {
		d.failure = d.call(ctx, reaction.EnableKey, inventory.Key.Enabled,
			func(ctx context.Context) (middleware.Metadata, error) {
				out, err := d.KMS.EnableKey(ctx, &kms.EnableKeyInput{KeyId: aws.String(d.key.ID)})
				if err != nil {
					return middleware.Metadata{}, err
				}
				return out.ResultMetadata, nil
			})
	}
	if d.failure == nil {
		d.failure = d.NoteKey(ctx)
	}
	return d.failure
}

// call makes one of the calls, and reads the key back until it is as wanted. Where KMS
// refuses the call because another worker was faster, it is as wanted, too.
func (d *deletionCase) call(ctx context.Context, operation string, wanted func(inventory.Key) bool, do func(context.Context) (middleware.Metadata, error)) error {
	err := d.Perform(ctx, operation, d.repair, do)
	if _, raced := errors.AsType[*types.KMSInvalidStateException](err); raced {
		if key, readErr := d.KeyAgain(ctx); readErr == nil && wanted(key) {
			return nil
		}
	}
	if err != nil {
		return err
	}
	return d.ReadBackKey(ctx, wanted)
}

// gather reads what depends on the key.
func (d *deletionCase) gather(ctx context.Context) {
	d.dependents = d.Dependents(ctx, d.key)
}

// told notes that the alert about the key's state is published.
func (d *deletionCase) told(k *ledger.Key) {
	if names := d.Describe(d.key).Aliases; len(names) > 0 {
		k.Aliases = names // KMS deletes them with the key
	}
	k.MarkState(d.state, d.Event.ID, d.exemption.Mark())
	k.MarkTold(d.repair.Reaction, d.repair.By)
}
