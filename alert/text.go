package alert

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
)

const (
	// subjectLimit is SNS's: "less than 100 characters long".
	subjectLimit = 99
	// textWidth is where the text is wrapped, as mail is read in narrow windows.
	textWidth = 76
	// valueLimit is how many characters of one value the text shows.
	valueLimit = 2000
)

// Subject returns one line of at most 99 printable ASCII characters:
// "[CRITICAL] Key scheduled for deletion: alias/payments".
func (a Alert) Subject() string {
	s := escapeASCII(label(a.Severity) + shorten(a.headline(), subjectLimit))
	if len(s) > subjectLimit {
		s = s[:subjectLimit-3] + "..."
	}
	return s
}

func label(s finding.Severity) string { return "[" + strings.ToUpper(shorten(string(s), 20)) + "] " }

func (a Alert) headline() string {
	return cmp.Or(a.Title, strings.TrimSpace(string(a.Kind)+" "+a.EventName))
}

// Text returns the alert for people: plain text, wrapped, every value escaped,
// with a line break at its end.
func (a Alert) Text() string {
	var t text
	t.line("", "  ", label(a.Severity)+a.headline())

	t.section("What happened")
	if a.Summary != "" {
		t.paragraph(a.Summary)
		t.raw("")
	}
	t.table("  ",
		row{"Event", a.EventName},
		row{"Time", moment(&a.Time)},
		row{"Account", a.Account},
		row{"Region", a.Region},
	)
	a.calls(&t)
	if k := a.Key; k != nil {
		t.section("Key")
		t.table("  ",
			row{"ARN", k.ARN},
			row{"Aliases", strings.Join(k.Aliases, ", ")},
			row{"Description", k.Description},
			row{"State", k.State},
			row{"Deletion", moment(k.DeletionDate)},
		)
	}
	if w := a.Actor; w != nil {
		t.section("Who did it")
		t.table("  ",
			row{"Name", w.Name},
			row{"Type", w.Type},
			row{"ARN", w.ARN},
			row{"Role", w.Role},
			row{"Session", w.Session},
			row{"MFA", w.MFA},
			row{"Account", w.Account},
			row{"Invoked by", w.InvokedBy},
			row{"From", w.SourceIP},
			row{"With", w.UserAgent},
		)
	}
	t.section("What cmkeeper did")
	t.paragraph(a.did())
	t.section("What is at risk")
	t.paragraph(a.Risk)
	t.section("What to do next")
	for i, n := range a.steps() {
		number := fmt.Sprintf("  %d. ", i+1)
		if command.Is(n) {
			t.raw(number + n)
			continue
		}
		t.line(number, strings.Repeat(" ", len(number)), n)
	}
	a.findings(&t)
	t.section("Further facts")
	for _, f := range a.Facts {
		name := f.Name
		if f.Source != "" {
			name += " (" + f.Source + ")"
		}
		t.line("  ", "  ", name+":")
		for _, v := range f.Values {
			t.line("    ", "      ", v)
		}
	}
	if c := a.Cut; c != nil {
		t.section("Cut short")
		calls := ""
		if c.Calls > 0 {
			calls = fmt.Sprintf("%d calls, ", c.Calls)
		}
		t.paragraph(fmt.Sprintf("This alert was too large to be sent whole and is shortened. It has %s%d findings and %d facts with %d values.",
			calls, c.Findings, c.Facts, c.Values))
		t.table("  ", row{"Full alert", cmp.Or(c.Whole, "is not stored")})
	}
	t.heading = "\n"
	t.line("-- ", "   ", Schema+" "+a.ID)
	return t.b.String()
}

// steps returns the next steps without the commands that are not safe to paste. They are
// checked here again, because an older version may have stored the alert.
func (a Alert) steps() []string {
	steps := slices.Clone(a.Next)
	for i, n := range steps {
		if command.Is(n) && !command.Safe(n) {
			steps[i] = "A command is left out here: it contains characters that cannot be pasted safely."
		}
	}
	return steps
}

// calls is the table of a digest.
func (a Alert) calls(t *text) {
	d := a.Digest
	if d == nil {
		return
	}
	heading := "Calls"
	if a.Kind == KindPosture {
		heading = "What is wrong"
	}
	t.section(fmt.Sprintf("%s (%d)", heading, d.all()))
	t.table("  ", row{"By", d.Group}, row{"From", moment(&d.From)}, row{"Until", moment(&d.Until)}, row{"Incident", a.Incident}, row{"Full alerts", d.Alerts})
	const indent = "            "
	for _, c := range d.Calls {
		severity := fmt.Sprintf("  %-9s ", Escape(shorten(strings.ToUpper(string(c.Severity)), 20)))
		line := c.EventName
		if key := c.key(); key != "" {
			line += " on " + key
		}
		if c.Sensitive {
			line += ", a sensitive key"
		}
		line = fmt.Sprintf("%s %s: %s", c.Time.UTC().Format("15:04:05"), line, c.Status.words())
		if a.Kind == KindPosture {
			line = c.stands()
		}
		t.line(severity, indent, line)
		t.line(indent, indent, c.Title)
		switch step := c.step(); {
		case command.Is(step):
			t.raw(indent + step)
		case step != "":
			t.line(indent, indent, step)
		}
	}
	if more := d.all() - len(d.Calls); more > 0 {
		t.line("  ", "  ", fmt.Sprintf("… and %d more", more))
	}
}

// stands names the key of a row about how things stand.
func (c Call) stands() string {
	line := cmp.Or(c.key(), "a bucket or a setting")
	if c.Sensitive {
		line += ", a sensitive key"
	}
	return line
}

// step is what to do about it, but for a command that is not safe to paste.
func (c Call) step() string {
	if command.Is(c.Do) && !command.Safe(c.Do) {
		return ""
	}
	return c.Do
}

// key names the call's key in a few words.
func (c Call) key() string {
	id := arn.KeyID(c.Key)
	if c.Alias == "" {
		return id
	}
	return c.Alias + " (" + id + ")"
}

func (a Alert) findings(t *text) {
	t.section(fmt.Sprintf("Findings (%d)", len(a.Findings)))
	const indent = "            "
	for _, f := range a.Findings {
		t.line(fmt.Sprintf("  %-9s ", Escape(shorten(strings.ToUpper(string(f.Severity)), 20))), indent, f.ID.String())
		t.line(indent, indent, f.Message)
		t.table(indent, row{"Statement", f.Statement}, row{"Principal", f.Principal})
	}
}

// words says in a few words what was done about a call.
func (s Status) words() string {
	words := map[Status]string{
		StatusDone:     "handled by cmkeeper",
		StatusWouldDo:  "only observed",
		StatusFailed:   "cmkeeper FAILED",
		StatusRefused:  "cmkeeper REFUSED",
		StatusNone:     "nothing done",
		StatusResolved: "over",
	}[cmp.Or(s, StatusNone)]
	return cmp.Or(words, string(s))
}

// did says what was done: of several alerts, each has its own status.
func (a Alert) did() string {
	if a.Digest != nil {
		return a.Action.Description
	}
	return a.Action.sentence()
}

// sentence says what was done so that no status can be mistaken for another.
func (a Action) sentence() string {
	what := map[Status]string{
		StatusDone:     "Done.",
		StatusWouldDo:  "Nothing (mode observe). In mode enforce:",
		StatusFailed:   "FAILED.",
		StatusRefused:  "REFUSED, because it would not be safe.",
		StatusNone:     "Nothing.",
		StatusResolved: "Resolved.",
	}[cmp.Or(a.Status, StatusNone)]
	return strings.TrimSpace(cmp.Or(what, string(a.Status)+".") + " " + a.Description)
}

func moment(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// text builds the text rendering. It escapes and shortens what it is given,
// except the prefixes, which are ours.
type text struct {
	b strings.Builder
	// heading is what comes before the next line: a section without lines is not shown.
	heading string
}

type row struct{ name, value string }

func (t *text) section(title string) { t.heading = "\n" + strings.ToUpper(title) + "\n" }

func (t *text) raw(line string) {
	t.b.WriteString(t.heading + line + "\n")
	t.heading = ""
}

func (t *text) paragraph(s string) {
	if s != "" {
		t.line("  ", "  ", s)
	}
}

// table writes the rows that have a value, with the values below each other.
func (t *text) table(indent string, rows ...row) {
	for _, r := range rows {
		if r.value != "" {
			name := fmt.Sprintf("%s%-12s ", indent, r.name)
			t.line(name, strings.Repeat(" ", len(name)), r.value)
		}
	}
}

// line writes s behind first, and wraps it at textWidth with the other lines
// behind rest. Words are never broken: ARNs stay whole, to be copied.
func (t *text) line(first, rest, s string) {
	line, used := first, false
	for word := range strings.SplitSeq(Escape(shorten(s, valueLimit)), " ") {
		switch {
		case !used:
			line, used = line+word, true
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > textWidth:
			t.raw(line)
			line = rest + word
		default:
			line += " " + word
		}
	}
	t.raw(line)
}
