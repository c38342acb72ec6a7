package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestNobodyWaitsForTheRecordOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var settled []string
		o := &order{room: make(chan struct{}, 9), settle: func(_ context.Context, en entry, _ verdict, _ bool) error {
			if en.key == "0" {
				time.Sleep(time.Minute) // it records the progress
			}
			settled = append(settled, en.key)
			if en.key == "3" {
				return errors.New("the record failed")
			}
			return nil
		}}
		var turns []*turn
		for i := range 6 {
			turn, err := o.next(t.Context(), entry{key: fmt.Sprint(i)})
			if err != nil {
				t.Fatal(err)
			}
			turns = append(turns, turn)
		}
		began := time.Now()
		first := make(chan error)
		go func() { first <- o.done(t.Context(), turns[0], verdict{}) }()
		synctest.Wait()
		for _, i := range []int{2, 1, 3, 4} {
			if err := o.done(t.Context(), turns[i], verdict{}); err != nil || time.Since(began) > 0 {
				t.Errorf("%d took %s, %v", i, time.Since(began), err)
			}
		}
		if err := <-first; err == nil {
			t.Error("the error of a record is lost")
		}
		// What comes behind must not be counted without it.
		if err := o.done(t.Context(), turns[5], verdict{}); err != nil || !slices.Equal(settled, []string{"0", "1", "2", "3"}) {
			t.Errorf("settled %q, %v", settled, err)
		}
	})
}
