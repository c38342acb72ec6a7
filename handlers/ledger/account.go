package ledger

import (
	"slices"
	"time"
)

// AccountName names the document of the account.
const AccountName = "posture/account.json"

// Account is posture/account.json: what belongs to no single key or bucket. The zero value
// is an account that was never swept by a build that tells what it finds at first.
type Account struct {
	// Met is when the first sweep that looked at how things stand began whose findings were
	// told. Until then what is new is told with the others, in one alert.
	Met time.Time `json:"met,omitzero"`
	// Looked is when a first sweep began that did not look at all of it: grants and tags of
	// many keys are read after the rest. The next one finishes the first meeting.
	Looked time.Time `json:"looked,omitzero"`
	// Stores are the custom key stores as they were last read, at StoresAt.
	Stores   []KeyStore `json:"stores,omitempty"`
	StoresAt time.Time  `json:"stores_at,omitzero"`
	// StorageAt is when AWS Config was last asked how storage is encrypted, and answered.
	StorageAt time.Time `json:"storage_at,omitzero"`
	// Standing is what is wrong with the account's settings, and what people were told of that.
	Standing Standing `json:"standing,omitzero"`
}

// Schema implements state.Document.
func (*Account) Schema() (string, int) { return "account", 1 }

// SeeStores notes the custom key stores as they were read at a time, and returns those that
// are new, those that are others than before, as they were, and those that are gone. The
// first time there is nothing to compare them with. ids, if not nil, are the only ones that
// are looked at.
func (a *Account) SeeStores(live []KeyStore, ids []string, at time.Time) (added, changed, gone []KeyStore) {
	about := func(s KeyStore) bool { return ids == nil || slices.Contains(ids, s.ID) }
	is := func(id string) func(KeyStore) bool { return func(s KeyStore) bool { return s.ID == id } }
	if a.StoresAt.IsZero() && ids != nil || at.Before(a.StoresAt) {
		return nil, nil, nil // a sweep has to see all of them first
	}
	first := a.StoresAt.IsZero()
	for _, s := range live {
		switch known := where(a.Stores, is(s.ID)); {
		case !about(s):
		case known == nil:
			added, a.Stores = append(added, s), append(a.Stores, s)
		case *known != s:
			changed = append(changed, *known)
			*known = s
		}
	}
	a.Stores = slices.DeleteFunc(a.Stores, func(s KeyStore) bool {
		if !about(s) || slices.ContainsFunc(live, is(s.ID)) {
			return false
		}
		gone = append(gone, s)
		return true
	})
	if first {
		a.StoresAt = at
		return nil, nil, nil
	}
	if len(added)+len(changed)+len(gone) > 0 {
		a.StoresAt = at
	}
	return added, changed, gone
}

// KeyStore is a custom key store.
type KeyStore struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	// Settings are where it is: its cluster, or its proxy and the credential for that.
	Settings string `json:"settings,omitempty"`
}
