package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/keypolicy"
)

// policySource is a key policy that somebody named on the command line.
type policySource struct {
	name string // as it was named
	// file: it was read from the file of this name, so that its lines are places
	// that can be shown.
	file     bool
	document []byte
	policy   *keypolicy.Policy
	// spans are where the statements stand in the document.
	spans []span
	// account and keyARN are the key's, where they are known.
	account, keyARN string
}

// span is where a part of a text begins and ends, as lines and columns from 1,
// counted in characters. The end is behind its last character.
type span struct{ startLine, startColumn, endLine, endColumn int }

// place returns where the statement with the label of a finding stands; the
// beginning of the document for a finding about the whole policy.
func (s policySource) place(label string) span {
	i := slices.IndexFunc(s.policy.Statements, func(st keypolicy.Statement) bool { return st.Label == label })
	if i < 0 || i >= len(s.spans) {
		return span{1, 1, 1, 1}
	}
	return s.spans[i]
}

// statementSpans returns where the statements of a policy document stand, in
// their order. The document is one that keypolicy has parsed.
func statementSpans(document []byte) ([]span, error) {
	var spans []span
	d := json.NewDecoder(bytes.NewReader(document))
	value := func() ([2]int, error) {
		var raw json.RawMessage
		err := d.Decode(&raw)
		end := int(d.InputOffset())
		return [2]int{end - len(raw), end}, err
	}
	if _, err := d.Token(); err != nil { // the opening brace
		return nil, err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		at, err := value()
		if err != nil {
			return nil, err
		}
		if name, ok := name.(string); !ok || !strings.EqualFold(name, "Statement") {
			continue
		}
		if document[at[0]] != '[' {
			return append(spans, spanOf(document, at[0], at[1])), nil
		}
		// The same value again, now one element after the other.
		start := at[0]
		d = json.NewDecoder(bytes.NewReader(document[start:at[1]]))
		if _, err := d.Token(); err != nil {
			return nil, err
		}
		for d.More() {
			at, err := value()
			if err != nil {
				return nil, err
			}
			spans = append(spans, spanOf(document, start+at[0], start+at[1]))
		}
		return spans, nil
	}
	return nil, errors.New("no statement")
}

// spanOf turns the offsets of a part of a text into lines and columns.
func spanOf(text []byte, start, end int) span {
	position := func(offset int) (line, column int) {
		before := text[:offset]
		line = 1 + bytes.Count(before, []byte("\n"))
		return line, 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
	}
	var s span
	s.startLine, s.startColumn = position(start)
	s.endLine, s.endColumn = position(end)
	return s
}

// maxPolicyFile bounds what is read of a file: a key policy has 32 KiB at most,
// and may be written with much white space.
const maxPolicyFile = 1 << 20

// policyReader reads the policies that the command line names. AWS is asked
// only where a key is named.
type policyReader struct {
	process *process
	// account and keyARN are what the command line says of the keys of files.
	account, keyARN string
	// stateBucket is where recorded policies are.
	stateBucket string
	hand        *byHand
}

// baselinePrefix begins the name of a policy that the fleet recorded.
const baselinePrefix = "baseline:"

// keyName matches what names a key: its id, its ARN, an alias or an alias's ARN.
var keyName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(arn:[a-z-]+:kms:[a-z0-9-]+:\d{12}:(key|alias)/.+|alias/.+|mrk-[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)
})

// keyARN matches a key's ARN.
var keyARN = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^arn:[a-z-]+:kms:[a-z0-9-]+:\d{12}:key/[\w-]+$`)
})

// read reads and parses the policy that is named: a file, "-" for standard
// input, a key whose policy is live, or a recorded one, baseline:KEY or baseline:KEY@N.
func (r *policyReader) read(ctx context.Context, name string) (policySource, error) {
	s := policySource{name: name, account: r.account, keyARN: r.keyARN}
	var err error
	switch key, recorded := strings.CutPrefix(name, baselinePrefix); {
	case recorded:
		err = r.readBaseline(ctx, &s, key)
	case name == "-":
		s.name = "standard input"
		s.document, err = readAtMost(os.Stdin)
	default:
		s.document, err = readFile(name)
		s.file = err == nil
		if errors.Is(err, fs.ErrNotExist) && keyName().MatchString(name) {
			err = r.readKey(ctx, &s, name)
		} else if errors.Is(err, fs.ErrNotExist) {
			err = errors.New("there is no such file, and it is no key's id, ARN or alias (alias/…) either")
		}
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w", name, err)
	}
	return s, s.parse()
}

// parse parses the document.
func (s *policySource) parse() (err error) {
	if s.policy, err = keypolicy.Parse(s.document); err != nil {
		return fmt.Errorf("%s: %w%s", s.name, err, hintFor(s.document))
	}
	if s.spans, err = statementSpans(s.document); err != nil {
		return fmt.Errorf("%s: find the statements: %w", s.name, err)
	}
	return nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return readAtMost(f)
}

func readAtMost(in io.Reader) ([]byte, error) {
	document, err := io.ReadAll(io.LimitReader(in, maxPolicyFile+1))
	if err == nil && len(document) > maxPolicyFile {
		err = fmt.Errorf("larger than %d KiB: no key policy is", maxPolicyFile>>10)
	}
	return document, err
}

// hintFor says what a document seems to be that is no key policy.
func hintFor(document []byte) string {
	var answer struct{ Policy *string }
	if json.Unmarshal(document, &answer) == nil && answer.Policy != nil {
		return "; this is the answer of an AWS command, with the policy inside: get it with --query Policy --output text"
	}
	return ""
}

// aws returns the clients, made when they are first needed.
func (r *policyReader) aws(ctx context.Context) (byHand, error) {
	if r.hand == nil {
		hand, err := loadByHand(ctx, r.process, 4)
		if err != nil {
			return byHand{}, err
		}
		r.hand = &hand
	}
	return *r.hand, nil
}

func (r *policyReader) readKey(ctx context.Context, s *policySource, name string) error {
	hand, err := r.aws(ctx)
	if err != nil {
		return err
	}
	key, err := hand.facts.Key(ctx, name)
	if err != nil {
		return err
	}
	s.account, s.keyARN = key.Account, key.ARN
	document, err := hand.facts.Policy(ctx, key.ARN)
	s.document = []byte(document)
	return err
}

// accountOf finds out the account of a policy's key: as the command line says,
// by the key's ARN, or because the policy names one account's root only besides
// the trusted ones.
func (s policySource) accountOf(trusted []string) (account, how string, err error) {
	if s.account != "" {
		return s.account, "", nil
	}
	if account := arn.Account(s.keyARN); account != "" {
		return account, "", nil
	}
	var roots []string
	for _, st := range s.policy.Statements {
		for _, p := range st.Principals {
			if p.Type == "AWS" && accountID().MatchString(p.ID) && !st.Deny && !st.NotPrincipal && !slices.Contains(trusted, p.ID) && !slices.Contains(roots, p.ID) {
				roots = append(roots, p.ID)
			}
		}
	}
	switch len(roots) {
	case 1:
		return roots[0], ", taken from the policy's root principal", nil
	case 0:
		return "", "", fmt.Errorf("%s: the key's account is unknown, since the policy allows nothing to an account's root: give --account", s.name)
	}
	return "", "", fmt.Errorf("%s: the key's account is unknown, since the policy names the roots of several accounts (%s): give --account, and --trusted-account for the others", s.name, strings.Join(roots, ", "))
}

var accountID = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^\d{12}$`)
})

// organizationForm is the form of an organization's id (Organizations API Reference).
const organizationForm = `^o-[a-z0-9]{10,32}$`

var organizationID = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(organizationForm)
})
