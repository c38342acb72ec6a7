package finding

import (
	"slices"
	"strings"
)

// Access is a set of things that somebody may do with a key. The zero value is that
// nothing is known about it.
type Access uint16

// The kinds of access, the gravest first.
const (
	Administer Access = 1 << iota // change its policy, or replicate it under another one
	Read                          // see data that is encrypted under it
	Sign                          // sign or compute MACs with it
	Grant                         // give others access by grants
	Destroy                       // disable or delete it
	Encrypt                       // encrypt under it, which shows no data
	Verify                        // verify signatures and MACs
	Configure                     // change aliases, tags, rotation and the like, or end grants
	Other                         // what an operation that is not known allows
	Metadata                      // see its settings

	everything Access = 1<<iota - 1
	grave             = Administer | Read | Sign | Grant | Destroy
)

var accessText = map[Access]string{
	Administer: "take the key over",
	Read:       "read everything encrypted under the key",
	Sign:       "sign with the key",
	Grant:      "give others access to the key by grants",
	Destroy:    "disable or delete the key",
	Encrypt:    "encrypt under the key",
	Verify:     "verify signatures with the key",
	Configure:  "change the key's settings",
	Other:      "call operations that cmkeeper does not know",
	Metadata:   "see the key's settings",
}

// String names the access in words that follow "can". Lesser kinds are left out
// where there are grave ones, and what taking the key over includes.
func (a Access) String() string {
	switch {
	case a&Administer != 0:
		a &= Administer | Read | Sign
	case a&grave != 0:
		a &= grave
	case a != Metadata:
		a &^= Metadata
	}
	var words []string
	for kind := Access(1); kind < everything; kind <<= 1 {
		if a&kind != 0 {
			words = append(words, accessText[kind])
		}
	}
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

var operations = func() map[string]Access {
	all := map[string]Access{}
	for access, names := range map[Access]string{
		Administer: "PutKeyPolicy ReplicateKey",
		Read:       "Decrypt ReEncryptFrom DeriveSharedSecret Decapsulate",
		Sign:       "Sign GenerateMac",
		Grant:      "CreateGrant",
		Destroy:    "DisableKey ScheduleKeyDeletion DeleteImportedKeyMaterial",
		Encrypt: "Encrypt ReEncryptTo Encapsulate GenerateDataKey GenerateDataKeyPair " +
			"GenerateDataKeyWithoutPlaintext GenerateDataKeyPairWithoutPlaintext",
		Verify: "Verify VerifyMac",
		Configure: "CreateAlias UpdateAlias DeleteAlias TagResource UntagResource UpdateKeyDescription EnableKey CancelKeyDeletion " +
			"EnableKeyRotation DisableKeyRotation RotateKeyOnDemand ImportKeyMaterial SynchronizeMultiRegionKey UpdatePrimaryRegion " +
			"RevokeGrant RetireGrant",
		Metadata: "DescribeKey GetKeyLastUsage GetKeyPolicy GetKeyRotationStatus GetParametersForImport GetPublicKey " +
			"ListGrants ListKeyPolicies ListKeyRotations ListResourceTags",
	} {
		for name := range strings.FieldsSeq(names) {
			all[name] = access
		}
	}
	return all
}()

// AccessOf returns what operations of KMS allow. They are named as the API does
// ("Decrypt"), or with the prefix "kms:". One that is not known is Other; none at all
// is 0.
func AccessOf(names ...string) (a Access) {
	for _, name := range names {
		access, ok := operations[strings.TrimPrefix(name, "kms:")]
		if !ok {
			access = Other
		}
		a |= access
	}
	return a
}

// takeovers give the key away, destroy it or put it out of use for everybody.
const takeovers = "PutKeyPolicy CreateGrant ScheduleKeyDeletion DisableKey DeleteImportedKeyMaterial ImportKeyMaterial " +
	"DisableKeyRotation RevokeGrant ReplicateKey UpdatePrimaryRegion"

// Outsider returns how bad it is that an account that is not trusted may call operations
// of KMS, whether a key policy or a grant lets it: critical for what takes the key over,
// high for every other use and for what is not known, medium where it only learns of the
// key. RetireGrant is nothing more: no policy gives it (AWS KMS permissions reference),
// and who holds it by a grant can end that grant alone.
func Outsider(operations ...string) Severity {
	worst := Medium
	for _, name := range operations {
		name = strings.TrimPrefix(name, "kms:")
		switch {
		case slices.Contains(strings.Fields(takeovers), name):
			return Critical
		case AccessOf(name) != Metadata && name != "RetireGrant":
			worst = High
		}
	}
	return worst
}
