package events

import "encoding/json"

// What a body holds, by way of encoding/json and without the scanner: the tests
// compare the two. It takes names as they are written and the last of duplicate
// ones, as Go maps do.

func referenceMessage(body []byte, v any) message {
	o := obj(v)
	return message{
		ID:         str(o["id"]),
		DetailType: str(o["detail-type"]),
		Source:     str(o["source"]),
		Account:    str(o["account"]),
		Region:     str(o["region"]),
		Time:       str(o["time"]),
		Resources:  referenceResources(o["resources"]),
		Detail:     referenceRecord(referenceTexts(body)["detail"], o["detail"]),
		EventName:  str(o["eventName"]),
		Records:    referenceRecords(body),
		Type:       str(o["Type"]),
		TopicARN:   str(o["TopicArn"]),
		Message:    str(o["Message"]),
	}
}

// referenceTexts returns an object's members as the texts that they are.
func referenceTexts(body []byte) map[string]json.RawMessage {
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) != nil {
		return nil
	}
	return members
}

// objectText returns the text of an object, and nothing of what is none.
func objectText(text json.RawMessage) string {
	if len(text) == 0 || text[0] != '{' {
		return ""
	}
	return string(text)
}

func referenceRecords(body []byte) (records []string) {
	var elements []json.RawMessage
	// Another type is no list of records.
	if json.Unmarshal(referenceTexts(body)["Records"], &elements) != nil {
		return nil
	}
	for _, element := range elements {
		records = append(records, string(element))
	}
	return records
}

func referenceResources(v any) (arns []string) {
	for _, element := range arr(v) {
		if arn, ok := element.(string); ok {
			arns = append(arns, arn)
		} else {
			arns = append(arns, str(obj(element)["ARN"]))
		}
	}
	return arns
}

func referenceRecord(body []byte, v any) record {
	o := obj(v)
	texts := referenceTexts(body)
	return record{
		EventType:           str(o["eventType"]),
		EventName:           str(o["eventName"]),
		EventSource:         str(o["eventSource"]),
		EventTime:           str(o["eventTime"]),
		EventID:             str(o["eventID"]),
		SharedEventID:       str(o["sharedEventID"]),
		OriginalEventID:     str(obj(o["addendum"])["originalEventID"]),
		EventCategory:       str(o["eventCategory"]),
		RequestID:           str(o["requestID"]),
		AWSRegion:           str(o["awsRegion"]),
		RecipientAccountID:  str(o["recipientAccountId"]),
		SourceIPAddress:     str(o["sourceIPAddress"]),
		UserAgent:           str(o["userAgent"]),
		ErrorCode:           str(o["errorCode"]),
		ErrorMessage:        str(o["errorMessage"]),
		ReadOnly:            o["readOnly"] == true,
		UserIdentity:        referenceIdentity(o["userIdentity"]),
		Resources:           referenceResources(o["resources"]),
		RequestParameters:   referenceParameters(o["requestParameters"]),
		ResponseElements:    referenceParameters(o["responseElements"]),
		ServiceEventDetails: referenceParameters(o["serviceEventDetails"]),
		Additional: additional{
			GrantID:            str(obj(o["additionalEventData"])["grantId"]),
			CustomKeyStoreName: str(obj(o["additionalEventData"])["customKeyStoreName"]),
		},
		Request:  objectText(texts["requestParameters"]),
		Response: objectText(texts["responseElements"]),
		Native: nativeDetail{
			KeyID:                 str(o["key-id"]),
			KeyOrigin:             str(o["key-origin"]),
			KeyMaterialID:         str(o["key-material-id"]),
			RotationType:          str(o["rotation-type"]),
			PreviousKeyMaterialID: str(o["previous-key-material-id"]),
			CurrentKeyMaterialID:  str(o["current-key-material-id"]),
		},
	}
}

func referenceIdentity(v any) identity {
	o := obj(v)
	session := obj(o["sessionContext"])
	from := obj(session["sessionIssuer"])
	return identity{
		Type:        str(o["type"]),
		PrincipalID: str(o["principalId"]),
		ARN:         str(o["arn"]),
		AccountID:   str(o["accountId"]),
		AccessKeyID: str(o["accessKeyId"]),
		UserName:    str(o["userName"]),
		InvokedBy:   str(o["invokedBy"]),
		OnBehalfOf:  str(obj(o["onBehalfOf"])["userId"]),
		Session: sessionContext{
			Issuer: issuer{Type: str(from["type"]), ARN: str(from["arn"])},
			MFA:    str(obj(session["attributes"])["mfaAuthenticated"]),
		},
	}
}

func referenceParameters(v any) parameters {
	o := obj(v)
	return parameters{
		KeyID:                   str(o["keyId"]),
		AliasName:               str(o["aliasName"]),
		TargetKeyID:             str(o["targetKeyId"]),
		SourceKeyID:             str(o["sourceKeyId"]),
		DestinationKeyID:        str(o["destinationKeyId"]),
		Context:                 referenceContext(o["encryptionContext"]),
		SourceContext:           referenceContext(o["sourceEncryptionContext"]),
		DestinationContext:      referenceContext(o["destinationEncryptionContext"]),
		PolicyName:              str(o["policyName"]),
		Policy:                  str(o["policy"]),
		ReplicaPolicy:           str(o["replicaPolicy"]),
		BypassCheck:             o["bypassPolicyLockoutSafetyCheck"] == true,
		Description:             str(o["description"]),
		Origin:                  str(o["origin"]),
		KeySpec:                 str(o["keySpec"]),
		CustomerMasterKeySpec:   str(o["customerMasterKeySpec"]),
		KeyUsage:                str(o["keyUsage"]),
		MultiRegion:             o["multiRegion"] == true,
		CustomKeyStoreID:        str(o["customKeyStoreId"]),
		CustomKeyStoreName:      str(o["customKeyStoreName"]),
		ReplicaRegion:           str(o["replicaRegion"]),
		PrimaryRegion:           str(o["primaryRegion"]),
		PendingWindowInDays:     num(o["pendingWindowInDays"]),
		RotationPeriodInDays:    num(o["rotationPeriodInDays"]),
		GrantID:                 str(o["grantId"]),
		GranteePrincipal:        str(o["granteePrincipal"]),
		GranteeServicePrincipal: str(o["granteeServicePrincipal"]),
		RetiringPrincipal:       str(o["retiringPrincipal"]),
		Operations:              strs(o["operations"]),
		Constrained:             referenceConstraints(o["constraints"]),
		ExpirationModel:         str(o["expirationModel"]),
		KeyMaterialID:           str(o["keyMaterialId"]),
		RotationType:            str(o["rotationType"]),
		KeyOrigin:               str(o["keyOrigin"]),
		PreviousKeyMaterialID:   str(o["previousKeyMaterialId"]),
		CurrentKeyMaterialID:    str(o["currentKeyMaterialId"]),
		Tags:                    referenceTags(o["tags"]),
		TagKeys:                 strs(o["tagKeys"]),
		KeyMetadata:             referenceMetadata(o["keyMetadata"]),
		ReplicaKeyMetadata:      referenceMetadata(o["replicaKeyMetadata"]),
	}
}

func referenceContext(v any) map[string]string {
	var context map[string]string
	for name, value := range obj(v) {
		if context == nil {
			context = map[string]string{}
		}
		context[name] = str(value)
	}
	return context
}

func referenceConstraints(v any) bool {
	o := obj(v)
	return len(obj(o["encryptionContextSubset"]))+len(obj(o["encryptionContextEquals"])) > 0 || str(o["sourceArn"]) != ""
}

func referenceMetadata(v any) keyMetadata {
	o := obj(v)
	return keyMetadata{
		ARN:         str(o["arn"]),
		Origin:      str(o["origin"]),
		KeySpec:     str(o["keySpec"]),
		KeyUsage:    str(o["keyUsage"]),
		MultiRegion: o["multiRegion"] == true,
	}
}

func referenceTags(v any) map[string]string {
	var tags map[string]string
	for _, element := range arr(v) {
		if tags == nil {
			tags = map[string]string{}
		}
		tag := obj(element)
		tags[str(tag["tagKey"])] = str(tag["tagValue"])
	}
	return tags
}

// These four are the zero value for a v of another type.

func str(v any) string {
	s, _ := v.(string)
	return s
}

func num(v any) int {
	n, _ := v.(json.Number)
	i, err := n.Int64()
	if err != nil {
		return 0
	}
	return int(i)
}

func obj(v any) map[string]any {
	o, _ := v.(map[string]any)
	return o
}

func arr(v any) []any {
	a, _ := v.([]any)
	return a
}

func strs(v any) (list []string) {
	for _, element := range arr(v) {
		list = append(list, str(element))
	}
	return list
}
