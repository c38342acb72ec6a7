package handlers

import (
	"testing"

	"github.com/cmkeeper/cmkeeper/events"
)

// TestEventsOfTheTableAreDecoded: a reaction is registered only for events whose
// parameters are read, or are known to be none.
func TestEventsOfTheTableAreDecoded(t *testing.T) {
	for _, w := range rows() {
		if w.on.kind != events.Scheduled && !events.Known(w.on.source, w.on.name) {
			t.Errorf("%s of %s: package events has no line for it in its table of decoders", w.on.name, w.on.source)
		}
	}
}
