package keypolicy

import (
	"slices"
	"strings"
)

// reach is how far the conditions of a statement let it go.
type reach struct {
	// bounds are sets of accounts; whoever is let through belongs to one of each
	// set. None: the conditions bind it to no account.
	bounds [][]string
	// narrowed says that a condition asks for something that not everybody has.
	narrowed bool
	// source says that a condition names on whose behalf a service may act.
	source bool
}

// conditionReach reads the conditions of an Allow.
func conditionReach(conditions []Condition) reach {
	var r reach
	for _, c := range conditions {
		o := c.operator()
		if !o.positive || o.forAll {
			// ForAllValues holds where the key is missing; a negative operator
			// shuts out a few and lets the world in.
			continue
		}
		key := strings.ToLower(c.Key)
		accounts, ok := c.accounts()
		if ok && !o.ifExists {
			r.bounds = append(r.bounds, accounts)
		}
		if slices.ContainsFunc(c.Values, isOpen) {
			continue
		}
		if hasAnyPrefix(key, narrowingKeys) {
			r.narrowed = true
		}
		if hasAnyPrefix(key, sourceKeys) && !o.ifExists {
			r.source = true
		}
	}
	return r
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

// sourceKeys say on whose behalf a service calls.
var sourceKeys = []string{"aws:sourceaccount", "aws:sourcearn", "aws:sourceorgid", "aws:sourceorgpaths", "kms:calleraccount", "kms:viaservice", "kms:encryptioncontext:"}

// narrowingKeys ask for something that not everybody has. Some are weak, so
// they lower a finding and never remove it.
var narrowingKeys = append([]string{
	"aws:principalorgid", "aws:principalorgpaths", "aws:principaltag/", "aws:principalaccount", "aws:principalarn",
	"aws:sourcevpc", "aws:sourcevpce", "aws:vpcsourceip", "aws:sourceip", "aws:userid", "aws:username",
	"kms:grantisforawsresource", "kms:recipientattestation:",
}, sourceKeys...)

// accounts returns the accounts that the condition's values name, where every
// value names one.
func (c Condition) accounts() ([]string, bool) {
	key := strings.ToLower(c.Key)
	var accounts []string
	for _, v := range c.Values {
		switch key {
		case "kms:calleraccount", "aws:principalaccount", "aws:sourceaccount":
		case "aws:principalarn", "aws:sourcearn":
			v = arnAccount(v)
		default:
			return nil, false
		}
		if v == "" || strings.ContainsAny(v, "*?$") {
			return nil, false
		}
		accounts = append(accounts, v)
	}
	return accounts, len(accounts) > 0
}

// isOpen reports whether a value is one that everybody has.
func isOpen(value string) bool {
	return strings.Trim(value, "*") == "" || value == "0.0.0.0/0" || value == "::/0"
}

func hasAnyPrefix(key string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p) })
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
