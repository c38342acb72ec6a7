package handlers_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/outcome"
)

const day = 24 * time.Hour

// countdown is enforceAll with the reminders and the approvals of the default
// configuration.
func countdown(mode reaction.Mode) reaction.Config {
	c := enforceAll()
	c.Deletion = mode
	c.DeletionReminders = []time.Duration{7 * day, 3 * day, day, 6 * time.Hour}
	c.DeletionApprovalDays = 14
	return c
}

func (w *world) scheduleDeletionIn(key string, days int32) {
	w.t.Helper()
	must(w.kms.ScheduleKeyDeletion(w.ctx, &kms.ScheduleKeyDeletionInput{KeyId: &key, PendingWindowInDays: &days}))
}

func (w *world) tagKey(key, name, value string) {
	w.t.Helper()
	must(w.kms.TagResource(w.ctx, &kms.TagResourceInput{KeyId: &key, Tags: []types.Tag{{TagKey: &name, TagValue: &value}}}))
}

// sweepFor sweeps every three hours for a time, each sweep by another worker, and
// returns what was told: the severity and the title of each.
func (w *world) sweepFor(d time.Duration, c reaction.Config) []string {
	w.t.Helper()
	const every = 3 * time.Hour
	var told []string
	for range d / every {
		time.Sleep(every)
		w.router = w.newRouter(c)
		w.sweep()
		for _, a := range w.told.take() {
			told = append(told, fmt.Sprintf("%s %s", a.Severity, a.Title))
		}
	}
	return told
}

func wantTold(t *testing.T, got []string, want ...string) {
	t.Helper()
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("told:\n%s\nwant:\n%s", g, w)
	}
}

// TestCountdown: one reminder for each time, whatever worker sweeps, until the
// deletion is cancelled.
func TestCountdown(t *testing.T) {
	c := countdown(reaction.Observe)
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		w.scheduleDeletionIn(key, 10)
		w.react()
		w.one()
		wantTold(t, w.sweepFor(10*day-time.Hour, c),
			"high Key alias/orders will be deleted in 7 days and 0 hours",
			"high Key alias/orders will be deleted in 3 days and 0 hours",
			"critical Key alias/orders will be deleted in 24 hours",
			"critical Key alias/orders will be deleted in 6 hours",
		)
		must(w.kms.CancelKeyDeletion(w.ctx, &kms.CancelKeyDeletionInput{KeyId: &key}))
		must(w.kms.EnableKey(w.ctx, &kms.EnableKeyInput{KeyId: &key}))
		w.react()
		w.told.take()
		wantTold(t, w.sweepFor(day, c))
		// Another deletion has a countdown of its own.
		w.scheduleDeletionIn(key, 7)
		w.react()
		w.told.take()
		wantTold(t, w.sweepFor(5*day, c), "high Key alias/orders will be deleted in 3 days and 0 hours")
	})
}

func TestCountdownSaysWhatToDo(t *testing.T) {
	c := countdown(reaction.Observe)
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		w.bucket("orders-data", key)
		w.scheduleDeletionIn(key, 7)
		w.react()
		w.one()
		time.Sleep(6*day + time.Hour)
		w.sweep() // the first one since: three days before was missed
		a := w.one()
		if a.Severity != finding.Critical || a.Action.Status != alert.StatusNone || a.Key.DeletionDate == nil {
			t.Errorf("alert:\n%s", a.Text())
		}
		if !strings.Contains(a.Summary, "mallory") || facts(a, "buckets encrypted with it by default") != "orders-data" {
			t.Errorf("alert does not say who, or what hangs on the key:\n%s", a.Text())
		}
		if next := strings.Join(a.Next, "\n"); !strings.Contains(next, "aws kms cancel-key-deletion --key-id") || !strings.Contains(next, "aws kms enable-key --key-id") {
			t.Errorf("next:\n%s", next)
		}
	})
}

// TestCountdownAfterAFailure: a reminder that could not be told is told by the
// next sweep, once.
func TestCountdownAfterAFailure(t *testing.T) {
	c := countdown(reaction.Observe)
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		w.scheduleDeletionIn(key, 7)
		w.react()
		w.one()
		time.Sleep(4*day + time.Hour)
		w.told.broken = true
		if err := w.router.Sweep(w.ctx); err == nil {
			t.Fatal("the sweep does not say that it could not tell")
		}
		w.told.broken = false
		var wg sync.WaitGroup
		for range 3 { // workers whose sweeps overlap
			wg.Go(func() {
				if d := outcome.Of(w.newRouter(c).Sweep(w.ctx)); d.Action != outcome.Delete && d.Action != outcome.Delay {
					t.Errorf("outcome %v: %v", d.Action, d.Err)
				}
			})
		}
		wg.Wait()
		if a := w.one(); !strings.Contains(a.Title, "2 days and 23 hours") {
			t.Errorf("alert:\n%s", a.Text())
		}
		before := w.aws.Requests("kms", "GetKeyLastUsage")
		w.sweep()
		w.none()
		if got := w.aws.Requests("kms", "GetKeyLastUsage"); got != before {
			t.Errorf("a sweep with nothing to tell looked %d times what hangs on the key", got-before)
		}
	})
}

// TestCountdownWhereNothingCanBeUndone: enforce is not allowed to cancel, so the
// key goes on being lost, and people go on being told.
func TestCountdownWhereNothingCanBeUndone(t *testing.T) {
	c := countdown(reaction.Enforce)
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "kms:CancelKeyDeletion" })
		w.scheduleDeletionIn(key, 7)
		w.events()
		if err := w.router.Sweep(w.ctx); err == nil {
			t.Fatal("the sweep does not say that it could not cancel")
		}
		w.one()
		time.Sleep(4*day + time.Hour)
		if err := w.router.Sweep(w.ctx); err == nil {
			t.Fatal("the sweep does not say that it could not cancel")
		}
		if a := w.one(); !strings.Contains(a.Title, "will be deleted in 2 days") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

func TestNoCountdownOfAnApprovedDeletion(t *testing.T) {
	c := countdown(reaction.Enforce)
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		w.approve(key, 8)
		w.react()
		w.one()
		wantTold(t, w.sweepFor(8*day-time.Hour, c))
	})
}

func TestExpiryOfImportedMaterialIsAnnounced(t *testing.T) {
	c := countdown(reaction.Observe)
	inWorld(t, c, func(w *world) {
		key := w.newKey(kms.CreateKeyInput{Origin: types.OriginTypeExternal})
		w.importMaterial(key, make([]byte, 32), aws.Time(time.Now().Add(4*day)))
		w.react()
		w.told.take()
		name := key[len(key)-36:]
		wantTold(t, w.sweepFor(4*day-time.Hour, c),
			"high Imported key material of "+name+" expires in 3 days and 21 hours",
			"high Imported key material of "+name+" expires in 3 days and 0 hours",
			"critical Imported key material of "+name+" expires in 24 hours",
			"critical Imported key material of "+name+" expires in 6 hours",
		)
	})
}

func TestDeletionApprovedByTag(t *testing.T) {
	c := countdown(reaction.Enforce)
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		w.tagKey(key, "cmkeeper:deletion-approved", time.Now().UTC().Format(time.DateOnly))
		w.sweepFor(27*time.Hour, c)
		w.scheduleDeletionIn(key, 30)
		w.react()
		a := w.one()
		if a.Severity != finding.Info || a.Action.Status != alert.StatusNone || !strings.Contains(a.Title, "as approved") || !strings.Contains(a.Summary, "cmkeeper:deletion-approved=2000-01-01 approves it") {
			t.Errorf("alert:\n%s", a.Text())
		}
		if facts(a, "grants") != "none" {
			t.Errorf("alert does not say what hangs on the key:\n%s", a.Text())
		}
		// The approval does not run out while the deletion waits, and its reminders are notes.
		wantTold(t, w.sweepFor(30*day-time.Hour, c),
			"info Key alias/orders will be deleted in 7 days and 0 hours, as approved",
			"info Key alias/orders will be deleted in 3 days and 0 hours, as approved",
			"info Key alias/orders will be deleted in 24 hours, as approved",
			"info Key alias/orders will be deleted in 6 hours, as approved",
		)
		if got := w.state(key); got != "PendingDeletion" {
			t.Errorf("state %s, want PendingDeletion", got)
		}
		time.Sleep(day)
		w.react()
		if a := w.one(); a.Severity != finding.Medium || !strings.Contains(a.Title, "was deleted, as approved") {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

// TestApprovalTagOfAnAttacker: whoever sets the tag and schedules the deletion is
// undone, however old the key is.
func TestApprovalTagOfAnAttacker(t *testing.T) {
	for name, tt := range map[string]struct {
		tag  func(*world, string)
		want string
	}{
		"set minutes before": {func(w *world, key string) {
			w.tagKey(key, "cmkeeper:deletion-approved", time.Now().UTC().Format(time.DateOnly))
			w.sweepFor(3*time.Hour, countdown(reaction.Enforce))
		}, "does not approve the deletion: a sweep must have found it"},
		"malformed": {func(w *world, key string) { w.tagKey(key, "cmkeeper:deletion-approved", "yes\x1b[2J") }, "its value is not a date"},
		"expired":   {func(w *world, key string) { w.tagKey(key, "cmkeeper:deletion-approved", "1999-11-01") }, "more than 14 days before"},
		"future":    {func(w *world, key string) { w.tagKey(key, "cmkeeper:deletion-approved", "2001-01-01") }, "the date is in the future"},
		"unread": {func(w *world, key string) {
			w.tagKey(key, "cmkeeper:deletion-approved", time.Now().UTC().Format(time.DateOnly))
			w.sweepFor(27*time.Hour, countdown(reaction.Enforce))
			w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "kms:ListResourceTags" })
		}, "unknown: the key's tags may not be read"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, countdown(reaction.Enforce), func(w *world) {
				key := w.knownKey("alias/orders")
				tt.tag(w, key)
				w.react()
				w.told.take()
				w.scheduleDeletion(key)
				w.react()
				if got := w.state(key); got != "Enabled" {
					t.Errorf("state %s, want Enabled", got)
				}
				a := w.one()
				if a.Severity != finding.Critical || a.Action.Status != alert.StatusDone || !strings.Contains(facts(a, "approval by tag"), tt.want) {
					t.Errorf("alert:\n%s", a.Text())
				}
			})
		})
	}
}

func TestShortWindow(t *testing.T) {
	c := countdown(reaction.Enforce)
	c.DeletionMinWindowDays = 14
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		w.tagKey(key, "cmkeeper:deletion-approved", time.Now().UTC().Format(time.DateOnly))
		w.sweepFor(27*time.Hour, c)
		w.scheduleDeletionIn(key, 13)
		w.react()
		a := w.one()
		if a.Severity != finding.High || !strings.Contains(a.Title, "as approved") || findingIDs(a) != "short-window" {
			t.Errorf("alert:\n%s", a.Text())
		}
		must(w.kms.CancelKeyDeletion(w.ctx, &kms.CancelKeyDeletionInput{KeyId: &key}))
		w.react()
		w.sweepFor(3*time.Hour, c)
		w.scheduleDeletionIn(key, 14)
		w.react()
		if a := w.one(); a.Severity != finding.Info || findingIDs(a) != "" {
			t.Errorf("alert:\n%s", a.Text())
		}
	})
}

// TestDeletionOfAMultiRegionPrimary: it waits for its replicas without a date; the
// primary comes back, and the replica of the other Region is named and not touched.
func TestDeletionOfAMultiRegionPrimary(t *testing.T) {
	c := countdown(reaction.Enforce)
	inWorld(t, c, func(w *world) {
		key := w.newKey(kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
		must(w.kms.ReplicateKey(w.ctx, &kms.ReplicateKeyInput{KeyId: &key, ReplicaRegion: aws.String("us-west-2")}))
		w.react()
		w.sweep()
		w.told.take()
		time.Sleep(2 * time.Second)
		w.scheduleDeletion(key)
		if got := w.state(key); got != "PendingReplicaDeletion" {
			t.Fatalf("state %s, want PendingReplicaDeletion", got)
		}
		w.react()
		if got := w.state(key); got != "Enabled" {
			t.Errorf("state %s, want Enabled as before", got)
		}
		a := w.one()
		if a.Severity != finding.Critical || a.Action.Status != alert.StatusDone || !strings.Contains(a.Summary, "after its last replica is deleted") {
			t.Errorf("alert:\n%s", a.Text())
		}
		replica := strings.Replace(key, region, "us-west-2", 1)
		if got := facts(a, "multi-Region keys of the same material"); !strings.HasPrefix(got, replica+" is a replica") {
			t.Errorf("related keys %q", got)
		}
	})
}

func TestPendingReplicaDeletionHasNoCountdown(t *testing.T) {
	c := countdown(reaction.Observe)
	inWorld(t, c, func(w *world) {
		key := w.newKey(kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
		must(w.kms.ReplicateKey(w.ctx, &kms.ReplicateKeyInput{KeyId: &key, ReplicaRegion: aws.String("us-west-2")}))
		w.scheduleDeletion(key)
		w.react()
		w.sweep()
		w.told.take()
		wantTold(t, w.sweepFor(5*day, c))
	})
}
