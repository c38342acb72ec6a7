package handlers_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/internal/cli"
	"github.com/cmkeeper/cmkeeper/internal/command"
)

// nextSteps are the next steps of all alerts that the tests of this package made, one
// of those that differ in a UUID alone.
var nextSteps struct {
	sync.Mutex
	seen map[string]string
}

var uuid = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

func noteNext(a alert.Alert) {
	nextSteps.Lock()
	defer nextSteps.Unlock()
	if nextSteps.seen == nil {
		nextSteps.seen = map[string]string{}
	}
	for _, n := range a.Next {
		nextSteps.seen[uuid.ReplaceAllString(n, "")] = n
	}
}

// TestMain checks, when all tests have run, that the commands of their alerts can be
// pasted.
func TestMain(m *testing.M) {
	code := m.Run()
	for _, n := range nextSteps.seen {
		if err := checkNext(n); err != nil {
			fmt.Printf("--- FAIL: next step %q: %v\n", n, err)
			code = 1
		}
	}
	os.Exit(code)
}

func TestCheckNext(t *testing.T) {
	for next, good := range map[string]bool{
		"Ask the key's owner.": true,
		"aws kms cancel-key-deletion --key-id 1 --region us-east-1":                                true,
		"aws kms put-key-policy --key-id 1 --policy-name default --policy '{\"a\": \"it'\\''s\"}'": false,
		"aws kms put-key-policy --key-id 1 --policy-name default --policy '{\"a\": \"b c\"}'":      true,
		"aws kms cancel-deletion --key-id 1":                                                       false,
		"aws kms cancel-key-deletion --key 1":                                                      false,
		"aws kms cancel-key-deletion --key-id":                                                     false,
		"aws kms put-key-policy --policy {\"a\":1}":                                                false,
		"aws kms cancel-key-deletion --key-id 'x":                                                  false,
		"aws kms cancel-key-deletion --key-id $(reboot)":                                           false,
		"cmkeeper reencrypt retry job-1":                                                           true,
		"cmkeeper reencrypt run --bucket b --from a --to b":                                        true,
		"cmkeeper replay event.json > good.json":                                                   true,
		"cmkeeper reencrypt run --bukket b":                                                        false,
		"cmkeeper turns rotation on":                                                               false,
		"cmkeeper reencrypt":                                                                       false,
		"Then let it go on: cmkeeper reencrypt resume job-1":                                       false,
	} {
		if err := checkNext(next); (err == nil) != good {
			t.Errorf("%q: %v", next, err)
		}
	}
}

// checkNext says what is wrong with a next step: a command must be one that a shell, the
// AWS CLI or cmkeeper itself understands, and a sentence must not hide one.
func checkNext(next string) error {
	if strings.ContainsAny(next, "\n\r\t") {
		return errors.New("it has several lines")
	}
	isAWS, isOurs := strings.HasPrefix(next, "aws "), strings.HasPrefix(next, "cmkeeper ")
	if !isAWS && !isOurs {
		if regexp.MustCompile(`: (aws|cmkeeper) [a-z]`).MatchString(next) {
			return errors.New("it hides a command in a sentence, where it cannot be copied")
		}
		return nil
	}
	if !command.Safe(next) {
		return errors.New("it is not safe to paste")
	}
	words, err := shellWords(next)
	if err != nil {
		return err
	}
	if n := len(words); n > 2 && words[n-2] == ">" { // into a file
		words = words[:n-2]
	}
	if isAWS {
		return checkAWS(words[1:])
	}
	return checkOurs(words[1:])
}

// shellWords splits a command as a POSIX shell does. What the shell would act on is an error.
func shellWords(s string) ([]string, error) {
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
var shapeOnly = []string{"iam", "organizations", "ec2", "rds", "cloudhsmv2"}

// checkAWS compares a command with the SDK: the operation is a method, each option a
// member of its input.
func checkAWS(words []string) error {
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
	for i := 2; i < len(words); i++ {
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
			if strings.HasPrefix(words[i], "{") && !json.Valid([]byte(words[i])) {
				return fmt.Errorf("--%s is no JSON", option)
			}
			if words[i] == "" {
				return fmt.Errorf("--%s is empty", option)
			}
		}
		if flag := strings.HasPrefix(option, "no-") || strings.HasPrefix(option, "bypass-") || option == "enable"; values == 0 && !flag {
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

// checkOurs has cmkeeper's own command line read a command, and explain it.
func checkOurs(words []string) error {
	var out, errs bytes.Buffer
	if code := cli.Main(append(slices.Clone(words), "--help"), nil, &out, &errs); code != 0 {
		return errors.New(strings.TrimSpace(errs.String()))
	}
	_, usage, _ := strings.Cut(out.String(), "Usage:\n  cmkeeper")
	usage, _, _ = strings.Cut(usage, "\n")
	if strings.HasSuffix(usage, "[command]") {
		return errors.New("it is no whole command")
	}
	name := strings.Fields(usage)
	if i := slices.IndexFunc(name, func(word string) bool { return word[0] < 'a' || word[0] > 'z' }); i >= 0 {
		name = name[:i] // without arguments and flags
	}
	if len(name) == 0 || len(name) > len(words) || !slices.Equal(name, words[:len(name)]) {
		return fmt.Errorf("it was read as cmkeeper%s", usage)
	}
	return nil
}
