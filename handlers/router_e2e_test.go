package handlers_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/handlers/sweep"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/posture"
)

func TestHandleWhatIsNoEvent(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		for _, body := range []string{"", "garbage", "{}", `{"detail":`, strings.Repeat("x", 1<<20)} {
			if d := outcome.Of(w.router.Handle(w.ctx, handlers.Message{Body: []byte(body)})); d.Action != outcome.DeadLetter {
				t.Errorf("outcome of %.20q is %v, want dead-letter", body, d.Action)
			}
		}
		w.none()
	})
}

func TestHandleWhatNothingReactsTo(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		must(w.kms.UpdateKeyDescription(w.ctx, &kms.UpdateKeyDescriptionInput{KeyId: &key, Description: &key}))
		w.react()
		ec2 := `{"version":"0","id":"6a7e8feb","detail-type":"EC2 Instance State-change Notification","source":"aws.ec2","account":"` + account + `","time":"2000-01-01T00:00:00Z","region":"` + region + `","resources":[],"detail":{}}`
		if err := w.handle(ec2); err != nil {
			t.Error(err)
		}
		w.none()
	})
}

func TestRefusedAttempts(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.aws.SetIdentityPolicy("mallory", func(action, _ string) bool {
			return action != "kms:ScheduleKeyDeletion" && action != "kms:UpdateKeyDescription"
		})
		for range 3 { // one after the other, and later once more
			for range 5 {
				if _, err := w.kms.ScheduleKeyDeletion(w.ctx, &kms.ScheduleKeyDeletionInput{KeyId: &key}); err == nil {
					t.Fatal("not refused")
				}
			}
			if _, err := w.kms.UpdateKeyDescription(w.ctx, &kms.UpdateKeyDescriptionInput{KeyId: &key, Description: &key}); err == nil {
				t.Fatal("not refused")
			}
			w.react()
		}
		a := w.one()
		if a.Kind != alert.KindAccess || a.Severity != finding.High || !strings.Contains(a.Actor.Name, "mallory") || a.Action.Status != alert.StatusNone || len(a.Next) == 0 {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.router = w.newRouter(enforceAll()) // another worker does not know what was told
		time.Sleep(time.Hour)
		if _, err := w.kms.ScheduleKeyDeletion(w.ctx, &kms.ScheduleKeyDeletionInput{KeyId: &key}); err == nil {
			t.Fatal("not refused")
		}
		w.react()
		w.one()
		if got := w.state(key); got != "Enabled" {
			t.Errorf("state %s", got)
		}
	})
}

func TestOurOwnCallsAreEchoes(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		w.sweep()
		w.disableRotation(key)
		w.react() // handles the event of our own EnableKeyRotation, too
		w.scheduleDeletion(key)
		w.react() // and those of CancelKeyDeletion and EnableKey
		for _, a := range w.told.take() {
			if a.Kind == alert.KindGuard {
				t.Errorf("our own call was taken for somebody else's:\n%s", a.Text())
			}
		}
	})
}

func TestSomebodyElseWithOurRole(t *testing.T) {
	tests := []struct {
		name string
		do   func(w *world, impostor *kms.Client, key string)
	}{
		{"a call that we never make", func(w *world, impostor *kms.Client, key string) {
			must(impostor.DisableKey(w.ctx, &kms.DisableKeyInput{KeyId: &key}))
		}},
		{"a call that we make, but did not", func(w *world, impostor *kms.Client, key string) {
			w.enableRotation(key, 180)
			must(impostor.EnableKeyRotation(w.ctx, &kms.EnableKeyRotationInput{KeyId: &key}))
		}},
		{"the same call as ours, a moment later", func(w *world, impostor *kms.Client, key string) {
			w.enableRotation(key, 180)
			w.react()
			w.disableRotation(key)
			w.react()
			w.told.take()
			must(impostor.EnableKeyRotation(w.ctx, &kms.EnableKeyRotationInput{KeyId: &key}))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, enforceAll(), func(w *world) {
				key := w.knownKey("alias/orders")
				tt.do(w, kms.NewFromConfig(inprocess.Config(w.aws, region, keeperKey)), key)
				w.react()
				var guards []alert.Alert
				for _, a := range w.told.take() {
					if a.Kind == alert.KindGuard {
						guards = append(guards, a)
					}
				}
				if len(guards) != 1 || guards[0].Severity != finding.Critical {
					t.Fatalf("%d guard alerts, want one that is critical:\n%s", len(guards), texts(guards))
				}
				if got := w.state(key); got != "Enabled" {
					t.Errorf("state %s: what the impostor did was not undone", got)
				}
			})
		})
	}
}

func TestScheduledEventSweeps(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		w.events()
		scheduled := `{"version":"0","id":"7a1b","detail-type":"Scheduled Event","source":"aws.events","account":"` + account + `","time":"2000-01-01T00:00:00Z","region":"` + region + `","resources":["arn:aws:events:` + region + `:` + account + `:rule/sweep"],"detail":{}}`
		if err := w.handle(scheduled); err != nil {
			t.Fatal(err)
		}
		if got := w.rotation(key); got != 180 {
			t.Errorf("rotation period %d, want 180", got)
		}
	})
}

func TestStartupSweepIsOnePerFleet(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		w.knownKey("alias/orders")
		before := w.moves.resumed
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				r := w.newRouter(enforceAll())
				d := outcome.Of(r.StartupSweep(w.ctx))
				for d.Action == outcome.Delay {
					time.Sleep(d.After)
					d = outcome.Of(r.StartupSweep(w.ctx))
				}
				if d.Err != nil {
					t.Error(d.Err)
				}
			})
		}
		wg.Wait()
		if got := w.moves.resumed - before; got != 1 {
			t.Errorf("%d sweeps, want 1", got)
		}
		time.Sleep(time.Hour)
		if err := w.newRouter(enforceAll()).StartupSweep(w.ctx); err != nil {
			t.Fatal(err)
		}
		if got := w.moves.resumed - before; got != 2 {
			t.Errorf("%d sweeps after an hour, want 2", got)
		}
	})
}

// TestStartupSweepAfterAnOutage: what happened while nobody received is looked for at once,
// by one worker of those that start, however short a time ago the last sweep began. A
// rolling deployment is no outage.
func TestStartupSweepAfterAnOutage(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.rotatingKey(180)
		before := w.moves.resumed
		start := func(workers, want int) {
			t.Helper()
			var wg sync.WaitGroup
			for range workers {
				wg.Go(func() {
					r := w.newRouter(enforceAll())
					d := outcome.Of(r.StartupSweep(w.ctx))
					for d.Action == outcome.Delay {
						time.Sleep(d.After)
						d = outcome.Of(r.StartupSweep(w.ctx))
					}
					if d.Err != nil {
						t.Error(d.Err)
					}
				})
				time.Sleep(time.Second)
			}
			wg.Wait()
			if got := w.moves.resumed - before; got != want {
				t.Errorf("%d sweeps, want %d", got, want)
			}
		}
		start(10, 1)
		// For nine minutes a worker notes that it receives, while others are replaced.
		for range 3 {
			time.Sleep(3 * time.Minute)
			must(sweep.SeeAlive(w.ctx, w.store()))
			start(1, 1)
		}
		// Then nobody does, and rotation is turned off without an event.
		w.disableRotation(key)
		w.events()
		time.Sleep(5*time.Minute + 10*time.Second)
		start(10, 2)
		if w.rotation(key) != 180 {
			t.Error("what nobody saw was not found at the start")
		}
		start(1, 2)
	})
}

func TestSweepStopsWithItsContext(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		w.knownKey("alias/orders")
		ctx, cancel := context.WithCancel(w.ctx)
		cancel()
		if err := w.router.Sweep(ctx); err == nil {
			t.Error("a sweep that was stopped says that it is done")
		}
		w.none()
	})
}

func TestNewReportsEveryProblem(t *testing.T) {
	_, err := handlers.New(reaction.Deps{}, reaction.Config{RestoreSeverity: "bad", Posture: posture.Rules{RotationPeriodDays: 30}, Reencrypt: reaction.Enforce})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"identity", "region", `restore severity "bad"`, "30 days", "name the aliases"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not mention %q: %v", want, err)
		}
	}
}

// TestBatchJobsAreLookedAtWhenOneChanges takes the event of the S3 User Guide.
func TestBatchJobsAreLookedAtWhenOneChanges(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		for event, want := range map[string]int{"JobCreated": 0, "JobStatusChanged": 1} {
			w.moves.changed = 0
			err := w.handle(`{"version":"0","id":"51dc8145","detail-type":"AWS Service Event via CloudTrail","source":"aws.s3","account":"` + account + `","time":"2020-02-05T18:25:30Z","region":"` + region + `","resources":[],
				"detail":{"eventVersion":"1.05","userIdentity":{"accountId":"` + account + `","invokedBy":"s3.amazonaws.com"},"eventTime":"2020-02-05T18:25:30Z","eventSource":"s3.amazonaws.com","eventName":"` + event + `","awsRegion":"` + region + `",
				"sourceIPAddress":"s3.amazonaws.com","userAgent":"s3.amazonaws.com","requestParameters":null,"responseElements":null,"eventID":"f907577b","readOnly":false,"eventType":"AwsServiceEvent","recipientAccountId":"` + account + `",
				"serviceEventDetails":{"jobId":"d6e58ec4","jobArn":"arn:aws:s3:` + region + `:` + account + `:job/d6e58ec4","status":"Complete","jobEventId":"b268784c","failureCodes":[],"statusChangeReason":[]}}}`)
			if err != nil || w.moves.changed != want {
				t.Errorf("%s: looked %d times, want %d; %v", event, w.moves.changed, want, err)
			}
		}
		w.none()
	})
}

// TestRecordsOfWhatWasToldAlready: CloudTrail's addendum to a record, and another
// account's record of the endpoint that the call went through, are no second incident.
func TestRecordsOfWhatWasToldAlready(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		key := w.knownKey("alias/orders")
		w.scheduleDeletion(key)
		body := w.event("ScheduleKeyDeletion")
		again := func(change func(record map[string]any)) string {
			var envelope map[string]any
			if err := json.Unmarshal([]byte(body), &envelope); err != nil {
				t.Fatal(err)
			}
			record := envelope["detail"].(map[string]any)
			change(record)
			record["eventID"], envelope["id"] = "e-later", "m-later"
			return string(must(json.Marshal(envelope)))
		}
		addendum := again(func(record map[string]any) {
			record["addendum"] = map[string]any{"reason": "UPDATED_DATA", "originalEventID": record["eventID"]}
		})
		endpoint := again(func(record map[string]any) {
			record["eventType"], record["eventCategory"], record["recipientAccountId"] = "AwsVpceEvent", "NetworkActivity", "999988887777"
		})
		for i, body := range []string{body, addendum, endpoint} {
			if err := w.handle(body); err != nil {
				t.Fatal(err)
			}
			if i > 0 {
				w.none()
			} else if len(w.told.take()) == 0 {
				t.Error("the deletion was not told")
			}
		}
	})
}
