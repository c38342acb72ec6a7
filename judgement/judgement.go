// Package judgement decides how severe an occurrence is in its context
// ([Rules.Judge]), and which occurrences the operator has exempted
// ([Exemptions.Find]). It is pure and reads nothing.
//
// Attackers can choose the tags and aliases of keys. What raises a severity
// counts at once; what lowers it must have lasted, so that an attacker cannot
// lower it by a tag first. See [Lasts].
package judgement

import (
	"fmt"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// Lasts is how long a key must have had a tag or an alias before that lowers a
// severity: time enough to notice who set it.
const Lasts = 24 * time.Hour

// Key is what selectors pick keys by.
type Key struct {
	// Aliases are names such as "alias/app".
	Aliases []string
	Tags    map[string]string
}

// Actor is who did it. The zero value is unknown.
type Actor struct {
	// Principal is the ARN of the role (not of its session) or of the user.
	Principal string
	// Foreign: it belongs to another account than the key, Trusted to one that the
	// operator trusts.
	Foreign, Trusted bool
	// Root: it is the root user of its account.
	Root bool
	// Service: AWS itself, or one of its services.
	Service bool
	// NoMFA: a user or root, in a session without a second factor.
	NoMFA bool
	// Unconfirmed: nothing but a message says who it was. It makes nothing quieter.
	Unconfirmed bool
}

// Confirmed is the actor if what a message says is right.
func (a Actor) Confirmed() Actor {
	a.Unconfirmed = false
	return a
}

// Selector picks keys: by a pattern of alias names ("alias/prod-*"), or by a tag
// and a pattern of its value ("tag env=prod"). "*" stands for any text.
type Selector struct {
	alias      string
	tag, value string
}

// ParseSelector reads "alias/PATTERN" or "tag NAME=VALUE".
func ParseSelector(s string) (Selector, error) {
	s = strings.TrimSpace(s)
	if name, ok := strings.CutPrefix(s, "alias/"); ok && name != "" {
		return Selector{alias: s}, nil
	}
	if tag, ok := strings.CutPrefix(s, "tag "); ok {
		// The first "=" parts them: KMS allows it in both, people use it in neither.
		name, value, ok := strings.Cut(strings.TrimSpace(tag), "=")
		if name, value = strings.TrimSpace(name), strings.TrimSpace(value); ok && name != "" && value != "" {
			return Selector{tag: name, value: value}, nil
		}
	}
	if everything(s) {
		return Selector{}, fmt.Errorf("%q would be every key, and keys are picked by alias or by tag: write alias/* for all that have an alias, or tag NAME=* for all that have the tag", s)
	}
	return Selector{}, fmt.Errorf("%q is neither aliases nor a tag: write alias/PATTERN or tag NAME=VALUE, such as alias/prod-* or tag env=prod", s)
}

// everything reports whether a pattern is nothing but stars.
func everything(pattern string) bool { return pattern != "" && strings.Trim(pattern, "*") == "" }

// String is the selector as ParseSelector reads it.
func (s Selector) String() string {
	if s.alias != "" {
		return s.alias
	}
	return "tag " + s.tag + "=" + s.value
}

// Tag is the name of the tag that the selector looks at, "" for one by alias.
func (s Selector) Tag() string { return s.tag }

// Picks reports whether the selector picks the key, and by what of it: an alias
// name, or "tag NAME=VALUE".
func (s Selector) Picks(k Key) (by string, ok bool) {
	if s.alias != "" {
		for _, name := range k.Aliases {
			if Matches(s.alias, name) {
				return name, true
			}
		}
		return "", false
	}
	value, tagged := k.Tags[s.tag]
	if !tagged || !Matches(s.value, value) {
		return "", false
	}
	return "tag " + s.tag + "=" + value, true
}

// all says which keys a selector picks that picks every one with an alias, or with the
// tag; "" for any other.
func (s Selector) all() string {
	switch {
	case strings.Trim(s.alias, "*") == "alias/":
		return "every key that has an alias"
	case s.tag != "" && everything(s.value):
		return "every key that has this tag"
	}
	return ""
}

// Principals picks actors by a pattern, in which "*" stands for any text:
// "role/NAME" and "user/NAME" are those of the key's own account, with or
// without their path; what begins with "arn:" is the whole ARN, of any account.
type Principals struct{ pattern string }

// ParsePrincipals reads such a pattern.
func ParsePrincipals(s string) (Principals, error) {
	s = strings.TrimSpace(s)
	for _, form := range []string{"role/", "user/", "arn:"} {
		if name, ok := strings.CutPrefix(s, form); ok && name != "" && !strings.ContainsAny(s, " \t\n") {
			return Principals{s}, nil
		}
	}
	if everything(s) {
		return Principals{}, fmt.Errorf("%q would be everybody, and actors are picked by role, user or ARN: write role/*, user/* or arn:aws:iam::ACCOUNT:*", s)
	}
	return Principals{}, fmt.Errorf("%q is no pattern of roles or users: write role/NAME, user/NAME or an ARN, such as role/deploy-*", s)
}

// String is the pattern as ParsePrincipals reads it.
func (p Principals) String() string { return p.pattern }

// Include reports whether the actor is one of them, for certain.
func (p Principals) Include(a Actor) bool {
	if a.Unconfirmed {
		return false
	}
	if strings.HasPrefix(p.pattern, "arn:") {
		return Matches(p.pattern, a.Principal)
	}
	principal := arn.Parse(a.Principal)
	if a.Foreign || principal.Service != "iam" {
		return false
	}
	kind, path, _ := strings.Cut(principal.Resource, "/")
	name := path[strings.LastIndexByte(path, '/')+1:]
	return Matches(p.pattern, kind+"/"+path) || Matches(p.pattern, kind+"/"+name)
}

// all reports whether the pattern matches every principal.
func (p Principals) all() bool {
	_, name, _ := strings.Cut(p.pattern, "/")
	if strings.HasPrefix(p.pattern, "arn:") {
		name = p.pattern[len("arn:"):]
	}
	return strings.Trim(name, "*:/") == ""
}

// Matches reports whether the name matches the pattern; "*" stands for any text.
func Matches(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	rest, ok := strings.CutPrefix(name, parts[0])
	if !ok {
		return false
	}
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(rest, p)
		if i < 0 {
			return false
		}
		rest = rest[i+len(p):]
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}
