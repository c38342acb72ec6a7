package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/demo"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
	"github.com/cmkeeper/cmkeeper/keylist"
	"github.com/cmkeeper/cmkeeper/keyreport"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// TestReportCommand: the report's figures and keys are those of keys --json, in each
// format that has them.
func TestReportCommand(t *testing.T) {
	a := newAccount(t)
	a.enter()
	dying := a.newKey("alias/payments")
	must(a.kms.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &dying}))(t)
	must(a.kms.CreateKey(t.Context(), &kms.CreateKeyInput{Description: aws.String(hostile)}))(t)
	a.newRotatingKey()
	if err := awsclient.CloudTrail(a.box.Config(operator)).Call(t.Context(), "CreateTrail", map[string]string{"Name": "encrypted", "S3BucketName": "encrypted-trail", "KmsKeyId": dying}, nil); err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) string {
		code, out, errs := a.command(append(args, "--quota-share", "1")...)
		if code != exitOK || errs != "" {
			t.Fatalf("%q: exit code %d: %s", args, code, errs)
		}
		if strings.ContainsAny(out, "\x1b\u202e\u009b") {
			t.Errorf("%q prints what a terminal acts on", args)
		}
		return out
	}
	var l keylist.List
	var r keyreport.Report
	for args, into := range map[string]any{"keys": &l, "report": &r} {
		if err := json.Unmarshal([]byte(command(args, "--json")), into); err != nil {
			t.Fatal(err)
		}
	}
	times := cmpopts.IgnoreFields(keylist.List{}, "Began", "Ended")
	if d := cmp.Diff(l, r.Keys, times, cmpopts.IgnoreFields(keylist.Read{}, "At"), cmpopts.IgnoreFields(keylist.Bucket{}, "At")); d != "" {
		t.Errorf("keys --json and report --json differ (-keys +report):\n%s", d)
	}
	if r.Schema != keyreport.Schema || r.History.SweepsNotKnown+r.History.RecordsNotKnown+r.History.JobsNotKnown != "" {
		t.Errorf("the history is not known: %+v", r.History)
	}
	if c := r.Check("KMS.3"); c.Status != keyreport.Fail || c.Failed != 1 || c.Passed != l.Totals.Customer-1 || c.Evidence[0].Resource != dying {
		t.Errorf("KMS.3: %+v", c)
	}
	// The sandbox has a trail without a key.
	if c := r.Check("CloudTrail.2"); c.Failed != 1 || c.Passed != 1 || !strings.HasSuffix(c.Evidence[0].Resource, ":trail/management") || !strings.HasSuffix(c.Evidence[1].What, dying) {
		t.Errorf("CloudTrail.2: %+v", c)
	}
	file := filepath.Join(t.TempDir(), "report.html")
	if out := command("report", "--out", file); out != "" {
		t.Errorf("printed %q", out)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
	page := string(must(os.ReadFile(file))(t))
	if !strings.HasPrefix(page, "<!DOCTYPE html>") || !strings.Contains(page, dying[len(dying)-40:]) || strings.Contains(page, "</script>") {
		t.Error("the page lacks a key, or has its text unescaped")
	}
	if out := command("report"); !strings.HasPrefix(out, "<!DOCTYPE html>") {
		t.Error("no page on standard output")
	}
	if out := command("report", "--ocsf"); strings.Count(out, "\n") < l.Totals.Customer*4 {
		t.Errorf("OCSF has %d lines", strings.Count(out, "\n"))
	}
	if out := command("report", "--csv"); !strings.HasPrefix(out, "framework,") {
		t.Errorf("CSV begins with %.20q", out)
	}
}

func TestReportUsage(t *testing.T) {
	for _, args := range [][]string{{"--json", "--csv"}, {"--csv", "--ocsf"}, {"--quota-share", "2"}} {
		var out, errs strings.Builder
		if code := run(t.Context(), append([]string{"report"}, args...), nil, &out, &errs); code != exitUsage {
			t.Errorf("%q: exit code %d: %s", args, code, errs.String())
		}
	}
}

// TestReportOfTheDemo makes the report of the demo's account once the worker has done its
// work. With CMKEEPER_REPORT_PAGE it leaves the page in that file, to be looked at.
func TestReportOfTheDemo(t *testing.T) {
	a := &account{t: t}
	_, err := demo.Run(t.Context(), demo.Options{
		Command: demoOperator,
		Objects: 30,
		Worker:  demoWorker(slog.New(slog.DiscardHandler)),
		BeforeVerify: func(_ context.Context, box *sandbox.Sandbox) error {
			a.box = box
			a.enter()
			a.reportOfTheDemo()
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (a *account) reportOfTheDemo() {
	a.t.Helper()
	var l keylist.List
	var r keyreport.Report
	for args, into := range map[string]any{"keys": &l, "report": &r} {
		code, out, errs := a.command(args, "--json")
		if code != exitOK {
			a.t.Fatalf("%s: exit code %d: %s", args, code, errs)
		}
		if err := json.Unmarshal([]byte(out), into); err != nil {
			a.t.Fatal(err)
		}
	}
	if d := cmp.Diff(l.Totals, r.Keys.Totals); d != "" {
		a.t.Errorf("the figures differ (-keys +report):\n%s", d)
	}
	h := r.History
	if h.Repairs.Count == 0 || h.Repairs.Measured != h.Repairs.Count || h.Repairs.Mean <= 0 {
		a.t.Errorf("repairs: %+v", h.Repairs)
	}
	if len(h.Jobs) == 0 || h.Jobs[0].State != reencrypt.StateComplete || h.Jobs[0].Moved == 0 {
		a.t.Errorf("jobs: %+v", h.Jobs)
	}
	if len(h.Sweeps) == 0 || h.Sweeps[0].Keys == 0 {
		a.t.Errorf("sweeps: %+v", h.Sweeps)
	}
	if c := r.Check("repaired"); c.Status != keyreport.Pass {
		a.t.Errorf("repairs are %s: %s", c.Status, c.Summary)
	}
	if c := r.Check("KMS.5"); c.Status != keyreport.Pass {
		a.t.Errorf("the worker put the key policy back, and KMS.5 is %s: %s", c.Status, c.Summary)
	}
	file := os.Getenv("CMKEEPER_REPORT_PAGE")
	if file == "" {
		file = filepath.Join(a.t.TempDir(), "report.html")
	}
	if code, _, errs := a.command("report", "--out", file); code != exitOK {
		a.t.Errorf("exit code %d: %s", code, errs)
	}
}

// TestWeeklyReport: of two members, with a sweep each, one makes the report, and its alert
// names the address.
func TestWeeklyReport(t *testing.T) {
	a := newAccount(t)
	key := a.newKey("alias/reported")
	a.start("REPORT_SCHEDULE", "weekly")
	a.start("REPORT_SCHEDULE", "weekly")
	is := func(got alert.Alert) bool { return strings.HasPrefix(got.ID, "report/") }
	told := a.await("the report", is)
	if told.Kind != alert.KindPosture || told.Severity != finding.Info || !strings.Contains(told.Title, "1 customer managed keys, 0 open dangers") {
		t.Errorf("told: %+v", told)
	}
	addresses := told.Facts[slices.IndexFunc(told.Facts, func(f alert.Fact) bool { return f.Name == "report" })].Values
	read := func(address, ending string) string {
		bucket, name, _ := strings.Cut(strings.TrimPrefix(address, "s3://"), "/")
		if bucket != sandbox.StateBucket || !strings.HasSuffix(name, ending) {
			t.Fatalf("address %s", address)
		}
		out := must(a.s3.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: &name}))(t)
		return string(must(io.ReadAll(out.Body))(t))
	}
	id := key[strings.LastIndexByte(key, '/')+1:]
	if page := read(addresses[0], "/report.html"); !strings.HasPrefix(page, "<!DOCTYPE html>") || !strings.Contains(page, id) {
		t.Errorf("the page: %.200s", page)
	}
	if findings := read(addresses[1], ".jsonl"); !strings.Contains(findings, key) || !json.Valid([]byte(findings[:strings.IndexByte(findings, '\n')])) {
		t.Errorf("the findings: %.200s", findings)
	}
	if text := told.Text(); strings.Contains(text, "X-Amz-") || !strings.Contains(text, addresses[0]) {
		t.Errorf("the alert: %s", text)
	}
}

// TestWeeklyReportOnce: the fleet makes it once in a week, again where that failed, and
// tells where there are too many keys.
func TestWeeklyReportOnce(t *testing.T) {
	a := newAccount(t)
	hand := byHand{account: sandbox.Account, region: sandbox.Region, s3: a.s3, settings: Common{StateBucket: sandbox.StateBucket, StatePrefix: "cmkeeper/"}}
	var told []alert.Alert
	sink := sinkFunc(func(got alert.Alert) error { told = append(told, got); return nil })
	made := 0
	var failure error
	schedule := func() *reportSchedule {
		s := hand.scheduleReports(1, sink, nil, slog.New(slog.DiscardHandler))
		s.make = func(context.Context) (keyreport.Report, error) {
			made++
			return keyreport.Make(keyreport.Input{Made: time.Now()}), failure
		}
		return s
	}
	failure = errors.New("no answer")
	if err := schedule().report(t.Context()); !errors.Is(err, failure) || made != 1 || len(told) != 0 {
		t.Fatalf("failed: %v, made %d, told %d", err, made, len(told))
	}
	failure = nil
	for range 3 {
		if err := schedule().report(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if made != 2 || len(told) != 1 {
		t.Errorf("made %d times, told %d times", made, len(told))
	}
	other := newAccount(t)
	hand.s3 = other.s3
	failure = keylist.ErrTooMany
	if err := schedule().report(t.Context()); err != nil || !strings.Contains(told[1].Title, "too many keys") {
		t.Errorf("too many keys: %v, %+v", err, told)
	}
}

// sinkFunc is an alert.Sink.
type sinkFunc func(alert.Alert) error

func (f sinkFunc) Publish(_ context.Context, a alert.Alert) error { return f(a) }
