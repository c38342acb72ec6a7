package guard

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/judgement"
)

// passes is how much of an event passes a pattern.
type passes int

const (
	none passes = iota
	some        // depending on what is not the same in all such events
	all
)

// fields are what all events of a kind have in common, with objects in them. What differs
// from event to event is not there.
type fields map[string]any

// pattern is an event pattern of EventBridge's.
type pattern map[string]any

func parsePattern(text string) (pattern, error) {
	var p pattern
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return nil, fmt.Errorf("decode event pattern: %w", err)
	}
	return p, nil
}

// match says how much of such events passes: all fields of a pattern have to match, and
// one of the alternatives of each $or (EventBridge User Guide, "Event patterns").
func (p pattern) match(event fields) passes {
	result := all
	for name, want := range p {
		value, known := event[name]
		switch want := want.(type) {
		case map[string]any:
			inner, _ := value.(fields)
			result = min(result, pattern(want).match(inner))
		case []any:
			if name == "$or" {
				best := none
				for _, alternative := range want {
					a, _ := alternative.(map[string]any)
					best = max(best, pattern(a).match(event))
				}
				result = min(result, best)
				continue
			}
			result = min(result, matchAny(want, value, known))
		default:
			result = none // no pattern that EventBridge takes
		}
	}
	return result
}

// matchAny is how much passes one of the matchers of a field.
func matchAny(matchers []any, value any, known bool) passes {
	if !known {
		return some
	}
	best := none
	for _, m := range matchers {
		best = max(best, matchOne(m, value))
	}
	return best
}

func matchOne(matcher, value any) passes {
	operator, ok := matcher.(map[string]any)
	if !ok {
		return when(matcher == value)
	}
	for name, operand := range operator {
		switch name {
		case "exists":
			return when(operand == true)
		case "anything-but":
			return matchAnythingBut(operand, value)
		}
		return matchText(name, operand, value)
	}
	return none
}

// matchAnythingBut is how much is none of what it must not be.
func matchAnythingBut(operand, value any) passes {
	switch operand := operand.(type) {
	case []any:
		return all - matchAny(operand, value, true)
	case map[string]any:
		for name, unwanted := range operand {
			list, ok := unwanted.([]any)
			if !ok {
				list = []any{unwanted}
			}
			worst := none
			for _, u := range list {
				worst = max(worst, matchText(name, u, value))
			}
			return all - worst
		}
	}
	return all - when(operand == value)
}

// matchText applies an operator on texts. One that is not known here may pass anything.
func matchText(name string, operand, value any) passes {
	s, isText := value.(string)
	if !isText {
		return none
	}
	fold := false
	if nested, ok := operand.(map[string]any); ok { // {"prefix": {"equals-ignore-case": …}}
		operand, fold = nested["equals-ignore-case"], true
	}
	text, ok := operand.(string)
	if !ok {
		return some
	}
	if fold {
		s, text = strings.ToLower(s), strings.ToLower(text)
	}
	switch name {
	case "prefix":
		return when(strings.HasPrefix(s, text))
	case "suffix":
		return when(strings.HasSuffix(s, text))
	case "equals-ignore-case":
		return when(strings.EqualFold(s, text))
	case "wildcard":
		if strings.Contains(text, `\`) { // escapes
			return some
		}
		return when(judgement.Matches(text, s))
	}
	return some
}

func when(b bool) passes {
	if b {
		return all
	}
	return none
}

// conditions are the fields that a pattern asks for and that are not the same in all such
// events: what makes it pass only some of them. Sorted.
func (p pattern) conditions(event fields, prefix string) (names []string) {
	for name, want := range p {
		value, known := event[name]
		switch want := want.(type) {
		case map[string]any:
			inner, _ := value.(fields)
			names = append(names, pattern(want).conditions(inner, prefix+name+".")...)
		case []any:
			if name == "$or" || matchAny(want, value, known) == some {
				names = append(names, prefix+name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
