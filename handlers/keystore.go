package handlers

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/posture"
)

// keyStoreReason names a decision about a call on a custom key store.
type keyStoreReason string

const (
	keyStoreOffers  keyStoreReason = "offers"  // it was made, or it works again
	keyStoreChanged keyStoreReason = "changed" // it may now be another one
	keyStoreCutOff  keyStoreReason = "cut-off" // its keys cannot be used
	keyStoreGone    keyStoreReason = "gone"    // it is no more; KMS demands that it has no keys then
)

type keyStoreInput struct {
	event string
	// keys is how many keys are known to be in the store; all says that none was
	// overlooked.
	keys int
	all  bool
}

// decideKeyStore judges a call on a custom key store.
func decideKeyStore(in keyStoreInput) (keyStoreReason, finding.Severity) {
	switch in.event {
	case "CreateCustomKeyStore":
		return keyStoreOffers, finding.Medium
	case "ConnectCustomKeyStore":
		return keyStoreOffers, finding.Info
	case "UpdateCustomKeyStore":
		return keyStoreChanged, finding.High
	case "DeleteCustomKeyStore":
		return keyStoreGone, finding.High
	}
	switch {
	case in.keys > 0:
		return keyStoreCutOff, finding.Critical
	case in.all:
		return keyStoreCutOff, finding.Medium
	}
	return keyStoreCutOff, finding.High
}

// keyStore alerts about changes to custom key stores: the material of their keys is
// outside of KMS, and cutting it off takes all of them out of use at once.
func keyStore(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	d, _ := c.Event.Detail.(events.KeyStore)
	var keys []string
	var err error
	// A store that was just made has no keys yet, and one with keys cannot be deleted.
	empty := c.Event.Name == "CreateCustomKeyStore" || c.Event.Name == "DeleteCustomKeyStore"
	if !empty {
		keys, err = keysIn(ctx, c, d.ID)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	reason, severity := decideKeyStore(keyStoreInput{event: c.Event.Name, keys: len(keys), all: err == nil})
	c.Debug(ctx, "key store decided", "reason", reason)
	return &reaction.Decision{Tell: func() []alert.Alert {
		a := c.NewAlert(alert.KindKeyStore, "")
		a.Severity, a.Dangers = severity, []string{posture.Store(d.ID)}
		tellKeyStore(&a, c, d, reason)
		if !empty {
			a.Facts = append(a.Facts, reaction.LookedAt("its keys", "KMS DescribeKey of all keys", c.At, keys, err))
		}
		return []alert.Alert{a}
	}}, nil
}

func tellKeyStore(a *alert.Alert, c *reaction.Case, d events.KeyStore, reason keyStoreReason) {
	id := reaction.OrUnknown(d.ID)
	name := d.Name
	if name == "" {
		name = id
	}
	a.Summary = fmt.Sprintf("%s called %s for the custom key store %s (%s).", c.Who(), c.Event.Name, name, id)
	a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper does not change key stores."}
	show := command.Line("aws kms describe-custom-key-stores --region %s", c.InRegion())
	if d.ID != "" {
		show = command.Line("aws kms describe-custom-key-stores --region %s --custom-key-store-id %s", c.InRegion(), command.KeyStore(d.ID))
	}
	a.Next = []string{show}
	switch reason {
	case keyStoreOffers:
		a.Title = "Custom key store " + name + " was created"
		a.Risk = "Keys in it have their material outside KMS. The operator of the store can make the keys, and everything encrypted under them, unusable."
		if c.Event.Name == "ConnectCustomKeyStore" {
			a.Title = "Custom key store " + name + " is being connected"
			a.Risk = "None: its keys can be used once it is connected."
		}
	case keyStoreChanged:
		a.Title = "Custom key store " + name + " was changed"
		a.Risk = "Its keys now depend on another cluster, proxy or credential. If that belongs to an attacker, every use of the keys goes through them."
		a.Next = append(a.Next, "Check with the store's owner that the cluster or proxy is theirs.")
	case keyStoreGone:
		a.Title = "Custom key store " + name + " was deleted"
		a.Risk = "KMS only deletes stores without keys. Material left in its cluster or behind its proxy no longer belongs to any KMS key."
	case keyStoreCutOff:
		a.Title = "Custom key store " + name + " is being disconnected"
		a.Risk = "While it is disconnected, none of its keys can be used, and nothing encrypted under them can be read."
		a.Next = append(a.Next, "To connect it again:",
			command.Line("aws kms connect-custom-key-store --region %s --custom-key-store-id %s", c.InRegion(), command.KeyStore(d.ID)))
	}
}

// keysIn finds the keys of a custom key store, as many as can be read in the time that
// an alarm may wait. The error says that there may be more.
func keysIn(ctx context.Context, c *reaction.Case, store string) ([]string, error) {
	if store == "" {
		return nil, errors.New("the event does not say which store")
	}
	ctx, cancel := context.WithTimeout(ctx, reaction.FactsTimeout)
	defer cancel()
	all, err := c.Facts.Keys(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var found []string
	err = reaction.Each(ctx, all, func(ctx context.Context, arn string) error {
		key, err := c.Facts.Key(ctx, arn)
		switch {
		case errors.Is(err, inventory.ErrNotFound):
			return nil
		case err != nil:
			return err
		}
		if key.CustomKeyStoreID == store {
			mu.Lock()
			defer mu.Unlock()
			found = append(found, key.ARN+" ("+key.State+")")
		}
		return nil
	})
	return found, err
}
