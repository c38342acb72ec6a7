package cli

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// written is what a function writes.
func written(f func(io.Writer)) string {
	var out bytes.Buffer
	f(&out)
	return out.String()
}

// TestJobsSayClientSideEncryption: what is printed of a job says where data keys were looked
// for, and what came of them.
func TestJobsSayClientSideEncryption(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	looked := reencrypt.Summary{
		Job: "j1", Bucket: "b", Prefix: "p/", From: []string{"OLD"}, To: "NEW", EnvelopesIn: reencrypt.EnvelopesMetadata, State: reencrypt.StateComplete, Passes: 2,
		Counts: reencrypt.Counts{
			Scanned: 9, Moved: 7, Refused: 1, Skipped: 1, ByReason: map[reencrypt.Reason]int64{"envelope-format": 1, "other-key": 1},
			Envelopes: map[string]int64{"s3-client-v2": 4, "s3-client-v1, not KMS": 1}, Rewrapped: map[reencrypt.Reason]int64{reencrypt.ReasonOnTarget: 3},
		},
		Started: start, Finished: start.Add(time.Second),
	}
	off := looked
	off.EnvelopesIn, off.Envelopes, off.Rewrapped, off.ByReason = "", nil, nil, nil
	summary := func(s reencrypt.Summary, dry bool) string {
		return written(func(w io.Writer) { _ = printSummary(w, s, dry) })
	}
	status := func(s reencrypt.Summary) string {
		return written(func(w io.Writer) {
			_ = printStatus(w, reencrypt.Status{Summary: s, Method: reencrypt.MethodUpdate, Versions: reencrypt.VersionsAll, Slices: 1, Done: 1, Planned: true})
		})
	}
	for name, tt := range map[string]struct{ got, want string }{
		"summary": {summary(looked, false), `b/p/: 9 versions scanned, 7 moved, 1 skipped, 1 refused, 0 failed (1s, 2 passes)
         1  envelope-format
         1  other-key
  Client-side encryption was found in 5 object versions (s3-client-v1, not KMS:
    1; s3-client-v2: 4).
  Data keys were moved in 3 object versions.
  Data keys were refused (envelope-format: 1).
  Contents were not looked at.
`},
		"dry run": {summary(looked, true), `b/p/: 9 versions scanned, 7 would move, 1 skipped, 1 refused, 0 failed (1s, 2 passes)
         1  envelope-format
         1  other-key
  Client-side encryption was found in 5 object versions (s3-client-v1, not KMS:
    1; s3-client-v2: 4).
  Data keys would move in 3 object versions.
  Data keys would be refused (envelope-format: 1).
  Contents were not looked at.
`},
		"summary, off": {summary(off, false), `b/p/: 9 versions scanned, 7 moved, 1 skipped, 1 refused, 0 failed (1s, 2 passes)
  Client-side encryption was not looked for.
`},
		"status": {status(looked), `job              j1
state            complete
place            s3://b/p/
from             OLD
to               NEW
method           update, versions: all
started          2026-03-01T12:00:00Z
finished         2026-03-01T12:00:01Z
pass             2, 1 of 1 slices (100 %)
counts           9 gone through, 7 moved, 1 skipped, 1 refused, 0 failed
envelope-format  1
other-key        1
client-side      Client-side encryption was found in 5 object versions (s3-client-v1, not KMS: 1; s3-client-v2: 4).
client-side      Data keys were moved in 3 object versions.
client-side      Data keys were refused (envelope-format: 1).
client-side      Contents were not looked at.
`},
		"watch": {
			watchText(reencrypt.Status{Summary: looked, Slices: 1, Done: 1, Planned: true}, 0),
			"complete, pass 2, 1 of 1 slices (100 %): 9 gone through, 7 moved, 1 skipped, 1 refused, 0 failed; not moved: envelope-format 1; Client-side encryption was found in 5 object versions (s3-client-v1, not KMS: 1; s3-client-v2: 4). Data keys were moved in 3 object versions. Data keys were refused (envelope-format: 1). Contents were not looked at",
		},
		"watch, off": {
			watchText(reencrypt.Status{Summary: off, Slices: 1, Done: 1, Planned: true}, 0),
			"complete, pass 2, 1 of 1 slices (100 %): 9 gone through, 7 moved, 1 skipped, 1 refused, 0 failed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(strings.Split(tt.want, "\n"), strings.Split(tt.got, "\n")); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestPlanSaysClientSideEncryption(t *testing.T) {
	plan := reencrypt.Plan{To: "NEW", Buckets: []reencrypt.BucketPlan{{
		Bucket: "b", From: []string{"OLD"}, To: "NEW", Method: reencrypt.MethodUpdate, Envelopes: reencrypt.EnvelopesContent,
		Survey: reencrypt.Survey{Listed: 15, Read: 15, Groups: []reencrypt.Group{
			{Key: "OLD", StorageClass: "STANDARD", Size: "< 128 KiB", Action: "update", Versions: 6},
			{Key: "OTHER", StorageClass: "STANDARD", Size: "< 128 KiB", Action: "re-wrap", Envelope: "s3-client-v2", Sealed: true, Versions: 4},
			{Key: "OLD", StorageClass: "STANDARD", Size: "< 128 KiB", Action: "update", Reason: "envelope-file", Envelope: "sops", Sealed: true, Versions: 3},
			{Key: "OTHER", StorageClass: "STANDARD", Size: "< 128 KiB", Action: "skip", Reason: "other-key", Envelope: "tink", Versions: 2},
		}},
	}}}
	got := written(func(w io.Writer) { printPlan(w, plan, 0) })
	want := `           6        0 B  STANDARD     < 128 KiB  update  OLD
           4        0 B  STANDARD     < 128 KiB  re-wrap, s3-client-v2  OTHER
           3        0 B  STANDARD     < 128 KiB  update, envelope-file, sops  OLD
           2  not under an old key: other-key
  Client-side encryption was found in 9 object versions (s3-client-v2: 4; sops:
    3; tink: 2).
  Data keys would move in 4 object versions.
  Data keys would be refused (envelope-file: 3).
  In 3 object versions the object would move, and its data key would not.
`
	if !strings.Contains(got, want) {
		t.Error(cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")))
	}
}

// TestDataKeysFromPlanToReport moves data keys by the commands, in a plan, a dry run, a job
// and a run, and reads in each what came of them.
func TestDataKeysFromPlanToReport(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		a.enter()
		oldKey, newKey := a.newKey(appAlias), a.newKey("")
		a.fill("app-data", appAlias, 3)
		must(a.s3.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("app-data"), Key: aws.String("sealed"), Body: strings.NewReader("sealed"), Metadata: sealedMetadata(t, a.kms, oldKey)}))(t)
		says := func(what, out string, wants ...string) {
			t.Helper()
			for _, want := range wants {
				if !strings.Contains(out, want) {
					t.Errorf("%s does not say %q:\n%s", what, want, out)
				}
			}
		}
		run := func(args ...string) string {
			t.Helper()
			code, out, errs := a.command(append([]string{"reencrypt", "run"}, args...)...)
			if code != exitOK {
				t.Fatalf("%q: exit code %d: %s%s", args, code, out, errs)
			}
			return out
		}
		const found, would, did = "Client-side encryption was found in 1 object version (s3-client-v2: 1).", "Data keys would move in 1 object version.", "Data keys were moved in 1 object version."
		move := []string{"--bucket", "app-data", "--from", oldKey, "--to", newKey}
		looking := slices.Concat(move, []string{"--envelopes", "metadata"})
		says("a plan that does not look", a.ok(append([]string{"plan"}, move...)...), "Client-side encryption was not looked for.")
		says("a plan", a.ok(append([]string{"plan"}, looking...)...), "re-wrap, s3-client-v2", found, would, "warn envelopes: ")
		says("a dry run", run(slices.Concat(looking, []string{"--dry-run"})...), found, would)
		a.expectUnder("app-data", oldKey, 4)

		// A job that is cancelled before it begins names a command that looks as it did.
		started := a.ok(append([]string{"start"}, looking...)...)
		says("start", started, "Client-side encryption is looked for in metadata and instruction files.")
		job := strings.Fields(started)[0]
		says("a list", a.ok("list"), "ENVELOPES", "  metadata  ")
		says("a cancelled job", a.ok("cancel", job), "--to "+newKey+" --envelopes metadata\n", "Client-side encryption is looked for in metadata and instruction files.")

		time.Sleep(time.Second) // fake time: an order's id has the second in which it was given
		job = strings.Fields(a.ok(append([]string{"start"}, looking...)...))[0]
		a.start()
		a.awaitQuiet()
		says("watch", a.ok("watch", job), found, did)
		says("status", a.ok("status", job), found, did)
		says("a report", a.ok("report", job), found, did, "note: Moving a data key does not change it")
		a.expectUnder("app-data", newKey, 4)

		back := run("--bucket", "app-data", "--from", newKey, "--to", oldKey, "--envelopes", "content")
		says("a run", back, found, did)
		says("a run that does not look", run(move...), "Client-side encryption was not looked for.")
		says("a plan after it", a.ok("plan", "--bucket", "app-data", "--from", oldKey, "--to", newKey, "--envelopes", "metadata"), "re-wrap, s3-client-v2  "+newKey)
	})
}
