package handlers

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
)

func TestNoteTags(t *testing.T) {
	created := after(-720 * time.Hour)
	var d keyDoc
	d.noteTags(map[string]string{"env": "sandbox", "team": "a"}, created, noon)
	d.noteTags(map[string]string{"env": "sandbox", "team": "b"}, created, after(time.Hour))
	d.noteTags(map[string]string{"env": "sandbox", "team": "a"}, created, after(2*time.Hour))
	want := []seenTag{
		{"env", "sandbox", created},            // the first sweep found it
		{"team", "a", noon.Add(2 * time.Hour)}, // it was another value in between
	}
	if diff := cmp.Diff(want, d.Tags); diff != "" {
		t.Error(diff)
	}

	var bare keyDoc
	bare.noteTags(nil, created, noon)
	bare.noteTags(map[string]string{"env": "sandbox"}, created, after(time.Hour))
	if diff := cmp.Diff([]seenTag{{"env", "sandbox", noon.Add(time.Hour)}}, bare.Tags); diff != "" {
		t.Errorf("a tag that came after the first sweep:\n%s", diff)
	}
}

func TestBlame(t *testing.T) {
	by := func(name, event string, at time.Duration) events.Event {
		return events.Event{Name: event, Kind: events.APICall, Time: after(at), Actor: events.Actor{Type: "IAMUser", Name: name, AccountID: "1"}}
	}
	tests := []struct {
		name   string
		states []seenState
		events []events.Event
		want   string
	}{
		{"who scheduled it", states("Enabled@-1h", "PendingDeletion@5s"), []events.Event{by("a", "ScheduleKeyDeletion", 0)}, "a"},
		{"another event", states("Enabled@-1h", "PendingDeletion@5s"), []events.Event{by("a", "DisableKey", 0)}, ""},
		{"an event from before the former state", states("Enabled@-1h", "PendingDeletion@5s"), []events.Event{by("a", "ScheduleKeyDeletion", -2*time.Hour)}, ""},
		{"the later of two", states("Enabled@-1h", "Disabled@5s"), []events.Event{by("a", "DisableKey", time.Second), by("b", "DisableKey", 0)}, "a"},
		{"never seen before", states("Disabled@5s"), []events.Event{by("a", "DisableKey", 0)}, "a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := keyDoc{States: tt.states}
			for _, e := range tt.events {
				d.blame(e)
			}
			got := ""
			if p := d.culprit(alert.KindDeletion, events.Event{Kind: events.Scheduled}); p != nil {
				got = p.Name
			}
			if want := tt.want; want != "" && got != want+" (IAM user in 1)" || want == "" && got != "" {
				t.Errorf("culprit %q, want %q", got, want)
			}
		})
	}
}
