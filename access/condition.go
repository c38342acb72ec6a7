package access

import (
	"encoding/base64"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/keypolicy"
)

// truth is what is known of a condition.
type truth uint8

const (
	never truth = iota
	unknown
	always
)

func certain(holds bool) truth {
	if holds {
		return always
	}
	return never
}

// test is a condition of a statement, or another demand of it, ready to be asked.
type test struct {
	// text is how it reads.
	text string
	// key is in the form of keypolicy.ConditionKey.
	key string
	operator
	null, negated, ifExists, forAll, forAny bool
	values                                  []string
	// variables: the policy's version has them.
	variables bool
	// context is the encryption context that a request must have: with exactly, and no other.
	context map[string]string
	exactly bool
}

// operator is what a condition operator does with a value of the policy and one of the
// request. The zero value is one that is not known.
type operator struct {
	match func(policy, request string) bool
	// exact: it compares with nothing but the texts in the policy, so that all values of a
	// request can be tried.
	exact bool
	// time: it is about times.
	time bool
}

// operators are those without Not (IAM User Guide, "IAM JSON policy elements: Condition
// operators"), in small letters.
var operators = map[string]operator{
	"stringequals":             {match: func(p, r string) bool { return p == r }, exact: true},
	"stringequalsignorecase":   {match: strings.EqualFold, exact: true},
	"stringlike":               {match: keypolicy.Match},
	"arnequals":                {match: arnLike},
	"arnlike":                  {match: arnLike},
	"bool":                     {match: strings.EqualFold, exact: true},
	"binaryequals":             {match: sameBytes},
	"ipaddress":                {match: inNetwork},
	"numericequals":            {match: compared(parseNumber, func(order int) bool { return order == 0 })},
	"numericlessthan":          {match: compared(parseNumber, func(order int) bool { return order < 0 })},
	"numericlessthanequals":    {match: compared(parseNumber, func(order int) bool { return order <= 0 })},
	"numericgreaterthan":       {match: compared(parseNumber, func(order int) bool { return order > 0 })},
	"numericgreaterthanequals": {match: compared(parseNumber, func(order int) bool { return order >= 0 })},
	"dateequals":               {match: compared(parseTime, func(order int) bool { return order == 0 }), time: true},
	"datelessthan":             {match: compared(parseTime, func(order int) bool { return order < 0 }), time: true},
	"datelessthanequals":       {match: compared(parseTime, func(order int) bool { return order <= 0 }), time: true},
	"dategreaterthan":          {match: compared(parseTime, func(order int) bool { return order > 0 }), time: true},
	"dategreaterthanequals":    {match: compared(parseTime, func(order int) bool { return order >= 0 }), time: true},
}

// testOf prepares a condition.
func testOf(c keypolicy.Condition, variables bool) test {
	t := test{
		text: c.Operator + " " + c.Key + " " + strings.Join(c.Values, ", "),
		key:  keypolicy.ConditionKey(c.Key), values: c.Values, variables: variables,
	}
	name := strings.ToLower(c.Operator)
	name, t.forAll = strings.CutPrefix(name, "forallvalues:")
	name, t.forAny = strings.CutPrefix(name, "foranyvalue:")
	if t.null = name == "null"; t.null {
		t.exact = true
		return t
	}
	name, t.ifExists = strings.CutSuffix(name, "ifexists")
	if before, after, found := strings.Cut(name, "not"); found {
		name, t.negated = before+after, true
	}
	t.operator = operators[name]
	return t
}

// holds reports whether the test holds for the values of the request's key; nil are those
// of a request without the key. The test must not have variables that stand for anything.
func (t *test) holds(have []string) truth {
	switch {
	case t.null:
		return certain(slices.ContainsFunc(t.values, func(v string) bool { return strings.EqualFold(v, strconv.FormatBool(have == nil)) }))
	case t.match == nil:
		return unknown
	case have == nil && t.forAny:
		return never
	case have == nil:
		return certain(t.forAll || t.negated || t.ifExists)
	}
	accepts := func(value string) bool {
		return t.negated != slices.ContainsFunc(t.values, func(v string) bool { return t.match(v, value) })
	}
	if t.forAll {
		return certain(!slices.ContainsFunc(have, func(v string) bool { return !accepts(v) }))
	}
	return certain(slices.ContainsFunc(have, accepts))
}

// holdsFrom reports whether the test of the time holds from now on.
func (t *test) holdsFrom(now time.Time) truth {
	if now.IsZero() || slices.ContainsFunc(t.values, func(v string) bool { at, ok := parseTime(v); return ok && at.Compare(now) >= 0 }) {
		return unknown // it changes
	}
	return t.holds([]string{now.UTC().Format(time.RFC3339)})
}

// look returns the values of a condition key, nil where a request does not have it. known is
// false where it is not known.
type look func(key string) (values []string, known bool)

// resolve puts what policy variables stand for into the values. Of a variable that stands for
// nothing, the value matches nothing and is left out. known is false where it is not known.
func (t *test) resolve(values look) (resolved test, known bool) {
	if !t.variables || !slices.ContainsFunc(t.values, func(v string) bool { return strings.Contains(v, "${") }) {
		return *t, true
	}
	resolved = *t
	resolved.values = nil
	for _, v := range t.values {
		text, stands, known := substitute(v, values)
		switch {
		case !known:
			return *t, false
		case stands:
			resolved.values = append(resolved.values, text)
		}
	}
	return resolved, true
}

// keys returns the condition keys that the test asks for.
func (t *test) keys() []string {
	keys := []string{t.key}
	for _, v := range t.values {
		for _, part := range strings.Split(v, "${")[1:] {
			name, _, _ := strings.Cut(part, "}")
			name, _, _ = strings.Cut(name, ",")
			keys = append(keys, keypolicy.ConditionKey(strings.TrimSpace(name)))
		}
	}
	return keys
}

// substitute replaces the policy variables of a text ("${aws:username}", "${aws:username,
// 'nobody'}", "${*}"). stands is false where one stands for nothing.
func substitute(text string, values look) (replaced string, stands, known bool) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${")
		b.WriteString(before)
		inside, after, closed := strings.Cut(rest, "}")
		if !found || !closed {
			if found {
				b.WriteString("${" + rest)
			}
			return b.String(), true, true
		}
		text = after
		name, fallback, hasFallback := strings.Cut(inside, ",")
		switch name {
		case "$":
			b.WriteString(name)
			continue
		case "*", "?": // the character itself, which no pattern here can be made to mean
			return "", false, false
		}
		have, isKnown := values(keypolicy.ConditionKey(strings.TrimSpace(name)))
		switch {
		case !isKnown:
			return "", false, false
		case len(have) == 1:
			b.WriteString(have[0])
		case hasFallback:
			b.WriteString(strings.Trim(strings.TrimSpace(fallback), "'"))
		default:
			return "", false, true
		}
	}
}

// arnLike compares ARNs part by part, so that a * does not reach over a colon outside of the
// resource.
func arnLike(pattern, arn string) bool {
	p, a := strings.SplitN(pattern, ":", 6), strings.SplitN(arn, ":", 6)
	return len(p) == 6 && len(a) == 6 && slices.EqualFunc(p, a, keypolicy.Match)
}

func sameBytes(a, b string) bool {
	x, errX := base64.StdEncoding.DecodeString(a)
	y, errY := base64.StdEncoding.DecodeString(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

func inNetwork(network, address string) bool {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	if prefix, err := netip.ParsePrefix(network); err == nil {
		return prefix.Contains(ip)
	}
	one, err := netip.ParseAddr(network)
	return err == nil && one == ip
}

// number orders numbers.
type number float64

func (n number) Compare(other number) int {
	switch {
	case n < other:
		return -1
	case n > other:
		return 1
	}
	return 0
}

func parseNumber(text string) (number, bool) {
	n, err := strconv.ParseFloat(text, 64)
	return number(n), err == nil
}

func parseTime(text string) (time.Time, bool) {
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(seconds, 0), true
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00", time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// compared matches where the request's value stands in an order to the policy's; what cannot
// be parsed matches nothing.
func compared[T interface{ Compare(T) int }](parse func(string) (T, bool), accept func(order int) bool) func(policy, request string) bool {
	return func(policy, request string) bool {
		p, okP := parse(policy)
		r, okR := parse(request)
		return okP && okR && accept(r.Compare(p))
	}
}
