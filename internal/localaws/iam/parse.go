package iam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Parse reads a resource policy. Its error says what is wrong with the document
// in the manner of AWS's MalformedPolicyDocumentException; the exact texts of
// AWS are not documented. As in KMS, a statement without Resource is accepted
// and applies to nothing. That a named user or role exists is not checked:
// localaws keeps no list of them.
func Parse(document []byte) (*Policy, error) { return parse(document, resourcePolicy) }

// ParseIdentity reads an identity policy: its statements have a Resource and no
// Principal, and are about the identity that has it.
func ParseIdentity(document []byte) (*Policy, error) { return parse(document, identityPolicy) }

// ParseTrust reads a role's trust policy: its statements have a Principal and no Resource,
// are about the role that has it, and speak of actions of STS only.
func ParseTrust(document []byte) (*Policy, error) { return parse(document, trustPolicy) }

// kind is what a policy belongs to.
type kind int

const (
	resourcePolicy kind = iota
	identityPolicy
	trustPolicy
)

func parse(document []byte, k kind) (*Policy, error) {
	var doc struct {
		Version   string
		ID        string
		Statement json.RawMessage
	}
	if err := decode(document, &doc); err != nil {
		return nil, fmt.Errorf("syntax errors in policy: %w", err)
	}
	if doc.Version != "" && doc.Version != "2012-10-17" && doc.Version != "2008-10-17" {
		return nil, fmt.Errorf("the policy version %q is not valid", doc.Version)
	}
	raw, err := oneOrMore[json.RawMessage](doc.Statement)
	if err != nil || len(raw) == 0 {
		return nil, errors.New("syntax errors in policy: missing required field Statement")
	}
	p := &Policy{}
	for i, r := range raw {
		s, err := parseStatement(r, k)
		if err != nil {
			return nil, fmt.Errorf("statement %d: %w", i+1, err)
		}
		s.variables = doc.Version == "2012-10-17"
		p.statements = append(p.statements, s)
	}
	return p, nil
}

func parseStatement(raw json.RawMessage, k kind) (statement, error) {
	var s statement
	var doc struct {
		Sid                     string
		Effect                  string
		Principal, NotPrincipal json.RawMessage
		Action, NotAction       json.RawMessage
		Resource, NotResource   json.RawMessage
		Condition               map[string]map[string]json.RawMessage
	}
	if err := decode(raw, &doc); err != nil {
		return s, fmt.Errorf("syntax errors in policy: %w", err)
	}
	switch doc.Effect {
	case "Allow":
	case "Deny":
		s.deny = true
	default:
		return s, fmt.Errorf("invalid effect %q", doc.Effect)
	}
	var err error
	switch {
	case k == trustPolicy && doc.NotPrincipal != nil:
		err = errors.New("a trust policy has no NotPrincipal")
	case k == trustPolicy && (doc.Resource != nil || doc.NotResource != nil):
		err = errors.New("has prohibited field Resource")
	case k != identityPolicy:
		s.principal, err = parsePrincipals(doc.Principal, doc.NotPrincipal)
	case doc.Principal != nil || doc.NotPrincipal != nil:
		err = errors.New("an identity policy has no Principal")
	case doc.Resource == nil && doc.NotResource == nil:
		err = errors.New("missing required field Resource")
	default:
		s.principal.everyone = true
	}
	if err != nil {
		return s, err
	}
	if s.action, err = parsePatterns("Action", doc.Action, doc.NotAction); err != nil {
		return s, err
	}
	if len(s.action.list) == 0 {
		return s, errors.New("missing required field Action")
	}
	for i, a := range s.action.list {
		if a != "*" && !strings.Contains(a, ":") {
			return s, errors.New("actions and conditions in the policy must be prefaced by a vendor")
		}
		if s.action.list[i] = strings.ToLower(a); k == trustPolicy && !strings.HasPrefix(s.action.list[i], "sts:") {
			return s, fmt.Errorf("a trust policy speaks of actions of STS, not of %q", a)
		}
	}
	if s.resource, err = parsePatterns("Resource", doc.Resource, doc.NotResource); err != nil {
		return s, err
	}
	if k == trustPolicy {
		s.resource.list = []string{"*"}
	}
	for op, keys := range doc.Condition {
		for key, raw := range keys {
			c := condition{operator: op, key: key}
			if c.values, err = conditionValues(raw); err != nil {
				return s, fmt.Errorf("condition %s of %s: %w", key, op, err)
			}
			s.conditions = append(s.conditions, c)
		}
	}
	return s, nil
}

// decode reads exactly one JSON value and refuses fields that v does not have.
func decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the document")
	}
	return nil
}

// oneOrMore reads a value that may stand alone or in a list.
func oneOrMore[T any](raw json.RawMessage) ([]T, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if raw[0] == '[' {
		var list []T
		return list, json.Unmarshal(raw, &list)
	}
	var one T
	err := json.Unmarshal(raw, &one)
	return []T{one}, err
}

func parsePatterns(name string, is, not json.RawMessage) (patterns, error) {
	if is != nil && not != nil {
		return patterns{}, fmt.Errorf("%s and Not%s exclude each other", name, name)
	}
	p := patterns{not: not != nil}
	raw := is
	if p.not {
		raw = not
	}
	var err error
	if p.list, err = oneOrMore[string](raw); err != nil {
		return p, fmt.Errorf("syntax errors in policy: %s: %w", name, err)
	}
	return p, nil
}

func conditionValues(raw json.RawMessage) ([]string, error) {
	scalars, err := oneOrMore[json.RawMessage](raw)
	if err != nil {
		return nil, err
	}
	values := make([]string, len(scalars))
	for i, s := range scalars {
		switch {
		case len(s) == 0 || slices.Contains([]byte("{[n"), s[0]):
			return nil, errors.New("a value must be a string, a number or a boolean")
		case s[0] == '"':
			if err := json.Unmarshal(s, &values[i]); err != nil {
				return nil, err
			}
		default:
			values[i] = string(s)
		}
	}
	return values, nil
}

var errPrincipal = errors.New("policy contains a statement with one or more invalid principals")

// A principal of type AWS: an account, the parts of IAM and STS that can call,
// or the unique id that IAM puts where a named user or role was deleted.
var principalARN = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^arn:aws[a-z-]*:(iam::\d{12}:(root|(user|role)/[\w+=,.@/-]+)|sts::\d{12}:(assumed-role/[\w+=,.@-]+/[\w+=,.@-]+|federated-user/[\w+=,.@-]+))$|^A(IDA|ROA)[A-Z0-9]+$`)
})

func isAccount(s string) bool {
	return len(s) == 12 && strings.Trim(s, "0123456789") == ""
}

func parsePrincipals(is, not json.RawMessage) (principals, error) {
	var p principals
	raw := is
	switch {
	case is == nil && not == nil:
		return p, errors.New("missing required field Principal")
	case is != nil && not != nil:
		return p, errors.New("Principal and NotPrincipal exclude each other") //nolint:staticcheck // the element's name
	case not != nil:
		p.not, raw = true, not
	}
	var star string
	if json.Unmarshal(raw, &star) == nil {
		if star != "*" {
			return p, errPrincipal
		}
		p.everyone = true
		return p, nil
	}
	var byType map[string]json.RawMessage
	if err := json.Unmarshal(raw, &byType); err != nil || len(byType) == 0 {
		return p, errPrincipal
	}
	for kind, raw := range byType {
		names, err := oneOrMore[string](raw)
		if err != nil || len(names) == 0 {
			return p, errPrincipal
		}
		switch kind {
		case "AWS":
			for _, n := range names {
				if n != "*" && !isAccount(n) && !principalARN().MatchString(n) {
					return p, errPrincipal
				}
				p.everyone = p.everyone || n == "*"
			}
			p.aws = names
		case "Service":
			p.services = names
		case "Federated", "CanonicalUser": // nobody calls localaws as one of these
		default:
			return p, errPrincipal
		}
	}
	return p, nil
}
