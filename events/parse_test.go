package events

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/arn"
)

const (
	account = "444455556666"
	region  = "eu-central-1"

	keyA   = "arn:aws:kms:eu-central-1:444455556666:key/0a1b2c3d-1111-4222-8333-9e8d7c6b5a40"
	keyB   = "arn:aws:kms:eu-central-1:444455556666:key/5f6e7d8c-4444-4555-9666-1a2b3c4d5e6f"
	keyBCN = "arn:aws-cn:kms:cn-north-1:444455556666:key/5f6e7d8c-4444-4555-9666-1a2b3c4d5e6f"
	keyM   = "arn:aws:kms:eu-central-1:444455556666:key/mrk-7c6b5a40998877665544332211ffeedd"
	keyMN  = "arn:aws:kms:eu-north-1:444455556666:key/mrk-7c6b5a40998877665544332211ffeedd"

	policy = `{"Version": "2012-10-17", "Id": "key-policy", "Statement": [{"Sid": "Root", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::444455556666:root"}, "Action": "kms:*", "Resource": "*"}]}`
)

var (
	material1 = strings.Repeat("a1", 32)
	material2 = strings.Repeat("b2", 32)
	grant1    = strings.Repeat("9", 64)
	grant2    = strings.Repeat("8", 64)
	when      = time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)
)

var operator = Actor{
	Type:        "AssumedRole",
	ARN:         "arn:aws:sts::444455556666:assumed-role/KeyOperators/bob",
	AccountID:   account,
	PrincipalID: "AROA4EXAMPLEOPERATOR:bob",
	Name:        "KeyOperators",
	Session:     "bob",
	RoleARN:     "arn:aws:iam::444455556666:role/platform/KeyOperators",
	AccessKeyID: "ASIA4EXAMPLEOPERATOR",
	MFA:         "true",
}

// call is a call by the operator, as fixture n has it.
func call(n int, name, key, alias string, d Detail) Event {
	return Event{
		ID:        fmt.Sprintf("e7e17000-0000-4000-8000-%012d", n),
		RecordID:  fmt.Sprintf("e7e17000-0000-4000-8000-%012d", n),
		RequestID: fmt.Sprintf("b5d1c0de-0000-4000-8000-%012d", n),
		Kind:      APICall,
		Name:      name,
		Source:    SourceKMS,
		Time:      when,
		Account:   account,
		Region:    region,
		KeyARN:    key,
		Alias:     alias,
		Actor:     operator,
		SourceIP:  "198.51.100.23",
		UserAgent: "aws-cli/2.31.0 md/awscrt#0.27.2 cfg/retry-mode#standard",
		Detail:    d,
	}
}

// service is something that AWS did, as fixture n has it.
func service(n int, kind Kind, name, key string, d Detail) Event {
	e := call(n, name, key, "", d)
	e.Kind = kind
	e.RequestID = ""
	e.Actor = Actor{AccountID: account, InvokedBy: "AWS Internal"}
	e.SourceIP, e.UserAgent = "AWS Internal", "AWS Internal"
	return e
}

// native is an event without CloudTrail, as fixture n has it.
func native(n int, kind Kind, name, source, key string, d Detail) Event {
	return Event{
		ID:      fmt.Sprintf("c0ffee00-0000-4000-8000-%012d", n),
		Kind:    kind,
		Name:    name,
		Source:  source,
		Time:    when,
		Account: account,
		Region:  region,
		KeyARN:  key,
		Detail:  d,
	}
}

func with(e Event, change func(*Event)) Event {
	change(&e)
	return e
}

var fixtures = map[string]Event{
	"cancel-key-deletion":         call(1, "CancelKeyDeletion", keyA, "", nil),
	"connect-custom-key-store":    call(2, "ConnectCustomKeyStore", "", "", KeyStore{ID: "cks-0fedcba9876543210", Name: "vault"}),
	"create-alias":                call(3, "CreateAlias", keyA, "alias/app/orders", AliasTarget{TargetKeyID: "0a1b2c3d-1111-4222-8333-9e8d7c6b5a40"}),
	"create-custom-key-store":     call(4, "CreateCustomKeyStore", "", "", KeyStore{ID: "cks-0fedcba9876543210", Name: "vault"}),
	"create-grant":                call(5, "CreateGrant", keyA, "", CreateGrant{GrantID: grant1, GranteePrincipal: "arn:aws:iam::444455556666:role/orders", RetiringPrincipal: "arn:aws:iam::444455556666:role/KeyOperators", Operations: []string{"Decrypt", "GenerateDataKey"}, Constrained: true}),
	"create-grant-service":        call(6, "CreateGrant", keyA, "", CreateGrant{GrantID: grant2, GranteeServicePrincipal: "backup.amazonaws.com", Operations: []string{"Decrypt"}}),
	"create-key":                  call(7, "CreateKey", keyM, "", CreateKey{Description: "orders, blue", Origin: "AWS_KMS", KeySpec: "SYMMETRIC_DEFAULT", KeyUsage: "ENCRYPT_DECRYPT", MultiRegion: true, Policy: policy, BypassPolicyLockoutSafetyCheck: true}),
	"delete-alias":                call(8, "DeleteAlias", keyA, "alias/app/orders", nil),
	"delete-custom-key-store":     call(9, "DeleteCustomKeyStore", "", "", KeyStore{ID: "cks-0fedcba9876543210"}),
	"delete-expired-key-material": service(10, ServiceEvent, "DeleteExpiredKeyMaterial", keyA, KeyMaterial{ID: material1}),

	"delete-imported-key-material": call(11, "DeleteImportedKeyMaterial", keyA, "", KeyMaterial{ID: material1}),
	"delete-key":                   service(12, ServiceEvent, "DeleteKey", keyA, nil),
	"describe-key":                 with(call(13, "DescribeKey", keyA, "alias/app/orders", nil), func(e *Event) { e.ReadOnly = true }),
	"disable-key":                  call(14, "DisableKey", keyA, "", nil),
	"disable-key-rotation":         call(15, "DisableKeyRotation", keyA, "", nil),
	"disable-key-rotation-denied": with(call(16, "DisableKeyRotation", "", "", nil), func(e *Event) {
		e.ErrorCode = "AccessDenied"
		e.ErrorMessage = "User: arn:aws:sts::444455556666:assumed-role/KeyOperators/bob is not authorized to perform: kms:DisableKeyRotation"
	}),
	"disconnect-custom-key-store": call(17, "DisconnectCustomKeyStore", "", "", KeyStore{ID: "cks-0fedcba9876543210"}),
	"enable-key":                  call(18, "EnableKey", keyA, "", nil),
	"enable-key-rotation":         call(19, "EnableKeyRotation", keyA, "", EnableKeyRotation{RotationPeriodInDays: 180}),
	"import-key-material":         call(20, "ImportKeyMaterial", keyA, "", ImportKeyMaterial{Expires: true, KeyMaterialID: material1}),
	"import-key-material-forever": call(21, "ImportKeyMaterial", keyA, "", ImportKeyMaterial{KeyMaterialID: material1}),

	"put-key-policy":                call(22, "PutKeyPolicy", keyA, "", PutKeyPolicy{PolicyName: "default", Policy: policy, BypassPolicyLockoutSafetyCheck: true}),
	"replicate-key":                 call(23, "ReplicateKey", keyM, "", ReplicateKey{ReplicaRegion: "eu-north-1", ReplicaKeyARN: keyMN, ReplicaPolicy: policy}),
	"retire-grant":                  call(24, "RetireGrant", keyA, "", GrantRemoval{GrantID: grant1}),
	"revoke-grant":                  call(25, "RevokeGrant", keyA, "", GrantRemoval{GrantID: grant1}),
	"rotate-key":                    service(26, ServiceEvent, "RotateKey", keyA, Rotation{Type: "AUTOMATIC", KeyOrigin: "AWS_KMS", PreviousKeyMaterialID: material1, CurrentKeyMaterialID: material2}),
	"rotate-key-on-demand":          call(27, "RotateKeyOnDemand", keyA, "", nil),
	"schedule-key-deletion":         call(28, "ScheduleKeyDeletion", keyA, "", ScheduleKeyDeletion{PendingWindowInDays: 7}),
	"schedule-key-deletion-primary": call(29, "ScheduleKeyDeletion", keyM, "", ScheduleKeyDeletion{}),
	"synchronize-multi-region-key":  service(30, APICall, "SynchronizeMultiRegionKey", keyM, nil),
	"tag-resource":                  call(31, "TagResource", keyA, "", TagResource{Tags: map[string]string{"team": "orders", "stage": "blue"}}),
	"untag-resource":                call(32, "UntagResource", keyA, "", UntagResource{TagKeys: []string{"team", "stage"}}),

	"update-alias": call(33, "UpdateAlias", keyB, "alias/app/orders", AliasTarget{TargetKeyID: "5f6e7d8c-4444-4555-9666-1a2b3c4d5e6f"}),
	"update-alias-denied": with(call(34, "UpdateAlias", keyB, "alias/app/orders", AliasTarget{TargetKeyID: "5f6e7d8c-4444-4555-9666-1a2b3c4d5e6f"}), func(e *Event) {
		e.ErrorCode, e.ErrorMessage = "AccessDenied", "no"
	}),
	"update-alias-china": with(call(35, "UpdateAlias", keyBCN, "alias/app/orders", AliasTarget{TargetKeyID: "5f6e7d8c-4444-4555-9666-1a2b3c4d5e6f"}), func(e *Event) {
		e.Region = "cn-north-1"
	}),
	"update-custom-key-store": call(36, "UpdateCustomKeyStore", "", "", KeyStore{ID: "cks-0fedcba9876543210"}),
	"update-key-description":  call(37, "UpdateKeyDescription", keyA, "", nil),
	"update-primary-region":   call(38, "UpdatePrimaryRegion", keyM, "", UpdatePrimaryRegion{PrimaryRegion: "eu-north-1"}),
	"update-primary-region-new": with(call(39, "UpdatePrimaryRegion", keyMN, "", UpdatePrimaryRegion{PrimaryRegion: "eu-north-1"}), func(e *Event) {
		e.Region = "eu-north-1"
		e.RequestID, e.SourceIP, e.UserAgent = "", "AWS Internal", "AWS Internal"
		e.Actor.InvokedBy = "kms.amazonaws.com"
	}),
	"decrypt-cross-account": with(call(40, "Decrypt", keyA, "", Use{}), func(e *Event) {
		e.ID = "5ba4ed00-0000-4000-8000-000000000001"
		e.RequestID, e.SourceIP, e.UserAgent = "", "AWS Internal", "AWS Internal"
		e.ReadOnly = true
		e.Actor = Actor{Type: "AWSAccount", AccountID: "777788889999", PrincipalID: "AROA7EXAMPLEVISITOR0:job"}
	}),

	"addendum": with(call(68, "DisableKey", keyA, "", nil), func(e *Event) { e.ID = "e7e17000-0000-4000-8000-000000000014" }), // of disable-key
	"re-encrypt-unusable": with(call(69, "ReEncrypt", keyB, "", Use{
		Key: "0a1b2c3d-1111-4222-8333-9e8d7c6b5a40", Context: map[string]string{"order": "7"},
		DestinationKey: "5f6e7d8c-4444-4555-9666-1a2b3c4d5e6f", DestinationContext: map[string]string{"aws:s3:arn": "arn:aws:s3:::orders/7"},
	}), func(e *Event) {
		e.OtherKeyARN, e.ReadOnly = keyA, true
		e.ErrorCode, e.ErrorMessage = "DisabledException", keyB+" is disabled."
	}),
	// Another account's VPC endpoint, through which our key was named.
	"network-activity": with(call(70, "DisableKey", "", "", nil), func(e *Event) { e.Account = "777788889999" }),
	// A bare id means a key of the caller's.
	"disable-key-of-the-caller": with(call(71, "DisableKey", "arn:aws:kms:eu-central-1:777788889999:key/0a1b2c3d-1111-4222-8333-9e8d7c6b5a40", "", nil), func(e *Event) {
		e.Actor = Actor{Type: "IAMUser", ARN: "arn:aws:iam::777788889999:user/visitor", AccountID: "777788889999", PrincipalID: "AIDA7EXAMPLE", Name: "visitor"}
	}),

	"native-rotation":     native(41, Native, NativeRotation, SourceNative, keyA, Rotation{Type: "ON_DEMAND", KeyOrigin: "AWS_KMS", PreviousKeyMaterialID: material1, CurrentKeyMaterialID: material2}),
	"native-expiry":       native(42, Native, NativeExpiry, SourceNative, keyA, KeyMaterial{ID: material1}),
	"native-deletion":     native(43, Native, NativeDeletion, SourceNative, keyA, nil),
	"scheduled-rule":      native(44, Scheduled, "Scheduled Event", "aws.events", "", Schedule{ARN: "arn:aws:events:eu-central-1:444455556666:rule/cmkeeper-sweep", Name: "cmkeeper-sweep"}),
	"scheduled-scheduler": native(45, Scheduled, "Scheduled Event", "aws.scheduler", "", Schedule{ARN: "arn:aws:scheduler:eu-central-1:444455556666:schedule/default/cmkeeper-sweep", Name: "cmkeeper-sweep"}),
	"other-service":       native(46, Native, "Object Created", "aws.s3", "", nil),
	"other-service-call":  with(call(47, "StopLogging", "", "", Trail{Name: "trail"}), func(e *Event) { e.Source = SourceCloudTrail }),

	"bare-record":     call(48, "DisableKey", keyA, "", nil),
	"records":         call(49, "DisableKey", keyA, "", nil),
	"sns-api-call":    call(50, "DisableKey", keyA, "", nil),
	"sns-native":      native(51, Native, NativeDeletion, SourceNative, keyA, nil),
	"sns-bare-record": call(52, "DisableKey", keyA, "", nil),

	"put-event-selectors": with(call(53, "PutEventSelectors", "", "", EventSelectors{Trail: "trail", Basic: []EventSelector{{ReadWriteType: "All", Management: true, ExcludedSources: []string{"kms.amazonaws.com"}}, {ReadWriteType: "All"}}}), func(e *Event) { e.Source = SourceCloudTrail }),
	"put-event-selectors-advanced": with(call(54, "PutEventSelectors", "", "", EventSelectors{Trail: "trail", Advanced: []AdvancedSelector{
		{{Field: "eventCategory", Operator: "equals", Values: []string{"Management"}}, {Field: "eventSource", Operator: "notEquals", Values: []string{"kms.amazonaws.com"}}},
		{{Field: "eventCategory", Operator: "equals", Values: []string{"Data"}}},
	}}), func(e *Event) { e.Source = SourceCloudTrail }),
	"delete-trail":               with(call(55, "DeleteTrail", "", "", Trail{Name: "arn:aws:cloudtrail:eu-central-1:444455556666:trail/trail"}), func(e *Event) { e.Source = SourceCloudTrail }),
	"put-rule":                   with(call(56, "PutRule", "", "", Rule{Name: "cmkeeper-kms", Bus: "default", State: "DISABLED", Pattern: `{"source":["aws.nothing"]}`}), func(e *Event) { e.Source = SourceEventBridge }),
	"remove-targets":             with(call(57, "RemoveTargets", "", "", Rule{Name: "cmkeeper-kms"}), func(e *Event) { e.Source = SourceEventBridge }),
	"set-queue-attributes":       with(call(58, "SetQueueAttributes", "", "", Queue{URL: "https://sqs.eu-central-1.amazonaws.com/444455556666/cmkeeper-events", Attributes: map[string]string{"MessageRetentionPeriod": "60", "Policy": ""}}), func(e *Event) { e.Source = SourceSQS }),
	"set-topic-attributes":       with(call(59, "SetTopicAttributes", "", "", Topic{ARN: "arn:aws:sns:eu-central-1:444455556666:cmkeeper-alerts", Attribute: "Policy"}), func(e *Event) { e.Source = SourceSNS }),
	"unsubscribe":                with(call(60, "Unsubscribe", "", "", Topic{ARN: "arn:aws:sns:eu-central-1:444455556666:cmkeeper-alerts", Subscription: "arn:aws:sns:eu-central-1:444455556666:cmkeeper-alerts:0d9c8b7a-1111-4222-8333-444455556666"}), func(e *Event) { e.Source = SourceSNS }),
	"put-bucket-encryption":      with(call(61, "PutBucketEncryption", "", "", BucketEncryption{Bucket: "orders", Algorithm: "aws:kms", Key: keyA}), func(e *Event) { e.Source = SourceS3 }),
	"put-bucket-encryption-list": with(call(62, "PutBucketEncryption", "", "", BucketEncryption{Bucket: "orders", Algorithm: "AES256"}), func(e *Event) { e.Source = SourceS3 }),
	"put-bucket-policy":          with(call(63, "PutBucketPolicy", "", "", BucketPolicy{Bucket: "orders"}), func(e *Event) { e.Source = SourceS3 }),
	"put-bucket-tagging":         with(call(67, "PutBucketTagging", "", "", BucketTags{Bucket: "orders"}), func(e *Event) { e.Source = SourceS3 }),
	"create-volume":              with(call(64, "CreateVolume", "", "", Volume{ID: "vol-0a1b2c3d4e5f60718", Encrypted: true, Key: keyA}), func(e *Event) { e.Source = SourceEC2 }),
	"create-db-instance":         with(call(65, "CreateDBInstance", "", "", Database{Name: "orders"}), func(e *Event) { e.Source = SourceRDS }),
	"create-db-cluster":          with(call(66, "CreateDBCluster", "", "", Database{Cluster: "orders", Encrypted: true, Key: keyA}), func(e *Event) { e.Source = SourceRDS }),
}

// fixtureFiles returns the bodies in testdata by their name without ".json".
func fixtureFiles(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	bodies := make(map[string][]byte, len(files))
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		bodies[strings.TrimSuffix(filepath.Base(file), ".json")] = body
	}
	return bodies
}

func TestParseFixtures(t *testing.T) {
	bodies := fixtureFiles(t)
	for name := range bodies {
		if _, ok := fixtures[name]; !ok {
			t.Errorf("testdata/%s.json has no row in the table", name)
		}
	}
	for name, want := range fixtures {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(bodies[name])
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("event (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	// record wraps the given fields of a record in an envelope that has everything.
	record := func(fields string) string {
		return `{"id":"1","detail-type":"AWS API Call via CloudTrail","source":"aws.kms","account":"444455556666","region":"eu-central-1","time":"2026-03-14T09:26:53Z","detail":{` + fields + `}}`
	}
	for _, test := range []struct{ name, body, want string }{
		{"empty", "", "decode message"},
		{"garbage", "not json", "decode message: invalid character"},
		{"truncated", `{"detail-type":"KMS CMK Deletion","source"`, "decode message: unexpected end"},
		{"null", "null", "message is no event"},
		{"array", "[]", "message is no event"},
		{"string", `"hello"`, "message is no event"},
		{"another product's message", `{"Service":"Amazon S3","Event":"s3:TestEvent"}`, "message is no event"},
		{"no records", `{"Records":[]}`, "message is no event"},
		{"two records", `{"Records":[{},{}]}`, "message holds 2 records"},
		{"records in records", `{"Records":[{"Records":[{}]}]}`, "message is no event"},
		{"subscription confirmation", `{"Type":"SubscriptionConfirmation","TopicArn":"arn:aws:sns:eu-central-1:444455556666:kms-events","Message":"…"}`, "SubscriptionConfirmation\" is no event"},
		{"notification of text", `{"Type":"Notification","TopicArn":"arn:aws:sns:eu-central-1:444455556666:kms-events","Message":"hello"}`, "open SNS notification: decode message"},
		{"notification in a notification", `{"Type":"Notification","TopicArn":"t","Message":"{\"Type\":\"Notification\",\"TopicArn\":\"t\",\"Message\":\"{}\"}"}`, "open SNS notification: message is no event"},
		{"no time", record(`"eventName":"DisableKey","eventSource":"kms.amazonaws.com"`), `eventTime "" is not an RFC 3339 time`},
		{"time of another form", record(`"eventName":"DisableKey","eventSource":"kms.amazonaws.com","eventTime":"Mar 14, 2026"`), `eventTime "Mar 14, 2026" is not an RFC 3339 time`},
		{"time as a number", record(`"eventName":"DisableKey","eventSource":"kms.amazonaws.com","eventTime":1773480413`), `eventTime "" is not an RFC 3339 time`},
		{"no name", record(`"eventSource":"kms.amazonaws.com","eventTime":"2026-03-14T09:26:53Z"`), "event has no name"},
		{"no detail", `{"id":"1","detail-type":"AWS API Call via CloudTrail","source":"aws.kms"}`, "eventTime"},
		{"native without id and Region", `{"detail-type":"KMS CMK Deletion","source":"aws.kms","time":"2026-03-14T09:26:53Z"}`, "event has no id, region, account"},
		{"native with a bad time", `{"id":"1","detail-type":"KMS CMK Deletion","source":"aws.kms","time":"yesterday"}`, `time "yesterday"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, err := Parse([]byte(test.body))
			if err == nil {
				t.Fatalf("parsed as %+v", e)
			}
			if !strings.HasPrefix(err.Error(), "events: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q does not say %q", err, test.want)
			}
			if diff := cmp.Diff(Event{}, e); diff != "" {
				t.Errorf("event beside the error:\n%s", diff)
			}
		})
	}
}

func TestParseErrorsAreShort(t *testing.T) {
	long := strings.Repeat("secret", 1000)
	for _, body := range []string{
		long,
		`{"x":"` + long,
		`{"Type":"` + long + `","TopicArn":"t"}`,
		`{"id":"1","detail-type":"x","time":"` + long + `"}`,
	} {
		if _, err := Parse([]byte(body)); err == nil || len(err.Error()) > 300 {
			t.Errorf("error for a body of %d bytes: %v", len(body), err)
		}
	}
}

func TestParseKey(t *testing.T) {
	parse := func(t *testing.T, region, fields string) Event {
		t.Helper()
		e, err := Parse([]byte(`{"eventName":"DisableKey","eventSource":"kms.amazonaws.com","eventID":"1","eventTime":"2026-03-14T09:26:53Z",` +
			`"awsRegion":"` + region + `","recipientAccountId":"444455556666",` + fields + `}`))
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	const gov = "us-gov-west-1"
	for _, test := range []struct{ name, region, fields, key, alias string }{
		{"answer before resources before request", region,
			`"responseElements":{"keyId":"arn:aws:kms:r:1:key/a"},"resources":[{"ARN":"arn:aws:kms:r:1:key/b"}],"requestParameters":{"keyId":"c"}`,
			"arn:aws:kms:r:1:key/a", ""},
		{"resources before request, aliases passed over", region,
			`"responseElements":{"keyId":"a"},"resources":[{"ARN":"arn:aws:kms:r:1:alias/x"},{"ARN":"arn:aws:iam::1:role/key/b"},{"ARN":"arn:aws:kms:r:1:key/b"}],"requestParameters":{"keyId":"c"}`,
			"arn:aws:kms:r:1:key/b", ""},
		{"ARN in the request", region, `"requestParameters":{"keyId":"arn:aws-us-gov:kms:us-gov-east-1:1:key/c"}`, "arn:aws-us-gov:kms:us-gov-east-1:1:key/c", ""},
		{"id in the request", gov, `"requestParameters":{"keyId":"c-1"}`, "arn:aws-us-gov:kms:us-gov-west-1:444455556666:key/c-1", ""},
		{"id in the answer only", region, `"responseElements":{"keyId":"c-1"}`, "arn:aws:kms:eu-central-1:444455556666:key/c-1", ""},
		{"alias name in the request", region, `"requestParameters":{"keyId":"alias/x"}`, "", "alias/x"},
		{"alias ARN in the request", region, `"requestParameters":{"keyId":"arn:aws:kms:r:1:alias/x/y"}`, "", "alias/x/y"},
		{"alias ARN as alias name", region, `"requestParameters":{"aliasName":"arn:aws:kms:r:1:alias/x"}`, "", "alias/x"},
		{"hidden by CloudTrail", region, `"requestParameters":{"keyId":"HIDDEN_DUE_TO_SECURITY_REASONS"}`, "", ""},
		{"path in an id", region, `"requestParameters":{"keyId":"arn:aws:kms:r:1:key/../x"}`, "", ""},
		{"two requests: the last one", region, `"requestParameters":{"keyId":"a","aliasName":"alias/a"},"requestParameters":{"keyId":"b"}`, "arn:aws:kms:eu-central-1:444455556666:key/b", ""},
		{"names in another case", region, `"requestParameters":{"keyid":"a","KEYID":"b","AliasName":"alias/x"},"Resources":[{"ARN":"arn:aws:kms:r:1:key/b"}]`, "", ""},
		{"a name with an escape", region, `"requestParameters":{"key\u0049d":"c"}`, "arn:aws:kms:eu-central-1:444455556666:key/c", ""},
		{"a Region that is none", "eu:1", `"requestParameters":{"keyId":"c"}`, "", ""},
		{"nothing", region, `"requestParameters":null,"responseElements":null,"resources":null`, "", ""},
		{"other types everywhere", region, `"requestParameters":["x"],"responseElements":"x","resources":{"ARN":5},"readOnly":"true","userIdentity":7`, "", ""},
		{"other types beside the key", region, `"requestParameters":{"bypassPolicyLockoutSafetyCheck":"yes","keyId":"c","tags":3}`, "arn:aws:kms:eu-central-1:444455556666:key/c", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := parse(t, test.region, test.fields)
			if e.KeyARN != test.key || e.Alias != test.alias {
				t.Errorf("key %q, alias %q; want %q, %q", e.KeyARN, e.Alias, test.key, test.alias)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	bodies := fixtureFiles(b)
	for _, name := range []string{"disable-key-rotation", "put-key-policy", "native-deletion", "sns-api-call"} {
		b.Run(name, func(b *testing.B) {
			body := bodies[name]
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestUseWith: of ReEncrypt's two contexts only that with the key, unless an alias hides which
// key it was.
func TestUseWith(t *testing.T) {
	source, destination := map[string]string{"a": "source"}, map[string]string{"a": "destination"}
	for _, tt := range []struct {
		key, destinationKey string
		want                []map[string]string
	}{
		{"", "", []map[string]string{source, destination}},
		{keyA, "", []map[string]string{source, destination}},
		{keyA, keyB, []map[string]string{source}},
		{arn.KeyID(keyB), keyA, []map[string]string{destination}},
		{arn.KeyID(keyA), "alias/b", []map[string]string{source, destination}},
		{keyB, keyB, nil},
	} {
		got := Use{Key: tt.key, Context: source, DestinationKey: tt.destinationKey, DestinationContext: destination}.With(keyA)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q, %q: %s", tt.key, tt.destinationKey, diff)
		}
	}
}
