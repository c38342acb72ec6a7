// Package pattern is the matching language that EventBridge's event patterns
// and SNS's filter policies share.
package pattern

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// maxLength is the longest event pattern, in characters.
const maxLength = 4096

// Pattern is a parsed event pattern.
type Pattern struct {
	root object
}

// Parse parses an event pattern. It knows exact values, prefix, suffix,
// equals-ignore-case, wildcard, anything-but (of values, prefix, suffix,
// equals-ignore-case and wildcard), numeric, exists, null and $or. Anything
// else is an error: a matcher that was ignored would let a test pass that
// fails on AWS.
func Parse(text string) (*Pattern, error) {
	if len(text) > maxLength {
		return nil, fmt.Errorf("longer than %d characters", maxLength)
	}
	root, err := Decode([]byte(text))
	if err != nil {
		return nil, err
	}
	fields, ok := root.(map[string]any)
	if !ok {
		return nil, errors.New("filter is not an object")
	}
	o, err := parseObject(fields)
	if err != nil {
		return nil, err
	}
	return &Pattern{o}, nil
}

// Match reports whether the pattern matches an event, as Decode returns it.
// What is not a JSON object matches nothing.
func (p *Pattern) Match(event any) bool {
	fields, ok := event.(map[string]any)
	return ok && p.root.match(fields)
}

// Decode decodes an event, once for any number of patterns.
func Decode(event []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(event))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text after the end of the JSON document")
	}
	return value, nil
}

// object is one level of a pattern: all of its fields must match, and one of
// each $or's alternatives.
type object struct {
	fields map[string]node
	or     []object
}

// node is what a field must match: a further level, or one of the matchers.
type node struct {
	object   *object
	matchers []matcher
}

func parseObject(fields map[string]any) (object, error) {
	if len(fields) == 0 {
		return object{}, errors.New("empty objects are not allowed")
	}
	o := object{fields: map[string]node{}}
	for name, value := range fields {
		if list, ok := value.([]any); ok && name == "$or" {
			alternatives, err := parseOr(list)
			if err != nil {
				return object{}, err
			}
			o.or = alternatives
			continue
		}
		n, err := parseNode(value)
		if err != nil {
			return object{}, fmt.Errorf("at %q: %w", name, err)
		}
		o.fields[name] = n
	}
	return o, nil
}

func parseOr(list []any) ([]object, error) {
	if len(list) < 2 {
		return nil, errors.New("$or needs at least two alternatives")
	}
	var alternatives []object
	for _, item := range list {
		fields, ok := item.(map[string]any)
		if !ok {
			return nil, errors.New("$or takes a list of objects")
		}
		o, err := parseObject(fields)
		if err != nil {
			return nil, fmt.Errorf("in $or: %w", err)
		}
		alternatives = append(alternatives, o)
	}
	return alternatives, nil
}

func parseNode(value any) (node, error) {
	switch v := value.(type) {
	case map[string]any:
		o, err := parseObject(v)
		return node{object: &o}, err
	case []any:
		if len(v) == 0 {
			return node{}, errors.New("empty arrays are not allowed")
		}
		var n node
		for _, item := range v {
			m, err := parseMatcher(item)
			if err != nil {
				return node{}, err
			}
			n.matchers = append(n.matchers, m)
		}
		return n, nil
	default:
		return node{}, errors.New("must be an object or an array")
	}
}

func (o object) match(fields map[string]any) bool {
	for name, n := range o.fields {
		value, ok := fields[name]
		if !ok {
			value = absent{}
		}
		if !n.match(value) {
			return false
		}
	}
	if len(o.or) == 0 {
		return true
	}
	for _, alternative := range o.or {
		if alternative.match(fields) {
			return true
		}
	}
	return false
}

// absent stands for a field that is not there, which nil cannot: it is JSON's null.
type absent struct{}

func (n node) match(value any) bool {
	if n.object != nil {
		return n.matchObject(value)
	}
	leaves := appendLeaves(nil, value)
	for _, m := range n.matchers {
		if len(leaves) == 0 && m(absent{}) {
			return true
		}
		for _, leaf := range leaves {
			if m(leaf) {
				return true
			}
		}
	}
	return false
}

func (n node) matchObject(value any) bool {
	switch v := value.(type) {
	case map[string]any:
		return n.object.match(v)
	case []any:
		for _, item := range v {
			if n.matchObject(item) {
				return true
			}
		}
		return false
	default: // nothing below it, which matches where exists: false is asked
		return n.object.match(nil)
	}
}

// appendLeaves appends the values that a field's matchers see: a scalar, or
// each scalar of an array. An object or an empty array is as if absent.
func appendLeaves(leaves []any, value any) []any {
	switch v := value.(type) {
	case absent, map[string]any:
		return leaves
	case []any:
		for _, item := range v {
			leaves = appendLeaves(leaves, item)
		}
		return leaves
	default:
		return append(leaves, v)
	}
}

// matcher reports whether it matches a scalar, or absent{} for a missing field.
type matcher func(value any) bool

func parseMatcher(item any) (matcher, error) {
	operator, ok := item.(map[string]any)
	if !ok {
		if _, isList := item.([]any); isList {
			return nil, errors.New("an array inside an array is not allowed")
		}
		return equals(item), nil
	}
	if len(operator) != 1 {
		return nil, errors.New("only one key allowed in match expression")
	}
	for name, operand := range operator {
		switch name {
		case "exists":
			want, ok := operand.(bool)
			if !ok {
				return nil, errors.New("exists match pattern must be either true or false")
			}
			return func(value any) bool { return (value != absent{}) == want }, nil
		case "anything-but":
			return parseAnythingBut(operand)
		case "numeric":
			return parseNumeric(operand)
		default:
			return parseText(name, operand)
		}
	}
	return nil, errors.New("empty match expression")
}

func equals(want any) matcher {
	number, isNumber := toFloat(want)
	return func(value any) bool {
		if isNumber {
			f, ok := toFloat(value)
			return ok && f == number
		}
		return value == want
	}
}

func toFloat(value any) (float64, bool) {
	n, ok := value.(json.Number)
	if !ok {
		return 0, false
	}
	f, err := n.Float64()
	return f, err == nil
}

// parseText parses the matchers of strings.
func parseText(name string, operand any) (matcher, error) {
	if nested, ok := operand.(map[string]any); ok && (name == "prefix" || name == "suffix") {
		text, ok := nested["equals-ignore-case"].(string)
		if !ok || len(nested) != 1 {
			return nil, fmt.Errorf("%s takes a string or equals-ignore-case", name)
		}
		return onText(func(s string) bool {
			if len(s) < len(text) {
				return false
			}
			if name == "prefix" {
				return strings.EqualFold(s[:len(text)], text)
			}
			return strings.EqualFold(s[len(s)-len(text):], text)
		}), nil
	}
	text, ok := operand.(string)
	if !ok {
		return nil, fmt.Errorf("%s match pattern must be a string", name)
	}
	switch name {
	case "prefix":
		return onText(func(s string) bool { return strings.HasPrefix(s, text) }), nil
	case "suffix":
		return onText(func(s string) bool { return strings.HasSuffix(s, text) }), nil
	case "equals-ignore-case":
		return onText(func(s string) bool { return strings.EqualFold(s, text) }), nil
	case "wildcard":
		if strings.Contains(text, "**") || strings.Contains(text, `\`) {
			return nil, errors.New("consecutive wildcards are not allowed, and localaws does not model escapes in them")
		}
		return onText(func(s string) bool { return wildcard(text, s) }), nil
	default:
		return nil, fmt.Errorf("unrecognized match type %s", name)
	}
}

func onText(match func(string) bool) matcher {
	return func(value any) bool {
		s, ok := value.(string)
		return ok && match(s)
	}
}

// wildcard reports whether s is the pattern, in which * stands for any text.
func wildcard(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return s == pattern
	}
	s, ok := strings.CutPrefix(s, parts[0])
	if !ok {
		return false
	}
	last := len(parts) - 1
	for _, part := range parts[1:last] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return strings.HasSuffix(s, parts[last])
}

// parseAnythingBut parses what a value must not be: a scalar, a list of
// scalars, or a text matcher with one operand or a list of them.
func parseAnythingBut(operand any) (matcher, error) {
	parse := func(item any) (matcher, error) {
		switch item.(type) {
		case string, json.Number:
			return equals(item), nil
		default:
			return nil, errors.New("anything-but takes strings, numbers and one of prefix, suffix, equals-ignore-case and wildcard")
		}
	}
	if nested, ok := operand.(map[string]any); ok {
		if len(nested) != 1 {
			return nil, errors.New("anything-but takes one match type")
		}
		for name, inner := range nested {
			operand = inner
			parse = func(item any) (matcher, error) { return parseText(name, item) }
		}
	}
	list, ok := operand.([]any)
	if !ok {
		list = []any{operand}
	}
	if len(list) == 0 {
		return nil, errors.New("empty arrays are not allowed")
	}
	var unwanted []matcher
	for _, item := range list {
		m, err := parse(item)
		if err != nil {
			return nil, err
		}
		unwanted = append(unwanted, m)
	}
	return func(value any) bool {
		if value == (absent{}) {
			return false
		}
		for _, m := range unwanted {
			if m(value) {
				return false
			}
		}
		return true
	}, nil
}

// parseNumeric parses one or two comparisons: [">", 0] or [">=", 0, "<", 5].
func parseNumeric(operand any) (matcher, error) {
	list, ok := operand.([]any)
	if !ok || len(list) != 2 && len(list) != 4 {
		return nil, errors.New("numeric takes a list of one or two comparisons")
	}
	var all []matcher
	for i := 0; i < len(list); i += 2 {
		operator, _ := list[i].(string)
		limit, ok := toFloat(list[i+1])
		if !ok {
			return nil, errors.New("value of a numeric match must be numeric")
		}
		compare, ok := map[string]func(float64) bool{
			"=":  func(f float64) bool { return f == limit },
			"<":  func(f float64) bool { return f < limit },
			"<=": func(f float64) bool { return f <= limit },
			">":  func(f float64) bool { return f > limit },
			">=": func(f float64) bool { return f >= limit },
		}[operator]
		if !ok {
			return nil, errors.New("unrecognized numeric range operator " + strconv.Quote(operator))
		}
		all = append(all, func(value any) bool {
			f, ok := toFloat(value)
			return ok && compare(f)
		})
	}
	return func(value any) bool {
		for _, m := range all {
			if !m(value) {
				return false
			}
		}
		return true
	}, nil
}
