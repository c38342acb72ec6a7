package keypolicy

import (
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
	// Text is one clause, such as "arn:aws:iam::111122223333:role/x may now kms:Decrypt".
	Text string
}

// Diff tells what the new policy changes, in terms of what principals may do. A
// policy that is only written differently (order, case of actions, arrays, forms
// of principals, statements split or joined, grants that another one contains)
// changes nothing. nil is a policy that says nothing. What was added comes first.
//
// Policies of very many principals and actions are compared by whole statements,
// and their texts name a few.
func Diff(old, new *Policy) []Change {
	whole := old.size()+new.size() > mostRules
	before, after := old.rules(whole), new.rules(whole)
	return append(changes(Added, after, before), changes(Removed, before, after)...)
}

// rule is the least part of a policy: one principal, one action.
type rule struct {
	clause
	action string // pattern
}

// clause is what rules share that are told in one sentence.
type clause struct {
	label string
	deny  bool
	who   string
	// where is the rest, as it is shown; match is the same in a form that compares.
	where, match string
}

// mostRules is how many rules two policies may have between them. Real ones have
// hundreds; KMS's 32 KiB can hold a million, which would keep a worker busy for
// minutes.
const mostRules = 20_000

// size returns the number of rules.
func (p *Policy) size() int {
	if p == nil {
		return 0
	}
	n := 0
	for _, s := range p.Statements {
		n += len(s.Principals) * len(s.Actions)
	}
	return n
}

// rules takes the policy apart, or, with whole, makes one rule of a statement.
func (p *Policy) rules(whole bool) []rule {
	if p == nil {
		return nil
	}
	var list []rule
	for _, s := range p.Statements {
		c := clause{label: s.Label, deny: s.Deny}
		c.where, c.match = s.where()
		whom, actions := s.whom(), s.Actions
		if s.NotAction {
			// Taken as a whole: it compares with its like only.
			actions = []string{"everything but " + strings.Join(sorted(s.Actions), ", ")}
		}
		if whole {
			c.match += "\x02" + strings.Join(sorted(whom), "\x00") + "\x02" + strings.Join(sorted(lowered(actions)), "\x00")
			whom, actions = []string{joinSome(sorted(whom))}, []string{joinSome(sorted(actions))}
		}
		for _, c.who = range whom {
			for _, a := range actions {
				list = append(list, rule{c, a})
			}
		}
	}
	return list
}

// whom returns the principals in words.
func (s Statement) whom() []string {
	ids := make([]string, len(s.Principals))
	for i, p := range s.Principals {
		ids[i] = p.String()
	}
	if s.NotPrincipal {
		return []string{"everyone but " + strings.Join(sorted(ids), ", ")}
	}
	return ids
}

// where returns the resources, unless they are the key, and the conditions.
func (s Statement) where() (shown, match string) {
	if len(s.Resources) > 0 && (s.NotResource || !slices.Contains(s.Resources, "*")) {
		shown = " on " + strings.Join(sorted(s.Resources), " or ")
		if s.NotResource {
			shown = " except" + shown
		}
		match = shown
	}
	var shownParts, matchParts []string
	for _, c := range s.Conditions {
		operator, key, values := strings.ToLower(c.Operator), strings.ToLower(c.Key), sorted(c.Values)
		if strings.HasPrefix(key, "kms:encryptioncontext:") {
			key = c.Key // the context's own keys keep their case
		}
		if operator == "bool" || operator == "null" {
			values = sorted(lowered(values))
		}
		shownParts = append(shownParts, c.Operator+" "+c.Key+" "+strings.Join(values, " or "))
		matchParts = append(matchParts, operator+"\x00"+key+"\x00"+strings.Join(values, "\x00"))
	}
	if len(shownParts) > 0 {
		shown += " when " + strings.Join(shownParts, " and ")
		match += "\x01" + strings.Join(sorted(matchParts), "\x01")
	}
	return shown, match
}

// contains reports whether r says all that other says. A rule for everyone
// contains one for somebody; one for an account contains none for its
// principals, which need IAM policies under it.
func (r rule) contains(other rule) bool {
	return r.deny == other.deny &&
		(r.who == other.who || r.who == everyone.String()) &&
		(r.match == other.match || r.match == "") &&
		matches(r.action, other.action)
}

// changes tells the rules that no rule of others contains, one clause at a time.
func changes(kind string, rules, others []rule) []Change {
	var order []clause
	actions := map[clause][]string{}
	related := map[clause][]string{} // narrower rules of others, which soften the change
	byWho := map[string][]rule{}
	for _, o := range others {
		byWho[o.who] = append(byWho[o.who], o)
	}
	contained := func(r rule, in []rule) bool {
		return slices.ContainsFunc(in, func(o rule) bool { return o.contains(r) })
	}
	for _, r := range rules {
		if contained(r, byWho[r.who]) || contained(r, byWho[everyone.String()]) {
			continue
		}
		if actions[r.clause] == nil {
			order = append(order, r.clause)
		}
		actions[r.clause] = append(actions[r.clause], r.action)
		for _, o := range byWho[r.who] {
			if r.contains(o) {
				related[r.clause] = append(related[r.clause], o.action+o.where)
			}
		}
	}
	var list []Change
	for _, c := range order {
		text := c.who + verb(kind, c.deny) + strings.Join(sorted(actions[c]), ", ") + c.where
		if also := sorted(related[c]); len(also) > 0 {
			text += map[string]string{Added: " (before: ", Removed: " (still: "}[kind] + strings.Join(also, ", ") + ")"
		}
		list = append(list, Change{kind, c.label, text})
	}
	return list
}

func verb(kind string, deny bool) string {
	switch {
	case kind == Added && deny:
		return " is now denied "
	case kind == Added:
		return " may now "
	case deny:
		return " is no longer denied "
	}
	return " may no longer "
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
