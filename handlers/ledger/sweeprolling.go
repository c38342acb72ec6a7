package ledger

import "time"

// RollingEvery is how old grants and tags may become before they are read again, where KMS
// lets them be read as often.
const RollingEvery = 45 * time.Minute

const (
	// rollingLease is how long a worker counts as being at it after it last said so: nobody
	// waits for it.
	rollingLease = 5 * time.Minute
	// RollingRenewal is how often it says so.
	RollingRenewal = 2 * time.Minute
)

// Rolling is how far the grants and tags of all keys are read, shard by shard and around
// again: KMS lets them be read ten times more slowly than what each sweep reads. One
// message at a time goes around with it.
type Rolling struct {
	// Run is the sweep that called for it last: its message names that.
	Run string `json:"run"`
	// Of is how many shards there are, and Next which one is next.
	Of   int `json:"of"`
	Next int `json:"next"`
	// Round is when the first shard of this round began; zero when a round is over.
	Round time.Time `json:"round,omitzero"`
	// By names who is at it, until Until.
	By    string    `json:"by,omitempty"`
	Until time.Time `json:"until,omitzero"`
}

// CallRolling says, for a sweep that has ended, that keys are cut into so many shards. It
// reports whether a message has to be sent: nobody is at it, nor expected back.
func (s *Sweeps) CallRolling(run string, of int, now time.Time) bool {
	if s.Rolling == nil || s.Rolling.Of != of {
		s.Rolling = &Rolling{Of: of}
	}
	if s.Rolling.Until.After(now) {
		return s.Rolling.Run == run // the answer was lost
	}
	s.Rolling.Run, s.Rolling.By, s.Rolling.Until = run, "", now.Add(shardPatience) // until the message is there
	return true
}

// TakeRolling takes the next shard. wait is after how long to ask again, where another
// worker is at it; neither: the message is none of it any more.
func (s *Sweeps) TakeRolling(run, by string, now time.Time) (shard int, mine bool, wait time.Duration) {
	r := s.Rolling
	switch {
	case r == nil || r.Run != run || r.Next >= r.Of:
		return 0, false, 0
	case r.By != "" && r.By != by && r.Until.After(now):
		return 0, false, max(time.Second, r.Until.Sub(now))
	}
	if r.Next == 0 && r.Round.IsZero() {
		r.Round = now
	}
	r.By, r.Until = by, now.Add(rollingLease)
	return r.Next, true, 0
}

// RenewRolling notes that its worker is still at it, and reports false when another one is.
func (s *Sweeps) RenewRolling(by string, now time.Time) bool {
	if s.Rolling == nil || s.Rolling.By != by {
		return false
	}
	s.Rolling.Until = now.Add(rollingLease)
	return true
}

// RolledShard notes that a worker leaves the shard, done or not. It returns after how long
// the message is to come back; false: the round is over, and the next sweep calls for
// another one.
func (s *Sweeps) RolledShard(by string, done bool, now time.Time) (after time.Duration, again bool) {
	r := s.Rolling
	if r == nil || r.By != by {
		return 0, false
	}
	r.By, after = "", time.Second
	if !done {
		after = 10 * time.Second
	} else if r.Next++; r.Next >= r.Of {
		began := r.Round
		r.Next, r.Round = 0, time.Time{}
		if now.Sub(began) < RollingEvery {
			r.Run, r.Until = "", time.Time{}
			return 0, false
		}
	}
	r.Until = now.Add(after + shardPatience)
	return after, true
}
