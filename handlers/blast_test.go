package handlers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// lookedUp is an event as LookupEvents returns it.
func lookedUp(role, operation, refused string, at time.Time) types.Event {
	record := fmt.Sprintf(`{"eventVersion":"1.11","eventID":"e-%s","eventType":"AwsApiCall","eventSource":"kms.amazonaws.com","eventName":%q,"eventTime":%q,"awsRegion":"us-east-1","recipientAccountId":"444455556666","errorCode":%q,
		"userIdentity":{"type":"AssumedRole","arn":"arn:aws:sts::444455556666:assumed-role/%s/s-1","accountId":"444455556666"}}`,
		at.Format("150405"), operation, at.Format(time.RFC3339), refused, role)
	return types.Event{EventName: &operation, EventTime: &at, Username: aws.String("s-1"), CloudTrailEvent: &record}
}

func TestCallers(t *testing.T) {
	us := Identity{Account: "444455556666", Name: "cmkeeper", Role: true}
	app := lookedUp("app", "Decrypt", "", after(time.Minute))
	unread := types.Event{EventName: aws.String("Decrypt"), EventTime: aws.Time(noon), Username: aws.String("someone"), CloudTrailEvent: aws.String("{")}
	tests := []struct {
		name  string
		found []types.Event
		want  []string
	}{
		{name: "none"},
		{name: "one", found: []types.Event{app}, want: []string{"app/s-1 (role session in 444455556666): Decrypt once, at 2026-03-01 12:01:00 UTC"}},
		{
			name:  "some were refused",
			found: []types.Event{app, lookedUp("app", "Decrypt", "DisabledException", noon), lookedUp("app", "Decrypt", "DisabledException", noon)},
			want:  []string{"app/s-1 (role session in 444455556666): Decrypt 3 times, last at 2026-03-01 12:01:00 UTC; refused with DisabledException"},
		},
		{name: "ours are counted", found: []types.Event{lookedUp("cmkeeper", "DescribeKey", "", noon), lookedUp("cmkeeper", "GetKeyPolicy", "", noon)}, want: []string{"2 of these events are cmkeeper's own"}},
		{name: "a record that cannot be read", found: []types.Event{unread}, want: []string{"someone: Decrypt once, at 2026-03-01 12:00:00 UTC"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, callers(tt.found, us)); diff != "" {
				t.Errorf("callers (-want +got):\n%s", diff)
			}
		})
	}
	var many []types.Event
	for i := range lookupPage {
		many = append(many, lookedUp(fmt.Sprintf("role-%d", i), "Decrypt", "", noon))
	}
	got := callers(many, us)
	if len(got) != maxCallers+1 || got[maxCallers] != "and 38 more" {
		t.Errorf("of %d callers: %q", lookupPage, got)
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
