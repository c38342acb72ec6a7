package cli

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/keylist"
)

// keyColumn is a column of the list of keys.
type keyColumn struct {
	name string
	// order is in which order columns are left out where the lines are too short, the
	// highest first; 0 stays.
	order int
	cell  func(keylist.Key) string
}

// minKeyWidth is how short the column with the key's name may get: an id is whole.
const minKeyWidth = 36

func keyColumns(o keylist.Options, keys []keylist.Key) []keyColumn {
	columns := []keyColumn{
		{"WORST", 0, worstText},
		{"KEY", 0, nameOfKey},
		{"STATE", 0, func(k keylist.Key) string { return cmp.Or(k.State, "not known") }},
		{"ROTATION", 2, rotationCell},
		{"POLICY", 3, policyCell},
		{"GRANTS", 4, grantsCell},
		{"BUCKETS", 5, bucketsCell},
		{"KIND", 8, kindText},
		{"AGE", 9, ageCell},
	}
	if slices.ContainsFunc(keys, func(k keylist.Key) bool { return len(k.Buckets.BucketKeysOff) > 0 }) {
		columns = slices.Insert(columns, 7, keyColumn{"BK OFF", 7, bucketKeysCell})
	}
	switch {
	case o.Unused > 0:
		columns = slices.Insert(columns, 3, keyColumn{"UNUSED", 1, unusedCell})
	case slices.ContainsFunc(keys, func(k keylist.Key) bool { return k.LastUse.Record != nil }):
		columns = slices.Insert(columns, len(columns)-2, keyColumn{"UNUSED", 6, unusedCell})
	}
	return columns
}

// printKeys writes the list for people, in lines of so many characters.
func printKeys(w io.Writer, l keylist.List, width int, o keylist.Options) error {
	var b bytes.Buffer
	columns := keyColumns(o, l.Keys)
	var rows [][]string
	for _, k := range l.Keys {
		row := make([]string, 0, len(columns))
		for _, c := range columns {
			row = append(row, alert.Escape(c.cell(k)))
		}
		rows = append(rows, row)
	}
	shown, widths, left := fit(columns, rows, width)
	line := func(cells []string) {
		var text strings.Builder
		for i, c := range shown {
			cell := cut(cells[c], widths[i])
			text.WriteString(cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		fmt.Fprintln(&b, strings.TrimRight(text.String(), " "))
	}
	var header []string
	for _, c := range columns {
		header = append(header, c.name)
	}
	if len(rows) > 0 {
		line(header)
	}
	for i, row := range rows {
		line(row)
		printUnder(&b, l.Keys[i], width, o.Tags)
	}
	printTotals(&b, l, width)
	if len(left) > 0 {
		fmt.Fprint(&b, wrapTo(width, "Not shown for want of room: "+strings.Join(left, ", ")+". --json and --csv have everything.", "", "  "))
	}
	_, err := w.Write(b.Bytes())
	return err
}

// fit decides which columns are shown, how wide they are, and which are left out.
func fit(columns []keyColumn, rows [][]string, width int) (shown, widths []int, left []string) {
	natural := make([]int, len(columns))
	for i, c := range columns {
		natural[i] = len(c.name)
		for _, row := range rows {
			natural[i] = max(natural[i], utf8.RuneCountInString(row[i]))
		}
		shown = append(shown, i)
	}
	const key = 1
	for {
		total := -2
		for _, i := range shown {
			total += natural[i] + 2
		}
		if shrink := min(total-width, natural[key]-minKeyWidth); total > width && shrink > 0 {
			natural[key] -= shrink
			total -= shrink
		}
		last := slices.MaxFunc(shown, func(a, b int) int { return cmp.Compare(columns[a].order, columns[b].order) })
		if total <= width || columns[last].order == 0 {
			break
		}
		left = append(left, strings.ToLower(columns[last].name))
		shown = slices.DeleteFunc(shown, func(i int) bool { return i == last })
	}
	for _, i := range shown {
		widths = append(widths, natural[i])
	}
	return shown, widths, left
}

// cut shortens text to so many characters.
func cut(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:max(0, width-1)]) + "…"
}

// printUnder writes what does not fit into a row: dangers, exemptions, tags.
func printUnder(w io.Writer, k keylist.Key, width int, tags bool) {
	const margin = "          "
	for _, d := range k.Dangers {
		text := string(d.Severity) + ": " + d.Text
		if d.Exempt != "" {
			text += " Exempt: " + d.Exempt + "."
		}
		fmt.Fprint(w, wrapTo(width, alert.Escape(text), margin+"- ", margin+"  "))
	}
	if tags && k.Manager != "AWS" {
		fmt.Fprint(w, wrapTo(width, "tags: "+tagsText(k), margin+"  ", margin+"    "))
	}
}

func printTotals(w io.Writer, l keylist.List, width int) {
	t := l.Totals
	text := fmt.Sprintf("%d keys of account %s in %s at %s: %d customer managed, %d managed by AWS", t.Keys, l.Account, l.Region, l.Began.Format(time.RFC3339), t.Customer, t.AWS)
	if t.NotDescribed > 0 {
		text += fmt.Sprintf(", %d of which it is not known", t.NotDescribed)
	}
	var worst []string
	for _, s := range slices.Backward(finding.Severities()) {
		if n := t.ByWorst[s]; n > 0 {
			worst = append(worst, fmt.Sprintf("%d %s", n, s))
		}
	}
	worst = append(worst, fmt.Sprintf("%d without a danger", t.Clean))
	if t.NotJudged > 0 {
		worst = append(worst, fmt.Sprintf("%d not judged wholly", t.NotJudged))
	}
	fmt.Fprintln(w)
	fmt.Fprint(w, wrapTo(width, text+". By their worst danger: "+strings.Join(worst, ", ")+".", "", "  "))
	// The same reason often holds for many keys.
	why, count := map[string]string{}, map[string]int{}
	note := func(fact string, r keylist.Read) {
		if r.NotKnown == "" || r.NotKnown == keylist.NotAsked || r.NotKnown == keylist.AWSManages {
			return
		}
		if count[fact]++; why[fact] == "" {
			why[fact] = r.NotKnown
		}
	}
	for _, k := range l.Keys {
		note("description", k.Described)
		note("rotation", k.Rotation.Read)
		note("last rotation", keylist.Read{NotKnown: k.Rotation.LastNotKnown})
		note("policy", k.Policy.Read)
		note("grants", k.Grants.Read)
		note("last use", k.LastUse.Read)
		note("tags", k.Tags.Read)
		note("approval of the deletion", keylist.Read{NotKnown: k.ApprovalNotKnown})
	}
	for _, fact := range slices.Sorted(maps.Keys(count)) {
		fmt.Fprint(w, wrapTo(width, fmt.Sprintf("Not known: %s of %d keys, the first because: %s", fact, count[fact], alert.Escape(why[fact])), "", "  "))
	}
	if slices.ContainsFunc(l.Keys, func(k keylist.Key) bool { return strings.HasSuffix(unusedCell(k), "*") }) {
		fmt.Fprint(w, wrapTo(width, "UNUSED with * is by the record of a former reading, when that was made. Name a key, or use --unused, to read it now.", "", "  "))
	}
	if text := l.BucketKeys.Text(); text != "" {
		fmt.Fprint(w, wrapTo(width, text, "", "  "))
	}
	for _, text := range l.NotKnown {
		fmt.Fprint(w, wrapTo(width, "Not known: "+alert.Escape(text), "", "  "))
	}
}

func worstText(k keylist.Key) string {
	switch {
	case k.Worst != "":
		return string(k.Worst)
	case !k.Judged:
		return "?"
	}
	return "-"
}

// nameOfKey is the first alias with how many more there are, or else the id.
func nameOfKey(k keylist.Key) string {
	switch n := len(k.Aliases); n {
	case 0:
		return k.ID
	case 1:
		return k.Aliases[0]
	default:
		return fmt.Sprintf("%s (and %d more)", k.Aliases[0], n-1)
	}
}

// kindText says what kind of key it is, where that is not the usual one.
func kindText(k keylist.Key) string {
	if !k.Described.Known() {
		return "not known"
	}
	var words []string
	if k.Manager == "AWS" {
		words = append(words, "AWS managed")
	}
	if k.Spec == "SYMMETRIC_DEFAULT" {
		words = append(words, "symmetric")
	} else {
		words = append(words, k.Spec, strings.ToLower(k.Usage))
	}
	if k.Origin != "AWS_KMS" {
		words = append(words, strings.ToLower(k.Origin))
	}
	if k.MultiRegion != "" {
		words = append(words, "multi-Region "+strings.ToLower(k.MultiRegion))
	}
	return strings.Join(words, " ")
}

func rotationCell(k keylist.Key) string {
	r := k.Rotation
	switch {
	case r.Blocker != "":
		return string(r.Blocker)
	case r.Enabled == nil:
		return "?"
	case *r.Enabled:
		return fmt.Sprintf("on %dd", r.PeriodDays)
	}
	return "off"
}

func policyCell(k keylist.Key) string {
	switch {
	case k.Manager == "AWS":
		return "-"
	case !k.Policy.Known():
		return "?"
	}
	return cmp.Or(string(k.Policy.Worst), "-")
}

func grantsCell(k keylist.Key) string {
	switch {
	case k.Manager == "AWS":
		return "-"
	case !k.Grants.Known():
		return "?"
	case len(k.Grants.Outside) > 0:
		return fmt.Sprintf("%d, %d out", k.Grants.Count, len(k.Grants.Outside))
	}
	return fmt.Sprint(k.Grants.Count)
}

func bucketsCell(k keylist.Key) string {
	if !k.Buckets.Known() {
		return fmt.Sprintf("%d?", len(k.Buckets.Names))
	}
	return fmt.Sprint(len(k.Buckets.Names))
}

func ageCell(k keylist.Key) string {
	if !k.Described.Known() {
		return "?"
	}
	return fmt.Sprintf("%dd", k.AgeDays)
}

func bucketKeysCell(k keylist.Key) string {
	n := len(k.Buckets.BucketKeysOff)
	switch {
	case !k.Buckets.Known():
		return fmt.Sprintf("%d?", n)
	case n == 0:
		return "-"
	}
	return fmt.Sprint(n)
}

// unusedCell is for how many days the key was not used; with "*" by the record where that
// was not read, ">" where no use is known and KMS has recorded for so many days.
func unusedCell(k keylist.Key) string {
	u := k.LastUse
	days := func(n int, used bool) string {
		if used {
			return fmt.Sprintf("%dd", n)
		}
		return fmt.Sprintf(">%dd", n)
	}
	if u.UnusedDays != nil {
		return days(*u.UnusedDays, u.Used != nil)
	}
	if u.Record != nil && !u.Known() {
		if n, ok := u.Record.UnusedDays(); ok {
			return days(n, !u.Record.Used.IsZero()) + "*"
		}
	}
	return "?"
}

func tagsText(k keylist.Key) string {
	if !k.Tags.Known() {
		return "not known"
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(k.Tags.Values)) {
		all = append(all, alert.Escape(name+"="+k.Tags.Values[name]))
	}
	return cmp.Or(strings.Join(all, ", "), "none")
}

// printKeyDetails writes all that is known of each key.
func printKeyDetails(w io.Writer, l keylist.List) error {
	var b bytes.Buffer
	for i, k := range l.Keys {
		if i > 0 {
			fmt.Fprintln(&b)
		}
		fmt.Fprintf(&b, "%s\n", alert.Escape(k.ARN))
		for _, row := range k.Rows() {
			for j, value := range row.Values {
				name := row.Name
				if j > 0 {
					name = ""
				}
				first := fmt.Sprintf("  %-18s", name)
				fmt.Fprint(&b, wrap(alert.Escape(value), first, strings.Repeat(" ", 20)))
			}
		}
	}
	for _, text := range l.NotKnown {
		fmt.Fprintf(&b, "\nNot known: %s\n", alert.Escape(text))
	}
	_, err := w.Write(b.Bytes())
	return err
}
