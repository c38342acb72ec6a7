package reencrypt

import (
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	_ "github.com/cmkeeper/cmkeeper/internal/testgc" // accounts that live for one test are garbage soon
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

func readRows(t testing.TB, r io.Reader) func(func(Refusal) bool) {
	return func(yield func(Refusal) bool) {
		for d := json.NewDecoder(r); d.More(); {
			var row Refusal
			if err := d.Decode(&row); err != nil {
				t.Fatal(err)
			}
			if !yield(row) {
				return
			}
		}
	}
}

// populate fills the data bucket with n objects of all kinds, and more versions
// where it has versions.
func (w *world) populate(n int, versions bool) {
	w.t.Helper()
	class := func(c types.StorageClass) func(*s3.PutObjectInput) {
		return func(in *s3.PutObjectInput) { in.StorageClass = c }
	}
	kinds := []func(*s3.PutObjectInput){
		func(*s3.PutObjectInput) {},
		func(in *s3.PutObjectInput) { in.Metadata = map[string]string{"owner": "team a", "n": "1"} },
		func(in *s3.PutObjectInput) { in.Tagging = aws.String("class=secret&a%20b=c%2Bd") },
		class(types.StorageClassStandardIa), class(types.StorageClassGlacierIr), class(types.StorageClassIntelligentTiering),
		func(in *s3.PutObjectInput) { in.BucketKeyEnabled = aws.Bool(true) },
		func(in *s3.PutObjectInput) { in.ChecksumAlgorithm = types.ChecksumAlgorithmSha256 },
		func(in *s3.PutObjectInput) {
			in.CacheControl, in.ContentDisposition = aws.String("no-cache"), aws.String(`attachment; filename="x"`)
			in.ContentEncoding, in.ContentLanguage, in.ContentType = aws.String("gzip"), aws.String("de"), aws.String("text/x-odd; charset=latin1")
			in.Expires = aws.Time(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC))
		},
		func(in *s3.PutObjectInput) { in.WebsiteRedirectLocation = aws.String("/elsewhere") },
		func(in *s3.PutObjectInput) { in.SSEKMSKeyId = &w.other },
		func(in *s3.PutObjectInput) { in.SSEKMSKeyId = &w.b },
		func(in *s3.PutObjectInput) {
			in.ServerSideEncryption, in.SSEKMSKeyId = types.ServerSideEncryptionAes256, nil
		},
		class(types.StorageClassGlacier),
		func(in *s3.PutObjectInput) { in.ServerSideEncryption = types.ServerSideEncryptionAwsKmsDsse },
		func(in *s3.PutObjectInput) { in.Body = strings.NewReader("") },
	}
	var g errgroup.Group
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error {
			key := fmt.Sprintf("p%d/%05d", i%3, i)
			if i < len(oddKeys) {
				key = oddKeys[i]
			}
			w.put(key, w.a, kinds[i%len(kinds)])
			if versions && i%5 == 0 {
				w.put(key, w.a, kinds[(i/5)%len(kinds)])
			}
			if versions && i%35 == 0 {
				_, err := w.s3.DeleteObject(w.t.Context(), &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: &key})
				return err
			}
			return nil
		})
	}
	w.must(g.Wait())
}

// locked makes the data bucket one with Object Lock, and locks some objects in it.
func (w *world) lock() {
	w.t.Helper()
	_, err := w.s3.DeleteBucket(w.t.Context(), &s3.DeleteBucketInput{Bucket: aws.String(bucket)})
	w.must(err)
	_, err = w.s3.CreateBucket(w.t.Context(), &s3.CreateBucketInput{Bucket: aws.String(bucket), ObjectLockEnabledForBucket: aws.Bool(true)})
	w.must(err)
	until := time.Now().Add(24 * time.Hour)
	retained := func(m types.ObjectLockMode) func(*s3.PutObjectInput) {
		return func(in *s3.PutObjectInput) {
			in.ObjectLockMode, in.ObjectLockRetainUntilDate, in.ChecksumAlgorithm = m, &until, types.ChecksumAlgorithmCrc32
		}
	}
	w.put("locked/compliance", w.a, retained(types.ObjectLockModeCompliance))
	w.put("locked/governance", w.a, retained(types.ObjectLockModeGovernance))
	w.put("locked/hold", w.a, func(in *s3.PutObjectInput) {
		in.ObjectLockLegalHoldStatus, in.ChecksumAlgorithm = types.ObjectLockLegalHoldStatusOn, types.ChecksumAlgorithmCrc32
	})
	w.put("locked/other-key", w.other, retained(types.ObjectLockModeGovernance))
}

// check compares the data bucket with what it was: every version that was under a
// from-key is under the to-key now or in rows, and nothing else has changed.
func (w *world) check(before []seen, rows map[[2]string]Reason, from []string, to string, copied, versioned bool) {
	w.t.Helper()
	after := map[[2]string]seen{}
	latest := map[string]seen{}
	for _, o := range w.snapshot() {
		after[[2]string{o.Key, o.Version}] = o
		if o.Latest {
			latest[o.Key] = o
		}
	}
	moved := 0
	for _, o := range before {
		id := [2]string{o.Key, o.Version}
		reason, inReport := rows[id]
		if !versioned {
			reason, inReport = rows[[2]string{o.Key}]
		}
		now, there := after[id]
		want := o
		mustMove := slices.Contains(from, o.KMSKey) && !inReport
		if copied && versioned && slices.Contains(from, o.KMSKey) && o.Latest && reason == ReasonNoncurrent {
			// The copy is the current version; what it was copied from is in the report.
			mustMove = true
			want.Latest = false
			if d := cmp.Diff(want, now); d != "" {
				w.t.Errorf("%q: the version that was copied changed: %s", o.Key, d)
			}
			want, now = o, latest[o.Key]
			want.Version = now.Version
		}
		if mustMove {
			moved++
			want.KMSKey = to
			if copied {
				want.ETag, want.LastModified = now.ETag, now.LastModified
			}
		}
		if d := cmp.Diff(want, now); !there || d != "" {
			w.t.Errorf("%q version %s (was under %s, report says %q): %s", o.Key, o.Version, o.KMSKey, reason, d)
		}
	}
	if moved == 0 {
		w.t.Error("the test moved nothing")
	}
}

func TestFleetMovesEverythingAndChangesNothingElse(t *testing.T) {
	for _, c := range []struct {
		name            string
		method          Method
		versions, twice bool
		objects         int
	}{
		{"update, all versions, locks", MethodAuto, true, true, 600},
		{"update, no versions", MethodUpdate, false, false, 100},
		{"copy, no versions", MethodCopy, false, true, 200},
		{"copy, versions, locks", MethodCopy, true, true, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.aws.Close()
				if c.versions {
					w.lock()
				}
				w.populate(c.objects, c.versions)
				before := w.snapshot()
				set := func(o *Options) { o.Method = c.method }
				f := &fleet{world: w, engines: []*Engine{w.engine(set), w.engine(set)}, twice: c.twice}
				jobs, err := f.engines[0].Start(t.Context(), w.move(time.Now(), w.b, w.a))
				w.must(err)
				f.work()

				w.told.completed = slices.CompactFunc(w.told.completed, func(a, b Summary) bool { return a.Job == b.Job }) // it may be told twice
				if len(w.told.completed) != 1 || len(w.told.stalled) != 0 {
					t.Fatalf("told of %d completed and %d stalled jobs: %+v", len(w.told.completed), len(w.told.stalled), w.told.stalled)
				}
				s := w.told.completed[0]
				rows := w.refusedRows(jobs[0])
				w.check(before, rows, []string{w.a}, w.b, c.method == MethodCopy, c.versions)
				if s.Failed != 0 || s.Moved == 0 || s.Scanned != s.Moved+s.Skipped+s.Refused || total(s.ByReason) != s.Skipped+s.Refused ||
					int(s.Refused) != len(rows) || !c.versions && int(s.Scanned) != len(before) {
					t.Errorf("counts do not add up: %+v, %d rows", s.Counts, len(rows))
				}
				if c.versions && s.ByReason[ReasonObjectLock] != 3 {
					t.Errorf("3 locked objects under the old key, report names %d", s.ByReason[ReasonObjectLock])
				}
				if (len(s.Notes) > 0) != (c.method == MethodCopy) {
					t.Errorf("notes: %q", s.Notes)
				}

				// The proof: nothing needs the old key any more but what the report names.
				w.disable(w.a)
				for _, o := range w.snapshotReadable() {
					if _, refused := rows[[2]string{o.Key, o.Version}]; !refused && !o.readable && c.versions || !c.versions && !o.readable && rows[[2]string{o.Key}] == "" {
						t.Errorf("%q version %s cannot be read without the old key", o.Key, o.Version)
					}
				}
				if left := w.keysLeft("cmkeeper/probe/"); left > 0 {
					t.Errorf("%d probe objects are left", left)
				}
				if left := w.keysLeft("cmkeeper/jobs/open/"); left > 0 {
					t.Errorf("%d jobs are open", left)
				}
			})
		})
	}
}

type readability struct {
	seen
	readable bool
}

// snapshotReadable says of each object version whether a GET succeeds.
func (w *world) snapshotReadable() []readability {
	w.t.Helper()
	var all []readability
	pages := s3.NewListObjectVersionsPaginator(w.s3, &s3.ListObjectVersionsInput{Bucket: aws.String(bucket)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(w.t.Context())
		w.must(err)
		for _, v := range page.Versions {
			_, err := w.s3.GetObject(w.t.Context(), &s3.GetObjectInput{Bucket: aws.String(bucket), Key: v.Key, VersionId: v.VersionId})
			archived := hasCode(err, "InvalidObjectState")
			all = append(all, readability{seen{Key: *v.Key, Version: *v.VersionId}, err == nil || archived})
		}
	}
	return all
}

func (w *world) keysLeft(prefix string) int {
	out, err := w.s3.ListObjectsV2(w.t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String(stateBucket), Prefix: &prefix})
	w.must(err)
	return len(out.Contents)
}

func TestLargeObjectsAreCopiedInParts(t *testing.T) {
	w := newWorld(t)
	_, err := w.s3.PutBucketOwnershipControls(t.Context(), &s3.PutBucketOwnershipControlsInput{
		Bucket:            aws.String(bucket),
		OwnershipControls: &types.OwnershipControls{Rules: []types.OwnershipControlsRule{{ObjectOwnership: types.ObjectOwnershipObjectWriter}}},
	})
	w.must(err)
	everything := func(in *s3.PutObjectInput) {
		in.ACL = types.ObjectCannedACLPublicRead
		in.Metadata, in.Tagging = map[string]string{"a": "b"}, aws.String("t=u%20v")
		in.CacheControl, in.ContentType, in.StorageClass = aws.String("private"), aws.String("x/y"), types.StorageClassStandardIa
		in.WebsiteRedirectLocation, in.BucketKeyEnabled = aws.String("/r"), aws.Bool(true)
		in.Expires = aws.Time(time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC))
	}
	w.put("large", w.a, everything, func(in *s3.PutObjectInput) { in.Body = bodyOf(11 << 20) })
	w.put("small", w.a, everything)
	w.put("odd-metadata", w.a, func(in *s3.PutObjectInput) {
		in.Body, in.Metadata = bodyOf(6<<20), map[string]string{"name": "=?UTF-8?B?w7w=?="}
	})
	before := w.snapshot()
	rows := map[[2]string]Reason{}
	s, err := w.engine(func(o *Options) { o.MaxCopySize, o.PartSize = 5<<20, 5<<20 }).Run(t.Context(), RunOptions{
		Bucket: bucket, From: []string{w.a}, To: w.b, Method: MethodCopy, Row: func(_ int, r Refusal) { rows[[2]string{r.Key}] = r.Reason },
	}, nil)
	w.must(err)
	w.check(before, rows, []string{w.a}, w.b, true, false)
	if s.Moved != 2 || rows[[2]string{"odd-metadata"}] != ReasonMetadata {
		t.Errorf("%+v %v", s, rows)
	}
	if n := w.aws.Requests("s3", "UploadPartCopy"); n != 3 {
		t.Errorf("%d parts copied, want 3", n)
	}
}

func TestFailedCopyInPartsIsAborted(t *testing.T) {
	w := newWorld(t)
	w.put("large", w.a, func(in *s3.PutObjectInput) { in.Body = bodyOf(11 << 20) })
	w.aws.SetIdentityPolicy("worker", func(action, _ string) bool { return action != "s3:PutObjectTagging" })
	before := w.snapshot()
	// The first upload finds that the object was overwritten since its HEAD.
	var once atomic.Bool
	defer w.aws.Observe(func(r localaws.Request) {
		if r.Operation == "CompleteMultipartUpload" && once.CompareAndSwap(false, true) {
			w.put("large", w.a, func(in *s3.PutObjectInput) { in.Body = bodyOf(7 << 20) })
		}
	})()
	s, err := w.engine(func(o *Options) { o.MaxCopySize, o.PartSize = 5<<20, 5<<20 }).Run(t.Context(), RunOptions{
		Bucket: bucket, From: []string{w.a}, To: w.b, Method: MethodCopy,
	}, nil)
	w.must(err)
	if s.Moved != 1 || s.Bytes != 7<<20 {
		t.Errorf("moved %d objects, %d bytes", s.Moved, s.Bytes)
	}
	after := w.snapshot()
	if after[0].KMSKey != w.b || after[0].Body == before[0].Body || len(after[0].Body) != 7<<20 {
		t.Error("the writer's object was lost")
	}
	if n := w.aws.Requests("s3", "AbortMultipartUpload"); n != 1 {
		t.Errorf("%d uploads aborted, want 1", n)
	}
}

func TestDeniedStopsTheBucketAndSaysWhatIsMissing(t *testing.T) {
	for denied, method := range map[string]Method{
		"s3:UpdateObjectEncryption": MethodUpdate, "s3:ListBucket": MethodUpdate, "s3:GetBucketVersioning": MethodUpdate, "s3:GetObject": MethodUpdate,
		"s3:PutObject": MethodCopy, "s3:GetBucketObjectLockConfiguration": MethodCopy,
	} {
		t.Run(denied, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.aws.Close()
				w.populate(30, false)
				w.aws.SetIdentityPolicy("worker", func(action, resource string) bool {
					return action != denied || strings.Contains(resource, stateBucket)
				})
				before := w.snapshot()
				f := &fleet{world: w, engines: []*Engine{w.engine(func(o *Options) { o.Method = method })}}
				jobs, err := f.engines[0].Start(t.Context(), w.move(time.Now(), w.b, w.a))
				w.must(err)
				f.work()
				if len(w.told.stalled) != 1 || len(w.told.completed) != 0 {
					t.Fatalf("told of %d stalled and %d completed jobs", len(w.told.stalled), len(w.told.completed))
				}
				if s := w.told.stalled[0]; s.State != StateStopped || !strings.Contains(s.Cause, denied) || !strings.Contains(s.Cause, bucket) {
					t.Errorf("cause %q does not name %s and the bucket", s.Cause, denied)
				}
				if d := cmp.Diff(before, w.snapshot()); d != "" {
					t.Error("something changed:", d)
				}
				// The next move of the alias takes over.
				w.aws.SetIdentityPolicy("worker", nil)
				_, err = f.engines[0].Start(t.Context(), w.move(time.Now().Add(time.Minute), w.c, w.b))
				w.must(err)
				f.work()
				if len(w.told.completed) != 1 || !slices.Contains(w.told.completed[0].From, w.a) {
					t.Errorf("the stopped job %s was not taken over: %+v", jobs[0], w.told.completed)
				}
			})
		})
	}
}

func TestAliasThatMovesAgain(t *testing.T) {
	for name, c := range map[string]struct{ then func(*world) string }{
		"A→B→C": {func(w *world) string { return w.c }},
		"A→B→A": {func(w *world) string { return w.a }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.aws.Close()
				w.populate(120, false)
				f := &fleet{world: w, engines: []*Engine{w.engine(), w.engine()}}
				e := f.engines[0]
				at := time.Now()
				first, err := e.Start(t.Context(), w.move(at, w.b, w.a))
				w.must(err)
				// Half of the first job is done when the alias moves on.
				f.handle(3)
				second, err := e.Start(t.Context(), w.move(at.Add(time.Second), c.then(w), w.b))
				w.must(err)
				began := time.Now()
				f.work()
				j, err := e.job(t.Context(), first[0])
				w.must(err)
				if j.State != StateSuperseded || !slices.Equal(j.SupersededBy, second) {
					t.Errorf("first job is %s by %v", j.State, j.SupersededBy)
				}
				if len(w.told.completed) != 1 || w.told.completed[0].Job != second[0] {
					t.Fatalf("told of %+v", w.told.completed)
				}
				if p, err := e.planOf(t.Context(), second[0], w.told.completed[0].Passes); err != nil || p.Began.Sub(began) < supersedeGrace {
					t.Errorf("the last pass began %s after the move, when writers of the first job may still be at work (%v)", p.Began.Sub(began), err)
				}
				rows := w.refusedRows(second[0])
				for _, o := range w.snapshot() {
					if slices.Contains([]string{w.a, w.b, w.c}, o.KMSKey) && o.KMSKey != c.then(w) && rows[[2]string{o.Key}] == "" {
						t.Errorf("%q is under %s and not in the report", o.Key, o.KMSKey)
					}
				}
			})
		})
	}
}

// handle handles n messages.
func (f *fleet) handle(n int) {
	f.t.Helper()
	for range n {
		out, err := f.sqs.ReceiveMessage(f.t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &f.queue, MaxNumberOfMessages: 1, WaitTimeSeconds: 1, VisibilityTimeout: 120})
		f.must(err)
		for _, m := range out.Messages {
			f.finish(*m.Body, *m.ReceiptHandle, f.engines[0].Handle(f.t.Context(), []byte(*m.Body)))
		}
	}
}

func TestPlannerAndSlicesSurviveCrashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		w.populate(300, false)
		before := w.snapshot()
		f := &fleet{world: w, engines: []*Engine{w.engine(), w.engine()}}
		// Every third message loses its worker somewhere in the middle.
		var all atomic.Int64
		f.cancel = func(n int, cancel context.CancelFunc) {
			if n%3 == 1 && n < 30 {
				limit := all.Load() + int64(5+7*n%40)
				stop := w.aws.Observe(func(localaws.Request) {
					if all.Load() > limit {
						cancel()
					}
				})
				t.Cleanup(stop)
			}
		}
		defer w.aws.Observe(func(localaws.Request) { all.Add(1) })()
		jobs, err := f.engines[0].Start(t.Context(), w.move(time.Now(), w.b, w.a))
		w.must(err)
		again, err := f.engines[1].Start(t.Context(), w.move(time.Now(), w.b, w.a))
		w.must(err)
		if !slices.Equal(jobs, again) {
			t.Errorf("a repeated start is %v, the first was %v", again, jobs)
		}
		f.work()
		if len(w.told.completed) == 0 {
			t.Fatal("the job is not complete")
		}
		w.check(before, w.refusedRows(jobs[0]), []string{w.a}, w.b, false, false)
		if s := w.told.completed[0]; s.Scanned != 300 {
			t.Errorf("%d object versions counted, there are 300", s.Scanned)
		}
	})
}

func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		w.populate(200, false)
		f := &fleet{world: w, engines: []*Engine{w.engine()}}
		e := f.engines[0]
		_, err := e.Start(t.Context(), w.move(time.Now(), w.b, w.a))
		w.must(err)
		f.handle(2) // the planner and one slice
		_, err = w.sqs.PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: &w.queue})
		w.must(err)

		now := time.Now()
		for _, step := range []struct {
			after    time.Duration
			messages bool
			stalled  int
		}{
			{0, false, 0},               // sees how far it is
			{5 * time.Minute, false, 0}, // may just be slow
			{11 * time.Minute, true, 0}, // a message was lost
			{31 * time.Minute, true, 1}, // people are told
			{32 * time.Minute, false, 1},
			{50 * time.Minute, true, 1}, // once
		} {
			w.must(e.Resume(t.Context(), now.Add(step.after)))
			out, err := w.sqs.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &w.queue, AttributeNames: []sqstypes.QueueAttributeName{sqstypes.QueueAttributeNameApproximateNumberOfMessages}})
			w.must(err)
			if got := out.Attributes["ApproximateNumberOfMessages"] != "0"; got != step.messages || len(w.told.stalled) != step.stalled {
				t.Errorf("after %s: messages %s, stalled %d", step.after, out.Attributes["ApproximateNumberOfMessages"], len(w.told.stalled))
			}
			if step.after < 50*time.Minute {
				time.Sleep(time.Minute) // a queue is purged once a minute at most
				_, err = w.sqs.PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: &w.queue})
				w.must(err)
			}
		}
		if s := w.told.stalled[0]; s.State != StateRunning || !strings.Contains(s.Cause, "1 done") {
			t.Errorf("stalled: %+v", s)
		}
		// What was sent again at last finishes the job; the observer fails at first.
		w.told.failures = 1
		f.work()
		w.must(e.Resume(t.Context(), now.Add(time.Hour)))
		if len(w.told.completed) != 1 {
			t.Errorf("completed %d times", len(w.told.completed))
		}
	})
}

func TestMessagesThatAreNotOurs(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	for _, body := range []string{"", "garbage", `{"v":1,"job":"00","pass":1,"slice":0}`, `{"v":9}`, strings.Repeat("x", 1<<20)} {
		if got := outcome.Of(e.Handle(t.Context(), []byte(body))).Action; got != outcome.DeadLetter {
			t.Errorf("%.40q: %s, want dead-letter", body, got)
		}
	}
}

func TestStateBucketIsNeverTouched(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	if s, err := e.Run(t.Context(), RunOptions{Bucket: stateBucket, From: []string{w.a}, To: w.b}, nil); err == nil || s.State != StateStopped {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestRunInOneProcess(t *testing.T) {
	w := newWorld(t)
	w.versioning(types.BucketVersioningStatusEnabled)
	w.populate(100, true)
	before := w.snapshot()
	e := w.engine()

	dry, err := e.Run(t.Context(), RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b, DryRun: true}, nil)
	w.must(err)
	if d := cmp.Diff(before, w.snapshot()); d != "" {
		t.Fatal("a dry run changed something:", d)
	}
	var last Progress
	rows := map[[2]string]Reason{}
	s, err := e.Run(t.Context(), RunOptions{
		Bucket: bucket, From: []string{w.a}, To: w.b, Row: func(_ int, r Refusal) { rows[[2]string{r.Key, r.Version}] = r.Reason },
	}, func(p Progress) { last = p })
	w.must(err)
	w.check(before, rows, []string{w.a}, w.b, false, true)
	if d := cmp.Diff(dry.Counts, s.Counts); d != "" {
		t.Error("a dry run counts differently:", d)
	}
	if s.State != StateComplete || s.Passes != 2 || last.Pass != 2 || last.Moved != 0 || int(last.Scanned) != len(before) {
		t.Errorf("%+v, last progress %+v", s, last)
	}
	if _, err := e.Run(t.Context(), RunOptions{Bucket: bucket, From: []string{w.b}, To: w.b}, nil); err == nil {
		t.Error("a key may be moved to itself")
	}
}

func TestFaultsOfOneObjectDoNotHoldUpTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		for i := range 20 {
			w.put(fmt.Sprintf("%02d", i), w.a)
		}
		w.put("x", w.c)
		w.disable(w.c)
		// One object fails for good, with all tries of the SDK; the next pass sees to it.
		w.aws.SetFaults(localaws.Fault{Service: "s3", Operations: []string{"CopyObject"}, Effect: localaws.FailBefore, Count: 3})
		rows := map[string]Reason{}
		s, err := w.engine(func(o *Options) { o.Concurrency = 1 }).Run(t.Context(), RunOptions{
			Bucket: bucket, From: []string{w.a, w.c}, To: w.b, Method: MethodCopy,
			Row: func(pass int, r Refusal) { rows[fmt.Sprintf("%d %s", pass, r.Key)] = r.Reason },
		}, nil)
		w.must(err)
		want := map[string]Reason{"1 00": ReasonError, "1 x": ReasonKeyUnusable, "2 x": ReasonKeyUnusable, "3 x": ReasonKeyUnusable}
		if d := cmp.Diff(want, rows); d != "" || s.Moved != 20 || s.Failed != 0 || s.Refused != 1 {
			t.Errorf("%+v %s", s.Counts, d)
		}
	})
}

func TestThrottlingWaitsInsteadOfFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		w.put("k", w.a)
		w.put("l", w.a)
		e := w.engine()
		w.aws.SetFaults(localaws.Fault{Service: "s3", Operations: []string{"CopyObject"}, Effect: localaws.Throttle, Rate: 0.001})
		_, err := e.Run(t.Context(), RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b, Method: MethodCopy}, nil)
		if d := outcome.Of(err); d.Action != outcome.Delay {
			t.Errorf("%s (%v), want delay", d.Action, err)
		}
	})
}

func TestResultsCountOnce(t *testing.T) {
	w := newWorld(t)
	w.populate(120, false)
	e := w.engine()
	jobs, err := e.Start(t.Context(), w.move(time.Now(), w.b, w.a))
	w.must(err)
	w.must(e.Handle(t.Context(), []byte(`{"v":1,"job":"`+jobs[0]+`","pass":1,"plan":true,"slice":0}`)))
	slice := []byte(`{"v":1,"job":"` + jobs[0] + `","pass":1,"slice":1}`)
	w.must(e.Handle(t.Context(), slice))
	var first, second resultDoc
	etag, err := w.store.Get(t.Context(), resultKey(jobs[0], 1, 1), &first)
	w.must(err)
	writes := w.aws.Requests("s3", "UpdateObjectEncryption")
	w.must(e.Handle(t.Context(), slice))
	if again, err := w.store.Get(t.Context(), resultKey(jobs[0], 1, 1), &second); err != nil || again != etag || w.aws.Requests("s3", "UpdateObjectEncryption") != writes {
		t.Error("a slice that is done was done again")
	}
	var missing sliceDoc
	if _, err := w.store.Get(t.Context(), sliceKey(jobs[0], 99), &missing); !errors.Is(err, state.ErrNotFound) {
		t.Error("there are more slices than objects")
	}
}

func TestCustomerKeysAreReportedNotGuessed(t *testing.T) {
	w := newWorld(t)
	w.put("mine", w.a)
	_, err := w.s3.PutBucketEncryption(t.Context(), &s3.PutBucketEncryptionInput{
		Bucket: aws.String(bucket), ServerSideEncryptionConfiguration: &types.ServerSideEncryptionConfiguration{Rules: []types.ServerSideEncryptionRule{{
			ApplyServerSideEncryptionByDefault: &types.ServerSideEncryptionByDefault{SSEAlgorithm: types.ServerSideEncryptionAes256},
			BlockedEncryptionTypes:             &types.BlockedEncryptionTypes{EncryptionType: []types.EncryptionType{types.EncryptionTypeNone}},
		}}},
	})
	w.must(err)
	customer := strings.Repeat("k", 32)
	sum := md5.Sum([]byte(customer))
	_, err = w.s3.PutObject(t.Context(), &s3.PutObjectInput{
		Bucket: aws.String(bucket), Key: aws.String("theirs"), Body: strings.NewReader("secret"), SSECustomerAlgorithm: aws.String("AES256"),
		SSECustomerKey: aws.String(base64.StdEncoding.EncodeToString([]byte(customer))), SSECustomerKeyMD5: aws.String(base64.StdEncoding.EncodeToString(sum[:])),
	})
	w.must(err)
	for _, method := range []Method{MethodUpdate, MethodCopy} {
		s, err := w.engine().Run(t.Context(), RunOptions{Bucket: bucket, From: []string{w.a, w.b}, To: w.c, Method: method, DryRun: true}, nil)
		w.must(err)
		if s.Moved != 1 || s.ByReason[ReasonUnreadableHead] != 1 {
			t.Errorf("%s: %+v", method, s.Counts)
		}
	}
}
