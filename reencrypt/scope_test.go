package reencrypt

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/inventory"
)

func TestResolveScope(t *testing.T) {
	const arn = "arn:aws:kms:us-east-1:111122223333:"
	x := MovingAlias{ARN: arn + "alias/x", OldKeys: []string{oldKey}}
	y := MovingAlias{ARN: arn + "alias/y", OldKeys: []string{otherKey}}
	b := func(name string, set func(*inventory.Bucket)) inventory.Bucket {
		bucket := inventory.Bucket{Name: name}
		set(&bucket)
		return bucket
	}
	plain := func(*inventory.Bucket) {}
	for name, c := range map[string]struct {
		moving   MovingAlias
		others   []MovingAlias
		buckets  []inventory.Bucket
		operator map[string][]Scope
		want     []Scope
		refused  []Scope
	}{
		"nothing names it": {moving: x, buckets: []inventory.Bucket{b("a", plain)}},
		"default by alias name, ARN, old key, and tag": {
			moving: x,
			buckets: []inventory.Bucket{
				b("d", func(b *inventory.Bucket) { b.DefaultKey, b.DefaultKeyARN = "alias/x", newKey }),
				b("c", func(b *inventory.Bucket) { b.DefaultKey, b.DefaultKeyARN = arn+"alias/x", newKey }),
				b("b", func(b *inventory.Bucket) { b.DefaultKey, b.DefaultKeyARN = oldKey, oldKey }),
				b("a", func(b *inventory.Bucket) { b.AliasTags = []string{"alias/z", "alias/x"} }),
				b("e", func(b *inventory.Bucket) { b.DefaultKey, b.DefaultKeyARN = otherKey, otherKey }),
			},
			want: []Scope{{"a", ""}, {"b", ""}, {"c", ""}, {"d", ""}},
		},
		"old key that another alias points to": {
			moving:  MovingAlias{ARN: x.ARN},
			buckets: []inventory.Bucket{b("a", func(b *inventory.Bucket) { b.DefaultKey, b.DefaultKeyARN = oldKey, oldKey })},
		},
		"default by another alias of the old key": {
			moving:  x,
			buckets: []inventory.Bucket{b("a", func(b *inventory.Bucket) { b.DefaultKey, b.DefaultKeyARN = "alias/other", oldKey })},
		},
		"the operator's list, without doubles": {
			moving:   x,
			buckets:  []inventory.Bucket{b("a", func(b *inventory.Bucket) { b.DefaultKey = "alias/x" }), b("b", plain)},
			operator: map[string][]Scope{"alias/x": {{"a", "logs/"}, {"b", "p/q/"}, {"b", "p/"}, {"b", "r"}, {"b", "p/"}}},
			want:     []Scope{{"a", ""}, {"b", "p/"}, {"b", "r"}},
		},
		"a bucket that is not ours to see": {
			moving: x, operator: map[string][]Scope{"alias/x": {{"far", ""}}}, refused: []Scope{{"far", ""}},
		},
		"the state bucket": {
			moving: x, buckets: []inventory.Bucket{b("state", func(b *inventory.Bucket) { b.DefaultKey = "alias/x" })}, refused: []Scope{{"state", ""}},
		},
		"claimed by two": {
			moving: x, others: []MovingAlias{x, y},
			buckets: []inventory.Bucket{
				b("a", func(b *inventory.Bucket) { b.DefaultKey, b.AliasTags = "alias/x", []string{"alias/y"} }),
				b("b", plain), b("c", plain),
			},
			operator: map[string][]Scope{"alias/x": {{"b", "x/"}, {"c", "x/"}}, "alias/y": {{"b", "y/"}, {"c", ""}}},
			want:     []Scope{{"b", "x/"}},
			refused:  []Scope{{"a", ""}, {"c", "x/"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, refusals := ResolveScope(c.moving, c.others, c.buckets, c.operator, "state")
			var refused []Scope
			for _, r := range refusals {
				if r.Reason == "" {
					t.Errorf("%v is refused without a reason", r.Scope)
				}
				refused = append(refused, r.Scope)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error("scopes:", d)
			}
			if d := cmp.Diff(c.refused, refused); d != "" {
				t.Error("refused:", d)
			}
		})
	}
}
