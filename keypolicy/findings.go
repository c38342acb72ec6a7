package keypolicy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/finding"
)

// Findings judges the policy. The worst come first, then in the order of the
// statements.
func (p *Policy) Findings(c Context) []finding.Finding {
	a := p.analyse(c)
	var found []finding.Finding
	var held holdings
	for i := range a.allows {
		found = append(found, a.judge(&a.allows[i], &held)...)
	}
	found = append(found, a.judgeHoldings(held)...)
	found = append(found, a.idle...)
	switch {
	case !a.administered(false):
		found = append(found, newFinding(finding.Lockout, finding.Critical, "", "", 0,
			"nobody in account "+c.Account+" may change this policy (kms:PutKeyPolicy), and only AWS Support can undo that"))
	case !a.administered(true):
		found = append(found, newFinding(finding.NoRootDelegation, finding.Medium, "", c.Account, 0,
			"the policy does not let IAM policies of account "+c.Account+" give the administration of the key, so it cannot be managed once the principals named here are gone"))
	}
	if c.BypassLockoutSafetyCheck {
		found = append(found, newFinding(finding.LockoutCheckBypassed, finding.Medium, "", "", 0,
			"the policy was set with bypassPolicyLockoutSafetyCheck, so KMS did not check that its author can still change it"))
	}
	return slices.Clip(finding.WorstFirst(found)) // callers append to it
}

// Administered reports whether the key's account can still change the policy
// (kms:PutKeyPolicy) once it is this one. Setting a policy for which it is false
// locks the account out; it is what the finding Lockout says.
func (p *Policy) Administered(c Context) bool { return p.analyse(c).administered(false) }

// judge judges one Allow by itself, and records what principals of the account
// and of trusted ones hold through it.
func (a *analysis) judge(st *statement, held *holdings) []finding.Finding {
	var found []finding.Finding
	letsIn := false
	if st.NotPrincipal {
		found, letsIn = a.judgeEveryone(st, finding.AllowNotPrincipal, "everyone but "+joinPrincipals(st.Principals), held)
	} else {
		for _, who := range st.Principals {
			var more []finding.Finding
			var lets bool
			if who.isAnybody() {
				more, lets = a.judgeEveryone(st, finding.PublicPrincipal, "everyone, in any AWS account,", held)
			} else {
				more, lets = a.judgeNamed(st, who, held)
			}
			found = append(found, more...)
			letsIn = letsIn || lets
		}
	}
	if st.NotAction && letsIn {
		severity := finding.Medium
		if !st.NotPrincipal && len(st.Principals) == 1 && st.Principals[0].ID == a.Account {
			severity = finding.Low
		}
		found = append(found, newFinding(finding.AllowNotAction, severity, st.Label, "", 0,
			"the statement allows to "+describe(st)+", and so whatever KMS adds one day"))
	}
	return found
}

// judgeEveryone judges an Allow for all principals, or for all but a few, and
// reports whether it lets anybody in.
func (a *analysis) judgeEveryone(st *statement, id finding.ID, who string, held *holdings) (found []finding.Finding, letsIn bool) {
	stranger := subject{who: everyone, anybody: true}
	free, narrow := a.reach(st, &stranger)
	if free|narrow != 0 {
		found = public(st, id, who, free, narrow)
	}
	letsIn = free|narrow != 0
	seen := reach{free, narrow}
	members := seen // with those of trusted organizations, where one's own accounts are
	for _, org := range a.TrustedOrgs {
		s := subject{who: Principal{"AWS", org}, org: org, anybody: true}
		if beyond := a.beyond(st, &s, seen); beyond != (reach{}) {
			found = append(found, a.judgeHeld(st, s, "everyone in organization "+org, beyond.free, beyond.narrow, held)...)
			letsIn = true
			members = reach{members.free | beyond.free, members.narrow | beyond.narrow}
		}
	}
	strange := 0
	for _, account := range a.accounts(st) {
		s := subject{who: Principal{"AWS", account}, account: account, anybody: true}
		if strange > mostAccounts && !a.trusts(account) || st.NotPrincipal && slices.Contains(st.Principals, s.who) {
			continue
		}
		others := seen
		if a.trusts(account) {
			others = members
		}
		switch beyond := a.beyond(st, &s, others); {
		case beyond == reach{}:
			continue
		case !a.trusts(account):
			strange++
			found = append(found, oneOfMany(strange, foreignAccount(st, s.who, account, beyond.free, beyond.narrow)))
		default:
			found = append(found, a.judgeHeld(st, s, "everyone in account "+account, beyond.free, beyond.narrow, held)...)
		}
		letsIn = true
	}
	for _, service := range a.services(st) {
		if free != 0 || slices.Contains(st.Principals, service) {
			continue // the finding about everyone includes it, or the statement is not for that service
		}
		more, lets := a.judgeService(st, service)
		found = append(found, more...)
		letsIn = letsIn || lets
	}
	return found, letsIn
}

// judgeNamed judges an Allow for one principal, and reports whether it lets it in.
func (a *analysis) judgeNamed(st *statement, who Principal, held *holdings) (found []finding.Finding, letsIn bool) {
	if who.Type == "Service" {
		return a.judgeService(st, who)
	}
	s := subjectOf(who)
	free, narrow := a.reach(st, &s)
	switch {
	case free|narrow == 0:
		return nil, false
	case s.account == "":
		found = []finding.Finding{unknownPrincipal(st, who, free|narrow)}
	case !a.trusts(s.account):
		found = []finding.Finding{foreignAccount(st, who, s.account, free, narrow)}
	case who.ID != a.Account:
		found = a.judgeHeld(st, s, who.String(), free, narrow, held)
	}
	return found, true
}

// judgeHeld judges what a principal of the account or of a trusted one may do,
// other than the account's root.
func (a *analysis) judgeHeld(st *statement, s subject, name string, free, narrow Actions, held *holdings) []finding.Finding {
	all := free | narrow
	full := all.Has(fullControl)
	held.add(s, name, holding{st, all}, full)
	if !full {
		return nil
	}
	severity := finding.Medium
	if !free.Has(fullControl) {
		severity = finding.Low
	}
	if s.account != a.Account {
		severity, name = finding.High, name+", of a trusted account,"
	}
	return []finding.Finding{fullControlOf(st, s.who.ID, name, all, severity)}
}

// judgeService judges an Allow for an AWS service.
func (a *analysis) judgeService(st *statement, who Principal) (found []finding.Finding, letsIn bool) {
	s := subject{who: who, service: true}
	free, narrow := a.reach(st, &s)
	seen, all := reach{free, narrow}, free|narrow
	for _, org := range a.TrustedOrgs {
		s.org = org
		beyond := a.beyond(st, &s, seen)
		all |= beyond.free | beyond.narrow
	}
	var foreign []finding.Finding
	for _, org := range a.sources(st) {
		s.org = org
		beyond := a.beyond(st, &s, seen)
		all |= beyond.free | beyond.narrow
		if as := beyond.free &^ mild; as != 0 && len(foreign) <= mostAccounts {
			f := newFinding(finding.ServiceWithoutSource, serviceSeverity(as), st.Label, who.ID, as,
				fmt.Sprintf("the service %s may %s on behalf of every account in organization %s, which is not trusted", who.ID, describe(st), org))
			f.Bound = true
			foreign = append(foreign, f)
		}
	}
	s.org = ""
	for _, account := range a.accounts(st) {
		if len(foreign) > mostAccounts && !a.trusts(account) {
			continue
		}
		s.account = account
		beyond := a.beyond(st, &s, seen)
		all |= beyond.free | beyond.narrow
		if beyond != (reach{}) && !a.trusts(account) {
			foreign = append(foreign, oneOfMany(len(foreign)+1, foreignAccount(st, who, account, beyond.free, beyond.narrow)))
		}
	}
	switch {
	case all == 0:
		return nil, false
	case all.Has(fullControl):
		return []finding.Finding{fullControlOf(st, who.ID, "the service "+who.ID, all, finding.High)}, true
	case free&^mild != 0:
		return []finding.Finding{newFinding(finding.ServiceWithoutSource, serviceSeverity(free), st.Label, who.ID, free,
			fmt.Sprintf("the service %s may %s on behalf of any AWS account: no condition on aws:SourceAccount or aws:SourceArn names yours", who.ID, describe(st)))}, true
	}
	return foreign, true
}

// serviceSeverity returns how bad it is that a service has the actions for anybody.
func serviceSeverity(as Actions) finding.Severity {
	if as&takeover != 0 {
		return finding.Medium
	}
	return finding.Low
}

// mostAccounts is how many accounts that a statement's conditions let in get a finding
// each. KMS's 32 KiB can hold thousands, times every statement.
const mostAccounts = 16

// oneOfMany returns the finding about the nth account, or, for the first that is
// too many, one that stands for it and all others.
func oneOfMany(nth int, f finding.Finding) finding.Finding {
	if nth > mostAccounts {
		f.Principal, f.Message = "*", "still more accounts are let in by the conditions, "+f.Message
	}
	return f
}

// newFinding returns a finding. may is what the principal may do, where the finding is
// about that.
func newFinding(id finding.ID, severity finding.Severity, statement, principal string, may Actions, message string) finding.Finding {
	return finding.Finding{ID: id, Severity: severity, Statement: statement, Principal: principal, Access: may.access(), Message: message}
}

// public says that an Allow is for strangers: freely, under conditions, or both where
// what the conditions are about is worse.
func public(st *statement, id finding.ID, who string, free, narrow Actions) (found []finding.Finding) {
	severity, narrowed := severityOf(free, st), severityOf(narrow, st).Lower()
	all, under := free|narrow, ""
	if free == 0 || narrow != 0 && !severity.AtLeast(narrowed) {
		f := newFinding(id, narrowed, st.Label, "*", all, fmt.Sprintf("%s may %s under conditions that bind it to no account", who, describe(st)))
		f.Bound = true
		found = append(found, f)
		if free == 0 {
			return found
		}
		all, under = free, ": "+joinSome(free.Names())+" without a condition that keeps anybody out"
	}
	switch {
	case st.throughServices:
		severity, under = severity.Lower(), " through the services that the condition names"+under
		if id == finding.PublicPrincipal {
			id = finding.PublicThroughService
		}
	case free&reveals != 0:
		severity = finding.Critical
	}
	return append(found, newFinding(id, severity, st.Label, "*", all, fmt.Sprintf("%s may %s%s", who, describe(st), under)))
}

// severityOf returns how bad it is that strangers have the actions.
func severityOf(as Actions, st *statement) finding.Severity {
	switch {
	case as&takeover != 0 && !st.forAWSGrants:
		return finding.Critical
	case as&^mild != 0:
		return finding.High
	}
	return finding.Medium
}

func foreignAccount(st *statement, who Principal, account string, free, narrow Actions) finding.Finding {
	severity := severityOf(free, st)
	if severity == finding.Medium && narrow&^mild != 0 {
		severity = finding.High
	}
	whose := ", of account " + account + ","
	if who.ID == account {
		whose = ""
	}
	return newFinding(finding.ForeignAccount, severity, st.Label, who.ID, free|narrow,
		fmt.Sprintf("%s%s may %s, and the account is not trusted", who, whose, describe(st)))
}

func fullControlOf(st *statement, principal, who string, may Actions, severity finding.Severity) finding.Finding {
	return newFinding(finding.FullControl, severity, st.Label, principal, may,
		fmt.Sprintf("%s may %s: use the key, give it to others and delete it", who, describe(st)))
}

// unknownPrincipal says that a principal has no account.
func unknownPrincipal(st *statement, who Principal, may Actions) finding.Finding {
	if who.Type == "AWS" && (strings.HasPrefix(who.ID, "AIDA") || strings.HasPrefix(who.ID, "AROA")) {
		return newFinding(finding.UnknownPrincipal, finding.Low, st.Label, who.ID, may,
			fmt.Sprintf("%s is a user or role that was deleted; its statement may %s and should go", who.ID, describe(st)))
	}
	return newFinding(finding.UnknownPrincipal, finding.Medium, st.Label, who.ID, may,
		fmt.Sprintf("%s (%s) may %s, and the policy does not say to which account it belongs", who.ID, who.Type, describe(st)))
}

// noEffect says that KMS ignores a statement.
func noEffect(s *Statement) finding.Finding {
	missing := "Resource"
	if len(s.Actions) == 0 {
		missing = "Action"
	}
	return idleFinding(s, "the statement has no "+missing+", so KMS ignores it")
}

// idle returns the findings about what of a statement does nothing.
func (st *statement) idle() (found []finding.Finding) {
	if i := slices.IndexFunc(st.conditions, func(c condition) bool { return c.isDead(st.about) }); i >= 0 {
		found = append(found, idleFinding(st.Statement, "requests for "+describe(st)+" never have the condition key "+st.Conditions[i].Key+", so the statement never holds"))
	}
	if unknown := st.unknown(); unknown != nil {
		severity := finding.Low
		if st.Deny && !st.NotAction {
			severity = finding.Medium
		}
		found = append(found, newFinding(finding.UnknownAction, severity, st.Label, "", 0,
			"no action of KMS that is known is called "+joinSome(unknown)+", so the name has no effect"))
	}
	return found
}

// idleFinding says that a statement does nothing, and what follows.
func idleFinding(s *Statement, why string) finding.Finding {
	if s.Deny {
		return newFinding(finding.NoEffect, finding.Medium, s.Label, "", 0, why+": what it is meant to deny is not denied")
	}
	return newFinding(finding.NoEffect, finding.Low, s.Label, "", 0, why+": what it is meant to allow is not allowed")
}

// describe says what a statement is about, in a few words.
func describe(st *statement) string {
	if st.NotAction {
		return "do everything but " + joinSome(st.Actions)
	}
	return joinSome(st.Actions)
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
