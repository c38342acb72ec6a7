package events_test

import (
	"testing"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
)

func TestIsOutdated(t *testing.T) {
	sent := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for age, want := range map[time.Duration]bool{0: false, 14 * 24 * time.Hour: false, 16 * 24 * time.Hour: true} {
		if got := (events.Event{Time: sent.Add(-age)}).SentAt(sent).IsOutdated(); got != want {
			t.Errorf("%s old: outdated %v", age, got)
		}
	}
	if (events.Event{}).IsOutdated() {
		t.Error("an event of an unknown message is outdated")
	}
}

func TestAsClaim(t *testing.T) {
	e := events.Event{ID: "id", RecordID: "record"}
	one, same, other := e.AsClaim([]byte("a")), e.AsClaim([]byte("a")), e.AsClaim([]byte("b"))
	if !one.Claimed || one.ID != same.ID || one.ID == other.ID || one.ID == e.ID || one.RecordID != e.RecordID {
		t.Errorf("claims %+v, %+v, %+v", one, same, other)
	}
	if events.Occurrence(one.ID) != "id" || events.Occurrence("id") != "id" {
		t.Errorf("%s claims to be %s", one.ID, events.Occurrence(one.ID))
	}
}

func TestSentAt(t *testing.T) {
	sent := time.Date(2026, 3, 1, 12, 0, 0, 500, time.FixedZone("elsewhere", 3600))
	whole := sent.Truncate(time.Second)
	for name, test := range map[string]struct{ at, sent, want time.Time }{
		"earlier":           {at: whole.Add(-time.Hour), sent: sent, want: whole.Add(-time.Hour)},
		"a minute later":    {at: whole.Add(time.Minute), sent: sent, want: whole.Add(time.Minute)},
		"two minutes later": {at: whole.Add(2 * time.Minute), sent: sent, want: whole},
		"in 2099":           {at: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), sent: sent, want: whole},
		"not known":         {at: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), want: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if got := (events.Event{Time: test.at}).SentAt(test.sent).Time; !got.Equal(test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
