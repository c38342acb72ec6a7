package confirm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime"
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
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
	_ "github.com/cmkeeper/cmkeeper/internal/testgc" // accounts that live for one test are garbage soon
	"github.com/cmkeeper/cmkeeper/state"
)

const (
	account = "111122223333"
	region  = "us-east-1"
	keeper  = "AKIAKEEPER"
)

// world is an account whose CloudTrail is late.
type world struct {
	*testing.T
	aws *localaws.Server
	// looked is when look-ups arrived.
	mu     sync.Mutex
	looked []time.Time
}

// newWorld returns a world in the bubble that it is called in.
func newWorld(t *testing.T, delay time.Duration) *world {
	w := &world{T: t, aws: localaws.New(localaws.Options{Account: account, Region: region})}
	t.Cleanup(w.aws.Close)
	w.aws.Trail().Set(trail.Settings{LookupDelay: delay})
	if _, err := w.s3().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("state")}); err != nil {
		t.Fatal(err)
	}
	w.aws.Observe(func(r localaws.Request) {
		if r.Operation == "LookupEvents" && r.Caller.AccessKeyID == keeper {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.looked = append(w.looked, time.Now())
		}
	})
	return w
}

func (w *world) s3() *s3.Client {
	return awsclient.S3(inprocess.Config(w.aws, region, keeper), aws.Bool(true))
}

// lookups returns when look-ups arrived.
func (w *world) lookups() []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.looked[:len(w.looked):len(w.looked)]
}

// requests counts all requests of workers.
func (w *world) requests() (n int) {
	for _, operation := range []string{"PutObject", "GetObject", "DeleteObject"} {
		n += w.aws.Requests("s3", operation)
	}
	return n + len(w.lookups())
}

// call makes a key do something and returns the question about it, as its message would
// ask it.
func (w *world) call(operation, keyARN string) Question {
	w.Helper()
	client := kms.NewFromConfig(inprocess.Config(w.aws, region, "mallory"))
	var err error
	switch operation {
	case "CreateKey":
		_, err = client.CreateKey(w.Context(), &kms.CreateKeyInput{})
	case "DisableKey":
		_, err = client.DisableKey(w.Context(), &kms.DisableKeyInput{KeyId: &keyARN})
	case "EnableKey":
		_, err = client.EnableKey(w.Context(), &kms.EnableKeyInput{KeyId: &keyARN})
	case "EnableKeyRotation":
		_, err = client.EnableKeyRotation(w.Context(), &kms.EnableKeyRotationInput{KeyId: &keyARN})
	}
	if err != nil {
		w.Fatal(err)
	}
	made := w.aws.Trail().History()[0]
	record := made.Record()
	return Question{EventID: record.EventID, Name: record.EventName, Resource: record.Resources[0].ARN, Actor: record.UserIdentity.ARN, Time: made.Time}
}

// record is what CloudTrail has, or will have.
func (w *world) record(id string) string {
	for _, k := range w.aws.Trail().History() {
		if k.Record().EventID == id {
			return string(k.Body())
		}
	}
	return ""
}

// tapped is a Trail that notes what is looked up by.
type tapped struct {
	next Trail
	mu   sync.Mutex
	keys []string
}

func (c *tapped) Call(ctx context.Context, operation string, in, out any) error {
	c.mu.Lock()
	c.keys = append(c.keys, in.(request).LookupAttributes[0].AttributeKey)
	c.mu.Unlock()
	return c.next.Call(ctx, operation, in, out)
}

// by returns what was looked up by.
func (c *tapped) by() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.keys)
}

// member is a worker's Records over an HTTP client.
func (w *world) member(client aws.HTTPClient, perSecond float64, log *slog.Logger) (*Records, *tapped) {
	cfg := inprocess.Config(w.aws, region, keeper)
	cfg.HTTPClient, cfg.Retryer = client, func() aws.Retryer { return aws.NopRetryer{} }
	calls := &tapped{next: awsclient.CloudTrail(cfg)}
	return New(calls, state.New(awsclient.S3(cfg, aws.Bool(true)), "state", "cmkeeper/", account), Config{PerSecond: perSecond}, log), calls
}

// worker returns a worker's Records, not yet running.
func (w *world) worker() (*Records, *tapped) {
	return w.member(inprocess.Client{Handler: w.aws}, 0, nil)
}

// run runs until the returned function is called, or the test ends.
func (w *world) run(r *Records) (stop func()) {
	ctx, cancel := context.WithCancel(w.Context())
	var done sync.WaitGroup
	done.Go(func() {
		if err := r.Run(ctx); err != nil {
			w.Error(err)
		}
	})
	stop = func() { cancel(); done.Wait() }
	w.Cleanup(stop)
	return stop
}

// answered asks as a message does, which comes back every half minute to any of the
// workers, until one has the answer. It is an error if that takes longer than limit.
func (w *world) answered(q Question, limit time.Duration, workers ...*Records) {
	w.Helper()
	has := func(r *Records) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		_, ok := r.found.byID[q.EventID]
		return ok
	}
	for began, n := time.Now(), 0; ; n++ {
		if n%30 == 0 {
			workers[rand.N(len(workers))].Record(q)
		}
		for _, r := range workers {
			if !has(r) {
				continue
			}
			record, ok := r.Record(q)
			if want := w.record(q.EventID); !ok || want == "" || string(record) != want {
				w.Errorf("record %s, want %s", record, want)
			}
			w.Logf("answered after %s", time.Since(began))
			return
		}
		if took := time.Since(began); took >= limit {
			w.Errorf("%s of %s is not answered after %s", q.Name, q.EventID, took)
			return
		}
		time.Sleep(time.Second)
	}
}

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func forged(name, resource, actor string, at time.Time) Question {
	return Question{EventID: wire.NewUUID(), Name: name, Resource: resource, Actor: actor, Time: at}
}

func keyARN(n int) string {
	return fmt.Sprintf("arn:aws:kms:%s:%s:key/%08d-1111-2222-3333-444455556666", region, account, n)
}

// A record is found when CloudTrail has it, minutes after the call, by look-ups that
// become rarer.
func TestFoundWhenVisible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 7*time.Minute)
		r, calls := w.worker()
		q := w.call("CreateKey", "")
		if _, ok := r.Record(q); ok {
			t.Fatal("answered at once")
		}
		if !r.Busy() { // before anybody looks it up
			t.Error("a question waits, and Records is not busy")
		}
		w.run(r)
		synctest.Wait()
		time.Sleep(3 * time.Second)
		if r.Busy() {
			t.Error("busy while the question pauses")
		}
		w.answered(q, 8*time.Minute, r)
		for _, by := range calls.by() {
			if by != "EventId" {
				t.Errorf("one question is looked up by %s", by)
			}
		}
		if n := len(calls.by()); n > 10 {
			t.Errorf("%d look-ups in seven minutes", n)
		}
		found := w.requests()
		for range 60 {
			time.Sleep(time.Minute)
			if _, ok := r.Record(q); !ok {
				t.Fatal("the record is gone")
			}
		}
		if n := w.requests() - found; n > 3 { // giving back the turn
			t.Errorf("%d requests after the record was found", n)
		}
	})
}

// What CloudTrail never has is never answered, and looked up while it is asked for: no
// request is made before, and none after.
func TestNeverFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		r, _ := w.worker()
		stop := w.run(r)
		time.Sleep(time.Hour)
		for _, id := range []string{"", "x", "alias/app", strings.Repeat("a", 36), "0123456-89ab-cdef-0123-456789abcdef0", "01234567-89ab-cdef-0123-456789abcdeg"} {
			r.Record(Question{EventID: id, Name: "UpdateAlias", Resource: keyARN(1), Time: time.Now()})
		}
		time.Sleep(time.Hour)
		if n := w.requests(); n != 0 {
			t.Errorf("%d requests without a question", n)
		}

		began, q := time.Now(), forged("UpdateAlias", keyARN(1), "mallory", time.Now())
		for range 15 * 60 {
			if _, ok := r.Record(q); ok {
				t.Fatal("answered")
			}
			time.Sleep(time.Second)
		}
		var after []time.Duration
		for _, at := range w.lookups() {
			after = append(after, at.Sub(began).Round(10*time.Second))
		}
		want := []time.Duration{0, 20 * time.Second} // 15, 45, 105, …
		for wait := 50 * time.Second; wait < 15*time.Minute; wait += time.Minute {
			want = append(want, wait)
		}
		if !cmp.Equal(after, want) {
			t.Errorf("looked up after %v, want %v", after, want)
		}
		time.Sleep(forgotten)
		before := w.requests()
		time.Sleep(time.Hour)
		if n := w.requests() - before; n != 0 {
			t.Errorf("%d requests about what nobody asks any more", n)
		}
		stop()
		if n := len(r.questions.waits) + len(r.questions.shares); n != 0 {
			t.Errorf("%d questions and shares are left", n)
		}
	})
}

// An old claim is not late: it is there, or it is false. A record of long ago is found at
// once, and one that never was costs few look-ups.
func TestOldClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5*time.Minute)
		real := w.call("CreateKey", "")
		time.Sleep(10 * time.Hour)
		r, calls := w.worker()
		w.run(r)
		w.answered(real, 3*time.Second, r)
		q := forged("UpdateAlias", keyARN(1), "mallory", real.Time)
		for range 15 {
			r.Record(q)
			time.Sleep(time.Minute)
		}
		if n := len(calls.by()); n > 2 {
			t.Errorf("%d look-ups", n)
		}
	})
}

// Questions about one key are answered by one look-up by its name, those about several
// keys by one look-up by the event's name, whatever else happened.
func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, time.Minute)
		key := w.call("CreateKey", "").Resource
		var ofKey, ofName []Question
		for i := range 5 {
			time.Sleep(time.Minute)
			for _, name := range []string{"DisableKey", "EnableKey"} {
				q := w.call(name, key)
				q.Name = ""
				ofKey = append(ofKey, q)
			}
			ofName = append(ofName, w.call("CreateKey", ""))
			ofKey = append(ofKey, forged("", key, "mallory", time.Now().Add(-time.Duration(i)*time.Minute)))
		}
		time.Sleep(time.Minute)
		for name, c := range map[string]struct {
			by        string
			questions []Question
			want      int
		}{
			"key": {"ResourceName", ofKey, 10}, "name": {"EventName", ofName, 5},
		} {
			r, calls := w.worker()
			for _, q := range c.questions {
				r.Record(q)
			}
			time.Sleep(time.Minute) // until the turn of the worker before has run out
			stop := w.run(r)
			synctest.Wait()
			stop()
			answered := 0
			for _, q := range c.questions {
				if record, ok := r.Record(q); ok {
					answered++
					if string(record) != w.record(q.EventID) {
						t.Errorf("%s: another record: %s", name, record)
					}
				}
			}
			if by := calls.by(); answered != c.want || !cmp.Equal(by, []string{c.by}) {
				t.Errorf("%s: %d answered, want %d; looked up by %q", name, answered, c.want, by)
			}
		}
	})
}

// Where there are more records than fit, look-ups for many are made all the same, and
// what they do not get to is looked up by id.
func TestMoreRecordsThanFit(t *testing.T) {
	for name, as := range map[string]func(*Question){
		"of a key":  func(q *Question) { q.Name = "" },
		"of a name": func(q *Question) { q.Resource = "" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 0)
				var real []Question
				for i := range 4000 {
					id := wire.NewUUID()
					w.aws.Trail().Call(trail.Call{
						Service: "kms", Operation: "CreateGrant", EventID: id, Caller: wire.Caller{AccountID: account},
						Resources: []trail.Resource{{ARN: keyARN(1), Type: "AWS::KMS::Key"}},
					})
					if i%500 == 250 {
						q := Question{EventID: id, Name: "CreateGrant", Resource: keyARN(1), Time: time.Now().Truncate(time.Second)}
						as(&q)
						real = append(real, q)
					}
					time.Sleep(10 * time.Millisecond)
				}
				r, calls := w.worker()
				for _, q := range real {
					r.Record(q)
				}
				w.run(r)
				for _, q := range real {
					w.answered(q, 25*time.Second, r)
				}
				if by := calls.by(); by[0] == "EventId" || by[1] != "EventId" || len(by) > 2*len(real) {
					t.Errorf("looked up by %q", by)
				}
			})
		})
	}
}

// The records of calls that were denied name no key, so they are not among the key's:
// they are found all the same.
func TestDeniedCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		key := w.call("CreateKey", "").Resource
		w.aws.SetIdentityPolicy("mallory", func(string, string) bool { return false })
		client := kms.NewFromConfig(inprocess.Config(w.aws, region, "mallory"))
		var denied []Question
		for range 5 {
			if _, err := client.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key}); err == nil {
				t.Fatal("not denied")
			}
			record := w.aws.Trail().History()[0].Record()
			denied = append(denied, Question{EventID: record.EventID, Resource: key, Time: time.Now()})
		}
		r, _ := w.worker()
		w.run(r)
		for _, q := range denied {
			r.Record(q)
		}
		for _, q := range denied {
			w.answered(q, 10*time.Second, r)
		}
	})
}

// What CloudTrail answers is the record only if the record itself has the id.
func TestRecordOfAnotherID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		q, other := w.call("CreateKey", ""), w.call("CreateKey", "")
		r, calls := w.worker()
		calls.next = confused{calls.next, q.EventID, other.EventID}
		r.Record(q)
		w.run(r)
		time.Sleep(time.Minute)
		if record, ok := r.Record(q); ok || len(calls.by()) == 0 {
			t.Errorf("answered with %s after %d look-ups", record, len(calls.by()))
		}
	})
}

// confused is a Trail that takes one id for another.
type confused struct {
	Trail
	id, other string
}

func (c confused) Call(ctx context.Context, operation string, in, out any) error {
	asked := in.(request)
	for i, a := range asked.LookupAttributes {
		if a.AttributeValue == c.id {
			asked.LookupAttributes[i].AttributeValue = c.other
		}
	}
	return c.Trail.Call(ctx, operation, asked, out)
}

// flood asks forged questions, and again as their messages come back to any of the workers.
func (w *world) flood(questions []Question, workers ...*Records) {
	ctx, cancel := context.WithCancel(w.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for sleep(ctx, 30*time.Second) {
			for _, q := range questions {
				workers[rand.N(len(workers))].Record(q)
			}
		}
	})
	for _, q := range questions {
		workers[rand.N(len(workers))].Record(q)
	}
	w.Cleanup(func() { cancel(); done.Wait() })
}

// Among thousands of forged events, however their sender chooses keys, callers, names and
// times, a real one is confirmed within two minutes of its being visible.
func TestFlood(t *testing.T) {
	names := []string{"UpdateAlias", "CreateKey", "CreateAlias", "DeleteAlias", "DisableKeyRotation", "EnableKeyRotation", "PutKeyPolicy", "ScheduleKeyDeletion", "CancelKeyDeletion", "DisableKey", "TagResource", "UntagResource"}
	name := func(i int) string { return names[i%len(names)] }
	for what, c := range map[string]struct {
		n     int
		forge func(i int, real Question) Question
	}{
		"300 keys, 50 actors": {2000, func(i int, real Question) Question {
			return forged(name(i), keyARN(i%300), fmt.Sprint("actor", i%50), real.Time.Add(-time.Duration(i%60)*time.Second))
		}},
		"the same key, actor and name": {2000, func(i int, real Question) Question {
			return forged(real.Name, real.Resource, real.Actor, real.Time.Add(-time.Duration(i%60)*time.Second))
		}},
		"newer, 60 keys": {2000, func(i int, real Question) Question {
			return forged(name(i), keyARN(i%60), real.Actor, real.Time.Add(time.Duration(i%300)*time.Second))
		}},
		"the same key, newer and older": {2000, func(i int, real Question) Question {
			return forged(real.Name, real.Resource, real.Actor, real.Time.Add(time.Duration(i-1000)*time.Minute))
		}},
		"the same id, elsewhere and at other times": {2000, func(i int, real Question) Question {
			real.Resource, real.Time, real.Name = keyARN(i%60), real.Time.Add(time.Duration(i-1000)*time.Hour), name(i)
			return real
		}},
		"a key, an actor and a time each": {2000, func(i int, real Question) Question {
			return forged(name(i), keyARN(i), fmt.Sprint("actor", i), real.Time.Add(time.Duration(i-1900)*24*time.Hour))
		}},
		"more than there is room for, one key": {10_000, func(i int, real Question) Question {
			return forged(real.Name, keyARN(1), real.Actor, real.Time.Add(time.Duration(i%60)*time.Second))
		}},
		"more than there is room for, a key each": {10_000, func(i int, real Question) Question {
			return forged(real.Name, keyARN(i), real.Actor, real.Time.Add(time.Duration(i%60)*time.Second))
		}},
		"without a name, the same key": {2000, func(i int, real Question) Question {
			return forged("", real.Resource, real.Actor, real.Time.Add(time.Duration(i%60-30)*time.Second))
		}},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const delay = 9 * time.Minute
				w := newWorld(t, delay)
				for range 60 { // what else happens
					w.call("CreateKey", "")
					time.Sleep(time.Minute)
				}
				r, _ := w.worker()
				w.run(r)
				real := w.call("CreateKey", "")
				var all []Question
				for i := range c.n {
					all = append(all, c.forge(i, real))
				}
				w.flood(all, r)
				time.Sleep(time.Second)
				if all[0].Name == "" {
					real.Name = ""
				}
				w.answered(real, delay+2*time.Minute, r)
			})
		})
	}
}

// A fleet of three confirms it as fast, whichever of them its message comes back to.
func TestFloodOfAFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const delay = 9 * time.Minute
		w := newWorld(t, delay)
		var fleet []*Records
		for range 3 {
			r, _ := w.worker()
			w.run(r)
			fleet = append(fleet, r)
		}
		real := w.call("CreateKey", "")
		var all []Question
		for i := range 2000 {
			name := []string{"UpdateAlias", "CreateKey", "DisableKeyRotation", "PutKeyPolicy", "ScheduleKeyDeletion", "DisableKey"}[i%6]
			all = append(all, forged(name, keyARN(i%300), fmt.Sprint("actor", i%50), real.Time.Add(time.Duration(i%300-150)*time.Second)))
		}
		w.flood(all, fleet...)
		w.answered(real, delay+2*time.Minute, fleet...)
		time.Sleep(time.Minute) // in which each has its turn
		has := 0
		for _, r := range fleet {
			if _, ok := r.Record(real); ok {
				has++
			}
		}
		if has < 2 {
			t.Errorf("%d of %d workers have the record", has, len(fleet))
		}
	})
}

// Three workers with one state bucket ask no more often together than one may, each has
// its turns, and nothing is throttled.
func TestFleet(t *testing.T) {
	fails := localaws.Fault{Service: "cloudtrail", Effect: localaws.FailBefore, Probability: 0.1}
	for name, c := range map[string]struct {
		perSecond float64
		gap       time.Duration
		faults    []localaws.Fault
	}{
		"1": {1, time.Second, nil}, "2": {2, time.Second / 2, nil}, "0.4": {0.4, 2500 * time.Millisecond, nil}, "failing": {1, time.Second, []localaws.Fault{fails}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 5*time.Minute)
				w.aws.SetFaults(c.faults...)
				var log lines
				var stops []func()
				for range 3 {
					r, _ := w.member(inprocess.Client{Handler: w.aws}, c.perSecond, slog.New(slog.NewTextHandler(&log, nil)))
					stops = append(stops, w.run(r))
					var all []Question
					for i := range 300 {
						all = append(all, forged("UpdateAlias", keyARN(i), "mallory", time.Now()))
						all[i].Name = "" // which only makes more look-ups
					}
					w.flood(all, r)
					if c.faults == nil {
						go w.answered(w.call("CreateKey", ""), 7*time.Minute, r)
					}
				}
				time.Sleep(8 * time.Minute)
				for _, stop := range stops {
					stop()
				}
				looked := w.lookups()
				for i := 1; i < len(looked); i++ {
					if since := looked[i].Sub(looked[i-1]); since < c.gap {
						t.Fatalf("look-up %d comes %s after the one before", i, since)
					}
				}
				if most := int(8 * time.Minute / c.gap); c.faults == nil && len(looked) < most*3/4 {
					t.Errorf("%d look-ups, of %d that could have been", len(looked), most)
				}
				if text := log.String(); c.faults == nil && text != "" {
					t.Error(text)
				}
			})
		})
	}
}

// A worker that is killed in its turn delays the others by seconds.
func TestKilledInItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		var dead atomic.Bool
		client := inprocess.Client{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if dead.Load() {
				panic(http.ErrAbortHandler)
			}
			w.aws.ServeHTTP(rw, r)
		})}
		doomed, _ := w.member(client, 0, nil)
		for i := range 100 {
			doomed.Record(forged("", keyARN(i), "mallory", time.Now()))
		}
		stop := w.run(doomed)
		time.Sleep(2500 * time.Millisecond)
		if n := len(w.lookups()); n != 3 {
			t.Fatalf("%d look-ups", n)
		}
		dead.Store(true)
		stop()
		r, _ := w.worker()
		w.run(r)
		w.answered(w.call("CreateKey", ""), turnLength+time.Second+spare+2*poll, r)
	})
}

// A row that cannot be read stops nobody, but for one that a newer build has written.
func TestUnreadableRow(t *testing.T) {
	for body, want := range map[string]bool{"": true, "{": true, `{"schema":"cmkeeper.turn.v1","workers":[{}]}`: true, `{"schema":"cmkeeper.turn.v2"}`: false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 0)
			if _, err := w.s3().PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("state"), Key: aws.String("cmkeeper/" + rowKey), Body: strings.NewReader(body)}); err != nil {
				t.Fatal(err)
			}
			r, _ := w.worker()
			q := w.call("CreateKey", "")
			r.Record(q)
			w.run(r)
			time.Sleep(time.Minute)
			if _, ok := r.Record(q); ok != want {
				t.Errorf("%q: answered: %t", body, ok)
			}
		})
	}
}

// Who may not look up says so once, with the permission, and goes on when it is granted.
func TestDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		w.aws.SetIdentityPolicy(keeper, func(action, _ string) bool { return action != "cloudtrail:LookupEvents" })
		var log lines
		r, _ := w.member(inprocess.Client{Handler: w.aws}, 0, slog.New(slog.NewTextHandler(&log, nil)))
		w.run(r)
		q := w.call("CreateKey", "")
		for range 10 {
			if _, ok := r.Record(q); ok {
				t.Fatal("answered")
			}
			time.Sleep(time.Minute)
		}
		if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "cloudtrail:LookupEvents") {
			t.Errorf("logged %s", text)
		}
		if n := len(w.lookups()); n > 11 {
			t.Errorf("%d look-ups are refused in ten minutes", n)
		}
		w.aws.SetIdentityPolicy(keeper, func(string, string) bool { return true })
		w.answered(q, 2*time.Minute, r)
		if text := log.String(); strings.Count(text, "\n") != 2 {
			t.Errorf("logged %s", text)
		}
	})
}

// Where others use up CloudTrail's quota, and where it or the bucket fails, look-ups go
// on when that is over.
func TestTroubles(t *testing.T) {
	for what, c := range map[string]struct {
		faults []localaws.Fault
		logged int
		most   int // look-ups in ten minutes
	}{
		"throttled":          {[]localaws.Fault{{Service: "cloudtrail", Effect: localaws.Throttle, Rate: 1e-9, Burst: 1}}, 0, 205},
		"CloudTrail fails":   {[]localaws.Fault{{Service: "cloudtrail", Effect: localaws.FailBefore}}, 1, 105},
		"CloudTrail is mute": {[]localaws.Fault{{Service: "cloudtrail", Effect: localaws.Delay, Latency: localaws.Latency{Min: time.Hour, Mean: time.Hour}}}, 1, 105},
		"the bucket fails":   {[]localaws.Fault{{Service: "s3", Effect: localaws.FailBefore}}, 1, 0},
		"answers are lost":   {[]localaws.Fault{{Service: "cloudtrail", Effect: localaws.DropAfter}}, 1, 105},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 0)
				var log lines
				r, _ := w.member(inprocess.Client{Handler: w.aws}, 0, slog.New(slog.NewTextHandler(&log, nil)))
				w.aws.SetFaults(c.faults...)
				w.run(r)
				first, q := w.call("CreateKey", ""), w.call("CreateKey", "")
				r.Record(first)
				time.Sleep(5 * time.Second)
				for range 10 {
					r.Record(q)
					time.Sleep(time.Minute)
				}
				if n := strings.Count(log.String(), "\n"); n != c.logged {
					t.Errorf("logged %s", log.String())
				}
				if n := len(w.lookups()); n > c.most {
					t.Errorf("%d look-ups", n)
				}
				w.aws.SetFaults()
				w.answered(q, 90*time.Second, r)
			})
		})
	}
}

// A question that CloudTrail refuses to look up keeps the others waiting for one look-up.
func TestRefusedLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		r, calls := w.worker()
		q := w.call("CreateKey", "")
		q.Name, q.Resource = "", ""
		bad := forged("", "", q.Actor, q.Time.Add(time.Second))
		calls.next = refuses{calls.next, bad.EventID}
		r.Record(bad)
		w.run(r)
		time.Sleep(500 * time.Millisecond)
		w.answered(q, 3*time.Second, r)
	})
}

// refuses is a Trail that refuses an id.
type refuses struct {
	Trail
	id string
}

func (c refuses) Call(ctx context.Context, operation string, in, out any) error {
	if asked := in.(request); asked.LookupAttributes[0].AttributeValue == c.id {
		asked.StartTime, asked.EndTime = 2, 1
		in = asked
	}
	return c.Trail.Call(ctx, operation, in, out)
}

// However many questions are asked, and whatever they are part of, they take a bounded
// space; and of the records the newest 8 MiB are kept.
func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		r, _ := w.worker()
		inUse := func() int64 {
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		before := inUse()
		for i := range 10_000 {
			size := 1 << 10
			if i%100 == 0 {
				size = 1 << 18
			}
			message := forged("UpdateAlias", keyARN(i), "", time.Now())
			text := message.EventID + message.Name + message.Resource + strings.Repeat("x", size)
			q := Question{EventID: text[:36], Name: text[36:47], Resource: text[47:122], Actor: text[122:], Time: time.Now()}
			if i%3 == 0 {
				q.Name, q.Resource = strings.Repeat("N", size), "arn:"+strings.Repeat("x", size)
			}
			r.Record(q)
		}
		if n := len(r.questions.waits); n != maxQuestions {
			t.Errorf("%d questions", n)
		}
		if n := len(r.questions.shares); n > 3*maxQuestions {
			t.Errorf("%d shares", n)
		}
		if grown := inUse() - before; grown > 4<<20 {
			t.Errorf("%d questions take %d bytes", maxQuestions, grown)
		}
		runtime.KeepAlive(r)

		r, _ = w.worker()
		var last Question
		for i := range 45 {
			id := wire.NewUUID()
			record, _ := json.Marshal(map[string]any{
				"eventSource": "kms.amazonaws.com", "eventName": "PutKeyPolicy", "eventID": id, "eventTime": trail.Time(time.Now()),
				"requestParameters": map[string]string{"policy": strings.Repeat("x", 250<<10)},
			})
			if err := w.aws.Record(record); err != nil {
				t.Fatal(err)
			}
			last = Question{EventID: id, Name: "PutKeyPolicy", Time: time.Now(), Actor: fmt.Sprint(i)}
			r.Record(last)
			time.Sleep(time.Second)
		}
		stop := w.run(r)
		time.Sleep(10 * time.Second)
		stop()
		if n, bytes := len(r.found.byID), r.found.bytes; bytes > maxBytes || bytes < maxBytes*9/10 || n != len(r.found.order) {
			t.Errorf("%d records of %d bytes", n, bytes)
		}
	})
}
