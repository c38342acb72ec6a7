package reaction

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

const testAccount, testRegion = "444455556666", "us-east-1"

// lab is an account with one key, and an Env whose requests it sees and can break.
type lab struct {
	t   *testing.T
	ctx context.Context
	aws *localaws.Server
	key string      // its ARN
	kms *kms.Client // of somebody else
	*Env
	elsewhere *state.Store // of another worker

	mu sync.Mutex
	// log is what happened, in order: the requests that change something or were asked to be
	// shown, what reactions noted, and what was published.
	log   []string
	count map[string]int // of requests, by operation
	// before is called with each request of the Env; what it returns is answered instead
	// of the request's effect, 0 for none.
	before func(operation string, r *http.Request) (status int)
	// broken are the alerts that cannot be published, by their title.
	broken map[string]error
	told   []alert.Alert
}

// inLab runs a test in a bubble, so that waits cost no time.
func inLab(t *testing.T, test func(*lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &lab{t: t, ctx: t.Context(), count: map[string]int{}, broken: map[string]error{}}
		l.aws = localaws.New(localaws.Options{Account: testAccount, Region: testRegion})
		defer l.aws.Close()
		other := inprocess.Config(l.aws, testRegion, "OTHER")
		l.kms = kms.NewFromConfig(other)
		buckets := s3.NewFromConfig(other, func(o *s3.Options) { o.UsePathStyle = true })
		if _, err := buckets.CreateBucket(l.ctx, &s3.CreateBucketInput{Bucket: aws.String("state")}); err != nil {
			t.Fatal(err)
		}
		l.elsewhere = state.New(buckets, "state", "", testAccount)
		made, err := l.kms.CreateKey(l.ctx, &kms.CreateKeyInput{})
		if err != nil {
			t.Fatal(err)
		}
		l.key = *made.KeyMetadata.Arn
		mine := inprocess.Config(l, testRegion, "MINE")
		mine.RetryMaxAttempts = 1
		keys, store := kms.NewFromConfig(mine), s3.NewFromConfig(mine, func(o *s3.Options) { o.UsePathStyle = true })
		l.Env, err = NewEnv(Deps{
			KMS: keys, Facts: inventory.New(keys, store, testAccount, testRegion), State: state.New(store, "state", "", testAccount), Alerts: l,
		}, Config{Identity: Identity{Account: testAccount, Name: "cmkeeper", Role: true}, Region: testRegion, StateBucket: "state"})
		if err != nil {
			t.Fatal(err)
		}
		test(l)
	})
}

// operation names a request: "DescribeKey", "PUT keys/x.json".
func operation(r *http.Request) string {
	if _, name, ok := strings.Cut(r.Header.Get("X-Amz-Target"), "."); ok {
		return name
	}
	return r.Method + " " + strings.TrimPrefix(r.URL.Path, "/state/")
}

// ServeHTTP is the account as the Env sees it.
func (l *lab) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op := operation(r)
	l.mu.Lock()
	l.count[op]++
	before := l.before
	l.mu.Unlock()
	if r.Method == http.MethodPut {
		l.note(op)
	}
	if before != nil {
		switch status := before(op, r); {
		case status >= 400 && r.Header.Get("X-Amz-Target") != "":
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"__type":"AccessDeniedException","message":"no"}`)
			return
		case status >= 400:
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `<Error><Code>AccessDenied</Code><Message>no</Message></Error>`)
			return
		}
	}
	l.aws.ServeHTTP(w, r)
}

// answers sets before.
func (l *lab) answers(before func(operation string, r *http.Request) (status int)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before = before
}

func (l *lab) note(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log = append(l.log, what)
}

// Publish implements alert.Sink.
func (l *lab) Publish(ctx context.Context, a alert.Alert) error {
	if err := errors.Join(l.broken[a.Title], context.Cause(ctx)); err != nil {
		return err
	}
	l.note("published " + a.Title)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, a)
	return nil
}

// event is an event about the key.
func (l *lab) event() events.Event {
	return events.Event{ID: "e", Kind: events.APICall, Name: "PutKeyPolicy", Source: events.SourceKMS, Time: time.Now().UTC(), KeyARN: l.key, Account: testAccount, Region: testRegion}
}

// doc is the name of the key's document.
func (l *lab) doc() string { return ledger.KeyName(l.key) }

// stored is the key's document as it is stored.
func (l *lab) stored() ledger.Key {
	l.t.Helper()
	var k ledger.Key
	if _, err := l.elsewhere.Get(l.ctx, l.doc(), &k); err != nil && !errors.Is(err, state.ErrNotFound) {
		l.t.Fatal(err)
	}
	return k
}

// marked are the tags of the key's document, by which these tests mark it.
func (l *lab) marked() (names []string) {
	l.t.Helper()
	for _, tag := range l.stored().Tags {
		names = append(names, tag.Name)
	}
	return names
}

// mark marks a key's document. It is safe to apply twice.
func mark(name string) func(*ledger.Key) {
	return func(k *ledger.Key) {
		if !slices.ContainsFunc(k.Tags, func(t ledger.Tag) bool { return t.Name == name }) {
			k.Tags = append(k.Tags, ledger.Tag{Name: name})
		}
	}
}

// another has another worker mark the key's document.
func (l *lab) another(name string) {
	l.t.Helper()
	err := state.Update(l.ctx, l.elsewhere, l.doc(), func(k *ledger.Key, _ bool) error { mark(name)(k); return nil })
	if err != nil {
		l.t.Error(err)
	}
}

// acting is a reaction that notes that it intends something, does it, and tells.
func (l *lab) acting(name string) Reaction {
	return Reaction{Name: name, Decide: func(ctx context.Context, c *Case) (*Decision, error) {
		l.note(name + " decides")
		doc, err := c.Ledger(ctx)
		if err != nil {
			return fails(c, name, err), nil
		}
		mark(name + " intends")(doc)
		return &Decision{
			Act:  func(context.Context) error { l.note(name + " acts"); return nil },
			Tell: l.tells(name),
			Told: Told{Key: mark(name + " told")},
		}, nil
	}}
}

// fails is the decision of a reaction that cannot do what it should.
func fails(c *Case, name string, cause error) *Decision {
	return &Decision{
		Act:  func(context.Context) error { return cause },
		Tell: func() []alert.Alert { return c.Failed(alert.Alert{ID: name, Title: name}, Enforce, "do it", cause) },
	}
}

func (l *lab) tells(titles ...string) func() []alert.Alert {
	return func() (alerts []alert.Alert) {
		for _, title := range titles {
			alerts = append(alerts, alert.Alert{ID: title, Title: title})
		}
		return alerts
	}
}

func (l *lab) same(what string, want, got any) {
	l.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		l.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// TestReact holds the order of everything that React does, and what it costs.
func TestReact(t *testing.T) {
	inLab(t, func(l *lab) {
		if err := l.React(l.ctx, l.NewCase(l.event()), l.acting("a"), Reaction{Name: "idle", Decide: func(context.Context, *Case) (*Decision, error) { return nil, nil }}, l.acting("b")); err != nil {
			t.Error(err)
		}
		put := "PUT " + l.doc()
		l.same("what was done", []string{"a decides", "b decides", put, "a acts", "b acts", "published a", "published b", put}, l.log)
		l.same("what is stored", []string{"a intends", "b intends", "a told", "b told"}, l.marked())
		l.same("requests", map[string]int{"GET " + l.doc(): 1, put: 2}, l.count)
	})
}

// TestFactsAreReadOnce: everybody decides on the same facts, whatever happens to the key
// meanwhile and however many ask at the same time.
func TestFactsAreReadOnce(t *testing.T) {
	inLab(t, func(l *lab) {
		var seen []string
		var mu sync.Mutex
		look := func(ctx context.Context, c *Case) {
			key, err := c.Key(ctx)
			policy, errPolicy := c.Policy(ctx)
			rotation, errRotation := c.Rotation(ctx)
			if err := errors.Join(err, errPolicy, errRotation); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprintf("%s %t %t", key.State, policy != "", rotation.Enabled))
		}
		looking := Reaction{Name: "r", Decide: func(ctx context.Context, c *Case) (*Decision, error) {
			look(ctx, c)
			if _, err := l.kms.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &l.key}); err != nil {
				t.Error(err)
			}
			return &Decision{Gather: func(ctx context.Context) {
				var wg sync.WaitGroup
				for range 20 {
					wg.Go(func() { look(ctx, c); c.Dependents(ctx, c.KeyRead()) })
				}
				wg.Wait()
			}}, nil
		}}
		if err := l.React(l.ctx, l.NewCase(l.event()), looking, looking, looking); err != nil {
			t.Error(err)
		}
		slices.Sort(seen)
		if seen = slices.Compact(seen); !slices.Equal(seen, []string{"Enabled true false"}) {
			t.Errorf("they saw %q", seen)
		}
		for _, op := range []string{"DescribeKey", "GetKeyPolicy", "GetKeyRotationStatus", "ListAliases", "ListGrants", "GetKeyLastUsage"} {
			if l.count[op] != 1 {
				t.Errorf("%s was called %d times", op, l.count[op])
			}
		}
	})
}

// TestReactConflict: where another worker was faster, all decide again before anybody
// acts, on the document as it is now and on the same live facts.
func TestReactConflict(t *testing.T) {
	inLab(t, func(l *lab) {
		once := sync.OnceFunc(func() { l.another("other") })
		l.answers(func(_ string, r *http.Request) int {
			if r.Method == http.MethodPut {
				once()
			}
			return 0
		})
		var saw []string
		sees := Reaction{Name: "sees", Decide: func(ctx context.Context, c *Case) (*Decision, error) {
			doc, err := c.Ledger(ctx)
			if err != nil {
				return nil, err
			}
			if _, err := c.Key(ctx); err != nil {
				return nil, err
			}
			var names []string
			for _, tag := range doc.Tags {
				names = append(names, tag.Name)
			}
			saw = append(saw, strings.Join(names, ", "))
			return nil, nil
		}}
		if err := l.React(l.ctx, l.NewCase(l.event()), sees, l.acting("a"), l.acting("b")); err != nil {
			t.Error(err)
		}
		put := "PUT " + l.doc()
		l.same("what was done", []string{
			"a decides", "b decides", put, "a decides", "b decides", put, "a acts", "b acts", "published a", "published b", put,
		}, l.log)
		l.same("what was known", []string{"", "other"}, saw)
		l.same("what is stored", []string{"other", "a intends", "b intends", "a told", "b told"}, l.marked())
		if n := l.count["DescribeKey"]; n != 1 {
			t.Errorf("the key was read %d times", n)
		}
	})
}

// TestReactUnstored: what cannot be stored as intended is not done, and people are
// told that.
func TestReactUnstored(t *testing.T) {
	for name, broken := range map[string]func(l *lab, op string) int{
		"refused":          func(*lab, string) int { return http.StatusForbidden },
		"always overtaken": func(l *lab, op string) int { l.another(fmt.Sprint(l.count[op])); return 0 },
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				put := "PUT " + l.doc()
				l.answers(func(op string, _ *http.Request) int {
					if op == put {
						return broken(l, op)
					}
					return 0
				})
				only := Reaction{Name: "only tells", Decide: func(context.Context, *Case) (*Decision, error) {
					return &Decision{Tell: l.tells("only tells"), Told: Told{Key: mark("lost")}}, nil
				}}
				err := l.React(l.ctx, l.NewCase(l.event()), l.acting("a"), only, l.acting("b"))
				if got := outcome.Of(err).Action; got != outcome.Retry {
					t.Errorf("the message is dealt with by %s: %v", got, err)
				}
				l.log = slices.DeleteFunc(l.log, func(s string) bool { return s == put || strings.HasSuffix(s, " decides") })
				l.same("what was done", []string{"published a", "published only tells", "published b"}, l.log)
				for _, a := range l.told {
					if a.Title != "only tells" && a.Action.Status != alert.StatusFailed {
						t.Errorf("%s is told as %s", a.Title, a.Action.Status)
					}
				}
				if marked := l.marked(); slices.ContainsFunc(marked, func(m string) bool { return len(m) > 3 }) {
					t.Errorf("stored is %q", marked)
				}
			})
		})
	}
}

// TestReactHoldsNobodyUp: a reaction that fails or waits leaves the others their way.
func TestReactHoldsNobodyUp(t *testing.T) {
	broken, slow, unpublished := errors.New("broken"), errors.New("not visible yet"), errors.New("no topic")
	decides := func(name string, d *Decision, err error) func(*lab) Reaction {
		return func(l *lab) Reaction {
			return Reaction{Name: name, Decide: func(context.Context, *Case) (*Decision, error) {
				if d == nil {
					return nil, err
				}
				mine := *d
				mine.Tell, mine.Told.Key = l.tells(name), mark(name)
				return &mine, err
			}}
		}
	}
	acts := func(err error) *Decision { return &Decision{Act: func(context.Context) error { return err }} }
	for _, tt := range []struct {
		name     string
		reaction func(*lab) Reaction
		is       error
		action   outcome.Action
		after    time.Duration
		told     bool // its alert is published
	}{
		{"cannot decide", decides("x", nil, broken), broken, outcome.Retry, 0, false},
		{"cannot decide, and says so", decides("x", &Decision{}, broken), broken, outcome.Retry, 0, true},
		{"cannot act", decides("x", acts(broken), nil), broken, outcome.Retry, 0, true},
		{"waits to decide", decides("x", nil, outcome.RetryAfter(time.Minute, slow)), slow, outcome.Delay, time.Minute, false},
		{"waits after it acted", decides("x", acts(outcome.RetryAfter(time.Minute, slow)), nil), slow, outcome.Delay, time.Minute, true},
		{"rejects", decides("x", nil, outcome.Reject(broken)), broken, outcome.Retry, 0, false}, // the others may still succeed
		{"cannot tell", decides("unpublished", &Decision{}, nil), unpublished, outcome.Retry, 0, false},
	} {
		for _, first := range []bool{true, false} {
			t.Run(fmt.Sprint(tt.name, ", first: ", first), func(t *testing.T) {
				inLab(t, func(l *lab) {
					l.broken["unpublished"] = unpublished
					reactions := []Reaction{tt.reaction(l), l.acting("a"), l.acting("b")}
					if !first {
						reactions = []Reaction{l.acting("a"), l.acting("b"), tt.reaction(l)}
					}
					err := l.React(l.ctx, l.NewCase(l.event()), reactions...)
					got := outcome.Of(err)
					if !errors.Is(err, tt.is) || got.Action != tt.action || got.After != tt.after || !strings.Contains(err.Error(), reactionName(reactions, first)) {
						t.Errorf("it ends with %s after %s: %v", got.Action, got.After, err)
					}
					var titles []string
					for _, a := range l.told {
						titles = append(titles, a.Title)
					}
					want := []string{"a", "b"}
					if tt.told {
						want = append(want, "x")
					}
					slices.Sort(titles)
					l.same("what was published", want, titles)
					l.same("what is stored", []string{"a intends", "b intends", "a told", "b told"}, l.marked())
				})
			})
		}
	}
}

func reactionName(all []Reaction, first bool) string {
	if first {
		return all[0].Name + ": "
	}
	return all[len(all)-1].Name + ": "
}

// TestReactCancelled: what is interrupted between acting and telling is told when the
// message comes back, and is not noted as told.
func TestReactCancelled(t *testing.T) {
	inLab(t, func(l *lab) {
		stopping := errors.New("the worker stops")
		ctx, cancel := context.WithCancelCause(l.ctx)
		c := l.NewCase(l.event())
		stops := Reaction{Name: "stops", Decide: func(context.Context, *Case) (*Decision, error) {
			return &Decision{
				Act:    func(context.Context) error { cancel(stopping); return nil },
				Gather: func(context.Context) { t.Error("it gathers facts") },
				Tell:   func() []alert.Alert { t.Error("it tells"); return nil }, Told: Told{Key: mark("stops")}, Once: "once",
			}, nil
		}}
		err := l.React(ctx, c, l.acting("a"), stops)
		if !errors.Is(err, stopping) || outcome.Of(err).Action != outcome.Retry {
			t.Errorf("it ends with %v", err)
		}
		l.same("what was done", []string{"a decides", "PUT " + l.doc(), "a acts"}, l.log)
		l.same("what is stored", []string{"a intends"}, l.marked())
		if c.ToldThisHour("once") {
			t.Error("an alert is remembered that was not published")
		}
		l.log = nil
		if err := l.React(l.ctx, l.NewCase(l.event()), l.acting("a")); err != nil {
			t.Error(err)
		}
		l.same("what was done when it came back", []string{"a decides", "a acts", "published a", "PUT " + l.doc()}, l.log)
	})
}

// TestTold: what alerts settle is stored after they are published, in one write of each
// document, and keeps what another worker wrote meanwhile.
func TestTold(t *testing.T) {
	inLab(t, func(l *lab) {
		e := l.event()
		e.Alias = "alias/x"
		c := l.NewCase(e)
		tells := func(name string, told Told) Reaction {
			return Reaction{Name: name, Decide: func(ctx context.Context, c *Case) (*Decision, error) {
				_, err := c.Ledger(ctx)
				_, errAlias := c.AliasLedger(ctx)
				_, errBucket := c.BucketLedger(ctx, "b")
				return &Decision{Tell: l.tells(name), Told: told}, errors.Join(err, errAlias, errBucket)
			}}
		}
		l.broken["c"] = errors.New("no topic")
		once := sync.OnceFunc(func() { l.another("other") })
		l.answers(func(op string, _ *http.Request) int {
			if op == "PUT "+l.doc() {
				once()
			}
			return 0
		})
		err := l.React(l.ctx, c,
			tells("a", Told{Key: mark("a"), Alias: func(a *ledger.Alias) { a.ARN = "x" }, Baseline: func(b *ledger.Baseline) {
				b.See(ledger.PolicyVersion{Document: "{}", ReadAs: "cmkeeper"}, true)
			}}),
			tells("b", Told{Key: mark("b"), Bucket: func(b *ledger.Bucket) { b.Denies = true }}),
			tells("c", Told{Key: mark("c"), Alias: func(*ledger.Alias) { t.Error("c is stored as told") }}))
		if err == nil {
			t.Error("no error, and an alert was not published")
		}
		key, alias, bucket, baseline := "PUT "+l.doc(), "PUT "+ledger.AliasName("alias/x"), "PUT "+ledger.BucketName("b"), "PUT "+ledger.BaselineName(l.key)
		if got := l.log[:2]; !slices.Equal(got, []string{"published a", "published b"}) {
			t.Errorf("first of all was %q", got)
		}
		l.same("writes", map[string]int{key: 2, alias: 1, bucket: 1, baseline: 1}, map[string]int{key: l.count[key], alias: l.count[alias], bucket: l.count[bucket], baseline: l.count[baseline]})
		l.same("what is stored", []string{"other", "a", "b"}, l.marked())
		if b, err := ledger.ReadBaseline(l.ctx, l.elsewhere, l.key); err != nil || b.Key != l.key || len(b.Versions) != 1 {
			t.Errorf("recorded is %+v, %v", b, err)
		}
	})
}

// TestToldThisHour remembers what was published, and nothing else.
func TestToldThisHour(t *testing.T) {
	inLab(t, func(l *lab) {
		c := l.NewCase(l.event())
		id := c.OnceAnHour("x")
		react := func(titles ...string) {
			_ = l.React(l.ctx, c, Reaction{Name: "r", Decide: func(context.Context, *Case) (*Decision, error) {
				return &Decision{Tell: l.tells(titles...), Once: id}, nil
			}})
		}
		l.broken["a"] = errors.New("no topic")
		if react("a"); c.ToldThisHour(id) {
			t.Error("an alert that was not published is remembered")
		}
		if react(); c.ToldThisHour(id) {
			t.Error("an alert that nobody made is remembered")
		}
		delete(l.broken, "a")
		if react("a"); !c.ToldThisHour(id) {
			t.Error("an alert that was published is not remembered")
		}
		later := l.event()
		later.Time = later.Time.Add(time.Hour)
		if l.NewCase(later).ToldThisHour(id) {
			t.Error("it is remembered in the hour after")
		}
	})
}

// TestRedecide: a reaction decides again on what another one has done, and again where
// another worker writes meanwhile.
func TestRedecide(t *testing.T) {
	inLab(t, func(l *lab) {
		var saw []string
		closes := Reaction{Name: "closes", Decide: func(context.Context, *Case) (*Decision, error) {
			return &Decision{Act: func(ctx context.Context) error {
				_, err := l.KMS.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &l.key})
				return err
			}}, nil
		}}
		waits := Reaction{Name: "waits", Decide: func(ctx context.Context, c *Case) (*Decision, error) {
			decide := func(ctx context.Context) error {
				key, err := c.Key(ctx)
				if err != nil {
					return err
				}
				doc, err := c.Ledger(ctx)
				if err != nil {
					return err
				}
				saw = append(saw, fmt.Sprint(key.State, len(doc.Tags)))
				mark(key.State)(doc)
				return nil
			}
			return &Decision{Act: func(ctx context.Context) error {
				once := sync.OnceFunc(func() { l.another("other") })
				l.answers(func(op string, _ *http.Request) int {
					if op == "PUT "+l.doc() {
						once()
					}
					return 0
				})
				if _, err := c.KeyAgain(ctx); err != nil {
					return err
				}
				return c.Redecide(ctx, decide)
			}}, decide(ctx)
		}}
		if err := l.React(l.ctx, l.NewCase(l.event()), closes, waits); err != nil {
			t.Error(err)
		}
		l.same("what it saw", []string{"Enabled0", "Disabled1", "Disabled2"}, saw)
		l.same("what is stored", []string{"Enabled", "other", "Disabled"}, l.marked())
		failed := errors.New("cannot decide")
		if err := l.NewCase(l.event()).Redecide(l.ctx, func(context.Context) error { return failed }); !errors.Is(err, failed) {
			t.Errorf("deciding again ends with %v", err)
		}
	})
}

func TestReadAgain(t *testing.T) {
	inLab(t, func(l *lab) {
		err := l.NewCase(l.event()).ReadAgain()
		if got := outcome.Of(err); !errors.Is(err, ErrOutdated) || got.Action != outcome.Delay || got.After != time.Second {
			t.Errorf("an event ends with %v", err)
		}
		if err := l.NewCase(l.SweepEvent("s", time.Now())).ReadAgain(); err != nil {
			t.Errorf("a sweep ends with %v", err)
		}
	})
}

// reads are all facts and documents of a case: each returns whether it is zero.
func reads(c *Case) map[string]func(context.Context) (zero bool, err error) {
	return map[string]func(context.Context) (bool, error){
		"Key":        func(ctx context.Context) (bool, error) { v, err := c.Key(ctx); return v.ARN == "", err },
		"Rotation":   func(ctx context.Context) (bool, error) { v, err := c.Rotation(ctx); return v.Period == 0, err },
		"Policy":     func(ctx context.Context) (bool, error) { v, err := c.Policy(ctx); return v == "", err },
		"Grants":     func(ctx context.Context) (bool, error) { v, err := c.Grants(ctx); return len(v) == 0, err },
		"KeyAliases": func(ctx context.Context) (bool, error) { v, err := c.KeyAliases(ctx); return len(v) == 0, err },
		"Tags":       func(ctx context.Context) (bool, error) { v, err := c.Tags(ctx); return len(v) == 0, err },
		"LastUsage": func(ctx context.Context) (bool, error) {
			v, err := c.LastUsage(ctx)
			return v == inventory.Usage{}, err
		},
		"Approval":     func(ctx context.Context) (bool, error) { v, err := c.Approval(ctx); return v == nil, err },
		"Aliases":      func(ctx context.Context) (bool, error) { v, err := c.Aliases(ctx); return len(v) == 0, err },
		"Buckets":      func(ctx context.Context) (bool, error) { v, err := c.Buckets(ctx); return len(v) == 0, err },
		"Ledger":       func(ctx context.Context) (bool, error) { v, err := c.Ledger(ctx); return v == nil, err },
		"Baseline":     func(ctx context.Context) (bool, error) { v, err := c.Baseline(ctx); return v == nil, err },
		"AliasLedger":  func(ctx context.Context) (bool, error) { v, err := c.AliasLedger(ctx); return v == nil, err },
		"BucketLedger": func(ctx context.Context) (bool, error) { v, err := c.BucketLedger(ctx, "b"); return v == nil, err },
	}
}

// TestFactsThatCannotBeRead stay unknown, however often they are asked for, and are not
// asked for again.
func TestFactsThatCannotBeRead(t *testing.T) {
	inLab(t, func(l *lab) {
		l.answers(func(string, *http.Request) int { return http.StatusForbidden })
		e := l.event()
		e.Alias = "alias/x"
		for name, read := range reads(l.NewCase(e)) {
			requests := func() (n int) {
				for _, more := range l.count {
					n += more
				}
				return n
			}
			before := requests()
			for range 3 {
				if zero, err := read(l.ctx); err == nil || !zero {
					t.Errorf("%s is read as something, or without an error: %v", name, err)
				}
			}
			if n := requests() - before; n != 1 {
				t.Errorf("%s was asked for %d times", name, n)
			}
		}
	})
}

// TestReadCutShort: a read that ran out of time says nothing about the fact.
func TestReadCutShort(t *testing.T) {
	inLab(t, func(l *lab) {
		e := l.event()
		e.Alias = "alias/x"
		c := l.NewCase(e)
		for name, read := range reads(c) {
			l.answers(func(_ string, r *http.Request) int { <-r.Context().Done(); return http.StatusForbidden })
			ctx, cancel := context.WithTimeout(l.ctx, time.Second)
			if _, err := read(ctx); err == nil {
				t.Errorf("%s is known without an answer", name)
			}
			cancel()
			l.answers(nil)
			if _, err := read(l.ctx); err != nil {
				t.Errorf("%s is not read again: %v", name, err)
			}
		}
	})
}

// TestReadAgainThatFails: one reaction could not read back what it did; the next one
// reads for itself.
func TestReadAgainThatFails(t *testing.T) {
	inLab(t, func(l *lab) {
		c := l.NewCase(l.event())
		if _, err := c.Key(l.ctx); err != nil {
			t.Fatal(err)
		}
		l.answers(func(string, *http.Request) int { return http.StatusForbidden })
		if key, err := c.KeyAgain(l.ctx); err == nil || key.ARN != "" {
			t.Errorf("it is read again as %+v, %v", key, err)
		}
		l.answers(nil)
		if key, err := c.Key(l.ctx); err != nil || key.ARN != l.key {
			t.Errorf("it is then read as %+v, %v", key, err)
		}
		if n := l.count["DescribeKey"]; n != 3 {
			t.Errorf("the key was asked for %d times", n)
		}
	})
}

// TestSetKeyAliases: alerts say when the list was read that the aliases are from.
func TestSetKeyAliases(t *testing.T) {
	inLab(t, func(l *lab) {
		whole := l.NewCase(l.SweepEvent("s", time.Now()))
		if _, err := l.kms.CreateAlias(l.ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/x"), TargetKeyId: &l.key}); err != nil {
			t.Fatal(err)
		}
		aliases, err := whole.Aliases(l.ctx)
		if err != nil || len(aliases) != 1 {
			t.Fatalf("aliases %+v, %v", aliases, err)
		}
		read := ledger.Now()
		time.Sleep(time.Minute)
		c := whole.Part(l.event())
		c.SetKeyAliases(aliases)
		got := c.aliasFact(l.ctx)
		l.same("the fact", alert.Fact{Name: "aliases", Source: "KMS ListAliases, " + TimeText(read), Values: []string{"alias/x"}}, got)
		if n := l.count["ListAliases"]; n != 1 {
			t.Errorf("aliases were listed %d times", n)
		}
	})
}

// TestPerform: what became of a call decides what its intent becomes.
func TestPerform(t *testing.T) {
	lost := errors.New("connection reset")
	for _, tt := range []struct {
		name  string
		err   error
		calls int  // that are noted
		done  bool // the repair
		kept  bool
	}{
		{"answered", nil, 1, true, true},
		{"no answer: it may have happened", lost, 1, false, true},
		{"refused", &types.KMSInvalidStateException{}, 0, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				c := l.NewCase(l.event())
				doc, err := c.Ledger(l.ctx)
				if err != nil {
					t.Fatal(err)
				}
				r := ledger.Repair{Reaction: ledger.ReactionDeletion, By: "e", At: c.At}
				doc.Intend(EnableKey, r)
				if err := c.store(l.ctx); err != nil {
					t.Fatal(err)
				}
				l.another("other")
				err = c.Perform(l.ctx, EnableKey, r, func(ctx context.Context) (middleware.Metadata, error) {
					if tt.err != nil {
						return middleware.Metadata{}, tt.err
					}
					out, err := l.KMS.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &l.key})
					if err != nil {
						return middleware.Metadata{}, err
					}
					return out.ResultMetadata, nil
				})
				if !errors.Is(err, tt.err) {
					t.Errorf("it ends with %v", err)
				}
				k := l.stored()
				repair := k.RepairOf(r.Reaction, r.By)
				if len(k.Calls) != tt.calls || (repair != nil) != tt.kept || repair != nil && repair.Done != tt.done {
					t.Errorf("stored are %+v and %+v", k.Calls, repair)
				}
				if tt.done && (!k.Calls[0].Known || len(k.Calls[0].RequestIDs) != 1) {
					t.Errorf("the call is %+v", k.Calls[0])
				}
				l.same("what another worker wrote", []string{"other"}, l.marked())
			})
		})
	}
}

func TestReadBack(t *testing.T) {
	broken, stop := errors.New("broken"), errors.New("stop")
	for _, tt := range []struct {
		name   string
		seenAt int // the poll that sees it
		err    error
		want   error
		action outcome.Action
		polls  int
	}{
		{"at once", 1, nil, nil, outcome.Delete, 1},
		{"at last", readBacks, nil, nil, outcome.Delete, readBacks},
		{"never", readBacks + 1, nil, nil, outcome.Delay, readBacks},
		{"cannot be read", 0, broken, broken, outcome.Retry, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			polls := 0
			err := ReadBack(t.Context(), "it", func(context.Context) (bool, error) { polls++; return polls == tt.seenAt, tt.err })
			if tt.want != nil && !errors.Is(err, tt.want) || outcome.Of(err).Action != tt.action || polls != tt.polls {
				t.Errorf("%s: %d polls, %v", tt.name, polls, err)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		err := ReadBack(ctx, "it", func(context.Context) (bool, error) { cancel(stop); return false, nil })
		if !errors.Is(err, stop) {
			t.Errorf("stopped: %v", err)
		}
	})
}

func TestEach(t *testing.T) {
	broken, stop := errors.New("broken"), errors.New("stop")
	synctest.Test(t, func(t *testing.T) {
		items := make([]int, 3*concurrency)
		for i := range items {
			items[i] = i
		}
		var mu sync.Mutex
		running, most, done := 0, 0, 0
		err := Each(t.Context(), items, func(_ context.Context, i int) error {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			defer mu.Unlock()
			running--
			done++
			if i%2 == 0 {
				return broken
			}
			return nil
		})
		if !errors.Is(err, broken) || strings.Count(err.Error(), "broken") != len(items)/2 || done != len(items) || most != concurrency {
			t.Errorf("%d of %d done, %d at a time: %v", done, len(items), most, err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(stop)
		err = Each(ctx, items, func(context.Context, int) error { t.Error("it goes on"); return nil })
		if !errors.Is(err, stop) {
			t.Errorf("stopped: %v", err)
		}
	})
}

// TestShutOut: what a sweep may not read is one alert, however many reactions can read
// the rest of the key, and another one when it happens again.
func TestShutOut(t *testing.T) {
	inLab(t, func(l *lab) {
		see := Reaction{Name: "see", Decide: func(ctx context.Context, c *Case) (*Decision, error) {
			key, err := c.Key(ctx)
			if err != nil {
				return nil, err
			}
			doc, err := c.Ledger(ctx)
			if err != nil {
				return nil, err
			}
			c.See(doc, key)
			return nil, nil
		}}
		policy := Reaction{Name: "policy", Decide: func(ctx context.Context, c *Case) (*Decision, error) {
			if _, err := c.Policy(ctx); err != nil {
				return c.Unread(ctx, err)
			}
			return nil, nil
		}}
		// sweep sweeps an hour later and returns when the key is stored as shut out, and the alert.
		sweep := func(status int) (since time.Time, id string) {
			time.Sleep(time.Hour)
			l.told = nil
			l.answers(func(op string, _ *http.Request) int {
				if op == "GetKeyPolicy" {
					return status
				}
				return 0
			})
			e := l.SweepEvent("s", ledger.Now())
			e.KeyARN = l.key
			time.Sleep(time.Second)
			if err := l.React(l.ctx, l.NewCase(e), see, policy, see); err != nil {
				t.Error(err)
			}
			for _, a := range l.told {
				id += a.ID
			}
			return l.stored().ShutOut, id
		}
		first, id := sweep(http.StatusForbidden)
		if first.IsZero() || !strings.HasSuffix(id, fmt.Sprint("/", first.Unix())) {
			t.Errorf("it is shut out since %s, and told as %s", first, id)
		}
		if again, sameID := sweep(http.StatusForbidden); !again.Equal(first) || sameID != id {
			t.Errorf("then it is shut out since %s, and told as %s", again, sameID)
		}
		if over, none := sweep(0); !over.IsZero() || none != "" {
			t.Errorf("it can be read again, but is shut out since %s, and told as %s", over, none)
		}
		if later, other := sweep(http.StatusForbidden); !later.After(first) || other == id {
			t.Errorf("it is shut out again since %s, and told as %s", later, other)
		}
	})
}
