package handlers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

var recordFormer = flag.Bool("record-former", false, "record what this build does, as what the former build did")

// former is what a worker of the former build did when it handled an event. What is
// random has the names that a world gives it.
type former struct {
	Before []formerDoc  `json:"before"`
	Steps  []formerStep `json:"steps"`
	// After is what it left behind.
	After string `json:"after"`
	// BySweep are the alerts that are told where the former build died after so many
	// steps and a sweep finished what it had begun; the event comes later.
	BySweep [][]string `json:"by_sweep"`
}

type formerDoc struct {
	Name string          `json:"name"`
	Body json.RawMessage `json:"body"`
}

// formerStep is one thing that it did: it stored a document, called KMS, told an alert
// or started a move.
type formerStep struct {
	Put  *formerDoc      `json:"put,omitempty"`
	Call string          `json:"call,omitempty"`
	With json.RawMessage `json:"with,omitempty"`
	ID   string          `json:"request_id,omitempty"`
	Told *alert.Alert    `json:"told,omitempty"`
	Move *reencrypt.Move `json:"move,omitempty"`
}

// handover is something that one build begins and another one finishes.
type handover struct {
	config func(*testing.T) reaction.Config
	// prepare makes the event that is handled.
	prepare func(*world) (body string)
}

var handovers = map[string]handover{
	"put-back": {config: configured(enforcePolicies), prepare: func(w *world) string {
		w.putPolicy(w.guardedKey(), takeover)
		return w.event("PutKeyPolicy")
	}},
	"put-back-with-containment": {config: closing, prepare: func(w *world) string {
		w.putPolicy(w.guardedKey(), takeover)
		return w.event("PutKeyPolicy")
	}},
	"put-back-refused-then-containment": {config: closing, prepare: func(w *world) string {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		w.react()
		time.Sleep(time.Minute)
		w.putPolicy(key, takeover)
		return w.event("PutKeyPolicy")
	}},
	"containment": {config: containing, prepare: func(w *world) string {
		w.putPolicy(w.knownKey("alias/orders"), public)
		return w.event("PutKeyPolicy")
	}},
	"cancel": {config: configured(enforceAll), prepare: func(w *world) string {
		w.scheduleDeletion(w.knownKey("alias/orders"))
		return w.event("ScheduleKeyDeletion")
	}},
	"enable": {config: configured(enforceAll), prepare: func(w *world) string {
		w.disable(w.knownKey("alias/orders"))
		return w.event("DisableKey")
	}},
	"rotation": {config: configured(enforceAll), prepare: func(w *world) string {
		w.disableRotation(w.rotatingKey(180))
		return w.event("DisableKeyRotation")
	}},
	"circuit": {config: configured(enforceAll, flapLimit(1)), prepare: func(w *world) string {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		w.react()
		time.Sleep(time.Minute)
		w.disableRotation(key)
		return w.event("DisableKeyRotation")
	}},
	"alias": {config: configured(enforceAll), prepare: func(w *world) string {
		w.bucket("orders-data", w.knownKey(listed))
		w.sweep()
		key := w.newKey(kms.CreateKeyInput{})
		w.react()
		w.told.take()
		w.updateAlias(listed, key)
		return w.event("UpdateAlias")
	}},
}

// TestFormerBuild has this build finish what the former one began: its worker died
// after each of its steps, or goes on while this one is at work on the same message.
// What there is to do is done once, and told once, under the id that the former build gave it.
//
// The recordings are of the build before the reactions were gathered into one decision;
// they are not written again when the code changes. Documents that this build leaves
// behind are held by TestGoldenState, which the former build passed with the same files.
func TestFormerBuild(t *testing.T) {
	for name, h := range handovers {
		path := filepath.Join("testdata", "former", name+".json")
		if *recordFormer {
			h.record(t, path)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var f former
		if err := json.Unmarshal(text, &f); err != nil {
			t.Fatal(path, err)
		}
		t.Run(name, func(t *testing.T) {
			for n := range len(f.Steps) + 1 {
				t.Run(fmt.Sprintf("finished after step %d", n), func(t *testing.T) { h.finish(t, f, n) })
				t.Run(fmt.Sprintf("swept after step %d", n), func(t *testing.T) {
					if diff := gocmp.Diff(f.BySweep[n], h.finishBySweep(t, f, n)); diff != "" {
						t.Errorf("alerts (-want +got):\n%s", diff)
					}
				})
			}
			t.Run("side by side", func(t *testing.T) { h.sideBySide(t, f) })
		})
	}
}

// in runs a test in a world where the event has happened that is to be handled, and the
// former build has left its documents.
func (h handover) in(t *testing.T, f *former, test func(w *world, body string, r *replay)) {
	t.Helper()
	c := h.config(t)
	inWorld(t, c, func(w *world) {
		w.untraced = true
		w.router = w.newRouter(c)
		body := h.prepare(w)
		w.told.take()
		w.moves.moves = nil
		r := &replay{world: w, start: time.Now(), known: map[string]string{}, earlier: len(w.told.alerts), calls: map[string]int{}}
		if f != nil {
			r.begin(*f)
		}
		var mu sync.Mutex
		defer w.aws.Observe(func(q localaws.Request) {
			if q.Service == "kms" && slices.Contains(changes, q.Operation) && q.Caller.AccessKeyID == keeperKey {
				mu.Lock()
				defer mu.Unlock()
				r.calls[q.Operation]++
			}
		})()
		test(w, body, r)
	})
}

// finish has this build handle the event that the former one died at after n steps.
func (h handover) finish(t *testing.T, f former, n int) {
	h.in(t, &f, func(w *world, body string, r *replay) {
		r.steps(f, n)
		w.handled(body)
		w.react()
		r.check(f)
		r.checkDone()
		if n == 0 { // else it shows that this build did not hear the answers of the other one's calls
			if diff := gocmp.Diff(strings.Split(f.After, "\n"), strings.Split(asBefore(w.snapshot()), "\n")); diff != "" {
				t.Errorf("what is left (-want +got):\n%s", diff)
			}
		}
		w.handled(body) // it comes twice
		w.sweep()
		r.check(f)
	})
}

// finishBySweep has a sweep of this build find what the former one left after n steps,
// and returns the ids of all alerts.
func (h handover) finishBySweep(t *testing.T, f former, n int) (told []string) {
	t.Helper()
	h.in(t, &f, func(w *world, body string, r *replay) {
		r.steps(f, n)
		time.Sleep(10 * time.Minute)
		w.sweep()
		w.react()
		w.handled(body)
		w.react()
		w.sweep()
		r.checkState(f)
		r.checkDone()
		told = r.told()
	})
	return told
}

// sideBySide lets the former build do its steps while this one handles the same
// message: all before one of this one's requests.
func (h handover) sideBySide(t *testing.T, f former) {
	for at, reached := 1, true; reached; at++ {
		t.Run(fmt.Sprintf("before request %d", at), func(t *testing.T) {
			h.in(t, &f, func(w *world, body string, r *replay) {
				requests, busy := 0, false
				w.tap = func(_ request, answered bool) {
					if answered || busy {
						return
					}
					if requests++; requests == at {
						busy = true
						r.steps(f, len(f.Steps))
						busy = false
					}
				}
				w.router = w.newRouter(h.config(t))
				for outcome.Of(w.handle(body)).Action == outcome.Retry {
					if requests > 1000 {
						t.Fatal("it fails again and again")
					}
				}
				reached = requests >= at
				w.tap = nil
				w.router = w.newRouter(h.config(t))
				w.react()
				w.handled(body)
				w.sweep()
				r.checkState(f)
				r.checkDone()
				if diff := gocmp.Diff(withoutTimes(f.told()), withoutTimes(r.told())); diff != "" {
					t.Errorf("alerts (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// withoutTimes are ids without the times that they end in: the first worker to store it
// decides when a circuit opened.
func withoutTimes(ids []string) (without []string) {
	for _, id := range ids {
		without = append(without, strings.TrimRight(id, "0123456789"))
	}
	return without
}

// replay does in a world what the former build did.
type replay struct {
	*world
	names   *names
	known   map[string]string // names of request ids → ids
	start   time.Time
	earlier int               // how many alerts there were before
	docs    map[string]string // as the former build knows them
	calls   map[string]int    // of KMS that change something, by either build
}

// changes are the calls that change a key.
var changes = []string{"PutKeyPolicy", "DisableKey", "EnableKey", "CancelKeyDeletion", "EnableKeyRotation"}

// actual gives what has a name back what it is in this world.
func (r *replay) actual(text string) string {
	var pairs []string
	for i := 0; i < len(r.names.pairs); i += 2 {
		pairs = append(pairs, r.names.pairs[i+1], r.names.pairs[i])
	}
	for name, id := range r.known {
		pairs = append(pairs, name, id)
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

func (r *replay) actualBody(body json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Compact(&b, body); err != nil {
		r.t.Fatal(err)
	}
	return r.actual(b.String())
}

// begin makes the documents those that the former build had.
func (r *replay) begin(f former) {
	r.t.Helper()
	r.names, r.docs = r.world.names(), map[string]string{}
	for _, d := range r.documents() {
		must(r.s3.DeleteObject(r.ctx, &s3.DeleteObjectInput{Bucket: aws.String(stateBucket), Key: &d.name}))
	}
	for _, d := range f.Before {
		r.put(d)
	}
	// This build's snapshot has seen the aliases as they were then.
	for name, body := range r.docs {
		if strings.Contains(name, "/aliases/") {
			body = sinceTime.ReplaceAllString(body, `$1,"verified":true}`)
			r.docs[name] = body
			must(r.s3.PutObject(r.ctx, &s3.PutObjectInput{Bucket: aws.String(stateBucket), Key: &name, Body: strings.NewReader(body), ContentType: aws.String("application/json")}))
		}
	}
}

// sinceTime ends what the former build kept of an alias's target.
var sinceTime = regexp.MustCompile(`("since":"[^"]*")}`)

// laterMembers are those that the former build did not have.
var laterMembers = regexp.MustCompile(`,\n +"verified": true|,\n +"exposures_since": "[^"]*"|,\n +"starts": \[[^]]*\]|,\n +"standing": \{(?s:.*?)\n  \}|,\n +"default": "[^"]*"`)

// asBefore is what the former build would have left.
func asBefore(snapshot string) string { return laterMembers.ReplaceAllString(snapshot, "") }

func (r *replay) put(d formerDoc) {
	name, body := r.actual(d.Name), r.actualBody(d.Body)
	r.docs[name] = body
	must(r.s3.PutObject(r.ctx, &s3.PutObjectInput{Bucket: aws.String(stateBucket), Key: &name, Body: strings.NewReader(body), ContentType: aws.String("application/json")}))
}

// later is how long after the event the former build handled it. What this build read
// before that is older than what the former one stored.
const later = time.Second

// steps does the first n steps, until a document was changed by somebody else: then the
// former build would have begun again, and dies instead.
func (r *replay) steps(f former, n int) {
	r.t.Helper()
	time.Sleep(time.Until(r.start.Add(later)))
	for i, s := range f.Steps[:n] {
		if !r.step(s) {
			break
		}
		if i == n-1 {
			time.Sleep(time.Millisecond)
		}
	}
}

// step does a step; false says that somebody else has changed the document meanwhile.
func (r *replay) step(s formerStep) bool {
	r.t.Helper()
	switch {
	case s.Put != nil:
		name, now := r.actual(s.Put.Name), ""
		for _, d := range r.documents() {
			if d.name == name {
				now = string(d.body)
			}
		}
		if now != r.docs[name] {
			return false
		}
		r.put(*s.Put)
	case s.Told != nil:
		a := *s.Told
		a.ID = r.actual(a.ID)
		must(0, r.world.told.Publish(r.ctx, a))
	case s.Move != nil:
		m := *s.Move
		m.To, m.From = r.actual(m.To), slices.Clone(m.From)
		for i := range m.From {
			m.From[i] = r.actual(m.From[i])
		}
		must(r.moves.Start(r.ctx, m))
	default:
		r.known[s.ID] = r.call(s.Call, []byte(r.actualBody(s.With)))
	}
	return true
}

// call calls KMS as the former build did, and returns the request id.
func (r *replay) call(operation string, input []byte) string {
	r.t.Helper()
	client := kms.NewFromConfig(inprocess.Config(r.aws, region, keeperKey))
	var metadata middleware.Metadata
	switch operation {
	case "PutKeyPolicy":
		metadata = must(client.PutKeyPolicy(r.ctx, decoded[kms.PutKeyPolicyInput](r.t, input))).ResultMetadata
	case "DisableKey":
		metadata = must(client.DisableKey(r.ctx, decoded[kms.DisableKeyInput](r.t, input))).ResultMetadata
	case "EnableKey":
		metadata = must(client.EnableKey(r.ctx, decoded[kms.EnableKeyInput](r.t, input))).ResultMetadata
	case "CancelKeyDeletion":
		metadata = must(client.CancelKeyDeletion(r.ctx, decoded[kms.CancelKeyDeletionInput](r.t, input))).ResultMetadata
	case "EnableKeyRotation":
		metadata = must(client.EnableKeyRotation(r.ctx, decoded[kms.EnableKeyRotationInput](r.t, input))).ResultMetadata
	default:
		r.t.Fatalf("the former build called %s", operation)
	}
	id, ok := awsmiddleware.GetRequestIDMetadata(metadata)
	if !ok {
		r.t.Fatalf("%s has no request id", operation)
	}
	return id
}

func decoded[T any](t *testing.T, text []byte) *T {
	t.Helper()
	var v T
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return &v
}

// told are the ids of the alerts since the event, sorted.
func (r *replay) told() (ids []string) {
	names := r.world.names()
	for _, a := range r.world.told.alerts[r.earlier:] {
		if a.Kind == alert.KindPosture {
			continue // the former build left the account to be met by this one
		}
		ids = append(ids, names.of(a.ID))
	}
	slices.Sort(ids)
	return ids
}

func (f former) told() (ids []string) {
	for _, s := range f.Steps {
		if s.Told != nil {
			ids = append(ids, s.Told.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// check fails the test unless everything was done once, and told once.
func (r *replay) check(f former) {
	r.t.Helper()
	r.checkState(f)
	calls := map[string]int{}
	for _, s := range f.Steps {
		if s.Call != "" {
			calls[s.Call]++
		}
	}
	if diff := gocmp.Diff(calls, r.calls); diff != "" {
		r.t.Errorf("calls of both builds (-want +got):\n%s", diff)
	}
	if diff := gocmp.Diff(f.told(), r.told()); diff != "" {
		r.t.Errorf("alerts of both builds (-want +got):\n%s", diff)
	}
}

// checkState fails the test unless the keys are as the former build left them, and
// the same moves were started: starting one twice is starting it.
func (r *replay) checkState(f former) {
	r.t.Helper()
	state := func(snapshot string) []string {
		_, keys, _ := strings.Cut(snapshot, "--- keys\n")
		lines := strings.Split(strings.TrimSpace(keys), "\n")
		slices.Sort(lines)
		return slices.Compact(lines)
	}
	if diff := gocmp.Diff(state(f.After), state(r.snapshot())); diff != "" {
		r.t.Errorf("keys (-want +got):\n%s", diff)
	}
}

// checkDone fails the test where a document says that something is still to be done.
func (r *replay) checkDone() {
	r.t.Helper()
	for _, d := range r.documents() {
		var doc struct {
			PutBacks []struct{ Told bool } `json:"put_backs"`
			Circuits []struct{ Told bool }
			Restore  json.RawMessage
			Pending  json.RawMessage
		}
		if err := json.Unmarshal(d.body, &doc); err != nil {
			r.t.Errorf("%s: %v", d.name, err)
		}
		untold := func(o struct{ Told bool }) bool { return !o.Told }
		if slices.ContainsFunc(doc.PutBacks, untold) || slices.ContainsFunc(doc.Circuits, untold) || doc.Restore != nil || doc.Pending != nil {
			r.t.Errorf("%s has something left to do: %s", d.name, d.body)
		}
	}
}

// record writes down what this build does.
func (h handover) record(t *testing.T, path string) {
	t.Helper()
	var f former
	h.in(t, nil, func(w *world, body string, _ *replay) {
		docs := func() (all []formerDoc) {
			for _, d := range w.documents() {
				all = append(all, formerDoc{d.name, d.body})
			}
			return all
		}
		f.Before = docs()
		time.Sleep(later)
		w.tap = func(q request, answered bool) {
			switch {
			case !answered || !q.ok:
			case q.operation == "PutObject":
				name, _, _ := strings.Cut(strings.TrimPrefix(q.target, "/"+stateBucket+"/"), "?")
				out := must(w.s3.GetObject(w.ctx, &s3.GetObjectInput{Bucket: aws.String(stateBucket), Key: &name}))
				f.Steps = append(f.Steps, formerStep{Put: &formerDoc{name, must(io.ReadAll(out.Body))}})
			case q.service == "KMS" && slices.Contains(changes, q.operation):
				_, input, _ := strings.Cut(q.target, " ")
				f.Steps = append(f.Steps, formerStep{Call: q.operation, With: json.RawMessage(input), ID: q.id})
			}
		}
		w.router = w.newRouterWith(h.config(t), func(d *reaction.Deps) { d.Alerts, d.Moves = formerSink{w, &f}, formerMover{w.moves, &f} })
		w.handled(body)
		w.react()
		f.After = w.snapshot()
		var b bytes.Buffer
		encoder := json.NewEncoder(&b)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", " ")
		must(0, encoder.Encode(f))
		must(0, json.Unmarshal([]byte(w.names().of(b.String())), &f))
	})
	for n := range len(f.Steps) + 1 {
		f.BySweep = append(f.BySweep, h.finishBySweep(t, f, n))
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	must(0, encoder.Encode(f))
	must(0, os.MkdirAll(filepath.Dir(path), 0o750))
	must(0, os.WriteFile(path, b.Bytes(), 0o600))
}

type formerSink struct {
	w *world
	f *former
}

func (s formerSink) Publish(ctx context.Context, a alert.Alert) error {
	s.f.Steps = append(s.f.Steps, formerStep{Told: &alert.Alert{ID: a.ID, Kind: a.Kind, Severity: a.Severity, Action: alert.Action{Mode: a.Action.Mode, Status: a.Action.Status}, Findings: a.Findings}})
	return s.w.told.Publish(ctx, a)
}

type formerMover struct {
	*memoryMover
	f *former
}

func (m formerMover) Start(ctx context.Context, move reencrypt.Move) ([]string, error) {
	m.f.Steps = append(m.f.Steps, formerStep{Move: &move})
	return m.memoryMover.Start(ctx, move)
}
