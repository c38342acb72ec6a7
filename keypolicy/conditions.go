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

	keyFacts
	values []string
	// literal: there are variables among the values, which are taken literally.
	literal bool
	// against is what the policy is judged against; nil where policies are compared.
	against *Context
}

// test is what a condition operator does with the key's value.
type test uint8

const (
	unknownTest test = iota
	exact            // StringEquals
	folded           // StringEqualsIgnoreCase
	wildcard         // StringLike
	arnLike          // ArnLike and ArnEquals, which are the same
	address          // IpAddress
	boolean
	null
	equalNumber
	atLeast // NumericGreaterThan and such
	atMost
	equalDate
	after // DateGreaterThan and such
	before
	binary
)

var tests = map[string]test{
	"stringequals": exact, "stringequalsignorecase": folded, "stringlike": wildcard,
	"arnequals": arnLike, "arnlike": arnLike, "ipaddress": address,
	"bool": boolean, "null": null, "binaryequals": binary,
	"numericequals": equalNumber, "numericgreaterthan": atLeast, "numericgreaterthanequals": atLeast,
	"numericlessthan": atMost, "numericlessthanequals": atMost,
	"dateequals": equalDate, "dategreaterthan": after, "dategreaterthanequals": after,
	"datelessthan": before, "datelessthanequals": before,
}

// suits reports whether what the test says of such a key is understood. Nobody
// knows whose account number is less than another.
func (t test) suits(k keyKind) bool {
	switch t {
	case exact, folded, wildcard:
		return k != date && k != epoch && k != deletionGuard
	case arnLike:
		return k == callerARN || k == sourceARN || k == credentialARN || k == contextPair || k == endpointAccount || k == chosen
	case address:
		return k == network
	case boolean:
		return k.isTruth()
	case equalNumber:
		return k == callerAccount || k == sourceAccount || k == endpointAccount || k == resourceAccount || k == epoch
	case atLeast, atMost:
		return k == deletionGuard || k == epoch
	case equalDate, after, before:
		return k == date || k == epoch
	default:
		return false
	}
}

// takeApart prepares a condition. variables: they stand for something.
func (c Condition) takeApart(variables bool, against *Context) condition {
	name := strings.ToLower(c.Operator)
	out := condition{keyFacts: factsOf(ConditionKey(c.Key)), values: c.Values, against: against}
	name, out.forAll = strings.CutPrefix(name, "forallvalues:")
	name, out.forAny = strings.CutPrefix(name, "foranyvalue:")
	name, out.ifExists = strings.CutSuffix(name, "ifexists")
	if before, after, found := strings.Cut(name, "not"); found {
		name, out.negated = before+after, true
	}
	out.test = tests[name]
	if !slices.ContainsFunc(c.Values, isVariable) {
		return out
	}
	if out.literal = !variables; variables && against != nil && against.Account != "" {
		out.values = slices.Clone(c.Values)
		for i := range out.values {
			out.values[i] = strings.ReplaceAll(out.values[i], "${aws:ResourceAccount}", against.Account)
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
	return (c.kind == viaService || c.kind == calledVia) && c.demands() && (c.test == exact || c.test == folded || c.test == wildcard) && len(c.values) > 0 &&
		!slices.ContainsFunc(c.values, func(v string) bool {
			service, _, _ := strings.Cut(v, ".")
			return service == "" || isOpen(service)
		})
}

// isForAWSGrants reports whether the condition lets through only grants that AWS
// services make.
func (c *condition) isForAWSGrants() bool {
	return c.kind == grantForAWS && c.demands() && c.test == boolean && len(c.values) > 0 &&
		!slices.ContainsFunc(c.values, func(v string) bool { return !strings.EqualFold(v, "true") })
}

// holds returns the chance that the condition holds for the subject's calls:
// for those that carry the key, and for the others.
func (c *condition) holds(s *subject) (carried, others chance) {
	if c.test == unknownTest {
		return open, open // it is not understood
	}
	presence := s.presence(c.kind)
	others = c.missing()
	if c.test == null {
		present := certain(c.wants("false"))
		if s.anybody && present != others && (c.kind == serviceName || c.kind == serviceNames) {
			return min(max(others, unlikely), likely), others // as in whether a service calls
		}
		return presence.choose(present, others), others
	}
	present := never
	if len(c.values) == 0 {
		present = open // nothing to rely on
	}
	for _, v := range c.values {
		present = max(present, s.has(c, v))
	}
	if c.kind.isTruth() && c.suits(c.kind) && c.wants("true") && c.wants("false") {
		present = always
	}
	if c.negated {
		present = present.not()
	}
	if presence == sure && !s.administers && (c.ifExists || c.forAll || c.forAny) &&
		(c.kind == callerAccount || c.kind == callerARN || c.kind == grantForAWS) {
		presence = perhaps // so its author says
	}
	return presence.choose(present, others), others
}

// wants reports whether one of the condition's values is the truth.
func (c *condition) wants(truth string) bool {
	return slices.ContainsFunc(c.values, func(v string) bool { return strings.EqualFold(v, truth) })
}

// missing returns the chance that the condition holds where the key is missing.
func (c *condition) missing() chance {
	switch {
	case c.test == unknownTest, c.forAny && c.ifExists:
		return open // not documented
	case c.test == null:
		return certain(c.wants("true"))
	case c.forAll || c.ifExists || c.negated && !c.forAny:
		return always
	}
	return never
}

// isDead reports whether the condition never holds for requests with the actions,
// because none of them carries its key.
func (c *condition) isDead(as Actions) bool { return as&c.carried == 0 && c.missing() == never }
