package iam

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// condition is one operator with one key and its values, any of which may match.
type condition struct {
	operator string
	key      string
	values   []string
}

// operator tests one value of a policy against the request's. A negated one
// holds when no value matches, and when the request does not have the key.
type operator struct {
	match   func(policy, request string) bool
	negated bool
}

var operators = map[string]operator{
	"StringEquals":              {match: equal},
	"StringNotEquals":           {match: equal, negated: true},
	"StringEqualsIgnoreCase":    {match: strings.EqualFold},
	"StringNotEqualsIgnoreCase": {match: strings.EqualFold, negated: true},
	"StringLike":                {match: glob},
	"StringNotLike":             {match: glob, negated: true},
	"ArnEquals":                 {match: arnLike}, // AWS: the same as ArnLike
	"ArnLike":                   {match: arnLike},
	"ArnNotEquals":              {match: arnLike, negated: true},
	"ArnNotLike":                {match: arnLike, negated: true},
	"Bool":                      {match: strings.EqualFold},
	"IpAddress":                 {match: inNetwork},
	"NotIpAddress":              {match: inNetwork, negated: true},
	"NumericEquals":             {match: numeric(func(c int) bool { return c == 0 })},
	"NumericNotEquals":          {match: numeric(func(c int) bool { return c == 0 }), negated: true},
	"NumericLessThan":           {match: numeric(func(c int) bool { return c < 0 })},
	"NumericLessThanEquals":     {match: numeric(func(c int) bool { return c <= 0 })},
	"NumericGreaterThan":        {match: numeric(func(c int) bool { return c > 0 })},
	"NumericGreaterThanEquals":  {match: numeric(func(c int) bool { return c >= 0 })},
	"DateEquals":                {match: date(func(c int) bool { return c == 0 })},
	"DateNotEquals":             {match: date(func(c int) bool { return c == 0 }), negated: true},
	"DateLessThan":              {match: date(func(c int) bool { return c < 0 })},
	"DateLessThanEquals":        {match: date(func(c int) bool { return c <= 0 })},
	"DateGreaterThan":           {match: date(func(c int) bool { return c > 0 })},
	"DateGreaterThanEquals":     {match: date(func(c int) bool { return c >= 0 })},
}

func (c condition) holds(r Request) truth {
	have, present := r.contextValue(c.key)
	name := c.operator
	// A request's key has one value here, so the set operators differ only where it is absent.
	if rest, ok := strings.CutPrefix(name, "ForAllValues:"); ok {
		if !present {
			return yes
		}
		name = rest
	}
	if rest, ok := strings.CutPrefix(name, "ForAnyValue:"); ok {
		if !present {
			return no
		}
		name = rest
	}
	if name == "Null" {
		return truthOf(slices.ContainsFunc(c.values, func(v string) bool { return strings.EqualFold(v, strconv.FormatBool(!present)) }))
	}
	name, ifExists := strings.CutSuffix(name, "IfExists")
	op, known := operators[name]
	if !known || slices.ContainsFunc(c.values, func(v string) bool { return strings.Contains(v, "${") }) {
		return unknown
	}
	if !present {
		return truthOf(op.negated || ifExists)
	}
	found := slices.ContainsFunc(c.values, func(v string) bool { return op.match(v, have) })
	return truthOf(found != op.negated)
}

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// contextValue returns the request's value of a condition key.
func (r Request) contextValue(key string) (string, bool) {
	for name, v := range r.Context {
		if strings.EqualFold(name, key) {
			return v, true
		}
	}
	switch strings.ToLower(key) {
	case "aws:principalarn":
		if r.RoleARN != "" {
			return r.RoleARN, true
		}
		return r.Principal, r.Principal != ""
	case "aws:principalaccount":
		return r.Account, r.Account != ""
	case "aws:principalisawsservice":
		return strconv.FormatBool(r.Service != ""), true
	}
	return "", false
}

func equal(a, b string) bool { return a == b }

// arnLike matches ARNs part by part, so that a * does not reach over a colon
// outside of the resource.
func arnLike(pattern, arn string) bool {
	p, a := strings.SplitN(pattern, ":", 6), strings.SplitN(arn, ":", 6)
	return len(p) == 6 && len(a) == 6 && slices.EqualFunc(p, a, glob)
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

// numeric compares the request's number with the policy's; what is no number matches nothing.
func numeric(accept func(comparison int) bool) func(policy, request string) bool {
	return func(policy, request string) bool {
		p, errP := strconv.ParseFloat(policy, 64)
		r, errR := strconv.ParseFloat(request, 64)
		if errP != nil || errR != nil {
			return false
		}
		switch {
		case r < p:
			return accept(-1)
		case r > p:
			return accept(1)
		}
		return accept(0)
	}
}

// date compares the request's time with the policy's; what is no time matches nothing.
func date(accept func(comparison int) bool) func(policy, request string) bool {
	return func(policy, request string) bool {
		p, okP := parseTime(policy)
		r, okR := parseTime(request)
		return okP && okR && accept(r.Compare(p))
	}
}

func parseTime(s string) (time.Time, bool) {
	if seconds, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(seconds, 0), true
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}
