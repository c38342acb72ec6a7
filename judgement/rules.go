package judgement

import (
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
)

// Rules are what the operator configured about keys, actors and times. The zero value
// judges by the actor alone.
type Rules struct {
	// Sensitive and Sandbox pick keys. A key that both pick is sensitive.
	Sensitive, Sandbox []Selector
	// Pipelines change keys as their work.
	Pipelines []Principals
	// Hours are when people work.
	Hours Hours
}

// Occurrence is what happened, as far as rules look at it.
type Occurrence struct {
	// Severity is that of what happened, before its context counts.
	Severity finding.Severity
	// Fixed is why nothing lowers it ("the finding public-principal"), or "".
	Fixed string
	// Live is the key as it is, Noted as it was last read, and Lasting what of it has
	// lasted.
	Live, Noted, Lasting Key
	Actor                Actor
	At                   time.Time
}

// Verdict is a severity with its reasons, in the order of the rules; without reasons
// where no rule made a difference.
type Verdict struct {
	Severity finding.Severity
	Reasons  []string
}

// rule is one line of the table.
type rule struct {
	// name and about are for the documentation.
	name, about string
	// step is how far it moves the severity: up, or down if negative.
	step int
	// applies reports whether the rule applies, and why, in words that follow "because".
	applies func(Rules, Occurrence) (why string, ok bool)
}

// table has all rules but that of the hours, which looks at their result.
var table = []rule{
	{"sensitive key", "The key is one of `CMKEEPER_SENSITIVE_KEYS`, now or by what was known of it.", +1,
		func(r Rules, o Occurrence) (string, bool) {
			by, ok := r.sensitive(o)
			return "the key is sensitive (" + by + ")", ok
		}},
	{"root", "The root user of an account did it.", +1,
		func(_ Rules, o Occurrence) (string, bool) { return "the root user did it", o.Actor.Root }},
	{"no second factor", "A user or root did it, in a session that was opened without one, as the record says. Roles are not judged by this: their sessions never show it.", +1,
		func(_ Rules, o Occurrence) (string, bool) {
			return "the session was opened without a second factor", o.Actor.NoMFA
		}},
	{"stranger", "The actor belongs to another account, which is not one of `CMKEEPER_TRUSTED_ACCOUNTS`.", +1,
		func(_ Rules, o Occurrence) (string, bool) {
			return "the actor belongs to an account that is not trusted", o.Actor.Foreign && !o.Actor.Trusted
		}},
	{"pipeline", "The actor is one of `CMKEEPER_PIPELINE_ROLES`.", -1,
		func(r Rules, o Occurrence) (string, bool) {
			by, ok := r.pipeline(o.Actor)
			return "a known pipeline did it (" + by + ")", ok
		}},
	{"sandbox", "The key is one of `CMKEEPER_SANDBOX_KEYS`, has been for a day, and is not sensitive.", -1,
		func(r Rules, o Occurrence) (string, bool) {
			by, ok := r.sandbox(o)
			return "the key is in the sandbox (" + by + ")", ok
		}},
}

// The last rule, in words.
const (
	hoursName  = "off hours"
	hoursAbout = "It happened outside `CMKEEPER_BUSINESS_HOURS`, and is medium so far. It is not for pipelines, AWS services and keys in the sandbox, nor for what only a sweep saw."
)

// Judge decides how severe an occurrence is in its context. Info stays info: it is for
// the record. Critical is never lowered below medium, and what is Fixed is not lowered
// at all.
func (r Rules) Judge(o Occurrence) Verdict {
	severities := finding.Severities()
	base := slices.Index(severities, o.Severity)
	if base <= 0 {
		return Verdict{Severity: o.Severity} // info, or no severity
	}
	var up, down int
	var kept bool
	var reasons []string
	for _, rule := range table {
		why, ok := rule.applies(r, o)
		switch {
		case !ok:
		case rule.step > 0:
			up += rule.step
			reasons = append(reasons, "one up, because "+why)
		case o.Fixed != "":
			kept = true
			reasons = append(reasons, fmt.Sprintf("not lowered although %s, because of %s", why, o.Fixed))
		default:
			down -= rule.step
			reasons = append(reasons, "one down, because "+why)
		}
	}
	level := min(base+up-down, len(severities)-1)
	floor := 0
	if o.Severity == finding.Critical {
		floor = slices.Index(severities, finding.Medium)
	}
	if level < floor {
		level = floor
		reasons = append(reasons, fmt.Sprintf("not below %s", severities[floor]))
	}
	if severities[level] == finding.Medium && r.offHours(o) {
		level++
		reasons = append(reasons, "up to high, because it happened outside business hours ("+r.Hours.String()+")")
	}
	if level == base && down == 0 && !kept {
		reasons = nil // it was the highest already
	}
	if len(reasons) > 0 {
		reasons = append([]string{string(o.Severity) + " for what happened"}, reasons...)
	}
	return Verdict{Severity: severities[level], Reasons: reasons}
}

// offHours reports whether a person did it outside business hours.
func (r Rules) offHours(o Occurrence) bool {
	_, sandbox := r.sandbox(o)
	_, pipeline := r.pipeline(o.Actor)
	return o.Actor.Principal != "" && !o.Actor.Service && !pipeline && !sandbox && !r.Hours.Include(o.At)
}

// IsSensitive reports whether the key of an occurrence is one of Sensitive.
func (r Rules) IsSensitive(o Occurrence) bool {
	_, ok := r.sensitive(o)
	return ok
}

func (r Rules) sensitive(o Occurrence) (by string, ok bool) {
	if by, ok = pickedBy(r.Sensitive, o.Live); ok {
		return by, true
	}
	return pickedBy(r.Sensitive, o.Noted)
}

func (r Rules) sandbox(o Occurrence) (by string, ok bool) {
	if _, sensitive := r.sensitive(o); sensitive {
		return "", false
	}
	return pickedBy(r.Sandbox, o.Lasting)
}

func (r Rules) pipeline(a Actor) (by string, ok bool) {
	for _, p := range r.Pipelines {
		if p.Include(a) {
			return p.String(), true
		}
	}
	return "", false
}

// ByKey reports whether any rule looks at the key.
func (r Rules) ByKey() bool { return len(r.Sensitive)+len(r.Sandbox) > 0 }

func pickedBy(selectors []Selector, k Key) (by string, ok bool) {
	for _, s := range selectors {
		if by, ok = s.Picks(k); ok {
			return by, true
		}
	}
	return "", false
}
