package iam

import (
	"slices"
	"strings"
	"sync"
)

// What condition keys requests to KMS have: the Service Authorization Reference, "Actions,
// resources, and condition keys for AWS Key Management Service", as of August 2026, and
// the IAM User Guide, "AWS global condition context keys". Names are in lower case; one
// that ends in "/" or ":" stands for all that begin so.
const (
	// Global keys and those that other services put into sessions, as far as the request
	// and its caller are such.
	globalKeys = `aws:assumedroot aws:calledvia aws:calledviaawsmcp aws:calledviafirst aws:calledvialast aws:chatbotsourcearn
		aws:currenttime aws:ec2instancesourceprivateipv4 aws:ec2instancesourcevpc aws:epochtime aws:federatedprovider
		aws:ismcpserviceaction aws:multifactorauthage aws:multifactorauthpresent aws:principalaccount aws:principalarn
		aws:principalisawsservice aws:principalorgid aws:principalorgpaths aws:principalservicename
		aws:principalservicenameslist aws:principaltag/ aws:principaltype aws:referer aws:requestedregion aws:resourceaccount
		aws:resourceorgid aws:resourceorgpaths aws:securetransport aws:signinsessionarn aws:sourceaccount aws:sourcearn aws:sourceidentity
		aws:sourceip aws:sourceorgid aws:sourceorgpaths aws:sourceowner aws:sourcevpc aws:sourcevpcarn aws:sourcevpce
		aws:tokenissuetime aws:useragent aws:userid aws:username aws:viaawsmcpservice aws:viaawsservice aws:vpceaccount
		aws:vpceorgid aws:vpceorgpaths aws:vpcsourceip codebuild:buildarn codebuild:projectarn ec2:roledelivery
		ec2:sourceinstancearn glue:credentialissuingservice glue:roleassumedby identitystore:userid
		lambda:sourcefunctionarn ssm:sourceinstancearn`
	// Keys of every request that is about a key; the deprecated names with their new ones.
	everyRequest = `aws:resourcetag/ kms:calleraccount kms:customermasterkeyspec kms:customermasterkeyusage kms:keyorigin
		kms:keyspec kms:keyusage kms:multiregion kms:multiregionkeytype kms:resourcealiases kms:viaservice`
)

// someRequests are the keys that only requests for these actions have.
var someRequests = map[string]string{
	"aws:requesttag/": "TagResource",
	"aws:tagkeys":     "TagResource UntagResource",
	"kms:requestalias": `Decrypt DeriveSharedSecret DescribeKey Encrypt GenerateDataKey GenerateDataKeyPair
		GenerateDataKeyPairWithoutPlaintext GenerateDataKeyWithoutPlaintext GenerateMac GetPublicKey ReEncryptFrom ReEncryptTo
		Sign Verify VerifyMac`,
	"kms:encryptioncontext:": `CreateGrant Decrypt Encrypt GenerateDataKey GenerateDataKeyPair
		GenerateDataKeyPairWithoutPlaintext GenerateDataKeyWithoutPlaintext ReEncryptFrom ReEncryptTo RetireGrant`,
	"kms:encryptioncontextkeys": `CreateGrant Decrypt Encrypt GenerateDataKey GenerateDataKeyPair
		GenerateDataKeyPairWithoutPlaintext GenerateDataKeyWithoutPlaintext ReEncryptFrom ReEncryptTo RetireGrant`,
	"kms:encryptionalgorithm": `Decrypt Encrypt GenerateDataKey GenerateDataKeyPair GenerateDataKeyPairWithoutPlaintext
		GenerateDataKeyWithoutPlaintext ReEncryptFrom ReEncryptTo`,
	"kms:recipientattestation:":                  "Decrypt DeriveSharedSecret GenerateDataKey GenerateDataKeyPair",
	"kms:grantisforawsresource":                  "CreateGrant ListGrants RevokeGrant",
	"kms:grantconstrainttype":                    "CreateGrant RetireGrant",
	"kms:trailingdayswithoutkeyusage":            "DisableKey ScheduleKeyDeletion",
	"kms:datakeypairspec":                        "GenerateDataKeyPair GenerateDataKeyPairWithoutPlaintext",
	"kms:macalgorithm":                           "GenerateMac VerifyMac",
	"kms:reencryptonsamekey":                     "ReEncryptFrom ReEncryptTo",
	"kms:signingalgorithm":                       "Sign Verify",
	"kms:messagetype":                            "Sign Verify",
	"kms:grantconstraintsourcearn":               "CreateGrant",
	"kms:granteeprincipal":                       "CreateGrant",
	"kms:granteeserviceprincipal":                "CreateGrant",
	"kms:grantoperations":                        "CreateGrant",
	"kms:retiringprincipal":                      "CreateGrant",
	"kms:retiringserviceprincipal":               "CreateGrant",
	"kms:keyagreementalgorithm":                  "DeriveSharedSecret",
	"kms:rotationperiodindays":                   "EnableKeyRotation",
	"kms:wrappingalgorithm":                      "GetParametersForImport",
	"kms:wrappingkeyspec":                        "GetParametersForImport",
	"kms:expirationmodel":                        "ImportKeyMaterial",
	"kms:validto":                                "ImportKeyMaterial",
	"kms:bypasspolicylockoutsafetycheck":         "PutKeyPolicy",
	"kms:replicaregion":                          "ReplicateKey",
	"kms:schedulekeydeletionpendingwindowindays": "ScheduleKeyDeletion",
	"kms:primaryregion":                          "UpdatePrimaryRegion",
}

// notInReference are actions on keys, or operations of the API, of which the reference
// lists no condition key of KMS; nobody knows which of them their requests have.
var notInReference = []string{"Decapsulate", "Encapsulate", "SynchronizeMultiRegionKey"}

var everyKMSKey = sync.OnceValue(func() map[string]bool {
	m := map[string]bool{}
	for name := range strings.FieldsSeq(globalKeys + " " + everyRequest) {
		m[name] = true
	}
	return m
})

// Carries reports whether a request for an action of KMS ("kms:Decrypt") can have a
// condition key. known is false for a key that this package does not model, and for an
// action of which nobody knows: then it may.
func Carries(action, key string) (carries, known bool) {
	name := strings.TrimPrefix(action, "kms:")
	key = listed(strings.ToLower(key))
	switch actions, some := someRequests[key]; {
	case some && slices.Contains(notInReference, name):
		return true, false
	case some:
		return slices.Contains(strings.Fields(actions), name), true
	case everyKMSKey()[key]:
		return true, true
	}
	// A key of another service is in no request to KMS.
	another := !strings.HasPrefix(key, "kms:") && !strings.HasPrefix(key, "aws:")
	return !another, another
}

// listed returns the name under which a key in lower case is listed.
func listed(key string) string {
	for i := range len(key) {
		if key[i] == '/' || key[i] == ':' {
			if _, some := someRequests[key[:i+1]]; some || everyKMSKey()[key[:i+1]] {
				return key[:i+1]
			}
		}
	}
	return key
}
