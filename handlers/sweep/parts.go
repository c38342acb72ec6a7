package sweep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/state"
)

// errLeft says that a part of a sweep was left for others before it was done.
var errLeft = errors.New("events need the worker")

// list lists keys and aliases, with the ETags of their documents. What cannot be listed is
// in the error. Without the ETags no key is taken to be unchanged.
func (s Sweep) list(ctx context.Context) ([]ledger.ShardKey, []ledger.ShardAlias, error) {
	var errs []error
	arns, err := s.Facts.Keys(ctx)
	if err != nil {
		errs = append(errs, fmt.Errorf("list keys: %w", err))
	}
	live, err := s.Whole.Aliases(ctx)
	if err != nil {
		return nil, nil, errors.Join(append(errs, err)...) // keys are not told without their names
	}
	keys := make([]ledger.ShardKey, len(arns))
	for i, key := range arns {
		keys[i].ARN = key
	}
	var aliases []ledger.ShardAlias
	for _, a := range live {
		if !a.AWSManaged && a.TargetKeyARN != "" {
			aliases = append(aliases, ledger.ShardAlias{Name: a.Name, Target: a.TargetKeyARN, Updated: a.Updated})
		}
	}
	err = errors.Join(
		etagsOf(ctx, s, keys, func(k *ledger.ShardKey) (string, *string) { return ledger.KeyName(k.ARN), &k.Document }),
		etagsOf(ctx, s, keys, func(k *ledger.ShardKey) (string, *string) { return ledger.BaselineName(k.ARN), &k.Baseline }),
		etagsOf(ctx, s, aliases, func(a *ledger.ShardAlias) (string, *string) { return ledger.AliasName(a.Name), &a.Document }),
	)
	if err != nil {
		s.Logger.WarnContext(ctx, "stored documents cannot be listed, so all are read", "error", err)
	}
	return keys, aliases, errors.Join(errs...)
}

// etagsOf lists the documents of items, which are in one folder, and fills in their ETags.
func etagsOf[T any](ctx context.Context, s Sweep, items []T, of func(*T) (name string, etag *string)) error {
	if len(items) == 0 {
		return nil
	}
	first, _ := of(&items[0])
	folder := first[:strings.IndexByte(first, '/')+1]
	byName := make(map[string]*string, len(items))
	for i := range items {
		name, etag := of(&items[i])
		byName[name] = etag
	}
	for o, err := range s.State.List(ctx, folder) {
		if err != nil {
			return err
		}
		if etag := byName[o.Key]; etag != nil {
			*etag = o.ETag
		}
	}
	return nil
}

// cut divides keys, and the aliases that point to them, into so many shards.
func cut(keys []ledger.ShardKey, aliases []ledger.ShardAlias, shards int) []ledger.Shard {
	all := make([]ledger.Shard, shards)
	for _, k := range keys {
		one := &all[ledger.ShardOf(arn.KeyID(k.ARN), shards)]
		one.Keys = append(one.Keys, k)
	}
	for _, a := range aliases {
		one := &all[ledger.ShardOf(arn.KeyID(a.Target), shards)]
		one.Aliases = append(one.Aliases, a)
	}
	return all
}

// tally is what a sweep, or a part of it, has come to.
type tally struct {
	mu  sync.Mutex
	sum ledger.SweepTotals
}

func (t *tally) add(change func(*ledger.SweepTotals)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.sum)
}

// Count counts what came of a case.
func (s Sweep) Count(c *reaction.Case) {
	did := c.Did()
	s.totals.add(func(t *ledger.SweepTotals) {
		t.Repairs += did.Repairs
		for _, severity := range did.Alerts {
			ledger.Count(&t.Alerts, string(severity))
		}
	})
}

// sum is what the part came to until now.
func (s Sweep) sum() ledger.SweepTotals {
	var sum ledger.SweepTotals
	s.totals.add(func(t *ledger.SweepTotals) { sum.Add(*t) })
	s.unreadable.mu.Lock()
	defer s.unreadable.mu.Unlock()
	sum.Add(ledger.SweepTotals{Unreadable: s.unreadable.found})
	return sum
}

// part is a shard that is being looked at.
type part struct {
	Sweep
	byKey map[string][]inventory.Alias
	mu    sync.Mutex
	// known is what the last sweep left of it, and found what this one does.
	known, found *ledger.SweepFacts
}

// shard looks at the keys and aliases of a shard, the n-th of so many. A key that this
// sweep has looked at already, before the shard was left or failed, is not looked at again.
func (s Sweep) shard(ctx context.Context, work ledger.Shard, n, of int) error {
	draft, err := s.readFacts(ctx, n, of)
	p := &part{Sweep: s, byKey: map[string][]inventory.Alias{}, known: &ledger.SweepFacts{}, found: &ledger.SweepFacts{Keys: map[string]ledger.KeyFacts{}, Aliases: map[string]ledger.FactsMark{}}}
	if err == nil {
		known := *draft.Doc()
		p.known = &known
	}
	errs := []error{s.Skip(err)}
	for _, a := range work.Aliases {
		p.byKey[a.Target] = append(p.byKey[a.Target], liveOf(a))
	}
	if s.Config.Reencrypt != reaction.Off {
		errs = append(errs, Each(ctx, s, work.Aliases, p.alias))
	}
	errs = append(errs, Each(ctx, s, work.Keys, p.keyOf))
	if err == nil {
		p.save(ctx, draft, func(f *ledger.SweepFacts) { f.Keep(work) })
	}
	p.countAges(work)
	return errors.Join(errs...)
}

// readFacts opens the facts of a shard. Where the number of shards has just doubled, they
// are with those of the shard that it was a part of. Errors: state.ErrUnreadable, and that
// they cannot be read, which costs nothing but time.
func (s Sweep) readFacts(ctx context.Context, n, of int) (*state.Draft[ledger.SweepFacts, *ledger.SweepFacts], error) {
	draft, err := state.Open[ledger.SweepFacts](ctx, s.State, ledger.FactsName(n, of))
	if err != nil || draft.ETag() != "" || of == 1 {
		return draft, err
	}
	var former ledger.SweepFacts
	if _, err := s.State.Get(ctx, ledger.FactsName(n%(of/2), of/2), &former); err == nil {
		*draft.Doc() = former
	}
	return draft, nil
}

// save stores what was found, so that it is known when the next sweep, or the next try,
// comes here. Where it cannot be, that looks at everything.
func (p *part) save(ctx context.Context, draft *state.Draft[ledger.SweepFacts, *ledger.SweepFacts], keep func(*ledger.SweepFacts)) {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := draft.Update(bounded, func(f *ledger.SweepFacts) {
		f.Merge(p.found)
		keep(f)
	})
	if err != nil {
		p.Logger.WarnContext(ctx, "what a sweep has found cannot be kept, so the next one looks at all of it", "error", err)
	}
}

// countAges counts how old the readings of grants and tags are.
func (p *part) countAges(work ledger.Shard) {
	p.totals.add(func(t *ledger.SweepTotals) {
		for _, k := range work.Keys {
			if found, ok := p.found.Keys[k.ARN]; ok {
				t.NoteRolled(found.Rolled, found.At)
			}
		}
	})
}

// liveOf is the alias as KMS lists it. It is in the account and Region of its key.
func liveOf(a ledger.ShardAlias) inventory.Alias {
	name := arn.Parse(a.Target)
	name.Resource = a.Name
	return inventory.Alias{Name: a.Name, ARN: name.String(), TargetKeyARN: a.Target, TargetKeyID: arn.KeyID(a.Target), Updated: a.Updated}
}

// alias looks at an alias, unless nothing of it has changed.
func (p *part) alias(ctx context.Context, a ledger.ShardAlias) error {
	if p.Leave() {
		return errLeft
	}
	live, before := liveOf(a), p.known.Aliases[a.Name]
	p.totals.add(func(t *ledger.SweepTotals) { t.Aliases++ })
	facts := mark(p.judgedBy, live)
	if before.Settles(facts, markOfETags(a.Document, "")) {
		p.noteAlias(a.Name, before)
		return nil
	}
	e := p.SweepEvent("sweep/"+a.Name, p.Start)
	e.Alias = a.Name
	c := p.Whole.Part(e)
	err := p.looks.Alias(ctx, p.Sweep, c, live)
	p.Count(c)
	did := c.Did()
	quiet := err == nil && len(did.Alerts) == 0 && !did.Acted && !c.AliasWaits()
	p.noteAlias(a.Name, before.Looked(facts, markOfETags(c.AliasETag(a.Document), ""), quiet))
	return p.failed(err)
}

// failed counts an error.
func (p *part) failed(err error) error {
	if err != nil && !errors.Is(err, state.ErrUnreadable) {
		p.totals.add(func(t *ledger.SweepTotals) { t.NoteError(err) })
	}
	return err
}

func (p *part) noteAlias(name string, m ledger.FactsMark) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.found.Aliases[name] = m
}

// keep keeps what was found of a key.
func (p *part) keep(key string, k ledger.KeyFacts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.found.Keys[key] = k
}

// noteKey keeps what was found of a key, and counts it.
func (p *part) noteKey(key string, k ledger.KeyFacts) {
	p.keep(key, k)
	p.totals.add(func(t *ledger.SweepTotals) {
		t.Keys++
		if k.CanRotate {
			t.CanRotate++
		}
		if k.Rotates {
			t.Rotates++
		}
		if k.Counted {
			t.Add(ledger.SweepTotals{Dangers: k.Dangers, DangersOf: 1, DangersMore: k.More})
		}
	})
}

// keyOf looks at a key. What is the same as after the last look, which came to nothing, is
// not looked at further; else the key goes the way of all cases, with what was read here.
func (p *part) keyOf(ctx context.Context, k ledger.ShardKey) error {
	if p.Leave() {
		return errLeft
	}
	before := p.known.Keys[k.ARN]
	if p.resumes && !before.At.Before(p.Start) && !before.Failed {
		p.noteKey(k.ARN, before)
		return nil
	}
	c := p.caseOf(k.ARN)
	c.SetKeyAliases(p.byKey[k.ARN])
	now, theirs, facts := p.look(ctx, c, before)
	if theirs {
		p.totals.add(func(t *ledger.SweepTotals) { t.Others++ })
		return nil
	}
	if before.Settles(facts, markOfETags(k.Document, k.Baseline)) {
		now.FactsMark, now.Dangers, now.More, now.Counted = before.FactsMark, before.Dangers, before.More, before.Counted
		p.noteKey(k.ARN, now)
		return nil
	}
	p.totals.add(func(t *ledger.SweepTotals) { t.Changed++ })
	err := p.looks.Key(ctx, p.Sweep, c)
	p.Count(c)
	now.FactsMark = before.Looked(facts, markOfETags(c.KeyETags(k.Document, k.Baseline)), quietly(c, err))
	countDangers(&now, c.Opened())
	now.Failed = err != nil
	p.noteKey(k.ARN, now)
	return p.failed(err)
}

// caseOf begins the case of a key.
func (s Sweep) caseOf(key string) *reaction.Case {
	e := s.SweepEvent(fmt.Sprintf("sweep-%d/%s", s.Start.Unix(), arn.KeyID(key)), s.Start)
	e.KeyARN = key
	return s.Whole.Part(e)
}

// look reads a key's state, rotation and policy, and where it is time for them its tags
// and grants. theirs: it is a key of AWS. facts stands for all that, "" where something
// could not be read.
func (s Sweep) look(ctx context.Context, c *reaction.Case, before ledger.KeyFacts) (now ledger.KeyFacts, theirs bool, facts string) {
	now = ledger.KeyFacts{At: c.At, Rolled: before.Rolled, Grants: before.Grants, Tags: before.Tags}
	whole := true
	read := func(what string, err error) {
		if whole = whole && err == nil; err != nil && !errors.Is(err, inventory.ErrNotFound) {
			s.totals.add(func(t *ledger.SweepTotals) { t.NoteUnread(what+" of key "+arn.KeyID(c.Event.KeyARN), err) })
		}
	}
	key, err := c.Key(ctx)
	if read("state", err); err != nil {
		return now, false, ""
	}
	if !key.Guarded() {
		return now, true, ""
	}
	if key.RotationBlocker() == "" {
		rotation, err := c.Rotation(ctx)
		read("rotation", err)
		now.CanRotate, now.Rotates = err == nil, err == nil && rotation.Enabled
	}
	_, err = c.Policy(ctx)
	read("policy", err)
	facts = s.factsOf(ctx, c)
	if s.Rolling {
		at := ledger.Now()
		tags, err := c.Tags(ctx)
		read("tags", err)
		grants, grantsErr := c.Grants(ctx)
		read("grants", grantsErr)
		if err == nil && grantsErr == nil {
			now.Rolled, now.Tags, now.Grants = at, mark(tags), markOfGrants(grants)
		}
		facts = mark(facts, now.Tags, now.Grants)
	}
	if !whole {
		facts = ""
	}
	return now, false, facts
}

// factsOf stands for a key's state, rotation, policy and aliases, and for what judges them;
// "" where one of them cannot be read. It reads what the case has not.
func (s Sweep) factsOf(ctx context.Context, c *reaction.Case) string {
	key, err := c.Key(ctx)
	errs := []error{err}
	var rotation inventory.Rotation
	if err == nil && key.RotationBlocker() == "" {
		rotation, err = c.Rotation(ctx)
		rotation.Next = nil // changes with time alone
		errs = append(errs, err)
	}
	policy, err := c.Policy(ctx)
	errs = append(errs, err)
	aliases, err := c.KeyAliases(ctx)
	if errors.Join(append(errs, err)...) != nil {
		return ""
	}
	// A date in a policy is not relied on before it comes, and after it there is less to be
	// found; what an exemption covers is never quiet.
	return mark(s.judgedBy, key, s.Config.Posture.Outlived(key, c.At), rotation, policy, reaction.AliasNames(aliases))
}

// quietly reports whether a look at a key came to nothing, and nothing about the key waits
// for a time. Imported material that was replaced becomes old with time.
func quietly(c *reaction.Case, err error) bool {
	did := c.Did()
	return err == nil && len(did.Alerts) == 0 && !did.Acted && !c.Known().Waits(c.At) && c.KeyRead().MaterialExpires == nil &&
		!c.Config.Posture.AsksLastRotation(c.KeyRead(), c.At)
}

// countDangers counts what is wrong with a key by its document, nil where that is not known.
func countDangers(k *ledger.KeyFacts, doc *ledger.Key) {
	k.Dangers, k.More, k.Counted = nil, 0, doc != nil
	if doc == nil {
		return
	}
	k.More = doc.Standing.More
	for _, o := range doc.Standing.Open {
		if o.Gone.IsZero() && !o.Exempt {
			ledger.Count(&k.Dangers, string(o.Severity))
		}
	}
}

// markOfETags stands for the stored documents of a key or an alias.
func markOfETags(document, baseline string) string { return mark(document, baseline) }

// markOfGrants is the same for the same grants in another order.
func markOfGrants(grants []inventory.Grant) string {
	sorted := slices.Clone(grants)
	slices.SortFunc(sorted, func(a, b inventory.Grant) int { return strings.Compare(a.ID, b.ID) })
	return mark(sorted)
}
