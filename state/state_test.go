package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	locals3 "github.com/cmkeeper/cmkeeper/internal/localaws/s3"
)

const account = "111122223333"

// bucket is an S3 with one bucket, "state", and a wire that tests can break.
type bucket struct {
	service *locals3.Service
	client  *s3.Client
	// after is called when a request has had its effect and before it is answered;
	// nil does nothing.
	after func(w http.ResponseWriter, r *http.Request)
}

func newBucket(t *testing.T) *bucket {
	t.Helper()
	b := &bucket{service: locals3.New(locals3.Config{Account: account, Region: "us-east-1"})}
	b.client = s3.NewFromConfig(inprocess.Config(b, "us-east-1", "test"), func(o *s3.Options) { o.UsePathStyle = true })
	if _, err := b.client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("state")}); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.service.ServeHTTP(w, r)
	if b.after != nil {
		b.after(w, r)
	}
}

func (b *bucket) store() *Store { return New(b.client, "state", "cmkeeper/", account) }

// loseNextAnswer breaks the connection once, after the next request with the method took effect.
func (b *bucket) loseNextAnswer(method string) {
	var once sync.Once
	b.after = func(_ http.ResponseWriter, r *http.Request) {
		if r.Method == method {
			once.Do(func() { panic(http.ErrAbortHandler) })
		}
	}
}

func (b *bucket) write(t *testing.T, key, body string) {
	t.Helper()
	_, err := b.client.PutObject(t.Context(), &s3.PutObjectInput{
		Bucket: aws.String("state"), Key: aws.String("cmkeeper/" + key), Body: strings.NewReader(body),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bucket) read(t *testing.T, key string) string {
	t.Helper()
	out, err := b.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("state"), Key: aws.String("cmkeeper/" + key)})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(out.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

type counter struct {
	N    int               `json:"n,omitempty"`
	Tags map[string]string `json:"tags,omitempty"`
}

func (*counter) Schema() (string, int) { return "counter", 2 }

func is(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

func TestDocument(t *testing.T) {
	ctx := t.Context()
	b := newBucket(t)
	s := b.store()
	var got counter
	_, err := s.Get(ctx, "c.json", &got)
	is(t, "get what is not there", err, ErrNotFound)
	_, err = s.Put(ctx, "c.json", &counter{N: 1}, `"no such etag"`)
	is(t, "replace what is not there", err, ErrConflict)

	first, err := s.Put(ctx, "c.json", &counter{N: 1}, "")
	is(t, "create", err, nil)
	_, err = s.Put(ctx, "c.json", &counter{N: 2}, "")
	is(t, "create what is there", err, ErrConflict)
	etag, err := s.Get(ctx, "c.json", &got)
	is(t, "get", err, nil)
	if etag != first || got.N != 1 {
		t.Errorf("got %+v with ETag %s, want n 1 with %s", got, etag, first)
	}
	second, err := s.Put(ctx, "c.json", &counter{N: 1}, first)
	is(t, "replace", err, nil)
	if second == first {
		t.Error("the same content, written again, has the same ETag")
	}
	_, err = s.Put(ctx, "c.json", &counter{N: 3}, first)
	is(t, "replace what has been replaced", err, ErrConflict)

	is(t, "delete what has been replaced", s.Delete(ctx, "c.json", first), ErrConflict)
	is(t, "delete", s.Delete(ctx, "c.json", second), nil)
	is(t, "delete what is gone", s.Delete(ctx, "c.json", second), nil)
	is(t, "delete whatever there is", s.Delete(ctx, "c.json", ""), nil)
	_, err = s.Get(ctx, "c.json", &got)
	is(t, "get what was deleted", err, ErrNotFound)
}

func TestStoredForm(t *testing.T) {
	b := newBucket(t)
	for name, doc := range map[string]*counter{"empty": {}, "full": {N: 7, Tags: map[string]string{"a": "ü"}}} {
		if _, err := b.store().Put(t.Context(), name, doc, ""); err != nil {
			t.Fatal(err)
		}
		body := b.read(t, name)
		if !strings.HasPrefix(body, `{"schema":"cmkeeper.counter.v2","write":"`) || !json.Valid([]byte(body)) {
			t.Errorf("%s is stored as %s", name, body)
		}
		var got counter
		if _, err := b.store().Get(t.Context(), name, &got); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(*doc, got); diff != "" {
			t.Errorf("%s (-put +got):\n%s", name, diff)
		}
	}
}

func TestGetRefuses(t *testing.T) {
	b := newBucket(t)
	for _, tt := range []struct {
		name, body string
		want       error
		text       string
	}{
		{"empty", ``, nil, "unexpected end"},
		{"truncated", `{"schema":"cmkeeper.counter.v1","n":`, nil, "unexpected end"},
		{"no schema", `{"n":1}`, nil, `schema is "", not "cmkeeper.counter.v2"`},
		{"other kind", `{"schema":"cmkeeper.alias.v1"}`, nil, `schema is "cmkeeper.alias.v1"`},
		{"other kind with our prefix", `{"schema":"cmkeeper.counter.very.v1"}`, nil, `schema is`},
		{"version zero", `{"schema":"cmkeeper.counter.v0"}`, nil, `schema is`},
		{"wrong type", `{"schema":"cmkeeper.counter.v2","n":"one"}`, nil, "cannot unmarshal"},
		{"newer", `{"schema":"cmkeeper.counter.v3","n":"may be anything"}`, ErrNewerSchema, `"cmkeeper.counter.v3"`},
	} {
		b.write(t, "doc", tt.body)
		var got counter
		_, err := b.store().Get(t.Context(), "doc", &got)
		if err == nil || !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), "s3://state/cmkeeper/doc") {
			t.Errorf("%s: got %v, want the document's address and %q", tt.name, err, tt.text)
		}
		if tt.want != nil {
			is(t, tt.name, err, tt.want)
		}
		if got.N != 0 {
			t.Errorf("%s: decoded %+v", tt.name, got)
		}
	}
	b.write(t, "doc", `{"schema":"cmkeeper.counter.v1","n":4}`)
	var got counter
	if _, err := b.store().Get(t.Context(), "doc", &got); err != nil || got.N != 4 {
		t.Errorf("an older version: got %+v, %v", got, err)
	}
}

func TestNewerSchemaIsNeverRewritten(t *testing.T) {
	b := newBucket(t)
	const newer = `{"schema":"cmkeeper.counter.v3","n":9,"more":true}`
	b.write(t, "doc", newer)
	err := Update(t.Context(), b.store(), "doc", func(*counter, bool) error {
		t.Error("change was called")
		return nil
	})
	is(t, "update", err, ErrNewerSchema)
	_, err = b.store().Put(t.Context(), "doc", &counter{}, "")
	is(t, "create", err, ErrConflict)
	if got := b.read(t, "doc"); got != newer {
		t.Errorf("the document is now %s", got)
	}
}

func TestMissingBucketIsNotAMissingDocument(t *testing.T) {
	s := New(newBucket(t).client, "elsewhere", "", "")
	_, err := s.Get(t.Context(), "doc", &counter{})
	if err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	if _, err = s.Put(t.Context(), "doc", &counter{}, `"x"`); err == nil || errors.Is(err, ErrConflict) {
		t.Errorf("put: %v", err)
	}
	if err = s.Delete(t.Context(), "doc", ""); err == nil {
		t.Error("delete: no error")
	}
}

func TestEveryCallNamesTheOwner(t *testing.T) {
	b := newBucket(t)
	if _, err := b.store().Put(t.Context(), "doc", &counter{}, ""); err != nil {
		t.Fatal(err)
	}
	s := New(b.client, "state", "cmkeeper/", "444455556666")
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"Get":            func() error { _, err := s.Get(ctx, "doc", &counter{}); return err },
		"Put":            func() error { _, err := s.Put(ctx, "new", &counter{}, ""); return err },
		"Delete":         func() error { return s.Delete(ctx, "doc", "") },
		"Keys":           func() error { return each(s.Keys(ctx, "")) },
		"Folders":        func() error { return each(s.Folders(ctx, "")) },
		"GetBlob":        func() error { _, err := s.GetBlob(ctx, "doc"); return err },
		"PutBlob":        func() error { _, err := s.PutBlob(ctx, "doc", "", strings.NewReader("")); return err },
		"PutBlob, large": func() error { _, err := s.PutBlob(ctx, "doc", "", zeros(partSize+1)); return err },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "AccessDenied") {
			t.Errorf("%s on a bucket of another account: %v", name, err)
		}
	}
}

func each(keys func(func(string, error) bool)) (err error) {
	for _, err = range keys {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestLostAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		b := newBucket(t)
		s := b.store()

		b.loseNextAnswer(http.MethodPut)
		etag, err := s.Put(ctx, "doc", &counter{N: 1}, "")
		is(t, "create, answer lost", err, nil)
		b.loseNextAnswer(http.MethodPut)
		etag, err = s.Put(ctx, "doc", &counter{N: 2}, etag)
		is(t, "replace, answer lost", err, nil)

		b.loseNextAnswer(http.MethodPut)
		is(t, "update, answer lost", Update(ctx, s, "doc", func(c *counter, _ bool) error { c.N++; return nil }), nil)
		var got counter
		now, err := s.Get(ctx, "doc", &got)
		if err != nil || got.N != 3 || now == etag {
			t.Errorf("got %+v, %v: want it updated once", got, err)
		}
		b.loseNextAnswer(http.MethodDelete)
		is(t, "delete, answer lost", s.Delete(ctx, "doc", now), nil)
	})
}

func TestLostAnswerOfAReplacedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t)
		b.after = func(http.ResponseWriter, *http.Request) {
			b.after = nil
			b.write(t, "doc", `{"schema":"cmkeeper.counter.v2","write":"other","n":5}`)
			panic(http.ErrAbortHandler)
		}
		_, err := b.store().Put(t.Context(), "doc", &counter{N: 1}, "")
		is(t, "create, answer lost, replaced", err, ErrConflict)
	})
}

func TestUpdate(t *testing.T) {
	ctx := t.Context()
	b := newBucket(t)
	s := b.store()
	add := func(c *counter, exists bool) error {
		if exists != (c.N > 0) {
			t.Errorf("exists=%t with %+v", exists, c)
		}
		c.N++
		return nil
	}
	is(t, "create", Update(ctx, s, "doc", add), nil)
	is(t, "change", Update(ctx, s, "doc", add), nil)
	before := b.read(t, "doc")
	is(t, "unchanged", Update(ctx, s, "doc", func(c *counter, _ bool) error { c.N = 99; return ErrUnchanged }), nil)
	if after := b.read(t, "doc"); after != before {
		t.Errorf("unchanged, but %s became %s", before, after)
	}
	broken := errors.New("broken")
	is(t, "failed", Update(ctx, s, "doc", func(*counter, bool) error { return broken }), broken)
	var got counter
	if _, err := s.Get(ctx, "doc", &got); err != nil || got.N != 2 {
		t.Errorf("got %+v, %v, want n 2", got, err)
	}
}

func TestUpdateRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBucket(t).store()
		const writers, times = 20, 5
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for range times {
					if err := Update(t.Context(), s, "doc", func(c *counter, _ bool) error { c.N++; return nil }); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		var got counter
		if _, err := s.Get(t.Context(), "doc", &got); err != nil || got.N != writers*times {
			t.Errorf("got %+v, %v, want n %d", got, err, writers*times)
		}
	})
}

func TestUpdateGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t)
		s := b.store()
		n := 0
		overtaken := func(c *counter, _ bool) error {
			n++
			c.N = -n
			b.write(t, "doc", fmt.Sprintf(`{"schema":"cmkeeper.counter.v2","n":%d}`, n))
			return nil
		}
		is(t, "always overtaken", Update(t.Context(), s, "doc", overtaken), ErrConflict)
		if n != updateAttempts {
			t.Errorf("%d attempts, want %d", n, updateAttempts)
		}
		stop := errors.New("stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		err := Update(ctx, s, "doc", func(c *counter, _ bool) error {
			time.AfterFunc(time.Microsecond, func() { cancel(stop) }) // while it waits: in a bubble requests take no time
			return overtaken(c, true)
		})
		is(t, "stopped", err, stop)
	})
}

// shortPages is an S3 that lists three objects at a time, where others list 1,000.
type shortPages struct{ S3 }

func (p shortPages) ListObjectsV2(ctx context.Context, in *s3.ListObjectsV2Input, options ...func(*s3.Options)) (*s3.ListObjectsV2Output, error) {
	in.MaxKeys = aws.Int32(3)
	return p.S3.ListObjectsV2(ctx, in, options...)
}

func TestKeys(t *testing.T) {
	ctx := t.Context()
	b := newBucket(t)
	s := New(shortPages{b.client}, "state", "cmkeeper/", account)
	var want []string
	for i := range 10 {
		key := fmt.Sprintf("jobs/j/slices/%05d.json", i)
		b.write(t, key, "{}")
		want = append(want, key)
	}
	b.write(t, "jobs/k.json", "{}")
	var got []string
	for key, err := range s.Keys(ctx, "jobs/j/") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, key)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %d keys, want %d in order", len(got), len(want))
	}
	for key := range s.Keys(ctx, "jobs/") {
		if key != want[0] {
			t.Errorf("the first is %s", key)
		}
		break
	}
	for key, err := range s.Keys(ctx, "none/") {
		t.Errorf("nothing there, but got %q, %v", key, err)
	}

	b.write(t, "jobs/a/x.json", "{}")
	var folders []string
	for folder, err := range s.Folders(ctx, "jobs/") {
		if err != nil {
			t.Fatal(err)
		}
		folders = append(folders, folder)
	}
	if want := []string{"a", "j"}; !slices.Equal(folders, want) {
		t.Errorf("folders %q, want %q", folders, want)
	}
}

// A listing shows each document with the ETag that reading, writing and a draft of it show.
func TestListShowsETags(t *testing.T) {
	ctx := t.Context()
	s := newBucket(t).store()
	want := map[string]string{}
	for _, key := range []string{"k/a.json", "k/b.json"} {
		etag, err := s.Put(ctx, key, &counter{N: 1}, "")
		is(t, "create", err, nil)
		want[key] = etag
	}
	d, err := Open[counter](ctx, s, "k/b.json")
	is(t, "open", err, nil)
	is(t, "update", d.Update(ctx, func(c *counter) { c.N++ }), nil)
	if d.ETag() == want["k/b.json"] {
		t.Error("the draft shows the ETag from before its update")
	}
	want["k/b.json"] = d.ETag()
	got := map[string]string{}
	for o, err := range s.List(ctx, "k/") {
		is(t, "list", err, nil)
		got[o.Key] = o.ETag
		read, err := s.Get(ctx, o.Key, new(counter))
		if is(t, "get", err, nil); read != o.ETag {
			t.Errorf("%s is listed with %s, and read with %s", o.Key, o.ETag, read)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
}

func TestSegment(t *testing.T) {
	for in, want := range map[string]string{
		"":                     "",
		"alias/app-1_x":        "alias.2Fapp-1_x",
		"..":                   ".2E.2E",
		"a.2Fb":                "a.2E2Fb",
		"ü +&\n":               ".C3.BC.20.2B.26.0A",
		"my.bucket":            "my.2Ebucket",
		"UPPER and lower case": "UPPER.20and.20lower.20case",
	} {
		if got := Segment(in); got != want {
			t.Errorf("Segment(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzSegment(f *testing.F) {
	f.Add("alias/a")
	f.Add("a.2Fb/..")
	f.Fuzz(func(t *testing.T, s string) {
		seg := Segment(s)
		if strings.Trim(seg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
			t.Errorf("Segment(%q) = %q", s, seg)
		}
		// It can be read back, so no two texts share one.
		var back []byte
		for i := 0; i < len(seg); i++ {
			c := seg[i]
			if c == '.' {
				if _, err := fmt.Sscanf(seg[i+1:i+3], "%02X", &c); err != nil {
					t.Fatal(err)
				}
				i += 2
			}
			back = append(back, c)
		}
		if string(back) != s {
			t.Errorf("Segment(%q) = %q reads back as %q", s, seg, back)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"schema":"cmkeeper.counter.v2","write":"x","n":1,"tags":{"a":"b"}}`))
	f.Add([]byte(`{"schema":"cmkeeper.counter.v3"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var doc counter
		if decode(body, &doc) != nil {
			return
		}
		again, err := encode(&doc, "token")
		if err != nil {
			t.Fatal(err)
		}
		var back counter
		if err := decode(again, &back); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if doc.N != back.N || len(doc.Tags) != len(back.Tags) {
			t.Errorf("%s became %s", body, again)
		}
	})
}

// What cannot be read does not end the sequence, and what cannot be reached does.
func TestDocuments(t *testing.T) {
	b := newBucket(t)
	s := b.store()
	for key, body := range map[string]string{
		"d/0": "", "d/1": `{"schema":"cmkeeper.counter.v2"}`, "d/2": `{"schema":"cmkeeper.counter.v3"}`, "d/3": `{"schema":"cmkeeper.alias.v1"}`,
		"d/4": `{"schema":"cmkeeper.counter.v1","n":`, "d/5": `{"schema":"cmkeeper.counter.v1"}`, "e/1": `{"schema":"cmkeeper.counter.v1"}`,
	} {
		if _, err := b.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("state"), Key: aws.String("cmkeeper/" + key), Body: strings.NewReader(body)}); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, err := range Documents[counter](t.Context(), s, "d/") {
		switch {
		case err == nil:
			got = append(got, "read")
		case errors.Is(err, ErrUnreadable) && strings.Contains(err.Error(), "s3://state/cmkeeper/d/"):
			got = append(got, fmt.Sprint("unreadable, newer: ", errors.Is(err, ErrNewerSchema)))
		default:
			t.Fatal(err)
		}
	}
	want := []string{"unreadable, newer: false", "read", "unreadable, newer: true", "unreadable, newer: false", "unreadable, newer: false", "read"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("documents (-want +got):\n%s", diff)
	}
	n := 0
	for _, err := range Documents[counter](t.Context(), New(b.client, "elsewhere", "", ""), "d/") {
		if n++; err == nil || errors.Is(err, ErrUnreadable) {
			t.Errorf("a bucket that is not there: %v", err)
		}
	}
	if n != 1 {
		t.Errorf("%d errors of a bucket that is not there", n)
	}
}
