package reaction

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/crowd"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

// all are the events that a worker has in hand.
const all = "all"

// enter begins to handle the case's event, until leave is called, unless it has to wait for
// others: see docs/decisions/crowds.md. A key's events are a quarter of the slots at most,
// and an actor's on a key half of that, so that another actor's event on the same key finds
// room. An actor's are a quarter, too, but only while half of the slots are taken: what one
// pipeline does to many keys may use the slots that nobody else needs.
func (c *Case) enter() (leave func(), err error) {
	e, slots := c.Event, c.Config.Concurrency
	about, actor := cmp.Or(e.KeyARN, e.Alias), cmp.Or(e.Actor.RoleARN, e.Actor.ARN)
	shares := []crowd.Share{{Crowd: all, Most: slots}}
	if about != "" {
		shares = append(shares, crowd.Share{Crowd: "key " + about, Most: c.crowds.Part(4)}, crowd.Share{Crowd: "key " + about + " by " + actor, Most: c.crowds.Part(8)})
	}
	if actor != "" {
		most := slots
		if c.crowds.InHand(all) >= c.crowds.Part(2) {
			most = c.crowds.Part(4)
		}
		shares = append(shares, crowd.Share{Crowd: "actor " + actor, Most: most})
	}
	return c.enterAll(shares...)
}

// enterTelling begins to tell alerts. Those that are not critical are told by a quarter of
// the slots.
func (c *Case) enterTelling(alerts, critical bool) (leave func(), err error) {
	if !alerts || critical {
		return func() {}, nil
	}
	return c.enterAll(crowd.Share{Crowd: "telling", Most: c.crowds.Part(4)})
}

// enterWriting begins to wait for a call that changes a key. What closes an open key waits
// for nobody but those few that wait already.
func (c *Case) enterWriting(operation string) (leave func(), err error) {
	if operation == PutKeyPolicy || operation == DisableKey {
		return func() {}, nil
	}
	return c.enterAll(crowd.Share{Crowd: "writing", Most: c.crowds.Part(8)})
}

// enterAll enters crowds. A sweep has one slot, and waits for nobody.
func (c *Case) enterAll(shares ...crowd.Share) (leave func(), err error) {
	if c.IsSweep() {
		return func() {}, nil
	}
	return c.crowds.Enter(shares...)
}

// shards are the parts of sweeps that a worker has in hand.
const shards = "shards"

// EnterShard begins a part of a sweep, until leave is called. Those take a quarter of the
// slots at most, and none while events take the others.
func (e *Env) EnterShard() (leave func(), err error) {
	if e.EventsWait() {
		return nil, outcome.RetryAfter(shardPause, errors.New("events take up all slots but those of sweeps"))
	}
	return e.crowds.Enter(crowd.Share{Crowd: shards, Most: e.crowds.Part(4)})
}

// shardPause is how long a part of a sweep waits for events.
const shardPause = 10 * time.Second

// EventsWait reports whether events may wait in the queue for a slot: they take up all that
// parts of sweeps leave them.
func (e *Env) EventsWait() bool {
	return e.Config.Concurrency > 0 && e.crowds.InHand(all) >= max(1, e.Config.Concurrency-e.crowds.InHand(shards))
}

// settle calls decide, and stores the documents that it changed. Where another case or
// another worker has stored one of them since it was read, decide is called again on that.
func (c *Case) settle(ctx context.Context, decide func() error) error {
	if err := decide(); err != nil {
		return err
	}
	again, unlock, err := c.lock(ctx)
	defer unlock()
	if err != nil {
		return err
	}
	return state.Retry(ctx, func() error {
		if again {
			if err := decide(); err != nil {
				return err
			}
		}
		again = true
		return c.store(ctx)
	}, c)
}

// draft is what lock needs of a document's draft.
type draft interface {
	Changed() bool
	Lock(ctx context.Context) (renewed bool, unlock func(), err error)
}

// lock waits for the turn of the documents that deciding has changed, in this process;
// one that stays as it is waits for nobody. renewed: somebody has stored one of them since.
func (c *Case) lock(ctx context.Context) (renewed bool, unlock func(), err error) {
	var drafts []draft // in this order always
	if c.ledger.value != nil {
		drafts = append(drafts, c.ledger.value)
	}
	if c.alias.value != nil {
		drafts = append(drafts, c.alias.value)
	}
	if c.bucket.value != nil {
		drafts = append(drafts, c.bucket.value)
	}
	if c.own.value != nil {
		drafts = append(drafts, c.own.value)
	}
	var unlocks []func()
	unlock = func() {
		for _, u := range unlocks {
			u()
		}
	}
	for _, d := range drafts {
		if !d.Changed() {
			continue
		}
		one, done, err := d.Lock(ctx)
		unlocks = append(unlocks, done)
		if renewed = renewed || one; err != nil {
			return renewed, unlock, err
		}
	}
	return renewed, unlock, nil
}
