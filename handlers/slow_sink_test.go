package handlers_test

import (
	"context"
	"testing"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
)

// slowSink takes its time to tell an alert.
type slowSink struct {
	alert.Sink
	takes time.Duration
}

func (s slowSink) Publish(ctx context.Context, a alert.Alert) error {
	time.Sleep(s.takes)
	return s.Sink.Publish(ctx, a)
}

// TestSlowTopicDelaysNoRepair: a key is closed within a second of the event, however
// long the alerts about it take.
func TestSlowTopicDelaysNoRepair(t *testing.T) {
	for name, tt := range map[string]struct {
		change    func(*reaction.Config)
		operation string
		policy    string
		state     string
		told      int
	}{
		"put back":                     {func(*reaction.Config) {}, "PutKeyPolicy", rootOnly, "Enabled", 1},
		"contained, put-back observed": {func(c *reaction.Config) { c.Policy = reaction.Observe }, "DisableKey", takeover, "Disabled", 2},
	} {
		t.Run(name, func(t *testing.T) {
			c := closing(t)
			tt.change(&c)
			inWorld(t, c, func(w *world) {
				key := w.guardedKey()
				time.Sleep(2 * time.Second)
				w.putPolicy(key, takeover)
				body := w.event("PutKeyPolicy")
				opened := time.Now()
				var after []time.Duration
				w.tap = func(r request, answered bool) {
					if answered && r.ok && r.operation == tt.operation {
						after = append(after, time.Since(opened))
					}
				}
				w.router = w.newRouterWith(c, func(d *reaction.Deps) { d.Alerts = slowSink{d.Alerts, 50 * time.Second} })
				w.handled(body)
				if len(after) != 1 || after[0] >= time.Second {
					t.Errorf("%s was called %v after the event, want once within a second", tt.operation, after)
				}
				w.wantPolicy(key, tt.policy)
				w.wantState(key, tt.state)
				if told := w.told.take(); len(told) != tt.told {
					t.Errorf("%d alerts, want %d:\n%s", len(told), tt.told, texts(told))
				}
			})
		})
	}
}
