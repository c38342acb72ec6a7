package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var sweepTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// copied is a copy that shares nothing, as a document that is read again.
func copied(s *Sweeps) *Sweeps {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	c := new(Sweeps)
	if err := json.Unmarshal(text, c); err != nil {
		panic(err)
	}
	return c
}

// twice applies a change, and wants that applying it again, as where an answer was lost,
// changes nothing.
func twice(t *testing.T, s *Sweeps, change func(*Sweeps)) *Sweeps {
	t.Helper()
	change(s)
	once := copied(s)
	if change(s); !reflect.DeepEqual(copied(s), once) {
		t.Errorf("applied once %+v %+v, twice %+v %+v", once, once.Plan, s, s.Plan)
	}
	return s
}

func TestShardsOfKeys(t *testing.T) {
	for keys, want := range map[int]int{0: 1, 1: 1, 3199: 1, 3200: 2, 6399: 2, 6400: 4, 100_000: 32} {
		if got := Shards(keys, ShardKeys); got != want {
			t.Errorf("%d keys are %d shards, want %d", keys, got, want)
		}
	}
	// A key stays with the others of its shard when their number doubles, and shards have
	// about as many keys.
	counts := make([]int, 8)
	for n := range 8000 {
		id := fmt.Sprintf("%08x-0000-4000-8000-%012x", n*2654435761, n)
		of8 := ShardOf(id, 8)
		counts[of8]++
		if of4 := ShardOf(id, 4); of4 != of8%4 {
			t.Fatalf("key %s is in %d of 4 and %d of 8 shards", id, of4, of8)
		}
	}
	if slices.Min(counts) < 800 || slices.Max(counts) > 1200 {
		t.Errorf("keys of the shards: %v", counts)
	}
}

// A sweep in two shards and the buckets, from its beginning to its end.
func TestPlannedSweep(t *testing.T) {
	now := sweepTime
	s := &Sweeps{}
	s.Begin("r", now)
	twice(t, s, func(s *Sweeps) { s.Cut("r", NewSweepPlan(now, 2, 10*time.Second), now) })
	if s.Cut("other", nil, now) || !s.Planned(now) || s.Plan.Left() != 3 {
		t.Fatalf("%+v", s)
	}
	take := func(run string, shard int, by string) ShardTaken {
		var taken ShardTaken
		twice(t, s, func(s *Sweeps) { taken = s.TakeShard(run, shard, by, now) })
		return taken
	}
	for name, foreign := range map[string]ShardTaken{
		"another run": take("x", 0, "a"), "no run": take("", 0, "a"), "a shard too many": take("r", 3, "a"), "a negative one": take("r", -1, "a"),
	} {
		if foreign != (ShardTaken{}) {
			t.Errorf("%s: %+v", name, foreign)
		}
	}
	first, second := take("r", 0, "a"), take("r", 1, "b")
	if !first.Mine || !second.Mine || first.Permit == second.Permit {
		t.Errorf("taken: %+v, %+v", first, second)
	}
	if third := take("r", 2, "c"); third.Mine || third.Wait == 0 {
		t.Errorf("more shards than permits: %+v", third)
	}
	if again := take("r", 0, "c"); again.Mine || again.Wait != shardLease {
		t.Errorf("a shard that somebody has: %+v", again)
	}
	// The worker of the second one dies, that of the first one goes on.
	now = now.Add(shardLease - time.Second)
	if !s.RenewShard("r", 0, "a", now) || s.RenewShard("r", 0, "b", now) {
		t.Error("renewed by somebody else, or not by its worker")
	}
	now = now.Add(2 * time.Second)
	if other := take("r", 1, "c"); !other.Mine || other.Permit != second.Permit {
		t.Errorf("of a worker that died: %+v", other)
	}
	if s.RenewShard("r", 1, "b", now) {
		t.Error("a shard that was lost is renewed")
	}
	twice(t, s, func(s *Sweeps) { s.DoneShard("r", 0, SweepTotals{Keys: 3, Open: map[string]int{"high": 1}}, now) })
	twice(t, s, func(s *Sweeps) { s.DoneShard("r", 1, SweepTotals{Keys: 4, Open: map[string]int{"high": 2}}, now) })
	if s.TakeEnd("r", "e", now) {
		t.Error("the end is taken, and a shard is left")
	}
	take("r", 2, "d")
	twice(t, s, func(s *Sweeps) { s.DoneShard("r", 2, SweepTotals{Buckets: 5}, now) })
	if got := s.Plan.Totals; got.Keys != 7 || got.Buckets != 5 || got.Open["high"] != 3 || !s.Plan.Whole() {
		t.Errorf("totals: %+v", s.Plan)
	}
	twice(t, s, func(s *Sweeps) {
		if !s.TakeEnd("r", "e", now) {
			t.Error("nobody gets the end")
		}
	})
	if s.TakeEnd("r", "f", now) || s.TakeEnd("x", "f", now) {
		t.Error("the end is not one worker's")
	}
	if now = now.Add(shardLease); !s.TakeEnd("r", "f", now) {
		t.Error("the end of a worker that died is nobody's")
	}
	if s.Done("r", sweepTime, now); s.Plan != nil || s.Run != "" || !s.Whole.Equal(sweepTime) {
		t.Errorf("%+v", s)
	}
}

// What fails is tried again, after longer waits, and given up in the end; what was left is
// free again; and what was done in vain is counted once.
func TestFailingShards(t *testing.T) {
	now := sweepTime
	s := &Sweeps{}
	s.Begin("r", now)
	s.Cut("r", NewSweepPlan(now, 1, time.Second), now)
	work := SweepTotals{Keys: 3, Changed: 1, Errors: 1, ErrorsOf: []string{"no answer"}}
	var waits []time.Duration
	for n := range shardAttempts {
		if !s.TakeShard("r", 0, fmt.Sprint(n), now).Mine {
			t.Fatalf("attempt %d: %+v", n, s.Plan)
		}
		if wait := copied(s).FailShard("r", 0, "somebody else", work, now); wait == 0 {
			t.Error("failed for somebody who does not have it")
		}
		wait := s.FailShard("r", 0, fmt.Sprint(n), work, now)
		if taken := s.TakeShard("r", 0, "early", now.Add(wait-time.Second)); wait > 0 && taken.Mine {
			t.Error("taken before it was time")
		}
		waits, now = append(waits, wait), now.Add(wait)
	}
	if want := []time.Duration{time.Minute, 2 * time.Minute, 0}; !slices.Equal(waits, want) {
		t.Errorf("waits %v, want %v", waits, want)
	}
	if p := s.Plan; p.Whole() || p.Totals.Changed != shardAttempts || p.Totals.Keys != 3 || p.Totals.Errors != 1 {
		t.Errorf("given up: %+v", p)
	}
	s.TakeShard("r", 1, "a", now)
	twice(t, s, func(s *Sweeps) { s.YieldShard("r", 1, "a", work, time.Second, now) })
	if taken := s.TakeShard("r", 1, "b", now); taken.Mine || taken.Wait != time.Second {
		t.Errorf("left, and taken at once: %+v", taken)
	}
	if now = now.Add(time.Second); !s.TakeShard("r", 1, "b", now).Mine {
		t.Error("left, and not taken")
	}
}

// A shard is overdue ten minutes after it was due, or free; one that somebody has is not.
func TestStaleShards(t *testing.T) {
	s := &Sweeps{}
	s.Begin("r", sweepTime)
	s.Cut("r", NewSweepPlan(sweepTime, 4, time.Minute), sweepTime)
	stale := func(after time.Duration) int {
		if shard, ok := s.StaleShard(sweepTime.Add(after)); ok {
			return shard
		}
		return -1
	}
	if got := stale(shardPatience - time.Second); got != -1 {
		t.Errorf("shard %d is overdue too early", got)
	}
	if got := stale(shardPatience); got != 0 {
		t.Errorf("shard %d is overdue, want 0", got)
	}
	s.DoneShard("r", 0, SweepTotals{}, sweepTime)
	s.TakeShard("r", 1, "a", sweepTime.Add(shardPatience))
	if got := stale(shardPatience + 30*time.Second); got != -1 {
		t.Errorf("shard %d is overdue, and somebody has it, or it was due a minute later", got)
	}
	if got := stale(shardPatience + time.Minute); got != 2 {
		t.Errorf("shard %d is overdue, want 2", got)
	}
	if got := stale(longestPlan); got != -1 || s.Planned(sweepTime.Add(longestPlan)) {
		t.Error("a sweep goes on for ever")
	}
}

// Around and around, one worker at a time, and each message for the sweep that called.
func TestRolling(t *testing.T) {
	now := sweepTime
	s := &Sweeps{}
	call := func(run string) (send bool) {
		twice(t, s, func(s *Sweeps) { send = s.CallRolling(run, 2, now) })
		return send
	}
	if !call("a") || call("b") {
		t.Error("called twice, or not once")
	}
	if now = now.Add(shardPatience); !call("b") {
		t.Error("the message is lost, and no other one is sent")
	}
	if _, mine, wait := s.TakeRolling("a", "w", now); mine || wait != 0 {
		t.Error("taken for a sweep that is over")
	}
	began := now
	for shard := range 2 {
		if got, mine, _ := s.TakeRolling("b", "w", now); got != shard || !mine {
			t.Fatalf("shard %d, mine %t", got, mine)
		}
		if _, mine, wait := s.TakeRolling("b", "other", now); mine || wait <= 0 {
			t.Error("two workers are at it")
		}
		if now = now.Add(rollingLease - time.Second); !s.RenewRolling("w", now) || s.RenewRolling("other", now) {
			t.Error("renewed by another one, or not by its worker")
		}
		if after, again := s.RolledShard("w", false, now); !again || after == 0 {
			t.Error("a shard that was left does not come back")
		}
		s.TakeRolling("b", "w", now)
		after, again := s.RolledShard("w", true, now)
		if again != (shard == 0) || again && after == 0 {
			t.Errorf("after shard %d: again %t, after %s", shard, again, after)
		}
	}
	if call("c"); s.Rolling.Run != "c" {
		t.Error("a round is over, and none is called for")
	}
	// A round that took long is followed by the next one at once.
	s.TakeRolling("c", "w", now)
	s.RolledShard("w", true, now)
	now = now.Add(RollingEvery)
	s.TakeRolling("c", "w", now)
	if after, again := s.RolledShard("w", true, now); !again || after == 0 || s.Rolling.Next != 0 {
		t.Errorf("after a long round since %s: %+v", began, s.Rolling)
	}
}

// All records of a week and one of each of 400 days are left, however long there are sweeps,
// and each of them deletes few.
func TestOldRecords(t *testing.T) {
	kept := map[string]int{}
	now := time.Date(2026, 1, 1, 0, 30, 0, 0, time.UTC)
	for n := range 450 * 4 {
		now = now.Add(6 * time.Hour)
		if n/4 == 100 { // no sweep for a day
			continue
		}
		kept[now.Format(time.DateOnly)]++
		var days []string
		for d := range kept {
			days = append(days, d)
		}
		slices.Sort(days)
		all, thin := OldRecords(days, now)
		if len(all)+len(thin) > maxOldDays+2 {
			t.Fatalf("%d days are looked at", len(all)+len(thin))
		}
		for _, d := range all {
			delete(kept, d)
		}
		for _, d := range thin {
			kept[d] = min(kept[d], 1)
		}
	}
	for d, n := range kept {
		day, err := time.Parse(time.DateOnly, d)
		if err != nil {
			t.Fatal(err)
		}
		switch age := int(now.Sub(day).Hours() / 24); {
		case age > recordYear, age > recordDays+1 && n != 1, age <= recordDays && age > 0 && n != 4:
			t.Errorf("%d records of %s, %d days ago", n, d, age)
		}
	}
	if len(kept) < 395 {
		t.Errorf("records of %d days", len(kept))
	}
}

// The texts of a record have a bound, however much goes wrong.
func TestTotalsAreBounded(t *testing.T) {
	var sum SweepTotals
	for range 100 {
		var one SweepTotals
		for range 100 {
			one.NoteUnread("x", errors.New(strings.Repeat("y", 5000)))
			one.NoteError(errors.New(strings.Repeat("z", 5000)))
		}
		one.Unreadable = slices.Repeat([]string{"doc"}, 100)
		one.NoteRolled(time.Time{}, sweepTime)
		one.NoteRolled(sweepTime.Add(time.Hour), sweepTime.Add(2*time.Hour))
		sum.Add(one)
	}
	if len(sum.UnreadOf) != maxUnread || len(sum.ErrorsOf) != maxErrors || len(sum.Unreadable) != maxUnreadable || sum.Unread != 10_000 || sum.Errors != 10_000 {
		t.Errorf("%d unread, %d errors, %d unreadable", len(sum.UnreadOf), len(sum.ErrorsOf), len(sum.Unreadable))
	}
	if text, _ := json.Marshal(sum); len(text) > 30_000 {
		t.Errorf("%d bytes", len(text))
	}
	if sum.NotRolled != 100 || sum.RolledAge != 3600 || !sum.OldestRolled.Equal(sweepTime.Add(time.Hour)) {
		t.Errorf("not rolled %d, oldest %s", sum.NotRolled, sum.OldestRolled)
	}
}
