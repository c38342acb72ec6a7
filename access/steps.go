package access

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/keypolicy"
)

// step is an action by which a principal comes to rights that it does not have.
type step uint8

const (
	putUserPolicy step = iota
	attachUserPolicy
	putGroupPolicy
	attachGroupPolicy
	putRolePolicy
	attachRolePolicy
	createPolicyVersion
	setDefaultPolicyVersion
	deleteUserBoundary
	putUserBoundary
	deleteRoleBoundary
	putRoleBoundary
	tagUser
	tagRole
	createAccessKey
	createLoginProfile
	updateLoginProfile
	updateTrust
	passRole
	assumeRole
	createFunction
	runInstances
	runTask
	createJob
	createStack
	createProject
	steps
)

// stepNames are the steps as policies name them.
var stepNames = [steps]string{
	"iam:PutUserPolicy", "iam:AttachUserPolicy", "iam:PutGroupPolicy", "iam:AttachGroupPolicy", "iam:PutRolePolicy", "iam:AttachRolePolicy",
	"iam:CreatePolicyVersion", "iam:SetDefaultPolicyVersion", "iam:DeleteUserPermissionsBoundary", "iam:PutUserPermissionsBoundary",
	"iam:DeleteRolePermissionsBoundary", "iam:PutRolePermissionsBoundary", "iam:TagUser", "iam:TagRole",
	"iam:CreateAccessKey", "iam:CreateLoginProfile", "iam:UpdateLoginProfile", "iam:UpdateAssumeRolePolicy", "iam:PassRole", "sts:AssumeRole",
	"lambda:CreateFunction", "ec2:RunInstances", "ecs:RunTask", "glue:CreateJob", "cloudformation:CreateStack", "codebuild:CreateProject",
}

// runners are the steps by which a principal has a service run something of its own with a
// role that it passes.
var runners = map[string]step{
	"lambda.amazonaws.com": createFunction, "ec2.amazonaws.com": runInstances, "ecs-tasks.amazonaws.com": runTask,
	"glue.amazonaws.com": createJob, "cloudformation.amazonaws.com": createStack, "codebuild.amazonaws.com": createProject,
}

// stepRule is a statement about steps.
type stepRule struct {
	deny     bool
	steps    uint32
	resource test
	tests    []test
}

// stepper is what decides whether a principal may do steps.
type stepper struct {
	identity, boundary []stepRule
	bounded            bool
	// ever are the steps that something allows.
	ever uint32
}

// stepRules compiles a policy for steps. One that cannot be read allows none here: what it
// may allow shows in the principal's rights already, which are conditional then.
func (r *Review) stepRules(text string) []stepRule {
	rules, ok := r.rules[text]
	if ok {
		return rules
	}
	if d := r.parse(text); d.err == nil {
		variables := d.policy.Version == "2012-10-17"
		for _, st := range d.policy.Statements {
			rule := stepRule{deny: st.Deny}
			for i, name := range stepNames {
				if covers(st, name) {
					rule.steps |= 1 << i
				}
			}
			if rule.steps == 0 {
				continue
			}
			rule.resource = test{key: resourceKey, values: st.Resources, operator: operator{match: keypolicy.Match}, negated: st.NotResource, variables: variables}
			for _, c := range st.Conditions {
				rule.tests = append(rule.tests, testOf(c, variables))
			}
			rules = append(rules, rule)
		}
	}
	r.rules[text] = rules
	return rules
}

// stepper collects what decides about a principal's steps.
func (r *Review) stepper(p *Principal) *stepper {
	s := r.steppers[p]
	if s != nil {
		return s
	}
	s = &stepper{}
	add := func(inline map[string]string, attached []string) {
		for _, name := range slices.Sorted(maps.Keys(inline)) {
			s.identity = append(s.identity, r.stepRules(inline[name])...)
		}
		for _, policyARN := range attached {
			s.identity = append(s.identity, r.stepRules(r.account.Policies[policyARN])...)
		}
	}
	add(p.Inline, p.Attached)
	for _, name := range p.Groups {
		add(r.account.Groups[name].Inline, r.account.Groups[name].Attached)
	}
	if s.bounded = p.Boundary != ""; s.bounded {
		s.boundary = r.stepRules(r.account.Policies[p.Boundary])
	}
	for _, rule := range s.identity {
		if !rule.deny {
			s.ever |= rule.steps
		}
	}
	r.steppers[p] = s
	return s
}

// can reports whether a principal may do one of the steps on a resource, and which one.
func (r *Review) can(p *Principal, resource string, list ...step) (step, truth) {
	best, by := never, steps
	s := r.stepper(p)
	for _, one := range list {
		if s.ever&(1<<one) == 0 {
			continue
		}
		allowed, _, denied := r.askSteps(p, resource, one)
		if truth := min(allowed, always-denied); truth > best {
			best, by = truth, one
		}
	}
	return by, best
}

// askSteps reports whether a principal's own policies allow a step on a resource, whether its
// boundary does, if it has one, and whether they deny it.
func (r *Review) askSteps(p *Principal, resource string, one step) (allowed, within, denied truth) {
	s, subject := r.stepper(p), subjectOf(p, r.account.ID)
	values := func(key string) ([]string, bool) {
		if key == resourceKey {
			return []string{resource}, true
		}
		return subject.fact(key, r)
	}
	ask := func(rules []stepRule, deny bool) (best truth) {
		for _, rule := range rules {
			if rule.deny != deny || rule.steps&(1<<one) == 0 {
				continue
			}
			_, holds := r.holds(&rule.resource, values)
			for i := range rule.tests {
				if holds != never {
					_, truth := r.holds(&rule.tests[i], values)
					holds = min(holds, truth)
				}
			}
			best = max(best, holds)
		}
		return best
	}
	allowed, within, denied = ask(s.identity, false), always, ask(s.identity, true)
	if s.bounded {
		within, denied = ask(s.boundary, false), max(denied, ask(s.boundary, true))
	}
	return min(allowed, within), within, denied
}

// trust returns the statements of a role's trust policy. One that cannot be read has none:
// see [Review.Unread].
func (r *Review) trust(p *Principal) []keypolicy.Statement { return r.trustOf(p).statements }

// trusted is a trust policy that was parsed once.
type trusted struct {
	statements []keypolicy.Statement
	err        error
}

func (r *Review) trustOf(p *Principal) trusted {
	t, ok := r.trusts[p.ARN]
	if !ok {
		policy, err := keypolicy.Parse([]byte(p.Trust))
		if t.err = err; err == nil {
			t.statements = policy.Statements
		}
		r.trusts[p.ARN] = t
	}
	return t
}

// Unread names the roles among holders whose trust policy cannot be read, with the reason: of
// those it is not known who may assume them.
func (r *Review) Unread(holders []Holder) (unread []string) {
	for _, h := range holders {
		if p := r.principals[h.Principal]; p != nil && p.Role {
			if t := r.trustOf(p); t.err != nil {
				unread = append(unread, fmt.Sprintf("trust policy of %s: %v", nameOf(p.ARN), t.err))
			}
		}
	}
	return unread
}

// covers reports whether a statement is about an action, whatever its effect.
func covers(st keypolicy.Statement, action string) bool {
	action = strings.ToLower(action)
	return slices.ContainsFunc(st.Actions, func(p string) bool { return keypolicy.Match(strings.ToLower(p), action) }) != st.NotAction
}
