package events

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// FuzzParse checks that Parse never panics, and that it loses nothing of what
// it understood: the event, written out again in the canonical form, parses to
// an equal event.
func FuzzParse(f *testing.F) {
	for _, body := range fixtureFiles(f) {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := Parse(body)
		if err != nil {
			if diff := cmp.Diff(Event{}, e); diff != "" {
				t.Fatalf("event beside the error %v:\n%s", err, diff)
			}
			return
		}
		again, err := Parse(encode(t, e))
		if err != nil {
			t.Fatalf("parse again: %v\n%s", err, encode(t, e))
		}
		if diff := cmp.Diff(e, again); diff != "" {
			t.Fatalf("event changed on its round trip (-first +second):\n%s", diff)
		}
		_ = e.Actor.String()
	})
}

// TestParseForms checks that an event is the same however it is packed.
func TestParseForms(t *testing.T) {
	for name, want := range fixtures {
		canonical := encode(t, want)
		forms := map[string][]byte{
			"envelope":            canonical,
			"envelope inside SNS": notification(t, canonical),
		}
		if want.Kind == APICall || want.Kind == ServiceEvent {
			var envelope struct {
				Detail json.RawMessage `json:"detail"`
			}
			if err := json.Unmarshal(canonical, &envelope); err != nil {
				t.Fatal(err)
			}
			forms["record"] = envelope.Detail
			forms["record inside SNS"] = notification(t, envelope.Detail)
			forms["one of Records"] = []byte(`{"Records":[` + string(envelope.Detail) + `]}`)
		}
		for form, body := range forms {
			t.Run(name+" as "+form, func(t *testing.T) {
				got, err := Parse(body)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("event (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func notification(t *testing.T, body []byte) []byte {
	return marshal(t, map[string]string{
		"Type":     "Notification",
		"TopicArn": "arn:aws:sns:eu-central-1:444455556666:kms-events",
		"Message":  string(body),
	})
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

type object map[string]any

// encode writes an event in an EventBridge envelope, the reverse of Parse.
func encode(t *testing.T, e Event) []byte {
	t.Helper()
	envelope := object{
		"id":          e.ID,
		"detail-type": e.Name,
		"source":      e.Source,
		"account":     e.Account,
		"region":      e.Region,
		"time":        e.Time.Format(time.RFC3339Nano),
	}
	if e.KeyARN != "" {
		envelope["resources"] = []string{e.KeyARN}
	}
	switch e.Kind {
	case Scheduled:
		if s, ok := e.Detail.(Schedule); ok {
			envelope["resources"] = []string{s.ARN}
		}
	case Native:
		switch d := e.Detail.(type) {
		case Rotation:
			envelope["detail"] = object{"rotation-type": d.Type, "key-origin": d.KeyOrigin, "previous-key-material-id": d.PreviousKeyMaterialID, "current-key-material-id": d.CurrentKeyMaterialID}
		case KeyMaterial:
			envelope["detail"] = object{"key-material-id": d.ID}
		}
	case APICall, ServiceEvent:
		envelope["detail-type"] = "AWS API Call via CloudTrail"
		envelope["source"] = SourceNative
		envelope["detail"] = encodeRecord(e)
	}
	return marshal(t, envelope)
}

func encodeRecord(e Event) object {
	eventType := "AwsApiCall"
	if e.Kind == ServiceEvent {
		eventType = "AwsServiceEvent"
	}
	request, response, details := encodeDetail(e.Detail)
	if e.Source == SourceKMS {
		request["aliasName"] = e.Alias
	}
	return object{
		"eventType":          eventType,
		"eventName":          e.Name,
		"eventSource":        e.Source,
		"eventTime":          e.Time.Format(time.RFC3339Nano),
		"eventID":            e.RecordID,
		"sharedEventID":      e.ID,
		"requestID":          e.RequestID,
		"awsRegion":          e.Region,
		"recipientAccountId": e.Account,
		"sourceIPAddress":    e.SourceIP,
		"userAgent":          e.UserAgent,
		"errorCode":          e.ErrorCode,
		"errorMessage":       e.ErrorMessage,
		"readOnly":           e.ReadOnly,
		"resources":          []object{{"ARN": e.KeyARN}, {"ARN": e.OtherKeyARN}},
		"userIdentity": object{
			"type":        e.Actor.Type,
			"principalId": e.Actor.PrincipalID,
			"arn":         e.Actor.ARN,
			"accountId":   e.Actor.AccountID,
			"accessKeyId": e.Actor.AccessKeyID,
			"userName":    e.Actor.Name,
			"invokedBy":   e.Actor.InvokedBy,
			"sessionContext": object{
				"sessionIssuer": object{"type": "Role", "arn": e.Actor.RoleARN},
				"attributes":    object{"mfaAuthenticated": e.Actor.MFA},
			},
		},
		"requestParameters":   request,
		"responseElements":    response,
		"serviceEventDetails": details,
	}
}

func encodeDetail(d Detail) (request, response, details object) {
	request, response, details = object{}, object{}, object{}
	switch d := d.(type) {
	case CreateKey:
		request = object{"description": d.Description, "origin": d.Origin, "keySpec": d.KeySpec, "keyUsage": d.KeyUsage, "multiRegion": d.MultiRegion, "customKeyStoreId": d.CustomKeyStoreID, "policy": d.Policy, "bypassPolicyLockoutSafetyCheck": d.BypassPolicyLockoutSafetyCheck}
	case ReplicateKey:
		request = object{"replicaRegion": d.ReplicaRegion, "bypassPolicyLockoutSafetyCheck": d.BypassPolicyLockoutSafetyCheck}
		response = object{"replicaKeyMetadata": object{"arn": d.ReplicaKeyARN}, "replicaPolicy": d.ReplicaPolicy}
	case UpdatePrimaryRegion:
		request = object{"primaryRegion": d.PrimaryRegion}
	case PutKeyPolicy:
		request = object{"policyName": d.PolicyName, "policy": d.Policy, "bypassPolicyLockoutSafetyCheck": d.BypassPolicyLockoutSafetyCheck}
	case ScheduleKeyDeletion:
		request = object{"pendingWindowInDays": d.PendingWindowInDays}
	case EnableKeyRotation:
		request = object{"rotationPeriodInDays": d.RotationPeriodInDays}
	case AliasTarget:
		request = object{"targetKeyId": d.TargetKeyID}
	case CreateGrant:
		request = object{"granteePrincipal": d.GranteePrincipal, "granteeServicePrincipal": d.GranteeServicePrincipal, "retiringPrincipal": d.RetiringPrincipal, "operations": d.Operations, "constraints": object{"sourceArn": map[bool]string{true: "arn"}[d.Constrained]}}
		response = object{"grantId": d.GrantID}
	case GrantRemoval:
		request = object{"grantId": d.GrantID}
	case ImportKeyMaterial:
		if !d.Expires {
			request = object{"expirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}
		}
		response = object{"keyMaterialId": d.KeyMaterialID}
	case KeyMaterial:
		details = object{"keyMaterialId": d.ID}
	case Rotation:
		details = object{"rotationType": d.Type, "keyOrigin": d.KeyOrigin, "previousKeyMaterialId": d.PreviousKeyMaterialID, "currentKeyMaterialId": d.CurrentKeyMaterialID}
	case TagResource:
		tags := []object{}
		for key, value := range d.Tags {
			tags = append(tags, object{"tagKey": key, "tagValue": value})
		}
		request = object{"tags": tags}
	case UntagResource:
		request = object{"tagKeys": d.TagKeys}
	case Use:
		request = object{"keyId": d.Key, "encryptionContext": d.Context, "destinationKeyId": d.DestinationKey, "destinationEncryptionContext": d.DestinationContext}
	case KeyStore:
		request = object{"customKeyStoreId": d.ID, "customKeyStoreName": d.Name}
	case Trail:
		request = object{"name": d.Name}
	case EventSelectors:
		basic, advanced := []object{}, []object{}
		for _, s := range d.Basic {
			basic = append(basic, object{"readWriteType": s.ReadWriteType, "includeManagementEvents": s.Management, "excludeManagementEventSources": s.ExcludedSources})
		}
		for _, s := range d.Advanced {
			fields := []object{}
			for _, f := range s {
				fields = append(fields, object{"field": f.Field, f.Operator: f.Values})
			}
			advanced = append(advanced, object{"fieldSelectors": fields})
		}
		request = object{"trailName": d.Trail, "eventSelectors": basic, "advancedEventSelectors": advanced}
	case Rule:
		request = object{"name": d.Name, "eventBusName": d.Bus, "state": d.State, "eventPattern": d.Pattern}
	case Queue:
		request = object{"queueUrl": d.URL, "attributes": d.Attributes}
	case Topic:
		request = object{"topicArn": d.ARN, "subscriptionArn": d.Subscription, "attributeName": d.Attribute}
	case BucketEncryption:
		request = object{"bucketName": d.Bucket, "ServerSideEncryptionConfiguration": object{"Rule": object{"ApplyServerSideEncryptionByDefault": object{"SSEAlgorithm": d.Algorithm, "KMSMasterKeyID": d.Key}}}}
	case BucketTags:
		request = object{"bucketName": d.Bucket}
	case BucketPolicy:
		request = object{"bucketName": d.Bucket}
	case Volume:
		response = object{"volumeId": d.ID, "encrypted": d.Encrypted, "kmsKeyId": d.Key}
	case Database:
		request = object{"dBInstanceIdentifier": d.Name, "dBClusterIdentifier": d.Cluster, "storageEncrypted": d.Encrypted, "kmsKeyId": d.Key}
	}
	return request, response, details
}
