package keylist

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/dependents"
)

// Row is one thing that is known of a key, in words.
type Row struct {
	Name string
	// Values may hold text from outside as it is: escape it before it is shown.
	Values []string
}

// Rows say in words what is known of a key. What is not known is said, with the reason.
func (k Key) Rows() []Row {
	rows := []Row{
		{"worst", []string{cmp.Or(string(k.Worst), "no danger")}},
		{"aliases", orNone(k.Aliases)},
	}
	if !k.Judged {
		rows[0].Values = append(rows[0].Values, "not everything could be read that dangers are found in")
	}
	add := func(name string, values ...string) { rows = append(rows, Row{name, values}) }
	for _, d := range k.Dangers {
		add("danger", string(d.Severity)+": "+d.Text)
		if d.Exempt != "" {
			add("exempt", d.Exempt)
		}
	}
	if k.Described.Known() {
		add("state", k.stateText())
		add("kind", strings.TrimSpace(fmt.Sprintf("%s %s, origin %s, managed by %s %s", k.Spec, k.Usage, k.Origin, k.Manager, k.MultiRegion)))
		add("created", fmt.Sprintf("%s, %d days ago", k.Created.Format(time.RFC3339), k.AgeDays))
		add("description", cmp.Or(k.Description, "none"))
	} else {
		add("state", notKnown(k.Described))
	}
	if k.Primary != "" {
		add("primary", k.Primary)
		add("replicas", orNone(k.Replicas)...)
	}
	add("rotation", k.rotationText())
	add("policy", k.policyTexts()...)
	add("grants", k.grantTexts()...)
	add("last use", k.LastUse.Words())
	buckets := k.Buckets.Names
	if !k.Buckets.Known() {
		buckets = append(buckets[:len(buckets):len(buckets)], notKnown(k.Buckets.Read))
	}
	add("buckets", orNone(buckets)...)
	if off := k.Buckets.BucketKeysOff; len(off) > 0 {
		add("bucket keys off", off...)
	}
	if k.Dependents != nil {
		add("resources", orNone(k.Dependents.texts())...)
	}
	if k.Tags.Known() {
		add("tags", cmp.Or(tagText(k.Tags.Values), "none"))
	} else {
		add("tags", notKnown(k.Tags.Read))
	}
	for _, e := range k.Exemptions {
		add("exemption", fmt.Sprintf("%s until %s (by %s): %s", e.Covers, e.Until, e.By, e.Reason))
	}
	return rows
}

// texts are the numbers in words, by kind, and what is not known.
func (d Dependents) texts() []string {
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(d.ByKind)) {
		all = append(all, dependents.Count(d.ByKind[kind], kind))
	}
	if !d.Known() {
		all = append(all, notKnown(d.Read))
	}
	return all
}

func orNone(values []string) []string {
	if len(values) == 0 {
		return []string{"none"}
	}
	return values
}

func (k Key) stateText() string {
	text := k.State
	if k.DeletionDate != nil {
		text += ", to be deleted at " + k.DeletionDate.UTC().Format(time.RFC3339)
	}
	switch {
	case k.DeletionApproved:
		text += ", which was approved"
	case k.ApprovalNotKnown != "":
		text += "; whether that was approved is not known: " + k.ApprovalNotKnown
	}
	if k.MaterialExpires != nil {
		text += ", its material expires at " + k.MaterialExpires.UTC().Format(time.RFC3339)
	}
	return text
}

func (k Key) rotationText() string {
	r := k.Rotation
	text := r.Words()
	if r.Enabled != nil && *r.Enabled {
		text += fmt.Sprintf(", every %d days", r.PeriodDays)
	}
	if r.Blocker != "" && r.Enabled != nil {
		text += fmt.Sprintf(" (set to %t)", *r.Enabled)
	}
	switch {
	case r.LastNotKnown != "":
		text += ", last: not known: " + r.LastNotKnown
	case r.Last != nil:
		text += ", last at " + day(r.Last)
	case r.Enabled != nil:
		text += ", never yet"
	}
	if r.Next != nil {
		text += ", next at " + day(r.Next)
	}
	return text
}

func (k Key) policyTexts() []string {
	if !k.Policy.Known() {
		return []string{notKnown(k.Policy.Read)}
	}
	var all []string
	for _, f := range k.Policy.Findings {
		all = append(all, fmt.Sprintf("%s %s: %s", f.Severity, f.ID, f.Message))
	}
	if len(all) == 0 {
		return []string{"no findings"}
	}
	return all
}

func (k Key) grantTexts() []string {
	if !k.Grants.Known() {
		return []string{notKnown(k.Grants.Read)}
	}
	all := []string{fmt.Sprintf("%d, of which %d reach outside the account and those it trusts", k.Grants.Count, len(k.Grants.Outside))}
	for _, g := range k.Grants.Outside {
		all = append(all, fmt.Sprintf("%s may %s (grant %s; may be retired by %s)", g.Grantee, strings.Join(g.Operations, ", "), g.ID, cmp.Or(g.Retiring, "nobody named")))
	}
	return all
}
