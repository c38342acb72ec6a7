package iam

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	wild    bool // * and ? in the policy's value are wildcards
}

var operators = map[string]operator{
	"StringEquals":              {match: equal},
	"StringNotEquals":           {match: equal, negated: true},
	"StringEqualsIgnoreCase":    {match: strings.EqualFold},
	"StringNotEqualsIgnoreCase": {match: strings.EqualFold, negated: true},
	"StringLike":                {match: glob, wild: true},
	"StringNotLike":             {match: glob, negated: true, wild: true},
	"ArnEquals":                 {match: arnLike, wild: true}, // AWS: the same as ArnLike
	"ArnLike":                   {match: arnLike, wild: true},
	"ArnNotEquals":              {match: arnLike, negated: true, wild: true},
	"ArnNotLike":                {match: arnLike, negated: true, wild: true},
	"Bool":                      {match: strings.EqualFold},
	"BinaryEquals":              {match: sameBytes},
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

func (c condition) holds(r Request, variables bool) truth {
	have := r.contextValues(c.key)
	name, forAll := strings.CutPrefix(c.operator, "ForAllValues:")
	name, forAny := strings.CutPrefix(name, "ForAnyValue:")
	if name == "Null" {
		return truthOf(slices.ContainsFunc(c.values, func(v string) bool { return strings.EqualFold(v, strconv.FormatBool(have == nil)) }))
	}
	name, ifExists := strings.CutSuffix(name, "IfExists")
	op, known := operators[name]
	switch {
	case !known:
		return unknown
	case have == nil && forAny:
		return no
	case have == nil:
		return truthOf(forAll || op.negated || ifExists)
	}
	accepts := func(value string) bool {
		return op.negated != slices.ContainsFunc(c.values, func(v string) bool {
			ok := true
			if variables {
				v, ok = substitute(v, r, op.wild)
			}
			return ok && op.match(v, value)
		})
	}
	if forAll {
		return truthOf(!slices.ContainsFunc(have, func(v string) bool { return !accepts(v) }))
	}
	return truthOf(slices.ContainsFunc(have, accepts))
}

var variable = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\$\{([^},]*)(, *'([^']*)')?\}`) })

// substitute puts the request's values in place of the policy variables. It is not ok
// where the request has no such key: then the value matches nothing. In a wild value no
// character that is put in is a wildcard.
func substitute(value string, r Request, wild bool) (text string, ok bool) {
	ok = true
	if !strings.Contains(value, "${") {
		return value, ok
	}
	put := func(s string) string {
		if wild {
			return literal.Replace(s)
		}
		return s
	}
	return variable().ReplaceAllStringFunc(value, func(text string) string {
		parts := variable().FindStringSubmatch(text)
		switch have := r.contextValues(parts[1]); {
		case slices.Contains([]string{"*", "?", "$"}, parts[1]):
			return put(parts[1])
		case len(have) == 1:
			return put(have[0])
		case parts[2] != "":
			return put(parts[3])
		}
		ok = false
		return ""
	}), ok
}

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// contextValues returns the request's values of a condition key, nil for none. What
// requests to KMS never have is not there, whatever the context says.
func (r Request) contextValues(key string) []string {
	if strings.HasPrefix(r.Action, "kms:") {
		if carries, _ := Carries(r.Action, key); !carries {
			return nil
		}
	}
	for name, v := range r.Context {
		if strings.EqualFold(name, key) {
			return []string{v}
		}
	}
	for name, values := range r.Several {
		if strings.EqualFold(name, key) {
			return values
		}
	}
	one := func(value string) []string {
		if value == "" {
			return nil
		}
		return []string{value}
	}
	switch strings.ToLower(key) {
	case "aws:principalarn":
		return one(cmp.Or(r.RoleARN, r.Principal))
	case "aws:principalaccount":
		return one(r.Account)
	case "aws:principalisawsservice":
		return one(strconv.FormatBool(r.Service != ""))
	}
	return nil
}

func equal(a, b string) bool { return a == b }

// sameBytes compares two texts in base64.
func sameBytes(a, b string) bool {
	x, errX := base64.StdEncoding.DecodeString(a)
	y, errY := base64.StdEncoding.DecodeString(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

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
