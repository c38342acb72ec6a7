package ledger

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/finding"
)

// TestAccessReviewIsTaken: a review is due once a day, one worker is at it at a time, and who
// takes one that was left goes on with it.
func TestAccessReviewIsTaken(t *testing.T) {
	now := time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)
	later := now.Add
	var r AccessReview
	if !r.Take("a", now) || r.Take("b", later(accessReviewLease-1)) || !r.Begun.Equal(now) {
		t.Fatalf("%+v", r)
	}
	if !r.Renew("a", "key-2", AccessReviewed{Keys: 2, Unreviewed: []string{"x"}}, later(time.Minute)) || r.Renew("b", "key-9", AccessReviewed{}, later(time.Minute)) {
		t.Fatalf("%+v", r)
	}
	if r.Take("b", later(accessReviewLease)) || !r.Take("b", later(accessReviewLease+time.Minute)) || r.Next != "key-2" || r.Found.Keys != 2 {
		t.Fatalf("a worker that is gone keeps the review, or its work is lost: %+v", r)
	}
	r.Leave("a", true) // of one that has lost it
	r.Leave("b", false)
	if !r.Take("c", later(time.Hour)) || r.Next != "key-2" {
		t.Fatalf("one that was left begins anew: %+v", r)
	}
	r.Renew("c", "key-4", AccessReviewed{Keys: 1}, later(time.Hour))
	r.Done("a", nil, 9)
	r.Done("c", []AccessPolicy{{finding.Medium, "m"}}, 3)
	want := AccessReview{At: now, AccessReviewed: AccessReviewed{Keys: 3, Unreviewed: []string{"x"}, Policies: []AccessPolicy{{finding.Medium, "m"}}, PoliciesOf: 3}}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Error(diff)
	}
	if r.Take("a", later(AccessReviewEvery-1)) || !r.Take("a", later(AccessReviewEvery)) {
		t.Error("a review is due once a day")
	}
	r.Leave("a", true)
	if !r.Begun.IsZero() || !r.Take("b", later(AccessReviewEvery+time.Hour)) {
		t.Error("one that could not begin is due")
	}
	for n := range mostUnreviewed + 5 {
		r.Renew("b", "", AccessReviewed{Unreviewed: []string{fmt.Sprint(n)}}, now)
	}
	if len(r.Found.Unreviewed) != mostUnreviewed || r.Found.More != 5 {
		t.Errorf("%d are named, and %d more", len(r.Found.Unreviewed), r.Found.More)
	}
}

// TestOthersAreWorse: a danger that is about others than people know of is told again, and one
// that is about fewer is not.
func TestOthersAreWorse(t *testing.T) {
	at := time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)
	many := func(n int) (names []string) {
		for i := range n {
			names = append(names, fmt.Sprint("role-", i))
		}
		return names
	}
	for _, c := range []struct {
		before, live []string
		worse        bool
	}{
		{[]string{"a"}, []string{"a"}, false},
		{[]string{"a"}, []string{"b"}, true},
		{[]string{"a", "b"}, []string{"b"}, false},
		{[]string{"a", "b"}, []string{"b", "a"}, false},
		{[]string{"a", "b"}, []string{"c", "a"}, true},
		{many(mostWho + 1), many(mostWho), false},
		{many(mostWho + 1), append(many(mostWho), "x"), false}, // as many, of more than are known
		{many(mostWho), append(many(mostWho-1), "x"), true},
	} {
		var s Standing
		look := Look{Live: []Open{{Name: "d", Severity: finding.High, Count: len(c.before), Who: WhoOf(c.before)}}, Looked: func(string) bool { return true }, Judged: true, At: at}
		s.See(look)
		told := s.Open[0]
		told.Alert = "id"
		s.Told(told)
		if missed := s.Of("d").Misses("a"); missed != (len(c.before) <= mostWho && c.before[0] != "a") {
			t.Errorf("people know of %.20v, and a is missed: %v", c.before, missed)
		}
		look.Live[0].Count, look.Live[0].Who = len(c.live), WhoOf(c.live)
		look.At = at.Add(time.Hour)
		if seen := s.See(look); len(seen.Worse) > 0 != c.worse {
			t.Errorf("%.20v and then %.20v: worse is %v", c.before, c.live, !c.worse)
		}
	}
}
