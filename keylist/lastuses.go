package keylist

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// LastUsesName names the document of the keys' last uses.
const LastUsesName = "last-uses.json"

// maxLastUses bounds the document, which is read and written whole.
const maxLastUses = 20_000

// LastUses is last-uses.json: when keys were last used, as it was last read. KMS answers
// that too slowly for it to be read of all keys, so people are shown what was read before,
// with its date. Nothing is decided by it.
type LastUses struct {
	Keys map[string]UseRecord `json:"keys,omitempty"` // by ARN
}

// UseRecord is when a key was last used, as it was read at the time At.
type UseRecord struct {
	At time.Time `json:"at"`
	// Used and Operation are the last use, zero where there was none since Since.
	Used      time.Time `json:"used,omitzero"`
	Operation string    `json:"operation,omitempty"`
	Since     time.Time `json:"since,omitzero"`
}

// UnusedDays is for how many whole days the key had not been used at the time At, and false
// where that is not known. Where Used is zero it is for how long there was no use at least.
func (u UseRecord) UnusedDays() (int, bool) {
	last := u.Used
	if last.IsZero() {
		last = u.Since
	}
	if last.IsZero() || u.At.IsZero() {
		return 0, false
	}
	return max(0, int(u.At.Sub(last)/(24*time.Hour))), true
}

// Schema implements state.Document.
func (*LastUses) Schema() (string, int) { return "last-uses", 1 }

// Note notes what was read. Of a key it keeps what was read last, and of too many keys
// those that were read last.
func (l *LastUses) Note(read map[string]UseRecord) {
	if l.Keys == nil && len(read) > 0 {
		l.Keys = map[string]UseRecord{}
	}
	for key, u := range read {
		if u.At.After(l.Keys[key].At) {
			l.Keys[key] = u
		}
	}
	if len(l.Keys) <= maxLastUses {
		return
	}
	earliest := slices.SortedFunc(maps.Keys(l.Keys), func(a, b string) int {
		return cmp.Or(l.Keys[a].At.Compare(l.Keys[b].At), strings.Compare(a, b))
	})
	for _, key := range earliest[:len(earliest)-maxLastUses] {
		delete(l.Keys, key)
	}
}
