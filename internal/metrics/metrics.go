// Package metrics defines every metric of a worker, and answers GET /metrics with them.
//
// No label ever has a value that a message, a key or a bucket chooses: each label has a
// closed set of values, or the first few names that the AWS SDK uses, and everything else
// is counted as [Other]. The number of series is therefore bounded whatever arrives.
package metrics

import (
	"bytes"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// Names are the values of labels that are defined elsewhere.
type Names struct {
	// Events and Reactions are those of the event table.
	Events, Reactions []string
	// Kinds and Severities are those of alerts.
	Kinds, Severities []string
}

// Build is what is running.
type Build struct{ Version, Commit, Go string }

// The names of the queues, as the label queue has them.
const (
	EventsQueue = "events"
	JobsQueue   = "jobs"
)

// NoEvent is the value of the label event for a message that is no event, or of which no
// event could be read.
const NoEvent = "none"

// Queue is how a worker receives from a queue.
type Queue struct {
	// Received is when a receive last succeeded, and Oldest when the oldest of the messages
	// that are not finished was sent; the zero time for never and for none.
	Received, Oldest time.Time
	// InFlight is how many messages are not finished, of Slots.
	InFlight, Slots int
}

// Width is how much of a re-encryption a worker does at once.
type Width struct {
	// InFlight is how many objects are worked on, and Limit how many could be: the sum of
	// what the buckets at work have turned out to take.
	InFlight, Limit int
	// Rate is how many objects a second the worker may move now; 0 where it moves none or
	// where the rate is not limited.
	Rate float64
}

// Metrics are the metrics of one worker. They are safe for concurrent use.
type Metrics struct {
	declarations
	messages, reactions, alerts, sweeps, sweptKeys, sweepErrors, canaries counter
	objects, bytes, throttles, slices, jobs, requests                     counter
	reacted, sweepDuration, canaryLatency, requestDuration                histogram
	sweepEnd, canaryReturn                                                gauge
	readings                                                              readings
	help                                                                  *strings.Replacer // puts the texts in
}

// New returns the metrics, with values for Go and the process.
func New(n Names, b Build) *Metrics {
	metrics.ExposeMetadata(true) // the library has this once for the whole process
	m := &Metrics{declarations: declarations{set: metrics.NewSet()}}
	queue := of("queue", EventsQueue, JobsQueue)
	reaction := of("reaction", n.Reactions...)
	m.messages = m.counter("messages_handled_total", "Messages that were received and finished, by their event and what became of them.",
		queue, of("event", append([]string{NoEvent}, n.Events...)...),
		of("outcome", "delete", "delay", "retry", "dead-letter", "lease-lost", "handed-back"))
	m.reacted = m.histogram("reaction_latency_seconds", "Time from an event to the end of a reaction to it, its alerts included. Sweeps are not in it, nor events whose time only a message says.",
		[]float64{1, 2.5, 5, 10, 20, 30, 60, 120, 300, 900, 3600, 21600}, reaction)
	m.reactions = m.counter("reactions_total", "Reactions that decided, by what came of it. quiet: there was nothing to do or to tell; waiting: CloudTrail has not confirmed the event yet, and the message comes back; error: the message comes back; otherwise the status of the alert's action.",
		reaction, of("mode", "none", "observe", "enforce"),
		of("result", "done", "would-do", "none", "failed", "refused", "resolved", "quiet", "waiting", "error"), of("trigger", "event", "sweep"))
	m.alerts = m.counter("alerts_total", "Alerts, by what happened to them. published: all topics have it; collected: it is stored for a digest; digest: a digest was published, which counts with the kind and severity of its worst alert; failed: a topic refused it, and it is tried again.",
		of("kind", n.Kinds...), of("severity", n.Severities...), of("delivery", "published", "collected", "digest", "failed"))
	m.sweeps = m.counter("sweeps_total", "Sweeps that this worker has ended.", of("result", "ok", "failed"))
	m.sweepDuration = m.histogram("sweep_duration_seconds", "Time from the beginning of a sweep to its end.", []float64{1, 5, 15, 60, 300, 900, 1800, 3600, 7200})
	m.sweptKeys = m.counter("sweep_keys_total", "Keys that the sweeps ended by this worker have looked at.")
	m.sweepErrors = m.counter("sweep_errors_total", "Errors of the sweeps ended by this worker.")
	m.sweepEnd = m.gauge("sweep_last_end_timestamp_seconds", "When this worker last ended a sweep without an error. Of the fleet, the largest counts.")
	m.canaries = m.counter("canaries_total", "Canaries. late: back after more than 20 minutes; lost: not back in time; refused: none could be sent.",
		of("result", "sent", "back", "late", "lost", "refused"))
	m.canaryLatency = m.histogram("canary_latency_seconds", "Time from a canary's call until its event was handled.", []float64{1, 5, 15, 30, 60, 120, 300, 600, 1200, 3600})
	m.canaryReturn = m.gauge("canary_last_return_timestamp_seconds", "When this worker last saw a canary come back. Of the fleet, the largest counts.")
	m.declareReencryption()
	service, operation := open("service", "AWS services, by the SDK's names", 20), open("operation", "operations of the AWS APIs", 150)
	m.requests = m.counter("aws_requests_total", "Requests to AWS, each attempt counted. code is ok, canceled, unreachable, or the code of AWS's error.",
		service, operation, open("code", "`ok`, `canceled`, `unreachable`, AWS's error codes", 100))
	m.requestDuration = m.histogram("aws_request_duration_seconds", "Duration of requests to AWS, each attempt counted. ReceiveMessage waits for messages, as a rule for up to 8 seconds.",
		[]float64{.01, .025, .05, .1, .25, .5, 1, 5, 25}, service, operation)
	m.declareReadings(queue, b)
	m.set.RegisterMetricsWriter(metrics.WriteProcessMetrics)
	var texts []string
	for _, f := range m.families {
		head := "# HELP " + f.Name
		texts = append(texts, head+"\n", head+" "+f.Help+"\n")
	}
	m.help = strings.NewReplacer(texts...)
	return m
}

func (m *Metrics) declareReencryption() {
	m.objects = m.counter("reencrypt_objects_total", "Object versions that re-encryption has gone through. Each pass of a job counts, and so does what is done again after a crash.",
		of("result", "moved", "skipped", "refused", "failed"))
	m.bytes = m.counter("reencrypt_bytes_total", "Size of the object versions that were moved.")
	m.throttles = m.counter("reencrypt_throttles_total", "Attempts on objects that S3 or KMS throttled.")
	m.slices = m.counter("reencrypt_slices_total", "Slices of jobs. The difference between planned and done, over the fleet and since a job began, is what it still has to do in this pass. Those that `cmkeeper reencrypt retry` makes are planned by that command, and not counted as planned.",
		of("state", "planned", "done"))
	m.jobs = m.counter("reencrypt_jobs_total", "Jobs whose planning started, that completed, stopped for a person to fix something, or made no progress.",
		of("state", "started", "complete", "stopped", "stalled"))
}

// Families are the metrics in their order, without those of Go and the process.
func (m *Metrics) Families() []Family { return m.families }

// ServeHTTP answers with the metrics in Prometheus's text format.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	var b bytes.Buffer
	m.set.WritePrometheus(&b)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = m.help.WriteString(w, b.String()) // else the reader has gone
}

// Handled counts a message that is finished.
func (m *Metrics) Handled(queue, event, outcome string) {
	if event == "" {
		event = NoEvent
	}
	m.messages.add(1, queue, event, outcome)
}

// Reacted counts a reaction that has decided and acted. A name that begins with that of
// what it is about ("alias alias/x") counts as its first word.
func (m *Metrics) Reacted(reaction, mode, result string, sweep bool) {
	trigger := "event"
	if sweep {
		trigger = "sweep"
	}
	if mode == "" {
		mode = "none"
	}
	reaction, _, _ = strings.Cut(reaction, " ")
	m.reactions.add(1, reaction, mode, result, trigger)
}

// ReactionEnded observes how long after an event a reaction to it was complete.
func (m *Metrics) ReactionEnded(reaction string, after time.Duration) {
	m.reacted.observe(max(0, after.Seconds()), reaction)
}

// Alert counts an alert.
func (m *Metrics) Alert(kind, severity, delivery string) { m.alerts.add(1, kind, severity, delivery) }

// SweepEnded counts a sweep.
func (m *Metrics) SweepEnded(took time.Duration, keys, errors int, ok bool) {
	result := "failed"
	if ok {
		result = "ok"
		m.sweepEnd.now()
	}
	m.sweeps.add(1, result)
	m.sweepDuration.observe(took.Seconds())
	m.sweptKeys.add(keys)
	m.sweepErrors.add(errors)
}

// Canary counts what became of a canary. One that is back or late has taken so long.
func (m *Metrics) Canary(result string, took time.Duration) {
	m.canaries.add(1, result)
	if result == "back" || result == "late" {
		m.canaryLatency.observe(took.Seconds())
		m.canaryReturn.now()
	}
}

// Object counts an object version that re-encryption has gone through, of that size.
func (m *Metrics) Object(result string, bytes int64) {
	m.objects.add(1, result)
	if result == "moved" {
		m.bytes.add(int(bytes))
	}
}

// Throttled counts an attempt on an object that was throttled.
func (m *Metrics) Throttled() { m.throttles.add(1) }

// Slice counts a slice that is in a state now, and Job a job.
func (m *Metrics) Slice(state string) { m.slices.add(1, state) }

// Job counts a job that is in a state now.
func (m *Metrics) Job(state string) { m.jobs.add(1, state) }

// Request counts a request to AWS.
func (m *Metrics) Request(service, operation, code string, took time.Duration) {
	operation, _, _ = strings.Cut(operation, " ") // of S3 Control: its method, not the path
	m.requests.add(1, service, operation, code)
	m.requestDuration.observe(took.Seconds(), service, operation)
}

// readings are what is read when somebody asks for the metrics.
type readings struct {
	mu     sync.Mutex
	queues map[string]func() Queue
	blind  func() bool
	width  func() Width
}

// Watch has a queue read each time that somebody asks for the metrics.
func (m *Metrics) Watch(queue string, read func() Queue) {
	m.readings.mu.Lock()
	defer m.readings.mu.Unlock()
	m.readings.queues[queue] = read
}

// WatchSight has it read whether the worker is blind.
func (m *Metrics) WatchSight(blind func() bool) {
	m.readings.mu.Lock()
	defer m.readings.mu.Unlock()
	m.readings.blind = blind
}

// WatchWidth has it read how much is re-encrypted at once.
func (m *Metrics) WatchWidth(read func() Width) {
	m.readings.mu.Lock()
	defer m.readings.mu.Unlock()
	m.readings.width = read
}

// now returns what the queues, the sight and the width are now; nil for what is not watched.
func (r *readings) now() (queues map[string]Queue, blind *bool, width *Width) {
	r.mu.Lock()
	defer r.mu.Unlock()
	queues = map[string]Queue{}
	for name, read := range r.queues {
		queues[name] = read()
	}
	if r.blind != nil {
		is := r.blind()
		blind = &is
	}
	if r.width != nil {
		is := r.width()
		width = &is
	}
	return queues, blind, width
}

func (m *Metrics) declareReadings(queue Label, b Build) {
	r := &m.readings
	r.queues = map[string]func() Queue{}
	ofQueue := func(name, help string, value func(Queue) (v float64, known bool)) {
		m.reading(name, help, func(write func(float64, ...string)) {
			queues, _, _ := r.now()
			for _, name := range slices.Sorted(maps.Keys(queues)) {
				if v, known := value(queues[name]); known {
					write(v, name)
				}
			}
		}, queue)
	}
	ofWidth := func(name, help string, value func(Width) float64) {
		m.reading(name, help, func(write func(float64, ...string)) {
			if _, _, width := r.now(); width != nil {
				write(value(*width))
			}
		})
	}
	ofQueue("queue_last_receive_timestamp_seconds", "When a receive from the queue last succeeded, with messages or without.",
		func(q Queue) (float64, bool) { return seconds(q.Received), !q.Received.IsZero() })
	ofQueue("queue_slots", "How many messages of the queue the worker handles at once at most.",
		func(q Queue) (float64, bool) { return float64(q.Slots), true })
	ofQueue("queue_in_flight_messages", "Messages of the queue that the worker has received and not finished.",
		func(q Queue) (float64, bool) { return float64(q.InFlight), true })
	ofQueue("queue_oldest_in_flight_seconds", "How long ago the oldest message that the worker has received and not finished was sent; 0 where there is none.",
		func(q Queue) (float64, bool) {
			if q.Oldest.IsZero() {
				return 0, true
			}
			return max(0, time.Since(q.Oldest).Seconds()), true
		})
	m.reading("blind", "1 while the worker is blind: it cannot receive, has no slot, or messages wait for too long. Only where it handles events.", func(write func(float64, ...string)) {
		switch _, blind, _ := r.now(); {
		case blind == nil:
		case *blind:
			write(1)
		default:
			write(0)
		}
	})
	ofWidth("reencrypt_in_flight_objects", "Objects that re-encryption works on in this worker.", func(w Width) float64 { return float64(w.InFlight) })
	ofWidth("reencrypt_width_objects", "Objects that this worker would work on at once at most: what the buckets at work have turned out to take.", func(w Width) float64 { return float64(w.Limit) })
	ofWidth("reencrypt_allowed_rate", "Objects a second that this worker may move: its part of the fleet's rate. 0 where it moves none, or where the rate is not limited.", func(w Width) float64 { return w.Rate })
	m.reading("build_info", "1, with what is running in the labels.", func(write func(float64, ...string)) { write(1, b.Version, b.Commit, b.Go) },
		Label{Name: "version", About: "the release", fixed: true}, Label{Name: "commit", About: "the commit it was built from", fixed: true}, Label{Name: "goversion", About: "the version of Go", fixed: true})
}
