package dependents

import (
	"os"
	"strings"
	"testing"

	"github.com/cmkeeper/cmkeeper/awsconfig"
)

// TestDocument: docs/deletions.md names the types that are looked at, and those that are not.
func TestDocument(t *testing.T) {
	const page, begin, end = "../docs/deletions.md", "-run Document -->\n", "<!-- end -->"
	document, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(document), begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("%s has no place for the types", page)
	}
	var types []string
	for _, ty := range awsconfig.Types {
		if len(ty.Keys) > 0 {
			types = append(types, several(ty.Title))
		}
	}
	text := before + begin + "\nAWS Config finds: " + strings.Join(types, ", ") + ".\n\nNot looked at: " + NotLookedAt() + ".\n\n" + end + after
	if text == string(document) {
		return
	}
	if os.Getenv("UPDATE_DOCS") == "" {
		t.Fatalf("%s is out of date: UPDATE_DOCS=1 go test ./dependents -run Document", page)
	}
	if err := os.WriteFile(page, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
