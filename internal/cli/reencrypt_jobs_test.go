package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/cmkeeper/cmkeeper/internal/sandbox"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// fleetCommand runs a command line with the fleet's state and queue configured.
func (a *account) fleetCommand(args ...string) (code int, stdout, stderr string) {
	a.t.Helper()
	var out, errs bytes.Buffer
	environ := []string{"CMKEEPER_STATE_BUCKET=" + sandbox.StateBucket, "CMKEEPER_JOBS_QUEUE_URL=" + a.box.JobsQueue}
	code = a.run(append([]string{"reencrypt"}, args...), environ, &out, &errs)
	return code, out.String(), errs.String()
}

// ok runs a command of the fleet that has to succeed, and returns what it printed.
func (a *account) ok(args ...string) string {
	a.t.Helper()
	code, out, errs := a.fleetCommand(args...)
	if code != exitOK {
		a.t.Fatalf("%q: exit code %d: %s%s", args, code, out, errs)
	}
	return out
}

func decodeJSON[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return v
}

type startedJobs struct{ Jobs []string }

// TestReencryptJobs plays an operator's first job: planned, started, paused,
// watched, reported and tried again.
func TestReencryptJobs(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		const objects = 60
		a.enter()
		oldKey, newKey := a.newKey(appAlias), a.newKey("")
		a.fill("app-data", appAlias, objects)
		must(a.s3.PutObject(t.Context(), &s3.PutObjectInput{ // neither method can keep its double encryption
			Bucket: aws.String("app-data"), Key: aws.String("double, \u202e%"), Body: strings.NewReader("double, \u202e%"),
			ServerSideEncryption: s3types.ServerSideEncryptionAwsKmsDsse, SSEKMSKeyId: &oldKey,
		}))(t)

		move := []string{"--bucket", "app-data", "--from", oldKey, "--to", newKey}
		plan := filepath.Join(t.TempDir(), "plan.json")
		if err := os.WriteFile(plan, []byte(a.ok(append([]string{"plan", "--json"}, move...)...)), 0o600); err != nil {
			t.Fatal(err)
		}
		jobs := decodeJSON[startedJobs](t, a.ok("start", "--plan", plan, "--json")).Jobs
		if len(jobs) != 1 || !slices.Equal(decodeJSON[startedJobs](t, a.ok("start", "--plan", plan, "--json")).Jobs, jobs) {
			t.Fatalf("the same plan started twice is not one job: %v", jobs)
		}
		job := jobs[0]
		if code, _, errs := a.fleetCommand("start", "--bucket", "app-data", "--from", newKey, "--to", oldKey); code != exitError || !strings.Contains(errs, job) {
			t.Errorf("a move back while it runs: exit code %d: %s", code, errs)
		}

		// Paused before anybody works, it does nothing, and nothing is lost.
		if s := decodeJSON[reencrypt.Status](t, a.ok("pause", job, "--json")); s.State != reencrypt.StatePaused {
			t.Errorf("paused, it is %s", s.State)
		}
		a.start()
		a.awaitQuiet()
		a.expectUnder("app-data", oldKey, objects+1)
		for _, want := range []string{job, "paused", "s3://app-data/", newKey} {
			if out := a.ok("list", "--open"); !strings.Contains(out, want) {
				t.Errorf("%q is not in the list:\n%s", want, out)
			}
		}

		if out := a.ok("resume", job); !strings.Contains(out, "running") {
			t.Errorf("resumed:\n%s", out)
		}
		code, out, errs := a.fleetCommand("watch", job, "--interval", "100ms")
		if code != exitError || !strings.Contains(out, "complete, pass 2") || !strings.Contains(out, "not moved: dsse 1") || errs != "" {
			t.Errorf("watched to its end: exit code %d\n%s%s", code, out, errs)
		}
		a.awaitQuiet()
		if got := a.underKeys("app-data"); got[newKey] != objects || got[oldKey] != 1 {
			t.Errorf("objects by key: %v", got)
		}

		s := decodeJSON[reencrypt.Summary](t, a.ok("report", job, "--json"))
		if s.State != reencrypt.StateComplete || s.Moved != objects || s.Refused != 1 || s.Scanned != objects+1 {
			t.Errorf("report: %+v", s)
		}
		if out := a.ok("report", job); !strings.Contains(out, "60 moved") || strings.Contains(out, "\u202e") {
			t.Errorf("report:\n%s", out)
		}
		if out, want := a.ok("report", job, "--csv"), "app-data,double%2C%20%E2%80%AE%25\n"; out != want {
			t.Errorf("manifest %q, want %q", out, want)
		}
		if row := decodeJSON[reencrypt.Refusal](t, a.ok("report", job, "--jsonl")); row.Key != "double, \u202e%" || row.Reason != reencrypt.ReasonDSSE {
			t.Errorf("row %+v", row)
		}
		if st := decodeJSON[reencrypt.Status](t, a.ok("status", job, "--json")); st.State != reencrypt.StateComplete || st.Done != st.Slices || st.Moved != objects {
			t.Errorf("status %+v", st)
		}

		// The same again, now that the object is encrypted once.
		must(a.s3.PutObject(t.Context(), &s3.PutObjectInput{
			Bucket: aws.String("app-data"), Key: aws.String("double, \u202e%"), Body: strings.NewReader("double, \u202e%"),
			ServerSideEncryption: s3types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &oldKey,
		}))(t)
		retry := decodeJSON[reencrypt.Status](t, a.ok("retry", job, "--json"))
		lines := strings.Split(strings.TrimSpace(a.ok("watch", retry.Job, "--interval", "100ms", "--json")), "\n")
		if last := decodeJSON[reencrypt.Status](t, lines[len(lines)-1]); last.RetryOf != job || last.Scanned != 1 || last.Moved != 1 {
			t.Errorf("retried: %+v", last)
		}
		a.awaitQuiet()
		a.expectUnder("app-data", newKey, objects+1)

		// Back, by flags and with nobody watching; then no more.
		back := decodeJSON[startedJobs](t, a.ok("start", "--bucket", "app-data", "--from", newKey, "--to", oldKey, "--json")).Jobs[0]
		cancelled := a.ok("cancel", back)
		if !strings.Contains(cancelled, "cancelled") {
			t.Errorf("cancelled:\n%s", cancelled)
		}
		if code, out, _ := a.fleetCommand("watch", back); code != exitError || !strings.Contains(out, "cancelled") {
			t.Errorf("watching a cancelled job: exit code %d\n%s", code, out)
		}
		all := decodeJSON[struct{ Jobs []reencrypt.Summary }](t, a.ok("list", "--json")).Jobs
		if len(all) != 3 || all[0].Job != back || all[2].Job != job {
			t.Errorf("all jobs, the newest first: %+v", all)
		}
		a.awaitQuiet()
		// What is advised then can be done: the report, and moving the rest, which excludes
		// moving back.
		advised := 0
		for line := range strings.Lines(cancelled) {
			words, ok := strings.CutPrefix(strings.TrimSpace(line), "cmkeeper ")
			if !ok {
				continue
			}
			advised++
			var out, errs bytes.Buffer
			code := a.run(strings.Fields(words), a.fleetEnvironment(), &out, &errs)
			if advised <= 2 && code != exitOK || code == exitUsage {
				t.Errorf("%s: exit code %d, %s%s", words, code, &out, &errs)
			}
		}
		if advised != 4 {
			t.Errorf("%d commands are advised after cancelling:\n%s", advised, cancelled)
		}
		a.expectNoDeadLetters()
	})
}

func TestReencryptJobsThatCannotBe(t *testing.T) {
	a := newAccount(t)
	a.enter()
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "plan.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const nobody = "0123456789abcdef01234567"
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"nothing to start":       {[]string{"start"}, exitUsage, "plan bucket"},
		"half of an order":       {[]string{"start", "--bucket", "b", "--to", "k"}, exitUsage, "from"},
		"both ways to say it":    {[]string{"start", "--plan", "p", "--bucket", "b", "--from", "k", "--to", "l"}, exitUsage, "plan"},
		"no plan":                {[]string{"start", "--plan", "no-such-file"}, exitUsage, "no-such-file"},
		"a plan of something":    {[]string{"start", "--plan", write(`{"schema":"x"}`)}, exitUsage, `"x"`},
		"a plan of no time":      {[]string{"start", "--plan", write(`{"schema":"cmkeeper.plan.v1","buckets":[{}]}`)}, exitUsage, "when"},
		"a plan of nothing":      {[]string{"start", "--plan", write(`{"schema":"cmkeeper.plan.v1","created":"2026-01-02T03:04:05Z"}`)}, exitUsage, "no buckets"},
		"a key that is not":      {[]string{"start", "--bucket", "b", "--from", "alias/nobody", "--to", "alias/x"}, exitError, "alias/"},
		"status of no job":       {[]string{"status", nobody}, exitError, "no such job"},
		"status of what is none": {[]string{"status", "../x"}, exitError, "no such job"},
		"report of no job":       {[]string{"report", nobody, "--csv"}, exitError, "no such job"},
		"watch too closely":      {[]string{"watch", nobody, "--interval", "1ms"}, exitUsage, "--interval"},
		"which job":              {[]string{"cancel"}, exitUsage, "1 arg"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := a.fleetCommand(tt.args...)
			if code != tt.code || !strings.Contains(errs, tt.want) || out != "" {
				t.Errorf("exit code %d, want %d and %q in: %s%s", code, tt.code, tt.want, errs, out)
			}
		})
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"reencrypt", "list"}, nil, &out, &errs); code != exitUsage ||
		!strings.Contains(errs.String(), "CMKEEPER_STATE_BUCKET") || !strings.Contains(errs.String(), "CMKEEPER_JOBS_QUEUE_URL") {
		t.Errorf("without its settings the exit code is %d: %s", code, errs.String())
	}
	if out := a.ok("list", "--json"); out != "{\"jobs\":[]}\n" {
		t.Errorf("no jobs are %s", out)
	}
}

func TestWatchedRateIsThatOfLately(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	var c reencryptWatchCommand
	look := func(after time.Duration, pass int, n int64) float64 {
		return c.rate(reencrypt.Status{Summary: reencrypt.Summary{Passes: pass, State: reencrypt.StateRunning}, At: at.Add(after), Began: at.Add(-time.Hour), InPass: n})
	}
	for i, got := range []float64{
		look(0, 1, 7200), // all there is to go by: the average
		look(10*time.Second, 1, 8200),
		look(20*time.Second, 1, 9200),
		look(time.Minute, 1, 9200), // what is older than the window does not count
		look(2*time.Minute, 2, 0),
		look(2*time.Minute+10*time.Second, 2, 50),
	} {
		if want := []float64{2, 100, 100, 9200.0 / 3660, 0, 5}[i]; got != want {
			t.Errorf("look %d: rate %v, want %v", i, got, want)
		}
	}
}

func TestWatchText(t *testing.T) {
	s := reencrypt.Status{
		Summary: reencrypt.Summary{State: reencrypt.StateRunning, Passes: 1, Counts: reencrypt.Counts{
			Scanned: 500, Moved: 480, Skipped: 17, Refused: 3, ByReason: map[reencrypt.Reason]int64{reencrypt.ReasonOnTarget: 17, reencrypt.ReasonObjectLock: 2, reencrypt.ReasonArchived: 1},
		}},
		Slices: 4, Planned: true, Done: 1, InPass: 500, InWork: 2, Concurrency: 64,
	}
	want := "running, pass 1, 1 of 4 slices (25 %): 500 gone through, 480 moved, 17 skipped, 3 refused, 0 failed; 50/s, 30s left of it; in work: 2 slices of all jobs, 64 objects of this bucket at once in a worker; not moved: archived 1, object-lock 2"
	if got := watchText(s, 50); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
