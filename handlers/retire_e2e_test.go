package handlers_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/retire"
	"github.com/cmkeeper/cmkeeper/state"
)

// approve schedules a deletion as cmkeeper retire schedule does.
func (w *world) approve(key string, days int) {
	w.t.Helper()
	store := state.New(w.s3, stateBucket, "cmkeeper/", account)
	must(retire.Schedule(w.ctx, w.kms, store, retire.Result{Key: key, Free: true, Accepted: []string{"uploads:orders-data"}}, "arn:aws:iam::"+account+":user/olga", days))
}

func TestApprovedDeletionIsNotUndone(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.approve(key, 7)
		w.react()
		if got := w.state(key); got != "PendingDeletion" {
			t.Errorf("state %s, want PendingDeletion", got)
		}
		a := w.one()
		if a.Severity != finding.Medium || a.Action.Status != alert.StatusNone || !strings.Contains(a.Title, "as approved") || !strings.Contains(a.Summary, "user/olga approved it") {
			t.Errorf("alert:\n%s", a.Text())
		}
		if got := facts(a, "unknown, and accepted by the approval"); got != "uploads:orders-data" {
			t.Errorf("accepted %q", got)
		}
		for range 3 { // the sweeps leave it alone, too, and it is told already
			time.Sleep(24 * time.Hour)
			w.sweep()
			w.none()
		}
		if got := w.state(key); got != "PendingDeletion" {
			t.Errorf("after the sweeps the state is %s", got)
		}

		time.Sleep(5 * 24 * time.Hour)
		w.react()
		for _, a := range w.told.take() {
			if a.Kind == alert.KindDeletion && (a.Severity != finding.Medium || !strings.Contains(a.Title, "was deleted, as approved")) {
				t.Errorf("alert:\n%s", a.Text())
			}
		}
	})
}

// TestApprovalIsOfOneDate: an approval cannot be used for an earlier deletion.
func TestApprovalIsOfOneDate(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.approve(key, 30)
		w.react()
		w.one()
		must(w.kms.CancelKeyDeletion(w.ctx, &kms.CancelKeyDeletionInput{KeyId: &key}))
		must(w.kms.EnableKey(w.ctx, &kms.EnableKeyInput{KeyId: &key}))
		w.react()
		w.sweep()
		w.told.take()
		time.Sleep(time.Hour)
		must(w.kms.ScheduleKeyDeletion(w.ctx, &kms.ScheduleKeyDeletionInput{KeyId: &key, PendingWindowInDays: aws.Int32(7)}))
		w.react()
		if got := w.state(key); got != "Enabled" {
			t.Errorf("state %s, want Enabled as before", got)
		}
		if a := w.one(); a.Severity != finding.Critical || a.Action.Status != alert.StatusDone {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}
