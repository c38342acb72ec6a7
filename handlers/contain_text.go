package handlers

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
)

// tell tells what was decided about a key that was opened, and what came of it.
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
			a.Action.Description = "cmkeeper disabled the key. It is " + a.Key.State + " now, as read back."
		default:
			a.ID += "/" + string(alert.StatusWouldDo)
			a.Action.Status = alert.StatusWouldDo
			a.Action.Description = "Would disable the key."
		}
	case containDone, containUndone:
		a.Action.Status = alert.StatusDone
	case containExempt:
		reaction.TellExempt(&a, k.exemption, mode)
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
	}
	a.Findings = finding.WorstFirst(a.Findings)
	name := reaction.ShortName(a.Key)
	a.Title = "Key " + name + " was opened to everyone, or to an account that is not trusted"
	if len(a.Findings) > 0 {
		a.Title = "Key " + name + " was opened: " + strings.TrimSuffix(a.Findings[0].Message, ".")
	}
	a.Summary = fmt.Sprintf("%s called %s and is none of the roles that may open keys (CMKEEPER_CONTAIN_ALLOWED_ROLES). How the key is open is in the findings.", k.Who(), k.Event.Name)
	if k.Event.Name == reaction.EnableKey {
		a.Title = "Key " + name + " was enabled again while it is still open"
		a.Summary = fmt.Sprintf("cmkeeper had disabled the key because it was opened. %s enabled it, and it is still open as the findings say.", k.Who())
	}
	a.Risk = "While the key is Enabled, those it was opened to can use it. While it is Disabled nobody can, and nothing encrypted under it can be read."
	for _, x := range open {
		if x.grant != "" {
			a.Next = append(a.Next, k.KMSCommand("revoke-grant", "--grant-id "+reaction.Quote(x.grant)))
		}
	}
	if slices.ContainsFunc(open, func(x exposure) bool { return x.grant == "" }) {
		a.Next = append(a.Next, "Close the key first: restore its former policy. The live one is:", k.KMSCommand("get-key-policy", "--policy-name default", "--output text"), k.TrailCommand())
	}
	switch {
	case k.reason == containNow && k.Config.Contain == reaction.Enforce, k.reason == containDone:
		a.Next = append(a.Next, "Then undo this: enable the key.", k.KMSCommand("enable-key"))
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
			return fmt.Sprintf("cmkeeper began to disable the key at %s and was interrupted. It is %s now.", when, state)
		}
		return fmt.Sprintf("cmkeeper disabled the key at %s. It is %s now.", when, state)
	case containUndone:
		return "cmkeeper disabled the key at " + reaction.TimeText(mine.At) + ". Somebody has enabled it again since, and it was left so."
	case containEnabled:
		return left + ": the one who enabled it is not the one who opened it, and has the last word."
	case containFlapping:
		return fmt.Sprintf(left+": it was disabled too often within the hour. cmkeeper leaves it alone until %s.", reaction.TimeText(doc.CircuitOf(ledger.ReactionContain).Closes()))
	case containInUse:
		return left + ", because it is in use: " + strings.Join(append(k.use.why, k.use.unknown...), "; ") + ". With CMKEEPER_CONTAIN_IN_USE it would be disabled all the same."
	case containUnknown:
		return left + ", because whether it is in use is not known: " + strings.Join(k.use.unknown, "; ") + ". With CMKEEPER_CONTAIN_IN_USE it would be disabled all the same."
	default:
		return ""
	}
}
