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
	u := &Undelivered{Alert: a, Name: name, Since: p.Store.Now().UTC().Round(0), Cause: cause.Error()}
	_, err := p.Store.Put(ctx, u.key(), u, "")
	if err != nil && !errors.Is(err, state.ErrConflict) { // a conflict: it is stored already
		log.WarnContext(ctx, "alert cannot be published, nor stored for a later attempt", "error", err)
	}
}

// Undelivered returns the alerts that are still to be published, in no particular order.
func (p *Publisher) Undelivered(ctx context.Context) ([]Undelivered, error) {
	stored, err := p.readUndelivered(ctx)
	if err != nil {
		return nil, err
	}
	var list []Undelivered
	for _, u := range stored {
		// One that was published since is left for Resume to delete.
		published, err := p.Store.IsDone(ctx, u.Name+".json")
		if err != nil {
			return nil, err
		}
		if !published {
			list = append(list, u)
		}
	}
	return list, nil
}

func (p *Publisher) readUndelivered(ctx context.Context) ([]Undelivered, error) {
	var list []Undelivered
	for key, err := range p.Store.Keys(ctx, undeliveredPrefix) {
		if err != nil {
			return nil, err
		}
		var u Undelivered
		_, err := p.Store.Get(ctx, key, &u)
		if errors.Is(err, state.ErrNotFound) {
			continue // published since it was listed
		}
		if err != nil {
			return nil, err
		}
		list = append(list, u)
	}
	return list, nil
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
// could not be published. What fails again is logged and stays stored; the error is that
// it cannot be read.
func (p *Publisher) Resume(ctx context.Context) error {
	windows, err := p.overdue(ctx)
	if err != nil {
		return fmt.Errorf("read windows that are due: %w", err)
	}
	for _, id := range windows {
		p.logUnpublished(ctx, p.Flush(ctx, id), "slot", id)
	}
	stored, err := p.readUndelivered(ctx)
	if err != nil {
		return fmt.Errorf("read undelivered alerts: %w", err)
	}
	for _, u := range stored {
		p.logUnpublished(ctx, p.Resend(ctx, u), "alert", u.Name)
	}
	return context.Cause(ctx)
}

// logUnpublished logs what still cannot be published. An expected wait is not logged: a
// window is not due yet, or another worker is publishing it.
func (p *Publisher) logUnpublished(ctx context.Context, err error, what, which string) {
	if err != nil && ctx.Err() == nil && outcome.Of(err).Action != outcome.Delay {
		p.logger().WarnContext(ctx, "alerts still cannot be published", what, which, "error", err)
	}
}
