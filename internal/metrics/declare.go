package metrics

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// Family is a metric as it is documented.
type Family struct {
	Name, Type, Help string
	Labels           []Label
}

// Label is a label and the values that it may have. Any other value is counted as Other.
type Label struct {
	Name string
	// Values are all of them; nil where About describes them.
	Values []string
	// About describes values that are not listed: the names that occur, at most most of
	// them, in the form that open has.
	About string

	seen *names
	// fixed: this process has one value, which the build chose.
	fixed bool
}

// Other is the value of a label where the actual one is not among those it may have.
const Other = "other"

// allows returns the value, or Other.
func (l Label) allows(value string) string {
	if l.seen != nil {
		return l.seen.allows(value)
	}
	if l.fixed || slices.Contains(l.Values, value) {
		return value
	}
	return Other
}

// of is a label with the values, and Other.
func of(name string, values ...string) Label {
	values = append(slices.Clone(values), Other)
	slices.Sort(values)
	return Label{Name: name, Values: slices.Compact(values)}
}

// open is a label whose values are names that the SDK and AWS choose: the first most of
// them that occur.
func open(name, about string, most int) Label {
	return Label{Name: name, About: about, seen: &names{most: most, of: map[string]bool{}}}
}

// names are the first few that were seen.
type names struct {
	most int
	mu   sync.RWMutex
	of   map[string]bool
}

// plain reports whether a name looks like one of a service, an operation or an error code.
func plain(name string) bool {
	return name != "" && len(name) <= 64 && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune(" ._-", r)
	})
}

func (n *names) allows(name string) string {
	n.mu.RLock()
	known := n.of[name]
	n.mu.RUnlock()
	if known {
		return name
	}
	if !plain(name) {
		return Other
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.of[name] && len(n.of) >= n.most {
		return Other
	}
	n.of[name] = true
	return name
}

// declarations are the metrics of a set.
type declarations struct {
	set      *metrics.Set
	families []Family
}

const (
	counterType, gaugeType, histogramType = "counter", "gauge", "histogram"
	prefix                                = "cmkeeper_"
)

// declare notes a family and returns its full name.
func (d *declarations) declare(kind, name, help string, labels []Label) (full string) {
	full = prefix + name
	d.families = append(d.families, Family{full, kind, help, labels})
	return full
}

// series is the name of a series, with its labels; values that are not allowed are Other.
func series(name string, labels []Label, values []string) string {
	if len(labels) == 0 {
		return name
	}
	b := []byte(name)
	for i, l := range labels {
		b = append(b, "{,"[min(i, 1)])
		b = append(append(b, l.Name...), '=')
		b = strconv.AppendQuote(b, l.allows(values[i]))
	}
	return string(append(b, '}'))
}

type counter struct {
	set    *metrics.Set
	name   string
	labels []Label
}

func (d *declarations) counter(name, help string, labels ...Label) counter {
	c := counter{d.set, d.declare(counterType, name, help, labels), labels}
	switch { // where it is known what can be counted, it is 0 from the beginning
	case len(labels) == 0:
		c.add(0)
	case len(labels) == 1:
		for _, value := range labels[0].Values {
			if value != Other {
				c.add(0, value)
			}
		}
	}
	return c
}

func (c counter) add(n int, values ...string) {
	c.set.GetOrCreateCounter(series(c.name, c.labels, values)).Add(n)
}

type histogram struct {
	set     *metrics.Set
	name    string
	labels  []Label
	buckets []float64
}

func (d *declarations) histogram(name, help string, buckets []float64, labels ...Label) histogram {
	return histogram{d.set, d.declare(histogramType, name, help, labels), labels, buckets}
}

func (h histogram) observe(v float64, values ...string) {
	h.set.GetOrCreatePrometheusHistogramExt(series(h.name, h.labels, values), h.buckets).Update(v)
}

// gauge has no series before it is set, so that "never" is not the year 1970.
type gauge struct {
	set  *metrics.Set
	name string
}

func (d *declarations) gauge(name, help string) gauge {
	return gauge{d.set, d.declare(gaugeType, name, help, nil)}
}

func (g gauge) now() { g.set.GetOrCreateGauge(g.name, nil).Set(seconds(time.Now())) }

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// reading is a gauge that is read when somebody asks for the metrics.
type reading struct {
	name   string
	labels []Label
	// read calls write with each value and its labels.
	read func(write func(v float64, values ...string))
}

func (d *declarations) reading(name, help string, read func(write func(v float64, values ...string)), labels ...Label) {
	r := reading{d.declare(gaugeType, name, help, labels), labels, read}
	d.set.RegisterMetricsWriter(r.write)
}

// write writes the values, below the name and type of the family.
func (r reading) write(w io.Writer) {
	written := false
	r.read(func(v float64, values ...string) {
		if !written {
			metrics.WriteMetadataIfNeeded(w, r.name, gaugeType)
			written = true
		}
		_, _ = fmt.Fprintf(w, "%s %g\n", series(r.name, r.labels, values), v)
	})
}
