package eventlog

import (
	"bytes"
	"context"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHandler(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}})))
	ctx := Begin(t.Context())
	inner, cancel := context.WithCancel(ctx)
	log.InfoContext(ctx, "before")
	Note(inner, Event{ID: "e-1", Name: "PutKeyPolicy"})
	cancel()
	log.InfoContext(ctx, "after", "n", 1)
	log.With("queue", "q").InfoContext(inner, "with")
	part := With(ctx, Event{ID: "sweep/k"})
	log.InfoContext(part, "part")
	log.InfoContext(ctx, "whole")
	log.InfoContext(t.Context(), "none")
	Note(t.Context(), Event{ID: "e-2"}) // nobody began: it is noted nowhere
	want := `msg=before
msg=after n=1 event_id=e-1
msg=with queue=q event_id=e-1
msg=part event_id=sweep/k
msg=whole event_id=e-1
msg=none
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	if got := Noted(ctx); got != (Event{"e-1", "PutKeyPolicy"}) || Noted(t.Context()) != (Event{}) {
		t.Errorf("noted: %v, %v", got, Noted(t.Context()))
	}
}
