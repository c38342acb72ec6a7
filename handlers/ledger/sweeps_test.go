package ledger

import (
	"testing"
	"time"
)

func TestSweepsWait(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return now.Add(time.Duration(seconds) * time.Second) }
	for name, tt := range map[string]struct {
		doc   Sweeps
		asked time.Time
		wait  time.Duration
		swept bool
	}{
		"never swept":                            {asked: at(-1)},
		"one began later and was whole":          {doc: Sweeps{Whole: at(-20)}, asked: at(-30), swept: true},
		"one began too soon after it to be sure": {doc: Sweeps{Whole: at(-20)}, asked: at(-29)},
		"one began before it":                    {doc: Sweeps{Whole: at(-20), Next: at(280)}, asked: at(-10), wait: 280 * time.Second},
		"one runs that began later":              {doc: Sweeps{Run: "a", Until: at(90)}, asked: at(-60), wait: 90 * time.Second},
		"one runs, and one before was whole":     {doc: Sweeps{Run: "a", Until: at(90), Whole: at(-20)}, asked: at(-60), swept: true},
		"its worker is gone":                     {doc: Sweeps{Run: "a", Until: at(0), Next: at(-200)}, asked: at(-60)},
		"one failed a short time ago":            {doc: Sweeps{Failures: 2, Next: at(45), Whole: at(-3600)}, asked: at(-60), wait: 45 * time.Second},
		"one failed long ago":                    {doc: Sweeps{Failures: 2, Next: at(-45), Whole: at(-3600)}, asked: at(-60)},
	} {
		if wait, swept := tt.doc.Wait(tt.asked, now); wait != tt.wait || swept != tt.swept {
			t.Errorf("%s: wait %s, swept %t; want %s, %t", name, wait, swept, tt.wait, tt.swept)
		}
	}
}

func TestSweepsRun(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	began := now.Add(-time.Minute)
	twice := func(s Sweeps, change func(*Sweeps)) Sweeps { // each is safe to apply twice
		change(&s)
		once := s
		if change(&s); s != once {
			t.Errorf("applied once %+v, twice %+v", once, s)
		}
		return s
	}
	running := twice(Sweeps{Failures: 3}, func(s *Sweeps) { s.Begin("a", now) })
	for name, tt := range map[string]struct {
		doc, want Sweeps
		change    func(*Sweeps)
	}{
		"whole":   {running, Sweeps{Whole: began, Next: now.Add(SweepPause)}, func(s *Sweeps) { s.Done("a", began, now) }},
		"failed":  {running, Sweeps{Failures: 4, Next: now.Add(8 * time.Minute)}, func(s *Sweeps) { s.Fail("a", now) }},
		"stopped": {running, Sweeps{Failures: 3}, func(s *Sweeps) { s.Stop("a") }},
		"whole, and another one runs by now": {
			Sweeps{Run: "b", Until: now, Failures: 1}, Sweeps{Run: "b", Until: now, Whole: began}, func(s *Sweeps) { s.Done("a", began, now) }},
		"whole, and a later one was, too": {
			Sweeps{Whole: now, Next: now}, Sweeps{Whole: now, Next: now}, func(s *Sweeps) { s.Done("a", began, now) }},
		"failed, and another one runs by now":  {Sweeps{Run: "b", Until: now}, Sweeps{Run: "b", Until: now}, func(s *Sweeps) { s.Fail("a", now) }},
		"stopped, and another one runs by now": {Sweeps{Run: "b", Until: now}, Sweeps{Run: "b", Until: now}, func(s *Sweeps) { s.Stop("a") }},
		"renewed":                              {running, Sweeps{Run: "a", Failures: 3, Until: now.Add(2*sweepLease - time.Second)}, func(s *Sweeps) { s.Renew("a", now.Add(sweepLease-time.Second)) }},
		"renewed, and another one runs by now": {Sweeps{Run: "b", Until: now}, Sweeps{Run: "b", Until: now}, func(s *Sweeps) { s.Renew("a", now) }},
	} {
		if got := twice(tt.doc, tt.change); got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}

	s, waits := Sweeps{}, time.Duration(0)
	for range 20 {
		s.Begin("a", now)
		s.Fail("a", now)
		waits = s.Next.Sub(now)
	}
	if waits != longestSweepBackoff {
		t.Errorf("a sweep that fails for ever is made every %s", waits)
	}
}

func TestAlive(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	const age = 15 * time.Minute
	for name, tt := range map[string]struct {
		doc, want Alive
		changed   bool
		asked     time.Time
	}{
		"nothing is known":          {Alive{}, Alive{At: now}, true, ago(age)},
		"somebody did just now":     {Alive{At: ago(time.Minute)}, Alive{At: ago(time.Minute)}, false, ago(age)},
		"somebody did":              {Alive{At: ago(3 * time.Minute)}, Alive{At: now}, true, ago(age)},
		"an outage":                 {Alive{At: ago(6 * time.Minute)}, Alive{At: now, Since: now}, true, ago(sweepClocks)},
		"an outage that ended":      {Alive{At: ago(time.Minute), Since: ago(4 * time.Minute)}, Alive{At: ago(time.Minute), Since: ago(4 * time.Minute)}, false, ago(4*time.Minute + sweepClocks)},
		"an outage that ended once": {Alive{At: ago(time.Minute), Since: ago(time.Hour)}, Alive{At: ago(time.Minute), Since: ago(time.Hour)}, false, ago(age)},
		"a clock that went back":    {Alive{At: now.Add(time.Minute)}, Alive{At: now.Add(time.Minute)}, false, ago(age)},
	} {
		doc := tt.doc
		if changed := doc.See(now); changed != tt.changed || doc != tt.want {
			t.Errorf("%s: %+v, changed %t", name, doc, changed)
		}
		if asked := doc.Asked(now, age); !asked.Equal(tt.asked) {
			t.Errorf("%s: asks for a sweep since %s, want %s", name, asked, tt.asked)
		}
	}
}
