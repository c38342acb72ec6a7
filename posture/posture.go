// Package posture says what is dangerous about a key as it stands: its policy, its
// grants, its state, its rotation and its material, no matter who changed them and when.
// It is pure. An event's reactions judge what changed; posture judges what is there, for the
// sweep, for "cmkeeper keys" and for the report, so that all three say the same.
package posture

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/keypolicy"
)

// Fact is something that was asked of AWS. The zero value was not asked for.
type Fact[T any] struct {
	Value T
	// At is when it was read, zero where it was not.
	At time.Time
	// Err is why it could not be read.
	Err error
}

// Known reports whether the fact was read.
func (f Fact[T]) Known() bool { return f.Err == nil && !f.At.IsZero() }

// Key is what was read of a key. What is not known makes no danger, and is to be said
// beside those that are.
type Key struct {
	inventory.Key
	Aliases  []string
	Rotation Fact[inventory.Rotation]
	Policy   Fact[string]
	Grants   Fact[[]inventory.Grant]
	Tags     Fact[map[string]string]
	Usage    Fact[inventory.Usage]
	// LastRotation is when the key got new material for the last time, zero for never. It
	// counts for keys of which Rules.AsksLastRotation is true.
	LastRotation Fact[time.Time]
	// Approved: the pending deletion is one that was approved.
	Approved bool
	// Rotated: the key was seen rotating at some time; Worked: it was seen enabled.
	Rotated, Worked bool
}

// Rules are what keys are judged by.
type Rules struct {
	// Account is the one that owns the keys, TrustedAccounts and TrustedOrgs (o-…) are
	// who else may use them.
	Account                      string
	TrustedAccounts, TrustedOrgs []string
	// RotationRequired: every key that can rotate has to. RotationPeriodDays is the
	// longest period that is no danger, 0 for any.
	RotationRequired   bool
	RotationPeriodDays int
	// ManualRotationDays is how old the material may be of a key that KMS cannot rotate by
	// itself, 0 for any age.
	ManualRotationDays int
}

// Danger is one thing that is wrong with a key.
type Danger struct {
	// Name names it among those of its key, and is the same as long as it lasts:
	// DangerPolicy and the others, for a grant what Grant returns.
	Name     string           `json:"name"`
	Kind     alert.Kind       `json:"kind"`
	Severity finding.Severity `json:"severity"`
	// Text is a sentence about "the key". It may hold parts of a policy as they are:
	// escape it before it is shown.
	Text string `json:"text"`
	// Findings say more, the worst first.
	Findings []finding.Finding `json:"findings,omitempty"`
}

// The names of dangers. Those of a state are apart, since a key whose deletion is cancelled
// is disabled, and may be so for good.
const (
	DangerPolicy      = "policy"
	DangerDeletion    = "deletion"    // it is pending
	DangerDisabled    = "disabled"    // the key is
	DangerMaterial    = "material"    // the key has none
	DangerUnavailable = "unavailable" // its key store does not answer
	DangerRotation    = "rotation"
	DangerAge         = "material-age" // KMS cannot replace the material by itself, and it is old
	DangerExpiry      = "expiry"       // of the material
	// Only the key's stored document shows these: the key was disabled because it was open,
	// works again and is open; and a tag approves a deletion that nobody has scheduled yet.
	DangerReopened = "reopened"
	DangerApproval = "approval"
	// DangerEBS is one of the account: new EBS volumes are not encrypted by default. Of a
	// custom key store that is not connected it is what Store returns.
	DangerEBS   = "ebs-default"
	grantPrefix = "grant/"
	storePrefix = "key-store/"
)

// Grant names the danger that a grant is.
func Grant(id string) string { return grantPrefix + id }

// Store names the danger that a custom key store is not connected.
func Store(id string) string { return storePrefix + id }

// GrantID returns the grant of a danger that Grant names, "" for any other.
func GrantID(name string) string { return after(grantPrefix, name) }

// StoreID returns the key store of a danger that Store names, "" for any other.
func StoreID(name string) string { return after(storePrefix, name) }

func after(prefix, name string) string {
	id, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return ""
	}
	return id
}

// Looked reports whether the facts that are known of a key show a danger of that name, or
// that there is none. A key has one state at a time: that its deletion is pending does not
// mean that it is not disabled, and only one that works may have what else its state hides.
func (k Key) Looked(name string) bool {
	switch {
	case name == DangerPolicy:
		return k.Policy.Known()
	case GrantID(name) != "":
		return k.Grants.Known()
	case name == DangerRotation:
		return k.Rotation.Known() && k.RotationBlocker() == ""
	case name == DangerAge: // one that is not in use any more is not too old
		return k.State == "Enabled" || k.State == "Disabled" || k.PendingDeletion()
	case name == DangerMaterial, name == DangerExpiry, name == DangerUnavailable, name == DangerDisabled:
		return k.State == "Enabled" || k.State == "Disabled"
	}
	return k.State != ""
}

// materialComes is how long a key that was made for imported material may wait for it.
const materialComes = 24 * time.Hour

// expiresSoon is how near the end of imported material is a danger.
const expiresSoon = 30 * 24 * time.Hour

// Dangers returns what is wrong with a customer managed key, the worst first; nothing for
// keys that AWS manages.
func (r Rules) Dangers(k Key, now time.Time) []Danger {
	if !k.Guarded() {
		return nil
	}
	all := slices.Concat(r.policy(k, now), r.grants(k), state(k, now), r.rotation(k), r.age(k, now), material(k, now))
	slices.SortStableFunc(all, func(a, b Danger) int { return cmp.Compare(b.Severity.Rank(), a.Severity.Rank()) })
	return all
}

// Worst is the severity of the worst danger, "" for none.
func Worst(dangers []Danger) finding.Severity {
	var worst finding.Severity
	for _, d := range dangers {
		if worst == "" || d.Severity.Rank() > worst.Rank() {
			worst = d.Severity
		}
	}
	return worst
}

func (r Rules) policy(k Key, now time.Time) []Danger {
	if !k.Policy.Known() {
		return nil
	}
	_, found := r.JudgePolicy(keypolicy.Context{KeyARN: k.ARN, Now: now}, k.Policy.Value)
	if len(found) == 0 || !found[0].Severity.AtLeast(finding.Medium) {
		return nil
	}
	text := found[0].Message
	if title := found[0].ID.Rule().Title; title != "" {
		text = title + "."
	}
	return []Danger{{Name: DangerPolicy, Kind: alert.KindPolicy, Severity: found[0].Severity, Text: text, Findings: found}}
}

// JudgePolicy parses a policy document and returns what is wrong with it, the worst
// first; parsed is nil for one that cannot be parsed, which is a finding. c has what is
// known of the key; whom the rules trust is added to it.
func (r Rules) JudgePolicy(c keypolicy.Context, document string) (parsed *keypolicy.Policy, found []finding.Finding) {
	parsed, err := keypolicy.Parse([]byte(document))
	if err != nil {
		return nil, []finding.Finding{{ID: finding.NotUnderstood, Severity: finding.High,
			Message: fmt.Sprintf("The policy cannot be judged, because it cannot be parsed: %v.", err)}}
	}
	return parsed, parsed.Findings(r.Context(c))
}

// Context is c with whom the rules trust.
func (r Rules) Context(c keypolicy.Context) keypolicy.Context {
	c.Account, c.TrustedAccounts, c.TrustedOrgs = r.Account, r.TrustedAccounts, r.TrustedOrgs
	return c
}

func (r Rules) grants(k Key) []Danger {
	if !k.Grants.Known() {
		return nil
	}
	var all []Danger
	for _, g := range k.Grants.Value {
		// Who made a grant does not show. What AWS services make for principals of the
		// account is how encrypted volumes, tables and backups work.
		found := r.JudgeGrant(g, true)
		if len(found) == 0 {
			continue
		}
		all = append(all, Danger{Name: Grant(g.ID), Kind: alert.KindGrant, Severity: found[0].Severity,
			Text: found[0].ID.Rule().Title + ".", Findings: found})
	}
	return all
}

// JudgeGrant returns what is wrong with a grant, the worst first. What an AWS service
// makes for itself or for a principal of the account (byService) is how encrypted
// volumes, tables and backups work.
func (r Rules) JudgeGrant(g inventory.Grant, byService bool) []finding.Finding {
	// With RetireGrant the grantee ends nothing but this grant.
	access := finding.Metadata | finding.AccessOf(slices.DeleteFunc(slices.Clone(g.Operations), func(o string) bool { return o == "RetireGrant" })...)
	var found []finding.Finding
	add := func(id finding.ID, severity finding.Severity, principal, format string, args ...any) {
		found = append(found, finding.Finding{ID: id, Severity: severity, Principal: principal, Message: fmt.Sprintf(format, args...), Access: access})
	}
	toService := g.GranteeService != "" || IsService(g.Grantee)
	owner := arn.Account(g.Grantee)
	foreign := r.IsForeign(g.Grantee)
	passOn := slices.Contains(g.Operations, "CreateGrant")
	switch {
	case toService:
	case foreign:
		// As for a policy that gives no more, with a condition on the encryption context or without.
		add(finding.GrantToForeignAccount, finding.Outsider(g.Operations...), g.Grantee, "account %s, which is not trusted, may %s by a grant to %s", owner, strings.Join(g.Operations, ", "), g.Grantee)
	case owner == "":
		add(finding.GrantToUnknown, finding.Medium, g.Grantee, "The account of the grantee %q is unknown: it is a deleted principal, or one of another account.", g.Grantee)
	}
	if passOn && !toService {
		severity := finding.Medium
		if foreign {
			severity = finding.Critical
		}
		add(finding.GrantCanBePassedOn, severity, g.Grantee, "The grantee may make further grants, and so give access to anybody.")
	}
	if !g.Constrained && !toService && !foreign {
		add(finding.GrantWithoutConstraint, finding.Low, g.Grantee, "The grant has no constraint on the encryption context, so it covers everything encrypted under the key.")
	}
	if r.IsForeign(g.Retiring) {
		add(finding.GrantRetiredByForeign, finding.Medium, g.Retiring, "%s of account %s, which is not trusted, may retire the grant.", g.Retiring, arn.Account(g.Retiring))
	}
	dangerous := slices.ContainsFunc(found, func(f finding.Finding) bool {
		return f.ID == finding.GrantToForeignAccount || f.ID == finding.GrantRetiredByForeign
	})
	if byService && !dangerous {
		return nil
	}
	return finding.WorstFirst(found)
}

// IsService reports whether a principal is an AWS service.
func IsService(principal string) bool { return strings.HasSuffix(principal, ".amazonaws.com") }

// IsForeign reports whether an ARN, of a key or a principal, shows an account that is
// neither the guarded one nor trusted.
func (r Rules) IsForeign(name string) bool {
	owner := arn.Account(name)
	return owner != "" && owner != r.Account && !slices.Contains(r.TrustedAccounts, owner)
}

// state judges what the key can be used for. One that nobody named an alias for is less
// likely to be missed.
func state(k Key, now time.Time) []Danger {
	danger := func(name string, severity finding.Severity, format string, args ...any) []Danger {
		return []Danger{{Name: name, Kind: alert.KindDeletion, Severity: severity, Text: fmt.Sprintf(format, args...)}}
	}
	switch {
	case k.PendingDeletion() && k.Approved:
		return danger(DangerDeletion, finding.Info, "The key will be deleted%s; the deletion was approved.", on(k.DeletionDate))
	case k.PendingDeletion():
		return danger(DangerDeletion, finding.Critical, "The key will be deleted%s. Then nothing that is encrypted under it can be read any more.", on(k.DeletionDate))
	case k.State == "PendingImport" && !k.Worked && now.Sub(k.Created) < materialComes: // it is new
	case k.State == "PendingImport":
		return danger(DangerMaterial, finding.High, "The key has no key material, so nothing that is encrypted under it can be read until the material is imported again.")
	case k.State == "Disabled" && len(k.Aliases) > 0:
		return danger(DangerDisabled, finding.High, "The key is disabled, and has an alias that applications may use. Nothing that is encrypted under it can be read.")
	case k.State == "Disabled":
		return danger(DangerDisabled, finding.Medium, "The key is disabled. Nothing that is encrypted under it can be read.")
	case k.State == "Unavailable":
		return danger(DangerUnavailable, finding.High, "The key cannot be used, because its custom key store does not answer KMS.")
	}
	return nil
}

func on(date *time.Time) string {
	if date == nil {
		return ""
	}
	return " on " + date.UTC().Format(time.DateOnly)
}

func (r Rules) rotation(k Key) []Danger {
	if !k.Rotation.Known() || k.RotationBlocker() != "" {
		return nil
	}
	danger := func(severity finding.Severity, format string, args ...any) []Danger {
		return []Danger{{Name: DangerRotation, Kind: alert.KindRotation, Severity: severity, Text: fmt.Sprintf(format, args...)}}
	}
	switch live := k.Rotation.Value; {
	case !live.Enabled && k.Rotated:
		return danger(finding.High, "Automatic rotation is off, and was on before.")
	case !live.Enabled && r.RotationRequired:
		return danger(finding.Medium, "Automatic rotation is off, and the configuration requires it.")
	case live.Enabled && r.RotationPeriodDays > 0 && live.Period > r.RotationPeriodDays:
		return danger(finding.Medium, "The key rotates every %d days; the configuration allows at most %d.", live.Period, r.RotationPeriodDays)
	}
	return nil
}

func material(k Key, now time.Time) []Danger {
	if k.MaterialExpires == nil || k.MaterialExpires.Sub(now) >= expiresSoon {
		return nil
	}
	return []Danger{{Name: DangerExpiry, Kind: alert.KindMaterial, Severity: finding.High,
		Text: fmt.Sprintf("KMS deletes the key's imported material%s. Then nothing that is encrypted under it can be read until the material is imported again.", on(k.MaterialExpires))}}
}

// Outlived reports whether KMS cannot rotate an enabled key by itself, and it was created so
// long ago that its material is too old, unless that was replaced since. A replica has the
// material of its primary, which is judged where that is.
func (r Rules) Outlived(k inventory.Key, now time.Time) bool {
	if r.ManualRotationDays == 0 || !k.Guarded() || !k.Enabled() || k.MultiRegion == "REPLICA" || k.Created.IsZero() {
		return false
	}
	return cannotRotate(k) != "" && r.tooOld(k.Created, now)
}

// AsksLastRotation reports whether DangerAge of a key depends on when it was rotated last:
// imported material is replaced on demand (KMS RotateKeyOnDemand), and no other that KMS
// cannot rotate by itself.
func (r Rules) AsksLastRotation(k inventory.Key, now time.Time) bool {
	return r.Outlived(k, now) && rotatesOnDemand(k)
}

func rotatesOnDemand(k inventory.Key) bool { return k.RotationBlocker() == inventory.BlockedImported }

func (r Rules) tooOld(since, now time.Time) bool {
	return now.Sub(since) >= time.Duration(r.ManualRotationDays)*24*time.Hour
}

// cannotRotate says why KMS never rotates a key by itself, "" if it can.
func cannotRotate(k inventory.Key) string {
	switch k.RotationBlocker() {
	case inventory.BlockedImported:
		return "its material is imported"
	case inventory.BlockedAsymmetric:
		return "it is asymmetric"
	case inventory.BlockedHMAC:
		return "it is an HMAC key"
	case inventory.BlockedCustomKeyStore:
		return "it is in a custom key store"
	default: // a key of AWS, a replica, or a state that ends
		return ""
	}
}

func (r Rules) age(k Key, now time.Time) []Danger {
	if !r.Outlived(k.Key, now) {
		return nil
	}
	since := k.Created
	if rotatesOnDemand(k.Key) {
		if !k.LastRotation.Known() {
			return nil
		}
		if last := k.LastRotation.Value; last.After(since) {
			since = last
		}
	}
	if !r.tooOld(since, now) {
		return nil
	}
	text := fmt.Sprintf("KMS cannot rotate the key by itself, because %s. Its material is of %s; the configuration allows it to be %d days old.",
		cannotRotate(k.Key), since.UTC().Format(time.DateOnly), r.ManualRotationDays)
	if k.Origin == "EXTERNAL_KEY_STORE" {
		text += " KMS does not see whether the key was rotated outside of AWS."
	}
	return []Danger{{Name: DangerAge, Kind: alert.KindRotation, Severity: finding.Medium, Text: text}}
}
