package keyreport

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/retire"
	"github.com/cmkeeper/cmkeeper/state"
)

// jobs are those of a fleet. The report of a job may be unreadable.
type jobs struct {
	all []reencrypt.Summary
	err error
}

func (j jobs) Jobs(context.Context, bool) ([]reencrypt.Summary, error) { return j.all, nil }

func (j jobs) Report(_ context.Context, id string) (reencrypt.Summary, error) {
	return reencrypt.Summary{Job: id, State: reencrypt.StateComplete, Counts: reencrypt.Counts{Moved: 7}}, j.err
}

// newState is an empty state, and what puts an object into its bucket.
func newState(t *testing.T) (*state.Store, func(key, body string)) {
	t.Helper()
	server := localaws.New(localaws.Options{Account: account})
	t.Cleanup(server.Close)
	client := s3.NewFromConfig(inprocess.Config(server, "us-east-1", "ada"), func(o *s3.Options) { o.UsePathStyle = true })
	if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("state")}); err != nil {
		t.Fatal(err)
	}
	return state.New(client, "state", "c/", account), func(key, body string) {
		t.Helper()
		if _, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("state"), Key: aws.String("c/" + key), Body: bytes.NewReader([]byte(body))}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadHistory(t *testing.T) {
	store, put := newState(t)
	write := func(key string, doc state.Document) {
		t.Helper()
		if _, err := store.Put(t.Context(), key, doc, ""); err != nil {
			t.Fatal(err)
		}
	}
	// As the fleet writes it.
	record := func(began, totals string) string {
		return `{"schema":"cmkeeper.sweep-record.v1","write":"T","run":"r","began":"` + began + `","ended":"2026-11-29T07:05:00Z","seconds":300,"shards":1,"whole":true,"totals":` + totals + `}`
	}
	put("sweeps/records/2026-11-29/b.json", record("2026-11-29T07:00:00Z", `{"keys":10,"others":2,"changed":3,"can_rotate":8,"rotates":6,"open":{"high":1},"dangers":{"high":2},"dangers_of":10,"repairs":1,"alerts":{"high":2},"unread":4}`))
	put("sweeps/records/2026-11-28/a.json", record("2026-11-28T07:00:00Z", `{"keys":9}`))
	const arn = "arn:aws:kms:us-east-1:111122223333:key/k"
	write(ledger.KeyName(arn), &ledger.Key{
		ARN: arn,
		Repairs: []ledger.Repair{
			{Reaction: "rotation", By: "e1", At: made.Add(4 * time.Second), Against: &ledger.Party{Name: "eve", At: made}, Done: true},
			{Reaction: "rotation", By: "e2", At: made.Add(time.Hour), Against: &ledger.Party{Name: "eve", At: made, Unconfirmed: true}, Done: true},
			{Reaction: "deletion", By: "sweep", At: made, Done: true},
			{Reaction: "deletion", By: "e3", At: made},
		},
		Circuits: []ledger.Circuit{{Reaction: "rotation", By: "e9", At: made}},
	})
	write("retirements/x.json", &retire.Approval{Key: arn, By: "ada", At: made, Days: 9, Accepted: []string{"last-use"}})
	if _, err := ledger.AcceptPolicy(t.Context(), store, arn, `{"Statement":[]}`, "ada"); err != nil {
		t.Fatal(err)
	}

	if h := ReadHistory(t.Context(), store, nil); !strings.Contains(h.Canary.NotKnown, "no canary has come back") {
		t.Errorf("without a canary: %+v", h.Canary)
	}
	write(ledger.CanaryName, &ledger.Canary{Key: arn, Flown: []ledger.Flown{{At: made, TookMS: 2000}, {At: made, TookMS: 4000}}, Lost: 1})

	h := ReadHistory(t.Context(), store, jobs{all: []reencrypt.Summary{{Job: "j1", State: reencrypt.StateComplete}, {Job: "j2", State: reencrypt.StateRunning}}})
	if want := (Canary{Measured: 2, Mean: 3, Longest: 4, Lost: 1}); h.Canary != want {
		t.Errorf("canary: %+v, want %+v", h.Canary, want)
	}
	if h.SweepsNotKnown+h.RecordsNotKnown+h.JobsNotKnown != "" {
		t.Errorf("not known: %+v", h)
	}
	if s := h.Sweeps; len(s) != 2 || s[0].Keys != 9 || s[1].Keys != 10 || s[1].Changed != 3 || s[1].Rotates != 6 || s[1].CanRotate != 8 || s[1].Open["high"] != 1 || s[1].Dangers["high"] != 2 || !s[1].counted() || s[0].counted() || s[1].Unread != 4 || s[1].Alerts["high"] != 2 || !s[1].Whole || s[1].Repairs != 1 {
		t.Errorf("sweeps: %+v", s)
	}
	if r := h.Repairs; r.Count != 3 || r.Measured != 2 || r.Unconfirmed != 1 || r.Mean != 1802 || r.By["rotation"].Count != 2 || r.By["deletion"].Count != 1 || r.By["deletion"].Measured != 0 {
		t.Errorf("repairs: %+v", r)
	}
	if len(h.Stopped) != 1 || len(h.Approved) != 1 || h.Approved[0].Unknown[0] != "last-use" || len(h.Accepted) != 1 || h.Accepted[0].By != "ada" {
		t.Errorf("stopped %+v, approved %+v, accepted %+v", h.Stopped, h.Approved, h.Accepted)
	}
	if len(h.Jobs) != 2 || h.Jobs[0].Moved != 7 || h.Jobs[1].State != reencrypt.StateRunning {
		t.Errorf("jobs: %+v", h.Jobs)
	}
}

// TestUnreadHistory: what cannot be read is said, and the rest is there.
func TestUnreadHistory(t *testing.T) {
	store, put := newState(t)
	put("keys/a.json", "no JSON")
	put("keys/b.json", `{"schema":"cmkeeper.key.v1","write":"T","arn":"b","repairs":[{"reaction":"rotation","by":"e","alert":"a","at":"2026-11-29T07:05:00Z","done":true}]}`)
	put("sweeps/records/2026-11-28/a.json", `{"schema":"cmkeeper.sweep-record.v99"}`)
	h := ReadHistory(t.Context(), store, jobs{all: []reencrypt.Summary{{Job: "j1", State: reencrypt.StateComplete}}, err: errors.New("no report")})
	if !strings.Contains(h.RecordsNotKnown, "keys/a.json") || h.Repairs.Count != 1 || h.SweepsNotKnown == "" || !strings.Contains(h.JobsNotKnown, "no report") || len(h.Jobs) != 1 {
		t.Errorf("%+v", h)
	}
	if h := ReadHistory(t.Context(), store, nil); h.JobsNotKnown == "" {
		t.Error("jobs that are not read are none")
	}
}
