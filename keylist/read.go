package keylist

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/awsconfig"
	"github.com/cmkeeper/cmkeeper/dependents"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/keypolicy"
	"github.com/cmkeeper/cmkeeper/posture"
)

// Options are what is read, and what it is judged by.
type Options struct {
	Facts *inventory.Reader
	// Share, above 0 up to 1, is the part of each of KMS's request quotas that is used at
	// most; 0 is for as fast as KMS answers.
	Share float64
	// Account and Region are those of Facts.
	Account, Region string
	Rules           posture.Rules
	Exemptions      judgement.Exemptions
	// Approved reports whether a key's pending deletion was approved; nil: none was.
	Approved func(context.Context, inventory.Key) (bool, error)

	// Resources is AWS Config, which is asked how many resources are under each key; nil: it
	// is not asked.
	Resources awsconfig.API

	// Names, if any, are the only keys: ids, ARNs or aliases.
	Names []string
	// LastUse asks when each key was used, which KMS allows 5 times a second in all, and
	// Tags for its tags.
	LastUse, Tags bool

	// Recorded returns what was recorded of keys' last uses, by ARN; nil: nothing was. It is
	// shown of keys whose last use is not read now.
	Recorded func(context.Context) (map[string]UseRecord, error)
	// Record, if not nil, is called for each key whose last use was read, one at a time.
	Record func(keyARN string, u UseRecord)

	// Seen, if not nil, is called after each key with how many were read.
	Seen func(keys int)
	// Most, if above 0, is how many keys there may be: New returns ErrTooMany for more.
	Most int

	// Bad leaves only keys that are Bad. Alias, if not "", leaves keys with an alias that
	// matches the pattern, in which "*" stands for any text. TagName, if not "", leaves
	// keys with this tag and a value that matches TagValue. Unused, if above 0, leaves
	// customer managed keys that are known not to have been used for so long.
	Bad               bool
	Alias             string
	TagName, TagValue string
	Unused            time.Duration
}

// ErrTooMany says that there are more keys than Options.Most.
var ErrTooMany = errors.New("too many keys")

// concurrency is how many keys are read at once. Options.Share is the limit that counts.
const concurrency = 64

// New reads the keys. An error means that there is no list; what cannot be read of a key
// is said there.
func New(ctx context.Context, o Options) (List, error) {
	l := List{Schema: Schema, Account: o.Account, Region: o.Region, Began: time.Now().UTC()}
	o.LastUse, o.Tags = o.LastUse || o.Unused > 0, o.Tags || o.TagName != ""
	if o.Share > 0 {
		ctx = inventory.WithPace(ctx, inventory.ShareOf(o.Share))
	}
	r := reader{Options: o, now: l.Began}
	arns, err := r.account(ctx)
	if err != nil {
		return List{}, err
	}
	if o.Most > 0 && len(arns) > o.Most {
		return List{}, fmt.Errorf("%w: %d", ErrTooMany, len(arns))
	}
	if why := r.resources.Why(); why != "" {
		l.NotKnown = append(l.NotKnown, "resources under keys, by AWS Config: "+why)
	}
	if r.bucketsUnread != "" {
		l.NotKnown = append(l.NotKnown, "buckets: "+r.bucketsUnread)
	}
	if o.Recorded != nil {
		if r.recorded, err = o.Recorded(ctx); err != nil {
			l.NotKnown = append(l.NotKnown, "last uses that were recorded: "+err.Error())
		}
	}
	l.Keys, l.Buckets = make([]Key, 0, len(arns)), r.all
	l.BucketKeys = BucketKeys{USDPerMillion: usdPerMillion, NotKnown: requestsUnread}
	for _, b := range r.all {
		if b.BucketKeyOff {
			l.BucketKeys.Off++
		}
	}
	var mu sync.Mutex
	unsure, seen := map[string][]string{}, 0
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(concurrency)
	for _, arn := range arns {
		g.Go(func() error {
			k, there := r.key(ctx, arn)
			switch {
			case !there && len(o.Names) > 0:
				return fmt.Errorf("key %s: %w", arn, inventory.ErrNotFound)
			case !there: // deleted since it was listed
				return nil
			}
			kept, lack, why := r.keeps(k)
			mu.Lock()
			defer mu.Unlock()
			if seen++; o.Seen != nil {
				o.Seen(seen)
			}
			if o.Record != nil && k.LastUse.Known() {
				o.Record(arn, k.LastUse.record())
			}
			switch {
			case kept:
				l.Keys = append(l.Keys, k)
			case why != "":
				unsure[lack] = append(unsure[lack], why)
			}
			return ctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return List{}, err
	}
	for _, lack := range slices.Sorted(maps.Keys(unsure)) {
		why := unsure[lack]
		l.NotKnown = append(l.NotKnown, fmt.Sprintf("%s of %d keys, which are left out: %s", lack, len(why), slices.Min(why)))
	}
	slices.SortFunc(l.Keys, compare)
	l.Totals, l.Ended = Total(l.Keys, o.Rules), time.Now().UTC()
	return l, nil
}

// compare sorts the most dangerous first. What could not be judged comes before what is
// low, since it may be anything.
func compare(a, b Key) int {
	rank := func(k Key) int {
		if k.Worst != "" && (k.Judged || k.Worst.AtLeast(finding.Medium)) {
			return 2 * (1 + k.Worst.Rank())
		}
		if !k.Judged {
			return 2*(1+finding.Low.Rank()) + 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(rank(b), rank(a)), cmp.Compare(len(b.Dangers), len(a.Dangers)),
		strings.Compare(b.Manager, a.Manager), strings.Compare(strings.Join(a.Aliases, " "), strings.Join(b.Aliases, " ")), strings.Compare(a.ARN, b.ARN))
}

// reader reads keys. What is known of the account is shared.
type reader struct {
	Options
	now           time.Time
	aliases       map[string][]inventory.Alias // by key
	buckets       map[string]Buckets           // by key, without when they were read
	all           []Bucket
	bucketsAt     time.Time
	bucketsUnread string
	recorded      map[string]UseRecord // by key
	resources     dependents.Numbers
}

// account reads what is known of all keys, and returns the ARNs of those to be read.
func (r *reader) account(ctx context.Context) (arns []string, err error) {
	r.aliases, r.buckets = map[string][]inventory.Alias{}, map[string]Buckets{}
	all, err := r.Facts.Aliases(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if a.TargetKeyARN != "" {
			r.aliases[a.TargetKeyARN] = append(r.aliases[a.TargetKeyARN], a)
		}
	}
	for _, name := range r.Names {
		arn, err := r.Facts.Resolve(ctx, name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(arns, arn) {
			arns = append(arns, arn)
		}
	}
	if len(r.Names) == 0 {
		if arns, err = r.Facts.Keys(ctx); err != nil {
			return nil, err
		}
	}
	if r.Alias != "" {
		arns = slices.DeleteFunc(arns, func(arn string) bool {
			return !slices.ContainsFunc(r.aliases[arn], func(a inventory.Alias) bool { return judgement.Matches(r.Alias, a.Name) })
		})
	}
	buckets, err := r.Facts.Buckets(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	r.bucketsAt, r.bucketsUnread = now(), unreadBuckets(err)
	r.all = make([]Bucket, 0, len(buckets))
	for _, b := range buckets {
		off := b.KMS && !b.BucketKey && !b.DSSE
		r.all = append(r.all, Bucket{b.Name, b.KMS, cmp.Or(b.DefaultKeyARN, b.DefaultKey), r.bucketsAt, off})
		key := b.DefaultKeyARN
		if i := slices.IndexFunc(all, func(a inventory.Alias) bool { return a.Name == b.DefaultKey || a.ARN == b.DefaultKey }); key == "" && i >= 0 {
			key = all[i].TargetKeyARN // it may not be described, and is listed all the same
		}
		switch {
		case key != "":
			of := r.buckets[key]
			of.Names = append(of.Names, b.Name)
			if off {
				of.BucketKeysOff = append(of.BucketKeysOff, b.Name)
			}
			r.buckets[key] = of
		case b.DefaultKey != "" && b.DefaultAlias == "" && !b.DefaultKeyGone && r.bucketsUnread == "":
			r.bucketsUnread = fmt.Sprintf("bucket %s names %s, and which key that is may not be looked up", b.Name, b.DefaultKey)
		}
	}
	if r.Resources != nil {
		r.resources = dependents.ByKey(ctx, r.Resources, arns, all)
	}
	return arns, nil
}

func now() time.Time { return time.Now().UTC().Round(0) }

// unreadBuckets says that buckets could not be read, with the first error of many.
func unreadBuckets(err error) string {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		if all := joined.Unwrap(); len(all) > 1 {
			return fmt.Sprintf("%d buckets cannot be read, the first of them: %v", len(all), all[0])
		}
	}
	return reason(err)
}

// reason is why something is not known, "" without an error.
func reason(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// ask reads a fact.
func ask[T any](ctx context.Context, read func(context.Context, string) (T, error), keyARN string) posture.Fact[T] {
	value, err := read(ctx, keyARN)
	return posture.Fact[T]{Value: value, At: now(), Err: err}
}

// readOf is when a fact was read, and why it is not known.
func readOf[T any](f posture.Fact[T]) Read {
	if f.At.IsZero() && f.Err == nil {
		return Read{NotKnown: NotAsked}
	}
	return Read{f.At, reason(f.Err)}
}

// key reads a key; there is false for one that does not exist any more.
func (r *reader) key(ctx context.Context, arn string) (k Key, there bool) {
	described, err := r.Facts.Key(ctx, arn)
	if errors.Is(err, inventory.ErrNotFound) {
		return Key{}, false
	}
	if err != nil {
		described = inventory.Key{ARN: arn, ID: arn[strings.LastIndexByte(arn, '/')+1:]}
	}
	p := posture.Key{Key: described}
	for _, a := range r.aliases[arn] {
		p.Aliases = append(p.Aliases, a.Name)
	}
	k = describe(described, p.Aliases, Read{now(), reason(err)}, r.now)
	if r.Resources != nil {
		k.Dependents = &Dependents{Read{r.resources.At.UTC().Round(0), r.resources.Why()}, r.resources.ByKey[arn]}
	}
	k.Buckets = r.buckets[arn]
	k.Buckets.Read = Read{r.bucketsAt, r.bucketsUnread}
	if k.Manager == "AWS" {
		r.managedByAWS(ctx, &k)
		return k, true
	}
	last, approvalErr := r.facts(ctx, &p)
	k.Rotation, k.Policy, k.Grants, k.Tags = r.rotation(p, last), r.policy(p), r.grants(p), Tags{readOf(p.Tags), p.Tags.Value}
	k.DeletionApproved, k.ApprovalNotKnown = p.Approved, reason(approvalErr)
	r.judge(ctx, &k, p)
	// Whether a key can rotate is known only of one that could be described.
	k.Judged = k.Described.Known() && p.Policy.Known() && p.Grants.Known() && approvalErr == nil &&
		(k.Rotation.Blocker != "" || p.Rotation.Known()) && (p.LastRotation.Known() || !r.Rules.AsksLastRotation(p.Key, r.now))
	if r.LastUse && r.keepsBeforeUse(k) { // the slowest request, so only where it counts
		p.Usage = ask(ctx, r.Facts.LastUsage, arn)
	}
	k.LastUse = r.lastUse(p.Usage, arn)
	return k, true
}

func describe(d inventory.Key, aliases []string, read Read, now time.Time) Key {
	k := Key{
		ARN: d.ARN, ID: d.ID, Described: read, Description: d.Description, State: d.State, Manager: d.Manager, Origin: d.Origin,
		Spec: d.Spec, Usage: d.Usage, KeyStore: d.CustomKeyStoreID, MultiRegion: d.MultiRegion, Primary: d.PrimaryARN, Replicas: d.Replicas,
		Created: d.Created.UTC(), DeletionDate: d.DeletionDate, MaterialExpires: d.MaterialExpires,
		Aliases: append([]string{}, aliases...), Dangers: []Danger{},
	}
	if !d.Created.IsZero() {
		k.AgeDays = int(now.Sub(d.Created) / (24 * time.Hour))
	} else {
		k.Created = time.Time{}
	}
	return k
}

// managedByAWS says what is known of a key that AWS manages. Nobody can change its
// policy, and AWS rotates it each year.
func (r *reader) managedByAWS(ctx context.Context, k *Key) {
	none := Read{NotKnown: AWSManages}
	k.Rotation.Blocker = inventory.BlockedAWSManaged
	k.Policy.Read, k.Grants.Read, k.LastUse.Read, k.Tags.Read = none, none, none, none
	k.Judged = true
	if len(r.Names) > 0 && r.LastUse {
		k.LastUse = r.lastUse(ask(ctx, r.Facts.LastUsage, k.ARN), k.ARN)
	}
}

// facts reads what is asked about a key. last is its last rotation; the error is why it
// is not known whether its deletion was approved.
func (r *reader) facts(ctx context.Context, p *posture.Key) (last posture.Fact[time.Time], approval error) {
	var all sync.WaitGroup
	all.Go(func() { p.Policy = ask(ctx, r.Facts.Policy, p.ARN) })
	all.Go(func() { p.Grants = ask(ctx, r.Facts.Grants, p.ARN) })
	if b := p.RotationBlocker(); p.Manager != "" && (b == "" || b == inventory.BlockedDisabled) {
		all.Go(func() { p.Rotation = ask(ctx, r.Facts.Rotation, p.ARN) })
		all.Go(func() { last = ask(ctx, r.Facts.LastRotation, p.ARN) })
	} else if r.Rules.AsksLastRotation(p.Key, r.now) {
		all.Go(func() { last = ask(ctx, r.Facts.LastRotation, p.ARN) })
	}
	if r.Tags {
		all.Go(func() { p.Tags = ask(ctx, r.Facts.Tags, p.ARN) })
	}
	if p.PendingDeletion() && r.Approved != nil {
		all.Go(func() { p.Approved, approval = r.Approved(ctx, p.Key) })
	}
	all.Wait()
	p.LastRotation = last
	return last, approval
}

func (r *reader) rotation(p posture.Key, last posture.Fact[time.Time]) Rotation {
	out := Rotation{Read: readOf(p.Rotation)}
	if p.Manager == "" { // not described
		return out
	}
	if out.Blocker = p.RotationBlocker(); out.Blocker != "" && p.Rotation.At.IsZero() {
		out.Read = Read{}
	}
	if p.Rotation.Known() {
		live := p.Rotation.Value
		out.Enabled, out.PeriodDays, out.Next = &live.Enabled, live.Period, live.Next
	}
	if out.LastNotKnown = reason(last.Err); last.Known() && !last.Value.IsZero() {
		out.Last = &last.Value
	}
	return out
}

func (r *reader) policy(p posture.Key) Policy {
	out := Policy{Read: readOf(p.Policy)}
	if !p.Policy.Known() {
		return out
	}
	_, out.Findings = r.Rules.JudgePolicy(keypolicy.Context{KeyARN: p.ARN, Now: r.now}, p.Policy.Value)
	if len(out.Findings) > 0 {
		out.Worst = out.Findings[0].Severity
	}
	return out
}

func (r *reader) grants(p posture.Key) Grants {
	out := Grants{Read: readOf(p.Grants), Count: len(p.Grants.Value)}
	for _, g := range p.Grants.Value {
		if r.Rules.IsForeign(g.Grantee) || r.Rules.IsForeign(g.Retiring) {
			out.Outside = append(out.Outside, Grant{g.ID, g.Grantee, g.Retiring, g.Operations})
		}
	}
	return out
}

func (r *reader) lastUse(f posture.Fact[inventory.Usage], keyARN string) LastUse {
	out := LastUse{Read: readOf(f)}
	if !f.Known() {
		if u, ok := r.recorded[keyARN]; ok {
			out.Record = &u
		}
		return out
	}
	u := f.Value
	if out.Since = u.Since.UTC(); u.Created.After(u.Since) {
		out.Since = u.Created.UTC()
	}
	if !u.At.IsZero() {
		out.Used, out.Operation = &u.At, u.Operation
	}
	if days, ok := out.record().UnusedDays(); ok {
		out.UnusedDays = &days
	}
	return out
}

// judge notes the dangers of a key and what is exempt of them.
func (r *reader) judge(ctx context.Context, k *Key, p posture.Key) {
	found := r.Rules.Dangers(p, r.now)
	k.Worst = posture.Worst(found)
	tags := p.Tags.Value
	// Tags are asked for only where an exemption by one may cover a danger.
	if byTag := func(e judgement.Exemption) bool { return e.Of != nil && e.Of.Tag() != "" && e.Holds(r.now) }; len(found) > 0 && !r.Tags && slices.ContainsFunc(r.Exemptions, byTag) {
		f := ask(ctx, r.Facts.Tags, k.ARN)
		k.Tags, tags = Tags{readOf(f), f.Value}, f.Value
	}
	lasted := judgement.Key{Tags: tags}
	for _, a := range r.aliases[k.ARN] {
		if r.now.Sub(a.Updated) >= judgement.Lasts {
			lasted.Aliases = append(lasted.Aliases, a.Name)
		}
	}
	k.Exemptions = r.exemptions(k.ARN, judgement.Key{Aliases: k.Aliases, Tags: tags})
	for _, d := range found {
		e, exempt := r.Exemptions.Find(string(d.Kind), lasted, judgement.Actor{}, r.now)
		danger := Danger{Danger: d}
		if exempt {
			danger.Exempt = e.String()
		}
		k.Dangers = append(k.Dangers, danger)
	}
}

// exemptions are those that hold and pick the key.
func (r *reader) exemptions(arn string, key judgement.Key) (found []Exemption) {
	for _, e := range r.Exemptions {
		if e.Of == nil || !e.Holds(r.now) {
			continue
		}
		by, ok := e.Of.Picks(key)
		if !ok {
			continue
		}
		x := Exemption{Covers: e.Covers(), By: by, Until: e.Until(), Reason: e.Reason}
		for _, a := range r.aliases[arn] {
			if counts := a.Updated.Add(judgement.Lasts); a.Name == by && counts.After(r.now) {
				x.From = counts.UTC()
			}
		}
		found = append(found, x)
	}
	return found
}

// keepsBeforeUse reports whether the options may leave the key, whenever it was used.
func (r *reader) keepsBeforeUse(k Key) bool {
	value, tagged := k.Tags.Values[r.TagName]
	return (!r.Bad || k.Bad()) && (r.TagName == "" || tagged && judgement.Matches(r.TagValue, value)) && (r.Unused == 0 || k.Manager != "AWS")
}

// keeps reports whether the options leave the key. If that is not known, lack is the fact
// that is missing, and why says why.
func (r *reader) keeps(k Key) (kept bool, lack, why string) {
	customer := k.Manager != "AWS"
	switch {
	case r.TagName != "" && customer && !k.Tags.Known():
		return false, "tags", k.Tags.NotKnown
	case !r.keepsBeforeUse(k):
		return false, "", ""
	case r.Unused > 0 && !k.LastUse.Known():
		return false, "last use", k.LastUse.NotKnown
	}
	return r.Unused == 0 || k.LastUse.UnusedFor(r.Unused, r.now), "", ""
}
