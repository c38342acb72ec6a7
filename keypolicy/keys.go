package keypolicy

import (
	"strings"
	"sync"
)

// keyKind is what a condition key says about a call, and so to what it can bind one.
type keyKind uint8

const (
	chosen keyKind = iota // to nothing: the caller can choose it, or it is not known

	// To an account.
	callerAccount   // the account of the caller
	callerARN       // the user or role of the caller
	sourceAccount   // the account for which a service acts
	sourceARN       // the resource for which a service acts
	credentialARN   // the resource with whose credentials the caller calls
	contextPair     // encryption context, where services name that resource
	endpointAccount // the account of the VPC, or of its endpoint, through which the call comes
	userID          // the unique id of the caller, which is an account's for its root
	resourceAccount // the account of the key, the same in all calls

	organization         // to an organization, of the caller
	sourceOrganization   // of what a service acts for
	resourceOrganization // of the key, the same in all calls

	// To a network, or to what only its owner has.
	possession
	network // addresses

	// To a service, or to a kind of caller.
	isService    // whether an AWS service calls of itself
	serviceName  // which one
	serviceNames // the same, by all of its names
	viaService   // through which service the call comes, as KMS says it
	calledVia    // the same, as IAM says it
	callerType   // root, user, role …

	date
	epoch           // the date as a number of seconds
	secureTransport // whether TLS is used, as it always is
	mfa
	mfaAge
	grantForAWS    // whether an AWS service makes the grant
	grantBound     // what a grant gives, and to whom
	grantOperation // the same, and always present
	deletionGuard  // what delays or forbids a deletion

	flag   // to nothing: true or false, as the caller chooses or the key is
	unseen // another service's key, which no request to KMS has
)

// isTruth reports whether a key of the kind is true or false.
func (k keyKind) isTruth() bool {
	return k == flag || k == isService || k == secureTransport || k == mfa || k == grantForAWS
}

// isName reports whether a key of the kind is a name or a number of AWS's making, so that
// it never has * or ? in it.
func (k keyKind) isName() bool {
	switch k {
	case callerAccount, sourceAccount, endpointAccount, resourceAccount, userID, organization, sourceOrganization, possession, network, serviceName, serviceNames, callerType:
		return true
	default:
		return false
	}
}

// keyFacts is what is known of a condition key.
type keyFacts struct {
	kind keyKind
	// carried are the actions whose requests can have the key.
	carried Actions
}

// everyAction is those that are not known, too.
const everyAction = ^Actions(0)

var (
	// contextual are the actions whose requests may have an encryption context.
	contextual = ActionsOf("kms:*crypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:*capsulate", "kms:CreateGrant", "kms:RetireGrant")
	attesting  = ActionsOf("kms:Decrypt", "kms:DeriveSharedSecret", "kms:GenerateDataKey", "kms:GenerateDataKeyPair")
)

// conditionKeys has all global condition keys (IAM User Guide, "AWS global condition
// context keys") and all of KMS (Service Authorization Reference, "AWS Key Management
// Service"), in lower case. A name that ends in "/" or ":" stands for all that begin so.
var conditionKeys = sync.OnceValue(func() map[string]keyFacts {
	m := map[string]keyFacts{}
	add := func(kind keyKind, carried Actions, names string) {
		for name := range strings.FieldsSeq(names) {
			m[strings.ToLower(name)] = keyFacts{kind, carried | unheardOf}
		}
	}
	add(callerAccount, everyAction, "kms:CallerAccount aws:PrincipalAccount")
	add(callerARN, everyAction, "aws:PrincipalArn")
	add(sourceAccount, everyAction, "aws:SourceAccount aws:SourceOwner")
	add(sourceARN, everyAction, "aws:SourceArn")
	add(credentialARN, everyAction, `lambda:SourceFunctionArn ec2:SourceInstanceArn ssm:SourceInstanceArn
		codebuild:BuildArn codebuild:ProjectArn aws:ChatbotSourceArn`)
	add(contextPair, contextual, "kms:EncryptionContext:")
	add(endpointAccount, everyAction, "aws:VpceAccount aws:SourceVpcArn")
	add(userID, everyAction, "aws:userid")
	add(resourceAccount, everyAction, "aws:ResourceAccount")

	add(organization, everyAction, "aws:PrincipalOrgID aws:PrincipalOrgPaths")
	add(sourceOrganization, everyAction, "aws:SourceOrgID aws:SourceOrgPaths")
	add(resourceOrganization, everyAction, "aws:ResourceOrgID aws:ResourceOrgPaths")

	// Not aws:VpcSourceIp: everybody numbers their own networks.
	add(possession, everyAction, "aws:SourceVpc aws:SourceVpce aws:VpceOrgID aws:VpceOrgPaths aws:Ec2InstanceSourceVpc identitystore:UserId")
	add(network, everyAction, "aws:SourceIp")

	add(isService, everyAction, "aws:PrincipalIsAWSService")
	add(serviceName, everyAction, "aws:PrincipalServiceName")
	add(serviceNames, everyAction, "aws:PrincipalServiceNamesList")
	add(viaService, everyAction, "kms:ViaService")
	add(calledVia, everyAction, "aws:CalledVia aws:CalledViaFirst aws:CalledViaLast")
	add(callerType, everyAction, "aws:PrincipalType")

	add(date, everyAction, "aws:CurrentTime")
	add(epoch, everyAction, "aws:EpochTime")
	add(secureTransport, everyAction, "aws:SecureTransport")
	add(mfa, everyAction, "aws:MultiFactorAuthPresent")
	add(mfaAge, everyAction, "aws:MultiFactorAuthAge")
	add(grantForAWS, grants&^ActionsOf("kms:RetireGrant"), "kms:GrantIsForAWSResource")
	add(grantBound, createGrant, "kms:GranteePrincipal kms:GranteeServicePrincipal kms:GrantConstraintSourceArn")
	add(grantBound, createGrant|ActionsOf("kms:RetireGrant"), "kms:GrantConstraintType")
	add(grantOperation, createGrant, "kms:GrantOperations")
	add(deletionGuard, ActionsOf("kms:ScheduleKeyDeletion"), "kms:ScheduleKeyDeletionPendingWindowInDays")
	add(deletionGuard, shutdown, "kms:TrailingDaysWithoutKeyUsage")

	// What the caller chooses, or what depends on the key.
	add(chosen, everyAction, `aws:PrincipalTag/ aws:ResourceTag/ aws:username aws:FederatedProvider aws:TokenIssueTime
		aws:SignInSessionArn aws:SourceIdentity aws:Referer aws:UserAgent aws:RequestedRegion aws:VpcSourceIp aws:CalledViaAWSMCP
		aws:Ec2InstanceSourcePrivateIPv4 ec2:RoleDelivery glue:RoleAssumedBy glue:CredentialIssuingService
		kms:CustomerMasterKeySpec kms:CustomerMasterKeyUsage kms:KeyOrigin kms:KeySpec kms:KeyUsage
		kms:MultiRegionKeyType kms:ResourceAliases`)
	add(flag, everyAction, "aws:AssumedRoot aws:ViaAWSService aws:ViaAWSMCPService aws:IsMcpServiceAction kms:MultiRegion")
	add(chosen, use|ActionsOf("kms:DescribeKey", "kms:GetPublicKey"), "kms:RequestAlias")
	add(chosen, ActionsOf("kms:TagResource"), "aws:RequestTag/")
	add(chosen, ActionsOf("kms:TagResource", "kms:UntagResource"), "aws:TagKeys")
	add(flag, putKeyPolicy, "kms:BypassPolicyLockoutSafetyCheck")
	add(chosen, contextual, "kms:EncryptionContextKeys")
	add(chosen, ActionsOf("kms:*crypt", "kms:ReEncrypt*", "kms:GenerateDataKey*"), "kms:EncryptionAlgorithm")
	add(flag, ActionsOf("kms:ReEncrypt*"), "kms:ReEncryptOnSameKey")
	add(chosen, ActionsOf("kms:GenerateDataKeyPair*"), "kms:DataKeyPairSpec")
	add(chosen, ActionsOf("kms:DeriveSharedSecret"), "kms:KeyAgreementAlgorithm")
	add(chosen, ActionsOf("kms:Sign", "kms:Verify"), "kms:SigningAlgorithm kms:MessageType")
	add(chosen, ActionsOf("kms:GenerateMac", "kms:VerifyMac"), "kms:MacAlgorithm")
	add(chosen, attesting, "kms:RecipientAttestation:")
	add(chosen, createGrant, "kms:RetiringPrincipal kms:RetiringServicePrincipal")
	add(chosen, ActionsOf("kms:ImportKeyMaterial"), "kms:ValidTo kms:ExpirationModel")
	add(chosen, ActionsOf("kms:GetParametersForImport"), "kms:WrappingAlgorithm kms:WrappingKeySpec")
	add(chosen, ActionsOf("kms:UpdatePrimaryRegion"), "kms:PrimaryRegion")
	add(chosen, ActionsOf("kms:ReplicateKey"), "kms:ReplicaRegion")
	add(chosen, ActionsOf("kms:EnableKeyRotation"), "kms:RotationPeriodInDays")

	// The other services' own keys. Those that sessions carry to KMS are above.
	for service := range strings.FieldsSeq(`acm apigateway athena autoscaling backup cloudformation cloudfront cloudtrail
		cloudwatch dynamodb ec2 ecr ecs eks elasticache elasticfilesystem elasticloadbalancing es events firehose glacier glue
		iam kinesis lambda logs organizations rds redshift route53 s3 secretsmanager ses sns sqs ssm states sts`) {
		m[service+":"] = keyFacts{kind: unseen}
	}
	return m
})

// Carriers returns the actions whose requests can have a condition key, in the form of
// [ConditionKey]. Those of a key that is not known are all.
func Carriers(key string) Actions { return factsOf(key).carried &^ unheardOf }

// factsOf returns what is known of a key in the form that compares. One that is not in
// the table may be a new one, of anything.
func factsOf(key string) keyFacts {
	keys := conditionKeys()
	if f, ok := keys[key]; ok {
		return f
	}
	for i := range len(key) {
		if key[i] == '/' || key[i] == ':' {
			if f, ok := keys[key[:i+1]]; ok {
				return f
			}
		}
	}
	return keyFacts{carried: everyAction}
}
