package confirm

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// Look-ups go round, and what is new stands behind what was there.
func TestSharing(t *testing.T) {
	type ask struct {
		id, name, key, actor string
		at                   int // seconds before noon
	}
	for what, c := range map[string]struct {
		ask   []ask
		later []ask         // one before each look-up
		every time.Duration // look-up; a second
		want  []string      // id, or the name or key of a look-up for many
	}{
		"by key": {
			ask:  []ask{{"1", "", "arn:a", "m", 1}, {"2", "", "arn:a", "n", 1}, {"3", "", "arn:b", "m", 1}, {"4", "", "arn:c", "m", 1}},
			want: []string{"arn:a", "3", "4", "1", "2", ""},
		},
		"by actor, the newest first": {
			ask:  []ask{{"1", "", "", "m", 3}, {"2", "", "", "m", 1}, {"3", "", "", "m", 2}, {"4", "", "", "n", 9}},
			want: []string{"2", "4", "3", "1", ""},
		},
		"what is new": {
			ask:   []ask{{"1", "", "arn:a", "m", 1}, {"2", "", "arn:b", "m", 1}, {"3", "", "arn:c", "m", 1}},
			later: []ask{{"4", "", "arn:d", "m", 1}, {"5", "", "arn:e", "m", 1}, {"6", "", "arn:f", "m", 1}},
			want:  []string{"1", "2", "3", "4", "5", "6", ""},
		},
		"what was not looked up yet": {
			ask:   []ask{{"1", "", "", "m", 3}, {"2", "", "", "m", 1}, {"3", "", "", "m", 2}},
			every: 10 * time.Second,
			want:  []string{"2", "3", "1", "2", "3", "1"},
		},
		"a key by turns as a whole and by id": {
			ask:   []ask{{"1", "", "arn:a", "m", 1}, {"2", "", "arn:a", "n", 1}},
			every: 45 * time.Second,
			want:  []string{"arn:a", "1", "arn:a", "2", "arn:a"},
		},
		"names more often than keys": {
			ask: []ask{
				{"1", "X", "arn:a", "m", 1}, {"2", "X", "arn:b", "m", 1}, {"3", "Y", "arn:c", "m", 1}, {"4", "Y", "arn:d", "m", 1},
				{"5", "Z", "arn:e", "m", 1}, {"6", "Z", "arn:f", "m", 1}, {"7", "", "arn:g", "m", 1}, {"8", "", "arn:h", "m", 1},
			},
			want: []string{"X", "Y", "5", "Z", "7", "8", ""},
		},
	} {
		qs, now := newQuestions(), noon
		note := func(a ask) {
			qs.ask(Question{EventID: a.id, Name: a.name, Resource: a.key, Actor: a.actor, Time: noon.Add(-time.Duration(a.at) * time.Second)}, now, now)
		}
		for _, a := range c.ask {
			note(a)
		}
		var got []string
		for i := range c.want {
			if i < len(c.later) {
				note(c.later[i])
			}
			l, ok := qs.next(now)
			if !ok {
				got = append(got, "")
			} else {
				got = append(got, l.value)
			}
			if l.attribute != "ResourceName" {
				for _, q := range l.all {
					q.notFound(now, now)
				}
			}
			now = now.Add(max(c.every, time.Second))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}

// CloudTrail is asked for times that it keeps, and for none to come.
func TestRequests(t *testing.T) {
	const day = 86400
	for what, c := range map[string]struct {
		times    []time.Time
		from, to int64 // seconds before noon; to 0 is none
	}{
		"usual":          {[]time.Time{noon.Add(-time.Minute), noon.Add(-time.Hour)}, 3602, 58},
		"just now":       {[]time.Time{noon, noon.Add(-time.Hour)}, 3602, 0},
		"to come":        {[]time.Time{noon.Add(time.Minute), noon.Add(2 * time.Minute)}, 0, 0},
		"of all times":   {[]time.Time{{}, time.Unix(1<<60, 0), noon}, 89*day + 2, 0},
		"long forgotten": {[]time.Time{{}, time.Unix(-1<<60, 0), noon.AddDate(-1, 0, 0)}, 89*day + 2, 89*day - 2},
	} {
		qs := newQuestions()
		for i, at := range c.times {
			qs.ask(Question{EventID: fmt.Sprint(i), Name: "UpdateAlias", Time: at}, noon, noon)
		}
		l, _ := qs.next(noon)
		want := request{LookupAttributes: []attribute{{"EventName", "UpdateAlias"}}, StartTime: noon.Unix() - c.from, MaxResults: 50}
		if c.to > 0 {
			want.EndTime = noon.Unix() - c.to
		}
		if diff := cmp.Diff(want, l.request(noon)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}

// What a full page does not reach is not said to be missing: the newest of it is looked
// up by its id next.
func TestPagesThatEndTooEarly(t *testing.T) {
	event := func(ago int64) (e struct {
		EventTime       float64
		CloudTrailEvent string
	}) {
		e.EventTime = float64(noon.Unix() - ago)
		return e
	}
	for what, c := range map[string]struct {
		events []int64 // seconds before noon
		token  string
		next   string // what is looked up then
		missed int    // questions that are still due
	}{
		"all that there is": {nil, "", "", 0},
		"to the end":        {[]int64{5, 300}, "more", "", 0},
		"half":              {[]int64{5, 70}, "more", "UpdateAlias", 3},
		"the same second":   {[]int64{10, 10}, "more", "1", 4},
		"nothing yet":       {nil, "more", "1", 4},
	} {
		r := New(nil, nil, Config{}, nil)
		for i, ago := range []time.Duration{10, 69, 80, 200} {
			r.questions.ask(Question{EventID: fmt.Sprint(i + 1), Name: "UpdateAlias", Time: noon.Add(-ago * time.Second)}, noon, noon)
		}
		l, _ := r.questions.next(noon)
		p := page{NextToken: c.token}
		for _, ago := range c.events {
			p.Events = append(p.Events, event(ago))
		}
		r.settle(l, p, noon, noon)
		missed := 0
		for _, q := range r.questions.waits {
			if !q.due.After(noon) {
				missed++
			}
		}
		r.questions.turn = 0
		then, _ := r.questions.next(noon)
		if missed != c.missed || then.value != c.next {
			t.Errorf("%s: %d are still due, want %d; next is %q, want %q", what, missed, c.missed, then.value, c.next)
		}
	}
}

// However few look-ups are allowed, one is made an hour.
func TestSpacing(t *testing.T) {
	for perSecond, want := range map[float64]time.Duration{0: time.Second, 2: time.Second / 2, 0.1: 10 * time.Second, 1e-12: time.Hour} {
		if got := New(nil, nil, Config{PerSecond: perSecond}, nil).spacing; got != want {
			t.Errorf("%g a second: one in %s, want %s", perSecond, got, want)
		}
	}
}

// The row is one behind another, and goes on when somebody in it is gone.
func TestRow(t *testing.T) {
	w, now := &row{}, noon
	step := func(what, id string, after time.Duration, want bool, workers ...string) {
		t.Helper()
		now = now.Add(after)
		if mine := w.stand(id, now, 10*time.Second); mine != want || !cmp.Equal(w.Workers, workers) {
			t.Errorf("%s: %t, %v; want %t, %v", what, mine, w.Workers, want, workers)
		}
	}
	step("nobody is there", "a", 0, true, "a")
	step("a has it", "b", 0, false, "a", "b")
	step("b is in the row already", "b", time.Second, false, "a", "b")
	step("b, too", "c", time.Second, false, "a", "b", "c")
	w.leave("a", now)
	step("a again", "a", 0, false, "b", "c", "a")
	step("b has it", "b", pickUp, true, "b", "c", "a")
	step("b is killed", "a", 10*time.Second, false, "b", "c", "a")
	step("its turn is taken away", "a", 1, false, "c", "a")
	step("c never comes", "a", pickUp, false, "c", "a")
	step("it is a's turn", "a", 1, true, "a")
	step("a goes on", "a", 9*time.Second, true, "a")
	step("b is back", "b", 0, false, "a", "b")
	w.leave("b", now)
	step("b has left", "c", 0, false, "a", "c")
	w.leave("x", now)
	for range 2 * longestRow {
		w.stand(fmt.Sprint("x", len(w.Workers)), now, 10*time.Second)
	}
	if len(w.Workers) != longestRow {
		t.Errorf("%d are in the row", len(w.Workers))
	}
}
