package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/access"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/keypolicy"
	"github.com/cmkeeper/cmkeeper/usage"
)

const accessAbout = `Says who may do what with a key: by its policy, its grants, and the IAM policies and permissions boundaries of the account's users, groups and roles; by which statement and under which condition; and who can give themselves the key.

"yes" is always, "if" under conditions of which only a request tells whether they hold; --why shows them. READ decrypts, WRITE encrypts, SIGN signs, ADMIN changes the key policy, GRANT makes grants, DELETE disables or deletes the key, OTHER changes tags, aliases, rotation and the like.

With --principal it is the other way round: the keys with which a user or role may do something.

Where something could not be read, what is known is printed and the exit code is 1.`

const accessExample = `  cmkeeper access alias/app
  cmkeeper access alias/app --can kms:Decrypt --days 7
  cmkeeper access --principal arn:aws:iam::111122223333:role/app`

type accessCommand struct {
	can, principal string
	days, requests int
	why, json      bool
}

func newAccessCommand(p *process) *cobra.Command {
	var c accessCommand
	command := &cobra.Command{
		Use: "access [KEY]", Short: "Say who may use a key, by what, and who can give themselves the right", Long: accessAbout, Example: accessExample,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.action(func(ctx context.Context, p *process) error { return c.run(ctx, p, args) })(cmd, args)
		},
	}
	flags := command.Flags()
	flags.StringVar(&c.can, "can", "", "show only who may do this `action`, such as kms:Decrypt, and by what")
	flags.StringVar(&c.principal, "principal", "", "show what the user or role of this `ARN` may do, with KEY or with every key")
	flags.IntVar(&c.days, "days", 0, "ask CloudTrail's event history who used the key in the last `days`, at most 90")
	flags.IntVar(&c.requests, "requests", 300, "with --days: ask the event history this often at most, once a second; 0 is without a limit")
	flags.BoolVar(&c.why, "why", false, "show the statements, grants and conditions behind each right")
	flags.BoolVar(&c.json, "json", false, "print one JSON object")
	command.MarkFlagsMutuallyExclusive("principal", "days")
	return command
}

// run reads and prints.
func (c *accessCommand) run(ctx context.Context, p *process, args []string) error {
	switch {
	case len(args) == 0 && c.principal == "":
		return usageError{errors.New("name a key, or a user or role with --principal")}
	case c.can != "" && len(keypolicy.ActionsOf(c.can).Names()) != 1:
		return usageError{fmt.Errorf("--can %s is not an action on a key, such as kms:Decrypt", c.can)}
	case c.days < 0 || c.days > 90:
		return usageError{errors.New("--days must be from 0 to 90, which is how far CloudTrail's event history goes back")}
	case c.requests < 0:
		return usageError{errors.New("--requests must not be negative")}
	}
	if c.can != "" {
		c.can = keypolicy.ActionsOf(c.can).Names()[0] // as KMS spells it
	}
	hand, err := loadByHand(ctx, p, 16)
	if err != nil {
		return err
	}
	account, missing := access.Read(ctx, hand.iam, hand.account)
	if missing != nil {
		account = access.Account{ID: hand.account, Unread: true}
	}
	review := access.New(account, access.Context{TrustedAccounts: hand.settings.TrustedAccounts, TrustedOrgs: hand.settings.TrustedOrgs, Now: time.Now().UTC().Truncate(time.Second)})
	if c.principal == "" {
		return c.ofKey(ctx, p, hand, review, account, missing, args[0])
	}
	switch err := isPrincipal(account, c.principal); {
	case missing != nil:
		return missing
	case err != nil:
		return usageError{err}
	}
	return c.ofPrincipal(ctx, p, hand, review, args)
}

// isPrincipal says what is wrong with the ARN of a user, a role or the root of an account.
func isPrincipal(account access.Account, name string) error {
	all := slices.Concat(account.Users, account.Roles)
	a := arn.Parse(name)
	switch {
	case name == account.Root(), slices.ContainsFunc(all, func(p access.Principal) bool { return p.ARN == name }):
		return nil
	case a.Account != "" && a.Account != account.ID:
		return fmt.Errorf("--principal %s is of account %s, and the IAM of account %s is what is read here: use credentials of that account", name, a.Account, account.ID)
	case strings.HasPrefix(a.Resource, "assumed-role/"):
		return fmt.Errorf("--principal %s is a session: give the ARN of its role", name)
	}
	for _, p := range all {
		if p.Name == name[strings.LastIndexByte(name, '/')+1:] {
			return fmt.Errorf("--principal %s is nobody of account %s; did you mean %s?", name, account.ID, p.ARN)
		}
	}
	return fmt.Errorf("--principal %s is no user or role of account %s: give its ARN, with its path, as IAM shows it", name, account.ID)
}

// readKey reads a key of the account. A key of another account is an error of the command line.
func readKey(ctx context.Context, hand byHand, name string) (k access.Key, unread []string, err error) {
	account := arn.Account(name)
	if account == "" || account == hand.account {
		k, unread, err = access.ReadKey(ctx, hand.facts, name)
		account = k.Account
	}
	if account != "" && account != hand.account {
		return k, nil, usageError{fmt.Errorf("key %s is of account %s, whose IAM decides about it: use credentials of that account", name, account)}
	}
	return k, unread, err
}

// keyRead is a key as readKey reads it.
type keyRead struct {
	key    access.Key
	unread []string
	err    error
}

// readKeys reads keys, several at once, with a quarter of KMS's request quotas at most.
func readKeys(ctx context.Context, hand byHand, names []string) []keyRead {
	ctx = inventory.WithPace(ctx, inventory.ShareOf(0.25))
	all := make([]keyRead, len(names))
	var g errgroup.Group
	g.SetLimit(16)
	for i, name := range names {
		g.Go(func() error {
			all[i].key, all[i].unread, all[i].err = readKey(ctx, hand, name)
			return nil
		})
	}
	_ = g.Wait() // each has its own error
	return all
}

// ofKey says who may use a key. missing is why IAM could not be read.
func (c *accessCommand) ofKey(ctx context.Context, p *process, hand byHand, review *access.Review, account access.Account, missing error, name string) error {
	k, unread, err := readKey(ctx, hand, name)
	if err != nil {
		return err
	}
	if missing != nil {
		unread = append(unread, missing.Error())
	}
	report, err := review.Report(k, unread)
	if err != nil {
		return err
	}
	if c.days > 0 {
		if err := c.used(ctx, p, hand, &report); err != nil {
			return err
		}
	}
	if c.can != "" {
		report.Holders = slices.DeleteFunc(report.Holders, func(h access.Holder) bool { return h.May(c.can) == access.No })
	}
	if c.json {
		report.Holders = append([]access.Holder{}, report.Holders...) // nobody is an empty list
		report.Findings = append([]finding.Finding{}, report.Findings...)
		err = printJSON(p.stdout, report)
	} else {
		err = c.print(p.stdout, report, k, account)
	}
	if err == nil && len(report.Unread) > 0 {
		err = fmt.Errorf("not everything could be read: %s", report.Unread[0])
	}
	return err
}

// used notes when holders last used the key, and in the report why that may not be all.
func (c *accessCommand) used(ctx context.Context, p *process, hand byHand, report *access.Report) error {
	collector := usage.NewCollector(report.Key, usedSince(report.At, time.Now().UTC(), c.days), report.At, nil)
	if err := (&usageCommand{requests: c.requests}).collect(ctx, p, hand, collector); err != nil {
		if ctx.Err() != nil {
			return err
		}
		report.Unread = append(report.Unread, usesUnread+err.Error())
		return nil
	}
	table := collector.Table()
	for _, u := range table.Source.Unread {
		report.Unread = append(report.Unread, usesUnread+u)
	}
	last := map[string]time.Time{}
	for _, row := range slices.Concat(table.Principals, table.Roles, table.Services) {
		last[row.Name] = row.Last
	}
	for i := range report.Holders {
		report.Holders[i].Used = last[report.Holders[i].Principal]
	}
	return nil
}

// usedSince is the beginning of so many days before a time, as far as CloudTrail's event
// history, which has the last 90 days, goes back when it is asked within a minute from now.
func usedSince(at, now time.Time, days int) time.Time {
	from, oldest := at.AddDate(0, 0, -days), now.AddDate(0, 0, -90).Add(time.Minute)
	if from.Before(oldest) {
		return oldest
	}
	return from
}

// usesUnread begins what a report says of uses that could not be read.
const usesUnread = "uses of the key: "

// ofPrincipal says what a principal may do with keys, by name, or with every key.
func (c *accessCommand) ofPrincipal(ctx context.Context, p *process, hand byHand, review *access.Review, names []string) error {
	every := len(names) == 0
	if every {
		var err error
		if names, err = hand.facts.Keys(ctx); errors.Is(err, inventory.ErrAccessDenied) {
			return fmt.Errorf("%w; this takes kms:ListKeys", err)
		} else if err != nil {
			return err
		}
	}
	report := access.PrincipalReport{Schema: access.PrincipalSchema, Principal: c.principal, At: time.Now().UTC().Truncate(time.Second), Keys: []access.KeyRights{}, NotSeen: access.NotSeen()}
	usages := map[string]string{}
	for _, one := range readKeys(ctx, hand, names) {
		k, unread, err := one.key, one.unread, one.err
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil && every && !k.Guarded() {
			continue // AWS manages it
		}
		report.Unread = append(report.Unread, unread...)
		var h access.Holder
		if err == nil {
			h, _, err = review.Of(c.principal, k)
		}
		switch {
		case err != nil && !every:
			return err
		case err != nil:
			report.Unread = append(report.Unread, err.Error())
		case len(h.Rights) > 0 && (c.can == "" || h.May(c.can) != access.No):
			report.Keys = append(report.Keys, access.KeyRights{Key: k.ARN, Aliases: k.Aliases, Rights: h.Rights})
			usages[k.ARN] = k.Usage
		}
	}
	var err error
	if c.json {
		err = printJSON(p.stdout, report)
	} else {
		err = c.printPrincipal(p.stdout, report, usages)
	}
	if err == nil && len(report.Unread) > 0 {
		err = fmt.Errorf("not everything could be read: %s", report.Unread[0])
	}
	return err
}
