package reencrypt

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3control"
	"github.com/aws/aws-sdk-go-v2/service/s3control/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
	"github.com/cmkeeper/cmkeeper/state"
)

const batchRole = "arn:aws:iam::" + account + ":role/batch"

// batchClient signs as the workers do.
func (w *world) batchClient() Batch {
	return awsclient.S3Control(inprocess.Config(w.aws, "us-east-1", "worker"), account)
}

// by returns options of an engine that moves by S3 Batch Operations.
func (w *world) by(m Executor) func(*Options) {
	return func(o *Options) { o.Executor, o.Batch, o.BatchRole = m, w.batchClient(), batchRole }
}

// deny takes an action from the role of the batch jobs; "" gives all back.
func (w *world) deny(action string) {
	w.aws.AddIdentity("batch-role", wire.Caller{Type: "AssumedRole", ARN: "arn:aws:sts::" + account + ":assumed-role/batch/x"})
	w.aws.SetIdentityPolicy("batch-role", func(a, _ string) bool { return a != action })
}

// batchJobs lists what S3 Batch Operations have, by status.
func (w *world) batchJobs() map[string]int {
	w.t.Helper()
	out, err := s3control.NewFromConfig(inprocess.Config(w.aws, "us-east-1", "worker")).ListJobs(w.t.Context(), &s3control.ListJobsInput{AccountId: aws.String(account)})
	w.must(err)
	statuses := map[string]int{}
	for _, j := range out.Jobs {
		statuses[string(j.Status)]++
	}
	return statuses
}

// allOn says that every object version of a bucket without locks is under a key.
func (w *world) allOn(key string) {
	w.t.Helper()
	for _, o := range w.snapshot() {
		if o.KMSKey != key {
			w.t.Errorf("%q version %s is under %s", o.Key, o.Version, o.KMSKey)
		}
	}
}

func (w *world) plain(n int) {
	w.t.Helper()
	for i := range n {
		w.put(fmt.Sprintf("%04d", i), w.a)
	}
}

func TestBatchMovesAndTheFleetProves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		w.lock()
		w.populate(300, true)
		before := w.snapshot()
		current, noncurrent := int64(0), 0
		for _, o := range before {
			switch {
			case o.KMSKey != w.a || o.Encryption != "aws:kms" || o.Lock[0]+o.Lock[1] != "":
			case o.Latest:
				current++
			default:
				noncurrent++
			}
		}
		f := &fleet{world: w, engines: []*Engine{w.engine(w.by(ExecutorBatch)), w.engine(w.by(ExecutorBatch))}, twice: true}
		jobs, err := f.engines[0].Start(t.Context(), w.move(time.Now(), w.b, w.a))
		w.must(err)
		f.work()
		w.told.completed = slices.CompactFunc(w.told.completed, func(a, b Summary) bool { return a.Job == b.Job })
		if len(w.told.completed) != 1 || len(w.told.stalled) != 0 {
			t.Fatalf("told of %d completed and %d stalled jobs: %+v", len(w.told.completed), len(w.told.stalled), w.told.stalled)
		}
		s := w.told.completed[0]
		rows := w.refusedRows(jobs[0])
		w.check(before, rows, []string{w.a}, w.b, false, true)
		if s.ByReason[ReasonObjectLock] != 3 || s.Moved < current || s.Moved > current+int64(noncurrent) || s.Scanned != s.Moved+s.Skipped+s.Refused || s.Failed != 0 {
			t.Errorf("%d current and %d noncurrent versions to move: %+v", current, noncurrent, s.Counts)
		}

		var succeeded, failed int64
		var named []string
		for _, b := range s.Batch {
			succeeded, failed = succeeded+b.Succeeded, failed+b.Failed
			if b.Status != "Complete" || (b.Failed > 0) != (b.Rows != "") {
				t.Errorf("batch job: %+v", b)
			}
			if b.Rows == "" {
				continue
			}
			r, err := w.store.GetBlob(t.Context(), strings.TrimPrefix(b.Rows, "s3://"+stateBucket+"/cmkeeper/"))
			w.must(err)
			for row := range readRows(t, r) {
				if row.Reason != ReasonBatchTask || row.Version == "" || !strings.HasPrefix(row.Detail, "AccessDenied (403): The encryption type") {
					t.Errorf("row of a failed task: %+v", row)
				}
				named = append(named, row.Key)
			}
			w.must(r.Close())
		}
		if d := cmp.Diff([]string{"locked/compliance", "locked/governance", "locked/hold"}, slices.Sorted(slices.Values(named))); d != "" {
			t.Errorf("failed tasks: %s", d)
		}
		if !slices.Contains(s.Notes, batchNote) {
			t.Errorf("notes: %q", s.Notes)
		}
		if succeeded != current || failed != 3 {
			t.Errorf("S3 moved %d and failed with %d, want %d and 3", succeeded, failed, current)
		}
		// The fleet moved what no generated manifest has, and two probes.
		if n := w.aws.Requests("s3", "UpdateObjectEncryption"); n > 2*(noncurrent+2) || n < noncurrent {
			t.Errorf("the fleet has sent %d UpdateObjectEncryption for %d noncurrent versions", n, noncurrent)
		}
		if left := w.keysLeft("cmkeeper/jobs/open/"); left > 0 {
			t.Errorf("%d jobs are open", left)
		}
	})
}

// TestBatchJobsAreMadeOnce loses the answers of CreateJob, and the workers that
// were to note them.
func TestBatchJobsAreMadeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		w.plain(20)
		w.aws.SetFaults(
			localaws.Fault{Service: "s3control", Operations: []string{"CreateJob"}, Effect: localaws.DropAfter, Count: 4},
			localaws.Fault{Service: "s3control", Operations: []string{"CreateJob"}, Effect: localaws.FailAfter, Count: 4},
			localaws.Fault{Service: "s3control", Effect: localaws.Throttle, Rate: 0.1},
		)
		f := &fleet{world: w, engines: []*Engine{w.engine(w.by(ExecutorBatch)), w.engine(w.by(ExecutorBatch))}, twice: true}
		_, err := f.engines[0].Start(t.Context(), w.move(time.Now(), w.b, w.a))
		w.must(err)
		f.work()
		w.aws.SetFaults()
		if len(w.told.completed) == 0 || len(w.told.stalled) != 0 {
			t.Fatalf("told of %d completed jobs and %+v", len(w.told.completed), w.told.stalled)
		}
		w.allOn(w.b)
		// The objects have no bucket key: one job had them, and one nothing to do.
		if d := cmp.Diff(map[string]int{"Complete": 1, "Failed": 1}, w.batchJobs()); d != "" {
			t.Errorf("batch jobs: %s", d)
		}
	})
}

func TestBatchThatFailsStopsTheJob(t *testing.T) {
	for _, c := range []struct {
		name    string
		objects int
		break_  func(w *world)
		mend    func(w *world)
		cause   []string
		made    map[string]int
	}{
		{
			"the role may not generate a manifest", 20,
			func(w *world) { w.deny("s3:PutInventoryConfiguration") }, func(w *world) { w.deny("") },
			[]string{"is failed", "s3:PutInventoryConfiguration", "CMKEEPER_REENCRYPT_ENGINE=fleet"}, map[string]int{"Failed": 3, "Complete": 1},
		}, {
			"more than half of the tasks fail", 1001,
			func(w *world) { w.deny("s3:UpdateObjectEncryption") }, func(w *world) { w.deny("") },
			[]string{"is failed", " of 1001 tasks failed", "More than 50%"}, map[string]int{"Failed": 3, "Complete": 1},
		}, {
			"we may not pass the role", 20,
			func(w *world) {
				w.aws.SetIdentityPolicy("worker", func(a, _ string) bool { return a != "iam:PassRole" })
			}, func(w *world) { w.aws.SetIdentityPolicy("worker", nil) },
			[]string{"CreateJob is denied", "needed: s3:CreateJob, and iam:PassRole on " + batchRole}, map[string]int{"Failed": 1, "Complete": 1},
		}, {
			"we may not ask", 20,
			func(w *world) {
				w.aws.SetIdentityPolicy("worker", func(a, _ string) bool { return a != "s3:DescribeJob" })
			}, func(w *world) { w.aws.SetIdentityPolicy("worker", nil) },
			[]string{"DescribeJob is denied", "needed: s3:DescribeJob"}, map[string]int{"Failed": 1, "Complete": 1},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.aws.Close()
				w.plain(c.objects)
				before := w.snapshot()
				c.break_(w)
				f := &fleet{world: w, engines: []*Engine{w.engine(w.by(ExecutorBatch))}}
				jobs, err := f.engines[0].Start(t.Context(), w.move(time.Now(), w.b, w.a))
				w.must(err)
				f.work()
				if len(w.told.stalled) != 1 || len(w.told.completed) != 0 {
					t.Fatalf("told of %d stalled and %d completed jobs", len(w.told.stalled), len(w.told.completed))
				}
				for _, part := range c.cause {
					if s := w.told.stalled[0]; s.State != StateStopped || !strings.Contains(s.Cause, part) {
						t.Errorf("job is %s, cause %q lacks %q", s.State, s.Cause, part)
					}
				}
				if c.name != "we may not ask" { // then S3 works on
					if d := cmp.Diff(before, w.snapshot()); d != "" {
						t.Error("something has changed: " + d)
					}
				}
				c.mend(w)
				w.must(f.engines[0].Continue(t.Context(), jobs[0]))
				f.work()
				if len(w.told.completed) != 1 {
					t.Fatalf("not complete after the cause was mended: %+v", w.told.stalled)
				}
				w.allOn(w.b)
				if s := w.told.completed[0]; s.Moved != int64(c.objects) {
					t.Errorf("counts: %+v", s.Counts)
				}
				if d := cmp.Diff(c.made, w.batchJobs()); d != "" {
					t.Errorf("batch jobs: %s", d)
				}
			})
		})
	}
}

// withoutUpdate is a server that does not have UpdateObjectEncryption.
func withoutUpdate(c S3) S3 {
	return &brokenUpdate{c.(*s3.Client), func(context.Context, *s3.UpdateObjectEncryptionInput) error {
		return answer(http.StatusNotImplemented, "NotImplemented")
	}}
}

func TestBatchIsUsedWhereItIsTimeAndSafe(t *testing.T) {
	for _, c := range []struct {
		name     string
		change   func(*Options)
		versions bool
		batch    bool
		stopped  string
	}{
		{"auto below the threshold", func(o *Options) { o.Executor, o.BatchThreshold = ExecutorAuto, 200 }, false, false, ""},
		{"auto above the threshold", func(o *Options) { o.Executor, o.BatchThreshold = ExecutorAuto, 100 }, false, true, ""},
		{"auto, all versions", func(o *Options) { o.Executor, o.BatchThreshold = ExecutorAuto, 100 }, true, true, ""},
		{"auto, current versions of many", func(o *Options) { o.Executor, o.Versions = ExecutorAuto, VersionsCurrent }, true, false, ""},
		{"batch, current versions of many", func(o *Options) { o.Executor, o.Versions = ExecutorBatch, VersionsCurrent }, true, false, "may hold noncurrent ones"},
		{"auto, method copy", func(o *Options) { o.Executor, o.Method = ExecutorAuto, MethodCopy }, false, false, ""},
		{"batch, method copy", func(o *Options) { o.Executor, o.Method = ExecutorBatch, MethodCopy }, false, false, "the method is copy"},
		{"auto, update not proved", func(o *Options) { o.Executor, o.S3 = ExecutorAuto, withoutUpdate(o.S3) }, false, false, ""},
		{"batch, update not proved", func(o *Options) { o.Executor, o.S3 = ExecutorBatch, withoutUpdate(o.S3) }, false, false, "not proved"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.aws.Close()
				if c.versions {
					w.versioning("Enabled")
				}
				w.plain(170)
				f := &fleet{world: w, engines: []*Engine{w.engine(w.by(""), c.change)}}
				_, err := f.engines[0].Start(t.Context(), w.move(time.Now(), w.b, w.a))
				w.must(err)
				f.work()
				if made := w.aws.Requests("s3control", "CreateJob"); (made > 0) != c.batch {
					t.Errorf("%d batch jobs were made", made)
				}
				if c.stopped != "" {
					if len(w.told.stalled) != 1 || !strings.Contains(w.told.stalled[0].Cause, c.stopped) {
						t.Errorf("told %+v", w.told.stalled)
					}
					return
				}
				if len(w.told.completed) != 1 || w.told.completed[0].Failed+w.told.completed[0].Refused > 0 {
					t.Fatalf("told %+v and %+v", w.told.completed, w.told.stalled)
				}
				w.allOn(w.b)
			})
		})
	}
}

// TestBatchEventSendsTheJobOn shows that an event makes no job wait for the poll,
// and that many of them do not multiply it.
func TestBatchEventSendsTheJobOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		w.plain(5)
		w.aws.S3Control().SetPace(10 * time.Second)
		e := w.engine(w.by(ExecutorBatch))
		began := time.Now()
		jobs, err := e.Start(t.Context(), w.move(began, w.b, w.a))
		w.must(err)
		handle := func() (messages int) {
			out, err := w.sqs.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &w.queue, MaxNumberOfMessages: 10, WaitTimeSeconds: 1})
			w.must(err)
			for _, m := range out.Messages {
				(&fleet{world: w}).finish(*m.Body, *m.ReceiptHandle, e.Handle(t.Context(), []byte(*m.Body)))
			}
			return len(out.Messages)
		}
		handle()
		for range 4 {
			w.must(e.BatchChanged(t.Context()))
			handle()
		}
		time.Sleep(time.Minute)
		w.must(e.BatchChanged(t.Context()))
		if handle() != 1 {
			t.Error("the event sent no message")
		}
		j, err := e.job(t.Context(), jobs[0])
		w.must(err)
		if !j.Batch.Done || time.Since(began) > 2*time.Minute {
			t.Errorf("after %s the batch work is %+v", time.Since(began), j.Batch)
		}
		w.must(e.BatchChanged(t.Context())) // now there is nothing to ask
		f := &fleet{world: w, engines: []*Engine{e}}
		f.work()
		if f.handled > 8 {
			t.Errorf("%d messages were handled after that", f.handled)
		}
		if len(w.told.completed) != 1 {
			t.Errorf("told %+v and %+v", w.told.completed, w.told.stalled)
		}
		w.allOn(w.b)
	})
}

// TestBatchPollIsSentAgain loses every message of a job, and with them the poll.
func TestBatchPollIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		w.plain(5)
		w.aws.S3Control().SetPace(time.Minute)
		f := &fleet{world: w, engines: []*Engine{w.engine(w.by(ExecutorBatch))}}
		jobs, err := f.engines[0].Start(t.Context(), w.move(time.Now(), w.b, w.a))
		w.must(err)
		f.handleOne()
		_, err = w.sqs.PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: &w.queue})
		w.must(err)
		for range 4 {
			time.Sleep(6 * time.Minute)
			w.must(f.engines[0].Resume(t.Context(), time.Now()))
		}
		f.work()
		if len(w.told.completed) != 1 || len(w.told.stalled) != 0 {
			t.Errorf("job %s: told of %d completed jobs and %+v", jobs[0], len(w.told.completed), w.told.stalled)
		}
		w.allOn(w.b)
	})
}

// handleOne handles one message.
func (f *fleet) handleOne() {
	f.t.Helper()
	out, err := f.sqs.ReceiveMessage(f.t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &f.queue, MaxNumberOfMessages: 1, WaitTimeSeconds: 20})
	f.must(err)
	for _, m := range out.Messages {
		f.finish(*m.Body, *m.ReceiptHandle, f.engines[0].Handle(f.t.Context(), []byte(*m.Body)))
	}
}

// TestBatchOfASupersededJobEndsFirst moves the alias again while S3 works, and
// then back, and while another worker cancels the batch job at the same time.
func TestBatchOfASupersededJobEndsFirst(t *testing.T) {
	for _, back := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			defer w.aws.Close()
			w.plain(200)
			w.aws.S3Control().SetPace(time.Second)
			f := &fleet{world: w, engines: []*Engine{w.engine(w.by(ExecutorBatch)), w.engine(w.by(ExecutorBatch))}}
			_, err := f.engines[0].Start(t.Context(), w.move(time.Now(), w.b, w.a))
			w.must(err)
			f.handleOne()
			time.Sleep(15 * time.Second)
			if n := w.batchJobs()["Active"]; n != 1 {
				t.Fatalf("%d batch jobs are active", n)
			}
			to := w.c
			if back {
				to = w.a
				rival := s3control.NewFromConfig(inprocess.Config(w.aws, "us-east-1", "rival"))
				var once atomic.Bool
				defer w.aws.Observe(func(r localaws.Request) {
					if r.Operation != "UpdateJobStatus" || !once.CompareAndSwap(false, true) {
						return
					}
					out, err := rival.ListJobs(t.Context(), &s3control.ListJobsInput{AccountId: aws.String(account), JobStatuses: []types.JobStatus{types.JobStatusActive}})
					w.must(err)
					for _, j := range out.Jobs {
						_, err := rival.UpdateJobStatus(t.Context(), &s3control.UpdateJobStatusInput{AccountId: aws.String(account), JobId: j.JobId, RequestedJobStatus: types.RequestedJobStatusCancelled})
						w.must(err)
					}
				})()
			}
			_, err = f.engines[1].Start(t.Context(), w.move(time.Now(), to, w.b))
			w.must(err)
			f.work()
			if len(w.told.completed) != 1 || len(w.told.stalled) != 0 {
				t.Fatalf("told of %d completed jobs and %+v", len(w.told.completed), w.told.stalled)
			}
			if w.batchJobs()["Cancelled"] != 1 {
				t.Errorf("batch jobs: %v", w.batchJobs())
			}
			w.allOn(to)
		})
	}
}

func TestPauseEndsTheBatchJobsAndContinueMakesNewOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		w.plain(100)
		w.aws.S3Control().SetPace(10 * time.Second)
		f := &fleet{world: w, engines: []*Engine{w.engine(w.by(ExecutorBatch))}}
		jobs, err := f.engines[0].Start(t.Context(), w.move(time.Now(), w.b, w.a))
		w.must(err)
		f.handleOne()
		time.Sleep(time.Minute)
		w.must(f.engines[0].Pause(t.Context(), jobs[0]))
		f.work()
		if d := cmp.Diff(map[string]int{"Cancelled": 1, "Failed": 1}, w.batchJobs()); d != "" {
			t.Errorf("batch jobs of a paused job: %s", d)
		}
		w.must(f.engines[0].Continue(t.Context(), jobs[0]))
		f.work()
		if len(w.told.completed) != 1 || w.told.completed[0].Moved != 100 || len(w.told.completed[0].Batch) != 4 {
			t.Errorf("told %+v", w.told.completed)
		}
		w.allOn(w.b)
	})
}

// lateClient does not show a new job at first.
type lateClient struct {
	Batch
	left atomic.Int64
}

func (c *lateClient) Call(ctx context.Context, method, path string, in, out any) error {
	if method == http.MethodGet && c.left.Add(-1) >= 0 {
		return answer(http.StatusNotFound, "NoSuchJobException")
	}
	return c.Batch.Call(ctx, method, path, in, out)
}

func TestNewBatchJobMayNotBeShownYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		w.plain(5)
		late := &lateClient{Batch: w.batchClient()}
		late.left.Store(3)
		f := &fleet{world: w, engines: []*Engine{w.engine(w.by(ExecutorBatch), func(o *Options) { o.Batch = late })}}
		_, err := f.engines[0].Start(t.Context(), w.move(time.Now(), w.b, w.a))
		w.must(err)
		f.work()
		if len(w.told.completed) != 1 || late.left.Load() >= 0 {
			t.Errorf("told %+v and %+v", w.told.completed, w.told.stalled)
		}
		w.allOn(w.b)
	})
}

// TestBatchSurvivesKills ends the handling of messages at random requests: a
// worker that is killed, whose message comes back.
func TestBatchSurvivesKills(t *testing.T) {
	kills := 0
	for seed := range uint64(10) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.aws.Close()
				w.lock()
				w.populate(60, true)
				before := w.snapshot()
				w.aws.S3Control().SetPace(time.Duration(seed%3) * 20 * time.Second)
				random := rand.New(rand.NewPCG(seed, 0))
				var mu sync.Mutex
				left, working := 12, map[int]context.CancelFunc{}
				stop := w.aws.Observe(func(r localaws.Request) {
					mu.Lock()
					defer mu.Unlock()
					if left == 0 || r.Service == "sqs" || random.IntN(25) > 0 {
						return
					}
					for n, cancel := range working {
						cancel()
						delete(working, n)
						kills++
						left = max(left-1, 0)
					}
				})
				defer stop()
				f := &fleet{world: w, engines: []*Engine{w.engine(w.by(ExecutorBatch)), w.engine(w.by(ExecutorAuto))}, cancel: func(n int, cancel context.CancelFunc) {
					mu.Lock()
					defer mu.Unlock()
					working[n] = cancel
				}}
				jobs, err := f.engines[0].Start(t.Context(), w.move(time.Now(), w.b, w.a))
				w.must(err)
				for range 30 { // sweeps find what was lost
					f.work()
					if len(w.told.completed) > 0 {
						break
					}
					w.must(f.engines[0].Resume(t.Context(), time.Now()))
				}
				if len(w.told.completed) == 0 {
					t.Fatalf("not complete: %+v", w.told.stalled)
				}
				w.check(before, w.refusedRows(jobs[0]), []string{w.a}, w.b, false, true)
				statuses := w.batchJobs()
				if n := statuses["Complete"] + statuses["Failed"]; n != 2 || len(statuses) > 2 {
					t.Errorf("batch jobs: %v", statuses)
				}
			})
		})
	}
	if kills < 50 {
		t.Errorf("only %d kills", kills)
	}
	t.Logf("10 seeds and %d kills survived", kills)
}

func TestBatchCause(t *testing.T) {
	for _, c := range []struct {
		name string
		job  BatchJob
		want string
	}{
		{"complete", BatchJob{Status: "Complete", Tasks: 2, Succeeded: 1, Failed: 1}, ""},
		{"nothing to do", BatchJob{Status: "Failed", Causes: []string{"x: Manifest generation found no keys matching the filter criteria."}}, ""},
		{"those words of a job that had tasks", BatchJob{ID: "1", Status: "Failed", Tasks: 1, Causes: []string{"no keys matching"}}, "job 1 is failed, with 0 of 1 tasks failed (no keys matching)"},
		{"failed", BatchJob{ID: "1", Status: "Failed", Tasks: 3, Failed: 2, Causes: []string{"A: b", "C: d"}, Rows: "s3://r"}, "job 1 is failed, with 2 of 3 tasks failed (A: b; C: d); the failed tasks are in s3://r; see"},
		{"cancelled by us", BatchJob{Status: "Cancelled", Ours: true}, ""},
		{"cancelled by others", BatchJob{ID: "1", Status: "Cancelled"}, "job 1 is cancelled"},
		{"refused", BatchJob{Status: batchRefused}, ""},
	} {
		got := batchCause([]BatchJob{c.job})
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestBatchJobText: a batch job that had nothing to do did not fail.
func TestBatchJobText(t *testing.T) {
	empty := BatchJob{ID: "1", From: "arn:old", BucketKey: true, Status: "Failed", Causes: []string{"x: Manifest generation found no keys matching the filter criteria."}}
	for want, b := range map[string]BatchJob{
		"one that S3 has not created": {},
		"1: nothing to do: S3 found no objects with a bucket key under arn:old, which it calls Failed; the workers' passes verify that": empty,
		"1: Active, 2 of 3 tasks succeeded and 0 failed":              {ID: "1", Status: "Active", Tasks: 3, Succeeded: 2},
		"1: Failed, 0 of 0 tasks succeeded and 0 failed (Denied: no)": {ID: "1", Status: "Failed", Causes: []string{"Denied: no"}},
	} {
		if got := b.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := (&batchWork{Jobs: []BatchJob{empty}}).String(); got != ", S3 Batch job 1 had nothing to do" {
		t.Errorf("progress %q", got)
	}
}

func TestBatchRow(t *testing.T) {
	for line, want := range map[string]Refusal{
		"b|a+b%2Fc|v|failed|AccessDenied|403|no": {Key: "a b/c", Version: "v", Reason: ReasonBatchTask, Detail: "AccessDenied (403): no"},
		"b|100%|||||":                            {Key: "100%", Reason: ReasonBatchTask, Detail: " (): "},
	} {
		if d := cmp.Diff(want, batchRow(strings.Split(line, "|"))); d != "" {
			t.Errorf("%s: %s", line, d)
		}
	}
}

// TestBatchRequestIsTheSameEachTime guards the token: S3 refuses one that comes
// with another request.
func TestBatchRequestIsTheSameEachTime(t *testing.T) {
	w := newWorld(t)
	e := w.engine(w.by(ExecutorBatch))
	j := jobDoc{ID: strings.Repeat("a", 24), spec: spec{Bucket: bucket, Prefix: "p/", From: []string{w.a, w.c}, To: w.b}}
	tokens := map[string]bool{}
	for attempt := range 2 {
		j.Batch = &batchWork{Role: batchRole, Attempt: attempt, Jobs: batchJobs(j.ID, j.spec, attempt)}
		for _, b := range j.Batch.Jobs {
			tokens[b.Token] = true
			first, err := json.Marshal(e.batchInput(&j, b))
			w.must(err)
			b.ID, b.Status, b.Tasks = "id", "Active", 7
			j.State, j.Pass = StatePaused, 3
			second, err := json.Marshal(e.batchInput(&j, b))
			w.must(err)
			if d := cmp.Diff(string(first), string(second)); d != "" {
				t.Error(d)
			}
			if len(b.Token) > 64 {
				t.Errorf("token %s is too long", b.Token)
			}
		}
	}
	if len(tokens) != 8 {
		t.Errorf("tokens: %v", slices.Sorted(maps.Keys(tokens)))
	}
}

// sentRequest is what of a request S3 acts on.
type sentRequest struct{ method, url, account, contentType, body string }

// sent records a request and answers with an empty document.
func sent(to *[]sentRequest) aws.Config {
	cfg := inprocess.Config(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(err)
		}
		*to = append(*to, sentRequest{r.Method, "https://" + r.Host + r.URL.RequestURI(), r.Header.Get("X-Amz-Account-Id"), r.Header.Get("Content-Type"), string(body)})
		_, _ = rw.Write([]byte("<Answer><Job><Status>Active</Status></Job><JobId>id</JobId></Answer>"))
	}), "us-east-1", "worker")
	cfg.BaseEndpoint = nil
	return cfg
}

// TestBatchRequestsAreThoseOfTheSDK holds every request beside that of the SDK's client.
func TestBatchRequestsAreThoseOfTheSDK(t *testing.T) {
	for name, prefix := range map[string]string{"a prefix": "p/<&\n\"é ", "none": ""} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			defer w.aws.Close()
			var ours, theirs []sentRequest
			e := w.engine(w.by(ExecutorBatch), func(o *Options) { o.Batch = awsclient.S3Control(sent(&ours), account) })
			sdk := s3control.NewFromConfig(sent(&theirs))
			j := jobDoc{ID: strings.Repeat("a", 24), State: StateRunning, spec: spec{Bucket: bucket, Prefix: prefix, From: []string{w.a}, To: w.b}}
			j.Batch = &batchWork{Role: batchRole, Jobs: batchJobs(j.ID, j.spec, 0)}
			for _, b := range j.Batch.Jobs {
				w.must(state.Update(t.Context(), e.opt.Store, j.key(), func(now *jobDoc, _ bool) error { *now = j; return nil }))
				w.must(e.opt.Batch.Call(t.Context(), http.MethodPost, batchPath, e.batchInput(&j, b), nil))
				_, err := sdk.CreateJob(t.Context(), sdkInput(&j, b))
				w.must(err)
			}
			j.State = StatePaused
			for i := range j.Batch.Jobs {
				j.Batch.Jobs[i].ID, j.Batch.Jobs[i].Status = "id", batchNew
			}
			w.must(state.Update(t.Context(), e.opt.Store, j.key(), func(now *jobDoc, _ bool) error { *now = j; return nil }))
			w.must(e.batchLook(t.Context(), &j))
			for range j.Batch.Jobs {
				_, err := sdk.DescribeJob(t.Context(), &s3control.DescribeJobInput{AccountId: aws.String(account), JobId: aws.String("id")})
				w.must(err)
				_, err = sdk.UpdateJobStatus(t.Context(), &s3control.UpdateJobStatusInput{
					AccountId: aws.String(account), JobId: aws.String("id"), RequestedJobStatus: types.RequestedJobStatusCancelled,
					StatusUpdateReason: aws.String("cmkeeper job " + j.ID + " is paused"),
				})
				w.must(err)
			}
			if d := cmp.Diff(theirs, ours, cmp.AllowUnexported(sentRequest{})); d != "" || len(ours) != 6 {
				t.Errorf("%d requests; the SDK's, and ours:\n%s", len(ours), d)
			}
		})
	}
}

// sdkInput is the request for a batch job as the SDK's client takes it.
func sdkInput(j *jobDoc, b BatchJob) *s3control.CreateJobInput {
	filter := &types.JobManifestGeneratorFilter{
		MatchAnyObjectEncryption: []types.ObjectEncryptionFilter{&types.ObjectEncryptionFilterMemberSSEKMS{
			Value: types.SSEKMSFilter{KmsKeyArn: &b.From, BucketKeyEnabled: &b.BucketKey},
		}},
	}
	if j.Prefix != "" {
		filter.KeyNameConstraint = &types.KeyNameConstraint{MatchAnyPrefix: []string{j.Prefix}}
	}
	return &s3control.CreateJobInput{
		AccountId: aws.String(account), ClientRequestToken: &b.Token, RoleArn: aws.String(batchRole),
		Priority: aws.Int32(10), ConfirmationRequired: aws.Bool(false), Description: aws.String("cmkeeper job " + j.ID),
		Operation: &types.JobOperation{S3UpdateObjectEncryption: &types.S3UpdateObjectEncryptionOperation{
			ObjectEncryption: &types.ObjectEncryption{SSEKMS: &types.S3UpdateObjectEncryptionSSEKMS{KMSKeyArn: &j.To, BucketKeyEnabled: &b.BucketKey}},
		}},
		ManifestGenerator: &types.JobManifestGeneratorMemberS3JobManifestGenerator{Value: types.S3JobManifestGenerator{
			SourceBucket: aws.String("arn:aws:s3:::" + bucket), ExpectedBucketOwner: aws.String(account), EnableManifestOutput: false, Filter: filter,
		}},
		Report: &types.JobReport{
			Enabled: true, Bucket: aws.String("arn:aws:s3:::" + stateBucket), ExpectedBucketOwner: aws.String(account), Prefix: aws.String("cmkeeper/jobs/" + j.ID + "/batch"),
			Format: types.JobReportFormatReportCsv20180820, ReportScope: types.JobReportScopeFailedTasksOnly,
		},
	}
}
