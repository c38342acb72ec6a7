package deploy_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// purposes says what each policy of the tasks' roles is for, by its name, in the order of the table.
var purposes = [][2]string{
	{"work", "to work: queues, topic, state, and [protection](#running-it) on ECS"},
	{"observe", "to observe, in every mode"},
	{"guard", "to check [whether the guard sees](#does-the-guard-see); the [report](keys-and-report.md) asks `cloudtrail:DescribeTrails`, too"},
	{"canary", "the [canary](#the-canary-key)"},
	{"access", "the [access review](#who-may-use-the-keys): to assume the role that reads IAM"},
	{"review", "the access review: that role, in place of a pool"},
	{"rotation", "rotation, enforce"},
	{"policy", "policy, enforce"},
	{"deletion", "deletion, enforce"},
	{"containment", "[containment](deletions.md#containment), enforce"},
	{"reencrypt", "re-encryption, enforce"},
	{"annotations", "objects with annotations, which a copy keeps"},
	{"bucket-default", "`CMKEEPER_REENCRYPT_FIX_BUCKET_DEFAULT`"},
	{"batch", "re-encryption by [S3 Batch Operations](reencryption.md#s3-batch-operations)"},
}

// permissions is the table of docs/operations.md.
func permissions(t *testing.T) string {
	t.Helper()
	p := place(everything...)
	p.Account, p.Region = "ACCOUNT", "REGION"
	p.IDs = map[string]string{"StateBucket": "STATE-BUCKET", "CanaryKey": "CANARY-KEY", "BatchRole": "BATCH-ROLE", "AccessRole": "ACCESS-ROLE"}
	s, err := template(t).Deploy(p)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, role := range [][2]string{{"EventsRole", "events"}, {"AccessRole", "-"}, {"JobsRole", "jobs"}} {
		for _, policy := range s.Policies(role[0]) {
			i := slices.IndexFunc(purposes, func(about [2]string) bool { return about[0] == policy.Name })
			if i < 0 {
				t.Errorf("policy %s of %s has no purpose", policy.Name, role[0])
				continue
			}
			for _, statement := range policy.Statements {
				about := purposes[i][1]
				if rows[policy.Name] != "" {
					about = ""
				}
				statement := statement.(map[string]any)
				rows[policy.Name] += fmt.Sprintf("| %s | %s | %s | %s |\n", about, role[1], listed(statement["Action"]), listed(statement["Resource"]))
			}
		}
	}
	text := "| for | pool | actions | on |\n|---|---|---|---|\n"
	for _, about := range purposes {
		if rows[about[0]] == "" {
			t.Errorf("there is no policy %s", about[0])
		}
		text += rows[about[0]]
	}
	return text
}

// listed is one or more texts, as code.
func listed(v any) string {
	list, several := v.([]any)
	if !several {
		list = []any{v}
	}
	var all []string
	for _, item := range list {
		all = append(all, "`"+item.(string)+"`")
	}
	return strings.Join(all, ", ")
}

func TestPermissionsDocument(t *testing.T) {
	const page, begin, end = "../docs/operations.md", "-run Permissions -->\n", "<!-- end -->"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	was, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no place for the table", page)
	}
	want := "\n" + permissions(t) + "\n"
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(page, []byte(before+begin+want+end+after), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, was); diff != "" {
		t.Errorf("UPDATE_DOCS=1 go test ./deploy -run Permissions (-template +page):\n%s", diff)
	}
}

// TestNoWildcardActions: what a role may do is named.
func TestNoWildcardActions(t *testing.T) {
	s := stack(t, everything...)
	for _, role := range s.OfType("AWS::IAM::Role") {
		text, err := s.RolePolicy(role)
		if err != nil {
			t.Fatal(err)
		}
		var document struct{ Statement []struct{ Action any } }
		if err := json.Unmarshal(text, &document); err != nil {
			t.Fatal(err)
		}
		for _, statement := range document.Statement {
			if strings.Contains(listed(statement.Action), "*") {
				t.Errorf("%s: %v", role, statement.Action)
			}
		}
	}
}
