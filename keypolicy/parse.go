package keypolicy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Policy is a parsed key policy.
type Policy struct {
	Statements []Statement
}

// Statement is one rule of a policy.
type Statement struct {
	// Label is the Sid, or "#n" (from 1) where there is none.
	Label string
	// Deny is the statement's effect; the other is Allow.
	Deny bool
	// Principals are whom it is for, or, with NotPrincipal, whom it is not for.
	Principals   []Principal
	NotPrincipal bool
	// Actions are patterns ("kms:Put*"), or, with NotAction, what it leaves out.
	Actions   []string
	NotAction bool
	// Resources are patterns; none means "*", which is the key itself.
	Resources   []string
	NotResource bool
	// Conditions must all hold.
	Conditions []Condition
}

// Principal is whom a statement names. The forms that mean the same are one:
// "*" and {"AWS": "*"}; an account's id and its root ARN (kept as the id).
type Principal struct {
	Type string // AWS, Service, Federated or CanonicalUser
	ID   string
}

// Condition is one key of a condition operator, whose values are alternatives.
type Condition struct {
	Operator string // as written, with qualifier and IfExists
	Key      string // as written; keys compare without regard to case
	Values   []string
}

var everyone = Principal{"AWS", "*"}

// String returns the principal as it reads in a sentence.
func (p Principal) String() string {
	switch {
	case p == everyone:
		return "everyone"
	case isAccountID(p.ID):
		return "account " + p.ID
	}
	return p.ID
}

// account returns the account that the principal belongs to, or "".
func (p Principal) account() string {
	if p.Type == "AWS" && isAccountID(p.ID) {
		return p.ID
	}
	return arnAccount(p.ID)
}

// Parse reads a key policy document. Its errors say which statement is wrong
// and how; they quote single words of the document at most.
func Parse(document []byte) (*Policy, error) {
	p, err := parse(document)
	if err != nil {
		return nil, fmt.Errorf("keypolicy: %w", err)
	}
	return p, nil
}

func parse(document []byte) (*Policy, error) {
	var d struct {
		Version   string
		ID        string `json:"Id"`
		Statement oneOrMany[json.RawMessage]
	}
	if err := strict(document, &d); err != nil {
		return nil, fmt.Errorf("decode policy: %w", err)
	}
	if err := noDuplicates(json.NewDecoder(bytes.NewReader(document)), true); err != nil {
		return nil, fmt.Errorf("decode policy: %w", err)
	}
	if d.Version != "" && d.Version != "2012-10-17" && d.Version != "2008-10-17" {
		return nil, fmt.Errorf("policy version %.20q: want 2012-10-17 or 2008-10-17", d.Version)
	}
	if len(d.Statement) == 0 {
		return nil, errors.New("policy has no statement")
	}
	p := &Policy{Statements: make([]Statement, 0, len(d.Statement))}
	for i, raw := range d.Statement {
		s, err := parseStatement(raw)
		if err != nil {
			return nil, fmt.Errorf("statement #%d: %w", i+1, err)
		}
		if s.Label == "" {
			s.Label = "#" + strconv.Itoa(i+1)
		}
		p.Statements = append(p.Statements, s)
	}
	return p, nil
}

func parseStatement(raw json.RawMessage) (Statement, error) {
	var d struct {
		Sid          string
		Effect       string
		Principal    principals
		NotPrincipal principals
		Action       oneOrMany[string]
		NotAction    oneOrMany[string]
		Resource     oneOrMany[string]
		NotResource  oneOrMany[string]
		Condition    map[string]map[string]oneOrMany[scalar]
	}
	if err := strict(raw, &d); err != nil {
		return Statement{}, err
	}
	s := Statement{Label: d.Sid}
	switch d.Effect {
	case "Allow":
	case "Deny":
		s.Deny = true
	default:
		return Statement{}, fmt.Errorf("effect %.20q: want Allow or Deny", d.Effect)
	}
	var err error
	if s.Principals, s.NotPrincipal, err = oneOf("Principal", d.Principal, d.NotPrincipal); err != nil {
		return Statement{}, err
	}
	if s.Actions, s.NotAction, err = oneOf("Action", d.Action, d.NotAction); err != nil {
		return Statement{}, err
	}
	if d.Resource != nil || d.NotResource != nil {
		if s.Resources, s.NotResource, err = oneOf("Resource", d.Resource, d.NotResource); err != nil {
			return Statement{}, err
		}
	}
	for operator, keys := range d.Condition {
		for key, values := range keys {
			c := Condition{Operator: operator, Key: key}
			for _, v := range values {
				c.Values = append(c.Values, string(v))
			}
			s.Conditions = append(s.Conditions, c)
		}
	}
	slices.SortFunc(s.Conditions, func(a, b Condition) int {
		return strings.Compare(a.Operator+"\x00"+a.Key, b.Operator+"\x00"+b.Key)
	})
	return s, nil
}

// oneOf returns the element or its Not form: exactly one must be there.
func oneOf[L ~[]T, T any](name string, positive, negative L) (list []T, not bool, err error) {
	switch {
	case len(positive) > 0 && len(negative) > 0:
		return nil, false, fmt.Errorf("both %s and Not%s", name, name)
	case len(positive) > 0:
		return positive, false, nil
	case len(negative) > 0:
		return negative, true, nil
	}
	return nil, false, fmt.Errorf("neither %s nor Not%s", name, name)
}

// principals is the value of Principal and NotPrincipal.
type principals []Principal

func (p *principals) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		var all string
		if err := json.Unmarshal(data, &all); err != nil {
			return err
		}
		if all != "*" {
			return fmt.Errorf("principal %.80q: want \"*\" or an object", all)
		}
		*p = principals{everyone}
		return nil
	}
	var byType map[string]oneOrMany[string]
	if err := json.Unmarshal(data, &byType); err != nil {
		return fmt.Errorf("principal: %w", err)
	}
	for kind, ids := range byType {
		switch kind {
		case "AWS", "Service", "Federated", "CanonicalUser":
		default:
			return fmt.Errorf("principal type %.20q: want AWS, Service, Federated or CanonicalUser", kind)
		}
		for _, id := range ids {
			if account := arnAccount(id); kind == "AWS" && isAccountID(account) && strings.HasSuffix(id, ":iam::"+account+":root") {
				id = account
			}
			*p = append(*p, Principal{kind, id})
		}
	}
	slices.SortFunc(*p, comparePrincipals)
	return nil
}

func comparePrincipals(a, b Principal) int {
	return strings.Compare(a.Type+"\x00"+a.ID, b.Type+"\x00"+b.ID)
}

// oneOrMany is a value that policies write alone or in an array.
type oneOrMany[T any] []T

func (l *oneOrMany[T]) UnmarshalJSON(data []byte) error {
	if data[0] == '[' {
		return json.Unmarshal(data, (*[]T)(l))
	}
	if bytes.Equal(data, []byte("null")) {
		return errors.New("null where a value is needed")
	}
	var one T
	if err := json.Unmarshal(data, &one); err != nil {
		return err
	}
	*l = []T{one}
	return nil
}

// scalar is a condition's value: a string, or a boolean or number as its text.
type scalar string

func (s *scalar) UnmarshalJSON(data []byte) error {
	switch data[0] {
	case '"':
		return json.Unmarshal(data, (*string)(s))
	case '{', '[', 'n':
		return errors.New("condition value: want a string, a number or a boolean")
	}
	*s = scalar(data)
	return nil
}

// strict decodes one JSON value whose members are all known. An element that we
// do not know may change what the others mean, so it is refused, as by AWS.
func strict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("text after the end of the document")
	}
	return nil
}

// noDuplicates refuses a JSON value with an object that has a member twice:
// which of the two AWS takes is not documented, and one of them would not be
// judged. With fold, names that differ in case are the same, as for the decoder;
// not so in conditions, where keys of encryption contexts keep their case.
func noDuplicates(d *json.Decoder, fold bool) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	switch t {
	case json.Delim('['):
		for d.More() {
			if err := noDuplicates(d, fold); err != nil {
				return err
			}
		}
	case json.Delim('{'):
		seen := map[string]bool{}
		for d.More() {
			t, err := d.Token()
			if err != nil {
				return err
			}
			name, _ := t.(string)
			if fold {
				name = strings.ToLower(name)
			}
			if seen[name] {
				return fmt.Errorf("member %.40q twice in one object", t)
			}
			seen[name] = true
			if err := noDuplicates(d, fold && name != "condition"); err != nil {
				return err
			}
		}
	default:
		return nil
	}
	_, err = d.Token() // the closing delimiter
	return err
}

func isAccountID(s string) bool {
	if len(s) != 12 {
		return false
	}
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// arnAccount returns the account of an ARN, or "".
func arnAccount(arn string) string {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) < 6 || parts[0] != "arn" {
		return ""
	}
	return parts[4]
}
