package keypolicy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
)

// The differential test judges random policies, and plays calls against the evaluator
// of localaws, which shares no code with the judgement: whoever gets in is in the
// findings, and a policy that is called public lets a stranger in.

// callsForEach is how many calls are played against a policy before one is looked for.
const callsForEach = 60

// trial is a policy that is judged and played.
type trial struct {
	t    *testing.T
	r    *rand.Rand
	p    *Policy
	seen *sights
	// read are what the evaluator makes of the policy where nobody knows of some
	// conditions whether they hold, by which they are.
	read map[string]*iam.Policy
}

// disagreement plays calls against a policy, and says what the judgement missed, or
// said without a reason. "" is nothing.
func disagreement(t *testing.T, r *rand.Rand, p *Policy, seen *sights) string {
	t.Helper()
	evaluated, err := iam.Parse(rewrite(t, p))
	if err != nil {
		return "localaws: " + err.Error()
	}
	if names := evaluated.Unmodelled(); names != nil {
		return fmt.Sprintf("localaws does not model %q", names)
	}
	x := &trial{t, r, p, seen, map[string]*iam.Policy{"": evaluated}}
	findings := p.Findings(differential)
	everybody := callers(p)
	said := claims(findings)
	locked := has(findings, finding.Critical, finding.Lockout)
	for _, c := range playersOf(p, everybody, named(p)).some(r, callsForEach) {
		if !isIn(evaluated, c.request) {
			continue
		}
		said = slices.DeleteFunc(said, func(s claim) bool { return s.by(c.caller) && s.about(c.request) })
		switch {
		case c.administers() && c.request.Action == "kms:PutKeyPolicy" && locked:
			return fmt.Sprintf("%+v may change the policy: %v", c.caller, findings)
		case c.trusted():
			continue
		}
		seen.calls++
		if c.account == foreign {
			seen.foreign++
		}
		if !isFound(findings, c) {
			return fmt.Sprintf("%+v gets in as %v, and is in none of %v", c.caller, c.request.Several, findings)
		}
	}
	// Before something is said to be found wrongly, everything is tried.
	for _, s := range said {
		if !x.isTrue(s, everybody) {
			return fmt.Sprintf("nobody gets in of whom it says: %s: %v", s.what, findings)
		}
	}
	seen.see(findings)
	return ""
}

// claim is what is said of who gets in.
type claim struct {
	what    string
	by      func(caller) bool
	actions []string // nil for those that the policy names
}

func (s claim) about(r iam.Request) bool {
	return s.actions == nil || slices.Contains(s.actions, r.Action)
}

// claims returns what the findings say: of the account itself, that it administers the
// key unless it is locked out.
func claims(findings []finding.Finding) (list []claim) {
	if !has(findings, finding.Critical, finding.Lockout) {
		list = append(list, claim{"the account administers the key", caller.administers, []string{"kms:PutKeyPolicy"}})
	}
	for _, f := range findings {
		var by func(caller) bool
		switch {
		case slices.Contains(classes["public"], f.ID):
			by = func(c caller) bool { return !c.trusted() && c.account != foreign && (f.Bound || !c.insider) }
		case f.ID == finding.ForeignAccount:
			by = func(c caller) bool {
				return !c.trusted() && (f.Principal == c.account || f.Principal == c.request.Service || arnAccount(f.Principal) == c.account && c.request.Service == "")
			}
		case f.ID == finding.ServiceWithoutSource:
			by = func(c caller) bool { return c.request.Service == f.Principal && !c.trusted() }
		default: // they say nothing of who gets in
			continue
		}
		list = append(list, claim{f.Message, by, nil})
	}
	return list
}

func (c caller) administers() bool {
	return c.account == own && c.request.Service == "" && !strings.Contains(c.request.Principal, ":federated-user/") // on whom no account relies
}

// isTrue reports whether somebody gets in of whom it is said, as far as that is known.
func (x *trial) isTrue(s claim, everybody []caller) bool {
	by := slices.DeleteFunc(slices.Clone(everybody), func(c caller) bool { return !s.by(c) })
	actions := s.actions
	switch {
	case actions != nil:
	case slices.ContainsFunc(x.p.Statements, func(s Statement) bool { return s.NotAction }):
		actions = known[:]
	default:
		actions = named(x.p)
	}
	enters := func(p *Policy) bool {
		y := x
		if p != x.p {
			y = &trial{x.t, x.r, p, x.seen, map[string]*iam.Policy{}}
		}
		for c := range playersOf(p, by, actions).all(x.r, everything) {
			if isIn(y.reading(c.request), c.request) {
				return true
			}
		}
		return false
	}
	if enters(x.p) {
		return true
	}
	if !isEntangled(x.p) || !isMetInParts(x.p, enters) {
		return false
	}
	x.seen.entangled++
	return true
}

// everything is more calls than most policies have.
const everything = 1 << 13

func isIn(p *iam.Policy, r iam.Request) bool {
	d := p.Evaluate(r)
	return d == iam.Allow || d == iam.AllowAccount
}

// reading returns the policy without the conditions of which nobody knows whether they
// hold for the request: an Allow without them, and none of the Denies that have one, or
// of which nobody knows whether they are about the caller.
func (x *trial) reading(r iam.Request) *iam.Policy {
	var unclear strings.Builder
	q := &Policy{Version: x.p.Version}
	for _, s := range x.p.Statements {
		// AWS says only that it might deny those whom NotPrincipal excepts without their
		// session, role or account.
		excepted := s.Deny && s.NotPrincipal && r.Account != "" && slices.ContainsFunc(s.Principals, func(p Principal) bool { return p.account() == r.Account })
		all := s.Conditions
		s.Conditions = nil
		for _, c := range all {
			key := ConditionKey(c.Key)
			carries, _ := iam.Carries(r.Action, key)
			if why := undocumented(c, r.Service, carries && r.Several[key] != nil); why != "" {
				unclear.WriteString("?")
			} else {
				unclear.WriteString("!")
				s.Conditions = append(s.Conditions, c)
			}
		}
		switch {
		case excepted:
			unclear.WriteString("-")
		case !s.Deny || len(s.Conditions) == len(all):
			q.Statements = append(q.Statements, s)
		}
	}
	p, ok := x.read[unclear.String()]
	if !ok {
		_, p = evaluate(x.t, q)
		x.read[unclear.String()] = p
	}
	return p
}

// undocumented says why nobody knows whether a condition holds for calls, of a principal
// or of a service, that have its key or have it not, so that the judgement leaves it open.
// "" is that it is known.
func undocumented(c Condition, service string, present bool) string {
	key := ConditionKey(c.Key)
	k := playedKeys[key]
	name, each := strings.CutPrefix(c.Operator, "ForAllValues:")
	name, some := strings.CutPrefix(name, "ForAnyValue:")
	name, ifExists := strings.CutSuffix(name, "IfExists")
	switch {
	case slices.Contains([]string{"aws:resourceorgid", "aws:resourceorgpaths"}, key):
		return "the organization of the key is not in the policy"
	case service != "" && k.sent && key != "kms:grantisforawsresource":
		return "AWS does not say whether a service's own call has an account"
	case name == "Null":
		return ""
	case present && !slices.Contains(suiting[k.form], name):
		return "AWS does not say what an operator makes of a value of another type"
	case present && k.several && !each && !some:
		return "AWS asks for ForAnyValue or ForAllValues with a key of several values"
	case key == "aws:principalservicenameslist" && service != "" && (!slices.Contains(c.Values, service) || each != strings.Contains(name, "Not")):
		return "AWS does not say which names a service has beside the one that is named"
	case !present && some && ifExists:
		return "AWS does not say what the two come to together"
	case present && (each || some || ifExists) && k.sent:
		return "all calls have the key, but the policy's author expects some that have not"
	}
	return ""
}

// isEntangled reports whether two conditions can exclude each other: they are about the
// same key, or about who calls or when, as NotPrincipal is. The judgement takes each by itself.
func isEntangled(p *Policy) bool {
	keys, identities := map[string]bool{}, 0
	for _, s := range p.Statements {
		if s.NotPrincipal {
			identities++
		}
		for _, c := range s.Conditions {
			key := ConditionKey(c.Key)
			if keys[key] {
				return true
			}
			keys[key] = true
			if playedKeys[key].identity {
				identities++
			}
		}
	}
	return identities > 1
}

// isMetInParts reports whether somebody meets each condition of an Allow, and escapes
// each Deny, one at a time.
func isMetInParts(p *Policy, enters func(*Policy) bool) bool {
	for _, allow := range p.Statements {
		if allow.Deny {
			continue
		}
		bare := allow
		bare.Conditions = nil
		met := true
		for _, c := range allow.Conditions {
			one := bare
			one.Conditions = []Condition{c}
			met = met && enters(&Policy{Version: p.Version, Statements: []Statement{one}})
		}
		for _, deny := range p.Statements {
			if !deny.Deny {
				continue
			}
			escapes := func(conditions ...Condition) bool {
				one := deny
				one.Conditions = conditions
				return enters(&Policy{Version: p.Version, Statements: []Statement{bare, one}})
			}
			met = met && (escapes() || slices.ContainsFunc(deny.Conditions, func(c Condition) bool { return escapes(c) }))
		}
		if met {
			return true
		}
	}
	return false
}

// sights are what the played policies had in them, so that a test that plays nothing of
// interest fails: calls that got in from outside, those of the named account, policies
// that are called public, freely or bound, and what was let pass because of two
// conditions that can exclude each other.
type sights struct{ calls, foreign, public, bound, entangled int }

func (s *sights) see(findings []finding.Finding) {
	free, bound := false, false
	for _, f := range findings {
		if slices.Contains(classes["public"], f.ID) {
			free, bound = free || !f.Bound, bound || f.Bound
		}
	}
	if free {
		s.public++
	}
	if bound {
		s.bound++
	}
}

// isFound reports whether the findings say that the caller gets in.
func isFound(findings []finding.Finding, c call) bool {
	service := c.request.Service
	return slices.ContainsFunc(findings, func(f finding.Finding) bool {
		switch {
		case slices.Contains(classes["public"], f.ID):
			return !f.Bound || c.insider || service != ""
		case f.ID == finding.ForeignAccount:
			return f.Principal == "*" || f.Principal == service || strings.Contains(f.Principal, c.account)
		case f.ID == finding.ServiceWithoutSource, f.ID == finding.FullControl:
			return f.Principal == service && service != ""
		}
		return false
	}) || service != "" && mild.Has(ActionsOf(c.request.Action)) || // no finding, by intent: it sees settings
		service != "" && strings.HasPrefix(strings.Join(c.request.Several["aws:sourcearn"], ""), "arn:aws:s3:::") // nor here: whose a bucket is cannot be seen
}

// triple is a condition to be tried.
type triple struct{ key, operator string }

var triples = func() (list []triple) {
	for _, key := range playedNames {
		for _, operator := range everyOperator {
			for _, m := range modifiers {
				switch before, after, _ := strings.Cut(m, ":"); {
				case operator == "Null" && m != "":
				case strings.HasPrefix(m, "For"):
					list = append(list, triple{key, before + ":" + operator + after})
				default:
					list = append(list, triple{key, operator + m})
				}
			}
		}
	}
	return list
}()

// suitable are the triples whose operators suit their keys.
var suitable = slices.DeleteFunc(slices.Clone(triples), func(t triple) bool {
	return undocumented(Condition{Operator: t.operator, Key: t.key}, "", true) != ""
})

// policyMaker makes random policies. One half of them has every triple in turn, the other
// every one that suits.
type policyMaker struct {
	*rand.Rand
	tried []triple
	// actions are those that can have the condition keys.
	actions []string
}

// differentialPolicy makes the nth policy.
func differentialPolicy(n int) (*Policy, *rand.Rand) {
	m := &policyMaker{Rand: rand.New(rand.NewPCG(uint64(n), 7)), tried: triples} //nolint:gosec // no secret
	if n%2 == 1 {
		m.tried = suitable
	}
	p := &Policy{Version: "2012-10-17"}
	if m.one(20) {
		p.Version = ""
	}
	allow := Statement{Label: "A", Resources: []string{"*"}, Principals: []Principal{everyone}}
	deny := Statement{Label: "D", Deny: true, Resources: []string{"*"}, Actions: []string{"kms:*"}, Principals: []Principal{everyone}}
	root := Statement{Label: "R", Resources: []string{"*"}, Principals: []Principal{{"AWS", own}}, Actions: []string{"kms:*", "kms:PutKeyPolicy"}}
	const order = 7919 // a prime, so that neighbours differ
	first := m.condition(m.tried[n/2*order%len(m.tried)])
	if m.one(3) {
		deny.addCondition(first)
	} else {
		allow.addCondition(first)
	}
	for range m.IntN(3) {
		m.pick(&allow, &allow, &deny, &deny, &root).addCondition(m.condition(m.random()))
	}
	allow.Actions = sorted(m.actions)
	m.shape(&allow, &deny, &root)
	p.Statements = []Statement{allow}
	if len(deny.Conditions) > 0 {
		p.Statements = append(p.Statements, deny)
	}
	if !m.one(3) {
		p.Statements = append(p.Statements, root)
	}
	return p, m.Rand
}

// one is true once in so many times.
func (m *policyMaker) one(of int) bool { return m.IntN(of) == 0 }

func (m *policyMaker) pick(from ...*Statement) *Statement { return from[m.IntN(len(from))] }

// shape changes whom statements are for, and what they are about.
func (m *policyMaker) shape(allow, deny, root *Statement) {
	switch m.IntN(20) {
	case 0:
		allow.Principals = []Principal{{"AWS", foreign}}
	case 1, 2:
		allow.Principals = []Principal{{"AWS", "arn:aws:iam::" + foreign + ":role/x"}}
	case 3:
		allow.Principals = []Principal{{"Service", snsService}}
	case 4:
		allow.Principals, allow.NotPrincipal = []Principal{{"AWS", own}}, true
	case 5:
		allow.NotAction = true
		allow.Actions = append(allow.Actions, "kms:Describe*")
	}
	switch m.IntN(20) {
	case 0:
		deny.Principals, deny.NotPrincipal = []Principal{{"AWS", own}}, true
	case 1:
		deny.Principals, deny.NotPrincipal = []Principal{{"AWS", foreign}, {"AWS", own}}, true
	case 2:
		deny.Principals = []Principal{{"AWS", foreign}}
	case 3:
		deny.Principals = []Principal{{"Service", snsService}}
	case 4, 5:
		deny.Actions, deny.NotAction = allow.Actions[:1:1], true
	}
	if m.one(4) {
		root.Principals = []Principal{{"AWS", "arn:aws:iam::" + own + ":role/x"}}
	}
}

// condition makes a condition, and adds an action that can have its key.
func (m *policyMaker) condition(t triple) Condition {
	values := playedKeys[t.key].values
	if t.operator == "Null" {
		values = truths
	}
	c := Condition{Operator: t.operator, Key: t.key}
	for range 1 + m.IntN(2) {
		c.Values = append(c.Values, values[m.IntN(len(values))])
	}
	var carried []string
	for _, name := range []string{"kms:Decrypt", "kms:CreateGrant", "kms:PutKeyPolicy", "kms:ScheduleKeyDeletion", "kms:Sign", "kms:GenerateMac", "kms:TagResource", "kms:ImportKeyMaterial",
		"kms:GetParametersForImport", "kms:ReplicateKey", "kms:UpdatePrimaryRegion", "kms:EnableKeyRotation", "kms:GenerateDataKeyPair", "kms:DeriveSharedSecret", "kms:ReEncryptFrom"} {
		if carries, _ := iam.Carries(name, t.key); carries {
			carried = append(carried, name)
		}
	}
	if len(carried) == 0 || m.one(5) {
		carried = []string{"kms:Encrypt"}
	}
	m.actions = append(m.actions, carried[m.IntN(len(carried))])
	return c
}

// random returns a triple that suits, more often with a plain operator.
func (m *policyMaker) random() triple {
	for {
		if t := suitable[m.IntN(len(suitable))]; !strings.Contains(t.operator, "IfExists") || m.one(3) {
			return t
		}
	}
}

// shrunk removes what a policy does not need to be judged wrongly.
func shrunk(p *Policy, fails func(*Policy) bool) *Policy {
	for {
		smaller := func() *Policy {
			for i := range p.Statements {
				if q := clone(p); len(q.Statements) > 1 {
					if q.Statements = slices.Delete(q.Statements, i, i+1); fails(q) {
						return q
					}
				}
				s := &p.Statements[i]
				for j := range s.Actions {
					if q := clone(p); len(s.Actions) > 1 {
						q.Statements[i].Actions = slices.Delete(q.Statements[i].Actions, j, j+1)
						if fails(q) {
							return q
						}
					}
				}
				for j := range s.Conditions {
					q := clone(p)
					t := &q.Statements[i]
					if t.Conditions = slices.Delete(t.Conditions, j, j+1); fails(q) {
						return q
					}
					for k := range s.Conditions[j].Values {
						if q := clone(p); len(s.Conditions[j].Values) > 1 {
							c := &q.Statements[i].Conditions[j]
							if c.Values = slices.Delete(c.Values, k, k+1); fails(q) {
								return q
							}
						}
					}
				}
			}
			return nil
		}()
		if smaller == nil {
			return p
		}
		p = smaller
	}
}

func clone(p *Policy) *Policy {
	q := &Policy{Version: p.Version, Statements: slices.Clone(p.Statements)}
	for i := range q.Statements {
		s := &q.Statements[i]
		s.Actions, s.Conditions = slices.Clone(s.Actions), slices.Clone(s.Conditions)
		for j := range s.Conditions {
			s.Conditions[j].Values = slices.Clone(s.Conditions[j].Values)
		}
	}
	return q
}

// policiesVariable is how many policies the differential test plays.
const policiesVariable = "CMKEEPER_DIFFERENTIAL_POLICIES"

func TestJudgementAgainstEvaluator(t *testing.T) {
	policies := 2000
	if v := os.Getenv(policiesVariable); v != "" {
		var err error
		if policies, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	wrong := 0
	var seen, unseen sights
	for n := range policies {
		p, r := differentialPolicy(n)
		if why := disagreement(t, r, p, &seen); why != "" {
			again := func(q *Policy) bool { return disagreement(t, rand.New(rand.NewPCG(1, 2)), q, &unseen) != "" }
			if again(p) {
				p = shrunk(p, again)
				why = disagreement(t, rand.New(rand.NewPCG(1, 2)), p, &unseen)
			}
			t.Errorf("policy %d: %s\n%s", n, why, rewrite(t, p))
			if wrong++; wrong == 10 {
				t.Fatal("too many")
			}
		}
	}
	t.Logf("%d policies: %+v", policies, seen)
	if min(seen.calls/10, seen.foreign, seen.public*2, seen.bound*20) < policies/10 || seen.entangled > policies/20 {
		t.Error("the policies show too little")
	}
}

// TestEveryKeyAgainstEvaluator tries each key with each operator that suits it, by itself,
// in an Allow for everyone and in a Deny. Those of the random policies are not all tried
// in every run.
func TestEveryKeyAgainstEvaluator(t *testing.T) {
	var seen sights
	tried := map[string]bool{}
	m := &policyMaker{Rand: rand.New(rand.NewPCG(11, 12))} //nolint:gosec // no secret
	for _, triple := range suitable {
		if strings.Contains(triple.operator, ":") || strings.HasSuffix(triple.operator, "IfExists") {
			if k := playedKeys[triple.key]; !k.several || !strings.HasPrefix(triple.operator, "ForAnyValue:") {
				continue
			}
		}
		tried[triple.key] = true
		for _, deny := range []bool{false, true} {
			m.actions = nil
			c := m.condition(triple)
			allow := Statement{Label: "A", Resources: []string{"*"}, Principals: []Principal{everyone}, Actions: m.actions}
			p := &Policy{Version: "2012-10-17", Statements: []Statement{allow}}
			if deny {
				p.Statements = append(p.Statements, Statement{Label: "D", Deny: true, Resources: []string{"*"}, Principals: []Principal{everyone}, Actions: []string{"kms:*"}})
			}
			p.Statements[len(p.Statements)-1].addCondition(c)
			if why := disagreement(t, m.Rand, p, &seen); why != "" {
				t.Errorf("%s\n%s", why, rewrite(t, p))
			}
		}
	}
	if len(tried) < len(playedNames)-2 { // but for the organization of the key
		t.Errorf("%d keys are tried, of %d", len(tried), len(playedNames))
	}
}

// TestDocumentedConditions plays what AWS's documentation says of conditions, each with
// its page, against the evaluator, and judges a policy with the condition for everyone.
func TestDocumentedConditions(t *testing.T) {
	data, err := os.ReadFile("testdata/documented.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Page string
		// Source is how the case follows from the page: "quoted" has its condition, its
		// request and its result; "example" its condition and what the page says that it
		// means, for a request of ours; "adapted" is a rule of the page for a condition of
		// ours; "reported" is what others quote from a page that we have not read.
		Source, Says, Action, Version string
		Condition                     json.RawMessage
		Context                       map[string][]string
		Holds                         bool
		// Judged is what the policy is: public, bound (for a stranger, to what only
		// others have), public through a service, for a foreign account, closed, or dead.
		Judged string
	}
	if err := strict(data, &cases); err != nil {
		t.Fatal(err)
	}
	sources := map[string]int{}
	const theirs = "888877776666"
	for _, c := range cases {
		sources[c.Source]++
		t.Run(c.Says, func(t *testing.T) {
			action := cmp.Or(c.Action, "kms:Decrypt")
			document := `{"Version":"` + cmp.Or(c.Version, "2012-10-17") + `","Statement":[` + root + `,` +
				`{"Sid":"S","Effect":"Allow","Principal":"*","Action":"` + action + `","Resource":"*","Condition":` + string(c.Condition) + `}]}`
			evaluated, err := iam.Parse([]byte(document))
			if err != nil || evaluated.Unmodelled() != nil {
				t.Fatal(err, evaluated.Unmodelled())
			}
			request := principal("arn:aws:iam::" + theirs + ":role/r").request
			request.Action, request.Resource, request.Several = action, thisKey, c.Context
			if got := evaluated.Evaluate(request) == iam.Allow; got != c.Holds {
				t.Errorf("%s: it holds: %v, want %v", c.Page, got, c.Holds)
			}
			if got := judgedAs(parsed(t, document).Findings(Context{Account: "111122223333"})); got != c.Judged {
				t.Errorf("%s: judged as %s, want %s", c.Page, got, c.Judged)
			}
		})
	}
	t.Logf("%v", sources)
	if known := sources["quoted"] + sources["example"]; known < 50 || known+sources["adapted"]+sources["reported"] != len(cases) {
		t.Errorf("cases by source: %v", sources)
	}
}

// judgedAs says in a word what the findings say of the statement S.
func judgedAs(findings []finding.Finding) string {
	word := "closed"
	for _, f := range findings {
		switch {
		case f.Statement != "S":
		case f.ID == finding.PublicPrincipal && f.Bound:
			word = "bound"
		case f.ID == finding.PublicPrincipal:
			word = "public"
		case f.ID == finding.PublicThroughService:
			word = "service"
		case f.ID == finding.ForeignAccount:
			word = "foreign"
		case f.ID == finding.NoEffect:
			word = "dead"
		}
	}
	return word
}
