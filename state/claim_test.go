package state

import (
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const ttl = time.Minute

func held(t *testing.T, what string, err error) time.Duration {
	t.Helper()
	h, ok := errors.AsType[*HeldError](err)
	if !ok {
		t.Fatalf("%s: got %v, want a HeldError", what, err)
	}
	return h.After
}

func TestClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s := newBucket(t).store()
		first, err := s.Claim(ctx, "c", ttl)
		is(t, "claim", err, nil)

		time.Sleep(ttl / 4)
		_, err = s.Claim(ctx, "c", ttl)
		// S3 keeps whole seconds.
		if left := held(t, "claim again", err); left < ttl*3/4-time.Second || left > ttl*3/4+time.Second {
			t.Errorf("held for another %s", left)
		}
		time.Sleep(ttl)
		second, err := s.Claim(ctx, "c", ttl)
		is(t, "claim what has run out", err, nil)
		is(t, "done, too late", first.Done(ctx), ErrConflict)
		is(t, "release, too late", first.Release(ctx), ErrConflict)

		is(t, "done", second.Done(ctx), nil)
		time.Sleep(100 * ttl)
		_, err = s.Claim(ctx, "c", ttl)
		is(t, "claim what is done", err, ErrDone)
	})
}

func TestClaimRelease(t *testing.T) {
	s := newBucket(t).store()
	c, err := s.Claim(t.Context(), "c", ttl)
	is(t, "claim", err, nil)
	is(t, "release", c.Release(t.Context()), nil)
	isDone := func(want bool) {
		t.Helper()
		got, err := s.IsDone(t.Context(), "c")
		is(t, "ask whether it is done", err, nil)
		if got != want {
			t.Errorf("done: %t, want %t", got, want)
		}
	}
	isDone(false)
	c, err = s.Claim(t.Context(), "c", ttl)
	is(t, "claim what was released", err, nil)
	isDone(false)
	is(t, "done", c.Done(t.Context()), nil)
	isDone(true)
}

func TestClaimRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(t).store()
		for round := range 2 { // the second round takes over what nobody ended
			var won atomic.Int32
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					if _, err := s.Claim(t.Context(), "c", ttl); err == nil {
						won.Add(1)
					} else {
						held(t, "lost", err)
					}
				})
			}
			wg.Wait()
			if won.Load() != 1 {
				t.Errorf("round %d: %d won", round, won.Load())
			}
			time.Sleep(ttl + time.Second)
		}
	})
}

func TestClaimLostAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t)
		s := b.store()
		b.loseNextAnswer(http.MethodPut)
		c, err := s.Claim(t.Context(), "c", ttl)
		is(t, "claim, answer lost", err, nil)
		b.loseNextAnswer(http.MethodPut)
		is(t, "done, answer lost", c.Done(t.Context()), nil)
	})
}

// TestClaimByS3sClock has a server whose clock is an hour ahead of its own
// LastModified: that counts, not the clock here.
func TestClaimByS3sClock(t *testing.T) {
	b := newBucket(t)
	s := b.store()
	_, err := s.Claim(t.Context(), "c", ttl)
	is(t, "claim", err, nil)
	b.after = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
	}
	_, err = s.Claim(t.Context(), "c", ttl)
	is(t, "claim an hour later", err, nil)
}

func TestClaimOfANewerBuild(t *testing.T) {
	b := newBucket(t)
	b.write(t, "c", `{"schema":"cmkeeper.claim.v2"}`)
	_, err := b.store().Claim(t.Context(), "c", ttl)
	is(t, "claim", err, ErrNewerSchema)
}

func TestClaimAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s := newBucket(t).store()
		const again = 24 * time.Hour
		c, err := s.ClaimAgain(ctx, "c", ttl, again)
		is(t, "claim", err, nil)
		is(t, "done", c.Done(ctx), nil)
		time.Sleep(again - 2*time.Second)
		_, err = s.ClaimAgain(ctx, "c", ttl, again)
		is(t, "claim before the day is over", err, ErrDone)
		time.Sleep(3 * time.Second)
		c, err = s.ClaimAgain(ctx, "c", ttl, again)
		is(t, "claim after a day", err, nil)
		_, err = s.ClaimAgain(ctx, "c", ttl, again)
		held(t, "claim what is being done again", err)
		is(t, "done again", c.Done(ctx), nil)
		_, err = s.ClaimAgain(ctx, "c", ttl, again)
		is(t, "claim at once", err, ErrDone)
	})
}

func TestNowIsS3s(t *testing.T) {
	b := newBucket(t)
	s := b.store()
	b.after = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
	}
	_, err := s.Claim(t.Context(), "c", ttl)
	is(t, "claim", err, nil)
	if ahead := time.Until(s.Now()); ahead < 59*time.Minute || ahead > 61*time.Minute {
		t.Errorf("S3's clock is %s ahead, want an hour", ahead)
	}
}

// TestClockOfAnEmptyBucket has the store learn S3's clock from the answer that there is no
// such document: it may be the first that it gets.
func TestClockOfAnEmptyBucket(t *testing.T) {
	b := newBucket(t)
	s := b.store()
	b.after = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
	}
	_, err := s.Get(t.Context(), "c", &claimDocument{})
	is(t, "get", err, ErrNotFound)
	if ahead := time.Until(s.Now()); ahead < time.Hour-2*time.Second || ahead > time.Hour+time.Second {
		t.Errorf("S3's clock is %s ahead, want an hour", ahead)
	}
}
