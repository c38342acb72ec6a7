package access

import (
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/keypolicy"
)

// trust returns the statements of a role's trust policy. One that cannot be read has none.
func (r *Review) trust(p *Principal) []keypolicy.Statement {
	statements, ok := r.trusts[p.ARN]
	if !ok {
		if policy, err := keypolicy.Parse([]byte(p.Trust)); err == nil {
			statements = policy.Statements
		}
		r.trusts[p.ARN] = statements
	}
	return statements
}

// covers reports whether a statement is about an action, whatever its effect.
func covers(st keypolicy.Statement, action string) bool {
	action = strings.ToLower(action)
	return slices.ContainsFunc(st.Actions, func(p string) bool { return keypolicy.Match(strings.ToLower(p), action) }) != st.NotAction
}
