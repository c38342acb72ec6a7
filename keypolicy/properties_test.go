package keypolicy

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// randomPolicy makes a policy of parts that have to do with each other.
func randomPolicy(r *rand.Rand) *Policy {
	pick := func(most int, from ...string) []string {
		r.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
		return slices.Clone(from[:1+r.IntN(most)])
	}
	p := &Policy{}
	for range 1 + r.IntN(4) {
		s := Statement{
			Label:     pick(1, "a", "b", "c", "d")[0],
			Deny:      r.IntN(4) == 0,
			Actions:   pick(3, "kms:*", "kms:Decrypt", "kms:Encrypt", "kms:*crypt", "kms:Put*", "kms:PutKeyPolicy", "kms:CreateGrant", "kms:Future", "kms:Fut*", "*", "kms:Get*"),
			NotAction: r.IntN(8) == 0,
			Resources: []string{"*"},
		}
		for _, id := range pick(3, "*", own, foreign, partner, "arn:aws:iam::444455556666:role/x", "arn:aws:iam::222233334444:role/x") {
			s.Principals = append(s.Principals, Principal{"AWS", id})
		}
		slices.SortFunc(s.Principals, comparePrincipals)
		s.NotPrincipal = r.IntN(8) == 0
		for range r.IntN(3) {
			c := Condition{
				Operator: pick(1, "StringEquals", "StringLike", "StringNotEquals", "StringNotLike", "StringEqualsIfExists", "ForAllValues:StringLike", "ForAnyValue:StringEquals", "StringNotEqualsIfExists")[0],
				Key:      pick(1, "kms:CallerAccount", "kms:ViaService", "aws:PrincipalOrgID")[0],
				Values:   pick(3, own, foreign, partner, "4444*", "*"),
			}
			if !slices.ContainsFunc(s.Conditions, func(o Condition) bool { return o.Operator == c.Operator && o.Key == c.Key }) {
				s.Conditions = append(s.Conditions, c)
			}
		}
		p.Statements = append(p.Statements, s)
	}
	return p
}

// rewritten writes a policy differently: statements split or repeated, in another
// order and with other labels, values in another order, actions in another case.
func rewritten(r *rand.Rand, p *Policy) *Policy {
	out := &Policy{}
	for _, s := range p.Statements {
		for _, s := range split(r, s) {
			s.Label += "'"
			for i, a := range s.Actions {
				if r.IntN(2) == 0 {
					s.Actions[i] = strings.ToUpper(a)
				}
			}
			r.Shuffle(len(s.Actions), func(i, j int) { s.Actions[i], s.Actions[j] = s.Actions[j], s.Actions[i] })
			r.Shuffle(len(s.Conditions), func(i, j int) { s.Conditions[i], s.Conditions[j] = s.Conditions[j], s.Conditions[i] })
			out.Statements = append(out.Statements, s)
			if r.IntN(4) == 0 {
				out.Statements = append(out.Statements, s)
			}
		}
	}
	r.Shuffle(len(out.Statements), func(i, j int) {
		out.Statements[i], out.Statements[j] = out.Statements[j], out.Statements[i]
	})
	return out
}

// split splits a statement, or not, by one of its elements.
func split(r *rand.Rand, s Statement) []Statement {
	s.Actions, s.Principals, s.Conditions = slices.Clone(s.Actions), slices.Clone(s.Principals), slices.Clone(s.Conditions)
	for i := range s.Conditions {
		s.Conditions[i].Values = slices.Clone(s.Conditions[i].Values)
	}
	var list []Statement
	switch r.IntN(4) {
	case 0:
		if s.NotAction {
			break
		}
		for _, a := range s.Actions {
			part := s
			part.Actions = []string{a}
			list = append(list, part)
		}
		return list
	case 1:
		if s.NotPrincipal {
			break
		}
		for _, who := range s.Principals {
			part := s
			part.Principals = []Principal{who}
			part.Actions = slices.Clone(s.Actions)
			list = append(list, part)
		}
		return list
	case 2:
		for i, c := range s.Conditions {
			if strings.Contains(c.Operator, "Not") || strings.Contains(c.Operator, "ForAll") {
				continue
			}
			for _, v := range c.Values {
				part := s
				part.Actions = slices.Clone(s.Actions)
				part.Conditions = slices.Clone(s.Conditions)
				part.Conditions[i].Values = []string{v}
				list = append(list, part)
			}
			return list
		}
	}
	return []Statement{s}
}

func TestDiffOfRandomPolicies(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		a, b := randomPolicy(r), randomPolicy(r)
		if got := Diff(a, a); got != nil {
			t.Fatalf("a policy differs from itself: %v\n%+v", got, a)
		}
		other := rewritten(r, a)
		if got := slices.Concat(Diff(a, other), Diff(other, a)); got != nil {
			t.Fatalf("a rewritten policy differs: %v\n%+v\n%+v", got, a, other)
		}
		forth, back := Diff(a, b), Diff(b, a)
		if diff := cmp.Diff(mirrored(forth), sortedChanges(back)); diff != "" {
			t.Fatalf("back is not the mirror of forth:\n%s\n%+v\n%+v", diff, a, b)
		}
	}
}

// mirrored turns changes round.
func mirrored(list []Change) []Change {
	list = slices.Clone(list)
	for i, c := range list {
		was := c.Kind
		c.Kind = map[string]string{Added: Removed, Removed: Added}[was]
		c.Widens = !c.Widens
		words := []string{" may now ", " may no longer ", " is now denied ", " is no longer denied ", "(before: ", "(still: "}
		for j := 0; j < len(words); j += 2 {
			from, to := words[j], words[j+1]
			if was == Removed {
				from, to = to, from
			}
			c.Text = strings.ReplaceAll(c.Text, from, to)
		}
		list[i] = c
	}
	return sortedChanges(list)
}

func sortedChanges(list []Change) []Change {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Change) int {
		return strings.Compare(a.Kind+a.Statement+a.Text, b.Kind+b.Statement+b.Text)
	})
	return list
}
