package handlers_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
)

// An alert about tags says what the call changed and how they are, since both may differ.
func TestTagsAreReadLive(t *testing.T) {
	c := playConfig(reaction.Observe, play{})
	c.WatchedTags = []string{"class"}
	inWorld(t, c, func(w *world) {
		key := w.knownKey("alias/orders")
		w.tagKey(key, "class", "secret")
		w.react()
		if a := w.one(); facts(a, "changed by the call") != "class = secret" || facts(a, "such tags now") != "class = secret" {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.tagKey(key, "class", "public")
		body := w.event("TagResource")
		w.tagKey(key, "class", "secret")
		w.events()
		if err := w.handle(body); err != nil {
			t.Fatal(err)
		}
		if a := w.one(); !strings.HasPrefix(facts(a, "changed by the call"), "class = public") || facts(a, "such tags now") != "class = secret" {
			t.Errorf("alert:\n%s", a.Text())
		}
		w.tagKey(key, "team", "orders")
		w.react()
		w.none()
	})
}

// Whoever reads a tag first tells it, the sweep or the event, and the other one does not
// tell it again. A sweep that only noted an approval would silence the event about it,
// and the deletion a day later would pass as approved.
func TestTagsAreToldByWhoeverReadsThemFirst(t *testing.T) {
	event := func(w *world, body string) {
		if err := w.handle(body); err != nil {
			w.t.Fatal(err)
		}
	}
	sweep := func(w *world, _ string) { w.sweep() }
	for name, order := range map[string][]func(*world, string){
		"sweep, event, sweep": {sweep, event, sweep},
		"event, sweep, event": {event, sweep, event},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, playConfig(reaction.Enforce, play{}), func(w *world) {
				key := w.knownKey("alias/orders")
				w.sweep()
				for range 2 { // it is approved, taken back, and approved again
					w.tagKey(key, "cmkeeper:deletion-approved", "2030-01-01")
					tagged := w.event("TagResource")
					time.Sleep(time.Minute)
					order[0](w, tagged)
					if a := w.one(); a.Severity != finding.High || !strings.Contains(a.Title, "approved by a tag") {
						t.Errorf("alert:\n%s", a.Text())
					}
					for _, again := range order[1:] {
						again(w, tagged)
						w.none()
					}
					must(w.kms.UntagResource(w.ctx, &kms.UntagResourceInput{KeyId: &key, TagKeys: []string{"cmkeeper:deletion-approved"}}))
					untagged := w.event("UntagResource")
					time.Sleep(time.Minute)
					order[0](w, untagged)
					if a := w.one(); a.Severity != finding.Medium {
						t.Errorf("alert:\n%s", a.Text())
					}
					sweep(w, "")
					w.none()
				}
			})
		})
	}
}

// An event notes nothing but what it told: a tag that another event is about is told by
// that one.
func TestAnEventDoesNotNoteTheTagsOfAnother(t *testing.T) {
	inWorld(t, playConfig(reaction.Enforce, play{}), func(w *world) {
		key := w.knownKey("alias/orders")
		w.sweep()
		w.tagKey(key, "cmkeeper:one", "1")
		first := w.event("TagResource")
		w.tagKey(key, "cmkeeper:deletion-approved", "2030-01-01")
		second := w.event("TagResource")
		for _, body := range []string{first, second} {
			if err := w.handle(body); err != nil {
				t.Fatal(err)
			}
			w.one()
		}
		w.sweep()
		w.none()
	})
}
