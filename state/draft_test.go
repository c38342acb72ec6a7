package state

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// writes counts the writes of documents from now on.
func (b *bucket) writes() *int {
	n := new(int)
	b.after = func(_ http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			*n++
		}
	}
	return n
}

// draft opens the document "doc".
func draft(t *testing.T, s *Store) *Draft[counter, *counter] {
	t.Helper()
	d, err := Open[counter](t.Context(), s, "doc")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// holds reads the document "doc" anew and compares it.
func holds(t *testing.T, s *Store, want counter) {
	t.Helper()
	if diff := cmp.Diff(want, *draft(t, s).Doc()); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

func TestDraft(t *testing.T) {
	ctx := t.Context()
	b := newBucket(t)
	s := b.store()
	n := b.writes()
	wrote := func(what string, want int) {
		t.Helper()
		if *n != want {
			t.Errorf("%s: %d writes, want %d", what, *n, want)
		}
		*n = 0
	}
	d := draft(t, s)
	if diff := cmp.Diff(counter{}, *d.Doc()); diff != "" {
		t.Errorf("what is not there is not zero:\n%s", diff)
	}
	is(t, "save what is not there", d.Save(ctx), nil)
	wrote("nothing was changed", 0)
	_, err := s.Get(ctx, "doc", new(counter))
	is(t, "get", err, ErrNotFound)

	d.Doc().Tags = map[string]string{"a": "b"}
	is(t, "create", d.Save(ctx), nil)
	is(t, "save again", d.Save(ctx), nil)
	wrote("created once", 1)
	d.Doc().N = 2
	is(t, "replace", d.Save(ctx), nil)
	wrote("changed", 1)
	d.Doc().N = 3
	d.Doc().N = 2
	is(t, "save what was changed back", d.Save(ctx), nil)
	wrote("changed back", 0)
	holds(t, s, counter{N: 2, Tags: map[string]string{"a": "b"}})

	d = draft(t, s)
	is(t, "save what was just read", d.Save(ctx), nil)
	d.Doc().Tags["a"] = "c" // in place
	is(t, "save a change in place", d.Save(ctx), nil)
	wrote("changed in place", 1)
	holds(t, s, counter{N: 2, Tags: map[string]string{"a": "c"}})
}

func TestDraftConflict(t *testing.T) {
	ctx := t.Context()
	s := newBucket(t).store()
	mine, theirs := draft(t, s), draft(t, s) // of a document that is not there
	doc := mine.Doc()
	theirs.Doc().N = 1
	is(t, "the first", theirs.Save(ctx), nil)
	doc.N, doc.Tags = 10, map[string]string{"mine": "x"}
	is(t, "the second", mine.Save(ctx), ErrConflict)
	is(t, "the second again", mine.Save(ctx), ErrConflict)
	holds(t, s, counter{N: 1})

	is(t, "reload", mine.Reload(ctx), nil)
	if diff := cmp.Diff(counter{N: 1}, *doc); diff != "" {
		t.Errorf("the working copy after a conflict (-want +got):\n%s", diff)
	}
	doc.N++ // whoever holds the working copy changes the one that is saved
	is(t, "after the reload", mine.Save(ctx), nil)
	holds(t, s, counter{N: 2})

	theirs.Doc().N = 5
	is(t, "the other one is outdated now", theirs.Save(ctx), ErrConflict)
	is(t, "delete", s.Delete(ctx, "doc", ""), nil)
	doc.N = 3
	is(t, "save what was deleted", mine.Save(ctx), ErrConflict)
	is(t, "reload what was deleted", mine.Reload(ctx), nil)
	if doc.N != 0 {
		t.Errorf("what was deleted is %+v", *doc)
	}
}

func TestDraftUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(t).store()
		mine, theirs := draft(t, s), draft(t, s)
		theirs.Doc().N = 1
		is(t, "another writer", theirs.Save(t.Context()), nil)
		calls := 0
		mine.Doc().Tags = map[string]string{"not": "saved"}
		is(t, "update", mine.Update(t.Context(), func(c *counter) { calls++; c.N += 10 }), nil)
		if calls != 2 {
			t.Errorf("the change was made %d times, want once on each document", calls)
		}
		holds(t, s, counter{N: 11})
	})
}

func TestDraftOfANewerBuild(t *testing.T) {
	ctx := t.Context()
	b := newBucket(t)
	s := b.store()
	const newer = `{"schema":"cmkeeper.counter.v3","n":9,"more":true}`
	d := draft(t, s)
	d.Doc().N = 1
	b.write(t, "doc", newer)
	is(t, "save", d.Save(ctx), ErrConflict)
	is(t, "reload", d.Reload(ctx), ErrNewerSchema)
	if d.Doc().N != 1 {
		t.Errorf("the working copy is %+v", *d.Doc())
	}
	is(t, "save after that", d.Save(ctx), ErrConflict)
	is(t, "update", d.Update(ctx, func(c *counter) { c.N++ }), ErrNewerSchema)
	_, err := Open[counter](ctx, s, "doc")
	is(t, "open", err, ErrNewerSchema)
	if got := b.read(t, "doc"); got != newer {
		t.Errorf("the document is now %s", got)
	}
}

// TestDraftOfAnOlderBuild: reading an older version writes nothing.
func TestDraftOfAnOlderBuild(t *testing.T) {
	b := newBucket(t)
	const older = `{"schema":"cmkeeper.counter.v1","n":4,"gone":true}`
	b.write(t, "doc", older)
	d := draft(t, b.store())
	is(t, "save", d.Save(t.Context()), nil)
	if got := b.read(t, "doc"); got != older {
		t.Errorf("the document is now %s", got)
	}
	d.Doc().N++
	is(t, "save a change", d.Save(t.Context()), nil)
	holds(t, b.store(), counter{N: 5})
}

// TestDraftLostAnswer: a draft whose write took effect goes on from there.
func TestDraftLostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t)
		d := draft(t, b.store())
		for n := range 3 {
			b.loseNextAnswer(http.MethodPut)
			d.Doc().N++
			is(t, "save, answer lost", d.Save(t.Context()), nil)
			holds(t, b.store(), counter{N: n + 1})
		}
	})
}

// TestDraftRace has many writers with a draft each, of which each keeps its own.
func TestDraftRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(t).store()
		const writers, times = 12, 4
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				d, err := Open[counter](t.Context(), s, "doc")
				if err != nil {
					t.Error(err)
					return
				}
				for range times {
					if err := d.Update(t.Context(), func(c *counter) { c.N++ }); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		holds(t, s, counter{N: writers * times})
	})
}

// reloads counts, and fails with err.
type reloads struct {
	n   int
	err error
}

func (r *reloads) Reload(context.Context) error { r.n++; return r.err }

func TestRetry(t *testing.T) {
	broken, stop := errors.New("broken"), errors.New("stop")
	conflict := func() error { return errors.Join(errors.New("one of two"), ErrConflict) }
	for _, tt := range []struct {
		name      string
		conflicts int // before the attempt ends with err
		err       error
		reload    error
		want      error
		attempts  int
	}{
		{"at once", 0, nil, nil, nil, 1},
		{"another error", 0, broken, nil, broken, 1},
		{"after conflicts", 3, nil, nil, nil, 4},
		{"another error after conflicts", 3, broken, nil, broken, 4},
		{"the last attempt", updateAttempts - 1, nil, nil, nil, updateAttempts},
		{"too many conflicts", updateAttempts, nil, nil, ErrConflict, updateAttempts},
		{"a document that cannot be read again", 3, nil, broken, broken, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := &reloads{}, &reloads{err: tt.reload}
				n := 0
				err := Retry(t.Context(), func() error {
					if a.n != n || tt.reload == nil && b.n != n {
						t.Errorf("attempt %d follows %d and %d reloads", n+1, a.n, b.n)
					}
					if n++; n <= tt.conflicts {
						return conflict()
					}
					return tt.err
				}, a, b)
				is(t, "retry", err, tt.want)
				if n != tt.attempts {
					t.Errorf("%d attempts, want %d", n, tt.attempts)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Microsecond, func() { cancel(stop) })
		a := &reloads{}
		is(t, "stopped while it waits", Retry(ctx, conflict, a), stop)
		if a.n != 0 {
			t.Error("the document was read again after that")
		}
	})
}

// TestUpdateAgain: after a conflict the change is made on what the other writer
// stored, and not on what the first attempt left.
func TestUpdateAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t)
		s := b.store()
		meanwhile := []func(){
			func() { b.write(t, "doc", `{"schema":"cmkeeper.counter.v2","n":5}`) },
			func() { is(t, "delete", s.Delete(t.Context(), "doc", ""), nil) },
			func() {},
		}
		var seen []string
		is(t, "update", Update(t.Context(), s, "doc", func(c *counter, exists bool) error {
			seen = append(seen, fmt.Sprint(c.N, len(c.Tags), exists))
			c.N++
			c.Tags = map[string]string{"a": "b"}
			meanwhile[0]()
			meanwhile = meanwhile[1:]
			return nil
		}), nil)
		if diff := cmp.Diff([]string{"0 0 false", "5 0 true", "0 0 false"}, seen); diff != "" {
			t.Errorf("the change was given (-want +got):\n%s", diff)
		}
		holds(t, s, counter{N: 1, Tags: map[string]string{"a": "b"}})

		n := b.writes()
		is(t, "update without a change", Update(t.Context(), s, "doc", func(*counter, bool) error { return nil }), nil)
		is(t, "update of nothing", Update(t.Context(), s, "none", func(*counter, bool) error { return nil }), nil)
		if *n != 0 {
			t.Errorf("%d writes, and nothing was changed", *n)
		}
	})
}
