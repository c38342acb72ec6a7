// Package awscli checks commands of the AWS CLI that texts advise, without the AWS CLI: for
// tests alone.
package awscli

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

// Words splits a command as a POSIX shell does. What the shell would act on is an error.
func Words(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord, inQuotes := false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case inQuotes && c == '\'':
			inQuotes = false
		case inQuotes:
			word.WriteByte(c)
		case c == '\'':
			inWord, inQuotes = true, true
		case c == '\\' && i+1 < len(s):
			i++
			inWord = true
			word.WriteByte(s[i])
		case c == ' ':
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		case c == '>' && !inWord && strings.HasPrefix(s[i:], "> "):
			words = append(words, ">")
		case strings.IndexByte("\"`$&|;<>(){}[]*?!#~", c) >= 0:
			return nil, fmt.Errorf("the shell acts on %q", c)
		default:
			inWord = true
			word.WriteByte(c)
		}
	}
	if inQuotes {
		return nil, errors.New("a quote is open")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// clients have a method for each operation of a service.
var clients = map[string]any{
	"kms": &kms.Client{}, "s3api": &s3.Client{}, "sqs": &sqs.Client{}, "sns": &sns.Client{},
	"events": &eventbridge.Client{}, "cloudtrail": &cloudtrail.Client{},
}

// shapeOnly are services whose operations cannot be looked up here.
var shapeOnly = []string{"iam", "organizations", "ec2", "rds", "cloudhsmv2", "cloudformation", "cloudwatch", "ecr", "ecs", "logs"}

// valueless are options that take no value, apart from those that begin with no- or bypass-.
var valueless = []string{"enable", "use-previous-template"}

// Check compares the words after "aws" with the SDK: the operation is a method of the
// service's client, each option a member of its input. Of services that have no client here
// it checks the form alone. A value that begins with { is JSON, but for CloudWatch Logs, whose
// filters begin so, too.
func Check(words []string) error {
	if len(words) < 2 {
		return errors.New("it names no operation")
	}
	service, operation := words[0], words[1]
	var input reflect.Type
	if client, ok := clients[service]; ok {
		method, ok := reflect.TypeOf(client).MethodByName(camel(operation))
		if !ok {
			return fmt.Errorf("%s has no operation %s", service, operation)
		}
		input = method.Type.In(2).Elem()
	} else if !slices.Contains(shapeOnly, service) {
		return fmt.Errorf("service %s is not known here", service)
	}
	first := 2
	if service == "logs" && operation == "tail" && len(words) > 2 {
		first++ // the log group, an argument
	}
	for i := first; i < len(words); i++ {
		option, ok := strings.CutPrefix(words[i], "--")
		if !ok {
			return fmt.Errorf("%q is no option", words[i])
		}
		if input != nil && !isOption(input, option) {
			return fmt.Errorf("%s %s has no option --%s", service, operation, option)
		}
		values := 0
		for i+1 < len(words) && !strings.HasPrefix(words[i+1], "--") {
			i++
			values++
			if service != "logs" && strings.HasPrefix(words[i], "{") && !json.Valid([]byte(words[i])) {
				return fmt.Errorf("--%s is no JSON", option)
			}
			if words[i] == "" {
				return fmt.Errorf("--%s is empty", option)
			}
		}
		if flag := strings.HasPrefix(option, "no-") || strings.HasPrefix(option, "bypass-") || slices.Contains(valueless, option); values == 0 && !flag {
			return fmt.Errorf("--%s has no value", option)
		}
	}
	return nil
}

// isOption reports whether the AWS CLI has an option for an input.
func isOption(input reflect.Type, option string) bool {
	if slices.Contains([]string{"region", "query", "output", "endpoint-url"}, option) {
		return true
	}
	option = strings.ReplaceAll(strings.TrimPrefix(option, "no-"), "-", "")
	return slices.ContainsFunc(reflect.VisibleFields(input), func(f reflect.StructField) bool { return strings.EqualFold(f.Name, option) })
}

func camel(kebab string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(kebab, "-") {
		if part != "" {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	return b.String()
}
