package guard

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/command"
)

// Stream is what belongs together of the events that have to reach the queue: those that
// one of the documented rules passes.
type Stream struct {
	// Name is one word, About what they are about, after "events".
	Name, About string
	// Lost is how grave it is that none of them arrive, Narrowed that some do not.
	Lost, Narrowed finding.Severity
	// Risk is what is at risk then, in sentences.
	Risk string
	// Choice: to leave out some of them may be intended.
	Choice bool
	Events []Event
}

// Event is what all events of one name have in common.
type Event struct {
	// Source and DetailType are EventBridge's.
	Source, DetailType string
	// EventSource and Name are those of CloudTrail's record, "" where there is none.
	EventSource, Name string
	// ErrorCode is the record's, "" where it may be any or none.
	ErrorCode string
	// Reads: it only reads, which a rule passes in a state of its own.
	Reads bool
}

// String names the event.
func (e Event) String() string {
	if e.Name == "" {
		return e.DetailType
	}
	return e.Name
}

// fields are what a pattern is matched against. Members that differ from one such event
// to another are left out.
func (e Event) fields(f Facts) fields {
	all := fields{"source": e.Source, "detail-type": e.DetailType, "account": f.Account, "region": f.Region}
	detail := fields{}
	if e.Name != "" {
		detail["eventSource"], detail["eventName"], detail["awsRegion"], detail["recipientAccountId"] = e.EventSource, e.Name, f.Region, f.Account
	}
	if e.DetailType == CallDetailType {
		detail["eventType"], detail["eventCategory"], detail["managementEvent"], detail["readOnly"] = "AwsApiCall", "Management", true, e.Reads
	}
	if e.ErrorCode != "" {
		detail["errorCode"] = e.ErrorCode
	}
	all["detail"] = detail
	return all
}

// The detail types of CloudTrail's records.
const (
	CallDetailType    = "AWS API Call via CloudTrail"
	ServiceDetailType = "AWS Service Event via CloudTrail"
)

// flaw is what keeps a rule from passing events.
type flaw string

const (
	flawNone     flaw = ""
	flawDisabled flaw = "disabled"
	flawReads    flaw = "reads"
	flawTarget   flaw = "target"
	flawInput    flaw = "input"
	flawPattern  flaw = "pattern" // of no single rule
)

func (r Rule) flaw(reads bool) flaw {
	switch {
	case r.State != ruleEnabled && r.State != ruleEnabledReads:
		return flawDisabled
	case reads && r.State != ruleEnabledReads:
		return flawReads
	case r.Target == nil:
		return flawTarget
	case r.Target.Changed:
		return flawInput
	}
	return flawNone
}

// cause is a flaw, and whose it is: a rule's name, or a stream's for a pattern.
type cause struct {
	flaw  flaw
	whose string
}

// judgeRules judges what reaches the queue, and says of what does not which rule is the
// reason.
func judgeRules(f Facts) (problems []Problem, unread error) {
	if f.Rules.Err != nil {
		return nil, f.Rules.Err
	}
	var parsed []pattern
	for _, r := range f.Rules.Value {
		p := pattern{}
		if r.Pattern != "" {
			var err error
			if p, err = parsePattern(r.Pattern); err != nil {
				unread = errors.Join(unread, fmt.Errorf("rule %s: %w", r.Name, err))
			}
		}
		parsed = append(parsed, p)
	}
	for _, s := range f.Streams {
		lost := map[cause][]Event{}
		var order []cause
		for _, e := range s.Events {
			c, ok := lostBy(f, parsed, e)
			if !ok {
				continue
			}
			if c.flaw == flawPattern {
				c.whose = s.Name
			}
			if lost[c] == nil {
				order = append(order, c)
			}
			lost[c] = append(lost[c], e)
		}
		for _, c := range order {
			problems = merge(problems, ruleProblem(f, s, c, lost[c], parsed))
		}
	}
	return append(problems, judgeSchedules(f)...), unread
}

// merge adds a problem: of one rule there is one, whatever it is that it does not pass. The
// streams come the gravest first.
func merge(problems []Problem, p Problem) []Problem {
	i := slices.IndexFunc(problems, func(other Problem) bool { return other.Name == p.Name })
	if i < 0 {
		return append(problems, p)
	}
	first := &problems[i]
	first.Summary += " " + p.Summary
	first.Risk += " " + p.Risk
	first.Details = append(first.Details, p.Details...)
	return problems
}

// lostBy says why an event, or some of its name, does not reach the queue; ok is false where
// all do.
func lostBy(f Facts, parsed []pattern, e Event) (c cause, ok bool) {
	fields := e.fields(f)
	c = cause{flaw: flawPattern}
	for i, r := range f.Rules.Value {
		if r.Pattern == "" || parsed[i].match(fields) != all {
			continue
		}
		flaw := r.flaw(e.Reads)
		if flaw == flawNone {
			return cause{}, false
		}
		c = cause{flaw, r.Name}
	}
	return c, true
}

// ruleProblem is the problem that these events of a stream do not arrive.
func ruleProblem(f Facts, s Stream, c cause, lost []Event, parsed []pattern) Problem {
	whole := len(lost) == len(s.Events)
	p := Problem{
		Name: fmt.Sprintf("rules/%s/%s", c.flaw, c.whose), Severity: s.Narrowed, Risk: s.Risk,
		Summary: fmt.Sprintf("%d of %d kinds of events %s do not reach the events queue.", len(lost), len(s.Events), s.About),
		Details: []string{"missing: " + namesOf(lost)},
	}
	if whole {
		p.Severity, p.Summary = s.Lost, fmt.Sprintf("No events %s reach the events queue.", s.About)
	}
	rule, in := command.Rule(c.whose), command.Region(f.Region)
	switch c.flaw {
	case flawDisabled:
		p.Title = fmt.Sprintf("EventBridge rule %s is disabled", c.whose)
		p.Next = []string{"Find out who disabled it, and enable it again:", command.Line("aws events enable-rule --name %s --region %s", rule, in)}
	case flawReads:
		p.Title = fmt.Sprintf("EventBridge rule %s does not pass failed uses of keys", c.whose)
		p.Next = []string{"Set the rule's state to " + ruleEnabledReads + " (aws events put-rule --state), or CMKEEPER_FAILED_USE to false."}
	case flawTarget:
		p.Title = fmt.Sprintf("EventBridge rule %s does not send to the events queue", c.whose)
		p.Next = []string{"Make the events queue a target of the rule again (aws events put-targets):", command.Line("aws events list-targets-by-rule --rule %s --region %s", rule, in)}
	case flawInput:
		p.Title = fmt.Sprintf("EventBridge rule %s sends something else than the events", c.whose)
		p.Next = []string{"Remove Input, InputPath and InputTransformer from the rule's target:", command.Line("aws events list-targets-by-rule --rule %s --region %s", rule, in)}
	case flawPattern, flawNone:
		p.patternTexts(f, s, lost, parsed)
	}
	return p
}

// patternTexts says that no pattern passes the events.
func (p *Problem) patternTexts(f Facts, s Stream, lost []Event, parsed []pattern) {
	p.Title = fmt.Sprintf("No EventBridge rule passes events %s to the events queue", s.About)
	p.Choice = s.Choice && len(lost) < len(s.Events)
	p.Next = []string{
		"docs/events.md has the pattern of each rule. Set it again (aws events put-rule --event-pattern), with the events queue as target.",
		command.Line("aws events list-rule-names-by-target --target-arn %s --region %s", command.QueueARN(f.QueueARN), command.Region(f.Region)),
	}
	partly := false
	for i, r := range f.Rules.Value {
		if r.Pattern == "" || r.flaw(false) != flawNone {
			continue
		}
		var only []string
		for _, e := range lost {
			if fields := e.fields(f); parsed[i].match(fields) == some {
				only = append(only, parsed[i].conditions(fields, "")...)
			}
		}
		if slices.Sort(only); len(only) > 0 {
			partly = true
			p.Details = append(p.Details, fmt.Sprintf("rule %s passes only some of them, by %s", r.Name, strings.Join(slices.Compact(only), ", ")))
		}
		p.Details = append(p.Details, fmt.Sprintf("rule %s has the pattern %s", r.Name, r.Pattern))
	}
	if len(lost) < len(s.Events) || partly {
		p.Title = fmt.Sprintf("The EventBridge rules do not pass all events %s to the events queue", s.About)
	}
	if partly {
		p.Severity, p.Summary = s.Narrowed, fmt.Sprintf("Of %d of %d kinds of events %s, some or all do not reach the events queue.", len(lost), len(s.Events), s.About)
	}
}

// judgeSchedules judges the rules with a schedule, where there are any: a schedule may be
// EventBridge Scheduler's instead.
func judgeSchedules(f Facts) []Problem {
	var broken []Problem
	for _, r := range f.Rules.Value {
		if r.Schedule == "" {
			continue
		}
		switch r.flaw(false) {
		case flawDisabled, flawTarget:
			s := Stream{About: "of the schedule", Lost: finding.High, Risk: "Changes whose events were lost are found only by sweeps that workers begin by themselves, and reminders come late.", Events: []Event{{DetailType: "Scheduled Event"}}}
			broken = append(broken, ruleProblem(f, s, cause{r.flaw(false), r.Name}, s.Events, nil))
		default: // its target may get a constant input: only that it arrives matters
			return nil
		}
	}
	return broken
}

// namesOf lists events, each name once.
func namesOf(events []Event) string {
	var names []string
	for _, e := range events {
		if name := e.String(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}
