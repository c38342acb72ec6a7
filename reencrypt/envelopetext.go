package reencrypt

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/internal/command"
)

// Where says in words where data keys are looked for; "" is nowhere.
func (e Envelopes) Where() string {
	switch e {
	case EnvelopesMetadata:
		return "metadata and instruction files"
	case EnvelopesContent:
		return "metadata, instruction files and contents"
	case EnvelopesOff:
	}
	return ""
}

// Flags are those of commands that look there, each with a space before it; "" is none.
func (e Envelopes) Flags(rewriteFiles bool) command.Format {
	var flags command.Format
	switch e {
	case EnvelopesMetadata:
		flags = " --envelopes metadata"
	case EnvelopesContent:
		flags = " --envelopes content"
	case EnvelopesOff:
	}
	if rewriteFiles {
		flags += " --rewrite-files"
	}
	return flags
}

// EnvelopeFlags are Envelopes.Flags of commands that look where the job did.
func (s Summary) EnvelopeFlags() command.Format { return s.EnvelopesIn.Flags(s.RewriteFiles) }

// ClientSide says in sentences what of client-side encryption is looked for, and once
// something was scanned what was found and what came of it; dry: what would.
func (s Summary) ClientSide(dry bool) []string { return s.EnvelopesIn.tell(s.Counts, dry) }

// ClientSide says in sentences what of client-side encryption was looked for and found, and
// what a move would do with it.
func (p BucketPlan) ClientSide() []string {
	c := Counts{Scanned: p.Listed}
	for _, g := range p.Groups {
		count(&c.Envelopes, g.Envelope, g.Versions)
		count(&c.ByReason, g.Reason, g.Versions)
		switch a := action(g.Action); {
		case a == rewrap || a == rewrite:
			count(&c.Rewrapped, ReasonOnTarget, g.Versions)
		case a.moves() && g.Reason != "":
			c.Partly += g.Versions
		}
	}
	return p.Envelopes.orNone().tell(c, true)
}

func (e Envelopes) tell(c Counts, dry bool) []string {
	is, did, none, refused, but := "was", "were moved", "was moved", "were refused", "was moved, and its data key was not"
	if dry {
		did, none, refused, but = "would move", "would move", "would be refused", "would move, and its data key would not"
	}
	if c.Scanned == 0 {
		is = "is"
	}
	where := e.Where()
	switch {
	case where == "":
		return []string{"Client-side encryption " + is + " not looked for."}
	case c.Scanned == 0:
		return []string{"Client-side encryption is looked for in " + where + "."}
	}
	all := []string{"No client-side encryption was found in " + where + "."}
	if len(c.Envelopes) > 0 {
		moved := "No data key " + none + "."
		if n := sum(c.Rewrapped); n > 0 {
			moved = fmt.Sprintf("Data keys %s in %s.", did, versionsText(n))
		}
		all = []string{fmt.Sprintf("Client-side encryption was found in %s (%s).", versionsText(sum(c.Envelopes)), byName(c.Envelopes)), moved}
	}
	reasons := maps.Clone(c.ByReason)
	maps.DeleteFunc(reasons, func(r Reason, _ int64) bool { return !r.aboutEnvelope() })
	if len(reasons) > 0 {
		all = append(all, fmt.Sprintf("Data keys %s (%s).", refused, byName(reasons)))
	}
	if c.Partly > 0 {
		all = append(all, fmt.Sprintf("In %s the object %s.", versionsText(c.Partly), but))
	}
	if e == EnvelopesMetadata {
		all = append(all, "Contents were not looked at.")
	}
	return all
}

// sum adds up what is counted by name.
func sum[K ~string](m map[K]int64) (n int64) {
	for _, one := range m {
		n += one
	}
	return n
}

// byName lists what is counted by name, with the numbers.
func byName[K ~string](m map[K]int64) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		all = append(all, fmt.Sprintf("%s: %d", name, m[name]))
	}
	return strings.Join(all, "; ")
}

func versionsText(n int64) string {
	if n == 1 {
		return "1 object version"
	}
	return fmt.Sprintf("%d object versions", n)
}
