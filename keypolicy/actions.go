package keypolicy

import (
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/finding"
)

// Actions is a set of actions on a key. The zero value is the empty set.
type Actions uint64

// known are the actions on a key (Service Authorization Reference, "AWS Key
// Management Service").
var known = [...]string{
	"kms:CancelKeyDeletion", "kms:CreateAlias", "kms:CreateGrant", "kms:Decapsulate", "kms:Decrypt", "kms:DeleteAlias",
	"kms:DeleteImportedKeyMaterial", "kms:DeriveSharedSecret", "kms:DescribeKey", "kms:DisableKey", "kms:DisableKeyRotation",
	"kms:EnableKey", "kms:EnableKeyRotation", "kms:Encapsulate", "kms:Encrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyPair",
	"kms:GenerateDataKeyPairWithoutPlaintext", "kms:GenerateDataKeyWithoutPlaintext", "kms:GenerateMac", "kms:GetKeyLastUsage",
	"kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:GetParametersForImport", "kms:GetPublicKey", "kms:ImportKeyMaterial",
	"kms:ListGrants", "kms:ListKeyPolicies", "kms:ListKeyRotations", "kms:ListResourceTags", "kms:PutKeyPolicy",
	"kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:ReplicateKey", "kms:RetireGrant", "kms:RevokeGrant", "kms:RotateKeyOnDemand",
	"kms:ScheduleKeyDeletion", "kms:Sign", "kms:SynchronizeMultiRegionKey", "kms:TagResource", "kms:UntagResource",
	"kms:UpdateAlias", "kms:UpdateKeyDescription", "kms:UpdatePrimaryRegion", "kms:Verify", "kms:VerifyMac",
}

const (
	allKnown Actions = 1<<len(known) - 1
	// unheardOf stands for the actions that a statement names and that are not
	// known: they may be of the future.
	unheardOf Actions = 1 << 63
)

var bitOf = func() map[string]Actions {
	m := make(map[string]Actions, len(known))
	for i, name := range known {
		m[name] = 1 << i
	}
	return m
}()

// ActionsOf returns the actions on a key that patterns such as "kms:Re*" match. A pattern
// that matches none, such as one for another service, adds nothing.
func ActionsOf(patterns ...string) (as Actions) {
	for _, p := range patterns {
		as |= match(p)
	}
	return as
}

// match returns the known actions that the pattern matches.
func match(pattern string) (as Actions) {
	if bit, ok := bitOf[pattern]; ok { // the usual case
		return bit
	}
	if pattern == "*" || pattern == "kms:*" {
		return allKnown
	}
	for i, name := range known {
		if matches(pattern, name) {
			as |= 1 << i
		}
	}
	return as
}

var (
	putKeyPolicy = ActionsOf("kms:PutKeyPolicy")
	createGrant  = ActionsOf("kms:CreateGrant")

	// reveals show data that is under the key, or act in its name.
	reveals = granting(finding.Read | finding.Sign)
	// mild are those by which an outsider learns of the key and does nothing to it.
	mild = outsider(finding.Medium)
	// use is what keys are for.
	use = ActionsOf("kms:*crypt", "kms:ReEncrypt*", "kms:Generate*", "kms:Sign", "kms:Verify*", "kms:DeriveSharedSecret", "kms:*capsulate")
	// grants are about grants.
	grants = ActionsOf("kms:*Grant", "kms:ListGrants")
	// takeover gives the key away, destroys it or puts it out of use for everybody.
	takeover = outsider(finding.Critical)
	// administration is takeover but for the grants, which users of a key need.
	administration = takeover &^ grants
	// shutdown distinguishes an administrator among those who may change the policy.
	shutdown = ActionsOf("kms:DisableKey", "kms:ScheduleKeyDeletion")
	// critical cannot be undone, or stops everything that uses the key.
	critical = ActionsOf("kms:PutKeyPolicy", "kms:ScheduleKeyDeletion", "kms:DisableKey", "kms:DeleteImportedKeyMaterial")
	// fullControl both uses the key and gives it away.
	fullControl = ActionsOf("kms:PutKeyPolicy", "kms:CreateGrant", "kms:ScheduleKeyDeletion", "kms:Decrypt")
)

// Has reports whether the set has all of the others.
func (as Actions) Has(others Actions) bool { return as&others == others }

// Names returns the actions in alphabetical order, as policies name them ("kms:Decrypt").
// It leaves out those that this build does not know.
func (as Actions) Names() (list []string) {
	for i, name := range known {
		if as&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return list
}

// accessOf is what each of the known actions gives.
var accessOf = func() (list [len(known)]finding.Access) {
	for i, name := range known {
		list[i] = finding.AccessOf(name)
	}
	return list
}()

// access returns what the actions give.
func (as Actions) access() (a finding.Access) {
	for i, access := range accessOf {
		if as&(1<<i) != 0 {
			a |= access
		}
	}
	if as&unheardOf != 0 {
		a |= finding.Other
	}
	return a
}

// granting returns the known actions that give access of any of the kinds.
func granting(kinds finding.Access) (as Actions) {
	for i, access := range accessOf {
		if access&kinds != 0 {
			as |= 1 << i
		}
	}
	return as
}

// outsider returns the known actions that are so bad in the hands of an outsider.
func outsider(severity finding.Severity) (as Actions) {
	for i, name := range known {
		if finding.Outsider(name) == severity {
			as |= 1 << i
		}
	}
	return as
}

// onNoKey are the actions of KMS that are on no key, so that a key policy cannot give
// them.
var onNoKey = [...]string{
	"kms:ConnectCustomKeyStore", "kms:CreateCustomKeyStore", "kms:CreateKey", "kms:DeleteCustomKeyStore", "kms:DescribeCustomKeyStores",
	"kms:DisconnectCustomKeyStore", "kms:GenerateRandom", "kms:ListAliases", "kms:ListKeys", "kms:ListRetirableGrants", "kms:UpdateCustomKeyStore",
}

// unknown returns those of the statement's patterns that no action of KMS matches.
func (s *Statement) unknown() (list []string) {
	for _, p := range s.Actions {
		if match(p) == 0 && !slices.ContainsFunc(onNoKey[:], func(name string) bool { return matches(p, name) }) {
			list = append(list, p)
		}
	}
	return list
}

// About returns the actions on a key that the statement is about: its patterns may match
// further ones, of other services or of the future.
func (s *Statement) About() Actions {
	as, _ := s.about()
	return as &^ unheardOf
}

// about returns the actions that the statement is about, and those of its
// patterns that are about no known one.
func (s *Statement) about() (as Actions, rest []string) {
	if s.NotAction {
		return allKnown &^ ActionsOf(s.Actions...), nil
	}
	for _, p := range s.Actions {
		matched := match(p)
		as |= matched
		if matched == 0 && isOurs(p) {
			as |= unheardOf
			rest = append(rest, p)
		}
	}
	return as, rest
}

// isOurs reports whether a pattern may be about actions of KMS.
func isOurs(pattern string) bool {
	service, _, ok := strings.Cut(pattern, ":")
	return ok && matches(service, "kms")
}

// coversAll reports whether the statement is about all that the patterns match.
func (s *Statement) coversAll(patterns []string) bool {
	for _, p := range patterns {
		if s.NotAction {
			// A pattern may match one of the left-out actions.
			if anyMatches(s.Actions, p) || strings.ContainsAny(p, "*?") {
				return false
			}
		} else if !anyMatches(s.Actions, p) {
			return false
		}
	}
	return true
}

// isFor reports whether the statement's Resource is the key. While the key is
// not known, every statement may be for it.
func (s *Statement) isFor(keyARN string) bool {
	return keyARN == "" || anyMatches(s.Resources, keyARN) != s.NotResource
}

// isSurelyFor is isFor, but for a key that is not known only "*" is surely it.
func (s *Statement) isSurelyFor(keyARN string) bool {
	if keyARN == "" {
		return !s.NotResource && anyMatches(s.Resources, "*")
	}
	return s.isFor(keyARN)
}

// ignored reports whether KMS ignores the statement.
func (s *Statement) ignored() bool { return len(s.Actions) == 0 || len(s.Resources) == 0 }

// isForNobody reports whether the statement is for everyone but everyone.
func (s *Statement) isForNobody() bool {
	return s.NotPrincipal && slices.Contains(s.Principals, everyone)
}
