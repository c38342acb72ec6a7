// Package eventlog makes the log records about one event share its id. The worker begins
// with each message it handles, the router notes which event the message is, and
// [Handler] adds the id to every record that is logged with that context.
package eventlog

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// Key is the name of the attribute that Handler adds.
const Key = "event_id"

// Event is what is known of the event of a message. The zero value is unknown.
type Event struct {
	// ID is the event's id: CloudTrail's eventID where it has one.
	ID string
	// Name is the name of the event, as the message has it.
	Name string
}

type contextKey struct{}

// Begin returns a context for the handling of one message, whose event Note may set.
func Begin(ctx context.Context) context.Context {
	return context.WithValue(ctx, contextKey{}, new(atomic.Pointer[Event]))
}

// With returns a context for what is done about an event, also where the message that
// it is done for is another one: each part of a sweep has an id of its own.
func With(ctx context.Context, e Event) context.Context {
	ctx = Begin(ctx)
	Note(ctx, e)
	return ctx
}

// Note sets the event of the context that Begin returned, for all that was derived from
// it. Without Begin it does nothing.
func Note(ctx context.Context, e Event) {
	if noted, ok := ctx.Value(contextKey{}).(*atomic.Pointer[Event]); ok {
		noted.Store(&e)
	}
}

// Noted returns the event that was noted, the zero value where none was.
func Noted(ctx context.Context) Event {
	if noted, ok := ctx.Value(contextKey{}).(*atomic.Pointer[Event]); ok {
		if e := noted.Load(); e != nil {
			return *e
		}
	}
	return Event{}
}

// Handler returns next with the attribute event_id on each record whose context has an
// event with an id.
func Handler(next slog.Handler) slog.Handler { return handler{next} }

type handler struct{ slog.Handler }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if id := Noted(ctx).ID; id != "" {
		r = r.Clone()
		r.AddAttrs(slog.String(Key, id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs)}
}

func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }
