package rotate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/retire"
)

// step does the record's step. Where it cannot be done yet, Why is set.
func (w *work) step(ctx context.Context) error {
	step := w.Step
	do := map[Step]func(context.Context) (string, error){
		StepRotateMaterial: w.rotateMaterial,
		StepCreateKey:      w.createKey,
		StepSurvey:         w.survey,
		StepMoveAliases:    w.moveAliases,
		StepMoveDefaults:   func(ctx context.Context) (string, error) { return w.pointDefaults(ctx, w.Old, w.New) },
		StepMoveData: func(ctx context.Context) (string, error) {
			return w.moveData(ctx, w.Old, w.New, func(rec *Record) []Move { return rec.Moves })
		},
		StepCheckOldKey:     w.checkOldKey,
		StepDeleteOldKey:    w.deleteOldKey,
		StepRestoreAliases:  w.restoreAliases,
		StepRestoreDefaults: w.restoreDefaults,
		StepRestoreData:     w.restoreData,
		StepDisableNewKey:   w.disableNewKey,
	}[step]
	if do == nil {
		return fmt.Errorf("rotation %s is at step %q, which this build does not know", w.ID, step)
	}
	if err := w.save(ctx, func(rec *Record) { rec.Waits, rec.Why = time.Time{}, "" }); err != nil {
		return err
	}
	what, err := do(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", step, err)
	case w.Why != "":
		w.say("%s: %s", step, w.Why)
		return nil
	case w.Step != step: // the step has chosen what is next
		w.say("%s: %s", step, what)
		return nil
	}
	w.say("%s: %s", step, what)
	at := w.now()
	return w.save(ctx, func(rec *Record) { rec.finish(step, at, what) })
}

// wait notes why the step cannot be done yet, and until when; zero: until somebody has
// done something.
func (w *work) wait(ctx context.Context, until time.Time, why string) error {
	return w.save(ctx, func(rec *Record) { rec.Waits, rec.Why = until, why })
}

// leave notes what is left, each thing once.
func (w *work) leave(ctx context.Context, left ...Left) error {
	return w.save(ctx, func(rec *Record) {
		for _, l := range left {
			if !slices.Contains(rec.Left, l) {
				rec.Left = append(rec.Left, l)
			}
		}
	})
}

// rotateMaterial makes the imported material that waits the current one.
func (w *work) rotateMaterial(ctx context.Context) (string, error) {
	var failed error
	for n := 0; ; n++ {
		pending, err := w.Facts.PendingMaterial(ctx, w.Old)
		switch {
		case err != nil:
			return "", permission(err, "kms:ListKeyRotations")
		case pending == "" && n == 0:
			// Rotated by a process that was killed, or deleted by somebody?
			at, err := w.Facts.LastRotation(ctx, w.Old)
			if err != nil {
				return "", permission(err, "kms:ListKeyRotations")
			}
			if at.Before(w.Started.Add(-settles)) {
				return "", errors.New("no imported material waits to become the current one any more, and the key was not rotated since this began: import the material again, and resume")
			}
			fallthrough
		case pending == "":
			return "The key uses its new material. What was encrypted before is still decrypted with the former one.", nil
		case n == 10:
			return "", cmp.Or(failed, errors.New("KMS still shows the material as pending; resume in some minutes"))
		case n == 0:
			if _, err := w.KMS.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &w.Old}); err != nil {
				failed = permission(fmt.Errorf("rotate the key on demand: %w", err), "kms:RotateKeyOnDemand")
			}
			if retire.Refused(failed) || ctx.Err() != nil { // else it may have been done: look
				return "", failed
			}
		}
		if err := sleep(ctx, 3*time.Second); err != nil {
			return "", err
		}
	}
}

// bucketsInScope returns the buckets whose data moves, and what of them cannot be read.
func (r *Rotator) bucketsInScope(ctx context.Context, c Choices) (buckets []inventory.Bucket, left []Left, err error) {
	if len(c.Buckets) == 0 {
		buckets, err = r.Facts.Buckets(ctx)
		if err != nil {
			if len(buckets) == 0 {
				return nil, nil, permission(err, "s3:ListAllMyBuckets")
			}
			left = append(left, Left{"buckets", fmt.Sprintf("Not all buckets can be read: %v.", err), "Grant s3:GetEncryptionConfiguration and s3:GetBucketTagging, and run: cmkeeper retire check"})
		}
	}
	for _, name := range c.Buckets {
		b, err := r.Facts.Bucket(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		buckets = append(buckets, b)
	}
	return slices.DeleteFunc(buckets, func(b inventory.Bucket) bool { return b.Name == r.StateBucket }), left, nil
}

// survey finds the data under the old key, and whether it can be moved.
func (w *work) survey(ctx context.Context) (string, error) {
	key, err := w.Facts.Key(ctx, w.Old)
	if err != nil {
		return "", err
	}
	if key.Spec != specSymmetric {
		return "S3 encrypts nothing under a key of spec " + key.Spec + ".", nil
	}
	late := lateBuckets(w.Record)
	moves, defaults, left, err := w.find(ctx, w.Old, w.New, w.Options, late)
	if err != nil {
		return "", err
	}
	err = w.save(ctx, func(rec *Record) {
		if rec.Round == 0 { // what a killed survey has found is found again
			rec.Moves, rec.Defaults = nil, defaults
		}
		for _, m := range moves {
			// Once the aliases have moved, a default encryption brings nothing more under the old key.
			if rec.Round > 0 && m.Versions == 0 {
				continue
			}
			if !slices.ContainsFunc(rec.Moves, func(o Move) bool { return o.Bucket == m.Bucket && !o.Ended }) {
				rec.Moves = append(rec.Moves, m)
			}
		}
		rec.Left = left
	})
	return summary(moves) + " " + whole(len(defaults), "bucket") + " with the key as default encryption.", err
}

// lateBuckets are those in which the check of a round before found data. nil is all: in the
// first round, and where a survey of this round was killed after it had recorded its own.
func lateBuckets(rec Record) (names []string) {
	if rec.Round == 0 {
		return nil
	}
	for _, l := range rec.Left {
		if name, ok := dataIn(l.ID); ok {
			names = append(names, name)
		}
	}
	return names
}

// dataIn returns the bucket of a tie that is data under a key: objects:BUCKET, or the data
// keys in them, envelopes:BUCKET:FORMAT. The names of buckets have no colon.
func dataIn(id string) (bucket string, ok bool) {
	kind, place, _ := strings.Cut(id, ":")
	bucket, _, _ = strings.Cut(place, ":")
	return bucket, kind == "objects" || kind == "envelopes"
}

// find finds the data under a key that can be moved to another one, in some buckets or in
// all of c, and the buckets whose default encryption names the key itself.
// What stops a bucket with such data is an error.
func (w *work) find(ctx context.Context, from, to string, c Choices, only []string) (moves []Move, defaults []string, left []Left, err error) {
	buckets, left, err := w.bucketsInScope(ctx, c)
	if err != nil {
		return nil, nil, nil, err
	}
	var stops []error
	for _, b := range buckets {
		if only != nil && !slices.Contains(only, b.Name) {
			continue
		}
		byDefault := b.DefaultKeyARN == from || b.DefaultAlias != "" && slices.Contains(w.Aliases, b.DefaultAlias)
		if b.DefaultKeyARN == from && b.DefaultAlias == "" {
			defaults = append(defaults, b.Name)
		}
		p, err := w.Mover.Plan(ctx, c.options(b.Name, from, to), 0, func(n int64) {
			if w.Seen != nil {
				w.Seen(b.Name, n)
			}
		})
		if err != nil {
			return nil, nil, nil, err
		}
		cause := reencrypt.Stops(p.Preflight)
		switch {
		case cause != "" && (p.InScope.Versions > 0 || byDefault):
			stops = append(stops, fmt.Errorf("bucket %s: %s", b.Name, cause))
		case cause != "" && p.Listed == 0:
			left = append(left, Left{"objects:" + b.Name, "Nothing is known about the objects in bucket " + b.Name + ": " + cause, ""})
		case p.Move.Versions > 0 || byDefault:
			moves = append(moves, Move{Bucket: b.Name, Versions: p.Move.Versions, Bytes: p.Move.Bytes, Refused: p.Refuse.Versions})
		}
		left = append(left, stuck(p, " A plan says why.", c.plan(b.Name, from, to))...)
	}
	if len(stops) > 0 {
		return nil, nil, nil, fmt.Errorf("%w\nMend that and resume, or rotate with --bucket for the buckets that are to move", errors.Join(stops...))
	}
	return moves, defaults, left, nil
}

// summary says how much the moves are.
func summary(moves []Move) string {
	var versions, bytes int64
	for _, m := range moves {
		versions, bytes = versions+m.Versions, bytes+m.Bytes
	}
	return fmt.Sprintf("%s to move (%d bytes) in %s.", versionsText(versions), bytes, whole(len(moves), "bucket"))
}

// moveAliases points the aliases to the new key.
func (w *work) moveAliases(ctx context.Context) (string, error) {
	return w.pointAliases(ctx, w.Old, w.New, func(name, target string) error {
		return fmt.Errorf("%s points to key %s: somebody else has moved it", name, cmp.Or(target, "none"))
	})
}

// pointAliases points the aliases from one key to another, and reads back that they do.
// One that points elsewhere was moved by somebody else: elsewhere says whether that is an
// error, or it stays there.
func (w *work) pointAliases(ctx context.Context, from, to string, elsewhere func(name, target string) error) (string, error) {
	var there []string
	for _, name := range w.Aliases {
		for n := 0; ; n++ {
			target, err := w.target(ctx, name)
			switch {
			case err != nil:
				return "", err
			case target == to:
				there = append(there, name)
			case target != from:
				if err := elsewhere(name, target); err != nil {
					return "", err
				}
			case n == 10:
				return "", fmt.Errorf("%s still points to key %s; resume in some minutes", name, from)
			case n > 0: // KMS is eventually consistent
				if err := sleep(ctx, 3*time.Second); err != nil {
					return "", err
				}
				continue
			default:
				if _, err := w.KMS.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: &name, TargetKeyId: &to}); err != nil {
					return "", permission(fmt.Errorf("point %s to key %s: %w", name, to, err), "kms:UpdateAlias on the alias and on both keys")
				}
				continue
			}
			break
		}
	}
	if len(there) == 0 {
		return "", nil
	}
	which := "the new key"
	if to == w.Old {
		which = "the old key again"
	}
	return fmt.Sprintf("%s to %s.", points(there), which), nil
}

// points returns aliases as the subject of a sentence, with its verb.
func points(aliases []string) string {
	if len(aliases) == 1 {
		return aliases[0] + " now points"
	}
	return strings.Join(aliases, ", ") + " now point"
}

// target returns the ARN of the key that an alias points to, "" where there is no such alias.
func (w *work) target(ctx context.Context, name string) (string, error) {
	aliases, err := w.Facts.Aliases(ctx)
	if err != nil {
		return "", permission(err, "kms:ListAliases")
	}
	i := slices.IndexFunc(aliases, func(a inventory.Alias) bool { return a.Name == name })
	if i < 0 {
		return "", nil
	}
	return aliases[i].TargetKeyARN, nil
}

// pointDefaults moves the default encryption of the buckets that named the old key.
func (w *work) pointDefaults(ctx context.Context, from, to string) (string, error) {
	n := 0
	for _, bucket := range w.Defaults {
		moved, err := w.Mover.MoveDefault(ctx, bucket, from, to)
		if err != nil {
			return "", permission(err, "s3:PutEncryptionConfiguration")
		}
		if moved {
			n++
		}
	}
	return fmt.Sprintf("Default encryption changed: %s.", whole(n, "bucket")), nil
}

// moveData has the fleet move the data, and follows that to its end. of returns the
// moves of the record.
func (w *work) moveData(ctx context.Context, from, to string, of func(*Record) []Move) (string, error) {
	set := func(i int, change func(*Move)) error {
		return w.save(ctx, func(rec *Record) { change(&of(rec)[i]) })
	}
	for i, m := range of(&w.Record) {
		if m.Ended {
			continue
		}
		if m.Ordered.IsZero() {
			m.Ordered = w.now()
			if err := set(i, func(to *Move) { to.Ordered = m.Ordered }); err != nil {
				return "", err
			}
		}
		if m.Job == "" {
			// The same order of the same time is the same job, however often it is started.
			ids, err := w.Mover.StartOrders(ctx, []reencrypt.Order{w.Options.order(m.Bucket, from, to)}, m.Ordered)
			if err != nil {
				return "", permission(err, "s3:PutObject in the state bucket and sqs:SendMessage to the jobs queue")
			}
			if err := set(i, func(to *Move) { to.Job = ids[0] }); err != nil {
				return "", err
			}
		}
	}
	for i := range of(&w.Record) {
		if m := of(&w.Record)[i]; !m.Ended {
			s, err := w.follow(ctx, i, m, set)
			if err != nil {
				return "", err
			}
			w.say("Job %s is complete: %s of bucket %s moved, %d refused, %d failed.", s.Job, versionsText(s.Moved), s.Bucket, s.Refused, s.Failed)
			if left := s.Refused + s.Failed; left > 0 {
				err = w.leave(ctx, Left{"objects:" + m.Bucket, fmt.Sprintf("%s in bucket %s could not be moved. The report of their job says why.", versionsText(left), m.Bucket), command.Line("cmkeeper reencrypt report %s", command.Job(m.Job))})
			}
			if err == nil {
				err = set(i, func(m *Move) { m.Ended, m.Moved = true, s.Moved })
			}
			if err != nil {
				return "", err
			}
		}
	}
	var moved int64
	for _, m := range of(&w.Record) {
		moved += m.Moved
	}
	return fmt.Sprintf("%s moved and verified, in %s.", versionsText(moved), whole(len(of(&w.Record)), "bucket")), nil
}

// follow looks at a job until it is complete. One that a person has cancelled is ordered
// anew by the next resume.
func (w *work) follow(ctx context.Context, i int, m Move, set func(int, func(*Move)) error) (reencrypt.Status, error) {
	for pause := firstLook; ; pause = min(2*pause, followEvery) {
		s, err := w.Mover.Status(ctx, m.Job)
		if err != nil {
			return s, err
		}
		if w.Follow != nil {
			w.Follow(s)
		}
		switch s.State {
		case reencrypt.StateComplete:
			return s, nil
		case reencrypt.StateStopped:
			return s, fmt.Errorf("job %s of bucket %s has stopped: %s. Mend that, then: %s", m.Job, m.Bucket, s.Cause, command.Line("cmkeeper reencrypt resume %s", command.Job(m.Job)))
		case reencrypt.StateCancelled, reencrypt.StateSuperseded:
			err := set(i, func(m *Move) { m.Job, m.Ordered = "", time.Time{} })
			return s, errors.Join(fmt.Errorf("job %s of bucket %s was %s; resume to start it again, or abort", m.Job, m.Bucket, s.State), err)
		case reencrypt.StateRunning, reencrypt.StatePaused:
		}
		if err := sleep(ctx, pause); err != nil {
			return s, err
		}
	}
}

// checkOldKey checks what still needs the old key. Data that was found late is moved, too.
func (w *work) checkOldKey(ctx context.Context) (string, error) {
	r, err := w.check(ctx, w.Old, 0, w.Mover)
	if err != nil {
		return "", err
	}
	left := w.explain(leftOf(r))
	late := slices.ContainsFunc(r.Ties, func(t retire.Tie) bool {
		bucket, data := dataIn(t.ID)
		return data && bucket != w.StateBucket && inScope(w.Options, bucket) && !slices.ContainsFunc(w.Moves, func(m Move) bool { return m.Bucket == bucket })
	})
	if late && w.Round < maxRounds {
		err := w.save(ctx, func(rec *Record) {
			if rec.Step == StepCheckOldKey {
				rec.Left, rec.Round, rec.Step = left, rec.Round+1, StepSurvey
			}
		})
		return "Data was found under the old key that was not there before; it is moved, too.", err
	}
	err = w.save(ctx, func(rec *Record) { rec.Left, rec.Notes = left, r.Notes })
	what := "Nothing is known to need the old key. It stays enabled."
	if len(left) > 0 {
		what = fmt.Sprintf("%s may still need the old key. It stays enabled.", whole(len(left), "thing"))
	}
	return what, err
}

// explain names the reports of the moves for what they have left.
func (w *work) explain(left []Left) []Left {
	for i, l := range left {
		for _, m := range w.Moves {
			if bucket, data := dataIn(l.ID); data && bucket == m.Bucket && m.Ended {
				left[i].What += " The report of their job says why they were not moved."
				left[i].Fix = command.Line("cmkeeper reencrypt report %s", command.Job(m.Job))
			}
		}
	}
	return left
}

// leftOf returns what of a check's result still needs the key, or may.
func leftOf(r retire.Result) (left []Left) {
	for _, t := range slices.Concat(r.Ties, r.Unknown) {
		left = append(left, Left(t))
	}
	return left
}

func inScope(c Choices, bucket string) bool {
	return len(c.Buckets) == 0 || slices.Contains(c.Buckets, bucket)
}

// check checks what needs a key.
func (w *work) check(ctx context.Context, key string, quiet time.Duration, reports retire.Reports) (retire.Result, error) {
	c := w.Check
	c.Quiet, c.Reports, c.Accepted, c.Envelopes = quiet, reports, w.Accepted, w.Options.Envelopes
	c.Seen = w.Seen
	// What a process that was killed has left there would count as data under the key.
	if err := w.Mover.RemoveScratch(ctx); err != nil && ctx.Err() == nil {
		w.say("%v", err)
	}
	return c.Check(ctx, key)
}

// deleteOldKey schedules the deletion of the old key, once nothing needs it and it was not
// used for as long as was asked for.
func (w *work) deleteOldKey(ctx context.Context) (string, error) {
	old, err := w.Facts.Key(ctx, w.Old)
	if err != nil {
		return "", err
	}
	if old.PendingDeletion() {
		date := aws.ToTime(old.DeletionDate)
		return "KMS deletes the old key on " + clock(date) + ".", w.save(ctx, func(rec *Record) { rec.Deletion = date })
	}
	unused := time.Duration(w.Options.UnusedDays) * 24 * time.Hour
	if due := w.moved().Add(unused); w.Store.Now().Before(due) { // the move itself has used it
		return "", w.wait(ctx, due, fmt.Sprintf("The old key must not have been used for %d days before its deletion is scheduled. Resume after %s.", w.Options.UnusedDays, clock(due)))
	}
	if used, err := w.Facts.LastUsage(ctx, w.Old); err == nil && w.Store.Now().Before(used.At.Add(unused)) {
		due := used.At.Add(unused)
		return "", w.wait(ctx, due, fmt.Sprintf("The old key was last used by %s, and must not have been used for %d days. Resume after %s.", used, w.Options.UnusedDays, clock(due)))
	} // what cannot be read is among the unknowns of the check
	r, err := w.check(ctx, w.Old, unused, nil)
	if err != nil {
		return "", err
	}
	if left := leftOf(r); !r.Free {
		if err := w.save(ctx, func(rec *Record) { rec.Left = left }); err != nil {
			return "", err
		}
		return "", w.wait(ctx, time.Time{}, fmt.Sprintf("The deletion of the old key was not scheduled: %s may still need it. Resume when that is settled; accept by name what cannot be found out (--accept).", whole(len(left), "thing")))
	}
	if w.Confirm == nil {
		return "", w.wait(ctx, time.Time{}, "The deletion of the old key waits for a person to confirm it: resume on a terminal.")
	}
	if err := w.Confirm(r); err != nil {
		return "", err
	}
	date, err := retire.Schedule(ctx, w.KMS, w.Store, r, w.Rotator.By, deletionDays)
	if err != nil {
		return "", permission(err, "kms:ScheduleKeyDeletion")
	}
	return "KMS deletes the old key on " + clock(date) + ".", w.save(ctx, func(rec *Record) { rec.Deletion, rec.Left = date, nil })
}

// moved is when the data was moved.
func (w *work) moved() time.Time {
	at := w.Started
	for _, d := range w.Done {
		if d.Step == StepMoveData && d.At.After(at) {
			at = d.At
		}
	}
	return at
}

// restoreAliases points the aliases back, and ends the jobs of the move.
func (w *work) restoreAliases(ctx context.Context) (string, error) {
	if w.New == "" && !w.Creating.IsZero() {
		if err := w.findCreated(ctx); err != nil {
			return "", err
		}
	}
	if w.New == "" {
		return "No new key was created.", nil
	}
	var stay []string
	what, err := w.pointAliases(ctx, w.New, w.Old, func(name, target string) error {
		stay = append(stay, fmt.Sprintf(" %s points to key %s: somebody else has moved it, and it stays there.", name, cmp.Or(target, "none")))
		return nil
	})
	if err != nil {
		return "", err
	}
	what = strings.TrimSpace(what + strings.Join(stay, ""))
	for _, m := range w.Moves {
		if m.Ended || m.Ordered.IsZero() {
			continue
		}
		if m.Job == "" { // it may have been started, and its id not recorded
			ids, err := w.Mover.StartOrders(ctx, []reencrypt.Order{w.Options.order(m.Bucket, w.Old, w.New)}, m.Ordered)
			if err != nil && !errors.Is(err, reencrypt.ErrRival) {
				return "", err
			}
			if err == nil {
				m.Job = ids[0]
			}
		}
		if m.Job != "" {
			if err := w.Mover.Cancel(ctx, m.Job); err != nil && !errors.Is(err, reencrypt.ErrState) {
				return "", err
			}
		}
	}
	return what, nil
}

func (w *work) restoreDefaults(ctx context.Context) (string, error) {
	if w.New == "" {
		return "No bucket's default encryption was changed.", nil
	}
	return w.pointDefaults(ctx, w.New, w.Old)
}

// restoreData moves what is under the new key back.
func (w *work) restoreData(ctx context.Context) (string, error) {
	switch {
	case w.New == "":
		return "No data was moved.", nil
	case w.Options.LeaveData:
		return "The data under the new key stays there.", nil
	}
	key, err := w.Facts.Key(ctx, w.New)
	switch {
	case err != nil:
		return "", err
	case key.Spec != specSymmetric:
		return "S3 encrypts nothing under a key of spec " + key.Spec + ".", nil
	case !slices.ContainsFunc(w.Done, func(d Done) bool { return d.Step == StepCreateKey }):
		return "No data was moved.", nil
	case !key.Enabled():
		return "", w.wait(ctx, time.Time{}, fmt.Sprintf("The new key is %s, and what is under it cannot be moved back. Make it usable (aws kms cancel-key-deletion, aws kms enable-key), and then resume.", key.State))
	}
	if w.Back == nil {
		// Whatever is under the new key is there because the aliases moved, in all buckets.
		everywhere := w.Options
		everywhere.Buckets = nil
		moves, _, left, err := w.find(ctx, w.New, w.Old, everywhere, nil)
		if err != nil {
			return "", err
		}
		if err := w.save(ctx, func(rec *Record) { rec.Back, rec.Left = append([]Move{}, moves...), left }); err != nil {
			return "", err
		}
	}
	return w.moveData(ctx, w.New, w.Old, func(rec *Record) []Move { return rec.Back })
}

// disableNewKey disables the new key once it is sure that nothing is on it.
func (w *work) disableNewKey(ctx context.Context) (string, error) {
	if w.New == "" {
		return "There is no new key.", nil
	}
	key, err := w.Facts.Key(ctx, w.New)
	if err != nil {
		return "", err
	}
	if !key.Enabled() {
		return w.notEnabled(ctx, key)
	}
	due := latest(w.undone(), key.Created).Add(unusedBeforeDisable)
	if w.Store.Now().Before(due) && !w.Options.LeaveData { // what was left is named at once
		return "", w.waitUnused(ctx, due, "")
	}
	r, err := w.check(ctx, w.New, unusedBeforeDisable, nil)
	if err != nil {
		return "", err
	}
	// That AWS Config does not know all resources keeps no key enabled that was not used for
	// a day: what needs it after all has it enabled again.
	left := slices.DeleteFunc(leftOf(r), func(l Left) bool { return strings.HasPrefix(l.ID, "dependents:") })
	used, err := w.Facts.LastUsage(ctx, w.New)
	onIt := err != nil || slices.ContainsFunc(left, func(l Left) bool { return l.ID != "last-use" })
	last := ""
	if due = latest(due, used.At.Add(unusedBeforeDisable)); !used.At.IsZero() {
		last = " It was last used by " + used.String() + "."
	}
	switch {
	case !onIt && (w.Store.Now().Before(due) || len(left) > 0):
		return "", w.waitUnused(ctx, due, last)
	case onIt:
		return fmt.Sprintf("The new key stays enabled: %s may need it.", whole(len(left), "thing")), w.save(ctx, func(rec *Record) { rec.Left, rec.Notes = left, r.Notes })
	}
	if err := retire.Disable(ctx, w.KMS, w.Store, w.New, w.Rotator.By); err != nil {
		return "", permission(err, "kms:DisableKey")
	}
	return "The new key is disabled: nothing was found under it, it has no grants, and it was not used for a day.", w.save(ctx, func(rec *Record) { rec.Left, rec.Notes = nil, r.Notes })
}

// waitUnused notes that the new key is disabled when it was not used for a day.
func (w *work) waitUnused(ctx context.Context, due time.Time, used string) error {
	return w.wait(ctx, due, fmt.Sprintf("The new key must not have been used for a day before it is disabled.%s Resume after %s.", used, clock(due)))
}

// notEnabled says why the new key of an abort is not enabled. Where it was not this
// rotation that disabled it, nothing is known of what is on it.
func (w *work) notEnabled(ctx context.Context, key inventory.Key) (string, error) {
	what := "The new key is " + key.State
	approval, ok, err := retire.ReadApproval(ctx, w.Store, w.New)
	switch {
	case err != nil:
		return "", err
	case ok && approval.Days == 0:
		return what + ": nothing was found on it.", w.save(ctx, func(rec *Record) { rec.Left = nil })
	case !slices.ContainsFunc(w.Done, func(d Done) bool { return d.Step == StepCreateKey }):
		return what + "; nothing was moved to it.", nil
	}
	what += ", and not by this rotation: whether something is on it was not looked at."
	return what, w.leave(ctx, Left{"key:" + key.ID, what, "Enable it (aws kms enable-key), and resume."})
}

// undone is when the last step of an abort before the new key's end was done.
func (w *work) undone() time.Time {
	at := w.Started
	for _, d := range w.Done {
		if d.Step != StepDisableNewKey {
			at = latest(at, d.At)
		}
	}
	return at
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
