package reencrypt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

func TestRivals(t *testing.T) {
	move := func(bucket, prefix, to string, from ...string) spec {
		return spec{Bucket: bucket, Prefix: prefix, From: from, To: to}
	}
	base := move("b", "p/", "B", "A")
	for name, c := range map[string]struct {
		other spec
		want  bool
	}{
		"the same":                  {base, false},
		"another bucket":            {move("c", "p/", "C", "A"), false},
		"another prefix":            {move("b", "q/", "C", "A"), false},
		"other keys":                {move("b", "", "D", "C"), false},
		"another key for the same":  {move("b", "p/q", "C", "A"), true},
		"on from where it moves to": {move("b", "", "C", "B"), true},
		"to where it moves from":    {move("b", "", "A", "C"), true},
		"back":                      {move("b", "p/", "A", "B"), true},
		"part of the same":          {move("b", "p/q", "B", "A", "C"), false},
	} {
		if got := rivals(base, c.other); got != c.want || rivals(c.other, base) != c.want {
			t.Errorf("%s: %t, want %t both ways", name, got, c.want)
		}
	}
}

func TestJobOfAnOrder(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	s := spec{Bucket: "b", From: []string{"A"}, To: "B", Versions: VersionsAll, Method: MethodAuto}
	first, err := jobOf(s, now, nil, now)
	if err != nil || first.ID == "" || first.State != StateRunning {
		t.Fatalf("%+v, %v", first, err)
	}
	again, _ := jobOf(s, now, []jobDoc{first}, now.Add(time.Hour))
	next, _ := jobOf(s, now.Add(time.Minute), []jobDoc{first}, now)
	open, _ := jobOf(s, time.Time{}, []jobDoc{first}, now)
	over, _ := jobOf(s, time.Time{}, nil, now.Add(time.Minute))
	if again.ID != first.ID || open.ID != first.ID || next.ID == first.ID || over.ID == first.ID {
		t.Errorf("ids: %s, again %s, another plan %s, open %s, not open %s", first.ID, again.ID, next.ID, open.ID, over.ID)
	}
	elsewhere := s
	elsewhere.To = "C"
	if _, err := jobOf(elsewhere, time.Time{}, []jobDoc{first}, now); !errors.Is(err, ErrRival) || !strings.Contains(err.Error(), first.ID) {
		t.Errorf("error %v does not name the job in the way", err)
	}
	for _, ended := range []State{StateStopped, StateCancelled} {
		first.State, first.Finished = ended, now
		if j, err := jobOf(elsewhere, time.Time{}, []jobDoc{first}, now); err != nil || !j.NotBefore.Equal(now.Add(supersedeGrace)) {
			t.Errorf("after a %s job the last pass begins at %s (%v)", ended, j.NotBefore, err)
		}
	}
}

// atWrite calls f once, when a number of objects are being written.
func (w *world) atWrite(n int64, f func()) (stop func()) {
	var writes atomic.Int64
	return w.aws.Observe(func(r localaws.Request) {
		if r.Operation == "UpdateObjectEncryption" && writes.Add(1) == n {
			f()
		}
	})
}

func (w *world) writes() int { return w.aws.Requests("s3", "UpdateObjectEncryption") }

// TestPausedJobDoesNothingAndLosesNothing pauses a job while two workers are at it.
func TestPausedJobDoesNothingAndLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const objects = 300
		w := newWorld(t)
		defer w.aws.Close()
		w.populate(objects, false)
		before := w.snapshot()
		set := func(o *Options) { o.Concurrency, o.SliceSize = 2, 30 }
		f := &fleet{world: w, engines: []*Engine{w.engine(set), w.engine(set)}}
		e := f.engines[0]
		jobs, err := e.Start(t.Context(), w.move(time.Now(), w.b, w.a))
		w.must(err)
		job := jobs[0]
		w.slow(time.Second)
		paused := make(chan struct{})
		defer w.atWrite(60, func() { close(paused) })()
		var working sync.WaitGroup
		working.Go(f.work)
		<-paused
		w.must(e.Pause(t.Context(), job))
		time.Sleep(gateInterval + 2*time.Second) // and the writes that are under way
		writes := w.writes()
		time.Sleep(5 * time.Minute)
		s, err := e.Status(t.Context(), job)
		w.must(err)
		if w.writes() != writes || s.State != StatePaused || s.Moved == 0 || s.Moved >= objects/2 {
			t.Errorf("%d writes while it was paused; %+v", w.writes()-writes, s)
		}
		working.Wait() // all messages are gone
		w.must(e.Pause(t.Context(), job))
		w.must(e.Resume(t.Context(), time.Now().Add(time.Hour)))
		if len(w.told.stalled) > 0 {
			t.Errorf("people are told of a paused job: %+v", w.told.stalled)
		}

		w.must(e.Continue(t.Context(), job))
		w.must(e.Continue(t.Context(), job)) // whoever is not sure asks twice
		w.must(e.Resume(t.Context(), time.Now().Add(time.Minute)))
		f.work()
		w.check(before, w.refusedRows(job), []string{w.a}, w.b, false, false)
		w.told.completed = slices.CompactFunc(w.told.completed, func(a, b Summary) bool { return a.Job == b.Job })
		if len(w.told.completed) != 1 || len(w.told.stalled) > 0 {
			t.Fatalf("told of %+v and %+v", w.told.completed, w.told.stalled)
		}
		if c := w.told.completed[0].Counts; c.Scanned != objects || c.Scanned != c.Moved+c.Skipped+c.Refused {
			t.Errorf("counts do not add up: %+v", c)
		}
		if s, err := e.Status(t.Context(), job); err != nil || s.Done != s.Slices || s.Slices < objects/30 || s.Scanned != objects {
			t.Errorf("status at the end: %+v, %v", s, err)
		}
		for name, change := range map[string]func(context.Context, string) error{"pause": e.Pause, "cancel": e.Cancel, "continue": e.Continue} {
			if err := change(t.Context(), job); !errors.Is(err, ErrState) {
				t.Errorf("%s a complete job: %v", name, err)
			}
			if err := change(t.Context(), "0123456789abcdef01234567"); !errors.Is(err, ErrNoJob) {
				t.Errorf("%s no job: %v", name, err)
			}
			if err := change(t.Context(), "../../x"); !errors.Is(err, ErrNoJob) {
				t.Errorf("%s what is no id: %v", name, err)
			}
		}
	})
}

func TestCancelledJobStaysCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		w.populate(100, false)
		f := &fleet{world: w, engines: []*Engine{w.engine()}}
		e := f.engines[0]
		move := w.move(time.Now(), w.b, w.a)
		jobs, err := e.Start(t.Context(), move)
		w.must(err)
		f.handle(2)
		w.must(e.Cancel(t.Context(), jobs[0]))
		w.must(e.Cancel(t.Context(), jobs[0]))
		writes := w.writes()
		_, err = e.Start(t.Context(), move) // a repeated start is the same job
		w.must(err)
		w.must(e.Resume(t.Context(), time.Now().Add(2*supersedeGrace)))
		f.work()
		if w.writes() != writes || len(w.told.completed)+len(w.told.stalled) > 0 || w.keysLeft("cmkeeper/"+openPrefix) > 0 {
			t.Errorf("%d more writes, told of %+v %+v", w.writes()-writes, w.told.completed, w.told.stalled)
		}
		if err := e.Continue(t.Context(), jobs[0]); !errors.Is(err, ErrState) {
			t.Errorf("continue a cancelled job: %v", err)
		}
		if _, err := e.Retry(t.Context(), jobs[0]); !errors.Is(err, ErrState) {
			t.Errorf("retry a cancelled job: %v", err)
		}
		open, err := e.Jobs(t.Context(), false)
		w.must(err)
		all, err := e.Jobs(t.Context(), true)
		w.must(err)
		if len(open) != 0 || len(all) != 1 || all[0].State != StateCancelled || all[0].Finished.IsZero() {
			t.Errorf("open jobs %+v, all %+v", open, all)
		}
	})
}

// TestCancelledJobIsReported: the report of a cancelled job has what it moved, what it could
// not move, and that the rest is not known; and the status has what to do next.
func TestCancelledJobIsReported(t *testing.T) {
	for name, pass := range map[string]int{"in the first pass": 1, "in the verifying pass": 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.aws.Close()
				w.populate(60, false)
				f := &fleet{world: w, engines: []*Engine{w.engine(func(o *Options) { o.SliceSize = 10 })}}
				e := f.engines[0]
				jobs, err := e.Start(t.Context(), w.move(time.Now(), w.b, w.a))
				w.must(err)
				id := jobs[0]
				if _, err := e.Report(t.Context(), id); !errors.Is(err, ErrState) {
					t.Errorf("report of a running job: %v", err)
				}
				status := func() Status {
					s, err := e.Status(t.Context(), id)
					w.must(err)
					return s
				}
				for i := 0; i < 200 && (status().Passes < pass || status().Done < 3); i++ {
					f.handle(1)
				}
				w.must(e.Cancel(t.Context(), id))
				s := status()
				r, err := e.Report(t.Context(), id)
				w.must(err)
				if r.State != StateCancelled || r.Passes != pass || r.Moved == 0 || r.Moved != s.Moved || r.Refused == 0 {
					t.Errorf("report: %+v", r)
				}
				rows := 0
				for row, err := range e.ReportRows(t.Context(), id) {
					w.must(err)
					if row.Key == "" || row.Reason == "" {
						t.Errorf("row %+v", row)
					}
					rows++
				}
				if rows != int(r.Refused+r.Failed) || len(r.Sample) != min(rows, sampleSize) {
					t.Errorf("%d rows, %d in the sample, counts %+v", rows, len(r.Sample), r.Counts)
				}
				note := fmt.Sprintf("The job is cancelled in pass %d, with %d of %d slices done", pass, s.Done, s.Slices)
				if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.HasPrefix(n, note) }) {
					t.Errorf("notes %q, want %q", r.Notes, note)
				}
				for _, want := range []string{
					"cmkeeper reencrypt report " + id,
					"cmkeeper reencrypt start --bucket " + bucket + " --from " + w.a + " --to " + w.b,
					"cmkeeper reencrypt start --bucket " + bucket + " --from " + w.b + " --to " + w.a,
					"cmkeeper retire check " + w.a,
				} {
					if !slices.Contains(s.Next, want) {
						t.Errorf("next is %q, without %s", s.Next, want)
					}
				}
			})
		})
	}
}

func TestNext(t *testing.T) {
	for state, want := range map[State]string{
		StateRunning: "", StatePaused: "cmkeeper reencrypt resume 0123", StateStopped: "cmkeeper reencrypt resume 0123",
		StateSuperseded: "cmkeeper reencrypt list --open", StateComplete: "cmkeeper reencrypt retry 0123",
	} {
		next := Summary{Job: "0123", State: state, Counts: Counts{Refused: 1}}.Next()
		if got := strings.Join(next, "\n"); !strings.HasSuffix(got, want) || (want == "") != (got == "") {
			t.Errorf("%s: %q", state, got)
		}
	}
}

// TestStoppedJobContinues mends what a job stopped for.
func TestStoppedJobContinues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		w.populate(60, false)
		before := w.snapshot()
		f := &fleet{world: w, engines: []*Engine{w.engine()}}
		e := f.engines[0]
		w.aws.SetIdentityPolicy("worker", func(action, resource string) bool {
			return action != "s3:ListBucket" || strings.Contains(resource, stateBucket)
		})
		jobs, err := e.Start(t.Context(), w.move(time.Now(), w.b, w.a))
		w.must(err)
		f.work()
		if len(w.told.stalled) != 1 || w.told.stalled[0].State != StateStopped {
			t.Fatalf("told of %+v", w.told.stalled)
		}
		w.must(e.Resume(t.Context(), time.Now())) // a sweep
		if len(w.told.stalled) != 2 || !w.told.stalled[1].Finished.Equal(w.told.stalled[0].Finished) {
			t.Errorf("a job that is still stopped is told of: %+v", w.told.stalled)
		}
		w.must(e.Continue(t.Context(), jobs[0]))
		f.work()
		// Two messages may find the same stop, and both report it: the alert's id has its time.
		stops := map[int64]bool{}
		for _, s := range w.told.stalled {
			stops[s.Finished.Unix()] = true
		}
		if len(stops) != 2 {
			t.Errorf("a job that stops again is told of: %+v", w.told.stalled)
		}
		w.aws.SetIdentityPolicy("worker", nil)
		w.must(e.Continue(t.Context(), jobs[0]))
		f.work()
		if len(w.told.completed) != 1 || w.told.completed[0].Cause != "" {
			t.Fatalf("told of %+v", w.told.completed)
		}
		w.check(before, w.refusedRows(jobs[0]), []string{w.a}, w.b, false, false)
	})
}

// TestPauseOutlivesTheMove pauses a job whose alias then moves again.
func TestPauseOutlivesTheMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		w.populate(60, false)
		f := &fleet{world: w, engines: []*Engine{w.engine()}}
		e := f.engines[0]
		at := time.Now()
		first, err := e.Start(t.Context(), w.move(at, w.b, w.a))
		w.must(err)
		w.must(e.Pause(t.Context(), first[0]))
		second, err := e.Start(t.Context(), w.move(at.Add(time.Minute), w.c, w.b))
		w.must(err)
		f.work()
		if s, err := e.Status(t.Context(), second[0]); err != nil || s.State != StatePaused || w.writes() > 0 {
			t.Errorf("the next job is %s (%v), %d writes", s.State, err, w.writes())
		}
		if err := e.Continue(t.Context(), first[0]); !errors.Is(err, ErrState) {
			t.Errorf("a superseded job continues: %v", err)
		}
		w.must(e.Continue(t.Context(), second[0]))
		f.work()
		if len(w.told.completed) != 1 || w.told.completed[0].Job != second[0] {
			t.Errorf("told of %+v", w.told.completed)
		}
	})
}

// TestRetryGoesOverTheRowsAlone retries what was locked, half of which is not any more.
func TestRetryGoesOverTheRowsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		w.lock()
		w.populate(60, true)
		hold := func(in *s3.PutObjectInput) { in.ObjectLockLegalHoldStatus = types.ObjectLockLegalHoldStatusOn }
		checksum := func(in *s3.PutObjectInput) { in.ChecksumAlgorithm = types.ChecksumAlgorithmCrc32 }
		var held []string
		for i := range 20 {
			key := fmt.Sprintf("held/%02d, %%", i)
			held = append(held, w.put(key, w.a, hold, checksum))
			w.put(key, w.a, checksum)
			w.put(key+"x", w.a, checksum)
		}
		before := w.snapshot()
		f := &fleet{world: w, engines: []*Engine{w.engine(func(o *Options) { o.SliceSize = 4 })}}
		e := f.engines[0]
		if _, err := e.Retry(t.Context(), "0123456789abcdef01234567"); !errors.Is(err, ErrNoJob) {
			t.Errorf("retry no job: %v", err)
		}
		jobs, err := e.Start(t.Context(), w.move(time.Now(), w.b, w.a))
		w.must(err)
		if _, err := e.Retry(t.Context(), jobs[0]); !errors.Is(err, ErrState) {
			t.Errorf("retry a job that is not complete: %v", err)
		}
		f.work()
		old, err := e.Report(t.Context(), jobs[0])
		w.must(err)
		rows := w.refusedRows(jobs[0])
		if old.ByReason[ReasonObjectLock] != int64(len(held)+3) || int(old.Refused) != len(rows) {
			t.Fatalf("%+v, %d rows", old.Counts, len(rows))
		}
		var manifest bytes.Buffer
		w.must(e.WriteManifest(t.Context(), jobs[0], &manifest))
		if want := bucket + ",held/03%2C%20%25," + held[3] + "\n"; !strings.Contains(manifest.String(), want) || strings.Count(manifest.String(), "\n") != len(rows) {
			t.Errorf("want %d lines, one of them %q:\n%s", len(rows), want, manifest.String())
		}

		for i := range 10 {
			_, err := w.s3.PutObjectLegalHold(t.Context(), &s3.PutObjectLegalHoldInput{
				Bucket: aws.String(bucket), Key: aws.String(fmt.Sprintf("held/%02d, %%", i)), VersionId: &held[i],
				LegalHold: &types.ObjectLockLegalHold{Status: types.ObjectLockLegalHoldStatusOff},
			})
			w.must(err)
		}
		writes := w.writes()
		_, err = w.kms.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/data"), TargetKeyId: &w.c})
		w.must(err)
		if _, err := e.Retry(t.Context(), jobs[0]); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "cmkeeper reencrypt start --bucket "+bucket+" --from "+w.a+" --to "+w.c+":") {
			t.Errorf("retry to a key that the alias has left: %v", err)
		}
		_, err = w.kms.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: aws.String("alias/data"), TargetKeyId: &w.b})
		w.must(err)
		retried, err := e.Retry(t.Context(), jobs[0])
		w.must(err)
		f.work()
		again, err := e.Retry(t.Context(), jobs[0])
		w.must(err)
		if retried != again || retried == jobs[0] {
			t.Errorf("jobs %s, %s, %s", jobs[0], retried, again)
		}
		f.work()
		s, err := e.Report(t.Context(), retried)
		w.must(err)
		want := Counts{Scanned: int64(len(rows)), Moved: 10, Refused: int64(len(rows) - 10), Bytes: s.Bytes, ByReason: map[Reason]int64{ReasonObjectLock: 13, ReasonDSSE: old.ByReason[ReasonDSSE]}}
		if d := cmp.Diff(want, s.Counts); d != "" || w.writes() != writes+10 {
			t.Errorf("%d writes, counts: %s", w.writes()-writes, d)
		}
		for i := range before { // what the operator changed
			if i := slices.Index(held, before[i].Version); i >= 0 && i < 10 {
				before[slices.IndexFunc(before, func(o seen) bool { return o.Version == held[i] })].Lock[1] = string(types.ObjectLockLegalHoldStatusOff)
			}
		}
		w.check(before, w.refusedRows(retried), []string{w.a}, w.b, false, true)
		if st, err := e.Status(t.Context(), retried); err != nil || st.RetryOf != jobs[0] || st.Alias != aliasARN {
			t.Errorf("%+v, %v", st, err)
		}
	})
}

// TestMessagesTwiceAndInAnyOrder delivers every message of a job twice, those of a
// pass from the last to the first, and again when the pass is over.
func TestMessagesTwiceAndInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const objects, size = 120, 10
		w := newWorld(t)
		defer w.aws.Close()
		for i := range objects {
			w.put(fmt.Sprintf("k%03d", i), w.a)
		}
		e := w.engine(func(o *Options) { o.SliceSize = size })
		jobs, err := e.Start(t.Context(), w.move(time.Now(), w.b, w.a))
		w.must(err)
		deliver := func(format string, args ...any) {
			body := fmt.Appendf(nil, `{"v":1,"job":"`+jobs[0]+`",`+format+`}`, args...)
			for range 2 {
				w.must(e.Handle(t.Context(), body))
			}
		}
		for pass := 1; pass <= 2; pass++ {
			deliver(`"pass":%d,"plan":true,"slice":0`, pass)
			plan, err := e.planOf(t.Context(), jobs[0], 1)
			w.must(err)
			if !plan.Done || plan.Next < objects/size {
				t.Fatalf("plan of pass %d: %+v", pass, plan)
			}
			for n := plan.Next - 1; n >= 0; n-- {
				deliver(`"pass":%d,"slice":%d`, pass, n)
			}
			deliver(`"pass":%d,"again":true,"slice":0`, pass)
			deliver(`"pass":1,"slice":0`)
			deliver(`"pass":%d,"slice":0`, pass+1)
		}
		s, err := e.Report(t.Context(), jobs[0])
		w.must(err)
		if d := cmp.Diff(Counts{Scanned: objects, Moved: objects, Bytes: s.Bytes}, s.Counts); d != "" || s.Passes != 2 {
			t.Errorf("%d passes, counts: %s", s.Passes, d)
		}
		if len(w.told.completed) != 1 || w.writes() != objects+1 { // the probe's
			t.Errorf("told %d times, %d writes", len(w.told.completed), w.writes())
		}
		if all, err := e.Jobs(t.Context(), true); err != nil || len(all) != 1 {
			t.Errorf("jobs %+v, %v", all, err)
		}
		// A job that cannot be read hides no other, and lets none start that it may be in the
		// way of.
		for _, key := range []string{openKey(strings.Repeat("0a", 12)), (&jobDoc{ID: strings.Repeat("0a", 12)}).key()} {
			_, err := w.s3.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(stateBucket), Key: aws.String("cmkeeper/" + key), Body: strings.NewReader(`{"schema":"cmkeeper.job.v99"}`)})
			w.must(err)
		}
		if all, err := e.Jobs(t.Context(), true); !errors.Is(err, state.ErrUnreadable) || len(all) != 1 {
			t.Errorf("with one that cannot be read: jobs %+v, %v", all, err)
		}
		if started, err := e.StartOrders(t.Context(), []Order{{Bucket: bucket, From: []string{w.a}, To: w.b}}, time.Now()); !errors.Is(err, state.ErrUnreadable) {
			t.Errorf("beside a job that cannot be read: started %v, %v", started, err)
		}
	})
}

// TestOrders starts by hand what an alias move would start.
func TestOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		w.populate(120, false)
		before := w.snapshot()
		f := &fleet{world: w, engines: []*Engine{w.engine(), w.engine()}, twice: true}
		e := f.engines[0]
		order := Order{Bucket: bucket, From: []string{w.a}, To: w.b}
		for name, bad := range map[string]Order{
			"no bucket":    {From: order.From, To: w.b},
			"the same key": {Bucket: bucket, From: []string{w.b}, To: w.b},
			"our own":      {Bucket: stateBucket, From: order.From, To: w.b},
			"no method":    {Bucket: bucket, From: order.From, To: w.b, Method: "teleport"},
			"at odds":      {Bucket: bucket, Prefix: "p1/", From: order.From, To: w.c},
		} {
			if jobs, err := e.StartOrders(t.Context(), []Order{order, bad}, time.Now()); err == nil || len(jobs) > 0 {
				t.Errorf("%s: started %v", name, jobs)
			}
		}
		if open, err := e.Jobs(t.Context(), true); err != nil || len(open) > 0 {
			t.Errorf("jobs %+v, %v", open, err)
		}

		at := time.Now()
		jobs, err := e.StartOrders(t.Context(), []Order{order}, at)
		w.must(err)
		again, err := f.engines[1].StartOrders(t.Context(), []Order{order}, at)
		w.must(err)
		bare, err := e.StartOrders(t.Context(), []Order{order}, time.Time{})
		w.must(err)
		if !slices.Equal(jobs, again) || !slices.Equal(jobs, bare) {
			t.Errorf("jobs %v, again %v, without a time %v", jobs, again, bare)
		}
		if _, err := e.StartOrders(t.Context(), []Order{{Bucket: bucket, From: []string{w.b}, To: w.c}}, time.Time{}); !errors.Is(err, ErrRival) {
			t.Errorf("a rival: %v", err)
		}
		f.work()
		w.check(before, w.refusedRows(jobs[0]), []string{w.a}, w.b, false, false)
		if s, err := e.Report(t.Context(), jobs[0]); err != nil || s.Alias != "" || s.Scanned != 120 {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

// A move waits for a job that was started by hand and would undo it.
func TestMoveWaitsForARival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		w.put("k", w.a)
		f := &fleet{world: w, engines: []*Engine{w.engine()}}
		e := f.engines[0]
		_, err := e.StartOrders(t.Context(), []Order{{Bucket: bucket, From: []string{w.a}, To: w.b}}, time.Time{})
		w.must(err)
		back := w.move(time.Now(), w.a, w.b)
		_, err = e.Start(t.Context(), back)
		if d := outcome.Of(err); !errors.Is(err, ErrRival) || d.Action != outcome.Delay {
			t.Fatalf("error %v, %+v", err, d)
		}
		f.work()
		_, err = e.Start(t.Context(), back)
		w.must(err)
		f.work()
		if now := w.snapshot()[0]; len(w.told.completed) != 2 || now.KMSKey != w.a {
			t.Errorf("told %+v; the object is under %s", w.told.completed, now.KMSKey)
		}
	})
}

func TestStatusEstimates(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	s := Status{Summary: Summary{State: StateRunning}, At: at, Began: at.Add(-100 * time.Second), Slices: 40, Planned: true, Done: 10, InPass: 5000}
	share, known := s.Share()
	left, also := s.Left(s.Rate())
	if share != 0.25 || !known || s.Rate() != 50 || left != 5*time.Minute || !also {
		t.Errorf("share %v, rate %v, left %s", share, s.Rate(), left)
	}
	for name, unknown := range map[string]Status{
		"not planned": {Summary: s.Summary, At: at, Began: s.Began, Slices: 40, Done: 10, InPass: 5000},
		"nothing yet": {Summary: s.Summary, At: at, Slices: 40, Planned: true},
		"paused":      {Summary: Summary{State: StatePaused}, At: at, Began: s.Began, Slices: 40, Planned: true, Done: 10, InPass: 5000},
	} {
		if left, known := unknown.Left(unknown.Rate()); known {
			t.Errorf("%s: %s left", name, left)
		}
	}
}
