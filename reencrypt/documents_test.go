package reencrypt

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/state"
)

// recorder stands before the server and records what an engine stores below jobs/
// and sends to the queue, in order.
type recorder struct {
	server http.Handler
	mu     sync.Mutex
	lines  []string
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body)
	q.Body = io.NopCloser(bytes.NewReader(body))
	var message struct{ MessageBody string }
	key, stored := strings.CutPrefix(q.URL.Path, "/"+stateBucket+"/cmkeeper/jobs/")
	r.mu.Lock()
	switch {
	case stored && q.Method == http.MethodPut:
		r.lines = append(r.lines, "put "+key+" "+strings.TrimSuffix(string(body), "\n"))
	case strings.HasSuffix(q.Header.Get("X-Amz-Target"), ".SendMessage") && json.Unmarshal(body, &message) == nil:
		r.lines = append(r.lines, "send "+message.MessageBody)
	}
	r.mu.Unlock()
	r.server.ServeHTTP(w, q)
}

// random matches what differs from run to run: key ids, job ids, tokens, ids of
// batch jobs and ETags.
var random = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{24}(-[0-9a-f]{32})?\b|\b[A-Z2-7]{26}\b`)

// text is what was recorded, with random parts numbered in the order in which they appear.
func (r *recorder) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := map[string]string{}
	return random.ReplaceAllStringFunc(strings.Join(r.lines, "\n")+"\n", func(s string) string {
		if names[s] == "" {
			names[s] = fmt.Sprintf("<%d>", len(names)+1)
		}
		return names[s]
	})
}

// handleAll handles messages one at a time until the queue is empty.
func (f *fleet) handleAll() {
	f.t.Helper()
	for idle := 0; idle < 3; {
		before := f.aws.Requests("sqs", "DeleteMessage")
		if f.handle(1); f.aws.Requests("sqs", "DeleteMessage") > before {
			idle = 0
			continue
		}
		idle++
		time.Sleep(5 * time.Minute) // as long as the longest delay of these messages
	}
}

// TestStoredDocumentsKeepTheirForm plays jobs of every kind and compares every
// document and message, byte for byte, with what an earlier build wrote: during a
// rolling update workers of two builds share a bucket and a queue.
func TestStoredDocumentsKeepTheirForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		recorded := &recorder{server: w.aws}
		cfg := inprocess.Config(recorded, "us-east-1", "worker")
		set := func(o *Options) {
			o.S3, o.Concurrency, o.SliceSize = awsclient.S3(cfg, aws.Bool(true)), 1, 8
			o.Store = state.New(awsclient.S3(cfg, aws.Bool(true)), stateBucket, "cmkeeper/", account)
			o.SQS = sqs.NewFromConfig(cfg)
		}
		work := func(change ...func(*Options)) (*Engine, *fleet) {
			e := w.engine(append([]func(*Options){set}, change...)...)
			return e, &fleet{world: w, engines: []*Engine{e}}
		}
		keys := []string{w.a, w.b, w.c, w.other} // documents have them in order
		slices.Sort(keys)
		w.a, w.b, w.c, w.other = keys[0], keys[1], keys[2], keys[3]
		w.populate(24, false)

		// By update, with a pause, slowly, so that slices record how far they are; the
		// observer fails once.
		w.aws.SetFaults(localaws.Fault{Service: "s3", Operations: []string{"HeadObject"}, Effect: localaws.Delay, Latency: localaws.Latency{Min: time.Second, Mean: time.Second}})
		e, f := work()
		ids, err := e.Start(t.Context(), w.move(time.Now(), w.b, w.a))
		w.must(err)
		f.handle(2)
		w.must(e.Pause(t.Context(), ids[0]))
		w.must(e.Continue(t.Context(), ids[0]))
		w.told.failures = 1
		f.handleAll()
		w.must(e.Resume(t.Context(), time.Now()))
		w.aws.SetFaults()
		retry, err := e.Retry(t.Context(), ids[0])
		w.must(err)
		f.handleAll()

		// By copy, superseded by a job that is denied something, stops, and goes on.
		e, f = work(func(o *Options) { o.Method = MethodCopy })
		_, err = e.Start(t.Context(), w.move(time.Now(), w.c, w.b))
		w.must(err)
		f.handle(2)
		w.must(e.Resume(t.Context(), time.Now().Add(time.Hour)))
		w.aws.SetIdentityPolicy("worker", func(action, resource string) bool {
			return action != "s3:GetObject" || strings.Contains(resource, stateBucket)
		})
		ids, err = e.Start(t.Context(), w.move(time.Now().Add(time.Second), w.other, w.c))
		w.must(err)
		f.handleAll()
		w.aws.SetIdentityPolicy("worker", nil)
		w.must(e.Continue(t.Context(), ids[0]))
		f.handleAll()

		// By S3 Batch Operations.
		e, f = work(w.by(ExecutorBatch))
		_, err = e.StartOrders(t.Context(), []Order{{Bucket: bucket, From: []string{w.other}, To: w.a, Versions: VersionsAll, Method: MethodUpdate}}, time.Now())
		w.must(err)
		f.handleAll()
		if s, err := e.Report(t.Context(), retry); err != nil || s.State != StateComplete {
			t.Errorf("the retry is %s: %v", s.State, err)
		}

		golden(t, "documents.golden", recorded.text())
	})
}

// TestStoredDocumentsHaveAllMembers: a document of each kind with every member set,
// and one with none, are written as an earlier build wrote them, and read back whole.
func TestStoredDocumentsHaveAllMembers(t *testing.T) {
	var got []string
	for _, newDocument := range []func() state.Document{
		func() state.Document { return new(openDoc) }, func() state.Document { return new(jobDoc) }, func() state.Document { return new(planDoc) },
		func() state.Document { return new(sliceDoc) }, func() state.Document { return new(namedDoc) }, func() state.Document { return new(progressDoc) },
		func() state.Document { return new(resultDoc) }, func() state.Document { return new(reportDoc) },
	} {
		empty, full, back := newDocument(), newDocument(), newDocument()
		fill(reflect.ValueOf(full).Elem())
		name, _ := full.Schema()
		for _, doc := range []state.Document{empty, full} {
			_, version := doc.Schema()
			line, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprintf("%s %d %s", name, version, line))
			if err := json.Unmarshal(line, back); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(full, back) {
			t.Errorf("%s is read back as %+v, and was %+v", name, back, full)
		}
	}
	golden(t, "members.golden", strings.Join(got, "\n")+"\n")
}

// fill sets everything that can be set.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		value := reflect.New(v.Type().Elem()).Elem()
		fill(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("key").Convert(v.Type().Key()), value)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)))
			return
		}
		for _, value := range v.Fields() {
			fill(value)
		}
	default:
		panic("a document has a member of the kind " + v.Kind().String())
	}
}

// golden compares a text with a file that an earlier build wrote. UPDATE_GOLDEN=1
// writes it anew, which is right only where workers of the build before can read it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
		t.Errorf("%s is not what it was (-was +is):\n%s", name, d)
	}
}
