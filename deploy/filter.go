package deploy

import (
	"encoding/json"
	"fmt"
	"strings"
)

// FilterMatches reports whether a CloudWatch Logs filter pattern for JSON matches a line of
// a log in JSON. It knows what the template uses, $.member = "text" with &&, || and parentheses,
// where && binds as strongly as ||, so that the two have to be kept apart by parentheses;
// anything else is an error.
func FilterMatches(pattern, line string) (bool, error) {
	inner, opened := strings.CutPrefix(strings.TrimSpace(pattern), "{")
	inner, closed := strings.CutSuffix(inner, "}")
	if !opened || !closed {
		return false, fmt.Errorf("%s is no pattern for JSON", pattern)
	}
	var members map[string]any
	if err := json.Unmarshal([]byte(line), &members); err != nil {
		return false, err
	}
	f := filter{rest: inner, members: members}
	matches, err := f.expression()
	if err == nil && strings.TrimSpace(f.rest) != "" {
		err = fmt.Errorf("%q is left over", f.rest)
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", pattern, err)
	}
	return matches, nil
}

// filter is a pattern that is being read.
type filter struct {
	rest    string
	members map[string]any
}

// take takes a text from the front of what is left.
func (f *filter) take(text string) bool {
	rest, ok := strings.CutPrefix(strings.TrimLeft(f.rest, " "), text)
	if ok {
		f.rest = rest
	}
	return ok
}

func (f *filter) expression() (bool, error) {
	matches, err := f.term()
	var operator string
	for err == nil {
		var next string
		switch {
		case f.take("&&"):
			next = "&&"
		case f.take("||"):
			next = "||"
		default:
			return matches, nil
		}
		if operator != "" && operator != next {
			return false, fmt.Errorf("&& and || without parentheses")
		}
		operator = next
		var other bool
		if other, err = f.term(); next == "&&" {
			matches = matches && other
		} else {
			matches = matches || other
		}
	}
	return false, err
}

func (f *filter) term() (bool, error) {
	if f.take("(") {
		matches, err := f.expression()
		if err == nil && !f.take(")") {
			err = fmt.Errorf("a parenthesis is open before %q", f.rest)
		}
		return matches, err
	}
	if !f.take("$.") {
		return false, fmt.Errorf("no $.member in %q", f.rest)
	}
	member, rest, _ := strings.Cut(f.rest, " ")
	f.rest = rest
	if !f.take(`= "`) {
		return false, fmt.Errorf(`no = "text" in %q`, f.rest)
	}
	text, rest, closed := strings.Cut(f.rest, `"`)
	if !closed {
		return false, fmt.Errorf("a quotation is open")
	}
	f.rest = rest
	return f.members[member] == text, nil
}
