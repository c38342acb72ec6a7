package cli

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cmkeeper/cmkeeper/access"
	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// How much people are shown; --json has all.
const (
	maxAccessRows     = 50
	maxAccessFindings = 20
	maxNamed          = 5 // names, statements or grants of a kind
	maxActions        = 8
)

// accessColumns are what a key is used for, with the names of the columns.
var accessColumns = []struct {
	name string
	of   finding.Access
}{
	{"READ", finding.Read}, {"WRITE", finding.Encrypt}, {"SIGN", finding.Sign}, {"ADMIN", finding.Administer},
	{"GRANT", finding.Grant}, {"DELETE", finding.Destroy}, {"OTHER", finding.Configure | finding.Verify | finding.Other},
}

// impossible is what nobody can do with a key of a KeyUsage, whoever may.
func impossible(usage string) finding.Access {
	switch usage {
	case "ENCRYPT_DECRYPT":
		return finding.Sign
	case "SIGN_VERIFY", "GENERATE_VERIFY_MAC":
		return finding.Read | finding.Encrypt
	case "KEY_AGREEMENT":
		return finding.Sign | finding.Encrypt
	}
	return 0
}

// accessRow is a holder of a key, or a key that somebody holds.
type accessRow struct {
	holder     access.Holder
	usage      string // of the key
	name, date string
}

// cells are the columns of the rights.
func (r accessRow) cells() (cells []string) {
	always, ever := r.holder.Can()
	for _, column := range accessColumns {
		of := column.of &^ impossible(r.usage)
		switch {
		case always&of != 0:
			cells = append(cells, "yes")
		case ever&of != 0:
			cells = append(cells, "if")
		default:
			cells = append(cells, "-")
		}
	}
	return cells
}

// onlySees reports whether the holder may do nothing but learn of the key.
func (r accessRow) onlySees() bool {
	return !slices.ContainsFunc(r.cells(), func(cell string) bool { return cell != "-" })
}

// worse orders rows: who is not of the account comes first, then who may do graver things.
func worse(a, b accessRow) int {
	outside := func(r accessRow) bool { return r.holder.Outside && r.holder.Type != "service" }
	switch {
	case outside(a) && !outside(b):
		return -1
	case outside(b) && !outside(a):
		return 1
	}
	alwaysA, everA := a.holder.Can()
	alwaysB, everB := b.holder.Can()
	for of := finding.Administer; of <= finding.Encrypt; of <<= 1 {
		has := func(always, ever finding.Access) int {
			switch {
			case always&of != 0:
				return 2
			case ever&of != 0:
				return 1
			}
			return 0
		}
		if order := cmp.Compare(has(alwaysB, everB), has(alwaysA, everA)); order != 0 {
			return order
		}
	}
	return 0
}

// print writes a report for people.
func (c *accessCommand) print(w io.Writer, r access.Report, k access.Key, account access.Account) error {
	var b bytes.Buffer
	name := strings.Join(append(escaped(r.Aliases), alert.Escape(r.Key)), " ")
	b.WriteString(wrapTo(columns, name, "", "  "))
	b.WriteString(wrapTo(columns, sourcesText(k, account, r.Unread), "", "  "))
	printUnread(&b, r.Unread)
	if c.can == "" {
		printAccessFindings(&b, r.Findings)
	}
	var rows []accessRow
	for _, h := range r.Holders {
		row := accessRow{h, k.Usage, holderText(h), ""}
		switch {
		case c.days > 0 && !h.Used.IsZero():
			row.date = h.Used.Format(time.DateOnly)
		case c.days > 0 && slices.ContainsFunc(r.Unread, func(u string) bool { return strings.HasPrefix(u, usesUnread) }):
			row.date = "?"
		case c.days > 0:
			row.date = "-"
		case !h.LastUsed.IsZero():
			row.date = h.LastUsed.Format(time.DateOnly)
		}
		rows = append(rows, row)
	}
	b.WriteString("\n")
	may := "may use the key"
	if c.can != "" {
		may = "may call " + c.can
	}
	switch {
	case len(rows) == 0 && len(r.Unread) > 0:
		b.WriteString(wrapTo(columns, fmt.Sprintf("Nobody is known who %s, but not everything could be read.", may), "", ""))
	case len(rows) == 0:
		fmt.Fprintf(&b, "Nobody %s, as far as can be seen.\n", may)
	case c.can != "":
		fmt.Fprintf(&b, "Who %s:\n", may)
	}
	date := "LAST SEEN "
	if c.days > 0 {
		date = "USED KEY  "
	}
	c.table(&b, date, "WHO", rows)
	switch {
	case c.days > 0:
		b.WriteString("\n" + wrapTo(columns, fmt.Sprintf("USED KEY is the last call for the key in the last %d days, by CloudTrail's event history, which shows calls some minutes late.", c.days), "", ""))
	case slices.ContainsFunc(rows, func(r accessRow) bool { return r.date != "" }):
		b.WriteString("\n" + wrapTo(columns, "LAST SEEN is when a role last called anything, by IAM; --days asks who used this key.", "", ""))
	}
	printNotSeen(&b, r.NotSeen)
	_, err := w.Write(b.Bytes())
	return err
}

// printPrincipal writes with which keys somebody may do something. usages are the KeyUsage
// of keys by ARN.
func (c *accessCommand) printPrincipal(w io.Writer, r access.PrincipalReport, usages map[string]string) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n", alert.Escape(r.Principal))
	printUnread(&b, r.Unread)
	var rows []accessRow
	for _, k := range r.Keys {
		name := cmp.Or(strings.Join(escaped(k.Aliases), " "), alert.Escape(arn.KeyID(k.Key)))
		rows = append(rows, accessRow{access.Holder{Rights: k.Rights}, usages[k.Key], name, ""})
	}
	b.WriteString("\n")
	may := "may use"
	if c.can != "" {
		may = "may call " + c.can + " with"
	}
	switch {
	case len(rows) == 0 && len(r.Unread) > 0:
		b.WriteString(wrapTo(columns, fmt.Sprintf("No key is known that it %s, but not everything could be read.", may), "", ""))
	case len(rows) == 0:
		fmt.Fprintf(&b, "It %s no key, as far as can be seen.\n", may)
	case c.can != "":
		fmt.Fprintf(&b, "It %s:\n", may)
	}
	c.table(&b, "", "KEY", rows)
	printNotSeen(&b, r.NotSeen)
	_, err := w.Write(b.Bytes())
	return err
}

// sourcesText says what a report comes from: what could not be read is not counted.
func sourcesText(k access.Key, account access.Account, unread []string) string {
	text := "by the key policy"
	if len(k.Grants) > 0 || !slices.ContainsFunc(unread, func(u string) bool { return strings.HasPrefix(u, "grants: ") }) {
		text += ", " + counted(len(k.Grants), "grant")
	}
	if !account.Unread {
		text += fmt.Sprintf(", and the IAM of account %s: %s and %s", account.ID, counted(len(account.Users), "user"), counted(len(account.Roles), "role"))
	}
	return text
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// table writes rows, the worst first: the columns of the rights, or the verdict on the one
// action that is asked for, a date and a name. Under each come the ways to the rights, where
// they are asked for. Who only learns of the key is named below.
func (c *accessCommand) table(b *bytes.Buffer, date, name string, rows []accessRow) {
	slices.SortStableFunc(rows, worse)
	var see []string
	if c.can == "" {
		rows = slices.DeleteFunc(slices.Clone(rows), func(r accessRow) bool {
			if r.onlySees() {
				see = append(see, r.name)
			}
			return r.onlySees()
		})
	}
	all := len(rows)
	rows = rows[:min(all, maxAccessRows)]
	lines, conditional := [][]string{}, false
	for i, row := range rows {
		cells := row.cells()
		if c.can != "" {
			cells = []string{map[access.Verdict]string{access.Yes: "yes", access.Conditional: "if"}[row.holder.May(c.can)]}
		}
		conditional = conditional || slices.Contains(cells, "if")
		lines = append(lines, append(cells, rows[i].date))
	}
	var header []string
	for _, column := range accessColumns {
		header = append(header, column.name)
	}
	if c.can != "" {
		header = []string{"MAY"}
	}
	header = append(header, date)
	shown := make([]bool, len(header))
	for i := range header {
		shown[i] = slices.ContainsFunc(lines, func(line []string) bool { return line[i] != "" && (line[i] != "-" || i == len(header)-1) })
	}
	line := func(cells []string, name string) {
		var text strings.Builder
		for i, cell := range cells {
			if shown[i] {
				fmt.Fprintf(&text, "%-*s", max(len(header[i])+1, 6), cell)
			}
		}
		if utf8.RuneCountInString(text.String())+utf8.RuneCountInString(name) > columns {
			b.WriteString(strings.TrimRight(text.String(), " ") + "\n    " + name + "\n")
			return
		}
		b.WriteString(text.String() + name + "\n")
	}
	if len(rows) > 0 {
		line(header, name)
	}
	for i, row := range rows {
		line(lines[i], row.name)
		for _, right := range row.holder.Rights {
			if c.can != "" && slices.Contains(right.Actions, c.can) || c.can == "" && c.why {
				c.printRight(b, right)
			}
		}
		if (c.can != "" || c.why) && len(row.holder.Assumers) > 0 {
			printAssumers(b, row.holder)
		}
	}
	if more := all - len(rows); more > 0 {
		fmt.Fprintf(b, "and %d more; --json has all\n", more)
	}
	switch {
	case len(see) > 0 && name == "KEY":
		b.WriteString(wrapTo(columns, fmt.Sprintf("It only sees the settings of %s: %s", counted(len(see), "key"), someNames(see)), "", "  "))
	case len(see) > 0:
		b.WriteString(wrapTo(columns, fmt.Sprintf("Only seeing the key's settings: %s", someNames(see)), "", "  "))
	}
	if conditional && !c.why && c.can == "" {
		b.WriteString("\n" + wrapTo(columns, `"if" is under conditions, of which only a request tells whether they hold: --why shows them.`, "", ""))
	}
}

// someNames names the first ones.
func someNames(names []string) string {
	shown := strings.Join(names[:min(len(names), maxNamed)], ", ")
	if more := len(names) - maxNamed; more > 0 {
		return fmt.Sprintf("%s and %d more; --json has all", shown, more)
	}
	return shown
}

// holderText names a holder. One that IAM does not have says what it is.
func holderText(h access.Holder) string {
	name := alert.Escape(h.Principal)
	switch {
	case !h.Outside:
		return alert.Escape(arn.Parse(h.Principal).Resource)
	case h.Type == "everyone":
		return "everyone"
	case h.Type == "account":
		return "account " + name
	}
	return name
}

// printRight writes by what somebody has a right.
func (c *accessCommand) printRight(b *bytes.Buffer, r access.Right) {
	if c.can == "" {
		b.WriteString(wrapTo(columns, actionsText(r.Actions)+map[access.Verdict]string{access.Conditional: ", under conditions"}[r.Verdict], "      ", "        "))
	}
	for _, part := range []struct {
		words string
		ways  []access.Way
	}{{"by ", r.Ways}, {"which counts by ", r.Account}, {"within ", r.Boundary}, {"unless denied by ", r.Unless}} {
		for _, way := range part.ways[:min(len(part.ways), maxNamed)] {
			b.WriteString(wrapTo(columns, part.words+wayText(way), "        ", "          "))
		}
		if more := len(part.ways) - maxNamed; more > 0 {
			fmt.Fprintf(b, "        %sany of %d more; --json has all\n", part.words, more)
		}
	}
}

// printAssumers writes who can become a role.
func printAssumers(b *bytes.Buffer, h access.Holder) {
	var names []string
	for _, a := range h.Assumers {
		name := holderText(access.Holder{Principal: a.Principal, Type: a.Type, Outside: a.Outside})
		for i, role := range a.Through {
			name += []string{" through ", " and "}[min(i, 1)] + alert.Escape(arn.Parse(role).Resource)
		}
		if a.Verdict == access.Conditional {
			name += " (if)"
		}
		names = append(names, name)
	}
	text := strings.Join(names[:min(len(names), maxNamed)], ", ")
	if more := len(names) - maxNamed + h.MoreAssumers; more > 0 {
		text += fmt.Sprintf(" and %d more; --json has all", more)
	}
	b.WriteString(wrapTo(columns, "it can be assumed by "+text, "        ", "          "))
}

// actionsText names actions, the gravest first.
func actionsText(actions []string) string {
	sorted := slices.Clone(actions)
	slices.SortStableFunc(sorted, func(a, b string) int { return cmp.Compare(finding.AccessOf(a), finding.AccessOf(b)) })
	text := strings.Join(sorted[:min(len(sorted), maxActions)], ", ")
	if more := len(sorted) - maxActions; more > 0 {
		text += fmt.Sprintf(" and %d more; --json has all", more)
	}
	return text
}

// wayText names a statement or a grant with its conditions.
func wayText(w access.Way) string {
	text := string(w.Kind)
	if w.Kind == access.Delegation {
		text = "key policy"
	}
	text = "the " + text
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

// printAccessFindings writes findings; what to do about each kind is said once.
func printAccessFindings(b *bytes.Buffer, found []finding.Finding) {
	const margin = "            "
	if len(found) > 0 {
		fmt.Fprintf(b, "\n%s\n", headline(found))
	}
	said := map[finding.ID]bool{}
	for _, f := range found[:min(len(found), maxAccessFindings)] {
		fmt.Fprintf(b, "  %-8s  %s\n", f.Severity, f.ID)
		b.WriteString(wrapTo(columns, alert.Escape(f.Message), margin, margin))
		if !said[f.ID] {
			b.WriteString(wrapTo(columns, "To do: "+f.ID.Rule().Fix, margin, margin))
		}
		said[f.ID] = true
	}
	if more := len(found) - maxAccessFindings; more > 0 {
		fmt.Fprintf(b, "  and %d more; --json has all\n", more)
	}
}

// printUnread writes what could not be read, before anything that it makes incomplete.
func printUnread(b *bytes.Buffer, unread []string) {
	if len(unread) > 0 {
		b.WriteString("\nIncomplete: there may be more than is shown here.\n")
	}
	for _, text := range unread[:min(len(unread), maxNamed)] {
		b.WriteString(wrapTo(columns, "Not read: "+alert.Escape(text), "  ", "    "))
	}
	if more := len(unread) - maxNamed; more > 0 {
		fmt.Fprintf(b, "  and %d more; --json has all\n", more)
	}
}

// printNotSeen writes what also decides.
func printNotSeen(b *bytes.Buffer, notSeen []string) {
	b.WriteString("\nNot seen:\n")
	for _, text := range notSeen {
		b.WriteString(wrapTo(columns, text, "  - ", "    "))
	}
}

func escaped(names []string) (all []string) {
	for _, n := range names {
		all = append(all, alert.Escape(n))
	}
	return all
}
