package keypolicy

import (
	"fmt"
	"strings"

	"github.com/cmkeeper/cmkeeper/finding"
)

// holdings are what principals of the account, and of those that it trusts, may
// do by all statements together. The account's root is not among them.
type holdings struct {
	holders []holder
	index   map[holderKey]int
}

type holder struct {
	subject
	name string // in a sentence
	list []holding
	// full: one statement alone gives full control, which is a finding of its own.
	full bool
}

// holding is what one statement lets a holder do.
type holding struct {
	*statement
	may Actions
}

// holderKey distinguishes everyone of an account from its root.
type holderKey struct {
	Principal
	anybody bool
}

func (h *holdings) add(s subject, name string, one holding, full bool) {
	key := holderKey{s.who, s.anybody}
	i, ok := h.index[key]
	if !ok {
		if h.index == nil {
			h.index = map[holderKey]int{}
		}
		i = len(h.holders)
		h.index[key] = i
		h.holders = append(h.holders, holder{subject: s, name: name})
	}
	h.holders[i].list = append(h.holders[i].list, one)
	h.holders[i].full = h.holders[i].full || full
}

// judgeHoldings finds what is wrong with the sum of a principal's statements. One with
// full control has its finding already.
func (a *analysis) judgeHoldings(held holdings) []finding.Finding {
	var found []finding.Finding
	for i := range held.holders {
		h := &held.holders[i]
		if h.full {
			continue
		}
		var all Actions
		for _, one := range h.list {
			all |= one.may
		}
		if h.account != a.Account && all.Has(fullControl) {
			st := h.first(func(one holding) bool { return one.may.Has(putKeyPolicy) })
			found = append(found, fullControlOf(st, h.who.ID, h.name+", of a trusted account,", all, finding.High))
			continue
		}
		if all&use != 0 && all&administration != 0 {
			found = append(found, h.useAndAdministration(all))
		}
		if all.Has(createGrant) && !all.Has(putKeyPolicy) {
			if st, _ := a.bare(h, createGrant); st != nil {
				found = append(found, newFinding(finding.UnconstrainedGrants, finding.Medium, st.Label, h.who.ID, all,
					h.name+" may make grants of anything to anybody: no condition such as kms:GrantIsForAWSResource, kms:GrantOperations or kms:GranteePrincipal binds them"))
			}
		}
		if all&critical != 0 && strings.Contains(h.arn, ":user/") {
			if st, as := a.bare(h, critical); st != nil {
				found = append(found, newFinding(finding.CriticalWithoutMFA, finding.Low, st.Label, h.who.ID, all,
					fmt.Sprintf("%s may %s without MFA, so a stolen access key is enough", h.name, joinSome(as.Names()))))
			}
		}
	}
	return found
}

// useAndAdministration returns the finding about a principal that uses the key and
// administers it.
func (h *holder) useAndAdministration(all Actions) finding.Finding {
	st := h.first(func(one holding) bool {
		// An intended administrator has a statement of its own.
		return one.may.Has(putKeyPolicy) && (one.may&use != 0 || one.may&shutdown == 0)
	})
	if st != nil {
		return newFinding(finding.RewritableByUser, finding.Medium, st.Label, h.who.ID, all,
			h.name+" uses the key and may change this policy, so it can give itself every other right")
	}
	st = h.first(func(one holding) bool { return one.may&administration != 0 })
	user := h.first(func(one holding) bool { return one.may&use != 0 })
	return newFinding(finding.AdministrationAndUse, finding.Low, st.Label, h.who.ID, all,
		fmt.Sprintf("%s administers the key and uses it (%s), so no second pair of eyes is between a mistake and the data", h.name, user.Label))
}

// first returns the first statement of the holder for which it is so.
func (h *holder) first(is func(holding) bool) *statement {
	for _, one := range h.list {
		if is(one) {
			return one.statement
		}
	}
	return nil
}

// bare returns which of the actions the holder may do by a bare call, and the
// first statement that lets it.
func (a *analysis) bare(h *holder, of Actions) (first *statement, as Actions) {
	s := h.subject
	s.bare, s.insider = true, true
	for _, one := range h.list {
		free, _ := a.reach(one.statement, &s)
		if as |= free & of; first == nil && as != 0 {
			first = one.statement
		}
	}
	return first, as
}
