package handlers

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/events"
)

func TestDecideFight(t *testing.T) {
	five := repairsAt(noon, noon, noon, noon, noon)
	open := &circuit{By: "a", At: after(-59 * time.Minute), Told: true}
	untold := &circuit{By: "a", At: after(-time.Minute)}
	closed := &circuit{By: "a", At: after(-time.Hour), Told: true}
	tests := []struct {
		name string
		in   fightInput
		want fight
	}{
		{"nothing before", fightInput{}, fightNone},
		{"four repairs", fightInput{recent: five[:4]}, fightNone},
		{"five repairs", fightInput{recent: five}, fightOpens},
		{"five repairs, this one begun before the last of them", fightInput{recent: five, begun: true}, fightNone},
		{"open", fightInput{last: open, by: "b"}, fightOpen},
		{"open, and begun before", fightInput{last: open, by: "b", begun: true}, fightOpen},
		{"open, the event that opened it again", fightInput{last: open, by: "a"}, fightOpens},
		{"open, a sweep", fightInput{last: open, by: "b", sweep: true}, fightOpen},
		{"open, another event, perhaps not told", fightInput{last: untold, by: "b"}, fightOpen},
		{"open, a sweep, perhaps not told", fightInput{last: untold, by: "b", sweep: true}, fightOpens},
		{"closed", fightInput{last: closed, by: "b"}, fightNone},
		{"closed, the event that opened it again", fightInput{last: closed, by: "a"}, fightNone},
		{"closed, and too often since", fightInput{last: closed, by: "b", recent: five}, fightOpens},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.limit, tt.in.now = 5, noon
			if got := decideFight(tt.in); got != tt.want {
				t.Errorf("fight %q, want %q", got, tt.want)
			}
		})
	}
}

func TestStandBack(t *testing.T) {
	var d keyDoc
	d.standBack("x", events.Event{ID: "a"}, noon)
	d.standBack("x", events.Event{ID: "b"}, after(time.Minute)) // it is open
	d.standBack("y", events.Event{ID: "c"}, noon)
	d.standBack("y", events.Event{ID: "d"}, after(time.Hour)) // it was closed
	want := []circuit{{Reaction: "x", By: "a", At: noon}, {Reaction: "y", By: "d", At: after(time.Hour)}}
	if diff := cmp.Diff(want, d.Circuits); diff != "" {
		t.Error(diff)
	}
}

func TestOpponents(t *testing.T) {
	rep := func(name string, d time.Duration) repair {
		r := repair{Reaction: "x", By: name + d.String(), At: after(d), Done: true}
		if name != "" {
			r.Against = &party{Name: name}
		}
		return r
	}
	d := keyDoc{Repairs: []repair{rep("old", -2*time.Hour), rep("a", -30*time.Minute), rep("", -20*time.Minute), rep("b", -10*time.Minute), rep("a", -time.Minute)}}
	d.Repairs = append(d.Repairs, repair{Reaction: "x", By: "begun", At: after(-time.Second), Against: &party{Name: "c"}})
	want := []string{"a, 2 times", "not known: a sweep noticed it", "b"}
	if diff := cmp.Diff(want, opponents(d.putBackBefore(circuit{Reaction: "x", At: noon}))); diff != "" {
		t.Error(diff)
	}
}
