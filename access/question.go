package access

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/keypolicy"
)

// question is about one key.
type question struct {
	review *Review
	key    Key
	policy *keypolicy.Policy
	// ofKey are the rules of the key policy, one for each statement; their principals are
	// those of the statement.
	ofKey []rule
	// compiled are the rules of other policies for this key, by their text.
	compiled map[string][]rule
	// facts are the condition keys that the key decides, with nil for those that no request
	// about it has.
	facts map[string][]string
	// request has other condition keys; complete: all that a request has.
	request  map[string][]string
	complete bool
}

// rule is a statement or a grant as it concerns the key.
type rule struct {
	way   Way
	deny  bool
	about keypolicy.Actions
	tests []test
	// unbounded: it gives a right to the caller itself, whatever its boundary allows.
	unbounded bool
}

// document is a policy that was parsed once.
type document struct {
	policy *keypolicy.Policy
	err    error
}

// parse parses a policy of a principal.
func (r *Review) parse(text string) document {
	d, ok := r.documents[text]
	if !ok {
		d.policy, d.err = keypolicy.ParseIdentity([]byte(text))
		r.documents[text] = d
	}
	return d
}

// maxRemembered bounds what is remembered of conditions from one key to the next: a review
// of all keys may meet any number of them.
const maxRemembered = 20_000

// about prepares the questions about a key.
func (r *Review) about(k Key) (*question, error) {
	if len(r.verdicts)+len(r.atoms) > maxRemembered { // those of other keys
		clear(r.verdicts)
		clear(r.atoms)
	}
	policy, err := keypolicy.Parse([]byte(k.Policy))
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.ARN, err)
	}
	q := &question{review: r, key: k, policy: policy, compiled: map[string][]rule{}, facts: factsOf(k)}
	for i := range policy.Statements {
		q.ofKey = append(q.ofKey, q.rule(&policy.Statements[i], policy.Version, Way{Kind: KeyPolicy}))
	}
	return q, nil
}

// factsOf are the condition keys that a key decides.
func factsOf(k Key) map[string][]string {
	related := []string{"PRIMARY"}
	switch k.MultiRegion {
	case "":
		related = nil
	case "REPLICA":
		related[0] = "REPLICA"
	}
	m := map[string][]string{
		"kms:keyspec": {k.Spec}, "kms:customermasterkeyspec": {k.Spec},
		"kms:keyusage": {k.Usage}, "kms:customermasterkeyusage": {k.Usage},
		"kms:keyorigin": {k.Origin}, "kms:multiregion": {strconv.FormatBool(k.MultiRegion != "")}, "kms:multiregionkeytype": related,
		"aws:resourceaccount": {k.Account}, "aws:requestedregion": {k.Region}, "aws:securetransport": {"true"},
	}
	if k.Aliases != nil {
		m["kms:resourcealiases"] = k.Aliases
		if len(k.Aliases) == 0 {
			m["kms:resourcealiases"] = nil
		}
	}
	return m
}

// rule compiles a statement. Its Resource becomes a test where it has variables.
func (q *question) rule(s *keypolicy.Statement, version string, way Way) rule {
	way.Statement = s.Label
	r := rule{way: way, deny: s.Deny, about: s.About()}
	variables := version == "2012-10-17"
	resource := test{
		text: "Resource " + strings.Join(s.Resources, ", "), key: resourceKey, values: s.Resources,
		operator: operator{match: keypolicy.Match}, negated: s.NotResource, variables: variables,
	}
	switch plain, known := resource.resolve(func(string) ([]string, bool) { return nil, false }); {
	case len(s.Resources) == 0:
		r.about = 0 // KMS ignores it
	case known && plain.holds([]string{q.key.ARN}) == never:
		r.about = 0
	case !known:
		r.tests = append(r.tests, resource)
	}
	for _, c := range s.Conditions {
		r.tests = append(r.tests, testOf(c, variables))
	}
	return r
}

// resourceKey stands for the resource that a request is for.
const resourceKey = "resource"

// rulesOf compiles a policy of a principal.
func (q *question) rulesOf(text string, way Way) []rule {
	rules, ok := q.compiled[text]
	if !ok {
		d := q.review.parse(text)
		switch {
		case d.err != nil:
			rules = q.unread(way, "it cannot be read")
		default:
			for i := range d.policy.Statements {
				if r := q.rule(&d.policy.Statements[i], d.policy.Version, Way{}); r.about != 0 {
					rules = append(rules, r)
				}
			}
		}
		q.compiled[text] = rules
	}
	named := slices.Clone(rules)
	for i := range named {
		way.Statement = named[i].way.Statement
		named[i].way = way
	}
	return named
}

// unread are the rules of a policy that is not known: it may allow everything, and deny it.
func (q *question) unread(way Way, why string) []rule {
	says := func(what string) []test {
		text := fmt.Sprintf("what the policy %s %s (%s)", way.Policy, what, why)
		return []test{{text: text, key: text}}
	}
	every := keypolicy.ActionsOf("kms:*")
	return []rule{{way: way, about: every, tests: says("allows")}, {way: way, about: every, tests: says("denies"), deny: true}}
}

// managed compiles a managed policy.
func (q *question) managed(policyARN string, way Way) []rule {
	way.Policy = policyARN
	text, ok := q.review.account.Policies[policyARN]
	if !ok {
		return q.unread(way, "IAM does not show it")
	}
	return q.rulesOf(text, way)
}

// ruleset are all rules for a caller.
type ruleset struct {
	direct, account, identity, boundary, grants, denies []rule
	bounded                                             bool
}

// rules collects the rules for a caller.
func (q *question) rules(s subject) (rs ruleset) {
	for i := range q.ofKey {
		q.addOfKey(&rs, s, &q.policy.Statements[i], q.ofKey[i])
	}
	for _, g := range q.key.Grants {
		if r, ok := grantRule(g, s); ok {
			rs.grants = append(rs.grants, r)
		}
	}
	if p := s.principal; p != nil {
		q.addIdentity(&rs, Way{Kind: IdentityPolicy}, p.Inline, p.Attached)
		for _, name := range p.Groups {
			group := q.review.account.Groups[name]
			q.addIdentity(&rs, Way{Kind: IdentityPolicy, Group: name}, group.Inline, group.Attached)
		}
		if rs.bounded = p.Boundary != ""; rs.bounded {
			for _, r := range q.managed(p.Boundary, Way{Kind: Boundary}) {
				rs.add(&rs.boundary, r)
			}
		}
	}
	return rs
}

func (rs *ruleset) add(to *[]rule, r rule) {
	switch {
	case r.about == 0:
	case r.deny:
		rs.denies = append(rs.denies, r)
	default:
		*to = append(*to, r)
	}
}

// addIdentity adds the policies of a principal or a group.
func (q *question) addIdentity(rs *ruleset, way Way, inline map[string]string, attached []string) {
	for _, name := range slices.Sorted(maps.Keys(inline)) {
		way.Policy = name
		for _, r := range q.rulesOf(inline[name], way) {
			rs.add(&rs.identity, r)
		}
	}
	for _, policyARN := range attached {
		for _, r := range q.managed(policyARN, way) {
			rs.add(&rs.identity, r)
		}
	}
}

// addOfKey adds a statement of the key policy, if it is about the caller.
func (q *question) addOfKey(rs *ruleset, s subject, st *keypolicy.Statement, r rule) {
	n := named(st, s)
	direct := func(tests ...test) {
		r := r
		r.tests = slices.Concat(r.tests, tests, s.unseen())
		// A role's boundary limits what a policy gives to the role, but not what it gives to a
		// user, to a session or to everybody (IAM User Guide, "Permissions boundaries for IAM
		// entities", and of the wildcard "Policy evaluation logic").
		r.unbounded = s.kind != "role" || len(tests) > 0 || n.everyone
		rs.add(&rs.direct, r)
	}
	if n.itself {
		direct()
	}
	if len(n.session) > 0 {
		direct(n.session...)
	}
	if n.account && r.deny {
		direct()
	} else if n.account {
		r.way.Kind = Delegation
		rs.add(&rs.account, r)
	}
}

// unseen is what decides beside the key policy about a caller whose own policies are not seen.
func (s subject) unseen() []test {
	switch {
	case s.kind == "unknown":
		return []test{{text: "it exists: such ids stand for users and roles that were deleted", key: "existence of " + s.arn}}
	case s.principal != nil, s.kind == "root", s.kind == "service", s.kind == "everyone", s.account == "":
		return nil
	}
	return []test{{text: "IAM in account " + s.account + ", which is not seen here, allows it", key: "iam of " + s.account}}
}

// naming is how a statement names a caller. The zero value: not at all.
type naming struct {
	// itself: as it is; everyone: so, and all others; account: by its account.
	itself, everyone, account bool
	// session is a test of the sessions for which it does, where that depends on them.
	session []test
}

// named returns how a statement of the key policy names the caller.
func named(st *keypolicy.Statement, s subject) naming {
	var everyone, byARN, byAccount bool
	sessions := test{text: "the session's name is", key: "aws:userid", operator: operators["stringlike"]}
	for _, who := range st.Principals {
		switch {
		case who.Type == "AWS" && who.ID == "*":
			everyone = true
		case who.ID == s.arn && (who.Type == "AWS") == (s.kind != "service" && s.kind != "federated"),
			s.principal != nil && who.ID == s.principal.ID:
			byARN = true
		case who.Type == "AWS" && s.account != "" && who.ID == s.account:
			byAccount = true
		default:
			if session, ok := sessionOf(who.ID, s); ok {
				sessions.values = append(sessions.values, "*:"+session)
				sessions.text += " " + session
			}
		}
	}
	if s.kind == "root" { // it is its account
		byARN, byAccount = byAccount, false
	}
	if !st.NotPrincipal {
		n := naming{itself: everyone || byARN, everyone: everyone, account: byAccount}
		// A boundary limits what the role has, and not what the session has besides.
		limited := byARN && !everyone && !st.Deny && s.principal != nil && s.principal.Boundary != ""
		if len(sessions.values) > 0 && (!n.itself || limited) {
			n.session = []test{sessions}
		}
		return n
	}
	// An Allow leaves out whom it names in any way; a Deny a user only where it names its
	// account, too, and a session where it also names the role, and nobody who has a
	// permissions boundary (IAM User Guide, "NotPrincipal").
	out, perSession := everyone || byARN || byAccount, len(sessions.values) > 0
	if st.Deny && s.principal != nil {
		bounded := s.principal.Boundary != ""
		out = !bounded && (everyone || byARN && byAccount && s.kind == "user")
		perSession = !bounded && perSession && byARN && byAccount
	}
	switch {
	case out:
		return naming{}
	case perSession:
		sessions.negated, sessions.text = true, strings.Replace(sessions.text, " is", " is not", 1)
		return naming{session: []test{sessions}}
	}
	return naming{itself: true}
}

// sessionOf returns the name of the session, if the ARN is one of a session of the role.
func sessionOf(session string, s subject) (name string, ok bool) {
	a := arn.Parse(session)
	rest, ok := strings.CutPrefix(a.Resource, "assumed-role/")
	if !ok || s.kind != "role" || a.Service != "sts" || a.Account != s.account {
		return "", false
	}
	role, name, ok := strings.Cut(rest, "/")
	return name, ok && role == arn.Parse(s.arn).Name()
}

// grantRule compiles a grant, if it is for the caller. Nobody documents whether a permissions
// boundary limits a grant: here it does not.
func grantRule(g inventory.Grant, s subject) (r rule, ok bool) {
	r = rule{way: Way{Kind: Grant, Policy: g.ID}}
	switch {
	case g.GranteeService != "":
		ok = s.kind == "service" && g.GranteeService == s.arn
	case g.Grantee == s.arn, s.kind == "account" && g.Grantee == "arn:aws:iam::"+s.arn+":root":
		ok = s.kind != "service"
	default:
		var session string
		if session, ok = sessionOf(g.Grantee, s); ok {
			r.tests = append(r.tests, test{text: "the session's name is " + session, key: "aws:userid", operator: operators["stringlike"], values: []string{"*:" + session}})
		}
	}
	if !ok {
		return r, false
	}
	for _, operation := range g.Operations {
		r.about |= keypolicy.ActionsOf("kms:" + operation)
	}
	if g.SourceARN != "" {
		r.tests = append(r.tests, test{text: "it acts for " + g.SourceARN, key: "grant " + g.ID})
	}
	if len(g.Context) > 0 {
		var pairs []string
		for _, name := range slices.Sorted(maps.Keys(g.Context)) {
			pairs = append(pairs, name+"="+g.Context[name])
		}
		words := "the encryption context has "
		if g.Exact {
			words = "the encryption context is "
		}
		r.tests = append(r.tests, test{text: words + strings.Join(pairs, ", "), key: contextKey, context: g.Context, exactly: g.Exact})
	}
	return r, true
}
