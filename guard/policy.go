package guard

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/keypolicy"
)

// judgePolicy judges whether the queue's policy lets EventBridge send on behalf of the
// rules that send there.
func judgePolicy(f Facts) ([]Problem, error) {
	switch {
	case f.Policy.Err != nil:
		return nil, f.Policy.Err
	case f.Rules.Err != nil:
		return nil, fmt.Errorf("the rules are not known: %w", f.Rules.Err)
	}
	var kept []string
	var unread error
	for _, r := range f.Rules.Value {
		if r.Target == nil || r.Target.Role != "" {
			continue // with a role, that role's policies decide as well
		}
		switch ok, err := admits(f.Policy.Value, f, r); {
		case err != nil:
			unread = errors.Join(unread, fmt.Errorf("rule %s: %w", r.Name, err))
		case !ok:
			kept = append(kept, r.Name)
		}
	}
	if len(kept) == 0 {
		return nil, unread
	}
	return []Problem{{
		Name: "queue-policy/kept-out", Severity: finding.Critical,
		Title:   "The policy of the events queue keeps EventBridge out",
		Summary: fmt.Sprintf("EventBridge may not send to queue %s on behalf of %s.", last(f.QueueARN, ":"), strings.Join(kept, ", ")),
		Risk:    "cmkeeper does not receive the events of these rules. Where a rule's target has no dead-letter queue, they are lost; its sweeps still find the changes.",
		Next: []string{
			"docs/operations.md has the policy of the events queue. Set it again (aws sqs set-queue-attributes):",
			command.Line("aws sqs get-queue-url --queue-name %s --region %s", command.QueueName(last(f.QueueARN, ":")), command.Region(f.Region)),
		},
		Details: []string{"the policy now: " + f.Policy.Value},
	}}, unread
}

// admits reports whether a queue's policy lets EventBridge send for a rule. The error says
// what in the policy is not understood, where that decides.
func admits(policy string, f Facts, r Rule) (bool, error) {
	if policy == "" {
		return false, nil
	}
	p, err := keypolicy.Parse([]byte(policy))
	if err != nil {
		return false, fmt.Errorf("the queue's policy is not understood: %w", err)
	}
	// What EventBridge's request says of itself (IAM User Guide, "Global condition keys").
	request := map[string]string{
		"aws:sourcearn": ruleARN(f, r), "aws:sourceaccount": f.Account, "aws:principalisawsservice": "true", "aws:principalservicename": eventBridge,
		"aws:securetransport": "true",
	}
	allowed, denied := none, none
	for _, s := range p.Statements {
		m := concerns(s, f.QueueARN)
		for _, c := range s.Conditions {
			m = min(m, holds(c, request))
		}
		if s.Deny {
			denied = max(denied, m)
		} else {
			allowed = max(allowed, m)
		}
	}
	switch {
	case allowed == none || denied == all:
		return false, nil
	case allowed == some || denied == some:
		return false, errors.New("the queue's policy has a condition that cmkeeper does not know")
	}
	return true, nil
}

const eventBridge = "events.amazonaws.com"

func ruleARN(f Facts, r Rule) string {
	partition, _, _ := strings.Cut(strings.TrimPrefix(f.QueueARN, "arn:"), ":")
	return fmt.Sprintf("arn:%s:events:%s:%s:rule/%s", partition, f.Region, f.Account, r.Name)
}

// concerns reports whether a statement is about EventBridge sending to the queue.
func concerns(s keypolicy.Statement, queueARN string) passes {
	who := slices.ContainsFunc(s.Principals, func(p keypolicy.Principal) bool {
		return p.ID == "*" || p.Type == "Service" && p.ID == eventBridge
	})
	what := slices.ContainsFunc(s.Actions, func(a string) bool { return judgement.Matches(strings.ToLower(a), "sqs:sendmessage") })
	// A queue's policy without Resource is about the queue.
	where := len(s.Resources) == 0 || slices.ContainsFunc(s.Resources, func(r string) bool { return judgement.Matches(r, queueARN) })
	return when(who != s.NotPrincipal && what != s.NotAction && where != s.NotResource)
}

// holds says whether a condition holds for a request: all for yes, some where its key or its
// operator is not known here.
func holds(c keypolicy.Condition, request map[string]string) passes {
	operator := strings.ToLower(c.Operator)
	operator, ifExists := strings.CutSuffix(operator, "ifexists")
	value, known := request[strings.ToLower(c.Key)]
	if !known {
		switch strings.ToLower(c.Key) {
		case "aws:principalarn", "aws:principalaccount", "aws:principalorgid", "aws:userid", "aws:username":
			// A service's own request has none: negated operators hold then.
			return when(ifExists || strings.Contains(operator, "not"))
		}
		return some
	}
	var test func(pattern string) bool
	switch strings.Replace(operator, "not", "", 1) {
	case "arnequals", "arnlike", "stringlike":
		test = func(p string) bool { return judgement.Matches(p, value) }
	case "stringequals":
		test = func(p string) bool { return p == value }
	case "stringequalsignorecase", "bool":
		test = func(p string) bool { return strings.EqualFold(p, value) }
	default:
		return some
	}
	if slices.ContainsFunc(c.Values, func(v string) bool { return strings.ContainsAny(v, "?$") }) {
		return some // single characters and policy variables
	}
	return when(slices.ContainsFunc(c.Values, test) != strings.Contains(operator, "not"))
}
