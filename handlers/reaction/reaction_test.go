package reaction

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/dependents"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return noon.Add(d) }

func TestParseIdentity(t *testing.T) {
	tests := []struct {
		arn  string
		want Identity
	}{
		{"arn:aws:sts::444455556666:assumed-role/cmkeeper/i-0abc", Identity{"444455556666", "cmkeeper", true}},
		{"arn:aws-cn:iam::444455556666:user/ops/carol", Identity{"444455556666", "carol", false}},
		{"arn:aws:iam::444455556666:root", Identity{"444455556666", "root", false}},
	}
	for _, tt := range tests {
		if got, err := ParseIdentity(tt.arn); err != nil || got != tt.want {
			t.Errorf("ParseIdentity(%q) = %+v, %v", tt.arn, got, err)
		}
	}
	for _, bad := range []string{"", "cmkeeper", "arn:aws:sts::444455556666:federated-user/x", "arn:aws:iam::aws:"} {
		if got, err := ParseIdentity(bad); err == nil {
			t.Errorf("ParseIdentity(%q) = %+v, want an error", bad, got)
		}
	}
}

func TestParseMode(t *testing.T) {
	for text, want := range map[string]Mode{"off": Off, "observe": Observe, "enforce": Enforce} {
		if m, err := ParseMode(text); err != nil || m != want {
			t.Errorf("ParseMode(%q) = %q, %v", text, m, err)
		}
	}
	for _, text := range []string{"", "on"} {
		if _, err := ParseMode(text); err == nil {
			t.Errorf("mode %q is accepted", text)
		}
	}
}

func TestOpponents(t *testing.T) {
	rep := func(name string, d time.Duration) ledger.Repair {
		r := ledger.Repair{Reaction: "x", By: name + d.String(), At: after(d), Done: true}
		if name != "" {
			r.Against = &ledger.Party{Name: name}
		}
		return r
	}
	d := ledger.Key{Repairs: []ledger.Repair{rep("old", -2*time.Hour), rep("a", -30*time.Minute), rep("", -20*time.Minute), rep("b", -10*time.Minute), rep("a", -time.Minute)}}
	d.Repairs = append(d.Repairs, ledger.Repair{Reaction: "x", By: "begun", At: after(-time.Second), Against: &ledger.Party{Name: "c"}})
	want := []string{"a, 2 times", "unknown: a sweep noticed it", "b"}
	if diff := cmp.Diff(want, opponents(d.RepairsBefore(ledger.Circuit{Reaction: "x", At: noon}))); diff != "" {
		t.Error(diff)
	}
}

// TestSameReachSameSeverity: what a foreign principal may do is as bad by a grant as by a
// policy, with a condition on the encryption context and without, and both name it.
func TestHourly(t *testing.T) {
	var h hourly
	h.add("10", "a")
	if !h.has("10", "a") || h.has("10", "b") || h.has("11", "a") {
		t.Error("the memory is wrong")
	}
	h.add("11", "b")
	if h.has("10", "a") || !h.has("11", "b") {
		t.Error("the hour that is over is remembered")
	}
	for i := range maxHourly + 1 {
		h.add("11", string(rune(i)))
	}
	if len(h.ids) > maxHourly {
		t.Errorf("%d ids are kept", len(h.ids))
	}
}

// lookedUp is an event as LookupEvents returns it.
func lookedUp(role, operation, refused string, at time.Time) dependents.Event {
	record := fmt.Sprintf(`{"eventVersion":"1.11","eventID":"e-%s","eventType":"AwsApiCall","eventSource":"kms.amazonaws.com","eventName":%q,"eventTime":%q,"awsRegion":"us-east-1","recipientAccountId":"444455556666","errorCode":%q,
		"userIdentity":{"type":"AssumedRole","arn":"arn:aws:sts::444455556666:assumed-role/%s/s-1","accountId":"444455556666"}}`,
		at.Format("150405"), operation, at.Format(time.RFC3339), refused, role)
	return dependents.Event{EventName: operation, EventTime: float64(at.Unix()), Username: "s-1", CloudTrailEvent: record}
}

func TestCallers(t *testing.T) {
	us := Identity{Account: "444455556666", Name: "cmkeeper", Role: true}
	app := lookedUp("app", "Decrypt", "", after(time.Minute))
	unread := dependents.Event{EventName: "Decrypt", EventTime: float64(noon.Unix()), Username: "someone", CloudTrailEvent: "{"}
	tests := []struct {
		name  string
		found []dependents.Event
		want  []string
	}{
		{name: "none"},
		{name: "one", found: []dependents.Event{app}, want: []string{"app/s-1 (role session in 444455556666): Decrypt once, at 2026-03-01 12:01:00 UTC"}},
		{
			name:  "some were refused",
			found: []dependents.Event{app, lookedUp("app", "Decrypt", "DisabledException", noon), lookedUp("app", "Decrypt", "DisabledException", noon)},
			want:  []string{"app/s-1 (role session in 444455556666): Decrypt 3 times, last at 2026-03-01 12:01:00 UTC; refused with DisabledException"},
		},
		{name: "ours are counted", found: []dependents.Event{lookedUp("cmkeeper", "DescribeKey", "", noon), lookedUp("cmkeeper", "GetKeyPolicy", "", noon)}, want: []string{"2 of these events are cmkeeper's own"}},
		{name: "a record that cannot be read", found: []dependents.Event{unread}, want: []string{"someone: Decrypt once, at 2026-03-01 12:00:00 UTC"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, callers(tt.found, us)); diff != "" {
				t.Errorf("callers (-want +got):\n%s", diff)
			}
		})
	}
	var many []dependents.Event
	for i := range dependents.UsesLimit {
		many = append(many, lookedUp(fmt.Sprintf("role-%d", i), "Decrypt", "", noon))
	}
	got := callers(many, us)
	if len(got) != maxCallers+1 || got[maxCallers] != "and 38 more" {
		t.Errorf("of %d callers: %q", dependents.UsesLimit, got)
	}
}

func TestScanText(t *testing.T) {
	done := reencrypt.Summary{Job: "j1", Bucket: "data", From: []string{"old", "older"}, To: "new", State: reencrypt.StateComplete, Finished: noon, Counts: reencrypt.Counts{Moved: 5}}
	left := done
	left.Refused, left.Failed = 2, 1
	running := done
	running.State = reencrypt.StateRunning
	for _, tt := range []struct {
		job       reencrypt.Summary
		key, want string
	}{
		{done, "new", "data/: job j1, which moves object versions under this key, is complete since 2026-03-01 12:00:00 UTC and moved 5"},
		{done, "old", "data/: job j1, which moves object versions off this key, is complete since 2026-03-01 12:00:00 UTC and moved 5"},
		{left, "old", "data/: job j1, which moves object versions off this key, is complete since 2026-03-01 12:00:00 UTC and moved 5; 3 were left on their old keys"},
		{running, "new", "data/: job j1, which moves object versions under this key, is running"},
	} {
		if got := scanText(tt.job, tt.key); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

func TestRelatedKeys(t *testing.T) {
	const primary, replica = "arn:aws:kms:us-east-1:444455556666:key/mrk-1", "arn:aws:kms:eu-west-1:444455556666:key/mrk-1"
	for name, tt := range map[string]struct {
		key  inventory.Key
		want string
	}{
		"of one Region": {inventory.Key{ARN: primary}, "none"},
		"a primary":     {inventory.Key{ARN: primary, MultiRegion: "PRIMARY", PrimaryARN: primary, Replicas: []string{replica}}, replica + " is a replica"},
		"a replica":     {inventory.Key{ARN: replica, MultiRegion: "REPLICA", PrimaryARN: primary, Replicas: []string{replica}}, primary + " is the primary"},
	} {
		got := relatedKeys(tt.key, noon)
		if len(got.Values) != 1 || !strings.HasPrefix(got.Values[0], tt.want) {
			t.Errorf("%s: %q", name, got.Values)
		}
	}
}
