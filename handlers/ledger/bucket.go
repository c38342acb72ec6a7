package ledger

import (
	"slices"
	"time"
)

// Bucket is buckets/<name>.json: what a bucket's settings for new objects were when
// they were last read, which is what a change of them is compared with. The zero
// value is a bucket that nothing is known of.
type Bucket struct {
	Bucket string `json:"bucket"`
	// Seen: the default encryption was read; Key is its key's ARN, or as it was
	// configured where that names no key that can be looked up; "" for a bucket
	// without a key of its own.
	Seen bool   `json:"seen,omitempty"`
	Key  string `json:"key,omitempty"`
	// Aliases are those that the tag cmkeeper:alias named.
	Aliases []string `json:"aliases,omitempty"`
	// Denies: the policy denied uploads for their encryption.
	Denies bool      `json:"denies,omitempty"`
	At     time.Time `json:"at,omitzero"`
	// Default is the key of the default encryption as it was configured: a bucket that names
	// an alias follows it.
	Default string `json:"default,omitempty"`
	// Standing is what is wrong with the bucket, and what people were told of that.
	Standing Standing `json:"standing,omitzero"`
}

// Schema implements state.Document.
func (*Bucket) Schema() (string, int) { return "bucket", 1 }

// See notes what was read at a time: the key of the default encryption ("" for none) and
// how it was configured, the aliases in the tag, and whether the policy denies uploads;
// nil, one that could not be read, leaves what is known.
func (b *Bucket) See(name, key, configured string, aliases []string, denies *bool, at time.Time) {
	if at.Before(b.At) {
		return
	}
	b.Default = configured
	if !b.Seen || b.Key != key || !slices.Equal(b.Aliases, aliases) || denies != nil && b.Denies != *denies {
		b.At = at
	}
	b.Bucket, b.Seen, b.Key, b.Aliases = name, true, key, aliases
	if denies != nil {
		b.Denies = *denies
	}
}
