package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/access"
	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/keypolicy"
	"github.com/cmkeeper/cmkeeper/usage"
)

const accessAbout = `Says who may do what with a key: by its policy, its grants, and the IAM policies and permissions boundaries of the account's users, groups and roles; by which statement and under which condition; and who can give themselves the key.

"yes" is always, "if" under conditions of which only a request tells whether they hold. --why shows the statements and conditions.

With --principal it is the other way round: the keys with which a user or role may do something.`

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
	hand, err := loadByHand(ctx, p, 16)
	if err != nil {
		return err
	}
	account, missing := access.Read(ctx, hand.iam, hand.account)
	if missing != nil {
		account = access.Account{ID: hand.account, Unread: true}
	}
	review := access.New(account, access.Context{TrustedAccounts: hand.settings.TrustedAccounts, Now: time.Now().UTC().Truncate(time.Second)})
	if c.principal != "" {
		if missing != nil {
			return missing
		}
		return c.ofPrincipal(ctx, p, hand, review, args)
	}
	k, unread, err := access.ReadKey(ctx, hand.facts, args[0])
	switch {
	case err != nil:
		return err
	case k.Account != hand.account:
		return usageError{fmt.Errorf("key %s belongs to another account; run this with credentials of account %s", k.ARN, k.Account)}
	case missing != nil:
		unread = append(unread, missing.Error())
	}
	report, err := review.Report(k, unread)
	if err != nil {
		return err
	}
	if c.days > 0 {
		if err := c.used(ctx, hand, &report); err != nil {
			return err
		}
	}
	if c.can != "" {
		report.Holders = slices.DeleteFunc(report.Holders, func(h access.Holder) bool { return h.May(c.can) == access.No })
	}
	if c.json {
		err = printJSON(p.stdout, report)
	} else {
		err = c.print(p.stdout, report)
	}
	if err == nil && len(report.Unread) > 0 {
		err = fmt.Errorf("there may be others who can use the key: %s", report.Unread[0])
	}
	return err
}

// used notes when holders last used the key.
func (c *accessCommand) used(ctx context.Context, hand byHand, report *access.Report) error {
	to := report.At
	collector := usage.NewCollector(report.Key, to.AddDate(0, 0, -c.days), to, nil)
	if err := collector.LookUp(ctx, hand.trails, c.requests, nil); err != nil {
		return err
	}
	last := map[string]time.Time{}
	table := collector.Table()
	for _, row := range slices.Concat(table.Principals, table.Roles, table.Services) {
		last[row.Name] = row.Last
	}
	for i := range report.Holders {
		report.Holders[i].Used = last[report.Holders[i].Principal]
	}
	return nil
}

// ofPrincipal says what a principal may do.
func (c *accessCommand) ofPrincipal(ctx context.Context, p *process, hand byHand, review *access.Review, names []string) error {
	if len(names) == 0 {
		var err error
		if names, err = hand.facts.Keys(ctx); err != nil {
			return err
		}
	}
	report := access.PrincipalReport{Schema: access.PrincipalSchema, Principal: c.principal, At: time.Now().UTC().Truncate(time.Second), NotSeen: access.NotSeen()}
	for _, name := range names {
		k, unread, err := access.ReadKey(ctx, hand.facts, name)
		if err == nil && !k.Guarded() && len(names) > 1 {
			continue // AWS manages it
		}
		for _, u := range unread {
			report.Unread = append(report.Unread, name+": "+u)
		}
		if err != nil {
			report.Unread = append(report.Unread, name+": "+err.Error())
			continue
		}
		holder, known, err := review.Of(c.principal, k)
		switch {
		case err != nil:
			report.Unread = append(report.Unread, name+": "+err.Error())
		case !known:
			return usageError{fmt.Errorf("account %s has no user or role %s; give its ARN with its path, as IAM shows it", hand.account, c.principal)}
		case len(holder.Rights) > 0 && (c.can == "" || holder.May(c.can) != access.No):
			report.Keys = append(report.Keys, access.KeyRights{Key: k.ARN, Aliases: k.Aliases, Rights: holder.Rights})
		}
	}
	var err error
	if c.json {
		err = printJSON(p.stdout, report)
	} else {
		err = c.printPrincipal(p.stdout, report)
	}
	if err == nil && len(report.Unread) > 0 {
		err = fmt.Errorf("there may be other keys: %s", report.Unread[0])
	}
	return err
}

// accessColumns are what a key is used for, with the names of the columns.
var accessColumns = []struct {
	name string
	of   finding.Access
}{
	{"READ", finding.Read}, {"WRITE", finding.Encrypt}, {"SIGN", finding.Sign}, {"ADMIN", finding.Administer},
	{"GRANT", finding.Grant}, {"DELETE", finding.Destroy},
}

// cells are the columns of somebody's rights.
func cells(h access.Holder) (cells []string) {
	always, ever := h.Can()
	for _, column := range accessColumns {
		switch {
		case always&column.of != 0:
			cells = append(cells, "yes")
		case ever&column.of != 0:
			cells = append(cells, "if")
		default:
			cells = append(cells, "-")
		}
	}
	return cells
}

// print writes a report for people.
func (c *accessCommand) print(w io.Writer, r access.Report) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n", strings.Join(append(escaped(r.Aliases), r.Key), "  "))
	if c.can == "" {
		printAccessFindings(&b, r.Findings)
	}
	b.WriteString("\n")
	if len(r.Holders) == 0 {
		b.WriteString("Nobody may, as far as can be seen.\n")
	}
	var rows [][]string
	for _, h := range r.Holders {
		row := append(cells(h), "", principalText(h))
		switch {
		case c.days > 0 && h.Used.IsZero():
			row[len(row)-2] = "-"
		case c.days > 0:
			row[len(row)-2] = h.Used.Format(time.DateOnly)
		case !h.LastUsed.IsZero():
			row[len(row)-2] = h.LastUsed.Format(time.DateOnly)
		}
		rows = append(rows, row)
	}
	used := "LAST SEEN"
	if c.days > 0 {
		used = "USED KEY"
	}
	c.table(&b, used, "WHO", rows, func(i int) []access.Right { return r.Holders[i].Rights })
	if c.days > 0 {
		b.WriteString(wrapTo(80, fmt.Sprintf("\nUSED KEY is the last call for the key in the last %d days, by CloudTrail's event history.", c.days), "", ""))
	} else {
		b.WriteString(wrapTo(80, "\nLAST SEEN is when a role last called anything, by IAM; --days asks who used this key.", "", ""))
	}
	printUnseen(&b, r.NotSeen, r.Unread)
	_, err := w.Write(b.Bytes())
	return err
}

// table writes rows of the columns, a date and a name. Under each come the ways to the
// rights, where they are asked for.
func (c *accessCommand) table(b *bytes.Buffer, date, name string, rows [][]string, rights func(i int) []access.Right) {
	if len(rows) == 0 {
		return
	}
	var header []string
	shown := make([]bool, len(accessColumns))
	for i, column := range accessColumns {
		header = append(header, column.name)
		shown[i] = column.of&(finding.Sign) == 0 || slices.ContainsFunc(rows, func(r []string) bool { return r[i] != "-" })
	}
	line := func(row []string) {
		for i := range accessColumns {
			if shown[i] {
				fmt.Fprintf(b, "%-7s", row[i])
			}
		}
		if date != "" {
			fmt.Fprintf(b, "%-12s", row[len(row)-2])
		}
		b.WriteString(row[len(row)-1] + "\n")
	}
	line(append(header, date, name))
	for i, row := range rows {
		line(row)
		for _, right := range rights(i) {
			if c.can != "" && slices.Contains(right.Actions, c.can) || c.can == "" && c.why {
				printRight(b, right, c.can)
			}
		}
	}
}

// principalText names a holder. One that IAM does not have says what it is.
func principalText(h access.Holder) string {
	name := alert.Escape(h.Principal)
	if !h.Outside {
		return alert.Escape(arn.Parse(h.Principal).Resource)
	}
	switch h.Type {
	case "everyone":
		return "everyone"
	case "account":
		return "account " + name
	}
	return name
}

// printRight writes by what somebody has a right.
func printRight(b *bytes.Buffer, r access.Right, only string) {
	actions := strings.Join(r.Actions, ", ")
	if only != "" {
		actions = only
	}
	b.WriteString(wrapTo(80, actions, "    ", "      "))
	for _, way := range r.Ways {
		b.WriteString(wrapTo(80, "by "+wayText(way), "      ", "        "))
	}
	for _, more := range []struct {
		words string
		ways  []access.Way
	}{{"which counts by ", r.Account}, {"within ", r.Boundary}, {"unless denied by ", r.Unless}} {
		for _, way := range more.ways {
			b.WriteString(wrapTo(80, more.words+wayText(way), "      ", "        "))
		}
	}
}

// wayText names a statement or a grant with its conditions.
func wayText(w access.Way) string {
	text := string(w.Kind)
	if w.Policy != "" {
		text += " " + w.Policy
	}
	if w.Group != "" {
		text += " of group " + w.Group
	}
	if w.Statement != "" {
		text += ", statement " + w.Statement
	}
	if len(w.Conditions) > 0 {
		text += ", if " + strings.Join(w.Conditions, " and ")
	}
	return alert.Escape(text)
}

// maxAccessFindings is how many findings people are shown.
const maxAccessFindings = 20

func printAccessFindings(b *bytes.Buffer, found []finding.Finding) {
	for _, f := range found[:min(len(found), maxAccessFindings)] {
		b.WriteString(wrapTo(80, fmt.Sprintf("%s: %s (%s)", f.Severity, alert.Escape(f.Message), f.ID), "  ", "    "))
	}
	if more := len(found) - maxAccessFindings; more > 0 {
		fmt.Fprintf(b, "  and %d more findings; --json has all\n", more)
	}
}

// printUnseen writes what also decides, and what could not be read.
func printUnseen(b *bytes.Buffer, notSeen, unread []string) {
	b.WriteString("\nNot seen:\n")
	for _, text := range notSeen {
		b.WriteString(wrapTo(80, text, "  - ", "    "))
	}
	for _, text := range unread {
		b.WriteString(wrapTo(80, "Not read: "+alert.Escape(text), "", "  "))
	}
}

// printPrincipal writes with which keys somebody may do something.
func (c *accessCommand) printPrincipal(w io.Writer, r access.PrincipalReport) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n\n", alert.Escape(r.Principal))
	if len(r.Keys) == 0 {
		b.WriteString("No key, as far as can be seen.\n")
	}
	var rows [][]string
	for _, k := range r.Keys {
		name := strings.Join(append(escaped(k.Aliases), arn.KeyID(k.Key)), "  ")
		rows = append(rows, append(cells(access.Holder{Rights: k.Rights}), "", name))
	}
	c.table(&b, "", "KEY", rows, func(i int) []access.Right { return r.Keys[i].Rights })
	printUnseen(&b, r.NotSeen, r.Unread)
	_, err := w.Write(b.Bytes())
	return err
}

func escaped(names []string) (all []string) {
	for _, n := range names {
		all = append(all, alert.Escape(n))
	}
	return all
}
