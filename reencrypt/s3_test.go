package reencrypt

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
)

// TestNoAnswerMayGoAway breaks the connection: the SDK's error then has a status,
// which is 0.
func TestNoAnswerMayGoAway(t *testing.T) {
	w := newWorld(t)
	w.aws.SetFaults(localaws.Fault{Service: "s3", Effect: localaws.DropBefore})
	_, err := w.s3.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String(bucket), Key: aws.String("k")}, func(o *s3.Options) { o.Retryer = aws.NopRetryer{} })
	if got := classify(err); err == nil || got != faultTransient {
		t.Errorf("%v is fault %d", err, got)
	}
}
