package events

// decoder reads an event's own parameters from its record. It takes the record by
// value: a pointer handed to a function that is not known at compile time would
// move every record to the heap.
type decoder func(record) Detail

// none declares that an event has no parameters that are read: its Detail is nil.
var none decoder

// eventName names an event: the service it comes from, and what that calls it.
type eventName struct{ source, name string }

// decoders has a line for every event that somebody reacts to. An event without a
// line has no Detail whatever it carries, so a missing line must not pass for an
// event without parameters: see [Known].
var decoders = map[eventName]decoder{
	{SourceKMS, "CancelKeyDeletion"}:                   none,
	{SourceKMS, "ConnectCustomKeyStore"}:               keyStore,
	{SourceKMS, "CreateAlias"}:                         aliasTarget,
	{SourceKMS, "CreateCustomKeyStore"}:                keyStore,
	{SourceKMS, "CreateGrant"}:                         createGrant,
	{SourceKMS, "CreateKey"}:                           createKey,
	{SourceKMS, "Decrypt"}:                             use,
	{SourceKMS, "DeleteAlias"}:                         none,
	{SourceKMS, "DeleteCustomKeyStore"}:                keyStore,
	{SourceKMS, "DeleteExpiredKeyMaterial"}:            keyMaterial,
	{SourceKMS, "DeleteImportedKeyMaterial"}:           keyMaterial,
	{SourceKMS, "DeleteKey"}:                           none,
	{SourceKMS, "DeriveSharedSecret"}:                  none,
	{SourceKMS, "DisableKey"}:                          none,
	{SourceKMS, "DisableKeyRotation"}:                  none,
	{SourceKMS, "DisconnectCustomKeyStore"}:            keyStore,
	{SourceKMS, "EnableKey"}:                           none,
	{SourceKMS, "EnableKeyRotation"}:                   enableKeyRotation,
	{SourceKMS, "Encrypt"}:                             use,
	{SourceKMS, "GenerateDataKey"}:                     use,
	{SourceKMS, "GenerateDataKeyPair"}:                 use,
	{SourceKMS, "GenerateDataKeyPairWithoutPlaintext"}: use,
	{SourceKMS, "GenerateDataKeyWithoutPlaintext"}:     use,
	{SourceKMS, "GenerateMac"}:                         none,
	{SourceKMS, "ImportKeyMaterial"}:                   importKeyMaterial,
	{SourceKMS, "PutKeyPolicy"}:                        putKeyPolicy,
	{SourceKMS, "ReEncrypt"}:                           use,
	{SourceKMS, "ReplicateKey"}:                        replicateKey,
	{SourceKMS, "RetireGrant"}:                         grantRemoval,
	{SourceKMS, "RevokeGrant"}:                         grantRemoval,
	{SourceKMS, "RotateKey"}:                           rotation,
	{SourceKMS, "RotateKeyOnDemand"}:                   none,
	{SourceKMS, "ScheduleKeyDeletion"}:                 scheduleKeyDeletion,
	{SourceKMS, "Sign"}:                                none,
	{SourceKMS, "TagResource"}:                         tagResource,
	{SourceKMS, "UntagResource"}:                       untagResource,
	{SourceKMS, "UpdateAlias"}:                         aliasTarget,
	{SourceKMS, "UpdateCustomKeyStore"}:                keyStore,
	{SourceKMS, "UpdateKeyDescription"}:                none,
	{SourceKMS, "UpdatePrimaryRegion"}:                 updatePrimaryRegion,
	{SourceKMS, "Verify"}:                              none,
	{SourceKMS, "VerifyMac"}:                           none,

	{SourceNative, NativeDeletion}: none,
	{SourceNative, NativeExpiry}:   nativeExpiry,
	{SourceNative, NativeRotation}: nativeRotation,

	{SourceCloudTrail, "DeleteTrail"}:       trail,
	{SourceCloudTrail, "PutEventSelectors"}: eventSelectors,
	{SourceCloudTrail, "StopLogging"}:       trail,
	{SourceCloudTrail, "UpdateTrail"}:       trail,

	{SourceEventBridge, "DeleteRule"}:    rule,
	{SourceEventBridge, "DisableRule"}:   rule,
	{SourceEventBridge, "PutRule"}:       rule,
	{SourceEventBridge, "PutTargets"}:    rule,
	{SourceEventBridge, "RemoveTargets"}: rule,

	{SourceSQS, "DeleteQueue"}:        queue,
	{SourceSQS, "PurgeQueue"}:         queue,
	{SourceSQS, "SetQueueAttributes"}: queue,

	{SourceSNS, "DeleteTopic"}:               topic,
	{SourceSNS, "SetSubscriptionAttributes"}: topic,
	{SourceSNS, "SetTopicAttributes"}:        topic,
	{SourceSNS, "Unsubscribe"}:               topic,

	{SourceS3, "DeleteBucketEncryption"}: bucketEncryption,
	{SourceS3, "DeleteBucketPolicy"}:     bucketPolicy,
	{SourceS3, "DeleteBucketTagging"}:    bucketTags,
	{SourceS3, "JobStatusChanged"}:       none,
	{SourceS3, "PutBucketEncryption"}:    bucketEncryption,
	{SourceS3, "PutBucketPolicy"}:        bucketPolicy,
	{SourceS3, "PutBucketTagging"}:       bucketTags,

	{SourceEC2, "CreateVolume"}:                  volume,
	{SourceEC2, "DisableEbsEncryptionByDefault"}: ebsDefaultOff,

	{SourceRDS, "CreateDBCluster"}:  database,
	{SourceRDS, "CreateDBInstance"}: database,
}

// Known reports whether [Parse] knows what an event of this source and name
// carries: a [Detail], or no parameters that matter. Of an event that is not known,
// Detail is nil and says nothing, so a reaction must not be registered for it. The
// detail-type of a scheduled event is the operator's choice: those are not here,
// and all have a [Schedule].
func Known(source, name string) bool {
	_, known := decoders[eventName{source, name}]
	return known
}

// detail reads the parameters of an event of this source and name.
func (r *record) detail(source, name string) Detail {
	if decode := decoders[eventName{source, name}]; decode != nil {
		return decode(*r)
	}
	return nil
}

func createKey(r record) Detail {
	request, made := &r.RequestParameters, &r.ResponseElements.KeyMetadata
	return CreateKey{
		Description:                    request.Description,
		Origin:                         firstOf(made.Origin, request.Origin),
		KeySpec:                        firstOf(made.KeySpec, request.KeySpec, request.CustomerMasterKeySpec),
		KeyUsage:                       firstOf(made.KeyUsage, request.KeyUsage),
		MultiRegion:                    made.MultiRegion || request.MultiRegion,
		CustomKeyStoreID:               request.CustomKeyStoreID,
		Policy:                         request.Policy,
		BypassPolicyLockoutSafetyCheck: request.BypassCheck,
	}
}

func replicateKey(r record) Detail {
	request, response := &r.RequestParameters, &r.ResponseElements
	return ReplicateKey{
		ReplicaRegion:                  request.ReplicaRegion,
		ReplicaKeyARN:                  response.ReplicaKeyMetadata.ARN,
		ReplicaPolicy:                  firstOf(response.ReplicaPolicy, request.Policy),
		BypassPolicyLockoutSafetyCheck: request.BypassCheck,
	}
}

func updatePrimaryRegion(r record) Detail {
	return UpdatePrimaryRegion{PrimaryRegion: r.RequestParameters.PrimaryRegion}
}

func putKeyPolicy(r record) Detail {
	request := &r.RequestParameters
	return PutKeyPolicy{PolicyName: request.PolicyName, Policy: request.Policy, BypassPolicyLockoutSafetyCheck: request.BypassCheck}
}

func scheduleKeyDeletion(r record) Detail {
	return ScheduleKeyDeletion{PendingWindowInDays: r.RequestParameters.PendingWindowInDays}
}

func enableKeyRotation(r record) Detail {
	return EnableKeyRotation{RotationPeriodInDays: r.RequestParameters.RotationPeriodInDays}
}

func aliasTarget(r record) Detail {
	return AliasTarget{TargetKeyID: r.RequestParameters.TargetKeyID}
}

func createGrant(r record) Detail {
	request := &r.RequestParameters
	return CreateGrant{
		GrantID:                 r.ResponseElements.GrantID,
		GranteePrincipal:        request.GranteePrincipal,
		GranteeServicePrincipal: request.GranteeServicePrincipal,
		RetiringPrincipal:       request.RetiringPrincipal,
		Operations:              request.Operations,
		Constrained:             request.Constrained,
	}
}

func grantRemoval(r record) Detail {
	return GrantRemoval{GrantID: firstOf(r.RequestParameters.GrantID, r.ResponseElements.GrantID, r.Additional.GrantID)}
}

func importKeyMaterial(r record) Detail {
	return ImportKeyMaterial{
		Expires:       r.RequestParameters.ExpirationModel != "KEY_MATERIAL_DOES_NOT_EXPIRE",
		KeyMaterialID: firstOf(r.ResponseElements.KeyMaterialID, r.RequestParameters.KeyMaterialID),
	}
}

func keyMaterial(r record) Detail {
	return KeyMaterial{ID: firstOf(r.ResponseElements.KeyMaterialID, r.RequestParameters.KeyMaterialID, r.ServiceEventDetails.KeyMaterialID)}
}

func rotation(r record) Detail {
	d := &r.ServiceEventDetails
	return Rotation{d.RotationType, d.KeyOrigin, d.PreviousKeyMaterialID, d.CurrentKeyMaterialID}
}

func use(r record) Detail {
	request := &r.RequestParameters
	u := Use{
		Key: request.KeyID, Context: request.Context,
		DestinationKey: request.DestinationKeyID, DestinationContext: request.DestinationContext,
	}
	if u.Context == nil {
		u.Context = request.SourceContext
	}
	if u.Key == "" {
		u.Key = request.SourceKeyID
	}
	return u
}

func keyStore(r record) Detail {
	return KeyStore{
		ID:   firstOf(r.RequestParameters.CustomKeyStoreID, r.ResponseElements.CustomKeyStoreID),
		Name: firstOf(r.Additional.CustomKeyStoreName, r.RequestParameters.CustomKeyStoreName),
	}
}

func tagResource(r record) Detail { return TagResource{Tags: r.RequestParameters.Tags} }

func untagResource(r record) Detail { return UntagResource{TagKeys: r.RequestParameters.TagKeys} }

func nativeExpiry(r record) Detail { return KeyMaterial{ID: r.Native.KeyMaterialID} }

func nativeRotation(r record) Detail {
	d := &r.Native
	return Rotation{d.RotationType, d.KeyOrigin, d.PreviousKeyMaterialID, d.CurrentKeyMaterialID}
}
