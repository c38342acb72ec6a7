package rotate_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/rotate"
)

// TestRotate plays a rotation that nothing happens to.
func TestRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 6)
		defer w.fleet()()
		m := w.machine(nil)
		rec, begun, err := m.rotator.Start(t.Context(), app, []string{logs}, rotate.Choices{})
		if err != nil || !begun {
			t.Fatal(begun, err)
		}
		rec, err = m.rotator.Resume(t.Context(), rec.ID, "")
		w.must(err)
		w.isRotated(rec)
		t.Log(m.n, "requests", w.done)
		for _, line := range m.said {
			t.Log(line)
		}
	})
}

// isRotated requires that a rotation is done, and everything was done once.
func (w *world) isRotated(rec rotate.Record) {
	w.t.Helper()
	if rec.State != rotate.StateDone || rec.Waits != (time.Time{}) || rec.Why != "" {
		w.t.Errorf("the rotation is %s at %q: %s", rec.State, rec.Step, rec.Why)
	}
	if len(rec.Left) > 0 {
		w.t.Errorf("left are %v", rec.Left)
	}
	w.isLikeOld(rec)
	w.pointsTo(rec.New)
	w.allUnder(rec.New)
	w.isIn(w.old, "Enabled")
	if diff := cmp.Diff(map[[2]string]int{{byARN, rec.New}: 1, {byAlias, rec.New}: 1, {byWriter, rec.New}: 1}, w.jobs()); diff != "" {
		w.t.Errorf("jobs (-want +got):\n%s", diff)
	}
	w.didOnce("CreateKey", 1)
	w.didOnce("UpdateAlias", 2)
	w.didOnce("PutBucketEncryption", 1)
}

func (w *world) didOnce(what string, times int) {
	w.t.Helper()
	if got := w.done[what]; got != times {
		w.t.Errorf("%s was done %d times, want %d", what, got, times)
	}
}

// kill is the end of a process: with its nth request, or its nth that writes.
type kill struct {
	n      int
	after  bool
	writes bool
}

func (k kill) String() string {
	what := map[bool]string{true: "write", false: "request"}[k.writes]
	return fmt.Sprintf("%s %d, %s", what, k.n, map[bool]string{true: "executed", false: "not sent"}[k.after])
}

func (k kill) of(m *machine) {
	m.dies, m.after = k.n, k.after
	if k.writes {
		m.counts = isWrite
	}
}

// only counts one operation.
func only(name string) func(*http.Request) bool {
	return func(r *http.Request) bool { return operation(r) == name }
}

// begin is the command "rotate ALIAS": it starts or goes on.
func (m *machine) begin(c rotate.Choices) (rotate.Record, error) {
	rec, _, err := m.rotator.Start(m.t.Context(), app, []string{logs}, c)
	if err != nil {
		return rec, err
	}
	return m.rotator.Resume(m.t.Context(), rec.ID, "")
}

// playKilled plays a rotation that is killed once, and then gone on with from another
// machine. It returns how many requests the first process sent, and whether it was killed.
func playKilled(t *testing.T, objects int, k kill) (requests int, killed bool) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, objects)
		defer w.fleet()()
		first := w.machine(k.of)
		rec, err := first.begin(rotate.Choices{})
		if requests, killed = first.n, first.died(); !killed && err != nil {
			t.Fatal(err)
		}
		w.live("during")
		second := w.machine(nil)
		if killed {
			rec, err = second.begin(rotate.Choices{})
			w.must(err)
		}
		w.isRotated(rec)
	})
	return requests, killed
}

// soak is whether the long versions of the tests run (make soak).
func soak() bool { return os.Getenv("CMKEEPER_SOAK") != "" }

// TestKilledRotation kills one process of each rotation: in the long version with each
// of its requests, before it is sent and after it is executed, and else with some of those
// that write. Between two writes all kills leave the same behind.
func TestKilledRotation(t *testing.T) {
	if soak() {
		for n, killed := 1, true; killed; n++ {
			for _, after := range []bool{false, true} {
				k := kill{n, after, false}
				t.Run(k.String(), func(t *testing.T) { _, killed = playKilled(t, 2, k) })
			}
		}
		return
	}
	for n, killed := 1, true; killed; n += 6 {
		k := kill{n, n%4 == 1, true}
		t.Run(k.String(), func(t *testing.T) { _, killed = playKilled(t, 2, k) })
	}
}

// chain has one process after another work until the work is done, each of which is
// killed right after its second write, or later where that came to nothing: so that one is
// killed after each write of the work. It returns how many were killed.
func (w *world) chain(do func(*machine) (rotate.Record, error)) (rec rotate.Record, kills int) {
	w.t.Helper()
	before := ""
	for n := 2; ; {
		m := w.machine(func(m *machine) {
			kill{n, true, true}.of(m)
			if w.hire != nil {
				w.hire(m)
			}
		})
		rec, err := do(m)
		if !m.died() {
			w.must(err)
			return rec, kills
		}
		if kills++; kills > 300 {
			w.t.Fatalf("no end after %d processes, at %s", kills, before)
		}
		n++
		if now := w.progress(); now != before {
			before, n = now, 2
		}
	}
}

// progress is how far the rotation is, without what differs in each survey.
func (w *world) progress() string {
	w.t.Helper()
	rec, err := rotate.Read(w.t.Context(), w.store(), app)
	if errors.Is(err, rotate.ErrNone) {
		return ""
	}
	w.must(err)
	p := fmt.Sprint(rec.State, rec.Step, len(rec.Done), rec.New, rec.Creating.IsZero(), len(rec.Moves), rec.Defaults, len(rec.Back), len(rec.Left), rec.Deletion)
	for _, m := range slices.Concat(rec.Moves, rec.Back) {
		p += fmt.Sprint(m.Ordered.IsZero(), m.Job, m.Ended)
	}
	return p
}

// TestKilledAfterEachWrite kills a process after each write of one rotation.
func TestKilledAfterEachWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.fleet()()
		rec, kills := w.chain(func(m *machine) (rotate.Record, error) {
			w.live(fmt.Sprintf("during/%d", len(w.bodies)%7))
			return m.begin(rotate.Choices{})
		})
		w.isRotated(rec)
		t.Logf("%d processes were killed", kills)
	})
}

// TestSoakKilledRotation kills a rotation over 20,000 objects after each of its writes, and
// others at some of their requests.
func TestSoakKilledRotation(t *testing.T) {
	if !soak() {
		t.Skip("set CMKEEPER_SOAK=1: some minutes, in make soak")
	}
	const perBucket = 20_000/3 + 1
	t.Run("after each write", func(t *testing.T) {
		began := time.Now()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, perBucket)
			defer w.fleet()()
			rec, kills := w.chain(func(m *machine) (rotate.Record, error) { return m.begin(rotate.Choices{}) })
			w.isRotated(rec)
			t.Logf("%d processes were killed; %d object versions read back", kills, len(w.bodies))
		})
		t.Logf("%s", time.Since(began).Round(time.Second))
	})
	requests, _ := playKilled(t, perBucket, kill{})
	t.Logf("%d requests", requests)
	for _, n := range []int{1, 30, requests / 4, requests - 240, requests - 100, requests - 60, requests - 30, requests - 1, requests} {
		for _, after := range []bool{false, true} {
			k := kill{n, after, false}
			t.Run(k.String(), func(t *testing.T) {
				if _, killed := playKilled(t, perBucket, k); !killed {
					t.Errorf("it has no request %d", n)
				}
			})
		}
	}
}
