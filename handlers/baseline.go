package handlers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/state"
)

// Baseline is baselines/<key-id>.json: which of a key's policies is the good one,
// and what came before and after it. The fleet records the good one, and what it
// took away; people accept others.
type Baseline struct {
	// Key is the key's ARN.
	Key string `json:"key"`
	// Acceptances counts how often somebody accepted a policy of the key.
	Acceptances int `json:"acceptances,omitempty"`
	// Versions are in the order in which they were recorded. The oldest ones go.
	Versions []PolicyVersion `json:"versions,omitempty"`
}

// Schema implements state.Document.
func (*Baseline) Schema() (string, int) { return "baseline", 1 }

// PolicyVersion is a recorded key policy.
type PolicyVersion struct {
	// Number counts from 1, and is never used again.
	Number   int       `json:"number"`
	Document string    `json:"document"`
	SHA256   string    `json:"sha256"`
	At       time.Time `json:"at"`
	// By is the occurrence that it was recorded at, and Actor who had set it, as far
	// as that is known; "" for one that was accepted before it was live.
	By    string `json:"by,omitempty"`
	Actor string `json:"actor,omitempty"`
	// ReadAs is the name of the role, or user, that the fleet had when it found the
	// policy live and good, or accepted. Only such a version is ever put back: what
	// could be read under it can be read under it again.
	ReadAs string `json:"read_as,omitempty"`
	// Taken: the fleet took it away, or was about to.
	Taken bool `json:"taken,omitempty"`
	// AcceptedBy is who said that it is good, "" if nobody had to.
	AcceptedBy string `json:"accepted_by,omitempty"`
}

// maxVersions bounds a document: a key policy has up to 32 KiB.
const maxVersions = 8

// Good returns the policy that is put back: the last one that was live and good.
func (b Baseline) Good() (v PolicyVersion, ok bool) {
	for _, v := range slices.Backward(b.Versions) {
		if v.ReadAs != "" {
			return v, true
		}
	}
	return PolicyVersion{}, false
}

// Version returns the version of a number.
func (b Baseline) Version(number int) (v PolicyVersion, ok bool) {
	i := slices.IndexFunc(b.Versions, func(v PolicyVersion) bool { return v.Number == number })
	if i < 0 {
		return PolicyVersion{}, false
	}
	return b.Versions[i], true
}

// taken returns what was last taken away with this hash.
func (b Baseline) taken(hash string) (v PolicyVersion, ok bool) {
	for _, v := range slices.Backward(b.Versions) {
		if v.Taken && v.SHA256 == hash {
			return v, true
		}
	}
	return PolicyVersion{}, false
}

// acceptance returns the acceptance of exactly this document, unless another
// policy has become the good one since.
func (b Baseline) acceptance(document string) (v PolicyVersion, ok bool) {
	for _, v := range slices.Backward(b.Versions) {
		switch {
		case v.ReadAs != "":
			return PolicyVersion{}, false
		case v.AcceptedBy != "" && v.SHA256 == hashOf(document):
			return v, true
		}
	}
	return PolicyVersion{}, false
}

// accepts reports whether exactly this document is accepted and was not live since.
func (b Baseline) accepts(document string) bool {
	_, ok := b.acceptance(document)
	return ok
}

// add records a version, drops the oldest ones, but never the good one, and
// returns it with its number.
func (b *Baseline) add(v PolicyVersion) PolicyVersion {
	v.Number, v.SHA256 = 1, hashOf(v.Document)
	if n := len(b.Versions); n > 0 {
		v.Number = b.Versions[n-1].Number + 1
	}
	b.Versions = append(b.Versions, v)
	good, _ := b.Good()
	for i := 0; len(b.Versions) > maxVersions; {
		if b.Versions[i].Number == good.Number {
			i++
			continue
		}
		b.Versions = slices.Delete(b.Versions, i, i+1)
	}
	return v
}

// seen notes a policy that was found live. good: nothing at or above the severity
// that is restored was found in it.
func (b *Baseline) seen(live PolicyVersion, good bool) {
	if accepted, ok := b.acceptance(live.Document); ok {
		i := slices.IndexFunc(b.Versions, func(v PolicyVersion) bool { return v.Number == accepted.Number })
		b.Versions[i].ReadAs, b.Versions[i].By, b.Versions[i].Actor = live.ReadAs, live.By, live.Actor
		return
	}
	now, ok := b.Good()
	switch {
	case ok && now.SHA256 == hashOf(live.Document):
		i := slices.IndexFunc(b.Versions, func(v PolicyVersion) bool { return v.Number == now.Number })
		b.Versions[i].ReadAs = live.ReadAs
	case good:
		b.add(live)
	}
}

func hashOf(document string) string {
	sum := sha256.Sum256([]byte(document))
	return hex.EncodeToString(sum[:])
}

const baselines = "baselines/"

func baselineName(keyARN string) string {
	return baselines + state.Segment(keyID(keyARN)) + ".json"
}

// ReadBaseline reads what is recorded of a key's policies; of a key that nothing
// is recorded of, it has no versions.
func ReadBaseline(ctx context.Context, store *state.Store, keyARN string) (Baseline, error) {
	b := Baseline{Key: keyARN}
	if _, err := store.Get(ctx, baselineName(keyARN), &b); err != nil && !errors.Is(err, state.ErrNotFound) {
		return Baseline{}, fmt.Errorf("read recorded policies of key %s: %w", keyARN, err)
	}
	return b, nil
}

// Baselines reads what is recorded of all keys, in the order of their ids. An
// error ends the sequence.
func Baselines(ctx context.Context, store *state.Store) iter.Seq2[Baseline, error] {
	return func(yield func(Baseline, error) bool) {
		for name, err := range store.Keys(ctx, baselines) {
			var b Baseline
			if err == nil {
				_, err = store.Get(ctx, name, &b)
			}
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

// AcceptPolicy records that by, an ARN, says that exactly this document is a good
// policy of the key. The fleet then does not take it away, and puts it back from
// when it has found it live. It is also how people have the fleet put policies
// back again that an actor sets to whom it happened before.
func AcceptPolicy(ctx context.Context, store *state.Store, keyARN, document, by string) (PolicyVersion, error) {
	at := now()
	var accepted PolicyVersion
	err := updateBaseline(ctx, store, keyARN, func(b *Baseline) {
		b.Acceptances++
		accepted = b.add(PolicyVersion{Document: document, At: at, AcceptedBy: by})
	})
	return accepted, err
}

// recordSeen records a policy that was found live, where that is news.
func (r *Router) recordSeen(ctx context.Context, j judged) error {
	live := PolicyVersion{Document: j.document, At: j.at, By: j.event.ID, Actor: j.event.Actor.String(), ReadAs: r.config.Identity.Name}
	good := j.good(r.config.RestoreSeverity)
	after := j.base
	after.Versions = slices.Clone(j.base.Versions)
	if after.seen(live, good); slices.Equal(after.Versions, j.base.Versions) {
		return nil
	}
	return updateBaseline(ctx, r.state, j.key.ARN, func(b *Baseline) { b.seen(live, good) })
}

// updateBaseline changes what is recorded of a key's policies. change must be
// safe to apply twice.
func updateBaseline(ctx context.Context, store *state.Store, keyARN string, change func(*Baseline)) error {
	err := state.Update(ctx, store, baselineName(keyARN), func(b *Baseline, _ bool) error {
		return unlessSame(b, new(Baseline), func(b *Baseline) {
			b.Key = keyARN
			change(b)
		})
	})
	if err != nil {
		return fmt.Errorf("record policy of key %s: %w", keyARN, err)
	}
	return nil
}
