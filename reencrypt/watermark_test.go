package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

func TestOrderHandsOnInTheOrderOfTheListing(t *testing.T) {
	var got []string
	o := &order{room: make(chan struct{}, 3), release: func(_ context.Context, en entry, _ verdict, last bool) error {
		got = append(got, fmt.Sprint(en.key, en.version, last))
		return nil
	}}
	expect := func(key, version string) *turn {
		turn, err := o.next(t.Context(), entry{key: key, version: version})
		if err != nil {
			t.Fatal(err)
		}
		return turn
	}
	done := func(turn *turn) {
		if err := o.done(t.Context(), turn, verdict{}); err != nil {
			t.Error(err)
		}
	}
	a1, a2, b := expect("a", "1"), expect("a", "2"), expect("b", "1")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := o.next(over, entry{key: "c"}); !errors.Is(err, context.Canceled) {
		t.Errorf("there is room for a fourth: %v", err)
	}
	done(a2)
	done(b)
	if len(got) > 0 {
		t.Errorf("%q were counted before the first", got)
	}
	done(a1)
	if want := []string{"a1false", "a2true", "b1false"}; !slices.Equal(got, want) { // what follows b is not known
		t.Errorf("counted %q, want %q", got, want)
	}

	// After an error nothing is counted: it would be counted without what failed.
	failed := errors.New("no")
	o.release = func(context.Context, entry, verdict, bool) error { got = nil; return failed }
	c, d := expect("c", "1"), expect("d", "1")
	if err := o.done(t.Context(), c, verdict{}); !errors.Is(err, failed) {
		t.Errorf("error %v", err)
	}
	o.release = func(context.Context, entry, verdict, bool) error { t.Error("counted after an error"); return nil }
	done(d)
}

func TestBudgetEndsAtANewKey(t *testing.T) {
	entries := func(yield func(entry, error) bool) {
		for _, key := range []string{"a", "a", "b", "c"} {
			if !yield(entry{key: key}, nil) {
				return
			}
		}
	}
	for name, c := range map[string]struct {
		deadline time.Time
		want     []string
		over     bool
	}{
		"in time":        {time.Now().Add(time.Hour), []string{"a", "a", "b", "c"}, false},
		"one key at all": {time.Now().Add(-time.Hour), []string{"a", "a"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			within, over := budget(iter.Seq2[entry, error](entries), c.deadline)
			var got []string
			for en := range within {
				got = append(got, en.key)
			}
			if !slices.Equal(got, c.want) || over() != c.over {
				t.Errorf("got %q, over: %t", got, over())
			}
		})
	}
}

// slow makes every write take long enough for a slice to be recorded.
func (w *world) slow(each time.Duration) {
	w.aws.SetFaults(localaws.Fault{Service: "s3", Operations: []string{"UpdateObjectEncryption"}, Effect: localaws.Delay, Latency: localaws.Latency{Min: each, Mean: each}})
}

// planned starts a job and plans it.
func (w *world) planned(e *Engine) string {
	w.t.Helper()
	jobs, err := e.Start(w.t.Context(), w.move(time.Now(), w.b, w.a))
	w.must(err)
	w.must(e.Handle(w.t.Context(), []byte(`{"v":1,"job":"`+jobs[0]+`","pass":1,"plan":true,"slice":0}`)))
	return jobs[0]
}

func sliceMessage(job string, n int) []byte {
	return fmt.Appendf(nil, `{"v":1,"job":%q,"pass":1,"slice":%d}`, job, n)
}

// TestKilledSliceGoesOn kills a worker in the middle of a slice, after which
// nothing of it takes effect, and has another one go on.
func TestKilledSliceGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const objects, atOnce = 200, 4
		w := newWorld(t)
		defer w.aws.Close()
		w.versioning(types.BucketVersioningStatusEnabled)
		for i := range objects / 2 {
			key := fmt.Sprintf("k%03d", i)
			w.put(key, w.a)
			w.put(key, w.a)
		}
		w.put("k000", w.a, func(in *s3.PutObjectInput) { in.ServerSideEncryption = types.ServerSideEncryptionAwsKmsDsse }) // is refused
		before := w.snapshot()
		set := func(o *Options) { o.SliceSize, o.Concurrency = 1000, atOnce }
		first, second := w.engine(set), w.engine(set)
		job := w.planned(first)
		w.slow(time.Second)

		ctx, kill := context.WithCancel(t.Context())
		var killed sync.WaitGroup
		killed.Go(func() { _ = first.Handle(ctx, sliceMessage(job, 0)) })
		time.Sleep(33 * time.Second) // of some fifty
		w.aws.SetIdentityPolicy("worker", func(string, string) bool { return false })
		w.aws.SetFaults(localaws.Fault{Service: "s3", Effect: localaws.DropBefore})
		kill()
		killed.Wait()
		w.aws.SetIdentityPolicy("worker", nil)
		w.aws.SetFaults()

		var p progressDoc
		_, err := w.store.Get(t.Context(), progressKey(job, 1, 0), &p)
		w.must(err)
		if p.Counts.Scanned < objects/4 || p.Counts.Scanned%2 != 1 || p.Counts.Refused != 1 || len(p.Rows) != 1 {
			t.Errorf("the record at %q: %+v, %d blobs of rows", p.After, p.Counts, len(p.Rows))
		}
		s, err := second.Status(t.Context(), job)
		w.must(err)
		if s.InPass != p.Counts.Scanned || s.Done != 0 || s.Slices != 1 || !s.Planned || s.ByReason[ReasonDSSE] != 1 {
			t.Errorf("status in the middle: %+v", s)
		}

		_, err = second.methodOf(t.Context(), spec{To: w.b, Method: MethodUpdate}) // the probe reads, too
		w.must(err)
		reads := w.aws.Requests("s3", "HeadObject")
		w.must(second.Handle(t.Context(), sliceMessage(job, 0)))
		if again := w.aws.Requests("s3", "HeadObject") - reads; again != objects+1-int(p.Counts.Scanned) {
			t.Errorf("%d object versions were read again, of %d with %d recorded", again, objects+1, p.Counts.Scanned)
		}
		f := &fleet{world: w, engines: []*Engine{second}}
		f.work()
		w.check(before, w.refusedRows(job), []string{w.a}, w.b, false, true)
		if len(w.told.completed) != 1 || w.told.completed[0].Scanned != objects+1 || w.told.completed[0].Refused != 1 {
			t.Errorf("told of %+v", w.told.completed)
		}
		if left := w.keysLeft("cmkeeper/jobs/" + job + "/progress/"); left > 0 {
			t.Errorf("%d records are left", left)
		}
	})
}

// TestSliceHandsBackWhenItsBudgetIsOver has a slice that takes longer than a
// message may work on it.
func TestSliceHandsBackWhenItsBudgetIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const objects = 60
		w := newWorld(t)
		defer w.aws.Close()
		for i := range objects {
			w.put(fmt.Sprintf("k%03d", i), w.a)
		}
		e := w.engine(func(o *Options) { o.SliceSize, o.Concurrency = 1000, 1 })
		job := w.planned(e)
		w.slow(20 * time.Second) // twenty minutes in all
		began := time.Now()
		w.must(e.Handle(t.Context(), sliceMessage(job, 0)))
		if took := time.Since(began); took < sliceBudget || took > sliceBudget+time.Minute {
			t.Errorf("it worked for %s", took)
		}
		if left := w.keysLeft("cmkeeper/jobs/" + job + "/results/"); left > 0 {
			t.Error("a slice that is not done has a result")
		}
		f := &fleet{world: w, engines: []*Engine{e}}
		w.must(e.Resume(t.Context(), time.Now()))
		f.handle(2) // the planner of Start, and a slice
		w.must(e.Resume(t.Context(), time.Now().Add(stallAfter)))
		if len(w.told.stalled) > 0 {
			t.Errorf("people are told of a slice that is slow: %+v", w.told.stalled)
		}
		f.work()
		if len(w.told.completed) != 1 {
			t.Fatalf("told of %d completed jobs", len(w.told.completed))
		}
		want := Counts{Scanned: objects, Moved: objects, Bytes: w.told.completed[0].Bytes}
		if d := cmp.Diff(want, w.told.completed[0].Counts); d != "" {
			t.Error("counts:", d)
		}
		if n := w.aws.Requests("s3", "UpdateObjectEncryption"); n > objects+2 { // the probe's
			t.Errorf("%d writes for %d objects", n, objects)
		}
	})
}

// TestTwoWorkersInOneSlice has the same slice worked on twice at a time: the one
// that records second leaves it to the other, and everything counts once.
func TestTwoWorkersInOneSlice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const objects = 100
		w := newWorld(t)
		defer w.aws.Close()
		for i := range objects {
			w.put(fmt.Sprintf("k%03d", i), w.a)
		}
		set := func(o *Options) { o.SliceSize, o.Concurrency = 1000, 2 }
		engines := []*Engine{w.engine(set), w.engine(set)}
		job := w.planned(engines[0])
		w.slow(time.Second)
		var both sync.WaitGroup
		actions := make([]outcome.Action, 2)
		for i, e := range engines {
			both.Go(func() { actions[i] = outcome.Of(e.Handle(t.Context(), sliceMessage(job, 0))).Action })
		}
		both.Wait()
		slices.Sort(actions)
		if want := []outcome.Action{outcome.Delete, outcome.Delay}; !slices.Equal(actions, want) {
			t.Errorf("the workers' messages: %v, want %v", actions, want)
		}
		var r resultDoc
		_, err := w.store.Get(t.Context(), resultKey(job, 1, 0), &r)
		w.must(err)
		if r.Counts.Scanned != objects || r.Counts.Moved+r.Counts.Skipped != objects {
			t.Errorf("%+v, there are %d objects", r.Counts, objects)
		}
		// The record is gone, so a worker that wakes up now cannot go on with it.
		var p progressDoc
		if _, err := w.store.Get(t.Context(), progressKey(job, 1, 0), &p); !errors.Is(err, state.ErrNotFound) {
			t.Errorf("a record is left: %v", err)
		}
	})
}
