package keypolicy

import (
	"slices"
	"strconv"
	"strings"
)

// term is a condition in a form that compares with others.
type term struct {
	condition
	key string
	// operator is its name in small letters, without IfExists; "like" is "equals"
	// of values that are wild.
	operator string
	wild     bool
}

func (c Condition) term(variables bool) term {
	t := term{condition: c.takeApart(variables, nil), key: ConditionKey(c.Key)}
	t.values = sorted(c.Values)
	t.operator = strings.TrimSuffix(strings.ToLower(c.Operator), "ifexists")
	switch t.test {
	case boolean, null:
		t.values = sorted(lowered(c.Values))
	case wildcard, arnLike:
		t.operator, t.wild = strings.Replace(t.operator, "like", "equals", 1), true
	default: // as they are written
	}
	return t
}

// implies reports whether the other term holds wherever this one does.
func (t term) implies(other term) bool {
	if t.key != other.key || t.operator != other.operator || t.literal != other.literal || t.missing() > other.missing() {
		return false
	}
	switch t.test {
	case exact, folded, wildcard, arnLike, address, boolean:
		// One that wants none of some values wants none of fewer.
		narrow, wide := t, other
		if t.negated {
			narrow, wide = other, t
		}
		return !slices.ContainsFunc(narrow.values, func(v string) bool { return !wide.hasValue(v, narrow.wild) })
	case atLeast, atMost:
		return other.reaches(t)
	default:
		return slices.Equal(t.values, other.values)
	}
}

// hasValue reports whether one of the term's values stands for all that another
// term's value stands for.
func (t term) hasValue(value string, wild bool) bool {
	return slices.ContainsFunc(t.values, func(v string) bool {
		switch {
		case v == value && (t.wild == wild || !isOpen(v)):
			return true
		case !t.wild || isVariable(v) || isVariable(value):
			return false
		case strings.Contains(t.operator, "arn"): // they are matched part by part
			patterns, parts := strings.SplitN(v, ":", 6), strings.SplitN(value, ":", 6)
			return slices.EqualFunc(patterns, parts, func(p, part string) bool { return like(p, part, false) })
		}
		return like(v, value, false)
	})
}

// reaches reports whether a limit lets through all that another one does.
func (t term) reaches(other term) bool {
	if len(t.values) != 1 || len(other.values) != 1 {
		return slices.Equal(t.values, other.values)
	}
	limit, err := strconv.ParseFloat(t.values[0], 64)
	if err != nil {
		return t.values[0] == other.values[0]
	}
	others, err := strconv.ParseFloat(other.values[0], 64)
	if err != nil {
		return false
	}
	if t.test == atLeast {
		return limit <= others
	}
	return limit >= others
}

// divisible reports whether the term is the same as one term for each of its
// values, of which one must hold.
func (t term) divisible() bool {
	return len(t.values) > 1 && !t.negated && !t.forAll && (t.test >= exact && t.test <= boolean)
}
