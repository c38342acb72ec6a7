// Package conformance states what AWS does, as far as cmkeeper relies on it,
// in tests that run against any endpoint: localaws in process, moto,
// LocalStack, or an account.
//
// Where a server is known to differ, a named flag says so; there is none for
// localaws, which has to be like AWS.
package conformance

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// Target is a server to test.
type Target struct {
	// Config reaches the server; its credentials may do everything.
	Config aws.Config
	// PathStyle is for a server that does not know buckets by their host name.
	PathStyle bool
	// Account is the twelve-digit account that the credentials belong to.
	Account string
	// Deviations are how the server is known to differ from AWS.
	Deviations Deviations
}

// Deviations are known differences from AWS. The zero value is AWS.
type Deviations struct {
	KMSDeviations
	S3Deviations
	S3ControlDeviations
	SQSDeviations
	SNSDeviations
	EventBridgeDeviations
	CloudTrailDeviations
}

// Run tests the target. What it makes has unique names and is removed again,
// but for KMS keys, which take a week. It needs no cleaner server than one
// where nobody else uses these names.
func Run(t *testing.T, target Target) {
	for _, service := range []struct {
		name string
		run  func(*testing.T, Target)
		// waits is for a service whose tests mostly wait; they run together, at the end.
		waits bool
	}{
		{"STS", runSTS, false},
		{"SQS", runSQS, true},
		{"SNS", runSNS, true},
		{"EventBridge", runEventBridge, true},
		{"CloudTrail", runCloudTrail, false},
		{"KMS", runKMS, false},
		{"S3", runS3, false},
		{"S3Control", runS3Control, false},
	} {
		t.Run(service.name, func(t *testing.T) {
			if service.waits {
				t.Parallel()
			}
			service.run(t, target)
		})
	}
}
