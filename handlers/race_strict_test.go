package handlers_test

import (
	"maps"
	"testing"
)

// TestRacesDoNothingTwice: two workers do nothing twice that shows, and tell it once. What one worker has done before another one has stored what
// it is about to do is not done again. Deletions that are undone are races, too.
func TestRacesDoNothingTwice(t *testing.T) {
	all := races()
	maps.Copy(all, map[string]race{
		"deletion": oneEvent(configured(enforceAll), "ScheduleKeyDeletion", func(w *world) string {
			key := w.knownKey("alias/orders")
			w.scheduleDeletion(key)
			return key
		}, isState("Enabled"), map[string]int{"CancelKeyDeletion": 1, "EnableKey": 1}, "/deletion"),
		"disabled": oneEvent(configured(enforceAll), "DisableKey", func(w *world) string {
			key := w.knownKey("alias/orders")
			w.disable(key)
			return key
		}, isState("Enabled"), map[string]int{"EnableKey": 1}, "/deletion"),
	})
	for name, x := range all {
		t.Run(name, func(t *testing.T) {
			x.run(t, func(w *world, stored bool) {
				more := 0
				if stored {
					more = 1 // the other worker could not know whether this one was dead
				}
				x.check(w, more)
			})
		})
	}
}
