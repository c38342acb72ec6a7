package handlers_test

import (
	"strings"
	"testing"

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
