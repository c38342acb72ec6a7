package events_test

import (
	"testing"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
)

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
