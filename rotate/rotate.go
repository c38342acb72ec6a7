// Package rotate replaces a KMS key by a new one, step by step: it creates a key like
// the old one, moves the aliases, the buckets' default encryption and the data to it, and
// checks what still needs the old key. What was done can be undone.
//
// A [Record] in the state bucket says how far a rotation is. Each step may be repeated,
// so that a rotation that was interrupted goes on from any machine. A lease keeps two
// from working on it at the same time.
package rotate

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/retire"
	"github.com/cmkeeper/cmkeeper/state"
)

// KMS is every call that changes a key or an alias; *kms.Client has it.
type KMS interface {
	retire.KMS
	CreateKey(context.Context, *kms.CreateKeyInput, ...func(*kms.Options)) (*kms.CreateKeyOutput, error)
	PutKeyPolicy(context.Context, *kms.PutKeyPolicyInput, ...func(*kms.Options)) (*kms.PutKeyPolicyOutput, error)
	EnableKeyRotation(context.Context, *kms.EnableKeyRotationInput, ...func(*kms.Options)) (*kms.EnableKeyRotationOutput, error)
	RotateKeyOnDemand(context.Context, *kms.RotateKeyOnDemandInput, ...func(*kms.Options)) (*kms.RotateKeyOnDemandOutput, error)
	UpdateAlias(context.Context, *kms.UpdateAliasInput, ...func(*kms.Options)) (*kms.UpdateAliasOutput, error)
}

// Mover moves data between keys; *reencrypt.Engine with a store does.
type Mover interface {
	retire.Reports
	Plan(ctx context.Context, o reencrypt.RunOptions, sample int, seen func(int64)) (reencrypt.BucketPlan, error)
	Forecast(ctx context.Context, o reencrypt.RunOptions, sample int, seen func(int64)) (reencrypt.BucketPlan, error)
	MoveDefault(ctx context.Context, bucket, from, to string) (moved bool, err error)
	StartOrders(ctx context.Context, orders []reencrypt.Order, at time.Time) ([]string, error)
	Cancel(ctx context.Context, job string) error
	RemoveScratch(ctx context.Context) error
}

// Rotator rotates keys of one account and Region. Its functions may be nil.
type Rotator struct {
	KMS   KMS
	Facts *inventory.Reader
	Mover Mover
	Store *state.Store
	// Check checks what needs a key. Its Quiet, Reports and Seen are set here.
	Check retire.Checker
	// StateBucket is left alone.
	StateBucket string
	// Judge returns what is wrong with a key policy; nil: nothing is judged.
	Judge func(keyARN, policy string) ([]finding.Finding, error)
	// By is the ARN of the person.
	By string
	// Again: Start begins another rotation of an alias whose last one was done a moment ago.
	Again bool
	// Accepted are the ids of unknowns that the deletion of the old key may ignore.
	Accepted []string
	// Confirm is asked before the deletion of the old key is scheduled; nil refuses.
	Confirm func(retire.Result) error
	// Say is given a line for each thing that is done or waited for.
	Say func(line string)
	// Seen is called now and then while a bucket is read, with how many object versions.
	Seen func(bucket string, versions int64)
	// Follow is given each look at a job.
	Follow func(reencrypt.Status)
}

const (
	// leaseTime is how long somebody who was killed keeps others from going on.
	leaseTime = 2 * time.Minute
	// settles is how long a key may be missing in ListKeys after CreateKey: KMS is
	// eventually consistent, "typically" for less than seconds and at most for minutes
	// (KMS Developer Guide, "KMS eventual consistency").
	settles = 5 * time.Minute
	// firstLook is how long after its start a job is looked at again, followEvery how
	// often in the end: most jobs are small.
	firstLook, followEvery = 50 * time.Millisecond, 2 * time.Second
	// repeats is for how long after a rotation the same command is taken for its repetition.
	repeats = 15 * time.Minute
	// maxRounds bounds how often data that is found late is moved, too.
	maxRounds = 3
	// unusedBeforeDisable is how long the new key of an abort must not have been used.
	unusedBeforeDisable = 24 * time.Hour
	// deletionDays is the waiting period of the old key's deletion.
	deletionDays = 30
)

// Start records a rotation of the key that an alias points to, with other aliases of the
// same key where some are named. Nothing is changed before Resume. Where the alias has a
// rotation that has not ended, whose end was interrupted within a day, or that was done less
// than a quarter of an hour ago (see Rotator.Again), that is returned, and begun is false.
// ErrState says that it is another one than was asked for.
func (r *Rotator) Start(ctx context.Context, alias string, others []string, c Choices) (rec Record, begun bool, err error) {
	aliases := append([]string{alias}, others...)
	switch rec, err := Read(ctx, r.Store, alias); {
	case err == nil && r.isMeant(rec, c):
		if rec.State != StateRunning && rec.State != StateDone || !slices.Equal(rec.Aliases, aliases) && len(others) > 0 {
			return rec, false, fmt.Errorf("rotation %s of %s is %s: %w; resume or abort it first", rec.ID, strings.Join(rec.Aliases, ", "), rec.State, ErrState)
		}
		if other := c.unlike(rec.Options); len(other) > 0 {
			return rec, false, fmt.Errorf("rotation %s of %s began with another %s, which cannot be changed on the way: %w; repeat the command without it, or abort the rotation", rec.ID, strings.Join(rec.Aliases, ", "), strings.Join(other, ", "), ErrState)
		}
		return rec, false, nil
	case err != nil && !errors.Is(err, ErrNone):
		return rec, false, err
	}
	s, err := r.source(ctx, aliases)
	if err != nil {
		return Record{}, false, err
	}
	if why := s.blocker(c); why != "" {
		return Record{}, false, fmt.Errorf("rotate %s: %s", alias, why)
	}
	now := r.now()
	rec = Record{
		ID: now.Format("20060102") + "-" + strings.ToLower(rand.Text()[:8]), State: StateRunning, Step: StepCreateKey,
		Aliases: aliases, Old: s.key.ARN, By: r.By, Started: now, Options: c,
	}
	if s.pending != "" {
		rec.Step = StepRotateMaterial
	}
	if _, err := r.Store.Put(ctx, recordKey(rec.ID), &rec, ""); err != nil {
		return Record{}, false, fmt.Errorf("record rotation: %w", err)
	}
	if err := r.claim(ctx, rec); err != nil {
		return Record{}, false, errors.Join(err, r.Store.Delete(context.WithoutCancel(ctx), recordKey(rec.ID), ""))
	}
	return rec, true, nil
}

// isMeant reports whether the command that begins a rotation means the last one of its alias.
func (r *Rotator) isMeant(last Record, c Choices) bool {
	now := r.Store.Now()
	return last.holdsAliases() || last.wasInterrupted(now) || last.Step == StepDeleteOldKey && c.DeleteOld || !r.Again && last.hasJustEnded(now)
}

// claim notes for each alias of a rotation that it belongs to it. ErrState: one belongs
// to a later rotation, or to one that still moves it.
func (r *Rotator) claim(ctx context.Context, rec Record) error {
	for _, alias := range rec.Aliases {
		err := state.Update(ctx, r.Store, claimKey(alias), func(c *claim, exists bool) error {
			if exists && c.Rotation == rec.ID {
				return state.ErrUnchanged
			}
			if exists {
				switch other, err := Read(ctx, r.Store, c.Rotation); {
				case err == nil && (other.holdsAliases() || other.Started.After(rec.Started)):
					return fmt.Errorf("%s belongs to rotation %s, which is %s: %w", alias, other.ID, other.State, ErrState)
				case err != nil && !errors.Is(err, ErrNone):
					return err
				}
			}
			c.Rotation = rec.ID
			return nil
		})
		if err != nil {
			return fmt.Errorf("begin rotation %s: %w", rec.ID, err)
		}
	}
	return nil
}

// Resume does the steps of a rotation that are left, up to and including until, none where
// that is done already; "" is all of them. It returns the record as it is then, also with an error. What cannot be
// done before some time or somebody's doing is no error: the record says so in Waits and Why.
// Errors: ErrNone, ErrBusy.
func (r *Rotator) Resume(ctx context.Context, name string, until Step) (Record, error) {
	rec, err := Read(ctx, r.Store, name)
	if err != nil {
		return rec, err
	}
	if rec.State == StateDone || rec.State == StateAborted && len(rec.Left) == 0 {
		return rec, nil
	}
	if until != "" && !slices.Contains(rec.steps(), until) {
		return rec, fmt.Errorf("rotation %s has no step %s; its steps are %s: %w", rec.ID, until, joined(rec.steps()), ErrState)
	}
	return r.work(ctx, rec, until, func(rec *Record) {
		if rec.State == StateAborted { // what is on the new key may be gone by now
			rec.State, rec.Step, rec.Left, rec.Notes = StateAborting, StepDisableNewKey, nil, nil
		}
	})
}

// Abort undoes a rotation: it puts the aliases and the buckets' default encryption back,
// moves the data back unless leaveData, and disables the new key once nothing is on it and
// it was not used for a day. ErrState: the key got new material, which cannot be undone, or
// the old key cannot be used.
func (r *Rotator) Abort(ctx context.Context, name string, leaveData bool) (Record, error) {
	rec, err := Read(ctx, r.Store, name)
	if err != nil {
		return rec, err
	}
	if rec.InPlace() {
		return rec, fmt.Errorf("rotation %s gives the key new material, and KMS cannot undo that; the key still decrypts what was encrypted under its former material: %w", rec.ID, ErrState)
	}
	if rec.State == StateAborted {
		return rec, nil
	}
	switch old, err := r.Facts.Key(ctx, rec.Old); {
	case err != nil:
		return rec, err
	case !old.Enabled():
		return rec, fmt.Errorf("the old key %s is %s: make it usable first (aws kms cancel-key-deletion, aws kms enable-key): %w", rec.Old, old.State, ErrState)
	}
	return r.work(ctx, rec, "", func(rec *Record) {
		if rec.State != StateAborting {
			rec.State, rec.Step, rec.Left, rec.Notes = StateAborting, StepRestoreAliases, nil, nil
		}
		rec.Options.LeaveData = rec.Options.LeaveData || leaveData
	})
}

// work takes the lease and does steps.
func (r *Rotator) work(ctx context.Context, rec Record, until Step, begin func(*Record)) (Record, error) {
	w := &work{Rotator: r, holder: rand.Text(), id: rec.ID, Record: rec}
	if err := w.acquire(ctx); err != nil {
		return w.Record, err
	}
	working, stop := context.WithCancelCause(ctx)
	kept := make(chan struct{})
	go func() { defer close(kept); w.keep(working, stop) }()
	var err error
	next := w.Record
	if begin(&next); next.holdsAliases() {
		err = w.claim(working, next)
	}
	if err == nil {
		err = w.save(working, begin)
	}
	for err == nil && w.goesOn(until) {
		if err = w.step(working); w.Why != "" {
			break
		}
	}
	if err != nil && working.Err() != nil {
		err = context.Cause(working)
	}
	stop(nil)
	<-kept
	return w.Record, errors.Join(err, w.release(context.WithoutCancel(ctx)))
}

// now is the time by S3's clock, on which machines agree to a second.
func (r *Rotator) now() time.Time { return r.Store.Now().UTC().Truncate(time.Second) }

// say says a line to whoever follows.
func (r *Rotator) say(format string, args ...any) {
	if r.Say != nil {
		r.Say(fmt.Sprintf(format, args...))
	}
}

// source is the key that is replaced, as its successor needs it.
type source struct {
	key      inventory.Key
	policy   string
	tags     map[string]string
	rotation inventory.Rotation
	// aliases are all of the key's, grants how many it has.
	aliases []inventory.Alias
	grants  []inventory.Grant
	// pending is the id of imported material that waits to become the current one, "" for none.
	pending string
}

// source reads the key that the aliases point to.
func (r *Rotator) source(ctx context.Context, aliases []string) (source, error) {
	var s source
	key, err := r.Facts.Key(ctx, aliases[0])
	switch {
	case errors.Is(err, inventory.ErrNotFound):
		return s, fmt.Errorf("there is no alias %q in this account and Region", aliases[0])
	case err != nil:
		return s, permission(err, "kms:DescribeKey")
	}
	if s, err = r.sourceKey(ctx, key); err != nil {
		return s, err
	}
	return s, s.has(aliases)
}

// has is an error where one of the aliases does not point to the key.
func (s source) has(aliases []string) error {
	for _, name := range aliases {
		if !slices.ContainsFunc(s.aliases, func(a inventory.Alias) bool { return a.Name == name }) {
			return fmt.Errorf("%s does not point to key %s", name, s.key.ARN)
		}
	}
	return nil
}

// sourceKey reads what the successor of a key needs.
func (r *Rotator) sourceKey(ctx context.Context, key inventory.Key) (s source, err error) {
	s.key = key
	if s.policy, err = r.Facts.Policy(ctx, key.ARN); err != nil {
		return s, permission(err, "kms:GetKeyPolicy")
	}
	if s.tags, err = r.Facts.Tags(ctx, key.ARN); err != nil {
		return s, permission(err, "kms:ListResourceTags")
	}
	if s.aliases, err = r.Facts.AliasesOf(ctx, key.ARN); err != nil {
		return s, permission(err, "kms:ListAliases")
	}
	if s.grants, err = r.Facts.Grants(ctx, key.ARN); err != nil {
		return s, permission(err, "kms:ListGrants")
	}
	if key.RotationBlocker() == "" {
		if s.rotation, err = r.Facts.Rotation(ctx, key.ARN); err != nil {
			return s, permission(err, "kms:GetKeyRotationStatus")
		}
	}
	if key.Origin == originExternal && key.Spec == specSymmetric {
		if s.pending, err = r.Facts.PendingMaterial(ctx, key.ARN); err != nil {
			return s, permission(err, "kms:ListKeyRotations")
		}
	}
	return s, nil
}

// permission names the permission that an error is about, where it is about one.
func permission(err error, action string) error {
	if errors.Is(err, inventory.ErrAccessDenied) || isDenied(err) {
		return fmt.Errorf("%w; this takes the permission %s", err, action)
	}
	return err
}

func joined(steps []Step) string {
	names := make([]string, len(steps))
	for i, s := range steps {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}

// whole returns n with a noun, in the plural where there are several or none.
func whole(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %s", n, cmp.Or(plurals[noun], noun+"s"))
}

func versionsText(n int64) string { return whole(int(n), "object version") }

var plurals = map[string]string{"alias": "aliases"}
