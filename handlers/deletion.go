package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go/middleware"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// KMS's key states that decide something here.
const (
	stateEnabled        = "Enabled"
	stateDisabled       = "Disabled"
	statePending        = "PendingDeletion"
	statePendingReplica = "PendingReplicaDeletion"
	statePendingImport  = "PendingImport"
)

func isPending(state string) bool { return state == statePending || state == statePendingReplica }

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
	deletionApproved    deletionReason = "approved"     // cmkeeper retire schedule recorded it before it was scheduled, or a tag of the key holds
	deletionContained   deletionReason = "contained"    // cmkeeper itself disabled it, because it was opened
	deletionExempt      deletionReason = "exempt"       // an exemption covers it
	deletionFlapping    deletionReason = "flapping"     // it was undone too often
	// To be undone.
	deletionCancel  deletionReason = "cancel"  // cancel the deletion, and then as enable says
	deletionEnable  deletionReason = "enable"  // enable the key
	deletionRestore deletionReason = "restore" // finish what was begun: enable the key
)

type deletionInput struct {
	event   string
	sweep   bool
	state   string // live
	history []seenState
	restore *restore // begun before, and not finished
	// approved: the pending deletion is one that was approved.
	approved bool
	exempt   bool
	// contained: we disabled the key.
	contained bool
	// repaired: we undid it since the event.
	repaired bool
	// fight is fightNone where nothing is undone in this mode.
	fight fight
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
	// fight is how it stands where it is left to one.
	fight fight
}

// decideDeletion decides how the state that a key had before comes back. A key
// that was disabled before its deletion was scheduled stays disabled; so does
// one of which that is unknown.
func decideDeletion(in deletionInput) deletionDecision {
	d := deletionDecision{former: formerState(in)}
	accepted := in.enforce && len(in.history) > 0 && in.history[len(in.history)-1].Accepted
	if in.contained && d.former == stateEnabled {
		d.former = stateDisabled // by us, before anything else
	}
	age := in.now.Sub(in.at)
	switch {
	case in.state == stateDisabled && in.contained:
		d.reason = deletionContained
	case isPending(in.state) && in.approved:
		d.reason = deletionApproved
	case isPending(in.state) && in.sweep && d.former == "":
		d.reason = deletionFirstSeen
	case (isPending(in.state) || in.state == stateDisabled) && accepted && in.restore == nil:
		d.reason = deletionAccepted
	case isPending(in.state):
		d.reason, d.cancel = deletionCancel, true
		d.enable = !in.contained && (d.former == stateEnabled || in.restore != nil)
	case in.state == stateDisabled && in.restore != nil:
		d.reason, d.enable = deletionRestore, true
	case in.state == stateDisabled && (in.event == "DisableKey" || in.sweep):
		switch d.former {
		case stateEnabled:
			d.reason, d.enable = deletionEnable, true
		case "":
			d.reason = deletionUnknown
		default:
			d.reason = deletionWasDisabled
		}
	case isMaterialLoss(in.event) && in.state == statePendingImport:
		d.reason = deletionMaterial
	case age >= 0 && age < settling && !in.sweep && !in.repaired:
		d.reason, d.wait = deletionSettling, settling-age
	default:
		d.reason = deletionUndone
	}
	if d.cancel || d.enable {
		if in.exempt && in.restore == nil {
			return deletionDecision{reason: deletionExempt, former: d.former}
		}
		if in.fight != fightNone {
			return deletionDecision{reason: deletionFlapping, former: d.former, fight: in.fight}
		}
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
		case isPending(s.State):
		case in.sweep:
			// No event says when it happened: before the present state began.
			if i < len(in.history)-1 {
				return s.State
			}
		case s.At.Before(in.at):
			return s.State
		case s.At.Before(in.at.Add(time.Second)) && s.State == stateEnabled:
			// Within the second of the event: Disabled may already be its effect,
			// but Enabled can only be from before.
			return s.State
		}
	}
	return ""
}

const reactionDeletion = "deletion"

// deletion alarms on keys that are about to be lost, and brings them back.
//
// In mode enforce a disabled key is enabled again, and the deletion of a key
// cancelled, unless the key was seen in that state in mode observe, or the deletion
// is one that was approved (cmkeeper retire schedule, or the key's tag).
func (r *Router) deletion(ctx context.Context, e events.Event) error {
	at := now()
	key, err := r.facts.Key(ctx, e.KeyARN)
	if errors.Is(err, inventory.ErrNotFound) {
		return r.gone(ctx, e, alert.KindDeletion, true)
	}
	if err != nil {
		a := r.deletionAlert(e, inventory.Key{ARN: e.KeyARN}, &alert.Key{ARN: e.KeyARN})
		a.Next = []string{r.kmsCommand("describe-key", e.KeyARN), r.kmsCommand("cancel-key-deletion", e.KeyARN)}
		return r.failed(ctx, a, r.config.Deletion, "read the key", err)
	}
	return r.rescue(ctx, e, key, at)
}

// rescue decides, brings the key back where that is to be done, and tells.
func (r *Router) rescue(ctx context.Context, e events.Event, key inventory.Key, at time.Time) error {
	enforce := r.config.Deletion == Enforce
	rep := repair{Reaction: reactionDeletion, By: e.ID, Alert: e.ID, At: at}
	approval, err := r.readApproval(ctx, key)
	var exemption judgement.Exemption
	var exempt bool
	if err == nil && (isPending(key.State) || key.State == stateDisabled) {
		exemption, exempt, err = r.exempt(ctx, e, alert.KindDeletion, key.ARN)
	}
	var doc keyDoc
	var d deletionDecision
	if err == nil {
		doc, d, err = r.planRescue(ctx, e, key, rep, &approval, exempt)
	}
	if err != nil {
		// The alarm does not wait for the state bucket.
		a := r.deletionAlert(e, key, r.describe(ctx, key, doc))
		a.Next = r.undoCommands(key, true)
		return r.failed(ctx, a, r.config.Deletion, "read what is known of the key", err)
	}
	r.log.DebugContext(ctx, "deletion decided", "key", key.ARN, "event_id", e.ID, "reason", d.reason, "former", d.former)
	if d.reason == deletionSettling {
		return outcome.RetryAfter(d.wait, fmt.Errorf("key is %s: waiting for KMS to agree with the event", key.State))
	}
	told := doc.States[len(doc.States)-1]
	if isSweep(e) && !worthSweeping(d, enforce, told.By != "") {
		return nil
	}

	a := r.deletionAlert(e, key, r.describe(ctx, key, doc))
	if isSweep(e) {
		a.ID = fmt.Sprintf("sweep/%s/state/%s/%d", keyID(key.ARN), told.State, told.At.UnixMilli())
	}
	if n := len(doc.repairsSince(reactionDeletion, e.ID, at.Add(-flappingWindow))); n >= flappingFinding {
		a.Findings = append(a.Findings, flapping(n, "state"))
	}
	a.Action = alert.Action{Mode: string(r.config.Deletion), Status: alert.StatusNone}
	var restored inventory.Key
	var undoErr error
	if enforce && (d.cancel || d.enable) { // at once: what hangs on the key is read afterwards
		restored, undoErr = r.undo(ctx, key, d, rep)
	}
	r.addBlast(ctx, &a, key, at)
	undo := append(r.undoCommands(key, d.enable || d.former != stateDisabled), a.Next...)
	switch {
	case d.reason == deletionFlapping:
		a.Next = undo
		return r.tellFight(ctx, a, e, r.config.Deletion, doc, reactionDeletion, d.fight)
	case d.reason == deletionUndone:
		tellUndone(&a, doc, e, key)
	case d.reason == deletionExempt:
		a.Next = undo
		tellExempt(&a, exemption, r.config.Deletion)
	case !d.cancel && !d.enable:
		a.Next = undo
		a.Action.Description = standText(d.reason)
	case !enforce:
		a.Next = undo
		a.ID += "/" + string(alert.StatusWouldDo)
		a.Action.Status = alert.StatusWouldDo
		a.Action.Description = "Would " + undoText(d, "cancel the deletion", "enable the key", "leave it")
	case undoErr != nil:
		a.Next = undo
		return r.failed(ctx, a, r.config.Deletion, "bring the key back", undoErr)
	default:
		a.Action.Status = alert.StatusDone
		a.Action.Description = "cmkeeper " + undoText(d, "cancelled the deletion", "enabled the key", "left it") + " The key is " + restored.State + " now, as read back."
		a.Key.State, a.Key.DeletionDate = restored.State, nil
	}
	if d.reason != deletionExempt {
		approval.tell(&a, r.config.DeletionApprovalDays)
		r.tellWindow(&a, e)
	}
	if err := r.publish(ctx, a); err != nil {
		return err
	}
	_, err = r.updateKey(ctx, key.ARN, func(doc *keyDoc) {
		if len(a.Key.Aliases) > 0 {
			doc.Aliases = a.Key.Aliases // KMS deletes them with the key
		}
		for i, s := range doc.States {
			if s.State == told.State && s.At.Equal(told.At) {
				doc.States[i].By = e.ID
				if exempt {
					doc.States[i].Exempt = exemption.String()
				}
			}
		}
	})
	return err
}

// planRescue notes the key as it was read, decides whether its deletion is
// approved and what comes of it, and stores what is about to be done.
func (r *Router) planRescue(ctx context.Context, e events.Event, key inventory.Key, rep repair, approval *approval, exempt bool) (keyDoc, deletionDecision, error) {
	var d deletionDecision
	enforce := r.config.Deletion == Enforce
	doc, err := r.updateKey(ctx, key.ARN, func(doc *keyDoc) {
		doc.see(key, rep.At, r.config.Deletion)
		doc.blame(e)
		var stand fight
		if enforce {
			stand = doc.fight(reactionDeletion, e, r.config.FlapLimit, rep.At)
		}
		*approval = approval.judge(*doc, r.config.DeletionApprovalDays)
		d = decideDeletion(deletionInput{
			event: e.Name, sweep: isSweep(e), state: key.State, history: doc.States, restore: doc.Restore, approved: approval.given(), exempt: exempt, contained: doc.isContained(),
			repaired: doc.repairOf(reactionDeletion, e.ID) != nil || len(doc.repairsSince(reactionDeletion, e.ID, e.Time)) > 0,
			fight:    stand,
			enforce:  enforce, at: e.Time, now: rep.At,
		})
		if d.reason == deletionFlapping {
			doc.standBack(reactionDeletion, e, rep.At)
		}
		if !enforce {
			return
		}
		rep.Against = doc.culprit(alert.KindDeletion, e)
		if d.cancel {
			doc.intend(opCancelDeletion, rep)
		}
		if d.enable {
			doc.intend(opEnableKey, rep)
			if doc.Restore == nil {
				doc.Restore = &restore{By: e.ID, At: rep.At}
			}
		}
	})
	return doc, d, err
}

// worthSweeping reports whether a sweep has to act on a key or to tell of it:
// every time while enforce has something to do, else once per state.
func worthSweeping(d deletionDecision, enforce, told bool) bool {
	switch {
	case d.cancel, d.enable:
		return enforce || !told
	case d.reason == deletionFlapping:
		return d.fight == fightOpens
	case d.reason == deletionFirstSeen, d.reason == deletionAccepted, d.reason == deletionApproved, d.reason == deletionExempt:
		return !told
	}
	return false
}

// undo cancels and enables as decided, and checks each by reading it back.
func (r *Router) undo(ctx context.Context, key inventory.Key, d deletionDecision, rep repair) (inventory.Key, error) {
	var seen inventory.Key
	var at time.Time
	read := func(good func(inventory.Key) bool) func(context.Context) (bool, error) {
		return func(ctx context.Context) (bool, error) {
			at = now()
			var err error
			seen, err = r.facts.Key(ctx, key.ARN)
			return err == nil && good(seen), err
		}
	}
	if d.cancel {
		err := r.perform(ctx, key.ARN, opCancelDeletion, rep, func(ctx context.Context) (middleware.Metadata, error) {
			out, err := r.kms.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: aws.String(key.ID)})
			if err != nil {
				return middleware.Metadata{}, err
			}
			return out.ResultMetadata, nil
		})
		if err != nil {
			return seen, err
		}
		if err := confirm(ctx, "state of key "+key.ARN, read(func(k inventory.Key) bool { return !k.PendingDeletion() })); err != nil {
			return seen, err
		}
	}
	if d.enable {
		err := r.perform(ctx, key.ARN, opEnableKey, rep, func(ctx context.Context) (middleware.Metadata, error) {
			out, err := r.kms.EnableKey(ctx, &kms.EnableKeyInput{KeyId: aws.String(key.ID)})
			if err != nil {
				return middleware.Metadata{}, err
			}
			return out.ResultMetadata, nil
		})
		if err != nil {
			return seen, err
		}
		if err := confirm(ctx, "state of key "+key.ARN, read(inventory.Key.Enabled)); err != nil {
			return seen, err
		}
	}
	_, err := r.updateKey(ctx, key.ARN, func(doc *keyDoc) { doc.see(seen, at, Enforce) })
	return seen, err
}
