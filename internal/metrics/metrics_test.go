package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// played returns metrics of which every one has a value.
func played() *Metrics {
	m := New(Names{Events: []string{"PutKeyPolicy"}, Reactions: []string{"policy"}, Kinds: []string{"policy"}, Severities: []string{"high"}}, Build{"v1", "abc", "go1"})
	m.Handled(EventsQueue, "PutKeyPolicy", "delete")
	m.Reacted("policy", "enforce", "done", false)
	m.ReactionEnded("policy", time.Second)
	m.Alert("policy", "high", "published")
	m.SweepEnded(time.Minute, 3, 1, true)
	m.Canary("back", time.Second)
	m.Object("moved", 7)
	m.Throttled()
	m.Slice("done")
	m.Job("complete")
	m.Request("KMS", "DescribeKey", "ok", time.Millisecond)
	m.Watch(EventsQueue, func() Queue { return Queue{Received: time.Now(), Oldest: time.Now(), InFlight: 1, Slots: 2} })
	m.WatchSight(func() bool { return false })
	m.WatchWidth(func() Width { return Width{1, 2, 3} })
	return m
}

// answer is what the metrics answer with.
func answer(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if got := w.Header().Get("Content-Type"); got != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("content type %q", got)
	}
	return w.Body.String()
}

// families are the metrics as Prometheus reads them.
func families(t *testing.T, m *Metrics) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	all, err := parser.TextToMetricFamilies(strings.NewReader(answer(t, m)))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestLint has promtool's rules for names and texts checked, of what is ours.
func TestLint(t *testing.T) {
	problems, err := promlint.New(strings.NewReader(answer(t, played()))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, prefix) {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// TestFamilies compares what is documented with what is there.
func TestFamilies(t *testing.T) {
	m := played()
	var got, want []string
	for _, f := range families(t, m) {
		if !strings.HasPrefix(f.GetName(), prefix) { // of Go and the process
			continue
		}
		one := fmt.Sprint(f.GetName(), f.GetType(), f.GetHelp())
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		for _, l := range labels {
			one += " " + l
		}
		got = append(got, one)
	}
	types := map[string]string{counterType: "COUNTER", gaugeType: "GAUGE", histogramType: "HISTOGRAM"}
	for _, f := range m.Families() {
		one := fmt.Sprint(f.Name, types[f.Type], f.Help)
		var labels []string
		for _, l := range f.Labels {
			labels = append(labels, l.Name)
		}
		slices.Sort(labels)
		for _, l := range labels {
			one += " " + l
		}
		want = append(want, one)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("documented, and there: %s", diff)
	}
}

// seriesOf counts the series that are ours.
func seriesOf(t *testing.T, m *Metrics) (n int) {
	t.Helper()
	for name, f := range families(t, m) {
		if strings.HasPrefix(name, prefix) {
			n += len(f.Metric)
		}
	}
	return n
}

// TestInventedNamesMakeNoSeries counts what nobody has declared.
func TestInventedNamesMakeNoSeries(t *testing.T) {
	m := played()
	invent := func(i int) {
		name := fmt.Sprintf("arn:aws:kms:eu-west-1:111122223333:key/%d\n", i)
		m.Handled(name, name, name)
		m.Reacted(name, name, name, i%2 == 0)
		m.ReactionEnded("alias "+name, time.Second)
		m.Alert(name, name, name)
		m.Canary(name, 0)
		m.Object(name, 1)
		m.Slice(name)
		m.Job(name)
		m.Request(name, name, name, time.Second)
	}
	invent(0)
	invent(1)
	before := seriesOf(t, m)
	for i := range 1000 {
		invent(i)
	}
	for _, name := range []string{"", "a/b", "a\"b", "ä", strings.Repeat("a", 65)} {
		m.Request(name, name, name, time.Second)
	}
	if after := seriesOf(t, m); after != before {
		t.Errorf("%d series became %d", before, after)
	}
	// Names of the right form are the SDK's or AWS's: of them there are only so many.
	for i := range 1000 {
		m.Request("KMS", "DescribeKey", fmt.Sprintf("Code%d", i), time.Second)
	}
	if after := seriesOf(t, m); after != before+100 { // 99 beside "ok", and the rest
		t.Errorf("a thousand codes made %d series", after-before)
	}
}

// TestMetricsOfAStart: what may never happen is 0 from the beginning, and what has not
// happened has no time.
func TestMetricsOfAStart(t *testing.T) {
	body := answer(t, New(Names{}, Build{"v1", "abc", "go1"}))
	lines := map[string]bool{}
	for line := range strings.Lines(body) {
		lines[strings.TrimSuffix(line, "\n")] = true
	}
	for _, want := range []string{
		`cmkeeper_canaries_total{result="lost"} 0`, `cmkeeper_reencrypt_throttles_total 0`, `cmkeeper_sweeps_total{result="failed"} 0`,
		`cmkeeper_build_info{version="v1",commit="abc",goversion="go1"} 1`,
	} {
		if !lines[want] {
			t.Errorf("no line %s in:\n%s", want, body)
		}
	}
	for line := range lines {
		if strings.HasPrefix(line, "cmkeeper_sweep_last_end") {
			t.Errorf("no sweep has ended: %s", line)
		}
	}
}
