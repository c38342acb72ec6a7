package keypolicy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Policy is a parsed key policy.
type Policy struct {
	// Version is "" where it is not there, which means 2008-10-17.
	Version    string
	Statements []Statement
}

// variables reports whether policy variables such as ${aws:ResourceAccount} stand
// for anything. In the old version they are taken literally.
func (p *Policy) variables() bool { return p.Version == "2012-10-17" }

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
	// KMS takes a statement without Action, and ignores it.
	Actions   []string
	NotAction bool
	// Resources are patterns; "*" is the key itself. KMS takes a statement
	// without Resource, and ignores it.
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

// isAnybody reports whether the principal is everyone, or everyone with an account
// that a wildcard stands for.
func (p Principal) isAnybody() bool {
	return strings.ContainsAny(p.ID, "*?") && !isAccountID(p.account())
}

// Parse reads a key policy document, or a role's trust policy, which has no Resource.
// Its errors say which statement is wrong and how; they quote single words of the
// document at most.
func Parse(document []byte) (*Policy, error) { return parse(document, false) }

// ParseIdentity reads a policy of a user, group or role, or a permissions boundary, whose
// statements name no principal and must name actions and resources. Its errors are those
// of [Parse].
func ParseIdentity(document []byte) (*Policy, error) { return parse(document, true) }

func parse(document []byte, identity bool) (*Policy, error) {
	p, err := parseDocument(document, identity)
	if err != nil {
		return nil, fmt.Errorf("keypolicy: %w", err)
	}
	return p, nil
}

func parseDocument(document []byte, identity bool) (*Policy, error) {
	r, err := read(document)
	if err != nil {
		return nil, fmt.Errorf("decode policy: %w", err)
	}
	p := &Policy{}
	err = r.members(strings.ToLower, func(name string) error {
		switch strings.ToLower(name) {
		case "version":
			var err error
			if p.Version, err = r.word(); err == nil && p.Version != "2012-10-17" && p.Version != "2008-10-17" {
				return fmt.Errorf("policy version %.20q: want 2012-10-17 or 2008-10-17", p.Version)
			}
			return err
		case "id":
			_, err := r.word()
			return err
		case "statement":
			return r.elements(func() error {
				s, err := parseStatement(r, identity)
				if err != nil {
					return fmt.Errorf("statement #%d: %w", len(p.Statements)+1, err)
				}
				p.Statements = append(p.Statements, s)
				return nil
			})
		}
		return unknownElement(name)
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("decode policy: %w", err)
	case len(p.Statements) == 0:
		return nil, errors.New("policy has no statement")
	}
	for i := range p.Statements {
		if s := &p.Statements[i]; s.Label == "" {
			s.Label = "#" + strconv.Itoa(i+1)
		}
	}
	return p, nil
}

// unknownElement refuses an element that is not known, as AWS does: it may
// change what the others mean.
func unknownElement(name string) error { return fmt.Errorf("unknown element %.40q", name) }

func parseStatement(r *reader, identity bool) (s Statement, err error) {
	var effect string
	var who, notWho []Principal
	var actions, notActions, resources, notResources []string
	err = r.members(strings.ToLower, func(name string) (err error) {
		switch strings.ToLower(name) {
		case "sid":
			s.Label, err = r.word()
		case "effect":
			effect, err = r.word()
		case "principal":
			who, err = parsePrincipals(r)
		case "notprincipal":
			notWho, err = parsePrincipals(r)
		case "action":
			actions, err = r.words()
		case "notaction":
			notActions, err = r.words()
		case "resource":
			resources, err = r.words()
		case "notresource":
			notResources, err = r.words()
		case "condition":
			s.Conditions, err = parseConditions(r)
		default:
			return unknownElement(name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return Statement{}, err
	}
	switch effect {
	case "Allow":
	case "Deny":
		s.Deny = true
	default:
		return Statement{}, fmt.Errorf("effect %.20q: want Allow or Deny", effect)
	}
	if s.Principals, s.NotPrincipal, err = oneOf("Principal", who, notWho); err != nil {
		return Statement{}, err
	}
	switch {
	case identity && (who != nil || notWho != nil):
		return Statement{}, errors.New("a principal in the policy of a principal")
	case !identity && len(s.Principals) == 0:
		return Statement{}, errors.New("neither Principal nor NotPrincipal")
	}
	if s.Actions, s.NotAction, err = oneOf("Action", actions, notActions); err != nil {
		return Statement{}, err
	}
	if s.Resources, s.NotResource, err = oneOf("Resource", resources, notResources); err != nil {
		return Statement{}, err
	}
	if identity && s.ignored() {
		return Statement{}, errors.New("neither Action nor Resource may be missing in the policy of a principal")
	}
	return s, nil
}

// oneOf returns the element or its Not form, which cannot both be there.
func oneOf[T any](name string, positive, negative []T) (list []T, not bool, err error) {
	switch {
	case positive != nil && negative != nil:
		return nil, false, fmt.Errorf("both %s and Not%s", name, name)
	case negative != nil:
		return negative, true, nil
	}
	return positive, false, nil
}

// parsePrincipals reads the value of Principal or NotPrincipal.
func parsePrincipals(r *reader) ([]Principal, error) {
	if r.at('"') {
		if all := r.string(); all != "*" {
			return nil, fmt.Errorf("%.80q: want \"*\" or an object", all)
		}
		return []Principal{everyone}, nil
	}
	var list []Principal
	err := r.members(asIs, func(kind string) error {
		switch kind {
		case "AWS", "Service", "Federated", "CanonicalUser":
		default:
			return fmt.Errorf("principal type %.20q: want AWS, Service, Federated or CanonicalUser", kind)
		}
		return r.elements(func() error {
			id, err := r.word()
			if account := arnAccount(id); kind == "AWS" && isAccountID(account) && strings.HasSuffix(id, ":iam::"+account+":root") {
				id = account
			}
			list = append(list, Principal{kind, id})
			return err
		})
	})
	slices.SortFunc(list, comparePrincipals)
	return slices.Compact(list), err
}

func comparePrincipals(a, b Principal) int {
	if c := strings.Compare(a.Type, b.Type); c != 0 {
		return c
	}
	return strings.Compare(a.ID, b.ID)
}

// parseConditions reads the value of Condition.
func parseConditions(r *reader) ([]Condition, error) {
	var list []Condition
	err := r.members(strings.ToLower, func(operator string) error {
		return r.members(ConditionKey, func(key string) error {
			c := Condition{Operator: operator, Key: key}
			err := r.elements(func() error {
				v, err := r.scalar()
				c.Values = append(c.Values, v)
				return err
			})
			list = append(list, c)
			return err
		})
	})
	slices.SortFunc(list, func(a, b Condition) int {
		if c := strings.Compare(a.Operator, b.Operator); c != 0 {
			return c
		}
		return strings.Compare(a.Key, b.Key)
	})
	return list, err
}

func asIs(name string) string { return name }

// ConditionKey returns a condition's key in the form that compares. Keys have no
// case, but those of an encryption context have.
func ConditionKey(key string) string {
	const context = "kms:encryptioncontext:"
	if len(key) > len(context) && strings.EqualFold(key[:len(context)], context) {
		return context + key[len(context):]
	}
	return strings.ToLower(key)
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
	const scheme = "arn:"
	if len(arn) < len(scheme) || !strings.EqualFold(arn[:len(scheme)], scheme) {
		return ""
	}
	for range 4 { // arn, partition, service, region
		_, after, found := strings.Cut(arn, ":")
		if !found {
			return ""
		}
		arn = after
	}
	account, _, found := strings.Cut(arn, ":")
	if !found {
		return ""
	}
	return account
}
