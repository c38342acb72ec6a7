package confirm

import (
	"cmp"
	"hash/maphash"
	"slices"
	"strings"
	"time"
)

const (
	maxQuestions = 4096
	// forgotten is how long after it was last asked a question is forgotten. Messages
	// come back within a minute, to any worker of the fleet.
	forgotten = 10 * time.Minute
	// reach is how far back CloudTrail is asked, which keeps 90 days, and ahead how far in
	// the future a time may be, by a clock here that is slow.
	reach = 89 * 24 * time.Hour
	ahead = 15 * time.Minute
	// late is how long after a call its record may be expected: five minutes is usual,
	// fifteen the longest that people saw. AWS promises nothing.
	late = 30 * time.Minute
	// nameTurns of turns look-ups go round by name, the others by key. Of the first each
	// answers for all keys, so they are what a flood over many keys cannot starve; the
	// others are what a name with too many records cannot.
	nameTurns, turns = 3, 4

	longestName, longestResource = 64, 256
)

// claim is a question in bounded space. Two questions about one id that claim different
// things are two, so that a forged one cannot take the place of the real one.
type claim struct {
	id, name, resource string
	actor              uint64
	at                 int64 // seconds since 1970
}

// question is a question that waits. Its times are by the clock of this process, but for
// at.
type question struct {
	claim
	byName, byKey, byActor *share
	asked                  time.Time // last
	due                    time.Time // for the next look-up
	looked                 int       // how often CloudTrail did not have it
}

// share is what has one part of the look-ups: a name, a key, or an actor of a key.
type share struct {
	shareOf
	questions int
	// place is its place in the row: behind all others when it is new, and after each of
	// its turns. Were who is new the first, new keys would always be.
	place  uint64
	visits int // turns that it had
}

// shareOf is what a share is of: what CloudTrail finds its records by, or one actor's
// part of that.
type shareOf struct {
	attribute, value string
	actor            uint64 // a hash; 0 but for an actor
}

// questions are those that wait.
type questions struct {
	seed   maphash.Seed
	waits  map[claim]*question
	shares map[shareOf]*share
	last   uint64 // place
	turn   int    // of the look-ups, counted
	// alone is to be looked up next by its id: a look-up for many did not get to it.
	alone *question
}

func newQuestions() *questions {
	return &questions{seed: maphash.MakeSeed(), waits: map[claim]*question{}, shares: map[shareOf]*share{}}
}

// ask notes a question and reports whether it is new. now is the time here, and trail
// that of AWS.
func (qs *questions) ask(q Question, now, trail time.Time) bool {
	c := claim{id: q.EventID, name: q.Name, resource: q.Resource, actor: maphash.String(qs.seed, q.Actor)}
	if len(c.name) > longestName || strings.ContainsFunc(c.name, func(r rune) bool {
		return (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (r < '0' || r > '9')
	}) {
		c.name = ""
	}
	if len(c.resource) > longestResource || !strings.HasPrefix(c.resource, "arn:") || strings.ContainsFunc(c.resource, func(r rune) bool { return r <= ' ' || r > '~' }) {
		c.resource = ""
	}
	// A time that cannot be asked for would make a look-up for many fail.
	c.at = min(max(q.Time.Unix(), trail.Add(-reach).Unix()), trail.Add(ahead).Unix())
	if known := qs.waits[c]; known != nil {
		known.asked = now
		return false
	}
	if len(qs.waits) == maxQuestions {
		for _, any := range qs.waits { // which nobody can foresee, and which is asked again
			qs.forget(any)
			break
		}
	}
	// The texts may be part of a message of a megabyte, which must not stay for them.
	c.id, c.name, c.resource = strings.Clone(c.id), strings.Clone(c.name), strings.Clone(c.resource)
	of := c.of()
	qs.waits[c] = &question{claim: c, asked: now, due: now, byName: qs.join(of[0]), byKey: qs.join(of[1]), byActor: qs.join(of[2])}
	return true
}

// of returns the shares that a question is part of: its name, its key, the key's actor.
func (c claim) of() [3]shareOf {
	return [3]shareOf{{"EventName", c.name, 0}, {"ResourceName", c.resource, 0}, {"ResourceName", c.resource, c.actor | 1}}
}

// join counts one more question of a share.
func (qs *questions) join(of shareOf) *share {
	s := qs.shares[of]
	if s == nil {
		s = &share{shareOf: of}
		qs.shares[of] = s
		qs.toTheEnd(s)
	}
	s.questions++
	return s
}

// forget drops a question.
func (qs *questions) forget(q *question) {
	if qs.waits[q.claim] != q {
		return
	}
	delete(qs.waits, q.claim)
	for _, s := range []*share{q.byName, q.byKey, q.byActor} {
		if s.questions--; s.questions == 0 {
			delete(qs.shares, s.shareOf)
		}
	}
}

// wait forgets what nobody asks any more, and returns how long it is until a question is
// due; false where there is none.
func (qs *questions) wait(now time.Time) (wait time.Duration, any bool) {
	for _, q := range qs.waits {
		if now.Sub(q.asked) >= forgotten {
			qs.forget(q)
			continue
		}
		if left := q.due.Sub(now); !any || left < wait {
			wait, any = left, true
		}
	}
	return wait, any
}

// next returns the look-up whose turn it is; false if no question is due.
//
// Names and keys have their turns, and of each who has waited longest. A name is always
// asked about all of its questions at once, and a key every other time that several are
// due: the times in between it is asked about one of the actor who has waited longest.
func (qs *questions) next(now time.Time) (lookup, bool) {
	qs.turn++
	if q := qs.alone; q != nil {
		qs.alone = nil
		if qs.waits[q.claim] == q {
			return byID(q), true
		}
	}
	var due, named []*question
	for _, q := range qs.waits {
		if !q.due.After(now) {
			due = append(due, q)
			if q.name != "" {
				named = append(named, q)
			}
		}
	}
	if len(due) == 0 {
		return lookup{}, false
	}
	if len(named) > 0 && qs.turn%turns < nameTurns {
		return qs.lot(longestWaiting(named, byName), byName), true
	}
	due = longestWaiting(due, byKey)
	if key := due[0].byKey; key.value != "" && len(due) > 1 && key.visits%2 == 0 {
		return qs.lot(due, byKey), true
	}
	q := slices.MinFunc(longestWaiting(due, byActor), leastLooked)
	qs.serve(q.byKey)
	qs.serve(q.byActor)
	return byID(q), true
}

func byName(q *question) *share  { return q.byName }
func byKey(q *question) *share   { return q.byKey }
func byActor(q *question) *share { return q.byActor }

// serve notes that a share has its turn.
func (qs *questions) serve(s *share) {
	s.visits++
	qs.toTheEnd(s)
}

func (qs *questions) toTheEnd(s *share) {
	qs.last++
	s.place = qs.last
}

// longestWaiting returns the questions of the share that has waited longest for its turn.
func longestWaiting(due []*question, of func(*question) *share) (first []*question) {
	s := of(slices.MinFunc(due, func(a, b *question) int { return cmp.Compare(of(a).place, of(b).place) }))
	for _, q := range due {
		if of(q) == s {
			first = append(first, q)
		}
	}
	return first
}

// lot returns the look-up for the newest question of a share that is due, and for all
// others of the share that are older: the answer has the newest records, as many as fit.
// What it does not reach is the newest that is due the next time, while the others pause.
func (qs *questions) lot(due []*question, of func(*question) *share) lookup {
	first := slices.MinFunc(due, newest)
	s := of(first)
	qs.serve(s)
	l := lookup{attribute: s.attribute, value: s.value, from: first.at, to: first.at, first: first}
	for _, q := range qs.waits {
		if of(q) == s && q.at <= l.to {
			l.all, l.from = append(l.all, q), min(l.from, q.at)
		}
	}
	if len(l.all) == 1 {
		return byID(first)
	}
	return l
}

func newest(a, b *question) int { return cmp.Compare(b.at, a.at) }

func leastLooked(a, b *question) int { return cmp.Or(cmp.Compare(a.looked, b.looked), newest(a, b)) }

// found drops the questions about ids that were found, and returns which of those were asked.
func (qs *questions) found(ids map[string]string) (asked []string) {
	for _, q := range qs.waits {
		if _, ok := ids[q.id]; ok {
			qs.forget(q)
			asked = append(asked, q.id)
		}
	}
	return asked
}

// notFound notes that CloudTrail does not have a question's record, and when to ask again.
// trail is the time of AWS.
func (q *question) notFound(now, trail time.Time) {
	q.looked++
	q.due = now.Add(pause(q.looked, trail.Sub(time.Unix(q.at, 0))))
}

// pause is how long to wait after the n-th look-up without success for a record of this
// age. A record that is not there long after the call is not late, but was never made.
func pause(n int, age time.Duration) time.Duration {
	p := time.Minute
	if n <= 2 {
		p = time.Duration(n) * 15 * time.Second
	}
	if age > late {
		p = max(p, age/10)
	}
	return p
}
