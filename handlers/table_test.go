package handlers

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
	"github.com/cmkeeper/cmkeeper/inventory"
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
		if w.reaction.name == "" || w.reaction.decide == nil && w.reaction.name != "sweep" && w.reaction.name != "note" || w.reaction.skip == nil || w.severity == "" || w.observe == "" {
			t.Errorf("%s lacks something", w.key())
		}
		if (w.reaction.mode == nil) != (w.reaction.variable == "") {
			t.Errorf("%s: a mode and the variable that sets it belong together", w.key())
		}
		if !strings.Contains(document, w.on.word()) {
			t.Errorf("%s is in no section of docs/events.md", w.key())
		}
		if (w.enforce != "" || w.severity != "none") && w.reaction.alert == "" && w.reaction.name != "sweep" {
			t.Errorf("%s acts or alerts without a kind of alert", w.key())
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
		"The events that cmkeeper reacts to, and how. It ignores all other events.\n\n" +
		"An event is a hint: a reaction reads the live state before it decides. A call that AWS denied changed nothing and is never repaired. " +
		"A reaction whose mode is `off` does nothing; in mode `observe` the alert says what `enforce` would do. " +
		"Events about keys of other accounts and Regions are ignored. " +
		"The severity here is that of the event alone; the key, the actor and the time [raise or lower it](judgement.md).\n")
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
			if lines[0].on.unusable {
				names = append(names, "failed because the key cannot be used")
			}
			fmt.Fprintf(&b, "| %s | %s |\n", strings.Join(names, ", "), lines[0].says())
			lines = lines[n:]
		}
	}
	b.WriteString("\n## Refused attempts\n\n" +
		"For a call that AWS denied (`AccessDenied` and the like), there is an alert of kind `access`, once an hour for each actor and operation; " +
		"it has kind `guard` and severity critical where cmkeeper's own role made a call that cmkeeper never makes. The severity otherwise:\n\n| severity | calls |\n|---|---|\n")
	for _, severity := range []finding.Severity{finding.High, finding.Medium} {
		var names []string
		for _, w := range rows() {
			if w.refused == severity {
				names = append(names, w.on.word())
			}
		}
		fmt.Fprintf(&b, "| %s | %s |\n", severity, strings.Join(names, ", "))
	}
	b.WriteString("\n## Lost events\n\n" +
		"An event that never arrives makes its alert later: the next sweep reads how things stand, and tells what nobody was told of ([how](decisions/posture-and-endings.md)). " +
		"It does not tell who did it. What cannot be found later:\n\n| event | reaction | why |\n|---|---|---|\n")
	var whys, events []string
	for _, w := range rows() {
		why := w.reaction.name + " | " + lost(w)
		if lost(w) == "" || w.on.unusable || w.severity == "none" {
			continue
		}
		i := slices.Index(whys, why)
		if i < 0 {
			whys, events = append(whys, why), append(events, w.on.word())
		} else {
			events[i] += ", " + w.on.word()
		}
	}
	for i, why := range whys {
		fmt.Fprintf(&b, "| %s | %s |\n", events[i], why)
	}
	fmt.Fprintf(&b, "| uses that failed because the key cannot be used | use | %s |\n", lost(row{on: route{unusable: true}}))
	b.WriteString("\n## The rules\n\n" +
		"Events reach cmkeeper through rules on the default bus whose target is the events queue. CloudTrail events need a trail that logs management events; " +
		"each Region has its own. The first rule passes the events about keys:\n\n" + fenced(kmsPattern) +
		"\nThe second rule passes the events that can blind or bypass cmkeeper. Leave out the event names that you do not want alerts about; the sweep [tells once](operations.md#does-the-guard-see) what is left out. " +
		"Calls on trails are recorded in the Region where they are made, so create the rule in the trail's home Region, too:\n\n" + fenced(guardPattern()) +
		"\nThe third rule is for `CMKEEPER_FAILED_USE`. Uses of keys are read-only events, which a rule matches only in state " +
		"`ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS` (`aws events put-rule --state …`); its pattern passes only those that failed:\n\n" + fenced(usePattern()))
	b.WriteString("\n## The modes\n\n| reaction | mode |\n|---|---|\n")
	told := map[string]bool{}
	for _, w := range rows() {
		if name := w.reaction.name; !told[name] {
			told[name] = true
			mode := "always on; what it changes depends on the modes of the others"
			if w.reaction.variable != "" {
				mode = "`CMKEEPER_" + w.reaction.variable + "`"
			}
			fmt.Fprintf(&b, "| %s | %s |\n", name, mode)
		}
	}
	return b.String()
}

// TestPermissionsAreDocumented: docs/operations.md names every operation of KMS that the
// worker calls.
func TestPermissionsAreDocumented(t *testing.T) {
	document, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, client := range []reflect.Type{reflect.TypeFor[inventory.KMS](), reflect.TypeFor[reaction.KMS]()} {
		for m := range client.Methods() {
			if !strings.Contains(string(document), "`"+m.Name+"`") && !strings.Contains(string(document), "`kms:"+m.Name+"`") {
				t.Errorf("docs/operations.md, Permissions: kms:%s is missing", m.Name)
			}
		}
	}
}

// TestOwnCallsAreExpected: in mode enforce, cmkeeper expects the events of all the calls
// that it can make. Else it would take its own call for somebody else's after a crash.
func TestOwnCallsAreExpected(t *testing.T) {
	c := reaction.Config{Rotation: reaction.Enforce, Policy: reaction.Enforce, Deletion: reaction.Enforce, Contain: reaction.Enforce, CanaryKey: "set"}
	for m := range reflect.TypeFor[reaction.KMS]().Methods() {
		if !c.Makes(m.Name) {
			t.Errorf("Config.Makes does not know %s", m.Name)
		}
	}
}

// sections are the tables of the page. Every source is in one of them.
var sections = []struct {
	title   string
	sources []string
}{
	{"KMS", []string{events.SourceKMS, events.SourceNative}},
	{"CloudTrail, EventBridge, SQS and SNS: how cmkeeper receives events and publishes alerts", []string{events.SourceCloudTrail, events.SourceEventBridge, events.SourceSQS, events.SourceSNS}},
	{"S3, EC2 and RDS: data that is not under the expected key", []string{events.SourceS3, events.SourceEC2, events.SourceRDS}},
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

// kmsPattern is the pattern of the rule for keys.
const kmsPattern = `{"source":["aws.kms"],"detail-type":["AWS API Call via CloudTrail","AWS Service Event via CloudTrail","KMS CMK Rotation","KMS CMK Deletion","KMS Imported Key Material Expiration"]}`

// guardPattern is the pattern of the rule for what blinds or bypasses cmkeeper.
func guardPattern() string {
	var sources, names []string
	for _, w := range rows() {
		if w.on.kind == events.APICall && w.on.source != events.SourceKMS {
			sources, names = append(sources, eventBridgeSource(w.on.source)), append(names, w.on.name)
		}
	}
	return fmt.Sprintf(`{"source":%s,"detail-type":["AWS API Call via CloudTrail"],"detail":{"eventName":%s}}`, jsonList(sources), jsonList(names))
}

// usePattern is the pattern of the rule for uses of keys that failed.
func usePattern() string {
	return fmt.Sprintf(`{"source":["aws.kms"],"detail-type":["AWS API Call via CloudTrail"],"detail":{"eventName":%s,"errorCode":%s}}`, jsonList(events.Uses()), jsonList(unusableCodes))
}

func jsonList(values []string) string {
	text, err := json.Marshal(slices.Compact(slices.Sorted(slices.Values(values))))
	if err != nil {
		panic(err)
	}
	return string(text)
}

// fenced shows a JSON text on several lines.
func fenced(text string) string {
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(text), "", "  "); err != nil {
		panic(err)
	}
	return "```json\n" + b.String() + "\n```\n"
}

// TestPatternsAreDeployed holds the sandbox and the LocalStack recipe to the
// patterns of docs/events.md.
func TestPatternsAreDeployed(t *testing.T) {
	recipe, err := os.ReadFile("../localstack/init.sh")
	if err != nil {
		t.Fatal(err)
	}
	for name, pattern := range map[string]struct{ want, sandbox string }{
		"kms": {kmsPattern, sandbox.EventPattern}, "guard": {guardPattern(), sandbox.GuardEventPattern},
	} {
		if pattern.sandbox != pattern.want {
			t.Errorf("the sandbox's pattern %s is\n%s\nwant\n%s", name, pattern.sandbox, pattern.want)
		}
		if !strings.Contains(string(recipe), pattern.want) {
			t.Errorf("localstack/init.sh lacks the pattern %s:\n%s", name, pattern.want)
		}
		if len(pattern.want) > 4096 {
			t.Errorf("pattern %s has %d characters; EventBridge takes 4096", name, len(pattern.want))
		}
	}
}
