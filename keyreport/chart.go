package keyreport

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
)

// Charts are SVG within the page. Each has a label that says in words what it shows, its
// values are written beside the marks, and marks differ by pattern and not by colour alone.

// num is a number as SVG takes it.
func num(f float64) string { return strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64) }

// svg is a drawing of a width and height, for which label stands.
func svg(width, height float64, label string, content ...node) node {
	return el("svg", []attribute{
		attr("xmlns", "http://www.w3.org/2000/svg"), attr("viewBox", "0 0 "+num(width)+" "+num(height)), attr("width", num(width)), attr("height", num(height)),
		attr("role", "img"), attr("aria-label", label),
	}, append([]node{words("title", label)}, content...)...)
}

// label is text at a place of a drawing; anchor is start, middle or end.
func label(x, y float64, anchor, s string) node {
	return el("text", []attribute{attr("x", num(x)), attr("y", num(y)), attr("text-anchor", anchor)}, text(s))
}

func rect(x, y, width, height float64, fill string) node {
	return el("rect", []attribute{attr("x", num(x)), attr("y", num(y)), attr("width", num(width)), attr("height", num(height)), attr("fill", fill), attr("stroke", "#222"), attr("stroke-width", "0.7")})
}

// patterns are the fills of severities: from solid for critical to white.
func patterns() node {
	lines := func(id, d, width string) node {
		return el("pattern", []attribute{attr("id", id), attr("width", "6"), attr("height", "6"), attr("patternUnits", "userSpaceOnUse")},
			el("rect", []attribute{attr("width", "6"), attr("height", "6"), attr("fill", "#fff")}),
			el("path", []attribute{attr("d", d), attr("stroke", "#222"), attr("stroke-width", width)}))
	}
	return el("svg", []attribute{attr("width", "0"), attr("height", "0"), attr("class", "defs"), attr("aria-hidden", "true")}, tag("defs",
		lines("p-high", "M0 6L6 0M-1 1L1 -1M5 7L7 5", "2.2"), lines("p-medium", "M0 6L6 0M-1 1L1 -1M5 7L7 5", "0.8"), lines("p-low", "M0 3L6 3", "0.8")))
}

func fillOf(s finding.Severity) string {
	switch s {
	case finding.Critical:
		return "#222"
	case finding.High:
		return "url(#p-high)"
	case finding.Medium:
		return "url(#p-medium)"
	case finding.Low:
		return "url(#p-low)"
	case finding.Info:
	}
	return "#fff"
}

// bar is a bar of a chart.
type bar struct {
	name  string
	n     int
	fill  string
	after string // behind the number
}

// barChart draws horizontal bars.
func barChart(about string, bars []bar) node {
	const width, row, left, right = 640.0, 22.0, 150.0, 120.0
	most := 1
	var said []string
	for _, b := range bars {
		most = max(most, b.n)
		said = append(said, fmt.Sprintf("%s %d", b.name, b.n))
	}
	return svg(width, row*float64(len(bars))+6, about+": "+strings.Join(said, ", "), func(b *strings.Builder) {
		for i, one := range bars {
			y := row * float64(i)
			length := float64(one.n) / float64(most) * (width - left - right)
			label(left-8, y+15, "end", one.name)(b)
			rect(left, y+4, max(length, 0.1), row-8, one.fill)(b)
			label(left+length+6, y+15, "start", strconv.Itoa(one.n)+one.after)(b)
		}
	})
}

// point is a value of a line over time, from 0 to 1.
type point struct {
	at    time.Time
	value float64
}

// lineChart draws a share over time. There are at least two points.
func lineChart(about string, points []point) node {
	const width, height, left, bottom, top = 640.0, 170.0, 60.0, 24.0, 12.0
	first, last := points[0], points[len(points)-1]
	span := max(last.at.Sub(first.at).Seconds(), 1)
	x := func(p point) float64 { return left + p.at.Sub(first.at).Seconds()/span*(width-left-60) }
	y := func(v float64) float64 { return top + (1-v)*(height-top-bottom) }
	var path strings.Builder
	low := first
	for i, p := range points {
		command := " L"
		if i == 0 {
			command = "M"
		}
		path.WriteString(command + num(x(p)) + " " + num(y(p.value)))
		if p.value < low.value {
			low = p
		}
	}
	said := fmt.Sprintf("%s: %s on %s, %s on %s, lowest %s on %s", about, percent(first.value), day(first.at), percent(last.value), day(last.at), percent(low.value), day(low.at))
	return svg(width, height, said, func(b *strings.Builder) {
		for _, v := range []float64{0, 0.5, 1} {
			el("path", []attribute{attr("d", "M"+num(left)+" "+num(y(v))+" L"+num(width-60)+" "+num(y(v))), attr("stroke", "#999"), attr("stroke-width", "0.5")})(b)
			label(left-6, y(v)+4, "end", percent(v))(b)
		}
		el("path", []attribute{attr("d", path.String()), attr("fill", "none"), attr("stroke", "#222"), attr("stroke-width", "1.6")})(b)
		el("circle", []attribute{attr("cx", num(x(last))), attr("cy", num(y(last.value))), attr("r", "3"), attr("fill", "#222")})(b)
		label(x(last)+6, y(last.value)+4, "start", percent(last.value))(b)
		label(left, height-6, "start", day(first.at))(b)
		label(width-60, height-6, "end", day(last.at))(b)
	})
}

// stack is a column of a chart: how many of each severity there were at a time.
type stack struct {
	at time.Time
	n  map[finding.Severity]int
}

// stackChart draws columns over time, the worst severity at the bottom.
func stackChart(about string, stacks []stack) node {
	const width, height, left, bottom, top = 640.0, 190.0, 46.0, 24.0, 26.0
	most := 1
	for _, s := range stacks {
		most = max(most, s.sum())
	}
	first, last := stacks[0], stacks[len(stacks)-1]
	step := (width - left) / float64(len(stacks))
	said := fmt.Sprintf("%s: %d on %s, %d on %s", about, first.sum(), day(first.at), last.sum(), day(last.at))
	return svg(width, height, said, func(b *strings.Builder) {
		x := left
		for _, severity := range worstFirst() {
			rect(x, 4, 12, 12, fillOf(severity))(b)
			label(x+16, 14, "start", string(severity))(b)
			x += 90
		}
		for i, s := range stacks {
			y := height - bottom
			for _, severity := range worstFirst() {
				if n := s.n[severity]; n > 0 {
					h := float64(n) / float64(most) * (height - top - bottom)
					y -= h
					rect(left+step*float64(i), y, max(step-2, 0.8), h, fillOf(severity))(b)
				}
			}
		}
		label(left-6, top+8, "end", strconv.Itoa(most))(b)
		label(left-6, height-bottom, "end", "0")(b)
		label(left, height-6, "start", day(first.at))(b)
		label(width, height-6, "end", day(last.at))(b)
	})
}

func (s stack) sum() (n int) {
	for _, m := range s.n {
		n += m
	}
	return n
}

// worstFirst are the severities that are shown, the worst first.
func worstFirst() []finding.Severity {
	return []finding.Severity{finding.Critical, finding.High, finding.Medium, finding.Low}
}

func percent(share float64) string { return strconv.FormatFloat(share*100, 'f', 1, 64) + " %" }
