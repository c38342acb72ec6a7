package metrics

import (
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
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
}

// Other is the value of a label where the actual one is not among those it may have.
const Other = "other"

// allows returns the value, or Other.
func (l Label) allows(value string) string {
	if l.seen != nil {
		return l.seen.allows(value)
	}
	if slices.Contains(l.Values, value) {
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

// declarations are the metrics of a registry.
type declarations struct {
	registry *prometheus.Registry
	families []Family
}

const (
	counterType, gaugeType, histogramType = "counter", "gauge", "histogram"
	prefix                                = "cmkeeper_"
)

// declare notes a family and returns its full name and the names of its labels.
func (d *declarations) declare(kind, name, help string, labels []Label) (full string, variable []string) {
	full = prefix + name
	d.families = append(d.families, Family{full, kind, help, labels})
	for _, l := range labels {
		variable = append(variable, l.Name)
	}
	return full, variable
}

// bounded are the values of labels as they are counted.
func bounded(labels []Label, values []string) []string {
	allowed := make([]string, len(labels))
	for i, l := range labels {
		allowed[i] = l.allows(values[i])
	}
	return allowed
}

type counter struct {
	vec    *prometheus.CounterVec
	labels []Label
}

func (d *declarations) counter(name, help string, labels ...Label) counter {
	full, variable := d.declare(counterType, name, help, labels)
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: full, Help: help}, variable)
	d.registry.MustRegister(vec)
	c := counter{vec, labels}
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

func (c counter) add(n float64, values ...string) {
	c.vec.WithLabelValues(bounded(c.labels, values)...).Add(n)
}

type histogram struct {
	vec    *prometheus.HistogramVec
	labels []Label
}

func (d *declarations) histogram(name, help string, buckets []float64, labels ...Label) histogram {
	full, variable := d.declare(histogramType, name, help, labels)
	vec := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: full, Help: help, Buckets: buckets}, variable)
	d.registry.MustRegister(vec)
	return histogram{vec, labels}
}

func (h histogram) observe(v float64, values ...string) {
	h.vec.WithLabelValues(bounded(h.labels, values)...).Observe(v)
}

// gauge has no series before it is set, so that "never" is not the year 1970.
type gauge struct{ vec *prometheus.GaugeVec }

func (d *declarations) gauge(name, help string) gauge {
	full, _ := d.declare(gaugeType, name, help, nil)
	vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: full, Help: help}, nil)
	d.registry.MustRegister(vec)
	return gauge{vec}
}

func (g gauge) now() { g.vec.WithLabelValues().SetToCurrentTime() }

// reading is a gauge that is read when somebody asks for the metrics.
func (d *declarations) reading(name, help string, labels ...Label) *prometheus.Desc {
	full, variable := d.declare(gaugeType, name, help, labels)
	return prometheus.NewDesc(full, help, variable, nil)
}
