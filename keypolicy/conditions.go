package keypolicy

import (
	"slices"
	"strings"
)

// reach is how far the conditions of an Allow let it go.
type reach struct {
	// bounds are sets of accounts; whoever is let through belongs to one of each
	// set. None: the conditions bind it to no account.
	bounds [][]string
	// narrowed says that a condition asks for something that a stranger cannot have.
	narrowed bool
	// source says that a condition names on whose behalf a service may act.
	source bool
	// awsResource says that it is for grants that AWS services make only.
	awsResource bool
}

// conditionReach reads the conditions of an Allow.
func conditionReach(conditions []Condition) reach {
	var r reach
	for _, c := range conditions {
		if !c.demands() {
			continue
		}
		key := strings.ToLower(c.Key)
		accounts, bound := c.accounts()
		if bound {
			r.bounds = append(r.bounds, accounts)
		}
		plain := len(c.Values) > 0 && !slices.ContainsFunc(c.Values, isOpen)
		switch {
		case slices.Contains(strangersLack, key):
			r.narrowed = r.narrowed || plain
			r.source = r.source || (bound || plain) && strings.HasPrefix(key, "aws:source")
		case key == "kms:calleraccount":
			r.source = r.source || bound
		case strings.HasPrefix(key, "kms:encryptioncontext:"):
			// Services write the ARN of the resource here, often with a wildcard.
			r.source = r.source || !slices.ContainsFunc(c.Values, func(v string) bool { return strings.Trim(v, "*") == "" })
		case key == "kms:grantisforawsresource":
			r.awsResource = true
		}
	}
	return r
}

// demands reports whether the condition holds only where the key is there and
// has one of the values.
func (c Condition) demands() bool {
	o := c.operator()
	return o.positive && !o.forAll && !o.ifExists
}

// strangersLack are keys whose values nobody outside can choose, unlike names,
// tags, encryption contexts and the service that a call goes through.
var strangersLack = []string{
	"aws:principalorgid", "aws:principalorgpaths",
	"aws:sourceaccount", "aws:sourcearn", "aws:sourceorgid", "aws:sourceorgpaths",
	"aws:sourcevpc", "aws:sourcevpce", "aws:vpcsourceip", "aws:sourceip",
}

// denyBound reads the conditions of a Deny. It returns the only accounts that
// the Deny lets through, where its conditions are one that says so plainly.
func denyBound(conditions []Condition) ([]string, bool) {
	if len(conditions) != 1 {
		return nil, false
	}
	c := conditions[0]
	if o := c.operator(); !o.negative || o.forAll || o.forAny {
		return nil, false
	}
	if !slices.Contains(callerKeys, strings.ToLower(c.Key)) {
		// Where the key is missing a negative operator holds, so a key that only
		// services send would deny everybody else.
		return nil, false
	}
	return c.accounts()
}

// callerKeys say whose call it is.
var callerKeys = []string{"kms:calleraccount", "aws:principalaccount", "aws:principalarn"}

// accounts returns the accounts that the condition's values name, where every
// value names one.
func (c Condition) accounts() ([]string, bool) {
	key := strings.ToLower(c.Key)
	var accounts []string
	for _, v := range c.Values {
		switch key {
		case "kms:calleraccount", "aws:principalaccount", "aws:sourceaccount":
		case "aws:principalarn":
			// A wildcard before the account could reach over it: paths of roles
			// may hold colons.
			before, _, _ := strings.Cut(v, "::")
			if strings.ContainsAny(before, "*?") {
				return nil, false
			}
			v = arnAccount(v)
		case "aws:sourcearn":
			v = arnAccount(v)
		default:
			return nil, false
		}
		if v == "" || isOpen(v) {
			return nil, false
		}
		accounts = append(accounts, v)
	}
	return accounts, len(accounts) > 0
}

// isOpen reports whether a value may stand for one that a stranger has.
func isOpen(value string) bool {
	return strings.ContainsAny(value, "*?$") || value == "0.0.0.0/0" || value == "::/0"
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// operator is a condition operator taken apart.
type operator struct {
	positive, negative bool // it wants a value, or it wants none of the values
	forAll, forAny     bool
	ifExists           bool
}

func (c Condition) operator() operator {
	var o operator
	name := strings.ToLower(c.Operator)
	name, o.forAll = strings.CutPrefix(name, "forallvalues:")
	name, o.forAny = strings.CutPrefix(name, "foranyvalue:")
	name, o.ifExists = strings.CutSuffix(name, "ifexists")
	switch name {
	case "stringequals", "stringequalsignorecase", "stringlike", "arnequals", "arnlike", "ipaddress":
		o.positive = true
	case "bool":
		o.positive = !slices.ContainsFunc(c.Values, func(v string) bool { return !strings.EqualFold(v, "true") })
	case "stringnotequals", "stringnotequalsignorecase", "stringnotlike", "arnnotequals", "arnnotlike":
		o.negative = true
	}
	return o
}
