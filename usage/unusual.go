package usage

import (
	"fmt"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// Unusual is something that the time before did not have, with the numbers that make it so.
type Unusual struct {
	// Kind is principal, service, network, resource or volume.
	Kind string `json:"kind"`
	// Name is what was not seen before; of volume the day.
	Name string `json:"name"`
	Text string `json:"text"`
}

// day is a day in UTC.
const day = 24 * time.Hour

// unusual compares the calls with those of the time before.
func (c *Collector) unusual() (found []Unusual, before string) {
	n, f := &c.now, &c.former
	known := c.from.Sub(c.before)
	defer func() { before = strings.TrimSpace(before + " " + c.short) }()
	if known < time.Second {
		return nil, "Nothing is known of the time before, so there is nothing to compare with."
	}
	long := fmt.Sprintf("the %d days before", known/day)
	if known < 2*day {
		long = "the " + strings.TrimSuffix(fmt.Sprintf("%.1f", known.Hours()), ".0") + " hours before"
	}
	if f.total == 0 {
		return nil, fmt.Sprintf("In %s, no call for the key is known, so there is nothing to compare with.", long)
	}
	span := fmt.Sprintf("%s, with %d calls", long, f.total)
	found = []Unusual{}
	for _, look := range []struct {
		by   int
		kind string
	}{{byRole, "principal"}, {byPrincipal, "principal"}, {byService, "service"}, {byNetwork, "network"}, {byResource, "resource"}} {
		former := f.by[look.by]
		if former[Others] != nil { // there were more than are known one by one
			continue
		}
		for _, row := range n.rows(look.by) {
			if row.Name == Others || former[row.Name] != nil || look.by == byPrincipal && session(row.Name) {
				continue
			}
			found = append(found, Unusual{look.kind, row.Name, fmt.Sprintf("%d calls (%d refused) from %s to %s; none in %s",
				row.Calls, row.Failed, row.First.Format(time.RFC3339), row.Last.Format(time.RFC3339), span)})
		}
	}
	if known < day {
		return found, "Compared with " + span + ": too short to compare days."
	}
	least, most := f.daily(c.before, c.from)
	for at := c.from.Truncate(day); at.Before(c.to); at = at.Add(day) {
		date := at.Format(time.DateOnly)
		if d := n.days[date]; d != nil && d.Calls > most {
			found = append(found, Unusual{"volume", date, fmt.Sprintf("%d calls; the days before had %d to %d", d.Calls, least, most)})
		}
	}
	return found, "Compared with " + span + "."
}

// session reports whether a principal is a session of a role: its role is compared instead,
// since sessions have a new name as a rule.
func session(principal string) bool {
	a := arn.Parse(principal)
	return a.Service == "sts" && strings.HasPrefix(a.Resource, "assumed-role/")
}

// daily is how many calls a day had, at least and at most; the least is of whole days.
func (n *counts) daily(from, to time.Time) (least, most int64) {
	least = -1
	for at := from.Truncate(day); at.Before(to); at = at.Add(day) {
		calls := int64(0)
		if d := n.days[at.Format(time.DateOnly)]; d != nil {
			calls = d.Calls
		}
		if whole := !at.Before(from) && !at.Add(day).After(to); whole && (least < 0 || calls < least) {
			least = calls
		}
		most = max(most, calls)
	}
	if least < 0 {
		least = most
	}
	return least, most
}
