package ledger

import "time"

// SweepsName names the document of the fleet's sweeps.
const SweepsName = "sweeps/fleet.json"

const (
	// SweepPause is how long after a sweep the next one may begin, however many are asked
	// for.
	SweepPause = 5 * time.Minute
	// sweepLease is how long a sweep counts as running after its worker last said so.
	sweepLease = 2 * time.Minute
	// SweepRenewal is how often its worker says so.
	SweepRenewal = sweepLease / 4
	// sweepClocks is more than the clocks of SQS and S3 differ by.
	sweepClocks = 10 * time.Second
	// firstSweepBackoff and longestSweepBackoff bound the wait after a sweep that failed.
	firstSweepBackoff, longestSweepBackoff = time.Minute, 30 * time.Minute
)

// Sweeps is sweeps/fleet.json: the sweep that runs, and what became of those before. Its
// times are S3's, so that workers agree on them whose clocks differ. The zero value is a
// fleet that never swept.
type Sweeps struct {
	// Run names the sweep that runs, "" while none does. It is over at Until, unless its
	// worker says that it still runs.
	Run   string    `json:"run,omitempty"`
	Until time.Time `json:"until,omitzero"`
	// Whole is when the last sweep began that did all it had to do.
	Whole time.Time `json:"whole,omitzero"`
	// Next is when the next one may begin.
	Next time.Time `json:"next,omitzero"`
	// Failures is how many have failed since one was whole.
	Failures int `json:"failures,omitempty"`
	// Plan is how the sweep that runs is cut into shards; nil while one worker does all of
	// it. A former build drops it, and begins anew when nobody says any more that the sweep
	// runs.
	Plan *SweepPlan `json:"plan,omitempty"`
	// Rolling is how far grants and tags are read of keys that are cut into shards.
	Rolling *Rolling `json:"rolling,omitempty"`
}

// Schema implements state.Document.
func (*Sweeps) Schema() (string, int) { return "sweeps", 1 }

// Wait says what becomes of somebody who asked at that time, by SQS's or S3's clock, for a
// sweep: swept, because one that began later was whole; or how long to wait before asking
// again. Neither: it may begin.
func (s *Sweeps) Wait(asked, now time.Time) (wait time.Duration, swept bool) {
	if !s.Whole.Before(asked.Add(sweepClocks)) {
		return 0, true
	}
	if s.Run != "" && s.Until.After(now) {
		return s.Until.Sub(now), false
	}
	return max(0, s.Next.Sub(now)), false
}

// Early is how long somebody who asked then is to wait before beginning a sweep that will be
// cut into shards: who asks again later has to see that it began after they asked.
func (s *Sweeps) Early(asked, now time.Time) time.Duration {
	if s.Rolling == nil { // the last one was not cut
		return 0
	}
	return max(0, asked.Add(sweepClocks).Sub(now))
}

// Begin notes that a sweep runs.
func (s *Sweeps) Begin(run string, now time.Time) {
	s.Run, s.Until, s.Plan = run, now.Add(sweepLease), nil
}

// Cut notes how the sweep that runs is cut. It reports false when another one runs by now.
func (s *Sweeps) Cut(run string, p *SweepPlan, now time.Time) bool {
	if s.Run != run {
		return false
	}
	if s.Plan == nil { // else the answer was lost
		s.Plan = p
		s.extend(now)
	}
	return true
}

// Renew notes that it still runs. It reports false when another one runs by now.
func (s *Sweeps) Renew(run string, now time.Time) bool {
	if s.Run != run {
		return false
	}
	s.Until = now.Add(sweepLease)
	return true
}

// Done notes that the sweep that began then was whole.
func (s *Sweeps) Done(run string, began, now time.Time) {
	if began.After(s.Whole) {
		s.Whole = began
	}
	s.Failures = 0
	s.end(run, now.Add(SweepPause))
}

// Fail notes that it was not. Those who ask then wait for the longer, the more often that
// was so.
func (s *Sweeps) Fail(run string, now time.Time) {
	if s.Run != run {
		return
	}
	s.Failures++
	backoff := longestSweepBackoff
	if s.Failures < 6 { // 2⁵ minutes are longer
		backoff = firstSweepBackoff << (s.Failures - 1)
	}
	s.end(run, now.Add(backoff))
}

// Stop notes that it was cut short: somebody else may begin anew.
func (s *Sweeps) Stop(run string) { s.end(run, s.Next) }

func (s *Sweeps) end(run string, next time.Time) {
	if s.Run == run {
		s.Run, s.Until, s.Next, s.Plan = "", time.Time{}, next, nil
	}
}

// AliveName names the document of when workers of the fleet received.
const AliveName = "sweeps/alive.json"

const (
	// AliveEvery is how often the fleet notes that a worker receives.
	AliveEvery = 2 * time.Minute
	// aliveGap is how long nobody may have noted that until it counts as an outage. It is
	// more than twice AliveEvery, so that a note that fails is none.
	aliveGap = 5 * time.Minute
)

// Alive is sweeps/alive.json: when a worker last noted that it receives, and since when that
// has been so without a gap; zero where no gap is known. Its times are S3's.
type Alive struct {
	At    time.Time `json:"at,omitzero"`
	Since time.Time `json:"since,omitzero"`
}

// Schema implements state.Document.
func (*Alive) Schema() (string, int) { return "alive", 1 }

// See notes that a worker receives. It reports false where that was noted a short time ago.
func (a *Alive) See(now time.Time) bool {
	quiet := now.Sub(a.At)
	if quiet < AliveEvery {
		return false
	}
	if !a.At.IsZero() && quiet > aliveGap {
		a.Since = now
	}
	a.At = now
	return true
}

// Asked is when a worker that starts now asks for a sweep, for [Sweeps.Wait]: one that
// began at most that long ago, and not before an outage.
func (a *Alive) Asked(now time.Time, age time.Duration) time.Time {
	asked := now.Add(-age)
	// Both are S3's times, so that the difference of clocks does not come in.
	if since := a.Since.Add(-sweepClocks); since.After(asked) {
		return since
	}
	return asked
}
