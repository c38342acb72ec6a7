package cli

import (
	"context"
	"log/slog"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/eventlog"
	"github.com/cmkeeper/cmkeeper/internal/metrics"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/worker"
)

// newMetrics returns the metrics of a member.
func newMetrics() *metrics.Metrics {
	n := metrics.Names{Events: handlers.EventNames(), Reactions: handlers.ReactionNames()}
	for _, kind := range alert.Kinds() {
		n.Kinds = append(n.Kinds, string(kind))
	}
	for _, severity := range finding.Severities() {
		n.Severities = append(n.Severities, string(severity))
	}
	b := thisBuild()
	return metrics.New(n, metrics.Build{Version: b.Version, Commit: b.Commit, Go: b.Go})
}

// requested counts a request to AWS, and logs it at debug level.
func (f fleetMember) requested(ctx context.Context, r awsclient.Request) {
	f.metrics.Request(r.Service, r.Operation, r.Code, r.Took)
	if f.log.Enabled(ctx, slog.LevelDebug) {
		f.log.LogAttrs(ctx, slog.LevelDebug, "AWS request",
			slog.String("service", r.Service), slog.String("operation", r.Operation), slog.String("code", r.Code), slog.Duration("duration", r.Took))
	}
}

// alerted counts an alert.
func (f fleetMember) alerted(k alert.Kind, s finding.Severity, delivery string) {
	f.metrics.Alert(string(k), string(s), delivery)
}

// handled returns what counts the messages of a queue.
func (f fleetMember) handled(queue string) func(context.Context, string) {
	return func(ctx context.Context, outcome string) {
		f.metrics.Handled(queue, eventlog.Noted(ctx).Name, outcome)
	}
}

// receiving returns what reads how a pool receives.
func receiving(p *worker.Pool) func() metrics.Queue {
	return func() metrics.Queue {
		s := p.Sight()
		return metrics.Queue{Received: s.Received, Oldest: s.Oldest, InFlight: s.InFlight, Slots: s.Slots}
	}
}

// widthOf returns what reads how much an engine does at once.
func widthOf(e *reencrypt.Engine) func() metrics.Width {
	return func() metrics.Width {
		objects, width, perSecond := e.Load()
		return metrics.Width{InFlight: objects, Limit: width, Rate: perSecond}
	}
}
