// Package review reviews once a day who may use the account's keys, by its IAM, and tells of
// new ways to come to them: roles that somebody outside may assume, and principals that can
// give themselves a key. See docs/decisions/access-review.md.
package review

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/access"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/handlers/sweep"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

const (
	// reviewedAtOnce is after how many keys a review notes how far it is, and lets others have
	// its place.
	reviewedAtOnce = 50
	// iamTimeout bounds how long IAM is read: a page of 1,000 takes seconds, and an endpoint
	// that the network does not let through takes for ever.
	iamTimeout = 3 * time.Minute
	// reviewAgain is how long a review waits that was left to events.
	reviewAgain = 10 * time.Second
)

// errReviewLost says that another worker is at a review by now.
var errReviewLost = errors.New("another worker reviews who may use the keys by now")

// Left is what a worker that left a review keeps of it, so that it need not read IAM
// again when it goes on: the review that began then, and when IAM was read. The zero value
// is nothing. It is safe for concurrent use.
type Left struct {
	mu     sync.Mutex
	begun  time.Time
	access *access.Review
	read   time.Time
}

// take returns what is kept of the review that began then, nil for nothing, and keeps it no
// more.
func (l *Left) take(begun time.Time) (of *access.Review, read time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.begun.Equal(begun) {
		of, read = l.access, l.read
	}
	l.access = nil
	return of, read
}

func (l *Left) keep(begun time.Time, of *access.Review, read time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun, l.access, l.read = begun, of, read
}

// review is a review of who may use the account's keys. It reads IAM once, then key by key
// what is to be known of that, and keeps of each key what it found and no more.
type review struct {
	sweep.Sweep
	// by names the worker that is at it, and doc is the stored document as it was taken.
	by      string
	doc     ledger.AccessReview
	read    time.Time // when IAM was
	aliases map[string][]inventory.Alias
	// known are the documents of keys that former reviews found something of.
	known map[string]bool

	mu     sync.Mutex // of what follows: an access.Review is not safe for concurrent use
	access *access.Review
	since  ledger.AccessReviewed
}

// Keys reviews who may use the keys, once a day. At the end of the first review it calls
// meet, which tells what that found in all documents of [ledger.AccessDocuments]. An
// outcome.RetryAfter says that it was left to others before it was done; left keeps what is
// to be known then.
func Keys(ctx context.Context, s sweep.Sweep, left *Left, meet func(context.Context) error) error {
	if !s.Config.AccessReview || s.IAM == nil {
		return nil
	}
	r := &review{Sweep: s, by: rand.Text(), known: map[string]bool{}, aliases: map[string][]inventory.Alias{}}
	mine, err := r.take(ctx)
	if err != nil || !mine {
		return err
	}
	if r.access, r.read = left.take(r.doc.Begun); r.access == nil {
		if err := r.readIAM(ctx); err != nil || r.access == nil {
			return err
		}
	}
	switch err := r.keys(ctx); {
	case errors.Is(err, errReviewLost):
		return nil
	case err != nil:
		left.keep(r.doc.Begun, r.access, r.read)
		return errors.Join(err, r.leave(ctx, false))
	}
	return r.end(ctx, meet)
}

// readIAM reads the account's IAM. Where it cannot be read, people are told, there is no
// access.Review then, and the next sweep tries again.
func (r *review) readIAM(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, iamTimeout)
	defer cancel()
	account, err := access.Read(bounded, r.IAM, r.Config.Identity.Account)
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), r.leave(ctx, false))
	}
	if told := r.tellIAM(ctx, err); err != nil || told != nil {
		r.Note(func(t *ledger.SweepTotals) { t.NoteUnread("who may use keys", errors.Join(err, told)) })
		return errors.Join(told, r.leave(ctx, true))
	}
	r.read = ledger.Now()
	r.access = access.New(account, access.Context{TrustedAccounts: r.Config.Posture.TrustedAccounts, TrustedOrgs: r.Config.Posture.TrustedOrgs, Now: r.read})
	return nil
}

// take takes the review, if it is due and no other worker is at it.
func (r *review) take(ctx context.Context) (mine bool, err error) {
	err = r.update(ctx, func(doc *ledger.AccessReview, now time.Time) bool {
		mine = doc.Take(r.by, now)
		r.doc = *doc
		return mine
	})
	return mine, err
}

// leave leaves the review to the worker that takes it next; again: from its beginning.
func (r *review) leave(ctx context.Context, again bool) error {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return r.update(bounded, func(doc *ledger.AccessReview, _ time.Time) bool {
		doc.Leave(r.by, again)
		return true
	})
}

// update changes the document of the reviews, unless change returns false.
func (r *review) update(ctx context.Context, change func(*ledger.AccessReview, time.Time) bool) error {
	err := state.Update(ctx, r.State, ledger.AccessReviewName, func(doc *ledger.AccessReview, _ bool) error {
		if !change(doc, ledger.Now()) {
			return state.ErrUnchanged
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("note how far the access review is: %w", err)
	}
	return nil
}

// keys reviews all keys that this review has not, in the order of their ARNs.
func (r *review) keys(ctx context.Context) error {
	arns, err := r.Facts.Keys(ctx)
	if err != nil {
		return fmt.Errorf("list keys: %w", err)
	}
	aliases, err := r.Whole.Aliases(ctx)
	if err != nil {
		return err
	}
	for _, a := range aliases {
		r.aliases[a.TargetKeyARN] = append(r.aliases[a.TargetKeyARN], a)
	}
	for name, err := range r.State.Keys(ctx, ledger.AccessDocuments) {
		if err != nil {
			return fmt.Errorf("list what access reviews found: %w", err)
		}
		r.known[name] = true
	}
	slices.Sort(arns)
	first, done := slices.BinarySearch(arns, r.doc.Next)
	if done {
		first++
	}
	for chunk := range slices.Chunk(arns[first:], reviewedAtOnce) {
		if r.Leave() {
			return outcome.RetryAfter(reviewAgain, errors.New("who may use the keys is reviewed later: events need the worker"))
		}
		if err := sweep.Each(ctx, r.Sweep, chunk, r.key); err != nil {
			return err
		}
		mine, since := false, r.since
		r.since = ledger.AccessReviewed{}
		err := r.update(ctx, func(doc *ledger.AccessReview, now time.Time) bool {
			mine = doc.Renew(r.by, chunk[len(chunk)-1], since, now)
			return mine
		})
		switch {
		case err != nil:
			return err
		case !mine:
			return errReviewLost
		}
	}
	return nil
}

// facts are those of a case, each read once.
type facts struct{ *reaction.Case }

func (f facts) Key(ctx context.Context, _ string) (inventory.Key, error) { return f.Case.Key(ctx) }
func (f facts) Policy(ctx context.Context, _ string) (string, error)     { return f.Case.Policy(ctx) }
func (f facts) Grants(ctx context.Context, _ string) ([]inventory.Grant, error) {
	return f.Case.Grants(ctx)
}
func (f facts) Tags(ctx context.Context, _ string) (map[string]string, error) {
	return f.Case.Tags(ctx)
}
func (f facts) AliasesOf(ctx context.Context, _ string) ([]inventory.Alias, error) {
	return f.KeyAliases(ctx)
}

// key reviews a key.
func (r *review) key(ctx context.Context, keyARN string) error {
	e := r.SweepEvent("sweep/access/"+arn.KeyID(keyARN), r.Start)
	e.KeyARN = keyARN
	c := r.Whole.Part(e)
	c.SetKeyAliases(r.aliases[keyARN])
	if key, err := c.Key(ctx); err == nil && !key.Guarded() || errors.Is(err, inventory.ErrNotFound) {
		return nil
	}
	k, unread, err := access.ReadKey(ctx, facts{c}, keyARN)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var found []finding.Finding
	if err == nil {
		found, err = r.judge(k)
	}
	if err == nil && len(unread) > 0 {
		err = errors.New(strings.Join(unread, "; "))
	}
	r.count(c, err)
	if len(found) == 0 && !r.known[ledger.AccessName(keyARN)] {
		return nil
	}
	w := accessWatch{found: byKind(found), whole: err == nil, first: r.doc.At.IsZero(), read: r.read}
	err = r.React(ctx, c, reaction.Reaction{Name: "access", Decide: w.decide})
	r.Count(c)
	return err
}

// count counts a key that was reviewed, or could not be, whole.
func (r *review) count(c *reaction.Case, err error) {
	id := arn.KeyID(c.Event.KeyARN)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.since.Keys++
		return
	}
	r.since.Unreviewed = append(r.since.Unreviewed, id)
	r.Note(func(t *ledger.SweepTotals) { t.NoteUnread("who may use key "+id, err) })
}

// judge returns the findings about a key that are told, the worst first. With an error there
// may be others.
func (r *review) judge(k access.Key) ([]finding.Finding, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	holders, err := r.access.Holders(k)
	if err != nil {
		return nil, err
	}
	found, err := r.access.Findings(k, holders)
	if unread := r.access.Unread(holders); err == nil && len(unread) > 0 {
		err = errors.New(strings.Join(unread[:min(len(unread), 3)], "; "))
	}
	return slices.DeleteFunc(found, func(f finding.Finding) bool { return !f.Severity.AtLeast(finding.High) }), err
}

// end ends a review of all keys. The first one tells in one alert what it found.
func (r *review) end(ctx context.Context, meet func(context.Context) error) error {
	if r.doc.At.IsZero() {
		if err := meet(ctx); err != nil {
			return errors.Join(err, r.leave(ctx, false))
		}
	}
	var policies []ledger.AccessPolicy
	found := r.access.AllKeys(r.Config.Region)
	for _, f := range found[:min(len(found), ledger.MostPolicies)] {
		policies = append(policies, ledger.AccessPolicy{Severity: f.Severity, Message: f.Message})
	}
	err := r.update(ctx, func(doc *ledger.AccessReview, _ time.Time) bool {
		doc.Done(r.by, policies, len(found))
		return true
	})
	if err == nil {
		r.Logger.InfoContext(ctx, "it was reviewed who may use the keys", "policies_about_every_key", len(found))
	}
	return err
}
