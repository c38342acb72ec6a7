package handlers_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

func (w *world) createAlias(alias, key string) {
	w.t.Helper()
	must(w.kms.CreateAlias(w.ctx, &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: &key}))
}

func (w *world) updateAlias(alias, key string) {
	w.t.Helper()
	time.Sleep(2 * time.Second)
	must(w.kms.UpdateAlias(w.ctx, &kms.UpdateAliasInput{AliasName: &alias, TargetKeyId: &key}))
}

func (w *world) deleteAlias(alias string) {
	w.t.Helper()
	time.Sleep(2 * time.Second)
	must(w.kms.DeleteAlias(w.ctx, &kms.DeleteAliasInput{AliasName: &alias}))
}

// started returns the moves that were started, without their times.
func (w *world) started() []string {
	w.moves.mu.Lock()
	defer w.moves.mu.Unlock()
	var all []string
	for _, m := range w.moves.moves {
		_, name, _ := strings.Cut(m.AliasARN, ":alias/")
		all = append(all, fmt.Sprintf("%s %v -> %s in %v", name, short(m.From...), short(m.To), m.Scope))
	}
	w.moves.moves = nil
	return all
}

func short(arns ...string) string {
	var ids []string
	for _, arn := range arns {
		ids = append(ids, arn[len(arn)-4:])
	}
	return strings.Join(ids, "+")
}

func (w *world) wantStarted(want ...string) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.started()); diff != "" {
		w.t.Errorf("moves started (-want +got):\n%s", diff)
	}
}

func TestAliasMoveStartsAReencryption(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		a, b := w.knownKey("alias/app-orders"), w.newKey(kms.CreateKeyInput{})
		w.bucket("orders-data", "alias/app-orders")
		w.bucket("other-data", b)
		w.updateAlias("alias/app-orders", b)
		w.react()
		w.wantStarted(fmt.Sprintf("app-orders %s -> %s in [{orders-data }]", short(a), short(b)))
		got := w.one()
		if got.Kind != alert.KindAlias || got.Action.Status != alert.StatusDone || facts(got, "old keys") != a || facts(got, "in scope") != "s3://orders-data/" {
			t.Errorf("alert:\n%s", got.Text())
		}
		w.sweep()
		w.wantStarted()
		w.none()
	})
}

func TestAliasMoveWaitsForAnotherJob(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		a, b := w.knownKey("alias/app-orders"), w.newKey(kms.CreateKeyInput{})
		w.bucket("orders-data", "alias/app-orders")
		w.moves.rival = true
		w.updateAlias("alias/app-orders", b)
		event := w.event("UpdateAlias")
		if d := outcome.Of(w.router.Handle(w.ctx, handlers.Message{Body: []byte(event)})); d.Action != outcome.Delay {
			t.Errorf("the message is %v", d)
		}
		if got := w.one(); got.Action.Status != alert.StatusRefused || !strings.Contains(got.Action.Description, "job 7") {
			t.Errorf("alert:\n%s", got.Text())
		}
		w.moves.rival = false
		if err := w.handle(event); err != nil {
			t.Error(err)
		}
		w.wantStarted(fmt.Sprintf("app-orders %s -> %s in [{orders-data }]", short(a), short(b)))
		if got := w.one(); got.Action.Status != alert.StatusDone {
			t.Errorf("alert:\n%s", got.Text())
		}
	})
}

func TestAliasMoveByDeleteAndCreate(t *testing.T) {
	for _, order := range []string{"in order", "reversed"} {
		t.Run(order, func(t *testing.T) {
			inWorld(t, enforceAll(), func(w *world) {
				a, b := w.knownKey("alias/app-orders"), w.newKey(kms.CreateKeyInput{})
				w.react()
				w.bucket("orders-data", a)
				w.deleteAlias("alias/app-orders")
				deleted := w.event("DeleteAlias")
				time.Sleep(2 * time.Second)
				w.createAlias("alias/app-orders", b)
				created := w.event("CreateAlias")
				bodies := []string{deleted, created}
				if order == "reversed" {
					bodies = []string{created, deleted}
				}
				for _, body := range bodies {
					if err := w.handle(body); err != nil {
						t.Fatal(err)
					}
				}
				w.wantStarted(fmt.Sprintf("app-orders %s -> %s in [{orders-data }]", short(a), short(b)))
			})
		})
	}
}

func TestAliasMovesOutOfOrderAndTwice(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		a := w.knownKey("alias/app-orders")
		b, c := w.newKey(kms.CreateKeyInput{}), w.newKey(kms.CreateKeyInput{})
		w.react()
		w.bucket("orders-data", "alias/app-orders")
		w.updateAlias("alias/app-orders", b)
		toB := w.event("UpdateAlias")
		w.updateAlias("alias/app-orders", c)
		toC := w.event("UpdateAlias")
		for _, body := range []string{toC, toB, toC, toB} {
			if err := w.handle(body); err != nil {
				t.Fatal(err)
			}
		}
		w.wantStarted(
			fmt.Sprintf("app-orders %s -> %s in [{orders-data }]", short(a), short(c)),
			// What was written between the two moves is under b.
			fmt.Sprintf("app-orders %s -> %s in [{orders-data }]", short(b), short(c)),
		)
	})
}

func TestAliasMoveThatIsNotForUs(t *testing.T) {
	tests := []struct {
		name   string
		alias  string
		config func(*reaction.Config)
		to     kms.CreateKeyInput
		says   string
		worst  finding.Severity
	}{
		{name: "alias not listed", alias: "alias/web", says: "CMKEEPER_REENCRYPT_ALIASES", worst: finding.Medium},
		{name: "public key policy", alias: "alias/app-orders", to: kms.CreateKeyInput{Policy: aws.String(public)}, says: "findings of severity high", worst: finding.High},
		{name: "foreign key policy", alias: "alias/app-orders", to: kms.CreateKeyInput{Policy: aws.String(strings.ReplaceAll(partner, "kms:Decrypt", "kms:*"))}, says: "findings of severity high", worst: finding.High},
		{name: "observe", alias: "alias/app-orders", config: func(c *reaction.Config) { c.Reencrypt, c.EnvelopeFlags = reaction.Observe, " --envelopes content" }, says: "Would re-encrypt", worst: finding.Medium},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := enforceAll()
			if tt.config != nil {
				tt.config(&c)
			}
			inWorld(t, c, func(w *world) {
				a, b := w.knownKey(tt.alias), w.newKey(tt.to)
				w.react()
				w.told.take()
				w.bucket("orders-data", a)
				w.updateAlias(tt.alias, b)
				w.react()
				w.wantStarted()
				got := w.one()
				want := fmt.Sprintf("cmkeeper reencrypt run --bucket orders-data --from %s --to %s --state-bucket %s%s\n", a, b, stateBucket, c.EnvelopeFlags)
				if got.Severity != tt.worst || !strings.Contains(got.Action.Description, tt.says) || !strings.Contains(strings.Join(got.Next, "\n")+"\n", want) {
					t.Errorf("alert:\n%s", got.Text())
				}
			})
		})
	}
}

func TestAliasMoveToADisabledKey(t *testing.T) {
	c := enforceAll()
	c.Deletion = reaction.Off
	inWorld(t, c, func(w *world) {
		a, b := w.knownKey("alias/app-orders"), w.newKey(kms.CreateKeyInput{})
		w.bucket("orders-data", a)
		w.updateAlias("alias/app-orders", b)
		w.disable(b)
		w.react()
		w.wantStarted()
		if got := w.one(); got.Severity != finding.High || !strings.Contains(got.Action.Description, "not Enabled") {
			t.Errorf("alert:\n%s", got.Text())
		}
	})
}

func TestAliasWhoseOldKeyIsUnknown(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		a, b := w.newKey(kms.CreateKeyInput{}), w.newKey(kms.CreateKeyInput{})
		w.createAlias("alias/app-orders", a)
		w.events()
		w.updateAlias("alias/app-orders", b)
		w.bucket("orders-data", "alias/app-orders")
		w.react()
		w.wantStarted()
		got := w.one()
		if !strings.Contains(got.Action.Description, "not known") || !strings.Contains(strings.Join(got.Next, "\n"), "cmkeeper reencrypt run --bucket orders-data --from OLD-KEY-ARN --to "+b) {
			t.Errorf("alert:\n%s", got.Text())
		}
		w.react()
		w.none()
	})
}

func TestAliasThatIsNewMovesNothing(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		w.knownKey("alias/app-orders")
		key := w.newKey(kms.CreateKeyInput{})
		w.createAlias("alias/app-new", key)
		w.react()
		w.wantStarted()
		w.none()
	})
}

func TestAliasEventThatKMSDoesNotShowYet(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		a, b := w.knownKey("alias/app-orders"), w.newKey(kms.CreateKeyInput{})
		w.react()
		w.bucket("orders-data", a)
		w.updateAlias("alias/app-orders", b)
		body := w.event("UpdateAlias")
		w.updateAlias("alias/app-orders", a)
		w.events()
		// As if the last update had not happened yet: the event's time is later.
		future := strings.ReplaceAll(body, "2000-01-01T00:0", "2000-01-01T00:1")
		if future == body {
			t.Fatalf("time not found in %s", body)
		}
		time.Sleep(11 * time.Minute)
		if d := outcome.Of(w.router.Handle(w.ctx, handlers.Message{Body: []byte(future)})); d.Action != outcome.Delay {
			t.Errorf("outcome %v, want a wait", d.Action)
		}
		if err := w.handle(future); err != nil {
			t.Fatal(err)
		}
		w.wantStarted()
	})
}

// Times in records are claims: an event from the future is not newer than what happens
// after its message was sent, and does not wait for its time to come.
func TestAliasEventFromTheFuture(t *testing.T) {
	forge := func(w *world, body, name string) string {
		forged := regexp.MustCompile(`"(eventTime|time)":"2000-`).ReplaceAllString(body, `"$1":"2099-`)
		forged = strings.ReplaceAll(forged, `"eventName":"CreateAlias"`, `"eventName":"`+name+`"`)
		if forged == body || !strings.Contains(forged, name) {
			w.t.Fatalf("nothing to forge in %s", body)
		}
		return forged
	}
	t.Run("a DeleteAlias of an alias that is made later", func(t *testing.T) {
		inWorld(t, enforceAll(), func(w *world) {
			a, b := w.newKey(kms.CreateKeyInput{}), w.newKey(kms.CreateKeyInput{})
			w.react()
			w.createAlias("alias/app-orders", a)
			created := w.event("CreateAlias")
			must(w.kms.DeleteAlias(w.ctx, &kms.DeleteAliasInput{AliasName: aws.String("alias/app-orders")}))
			w.events()
			if err := w.router.Handle(w.ctx, handlers.Message{Body: []byte(forge(w, created, "DeleteAlias")), Sent: time.Now()}); err != nil {
				t.Fatal(err)
			}
			w.told.take()
			time.Sleep(time.Minute)
			w.createAlias("alias/app-orders", a)
			w.react()
			w.bucket("orders-data", a)
			w.updateAlias("alias/app-orders", b)
			w.react()
			w.wantStarted("app-orders " + short(a) + " -> " + short(b) + " in [{orders-data }]")
		})
	})
	t.Run("an UpdateAlias", func(t *testing.T) {
		inWorld(t, enforceAll(), func(w *world) {
			a, b := w.knownKey("alias/app-orders"), w.newKey(kms.CreateKeyInput{})
			w.react()
			w.updateAlias("alias/app-orders", b)
			body := w.event("UpdateAlias")
			w.updateAlias("alias/app-orders", a)
			w.events()
			time.Sleep(time.Minute)
			forged, sent := []byte(forge(w, body, "UpdateAlias")), time.Now()
			for time.Since(sent) < 14*time.Minute {
				if d := outcome.Of(w.router.Handle(w.ctx, handlers.Message{Body: forged, Sent: sent})); d.Action != outcome.Delay {
					t.Fatalf("outcome %v after %s, want a wait", d.Action, time.Since(sent))
				}
				time.Sleep(time.Minute)
			}
			time.Sleep(2 * time.Minute)
			if err := w.router.Handle(w.ctx, handlers.Message{Body: forged, Sent: sent}); err != nil {
				t.Errorf("it still waits: %v", err)
			}
			w.wantStarted()
		})
	})
}

func TestAliasMoveNoticedBySweepTakesTwoReads(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		a, b := w.knownKey("alias/app-orders"), w.newKey(kms.CreateKeyInput{})
		w.bucket("orders-data", a)
		w.updateAlias("alias/app-orders", b)
		w.events()
		w.sweep()
		time.Sleep(5 * time.Minute)
		w.sweep()
		w.wantStarted()
		time.Sleep(6 * time.Minute)
		w.sweep()
		w.wantStarted(fmt.Sprintf("app-orders %s -> %s in [{orders-data }]", short(a), short(b)))
		if got := w.one(); got.Actor != nil {
			t.Errorf("alert:\n%s", got.Text())
		}
		w.sweep()
		w.wantStarted()
	})
}

func TestPendingMoveIsFinishedBySweep(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		a, b := w.knownKey("alias/app-orders"), w.newKey(kms.CreateKeyInput{})
		w.react()
		w.bucket("orders-data", a)
		w.updateAlias("alias/app-orders", b)
		body := w.event("UpdateAlias")
		w.moves.broken = true
		if err := w.handle(body); outcome.Of(err).Action != outcome.Retry {
			t.Fatalf("outcome of %v, want retry", err)
		}
		if got := w.one(); got.Action.Status != alert.StatusFailed {
			t.Errorf("alert:\n%s", got.Text())
		}
		w.moves.broken = false
		w.sweep()
		w.wantStarted(fmt.Sprintf("app-orders %s -> %s in [{orders-data }]", short(a), short(b)))
		if got := w.one(); got.Actor == nil || got.Action.Status != alert.StatusDone {
			t.Errorf("alert:\n%s", got.Text())
		}
		if w.moves.resumed == 0 {
			t.Error("the sweep did not resume unfinished jobs")
		}
	})
}

func TestSnapshotGivesAMoveItsOldKey(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		a, b := w.newKey(kms.CreateKeyInput{}), w.newKey(kms.CreateKeyInput{})
		w.createAlias("alias/app-orders", a)
		w.events() // before our time
		if err := w.router.Snapshot(w.ctx); err != nil {
			t.Fatal(err)
		}
		w.bucket("orders-data", a)
		w.updateAlias("alias/app-orders", b)
		// A worker that starts now reads b, and must not forget a.
		if err := w.newRouter(enforceAll()).Snapshot(w.ctx); err != nil {
			t.Fatal(err)
		}
		w.react()
		w.wantStarted(fmt.Sprintf("app-orders %s -> %s in [{orders-data }]", short(a), short(b)))
	})
}

func TestAliasScopeOfTheOperator(t *testing.T) {
	c := enforceAll()
	c.ReencryptScope = map[string][]reencrypt.Scope{"alias/app-orders": {{Bucket: "lake", Prefix: "orders/"}}}
	inWorld(t, c, func(w *world) {
		a, b := w.knownKey("alias/app-orders"), w.newKey(kms.CreateKeyInput{})
		w.bucket("lake", "")
		w.updateAlias("alias/app-orders", b)
		w.react()
		w.wantStarted(fmt.Sprintf("app-orders %s -> %s in [{lake orders/}]", short(a), short(b)))
	})
}

func TestAliasMoveToImportedMaterial(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		a := w.knownKey("alias/app-orders")
		b := w.newKey(kms.CreateKeyInput{Origin: types.OriginTypeExternal})
		w.react()
		w.told.take()
		w.bucket("orders-data", a)
		w.updateAlias("alias/app-orders", b)
		w.react()
		w.wantStarted()
		if got := w.one(); got.Severity != finding.High || !strings.Contains(got.Action.Description, "does not come from KMS") {
			t.Errorf("alert:\n%s", got.Text())
		}
	})
}

func TestAliasMoveToAKeyThatShutsUsOut(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		a := w.knownKey("alias/app-orders")
		b := w.newKey(kms.CreateKeyInput{Policy: aws.String(shutOut), BypassPolicyLockoutSafetyCheck: true})
		w.react()
		w.told.take()
		w.bucket("orders-data", a)
		w.updateAlias("alias/app-orders", b)
		w.react()
		w.wantStarted()
		if got := w.one(); got.Severity != finding.High || !strings.Contains(got.Action.Description, "may not read the new key or its policy") {
			t.Errorf("alert:\n%s", got.Text())
		}
	})
}

// An alias that went to and fro 100 times in 27 seconds made 97 jobs and 31 alerts.
func TestAliasToAndFro(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		a, b := w.knownKey("alias/app-orders"), w.newKey(kms.CreateKeyInput{})
		w.bucket("orders-data", "alias/app-orders")
		w.react()
		w.told.take()
		w.moves.moves = nil
		var waiting []string
		for i := range 100 {
			time.Sleep(270 * time.Millisecond)
			key := []string{b, a}[i%2]
			must(w.kms.UpdateAlias(w.ctx, &kms.UpdateAliasInput{AliasName: aws.String("alias/app-orders"), TargetKeyId: &key}))
			for _, body := range w.events() {
				if d := outcome.Of(w.router.Handle(w.ctx, handlers.Message{Body: []byte(body), Sent: time.Now()})); d.Action == outcome.Delay {
					waiting = append(waiting, body)
				}
			}
		}
		if n := len(w.started()); n == 0 || n > 3 {
			t.Errorf("%d jobs at once, want 1 to 3", n)
		}
		// Where the alias points in the end is where the data goes.
		for _, body := range waiting {
			if err := w.handle(body); err != nil {
				t.Fatal(err)
			}
		}
		w.sweep()
		moves := w.started()
		if len(moves) == 0 || len(moves) > 2 || !strings.Contains(moves[len(moves)-1], "-> "+short(a)) {
			t.Errorf("moves %q, want the last one to %s", moves, short(a))
		}
		if told := w.told.take(); len(told) > 6 {
			t.Errorf("%d alerts:\n%s", len(told), texts(told))
		}
	})
}

// An event that is older than any queue can hold orders nothing.
func TestAliasEventOlderThanAnyQueueHolds(t *testing.T) {
	inWorld(t, enforceAll(), func(w *world) {
		w.knownKey("alias/app-orders")
		key := w.newKey(kms.CreateKeyInput{})
		w.bucket("orders-data", "alias/app-orders")
		w.react()
		old := strings.NewReplacer(`"eventTime":"2000-01-01`, `"eventTime":"1999-12-01`, `"time":"2000-01-01`, `"time":"1999-12-01`)
		w.updateAlias("alias/app-orders", key)
		body := w.event("UpdateAlias")
		w.moves.moves = nil
		if err := w.router.Handle(w.ctx, handlers.Message{Body: []byte(old.Replace(body)), Sent: time.Now()}); err != nil {
			t.Fatal(err)
		}
		w.wantStarted()
		var doc ledger.Alias
		must(w.store().Get(w.ctx, ledger.AliasName("alias/app-orders"), &doc))
		if len(doc.History) != 1 {
			t.Errorf("history %+v", doc.History)
		}
	})
}

// TestLostDeletionOfAnAlias: a listed alias that no bucket names is missed by two sweeps, and
// told once, whatever comes between them.
func TestLostDeletionOfAnAlias(t *testing.T) {
	const name = "alias/app-orders"
	gone := func(all []alert.Alert) (told []alert.Alert) {
		for _, a := range all {
			if a.Kind == alert.KindAlias {
				told = append(told, a)
			}
		}
		return told
	}
	for title, tt := range map[string]struct {
		alias string
		// between is what happens after the first sweep that misses it.
		between func(w *world, key, event string)
		broken  bool // the topic, when it is to be told first
		told    int
		late    bool // and its event tells who did it afterwards
	}{
		"lost": {told: 1},
		"late": {told: 1, late: true},
		"the event comes": {between: func(w *world, _, event string) {
			if err := w.handle(event); err != nil {
				w.t.Fatal(err)
			}
			w.one()
		}},
		"it is there again":        {between: func(w *world, key, _ string) { w.createAlias(name, key) }},
		"its key is deleted":       {between: func(w *world, key, _ string) { w.scheduleDeletionIn(key, 7); time.Sleep(8 * 24 * time.Hour) }},
		"not listed by its name":   {alias: "alias/other"},
		"the alert cannot be sent": {broken: true, told: 1},
	} {
		t.Run(title, func(t *testing.T) {
			c := enforceAll()
			c.ReencryptAliases = []string{"*", "alias/a*-orders"}
			inWorld(t, c, func(w *world) {
				alias := name
				if tt.alias != "" {
					alias = tt.alias
				}
				key := w.knownKey(alias)
				w.react()
				w.sweep()
				w.told.take()
				w.deleteAlias(alias)
				event := w.event("DeleteAlias")
				w.sweep()
				w.none()
				if tt.between != nil {
					tt.between(w, key, event)
				}
				var told []alert.Alert
				for i := range 4 {
					time.Sleep(6 * time.Minute)
					w.told.broken = tt.broken && i < 2
					if err := w.router.Sweep(w.ctx); (err != nil) != (tt.broken && i == 1) {
						t.Fatalf("sweep %d: %v", i, err)
					}
					w.events()
					told = append(told, gone(w.told.take())...)
				}
				if len(told) != tt.told {
					t.Fatalf("%d alerts, want %d:\n%s", len(told), tt.told, texts(told))
				}
				for _, a := range told {
					if a.Severity != finding.Medium || a.Title != "Alias "+name+" was deleted" || a.Actor != nil || !strings.Contains(a.Summary, "no event reported the change") || a.Key.ARN != key {
						t.Errorf("alert:\n%s", a.Text())
					}
				}
				if tt.late {
					if err := w.handle(event); err != nil {
						t.Fatal(err)
					}
					if a := w.one(); a.Actor == nil || a.Title != told[0].Title {
						t.Errorf("alert:\n%s", a.Text())
					}
					w.sweep()
					w.none()
				}
				if tt.told == 0 {
					return
				}
				// Created again for another key, it is a move, as after its event.
				next := w.newKey(kms.CreateKeyInput{})
				w.createAlias(name, next)
				w.react()
				var doc ledger.Alias
				if must(w.store().Get(w.ctx, ledger.AliasName(name), &doc)); !slices.Equal(slices.Compact(doc.Keys()), []string{key, next}) || doc.Candidate != nil {
					t.Errorf("known: %+v", doc)
				}
			})
		})
	}
}
