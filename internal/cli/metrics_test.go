package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/metrics"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

// scraped are metrics as a worker answers with them, by their names.
type scraped map[string]*dto.MetricFamily

// freeAddress returns an address of this machine that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// scrape asks a worker for its metrics.
func scrape(t *testing.T, addr string) scraped {
	t.Helper()
	answer := must(http.Get("http://" + addr + "/metrics"))(t)
	return families(t, answer)
}

// families reads metrics.
func families(t *testing.T, answer *http.Response) scraped {
	t.Helper()
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" {
		t.Fatalf("%s, %s", answer.Status, answer.Header.Get("Content-Type"))
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	return must(parser.TextToMetricFamilies(answer.Body))(t)
}

// matching are the series of a family that have the labels ("event", "PutKeyPolicy", …).
func (s scraped) matching(name string, labels ...string) (found []*dto.Metric) {
	for _, m := range s[name].GetMetric() {
		have := map[string]string{}
		for _, l := range m.Label {
			have[l.GetName()] = l.GetValue()
		}
		fits := true
		for pair := range slices.Chunk(labels, 2) {
			fits = fits && have[pair[0]] == pair[1]
		}
		if fits {
			found = append(found, m)
		}
	}
	return found
}

// value is the sum of the series of a family with the labels: of a histogram, how many
// were observed. -1: there is no such series.
func (s scraped) value(name string, labels ...string) float64 {
	found := s.matching(name, labels...)
	if len(found) == 0 {
		return -1
	}
	sum := 0.0
	for _, m := range found {
		switch {
		case m.Counter != nil:
			sum += m.Counter.GetValue()
		case m.Gauge != nil:
			sum += m.Gauge.GetValue()
		case m.Histogram != nil:
			sum += float64(m.Histogram.GetSampleCount())
		}
	}
	return sum
}

// TestMetrics has a worker repair a rotation, move objects, send a canary and sweep, and
// reads what it says of that.
func TestMetrics(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		began := time.Now()
		canary := must(a.kms.CreateKey(t.Context(), &kms.CreateKeyInput{Tags: []kmstypes.Tag{{TagKey: aws.String("cmkeeper:canary"), TagValue: aws.String("1")}}}))(t)
		key, later := a.newRotatingKey(), a.newRotatingKey()
		oldKey, newKey := a.newKey(appAlias), a.newKey("")
		const objects = 100
		a.fill("app-data", appAlias, objects)
		worker := a.start("CANARY_KEY", *canary.KeyMetadata.Arn)
		a.awaitQuiet()
		a.disableRotation(key)
		a.await("rotation repaired", tells(alert.KindRotation, key, alert.StatusDone))
		a.eventually("CloudTrail has confirmed a message of the rules: theirs are no claims any more", func() bool {
			return strings.Contains(worker.log.String(), "count as CloudTrail's records from now on")
		})
		time.Sleep(2 * time.Second) // those that are sent after that second
		a.box.AWS.SetFaults(localaws.Fault{Service: "s3", Operations: []string{"HeadObject"}, Effect: localaws.Throttle, Rate: 1, Count: 5})
		a.moveAlias(appAlias, newKey)
		a.await("objects moved", tells(alert.KindReencryption, "", alert.StatusDone))
		a.box.AWS.SetFaults()
		a.awaitQuiet()
		a.expectUnder("app-data", newKey, objects)
		_ = oldKey
		a.disableRotation(later)
		a.await("another rotation repaired", tells(alert.KindRotation, later, alert.StatusDone))
		a.awaitQuiet()

		// The canary that confirms it may be the next sweep's, where the first came back at once.
		sweeps := float64(len(worker.log.lines(`msg="sweep ended"`)))
		answer := httptest.NewRecorder()
		worker.wired.metrics.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		got := families(t, answer.Result())
		for _, want := range []struct {
			name   string
			labels []string
			value  float64
		}{
			{"messages_handled_total", []string{"queue", "events", "event", "DisableKeyRotation", "outcome", "delete"}, 2},
			{"messages_handled_total", []string{"queue", "events", "event", "UpdateAlias", "outcome", "delete"}, 1},
			{"reactions_total", []string{"reaction", "rotation", "mode", "enforce", "result", "done", "trigger", "event"}, 2},
			{"reactions_total", []string{"reaction", "alias", "mode", "enforce", "result", "done", "trigger", "event"}, 1},
			{"alerts_total", []string{"kind", "rotation", "severity", "high", "delivery", "published"}, 2},
			{"sweeps_total", []string{"result", "ok"}, sweeps},
			{"sweeps_total", []string{"result", "failed"}, 0},
			{"sweep_duration_seconds", nil, sweeps},
			{"sweep_keys_total", nil, 5 * sweeps},
			{"sweep_errors_total", nil, 0},
			{"canaries_total", []string{"result", "sent"}, sweeps},
			{"canaries_total", []string{"result", "back"}, sweeps},
			{"canaries_total", []string{"result", "lost"}, 0},
			{"canary_latency_seconds", nil, sweeps},
			{"reencrypt_objects_total", []string{"result", "moved"}, objects},
			{"reencrypt_objects_total", []string{"result", "failed"}, 0},
			{"reencrypt_slices_total", []string{"state", "planned"}, 2}, // and once more to verify
			{"reencrypt_slices_total", []string{"state", "done"}, 2},
			{"reencrypt_jobs_total", []string{"state", "started"}, 1},
			{"reencrypt_jobs_total", []string{"state", "complete"}, 1},
			{"reencrypt_in_flight_objects", nil, 0},
			{"reencrypt_width_objects", nil, 0},
			{"reencrypt_allowed_rate", nil, 0},
			{"aws_requests_total", []string{"service", "KMS", "operation", "EnableKeyRotation", "code", "ok"}, 2},
			{"aws_requests_total", []string{"service", "KMS", "operation", "UpdateKeyDescription", "code", "ok"}, sweeps},
			{"aws_request_duration_seconds", []string{"service", "KMS", "operation", "EnableKeyRotation"}, 2},
			{"queue_slots", []string{"queue", "events"}, 40},
			{"queue_slots", []string{"queue", "jobs"}, 2},
			{"queue_in_flight_messages", []string{"queue", "events"}, 0},
			{"queue_oldest_in_flight_seconds", []string{"queue", "jobs"}, 0},
			{"blind", nil, 0},
			{"build_info", []string{"goversion", thisBuild().Go}, 1},
		} {
			if v := got.value("cmkeeper_"+want.name, want.labels...); v != want.value {
				t.Errorf("%s%v is %v, want %v", want.name, want.labels, v, want.value)
			}
		}
		for name, least := range map[string]float64{
			"cmkeeper_reencrypt_throttles_total": 1, "cmkeeper_reencrypt_bytes_total": objects, "cmkeeper_reaction_latency_seconds": 1,
			"go_goroutines": 1, "process_resident_memory_bytes": 1,
		} {
			if v := got.value(name); v < least {
				t.Errorf("%s is %v, want %v or more", name, v, least)
			}
		}
		if v := got.value("cmkeeper_aws_requests_total", "service", "S3", "operation", "HeadObject", "code", "ServiceUnavailable"); v < 1 {
			t.Errorf("%v requests were throttled: %v", v, got.matching("cmkeeper_aws_requests_total", "operation", "HeadObject"))
		}
		for _, name := range []string{"sweep_last_end_timestamp_seconds", "canary_last_return_timestamp_seconds", "queue_last_receive_timestamp_seconds"} {
			for _, m := range got.matching("cmkeeper_" + name) {
				if at := time.UnixMilli(int64(m.Gauge.GetValue() * 1000)); at.Before(began.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
					t.Errorf("%s says %s", name, at)
				}
			}
		}
		for _, f := range newMetrics().Families() {
			if got[f.Name] == nil {
				t.Errorf("%s has no value", f.Name)
			}
		}
		if text := got.labels(); strings.Contains(text, key) || strings.Contains(text, "app-data") || strings.Contains(text, appAlias) || strings.Contains(text, sandbox.Account) {
			t.Errorf("the metrics name a key, bucket, alias or account:\n%s", text)
		}
	})
}

// labels are the labels of all series: values may look like an account's number.
func (s scraped) labels() string {
	var b strings.Builder
	for name, f := range s {
		for _, m := range f.Metric {
			fmt.Fprintln(&b, name, m.Label)
		}
	}
	return b.String()
}

// series are the names and labels of all series, but for what depends on the order in which
// things happen: AWS requests, receives, and the labels that say what the worker did.
func (s scraped) series() map[string]bool {
	all := map[string]bool{}
	for name, f := range s {
		if strings.HasPrefix(name, "cmkeeper_aws_") || strings.HasPrefix(name, "cmkeeper_queue_") || !strings.HasPrefix(name, "cmkeeper_") {
			continue
		}
		for _, m := range f.Metric {
			labels := slices.DeleteFunc(slices.Clone(m.Label), func(l *dto.LabelPair) bool {
				return slices.Contains([]string{"outcome", "result", "delivery"}, l.GetName())
			})
			all[fmt.Sprint(name, labels)] = true
		}
	}
	return all
}

// TestForgedMessagesMakeNoSeries sends messages with names that somebody made up.
func TestForgedMessagesMakeNoSeries(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	addr := freeAddress(t)
	a.start("HTTP_ADDR", addr, "ALERT_GROUP_INTERVAL", "10m")
	forge := func(from, n int) {
		for i := from; i < from+n; i++ {
			key := fmt.Sprintf("arn:aws:kms:%s:%s:key/00000000-f06d-0000-0000-%012d", sandbox.Region, sandbox.Account, i)
			var body string
			switch i % 5 {
			case 0:
				body = event("kms.amazonaws.com", fmt.Sprintf("f06dCall%d", i), key)
			case 1:
				body = event("kms.amazonaws.com", "DisableKeyRotation", key)
			case 2:
				body = strings.Replace(event("kms.amazonaws.com", "DeleteAlias", key), `"requestParameters":{`, fmt.Sprintf(`"requestParameters":{"aliasName":"alias/f06d-%d",`, i), 1)
			case 3:
				body = strings.Replace(event("s3.amazonaws.com", "PutBucketTagging", key), `"requestParameters":{`, fmt.Sprintf(`"requestParameters":{"bucketName":"f06d-%d",`, i), 1)
			default:
				body = event(fmt.Sprintf("f06d%d.amazonaws.com", i), "PutKeyPolicy", key)
			}
			a.send(strings.ReplaceAll(body, "mallory", fmt.Sprintf("f06d-%d", i)))
		}
		a.eventually("all is handled", func() bool {
			got, fifth := scrape(t, addr), float64((from+n)/5)
			count := func(labels ...string) float64 { return got.value("cmkeeper_messages_handled_total", labels...) }
			return count("event", metrics.Other, "outcome", "delete") >= fifth && count("event", "DisableKeyRotation", "outcome", "delete") >= fifth &&
				count("event", "DeleteAlias", "outcome", "delay") >= fifth && // until CloudTrail confirms it, which it never does
				count("event", "PutBucketTagging", "outcome", "delete") >= fifth && count("event", "PutKeyPolicy", "outcome", "delete") >= fifth
		})
	}
	forge(0, 50)
	before := scrape(t, addr)
	forge(50, 300)
	after := scrape(t, addr)
	for series := range after.series() {
		if !before.series()[series] {
			t.Errorf("a forged message made the series %s", series)
		}
	}
	if text := fmt.Sprint(after); strings.Contains(text, "f06d") {
		t.Errorf("the metrics have what was forged:\n%s", text)
	}
	if n := after.value("cmkeeper_messages_handled_total", "event", metrics.Other); n < 60 {
		t.Errorf("%v messages with made up names were counted", n)
	}
	t.Logf("%d series, with those of AWS requests, Go and the process %d", len(after.series()), func() (n int) {
		for _, f := range after {
			n += len(f.Metric)
		}
		return n
	}())
}

// TestLogOfOneEvent follows an event through the log by its id.
func TestLogOfOneEvent(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	key := a.newRotatingKey()
	m := a.start("LOG_FORMAT", "json")
	a.awaitQuiet()
	start := len(m.log.String())
	a.disableRotation(key)
	told := a.await("rotation repaired", tells(alert.KindRotation, key, alert.StatusDone))
	a.awaitQuiet()
	a.eventually("the log says that the message is handled", func() bool {
		return strings.Contains(m.log.String()[start:], told.EventID) && slices.ContainsFunc(m.log.lines(told.EventID), func(l string) bool { return strings.Contains(l, "message handled") })
	})
	way := map[string]bool{}
	for line := range strings.Lines(m.log.String()[start:]) {
		var r struct {
			Msg       string `json:"msg"`
			EventID   string `json:"event_id"`
			Event     string `json:"event"`
			Key       string `json:"key"`
			Operation string `json:"operation"`
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if strings.Count(line, `"event_id"`) > 1 {
			t.Errorf("two ids: %s", line)
		}
		if r.EventID == told.EventID {
			way[strings.TrimSpace(r.Msg+" "+r.Operation)] = true
		}
		concerned := r.Key == key || r.Event != "" || slices.Contains([]string{"event received", "decided", "key changed", "alert published", "message handled"}, r.Msg) ||
			r.Msg == "AWS request" && slices.Contains([]string{"DescribeKey", "GetKeyRotationStatus", "EnableKeyRotation", "Publish"}, r.Operation)
		if concerned && r.EventID == "" {
			t.Errorf("it does not say of which event it is: %s", line)
		}
	}
	for _, step := range []string{
		"event received", "AWS request DescribeKey", "AWS request GetKeyRotationStatus", "decided", "AWS request EnableKeyRotation", "key changed EnableKeyRotation",
		"AWS request Publish", "alert published", "message handled",
	} {
		if !way[step] {
			t.Errorf("no record %q has the id %s; there are %q", step, told.EventID, slices.Sorted(maps.Keys(way)))
		}
	}
}

// TestMetricsDocument keeps docs/metrics.md true. With UPDATE_DOCS=1 it writes the page.
func TestMetricsDocument(t *testing.T) {
	const path = "../../docs/metrics.md"
	want := metricsDocument()
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, string(must(os.ReadFile(path))(t))); diff != "" {
		t.Errorf("%s is not what package metrics says; UPDATE_DOCS=1 go test ./internal/cli -run MetricsDocument writes it:\n%s", path, diff)
	}
}

// manyValues is how many values a label has that are listed below the table.
const manyValues = 10

func metricsDocument() string {
	var b strings.Builder
	b.WriteString("# Metrics\n\n<!-- Made from the declarations in internal/metrics: UPDATE_DOCS=1 go test ./internal/cli -run MetricsDocument -->\n\n" +
		"`GET /metrics` on the address of `CMKEEPER_HTTP_ADDR` answers in Prometheus's text format; [operations](operations.md#metrics) says how to scrape it. " +
		"Each worker counts what it does itself: add up the fleet (`sum`), and of timestamps take the largest (`max`). Counters begin at 0 with the process.\n\n" +
		"No label has a value that a message, key, alias, bucket or principal chooses; what is not among the values of a label is counted as `" + metrics.Other + "` ([why](decisions/metrics.md)).\n\n" +
		"| metric | type | labels | |\n|---|---|---|---|\n")
	long := map[string][]string{}
	for _, f := range newMetrics().Families() {
		var labels []string
		for _, l := range f.Labels {
			text := "`" + l.Name + "`: "
			l.Values = slices.DeleteFunc(slices.Clone(l.Values), func(v string) bool { return v == metrics.Other })
			switch {
			case len(l.Values) == 0:
				text += l.About
			case len(l.Values) > manyValues:
				long[l.Name] = l.Values
				text += fmt.Sprintf("[%d values](#values-of-%s)", len(l.Values), l.Name)
			default:
				text += strings.Join(l.Values, ", ")
			}
			labels = append(labels, text)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Name, f.Type, strings.Join(labels, "; "), f.Help)
	}
	b.WriteString("\nBesides, there are the library's own metrics of Go (`go_…`) and, on Linux, of the process (`process_…`).\n")
	for _, name := range slices.Sorted(maps.Keys(long)) {
		fmt.Fprintf(&b, "\n## Values of %s\n\n%s\n", name, strings.Join(long[name], ", "))
	}
	return b.String()
}

// TestGrafanaDashboard checks that the dashboard asks for nothing that does not exist.
func TestGrafanaDashboard(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	addr := freeAddress(t)
	a.start("HTTP_ADDR", addr)
	labels := map[string][]string{} // of each metric
	for _, f := range newMetrics().Families() {
		all := []string{"instance", "job", "le"}
		for _, l := range f.Labels {
			all = append(all, l.Name)
		}
		switch f.Type {
		case "histogram":
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				labels[f.Name+suffix] = all
			}
		default:
			labels[f.Name] = all
		}
	}
	used := map[string]bool{}
	for name := range scrape(t, addr) { // those of Go and the process
		if labels[name] == nil && !strings.HasPrefix(name, "cmkeeper_") {
			labels[name] = []string{"instance", "job"}
		}
	}
	expressions := dashboardExpressions(t)
	for _, e := range expressions {
		names := promName.FindAllString(e, -1)
		if len(names) == 0 {
			t.Errorf("no metric in %s", e)
		}
		for _, name := range names {
			if used[strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")] = true; labels[name] == nil {
				t.Errorf("there is no metric %s: %s", name, e)
			}
		}
		for _, label := range promLabels(e) {
			if !slices.ContainsFunc(names, func(name string) bool { return slices.Contains(labels[name], label) }) {
				t.Errorf("no metric in it has the label %s: %s", label, e)
			}
		}
	}
	for _, f := range newMetrics().Families() {
		if !used[f.Name] {
			t.Errorf("the dashboard does not show %s", f.Name)
		}
	}
	t.Logf("%d expressions", len(expressions))
}

var (
	promName     = regexp.MustCompile(`\b(?:cmkeeper|go|process)_[a-z_]+`)
	promSelector = regexp.MustCompile(`\{([^}]*)\}`)
	promMatcher  = regexp.MustCompile(`([a-z_]+)\s*(?:=|!)`)
	promBy       = regexp.MustCompile(`\b(?:by|on|group_left|ignoring|without)\s*\(([^)]*)\)`)
)

// promLabels are the labels that an expression names.
func promLabels(expression string) (names []string) {
	for _, selector := range promSelector.FindAllStringSubmatch(expression, -1) {
		for _, m := range promMatcher.FindAllStringSubmatch(selector[1], -1) {
			names = append(names, m[1])
		}
	}
	for _, by := range promBy.FindAllStringSubmatch(expression, -1) {
		for name := range strings.SplitSeq(by[1], ",") {
			if name = strings.TrimSpace(name); name != "" {
				names = append(names, name)
			}
		}
	}
	return names
}

// dashboardExpressions are the PromQL expressions of the dashboard, and checks its rows.
func dashboardExpressions(t *testing.T) (all []string) {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
			GridPos     struct{ X, Y, W, H int }
			ID          int
		}
	}
	if err := json.Unmarshal(must(os.ReadFile("../../deploy/grafana/cmkeeper.json"))(t), &dashboard); err != nil {
		t.Fatal(err)
	}
	var rows []string
	ids := map[int]bool{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			rows = append(rows, p.Title)
			continue
		}
		if len(p.Targets) == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q asks for nothing, or is too wide", p.Title)
		}
		for _, target := range p.Targets {
			all = append(all, target.Expr)
		}
	}
	want := []string{"Is the guard alive?", "Events and reactions", "Alerts", "Sweeps", "Re-encryption", "AWS requests", "Go"}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("rows of the dashboard: %s", diff)
	}
	return all
}
