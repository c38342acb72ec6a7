// Package deploy reads the CloudFormation template of a fleet and evaluates it as
// CloudFormation would, for the tests that hold the template to the program. Nothing
// else imports it, so that neither it nor its YAML reader is part of the program.
package deploy

import (
	_ "embed" // the template
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Source is the text of the template.
//
//go:embed cloudformation/cmkeeper.yaml
var Source []byte

// Template is a template whose intrinsic functions are in their long form ("Fn::Sub").
type Template struct {
	Parameters                     map[string]Parameter
	Conditions, Resources, Outputs map[string]any
}

// Parameter is what a template asks for.
type Parameter struct {
	Type, Description, Default, AllowedPattern string
	AllowedValues                              []string
	MinValue, MaxValue                         int
	// Required: there is no default.
	Required bool
}

// Parse reads a template.
func Parse(source []byte) (*Template, error) {
	var node yaml.Node
	if err := yaml.Unmarshal(source, &node); err != nil {
		return nil, err
	}
	plain, err := long(node.Content[0])
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(plain)
	if err != nil {
		return nil, err
	}
	t := &Template{}
	if err := json.Unmarshal(text, t); err != nil {
		return nil, err
	}
	parameters, _ := plain.(map[string]any)["Parameters"].(map[string]any)
	for name, p := range t.Parameters {
		_, ok := parameters[name].(map[string]any)["Default"]
		p.Required = !ok
		t.Parameters[name] = p
	}
	return t, nil
}

// UnmarshalJSON reads a parameter, whose scalars are of any type.
func (p *Parameter) UnmarshalJSON(text []byte) error {
	var raw struct {
		Type, Description, AllowedPattern string
		Default                           any
		AllowedValues                     []any
		MinValue, MaxValue                int
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return err
	}
	*p = Parameter{Type: raw.Type, Description: raw.Description, AllowedPattern: raw.AllowedPattern, MinValue: raw.MinValue, MaxValue: raw.MaxValue}
	if raw.Default != nil {
		p.Default = fmt.Sprint(raw.Default)
	}
	for _, v := range raw.AllowedValues {
		p.AllowedValues = append(p.AllowedValues, fmt.Sprint(v))
	}
	return nil
}

// long returns a node with the short forms of functions (!Sub) in their long form.
func long(n *yaml.Node) (any, error) {
	var value any
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for pair := range slices.Chunk(n.Content, 2) {
			if _, twice := m[pair[0].Value]; twice {
				return nil, fmt.Errorf("line %d: %s is there twice", pair[0].Line, pair[0].Value)
			}
			v, err := long(pair[1])
			if err != nil {
				return nil, err
			}
			m[pair[0].Value] = v
		}
		value = m
	case yaml.SequenceNode:
		list := []any{}
		for _, item := range n.Content {
			v, err := long(item)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		value = list
	case yaml.ScalarNode:
		if !strings.HasPrefix(n.Tag, "!!") {
			value = n.Value
			break
		}
		if err := n.Decode(&value); err != nil {
			return nil, err
		}
	default: // CloudFormation has no aliases
		return nil, fmt.Errorf("line %d: a YAML alias", n.Line)
	}
	switch tag := n.Tag; {
	case strings.HasPrefix(tag, "!!"):
		return value, nil
	case tag == "!Ref", tag == "!Condition":
		return map[string]any{tag[1:]: value}, nil
	case tag == "!GetAtt":
		resource, attribute, _ := strings.Cut(value.(string), ".")
		return map[string]any{"Fn::GetAtt": []any{resource, attribute}}, nil
	default:
		return map[string]any{"Fn::" + tag[1:]: value}, nil
	}
}

// Place is where a stack is deployed.
type Place struct {
	Account, Region, Stack string
	// QueueURL is the beginning of queue URLs, before /ACCOUNT/NAME.
	QueueURL string
	// Parameters are those that have no default, or another value.
	Parameters map[string]string
	// IDs are physical ids by logical id, where AWS makes up what has no name in the template.
	IDs map[string]string
}

// Stack is a template whose parameters have values: what is left of its resources has
// no functions any more.
type Stack struct {
	Resources map[string]Resource

	place    Place
	template *Template
}

// Resource is a resource of a stack.
type Resource struct {
	Type       string
	Properties map[string]any
}

// Deploy evaluates the template. It does not guess: what it does not know is an error.
func (t *Template) Deploy(p Place) (*Stack, error) {
	s := &Stack{Resources: map[string]Resource{}, place: p, template: t}
	for name := range p.Parameters {
		if _, ok := t.Parameters[name]; !ok {
			return nil, fmt.Errorf("there is no parameter %s", name)
		}
	}
	var problems []error
	for _, id := range slices.Sorted(maps.Keys(t.Resources)) {
		resource := t.Resources[id].(map[string]any)
		if condition, ok := resource["Condition"].(string); ok {
			holds, err := s.holds(map[string]any{"Condition": condition})
			if err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", id, err))
			}
			if !holds {
				continue
			}
		}
		value, err := s.evaluate(resource["Properties"])
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", id, err))
		}
		properties, _ := value.(map[string]any)
		s.Resources[id] = Resource{resource["Type"].(string), properties}
	}
	return s, errors.Join(problems...)
}

// OfType returns the logical ids of the resources of a type, sorted.
func (s *Stack) OfType(name string) (ids []string) {
	for id, r := range s.Resources {
		if r.Type == name {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Identity returns what Ref gives of a resource, and its ARN where GetAtt has it, else Ref's once more.
func (s *Stack) Identity(id string) (ref, arn string) {
	value, err := s.ref(id)
	if err != nil {
		return "", ""
	}
	if of, err := s.attribute(id, "Arn"); err == nil {
		return fmt.Sprint(value), fmt.Sprint(of)
	}
	return fmt.Sprint(value), fmt.Sprint(value)
}

// Environment returns the variables of the only container of a task definition.
func (s *Stack) Environment(task string) map[string]string {
	environment := map[string]string{}
	for _, v := range s.Container(task)["Environment"].([]any) {
		pair := v.(map[string]any)
		environment[pair["Name"].(string)] = fmt.Sprint(pair["Value"])
	}
	return environment
}

// Container returns the only container of a task definition.
func (s *Stack) Container(task string) map[string]any {
	return s.Resources[task].Properties["ContainerDefinitions"].([]any)[0].(map[string]any)
}

// Policies returns the policies of a role, by name, in the order of the template: its
// inline ones, and then those that are resources of their own.
func (s *Stack) Policies(role string) (all []Policy) {
	policies, _ := s.Resources[role].Properties["Policies"].([]any)
	ref, _ := s.Identity(role)
	for _, id := range s.OfType("AWS::IAM::Policy") {
		if p := s.Resources[id].Properties; slices.Contains(p["Roles"].([]any), any(ref)) {
			policies = append(slices.Clone(policies), p)
		}
	}
	for _, p := range policies {
		p := p.(map[string]any)
		all = append(all, Policy{p["PolicyName"].(string), p["PolicyDocument"].(map[string]any)["Statement"].([]any)})
	}
	return all
}

// Policy is a policy of a role.
type Policy struct {
	Name       string
	Statements []any
}

// RolePolicy returns the policies of a role as one document.
func (s *Stack) RolePolicy(role string) ([]byte, error) {
	var statements []any
	for _, p := range s.Policies(role) {
		statements = append(statements, p.Statements...)
	}
	return json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": statements})
}
