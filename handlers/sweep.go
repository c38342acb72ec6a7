package handlers

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/handlers/review"
	"github.com/cmkeeper/cmkeeper/handlers/sweep"
	"github.com/cmkeeper/cmkeeper/internal/arn"
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

// Sweep reconciles everything that events may have missed: rotation, state and policy of
// every key, every alias, what buckets encrypt with, and unfinished work. It is all done
// here, by this worker. Errors are those of sweep.Fleet.Alone.
func (r *Router) Sweep(ctx context.Context) error { return r.sweeps.Alone(ctx) }

// StartupSweep is Sweep, unless the fleet's last one began a short time ago and some worker
// has received ever since. The error is an outcome.RetryAfter where another worker sweeps now, or where the sweep failed.
func (r *Router) StartupSweep(ctx context.Context) error { return r.sweeps.Startup(ctx) }

// Watch sweeps when the schedule has not asked for that for twice its interval, until ctx is
// done.
func (r *Router) Watch(ctx context.Context) { r.checks.Watch(ctx, r.sweeps.Asked) }

// look is a sweep, or a part of one, with what it looks at.
type look struct {
	*Router
	sweep.Sweep
}

// looks are what sweeps look at.
func (r *Router) looks() sweep.Looks {
	return sweep.Looks{
		Key:     func(ctx context.Context, s sweep.Sweep, c *reaction.Case) error { return look{r, s}.key(ctx, c) },
		Alias:   sweepAlias,
		Buckets: func(ctx context.Context, s sweep.Sweep) error { return look{r, s}.buckets(ctx) },
		Review: func(ctx context.Context, s sweep.Sweep) error {
			return review.Keys(ctx, s, &r.left, look{r, s}.meetAccess)
		},
		End: func(ctx context.Context, s sweep.Sweep) error { return look{r, s}.end(ctx) },
		Unreadable: func(ctx context.Context, s sweep.Sweep, found []string) error {
			return look{r, s}.tellUnreadable(ctx, found)
		},
	}
}

// end does what is done once, when everything was looked at.
func (s look) end(ctx context.Context) error {
	return errors.Join(
		s.account(ctx),
		s.meet(ctx),
		s.goneAliases(ctx),
		s.resumeMoves(ctx),
		s.Skip(s.checks.SendCanary(ctx, s.Sweep)),
		s.Skip(s.checks.Check(ctx, s.Sweep)),
		s.tellExpiring(ctx),
		s.resumeAlerts(ctx),
	)
}

// tellUnreadable tells of the documents that cannot be read, the same ones once while
// they are there.
func (s look) tellUnreadable(ctx context.Context, found []string) error {
	if len(found) == 0 {
		return nil
	}
	slices.Sort(found)
	s.Logger.WarnContext(ctx, "stored documents cannot be read and were left out", "documents", len(found), "first", found[0])
	a := s.GuardAlert(fmt.Sprintf("unreadable/%x", sha256.Sum256([]byte(strings.Join(found, "\n")))), finding.High)
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

// sweepAlias sweeps one alias.
func sweepAlias(ctx context.Context, s sweep.Sweep, c *reaction.Case, live inventory.Alias) error {
	return s.React(ctx, c, reaction.Reaction{Name: "alias " + live.Name, Decide: sweptAlias(live)})
}

// goneAliases sweeps the aliases that CMKEEPER_REENCRYPT_ALIASES lists, that are known, and
// that are not there any more. Others are told where buckets name them.
func (s look) goneAliases(ctx context.Context) error {
	if s.Config.Reencrypt == reaction.Off {
		return nil
	}
	var known []string
	for _, pattern := range s.Config.ReencryptAliases {
		if pattern == "*" {
			continue
		}
		literal, _, _ := strings.Cut(pattern, "*")
		for o, err := range s.State.List(ctx, strings.TrimSuffix(ledger.AliasName(literal), ".json")) {
			if err != nil {
				return fmt.Errorf("list the aliases that are known: %w", err)
			}
			known = append(known, o.Key)
		}
	}
	if len(known) == 0 {
		return nil
	}
	live, err := s.Whole.Aliases(ctx)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, a := range live {
		there[ledger.AliasName(a.Name)] = true
	}
	slices.Sort(known)
	gone := slices.DeleteFunc(slices.Compact(known), func(document string) bool { return there[document] })
	return sweep.Each(ctx, s.Sweep, gone, s.goneAlias)
}

// goneAlias sweeps an alias that is not there any more, by the name of its document.
func (s look) goneAlias(ctx context.Context, document string) error {
	var known ledger.Alias
	if _, err := s.State.Get(ctx, document, &known); err != nil {
		if errors.Is(err, state.ErrNotFound) {
			err = nil
		}
		return err
	}
	name := arn.Parse(known.ARN).Resource
	newest, ok := known.Newest()
	if !ok || newest.Deleted && known.Candidate == nil || ledger.AliasName(name) != document || !listedByName(s.Config, name) {
		return nil
	}
	e := s.SweepEvent("sweep/"+name, s.Start)
	e.Alias, e.KeyARN = name, newest.KeyARN
	c := s.Whole.Part(e)
	err := s.React(ctx, c, reaction.Reaction{Name: "alias " + name, Decide: sweptGone})
	s.Count(c)
	return err
}

// key sweeps one key: it goes the way that an event goes, with the reactions that need
// none to have happened.
func (s look) key(ctx context.Context, c *reaction.Case) error {
	key, err := c.Key(ctx)
	switch {
	case err != nil:
		unread := func(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) { return c.Unread(ctx, err) }
		return s.React(ctx, c, reaction.Reaction{Name: "unread", Decide: unread})
	case !key.Guarded():
		return nil
	}
	if s.Config.Rotation != reaction.Off && s.Config.Posture.AsksLastRotation(key, c.At) {
		if _, err := c.LastRotation(ctx); err != nil {
			s.Note(func(t *ledger.SweepTotals) { t.NoteUnread("last rotation of key "+key.ID, err) })
		}
	}
	reactions := []reaction.Reaction{{Name: "notes", Decide: noteKey}}
	if s.Rolling {
		reactions = append(reactions, reaction.Reaction{Name: "tags", Decide: noteTags})
	}
	add := func(mode reaction.Mode, name string, decide decider) {
		if mode != reaction.Off {
			reactions = append(reactions, reaction.Reaction{Name: name, Mode: mode, Decide: decide})
		}
	}
	add(s.Config.Policy, ledger.ReactionPolicy, policy)
	add(s.Config.Deletion, ledger.ReactionDeletion, deletion)
	add(s.Config.Deletion, "reminder", reminder)
	add(s.Config.Rotation, ledger.ReactionRotation, rotation)
	if s.Rolling {
		add(s.Config.Contain, ledger.ReactionContain, noteExposures)
	}
	add(reaction.Enforce, "untold", untold)
	add(reaction.Enforce, "role", s.checks.RoleOn)
	add(reaction.Enforce, "standing", standsSwept(s.Rolling))
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
func (s look) buckets(ctx context.Context) error {
	buckets, err := s.Whole.Buckets(ctx)
	if err != nil {
		s.Logger.InfoContext(ctx, "some buckets cannot be read, so changes of their encryption may be missed", "error", err)
		s.Note(func(t *ledger.SweepTotals) { t.NoteUnread("buckets", err) })
	}
	s.Note(func(t *ledger.SweepTotals) { t.Buckets += len(buckets) })
	return sweep.Each(ctx, s.Sweep, buckets, func(ctx context.Context, b inventory.Bucket) error {
		c := s.Whole.Part(s.SweepEvent("sweep/bucket/"+b.Name, s.Start))
		err := s.React(ctx, c, reaction.Reaction{Name: "bucket " + b.Name, Decide: sweptBucket(b)})
		s.Count(c)
		return err
	})
}

func (s look) resumeMoves(ctx context.Context) error {
	if s.Config.Reencrypt != reaction.Enforce {
		return nil
	}
	if err := s.Skip(s.Moves.Resume(ctx, s.Start)); err != nil {
		return fmt.Errorf("resume re-encryptions: %w", err)
	}
	return nil
}

func (s look) resumeAlerts(ctx context.Context) error {
	if s.Digests == nil {
		return nil
	}
	if err := s.Skip(s.Digests.Resume(ctx)); err != nil {
		return fmt.Errorf("resume alerts: %w", err)
	}
	return nil
}

// expiryNotice is how many days before its end an exemption is alerted.
const expiryNotice = 14

// tellExpiring alerts, once each, about the exemptions that are about to expire and
// those that have.
func (s look) tellExpiring(ctx context.Context) error {
	var errs []error
	for _, x := range s.Config.Exemptions {
		left := x.DaysLeft(s.Start)
		if left > expiryNotice {
			continue
		}
		a := s.GuardAlert("", finding.Medium)
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
