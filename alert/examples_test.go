package alert

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// TestExamplesAreComplete wants an example of each kind that the schema knows, valid in
// every format.
func TestExamplesAreComplete(t *testing.T) {
	schema := compile(t)
	var kinds []string
	for _, a := range Examples(instant("2026-11-25T09:00:03Z")) {
		kinds = append(kinds, string(a.Kind))
		raw, err := a.JSON()
		if err != nil {
			t.Fatal(err)
		}
		in, err := jsonschema.UnmarshalJSON(strings.NewReader(string(raw)))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(in); err != nil {
			t.Errorf("%s: %v", a.Kind, err)
		}
		for _, r := range renderers {
			if message, err := r.render(a); err != nil || len(message) == 0 || r.structure != "" && !json.Valid(message) {
				t.Errorf("%s as %v: %q, %v", a.Kind, r.format, message, err)
			}
		}
		if m := chatOf(t, a); m.Content.Title == "" || len(m.Content.NextSteps) == 0 {
			t.Errorf("%s in a chat: %+v", a.Kind, m)
		}
		if a.Summary == "" || a.Time.IsZero() || a.ID != "example/"+string(a.Kind) && a.Kind != KindIncident {
			t.Errorf("%s is not complete: %+v", a.Kind, a)
		}
	}
	raw, err := os.ReadFile(filepath.Join("..", "docs", "alert.v1.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var known struct {
		Defs struct {
			Kind struct{ Enum []string } `json:"kind"`
		} `json:"$defs"`
	}
	if err := json.Unmarshal(raw, &known); err != nil {
		t.Fatal(err)
	}
	slices.Sort(kinds)
	slices.Sort(known.Defs.Kind.Enum)
	if diff := cmp.Diff(known.Defs.Kind.Enum, kinds); diff != "" {
		t.Errorf("kinds of the schema, and of the examples (-want +got):\n%s", diff)
	}
}

// TestExamplesDocument keeps docs/alert-examples.md true. With UPDATE_DOCS=1 it writes the page.
func TestExamplesDocument(t *testing.T) {
	path := filepath.Join("..", "docs", "alert-examples.md")
	var b strings.Builder
	b.WriteString("# Examples of alerts\n\n<!-- Made from alert/examples.go: UPDATE_DOCS=1 go test ./alert -run ExamplesDocument -->\n\n" +
		"One of each kind, as mail has it. `cmkeeper alerts test` sends them to your topics. All of it is made up. " +
		"The one of kind `policy` is several alerts told as one.\n")
	for _, a := range Examples(instant("2026-11-25T09:00:03Z")) {
		fmt.Fprintf(&b, "\n## %s\n\n```text\n%s```\n", a.Kind, a.Text())
	}
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.String(), string(got)); diff != "" {
		t.Errorf("%s is not what the examples say; UPDATE_DOCS=1 go test ./alert -run ExamplesDocument writes it:\n%s", path, diff)
	}
}
