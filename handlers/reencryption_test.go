package handlers_test

import (
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
