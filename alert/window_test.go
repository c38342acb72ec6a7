package alert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

const (
	groupWait     = 30 * time.Second
	groupInterval = time.Minute
)

// inGroups runs a test in a bubble, in a world whose alerts are grouped.
func inGroups(t *testing.T, test func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		out, err := w.queues.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("events")})
		if err != nil {
			t.Fatal(err)
		}
		w.Grouping = &Grouping{SQS: w.queues, QueueURL: *out.QueueUrl, Wait: groupWait, Interval: groupInterval}
		test(t, w)
	})
}

// publish publishes as a worker does, which waits where it is told to.
func (w *world) publish(t *testing.T, alerts ...Alert) {
	t.Helper()
	for _, a := range alerts {
		for range 10 {
			d := outcome.Of(w.Publish(t.Context(), a))
			if d.Action == outcome.Delete {
				break
			}
			if d.Action != outcome.Delay {
				t.Fatal(d.Err)
			}
			time.Sleep(d.After)
		}
	}
}

// pass lets time pass, and the reminders arrive meanwhile.
func (w *world) pass(t *testing.T, d time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); ; {
		left := time.Until(end).Round(time.Second)
		if left <= 0 {
			return
		}
		out, err := w.queues.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
			QueueUrl: &w.Grouping.QueueURL, WaitTimeSeconds: int32(min(left/time.Second, 20)),
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range out.Messages {
			window, ok := FlushWindow([]byte(*m.Body))
			if !ok {
				t.Fatalf("a message that is no reminder: %s", *m.Body)
			}
			w.flush(t, window)
			if _, err := w.queues.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &w.Grouping.QueueURL, ReceiptHandle: m.ReceiptHandle}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (w *world) flush(t *testing.T, window string) {
	t.Helper()
	for {
		d := outcome.Of(w.Flush(t.Context(), window))
		if d.Action == outcome.Delete {
			return
		}
		if d.Action != outcome.Delay {
			t.Fatal(d.Err)
		}
		time.Sleep(d.After)
	}
}

// told returns the alerts that have arrived.
func (w *world) told(t *testing.T) []Alert {
	t.Helper()
	var all []Alert
	for _, m := range w.received(t, w.queue) {
		var a Alert
		if err := json.Unmarshal([]byte(*m.Body), &a); err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	return all
}

// want fails the test unless alerts with these titles have arrived, in this order.
func (w *world) want(t *testing.T, titles ...string) []Alert {
	t.Helper()
	got := w.told(t)
	var have []string
	for _, a := range got {
		have = append(have, a.Title)
	}
	if !slices.Equal(have, titles) {
		t.Fatalf("told\n  %s\nwant\n  %s", strings.Join(have, "\n  "), strings.Join(titles, "\n  "))
	}
	return got
}

func TestGroupTellsTheFirstAtOnceAndTheRestTogether(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		w.publish(t, call("PutKeyPolicy", finding.High, "a"))
		w.want(t, "PutKeyPolicy on a")
		for _, key := range []string{"b", "c", "d"} {
			w.publish(t, call("PutKeyPolicy", finding.High, key), call("PutKeyPolicy", finding.High, key)) // each comes twice
		}
		w.pass(t, groupInterval)
		w.want(t)
		w.pass(t, windowMargin+2*time.Second)
		d := w.want(t, "PutKeyPolicy on 3 keys by role/Admin")[0]
		if d.Digest == nil || len(d.Digest.Calls) != 3 || d.Digest.Keys != 3 || !strings.HasPrefix(d.Digest.Alerts, "s3://state/cmkeeper/groups/") {
			t.Errorf("digest %+v", d.Digest)
		}
		w.publish(t, call("PutKeyPolicy", finding.High, "b")) // the message comes once more, later
		w.pass(t, 2*groupInterval)
		w.want(t)
	})
}

func TestGroupWaitsForWhatIsBelowHigh(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		w.publish(t, call("RotateKey", finding.Info, "a"))
		w.pass(t, groupWait)
		w.want(t)
		w.pass(t, windowMargin+2*time.Second)
		if a := w.want(t, "RotateKey on a")[0]; a.Digest != nil {
			t.Errorf("a single alert is told as a digest: %+v", a.Digest)
		}
		w.publish(t, call("RotateKey", finding.Info, "b"), call("UpdateAlias", finding.Low, "b"))
		w.pass(t, groupInterval+windowMargin+2*time.Second)
		w.want(t, "2 calls on 1 key: UpdateAlias, RotateKey by role/Admin")
	})
}

func TestGroupsDoNotWaitForEachOther(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		other := call("PutKeyPolicy", finding.High, "b")
		other.Actor.ARN = "arn:aws:iam::111122223333:user/bob"
		job := Alert{ID: "job", Kind: KindReencryption, Severity: finding.Info, Title: "a job is complete"}
		w.publish(t, call("PutKeyPolicy", finding.High, "a"), other, job)
		w.want(t, "PutKeyPolicy on a", "PutKeyPolicy on b", "a job is complete")
	})
}

func TestGroupTellsWhatIsNewOrWorseAtOnce(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		w.publish(t, call("PutKeyPolicy", finding.High, "a"), call("PutKeyPolicy", finding.High, "b"), call("ScheduleKeyDeletion", finding.Critical, "c"), call("PutKeyPolicy", finding.High, "d"))
		w.want(t, "PutKeyPolicy on a", "ScheduleKeyDeletion on c")
		w.pass(t, 2*groupInterval)
		w.want(t, "PutKeyPolicy on 2 keys by role/Admin")
	})
}

// TestDigestReachesWhoWantsOneOfItsCalls has subscriptions that filter.
func TestDigestReachesWhoWantsOneOfItsCalls(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		medium := w.subscribe(t, "medium", map[string]string{"FilterPolicy": `{"severity": ["medium"]}`})
		aliases := w.subscribe(t, "aliases", map[string]string{"FilterPolicy": `{"kind": ["alias"], "event_name": ["UpdateAlias"]}`})
		critical := w.subscribe(t, "critical", map[string]string{"FilterPolicy": `{"severity": ["critical"]}`})
		alias := call("UpdateAlias", finding.Medium, "b")
		alias.Kind = KindAlias
		w.publish(t, call("PutKeyPolicy", finding.High, "a"), alias, call("PutKeyPolicy", finding.High, "c"))
		w.pass(t, 2*groupInterval)
		w.want(t, "PutKeyPolicy on a", "2 calls on 2 keys: PutKeyPolicy, UpdateAlias by role/Admin")
		for queue, want := range map[string]int{medium: 1, aliases: 1, critical: 0} {
			if n := len(w.received(t, queue)); n != want {
				t.Errorf("%s has %d messages, want %d", queue, n, want)
			}
		}
	})
}

func TestGroupsPeriodEnds(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		w.publish(t, call("PutKeyPolicy", finding.High, "a"))
		w.pass(t, 5*time.Minute)
		w.publish(t, call("PutKeyPolicy", finding.High, "b")) // it is not quiet yet
		w.want(t, "PutKeyPolicy on a")
		w.pass(t, 2*groupInterval)
		w.want(t, "PutKeyPolicy on b")
		w.pass(t, quiet+groupInterval)
		w.publish(t, call("PutKeyPolicy", finding.High, "c"))
		w.want(t, "PutKeyPolicy on c")
	})
}

func TestGroupsPeriodIsBounded(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		for i := range 31 { // never quiet
			w.publish(t, call("PutKeyPolicy", finding.High, fmt.Sprint(i)))
			if now := w.told(t); i == 30 && (len(now) == 0 || now[len(now)-1].Title != "PutKeyPolicy on 30") {
				t.Errorf("after an hour it is not told at once: %d messages", len(now))
			}
			w.pass(t, 2*time.Minute)
		}
	})
}

func TestIncident(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		w.publish(t, call("UpdateAlias", finding.Medium, "a"))
		w.pass(t, 2*time.Second)
		w.publish(t, call("DisableKeyRotation", finding.High, "b"))
		w.want(t, "DisableKeyRotation on b")
		w.publish(t, call("ScheduleKeyDeletion", finding.Critical, "c"))
		i := w.want(t, "Incident: 3 calls on 3 keys: ScheduleKeyDeletion, DisableKeyRotation, UpdateAlias by role/Admin")[0]
		if i.Kind != KindIncident || i.Severity != finding.Critical || i.Incident != i.ID || len(i.Digest.Calls) != 3 || i.Key.ARN != call("", finding.High, "c").Key.ARN {
			t.Errorf("incident:\n%s", i.Text())
		}
		for _, want := range []string{"aws iam put-role-policy --role-name Admin ", "aws kms enable-key --key-id a", "aws kms enable-key --key-id c", "lookup-events"} {
			if !strings.Contains(strings.Join(i.Next, "\n"), want) {
				t.Errorf("no %q in\n%s", want, i.Text())
			}
		}

		// What follows joins it, and what is worst at once.
		w.publish(t, call("CreateGrant", finding.High, "d"), call("DisableKey", finding.Critical, "e"), call("DisableKey", finding.Critical, "f"))
		if a := w.want(t, "Incident, continued: DisableKey on e")[0]; a.Incident != i.ID {
			t.Errorf("incident %q", a.Incident)
		}
		w.pass(t, 2*groupInterval)
		if a := w.want(t, "Incident, continued: 2 calls on 2 keys: DisableKey, CreateGrant by role/Admin")[0]; a.Incident != i.ID || a.Digest == nil {
			t.Errorf("the alert UpdateAlias is in the incident, so it is not told again:\n%s", a.Text())
		}
	})
}

func TestDeletionsOfSeveralKeysAreAnIncident(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		for i := range 40 {
			w.publish(t, call("ScheduleKeyDeletion", finding.Critical, fmt.Sprintf("key-%02d", i)))
		}
		w.pass(t, 2*groupInterval)
		got := w.want(t, "ScheduleKeyDeletion on key-00", "Incident: ScheduleKeyDeletion on 3 keys by role/Admin", "Incident, continued: ScheduleKeyDeletion on 37 keys by role/Admin")
		if n := len(got[1].Digest.Calls) + len(got[2].Digest.Calls); n != 40 {
			t.Errorf("%d calls", n)
		}
	})
}

// TestFlushIsForgeryProof sends reminders that nobody meant.
func TestFlushIsForgeryProof(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		w.publish(t, call("PutKeyPolicy", finding.High, "a"), call("PutKeyPolicy", finding.High, "b"))
		w.told(t)
		ids, err := w.overdue(t.Context())
		if err != nil || len(ids) != 1 {
			t.Fatalf("windows %v, %v", ids, err)
		}
		for _, id := range []string{"x", "../open/x", "../" + ids[0]} {
			if err := w.Flush(t.Context(), id); err != nil {
				t.Errorf("window %q: %v", id, err)
			}
		}
		if d := outcome.Of(w.Flush(t.Context(), ids[0])); d.Action != outcome.Delay || d.After < groupInterval {
			t.Errorf("a window that is open: %v", d)
		}
		w.want(t)
		w.pass(t, 2*groupInterval)
		w.want(t, "PutKeyPolicy on b")
		w.flush(t, ids[0])
		w.want(t)
	})
}

func TestResumeTellsOverdueSlots(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		w.publish(t, call("PutKeyPolicy", finding.High, "a"), call("PutKeyPolicy", finding.High, "b"))
		w.told(t)
		if err := w.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.want(t)             // it is not due
		time.Sleep(time.Hour) // and its reminder is lost
		for range 2 {
			if err := w.Resume(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		w.want(t, "PutKeyPolicy on b")
	})
}

// TestGroupingHangsOnNothing breaks what grouping needs: the alert is told at once.
func TestGroupingHangsOnNothing(t *testing.T) {
	for what, breakIt := range map[string]func(*world){
		"queue": func(w *world) { w.Grouping.QueueURL += "-gone" },
		"state": func(w *world) { w.Store = state.New(w.bucket, "no-such-bucket", "", "") },
	} {
		t.Run(what, func(t *testing.T) {
			inGroups(t, func(t *testing.T, w *world) {
				breakIt(w)
				w.publish(t, call("RotateKey", finding.Info, "a"))
				w.want(t, "RotateKey on a")
			})
		})
	}
}

func TestFailedFirstIsStillAtOnce(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		w.SNS = snsFunc(func(context.Context, *sns.PublishInput) (*sns.PublishOutput, error) { return nil, errors.New("broken") })
		if err := w.Publish(t.Context(), call("PutKeyPolicy", finding.High, "a")); err == nil {
			t.Fatal("no error")
		}
		w.SNS = w.topics
		w.publish(t, call("PutKeyPolicy", finding.High, "a"))
		w.want(t, "PutKeyPolicy on a")
		w.pass(t, 2*groupInterval)
		w.want(t)
	})
}

// TestGroupOfManyWorkers has a fleet publish 60 alerts at the same time.
func TestGroupOfManyWorkers(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() { w.publish(t, call("PutKeyPolicy", finding.High, fmt.Sprint(i))) })
		}
		wg.Wait()
		w.pass(t, 2*groupInterval)
		got := w.told(t)
		if len(got) != 2 || got[0].Digest != nil || got[1].Digest == nil || len(got[1].Digest.Calls) != 59 {
			t.Errorf("%d messages", len(got))
		}
	})
}

// TestLateAlertFindsAnotherSlot holds up the alert until its window is closed and told.
func TestLateAlertFindsAnotherSlot(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		w.publish(t, call("PutKeyPolicy", finding.High, "a"))
		slow := *w.Publisher
		slow.Store = state.New(&slowS3{Client: w.bucket, key: "/11112-"}, "state", "cmkeeper/", "")
		w.pass(t, groupInterval/2)
		done := make(chan error)
		b := call("PutKeyPolicy", finding.Medium, "b")
		go func() { done <- slow.Publish(t.Context(), b) }()
		w.pass(t, 2*groupInterval)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		w.pass(t, 2*groupInterval)
		w.want(t, "PutKeyPolicy on a", "PutKeyPolicy on b")
	})
}

// slowS3 takes longer than its window is open to put the first object with such a key.
type slowS3 struct {
	*s3.Client
	key  string
	once sync.Once
}

func (s *slowS3) PutObject(ctx context.Context, in *s3.PutObjectInput, o ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	if strings.Contains(*in.Key, s.key) {
		s.once.Do(func() { time.Sleep(groupInterval - 15*time.Second) })
	}
	return s.Client.PutObject(ctx, in, o...)
}

// mortal is an HTTP client that dies: its last request takes effect, but is never
// answered, and after it nothing comes through.
type mortal struct {
	next aws.HTTPClient
	left atomic.Int64
}

var errKilled = errors.New("killed")

func (m *mortal) Do(r *http.Request) (*http.Response, error) {
	switch left := m.left.Add(-1); {
	case left > 0:
		return m.next.Do(r)
	case left == 0:
		if answer, err := m.next.Do(r); err == nil {
			_, _ = io.Copy(io.Discard, answer.Body)
			_ = answer.Body.Close()
		}
	}
	return nil, errKilled
}

// TestKilledAnywhere kills a worker at each of its requests while it publishes what
// becomes an incident. Another one gets the messages again: nothing is lost, and at most
// what was in hand is told twice.
func TestKilledAnywhere(t *testing.T) {
	alerts := []Alert{
		call("PutKeyPolicy", finding.High, "a"), call("PutKeyPolicy", finding.High, "b"), call("UpdateAlias", finding.Medium, "c"),
		call("ScheduleKeyDeletion", finding.Critical, "d"), call("DisableKey", finding.Critical, "e"),
	}
	deaths := 0
	for requests, alive := int64(1), false; !alive; requests++ {
		inGroups(t, func(t *testing.T, w *world) {
			doomed, m := w.mortal(requests)
			var again []Alert
			for _, a := range alerts {
				if err := doomed.Publish(t.Context(), a); err != nil {
					again = append(again, a)
				}
			}
			alive = m.left.Load() > 0
			time.Sleep(claimTime) // the messages come back
			w.publish(t, again...)
			w.pass(t, 3*groupInterval)
			deaths++
			w.lostNothing(t, fmt.Sprintf("killed at request %d", requests), alerts)
		})
	}
	t.Logf("killed %d times", deaths)
}

// TestKilledWhileTelling kills a worker at each of its requests while it tells a window that
// has an incident's mark, an alert whose teller died, and others.
func TestKilledWhileTelling(t *testing.T) {
	alerts := []Alert{
		call("PutKeyPolicy", finding.High, "a"), call("UpdateAlias", finding.Medium, "b"), call("ScheduleKeyDeletion", finding.Critical, "c"),
		call("CreateGrant", finding.High, "d"), call("DisableKey", finding.Critical, "e"), call("PutKeyPolicy", finding.High, "f"),
	}
	for requests, alive := int64(1), false; !alive; requests++ {
		inGroups(t, func(t *testing.T, w *world) {
			for _, a := range alerts {
				// Nobody who is to tell something at once gets to it.
				w.SNS = snsFunc(func(context.Context, *sns.PublishInput) (*sns.PublishOutput, error) { panic("killed") })
				func() {
					defer func() { _ = recover() }()
					_ = w.Publish(t.Context(), a)
				}()
			}
			w.SNS = w.topics
			ids, err := w.overdue(t.Context())
			if err != nil || len(ids) != 1 {
				t.Fatalf("windows %v, %v", ids, err)
			}
			time.Sleep(groupInterval + claimTime)
			doomed, m := w.mortal(requests)
			_ = doomed.Flush(t.Context(), ids[0])
			alive = m.left.Load() > 0
			time.Sleep(claimTime)
			w.pass(t, groupInterval)
			w.lostNothing(t, fmt.Sprintf("killed at request %d", requests), alerts)
		})
	}
}

// lostNothing fails the test unless all alerts were told, on their own or in another one,
// and at most one message came twice.
func (w *world) lostNothing(t *testing.T, when string, alerts []Alert) {
	t.Helper()
	messages, named := map[string]int{}, map[string]bool{}
	for _, a := range w.told(t) {
		messages[a.ID]++
		named[a.ID] = true
		if a.Digest != nil {
			for _, c := range a.Digest.Calls {
				named[c.ID] = true
			}
		}
	}
	for _, a := range alerts {
		if !named[a.ID] {
			t.Errorf("%s: %s is lost", when, a.ID)
		}
	}
	twice := 0
	for _, n := range messages {
		twice += n - 1
	}
	if twice > 1 {
		t.Errorf("%s: %v", when, messages)
	}
}

// mortal returns a publisher that dies after so many requests.
func (w *world) mortal(requests int64) (*Publisher, *mortal) {
	m := &mortal{next: w.cfg.HTTPClient}
	m.left.Store(requests)
	cfg := w.cfg
	cfg.HTTPClient = m
	p := *w.Publisher
	p.SNS = sns.NewFromConfig(cfg)
	p.Store = state.New(s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true }), "state", "cmkeeper/", "")
	g := *p.Grouping
	g.SQS = sqs.NewFromConfig(cfg)
	p.Grouping = &g
	return &p, m
}

// TestCount has each delivery counted once.
func TestCount(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		counted := map[string]int{}
		w.Count = func(k Kind, s finding.Severity, delivery string) { counted[fmt.Sprint(k, " ", s, " ", delivery)]++ }
		broken := errors.New("the topic is gone")
		w.SNS = snsFunc(func(ctx context.Context, in *sns.PublishInput) (*sns.PublishOutput, error) {
			if broken != nil {
				return nil, broken
			}
			return w.topics.Publish(ctx, in)
		})
		one := deletion()
		if err := w.Publish(t.Context(), one); !errors.Is(err, broken) {
			t.Fatal(err)
		}
		broken = nil
		w.publish(t, one, one)
		for i := range 2 {
			a := deletion()
			a.ID, a.Kind, a.Severity = fmt.Sprint("more", i), KindPolicy, finding.Low
			w.publish(t, a)
		}
		w.pass(t, 2*groupInterval)
		want := map[string]int{"deletion critical failed": 1, "deletion critical published": 1, "policy low collected": 2, "policy low digest": 1}
		if diff := cmp.Diff(want, counted); diff != "" {
			t.Errorf("what was counted: %s", diff)
		}
	})
}

// TestKinds compares the list of kinds with that of the schema.
func TestKinds(t *testing.T) {
	var schema struct {
		Defs struct {
			Kind struct{ Enum []Kind }
		} `json:"$defs"`
	}
	raw, err := os.ReadFile("../docs/alert.v1.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &schema); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(schema.Defs.Kind.Enum)), slices.Sorted(slices.Values(Kinds()))); diff != "" {
		t.Errorf("kinds of the schema, and Kinds: %s", diff)
	}
}
