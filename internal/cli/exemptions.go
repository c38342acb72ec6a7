package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
)

func newExemptionsCommand(p *process) *cobra.Command {
	command := &cobra.Command{
		Use: "exemptions", Short: "Show what is exempt", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	command.AddCommand(newExemptionsListCommand(p))
	return command
}

type exemptionsListCommand struct{ json, offline bool }

func newExemptionsListCommand(p *process) *cobra.Command {
	var c exemptionsListCommand
	command := &cobra.Command{
		Use: "list", Short: "List the exemptions, whether they hold, and which keys they cover now",
		Long: `Lists the exemptions of CMKEEPER_EXEMPTIONS in their order: what each covers, until when and why, and the keys of this account and Region that it picks now. Give it the fleet's variable.

An alias or a tag exempts a key only after a day (docs/judgement.md); when an alias begins to count is shown, for a tag only the fleet knows it. Where AWS cannot be asked the list comes without keys, and says so.`,
		Args: cobra.NoArgs, RunE: p.action(c.run),
	}
	command.Flags().BoolVar(&c.json, "json", false, "print one object as JSON")
	command.Flags().BoolVar(&c.offline, "offline", false, "do not ask AWS which keys are covered")
	return command
}

// listedExemption is an exemption as the list shows it.
type listedExemption struct {
	Covers   string `json:"covers"`
	Until    string `json:"until"`
	Holds    bool   `json:"holds"`
	DaysLeft int    `json:"days_left"`
	Reason   string `json:"reason"`
	// Keys are those that it picks now; nil for an exemption of actors, and where
	// they are not known.
	Keys []coveredKey `json:"keys,omitempty"`

	exemption judgement.Exemption
}

// coveredKey is a key that an exemption picks.
type coveredKey struct {
	ARN string `json:"arn"`
	// By is the alias or the tag that it is picked by.
	By string `json:"by"`
	// From is when the alias begins to count, where that is still to come.
	From time.Time `json:"from,omitzero"`
}

// exemptionList is what the command prints.
type exemptionList struct {
	Exemptions []listedExemption `json:"exemptions"`
	// Unknown says why keys are missing from the list, "" where none are.
	Unknown string `json:"unknown,omitempty"`
}

func (c *exemptionsListCommand) run(ctx context.Context, p *process) error {
	config, err := loadForDesk[Common](ctx, p.environment)
	if err != nil {
		return err
	}
	exemptions, err := parseExemptions(config.Exemptions)
	if err != nil {
		return usageError{err}
	}
	now := time.Now()
	list := exemptionList{Exemptions: []listedExemption{}}
	for _, e := range exemptions {
		list.Exemptions = append(list.Exemptions, listedExemption{
			Covers: e.Covers(), Until: e.Until(), Holds: e.Holds(now), DaysLeft: e.DaysLeft(now), Reason: e.Reason, exemption: e,
		})
	}
	switch {
	case c.offline:
		list.Unknown = "AWS was not asked"
	case len(exemptions) > 0:
		if err := list.findKeys(ctx, p, now); err != nil {
			list.Unknown = err.Error()
		}
	}
	if c.json {
		return printJSON(p.stdout, list)
	}
	list.print(p.stdout)
	return ctx.Err()
}

// findKeys notes the keys that the exemptions pick. The error says which could
// not be looked at; the others are noted all the same.
func (l *exemptionList) findKeys(ctx context.Context, p *process, now time.Time) error {
	hand, err := loadByHand(ctx, p, tagReaders)
	if err != nil {
		return err
	}
	aliases, err := hand.facts.Aliases(ctx)
	if err != nil {
		return err
	}
	names := map[string][]inventory.Alias{}
	for _, a := range aliases {
		if a.TargetKeyARN != "" && !a.AWSManaged {
			names[a.TargetKeyARN] = append(names[a.TargetKeyARN], a)
		}
	}
	arns, err := hand.facts.Keys(ctx)
	if err != nil {
		return err
	}
	var (
		mu   sync.Mutex
		errs []error
		g    errgroup.Group
	)
	g.SetLimit(tagReaders)
	for _, arn := range arns {
		g.Go(func() error {
			tags, err := customerTags(ctx, hand.facts, arn)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			}
			l.add(arn, names[arn], tags, now)
			return nil
		})
	}
	_ = g.Wait() // the functions return nil
	for i := range l.Exemptions {
		slices.SortFunc(l.Exemptions[i].Keys, func(a, b coveredKey) int { return strings.Compare(a.By+a.ARN, b.By+b.ARN) })
	}
	if len(errs) > 0 {
		return fmt.Errorf("the tags of %d keys cannot be read, the first of them: %w", len(errs), errs[0])
	}
	return nil
}

// tagReaders is how many keys are read at once.
const tagReaders = 16

// customerTags are the tags of a key, none where it is AWS's own or gone.
func customerTags(ctx context.Context, facts *inventory.Reader, arn string) (map[string]string, error) {
	tags, err := facts.Tags(ctx, arn)
	switch {
	case err == nil, errors.Is(err, inventory.ErrNotFound):
		return tags, nil
	}
	// The tags of AWS's own keys exempt nothing, and often may not be read.
	if key, keyErr := facts.Key(ctx, arn); keyErr == nil && key.Manager == "AWS" {
		return nil, nil
	}
	return nil, err
}

// add notes a key with every exemption that picks it.
func (l *exemptionList) add(arn string, aliases []inventory.Alias, tags map[string]string, now time.Time) {
	key := judgement.Key{Tags: tags}
	for _, a := range aliases {
		key.Aliases = append(key.Aliases, a.Name)
	}
	for i := range l.Exemptions {
		e := &l.Exemptions[i]
		if e.exemption.Of == nil {
			continue
		}
		by, ok := e.exemption.Of.Picks(key)
		if !ok {
			continue
		}
		covered := coveredKey{ARN: arn, By: by}
		for _, a := range aliases {
			if counts := a.Updated.Add(judgement.Lasts); a.Name == by && counts.After(now) {
				covered.From = counts.UTC()
			}
		}
		e.Keys = append(e.Keys, covered)
	}
}

// print writes the list for people.
func (l *exemptionList) print(w io.Writer) {
	if len(l.Exemptions) == 0 {
		fmt.Fprintf(w, "Nothing is exempt: %sEXEMPTIONS is not set.\n", envPrefix)
		return
	}
	for _, e := range l.Exemptions {
		fmt.Fprintf(w, "%s\n  %s\n  because: %s\n", alert.Escape(e.Covers), e.state(), alert.Escape(e.Reason))
		for _, k := range e.Keys {
			from := ""
			if !k.From.IsZero() {
				from = ", counts from " + k.From.Format("2006-01-02 15:04 MST")
			}
			fmt.Fprintf(w, "  covers %s (%s%s)\n", k.ARN, alert.Escape(k.By), from)
		}
		if e.exemption.Of != nil && len(e.Keys) == 0 && l.Unknown == "" {
			fmt.Fprintln(w, "  covers no key now")
		}
	}
	if l.Unknown != "" {
		fmt.Fprintf(w, "Which keys are covered is not known, or not all of them: %s\n", alert.Escape(l.Unknown))
	}
}

// state says in words whether it holds.
func (e listedExemption) state() string {
	switch {
	case !e.Holds:
		return "EXPIRED on " + e.Until + ": it does not hold"
	case e.DaysLeft == 0:
		return "until " + e.Until + ", the end of this day"
	case e.DaysLeft == 1:
		return "until " + e.Until + ", 1 day more"
	}
	return fmt.Sprintf("until %s, %d days more", e.Until, e.DaysLeft)
}
