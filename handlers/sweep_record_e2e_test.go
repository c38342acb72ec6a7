package handlers_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
)

// A sweep says in one record, and in one line of the log, what it has looked at, what it
// found and did, and what it could not read.
func TestSweepsAreRecorded(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		var log bytes.Buffer
		w.router = w.newRouterWith(enforceAll(), func(d *reaction.Deps) { d.Logger = slog.New(slog.NewJSONHandler(&log, nil)) })
		key := w.rotatingKey(180)
		w.newKey(kms.CreateKeyInput{})
		shut := w.newKey(kms.CreateKeyInput{})
		w.bucket("data", key)
		w.sweep()
		w.disableRotation(key)
		w.putPolicy(shut, takeover)
		w.events()
		time.Sleep(time.Hour)
		log.Reset()
		w.sweep()
		all := w.records()
		if len(all) != 2 {
			t.Fatalf("%d records", len(all))
		}
		r := all[1]
		got := r.Totals
		if r.Run <= all[0].Run || !r.Whole || r.Shards != 1 || r.Ended.Before(r.Began) {
			t.Errorf("record: %+v", r)
		}
		if got.Keys != 3 || got.Changed != 3 || got.Buckets != 2 || got.CanRotate != 3 || got.Rotates != 0 || got.Repairs != 1 || got.Dangers["critical"] != 1 || got.DangersOf != 3 {
			t.Errorf("totals: %+v", got)
		}
		if got.Requests["DescribeKey"] < 3 || got.Requests["ListKeys"] != 1 || got.NotRolled != 0 || got.OldestRolled.Before(r.Began) {
			t.Errorf("totals: %+v", got)
		}
		var line struct {
			Msg, Run               string
			Keys, Changed, Repairs int
			OK                     bool
		}
		for _, text := range bytes.Split(bytes.TrimSpace(log.Bytes()), []byte("\n")) {
			if bytes.Contains(text, []byte(`"sweep ended"`)) {
				if err := json.Unmarshal(text, &line); err != nil {
					t.Fatal(err)
				}
			}
		}
		if line.Run != r.Run || line.Keys != 3 || line.Changed != 3 || line.Repairs != 1 || !line.OK {
			t.Errorf("the log says %+v:\n%s", line, &log)
		}
		w.told.take()
		// What may not be read is no zero value, and ends no danger.
		deny := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"},{"Effect":"Deny","Principal":{"AWS":"arn:aws:iam::` + account + `:role/cmkeeper"},"Action":["kms:GetKeyPolicy"],"Resource":"*"}]}`
		w.putPolicy(shut, deny)
		w.events()
		time.Sleep(time.Hour)
		w.sweep()
		all = w.records()
		if got := all[2].Totals; got.Unread != 1 || len(got.UnreadOf) != 1 || got.Dangers["critical"] != 1 || got.Keys != 3 {
			t.Errorf("totals: %+v", got)
		}
		w.told.take()
		// A key that nothing has changed of has the dangers that it had.
		for range 3 {
			w.events()
			time.Sleep(time.Hour)
			w.sweep()
		}
		all = w.records()
		if got := all[len(all)-1].Totals; got.Changed >= got.Keys || got.Dangers["critical"] != 1 || got.DangersOf != 3 {
			t.Errorf("totals: %+v", got)
		}
		w.told.take()
	})
}

// Of a week all records are kept, and of the days before one each; each sweep deletes a
// little.
func TestOldRecordsAreDeleted(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		now := time.Now()
		for day := 1; day <= 10; day++ {
			for hour := range 3 {
				at := now.AddDate(0, 0, -day).Truncate(24 * time.Hour).Add(time.Duration(hour) * time.Hour)
				must(w.store().Put(w.ctx, ledger.RecordName(ledger.RunName(at, "X"), at), &ledger.SweepRecord{Began: at}, ""))
			}
		}
		old := now.AddDate(0, 0, -500)
		must(w.store().Put(w.ctx, ledger.RecordName("old", old), &ledger.SweepRecord{Began: old}, ""))
		for range 30 {
			w.sweep()
			time.Sleep(time.Hour)
		}
		perDay := map[string]int{}
		for _, r := range w.records() {
			perDay[r.Began.Format(time.DateOnly)]++
			if r.Began.Before(now.AddDate(0, 0, -9)) && r.Began.Hour() != 2 {
				t.Errorf("of its day the record of %s is left", r.Began)
			}
		}
		for day := 1; day <= 10; day++ {
			want := 3
			if day >= 7 { // 30 hours have passed
				want = 1
			}
			if got := perDay[now.AddDate(0, 0, -day).Format(time.DateOnly)]; got != want {
				t.Errorf("%d records from %d days before, want %d", got, day, want)
			}
		}
		if perDay[old.Format(time.DateOnly)] != 0 {
			t.Error("a record that is older than 400 days is left")
		}
	})
}
