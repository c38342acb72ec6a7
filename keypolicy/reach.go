package keypolicy

import (
	"cmp"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/finding"
)

// analysis is a policy prepared for being judged.
type analysis struct {
	Context
	allows, denies []statement
	// idle are the findings about statements, or parts of them, that do nothing.
	idle []finding.Finding
}

// statement is a statement that counts, taken apart.
type statement struct {
	*Statement
	about      Actions
	rest       []string // patterns of the actions that are unheard of
	conditions []condition
	// bars are what each Deny takes away of an Allow, by its place among the denies.
	bars []Actions
	// throughServices and forAWSGrants: a condition lets through nothing else.
	throughServices, forAWSGrants bool
}

func (p *Policy) analyse(c Context) *analysis {
	a := &analysis{Context: c}
	for i := range p.Statements {
		s := &p.Statements[i]
		if s.ignored() {
			a.idle = append(a.idle, noEffect(s))
			continue
		}
		if s.Deny && !s.isSurelyFor(c.KeyARN) || !s.isFor(c.KeyARN) || s.isForNobody() {
			continue
		}
		st := statement{Statement: s}
		for _, condition := range s.Conditions {
			st.conditions = append(st.conditions, condition.takeApart(p.variables(), &a.Context))
		}
		st.about, st.rest = s.about()
		a.idle = append(a.idle, st.idle()...)
		for i := range st.conditions {
			st.throughServices = st.throughServices || st.conditions[i].namesServices()
			st.forAWSGrants = st.forAWSGrants || st.conditions[i].isForAWSGrants()
		}
		if s.Deny {
			a.denies = append(a.denies, st)
		} else {
			a.allows = append(a.allows, st)
		}
	}
	if len(a.denies) == 0 {
		return a
	}
	bars := make([]Actions, len(a.allows)*len(a.denies))
	for i := range a.allows {
		st := &a.allows[i]
		st.bars, bars = bars[:len(a.denies):len(a.denies)], bars[len(a.denies):]
		for j := range a.denies {
			st.bars[j] = st.about & a.denies[j].about &^ unheardOf
			if st.rest != nil && a.denies[j].coversAll(st.rest) {
				st.bars[j] |= unheardOf
			}
		}
	}
	return a
}

// reach returns what an Allow lets the subject do that no Deny plainly takes
// away: freely, and under conditions that strangers cannot meet. Whether the
// Allow is for the subject is for the caller to know.
func (a *analysis) reach(st *statement, s *subject) (free, narrow Actions) {
	sp := st.holds(s)
	free, narrow = st.about&sp[open], st.about&sp[unlikely]
	for i := range a.denies {
		d := &a.denies[i]
		if st.bars[i]&narrow == 0 || !d.isAbout(s) {
			continue
		}
		sp := d.holds(s)
		free &^= st.bars[i] & sp[likely]
		narrow &^= st.bars[i] & sp[always]
	}
	return free, narrow &^ free
}

// reach is what a subject may do freely, and under conditions that strangers cannot meet.
type reach struct{ free, narrow Actions }

// beyond returns what an Allow lets the subject do beyond what it lets others. What
// those may do under conditions only, the subject may do freely.
func (a *analysis) beyond(st *statement, s *subject, others reach) reach {
	free, narrow := a.reach(st, s)
	return reach{free &^ others.free, narrow &^ (others.free | others.narrow)}
}

// spread has the actions for which something holds with at least that chance.
type spread [always + 1]Actions

// holds returns for which actions the conditions hold.
func (st *statement) holds(s *subject) spread {
	var sp spread
	for k := range sp {
		sp[k] = ^Actions(0)
	}
	for i := range st.conditions {
		c := &st.conditions[i]
		carrying := c.carried
		carried, others := c.holds(s)
		for k := range sp {
			if carried < chance(k) {
				sp[k] &^= carrying
			}
			if others < chance(k) {
				sp[k] &= carrying
			}
		}
	}
	return sp
}

// isAbout reports whether a Deny is about the subject, whichever principal that is.
func (st *statement) isAbout(s *subject) bool {
	account := Principal{"AWS", s.account}
	switch {
	case st.NotPrincipal && s.administers:
		// An exception must name the principal and its account.
		return !slices.Contains(st.Principals, s.who) || !slices.Contains(st.Principals, account)
	case st.NotPrincipal:
		return !slices.ContainsFunc(st.Principals, func(p Principal) bool {
			return p == s.who || p == account && s.who.Type == "AWS" || p.isAnybody()
		})
	}
	return slices.ContainsFunc(st.Principals, func(p Principal) bool {
		return p == everyone || p == s.who || p == account && s.who.Type == "AWS"
	})
}

// accounts returns the accounts whom a statement for everyone may be meant for:
// those that its conditions name, or those of a Deny or a Deny's exceptions, and
// the account itself with those that it trusts.
func (a *analysis) accounts(st *statement) []string {
	list := append([]string{a.Account}, a.TrustedAccounts...)
	list = st.named(list)
	for i := range a.denies {
		d := &a.denies[i]
		list = d.named(list)
		if d.NotPrincipal {
			for _, who := range d.Principals {
				if account := who.account(); account != "" && !isOpen(account) {
					list = append(list, account)
				}
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// services returns the services whom a statement for everyone may be meant for: those
// that its conditions name, or those of a Deny, and those that a Deny leaves alone.
func (a *analysis) services(st *statement) (list []Principal) {
	add := func(id string) {
		if who := (Principal{"Service", id}); !isOpen(id) && !slices.Contains(list, who) {
			list = append(list, who)
		}
	}
	named := func(st *statement) {
		for i := range st.conditions {
			if c := &st.conditions[i]; c.test != null && (c.kind == serviceName || c.kind == serviceNames) {
				for _, id := range st.conditions[i].values {
					add(id)
				}
			}
		}
	}
	named(st)
	for i := range a.denies {
		d := &a.denies[i]
		named(d)
		for _, who := range d.Principals {
			if d.NotPrincipal && who.Type == "Service" {
				add(who.ID)
			}
		}
	}
	return list
}

// sources returns the organizations that are not trusted and that the conditions of a
// statement, or of a Deny, name as the source of a service's call.
func (a *analysis) sources(st *statement) (list []string) {
	named := func(st *statement) {
		for i := range st.conditions {
			if c := &st.conditions[i]; c.test != null && c.kind == sourceOrganization {
				for _, v := range c.values {
					org, _, _ := strings.Cut(v, "/")
					if !isOpen(org) && !slices.Contains(a.TrustedOrgs, org) && !slices.Contains(list, org) {
						list = append(list, org)
					}
				}
			}
		}
	}
	named(st)
	for i := range a.denies {
		named(&a.denies[i])
	}
	return list
}

// named appends the accounts that the conditions name.
func (st *statement) named(list []string) []string {
	for i := range st.conditions {
		c := &st.conditions[i]
		for _, v := range c.values {
			switch c.kind {
			case sourceARN, credentialARN, callerARN:
				v = arnAccount(v)
			case endpointAccount:
				v = cmp.Or(arnAccount(v), v)
			case contextPair:
				if !isAccountID(v) {
					v = arnAccount(v)
				}
			case userID:
				if !isAccountID(v) {
					continue
				}
			case callerAccount, sourceAccount:
			default:
				continue
			}
			if isAccountID(v) {
				list = append(list, v)
			}
		}
	}
	return list
}

// administered reports whether somebody in the key's account may change the policy;
// with IAM, whether the policies of IAM can give users and roles that right.
func (a *analysis) administered(byIAM bool) bool {
	account := Principal{"AWS", a.Account}
	rooted := subject{who: account, account: a.Account, insider: true, administers: true, delegate: byIAM}
	for i := range a.denies {
		if d := &a.denies[i]; d.about.Has(putKeyPolicy) && d.isAbout(&rooted) && d.holds(&rooted)[always].Has(putKeyPolicy) {
			return false
		}
	}
	for i := range a.allows {
		st := &a.allows[i]
		if !st.about.Has(putKeyPolicy) {
			continue
		}
		if st.NotPrincipal {
			if free, _ := a.reach(st, &rooted); free.Has(putKeyPolicy) && !slices.Contains(st.Principals, account) {
				return true
			}
			continue
		}
		for _, who := range st.Principals {
			s := subjectOf(who)
			switch {
			case who == everyone:
				s = rooted
			case who.Type != "AWS" || s.account != a.Account || byIAM && who != account:
				continue
			}
			s.insider, s.administers, s.delegate = true, true, byIAM
			if free, _ := a.reach(st, &s); free.Has(putKeyPolicy) {
				return true
			}
		}
	}
	return false
}
