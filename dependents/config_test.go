package dependents

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cmkeeper/cmkeeper/awsconfig"
)

// TestConditions: whatever the names are, each query is short enough, has each property with
// each name, and where the numbers are to be added up no type is in two of them.
func TestConditions(t *testing.T) {
	for _, n := range []int{1, 2, 4, 12, 100} {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprintf("arn:aws:kms:ap-southeast-1:111122223333:alias/%s/o'%d", strings.Repeat("x", 5*n), i))
		}
		conditions, exact := conditions(names)
		all := strings.Join(conditions, " OR ")
		for _, c := range conditions {
			if length := len(selectRows) + len(c); length > awsconfig.MaxExpression || len(selectCounts)+len(c)+len(groupCounts) > awsconfig.MaxExpression {
				t.Errorf("%d names: a query of %d characters", n, length)
			}
		}
		for _, ty := range awsconfig.Types {
			in := map[int]bool{}
			for _, path := range ty.Keys {
				found := map[string]bool{}
				for i, c := range conditions {
					for term := range strings.SplitSeq(c, " OR ") {
						if values, ok := strings.CutPrefix(term, path+" IN ("); ok {
							in[i] = true
							for value := range strings.SplitSeq(strings.TrimSuffix(values, ")"), ",") {
								found[value] = true
							}
						}
					}
				}
				if len(found) != n {
					t.Errorf("%d names: %s is asked for %d of them", n, path, len(found))
				}
			}
			if exact && len(in) > 1 {
				t.Errorf("%d names: %s is in %d queries", n, ty.Name, len(in))
			}
		}
		if exact != (n < 12) || n <= 2 && len(conditions) > 1 {
			t.Errorf("%d names: exact %v, %d queries, %d characters", n, exact, len(conditions), len(all))
		}
	}
}

// TestGroups: each property is in one group.
func TestGroups(t *testing.T) {
	all := slices.Concat(groups()...)
	slices.Sort(all)
	if len(all) != len(slices.Compact(slices.Clone(all))) || len(all) < 15 {
		t.Errorf("groups: %q", groups())
	}
}
