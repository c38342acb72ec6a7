package selfcheck

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
	"github.com/cmkeeper/cmkeeper/guard"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/state"
)

const (
	// canaryTag is the tag that the canary key has to have, with any value.
	canaryTag = "cmkeeper:canary"
	// canaryText begins the descriptions that are ours.
	canaryText = "cmkeeper canary"
	// CanaryName names the canary's calls among those of its key.
	CanaryName = "canary"
)

// refuseCanary says why the description of a key is not to be changed, or "".
func refuseCanary(key inventory.Key, tags map[string]string) string {
	if _, marked := tags[canaryTag]; !marked {
		return "the key has no tag " + canaryTag
	}
	if key.Description != "" && !strings.HasPrefix(key.Description, canaryText) {
		return "the key has a description that is not cmkeeper's; empty it, if the key is made for this"
	}
	return ""
}

// sendCanary makes the call of ours whose event has to come back, unless one is under way,
// and notes those that did not. It writes whatever the modes are.
func (s look) sendCanary(ctx context.Context) error {
	key := s.Config.CanaryKey
	if key == "" {
		return nil
	}
	if under, err := s.canaryUnderWay(ctx); err != nil || under {
		return err
	}
	e := s.SweepEvent(fmt.Sprintf("canary-%d/%s", s.Start.UnixMilli(), arn.KeyID(key)), s.Start)
	e.KeyARN = key
	c := s.Whole.Part(e)
	repair := ledger.Repair{Reaction: CanaryName, By: e.ID, At: s.Start}
	return s.React(ctx, c, reaction.Reaction{Name: CanaryName, Decide: func(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
		live, err := c.Key(ctx)
		var tags map[string]string
		if err == nil {
			tags, err = c.Tags(ctx)
		}
		switch {
		case reaction.Unreadable(err):
			return s.refuse(e.ID, fmt.Sprintf("the key cannot be read: %v", err)), nil
		case err != nil:
			return nil, err
		}
		if why := refuseCanary(live, tags); why != "" {
			return s.refuse(e.ID, why), nil
		}
		doc, err := c.Ledger(ctx)
		if err != nil {
			return nil, err
		}
		doc.Intend(reaction.UpdateKeyDescription, repair)
		return &reaction.Decision{Act: func(ctx context.Context) error { return s.flyCanary(ctx, c, repair) }}, nil
	}})
}

// canaryUnderWay reports whether one is under way. One that has been for too long is lost, if
// it was made: of one whose answer is not known, nobody could know the event.
func (s look) canaryUnderWay(ctx context.Context) (bool, error) {
	var doc ledger.Canary
	if err := s.updateCanary(ctx, func(c *ledger.Canary, _ time.Time) bool { doc = *c; return false }); err != nil {
		return false, err
	}
	if doc.Flight == nil {
		return false, nil
	}
	by := doc.Flight.By
	c := s.Whole.Part(events.Event{ID: by, Kind: events.Scheduled, KeyARN: doc.Key})
	known, err := c.Ledger(ctx)
	if err != nil {
		return false, err
	}
	made := slices.ContainsFunc(known.Calls, func(c ledger.Call) bool { return c.By == by && len(c.RequestIDs) > 0 })
	under := true
	err = s.updateCanary(ctx, func(c *ledger.Canary, now time.Time) bool {
		late := c.Late(now)
		if late == nil || late.By != by {
			under = c.Flight != nil
			return false
		}
		under = false
		if made {
			c.Lose(by)
		} else {
			c.Drop(by, "")
		}
		return true
	})
	if err == nil && !under {
		if made {
			s.Metrics.Canary("lost", 0)
		}
		s.Logger.WarnContext(ctx, "a canary did not come back", "key", doc.Key, "sent", doc.Flight.At, "made", made)
	}
	return under, err
}

// flyCanary makes the call.
func (s look) flyCanary(ctx context.Context, c *reaction.Case, repair ledger.Repair) error {
	mine := false
	err := s.updateCanary(ctx, func(doc *ledger.Canary, now time.Time) bool {
		mine = doc.Send(c.Event.KeyARN, ledger.Flight{By: repair.By, At: now})
		return mine
	})
	if err != nil || !mine {
		return err
	}
	err = c.Perform(ctx, reaction.UpdateKeyDescription, repair, func(ctx context.Context) (middleware.Metadata, error) {
		out, err := s.KMS.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{
			KeyId: aws.String(c.Event.KeyARN), Description: aws.String(canaryText + ", sent " + reaction.TimeText(s.Start)),
		})
		if err != nil {
			return middleware.Metadata{}, err
		}
		return out.ResultMetadata, nil
	})
	if reaction.IsRefusal(err) {
		return s.refused(ctx, repair.By, err.Error()) // the guard check tells; another sweep would not help
	}
	if err == nil {
		s.Metrics.Canary("sent", 0)
	}
	return err
}

// refuse decides to send none.
func (s look) refuse(by, why string) *reaction.Decision {
	return &reaction.Decision{Act: func(ctx context.Context) error { return s.refused(ctx, by, why) }}
}

// refused notes why none is sent.
func (s look) refused(ctx context.Context, by, why string) error {
	s.Metrics.Canary("refused", 0)
	return s.updateCanary(ctx, func(c *ledger.Canary, _ time.Time) bool {
		c.Key = s.Config.CanaryKey
		c.Drop(by, why)
		return true
	})
}

// updateCanary changes the document of the canary, unless change returns false. It gets S3's
// time.
func (k *Checks) updateCanary(ctx context.Context, change func(c *ledger.Canary, now time.Time) bool) error {
	err := state.Update(ctx, k.State, ledger.CanaryName, func(c *ledger.Canary, _ bool) error {
		if !change(c, k.State.Now().UTC().Round(0)) {
			return state.ErrUnchanged
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("note the canary: %w", err)
	}
	return nil
}

// canaryFacts is what the guard check has to know.
func (k *Checks) canaryFacts(ctx context.Context) guard.Known[guard.Canary] {
	known := guard.Known[guard.Canary]{Value: guard.Canary{Key: k.Config.CanaryKey, Patience: ledger.CanaryPatience, Grave: ledger.CanaryMissed}}
	if k.Config.CanaryKey == "" {
		return known
	}
	var doc ledger.Canary
	if _, err := k.State.Get(ctx, ledger.CanaryName, &doc); err != nil && !errors.Is(err, state.ErrNotFound) {
		known.Err = fmt.Errorf("read what became of the canary: %w", err)
	}
	if doc.Key == k.Config.CanaryKey {
		known.Value.Lost, known.Value.Refused = doc.Lost, doc.Refused
	}
	return known
}

// CanaryBack takes note that the record of a call of ours has arrived, if that is the
// canary's. By its request id: who forges an event does not know that.
func (k *Checks) CanaryBack(ctx context.Context, c *reaction.Case) error {
	e := c.Event
	if e.Name != reaction.UpdateKeyDescription || e.KeyARN != k.Config.CanaryKey || e.RequestID == "" {
		return nil
	}
	doc, err := c.Ledger(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(doc.Calls, func(call ledger.Call) bool {
		return call.Operation == e.Name && slices.Contains(call.RequestIDs, e.RequestID)
	})
	if i < 0 { // the answer to our call may not be noted yet
		return reaction.WaitForConsistency(e, "call of ours")
	}
	var took time.Duration
	var known bool
	err = k.updateCanary(ctx, func(doc *ledger.Canary, now time.Time) bool {
		took, known = doc.Back(c.Known().Calls[i].By, now)
		return known
	})
	if err == nil && known {
		late, result := took > ledger.CanaryPatience, "back"
		if late {
			result = "late"
		}
		k.Metrics.Canary(result, took)
		k.Logger.InfoContext(ctx, "the canary is back", "latency", took.Round(time.Millisecond), "late", late, "request_id", e.RequestID)
	}
	return err
}

// Canary alerts that somebody else changed the description of the canary key in a way that
// keeps the canary from being sent.
func Canary(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	key, _, err := c.Look(ctx)
	switch {
	case errors.Is(err, inventory.ErrNotFound):
		return c.Gone(ctx, alert.KindGuard, false)
	case err != nil:
		return nil, err
	}
	if refuseCanary(key, map[string]string{canaryTag: ""}) == "" {
		return nil, nil
	}
	return c.AboutKey(ctx, alert.KindGuard, "/canary", func(a *alert.Alert) {
		a.Severity = finding.Medium
		a.Title = "The description of the canary key was changed: no canary is sent any more"
		a.Summary = fmt.Sprintf("%s changed the description of the key in CMKEEPER_CANARY_KEY to a text that is not cmkeeper's. cmkeeper does not write over it.", c.Who())
		a.Risk = "Whether events still arrive is not proven any more."
		a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper left the description as it is."}
		a.Next = []string{
			"If the key is made for the canary, empty its description (aws kms update-key-description). Else name another key in CMKEEPER_CANARY_KEY.",
			c.KMSCommand("describe-key"),
		}
	})
}
