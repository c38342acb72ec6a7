package keypolicy

import (
	"slices"
	"strings"
)

// chance is how likely it is that something holds for the calls that a subject
// can make. The middle is the subject's own choice, or unknown.
type chance uint8

const (
	never    chance = iota
	unlikely        // a stranger cannot bring it about
	open
	likely // a stranger cannot avoid it
	always
)

func (c chance) not() chance { return always - c }

// either returns the chance where one of two may come to pass: what they agree
// on, or open.
func either(a, b chance) chance {
	switch {
	case a < open && b < open:
		return max(a, b)
	case a > open && b > open:
		return min(a, b)
	}
	return open
}

// condition is a Condition taken apart.
type condition struct {
	test
	negated, ifExists, forAll, forAny bool

	key    keyKind
	values []string
	// literal: there are variables among the values, which are taken literally.
	literal bool
	// carried are the actions whose requests carry the key; the others never do.
	carried actions
}

// test is what a condition operator does with the key's value.
type test uint8

const (
	unknownTest test = iota
	exact            // StringEquals
	wildcard         // StringLike, ArnLike and ArnEquals
	address          // IpAddress
	boolean
	null
	atLeast // NumericGreaterThan and such
	atMost
	other // known, but not evaluated: dates, numbers, binary
)

var tests = map[string]test{
	"stringequals": exact, "stringequalsignorecase": exact, "stringlike": wildcard,
	"arnequals": wildcard, "arnlike": wildcard, "ipaddress": address,
	"bool": boolean, "null": null,
	"numericgreaterthan": atLeast, "numericgreaterthanequals": atLeast,
	"numericlessthan": atMost, "numericlessthanequals": atMost,
	"numericequals": other, "binaryequals": other, "dateequals": other,
	"dategreaterthan": other, "dategreaterthanequals": other, "datelessthan": other, "datelessthanequals": other,
}

// suits reports whether what the test says of such a key is understood. Nobody
// knows whose account number is less than another.
func (t test) suits(k keyKind) bool {
	switch t {
	case boolean:
		return k == isService || k == secureTransport || k == mfa || k == grantForAWS
	case address:
		return k == network
	case atLeast, atMost:
		return k == deletionGuard
	default:
		return t == exact || t == wildcard
	}
}

// takeApart prepares a condition. Where variables stand for something, own is the
// key's account.
func (c Condition) takeApart(variables bool, own string) condition {
	name := strings.ToLower(c.Operator)
	out := condition{values: c.Values, carried: ^actions(0)}
	name, out.forAll = strings.CutPrefix(name, "forallvalues:")
	name, out.forAny = strings.CutPrefix(name, "foranyvalue:")
	name, out.ifExists = strings.CutSuffix(name, "ifexists")
	if before, after, found := strings.Cut(name, "not"); found {
		name, out.negated = before+after, true
	}
	out.test = tests[name]
	key := conditionKey(c.Key)
	out.key = kinds[key]
	if as, ok := carriers[key]; ok {
		out.carried = as | unheardOf
	}
	if strings.HasPrefix(key, "kms:encryptioncontext:") {
		out.key, out.carried = contextPair, contextual|unheardOf
	}
	if strings.HasPrefix(key, "kms:recipientattestation:") {
		out.carried = use | unheardOf
	}
	if !slices.ContainsFunc(c.Values, isVariable) {
		return out
	}
	if out.literal = !variables; variables && own != "" {
		// The key's account is the only variable whose value is known.
		out.values = slices.Clone(c.Values)
		for i := range out.values {
			out.values[i] = strings.ReplaceAll(out.values[i], "${aws:ResourceAccount}", own)
		}
	}
	return out
}

// demands reports whether the condition holds only where the key is there and
// has one of the values.
func (c *condition) demands() bool { return !c.negated && !c.ifExists && !c.forAll }

// namesServices reports whether the condition lets through only what comes
// through services that it names.
func (c *condition) namesServices() bool {
	return c.key == viaService && c.demands() && (c.test == exact || c.test == wildcard) && len(c.values) > 0 &&
		!slices.ContainsFunc(c.values, func(v string) bool {
			service, _, _ := strings.Cut(v, ".")
			return service == "" || isOpen(service)
		})
}

// isForAWSGrants reports whether the condition lets through only grants that AWS
// services make.
func (c *condition) isForAWSGrants() bool {
	return c.key == grantForAWS && c.demands() && c.test == boolean && len(c.values) > 0 &&
		!slices.ContainsFunc(c.values, func(v string) bool { return !strings.EqualFold(v, "true") })
}

// holds returns the chance that the condition holds for the subject's calls:
// for those that carry the key, and for the others.
func (c *condition) holds(s *subject) (carried, others chance) {
	if c.test == unknownTest {
		return open, open // it is not understood
	}
	if c.test == null {
		// "true" asks for the key to be missing.
		carried, others = never, always
		if len(c.values) != 1 || !strings.EqualFold(c.values[0], "true") {
			carried, others = always, never
		}
		return s.presence(c.key).choose(carried, others), others
	}
	present := never
	if len(c.values) == 0 {
		present = open // nothing to rely on
	}
	for _, v := range c.values {
		present = max(present, s.has(c, v))
	}
	if c.negated {
		present = present.not()
	}
	presence := s.presence(c.key)
	if presence == sure && (c.ifExists || c.forAll || c.forAny) && !s.administers && c.key != grantOperation && c.key != deletionGuard {
		presence = perhaps // so its author says
	}
	return presence.choose(present, c.missing()), c.missing()
}

// missing returns the chance that the condition holds where the key is missing.
func (c *condition) missing() chance {
	switch {
	case c.forAny && c.ifExists:
		return open // not documented
	case c.forAll || c.ifExists || c.negated && !c.forAny:
		return always
	}
	return never
}
