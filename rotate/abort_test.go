package rotate_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cmkeeper/cmkeeper/retire"
	"github.com/cmkeeper/cmkeeper/rotate"
)

// until starts a rotation and works on it to the end of a step.
func (w *world) until(step rotate.Step, c rotate.Choices) rotate.Record {
	w.t.Helper()
	m := w.machine(nil)
	rec, _, err := m.rotator.Start(w.t.Context(), app, []string{logs}, c)
	w.must(err)
	rec, err = m.rotator.Resume(w.t.Context(), rec.ID, step)
	w.must(err)
	return rec
}

func abort(leaveData bool) func(*machine) (rotate.Record, error) {
	return func(m *machine) (rotate.Record, error) { return m.rotator.Abort(m.t.Context(), app, leaveData) }
}

func resume(m *machine) (rotate.Record, error) { return m.rotator.Resume(m.t.Context(), app, "") }

// isUndone requires that everything is as it was before the rotation, but for the new
// key, which waits for a day to pass, and then that it is disabled.
func (w *world) isUndone(rec rotate.Record) {
	w.t.Helper()
	w.pointsTo(w.old)
	w.allUnder(w.old)
	w.isIn(w.old, "Enabled")
	if rec.New == "" {
		if rec.State != rotate.StateAborted || len(w.tagged()) > 0 {
			w.t.Errorf("the rotation is %s at %q; %v are new keys", rec.State, rec.Step, w.tagged())
		}
		return
	}
	w.isIn(rec.New, "Enabled")
	if rec.State != rotate.StateAborting || rec.Step != rotate.StepDisableNewKey || time.Until(rec.Waits) < 23*time.Hour {
		w.t.Errorf("the rotation is %s at %q until %s: %s", rec.State, rec.Step, rec.Waits, rec.Why)
	}
	time.Sleep(25 * time.Hour)
	rec, _ = w.chain(resume)
	if rec.State != rotate.StateAborted || len(rec.Left) > 0 {
		w.t.Errorf("the rotation is %s at %q, and left are %v: %s", rec.State, rec.Step, rec.Left, rec.Why)
	}
	w.isIn(rec.New, "Disabled")
	w.didOnce("DisableKey", 1)
	if a, ok, err := retire.ReadApproval(w.t.Context(), w.store(), rec.New); !ok || err != nil || a.Days != 0 {
		w.t.Errorf("the fleet would enable the key again: %v, %t, %v", a, ok, err)
	}
	w.pointsTo(w.old)
	w.allUnder(w.old)
	again, err := resume(w.machine(nil))
	w.must(err)
	if again.State != rotate.StateAborted || len(again.Done) != len(rec.Done) {
		w.t.Errorf("resumed, the rotation is %s: %v", again.State, again.Done)
	}
}

var steps = []rotate.Step{
	rotate.StepCreateKey, rotate.StepSurvey, rotate.StepMoveAliases, rotate.StepMoveDefaults, rotate.StepMoveData, rotate.StepCheckOldKey,
}

// TestAbortFromEachStep undoes a rotation that has come to the end of a step, with
// processes that are killed after each of their writes.
func TestAbortFromEachStep(t *testing.T) {
	for _, step := range steps {
		t.Run(string(step), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2)
				stop := w.fleet()
				w.until(step, rotate.Choices{})
				w.live("during")
				rec, kills := w.chain(abort(false))
				stop()
				w.isUndone(rec)
				t.Logf("%d processes were killed", kills)
			})
		})
	}
}

// TestAbortWithinAStep undoes a rotation that was killed in the middle of a step.
func TestAbortWithinAStep(t *testing.T) {
	for _, tt := range []struct {
		operation string
		n         int
		after     bool
	}{
		{"CreateKey", 1, false}, {"CreateKey", 1, true}, {"PutKeyPolicy", 1, false}, {"EnableKeyRotation", 1, false},
		{"UpdateAlias", 1, false}, {"UpdateAlias", 1, true}, {"UpdateAlias", 2, true}, {"PutBucketEncryption", 1, true},
		{"SendMessage", 1, false}, {"SendMessage", 2, true}, {"SendMessage", 3, true},
	} {
		k := kill{n: tt.n, after: tt.after}
		t.Run(tt.operation+strings.TrimPrefix(k.String(), "request"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2)
				first := w.machine(func(m *machine) { m.dies, m.after, m.counts = tt.n, tt.after, only(tt.operation) })
				if _, err := first.begin(rotate.Choices{}); err == nil || !first.died() {
					t.Fatalf("it was not killed: %v", err)
				}
				w.live("during")
				stop := w.fleet() // which finds the jobs under way
				rec, err := abort(false)(w.machine(nil))
				w.must(err)
				stop()
				w.isUndone(rec)
				if got := len(w.tagged()); tt.operation == "CreateKey" && got != map[bool]int{true: 1}[tt.after] {
					t.Errorf("%d keys are new", got)
				}
			})
		})
	}
}

// TestAbortLeavesData undoes a rotation but for the data.
func TestAbortLeavesData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		stop := w.fleet()
		before := len(w.bodies)
		w.until(rotate.StepMoveData, rotate.Choices{})
		rec, _ := w.chain(abort(true))
		stop()
		w.live("later")
		check := func(rec rotate.Record) {
			t.Helper()
			if rec.State != rotate.StateAborted || !slices.Equal(ids(rec), []string{"objects:" + byAlias, "objects:" + byARN, "objects:" + byWriter}) {
				t.Errorf("the rotation is %s at %q, and left are %v: %s", rec.State, rec.Step, ids(rec), rec.Why)
			}
			w.isIn(rec.New, "Enabled")
			w.pointsTo(w.old)
			if under := w.readable(); under[rec.New] != before || under[w.old] != 3 {
				t.Errorf("object versions by key: %v", under)
			}
		}
		check(rec)
		rec, err := resume(w.machine(nil)) // the data is there still, and was just read
		w.must(err)
		check(rec)
		w.didOnce("DisableKey", 0)
	})
}

// ids are those of what is left, but for the last use.
func ids(rec rotate.Record) (all []string) {
	for _, l := range rec.Left {
		if l.ID != "last-use" {
			all = append(all, l.ID)
		}
	}
	slices.Sort(all)
	return all
}

// TestNewKeyStaysEnabled finds something on the new key of an abort after it was put back.
func TestNewKeyStaysEnabled(t *testing.T) {
	grant := func(w *world, key string) (undo func()) {
		out, err := w.kms.CreateGrant(w.t.Context(), &kms.CreateGrantInput{
			KeyId: &key, GranteePrincipal: aws.String("arn:aws:iam::" + account + ":role/app"), Operations: []kmstypes.GrantOperation{"Decrypt"},
		})
		w.must(err)
		return func() {
			_, err := w.kms.RevokeGrant(w.t.Context(), &kms.RevokeGrantInput{KeyId: &key, GrantId: out.GrantId})
			w.must(err)
		}
	}
	object := func(w *world, key string) func() {
		w.putUnder(byWriter, "stray", key)
		return func() {
			w.readable() // also what is under the new key
			w.putUnder(byWriter, "stray", w.old)
			time.Sleep(25 * time.Hour)
		}
	}
	alias := func(w *world, key string) func() {
		_, err := w.kms.CreateAlias(w.t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/other"), TargetKeyId: &key})
		w.must(err)
		return func() {
			_, err := w.kms.DeleteAlias(w.t.Context(), &kms.DeleteAliasInput{AliasName: aws.String("alias/other")})
			w.must(err)
		}
	}
	for name, tt := range map[string]struct {
		put  func(*world, string) func()
		left string
	}{"a grant": {grant, "grant:"}, "an object": {object, "objects:" + byWriter}, "an alias": {alias, "alias:alias/other"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1)
				stop := w.fleet()
				w.until(rotate.StepMoveAliases, rotate.Choices{})
				rec, err := abort(false)(w.machine(nil))
				w.must(err)
				stop()
				undo := tt.put(w, rec.New)
				time.Sleep(25 * time.Hour)
				rec, err = resume(w.machine(nil))
				w.must(err)
				if rec.State != rotate.StateAborted || len(rec.Left) != 1 || !strings.HasPrefix(rec.Left[0].ID, tt.left) {
					t.Errorf("the rotation is %s, and left are %v: %s", rec.State, rec.Left, rec.Why)
				}
				w.isIn(rec.New, "Enabled")
				undo()
				rec, err = resume(w.machine(nil))
				w.must(err)
				if rec.State != rotate.StateAborted || len(rec.Left) > 0 {
					t.Errorf("the rotation is %s until %s, and left are %v: %s", rec.State, rec.Waits, rec.Left, rec.Why)
				}
				w.isIn(rec.New, "Disabled")
				w.allUnder(w.old)
			})
		})
	}
}

// TestNewKeyInUse waits for a new key that is used, and nothing else, and says so.
func TestNewKeyInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.fleet()()
		w.until(rotate.StepCreateKey, rotate.Choices{})
		rec, err := abort(false)(w.machine(nil))
		w.must(err)
		time.Sleep(20 * time.Hour)
		_, err = w.kms.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &rec.New, Plaintext: []byte("something")})
		w.must(err)
		for range 2 {
			rec, err = resume(w.machine(nil))
			w.must(err)
			if rec.State != rotate.StateAborting || rec.Waits.Before(time.Now()) {
				t.Errorf("the rotation is %s until %s: %s", rec.State, rec.Waits, rec.Why)
			}
			time.Sleep(5 * time.Hour)
		}
		if !strings.Contains(rec.Why, "Encrypt at") {
			t.Error(rec.Why)
		}
		w.isIn(rec.New, "Enabled")
	})
}

// TestNewKeyDisabledByOthers claims nothing of a key that it could not look at.
func TestNewKeyDisabledByOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		stop := w.fleet()
		rec := w.until(rotate.StepMoveData, rotate.Choices{})
		_, err := w.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &rec.New})
		w.must(err)
		rec, err = abort(false)(w.machine(nil))
		w.must(err)
		if rec.Step != rotate.StepRestoreData || !strings.Contains(rec.Why, "enable-key") {
			t.Errorf("the rotation is at %s: %s", rec.Step, rec.Why)
		}
		_, err = w.kms.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: &rec.New})
		w.must(err)
		rec, err = resume(w.machine(nil))
		w.must(err)
		stop()
		w.allUnder(w.old)
		_, err = w.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &rec.New})
		w.must(err)
		rec, err = resume(w.machine(nil))
		w.must(err)
		if rec.State != rotate.StateAborted || len(rec.Left) != 1 || !strings.Contains(rec.Left[0].What, "not looked at") {
			t.Errorf("the rotation is %s, and left are %v", rec.State, rec.Left)
		}
	})
}

// TestAliasMovedByOthers has somebody move an alias while it is rotated.
func TestAliasMovedByOthers(t *testing.T) {
	move := func(w *world, alias string) string {
		created, err := w.kms.CreateKey(w.t.Context(), &kms.CreateKeyInput{})
		w.must(err)
		_, err = w.kms.UpdateAlias(w.t.Context(), &kms.UpdateAliasInput{AliasName: &alias, TargetKeyId: created.KeyMetadata.Arn})
		w.must(err)
		return *created.KeyMetadata.Arn
	}
	t.Run("before the new key is made", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1)
			m := w.machine(nil)
			_, _, err := m.rotator.Start(t.Context(), app, []string{logs}, rotate.Choices{})
			w.must(err)
			move(w, logs)
			if _, err = resume(m); err == nil || !strings.Contains(err.Error(), logs+" does not point to key") {
				t.Error(err)
			}
			w.didOnce("CreateKey", 0)
			rec, err := abort(false)(w.machine(nil))
			w.must(err)
			if rec.State != rotate.StateAborted {
				t.Errorf("the rotation is %s", rec.State)
			}
		})
	})
	t.Run("between two moves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1)
			defer w.fleet()()
			w.until(rotate.StepSurvey, rotate.Choices{})
			third := move(w, logs)
			if _, err := resume(w.machine(nil)); err == nil || !strings.Contains(err.Error(), "somebody else has moved it") {
				t.Error(err)
			}
			rec, err := abort(false)(w.machine(nil))
			w.must(err)
			if got := w.targets(); got[app] != w.old || got[logs] != third {
				t.Errorf("the aliases are at %v", got)
			}
			if i := slices.IndexFunc(rec.Done, func(d rotate.Done) bool { return d.Step == rotate.StepRestoreAliases }); i < 0 || !strings.Contains(rec.Done[i].What, logs+" points to key "+third) {
				t.Errorf("done are %v", rec.Done)
			}
			w.allUnder(w.old)
		})
	})
}

// TestAbortInScope moves what came under the new key in a bucket back that the rotation
// was not to move.
func TestAbortInScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		stop := w.fleet()
		w.until(rotate.StepCheckOldKey, rotate.Choices{Buckets: []string{byARN}})
		w.live("during")
		rec, err := abort(false)(w.machine(nil))
		w.must(err)
		stop()
		w.isUndone(rec)
	})
}

// TestAbortOfTheLastButOne leaves a rotation alone whose alias was rotated again.
func TestAbortOfTheLastButOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.fleet()()
		first, err := w.machine(nil).begin(rotate.Choices{})
		w.must(err)
		time.Sleep(time.Hour)
		second, err := w.machine(nil).begin(rotate.Choices{})
		w.must(err)
		if first.ID == second.ID || second.Old != first.New {
			t.Fatalf("the second rotation is %s", second.ID)
		}
		m := w.machine(nil)
		if _, err := m.rotator.Abort(t.Context(), first.ID, false); err == nil {
			t.Error("the first rotation is being aborted")
		}
		rec, err := rotate.Read(t.Context(), w.store(), first.ID)
		w.must(err)
		if rec.State != rotate.StateDone {
			t.Errorf("the first rotation is %s", rec.State)
		}
		w.pointsTo(second.New)
		w.allUnder(second.New)
	})
}

// TestUntilOfTheDone does nothing where the step to stop after is done.
func TestUntilOfTheDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		rec := w.until(rotate.StepSurvey, rotate.Choices{})
		m := w.machine(func(m *machine) { m.counts = func(r *http.Request) bool { return r.Host != "" && isWrite(r) } })
		again, err := m.rotator.Resume(t.Context(), app, rotate.StepCreateKey)
		w.must(err)
		if again.Step != rec.Step || len(again.Done) != len(rec.Done) {
			t.Errorf("the rotation is at %s", again.Step)
		}
	})
}
