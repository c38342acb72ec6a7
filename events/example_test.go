package events_test

import (
	"fmt"

	"github.com/cmkeeper/cmkeeper/events"
)

func ExampleParse() {
	e, err := events.Parse([]byte(`{
		"id": "7f3e1d52-0000-4000-8000-000000000001",
		"detail-type": "AWS API Call via CloudTrail",
		"source": "aws.kms",
		"account": "444455556666",
		"region": "eu-central-1",
		"time": "2026-03-14T09:26:53Z",
		"detail": {
			"eventID": "7f3e1d52-0000-4000-8000-000000000002",
			"eventName": "EnableKeyRotation",
			"eventSource": "kms.amazonaws.com",
			"eventTime": "2026-03-14T09:26:53Z",
			"eventType": "AwsApiCall",
			"awsRegion": "eu-central-1",
			"recipientAccountId": "444455556666",
			"userIdentity": {
				"type": "AssumedRole",
				"arn": "arn:aws:sts::444455556666:assumed-role/KeyOperators/bob"
			},
			"requestParameters": {"keyId": "0a1b2c3d-1111-4222-8333-9e8d7c6b5a40", "rotationPeriodInDays": 180}
		}
	}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(e.Actor)
	fmt.Println(e.Name, "of", e.KeyARN)
	if d, ok := e.Detail.(events.EnableKeyRotation); ok {
		fmt.Println("every", d.RotationPeriodInDays, "days")
	}
	// Output:
	// KeyOperators/bob (role session in 444455556666)
	// EnableKeyRotation of arn:aws:kms:eu-central-1:444455556666:key/0a1b2c3d-1111-4222-8333-9e8d7c6b5a40
	// every 180 days
}
