package selfcheck

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cmkeeper/cmkeeper/guard"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/keypolicy"
	"github.com/cmkeeper/cmkeeper/state"
)

// powers is what this worker last read of guard/role.json: keys that lack nothing and are
// not in it cost no request.
type powers struct {
	// turn has a token that a reader or writer takes: not a mutex, since requests are made
	// meanwhile.
	turn chan struct{}
	read time.Time
	doc  ledger.Role
}

// take waits for the turn, and returns what ends it.
func (p *powers) take(ctx context.Context) (end func(), err error) {
	select {
	case p.turn <- struct{}{}:
		return func() { <-p.turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// powersRead is how often it is read during sweeps.
const powersRead = 5 * time.Minute

// roleNeeds are the actions on keys that the modes need.
func roleNeeds(c reaction.Config) []string {
	needs := []string{"kms:DescribeKey", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:ListGrants", "kms:ListResourceTags"}
	if c.Rotation != reaction.Off && c.Posture.ManualRotationDays > 0 {
		needs = append(needs, "kms:ListKeyRotations")
	}
	for _, operation := range []string{reaction.EnableKeyRotation, reaction.CancelKeyDeletion, reaction.EnableKey, reaction.PutKeyPolicy, reaction.DisableKey} {
		if c.Makes(operation) {
			needs = append(needs, "kms:"+operation)
		}
	}
	return needs
}

// RoleOn notes what the role cannot do on a key: what its policy surely denies, as far as a
// sweep reads that, and what AWS has denied.
func (k *Checks) RoleOn(ctx context.Context, c *reaction.Case) (*reaction.Decision, error) {
	doc, err := c.Ledger(ctx)
	if err != nil {
		return nil, err
	}
	var lacks []ledger.Lack
	lack := func(action, why string, at time.Time) {
		lacks = append(lacks, ledger.Lack{Key: c.Event.KeyARN, Action: action, Why: why, At: at})
	}
	denied := map[string]bool{}
	for _, d := range doc.DeniedNow(c.At) {
		if d.Operation == reaction.UpdateKeyDescription {
			continue // the canary says so
		}
		denied["kms:"+d.Operation] = true
		lack("kms:"+d.Operation, fmt.Sprintf("AWS refused it at %s: %s", reaction.TimeText(d.At), d.Why), d.At)
	}
	if k.Config.Policy != reaction.Off {
		document, err := c.Policy(ctx)
		if err != nil {
			return nil, nil //nolint:nilerr // the reaction to policies says so, and what was known stays
		}
		if p, err := keypolicy.Parse([]byte(document)); err == nil {
			us := guard.Principal{Account: k.Config.Identity.Account, Noun: k.Config.Identity.Noun(), Name: k.Config.Identity.Name}
			for _, action := range guard.Denied(p, us, roleNeeds(k.Config)) {
				if !denied[action] {
					lack(action, "the key policy does not allow it", time.Time{})
				}
			}
		}
	}
	key := c.Event.KeyARN
	known, err := k.role(ctx, powersRead)
	if err != nil || !known.Set(key, lacks) {
		return nil, nil //nolint:nilerr // the guard's check says that it is not known
	}
	return &reaction.Decision{Act: func(ctx context.Context) error {
		return k.updateRole(ctx, func(doc *ledger.Role) bool { return doc.Set(key, lacks) })
	}}, nil
}

// role returns guard/role.json as it was read at most that long ago.
func (k *Checks) role(ctx context.Context, age time.Duration) (ledger.Role, error) {
	end, err := k.powers.take(ctx)
	if err != nil {
		return ledger.Role{}, err
	}
	defer end()
	if k.powers.read.IsZero() || time.Since(k.powers.read) >= age {
		var doc ledger.Role
		if _, err := k.State.Get(ctx, ledger.RoleName, &doc); err != nil && !errors.Is(err, state.ErrNotFound) {
			return ledger.Role{}, fmt.Errorf("read what the role cannot do: %w", err)
		}
		k.powers.read, k.powers.doc = time.Now(), doc
	}
	return ledger.Role{Lacks: append([]ledger.Lack(nil), k.powers.doc.Lacks...)}, nil
}

func (k *Checks) updateRole(ctx context.Context, change func(*ledger.Role) bool) error {
	end, err := k.powers.take(ctx)
	if err != nil {
		return err
	}
	defer end()
	return state.Update(ctx, k.State, ledger.RoleName, func(doc *ledger.Role, _ bool) error {
		changed := change(doc)
		k.powers.doc = ledger.Role{Lacks: append([]ledger.Lack(nil), doc.Lacks...)}
		if !changed {
			return state.ErrUnchanged
		}
		return nil
	})
}

// maxLackingKeys is how many keys that lack something are looked at, to see whether they
// still exist.
const maxLackingKeys = 20

// roleFacts is what the role cannot do, without the keys that are deleted by now.
func (k *Checks) roleFacts(ctx context.Context) guard.Known[[]guard.Lack] {
	doc, err := k.role(ctx, 0)
	if err != nil {
		return guard.Known[[]guard.Lack]{Err: err}
	}
	gone, looked := map[string]bool{}, map[string]bool{}
	for _, l := range doc.Lacks {
		if looked[l.Key] || len(looked) >= maxLackingKeys {
			continue
		}
		looked[l.Key] = true
		if _, err := k.Facts.Key(ctx, l.Key); errors.Is(err, inventory.ErrNotFound) {
			gone[l.Key] = true
		}
	}
	if len(gone) > 0 {
		err = k.updateRole(ctx, func(doc *ledger.Role) (changed bool) {
			for key := range gone {
				changed = doc.Set(key, nil) || changed
			}
			return changed
		})
	}
	var lacks []guard.Lack
	for _, l := range doc.Lacks {
		if !gone[l.Key] && l.Stands(ledger.Now()) {
			lacks = append(lacks, guard.Lack{Key: l.Key, Action: l.Action, Why: l.Why})
		}
	}
	return guard.Known[[]guard.Lack]{Value: lacks, Err: err}
}
