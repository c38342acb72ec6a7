package reencrypt

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestJobsOf(t *testing.T) {
	const alias = "arn:aws:kms:us-east-1:111122223333:alias/x"
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	now := at.Add(time.Hour)
	running := func(id string, moved time.Time, bucket, to string, from ...string) jobDoc {
		return jobDoc{ID: id, MovedAt: moved, State: StateRunning, spec: spec{Bucket: bucket, From: from, To: to}}
	}
	move := func(to string, from ...string) Move {
		return Move{AliasARN: alias, From: from, To: to, At: at, Scope: []Scope{{"a", ""}}}
	}
	type want struct {
		scopes     []Scope
		from       []string
		to         string
		superseded []string
		waits      bool
	}
	for name, c := range map[string]struct {
		move Move
		open []jobDoc
		want want
	}{
		"alone": {move: move("B", "A"), want: want{[]Scope{{"a", ""}}, []string{"A"}, "B", nil, false}},
		"its own job, started again": {
			move: move("B", "A"), open: []jobDoc{running("same", at, "a", "B", "A")},
			want: want{[]Scope{{"a", ""}}, []string{"A"}, "B", nil, false},
		},
		"A→B→C": {
			move: move("C", "B"), open: []jobDoc{running("old", at.Add(-time.Hour), "a", "B", "A")},
			want: want{[]Scope{{"a", ""}}, []string{"A", "B"}, "C", []string{"old"}, true},
		},
		"A→B→A": {
			move: move("A", "B"), open: []jobDoc{running("old", at.Add(-time.Hour), "a", "B", "A")},
			want: want{[]Scope{{"a", ""}}, []string{"B"}, "A", []string{"old"}, true},
		},
		"takes over the scope too": {
			move: move("C", "B"), open: []jobDoc{running("old", at.Add(-time.Hour), "b", "B", "A")},
			want: want{[]Scope{{"a", ""}, {"b", ""}}, []string{"A", "B"}, "C", []string{"old"}, true},
		},
		"after one that was cancelled": {
			move: move("C", "B"), open: []jobDoc{{ID: "old", MovedAt: at.Add(-time.Hour), State: StateCancelled, Finished: now, spec: spec{Bucket: "a", From: []string{"A"}, To: "B"}}},
			want: want{[]Scope{{"a", ""}}, []string{"B"}, "C", nil, true},
		},
		"known late": {
			move: move("B", "A"), open: []jobDoc{running("new", at.Add(time.Hour), "a", "C", "B")},
			want: want{[]Scope{{"a", ""}}, []string{"A", "B"}, "C", nil, false},
		},
	} {
		t.Run(name, func(t *testing.T) {
			jobs, superseded := jobsOf(c.move, c.open, Options{Versions: VersionsAll, Method: MethodAuto}, now)
			var got want
			for _, j := range jobs {
				got.scopes = append(got.scopes, Scope{j.Bucket, j.Prefix})
				got.from, got.to, got.waits = j.From, j.To, j.NotBefore.After(now)
				if j.ID != jobID(c.move, Scope{j.Bucket, j.Prefix}) {
					t.Errorf("job id %s is not that of the move", j.ID)
				}
			}
			got.superseded = superseded
			if d := cmp.Diff(c.want, got, cmp.AllowUnexported(want{})); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestJobIDTellsMovesApart(t *testing.T) {
	m := Move{AliasARN: "alias", To: "key", At: time.Unix(1, 0)}
	ids := []string{jobID(m, Scope{"b", "p"}), jobID(m, Scope{"bp", ""}), jobID(m, Scope{"b", ""})}
	m.At = time.Unix(2, 0)
	ids = append(ids, jobID(m, Scope{"b", "p"}))
	slices.Sort(ids)
	if len(slices.Compact(ids)) != 4 {
		t.Error("two different jobs have one id")
	}
	if m2 := m; jobID(m2, Scope{"b", "p"}) != jobID(m, Scope{"b", "p"}) {
		t.Error("one job has two ids")
	}
}

func TestAfterPass(t *testing.T) {
	for name, c := range map[string]struct {
		pass   int
		counts Counts
		early  bool
		want   State
	}{
		"moved something":             {1, Counts{Moved: 1}, false, StateRunning},
		"moved nothing":               {1, Counts{Skipped: 5, Refused: 2}, false, StateComplete},
		"moved nothing, but too soon": {2, Counts{Skipped: 5}, true, StateRunning},
		"failures are tried again":    {2, Counts{Failed: 1}, false, StateRunning},
		"but not for ever":            {3, Counts{Failed: 1}, false, StateComplete},
		"a bad copy is not":           {2, Counts{Failed: 1, ByReason: map[Reason]int64{ReasonDiffers: 1}}, false, StateComplete},
		"never comes to an end":       {10, Counts{Moved: 1}, false, StateStopped},
	} {
		if got, cause := afterPass(c.pass, c.counts, c.early); got != c.want || (cause != "") != (got == StateStopped) {
			t.Errorf("%s: %s %q, want %s", name, got, cause, c.want)
		}
	}
}

func TestCountsOverPasses(t *testing.T) {
	first := Counts{Scanned: 10, Moved: 6, Skipped: 1, Refused: 1, Failed: 2, Bytes: 60, ByReason: map[Reason]int64{
		ReasonOtherKey: 1, ReasonObjectLock: 1, ReasonDiffers: 1, ReasonError: 1,
	}}
	last := Counts{Scanned: 10, Skipped: 9, Refused: 1, ByReason: map[Reason]int64{ReasonOnTarget: 8, ReasonOtherKey: 1, ReasonObjectLock: 1}}
	second := Counts{Scanned: 10, Moved: 1, Skipped: 8, Refused: 1, Bytes: 10}
	got := withEarlier(last, carry(carry(Counts{}, first), second))
	want := Counts{Scanned: 10, Moved: 7, Skipped: 1, Refused: 1, Failed: 1, Bytes: 70, ByReason: map[Reason]int64{
		ReasonOtherKey: 1, ReasonObjectLock: 1, ReasonDiffers: 1,
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if last.ByReason[ReasonOnTarget] != 8 {
		t.Error("the last pass's own counts were changed")
	}

	// Of 5 that were moved others have deleted 3 since.
	left := Counts{Scanned: 3, Skipped: 3, ByReason: map[Reason]int64{ReasonOnTarget: 2, ReasonOtherKey: 1}}
	want = Counts{Scanned: 6, Moved: 5, Skipped: 1, ByReason: map[Reason]int64{ReasonOtherKey: 1}}
	if d := cmp.Diff(want, withEarlier(left, Counts{Moved: 5})); d != "" {
		t.Error(d)
	}

	// Of 5 that were moved the last pass could not look at 1.
	unread := Counts{Scanned: 6, Skipped: 5, Failed: 1, ByReason: map[Reason]int64{ReasonOnTarget: 4, ReasonOtherKey: 1, ReasonError: 1}}
	want = Counts{Scanned: 6, Moved: 4, Skipped: 1, Failed: 1, ByReason: map[Reason]int64{ReasonOtherKey: 1, ReasonError: 1}}
	if d := cmp.Diff(want, withEarlier(unread, Counts{Moved: 5})); d != "" {
		t.Error(d)
	}
}

func TestShare(t *testing.T) {
	for _, c := range []struct {
		own      int
		readings []int
		want     float64
	}{
		{1, nil, 100}, {1, []int{1}, 100}, {1, []int{4}, 25}, {2, []int{4, 3}, 50}, {3, []int{1}, 100},
		{2, []int{8, 9, 8, 8}, 25}, {2, []int{8, 8, 9}, 25}, // done, and not deleted yet
		{1, []int{2, 2, 2, 2, 8, 8}, 12.5}, // the fleet has grown
		{1, []int{2, 2, 2, 8}, 50}, {1, []int{8, 8, 2}, 12.5},
	} {
		var readings []reading
		for _, n := range c.readings {
			readings = append(readings, reading{slices: n})
		}
		if got := share(100, c.own, readings); got != c.want {
			t.Errorf("share of %d with %v is %g, want %g", c.own, c.readings, got, c.want)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, s := range []string{
		`{"v":1,"job":"00ff","pass":1,"plan":true,"slice":0}`, `{"v":1,"job":"ab","pass":2,"slice":17}`,
		`{"v":2,"job":"ab","pass":1,"slice":0}`, `{"v":1,"job":"../../x","pass":1,"slice":0}`, `{}`, `[]`, `null`, `{"v":1`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := parseMessage(body)
		if err != nil {
			return
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseMessage(again); err != nil || back != m {
			t.Errorf("%q comes back as %+v, %v", again, back, err)
		}
	})
}
