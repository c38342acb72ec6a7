package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/keypolicy"
	"github.com/cmkeeper/cmkeeper/state"
)

const baselineAbout = `Shows and sets which of a key's policies the fleet takes for the good one: the one that CMKEEPER_POLICY_MODE=enforce puts back.

KEY is a key's id, ARN, alias or alias ARN; KEY@N is version N of its recorded policies. What is recorded is in the state bucket.`

func newPolicyBaselineCommand(p *process) *cobra.Command {
	command := &cobra.Command{Use: "baseline", Short: "Say which key policy is the good one", Long: baselineAbout}
	command.AddCommand(newBaselineListCommand(p), newBaselineShowCommand(p), newBaselineAcceptCommand(p))
	return command
}

func stateBucketFlag(c *cobra.Command, p *process, bucket *string) {
	c.Flags().StringVar(bucket, "state-bucket", p.environment[envPrefix+"STATE_BUCKET"], "the fleet's state `bucket`, by default CMKEEPER_STATE_BUCKET")
}

// records is where recorded policies are read.
type records struct {
	hand  byHand
	store *state.Store
}

func (r *policyReader) records(ctx context.Context) (records, error) {
	if r.stateBucket == "" {
		return records{}, fmt.Errorf("recorded policies are in the fleet's state bucket: name it with --state-bucket or %sSTATE_BUCKET", envPrefix)
	}
	hand, err := r.aws(ctx)
	if err != nil {
		return records{}, err
	}
	return records{hand, hand.store(r.stateBucket)}, nil
}

// cutVersion splits KEY@N; a key without a version has number 0.
func cutVersion(name string) (key string, number int, err error) {
	key, version, ok := strings.Cut(name, "@")
	if !ok {
		return key, 0, nil
	}
	if number, err = strconv.Atoi(version); err != nil || number < 1 {
		return "", 0, fmt.Errorf("%q: a version is a number from 1", version)
	}
	return key, number, nil
}

// version reads a recorded policy of a key, KEY or KEY@N; without a number, the good one.
func (r records) version(ctx context.Context, name string) (keyARN string, v ledger.PolicyVersion, err error) {
	key, number, err := cutVersion(name)
	if err != nil {
		return "", v, err
	}
	if keyARN, err = r.hand.facts.Resolve(ctx, key); err != nil {
		return "", v, err
	}
	b, err := ledger.ReadBaseline(ctx, r.store, keyARN)
	if err != nil {
		return "", v, err
	}
	if number == 0 {
		v, ok := b.Good()
		if !ok {
			return "", v, errors.New("the fleet has recorded no good policy of this key: a sweep does so once it finds one, or accept one by hand")
		}
		return keyARN, v, nil
	}
	v, ok := b.Version(number)
	if !ok {
		return "", v, fmt.Errorf("version %d is not recorded, or not any more: see cmkeeper policy baseline list", number)
	}
	return keyARN, v, nil
}

// readBaseline reads what baseline:KEY or baseline:KEY@N names.
func (r *policyReader) readBaseline(ctx context.Context, s *policySource, name string) error {
	from, err := r.records(ctx)
	if err != nil {
		return err
	}
	keyARN, v, err := from.version(ctx, name)
	if err != nil {
		return err
	}
	s.account, s.keyARN, s.document = from.hand.account, keyARN, []byte(v.Document)
	return nil
}

func newBaselineListCommand(p *process) *cobra.Command {
	r := &policyReader{process: p}
	var asJSON bool
	command := &cobra.Command{
		Use: "list [KEY]", Short: "List all keys with the policy that is restored, or the recorded policies of one key", Args: cobra.MaximumNArgs(1),
		Long: "Lists all keys by their aliases, with the policy that is restored, since when, who set it, and who accepted it; or the recorded policies of one key: the good one, those that it was before, those that were taken away, and those that were accepted and are not live yet. --json has the ARNs, and all in full.",
		RunE: func(c *cobra.Command, args []string) error {
			return p.action(func(ctx context.Context, p *process) error {
				from, err := r.records(ctx)
				if err != nil {
					return usageError{err}
				}
				if len(args) == 0 {
					return from.listKeys(ctx, p.stdout, asJSON)
				}
				return from.listVersions(ctx, p.stdout, args[0], asJSON)
			})(c, args)
		},
	}
	stateBucketFlag(command, p, &r.stateBucket)
	command.Flags().BoolVar(&asJSON, "json", false, "print a JSON object for each key, with its policies, on a line of its own")
	return command
}

// listedBaseline is what is recorded of a key's policies, with the key's aliases of now.
type listedBaseline struct {
	Key     string   `json:"key"`
	Aliases []string `json:"aliases"`
	// AliasesNotKnown is why they are not known, "" where they are.
	AliasesNotKnown string          `json:"aliases_not_known,omitempty"`
	Acceptances     int             `json:"acceptances,omitempty"`
	Versions        []listedVersion `json:"versions,omitempty"`
}

type listedVersion struct {
	ledger.PolicyVersion
	// AcceptedAt is when it was accepted, zero for one that nobody had to accept.
	AcceptedAt time.Time `json:"accepted_at,omitzero"`
}

// aliases reads the aliases of all keys, by the keys' ARNs.
func (r records) aliases(ctx context.Context) (byKey map[string][]string, err error) {
	all, err := r.hand.facts.Aliases(ctx)
	byKey = map[string][]string{}
	for _, a := range all {
		byKey[a.TargetKeyARN] = append(byKey[a.TargetKeyARN], a.Name)
	}
	return byKey, err
}

func listed(b ledger.Baseline, aliases map[string][]string, unread error) listedBaseline {
	l := listedBaseline{Key: b.Key, Aliases: append([]string{}, aliases[b.Key]...), Acceptances: b.Acceptances}
	if unread != nil {
		l.AliasesNotKnown = unread.Error()
	}
	for _, v := range b.Versions {
		one := listedVersion{PolicyVersion: v}
		if v.AcceptedBy != "" {
			one.AcceptedAt = v.At
		}
		l.Versions = append(l.Versions, one)
	}
	return l
}

// name is the first alias with how many more there are, or else the key's id.
func (l listedBaseline) name() string {
	switch n := len(l.Aliases); n {
	case 0:
		return alert.Escape(arn.KeyID(l.Key))
	case 1:
		return alert.Escape(l.Aliases[0])
	default:
		return fmt.Sprintf("%s (+%d)", alert.Escape(l.Aliases[0]), n-1)
	}
}

// shortPrincipal is a principal as a table shows it: of the key's own account without
// what all its principals have in common.
func shortPrincipal(principal, keyARN string) string {
	a := arn.Parse(principal)
	if a.Account == "" || a.Account != arn.Account(keyARN) {
		return alert.Escape(principal)
	}
	return alert.Escape(strings.TrimPrefix(a.Resource, "assumed-role/"))
}

// setBy is who set a version, without the account where that is the key's own.
func setBy(v ledger.PolicyVersion, keyARN string) string {
	return alert.Escape(strings.Replace(v.Actor, " in "+arn.Account(keyARN)+")", ")", 1))
}

// acceptedText is when and by whom a version was accepted, in two columns.
func acceptedText(v ledger.PolicyVersion, keyARN string) string {
	if v.AcceptedBy == "" {
		return "\t"
	}
	return v.At.UTC().Format(time.DateOnly) + "\t" + shortPrincipal(v.AcceptedBy, keyARN)
}

func (r records) listKeys(ctx context.Context, w io.Writer, asJSON bool) error {
	aliases, unread := r.aliases(ctx)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if !asJSON {
		fmt.Fprintln(table, "KEY\tGOOD\tSINCE\tSET BY\tACCEPTED\tACCEPTED BY")
		if unread != nil {
			fmt.Fprintf(r.hand.stderr, "The aliases of the keys are not known: %v\n", unread)
		}
	}
	var errs []error
	for b, err := range ledger.Baselines(ctx, r.store) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l := listed(b, aliases, unread)
		if asJSON {
			if err := printJSON(w, l); err != nil {
				return err
			}
			continue
		}
		good := "none\t\t\t\t"
		if v, ok := b.Good(); ok {
			good = fmt.Sprintf("%d\t%s\t%s\t%s", v.Number, v.At.UTC().Format(time.DateOnly), setBy(v, b.Key), acceptedText(v, b.Key))
		}
		fmt.Fprintf(table, "%s\t%s\n", l.name(), good)
	}
	return errors.Join(append(errs, table.Flush())...)
}

func (r records) listVersions(ctx context.Context, w io.Writer, key string, asJSON bool) error {
	keyARN, err := r.hand.facts.Resolve(ctx, key)
	if err != nil {
		return err
	}
	b, err := ledger.ReadBaseline(ctx, r.store, keyARN)
	if err != nil {
		return err
	}
	aliases, unread := r.aliases(ctx)
	l := listed(b, aliases, unread)
	if asJSON {
		return printJSON(w, l)
	}
	good, _ := b.Good()
	fmt.Fprintln(w, b.Key)
	switch {
	case unread != nil:
		fmt.Fprintf(w, "aliases: not known: %v\n", unread)
	case len(l.Aliases) > 0:
		fmt.Fprintf(w, "aliases: %s\n", alert.Escape(strings.Join(l.Aliases, ", ")))
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "N\tRECORDED\tWHAT IT IS\tSET BY\tACCEPTED\tACCEPTED BY\tSHA-256")
	for _, v := range b.Versions {
		what := "was good"
		switch {
		case v.Number == good.Number:
			what = "good, is restored"
		case v.Taken:
			what = "taken away"
		case v.ReadAs == "" && v.Number > good.Number:
			what = "accepted, not found live yet"
		case v.ReadAs == "":
			what = "accepted, never live"
		}
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\n", v.Number, v.At.UTC().Format("2006-01-02 15:04"), what, setBy(v, b.Key), acceptedText(v, b.Key), v.SHA256[:min(8, len(v.SHA256))])
	}
	return table.Flush()
}

func newBaselineShowCommand(p *process) *cobra.Command {
	r := &policyReader{process: p}
	command := &cobra.Command{
		Use: "show KEY[@N]", Short: "Print the policy that is restored, or another recorded one, as KMS takes it", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.action(func(ctx context.Context, p *process) error {
				from, err := r.records(ctx)
				if err != nil {
					return usageError{err}
				}
				_, v, err := from.version(ctx, args[0])
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				_, err = io.WriteString(p.stdout, v.Document)
				return err
			})(c, args)
		},
	}
	stateBucketFlag(command, p, &r.stateBucket)
	return command
}

func newBaselineAcceptCommand(p *process) *cobra.Command {
	r := &policyReader{process: p}
	var yes bool
	command := &cobra.Command{
		Use: "accept KEY[@N]", Short: "Say that a key's live policy, or a recorded one, is good", Args: cobra.ExactArgs(1),
		Long: `Says that a key's live policy is good, or, with @N, the recorded one: one that was taken away, say.

It shows what is found in the policy and what it changes from the good one, asks for the key's id, and records who accepted it and when. The acceptance is of exactly this document. The fleet does not take it away, and from when it finds it live, it is the one that is restored. Accepting the live policy also lets the fleet act again on an actor whose policy it took away before.`,
		RunE: func(c *cobra.Command, args []string) error {
			return p.action(func(ctx context.Context, p *process) error { return r.accept(ctx, p, args[0], yes) })(c, args)
		},
	}
	stateBucketFlag(command, p, &r.stateBucket)
	command.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return command
}

// accept shows a policy, asks, and records that it is good.
func (r *policyReader) accept(ctx context.Context, p *process, name string, yes bool) error {
	from, err := r.records(ctx)
	if err != nil {
		return usageError{err}
	}
	key, number, err := cutVersion(name)
	if err != nil {
		return usageError{err}
	}
	s := policySource{name: name}
	if number > 0 {
		err = r.readBaseline(ctx, &s, name)
	} else {
		err = r.readKey(ctx, &s, key)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := s.parse(); err != nil {
		return fmt.Errorf("what cannot be judged is not accepted: %w", err)
	}
	settings := from.hand.settings
	against := keypolicy.Context{
		Account: s.account, TrustedAccounts: settings.TrustedAccounts, TrustedOrgs: settings.TrustedOrgs, KeyARN: s.keyARN, Now: time.Now(),
	}
	err = printPolicies(p.stdout, []judgedPolicy{{policySource: s, findings: s.policy.Findings(against)}})
	if err != nil {
		return err
	}
	b, err := ledger.ReadBaseline(ctx, from.store, s.keyARN)
	if err != nil {
		return err
	}
	if good, ok := b.Good(); ok {
		old := policySource{name: fmt.Sprintf("the good policy, version %d", good.Number), document: []byte(good.Document)}
		if err := old.parse(); err != nil {
			return err
		}
		fmt.Fprintln(p.stdout)
		printChanges(p.stdout, compare(old, s, against))
	}
	id := arn.KeyID(s.keyARN)
	if !yes {
		answer, err := ask(os.Stdin, p.stderr, fmt.Sprintf("\nTo accept this policy, type the key's id (%s): ", id))
		if err != nil {
			return err
		}
		if answer != id {
			return fmt.Errorf("the policy was not accepted: %q is not the key's id", answer)
		}
	}
	v, err := ledger.AcceptPolicy(ctx, from.store, s.keyARN, string(s.document), from.hand.caller)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stderr, "\nAccepted as version %d by %s.\n", v.Number, from.hand.caller)
	if number > 0 {
		fmt.Fprintf(p.stderr, "To set it:\n  %s\n  %s\n",
			command.Line("cmkeeper policy baseline show %s --state-bucket %s > accepted.json", command.BaselineOf(command.KeyID(id), v.Number), command.Bucket(r.stateBucket)),
			command.Line("aws kms put-key-policy --key-id %s --policy-name default --policy file://accepted.json", command.KeyID(id)))
	}
	return nil
}
