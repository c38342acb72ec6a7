package handlers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/posture"
	"github.com/cmkeeper/cmkeeper/storage"
)

// The states of a custom key store's connection that decide something here.
const (
	storeConnected  = "CONNECTED"
	storeConnecting = "CONNECTING" // which takes up to 20 minutes
)

// account watches what belongs to no key and no bucket: custom key stores, EBS encryption
// by default, and how storage is encrypted. It decides after all others. A sweep reads all
// of it, an event what it is about.
func account(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	if err := readAccount(ctx, c); err != nil {
		return nil, err
	}
	doc, err := c.AccountLedger(ctx)
	if err != nil {
		return nil, err
	}
	if err := readStorage(ctx, c, doc); err != nil {
		return nil, err
	}
	meeting := false
	if c.IsSweep() {
		if meeting, err = c.Meeting(ctx); err != nil {
			return nil, err
		}
	}
	changes, noted := storeChanges(c, doc)
	d, err := c.Watch(ctx, reaction.Watch{
		Thing:  "account",
		Live:   func() []reaction.Danger { return accountDangers(c, meeting) },
		Looked: func(name string) bool { return accountLooked(c, name) },
		Ends: func(name string) bool {
			return c.Event.Name == "ConnectCustomKeyStore" && name == posture.Store(storeOf(c.Event))
		},
		Standing: func() *ledger.Standing { return &doc.Standing },
		Update: func(change func(*ledger.Standing)) reaction.Told {
			return reaction.Told{Account: func(a *ledger.Account) { change(&a.Standing) }}
		},
	})
	if err != nil {
		return nil, err
	}
	d.Told.Account = noteStorage(c, noted)
	if c.IsSweep() {
		d.Tell = func() []alert.Alert { return changes }
	}
	return d, nil
}

// aboutAccount reports whether an event is about what account watches.
func aboutAccount(e events.Event) bool {
	return storeOf(e) != "" || e.Name == "DisableEbsEncryptionByDefault"
}

// storeOf is the custom key store that an event is about, "" for none.
func storeOf(e events.Event) string {
	d, _ := e.Detail.(events.KeyStore)
	return d.ID
}

// readAccount reads what is looked at. What may not be read is not known.
func readAccount(ctx context.Context, c *reaction.Case) error {
	var errs []error
	if c.IsSweep() || storeOf(c.Event) != "" {
		_, err := c.KeyStores(ctx)
		errs = append(errs, err)
	}
	if c.EBS != nil && (c.IsSweep() || storeOf(c.Event) == "") {
		if _, err := c.EncryptedByDefault(ctx); err != nil && ctx.Err() == nil {
			c.Log().InfoContext(ctx, "whether EBS volumes are encrypted by default is not known", "error", err)
		}
	}
	for i, err := range errs {
		if errors.Is(err, inventory.ErrAccessDenied) {
			c.Log().InfoContext(ctx, "custom key stores may not be read, so their connection is not known", "error", err)
			errs[i] = nil
		}
	}
	return errors.Join(errs...)
}

// accountLooked reports whether what was read shows a danger of that name, or that there is
// none.
func accountLooked(c *reaction.Case, name string) bool {
	stores, encrypted := c.AccountRead()
	switch {
	case storage.IsName(name):
		return storageLooked(c, name)
	case name == posture.DangerEBS:
		return encrypted.Known()
	}
	connecting := func(s inventory.KeyStore) bool { return posture.Store(s.ID) == name && s.State == storeConnecting }
	return stores.Known() && !slices.ContainsFunc(stores.Value, connecting)
}

// accountDangers are what is wrong with the account's settings by what was read of them.
// meeting: it is the first look, so what is so may always have been so.
func accountDangers(c *reaction.Case, meeting bool) (all []reaction.Danger) {
	stores, encrypted := c.AccountRead()
	for _, s := range stores.Value {
		if stores.Known() && s.State != storeConnected && s.State != storeConnecting {
			all = append(all, reaction.Danger{Name: posture.Store(s.ID), Alert: storeAlert(c, s)})
		}
	}
	if encrypted.Known() && !encrypted.Value {
		a := c.AccountAlert(alert.KindEncryption, finding.High)
		if meeting { // as it is in every account where nobody has turned it on
			a.Severity = finding.Medium
		}
		a.Dangers = []string{posture.DangerEBS}
		a.Title = "New EBS volumes are not encrypted by default"
		a.Summary = "EBS encryption by default is off in this account and Region. A sweep found this; no event has reported it."
		a.Risk = "Every new volume is stored in plain text unless its creator asks for encryption."
		a.Next = []string{command.Line("aws ec2 enable-ebs-encryption-by-default --region %s", c.InRegion())}
		all = append(all, reaction.Danger{Name: posture.DangerEBS, Alert: a})
	}
	return append(all, storageDangers(c)...)
}

// storeAlert is about a custom key store that is not connected.
func storeAlert(c *reaction.Case, s inventory.KeyStore) alert.Alert {
	a := c.AccountAlert(alert.KindKeyStore, finding.High)
	a.Dangers = []string{posture.Store(s.ID)}
	a.Title = fmt.Sprintf("Custom key store %s is not connected: it is %s", cmp.Or(s.Name, s.ID), s.State)
	a.Summary = fmt.Sprintf("The store %s is %s", s.ID, s.State)
	if s.Error != "" {
		a.Summary += ", because of " + s.Error
	}
	a.Summary += ". A sweep found this; no event has reported it."
	a.Risk = "While it is disconnected, none of its keys can be used, and nothing encrypted under them can be read."
	a.Next = []string{command.Line("aws kms connect-custom-key-store --region %s --custom-key-store-id %s", c.InRegion(), command.KeyStore(s.ID)), showStores(c, s.ID)}
	return a
}

func showStores(c *reaction.Case, id string) string {
	return command.Line("aws kms describe-custom-key-stores --region %s --custom-key-store-id %s", c.InRegion(), command.KeyStore(id))
}

// storeChanges returns the alerts of a sweep about the stores that were made, set to
// something else, or deleted since the last look, and what notes them once that is told.
// Events tell of theirs.
func storeChanges(c *reaction.Case, doc *ledger.Account) (alerts []alert.Alert, noted func(*ledger.Account)) {
	stores, _ := c.AccountRead()
	if !stores.Known() {
		return nil, nil
	}
	var live []ledger.KeyStore
	for _, s := range stores.Value {
		live = append(live, ledger.KeyStore{ID: s.ID, Name: s.Name, Settings: s.Settings})
	}
	var ids []string
	if id := storeOf(c.Event); id != "" {
		ids = []string{id}
	}
	before, look := doc.StoresAt.Unix(), *doc
	look.Stores = slices.Clone(doc.Stores)
	added, changed, gone := look.SeeStores(live, ids, c.At)
	tell := func(s ledger.KeyStore, what string, severity finding.Severity, risk string) {
		a := c.AccountAlert(alert.KindKeyStore, severity)
		a.ID = fmt.Sprintf("sweep/key-store/%s/%s/%d", s.ID, strings.ReplaceAll(what, " ", "-"), before)
		a.Dangers = []string{posture.Store(s.ID)}
		a.Title = fmt.Sprintf("Custom key store %s %s", cmp.Or(s.Name, s.ID), what)
		a.Summary = fmt.Sprintf("The sweep found that the store %s %s; no event reported it.", s.ID, what)
		a.Risk = risk
		a.Next = []string{"Check with the store's owner that this was intended.", showStores(c, s.ID)}
		alerts = append(alerts, a)
	}
	for _, s := range added {
		tell(s, "was created", finding.Medium, "Keys in it have their material outside KMS. The operator of the store can make the keys, and everything encrypted under them, unusable.")
	}
	for _, s := range changed {
		tell(s, "was changed", finding.High, "Its keys now depend on another cluster, proxy or credential. If that belongs to an attacker, every use of the keys goes through them.")
	}
	for _, s := range gone {
		tell(s, "was deleted", finding.High, "KMS only deletes stores without keys. Material left in its cluster or behind its proxy no longer belongs to any KMS key.")
	}
	return alerts, func(a *ledger.Account) { a.SeeStores(live, ids, c.At) }
}
