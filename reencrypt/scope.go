package reencrypt

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/inventory"
)

// MovingAlias is an alias that moved, as far as the scope of its move needs it.
type MovingAlias struct {
	// ARN is the alias's ARN.
	ARN string
	// OldKeys are the ARNs of the keys that it pointed to before. Leave out a key
	// that another alias still points to: a bucket that names such a key may belong
	// to that alias.
	OldKeys []string
}

// NewMovingAlias returns the moving alias a, which pointed to the keys of from
// before. Keys that another one of all aliases still points to are left out: data
// under them may belong to that alias.
func NewMovingAlias(a inventory.Alias, from []string, all []inventory.Alias) MovingAlias {
	moving := MovingAlias{ARN: a.ARN}
	for _, key := range from {
		shared := slices.ContainsFunc(all, func(o inventory.Alias) bool { return o.Name != a.Name && o.TargetKeyARN == key })
		if !shared {
			moving.OldKeys = append(moving.OldKeys, key)
		}
	}
	return moving
}

// name returns "alias/x" of the alias's ARN.
func (a MovingAlias) name() string { return a.ARN[strings.Index(a.ARN, ":alias/")+1:] }

// ScopeRefusal is a part of a bucket that a move does not touch although the
// alias claims it, and why.
type ScopeRefusal struct {
	Scope  Scope
	Reason string
}

// ResolveScope says where the data of a moving alias is: in the buckets whose
// default encryption names the alias or one of its old keys, that carry the tag
// cmkeeper:alias with its name, or that the operator listed for it (operator is
// by alias name, "alias/x"). buckets are those of the key's Region and account.
//
// What one of the other moving aliases claims too is refused, as is the state
// bucket, and a bucket that the operator listed but that is not among buckets.
// Both lists are sorted and have no duplicates; no scope lies within another.
func ResolveScope(moving MovingAlias, others []MovingAlias, buckets []inventory.Bucket, operator map[string][]Scope, stateBucket string) ([]Scope, []ScopeRefusal) {
	var scopes []Scope
	var refused []ScopeRefusal
	known := map[string]bool{}
	for _, b := range buckets {
		known[b.Name] = true
	}
	rivals := map[string][]Scope{}
	for _, o := range others {
		if o.ARN != moving.ARN {
			rivals[o.name()] = claims(o, buckets, operator)
		}
	}
	for _, s := range claims(moving, buckets, operator) {
		rival := rivalOf(s, rivals)
		switch {
		case s.Bucket == stateBucket:
			refused = append(refused, ScopeRefusal{s, "it is cmkeeper's own state bucket"})
		case !known[s.Bucket]:
			refused = append(refused, ScopeRefusal{s, "there is no such bucket in the key's account and Region, or it cannot be read"})
		case rival != "":
			refused = append(refused, ScopeRefusal{s, fmt.Sprintf("%s is moving too and claims it", rival)})
		default:
			scopes = append(scopes, s)
		}
	}
	return scopes, refused
}

// claims returns what an alias claims, without what lies within another claim.
func claims(a MovingAlias, buckets []inventory.Bucket, operator map[string][]Scope) []Scope {
	all := slices.Clone(operator[a.name()])
	for _, b := range buckets {
		byDefault := b.DefaultKey != "" && (b.DefaultKey == a.ARN || b.DefaultKey == a.name())
		byOldKey := !strings.Contains(b.DefaultKey, "alias/") && slices.ContainsFunc(a.OldKeys, func(key string) bool { is, _ := b.DefaultIs(key); return is })
		byTag := slices.Contains(b.AliasTags, a.name()) || slices.Contains(b.AliasTags, a.ARN)
		if byDefault || byOldKey || byTag {
			all = append(all, Scope{Bucket: b.Name})
		}
	}
	return outermost(all)
}

// outermost sorts scopes and leaves out those that lie within another.
func outermost(all []Scope) []Scope {
	slices.SortFunc(all, func(x, y Scope) int {
		return cmp.Or(strings.Compare(x.Bucket, y.Bucket), strings.Compare(x.Prefix, y.Prefix))
	})
	var kept []Scope
	for _, s := range all {
		if n := len(kept); n == 0 || kept[n-1].Bucket != s.Bucket || !strings.HasPrefix(s.Prefix, kept[n-1].Prefix) {
			kept = append(kept, s)
		}
	}
	return kept
}

// rivalOf returns the name of the alias that claims a part of s, or "".
func rivalOf(s Scope, rivals map[string][]Scope) string {
	var found []string
	for alias, claimed := range rivals {
		if slices.ContainsFunc(claimed, s.overlaps) {
			found = append(found, alias)
		}
	}
	slices.Sort(found)
	return strings.Join(found, " and ")
}

// overlaps reports whether an object can lie in both scopes.
func (s Scope) overlaps(o Scope) bool {
	return s.Bucket == o.Bucket && (strings.HasPrefix(s.Prefix, o.Prefix) || strings.HasPrefix(o.Prefix, s.Prefix))
}
