package keypolicy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Findings judges the policy. The worst come first, then in the order of the
// statements.
func (p *Policy) Findings(c Context) []Finding {
	var found []Finding
	for _, s := range p.Statements {
		if !s.Deny && s.isFor(c.KeyARN) {
			found = append(found, p.judge(s, c)...)
		}
	}
	switch {
	case !p.Administered(c):
		found = append(found, Finding{Lockout, Critical, "", "",
			"nobody in account " + c.Account + " may change this policy (kms:PutKeyPolicy), and only AWS Support can undo that"})
	case !p.administered(c, true):
		found = append(found, Finding{NoRootDelegation, Medium, "", c.Account,
			"the policy does not let the root of account " + c.Account + " administer the key, so it cannot be managed once the principals named here are gone"})
	}
	if c.BypassLockoutSafetyCheck {
		found = append(found, Finding{LockoutCheckBypassed, Medium, "", "",
			"the policy was set with bypassPolicyLockoutSafetyCheck, so KMS did not check that its author can still change it"})
	}
	slices.SortStableFunc(found, func(a, b Finding) int { return cmp.Compare(b.Severity.rank(), a.Severity.rank()) })
	return found
}

// judge judges one Allow.
func (p *Policy) judge(s Statement, c Context) []Finding {
	r := conditionReach(s.Conditions)
	scopes := p.scopes(s.actions(), c)
	if s.NotPrincipal {
		return judgeEveryone(s, scopes, r, c, AllowNotPrincipal, "everyone but "+joinPrincipals(s.Principals))
	}
	var found []Finding
	for _, who := range s.Principals {
		switch {
		case who.ID == "*" || strings.ContainsAny(who.account(), "*?"):
			found = append(found, judgeEveryone(s, scopes, r, c, PublicPrincipal, "everyone, in any AWS account,")...)
		case who.Type == "Service":
			found = append(found, judgeService(s, open(scopes, who), r, c, who)...)
		case who.account() == "":
			found = append(found, judgeUnknown(s, open(scopes, who), who)...)
		default:
			found = append(found, judgeAccount(s, open(scopes, who), r, c, who)...)
		}
	}
	return found
}

// judgeEveryone judges an Allow for all principals, or for all but a few.
func judgeEveryone(s Statement, scopes []scope, r reach, c Context, id, who string) []Finding {
	var public []string
	bound := map[string][]string{} // actions by account
	for _, sc := range scopes {
		if sc.bars(everyone) {
			continue
		}
		bounds := slices.Concat(r.bounds, sc.bounds())
		if len(bounds) == 0 {
			public = append(public, sc.actions...)
			continue
		}
		for _, account := range c.tightest(bounds) {
			bound[account] = append(bound[account], sc.actions...)
		}
	}
	var found []Finding
	if len(public) > 0 {
		severity := High
		if includesTakeover(public) {
			severity = Critical
		}
		under := ""
		if r.narrowed {
			severity = severity.lower()
			under = " under conditions that bind it to no account"
		}
		found = append(found, Finding{id, severity, s.Label, "*", fmt.Sprintf("%s may %s%s", who, describe(s), under)})
	}
	for _, account := range slices.Sorted(maps.Keys(bound)) {
		actions := bound[account]
		switch {
		case !c.trusts(account):
			found = append(found, foreignAccount(s, r, Principal{"AWS", account}, account, actions))
		case !isFullControl(actions):
		case account == c.Account:
			found = append(found, fullControl(s, account, "everyone in account "+account, Medium))
		default:
			found = append(found, fullControl(s, account, "everyone in the trusted account "+account, High))
		}
	}
	return found
}

// tightest returns the bound that says most: one of trusted accounts only, else
// the first.
func (c Context) tightest(bounds [][]string) []string {
	for _, accounts := range bounds {
		if !slices.ContainsFunc(accounts, func(a string) bool { return !c.trusts(a) }) {
			return accounts
		}
	}
	return bounds[0]
}

// judgeAccount judges an Allow for a principal of a known account.
func judgeAccount(s Statement, actions []string, r reach, c Context, who Principal) []Finding {
	account := who.account()
	if len(actions) == 0 || !s.admits(account) {
		return nil
	}
	switch {
	case !c.trusts(account):
		return []Finding{foreignAccount(s, r, who, account, actions)}
	case !isFullControl(actions) || who.ID == c.Account:
		return nil
	case account != c.Account:
		return []Finding{fullControl(s, who.ID, who.String()+", of a trusted account,", High)}
	}
	severity := Medium
	if r.narrowed {
		severity = Low
	}
	return []Finding{fullControl(s, who.ID, who.String(), severity)}
}

// judgeService judges an Allow for an AWS service.
func judgeService(s Statement, actions []string, r reach, c Context, who Principal) []Finding {
	if len(actions) == 0 {
		return nil
	}
	if isFullControl(actions) {
		return []Finding{fullControl(s, who.ID, "the service "+who.ID, High)}
	}
	if !r.source {
		severity := Low
		if includesTakeover(actions) {
			severity = Medium
		}
		return []Finding{{ServiceWithoutSource, severity, s.Label, who.ID,
			fmt.Sprintf("the service %s may %s on behalf of any AWS account: no condition on aws:SourceAccount or aws:SourceArn names yours", who.ID, describe(s))}}
	}
	var found []Finding
	for _, bound := range r.bounds {
		for _, account := range bound {
			if !c.trusts(account) {
				found = append(found, foreignAccount(s, r, who, account, actions))
			}
		}
	}
	return found
}

// judgeUnknown judges an Allow for a principal that has no account.
func judgeUnknown(s Statement, actions []string, who Principal) []Finding {
	if len(actions) == 0 {
		return nil
	}
	if who.Type == "AWS" && (strings.HasPrefix(who.ID, "AIDA") || strings.HasPrefix(who.ID, "AROA")) {
		return []Finding{{UnknownPrincipal, Low, s.Label, who.ID,
			fmt.Sprintf("%s is a user or role that was deleted; its statement may %s and should go", who.ID, describe(s))}}
	}
	return []Finding{{UnknownPrincipal, Medium, s.Label, who.ID,
		fmt.Sprintf("%s (%s) may %s, and the policy does not tell to which account it belongs", who.ID, who.Type, describe(s))}}
}

func foreignAccount(s Statement, r reach, who Principal, account string, actions []string) Finding {
	severity := High
	switch {
	case includesTakeover(actions) && !r.narrowed && !r.awsResource:
		severity = Critical
	case !slices.ContainsFunc(actions, func(a string) bool { return !isRead(a) }):
		severity = Medium
	}
	whose := ", of account " + account + ","
	if who.ID == account {
		whose = ""
	}
	return Finding{ForeignAccount, severity, s.Label, who.ID,
		fmt.Sprintf("%s%s may %s, and the account is not trusted", who, whose, describe(s))}
}

func fullControl(s Statement, principal, who string, severity Severity) Finding {
	return Finding{FullControl, severity, s.Label, principal,
		fmt.Sprintf("%s may %s: use the key, give it to others and delete it", who, describe(s))}
}

// Administered reports whether the key's account can still change the policy
// (kms:PutKeyPolicy) once it is this one. Setting a policy for which it is false
// locks the account out; it is what the finding Lockout says.
func (p *Policy) Administered(c Context) bool { return p.administered(c, false) }

// administered reports whether somebody in the key's account may change the
// policy; with root, whether the account's root may, and so IAM policies can
// give that right.
func (p *Policy) administered(c Context, root bool) bool {
	const change = "kms:PutKeyPolicy"
	scopes := p.scopes([]string{change}, c)
	if len(open(scopes, Principal{"AWS", c.Account})) == 0 {
		return false
	}
	for _, s := range p.Statements {
		if s.Deny || s.NotPrincipal || !s.isFor(c.KeyARN) || !s.covers(change) || !s.admits(c.Account) {
			continue
		}
		for _, who := range s.Principals {
			inAccount := who == everyone || who.account() == c.Account
			isRoot := who == everyone || who.ID == c.Account
			if inAccount && (isRoot || !root) && len(open(scopes, who)) > 0 {
				return true
			}
		}
	}
	return false
}

// admits reports whether the conditions let callers of the account through.
func (s Statement) admits(account string) bool {
	for _, c := range s.Conditions {
		if accounts, ok := c.accounts(); ok && c.demands() && slices.Contains(callerKeys, strings.ToLower(c.Key)) && !slices.Contains(accounts, account) {
			return false
		}
	}
	return true
}

// scope is some actions with the Denies about them. Actions with the same Denies
// share one, so that a policy of thousands of principals and actions, which KMS
// takes, is judged in no time.
type scope struct {
	actions []string
	denies  []Statement
}

// scopes sorts actions by the Denies about them. While the key is unknown, only
// a Deny on "*" surely is about it.
func (p *Policy) scopes(actions []string, c Context) []scope {
	var list []scope
	index := map[string]int{}
	for _, action := range actions {
		var denies []Statement
		var key []byte
		for i, d := range p.Statements {
			surely := c.KeyARN != "" || len(d.Resources) == 0 || !d.NotResource && slices.Contains(d.Resources, "*")
			if d.Deny && surely && d.isFor(c.KeyARN) && d.covers(action) {
				denies = append(denies, d)
				key = strconv.AppendInt(append(key, ' '), int64(i), 10)
			}
		}
		i, ok := index[string(key)]
		if !ok {
			i = len(list)
			index[string(key)] = i
			list = append(list, scope{denies: denies})
		}
		list[i].actions = append(list[i].actions, action)
	}
	return list
}

// open returns the actions that no Deny plainly keeps from the principal.
func open(scopes []scope, who Principal) []string {
	var actions []string
	for _, sc := range scopes {
		if !sc.bars(who) {
			actions = append(actions, sc.actions...)
		}
	}
	return actions
}

// bars reports whether a Deny plainly keeps the principal from the actions.
func (sc scope) bars(who Principal) bool {
	return slices.ContainsFunc(sc.denies, func(d Statement) bool {
		if !d.names(who) {
			return false
		}
		if len(d.Conditions) == 0 {
			return true
		}
		only, ok := denyBound(d.Conditions)
		return ok && who.account() != "" && !slices.Contains(only, who.account())
	})
}

// bounds returns the bounds that Denies for everyone set to the actions.
func (sc scope) bounds() [][]string {
	var bounds [][]string
	for _, d := range sc.denies {
		if only, ok := denyBound(d.Conditions); ok && d.names(everyone) {
			bounds = append(bounds, only)
		}
	}
	return bounds
}

// names reports whether a Deny is about the principal whatever it turns out to be.
func (s Statement) names(who Principal) bool {
	if s.NotPrincipal {
		return who != everyone && !slices.Contains(s.Principals, who) && !slices.Contains(s.Principals, Principal{"AWS", who.account()})
	}
	return slices.ContainsFunc(s.Principals, func(p Principal) bool {
		return p == who || p == everyone || who.Type == "AWS" && isAccountID(p.ID) && p.ID == who.account()
	})
}

// isFullControl reports whether the actions both use the key and give it away.
func isFullControl(actions []string) bool {
	for _, a := range [...]string{"kms:PutKeyPolicy", "kms:CreateGrant", "kms:ScheduleKeyDeletion", "kms:Decrypt"} {
		if !slices.Contains(actions, a) {
			return false
		}
	}
	return true
}

func includesTakeover(actions []string) bool {
	return slices.ContainsFunc(actions, func(a string) bool { return slices.Contains(takeover, a) })
}

func isRead(action string) bool {
	return hasAnyPrefix(action, "kms:Describe", "kms:Get", "kms:List")
}

// describe says what a statement is about, in a few words.
func describe(s Statement) string {
	if s.NotAction {
		return "do everything but " + joinSome(s.Actions)
	}
	return joinSome(s.Actions)
}

func joinPrincipals(list []Principal) string {
	ids := make([]string, len(list))
	for i, p := range list {
		ids[i] = p.String()
	}
	return joinSome(ids)
}

// joinSome joins words and counts those beyond the fourth.
func joinSome(words []string) string {
	const most = 4
	if len(words) > most+1 {
		return fmt.Sprintf("%s and %d more", strings.Join(words[:most], ", "), len(words)-most)
	}
	return strings.Join(words, ", ")
}
