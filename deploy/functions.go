package deploy

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
)

// noValue is AWS::NoValue: the property or item that has it is not there.
type noValue struct{}

// evaluate returns a value without functions.
func (s *Stack) evaluate(v any) (any, error) {
	switch v := v.(type) {
	case []any:
		list := []any{}
		for _, item := range v {
			one, err := s.evaluate(item)
			if err != nil {
				return nil, err
			}
			if _, none := one.(noValue); !none {
				list = append(list, one)
			}
		}
		return list, nil
	case map[string]any:
		if name, argument := function(v); name != "" {
			return s.call(name, argument)
		}
		m := map[string]any{}
		for key, item := range v {
			one, err := s.evaluate(item)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			if _, none := one.(noValue); !none {
				m[key] = one
			}
		}
		return m, nil
	}
	return v, nil
}

// function returns the function that a map calls, "" where it is only a map.
func function(m map[string]any) (name string, argument any) {
	if len(m) != 1 {
		return "", nil
	}
	for key, v := range m {
		if key == "Ref" || strings.HasPrefix(key, "Fn::") {
			return key, v
		}
	}
	return "", nil
}

func (s *Stack) call(name string, argument any) (any, error) {
	switch name {
	case "Ref":
		return s.ref(argument.(string))
	case "Fn::GetAtt":
		pair := argument.([]any)
		return s.attribute(pair[0].(string), pair[1].(string))
	case "Fn::Sub":
		return s.sub(argument)
	case "Fn::If":
		branches := argument.([]any)
		holds, err := s.holds(map[string]any{"Condition": branches[0]})
		if err != nil {
			return nil, err
		}
		if holds {
			return s.evaluate(branches[1])
		}
		return s.evaluate(branches[2])
	case "Fn::Join", "Fn::Split", "Fn::Select":
		value, err := s.evaluate(argument)
		if err != nil {
			return nil, err
		}
		pair := value.([]any)
		switch name {
		case "Fn::Join":
			var parts []string
			for _, part := range pair[1].([]any) {
				parts = append(parts, fmt.Sprint(part))
			}
			return strings.Join(parts, pair[0].(string)), nil
		case "Fn::Split":
			return texts(strings.Split(pair[1].(string), pair[0].(string))), nil
		}
		return pair[1].([]any)[int(pair[0].(float64))], nil
	}
	return nil, fmt.Errorf("%s is not evaluated here", name)
}

func texts(list []string) []any {
	var all []any
	for _, s := range list {
		all = append(all, s)
	}
	return all
}

// holds evaluates a condition.
func (s *Stack) holds(v any) (bool, error) {
	for name, argument := range v.(map[string]any) {
		switch name {
		case "Condition":
			condition, ok := s.template.Conditions[argument.(string)]
			if !ok {
				return false, fmt.Errorf("there is no condition %s", argument)
			}
			return s.holds(condition)
		case "Fn::Equals":
			pair, err := s.evaluate(argument)
			if err != nil {
				return false, err
			}
			list := pair.([]any)
			return fmt.Sprint(list[0]) == fmt.Sprint(list[1]), nil
		case "Fn::Not":
			holds, err := s.holds(argument.([]any)[0])
			return !holds, err
		case "Fn::And", "Fn::Or":
			for _, one := range argument.([]any) {
				holds, err := s.holds(one)
				if err != nil || holds == (name == "Fn::Or") {
					return holds, err
				}
			}
			return name == "Fn::And", nil
		}
	}
	return false, fmt.Errorf("a condition that is not evaluated here: %v", v)
}

var placeholder = regexp.MustCompile(`\$\{([^!}][^}]*)\}`)

func (s *Stack) sub(argument any) (any, error) {
	var own map[string]any
	text, ok := argument.(string)
	if !ok {
		pair := argument.([]any)
		values, err := s.evaluate(pair[1])
		if err != nil {
			return nil, err
		}
		text, own = pair[0].(string), values.(map[string]any)
	}
	var problem error
	return placeholder.ReplaceAllStringFunc(text, func(found string) string {
		name := found[2 : len(found)-1]
		if v, ok := own[name]; ok {
			return fmt.Sprint(v)
		}
		resource, attribute, isAttribute := strings.Cut(name, ".")
		value, err := s.ref(resource)
		if isAttribute {
			value, err = s.attribute(resource, attribute)
		}
		problem = cmp.Or(problem, err)
		return fmt.Sprint(value)
	}), problem
}

func (s *Stack) ref(name string) (any, error) {
	switch name {
	case "AWS::AccountId":
		return s.place.Account, nil
	case "AWS::Region":
		return s.place.Region, nil
	case "AWS::Partition":
		return "aws", nil
	case "AWS::StackName":
		return s.place.Stack, nil
	case "AWS::NoValue":
		return noValue{}, nil
	}
	if p, ok := s.template.Parameters[name]; ok {
		value, given := s.place.Parameters[name]
		if !given && p.Required {
			return nil, fmt.Errorf("parameter %s has no value", name)
		}
		if !given {
			value = p.Default
		}
		if p.Type == "CommaDelimitedList" || strings.HasPrefix(p.Type, "List<") {
			return texts(strings.Split(value, ",")), nil
		}
		return value, nil
	}
	kind, id, err := s.physical(name)
	switch kind {
	case "AWS::SQS::Queue":
		return s.place.QueueURL + "/" + s.place.Account + "/" + id, err
	case "AWS::SNS::Topic", "AWS::ECS::TaskDefinition", "AWS::ECS::Service", "AWS::ApplicationAutoScaling::ScalableTarget":
		return s.arn(kind, id), err
	}
	return id, err
}

func (s *Stack) attribute(name, attribute string) (any, error) {
	kind, id, err := s.physical(name)
	switch {
	case err != nil:
		return nil, err
	case attribute == "Arn" && s.arn(kind, id) != "":
		return s.arn(kind, id), nil
	case attribute == "QueueName" && kind == "AWS::SQS::Queue", attribute == "TopicName" && kind == "AWS::SNS::Topic", attribute == "Name" && kind == "AWS::ECS::Service":
		return id, nil
	}
	return nil, fmt.Errorf("%s.%s is not evaluated here", name, attribute)
}

// names are the properties that name a resource.
var names = []string{"Name", "QueueName", "TopicName", "BucketName", "RoleName", "LogGroupName", "ClusterName", "ServiceName", "Family"}

// physical returns a resource's type and physical name.
func (s *Stack) physical(name string) (kind, id string, err error) {
	resource, ok := s.template.Resources[name].(map[string]any)
	if !ok {
		return "", "", fmt.Errorf("there is no %s", name)
	}
	kind = resource["Type"].(string)
	if id := s.place.IDs[name]; id != "" {
		return kind, id, nil
	}
	properties, _ := resource["Properties"].(map[string]any)
	for _, p := range names {
		if v, ok := properties[p]; ok {
			value, err := s.evaluate(v)
			return kind, fmt.Sprint(value), err
		}
	}
	return kind, strings.ToLower(s.place.Stack + "-" + name), nil
}

// arn returns a resource's ARN, "" where its form is not known here.
func (s *Stack) arn(kind, id string) string {
	regional := ":" + s.place.Region + ":" + s.place.Account + ":"
	switch kind {
	case "AWS::SQS::Queue":
		return "arn:aws:sqs" + regional + id
	case "AWS::SNS::Topic":
		return "arn:aws:sns" + regional + id
	case "AWS::S3::Bucket":
		return "arn:aws:s3:::" + id
	case "AWS::KMS::Key":
		return "arn:aws:kms" + regional + "key/" + id
	case "AWS::IAM::Role":
		return "arn:aws:iam::" + s.place.Account + ":role/" + id
	case "AWS::Events::Rule":
		return "arn:aws:events" + regional + "rule/" + id
	case "AWS::Logs::LogGroup":
		return "arn:aws:logs" + regional + "log-group:" + id + ":*"
	case "AWS::ECS::TaskDefinition":
		return "arn:aws:ecs" + regional + "task-definition/" + id + ":1"
	case "AWS::ECS::Service":
		return "arn:aws:ecs" + regional + "service/" + id
	case "AWS::ApplicationAutoScaling::ScalableTarget":
		return "arn:aws:application-autoscaling" + regional + "scalable-target/" + id
	}
	return ""
}
