package handlers

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/events"
)

// TestEventsDocument keeps docs/events.md true. With UPDATE_DOCS=1 it writes the page.
func TestEventsDocument(t *testing.T) {
	const path = "../docs/events.md"
	want := eventsDocument()
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is not what the table says; UPDATE_DOCS=1 go test ./handlers -run EventsDocument writes it:\n%s", path, diff)
	}
}

func TestRowsAreComplete(t *testing.T) {
	seen, document := map[string]bool{}, eventsDocument()
	for _, w := range rows() {
		if seen[w.key()] {
			t.Errorf("%s is there twice", w.key())
		}
		seen[w.key()] = true
		if w.reaction.name == "" || w.reaction.handle == nil || w.reaction.concerns == nil || w.severity == "" || w.observe == "" {
			t.Errorf("%s lacks something", w.key())
		}
		if (w.reaction.mode == nil) != (w.reaction.variable == "") {
			t.Errorf("%s: a mode and the variable that sets it belong together", w.key())
		}
		if !strings.Contains(document, w.on.word()) {
			t.Errorf("%s is in no section of docs/events.md", w.key())
		}
		if (w.enforce != "" || w.severity != "none") && w.reaction.alert == "" && w.reaction.name != "sweep" {
			t.Errorf("%s acts or tells without a kind of alert", w.key())
		}
	}
}

// key names a row in tests: "PutKeyPolicy/policy".
func (w row) key() string { return cmp.Or(w.on.name, string(w.on.kind)) + "/" + w.reaction.name }

// eventsDocument is docs/events.md.
func eventsDocument() string {
	var b strings.Builder
	b.WriteString("# Events\n\n" +
		"<!-- Made from the table in handlers/table.go: UPDATE_DOCS=1 go test ./handlers -run EventsDocument -->\n\n" +
		"What cmkeeper reacts to, and how. An event that is not here is ignored.\n\n" +
		"An event is a hint: a reaction reads what it is about before it decides. A call that was refused changed nothing and is never repaired. " +
		"A reaction whose mode is `off` does not exist; what `enforce` does, `observe` tells that it would. " +
		"Events about keys of other accounts and Regions are ignored.\n")
	for _, section := range sections {
		fmt.Fprintf(&b, "\n## %s\n\n| event | reaction | alert | severity | what is done | with `enforce` |\n|---|---|---|---|---|---|\n", section.title)
		var lines []row
		for _, w := range rows() {
			if slices.Contains(section.sources, w.on.source) {
				lines = append(lines, w)
			}
		}
		for len(lines) > 0 {
			n := 1
			for n < len(lines) && lines[n].says() == lines[0].says() {
				n++
			}
			var names []string
			for _, w := range lines[:n] {
				names = append(names, w.on.word())
			}
			fmt.Fprintf(&b, "| %s | %s |\n", strings.Join(names, ", "), lines[0].says())
			lines = lines[n:]
		}
	}
	b.WriteString("\n## The modes\n\n| reaction | mode |\n|---|---|\n")
	told := map[string]bool{}
	for _, w := range rows() {
		if name := w.reaction.name; !told[name] {
			told[name] = true
			mode := "always on; what it changes is up to the modes of the others"
			if w.reaction.variable != "" {
				mode = "`CMKEEPER_" + w.reaction.variable + "`"
			}
			fmt.Fprintf(&b, "| %s | %s |\n", name, mode)
		}
	}
	return b.String()
}

// sections are the tables of the page. Every source is in one of them.
var sections = []struct {
	title   string
	sources []string
}{
	{"KMS", []string{events.SourceKMS, events.SourceNative}},
	{"S3", []string{events.SourceS3}},
	{"The schedule", []string{""}},
}

// says is the row without its event, as cells.
func (w row) says() string {
	kind := "none"
	if w.reaction.alert != "" {
		kind = "`" + string(w.reaction.alert) + "`"
	}
	return strings.Join([]string{w.reaction.name, kind, w.severity, w.observe, cmp.Or(w.enforce, "the same")}, " | ")
}

func (r route) word() string {
	switch r.kind {
	case events.ServiceEvent:
		return "`" + r.name + "` (service event)"
	case events.Native:
		return "`" + r.name + "` (native)"
	case events.Scheduled:
		return "any scheduled event"
	case events.APICall:
	}
	return "`" + r.name + "`"
}
