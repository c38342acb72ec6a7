package ledger

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

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

// TestStandingBy: who ended something is the actor of the event that did, whenever that comes;
// one whom only a message names gives way.
func TestStandingBy(t *testing.T) {
	t0 := time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)
	look := func(s *Standing, seconds int, by *Actor) Seen {
		l := Look{Looked: func(string) bool { return true }, At: t0.Add(time.Duration(seconds) * time.Second), By: by}
		if by != nil {
			l.Call = "EnableKey"
		}
		return s.See(l)
	}
	claimed, known := &Actor{Name: "claimed", Unconfirmed: true}, &Actor{Name: "known"}
	for name, tt := range map[string]struct {
		by   []*Actor
		want *Actor
	}{
		"nobody":                    {[]*Actor{nil, nil}, nil},
		"the event first":           {[]*Actor{known, nil}, known},
		"the sweep first":           {[]*Actor{nil, known}, known},
		"a message, then a record":  {[]*Actor{claimed, known}, known},
		"a record, then a message":  {[]*Actor{known, claimed}, known},
		"nothing but a message":     {[]*Actor{claimed, nil}, claimed},
		"the first of two messages": {[]*Actor{claimed, {Name: "other", Unconfirmed: true}}, claimed},
	} {
		t.Run(name, func(t *testing.T) {
			var s Standing
			s.Told(Open{Name: "disabled", Severity: finding.High, Since: t0, Alert: "alert"})
			for i, by := range tt.by {
				look(&s, 10+i, by)
			}
			over := look(&s, 100, nil).Over
			if len(over) != 1 {
				t.Fatalf("over: %v", over)
			}
			if diff := cmp.Diff(tt.want, over[0].By); diff != "" {
				t.Errorf("by (-want +got):\n%s", diff)
			}
		})
	}
}

// TestStandingJudged: what is exempt is not told, and is told when it is not exempt any more,
// whether people were told of it before or not. A look that does not judge changes nothing.
func TestStandingJudged(t *testing.T) {
	t0 := time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)
	s, n := Standing{}, 0
	see := func(exempt, judged bool) Seen {
		n++
		return s.See(Look{Live: []Open{{Name: "policy", Severity: finding.High, Exempt: exempt}}, Looked: func(string) bool { return true }, Judged: judged, At: t0.Add(time.Duration(n) * time.Minute)})
	}
	if seen := see(true, true); len(seen.New) != 0 || len(s.Open) != 1 {
		t.Errorf("exempt: %+v of %+v", seen, s)
	}
	if seen := see(false, false); len(seen.New)+len(seen.Worse) != 0 {
		t.Errorf("not judged: %+v", seen)
	}
	seen := see(false, true)
	if len(seen.New) != 1 {
		t.Fatalf("not exempt any more: %+v", seen)
	}
	seen.New[0].Alert = "alert"
	s.Told(seen.New[0])
	if seen := see(true, true); len(seen.New)+len(seen.Worse)+len(seen.Over) != 0 {
		t.Errorf("exempt again: %+v", seen)
	}
	if seen := see(false, true); len(seen.Worse) != 1 {
		t.Errorf("and not any more: %+v", seen)
	}
}

// TestStandingIsBounded: the worst dangers are kept, and titles are short.
func TestStandingIsBounded(t *testing.T) {
	t0 := time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)
	var live []Open
	for i := range 3 * MostOpen {
		live = append(live, Open{Name: fmt.Sprint("grant/", i), Severity: finding.Medium, Title: strings.Repeat("ü", 1000)})
	}
	var s Standing
	s.See(Look{Live: live, Looked: func(string) bool { return true }, Judged: true, At: t0})
	seen := s.See(Look{Live: append(live, Open{Name: "policy", Severity: finding.Critical}), Looked: func(string) bool { return true }, Judged: true, At: t0.Add(time.Hour)})
	if len(s.Open) != MostOpen || s.Of("policy") == nil || !slices.ContainsFunc(seen.New, named("policy")) {
		t.Errorf("%d dangers are kept", len(s.Open))
	}
	for _, o := range s.Open {
		if len(o.Title) > maxOpenTitle || !utf8.ValidString(o.Title) {
			t.Errorf("title %q", o.Title)
		}
	}
}

// TestMoreThanIsStored: what there is no room for is counted, and known once.
func TestMoreThanIsStored(t *testing.T) {
	now := time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)
	grants := func(from, to int) (live []Open) {
		for i := from; i < to; i++ {
			live = append(live, Open{Name: fmt.Sprint("grant/", i), Severity: finding.High})
		}
		return live
	}
	all := func(string) bool { return true }
	var s Standing
	for i, step := range []struct {
		live   []Open
		looked func(string) bool
		tell   bool
		// more is how many are not known, stored how many the document says there are.
		more, stored int
	}{
		{live: grants(0, MostOpen), looked: all},
		{live: grants(0, MostOpen+2), looked: all, more: 2, stored: 2},
		{live: grants(0, MostOpen+2), looked: all, more: 2, stored: 2, tell: true},
		{live: grants(0, MostOpen+2), looked: all, stored: 2},
		// Grants were not read: that says nothing of them.
		{looked: func(name string) bool { return name == "policy" }, stored: 2},
		{live: grants(0, MostOpen+3), looked: all, more: 3, stored: 3, tell: true},
		{live: grants(0, MostOpen+1), looked: all, stored: 1},
		{live: grants(0, MostOpen+2), looked: all, more: 2, stored: 2},
		{live: append(grants(0, MostOpen), Open{Name: "exempt", Severity: finding.High, Exempt: true}), looked: all},
		{live: nil, looked: all},
	} {
		now = now.Add(time.Hour)
		seen := s.See(Look{Live: step.live, Looked: step.looked, Judged: true, At: now})
		if len(seen.More) != step.more || s.More != step.stored {
			t.Errorf("step %d: %d more, want %d; stored %d, want %d", i, len(seen.More), step.more, s.More, step.stored)
		}
		for _, o := range seen.New {
			o.Alert = "alert"
			s.Told(o)
		}
		if step.tell {
			s.TellMore(len(seen.More))
		}
	}
}

// TestStandingCounts: a danger that is about several things is told again when there are more
// than people know of, and not when there are fewer, or when that was not looked at.
func TestStandingCounts(t *testing.T) {
	at := time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)
	var s Standing
	for i, step := range []struct {
		live  int // 0: not looked at
		told  bool
		worse bool
	}{{3, true, false}, {3, false, false}, {0, false, false}, {5, true, true}, {4, false, false}, {4, false, false}, {5, true, true}, {5, false, false}} {
		l := Look{Judged: true, At: at.Add(time.Duration(i) * time.Hour), Looked: func(string) bool { return step.live > 0 }}
		if step.live > 0 {
			l.Live = []Open{{Name: "storage", Severity: finding.Medium, Count: step.live}}
		}
		seen := s.See(l)
		tells := slices.Concat(seen.New, seen.Worse)
		if len(tells) > 0 != step.told || len(seen.Worse) > 0 != step.worse || len(seen.Over) > 0 {
			t.Fatalf("step %d: %+v", i, seen)
		}
		for _, o := range tells {
			o.Alert = "told"
			s.Told(o)
		}
		if step.live > 0 && s.Of("storage").Count != step.live {
			t.Errorf("step %d: %d are known", i, s.Of("storage").Count)
		}
	}
}
