package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/state"
)

// bucketDoc is buckets/<name>.json: what a bucket's settings for new objects were
// when they were last read, which is what a change of them is compared with.
type bucketDoc struct {
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
}

// Schema implements state.Document.
func (*bucketDoc) Schema() (string, int) { return "bucket", 1 }

func bucketDocName(name string) string { return "buckets/" + state.Segment(name) + ".json" }

// see notes what was read; a policy that could not be read leaves what is known.
func (d *bucketDoc) see(b inventory.Bucket, denies *bool, at time.Time) {
	if at.Before(d.At) {
		return
	}
	key := defaultKey(b)
	if !d.Seen || d.Key != key || !slices.Equal(d.Aliases, b.AliasTags) || denies != nil && d.Denies != *denies {
		d.At = at
	}
	d.Bucket, d.Seen, d.Key, d.Aliases = b.Name, true, key, b.AliasTags
	if denies != nil {
		d.Denies = *denies
	}
}

// defaultKey is the key of a bucket's default encryption, by ARN where it is known.
func defaultKey(b inventory.Bucket) string {
	if b.DefaultKeyARN != "" {
		return b.DefaultKeyARN
	}
	return b.DefaultKey
}

// knownBucket returns what state knows of a bucket; one that it does not know is
// a zero document.
func (r *Router) knownBucket(ctx context.Context, name string) (bucketDoc, error) {
	var doc bucketDoc
	if _, err := r.state.Get(ctx, bucketDocName(name), &doc); err != nil && !errors.Is(err, state.ErrNotFound) {
		return bucketDoc{}, fmt.Errorf("read document of bucket %s: %w", name, err)
	}
	return doc, nil
}

// noteBucket stores what was read of a bucket.
func (r *Router) noteBucket(ctx context.Context, b inventory.Bucket, denies *bool, at time.Time) error {
	var after bucketDoc
	err := state.Update(ctx, r.state, bucketDocName(b.Name), func(doc *bucketDoc, _ bool) error {
		return unlessSame(doc, &after, func(doc *bucketDoc) { doc.see(b, denies, at) })
	})
	if err != nil {
		return fmt.Errorf("update document of bucket %s: %w", b.Name, err)
	}
	return nil
}

// deniesPlain reads whether a bucket's policy denies uploads for their
// encryption; nil where that may not be read.
func (r *Router) deniesPlain(ctx context.Context, bucket string) *bool {
	document, err := r.facts.BucketPolicy(ctx, bucket)
	if err != nil {
		r.log.DebugContext(ctx, "policy of a bucket cannot be read", "bucket", bucket, "error", err)
		return nil
	}
	denies := deniesUploads(document)
	return &denies
}

// encryptionConditions begin the condition keys about the encryption of uploads.
const encryptionConditions = "s3:x-amz-server-side-encryption"

// deniesUploads reports whether a bucket policy has a statement that denies
// uploads on a condition about their encryption.
func deniesUploads(document string) bool {
	var p struct {
		Statement json.RawMessage
	}
	if json.Unmarshal([]byte(document), &p) != nil {
		return false
	}
	type statement struct {
		Effect    string
		Action    json.RawMessage
		Condition map[string]map[string]json.RawMessage
	}
	var all []statement
	if json.Unmarshal(p.Statement, &all) != nil {
		var one statement // one statement needs no list
		if json.Unmarshal(p.Statement, &one) != nil {
			return false
		}
		all = []statement{one}
	}
	for _, s := range all {
		action := strings.ToLower(string(s.Action))
		if s.Effect != "Deny" || !strings.Contains(action, "s3:put") && !strings.Contains(action, `"s3:*"`) && !strings.Contains(action, `"*"`) {
			continue
		}
		for _, keys := range s.Condition {
			for key := range keys {
				if strings.HasPrefix(strings.ToLower(key), encryptionConditions) {
					return true
				}
			}
		}
	}
	return false
}
