package rotate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/state"
)

// Schema is the schema of a Record as JSON.
const Schema = "cmkeeper.rotation.v1"

// Step is a part of a rotation. Each may be repeated: it does only what is not done.
type Step string

// The steps of a rotation, in their order.
const (
	StepCreateKey    Step = "create-key"
	StepSurvey       Step = "survey-data"
	StepMoveAliases  Step = "move-aliases"
	StepMoveDefaults Step = "move-bucket-defaults"
	StepMoveData     Step = "move-data"
	StepCheckOldKey  Step = "check-old-key"
	StepDeleteOldKey Step = "delete-old-key"
)

// StepRotateMaterial is the only step of a key with imported material whose next
// material is imported already: the key stays the same.
const StepRotateMaterial Step = "rotate-material"

// The steps of an abort, in their order.
const (
	StepRestoreAliases  Step = "restore-aliases"
	StepRestoreDefaults Step = "restore-bucket-defaults"
	StepRestoreData     Step = "restore-data"
	StepDisableNewKey   Step = "disable-new-key"
)

// State is how far a rotation is.
type State string

// The states.
const (
	// StateRunning: there are steps to do, by Resume.
	StateRunning State = "running"
	// StateDone: all steps are done. The old key is enabled, or its deletion scheduled.
	StateDone State = "done"
	// StateAborting: what was done is being undone, by Resume.
	StateAborting State = "aborting"
	// StateAborted: all is as it was before, but for what Record.Left names.
	StateAborted State = "aborted"
)

// Record is a rotation, as the state bucket has it: rotations/<id>.json. Who may write
// there may rotate keys.
type Record struct {
	ID    string `json:"id"`
	State State  `json:"state"`
	// Step is the next one to do; "" when there is none.
	Step Step `json:"step,omitempty"`
	// Done are the steps that are done, in their order.
	Done []Done `json:"done,omitempty"`
	// Aliases are the names of the aliases that move; the first is the one that was
	// named by the person who began.
	Aliases []string `json:"aliases"`
	// Old is the ARN of the key that is replaced, New that of its successor: "" before it
	// is created, and for a rotation of the material.
	Old string `json:"old_key"`
	New string `json:"new_key,omitempty"`
	// Creating is when CreateKey was called, while its answer is not known.
	Creating time.Time `json:"creating,omitzero"`
	// By is the ARN of the person who began, Started when.
	By      string    `json:"by"`
	Started time.Time `json:"started"`
	Options Choices   `json:"options,omitzero"`
	// Round counts the surveys: data that is found under the old key later is moved too.
	Round int `json:"round,omitempty"`
	// Moves are the buckets with data under the old key, Defaults those whose default
	// encryption named it by its ARN, and Back the moves of an abort.
	Moves    []Move   `json:"moves,omitempty"`
	Defaults []string `json:"bucket_defaults,omitempty"`
	Back     []Move   `json:"moves_back,omitempty"`
	// Left is what could not be moved, or was not looked at, and what to do about it.
	Left []Left `json:"left,omitempty"`
	// Notes are what no check can see.
	Notes []string `json:"notes,omitempty"`
	// Waits is the time before which the next step cannot be done, and Why the reason.
	Waits time.Time `json:"waits_until,omitzero"`
	Why   string    `json:"why,omitempty"`
	// Deletion is when KMS deletes the old key.
	Deletion time.Time `json:"deletion,omitzero"`
	Lease    lease     `json:"lease,omitzero"`
}

// Choices are what the person who began has chosen.
type Choices struct {
	// Buckets are the only buckets whose data moves; none: all of the account and Region.
	Buckets []string `json:"buckets,omitempty"`
	// DeleteOld: the old key's deletion is scheduled once it was not used for so many days.
	DeleteOld  bool `json:"delete_old,omitempty"`
	UnusedDays int  `json:"unused_days,omitempty"`
	// LeaveData: an abort leaves the data under the new key.
	LeaveData bool `json:"leave_data,omitempty"`
	// AcceptPolicy: the policy is copied although it has findings of severity high or above.
	AcceptPolicy bool `json:"accept_policy,omitempty"`
	// XksKey is the id of the external key of the new key, for a key in an external key store.
	XksKey string `json:"xks_key_id,omitempty"`
	// Envelopes is where data keys of client-side encryption are looked for, which move with
	// the data, and RewriteFiles whether also where that takes another body; see
	// reencrypt.RunOptions.
	Envelopes    reencrypt.Envelopes `json:"envelopes,omitempty"`
	RewriteFiles bool                `json:"rewrite_files,omitempty"`
}

// order is what moves the data of a bucket from one key to another.
func (c Choices) order(bucket, from, to string) reencrypt.Order {
	return reencrypt.Order{Bucket: bucket, From: []string{from}, To: to, Envelopes: c.Envelopes, RewriteFiles: c.RewriteFiles}
}

// options are order for a plan; to is "" for a key that is yet to be made.
func (c Choices) options(bucket, from, to string) reencrypt.RunOptions {
	return reencrypt.RunOptions{Bucket: bucket, From: []string{from}, To: to, Envelopes: c.Envelopes, RewriteFiles: c.RewriteFiles}
}

// plan is the command that says what a move of a bucket's data would do.
func (c Choices) plan(bucket, from, to string) string {
	format := "cmkeeper reencrypt plan --bucket %s --from %s --to %s" + c.Envelopes.Flags(c.RewriteFiles)
	return command.Line(format, command.Bucket(bucket), command.Key(from), command.Key(to))
}

// unlike names the options that are given and are other ones than a rotation began with.
func (c Choices) unlike(began Choices) (options []string) {
	for _, o := range []struct {
		name        string
		given, same bool
	}{
		{"--bucket", len(c.Buckets) > 0, slices.Equal(c.Buckets, began.Buckets)},
		{"--delete-old", c.DeleteOld, began.DeleteOld},
		{"--unused-days", c.DeleteOld && c.UnusedDays > 0, c.UnusedDays == began.UnusedDays},
		{"--accept-policy", c.AcceptPolicy, began.AcceptPolicy},
		{"--xks-key-id", c.XksKey != "", c.XksKey == began.XksKey},
		{"--envelopes", c.Envelopes.On(), c.Envelopes == began.Envelopes},
		{"--rewrite-files", c.RewriteFiles, began.RewriteFiles},
	} {
		if o.given && !o.same {
			options = append(options, o.name)
		}
	}
	return options
}

// Done is a step that is done.
type Done struct {
	Step Step      `json:"step"`
	At   time.Time `json:"at"`
	// What says in a line what came of it.
	What string `json:"what"`
}

// Move is the re-encryption of a bucket.
type Move struct {
	Bucket string `json:"bucket"`
	// Versions and Bytes are the object versions that a survey found to move, Refused how
	// many cannot be moved.
	Versions int64 `json:"versions"`
	Bytes    int64 `json:"bytes"`
	Refused  int64 `json:"refused,omitempty"`
	// Ordered is when the job was first ordered: the same order of that time is the same job.
	Ordered time.Time `json:"ordered,omitzero"`
	// Job is the fleet's job, "" before it is started. Ended: it is complete, and has moved
	// so many object versions.
	Job   string `json:"job,omitempty"`
	Ended bool   `json:"ended,omitempty"`
	Moved int64  `json:"moved,omitempty"`
}

// Left is something that still needs a key, or may.
type Left struct {
	// ID is its kind and place, as retire.Tie has it.
	ID   string `json:"id"`
	What string `json:"what"`
	Fix  string `json:"fix,omitempty"`
}

// lease is who works on a rotation, so that two do not at the same time.
type lease struct {
	Holder string    `json:"holder,omitempty"`
	Until  time.Time `json:"until,omitzero"`
}

// Schema names the document for package state. Builds of version 1 move no data keys, and
// must not go on with a rotation that does.
func (r *Record) Schema() (string, int) {
	if r.Options.Envelopes.On() {
		return "rotation", 2
	}
	return "rotation", 1
}

// Alias is the alias that was named by the person who began.
func (r *Record) Alias() string {
	if len(r.Aliases) == 0 {
		return ""
	}
	return r.Aliases[0]
}

// Ended reports whether there is nothing left to do.
func (r *Record) Ended() bool { return r.State == StateDone || r.State == StateAborted }

// InPlace reports whether the key gets new material and stays the same.
func (r *Record) InPlace() bool { return len(r.steps()) == 1 }

// holdsAliases reports whether the rotation may still move its aliases. Afterwards they
// may be rotated again.
func (r *Record) holdsAliases() bool {
	return !r.Ended() && r.Step != StepDisableNewKey && r.Step != StepDeleteOldKey
}

// wasInterrupted reports whether the last process that worked on a rotation did not live
// to say so: the same command again, soon, does not ask for another rotation.
func (r *Record) wasInterrupted(now time.Time) bool {
	return r.State != StateAborting && r.State != StateAborted && r.Lease.Holder != "" && now.Before(r.Lease.Until.Add(24*time.Hour))
}

// hasJustEnded reports whether a rotation was done within the last minutes. The same command
// again is then the same wish as a rule: of somebody who does not know how it ended, because
// the connection or the process did before the answer came.
func (r *Record) hasJustEnded(now time.Time) bool {
	return r.State == StateDone && len(r.Done) > 0 && now.Before(r.Done[len(r.Done)-1].At.Add(repeats))
}

// Steps returns the steps that replace a key by another one, in their order.
func Steps() []Step {
	return []Step{StepCreateKey, StepSurvey, StepMoveAliases, StepMoveDefaults, StepMoveData, StepCheckOldKey, StepDeleteOldKey}
}

// steps are those of the record's state.
func (r *Record) steps() []Step {
	switch {
	case r.State == StateAborting || r.State == StateAborted:
		return []Step{StepRestoreAliases, StepRestoreDefaults, StepRestoreData, StepDisableNewKey}
	case r.Step == StepRotateMaterial, len(r.Done) > 0 && r.Done[0].Step == StepRotateMaterial:
		return []Step{StepRotateMaterial}
	}
	steps := Steps()
	if !r.Options.DeleteOld {
		steps = steps[:len(steps)-1]
	}
	return steps
}

// goesOn reports whether a step is left up to and including until, "" for the last.
func (r *Record) goesOn(until Step) bool {
	steps := r.steps()
	return !r.Ended() && (until == "" || slices.Index(steps, r.Step) <= slices.Index(steps, until))
}

// finish notes that a step is done, and what is next. It does nothing where the record is
// at another one.
func (r *Record) finish(step Step, at time.Time, what string) {
	if r.Step != step {
		return
	}
	steps := r.steps()
	i := slices.Index(steps, r.Step)
	r.Done = append(r.Done, Done{r.Step, at, what})
	r.Waits, r.Why, r.Creating = time.Time{}, "", time.Time{}
	switch {
	case i+1 < len(steps):
		r.Step = steps[i+1]
	case r.State == StateAborting:
		r.State, r.Step = StateAborted, ""
	default:
		r.State, r.Step = StateDone, ""
	}
}

// claim says which rotation an alias belongs to: rotations/aliases/<alias>.json.
type claim struct {
	Rotation string `json:"rotation"`
}

// Schema names the document for package state.
func (*claim) Schema() (string, int) { return "rotation-alias", 1 }

const recordPrefix = "rotations/id/"

func recordKey(id string) string { return recordPrefix + state.Segment(id) + ".json" }
func claimKey(alias string) string {
	return "rotations/alias/" + state.Segment(alias) + ".json"
}

// What a caller may decide on, with errors.Is.
var (
	// ErrNone: there is no such rotation.
	ErrNone = errors.New("there is no such rotation")
	// ErrBusy: somebody else works on the rotation, or has until a moment ago.
	ErrBusy = errors.New("somebody else works on this rotation")
	// ErrState: the rotation's state does not allow it.
	ErrState = errors.New("not possible in the rotation's state")
)

// Read reads the rotation with this id, or the last one of an alias ("alias/NAME").
// ErrNone.
func Read(ctx context.Context, store *state.Store, name string) (Record, error) {
	if strings.HasPrefix(name, "alias/") {
		var c claim
		switch _, err := store.Get(ctx, claimKey(name), &c); {
		case errors.Is(err, state.ErrNotFound):
			return Record{}, fmt.Errorf("rotation of %s: %w", name, ErrNone)
		case err != nil:
			return Record{}, fmt.Errorf("read rotation of %s: %w", name, err)
		}
		name = c.Rotation
	}
	var r Record
	switch _, err := store.Get(ctx, recordKey(name), &r); {
	case errors.Is(err, state.ErrNotFound):
		return Record{}, fmt.Errorf("rotation %s: %w", name, ErrNone)
	case err != nil:
		return Record{}, fmt.Errorf("read rotation %s: %w", name, err)
	}
	return r, nil
}

// List reads all rotations, the newest first. With an error that is state.ErrUnreadable
// come the others.
func List(ctx context.Context, store *state.Store) ([]Record, error) {
	var all []Record
	var errs []error
	for r, err := range state.Documents[Record](ctx, store, recordPrefix) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b Record) int { return b.Started.Compare(a.Started) })
	return all, errors.Join(errs...)
}

// Moves reports whether a rotation moves the data of an alias that points from one of
// its keys to the other, and returns its id: the fleet then starts no jobs of its own.
// An alias that comes from another key as well is the fleet's. Nothing but the record
// in the state bucket is asked.
func Moves(ctx context.Context, store *state.Store, alias string, from []string, to string) (id string, err error) {
	r, err := Read(ctx, store, alias)
	switch {
	case errors.Is(err, ErrNone):
		return "", nil
	case err != nil:
		return "", err
	}
	there := r.New != "" && to == r.New && slices.Equal(from, []string{r.Old}) && r.State != StateAborted
	back := r.New != "" && to == r.Old && slices.Equal(from, []string{r.New}) && (r.State == StateAborting || r.State == StateAborted)
	if !there && !back {
		return "", nil
	}
	return r.ID, nil
}
