package keypolicy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
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
	case !p.administered(c, false):
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
	if s.NotPrincipal {
		return p.judgeEveryone(s, r, c, AllowNotPrincipal, "everyone but "+joinPrincipals(s.Principals))
	}
	var found []Finding
	for _, who := range s.Principals {
		switch {
		case who.ID == "*" || strings.ContainsAny(who.account(), "*?"):
			found = append(found, p.judgeEveryone(s, r, c, PublicPrincipal, "everyone, in any AWS account,")...)
		case who.Type == "Service":
			found = append(found, p.judgeService(s, r, c, who)...)
		case who.account() == "":
			found = append(found, p.judgeUnknown(s, c, who)...)
		default:
			found = append(found, p.judgeAccount(s, r, c, who)...)
		}
	}
	return found
}

// judgeEveryone judges an Allow for all principals, or for all but a few.
func (p *Policy) judgeEveryone(s Statement, r reach, c Context, id, who string) []Finding {
	var open []string
	bound := map[string][]string{} // actions by account
	for _, action := range s.actions() {
		if p.bars(action, everyone, c) {
			continue
		}
		bounds := slices.Concat(r.bounds, p.denyBounds(action, c))
		if len(bounds) == 0 {
			open = append(open, action)
			continue
		}
		for _, account := range c.tightest(bounds) {
			bound[account] = append(bound[account], action)
		}
	}
	var found []Finding
	if len(open) > 0 {
		severity := High
		if includesTakeover(open) {
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
func (p *Policy) judgeAccount(s Statement, r reach, c Context, who Principal) []Finding {
	account := who.account()
	actions := p.open(s, who, c)
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
func (p *Policy) judgeService(s Statement, r reach, c Context, who Principal) []Finding {
	actions := p.open(s, who, c)
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
func (p *Policy) judgeUnknown(s Statement, c Context, who Principal) []Finding {
	if len(p.open(s, who, c)) == 0 {
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

// open returns the actions that the Allow really opens to a principal.
func (p *Policy) open(s Statement, who Principal, c Context) []string {
	return slices.DeleteFunc(s.actions(), func(action string) bool { return p.bars(action, who, c) })
}

// administered reports whether somebody in the key's account may change the
// policy; with root, whether the account's root may, and so IAM policies can
// give that right.
func (p *Policy) administered(c Context, root bool) bool {
	const change = "kms:PutKeyPolicy"
	for _, s := range p.Statements {
		if s.Deny || s.NotPrincipal || !s.isFor(c.KeyARN) || !s.covers(change) || !s.admits(c.Account) {
			continue
		}
		for _, who := range s.Principals {
			inAccount := who == everyone || who.account() == c.Account
			isRoot := who == everyone || who.ID == c.Account
			if inAccount && (isRoot || !root) && !p.bars(change, Principal{"AWS", c.Account}, c) && !p.bars(change, who, c) {
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

// bars reports whether a Deny plainly keeps the principal from the action.
func (p *Policy) bars(action string, who Principal, c Context) bool {
	for _, d := range p.Statements {
		if !d.denies(action, who, c) {
			continue
		}
		if len(d.Conditions) == 0 {
			return true
		}
		if account := who.account(); account != "" {
			if only, ok := denyBound(d.Conditions); ok && !slices.Contains(only, account) {
				return true
			}
		}
	}
	return false
}

// denyBounds returns the bounds that Denies for everyone set to an action.
func (p *Policy) denyBounds(action string, c Context) [][]string {
	var bounds [][]string
	for _, d := range p.Statements {
		if d.denies(action, everyone, c) {
			if only, ok := denyBound(d.Conditions); ok {
				bounds = append(bounds, only)
			}
		}
	}
	return bounds
}

// denies reports whether the statement is a Deny of the action to the principal,
// its conditions aside. While the key is unknown only "*" surely is the key.
func (s Statement) denies(action string, who Principal, c Context) bool {
	surely := c.KeyARN != "" || len(s.Resources) == 0 || !s.NotResource && slices.Contains(s.Resources, "*")
	return s.Deny && surely && s.isFor(c.KeyARN) && s.covers(action) && s.names(who)
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
