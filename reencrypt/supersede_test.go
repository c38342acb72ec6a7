package reencrypt

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestCompleteJobIsToldAlsoWhenTheAliasMovesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.aws.Close()
		w.put("k", w.a)
		f := &fleet{world: w, engines: []*Engine{w.engine()}}
		e := f.engines[0]
		first, err := e.Start(t.Context(), w.move(time.Now(), w.b, w.a))
		w.must(err)
		w.told.failures = 1000 // nobody can be told
		for range 10 {
			f.handle(1)
		}
		if j, err := e.job(t.Context(), first[0]); err != nil || j.State != StateComplete || len(w.told.completed) > 0 {
			t.Fatalf("job is %s, told %d times, %v", j.State, len(w.told.completed), err)
		}
		_, err = e.Start(t.Context(), w.move(time.Now().Add(time.Second), w.c, w.b))
		w.must(err)
		w.told.failures = 0
		w.must(e.Resume(t.Context(), time.Now()))
		if len(w.told.completed) != 1 || w.told.completed[0].Job != first[0] {
			t.Errorf("told of %+v", w.told.completed)
		}
	})
}
