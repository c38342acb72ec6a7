package keyreport

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/keylist"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// style is the page's only style sheet. What it says must hold without colours.
const style = `
body{font:14px/1.45 system-ui,"Segoe UI","DejaVu Sans",sans-serif;color:#1a1a1a;background:#fff;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin:0}h2{font-size:1.25rem;border-bottom:2px solid #222;margin:2.2rem 0 .8rem;padding-bottom:.2rem}h3{font-size:1.05rem;margin:1.4rem 0 .4rem}
p{margin:.4rem 0}table{border-collapse:collapse;width:100%;margin:.6rem 0;font-size:.86rem}
th,td{border:1px solid #bbb;padding:.28rem .45rem;text-align:left;vertical-align:top}th{background:#eee}td{overflow-wrap:anywhere}td.w{white-space:nowrap}
td.n{text-align:right}td.k{min-width:13rem}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:.6rem;margin:1rem 0}.tile{border:1px solid #777;padding:.5rem .7rem}.tile b{display:block;font-size:1.5rem}
.pass,.fail,.open{font-weight:700;white-space:nowrap}.fail{border:2px solid #8c0a0a;color:#8c0a0a;padding:0 .3rem}.pass{color:#14532d}.open{border:1px dashed #555;padding:0 .3rem}
.small{font-size:.8rem;color:#444}.id{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:.8rem}
.note{border-left:4px solid #222;padding:.3rem .8rem;margin:.8rem 0;background:#f6f6f6}
svg{display:block;max-width:100%;height:auto;margin:.6rem 0}svg text{font:12px system-ui,"DejaVu Sans",sans-serif;fill:#1a1a1a}svg.defs{position:absolute}
nav ul{columns:2;margin:.4rem 0}
@media print{body{margin:0;max-width:none;font-size:10.5pt}h2{break-after:avoid}h3{break-after:avoid}tr,svg,.tile,.note{break-inside:avoid}thead{display:table-header-group}a{color:inherit;text-decoration:none}}
@page{margin:16mm 14mm}
`

// contentPolicy lets the page load nothing and run nothing; its style sheet is named by
// its hash.
func contentPolicy() string {
	return fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; base-uri 'none'; form-action 'none'", hash(style))
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Page is the report as one page of HTML that needs nothing else.
func (r Report) Page() string {
	var b strings.Builder
	b.WriteString("<!DOCTYPE html>\n")
	title := "Keys of account " + r.Keys.Account + " in " + r.Keys.Region
	el("html", []attribute{attr("lang", "en")},
		tag("head",
			el("meta", []attribute{attr("charset", "utf-8")}),
			el("meta", []attribute{attr("http-equiv", "Content-Security-Policy"), attr("content", contentPolicy())}),
			el("meta", []attribute{attr("name", "viewport"), attr("content", "width=device-width, initial-scale=1")}),
			el("meta", []attribute{attr("name", "referrer"), attr("content", "no-referrer")}),
			words("title", title),
			// A constant of this package, and the only text that is not escaped.
			tag("style", func(b *strings.Builder) { b.WriteString(style) })),
		tag("body", patterns(), words("h1", title), r.head(), r.standing(), r.dangers(), r.allKeys(), r.access(), r.past(), r.forgiven(), r.moves(), r.controls(), r.method()))(&b)
	b.WriteString("\n")
	return b.String()
}

// part is a section that the list of contents names.
func part(id, title string, content ...node) node {
	return el("section", []attribute{attr("id", id)}, append([]node{words("h2", title)}, content...)...)
}

// table is a table with a head. Where there are no rows, none says so instead.
func table(none string, head []string, rows [][]node) node {
	if len(rows) == 0 {
		return words("p", none)
	}
	return tag("table",
		tag("thead", tag("tr", each(head, func(h string) node { return el("th", []attribute{attr("scope", "col")}, text(h)) }))),
		tag("tbody", each(rows, func(row []node) node { return tag("tr", row...) })))
}

func cell(s string) node             { return words("td", s) }
func number[N int | int64](n N) node { return class("td", "n", text(strconv.FormatInt(int64(n), 10))) }

// short is a cell that is not broken into lines. What others can choose is in none.
func short(s string) node { return class("td", "w", text(s)) }

// resource is an ARN without what the title says of all keys.
func (r Report) resource(name string) string {
	if a := arn.Parse(name); a.Service == "kms" && a.Region == r.Keys.Region && a.Account == r.Keys.Account {
		return a.Resource
	}
	return name
}

// keyCell names a key.
func (r Report) keyCell(name, alias string) node {
	id := class("span", "id", text(r.resource(name)))
	if alias == "" {
		return class("td", "k", id)
	}
	return class("td", "k", text(alias), el("br", nil), id)
}

// statusNode is a status in words, framed by what it is.
func statusNode(s Status) node {
	switch s {
	case Pass:
		return class("span", "pass", text("✓ pass"))
	case Fail:
		return class("span", "fail", text("✗ fail"))
	case NotChecked:
	}
	return class("span", "open", text("? not checked"))
}

func (r Report) head() node {
	return nodes(
		tag("p", text(fmt.Sprintf("Made at %s by %s with cmkeeper %s. The keys were read from %s to %s. Times are UTC.",
			stamp(r.Made), r.By, r.Version, stamp(r.Keys.Began), stamp(r.Keys.Ended)))),
		tag("nav", tag("ul", each([][2]string{
			{"standing", "How things stand"}, {"dangers", "What is wrong"}, {"keys", "All keys"}, {"access", "Who can come to the keys"}, {"past", "How it went"}, {"forgiven", "What was forgiven or refused"},
			{"moves", "Re-encryption"}, {"controls", "Controls of frameworks"}, {"method", "How this was made"},
		}, func(p [2]string) node { return tag("li", el("a", []attribute{attr("href", "#"+p[0])}, text(p[1]))) }))))
}

func tile(value, what string) node {
	return class("div", "tile", words("b", value), text(what))
}

func (r Report) standing() node {
	t := r.Keys.Totals
	share, known := t.Rotation.Share()
	rotation := "not known"
	if known {
		rotation = percent(share)
	}
	open := 0
	for s, n := range t.Open {
		if s != finding.Info {
			open += n
		}
	}
	var bars []bar
	for _, s := range worstFirst() {
		bars = append(bars, bar{name: string(s), n: t.ByWorst[s], fill: fillOf(s)})
	}
	bars = append(bars, bar{name: "info", n: t.ByWorst[finding.Info], fill: "#fff"}, bar{name: "nothing found", n: t.Clean, fill: "#fff"}, bar{name: "not judged wholly", n: t.NotJudged, fill: "#fff"})
	rot := t.Rotation
	cannot := 0
	for _, n := range rot.Cannot {
		cannot += n
	}
	var reasons [][]node
	for _, blocker := range slices.Sorted(maps.Keys(rot.Cannot)) {
		reasons = append(reasons, []node{cell(string(blocker)), number(rot.Cannot[blocker])})
	}
	var states [][]node
	for _, s := range slices.Sorted(maps.Keys(t.ByState)) {
		name := s
		if name == "" {
			name = "not known"
		}
		states = append(states, []node{cell(name), number(t.ByState[s])})
	}
	return part("standing", "How things stand",
		class("div", "tiles",
			tile(strconv.Itoa(t.Customer), "customer managed keys"), tile(strconv.Itoa(t.AWS), "keys managed by AWS"),
			tile(strconv.Itoa(open), "open dangers, "+strconv.Itoa(t.Exempt)+" more are exempt"), tile(rotation, "of keys that can rotate do so in time")),
		r.unknowns(),
		words("h3", "Customer managed keys by their worst danger"),
		barChart("Keys by their worst danger", bars),
		words("h3", "Rotation"),
		barChart("Keys by their rotation", []bar{
			{"on, in time", rot.On - rot.Slow, "#222", ""}, {"on, too slow", rot.Slow, "url(#p-high)", ""}, {"off", rot.Off, "url(#p-medium)", ""},
			{"cannot now", cannot, "url(#p-low)", ""}, {"not known", rot.NotKnown, "#fff", ""},
		}),
		table("Every key can rotate.", []string{"why a key cannot rotate now", "keys"}, reasons),
		words("h3", "States"), table("There are no customer managed keys.", []string{"state", "keys"}, states))
}

// unknowns says what could not be read.
func (r Report) unknowns() node {
	all := slices.Clone(r.Keys.NotKnown)
	if n := r.Keys.Totals.NotJudged; n > 0 {
		all = append(all, fmt.Sprintf("%d keys without a danger could not be judged wholly", n))
	}
	if n := r.Keys.Totals.NotDescribed; n > 0 {
		all = append(all, fmt.Sprintf("%d keys could not be described", n))
	}
	for what, why := range map[string]string{"sweeps": r.History.SweepsNotKnown, "the fleet's records": r.History.RecordsNotKnown, "re-encryption jobs": r.History.JobsNotKnown} {
		if why != "" {
			all = append(all, what+": "+why)
		}
	}
	slices.Sort(all)
	if len(all) == 0 {
		return nil
	}
	return class("div", "note", words("b", "What is not known"), tag("ul", each(all, func(s string) node { return words("li", s) })))
}

func aliasOf(k keylist.Key) string { return strings.Join(k.Aliases, ", ") }

func (r Report) dangers() node {
	var rows [][]node
	for _, k := range r.Keys.Keys {
		for _, d := range k.Dangers {
			exempt := "no"
			if d.Exempt != "" {
				exempt = d.Exempt
			}
			at, how := evidenceOf(k, d)
			rows = append(rows, []node{short(string(d.Severity)), r.keyCell(k.ARN, aliasOf(k)), cell(d.Text), cell(exempt), cell(how + ", " + stamp(at))})
		}
	}
	return part("dangers", "What is wrong", table("Nothing was found in what could be read.", []string{"severity", "key", "what", "exempt", "how and when it was read"}, rows))
}

// evidenceOf is when and how that was read which shows a danger.
func evidenceOf(k keylist.Key, d keylist.Danger) (at time.Time, how string) {
	switch name, _, _ := strings.Cut(d.Name, "/"); name {
	case "policy":
		return k.Policy.At, "KMS GetKeyPolicy"
	case "grant":
		return k.Grants.At, "KMS ListGrants"
	case "rotation":
		return k.Rotation.At, "KMS GetKeyRotationStatus"
	}
	return k.Described.At, "KMS DescribeKey"
}

func (r Report) allKeys() node {
	var rows [][]node
	for _, k := range r.Keys.Keys {
		worst := string(k.Worst)
		switch {
		case worst != "":
		case k.Judged:
			worst = "-"
		default:
			worst = "?"
		}
		grants := fmt.Sprintf("%d, %d outside", k.Grants.Count, len(k.Grants.Outside))
		if !k.Grants.Known() {
			grants = "?"
		}
		policy := string(k.Policy.Worst)
		switch {
		case !k.Policy.Known():
			policy = "?"
		case policy == "":
			policy = "-"
		}
		if k.Manager == "AWS" {
			policy, grants = "AWS's", "AWS's"
		}
		buckets := strconv.Itoa(len(k.Buckets.Names))
		if !k.Buckets.Known() {
			buckets += "?"
		}
		created := "?"
		if k.Described.Known() {
			created = day(k.Created)
		}
		used := "?"
		if k.LastUse.Known() || k.LastUse.Record != nil {
			used = k.LastUse.Words()
		}
		rows = append(rows, []node{
			short(worst), r.keyCell(k.ARN, aliasOf(k)), cell(k.Description), short(orUnknown(k.State)), cell(r.rotationText(k)), short(policy), short(grants), short(buckets), short(created), cell(used),
		})
	}
	return part("keys", "All keys", class("p", "small", text("- is nothing found, ? is not known. cmkeeper keys --json has everything that was read, with times and reasons.")),
		table("There are no keys.", []string{"worst", "key", "description", "state", "rotation", "policy", "grants", "buckets", "created", "last use"}, rows))
}

func orUnknown(s string) string {
	if s == "" {
		return "?"
	}
	return s
}

func (r Report) rotationText(k keylist.Key) string {
	if rotation := k.Rotation; rotation.Enabled != nil && *rotation.Enabled && rotation.Blocker == "" {
		s := fmt.Sprintf("on, %d days", rotation.PeriodDays)
		if rotation.Next != nil {
			s += ", next " + day(*rotation.Next)
		}
		return s
	}
	if words := k.Rotation.Words(); !strings.HasPrefix(words, "not known") {
		return words
	}
	return "?"
}

// daily is the last sweep of each day.
func daily(sweeps []Sweep) (all []Sweep) {
	for _, s := range sweeps {
		if n := len(all); n > 0 && day(all[n-1].Began) == day(s.Began) {
			all[n-1] = s
		} else {
			all = append(all, s)
		}
	}
	return all
}

// shownDays is how many days the table of sweeps has.
const shownDays = 31

func (r Report) past() node {
	h := r.History
	days := daily(h.Sweeps)
	var line []point
	var stacks []stack
	for _, s := range days {
		if s.CanRotate > 0 {
			line = append(line, point{s.Ended, float64(s.Rotates) / float64(s.CanRotate)})
		}
		if !s.counted() {
			continue
		}
		n := map[finding.Severity]int{}
		for severity, count := range s.Dangers {
			n[finding.Severity(severity)] += count
		}
		stacks = append(stacks, stack{s.Ended, n})
	}
	var charts []node
	if len(line) > 1 {
		charts = append(charts, words("h3", "Keys that rotate, of those that can"), lineChart("Keys that rotate, of those that can", line))
	}
	if len(stacks) > 1 {
		charts = append(charts, words("h3", "Open dangers of keys, by severity"), stackChart("Open dangers of keys", stacks))
		if since := stacks[0].at; since.After(days[0].Ended) {
			charts = append(charts, class("p", "small", text("Since "+day(since)+": earlier records do not have the dangers of all keys.")))
		}
	}
	var rows [][]node
	for _, s := range slices.Backward(days[max(0, len(days)-shownDays):]) {
		whole := "yes"
		if !s.Whole {
			whole = "no: " + s.Error
		}
		rows = append(rows, []node{
			short(stamp(s.Began)), cell(s.Ended.Sub(s.Began).Round(time.Second).String()), cell(whole), number(s.Keys), number(s.Changed), number(s.Unread),
			cell(fmt.Sprintf("%d of %d", s.Rotates, s.CanRotate)), cell(s.openText()), number(s.Repairs),
		})
	}
	canary := "How long an event needs on its way to cmkeeper is not known: " + h.Canary.NotKnown + "."
	if h.Canary.NotKnown == "" {
		canary = fmt.Sprintf("An event needs %s on average from the call to cmkeeper, at most %s (%d measured).", seconds(h.Canary.Mean), seconds(h.Canary.Longest), h.Canary.Measured)
	}
	if h.Canary.Lost > 0 {
		canary += fmt.Sprintf(" The last %d did not come back.", h.Canary.Lost)
	}
	var repairs [][]node
	for _, reaction := range slices.Sorted(maps.Keys(h.Repairs.By)) {
		of := h.Repairs.By[reaction]
		took := "not on record"
		if of.Measured > 0 {
			took = fmt.Sprintf("%s on average, at most %s", seconds(of.Mean), seconds(of.Longest))
		}
		repairs = append(repairs, []node{cell(reaction), number(of.Count), cell(took)})
	}
	return part("past", "How it went", nodes(charts...),
		words("h3", "Sweeps"), class("p", "small", text(fmt.Sprintf("The last one of each of the last %d days; %d sweeps of %d days are on record.", shownDays, len(h.Sweeps), len(days)))),
		table("No sweep is on record.", []string{"began", "took", "whole", "keys", "changed", "not read", "rotate", "open", "repairs"}, rows),
		words("h3", "From the event to the repair"), words("p", r.repairText()),
		table("", []string{"setting", "put back", "time from the event to the repair"}, repairs),
		words("h3", "From the call to cmkeeper"), words("p", canary))
}

// openText says what was wrong, and of what that is where it is not of all keys.
func (s Sweep) openText() string {
	open := bySeverity(s.Dangers)
	if s.DangersMore > 0 {
		open += fmt.Sprintf(", and %d more", s.DangersMore)
	}
	switch {
	case s.counted(), s.Keys == 0:
		return open
	case s.DangersOf > 0:
		return fmt.Sprintf("%s (of %d keys)", open, s.DangersOf)
	case len(s.Open) > 0:
		return bySeverity(s.Open) + " (keys, by their policies alone)"
	}
	return "not on record"
}

func (r Report) repairText() string {
	if why := r.History.RecordsNotKnown; why != "" {
		return "Not all is known: " + why
	}
	if r.History.Repairs.Count == 0 {
		return "No repair is on record."
	}
	return r.History.Repairs.text()
}

func bySeverity(open map[string]int) string {
	var all []string
	for _, s := range worstFirst() {
		if n := open[string(s)]; n > 0 {
			all = append(all, fmt.Sprintf("%d %s", n, s))
		}
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

func (r Report) forgiven() node {
	var exemptions, approved, accepted, stopped [][]node
	for _, e := range r.Exemptions {
		holds := "yes"
		if !e.Holds {
			holds = "no, expired"
		}
		exemptions = append(exemptions, []node{cell(e.Covers), cell(e.Reason), cell(e.Until), cell(holds), number(e.Keys), number(e.Dangers)})
	}
	h := r.History
	for _, a := range h.Approved {
		approved = append(approved, []node{r.keyCell(a.Key, ""), cell(a.By), cell(stamp(a.At)), cell(fmt.Sprintf("%d days", a.Days)), cell(strings.Join(a.Unknown, ", "))})
	}
	for _, a := range h.Accepted {
		accepted = append(accepted, []node{r.keyCell(a.Key, ""), number(a.Version), cell(a.By), cell(stamp(a.At))})
	}
	for _, s := range h.Stopped {
		stopped = append(stopped, []node{r.keyCell(s.Key, ""), cell(s.Reaction), cell(stamp(s.At))})
	}
	none := "None are on record."
	if h.RecordsNotKnown != "" {
		none = "Not known: " + h.RecordsNotKnown
	}
	return part("forgiven", "What was forgiven or refused",
		words("h3", "Exemptions"), table("Nothing is exempt.", []string{"what", "reason", "until", "holds", "keys now", "dangers now"}, exemptions),
		words("h3", "Deletions that were approved"), table(none, []string{"key", "by", "at", "waiting period", "accepted without being known"}, approved),
		words("h3", "Key policies that were accepted by hand"), table(none, []string{"key", "version", "by", "recorded"}, accepted),
		words("h3", "Repairs that were stopped"), class("p", "small", text("cmkeeper stops putting a setting back for an hour where somebody undoes it again and again.")),
		table(none, []string{"key", "setting", "at"}, stopped))
}

func (r Report) moves() node {
	var rows [][]node
	for _, j := range r.History.Jobs {
		proof := "no proof: the job is " + string(j.State)
		switch {
		case j.State != reencrypt.StateComplete:
		case j.Refused+j.Failed > 0:
			proof = fmt.Sprintf("a verifying pass found all but %d object versions under the new key; the others, each with its reason: %s", j.Refused+j.Failed, j.Report)
		default:
			proof = "a verifying pass found every object version under the new key"
		}
		if j.Cause != "" {
			proof += "; " + j.Cause
		}
		finished := "-"
		if !j.Finished.IsZero() {
			finished = stamp(j.Finished)
		}
		rows = append(rows, []node{
			class("td", "k", text("s3://"+j.Bucket+"/"+j.Prefix), el("br", nil), class("span", "id", text(j.Job))), class("td", "id", each(j.From, func(from string) node { return nodes(text(r.resource(from)), el("br", nil)) }), text("to "+r.resource(j.To))),
			number(j.Scanned), number(j.Moved), number(j.Refused + j.Failed), cell(stamp(j.Started)), cell(finished), cell(proof),
		})
	}
	none := "No job is on record."
	if why := r.History.JobsNotKnown; why != "" {
		none = "Not known: " + why
	}
	return part("moves", "Re-encryption", table(none, []string{"place and job", "keys", "scanned", "moved", "left", "started", "finished", "proof"}, rows))
}

// shownEvidence is how many resources the page shows for each check; --csv and --json
// have all.
const shownEvidence = 50

func (r Report) controls() node {
	content := []node{class("p", "note", text("A control is shown with what was checked for it, and passes only if all of that was read and is as it should be. Most controls ask for more than can be read from keys: a pass says that this part of it holds, and not that the control is met."))}
	for _, f := range r.Frameworks {
		var rows [][]node
		for _, c := range f.Controls {
			rows = append(rows, []node{cell(c.ID), cell(c.Title), tag("td", each(c.Checks, func(id CheckID) node {
				check := r.Check(id)
				return tag("p", el("a", []attribute{attr("href", "#check-"+string(id))}, text(string(id))), text(" ("+check.Title+"): "+check.Summary))
			}), basis(c)), tag("td", statusNode(r.Status(c)))})
		}
		content = append(content, words("h3", f.Name+", "+f.Version),
			table("", []string{"control", "title", "what was checked, and what it came to", "status"}, rows),
			class("p", "small", text("Sources: "), each(f.Sources, func(s Reference) node { return text(s.Title + " (" + s.URL + ", read on " + s.Read + "). ") })))
	}
	content = append(content, words("h3", "Evidence"))
	for _, c := range r.Checks {
		content = append(content, r.evidence(c))
	}
	return part("controls", "Controls of frameworks", content...)
}

func basis(c Control) node {
	if c.Basis == "" {
		return nil
	}
	return class("p", "small", text("Mapped by "+c.Basis+"."))
}

func (r Report) evidence(c Check) node {
	var rows [][]node
	for _, e := range c.Evidence[:min(len(c.Evidence), shownEvidence)] {
		what := e.What
		if e.Exempt != "" {
			what += " (exempt: " + e.Exempt + ")"
		}
		rows = append(rows, []node{tag("td", statusNode(e.Status)), r.keyCell(e.Resource, e.Name), cell(what), cell(e.How), cell(stamp(e.At))})
	}
	more := ""
	if n := len(c.Evidence) - shownEvidence; n > 0 {
		more = fmt.Sprintf(" %d more are in cmkeeper report --csv.", n)
	}
	span := ""
	if !c.From.IsZero() {
		span = fmt.Sprintf(" Read from %s to %s.", stamp(c.From), stamp(c.Until))
	}
	return el("div", []attribute{attr("id", "check-"+string(c.ID))},
		tag("p", words("b", string(c.ID)+" "+c.Title), text(" "), statusNode(c.Status)),
		words("p", "How: "+c.How+". "+c.Summary+span+more),
		table("No resource is shown for it.", []string{"status", "resource", "what", "how", "read at"}, rows))
}

func (r Report) method() node {
	return part("method", "How this was made",
		words("p", "Every key that KMS lists for the account and Region was read through the AWS API, with the permissions of "+r.By+". Nothing was changed. What AWS refused to show is not known here, and nothing passes because of that."),
		words("p", "Key policies and grants are judged by cmkeeper's own rules (docs/policy.md), rotation by the period that is configured; exempt dangers are shown as dangers. How it went is from what the fleet recorded in its state bucket. IAM policies were looked at only by the access review, where that is on. Other Regions, service control policies, volumes, databases and their snapshots were not looked at."),
		words("p", "The figures are those of cmkeeper keys --json at the time of reading. This page loads nothing from elsewhere and has no scripts."))
}
