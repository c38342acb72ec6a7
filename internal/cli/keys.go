package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/keylist"
	"github.com/cmkeeper/cmkeeper/posture"
	"github.com/cmkeeper/cmkeeper/retire"
	"github.com/cmkeeper/cmkeeper/state"
)

const keysAbout = `Lists every key of the account and Region with what is known of it, the most dangerous first: aliases, state, rotation, what is found in the policy, grants to other accounts, buckets that encrypt with it by default and which of them have bucket keys off, exemptions. It changes no key.

Give it the fleet's variables: keys are judged by CMKEEPER_TRUSTED_ACCOUNTS, ROTATION_PERIOD_DAYS and the like, and STATE_BUCKET is asked whether a deletion was approved. What cannot be read is shown as not known, with the reason.

When a key was last used is asked only for keys that are named, and with --unused: KMS answers that 5 times a second. It is recorded in the STATE_BUCKET, and the other lists show it with its date.`

// keysFlags are the flags of keys.
type keysFlags struct {
	bad, tags, json, csv bool
	unused, alias, tag   string
	share                float64
}

func newKeysCommand(p *process) *cobra.Command {
	var f keysFlags
	command := &cobra.Command{
		Use: "keys [KEY…]", Short: "List the keys, the most dangerous first", Long: keysAbout,
		RunE: func(c *cobra.Command, args []string) error {
			return p.action(func(ctx context.Context, p *process) error { return f.run(ctx, p, args) })(c, args)
		},
	}
	flags := command.Flags()
	flags.BoolVar(&f.bad, "bad", false, "only keys with a danger, and those that could not be judged wholly")
	flags.StringVar(&f.unused, "unused", "", "only customer managed keys that were not used for this `time`, such as 90d")
	flags.StringVar(&f.alias, "alias", "", "only keys with an alias that matches this `pattern`, such as alias/app-*")
	flags.StringVar(&f.tag, "tag", "", "only keys with this tag, `NAME=VALUE`, where * in the value stands for any text")
	flags.BoolVar(&f.tags, "tags", false, "show the keys' tags")
	flags.BoolVar(&f.json, "json", false, "print one JSON object")
	flags.BoolVar(&f.csv, "csv", false, "print comma-separated values")
	addShare(command, &f.share)
	return command
}

// addShare adds the flag for the part of KMS's quotas that may be used.
func addShare(command *cobra.Command, share *float64) {
	command.Flags().Float64Var(share, "quota-share", 0.25, "`part` of KMS's request quotas that is used at most, above 0 up to 1")
}

// options returns what the flags ask for.
func (f *keysFlags) options(names []string) (o keylist.Options, err error) {
	o = keylist.Options{Names: names, LastUse: len(names) > 0, Tags: f.tags, Bad: f.bad, Alias: f.alias}
	if f.json && f.csv {
		return o, errors.New("--json and --csv exclude each other")
	}
	if f.share <= 0 || f.share > 1 {
		return o, errors.New("--quota-share must be above 0, up to 1")
	}
	if f.unused != "" {
		if o.Unused, err = parseAge(f.unused); err != nil {
			return o, fmt.Errorf("--unused: %w", err)
		}
	}
	if f.tag != "" {
		var ok bool
		if o.TagName, o.TagValue, ok = strings.Cut(f.tag, "="); !ok || o.TagName == "" {
			return o, fmt.Errorf("--tag %q must be NAME=VALUE", f.tag)
		}
	}
	if f.alias != "" && !strings.HasPrefix(f.alias, "alias/") && f.alias != "*" {
		return o, fmt.Errorf("--alias %q must be a pattern of alias names, such as alias/app-*", f.alias)
	}
	return o, nil
}

// parseAge reads a time of days or hours: 90d or 12h.
func parseAge(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		d = time.Duration(min(n, 36500)) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q must be a time such as 90d or 12h", s)
	}
	return d, nil
}

func (f *keysFlags) run(ctx context.Context, p *process, names []string) error {
	o, err := f.options(names)
	if err != nil {
		return usageError{err}
	}
	l, err := listKeys(ctx, p, o, f.share)
	if err != nil {
		return err
	}
	switch {
	case f.json:
		return printJSON(p.stdout, l)
	case f.csv:
		return keylist.WriteCSV(p.stdout, l.CSV())
	case len(names) > 0:
		return printKeyDetails(p.stdout, l)
	}
	return printKeys(p.stdout, l, terminalWidth(p.stdout), o)
}

// terminalWidth is how many characters a line has, 100 where it is no terminal's.
func terminalWidth(w any) int {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width
		}
	}
	return 100
}

// listKeys reads the keys with this part of KMS's quotas, and judges them by the
// configuration.
func listKeys(ctx context.Context, p *process, o keylist.Options, share float64) (keylist.List, error) {
	const calls = 64
	hand, err := loadByHand(ctx, p, calls)
	if err != nil {
		return keylist.List{}, err
	}
	if err := hand.judgedBy(&o, share); err != nil {
		return keylist.List{}, err
	}
	show, finish := counting(p.stderr)
	o.Seen = func(keys int) { show("keys", int64(keys)) }
	used := map[string]keylist.UseRecord{}
	o.Record = func(key string, u keylist.UseRecord) { used[key] = u }
	l, err := keylist.New(ctx, o)
	finish()
	hand.recordUses(ctx, used) // also where the rest was not read: it takes hours
	return l, err
}

// recordUses records the last uses that were read, for lists that do not read them. Where
// that fails it says so, and the list is none the worse.
func (b byHand) recordUses(ctx context.Context, used map[string]keylist.UseRecord) {
	if b.settings.StateBucket == "" || len(used) == 0 {
		return
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	err := state.Update(bounded, b.store(b.settings.StateBucket), keylist.LastUsesName, func(doc *keylist.LastUses, _ bool) error {
		doc.Note(used)
		return nil
	})
	if err != nil {
		fmt.Fprintf(b.stderr, "The last uses were not recorded: %s\n", alert.Escape(err.Error()))
	}
}

// judgedBy completes options with what keys are read with and judged by.
func (b byHand) judgedBy(o *keylist.Options, share float64) (err error) {
	if o.Exemptions, err = parseExemptions(b.settings.Exemptions); err != nil {
		return usageError{err}
	}
	o.Facts, o.Share = b.facts, share
	if b.resources != nil { // the weekly report of a fleet does not ask
		o.Resources = b.resources
	}
	o.Account, o.Region, o.Rules = b.account, b.region, b.settings.posture(b.account)
	if bucket := b.settings.StateBucket; bucket != "" {
		store := b.store(bucket)
		o.Approved = func(ctx context.Context, k inventory.Key) (bool, error) {
			a, ok, err := retire.ReadApproval(ctx, store, k.ARN)
			return ok && a.Covers(k.DeletionDate), err
		}
		o.Recorded = func(ctx context.Context) (map[string]keylist.UseRecord, error) {
			var doc keylist.LastUses
			if _, err := store.Get(ctx, keylist.LastUsesName, &doc); err != nil && !errors.Is(err, state.ErrNotFound) {
				return nil, err
			}
			return doc.Keys, nil
		}
	}
	return nil
}

// posture is what keys of an account are judged by as they stand.
func (c Common) posture(account string) posture.Rules {
	return posture.Rules{
		Account: account, TrustedAccounts: c.TrustedAccounts, TrustedOrgs: c.TrustedOrgs,
		RotationRequired: c.RotationRequired, RotationPeriodDays: c.RotationPeriodDays,
		ManualRotationDays: c.ManualRotationDays,
	}
}
