package ledger

import (
	"testing"
	"time"
)

func TestAlive(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	const age = 15 * time.Minute
	for name, tt := range map[string]struct {
		doc, want Alive
		changed   bool
		asked     time.Time
	}{
		"nothing is known":          {Alive{}, Alive{At: now}, true, ago(age)},
		"somebody did just now":     {Alive{At: ago(time.Minute)}, Alive{At: ago(time.Minute)}, false, ago(age)},
		"somebody did":              {Alive{At: ago(3 * time.Minute)}, Alive{At: now}, true, ago(age)},
		"an outage":                 {Alive{At: ago(6 * time.Minute)}, Alive{At: now, Since: now}, true, ago(sweepClocks)},
		"an outage that ended":      {Alive{At: ago(time.Minute), Since: ago(4 * time.Minute)}, Alive{At: ago(time.Minute), Since: ago(4 * time.Minute)}, false, ago(4*time.Minute + sweepClocks)},
		"an outage that ended once": {Alive{At: ago(time.Minute), Since: ago(time.Hour)}, Alive{At: ago(time.Minute), Since: ago(time.Hour)}, false, ago(age)},
		"a clock that went back":    {Alive{At: now.Add(time.Minute)}, Alive{At: now.Add(time.Minute)}, false, ago(age)},
	} {
		doc := tt.doc
		if changed := doc.See(now); changed != tt.changed || doc != tt.want {
			t.Errorf("%s: %+v, changed %t", name, doc, changed)
		}
		if asked := doc.Asked(now, age); !asked.Equal(tt.asked) {
			t.Errorf("%s: asks for a sweep since %s, want %s", name, asked, tt.asked)
		}
	}
}
