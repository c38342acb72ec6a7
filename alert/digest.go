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

const (
	// digestRows is how many rows a digest or an incident has, the worst first.
	digestRows = 1000
	// undoLimit is how many commands that undo something it has, undoOfRow how many of one
	// alert, and undoLength how long each is at most.
	undoLimit  = 200
	undoOfRow  = 10
	undoLength = 500
)

// rowLimits bound a row.
var rowLimits = limits{chars: 300}

// continued marks an alert as a part of the incident of its period.
func continued(a Alert, s *window) Alert {
	a.Incident = s.incidentID()
	a.Title = "Incident, continued: " + a.headline()
	return a
}

// gathered is what one alert shows of many: the worst of them whole, and of the others
// a row each. The zero value is none.
type gathered struct {
	worst item
	first gatheredRow // its row
	rows  []gatheredRow
	// What follows is about all of them.
	all int
	// most is how many rows are kept, with what to do about each; 0 is digestRows, without.
	most        int
	severity    finding.Severity
	thread      string // of all of them, "" where that differs
	keys        map[string]bool
	statuses    map[Status]int
	from, until time.Time
}

type gatheredRow struct {
	call         Call
	weight, name string
	// undo are the commands that change a key.
	undo []string
}

// order is negative where r comes before other: the worst first, and then by time.
func (r gatheredRow) order(other gatheredRow) int {
	return cmp.Or(strings.Compare(r.weight, other.weight), r.call.Time.Compare(other.call.Time), strings.Compare(r.name, other.name))
}

// add adds an alert.
func (g *gathered) add(i item) {
	a := i.Alert
	r := gatheredRow{weight: a.weight(), name: i.Name, call: Call{
		ID: a.ID, Kind: a.Kind, Severity: a.Severity, EventName: a.EventName, Time: a.Time, Title: a.headline(), Status: cmp.Or(a.Action.Status, StatusNone), Resolves: a.Resolves,
	}}
	if g.all == 0 {
		g.thread = a.Thread
	} else if g.thread != a.Thread {
		g.thread = ""
	}
	if g.keys == nil {
		g.keys, g.statuses = map[string]bool{}, map[Status]int{}
	}
	if a.Key != nil {
		g.keys[a.Key.ARN] = true
		r.call.Key, r.call.Sensitive = a.Key.ARN, a.Key.Sensitive
		if len(a.Key.Aliases) > 0 {
			r.call.Alias = a.Key.Aliases[0]
		}
	}
	if a.Actor != nil {
		r.call.Session, r.call.SourceIP = a.Actor.Session, a.Actor.SourceIP
	}
	if g.most > 0 && len(a.Next) > 0 {
		r.call.Do = a.Next[0]
	}
	r.call = rowLimits.call(r.call)
	for _, n := range a.Next {
		if isUndo(n) && len(n) <= undoLength && len(r.undo) < undoOfRow {
			r.undo = append(r.undo, n)
		}
	}
	if g.from.IsZero() || a.Time.Before(g.from) {
		g.from = a.Time
	}
	if a.Time.After(g.until) {
		g.until = a.Time
	}
	if g.all == 0 || a.Severity.Rank() > g.severity.Rank() {
		g.severity = a.Severity
	}
	g.statuses[r.call.Status]++
	if g.all == 0 || r.order(g.first) < 0 {
		g.worst, g.first = i, r
	}
	g.all++
	if g.rows = append(g.rows, r); len(g.rows) >= 2*g.limit() {
		g.prune()
	}
}

func (g *gathered) limit() int { return cmp.Or(g.most, digestRows) }

// prune sorts the rows and cuts them to the limit: one of each severity, kind and event,
// by which subscriptions filter, and the worst others.
func (g *gathered) prune() {
	slices.SortFunc(g.rows, gatheredRow.order)
	most := g.limit()
	if len(g.rows) <= most {
		return
	}
	type sort struct {
		severity finding.Severity
		kind     Kind
		event    string
	}
	seen := map[sort]bool{}
	var only, others []gatheredRow
	for _, r := range g.rows {
		if of := (sort{r.call.Severity, r.call.Kind, r.call.EventName}); !seen[of] && len(only) < most/10 {
			seen[of] = true
			only = append(only, r)
		} else {
			others = append(others, r)
		}
	}
	g.rows = slices.Concat(only, others[:most-len(only)])
	slices.SortFunc(g.rows, gatheredRow.order)
}

// digest makes the table.
func (g *gathered) digest(group, address string) *Digest {
	g.prune()
	d := &Digest{Group: group, From: g.from, Until: g.until, Keys: len(g.keys), Alerts: address}
	for _, r := range g.rows {
		d.Calls = append(d.Calls, r.call)
	}
	if g.all > len(d.Calls) {
		d.All = g.all
	}
	return d
}

// digest makes one alert of those of a window, of which there is at least one. A single
// one is returned as it is.
func digest(s *window, g *gathered, inIncident bool, address string) Alert {
	a := g.worst.Alert
	if g.all == 1 {
		if inIncident && a.Incident == "" {
			a = continued(a, s)
		}
		return a
	}
	d := g.digest(s.Name, address)
	a.ID, a.Ongoing, a.Digest, a.Severity = "digest/"+s.ID, false, d, g.severity
	a.Resolves, a.Thread = "", g.thread
	a.Title = d.what() + " by " + s.Short
	if g.statuses[StatusResolved] == g.all {
		a.Title = fmt.Sprintf("Resolved: %d alerts, keys: %d", g.all, d.Keys)
	}
	a.Summary = fmt.Sprintf("%s within %s. They came in quick succession, so this is one message; each was judged by itself. Everything below the table is about the worst of them.",
		d.what(), d.Until.Sub(d.From).Round(time.Second))
	if d.All > 0 {
		a.Summary += fmt.Sprintf(" The table has %d of them, the worst first.", len(d.Calls))
	}
	a.Action.Status, a.Action.Description = g.did()
	a.Next = slices.Concat(a.Next, g.undoCommands(a.Next))
	if inIncident {
		a = continued(a, s)
	}
	return a
}

// incident makes the alert of an incident: what happened so far, around the last call.
// There are all alerts, of which some were gathered.
func incident(last Alert, of group, s *window, g *gathered, all int, address string) Alert {
	d := g.digest(of.name, address)
	a := last
	a.ID, a.Kind, a.Severity, a.Incident, a.Digest, a.Ongoing = s.incidentID(), KindIncident, finding.Critical, s.incidentID(), d, false
	a.Title = fmt.Sprintf("Incident: %s by %s", d.what(), of.short)
	a.Summary = fmt.Sprintf("%s made %s within %s. Each may be intended; together they look like an attempt to take or destroy keys or data. Everything below the table is about the last one: %s",
		cmp.Or(last.Actor.Name, of.short), d.what(), d.Until.Sub(d.From).Round(time.Second), last.Summary)
	if all > len(d.Calls) {
		a.Summary += fmt.Sprintf(" The table has the worst %d of %d.", len(d.Calls), all)
	}
	a.Action.Status, a.Action.Description = g.did()
	a.Next = slices.Concat(responseSteps(last), g.undoCommands(nil), []string{"Further alerts about this actor are titled \"Incident, continued\"."})
	return a
}

// weight orders alerts, as a text that is smaller the more an alert must not be
// overlooked. Below severity high it is severity alone that counts, and above it first
// what the key is: many calls on keys that nobody needs hide none on one that matters.
func (a Alert) weight() string {
	grave := a.Severity.AtLeast(finding.High)
	bits := []bool{
		grave,
		grave && a.Key != nil && a.Key.Sensitive,
		grave && a.Key != nil && len(a.Key.Aliases) > 0,
		grave && a.Action.Status != StatusDone,
	}
	b := make([]byte, 0, len(bits)+1)
	for _, bit := range bits {
		if bit {
			b = append(b, '0')
		} else {
			b = append(b, '1')
		}
	}
	return string(append(b, byte('0'+max(0, finding.Critical.Rank()-a.Severity.Rank()))))
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
	if len(names) == 1 && d.all() == d.Keys {
		return fmt.Sprintf("%s on %s", names[0], keys)
	}
	return fmt.Sprintf("%d calls on %s: %s", d.all(), keys, strings.Join(names, ", "))
}

// all is how many calls there are, shown or not.
func (d *Digest) all() int { return max(d.All, len(d.Calls)) }

// did is what was done about the alerts: the status that needs a reader most, and all of
// them in words.
func (g *gathered) did() (Status, string) {
	var worst Status
	var parts []string
	for _, s := range []Status{StatusFailed, StatusRefused, StatusWouldDo, StatusNone, StatusDone, StatusResolved} {
		if n := g.statuses[s]; n > 0 {
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
func (g *gathered) undoCommands(known []string) []string {
	seen := map[string]bool{}
	for _, n := range known {
		seen[n] = true
	}
	var commands []string
	for _, r := range g.rows {
		for _, n := range r.undo {
			if !seen[n] && len(commands) < undoLimit {
				seen[n] = true
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
