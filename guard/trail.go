package guard

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/command"
)

// Coverage is how much of the calls that change keys a trail logs.
type Coverage int

// The coverages, the least first.
const (
	CoversNone Coverage = iota
	CoversSome          // only some calls
	CoversAll
)

// Covers says how much of the calls that change keys event selectors take down: events
// reach EventBridge only if a trail does (CloudTrail User Guide, "Logging management
// events"). A trail without selectors covers none.
func Covers(s events.EventSelectors) Coverage {
	best := CoversNone
	for _, b := range s.Basic {
		if b.Management && b.ReadWriteType != "ReadOnly" && !slices.Contains(b.ExcludedSources, events.SourceKMS) {
			return CoversAll
		}
	}
	for _, a := range s.Advanced {
		best = max(best, covers(a))
	}
	return best
}

// covers is Covers for an advanced selector.
func covers(a events.AdvancedSelector) Coverage {
	category, result := false, CoversAll
	for _, f := range a {
		value, known := map[string]string{"eventCategory": "Management", "eventSource": events.SourceKMS, "readOnly": "false"}[f.Field]
		switch {
		case !known:
			result = CoversSome // by name, by actor, …
		case !selects(f, value):
			return CoversNone
		case f.Field == "eventCategory":
			category = true
		}
	}
	if !category {
		return CoversNone
	}
	return result
}

// selects reports whether a field selector lets a value pass.
func selects(f events.FieldSelector, value string) bool {
	operator, negated := strings.CutPrefix(f.Operator, "not")
	compare := map[string]func(string, string) bool{
		"equals": func(a, b string) bool { return a == b }, "startswith": strings.HasPrefix, "endswith": strings.HasSuffix,
	}[strings.ToLower(operator)]
	return compare != nil && slices.ContainsFunc(f.Values, func(v string) bool { return compare(value, v) }) != negated
}

// judgeTrails judges whether one of the trails logs all calls that change keys.
func judgeTrails(f Facts) ([]Problem, error) {
	if f.Trails.Err != nil {
		return nil, f.Trails.Err
	}
	best, stopped := CoversNone, ""
	var details []string
	for _, t := range f.Trails.Value {
		c := Covers(t.Selectors)
		switch {
		case t.Logging:
			best = max(best, c)
		case c == CoversAll:
			stopped = t.ARN
		}
		details = append(details, fmt.Sprintf("trail %s: logging %s, %s", t.Name, map[bool]string{true: "on", false: "off"}[t.Logging],
			map[Coverage]string{CoversNone: "without the calls of KMS that change something", CoversSome: "with only some calls of KMS", CoversAll: "with all calls of KMS"}[c]))
	}
	p := Problem{
		Name: "trail/none", Severity: finding.Critical, Details: details,
		Title:   "No CloudTrail trail logs calls of KMS",
		Summary: "Without a trail that logs management events, EventBridge gets no events of API calls.",
		Risk:    "cmkeeper receives no events about keys. Changes are found by its sweeps alone, and nobody learns who made them. Attackers often do this first.",
		Next:    []string{"Create a trail that logs management events, or have one log those of KMS again (do not exclude AWS KMS events):", command.Line("aws cloudtrail describe-trails --region %s", command.Region(f.Region))},
	}
	switch {
	case best == CoversAll:
		return nil, nil
	case best == CoversSome:
		p.Name, p.Severity, p.Title = "trail/some", finding.High, "The CloudTrail trails log only some calls of KMS"
		p.Summary = "An advanced event selector leaves out calls of KMS by name, by actor or by another field."
		p.Risk = "cmkeeper does not receive the events that are left out; its sweeps still find the changes."
	case stopped != "":
		p.Name, p.Title = "trail/stopped", fmt.Sprintf("CloudTrail trail %s is not logging", last(stopped, "/"))
		p.Summary = "It is the trail that would log the calls of KMS. " + p.Summary
		p.Next = []string{"Find out who stopped it, and start it again:", command.Line("aws cloudtrail start-logging --name %s --region %s", command.Trail(stopped), command.Region(f.Region))}
	}
	return []Problem{p}, nil
}
