package access

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cmkeeper/cmkeeper/keypolicy"
)

const contextKey = "kms:encryptioncontext:"

// look returns the condition keys of a caller's requests for any of the actions, which must
// have the same carriers for the keys that are asked for.
func (q *question) look(s subject, as keypolicy.Actions) look {
	return func(key string) ([]string, bool) {
		if keypolicy.Carriers(key)&as == 0 {
			return nil, true
		}
		if key == resourceKey {
			return []string{q.key.ARN}, true
		}
		if values, known := s.fact(key, q.review); known {
			return values, true
		}
		if values, known := q.facts[key]; known {
			return values, true
		}
		if name, is := strings.CutPrefix(key, "aws:resourcetag/"); is && q.key.Tags != nil {
			return tagValue(q.key.Tags, name)
		}
		values, known := q.request[key]
		return values, known || q.complete
	}
}

// tagValue returns the value of a tag, whose name has no case in a condition key.
func tagValue(tags map[string]string, name string) (values []string, known bool) {
	for tag, value := range tags {
		if strings.EqualFold(tag, name) {
			values = append(values, value)
		}
	}
	return values, len(values) < 2
}

// fact returns a condition key that the caller decides.
func (s subject) fact(key string, r *Review) (values []string, known bool) {
	service := s.kind == "service"
	switch key {
	case "aws:principalarn":
		if s.kind == "user" || s.kind == "role" || s.kind == "root" {
			return []string{s.arn}, true
		}
	case "aws:principalaccount", "kms:calleraccount":
		if s.account != "" {
			return []string{s.account}, true
		}
	case "aws:principaltype":
		if kind := map[string]string{"user": "User", "role": "AssumedRole", "root": "Account"}[s.kind]; kind != "" {
			return []string{kind}, true
		}
	case "aws:principalisawsservice":
		if s.kind != "everyone" && s.kind != "unknown" {
			return []string{strconv.FormatBool(service)}, true
		}
	case "aws:principalservicename":
		if service {
			return []string{s.arn}, true
		}
		return nil, s.kind != "everyone"
	case "aws:principalservicenameslist", "aws:sourcearn", "aws:sourceaccount", "aws:sourceorgid", "aws:sourceorgpaths", "aws:sourceowner":
		return nil, !service && s.kind != "everyone"
	case "aws:username":
		switch {
		case s.kind == "user" && s.principal != nil:
			return []string{s.principal.Name}, true
		case s.kind == "role", s.kind == "root":
			return nil, true
		}
	case "aws:userid":
		switch {
		case s.kind == "root":
			return []string{s.account}, true
		case s.kind == "user" && s.principal != nil:
			return []string{s.principal.ID}, true
		}
	}
	if name, is := strings.CutPrefix(key, "aws:principaltag/"); is && s.principal != nil && !s.anyTags && (s.kind == "user" || !r.takesTags(s.principal)) {
		return tagValue(s.principal.Tags, name)
	}
	return nil, false
}

// takesTags reports whether those who assume a role may give the session tags, which go before the
// role's own.
func (r *Review) takesTags(p *Principal) bool {
	t := r.trustOf(p)
	return t.err != nil || slices.ContainsFunc(t.statements, func(st keypolicy.Statement) bool { return !st.Deny && covers(st, "sts:TagSession") })
}

// atom is a test of which nobody knows whether it holds, as it is for a caller.
type atom struct {
	id int
	test
}

// clause is a conjunction of atoms; one without any holds.
type clause []*atom

// formula says when a request is allowed.
type formula struct {
	// direct are those of the key policy for the caller itself that its boundary does not
	// limit; limited are the others.
	direct, limited, account, identity, boundary, grants, denies []clause
	bounded                                                      bool
}

// asked is a rule with what remains to be known of it.
type asked struct {
	rule
	clause
}

// ask returns what remains of rules for a caller and actions; rules that do not apply are
// left out.
func (q *question) ask(rules []rule, as keypolicy.Actions, values look) (left []asked) {
rules:
	for _, r := range rules {
		if r.about&as == 0 {
			continue
		}
		var c clause
		for i := range r.tests {
			switch t, truth := q.holds(&r.tests[i], as, values); truth {
			case never:
				continue rules
			case unknown:
				c = append(c, q.review.atom(t))
			case always:
			}
		}
		left = append(left, asked{r, c})
	}
	return left
}

// holds asks a test. Where its truth is not known it returns the test as it is for the
// caller.
func (q *question) holds(t *test, as keypolicy.Actions, values look) (test, truth) {
	if t.context != nil {
		return *t, q.inContext(t, as)
	}
	return q.review.holds(t, values)
}

// holds asks a test of condition keys.
func (r *Review) holds(t *test, values look) (test, truth) {
	resolved, known := t.resolve(values)
	if !known {
		return resolved, unknown
	}
	have, known := values(t.key)
	switch {
	case known:
		return resolved, resolved.holds(have)
	case t.time && (t.key == "aws:currenttime" || t.key == "aws:epochtime"):
		return resolved, resolved.holdsFrom(r.context.Now)
	}
	return resolved, unknown
}

// constrained are the operations that a grant's constraints are about: those with an
// encryption context (KMS API Reference, GrantConstraints).
var constrained = keypolicy.ActionsOf("kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*")

// inContext asks whether the encryption context is what a grant demands.
func (q *question) inContext(t *test, as keypolicy.Actions) truth {
	switch {
	case constrained&as == 0:
		return always
	case !q.complete:
		return unknown
	}
	has := 0
	for key, values := range q.request {
		name, is := strings.CutPrefix(key, contextKey)
		if !is {
			continue
		}
		wanted := false
		for want, value := range t.context { // names have no case here (KMS API Reference, GrantConstraints)
			if strings.EqualFold(name, want) {
				wanted = true
				if !slices.Equal(values, []string{value}) {
					return never
				}
				has++
			}
		}
		if !wanted && t.exactly {
			return never
		}
	}
	return certain(has == len(t.context))
}

// atom returns the atom for a test.
func (r *Review) atom(t test) *atom {
	id := fmt.Sprint(t.text, "\x00", t.key, "\x00", t.values)
	a := r.atoms[id]
	if a == nil {
		a = &atom{id: len(r.atoms), test: t}
		r.atoms[id] = a
	}
	return a
}

// decision is what may be done, and by what.
type decision struct {
	verdict                         Verdict
	ways, account, boundary, unless []asked
}

// decide decides on actions that all rules and keys treat alike.
func (q *question) decide(s subject, rs ruleset, as keypolicy.Actions) decision {
	values := q.look(s, as)
	direct, account, identity := q.ask(rs.direct, as, values), q.ask(rs.account, as, values), q.ask(rs.identity, as, values)
	boundary, grants, denies := q.ask(rs.boundary, as, values), q.ask(rs.grants, as, values), q.ask(rs.denies, as, values)
	f := formula{account: clauses(account), identity: clauses(identity), boundary: clauses(boundary), grants: clauses(grants), denies: clauses(denies), bounded: rs.bounded}
	for _, d := range direct {
		if d.unbounded {
			f.direct = append(f.direct, d.clause)
		} else {
			f.limited = append(f.limited, d.clause)
		}
	}
	d := decision{verdict: q.review.verdict(&f)}
	if d.verdict == No {
		return d
	}
	d.unless = denies
	d.ways = direct
	if rs.bounded && len(boundary) == 0 {
		d.ways = slices.DeleteFunc(d.ways, func(a asked) bool { return !a.unbounded })
		identity = nil
	}
	if len(account) > 0 && len(identity) > 0 {
		d.ways = append(d.ways, identity...)
		d.account = account
	}
	if rs.bounded && slices.ContainsFunc(d.ways, func(a asked) bool { return !a.unbounded }) {
		d.boundary = boundary
	}
	d.ways = append(d.ways, grants...)
	return d
}

func clauses(rules []asked) (all []clause) {
	for _, r := range rules {
		all = append(all, r.clause)
	}
	return all
}

// allows reports whether a request is allowed, where holds says whether atoms hold.
func (f *formula) allows(holds func(*atom) bool) bool {
	any := func(list []clause) bool {
		return slices.ContainsFunc(list, func(c clause) bool {
			return !slices.ContainsFunc(c, func(a *atom) bool { return !holds(a) })
		})
	}
	switch {
	case any(f.denies):
		return false
	case any(f.direct), any(f.grants):
		return true
	case f.bounded && !any(f.boundary):
		return false
	}
	return any(f.limited) || any(f.account) && any(f.identity)
}

// maxTries bounds how many requests are tried out for a verdict. Beyond, it is conditional.
const maxTries = 1 << 12

// verdict tries the formula out. It is exact where conditions compare with the texts in the
// policies; others are taken for independent of each other.
func (r *Review) verdict(f *formula) Verdict {
	var atoms []*atom
	var name strings.Builder
	for _, list := range [][]clause{f.direct, f.limited, f.account, f.identity, f.boundary, f.grants, f.denies} {
		name.WriteByte('|')
		for _, c := range list {
			name.WriteByte(';')
			for _, a := range c {
				fmt.Fprintf(&name, "%d,", a.id)
				if !slices.Contains(atoms, a) {
					atoms = append(atoms, a)
				}
			}
		}
	}
	if len(atoms) == 0 {
		if f.allows(nil) {
			return Yes
		}
		return No
	}
	fmt.Fprint(&name, f.bounded)
	v, ok := r.verdicts[name.String()]
	if !ok {
		v = f.try(atoms)
		r.verdicts[name.String()] = v
	}
	return v
}

// try allows and denies, and tells by that.
func (f *formula) try(atoms []*atom) Verdict {
	choices, tries := choicesOf(atoms), 1
	for _, c := range choices {
		if tries *= len(c); tries > maxTries {
			return Conditional
		}
	}
	allowed, denied := false, false
	for n := range tries {
		held := map[*atom]bool{}
		for _, c := range choices {
			maps.Copy(held, c[n%len(c)])
			n /= len(c)
		}
		if f.allows(func(a *atom) bool { return held[a] }) {
			allowed = true
		} else {
			denied = true
		}
		if allowed && denied {
			return Conditional
		}
	}
	if allowed {
		return Yes
	}
	return No
}

// choicesOf returns for each condition key what can be of its atoms: for each value that a
// request can have, which of them hold.
func choicesOf(atoms []*atom) (all [][]map[*atom]bool) {
	byKey := map[string][]*atom{}
	for _, a := range atoms {
		byKey[a.key] = append(byKey[a.key], a)
	}
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		group := byKey[key]
		if slices.ContainsFunc(group, func(a *atom) bool { return !a.enumerable() }) {
			for _, a := range group {
				all = append(all, []map[*atom]bool{{a: true}, {a: false}})
			}
			continue
		}
		values := [][]string{nil, {"\x00"}} // without the key, and with a value that none names
		for _, a := range group {
			for _, v := range a.values {
				if !a.null {
					values = append(values, []string{v})
				}
			}
		}
		var choices []map[*atom]bool
		for _, have := range values {
			choice := map[*atom]bool{}
			for _, a := range group {
				choice[a] = a.holds(have) == always
			}
			if !slices.ContainsFunc(choices, func(c map[*atom]bool) bool { return maps.Equal(c, choice) }) {
				choices = append(choices, choice)
			}
		}
		all = append(all, choices)
	}
	return all
}

// enumerable reports whether all that can be of the atom shows in requests with the values
// that it names, another one, or none.
func (a *atom) enumerable() bool {
	return a.exact && !a.forAll && !a.forAny && !(a.variables && slices.ContainsFunc(a.values, func(v string) bool { return strings.Contains(v, "${") }))
}

// rights are all that a caller may do.
func (q *question) rights(s subject) (rights []Right) {
	rs := q.rules(s)
	index := map[string]int{}
	for _, as := range classes(rs) {
		d := q.decide(s, rs, as)
		if d.verdict == No {
			continue
		}
		right := Right{Actions: as.Names(), Verdict: d.verdict, Ways: waysOf(d.ways), Account: waysOf(d.account), Boundary: waysOf(d.boundary), Unless: waysOf(d.unless)}
		name := fmt.Sprint(right.Verdict, right.Ways, right.Account, right.Boundary, right.Unless)
		if i, ok := index[name]; ok {
			rights[i].Actions = append(rights[i].Actions, right.Actions...)
			slices.Sort(rights[i].Actions)
			continue
		}
		index[name] = len(rights)
		rights = append(rights, right)
	}
	slices.SortFunc(rights, func(a, b Right) int { return strings.Compare(a.Actions[0], b.Actions[0]) })
	return rights
}

// classes divides the actions that somebody allows so that all rules and their conditions
// treat those of a class alike.
func classes(rs ruleset) []keypolicy.Actions {
	var allowed keypolicy.Actions
	for _, list := range [][]rule{rs.direct, rs.identity, rs.grants} {
		for _, r := range list {
			allowed |= r.about
		}
	}
	if allowed == 0 {
		return nil
	}
	all := []keypolicy.Actions{allowed}
	split := func(by keypolicy.Actions) {
		for i := range all {
			if in := all[i] & by; in != 0 && in != all[i] {
				all[i] &^= in
				all = append(all, in)
			}
		}
	}
	split(constrained)
	for _, list := range [][]rule{rs.direct, rs.account, rs.identity, rs.boundary, rs.grants, rs.denies} {
		for _, r := range list {
			split(r.about)
			for _, t := range r.tests {
				for _, key := range t.keys() {
					split(keypolicy.Carriers(key))
				}
			}
		}
	}
	return all
}

func waysOf(list []asked) (ways []Way) {
	for _, a := range list {
		way := a.way
		for _, atom := range a.clause {
			way.Conditions = append(way.Conditions, atom.text)
		}
		ways = append(ways, way)
	}
	return ways
}
