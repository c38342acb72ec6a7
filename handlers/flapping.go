package handlers

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
)

// Flapping: two parties put the same setting back and forth. The second repair
// within the hour is a finding. One more than Config.FlapLimit is not made: it
// opens the setting's circuit, which is told once, and for an hour nothing is put
// back, by events or by sweeps. Then the next of them does it again, so that
// nobody wins by trying often.
const (
	flappingWindow  = time.Hour
	flappingFinding = 2
	circuitTime     = time.Hour
)

// circuit is a fight over a setting of a key that we stay out of for a while.
type circuit struct {
	Reaction string    `json:"reaction"`
	By       string    `json:"by"` // the occurrence whose repair would have been one too many
	At       time.Time `json:"at"`
	// Told: people know.
	Told bool `json:"told,omitempty"`
}

// closes is when things are put back again.
func (c circuit) closes() time.Time { return c.At.Add(circuitTime) }

// fight says how a repair stands with the ones before it.
type fight string

const (
	fightNone  fight = ""      // there is none: put it back
	fightOpens fight = "opens" // one too many: leave it, and escalate
	fightOpen  fight = "open"  // it was left before, and still is
)

type fightInput struct {
	// recent are our repairs of the setting for other occurrences within the window.
	recent []repair
	// last is the setting's last circuit, nil if there was none.
	last *circuit
	by   string
	// begun: a repair for this very occurrence was begun before.
	begun bool
	// sweep: by is a sweep, which comes back under another name.
	sweep bool
	limit int
	now   time.Time
}

// decideFight decides whether a setting is put back or left to a fight. The time
// of an open circuit is not made longer by what happens meanwhile.
func decideFight(in fightInput) fight {
	switch {
	case in.last != nil && in.now.Before(in.last.closes()):
		if in.last.By == in.by || in.sweep && !in.last.Told {
			return fightOpens // again: nobody may have been told
		}
		return fightOpen
	case len(in.recent) >= in.limit && !in.begun:
		return fightOpens
	}
	return fightNone
}

// fight decides how a repair that a reaction is about to make for an event stands.
// A decision to make it takes the answer as a reason not to; the same change of
// the document then calls standBack, and people are told by tellFight.
func (d *keyDoc) fight(reaction string, e events.Event, limit int, at time.Time) fight {
	return decideFight(fightInput{
		recent: d.repairsSince(reaction, e.ID, at.Add(-flappingWindow)), last: d.circuitOf(reaction),
		by: e.ID, begun: d.repairOf(reaction, e.ID) != nil, sweep: isSweep(e), limit: limit, now: at,
	})
}

// circuitOf returns a reaction's last circuit, or nil.
func (d *keyDoc) circuitOf(reaction string) *circuit {
	i := slices.IndexFunc(d.Circuits, func(c circuit) bool { return c.Reaction == reaction })
	if i < 0 {
		return nil
	}
	return &d.Circuits[i]
}

// standBack opens the circuit of a reaction for an event, unless it is open.
func (d *keyDoc) standBack(reaction string, e events.Event, at time.Time) {
	last := d.circuitOf(reaction)
	switch {
	case last == nil:
		d.Circuits = append(d.Circuits, circuit{Reaction: reaction, By: e.ID, At: at})
	case !at.Before(last.closes()):
		*last = circuit{Reaction: reaction, By: e.ID, At: at}
	}
}

// putBackBefore are the repairs before a circuit that AWS confirmed.
func (d *keyDoc) putBackBefore(c circuit) []repair {
	recent := d.repairsSince(c.Reaction, c.By, c.At.Add(-flappingWindow))
	return slices.DeleteFunc(recent, func(rep repair) bool { return !rep.Done || rep.At.After(c.At) })
}

// opponents names whose doing was put back, and how often.
func opponents(repairs []repair) []string {
	var names []string
	times := map[string]int{}
	for _, rep := range repairs {
		name := "not known: a sweep noticed it"
		if rep.Against != nil {
			name = rep.Against.Name
		}
		if times[name]++; times[name] == 1 {
			names = append(names, name)
		}
	}
	for i, name := range names {
		if n := times[name]; n > 1 {
			names[i] = fmt.Sprintf("%s, %d times", name, n)
		}
	}
	return names
}

// tellFight tells that a setting is left to a fight. Opening the circuit is told
// as critical; after it each event is told as it is, and sweeps say nothing.
func (r *Router) tellFight(ctx context.Context, a alert.Alert, e events.Event, mode Mode, doc keyDoc, reaction string, f fight) error {
	if f == fightOpen && isSweep(e) {
		return nil
	}
	c := *doc.circuitOf(reaction)
	before := doc.putBackBefore(c)
	resumes := c.closes().UTC().Format(time.DateTime + " MST")
	a.ID += "/flapping"
	a.Action = alert.Action{Mode: string(mode), Status: alert.StatusRefused,
		Description: fmt.Sprintf("cmkeeper put it back %d times within the hour before %s and stays out of it until %s; the first sweep after that puts it back, if it still has to be.",
			len(before), c.At.UTC().Format(time.DateTime+" MST"), resumes)}
	a.Facts = append(a.Facts, alert.Fact{Name: "the other party", Values: opponents(before)})
	if f == fightOpen {
		return r.publish(ctx, a)
	}
	a.ID = fmt.Sprintf("flapping/%s/%s/%d", keyID(doc.ARN), reaction, c.At.UnixMilli())
	a.Severity = alert.Critical
	a.Title += " again and again, and cmkeeper stays out of it"
	a.Next = append([]string{"Stop the other party first: a pipeline or a tool that sets it back, or somebody who means harm. It is named below. Put it back by hand if it cannot wait:"}, a.Next...)
	if err := r.publish(ctx, a); err != nil {
		return err
	}
	_, err := r.updateKey(ctx, doc.ARN, func(doc *keyDoc) {
		if last := doc.circuitOf(reaction); last != nil && last.At.Equal(c.At) {
			last.Told = true
		}
	})
	return err
}

// flapping is the finding that a setting was put back n times within the hour.
func flapping(n int, what string) alert.Finding {
	return alert.Finding{ID: finding.Flapping, Severity: alert.High,
		Message: fmt.Sprintf("The key's %s was put back %d times within the hour before this. Two parties are fighting over it: another tool, or somebody who tries again.", what, n)}
}
