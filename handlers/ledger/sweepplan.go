package ledger

import (
	"hash/fnv"
	"slices"
	"strings"
	"time"
)

const (
	// ShardPermits is how many shards of a sweep the fleet works on at a time. Each of them
	// has its part of what a sweep may ask of KMS.
	ShardPermits = 2
	// ShardKeys is the least number of keys of a shard, where there are several. What a
	// shard costs whatever its keys are, ten requests to the state bucket, is little beside.
	ShardKeys = 1600
	// shardLease is how long a shard counts as taken after its worker last said so.
	shardLease = 2 * time.Minute
	// shardPatience is how long after it was due a shard is left to the worker that has its
	// message.
	shardPatience = 10 * time.Minute
	// shardAttempts is how often a shard is tried; what fails then is told, and tried again
	// by the next sweep.
	shardAttempts = 3
	// longestPlan is how long a sweep may go on. One that is older is begun anew.
	longestPlan = 6 * time.Hour
)

// The letters of SweepPlan.Progress.
const (
	shardLeft   = '.'
	shardDone   = '+'
	shardFailed = '!'
)

// SweepPlan is how the sweep that runs is cut into shards, and how far it is. A sweep of
// one worker has none.
type SweepPlan struct {
	// Began is when the sweep did.
	Began time.Time `json:"began"`
	// Shards is how many shards of keys there are, a power of two. One more, with this
	// number, is of the buckets.
	Shards int `json:"shards"`
	// Step is how many seconds after the one before a shard is due.
	Step int `json:"step_seconds,omitempty"`
	// Progress has a letter for each shard.
	Progress string `json:"progress"`
	// Taken are the shards that are not done and that a worker has, or has had.
	Taken []ShardLease `json:"taken,omitempty"`
	// Ending is who does what is done once, after all shards; nil for nobody.
	Ending *ShardLease `json:"ending,omitempty"`
	// Totals are those of the shards that are done.
	Totals SweepTotals `json:"totals"`
}

// ShardLease is who has a shard.
type ShardLease struct {
	Shard int `json:"shard"`
	// By names the taking, "" while nobody has the shard, which may be taken from Until on.
	By string `json:"by,omitempty"`
	// Permit is which part of the fleet's rate goes with it.
	Permit int       `json:"permit,omitempty"`
	Until  time.Time `json:"until"`
	// Failures is how often it has failed.
	Failures int `json:"failures,omitempty"`
}

// Shards is how many shards so many keys are cut into, each of a number of keys at least:
// a power of two, so that what is known of a key stays in one document while their number
// grows a little.
func Shards(keys, each int) int {
	n := 1
	for keys >= 2*n*each {
		n *= 2
	}
	return n
}

// ShardOf is which of so many shards has a key, by the key's id: always the same one.
func ShardOf(keyID string, shards int) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(keyID)) // never fails
	return int(h.Sum32()) & (shards - 1)
}

// NewSweepPlan cuts a sweep that began then into so many shards of keys, of which one is
// due every step.
func NewSweepPlan(began time.Time, shards int, step time.Duration) *SweepPlan {
	return &SweepPlan{Began: began, Shards: shards, Step: int(step / time.Second), Progress: strings.Repeat(string(shardLeft), shards+1)}
}

// Due is how long after the sweep's beginning a shard is.
func (p *SweepPlan) Due(shard int) time.Duration {
	return time.Duration(shard/ShardPermits*p.Step) * time.Second
}

// Left is how many shards are not done.
func (p *SweepPlan) Left() int { return strings.Count(p.Progress, string(shardLeft)) }

// Whole reports whether all shards are done, and none failed for good.
func (p *SweepPlan) Whole() bool { return strings.Trim(p.Progress, string(shardDone)) == "" }

func (p *SweepPlan) isLeft(shard int) bool {
	return shard >= 0 && shard < len(p.Progress) && p.Progress[shard] == shardLeft
}

func (p *SweepPlan) lease(shard int) *ShardLease {
	return where(p.Taken, func(l ShardLease) bool { return l.Shard == shard })
}

// held reports whether somebody has what the lease is about.
func (l *ShardLease) held(now time.Time) bool { return l != nil && l.By != "" && l.Until.After(now) }

// permit is one that nobody has; false: all are taken.
func (p *SweepPlan) permit(now time.Time) (int, bool) {
	for n := range ShardPermits {
		if where(p.Taken, func(l ShardLease) bool { return l.Permit == n && l.held(now) }) == nil {
			return n, true
		}
	}
	return 0, false
}

// settle notes that a shard needs no worker any more.
func (p *SweepPlan) settle(shard int, as byte) {
	p.Progress = p.Progress[:shard] + string(as) + p.Progress[shard+1:]
	p.Taken = slices.DeleteFunc(p.Taken, func(l ShardLease) bool { return l.Shard == shard })
}

// running returns the plan of a run, nil where that is over or was never planned.
func (s *Sweeps) running(run string) *SweepPlan {
	if s.Run != run || run == "" {
		return nil
	}
	return s.Plan
}

// extend notes that the sweep goes on, for those who ask for another one.
func (s *Sweeps) extend(now time.Time) {
	if until := now.Add(sweepLease); until.After(s.Until) {
		s.Until = until
	}
}

// ShardTaken is what comes of asking for a shard.
type ShardTaken struct {
	// Mine: the caller has it now, with the permit.
	Mine   bool
	Permit int
	// Wait is after how long to ask again; neither: there is nothing to be done.
	Wait time.Duration
}

// TakeShard takes a shard of a run, unless another worker has it or all permits are
// taken. by names this taking.
func (s *Sweeps) TakeShard(run string, shard int, by string, now time.Time) ShardTaken {
	p := s.running(run)
	if p == nil || !p.isLeft(shard) {
		return ShardTaken{}
	}
	l := p.lease(shard)
	switch {
	case l != nil && l.By == by && l.Until.After(now): // the answer was lost
		return ShardTaken{Mine: true, Permit: l.Permit}
	case l != nil && l.Until.After(now): // somebody has it, or it is not time yet
		return ShardTaken{Wait: max(time.Second, l.Until.Sub(now))}
	}
	permit, ok := p.permit(now)
	if !ok {
		return ShardTaken{Wait: max(2*time.Second, time.Duration(p.Step)*time.Second/4)}
	}
	if l == nil {
		p.Taken = append(p.Taken, ShardLease{Shard: shard})
		l = &p.Taken[len(p.Taken)-1]
	}
	l.By, l.Permit, l.Until = by, permit, now.Add(shardLease)
	s.extend(now)
	return ShardTaken{Mine: true, Permit: permit}
}

// RenewShard notes that its worker is still at a shard. It reports false when that has
// lost it.
func (s *Sweeps) RenewShard(run string, shard int, by string, now time.Time) bool {
	p := s.running(run)
	if p == nil {
		return false
	}
	l := p.lease(shard)
	if l == nil || l.By != by {
		return false
	}
	l.Until = now.Add(shardLease)
	s.extend(now)
	return true
}

// DoneShard notes that a shard is done, and adds its totals.
func (s *Sweeps) DoneShard(run string, shard int, totals SweepTotals, now time.Time) {
	p := s.running(run)
	if p == nil || !p.isLeft(shard) {
		return
	}
	p.settle(shard, shardDone)
	p.Totals.Add(totals)
	s.extend(now)
}

// FailShard notes that a worker failed at a shard, which is tried again after a while, by
// itself. It returns after how long; 0: it is given up, with these totals.
func (s *Sweeps) FailShard(run string, shard int, by string, totals SweepTotals, now time.Time) (wait time.Duration) {
	p := s.running(run)
	if p == nil || !p.isLeft(shard) {
		return 0
	}
	l := p.lease(shard)
	if l == nil || l.By != by {
		return max(time.Second, shardLease)
	}
	if l.Failures++; l.Failures >= shardAttempts {
		p.settle(shard, shardFailed)
		p.Totals.Add(totals)
		s.extend(now)
		return 0
	}
	wait = time.Minute << (l.Failures - 1)
	l.By, l.Until = "", now.Add(wait)
	p.Totals.Add(totals.work())
	s.extend(now)
	return wait
}

// YieldShard notes that a worker has left a shard for others, after that time.
func (s *Sweeps) YieldShard(run string, shard int, by string, totals SweepTotals, after time.Duration, now time.Time) {
	p := s.running(run)
	if p == nil {
		return
	}
	if l := p.lease(shard); l != nil && l.By == by {
		l.By, l.Until = "", now.Add(after)
		p.Totals.Add(totals.work())
		s.extend(now)
	}
}

// Planned reports whether a sweep is under way that is cut into shards.
func (s *Sweeps) Planned(now time.Time) bool {
	return s.Plan != nil && s.Run != "" && now.Sub(s.Plan.Began) < longestPlan
}

// StaleShard is one that was due long ago and that nobody has: its message is lost.
func (s *Sweeps) StaleShard(now time.Time) (shard int, ok bool) {
	if !s.Planned(now) {
		return 0, false
	}
	for shard := range s.Plan.Progress {
		since := s.Plan.Began.Add(s.Plan.Due(shard))
		if l := s.Plan.lease(shard); l != nil {
			since = l.Until
		}
		if s.Plan.isLeft(shard) && now.Sub(since) >= shardPatience {
			return shard, true
		}
	}
	return 0, false
}

// TakeEnd takes what is done once, when all shards are; false: they are not, or somebody
// has it.
func (s *Sweeps) TakeEnd(run, by string, now time.Time) bool {
	p := s.running(run)
	if p == nil || p.Left() > 0 || p.Ending.held(now) && p.Ending.By != by {
		return false
	}
	p.Ending = &ShardLease{Shard: p.Shards, By: by, Until: now.Add(shardLease)}
	s.extend(now)
	return true
}
