package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/internal/arn"
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
	// policy live and good, or accepted. Only such a version is ever restored: what
	// could be read under it can be read under it again.
	ReadAs string `json:"read_as,omitempty"`
	// Taken: the fleet took it away, or was about to.
	Taken bool `json:"taken,omitempty"`
	// AcceptedBy is who said that it is good, "" if nobody had to.
	AcceptedBy string `json:"accepted_by,omitempty"`
}

// maxVersions bounds a document: a key policy has up to 32 KiB.
const maxVersions = 8

// Good returns the policy that is restored: the last one that was live and good.
func (b Baseline) Good() (v PolicyVersion, ok bool) {
	return b.latest(func(v PolicyVersion) bool { return v.ReadAs != "" })
}

// Version returns the version of a number.
func (b Baseline) Version(number int) (v PolicyVersion, ok bool) {
	return b.latest(func(v PolicyVersion) bool { return v.Number == number })
}

// TakenAway returns what was last taken away with this hash.
func (b Baseline) TakenAway(hash string) (v PolicyVersion, ok bool) {
	return b.latest(func(v PolicyVersion) bool { return v.Taken && v.SHA256 == hash })
}

func (b Baseline) latest(wanted func(PolicyVersion) bool) (PolicyVersion, bool) {
	for _, v := range slices.Backward(b.Versions) {
		if wanted(v) {
			return v, true
		}
	}
	return PolicyVersion{}, false
}

// Acceptance returns the acceptance of exactly this document, unless another
// policy has become the good one since.
func (b Baseline) Acceptance(document string) (v PolicyVersion, ok bool) {
	v, ok = b.latest(func(v PolicyVersion) bool {
		return v.ReadAs != "" || v.AcceptedBy != "" && v.SHA256 == Hash(document)
	})
	if !ok || v.ReadAs != "" {
		return PolicyVersion{}, false
	}
	return v, true
}

// Accepts reports whether exactly this document is accepted and was not live since.
func (b Baseline) Accepts(document string) bool {
	_, ok := b.Acceptance(document)
	return ok
}

// add records a version, drops the oldest ones, but never the good one, and
// returns it with its number.
func (b *Baseline) add(v PolicyVersion) PolicyVersion {
	v.Number, v.SHA256 = 1, Hash(v.Document)
	if n := newest(b.Versions); n != nil {
		v.Number = n.Number + 1
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

// See notes a policy that was found live. good: nothing at or above the severity
// that is restored was found in it.
func (b *Baseline) See(live PolicyVersion, good bool) {
	numbered := func(number int) *PolicyVersion {
		return where(b.Versions, func(v PolicyVersion) bool { return v.Number == number })
	}
	if accepted, ok := b.Acceptance(live.Document); ok {
		v := numbered(accepted.Number)
		v.ReadAs, v.By, v.Actor = live.ReadAs, live.By, live.Actor
		return
	}
	now, ok := b.Good()
	switch {
	case ok && now.SHA256 == Hash(live.Document):
		numbered(now.Number).ReadAs = live.ReadAs
	case good:
		b.add(live)
	}
}

// Take notes that the live policy is about to be taken away by a restoration.
func (b *Baseline) Take(live string, r Restoration) {
	if v, ok := b.TakenAway(r.Taken); ok && v.By == r.By {
		return
	}
	v := PolicyVersion{Document: live, At: r.At, By: r.By, Taken: true}
	if r.Actor != nil {
		v.Actor = r.Actor.Name
	}
	b.add(v)
}

// Hash names a policy document by its content.
func Hash(document string) string {
	sum := sha256.Sum256([]byte(document))
	return hex.EncodeToString(sum[:])
}

const baselines = "baselines/"

// BaselineName names the document of a key's recorded policies, by the key's ARN.
func BaselineName(keyARN string) string {
	return baselines + state.Segment(arn.KeyID(keyARN)) + ".json"
}

// ReadBaseline reads what is recorded of a key's policies; of a key that nothing
// is recorded of, it has no versions.
func ReadBaseline(ctx context.Context, store *state.Store, keyARN string) (Baseline, error) {
	b := Baseline{Key: keyARN}
	if _, err := store.Get(ctx, BaselineName(keyARN), &b); err != nil && !errors.Is(err, state.ErrNotFound) {
		return Baseline{}, fmt.Errorf("read recorded policies of key %s: %w", keyARN, err)
	}
	return b, nil
}

// Baselines reads what is recorded of all keys, in the order of their ids. A
// document that is state.ErrUnreadable does not end the sequence, any other error does.
func Baselines(ctx context.Context, store *state.Store) iter.Seq2[Baseline, error] {
	return state.Documents[Baseline](ctx, store, baselines)
}

// AcceptPolicy records that by, an ARN, says that exactly this document is a good
// policy of the key. The fleet then does not take it away, and restores it from
// when it has found it live. It is also how people have the fleet restore policies
// again that an actor replaces to whom it happened before.
func AcceptPolicy(ctx context.Context, store *state.Store, keyARN, document, by string) (PolicyVersion, error) {
	at := Now()
	var accepted PolicyVersion
	err := state.Update(ctx, store, BaselineName(keyARN), func(b *Baseline, _ bool) error {
		var ok bool
		if accepted, ok = b.latest(func(v PolicyVersion) bool { return v.AcceptedBy == by && v.At.Equal(at) }); ok {
			return state.ErrUnchanged // the answer to the write was lost
		}
		b.Key = keyARN
		b.Acceptances++
		accepted = b.add(PolicyVersion{Document: document, At: at, AcceptedBy: by})
		return nil
	})
	if err != nil {
		return PolicyVersion{}, fmt.Errorf("record policy of key %s: %w", keyARN, err)
	}
	return accepted, nil
}

// Restoration is a good policy that was put back in place of a bad one, or is about
// to be, with all that is needed to finish it and to tell it.
type Restoration struct {
	By string `json:"by"` // the occurrence that it reacts to
	// The alert's id, and what it says of the occurrence.
	Alert string    `json:"alert"`
	Event string    `json:"event"`
	Time  time.Time `json:"time"`
	Actor *Actor    `json:"actor,omitempty"`
	// Principal is whose policy was taken away, "" if that is not known.
	Principal string    `json:"principal,omitempty"`
	At        time.Time `json:"at"`
	// Taken is the hash of the policy that was taken away; Good is the version of the
	// one that was restored, and GoodAt when that was recorded.
	Taken  string    `json:"taken"`
	Good   int       `json:"good"`
	GoodAt time.Time `json:"good_at"`
	// Bypassed: the bad one was set without KMS's lock-out check.
	Bypassed bool `json:"bypassed,omitempty"`
	// Acceptances is how many there were of the key's policies.
	Acceptances int `json:"acceptances,omitempty"`
	// Told: it is finished, and its alert was published.
	Told bool `json:"told,omitempty"`
}

// opPutPolicy is the call that a restoration makes.
const opPutPolicy = "PutKeyPolicy"

// maxRestorations bounds what is kept of them. No more than the limit of the circuit
// breaker are made without a human, and those before an acceptance do not count.
const maxRestorations = MaxFlapLimit

// Repair is the repair that the restoration is.
func (r Restoration) Repair() Repair {
	rep := Repair{Reaction: ReactionPolicy, By: r.By, Alert: r.Alert, At: r.At}
	if r.Actor != nil {
		rep.Against = &Party{Name: r.Actor.Name, Principal: r.Principal, Account: r.Actor.Account, At: r.Time}
	}
	return rep
}

// BeginRestoration notes that a good policy is about to be restored.
func (k *Key) BeginRestoration(r Restoration) {
	k.Intend(opPutPolicy, r.Repair())
	if k.restoration(r.By) == nil {
		k.Restorations = last(append(k.Restorations, r), maxRestorations)
	}
}

// DropRestoration forgets one that is not made after all, unless another worker has
// made it.
func (k *Key) DropRestoration(r Restoration) {
	k.Refuse(opPutPolicy, r.Repair())
	if k.RepairOf(ReactionPolicy, r.By) == nil {
		k.Restorations = slices.DeleteFunc(k.Restorations, func(o Restoration) bool { return o.By == r.By })
	}
}

// MarkRestoration notes that the alert about a restoration was published.
func (k *Key) MarkRestoration(by string) {
	if r := k.restoration(by); r != nil {
		r.Told = true
	}
}

func (k *Key) restoration(by string) *Restoration {
	return where(k.Restorations, func(r Restoration) bool { return r.By == by })
}

// InProgress returns the restoration that was begun for an event and is not
// finished; for a sweep, any. nil: there is none.
func (k *Key) InProgress(e events.Event) *Restoration {
	return where(k.Restorations, func(r Restoration) bool { return !r.Told && (r.By == e.ID || IsSweep(e)) })
}

// Finished reports whether an event is about a policy that was taken away for it,
// with everything done.
func (k *Key) Finished(e events.Event) bool {
	r := k.restoration(e.ID)
	return r != nil && r.Told
}

// RecentlyReplaced reports whether a policy that was read may be one that was taken
// away just before: KMS is eventually consistent.
func (k *Key) RecentlyReplaced(document string, at time.Time) bool {
	return slices.ContainsFunc(k.Restorations, func(r Restoration) bool {
		return r.Taken == Hash(document) && r.Told && at.Sub(r.At) < ConsistencyWindow
	})
}

// OutcomeOf returns what became of a policy that an event set and that is not live:
// it was taken away, or an older one was restored after it because of another.
func (k *Key) OutcomeOf(e events.Event, sent string) (taken, undone *Restoration) {
	for i, r := range k.Restorations {
		switch {
		case r.At.Before(e.Time):
		case r.Taken == Hash(sent):
			return &k.Restorations[i], nil
		case r.GoodAt.Before(e.Time):
			undone = &k.Restorations[i]
		}
	}
	return nil, undone
}

// EarlierRestorations returns those for other occurrences since the last acceptance.
func (k *Key) EarlierRestorations(by string, acceptances int) []Restoration {
	var found []Restoration
	for _, r := range k.Restorations {
		if r.By != by && r.Acceptances == acceptances {
			found = append(found, r)
		}
	}
	return found
}
