package handlers

import (
	"context"
	"fmt"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
)

// untold alerts about repairs of earlier sweeps whose worker stopped before it did. It
// decides after the reactions of this sweep: a setting that they restore again is told by
// them.
func untold(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	doc, err := c.Ledger(ctx)
	if err != nil {
		return nil, err
	}
	var late []ledger.Untold
	var over []ledger.Untold
	for _, u := range doc.Untold {
		switch {
		case u.By == c.Event.ID:
		case doc.RepairOf(u.Reaction, c.Event.ID) != nil:
			over = append(over, u)
		default:
			late = append(late, u)
		}
	}
	for _, u := range over {
		doc.MarkTold(u.Reaction, u.By)
	}
	if len(late) == 0 {
		return nil, nil
	}
	return &reaction.Decision{
		Tell: func() (alerts []alert.Alert) {
			for _, u := range late {
				alerts = append(alerts, tellLate(c, u))
			}
			return alerts
		},
		Told: reaction.Told{Key: func(k *ledger.Key) {
			for _, u := range late {
				k.MarkTold(u.Reaction, u.By)
			}
		}},
	}, nil
}

// tellLate is the alert about one of them.
func tellLate(c *reaction.Case, u ledger.Untold) alert.Alert {
	a := c.NewAlert(alert.KindRotation, "")
	a.Key = c.Describe(c.KeyRead())
	name := reaction.ShortName(a.Key)
	a.Severity, a.Title = finding.High, "Rotation of "+name+" was off"
	a.Risk = "Somebody may turn rotation off again."
	if u.Reaction == ledger.ReactionDeletion {
		a.Kind, a.Severity = alert.KindDeletion, finding.Critical
		a.Title = "Key " + name + " was disabled or about to be deleted"
		a.Risk = "Somebody may disable or delete the key again."
	}
	a.ID = u.Alert
	a.Summary = fmt.Sprintf("A sweep found this at %s, and no event had reported it. The worker stopped before it could send this alert.", reaction.TimeText(u.At))
	a.Action = alert.Action{Mode: string(reaction.Enforce), Status: alert.StatusDone, Description: fmt.Sprintf("cmkeeper began to undo this then. The key is %s now.", a.Key.State)}
	if repair := c.Known().RepairOf(u.Reaction, u.By); repair == nil || !repair.Done {
		a.Action.Description += " Whether that was cmkeeper's call or somebody else's is not known."
	}
	a.Next = []string{c.TrailCommand()}
	return a
}
