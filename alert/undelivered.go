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

// undeliveredPrefix is where alerts are kept that could not be told.
const undeliveredPrefix = alertsPrefix + "undelivered/"

// Undelivered is an alert that could not be told to every topic.
type Undelivered struct {
	Alert Alert `json:"alert"`
	// Name is what it is claimed by, in the state bucket.
	Name string `json:"name"`
	// Since is when it was tried first, Cause what came of it.
	Since time.Time `json:"since"`
	Cause string    `json:"cause"`
}

// Schema names the document.
func (*Undelivered) Schema() (string, int) { return "undelivered", 1 }

func (u *Undelivered) key() string {
	return undeliveredPrefix + strings.TrimPrefix(u.Name, alertsPrefix) + ".json"
}

// keep stores an alert that could not be told. Its message comes back, too, but ends
// in the dead-letter queue where that goes on for long.
func (p *Publisher) keep(ctx context.Context, log *slog.Logger, name string, a Alert, cause error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	u := &Undelivered{Alert: a, Name: name, Since: p.Store.Now().UTC().Round(0), Cause: cause.Error()}
	_, err := p.Store.Put(ctx, u.key(), u, "")
	if err != nil && !errors.Is(err, state.ErrConflict) { // a conflict: it is kept already
		log.WarnContext(ctx, "alert cannot be told, nor kept to be told later", "error", err)
	}
}

// Undelivered returns the alerts that are still to be told, in no particular order.
func (p *Publisher) Undelivered(ctx context.Context) ([]Undelivered, error) {
	kept, err := p.kept(ctx)
	if err != nil {
		return nil, err
	}
	var list []Undelivered
	for _, u := range kept {
		// Whoever told it after all left it for Resume to forget.
		told, err := p.Store.IsDone(ctx, u.Name+".json")
		if err != nil {
			return nil, err
		}
		if !told {
			list = append(list, u)
		}
	}
	return list, nil
}

func (p *Publisher) kept(ctx context.Context) ([]Undelivered, error) {
	var list []Undelivered
	for key, err := range p.Store.Keys(ctx, undeliveredPrefix) {
		if err != nil {
			return nil, err
		}
		var u Undelivered
		_, err := p.Store.Get(ctx, key, &u)
		if errors.Is(err, state.ErrNotFound) {
			continue // told since it was listed
		}
		if err != nil {
			return nil, err
		}
		list = append(list, u)
	}
	return list, nil
}

// Resend tells an alert that could not be told, unless that has been done since, and
// then keeps it no longer. The error is that of Publish.
func (p *Publisher) Resend(ctx context.Context, u Undelivered) error {
	if err := p.deliver(ctx, u.Name, u.Alert); err != nil {
		return err
	}
	if err := p.Store.Delete(ctx, u.key(), ""); err != nil {
		return fmt.Errorf("forget alert that was told: %w", err)
	}
	return nil
}

// Resume tells what is left over: slots whose reminder was lost, and alerts that could
// not be told. What still cannot be told is logged and kept; an error is that it
// cannot be read.
func (p *Publisher) Resume(ctx context.Context) error {
	slots, err := p.overdue(ctx)
	if err != nil {
		return fmt.Errorf("read slots that are due: %w", err)
	}
	for _, id := range slots {
		p.still(ctx, p.Flush(ctx, id), "slot", id)
	}
	kept, err := p.kept(ctx)
	if err != nil {
		return fmt.Errorf("read alerts that were not told: %w", err)
	}
	for _, u := range kept {
		p.still(ctx, p.Resend(ctx, u), "alert", u.Name)
	}
	return context.Cause(ctx)
}

// still logs what still cannot be told. An expected wait is none of it: a slot is not due
// yet, or somebody else is telling it.
func (p *Publisher) still(ctx context.Context, err error, what, which string) {
	if err != nil && ctx.Err() == nil && outcome.Of(err).Action != outcome.Delay {
		p.logger().WarnContext(ctx, "alerts still cannot be told", what, which, "error", err)
	}
}
