package access

import (
	"slices"
	"strings"
)

// Assumer is somebody who can become a role.
type Assumer struct {
	// Principal and Type are as in [Holder].
	Principal string `json:"principal"`
	Type      string `json:"type"`
	Outside   bool   `json:"outside,omitempty"`
	// Through are the roles that it assumes on the way, in order; none where it assumes the
	// role itself.
	Through []string `json:"through,omitempty"`
	// Verdict is Yes or Conditional.
	Verdict Verdict `json:"verdict"`
}

// maxAssumers is how many of those who can become a role are named.
const maxAssumers = 100

// assumers returns those who can become a role, the shortest ways first, and how many more
// there are.
func (r *Review) assumers(role *Principal) (all []Assumer, more int) {
	seen := map[string]bool{role.ARN: true}
	type stop struct {
		role    *Principal
		through []string
		truth   truth
	}
	for next := []stop{{role: role, truth: always}}; len(next) > 0; next = next[1:] {
		at := next[0]
		for _, a := range r.direct(at.role) {
			if seen[a.arn] {
				continue
			}
			seen[a.arn] = true
			truth := min(at.truth, a.truth)
			if len(all) < maxAssumers {
				assumer := Assumer{Principal: a.arn, Type: a.kind, Outside: a.principal == nil, Through: at.through, Verdict: Yes}
				if truth != always {
					assumer.Verdict = Conditional
				}
				all = append(all, assumer)
			} else {
				more++
			}
			if p := a.principal; p != nil && p.Role {
				next = append(next, stop{p, append([]string{p.ARN}, at.through...), truth})
			}
		}
	}
	return all, more
}

// assuming is somebody who may assume a role. There may be as many as pairs of principals.
type assuming struct {
	*subject
	truth
}

// direct returns those who may assume a role without becoming another one first.
func (r *Review) direct(role *Principal) (all []assuming) {
	all, ok := r.assuming[role.ARN]
	if ok {
		return all
	}
	asked := map[string]bool{role.ARN: true}
	ask := func(s *subject) {
		if asked[s.arn] {
			return
		}
		asked[s.arn] = true
		if t := r.mayAssume(*s, role); t != never {
			all = append(all, assuming{s, t})
		}
	}
	everybody := false
	for _, st := range r.trust(role) {
		everybody = everybody || st.NotPrincipal
		for _, who := range st.Principals {
			everybody = everybody || who.ID == "*"
			switch p := r.principals[who.ID]; {
			case st.Deny || st.NotPrincipal:
			case p != nil:
				ask(new(subjectOf(p, r.account.ID)))
			case who.Type != "AWS" || who.ID != r.account.ID:
				ask(new(outsider(who)))
			}
		}
	}
	subjects := r.subjects()
	for i := range subjects {
		s := &subjects[i]
		// The root user may not assume roles (STS API Reference, AssumeRole).
		if s.principal != nil && (everybody || r.stepper(s.principal).ever&(1<<assumeRole) != 0) {
			ask(s)
		}
	}
	slices.SortStableFunc(all, func(a, b assuming) int { return strings.Compare(a.arn, b.arn) })
	r.assuming[role.ARN] = all
	return all
}

// mayAssume reports whether a caller may assume a role, as its trust policy and the caller's
// own policies say.
func (r *Review) mayAssume(s subject, role *Principal) truth {
	values := func(key string) ([]string, bool) { return s.fact(key, r) }
	// limited: by the boundary of a role that is named, as in a key policy.
	itself, limited, account, denied := never, never, never, never
	bounded := s.principal != nil && s.principal.Role && s.principal.Boundary != ""
	for _, st := range r.trust(role) {
		if !covers(st, "sts:AssumeRole") && !covers(st, "sts:AssumeRoleWithSAML") && !covers(st, "sts:AssumeRoleWithWebIdentity") {
			continue
		}
		holds := always
		for _, c := range st.Conditions {
			t := testOf(c, true)
			_, truth := r.holds(&t, values)
			holds = min(holds, truth)
		}
		n := named(&st, s)
		if len(n.session) > 0 && !st.Deny {
			itself = max(itself, min(holds, unknown))
		} else if len(n.session) > 0 {
			holds, n.itself = min(holds, unknown), true
		}
		switch {
		case st.Deny && (n.itself || n.account):
			denied = max(denied, holds)
		case st.Deny:
		case n.itself && bounded && !n.everyone:
			limited = max(limited, holds)
		case n.itself:
			itself = max(itself, holds)
		case n.account:
			account = max(account, holds)
		}
	}
	switch p := s.principal; {
	case p != nil:
		mine, within, forbidden := r.askSteps(p, role.ARN, assumeRole)
		itself, denied = max(itself, min(limited, within), min(account, mine)), max(denied, forbidden)
	case len(s.unseen()) > 0:
		itself = min(itself, unknown)
	}
	return min(itself, always-denied)
}
