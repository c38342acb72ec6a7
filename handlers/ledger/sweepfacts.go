package ledger

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	sweepRuns  = "sweeps/runs/"
	sweepFacts = "sweeps/facts/"
)

// Shard is sweeps/runs/<run>/<n>.json: what a sweep is to look at in one shard, as its
// beginning has listed it. It is deleted when the sweep is over.
type Shard struct {
	Keys    []ShardKey   `json:"keys,omitempty"`
	Aliases []ShardAlias `json:"aliases,omitempty"`
}

// Schema implements state.Document.
func (*Shard) Schema() (string, int) { return "shard", 1 }

// ShardName names the document of a shard.
func ShardName(run string, shard int) string {
	return fmt.Sprintf("%s%s/%d.json", sweepRuns, run, shard)
}

// ShardRuns is the folder of all runs that are cut into shards.
const ShardRuns = sweepRuns

// ShardRun is the folder of a run's shards.
func ShardRun(run string) string { return sweepRuns + run + "/" }

// ShardKey is a key of a shard, with the ETags of its documents as they were listed, ""
// where there is none.
type ShardKey struct {
	ARN      string `json:"arn"`
	Document string `json:"document,omitempty"`
	Baseline string `json:"baseline,omitempty"`
}

// ShardAlias is an alias of a shard's keys.
type ShardAlias struct {
	Name     string    `json:"name"`
	Target   string    `json:"target"`
	Updated  time.Time `json:"updated,omitzero"`
	Document string    `json:"document,omitempty"`
}

// SweepFacts is sweeps/facts/<of>-<n>.json: what sweeps know of the keys and aliases of a
// shard, so that one of which nothing has changed is done without its documents. It only
// saves work: without it, everything is looked at as if for the first time.
type SweepFacts struct {
	Keys    map[string]KeyFacts  `json:"keys,omitempty"`    // by ARN
	Aliases map[string]FactsMark `json:"aliases,omitempty"` // by name
}

// Schema implements state.Document.
func (*SweepFacts) Schema() (string, int) { return "sweep-facts", 1 }

// FactsName names the facts of a shard, of so many.
func FactsName(shard, of int) string { return fmt.Sprintf("%s%d-%d.json", sweepFacts, of, shard) }

// FactsMark says of what a key or an alias was last looked at, and what came of it.
type FactsMark struct {
	// Facts stands for what was read of it, and for the build and the configuration that
	// judged it; "" where some of it could not be read.
	Facts string `json:"facts,omitempty"`
	// Documents stands for its stored documents, as they were afterwards.
	Documents string `json:"documents,omitempty"`
	// Quiet is how many looks in a row came to nothing, on the same facts.
	Quiet int `json:"quiet,omitempty"`
}

// settledAfter is how many looks on the same facts have to come to nothing: the first one
// may have noted what the second one is silent for.
const settledAfter = 2

// Settles reports whether looking again would come to nothing: what was read, and the
// stored documents, are those of the last look, and it was quiet, and the one before.
func (m FactsMark) Settles(facts, documents string) bool {
	return facts != "" && m.Facts == facts && m.Documents == documents && m.Quiet >= settledAfter
}

// Looked notes a look: on which facts, how the documents were afterwards, and whether it
// came to nothing and nothing of the key waits for a time.
func (m FactsMark) Looked(facts, documents string, quiet bool) FactsMark {
	n := FactsMark{Facts: facts, Documents: documents}
	if quiet && facts != "" {
		n.Quiet = 1
		if m.Facts == facts {
			n.Quiet = min(settledAfter, m.Quiet+1)
		}
	}
	return n
}

// KeyFacts is what sweeps know of a key.
type KeyFacts struct {
	FactsMark
	// At is when its state, its rotation and its policy were read.
	At time.Time `json:"at"`
	// Failed: what was to be done about it then was not.
	Failed bool `json:"failed,omitempty"`
	// CanRotate and Rotates are its automatic rotation, where that was read.
	CanRotate bool `json:"can_rotate,omitempty"`
	Rotates   bool `json:"rotates,omitempty"`
	// Dangers count what is wrong with it and not exempt, by severity, and More what its
	// document has no room for. Counted: that is known.
	Dangers map[string]int `json:"dangers,omitempty"`
	More    int            `json:"more,omitempty"`
	Counted bool           `json:"counted,omitempty"`
	// Rolled is when its grants and its tags were read, zero for never, and Grants and Tags
	// stand for what they were then.
	Rolled time.Time `json:"rolled,omitzero"`
	Grants string    `json:"grants,omitempty"`
	Tags   string    `json:"tags,omitempty"`
}

// Merge takes the facts of another copy, where they are the later ones.
func (f *SweepFacts) Merge(o *SweepFacts) {
	if f.Keys == nil && len(o.Keys) > 0 {
		f.Keys = map[string]KeyFacts{}
	}
	for key, theirs := range o.Keys {
		f.Keys[key] = f.Keys[key].merge(theirs)
	}
	if f.Aliases == nil && len(o.Aliases) > 0 {
		f.Aliases = map[string]FactsMark{}
	}
	maps.Copy(f.Aliases, o.Aliases)
}

// Due are the keys whose grants and tags were read long ago or never, the earliest first.
func (f *SweepFacts) Due(now time.Time) []string {
	var due []string
	for key, k := range f.Keys {
		if now.Sub(k.Rolled) >= RollingEvery {
			due = append(due, key)
		}
	}
	slices.SortFunc(due, func(a, b string) int {
		return cmp.Or(f.Keys[a].Rolled.Compare(f.Keys[b].Rolled), strings.Compare(a, b))
	})
	return due
}

// Keep drops what is not in the shard any more.
func (f *SweepFacts) Keep(in Shard) {
	keys, aliases := map[string]bool{}, map[string]bool{}
	for _, k := range in.Keys {
		keys[k.ARN] = true
	}
	for _, a := range in.Aliases {
		aliases[a.Name] = true
	}
	maps.DeleteFunc(f.Keys, func(key string, _ KeyFacts) bool { return !keys[key] })
	maps.DeleteFunc(f.Aliases, func(name string, _ FactsMark) bool { return !aliases[name] })
}

// merge takes of two copies what was read later.
func (k KeyFacts) merge(o KeyFacts) KeyFacts {
	late, early := o, k
	if k.At.After(o.At) {
		late, early = k, o
	}
	if early.Rolled.After(late.Rolled) {
		late.Rolled, late.Grants, late.Tags = early.Rolled, early.Grants, early.Tags
	}
	return late
}
