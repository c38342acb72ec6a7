package cli

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/cmkeeper/cmkeeper/handlers/confirm"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

// TestLookupsAreCounted: no client repeats a look-up that failed, since the fleet's share
// of CloudTrail's quota would be exceeded just when others use up the rest.
func TestLookupsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := localaws.New(localaws.Options{})
		defer server.Close()
		server.SetFaults(localaws.Fault{Service: "cloudtrail", Effect: localaws.FailBefore})
		c, err := LoadConfig(t.Context(), environment("S3_PATH_STYLE", "true"))
		if err != nil {
			t.Fatal(err)
		}
		cfg := inprocess.Config(server, "us-east-1", "keeper")
		bucket := c.s3(cfg)
		if _, err := bucket.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &c.StateBucket}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		records := c.records(cfg, c.store(bucket, c.StateBucket, ""), nil)
		records.Record(confirm.Question{EventID: "01234567-89ab-cdef-0123-456789abcdef", Time: time.Now()})
		done := make(chan error)
		go func() { done <- records.Run(ctx) }()
		time.Sleep(5 * time.Second) // after which Records itself would try again
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := server.Requests("cloudtrail", "LookupEvents"); n != 1 {
			t.Errorf("%d requests for one look-up", n)
		}
	})
}
