package ledger

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/finding"
)

func TestStanding(t *testing.T) {
	t0 := time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }
	everything := func(string) bool { return true }
	policy := Open{Name: "policy", Severity: finding.High}
	worse := Open{Name: "policy", Severity: finding.Critical}
	names := func(open []Open) (names []string) {
		for _, o := range open {
			names = append(names, o.Name+" "+string(o.Severity))
		}
		return names
	}
	type want struct{ New, Worse, Over []string }
	type look struct {
		at     int
		live   []Open
		blind  bool // it cannot see the danger
		tell   bool // the alert is published
		expect want
	}
	for name, looks := range map[string][]look{
		"told once": {
			{at: 0, live: []Open{policy}, tell: true, expect: want{New: []string{"policy high"}}},
			{at: 10, live: []Open{policy}},
		},
		"told again until it is published": {
			{at: 0, live: []Open{policy}, expect: want{New: []string{"policy high"}}},
			{at: 10, live: []Open{worse}, tell: true, expect: want{New: []string{"policy critical"}}},
			{at: 20, live: []Open{worse}},
		},
		"worse": {
			{at: 0, live: []Open{policy}, tell: true, expect: want{New: []string{"policy high"}}},
			{at: 10, live: []Open{worse}, expect: want{Worse: []string{"policy critical"}}},
			{at: 20, live: []Open{worse}, tell: true, expect: want{Worse: []string{"policy critical"}}},
			{at: 30, live: []Open{policy}},
		},
		"over after two reads a minute apart": {
			{at: 0, live: []Open{policy}, tell: true, expect: want{New: []string{"policy high"}}},
			{at: 10},
			{at: 69},
			{at: 70, expect: want{Over: []string{"policy high"}}},
			{at: 80, tell: true, expect: want{Over: []string{"policy high"}}},
			{at: 90},
		},
		"back before it was over": {
			{at: 0, live: []Open{policy}, tell: true, expect: want{New: []string{"policy high"}}},
			{at: 10},
			{at: 40, live: []Open{policy}},
			{at: 80},
			{at: 100},
		},
		"what cannot be read ends nothing": {
			{at: 0, live: []Open{policy}, tell: true, expect: want{New: []string{"policy high"}}},
			{at: 10, blind: true},
			{at: 200, blind: true},
			{at: 210},
			{at: 269, blind: true},
			{at: 270, expect: want{Over: []string{"policy high"}}},
		},
		"nobody was told, so nobody hears of the end": {
			{at: 0, live: []Open{policy}, expect: want{New: []string{"policy high"}}},
			{at: 10},
			{at: 80},
		},
		"an older look changes nothing": {
			{at: 10, live: []Open{policy}, tell: true, expect: want{New: []string{"policy high"}}},
			{at: 5},
			{at: 70},
			{at: 80, live: []Open{policy}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var s Standing
			for i, l := range looks {
				looked := everything
				if l.blind {
					looked = func(string) bool { return false }
				}
				seen := s.See(Look{Live: l.live, Looked: looked, Judged: true, At: at(l.at)})
				if diff := cmp.Diff(l.expect, want{names(seen.New), names(seen.Worse), names(seen.Over)}); diff != "" {
					t.Errorf("look %d (-want +got):\n%s", i, diff)
				}
				if l.tell {
					for _, o := range append(seen.New, seen.Worse...) {
						o.Alert = "alert"
						s.Told(o)
					}
					for _, o := range seen.Over {
						s.Ended(o)
					}
				}
			}
		})
	}
}
