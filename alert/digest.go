package alert

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/command"
)

// undoLimit is how many commands that undo something a digest or an incident has.
const undoLimit = 200

// continued marks an alert as a part of the incident of its period.
func continued(a Alert, s *window) Alert {
	a.Incident = s.incidentID()
	a.Title = "Incident, continued: " + a.headline()
	return a
}

// digest makes one alert of those of a window, of which there is at least one. A single
// one is returned as it is.
func digest(s *window, items []item, inIncident bool, address string) Alert {
	sortItems(items)
	a := items[0].Alert
	if len(items) == 1 {
		if inIncident && a.Incident == "" {
			a = continued(a, s)
		}
		return a
	}
	d := tabulate(items, s.Name, address)
	a.ID, a.Ongoing, a.Digest = "digest/"+s.ID, false, d
	a.Title = d.what() + " by " + s.Short
	a.Summary = fmt.Sprintf("%s within %s. They came in quick succession, so this is one message; each was judged by itself. Everything below the table is about the worst of them.",
		d.what(), d.Until.Sub(d.From).Round(time.Second))
	a.Action.Status, a.Action.Description = d.did()
	a.Next = slices.Concat(a.Next, undoCommands(items[1:], a.Next))
	if inIncident {
		a = continued(a, s)
	}
	return a
}

// incident makes the alert of an incident: what happened so far, around the last call.
// There are all alerts, of which items are shown.
func incident(last Alert, g group, s *window, items []item, all int, address string) Alert {
	sortItems(items)
	d := tabulate(items, g.name, address)
	a := last
	a.ID, a.Kind, a.Severity, a.Incident, a.Digest, a.Ongoing = s.incidentID(), KindIncident, finding.Critical, s.incidentID(), d, false
	a.Title = fmt.Sprintf("Incident: %s by %s", d.what(), g.short)
	a.Summary = fmt.Sprintf("%s made %s within %s. Each may be intended; together they look like an attempt to take or destroy keys or data. Everything below the table is about the last one: %s",
		cmp.Or(last.Actor.Name, g.short), d.what(), d.Until.Sub(d.From).Round(time.Second), last.Summary)
	if all > len(items) {
		a.Summary += fmt.Sprintf(" The table has the worst %d of %d.", len(items), all)
	}
	a.Action.Status, a.Action.Description = d.did()
	a.Next = slices.Concat(responseSteps(last), undoCommands(items, nil), []string{"Further alerts about this actor are titled \"Incident, continued\"."})
	return a
}

// sortItems sorts alerts, the worst first and then by time.
func sortItems(items []item) {
	slices.SortStableFunc(items, func(a, b item) int {
		return cmp.Or(b.Alert.Severity.Rank()-a.Alert.Severity.Rank(), a.Alert.Time.Compare(b.Alert.Time), strings.Compare(a.Name, b.Name))
	})
}

// tabulate makes the rows of a digest.
func tabulate(items []item, group, address string) *Digest {
	d := &Digest{Group: group, Alerts: address}
	keys := map[string]bool{}
	for _, i := range items {
		a := i.Alert
		c := Call{ID: a.ID, Kind: a.Kind, Severity: a.Severity, EventName: a.EventName, Time: a.Time, Title: a.headline(), Status: cmp.Or(a.Action.Status, StatusNone)}
		if a.Key != nil {
			c.Key = a.Key.ARN
			keys[c.Key] = true
			if len(a.Key.Aliases) > 0 {
				c.Alias = a.Key.Aliases[0]
			}
		}
		if a.Actor != nil {
			c.Session, c.SourceIP = a.Actor.Session, a.Actor.SourceIP
		}
		if d.From.IsZero() || a.Time.Before(d.From) {
			d.From = a.Time
		}
		if a.Time.After(d.Until) {
			d.Until = a.Time
		}
		d.Calls = append(d.Calls, c)
	}
	d.Keys = len(keys)
	return d
}

// what is the digest in a few words: "PutKeyPolicy on 12 keys", "5 calls on 3 keys:
// DisableKey, PutKeyPolicy", "rotation findings on 9 keys".
func (d *Digest) what() string {
	var names []string
	for _, c := range d.Calls {
		name := c.EventName
		if name == sweepEvent {
			name = string(c.Kind) + " findings"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	keys := fmt.Sprintf("%d keys", d.Keys)
	if d.Keys == 1 {
		keys = "1 key"
	}
	if len(names) == 1 && len(d.Calls) == d.Keys {
		return fmt.Sprintf("%s on %s", names[0], keys)
	}
	return fmt.Sprintf("%d calls on %s: %s", len(d.Calls), keys, strings.Join(names, ", "))
}

// did is what was done about the calls: the status that needs a reader most, and all of
// them in words.
func (d *Digest) did() (Status, string) {
	count := map[Status]int{}
	for _, c := range d.Calls {
		count[c.Status]++
	}
	var worst Status
	var parts []string
	for _, s := range []Status{StatusFailed, StatusRefused, StatusWouldDo, StatusNone, StatusDone} {
		if n := count[s]; n > 0 {
			worst = cmp.Or(worst, s)
			parts = append(parts, fmt.Sprintf("%d %s", n, s.words()))
		}
	}
	if len(parts) == 1 {
		return worst, "All calls: " + worst.words() + "."
	}
	return cmp.Or(worst, StatusNone), "It differs by call: " + strings.Join(parts, ", ") + "."
}

// undoCommands are the commands of the alerts that change something, each once and
// without those that are known.
func undoCommands(items []item, known []string) []string {
	var commands []string
	for _, i := range items {
		for _, n := range i.Alert.Next {
			if isUndo(n) && len(commands) < undoLimit && !slices.Contains(known, n) && !slices.Contains(commands, n) {
				commands = append(commands, n)
			}
		}
	}
	if len(commands) == 0 {
		return nil
	}
	return append([]string{"To undo what was not intended, key by key:"}, commands...)
}

// isUndo reports whether a next step is a command that changes a key.
func isUndo(next string) bool {
	operation, ok := strings.CutPrefix(next, "aws kms ")
	ok = ok && command.Safe(next)
	for _, reading := range []string{"get-", "describe-", "list-"} {
		ok = ok && !strings.HasPrefix(operation, reading)
	}
	return ok
}
