package keypolicy

import "strings"

// matches reports whether the pattern, with * and ?, matches all of s, without
// regard to case. A wildcard in s is matched by * only, so that a pattern
// matches another pattern only if it matches everything that the other does.
func matches(pattern, s string) bool {
	// The usual two-pointer walk: on a mismatch the last star takes one more byte.
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (lower(pattern[p]) == lower(s[i]) || pattern[p] == '?') && s[i] != '*':
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

func anyMatches(patterns []string, s string) bool {
	for _, p := range patterns {
		if matches(p, s) {
			return true
		}
	}
	return false
}

// covers reports whether the statement is about the action, or about all that
// the action pattern matches.
func (s Statement) covers(action string) bool {
	if s.NotAction {
		// Of a pattern nobody can say that it meets none of the left-out ones.
		return !anyMatches(s.Actions, action) && !strings.ContainsAny(action, "*?")
	}
	return anyMatches(s.Actions, action)
}

// isFor reports whether the statement's Resource is the key.
func (s Statement) isFor(keyARN string) bool {
	if len(s.Resources) == 0 || keyARN == "" {
		return true
	}
	return anyMatches(s.Resources, keyARN) != s.NotResource
}

// actions returns the known actions that the statement is about, and its
// patterns that are about no known one, which may be of the future.
func (s Statement) actions() []string {
	var list []string
	for _, a := range known {
		if s.covers(a) {
			list = append(list, a)
		}
	}
	if s.NotAction {
		return list
	}
	for _, pattern := range s.Actions {
		if !anyKnown(pattern) {
			list = append(list, pattern)
		}
	}
	return list
}

func anyKnown(pattern string) bool {
	for _, a := range known {
		if matches(pattern, a) {
			return true
		}
	}
	return false
}

// takeover are the actions that give the key away, destroy it or put it out of
// use for everybody.
var takeover = []string{
	"kms:PutKeyPolicy", "kms:CreateGrant", "kms:ScheduleKeyDeletion", "kms:DisableKey",
	"kms:DeleteImportedKeyMaterial", "kms:ImportKeyMaterial", "kms:DisableKeyRotation",
	"kms:RevokeGrant", "kms:ReplicateKey", "kms:UpdatePrimaryRegion",
}

// known are the actions on a key (Service Authorization Reference, "AWS Key
// Management Service"): takeover and the rest.
var known = append([]string{
	"kms:CancelKeyDeletion", "kms:CreateAlias", "kms:Decrypt", "kms:DeleteAlias", "kms:DeriveSharedSecret",
	"kms:DescribeKey", "kms:EnableKey", "kms:EnableKeyRotation", "kms:Encrypt", "kms:GenerateDataKey",
	"kms:GenerateDataKeyPair", "kms:GenerateDataKeyPairWithoutPlaintext", "kms:GenerateDataKeyWithoutPlaintext",
	"kms:GenerateMac", "kms:GetKeyLastUsage", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus",
	"kms:GetParametersForImport", "kms:GetPublicKey", "kms:ListGrants", "kms:ListKeyPolicies",
	"kms:ListKeyRotations", "kms:ListResourceTags", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:RetireGrant",
	"kms:RotateKeyOnDemand", "kms:Sign", "kms:SynchronizeMultiRegionKey", "kms:TagResource",
	"kms:UntagResource", "kms:UpdateAlias", "kms:UpdateKeyDescription", "kms:Verify", "kms:VerifyMac",
}, takeover...)
