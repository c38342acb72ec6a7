package handlers_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/internal/awscli"
	"github.com/cmkeeper/cmkeeper/internal/cli"
	"github.com/cmkeeper/cmkeeper/internal/command"
	_ "github.com/cmkeeper/cmkeeper/internal/testgc" // accounts that live for one test are garbage soon
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
	words, err := awscli.Words(next)
	if err != nil {
		return err
	}
	if n := len(words); n > 2 && words[n-2] == ">" { // into a file
		words = words[:n-2]
	}
	if isAWS {
		return awscli.Check(words[1:])
	}
	return checkOurs(words[1:])
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
