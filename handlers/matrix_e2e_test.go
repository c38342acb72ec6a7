package handlers_test

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
)

// lateKinds are the kinds of the alerts by which a sweep tells what a row's event was about,
// where that is another one than the row's: it tells how things stand, not who did it.
var lateKinds = map[string]alert.Kind{
	"CreateKey/containment": alert.KindPolicy, "PutKeyPolicy/containment": alert.KindPolicy, "CreateGrant/containment": alert.KindGrant,
	"ImportKeyMaterial/material": alert.KindMaterial,
}

// seenBefore makes the event happen to something that a sweep has seen, where the play makes
// it and takes it away again before anybody looks.
var seenBefore = map[string]func(*world) (key string){
	"UntagResource/tags": func(w *world) string {
		key := w.knownKey("alias/orders")
		w.tagKey(key, "class", "secret")
		w.sweep()
		must(w.kms.UntagResource(w.ctx, &kms.UntagResourceInput{KeyId: &key, TagKeys: []string{"class"}}))
		return key
	},
	"DeleteCustomKeyStore/key-store": func(w *world) string {
		store := w.keyStore()
		w.sweep()
		w.told.take()
		must(w.kms.DeleteCustomKeyStore(w.ctx, &kms.DeleteCustomKeyStoreInput{CustomKeyStoreId: &store}))
		return ""
	},
}

// otherPlays are further ways in which an event of a row comes about that a sweep finds on
// another way.
var otherPlays = map[string]play{
	// No bucket names the alias.
	"DeleteAlias/alias": {severity: finding.Medium, title: "Alias " + listed + " was deleted", do: func(w *world) string {
		w.knownKey(listed)
		w.sweep()
		w.told.take()
		w.deleteAlias(listed)
		return ""
	}},
}

// TestLostEvents drops the event of every row of the table: a sweep tells what it was about,
// unless the row says why that cannot be read later.
func TestLostEvents(t *testing.T) {
	for _, row := range handlers.TableRows() {
		p, ok := plays[row.Key]
		if row.Unusable {
			p, ok = failedUse(row.Name), true
		}
		if !ok || p.severity == "" || row.Lost != "" {
			if p.severity != "" && row.Lost == "" {
				t.Errorf("%s has no play", row.Key)
			}
			continue
		}
		if other, ok := otherPlays[row.Key]; ok {
			t.Run(row.Key+", otherwise", func(t *testing.T) { lost(t, row, other) })
		}
		t.Run(row.Key, func(t *testing.T) { lost(t, row, p) })
	}
}

// lost plays an event of a row, drops it, and has a sweep tell.
func lost(t *testing.T, row handlers.TableRow, p play) {
	t.Helper()
	inWorld(t, playConfig(reaction.Observe, p), func(w *world) {
		w.sweep() // there is nothing yet
		do := p.do
		if seenBefore[row.Key] != nil {
			do = seenBefore[row.Key]
		}
		key := do(w)
		if row.Name == "DisableEbsEncryptionByDefault" { // the play only records it
			w.ebs(row.Name)
		}
		w.events()    // lost
		for range 3 { // a moved alias is believed when two reads agree that are 10 minutes apart
			w.sweep()
			time.Sleep(15 * time.Minute)
		}
		time.Sleep(24 * time.Hour) // a new key may wait so long for its material
		w.sweep()
		kind := row.Alert
		if late := lateKinds[row.Key]; late != "" {
			kind = late
		}
		var told []alert.Alert
		all := w.told.take()
		for _, a := range all {
			if a.Kind == kind && a.EventName == reaction.SweepName && (key == "" || a.Key == nil || a.Key.ARN == key) && a.Resolves == "" {
				told = append(told, a)
			}
		}
		if len(told) == 0 {
			t.Fatalf("nothing told of it, but:\n%s", texts(all))
		}
		for _, a := range told {
			if a.Severity == "" || a.Risk == "" || len(a.Next) == 0 || a.Actor != nil {
				t.Errorf("the alert leaves something open, or says who did it:\n%s", a.Text())
			}
		}
		w.sweep()
		w.none()
	})
}
