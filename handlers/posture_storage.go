package handlers

import (
	"context"
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/storage"
)

// storageEvery is how often AWS Config is asked how storage is encrypted.
const storageEvery = 24 * time.Hour

// readStorage asks AWS Config, where that is due in a sweep. Its error says that ctx is done.
func readStorage(ctx context.Context, c *reaction.Case, doc *ledger.Account) error {
	if !c.IsSweep() || !c.Config.ConfigChecks || c.Resources == nil || c.At.Sub(doc.StorageAt) < storageEvery {
		return nil
	}
	look, err := c.Storage(ctx)
	for _, gap := range look.Gaps() {
		c.Log().InfoContext(ctx, "it is not known how some storage is encrypted", "what", gap)
	}
	return err
}

// noteStorage notes a look at storage once people know what it showed. One that showed
// nothing at all is made again by the next sweep.
func noteStorage(c *reaction.Case, noted func(*ledger.Account)) func(*ledger.Account) {
	look := c.StorageRead()
	if !look.Known() || look.Value.Nothing() {
		return noted
	}
	return func(a *ledger.Account) {
		if noted != nil {
			noted(a)
		}
		a.StorageAt = look.Value.At
	}
}

// storageLooked reports whether AWS Config was asked now, and what it showed would show a
// danger of that name.
func storageLooked(c *reaction.Case, name string) bool {
	look := c.StorageRead()
	return look.Known() && look.Value.Looked(name)
}

// storageDangers are what is wrong with storage, by what AWS Config showed now.
func storageDangers(c *reaction.Case) (all []reaction.Danger) {
	look := c.StorageRead()
	if !look.Known() {
		return nil
	}
	gaps, source := look.Value.Gaps(), "AWS Config, asked at "+reaction.TimeText(look.Value.At)
	for _, f := range look.Value.Found {
		all = append(all, reaction.Danger{Name: f.Name, Alert: foundAlert(c, f, gaps, source), Count: f.Count})
	}
	if len(gaps) > 0 {
		all = append(all, reaction.Danger{Name: storage.Unread, Alert: unreadAlert(c, gaps, source), Count: len(gaps)})
	}
	return all
}

// foundAlert is about what is wrong with storage of one type.
func foundAlert(c *reaction.Case, f storage.Found, gaps []string, source string) alert.Alert {
	a := c.AccountAlert(alert.KindEncryption, f.Severity)
	a.Dangers = []string{f.Name}
	what := fmt.Sprintf("%s (%d)", f.Type.Title, f.Count)
	keys := command.Line("cmkeeper keys --bad")
	switch f.Rule {
	case storage.Unencrypted:
		a.Title = "Storage is not encrypted: " + what
		a.Risk = "Anybody who gets a copy of the data past AWS's access control can read it. No key policy protects it."
		a.Next = []string{"Make an encrypted copy and move to it: AWS encrypts most storage only when it is created."}
	case storage.Unusable:
		a.Title = "Storage is under a key that cannot be used: " + what
		a.Risk = "The data cannot be read as soon as AWS needs the key again, for example when a volume is attached or a database is started."
		a.Next = []string{"If the data is needed, enable the key or cancel its deletion. What is wrong with keys:", keys, "Under a key that does not exist any more, the data is lost: look for a copy under another key."}
	case storage.Foreign:
		a.Title = "Storage is under a key of an account that is not trusted: " + what
		a.Risk = "The other account can make the data unreadable, and may be able to read it."
		a.Next = []string{"If the account is yours or a partner's, add it to CMKEEPER_TRUSTED_ACCOUNTS. If not, move the data to a key of your own."}
	case storage.OtherTag:
		a.Title = fmt.Sprintf("Storage has another %s than its key: %s", f.Tag, what)
		a.Risk = "Who may use the key is decided by the tag of the key, and may not fit the data."
		a.Next = []string{"Correct the tag that is wrong, or move the data to a key with the same tag."}
	}
	a.Summary = "A sweep found this in AWS Config; no event has reported it. While it lasts, another alert comes only if there are more such resources."
	a.Facts = []alert.Fact{{Name: "resources, a few of them", Source: source, Values: f.Examples}}
	if len(gaps) > 0 {
		a.Facts = append(a.Facts, alert.Fact{Name: "not looked at", Source: source, Values: gaps})
	}
	return a
}

// unreadAlert says that it is not known how all storage is encrypted.
func unreadAlert(c *reaction.Case, gaps []string, source string) alert.Alert {
	a := c.AccountAlert(alert.KindEncryption, finding.Low)
	a.Dangers = []string{storage.Unread}
	a.Title = "cmkeeper cannot see how all storage is encrypted"
	a.Summary = "CMKEEPER_CONFIG_CHECKS asks AWS Config once a day how storage is encrypted. Some of it was not looked at, and nothing is known of that."
	a.Risk = "There may be storage that is not encrypted, or under a key that it should not be under."
	a.Next = []string{"Have AWS Config record these types, and allow cmkeeper to ask it (docs/operations.md, Permissions); or turn the checks off: CMKEEPER_CONFIG_CHECKS=off."}
	a.Facts = []alert.Fact{{Name: "not looked at", Source: source, Values: gaps}}
	return a
}
