package keypolicy

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// The kinds of changes.
const (
	Added   = "added"
	Removed = "removed"
)

// Change is one difference between two policies. Its texts hold parts of the
// policies as they are: escape them before they are shown.
type Change struct {
	Kind      string // Added or Removed
	Statement string // where it stands: in the new policy for Added, else in the old
	// Widens: somebody may do more, because something is allowed now or denied no
	// longer. Else somebody may do less.
	Widens bool
	// Text is one clause, such as "arn:aws:iam::111122223333:role/x may now kms:Decrypt".
	Text string
}

// Diff returns what the new policy changes, in terms of what principals may do. A
// policy that is only written differently changes nothing: another order, case
// of actions, arrays, forms of principals, statements split or joined, grants
// that another one contains, conditions in other words, or a wildcard in place
// of the list of all actions that it stands for today. Nor do statements that
// KMS ignores. nil is a policy that says nothing. What was added comes first.
//
// Allows and Denies are compared each with their like: an Allow that a Deny
// takes back is reported all the same.
func Diff(old, new *Policy) []Change {
	before, after := old.rules(), new.rules()
	return append(changes(Added, after, before), changes(Removed, before, after)...)
}

// rule is what a statement says of one principal.
type rule struct {
	*clause
	who Principal
}

// clause is a statement as it is compared.
type clause struct {
	*Statement
	about Actions
	rest  []string // patterns of actions that are unheard of, in lower case
	// resources are those that are not the key itself, in a form that compares.
	resources string
	terms     []term
}

// rules takes the policy apart.
func (p *Policy) rules() []rule {
	if p == nil {
		return nil
	}
	var list []rule
	for i := range p.Statements {
		s := &p.Statements[i]
		if s.ignored() || s.isForNobody() {
			continue
		}
		c := &clause{Statement: s, resources: s.elsewhere()}
		c.about, c.rest = s.about()
		c.rest = sorted(lowered(c.rest))
		for _, condition := range s.Conditions {
			c.terms = append(c.terms, condition.term(p.variables()))
		}
		if s.NotPrincipal {
			list = append(list, rule{c, everyone})
			continue
		}
		for _, who := range s.Principals {
			list = append(list, rule{c, who})
		}
	}
	return list
}

// elsewhere returns the resources, unless they are the key.
func (s *Statement) elsewhere() string {
	if !s.NotResource && slices.Contains(s.Resources, "*") {
		return ""
	}
	text := " on " + strings.Join(sorted(s.Resources), " or ")
	if s.NotResource {
		text = " except" + text
	}
	return text
}

// where returns the resources, unless they are the key, and the conditions.
func (c *clause) where() string {
	text := c.resources
	for i, condition := range c.Conditions {
		joint := " and "
		if i == 0 {
			joint = " when "
		}
		text += joint + condition.Operator + " " + condition.Key + " " + strings.Join(sorted(condition.Values), " or ")
		if c.terms[i].literal {
			text += " (taken literally in this policy's version)"
		}
	}
	return text
}

// name returns whom the rule is about, in words.
func (r rule) name() string {
	if !r.NotPrincipal {
		return r.who.String()
	}
	ids := make([]string, len(r.Principals))
	for i, p := range r.Principals {
		ids[i] = p.String()
	}
	return "everyone but " + strings.Join(sorted(ids), ", ")
}

// includes reports whether the rule is about all whom the other one is about. An
// account does not include its principals: they need IAM policies under it.
func (r rule) includes(other rule) bool {
	switch {
	case r.NotPrincipal && other.NotPrincipal:
		return !slices.ContainsFunc(r.Principals, func(p Principal) bool { return !slices.Contains(other.Principals, p) })
	case r.NotPrincipal:
		return other.who != everyone && !slices.Contains(r.Principals, other.who) &&
			!slices.Contains(r.Principals, Principal{"AWS", other.who.account()})
	}
	return r.who == everyone || !other.NotPrincipal && r.who == other.who
}

// holdsWherever reports whether the clause holds in every case in which the
// other one, of the same effect and with those terms, holds.
func (c *clause) holdsWherever(other *clause, terms []term) bool {
	return c.Deny == other.Deny && (c.resources == "" || c.resources == other.resources) &&
		!slices.ContainsFunc(c.terms, func(wide term) bool {
			return !slices.ContainsFunc(terms, func(t term) bool { return t.implies(wide) })
		})
}

// comparison compares the rules of one policy with those of another.
type comparison struct {
	byWho map[Principal][]rule
	wide  []rule // for everyone, or for all but some
	// covered has which unheard-of patterns of one clause another one covers.
	covered map[[2]*clause][]bool
	// parts is how many parts conditions may still be split into.
	parts int
}

func compareWith(others []rule) *comparison {
	c := &comparison{byWho: map[Principal][]rule{}, covered: map[[2]*clause][]bool{}, parts: 4096}
	for _, o := range others {
		if o.NotPrincipal || o.who == everyone {
			c.wide = append(c.wide, o)
		} else {
			c.byWho[o.who] = append(c.byWho[o.who], o)
		}
	}
	return c
}

// others returns the rules that may be about the same principal.
func (c *comparison) others(r rule) []rule {
	if r.who == everyone {
		return c.wide
	}
	return append(c.byWho[r.who][:len(c.byWho[r.who]):len(c.byWho[r.who])], c.wide...)
}

// left returns what a rule says that no rule of the others does: known actions,
// and which of its unheard-of patterns.
func (c *comparison) left(r rule, others []rule, terms []term) (as Actions, rest []bool) {
	as, rest = r.about, make([]bool, len(r.rest))
	for i := range rest {
		rest[i] = true
	}
	for _, o := range others {
		if !o.includes(r) || !o.holdsWherever(r.clause, terms) {
			continue
		}
		as &^= o.about & allKnown
		for i, covered := range c.patterns(o.clause, r.clause) {
			rest[i] = rest[i] && !covered
		}
	}
	if !slices.Contains(rest, true) {
		as &^= unheardOf
	}
	if as == 0 {
		return as, rest
	}
	// What one rule says of several values, others may say one by one.
	i := slices.IndexFunc(terms, term.divisible)
	if i < 0 || c.parts < len(terms[i].values) {
		return as, rest
	}
	c.parts -= len(terms[i].values)
	var inParts Actions
	restInParts := make([]bool, len(rest))
	part := slices.Clone(terms)
	for _, v := range terms[i].values {
		part[i].values = []string{v}
		some, more := c.left(r, others, part)
		inParts |= some
		for j := range more {
			restInParts[j] = restInParts[j] || more[j]
		}
	}
	return inParts, restInParts
}

// patterns returns which of a clause's unheard-of patterns another one covers.
func (c *comparison) patterns(by, of *clause) []bool {
	key := [2]*clause{by, of}
	covered, ok := c.covered[key]
	if !ok {
		covered = make([]bool, len(of.rest))
		for i := range of.rest {
			covered[i] = by.coversAll(of.rest[i : i+1])
		}
		c.covered[key] = covered
	}
	return covered
}

// changes returns what the rules say that no rule of the others does. What is the same
// for several principals of a statement is one change.
func changes(kind string, rules, others []rule) []Change {
	c := compareWith(others)
	type sentence struct {
		*clause
		rest string
	}
	var order []sentence
	names := map[sentence][]string{}
	var of *clause // the last one whose actions were named
	var namedOf Actions
	var namedRest []bool
	var words string
	var named Actions
	for _, r := range rules {
		others := c.others(r)
		as, rest := c.left(r, others, r.terms)
		if as == 0 {
			continue
		}
		if of != r.clause || namedOf != as || !slices.Equal(namedRest, rest) {
			of, namedOf, namedRest = r.clause, as, rest
			words, named = r.actions(as, rest)
		}
		s := sentence{r.clause, r.verb(kind) + words + r.where() + softened(kind, r, named, others)}
		if names[s] == nil {
			order = append(order, s)
		}
		names[s] = append(names[s], r.name())
	}
	var list []Change
	for _, s := range order {
		list = append(list, Change{kind, s.Label, (kind == Added) != s.Deny, join(sorted(names[s])) + s.rest})
	}
	return list
}

// softened names the rules of the others that say part of what is named of the rule.
func softened(kind string, r rule, named Actions, others []rule) string {
	var parts []string
	for _, o := range others {
		if some := o.about & named & allKnown; some != 0 && r.name() == o.name() && r.holdsWherever(o.clause, o.terms) {
			words, _ := o.actions(some, nil)
			parts = append(parts, words+o.where())
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return map[string]string{Added: " (before: ", Removed: " (still: "}[kind] + join(sorted(parts)) + ")"
}

func (c *clause) verb(kind string) string {
	switch {
	case kind == Added && c.Deny:
		return " is now denied "
	case kind == Added:
		return " may now "
	case c.Deny:
		return " is no longer denied "
	}
	return " may no longer "
}

// actions names some of the clause's actions, by its own patterns where these are
// about little else, and returns which actions the text names.
func (c *clause) actions(as Actions, rest []bool) (text string, named Actions) {
	const few = 4
	if c.NotAction {
		if as != c.about && bits.OnesCount64(uint64(as)) <= few {
			return strings.Join(as.Names(), ", "), as
		}
		return "everything but " + join(sorted(c.Actions)), c.about
	}
	var words []string
	for _, p := range c.Actions {
		all := match(p)
		some := all & as
		switch {
		case all == 0:
			if i, ok := slices.BinarySearch(c.rest, strings.ToLower(p)); ok && (rest == nil || rest[i]) {
				words = append(words, p)
			}
		case some == 0:
		case some != all && bits.OnesCount64(uint64(some)) <= few:
			words = append(words, some.Names()...)
			named |= some
		default:
			words = append(words, p)
			named |= all
		}
	}
	return join(sorted(words)), named
}

// join joins words, and counts those that are too many to be read.
func join(words []string) string {
	const most = 16
	if len(words) > most+1 {
		return fmt.Sprintf("%s and %d more", strings.Join(words[:most], ", "), len(words)-most)
	}
	return strings.Join(words, ", ")
}

func lowered(words []string) []string {
	words = slices.Clone(words)
	for i := range words {
		words[i] = strings.ToLower(words[i])
	}
	return words
}

// sorted returns the words in order, each once.
func sorted(words []string) []string {
	words = slices.Clone(words)
	slices.Sort(words)
	return slices.Compact(words)
}
