package handlers

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/state"
)

// Snapshot reads all aliases and notes those that are new to us, so that a later
// move of them has an old key. It never replaces a newer fact: an alias that
// points elsewhere than what is known is left to its event or to the sweep. It
// reads one document per alias, and is needed once before the first event.
func (r *Router) Snapshot(ctx context.Context) error {
	if r.Config.Reencrypt == reaction.Off {
		return nil
	}
	aliases, err := r.Facts.Aliases(ctx)
	if err != nil {
		return fmt.Errorf("list aliases: %w", err)
	}
	at := ledger.Now()
	return reaction.Each(ctx, aliases, func(ctx context.Context, live inventory.Alias) error {
		if live.AWSManaged || live.TargetKeyARN == "" {
			return nil
		}
		err := state.Update(ctx, r.State, ledger.AliasName(live.Name), func(doc *ledger.Alias, _ bool) error {
			doc.Reconcile(live.ARN, live.TargetKeyARN, live.Updated, at)
			return nil
		})
		if errors.Is(err, state.ErrUnreadable) { // the sweep tells
			r.Logger.WarnContext(ctx, "the history of an alias cannot be read", "error", err)
			return nil
		}
		return err
	})
}

// Sweep reconciles everything that events may have missed: rotation, state and
// policy of every key, every alias, what buckets encrypt with, and unfinished work.
// What cannot be done is in the error, key by key; the rest is done all the same. A stored
// document that cannot be read is no error, since another sweep would find it again: it is
// left out and told. It is all done here, by this worker.
func (r *Router) Sweep(ctx context.Context) error {
	start := ledger.Now()
	s := r.newSweep(ledger.RunName(start, rand.Text()), start)
	ctx = s.paced(ctx, paceOfAll)
	keys, aliases, err := s.list(ctx)
	return s.alone(ctx, keys, aliases, err)
}

// sweepAsked has the fleet sweep for somebody who asked at that time, unless it has.
func (r *Router) sweepAsked(ctx context.Context, asked func(now time.Time) time.Time) error {
	_, err := r.sweepOnce(ctx, asked)
	return err
}

// sweep is one sweep, or a part of it. Its parts share what is read of the account.
type sweep struct {
	*Router
	run        string
	start      time.Time // the sweep's, also in a part of it
	whole      *reaction.Case
	unreadable *unreadable
	totals     *tally
	// rolling: grants and tags are read with the rest of a key. Where there are many keys,
	// they are read at another pace.
	rolling bool
	// resumes: the part may have been begun before, and left.
	resumes bool
	// leave reports that the part is to be left for others; nil: never.
	leave func() bool
}

// newSweep is a sweep that began then.
func (r *Router) newSweep(run string, start time.Time) sweep {
	return sweep{Router: r, run: run, start: start, whole: r.NewCase(r.SweepEvent("sweep", start)), unreadable: &unreadable{}, totals: &tally{}}
}

// rolledAtOnce is of how many keys grants and tags are read with the rest. Those of more
// keys are read after the rest of all, which need not wait for them.
const rolledAtOnce = 100

// alone looks at everything that was listed, and ends the sweep. failed is what could not
// be listed.
func (s sweep) alone(ctx context.Context, keys []ledger.ShardKey, aliases []ledger.ShardAlias, failed error) error {
	ctx = s.paced(ctx, paceOfAll)
	shards := ledger.Shards(len(keys), s.Config.SweepShard)
	s.rolling = len(keys) <= rolledAtOnce
	for n, shard := range cut(keys, aliases, shards) {
		failed = errors.Join(failed, s.shard(ctx, shard, n, shards))
	}
	failed = errors.Join(failed, s.buckets(ctx))
	if !s.rolling {
		s.rolling = true
		for n := range shards {
			failed = errors.Join(failed, s.unreadable.skip(s.rollShard(ctx, n, shards)))
		}
	}
	return s.end(ctx, failed, ledger.SweepTotals{}, 1)
}

// end does what is done once, when everything was looked at, and records the sweep. failed
// is what was not done until here, and before what others came to.
func (s sweep) end(ctx context.Context, failed error, before ledger.SweepTotals, shards int) error {
	err := errors.Join(
		failed,
		s.account(ctx),
		s.meet(ctx),
		s.resumeMoves(ctx),
		s.unreadable.skip(s.sendCanary(ctx)),
		s.unreadable.skip(s.checkGuard(ctx)),
		s.tellExpiring(ctx),
		s.resumeAlerts(ctx),
	)
	s.unreadable.found = append(s.unreadable.found, before.Unreadable...)
	err = errors.Join(err, s.tellUnreadable(ctx))
	before.Add(s.sum())
	s.record(ctx, err, before, shards)
	if s.Swept != nil {
		s.Swept()
	}
	return err
}

// unreadable collects what the stored documents say that cannot be read.
type unreadable struct {
	mu    sync.Mutex
	found []string
}

// skip returns what the sweep is to return of an error: nil where a document cannot be
// read.
func (u *unreadable) skip(err error) error {
	if !errors.Is(err, state.ErrUnreadable) {
		return err
	}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		var errs []error
		for _, err := range joined.Unwrap() {
			errs = append(errs, u.skip(err))
		}
		return errors.Join(errs...)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.found = append(u.found, err.Error())
	return nil
}

// each is reaction.Each, without what cannot be read.
func each[T any](ctx context.Context, s sweep, items []T, do func(context.Context, T) error) error {
	return reaction.Each(ctx, items, func(ctx context.Context, item T) error { return s.unreadable.skip(do(ctx, item)) })
}

// tellUnreadable tells of the documents that cannot be read, the same ones once while
// they are there.
func (s sweep) tellUnreadable(ctx context.Context) error {
	found := s.unreadable.found
	if len(found) == 0 {
		return nil
	}
	slices.Sort(found)
	s.Logger.WarnContext(ctx, "stored documents cannot be read and were left out", "documents", len(found), "first", found[0])
	a := s.guardAlert(fmt.Sprintf("unreadable/%x", sha256.Sum256([]byte(strings.Join(found, "\n")))), finding.High)
	a.Ongoing = true
	a.Title = fmt.Sprintf("cmkeeper cannot read documents in its state bucket (%d)", len(found))
	a.Summary = "The sweep left out what they are about. Everything else was checked."
	a.Risk = "What cmkeeper knew of a key, alias, bucket or job is not used, and changes to it may not be noticed."
	a.Action.Description = "cmkeeper does not change documents that it cannot read."
	a.Next = []string{
		"If a newer version of cmkeeper is being rolled out, finish that: its documents are read by its workers.",
		"If not, find out who wrote the objects below, and restore their former versions in the state bucket.",
	}
	a.Facts = []alert.Fact{{Name: "documents", Values: found[:min(len(found), 50)]}}
	return s.Publish(ctx, a)
}

// aliasCase sweeps one alias.
func (s sweep) aliasCase(ctx context.Context, c *reaction.Case, live inventory.Alias) error {
	return s.React(ctx, c, reaction.Reaction{Name: "alias " + live.Name, Decide: sweptAlias(live)})
}

// isGuarded reports whether a key is none of AWS's own.
func isGuarded(key inventory.Key) bool { return key.Manager == managerCustomer }

// key sweeps one key: it goes the way that an event goes, with the reactions that need
// none to have happened.
func (s sweep) key(ctx context.Context, c *reaction.Case) error {
	key, err := c.Key(ctx)
	switch {
	case err != nil:
		unread := func(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) { return c.Unread(ctx, err) }
		return s.React(ctx, c, reaction.Reaction{Name: "unread", Decide: unread})
	case !isGuarded(key):
		return nil
	}
	reactions := []reaction.Reaction{{Name: "notes", Decide: noteKey}}
	if s.rolling {
		reactions = append(reactions, reaction.Reaction{Name: "tags", Decide: noteTags})
	}
	add := func(mode reaction.Mode, name string, decide decider) {
		if mode != reaction.Off {
			reactions = append(reactions, reaction.Reaction{Name: name, Decide: decide})
		}
	}
	add(s.Config.Policy, ledger.ReactionPolicy, policy)
	add(s.Config.Deletion, ledger.ReactionDeletion, deletion)
	add(s.Config.Deletion, "reminder", reminder)
	add(s.Config.Rotation, ledger.ReactionRotation, rotation)
	if s.rolling {
		add(s.Config.Contain, ledger.ReactionContain, noteExposures)
	}
	add(reaction.Enforce, "untold", untold)
	add(reaction.Enforce, "role", s.roleOn)
	add(reaction.Enforce, "standing", standsSwept(s.rolling))
	return s.React(ctx, c, reactions...)
}

// noteKey notes a key and its aliases as a sweep reads them.
func noteKey(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	key, err := c.Key(ctx)
	if err != nil {
		return nil, err
	}
	aliases, err := c.KeyAliases(ctx)
	if err != nil {
		return nil, err
	}
	doc, err := c.Ledger(ctx)
	if err != nil {
		return nil, err
	}
	c.See(doc, key)
	doc.Aliases = reaction.AliasNames(aliases)
	return nil, nil
}

// noteTags notes a key's tags as a sweep reads them.
func noteTags(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	key, err := c.Key(ctx)
	if err != nil {
		return nil, err
	}
	doc, err := c.Ledger(ctx)
	if err != nil {
		return nil, err
	}
	return sweptTags(ctx, c, doc, key.Created)
}

// buckets judges the buckets. One that may not be read is left out: nothing is known of
// it, and nothing is claimed.
func (s sweep) buckets(ctx context.Context) error {
	buckets, err := s.whole.Buckets(ctx)
	if err != nil {
		s.Logger.InfoContext(ctx, "some buckets cannot be read, so changes of their encryption may be missed", "error", err)
		s.totals.add(func(t *ledger.SweepTotals) { t.NoteUnread("buckets", err) })
	}
	s.totals.add(func(t *ledger.SweepTotals) { t.Buckets += len(buckets) })
	return each(ctx, s, buckets, func(ctx context.Context, b inventory.Bucket) error {
		c := s.whole.Part(s.SweepEvent("sweep/bucket/"+b.Name, s.start))
		err := s.React(ctx, c, reaction.Reaction{Name: "bucket " + b.Name, Decide: sweptBucket(b)})
		s.count(c)
		return err
	})
}

func (s sweep) resumeMoves(ctx context.Context) error {
	if s.Config.Reencrypt != reaction.Enforce {
		return nil
	}
	if err := s.unreadable.skip(s.Moves.Resume(ctx, s.start)); err != nil {
		return fmt.Errorf("resume re-encryptions: %w", err)
	}
	return nil
}

func (s sweep) resumeAlerts(ctx context.Context) error {
	if s.Digests == nil {
		return nil
	}
	if err := s.unreadable.skip(s.Digests.Resume(ctx)); err != nil {
		return fmt.Errorf("resume alerts: %w", err)
	}
	return nil
}

// guardAlert is what the alerts of a sweep about cmkeeper itself have in common.
func (s sweep) guardAlert(id string, severity finding.Severity) alert.Alert {
	return alert.Alert{
		ID: id, Kind: alert.KindGuard, Severity: severity, EventName: reaction.SweepName, Time: s.start,
		Account: s.Config.Identity.Account, Region: s.Config.Region, Action: alert.Action{Status: alert.StatusNone},
	}
}

// expiryNotice is how many days before its end an exemption is alerted.
const expiryNotice = 14

// tellExpiring alerts, once each, about the exemptions that are about to expire and
// those that have.
func (s sweep) tellExpiring(ctx context.Context) error {
	var errs []error
	for _, x := range s.Config.Exemptions {
		left := x.DaysLeft(s.start)
		if left > expiryNotice {
			continue
		}
		a := s.guardAlert("", finding.Medium)
		a.Title = fmt.Sprintf("An exemption expires on %s: %s", x.Until(), x.Covers())
		a.Summary = fmt.Sprintf("Its reason: %s. It is valid until the end of %s.", x.Reason, x.Until())
		a.Risk = "After that day, cmkeeper alerts on what it covers at full severity, and restores it in mode enforce."
		a.Action.Description = "cmkeeper does not change exemptions; they are part of its configuration (CMKEEPER_EXEMPTIONS)."
		a.Next = []string{"Decide whether it is still needed. If so, give it a later date in CMKEEPER_EXEMPTIONS; if not, fix what it covers, and remove it.", "cmkeeper exemptions list"}
		a.Facts = []alert.Fact{{Name: "exemption", Values: []string{x.String()}}}
		state := "expires"
		if left < 0 {
			state = "expired"
			a.Title = fmt.Sprintf("An exemption expired on %s: %s", x.Until(), x.Covers())
			a.Summary = fmt.Sprintf("Its reason was: %s. It is no longer valid.", x.Reason)
			a.Risk = "cmkeeper now alerts on what it covered at full severity, and restores it in mode enforce."
		}
		a.ID = fmt.Sprintf("exemption/%x/%s", sha256.Sum256([]byte(x.String())), state)
		errs = append(errs, s.Publish(ctx, a))
	}
	return errors.Join(errs...)
}
