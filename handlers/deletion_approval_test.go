package handlers

import (
	"testing"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/retire"
)

func TestDecideApproval(t *testing.T) {
	pending := noon // 2026-03-01
	long := after(-48 * time.Hour)
	tests := []struct {
		name  string
		value string
		since time.Time
		days  int
		want  approvalReason
	}{
		{name: "of the same day", value: "2026-03-01", since: long, days: 14, want: approvalHolds},
		{name: "as old as it may be", value: "2026-02-15", since: long, days: 14, want: approvalHolds},
		{name: "a day too old", value: "2026-02-14", since: long, days: 14, want: approvalExpired},
		{name: "already tomorrow in the east", value: "2026-03-02", since: long, days: 14, want: approvalHolds},
		{name: "still to come everywhere", value: "2026-03-03", since: long, days: 14, want: approvalFuture},
		{name: "another form of date", value: "1 March 2026", since: long, days: 14, want: approvalMalformed},
		{name: "a time, not a day", value: "2026-03-01T00:00:00Z", since: long, days: 14, want: approvalMalformed},
		{name: "no such day", value: "2026-02-30", since: long, days: 14, want: approvalMalformed},
		{name: "empty", since: long, days: 14, want: approvalMalformed},
		{name: "set minutes before", value: "2026-03-01", since: after(-time.Minute), days: 14, want: approvalFresh},
		{name: "set just under a day before", value: "2026-03-01", since: after(-judgement.Lasts + time.Second), days: 14, want: approvalFresh},
		{name: "set a day before", value: "2026-03-01", since: after(-judgement.Lasts), days: 14, want: approvalHolds},
		{name: "no sweep has found it", value: "2026-03-01", days: 14, want: approvalFresh},
		{name: "found only after the deletion was scheduled", value: "2026-03-01", since: after(time.Hour), days: 14, want: approvalFresh},
		{name: "tags do not count", value: "2026-03-01", since: long, want: approvalNone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := decideApproval(tt.value, tt.since, pending, tt.days); got != tt.want {
				t.Errorf("reason %q, want %q", got, tt.want)
			}
		})
	}
}

// TestApprovalCountsFromTheFirstSweep: what a key's tag said before anybody
// looked is not known, whatever its creation date.
func TestApprovalCountsFromTheFirstSweep(t *testing.T) {
	doc := &ledger.Key{
		Tags:      []ledger.Tag{{Name: approvalTag, Value: "2026-03-01", Since: after(-1000 * time.Hour)}},
		TagsSince: after(-time.Hour), States: []ledger.State{{State: ledger.StatePendingDeletion, At: noon}},
	}
	a := approval{tag: approvalMalformed, value: "2026-03-01"}
	if got := a.judge(doc, 14); got.tag != approvalFresh {
		t.Errorf("reason %q, want %q", got.tag, approvalFresh)
	}
	doc.TagsSince = after(-25 * time.Hour)
	if got := a.judge(doc, 14); got.tag != approvalHolds {
		t.Errorf("reason %q, want %q", got.tag, approvalHolds)
	}
}

// TestApprovalOfADisabledKey: an approval without a waiting period is for one disabling,
// at its time, and for no deletion; one with a waiting period is for no disabling.
func TestApprovalOfADisabledKey(t *testing.T) {
	for name, tt := range map[string]struct {
		state string
		days  int
		at    time.Time // when the key was first seen in the state
		want  bool
	}{
		"at once":                              {ledger.StateDisabled, 0, noon, true},
		"seen late":                            {ledger.StateDisabled, 0, after(23 * time.Hour), true},
		"a clock that is a little behind":      {ledger.StateDisabled, 0, after(-time.Minute), true},
		"a day later":                          {ledger.StateDisabled, 0, after(24 * time.Hour), false},
		"before it was approved":               {ledger.StateDisabled, 0, after(-2 * time.Hour), false},
		"disabled, and a deletion is approved": {ledger.StateDisabled, 30, noon, false},
	} {
		t.Run(name, func(t *testing.T) {
			doc := &ledger.Key{States: []ledger.State{{State: ledger.StateEnabled, At: after(-1000 * time.Hour)}, {State: tt.state, At: tt.at}}}
			got := approval{record: &retire.Approval{Key: "k", By: "olga", At: noon, Days: tt.days}}.judge(doc, 14)
			if got.given() != tt.want {
				t.Errorf("given is %t, want %t", got.given(), tt.want)
			}
		})
	}
	if date := after(time.Hour); (retire.Approval{At: noon}).Covers(&date) {
		t.Error("an approval to disable a key covers its deletion")
	}
}

func TestDueReminder(t *testing.T) {
	before := []time.Duration{7 * 24 * time.Hour, 6 * time.Hour, 3 * 24 * time.Hour, 24 * time.Hour} // in any order
	end := after(30 * 24 * time.Hour)
	tests := []struct {
		name string
		// left is how long before the end it is, seen how long before it the key was first seen.
		left, seen time.Duration
		want       time.Duration // 0: none
	}{
		{name: "long before", left: 20 * 24 * time.Hour, seen: 30 * 24 * time.Hour},
		{name: "at the first", left: 7 * 24 * time.Hour, seen: 30 * 24 * time.Hour, want: 7 * 24 * time.Hour},
		{name: "between two", left: 4 * 24 * time.Hour, seen: 30 * 24 * time.Hour, want: 7 * 24 * time.Hour},
		{name: "only the most urgent of those missed", left: 2 * time.Hour, seen: 30 * 24 * time.Hour, want: 6 * time.Hour},
		{name: "the alarm stands for what was due by then", left: 6 * 24 * time.Hour, seen: 7 * 24 * time.Hour},
		{name: "the next one after the alarm", left: 24 * time.Hour, seen: 2 * 24 * time.Hour, want: 24 * time.Hour},
		{name: "seen after the last one", left: time.Hour, seen: 2 * time.Hour},
		{name: "KMS is late", left: -time.Hour, seen: 30 * 24 * time.Hour, want: 6 * time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := dueReminder(before, end, end.Add(-tt.seen), end.Add(-tt.left))
			if got != tt.want || ok != (tt.want != 0) {
				t.Errorf("due %s, %t, want %s", got, ok, tt.want)
			}
		})
	}
}

func TestReminderWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "no time", 30 * time.Minute: "less than an hour", 5*time.Hour + time.Minute: "5 hours",
		47 * time.Hour: "47 hours", 71 * time.Hour: "2 days and 23 hours",
	} {
		if got := span(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
	if reminderSeverity(24*time.Hour) != finding.Critical || reminderSeverity(25*time.Hour) != finding.High {
		t.Error("the last day is critical, and nothing before it")
	}
}
