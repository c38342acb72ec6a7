package sqs

import (
	"testing"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

func TestOverLimit(t *testing.T) {
	q := &queue{received: map[string]*message{}, settings: settings{visibility: time.Minute, retention: time.Hour}}
	for range maxInFlight + 1 {
		q.add(0, newMessage("m", nil))
	}
	taken, err := q.receive(t.Context(), maxInFlight+1, nil, nil, nil)
	if err != nil || len(taken) != maxInFlight {
		t.Fatalf("received %d, %v; want %d", len(taken), err, maxInFlight)
	}
	if _, err := q.receive(t.Context(), 1, nil, nil, nil); !wire.IsCode(err, "OverLimit") {
		t.Errorf("error = %v, want OverLimit", err)
	}
	if err := q.delete(q.receipt(&taken[0])); err != nil {
		t.Fatal(err)
	}
	if taken, err := q.receive(t.Context(), 1, nil, nil, nil); err != nil || len(taken) != 1 {
		t.Errorf("received %d, %v; want the last message", len(taken), err)
	}
}

// TestDeletedWhileVisible deletes messages by handles whose visibility timeout
// is over, from the middle of the ready list.
func TestDeletedWhileVisible(t *testing.T) {
	q := &queue{received: map[string]*message{}, settings: settings{retention: time.Hour}}
	for range 1000 {
		q.add(0, newMessage("m", nil))
	}
	taken, err := q.receive(t.Context(), 1000, nil, nil, nil) // with a visibility timeout of zero
	if err != nil || len(taken) != 1000 {
		t.Fatalf("received %d, %v", len(taken), err)
	}
	for i := 1; i < 1000; i += 2 {
		if err := q.delete(q.receipt(&taken[i])); err != nil {
			t.Fatal(err)
		}
	}
	if q.ready.live != 500 {
		t.Errorf("%d messages visible, want 500", q.ready.live)
	}
	again, err := q.receive(t.Context(), 1000, nil, nil, nil)
	if err != nil || len(again) != 500 {
		t.Errorf("received %d, %v; want 500", len(again), err)
	}
}
