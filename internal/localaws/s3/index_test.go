package s3

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestIndex compares an index with a sorted slice over random changes.
func TestIndex(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var x index
	keys := map[string]bool{}
	for step := range 20000 {
		key := fmt.Sprintf("%05d", random.IntN(5000))
		if random.IntN(3) > 0 {
			e := x.add(key)
			if e.key != key || x.get(key) != e {
				t.Fatalf("step %d: added %q, found %v", step, e.key, x.get(key))
			}
			keys[key] = true
		} else {
			x.remove(key)
			delete(keys, key)
			if x.get(key) != nil {
				t.Fatalf("step %d: %q is still there", step, key)
			}
		}
	}
	var want []string
	for key := range keys {
		want = append(want, key)
	}
	slices.Sort(want)
	for _, from := range []string{"", want[0], want[len(want)/2], "02500x", "99999"} {
		var got []string
		cur := x.from(from)
		for e := cur.next(); e != nil; e = cur.next() {
			got = append(got, e.key)
		}
		at, _ := slices.BinarySearch(want, from)
		if !slices.Equal(got, want[at:]) {
			t.Errorf("from %q: %d keys, want %d", from, len(got), len(want)-at)
		}
	}
	for _, key := range want {
		x.remove(key)
	}
	if len(x.blocks) != 0 {
		t.Errorf("%d blocks are left", len(x.blocks))
	}
}

func TestAfter(t *testing.T) {
	for _, tc := range []struct {
		prefix, want string
		ok           bool
	}{
		{"a/", "a0", true}, {"a\xff", "b", true}, {"\xff\xff", "", false}, {"", "", false},
	} {
		if got, ok := after(tc.prefix); got != tc.want || ok != tc.ok {
			t.Errorf("%q: %q, %v", tc.prefix, got, ok)
		}
	}
}
