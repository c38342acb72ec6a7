package outcome_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cmkeeper/cmkeeper/outcome"
)

func TestOf(t *testing.T) {
	boom := errors.New("boom")
	tests := map[string]struct {
		err    error
		action outcome.Action
		after  time.Duration
	}{
		"nil is done":                       {nil, outcome.Delete, 0},
		"an error is retried":               {boom, outcome.Retry, 0},
		"a rejection":                       {outcome.Reject(boom), outcome.DeadLetter, 0},
		"a wrapped rejection":               {fmt.Errorf("parse: %w", outcome.Reject(boom)), outcome.DeadLetter, 0},
		"a wait":                            {outcome.RetryAfter(time.Minute, boom), outcome.Delay, time.Minute},
		"a wait is a second at least":       {outcome.RetryAfter(0, boom), outcome.Delay, time.Second},
		"a wait is what SQS allows":         {outcome.RetryAfter(time.Hour, boom), outcome.Delay, outcome.MaxDelay},
		"the outermost mark counts: wait":   {outcome.RetryAfter(time.Minute, outcome.Reject(boom)), outcome.Delay, time.Minute},
		"the outermost mark counts: reject": {outcome.Reject(outcome.RetryAfter(time.Minute, boom)), outcome.DeadLetter, 0},
		"joined: a wait is honoured":        {errors.Join(boom, outcome.RetryAfter(time.Minute, boom)), outcome.Delay, time.Minute},
		"joined: the shortest wait counts":  {errors.Join(outcome.RetryAfter(time.Minute, boom), fmt.Errorf("x: %w", errors.Join(boom, outcome.RetryAfter(2*time.Second, boom)))), outcome.Delay, 2 * time.Second},
		"joined: a wait that was rejected":  {errors.Join(outcome.Reject(outcome.RetryAfter(time.Second, boom)), boom), outcome.Retry, 0},
		"joined: a rejection is not":        {errors.Join(boom, outcome.Reject(boom)), outcome.Retry, 0},
		"marking nil stays nil":             {errors.Join(outcome.Reject(nil), outcome.RetryAfter(1, nil)), outcome.Delete, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := outcome.Of(tt.err)
			if d.Action != tt.action || d.After != tt.after {
				t.Errorf("Of(%v) = %v after %v, want %v after %v", tt.err, d.Action, d.After, tt.action, tt.after)
			}
			if (d.Err == nil) != (tt.err == nil) || !errors.Is(d.Err, tt.err) {
				t.Errorf("Of(%v).Err = %v", tt.err, d.Err)
			}
		})
	}
}

func TestMarksKeepTheCause(t *testing.T) {
	boom := errors.New("boom")
	for _, err := range []error{outcome.Reject(boom), outcome.RetryAfter(time.Second, boom)} {
		if !errors.Is(err, boom) {
			t.Errorf("%v does not wrap its cause", err)
		}
	}
}

func TestBackoffGrowsAndIsBounded(t *testing.T) {
	want := []time.Duration{2, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900}
	for n, seconds := range want {
		longest := seconds * time.Second
		for range 100 {
			if d := outcome.Backoff(n); d > longest || d < longest*4/5 {
				t.Fatalf("Backoff(%d) = %v, want within a fifth below %v", n, d, longest)
			}
		}
	}
	if d := outcome.Backoff(1 << 40); d > 15*time.Minute || d < 12*time.Minute {
		t.Errorf("Backoff of a huge count = %v", d)
	}
}
