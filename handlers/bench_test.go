package handlers_test

import (
	"context"
	"testing"

	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
)

// BenchmarkParseAndRoute is what every event costs before anything is read from
// AWS: most events of an account end there.
func BenchmarkParseAndRoute(b *testing.B) {
	bodies := map[string][]byte{
		"read-only": []byte(apiCall("Decrypt", `"readOnly":true`)),
		"no-op":     []byte(apiCall("TagResource", `"readOnly":false`)),
		"refused":   []byte(apiCall("DisableKeyRotation", `"readOnly":false,"errorCode":"AccessDenied","errorMessage":"not authorized"`)),
	}
	c := enforceAll()
	router, err := handlers.New(reaction.Deps{Alerts: &memorySink{}, Moves: &memoryMover{}}, c)
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	for name, body := range bodies {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := router.Handle(ctx, handlers.Message{Body: body}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// apiCall is the envelope and record of a call, of the size that they have.
func apiCall(name, more string) string {
	key := "arn:aws:kms:" + region + ":" + account + ":key/0d2a6c1e-93c1-4e7a-a0b5-7f52c3a1e9d4"
	return `{"version":"0","id":"f4b1c2d3-1111-2222-3333-444455556666","detail-type":"AWS API Call via CloudTrail","source":"aws.kms","account":"` + account + `","time":"2026-03-01T12:00:00Z","region":"` + region + `","resources":[],"detail":{` +
		`"eventVersion":"1.11","userIdentity":{"type":"AssumedRole","principalId":"AROAEXAMPLE:build","arn":"arn:aws:sts::` + account + `:assumed-role/build/build","accountId":"` + account + `","accessKeyId":"ASIAEXAMPLE","sessionContext":{"sessionIssuer":{"type":"Role","principalId":"AROAEXAMPLE","arn":"arn:aws:iam::` + account + `:role/build","accountId":"` + account + `","userName":"build"},"attributes":{"creationDate":"2026-03-01T11:00:00Z","mfaAuthenticated":"false"}}},` +
		`"eventTime":"2026-03-01T12:00:00Z","eventSource":"kms.amazonaws.com","eventName":"` + name + `","awsRegion":"` + region + `","sourceIPAddress":"192.0.2.10","userAgent":"aws-sdk-go-v2/1.47.7",` +
		`"requestParameters":{"keyId":"` + key + `"},"responseElements":null,"requestID":"9b2d4f60-aaaa-bbbb-cccc-111122223333","eventID":"5c7e9a1b-aaaa-bbbb-cccc-444455556666",` + more + `,` +
		`"resources":[{"accountId":"` + account + `","type":"AWS::KMS::Key","ARN":"` + key + `"}],"eventType":"AwsApiCall","managementEvent":true,"recipientAccountId":"` + account + `","eventCategory":"Management","tlsDetails":{"tlsVersion":"TLSv1.3","cipherSuite":"TLS_AES_256_GCM_SHA384","clientProvidedHostHeader":"kms.` + region + `.amazonaws.com"}}}`
}
