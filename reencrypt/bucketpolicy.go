package reencrypt

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// bucketPolicy is as much of a bucket policy as a preflight judges.
type bucketPolicy struct {
	Statement statements
}

type policyStatement struct {
	Sid       string
	Effect    string
	Principal json.RawMessage
	Action    oneOrMany
	NotAction oneOrMany
	Resource  oneOrMany
	Condition map[string]map[string]oneOrMany
}

// statements is a list that may be written as its only element; so is oneOrMany,
// whose elements may be booleans, too.
type statements []policyStatement

func (s *statements) UnmarshalJSON(data []byte) error {
	if strings.HasPrefix(string(data), "[") {
		return json.Unmarshal(data, (*[]policyStatement)(s))
	}
	*s = make(statements, 1)
	return json.Unmarshal(data, &(*s)[0])
}

type oneOrMany []string

func (m *oneOrMany) UnmarshalJSON(data []byte) error {
	items := []json.RawMessage{data}
	if strings.HasPrefix(string(data), "[") {
		items = nil
		if err := json.Unmarshal(data, &items); err != nil {
			return err
		}
	}
	for _, item := range items {
		var text string
		if json.Unmarshal(item, &text) != nil {
			text = string(item) // a boolean or a number
		}
		*m = append(*m, text)
	}
	return nil
}

// The condition keys of writes that a move has to meet.
const (
	conditionKey         = "s3:x-amz-server-side-encryption-aws-kms-key-id"
	conditionIfMatch     = "s3:if-match"
	conditionIfNoneMatch = "s3:if-none-match"
)

// judgePolicy finds the statements that deny writes for their key or for being
// conditional or not. Where S3 is not known to fill these condition keys for a method
// they are warned of only.
func judgePolicy(f settings) []Finding {
	if f.policy == "" {
		return nil
	}
	var p bucketPolicy
	if err := json.Unmarshal([]byte(f.policy), &p); err != nil {
		return []Finding{{findingUnread, SeverityWarn, "Not checked: the bucket policy cannot be understood (" + err.Error() + ").", ""}}
	}
	by := f.method.traits()
	var all []Finding
	for i, s := range p.Statement {
		if s.Effect != "Deny" || !s.coversWrites() {
			continue
		}
		name := fmt.Sprintf("#%d", i+1)
		if s.Sid != "" {
			name = s.Sid
		}
		severity := SeverityStop
		if by.conditions != yes || !s.concernsAll() {
			severity = SeverityWarn
		}
		if key, refuses := s.key(f.To); refuses {
			all = append(all, Finding{findingPolicyKey, severity,
				fmt.Sprintf("Statement %s of the bucket policy denies writes under the new key: it demands %s.", name, key), "Put the new key into the policy first."})
		} else if key != "" && by.conditions != yes {
			all = append(all, Finding{findingPolicyKey, SeverityWarn,
				fmt.Sprintf("Statement %s of the bucket policy demands %s. The new key meets that; whether %s shows its key to policies is not documented.", name, key, by.operation),
				"Should the job stop with access denied, except our role from the statement."})
		}
		switch {
		case s.names(conditionIfNoneMatch):
			all = append(all, Finding{findingPolicyCondition, severity,
				fmt.Sprintf("Statement %s of the bucket policy demands writes with If-None-Match, which only new objects can meet.", name), "Except our role from the statement."})
		case s.names(conditionIfMatch):
			all = append(all, Finding{findingPolicyCondition, SeverityWarn,
				fmt.Sprintf("Statement %s of the bucket policy demands writes with If-Match. Copies have it, UpdateObjectEncryption and the parts of a copy in parts cannot.", name), "Except our role from the statement."})
		}
	}
	return all
}

// coversWrites reports whether the statement is about s3:PutObject or
// s3:UpdateObjectEncryption.
func (s policyStatement) coversWrites() bool {
	covers := func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool {
			p = strings.ToLower(p)
			before, _, star := strings.Cut(p, "*")
			for _, action := range []string{"s3:putobject", "s3:updateobjectencryption"} {
				if p == action || star && strings.HasPrefix(action, before) {
					return true
				}
			}
			return false
		})
	}
	if s.NotAction != nil {
		return !covers(s.NotAction)
	}
	return covers(s.Action)
}

// concernsAll reports whether the statement is about everybody and all of the
// bucket, on no other condition than one that is judged.
func (s policyStatement) concernsAll() bool {
	principal := strings.ReplaceAll(string(s.Principal), " ", "")
	everybody := principal == `"*"` || principal == `{"AWS":"*"}`
	everything := slices.ContainsFunc(s.Resource, func(r string) bool { return r == "*" || strings.HasSuffix(r, "/*") && strings.Count(r, "/") == 1 })
	judged := 0
	for _, condition := range s.Condition {
		judged += len(condition)
	}
	return everybody && everything && judged == 1
}

// names reports whether the statement has a condition on the key.
func (s policyStatement) names(key string) bool {
	for _, condition := range s.Condition {
		for name := range condition {
			if strings.EqualFold(name, key) {
				return true
			}
		}
	}
	return false
}

// key returns the keys that the statement demands for writes, "" for none, and
// whether that refuses the target.
func (s policyStatement) key(to string) (demands string, refuses bool) {
	for operator, condition := range s.Condition {
		for name, values := range condition {
			if !strings.EqualFold(name, conditionKey) {
				continue
			}
			base := strings.TrimPrefix(strings.TrimPrefix(operator, "ForAnyValue:"), "ForAllValues:")
			matched := slices.ContainsFunc(values, func(v string) bool { return wildcard(v, to) })
			switch base = strings.TrimSuffix(base, "IfExists"); base {
			case "StringNotEquals", "StringNotEqualsIgnoreCase", "StringNotLike", "ArnNotEquals", "ArnNotLike":
				return strings.Join(values, " or "), !matched
			case "Null":
				return "a named key", false // a copy names it
			default:
				return "another key than " + strings.Join(values, " or "), matched
			}
		}
	}
	return "", false
}

// wildcard reports whether a pattern with "*" matches all of a text.
func wildcard(pattern, text string) bool {
	before, after, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == text
	}
	rest, ok := strings.CutPrefix(text, before)
	if !ok {
		return false
	}
	for i := range len(rest) + 1 {
		if wildcard(after, rest[i:]) {
			return true
		}
	}
	return false
}
