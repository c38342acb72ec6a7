package access

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/keypolicy"
)

// Findings judges who may use a key beyond what its policy and grants show: roles that
// somebody outside may assume, and principals that can give themselves the key. holders are
// those of the key. The worst come first.
func (r *Review) Findings(k Key, holders []Holder) ([]finding.Finding, error) {
	q, err := r.about(k)
	if err != nil {
		return nil, err
	}
	uses := useOf(k.Usage)
	j := judge{question: q, uses: keypolicy.ActionsOf(uses), may: map[string]Verdict{}}
	for _, h := range holders {
		if j.may[h.Principal] = h.May(uses); j.may[h.Principal] != No {
			if p, inside := r.principals[h.Principal]; inside {
				j.users = append(j.users, p)
			}
		}
	}
	var found []finding.Finding
	for _, h := range holders {
		if p, inside := r.principals[h.Principal]; inside && p.Role {
			found = append(found, r.assumable(h, p)...)
		}
	}
	for _, s := range r.subjects() {
		if s.principal != nil && j.may[s.arn] != Yes {
			found = append(found, j.judge(s)...)
		}
	}
	return finding.WorstFirst(found), nil
}

// useOf is the action that a key with a KeyUsage is kept from others for.
func useOf(usage string) string {
	switch usage {
	case "SIGN_VERIFY":
		return "kms:Sign"
	case "GENERATE_VERIFY_MAC":
		return "kms:GenerateMac"
	case "KEY_AGREEMENT":
		return "kms:DeriveSharedSecret"
	}
	return "kms:Decrypt"
}

// assumable finds those outside who may assume a role that holds rights.
func (r *Review) assumable(h Holder, p *Principal) (found []finding.Finding) {
	var actions []string
	sure := false
	for _, right := range h.Rights {
		actions = append(actions, right.Actions...)
		sure = sure || right.Verdict == Yes
	}
	severity := finding.Outsider(actions...)
	if !severity.AtLeast(finding.High) {
		return nil // it learns of the key, and does nothing to it
	}
	for _, st := range r.trust(p) {
		if st.Deny || !covers(st, "sts:AssumeRole") && !covers(st, "sts:AssumeRoleWithWebIdentity") && !covers(st, "sts:AssumeRoleWithSAML") {
			continue
		}
		for _, who := range st.Principals {
			outside := r.outside(who, st)
			if outside == "" {
				continue
			}
			f := finding.Finding{
				ID: finding.AssumableFromOutside, Severity: severity, Statement: st.Label, Principal: p.ARN, Access: finding.AccessOf(actions...),
				Message: fmt.Sprintf("%s may assume %s, which can %s", outside, nameOf(p.ARN), finding.AccessOf(actions...)),
			}
			if conditions := conditionsOf(st); len(conditions) > 0 || !sure {
				f.Severity = f.Severity.Lower()
				f.Message += ", under conditions"
				if len(conditions) > 0 {
					f.Message += " (" + strings.Join(conditions, "; ") + ")"
				}
			}
			found = append(found, f)
		}
	}
	return found
}

// outside names a principal of a trust policy that is outside of the account and of those
// that are trusted; "" for another one.
func (r *Review) outside(who keypolicy.Principal, st keypolicy.Statement) string {
	switch {
	case st.NotPrincipal:
		return "Everyone but those named"
	case who.Type == "Federated":
		// An identity provider of the company is one of SAML, or says in a condition whom it
		// is about. The others have everybody for a customer.
		if strings.Contains(who.ID, ":saml-provider/") || slices.ContainsFunc(st.Conditions, func(c keypolicy.Condition) bool {
			key := strings.ToLower(c.Key)
			return strings.HasSuffix(key, ":sub") || strings.HasSuffix(key, ":aud") && !strings.Contains(who.ID, "oidc-provider/token.actions.githubusercontent.com")
		}) {
			return ""
		}
		return "Every identity of " + who.ID
	case who.Type != "AWS", slices.ContainsFunc(st.Conditions, r.isTrustedOrg):
		return ""
	case who.ID == "*":
		return "Everyone with an AWS account"
	}
	account := cmp.Or(arn.Account(who.ID), who.ID)
	if account == r.account.ID || slices.Contains(r.context.TrustedAccounts, account) || strings.HasPrefix(who.ID, "AIDA") || strings.HasPrefix(who.ID, "AROA") {
		return ""
	}
	if account == who.ID {
		return "Account " + who.ID + ", which is not trusted,"
	}
	return who.ID + ", of an account that is not trusted,"
}

// isTrustedOrg reports whether a condition lets in organizations that are trusted and no other.
func (r *Review) isTrustedOrg(c keypolicy.Condition) bool {
	return strings.EqualFold(c.Operator, "StringEquals") && strings.EqualFold(c.Key, "aws:PrincipalOrgID") && len(c.Values) > 0 &&
		!slices.ContainsFunc(c.Values, func(org string) bool { return !slices.Contains(r.context.TrustedOrgs, org) })
}

// conditionsOf are the conditions of a statement. An external id is none: it keeps out those
// who do not know it, and not those who do.
func conditionsOf(st keypolicy.Statement) (all []string) {
	for _, c := range st.Conditions {
		if !strings.EqualFold(c.Key, "sts:ExternalId") {
			t := testOf(c, false)
			all = append(all, t.text)
		}
	}
	return all
}

// judge finds by what principals can give themselves a key.
type judge struct {
	*question
	// uses is the action that matters.
	uses keypolicy.Actions
	// may are the verdicts on it, users the principals of the account for whom it is not No.
	may   map[string]Verdict
	users []*Principal
}

// routes are ways by which a principal can give itself the key: a few of them, and how many
// more there are. The zero value is none.
type routes struct {
	sure, maybe []string
	more        int
}

// maxRoutes is how many routes a message names.
const maxRoutes = 4

// add adds a route, if there is one.
func (rs *routes) add(t truth, format string, args ...any) {
	to := &rs.sure
	switch t {
	case never:
		return
	case unknown:
		to = &rs.maybe
	case always:
	}
	if len(*to) == maxRoutes {
		rs.more++
		return
	}
	*to = append(*to, fmt.Sprintf(format, args...))
}

// text names some of the routes, the sure ones first.
func (rs *routes) text() string {
	texts := slices.Clone(rs.sure)
	for _, text := range rs.maybe {
		texts = append(texts, text+", under conditions")
	}
	more := rs.more + max(0, len(texts)-maxRoutes)
	texts = texts[:min(len(texts), maxRoutes)]
	if more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more ways", more))
	}
	return strings.Join(texts, "; ")
}

// judge judges a principal that may not use the key, or only under conditions.
func (j *judge) judge(s subject) (found []finding.Finding) {
	rs := j.rules(s)
	var grants, tags routes
	j.byKey(&grants, s, rs)
	j.byIAM(&grants, s, rs)
	j.byOthers(&grants, s)
	if j.may[s.arn] != Conditional {
		j.byTags(&tags, s, rs)
	}
	return slices.Concat(j.finding(finding.SelfGrant, s, grants), j.finding(finding.TagGrant, s, tags))
}

// finding is that there are routes, if there are.
func (j *judge) finding(id finding.ID, s subject, rs routes) []finding.Finding {
	severity := finding.Medium
	switch {
	case len(rs.sure)+len(rs.maybe) == 0:
		return nil
	case len(rs.sure) > 0:
		severity = finding.High
	}
	has := "cannot use the key"
	if j.may[s.arn] == Conditional {
		has = "can use the key only under conditions"
	}
	return []finding.Finding{{
		ID: id, Severity: severity, Principal: s.arn, Access: finding.AccessOf(j.uses.Names()...),
		Message: fmt.Sprintf("%s %s, but it can give itself the use: it may %s", nameOf(s.arn), has, rs.text()),
	}}
}

func truthOf(v Verdict) truth {
	switch v {
	case Yes:
		return always
	case Conditional:
		return unknown
	case No:
	}
	return never
}

// byKey are the routes over the key itself.
func (j *judge) byKey(to *routes, s subject, rs ruleset) {
	to.add(truthOf(j.decide(s, rs, keypolicy.ActionsOf("kms:PutKeyPolicy")).verdict), "change the key policy (kms:PutKeyPolicy)")
	// A grant for itself is none that a service makes.
	j.request = map[string][]string{"kms:grantisforawsresource": {"false"}, "kms:viaservice": nil}
	defer func() { j.request = nil }()
	to.add(truthOf(j.decide(s, rs, keypolicy.ActionsOf("kms:CreateGrant")).verdict), "make a grant to itself (kms:CreateGrant)")
}

// byIAM are the routes over the principal's own policies.
func (j *judge) byIAM(to *routes, s subject, rs ruleset) {
	r, p := j.review, s.principal
	if r.stepper(p).ever == 0 {
		return
	}
	rs.identity = append(slices.Clone(rs.identity), rule{about: j.uses})
	within := truthOf(j.decide(s, rs, j.uses).verdict)
	if rs.bounded && within == never {
		rs.bounded = false
		remove, ok := r.can(p, p.ARN, deleteUserBoundary, putUserBoundary)
		if p.Role {
			remove, ok = r.can(p, p.ARN, deleteRoleBoundary, putRoleBoundary)
		}
		if within = min(ok, truthOf(j.decide(s, rs, j.uses).verdict)); within != never {
			to.add(within, "lift its own boundary (%s)", stepNames[remove])
		}
	}
	if within == never {
		return
	}
	try := func(resource, format string, list ...step) {
		by, ok := r.can(p, resource, list...)
		if ok != never {
			to.add(min(ok, within), format, stepNames[by])
		}
	}
	attached := p.Attached
	if p.Role {
		try(p.ARN, "give itself a policy (%s)", putRolePolicy, attachRolePolicy)
	} else {
		try(p.ARN, "give itself a policy (%s)", putUserPolicy, attachUserPolicy)
	}
	for _, name := range p.Groups {
		group := r.account.Groups[name]
		attached = append(slices.Clone(attached), group.Attached...)
		try(group.ARN, "give its group "+name+" a policy (%s)", putGroupPolicy, attachGroupPolicy)
	}
	for _, policy := range attached {
		if arn.Account(policy) == r.account.ID { // AWS's own cannot be changed
			try(policy, "change the policy "+nameOf(policy)+" that it has (%s)", createPolicyVersion, setDefaultPolicyVersion)
		}
	}
}

// byOthers are the routes over others that may use the key.
func (j *judge) byOthers(to *routes, s subject) {
	r, p := j.review, s.principal
	const others uint32 = 1<<createAccessKey | 1<<createLoginProfile | 1<<updateLoginProfile | 1<<updateTrust | 1<<passRole
	if r.stepper(p).ever&others == 0 {
		return
	}
	for _, other := range j.users {
		if other == p {
			continue
		}
		may := truthOf(j.may[other.ARN])
		if !other.Role {
			if by, ok := r.can(p, other.ARN, createAccessKey, createLoginProfile, updateLoginProfile); ok != never {
				to.add(min(ok, may), "get credentials of %s (%s)", nameOf(other.ARN), stepNames[by])
			}
			continue
		}
		if by, ok := r.can(p, other.ARN, updateTrust); ok != never {
			to.add(min(ok, may), "make %s trust it (%s)", nameOf(other.ARN), stepNames[by])
			continue
		}
		if _, ok := r.can(p, other.ARN, passRole); ok != never {
			r.byService(to, p, other, min(ok, may))
		}
	}
}

// byService are the routes by which a service runs something with a role that is passed to
// it.
func (r *Review) byService(to *routes, p, role *Principal, may truth) {
	seen := map[string]bool{}
	for _, st := range r.trust(role) {
		if st.Deny || !covers(st, "sts:AssumeRole") {
			continue
		}
		for _, who := range st.Principals {
			run, known := runners[who.ID]
			if who.Type != "Service" || !known || seen[who.ID] || who.ID == "ec2.amazonaws.com" && !role.Instances {
				continue
			}
			seen[who.ID] = true
			if _, ok := r.can(p, "*", run); ok != never {
				to.add(min(ok, may), "have %s run as %s (iam:PassRole and %s)", who.ID, nameOf(role.ARN), stepNames[run])
			}
		}
	}
}

// byTags are the routes over tags that decide about the key.
func (j *judge) byTags(to *routes, s subject, rs ruleset) {
	ofKey, ofCaller := false, false
	for _, list := range [][]rule{rs.direct, rs.account, rs.identity, rs.boundary, rs.denies} {
		for _, r := range list {
			for _, t := range r.tests {
				for _, key := range t.keys() {
					ofKey = ofKey || strings.HasPrefix(key, "aws:resourcetag/")
					ofCaller = ofCaller || strings.HasPrefix(key, "aws:principaltag/")
				}
			}
		}
	}
	if tag := truthOf(j.decide(s, rs, keypolicy.ActionsOf("kms:TagResource")).verdict); ofKey && tag != never && j.key.Tags != nil {
		tags := j.key.Tags
		j.key.Tags = nil
		if j.decide(s, rs, j.uses).verdict != No {
			to.add(tag, "tag the key (kms:TagResource)")
		}
		j.key.Tags = tags
	}
	if ofCaller {
		by, ok := j.review.can(s.principal, s.arn, map[bool]step{true: tagRole, false: tagUser}[s.principal.Role])
		s.anyTags = true
		if ok != never && j.decide(s, rs, j.uses).verdict != No {
			to.add(ok, "tag itself (%s)", stepNames[by])
		}
	}
}

// nameOf is the resource of an ARN, such as role/app.
func nameOf(name string) string { return cmp.Or(arn.Parse(name).Resource, name) }

// AllKeys finds the IAM policies that give the use of every key of a Region, or more.
func (r *Review) AllKeys(region string) []finding.Finding {
	nobodys := "arn:" + cmp.Or(r.account.Partition, "aws") + ":kms:" + region + ":" + r.account.ID + ":key/00000000-0000-0000-0000-000000000000"
	q := question{review: r, compiled: map[string][]rule{}}
	q.key.ARN = nobodys
	grave := keypolicy.ActionsOf("kms:Decrypt", "kms:Sign", "kms:GenerateMac", "kms:DeriveSharedSecret", "kms:PutKeyPolicy", "kms:CreateGrant")
	type policy struct{ name, text string }
	owners := map[policy][]string{}
	collect := func(owner string, inline map[string]string, attached []string) {
		for name, text := range inline {
			p := policy{name + " of " + nameOf(owner), text}
			owners[p] = append(owners[p], owner)
		}
		for _, policyARN := range attached {
			p := policy{policyARN, r.account.Policies[policyARN]}
			owners[p] = append(owners[p], owner)
		}
	}
	for _, p := range r.principals {
		collect(p.ARN, p.Inline, p.Attached)
	}
	for _, g := range r.account.Groups {
		collect(g.ARN, g.Inline, g.Attached)
	}
	var found []finding.Finding
	for _, p := range slices.SortedFunc(maps.Keys(owners), func(a, b policy) int { return strings.Compare(a.name, b.name) }) {
		if r.parse(p.text).err != nil {
			continue // its principals' rights are conditional for that
		}
		for _, one := range q.rulesOf(p.text, Way{}) {
			if one.deny || one.about&grave == 0 || len(one.tests) > 0 && one.tests[0].key == resourceKey {
				continue
			}
			names := owners[p]
			slices.Sort(names)
			f := finding.Finding{
				ID: finding.AllKeys, Severity: finding.Medium, Statement: one.way.Statement, Principal: p.name, Access: finding.AccessOf(one.about.Names()...),
				Message: fmt.Sprintf("Policy %s is about every key: %s can %s", p.name, someOf(names), finding.AccessOf(one.about.Names()...)),
			}
			if len(one.tests) > 0 {
				f.Severity = finding.Low
				f.Message += ", under conditions"
			}
			found = append(found, f)
			break
		}
	}
	return finding.WorstFirst(found)
}

// someOf names up to three of the owners of a policy.
func someOf(arns []string) string {
	var names []string
	for _, a := range arns[:min(len(arns), 3)] {
		names = append(names, nameOf(a))
	}
	if more := len(arns) - 3; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	if len(names) == 1 {
		return names[0]
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}
