package alert

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

// undeliveredPrefix is where the state bucket has alerts that could not be published.
const undeliveredPrefix = alertsPrefix + "undelivered/"

// Undelivered is an alert that could not be published to every topic.
type Undelivered struct {
	Alert Alert `json:"alert"`
	// Name is that of its claim in the state bucket.
	Name string `json:"name"`
	// Since is the time of the first attempt, Cause its error.
	Since time.Time `json:"since"`
	Cause string    `json:"cause"`
}

// Schema names the document.
func (*Undelivered) Schema() (string, int) { return "undelivered", 1 }

func (u *Undelivered) key() string {
	return undeliveredPrefix + strings.TrimPrefix(u.Name, alertsPrefix) + ".json"
}

// storeUndelivered stores an alert that could not be published. Its message is received
// again, too, but ends in the dead-letter queue after some attempts.
func (p *Publisher) storeUndelivered(ctx context.Context, log *slog.Logger, name string, a Alert, cause error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	u := &Undelivered{Alert: a.bounded(), Name: name, Since: p.Store.Now().UTC().Round(0), Cause: cause.Error()}
	_, err := p.Store.Put(ctx, u.key(), u, "")
	if err != nil && !errors.Is(err, state.ErrConflict) { // a conflict: it is stored already
		log.WarnContext(ctx, "alert cannot be published, nor stored for a later attempt", "error", err)
	}
}

// Undelivered returns the alerts that are still to be published, in no particular order.
// With an error that is state.ErrUnreadable, which names what cannot be read, come the
// others.
func (p *Publisher) Undelivered(ctx context.Context) ([]Undelivered, error) {
	var list []Undelivered
	var unread []error
	for u, err := range state.Documents[Undelivered](ctx, p.Store, undeliveredPrefix) {
		if err == nil {
			// One that was published since is left for Resume to delete.
			published, unknown := p.Store.IsDone(ctx, u.Name+".json")
			if published {
				continue
			}
			if !errors.Is(unknown, state.ErrUnreadable) {
				err = unknown
			}
		}
		switch {
		case err == nil:
			list = append(list, u)
		case errors.Is(err, state.ErrUnreadable):
			unread = append(unread, err)
		default:
			return nil, err
		}
	}
	return list, errors.Join(unread...)
}

// Resend publishes a stored alert, unless that has been done since, and deletes it. The
// error is that of Publish.
func (p *Publisher) Resend(ctx context.Context, u Undelivered) error {
	if err := p.deliver(ctx, u.Name, u.Alert); err != nil {
		return err
	}
	if err := p.Store.Delete(ctx, u.key(), ""); err != nil {
		return fmt.Errorf("delete published alert: %w", err)
	}
	return nil
}

// Resume publishes what was left over: windows whose reminder was lost, and alerts that
// could not be published. What fails again is logged and stays stored. A document that
// is state.ErrUnreadable is logged and left out; when all others are done, the error names
// it.
func (p *Publisher) Resume(ctx context.Context) error {
	windows, err := p.overdue(ctx)
	if err != nil {
		return fmt.Errorf("read windows that are due: %w", err)
	}
	var unread []error
	leftOver := func(err error, what, which string) {
		if errors.Is(err, state.ErrUnreadable) {
			unread = append(unread, err)
		}
		p.logUnpublished(ctx, err, what, which)
	}
	for _, id := range windows {
		leftOver(p.Flush(ctx, id), "slot", id)
	}
	for u, err := range state.Documents[Undelivered](ctx, p.Store, undeliveredPrefix) {
		switch {
		case err == nil:
			leftOver(p.Resend(ctx, u), "alert", u.Name)
		case errors.Is(err, state.ErrUnreadable):
			leftOver(err, "alert", undeliveredPrefix)
		default:
			return fmt.Errorf("read undelivered alerts: %w", err)
		}
	}
	return errors.Join(append(unread, context.Cause(ctx))...)
}

// logUnpublished logs what still cannot be published. An expected wait is not logged: a
// window is not due yet, or another worker is publishing it.
func (p *Publisher) logUnpublished(ctx context.Context, err error, what, which string) {
	if err != nil && ctx.Err() == nil && outcome.Of(err).Action != outcome.Delay {
		p.logger().WarnContext(ctx, "alerts still cannot be published", what, which, "error", err)
	}
}
