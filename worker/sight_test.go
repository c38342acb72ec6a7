package worker

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

func TestBlind(t *testing.T) {
	const after = 3 * time.Minute
	began := time.Date(2026, 5, 6, 7, 0, 0, 0, time.UTC)
	at := began.Add
	refused := errors.New("KMS.DisabledException")
	for _, tt := range []struct {
		name  string
		sight Sight
		now   time.Duration
		want  Cause
		says  string
	}{
		{"not begun", Sight{}, time.Hour, Sees, ""},
		{"idle", Sight{Received: at(time.Hour - 20*time.Second)}, time.Hour, Sees, ""},
		{"just begun", Sight{Err: refused}, after - time.Second, Sees, ""},
		{"never received", Sight{Err: refused}, after, CannotReceive, "KMS.DisabledException"},
		{"refused", Sight{Received: at(time.Hour - after), Err: refused}, time.Hour, CannotReceive, "3m0s"},
		{"a receive failed", Sight{Received: at(time.Hour - time.Minute), Err: refused}, time.Hour, Sees, ""},
		{"no slot", Sight{Received: at(time.Hour - after), InFlight: 40}, time.Hour, NoSlot, "all 40 slots"},
		{"all slots, and polls go on", Sight{Received: at(time.Hour - time.Second), InFlight: 40}, time.Hour, Sees, ""},
		{"no memory", Sight{Received: at(time.Hour - after), InFlight: 3}, time.Hour, NoSlot, "3 messages"},
		{"behind", Sight{Received: at(time.Hour), Late: at(time.Hour - time.Second), Waited: 10 * time.Minute}, time.Hour, Behind, "10m0s"},
		{"caught up", Sight{Received: at(time.Hour), Late: at(time.Hour - time.Minute), Waited: 10 * time.Minute}, time.Hour, Sees, ""},
		{"behind at the start", Sight{Received: at(time.Minute), Late: at(time.Minute), Waited: time.Hour}, time.Minute, Sees, ""},
	} {
		if s := tt.sight; tt.name != "not begun" {
			s.Began, s.Slots = began, 40
			tt.sight = s
		}
		cause, why, due := tt.sight.Blind(at(tt.now), after)
		if cause != tt.want || !strings.Contains(why, tt.says) || (cause == Sees) != (why == "") {
			t.Errorf("%s: %q %q, want %q with %q", tt.name, cause, why, tt.want, tt.says)
		}
		if due.Before(at(tt.now)) {
			t.Errorf("%s: due %s ago", tt.name, at(tt.now).Sub(due))
		}
	}
}

// What the process sent itself, or received before, says nothing about the queue.
func TestLateMessages(t *testing.T) {
	self, old := "AROAKEEPER:task-1", time.Now().Add(-time.Hour)
	message := func(change func(*delivery)) *delivery {
		d := &delivery{Message: Message{Sent: old, ReceiveCount: 1, Sender: "AROAEVENTS:x"}, raw: &types.Message{}}
		change(d)
		return d
	}
	for name, tt := range map[string]struct {
		d    *delivery
		late bool
	}{
		"an event":               {message(func(*delivery) {}), true},
		"a fresh event":          {message(func(d *delivery) { d.Sent = time.Now() }), false},
		"received before":        {message(func(d *delivery) { d.ReceiveCount = 2 }), false},
		"sent by another worker": {message(func(d *delivery) { d.Sender = "AROAKEEPER:task-2" }), false},
		"a copy": {message(func(d *delivery) {
			d.raw.MessageAttributes = map[string]types.MessageAttributeValue{AttributeFirstSent: {StringValue: aws.String("1")}}
		}), false},
		"of unknown age": {message(func(d *delivery) { d.Sent = time.Time{} }), false},
	} {
		var w watch
		w.failed(errors.New("refused"))
		w.received(time.Now(), []*delivery{tt.d}, self, 3*time.Minute)
		if got := !w.Late.IsZero(); got != tt.late || w.Received.IsZero() || w.Err != nil {
			t.Errorf("%s: late %t, %+v", name, got, w.Sight)
		}
	}
}

func TestSightKnowsTheOldestMessage(t *testing.T) {
	t.Parallel()
	p := &Pool{inFlight: newInFlight(), options: Options{Concurrency: 3}}
	if s := p.Sight(); !s.Oldest.IsZero() || s.InFlight != 0 || s.Slots != 3 {
		t.Errorf("with nothing in flight: %+v", s)
	}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	oldest := &delivery{Message: Message{Sent: at}}
	p.inFlight.add([]*delivery{{Message: Message{Sent: at.Add(time.Hour)}}, oldest, {}})
	if s := p.Sight(); !s.Oldest.Equal(at) || s.InFlight != 3 {
		t.Errorf("with three in flight: %+v", s)
	}
	p.inFlight.remove(oldest, true)
	if s := p.Sight(); !s.Oldest.Equal(at.Add(time.Hour)) {
		t.Errorf("after the oldest: %+v", s)
	}
}
