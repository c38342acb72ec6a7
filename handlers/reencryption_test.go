package handlers_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

func TestJobAlerts(t *testing.T) {
	const keys = "arn:aws:kms:" + region + ":" + account + ":key/1b2c3d4e-0000-4000-8000-00000000000"
	const oldKey, newKey = keys + "1", keys + "2"
	sink := &memorySink{}
	jobs := handlers.JobAlerts{Alerts: sink, Account: account, Region: region}
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := reencrypt.Summary{
		Job: "j1", Alias: "arn:aws:kms:" + region + ":" + account + ":alias/app-orders", Bucket: "orders-data", Prefix: "in voices/",
		From: []string{oldKey}, To: newKey, State: reencrypt.StateComplete,
		Counts:  reencrypt.Counts{Scanned: 10, Moved: 9, Skipped: 1},
		Started: start, Finished: start.Add(90 * time.Second),
	}
	for range 2 {
		if err := jobs.Completed(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	got := sink.take()
	if len(got) != 1 || got[0].Severity != finding.Info || got[0].Kind != alert.KindReencryption || got[0].Key.Aliases[0] != "alias/app-orders" {
		t.Fatalf("alerts:\n%s", texts(got))
	}

	s.Job, s.Refused, s.ByReason = "j2", 1, map[reencrypt.Reason]int64{reencrypt.ReasonObjectLock: 1}
	s.Sample = []reencrypt.Refusal{{Key: "in voices/1.pdf", Version: "v1", Reason: reencrypt.ReasonObjectLock}}
	s.Report = "s3://keeper-state/cmkeeper/jobs/j2/report.jsonl"
	if err := jobs.Completed(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	a := sink.take()[0]
	if a.Severity != finding.Medium || facts(a, "not moved, by reason") != "object-lock: 1" || !strings.Contains(facts(a, "first of what did not move"), "in voices/1.pdf version v1") || !strings.Contains(strings.Join(a.Next, "\n"), s.Report) {
		t.Errorf("alert:\n%s", a.Text())
	}

	s.State, s.Cause = reencrypt.StateStopped, "s3:UpdateObjectEncryption is denied"
	if err := jobs.Stalled(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	a = sink.take()[0]
	if a.Severity != finding.High || !strings.Contains(a.Summary, s.Cause) || !strings.Contains(strings.Join(a.Next, "\n"), "cmkeeper reencrypt run --bucket orders-data --prefix 'in voices/' --from "+oldKey+" --to "+newKey) {
		t.Errorf("alert:\n%s", a.Text())
	}
}

func TestJobWarnings(t *testing.T) {
	sink := &memorySink{}
	jobs := handlers.JobAlerts{Alerts: sink, Account: account, Region: region}
	s := reencrypt.Summary{
		Job: "j1", Bucket: "orders-data", From: []string{"arn:old"}, To: "arn:new", State: reencrypt.StateRunning,
		Preflight: []reencrypt.Finding{
			{Name: "bucket-default", Severity: reencrypt.SeverityWarn, What: "New objects still land on the old key.", Fix: "Put the new key there."},
			{Name: "encryption-context", Severity: reencrypt.SeverityNote, What: "The policy has conditions.", Fix: "Allow both forms."},
		},
	}
	for range 2 {
		if err := jobs.Warned(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	got := sink.take()
	if len(got) != 1 || got[0].Severity != finding.Medium || !strings.Contains(facts(got[0], "found before the first write"), "bucket-default (warn): New objects") ||
		!strings.Contains(strings.Join(got[0].Next, "\n"), "Put the new key there.") || strings.Contains(strings.Join(got[0].Next, "\n"), "Allow both forms.") {
		t.Errorf("alerts:\n%s", texts(got))
	}
}

// A job that stopped is told again while it is so, which the sink sees to; one that stops
// once more is another alert.
func TestJobThatStopped(t *testing.T) {
	sink := &memorySink{}
	jobs := handlers.JobAlerts{Alerts: sink, Account: account, Region: region}
	s := reencrypt.Summary{Job: "j1", Bucket: "orders-data", From: []string{"arn:old"}, To: "arn:new", State: reencrypt.StateStopped, Finished: time.Unix(1_800_000_000, 0)}
	for _, finished := range []time.Time{s.Finished, s.Finished, s.Finished.Add(time.Hour)} {
		s.Finished = finished
		if err := jobs.Stalled(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if got := sink.take(); len(got) != 2 || !got[0].Ongoing || got[0].ID == got[1].ID {
		t.Errorf("alerts:\n%s", texts(got))
	}
}

// TestJobsSayClientSideEncryption: an alert says what was looked for, and does not say more
// of the old keys than that shows.
func TestJobsSayClientSideEncryption(t *testing.T) {
	const key = "arn:aws:kms:" + region + ":" + account + ":key/1b2c3d4e-0000-4000-8000-00000000000"
	sink := &memorySink{}
	jobs := handlers.JobAlerts{Alerts: sink, Account: account, Region: region}
	for in, want := range map[reencrypt.Envelopes]struct{ fact, before, next, flags string }{
		"": {
			"Client-side encryption was not looked for.", "Client-side encryption is not looked for.",
			"S3's own encryption of this scope does not need the old keys any more. Client-side encryption may: it was not looked for (a plan with --envelopes content does).", "",
		},
		reencrypt.EnvelopesMetadata: {
			"Client-side encryption was found in 4 object versions (s3-client-v2: 4). Data keys were moved in 3 object versions. Contents were not looked at.",
			"Client-side encryption is looked for in metadata and instruction files.",
			"S3's own encryption of this scope does not need the old keys any more. Data keys in the contents of objects may: only metadata and instruction files were looked at.", " --envelopes metadata",
		},
		reencrypt.EnvelopesContent: {
			"Client-side encryption was found in 4 object versions (s3-client-v2: 4). Data keys were moved in 3 object versions.",
			"Client-side encryption is looked for in metadata, instruction files and contents.",
			"Nothing in this scope needs the old keys any more, unless it has client-side encryption of a format that cmkeeper does not know.", " --envelopes content --rewrite-files",
		},
	} {
		s := reencrypt.Summary{
			Job: "j-" + string(in), Bucket: "orders-data", From: []string{key + "1"}, To: key + "2", EnvelopesIn: in, RewriteFiles: in == reencrypt.EnvelopesContent,
			State: reencrypt.StateRunning, Preflight: []reencrypt.Finding{{Name: "envelopes", Severity: reencrypt.SeverityWarn, What: "Readers fail.", Fix: "Name the alias."}},
		}
		told := func(f func(context.Context, reencrypt.Summary) error) alert.Alert {
			t.Helper()
			if err := f(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			return sink.take()[0]
		}
		said := func(a alert.Alert) string { return strings.ReplaceAll(facts(a, "client-side encryption"), "\n", " ") }
		if got := said(told(jobs.Warned)); got != want.before {
			t.Errorf("%q: warned of %q, want %q", in, got, want.before)
		}
		s.Counts = reencrypt.Counts{Scanned: 9, Moved: 9}
		if in != "" {
			s.Envelopes, s.Rewrapped = map[string]int64{"s3-client-v2": 4}, map[reencrypt.Reason]int64{reencrypt.ReasonOnTarget: 3}
		}
		a := told(jobs.Completed)
		if got := said(a); got != want.fact || !strings.HasPrefix(a.Next[0], want.next+" Check other uses") {
			t.Errorf("%q: %q, next: %q", in, got, a.Next)
		}
		s.State = reencrypt.StateStopped
		a = told(jobs.Stalled)
		if got := said(a); got != want.fact || !strings.HasSuffix(a.Next[len(a.Next)-1], key+"2"+want.flags) {
			t.Errorf("%q: %q, next: %q", in, got, a.Next)
		}
	}
}
