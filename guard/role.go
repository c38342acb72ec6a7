package guard

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/keypolicy"
)

// Lack is something that the role cannot do on a key although the modes need it.
type Lack struct {
	// Key is the key's ARN, Action the IAM action, Why how that is known.
	Key, Action, Why string
}

// Principal is the role or user that cmkeeper runs as; Noun is "role" or "user".
type Principal struct{ Account, Noun, Name string }

// is reports whether a principal of a policy is, or may stand for, this one.
func (p Principal) is(who keypolicy.Principal) bool {
	if who.Type != "AWS" {
		return false
	}
	a := arn.Parse(who.ID)
	return who.ID == "*" || who.ID == p.Account ||
		a.Account == p.Account && a.Name() == p.Name && strings.HasPrefix(a.Resource, p.Noun+"/")
}

// Denied returns those of the actions that a key policy surely denies a principal: no
// statement lets it call them, itself or by the account's IAM policies, or a Deny without
// conditions takes them away. What depends on conditions, and what IAM policies say, is not
// known, and is not denied.
func Denied(p *keypolicy.Policy, who Principal, actions []string) (denied []string) {
	for _, action := range actions {
		allowed := false
		taken := false
		for _, s := range p.Statements {
			about := slices.ContainsFunc(s.Actions, func(a string) bool { return judgement.Matches(strings.ToLower(a), strings.ToLower(action)) }) != s.NotAction
			named := slices.ContainsFunc(s.Principals, who.is)
			switch {
			case !about:
			case !s.Deny:
				allowed = allowed || named || s.NotPrincipal
			case named && !s.NotPrincipal && len(s.Conditions) == 0:
				taken = true
			}
		}
		if !allowed || taken {
			denied = append(denied, action)
		}
	}
	return denied
}

// maxLacks is how many keys a problem lists.
const maxLacks = 50

// judgeRole judges whether the role can do what the modes need, as far as key policies and
// AWS's refusals show it.
func judgeRole(f Facts) (problems []Problem, _ error) {
	if f.Lacks.Err != nil {
		return nil, f.Lacks.Err
	}
	byAction := map[string][]string{}
	var order []string
	for _, l := range f.Lacks.Value {
		if byAction[l.Action] == nil {
			order = append(order, l.Action)
		}
		byAction[l.Action] = append(byAction[l.Action], fmt.Sprintf("key %s: %s", l.Key, l.Why))
	}
	slices.Sort(order)
	for _, action := range order {
		keys := byAction[action]
		first := f.Lacks.Value[slices.IndexFunc(f.Lacks.Value, func(l Lack) bool { return l.Action == action })]
		problems = append(problems, Problem{
			Name: "role/" + action, Severity: finding.High, Details: keys[:min(len(keys), maxLacks)],
			Title:   fmt.Sprintf("cmkeeper may not call %s on %d keys, and its modes need that", action, len(keys)),
			Summary: "AWS refused the call when it was last made, or the key policy does not let cmkeeper make it, whatever its IAM policy says.",
			Risk:    "cmkeeper would alert about a change to these keys, and could not undo it.",
			Next: []string{
				fmt.Sprintf("Allow cmkeeper's %s %s in its IAM policy and in the key policies: a key policy that leaves permissions to IAM policies, as KMS's default one does, suffices.", f.Role, action),
				command.Line("aws kms get-key-policy --policy-name default --output text --key-id %s --region %s", command.Key(first.Key), command.Region(f.Region)),
			},
		})
	}
	return problems, nil
}
