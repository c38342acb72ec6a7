package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/keypolicy"
)

const policyAbout = `Judges key policies and compares them, for people, for pull requests and for machines.

A policy is a FILE, - for standard input, or a KEY (id, ARN, alias or alias ARN) whose live policy is read through the AWS SDK's configuration. Files need neither AWS nor any configuration. A file goes before a key of the same name.

Exit codes: 0 nothing found at or above --fail-on; 1 something found; 2 the command line is wrong or a policy cannot be read.`

func newPolicyCommand(p *process) *cobra.Command {
	command := &cobra.Command{Use: "policy", Short: "Judge key policies, compare them, and say which one is the good one", Long: policyAbout}
	command.AddCommand(newPolicyCheckCommand(p), newPolicyDiffCommand(p), newPolicyBaselineCommand(p))
	return command
}

// policyFlags are what check and diff have in common.
type policyFlags struct {
	json, sarif     bool
	failOn          string
	trusted, orgs   []string
	account, keyARN string
	stateBucket     string // for recorded policies
}

func (f *policyFlags) add(c *cobra.Command, of string) {
	flags := c.Flags()
	flags.BoolVar(&f.json, "json", false, "print one JSON object")
	flags.BoolVar(&f.sarif, "sarif", false, "print SARIF 2.1.0, which code scanning shows in a pull request")
	flags.StringVar(&f.failOn, "fail-on", string(finding.High), "least `severity` of "+of+" that makes the exit code 1: low, medium, high, critical, or none for never")
	flags.StringArrayVar(&f.trusted, "trusted-account", nil, "`account` that the policy may name; repeat it for several. CMKEEPER_TRUSTED_ACCOUNTS counts as well")
	flags.StringArrayVar(&f.orgs, "trusted-org", nil, "`organization` (o-…) whose accounts the policy may let in; repeat it for several. CMKEEPER_TRUSTED_ORGS counts as well")
	flags.StringVar(&f.account, "account", "", "`account` of the key of a FILE, by default that of --key-arn, or else the one whose root the policy names, if that is only one")
	flags.StringVar(&f.keyARN, "key-arn", "", "`ARN` of the key of a FILE: statements about other keys then do not count")
	c.MarkFlagsMutuallyExclusive("json", "sarif")
}

// failNever is the value of --fail-on that no finding reaches.
const failNever = "none"

// severities in rising order, as --fail-on takes them.
var severities = finding.Severities()[1:]

// prepare checks the flags and returns what policies are judged against, but for
// the key, and a reader of them.
func (f *policyFlags) prepare(ctx context.Context, p *process) (keypolicy.Context, *policyReader, error) {
	var problems []error
	if f.failOn != failNever && !slices.Contains(severities, finding.Severity(f.failOn)) {
		problems = append(problems, fmt.Errorf("--fail-on %q: must be low, medium, high, critical or none", f.failOn))
	}
	for _, account := range append([]string{f.account}, f.trusted...) {
		if account != "" && !accountID().MatchString(account) {
			problems = append(problems, fmt.Errorf("account %q: must have twelve digits", account))
		}
	}
	for _, org := range f.orgs {
		if !organizationID().MatchString(org) {
			problems = append(problems, fmt.Errorf("organization %q: must be o- and 10 to 32 letters and digits", org))
		}
	}
	if f.keyARN != "" && !keyARN().MatchString(f.keyARN) {
		problems = append(problems, fmt.Errorf("--key-arn %q: must be arn:aws:kms:REGION:ACCOUNT:key/ID", f.keyARN))
	}
	settings, err := loadForDesk[Common](ctx, p.environment)
	if err != nil {
		problems = append(problems, err)
	}
	if err := errors.Join(problems...); err != nil {
		return keypolicy.Context{}, nil, usageError{err}
	}
	return keypolicy.Context{
			TrustedAccounts: append(settings.TrustedAccounts, f.trusted...), TrustedOrgs: append(settings.TrustedOrgs, f.orgs...), Now: time.Now(),
		},
		&policyReader{process: p, account: f.account, keyARN: f.keyARN, stateBucket: f.stateBucket}, nil
}

// fails reports whether one of the findings makes the exit code 1.
func (f *policyFlags) fails(findings []finding.Finding) bool {
	return f.failOn != failNever && slices.ContainsFunc(findings, func(found finding.Finding) bool {
		return found.Severity.AtLeast(finding.Severity(f.failOn))
	})
}

// judgedPolicy is a policy with what was found in it, or why it could not be judged.
type judgedPolicy struct {
	policySource
	accountHow string
	findings   []finding.Finding
	err        error
}

func newPolicyCheckCommand(p *process) *cobra.Command {
	var f policyFlags
	command := &cobra.Command{
		Use: "check FILE|KEY...", Short: "Say what is wrong with key policies, and what to do about it",
		Long: "Says what is wrong with key policies: who gains what by which statement, and what to do about it.\n\n" + policyAbout,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, names []string) error {
			return p.action(func(ctx context.Context, p *process) error { return f.check(ctx, p, names) })(c, names)
		},
	}
	f.add(command, "a finding")
	return command
}

// check judges the policies that are named. One that cannot be read does not
// keep the others from being judged.
func (f *policyFlags) check(ctx context.Context, p *process, names []string) error {
	against, reader, err := f.prepare(ctx, p)
	if err != nil {
		return err
	}
	var all []judgedPolicy
	var unread []error
	failed := false
	for _, name := range names {
		j := judgedPolicy{}
		if j.policySource, j.err = reader.read(ctx, name); j.err == nil {
			against.KeyARN = j.keyARN
			against.Account, j.accountHow, j.err = j.accountOf(against.TrustedAccounts)
		}
		if j.err != nil {
			unread = append(unread, j.err)
		} else {
			j.account = against.Account
			j.findings = j.policy.Findings(against)
			failed = failed || f.fails(j.findings)
		}
		all = append(all, j)
	}
	switch {
	case f.json:
		err = printPolicyJSON(p.stdout, all)
	case f.sarif:
		err = printSARIF(p.stdout, all)
	default:
		err = printPolicies(p.stdout, all)
	}
	return errors.Join(err, verdict(unread, failed))
}

// verdict is the error that makes the exit code: what could not be read weighs
// more than what was found.
func verdict(unread []error, failed bool) error {
	switch {
	case len(unread) > 0:
		return usageError{errors.Join(unread...)}
	case failed:
		return errSilent
	}
	return nil
}

func newPolicyDiffCommand(p *process) *cobra.Command {
	var f policyFlags
	command := &cobra.Command{
		Use: "diff OLD NEW", Short: "Say who may do what under a new policy that they could not before, and who lost what",
		Long: `Says what a new policy changes in effect: who may do what that they could not before, who lost what, and which findings are new or gone. A policy that is only written differently changes nothing.

OLD and NEW are each a FILE, - for standard input, a KEY whose live policy is read, or baseline:KEY, the policy that the fleet has recorded as the good one (baseline:KEY@N is version N of its recorded ones).

Exit codes: 0 no new finding at or above --fail-on; 1 there is one; 2 the command line is wrong or a policy cannot be read.`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, names []string) error {
			return p.action(func(ctx context.Context, p *process) error { return f.diff(ctx, p, names[0], names[1]) })(c, names)
		},
	}
	f.add(command, "a new finding")
	stateBucketFlag(command, p, &f.stateBucket)
	return command
}

// policyDiff is how two policies differ.
type policyDiff struct {
	old, new policySource
	account  string
	changes  []keypolicy.Change
	// added and gone are the findings that only one of them has.
	added, gone []finding.Finding
}

// compare compares two policies of one key.
func compare(before, after policySource, against keypolicy.Context) policyDiff {
	had, found := before.policy.Findings(against), after.policy.Findings(against)
	d := policyDiff{old: before, new: after, account: against.Account, changes: keypolicy.Diff(before.policy, after.policy)}
	d.added = keypolicy.NewFindings(had, found, d.changes)
	d.gone = keypolicy.NewFindings(found, had, keypolicy.Diff(after.policy, before.policy))
	return d
}

// diff compares the two policies that are named.
func (f *policyFlags) diff(ctx context.Context, p *process, oldName, newName string) error {
	against, reader, err := f.prepare(ctx, p)
	if err != nil {
		return err
	}
	before, beforeErr := reader.read(ctx, oldName)
	after, afterErr := reader.read(ctx, newName)
	if err := errors.Join(beforeErr, afterErr); err != nil {
		return usageError{err}
	}
	if against.Account, err = accountOfBoth(before, after, against.TrustedAccounts); err != nil {
		return usageError{err}
	}
	if against.KeyARN = after.keyARN; against.KeyARN == "" {
		against.KeyARN = before.keyARN
	}
	d := compare(before, after, against)
	switch {
	case f.json:
		err = printDiffJSON(p.stdout, d)
	case f.sarif:
		err = printSARIF(p.stdout, []judgedPolicy{{policySource: after, findings: d.added}})
	default:
		err = printDiff(p.stdout, d)
	}
	return errors.Join(err, verdict(nil, f.fails(d.added)))
}

// accountOfBoth finds out the account of the key that two policies are of. Where
// neither says it for sure, it is the old one's: the new one is what is in doubt.
func accountOfBoth(before, after policySource, trusted []string) (string, error) {
	if before.account == "" && before.keyARN == "" && (after.account != "" || after.keyARN != "") {
		before, after = after, before
	}
	account, _, err := before.accountOf(trusted)
	if err == nil {
		return account, nil
	}
	account, _, afterErr := after.accountOf(trusted)
	if afterErr == nil {
		return account, nil
	}
	return "", errors.Join(err, afterErr)
}
