package alert

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/cmkeeper/cmkeeper/finding"
)

// put stores a text as an object of the state bucket.
func (w *world) put(t *testing.T, key, body string) {
	t.Helper()
	if _, err := w.bucket.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("state"), Key: aws.String("cmkeeper/" + key), Body: strings.NewReader(body)}); err != nil {
		t.Fatal(err)
	}
}

// sizes returns how many objects there are below a key, and their bytes.
func (w *world) sizes(t *testing.T, prefix string) (objects int, bytes int64) {
	t.Helper()
	pages := s3.NewListObjectsV2Paginator(w.bucket, &s3.ListObjectsV2Input{Bucket: aws.String("state"), Prefix: aws.String("cmkeeper/" + prefix)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Contents {
			objects++
			bytes += *o.Size
		}
	}
	return objects, bytes
}

// unreadable are documents that no build, or only a newer one, can read.
var unreadable = map[string]string{
	"garbled":     `{"schema":"cmkeeper.undelivered.v1","alert":`,
	"empty":       ``,
	"another":     `{"schema":"cmkeeper.alias.v1"}`,
	"wrong types": `{"schema":"cmkeeper.undelivered.v1","alert":7}`,
	"newer":       `{"schema":"cmkeeper.undelivered.v9","alert":{}}`,
}

// Documents that cannot be read below alerts/undelivered keep no other alert back.
func TestUnreadableUndelivered(t *testing.T) {
	w := newWorld(t)
	w.SNS = snsFunc(func(context.Context, *sns.PublishInput) (*sns.PublishOutput, error) { return nil, errors.New("broken") })
	for _, id := range []string{"a", "b", "c"} {
		a := deletion()
		a.ID = id
		if err := w.Publish(t.Context(), a); err == nil {
			t.Fatal("no error")
		}
	}
	n := 0
	for _, body := range unreadable {
		w.put(t, fmt.Sprintf("%s%d.json", undeliveredPrefix, n), body) // before, between and after the others
		w.put(t, fmt.Sprintf("%sz%d.json", undeliveredPrefix, n), body)
		n++
	}
	list, err := w.Undelivered(t.Context())
	if len(list) != 3 || err == nil || strings.Count(err.Error(), "s3://state/cmkeeper/alerts/undelivered/") != 2*len(unreadable) {
		t.Errorf("%d undelivered alerts, %v", len(list), err)
	}
	w.SNS = w.topics
	if err := w.Resume(t.Context()); err == nil || strings.Count(err.Error(), "s3://state/cmkeeper/alerts/undelivered/") != 2*len(unreadable) {
		t.Errorf("resume: %v", err)
	}
	w.expect(t, "the alerts that can be read", 3)
}

// A document that cannot be read in a window keeps no other alert back, and is told.
func TestUnreadableInWindow(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		w.publish(t, call("PutKeyPolicy", finding.High, "a"), call("PutKeyPolicy", finding.High, "b"), call("PutKeyPolicy", finding.High, "c"))
		w.want(t, "PutKeyPolicy on a")
		for key := range w.Store.Keys(t.Context(), groupsPrefix) {
			if strings.Contains(key, "/00") || strings.Contains(key, "/1111") || strings.Contains(key, "/0110") {
				w.put(t, key[:strings.LastIndexByte(key, '/')]+"/11110-garbled.json", unreadable["garbled"])
				break
			}
		}
		w.pass(t, 2*groupInterval)
		got := w.want(t, "Alerts about role/Admin cannot be read (1)", "PutKeyPolicy on 2 keys by role/Admin")
		if !strings.Contains(got[0].Text(), "11110-garbled.json") {
			t.Errorf("the alert does not name the object:\n%s", got[0].Text())
		}
	})
}

// A window waits a while for a newer worker where a newer one has stored an alert.
func TestNewerInWindow(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		w.publish(t, call("PutKeyPolicy", finding.High, "a"), call("PutKeyPolicy", finding.High, "b"))
		w.want(t, "PutKeyPolicy on a")
		ids, err := w.overdue(t.Context())
		if err != nil || len(ids) != 1 {
			t.Fatal(ids, err)
		}
		var win window
		if _, err := w.Store.Get(t.Context(), dueKey(ids[0]), &win); err != nil {
			t.Fatal(err)
		}
		w.put(t, win.items()+"00000-newer.json", `{"schema":"cmkeeper.grouped-alert.v2"}`)
		time.Sleep(time.Until(win.due()) + time.Minute)
		if err := w.Flush(t.Context(), ids[0]); err == nil {
			t.Error("a window with a newer alert was published")
		}
		w.want(t)
		time.Sleep(upgradeTime)
		w.flush(t, ids[0])
		w.want(t, "Alerts about role/Admin cannot be read (1)", "PutKeyPolicy on b")
	})
}

// An incident's mark, or a window, that cannot be read keeps nothing else back.
func TestUnreadableMarks(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		w.publish(t, call("PutKeyPolicy", finding.High, "a"), call("PutKeyPolicy", finding.High, "b"))
		w.told(t)
		w.put(t, duePrefix+"garbled.json", unreadable["garbled"])
		for key := range w.Store.Keys(t.Context(), groupsPrefix) {
			if marks, _, ok := strings.Cut(key, "/marks/"); ok {
				w.put(t, marks+"/marks/incident.json", unreadable["wrong types"])
				break
			}
		}
		time.Sleep(time.Hour)
		if list, err := w.Collected(t.Context()); len(list) != 1 || err == nil {
			t.Errorf("collected: %v, %v", list, err)
		}
		if err := w.Resume(t.Context()); err == nil || !strings.Contains(err.Error(), "garbled") {
			t.Errorf("resume: %v", err)
		}
		w.want(t, "Alerts about role/Admin cannot be read (1)", "PutKeyPolicy on b")
	})
}

// large is an alert about a policy of 32 KiB with so many findings, the worst last.
func large(key string, findings int) Alert {
	a := call("PutKeyPolicy", finding.Critical, key)
	for i := range findings {
		a.Findings = append(a.Findings, finding.Finding{ID: finding.PublicPrincipal, Severity: finding.High, Statement: fmt.Sprint(i),
			Principal: fmt.Sprintf("arn:aws:iam::%012d:root", i), Message: "Everybody in account may use the key: kms:Decrypt, kms:Encrypt, kms:GenerateDataKey."})
	}
	a.Findings[findings-1].Severity = finding.Critical
	a.Facts = []Fact{{Name: "policy", Values: []string{strings.Repeat("p", 32<<10)}}}
	return a
}

// Many alerts about large policies take little room and memory, and none is left out.
func TestDigestOfLargeAlerts(t *testing.T) {
	const alerts = 900
	w := newWorld(t)
	out, err := w.queues.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("events")})
	if err != nil {
		t.Fatal(err)
	}
	w.Grouping = &Grouping{SQS: w.queues, QueueURL: *out.QueueUrl, Wait: groupWait, Interval: groupInterval}
	a := large("a", 2165)
	g, _ := groupOf(a)
	win, _ := w.nextWindow(window{}, g, a, w.Store.Now().Add(-time.Hour).UTC())
	if _, err := w.Store.Put(t.Context(), dueKey(win.ID), win, ""); err != nil {
		t.Fatal(err)
	}
	stored := a.bounded() // once: they differ in their keys only
	for i := range alerts {
		stored.Key = &Key{ARN: fmt.Sprintf("arn:aws:kms:us-east-1:111122223333:key/%d", i)}
		stored.ID = fmt.Sprint(i)
		i := &item{Alert: stored, Name: fmt.Sprint("alerts/", i)}
		if _, err := w.Store.Put(t.Context(), win.item(i.Name, i.Alert), i, ""); err != nil {
			t.Fatal(err)
		}
	}
	objects, bytes := w.sizes(t, groupsPrefix)
	if bytes > int64(objects)*storedLimit {
		t.Errorf("%d objects with %d bytes", objects, bytes)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := w.Flush(t.Context(), win.ID); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	allocated := after.TotalAlloc - before.TotalAlloc
	t.Logf("%d alerts: %d KiB stored, %d MiB allocated for the digest", objects, bytes>>10, allocated>>20)
	if allocated > 200<<20 {
		t.Errorf("the digest of %d alerts allocated %d MiB", alerts, allocated>>20)
	}
	told := w.told(t)
	if len(told) != 1 || told[0].Digest == nil || told[0].Cut == nil || told[0].Cut.Calls != alerts {
		t.Fatalf("%d messages", len(told))
	}
	if f := told[0].Findings; len(f) == 0 || f[0].Severity != finding.Critical || told[0].Cut.Findings != 2165 {
		t.Errorf("the worst finding is not the first, of %d", told[0].Cut.Findings)
	}
}

// Of more rows than a table has, the worst stay, and one of each kind.
func TestGatheredRows(t *testing.T) {
	g := &gathered{}
	odd := call("RotateKey", finding.Info, "odd")
	g.add(item{Alert: odd, Name: "odd"})
	for i := range 5 * digestRows {
		g.add(item{Alert: call("ScheduleKeyDeletion", finding.Critical, fmt.Sprint(i)), Name: fmt.Sprint(i)})
		if len(g.rows) > 2*digestRows {
			t.Fatalf("%d rows are kept", len(g.rows))
		}
	}
	prod := call("DisableKey", finding.High, "prod")
	prod.Key.Sensitive = true
	g.add(item{Alert: prod, Name: "prod"})
	d := digest(&window{ID: "s", Short: "role/Admin"}, g, false, "")
	calls := d.Digest.Calls
	if len(calls) != digestRows || d.Digest.All != 5*digestRows+2 || calls[0].Title != prod.Title || calls[digestRows-1].Title != odd.Title {
		t.Errorf("%d rows of %d, the first is %q and the last %q", len(calls), d.Digest.All, calls[0].Title, calls[len(calls)-1].Title)
	}
	if d.Severity != finding.Critical || d.Key.ARN != prod.Key.ARN || !strings.Contains(d.Title, fmt.Sprint(5*digestRows+2, " calls")) {
		t.Errorf("severity %s, key %s, title %q", d.Severity, d.Key.ARN, d.Title)
	}

	odds := &gathered{} // each of another event, as no build stores them
	for i := range digestRows + 1 {
		odds.add(item{Alert: call(fmt.Sprint("Event", i), finding.Low, fmt.Sprint(i)), Name: fmt.Sprint(i)})
	}
	if d := odds.digest("", ""); len(d.Calls) != digestRows || d.All != digestRows+1 {
		t.Errorf("%d rows of %d", len(d.Calls), d.All)
	}
}

func TestWeight(t *testing.T) {
	with := func(severity finding.Severity, change func(*Alert)) Alert {
		a := call("DisableKey", severity, "k")
		change(&a)
		return a
	}
	var before string
	for i, a := range []Alert{
		with(finding.Critical, func(a *Alert) { a.Key.Sensitive, a.Key.Aliases = true, []string{"alias/x"} }),
		with(finding.High, func(a *Alert) { a.Key.Sensitive = true }),
		with(finding.High, func(a *Alert) { a.Key.Sensitive, a.Action.Status = true, StatusDone }),
		with(finding.Critical, func(a *Alert) { a.Key.Aliases = []string{"alias/x"} }),
		with(finding.Critical, func(a *Alert) { a.Key.Aliases, a.Action.Status = []string{"alias/x"}, StatusDone }),
		with(finding.Critical, func(a *Alert) { a.Action.Status = StatusFailed }),
		with(finding.High, func(*Alert) {}),
		with(finding.Critical, func(a *Alert) { a.Action.Status = StatusDone }),
		with(finding.Medium, func(a *Alert) { a.Key.Sensitive = true }),
		with(finding.Info, func(a *Alert) { a.Key.Sensitive = true }),
	} {
		if w := a.weight(); w <= before {
			t.Errorf("alert %d does not come after the one before: %s, %s", i, w, before)
		} else {
			before = w
		}
	}
}

// One actor schedules the deletion of many keys that nobody needs, and among them of
// sensitive ones: these are told at once, five of them, and a sixth with a note.
func TestSensitiveKeysAtOnce(t *testing.T) {
	inGroups(t, func(t *testing.T, w *world) {
		sensitive := func(i int) Alert {
			a := call("ScheduleKeyDeletion", finding.Critical, fmt.Sprintf("prod-%d", i))
			a.Key.Sensitive, a.Key.Aliases = true, []string{fmt.Sprintf("alias/prod-%d", i)}
			a.Action.Status, a.Time = StatusWouldDo, time.Now().Add(time.Duration(i)*time.Second)
			return a
		}
		for i := range 30 {
			w.publish(t, call("ScheduleKeyDeletion", finding.Critical, fmt.Sprintf("key-%02d", i)))
		}
		w.told(t)
		for i := range 8 {
			w.publish(t, sensitive(i))
		}
		undone := sensitive(8)
		undone.Action.Status = StatusDone
		w.publish(t, undone)
		again := sensitive(0)
		again.ID, again.EventName, again.Title = "again", "PutKeyPolicy", "PutKeyPolicy on prod-0"
		w.publish(t, again)
		var titles []string
		for i := range 6 {
			titles = append(titles, fmt.Sprintf("Incident, continued: ScheduleKeyDeletion on prod-%d", i))
		}
		got := w.want(t, append(titles, "Incident, continued: PutKeyPolicy on prod-0")...)
		for i, a := range got {
			if strings.Contains(a.Summary, "the table of the next digest") != (i == 5) {
				t.Errorf("%s: %s", a.Title, a.Summary)
			}
		}
		w.pass(t, 2*groupInterval)
		d := w.told(t)[0]
		for i, want := range []string{"alias/prod-6", "alias/prod-7", "alias/prod-8"} {
			if d.Digest.Calls[i].Alias != want {
				t.Errorf("row %d is about %q, want %s", i, d.Digest.Calls[i].Alias, want)
			}
		}
	})
}
