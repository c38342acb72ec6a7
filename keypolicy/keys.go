package keypolicy

// keyKind is what a condition key says about a call.
type keyKind uint8

const (
	chosen          keyKind = iota // the caller can choose it, or it is not known
	callerAccount                  // the account of the caller
	callerARN                      // the user or role of the caller
	sourceAccount                  // the account for which a service acts
	sourceARN                      // the resource for which a service acts
	contextPair                    // encryption context, where services name that resource
	organization                   // an organization, of the caller or of what it acts for
	possession                     // a network, or an id, that only its owner has
	network                        // addresses
	isService                      // whether an AWS service calls of itself
	viaService                     // through which service the call comes
	secureTransport                // whether TLS is used, as it always is
	mfa
	mfaAge
	grantForAWS    // whether an AWS service makes the grant
	grantBound     // what a grant gives, and to whom
	grantOperation // the same, and always present
	deletionGuard  // what delays or forbids a deletion
)

var kinds = map[string]keyKind{
	"kms:calleraccount": callerAccount, "aws:principalaccount": callerAccount, "aws:principalarn": callerARN,
	"aws:sourceaccount": sourceAccount, "aws:sourcearn": sourceARN,
	"aws:principalorgid": organization, "aws:principalorgpaths": organization,
	"aws:sourceorgid": organization, "aws:sourceorgpaths": organization,
	"aws:sourcevpc": possession, "aws:sourcevpce": possession, "aws:vpceaccount": possession, "aws:vpceorgid": possession,
	// Not aws:VpcSourceIp: everybody numbers their own networks.
	"aws:sourceip": network, "aws:userid": possession,
	"aws:principalisawsservice": isService, "kms:viaservice": viaService,
	"aws:securetransport":        secureTransport,
	"aws:multifactorauthpresent": mfa, "aws:multifactorauthage": mfaAge,
	"kms:grantisforawsresource": grantForAWS, "kms:grantoperations": grantOperation,
	"kms:granteeprincipal": grantBound, "kms:granteeserviceprincipal": grantBound, "kms:grantconstrainttype": grantBound,
	"kms:schedulekeydeletionpendingwindowindays": deletionGuard, "kms:trailingdayswithoutkeyusage": deletionGuard,
}

// carriers are the actions whose requests carry a key, for those keys where that
// makes a difference (KMS developer guide, "AWS KMS condition keys"). PutKeyPolicy
// has no service in between and no source.
var carriers = map[string]actions{
	"kms:grantisforawsresource": grants, "kms:grantoperations": createGrant, "kms:granteeprincipal": createGrant,
	"kms:granteeserviceprincipal": createGrant, "kms:grantconstrainttype": createGrant, "kms:retiringprincipal": createGrant,
	"kms:encryptioncontextkeys": contextual,
	"kms:viaservice":            allKnown &^ putKeyPolicy,
	"aws:sourceaccount":         allKnown &^ putKeyPolicy, "aws:sourcearn": allKnown &^ putKeyPolicy,
	"aws:sourceorgid": allKnown &^ putKeyPolicy, "aws:sourceorgpaths": allKnown &^ putKeyPolicy,
	"kms:schedulekeydeletionpendingwindowindays": set("kms:ScheduleKeyDeletion"), "kms:trailingdayswithoutkeyusage": shutdown,
	"kms:encryptionalgorithm": use, "kms:signingalgorithm": use, "kms:macalgorithm": use, "kms:messagetype": use,
	"kms:reencryptonsamekey": use, "kms:datakeypairspec": use, "kms:keyagreementalgorithm": use,
	"kms:validto": set("kms:ImportKeyMaterial"), "kms:expirationmodel": set("kms:ImportKeyMaterial"),
	"kms:primaryregion": set("kms:UpdatePrimaryRegion"), "kms:replicaregion": set("kms:ReplicateKey"),
	"kms:rotationperiodindays": set("kms:EnableKeyRotation"),
}

// contextual are the actions whose requests may have an encryption context.
var contextual = use | createGrant | set("kms:RetireGrant")
